"""`django-formula`: bring a host to serve a project from a machine that has Python and ssh, and ask it afterwards.

    django-formula up [USER@]HOST --repository URL|FOLDER --domain NAME [--revision REVISION] [--push [FILE]]
    django-formula VERB [USER@]HOST [ARGUMENT...]

`up` sends the formula over ssh and has its `quickstart` run there, which installs Salt on the host: nothing of Salt is
needed here. A FOLDER is one of this machine: the commit that is checked out in it is sent too, and with `--push` it is
released by `git push live` from then on. VERB is a function of `django` on the host, such as status, plan, release,
rollback, logs or doctor. See docs/guides/laptop.md.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import hashlib
import io
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

#: The formula: in the package as it is installed, else the checkout that this file is in.
_PACKED = Path(__file__).parent / "formula"
FORMULA = _PACKED if _PACKED.exists() else Path(__file__).resolve().parents[2]
#: What a host needs of it.
NAMES = (
    "FORMULA",
    "LICENSE",
    "README.md",
    "_modules",
    "_states",
    "_utils",
    "django",
    "docs",
    "engine",
    "examples",
    "pillar.example",
    "pyproject.toml",
    "quickstart",
    "quickstart.py",
)
#: Where the host has the projects that were sent from folders, and its salt-call.
PROJECTS, SALT_CALL = "/srv/projects", "/opt/django-formula/salt-call"
#: Where the host has what it needs for the pushes to each site.
PUSHES = "/var/lib/django-formula/push"
#: The remote of git by which a folder is pushed.
REMOTE = "live"
#: Prints who one is there, and how root may be asked: `free`, `password` or `none`.
_PROBE = (
    "id -u; if ! command -v sudo >/dev/null; then echo none;"
    " elif sudo -n true 2>/dev/null; then echo free; else echo password; fi"
)
_UNPACK = (
    "d=$(mktemp -d /var/tmp/django-formula.XXXXXX) &&"
    ' if tar -xz --no-same-owner -C "$d"; then echo "$d"; else rm -rf "$d"; false; fi'
)
#: Of root: puts a project into its place, where no site reads another one's code; `$1` is the folder that was sent,
#: `$2` the project's, and what follows are its beginnings: one that has none of those recorded is another project.
_PLACE = (
    'set -e; umask 022; sent=$1; at=$2; shift 2; mkdir -p "${at%/*}"; origin="${at%/*}/.${at##*/}.origin";'
    ' same=; for one; do if grep -qsxF "$one" "$origin"; then same=yes; fi; done;'
    ' if [ $# -gt 0 ] && [ -s "$origin" ] && [ -z "$same" ]; then'
    ' echo "django-formula: $at of this host is another project, whose folder has the same name" >&2;'
    ' echo "  give yours another name; or, where it is the same project, run on the host: rm $origin" >&2; exit 1; fi;'
    ' if [ ! -e "$at" ] && [ -e "$at.old" ]; then mv "$at.old" "$at"; fi;'  # of a run that was killed in between
    ' rm -rf "$at.new" "$at.old"; mkdir -m 0700 "$at.new"; tar -xf "$sent/project.tar" --no-same-owner -C "$at.new";'
    ' if [ $# -gt 0 ]; then printf "%s\\n" "$@" >"$origin.new"; mv "$origin.new" "$origin"; fi;'
    ' if [ -e "$at" ]; then mv "$at" "$at.old"; fi; mv "$at.new" "$at"; rm -rf "$at.old"'
)


class LaptopError(Exception):
    """What failed, the cause, and a way out; a line each."""


class Remote(NamedTuple):
    """A host that is reached by ssh.

    Attributes:
        name: as ssh takes it: a host, or a user and a host.
        options: of ssh, before the name.
        sudo: what a command of root begins with.
    """

    name: str
    options: tuple[str, ...]
    sudo: tuple[str, ...] = ()

    def answer(self, command: str, expected: str, stdin: bytes = b"") -> tuple[str, ...]:
        """Return the groups of a pattern in the last lines that a command of sh prints, whatever the login's shell is.

        Raises:
            LaptopError: it failed, and what it wrote to the terminal is there already; or it prints something else.
        """
        argv = ["ssh", *self.options, self.name, shlex.join(["sh", "-c", command])]
        done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise LaptopError(
                f"{self.name} cannot be reached, or a command failed there (exit {done.returncode})",
                f"try: {shlex.join(['ssh', self.name, 'true'])}",
            )
        found = re.search(rf"(?:^|\n){expected}\s*$", done.stdout.decode(errors="replace"))
        if not found:
            raise LaptopError(
                f"{self.name} answers otherwise than a shell of Linux does",
                f"see what it prints: {shlex.join(['ssh', self.name, 'id -u'])}",
            )
        return found.groups()

    def end(self, command: str) -> None:
        """Run a command of the login's shell that cleans up; it may fail."""
        argv = ["ssh", *self.options, self.name, command]
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def run_as_root(self, command: str) -> int:
        """Run a command of root with this terminal, if there is one; return how it ended."""
        terminal = ["-t"] if sys.stdin.isatty() else []
        argv = ["ssh", *self.options, *terminal, self.name, shlex.join([*self.sudo, "sh", "-c", command])]
        return subprocess.run(argv, check=False).returncode


