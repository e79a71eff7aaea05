"""Apache instead of nginx, and the change from one to the other, on a host in a temporary folder."""

from types import SimpleNamespace

import pytest
from django_formula.host import commands, config_files, daemons
from django_formula.host.commands import DeploymentError
from django_formula.proxy import apache, moves, nginx, proxies, site_files, switch
from django_formula.release import releases
from django_formula.site import sites as site_sites
from django_formula.untrusted import headers
from specimen import FACTS, formula_templates

REFUSAL = """/usr/sbin/apache2ctl: 99: ulimit: error setting limit (Operation not permitted)
AH00526: Syntax error on line 3 of /etc/apache2/sites-enabled/theirs.conf:
Invalid command 'x'
Action 'configtest' failed.
The Apache error log may have more information."""


class Host:
    """Fake daemons: which of them run, the commands they got, and which fail."""

    def __init__(self):
        self.running = set()
        self.done = []
        self.fails = {}

    def _do(self, what, daemon):
        self.done.append(f"{what} {daemon.service}")
        if self.done[-1] in self.fails:
            raise self.fails.pop(self.done[-1])

    def run(self, argv, **_options):
        self.done.append(argv[0])
        if argv[0] in self.fails:
            raise self.fails[argv[0]]
        return ""

    def reload(self, daemon):
        self._do("reload" if daemon in self.running else "start", daemon)
        self.running.add(daemon)

    def stop(self, daemon):
        self._do("stop", daemon)
        self.running.discard(daemon)

    def pid(self, daemon):
        return 7 if daemon in self.running else None


@pytest.fixture
def host(own_host, monkeypatch):
    host = Host()
    monkeypatch.setattr(commands, "run", host.run)
    for name in ("reload", "stop", "pid"):
        monkeypatch.setattr(daemons, name, getattr(host, name))
    monkeypatch.setattr(daemons, "enable", lambda daemon: host._do("enable", daemon))
    return host


@pytest.fixture
def sites(make_site, monkeypatch):
    """Two sites of a domain: `sites(kind)` is both of them, with that proxy."""
    made = {}

    def with_proxy(kind):
        made["blog"] = make_site(proxy={"kind": kind}, domains=["a.org"])
        made["shop"] = make_site("shop", proxy={"kind": kind}, domains=["a.org"], path="/shop")
        return made["blog"], made["shop"]

    monkeypatch.setattr(site_sites, "registered", lambda: sorted(made))
    monkeypatch.setattr(site_sites, "find", made.get)
    monkeypatch.setattr(releases, "linked", lambda site, link: SimpleNamespace(facts=facts(site)))
    monkeypatch.setattr(site_sites.Site, "kept_templates", lambda site: formula_templates())
    return with_proxy


def facts(site):
    return {**FACTS, "static_url": f"/{site.name}/static/", "media_url": f"/{site.name}/media/"}


def apply(*sites):
    for site in sites:
        wanted = moves.handover_files(site, facts(site), formula_templates())
        if config_files.differences(wanted):
            switch.apply(wanted)


def names(proxy):
    return sorted(str(path.relative_to(proxy.etc)) for path in proxy.etc.rglob("*.*") if "mods" not in str(path))


def test_site_with_apache_has_rules_and_virtual_hosts(make_site, host):
    site = make_site(proxy={"kind": "apache"}, domains=["a.org"], redirect_domains=["c.org"])
    assert proxies.configured(site) is apache.PROXY and proxies.serving(site) is None
    apply(site)
    assert host.done == ["apache2ctl", "start apache2"] and proxies.is_ready(site)
    assert names(apache.PROXY) == [
        *["django/a.org", "django/a.org/998-blog.conf", "django/blog.conf", "django/c.org"],
        *["django/c.org/998-blog.redirect", "sites-available/a.org.conf", "sites-available/c.org.conf"],
        *["sites-enabled/a.org.conf", "sites-enabled/c.org.conf"],
    ]
    assert (apache.ETC / "mods-enabled/proxy_uwsgi.load").is_symlink()
    assert not (apache.ETC / "mods-enabled/ssl.load").is_symlink()
    assert config_files.differences(moves.handover_files(site, facts(site), formula_templates())) == {}
    assert proxies.connection(site, 1).port == 80
    switch.apply(site_files.absent(site))
    assert names(apache.PROXY) == [] and (apache.ETC / "mods-enabled/proxy.load").is_symlink()


def rules(site):
    files = apache.PROXY.files(site, {**VARIABLES, "site": site.config, "root": str(site.root)}, formula_templates())
    return files[apache.PROXY.locations(site)], [path.name for path in files if path.parent.name == "mods-enabled"]


VARIABLES = {
    **{"ours": "# ours", "through": "/srv/blog/current", "upstream": "django-blog", "unix": True, "timeout": 65},
    **{"static_url": "/static/", "media_url": "/media/", "keepalive": None, "clients": "", "websockets": False},
    **headers.variables({}),
}


def test_modules_that_a_site_needs_are_enabled(make_site, host):
    plain, modules = rules(make_site(proxy={"kind": "apache"}))
    assert "balancer" not in plain + str(modules) and "xsend" not in (plain + str(modules)).lower()
    two = {"kind": "apache", "upstreams": {"192.0.2.11:8001": {"fail_timeout": "2m"}}, "balance": "least_conn"}
    text, modules = rules(make_site(proxy=two))
    assert {"proxy_balancer.load", "slotmem_shm.load", "lbmethod_bybusyness.load"} <= {*modules}
    assert "retry=120" in text and 'BalancerMember "unix:/srv/blog/current/socket|uwsgi://django-blog"' in text


