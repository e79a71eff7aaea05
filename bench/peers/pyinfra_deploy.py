"""A Django site by pyinfra, as its examples write it; rolling back deploys an older commit.

pyinfra @local pyinfra_deploy.py
"""

import json
from pathlib import Path

from pyinfra import host
from pyinfra.facts.files import Directory
from pyinfra.facts.server import Command
from pyinfra.operations import apt, files, git, pip, server, systemd

SITE = json.loads(Path("/srv/bench/peers/pyinfra.json").read_text())
NAME, ROOT, HERE = "pyinfra", "/srv/pyinfra", Path(__file__).parent
DJANGO = {"DJANGO_SETTINGS_MODULE": "production", "PYTHONPATH": f"{ROOT}/config"}
VALUES = {"site": SITE, "root": ROOT, "account": NAME}
PUBLIC = {**VALUES, "mode": "644"}

apt.packages(name="packages", packages=["git", "nginx", "python3-venv"])
server.user(name="user", user=NAME, system=True, home=ROOT, shell="/usr/sbin/nologin", ensure_home=False)
for folder in ("", "/config", "/database", "/media", "/static"):
    files.directory(name=f"folder {folder}", path=f"{ROOT}{folder}", user=NAME, group="www-data", mode="755")
if not host.get_fact(Directory, path=f"{ROOT}/source/.git"):  # of a commit that no branch has, git.repo knows nothing
    git.repo(name="source", src=SITE["repository"], dest=f"{ROOT}/source", pull=False)
checkout = f"git -C {ROOT}/source checkout --quiet --force {SITE['revision']}"
head = host.get_fact(Command, command=f"git -C {ROOT}/source rev-parse HEAD 2>/dev/null || true")
source = server.shell(
    name="commit",
    commands=[f"git -C {ROOT}/source fetch --quiet origin && {checkout}"],
    _if=lambda: head != SITE["revision"],
)
pip.venv(name="virtualenv", path=f"{ROOT}/virtualenv", python="python3")
packages = pip.packages(
    name="requirements",
    packages=[f"pyuwsgi=={SITE['pyuwsgi']}"],
    requirements=f"{ROOT}/source/requirements.txt",
    virtualenv=f"{ROOT}/virtualenv",
)
configured = [
    files.template(
        name="settings",
        src=f"{HERE}/files/production.py.jinja",
        dest=f"{ROOT}/config/production.py",
        user=NAME,
        mode="600",
        **VALUES,
    ),
    files.template(name="uwsgi.ini", src=f"{HERE}/files/uwsgi.ini", dest=f"{ROOT}/config/uwsgi.ini", **PUBLIC),
]
unit = files.template(
    name="unit", src=f"{HERE}/files/django.service", dest=f"/etc/systemd/system/{NAME}.service", **PUBLIC
)
for command in ("migrate", "collectstatic"):
    server.shell(
        name=command,
        commands=[f"cd {ROOT}/source && {ROOT}/virtualenv/bin/python manage.py {command} --noinput"],
        _su_user=NAME,
        _use_su_login=False,
        _su_shell="/bin/sh",
        _env=DJANGO,
        _if=source.did_change,
    )
systemd.service(name="service", service=NAME, enabled=True, daemon_reload=True, _if=unit.did_change)
systemd.service(
    name="restart",
    service=NAME,
    restarted=True,
    _if=lambda: any(one.did_change() for one in (source, packages, unit, *configured)),
)
proxy = [
    files.template(name="nginx", src=f"{HERE}/files/nginx.conf", dest=f"/etc/nginx/sites-available/{NAME}", **PUBLIC),
    files.link(name="link", path=f"/etc/nginx/sites-enabled/{NAME}", target=f"../sites-available/{NAME}"),
]
systemd.service(name="reload", service="nginx", reloaded=True, _if=lambda: any(one.did_change() for one in proxy))
