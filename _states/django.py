"""
Deploy Django sites: each step of a release is a state, and ``absent`` removes a site.

``django/site.sls`` has the states of a site in their order; use it with ``state.apply django`` instead of writing
them out. Each state compares the host with the configuration, reports the changes if ``test=True``, and makes them
otherwise. The steps are in ``engine/django_formula/deploy/order.py``, and a state is generated for each.
"""

import json
import textwrap
from pathlib import Path

import django_engine

django_engine.use()

from django_formula.host import lazy  # noqa: F401 - the others run when they are used

# isort: split
import django_fileserver
from django_formula.database import setup
from django_formula.deploy import database as deploy_database
from django_formula.deploy import order, removal, steps
from django_formula.deploy.deployment import Deployment
from django_formula.deploy.request import asked_by
from django_formula.host import daemons
from django_formula.host import file as host_file
from django_formula.host import packages as host_packages
from django_formula.host import users as host_users
from django_formula.host.commands import DeploymentError, redact
from django_formula.push import static_files
from django_formula.release import releases
from django_formula.secret import secrets as secret_secrets
from django_formula.site import sites as site_sites
from django_formula.takeover import takeovers
from django_formula.untrusted.text import shown_answer
from django_formula.verbs import terminal
from django_formula.virtualenv import managed as virtualenv_managed
from django_formula.virtualenv import uv as virtualenv_uv

__virtualname__ = "django"


def __virtual__():
    return __virtualname__


def site(name, config, platform, templates):
    """
    Create the directories and the registration of a site, record its configuration, and set up the mirror of its
    repository. The other states of the site use this configuration.

    name
        Name of the site.
    config
        The site's configuration with all defaults, from ``map.jinja``, as JSON: YAML would read some characters as
        others.
    platform
        Names that depend on the operating system, from ``map.jinja``.
    templates
        ``salt://`` URLs of all files that a release of the site is rendered from.

    .. code-block:: yaml

        blog has its directories:
          django.site:
            - name: blog
            - config: {{ django.sites.blog | tojson | yaml_dquote }}
            - platform: {{ django.platform | tojson }}
            - templates:
              - salt://django/files/django_formula_start.py
              - salt://django/files/maintenance.html
    """
    config = json.loads(config)
    try:
        texts = {url: _text(url) for url in templates}
        site = site_sites.Site(config, platform)
        deployment = Deployment(
            site,
            _given(site),
            texts,
            asked_by=asked_by("state.apply", __opts__["cachedir"]),
            test=__opts__["test"],
            servers=__context__.setdefault("django.servers", {}),
            listening=__context__.get("django.listening"),
            coming=__context__.get("django.coming", {}).get(config["proxy"]["kind"]),
        )
    except DeploymentError as error:
        return shown_answer({"name": name, "changes": {}, "result": False, "comment": str(error)})
    _deployments()[name] = deployment
    return _run("site", name)