@contextlib.contextmanager
def reached(name: str) -> Iterator[Remote]:
    """Log in once, and say how root is asked there; what follows uses the same connection.

    Raises:
        LaptopError: there is no way to root.
    """
    with tempfile.TemporaryDirectory(prefix="djf-", dir="/tmp") as folder:  # nosec B108 - sockets have short paths
        shared = ("-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C", "-o", "ControlPersist=60")
        remote = Remote(name, shared)
        try:
            uid, sudo = remote.answer(_PROBE, r"(\d+)\n(free|password|none)")
            if uid != "0" and sudo == "none":
                raise LaptopError(
                    f"{name} has no sudo, and its user is not root",
                    f"log in as root: django-formula … root@{name.rpartition('@')[2]}",
                )
            if uid != "0" and sudo == "password" and not sys.stdin.isatty():
                raise LaptopError(
                    f"sudo of {name} asks for a password, and this is no terminal",
                    "run it at a terminal, or allow that user sudo without a password (NOPASSWD)",
                )
            how = {"free": ("sudo", "-n"), "password": ("sudo",)}
            yield remote if uid == "0" else remote._replace(sudo=how[sudo])
        finally:
            subprocess.run(["ssh", *shared, "-O", "exit", name], stderr=subprocess.DEVNULL, check=False)


def project(folder: Path) -> bytes:
    """Return the files of the commit that is checked out in a folder, as a tar archive.

    Raises:
        LaptopError: it is no git repository, or has no commit.
    """
    done = subprocess.run(
        ["git", "-C", str(folder), "archive", "--format=tar", "HEAD"], capture_output=True, check=False
    )
    if done.returncode:
        raise LaptopError(
            f"{folder} has no commit to send: {done.stderr.decode(errors='replace').strip()}",
            "make one in it: git init && git add --all && git commit",
        )
    listed = _printed(["git", "-C", str(folder), "ls-tree", "-r", "-z", "HEAD"]).split("\0")
    if modules := [entry.partition("\t")[2] for entry in listed if entry.startswith("160000 ")]:
        raise LaptopError(
            f"{folder} has submodules, which are not part of its commit: {', '.join(map(repr, modules[:5]))}",
            "push it, and have the host fetch it with them: --repository URL",
        )
    return done.stdout


def beginnings(folder: Path) -> list[str]:
    """Return what tells the project of a folder from others of its name; nothing for a clone without its history.

    It is the first commits of its repository, each with the place of the folder there.
    """
    git = ["git", "-C", str(folder)]
    if _printed([*git, "rev-parse", "--is-shallow-repository"]).strip() != "false":
        return []
    part = hashlib.sha256(_printed([*git, "rev-parse", "--show-prefix"]).encode()).hexdigest()[:12]
    return [f"{commit}-{part}" for commit in _printed([*git, "rev-list", "--max-parents=0", "HEAD"]).split()]


