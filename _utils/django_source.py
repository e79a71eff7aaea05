"""The source of a release: a commit of a bare mirror, or the files of a local folder, exported without ``.git``."""

import os
import re
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import django_command
import django_site
from django_command import DeploymentError
from django_site import Site

COMMIT = re.compile(r"[0-9a-f]{40}")
_CORRUPT = re.compile(
    r"corrupt|bad object|unable to read|inflate|packfile .* (cannot|does not)|is empty|not a git repository",
    re.IGNORECASE,
)
_REQUIREMENTS = re.compile(r"(^|/)([^/]*requirements[^/]*(/[^/]+)?\.(txt|in)|[^/]*\.lock|pyproject\.toml)$")
_HEADER = re.compile(r"diff --git |index [0-9a-f]+\.\.|--- |\+\+\+ ")
#: How much is shown of what lies between two commits, and of a file that differs.
_COMMITS, _LINES = 20, 60
_GITCONFIG = """\
[safe]
\tdirectory = *
[http]
\tlowSpeedLimit = 1
\tlowSpeedTime = 60
[gc]
\tauto = 0
[maintenance]
\tauto = false
"""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

#: What git says → what it means: (pattern, message, hint, transient). The first that matches is taken.
_REFUSALS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Offending .* key",
        "the host key of {host} is not the one that is pinned",
        "find out why it changed; then correct {at}:known_hosts",
        False,
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "the host key of {host} is not known",
        "pin it: {at}:known_hosts, with a line of `ssh-keyscan {host}` that you have checked",
        False,
    ),
    (
        r"Permission denied|Load key .* (invalid format|error in libcrypto)",
        "{host} refuses the key",
        "put a private key that may read the repository into {at}:deploy_key",
        False,
    ),
    (
        r"Authentication failed|could not read Username|terminal prompts disabled|returned error: 40[13]",
        "{host} wants a login",
        "use an ssh URL with {at}:deploy_key, or a read token in the URL",
        False,
    ),
    (
        r"certificate verif|certificate problem|unable to get local issuer|unknown authority",
        "the certificate of {host} is not trusted here",
        "add its authority to the system's store, or to the file that SSL_CERT_FILE names in Salt's environment",
        False,
    ),
    (
        r"not found|does not exist|not appear to be a git repository|returned error: 404|no such file",
        "there is no repository at {url}",
        "correct {at}:repository",
        False,
    ),
    (
        r"transport '.*' not allowed",
        "{url} uses a protocol that is not allowed",
        "use https, ssh or a path in {at}:repository",
        False,
    ),
)


def _git(
    site: Site,
    *arguments: str,
    doing: str,
    timeout: float = 60.0,
    extra: Mapping[str, str] | None = None,
    mirror: Path | None = None,
) -> str:
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15"]
    ssh += [
        "-o",
        f"UserKnownHostsFile='{site.mirror}/known_hosts'",
        "-o",
        "GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts",
    ]
    if (site.mirror / "deploy_key").exists():
        ssh += ["-i", f"'{site.mirror}/deploy_key'", "-o", "IdentitiesOnly=yes"]
    environment = {
        **django_command.network_environment(),
        "GIT_DIR": str(mirror or site.mirror),
        "GIT_CONFIG_GLOBAL": str(site.mirror / "gitconfig"),
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:file",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": " ".join(ssh),
        "GIT_ADVICE": "0",
        **(extra or {}),
    }
    return django_command.run(["git", *arguments], doing=doing, environment=environment, timeout=timeout)


