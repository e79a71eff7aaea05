import os
import re
import shutil

import pytest
from django_formula.host import commands as host_commands
from django_formula.host import config_files, daemons, file
from django_formula.host import ports as host_ports
from django_formula.host.commands import DeploymentError
from django_formula.proxy import apache, contract, moves, proxies, site_files, switch
from django_formula.proxy import nginx as proxy_nginx
from django_formula.proxy import ports as proxy_ports
from django_formula.site import sites
from django_formula.tls import certificates
from specimen import FACTS, formula_templates

EMERG = 'nginx: [emerg] 12#12: unknown directive "x" in /etc/nginx/sites-enabled/neighbour:3\nnginx: test failed'


class Nginx:
    """A fake nginx, which refuses its configuration with the output `says`."""

    def __init__(self):
        self.says = ""
        self.commands = []

    def run(self, argv, *, doing, **_options):
        self.commands.append(" ".join(argv))
        if argv[0] == "nginx" and self.says:
            raise DeploymentError(f"{doing} failed (exit 1)", log=self.says)
        return ""


@pytest.fixture
def nginx(own_host, monkeypatch):
    nginx = Nginx()
    monkeypatch.setattr(host_commands, "run", nginx.run)
    monkeypatch.setattr(daemons, "reload", lambda daemon: nginx.commands.append("reload"))
    return nginx


def files(site, **facts):
    return site_files.files_of_site(site, {**FACTS, **facts}, formula_templates())


def on_disk():
    """Return everything below /etc/nginx: path → content, or the target of a link."""
    etc = proxy_nginx.ETC
    return {
        str(path.relative_to(etc)): f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
        for path in etc.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def names():
    return sorted(on_disk())


def install(site):
    wanted = files(site)
    changes = config_files.differences(wanted)
    switch.apply(wanted)
    assert config_files.differences(files(site)) == {}
    etc = f"{proxy_nginx.ETC}/"
    return {path.removeprefix(etc): text for path, text in changes.items()}


def test_nginx_is_installed_without_debians_default_site(own_host):
    """Also where an installation has failed, and has left it."""
    before = os.umask(0o077)
    proxy_nginx.ETC.rmdir()
    proxy_nginx.PROXY.leave_out_the_default_site()
    os.umask(before)
    default = proxy_nginx.ETC / "sites-enabled/default"
    modes = [path.stat().st_mode & 0o777 for path in (proxy_nginx.ETC, default.parent, default)]
    assert modes == [0o755, 0o755, 0o644]
    default.unlink()
    (proxy_nginx.ETC / "theirs").write_text("server {}")
    default.symlink_to("../theirs")
    proxy_nginx.PROXY.leave_out_the_default_site()
    assert not default.is_symlink() and default.read_text() == ""
    assert (proxy_nginx.ETC / "theirs").read_text() == "server {}"


def test_site_has_an_upstream_locations_and_a_file_for_each_domain(make_site, nginx):
    site = make_site(domains=["a.org", "b.org"], redirect_domains=["c.org"])
    assert not proxies.is_installed(site)
    changes = install(site)
    assert nginx.commands == ["nginx -t -q", "reload"] and proxies.is_installed(site)
    links = {
        "django/a.org/blog.conf": "-> ../blog.conf",
        "django/b.org/blog.conf": "-> ../blog.conf",
        "django/c.org/blog.redirect": "-> /dev/null",
        **{f"sites-enabled/{domain}": f"-> ../sites-available/{domain}" for domain in ("a.org", "b.org", "c.org")},
    }
    written = ["conf.d/django-blog.conf", "django/blog.conf", *(f"sites-available/{name}.org" for name in "abc")]
    assert {name: text for name, text in on_disk().items() if text.startswith("-> ")} == links
    assert names() == sorted([*links, *written])
    assert all(on_disk()[name].startswith(config_files.OURS) for name in written)
    assert changes == {**{name: f"new: {text}" for name, text in links.items()}, **dict.fromkeys(written, "new: file")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("75M", 75 << 20), ("8k", 8192), ("1G", 1 << 30), ("0", 0), (12, 12), ("a", None), ("", None)],
)
def test_sizes_are_read_as_nginx_does(text, expected):
    assert proxy_nginx.size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("1y", 31536000), ("2M", 5184000), ("3m", 180), ("1500ms", 1), ("40s", 40), ("2w", 1209600)]
)
def test_times_are_read_as_nginx_does(text, expected):
    assert proxy_nginx.age(text) == expected


@pytest.mark.parametrize("bind", ["unix", "127.0.0.1:8001"])
def test_upstream_is_that_of_the_given_release(make_site, nginx, bind):
    site = make_site(server={"bind": bind})
    upstream = proxy_nginx.ETC / "conf.d/django-blog.conf"
    end = "socket" if bind == "unix" else "config/upstream.conf"
    assert f"{site.root}/current/{end};" in files(site)[upstream]
    release = site.releases / "0042-3f2a9c1b77de"
    through = site_files.files_of_site(site, FACTS, formula_templates(), through=release)[upstream]
    assert f"{release}/{end};" in through and "current" not in through


def test_changed_file_is_shown_as_a_difference(make_site, nginx):
    install(make_site())
    changes = install(make_site(media={"max_upload": "5M"}))
    assert list(changes) == ["django/blog.conf"]
    lines = changes["django/blog.conf"].splitlines()
    assert "-    client_max_body_size 75M;" in lines and "+    client_max_body_size 5M;" in lines and len(lines) < 10


