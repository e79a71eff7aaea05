"""Detect an existing deployment of a site: folders, processes, files of web servers and of process managers.

A virtual host of nginx or Apache with a domain of the site leads to the address that it passes requests to, to the
processes that listen there, to their folders, and to what starts them; with mod_wsgi, to the folders of its directives.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from django_formula.host import daemons
from django_formula.host import ports as host_ports
from django_formula.host.commands import DeploymentError
from django_formula.proxy import proxies
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.takeover import apache, manager, nginx
from django_formula.takeover import data as takeover_data
from django_formula.takeover import existing as takeover_existing
from django_formula.takeover import process as takeover_process
from django_formula.takeover import virtual_hosts as takeover_virtual_hosts
from django_formula.takeover.existing import ExistingDeployment, Finding
from django_formula.takeover.process import Process
from django_formula.takeover.virtual_hosts import VirtualHost

#: What reads the configuration files of a web server, by its kind in the pillar.
READERS = {"nginx": nginx, "apache": apache}
#: Entries of the site's root that belong to a project, without the data that may stay where it is.
_PROJECT_ENTRIES = ("source", "virtualenv", "venv", "env", ".venv", "static", "staticfiles", "manage.py", "db.sqlite3")


def check(site: Site, kept: Sequence[str] = ()) -> ExistingDeployment | None:
    """Return the existing deployment that is to be taken over before a site's first release, or None.

    Args:
        kept: the site's own folders that are known to hold data of the existing deployment.

    Raises:
        DeploymentError: there is one, and the pillar does not set ``adopt``, or it cannot be taken over as it is.
    """
    existing = find(site, kept)
    if not existing.findings:
        return None
    key = site.at
    findings = [str(finding) for finding in existing.findings]
    if not site.config["adopt"]:
        is_supported = site.config["proxy"]["kind"] in READERS
        adopt = f"{key}:adopt: true takes it over and moves it aside; or " if is_supported else ""
        raise DeploymentError(
            f"an existing deployment was found where {site.name} would be deployed:",
            details=[*findings, *existing.refusals],
            hint=f"{adopt}set {key}:root to another folder, or remove it",
        )
    if existing.refusals:
        raise DeploymentError(
            f"the existing deployment of {site.name} cannot be taken over as it is:",
            details=existing.refusals,
            hint="docs/guides/adopt.md explains each; nothing was changed",
        )
    return existing


def find(site: Site, kept: Sequence[str] = ()) -> ExistingDeployment:
    """Return everything of an existing deployment of a site, without changing anything."""
    existing = ExistingDeployment()
    virtual_hosts = _virtual_hosts(site, existing)
    _entries(site, existing, kept)
    ports = _required_ports(site)
    addresses = list(dict.fromkeys(address for one in virtual_hosts for address in one.addresses))
    if not (existing.findings or any(map(takeover_process.has_listener, ports))):
        return existing
    running = list(takeover_process.processes())
    listeners = {address: takeover_process.listeners(address, running) for address in [*addresses, *ports]}
    existing.addresses = addresses
    for address in addresses:
        refusal = takeover_process.unknown_listener(address, running, listeners[address])
        existing.refusals += [refusal] if refusal else []
    listening = [process for address in addresses for process in listeners[address]]
    _project_folders(existing, virtual_hosts, listening)
    manager.detect(existing, listening, site.at)
    if site.config["proxy"]["kind"] == "apache":
        existing.refusals += apache.refusals(existing.virtual_host_files, existing.folders)
    own_processes = _processes(existing, running, listening)
    existing.server = _server(existing, own_processes)
    if existing.commands or existing.timers or existing.crontabs:
        _review(site, existing)
    _ports(existing, {port: listeners[port] for port in ports}, own_processes)
    takeover_data.detect_databases(site, existing)
    takeover_data.detect_uploads(site, existing, virtual_hosts)
    takeover_data.detect_owner(existing, own_processes)
    return existing


def _review(site: Site, existing: ExistingDeployment) -> None:
    """Refuse workers and jobs that the pillar does not have."""
    from django_formula.takeover import review  # which only a host with an existing deployment needs

    review.review(site, existing)


# Virtual hosts


def _virtual_hosts(site: Site, existing: ExistingDeployment) -> list[VirtualHost]:
    """Add the existing virtual hosts of the site's domains; returns them. There are none with ``proxy:kind: none``."""
    kind = site.config["proxy"]["kind"]
    if kind not in READERS:
        return []
    found: list[VirtualHost] = []
    for path, inside in READERS[kind].virtual_hosts().items():
        own = _with_domain(site, inside)
        for virtual_host in inside:
            if virtual_host not in own:
                existing.other_names |= dict.fromkeys(virtual_host.addresses, virtual_host.names)
        if own:
            found += own
            existing.findings.append(_file_finding(kind, path, own))
            if path.resolve() not in existing.virtual_host_files:  # not a link to a file that was added before
                existing.refusals += takeover_virtual_hosts.refusals(site, path, inside)
            existing.virtual_host_files.append(path)
    for other in READERS.keys() - {kind}:
        _refuse_other_web_server(site, existing, other)
    existing.wsgi_user = next((one.wsgi_user for one in found if one.wsgi_user), "")
    return found


