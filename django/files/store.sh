# {{ unit }}: written by django-formula. Supervisor runs this as root: it makes the folder in /run, which a restart of the
# host may have emptied, and continues as the user of the site's stores, whose group is the site's.
set -eu
[ ! -e /run/{{ unit }} ] || sleep 0.5
install -d -o {{ user }} -g {{ site.user }} -m 0750 /run/{{ unit }}
ulimit -n 4096 || :
exec {{ identity | join(' ') }} /bin/bash -c 'exec -a "$0" "$@"' {{ command[0] }} {{ program }} {{ command[1:] | join(' ') }}