def test_files_of_a_former_domain_are_removed(make_site, nginx):
    install(make_site(domains=["a.org", "b.org"], redirect_domains=["c.org"]))
    changes = install(make_site(domains=["b.org"], redirect_domains=["d.org"]))
    gone = ["django/a.org/blog.conf", "django/c.org/blog.redirect"]
    gone += [f"sites-{kind}/{domain}" for kind in ("available", "enabled") for domain in ("a.org", "c.org")]
    assert sorted(name for name, text in changes.items() if text == "removed") == sorted(gone)
    assert not any("a.org" in name or "c.org" in name for name in names())
    assert not (proxy_nginx.ETC / "django/a.org").exists()


@pytest.mark.parametrize("first", [{"domains": ["a.org"]}, {"redirect_domains": ["a.org"]}])
def test_domain_changes_between_served_and_redirected(make_site, nginx, first):
    then = {"redirect_domains": ["a.org"]} if "domains" in first else {"domains": ["a.org"]}
    install(make_site(**first))
    install(make_site(**then))
    kind = "redirect" if "redirect_domains" in then else "conf"
    assert [name for name in names() if name.startswith("django/a.org/")] == [f"django/a.org/blog.{kind}"]
    assert ("return 301" in on_disk()["sites-available/a.org"]) == ("redirect_domains" in then)


def test_two_sites_on_one_domain_share_its_servers(make_site, nginx):
    blog = make_site(domains=["a.org"], proxy={"listen": [80, 8080]})
    shop = make_site("shop", domains=["a.org"], path="/shop", proxy={"listen": [8080, 80]})
    install(blog)
    assert sorted(install(shop)) == ["conf.d/django-shop.conf", "django/a.org/shop.conf", "django/shop.conf"]
    assert config_files.differences(files(blog)) == {}
    switch.apply(site_files.absent(blog))
    assert names() == [
        *["conf.d/django-shop.conf", "django/a.org/shop.conf", "django/shop.conf"],
        *["sites-available/a.org", "sites-enabled/a.org"],
    ]
    switch.apply(site_files.absent(shop))
    assert names() == [] and not (proxy_nginx.ETC / "django/a.org").exists()


@pytest.mark.parametrize(
    "says", [EMERG, 'nginx: [emerg] host not found in upstream "x" in /etc/nginx/x:1', "no line of nginx"]
)
def test_files_are_restored_when_nginx_refuses_them(make_site, nginx, says):
    install(make_site())
    before = on_disk()
    nginx.says = says
    nginx.commands.clear()
    with pytest.raises(DeploymentError) as error:
        switch.apply(files(make_site(domains=["new.org"], media={"max_upload": "5M"})))
    cause = {
        EMERG: 'unknown directive "x" in /etc/nginx/sites-enabled/neighbour:3',
        "no line of nginx": "nginx -t failed (exit 1)",
    }.get(says, 'host not found in upstream "x" in /etc/nginx/x:1')
    assert error.value.message == f"nginx refuses its configuration: {cause}"
    assert on_disk() == before and nginx.commands == ["nginx -t -q"]


def test_first_files_are_removed_when_nginx_refuses_them(make_site, nginx):
    nginx.says = EMERG
    with pytest.raises(DeploymentError):
        switch.apply(files(make_site()))
    assert names() == []


@pytest.mark.parametrize("how", ["file", "link", "dangling link", "link to ours"])
@pytest.mark.parametrize("name", ["sites-available/blog.example.org", "sites-enabled/blog.example.org"])
def test_file_of_another_program_is_not_overwritten(make_site, nginx, own_host, name, how):
    path, target = proxy_nginx.ETC / name, own_host / "target"
    path.parent.mkdir(exist_ok=True)
    if how == "file":
        path.write_text("server {}\n")
    else:
        path.symlink_to(target)
        if how != "dangling link":
            target.write_text("server {}\n" if how == "link" else f"{config_files.OURS} once\n")
    if how in ("file", "link"):
        with pytest.raises(DeploymentError) as error:
            config_files.differences(files(make_site()))
        assert error.value.message == f"{path} is in the way: it was not written by this formula"
        assert error.value.hint == f"move it away: mv {path} /root/"
    else:
        install(make_site())
        assert target.exists() == (how == "link to ours")


def test_domain_file_replaced_by_the_operator_is_not_removed(make_site, nginx):
    install(make_site())
    (proxy_nginx.ETC / "sites-available/blog.example.org").write_text("server {}\n")
    with pytest.raises(DeploymentError, match="is in the way"):
        config_files.differences(files(make_site(domains=["new.org"])))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/static/", "/static/"),
        ("/a/b-c_d.e~/", "/a/b-c_d.e~/"),
        ("static/", ""),
        ("/", ""),
        ("", ""),
        ("https://cdn.example.org/static/", ""),
        ("//cdn.example.org/static/", ""),
        ("/static", None),
        ("/st atic/", None),
        ("/static/;x/", None),
        ("/sta$tic/", None),
        ('/"/', None),
        ("/gr\u00fc\u00dfe/", None),
        ("/a\n/", "/a/"),
    ],
)
def test_static_url_of_this_host_is_served_and_an_invalid_one_refused(make_site, url, expected):
    if expected is None:
        with pytest.raises(DeploymentError, match="which the proxy cannot serve"):
            site_files._local(url, make_site())
    else:
        assert site_files._local(url, make_site()) == expected


