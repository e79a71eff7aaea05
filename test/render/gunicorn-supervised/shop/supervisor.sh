# django-shop-0042: written by django-formula for this release; later releases have their own.
# Supervisor runs this as root: it makes the server's folders, those in /run after each restart of the host, and continues
# as the site's user, with the environment of the release and nothing of supervisor's.
set -eu
run=/srv/django/shop/runtime/0042
starts=/run/django-shop-0042.starts

if [ "${1:-}" != "as shop" ]; then
    trap 'sleep 0.5' EXIT
    # The ready file of an earlier server does not count.
    rm -rf "$run/ready" 2>/dev/null || :
    # A second start follows a crash, so it waits. The engine reads from this file how often the program was started.
    [ ! -e "$starts" ] || sleep 0.5
    echo >>"$starts"
    install -d -o root -g root -m 0755 /run/django
    install -d -o root -g www-data -m 0751 /run/django/shop
    install -d -o shop -g shop -m 0750 "$run"
    exec /usr/bin/setpriv --reuid=shop --regid=shop --init-groups --no-new-privs --reset-env -- /bin/sh "$0" "as shop"
fi

# A server that outlived its supervisor still has the socket.
is_alive() { grep -qsz '^DJANGO_RELEASE=0042-3f2a9c1b77de$' "/proc/$pid/environ"; }
if [ -f "$run/pid" ] && read -r pid <"$run/pid" && is_alive; then
    kill "$pid" || :
    # By force after the time that supervisor itself has for it.
    waited=
    while is_alive; do
        [ "${#waited}" -lt 400 ] || kill -KILL "$pid" || :
        sleep 0.1
        waited=.$waited
    done
fi
# Files of an earlier server are deleted.
rm -rf "$run"/*
set -a
. /srv/django/shop/releases/0042-3f2a9c1b77de/config/environment
. /srv/django/shop/secrets/environment
set +a
exec /srv/django/shop/releases/0042-3f2a9c1b77de/virtualenv/bin/python -I /srv/django/shop/releases/0042-3f2a9c1b77de/config/django_formula_listen.py 127.0.0.1:8001 /srv/django/shop/releases/0042-3f2a9c1b77de/virtualenv/bin/gunicorn --config /srv/django/shop/releases/0042-3f2a9c1b77de/config/gunicorn.conf.py django_formula_gunicorn:application