def adoption(name, config, platform):
    """
    Check that no other deployment exists where a site is going to be: its root, user and name. With ``adopt`` in
    the pillar an existing deployment is taken over; otherwise the state fails and lists what was found. It also fails
    where the pillar gives the site another database, which is empty.

    This state changes nothing. The existing deployment keeps serving until the new release is activated.

    name
        Name of the site.
    config
        As for ``django.site``.
    platform
        As for ``django.site``.

    .. code-block:: yaml

        blog can be deployed:
          django.adoption:
            - name: blog
            - config: {{ django.sites.blog | tojson | yaml_dquote }}
            - platform: {{ django.platform | tojson }}
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    site = site_sites.Site(json.loads(config), platform)
    ret["comment"] = f"no other deployment found in {site.root}"
    try:
        site_sites.refuse_another_identity(site, (__pillar__.get("django") or {}).get("sites") or ())
        takeover = takeovers.pending(site)
        live = releases.linked(site, site.current)
        found = [
            *(takeover.warnings() if takeover else []),
            *(deploy_database.foresee(site, live) if live else []),
        ]
        if found:
            ret["warnings"] = terminal.warnings(found)
    except (DeploymentError, OSError) as error:
        return shown_answer({**ret, "result": False, "comment": str(error)})
    if takeover and __opts__["test"]:
        comment = f"{name}: the existing deployment would be taken over"
        ret.update(result=None, comment=comment, changes=takeover.as_state_changes())
    elif takeover:
        ret["comment"] = "\n  ".join(
            [
                f"{name}: the existing deployment is taken over when the new release is activated:",
                *takeover.plan["found"],
            ]
        )
    return shown_answer(ret)


def _state(step):
    """Return the state function of a step; Salt shows its documentation."""

    def state(name):
        if step is order.DOMAINS and name not in _deployments():
            return shown_answer({"name": name, "changes": {}, "result": True, "comment": f"{name} was not deployed"})
        return _run(step.name, name)

    state.__name__ = state.__qualname__ = step.name
    state.__doc__ = f"""
    {textwrap.fill(f"The step {step.name} of a release: it {step.does}.", 116, subsequent_indent="    ")}

    name
        Name of the site.

    .. code-block:: yaml

        blog {step.state}:
          django.{step.name}:
            - name: blog
    """
    return state


# A state for each step but `site`, which has arguments of its own: django.source, django.virtualenv and so on.
globals().update({step.name: _state(step) for step in order.BY_NAME.values() if step.name != "site"})


def absent(name, config, platform):
    """
    Remove a site: its proxy configuration, instances, units, releases and registration. Its data is kept unless
    ``remove_data`` is true in its configuration.

    name
        Name of the site.
    config
        As for ``django.site``.
    platform
        As for ``django.site``.

    .. code-block:: yaml

        blog is absent:
          django.absent:
            - name: blog
            - config: {{ django.absent.blog | tojson | yaml_dquote }}
            - platform: {{ django.platform | tojson }}
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{name} is already absent"}
    site = site_sites.Site(json.loads(config), platform)
    try:
        present = removal.present(site)
        if present and __opts__["test"]:
            ret.update(result=None, comment=f"{name} would be removed", changes=present)
        elif present:
            removal.remove(site, asked_by("state.apply", __opts__["cachedir"]))
            ret.update(comment=f"{name} has been removed", changes=present)
    except (DeploymentError, OSError) as error:
        ret.update(result=False, comment=str(error))
    return shown_answer(ret)


def cache(name, config, platform, templates):
    """
    Have the queue and caches of a site that this host has for all hosts of the site: Redis with TLS, a password and
    the addresses of those hosts.

    name
        Name of the site.
    config
        As for ``django.site``.
    platform
        As for ``django.site``.
    templates
        ``salt://`` URLs of the templates of the servers.

    .. code-block:: yaml

        blog has its queue and caches:
          django.cache:
            - name: blog
            - config: {{ django.served.blog | tojson | yaml_dquote }}
            - platform: {{ django.platform | tojson }}
            - templates: [salt://django/files/store.service]
    """
    from django_formula.store import served as store_served

    ret = {"name": name, "changes": {}, "result": True, "comment": f"{name}: the servers for its hosts are unchanged"}
    site = site_sites.Site(json.loads(config), platform)
    stores = site.config["fleet"]["stores"]
    try:
        texts = {url: _text(url) for url in templates}
        pem = {key: _pem(stores[key]) for key in ("certificate", "key")}
        served = store_served.Served(site, _secret(stores["password"]["pillar"]), pem)
        ret["changes"] = served.changes(texts)
        if ret["changes"] and not __opts__["test"]:
            warnings = served.apply(texts)
            ret["comment"] = "\n".join([f"{name}: the servers for its hosts have been set up", *warnings])
        elif ret["changes"]:
            ret.update(result=None, comment=f"{name}: the servers for its hosts would be set up")
    except (DeploymentError, OSError) as error:
        ret.update(result=False, comment=str(error))
    return shown_answer(ret)


