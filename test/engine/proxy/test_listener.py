"""A site without a proxy, for which systemd listens."""

import pytest
from django_formula.host import commands, daemons, ports
from django_formula.host.commands import DeploymentError
from django_formula.host.ports import Listener
from django_formula.process import sandbox
from django_formula.process import systemd as process_systemd
from django_formula.proxy import listener
from specimen import compiled, formula_templates, three_keys


@pytest.fixture
def systemd(own_host, monkeypatch):
    """A fake systemctl: the commands it got, and those that it refuses."""

    class Systemd:
        def __init__(self):
            self.asked = []
            self.refuses = ""
            self.state = "inactive"

        def run(self, argv, **_options):
            if argv[1] == "show":
                return self.state
            self.asked.append(" ".join(argv[1:]))
            if self.asked[-1] == self.refuses:
                raise DeploymentError("it cannot")
            socket = process_systemd.UNITS / argv[-1]
            link = process_systemd.UNITS / "sockets.target.wants" / argv[-1]
            if argv[1] == "enable" and not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(socket)
            if argv[1] == "disable":
                link.unlink(missing_ok=True)
            return ""

    made = Systemd()
    monkeypatch.setattr(commands, "run", made.run)
    monkeypatch.setattr(daemons, "has_systemd", lambda: True)
    return made


@pytest.fixture
def listening(make_site):
    return lambda address="0.0.0.0:8000": make_site(proxy={"kind": "none"}, server={"bind": address})


def service_of(site):
    """The text of the unit that connects requests."""
    files = listener.listener_units(site, formula_templates())
    return next(text for path, text in files.items() if path.suffix == ".service")


def texts():
    return {path.name: path.read_text() for path in process_systemd.UNITS.glob("*listen*")}


def test_systemd_listens_and_connects_to_the_active_release(listening, systemd):
    site = listening()
    socket, service = (process_systemd.UNITS / f"django-blog-listen.{kind}" for kind in ("socket", "service"))
    assert site.config["server"]["bind"] == "unix" and site.listener == "0.0.0.0:8000"
    assert listener.stale(site, formula_templates()) == {
        str(socket): "new: file",
        str(service): "new: file",
    }
    listener.apply(site, formula_templates())
    assert "\nListenStream=0.0.0.0:8000\n" in socket.read_text()
    assert f"socket-proxyd --connections-max=16384 {site.root}/current/socket\n" in service.read_text()
    assert listener.stale(site, formula_templates()) == {}
    (process_systemd.UNITS / "sockets.target.wants" / socket.name).unlink()
    assert listener.stale(site, formula_templates()) == {str(socket): "disabled"}


def test_a_unit_that_connects_visitors_is_not_restarted_for_its_text(listening, systemd):
    site = listening()
    listener.apply(site, formula_templates())
    service = process_systemd.UNITS / "django-blog-listen.service"
    service.write_text("of an earlier version\n")
    systemd.asked.clear()
    systemd.state = "active"
    (left,) = listener.apply(site, formula_templates())
    assert "systemctl restart django-blog-listen.service" in left
    assert systemd.asked == ["daemon-reload"]
    assert service.read_text() == service_of(site) and listener.stale(site, formula_templates()) == {}
    assert listener.apply(listening("127.0.0.1:8000"), formula_templates()) == []
    assert systemd.asked[-2:] == ["start django-blog-listen.service", "enable --quiet django-blog-listen.socket"]


