"""nginx in front of a site: a server for each domain, in it the locations of each site, and reloads that are safe."""

import contextlib
import difflib
import fcntl
import functools
import http.client
import os
import re
import ssl
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django_command
import django_port
import django_server
import django_service
import django_settings
import django_site
import django_tls
from django_command import DeploymentError
from django_site import Folder, Site

ETC = Path("/etc/nginx")
IPV6 = Path("/proc/net/if_inet6")
OURS = "# Written by django-formula"
UPSTREAM, LOCATIONS = "salt://django/files/upstream.conf", "salt://django/files/locations.conf"
DOMAIN, REDIRECT = "salt://django/files/domain.conf", "salt://django/files/redirect.conf"
DEFAULT, TLS = "salt://django/files/default.conf", "salt://django/files/tls.conf"
#: The templates of a site's files.
TEMPLATES = (UPSTREAM, LOCATIONS, DOMAIN, REDIRECT)

#: Seconds to wait for another site's switch.
PATIENCE = 60.0
#: The open lock file, while this process has nginx to itself.
_alone: list[int] = []

#: Files by path; None is a file that must not be there; ``-> target`` is a link.
Files = dict[Path, str | None]


def files(
    site: Site,
    facts: Mapping[str, Any],
    templates: Mapping[str, str],
    through: Path | None = None,
    *,
    upcoming: bool = False,
) -> Files:
    """Every file that nginx needs for a site, and those of its former domains as None.

    Args:
        facts: of the release: ``static_url``, ``media_url``, ``collected``.
        through: the release that nginx reaches; `current`, whatever that names, when it is not given.
        upcoming: whether they are those of the next release, which speaks as the pillar has it.
    """
    config = site.config
    wanted: Files = {}
    # A release that a rollback has brought back may speak otherwise than the pillar has it by now.
    spoken = {} if upcoming else django_site.read_json((through or site.current) / "config/instance.json") or {}
    unix = spoken["address"].startswith("/") if spoken else config["server"]["bind"] == "unix"
    protocol = spoken.get("protocol", config["server"]["protocol"])
    server = django_server.SERVERS[spoken.get("server", config["server"]["kind"])]
    variables = {
        "ours": OURS,
        "site": {**config, "server": {**config["server"], "protocol": protocol}},
        "root": str(site.root),
        "through": str(through or site.current),
        "upstream": f"django-{site.name}",
        "variable": site.name.replace("-", "_"),
        "unix": unix,
        **_listening(site.config["proxy"]["listen"], site.https),
        "static_url": _local(facts.get("static_url", ""), site) if facts.get("collected") is not None else "",
        "media_url": _local(facts.get("media_url", ""), site),
        "timeout": server.timeout(site) + 5,
        "websockets": spoken.get("interface", server.interface(site)) == "asgi",
    }
    wanted[ETC / "conf.d" / f"django-{site.name}.conf"] = django_settings.render(templates, UPSTREAM, **variables)
    wanted[locations(site)] = django_settings.render(templates, LOCATIONS, **variables)
    if site.https:
        wanted[protocols()] = django_settings.render(templates, TLS, ours=OURS)
    for domain in config["domains"]:
        wanted[ETC / "django" / domain / f"{site.name}.conf"] = f"-> ../{site.name}.conf"
        wanted[ETC / "sites-available" / domain] = _server(DOMAIN, domain, templates, variables)
        wanted[ETC / "sites-enabled" / domain] = f"-> ../sites-available/{domain}"
    for domain in config["redirect_domains"]:
        wanted[ETC / "django" / domain / f"{site.name}.redirect"] = "-> /dev/null"
        wanted[ETC / "sites-available" / domain] = _server(REDIRECT, domain, templates, variables)
        wanted[ETC / "sites-enabled" / domain] = f"-> ../sites-available/{domain}"
    return {**_stale(site, set(wanted)), **wanted}


def _listening(http: list[int], https: list[int]) -> dict[str, Any]:
    """What templates know of the ports, and of what this nginx understands."""
    new = bool(https) and version() >= (1, 25, 1)
    return {
        "http": sorted(http),
        "https": sorted(https),
        "ipv6": _has_ipv6(),
        "flags": " ssl" if new else " ssl http2",
        "http2_directive": new,
        "canonical_port": "" if not https or https[0] == 443 else f":{https[0]}",
        "redirects": True,
    }


