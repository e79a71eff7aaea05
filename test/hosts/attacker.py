"""An attacker: a hostile site next to another one on a host, what it may change, and what it must never see.

`Lair` has the hosts' two sites, `Manifest` everything that is on a host, `Table` what a site may change of it.
"""

import ast
import base64
import fnmatch
import io
import json
import os
import re
import secrets
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab import ROOT, Host
from repository import Repository
from sites import Site

HOSTILE = Path(__file__).with_name("hostile")
#: What a canary is.
CANARY = "canary-[0-9a-f]{24}"
#: Bytes that a process of root may have in memory at most, and those at which it is killed, for the machine's sake.
BOUND, KILLED = 300 << 20, 900 << 20
#: Seconds after which a command of the operator hangs; it takes about ten, and many times that on a busy machine.
PATIENCE = 180
DJANGO = "Django==5.2.19"
EXCLUDED = ("/proc", "/sys", "/dev", "/run/systemd", "/run/log", "/run/udev", "/run/credentials")
#: Trees in which content is known by size, times and number of the file instead of a hash, for they are large.
LARGE = ("/usr", "/opt/salt", "/var/lib/dpkg")

_MANIFEST = r"""
import base64, hashlib, json, os, pwd, re, stat, sys
given = json.load(sys.stdin)
excluded, large = tuple(given["excluded"]), tuple(name + "/" for name in given["large"])
pattern = given["pattern"].encode()
KNOWN = "/run/lair-known"  # what content had at which time of change, which no one but the kernel sets
try:
    with open(KNOWN) as file:
        before = json.load(file)
except FileNotFoundError:
    before = {}
known, holders = {}, {}
def text(data):
    return os.fsencode(data).decode("utf-8", "backslashreplace")
def content(path, status):
    state = [status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size]
    found = before.get(text(path))
    if not found or found[0] != state:
        with open(path, "rb") as file:
            data = file.read()
        hits = [one.decode() for one in sorted(set(re.findall(pattern, data)))]
        found = [state, hashlib.blake2b(data, digest_size=12).hexdigest(), hits]
    known[text(path)] = found
    if found[2]:
        holders[path] = found[2]
    return found[1]
def entry(path):
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    found = {"type": {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
             stat.S_IFSOCK: "socket"}.get(kind, "device"), "uid": status.st_uid, "gid": status.st_gid,
             "mode": stat.S_IMODE(status.st_mode)}
    if kind == stat.S_IFLNK:
        found["target"] = text(os.readlink(path))
    elif kind == stat.S_IFREG and path.startswith(large):
        found["content"] = [status.st_size, status.st_mtime_ns, status.st_ino]
    elif kind == stat.S_IFREG and status.st_size < 1 << 26:
        found["content"] = content(path, status)
    elif kind == stat.S_IFREG:
        found["content"] = [status.st_size, status.st_mtime_ns]
    if kind == stat.S_IFREG and status.st_nlink > 1:
        found["links"] = status.st_nlink
    try:
        names = os.listxattr(path, follow_symlinks=False)
        found |= {"xattr": {name: base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode()
                  for name in names}} if names else {}
    except OSError:
        pass
    return found
def readable(name):
    user = pwd.getpwnam(name)
    out, into = os.pipe()
    if not os.fork():
        os.setgroups(os.getgrouplist(name, user.pw_gid))
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        found = {}
        for path, hits in holders.items():
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                found[text(path)] = hits
            except OSError:
                pass
        os.close(out)
        with os.fdopen(into, "w") as file:
            json.dump(found, file)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as file:
        return json.load(file)
answer, todo = {"/": entry("/")}, ["/"]
while todo:
    top = todo.pop()
    try:
        names = os.listdir(top)
    except OSError:
        continue
    for name in names:
        path = os.path.join(top, name)
        if path in excluded or path == KNOWN:
            continue
        try:
            answer[text(path)] = found = entry(path)
        except OSError:
            continue
        if found["type"] == "folder":
            todo.append(path)
with open(os.open(KNOWN, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
    json.dump(known, file)
users = {user.pw_name for user in pwd.getpwall()} & set(given["users"])
json.dump({"paths": answer, "holders": {text(path): hits for path, hits in holders.items()},
           "readable": {name: readable(name) for name in users}}, sys.stdout)
"""
_WATCH = r"""
import json, os, signal, subprocess, sys, tempfile, time
bound, patience, *argv = sys.argv[1:]
bound, patience = int(bound) >> 10, float(patience)
def family(top):
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name) as file:
                    parents.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
            except OSError:
                pass
    todo, found = [top], []
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found
def memory(pid):
    try:
        with open("/proc/%d/status" % pid) as file:
            told = dict(line.split(":", 1) for line in file if ":" in line)
        return (int(told["VmHWM"].split()[0]), told["Name"].strip()) if told["Uid"].split()[1] == "0" else (0, "")
    except (OSError, KeyError, ValueError):
        return 0, ""
out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
began = time.monotonic()
process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
peak, name, ended = 0, "", ""
while process.poll() is None and not ended:
    if time.monotonic() - began > patience:
        ended = "took longer than %g s" % patience
    relatives = family(process.pid)
    for size, comm in map(memory, relatives):
        if size > peak:
            peak, name = size, comm
    if peak > bound:
        ended = "%s had %d MB" % (name, peak >> 10)
    if ended:
        for pid in relatives:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    time.sleep(0.05)
process.wait()
took = time.monotonic() - began
texts = [(file.seek(0), file.read(1 << 22).decode(errors="replace"))[1] for file in (out, err)]
print(json.dumps({"seconds": took, "peak": peak << 10, "process": name, "ended": ended,
                  "returncode": process.returncode, "stdout": texts[0], "stderr": texts[1]}))
"""


