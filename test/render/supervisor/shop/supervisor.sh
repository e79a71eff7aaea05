# django-shop-0042: written by django-formula for this release; later releases have their own.
# Supervisor runs this as root: it makes the folders in /run, which a restart of the host may have emptied, and goes on as
# the site's user, with the environment of the release and nothing of supervisor's.
set -eu
run=/run/django-shop-0042

if [ "${1:-}" != "as shop" ]; then
    trap 'sleep 0.5' EXIT
    # That a server before this one was ready does not count.
    rm -rf "$run/ready" 2>/dev/null || :
    # A second start is one after a crash: not at once again. The file counts for whoever waits for the first.
    [ ! -e "$run.starts" ] || sleep 0.5
    echo >>"$run.starts"
    install -d -o root -g root -m 0755 /run/django
    install -d -o root -g www-data -m 0751 /run/django/shop
    install -d -o shop -g shop -m 0750 "$run"
    # Somebody may have moved the logs away; without their folder the server would not start.
    [ -d /srv/django/shop/log ] || install -d -o shop -g adm -m 0750 /srv/django/shop/log
    exec /usr/bin/setpriv --reuid=shop --regid=shop --init-groups --no-new-privs --reset-env -- /bin/sh "$0" "as shop"
fi

exec >>/srv/django/shop/log/0042.log 2>&1
# A server that has outlived its supervisor has to go: it has the socket.
is_alive() { grep -qsz '^DJANGO_RELEASE=0042-3f2a9c1b77de$' "/proc/$pid/environ"; }
if [ -f "$run/pid" ] && read -r pid <"$run/pid" && is_alive; then
    kill "$pid"
    while is_alive; do sleep 0.1; done
fi
# What a server before this one has left here is not in the way.
rm -rf "$run"/*
set -a
. /srv/django/shop/releases/0042-3f2a9c1b77de/config/environment
. /srv/django/shop/secrets/environment
set +a
exec /srv/django/shop/releases/0042-3f2a9c1b77de/virtualenv/bin/uwsgi --ini /srv/django/shop/releases/0042-3f2a9c1b77de/config/uwsgi.ini