@pytest.mark.parametrize("words", ["XSendFile", "XSendFileUnescape"])
def test_protected_uploads_are_served_by_the_project(make_site, host, own_host, words):
    site = make_site(proxy={"kind": "apache"}, media={"protected": True})
    site.platform["mod_wsgi"] = {**site.platform["mod_wsgi"], "modules": str(own_host)}
    assert "XSendFileUnescape" not in rules(site)[0], "its module is not there yet"
    (own_host / "mod_xsendfile.so").write_text(words)
    text, modules = rules(site)
    assert ("XSendFileUnescape off" in text) == (words == "XSendFileUnescape") and "xsendfile.load" in modules
    assert f'XSendFilePath "{site.root}/media"' in text and 'Alias "/media/"' not in text


def test_https_modules_are_enabled_before_the_servers_need_them(make_site, host):
    site = make_site(proxy={"kind": "apache"}, domains=["a.org"])
    apply(site)
    secure = make_site(proxy={"kind": "apache"}, domains=["a.org"], tls={"kind": "self_signed"})
    opening = site_files.opening(secure, formula_templates())
    assert {
        apache.ETC / "mods-enabled/ssl.load",
        apache.PROXY.server("a.org"),
    } <= opening.keys()
    switch.apply(opening)
    assert site_files.opening(secure, formula_templates()) == {} and proxies.speaks_tls(secure)


def test_two_sites_of_one_domain_cannot_share_a_url_of_files(sites, host):
    blog, shop = sites("apache")
    apply(blog)
    with pytest.raises(DeploymentError) as refused:
        moves.handover_files(shop, {**facts(shop), "media_url": "/blog/media/"}, formula_templates())
    assert refused.value.message == "/blog/media/ on a.org already serves files of site blog"
    assert "django:sites:shop:settings" in refused.value.hint
    apply(shop)


@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        ({}, {8080}),
        ({"ports.conf": "Listen 80\n<IfModule ssl_module>\n\tListen 443\n</IfModule>"}, {8080}),
        ({"ports.conf": "Listen 127.0.0.1:8080\n"}, {80, 443}),
        ({"ports.conf": "# Listen 80\n", "sites-enabled/x.conf": "Listen [::]:443 https"}, {80, 8080}),
    ],
)
def test_ports_of_other_files_get_no_second_listen(own_host, theirs, own):
    for name, text in theirs.items():
        (apache.ETC / name).parent.mkdir(parents=True, exist_ok=True)
        (apache.ETC / name).write_text(text)
    assert [*apache.PROXY.listening([80, 8080], [443])["own"].values()] == sorted(own)


def test_files_are_restored_when_apache_refuses_them(make_site, host):
    host.fails["apache2ctl"] = DeploymentError("apache2ctl configtest failed (exit 1)", log=REFUSAL)
    with pytest.raises(DeploymentError) as refused:
        apply(make_site(proxy={"kind": "apache"}))
    assert refused.value.message == (
        "Apache refuses its configuration: Syntax error on line 3 of /etc/apache2/sites-enabled/theirs.conf: "
        "Invalid command 'x'"
    )
    assert names(apache.PROXY) == [] and host.done == ["apache2ctl"]


@pytest.mark.parametrize(("former", "next_one"), [("nginx", "apache"), ("apache", "nginx")])
def test_all_sites_change_their_proxy_at_once(sites, host, former, next_one):
    apply(*sites(former))
    leaving, coming = (proxies.PROXIES[kind] for kind in (former, next_one))
    host.done.clear()
    blog, shop = sites(next_one)
    apply(blog)
    asked = {"nginx": "nginx", "apache": "apache2ctl"}
    names_of = (leaving.DAEMON.service, coming.DAEMON.service)
    assert host.done == [asked[former], asked[next_one], f"stop {names_of[0]}", f"start {names_of[1]}", host.done[-1]]
    assert host.done[-1] == f"enable {names_of[1]}" and host.running == {coming.DAEMON}
    assert proxies.is_ready(blog) and proxies.is_ready(shop)
    assert [name for name in names(leaving) if "blog" in name or "a.org" in name] == []
    apply(shop)
    assert host.done[-1] == f"enable {names_of[1]}", "there is nothing left to do"


def test_former_proxy_stays_when_the_new_one_does_not_start(sites, host):
    apply(*sites("apache"))
    host.done.clear()
    host.fails["start nginx"] = DeploymentError("starting nginx failed")
    blog, shop = sites("nginx")
    with pytest.raises(DeploymentError, match="starting nginx failed"):
        apply(blog)
    assert host.done[2:] == ["stop apache2", "start nginx", "stop nginx", "start apache2", "enable apache2"]
    assert proxies.serving(blog) is proxies.serving(shop) is apache.PROXY
    assert daemons.APACHE in host.running


def test_proxy_with_other_virtual_hosts_is_not_stopped(sites, host):
    apply(*sites("apache"))
    (apache.ETC / "sites-enabled/theirs.conf").write_text("<VirtualHost *:80></VirtualHost>")
    host.done.clear()
    apply(sites("nginx")[0])
    assert "reload apache2" in host.done and "stop apache2" not in host.done


def test_a_site_without_a_proxy_has_no_files(make_site, host):
    blog = make_site(proxy={"kind": "none"})
    apply(blog)
    assert host.done == [] and proxies.is_ready(blog)
    apply(make_site())
    assert not proxies.is_ready(blog)
    apply(blog)
    assert proxies.is_ready(blog) and [name for name in names(nginx.PROXY) if "blog." in name[-9:]] == []