@dataclass(frozen=True)
class Watched:
    """A command of root on a host, and what it has cost.

    Attributes:
        peak: bytes of memory that it, or a child of it that is root, had at most.
        ended: why it was killed; empty where it ended by itself.
    """

    command: str
    seconds: float
    peak: int
    process: str
    ended: str
    returncode: int
    stdout: str
    stderr: str

    @property
    def answer(self) -> Any:
        """What Salt answered."""
        try:
            return json.loads(self.stdout)["local"]
        except (ValueError, KeyError, TypeError):
            return self.stdout + self.stderr

    def held(self) -> "Watched":
        """Assert that root was not taken hostage: memory below the bound, and an end by itself."""
        assert not self.ended, f"{self.command}: {self.ended}; {self!r}"
        assert self.peak < BOUND, f"{self.command}: {self.process} had {self.peak >> 20} MB"
        assert "Traceback" not in self.stdout + self.stderr, self
        return self

    def __repr__(self) -> str:
        told = f"{self.stdout[-3000:]}{self.stderr[-2000:]}"
        return (
            f"{self.command}: exit {self.returncode}, {self.seconds:.1f} s, {self.peak >> 20} MB {self.ended}\n{told}"
        )


def watched(host: Host, *argv: str, patience: float = PATIENCE) -> Watched:
    """Run a command as root for at most `patience` seconds, and with less than KILLED memory."""
    program = ["/usr/bin/python3", "-I", "-S", "-c", _WATCH, str(KILLED), str(patience), *argv]
    told = json.loads(host.run(program, timeout=patience + 60).stdout)
    return Watched(command=" ".join(argv), **told)


def salt(host: Host, function: str, *arguments: str, patience: float = PATIENCE) -> Watched:
    """`salt-call --local` as `watched` has it."""
    argv = ["salt-call", "--local", "--out=json", "--log-level=warning", function, *arguments]
    return watched(host, *argv, patience=patience)


# What is on a host


class Manifest(dict[str, dict[str, Any]]):
    """Every path of a host: type, owner, group, mode, target, content, extended attributes.

    Attributes:
        holders: the canaries in the content of files, by path.
        readable: those of them that each of the users can open.
    """

    def __init__(self, host: Host, users: Sequence[str] = ()):
        given = {"excluded": EXCLUDED, "large": LARGE, "pattern": CANARY, "users": users}
        argv = ["/usr/bin/python3", "-I", "-S", "-c", _MANIFEST]
        answer = json.loads(host.run(argv, stdin=json.dumps(given), timeout=120).stdout)
        super().__init__(answer["paths"])
        self.holders: dict[str, list[str]] = answer["holders"]
        self.readable: dict[str, dict[str, list[str]]] = answer["readable"]
        entries = host.run("getent passwd; echo; getent group").stdout.split("\n\n")
        self.users, self.groups = (
            {int(line.split(":")[2]): line.split(":")[0] for line in part.splitlines() if line} for part in entries
        )

    def owner(self, path: str) -> str:
        """`user:group` of a path."""
        found = self[path]
        return f"{self.users.get(found['uid'], found['uid'])}:{self.groups.get(found['gid'], found['gid'])}"

    def differences(self, before: "Manifest") -> dict[str, str]:
        """What is otherwise than before, by path, in words."""
        found: dict[str, str] = {}
        for path in sorted({*self, *before}):
            old, new = before.get(path), self.get(path)
            if old is None:
                found[path] = f"new {self[path]['type']} {self.owner(path)} {self[path]['mode']:04o}"
            elif new is None:
                found[path] = "gone"
            elif old != new:
                names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
                found[path] = ", ".join(f"{name}: {old.get(name)} -> {new.get(name)}" for name in names)
        return found


