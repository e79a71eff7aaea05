"""Where the proxies of the formula may listen: which process has a port, and which places exist and are free."""

from collections.abc import Collection, Mapping

import django_host_config
import django_host_port
import django_host_service
import django_proxy
import django_site
from django_host_command import DeploymentError
from django_host_port import Listen, Listener
from django_proxy_contract import Proxy
from django_site import Site


def refuse_foreign_addresses(site: Site) -> None:
    """Refuse a site with an address that this host does not have: its proxy would not start.

    Raises:
        DeploymentError: such an address.
    """
    config = site.config
    for key, listens in (("proxy:listen", config["proxy"]["listen"]), ("tls:listen", site.listens_tls)):
        for listen in listens:
            host, _port = django_host_port.split(listen)
            problem = django_host_port.bind_error(host) if host else ""
            if problem:
                raise DeploymentError(
                    f"django:sites:{site.name}:{key}: this host cannot listen on {listen} ({problem}); "
                    "nothing has been changed",
                    hint="choose an address that ip address shows; for one that the host gets later, as with "
                    "keepalived, set sysctl net.ipv4.ip_nonlocal_bind=1 (or net.ipv6)",
                )


def holder_of(listens: Collection[Listen], listening: Mapping[int, set[str]] | None = None) -> Proxy | None:
    """Return the proxy with files of the formula that listens on a port of these places now, or None.

    Args:
        listens: the places.
        listening: as `django_host_port.listening` found them in this apply.
    """
    ports = {django_host_port.split(listen)[1] for listen in listens}
    for proxy in django_proxy.PROXIES.values():
        is_ours = any(proxy.etc.glob("django/*.conf")) or any(proxy.refused())
        pid = django_host_service.pid(proxy.DAEMON) if is_ours else None
        if pid and any(django_host_port.listens_on(pid, port, listening) for port in ports):
            return proxy
    return None


def refuse_taken_ports(
    name: str,
    kind: str,
    listens: Collection[Listen],
    listening: Mapping[int, set[str]] | None = None,
    coming: Collection[str] | None = None,
) -> None:
    """Refuse a site if another process listens on one of its ports, and is no proxy that hands its sites over.

    Args:
        name: the site.
        kind: its proxy.
        listens: its ports, and its addresses with a port.
        listening: as `django_host_port.listening` found them in this apply.
        coming: the sites that this apply gives to the proxy; None where the pillar is not known.

    Raises:
        DeploymentError: the message has that process, or what the other proxy keeps the port for.
    """
    proxy = django_proxy.PROXIES.get(kind)
    if not proxy:
        return
    own = django_host_service.pid(proxy.DAEMON)
    former = holder_of(listens, listening)
    for listen in django_host_port.ordered([*listens, *(() if own else proxy.needed_ports())]):
        host, port = django_host_port.split(listen)
        holder = django_host_port.listener(
            port, exclude=own, ports=django_host_port.listening(host) if host else listening
        )
        if holder and listening is not None and not host:  # another process may have the port by now
            holder = django_host_port.listener(port, exclude=own)
        if former and holder and _is(former, holder):
            _refuse_kept_port(name, proxy, former, port, coming)
        elif holder and holder.unit != f"{proxy.DAEMON.service}.service":
            raise DeploymentError(
                f"{listen if host else f'port {port}'} is taken by {holder}, so {kind} cannot listen there; "
                "nothing has been changed",
                hint=f"stop that process ({holder.way_to_stop(port)}), or set another port: {_another(name, port)}",
            )


def _another(name: str, port: int) -> str:
    return f"django:sites:{name}:{'tls:listen: [8443]' if port == 443 else 'proxy:listen: [8080]'}"


def _refuse_kept_port(name: str, proxy: Proxy, former: Proxy, port: int, coming: Collection[str] | None) -> None:
    """Refuse a site whose port another proxy of the formula needs for what is not handed over with the site."""
    if coming is None:
        return
    title, coming_title = former.KIND.title, proxy.KIND.title
    sites = [other for other in _served_by(former, port) if other not in {name, *coming}]
    if sites:
        kept, at = f"the site {sites[0]}", f"django:sites:{sites[0]}"
        way = f"give it to {coming_title} too ({at}:proxy:kind), or remove it ({at}: {{state: absent}})"
    else:
        files = former.foreign_servers(port)
        if not files:
            return
        kept, way = str(files[0]), f"remove that file, and reload {title}"
    raise DeploymentError(
        f"{title} needs port {port} for {kept}, so {coming_title} cannot listen there; nothing has been changed",
        hint=f"{way}, or set another port: {_another(name, port)}",
    )


def _served_by(proxy: Proxy, port: int) -> list[str]:
    """Return the sites for which a proxy keeps a port, by their files: the pillar may not have them any more."""
    found = []
    for path in sorted(proxy.etc.glob("django/*.conf")):
        try:
            site = django_site.find(path.stem)
        except DeploymentError:  # its files are there all the same
            found.append(path.stem)
            continue
        listens = [*site.config["proxy"]["listen"], *site.listens_tls]
        if port in {*proxy.needed_ports(), *(django_host_port.split(listen)[1] for listen in listens)}:
            found.append(path.stem)
    return found


def _is(proxy: Proxy, holder: Listener) -> bool:
    """Return whether a process is that proxy."""
    return holder.pid == django_host_service.pid(proxy.DAEMON)


def served(proxy: Proxy, listens: Collection[Listen]) -> list[Listen]:
    """Return the ports among these places, and the addresses where the proxy has a server already.

    A server on an address hides those on all addresses of that port, so the first server there is a site's.
    """
    servers = (text for path in proxy.etc.glob("sites-available/*") if (text := django_host_config.read(path)))
    there = {place for text in servers for place in proxy.listens(text)} if any(map(_is_address, listens)) else set()
    return [listen for listen in listens if not _is_address(listen) or listen in there]


def _is_address(listen: Listen) -> bool:
    return not isinstance(listen, int)
