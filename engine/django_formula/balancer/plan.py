"""The balancer of this host: which sites it balances between their hosts, and which releases let a host in.

What was applied is recorded, so that the verbs of a deployment need no pillar: they change which commits are let in,
and take a host out and in again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.balancer import haproxy, nginx
from django_formula.balancer import program as balancer_program
from django_formula.balancer.program import STATE, STATES, Program
from django_formula.host import config_files, daemons, file, folders, ports
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.host.daemons import Daemon
from django_formula.host.folders import Folder
from django_formula.host.locks import Lock
from django_formula.host.ports import Listen
from django_formula.proxy import proxies as proxy_proxies
from django_formula.proxy import relay
from django_formula.server import servers
from django_formula.site import sites as site_sites
from django_formula.site import unread
from django_formula.site.sites import Site
from django_formula.tls import certificates as tls_certificates

PROGRAMS: dict[str, Program] = {"haproxy": haproxy, "nginx": nginx}
#: The sites as they were applied, and the texts of the templates. Of root alone: it has passwords.
RECORD = STATE / "sites.json"

Entry = dict[str, Any]  # what a balancer has to know of a site


class Plan(NamedTuple):
    """What an apply would record, the program with its files, and the changes in files by path."""

    record: dict[str, Any]
    program: Program
    files: Files
    changes: dict[str, str]


def entry(site: Site, password: str | None) -> Entry:
    """Return what a balancer has to know of a site.

    Args:
        site: the site, which is not on this host.
        password: of its status page.
    """
    config, fleet, balancer = site.config, site.config["fleet"], site.config["balancer"]
    prefix, release = config["path"].rstrip("/"), fleet["release"] or {}
    port = ports.split(config["proxy"]["listen"][0])[1]
    health = {**{key: config["health"][key] for key in ("status", "contains", "headers")}, "waits": ""}
    if waits := site.longest_wait:  # a host whose visitors wait is none that fails
        health |= {"headers": {**health["headers"], relay.CHECK: site.name}, "waits": relay.WAITS}
    status = balancer["status"]
    return {
        "name": site.name,
        "kind": {"varnish": "haproxy"}.get(balancer["kind"], balancer["kind"]),
        "memory": balancer["memory"] if balancer["kind"] == "varnish" else "",
        "user": site.platform["nginx"]["user"],
        "domains": [*config["domains"], *config["redirect_domains"]],
        "redirects": config["redirect_domains"],
        "path": prefix or "/",
        **{key: balancer[key] for key in ("listen", "balance", "sticky")},
        "https": site.listens_tls,
        "tls": _tls(site),
        "clients": {key: site.config["tls"][key] for key in ("client_ca", "verify")} if site.https else {},
        "challenge": config["tls"]["kind"] == "acme" and config["tls"]["challenge"] == "http-01",
        "others": [
            _address(host["address"])
            for name, host in fleet["hosts"].items()
            if "balancer" in host["parts"] and name != fleet["host"]
        ],
        "port": f":{site.https[0]}" if site.https and site.https[0] != 443 else "",
        "timeout": servers.configured(site).timeout(site) + waits + 10,  # the host's own proxy times out first
        "removed_headers": config["proxy"]["trusted_headers"],
        "health": {**health, "path": prefix + config["health"]["path"]},
        "status": status and {"user": status["user"], "password": password, "path": f"{prefix}/.django/balancer"},
        "servers": [_server(name, host, port) for name, host in fleet["hosts"].items() if "app" in host["parts"]],
        "commits": [release["commit"]] if release.get("commit") else [],
        "count": release.get("count", 0),
    }


def _tls(site: Site) -> dict[str, Any] | None:
    """Return what orders and renewals of a site's certificates need; None where its pillar has them."""
    if not site.https or site.config["tls"]["kind"] == "files":
        return None
    keys = ("name", "user", "root", "path", "domains", "redirect_domains", "tls")
    return {"config": {key: site.config[key] for key in keys}, "platform": {"nginx": site.platform["nginx"]}}


