"""From pillar to configuration, or to errors: cases are data, in pillar_errors.yaml and in the folders of test/render.

UPDATE=1 writes what is rendered now into test/render; the diff is then the change to review.
"""

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import django_pillar_render
import pytest
import yaml
from django_formula.deploy import order
from django_formula.kind import kinds
from django_formula.pillar import check, compiler, parts
from django_formula.server import servers

ROOT = Path(__file__).parents[3]
SCHEMA = yaml.safe_load((ROOT / "django/schema.yaml").read_text())
PLATFORMS = yaml.safe_load((ROOT / "django/platforms.yaml").read_text())
GRAINS = {"os_family": "Debian", "osmajorrelease": 12, "init": "systemd", "id": "web1"}
SITE = {"repository": "https://git.example.org/blog.git", "revision": "main", "domains": ["blog.example.org"]}


class Cases(yaml.SafeLoader):
    """YAML in which long text is written short."""


Cases.add_constructor("!repeat", lambda loader, node: str.__mul__(*loader.construct_sequence(node)))
Cases.add_constructor("!join", lambda loader, node: "".join(loader.construct_sequence(node, deep=True)))
ERRORS = yaml.load((ROOT / "test/engine/pillar_errors.yaml").read_text(), Loader=Cases)
RENDERED = sorted(path.parent for path in (ROOT / "test/render").glob("*/pillar.yaml"))
DEFAULTS = ROOT / "test/render/three-keys"


def compiled(pillar: Any, grains: dict[str, Any] | None = None, platforms: Any = PLATFORMS) -> dict[str, Any]:
    return compiler.compile(pillar, SCHEMA, platforms, grains or GRAINS)


def site(**options: Any) -> dict[str, Any]:
    """The configuration of a site of three keys and these."""
    result = compiled({"django": {"sites": {"blog": {**SITE, **options}}}})
    assert result["errors"] == []
    configuration: dict[str, Any] = result["sites"]["blog"]
    return configuration


@pytest.mark.parametrize("case", [pytest.param(case, id=case["case"]) for case in ERRORS])
def test_wrong_pillar_is_reported_line_by_line(case: dict[str, Any]) -> None:
    pillar = case.get("pillar", {"django": {"sites": {"blog": {**SITE, **case.get("site", {})}}}})
    result = compiled(pillar, case.get("grains"))
    assert result["errors"] == case["errors"]
    assert result["sites"] == result["absent"] == {}
    assert "hunter2" not in "".join(result["errors"])
    assert all("\n" not in line for line in result["errors"])


@pytest.mark.parametrize("name", [*kinds.OF_SITE, "cache_pages", "memcached_pages"])
def test_worker_with_the_name_of_a_unit_of_the_site_is_refused(name: str) -> None:
    assert kinds.is_of_site(name)
    result = compiled({"django": {"sites": {"blog": {**SITE, "workers": {name: {"kind": "rq"}}}}}})
    assert result["errors"] == [f"django:sites:blog:workers:{name} — refused: the formula uses this name"]


def test_kinds_of_pushes_stores_and_workers_are_those_of_the_schema() -> None:
    pushes = SCHEMA["$defs"]["site"]["properties"]["static"]["properties"]["push"]["properties"]
    assert [*kinds.PUSHES] == pushes["kind"]["enum"]
    assert [*kinds.STORES, None] == SCHEMA["$defs"]["store"]["properties"]["engine"]["enum"]
    assert [*kinds.WORKERS, None] == SCHEMA["$defs"]["worker"]["properties"]["kind"]["enum"]


def changes(value: Any, default: Any) -> Any:
    """Return what of a value differs from a default, as a JSON merge patch (RFC 7396): null for a key that is gone."""
    if not (isinstance(value, dict) and isinstance(default, dict)):
        return value
    changed = {key: changes(one, default[key]) if key in default else one for key, one in value.items()}
    kept = {key: one for key, one in changed.items() if key not in default or value[key] != default[key]}
    return kept | dict.fromkeys(default.keys() - value.keys())