def packages(name, pkgs):
    """
    Install packages of the operating system with Salt's ``pkg.installed``, if one is missing.

    If none is missing, this state is much cheaper than ``pkg.installed``, which makes Salt load every execution
    module. A package that another one provides, such as libmagic1 of Debian 13 by libmagic1t64, is not missing.

    name
        Any name.
    pkgs
        Names of the packages.

    .. code-block:: yaml

        The packages of the sites are installed:
          django.packages:
            - pkgs: [git, python3-venv]
    """
    if not host_packages.missing(pkgs, __salt__["pkg.list_pkgs"]()):
        return shown_answer(
            {"name": name, "changes": {}, "result": True, "comment": "all packages are already installed"}
        )
    result = __states__["pkg.installed"](name=name, pkgs=pkgs, refresh=True, cache_valid_time=300)
    if result["result"] is False and not host_packages.missing(pkgs, __salt__["pkg.list_pkgs"]()):
        # pkg.installed does not find a package by a name that another one provides, which apt installs for it
        return shown_answer({**result, "result": True, "comment": "the packages were installed"})
    if result["result"] is False:
        result["comment"] += host_packages.hint(result["comment"], __pillar__.get("django") or {})
    return shown_answer(result)


def web_server(name, kind, pkgs):
    """
    Install a web server without enabling Debian's default site, as ``django.packages`` does.

    name
        Any name.
    kind
        ``nginx`` or ``apache``.
    pkgs
        Names of its packages.

    .. code-block:: yaml

        nginx is installed:
          django.web_server:
            - kind: nginx
            - pkgs: [nginx]
    """
    from django_formula.proxy import proxies

    if not __opts__["test"] and host_packages.missing(pkgs, __salt__["pkg.list_pkgs"]()):
        proxies.PROXIES[kind].leave_out_the_default_site()
    return shown_answer(packages(name, pkgs))


def apache_module(name, module, pkgs):
    """
    Install a module of Apache without enabling it in an existing Apache, as ``django.packages`` does.

    name
        Any name.
    module
        Apache's name of the module.
    pkgs
        Names of its packages.

    .. code-block:: yaml

        mod_wsgi is installed:
          django.apache_module:
            - module: wsgi
            - pkgs: [libapache2-mod-wsgi-py3]
    """
    from django_formula.proxy import apache

    if not __opts__["test"] and not set(pkgs) <= set(__salt__["pkg.list_pkgs"]()):
        apache.leave_out(module)
    return shown_answer(packages(name, pkgs))


def quiet_packages(name, pkgs, service):
    """
    Install packages without starting the service that they bring, as ``django.packages`` does. A service that this
    host already has stays as it is.

    name
        Any name.
    pkgs
        Names of the packages.
    service
        The service that they bring.

    .. code-block:: yaml

        Memcached is installed:
          django.quiet_packages:
            - pkgs: [memcached]
            - service: memcached
    """
    are_installed = set(pkgs) <= set(__salt__["pkg.list_pkgs"]())
    if __opts__["test"] or (are_installed and not daemons.is_half_installed(service)):
        return shown_answer(packages(name, pkgs))
    with daemons.never_started(service):
        return shown_answer(packages(name, pkgs))


def server(name, engine, pkgs):
    """
    Install a database server. An existing server is used as it is.

    name
        Any name.
    engine
        ``postgres`` or ``mysql``.
    pkgs
        Packages of the operating system's own server.

    .. code-block:: yaml

        PostgreSQL is installed:
          django.server:
            - engine: postgres
            - pkgs: [postgresql]
    """
    if setup.is_installed(engine):
        return shown_answer(
            {"name": name, "changes": {}, "result": True, "comment": f"a server for {engine} is already installed"}
        )
    return shown_answer(
        __states__["pkg.installed"](name=name, pkgs=pkgs, refresh=True, cache_valid_time=300, install_recommends=False)
    )


