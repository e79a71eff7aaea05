# {{ unit }}: written by django-formula for this release; later releases have their own.
# Supervisor runs this as root: it makes the folders of the server or worker, those in /run after each restart, and becomes
# the program of the engine, which passes signals on to the container.
set -eu
run={{ run }}
starts=/run/{{ unit }}.starts
trap 'sleep 0.5' EXIT
# A container that outlived its supervisor is ended, and its folder is deleted.
{{ end }}
rm -rf "$run"
# A second start follows a crash, so it waits. The engine reads from this file how often the program was started.
[ ! -e "$starts" ] || sleep 0.5
echo >>"$starts"
{% if not worker %}
install -d -o root -g root -m 0755 {{ runtime.rpartition('/')[0] }}
install -d -o root -g {{ proxy_group }} -m 0751 {{ runtime }}
{% if own_folder %}
install -d -o {{ site.user }} -g {{ proxy_group }} -m 2750 {{ own_folder }}
{% endif %}
{% endif %}
install -d -o {{ site.user }} -g {{ site.user }} -m 0750 "$run"
exec {{ start }}
