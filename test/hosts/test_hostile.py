"""A hostile repository, build, live application and neighbour, through every command: nothing outside changes.

The seventeen findings are in test_walls.py; here the attacker tries whatever the formula does.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from attacker import (
    EACH_HOST,
    ESSENTIAL,
    TIMEOUTS,
    Lair,
    Manifest,
    Table,
    keys_of_paths,
    make_lair,
    names_in_code,
    owners,
    salt,
    victims,
)
from conftest import Hosts, Repositories
from lab import MACHINE, Needs
from sites import version

NEEDS = Needs(MACHINE, "attacks meet all walls of a unit")

KNOWN = {
    *(".constraints.txt", ".poetry.lock.txt", ".Pipfile.lock.txt", ".uv.lock.txt", "manage.py", "wsgi.py", "asgi.py"),
    *("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "requirements/production.txt", "uv.lock"),
    *("poetry.lock", "Pipfile.lock", "Pipfile", ".gitmodules", "db.sqlite3"),
}


def test_names_are_found_in_the_code():
    names = names_in_code()
    assert names >= KNOWN, KNOWN - names
    assert len(names) > 100
    assert keys_of_paths().keys() >= {"shared", "writable", "requirements", "files"}


@pytest.fixture(scope="module", params=EACH_HOST)
def den(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Lair:
    """A host on which both sites are live."""
    den = make_lair(module_hosts, repositories, request.param)
    den.host.write("/root/existing", "root's\n", mode="0600")
    den.host.run("mkdir -p -m 0700 /root/folder; mkfifo /root/fifo")
    victims(den.host, "/srv/victims", [f"n{number}" for number in range(20)])
    return den


@pytest.fixture
def lair(den: Lair) -> Iterator[Lair]:
    """The lair, mended afterwards."""
    yield den
    den.mend()


@pytest.mark.full
def test_changed_file_and_leaked_canary_are_found(lair):
    lair.host.write("/etc/outside", "before", mode="0600")
    lair.canaries.plant("/srv/closed", mode="0640", group="mallory-build")
    with pytest.raises(AssertionError, match=r"/etc/outside: content"), lair.nothing_outside():
        lair.host.run("printf behind >/etc/outside; touch -d @0 /etc/outside")
    with pytest.raises(AssertionError, match=r"mallory-build reads.*/srv/closed"), lair.nothing_outside():
        pass
    lair.host.run("rm /etc/outside; chmod 0600 /srv/closed")
    with lair.nothing_outside():
        pass
    lair.host.run("rm /srv/closed")


# A hostile repository

TARGETS = {
    "a file of root": "/root/existing",
    "a file of root that is not there": "/root/created",
    "no end": "/dev/zero",
    "another site": "/srv/django/shop/media/canary.txt",
    "a folder of root": "/root/folder",
    "a FIFO": "/root/fifo",
    "a loop": "{name}",
    "upwards": "../../../../../../../../root/existing",
    "a secret of another site": "/srv/django/shop/secrets/environment",
}


@pytest.mark.full
@pytest.mark.parametrize("target", TARGETS)
def test_links_under_every_name(lair, target):
    names = sorted(name for name in names_in_code() if len(name) < 100)
    plain = [name for name in names if name.rpartition("/")[2] not in ESSENTIAL and not name.startswith(".gitm")]
    locks = [name for name in plain if name.endswith((".lock", ".toml")) or name.startswith("requirements")]
    kept = lair.repository.git("ls-files").split()
    with lair.nothing_outside() as answers:
        # Each alone ends early: what is read first is a link, what is read next is another.
        for chosen in (set(plain) - set(locks), set(locks), {"requirements.txt"}, {"manage.py"}, {"website/wsgi.py"}):
            links = {}
            for name in chosen:
                for path in (name, f"website/{name}"):
                    above = ["/".join(path.split("/")[:size]) for size in range(1, path.count("/") + 1)]
                    may_be = path not in kept or path in ("requirements.txt", "manage.py", "website/wsgi.py")
                    if may_be and not any(one in links for one in above):
                        links[path] = TARGETS[target].format(name=path.rpartition("/")[2])
            links = {path: to for path, to in links.items() if not any(other.startswith(f"{path}/") for other in links)}
            lair.commit(lair.requirements() if "requirements.txt" not in chosen else {}, links)
            for verb in ("release", "plan") if len(chosen) > 1 else ("release",):
                answers.append(lair.ask(verb).held().stdout)
            lair.mend()
    assert owners(lair.host, "/root/existing") == {"root:root 600 f": 1}


@pytest.mark.full
def test_links_under_the_names_that_the_pillar_gives(lair):
    config = {"shared": ["a-shared", "b/shared"], "writable": ["a-writable", "c/writable"]}
    config["files"] = {"a-file.py": {"contents": "x = 1\n"}, "d/file.py": {"contents": "x = 1\n"}}
    paths = [*config["shared"], *config["writable"], *config["files"]]
    try:
        with lair.nothing_outside() as answers:
            for links in (
                dict.fromkeys(paths, "/root/folder"),
                dict.fromkeys(("b", "c", "d"), "/srv/victims"),
                dict.fromkeys(paths, "/root/created"),
            ):
                lair.commit({}, links)
                lair.mallory.configure(**config)
                answers.append(salt(lair.host, "state.apply", "django").held().stdout)
                answers.append(lair.ask("plan").held().stdout)
                lair.mend()
    finally:
        lair.mend()
        lair.mallory.deploy(**dict.fromkeys(config))


HOSTILE_NAMES = [
    "$(id)",
    "`id`",
    "-rf",
    "--help",
    "a\nb",
    "\x1b[31mred",
    "x" * 250,
    "%s%n",
    "{0}",
    "*",
    "a b",
    "é\u202e",
]


@pytest.mark.full
def test_hostile_names_and_deep_trees(lair):
    deep = "/".join(["d"] * 120)
    folders = ("", "website/static/", "guestbook/migrations/", "guestbook/static/", f"{deep}/")
    files = {f"{folder}{name}": "x\n" for folder in folders for name in HOSTILE_NAMES}
    files |= {f"guestbook/templates/{name}.html": "x" for name in HOSTILE_NAMES if len(name) < 200}
    with lair.nothing_outside():
        lair.commit({**files, **lair.requirements()})
        for verb in ("release", "plan", "drift", "status"):
            done = lair.ask(verb).held()
            assert "\x1b" not in done.stdout + done.stderr, verb
    lair.mend()
    assert lair.release().held().returncode == 0


# A hostile build

#: Everything that a build may try to reach; what it could is written down.
REACH = """
import ctypes, glob, json, os, signal, socket, subprocess
home, reached = os.environ["HOME"], {}
def attempt(name, work):
    try:
        found = work()
        if found not in (None, False, [], "", 0):
            reached[name] = str(found)[:300]
    except BaseException:
        pass