def _address(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _server(name: str, host: Mapping[str, Any], port: int) -> dict[str, Any]:
    return {
        "name": name,
        "place": f"{_address(host['address'])}:{port}",
        "weight": host["weight"],
        "backup": host["backup"],
        "cookie": hashlib.sha256(name.encode()).hexdigest()[:12],  # visitors do not learn the names of hosts
    }


def planned(entries: Mapping[str, Entry], gone: Collection[str], templates: Mapping[str, str]) -> Plan:
    """Return what an apply would change.

    A site that the pillar does not mention any more is kept, as a site is that this host serves.

    Args:
        entries: the sites of the pillar that this host balances.
        gone: those that it does not balance any more.
        templates: texts of the balancer's templates.

    Raises:
        DeploymentError: a file is in the way, or a template cannot be rendered.
    """
    present = _recorded()["sites"]
    sites = {name: one for name, one in present.items() if name not in gone}
    sites |= {name: _with_commits(one, present.get(name)) for name, one in entries.items()}
    return _plan({"sites": sites, "templates": {**_recorded()["templates"], **templates}})


def _plan(record: dict[str, Any]) -> Plan:
    """Return what follows from a record: files of one program, and none of another."""
    sites = record["sites"]
    program = PROGRAMS[_kind(sites) or _kind(_recorded()["sites"]) or "haproxy"]
    record = {"sites": sites, "templates": {url: record["templates"][url] for url in program.TEMPLATES if sites}}
    files = program.configuration_files(sites, record["templates"])
    changes = balancer_program.differences(program, files)
    if sites and unread.is_unread(balancer_program.NOTE):
        changes[program.DAEMON.service] = "reloaded: it has not read what a process has written that was killed"
    for other in _former(program):
        changes |= balancer_program.differences(other, other.configuration_files({}, {}))
        if sites:
            replaced = f"{program.TITLE} instead of {other.TITLE}"
            changes["balancer:kind"] = f"{replaced}: new connections are refused for up to a second"
    return Plan(record, program, files, changes)


def _former(program: Program) -> list[Program]:
    """Return the programs of another kind that balance on this host."""
    return [other for other in PROGRAMS.values() if other is not program and other.UNIT.exists()]


def _kind(sites: Mapping[str, Entry]) -> str:
    """Return the kind of program that balances sites; empty where there is none.

    Raises:
        DeploymentError: there are two: each would need the same ports.
    """
    kinds = {site["kind"]: name for name, site in sorted(sites.items(), reverse=True)}
    if len(kinds) > 1:
        found = ", ".join(f"{name} {kind}" for kind, name in sorted(kinds.items()))
        raise DeploymentError(
            f"balancer:kind differs between the sites of this balancer: {found}",
            hint="set the same kind for all sites of one balancer",
        )
    return next(iter(kinds), "")


def _with_commits(new: Entry, present: Entry | None) -> Entry:
    """Return a site with the commits that let a host in.

    A deployment sets them while it runs, and it may end between the compilation of the pillar and this apply. So that
    of the pillar counts only if it is a later one than that of the last apply or the last deployment.
    """
    if present and new["count"] <= _count(present):
        return {**new, "commits": present["commits"], "count": _count(present)}
    return new


def _count(present: Entry) -> int:
    return int(present.get("count", 0))  # earlier versions recorded none


def apply(
    entries: Mapping[str, Entry], gone: Collection[str], templates: Mapping[str, str], keys: Mapping[Path, str]
) -> dict[str, str]:
    """Install what `planned` returns, and return the changes; on failure the balancer goes on as before.

    Args:
        entries: as for `planned`.
        gone: as for `planned`.
        templates: as for `planned`.
        keys: files with keys and certificates of domains that differ.

    Raises:
        DeploymentError: the balancer refuses it, or another process listens on its ports.
    """
    with lock().held():
        plan = planned(entries, gone, templates)
        if plan.record["sites"]:
            _refuse_taken_ports(plan.record["sites"].values())
        before = _domains(_recorded()["sites"])
        _apply(plan, keys)
        _remove_certificates(before - _domains(plan.record["sites"]))
    return plan.changes


def _domains(sites: Mapping[str, Entry]) -> set[str]:
    """Return the domains that the balancer has certificates of."""
    return {domain for site in sites.values() if site["https"] for domain in site["domains"]}


def _remove_certificates(domains: Collection[str]) -> None:
    """Remove the certificates of domains that no proxy of this host serves either."""
    proxies = proxy_proxies.PROXIES.values()
    for domain in domains:
        if not any(proxy_proxies.has_certificate(proxy, domain) for proxy in proxies):
            for path in tls_certificates.belongings(domain):
                file.remove_tree(path)


def _places(sites: Collection[Entry]) -> set[Listen]:
    """Return where a balancer of some sites listens."""
    return {*itertools.chain(*([*site["listen"], *site["https"]] for site in sites))}


def _listens(listen: Listen) -> bool:
    """Return whether the running balancer listens somewhere, by its record.

    Without CAP_SYS_PTRACE root cannot see whose a socket is that another user's process has.
    """
    present = _recorded()["sites"]
    return listen in _places(present.values()) and daemons.is_running(PROGRAMS[_kind(present)].DAEMON)


def _refuse_taken_ports(sites: Collection[Entry]) -> None:
    """Refuse places where this host cannot listen, or another process does."""
    own = [f"{program.DAEMON.service}.service" for program in PROGRAMS.values()]
    for listen in ports.ordered(_places(sites)):
        host, port = ports.split(listen)
        problem = ports.bind_error(host) if host else ""
        if problem:
            raise DeploymentError(
                f"balancer:listen: this host cannot listen on {listen} ({problem}); nothing has been changed",
                hint="choose an address that ip address shows; for one that the host gets later, as with keepalived, "
                "set sysctl net.ipv4.ip_nonlocal_bind=1 (or net.ipv6)",
            )
        holder = ports.listener(port, ports=ports.listening(host))
        if holder and holder.unit not in own and not (holder.pid == 0 and _listens(listen)):
            raise DeploymentError(
                f"{listen if host else f'port {port}'} is taken by {holder}, so the balancer cannot listen there; "
                "nothing has been changed",
                hint=f"stop that process ({holder.way_to_stop(port)}), or set another port in balancer:listen or "
                "tls:listen of the site",
            )


def _apply(plan: Plan, keys: Mapping[Path, str]) -> None:
    if plan.record["sites"]:
        folders.make(Folder(STATE, "root", "root", 0o700))
    if plan.changes or keys:
        for folder, mode in ((tls_certificates.STATE, 0o755), (tls_certificates.STATE / "certificates", 0o700)):
            folders.make(Folder(folder, "root", "root", mode))
        _install(plan, keys)
    if not plan.record["sites"]:
        if STATE.exists():
            RECORD.unlink(missing_ok=True)
            STATE.rmdir()
    elif (before := _recorded()) != plan.record:
        sites = plan.record["sites"]
        file.write_json(RECORD, plan.record, mode=0o600)
        plan.program.ask_hosts(sites)
        for name, site in sites.items():
            if site["commits"] != before["sites"].get(name, site)["commits"]:
                plan.program.purge(sites, name)


def _install(plan: Plan, keys: Mapping[Path, str]) -> None:
    """Install the files of a program, which replaces one of another kind; without sites remove both."""
    former = _former(plan.program)
    if not plan.record["sites"]:
        for program in (*former, plan.program):
            balancer_program.remove(program)
    elif former:
        _replace(plan, keys, former)
    else:
        balancer_program.install(plan.program, plan.files, keys)


def _replace(plan: Plan, keys: Mapping[Path, str], former: Collection[Program]) -> None:
    """Start a program instead of others, which serve until all that it needs is there; on failure they serve on.

    Raises:
        DeploymentError: it refuses its configuration, or does not start.
    """
    new, sites, states = plan.program, plan.record["sites"], _states(former)
    before = {path: config_files.read(path) for path in (*keys, *plan.files)}
    try:
        balancer_program.write(new, keys)
        new.check(plan.files)
        balancer_program.write(new, plan.files)
        new.prepare(sites)
        for program in former:
            balancer_program.give_up(program, _places(_recorded()["sites"].values()))
        new.start_or_reload()
    except BaseException as error:
        with contextlib.suppress(DeploymentError):
            daemons.stop(new.DAEMON)
        balancer_program.write(new, before)
        for program in former:
            with contextlib.suppress(DeploymentError):
                daemons.start(program.DAEMON)
        if isinstance(error, DeploymentError) and balancer_program.KEPT not in error.hint:
            error.hint = "\n".join(filter(None, [error.hint, balancer_program.KEPT]))
        raise
    for program in former:
        balancer_program.remove(program)
    for site, host, state in states:
        if any(server["name"] == host for server in sites.get(site, {"servers": ()})["servers"]):
            new.set_state(sites, site, host, state)


def _states(programs: Collection[Program]) -> list[tuple[str, str, str]]:
    """Return the hosts that people have taken out: site, host and state; none of a program that does not run."""
    found = []
    for program in programs:
        for site in _recorded()["sites"]:
            with contextlib.suppress(DeploymentError):
                found += [(site, host, row["state"]) for host, row in program.servers(site).items()]
    return [row for row in found if row[2] != "ready"]


def lock() -> Lock:
    """Return the lock of this host's balancer."""
    site_sites.make_runtime()
    return Lock(
        site_sites.RUNTIME / "balancer.lock",
        "balancer",
        busy="another change of the balancer",
        timeout="60s",
        hint="wait for it, or end that process, which releases the lock",
    )


def _recorded() -> dict[str, Any]:
    return file.read_json(RECORD) or {"sites": {}, "templates": {}}


# Verbs


def backend(site: str, host: str | None, state: str) -> dict[str, Any]:
    """Set the state of a host of a site, or only read it.

    Args:
        site: the site.
        host: the host; None for all, which can only be read.
        state: ``ready``, ``drain``, ``maint``, or ``state``, which changes nothing.

    Returns:
        The hosts by name as the balancer sees them, or the one.

    Raises:
        DeploymentError: there is no such site, host or state, or the balancer refuses it.
    """
    known = [server["name"] for server in _site(site)["servers"]]
    if state not in (*STATES, "state"):
        raise DeploymentError(f"{state} is no state of a host", hint="use ready, drain, maint or state")
    if host not in known and (host is not None or state != "state"):
        raise DeploymentError(f"{host} is no host of {site} that this balancer knows", hint=f"use {', '.join(known)}")
    if host is not None and state != "state":
        with lock().held():
            _program().set_state(_recorded()["sites"], site, host, state)
    found = _program().servers(site)
    return found if host is None else {"host": host, **found[host]}


def expect(site: str, commits: Collection[str], count: int | None = None) -> bool:
    """Set the commits of which a host gets requests; without any its release does not count.

    Args:
        site: the site.
        commits: whole commits.
        count: that of the release which the hosts have in common now, if they are those of a release.

    Returns:
        Whether that changed anything.

    Raises:
        DeploymentError: this host does not balance the site, or the balancer refuses it.
    """
    if not all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits):
        raise DeploymentError(f"{', '.join(commits)}: expected whole commits")
    with lock().held():
        record = _recorded()
        present, wanted = _site(site), list(dict.fromkeys(commits))
        record["sites"][site] = {**present, "commits": wanted, "count": _count(present) if count is None else count}
        if record != _recorded():
            _apply(_plan(record), {})
        is_new: bool = wanted != present["commits"]
        if not is_new:  # a release of the same commit has other settings
            _program().purge(record["sites"], site)
    return is_new


