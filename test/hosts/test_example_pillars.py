"""pillar.example and the pillars of examples/, each applied as it is, one after the other on one host.

Their repositories resolve to the host's own disk by the system's gitconfig; nothing else is arranged for them but the
project that each is about.
"""

import json
from pathlib import Path

import pytest
import yaml
from lab import MINION, ROOT, Host
from repository import Repository
from sites import Site

SITES = {
    name
    for path in (ROOT / "examples/pillars").glob("*.sls")
    for name in yaml.safe_load(path.read_text())["django"]["sites"]
}
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nbm90IGEga2V5\n-----END OPENSSH PRIVATE KEY-----\n"
VAULT = {
    "secret/members/deploy_key": KEY,
    "secret/members/secret_key": "of-the-vault-8d1f0c!%{}$HOME-and-fifty-characters-at-least",
    "secret/members/smtp_password": "hunter2",
    "secret/static/secret": "of-the-vault-static-2e91",
}
TWELVE_FACTORS = """
import os
from website.settings import *

DEBUG = os.environ.get("DEBUG", "true") == "true"
SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = os.environ["ALLOWED_HOSTS"].split(",")
STATIC_ROOT, MEDIA_ROOT = os.environ["STATIC_ROOT"], os.environ["MEDIA_ROOT"]
DATABASES["default"]["NAME"] = os.environ["DATABASE_PATH"]
SMTP_PASSWORD = open(os.environ["SMTP_PASSWORD_FILE"]).read()
"""
#: A project that reads a URL as dj-database-url does, of which this is what matters here.
BY_URL = """
import os
from urllib.parse import urlsplit
from website.settings import *

url = urlsplit(os.environ["DATABASE_URL"])
DEBUG = False
SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = os.environ["ALLOWED_HOSTS"].split(",")
STATIC_ROOT, MEDIA_ROOT = os.environ["STATIC_ROOT"], os.environ["MEDIA_ROOT"]
DATABASES["default"] = {"ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username}
DATABASES["default"] |= {"HOST": url.hostname, "PASSWORD": url.password}
"""


CELERY = """
import os
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "website.settings")
app = Celery("website")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""
TASKS = """
from celery import shared_task
from django.core.cache import cache

@shared_task
def greet(name):
    cache.set("greeted", name, None)
"""
#: A client that trusts the authority of the host.
BY_HTTPS = """
import ssl
from urllib.request import urlopen

