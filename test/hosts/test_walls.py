"""Walls: a hostile repository, build, live application, neighbour and visitor, and what of the host they can change.

The first part has each of seventeen findings as a test of its own; all of them failed before there were walls. The
hostile site is mallory, the one that it would like to reach is shop. `attacker.py` has the manifest of the host and the
canaries.
"""

import json
import re
import time
from collections.abc import Iterator

import pytest
import requests
from attacker import EACH_HOST, Lair, Manifest, make_lair, owners, salt, victims
from conftest import Hosts, Repositories
from lab import MACHINE, Needs, busy
from products import shortened
from repository import Repository
from sites import Site, version

NEEDS = Needs(MACHINE, "attacks meet all walls of a unit")


@pytest.fixture(
    scope="module",
    params=EACH_HOST,
)
def den(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Lair:
    """A host on which both sites are live."""
    return make_lair(module_hosts, repositories, request.param)


@pytest.fixture
def with_systemd(lair: Lair) -> None:
    """Leave a test out where there is no systemd."""
    if not lair.host.init:
        pytest.skip("systemd is what it is about")


@pytest.fixture
def lair(den: Lair) -> Iterator[Lair]:
    """The lair, mended afterwards."""
    den.number += 1
    yield den
    den.mend()


# The findings


@pytest.mark.full
def test_finding_01_constraints_file_is_no_link(lair):
    lair.host.write("/root/existing", "root's\n")
    with lair.nothing_outside():
        for target in ("/root/existing", "/root/created"):
            lair.commit(lair.requirements(), {".constraints.txt": target})
            lair.release().held()
    assert lair.host.read("/root/existing") == "root's\n"


POETRY = """
[[package]]
name = "{line}"
version = "1"
groups = ["main"]

[metadata]
lock-version = "2.0"
python-versions = ">=3.9"
content-hash = "0"
"""


@pytest.mark.full
@pytest.mark.parametrize("verb", shortened(["release", "plan"], "release"))
def test_finding_02_lock_conversions_write_through_no_link(lair, verb):
    lair.host.run("rm -f /etc/cron.d/pwn")
    lock = POETRY.format(line="* * * * * root touch /root/pwned #")
    with lair.nothing_outside():
        lair.commit({"poetry.lock": lock}, {".poetry.lock.txt": "/etc/cron.d/pwn"})
        lair.ask(verb).held()
        pipfile = json.dumps(
            {"_meta": {"sources": []}, "default": {"* * * * * root touch /root/pwned #": {"version": "1"}}}
        )
        lair.commit({"poetry.lock": None, "Pipfile.lock": pipfile}, {".Pipfile.lock.txt": "/etc/cron.d/pwn"})
        lair.ask(verb).held()
    assert not lair.host.testinfra.file("/etc/cron.d/pwn").exists


STAY = """
import os, time
def stay():
    with open(os.environ["HOME"] + "/stayed", "w") as file:
        for _ in range(120):
            print(time.time(), file=file, flush=True)
            time.sleep(1)
detached(stay, keep=True)
"""


#: Shows the build user's processes; those that have ended stay listed where the first process of a host reaps none.
RUNNING = ["pgrep", "-u", "mallory-build", "-a", "--runstates", "R,S,D,T,I"]


@pytest.mark.full
def test_finding_03_left_behind_build_holds_no_lock(lair):
    lair.attack_build(STAY)
    first = lair.release().held()
    left = lair.host.run(RUNNING, check=False).stdout
    lair.repository.commit(version("3"))
    second = lair.release().held()
    assert "is under way" not in second.stdout, second
    assert left == "", "a build's processes end with it"
    assert second.returncode == 0, (first, second)


@pytest.mark.full
def test_finding_03_left_behind_build_that_keeps_the_output_costs_its_own_time_only(lair):
    lair.attack_build(STAY.replace("keep=True", "keep=True, keep_output=True"))
    lair.release().held()
    assert lair.host.run(RUNNING, check=False).stdout == ""
    stayed = [float(line) for line in lair.host.read("/srv/django/mallory/build/stayed").split()]
    assert stayed[-1] - stayed[0] < 30 + 10, "the build's own timeout"
    lair.mend()
    lair.repository.commit(version("3.1"))
    assert lair.release().held().returncode == 0


SWAP_WORK = """
import os, time
home = os.environ["HOME"]
def work():
    until, number = time.monotonic() + 30, 0
    while time.monotonic() < until:
        try:
            if os.stat(home + "/requirements", follow_symlinks=False).st_mode & 0o170000 == 0o040000:
                os.rename(home + "/requirements", home + "/requirements-%d" % number)
                os.symlink("/root/landing", home + "/requirements")
                number += 1
        except OSError:
            pass
detached(work)
"""
#: Flips folders for links in the source, where files of the same names are root's.
FLIP_SOURCE = """
import glob, os, time
user = os.getuid()
def work():
    until = time.monotonic() + 40
    while time.monotonic() < until:
        for deep in glob.glob("/srv/django/mallory/releases/*/source/deep"):
            try:
                if os.stat(deep).st_uid != user:
                    continue
                for name in os.listdir(deep):
                    if name[0] == "s" and not os.path.lexists(deep + "/l" + name):
                        os.symlink("/srv/victims", deep + "/l" + name)
                while os.stat(deep).st_uid == user:
                    for name in os.listdir(deep):
                        if name[0] == "s":
                            exchange(deep + "/" + name, deep + "/l" + name)
            except OSError:
                pass
detached(work)
"""


@pytest.mark.full
def test_finding_04_daemon_of_a_build_does_not_redirect_a_copy(lair):
    lair.host.run("mkdir -p -m 0700 /root/landing")
    with lair.nothing_outside():
        lair.attack_build(SWAP_WORK)
        lair.release().held()
        lair.commit({**lair.requirements(), **{f"{number:04}.txt": "x\n" for number in range(400)}})
        lair.release().held()
        assert owners(lair.host, "/root/landing") == {"root:root 700 d": 1}


@pytest.mark.full
def test_finding_04_daemon_of_a_build_is_given_nothing_of_root(lair):
    names = [f"n{number:03}.txt" for number in range(100)]
    victims(lair.host, "/srv/victims", names)
    with lair.nothing_outside():
        before = owners(lair.host, "/srv/victims")
        lair.attack_build(FLIP_SOURCE)
        lair.release().held()
        for turn in range(3):
            lair.repository.commit({f"deep/s{folder:02}/{name}": f"{turn}" for folder in range(12) for name in names})
            lair.release().held()
        assert owners(lair.host, "/srv/victims") == before


FLIP_SHARED = """
import os, shutil, time
shared = "/srv/django/mallory/shared"
def work():
    if not os.path.lexists(shared + "/link"):
        os.symlink("/srv/victims", shared + "/link")
    until = time.monotonic() + 12
    while time.monotonic() < until:
        exchange(shared + "/data", shared + "/link")
os.rename(shared + "/data", shared + "/data-%d" % time.time_ns())
detached(work)
"""


@pytest.mark.full
def test_finding_05_owner_of_a_shared_folder_is_never_set_by_path(lair):
    names = [f"sub/n{number:04}.txt" for number in range(2000)]
    victims(lair.host, "/srv/victims", names)
    lair.commit({f"data/{name}": "x\n" for name in names})
    lair.mallory.deploy(shared=["data"])
    with lair.nothing_outside():
        before = owners(lair.host, "/srv/victims")
        for number in range(3):
            lair.live(FLIP_SHARED)
            lair.repository.commit({"data/sub/new": str(number)})
            lair.release().held()
        assert owners(lair.host, "/srv/victims") == before
    lair.mallory.deploy(shared=None)


SQUAT_SOCKET = """
import os, time
runtime, number = "/run/django/mallory", int(os.environ["DJANGO_RELEASE"][:4])
def work():
    until = time.monotonic() + 40
    while time.monotonic() < until:
        for name in ["%s/%04d.sock" % (runtime, number + more) for more in (1, 2, 3)]:
            try:
                os.symlink("/root/chown-me", name)
            except FileExistsError:
                try:
                    if not os.path.islink(name):
                        os.unlink(name)
                        os.symlink("/root/chown-me", name)
                except OSError:
                    pass
            except OSError:
                pass
detached(work)
"""


@pytest.mark.full
def test_finding_06_socket_of_the_next_release_is_made_where_only_root_writes(lair, with_systemd):
    lair.host.write("/root/chown-me", "root's\n", mode="0600")
    with lair.nothing_outside():
        for number in range(3):
            lair.live(SQUAT_SOCKET)
            lair.repository.commit(version(f"6.{number}"))
            lair.release().held()
            assert owners(lair.host, "/root/chown-me") == {"root:root 600 f": 1}
    folder = lair.host.testinfra.file("/run/django/mallory")
    assert folder.user == "root", "systemd makes sockets there"


LINKS_IN_STATIC = """
import os
from django.conf import settings
from django.contrib.staticfiles.management.commands import collectstatic

class Command(collectstatic.Command):
    def collect(self):
        found, static = super().collect(), settings.STATIC_ROOT
        os.makedirs(os.path.join(static, "l"), exist_ok=True)
        for name, target in {
            "media": "/srv/django/shop/media", "file": "/srv/django/shop/media/canary.txt", "nginx": "/etc/nginx",
            "log": "/var/log/nginx", "etc": "/etc", "up": "../../../../../shop/media",
        }.items():
            os.symlink(target, os.path.join(static, "l", name))
            os.symlink(target, os.path.join(static, name))
        return found
"""


@pytest.mark.full
def test_finding_07_static_files_are_no_links(lair):
    command = "guestbook/management/commands/collectstatic.py"
    lair.commit(
        {
            command: LINKS_IN_STATIC,
            "guestbook/management/__init__.py": "",
            "guestbook/management/commands/__init__.py": "",
        }
    )
    with lair.nothing_outside() as answers:
        lair.release().held()
        lair.shop.get("/?token=visitor-of-shop")
        leaked = {}
        for path in (
            *("media/canary.txt", "file", "up/canary.txt", "nginx/nginx.conf", "etc/hostname", "etc/passwd"),
            *("log/access.log", "log/error.log"),
        ):
            for top in ("/static/l/", "/static/"):
                for route in (top, "/static/../static/l/", "/static//l/"):
                    answer = lair.mallory.get(f"{route}{path}")
                    answers.append(answer.text)
                    if answer.status_code == 200:
                        leaked[f"{route}{path}"] = answer.text[:60]
    assert not leaked


@pytest.mark.full
def test_finding_08_submodule_of_a_file_is_not_fetched(lair, repositories, tmp_path):
    host = lair.host
    secret = lair.canaries.new("private repository of root")
    host.run(f"""set -e
        git init --quiet --bare /root/secret.git; git init --quiet /root/work; cd /root/work
        echo {secret} > secret.txt; git add .; git -c user.name=a -c user.email=a@b commit --quiet -m secret
        git push --quiet /root/secret.git HEAD:refs/heads/main; rm -r /root/work""")
    commits = {
        "file:///root/secret.git": host.run("git --git-dir=/root/secret.git rev-parse main").stdout.strip(),
        "/root/secret.git": host.run("git --git-dir=/root/secret.git rev-parse main").stdout.strip(),
        f"file://{lair.shop.root}/repository.git": lair.shop.record()["commit"],
    }
    lair.start("dumb", "python3", "-m", "http.server", "8099", "--directory", "/srv/git")
    lair.repository.path = "/srv/git/dumb.git"
    try:
        for url, commit in commits.items():
            with lair.nothing_outside():
                lair.commit({".gitmodules": f'[submodule "s"]\n\tpath = sub\n\turl = {url}\n'})
                lair.repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
                lair.repository.git("commit", "--quiet", "--message", "A submodule")
                lair.repository.push()
                host.run("git --git-dir=/srv/git/dumb.git update-server-info")
                lair.mallory.configure(repository="http://127.0.0.1:8099/dumb.git")
                applied = lair.mallory.apply()
                tree = host.run(f"ls {lair.mallory.root}/releases/*/source/sub 2>/dev/null", check=False).stdout
                assert "secret.txt" not in tree and "manage.py" not in tree, applied
    finally:
        lair.stop("dumb")
        lair.repository.path = "/srv/git/mallory.git"
        lair.mend()
        lair.mallory.deploy(repository=lair.repository.url)


@pytest.mark.full
def test_finding_09_submodule_does_not_go_through_a_link_of_another(lair):
    host, git = lair.host, lair.repository.git
    host.run("mkdir -p -m 0755 /root/landing-9 /root/sub-1 /root/sub-2")
    host.run(r"""set -e
        for name in 1 2; do git init --quiet --bare /srv/git/sub$name.git; git init --quiet /root/work-$name; done
        cd /root/work-1; ln -s /root/landing-9 out
        cd /root/work-2; echo pwned > pwned
        for name in 1 2; do cd /root/work-$name; git add .; git -c user.name=a -c user.email=a@b commit --quiet -m x
        git push --quiet /srv/git/sub$name.git HEAD:refs/heads/main; done; rm -r /root/work-*""")
    one, two = (host.run(f"git --git-dir=/srv/git/sub{name}.git rev-parse main").stdout.strip() for name in (1, 2))
    modules = "".join(
        f'[submodule "{name}"]\n\tpath = {path}\n\turl = file:///srv/git/sub{name}.git\n'
        for name, path in ((1, "sub"), (2, "sub/out"))
    )
    lair.commit({".gitmodules": modules})
    inner = mktree(lair.repository, f"160000 commit {two}\tout\n")
    entries = git("ls-tree", "HEAD") + f"160000 commit {one}\tsub\n040000 tree {inner}\tsub\n"
    commit = git("commit-tree", mktree(lair.repository, entries), "-p", "HEAD", "-m", "Two submodules").strip()
    git("reset", "--quiet", "--soft", commit)
    lair.repository.push()
    with lair.nothing_outside():
        lair.release().held()
        lair.ask("plan").held()
    assert owners(host, "/root/landing-9") == {"root:root 755 d": 1}


def mktree(repository: Repository, listing: str) -> str:
    """A tree object of these entries, which nothing checks."""
    import subprocess

    argv = ["git", "mktree", "--missing"]
    done = subprocess.run(argv, cwd=repository.worktree, input=listing, check=True, capture_output=True, text=True)
    return done.stdout.strip()


ENDLESS_STATS = """
import glob, os, socket
def work():
    (folder,) = glob.glob("/srv/django/mallory/runtime/%s" % os.environ["DJANGO_RELEASE"][:4])
    os.unlink(folder + "/stats.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(folder + "/stats.sock")
    listening.listen()
    while True:
        one, _ = listening.accept()
        try:
            while True:
                one.sendall(b"[" * 65536)
        except OSError:
            pass
detached(work)
"""


@pytest.mark.full
def test_finding_10_endless_statistics(lair):
    lair.restart()
    lair.live(ENDLESS_STATS)
    time.sleep(1)
    status = lair.ask("status").held()
    assert status.returncode == 0 and status.answer[0]["running"] is True, status
    lair.restart()


INHERITED = """
import fcntl, json, os
found = {}
for pid in ("self", str(os.getppid())):
    for name in os.listdir("/proc/%s/fd" % pid):
        try:
            found["%s/%s" % (pid, name)] = os.readlink("/proc/%s/fd/%s" % (pid, name))
        except OSError:
            pass
for name in os.listdir("/proc/self/fd"):
    try:
        if os.readlink("/proc/self/fd/" + name).endswith("/lock"):
            fcntl.flock(int(name), fcntl.LOCK_UN)
            os.pwrite(int(name), b"nobody at all" + b" " * 80, 0)
    except OSError:
        pass
with open(os.environ["HOME"] + "/report.json", "w") as file:
    json.dump(found, file)
"""


@pytest.mark.full
def test_finding_11_build_inherits_no_lock(lair):
    lair.attack_build(INHERITED)
    lair.release().held()
    found = json.loads(lair.host.read(f"{lair.mallory.root}/build/report.json"))
    locks = [path for number, path in found.items() if path == f"{lair.mallory.root}/lock"]
    assert not locks, found
    own = re.compile(r"^(pipe:|socket:|/dev/|anon_inode:|/proc/|/srv/django/mallory/(build|virtualenvs)/)")
    assert not [path for path in found.values() if not own.match(path)], found


#: A hot journal next to a database, whose super-journal is a file of root: SQLite deletes it when it rolls back.
HOT_JOURNAL = r"""
import sqlite3, struct, sys
path, victim = sys.argv[1:]
database = sqlite3.connect(path)
database.executescript("CREATE TABLE t (a); CREATE TABLE django_migrations (id, app, name, applied)")
database.close()
size = len(open(path, "rb").read())
magic = bytes.fromhex("d9d505f920a163d7")
header = magic + struct.pack(">IIIII", 0, 1, size // 4096, 512, 4096)
name = victim.encode()
trailer = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
with open(path + "-journal", "wb") as file:
    file.write(header.ljust(512, b"\0") + trailer)
"""


@pytest.mark.full
def test_finding_12_adoption_opens_no_database_as_root(lair):
    host = lair.host
    host.write("/root/victim-file", "root's\n")
    host.run("useradd --home-dir /srv/django/old --create-home ray")
    host.run("chmod 755 /srv/django/old && touch /srv/django/old/manage.py")
    host.run(["python3", "-c", HOT_JOURNAL, "/srv/django/old/db.sqlite3", "/root/victim-file"])
    host.run("chown -R ray:ray /srv/django/old")
    old = Site(host, lair.repository, "old", neighbour=lair.shop, adopt=True)
    try:
        old.configure()
        adopted = salt(host, "state.apply", "django")
        assert "old" in adopted.stdout and "adopted" in adopted.stdout, adopted
        assert host.testinfra.file("/root/victim-file").exists
    finally:
        del lair.mallory.sites["old"]
        lair.mallory.configure()


#: What one line of a site or repository does: a program of the live site and the verbs that meet it.
BY_THE_SITE = {
    "pid file is a FIFO": "import os; p = folder + '/pid'; os.unlink(p); os.mkfifo(p)",
    "pid file is endless": "import os; p = folder + '/pid'; os.unlink(p); os.symlink('/dev/zero', p)",
    "pid file is huge": "open(folder + '/pid', 'wb').truncate(1 << 32)",
    "endless migrations": "import sqlite3; c = sqlite3.connect(database); c.executescript("
    "'ALTER TABLE django_migrations RENAME TO former; CREATE VIEW django_migrations AS WITH RECURSIVE "
    "r(app, name) AS (SELECT hex(randomblob(500)), 1 UNION ALL SELECT hex(randomblob(500)), name + 1 FROM r) "
    "SELECT app, name FROM r')",
    "database is a FIFO": "import os; os.rename(database, database + '.aside'); os.mkfifo(database)",
    "database is a device": "import os; os.rename(database, database + '.aside'); os.symlink('/dev/zero', database)",
}


@pytest.mark.parametrize("what", shortened(BY_THE_SITE, "pid file is a FIFO"))
@pytest.mark.full
def test_finding_13_root_is_not_taken_hostage_by_the_site(lair, what):
    lair.restart()
    database = f"{lair.mallory.root}/database/db.sqlite3"
    copy = f"import sqlite3; sqlite3.connect('{database}').backup(sqlite3.connect('/root/db.sqlite3'))"
    lair.host.run(f'rm -f /root/db.sqlite3; python3 -c "{copy}" && chown mallory:mallory /root/db.sqlite3')
    run = lair.mallory.run
    try:
        lair.live(BY_THE_SITE[what], folder=run, database=database)
        lair.ask("status").held()
        salt(lair.host, "state.apply", "django").held()
    finally:
        stop = (
            f"systemctl stop {lair.mallory.unit}.service"
            if lair.host.init
            else f"supervisorctl stop {lair.mallory.unit}"
        )
        lair.host.run(f"{stop}; rm -f {database}*; cp -a /root/db.sqlite3 {database}")
        lair.restart()


TALKATIVE = """
import os, sys, time
line = b"y" * 65535 + b"\\n"
until = time.monotonic() + 8
while time.monotonic() < until:
    os.write(2, line)
    os.write(1, line)
"""
ADDITIONS = (
    "import os, sys\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'website.settings')\nx = " + "1+" * 60_000 + "1\n"
)
BY_THE_REPOSITORY = {
    "wsgi.py is endless": ({}, {"website/wsgi.py": "/dev/zero"}),
    "pyproject.toml is endless": ({"requirements.txt": "-e .\n"}, {"pyproject.toml": "/dev/zero"}),
    "settings are a FIFO": ({}, {"website/settings.py": "/run/a-fifo"}),
    "requirements are endless": ({}, {"requirements.txt": "/dev/zero"}),
    "manage.py has 60 000 additions": ({"manage.py": ADDITIONS}, {}),
}


@pytest.mark.full
@pytest.mark.parametrize("what", BY_THE_REPOSITORY)
@pytest.mark.parametrize("verb", ["release", "plan"])
def test_finding_13_root_is_not_taken_hostage_by_the_repository(lair, what, verb):
    if verb == "plan" and "additions" not in what and "wsgi" not in what:
        pytest.skip("as the release")
    lair.host.run("test -p /run/a-fifo || mkfifo /run/a-fifo")
    files, links = BY_THE_REPOSITORY[what]
    lair.commit(files, links)
    lair.ask(verb).held()


@pytest.mark.full
def test_finding_13_root_is_not_taken_hostage_by_a_build(lair):
    lair.attack_build(TALKATIVE)
    lair.commit({"talk.py": TALKATIVE})
    lair.mallory.configure(build=["python3 talk.py"])
    try:
        salt(lair.host, "state.apply", "django").held()
    finally:
        lair.mallory.apply(build=None)  # `django.release` takes the pillar of the last apply


#: A health page that sends a byte now and then, by a view of its own.
SLOW_VIEW = """
import time
from django.http import StreamingHttpResponse
def slowly(request):
    def body():
        for _ in range(600):
            yield b"x"
            time.sleep(0.5)
    return StreamingHttpResponse(body())
"""


@pytest.mark.full
def test_finding_13_root_is_not_taken_hostage_by_a_health_page(lair):
    urls = lair.repository.read("website/urls.py").replace(
        "urlpatterns = [", "from . import slow\nurlpatterns = [path('healthz', slow.slowly),"
    )
    lair.commit({"website/slow.py": SLOW_VIEW, "website/urls.py": urls})
    done = lair.release().held()
    assert done.returncode and "health check failed: GET /healthz" in str(done.answer), done
    assert done.seconds < 150, "the page takes 300 s"


#: A name in the abstract namespace that is more lines of /proc/net/unix than one.
FORGE_LINE = """
import os, socket, sys, time
held = []
for line in {lines}:
    one = socket.socket(socket.AF_UNIX)
    one.bind(b"\\0" + line.encode())
    held.append(one)
print("bound", flush=True)
time.sleep(60)
"""


@pytest.mark.full
@pytest.mark.parametrize("kind", ["a connection", "no numbers"])
def test_finding_14_abstract_socket_with_a_newline(lair, kind):
    number = int(lair.shop.live[:4])
    sockets = [f"/run/django/shop/{number + more:04}.sock" for more in (0, 1)]
    form = {"a connection": "x\n0000: 00000003 00000000 00000000 0001 03 1 {}", "no numbers": "x\nz {}"}[kind]
    text = FORGE_LINE.format(lines=[form.format(path)[:100] for path in sockets])
    lair.start("forger", "python3", "-c", text, user="65534")
    try:
        lair.shop.repository.commit(version(f"14 {kind}"))
        done = salt(lair.host, "django.release", "shop")
        lair.shop.get("/")
        assert done.returncode == 0 and "Traceback" not in done.stderr, done
        assert done.seconds < 40 * busy(), done  # no connection is waited for
        assert "still" not in str(done.answer.get("warnings", "")), done
    finally:
        lair.stop("forger")


#: A process of the live site with the environment of the release, and its number in the pid file.
FORGE_PID = """
import os, time
number = os.environ["DJANGO_RELEASE"][:4]
folder = "/srv/django/mallory/runtime/" + number
def work():
    with open(folder + "/forged.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(folder + "/forged.new", folder + "/forged")
    os.execve("/usr/bin/sleep", ["sleep", "60"], {"DJANGO_RELEASE": os.environ["DJANGO_RELEASE"]})
detached(work)
while not os.path.exists(folder + "/forged"):
    time.sleep(0.05)
forged = open(folder + "/forged").read()
time.sleep(0.3)
with open(folder + "/pid", "w") as file:
    file.write(forged)
print(forged)
"""


@pytest.mark.full
def test_finding_14_environment_and_pid_file_are_no_word(lair, with_systemd):
    lair.restart()
    forged = lair.live(FORGE_PID).strip()
    main = lair.host.run(
        ["systemctl", "show", "--value", "-p", "MainPID", f"{lair.mallory.unit}.service"]
    ).stdout.strip()
    text = (
        "import sys; sys.path.insert(0, '/srv/formula/engine'); "
        "from django_formula.release import instances, releases; from django_formula.site import sites; "
        "site = sites.find('mallory'); release = releases.linked(site, site.current); "
        "print(instances.pid(site, release.path))"
    )
    found = lair.host.run(["/opt/salt/bin/python", "-c", text]).stdout.strip()
    lair.restart()
    assert found == main != forged


@pytest.mark.full
def test_finding_15_no_filter_of_the_system_runs(lair):
    host = lair.host
    host.run("git config --system filter.lfs.smudge 'touch /root/smudged; cat'")
    host.run("git config --system filter.lfs.clean 'touch /root/cleaned; cat'")
    try:
        with lair.nothing_outside():
            lair.commit({".gitattributes": "* filter=lfs\n"})
            lair.release().held()
            lair.ask("plan").held()
    finally:
        host.run("git config --system --remove-section filter.lfs", check=False)


OPEN_FILES = """
import glob, os, struct
for folder in glob.glob("/srv/django/mallory/virtualenvs/*"):
    if os.stat(folder).st_uid != os.getuid():
        continue
    (packages,) = glob.glob(folder + "/lib/python3*/site-packages")
    os.makedirs(packages + "/opened", exist_ok=True)
    for name, mode in (("world.py", 0o666), ("group.py", 0o664), ("setuid", 0o6777), ("acl.py", 0o644)):
        with open(packages + "/opened/" + name, "w") as file:
            os.fchmod(file.fileno(), mode)
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in (
        (1, 6, 0xFFFFFFFF), (2, 6, 65534), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)))
    os.setxattr(packages + "/opened/acl.py", "system.posix_acl_access", acl)
    os.setxattr(packages + "/opened/world.py", "user.kept", b"x")
    os.chmod(packages + "/opened", 0o2777)
"""


@pytest.mark.full
def test_finding_16_virtualenv_is_not_writable_for_other_users(lair):
    lair.attack_build(OPEN_FILES)
    with lair.nothing_outside():
        done = lair.release().held()
        found = lair.host.run(
            ["find", f"{lair.mallory.root}/virtualenvs", "!", "-type", "l", "-perm", "/6022", "-printf", "%m %p\n"]
        ).stdout
        assert found == "", done
        host = Manifest(lair.host)
        with_xattr = [
            path for path in host if path.startswith(f"{lair.mallory.root}/virtualenvs") and "xattr" in host[path]
        ]
        assert not with_xattr
        tried = lair.host.run(
            f"for f in $(find {lair.mallory.root}/virtualenvs -path '*opened*'); do [ -w $f ] && echo $f; done; true",
            user="nobody",
        )
        assert tried.stdout == ""


FORGED = "203.0.113.66"
HEADERS = {
    **dict.fromkeys(("X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP"), FORGED),
    **dict.fromkeys(
        ("Forwarded-For", "X-Forwarded", "X-Original-Forwarded-For", "Client-IP", "X-ProxyUser-IP"), FORGED
    ),
    "Forwarded": f"for={FORGED};host=evil-{FORGED};proto=https",
    "X-Forwarded-Host": f"evil-{FORGED}",
    "X-Forwarded-Server": f"evil-{FORGED}",
    "X-Forwarded-Port": "66",
    "X-Forwarded-Ssl": "on",
    "X-Forwarded-Scheme": "https",
    "X-Forwarded-Protocol": "https",
    "X-Forwarded-Proto": "https",
    "X-Url-Scheme": "https",
    "Front-End-Https": "on",
    "X-Forwarded-Prefix": f"/{FORGED}",
    "X-Script-Name": f"/{FORGED}",
    "X-Remote-User": f"root-{FORGED}",
    "Remote-User": f"root-{FORGED}",
    "X-Forwarded-User": f"root-{FORGED}",
    "X-Original-URL": f"/{FORGED}",
    "X-Rewrite-URL": f"/{FORGED}",
    "X-Sendfile": f"/{FORGED}",
    "X-Forwarded-For": FORGED,
    "Proxy": FORGED,
}
#: Of those, the ones that were already known.
NAMED = (
    "X-Real-IP",
    "Forwarded",
    "X-Forwarded-Port",
    "X-Forwarded-Ssl",
    "X-Forwarded-Prefix",
    "X-Script-Name",
    "Remote-User",
)


@pytest.mark.full
def test_finding_17_visitor_says_nothing_about_itself(lair):
    clean = lair.mallory.get("/variables").json()
    told = lair.mallory.get("/variables", headers=HEADERS).json()
    wrong = {}
    for name in NAMED:
        key = f"HTTP_{name.upper().replace('-', '_')}"
        if told.get(key) != clean.get(key) and told.get(key) == HEADERS[name]:
            wrong[name] = told[key]
    assert not wrong
    assert told["is_secure"] is False and told["host"] == lair.mallory.domain
    assert told["REMOTE_ADDR"] == clean["REMOTE_ADDR"] != FORGED


@pytest.mark.parametrize("ending", shortened(["html", "svg", "xml", "xhtml"], "html"))
@pytest.mark.full
def test_finding_17_upload_is_sandboxed(lair, ending):
    lair.host.run(
        [
            "runuser",
            "-u",
            "mallory",
            "--",
            "sh",
            "-c",
            f"echo '<form action=//evil><meta http-equiv=refresh>' > {lair.mallory.root}/media/upload.{ending}",
        ]
    )
    answer: requests.Response = lair.mallory.get(f"/media/upload.{ending}")
    policy = answer.headers.get("Content-Security-Policy", "")
    attached = answer.headers.get("Content-Disposition", "").startswith("attachment")
    assert answer.status_code == 200
    assert attached or (re.search(r"(^|;)\s*sandbox\s*(;|$)", policy) and "allow-" not in policy), answer.headers
