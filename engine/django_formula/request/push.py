"""What the SSH key of someone who pushes runs: git receives into the one repository, and its hooks judge and release.

It runs as the user of the site's pushes, who owns the repository and nothing else. What that repository has of
configuration decides nothing: each option that counts is on git's command line, and in an environment of ours. See
docs/decisions/0156.
"""

import contextlib
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from django_formula.request import ask, pack
from django_formula.untrusted.text import shown, tell

HOME = Path("/var/lib/django-formula/push")
#: The folder of the hooks.
HOOKS = Path("/usr/local/lib/django-formula/push-hooks")
#: What clients of git ask for; their path counts nothing.
_PROGRAMS = ("git-receive-pack", "git-upload-pack")
_ENVIRONMENT = {
    **{"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", "GIT_ADVICE": "0"},
    **{"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1"},
}
_OPTIONS = {
    "core.hooksPath": str(HOOKS),
    "receive.procReceiveRefs": "refs/heads",
    "receive.denyDeletes": "true",
    "receive.fsckObjects": "true",
    "receive.autogc": "false",
    "receive.unpackLimit": "1",
    "receive.advertiseAtomic": "false",
    "receive.advertisePushOptions": "true",
    "core.bigFileThreshold": "16m",
    "core.fsmonitor": "false",
    "core.alternateRefsCommand": "true",
    "pack.threads": "1",
    "pack.deltaCacheSize": "16m",
}
_MEMORY, _CPU, _PROCESSES = 1 << 31, 600, 128
#: Bytes of a push that are judged at a time.
_CHUNK = 1 << 16
_NONE = "0" * 40
#: The most characters of a cause on the line of git that rejects a branch.
_CAUSE = 200


def main(*arguments: str) -> int:
    """Run the forced command of a key, ``ssh SITE NAME``, or the hook of git of a name; return the exit code."""
    match arguments:
        case ("ssh", site, name):
            return _ssh(site, name)
        case ("pre-receive",):
            return _pre_receive()
        case ("proc-receive",):
            return _proc_receive()
    tell("this program is run by SSH keys and by git: docs/guides/git-push.md", is_error=True)
    return 2


def configuration(site: str) -> dict[str, Any]:
    """Return what root has configured for the pushes to a site."""
    found: dict[str, Any] = json.loads((HOME / site / "config.json").read_text(encoding="utf-8"))
    return found


def program(asked: str) -> str:
    """Return the program of git that a client asks for, or an empty text."""
    with contextlib.suppress(ValueError):
        words = shlex.split(asked)
        if len(words) == 2 and words[0] in _PROGRAMS:
            return words[0].removeprefix("git-")
    return ""


