"""Sites that were there before the formula: projects as tutorials leave them, with a row and an upload in each."""

import contextlib
import time
from collections.abc import Callable

from client import Writer
from lab import Host
from sites import Site

APT = {"DEBIAN_FRONTEND": "noninteractive"}
UV = "/usr/local/lib/django-formula/uv/bin/uv"


def old_site(host: Host, folder: str, virtualenv: str, owner: str, database: str = "db.sqlite3") -> None:
    """A project as a script of Fabric leaves it: code, virtualenv, static files, a database with a row, an upload."""
    settings = f"{folder}/website/settings.py"
    host.run(f"""set -e
        git clone --quiet /srv/git/project.git {folder}
        sed -i 's/^ALLOWED_HOSTS.*/ALLOWED_HOSTS = ["*"]/' {settings}
        sed -i 's|BASE_DIR / "db.sqlite3"|BASE_DIR / "{database}"|' {settings}
        mkdir -p {folder}/{database.rpartition("/")[0]}
        {UV} venv --quiet {virtualenv}
        {UV} pip install --quiet --python {virtualenv}/bin/python -r {folder}/requirements.txt gunicorn==23.0.0
        cd {folder}
        {virtualenv}/bin/python manage.py migrate --verbosity 0
        {virtualenv}/bin/python manage.py collectstatic --noinput --verbosity 0
        chown -R {owner}:{owner} {folder}
    """)


def sign_before(host: Host, domain: str, port: int = 80) -> None:
    writer = Writer(f"http://{host.address}:{port}", domain)
    until(lambda: writer.sign("before"), f"the old site {domain} does not come up")


def until(is_so: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + 300
    while True:
        with contextlib.suppress(OSError):
            if is_so():
                return
        assert time.monotonic() < deadline, problem
        time.sleep(0.2)


def entries(site: Site) -> list[str]:
    command = "shell -c \"from guestbook.models import Entry; print(*Entry.objects.values_list('name', flat=True))\""
    return str(site.manage(command)).splitlines()[-1].split()
