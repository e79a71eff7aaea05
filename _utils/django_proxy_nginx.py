"""nginx (https://nginx.org/en/docs/) as the proxy of sites: a server for each domain, in it its sites."""

import functools
import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import django_host_command
import django_host_file
import django_host_folder
import django_host_port
import django_host_service
import django_release_settings
from django_host_command import DeploymentError
from django_host_etc import OURS, Files
from django_host_folder import Folder
from django_host_port import Listen, Place
from django_site import Site

ETC = Path("/etc/nginx")
IPV6 = Path("/proc/net/if_inet6")
DAEMON = django_host_service.NGINX

_UPSTREAM, _LOCATIONS = "salt://django/files/nginx/upstream.conf", "salt://django/files/nginx/locations.conf"
DOMAIN, REDIRECT = "salt://django/files/nginx/domain.conf", "salt://django/files/nginx/redirect.conf"
_DEFAULT, TLS = "salt://django/files/nginx/default.conf", "salt://django/files/nginx/tls.conf"
TEMPLATES: tuple[str, ...] = (_UPSTREAM, _LOCATIONS, DOMAIN, REDIRECT)


_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 2592000, "y": 31536000}


def size(text: object) -> int | None:
    """The bytes of a size as nginx writes it, such as ``75M``; None where it is none."""
    found = re.fullmatch(r"([0-9]+)([kmg]?)", str(text).lower())
    return int(found[1]) * _BYTES[found[2]] if found else None


def age(text: str) -> int:
    """The seconds of a time as nginx writes it, such as ``30d`` or ``1y``."""
    number = text.rstrip("".join(_SECONDS))
    return int(int(number) * _SECONDS[text.removeprefix(number)])


def main_file(site: Site) -> Path:
    """The file without which nginx does not serve a site: its upstream."""
    return ETC / "conf.d" / f"django-{site.name}.conf"


def locations(site: Site) -> Path:
    """The file with the locations of a site."""
    return ETC / "django" / f"{site.name}.conf"


def server(domain: str) -> Path:
    """The file with the servers of a domain."""
    return ETC / "sites-available" / domain


def enabled(domain: str) -> Path:
    """The link to that file."""
    return ETC / "sites-enabled" / domain


def share(site: Site, domain: str) -> Path:
    """The link by which a domain has the locations of a site."""
    return ETC / "django" / domain / f"{site.name}.conf"


def shares(site: Site) -> list[Path]:
    """Those links that there are, and the marks of domains that only lead on."""
    return [*ETC.glob(f"django/*/{site.name}.conf"), *ETC.glob(f"django/*/{site.name}.redirect")]


def files(site: Site, variables: Mapping[str, Any], templates: Mapping[str, str]) -> Files:
    """Return what a site has in addition to the servers of its domains."""
    known = {**variables, "shared": _shared_variables(site, variables["addresses"])}
    return {
        main_file(site): django_release_settings.render(templates, _UPSTREAM, **known),
        locations(site): django_release_settings.render(templates, _LOCATIONS, **known),
    }


def _shared_variables(site: Site, addresses: Collection[str]) -> dict[str, Any]:
    """Return the names of nginx's variables whose values follow from options that several sites may share.

    A variable that two sites define alike counts once. nginx warns where its table of variables has too many, and
    refuses names of more than 46 characters; the directives that enlarge it may be in the host's nginx.conf already,
    where a second one is an error.
    """
    proxy, trusted = site.config["proxy"], site.config["proxy"]["trusted"]
    return {
        "during_maintenance": shared_variable("allowed", *site.config["maintenance"]["allow"]),
        **{name: shared_variable(name, *trusted) for name in ("trusted", "scheme", "https")},
        **{name: shared_variable(name, *addresses) for name in ("limited", "client")},
        "headers": {name: shared_variable("header", name, *trusted) for name in proxy.get("trusted_headers", ())},
    }


def shared_variable(purpose: str, *values: str) -> str:
    """Return the name of a variable of nginx, the same for the same values."""
    return f"django_{purpose}_{hashlib.sha256(' '.join(sorted(values)).encode()).hexdigest()[:6]}"


def names_addresses(site: Site) -> bool:
    """Whether the address of a release is in its own files; else it is in one of the release, which they include.

    What is said of the server beside its address can stand in its own files only.
    """
    text = django_host_file.read_text(main_file(site))
    return "self" in site.config["proxy"].get("upstreams", ()) or (
        text is not None and f"include {site.current}/config/upstream.conf;" not in text
    )


def needs(site: Site) -> Files:
    """What else it has to have for a site: nothing, for its modules are built in."""
    del site
    return {}


def protocols() -> Path:
    """The file with what all servers of https have in common."""
    return ETC / "snippets/django-tls.conf"


def listening(http: Collection[Listen], https: Collection[Listen]) -> dict[str, Any]:
    """What templates know of where it listens, and of what this nginx understands."""
    new = bool(https) and version() >= (1, 25, 1)
    everywhere = ["{}", "[::]:{}"] if _has_ipv6() else ["{}"]

    def places(listens: Collection[Listen]) -> list[str]:
        ordered = django_host_port.ordered(listens)
        return [form.format(one) for one in ordered for form in (everywhere if isinstance(one, int) else ["{}"])]

    return {
        "http": places(http),
        "https": places(https),
        "flags": " ssl" if new else " ssl http2",
        "http2_directive": new,
    }