def _server(template: str, domain: str, templates: Mapping[str, str], variables: Mapping[str, Any]) -> str:
    """The file of a domain."""
    where = {"certificate": django_tls.path_of(domain), "challenges": django_tls.challenges()}
    return django_settings.render(templates, template, domain=domain, **where, **variables)


@functools.cache
def version() -> tuple[int, ...]:
    """The version of nginx; that of today where it is not installed yet."""
    try:
        said = django_command.run(["nginx", "-v"], doing="nginx -v", errors_too=True)
    except DeploymentError:
        return (1, 26)
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (1, 26)


def protocols() -> Path:
    """The file with what all servers of https have in common."""
    return ETC / "snippets/django-tls.conf"


def opening(site: Site, templates: Mapping[str, str]) -> Files:
    """The files by which domains that nginx serves by http alone are served by https beside it; none once they are.

    A release that wants https can go live then, and one that goes on without notices nothing.
    """
    if not site.https or not is_installed(site):
        return {}
    wanted: Files = {}
    variables = {"ours": OURS, "site": site.config, **_listening(site.config["proxy"]["listen"], site.https)}
    for domain in site.config["domains"]:
        path = ETC / "sites-available" / domain
        present = read(path)
        if present and _is_ours(path) and f"{django_tls.path_of(domain)};" not in present:
            wanted[path] = _server(DOMAIN, domain, templates, {**variables, "redirects": False})
    return {**wanted, **({protocols(): django_settings.render(templates, TLS, ours=OURS)} if wanted else {})}


def speaks_tls(site: Site) -> bool:
    """Whether nginx serves the site by https, as its files are now."""
    domain = site.config["domains"][0]
    return f"{django_tls.path_of(domain)};" in (read(ETC / "sites-available" / domain) or "")


def connection(site: Site, timeout: float) -> http.client.HTTPConnection:
    """A connection to nginx on this host, as it serves the site now; who has signed its certificate does not matter."""
    text = read(ETC / "sites-available" / site.config["domains"][0]) or ""
    if not speaks_tls(site):
        port = re.search(r"listen (\d+);", text)
        usual = [*site.config["proxy"]["listen"], 80][0]
        return http.client.HTTPConnection("127.0.0.1", int(port[1]) if port else usual, timeout=timeout)
    port = re.search(r"listen (\d+) ssl", text)
    return Secure("127.0.0.1", int(port[1]) if port else 443, site.config["domains"][0], timeout)


class Secure(http.client.HTTPConnection):
    """A connection by TLS to an address, for a name."""

    def __init__(self, address: str, port: int, name: str, timeout: float):
        super().__init__(address, port, timeout=timeout)
        self.name = name

    def connect(self) -> None:
        """Connect, and say the name."""
        super().connect()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=self.name)


def leftovers(site: Site, wanted: Files) -> list[Path]:
    """The certificates of domains of a site that have no https any more once these files are there."""
    own = dict.fromkeys([*site.config["domains"], *site.config["redirect_domains"]])
    own |= dict.fromkeys(path.name for path in wanted if path.parent == ETC / "sites-available")
    left = []
    for domain in own:
        path = ETC / "sites-available" / domain
        text = wanted[path] if path in wanted else read(path)
        if f"{django_tls.path_of(domain)};" not in (text or ""):
            left += django_tls.belongings(domain)
    return left


def change_certificates(texts: Mapping[Path, str]) -> None:
    """Bring certificates in place, and have nginx take those of domains that it serves; or all is as it was before.

    Raises:
        DeploymentError: nginx does not accept them.
    """
    with alone():
        django_site.make_folder(Folder(django_tls.STATE, "root", "root", 0o755))
        django_site.make_folder(Folder(django_tls.STATE / "certificates", "root", "root", 0o700))
        django_site.make_folder(Folder(django_tls.challenges(), "root", "root", 0o755))
        before = {path: django_site.read_text(path) for path in texts}
        _write_secretly(texts)
        if not any(f"{path};" in (read(ETC / "sites-available" / path.stem) or "") for path in texts):
            return
        try:
            check()
            reload()
        except BaseException:
            _write_secretly(before)
            raise


def _write_secretly(texts: Mapping[Path, str | None]) -> None:
    for path, text in texts.items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            django_site.write(path, text, mode=0o600)


def locations(site: Site) -> Path:
    """The file with the locations of a site."""
    return ETC / "django" / f"{site.name}.conf"


def is_installed(site: Site) -> bool:
    """Whether nginx has files of the site."""
    return (ETC / "conf.d" / f"django-{site.name}.conf").exists()