def users(name, user, shell, stores=False, build=True, uid=None):
    """
    Create the users of a site: the user that it runs as, its build user, and the user of its own queue and caches.
    They are system users without home directory and password.

    A user that the pillar names may exist already. The state fails if a user exists that has the name of the site
    and does not belong to it.

    name
        Name of the site.
    user
        Name of its user. The build user has the suffix ``-build``.
    shell
        Login shell of a new user.
    stores
        Whether the site has a queue or cache in a server of its own, which runs as a user with the suffix ``-store``
        in the group of the site's user.
    build
        Whether the site is built on this host.
    uid
        Number of the site's user. The next free one by default.

    .. code-block:: yaml

        blog has its users:
          django.users:
            - name: blog
            - user: blog
            - shell: /usr/sbin/nologin
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"the users of {name} already exist"}
    fullname = f"Django site {name}"
    groups = {user: None, **({f"{user}-build": None} if build else {}), **({f"{user}-store": user} if stores else {})}
    found = {one: host_users.find_user(one) for one in groups}
    for one, existing in found.items():
        is_own = one != user or user == name  # else the pillar names a user that may exist already
        if existing and is_own and existing.pw_gecos.split(",")[0] != fullname:
            comment = (
                f"the user {one} exists on this host and does not belong to the site {name}"
                f"\nset django:sites:{name}:user to another name"
            )
            return shown_answer({**ret, "result": False, "comment": comment})
    existing = found[user]
    if uid and existing and existing.pw_uid != uid:
        comment = (
            f"the user {user} has the number {existing.pw_uid} on this host, and django:sites:{name}:uid is {uid}"
            f"\nstop the site, then: usermod --uid {uid} {user}; chown its files in the site's root; and apply"
        )
        return shown_answer({**ret, "result": False, "comment": comment})
    if uid and not existing and (other := host_users.user_name(uid)):
        comment = (
            f"{uid}, which django:sites:{name}:uid has, is the number of the user {other} on this host"
            f"\nset it to a number that is free on all hosts of the site"
        )
        return shown_answer({**ret, "result": False, "comment": comment})
    for one in [one for one, existing in found.items() if not existing]:
        made = __states__["user.present"](
            one,
            system=True,
            createhome=False,
            home="/nonexistent",
            shell=shell,  # nosec B604
            fullname=fullname,
            **({"gid": groups[one], "usergroup": False} if groups[one] else {}),
            **({"uid": uid} if uid and one == user else {}),
        )
        ret["changes"] |= {one: "new"}
        ret.update(result=made["result"], comment=made["comment"])
        if ret["result"] is False:
            break
    return shown_answer(ret)


def uv(name, index=None):
    """
    Install uv, which builds the virtualenvs, into a virtualenv of its own.

    name
        Any name.
    index
        Package index to install it from, as in the pillar. PyPI by default.

    .. code-block:: yaml

        uv is installed:
          django.uv:
            - index:
                url: https://pypi.example.org/simple/
                username: ray
                password:
                  pillar: django:defaults:index:password
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "uv is already installed"}
    if virtualenv_uv.is_installed():
        return shown_answer(ret)
    ret["changes"] = {"uv": virtualenv_uv.VERSION}
    if __opts__["test"]:
        return shown_answer({**ret, "result": None, "comment": "uv would be installed"})
    try:
        password = _secret(index["password"]["pillar"]) if index and index["password"] else None
        virtualenv_uv.install(index, password)
    except DeploymentError as error:
        return shown_answer({**ret, "changes": {}, "result": False, "comment": str(error)})
    return shown_answer({**ret, "comment": "uv has been installed"})


def python(name, version, table, mirror):
    """
    Install an interpreter for the virtualenvs of sites, unless the host has one of that version.

    It is one of uv's managed interpreters, in ``/usr/local/lib/django-formula/python``. Its archive is used if it has
    the digest that the formula knows. One that is older than the newest known stays where that cannot be fetched.

    name
        Any name.
    version
        Version of Python, such as ``'3.13'``.
    table
        What ``django/pythons.yaml`` has of it.
    mirror
        URL that the path of the archive is below.

    .. code-block:: yaml

        Python 3.13 is installed:
          django.python:
            - version: '3.13'
            - table: {{ pythons | tojson }}
            - mirror: https://mirror.example.org/pythons
    """
    managed = virtualenv_managed
    ret = {"name": name, "changes": {}, "result": True, "comment": f"Python {version} is already installed"}
    if managed.of_host(version):
        return shown_answer({**ret, "comment": f"this host has its own Python {version}"})
    try:
        archive = managed.known(table, version)
        if managed.is_installed(archive["release"]):
            return shown_answer(ret)
        ret["changes"] = {"python": archive["release"]}
        if __opts__["test"]:
            text = f"Python {archive['release']} would be installed from {mirror}"
            return shown_answer({**ret, "result": None, "comment": text})
        managed.install(archive, mirror, __salt__["cp.cache_file"])
    except (DeploymentError, OSError) as error:
        if not managed.executable(version):
            return shown_answer({**ret, "changes": {}, "result": False, "comment": str(error)})
        text = f"an older Python {version} stays: {error}"
        return shown_answer({**ret, "changes": {}, "comment": text, "warnings": [text]})
    return shown_answer({**ret, "comment": f"Python {archive['release']} has been installed"})


