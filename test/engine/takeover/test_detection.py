"""Detection of an existing deployment, as cases: files and processes of a host, findings and refusals."""

import os
import pwd
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import quote

import pytest
from django_formula.host import ports, unix_sockets
from django_formula.host.commands import DeploymentError
from django_formula.takeover import detection, takeovers, worker
from django_formula.takeover import existing as takeover_existing
from django_formula.takeover import process as takeover_process
from django_formula.untrusted import delegate

SQLITE = b"SQLite format 3\0" + b"\0" * 84 + b"CREATE TABLE django_migrations"
PROXY = "server { listen 80; server_name %s; location / { proxy_pass http://%s; } }\n"
APACHE = {"kind": "apache"}
OWNER = pwd.getpwuid(os.getuid()).pw_name
UNIT = "[Service]\nWorkingDirectory=%s\nExecStart=%s/bin/gunicorn website.wsgi\n"


@pytest.fixture
def host(own_host, make_site, monkeypatch):
    """A host below a temporary folder."""
    monkeypatch.setattr(takeover_existing, "is_shared", lambda folder: len(folder.parts) <= len(own_host.parts) + 1)
    (own_host / "proc/net").mkdir(parents=True)
    (own_host / "proc/net/unix").write_text("header\n")

    def table(_states=None):
        raise PermissionError

    monkeypatch.setattr(unix_sockets, "_by_netlink", table)
    return Played(own_host, make_site)


class Played:
    def __init__(self, top: Path, make_site):
        self.top, self.make_site, self.pid = top, make_site, 100
        self.sockets: list[str] = []
        self.root = top / "srv/django/blog"

    def write(self, path: str, content: str | bytes = "x") -> Path:
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def nginx(self, text: str, name: str = "old") -> None:
        self.write(f"etc/nginx/sites-enabled/{name}", text)

    def run(self, folder: str, *argv: str, unit: str = "", listens: str = "") -> int:
        """A process; `listens` is the path of a socket or a port."""
        self.pid += 1
        proc = self.top / "proc" / str(self.pid)
        (proc / "fd").mkdir(parents=True)
        (proc / "cmdline").write_text("\0".join(argv) + "\0")
        (proc / "cgroup").write_text(f"0::/system.slice/{unit}\n" if unit else "0::/user.slice/session-1.scope\n")
        (proc / "cwd").symlink_to(self.top / folder)
        if listens:
            (proc / "fd/3").symlink_to(f"socket:[{self.pid}]")
            name = "unix" if listens.startswith("/") else "tcp"
            row = f"0000000000000000: 00000002 00000000 00010000 0001 01 {self.pid} {listens}"
            if name == "tcp":
                row = f"0: 0100007F:{int(listens):04X} 0:0 0A 0:0 0:0 0 0 0 {self.pid}"
            table = self.top / "proc/net" / name
            table.write_text((table.read_text() if table.exists() else "header\n") + row + "\n")
        return self.pid

    def site(self, **options):
        return self.make_site(folders=False, **options)

    def found(self, **options) -> list[str]:
        return [str(finding).replace(f"{self.top}/", "/") for finding in detection.find(self.site(**options)).findings]

    def refused(self, **options) -> list[str]:
        existing = detection.find(self.site(**options))
        return [reason.replace(f"{self.top}/", "/") for reason in existing.refusals]


def test_no_deployment_found_on_free_path(host, monkeypatch):
    """Nothing is looked at then but the root and nginx's files."""
    host.write("etc/systemd/system/other.service", UNIT % ("/opt/other", "/opt/other/venv"))
    host.nginx(PROXY % ("other.example.org", "127.0.0.1:8000"))
    host.run("opt/other", "/opt/other/venv/bin/gunicorn", listens="8000")
    (host.root / "lost+found").mkdir(parents=True)
    (host.root / "media").mkdir()
    monkeypatch.setattr(takeover_process, "processes", lambda: pytest.fail("the processes are looked at"))
    assert detection.check(host.site()) is None


ENTRIES = ["source", "virtualenv", "venv", "env", ".venv", "static", "staticfiles", "database", "media"]


@pytest.mark.parametrize("name", ENTRIES)
def test_folder_in_root_found(host, name):
    host.write(f"srv/django/blog/{name}/file")
    uploads = []
    assert host.found() == [f"folder /srv/django/blog/{name}", *uploads]


@pytest.mark.parametrize("name", ["manage.py", "db.sqlite3"])
def test_file_in_root_found(host, name):
    host.write(f"srv/django/blog/{name}")
    assert host.found() == [f"file /srv/django/blog/{name}"]


@pytest.mark.parametrize("sign", ["site.json", "deploys.jsonl", "secrets/secret_key.json", "secrets/.store_password"])
def test_own_folders_not_found(host, sign):
    """After a removal that kept the data, and where it was brought from another host."""
    site = host.make_site()
    host.write(f"srv/django/blog/{sign}", "{}")
    for folder in ("database", "media", "releases", "log"):
        host.write(f"srv/django/blog/{folder}/file")
    assert detection.find(site).findings == []
    assert len(detection.find(site, [str(site.database.top)]).findings) == 1, "but what is known to be another's"


@pytest.mark.parametrize("name", ["releases", "current", "shared", "templates", "log", "build"])
def test_refused_when_root_has_name_of_formula(host, name):
    host.write(f"srv/django/blog/{name}/file")
    (reason,) = host.refused()
    assert reason.startswith(f"/srv/django/blog/{name} has a name that the formula uses itself")


def test_project_in_root_moved_whole_without_data(host):
    for name in ("manage.py", "website/wsgi.py", ".env", "requirements.txt", "media/a", "lost+found/x"):
        host.write(f"srv/django/blog/{name}")
    existing = detection.find(host.site())
    assert [path.name for path in existing.entries] == [".env", "manage.py", "requirements.txt", "website"]


def test_unrelated_entry_of_root_stays(host):
    for name in ("source/manage.py", "notes.txt"):
        host.write(f"srv/django/blog/{name}")
    assert [path.name for path in detection.find(host.site()).entries] == ["source"]


# nginx


@pytest.mark.parametrize(
    ("name", "is_found"),
    [
        ("a.org blog.example.org", True),
        (".blog.example.org", True),
        ("other.example.org", False),
        ("*.example.org", False),
        ("_", False),
    ],
)
def test_nginx_file_found_by_domain(host, name, is_found):
    host.nginx(f"server {{ server_name {name}; }}")
    assert [line.split(" (")[0] for line in host.found()] == ["nginx file /etc/nginx/sites-enabled/old"] * is_found


def test_file_found_by_redirected_domain(host):
    host.write("etc/nginx/conf.d/old.conf", "server { server_name old.example.org; }")
    assert host.found() == []
    found = ["nginx file /etc/nginx/conf.d/old.conf (server_name old.example.org)"]
    assert host.found(redirect_domains=["old.example.org"]) == found