def archive(sent: bytes | None) -> bytes:
    """Return the formula, and a project next to it, as a compressed tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in NAMES:
            tar.add(FORMULA / name, f"formula/{name}", filter=_plain)
        if sent is not None:
            member = tarfile.TarInfo("project.tar")
            member.size, member.mode = len(sent), 0o600
            tar.addfile(member, io.BytesIO(sent))
    return buffer.getvalue()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what Python has compiled, and who owns the files here."""
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def place(folder: Path) -> str:
    """Return where the host has a project of a folder here.

    Example: ``place(Path("~/My Blog")) == "/srv/projects/my-blog"``

    Raises:
        LaptopError: its name has no letter or digit.
    """
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    if not name:
        raise LaptopError(f"{folder.resolve()} has a name without a letter or digit of ASCII", "rename it")
    return f"{PROJECTS}/{name}"


def site_name(target: str) -> str:
    """Return what quickstart calls the site of a project on the host, as its own `site_name` does.

    Example: ``site_name("/srv/projects/2-my-blog") == "my-blog"``
    """
    return target.rpartition("/")[2].lstrip("-0123456789")[:20].rstrip("-") or "site"


# What is pushed from here


def public_key(path: str, host: str) -> str:
    """Return the public key of a file, without its comment; without a path the first one that ssh would use there.

    Raises:
        LaptopError: there is none, or the file has none.
    """
    if path:
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise LaptopError(f"{path} cannot be read: {error.strerror}", f"name a key: {_KEY_OPTION}") from None
        if not (found := _KEY.match(text)):
            raise LaptopError(f"{path} is no public key", f"name the file that ends in .pub: {_KEY_OPTION}")
        return found[1]
    for line in _printed(["ssh", "-G", host]).splitlines():
        if line.startswith("identityfile "):
            with contextlib.suppress(OSError):
                file = Path(f"{line.partition(' ')[2]}.pub").expanduser()
                if found := _KEY.match(file.read_text(encoding="utf-8", errors="replace")):
                    return found[1]
    for line in _printed(["ssh-add", "-L"]).splitlines():
        if found := _KEY.match(line):
            return found[1]
    raise LaptopError("there is no SSH key to push with", f"make one: ssh-keygen -t ed25519, or name it: {_KEY_OPTION}")


#: A public key that hosts take, before its comment.
_KEY = re.compile(r"\s*((?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-[\w@.-]+) [A-Za-z0-9+/]{60,}={0,2})(?=\s|$)")
_KEY_OPTION = "--push FILE.pub"


def _printed(argv: Sequence[str]) -> str:
    """Return what a command prints; an empty text where it fails or is missing."""
    try:
        return subprocess.run(argv, capture_output=True, check=True).stdout.decode(errors="replace")
    except (OSError, subprocess.CalledProcessError):
        return ""


def pusher() -> str:
    """Return the name that the pushes from here have on the host: the user's, as the pillar takes names."""
    return re.sub(r"[^a-z0-9_-]+", "-", getpass.getuser().lower()).lstrip("-_0123456789")[:31] or "laptop"


def refuse_part(folder: Path) -> None:
    """Check that a folder is the top of its repository, which is pushed as a whole.

    Raises:
        LaptopError: it is a part of one.
    """
    if above := _printed(["git", "-C", str(folder), "rev-parse", "--show-prefix"]).strip():
        top = folder.resolve().parents[above.strip("/").count("/")]
        raise LaptopError(f"git pushes whole repositories, and {folder} is a part of one", f"--repository {top}")


def have_remote(folder: Path, host: str, site: str) -> None:
    """Have `git push live` in a folder push the commit that is checked out to a site; say so.

    Raises:
        LaptopError: the folder has another remote of that name.
    """
    way, at = ("ssh://", "/") if host.startswith("ssh://") else ("", ":")
    machine = host.removeprefix(way).rpartition("@")[2]
    if not way and ":" in machine:  # an address of IPv6, whose first part git would take for the host
        machine = f"[{machine}]"
    url = f"{way}{site}-push@{machine}{at}{site}"
    git = ["git", "-C", str(folder)]
    present = _printed([*git, "config", "--get", f"remote.{REMOTE}.url"]).strip()  # before `insteadOf`
    if present and present != url:
        raise LaptopError(f"{folder} has a remote {REMOTE} already, {present}", f"push by: git push {url} HEAD:main")
    if not present:
        subprocess.run([*git, "remote", "add", REMOTE, url], check=True)
    if not _printed([*git, "config", "--get-all", f"remote.{REMOTE}.push"]):
        subprocess.run([*git, "config", f"remote.{REMOTE}.push", "HEAD:refs/heads/main"], check=True)
    print(f"\nFrom now on, in {folder.resolve()}: git push {REMOTE}")