def _ask_remote(
    site: Site, *arguments: str, doing: str, extra: Mapping[str, str] | None = None, mirror: Path | None = None
) -> str:
    """Run a git command that talks to the remote; its refusals become sentences."""
    timeout = django_command.seconds(site.config["timeouts"]["fetch"])
    try:
        return _git(site, *arguments, doing=doing, timeout=timeout, extra=extra, mirror=mirror)
    except DeploymentError as error:
        url = django_command.redact(arguments[arguments.index("--") + 1])
        fields = {"url": url, "host": _host(url), "at": f"django:sites:{site.name}"}
        for pattern, message, hint, transient in _REFUSALS:
            if re.search(pattern, error.log, re.IGNORECASE):
                raise DeploymentError(
                    f"{doing}: {message.format(**fields)}",
                    log=error.log,
                    hint=hint.format(**fields),
                    transient=transient,
                ) from None
        raise DeploymentError(
            error.message, log=error.log, hint=f"is {fields['host'] or url} reachable from here?", transient=True
        ) from None


def _host(url: str) -> str:
    if "://" in url:
        return urllib.parse.urlsplit(url).hostname or ""
    return url.split(":", 1)[0].rsplit("@", 1)[-1] if ":" in url else "this host"


def prepare(site: Site, deploy_key: str | None) -> None:
    """Make the mirror, and lay the deploy key and the pinned host keys into it."""
    if django_site.read_text(site.mirror / "gitconfig") != _GITCONFIG:
        django_site.write(site.mirror / "gitconfig", _GITCONFIG)
    for path, lines, mode in _ssh_files(site, deploy_key):
        if lines:
            django_site.write(path, lines, mode=mode)
        else:
            path.unlink(missing_ok=True)
    if not (site.mirror / "HEAD").exists():
        _initialise(site, site.mirror)


def unprepared(site: Site, deploy_key: str | None) -> list[str]:
    """The names of the files that `prepare` would write differently."""
    return [
        path.name for path, lines, _mode in _ssh_files(site, deploy_key) if (django_site.read_text(path) or "") != lines
    ]


def _ssh_files(site: Site, deploy_key: str | None) -> Iterator[tuple[Path, str, int]]:
    yield site.mirror / "deploy_key", f"{deploy_key.strip()}\n" if deploy_key else "", 0o600
    yield site.mirror / "known_hosts", "".join(f"{line}\n" for line in site.config["known_hosts"]), 0o644


def _initialise(site: Site, mirror: Path) -> None:
    mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
    _git(site, "init", "--quiet", "--bare", "--template=", str(mirror), doing="making the mirror", mirror=mirror)
    (mirror / "info").mkdir(exist_ok=True)


def has(site: Site, commit: str, mirror: Path | None = None) -> bool:
    """Whether the mirror has a commit."""
    if not ((mirror or site.mirror) / "HEAD").exists():
        return False
    if _loose_kind(mirror or site.mirror, commit) == "commit":
        return True
    try:
        _git(site, "cat-file", "-e", f"{commit}^{{commit}}", doing="looking for a commit", mirror=mirror)
    except DeploymentError:
        return False
    return True


def _loose_kind(mirror: Path, name: str) -> str:
    """What an object is that has a file of its own, as those of a fetch have: no process is needed to know that.

    Empty for one that is packed, damaged or not there.
    """
    try:
        with open(mirror / "objects" / name[:2] / name[2:], "rb") as file:
            header = zlib.decompressobj().decompress(file.read(64), 16)
    except (OSError, zlib.error):
        return ""
    return header.partition(b" ")[0].decode(errors="replace")


def needs_network(site: Site) -> bool:
    """Whether the revision has to be asked from the remote: a branch or a tag, in contrast to a commit or a folder."""
    return not site.config["folder"] and not COMMIT.fullmatch(site.config["revision"])