def connected(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(1)
        one.connect(path)
    return True
for top in ("/run", "/var/run", "/tmp", "/srv"):
    for parent, folders, names in os.walk(top):
        for name in names:
            path = os.path.join(parent, name)
            try:
                if os.stat(path).st_mode & 0o170000 == 0o140000:
                    attempt("connects to " + path, lambda: connected(path))
            except OSError:
                pass
for path in SECRETS:
    attempt("reads " + path, lambda: open(path).read())
for path in ("/etc/cron.d/x", "/etc/x", "/usr/x", "/run/x", "/run/lock/x", "/srv/x", "/srv/django/x", "/var/x",
             "/srv/django/mallory/x", "/srv/django/mallory/releases/x", "/srv/django/mallory/secrets/x",
             "/run/django/mallory/x", "/run/django/x", "/srv/django/shop/media/x", "/var/lib/django-formula/x"):
    attempt("writes " + path, lambda: open(path, "w"))
for command in (["crontab", "-l"], ["at", "-l"], ["systemd-run", "--no-ask-password", "true"], ["sudo", "-n", "true"],
                ["busctl", "list"], ["systemctl", "stop", "nginx"], ["su", "-c", "true"], ["supervisorctl", "status"]):
    attempt("runs " + command[0], lambda: subprocess.run(command, capture_output=True, timeout=5).returncode == 0)
for entry in os.listdir("/proc"):
    if entry.isdigit() and int(entry) not in (os.getpid(), os.getppid()):
        attempt("signals %s" % entry, lambda: os.stat("/proc/" + entry).st_uid != os.getuid()
                and os.kill(int(entry), 0) is None)
        attempt("environment of %s" % entry, lambda: os.stat("/proc/" + entry).st_uid != os.getuid()
                and open("/proc/%s/environ" % entry).read())
for name in os.listdir("/proc/self/fd"):
    attempt("has open " + name, lambda: not os.readlink("/proc/self/fd/" + name).startswith(
        ("pipe:", "/dev/null", "/proc/", home, "anon_inode", "socket:", "/srv/django/mallory/build",
         "/srv/django/mallory/virtualenvs")) and os.readlink("/proc/self/fd/" + name))
attempt("root", lambda: os.setuid(0) is None)
attempt("secret in the environment", lambda: [n for n in os.environ if "TOKEN" in n or "SECRET" in n])
with open(home + "/reached.json", "w") as file:
    json.dump(reached, file)
"""
#: What is no wall, as docs/reference/walls.md says, and sockets of systemd that ask who connects.
NO_WALL = ("journal", "/run/systemd/notify", "/run/uuidd", "io.system.ManagedOOM", "io.systemd.DynamicUser")


@pytest.mark.full
def test_a_build_reaches_nothing(lair):
    secrets = [path for path in lair.canaries.texts if path.startswith("/")]
    secrets += [
        f"{lair.shop.root}/secrets/environment",
        "/srv/pillar/host.sls",
        f"{lair.mallory.root}/secrets/environment",
    ]
    secrets += [f"{lair.mallory.root}/repository.git/config", f"{lair.mallory.root}/database/db.sqlite3"]
    with lair.nothing_outside():
        lair.attack_build(REACH, SECRETS=secrets)
        lair.release().held()
    reached = json.loads(lair.host.read(f"{lair.mallory.root}/build/reached.json"))
    found = {what: how for what, how in reached.items() if not any(word in what for word in NO_WALL)}
    assert not found


ODD = """
import glob, os, socket
for folder in glob.glob("/srv/django/mallory/virtualenvs/*"):
    if os.stat(folder).st_uid != os.getuid():
        continue
    (packages,) = glob.glob(folder + "/lib/python3*/site-packages")
    os.chdir(packages)
    if KIND == "FIFO":
        os.mkfifo("odd")
    elif KIND == "socket":
        socket.socket(socket.AF_UNIX).bind("odd")
    elif KIND == "link to root":
        os.symlink("/root/existing", "odd.py")
        os.symlink("/root", "odd")
    elif KIND == "hard link":
        for path in ("/srv/victims/n1", "/srv/django/shop/media/canary.txt", "/etc/passwd"):
            try:
                os.link(path, "odd")
            except OSError:
                pass
    elif KIND == "deep":
        for number in range(400):
            os.mkdir("d")
            os.chdir("d")
    elif KIND == "open":
        descriptor = os.open("odd.py", os.O_RDWR | os.O_CREAT, 0o666)
        def work():
            import time
            while True:
                if os.fstat(descriptor).st_uid == 0:
                    os.pwrite(descriptor, b"EVIL", 0)
                time.sleep(0.05)
        detached(work, keep=True)
    elif KIND == ".complete":
        os.symlink("/root/created", folder + "/.complete")
        os.symlink("/root/created", folder + "/.manifest.json")
        os.symlink("/root/created", folder + "/..complete.new")
    elif KIND == "uwsgi":
        os.makedirs(folder + "/bin", exist_ok=True)
        os.mkfifo(folder + "/bin/uwsgi")
"""


KINDS = ("FIFO", "socket", "link to root", "hard link", "deep", "open", ".complete", "uwsgi")


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_odd_files_of_a_build(lair, kind):
    before = owners(lair.host, "/srv/victims")
    with lair.nothing_outside():
        lair.attack_build(ODD, KIND=kind)
        lair.release().held()
        left = lair.host.run(["pgrep", "-u", "mallory-build", "--runstates", "R,S,D,T,I"], check=False).stdout
        odd = lair.host.run(
            f"find {lair.mallory.root}/virtualenvs ! -type f ! -type d ! -type l; "
            f"grep -rlsa EVIL {lair.mallory.root}/virtualenvs --include=odd.py",
            check=False,
        ).stdout
    assert left == "" and odd == "" and owners(lair.host, "/srv/victims") == before
    lair.mend()
    assert lair.ask("status").held().returncode == 0


MEMORY = """
import os, time
def work():
    until, seen = time.monotonic() + 20, set()
    while time.monotonic() < until:
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or entry in seen or int(entry) == os.getpid():
                continue
            try:
                if os.stat("/proc/" + entry).st_uid != os.getuid():
                    continue
                with open("/proc/%s/maps" % entry) as maps, open("/proc/%s/mem" % entry, "rb", 0) as memory:
                    seen.add(entry)
                    for line in maps:
                        first, last = (int(number, 16) for number in line.split()[0].split("-"))
                        if "rw" in line.split()[1] and last - first < 1 << 28:
                            memory.seek(first)
                            text = memory.read(last - first)
                            place = text.find(b"canary-")
                            while place >= 0:
                                with open(FOUND, "ab") as file:
                                    file.write(text[place : place + 40] + b"\\\\n")
                                place = text.find(b"canary-", place + 1)
            except (OSError, ValueError, OverflowError):
                pass
work() if NOW else detached(work)
"""


@pytest.mark.full
def test_memory_of_root_is_not_read_through_its_helpers(lair):
    """Processes of the build user's and the site's uid that root has made are copies of root's own."""
    root = lair.mallory.root
    lair.host.run(f"rm -f {root}/build/found {root}/shared/found")
    for name, user, path in (
        ("site", "mallory", f"{root}/shared/found"),
        ("build", "mallory-build", f"{root}/build/found"),
    ):
        text = MEMORY.replace("work() if NOW else detached(work)", "work()").replace("FOUND", repr(path))
        lair.start(f"memory-{name}", "python3", "-c", text, user=lair.host.run(["id", "-u", user]).stdout.strip())
    lair.repository.commit(version("memory"))
    for verb in ("release", "plan", "status", "backup", "drift"):
        lair.ask(verb).held()
    for name in ("site", "build"):
        lair.stop(f"memory-{name}")
    found = lair.host.run(f"cat {root}/build/found {root}/shared/found", check=False).stdout
    assert not lair.canaries.within(found), found[:300]


# A hostile live application

#: Keeps replacing all that the site may write to by links, FIFOs and folders, as its own user.
CHAOS = """
import ctypes, os, random, socket, time
exchange = ctypes.CDLL(None).renameat2
root, targets = "/srv/django/mallory/", ["/root/existing", "/root/created", "/dev/zero", "/srv/victims", "/root/folder"]
folders = [root + name for name in ("media", "shared", "log", "shared/data", "media/sub")]
for folder in folders:
    os.makedirs(folder, exist_ok=True)
names = ["data", "sub", "new", ".data.new", "0001.log", "n1", "default.log"]
def once():
    kind, folder = random.randrange(8), random.choice(folders)
    path = folder + "/" + random.choice(names)
    if kind == 0:
        os.symlink(random.choice(targets), path)
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        os.mkdir(path, 0o2777)
    elif kind == 3:
        os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    elif kind == 4:
        os.rename(path, random.choice(folders) + "/" + random.choice(names))
    elif kind == 5:
        exchange(-100, path.encode(), -100, (random.choice(folders) + "/" + random.choice(names)).encode(), 2)
    elif kind == 6:
        with open(path, "w") as file:
            os.fchmod(file.fileno(), 0o6777)
            file.write("x" * 100000)
    else:
        socket.socket(socket.AF_UNIX).bind(path)
while True:
    try:
        once()
    except OSError:
        pass
    time.sleep(0.0005)
"""
#: Never rests: what root reads of the live server.
RUNTIME = """
import glob, os, random, socket, time
while True:
    for folder in glob.glob("/srv/django/mallory/runtime/0*/"):
        for name in ("pid", "ready", "stats.sock", "fifo"):
            path = os.path.join(folder, name)
            try:
                os.unlink(path)
            except OSError:
                pass
            try:
                kind = random.randrange(4)
                if kind == 0:
                    os.mkfifo(path)
                elif kind == 1:
                    os.symlink(random.choice(["/dev/zero", "/root/existing", "/root/fifo"]), path)
                else:
                    with open(path, "w") as file:
                        file.write(random.choice(["1", "-1", "999999999999999999999", "x" * 1000000, SHOP, ""]))
            except OSError:
                pass
    time.sleep(0.01)
"""
VERBS = {
    "status": (),
    "releases": (),
    "record": (),
    "release": (),
    "rollback": (),
    "plan": (),
    "drift": (),
    "backup": (),
    "backups": (),
    "restore_drill": (),
    "restore": (),
    "rotate_secret_key": (),
    "collectstatic": (),
    "check": (),
    "migrate": (),
    "config": (),
    "logs": ("20",),
    "maintenance": ("on",),
    "maintenance ": ("off",),
}


@pytest.mark.full
@pytest.mark.parametrize("what", ["files", "runtime"])
def test_every_command_works_next_to_a_hostile_site(lair, what):
    user = lair.host.run("id -u mallory").stdout.strip()
    shop = lair.host.run(["pgrep", "-u", "shop", "-o"]).stdout.strip()
    lair.repository.commit(version(f"before {what}"))
    lair.release().held()
    before = owners(lair.host, "/srv/victims"), owners(lair.host, "/root/folder")
    text = CHAOS if what == "files" else f"SHOP = {shop!r}\n{RUNTIME}"
    verbs = (
        VERBS if what == "files" else {name: VERBS[name] for name in ("status", "release", "rollback", "logs", "plan")}
    )
    costs = {}
    try:
        with lair.nothing_outside() as answers:
            lair.start("chaos", "python3", "-c", text, user=user)
            for verb, arguments in verbs.items():
                done = lair.ask(verb.strip(), *arguments).held()
                costs[verb] = (round(done.seconds, 1), done.peak >> 20, done.returncode)
                answers.append(done.stdout)
            lair.repository.commit(version("broken") | {"website/wsgi.py": "raise SystemExit('out of ink')\n"})
            answers.append(lair.release().held().stdout)
            answers.append(salt(lair.host, "state.apply", "django").held().stdout)
            lair.stop("chaos")
    finally:
        lair.stop("chaos")
        lair.host.run(f"cd {lair.mallory.root} && find media shared log -mindepth 1 -delete", check=False)
    print(costs)
    assert (owners(lair.host, "/srv/victims"), owners(lair.host, "/root/folder")) == before
    assert lair.host.run(["pgrep", "-u", "shop", "-o"]).stdout.strip() == shop, "the neighbour's server lives on"
    lair.mend()
    lair.repository.commit(version(f"after {what}"))
    assert salt(lair.host, "django.release", "mallory").held().returncode == 0


@pytest.mark.full
def test_a_neighbour_does_not_wait(lair):
    """While mallory's release hangs, shop is released."""
    lair.commit({"attack.py": "import time\ntime.sleep(600)\n"})
    lair.mallory.configure(timeouts=None)  # until it is ended
    hanging = threading.Thread(target=lair.release)
    hanging.start()
    try:
        time.sleep(2)
        lair.shop.repository.commit(version("while it hangs"))
        done = salt(lair.host, "django.release", "shop").held()
        assert done.returncode == 0 and hanging.is_alive(), done
    finally:
        lair.host.call("django.unlock", "mallory")
        hanging.join()
        lair.mallory.configure(timeouts=TIMEOUTS)


# A neighbour, and a visitor

LOOK = """
import os, socket
for path in PATHS:
    try:
        print("reads", path, open(path).read()[:40])
    except OSError:
        pass
for path in SOCKETS:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("connects to", path)
    except OSError:
        pass
"""


@pytest.mark.full
def test_a_neighbour_reaches_nothing(lair):
    root = lair.shop.root
    listed = f"find {root} /run/django/shop ! -type d -printf '%y %p\\n'"
    entries = [line.split(" ", 1) for line in lair.host.run(listed, check=False).stdout.splitlines()]
    public = ("/static/", "/virtualenvs/", "/errors/", "/maintenance/", "/virtualenv/")
    paths = [path for kind, path in entries if kind == "f" and not any(part in path for part in public)]
    sockets = [path for kind, path in entries if kind in "sp"]
    assert len(paths) > 50 and sockets
    told = lair.live(LOOK, PATHS=paths, SOCKETS=sockets)
    assert told == ""


def raw(lair: Lair, domain: str, path: str) -> str:
    """The answer to a request for a path as it is, which no client has tidied up."""
    with socket.create_connection((lair.host.address, 80), timeout=10) as one:
        one.sendall(f"GET {path} HTTP/1.0\r\nHost: {domain}\r\n\r\n".encode())
        return b"".join(iter(lambda: one.recv(65536), b"")).decode(errors="replace")


PATHS = [
    f"{top}{up}{target}"
    for top in ("/static/", "/media/", "/static", "/media")
    for up in ("../", "..%2f", "%2e%2e/", "..;/", ".%2e/", "../../", "..%2f..%2f", "../../../", "....//")
    for target in (
        "config/environment",
        "secrets/environment",
        "source/manage.py",
        "shop/media/canary.txt",
        "etc/passwd",
    )
]


@pytest.mark.full
def test_a_visitor_reaches_nothing(lair):
    leaked = []
    for site in (lair.mallory, lair.shop):
        for path in [
            *PATHS,
            "/.git/config",
            "/site.json",
            "/release.json",
            "/manage.py",
            "/source/manage.py",
            "/db.sqlite3",
        ]:
            text = raw(lair, site.domain, path)
            if lair.canaries.within(text) or "root:x:0" in text or "SECRET_KEY=" in text or "execute_from" in text:
                leaked.append(path)
    assert not leaked


# The end: what is left after a reboot and a removal


def serves(site) -> bool:
    try:
        return bool(site.get("/healthz").status_code == 200)
    except requests.ConnectionError:
        return False


@pytest.mark.full
def test_reboot_and_removal(lair):
    user = lair.host.run("id -u mallory").stdout.strip()
    before = owners(lair.host, "/srv/victims"), owners(lair.host, "/root/folder"), owners(lair.host, "/root/existing")
    lair.start("chaos", "python3", "-c", CHAOS, user=user)
    time.sleep(1)
    lair.host.restart()
    deadline = time.monotonic() + 300
    while not serves(lair.shop):  # without systemd nothing waits until nginx listens
        assert time.monotonic() < deadline
        time.sleep(0.5)
    lair.start("chaos", "python3", "-c", CHAOS, user=user)
    manifest = Manifest(lair.host)
    try:
        lair.mallory.configure(state="absent", remove_data=True)
        done = salt(lair.host, "state.apply", "django").held()
    finally:
        lair.stop("chaos")
    violations = Table(lair.mallory).violations(lair.mallory, manifest, Manifest(lair.host))
    users = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/sub")
    ours = {path: what for path, what in violations.items() if path != "/srv/django" and not path.startswith(users)}
    assert not ours, done
    after = owners(lair.host, "/srv/victims"), owners(lair.host, "/root/folder"), owners(lair.host, "/root/existing")
    assert after == before and lair.shop.get("/healthz").status_code == 200
