# {{ unit }}: written by django-formula for this release; later releases have their own.
# Supervisor runs this as root: it makes the folders in /run, which a restart of the host may have emptied, and becomes
# the program of the engine, which passes signals on to the container.
set -eu
run=/run/{{ unit }}
trap 'sleep 0.5' EXIT
# A container that outlived its supervisor is ended, and what it had in /run is deleted.
{{ end }}
rm -rf "$run"
# A second start follows a crash, so it waits. The engine reads from this file how often the program was started.
[ ! -e "$run.starts" ] || sleep 0.5
echo >>"$run.starts"
{% if not worker %}
install -d -o root -g root -m 0755 {{ runtime.rpartition('/')[0] }}
install -d -o root -g {{ proxy_group }} -m 0751 {{ runtime }}
{% if own_folder %}
install -d -o {{ site.user }} -g {{ proxy_group }} -m 2750 {{ own_folder }}
{% endif %}
{% endif %}
install -d -o {{ site.user }} -g {{ site.user }} -m 0750 "$run"
exec {{ start }}