#: What changes by itself, or by Salt's own work, on a host on which nothing is attacked.
VOLATILE = (
    *("/tmp", "/tmp/*", "/var/tmp", "/var/tmp/*", "/var/log/*", "/var/lib/systemd/*", "/var/cache/*", "/run/salt*"),
    *("/var/run/salt*", "/root/.cache*", "/run/lock*", "/run/dbus*", "/run/utmp", "/etc/ld.so.cache", "/run/user*"),
    *("/srv/git", "/srv/git/*", "/srv/pillar*", "/run/nginx.pid", "/var/lib/nginx*", "/etc/.pwd.lock", "/run/initctl"),
    *(
        "/run/supervisor*",
        "/etc/salt/*",
        "/var/lib/dbus*",
        "/run/motd*",
        "/run/lair-*",
        "*/__pycache__",
        "*/__pycache__/*",
        "/root/.*",
    ),
    *("/etc/resolv.conf", "/etc/hosts", "/run/.containerenv", "/run", "/run/resolvconf*", "/var/cache"),
)


def pattern(path: str) -> str:
    """The regular expression of a path with `*`."""
    return fnmatch.translate(path)[:-2]  # without the end, `\\Z`


CHANGING = re.compile("|".join(map(pattern, VOLATILE)))
#: Paths of the formula that docs/reference/walls.md has no row for.
ADDED = """
| `/etc/systemd/system/*.wants/django-<site>-*` | root:root | link | root | all |
| `/run/django/<site>/*.sock` | <site>:www-data | 0660 | systemd | site, proxy |
"""


@dataclass(frozen=True)
class Row:
    """A row of the ownership table."""

    path: str
    owner: str
    mode: int
    writes: str
    reads: str


class Table(list[Row]):
    """The ownership table of a site, as docs/reference/walls.md has it; a path without a row must not change."""

    def __init__(self, site: Site):
        text = (ROOT / "docs/reference/walls.md").read_text()
        names = {"<root>": site.root, "<site>": site.name, "<user>": site.name, "<proxy>": "www-data"}
        names["<domain>"] = site.domain
        super().__init__()
        for line in [*text.splitlines(), *ADDED.splitlines()]:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if len(cells) < 5 or not re.match(r"`?(/|<root>)", cells[0]):
                continue
            for name, value in names.items():
                cells = [cell.replace(name, value) for cell in cells]
            mode = re.search(r"\d{4}", cells[2])
            for path in re.findall(r"`([^`]+)`", cells[0]) or [cells[0]]:
                path = re.sub("<[a-z]+>", "*", path).rstrip("/")
                self.append(Row(path, cells[1].strip("`"), int(mode[0], 8) if mode else 0o777, *cells[3:5]))
        assert self, "the ownership table has no rows"
        self.sort(key=lambda row: (row.path.count("/"), len(row.path)), reverse=True)
        #: A group for each row; the first that matches is the longest.
        self.pattern = re.compile(f"(?:{'|'.join(f'({pattern(row.path)})' for row in self)})(?:/.*)?", re.DOTALL)

    def row(self, path: str) -> Row | None:
        """The row that decides about a path: the longest one that is it, or is above it."""
        found = self.pattern.fullmatch(path)
        return self[found.lastindex - 1] if found and found.lastindex else None

    def violations(self, site: Site, before: Manifest, after: Manifest) -> dict[str, str]:
        """What has changed and may not: outside of the table, or with an owner or a mode that it does not allow."""
        found = {}
        for path, what in after.differences(before).items():
            row = self.row(path)
            if row is None:
                if not CHANGING.fullmatch(path):
                    found[path] = what
            elif path in after:
                entry = after[path]
                allowed = {row.owner.split(":")[0], "root"} | ({site.name} if "source" in row.path else set())
                owner = after.owner(path).split(":")[0]
                if owner not in allowed:
                    found[path] = f"{what}; belongs to {owner}, and {row.path} is {row.owner}'s"
                elif not row.owner.startswith("root:") and not row.mode & 0o007:
                    continue  # its own, where no other user has access
                elif entry["type"] not in ("link", "socket", "fifo") and entry["mode"] & 0o6002 & ~row.mode:
                    found[path] = f"{what}; {entry['mode']:04o} is more than {row.path} has: {row.mode:04o}"
        return found


