"""The second half of ./quickstart, run by the Python of Salt's own environment: pillar, apply, admin, the answer."""

import argparse
import contextlib
import hashlib
import http.client
import importlib
import json
import os
import pwd
import re
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

FORMULA = Path(__file__).resolve().parent
EXAMPLE = FORMULA / "examples/project"
SALT_CALL = FORMULA.parent / "salt-call"
PILLAR = Path("/etc/django-formula/pillar/django.sls")
STATE = Path("/var/lib/django-formula/quickstart")
SITES = Path("/var/lib/django-formula/sites")
#: Where a site is that quickstart has taken off before, and that is registered no more.
ROOTS = Path("/srv/django")
SYSTEMD = Path("/run/systemd/system")
START = "service supervisor start; service nginx start"
#: The state that repeats the errors of all.
OUTCOME = "All of it has succeeded"
#: How often the pillar is completed by what a failed release names, and options that it leaves as they are.
COMPLETIONS = 6
GIVEN = ("repository", "folder", "revision", "domains", "proxy", "root", "user", "state", "sandbox", "build_sandbox")
#: Seconds for the answer to the question where messages go.
ANSWER = 60
#: What takes messages, by the host of its URL; any other one gets JSON.
FORMATS = {
    "slack": r"hooks\.slack\.com",
    "discord": r"(\w+\.)?discord(app)?\.com",
    "teams": r".*\.(webhook\.office|powerplatform|logic\.azure)\.com(:443)?",
    "ntfy": r"ntfy\..*",
}
PORTS: tuple[int, ...] = (80, *range(8080, 8090))

HEADER = """#!yaml
# Written by quickstart, which leaves it alone once you have edited it. All options are in
# {formula}/pillar.example; to apply a change: {salt_call} state.apply django
"""


class Refusal(Exception):
    """What quickstart cannot do; the message is for its user."""


