"""The balancer of a host: its configuration as HAProxy gets it, and which releases let a host in."""

import functools
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from django_formula.balancer import check, plan, varnish
from django_formula.balancer import haproxy as balancer_haproxy
from django_formula.balancer import nginx as balancer_nginx
from django_formula.balancer import program as balancer_program
from django_formula.balancer.plan import Entry
from django_formula.host import commands, ports
from django_formula.host.commands import DeploymentError
from django_formula.host.template import haproxy_format, haproxy_value
from django_formula.kind.kinds import FILES
from django_formula.pillar import compiler
from django_formula.release import settings
from django_formula.site.sites import Site
from django_formula.tls import certificates
from specimen import GRAINS, contract, formula_templates, three_keys

ROOT = Path(__file__).parents[3]
RENDER = ROOT / "test/render/balancer"
COMMON = {
    "secret_key": "of-the-master-and-at-least-fifty-characters-so-that-it-is-good",
    "database": {"engine": "postgres", "host": "10.0.0.5", "password": "of the database"},
    "media": {"shared": False},
}
OLD, NEW = "a" * 40, "b" * 40
URLS = [*balancer_haproxy.TEMPLATES, *balancer_nginx.TEMPLATES]


BACKUP = {
    "web1": {"parts": ["app"], "address": "10.0.0.1"},
    "web2": {"parts": ["app"], "address": "10.0.0.2", "backup": True},
    "lb1": {"parts": ["balancer"], "address": "10.0.0.9"},
}


@functools.cache
def _sites() -> str:
    return (RENDER / "sites.yaml").read_text()


def compiled(sites: dict[str, Any], host: str = "lb1") -> dict[str, Any]:
    pillar = {"django": {"sites": {name: {**COMMON, **site} for name, site in sites.items()}}}
    schema, platforms = contract("schema.yaml"), contract("platforms.yaml")
    return compiler.compile(pillar, schema, platforms, {**GRAINS, "id": host})


def entries(sites: dict[str, Any]) -> dict[str, Entry]:
    result = compiled(sites)
    assert result["errors"] == [] and result["sites"] == {}
    return {
        name: plan.entry(Site(config, result["platform"]), "of-the-page") for name, config in result["balanced"].items()
    }


def templates() -> dict[str, str]:
    return {url: formula_templates()[url] for url in URLS}


def blog(commit: str = OLD, count: int = 1, **options: Any) -> dict[str, Entry]:
    site = {**yaml.safe_load(_sites())["blog"], "fleet": {"commit": commit, "sequence": 1, "count": count}, **options}
    return entries({"blog": site})