def running(name, enable=False):
    """
    Start a service if its process is not running, and enable it at boot.

    Unlike ``service.running``, this state looks at the process, also on hosts without systemd, and spawns no
    processes if the service is running.

    name
        Name of the service: ``nginx``, ``apache2``, ``supervisor``, ``postgresql``, ``mariadb`` or ``cron``.
    enable
        Enable the service in systemd.

    .. code-block:: yaml

        nginx runs:
          django.running:
            - name: nginx
            - enable: True
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{name} is already running"}
    daemon = daemons.DAEMONS[name]
    starts = not daemons.is_running(daemon)
    enables = enable and not daemons.is_enabled(daemon)
    done = [verb for verb, is_due in (("started", starts), ("enabled", enables)) if is_due]
    if not done:
        return shown_answer(ret)
    ret["changes"] = {name: ", ".join(done)}
    if __opts__["test"]:
        return shown_answer({**ret, "result": None, "comment": f"{name} would be {' and '.join(done)}"})
    try:
        if starts:
            daemons.start(daemon)
        if enables:
            daemons.enable(daemon)
    except DeploymentError as error:
        return shown_answer({**ret, "changes": {}, "result": False, "comment": str(error)})
    return shown_answer({**ret, "comment": f"{name} has been {' and '.join(done)}"})


def ports(name, kind, sites):
    """
    Check that no process other than the formula's proxies listens on the ports of the sites. This state changes
    nothing.

    name
        Any name.
    kind
        ``nginx`` or ``apache``.
    sites
        Ports of each site, by its name: a port on all addresses, or ``192.0.2.10:80``.

    .. code-block:: yaml

        The ports of nginx are free:
          django.ports:
            - kind: nginx
            - sites:
                blog: [80, 443]
    """
    from django_formula.host import ports as host_ports
    from django_formula.proxy import ports as proxy_ports

    listening = __context__["django.listening"] = host_ports.listening()
    coming = __context__.setdefault("django.coming", {})[kind] = list(sites)
    try:
        for site, listens in sites.items():
            proxy_ports.refuse_taken_ports(site, kind, listens, listening, coming)
    except DeploymentError as error:
        return shown_answer({"name": name, "changes": {}, "result": False, "comment": str(error)})
    return shown_answer(
        {
            "name": name,
            "changes": {},
            "result": True,
            "comment": f"no other process than {kind} listens on these ports",
        }
    )


def proxy_runs(name, kind, http, templates, https=()):
    """
    Start a web server, and configure a default server on its ports that rejects requests for unknown hosts. A
    default server that exists already is left alone.

    While another proxy of the formula still uses the ports, this state does nothing: the sites start the web server
    when they are handed over.

    name
        Any name.
    kind
        ``nginx`` or ``apache``.
    http
        Ports for http: a port on all addresses, or ``192.0.2.10:80``.
    templates
        ``salt://`` URLs of the default server's configuration, and of what all servers with TLS share.
    https
        Ports for https.

    .. code-block:: yaml

        nginx runs:
          django.proxy_runs:
            - kind: nginx
            - http: [80]
            - https: [443]
            - templates:
              - salt://django/files/nginx/default.conf
              - salt://django/files/nginx/tls.conf
    """
    from django_formula.host import config_files
    from django_formula.proxy import ports as proxy_ports
    from django_formula.proxy import proxies, switch

    ret = {
        "name": name,
        "changes": {},
        "result": True,
        "comment": f"{kind} is already running and rejects unknown hosts",
    }
    proxy = proxies.PROXIES[kind]
    try:
        if proxy_ports.holder_of([*http, *https], __context__.get("django.listening")) not in (None, proxy):
            return shown_answer(
                {
                    **ret,
                    "comment": f"another proxy uses the ports until the sites are handed over to {kind}",
                }
            )
        http, https = proxy_ports.served(proxy, http), proxy_ports.served(proxy, https)
        files = proxy.default_server(http, https, {url: _text(url) for url in templates})
        changes = config_files.differences(files)
        if changes and __opts__["test"]:
            ret.update(result=None, comment="the default server would be configured", changes=changes)
        elif changes:
            switch.apply(files)
            ret.update(comment="the default server has been configured", changes=changes)
    except DeploymentError as error:
        return shown_answer({**ret, "result": False, "comment": str(error)})
    runs = running(proxy.DAEMON.service, enable=True)
    changes = {**ret["changes"], **runs["changes"]}
    return shown_answer(
        {**(runs if runs["changes"] or runs["result"] is False else ret), "name": name, "changes": changes}
    )


def balancer(name, sites, gone, platform, templates):
    """
    Balance sites between their hosts: configure HAProxy or nginx in a unit of its own, have it test the configuration,
    and reload it. Sites of which this host is no balancer any more are removed; with the last one it is stopped.

    name
        Any name.
    sites
        Configurations of the sites by name, from ``map.jinja``, as JSON.
    gone
        Names of the sites that this host does not balance.
    platform
        As for ``django.site``.
    templates
        ``salt://`` URLs of the balancer's files.

    .. code-block:: yaml

        The balancer serves its sites:
          django.balancer:
            - sites: {{ django.balanced | tojson | yaml_dquote }}
            - gone: []
            - platform: {{ django.platform | tojson }}
            - templates:
              - salt://django/files/haproxy/haproxy.cfg
              - salt://django/files/haproxy/haproxy.service
    """
    from django_formula.balancer import certificates as balancer_certificates
    from django_formula.balancer import plan
    from django_formula.tls import certificates as tls_certificates

    ret = {"name": name, "changes": {}, "result": True, "comment": "the balancer is unchanged"}
    sites = json.loads(sites)
    try:
        texts = {url: _text(url) for url in templates}
        given = {key: _given_to_balancer(config) for key, config in sites.items()}
        served = {key: site_sites.Site(config, platform) for key, config in sites.items()}
        entries = {key: plan.entry(site, given[key].get("password")) for key, site in served.items()}
        missing = {key: tls_certificates.missing(site, given[key], texts) for key, site in served.items() if site.https}
        files = {url: texts[url] for url in plan.templates([one["kind"] for one in entries.values()])}
        if __opts__["test"]:
            changes = plan.planned(entries, gone, files).changes
            later, warnings = balancer_certificates.planned(entries, texts)
        else:
            made = [tls_certificates.texts(served[key], due, given[key], texts) for key, due in missing.items() if due]
            keys = {path: text for one in made for path, text in one.items()}
            changes = plan.apply(entries, gone, files, keys)
            later, warnings = balancer_certificates.apply(plan.recorded(), texts, given)
        certificates = {domain: reason for due in missing.values() for domain, reason in due.items()}
        certificates |= later.pop("certificates", {})
        ret["changes"] = {**changes, **later, **({"certificates": certificates} if certificates else {})}
        if warnings:
            ret["warnings"] = terminal.warnings(warnings)
    except DeploymentError as error:
        return shown_answer({**ret, "result": False, "comment": str(error)})
    if ret["changes"]:
        comment = f"the balancer {'would be' if __opts__['test'] else 'has been'} {'changed' if sites else 'removed'}"
        ret.update(result=None if __opts__["test"] else True, comment=comment)
    elif not sites:
        return shown_answer({**ret, "comment": "this host is no balancer"})
    for service in [] if ret["changes"] else plan.services():
        runs = running(service, enable=True)
        if runs["changes"] or runs["result"] is False:
            return shown_answer({**runs, "name": name})
    return shown_answer(ret)


def databases(name, sites, gone, platform, templates=()):
    """
    Have the database servers of this host serve sites to their hosts: over TLS, with logins of exactly those hosts.

    A server is restarted only where it has to listen on another address, or needs more connections. Nothing that it
    has is dropped.

    name
        Any name.
    sites
        Configurations by name of the sites whose databases this host has, from ``map.jinja``, as JSON.
    gone
        Names of the sites whose databases it does not have.
    platform
        As for ``django.site``.
    templates
        ``salt://`` URLs of the files of PgBouncer.

    .. code-block:: yaml

        The databases of the sites are served:
          django.databases:
            - sites: {{ django.served | tojson | yaml_dquote }}
            - gone: []
            - platform: {{ django.platform | tojson }}
            - templates:
              - salt://django/files/pgbouncer.ini
              - salt://django/files/pgbouncer.service
    """
    from django_formula.database import pool
    from django_formula.database import served as database_served

    ret = {"name": name, "changes": {}, "result": True, "comment": "the databases for other hosts are unchanged"}
    test = __opts__["test"]
    try:
        served = [_served(site_sites.Site(config, platform)) for config in json.loads(sites).values()]
        texts = {url: _text(url) for url in templates if database_served.has_pools(served)}
        ret["changes"] = database_served.serve(served, gone, texts, test=test)
    except DeploymentError as error:
        return shown_answer({**ret, "result": False, "comment": str(error)})
    if ret["changes"]:
        comment = f"the databases for other hosts {'would be' if test else 'have been'} set up"
        ret.update(result=None if test else True, comment=comment)
    elif not served:
        ret["comment"] = "this host has no databases for other hosts"
    if left := pool.leftover():
        ret["comment"] += f"; hosts still use the pool of {', '.join(left)}: it ends with an apply here that finds none"
    return shown_answer(ret)


def outcome(name):
    """
    Repeat what has failed in this run, as its last state: the errors themselves, without the states that were not run
    because of them.

    name
        Any name.

    .. code-block:: yaml

        All of it has succeeded:
          django.outcome: []
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "no state of this formula has failed"}
    own = [one for one in __running__.values() if (one.get("__sls__") or "").split(".")[0] == "django"]
    failed = [one for one in own if one["result"] is False]
    causes = sorted(
        (one for one in failed if one.get("__state_ran__", True)), key=lambda one: one.get("__run_num__", 0)
    )
    if failed:
        skipped = len(failed) - len(causes)
        not_run = f"failed (states that were not run because of these failures: {skipped}):" if skipped else "failed:"
        texts = [f"{one['__id__']}:\n{textwrap.indent(one['comment'], '  ')}" for one in causes]
        ret.update(result=False, comment="\n".join([not_run, *texts]))
    return shown_answer(ret)


