"""Where the proxies of the formula may listen: who has a port, and which of a site's places are free and there."""

from collections.abc import Collection, Mapping

import django_host_config
import django_host_port
import django_host_service
import django_proxy
from django_host_command import DeploymentError
from django_host_port import Listen, Listener
from django_proxy_contract import Proxy
from django_site import Site


def refuse_foreign_addresses(site: Site) -> None:
    """Refuse a site that is to be served at an address that this host has not: its proxy would not start.

    Raises:
        DeploymentError: which address.
    """
    config = site.config
    for key, listens in (("proxy:listen", config["proxy"]["listen"]), ("tls:listen", site.listens_tls)):
        for listen in listens:
            host, _port = django_host_port.split(listen)
            problem = django_host_port.bind_error(host) if host else ""
            if problem:
                raise DeploymentError(
                    f"django:sites:{site.name}:{key}: nobody can listen at {listen} on this host ({problem}); "
                    "nothing has been changed",
                    hint="ip address shows those that it has; for one that comes later, as with keepalived: "
                    "sysctl net.ipv4.ip_nonlocal_bind=1 (or net.ipv6)",
                )


def holder_of(listens: Collection[Listen], listening: Mapping[int, set[str]] | None = None) -> Proxy | None:
    """The proxy with files of ours that listens on one of the ports of these places now.

    Args:
        listening: as `django_host_port.listening` has found it in this apply.
    """
    ports = {django_host_port.split(listen)[1] for listen in listens}
    for proxy in django_proxy.PROXIES.values():
        is_ours = any(proxy.etc.glob("django/*.conf")) or any(proxy.refused())
        pid = django_host_service.pid(proxy.DAEMON) if is_ours else None
        if pid and any(django_host_port.listens_on(pid, port, listening) for port in ports):
            return proxy
    return None


def refuse_taken_ports(
    name: str, kind: str, listens: Collection[Listen], listening: Mapping[int, set[str]] | None = None
) -> None:
    """Refuse a site where somebody else than a proxy of ours listens on one of its ports: its own would not start.

    Args:
        name: the site.
        kind: its proxy.
        listens: its ports, and its addresses with a port.
        listening: as `django_host_port.listening` has found it in this apply.

    Raises:
        DeploymentError: who that is, and the way out.
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
        if holder and listening is not None and not host:  # it may have other sockets by now
            holder = django_host_port.listener(port, exclude=own)
        if holder and holder.unit != f"{proxy.DAEMON.service}.service" and not _is(former, holder):
            stop = f"systemctl disable --now {holder.unit}" if holder.unit else f"ss -ltnp 'sport = :{port}' names it"
            raise DeploymentError(
                f"{listen if host else f'port {port}'} is taken by {holder}, so {kind} cannot listen there; "
                "nothing has been changed",
                hint=f"stop that, if nobody needs it ({stop}), "
                f"or choose another port: django:sites:{name}:"
                + ("tls:listen: [8443]" if port == 443 else "proxy:listen: [8080]"),
            )


def _is(proxy: Proxy | None, holder: Listener) -> bool:
    """Whether a process is that proxy, which is about to make way."""
    return proxy is not None and holder.pid == django_host_service.pid(proxy.DAEMON)


def known(proxy: Proxy, listens: Collection[Listen]) -> list[Listen]:
    """Of these, the ports, and the addresses at which a site is served by now, or unknown hosts are refused.

    A server at an address keeps all others from it that are there by a port alone: the first one is of a site.
    """
    servers = (text for path in proxy.etc.glob("sites-available/*") if (text := django_host_config.read(path)))
    there = {place for text in servers for place in proxy.listens(text)} if any(map(_is_address, listens)) else set()
    return [listen for listen in listens if not _is_address(listen) or listen in there]


def _is_address(listen: Listen) -> bool:
    return not isinstance(listen, int)