def test_refused_when_file_has_other_domain(host):
    host.nginx((PROXY % ("blog.example.org", "127.0.0.1:1")) + (PROXY % ("other.org", "127.0.0.1:2")))
    assert ["also serves other.org: add that" in reason for reason in host.refused()] == [True]
    assert detection.find(host.site()).addresses == ["127.0.0.1:1"]


# Apache

WSGI = """<VirtualHost *:80>
ServerName blog.example.org
Alias /media/ {top}/opt/shop/uploads/
WSGIDaemonProcess shop user={user} python-path={top}/opt/shop
WSGIProcessGroup shop
WSGIScriptAlias / {top}/opt/shop/website/wsgi.py
</VirtualHost>
"""


@pytest.fixture
def shop(host):
    """A project that Apache runs, by mod_wsgi."""
    host.write("opt/shop/manage.py")
    host.write("opt/shop/db.sqlite3", SQLITE)
    host.write("opt/shop/uploads/a")
    host.write("etc/apache2/sites-enabled/shop.conf", WSGI.format(top=host.top, user=OWNER))
    return host


def test_project_under_mod_wsgi_found(shop):
    told = "apache file /etc/apache2/sites-enabled/shop.conf (ServerName blog.example.org)"
    assert shop.found() == [], "which matters to a site of nginx only where Apache runs"
    assert shop.found(proxy=APACHE) == [told, "database /opt/shop/db.sqlite3", "uploads /opt/shop/uploads"]
    existing = detection.find(shop.site(proxy=APACHE))
    assert existing.refusals == [] and existing.wsgi_user == OWNER and existing.owner == (os.getuid(), os.getgid())
    assert existing.virtual_host_files == [shop.top / "etc/apache2/sites-enabled/shop.conf"]
    assert existing.databases == {shop.top / "opt/shop/db.sqlite3": shop.root / "database/db.sqlite3"}


def test_owner_taken_from_database_when_user_is_unknown(shop):
    shop.write("etc/apache2/sites-enabled/shop.conf", WSGI.format(top=shop.top, user="nobody-at-all"))
    assert detection.find(shop.site(proxy=APACHE)).owner == (os.getuid(), os.getgid()), "that of its database"


def test_refused_when_other_apache_file_names_existing_paths(shop):
    shop.write("etc/apache2/conf-enabled/wsgi.conf", f"WSGIPythonPath {shop.top}/opt/shop\n")
    (reason,) = shop.refused(proxy=APACHE)
    assert reason.startswith("/etc/apache2/conf-enabled/wsgi.conf names paths of the existing deployment too")


@pytest.mark.parametrize(
    ("kind", "other", "path", "text", "program"),
    [
        ("nginx", "apache", "apache2/sites-enabled/shop.conf", WSGI, "apache2/apache2.pid"),
        ("apache", "nginx", "nginx/conf.d/shop.conf", PROXY % ("blog.example.org", "127.0.0.1:1"), "nginx.pid"),
    ],
)
def test_refused_when_other_web_server_listens_on_port(host, monkeypatch, kind, other, path, text, program):
    host.write(f"etc/{path}", text)
    assert host.found(proxy={"kind": kind}) == [], "it does not run"
    monkeypatch.setattr(ports, "addresses", lambda pid: {("::", 80)})
    pid = host.run("", f"/usr/sbin/{other}2")
    host.write(f"run/{program}", str(pid))
    (reason,) = host.refused(proxy={"kind": kind})
    way = f"set django:sites:blog:proxy: {{kind: {other}}}"
    assert reason == f"/etc/{path} is a file of {other}, which listens on the port: {way}"
    assert len(host.found(proxy={"kind": kind})) == 1
    assert host.found(proxy={"kind": kind, "listen": [8080]}) == [], "it has another port"
    assert host.found(proxy={"kind": "none"}) == [], "then it is the way to the site"


def test_project_folder_not_taken_for_uploads(host):
    """All of it, settings among it, would be served."""
    text = WSGI.format(top=host.top, user=OWNER).replace("/opt/shop", "/opt/mediathek").replace("uploads", "static")
    host.write("opt/mediathek/manage.py")
    host.write("opt/mediathek/static/a")
    alias = f"Alias /media/all {host.top}/opt/mediathek\nWSGI"
    host.write("etc/apache2/sites-enabled/shop.conf", text.replace("WSGI", alias, 1))
    assert detection.find(host.site(proxy=APACHE)).media == [host.top / "opt/mediathek/static"]


def test_refused_when_project_folder_is_unknown(shop):
    (shop.top / "opt/shop/manage.py").unlink()
    (reason,) = shop.refused(proxy=APACHE)
    assert reason.startswith(
        "/etc/apache2/sites-enabled/shop.conf runs a project, and names no folder with a manage.py"
    )


def test_file_and_its_link_refused_once(host):
    file = host.write("etc/nginx/sites-available/old", "server { listen 8080; server_name blog.example.org; }")
    link = host.top / "etc/nginx/sites-enabled/old"
    link.parent.mkdir(parents=True)
    link.symlink_to("../sites-available/old")
    (reason,) = host.refused()
    assert reason.startswith("/etc/nginx/sites-available/old listens on 8080")
    assert detection.find(host.site()).virtual_host_files == [file, link]


# What restarts it


def test_gunicorn_behind_socket_found(host):
    """The site's own root, as a script of Fabric leaves it."""
    base = "srv/django/blog"
    for name in ("source/manage.py", "virtualenv/bin/gunicorn", "static/a.css"):
        host.write(f"{base}/{name}")
    host.write(f"{base}/database/db.sqlite3", SQLITE)
    host.nginx(PROXY % ("blog.example.org", "unix:/tmp/blog.socket"))
    unit = "gunicorn-blog.example.org.service"
    host.write(f"etc/systemd/system/{unit}", UNIT % (f"{host.root}/source", f"{host.root}/virtualenv"))
    gunicorn = f"{host.root}/virtualenv/bin/gunicorn"
    pid = host.run(f"{base}/source", gunicorn, "website.wsgi", unit=unit, listens="/tmp/blog.socket")
    assert host.found() == [
        "nginx file /etc/nginx/sites-enabled/old (server_name blog.example.org)",
        *(f"folder /{base}/{name}" for name in ("database", "source", "static", "virtualenv")),
        f"unit {unit} (/etc/systemd/system/{unit})",
        f"process {pid} (/{base}/virtualenv/bin/gunicorn)",
        f"database /{base}/database/db.sqlite3",
    ]
    existing = detection.find(host.site())
    assert existing.refusals == [] and existing.workers == []
    assert existing.databases == {host.root / "database/db.sqlite3": host.root / "database/db.sqlite3"}
    assert [path.name for path in existing.entries] == ["source", "static", "virtualenv"]
    assert existing.owner == (os.getuid(), os.getgid())