def resolve(site: Site, revision: str) -> str:
    """The commit of a revision: a full commit as it is, a branch or tag as the remote has it now.

    Raises:
        DeploymentError: the remote does not answer, does not know the revision, or knows a branch and a tag of that
            name.
    """
    if COMMIT.fullmatch(revision):
        return revision
    url = site.config["repository"]
    doing = f"asking {django_command.redact(url)} for {revision}"
    listed = _ask_remote(site, "ls-remote", "--", url, doing=doing, extra={"GIT_DIR": "/nonexistent"})
    refs = {name: commit for commit, name in (line.split("\t", 1) for line in listed.splitlines() if "\t" in line)}
    found = {
        name: refs.get(f"{name}^{{}}", refs[name])
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        if name in refs and (name == "HEAD" or name.startswith("refs/"))
    }
    if len(set(found.values())) > 1:
        branch, tag = (found[f"refs/{kind}/{revision}"][:12] for kind in ("heads", "tags"))
        raise DeploymentError(
            f"{doing}: it is a branch ({branch}) and a tag ({tag})",
            hint=f"say which: django:sites:{site.name}:revision: refs/heads/{revision}",
        )
    if found:
        return next(iter(found.values()))
    if re.fullmatch(r"[0-9a-f]{7,39}", revision):
        fetch(site, None)
        try:
            full = _git(
                site, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", doing="looking up the short commit"
            ).strip()
        except DeploymentError:
            full = ""
        if full:
            return full
    names = [
        name.split("/", 2)[2]
        for name in refs
        if name.startswith(("refs/heads/", "refs/tags/")) and not name.endswith("^{}")
    ]
    some = f"{', '.join(names[:8]) or 'no branches'}{' …' if len(names) > 8 else ''}"
    raise DeploymentError(
        f"{doing}: there is no such branch, tag or commit",
        hint=f"it has {some}; correct django:sites:{site.name}:revision",
    )


def fetch(site: Site, commit: str | None, *, url: str | None = None, mirror: Path | None = None) -> None:
    """Bring all branches and tags of the remote into the mirror, and the commit if none of them has it.

    Raises:
        DeploymentError: the remote cannot be reached, or it does not have the commit.
    """
    url = url or site.config["repository"]
    doing = f"fetching {django_command.redact(url)}"
    specifications = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
    arguments = ["fetch", "--quiet", "--prune", "--no-write-fetch-head", "--force"]
    _ask_remote(site, *arguments, "--", url, *specifications, doing=doing, mirror=mirror)
    if commit and not has(site, commit, mirror):
        try:
            _ask_remote(site, *arguments, "--", url, f"+{commit}:refs/formula/{commit}", doing=doing, mirror=mirror)
        except DeploymentError as error:
            if error.transient and not re.search(
                "not our ref|no such remote ref|couldn't find remote ref|unadvertised", error.log
            ):
                raise
            raise DeploymentError(
                f"{doing}: it has no commit {commit}", hint=f"was it pushed? correct django:sites:{site.name}:revision"
            ) from None


def fetch_only(site: Site, commit: str) -> None:
    """Bring one commit into the mirror, without its history.

    Raises:
        DeploymentError: the remote cannot be reached, or does not give that commit.
    """
    url = site.config["repository"]
    arguments = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head"]
    _ask_remote(site, *arguments, "--", url, commit, doing=f"fetching {django_command.redact(url)}")


def tree_of_folder(site: Site) -> str:
    """The tree of the local folder as it is now: what git would commit of it, the ignored files left out.

    Raises:
        DeploymentError: the folder is missing, empty, or holds repositories of its own.
    """
    folder = Path(site.config["folder"])
    at = f"django:sites:{site.name}:folder"
    if not folder.is_dir():
        raise DeploymentError(f"there is no folder {folder}", hint=f"correct {at}")
    (site.mirror / "info").mkdir(exist_ok=True)
    attributes = site.mirror / "info" / "attributes"
    if not attributes.exists():
        attributes.write_text("* -text -ident -filter -working-tree-encoding\n")
    index = {"GIT_WORK_TREE": str(folder), "GIT_INDEX_FILE": str(site.mirror / "folder.index")}
    timeout = django_command.seconds(site.config["timeouts"]["fetch"])
    _git(site, "add", "--all", "--", ".", doing=f"reading {folder}", extra=index, timeout=timeout)
    tree = _git(site, "write-tree", doing=f"reading {folder}", extra=index).strip()
    nested = [path for path, _commit in gitlinks(site, tree)]
    if nested:
        raise DeploymentError(
            f"{folder} holds repositories of its own: {', '.join(nested)}",
            hint="use `repository` for a project with submodules",
        )
    return tree