def absent(site: Site) -> Files:
    """The files of a site, all to go."""
    return {
        **_stale(site, set()),
        ETC / "conf.d" / f"django-{site.name}.conf": None,
        ETC / "django" / f"{site.name}.conf": None,
    }


def _stale(site: Site, wanted: set[Path]) -> Files:
    """The files of domains that the site no longer has; a domain's server goes with its last site."""
    stale: Files = {}
    for path in [*ETC.glob(f"django/*/{site.name}.conf"), *ETC.glob(f"django/*/{site.name}.redirect")]:
        if path not in wanted:
            stale[path] = None
            domain = path.parent.name
            others = [other for other in path.parent.iterdir() if other != path]
            if not others and ETC / "sites-available" / domain not in wanted:
                stale[ETC / "sites-enabled" / domain] = None
                stale[ETC / "sites-available" / domain] = None
    return stale


def _local(url: str, site: Site) -> str:
    """The path of a URL that this host serves; empty for another host's, and where the path would hide the site itself.

    Raises:
        DeploymentError: the path has characters that do not belong there.
    """
    parts = urlsplit(url)
    if parts.netloc or not parts.path.strip("/") or not parts.path.startswith("/"):
        return ""
    if not re.fullmatch(r"/[A-Za-z0-9/._~-]+/", parts.path):
        raise DeploymentError(
            f"{site.name} wants its files served from {url!r}",
            hint="STATIC_URL and MEDIA_URL end in a slash and are plain ASCII",
        )
    return parts.path


def differences(wanted: Files) -> dict[str, str]:
    """The files that are not as wanted: path → what differs, as a diff.

    Raises:
        DeploymentError: a file of somebody else is in the way.
    """
    found = {}
    for path, content in wanted.items():
        present = read(path)
        if present != content:
            if present is not None and not _is_ours(path):
                raise DeploymentError(
                    f"{path} is in the way: it was not written by this formula", hint=f"move it away: mv {path} /root/"
                )
            found[str(path)] = _diff(present, content)
    return found


def read(path: Path) -> str | None:
    """What a file of nginx holds, or ``-> target`` of a link; None when it is not there."""
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None


def _is_ours(path: Path) -> bool:
    """Whether a file, or what a link leads to, was written by the formula; a link to nothing may go too."""
    try:
        return not path.is_file() or path.read_text(errors="replace").startswith(OURS)
    except OSError:
        return False