def test_project_in_other_folder_found_by_domain(host):
    """A program of supervisor in another folder: from nginx's file to its port, its process, its folder."""
    host.write("opt/shop/manage.py")
    host.write("opt/shop/db.sqlite3", SQLITE)
    host.write("opt/shop/media/a")
    host.nginx(PROXY % ("blog.example.org", "127.0.0.1:8001"))
    program = f"[program:shop]\ncommand={host.top}/opt/shop/venv/bin/gunicorn x\n[program:worker]\ncommand=%s\n"
    host.write("etc/supervisor/conf.d/shop.conf", program % f"{host.top}/opt/shop/venv/bin/celery worker")
    host.write("etc/supervisor/conf.d/other.conf", "[program:other]\ncommand=/opt/other/run")
    python = f"{host.top}/opt/shop/venv/bin/python"
    gunicorn = f"{host.top}/opt/shop/venv/bin/gunicorn"
    pid = host.run("opt/shop", python, gunicorn, "x", unit="supervisor.service", listens="8001")
    assert host.found() == [
        "nginx file /etc/nginx/sites-enabled/old (server_name blog.example.org)",
        "supervisor program shop, worker (/etc/supervisor/conf.d/shop.conf)",
        f"process {pid} (/opt/shop/venv/bin/gunicorn)",
        "database /opt/shop/db.sqlite3",
        "uploads /opt/shop/media",
    ]
    existing = detection.find(host.site())
    assert existing.refusals == [
        "worker is a worker that the pillar does not have: set django:sites:blog:workers: {worker: {kind: celery}}, "
        "or stop it and remove what starts it"
    ]
    assert existing.entries == [] and existing.replaced == {}
    assert (existing.program_names, existing.workers) == (["shop", "worker"], ["worker"])
    assert existing.databases == {host.top / "opt/shop/db.sqlite3": host.root / "database/db.sqlite3"}


def test_refused_when_other_site_runs_in_same_folders(host):
    host.write("opt/shop/manage.py")
    host.nginx(PROXY % ("blog.example.org", "127.0.0.1:8001"))
    host.nginx(PROXY % ("other.org", "127.0.0.1:8002"), "other")
    host.run("opt/shop", "/usr/bin/gunicorn", "a", listens="8001")
    host.run("opt/else", "/usr/bin/gunicorn", "b", listens="8002")
    assert host.refused() == []
    host.run("opt/shop", "/usr/bin/gunicorn", "b", listens="8002")
    assert [reason.partition(", and")[0] for reason in host.refused()] == [
        "the process that serves other.org at 127.0.0.1:8002 runs in the same folders"
    ]


def test_parent_folder_of_virtualenvs_not_taken(host):
    host.write("opt/shop/manage.py")
    host.nginx(PROXY % ("blog.example.org", "127.0.0.1:8001"))
    host.write("etc/systemd/system/other.service", UNIT % ("/opt/other", f"{host.top}/opt/venvs/other"))
    host.run("opt/shop", f"{host.top}/opt/venvs/shop/bin/gunicorn", "a", listens="8001")
    assert "unit" not in str(host.found())


def test_refused_when_supervisor_file_has_other_programs(host):
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/supervisor/conf.d/all.conf", f"[program:a]\ncommand={host.root}/x\n[program:b]\ncommand=/y\n")
    assert host.refused() == ["/etc/supervisor/conf.d/all.conf also runs b: move that to another file"]


@pytest.mark.parametrize("name", ["conf.d/shop.conf", "conf.d/groups.conf", "supervisord.conf"])
def test_refused_when_supervisor_has_a_program_in_a_group(host, name):
    """It is not stopped by its own name then, nor removed: its processes would run on."""
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/supervisor/conf.d/shop.conf", f"[program:shop]\ncommand={host.root}/env/bin/gunicorn x\n")
    text = "[program:other]\ncommand=/opt/run\n[group:others]\nprograms = other, another\n"
    host.write("etc/supervisor/conf.d/other.conf", text)
    assert host.refused() == []
    path = host.top / "etc/supervisor" / name
    before = path.read_text() if path.exists() else "[supervisord]\n"
    path.write_text(f"{before}[group:all] ; of ours\nprograms=mail, shop\npriority=1\n")
    assert host.refused() == [
        f"/etc/supervisor/{name} has shop in the group all, of which supervisor stops no program for good: "
        "remove it from the group, and run supervisorctl update, which restarts it"
    ]


@pytest.mark.parametrize(
    "command",
    [
        "{0}/env/bin/celery -A x worker -Q mail ; of the shop",
        "{0}/env/bin/celery\n    -A x worker\n    -Q mail\nautostart=true",
        "{0}/env/bin/celery -A x worker -n w@%%h -Q mail",
    ],
)
def test_command_of_a_program_read_as_supervisor_does(host, command):
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/supervisor/conf.d/a.conf", f"[program:job]\ncommand = {command.format(host.root)}\n")
    (reason,) = host.refused()
    assert "set django:sites:blog:workers: {job: {kind: celery, app: x, queues: [mail]}}, or stop it" in reason
    assert host.refused(workers={"mail": {"kind": "celery", "queues": ["mail"]}}) == []


@pytest.mark.parametrize("is_shared", [False, True])
def test_process_in_a_container_with_a_folder_of_the_same_name_is_not_of_the_project(host, is_shared):
    """It would be stopped with the old site."""
    host.write("srv/django/blog/source/manage.py")
    pid = host.run("srv/django/blog/source", f"{host.root}/env/bin/gunicorn", "website.wsgi")
    inside = host.top / "container" / str(host.root / "source").lstrip("/")
    inside.parent.mkdir(parents=True)
    if is_shared:
        inside.symlink_to(host.root / "source")
    else:
        inside.mkdir()
    (host.top / "proc" / str(pid) / "root").symlink_to(host.top / "container")
    assert [line.startswith("process ") for line in host.found() if line[:4] == "proc"] == [True] * is_shared
    assert len(takeover_process.unmanaged([host.root])) == is_shared


@pytest.mark.parametrize(
    ("program", "unit"),
    [("docker-proxy", "docker.service"), ("conmon", ""), ("rootlessport", ""), ("pasta.avx2", ""), ("slirp4netns", "")],
)
def test_container_refused_whose_data_would_be_left(host, program, unit):
    """Its database is in a volume or in another container, and the new site would begin with an empty one."""
    host.nginx(PROXY % ("blog.example.org", "127.0.0.1:8000"))
    pid = host.run("root", f"/usr/bin/{program}", "-host-port", "8000", unit=unit, listens="8000")
    assert host.refused(adopt=True) == [
        f"process {pid} (/usr/bin/{program}) passes requests on to a container, whose data is not taken over: save it, "
        "stop the container, and move /etc/nginx/sites-enabled/old away"
    ]