def gitlinks(site: Site, commit: str, mirror: Path | None = None) -> list[tuple[str, str]]:
    """The submodules of a commit: (path, commit) of each."""
    lines = _git(site, "ls-tree", "-r", "-z", commit, doing="listing the commit", mirror=mirror).split("\0")
    entries = (line.split(None, 3) for line in lines if line.startswith("160000 "))
    return [(path, linked) for _mode, _kind, linked, path in entries]


def export(site: Site, commit: str, target: Path) -> None:
    """Write the files of a commit, submodules included, into a new folder.

    A mirror that turns out to be damaged is fetched anew, once.

    Raises:
        DeploymentError: something cannot be fetched, or a file is a pointer of Git LFS.
    """
    if site.config["folder"]:
        _export(site, commit, target, site.mirror)
    else:
        try:
            if not has(site, commit):
                fetch(site, commit)
            _export(site, commit, target, site.mirror, url=site.config["repository"])
        except DeploymentError as error:
            if not _CORRUPT.search(error.log):
                raise
            for name in ("objects", "refs", "packed-refs", "HEAD", "modules", "config"):
                django_site.remove_tree(site.mirror / name)
            _initialise(site, site.mirror)
            fetch(site, commit)
            django_site.remove_tree(target)
            _export(site, commit, target, site.mirror, url=site.config["repository"])
    pointers = lfs_pointers(target)
    if pointers:
        more = f" and {len(pointers) - 3} more" if len(pointers) > 3 else ""
        raise DeploymentError(
            f"{', '.join(pointers[:3])}{more} are Git LFS pointers, not the files themselves",
            hint="Git LFS is not fetched: commit these files themselves, or serve them from elsewhere",
        )


def _export(site: Site, commit: str, target: Path, mirror: Path, url: str | None = None, depth: int = 0) -> None:
    target.mkdir(parents=True, exist_ok=True)
    index = mirror / "export.index"
    index.unlink(missing_ok=True)
    work = {"GIT_WORK_TREE": str(target), "GIT_INDEX_FILE": str(index)}
    _git(site, "read-tree", commit, doing="reading the commit", extra=work, mirror=mirror)
    _git(
        site, "checkout-index", "--all", "--force", doing="exporting the commit", extra=work, mirror=mirror, timeout=600
    )
    index.unlink(missing_ok=True)
    if url and site.config["submodules"]:
        if depth > 5:
            raise DeploymentError(f"{django_command.redact(url)}: submodules are nested more than five deep")
        urls = _submodule_urls(site, target)
        for path, linked in gitlinks(site, commit, mirror):
            if path not in urls:
                raise DeploymentError(
                    f"the submodule {path} has no url in .gitmodules",
                    hint=f"or django:sites:{site.name}:submodules: false",
                )
            address = _absolute(urls[path], url)
            module = site.mirror / "modules" / re.sub(r"[^A-Za-z0-9.-]+", "_", address)[-120:]
            if not (module / "HEAD").exists():
                _initialise(site, module)
            if not has(site, linked, module):
                fetch(site, linked, url=address, mirror=module)
            _export(site, linked, target / path, module, url=address, depth=depth + 1)


def _submodule_urls(site: Site, source: Path) -> dict[str, str]:
    if not (source / ".gitmodules").is_file():
        return {}
    listed = _git(
        site, "config", "--file", str(source / ".gitmodules"), "--null", "--list", doing="reading .gitmodules"
    )
    values: dict[str, dict[str, str]] = {}
    for entry in filter(None, listed.split("\0")):
        key, _newline, value = entry.partition("\n")
        section, _dot, option = key.rpartition(".")
        values.setdefault(section, {})[option] = value
    return {value["path"]: value["url"] for value in values.values() if "path" in value and "url" in value}


