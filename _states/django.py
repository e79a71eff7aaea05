"""
Deploy Django sites: each step of a release is a state, and ``absent`` removes a site.

``django/site.sls`` has the states of a site in their order; use it with ``state.apply django`` instead of writing
them out. Each state compares the host with the configuration, reports the changes if ``test=True``, and makes them
otherwise. The steps are in ``engine/django_formula/deploy/order.py``, and a state is generated for each.
"""

import functools
import json
import os
import textwrap

import django_engine

django_engine.use()

from django_formula.host import lazy  # noqa: F401 - the others run when they are used

# isort: split
import django_fileserver
from django_formula.audit import people as audit_people
from django_formula.database import clusters, postgres, setup
from django_formula.database import served as database_served
from django_formula.deploy import order, origin, removal, steps
from django_formula.deploy import takeover as deploy_takeover
from django_formula.deploy.deployment import Deployment
from django_formula.deploy.entries import entry
from django_formula.deploy.given import Given
from django_formula.host import daemons
from django_formula.host import outcome as host_outcome
from django_formula.host import packages as host_packages
from django_formula.host import ports as host_ports
from django_formula.host import users as host_users
from django_formula.host.commands import DeploymentError, redact
from django_formula.host.outcome import Outcome
from django_formula.page import serve
from django_formula.points import setup as points_setup
from django_formula.proxy import apache, proxies, waiting
from django_formula.proxy import ports as proxy_ports
from django_formula.release import bus
from django_formula.release import console as release_console
from django_formula.site import sites as site_sites
from django_formula.site import users as site_users
from django_formula.store import served as store_served
from django_formula.untrusted.text import shown_answer
from django_formula.verbs import documentation, terminal
from django_formula.virtualenv import managed_python
from django_formula.virtualenv import uv as virtualenv_uv
from django_formula.watch import setup as watch_setup

__virtualname__ = "django"

#: What is said of arguments that several states have.
_ARGUMENTS = {
    "name": "Any name.",
    "config": "As for ``django.site``.",
    "platform": "As for ``django.site``.",
}


def __virtual__():
    return __virtualname__


def _state(function):
    """Make a state of a function that returns an `Outcome`, or what another state did; complete its documentation."""

    @functools.wraps(function)
    def state(name, *arguments, **named):
        umask = os.umask(0o022)  # else users of the host may not enter folders that root's shell makes for them
        try:
            with bus.of_minion(__opts__):
                found = function(name, *arguments, **named)
        except (DeploymentError, OSError) as error:
            found = Outcome(str(error), failed=True)
        finally:
            os.umask(umask)
        return shown_answer(found if isinstance(found, dict) else _as_state(name, found))

    state.__doc__ = documentation.completed(function, _ARGUMENTS)
    return state


def _as_state(name, outcome):
    result = False if outcome.failed else None if outcome.changes and __opts__["test"] else True
    ret = {"name": name, "changes": outcome.changes, "result": result, "comment": outcome.comment}
    return ret | ({"warnings": terminal.warnings(outcome.warnings)} if outcome.warnings else {})


@_state
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
    config, given = json.loads(config), _given()
    site, texts = site_sites.Site(config, platform), given.texts(templates)
    _deployments()[name] = Deployment(
        site,
        given.of_site(site),
        texts,
        asked_by=_asked_by(),
        caller=origin.caller(__opts__),
        test=__opts__["test"],
        servers=__context__.setdefault("django.servers", {}),
        listening=__context__.get("django.listening"),
        coming=__context__.get("django.coming", {}).get(config["proxy"]["kind"]),
        salt_call=origin.salt_call(__opts__),
    )
    return _step("site", name)


@_state
def adoption(name, config, platform):
    """
    Check that no other deployment exists where a site is going to be: its root, user and name. With ``adopt`` in
    the pillar an existing deployment is taken over; otherwise the state fails and lists what was found. It also fails
    where the pillar gives the site another database, which is empty.

    This state changes nothing. The existing deployment keeps serving until the new release is activated.

    name
        Name of the site.

    .. code-block:: yaml

        blog can be deployed:
          django.adoption:
            - name: blog
            - config: {{ django.sites.blog | tojson | yaml_dquote }}
            - platform: {{ django.platform | tojson }}
    """
    names = (__pillar__.get("django") or {}).get("sites") or ()
    return deploy_takeover.adoption(site_sites.Site(json.loads(config), platform), names, test=__opts__["test"])