def _with_domain(site: Site, virtual_hosts: Iterable[VirtualHost]) -> list[VirtualHost]:
    """Return the virtual hosts that have a domain of the site."""
    domains = {*site.config["domains"], *site.config["redirect_domains"]}
    return [one for one in virtual_hosts if domains & {known for name in one.names for known in _names(name)}]


def _names(name: str) -> list[str]:
    """Return the domains that a name of a virtual host stands for: ``.example.org`` is nginx's for two."""
    return [name[1:], f"*{name}"] if name.startswith(".") else [name]


def _file_finding(kind: str, path: Path, virtual_hosts: list[VirtualHost]) -> Finding:
    names = sorted({name for one in virtual_hosts for name in one.names})
    directive = {"nginx": "server_name", "apache": "ServerName"}[kind]
    return Finding(f"{kind} file", str(path), f"{directive} {' '.join(names)}")


def _refuse_other_web_server(site: Site, existing: ExistingDeployment, kind: str) -> None:
    """Add virtual hosts of a web server that is not the site's proxy, if it serves the site's domains at its ports."""
    running = daemons.pid(proxies.PROXIES[kind].DAEMON)
    ports = {host_ports.split(listen)[1] for listen in [*site.config["proxy"]["listen"], *site.listens_tls]}
    ports &= {port for _host, port in host_ports.addresses(running)} if running else set()
    for path, inside in READERS[kind].virtual_hosts().items() if ports else ():
        own = [one for one in _with_domain(site, inside) if ports & {*one.ports}]
        if own and path.parent.name != "sites-available":
            existing.findings.append(_file_finding(kind, path, own))
            existing.refusals.append(
                f"{path} is a file of {kind}, which listens on the port: set {site.at}:proxy: {{kind: {kind}}}"
            )


# Folders


def _entries(site: Site, existing: ExistingDeployment, kept: Sequence[str]) -> None:
    """Add what is in the site's root and was not made by the formula."""
    # Any one of these proves a site of the formula: they stay after a removal, and come along from another host. The
    # last one is of a queue that this host has for the site's other hosts, before the site itself is here.
    signs = (site.applied, site.deploys, site.secrets / "secret_key.json", secrets.store_password_file(site))
    is_own_root = any(path.exists() for path in signs)
    own = {folder.path for folder in site.folders()} | {site.current, site.previous, site.deploys, site.lock_file}
    own |= {site.applied, site.adopted}
    data = {site.database.top, site.media.top}
    entries = sorted(site.root.iterdir()) if site.root.is_dir() else []
    present = [path for path in entries if not takeover_existing.is_empty(path)]
    for path in present:
        is_taken = not is_own_root and path in own - data
        is_data = path in data and not is_own_root
        if path.name in _PROJECT_ENTRIES or str(path) in kept or is_data or is_taken:
            existing.findings.append(Finding("folder" if path.is_dir() else "file", str(path)))
            existing.folders = [site.root]
        if is_taken:
            existing.refusals.append(
                f"{path} has a name that the formula uses itself, and the existing deployment may need it: "
                f"set {site.at}:root to another folder"
            )
    if existing.folders:
        is_project = (site.root / "manage.py").exists()
        moved = [
            path for path in present if path.name in _PROJECT_ENTRIES or (is_project and path.name != "lost+found")
        ]
        existing.entries = [path for path in moved if path not in own]


def _project_folders(existing: ExistingDeployment, virtual_hosts: list[VirtualHost], listening: list[Process]) -> None:
    """Add the project's folders: where its processes run, and those whose files the web server serves."""
    found = [Path(process.folder) for process in listening]
    words = [word for process in listening for word in process.argv[:2]]
    virtualenvs = [Path(word).parents[1] for word in words if _is_virtualenv_program(word)]
    is_project = takeover_existing.is_project
    found += [*virtualenvs, *(folder.parent for folder in virtualenvs if is_project(folder.parent))]
    served = [folder for one in virtual_hosts for folder in (*one.folders.values(), *one.wsgi_folders)]
    found += [top for folder in served for top in (folder, folder.parent) if is_project(top)]
    existing.folders += [folder for folder in found if not takeover_existing.is_shared(folder)]
    existing.folders = list(dict.fromkeys(existing.folders))
    if existing.wsgi_user and not any(map(is_project, existing.folders)):
        existing.refusals.append(
            f"{existing.virtual_host_files[-1]} runs a project, and names no folder with a manage.py: "
            "add it as home= of WSGIDaemonProcess, or as WSGIPythonPath"
        )