@pytest.mark.parametrize("last", ["daemon-reload", "stop", "start"])
def test_listener_that_was_killed_is_begun_anew(listening, systemd, monkeypatch, last):
    listener.apply(listening(), formula_templates())
    site, control = listening("127.0.0.1:8000"), listener.host_units.control
    systemd.state = "active"

    def kill(*arguments, **options):
        if arguments[0] == last:
            raise SystemExit
        return control(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(listener.host_units, "control", kill)
        with pytest.raises(SystemExit):
            listener.apply(site, formula_templates())
    socket = process_systemd.UNITS / "django-blog-listen.socket"
    assert listener.stale(site, formula_templates())[str(socket)] == "disabled"
    systemd.asked.clear()
    assert listener.apply(site, formula_templates()) == []
    assert "start django-blog-listen.socket" in systemd.asked and listener.stale(site, formula_templates()) == {}


def test_unit_starts_where_systemd_may_not_mount(listening, systemd, monkeypatch):
    """With DynamicUser it fails there with 226/NAMESPACE (systemd 257)."""
    site = listening()
    service = service_of(site)
    assert "\nDynamicUser=yes\n" in service and "\nUser=" not in service
    monkeypatch.setattr(sandbox, "refused", lambda _site: ["TemporaryFileSystem"])
    service = service_of(site)
    assert "\nUser=www-data\n" in service and "DynamicUser" not in service


def test_listener_is_removed_when_the_site_gets_a_proxy(listening, make_site, systemd):
    listener.apply(listening(), formula_templates())
    site = make_site()
    assert len(listener.stale(site, formula_templates())) == 3
    listener.remove(site)
    assert listener.present(site) == [] and systemd.asked[-1] == "daemon-reload"
    systemd.asked.clear()
    listener.remove(site)
    assert systemd.asked == []


@pytest.mark.parametrize("unit", ["socket", "service"])
@pytest.mark.parametrize("has_another", [True, False])
def test_listener_is_restored_when_systemd_cannot_start_it(listening, systemd, has_another, unit):
    if has_another:
        listener.apply(listening("127.0.0.1:8000"), formula_templates())
    before = texts()
    systemd.refuses = f"start django-blog-listen.{unit}"
    with pytest.raises(DeploymentError, match="it cannot"):
        listener.apply(listening(), formula_templates())
    assert texts() == before
    if has_another:
        assert systemd.asked[-1] == "restart django-blog-listen.socket"


def test_taken_port_or_host_without_systemd_is_refused(listening, systemd, monkeypatch):
    holder = Listener("python3", 7, "other.service")
    monkeypatch.setattr(ports, "listener", lambda port, **_options: holder if port == 8000 else None)
    with pytest.raises(DeploymentError, match=r"port 8000 is taken by python3 \(pid 7, other.service\)"):
        listener.refuse_impossible(listening())
    listener.refuse_impossible(listening("[::]:8001"))
    listener.apply(listening(), formula_templates())
    listener.refuse_impossible(listening())
    listener.refuse_impossible(listening("127.0.0.1:8000"))  # the same port, of which systemd changes the address
    monkeypatch.setattr(daemons, "has_systemd", lambda: False)
    with pytest.raises(DeploymentError, match=r"no systemd to listen on 0\.0\.0\.0:8000") as refused:
        listener.refuse_impossible(listening())
    assert "django:sites:blog:server:bind" in refused.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"server": {"kind": "mod_wsgi"}}, "server:kind — mod_wsgi has no socket"),
        ({"tls": {"kind": "self_signed"}}, "tls:kind — has no effect with proxy:kind: none"),
        ({"proxy": {"kind": "none", "allow": ["10.0.0.0/8"]}}, "proxy:allow — has no effect with proxy:kind: none"),
        ({"proxy": {"kind": "none", "limit_req": {"rate": "1r/s"}}}, "has no effect with proxy:kind: none"),
        ({"adopt": True}, "adopt — not supported with proxy:kind: none"),
    ],
)
def test_options_of_a_proxy_are_refused_without_one(options, said):
    site = {**three_keys("blog"), "proxy": {"kind": "none"}, **options}
    assert said in "".join(compiled({"blog": site})["errors"])


def test_two_sites_with_one_address_are_refused():
    sites = {
        name: {**three_keys(name), "proxy": {"kind": "none"}, "server": {"bind": f"0.0.0.0:{port}"}}
        for name, port in (("blog", 8000), ("shop", 8001), ("wiki", 8000))
    }
    (error,) = compiled(sites)["errors"]
    assert "sites:wiki:server:bind — port 8000 is taken by server:bind of site blog" in error