def _of_step(step):
    """Return the state function of a step."""

    def state(name):
        if step is order.DOMAINS and name not in _deployments():
            return Outcome(f"{name} was not deployed")
        return _step(step.name, name)

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
    return _state(state)


# A state for each step but `site`, which has arguments of its own: django.source, django.virtualenv and so on.
globals().update({step.name: _of_step(step) for step in order.BY_NAME.values() if step.name != "site"})


@_state
def absent(name, config, platform):
    """
    Remove a site: its proxy configuration, instances, units, releases and registration. Its data is kept unless
    ``remove_data`` is true in its configuration.

    name
        Name of the site.

    .. code-block:: yaml

        blog is absent:
          django.absent:
            - name: blog
            - config: {{ django.absent.blog | tojson | yaml_dquote }}
            - platform: {{ django.platform | tojson }}
    """
    done = removal.absent(site_sites.Site(json.loads(config), platform), _asked_by(), test=__opts__["test"])
    test = __opts__["test"]
    gone = __context__.setdefault("django.absent", [])
    gone.append(name)  # which is still there in a dry run
    last = {}
    if not {*site_sites.registered()}.difference(gone):
        last = {**release_console.remove(test=test), **audit_people.remove(test=test)}
    last |= points_setup.remove_if_unasked(gone, test=test) if postgres.ARCHIVED.exists() else {}
    return done._replace(changes={**done.changes, **serve.remove_if_last(gone, test=test), **last})


@_state
def cache(name, config, platform, templates):
    """
    Have the queue and caches of a site that this host has for all hosts of the site: Redis with TLS, a password and
    the addresses of those hosts.

    name
        Name of the site.
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
    site, given = site_sites.Site(json.loads(config), platform), _given()
    stores, texts = site.config["fleet"]["stores"], given.texts(templates)
    pem = {key: given.pem(stores[key]) for key in ("certificate", "key")}
    served = store_served.Served(site, given.secret(stores["password"]["pillar"]), pem)
    return store_served.serve(served, texts, test=__opts__["test"])


@_state
def packages(name, pkgs):
    """
    Install packages of the operating system with Salt's ``pkg.installed``, if one is missing.

    If none is missing, this state is much cheaper than ``pkg.installed``, which makes Salt load every execution
    module. A package that another one provides, such as libmagic1 of Debian 13 by libmagic1t64, is not missing.

    pkgs
        Names of the packages.

    .. code-block:: yaml

        The packages of the sites are installed:
          django.packages:
            - pkgs: [git, python3-venv]
    """
    return _packages(name, pkgs)


def _packages(name, pkgs):
    if not host_packages.missing(pkgs, __salt__["pkg.list_pkgs"]()):
        return Outcome("all packages are already installed")
    result = __states__["pkg.installed"](name=name, pkgs=pkgs, refresh=True, cache_valid_time=300)
    if result["result"] is False and not host_packages.missing(pkgs, __salt__["pkg.list_pkgs"]()):
        # pkg.installed does not find a package by a name that another one provides, which apt installs for it
        return {**result, "result": True, "comment": "the packages were installed"}
    if result["result"] is False:
        result["comment"] += host_packages.hint(result["comment"], __pillar__.get("django") or {})
    return result


@_state
def web_server(name, kind, pkgs):
    """
    Install a web server without enabling Debian's default site, as ``django.packages`` does.

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
    if not __opts__["test"] and host_packages.missing(pkgs, __salt__["pkg.list_pkgs"]()):
        proxies.PROXIES[kind].leave_out_the_default_site()
    return _packages(name, pkgs)


@_state
def apache_module(name, module, pkgs):
    """
    Install a module of Apache without enabling it in an existing Apache, as ``django.packages`` does.

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
    if not __opts__["test"] and not set(pkgs) <= set(__salt__["pkg.list_pkgs"]()):
        apache.leave_out(module)
    return _packages(name, pkgs)


@_state
def quiet_packages(name, pkgs, service):
    """
    Install packages without starting the service that they bring, as ``django.packages`` does. A service that this
    host already has stays as it is.

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
        return _packages(name, pkgs)
    with daemons.never_started(service):
        return _packages(name, pkgs)


