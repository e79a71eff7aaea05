# {{ unit }}: written by django-formula for this release; later releases have their own.
# Supervisor runs this as root: it makes the server's folders, those in /run after each restart of the host, and continues
# as the site's user, with the environment of the release and nothing of supervisor's.
set -eu
run={{ run }}
starts=/run/{{ unit }}.starts

if [ "${1:-}" != "as {{ site.user }}" ]; then
    trap 'sleep 0.5' EXIT
    # The ready file of an earlier server does not count.
    rm -rf "$run/ready" 2>/dev/null || :
    # A second start follows a crash, so it waits. The engine reads from this file how often the program was started.
    [ ! -e "$starts" ] || sleep 0.5
    echo >>"$starts"
    install -d -o root -g root -m 0755 {{ runtime.rpartition('/')[0] }}
    install -d -o root -g {{ proxy_group }} -m 0751 {{ runtime }}
{% if own_folder %}
    install -d -o {{ site.user }} -g {{ proxy_group }} -m 2750 {{ own_folder }}
{% endif %}
    install -d -o {{ site.user }} -g {{ site.user }} -m 0750 "$run"
{% if writes_log %}
    # Without the folder of the logs, which may have been moved away, the server would not start.
    [ -d {{ log.rpartition('/')[0] }} ] || install -d -o {{ site.user }} -g adm -m 0750 {{ log.rpartition('/')[0] }}
{% endif %}
    exec {{ identity | join(' ') }} --reset-env -- /bin/sh "$0" "as {{ site.user }}"
fi

{% if writes_log %}
exec >>{{ log }} 2>&1
{% endif %}
# A server that outlived its supervisor still has the socket.
is_alive() { grep -qsz '^DJANGO_RELEASE={{ release.rpartition('/')[2] }}$' "/proc/$pid/environ"; }
if [ -f "$run/pid" ] && read -r pid <"$run/pid" && is_alive; then
    kill "$pid" || :
    # By force after the time that supervisor itself has for it.
    waited=
    while is_alive; do
        [ "{{ '${#waited}' }}" -lt {{ stop_timeout * 10 }} ] || kill -KILL "$pid" || :
        sleep 0.1
        waited=.$waited
    done
fi
# Files of an earlier server are deleted.
rm -rf "$run"/*
set -a
. {{ release }}/config/environment
. {{ secrets }}/environment
{% if site.databases.values() | selectattr('pool', 'defined') | list %}
# The settings take PgBouncer's port; commands, which have a session, the database's own.
DJANGO_DATABASE_POOL=1
{% endif %}
set +a
exec {% if not binds %}{{ release }}/virtualenv/bin/python -I {{ release }}/config/django_formula_listen.py {{ address }} {% endif %}{{ command | join(' ') }}
