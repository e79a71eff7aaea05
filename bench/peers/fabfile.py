"""A Django site by a Fabric script, as tutorials write it; rolling back deploys an older commit.

fab --hosts=localhost deploy
"""

import io
import json
from pathlib import Path

import jinja2
from fabric import task

SITE = json.loads(Path("/srv/bench/peers/fabric.json").read_text())
NAME, ROOT = "fabric", "/srv/fabric"
FILES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "files"), autoescape=False)


@task
def provision(c):
    """Once per host: user, folders, configuration, service."""
    c.run("apt-get -qq install --yes git nginx python3-venv")
    c.run(f"id -u {NAME} || useradd --system --home-dir {ROOT} --shell /usr/sbin/nologin {NAME}")
    c.run(f"install -d -o {NAME} -g www-data {ROOT} {ROOT}/config {ROOT}/database {ROOT}/media {ROOT}/static")
    c.run(f"test -d {ROOT}/source || git clone -q {SITE['repository']} {ROOT}/source")
    c.run(f"test -d {ROOT}/virtualenv || python3 -m venv {ROOT}/virtualenv")
    put(c, "production.py.jinja", f"{ROOT}/config/production.py")
    put(c, "uwsgi.ini", f"{ROOT}/config/uwsgi.ini")
    put(c, "django.service", f"/etc/systemd/system/{NAME}.service")
    if SITE.get("celery"):
        put(c, "celery.service", f"/etc/systemd/system/{NAME}-celery.service")
        c.run(f"systemctl daemon-reload && systemctl enable -q {NAME}-celery")
    put(c, "nginx.conf", f"/etc/nginx/sites-available/{NAME}")
    c.run(f"ln -sfn ../sites-available/{NAME} /etc/nginx/sites-enabled/{NAME}")
    deploy(c)
    c.run(f"systemctl daemon-reload && systemctl enable -q --now {NAME} && nginx -t -q && systemctl reload nginx")


@task
def deploy(c):
    """Every commit: source, packages, migrations, static files, restart."""
    with c.cd(f"{ROOT}/source"):
        c.run("git fetch -q")
        c.run(f"git reset -q --hard {SITE['revision']}")
        c.run(f"{ROOT}/virtualenv/bin/pip install -q -r requirements.txt pyuwsgi=={SITE['pyuwsgi']}")
        manage(c, "migrate --noinput")
        manage(c, "collectstatic --noinput")
    c.run(f"systemctl restart {NAME}")
    if SITE.get("celery"):
        c.run(f"systemctl restart {NAME}-celery")


def manage(c, command):
    environment = f"DJANGO_SETTINGS_MODULE=production PYTHONPATH={ROOT}/config"
    c.run(f"runuser -u {NAME} -- env {environment} {ROOT}/virtualenv/bin/python manage.py {command}")


def put(c, name, path):
    text = FILES.get_template(name).render(account=NAME, root=ROOT, site=SITE)
    c.put(io.StringIO(text), path)