@_state
def server(name, engine, pkgs):
    """
    Install a database server. An existing server is used as it is.

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
        return Outcome(f"a server for {engine} is already installed")
    if engine == "postgres" and not __opts__["test"]:
        clusters.prepare_first()
    options = {"refresh": True, "cache_valid_time": 300, "install_recommends": False}
    return __states__["pkg.installed"](name=name, pkgs=pkgs, **options)


@_state
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
    groups = {user: None, **({f"{user}-build": None} if build else {}), **({f"{user}-store": user} if stores else {})}
    done = Outcome(f"the users of {name} already exist")
    free = host_users.free_uids()
    for one in site_users.missing(name, user, groups, uid):
        made = __states__["user.present"](
            one,
            system=True,
            createhome=False,
            home="/nonexistent",
            shell=shell,  # nosec B604
            fullname=site_users.title(name),
            **({"gid": groups[one], "usergroup": False} if groups[one] else {}),
            uid=uid if uid and one == user else next(free, None),
        )
        done = Outcome(made["comment"], {**done.changes, one: "new"}, failed=made["result"] is False)
        if done.failed:
            break
    return done


@_state
def uv(name, index=None):
    """
    Install uv, which builds the virtualenvs, into a virtualenv of its own.

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

    def password():
        return _given().secret(index["password"]["pillar"]) if index and index["password"] else None

    return virtualenv_uv.ensure(index, password, test=__opts__["test"])


@_state
def python(name, version, table, mirror):
    """
    Install an interpreter for the virtualenvs of sites, unless the host has one of that version.

    It is one of uv's managed interpreters, in ``/usr/local/lib/django-formula/python``. Its archive is used if it has
    the digest that the formula knows. One that is older than the newest known stays where that cannot be fetched.

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
    return managed_python.ensure(version, table, mirror, __salt__["cp.cache_file"], test=__opts__["test"])


@_state
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
    return host_outcome.running(name, at_boot=enable, test=__opts__["test"])


@_state
def ports(name, kind, sites):
    """
    Check that no process other than the formula's proxies listens on the ports of the sites. This state changes
    nothing.

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
    listening = __context__["django.listening"] = host_ports.listening()
    coming = __context__.setdefault("django.coming", {})[kind] = list(sites)
    for site, listens in sites.items():
        proxy_ports.refuse_taken_ports(site, kind, listens, listening, coming)
    return Outcome(f"no other process than {kind} listens on these ports")


@_state
def proxy_runs(name, kind, http, templates, https=()):
    """
    Start a web server, and configure a default server on its ports that rejects requests for unknown hosts. A
    default server that exists already is left alone.

    While another proxy of the formula still uses the ports, this state does nothing: the sites start the web server
    when they are handed over.

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
    listening = __context__.get("django.listening")
    return proxy_ports.reject_others(kind, http, https, templates, _given().texts, listening, test=__opts__["test"])


@_state
def balancer(name, sites, gone, platform, templates):
    """
    Balance sites between their hosts: configure HAProxy or nginx in a unit of its own, have it test the configuration,
    and reload it. Sites of which this host is no balancer any more are removed; with the last one it is stopped.

    sites
        Configurations of the sites by name, from ``map.jinja``, as JSON.
    gone
        Names of the sites that this host does not balance.
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
    given = _given()
    texts = given.texts(templates)
    served = {key: site_sites.Site(config, platform) for key, config in json.loads(sites).items()}
    secrets = {key: given.of_balancer(site) for key, site in served.items()}
    return entry("balance sites")(served, gone, secrets, texts, test=__opts__["test"])


@_state
def watch(name, config, page=None):
    """
    Have this host watched: the program, its timer, and what sends messages. Without a configuration the watch is
    removed.

    config
        The configuration of the watch and of the senders, from ``map.jinja``, as JSON; ``null`` without a watch.
    page
        By which proxy and under which name the page is served: its servers elsewhere are removed.

    .. code-block:: yaml

        The host is watched:
          django.watch:
            - config: {{ django.watch | tojson | yaml_dquote }}
    """
    wanted, given = json.loads(config), _given()
    senders = {key: given.of_sender(sender) for key, sender in (wanted or {}).get("senders", {}).items()}
    done = watch_setup.watch(wanted and wanted["watch"], senders, test=__opts__["test"])
    return done._replace(changes={**done.changes, **serve.retire(page, test=__opts__["test"])})