def _is_virtualenv_program(word: str) -> bool:
    path = Path(word)
    return path.is_absolute() and path.parent.name == "bin" and len(path.parents) > 3 and not word.startswith("/usr/")


# Processes and ports


def _processes(existing: ExistingDeployment, running: list[Process], listening: list[Process]) -> list[Process]:
    """Add the processes of the existing deployment; returns them. What was found must be all that restarts them."""
    own = [
        process
        for process in running
        if process in listening or (process.is_application() and process.is_below(existing.folders))
    ]
    existing.refusals += _shared_with_others(existing, running, own)
    units = {path.name for path in existing.units}
    for process in own:
        existing.findings.append(Finding("process", str(process.pid), str(process)))
        if process.is_finite():
            existing.refusals.append(f"process {process.pid} ({process}) is still running: wait until it has ended")
        elif not process.unit and not process.serves_pages() and process not in listening:
            existing.workers.append(f"process {process.pid} ({process})")
            existing.commands[existing.workers[-1]] = shlex.join(process.argv)
        by_supervisor = process.unit == "supervisor.service" and existing.programs
        by_uwsgi = takeover_process.is_uwsgi_instance(process, existing.folders, existing.uwsgi_files)
        is_known = process.unit in units or manager.template_of(process.unit) in existing.templates
        if process.is_of_container():
            files = " and ".join(map(str, existing.virtual_host_files)) or "what leads to it"
            existing.refusals.append(
                f"process {process.pid} ({process}) passes requests on to a container, whose data is not taken over: "
                f"save it, stop the container, and move {files} away"
            )
        elif process.unit and not (is_known or by_supervisor or by_uwsgi):
            existing.refusals.append(_of_other_unit(process))
    existing.refusals = list(dict.fromkeys(existing.refusals))
    return own


def _of_other_unit(process: Process) -> str:
    """Return why the unit of a process cannot be taken over."""
    path = manager.SYSTEMD / process.unit
    if path.is_symlink():
        target = os.path.realpath(path)
        what = f"{path}, which runs the existing deployment, is a link to {target}"
        return f"{what}: have a copy of that file in its place"
    return (
        f"process {process.pid} is run by {process.unit}, which also runs what is not this site's: "
        "remove it from there first"
    )


def _server(existing: ExistingDeployment, own: Iterable[Process]) -> str:
    """Return the application server of the existing deployment, or empty."""
    units = [path for path in existing.units if path.name not in existing.workers]
    texts = [*(" ".join(process.argv) for process in own), *map(takeover_existing.read_text, units)]
    found = filter(None, map(takeover_process.server, texts))
    return "mod_wsgi" if existing.wsgi_user else next(found, "")


def _shared_with_others(existing: ExistingDeployment, running: list[Process], own: list[Process]) -> list[str]:
    """Return the refusals of processes that serve other virtual hosts and would be stopped too."""
    shared = [
        (address, names)
        for address, names in existing.other_names.items()
        if address not in existing.addresses
        and any(process in own for process in takeover_process.listeners(address, running))
    ]
    return [
        f"the process that serves {', '.join(names)} at {address} runs in the same folders, and would be stopped too: "
        "move it to other folders, or set another root"
        for address, names in shared
    ]


def _required_ports(site: Site) -> list[str]:
    """Return the addresses that the site itself listens on: those of its application server and of its proxy."""
    bind = site.config["server"]["bind"]
    host, _colon, port = bind.rpartition(":")
    own = [] if bind == "unix" else [f"{host}:{int(port) + offset}" for offset in (0, 1)]
    return [*own, *(f"0.0.0.0:{host_ports.split(listen)[1]}" for listen in site.config["proxy"]["listen"])]


def _ports(existing: ExistingDeployment, listeners: dict[str, list[Process]], own: list[Process]) -> None:
    """Refuse ports that the site requires and an application listens on; web servers are checked elsewhere."""
    for address, processes in listeners.items():
        for process in processes:
            if process in own or process.is_application():
                port = address.rpartition(":")[2]
                existing.findings.append(Finding("port", port, f"process {process.pid}, {process}"))
                is_servers = not address.startswith("0.0.0.0:")
                way = "set server:bind to another port" if is_servers else "let it listen on another port"
                existing.refusals.append(f"port {port} is required, and process {process.pid} listens on it: {way}")