def test_runserver_in_background_found(host):
    host.write("srv/django/blog/manage.py")
    argv = [f"{host.root}/env/bin/python", "manage.py", "runserver", "8000"]
    first, second = host.run("srv/django/blog", *argv), host.run("srv/django/blog", *argv)
    for argv in (["/bin/bash"], ["vim", "manage.py"], ["SCREEN", "-dmS", "x", "python", "manage.py", "runserver"]):
        host.run("srv/django/blog", *argv)
    told = [f"process {pid} (manage.py runserver)" for pid in (first, second)]
    assert [line for line in host.found() if line.startswith("process")] == told
    assert host.refused() == []
    assert {process.pid for process in takeover_process.unmanaged([host.root])} == {first, second}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["/x/bin/gunicorn", "--env", "KEY=canary", "a.wsgi"], "/x/bin/gunicorn"),
        (["/x/bin/python3", "/x/bin/gunicorn", "a.wsgi"], "/x/bin/gunicorn"),
        (["gunicorn: master [a]"], "gunicorn:"),
        (["python", "manage.py", "runserver", "--key=canary"], "manage.py runserver"),
        (["python3.11", "-m", "gunicorn", "a.wsgi"], "python3.11"),
        (["uwsgi", "--ini", "x.ini"], "uwsgi"),
    ],
)
def test_process_shown_without_arguments(host, argv, told):
    host.write("srv/django/blog/manage.py")
    pid = host.run("srv/django/blog", *argv)
    assert f"process {pid} ({told})" in host.found() and "canary" not in str(host.found())


@pytest.mark.parametrize(("command", "is_at_work"), [("import_data", True), ("runserver", False), ("qcluster", False)])
def test_takeover_refused_while_management_command_runs(host, command, is_at_work):
    host.write("srv/django/blog/manage.py")
    pid = host.run("srv/django/blog", "python", "manage.py", command)
    reason = f"process {pid} (manage.py {command}) is still running: wait until it has ended"
    present = {"any": {"kind": "command", "command": "manage.py qcluster"}}
    assert host.refused(workers=present) == [reason] * is_at_work
    assert len(list(takeover_process.unmanaged([host.root]))) == 1 - is_at_work


def test_worker_in_background_reported(host):
    host.write("srv/django/blog/source/manage.py")
    pid = host.run("srv/django/blog/source", f"{host.root}/env/bin/celery", "worker")
    host.run("srv/django/blog/source", f"{host.root}/env/bin/gunicorn", "x")
    assert detection.find(host.site()).workers == [f"process {pid} ({host.root}/env/bin/celery)"]


