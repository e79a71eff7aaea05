"""The repository of a site in a store elsewhere, by restic: what is in it is encrypted with the site's own password.

restic and ssh are what talks to the store, so they run as `host.users.COPIER`, which can read nothing of a site: they
get what they send, and return what they fetch, by a pipe or an open file. Each part of a copy is a snapshot of its own.
"""

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from django_formula.host import clock, commands, ssh
from django_formula.host.commands import DeploymentError, TimedOut, size
from django_formula.host.users import COPIER
from django_formula.secret.secrets import KeptSecret
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted import shapes

#: Seconds for a request, and for what sends, fetches or reads data.
_REQUEST, DATA = 120.0, 24 * 3600.0
#: Seconds after which a store that is asked for one small file does not answer.
_ANSWER = 40.0
_OPEN, _OPENING = ("cat", "config", "--quiet", "--no-lock"), "opening the repository"
_SNAPSHOT = [{"id": str, "time": str, "paths": [str], "tags?": ([str], type(None))}]
#: What the store or restic says → what to do.
_HINTS = (
    ("wrong password", "{at}:password is not the one of this repository: the right one was there when it was made"),
    ("Host key verification failed", "add a line of `ssh-keyscan -p {port} {host}` to {at}:known_hosts"),
    ("Permission denied (publickey", "add the public key of {at}:ssh_key to authorized_keys of the user there"),
    ("error in libcrypto", "{at}:ssh_key is not a complete private key, or has a passphrase"),
    ("Access Denied", "let the key read, write and list the bucket, and delete below locks/: docs/guides/offsite.md"),
    ("InvalidAccessKeyId", "correct {at}:key"),
    ("SignatureDoesNotMatch", "correct {at}:secret"),
    ("already locked", "another program of restic works there; if none does: restic unlock"),
    ("repository contains errors", "{damaged}"),
    ("ciphertext verification failed", "{damaged}"),
    ("not found in repository", "{damaged}"),
    ("no snapshot found", "list the copies: salt-call django.backups {site} offsite=True"),
)
_DAMAGED = (
    "the store has lost or changed data: read all of it by `restic check --read-data`, move the repository aside, and "
    "have a new one made by salt-call django.offsite {site}"
)
#: Lines of restic that hide the cause, and what precedes a cause on its line.
_NOISE = re.compile(r"^(unable to open config|Fatal: (unable to open config file: $|repository contains))")
_BEFORE_CAUSE = re.compile(r"^.*?returned error, retrying after [\w.]+: |^Fatal: (unable to open config file: )?")
#: What is below it is the address of the store.
_LAST = "Is there a repository"


def configured(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the pillar has for copies elsewhere; None where it has none."""
    offsite: dict[str, Any] | None = (config.get("backup") or {}).get("offsite")
    return offsite


def options(site: Site) -> dict[str, Any]:
    """Return what the pillar has for the copies of a site that has some; an empty map where it has none."""
    return configured(site.config) or {}


def place(site: Site) -> str:
    """Return where the copies of a site are, as restic names it; with rclone the other side knows the folder."""
    offsite = options(site)
    if offsite["kind"] == "s3":
        endpoint = offsite["endpoint"] or f"https://s3.{offsite['region']}.amazonaws.com"
        return f"s3:{endpoint}/{offsite['bucket']}/{site.name}"
    login = f"{offsite['user']}@{offsite['host']}"
    return f"rclone:{login}" if offsite["kind"] == "rclone" else f"sftp:{login}:{offsite['path']}/{site.name}"


def _of(name: str) -> KeptSecret:
    return KeptSecret(f".offsite_{name}", lambda config: (configured(config) or {}).get(name))


PASSWORD, SECRET, SSH_KEY = _of("password"), _of("secret"), _of("ssh_key")
#: What the formula keeps for the program of the timer, which has no pillar.
SECRETS = (PASSWORD, SECRET, SSH_KEY)


class Snapshot(NamedTuple):
    """A part of a copy.

    Attributes:
        name: of the part, as it was sent.
        tag: what the parts of a copy share: the name of the backup.
        seconds: when the copy was begun, since the epoch.
    """

    id: str
    name: str
    tag: str
    seconds: float


class Repository(NamedTuple):
    """An open repository: restic's options and environment."""

    site: Site
    options: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]

    def send(self, name: str, tag: str, made: str, file: int) -> str:
        """Send a part of a copy, which is read from a descriptor, and return the id of its snapshot.

        Args:
            made: when the copy was begun, as `host.clock` has it: all parts have one time, so that they go together.

        Raises:
            DeploymentError: the store refuses it or cannot be reached.
        """
        words = ["backup", "--quiet", "--json", f"--host={self.site.name}", f"--tag={tag}", "--stdin"]
        words += [f"--time={made.replace('T', ' ').rstrip('Z')}"]
        printed = self._run(*words, f"--stdin-filename={name}", doing=f"copying {name}", stdin=file, timeout=DATA)
        last = printed.strip().rpartition("\n")[2]
        answer: str = shapes.parse(last, {"snapshot_id": str}, doing=f"copying {name}")["snapshot_id"]
        return answer

    def fetch(self, snapshot: str, name: str, file: int) -> None:
        """Write a part of a copy to a descriptor.

        Raises:
            DeploymentError: it is damaged or missing, or the store cannot be reached.
        """
        words = ["dump", "--quiet", "--no-lock", snapshot, f"/{name}"]
        self._run(*words, doing=f"fetching {name}", output=file, timeout=DATA)

    def snapshots(self) -> list[Snapshot]:
        """Return the parts of all copies of the site, the newest first."""
        words = ["snapshots", "--quiet", "--json", "--no-lock", f"--host={self.site.name}"]
        printed = self._run(*words, doing="listing the copies")
        listed = shapes.parse(printed.strip() or "null", (_SNAPSHOT, type(None)), doing="listing the copies") or []
        made = [
            Snapshot(one["id"], one["paths"][0].lstrip("/"), one["tags"][0], clock.seconds(f"{one['time'][:19]}Z"))
            for one in listed
            if one["paths"] and one.get("tags")
        ]
        return sorted(made, key=lambda one: (one.seconds, one.name), reverse=True)

    def check(self, *, data: str = "") -> None:
        """Check that everything is there that the snapshots consist of.

        Args:
            data: the share of the data that is read too: ``5%``.

        Raises:
            DeploymentError: it is not, or is damaged.
        """
        words = ["check", "--quiet", "--no-lock", *([f"--read-data-subset={data}"] if data else [])]
        self._run(*words, doing="checking the repository", timeout=DATA)

    def forget(self, ids: Collection[str]) -> None:
        """Delete snapshots, and the data that no other one has."""
        self._run("unlock", "--quiet", doing="removing locks of what was killed")
        self._run("forget", "--quiet", "--prune", *ids, doing="deleting former copies", timeout=DATA)

    def unanswered(self) -> DeploymentError | None:
        """Ask the store for one small file; return the error if it does not answer within seconds.

        Commands that send or read data would wait for hours. What the store refuses, they report themselves.
        """
        try:
            self._run(*_OPEN, doing=_OPENING, timeout=_ANSWER)
        except TimedOut as error:
            return error
        except DeploymentError:
            return None
        return None

    def make_sure(self, *, is_new: bool) -> None:
        """Check that the password opens the repository; make one if there is none.

        Args:
            is_new: whether there may be none: no copy of the site is known.
        """
        try:
            self._run(*_OPEN, doing=_OPENING, timeout=_ANSWER)
        except DeploymentError as error:
            if not is_new or not re.search("unable to open config|does not exist", error.log):
                raise
            self._run("init", "--quiet", doing="making the repository")

    def _run(self, *words: str, doing: str, timeout: float = _REQUEST, **streams: Any) -> str:
        command = commands.Command(
            ["restic", *self.options, "--no-cache", *words],
            doing=doing,
            user=COPIER,
            environment=self.environment,
            timeout=timeout,
            secrets=self.secrets,
            **streams,
        )
        try:
            return commands.check(command, commands.execute(command))
        except DeploymentError as error:
            raise _explained(self.site, error) from None