def _absolute(url: str, parent: str) -> str:
    """The URL of a submodule, relative ones resolved against the URL of the repository that names them."""
    rest, separator = url, "/"
    while rest.startswith(("./", "../")):
        up, _slash, rest = rest.partition("/")
        if up == "..":
            above = re.fullmatch(r"(.+)([/:])[^/:]+/?", parent)
            if not above:
                raise DeploymentError(f"the submodule url {url!r} leads nowhere")
            parent, separator = above.groups()
    if url.startswith("-"):
        raise DeploymentError(f"the submodule url {url!r} is not a url")
    return url if rest == url else f"{parent}{separator}{rest}"


def lfs_pointers(source: Path) -> list[str]:
    """The files of a source that are pointers of Git LFS."""
    found = []
    for parent, _folders, files in os.walk(source):
        for name in files:
            path = os.path.join(parent, name)
            if not os.path.islink(path) and 100 < os.lstat(path).st_size < 1024:
                with open(path, "rb") as file:
                    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                        found.append(os.path.relpath(path, source))
    return sorted(found)


def describe(site: Site, commit: str) -> dict[str, Any]:
    """Author, subject and date of a commit; of the state of a folder, which folder it is."""
    if site.config["folder"]:
        return {"subject": f"the files of {site.config['folder']}"}
    shown = _git(site, "show", "-s", "--format=%ct%n%an%n%s", commit, doing="reading the commit").strip()
    date, author, subject = [*shown.split("\n", 2), "", ""][:3]
    return {"author": author[:200], "subject": subject[:200], "committed": django_site.written(float(date))}


def difference(site: Site, old: str | None, new: str) -> dict[str, Any]:
    """What lies between two commits: authors and subjects, requirements as a diff, new migrations.

    Returns:
        ``files`` (how many differ), ``commits`` (new ones, the newest first, at most 20), ``left`` (those that are not
        in the new commit), ``requirements`` (path → diff), ``migrations`` (paths).
    """
    if not old or not has_tree(site, old) or not has_tree(site, new):
        return {}
    changed = _git(site, "diff", "--no-renames", "--name-status", "-z", old, new, doing="comparing the commits").split(
        "\0"
    )
    pairs = list(zip(changed[::2], changed[1::2], strict=False))
    answer: dict[str, Any] = {"files": len(pairs)}
    if not site.config["folder"]:
        answer |= {"commits": _log(site, old, new), "left": _log(site, new, old)}
    requirements = [path for _status, path in pairs if _REQUIREMENTS.search(path)]
    answer["requirements"] = {path: _diff(site, old, new, path) for path in requirements[:10]}
    answer["migrations"] = [
        p for status, p in pairs if status == "A" and re.search(r"(^|/)migrations/(?!__init__)[^/]+\.py$", p)
    ]
    return {key: value for key, value in answer.items() if value}


def _log(site: Site, old: str, new: str) -> list[str]:
    """The commits of one that another does not have, a line each."""
    arguments = ["log", "--format=%h %an: %s", "-n", str(_COMMITS + 1), f"{old}..{new}"]
    lines = [line[:200] for line in _git(site, *arguments, doing="listing the commits").splitlines()]
    return [*lines[:_COMMITS], "…"] if len(lines) > _COMMITS else lines


def _diff(site: Site, old: str, new: str, path: str) -> str:
    """What differs in a file between two commits, without its header and without credentials."""
    arguments = ["diff", "--no-renames", "--no-ext-diff", "--no-textconv", "--unified=1", old, new, "--", path]
    lines = _git(site, *arguments, doing="comparing the commits").splitlines()
    lines = [line[:300] for line in lines if not _HEADER.match(line)]
    more = [f"… {len(lines) - _LINES} lines more"] if len(lines) > _LINES else []
    return django_command.redact("\n".join([*lines[:_LINES], *more]))


def has_tree(site: Site, name: str) -> bool:
    """Whether the mirror has that commit or tree."""
    if _loose_kind(site.mirror, name) in ("commit", "tree"):
        return True
    try:
        _git(site, "cat-file", "-e", name, doing="looking for a commit")
    except DeploymentError:
        return False
    return True