def _site(name: str) -> Entry:
    sites: dict[str, Entry] = _recorded()["sites"]
    if name not in sites:
        known = f"it balances {', '.join(sites)}" if sites else "it balances none: apply the pillar on it"
        raise DeploymentError(f"this host does not balance {name}", hint=known)
    return sites[name]


def _program() -> Program:
    return PROGRAMS[_kind(_recorded()["sites"])]


def templates(kinds: Collection[str]) -> list[str]:
    """Return the ``salt://`` URLs of the templates of kinds of balancers."""
    return [url for kind in dict.fromkeys(kinds) for url in PROGRAMS[kind].TEMPLATES]


def recorded() -> dict[str, Entry]:
    """Return the sites of this balancer, as last applied."""
    return dict(_recorded()["sites"])


def change_certificates(keys: Mapping[Path, str]) -> None:
    """Install certificates, and have the balancer read them; on failure all is as it was before.

    Raises:
        DeploymentError: it does not accept them.
    """
    with lock().held():
        wanted = certificates()  # an apply may have removed a site since
        used = {path: text for path, text in keys.items() if path in wanted}
        if keys and not used:
            return
        program = _program()
        present = {path: config_files.read(path) for path in program.configuration_files({}, {})}
        balancer_program.install(program, present, used)


def catch_up() -> None:
    """Have the balancer read what it has not read because a process was killed.

    Raises:
        DeploymentError: it does not accept it.
    """
    if unread.is_unread(balancer_program.NOTE) and _recorded()["sites"]:
        change_certificates({})


def services() -> list[str]:
    """Return the services that balance on this host."""
    return [daemon.service for daemon in programs()]


def programs() -> list[Daemon]:
    """Return the programs that balance on this host."""
    has_varnish = any(site["memory"] for site in recorded().values())
    return [_program().DAEMON, *([daemons.VARNISH] if has_varnish else [])]


def certificates() -> set[Path]:
    """Return the certificates that the balancer of this host uses."""
    return {tls_certificates.path_of(domain) for domain in _domains(_recorded()["sites"])}
