"""
States of a Django site: one function for each step of a release, and one that takes a site off.

Each looks, says what would have been done when it is only a test, and acts. The steps themselves are in
``_utils/django_release_steps.py``; ``django/site.sls`` has them in their order.
"""

import json

import django_database_setup
import django_host_service
import django_host_user
import django_release_steps
import django_secret
import django_site
import django_site_removal
import django_takeover
import django_terminal
import django_virtualenv_uv
from django_host_command import DeploymentError, redact
from django_release_deployment import Deployment
from django_release_request import asked_by

__virtualname__ = "django"


def __virtual__():
    return __virtualname__


def site(name, config, platform, templates):
    """
    Lay a site out: its folders, its registration, its configuration as applied, the mirror of its repository.

    name
        The site.
    config
        Its effective configuration, as ``map.jinja`` has it: JSON, since YAML reads some characters as others.
    platform
        Names of the operating system, as ``map.jinja`` has them.
    templates
        The ``salt://`` URLs of all files that a release of the site is rendered from.
    """
    config = json.loads(config)
    try:
        texts = {url: _text(url) for url in templates}
        site = django_site.Site(config, platform)
        deployment = Deployment(
            site,
            _given(site),
            texts,
            asked_by=asked_by("state.apply", __opts__["cachedir"]),
            test=__opts__["test"],
            servers=__context__.setdefault("django.servers", {}),
            listening=__context__.get("django.listening"),
        )
    except DeploymentError as error:
        return {"name": name, "changes": {}, "result": False, "comment": str(error)}
    _deployments()[name] = deployment
    return _run("site", name, "is laid out")


def adoption(name, config, platform):
    """
    Have the place of a site for the site: its root, its user and its name are those that it has had, and what somebody
    else has left there is named, or with ``adopt`` taken over.

    This changes nothing. The other states of the site leave the old one alone until the new one is live.

    name
        The site.
    config, platform
        As for ``django.site``.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"nobody else is where {name} is to be"}
    site = django_site.Site(json.loads(config), platform)
    try:
        django_site.refuse_another_identity(site, (__pillar__.get("django") or {}).get("sites") or ())
        takeover = django_takeover.wanted(site)
    except (DeploymentError, OSError) as error:
        return {**ret, "result": False, "comment": str(error)}
    if takeover and __opts__["test"]:
        ret.update(result=None, comment=f"{name} would have been adopted", changes=takeover.told())
    elif takeover:
        ret["comment"] = "\n  ".join([f"{name} is adopted once its release is live:", *takeover.plan["found"]])
    return ret


def database(name):
    """Have the site's databases and logins on the servers of this host that the formula sets up."""
    return _run("database", name, "has its databases")


def tls(name):
    """Have a certificate for each domain, if only for the time until another one comes; the pillar's are checked."""
    return _run("tls", name, "has its certificates")


def source(name):
    """Export the commit that the revision names, if there has to be a new release."""
    return _run("source", name, "has its source")


def virtualenv(name):
    """Build the virtualenv of the new release, or share that of an older one."""
    return _run("virtualenv", name, "has its virtualenv")


def build(name):
    """Run the pillar's build commands in the new source, and compile it."""
    return _run("build", name, "is built")


def secret_key(name):
    """Generate the secret key, once, and keep it and the pillar's secrets."""
    return _run("secret_key", name, "has its secrets")


def settings(name):
    """Write the settings overlay, the environment and the pillar's files into the new release."""
    return _run("settings", name, "has its settings")


def static(name):
    """Start Django once: collect static files, read the effective settings, list pending migrations."""
    return _run("static", name, "has its static files")


def migration(name):
    """Migrate the database, then run Django's checks."""
    return _run("migration", name, "has its database migrated")


def instance(name):
    """Start the new release's own server, and wait until it answers well."""
    return _run("instance", name, "has its instance")


def live(name):
    """Let the new release take over, drain and stop the old one, delete what is old enough."""
    return _run("live", name, "is live")


def proxy(name):
    """Write the proxy's files of the site, and reload the proxy when it accepts them."""
    return _run("proxy", name, "is served")


def acme(name):
    """Order the certificates that are due from the authority of the pillar; where that fails, this warns."""
    return _run("acme", name, "has its certificates ordered")


def record(name):
    """Write the deployment down."""
    return _run("record", name, "is recorded")