@pytest.mark.parametrize(
    ("options", "url", "expected"),
    [
        ({"static": {"url": "https://cdn.example.org/blog/"}}, "https://cdn.example.org/blog/", "/static/"),
        ({"static": {"url": "https://cdn.example.org/x/"}, "path": "/b"}, "https://cdn.example.org/x/", "/b/static/"),
        ({"static": {"url": "https://cdn.example.org/blog/"}}, "/assets/", "/assets/"),
        ({}, "https://cdn.example.org/blog/", None),
    ],
    ids=["elsewhere", "below a path", "a release of before", "by the project alone"],
)
def test_static_files_of_another_host_are_served_here_too(make_site, options, url, expected):
    text = files(make_site(**options), static_url=url)[proxy_nginx.ETC / "django/blog.conf"]
    assert re.findall(r"location \^~ (\S*(?:static|assets)/) ", text) == ([expected] if expected else [])


def test_uncollected_files_are_not_served(make_site):
    site = make_site()
    locations = proxy_nginx.ETC / "django/blog.conf"
    without = {name: value for name, value in FACTS.items() if name != "collected"}
    assert "location ^~ /static/" in files(site)[locations]
    assert "static" not in site_files.files_of_site(site, without, formula_templates())[locations]
    assert "location ^~ /static/" in files(site, collected=0)[locations]
    assert "media" not in files(site, media_url="")[locations]


@pytest.mark.parametrize(
    ("name", "text", "ports"),
    [
        ("conf.d/x.conf", "server {\n    listen 80 default_server;\n}", {80}),
        ("conf.d/x.conf", "server { listen [::]:8080 default_server; }", {8080, "[::]:8080"}),
        ("conf.d/x.conf", "server {listen 443 ssl default_server;listen default_server;}", {443, 80}),
        ("conf.d/x.conf", "listen 127.0.0.1:81 backlog=5 default_server ;", {81, "127.0.0.1:81"}),
        ("conf.d/x.conf", "# listen 80 default_server;\nlisten 80; # default_server", set()),
        ("conf.d/x.conf", "listen 80;\nserver_name default_server;", set()),
        ("conf.d/x.conf", "server { listen 80 default; listen 443 default ssl; }", {80, 443}),  # as before 0.8.21
        ("conf.d/x.conf", "listen 80 fastopen=3;\nserver_name default;\nroot /srv/default;", set()),
        ("conf.d/x.disabled", "listen 80 default_server;", set()),
        ("nginx.conf", "http {\n server {\n\tlisten\t80\n default_server;\n}}", {80}),
        ("sites-enabled/default", "listen 80 default_server;", {80}),
    ],
)
def test_existing_default_servers_are_detected(own_host, name, text, ports):
    etc = proxy_nginx.ETC
    (etc / name).parent.mkdir(exist_ok=True)
    (etc / name).write_text(text)
    own = etc / "sites-available/django-default"
    assert proxy_nginx._existing_defaults(own) == ports


def test_default_server_refuses_unknown_hosts_on_free_ports(nginx):
    etc = proxy_nginx.ETC
    wanted = proxy_nginx.PROXY.default_server([80, 8080], [], formula_templates())
    switch.apply(wanted)
    assert names() == ["sites-available/django-default", "sites-enabled/django-default"]
    text = on_disk()["sites-available/django-default"]
    assert (
        "    listen 80 default_server;\n" in text
        and "    listen 8080 default_server;\n" in text
        and "return 444;" in text
    )
    assert config_files.differences(proxy_nginx.PROXY.default_server([80, 8080], [], formula_templates())) == {}
    (etc / "sites-enabled/other").write_text("listen 80 default_server;")
    wanted = proxy_nginx.PROXY.default_server([80, 8080], [], formula_templates())
    assert list(config_files.differences(wanted)) == [str(etc / "sites-available/django-default")]
    switch.apply(wanted)
    assert "listen 80 " not in on_disk()["sites-available/django-default"]
    switch.apply(proxy_nginx.PROXY.default_server([80], [], formula_templates()))
    assert names() == ["sites-enabled/other"]


@pytest.mark.parametrize("running", [True, False])
def test_nginx_is_reloaded_or_started(own_host, monkeypatch, running):
    commands = []

    def run(argv, **_options):
        commands.append(argv)
        (own_host / "nginx.pid").write_text("42\n")

    monkeypatch.setattr(host_commands, "run", run)
    monkeypatch.setattr(daemons, "RUN", own_host)
    (own_host / "proc/42").mkdir(parents=True)
    (own_host / "proc/42/cmdline").write_text("nginx: master process /usr/sbin/nginx")
    (own_host / "nginx.pid").write_text("42\n" if running else "43\n")
    daemons.reload(daemons.NGINX)
    assert commands == [["systemctl", "reload" if running else "start", "nginx.service"]]
    (own_host / "nginx.pid").write_text("")
    daemons.reload(daemons.NGINX)
    assert commands[1] == ["systemctl", "start", "nginx.service"]


WORKER, SHUTTING = b"nginx: worker process\0\0", b"nginx: worker process is shutting down\0"


@pytest.mark.parametrize("then", [SHUTTING, None, WORKER])
def test_reload_is_complete_when_no_old_worker_accepts_requests(own_host, monkeypatch, then):
    def process(number, line, parent=42):
        (own_host / "proc" / str(number)).mkdir(parents=True, exist_ok=True)
        (own_host / "proc" / str(number) / "cmdline").write_bytes(line)
        (own_host / "proc" / str(number) / "stat").write_text(f"{number} (nginx (x)) S {parent}{' 0' * 18}")

    def run(argv, **_options):
        process(45, WORKER)

    def sleep(seconds):
        slept.append(seconds)
        if then:
            process(43, then)
        else:
            shutil.rmtree(own_host / "proc/43")

    slept, clock = [], iter(range(100))
    process(42, b"nginx: master process /usr/sbin/nginx", 1)
    process(43, WORKER)
    process(44, b"nginx: cache manager process\0")
    process(46, WORKER, 7)
    (own_host / "nginx.pid").write_text("42\n")
    monkeypatch.setattr(host_commands, "run", run)
    monkeypatch.setattr(daemons, "RUN", own_host)
    monkeypatch.setattr(daemons.time, "sleep", sleep)
    monkeypatch.setattr(daemons.time, "monotonic", lambda: next(clock))
    if then == WORKER:
        with pytest.raises(DeploymentError, match="nginx still uses its old configuration"):
            daemons.reload(daemons.NGINX)
        assert len(slept) == 10
    else:
        daemons.reload(daemons.NGINX)
        assert slept == [0.02]