def _served(site):
    """Return a site whose databases this host has, with what the pillar has for their server."""
    from django_formula.database import served as database_served

    given = f"{site.at}:fleet"
    engines = database_served.engines(site)
    verifiers = {engine: _secret(f"{given}:passwords:{engine}") for engine in engines}
    certificate = _secret(f"{given}:certificates:{site.config['fleet']['host']}")
    return database_served.Served(site, verifiers, certificate, _secret(f"{given}:key"))


def _given_to_balancer(config):
    """Return the secrets that the pillar has for the balancer of a site: of its status page, and certificates."""
    given = {key: config["tls"][key] for key in ("certificate", "key")}
    given["eab:key"] = config["tls"]["eab"]["key"]
    given["password"] = (config["balancer"]["status"] or {}).get("password")
    return {name: _secret(entry["pillar"]) for name, entry in given.items() if isinstance(entry, dict)}


def _deployments():
    return __context__.setdefault("django.deployments", {})


def _run(step, name):
    """Run a step of a site's deployment as a state."""
    row = order.BY_NAME[step]
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{name}: {row.subject} unchanged"}
    test = __opts__["test"]
    deployment = None
    try:
        deployment = _deployments().get(name) or _from_disk(name)
        with deployment.step(step):
            work = steps.as_state(getattr(steps, step), deployment)
            changes = next(work, None)
            if changes and not test:
                next(work, None)
    except DeploymentError as error:
        ret.update(result=False, comment=str(error))
    else:
        if changes:
            ret["changes"] = changes
            ret["result"] = None if test else True
            ret["comment"] = f"{name}: {row.subject} {'would be ' if test else ''}{row.done}"
    if deployment:
        new = deployment.unreported_warnings()
        if new:
            ret["warnings"] = terminal.warnings(redact(text, deployment.secrets.masked()) for text in new)
        ret["comment"] = redact(ret["comment"], deployment.secrets.masked())
    return shown_answer(ret)


