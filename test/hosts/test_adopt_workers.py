"""A site with a worker of Celery and a crontab, as tutorials have them, is taken over while visitors queue tasks.

With systemd, and without it under supervisor, which would kill tasks of 2 s in hand after 1 s.
"""

import contextlib
import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from lab import Host
from old_sites import APT, old_site
from sites import Site

UNIT = """[Unit]
Description={name} of a shop

[Service]
User=www-data
WorkingDirectory=/opt/shop
ExecStart=/opt/shop/venv/bin/{command}
Restart=always

[Install]
WantedBy=multi-user.target
"""
PROGRAM = """[program:{name}]
command=/opt/shop/venv/bin/{command}
directory=/opt/shop
user=www-data
autorestart=true
stopasgroup=true
killasgroup=true
stopwaitsecs=1
"""
NGINX = """server {
    listen 80;
    server_name shop.example.org;
    location / {
        proxy_set_header Host $host;
        proxy_pass http://127.0.0.1:8001;
    }
}
"""
APP = """import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "website.settings")
app = Celery("website")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""
TASKS = """import os
import time

import redis
from celery import shared_task
from guestbook.models import Entry


@shared_task
def note(number):
    database = redis.Redis(db=1)
    database.rpush("begun", number)
    time.sleep(2)
    Entry.objects.create(name=f"task {number}", message="")  # the SQLite file is copied meanwhile
    database.rpush("ended", f"{number} {os.environ.get('DJANGO_SITE', 'old')}")
"""
VIEW = """+

def enqueue(request):
    from .tasks import note
    note.delay(request.GET["number"])
    return HttpResponse("ok")