@functools.cache
def version() -> tuple[int, ...]:
    """The version of nginx; that of today where it is not installed yet."""
    try:
        said = django_host_command.run(["nginx", "-v"], doing="nginx -v", errors_too=True)
    except DeploymentError:
        return (1, 26)
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (1, 26)


def _has_ipv6() -> bool:
    """Whether an interface of this host has an IPv6 address; without the protocol, nginx could not listen on it."""
    return bool(django_host_file.read_text(IPV6))


def has_certificate(text: str, certificate: Path) -> bool:
    """Whether the servers of a domain show a certificate."""
    return f"{certificate};" in text


def place(text: str, *, tls: bool) -> Place | None:
    """The first place of https, or of http, where the servers of a domain listen."""
    found = re.search(r"listen (\S+) ssl" if tls else r"listen ([^\s;]+);", text)
    return django_host_port.split(found[1]) if found else None


def listens(text: str) -> set[str]:
    """Where the servers in a file of ours listen, in nginx's words."""
    return {*re.findall(r"(?m)^    listen ([^\s;]+)", text)}


def places() -> set[Place]:
    """Where nginx listens by its configuration, of whomever that is: at all addresses, or at those that are named."""
    text = re.sub(r"(?m)(^|\s)#.*", "", django_host_command.run(["nginx", "-T", "-q"], doing="nginx -T"))
    found = set()
    for listen in re.findall(r"(?<![^\s;{])listen\s+([^\s;]+)", text):
        is_whole = re.fullmatch(r"(?:(?:(\[.*\]|[^:]*):)?(\d+))|(\[.*\]|[^:]+)", listen)
        if is_whole:
            host = (is_whole[1] or is_whole[3] or "*").strip("[]").replace("*", django_host_port.ALL[0])
            found.add((host, int(is_whole[2] or 80)))
    everywhere = {(host, port) for host, port in found if host in django_host_port.ALL}
    return everywhere | {
        (host, port) for host, port in found if (django_host_port.ALL[":" in host], port) not in everywhere
    }


def check() -> None:
    """Have nginx read its configuration.

    Raises:
        DeploymentError: it refuses; the message is nginx's own, with file and line.
    """
    try:
        django_host_command.run(["nginx", "-t", "-q"], doing="nginx -t")
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
        django_host_folder.make(Folder(path, "root", "root", 0o755))
    django_host_file.write(folder / "default", "")


def is_idle() -> bool:
    """Whether it has no site any more, of anybody."""
    places = [*ETC.glob("sites-enabled/*"), *ETC.glob("conf.d/*.conf")]
    return not any(path.is_file() and path.stat().st_size for path in places)


def needed_ports() -> set[int]:
    """The ports that it listens on whatever the sites say: none."""
    return set()


def refused() -> tuple[list[Listen], list[Listen]]:
    """Where our default server refuses unknown hosts, by http and by https."""
    text = django_host_file.read_text(ETC / "sites-available/django-default") or ""
    plain, secure = (re.findall(pattern, text) for pattern in (r"listen (\S+) default_server", r"listen (\S+) ssl"))
    return _as_said(plain), _as_said(secure)


def _as_said(places: Collection[str]) -> list[Listen]:
    ports = {f"[::]:{place}" for place in places if place.isdigit()}
    return django_host_port.ordered(
        [int(place) if place.isdigit() else place for place in places if place not in ports]
    )


def default_server(
    http: Collection[Listen], https: Collection[Listen], templates: Mapping[str, str], without: Collection[Path] = ()
) -> Files:
    """The server that refuses unknown hosts, where nobody else has a default server.

    Args:
        https: where a client of an unknown name gets no certificate either.
        without: files of somebody else that go.
    """
    name = "django-default"
    taken = _foreign_defaults(ETC / "sites-available" / name, without)
    free, secure = ([listen for listen in some if listen not in taken] for some in (http, https))
    if not free and not secure:
        return {ETC / "sites-enabled" / name: None, ETC / "sites-available" / name: None}
    content = django_release_settings.render(templates, _DEFAULT, ours=OURS, **listening(free, secure))
    return {
        **({protocols(): django_release_settings.render(templates, TLS, ours=OURS)} if secure else {}),
        ETC / "sites-available" / name: content,
        ETC / "sites-enabled" / name: f"-> ../sites-available/{name}",
    }


def _foreign_defaults(own: Path, without: Collection[Path] = ()) -> set[Listen]:
    """The ports for which a file of somebody else names a default server, and the addresses where it does."""
    taken: set[Listen] = set()
    for path in [ETC / "nginx.conf", *ETC.glob("conf.d/*.conf"), *ETC.glob("sites-enabled/*")]:
        if path.is_file() and path.resolve() != own and path not in without:
            text = re.sub(r"#.*", "", path.read_text(errors="replace"))
            for listen in re.findall(r"(?<![^\s;{])listen\s+([^;]*)default_server", text):
                port = re.search(r"(?:^|:)(\d+)\s", listen)
                taken |= {int(port.group(1)) if port else 80, *re.findall(r"^(\S+:\d+)\s", listen)}
    return taken