@pytest.mark.parametrize(
    ("unit", "way"),
    [
        ("apache2.service", "(systemctl disable --now apache2.service)"),
        ("", "(ss -ltnp 'sport = :81' shows it)"),
    ],
)
def test_port_of_another_process_is_refused(own_host, monkeypatch, unit, way):
    asked = []

    def holder(port, exclude, ports=None):
        asked.append((port, exclude, *([ports] if ports else [])))
        return {
            80: host_ports.Listener("nginx", 5, "nginx.service"),
            81: host_ports.Listener("apache2", 7, unit),
        }[port]

    monkeypatch.setattr(host_ports, "listener", holder)
    monkeypatch.setattr(daemons, "pid", lambda daemon: None)
    proxy_ports.refuse_taken_ports("blog", "nginx", [80])
    monkeypatch.setattr(daemons, "pid", lambda daemon: 5)
    with pytest.raises(DeploymentError, match=r"^port 81 is taken by apache2 \(pid 7") as caught:
        proxy_ports.refuse_taken_ports("blog", "nginx", [80, 81])
    assert way in caught.value.hint and "django:sites:blog:proxy:listen: [8080]" in caught.value.hint
    assert asked == [(80, None), (80, 5), (81, 5)]


KEPT = "{} needs port 80 for {}, so {} cannot listen there; nothing has been changed"


@pytest.mark.parametrize(("former", "kind"), [("nginx", "apache"), ("apache", "nginx")])
def test_port_that_another_proxy_keeps_for_a_site_is_refused(make_site, nginx, monkeypatch, former, kind):
    """For one that the pillar does not have any more: it is registered, and served."""
    shop = make_site("shop", proxy={"kind": former})
    shop.register()
    applied = {"config": dict(shop.config), "platform": dict(shop.platform)}
    file.write_json(shop.applied, file.with_checksum(applied))
    switch.apply(files(shop))
    blog = make_site(proxy={"kind": former})
    switch.apply(files(blog))
    titles = {"nginx": "nginx", "apache": "Apache"}
    held_by(monkeypatch, former)
    proxy_ports.refuse_taken_ports("blog", kind, [80])
    proxy_ports.refuse_taken_ports("blog", kind, [80], None, ["blog", "shop"])
    with pytest.raises(DeploymentError) as error:
        proxy_ports.refuse_taken_ports("blog", kind, [80], None, ["blog"])
    assert error.value.message == KEPT.format(titles[former], "the site shop", titles[kind])
    assert error.value.hint == (
        f"give it to {titles[kind]} too (django:sites:shop:proxy:kind), or remove it (django:sites:shop: "
        "{state: absent}), or set another port: django:sites:blog:proxy:listen: [8080]"
    )
    shop.applied.unlink()
    with pytest.raises(DeploymentError, match="the site shop, so"):
        proxy_ports.refuse_taken_ports("blog", kind, [80], None, ["blog"])


def held_by(monkeypatch, kind):
    """Let a proxy of the formula listen on every port."""
    daemon = proxies.PROXIES[kind].DAEMON
    monkeypatch.setattr(daemons, "pid", lambda asked: 5 if asked is daemon else None)
    monkeypatch.setattr(host_ports, "listens_on", lambda pid, port, ports=None: pid == 5)
    holder = host_ports.Listener(daemon.service, 5, f"{daemon.service}.service")
    monkeypatch.setattr(host_ports, "listener", lambda port, exclude, ports=None: holder)


@pytest.mark.parametrize(
    ("former", "kind", "name", "text", "keeps"),
    [
        ("nginx", "apache", "sites-enabled/old", "server { listen 80; }", True),
        ("nginx", "apache", "sites-enabled/old", "server { listen [::]:80 default_server; }", True),
        ("nginx", "apache", "sites-enabled/old", "server { listen 192.0.2.1; }", True),
        ("nginx", "apache", "conf.d/old.conf", "server {\n  server_name x;\n}", True),
        ("nginx", "apache", "sites-enabled/old", "server { listen 8080; listen unix:/run/x; # listen 80;\n}", False),
        ("nginx", "apache", "conf.d/gzip.conf", "gzip on;", False),
        ("apache", "nginx", "sites-enabled/old.conf", "<VirtualHost *:8080>", True),
        ("apache", "nginx", "sites-enabled/000-default.conf", "", False),
    ],
)
def test_port_that_another_proxy_keeps_for_a_file_is_refused(
    make_site, nginx, monkeypatch, former, kind, name, text, keeps
):
    switch.apply(files(make_site(proxy={"kind": former})))
    path = proxies.PROXIES[former].etc / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    titles = {"nginx": "nginx", "apache": "Apache"}
    held_by(monkeypatch, former)
    if not keeps:
        proxy_ports.refuse_taken_ports("blog", kind, [80], None, ["blog"])
        return
    with pytest.raises(DeploymentError) as error:
        proxy_ports.refuse_taken_ports("blog", kind, [80], None, ["blog"])
    assert error.value.message == KEPT.format(titles[former], path, titles[kind])
    assert error.value.hint == (
        f"remove that file, and reload {titles[former]}, or set another port: django:sites:blog:proxy:listen: [8080]"
    )