# Canaries


@dataclass
class Canaries:
    """Texts that an attacker would like to have, each where it is."""

    host: Host
    texts: dict[str, str] = field(default_factory=dict)

    def new(self, where: str) -> str:
        """A new text for a place."""
        self.texts[where] = f"canary-{secrets.token_hex(12)}"  # as CANARY has it
        return self.texts[where]

    def plant(self, path: str, *, mode: str = "0600", owner: str = "root", group: str = "root") -> str:
        """A file with a new text. Returns its path."""
        self.host.write(path, f"{self.new(path)}\n", mode=mode, owner=owner, group=group)
        return path

    def within(self, text: str) -> list[str]:
        """The places whose texts are in a text, also in Base64 or hexadecimal."""
        found = []
        for where, canary in self.texts.items():
            coded = {canary, canary.encode().hex(), base64.b64encode(canary.encode()).decode().rstrip("=")[:-2]}
            if any(one in text for one in coded):
                found.append(where)
        return found

    def seen(self, site: Site, host: Manifest, *more: str) -> dict[str, list[str]]:
        """Where texts are to be seen for an attacker: in what was answered, the journal, and files that it may read."""
        found = {f"answer {number}": hits for number, text in enumerate(more) if (hits := self.within(text))}
        planted = {*self.texts.values()}
        for user, files in host.readable.items():
            hits = [path for path, texts in files.items() if planted & {*texts}]
            found |= {f"{user} reads": hits} if hits else {}
        folders = (f"{site.root}/", "/var/log/nginx/")
        own = [path for path, texts in host.holders.items() if path.startswith(folders) and planted & {*texts}]
        found |= {"in its folders": own} if own else {}
        self.host.write("/run/lair-canaries", "".join(f"{canary}\n" for canary in planted), mode="0600")
        journal = self.host.run("journalctl --no-pager 2>/dev/null | grep -aFf /run/lair-canaries | head", check=False)
        self.host.run("rm /run/lair-canaries")
        found |= {"journal": [journal.stdout]} if journal.stdout else {}
        return found


# Names that the formula has for files of a project

_FILE = re.compile(
    r"\.?[\w*-]+(/[\w.-]+)*\.(txt|in|toml|lock|cfg|py|pip|json|html|ini|sqlite3|md|rst|css|js)|\.[a-z_][\w-]+|Pipfile"
)
#: Names of which a project needs one at least to get as far as its build.
ESSENTIAL = ("manage.py", "wsgi.py", "asgi.py", "settings.py", "__init__.py", "requirements.txt", "urls.py")


