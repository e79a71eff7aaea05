"""The states of an apply that every host with sites has, by the part of `django/` that they belong to.

They are made here, and not by templates: a template is compiled and its text parsed anew in each apply, for ten times
what this takes (docs/decisions/0107). This module runs while Salt renders (`django_pillar_render`), so it imports
little.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django_formula.pillar import parts as pillar_parts

#: A state or the states of a part: an id, the function, and its arguments; `requisite` of another state.
States = dict[str, Any]
Compiled = Mapping[str, Any]
Site = Mapping[str, Any]

FILES = "salt://django/files/"
PACKAGES = "The packages of the sites are installed"
#: How the names of packages with clients of database servers begin: of what they dump, zstd makes backups.
CLIENTS = ("default-mysql-client", "mariadb-client", "postgresql-client")
#: The programs of every release.
PROGRAMS = (
    "django_formula_plan.py",
    "django_formula_application.py",
    "django_formula_start.py",
    "django_formula_migrate.py",
    "django_formula_lock.py",
    "django_formula_guard.py",
    "django_formula_keep.py",
    "django_formula_request.py",
    "django_formula_settings.py",
    "django_formula_logs.py",
    "maintenance.html",
    "django_formula_backup.py",
    "django_formula_sqlite.py",
    "django_formula_tables.py",
    "django_formula_faults.py",
)
#: How the state of a database server is named.
SERVERS = {"postgres": "PostgreSQL runs", "mysql": "MariaDB runs"}


def parts(django: Compiled, grains: Mapping[str, Any], pythons: Mapping[str, Any]) -> dict[str, States]:
    """Return the states of `watch`; where there are sites of `place`, `host`, `proxy` and `site`; of what others use.

    Args:
        django: what `pillar.compiler.compile` returns.
        grains: of the minion.
        pythons: ``pythons.yaml``.
    """
    own = {part.name: part.states(django) for part in pillar_parts.parts()}
    own["watch"] = _watch(django)
    if not django["sites"]:
        return own
    return {
        **own,
        "place": _place(django),
        "host": _host(django, grains, pythons),
        "proxy": _proxies(django),
        "site": _sites(django),
    }


def _state(function: str, *more: Mapping[str, Any], **arguments: Any) -> States:
    return {function: [*({name: value} for name, value in arguments.items()), *more]}


def _require(*sentences: str, more: Iterable[Any] = ()) -> dict[str, Any]:
    """Return the requisite of states of the formula, by what follows ``django:``."""
    return {"require": [*({"django": one} for one in sentences), *more]}


# Before anything is changed: no other deployment is in the path of a site, or the pillar has it taken over (`adopt`).


def _place(django: Compiled) -> States:
    return {
        f"{name} can be deployed": _state(
            "django.adoption", name=name, config=json.dumps(site), platform=django["platform"]
        )
        for name, site in django["sites"].items()
    }


# What all sites need on the host: packages, and uv for their virtualenvs.


def _host(django: Compiled, grains: Mapping[str, Any], pythons: Mapping[str, Any]) -> States:
    sites, named = django["sites"].values(), django["platform"]["packages"]
    has_systemd = grains["init"] == "systemd"
    own = ["certificates", "git", "python", "ssh", "venv", *(["bus"] if django["process"] == "systemd" else [])]
    packages = {named[noun] for noun in [*own, *(["sudo"] if django["people"]["keys"] else [])]}
    for site in sites:
        packages.update(_packages(site, django["stores"][site["name"]], named, has_systemd=has_systemd))
    states = {PACKAGES: _state("django.packages", pkgs=sorted(packages))}
    if any(site["container"]["engine"] == "docker" for site in sites if "container" in site):
        states["Docker runs"] = _state("django.running", _require(PACKAGES), name="docker", enable=True)
    if not has_systemd and any("schedules" in site for site in sites):
        states["cron runs"] = _state("django.running", _require(PACKAGES), name="cron")
    if any(site["server"]["kind"] == "mod_wsgi" for site in sites):
        states["mod_wsgi is installed"] = _state("django.apache_module", module="wsgi", pkgs=named["mod_wsgi"])
    if any("memcached" in stores for stores in django["stores"].values()):
        states["Memcached is installed"] = _state(
            "django.quiet_packages", _require(PACKAGES), pkgs=[named["memcached"]], service="memcached"
        )
    shell = django["platform"]["shell"]
    if any("push" in site["static"] for site in sites):
        states["The user that pushes static files exists"] = _user(
            "_django-push", "Pushes the static files of Django sites", shell
        )
    if any("offsite" in site["backup"] for site in sites):
        states["The user that copies backups exists"] = _user(
            "_django-offsite", "Copies the backups of Django sites elsewhere", shell
        )
    index = next((site["index"] for site in sites if site["index"].get("url")), None)
    states["uv is installed"] = _state("django.uv", _require(PACKAGES), index=index)
    return {"include": ["django.place"]} | states | _pythons(django, pythons)


def _user(name: str, title: str, shell: str) -> dict[str, Any]:
    """Return the state of a system user of a program of the formula's."""
    more = {"system": True, "createhome": False, "home": "/nonexistent", "shell": shell}
    return _state("user.present", name=name, fullname=title, **more)