@dataclass
class Options:
    """The arguments of quickstart so far, kept from run to run.

    repository: a URL or a folder; None is the bundled example
    domains: as they were given; none for the machine's own names
    sites: every site that quickstart has made, `site` is the one that it serves
    pillar: SHA-256 of the pillar as it was last written
    found: options of the site that inspection has found in the project
    learned: options of the site that failed releases have named, by their paths
    push: SSH keys of who pushes to the site, by name; it is pushed once its first release is active
    messages: where messages about problems go: a mail address or a URL; empty for nowhere, None before it was asked
    """

    repository: str | None = None
    revision: str | None = None
    domains: list[str] = field(default_factory=list)
    port: int = 80
    site: str = ""
    sites: list[str] = field(default_factory=list)
    pillar: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)
    push: dict[str, str] = field(default_factory=dict)
    messages: str | None = None

    @classmethod
    def read(cls) -> "Options":
        path = STATE / "options.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self) -> None:
        write(STATE / "options.json", json.dumps(asdict(self), indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file that only root reads."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # else a loss of power may empty it, which then counts as edited
    new.replace(path)


# Options


def choose(before: Options, given: argparse.Namespace) -> Options:
    """Return the options of this run.

    Raises:
        Refusal: they would remove a site that is served, or contradict each other.
    """
    options = replace(before)
    if given.repository:
        options.found = {}
        folder = Path(given.repository)
        options.repository = str(folder.resolve()) if folder.is_dir() else given.repository
        options.revision = given.revision
    elif given.revision:
        options.revision = given.revision
    if options.revision and not options.repository:
        raise Refusal("--revision goes with --repository")
    if options.repository != before.repository:
        options.learned, options.push = {}, {}
    options.push = options.push | keys_of(given.push or [])
    if options.push and not options.repository:
        raise Refusal("--push goes with --repository")
    if options.push and not SYSTEMD.is_dir():
        raise Refusal("--push needs systemd, which this machine does not run")
    options.domains = given.domain or before.domains
    options.site = site_name(options.repository)
    options.sites = sorted({*before.sites, options.site})
    if before.repository and options.site != before.site and (SITES / before.site / "current").exists():
        raise Refusal(
            f"this machine serves {before.site} from {before.repository} already\n"
            f"add the other to {PILLAR}, or ./quickstart --remove first"
        )
    if not is_edited(before):  # else its sites have other ports, and perhaps another proxy
        options.port = free_port(before.port)
    return options


def is_edited(options: Options) -> bool:
    """Return whether the pillar is another one than quickstart has written last."""
    return PILLAR.exists() and digest(PILLAR.read_text()) != options.pillar


def keys_of(given: list[str]) -> dict[str, str]:
    """Return the SSH keys of arguments such as ``ada=ssh-ed25519 AAAA…``.

    Raises:
        Refusal: one is none, by what the pillar takes.
    """
    found = dict(one.partition("=")[::2] for one in given)
    rules = schema()["site"]["properties"]["push"]["properties"]["keys"]
    for name, key in found.items():
        if not re.fullmatch(rules["propertyNames"]["pattern"], name):
            raise Refusal(f"--push: {name} is no name of a key: {rules['propertyNames']['hint']}")
        if not re.fullmatch(rules["additionalProperties"]["pattern"], key):
            raise Refusal(f"--push: {name} has no public SSH key: {rules['additionalProperties']['hint']}")
    return found


def is_pushed(options: Options) -> bool:
    """Return whether the site is one that is pushed, and not released from the repository any more."""
    return bool(options.push) and (SITES / options.site / "current").exists()


def site_name(repository: str | None) -> str:
    """Return a site's name after its repository, other than the existing users of the host: its user is named alike."""
    if not repository:
        return "guestbook"
    user = schema()["user"]
    last = re.split(r"[/:]", repository.rstrip("/").removesuffix("/.git").removesuffix(".git"))[-1]
    name = re.sub(r"[^a-z0-9]+", "-", last.lower()).lstrip("-0123456789")[:20].rstrip("-") or "site"
    taken = not re.fullmatch(user["pattern"], name) or bool(re.search(user["not"]["pattern"], name))
    with contextlib.suppress(KeyError):
        taken = taken or pwd.getpwnam(name).pw_gecos.split(",")[0] != f"Django site {name}"
    return f"{name}-site" if taken else name


def schema() -> dict[str, Any]:
    definitions: dict[str, Any] = yaml.safe_load((FORMULA / "django/schema.yaml").read_text())["$defs"]
    return definitions


def free_port(wanted: int) -> int:
    """Return the wanted port, or the first one that is free or nginx's.

    Raises:
        Refusal: all of them are taken.
    """
    owners: dict[int, str | None] = {}
    for port in [wanted, *PORTS]:
        owners[port] = listener(port)
        if owners[port] in (None, "nginx"):
            if port != wanted:
                say(f"{owners[wanted]} listens on port {wanted}: the site gets port {port}")
            return port
    raise Refusal(f"no port is free: {', '.join(f'{port} ({owner})' for port, owner in owners.items())}")


def listener(port: int) -> str | None:
    """Return the name of the program that listens on a TCP port, or None."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            sockets |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
    if not sockets:
        return None
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in sockets:
                return (descriptor.parent.parent / "comm").read_text().strip()
    return "another program"


def engine(module: str) -> Any:
    """Return a module of the engine."""
    folder = str(FORMULA / "engine")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(module)


def inspect(options: Options) -> dict[str, Any]:
    """Return the options of the site that are found in the source of the project, and need not be completed."""
    failure = engine("django_formula.host.commands").DeploymentError
    inspection = engine("django_formula.inspect.inspection")
    domain = (options.domains or own_names())[0]
    try:
        keys: dict[str, Any] = inspection.found(str(options.repository), options.revision or "HEAD", domain)
    except (failure, OSError) as error:
        say(f"the project is not inspected: {str(error).splitlines()[0]}")
        return options.found
    if keys:
        say(f"found in the project: {', '.join(keys)}")
    return keys


def own_names() -> list[str]:
    """Return the names of this machine: its address, its host names, localhost."""
    names = [address(), socket.gethostname(), "localhost"]
    with contextlib.suppress(OSError, UnicodeError):  # of a host name with more characters than names in DNS may have
        names[1:1] = [info[3] for info in socket.getaddrinfo(names[1], None, flags=socket.AI_CANONNAME)]
    pattern = schema()["host"]["pattern"]
    return [name for name in dict.fromkeys(str(name).lower() for name in names) if re.fullmatch(pattern, name)]


def address() -> str:
    """Return the address of the interface with the default route, of IPv4 if there is one, or an empty text."""
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # nothing is sent
            return str(probe.getsockname()[0])
    return ""


# The pillar


def pillar_of(options: Options) -> str:
    """Return the text of the pillar: the site, and former ones as absent."""
    site: dict[str, Any] = {}
    if is_pushed(options):
        site["push"] = {"keys": options.push}
    elif options.repository and not is_plain_folder(options):
        site = {"repository": options.repository} | ({"revision": options.revision} if options.revision else {})
    else:
        site["folder"] = options.repository or str(EXAMPLE)
    site["domains"] = options.domains or own_names()
    if options.port != 80:
        site["proxy"] = {"listen": [options.port]}
    site |= {key: value for key, value in options.found.items() if key not in site}
    for path, value in options.learned.items():
        put(site, path.split(":"), value)
    former = {name: {"state": "absent"} for name in options.sites if name != options.site}
    pillar = {"django": {"sites": {options.site: site, **former}} | channel(options.messages)}
    text: str = engine("django_formula.untrusted.text").pillar_block(0, pillar)
    return f"{HEADER.format(formula=FORMULA, salt_call=salt_call())}{text}\n"


def channel(place: str | None) -> dict[str, Any]:
    """Return the channel of messages that go to an address or a URL; nothing where they go nowhere."""
    if not place:
        return {}
    if "://" not in place:
        return {"notify": {"messages": {"mail": [place]}}}
    host = place.split("/")[2]
    forms = (form for form, pattern in FORMATS.items() if re.fullmatch(pattern, host))
    return {"notify": {"messages": {"url": place, "format": next(forms, "json")}}}


def ask_for_messages(options: Options) -> bool:
    """Ask once, at a terminal, where messages about problems go; return whether the pillar has changed.

    A pillar that was edited may name a place already: nothing is asked. What was typed or pasted before is for the
    shell, and who does not answer within a minute is asked by the next run.
    """
    is_own = PILLAR.exists() and not is_edited(options)
    if options.messages is not None or not is_own or not sys.stdin.isatty() or has_input(0):
        return False
    rules = schema()
    url, mailbox = rules["notify"]["additionalProperties"]["properties"]["url"]["pattern"], rules["mailbox"]["pattern"]
    question = "\nWhere shall messages about problems go? A mail address or the URL of a webhook; empty for nowhere: "
    while True:
        print(question, end="", flush=True)
        line = sys.stdin.readline() if has_input(ANSWER) else ""
        if not line:
            print()
            return False
        place = line.strip()
        if not place or re.fullmatch(mailbox, place) or (place.startswith("http") and re.fullmatch(url, place)):
            break
        print("Neither an address such as ops@example.org nor a URL such as https://ntfy.sh/example")
    options.messages = place
    return keep_pillar(options, is_asked=False)


def has_input(seconds: float) -> bool:
    """Return whether there is something to read from the terminal within some seconds."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def put(site: dict[str, Any], path: list[str], value: Any) -> None:
    """Set an option of a site by its path; a map is added to the one that is there."""
    *above, key = path
    for one in above:
        site[one] = dict(site.get(one) or {})
        site = site[one]
    is_map = isinstance(value, dict) and isinstance(site.get(key), dict)
    site[key] = {**site[key], **value} if is_map else value


def is_plain_folder(options: Options) -> bool:
    """Return whether a folder is served as it is: without a revision, and not a bare repository."""
    folder = Path(options.repository or "")
    return folder.is_dir() and not options.revision and not (folder / "objects").is_dir()


def salt_call() -> str:
    """Return the command of the salt-call that is configured for this formula."""
    short = Path("/usr/local/bin/salt-call")
    return "salt-call" if short.resolve() == SALT_CALL else str(SALT_CALL)


def keep_pillar(options: Options, is_asked: bool) -> bool:
    """Write the pillar unless it has been edited; return whether it has changed.

    Raises:
        Refusal: it has been edited, and an argument would have to be written into it.
    """
    text = pillar_of(options)
    present = PILLAR.read_text() if PILLAR.exists() else None
    if is_edited(options):
        if is_asked:
            raise Refusal(f"{PILLAR} has been edited; edit it for this too, then run {salt_call()} state.apply django")
        return False
    options.pillar = digest(text)
    options.write()
    if present != text:
        write(PILLAR, text)
    return present != text


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# The apply


def without_logins(text: str) -> str:
    """Return a text in whose URLs no login and password can be read."""
    shown: str = engine("django_formula.untrusted.text").without_logins(text, "**********@")
    return shown


def say(text: str) -> None:
    text = without_logins(text)
    print(f"{time.time() - BEGAN:5.0f} s  {text}", flush=True)
    HEARTBEAT.said(text)


class Heartbeat:
    """Print a line whenever none was printed for a while, with what the last one said and for how long."""

    EVERY = 4.0

    def __init__(self) -> None:
        self.text, self.since = "applying the formula", time.monotonic()
        self.line = threading.Event()

    def said(self, text: str) -> None:
        if " so far" not in text:
            self.text, self.since = text, time.monotonic()
        self.line.set()

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Print while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=[ended], daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            self.line.set()
            thread.join()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.is_set():
            if not self.line.wait(self.EVERY):
                say(f"{self.text} takes {time.monotonic() - self.since:.0f} s so far")
            self.line.clear()


HEARTBEAT = Heartbeat()


class Progress:
    """Print what Salt logs: the lines of the formula's engine, and what is being installed once it takes a while."""

    def __init__(self, sites: list[str]):
        self.own = re.compile(rf"\[INFO    \] ((?:{'|'.join(map(re.escape, sites))}): .*|.* takes \d+ s so far.*)")
        self.slow: threading.Timer | None = None

    def see(self, line: str) -> None:
        told = self.own.match(line)
        began = re.match(r"\[INFO    \] Executing state \S+ for \[(.*) (?:is|are) installed\]", line)
        if told:
            say(told[1][:110])
        elif began:
            self.slow = threading.Timer(0.3, say, [f"installing {began[1][0].lower()}{began[1][1:]}"])
            self.slow.start()
        elif self.slow and line.startswith("[INFO    ] Completed state"):
            self.slow.cancel()


def salt(function: str, *arguments: str, progress: Progress | None = None) -> tuple[Any, int]:
    """Call Salt and return its answer and exit code; its log goes to quickstart's log.

    Raises:
        Refusal: the answer is not JSON.
    """
    argv = [str(SALT_CALL), "--log-level=info", "--out=json", function, *arguments]
    with tempfile.TemporaryFile("w+") as answer, open(STATE / "log", "a") as log:
        with (
            HEARTBEAT.beating(),
            subprocess.Popen(  # noqa: S603 - an argument list, never a shell
                argv, stdout=answer, stderr=subprocess.PIPE, text=True, errors="replace"
            ) as process,
        ):
            for line in process.stderr or ():
                log.write(line)
                if progress:
                    progress.see(line)
        answer.seek(0)
        text = answer.read()
        log.write(text)
    try:
        return json.loads(text)["local"], process.returncode
    except (ValueError, KeyError):
        raise Refusal(f"{function} gives no answer (exit {process.returncode}); see {STATE / 'log'}") from None


def apply(options: Options, *arguments: str) -> list[dict[str, Any]]:
    """Apply the formula and return the states in the order in which they ran.

    Raises:
        Refusal: a state failed; the message is the formula's.
    """
    answer, code = salt("state.apply", *(arguments or ("django",)), progress=Progress(options.sites))
    if not isinstance(answer, dict):
        raise Refusal(in_few_lines(answer if isinstance(answer, list) else [str(answer)]))
    states = sorted(answer.values(), key=lambda state: state["__run_num__"])
    messages = [told for state in states if state["result"] is False and (told := message(state))]
    if messages or code:
        raise Refusal(in_few_lines(messages or [f"state.apply exits {code}"]))
    return states


def message(state: dict[str, Any]) -> str:
    """Return why a state failed; an empty text when only a requisite failed, and for the state that repeats errors."""
    if state["comment"].startswith("One or more requisite") or state.get("__id__") == OUTCOME:
        return ""
    name = str(state["name"])
    return name if state["comment"] == "Failure!" else f"{name}: {state['comment']}"


def in_few_lines(messages: list[str]) -> str:
    lines = [line[:300] for line in "\n".join(messages).splitlines() if line.strip()]
    return "\n".join(lines if len(lines) <= 9 else [*lines[:8], f"… {len(lines) - 8} lines more: {STATE / 'log'}"])


# A pillar that is not complete


def attempts(site: str) -> list[dict[str, Any]]:
    """Return what is recorded of the deployments of a site, in their order."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (SITES / site / "deploys.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # one that a loss of power has cut
                found.append(json.loads(line))
    return [attempt for attempt in found if isinstance(attempt, dict)]


def named(options: Options) -> dict[str, Any]:
    """Return the options that the last release, which failed, has named; empty where there is none."""
    last = (attempts(options.site) or [{}])[-1]
    offered = last.get("options") if last.get("result") in ("failed", "refused") else None
    return {path: value for path, value in (offered or {}).items() if path.split(":")[0] not in GIVEN}


def apply_completed(options: Options) -> tuple[list[dict[str, Any]], bool]:
    """Apply the formula; where the release fails and names what the pillar lacks, add that and apply again.

    Returns:
        The states, and whether the pillar has changed.

    Raises:
        Refusal: it fails, and names nothing more.
    """
    written, before = {options.pillar}, options.learned
    while True:
        learned, count = options.learned, len(attempts(options.site))
        try:
            return apply(options), len(written) > 1
        except Refusal as failure:
            if len(written) > 1 and len(attempts(options.site)) == count:  # the pillar does not take what was added
                options.learned = before
                keep_pillar(options, is_asked=False)
                raise
            added = {} if len(written) > COMPLETIONS else complete(options, written)
            if not added:
                raise
            before = learned
            say(f"the release failed: {str(failure).splitlines()[0]}")
            say(f"added to the pillar: {in_words(added)}; applying again")


def complete(options: Options, written: set[str]) -> dict[str, Any]:
    """Add to the pillar what the last release has named; return that, empty where there is nothing new to try.

    A pillar that has been edited is left alone.

    Args:
        written: the digests of the pillars that were tried.
    """
    added = named(options)
    new = replace(options, learned=completed(options.learned, added))
    is_own = PILLAR.exists() and not is_edited(options)
    if not options.repository or not is_own or digest(pillar_of(new)) in written:
        return {}
    options.learned = new.learned
    keep_pillar(options, is_asked=False)
    written.add(options.pillar)
    return added


def completed(learned: dict[str, Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Return options with further ones, of which a map is added to the one that is there."""
    found = dict(learned)
    for path, value in offered.items():
        both = isinstance(value, dict) and isinstance(found.get(path), dict)
        found[path] = {**found[path], **value} if both else value
    return found


def in_words(offered: dict[str, Any]) -> str:
    """Return options as the pillar has them, on one line."""
    in_pillar = engine("django_formula.untrusted.text").in_pillar
    return "; ".join(f"{path}: {in_pillar(value)}" for path, value in offered.items())


# The admin


def make_admin(site: str) -> str:
    """Create the user `admin` unless it exists; return why there is none."""
    if admin_file(site).exists():
        return ""
    answer, code = salt("django.superuser", site)
    text = str(answer)
    if code == 0 or "already taken" in text:
        return ""
    if "Unknown command" in text:
        return "the project has no users, so there is no admin"
    causes = [line.removeprefix("  | ") for line in text.splitlines() if line.startswith("  | ")]
    return f"no admin has been created: {(causes or [text])[-1][:200]}"


def admin_file(site: str) -> Path:
    return (SITES / site).resolve() / "secrets/superuser-admin"


# The answer


@dataclass
class Page:
    url: str
    status: int
    reason: str


def ask(config: dict[str, Any], path: str = "") -> Page:
    """Request a page of the site from this machine.

    Raises:
        Refusal: there is no answer.
    """
    domain, tls = config["domains"][0], config["tls"]
    scheme, usual = ("http", 80) if tls["kind"] == "none" else ("https", 443)
    said = str((config["proxy"] if scheme == "http" else tls)["listen"][0])
    address, port = said.rpartition(":")[0].strip("[]"), int(said.rpartition(":")[2])
    host = domain if port == usual else f"{domain}:{port}"
    target = f"{config['path'].rstrip('/')}/{path}"
    connection = http.client.HTTPConnection(address or "127.0.0.1", port, timeout=30)
    try:
        if scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it may be by this host's own authority
            connection.connect()
            connection.sock = context.wrap_socket(connection.sock, server_hostname=domain)
        connection.request("GET", target, headers={"Host": host})
        response = connection.getresponse()
        return Page(f"{scheme}://{host}{target}", response.status, response.reason)
    except (OSError, http.client.HTTPException) as error:
        raise Refusal(f"{scheme}://{host}{target} does not answer: {error}") from None
    finally:
        connection.close()


def steps(states: list[dict[str, Any]]) -> Iterator[tuple[float, str]]:
    """Yield the steps of this run with their seconds."""
    for line in (STATE / "steps").read_text().splitlines():
        _began, seconds, text = line.split("\t")
        yield float(seconds), text
    for state in states:
        if state["changes"]:
            yield state["duration"] / 1000, state["__id__"]


def new_packages() -> list[str]:
    """Return the packages that this run has installed."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n"]
    listed = subprocess.run(  # noqa: S603
        query, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    installed = {line.removeprefix("installed ") for line in listed if line.startswith("installed ")}
    return sorted(installed - set((STATE / "packages.before").read_text().split()))


def tell(options: Options, done: list[tuple[float, str]], notes: list[str]) -> None:
    """Print the seconds of each step, what was installed, and where everything is.

    Raises:
        Refusal: the site answers with a status of 500 or more.
    """
    config = json.loads((SITES / options.site / "site.json").read_text())["config"]
    page = ask(config)
    if done:
        tell_seconds(done)
        if (STATE / "steps").stat().st_size:
            tell_installed(config["root"])
    else:
        print(f"\nNothing had to be changed ({time.time() - BEGAN:.1f} s).")
    print()
    for note in [*notes, *missing_names(options.domains)]:
        print(f"  note      {note}")
    print(f"  site      {page.url} answers {page.status} {page.reason}")
    file = admin_file(options.site)
    if file.exists():
        panel = ask(config, "admin/")
        where = f"{panel.url} as " if panel.status in (200, 301, 302) else ""
        print(f"  admin     {where}admin, password in {file}")
    print(f"  pillar    {PILLAR}, applied by: {salt_call()} state.apply django")
    if is_pushed(options):
        machine = f"[{address()}]" if ":" in address() else address()
        to = f"{options.site}-push@{machine}:{options.site}"
        print(f"  push      git push {to} HEAD:main releases a commit: docs/guides/git-push.md")
    print(f"  status    {salt_call()} django.status {options.site}")
    where = f"{salt_call()} django.notify test" if options.messages else "nowhere yet: docs/guides/watch.md"
    print(f"  messages  {where}")
    print(f"  page      {salt_call()} django.page /srv/status writes index.html there: docs/guides/page.md")
    if page.status >= 500:
        raise Refusal(f"{page.url} answers {page.status}")


def missing_names(domains: list[str]) -> Iterator[str]:
    """Yield a note for each domain that has no address, or none of this machine."""
    for domain in domains:
        try:
            addresses = {str(info[4][0]) for info in socket.getaddrinfo(domain, 80)}
        except OSError:
            yield f"{domain} has no address yet: point it to this machine, {address()}"
            continue
        if not any(map(is_own, addresses)):
            where = ", ".join(sorted(addresses))
            yield f"{domain} points to {where}: unless that leads here, point it to this machine, {address()}"


def is_own(address: str) -> bool:
    """Whether an address is one of this machine's."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except OSError:  # of another machine, or of a family that this kernel does not have
        return False
    return True


def overlap() -> float:
    """Return for how many seconds two steps of the first half ran at the same time, as it wrote them down."""
    total, end = 0.0, 0.0
    for line in sorted((STATE / "steps").read_text().splitlines()):
        began, seconds = map(float, line.split("\t")[:2])
        total += max(0.0, min(end, began + seconds) - began)
        end = max(end, began + seconds)
    return total


def tell_seconds(done: list[tuple[float, str]]) -> None:
    together = time.time() - BEGAN
    long = [(seconds, text) for seconds, text in done if seconds >= 0.1]
    saved = overlap()
    if saved >= 0.1:
        long.append((-saved, "of these ran at the same time"))
    rest = together - sum(seconds for seconds, _text in long)
    print("\nSeconds")
    for seconds, text in [*long, (rest, "everything else"), (together, "together")]:
        print(f"{seconds:7.1f}  {text}")


def tell_installed(root: str) -> None:
    packages = new_packages()
    text = f"Salt in {FORMULA.parent}, uv in /usr/local/lib/django-formula, the site in {root}"
    if packages:
        text += f", and {len(packages)} packages of Debian: {' '.join(packages)}"
    print("\nInstalled")
    print(textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))


def serve(given: argparse.Namespace) -> None:
    options = choose(Options.read(), given)
    if options.repository and (given.repository or given.revision or not PILLAR.exists()):
        say(f"inspecting {options.repository}{', which git push releases' if is_pushed(options) else ''}")
        options.found = inspect(options)
    rewritten = keep_pillar(options, is_asked=any([given.repository, given.revision, given.domain, given.push]))
    say(f"applying the formula to {options.site}")
    states, is_completed = apply_completed(options)
    rewritten = rewritten or is_completed
    done = list(steps(states))
    began, has_admin = time.time(), admin_file(options.site).exists()
    if not has_admin:
        say("creating the user admin")
    note = make_admin(options.site)
    if admin_file(options.site).exists() and not has_admin:
        done.append((time.time() - began, "the user admin has been created"))
    has_answer = ask_for_messages(options)
    if has_answer or keep_pillar(options, is_asked=False):
        began, rewritten = time.time(), True
        apply(options)
        what = "the channel of messages" if has_answer else "git push"
        done.append((time.time() - began, f"{what} has been applied"))
    if rewritten:
        done.append((0.0, f"{PILLAR} has been written"))
    notes = [warning for state in states for warning in state.get("warnings", [])]
    if not SYSTEMD.is_dir():
        notes.append(f"nothing starts here by itself; after a restart: {START}")
    tell(options, done, [*notes, note] if note else notes)


def remove(given: argparse.Namespace) -> None:
    """Take the sites of quickstart off; their data only when that is asked for.

    Raises:
        Refusal: one is not gone, or the machine has other sites, which need what quickstart has installed.
    """
    options = Options.read()
    roots = {name: (SITES / name if (SITES / name).exists() else ROOTS / name).resolve() for name in options.sites}
    gone = {"state": "absent", "remove_data": given.remove_data}
    pillar = {"django": {"sites": dict.fromkeys(options.sites, gone)}}
    apply(options, "django.sync,django.clean", f"pillar={json.dumps(pillar)}")
    left = sorted(path.name for path in SITES.iterdir()) if SITES.is_dir() else []
    if {*left} & {*options.sites}:
        raise Refusal(f"{PILLAR} has errors: {salt_call()} state.apply django shows them")
    if left:
        raise Refusal(f"{', '.join(left)} of this machine need Salt, nginx and the packages, so these stay")
    for name, root in roots.items():
        if root.is_dir():
            say(f"the data of {name} stays in {root}; to delete it: rm -r {root}; userdel {name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="quickstart")
    commands = parser.add_subparsers(required=True)
    serving = commands.add_parser("serve")
    serving.set_defaults(command=serve)
    serving.add_argument("--repository")
    serving.add_argument("--revision")
    serving.add_argument("--domain", action="append")
    serving.add_argument("--push", action="append")
    removing = commands.add_parser("remove")
    removing.set_defaults(command=remove)
    removing.add_argument("--remove-data", action="store_true")
    given = parser.parse_args()
    try:
        given.command(given)
    except Refusal as error:
        print(f"\nquickstart: {without_logins(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nquickstart: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


BEGAN = float(os.environ.get("QUICKSTART_BEGAN", time.time()))

if __name__ == "__main__":
    sys.exit(main())