@contextlib.contextmanager
def opened(site: Site) -> Iterator[Repository]:
    """Yield the repository of a site; the caller holds the lock of copies.

    Raises:
        DeploymentError: no apply has kept its password yet.
    """
    offsite, values = options(site), {secret: secret.kept(site) for secret in SECRETS}
    if not offsite or not values[PASSWORD]:
        key = f"{site.at}:backup:offsite"
        text = "has no password of the copies yet" if offsite else "has no copies elsewhere"
        raise DeploymentError(f"{site.name} {text}", hint=f"set {key}, and apply: salt-call state.apply django")
    environment = {"RESTIC_PASSWORD": values[PASSWORD], "TMPDIR": "/tmp", "TZ": "UTC"}  # noqa: S108  # nosec B108
    hidden = tuple(filter(None, values.values()))
    limit = (f"--limit-upload={size(offsite['limit']) >> 10}",) if offsite.get("limit") else ()
    if offsite["kind"] == "s3":
        environment |= {"AWS_ACCESS_KEY_ID": offsite["key"], "AWS_SECRET_ACCESS_KEY": values[SECRET]}
        environment["AWS_DEFAULT_REGION"] = offsite["region"]
        yield Repository(site, (f"--repo={place(site)}", *limit), environment, hidden)
        return
    folder, known_hosts, port = sites.RUNTIME / f"{site.name}.offsite", offsite["known_hosts"], offsite["port"]
    with ssh.login(folder, COPIER, key=values[SSH_KEY], known_hosts=known_hosts, port=port) as command:
        program = " ".join([*command, f"{offsite['user']}@{offsite['host']}"])
        if offsite["kind"] == "rclone":  # the key is bound to `rclone serve restic --stdio --append-only FOLDER`
            words = (f"--option=rclone.program={program}", "--repo=rclone:")
        else:
            words = (f"--option=sftp.command={program} -s sftp", f"--repo={place(site)}")
        yield Repository(site, (*words, *limit), environment, hidden)


def _explained(site: Site, error: DeploymentError) -> DeploymentError:
    """Return an error of restic's with the cause in its message, and what to do."""
    offsite, said = options(site), error.log.partition(_LAST)[0]
    lines = [_BEFORE_CAUSE.sub("", line).strip() for line in said.splitlines() if not _NOISE.match(line)]
    # What rclone or ssh has said is why restic has failed.
    cause = next((line[8:] for line in lines if line.startswith("rclone: ")), "")
    cause = cause or next((line for line in reversed(lines) if line), "")
    known = {
        "at": f"{site.at}:backup:offsite",
        "site": site.name,
        **{key: offsite.get(key) for key in ("host", "port")},
    }
    known["damaged"] = _DAMAGED.format(**known)
    hint = next((hint.format(**known) for text, hint in _HINTS if text in error.log), "")
    if isinstance(error, TimedOut):
        doing = error.message.partition(": timed out")[0]
        text = cause[:300] or f"{place(site)} does not answer"
        hint = hint or "see whether the store runs and this host reaches it"
        return TimedOut(f"{doing}: {text} (timed out)", log=error.log, hint=hint, transient=True)
    message = f"{error.message.partition(' failed (exit')[0]}: {cause[:300]}" if cause else error.message
    return DeploymentError(message, log=error.log, hint=hint, transient=error.transient)