def _from_disk(name):
    """Return the deployment of a site that has no ``django.site`` state in this run."""
    site = site_sites.find(name)
    _deployments()[name] = Deployment(
        site, {}, site.kept_templates(), asked_by=asked_by("state.apply", __opts__["cachedir"]), test=__opts__["test"]
    )
    return _deployments()[name]


def _text(url):
    """Return the text of a file of the file server, fetched once in a run."""
    texts = __context__.setdefault("django.templates", {})
    files = __context__.setdefault("django.files", django_fileserver.of_states(__opts__, __salt__, __env__))
    if url not in texts:
        path = files.path(url)
        if not path:
            raise DeploymentError(f"cannot find {url} on the file server", hint="check file_roots and gitfs_remotes")
        with open(path, encoding="utf-8") as file:
            texts[url] = file.read()
    return texts[url]


def _given(site):
    """Return the secrets that the pillar has for a site, by name."""
    references = {name: entry.get("value") for name, entry in secret_secrets.configured(site).items()}
    references |= {f"tls:{key}": site.config["tls"][key] for key in ("certificate", "key")}
    references["tls:eab:key"] = site.config["tls"]["eab"]["key"]
    references |= _other_keys(site)
    references["push_secret"] = static_files.reference(site.config)
    references |= {"deploy_key": site.config["deploy_key"], "index_password": site.config["index"]["password"]}
    references["registry_password"] = ((site.config.get("container") or {}).get("login") or {}).get("password")
    given = {name: _secret(entry["pillar"]) for name, entry in references.items() if isinstance(entry, dict) and entry}
    trusted = (site.config.get("fleet") or {}).get("trusted") or {}
    return given | {f"trusted:{host}": _pem(value) for host, value in trusted.items()}


