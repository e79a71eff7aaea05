# {{ unit }}: written by django-formula for this release; later releases have their own.
# Supervisor runs this as root: it makes the worker's folder, and continues as the site's user, with the environment of
# the release and nothing of supervisor's.
set -eu
run={{ run }}
starts=/run/{{ unit }}.starts

if [ "${1:-}" != "as {{ site.user }}" ]; then
    trap 'sleep 0.5' EXIT
    rm -rf "$run/ready" 2>/dev/null || :
    # A second start follows a crash, so it waits. The engine reads from this file how often the program was started.
    [ ! -e "$starts" ] || sleep 0.5
    echo >>"$starts"
    install -d -o {{ site.user }} -g {{ site.user }} -m 0750 "$run"
    exec {{ identity | join(' ') }} --reset-env -- /bin/sh "$0" "as {{ site.user }}"
fi

# A worker that outlived its supervisor takes nothing more, and finishes what it has in hand next to this one.
is_alive() { grep -qsz '^DJANGO_RELEASE={{ release.rpartition('/')[2] }}$' "/proc/$pid/environ"; }
if [ -f "$run/pid" ] && read -r pid <"$run/pid" && is_alive; then
    kill "$pid" || :
    waited=0
    while is_alive && [ "$waited" -lt 10 ]; do
        sleep 1
        waited=$((waited + 1))
    done
fi
rm -rf "$run"/*
set -a
. {{ release }}/config/environment
. {{ secrets }}/environment
{% if site.databases.values() | selectattr('pool', 'defined') | list %}
# The settings take PgBouncer's port; commands, which have a session, the database's own.
DJANGO_DATABASE_POOL=1
{% endif %}
set +a
cd {{ chdir }}
echo "$$" >"$run/pid"
exec {{ command | join(' ') }}