authority = ssl.create_default_context(cafile="/var/lib/django-formula/authority/root.pem")
print(urlopen("https://intranet.example.org/release", context=authority).read().decode())
"""


@pytest.fixture(scope="module")
def host(module_hosts, repositories) -> Host:
    host = module_hosts(kind="ready")
    host.write("/etc/salt/minion", json.dumps(MINION | {"id": host.name, "vault": {"driver": "yaml", "files": ["/v"]}}))
    host.write("/v", json.dumps(VAULT), mode="0600")
    repository: Repository = repositories(host)
    repository.commit({"website/production.py": TWELVE_FACTORS, "website/served.py": BY_URL})
    repository.commit({"website/celery.py": CELERY, "guestbook/tasks.py": TASKS})
    for name in ("https://git.example.org/", "git@git.example.org:"):
        for project in ("blog", "website", "api", "members", "library", "shop"):
            rewritten = [f"url.{repository.url}.insteadOf", f"{name}{project}.git"]
            host.run(["git", "config", "--system", "--add", *rewritten])
    host.run(["cp", "-r", "/srv/formula/examples/project", "/srv/kiosk"])
    return host


def applied(host: Host, path: str, warned: list[str] | None = None) -> dict[str, Site]:
    """The sites of a pillar that was applied, and applied again without a change.

    Args:
        warned: takes the warnings; where it is not given there are none.
    """
    text = (ROOT / path).read_text()
    host.pillar(text)
    first = host.apply()
    warnings = [text for texts in first.warnings.values() for text in texts]
    assert first.ok and (warned is not None or not warnings), first
    if warned is not None:
        warned += warnings
    again = host.apply()
    assert again.ok and not again.changed, again
    django = yaml.safe_load(text)["django"]
    sites = {name: Site(host, name=name) for name in django["sites"]}
    for name, site in sites.items():
        site.options.update(django.get("defaults", {}) | django["sites"][name])
    return sites


def test_pillar_example_is_a_site_of_three_keys(host):
    blog = applied(host, "pillar.example")["blog"]
    assert "Guestbook" in blog.get().text and blog.answering["release"] == blog.live


def test_the_smallest_one_is_the_same_site(host):
    before = Site(host).live
    assert applied(host, "examples/pillars/minimal.sls")["blog"].live == before


@pytest.mark.full
def test_two_sites_share_a_domain_and_nothing_else(host):
    sites = applied(host, "examples/pillars/two-sites.sls")
    www, guestbook = sites["www"], sites["guestbook"]
    assert www.answering["release"] == www.live and guestbook.answering["release"] == guestbook.live
    assert 'href="/guestbook/static/' in guestbook.get("/").text
    assert www.get("/sign/").status_code == guestbook.get("/sign/").status_code == 200
    moved = host.http("/sign/", "example.org")
    assert (moved.status_code, moved.headers["Location"]) == (301, "http://www.example.org/sign/")
    zones = [
        site.manage("shell --command 'from django.conf import settings; print(settings.TIME_ZONE)'")
        for site in (www, guestbook)
    ]
    assert [zone.split()[-1] for zone in zones] == ["Asia/Shanghai", "UTC"]


@pytest.mark.full
def test_a_project_that_reads_its_environment_gets_it(host):
    api = applied(host, "examples/pillars/environment.sls")["api"]
    assert "Guestbook" in api.get().text and host.http("/", "api.example.net").status_code == 200
    seen = json.loads(
        api.manage(
            "shell --command 'import json, os; from django.conf import settings as s; print(json.dumps([s.DEBUG, "
            's.ALLOWED_HOSTS, str(s.DATABASES["default"]["NAME"]), os.environ["SITE_TITLE"], '
            'os.environ["SOURCE_COMMIT"], len(s.SMTP_PASSWORD), len(os.environ["SIGNING_KEY"])]))\''
        ).splitlines()[-1]
    )
    assert seen[:3] == [False, ["api.example.org", "api.example.net"], f"{api.root}/database/api.sqlite3"]
    assert seen[3:5] == ['Ray & Elspeth: 100% "quoted" $HOME', api.record()["commit"]]
    assert host.run(["test", "-s", f"{api.root}/database/api.sqlite3"])


@pytest.mark.full
def test_two_sites_have_their_databases_on_this_host(host):
    sites = applied(host, "examples/pillars/databases.sls")
    for name, site in sites.items():
        assert site.answering["release"] == site.live
        engine = "from django.db import connection as c; print(c.vendor, c.settings_dict['NAME'])"
        assert site.manage(f'shell -c "{engine}"').splitlines()[-1] == f"postgresql {name}"
    listed = host.run(["ls", f"{sites['library'].root}/secrets", f"{sites['archive'].root}/secrets"]).stdout
    assert listed.split().count("database.default") == 1


@pytest.mark.full
def test_a_folder_is_released_when_it_has_changed(host):
    kiosk = applied(host, "examples/pillars/folder.sls")["kiosk"]
    assert "Guestbook" in kiosk.get().text
    assert host.read(f"{kiosk.root}/current/source/website/robots.txt") == "User-agent: *\nDisallow: /\n"
    assert host.run(["stat", "--format=%U", f"{kiosk.root}/database/visitors.sqlite3"]).stdout == "screens\n"
    host.run('echo \'VERSION = "2.0"\nRELEASE_NOTE = ""\' > /srv/kiosk/guestbook/version.py')
    assert host.apply().ok and kiosk.answering["version"] == "2.0"


@pytest.mark.full
def test_a_site_by_https(host):
    intranet = applied(host, "examples/pillars/https.sls")["intranet"]
    moved = host.http("/sign/", "wiki.example.org")
    assert (moved.status_code, moved.headers["Location"]) == (301, "https://intranet.example.org/sign/")
    host.run("echo 127.0.0.1 intranet.example.org >>/etc/hosts")
    assert json.loads(host.run(["python3", "-c", BY_HTTPS]).stdout)["release"] == intranet.live
    assert "no issues" in intranet.manage("check --deploy")


@pytest.mark.full
def test_a_hardened_site_passes_the_checks_for_deployment(host):
    warned: list[str] = []
    members = applied(host, "examples/pillars/hardened.sls", warned)["members"]
    assert members.get("/healthz").text.strip() == "ok"
    assert members.get().headers["X-Content-Type-Options"] == "nosniff"
    assert "no issues" in members.manage("check --deploy")
    assert host.read(f"{members.root}/repository.git/deploy_key") == KEY
    assert host.read(f"{members.root}/secrets/SMTP_PASSWORD") == "hunter2"
    shown = host.run(["systemctl", "show", "--property=MemoryMax,TasksMax", f"{members.unit}.service"]).stdout
    assert set(shown.split()) == {f"MemoryMax={512 << 20}", "TasksMax=128"}
    # Whether the kernel enforces it depends on the lab; where it does not, a warning is required.
    group = host.run(["systemctl", "show", "--property=ControlGroup", "--value", f"{members.unit}.service"]).stdout
    files = [f"/sys/fs/cgroup/{path}" for path in ("memory{}/memory.limit_in_bytes", "{}/memory.max")]
    limits = host.run(["cat", *(file.format(group.strip()) for file in files)], check=False).stdout
    told = [text for text in warned if text.startswith("not in force on this host: MemoryMax, CPUQuota, TasksMax;")]
    assert warned == told and bool(told) is (str(512 << 20) not in limits)


@pytest.mark.full
def test_a_site_with_background_work(host):
    host.run("echo 127.0.0.1 minio.example.org >>/etc/hosts")
    host.write("/opt/s3_store.py", (Path(__file__).parent / "s3_store.py").read_bytes())
    store = ["9000", "static", "shop", VAULT["static-secret"], "/var/log/store"]
    host.run(["systemd-run", "--unit=minio", "--collect", "python3", "/opt/s3_store.py", *store])
    host.run("until (: </dev/tcp/127.0.0.1/9000) 2>/dev/null; do sleep 0.1; done", timeout=300)
    shop = applied(host, "examples/pillars/background.sls")["shop"]
    assert 'href="http://minio.example.org:9000/static/shop/guestbook/style.' in shop.get().text
    send = "from website.celery import app; from guestbook.tasks import greet; app.set_default(); greet.delay('Ray')"
    shop.manage(f'shell -c "{send}"')
    read = "shell -c \"from django.core.cache import cache; print(cache.get('greeted'))\""
    greeted = (shop.manage(read).splitlines()[-1] for _ in range(20))
    assert "Ray" in greeted  # which asks until it is
    host.call("django.run", "shop", "clearsessions")
    assert {"django-shop-queue.service", "django-shop-cache.service"} <= {*shop.units}


@pytest.mark.full
def test_all_examples_applied_to_one_host_serve(host):
    status = {row["site"]: row for row in host.call("django.status")}
    assert set(status) == SITES and all(row["running"] for row in status.values())
    assert [name for name, row in status.items() if row["managed"]] == ["shop"]