WORKERS = [
    ("celery -A x worker", {"kind": "celery"}, ""),
    ("celery -A x worker -Q mail", {"kind": "celery"}, ""),
    ("celery -A x worker -Q mail", {"kind": "celery", "queues": ["mail", "other"]}, ""),
    ("celery -A x worker -Q mail,news -c 3", {"kind": "celery", "queues": ["mail"]},
     "{job: {kind: celery, app: x, queues: [mail, news], processes: 3}}"),
    ("celery -A x beat", {"kind": "celery_beat"}, ""),
    ("celery -A x beat", {"kind": "celery"}, "{beat: {kind: celery_beat, app: x}}"),
    ("/bin/sh -c '${CELERY_BIN} -A $CELERY_APP multi start w1 -Q mail --pidfile=/run/%n.pid'", {"kind": "celery"}, ""),
    ("python manage.py rqworker", {"kind": "huey"}, "{job: {kind: rq}}"),
    ("python manage.py follow --all", {"kind": "command", "command": "manage.py follow --all"}, ""),
    ("python manage.py follow --all", {"kind": "command", "command": "manage.py follow"},
     '{job: {kind: command, command: "manage.py follow --all"}}'),
    ("python manage.py say '{{ 1/0 }}'", {"kind": "rq"},
     r'''{job: {kind: command, command: "manage.py say '\x7B{ 1/0 \x7D}'"}}'''),
    ("/usr/bin/perl ./bot.pl", {"kind": "rq"}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("command", "configured", "missing"), WORKERS)
def test_worker_refused_unless_the_pillar_has_it(host, command, configured, missing):
    host.write("srv/django/blog/source/manage.py")
    host.write(
        "etc/systemd/system/job.service", f"[Service]\nWorkingDirectory={host.root}/source\nExecStart={command}\n"
    )
    present = f"job.service is a worker that the pillar does not have: set django:sites:blog:workers: {missing}, "
    expected = [f"{present}or stop it and remove what starts it"] if missing else []
    assert host.refused(workers={"some": configured}) == expected
    existing = detection.find(host.site(workers={"some": configured}))
    assert existing.workers == ["job.service"]
    assert existing.replaced == ({} if missing or "perl" in command else {"job.service": ""})


def test_queues_of_all_workers_count(host):
    host.write("srv/django/blog/source/manage.py")
    host.run("srv/django/blog/source", f"{host.root}/env/bin/celery", "worker", "-Q", "mail,news")
    of_each = {"a": {"kind": "celery", "queues": ["mail"]}, "b": {"kind": "celery", "queues": ["news"]}}
    assert host.refused(workers=of_each) == []
    (reason,) = host.refused(workers={"a": of_each["a"]})
    assert "workers: {celery: {kind: celery, queues: [mail, news]}}" in reason


def test_huey_gets_the_signal_on_which_it_finishes(host):
    host.write("srv/django/blog/source/manage.py")
    unit = f"[Service]\nWorkingDirectory={host.root}/source\nExecStart=python manage.py run_huey\n"
    host.write("etc/systemd/system/one.service", unit)
    host.write("etc/systemd/system/two.service", f"{unit}KillSignal=SIGHUP\n")
    existing = detection.find(host.site(workers={"huey": {"kind": "huey"}}))
    assert existing.replaced == {"one.service": "KillSignal=SIGINT", "two.service": ""}


def test_crontab_refused_unless_the_pillar_has_its_jobs(host):
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/cron.d/other", "* * * * * root /opt/other/run\n")
    row = f"0 3 * * * root {host.root}/env/bin/python manage.py clearsessions >/dev/null 2>&1\n"
    host.write("etc/cron.d/blog", f"# nightly\n{row}")
    assert host.found()[-1] == "crontab /etc/cron.d/blog"
    assert host.refused() == [
        "/etc/cron.d/blog runs manage.py clearsessions, which the pillar does not: set django:sites:blog:schedules: "
        '{clearsessions: {command: "manage.py clearsessions", at: "0 3 * * *"}}, or remove it there'
    ]
    schedules = {"any": {"command": "manage.py clearsessions", "at": "daily"}}
    assert host.refused(schedules=schedules) == []
    assert [path.name for path in detection.find(host.site()).crontabs] == ["blog"]
    host.write("var/spool/cron/crontabs/ray", f"@reboot {host.root}/env/bin/celery multi start\n")
    assert host.refused(schedules=schedules) == [
        "/var/spool/cron/crontabs/ray has lines with paths of the existing deployment that are no commands of "
        "manage.py: remove them first"
    ]


@pytest.mark.parametrize(
    ("path", "row"),
    [
        ("etc/crontab", "0 3 * * * root {} manage.py clearsessions"),
        ("etc/crontab", "0\t3 * * *\troot\t{} manage.py clearsessions"),
        ("etc/cron.d/blog", "0 3 * * *\twww-data\t{} manage.py clearsessions"),
        ("etc/cron.d/blog", "@daily root   {} manage.py clearsessions"),
        ("var/spool/cron/crontabs/ray", "0 3 * * *\t{} manage.py clearsessions"),
        ("var/spool/cron/crontabs/ray", "0 3 * * * cd ~/source && ~/env/bin/python manage.py clearsessions"),
        ("var/spool/cron/crontabs/ray", "0 3 * * * cd $HOME/source && ../env/bin/python manage.py clearsessions"),
        ("var/spool/cron/crontabs/ray", '@daily "${{HOME}}/env/bin/python" manage.py clearsessions >~/log'),
        ("etc/cron.d/blog", "@daily ray cd ~/source && ./manage.py clearsessions"),
    ],
)
def test_job_of_any_crontab_found(host, monkeypatch, path, row):
    monkeypatch.setattr(worker.users, "find_user", lambda name: Mock(pw_dir=str(host.root)) if name == "ray" else None)
    host.write("srv/django/blog/source/manage.py")
    host.write(
        path, f"17 * * * * root cd / && run-parts /etc/cron.hourly\n{row.format(f'{host.root}/env/bin/python')}\n"
    )
    (refusal,) = host.refused()
    assert refusal.startswith(f"/{path} runs manage.py clearsessions, which the pillar does not: set ")
    existing = detection.find(host.site(schedules={"any": {"command": "manage.py clearsessions", "at": "daily"}}))
    assert existing.refusals == [] and existing.crontabs == [host.top / path]


def test_script_of_cron_with_commands_of_the_project_refused(host):
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/cron.daily/logs", f"#!/bin/sh\nfind {host.root}/log -delete\n")
    host.write("etc/cron.daily/other", "#!/bin/sh\ncd /opt/other && ./manage.py clearsessions\n")
    assert host.refused() == []
    host.write("etc/cron.daily/blog", f"#!/bin/sh\ncd {host.root}/source\n../env/bin/python manage.py clearsessions\n")
    assert host.found()[-1] == "script of cron /etc/cron.daily/blog"
    assert host.refused() == [
        "/etc/cron.daily/blog runs manage.py of the existing deployment: have its commands in "
        "django:sites:blog:schedules, and remove it"
    ]


def test_damaged_line_of_a_crontab_has_no_home(host):
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/cron.d/blog", "0 3 * * * r\0ay ~/env/bin/python manage.py clearsessions\n")
    assert host.refused() == []


@pytest.mark.parametrize(
    ("time", "at"),
    [
        ("00 03 * * *", '"0 3 * * *"}}'),
        ("@midnight", "daily}}"),
        ("0 3 * * MON", "daily}}, with another time, since it does not take 0 3 * * MON"),
    ],
)
def test_time_of_a_job_is_proposed_as_the_pillar_takes_it(host, time, at):
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/cron.d/blog", f"{time} root {host.root}/env/bin/python manage.py clearsessions\n")
    (refusal,) = host.refused()
    assert refusal.endswith(f'{{clearsessions: {{command: "manage.py clearsessions", at: {at}, or remove it there')


def test_job_of_a_timer_refused_unless_the_pillar_has_it(host):
    host.write("srv/django/blog/source/manage.py")
    unit = f"[Service]\nType=oneshot\nExecStart={host.root}/env/bin/python {host.root}/source/manage.py digest\n"
    host.write("etc/systemd/system/digest.service", unit)
    host.write("etc/systemd/system/digest.timer", "[Timer]\nOnCalendar=Mon 06:00\n")
    assert host.refused() == [
        "digest.service runs manage.py digest, which the pillar does not: set django:sites:blog:schedules: "
        '{digest: {command: "manage.py digest", at: "Mon 06:00"}}, or remove it there'
    ]
    schedules = {"any": {"command": "manage.py digest", "at": "daily"}}
    existing = detection.find(host.site(schedules=schedules))
    assert existing.refusals == [] and existing.replaced == {"digest.service": ""}


def test_job_of_a_timer_that_counts_from_the_last_run_is_no_worker(host):
    host.write("srv/django/blog/source/manage.py")
    unit = f"[Service]\nType=oneshot\nExecStart={host.root}/env/bin/python {host.root}/source/manage.py digest\n"
    host.write("etc/systemd/system/digest.service", unit)
    host.write("etc/systemd/system/digest.timer", "[Timer]\nOnBootSec=5min\nOnUnitActiveSec = 1h\n")
    assert host.refused() == [
        "digest.service runs manage.py digest, which the pillar does not: set django:sites:blog:schedules: "
        '{digest: {command: "manage.py digest", at: daily}}, with another time, since it does not take '
        "OnUnitActiveSec = 1h, or remove it there"
    ]


def test_timer_and_socket_of_another_name_are_found(host):
    """One that is left starts a service that is not there any more."""
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/systemd/system/web.service", UNIT % (host.root, host.root))
    host.write("etc/systemd/system/blog.socket", "[Socket]\nListenStream=/run/blog.sock\nService=web.service\n")
    unit = f"[Service]\nType=oneshot\nExecStart={host.root}/env/bin/python {host.root}/source/manage.py digest\n"
    host.write("etc/systemd/system/digest.service", unit)
    host.write("etc/systemd/system/night.timer", "[Timer]\nOnCalendar=Mon 06:00\nUnit=digest.service\n")
    host.write("etc/systemd/system/other.timer", "[Timer]\nOnCalendar=daily\nUnit=another.service\n")
    existing = detection.find(host.site(schedules={"any": {"command": "manage.py digest", "at": "daily"}}))
    assert existing.refusals == [] and existing.timers.keys() == {"digest.service"}
    names = {path.name for path in existing.units}
    assert names == {"web.service", "blog.socket", "digest.service", "night.timer"}


def test_service_of_a_socket_of_another_name_found(host):
    host.write("opt/club/manage.py")
    host.nginx(PROXY % ("blog.example.org", "unix:/run/club.sock"))
    host.write("etc/systemd/system/club.socket", "[Socket]\nListenStream=/run/club.sock\nService=web.service\n")
    host.write("etc/systemd/system/web.service", "[Service]\nExecStart=/usr/bin/gunicorn website.wsgi\n")
    assert {path.name for path in detection.find(host.site()).units} == {"club.socket", "web.service"}


def test_lines_of_a_crontab_are_removed_and_kept_aside(tmp_path):
    crontab, aside = tmp_path / "ray", tmp_path / "aside"
    others = "# \f \u2028 0 0 * * *\nMAILTO=caf\udce9\n5 * * * * /opt/other/run\n".encode(errors="surrogateescape")
    crontab.write_bytes(others + b"0 3 * * * /opt/shop/env/bin/python /opt/shop/manage.py clearsessions\n")
    crontab.chmod(0o600)
    before = crontab.read_bytes()
    for _time in range(2):
        worker.remove_rows(crontab, [Path("/opt/shop")], aside)
        assert crontab.read_bytes() == others and aside.read_bytes() == before
        assert crontab.stat().st_mode & 0o777 == aside.stat().st_mode & 0o777 == 0o600


def test_crontab_of_a_user_who_is_gone_keeps_its_owner(tmp_path, monkeypatch):
    crontab = tmp_path / "ray"
    crontab.write_text("5 * * * * /opt/other/run\n0 3 * * * /opt/shop/env/bin/python /opt/shop/manage.py digest\n")
    os.chown(crontab, 60_123, 60_123)
    worker.remove_rows(crontab, [Path("/opt/shop")], tmp_path / "aside")
    assert crontab.read_text() == "5 * * * * /opt/other/run\n" and crontab.stat().st_uid == 60_123


@pytest.mark.parametrize("unit", ["ssh.service", "cron.service", "user@1000.service"])
def test_process_of_login_session_not_refused(host, unit):
    host.write("srv/django/blog/manage.py")
    host.run("srv/django/blog", "python3", "manage.py", "runserver", unit=unit)
    assert host.refused() == []


def test_units_ignored_without_systemd(host):
    (host.top / "run/systemd/system").rmdir()
    host.write("srv/django/blog/manage.py")
    pid = host.run("srv/django/blog", "/x/bin/gunicorn", "a", unit="docker.service")
    assert host.refused() == []
    assert [process.pid for process in takeover_process.unmanaged([host.root])] == [pid]


def test_unit_that_is_a_link_is_named(host):
    """As `systemctl link` makes it, often of a file of the project."""
    host.write("srv/django/blog/source/manage.py")
    unit = host.write("srv/django/blog/source/deploy/blog.service", UNIT % (host.root, host.root))
    (host.top / "etc/systemd/system/blog.service").symlink_to(unit)
    host.run("srv/django/blog/source", f"{host.root}/env/bin/gunicorn", "website.wsgi", unit="blog.service")
    assert host.refused() == [
        "/etc/systemd/system/blog.service, which runs the existing deployment, is a link to "
        "/srv/django/blog/source/deploy/blog.service: have a copy of that file in its place"
    ]


def test_refused_when_process_belongs_to_shared_unit(host):
    host.write("srv/django/blog/manage.py")
    host.write("etc/systemd/system/uwsgi.service", "[Service]\nExecStart=/usr/bin/uwsgi --emperor /etc/uwsgi/sites\n")
    pid = host.run("srv/django/blog", "/usr/bin/uwsgi", "--ini", "blog.ini", unit="uwsgi.service")
    assert host.refused() == [
        f"process {pid} is run by uwsgi.service, which also runs what is not this site's: remove it from there first"
    ]


INI = "[uwsgi]\n# chdir = %s\nchdir = %s\nmodule = website.wsgi\n"


@pytest.mark.parametrize("folder", ["uwsgi/apps-enabled", "uwsgi/vassals", "uwsgi-emperor/vassals"])
def test_uwsgi_file_found(host, folder):
    """Of Debian's own, which runs one for each file, or of an emperor."""
    host.write("opt/wiki/manage.py")
    host.nginx(PROXY % ("blog.example.org", "unix:/run/uwsgi/app/wiki/socket"))
    host.write("etc/uwsgi/apps-available/wiki.ini", INI % ("/opt/other", host.top / "opt/wiki"))
    (host.top / f"etc/{folder}").mkdir(parents=True)
    (host.top / f"etc/{folder}/wiki.ini").symlink_to(host.top / "etc/uwsgi/apps-available/wiki.ini")
    host.write(f"etc/{folder}/other.ini", INI % (host.top / "opt/wiki", "/opt/other"))
    host.write("etc/systemd/system/uwsgi.service", f"[Service]\nExecStart=/usr/bin/uwsgi --ini {host.top}/etc/e.ini\n")
    host.write("etc/e.ini", "[uwsgi]\nemperor = /etc/uwsgi/vassals\n")
    uwsgi = ["/usr/bin/uwsgi-core", "--ini", "wiki.ini"]
    pid = host.run("opt/wiki", *uwsgi, unit="uwsgi.service", listens="/run/uwsgi/app/wiki/socket")
    other = host.run("opt/other", *uwsgi, unit="uwsgi.service")
    assert host.found()[1:] == [
        "uWSGI file /etc/uwsgi/apps-available/wiki.ini",
        f"uWSGI file /etc/{folder}/wiki.ini",
        f"process {pid} (/usr/bin/uwsgi-core)",
    ]
    assert host.refused() == []
    existing = detection.find(host.site())
    assert existing.folders == [host.top / "opt/wiki"]
    assert (
        [one.pid for one in takeover_process.unmanaged(existing.folders, uwsgi_files=existing.uwsgi_files)]
        == [pid]
        != [other]
    )
    assert takeover_process.unmanaged(existing.folders) == []


@pytest.mark.parametrize("twin", [False, True])
def test_uwsgi_file_found_by_its_name(host, twin):
    """The file is an argument of its process; with two files of that name it is ambiguous."""
    host.write("opt/wiki/manage.py")
    host.nginx(PROXY % ("blog.example.org", "unix:/run/wiki.sock"))
    host.write("etc/uwsgi/sites/wiki.ini", "[uwsgi]\nchdir = /opt/%n\n")
    pid = host.run("opt/wiki", "uwsgi", "--ini", "wiki.ini", unit="uwsgi.service", listens="/run/wiki.sock")
    if twin:
        host.write("etc/uwsgi/others/wiki.ini", "[uwsgi]\nchdir = /srv/%n\n")
        (reason,) = host.refused()
        assert reason.startswith(f"process {pid} is run by uwsgi.service")
    else:
        assert host.found()[1] == "uWSGI file /etc/uwsgi/sites/wiki.ini" and host.refused() == []


def test_emperor_that_holds_sockets_refused(host):
    host.write("opt/wiki/manage.py")
    host.nginx(PROXY % ("blog.example.org", "unix:/run/wiki.sock"))
    file = host.write("etc/uwsgi/sites/wiki.ini", INI % ("/x", host.top / "opt/wiki"))
    on_demand = ["/usr/bin/uwsgi", "--emperor", str(file.parent), "--emperor-on-demand-directory", "/run"]
    host.run("opt/wiki", "/usr/bin/uwsgi", "--ini", "wiki.ini", unit="uwsgi.service")
    emperor = host.run("etc", *on_demand, unit="uwsgi.service", listens="/run/wiki.sock")
    assert [reason.partition(",")[0] for reason in host.refused()] == [f"process {emperor} is run by uwsgi.service"]
    loose = takeover_process.unmanaged([host.top / "opt/wiki"], ["/run/wiki.sock"], [file])
    assert emperor not in [process.pid for process in loose]


def test_process_of_another_server_refused(host):
    host.write("srv/django/blog/manage.py")
    file = host.write("etc/uwsgi/vassals/blog.ini", INI % ("/x", host.root))
    pid = host.run("srv/django/blog", "/usr/bin/gunicorn", "x", unit="club.service")
    assert [reason.partition(",")[0] for reason in host.refused()] == [f"process {pid} is run by club.service"]
    assert takeover_process.unmanaged([host.root], uwsgi_files=[file]) == []


def test_unit_found_by_socket(host):
    host.nginx(PROXY % ("blog.example.org", "unix:/run/gunicorn.sock"))
    host.write("etc/systemd/system/gunicorn.timer", "[Timer]\nOnCalendar=daily\n")
    host.write("etc/systemd/system/gunicorn.socket", "[Socket]\nListenStream=/run/gunicorn.sock\n")
    host.write("etc/systemd/system/gunicorn.service", UNIT % (host.top / "home/ray/club", "/usr"))
    host.write("home/ray/club/db.sqlite3", SQLITE)
    assert [line.split(" (")[0] for line in host.found()[1:]] == [
        "unit gunicorn.service",
        "unit gunicorn.socket",
        "unit gunicorn.timer",
        "database /home/ray/club/db.sqlite3",
    ]


def test_instances_of_a_template_refused(host):
    """systemd neither stops nor disables a template itself."""
    host.write("srv/django/blog/source/manage.py")
    unit = f"[Service]\nWorkingDirectory={host.root}/source\nExecStart={host.root}/env/bin/celery -A x worker -n %i\n"
    host.write("etc/systemd/system/celery@.service", unit)
    refusal = (
        "/etc/systemd/system/celery@.service is a template of units, whose instances are not taken over: have a unit "
        "of its own for each, or stop and disable them and remove it"
    )
    workers = {"any": {"kind": "celery"}}
    assert host.refused(workers=workers) == [refusal]
    host.run("srv/django/blog/source", f"{host.root}/env/bin/celery", "worker", unit="celery@mail.service")
    assert host.refused(workers=workers) == [refusal]
    assert detection.find(host.site(workers=workers)).units == []


def test_server_of_a_template_refused(host):
    host.nginx(PROXY % ("blog.example.org", "127.0.0.1:8001"))
    unit = "[Service]\nWorkingDirectory=/opt/%i\nExecStart=/opt/%i/env/bin/gunicorn x\n"
    host.write("etc/systemd/system/gunicorn@.service", unit)
    gunicorn = f"{host.top}/opt/shop/env/bin/gunicorn"
    host.run("opt/shop", gunicorn, "x", unit="gunicorn@shop.example.org.service", listens="8001")
    (refusal,) = host.refused()
    assert refusal.startswith("/etc/systemd/system/gunicorn@.service is a template of units")


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("ExecStart={root}/venv/bin/gunicorn", True),
        ("WorkingDirectory={root}", True),
        ("Environment=PATH={root}/venv/bin:/usr/bin", True),
        ("#ExecStart={root}/venv/bin/gunicorn", False),
        ("ExecStart={root}-other/bin/gunicorn", False),
        ("ExecStart=/mnt{root}/gunicorn", False),
    ],
)
def test_unit_found_by_paths_in_root(host, line, is_found):
    host.write("srv/django/blog/source/manage.py")
    host.write("etc/systemd/system/old.service", f"[Service]\n{line.format(root=host.root)}\n")
    host.write("etc/systemd/system/django-blog-0001.service", f"[Service]\nExecStart={host.root}/x\n")
    assert ("unit old.service (/etc/systemd/system/old.service)" in host.found()) is is_found
    assert "django-blog-0001" not in str(host.found())