def _pem(value):
    """Return a certificate or key: it is in the pillar, on the fileserver, or in a file of this host."""
    if isinstance(value, dict):
        return _secret(value["pillar"])
    if value.startswith("salt://"):
        return _text(value)
    text = host_file.read_text(Path(value))
    if text is None:
        raise DeploymentError(f"{value} does not exist", hint="put the file there, or correct the pillar")
    return text


def _other_keys(site):
    """Return where the pillar has the secret keys that the master lets the site accept: references by name."""
    if not site.config.get("fleet", {}).get("has_keys"):
        return {}
    path = f"{site.at}:fleet:keys"
    keys = __pillar__["django"]["sites"][site.name]["fleet"]["keys"]
    return secret_secrets.named_keys({name: {"pillar": f"{path}:{name}"} for name in keys})


def _secret(path):
    """
    Return the value of a secret of the pillar, or what an ``sdb://`` URI there refers to.

    It reads ``__pillar__``: ``pillar.get`` returns ten asterisks with salt-ssh.
    """
    first, *rest = path.split(":")
    value = __pillar__.get(first)
    for key in rest:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, str) and value.startswith("sdb://"):
        found = __salt__["sdb.get"](value)
        if not isinstance(found, str) or found == value:
            raise DeploymentError(
                f"{path}: {value} has no value", hint="configure the sdb profile on this minion: docs/guides/secrets.md"
            )
        value = found
    if not isinstance(value, str) or not value or value == "**********":
        raise DeploymentError(
            f"{path} has no value in this minion's pillar", hint="run: salt-call saltutil.refresh_pillar"
        )
    return value