@_state
def page(name, config, site, platform, templates):
    """
    Serve the page of this host, which the watch writes, behind a password. No site waits for it.

    config
        Its domain, user and password, from ``map.jinja``, as JSON.
    site
        The configuration of the site whose proxy, addresses and certificates it has, as JSON.
    templates
        ``salt://`` URLs of its files of the proxy.

    .. code-block:: yaml

        The page is served:
          django.page:
            - config: {{ django.page | tojson | yaml_dquote }}
            - site: {{ django.page.site | tojson | yaml_dquote }}
            - platform: {{ django.platform | tojson }}
            - templates: {{ django.page.templates }}
    """
    wanted, owner, given = json.loads(config), site_sites.Site(json.loads(site), platform), _given()
    secrets = given.of_page(owner, wanted["password"])
    return serve.serve(wanted, owner, secrets, given.texts(templates), test=__opts__["test"])


@_state
def console(name):
    """
    Have the program ``django-shell``, which opens a console in the active release of a site of this host.

    .. code-block:: yaml

        django-shell is installed:
          django.console: []
    """
    return release_console.install(test=__opts__["test"])


@_state
def people(name, config):
    """
    Have people call functions for the sites of this host, by SSH and by Salt, as ``people`` of the sites has it.

    config
        Functions by site and person, and the SSH keys of people, from ``map.jinja``, as JSON.

    .. code-block:: yaml

        People have their rights:
          django.people:
            - config: {{ django.people | tojson | yaml_dquote }}
    """
    return audit_people.apply(json.loads(config), origin.salt_call(__opts__), test=__opts__["test"])


@_state
def points(name, config):
    """
    Have the PostgreSQL servers of this host archived for points in time, or not any more: what is in the store stays.
    A server that archives nothing yet is restarted once.

    config
        What the pillar has, and the addresses of the servers, from ``map.jinja``, as JSON; ``null`` for no archive.

    .. code-block:: yaml

        PostgreSQL is archived:
          django.points:
            - config: {{ django.points | tojson | yaml_dquote }}
    """
    if config == "null" and not postgres.ARCHIVED.exists():  # no module is imported for what most hosts have not
        return Outcome("PostgreSQL is not archived")
    wanted = json.loads(config) or {"points": None, "servers": ()}
    store = wanted["points"] and _given().of_sender(wanted["points"])
    return points_setup.ensure(store, wanted["servers"], test=__opts__["test"])


@_state
def databases(name, sites, gone, platform, templates=()):
    """
    Have the database servers of this host serve sites to their hosts: over TLS, with logins of exactly those hosts.

    A server is restarted only where it has to listen on another address, or needs more connections. Nothing that it
    has is dropped.

    sites
        Configurations by name of the sites whose databases this host has, from ``map.jinja``, as JSON.
    gone
        Names of the sites whose databases it does not have.
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
    given = _given()
    served = [given.of_databases(site_sites.Site(config, platform)) for config in json.loads(sites).values()]
    texts = given.texts(templates) if database_served.has_pools(served) else {}
    return database_served.outcome(served, gone, texts, waiting.around_restart, test=__opts__["test"])


@_state
def outcome(name):
    """
    Repeat what has failed in this run, as its last state: the errors themselves, without the states that were not run
    because of them.

    .. code-block:: yaml

        All of it has succeeded:
          django.outcome: []
    """
    return host_outcome.failures(__running__.values())


def _deployments():
    return __context__.setdefault("django.deployments", {})


def _asked_by():
    return origin.asked_by("state.apply", __opts__["cachedir"])


def _step(step, name):
    """Run a step of a site's deployment."""
    deployment = _deployments().get(name) or _from_disk(name)
    try:
        done = steps.outcome(step, deployment)
    except DeploymentError as error:
        done = Outcome(str(error), failed=True)
    hidden = deployment.secrets.masked()
    warnings = [redact(text, hidden) for text in deployment.unreported_warnings()]
    return done._replace(comment=redact(done.comment, hidden), warnings=warnings)


def _from_disk(name):
    """Return the deployment of a site that has no ``django.site`` state in this run."""
    site = site_sites.find(name)
    texts = site.kept_templates()
    _deployments()[name] = Deployment(site, {}, texts, asked_by=_asked_by(), test=__opts__["test"])
    return _deployments()[name]


def _given():
    """Return what Salt gives this run; what it has read is kept."""
    files = __context__.setdefault("django.files", django_fileserver.of_states(__opts__, __salt__, __env__))
    texts = __context__.setdefault("django.templates", {})
    return Given(__pillar__, lambda uri: __salt__["sdb.get"](uri), files.path, texts)