@pytest.fixture
def haproxy(own_host: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with HAProxy, whose configuration is never refused."""
    done: list[str] = []
    state = own_host / "var/lib/django-formula/balancer"
    monkeypatch.setattr(plan, "STATE", state)
    monkeypatch.setattr(varnish, "CONFIG", own_host / "etc/varnish/django.vcl")
    monkeypatch.setattr(varnish, "UNIT", own_host / "etc/systemd/system/django-varnish.service")
    monkeypatch.setattr(balancer_nginx, "UNIT", own_host / "etc/systemd/system/django-nginx.service")
    monkeypatch.setattr(check, "STATES", state / "hosts.json")
    monkeypatch.setattr(check, "SERVERS", own_host / "etc/nginx/django-balancer")
    monkeypatch.setattr(check, "PAGES", own_host / "run/django-nginx")
    monkeypatch.setattr(plan, "RECORD", state / "sites.json")
    monkeypatch.setattr(balancer_haproxy, "SERVERS", state / "haproxy.servers")
    monkeypatch.setattr(balancer_haproxy, "CONFIG", own_host / "etc/haproxy/django.cfg")
    monkeypatch.setattr(balancer_haproxy, "CERTIFICATES", own_host / "etc/haproxy/django.certificates")
    monkeypatch.setattr(balancer_haproxy, "UNIT", own_host / "etc/systemd/system/django-haproxy.service")
    monkeypatch.setattr(balancer_haproxy, "SOCKET", own_host / "run/django-haproxy/admin.sock")
    monkeypatch.setattr(balancer_haproxy, "start_or_reload", lambda: done.append("run"))
    monkeypatch.setattr(balancer_haproxy, "check", lambda _wanted: done.append("check"))
    monkeypatch.setattr(commands, "run", lambda argv, **_options: done.append(" ".join(argv)) or "")
    monkeypatch.setattr(plan.ports, "listener", lambda *_port, **_options: None)
    return done


def apply(entries: dict[str, Entry], gone: list[str]) -> dict[str, str]:
    return plan.apply(entries, gone, templates(), {})


def commits() -> Any:
    return json.loads(plan.RECORD.read_text())["sites"]["blog"]["commits"]


def test_check_has_the_header_by_which_a_host_passes_whose_visitors_wait() -> None:
    before, waits = blog()["blog"], blog(releases={"wait": "20s"})["blog"]
    assert waits["health"]["headers"] == {**before["health"]["headers"], "X-Django-Check": "blog"}
    assert waits["timeout"] == before["timeout"] + 20


def test_configuration_of_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole: UPDATE=1 writes what is rendered now, and the diff is the change to review."""
    monkeypatch.setattr(balancer_program, "IPV6", Path(__file__))
    rendered = balancer_haproxy.configuration_files(entries(yaml.safe_load(_sites())), templates())
    assert rendered.pop(varnish.CONFIG) is rendered.pop(varnish.UNIT) is None
    compare(rendered, RENDER)


def test_configuration_of_varnish(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site with it, and one of the same domain without."""
    monkeypatch.setattr(balancer_program, "IPV6", Path(__file__))
    found = entries(yaml.safe_load(_sites()))
    found["blog"]["memory"], found["shop"]["memory"] = "512M", "1G"
    found["shop"].update(challenge=True, others=["10.0.0.10", "[2001:db8::10]"])
    compare(balancer_haproxy.configuration_files(found, templates()), RENDER / "varnish")


def compare(rendered: Mapping[Path, str | None], folder: Path) -> None:
    for path, text in rendered.items():
        if os.environ.get("UPDATE"):
            folder.mkdir(exist_ok=True)
            (folder / path.name).write_text(text or "")
        assert text == (folder / path.name).read_text()


def of_nginx(found: dict[str, Entry]) -> dict[str, Entry]:
    """The same sites with nginx, which has no backup for visitors that it keeps on a host."""
    for site in found.values():
        site.update(kind="nginx", balance={"source": "leastconn"}.get(site["balance"], site["balance"]))
        site["sticky"] = site["challenge"] = site["name"] == "shop"
        site["others"] = ["10.0.0.10", "[2001:db8::10]"]
    return found


def test_configuration_of_nginx(haproxy: list[str], own_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer_program, "IPV6", Path(__file__))
    monkeypatch.setattr(balancer_nginx.nginx, "version", lambda: (1, 22, 1))
    rendered = balancer_nginx.configuration_files(of_nginx(entries(yaml.safe_load(_sites()))), templates())
    texts = {
        path: re.sub(r"(?m)^# Program: .*", "# Program: …", text or "").replace(f"{own_host}/", "/")
        for path, text in rendered.items()
    }
    compare(texts, RENDER / "nginx")


PATHS = {"path": "/blog", "domains": ["blog.example.org"], "redirect_domains": ["old.example.org"]}


def test_challenges_of_a_site_with_a_path_are_answered() -> None:
    tls = {"kind": "acme", "email": "ops@example.org"}
    text = balancer_haproxy.configuration_files(blog(**PATHS, tls=tls), templates())[balancer_haproxy.CONFIG] or ""
    lines = [line.strip() for line in text.partition("frontend django-80\n")[2].splitlines()]
    path = "{ path_beg /.well-known/acme-challenge/ }"
    asked = lines.index(f"http-request set-var(txn.challenge) bool(true) if domain-blog {path}")
    refused = "http-request deny deny_status 404 unless { var(txn.site) -m found } or { var(txn.challenge) -m bool }"
    assert asked < lines.index(refused)


def test_each_path_of_a_domain_that_redirects_to_a_site_with_a_path_reaches_a_host(haproxy: list[str]) -> None:
    found = blog(**PATHS)
    text = balancer_haproxy.configuration_files(found, templates())[balancer_haproxy.CONFIG] or ""
    assert "    acl path-blog var(txn.host) -m str old.example.org\n" in text
    text = balancer_nginx.configuration_files(of_nginx(found), templates())[balancer_nginx.CONFIG] or ""
    servers = dict(re.findall(r"(?s)server_name (\S+);\n(.*?)\n    }\n", text))
    assert re.findall(r"location (.*) \{", servers["old.example.org"]) == ["/"]
    assert "proxy_pass http://django-blog;" in servers["old.example.org"]
    assert re.findall(r"location (.*) \{", servers["blog.example.org"]) == ["/", "= /blog", "/blog/"]


@pytest.mark.parametrize(
    ("value", "expected", "as_format"),
    [("plain", "'plain'", "'plain'"), ("it's", "'it'\\''s'", "'it'\\''s'"), ('5% "$X"', "'5% \"$X\"'", "'5%% \"$X\"'")],
)
def test_values_are_quoted_for_haproxy(value: str, expected: str, as_format: str) -> None:
    assert (haproxy_value(value), haproxy_format(value)) == (expected, as_format)
    with pytest.raises(ValueError, match="cannot be written to HAProxy"):
        haproxy_value(f"{value}\n    server evil 192.0.2.1:80")


NASTY = [
    "'",
    '"',
    "\\",
    "a'b\\",
    "$HOME",
    "${HOME}",
    "%[src]",
    "# c",
    "a # b",
    "'; daemon",
    "%",
    "%%",
    "{a}",
    "[a]",
    "a,b",
]


@pytest.mark.parametrize("value", [*NASTY, *(f"{one} {one}" for one in NASTY)])
def test_values_stay_one_word_of_haproxy(value: str) -> None:
    """HAProxy reads a text in single quotes as it is, and ends it at the next one."""
    word = haproxy_value(value)
    assert shlex.split(word) == [value] and word[0] == word[-1] == "'"
    configuration = {
        "health": {"path": "/x", "contains": value, "headers": {"X-One": value}},
        "balancer": {"status": {"password": "of-the-page"}},
    }
    (site,) = blog(**configuration).values()
    site["status"]["password"] = value
    text = balancer_haproxy.configuration_files({"blog": site}, templates())[balancer_haproxy.CONFIG] or ""
    lines = [shlex.split(line) for line in text.splitlines() if " string " in line or "insecure" in line]
    assert lines == [["user", "ops", "insecure-password", value], ["http-check", "expect", "string", value]]
    (sent,) = [shlex.split(line) for line in text.splitlines() if "X-One" in line]
    assert sent[-2:] == ["X-One", value.replace("%", "%%")]


@pytest.mark.parametrize("value", NASTY)
def test_check_for_a_text_passes_a_host_whose_visitors_wait(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    (site,) = blog(releases={"wait": "20s"}, health={"contains": value}).values()
    text = balancer_haproxy.configuration_files({"blog": site}, templates())[balancer_haproxy.CONFIG] or ""
    line = [line for line in text.splitlines() if "expect rstring" in line][-1]  # the first one is that of the commit
    pattern = re.compile(shlex.split(line)[3].replace("[[:space:]]", r"\s"))
    for body, passes in ((f"<{value}>", True), ("requests wait\n", True), ("requests wait for it", False), ("", False)):
        monkeypatch.setattr(check, "_get", lambda *_about, body=body: (200, body.encode()))
        assert bool(pattern.search(body)) == passes == (not check._ill(site, site["servers"][0])), body


def test_second_apply_changes_nothing_and_the_last_site_takes_all_files_with_it(haproxy: list[str]) -> None:
    config, unit = balancer_haproxy.CONFIG, balancer_haproxy.UNIT
    assert set(plan.planned(blog(), [], templates()).changes) == {str(config), str(unit)}
    assert not config.exists() and haproxy == []
    assert apply(blog(), []) and "run" in haproxy
    assert config.stat().st_mode & 0o777 == 0o600 and plan.RECORD.stat().st_mode & 0o777 == 0o600
    haproxy.clear()
    assert apply(blog(), []) == {} and haproxy == []
    assert apply({}, []) == {}  # a site that the pillar no longer names stays
    assert apply({}, ["blog"]).keys() == {str(config), str(unit)}
    assert not any(path.exists() for path in (config, unit, plan.STATE))
    assert apply({}, ["blog"]) == {}


def test_folders_of_a_client_of_acme_are_removed_with_the_domain(haproxy: list[str]) -> None:
    apply(entries({"shop": yaml.safe_load(_sites())["shop"]}), [])
    account = certificates.STATE / "acme/0123"
    folders = [account / "shop.example.org", account / "private/shop.example.org"]  # as uacme makes them
    for folder in (certificates.STATE / "certificates", *folders):
        folder.mkdir(parents=True, exist_ok=True)
    (folders[1] / "key.pem").write_text("key")
    certificates.path_of("shop.example.org").write_text("key and chain")
    apply({}, ["shop"])
    assert certificates.belongings("shop.example.org") == [] and account.exists()


@pytest.mark.parametrize("left", [[], ["blog"]])
def test_renewal_that_began_before_an_apply_installs_no_certificate_of_a_site_that_is_gone(
    haproxy: list[str], left: list[str]
) -> None:
    sites = entries({name: yaml.safe_load(_sites())[name] for name in ("blog", "shop")})
    apply(sites, [])
    apply({name: sites[name] for name in left}, ["shop"])
    (certificates.STATE / "certificates").mkdir(parents=True, exist_ok=True)
    haproxy.clear()
    plan.change_certificates({certificates.path_of("shop.example.org"): "key and chain"})
    assert certificates.belongings("shop.example.org") == [] and haproxy == []


@pytest.mark.parametrize(("length", "size"), [(16, 128), (110, 128), (111, 256), (240, 512)])
def test_nginx_has_room_for_the_longest_name(haproxy: list[str], length: int, size: int) -> None:
    """By ngx_hash.h a bucket has the name, its length and two pointers, and nginx refuses a table without room."""
    name = ".".join(["a" * 60] * 4)[-length:]
    sites = blog(balancer={"kind": "nginx"}, domains=["blog.example.org", name])
    text = balancer_nginx.configuration_files(sites, templates())[balancer_nginx.CONFIG] or ""
    assert f"server_name {name};" in text and f"server_names_hash_bucket_size {size};" in text


def test_hosts_that_are_all_backups_are_none_for_nginx() -> None:
    hosts = {**BACKUP, "web1": {**BACKUP["web1"], "backup": True}}
    only, mixed = (blog(balancer={"kind": "nginx"}, hosts=one)["blog"] for one in (hosts, BACKUP))
    assert " backup" not in check.servers(only, {}) and check.servers(mixed, {}).count(" backup") == 1


def test_late_check_does_not_take_out_a_host_that_is_back_from_maintenance(
    haproxy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = blog(balancer={"kind": "nginx"})
    check.STATES.parent.mkdir(parents=True)
    monkeypatch.setattr(check, "_get", lambda *_: (200, OLD.encode()))
    check.set_state(sites, "blog", "web1", "maint")
    late = check.ask(sites, check.states())  # of the timer, which holds no lock meanwhile
    check.set_state(sites, "blog", "web1", "ready")
    check.keep(sites, check.ask(sites, check.states()))
    known = check.states()["blog"]["web1"]
    assert known["is_up"]
    check.keep(sites, late)
    assert check.states()["blog"]["web1"] == known and " down" not in check.servers(sites["blog"], check.states())


def test_headers_that_the_hosts_take_and_send_fit_for_haproxy() -> None:
    """By default it answers with 400 or 502 where those of a request or a response have more than 15k."""
    text = balancer_haproxy.configuration_files(blog(), templates())[balancer_haproxy.CONFIG] or ""
    (of_hosts,) = {*re.findall(r"buffer_size': '(\d+)k'", formula_templates()[f"{FILES}nginx/locations.conf"])}
    (size,) = re.findall(r"(?m)^    tune\.bufsize (\d+)$", text)
    assert int(size) > (int(of_hosts) + 1) * 1024  # for what is added to them


def test_host_name_with_a_dot_at_its_end_is_known_to_haproxy() -> None:
    """A client may send the whole name of DNS, which nginx and Django take for the same."""
    text = balancer_haproxy.configuration_files(blog(), templates())[balancer_haproxy.CONFIG] or ""
    found = re.findall(
        r"set-var\(txn\.host\) req\.hdr\(host\),field\(1,:\),lower,regsub\((\S+),\)$", text, re.MULTILINE
    )
    assert found and {re.sub(pattern, "", name) for pattern in found for name in ("a.b.", "a.b")} == {"a.b"}


def test_each_place_of_haproxy_has_a_name_of_its_own() -> None:
    listen = [80, "192.0.2.1:8080", "[2001:db8::1]:8080", "[2001:db8:1::]:8080"]
    text = balancer_haproxy.configuration_files(blog(balancer={"listen": listen}), templates())[balancer_haproxy.CONFIG]
    names = re.findall(r"(?m)^frontend (\S+)$", text or "")
    assert len({*names}) == len(listen) and all(re.fullmatch(r"django-[0-9a-z-]+", name) for name in names)


def test_own_ports_are_known_where_root_cannot_see_whose_they_are(
    haproxy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container with default capabilities the process that listens is unknown, the running balancer's too."""
    unknown = ports.Listener("", 0, "")
    monkeypatch.setattr(plan.daemons, "is_running", lambda _daemon: True)
    apply(blog(), [])
    monkeypatch.setattr(plan.ports, "listener", lambda *_port, **_options: unknown)
    assert apply(blog(balancer={"balance": "source"}), [])
    with pytest.raises(DeploymentError, match="port 81 is taken by an unknown process"):
        apply(blog(balancer={"listen": [80, 81]}), [])
    monkeypatch.setattr(plan.daemons, "is_running", lambda _daemon: False)
    with pytest.raises(DeploymentError, match="port 80 is taken by an unknown process"):
        apply(blog(balancer={"balance": "leastconn"}), [])


def test_file_that_the_formula_did_not_write_is_not_overwritten(haproxy: list[str]) -> None:
    balancer_haproxy.CONFIG.parent.mkdir(parents=True)
    balancer_haproxy.CONFIG.write_text("global\n")
    with pytest.raises(DeploymentError, match="was not written by this formula"):
        apply(blog(), [])
    assert balancer_haproxy.CONFIG.read_text() == "global\n" and haproxy == []


def test_everything_is_as_before_when_haproxy_does_not_run_with_it(
    haproxy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(blog(), [])
    before = balancer_haproxy.CONFIG.read_text()

    def refused() -> None:
        raise DeploymentError("it keeps its old configuration")

    monkeypatch.setattr(balancer_haproxy, "start_or_reload", refused)
    with pytest.raises(DeploymentError, match="keeps its old"):
        apply(blog(balancer={"balance": "source"}), [])
    assert balancer_haproxy.CONFIG.read_text() == before


def test_what_a_killed_process_has_written_is_read_by_the_next_one(
    haproxy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a change of commits too: the hosts of the new release would get no requests."""
    apply(blog(), [])
    killed: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (other := lambda: apply(blog(balancer={"balance": "source"}), []), other),
        (expect := lambda: plan.expect("blog", [NEW]), expect),
        (lambda: plan.change_certificates({}), plan.catch_up),
    ]
    for call, again in killed:
        child = os.fork()
        if not child:
            balancer_haproxy.start_or_reload = lambda: os._exit(9)
            call()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        haproxy.clear()
        again()
        again()
        assert haproxy.count("run") == 1
    monkeypatch.setattr(balancer_haproxy, "start_or_reload", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        apply(blog(), [])
    assert plan.planned(plan.recorded(), [], templates()).changes == {}


@pytest.fixture
def nginx(haproxy: list[str], own_host: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done where nginx takes the place of HAProxy, which has web1 drained."""
    apply(blog(), [])
    haproxy.clear()
    program = balancer_nginx
    for name, path in (("CONFIG", "nginx/django-balancer.conf"), ("CHECKS", "c.service"), ("TIMER", "c.timer")):
        monkeypatch.setattr(program, name, own_host / "etc" / path)
    for name in ("check", "prepare", "start_or_reload", "set_state", "ask_hosts"):
        monkeypatch.setattr(
            program,
            name,
            lambda *arguments, name=name: haproxy.append(" ".join(["nginx", name, *map(str, arguments[1:])])),
        )
    monkeypatch.setattr(program.nginx, "version", lambda: (1, 22, 1))
    seen = {"web1": {"state": "drain"}, "web2": {"state": "ready"}}
    monkeypatch.setattr(balancer_haproxy, "servers", lambda _site: seen)
    monkeypatch.setattr(ports, "listening", lambda _host="": {})
    for name in ("start", "stop"):
        monkeypatch.setattr(
            plan.daemons,
            name,
            lambda daemon, name=name: haproxy.append(f"{name} {daemon.service}"),
        )
    return haproxy


def test_another_kind_is_ready_before_the_former_gives_up_its_ports(nginx: list[str]) -> None:
    other = blog(balancer={"kind": "nginx"})
    said = "nginx instead of HAProxy: new connections are refused for up to a second"
    assert plan.planned(other, [], templates()).changes["balancer:kind"] == said and nginx == []
    assert apply(other, [])["balancer:kind"] == said
    assert nginx == [
        "nginx check",
        "systemctl daemon-reload",
        "nginx prepare",
        "systemctl stop --no-block django-haproxy.service",
        "nginx start_or_reload",
        "stop django-haproxy",
        "systemctl daemon-reload",
        "nginx set_state blog web1 drain",
        "nginx ask_hosts",
    ]
    assert not balancer_haproxy.CONFIG.exists() and apply(other, []) == {}


def test_another_kind_that_does_not_start_leaves_the_former_one(
    nginx: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise DeploymentError("it does not start")

    monkeypatch.setattr(balancer_nginx, "start_or_reload", refused)
    with pytest.raises(DeploymentError, match="it does not start\nthe balancer keeps its running configuration"):
        apply(blog(balancer={"kind": "nginx"}), [])
    assert nginx[-1] == "start django-haproxy"
    assert balancer_haproxy.CONFIG.exists() and not balancer_nginx.UNIT.exists()
    assert plan.recorded()["blog"]["kind"] == "haproxy" and apply(blog(), []) == {}


def test_password_is_in_no_change(haproxy: list[str]) -> None:
    apply(blog(), [])
    changes = apply(blog(balancer={"status": {"password": "of-the-page"}}), [])
    assert "insecure-password **********" in str(changes) and "of-the-page" not in str(changes)
    assert "'of-the-page'" in balancer_haproxy.CONFIG.read_text()


def test_commits_of_a_deployment_outlast_applies_until_the_master_has_another(haproxy: list[str]) -> None:
    apply(blog(), [])
    assert commits() == [OLD]
    assert plan.expect("blog", [OLD, NEW])
    assert f"^({OLD}|{NEW})" in balancer_haproxy.CONFIG.read_text()
    assert not plan.expect("blog", [OLD, NEW])
    apply(blog(OLD, 1), [])
    assert commits() == [OLD, NEW]
    plan.expect("blog", [NEW], 2)
    apply(blog(OLD, 1), [])  # a pillar that was compiled before the switch
    assert commits() == [NEW]
    plan.expect("blog", [OLD], 3)  # a rollback
    apply(blog(NEW, 2), [])  # a pillar that was compiled before it, of a release that no apply has had
    assert commits() == [OLD]
    apply(blog(NEW, 4), [])  # a deployment while this balancer was down
    assert commits() == [NEW]
    plan.expect("blog", [OLD], 1)  # of a new store
    apply(blog(NEW, 2), [])
    assert commits() == [NEW]
    plan.expect("blog", [])
    assert "/.django-release" not in balancer_haproxy.CONFIG.read_text()


def test_verbs_name_what_is_wrong(haproxy: list[str]) -> None:
    with pytest.raises(DeploymentError, match="does not balance blog\nit balances none"):
        plan.expect("blog", [NEW])
    apply(blog(), [])
    with pytest.raises(DeploymentError, match="does not balance shop\nit balances blog"):
        plan.backend("shop", None, "state")
    with pytest.raises(DeploymentError, match=r"web9 is no host of blog .*\nuse web1, web2"):
        plan.backend("blog", "web9", "drain")
    with pytest.raises(DeploymentError, match="None is no host"):
        plan.backend("blog", None, "drain")
    with pytest.raises(DeploymentError, match="off is no state"):
        plan.backend("blog", "web1", "off")
    with pytest.raises(DeploymentError, match="expected whole commits"):
        plan.expect("blog", ["main"])
    with pytest.raises(DeploymentError, match=r"django-haproxy does not answer on .*admin.sock"):
        plan.backend("blog", "web1", "drain")


def test_balancer_has_the_certificates_of_a_site_and_its_hosts_know_of_https() -> None:
    site = yaml.safe_load(_sites())["shop"]
    result = compiled({"shop": site}, "web1")
    app = Site(result["sites"]["shop"], result["platform"])
    assert app.config["tls"]["kind"] == "none" and (app.https, app.listens_tls) == ([], [])
    assert (app.scheme, settings.origins(app)) == ("https", ["https://shop.example.org"])
    files = {"kind": "files", "certificate": "sdb://vault/certificate", "key": "sdb://vault/key"}
    site["tls"] = files
    assert compiled({"shop": site}, "web1")["sites"]["shop"]["tls"]["key"] is None
    assert compiled({"shop": site})["balanced"]["shop"]["tls"]["key"] == {"pillar": "django:sites:shop:tls:key"}


def test_place_of_http_and_of_https_is_refused() -> None:
    sites = entries({name: yaml.safe_load(_sites())[name] for name in ("blog", "shop")})
    sites["blog"]["listen"] = [443]
    with pytest.raises(DeploymentError, match="443 is for http of blog and for https of shop"):
        balancer_haproxy.configuration_files(sites, templates())


def test_balancer_may_ask_for_the_health_of_a_site_that_is_not_for_everybody() -> None:
    site = {**yaml.safe_load(_sites())["blog"], "proxy": {"allow": ["192.0.2.0/24"]}}
    app = compiled({"blog": site}, "web1")["sites"]["blog"]
    assert app["proxy"]["allow"] == ["192.0.2.0/24", "10.0.0.9"] and app["maintenance"]["allow"] == ["10.0.0.9"]


def test_balancer_needs_no_secret_of_the_site() -> None:
    """The master gives the secret key to the hosts that serve the site only."""
    site = {**yaml.safe_load(_sites())["blog"], "secret_key": None}
    assert compiled({"blog": site})["errors"] == []
    assert [line.split(" — ")[0] for line in compiled({"blog": site}, "web1")["errors"]] == [
        "django:sites:blog:secret_key"
    ]


def test_pillar_of_the_guide_is_valid() -> None:
    (block,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", (ROOT / "docs/guides/balancer.md").read_text())
    site = yaml.safe_load(block)["django"]["sites"]["blog"]
    known = {"commit": OLD, "addresses": {"web1": "10.0.0.1", "web2": "10.0.0.2", "lb1": "10.0.0.9"}}
    result = compiled({"blog": {**site, "fleet": known}})
    assert result["errors"] == [] and result["balanced"]["blog"]["balancer"]["balance"] == "leastconn"


@pytest.mark.parametrize(
    ("options", "key", "problem"),
    [
        ({"tls": {"kind": "acme"}, "balancer": {"listen": [8080]}}, "balancer:listen", "expected port 80 among them"),
        ({"tls": {"kind": "self_signed", "listen": [80]}}, "balancer:listen", "other ports than those of tls:listen"),
        ({"proxy": {"kind": "none"}}, "proxy:kind", "set proxy:kind to nginx"),
        ({"proxy": {"kind": "apache"}}, "proxy:kind", "set proxy:kind to nginx"),
        ({"balancer": {"kind": "traefik"}}, "balancer:kind", "expected one of haproxy, nginx, varnish"),
        (
            {"balancer": {"kind": "nginx", "sticky": True, "balance": "leastconn"}},
            "balancer:balance",
            "by nginx with sticky",
        ),
        (
            {"balancer": {"kind": "nginx", "balance": "source"}, "hosts": BACKUP},
            "hosts:web2:backup",
            "not supported by nginx",
        ),
        ({"balancer": {"kind": "varnish", "sticky": True}}, "balancer:sticky", "not supported by varnish"),
        ({"balancer": {"memory": "1G"}}, "balancer:memory", "has no effect without balancer:kind: varnish"),
        ({"balancer": {"status": {}}}, "balancer:status:password", "missing"),
        (
            {
                "tls": {"kind": "self_signed", "client_ca": "/etc/ssl/clients.pem"},
                "proxy": {"trusted": ["10.0.0.0/8"]},
            },
            "proxy:trusted",
            "only balancers verify it: remove 10.0.0.0/8",
        ),
        ({"hosts": {"web1": ["app"]}, "balancer": {"sticky": True}}, "balancer", "no effect without a host with the"),
    ],
)
def test_what_a_balancer_cannot_do_is_refused(options: dict[str, Any], key: str, problem: str) -> None:
    errors = compiled({"blog": {**yaml.safe_load(_sites())["blog"], **options}})["errors"]
    assert any(line.startswith(f"django:sites:blog:{key} — ") and problem in line for line in errors), errors


@pytest.mark.parametrize(("host", "verifies"), [("web1", False), ("lb1", True)])
def test_balancer_verifies_clients_and_hosts_accept_the_subject_from_it(host, verifies):
    hosts = {"web1": {"parts": ["app"], "address": "10.0.0.1"}, "lb1": {"parts": ["balancer"], "address": "10.0.0.9"}}
    tls = {"kind": "self_signed", "client_ca": "/etc/ssl/clients.pem", "verify": "optional"}
    site = {**three_keys(), **COMMON, "hosts": hosts, "tls": tls}
    pillar = {"django": {"sites": {"blog": site}}}
    rules = [contract(name) for name in ("schema.yaml", "platforms.yaml")]
    result = compiler.compile(pillar, *rules, {**GRAINS, "id": host})
    site = (result["sites"] | result["balanced"])["blog"]
    assert result["errors"] == [] and "10.0.0.9" in site["proxy"]["trusted"]
    assert site["proxy"]["trusted_headers"] == ([] if verifies else ["SSL-Client-S-DN"])
    assert site["tls"]["client_ca"] == (tls["client_ca"] if verifies else None)


@pytest.mark.parametrize(
    ("number", "said"),
    [(2, "\n  the line: timeout server 5x"), (3, ""), (4, ""), (9, "")],
    ids=["", "password", "header", "beyond"],
)
def test_line_that_a_balancer_refuses_is_shown_unless_it_may_have_a_secret(tmp_path, number, said):
    lines = [
        "a",
        "  timeout server 5x",
        "  user ops insecure-password x",
        '  http-check send hdr Authorization "Bearer x"',
    ]
    (tmp_path / "django.cfg").write_text("\n".join([*lines, ""]))
    error = DeploymentError(
        "haproxy -c failed", log=f"[ALERT] : config : [{tmp_path}/django.cfg:{number}] : unexpected\n"
    )
    found = balancer_program.refused("HAProxy", error, r"config : (.*)", str(tmp_path), Path("/etc/haproxy"))
    where = f"[/etc/haproxy/django.cfg:{number}] : unexpected"
    assert found.message == f"HAProxy refuses its new configuration: {where}{said}"