def test_port_that_nginx_held_by_another_socket_is_checked_again(own_host, monkeypatch):
    before, asked = {80: {"socket:[1]"}}, []

    def holder(port, exclude, ports=None):
        asked.append(ports)
        return host_ports.Listener("", 0, "") if ports else None

    monkeypatch.setattr(host_ports, "listener", holder)
    proxy_ports.refuse_taken_ports("blog", "nginx", [80], before)
    assert asked == [before, None]


@pytest.mark.parametrize(("text", "has"), [(None, False), ("", False), ("0000 01 80 10 80 lo\n", True)])
def test_ports_listen_on_ipv6_where_the_host_has_an_address(own_host, monkeypatch, nginx, text, has):
    monkeypatch.setattr(proxy_nginx, "IPV6", own_host / "if_inet6")
    if text is not None:
        (own_host / "if_inet6").write_text(text)
    wanted = proxy_nginx.PROXY.default_server([80], [], formula_templates())
    assert ("listen [::]:80 " in wanted[proxy_nginx.ETC / "sites-available/django-default"]) == has


ADDRESSES = ["192.0.2.10:80", "[2001:db8::10]:80", 8080]
TLS = {"kind": "self_signed", "listen": ["192.0.2.10:443", "[2001:db8::10]:443"]}


@pytest.mark.parametrize(
    ("kind", "tls", "place"),
    [
        ("nginx", None, ("192.0.2.10", 80)),
        ("nginx", TLS, ("192.0.2.10", 443)),
        ("apache", None, ("192.0.2.10", 80)),
        ("apache", TLS, ("192.0.2.10", 443)),
    ],
)
def test_probe_connects_to_the_configured_address(make_site, nginx, kind, tls, place):
    site = make_site(proxy={"kind": kind, "listen": ADDRESSES}, tls=tls)
    switch.apply(files(site))
    connection = proxies.connection(site, 1)
    assert (connection.host, connection.port) == place and isinstance(connection, proxies.Secure) == bool(tls)


@pytest.mark.parametrize(("listen", "host"), [("0.0.0.0:80", "127.0.0.1"), ("[::]:80", "::1"), ("[::1]:80", "::1")])
@pytest.mark.parametrize("kind", ["nginx", "apache"])
def test_probe_connects_to_loopback_for_all_addresses_of_a_family(make_site, nginx, listen, host, kind):
    site = make_site(proxy={"kind": kind, "listen": [listen]})
    assert proxies.connection(site, 1).host == host, "before it has files too"
    switch.apply(files(site))
    assert proxies.connection(site, 1).host == host


def test_apache_listens_where_no_other_file_does(make_site, nginx):
    etc = apache.ETC
    (etc / "ports.conf").write_text("Listen 8080\nListen 192.0.2.10:80\n")
    site = make_site(proxy={"kind": "apache", "listen": ADDRESSES})
    text = files(site)[etc / "sites-available/blog.example.org.conf"]
    assert [line.strip() for line in text.splitlines() if "isten" in line] == [
        "<IfDefine !django_listen_2001-db8--10-80>",
        "Define django_listen_2001-db8--10-80",
        "Listen [2001:db8::10]:80",
    ]
    assert "<VirtualHost 192.0.2.10:80 [2001:db8::10]:80 *:8080>" in text
    switch.apply(files(site))
    found = {("::", 8080), ("192.0.2.10", 80), ("2001:db8::10", 80)}
    assert apache.PROXY.places() == found and apache.PROXY.needed_ports() == {80, 8080}


def test_unknown_hosts_are_refused_on_an_address_after_a_site_is_served_there(make_site, nginx):
    default = proxy_nginx.ETC / "sites-available/django-default"
    assert proxy_ports.served(proxy_nginx.PROXY, [80, "192.0.2.10:80"]) == [80]
    site = make_site(proxy={"listen": ADDRESSES}, tls=TLS)
    wanted = moves.handover_files(site, FACTS, formula_templates())
    assert "listen 192.0.2.10:80 default_server;" in wanted[default]
    switch.apply(wanted)
    assert proxy_nginx.PROXY.refused() == (["192.0.2.10:80", "[2001:db8::10]:80", 8080], TLS["listen"])
    assert proxy_ports.served(proxy_nginx.PROXY, ADDRESSES) == ADDRESSES
    assert proxy_ports.served(proxy_nginx.PROXY, TLS["listen"]) == TLS["listen"]
    assert config_files.differences(moves.handover_files(site, FACTS, formula_templates())) == {}
    assert default not in moves.handover_files(make_site(), FACTS, formula_templates())


NGINX_T = """
# configuration file /etc/nginx/nginx.conf:
http { server { listen 80; listen 192.0.2.10:80 default_server; # listen 81;
  listen [::1]:82 ssl; listen *:83; listen unix:/run/x; listen 127.0.0.1; listen localhost:84; } }
"""


def test_places_of_nginx_are_read_from_its_configuration(nginx, monkeypatch):
    monkeypatch.setattr(host_commands, "run", lambda argv, **_options: NGINX_T)
    everywhere = "0.0.0.0"
    found = {(everywhere, 80), ("::1", 82), (everywhere, 83), ("localhost", 84)}
    assert proxy_nginx.PROXY.places() == found, "what is among all addresses has no socket of its own"