@pytest.mark.parametrize("folder", RENDERED, ids=lambda folder: folder.name)
def test_pillar_compiles_to_the_recorded_configuration(folder: Path) -> None:
    """A case keeps what differs from three-keys, which is kept whole: the defaults."""
    expected = folder / "configuration.json"
    result = compiled(yaml.safe_load((folder / "pillar.yaml").read_text()))
    assert result.pop("steps") == {name: order.states(one) for name, one in result["sites"].items()}
    if folder != DEFAULTS:
        default = compiled(yaml.safe_load((DEFAULTS / "pillar.yaml").read_text()))
        del default["steps"]
        sites = {name: changes(one, default["sites"]["blog"]) for name, one in result["sites"].items()}
        result = {**changes(result, default), "sites": sites}
    rendered = json.dumps(result, indent=2, sort_keys=True)
    if os.environ.get("UPDATE"):
        expected.write_text(f"{rendered}\n")
    assert f"{rendered}\n" == expected.read_text()


def test_platform_overrides_the_schema_and_is_overridden_by_defaults() -> None:
    platforms = {
        "Debian": {"defaults": {"python": "python3.9", "check": "deploy"}, "nginx": {"group": "www-data", "user": "x"}},
        "Debian-12": {"defaults": {"python": "python3.11"}, "nginx": {"user": "www-data"}},
    }
    shop = {**SITE, "domains": ["shop.example.org"], "python": None}
    pillar = {"django": {"defaults": {"check": "error"}, "sites": {"blog": SITE, "shop": shop}}}
    result = compiled(pillar, platforms=platforms)
    assert result["errors"] == []
    assert result["platform"]["nginx"] == {"group": "www-data", "user": "www-data"}
    assert [(name, result["sites"][name]["python"], result["sites"][name]["check"]) for name in ("blog", "shop")] == [
        ("blog", "python3.11", "error"),
        ("shop", "python3", "error"),
    ]


@pytest.mark.parametrize(
    ("said", "init", "expected"),
    [
        *[(None, "systemd", "systemd"), ("auto", "systemd", "systemd"), ("systemd", "systemd", "systemd")],
        *[(None, "unknown", "supervisor"), ("auto", "runit", "supervisor"), ("auto", None, "supervisor")],
        *[("supervisor", "systemd", "supervisor"), ("supervisor", "unknown", "supervisor")],
    ],
)
def test_process_manager_is_systemd_where_it_is_pid_1(said: str | None, init: str | None, expected: str) -> None:
    pillar = {"django": {"process": said, "sites": {"blog": SITE, "shop": {"state": "absent"}}}}
    result = compiled(pillar, {**GRAINS, "init": init})
    assert (result["errors"], result["process"]) == ([], expected)
    assert [result[key][name]["process"] for key, name in (("sites", "blog"), ("absent", "shop"))] == [expected] * 2


def test_name_of_a_database_defaults_to_the_site_and_the_alias() -> None:
    databases = {"default": {"engine": "postgres"}, "metrics": {"engine": "postgres"}}
    named = site(databases={**databases, "log": {"engine": "mysql", "host": "db2", "name": "events"}})["databases"]
    assert {alias: database["name"] for alias, database in named.items()} == {
        "default": "blog",
        "metrics": "blog_metrics",
        "log": "events",
    }


def test_variables_of_a_project_may_begin_with_ld() -> None:
    environment = {"LD_ENABLE_SEARCH": "True", "LD_SUPERUSER_NAME": "ada", "LISTEN_PORT": 80}
    assert site(environment=environment)["environment"] == {**environment, "LISTEN_PORT": "80"}


@pytest.mark.parametrize("login", ["ci:canary", "ci:can@ary", "canary", "ci:can@ary@"])
def test_login_of_a_wrong_url_is_not_shown(login: str) -> None:
    assert check.shown(f"https://{login}@git.example.org/blog") == '"https://…@git.example.org/blog" (string)'


def test_no_secret_is_in_the_configuration() -> None:
    secrets = {"A": "canary-a", "B": {"value": "canary-b", "as": "file"}}
    key = "-----BEGIN PRIVATE KEY-----\ncanary-c\n-----END PRIVATE KEY-----\n"
    configuration = site(secrets=secrets, deploy_key=key, secret_key="canary-d" * 5)
    assert "canary" not in json.dumps(configuration)
    assert configuration["secrets"]["B"]["value"] == {"pillar": "django:sites:blog:secrets:B:value"}