def _diff(old: str | None, new: str | None) -> str:
    if old is None or new is None or new.startswith("-> "):
        return f"new: {new.splitlines()[0] if new.startswith('-> ') else 'file'}" if new else "removed"
    return "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Have nginx to oneself: switches of several sites of this host come one after another, of other processes too.

    Whoever has it may ask for it again.

    Raises:
        DeploymentError: another one has it for longer than `PATIENCE`.
    """
    if _alone:
        yield
        return
    lock = django_site.RUNTIME / "flip.lock"
    if not lock.parent.is_dir():
        django_site.make_folder(django_site.Folder(lock.parent, "root", "root", 0o755))  # whatever the umask is
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip() or "somebody"
                    raise DeploymentError(
                        f"another site of this host is being switched: {holder}; waited {PATIENCE:g} s",
                        hint="wait for it, or end that process; the lock goes with it",
                        transient=True,
                    ) from None
                time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}, since {django_site.now()}\n".encode(), 0)
        _alone.append(descriptor)
        try:
            yield
        finally:
            _alone.clear()
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def apply(wanted: Files) -> None:
    """Bring the files in place and reload nginx; when that fails, everything is as it was before.

    Raises:
        DeploymentError: nginx does not accept the files, those of this site or those of a neighbour; the error names
            file and line. Or it goes on with its old configuration.
    """
    with alone():
        _apply(wanted)


def _apply(wanted: Files) -> None:
    before = {path: read(path) for path in wanted}
    try:
        _install(wanted)
        check()
    except BaseException:
        _install(before)
        raise
    try:
        reload()
    except BaseException:
        _install(before)
        with contextlib.suppress(DeploymentError):
            reload()  # it may have read the new files after all
        raise


def _install(wanted: Files) -> None:
    for path, content in wanted.items():
        if content is None:
            path.unlink(missing_ok=True)
            if path.parent.parent == ETC / "django" and path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        elif read(path) != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith("-> "):
                django_site.link(path, content[3:])
            else:
                django_site.write(path, content)


def check() -> None:
    """Have nginx read its configuration.

    Raises:
        DeploymentError: it refuses; the message is nginx's own, with file and line.
    """
    try:
        django_command.run(["nginx", "-t", "-q"], doing="nginx -t")
    except DeploymentError as error:
        found = re.search(r"\[emerg\] (?:\d+#\d+: )?(.*)", error.log)
        cause = found.group(1) if found else error.message
        raise DeploymentError(
            f"nginx refuses its configuration: {cause}", hint="mend that file; until then nginx is not reloaded"
        ) from None


def leave_out_the_default_site() -> None:
    """Have an nginx that is about to be installed start without Debian's default site: its package keeps what is there.

    That site listens on IPv6 too. Where the kernel has none nginx does not start with it, and is not installed then.
    """
    folder = ETC / "sites-enabled"
    for path in (ETC, folder):
        django_site.make_folder(Folder(path, "root", "root", 0o755))
    django_site.write(folder / "default", "")


def _has_ipv6() -> bool:
    """Whether an interface of this host has an IPv6 address; without the protocol, nginx could not listen on it."""
    return bool(django_site.read_text(IPV6))


def refuse_taken_ports(name: str, ports: list[int], listening: Mapping[int, set[str]] | None = None) -> None:
    """Refuse a site where somebody else than nginx listens on one of its ports: nginx would not start, or not reload.

    Args:
        listening: as `django_port.listening` has found it in this apply.

    Raises:
        DeploymentError: who that is, and the way out.
    """
    for port in ports:
        nginx = django_service.pid(django_service.NGINX)
        holder = django_port.holder(port, but=nginx, ports=listening)
        if holder and listening is not None:  # nginx may have other sockets by now
            holder = django_port.holder(port, but=nginx)
        if holder and holder.unit != "nginx.service":
            stop = f"systemctl disable --now {holder.unit}" if holder.unit else f"ss -ltnp 'sport = :{port}' names it"
            raise DeploymentError(
                f"port {port} is taken by {holder}, so nginx cannot listen there; nothing has been changed",
                hint=f"stop that, if nobody needs it ({stop}), "
                f"or choose another port: django:sites:{name}:"
                + ("tls:listen: [8443]" if port == 443 else "proxy:listen: [8080]"),
            )


def reload() -> None:
    """Reload nginx, or start it where it does not run."""
    django_service.reload(django_service.NGINX)


def refused_ports() -> list[int]:
    """The ports on which our default server refuses unknown hosts."""
    text = django_site.read_text(ETC / "sites-available/django-default") or ""
    return sorted({int(port) for port in re.findall(r"listen (\d+) default_server", text)})


def refused_https_ports() -> list[int]:
    """Those of https."""
    text = django_site.read_text(ETC / "sites-available/django-default") or ""
    return sorted({int(port) for port in re.findall(r"listen (\d+) ssl", text)})


def default_server(
    ports: list[int], templates: Mapping[str, str], without: Collection[Path] = (), https: Collection[int] = ()
) -> Files:
    """The server that refuses unknown hosts, for the ports where nobody else has a default server.

    Args:
        without: files of somebody else that go.
        https: further ports, on which a client of an unknown name gets no certificate either.
    """
    name = "django-default"
    taken = _foreign_defaults(ETC / "sites-available" / name, without)
    free, secure = ([port for port in some if port not in taken] for some in (ports, https))
    if not free and not secure:
        return {ETC / "sites-enabled" / name: None, ETC / "sites-available" / name: None}
    content = django_settings.render(templates, DEFAULT, ours=OURS, **_listening(free, secure))
    return {
        **({protocols(): django_settings.render(templates, TLS, ours=OURS)} if secure else {}),
        ETC / "sites-available" / name: content,
        ETC / "sites-enabled" / name: f"-> ../sites-available/{name}",
    }


def _foreign_defaults(own: Path, without: Collection[Path] = ()) -> set[int]:
    """The ports for which a file of somebody else names a default server."""
    ports = set()
    for path in [ETC / "nginx.conf", *ETC.glob("conf.d/*.conf"), *ETC.glob("sites-enabled/*")]:
        if path.is_file() and path.resolve() != own and path not in without:
            text = re.sub(r"#.*", "", path.read_text(errors="replace"))
            for listen in re.findall(r"(?<![^\s;{])listen\s+([^;]*)default_server", text):
                port = re.search(r"(?:^|:)(\d+)\s", listen)
                ports.add(int(port.group(1)) if port else 80)
    return ports