@pytest.mark.parametrize(
    ("before", "after", "held", "expected"),
    [
        ([80], ["192.0.2.10:80"], {("0.0.0.0", 80), ("::", 80)}, "restart"),
        (["192.0.2.10:80"], [80], {("192.0.2.10", 80)}, "restart"),
        (["192.0.2.10:80"], ["192.0.2.11:80"], {("192.0.2.10", 80)}, "reload"),
        (["192.0.2.10:80"], ["192.0.2.10:80", 8080], {("192.0.2.10", 80)}, "reload"),
        ([80], [8080], {("0.0.0.0", 80), ("::", 80)}, "reload"),
        ([80], ["192.0.2.10:80"], None, "reload"),
    ],
)
def test_nginx_restarts_to_change_from_all_addresses_to_one(
    make_site, nginx, monkeypatch, before, after, held, expected
):
    switch.apply(files(make_site(proxy={"listen": before})))
    nginx.commands.clear()
    wanted = files(make_site(proxy={"listen": after}))
    monkeypatch.setattr(nginx, "run", lambda argv, **_options: "".join(text or "" for text in wanted.values()))
    monkeypatch.setattr(host_commands, "run", nginx.run)
    monkeypatch.setattr(host_ports, "addresses", lambda pid: held)
    monkeypatch.setattr(daemons, "pid", lambda daemon: held and 7)
    monkeypatch.setattr(daemons, "restart", lambda daemon: nginx.commands.append("restart"))
    switch.apply(wanted)
    assert nginx.commands == [expected]


def test_address_that_the_host_does_not_have_is_refused(make_site, monkeypatch):
    monkeypatch.setattr(host_ports, "bind_error", lambda host: "" if host == "192.0.2.10" else "not ours")
    proxy_ports.refuse_foreign_addresses(make_site(proxy={"listen": ["192.0.2.10:80", 81]}))
    with pytest.raises(DeploymentError) as caught:
        proxy_ports.refuse_foreign_addresses(make_site(proxy={"listen": ["192.0.2.11:80"]}))
    assert caught.value.message == (
        "django:sites:blog:proxy:listen: this host cannot listen on 192.0.2.11:80 (not ours); nothing has been changed"
    )
    with pytest.raises(DeploymentError, match=r"^django:sites:blog:tls:listen: .* \[::5\]:443 "):
        proxy_ports.refuse_foreign_addresses(make_site(tls={"kind": "self_signed", "listen": ["[::5]:443"]}))


def test_process_on_another_address_of_the_port_is_accepted(own_host, monkeypatch):
    """The address of the first row is 127.0.0.1, that of the second ::1, by the kernel's words."""
    rows = {"tcp": "0100007F:0050 0:0 0A", "tcp6": "00000000000000000000000001000000:0051 0:0 0A"}
    (own_host / "proc/net").mkdir()
    for name, row in rows.items():
        (own_host / "proc/net" / name).write_text(f"head\n0: {row} 0:0 0:0 0 0 0 {name}\n")
    (own_host / "proc/7/fd").mkdir(parents=True)
    for name in rows:
        (own_host / "proc/7/fd" / name).symlink_to(f"socket:[{name}]")
    monkeypatch.setattr(daemons, "pid", lambda daemon: None)
    assert host_ports.addresses(7) == {("127.0.0.1", 80), ("::1", 81)}
    proxy_ports.refuse_taken_ports("blog", "nginx", ["127.0.0.2:80", "127.0.0.1:81", "[::2]:81", "[::1]:80"])
    for listen in ("127.0.0.1:80", "0.0.0.0:80", "[::1]:81", "[::]:81"):
        with pytest.raises(DeploymentError) as caught:
            proxy_ports.refuse_taken_ports("blog", "nginx", [listen])
        assert caught.value.message.startswith(f"{listen} is taken by an unknown process, so nginx cannot listen there")
    with pytest.raises(DeploymentError, match=r"^port 80 is taken by an unknown process"):
        proxy_ports.refuse_taken_ports("blog", "nginx", [80])


def test_sites_share_variables_and_nginx_accepts_their_names(make_site):
    """Names of nginx's variables have at most 46 characters, whatever the site and its headers are called."""
    options = {
        "proxy": {
            "trusted": ["10.0.0.0/8"],
            "trusted_headers": [f"X-{'Long-' * 20}Name"],
            "limit_req": {"rate": "9r/s"},
        },
        "maintenance": {"allow": ["10.0.0.0/8"]},
        "media": {"download": True},
        "server": {"kind": "uvicorn"},
    }
    defined = []
    for name in ("abcdefghijklmnopqrstuvwxyz", "b"):
        site = make_site(name, domains=[f"{name}.example.org"], folders=False, **options)
        text = files(site)[proxy_nginx.PROXY.main_file(site)]
        defined.append(re.findall(r"(?m)^(?:geo|map) .*\$(\w+) \{$", text))
    assert defined[0] == defined[1] and len(defined[0]) == 13
    assert max(map(len, defined[0])) <= 46


@pytest.mark.parametrize(("length", "size"), [(11, None), (46, None), (47, 128), (110, 128), (111, 256), (253, 512)])
def test_long_name_of_a_server_has_room(make_site, nginx, length, size):
    """nginx 1.22 as Debian has it accepts 46 characters with a bucket of 64 bytes, and refuses 47."""
    domain = ("a" * 50 + ".") * 5 + "b" * 253
    site = make_site(domains=[domain[:length].rstrip(".").ljust(length, "c")])
    names = proxy_nginx.ETC / "conf.d/django-names.conf"
    found = files(site).get(names)
    assert (found and int(re.search(r"(?m)^server_names_hash_bucket_size (\d+);$", found)[1])) == size