def _packages(site: Site, stores: Iterable[str], named: Mapping[str, Any], *, has_systemd: bool) -> Iterator[str]:
    """Yield the packages of the operating system that a site needs."""
    yield from site["packages"]
    if "mount" in site["media"]:
        yield from named["mount"].get(site["media"]["mount"]["type"], [])
    if "offsite" in site["backup"]:
        yield from named["offsite"]
    if "points" in site["backup"]:
        yield from named["points"]
    if site["static"].get("push", {}).get("kind") == "rsync":
        yield named["rsync"]
    if site["tls"]["kind"] != "none":
        yield named["tls"]
    if not has_systemd and ("schedules" in site or "points" in site["backup"]):
        yield named["cron"]
    if "container" in site:
        container = site["container"]
        yield from named[container["engine"]]
        if not (container.get("base") or container.get("file") or container.get("image")):
            yield named["mmdebstrap"]
    if site["tls"]["kind"] == "acme":
        yield named[site["tls"]["client"]]
    if "redis" in stores:
        yield named["redis"]
    if any(name.startswith(CLIENTS) for name in site["packages"]):
        yield named["zstd"]
    for database in site["databases"].values():
        if database["engine"] in SERVERS:
            yield from [*named[database["engine"]], named["zstd"]]
        if "postgis" in database.get("extensions", []):
            yield from [*named["postgis"], *(named["postgis_server"] if database["manage"] else [])]


def _pythons(django: Compiled, pythons: Mapping[str, Any]) -> States:
    """Return a state for each version of Python that sites name."""
    sites = [site for site in django["sites"].values() if "container" not in site]
    versions = sorted({site["python"] for site in sites if site["python"].startswith("3.")})
    states = {}
    for version in versions:
        known = pythons["versions"]
        states[_python(version)] = _state(
            "django.python",
            _require("uv is installed"),
            version=version,
            table={"versions": {version: known[version]} if version in known else known},
            mirror=django.get("python_mirror") or pythons["origin"],
        )
    return states


def _python(version: str) -> str:
    return f"Python {version} is installed"


# The watch of the host, before the web servers: it stops serving the page where another proxy needs its ports.


def _watch(django: Compiled) -> States:
    """Return the state of the watch; on a host without sites, of a master's, or of what is left of one.

    Where each site is refused, or has no port, nothing is changed.
    """
    kinds = {name: site["proxy"]["kind"] for name, site in django["sites"].items()}
    places = dict.fromkeys(
        f"{name} can be deployed" if kind == "none" else f"The ports of {kind} are free" for name, kind in kinds.items()
    )
    page = django["page"]
    served = {"domain": page["domain"], "kind": page["site"]["proxy"]["kind"]} if page else None
    state = _state(
        "django.watch",
        *([{"require_any": [{"django": place} for place in places]}] if places else []),
        config=json.dumps(django["watch"]),
        **({"page": served} if served else {}),
    )
    included = ["django.place", *(["django.proxy"] if django["proxies"] else [])]
    return {**({"include": included} if places else {}), "The host is watched": state}


# The web servers that face the clients, where their ports are free. Debian's default site goes only where it is this
# formula that installs one; a site's own files are made by the site's step `proxy`.


def _proxies(django: Compiled) -> States:
    states: States = {"include": ["django.place"]}
    for kind in django["proxies"]:
        sites = {name: site for name, site in django["sites"].items() if site["proxy"]["kind"] == kind}
        states |= _proxy(kind, sites, django)
    return states


def _proxy(kind: str, sites: Mapping[str, Site], django: Compiled) -> States:
    platform, default = django["platform"], f"The default site of a fresh {kind} is off"
    secure = {name: one["tls"]["listen"] if one["tls"]["kind"] != "none" else [] for name, one in sites.items()}
    plain = {name: one["proxy"]["listen"] for name, one in sites.items()}
    places = [{"django": f"{name} can be deployed"} for name in sites]
    states = {
        f"The ports of {kind} are free": _state(
            "django.ports", kind=kind, sites={name: plain[name] + secure[name] for name in sites}, require_any=places
        ),
        f"{kind} is installed": _state(
            "django.web_server",
            _require(f"The ports of {kind} are free"),
            kind=kind,
            pkgs=[platform["packages"][kind]],
        ),
        default: _state(
            "file.absent", name=platform["default_sites"][kind], onchanges=[{"django": f"{kind} is installed"}]
        ),
    }
    if kind == "apache" and any(one["media"]["protected"] for one in sites.values()):
        states["mod_xsendfile is installed"] = _state(
            "django.apache_module",
            _require("apache is installed"),
            module="xsendfile",
            pkgs=[platform["packages"]["xsendfile"]],
        )
    states[f"{kind} runs"] = _state(
        "django.proxy_runs",
        _require(f"{kind} is installed", more=[{"file": default}]),
        kind=kind,
        http=_once(plain.values()),
        https=_once(secure.values()),
        templates=django["default_servers"][kind],
    )
    return states


