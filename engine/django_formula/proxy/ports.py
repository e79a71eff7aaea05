"""Where the proxies of the formula may listen: which process has a port, and which places exist and are free."""

from collections.abc import Callable, Collection, Mapping

from django_formula.host import config_files, daemons, outcome, units
from django_formula.host import ports as host_ports
from django_formula.host.commands import DeploymentError
from django_formula.host.outcome import Outcome
from django_formula.host.ports import Listen, Listener
from django_formula.proxy import proxies, switch
from django_formula.proxy.contract import Proxy
from django_formula.site import sites as site_sites
from django_formula.site.sites import Site


def refuse_foreign_addresses(site: Site) -> None:
    """Refuse a site with an address that this host does not have: its proxy would not start.

    Raises:
        DeploymentError: such an address.
    """
    config = site.config
    for key, listens in (("proxy:listen", config["proxy"]["listen"]), ("tls:listen", site.listens_tls)):
        for listen in listens:
            host, _port = host_ports.split(listen)
            problem = host_ports.bind_error(host) if host else ""
            if problem:
                raise DeploymentError(
                    f"{site.at}:{key}: this host cannot listen on {listen} ({problem}); nothing has been changed",
                    hint="choose an address that ip address shows; for one that the host gets later, as with "
                    "keepalived, set sysctl net.ipv4.ip_nonlocal_bind=1 (or net.ipv6)",
                )


def holder_of(listens: Collection[Listen], listening: Mapping[int, set[str]] | None = None) -> Proxy | None:
    """Return the proxy with files of the formula that listens on a port of these places now, or None.

    Args:
        listens: the places.
        listening: as `host.ports.listening` found them in this apply.
    """
    ports = {host_ports.split(listen)[1] for listen in listens}
    for proxy in proxies.PROXIES.values():
        is_ours = any(proxy.etc.glob("django/*.conf")) or any(proxy.refused())
        pid = daemons.pid(proxy.DAEMON) if is_ours else None
        if pid and any(host_ports.listens_on(pid, port, listening) for port in ports):
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
        listening: as `host.ports.listening` found them in this apply.
        coming: the sites that this apply gives to the proxy; None where the pillar is not known.

    Raises:
        DeploymentError: the message has that process, or what the other proxy keeps the port for.
    """
    proxy = proxies.PROXIES.get(kind)
    if not proxy:
        return
    own = daemons.pid(proxy.DAEMON)
    former = holder_of(listens, listening)
    for listen in host_ports.ordered([*listens, *(() if own else proxy.needed_ports())]):
        host, port = host_ports.split(listen)
        holder = host_ports.listener(port, exclude=own, ports=host_ports.listening(host) if host else listening)
        if holder and listening is not None and not host:  # another process may have the port by now
            holder = host_ports.listener(port, exclude=own)
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
            site = site_sites.find(path.stem)
        except DeploymentError:  # its files are there all the same
            found.append(path.stem)
            continue
        listens = [*site.config["proxy"]["listen"], *site.listens_tls]
        if port in {*proxy.needed_ports(), *(host_ports.split(listen)[1] for listen in listens)}:
            found.append(path.stem)
    return found


def _is(proxy: Proxy, holder: Listener) -> bool:
    """Return whether a process is that proxy."""
    return holder.pid == daemons.pid(proxy.DAEMON)


def served(proxy: Proxy, listens: Collection[Listen]) -> list[Listen]:
    """Return the ports among these places, and the addresses where the proxy has a server already.

    A server on an address hides those on all addresses of that port, so the first server there is a site's.
    """
    servers = (text for path in proxy.etc.glob("sites-available/*") if (text := config_files.read(path)))
    there = {place for text in servers for place in proxy.listens(text)} if any(map(_is_address, listens)) else set()
    return [listen for listen in listens if not _is_address(listen) or listen in there]


def _is_address(listen: Listen) -> bool:
    return not isinstance(listen, int)


def reject_others(
    kind: str,
    http: Collection[Listen],
    https: Collection[Listen],
    templates: Collection[str],
    texts: Callable[[Collection[str]], Mapping[str, str]],
    listening: Mapping[int, set[str]] | None,
    *,
    test: bool,
) -> Outcome:
    """Run a web server that rejects unknown hosts, unless another proxy of the formula still uses its ports.

    Args:
        kind: the proxy.
        http: its ports for http.
        https: its ports for https.
        templates: URLs of those of its default server.
        texts: returns their texts by their URLs.
        listening: as `host.ports.listening` found them in this apply.
        test: whether this is a dry run.

    Raises:
        DeploymentError: it refuses its configuration.
    """
    proxy = proxies.PROXIES[kind]
    revived = config_files.differences(revival := daemons.revival(proxy.DAEMON))
    if revived and not test:
        config_files.install(revival, [])
        units.daemon_reload()
    if holder_of([*http, *https], listening) not in (None, proxy):
        return Outcome(f"another proxy uses the ports until the sites are handed over to {kind}", revived)
    files = proxy.default_server(served(proxy, http), served(proxy, https), texts(templates))
    changes = config_files.differences(files)
    if changes and not test:
        switch.apply(files)
    changes = {**revived, **changes}
    try:
        runs = outcome.running(proxy.DAEMON.service, at_boot=True, test=test)
    except DeploymentError as error:
        return Outcome(str(error), changes, failed=True)
    if runs.changes:
        return runs._replace(changes={**changes, **runs.changes})
    if changes:
        return Outcome(f"its configuration {'would be' if test else 'has been'} written", changes)
    return Outcome(f"{kind} is already running and rejects unknown hosts")
