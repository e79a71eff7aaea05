"""The way to a site: its domain, DNS, the port of the proxy, the certificate, the server block, and maintenance."""

import contextlib
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from django_formula.doctor.visit import APPLY, PATIENCE, Broken, Visit, aside, to_start
from django_formula.host import clock, config_files, daemons, ports
from django_formula.host.commands import DeploymentError
from django_formula.proxy import contract, moves, proxies, reach, waiting
from django_formula.proxy.contract import Proxy
from django_formula.site import domains, sites
from django_formula.site.sites import Site
from django_formula.tls import certificates
from django_formula.untrusted.text import in_command, in_pillar

# The name


def domain(visit: Visit) -> str:
    """Return whose domain it is: the site's."""
    site, known = visit.site, _names(visit.site)
    if not domains.has(known, visit.host):
        other = _site_of(visit.host)
        text = f"{visit.host} is not a domain of {site.name} ({', '.join(known)})"
        if other:
            url = f"{visit.scheme}://{visit.host_header}{visit.target}"
            more = ["skip_network=True"] if visit.skip_network else []
            raise Broken(f"{text}, but of {other}", in_command("salt-call", "django.doctor", other, url, *more))
        names = in_pillar([*site.config["domains"], visit.host])
        raise Broken(text, todo=f"set {site.at}:domains: {names}, then {APPLY}")
    if visit.is_secure and not site.https:
        if site.public_https:
            raise Broken(
                f"balancers have the certificates of {site.name}; this host is asked by http",
                in_command("salt-call", "django.doctor", site.name, f"http://{visit.host}{visit.target}"),
            )
        raise Broken(f"{site.name} has no certificate", todo=f"set {site.at}:tls: {{kind: acme}}, then {APPLY}")
    is_below = f"{visit.target.partition('?')[0]}/".startswith(f"{site.config['path'].rstrip('/')}/")
    if not is_below:
        raise Broken(
            f"{visit.target} is not below {site.config['path']}, the path of {site.name}",
            in_command("salt-call", "django.doctor", site.name),
        )
    return f"{visit.host}{visit.target} is of {site.name}"


def _names(site: Site) -> list[str]:
    return [*site.config["domains"], *site.config["redirect_domains"]]


def _site_of(name: str) -> str:
    """Return the site of this host that has a domain; empty where none has."""
    for other in sites.registered():
        with contextlib.suppress(DeploymentError):
            if domains.has(_names(sites.find(other)), name):
                return other
    return ""


def dns(visit: Visit) -> str:
    """Return the addresses of the name, which have to be this host's, or those of a proxy in front."""
    if visit.skip_network:
        return ""
    own = _own_address()
    kind = "AAAA" if ":" in own else "A"
    record = f"{visit.host} {kind} {own or 'the address of this host'}"
    try:
        found = _resolved(visit.host, visit.port)
    except TimeoutError:
        raise Broken(f"DNS gives no answer within {PATIENCE:.0f} s", todo="correct /etc/resolv.conf") from None
    except OSError as error:
        text = f"{visit.host} has no address ({error.strerror})"
        raise Broken(text, todo=f"make a DNS record: {record}") from None
    visit.addresses = tuple(one for one in found if not ports.bind_error(one))
    elsewhere = [one for one in found if one not in visit.addresses]
    if not elsewhere:
        return f"{visit.host} is {', '.join(found)}, this host"
    listed = ", ".join(elsewhere)
    if visit.site.config["proxy"]["trusted"] or visit.site.config.get("fleet"):
        return f"{visit.host} is {listed}: a balancer or a CDN in front; this host is asked from here on"
    if own and _is_private(own) and not any(map(_is_private, elsewhere)):
        return f"{visit.host} is {listed}, which a router has to pass on to {own}; this host is asked from here on"
    raise Broken(
        f"{visit.host} is {listed}, and this host {own or 'has another address'}",
        todo=f"correct the DNS record: {record}; with a balancer or a CDN in front, set {visit.site.at}:proxy:trusted",
    )