def _ssh(site: str, name: str) -> int:
    found = program(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    if not found:
        tell(f"{name} may push to {site} and nothing else: git push (docs/guides/git-push.md)", is_error=True)
        return 2
    config = configuration(site)
    environment = {**_ENVIRONMENT, "PUSH_SITE": site, "PUSH_BY": name}
    environment["PUSH_FROM"] = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    if re.fullmatch(r"version=[0-9]", os.environ.get("GIT_PROTOCOL", "")):
        environment["GIT_PROTOCOL"] = os.environ["GIT_PROTOCOL"]
    options = _OPTIONS | {f"receive.fsck.{name}": "ignore" for name in config["harmless"]}
    options |= {"receive.maxInputSize": str(config["size"])}
    words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    for limit, value in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, _CPU),
        (resource.RLIMIT_FSIZE, config["quota"]),
        (resource.RLIMIT_NPROC, _PROCESSES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    os.umask(0o077)
    os.chdir("/")
    argv = ["/usr/bin/git", *words, found, config["repository"]]
    if found == "receive-pack":
        return _receive(argv, environment, config["files_size"])
    return os.execve(argv[0], argv, environment)  # noqa: S606 # nosec B606


def _receive(argv: list[str], environment: dict[str, str], allowed: int) -> int:
    """Run git, which answers the client itself, on what of a push was judged; return its exit code."""
    git = subprocess.Popen(argv, stdin=subprocess.PIPE, bufsize=0, env=environment)  # noqa: S603
    threading.Thread(target=_relay, args=(git.stdin, allowed), daemon=True).start()
    return git.wait()


def _relay(git: IO[bytes], allowed: int) -> None:
    with git, contextlib.suppress(OSError):
        try:
            pack.Push(lambda: os.read(0, _CHUNK), git.write, allowed).relay()
        except pack.Refusal as refused:
            tell(refused, is_error=True)


# Before objects are taken in


def _pre_receive() -> int:
    config = configuration(os.environ["PUSH_SITE"])
    for line in sys.stdin:
        _old, new, ref = line.split(" ", 2)
        why = refusal_of_ref(config["branch"], new, ref.rstrip("\n")) or _refusal_of_files(new, config)
        if why:
            tell(why, is_error=True)
            return 1
    used = _size(Path(config["repository"]))
    if used > config["quota"]:
        tell(
            f"what was pushed has {used >> 20} MB on this host, more than push:quota ({config['quota'] >> 20} MB) "
            "allows; nothing was changed",
            is_error=True,
        )
        return 1
    return 0


def refusal_of_ref(branch: str, new: str, ref: str) -> str:
    """Return why a ref may not be pushed; empty for the branch that is released."""
    if ref != f"refs/heads/{branch}":
        return f"only {branch} is released from here; nothing was changed (git push live HEAD:{branch})"
    if new == _NONE:
        return f"{branch} cannot be deleted; nothing was changed"
    return ""


def _refusal_of_files(commit: str, config: dict[str, Any]) -> str:
    """Return why the files of a commit are too large or too many; root judges that again, with its submodules."""
    argv = ["/usr/bin/git", "ls-tree", "-r", "-l", "--full-tree", commit]
    number = size = 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            for line in process.stdout or ():
                number += 1
                found = line.split(None, 4)[3]
                size += int(found) if found.isdigit() else 0
                if why := refusal_of_files(commit, number, size, config):
                    return why
        finally:
            process.kill()
    return ""


def refusal_of_files(commit: str, number: int, size: int, config: dict[str, Any]) -> str:
    """Return why a commit with so many files, of so many bytes, is refused; empty for one that is not."""
    if number > config["files"]:
        return f"{commit[:12]} has more than {config['files']} files, which releases:files allows; nothing was changed"
    if size > config["files_size"]:
        allowed = config["files_size"] >> 20
        return (
            f"the files of {commit[:12]} have more than {allowed} MB, which releases:size allows; nothing was changed"
        )
    return ""


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    total = 0
    for parent, _folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


# What becomes of the branch


def _packet(text: str | None = None) -> None:
    data = b"0000" if text is None else b"%04x%s" % (len(text.encode()) + 4, text.encode())
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _packets() -> Iterator[str]:
    read = sys.stdin.buffer.read
    while size := int(read(4), 16):
        yield read(size - 4).decode(errors="replace").rstrip("\n")


def _proc_receive() -> int:
    """Speak git's protocol of this hook: https://git-scm.com/docs/githooks#proc-receive."""
    offered = next(_packets())
    for _rest in _packets():
        pass
    has_options = "push-options" in offered
    _packet("version=1\0push-options\n" if has_options else "version=1\n")
    _packet()
    commands = [line.split(" ", 2) for line in _packets()]
    options = [*_packets()] if has_options else []
    for _old, new, ref in commands:
        for line in _report(ref, new, "rewind" in options):
            _packet(f"{line}\n")
    _packet()
    return 0


def _report(ref: str, new: str, is_rewind: bool) -> list[str]:
    """Have a commit released; return what is reported of its ref."""
    now = _tip(ref)
    why = refusal(new, now, is_part=_is_ancestor(new, now), has=_is_ancestor(now, new), is_rewind=is_rewind)
    if why:
        return [f"ng {ref} {why}"]
    site = os.environ["PUSH_SITE"]
    by = {"by": f"git push ({os.environ['PUSH_BY']})", "from": os.environ.get("PUSH_FROM", "")}
    path = Path(configuration(site)["socket"])
    status, why = ask.ask(path, {"commit": new, "rewind": is_rewind, **by}, lambda step: tell(step, is_error=True))
    if status not in ask.GOOD:
        tell(why, is_error=True)
        return [f"ng {ref} {cause(status, why)}"]
    tell(f"{status}: {why}", is_error=True)
    if status == "released" and _tip(ref) != new:
        _git("update-ref", ref, new, now or _NONE)  # nothing where a newer push has set it meanwhile
    left = _tip(ref)
    return [f"ok {ref}", *([f"option new-oid {left or _NONE}"] if left != new else [])]


def refusal(new: str, now: str, *, is_part: bool, has: bool, is_rewind: bool) -> str:
    """Return why a commit is not to be released, judged by what the branch is now; empty for one that is.

    Args:
        new: the commit that is pushed.
        now: that of the branch; empty before the first push.
        is_part: whether the branch has the new one.
        has: whether the new one has the commit of the branch.
    """
    if not now or has or is_rewind:
        return ""
    if is_part:
        return f"superseded: {new[:12]} is part of {now[:12]}, which is active; to go back: git push -f -o rewind"
    return f"refused: {new[:12]} does not have {now[:12]}, which is active: git pull, or git push -f -o rewind"


def cause(status: str, why: str) -> str:
    """Return status and cause as git has them on one line."""
    return shown(f"{status}: {why.partition(chr(10))[0]}")[:_CAUSE]


def _tip(ref: str) -> str:
    return _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").stdout.strip()


def _is_ancestor(older: str, newer: str) -> bool:
    return bool(older and newer) and _git("merge-base", "--is-ancestor", older, newer).returncode == 0


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run git in the repository of the hook, with the options of its command line."""
    argv = ["/usr/bin/git", "-c", "core.hooksPath=/dev/null", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