def test_refused_when_required_port_is_taken(host):
    pid = host.run("opt/x", "/opt/x/bin/gunicorn", listens="8002")
    host.run("opt/y", "apache2", listens="80")
    assert host.found() == []
    options = {"server": {"bind": "127.0.0.1:8001"}}
    assert host.found(**options) == [f"port 8002 (process {pid}, /opt/x/bin/gunicorn)"]
    assert host.refused(**options)[0].endswith(f"process {pid} listens on it: set server:bind to another port")


# Data


def test_refused_when_database_is_ambiguous(host):
    for name in ("database/db.sqlite3", "source/db.sqlite3"):
        host.write(f"srv/django/blog/{name}", SQLITE)
    (reason,) = host.refused()
    assert "/srv/django/blog/database/db.sqlite3 and /srv/django/blog/source/db.sqlite3" in reason
    assert "move the unused files away" in reason


@pytest.mark.parametrize(
    ("options", "new"),
    [
        ({}, "srv/django/blog/database/site.db"),
        ({"database": {"engine": "sqlite", "name": "blog.sqlite3"}}, "srv/django/blog/database/blog.sqlite3"),
        ({"overlay": False}, None),
        ({"database": {"engine": "postgres", "name": "blog", "host": "db.example.org"}}, None),
        ({"overlay": False, "database": {"engine": "sqlite"}}, "srv/django/blog/database/site.db"),
    ],
)
def test_new_path_of_database(host, options, new):
    host.write("srv/django/blog/source/site.db", SQLITE)
    host.write("srv/django/blog/source/cache.db", b"SQLite format 3\0, but not Django's")
    databases = detection.find(host.site(**options)).databases
    assert databases == ({host.root / "source/site.db": host.top / new} if new else {})