def absent(name, config, platform):
    """
    Take a site off: proxy, instances, units, releases, registration; with ``remove_data`` its data too.

    name
        The site.
    config, platform
        As for ``django.site``.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{name} is already absent"}
    site = django_site.Site(json.loads(config), platform)
    try:
        present = django_site_removal.present(site)
        if present and __opts__["test"]:
            ret.update(result=None, comment=f"{name} would have been taken off", changes=present)
        elif present:
            django_site_removal.remove(site, asked_by("state.apply", __opts__["cachedir"]))
            ret.update(comment=f"{name} has been taken off", changes=present)
    except (DeploymentError, OSError) as error:
        ret.update(result=False, comment=str(error))
    return ret


def packages(name, pkgs):
    """
    Have packages of the operating system installed, by Salt's own ``pkg.installed`` where one is missing.

    Where none is, that state would still cost as much CPU as the rest of an apply: it looks for functions that no
    package manager of this system has, and Salt loads every execution module there is to find them.

    name
        What the packages are for.
    pkgs
        Their names.
    """
    if set(pkgs) <= set(__salt__["pkg.list_pkgs"]()):
        return {"name": name, "changes": {}, "result": True, "comment": "all packages are already installed"}
    return __states__["pkg.installed"](name=name, pkgs=pkgs, refresh=True, cache_valid_time=300)


def web_server(name, kind, pkgs):
    """
    Have a web server installed, as ``django.packages`` does it: it starts without Debian's default site.

    name
        What the packages are for.
    kind
        ``nginx`` or ``apache``.
    pkgs
        Their names.
    """
    import django_proxy

    if not __opts__["test"] and not set(pkgs) <= set(__salt__["pkg.list_pkgs"]()):
        django_proxy.PROXIES[kind].leave_out_the_default_site()
    return packages(name, pkgs)


def apache_module(name, module, pkgs):
    """
    Have a module of Apache installed, as ``django.packages`` does it: an Apache that this host has goes on without it.

    name
        What the packages are for.
    module
        What Apache calls it, such as ``wsgi``.
    pkgs
        Their names.
    """
    import django_proxy_apache

    if not __opts__["test"] and not set(pkgs) <= set(__salt__["pkg.list_pkgs"]()):
        django_proxy_apache.leave_out(module)
    return packages(name, pkgs)


def server(name, engine, pkgs):
    """
    Have a server of databases on this host: the one that is there, whoever has installed it, else the system's own.

    name
        What it is for.
    engine
        ``postgres`` or ``mysql``.
    pkgs
        The packages of the system's own.
    """
    if django_database_setup.is_installed(engine):
        return {"name": name, "changes": {}, "result": True, "comment": "there is a server already"}
    return __states__["pkg.installed"](
        name=name, pkgs=pkgs, refresh=True, cache_valid_time=300, install_recommends=False
    )


def users(name, user, shell):
    """
    Have the identities of a site: its user, and its build user. Both are system users without a home or a password.

    A user that was on the host before is taken as it is, where pillar names it; one that has the site's name by chance
    is refused, and never changed.

    name
        The site.
    user
        Its user.
    shell
        The shell of a new user.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{name} has its users already"}
    fullname = f"Django site {name}"
    found = {one: django_host_user.find_user(one) for one in (user, f"{user}-build")}
    for one, there in found.items():
        if there and there.pw_gecos.split(",")[0] != fullname and one in (name, f"{user}-build"):
            comment = (
                f"there is a user {one} on this host already, and it is not this site's"
                f"\nchoose another: django:sites:{name}:user"
            )
            return {**ret, "result": False, "comment": comment}
    for one in [one for one, there in found.items() if not there]:
        made = __states__["user.present"](
            one,
            system=True,
            createhome=False,
            home="/nonexistent",
            shell=shell,  # nosec B604
            fullname=fullname,
        )
        ret["changes"] |= {one: "new"}
        ret.update(result=made["result"], comment=made["comment"])
        if ret["result"] is False:
            break
    return ret


def uv(name, index=None):
    """
    Install uv, which builds the virtualenvs, into a virtualenv of its own.

    name
        What it is for.
    index
        The package index of the pillar to install it from.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "uv is already installed"}
    if django_virtualenv_uv.is_installed():
        return ret
    ret["changes"] = {"uv": django_virtualenv_uv.VERSION}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": "uv would have been installed"}
    try:
        password = _secret(index["password"]["pillar"]) if index and index["password"] else None
        django_virtualenv_uv.install(index, password)
    except DeploymentError as error:
        return {**ret, "changes": {}, "result": False, "comment": str(error)}
    return {**ret, "comment": "uv has been installed"}


def running(name, enable=False):
    """
    Have a daemon of the host run: it is judged by its process, and without systemd it is started too, where Salt's own
    ``service.running`` believes that it runs. That state would also spawn a handful of processes to find nothing to do.

    name
        Its service: ``nginx``, ``apache2``, ``supervisor``, ``postgresql`` or ``mariadb``.
    enable
        Whether systemd is to start it at boot.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{name} already runs"}
    daemon = django_host_service.DAEMONS[name]
    starts = not django_host_service.runs(daemon)
    enables = enable and not django_host_service.is_enabled(daemon)
    done = [what for what, is_so in (("started", starts), ("enabled", enables)) if is_so]
    if not done:
        return ret
    ret["changes"] = {name: ", ".join(done)}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": f"{name} would have been {' and '.join(done)}"}
    try:
        if starts:
            django_host_service.start(daemon)
        if enables:
            django_host_service.enable(daemon)
    except DeploymentError as error:
        return {**ret, "changes": {}, "result": False, "comment": str(error)}
    return {**ret, "comment": f"{name} has been {' and '.join(done)}"}