def names_in_code() -> set[str]:
    """The names of files that the engine looks for or makes below a folder, found in its own code.

    These are texts that are a file's name, those that are joined to a path, and what is made of such a name by putting
    a dot before it or something behind it, as in `.poetry.lock.txt`.
    """
    found: set[str] = set()
    frames: set[tuple[str, str]] = set()
    modules = [ast.parse(module.read_text()) for module in sorted((ROOT / "engine/django_formula").rglob("*.py"))]
    every = [node for module in modules for node in ast.walk(module)]
    texts = {node.value for node in every if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in every:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _FILE.fullmatch(node.value):
            found.add(node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            found |= {node.right.value} if isinstance(node.right.value, str) else set()
        elif isinstance(node, ast.JoinedStr) and len(node.values) in (2, 3):
            parts = [one.value if isinstance(one, ast.Constant) else None for one in node.values]
            if parts.count(None) == 1 and all(re.fullmatch(r"[\w.-]*", str(part)) for part in parts if part):
                place = parts.index(None)
                frames.add(("".join(map(str, parts[:place])), "".join(map(str, parts[place + 1 :]))))
    made = {f"{before}{name}{after}" for name in found for before, after in frames if before == "." and "/" not in name}
    words = {f"{word}.py" for word in texts if re.fullmatch("[a-z]{3,9}", word)}  # f"{interface}.py"
    usable = {name.replace("*", "x") for name in found | made | words}
    return {name for name in usable if name not in ("", ".", ".git") and not name.startswith(("/", "..", ".git/"))}


def keys_of_paths() -> dict[str, str]:
    """The keys of a site in the schema that name files or folders of its source: key -> how one is said in pillar."""
    schema = yaml.safe_load((ROOT / "django" / "schema.yaml").read_text())["$defs"]
    found = {}
    for key, said in schema["site"]["properties"].items():
        if said.get("$ref") == "#/$defs/paths":
            found[key] = "list"
        elif said.get("$ref") == "#/$defs/relative":
            found[key] = "text"
        elif said.get("propertyNames", {}).get("$ref") == "#/$defs/relative":
            found[key] = "map"
    return found


# The hostile site


def program(name: str, **constants: object) -> str:
    """A hostile program: `detach.py` and another text of the folder, with constants before them."""
    texts = [f"{key} = {value!r}" for key, value in constants.items()]
    return "\n".join([(HOSTILE / "detach.py").read_text(), *texts, name])


class Lair:
    """A host with a hostile site, mallory, and one that it would like to reach, shop."""

    def __init__(self, host: Host, mallory: Site, shop: Site):
        self.host, self.mallory, self.shop = host, mallory, shop
        self.repository = mallory.repository
        self.canaries = Canaries(host)
        self.number = 0
        self.clean = ""

    def prepare(self) -> None:
        """Deploy both sites, and plant the canaries."""
        files = {
            "website/evil.py": (HOSTILE / "evil.py").read_text(),
            "website/urls.py": self.repository.read("website/urls.py").replace(
                "urlpatterns = [",
                "from . import evil\nurlpatterns = [path('evil', evil.run), path('variables', evil.variables),",
            ),
            "evilpkg/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "evilpkg"\nversion = "1"\n',
            "evilpkg/backend.py": (HOSTILE / "backend.py").read_text(),
            "website/settings.py": self.repository.read("website/settings.py")
            + "\nif (BASE_DIR / 'attack.py').exists():\n    exec((BASE_DIR / 'attack.py').read_text())\n",
        }
        self.clean = self.repository.commit(files, "A hostile project")
        self.shop.options["secrets"] = {"TOKEN": {"value": self.canaries.new("secret of shop in pillar")}}
        self.mallory.deploy()  # which builds two virtualenvs, on a loaded machine for longer than TIMEOUTS has
        self.mallory.deploy(timeouts=TIMEOUTS)
        root = self.shop.root
        self.canaries.plant("/root/canary")
        self.canaries.plant(f"{root}/media/canary.txt", mode="0640", owner="shop", group="www-data")
        self.canaries.plant(f"{root}/database/canary", mode="0640", owner="shop", group="shop")
        self.canaries.plant(f"{root}/shared/canary", mode="0640", owner="shop", group="shop")
        self.canaries.plant(f"{root}/log/canary", mode="0640", owner="shop", group="adm")

    def mend(self) -> None:
        """Undo what a test has left: commits, processes of the build user, links in the way."""
        if self.repository.git("rev-parse", "HEAD").strip() != self.clean:
            self.repository.git("reset", "--quiet", "--hard", self.clean)
            self.repository.git("clean", "-fdxq")
            self.repository.push()
        self.host.run("pkill -KILL -u mallory-build; rm -rf /srv/django/mallory/build/requirements*", check=False)

    def commit(
        self, files: Mapping[str, str | bytes | None] | None = None, links: Mapping[str, str] | None = None
    ) -> str:
        """Commit files, and links by their targets."""
        for name, target in (links or {}).items():
            path = self.repository.worktree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or path.exists():
                path.unlink()
            os.symlink(target, path)
        return self.repository.commit(dict(files or {}))

    def requirements(self, text: str = "") -> dict[str, str]:
        """A requirements.txt of which there is no virtualenv yet."""
        self.number += 1
        return {"requirements.txt": f"{DJANGO}\n{text}# {self.number}\n"}

    def attack_build(self, text: str, **constants: object) -> str:
        """Commit a program that runs when the requirements are built."""
        project = self.repository.read("evilpkg/pyproject.toml").replace('version = "1"', 'version = "1"')
        files = {"evilpkg/attack.py": program(text, **constants), "evilpkg/pyproject.toml": project}
        return self.commit({**files, **self.requirements("./evilpkg\n")})

    def start(self, name: str, *argv: str, user: str = "root") -> None:
        """Start a program that goes on until `stop`."""
        self.host.write(f"/run/lair-{name}.json", json.dumps(argv))
        text = "import json, os, sys; a = json.load(open(sys.argv[1])); os.execvp(a[0], a)"
        command = (
            f"setsid setpriv --reuid {user} --regid {user} --clear-groups python3 -c '{text}' /run/lair-{name}.json"
        )
        self.host.run(f"{command} </dev/null >/run/lair-{name}.log 2>&1 & echo $! > /run/lair-{name}.pid")

    def stop(self, name: str) -> str:
        """End such a program, and its children. Returns what it has printed."""
        self.host.run(f"kill -KILL -- -$(cat /run/lair-{name}.pid)", check=False)
        printed = self.host.run(f"cat /run/lair-{name}.log", check=False).stdout
        self.host.run(f"rm -f /run/lair-{name}.*")
        return printed

    def restart(self) -> None:
        """Start the live release of mallory anew."""
        program = f"/etc/supervisor/conf.d/{self.mallory.unit}.conf"
        supervised = self.host.run(["test", "-e", program], check=False).returncode == 0
        manager = "supervisorctl" if supervised else "systemctl"
        self.host.run([manager, "restart", self.mallory.unit], timeout=90, check=not supervised)
        deadline = time.monotonic() + 200
        while self.mallory.get("/healthz").status_code != 200:
            assert time.monotonic() < deadline, "mallory does not come up again"
            time.sleep(0.2)

    def release(self) -> Watched:
        """`django.release mallory`."""
        return salt(self.host, "django.release", "mallory")

    def ask(self, function: str, *arguments: str) -> Watched:
        """Another function of the module, for mallory."""
        return salt(self.host, f"django.{function}", "mallory", *arguments)

    def live(self, text: str, **constants: object) -> str:
        """Run a program inside the live web process. Returns what it prints."""
        response = self.mallory.host.http(
            "/evil", self.mallory.domain, "POST", data=program(text, **constants).encode(), timeout=60
        )
        assert response.status_code == 200, response.text
        return response.text

    @contextmanager
    def nothing_outside(self, *more: str) -> Iterator[list[str]]:
        """Assert that nothing but what mallory's table allows is changed by the block, and no canary is seen.

        What the block appends to the list it is given is looked through for canaries too.
        """
        answers = list(more)
        before = Manifest(self.host)
        yield answers
        after = Manifest(self.host, (self.mallory.name, f"{self.mallory.name}-build", "nobody"))
        violations = Table(self.mallory).violations(self.mallory, before, after)
        assert not violations, "\n".join(f"{path}: {what}" for path, what in list(violations.items())[:40])
        seen = self.canaries.seen(self.mallory, after, *answers)
        assert not seen, seen


def archive(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar archive of files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def victims(host: Host, folder: str, names: Sequence[str], mode: str = "0600") -> None:
    """Files of root in a folder."""
    host.send(archive((name, b"root's\n") for name in names), folder)
    host.run(f"chown -R root:root {folder} && find {folder} -type f -exec chmod {mode} {{}} +")


def owners(host: Host, folder: str) -> dict[str, int]:
    """How many entries of a tree have each owner, mode and type."""
    listed = host.run(["find", folder, "-printf", "%u:%g %m %y\n"]).stdout.splitlines()
    return {line: listed.count(line) for line in sorted(set(listed))}


def tested_repository(host: Host, repositories: Any, name: str) -> Repository:
    """A repository of the example project on a host, by name."""
    made: Repository = repositories(host, f"/srv/git/{name}.git")
    return made


#: For a site on which every command has to end soon.
TIMEOUTS = {"lock": "3s", "build": "30s", "start": "15s"}
#: What a container runs that is to serve again after its restart.
COMMAND = ("sh", "-c", "service supervisor start; service nginx start; exec sleep infinity")
#: The hosts: Debian 12 with systemd, and a plain container without it, with podman's default capabilities.
HOSTS = {
    "systemd": ("bookworm", True),
    "supervisor": ("bookworm", False),
    "systemd, trixie": ("trixie", True),
    "supervisor, trixie": ("trixie", False),
}
EACH_HOST = [name if name == "systemd" else pytest.param(name, marks=pytest.mark.full) for name in HOSTS]


def make_lair(hosts: Callable[..., Host], repositories: Any, kind: str) -> Lair:
    """Both sites, live, on a new host of a kind."""
    release, init = HOSTS[kind]
    options = {} if init else {"init": False, "command": COMMAND, "options": ["--tmpfs=/run"]}
    host = hosts(release, kind="ready", **options)
    shop = Site(host, tested_repository(host, repositories, "shop"), "shop", releases={"drain": "40s"})
    mallory = Site(host, tested_repository(host, repositories, "mallory"), "mallory", neighbour=shop)
    made = Lair(host, mallory, shop)
    made.prepare()
    return made