def _once(listens: Iterable[Iterable[Any]]) -> list[Any]:
    """Return the values of some lists, each once, in their order."""
    return list(dict.fromkeys(one for some in listens for one in some))


# The steps of each site, in the order of `deploy.order`. Users and directories come first, for all sites, so
# that all remotes are queried at the same time. A step that finds nothing to do reports no change; one that fails stops
# its own site only. Nothing that serves is changed before "is live".


def _sites(django: Compiled) -> States:
    states: States = {}
    sites = django["sites"]
    for name, site in sites.items():
        states[f"{name} has its users"] = _users(name, site, django)
        states[f"{name} has its directories"] = _site(name, site, django)
    for name, site in sites.items():
        before = "has its directories"
        for function, sentence in django["steps"][name]:
            if function != "site":
                servers = [SERVERS[engine] for engine in _servers(site) if function == "database"]
                required = _require(f"{name} {before}", *servers)
                states[f"{name} {sentence}"] = _state(f"django.{function}", required, name=name)
                before = sentence
    # A domain that moves from one site to another does so when both are released. No requisites: what has failed before
    # has been said.
    for name in sites if len(sites) > 1 else ():
        states[f"{name} has its domains"] = _state("django.domains", name=name)
    # Where each site is refused, nothing is changed.
    places = {"require_any": [{"django": f"{name} has its directories"} for name in sites]}
    states["django-shell is installed"] = _state("django.console", places)
    states["People have their rights"] = _state("django.people", places, config=json.dumps(django["people"]))
    if django["page"]:
        states["The page is served"] = _page(django)
    return states


def _page(django: Compiled) -> States:
    """Return the state that serves the page: after the sites, none of which waits for it."""
    page = django["page"]
    return _state(
        "django.page",
        _require(f"{page['site']['proxy']['kind']} runs"),
        config=json.dumps({key: page[key] for key in ("domain", "user", "password")}),
        site=json.dumps(page["site"]),
        platform=django["platform"],
        templates=page["templates"],
    )


def _servers(site: Site) -> list[str]:
    """Return the database engines of which the formula sets up a server on this host for a site."""
    return list(dict.fromkeys(one["engine"] for one in site["databases"].values() if one["manage"]))


def _users(name: str, site: Site, django: Compiled) -> States:
    more = {**({"uid": site["uid"]} if "uid" in site else {}), "shell": django["platform"]["shell"]}
    more |= {"stores": True} if django["stores"][name] else {}
    return _state("django.users", _require(f"{name} can be deployed"), name=name, user=site["user"], **more)


def _site(name: str, site: Site, django: Compiled) -> States:
    required = [f"{name} has its users", "uv is installed"]
    if "container" not in site and site["python"].startswith("3."):
        required.append(_python(site["python"]))
    if site.get("container", {}).get("engine") == "docker":
        required.append("Docker runs")
    if site["server"]["kind"] == "mod_wsgi":
        required.append("mod_wsgi is installed")
    if "memcached" in django["stores"][name]:
        required.append("Memcached is installed")
    if site["proxy"]["kind"] == "apache" and site["media"]["protected"]:
        required.append("mod_xsendfile is installed")
    return _state(
        "django.site",
        _require(*required, more=["supervisor runs"] if django["process"] == "supervisor" else []),
        name=name,
        config=json.dumps(site),
        platform=django["platform"],
        templates=list(dict.fromkeys(_templates(site, django["templates"][name]))),
    )


def _templates(site: Site, of_kinds: Iterable[str]) -> Iterator[str]:
    """Yield the URLs of all files that a release of a site is rendered from.

    Args:
        of_kinds: those of its server, workers, stores and process manager.
    """
    yield from (FILES + name for name in PROGRAMS)
    yield from of_kinds
    for name in ("service", "socket") if site["listener"] else ():
        yield f"{FILES}listen.{name}"
    has_certificates, has_schedules = site["tls"]["kind"] != "none", "schedules" in site
    timers = {"backup": site["backup"]["schedule"], "tls": has_certificates, "schedule": has_schedules}
    timers["offsite"] = "offsite" in site["backup"]
    for name in (name for name, is_used in timers.items() if is_used):
        yield from (f"{FILES}{name}.service", f"{FILES}{name}.timer")
    if "email" in site:
        yield f"{FILES}django_formula_email.py"
    named = [site["tls"].get(key) for key in ("certificate", "key")]
    named += [one["source"] for one in site["files"].values() if "source" in one]
    yield from (url for url in named if isinstance(url, str) and url.startswith("salt://"))