def _resolved(host: str, port: int) -> list[str]:
    """Return the addresses of a name, in their order.

    Raises:
        OSError: it has none; TimeoutError, which is one, where no answer comes: the resolver's own timeout is longer.
    """
    found: list[list[str] | OSError] = []

    def look() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.append(list(dict.fromkeys(str(answer[4][0]) for answer in answers)))
        except (OSError, UnicodeError) as error:
            found.append(error if isinstance(error, OSError) else OSError(0, "it is no host name"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not found:
        raise TimeoutError
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _own_address() -> str:
    """Return the address by which this host reaches others; empty where it reaches none. Nothing is sent for it."""
    for family, other in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            return str(probe.getsockname()[0])
    return ""


def _is_private(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_private


# The port


def tcp(visit: Visit) -> str:
    """Return where the proxy accepts connections, or the site itself where it has no proxy."""
    site, proxy = visit.site, visit.proxy
    if not proxy:
        return _without_proxy(visit)
    listens = [ports.split(one) for one in (site.listens_tls if visit.is_secure else site.config["proxy"]["listen"])]
    hosts = [host for host, port in listens if port == visit.port]
    if not hosts:
        known = ", ".join(str(port) for _host, port in listens)
        raise Broken(
            f"{site.name} is served on port {known} by {visit.scheme}, not on {visit.port}",
            todo=f"ask for another port, or set {_listen_key(visit)}, then {APPLY}",
        )
    visit.place = (next(filter(None, hosts), "127.0.0.1"), visit.port)
    for address in dict.fromkeys([visit.place[0], *visit.addresses]):
        _connect(visit, proxy, address)
    return f"{proxy.KIND.title} accepts connections on port {visit.port}"


def _listen_key(visit: Visit) -> str:
    """Return the key of the pillar that has the places of the visit's scheme."""
    at = visit.site.at
    return f"{at}:tls:listen" if visit.is_secure else f"{at}:proxy:listen"


def _connect(visit: Visit, proxy: Proxy, address: str) -> None:
    """Connect to the proxy at an address of this host."""
    place = (address, visit.port)
    try:
        socket.create_connection(place, PATIENCE).close()
        problem = ""
    except OSError as error:
        problem = "times out" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
    main = daemons.pid(proxy.DAEMON)
    if problem or main is None or not ports.listens_on(main, visit.port):
        raise _refused(visit, proxy, address, problem)


def _refused(visit: Visit, proxy: Proxy, address: str, problem: str) -> Broken:
    """Return why no connection to the proxy is possible at an address, or another program has its port."""
    title, daemon, port = proxy.KIND.title, proxy.DAEMON, visit.port
    main = daemons.pid(daemon)
    other = ports.listener(port, exclude=main)
    if main is None and other:
        command = f"{_end(other, port)} && {to_start(daemon)}"
        return Broken(f"port {port} is used by {other}, and {title} does not run", command)
    refusal = _refusal(proxy)
    if refusal:
        text, command, todo = _refused_file(proxy, refusal)
        return Broken(f"{title} {'does not listen on' if main else 'does not run, so nothing listens on'} port {port}: "
                      f"{text}", command, todo)  # fmt: skip
    if main is None:
        return Broken(f"{title} does not run, so nothing listens on port {port}", to_start(daemon))
    if problem and ":" in address and address != visit.place[0]:
        listens = in_pillar([port, f"[::]:{port}"])
        return Broken(
            f"{visit.host} has the address {address}, on which {title} does not listen ({problem})",
            todo=f"remove the AAAA record, or set {_listen_key(visit)}: {listens}, then {APPLY}",
        )
    text = f"{title} runs, and a connection to {address} port {port} {problem or 'is accepted by another program'}"
    return Broken(text, to_start(daemon, "restart"))


def _end(other: ports.Listener, port: int) -> str:
    """Return the command that ends what listens on a port."""
    if other.unit or not other.pid:
        return other.way_to_stop(port)
    return f"{in_command('kill', str(other.pid))} && sleep 1"


def _refusal(proxy: Proxy) -> str:
    """Return why a proxy refuses its configuration; empty where it does not."""
    try:
        proxy.check()
    except DeploymentError as error:
        return error.message
    return ""


def _refused_file(proxy: Proxy, refusal: str) -> tuple[str, str, str]:
    """Return what a proxy's refusal says, and the command, or what to do, with which it starts."""
    path = contract.refused_path(refusal)
    start = to_start(proxy.DAEMON, "restart")
    if path and config_files.is_managed(path):
        return refusal, APPLY, ""
    if path and path.parent != proxy.etc and path.is_relative_to(proxy.etc):
        return refusal, aside(path, start), ""
    return refusal, "", f"correct {path or 'that'}, then {start}"


def _without_proxy(visit: Visit) -> str:
    """Return where a site without a proxy is asked: its own socket, or nowhere on a host for workers."""
    if visit.site.listener:
        host, port = ports.split(visit.site.listener)
        visit.place = ("127.0.0.1" if host in ("", *ports.ALL) else host, port)
        try:
            socket.create_connection(visit.place, PATIENCE).close()
        except OSError as error:
            text = f"nothing listens on {visit.site.listener} ({(error.strerror or str(error)).lower()})"
            raise Broken(text, APPLY) from None
        return f"{visit.site.listener} accepts connections"
    if visit.site.config["proxy"]["kind"] == "none":
        return ""
    raise Broken(f"no proxy has files of {visit.site.name}", APPLY)


# The certificate


def tls(visit: Visit) -> str:
    """Return until when the certificate is valid that visitors get."""
    if not visit.is_secure:
        return ""
    context = ssl.create_default_context()
    if visit.site.config["tls"]["kind"] == "self_signed" and certificates.root().exists():
        context.load_verify_locations(certificates.root())
    try:
        raw = socket.create_connection(visit.place, PATIENCE)
        with raw, context.wrap_socket(raw, server_hostname=visit.host) as secure:
            certificate = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:  # Apache has that of another server, where the site's is missing
        raise next(_no_server(visit), None) or _invalid(visit, error) from None
    except OSError as error:
        for broken in _no_server(visit):
            raise broken from None
        reason = getattr(error, "reason", "") or error.strerror or str(error)
        raise Broken(f"the TLS handshake for {visit.host} fails: {reason}", APPLY) from None
    return f"the certificate is valid until {certificate.get('notAfter', '?')}"


def _no_server(visit: Visit) -> Iterator[Broken]:
    """Yield what is wrong with the server of the name, without which there is no certificate either."""
    try:
        virtual_host(visit)
    except Broken as broken:
        yield Broken(broken.text, broken.command, broken.todo, "virtual host")


#: What OpenSSL answers of certificates (X509_V_ERR_…).
_NOT_YET, _EXPIRED = 9, 10
_INCOMPLETE = (20, 21)


def _invalid(visit: Visit, error: ssl.SSLCertVerificationError) -> Broken:
    """Return why visitors refuse the certificate."""
    site, kind = visit.site, visit.site.config["tls"]["kind"]
    text = f"visitors refuse the certificate: {error.verify_message}"
    name = next((one for one in site.config["domains"] if domains.has([one], visit.host)), visit.host)
    kept = certificates.read(name)
    if error.verify_code == _NOT_YET:
        text = f"{text}; the clock of this host has {clock.now()}"
        return Broken(text, in_command("timedatectl", "set-ntp", "true"))
    if kept and kept.left > 0 and kept.covers(visit.host) and visit.proxy and not _is_served(visit, name):
        return Broken(f"{text}; {certificates.path_of(name)} has a newer one", to_start(visit.proxy.DAEMON, "reload"))
    if kind == "acme":
        return Broken(text, in_command("salt-call", "django.renew", site.name, "force=True"))
    if kind == "self_signed":
        return Broken(text, in_command("salt-call", "django.renew", site.name))
    more = ", with the certificates of its authority after it" if error.verify_code in _INCOMPLETE else ""
    return Broken(text, todo=f"give {site.at}:tls:certificate a certificate of {visit.host}{more}, then {APPLY}")


def _is_served(visit: Visit, name: str) -> bool:
    """Return whether visitors get the certificate that the file of a domain has now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError):
        raw = socket.create_connection(visit.place, PATIENCE)
        with raw, context.wrap_socket(raw, server_hostname=visit.host) as secure:
            served = ssl.DER_cert_to_PEM_cert(secure.getpeercert(True) or b"")
        return _base64(served) in _base64(certificates.path_of(name).read_text())
    return True


def _base64(text: str) -> str:
    return re.sub(r"-----.*?-----|\s", "", text)


# The server block, and maintenance


def virtual_host(visit: Visit) -> str:
    """Return which server of the proxy answers for the name: the site's own."""
    proxy, site = visit.proxy, visit.site
    if not proxy:
        return ""
    waits = moves.pending_move(site).waits
    if waits:
        raise Broken(waits, APPLY)
    refusal = _refusal(proxy)
    if refusal:  # so that it does not print its configuration either
        return f"{proxy.KIND.title} runs with its former configuration; the next reload fails: {refusal}"
    for rival in _rivals(visit):
        raise _in_place_of(proxy, rival)
    return f"{proxy.KIND.title} has a server for {visit.host}"


def _rivals(visit: Visit) -> Iterator[reach.Rival]:
    """Yield what answers in place of the site for the name and port of the visit."""
    for rival in reach.rivals(visit.site):
        if domains.has([rival.domain], visit.host) and rival.place[1] == visit.port:
            yield rival


def in_place_of(site: Site) -> Broken | None:
    """Return what answers in place of a site for any of its domains, by the files of its proxy; None if nothing does.

    Raises:
        DeploymentError: the proxy does not print its configuration.
    """
    proxy = proxies.serving(site)
    return next((_in_place_of(proxy, rival) for rival in reach.rivals(site)), None) if proxy else None


def _in_place_of(proxy: Proxy, rival: reach.Rival) -> Broken:
    """Return what answers in place of a site, and what ends that."""
    if rival.server and rival.is_included:
        path = Path(rival.server.path)
        if config_files.is_managed(path):  # of another site: its name was written into it
            return Broken(str(rival), APPLY)
        is_main = path.parent == proxy.etc
        reload = to_start(proxy.DAEMON, "reload")
        todo = f"remove that server from {path}, then {reload}"
        return Broken(str(rival), "" if is_main else aside(path, reload), todo if is_main else "")
    own = Path(rival.own)
    if own.exists():
        return Broken(str(rival), todo=f"have the main file of {proxy.KIND.title} include {own.parent}/*")
    return Broken(str(rival), APPLY)


def maintenance(visit: Visit) -> str:
    """Return that the site is not in maintenance, and that nothing holds its requests."""
    about = sites.known_maintenance(visit.site)
    if about:
        message = f": {about['message']}" if about["message"] else ""
        raise Broken(
            f"{visit.site.name} is in maintenance since {about['since']}, by {about['by']}{message}",
            in_command("salt-call", "django.maintenance", visit.site.name, "off"),
        )
    found = waiting.closed(visit.site)
    if found:
        is_by_hand = found["by"].startswith("django.hold")
        raise Broken(
            f"requests for {visit.site.name} wait since {found['since']}, by {found['by']}",
            in_command("salt-call", "django.hold", visit.site.name, "off") if is_by_hand else "",
            "" if is_by_hand else "wait until it has ended, which lets them in again",
            "requests",
        )
    return "not in maintenance"