def up(given: argparse.Namespace) -> int:
    """Send the formula, and a project of this machine, and run quickstart there; return how it ended.

    Raises:
        LaptopError: the host cannot be reached, or there is nothing to send or to push.
    """
    options, sent, target = [], None, ""
    known: list[str] = []
    if given.push is not None:
        if not given.repository or not Path(given.repository).is_dir():
            raise LaptopError(
                "--push goes with a folder of this machine", "--repository FOLDER, a clone of the project"
            )
        refuse_part(Path(given.repository))
        options += ["--push", f"{pusher()}={public_key(given.push, given.host)}"]
    if given.repository and Path(given.repository).is_dir():
        if given.revision:
            raise LaptopError(
                "--revision is of a URL: of a folder the commit is sent that is checked out", "git switch"
            )
        folder = Path(given.repository)
        sent, target, known = project(folder), place(folder), beginnings(folder)
        options += ["--repository", target]
    elif given.repository:
        options += ["--repository", given.repository]
    for name in ("revision", "domain"):
        options += [f"--{name}", getattr(given, name)] if getattr(given, name) else []
    with reached(given.host) as remote:
        (at,) = remote.answer(_UNPACK, r"(/var/tmp/django-formula\.\w+)", archive(sent))
        there = shlex.quote(at)
        placing = f"sh -c {shlex.quote(_PLACE)} place {shlex.join([at, target, *known])} && " if target else ""
        run = shlex.join(["bash", f"{at}/formula/quickstart", *options])
        # What root may have made there goes with its shell; the rest also where that was not started.
        ending = f"trap 'rm -rf {there}' EXIT; trap 'exit 130' HUP INT TERM"
        try:
            code = remote.run_as_root(f"{ending}; {placing}{run}; exit $?")
        finally:
            remote.end(f"rm -rf {there}")
        if not code and given.push is not None:
            name = site_name(target)  # or with `-site`, where the host has another user of that name
            listing = f"cd {PUSHES} && ls -d {name} {name}-site 2>/dev/null | head -n 1"
            (site,) = remote.answer(listing, rf"({re.escape(name)}(?:-site)?)")
            have_remote(Path(given.repository), given.host, site)
        return code


def ask(given: argparse.Namespace) -> int:
    """Call a function of `django` on a host, which prints there; return how it ended."""
    if not re.fullmatch(r"[a-z_]+", given.verb):
        raise LaptopError(f"{given.verb} is no verb", "django-formula --help names some")
    with reached(given.host) as remote:
        return remote.run_as_root(shlex.join([SALT_CALL, f"django.{given.verb}", *given.arguments]))


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what was asked for; argparse ends the program where it is not understood."""
    parser = argparse.ArgumentParser(
        prog="django-formula", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    version = re.search(r"(?m)^version: (\S+)$", (FORMULA / "FORMULA").read_text(encoding="utf-8"))
    parser.add_argument("--version", action="version", version=version[1] if version else "")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    first = verbs.add_parser("up", help="bring a host to serve a project")
    first.add_argument("host", metavar="[USER@]HOST")
    first.add_argument("--repository", metavar="URL|FOLDER", help="the project; without it the bundled example")
    first.add_argument("--domain", metavar="NAME", help="its domain; without it the addresses of the host")
    first.add_argument("--revision", metavar="REVISION", help="a branch, tag or commit of the URL")
    first.add_argument(
        "--push", metavar="FILE", nargs="?", const="", help="have git push release it, with your SSH key"
    )
    if arguments and not arguments[0].startswith("-") and arguments[0] != "up":
        other = verbs.add_parser(arguments[0], prefix_chars="\0")  # what follows is the function's
        other.add_argument("host", metavar="[USER@]HOST")
        other.add_argument("arguments", nargs="*")
    given = parser.parse_args(arguments)
    if given.host.startswith("-"):
        parser.error("a host is expected after the verb")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    given = parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        return up(given) if given.verb == "up" else ask(given)
    except LaptopError as error:
        print("django-formula: " + "\n  ".join(error.args), file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        if error.filename not in ("git", "ssh"):
            raise
        print(f"django-formula: {error.filename} is not on the path of this machine\n  install it", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
