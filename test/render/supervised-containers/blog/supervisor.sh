# django-blog-0042: written by django-formula for this release; later releases have their own.
# Supervisor runs this as root: it makes the folders of the server or worker, those in /run after each restart, and becomes
# the program of the engine, which passes signals on to the container.
set -eu
run=/srv/django/blog/runtime/0042
starts=/run/django-blog-0042.starts
trap 'sleep 0.5' EXIT
# A container that outlived its supervisor is ended, and its folder is deleted.
/usr/bin/podman --events-backend=none rm --force --ignore --time=0 django-blog-0042 >/dev/null 2>&1 || :
rm -rf "$run"
# A second start follows a crash, so it waits. The engine reads from this file how often the program was started.
[ ! -e "$starts" ] || sleep 0.5
echo >>"$starts"
install -d -o root -g root -m 0755 /run/django
install -d -o root -g www-data -m 0751 /run/django/blog
install -d -o blog -g www-data -m 2750 /srv/django/blog/runtime/0042.sockets
install -d -o blog -g blog -m 0750 "$run"
exec /usr/bin/env PODMAN_IGNORE_CGROUPSV1_WARNING=1 DOCKER_BUILDKIT=1 /usr/bin/podman --events-backend=none run --name=django-blog-0042 --log-driver=none --rm --pull=never --network=host --read-only --cap-drop=ALL --security-opt=no-new-privileges --entrypoint= --cgroups=no-conmon --read-only-tmpfs=false --tmpfs=/dev/shm:rw,nosuid,nodev,noexec,mode=1777 --tmpfs=/tmp:rw,nosuid,nodev,mode=1777 --user=998:998 --workdir=/srv/django/blog/releases/0042-3f2a9c1b77de/source --env=HOME=/ --env=USER=blog --env=LOGNAME=blog --memory=512m --volume=/etc/group:/etc/group:ro --volume=/etc/passwd:/etc/passwd:ro --volume=/run/django:/run/django:ro --volume=/run/django-blog-queue:/run/django-blog-queue:ro --volume=/run/mysqld:/run/mysqld:ro --volume=/run/postgresql:/run/postgresql:ro --volume=/srv/django/blog/database:/srv/django/blog/database:rw --volume=/srv/django/blog/log:/srv/django/blog/log:rw --volume=/srv/django/blog/media:/srv/django/blog/media:rw --volume=/srv/django/blog/releases/0042-3f2a9c1b77de/config:/srv/django/blog/releases/0042-3f2a9c1b77de/config:ro --volume=/srv/django/blog/releases/0042-3f2a9c1b77de/static:/srv/django/blog/releases/0042-3f2a9c1b77de/static:ro --volume=/srv/django/blog/runtime/0042:/srv/django/blog/runtime/0042:rw --volume=/srv/django/blog/runtime/0042.sockets:/srv/django/blog/runtime/0042.sockets:rw --volume=/srv/django/blog/secrets:/srv/django/blog/secrets:ro --volume=/srv/django/blog/shared:/srv/django/blog/shared:rw --volume=/srv/django/blog/trusted:/srv/django/blog/trusted:ro localhost/django/blog:0042-3f2a9c1b77de /bin/sh -c 'umask 027; eval "$(export -p | while IFS= read -r one; do case $one in "export UWSGI_"*=*|"export GUNICORN_CMD_ARGS="*|"export GRANIAN_"*=*|"export UVICORN_"*=*) one=${one#export }; one=${one%%=*}; case $one in *[!A-Za-z0-9_]*) ;; *) echo "unset $one";; esac;; esac; done)"; set -a; while [ "$1" != -- ]; do . "$1"; shift; done; set +a; shift; exec "$@"' sh /srv/django/blog/releases/0042-3f2a9c1b77de/config/environment /srv/django/blog/secrets/environment -- /srv/django/blog/releases/0042-3f2a9c1b77de/virtualenv/bin/python -I /srv/django/blog/releases/0042-3f2a9c1b77de/config/django_formula_listen.py /srv/django/blog/runtime/0042.sockets/server.sock /srv/django/blog/releases/0042-3f2a9c1b77de/virtualenv/bin/gunicorn --config /srv/django/blog/releases/0042-3f2a9c1b77de/config/gunicorn.conf.py django_formula_gunicorn:application