def test_database_named_by_absolute_path_stays(host):
    path = host.write("var/lib/club/data/club.db", SQLITE)
    host.write("srv/django/blog/source/manage.py")
    site = host.site(database={"engine": "sqlite", "name": "/var/lib/club/data/club.db"})
    site.config["databases"]["default"]["name"] = str(path)
    assert detection.find(site).databases == {path: path}


@pytest.mark.parametrize(
    "name", ["{}", "file:{}?mode=rwc&cache=private", "file://{}", "file://localhost{}#x", "sqlite:///{}?timeout=20"]
)
def test_database_found_in_settings(host, name):
    path = host.write("var/lib/club/club of ours.db", SQLITE)
    shown = name.format(str(path) if name == "{}" else quote(str(path)))
    host.write("srv/django/blog/source/website/settings.py", f"DATABASES = {{'default': {{'NAME': '{shown}'}}}}")
    assert list(detection.find(host.site()).databases) == [path]


def test_uploads_found_by_nginx_location(host):
    host.write("srv/uploads/blog/a.png")
    folder = host.top / "srv/uploads/blog"
    location = f"location /media/ {{ alias {folder}/; }} location /static {{ root /opt; }}"
    host.nginx(f"server {{ server_name blog.example.org; {location} }}")
    assert detection.find(host.site()).media == [folder]
    nested = f"location /media/ {{ alias {folder}/; location ~ [.]php$ {{ deny all; }} }}"
    host.nginx(f"server {{ server_name blog.example.org; {nested} }}")
    assert detection.find(host.site()).media == [folder]