def test_size_that_the_host_sets_stays(make_site, nginx):
    site, names = make_site(domains=["a" * 60 + ".example.org"]), proxy_nginx.ETC / "conf.d/django-names.conf"
    main = proxy_nginx.ETC / "nginx.conf"
    main.write_text("http {\n    # server_names_hash_bucket_size 64;\n}\n")
    switch.apply(files(site))
    assert "bucket_size 128;" in names.read_text() and site_files.absent(site)[names] is None
    main.write_text("http {\n    server_names_hash_bucket_size 256;\n}\n")
    assert files(site)[names] is None


# What is to be done about a file that nginx refuses


def registered(site):
    sites.keep_applied(site)
    sites.REGISTRY.mkdir(parents=True, exist_ok=True)
    (sites.REGISTRY / site.name).symlink_to(site.root)
    return site


KEEPS = "until then nginx keeps its running configuration"


@pytest.mark.parametrize(
    ("options", "line", "keys"),
    [
        ({"proxy": {"options": {"gzip_comp_level": "99"}}}, "gzip_comp_level 99;", ["proxy:options:gzip_comp_level"]),
        (
            {"proxy": {"locations": {"/up/": {"client_max_body_size": "x"}}}},
            "client_max_body_size x;",
            ["proxy:locations:/up/:client_max_body_size"],
        ),
        ({"proxy": {"snippets": ["/etc/nginx/no.conf"]}}, "include /etc/nginx/no.conf;", ["proxy:snippets"]),
        ({"proxy": {"headers": {"X-Scheme": "https"}}}, "uwsgi_param HTTP_X_SCHEME", ["proxy:headers:X-Scheme"]),
        ({"media": {"max_upload": "5M"}}, "client_max_body_size 5M;", ["media:max_upload"]),
        (
            {"proxy": {"upstreams": {"192.0.2.11:8001": {}}}},
            "server 192.0.2.11:8001",
            ["proxy:upstreams:192.0.2.11:8001"],
        ),
    ],
)
def test_advice_about_a_file_of_the_formula_names_the_key(make_site, nginx, options, line, keys):
    site = registered(make_site(**options))
    install(site)
    path, number = next(
        (proxy_nginx.ETC / name, number)
        for name, text in on_disk().items()
        for number, found in enumerate(text.splitlines(), 1)
        if line in found
    )
    nginx.says = f'nginx: [emerg] 12#12: invalid value "x" in {path}:{number}'
    with pytest.raises(DeploymentError) as error:
        proxy_nginx.PROXY.check()
    named = " or ".join(f"django:sites:blog:{key}" for key in keys)
    assert error.value.hint == f"correct {named}, from which that line is, and apply again; {KEEPS}"


def test_advice_about_a_file_of_the_formula_that_nothing_of_the_pillar_is_in(make_site, nginx):
    install(registered(make_site()))
    nginx.says = f"nginx: [emerg] 12#12: broken in {proxy_nginx.ETC}/sites-enabled/blog.example.org:2"
    with pytest.raises(DeploymentError) as error:
        proxy_nginx.PROXY.check()
    assert error.value.hint == f"the formula writes that file: apply again, which writes it anew; {KEEPS}"


def test_advice_about_other_files(make_site, nginx):
    (proxy_nginx.ETC / "nginx.conf").write_text("user x;\n")
    nginx.says = f"nginx: [emerg] 12#12: broken in {proxy_nginx.ETC}/nginx.conf:1"
    with pytest.raises(DeploymentError) as error:
        proxy_nginx.PROXY.check()
    assert error.value.hint == f"correct that file; {KEEPS}"
    nginx.says = "nginx: [emerg] 12#12: bind() to 0.0.0.0:80 failed (98: Address already in use)"
    with pytest.raises(DeploymentError) as error:
        proxy_nginx.PROXY.check()
    assert error.value.hint == f"correct that; {KEEPS}"


def test_advice_about_apache_reads_its_form_of_a_place(make_site, own_host):
    registered(make_site(proxy={"kind": "apache", "options": {"LimitXMLRequestBody": "x"}}))
    path = own_host / "blog.conf"
    path.write_text(f"{config_files.OURS} for the site blog.\n    LimitXMLRequestBody x\n")
    cause = f"Syntax error on line 2 of {path}: LimitXMLRequestBody requires a non-negative integer."
    assert contract.refusal_hint("Apache", cause).startswith(
        "correct django:sites:blog:proxy:options:LimitXMLRequestBody, from which that line is"
    )


def redirecting(site):
    """Return the lines of the server of www.example.org, which redirects."""
    names = ("www.example.org", "www.example.org.conf")
    (path,) = (path for path in files(site) if path.parent.name == "sites-available" and path.name in names)
    return [line.strip() for line in files(site)[path].splitlines()]