def test_compilation_changes_neither_pillar_nor_schema() -> None:
    pillar = yaml.safe_load((ROOT / "test/render/everything/pillar.yaml").read_text())
    before = json.dumps([pillar, SCHEMA, PLATFORMS])
    result = compiled(pillar)
    result["sites"]["blog"]["settings"]["NUMBERS"].append(1)
    result["sites"]["blog"]["proxy"]["listen"].append(1)
    assert json.dumps([pillar, SCHEMA, PLATFORMS]) == before


def test_fifty_sites_cost_no_more_for_each_than_one() -> None:
    def cost(sites: int) -> float:
        names = [f"blog-{number}" for number in range(sites)]
        pillar = {"django": {"sites": {name: {**SITE, "domains": [f"{name}.example.org"]} for name in names}}}
        times = []
        for _ in range(5):
            start = time.process_time()
            assert compiled(pillar)["errors"] == []
            times.append(time.process_time() - start)
        return min(times)

    assert cost(50) < 100 * cost(1)


class Renderer:
    """Salt's renderers: a Python file becomes a new module, in sys.modules while its run() is called.

    On a minion they are asked for the first file alone; the others are read from Salt's cache.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str):
        self.monkeypatch = monkeypatch
        self.salt: dict[str, Any] = {"slsutil.renderer": self, "cp.cache_file": self.cached}
        if where == "salt-ssh":
            self.salt["no_such_module"] = None
        self.reads: list[str] = []
        self.pillar: dict[str, Any] = {}

    def __call__(self, path: str, default_renderer: str, saltenv: str) -> Any:
        assert saltenv == "base"
        self.reads.append(path)
        file = ROOT / path.removeprefix("salt://")
        if default_renderer == "yaml":
            return yaml.safe_load(file.read_text())
        module = ModuleType(file.stem)
        module.__file__ = str(file)
        exec(compile(file.read_text(), file.name, "exec"), module.__dict__)
        self.monkeypatch.setitem(sys.modules, file.stem, module)
        vars(module).update(__pillar__=self.pillar, __grains__=GRAINS, __salt__=self.salt, saltenv=saltenv)
        vars(module).update(__opts__={"cachedir": "/dev/null/none"})
        return module.run()

    def cached(self, path: str, saltenv: str) -> str:
        assert saltenv == "base" and "no_such_module" not in self.salt
        self.reads.append(path)
        return str(ROOT / path.removeprefix("salt://"))


Render = Callable[[dict[str, Any]], tuple[dict[str, Any], list[str]]]


@pytest.fixture(params=["minion", "salt-ssh"])
def rendered(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Render:
    """Return what compiles a pillar as map.jinja does, and the files that Salt read for it."""
    renderer = Renderer(monkeypatch, request.param)

    def render(pillar: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        renderer.pillar = pillar
        renderer.reads.clear()
        result = renderer("salt://django/django_pillar_render.py", "py", "base")
        return result, renderer.reads[1:]

    return render


def test_the_engine_is_read_once_for_one_pillar(rendered: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "django_pillar_render", raising=False)
    files = [django_pillar_render.ENGINE]
    pillar = {"django": {"sites": {"blog": SITE}}}
    first, reads = rendered(pillar)
    assert reads == files
    assert {name: value for name, value in first.items() if name not in ("parts", "order")} == compiled(pillar)
    again, nothing = rendered(pillar)
    assert (again, nothing) == (first, []) and again["parts"]["site"] is not first["parts"]["site"]
    changed, reads = rendered({"django": {"sites": {"shop": SITE}}})
    assert [*changed["sites"], *reads] == ["shop", *files]


# The hosts of a site


FLEET = {
    "secret_key": "of-the-master-and-at-least-twenty-characters",
    "database": {"engine": "postgres", "host": "10.0.0.5", "name": "blog", "user": "blog", "password": "hunter2"},
    "media": {"shared": False},
    "schedules": {"clean": {"command": "clearsessions", "at": "daily"}},
}
KNOWN = {"web1": "10.0.0.1", "web2": "10.0.0.2", "lb1": "10.0.0.9"}
COMMIT = "3f2a9c1b77de0000000000000000000000000000"


def on(host: str, hosts: dict[str, Any], *, known: bool = True, **options: Any) -> dict[str, Any]:
    """The pillar of a site with these hosts, as one of them compiles it."""
    fleet = {"fleet": {"commit": COMMIT, "sequence": 7, "held": [], "count": 9, "addresses": KNOWN}} if known else {}
    site = {**SITE, **FLEET, "hosts": hosts, **fleet, **options}
    return compiled({"django": {"sites": {"blog": site}}}, {**GRAINS, "id": host})


def test_each_host_of_a_site_finds_its_part() -> None:
    hosts = {"web*": ["app"], "lb1": ["balancer"]}
    web1, web2, lb1, other = (on(host, hosts) for host in ("web1", "web2", "lb1", "db1"))
    assert [one["errors"] for one in (web1, web2, lb1, other)] == [[]] * 4
    assert [[*one["sites"]] for one in (web1, web2, lb1, other)] == [["blog"], ["blog"], [], []]
    assert [[*one["absent"]] for one in (web1, web2, lb1, other)] == [[], [], ["blog"], ["blog"]]
    assert [[*one["balanced"]] for one in (web1, web2, lb1, other)] == [[], [], ["blog"], []]
    fleet = web2["sites"]["blog"]["fleet"]
    assert fleet["host"] == "web2" and fleet["parts"] == ["app"]
    assert {name: entry["address"] for name, entry in fleet["hosts"].items()} == KNOWN
    assert fleet["release"] == {"commit": COMMIT, "sequence": 7, "held": [], "count": 9}
    assert web1["sites"]["blog"]["proxy"]["trusted"] == ["10.0.0.9"]
    assert "schedules" in web1["sites"]["blog"] and "schedules" not in web2["sites"]["blog"]


def test_a_name_adds_to_what_its_pattern_has() -> None:
    hosts = {"web[12]": {"parts": ["app"], "weight": 50}, "web1": {"address": "10.0.1.1"}, "web2": ["worker", "app"]}
    found = on("web1", hosts)
    assert found["errors"] == []
    entries = found["sites"]["blog"]["fleet"]["hosts"]
    assert entries["web1"] == {"parts": ["app"], "address": "10.0.1.1", "weight": 50, "backup": False}
    assert entries["web2"]["parts"] == ["app", "worker"] and entries["web2"]["weight"] == 50
    none = on("web1", {"web*": ["app"], "web1": []})
    assert none["errors"] == [] and [*none["sites"]] == [], "an empty list: it has no part"


def test_parts_that_one_host_may_not_have_together_are_in_a_table() -> None:
    page = (ROOT / "docs/guides/fleet-parts.md").read_text()
    table = {frozenset(pair) for pair in re.findall(r"(?m)^\| `(\w+)`, `(\w+)` \|", page)}
    parts = SCHEMA["$defs"]["part"]["enum"]
    refused = {
        frozenset(pair)
        for pair in itertools.combinations(parts, 2)
        if any("got both" in error for error in on("web1", {"web1": [*pair], "web2": ["app"]})["errors"])
    }
    assert refused == table != set()


def test_what_one_host_does_for_all_is_left_out_of_the_others() -> None:
    store = {"kind": "s3", "bucket": "backups", "key": "x", "secret": "x" * 20, "password": "x" * 20}
    options = {
        "backup": {"schedule": "daily", "offsite": {**store, "recipients": ["age1" + "q" * 58]}},
        "queue": {"engine": "redis", "host": "10.0.0.6"},
        "workers": {
            "tasks": {"kind": "celery", "app": "blog"},
            "beat": {"kind": "celery_beat", "app": "blog"},
            "jobs": {"kind": "huey"},
        },
    }
    first, second = (on(host, {"web*": ["app"]}, **options)["sites"]["blog"] for host in ("web1", "web2"))
    assert [*first["workers"]] == ["tasks", "beat", "jobs"] and [*second["workers"]] == ["tasks", "jobs"]
    assert not first["workers"]["jobs"]["options"] and second["workers"]["jobs"]["options"] == {"periodic": False}
    assert (first["backup"]["schedule"], second["backup"]["schedule"]) == ("daily", None)
    assert "offsite" in first["backup"] and "offsite" not in second["backup"]


def test_hosts_for_workers_run_them_instead_of_those_that_serve() -> None:
    hosts = {"web*": ["app"], "lb1": ["worker"]}
    options = {
        "backup": {"schedule": "daily"},
        "workers": {"tasks": {"kind": "celery", "app": "blog"}, "beat": {"kind": "celery_beat", "app": "blog"}},
        "server": {"kind": "gunicorn", "options": {"worker_class": "uvicorn"}},
        "tls": {"kind": "self_signed"},
    }
    found = {host: on(host, hosts, **options) for host in KNOWN}
    web1, web2, jobs = (one["sites"]["blog"] for one in found.values())
    assert [one["errors"] for one in found.values()] == [[]] * 3
    assert not {"workers", "schedules"} & (web1.keys() | web2.keys())
    assert [*jobs["workers"]] == ["tasks", "beat"] and [*jobs["schedules"]] == ["clean"]
    assert [site["backup"]["schedule"] for site in (web1, web2, jobs)] == ["daily", None, None]
    assert [site["server"]["kind"] for site in (web1, web2, jobs)] == ["gunicorn", "gunicorn", "none"]
    assert servers.traits(jobs["server"]).interface == "asgi", "its settings are those of the hosts that serve"
    assert (jobs["tls"]["kind"], jobs["fleet"]["https"], found["lb1"]["proxies"]) == ("none", [443], [])


@pytest.mark.parametrize(
    ("hosts", "workers"),
    [
        ({"web*": ["app"], "lb1": ["worker"]}, ["celery"]),
        ({"web*": ["app"], "lb1": ["worker"]}, ["celery_beat"]),
        ({"web*": ["worker"], "lb1": ["app"]}, ["celery_beat"]),
        ({"web*": ["app"], "lb1": ["app"]}, ["celery_beat", "rq"]),
        ({"web1": ["app", "worker"], "web2": ["app"], "lb1": ["worker"]}, ["celery", "celery_beat"]),
    ],
)
def test_every_host_that_may_send_tasks_finds_the_queue(hosts: dict[str, Any], workers: list[str]) -> None:
    given = {kind: {"kind": kind} for kind in workers}
    queue = {"engine": "redis", "host": "10.0.0.6"}
    sites = [on(host, hosts, workers=given, queue=queue)["sites"]["blog"] for host in KNOWN]
    assert [kinds.brokers(site) for site in sites] == [{"celery_broker_url"}] * 3


def test_the_first_host_for_workers_does_what_one_does_for_all() -> None:
    hosts = {"lb1": ["app"], "web1": ["app", "worker"], "web2": ["worker"]}
    workers = {"tasks": {"kind": "celery", "app": "blog"}, "beat": {"kind": "celery_beat", "app": "blog"}}
    lb1, web1, web2 = (
        on(host, hosts, workers=workers, backup={"schedule": "daily"})["sites"]["blog"]
        for host in ("lb1", "web1", "web2")
    )
    assert "workers" not in lb1 and lb1["backup"]["schedule"] == "daily"
    assert [*web1["workers"]] == ["tasks", "beat"] and "schedules" in web1 and web1["server"]["kind"] == "uwsgi"
    assert [*web2["workers"]] == ["tasks"] and "schedules" not in web2 and web2["server"]["kind"] == "none"


def test_a_site_may_have_the_domain_of_one_whose_workers_are_on_the_host() -> None:
    workers = {"tasks": {"kind": "command", "command": "manage.py work"}}
    fleet = {**SITE, **FLEET, "hosts": {"web1": ["worker"], "web2": ["app"]}, "workers": workers}
    fleet["fleet"] = {"commit": "", "sequence": 0, "held": [], "addresses": KNOWN}
    other = {**SITE, "user": "other", "root": "/srv/other"}
    assert compiled({"django": {"sites": {"blog": fleet, "other": other}}}, {**GRAINS, "id": "web1"})["errors"] == []
    two = compiled({"django": {"sites": {"blog": fleet, "other": other}}}, {**GRAINS, "id": "web2"})["errors"]
    assert len(two) == 1 and "is served by site" in two[0]


def test_secrets_that_are_generated_come_from_the_master() -> None:
    secrets = {"TOKEN": {"generate": 50}, "FILE": {"generate": 50, "as": "file"}, "GIVEN": "of the pillar"}
    known = {"addresses": KNOWN, "secrets": {"TOKEN": "t", "FILE": "f", "GIVEN": "g", "REMOVED": "r"}}
    found = on("web1", {"web*": ["app"]}, secrets=secrets, fleet=known)
    assert found["errors"] == []
    place = "django:sites:blog:fleet:secrets"
    assert found["sites"]["blog"]["secrets"] == {
        "TOKEN": {"value": {"pillar": f"{place}:TOKEN"}, "as": "variable", "variable": "TOKEN"},
        "FILE": {"value": {"pillar": f"{place}:FILE"}, "as": "file", "variable": "FILE_FILE"},
        "GIVEN": {"value": {"pillar": "django:sites:blog:secrets:GIVEN"}, "as": "variable", "variable": "GIVEN"},
    }


@pytest.mark.parametrize(("keys", "expected"), [(None, False), ({}, True), ({"next": "n" * 50, "1": "o" * 50}, True)])
def test_a_host_knows_whether_the_master_has_its_keys_but_not_which(keys: Any, expected: bool) -> None:
    fleet = {"addresses": KNOWN} | ({} if keys is None else {"keys": keys})
    found = on("web1", {"web*": ["app"]}, fleet=fleet)
    assert found["errors"] == [] and found["sites"]["blog"]["fleet"]["has_keys"] is expected
    assert not any(key in str(found) for key in (keys or {}).values())


@pytest.mark.parametrize("kind", ["", "-1", "-2"])
def test_the_deployment_that_is_over_may_have_been_a_rotation(kind: str) -> None:
    found = on("web1", {"web*": ["app"]}, fleet={"addresses": KNOWN, "over": f"20261123T123940-20625{kind}"})
    assert found["errors"] == []


def test_a_balancer_needs_no_secrets_of_the_site() -> None:
    hosts = {"web*": ["app"], "lb1": ["balancer"]}
    assert on("lb1", hosts, secret_key=None, secrets={"TOKEN": {"generate": 50}})["errors"] == []
    assert "secret_key" in on("web1", hosts, secret_key=None)["errors"][0]


def test_a_site_without_hosts_is_not_changed_by_what_fleets_have() -> None:
    assert not {"hosts", "fleet", "balancer"} & site().keys() and "shared" not in site()["media"]


def test_a_host_that_loses_its_part_keeps_its_data() -> None:
    absent = on("web2", {"web1": ["app"]}, remove_data=True)["absent"]["blog"]
    assert absent["state"] == "absent" and absent["remove_data"] is False


def test_a_host_alone_needs_nothing_in_common() -> None:
    alone = on("web1", {"web1": ["app"]}, known=False, secret_key=None, database={"engine": "sqlite"}, media={})
    assert alone["errors"] == [] and [*alone["sites"]] == ["blog"]


WRONG_FLEETS = {
    "no-app": ({"web1": []}, {}, ["hosts — expected at least one host with the part app"]),
    "both-parts": (
        {"web1": ["app", "balancer"]},
        {},
        [
            "hosts:web1 — expected app or balancer, got both: the balancer needs the ports and certificates of the "
            "site for itself"
        ],
    ),
    "nothing-to-work-on": (
        {"web1": ["app"], "web2": ["worker"]},
        {"schedules": {}},
        ["hosts:web2 — the part worker has no effect without workers or schedules"],
    ),
    "what-workers-need-in-common": (
        {"web1": ["app"], "web2": ["worker"]},
        {"queue": {"engine": "redis"}, "media": {}},
        [
            "media:shared — missing: the hosts with the part app or worker have an own folder for uploads each: true "
            "if ROOT/media is a mount of the same files on all, or set media:mount; false if the project stores "
            "uploads elsewhere or has none",
            "queue:host — missing: the hosts with the part app or worker need one server: set host, or give a "
            "host the part cache",
        ],
    ),
    "unknown-minion": (
        {"web1": ["app"], "web7": ["app"]},
        {},
        [
            "hosts:web7 — no minion of this master has that name: start it and accept its key, or set address",
        ],
    ),
    "pattern-without-a-match": (
        {"web1": ["app"], "app*": ["app"]},
        {},
        ["hosts:app* — matches no minion whose key the master has accepted"],
    ),
    "two-patterns": (
        {"web*": ["app"], "*1": ["app"]},
        {},
        ["hosts:web* — matches web1, which *1 matches too: write web1 itself"],
    ),
    "name-without-the-part-of-its-pattern": (
        {"web[12]": ["app"], "web1": ["worker"]},
        {},
        [
            "hosts:web1 — expected [app, worker], since 'web[12]' gives it app: write all its parts, or patterns that "
            "leave web1 out",
        ],
    ),
    "names-without-the-parts-of-all-their-patterns": (
        {"web*": ["app"], "*1": ["worker"], "web1": ["balancer"]},
        {"workers": {"jobs": {"kind": "rq"}}, "queue": {"engine": "redis", "host": "10.0.0.6"}},
        [
            "hosts:web1 — expected [app, balancer, worker], since '*1' and 'web*' give it app, worker: write all its "
            "parts, or patterns that leave web1 out",
        ],
    ),
    "name-without-parts": (
        {"web2": ["app"], "web1": {"weight": 50}},
        {},
        ["hosts:web1 — expected parts for web1, such as [app]"],
    ),
    "pattern-without-a-master": (
        {"web*": ["app"], "web1": ["app"]},
        {"known": False},
        [
            "hosts:web* — a pattern needs the names of the master's minions: set runner_dirs, pillar_dirs and "
            "ext_pillar in the master's configuration (docs/guides/fleet.md), or write each name",
        ],
    ),
    "this-host-is-not-named": (
        {"web2": ["app"], "web3": ["app"]},
        {"known": False},
        ["hosts — expected web1, the name of this host's minion, among web2, web3"],
    ),
    "what-they-need-in-common": (
        {"web1": ["app"], "web2": ["app"]},
        {
            "secret_key": None,
            "database": {"engine": "sqlite"},
            "media": {},
            "secrets": {"TOKEN": {"generate": 50}},
            "queue": {"engine": "redis"},
            "deploy": "manual",
            "migrate": {"unsafe": "maintenance"},
            "releases": {"overlap": False},
        },
        [
            "databases:default:engine — a file of SQLite is on one host only, and the hosts with the part app need one "
            "database: set host",
            "deploy — has no effect with hosts: salt-run django.deploy makes their releases",
            "media:shared — missing: the hosts with the part app have an own folder for uploads each: true if "
            "ROOT/media is a mount of the same files on all, or set media:mount; false if the project stores uploads "
            "elsewhere or has none",
            "migrate:unsafe — expected refuse or allow: the hosts with the part app have a maintenance page each",
            "queue:host — missing: the hosts with the part app need one server: set host, or give a host the part "
            "cache",
            "releases:overlap — expected true: with hosts, the active instance runs until every host has started the "
            "new one",
            "secret_key — missing: the hosts with the part app need the same key: set it, or runner_dirs, "
            "pillar_dirs and ext_pillar in the master's configuration (docs/guides/fleet.md)",
            "secrets:TOKEN — each of the hosts with the part app would generate another value: set the value, or "
            "runner_dirs, pillar_dirs and ext_pillar in the master's configuration (docs/guides/fleet.md)",
        ],
    ),
    "own-database-server": (
        {"web1": ["app"], "web2": ["app"]},
        {"database": {"engine": "postgres"}},
        ["databases:default:host — missing: the hosts with the part app need one database server"],
    ),
}


@pytest.mark.parametrize(("hosts", "options", "errors"), WRONG_FLEETS.values(), ids=[*WRONG_FLEETS])
def test_hosts_that_are_no_fleet_are_named(hosts: Any, options: dict[str, Any], errors: list[str]) -> None:
    found = on("web1", hosts, **options)["errors"]
    assert found == [f"django:sites:blog:{line}" for line in errors]


def test_a_balancer_needs_the_addresses_of_all_hosts() -> None:
    text = "its address is not known to the master yet: let it apply once more, or set address"
    fleet = {"commit": "", "sequence": 0, "held": [], "addresses": {**KNOWN, "web2": ""}}
    wrong = on("lb1", {"web*": ["app"], "lb1": ["balancer"]}, fleet=fleet)
    assert wrong["errors"] == [f"django:sites:blog:hosts:web2 — {text}"]


def test_hosts_of_the_master_without_hosts_of_the_pillar_are_refused() -> None:
    result = compiled({"django": {"sites": {"blog": {**SITE, "fleet": {}, "media": {"shared": True}}}}})
    assert result["errors"] == [
        "django:sites:blog:fleet — has no effect without hosts",
        "django:sites:blog:media:shared — has no effect without hosts",
    ]


def test_pillar_without_django_is_an_error(rendered: Render) -> None:
    assert rendered({})[0]["errors"][0].startswith("django — missing: top.sls gives this minion")


def uncommented() -> Any:
    """pillar.example with every option switched on: "#option:" is an option, "# text" explains."""
    return yaml.safe_load(re.sub(r"(?m)^( *)#(?=[^ \n])", r"\1", (ROOT / "pillar.example").read_text()))


def options(rules: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, rule in rules.get("properties", {}).items():
        yield f"{path}{name}"
        if "default" not in rule or rule["default"] == {}:
            yield from options(rule, f"{path}{name}:")


def test_pillar_example_compiles_to_a_site_with_defaults() -> None:
    result = compiled(yaml.safe_load((ROOT / "pillar.example").read_text()))
    assert result["errors"] == []
    assert result["sites"] == {"blog": site()}


def test_pillar_example_is_valid_with_every_option_switched_on() -> None:
    result = compiled(uncommented())
    assert result["errors"] == []
    assert [*result["sites"], *result["absent"]] == ["blog", "kiosk", "press", "stable", "shop"]


def test_pillar_example_has_every_option() -> None:
    rules = check.resolve(SCHEMA, SCHEMA)["properties"]["django"]["properties"]["defaults"]
    shown = uncommented()["django"]["sites"]
    given = {*shown["kiosk"], *shown["blog"], *shown["press"], *shown["stable"]}
    for site in (shown["kiosk"], shown["blog"], shown["stable"]):
        given |= {f"{name}:{inner}" for name, value in site.items() if isinstance(value, dict) for inner in value}
    for site in (shown["kiosk"], shown["blog"]):
        given |= {f"static:push:{name}" for name in site["static"]["push"]}
    for site in (shown["kiosk"], shown["blog"], shown["stable"]):
        given |= {f"backup:offsite:{name}" for name in site["backup"]["offsite"]}
    given |= {f"backup:points:{name}" for name in shown["stable"]["backup"]["points"]}
    given |= {f"releases:canary:{name}" for name in shown["stable"]["releases"]["canary"]}
    given |= {f"releases:canary:worse:{name}" for name in shown["stable"]["releases"]["canary"]["worse"]}
    given |= {f"backup:offsite:keep:{name}" for name in shown["blog"]["backup"]["offsite"]["keep"]}
    given |= {f"media:mount:{name}" for name in shown["blog"]["media"]["mount"]}
    given |= {f"tls:eab:{name}" for name in shown["blog"]["tls"]["eab"]}
    given |= {f"proxy:limit_req:{name}" for name in shown["blog"]["proxy"]["limit_req"]}
    given |= {"server:options:harakiri", "settings:DEBUG"}
    given |= {f"cache:{name}" for site in (shown["kiosk"], shown["blog"]) for name in site["queue"]}  # the same keys
    fleet = yaml.safe_load((ROOT / "examples/fleet.sls").read_text())["django"]["sites"]["blog"]
    given |= {f"{part}:{name}" for part in ("media", "balancer", "database") for name in fleet[part]}
    given |= {"fleet", *fleet}  # `fleet` is set on the master
    given |= {"balancer:memory"}  # of another kind than that of the example
    assert {*options(rules)} - given == set()


def test_parts_of_the_schema_are_those_that_release_and_modules() -> None:
    known = parts.parts()
    assert {*kinds.RELEASED, *(part.name for part in known)} == {*SCHEMA["$defs"]["part"]["enum"]}
    assert [part.name for part in known] == ["balancer", "database", "cache"], "in the order of their states"
    verbs = (ROOT / "_modules/django_fleet.py").read_text()
    assert [part.verb for part in known if part.verb and f"\ndef {part.verb}(" not in verbs] == []
    sites = {"sites": {}, "absent": {}, "balanced": {}, "served": {}, "servers": [], "process": "systemd"}
    assert parts.order(sites) == ["sync", "watch"]
    served = {**sites, "sites": {"blog": {"fleet": {}}}, "balanced": {"blog": {}}, "servers": ["mysql", "postgres"]}
    order = ["sync", "balancer", "place", "host", "watch", "proxy", "mysql", "postgres", "database", "site"]
    assert parts.order(served) == order
    served |= {"process": "supervisor", "absent": {"old": {}}, "served": {"blog": {"fleet": {"stores": {}}}}}
    assert parts.order(served) == ["sync", "clean", *order[1:-1], "supervisor", "cache", "site"]