def test_refused_when_database_is_a_link(host):
    """The new site would begin with an empty one."""
    path = host.write("var/lib/club/blog.db", SQLITE)
    host.write("var/lib/club/cache.db", b"SQLite format 3\0, but not Django's")
    host.write("srv/django/blog/source/manage.py")
    for name in ("blog", "cache", "gone"):
        (host.root / f"source/{name}.db").symlink_to(host.top / f"var/lib/club/{name}.db")
    (reason,) = detection.find(host.site()).refusals
    cure = f"django:sites:blog:database: {{engine: sqlite, name: {path}}}"
    assert reason == (
        f"{host.root}/source/blog.db is a link to the database {path}, and no link is followed: "
        f"set {cure}, or have the file itself there"
    )
    site = host.site(database={"engine": "sqlite", "name": "/var/lib/club/blog.db"})
    site.config["databases"]["default"]["name"] = str(path)
    existing = detection.find(site)
    assert existing.refusals == [] and existing.databases == {path: path}
    assert host.refused(overlay=False) == [] == host.refused(database={"engine": "postgres", "host": "db1"})


def test_refused_when_folder_of_uploads_is_a_link(host):
    """They would be missing in the new site."""
    host.write("mnt/disk/blog/a.png")
    folder, link = host.top / "mnt/disk/blog", host.top / "opt/blog/media"
    host.write("opt/blog/manage.py")
    link.symlink_to(folder)
    (host.top / "opt/blog/uploads").symlink_to(host.top / "mnt/gone")
    server = "server {{ listen 80; server_name blog.example.org; location /media/ {{ alias {}/; }} {} }}"
    other = f"location /uploads/ {{ alias {host.top}/opt/blog/uploads/; }}"
    host.nginx(server.format(link, other))
    existing = detection.find(host.site())
    assert existing.media == [] and existing.refusals == [
        f"{link} is a link to uploads in {folder}, and no link is followed: "
        "name that folder in the file of the web server, or have the uploads themselves there"
    ]
    host.nginx(server.format(folder, other))
    host.run("opt/blog", "/opt/blog/venv/bin/gunicorn")
    existing = detection.find(host.site())
    assert existing.media == [folder] and existing.refusals == []


@pytest.mark.parametrize(
    ("directive", "refuses"),
    [("ssl_verify_client on;", True), ("ssl_verify_client optional;", True), ("ssl_verify_client off;", False)],
)
def test_certificates_of_clients_are_asked_for_by_the_new_site_too(host, directive, refuses):
    host.write("opt/blog/manage.py")
    host.nginx(f"server {{ listen 80; server_name blog.example.org;\n {directive} proxy_pass http://127.0.0.1:8000; }}")
    host.run("opt/blog", "/opt/blog/venv/bin/gunicorn", listens="8000")
    texts = detection.find(host.site(adopt=True)).refusals
    assert [text for text in texts if "asks clients for a certificate" in text] == [
        f"{host.top}/etc/nginx/sites-enabled/old asks clients for a certificate ({directive.strip(';')}): set "
        "django:sites:blog:tls:client_ca"
    ] * refuses


# The application server


@pytest.mark.parametrize(
    ("argv", "old"),
    [
        (["/opt/blog/venv/bin/gunicorn", "website.wsgi"], "gunicorn"),
        (["/usr/bin/uwsgi-core", "--ini", "x"], "uwsgi"),
        (["/opt/blog/venv/bin/python", "-m", "uvicorn", "website.asgi"], "uvicorn"),
        (["/opt/blog/venv/bin/hypercorn", "website.asgi"], "hypercorn"),
        (["/opt/blog/venv/bin/waitress-serve", "website.wsgi:application"], "waitress"),
        (["/usr/bin/python3", "manage.py", "runserver"], "runserver"),
    ],
)
@pytest.mark.parametrize("new", ["uwsgi", "gunicorn"])
def test_another_application_server_is_a_warning(host, argv, old, new):
    host.write("opt/blog/manage.py")
    host.nginx(PROXY % ("blog.example.org", "127.0.0.1:8000"))
    host.run("opt/blog", *argv, listens="8000")
    site = host.site(adopt=True, server={"kind": new})
    assert detection.find(site).server == old
    warnings = takeovers.pending(site).warnings()
    begin = f"the existing deployment runs in {old}, and the new release runs in {new}: "
    ways = {
        "hypercorn": "the formula has uwsgi, gunicorn",
        "waitress": "the formula has uwsgi, gunicorn",
    }
    if old in (new, "runserver"):
        assert warnings == []
    else:
        (warning,) = warnings
        assert warning.startswith(begin + ways.get(old, f"django:sites:blog:server:kind: {old} keeps it"))


# Messages


def test_refused_without_adopt_and_lists_findings(host):
    host.write("srv/django/blog/source/manage.py")
    with pytest.raises(DeploymentError) as error:
        detection.check(host.site())
    assert (
        error.value.message
        == f"an existing deployment was found where blog would be deployed:\n  folder {host.root}/source"
    )
    assert error.value.hint == (
        "django:sites:blog:adopt: true takes it over and moves it aside; "
        "or set django:sites:blog:root to another folder, or remove it"
    )


def test_takeover_refused_only_with_refusals(host):
    host.write("srv/django/blog/source/manage.py")
    assert detection.check(host.site(adopt=True)).entries == [host.root / "source"]
    host.write("srv/django/blog/releases/1/manage.py")
    with pytest.raises(DeploymentError) as error:
        detection.check(host.site(adopt=True))
    assert error.value.message.startswith("the existing deployment of blog cannot be taken over as it is:\n  ")


@pytest.mark.parametrize("may_its_user", [True, False])
def test_process_that_root_cannot_read_is_read_as_its_user(host, monkeypatch, may_its_user):
    """As in a container without CAP_SYS_PTRACE."""
    host.write("opt/blog/manage.py")
    host.nginx(PROXY % ("blog.example.org", "127.0.0.1:8000"))
    pid = host.run("opt/blog", "/opt/blog/venv/bin/gunicorn", listens="8000")
    os.chown(host.top / f"proc/{pid}", os.getuid() or 65534, -1)
    readlink, asked = os.readlink, []

    def refused(path, *arguments, **options):
        if str(path) == str(host.top / f"proc/{pid}/cwd"):
            raise PermissionError(13, "Permission denied")
        return readlink(path, *arguments, **options)

    def ask(user, function, *arguments, **_options):
        asked.append(user)
        if not may_its_user:
            raise PermissionError(13, "Permission denied")
        monkeypatch.setattr(os, "readlink", readlink)
        answer = function(*arguments)
        monkeypatch.setattr(os, "readlink", refused)
        return answer

    monkeypatch.setattr(os, "readlink", refused)
    monkeypatch.setattr(delegate, "ask", ask)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("ada", "x", uid, uid, "", "/", "/bin/sh")))
    if may_its_user:
        assert f"process {pid} (/opt/blog/venv/bin/gunicorn)" in host.found() and set(asked) == {"ada"}
    else:
        (reason,) = host.refused(adopt=True)
        assert reason.startswith(
            "the process that listens on 127.0.0.1:8000 cannot be identified: CAP_SYS_PTRACE is missing"
        )
        assert f"pid {pid} (/opt/blog/venv/bin/gunicorn)" in reason