@pytest.mark.parametrize(
    ("kind", "trusted", "lines"),
    [
        ("nginx", [], ["return 301 $scheme://blog.example.org$django_port$request_uri;"]),
        ("nginx", ["10.0.0.9"], ["return 301 $SCHEME://blog.example.org$django_port$request_uri;"]),
        ("apache", [], ['RewriteRule ^ "http://blog.example.org%{ENV:django_port}%1" [R=301,NE,L]']),
        (
            "apache",
            ["10.0.0.9", "10.1.0.0/16"],
            [
                "RewriteCond %{HTTP:X-Forwarded-Proto} =https",
                "RewriteCond expr \"%{CONN_REMOTE_ADDR} -ipmatch '10.0.0.9'"
                " || %{CONN_REMOTE_ADDR} -ipmatch '10.1.0.0/16'\"",
                'RewriteRule ^ "https://blog.example.org%{ENV:django_port}%1" [R=301,NE,L]',
                'RewriteRule ^ "http://blog.example.org%{ENV:django_port}%1" [R=301,NE,L]',
            ],
        ),
    ],
)
def test_redirected_domain_keeps_the_scheme_and_the_port_of_the_client(make_site, kind, trusted, lines):
    proxy = {"kind": kind, "listen": [8080], "trusted": trusted}
    site = make_site(redirect_domains=["www.example.org"], proxy=proxy)
    scheme = proxy_nginx.shared_variable("scheme", *trusted)
    found = [line for line in redirecting(site) if line.replace(scheme, "SCHEME") in lines]
    assert [*dict.fromkeys(found)] == [line.replace("SCHEME", scheme) for line in lines]


@pytest.mark.parametrize("kind", ["nginx", "apache"])
@pytest.mark.parametrize("tls", [{"kind": "none"}, {"kind": "self_signed"}], ids=["http", "https"])
def test_redirected_domain_keeps_the_method_and_the_body_of_a_post(make_site, monkeypatch, kind, tls):
    monkeypatch.setattr(proxy_nginx, "version", lambda: (1, 22, 1))
    site = make_site(redirect_domains=["www.example.org"], proxy={"kind": kind, "trusted": ["10.0.0.9"]}, tls=tls)
    text = "\n".join(redirecting(site))
    patterns = {"nginx": r"return (?P<status>30\d) (?P<to>\S+);"}
    patterns["apache"] = r'RewriteRule \^ "(?P<to>\w+://.*)" \[R=(?P<status>30\d),'
    found = [(match["status"], match["to"]) for match in re.finditer(patterns[kind], text)]
    places = [to for status, to in found if status == "301"]
    assert places and found == [(status, to) for to in places for status in ("308", "301")]


@pytest.mark.parametrize("path", ["/", "/a%20b", "/a%2Fb", "/a%3Fb", "/x%23y", "//other.example.org/x", ""])
def test_apache_redirects_with_the_path_as_the_client_wrote_it(make_site, path):
    site = make_site(redirect_domains=["www.example.org"], proxy={"kind": "apache"}, tls={"kind": "self_signed"})
    texts = {name.name: text for name, text in files(site).items() if name.parent.name == "sites-available"}
    for text in (texts["www.example.org.conf"], texts["blog.example.org.conf"]):
        rules = re.findall(r'(?m)^    RewriteCond %{THE_REQUEST} "(.*)"\n    RewriteRule \^ "https://(.*?)" ', text)
        assert rules and len(rules) == text.count("NE,L]")
        for condition, target in rules:
            assert target == "blog.example.org%1"
            for written in (path, f"http://www.example.org{path}"):
                assert (re.search(condition, f"GET {written}?next=%3F HTTP/1.1")[1] or "") == path
        hosts = re.findall(r"(?s)<VirtualHost.*?</VirtualHost>", text)
        assert all(host.count("AllowEncodedSlashes NoDecode") == 1 for host in hosts)


# A process that is killed between a change and the reload


def killed(call):
    """Call in a child that is killed where it would ask nginx."""
    child = os.fork()
    if not child:
        host_commands.run = lambda *_arguments, **_options: os._exit(9)
        call()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_what_a_killed_process_has_written_is_read_later(make_site, nginx, monkeypatch):
    site = make_site()
    install(site)
    nginx.commands.clear()
    other = files(make_site(media={"max_upload": "5M"}))
    killed(lambda: switch.apply(other))
    assert config_files.differences(other) == {}, "no file tells it any more"
    assert switch.unread() == [proxy_nginx.PROXY]
    monkeypatch.setattr(daemons, "pid", lambda daemon: 12)
    assert switch.catch_up() == [] and nginx.commands == ["nginx -t -q", "reload"]
    assert switch.unread() == [] and switch.catch_up() == [] and len(nginx.commands) == 2


def test_certificate_that_a_killed_process_has_written_is_read_later(make_site, nginx, monkeypatch):
    site = make_site(tls={"kind": "self_signed"})
    install(site)
    path = certificates.path_of(site.canonical)
    killed(lambda: switch.change_certificates({path: "new"}))
    assert path.read_text() == "new" and switch.unread() == [proxy_nginx.PROXY]


def test_proxy_that_refuses_what_a_killed_process_has_written_is_asked_again(make_site, nginx, monkeypatch):
    install(make_site())
    killed(lambda: switch.apply(files(make_site(media={"max_upload": "5M"}))))
    monkeypatch.setattr(daemons, "pid", lambda daemon: 12)
    nginx.says = EMERG
    (told,) = switch.catch_up()
    assert told.startswith(
        "what a killed process has changed is not in use yet: nginx refuses its configuration: unknown"
    )
    assert switch.unread() == [proxy_nginx.PROXY]
    with pytest.raises(DeploymentError):
        switch.apply(files(make_site()))
    assert switch.unread() == [proxy_nginx.PROXY]
    nginx.says = ""
    switch.apply(files(make_site()))
    assert switch.unread() == []


def test_change_that_fails_leaves_nothing_to_be_read(make_site, nginx):
    install(make_site())
    nginx.says = EMERG
    with pytest.raises(DeploymentError):
        switch.apply(files(make_site(media={"max_upload": "5M"})))
    assert switch.unread() == []