"""
CRONTAB = """MAILTO=root
* * * * * www-data cd /opt/shop && venv/bin/python manage.py clearsessions >/dev/null
7 3 * * * root /usr/bin/true
"""


def wait(host: Host, is_so: Callable[[], bool], problem: str) -> None:
    """Wait for five minutes at most; a worker of Celery takes seconds to start, and longer on a busy machine."""
    deadline = time.monotonic() + 300
    while True:
        with contextlib.suppress(OSError):
            if is_so():
                return
        assert time.monotonic() < deadline, (problem, host.run("journalctl --no-pager -n 80").stdout)
        time.sleep(0.2)


def tasks(host: Host, word: str) -> list[str]:
    return host.run(["redis-cli", "-n", "1", "lrange", word, "0", "-1"]).stdout.splitlines()


class Systemd:
    """Units run the old site."""

    FILE, TEXT = "/etc/systemd/system/{}.service", UNIT
    WORKER = "shop-tasks.service"
    SERVICES = "systemctl start redis-server"
    START = "systemctl daemon-reload; systemctl enable --quiet --now shop shop-tasks"
    RELOAD = "systemctl reload nginx"
    RUNS = "systemctl is-active shop-tasks"
    PACKAGES = ""
    HOST: ClassVar[dict[str, Any]] = {}


class Supervisor:
    """Programs of supervisor run the old site, on a host without systemd."""

    FILE, TEXT = "/etc/supervisor/conf.d/{}.conf", PROGRAM
    WORKER = "shop-tasks"
    SERVICES = "service redis-server start; service cron start; service supervisor start; service nginx start"
    START = "supervisorctl update"
    RELOAD = "nginx -s reload"
    RUNS = "supervisorctl status shop-tasks | grep -q RUNNING && echo active"
    PACKAGES = " supervisor"
    HOST: ClassVar[dict[str, Any]] = {
        "init": False,
        "command": ("sh", "-c", "service supervisor start; service nginx start; exec sleep infinity"),
    }


@pytest.mark.full
@pytest.mark.parametrize("manager", [Systemd, Supervisor])
def test_worker_and_crontab_taken_over_and_given_back(hosts, repositories, manager):
    host = hosts("bookworm", kind="ready", **manager.HOST)
    repository = repositories(host)
    urls = repository.read("guestbook/urls.py")
    repository.commit(
        repository.amended(
            {
                "requirements.txt": "+celery[redis]==5.7.0\ngunicorn==23.0.0\n",
                "website/celery.py": APP,
                "website/__init__.py": "from .celery import app as celery_app\n",
                "website/settings.py": '+CELERY_BROKER_URL = "redis://localhost:6379/0"\n',
                "guestbook/tasks.py": TASKS,
                "guestbook/views.py": VIEW,
                "guestbook/urls.py": urls.replace("urlpatterns = [", 'urlpatterns = [path("enqueue", views.enqueue),'),
            }
        )
    )
    packages = f"git redis-server cron{manager.PACKAGES}"
    host.run(f"apt-get -qq update && apt-get -qq install --no-install-recommends {packages}", environment=APT)
    host.run("git config --system --add safe.directory '*'; rm -f /etc/nginx/sites-enabled/default")
    old_site(host, "/opt/shop", "/opt/shop/venv", "www-data")
    units = {"shop": "gunicorn --bind 127.0.0.1:8001 website.wsgi", "shop-tasks": "celery -A website worker -c 8"}
    for name, command in units.items():
        host.write(manager.FILE.format(name), manager.TEXT.format(name=name, command=command))
    host.write("/etc/nginx/sites-enabled/shop", NGINX)
    host.write("/etc/cron.d/shop", CRONTAB)
    host.run(f"{manager.SERVICES}; {manager.START}; nginx -t -q && {manager.RELOAD}")
    shop = Site(host, repository, "shop", adopt=True, queue={"engine": "redis", "host": "127.0.0.1"})

    def enqueue(number: int) -> bool:
        return host.http(f"/enqueue?number={number}", shop.domain).status_code == 200

    wait(host, lambda: enqueue(0), "the old site does not queue")
    wait(host, lambda: "0 old" in tasks(host, "ended"), "the old worker does not work")
    host.run(["redis-cli", "-n", "1", "flushdb"])

    told = shop.apply().failed["shop can be deployed"]
    assert f"{manager.WORKER} is a worker that the pillar does not have: set django:sites:shop:workers:" in told
    assert "/etc/cron.d/shop runs manage.py clearsessions, which the pillar does not: set" in told
    assert host.run(manager.RUNS).stdout == "active\n"

    sent: list[int] = []
    numbers, ended = itertools.count(1), threading.Event()

    def visit() -> None:
        while not ended.wait(0.4):
            if enqueue(number := next(numbers)):
                sent.append(number)

    visitor = threading.Thread(target=visit, daemon=True)
    visitor.start()
    schedules = {"clearsessions": {"command": "manage.py clearsessions", "at": "* * * * *"}}
    workers = {"default": {"kind": "celery", "app": "website", "processes": 8}}
    shop.deploy(workers=workers, schedules=schedules)
    wait(host, lambda: any(row.endswith(" shop") for row in tasks(host, "ended")), "the new worker does not work")
    ended.set()
    visitor.join()
    wait(host, lambda: len(tasks(host, "ended")) >= len(sent), f"{len(sent)} tasks do not end")
    ran = Counter(int(row.split()[0]) for row in tasks(host, "ended"))
    assert [number for number in sent if ran[number] != 1] == [], "none is lost or run twice"
    assert max(Counter(tasks(host, "begun")).values()) == 1

    assert not host.testinfra.file(manager.FILE.format("shop-tasks")).exists
    assert "/opt/shop/venv/bin/celery" not in host.run("ps -eo args").stdout
    assert host.read("/etc/cron.d/shop") == re.sub(r".*clearsessions.*\n", "", CRONTAB)
    assert [row["schedule"] for row in host.call("django.schedules", "shop", full=True)] == ["clearsessions"]
    assert not shop.apply().changed

    shop.deploy(state="absent")
    (aside,) = host.run(f"ls -d {shop.root}/adopted/*").stdout.split()
    host.run(f"cd {aside} && rm adoption.json && tar -c . | tar -x -C / --no-overwrite-dir")
    host.run(f"{manager.START}; nginx -t -q && {manager.RELOAD}")
    assert host.read("/etc/cron.d/shop") == CRONTAB
    began = host.run("touch /etc/cron.d /var/spool/cron/crontabs; date +%s").stdout.strip()  # as the docs have it
    wait(host, lambda: enqueue(next(numbers)), "the old site does not come back")
    wait(host, lambda: tasks(host, "ended")[-1].endswith(" old"), "its worker does not come back")
    if manager is Systemd:  # the other one has no log of cron
        ran = f"journalctl --quiet --since=@{began} --identifier=CRON --grep='cd /opt/shop'"
        wait(host, lambda: "clearsessions" in host.run(ran, check=False).stdout, "cron has not read its crontab again")