def ports(name, kind, sites):
    """
    See that nobody but proxies of the formula listens on the ports of the sites; nothing is changed.

    name
        What it is for.
    kind
        ``nginx`` or ``apache``.
    sites
        The ports of each site, by its name; on all addresses or as ``192.0.2.10:80``.
    """
    import django_host_port
    import django_proxy_ports

    listening = __context__["django.listening"] = django_host_port.listening()
    try:
        for site, wanted in sites.items():
            django_proxy_ports.refuse_taken_ports(site, kind, wanted, listening)
    except DeploymentError as error:
        return {"name": name, "changes": {}, "result": False, "comment": str(error)}
    return {"name": name, "changes": {}, "result": True, "comment": "no port is taken by somebody else"}


def proxy_runs(name, kind, http, templates, https=()):
    """
    Have a web server run, and refuse unknown hosts on the ports where nobody else has a default server. Where another
    one of the formula has those ports yet, it waits: the sites bring it up when they are handed over.

    name
        What it is for.
    kind
        ``nginx`` or ``apache``.
    http
        Ports of http, on all addresses or as ``192.0.2.10:80``.
    templates
        The ``salt://`` URLs of its default server, and of what all its servers of https have in common.
    https
        Those of https.
    """
    import django_host_etc
    import django_proxy
    import django_proxy_ports
    import django_proxy_switch

    ret = {"name": name, "changes": {}, "result": True, "comment": "it runs, and refuses unknown hosts already"}
    proxy = django_proxy.PROXIES[kind]
    try:
        if django_proxy_ports.holder_of([*http, *https], __context__.get("django.listening")) not in (None, proxy):
            return {
                **ret,
                "comment": f"another proxy has the ports until the sites are handed over to {kind}",
            }
        http, https = django_proxy_ports.known(proxy, http), django_proxy_ports.known(proxy, https)
        wanted = proxy.default_server(http, https, {url: _text(url) for url in templates})
        changes = django_host_etc.differences(wanted)
        if changes and __opts__["test"]:
            ret.update(result=None, comment="unknown hosts would have been refused", changes=changes)
        elif changes:
            django_proxy_switch.apply(wanted)
            ret.update(comment="unknown hosts have been refused", changes=changes)
    except DeploymentError as error:
        return {**ret, "result": False, "comment": str(error)}
    runs = running(proxy.DAEMON.service, enable=True)
    changes = {**ret["changes"], **runs["changes"]}
    return {**(runs if runs["changes"] or runs["result"] is False else ret), "name": name, "changes": changes}


def _deployments():
    return __context__.setdefault("django.deployments", {})


def _run(step, name, done):
    """One step of a site's deployment as a state."""
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{name} {done} already"}
    test = __opts__["test"]
    deployment = None
    try:
        deployment = _deployments().get(name) or _from_disk(name)
        with deployment.step(step):
            work = django_release_steps.look(getattr(django_release_steps, step), deployment)
            changes = next(work, None)
            if changes and not test:
                next(work, None)
    except DeploymentError as error:
        ret.update(result=False, comment=str(error))
    else:
        if changes:
            ret["changes"] = changes
            ret["result"] = None if test else True
            ret["comment"] = f"{name}: {step} would have been done" if test else f"{name} {done} now"
    if deployment:
        new = deployment.unreported_warnings()
        if new:
            ret["warnings"] = django_terminal.warnings(redact(text, deployment.masked()) for text in new)
        ret["comment"] = redact(ret["comment"], deployment.masked())
    ret["comment"] = django_terminal.plain(ret["comment"])
    return ret


def _from_disk(name):
    """The deployment of a site of which this run has no state ``django.site``."""
    site = django_site.find(name)
    _deployments()[name] = Deployment(
        site, {}, site.kept_templates(), asked_by=asked_by("state.apply", __opts__["cachedir"]), test=__opts__["test"]
    )
    return _deployments()[name]


def _text(url):
    """The text of a file of the file server, fetched once in a run."""
    texts = __context__.setdefault("django.templates", {})
    if url not in texts:
        path = __salt__["cp.cache_file"](url, saltenv=__env__)
        if not path:
            raise DeploymentError(f"{url} is not there", hint="is it in the file_roots of Salt?")
        with open(path, encoding="utf-8") as file:
            texts[url] = file.read()
    return texts[url]


def _given(site):
    """The secrets that the pillar gives to a site, by name."""
    references = {name: said.get("value") for name, said in django_secret.wanted(site).items()}
    references |= {f"tls:{key}": site.config["tls"][key] for key in ("certificate", "key")}
    references["tls:eab:key"] = site.config["tls"]["eab"]["key"]
    references |= {"deploy_key": site.config["deploy_key"], "index_password": site.config["index"]["password"]}
    return {name: _secret(said["pillar"]) for name, said in references.items() if isinstance(said, dict) and said}


def _secret(path):
    """
    The value of a secret of the pillar, from an sdb profile if it is an ``sdb://`` URI.

    It is read from ``__pillar__``: ``pillar.get`` returns ten stars under salt-ssh.
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
            raise DeploymentError(f"{path}: {value} has no value", hint="does the sdb profile exist on this minion?")
        value = found
    if not isinstance(value, str) or not value or value == "**********":
        raise DeploymentError(f"{path} has no value in this minion's pillar", hint="salt-call saltutil.refresh_pillar")
    return value
