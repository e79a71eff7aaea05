"""What the master adds to the pillar of a site's hosts, by its external pillar."""

import base64
import hashlib
import hmac
import importlib.util
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import salt.cache
import salt.config
import salt.exceptions
import salt.key
import salt.pillar
import salt.utils.dictupdate
from django_formula.database import engines
from django_formula.fleet import certificate as fleet_certificate
from django_formula.fleet import known_minions, store
from django_formula.fleet import secrets as fleet_secrets
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import network

ROOT = Path(__file__).parents[2]
GRAINS = {
    "web1": {"ipv4": ["127.0.0.1", "10.0.0.1"], "num_cpus": 4},
    "web2": {"ipv4": ["127.0.0.1"], "ipv6": ["::1", "fe80::1", "2001:db8::2"]},
    "lb1": {"ipv4": ["10.0.0.9", "192.168.1.9"]},
}
#: As 3008 keeps them, and as 3007 does.
CACHED = {f"grains/{name}": GRAINS[name] for name in ("web1", "web2")} | {
    "minions/lb1/data": {"grains": GRAINS["lb1"], "pillar": {}}
}
HOSTS = {"web*": ["app"], "lb1": {"parts": ["balancer"]}}


def module_of(path: str) -> Any:
    """A module that the master loads."""
    spec = importlib.util.spec_from_file_location("of_the_master", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def options():
    """The master's, by which the external pillar knows who compiles the pillar."""
    return {}


@pytest.fixture
def pillar_of(tmp_path, monkeypatch, options):
    """The pillar of a minion: what is added to sites, for a master with the keys of web1, web2, web3 and lb1."""
    module = module_of("_pillar/django.py")
    monkeypatch.setattr(module, "__opts__", options, raising=False)
    monkeypatch.setattr(module, "__grains__", {"id": "master"}, raising=False)
    monkeypatch.setattr(module, "_is_overridden", lambda: False)
    keys = SimpleNamespace(list_keys=lambda: {"minions": [*GRAINS, "web3"]})
    monkeypatch.setattr(salt.key, "get_key", lambda _opts: keys)
    cache = SimpleNamespace(fetch=lambda bank, name: CACHED.get(f"{bank}/{name}"))
    monkeypatch.setattr(salt.cache, "factory", lambda _opts: cache)

    def pillar(minion: str, sites: Any, grains: Any = None, **more: Any) -> dict[str, Any]:
        module.__grains__ = grains or {"id": "master"}
        found = module.ext_pillar(minion, {"django": {"sites": sites, **more}}, str(tmp_path / "store"))
        return found.get("django", {}).get("sites", {})

    return pillar


def test_a_host_that_serves_gets_the_key_the_release_and_the_addresses(pillar_of, tmp_path):
    web1, web2 = (pillar_of(name, {"blog": {"hosts": HOSTS}})["blog"] for name in ("web1", "web2"))
    assert web1 == web2 and len(web1["secret_key"]) == 50
    assert web1["fleet"] == {
        **{"commit": "", "sequence": 0, "held": [], "count": 0, "over": ""},
        "addresses": {"lb1": "10.0.0.9", "web1": "10.0.0.1", "web2": "2001:db8::2", "web3": ""},
        **{"secrets": {}, "keys": {}},
    }
    kept = json.loads((tmp_path / "store/blog/hosts.json").read_text())
    assert kept == {"lb1": ["balancer"], "web1": ["app"], "web2": ["app"], "web3": ["app"]}


def test_a_name_without_parts_has_those_of_its_pattern_and_an_empty_list_has_none(pillar_of, tmp_path):
    hosts = {**HOSTS, "web1": {"weight": 50}, "web2": [], "web3": ["app", "worker"]}
    found = {name: pillar_of(name, {"blog": {"hosts": hosts}})["blog"] for name in ("web1", "web2", "web3")}
    assert {name: "secret_key" in site for name, site in found.items()} == {"web1": True, "web2": False, "web3": True}
    kept = json.loads((tmp_path / "store/blog/hosts.json").read_text())
    assert kept == {"lb1": ["balancer"], "web1": ["app"], "web2": [], "web3": ["app", "worker"]}


def test_a_name_that_yaml_reads_as_a_number_fails_no_pillar(pillar_of):
    found = pillar_of("web1", {"blog": {"hosts": {10: ["app"], None: ["app"], **HOSTS}}, "shop": {"hosts": HOSTS}})
    assert found["blog"]["secret_key"] and found["shop"]["secret_key"]
    assert found["blog"]["fleet"]["addresses"].keys() == found["shop"]["fleet"]["addresses"].keys()


def test_secret_of_the_pillar_reaches_the_hosts_that_use_it_only(pillar_of):
    hosts = {**HOSTS, "web2": ["worker"], "web3": ["database", "cache"]}
    site = {
        "hosts": hosts,
        "deploy_key": "KEY",
        "secrets": {"TOKEN": "KEY", "FILE": {"value": "KEY", "as": "file"}, "NAMED": "sdb://vault/named"},
        "database": {"engine": "postgres", "password": "KEY"},
        "balancer": {"status": {"user": "ops", "password": "PAGE"}},
        "tls": {"key": "TLS", "certificate": "/etc/ssl/blog.pem"},
    }
    sites = {"blog": site, "shop": {"hosts": {"web1": ["app"]}, "queue": None}}
    seen = {}
    for minion in ("web1", "web2", "web3", "lb1", "other"):
        merged = salt.utils.dictupdate.update(json.loads(json.dumps(sites)), pillar_of(minion, sites))
        seen[minion] = json.dumps(merged)
        assert "sdb://vault/named" in seen[minion] and "/etc/ssl/blog.pem" in seen[minion]
    secrets = {name: {one for one in ("KEY", "PAGE", "TLS") if f'"{one}"' in text} for name, text in seen.items()}
    assert secrets == {"web1": {"KEY"}, "web2": {"KEY"}, "web3": set(), "lb1": {"PAGE", "TLS"}, "other": set()}


def test_master_that_accepts_messages_of_old_minions_gives_nothing(pillar_of, options):
    sites = {"blog": {"hosts": HOSTS}}
    for version in (0, 2, "3", None):
        options["minimum_auth_version"] = version
        assert pillar_of("web1", {"shop": {}}) == {}
        with pytest.raises(salt.exceptions.SaltConfigurationError, match="minimum_auth_version is"):
            pillar_of("web1", sites)
    options["minimum_auth_version"] = 3
    assert pillar_of("web1", sites)["blog"]["secret_key"]


def test_the_address_of_a_host_is_the_one_of_its_last_pillar(pillar_of, monkeypatch):
    sites = {"blog": {"hosts": HOSTS}}
    moved = pillar_of("web1", sites, {"id": "web1", "ipv4": ["127.0.0.1", "10.0.0.7"]})
    monkeypatch.setattr(salt.cache, "factory", lambda _opts: SimpleNamespace(fetch=lambda _bank, name: {}))
    known = pillar_of("lb1", sites)["blog"]["fleet"]["addresses"]
    assert moved["blog"]["fleet"]["addresses"] == known
    assert known == {"lb1": "10.0.0.9", "web1": "10.0.0.7", "web2": "2001:db8::2", "web3": ""}


def test_a_host_keeps_its_address_while_it_has_it(pillar_of):
    sites = {"blog": {"hosts": HOSTS}}

    def address(**grains: Any) -> str:
        return pillar_of("web1", sites, {"id": "web1", **grains})["blog"]["fleet"]["addresses"]["web1"]

    bridge = {"docker0": ["172.17.0.1"], "eth0": ["192.168.1.5"], "podman0": ["10.88.0.1"], "br-lan": ["192.168.1.9"]}
    many = ["10.88.0.1", "127.0.0.1", "172.17.0.1", "192.168.1.5", "192.168.1.9"]
    assert address(ipv4=many, ip_interfaces=bridge) == "192.168.1.5"
    assert address(ipv4=["10.8.0.1", "127.0.0.1", "192.168.1.5"]) == "192.168.1.5"
    assert address(ipv4=["10.8.0.1", "127.0.0.1"], ip_interfaces="none") == "10.8.0.1"


def test_a_master_that_keeps_pillars_deploys_nothing(tmp_path, monkeypatch):
    runner, context = module_of("_runners/django.py"), {}
    options = {"pillar_cache": True, "ext_pillar": [{"django": str(tmp_path)}]}
    monkeypatch.setattr(runner, "__opts__", options, raising=False)
    monkeypatch.setattr(runner, "__context__", context, raising=False)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    answer = runner.deploy("blog")
    assert "set pillar_cache: false" in answer["error"] and answer["retcode"] == context["retcode"] == 1


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """The runner of a master that knows four sites."""
    runner = module_of("_runners/django.py")
    for name in ("blog", "shop-de", "shop-fr", "shop-it"):
        store.Store(tmp_path, name).make()
        (tmp_path / name / "hosts.json").write_text(json.dumps({"web1": ["app"]}))
    monkeypatch.setattr(runner, "__opts__", {"ext_pillar": [{"django": str(tmp_path)}]}, raising=False)
    monkeypatch.setattr(runner, "__context__", {}, raising=False)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    return runner


@pytest.mark.parametrize(
    ("site", "keep_going", "deployed", "not_begun"),
    [
        ("shop-*", False, ["shop-de", "shop-fr"], ["shop-it"]),
        ("shop-*", True, ["shop-de", "shop-fr", "shop-it"], []),
        ("shop-it, blog", False, ["blog", "shop-it"], []),
    ],
)
def test_sites_of_a_pattern_are_deployed_in_turn(runner, monkeypatch, capsys, site, keep_going, deployed, not_begun):
    def fleet(name, *_arguments, **_options):
        act = Mock(return_value={"commit": "3f2a9c1b77de", "hosts": {}})
        act.side_effect = DeploymentError("web1 is silent", details=["more"]) if name == "shop-fr" else None
        return Mock(deploy=act, site=name, store=Mock(folder=Path("/nowhere/x")), by="", about={}, is_begun=True)

    monkeypatch.setattr(runner, "_fleet", fleet)
    answer = runner.deploy(site, keep_going=keep_going, full=True)
    rows = {row["site"]: row for row in answer["sites"]}
    assert [*rows] == sorted([*deployed, *not_begun])
    assert [name for name, row in rows.items() if row["result"] != "not begun"] == deployed
    assert all(rows[name]["error"] == "shop-fr failed before it" for name in not_begun)
    assert (answer.get("retcode"), runner.__context__.get("retcode")) == (
        (1, 1) if "shop-fr" in deployed else (None, None)
    )
    told = capsys.readouterr().err.splitlines()
    lines = {name: f"{name}: 3f2a9c1b77de is active" for name in deployed} | {"shop-fr": "shop-fr: web1 is silent"}
    assert told == [lines[name] for name in deployed]


def test_people_see_a_line_for_each_site(runner, monkeypatch):
    warnings = {"web1": ["it gets no requests (lb1) until salt-run django.join shop-de web1"]}
    done = {"commit": "3f2a9c1b77de0000", "hosts": {"web1": "0002-3f2a9c1b77de", "web2": "0002-3f2a9c1b77de"}}
    done |= {"requests": {"sent": 60, "failed": 0}, "seconds": 12.3, "warnings": warnings}

    def fleet(name, *_arguments, **_options):
        act = Mock(return_value=done)
        act.side_effect = DeploymentError("web1 is \x1b[1msilent", hint="exclude=web1") if name == "shop-fr" else None
        return Mock(deploy=act, site=name, store=Mock(folder=Path("/nowhere/x")), by="", about={}, is_begun=True)

    monkeypatch.setattr(runner, "_fleet", fleet)
    assert runner.deploy("shop-*")["sites"] == [
        "shop-de  released   3f2a9c1b77de  12.3 s\n"
        "    hosts: web1, web2 | requests: 0 of 60 failed\n"
        "    warnings: web1: it gets no requests (lb1) until salt-run django.join shop-de web1",
        "shop-fr  failed\n    error: web1 is silent; exclude=web1",
        "shop-it  not begun\n    error: shop-fr failed before it",
    ]
    runner.__opts__["output"] = "json"
    assert runner.deploy("shop-*")["sites"][0]["hosts"] == done["hosts"]


def test_pattern_without_a_site_is_an_error(runner):
    answer = runner.deploy("nothing-*")
    assert answer["error"].startswith("no site with hosts is named nothing-*\n") and answer["retcode"] == 1


def test_status_of_all_sites_without_a_store_is_an_error(runner):
    runner.__opts__["ext_pillar"] = []
    answer = runner.status()
    assert answer["error"].startswith("the master has no store for the hosts of sites\n") and answer["retcode"] == 1


def test_host_whose_name_salt_reads_as_a_number_is_one(runner, monkeypatch):
    made = []

    def fleet(_site, _verb, _roster, **options):
        made.append(options)
        return Mock(**{"deploy.side_effect": DeploymentError("no"), "set_backend": lambda *words: made.append(words)})

    monkeypatch.setattr(runner, "_fleet", fleet)
    runner.deploy("blog", exclude=7)
    runner.drain("blog", 7)
    assert made[0]["exclude"] == ["7"] and made[-1] == ("7", "drain")


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda runner: runner.dashboard(5), "folder: expected a path, got 5"),
        (lambda runner: runner.dashboard(""), "folder: expected a path, got ''"),
        (lambda runner: runner.watch("1h"), "since: expected an offset, got '1h'"),
        (lambda runner: runner.watch(True), "since: expected an offset, got True"),
        (lambda runner: runner.deploy("blog", exclude=None), "nothing is left out"),
        (lambda runner: runner.rollback("blog", exclude=None), "nothing is left out"),
    ],
)
def test_argument_of_a_runner_that_is_none_is_no_traceback(runner, monkeypatch, act, text):
    def deployed(*_arguments, **options):
        raise DeploymentError("nothing is left out" if options.get("exclude") == [] else str(options))

    monkeypatch.setattr(runner, "_fleet", deployed)
    monkeypatch.setattr(runner, "_hosts", Mock())
    assert act(runner)["error"].startswith(text)


@pytest.mark.parametrize(("roster", "words"), [(True, ["roster=True"]), (False, [])])
def test_hosts_of_a_roster_have_commands_for_these(runner, monkeypatch, roster, words):
    made = Mock()
    monkeypatch.setattr(runner, "_hosts", Mock())
    runner._fleet("blog", "deploy", roster, made)
    assert made.call_args.kwargs["words"] == words


def test_history_has_each_deployment_with_its_cause(runner, tmp_path):
    assert runner.history() == [] and runner.history(full=True) == []
    line = {"time": "2026-11-27T18:00:00Z", "site": "blog", "verb": "deploy", "user": "ada", "revision": "main"}
    line |= {
        "commit": "3f2a9c1b77de0000",
        "result": "released",
        "step": "",
        "error": "",
        "release": "0005-3f2a9c1b77de",
    }
    line |= {
        "hosts": {"web2": "0005-3f2a9c1b77de", "web1": "0005-3f2a9c1b77de"},
        "seconds": 12.3,
        "sent": 60,
        "failed": 0,
    }
    failed = line | {"site": "shop-de", "result": "failed", "error": "web1: no \x1b[1mspace", "hosts": {}, "commit": ""}
    killed = {**failed, "user": "", "revision": "", "result": "interrupted", "error": ""}
    texts = [json.dumps(one) for one in (line, failed, killed)]
    others = ["torn {", "5", "{}", json.dumps({**line, "hosts": 7}), json.dumps({**line, "error": None})]
    (tmp_path / "deploys.jsonl").write_text("\n".join([texts[0], *others, *texts[1:]]) + "\n")
    assert runner.history() == [
        "2026-11-27T18:00:00Z shop-de: deploy: interrupted (12.3 s, 0 of 60 requests failed)",
        "2026-11-27T18:00:00Z shop-de: deploy of main by ada: failed (12.3 s, 0 of 60 requests failed): web1: no space",
        "2026-11-27T18:00:00Z blog: deploy of main by ada: released 3f2a9c1b77de on web1, web2"
        " (12.3 s, 0 of 60 requests failed)",
    ]
    assert runner.history("blog", full=True) == [line] and len(runner.history(count=1)) == 1


@pytest.mark.parametrize("error", [None, DeploymentError("a host"), KeyboardInterrupt(), SystemExit(0)], ids=repr)
def test_what_a_runner_did_not_end_is_ended_for_it(tmp_path, monkeypatch, capsys, error):
    """As where Ctrl-C is pressed once more while it takes hosts back."""
    program, called = tmp_path / "salt-run", tmp_path / "called"
    program.write_text(f'#!/bin/sh\necho "$@" >{called}.new; mv {called}.new {called}\n')
    program.chmod(0o755)
    runner = module_of("_runners/django.py")
    monkeypatch.setattr(shutil, "which", lambda _name: str(program))
    options = {"conf_file": "/etc/salt/master", "ext_pillar": [{"django": str(tmp_path / "store")}]}
    monkeypatch.setattr(runner, "__opts__", options, raising=False)
    monkeypatch.setattr(runner, "__context__", {}, raising=False)
    monkeypatch.setattr(runner, "_fleet", Mock(**{"return_value.deploy": Mock(side_effect=error, return_value={})}))
    if error is None or isinstance(error, DeploymentError):
        assert runner.deploy("blog").get("error") == (str(error) if error else None)
        assert not called.exists() and "being ended" not in capsys.readouterr().err
        return
    with pytest.raises(type(error)):
        runner.deploy("blog")
    assert "what was begun is being ended" in capsys.readouterr().err
    limit = time.monotonic() + 10
    while not called.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    verb = "django.abandon site=blog roster=False own=True"
    assert called.read_text() == f"--config-dir=/etc/salt --out=quiet {verb}\n"


def test_the_names_of_keys_are_read_again_after_a_change(tmp_path, monkeypatch):
    reads, keys = [], {"minions": ["web1"]}
    monkeypatch.setattr(salt.key, "get_key", lambda _opts: SimpleNamespace(list_keys=lambda: reads.append(1) or keys))
    options, folder = {"pki_dir": str(tmp_path)}, tmp_path / "minions"
    folder.mkdir()
    assert [known_minions.accepted(options) for _ in range(2)] == [["web1"]] * 2 and len(reads) == 2, "just made"
    os.utime(folder, (1, 1))
    assert [known_minions.accepted(options) for _ in range(3)] == [["web1"]] * 3 and len(reads) == 3
    keys["minions"] = ["web2", "web1"]
    os.utime(folder, (2, 2))
    assert known_minions.accepted(options) == ["web1", "web2"] and len(reads) == 4
    elsewhere = {**options, "keys.cache_driver": "etcd"}
    os.utime(folder, (3, 3))
    assert [known_minions.accepted(elsewhere) for _ in range(2)] == [["web1", "web2"]] * 2 and len(reads) == 6


def test_a_balancer_gets_no_key_and_a_key_of_the_pillar_is_left(pillar_of):
    assert "secret_key" not in pillar_of("lb1", {"blog": {"hosts": HOSTS}})["blog"]
    assert "secret_key" not in pillar_of("web1", {"blog": {"hosts": HOSTS, "secret_key": "mine"}})["blog"]


def test_the_other_keys_of_a_rotation_are_given_to_those_who_sign(pillar_of, tmp_path):
    sites = {"blog": {"hosts": {"web1": ["app"], "web2": ["worker"], "lb1": ["balancer"]}}}
    before = pillar_of("web1", sites)["blog"]["secret_key"]
    keys = fleet_secrets.Keys(store.Store(tmp_path / "store", "blog"))
    following = keys.begin()
    for host in ("web1", "web2"):
        given = pillar_of(host, sites)["blog"]
        assert (given["secret_key"], given["fleet"]["keys"]) == (before, {"next": following})
    keys.promote()
    given = pillar_of("web1", sites)["blog"]
    assert (given["secret_key"], given["fleet"]["keys"]) == (following, {"1": before})
    balancer = json.dumps(pillar_of("lb1", sites))
    assert before not in balancer and following not in balancer and '"keys"' not in balancer
    own = {"blog": {**sites["blog"], "secret_key": "mine"}}
    assert "keys" not in pillar_of("web1", own)["blog"]["fleet"]
    assert "keys" not in pillar_of("web1", sites, defaults={"secret_key": "mine"})["blog"]["fleet"]


def test_secrets_that_the_pillar_has_generated_are_generated_once(pillar_of):
    secrets = {"TOKEN": {"generate": 40}, "OTHER": "given", "SHORT": {"generate": 3}, "ODD": {"generate": "x"}}
    sites = {"blog": {"hosts": {"web1": ["app"], "web2": ["worker"], "lb1": ["balancer"]}, "secrets": secrets}}
    defaults = {"secrets": {"SHARED": {"generate": 16}, "OTHER": {"generate": 16}}}
    web1, web2, lb1 = (pillar_of(name, sites, defaults=defaults)["blog"] for name in ("web1", "web2", "lb1"))
    given = web1["fleet"]["secrets"]
    assert {name: len(value) for name, value in given.items()} == {"TOKEN": 40, "SHARED": 16}
    assert web2["fleet"]["secrets"] == given and not [value for value in given.values() if value in str(lb1)]
    other = pillar_of("web1", {"shop": {**sites["blog"]}})["shop"]
    assert other["fleet"]["secrets"]["TOKEN"] != given["TOKEN"]


def test_hosts_of_the_defaults_are_those_of_each_site(pillar_of):
    found = pillar_of("web1", {"blog": {}, "shop": {"hosts": {"web2": ["app"]}}}, defaults={"hosts": {"web1": ["app"]}})
    assert {*found} == {"blog", "shop"} and {*found["shop"]["fleet"]["addresses"]} == {"web1", "web2"}


@pytest.mark.parametrize(
    "sites",
    [
        None,
        {},
        [],
        "blog",
        {"blog": None},
        {"blog": {}},
        {"blog": {"hosts": None}},
        {"blog": {"hosts": ["web1"]}},
        {"../x": {"hosts": HOSTS}},
        {1: {"hosts": HOSTS}},
    ],
    ids=str,
)
def test_sites_without_hosts_and_mistakes_get_nothing(pillar_of, tmp_path, sites):
    assert pillar_of("web1", sites) == {}
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("parts", [None, "app", {"parts": "app"}, 7])
def test_a_part_in_a_wrong_form_makes_no_host(pillar_of, parts):
    assert "secret_key" not in pillar_of("web1", {"blog": {"hosts": {"web1": parts}}}).get("blog", {})


SERVERS = {
    "web1": ["app"],
    "jobs1": ["worker"],
    "db1": {"parts": ["database"], "address": "10.0.0.5"},
    "lb1": ["balancer"],
}


def test_a_database_server_gets_what_checks_a_password_and_its_users_the_password(pillar_of):
    given = {name: pillar_of(name, {"blog": {"hosts": SERVERS}})["blog"]["fleet"] for name in SERVERS}
    password = given["web1"]["passwords"]["database"]
    assert len(password) == 40 and given["jobs1"]["passwords"] == given["web1"]["passwords"] == {"database": password}
    assert {*given["db1"]["passwords"]} == {"postgres", "mysql"} and given["lb1"]["passwords"] == {}
    assert password not in repr([given["db1"], given["lb1"]])
    assert [name for name, one in given.items() if "cpus" in one] == ["db1"] and given["db1"]["cpus"] == {"web1": 4}
    certificates = [one["certificates"] for one in given.values()]
    assert {*certificates[0]} == {"db1"} and certificates == [certificates[0]] * 4
    assert [name for name, one in given.items() if "key" in one] == ["db1"]


def test_a_former_password_is_valid_until_its_file_is_deleted(pillar_of, tmp_path):
    sites = {"blog": {"hosts": {**SERVERS, "db1": {"parts": ["database", "cache"], "address": "10.0.0.5"}}}}
    kept, logins = tmp_path / "store/blog/secrets", []
    for _ in range(3):
        before = pillar_of("web1", sites)["blog"]["fleet"]["passwords"]
        for name in ("database", "cache"):
            (kept / name).rename(kept / f"{name}.former")
        hosts = {host: pillar_of(host, sites)["blog"]["fleet"] for host in ("db1", "web1")}
        now = hosts["web1"]["passwords"]
        assert {*now.values()}.isdisjoint(before.values()) and hosts["db1"].get("login") == hosts["web1"].get("login")
        assert hosts["db1"]["passwords"] == {
            "postgres": ",".join(map(fleet_secrets.scram, (now["database"], before["database"]))),
            "mysql": ",".join(map(engines.mariadb_verifier, (now["database"], before["database"]))),
            "redis": ",".join(map(fleet_secrets.sha256, (now["cache"], before["cache"]))),
        }
        logins.append(hosts["web1"].get("login", 1))
        for name in ("database", "cache"):
            (kept / f"{name}.former").unlink()
        alone = pillar_of("db1", sites)["blog"]["fleet"]["passwords"]
        assert alone["mysql"] == engines.mariadb_verifier(now["database"])
    assert logins == [2, 1, 2]


def test_the_certificate_of_a_server_holds_until_its_address_changes(tmp_path):
    first, again, other = (
        fleet_certificate.of_host(tmp_path, "db1", one) for one in ("10.0.0.5", "10.0.0.5", "2001:db8::5")
    )
    assert first == again and first[0] != other[0]
    for text, address in ((first, "10.0.0.5"), (other, "2001:db8::5")):
        context = ssl.create_default_context(cadata=text[0])
        (trusted,) = context.get_ca_certs()
        assert ("DNS", "db1") in trusted["subjectAltName"]
        assert ipaddress.ip_address(address) in [
            ipaddress.ip_address(v) for k, v in trusted["subjectAltName"] if k == "IP Address"
        ]
        (tmp_path / "pair.pem").write_text("".join(text))
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "pair.pem")
    kept = tmp_path / ".certificates/db1"
    assert {path.stat().st_mode & 0o777 for path in kept.glob("*.pem")} == {
        0o600
    } and kept.stat().st_mode & 0o777 == 0o700


def test_a_certificate_that_is_replaced_is_trusted_until_its_file_is_deleted(tmp_path):
    certificate, key = fleet_certificate.of_host(tmp_path, "db1", "10.0.0.5")
    kept = tmp_path / ".certificates/db1/10.0.0.5.pem"
    kept.rename(kept.with_suffix(".former.pem"))
    both, new_key = fleet_certificate.of_host(tmp_path, "db1", "10.0.0.5")
    assert both.endswith(certificate) and both != certificate and new_key != key and key not in both
    for name, text in {"both": both, "former": certificate, "new": both.removesuffix(certificate)}.items():
        (tmp_path / name).write_text(text)
    for name in ("former", "new"):
        subprocess.run(["openssl", "verify", "-CAfile", tmp_path / "both", tmp_path / name], check=True)
    kept.with_suffix(".former.pem").unlink()
    assert fleet_certificate.of_host(tmp_path, "db1", "10.0.0.5") == (both.removesuffix(certificate), new_key)


@pytest.mark.parametrize("host", ["../x", "a/b", "", ".x"])
def test_a_certificate_is_kept_under_the_name_of_a_minion_only(tmp_path, host):
    with pytest.raises(DeploymentError, match="is no name of a minion"):
        fleet_certificate.of_host(tmp_path, host, "10.0.0.5")


def test_what_servers_know_of_a_password_is_what_they_make_of_it():
    assert engines.mariadb_verifier("secret") == "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"
    assert fleet_secrets.sha256("secret") == hashlib.sha256(b"secret").hexdigest()
    scheme, rounds, keys = fleet_secrets.scram("pencil").split("$")
    count, salt = rounds.split(":")
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", base64.b64decode(salt), int(count))
    assert (scheme, count, len(base64.b64decode(salt))) == ("SCRAM-SHA-256", "4096", 16)
    assert server == hmac.digest(salted, b"Server Key", "sha256")
    assert stored == hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert fleet_secrets.scram("pencil") == fleet_secrets.scram("pencil")


def test_by_salt_ssh_the_hosts_and_their_addresses_are_those_of_the_roster(pillar_of, options, monkeypatch):
    options["_ssh_version"] = (9, 2)
    roster = {
        "web1": {"host": "203.0.113.1"},
        "web4": {"host": "203.0.113.4"},
        "web5": {"host": "nowhere.invalid"},
        "lb1": {"host": "203.0.113.9"},
        "mail": {"host": "203.0.113.10"},
    }
    monkeypatch.setattr("django_formula.fleet.roster.targets", lambda _options: roster)
    web4 = pillar_of("web4", {"blog": {"hosts": HOSTS}})["blog"]
    assert len(web4["secret_key"]) == 50
    # web1 and lb1 have minions too, which the master has seen: by a minion they get the same.
    assert web4["fleet"]["addresses"] == {"lb1": "10.0.0.9", "web1": "10.0.0.1", "web4": "203.0.113.4", "web5": ""}


@pytest.fixture
def compiled(tmp_path):
    """Salt's own compilation of a minion's pillar, with what the minion sends along."""
    (tmp_path / "pillar").mkdir()
    (tmp_path / "pillar/top.sls").write_text("base: {'web*': [blog]}")
    (tmp_path / "pillar/blog.sls").write_text("django: {sites: {blog: {hosts: {web1: [app]}}}}")
    options = salt.config.apply_master_config(
        {
            "root_dir": str(tmp_path),
            "pillar_roots": {"base": [str(tmp_path / "pillar")]},
            "pillar_dirs": [str(ROOT / "_pillar")],
            "ext_pillar": [{"django": str(tmp_path / "store")}],
        }
    )

    def compile_pillar(minion: str, sent: dict[str, Any]) -> dict[str, Any]:
        grains = {"id": minion, "ipv4": ["10.0.0.1"]}
        pillar = salt.pillar.Pillar(options, grains, minion, "base", pillar_override=sent).compile_pillar()
        assert "_errors" not in pillar
        return pillar.get("django", {}).get("sites", {})

    return compile_pillar


def test_what_a_minion_sends_along_makes_it_no_host(compiled, tmp_path):
    sent = {"django": {"sites": {"blog": {"hosts": {"evil": ["app"]}, "secrets": {"TOKEN": {"generate": 50}}}}}}
    key = compiled("web1", {})["blog"]["secret_key"]
    kept = (tmp_path / "store/blog/hosts.json").read_text()
    assert len(key) == 50 and json.loads(kept) == {"web1": ["app"]}
    assert compiled("evil", sent) == sent["django"]["sites"]
    assert compiled("web1", {"a": 1})["blog"]["secret_key"] == key
    assert not compiled("web1", sent)["blog"]["fleet"]["secrets"]
    assert (tmp_path / "store/blog/hosts.json").read_text() == kept


def test_null_of_a_site_removes_what_the_defaults_have(pillar_of):
    defaults = {"hosts": {"web1": {"parts": ["app"]}}, "secrets": {"TOKEN": {"generate": 20}}}
    sites = {"blog": {"hosts": {"web1": {"weight": 50}}}, "shop": {"hosts": None}}
    found = pillar_of("web1", sites, defaults=defaults)
    assert {*found} == {"blog"} and len(found["blog"]["fleet"]["secrets"]["TOKEN"]) == 20


def test_the_hosts_of_an_absent_site_are_no_hosts_any_more(pillar_of, tmp_path):
    pillar_of("web1", {"blog": {"hosts": HOSTS}})
    assert store.sites(tmp_path / "store") == ["blog"]
    pillar_of("web1", {"blog": {"hosts": HOSTS, "state": "absent"}})
    assert store.sites(tmp_path / "store") == []


def test_promote_of_a_site_is_kept_for_the_runner(pillar_of, tmp_path):
    asked = {"from": "staging", "after": "2h"}
    pillar_of("web1", {"blog": {"hosts": HOSTS, "promote": asked}})
    assert store.Store(tmp_path / "store", "blog").promotion() == {**asked, "approve": 0}
    pillar_of("web1", {"blog": {"hosts": HOSTS}})
    assert store.Store(tmp_path / "store", "blog").promotion() == {}


def test_checks_of_a_site_are_kept_for_the_runner_and_their_token_stays_with_the_master(pillar_of, tmp_path):
    asked = {"kind": "forgejo", "url": "https://git.example.org/api/v1/repos/acme/blog", "token": "of-the-checks"}
    given = pillar_of("web1", {"blog": {"hosts": HOSTS, "checks": asked}})
    kept = store.Store(tmp_path / "store", "blog")
    assert kept.checks() == {**asked, "names": [], "ignore": [], "within": "30m"}
    assert (kept.folder / "checks.json").stat().st_mode & 0o777 == 0o600
    assert given["blog"]["checks"] == {"token": fleet_secrets.WITHHELD}
    pillar_of("web1", {"blog": {"hosts": HOSTS, "checks": {**asked, "kind": "forge\x00jo", "token": 3}}})
    with pytest.raises(DeploymentError, match="the checks of blog have a mistake"):
        kept.checks()
    pillar_of("web1", {"blog": {"hosts": HOSTS}})
    assert kept.checks() == {} and not (kept.folder / "checks.json").exists()


def test_request_waits_for_checks_with_the_token_of_the_masters_sdb(runner, monkeypatch, tmp_path):
    asked = []

    def ask(_user, action):
        asked.append(action.args[1:])
        return network.Answer({"state": "failed" if len(asked) > 1 else "passed", "names": ["test"]}, "", 0.0)

    deployed = played(monkeypatch, runner)
    store.Store(tmp_path, "blog").keep_checks({"kind": "github", "url": "https://git/p", "token": "sdb://vault/x/y"})
    monkeypatch.setattr(runner, "__salt__", {"sdb.get": {"sdb://vault/x/y": "a-token"}.get}, raising=False)
    monkeypatch.setattr(network, "ask", ask)
    assert runner.request("blog")["status"] == "released"
    refused = runner.request("blog", "main")
    assert refused["status"] == "refused" and refused["retcode"] == runner.__context__["retcode"] == 1
    assert deployed == ["b" * 40] and asked == [("a-token", "b" * 40)] * 2


def test_promotion_is_a_request_with_its_plan_and_its_exit_code(runner, monkeypatch, tmp_path):
    """What is judged is in test/engine/fleet/test_promotion.py."""
    blog, staging = store.Store(tmp_path, "blog"), store.Store(tmp_path, "shop-de")
    staging.set_release({"commit": "a" * 40, "sequence": 1, "held": []})
    assert "gets its commits from no other site" in runner.promote("blog")["error"]
    blog.keep_promotion({"from": "shop-de"})
    assert "run: salt-run django.promote blog" in runner.request("blog")["error"]
    judged, deployed = [], []
    monkeypatch.setattr(runner, "_fleet", lambda site, *_arguments, **_options: Mock(site=site, store=blog, by=""))
    monkeypatch.setattr(runner.fleet_promotion, "refuse_unproved", lambda *given: judged.append(given))
    monkeypatch.setattr(runner.fleet_promotion, "plan", lambda *_given: {"packages": {"new": ["x"]}})
    monkeypatch.setattr(runner.record, "told", lambda _fleet, _verb, who, revision, _act: deployed.append(
        (who, revision)) or {"commit": revision})  # fmt: skip
    answer = runner.promote("blog", "aaaaaaaa")
    assert (answer["status"], answer["plan"]) == ("released", {"packages": {"new": ["x"]}})
    assert [one[2].site for one in judged] == ["shop-de"] and deployed == [(judged[0][3].who, "a" * 40)]
    assert runner.requests("blog", full=True)["blog"][0]["by"].endswith("(promote from shop-de)")
    assert runner.approve("blog")["approved_by"] == [judged[0][3].who]

    def fail(*_given):
        raise DeploymentError("start failed on 1 of the hosts:\nweb1: no space left")

    monkeypatch.setattr(runner.record, "told", fail)
    answer = runner.promote("blog")
    assert answer["status"] == "failed" and answer["retcode"] == runner.__context__["retcode"] == 1


def test_sites_are_found_by_pattern_and_tag(pillar_of, tmp_path):
    tags = {"shop-de": ["eu", "shops"], "shop-us": ["shops"], "eu": None, "odd": "eu"}
    folder = tmp_path / "store"
    for _ in range(2):
        pillar_of("web1", {name: {"hosts": HOSTS, "tags": value} for name, value in tags.items()})
    for pattern, names in {
        "shop-*": ["shop-de", "shop-us"],
        "tag:shops": ["shop-de", "shop-us"],
        "tag:eu": ["shop-de"],
        "tag:e?": ["shop-de"],
        "*eu": ["eu"],
        "odd, tag:eu": ["odd", "shop-de"],
    }.items():
        assert store.matching(folder, pattern) == names
    assert not (folder / "odd/tags.json").exists()
    pillar_of("web1", {"shop-de": {"hosts": HOSTS}})
    with pytest.raises(DeploymentError, match="no site with hosts is named tag:eu"):
        store.matching(folder, "tag:eu")


@pytest.mark.parametrize(("grains", "cpus"), [({"num_cpus": 4}, 4), ({"num_cpus": 60000}, 256), ({"num_cpus": "x"}, 0)])
def test_a_minion_is_not_believed_to_have_any_number_of_cpus(pillar_of, monkeypatch, grains, cpus):
    monkeypatch.setitem(CACHED, "grains/web1", GRAINS["web1"] | grains)
    given = pillar_of(
        "db1", {"blog": {"hosts": {"web1": ["app"], "db1": {"parts": ["database"], "address": "10.0.0.5"}}}}
    )
    assert given["blog"]["fleet"]["cpus"] == {"web1": cpus}


def test_an_address_that_is_none_is_left_out(pillar_of, monkeypatch):
    monkeypatch.setitem(CACHED, "grains/web1", {"ipv4": ["x\ny"], "ipv6": ["2001:db8::1%x\nadmin"]})
    assert pillar_of("lb1", {"blog": {"hosts": HOSTS}})["blog"]["fleet"]["addresses"]["web1"] == "2001:db8::1"


def played(monkeypatch, runner, *, fails=""):
    """Have the runner deploy on hosts that are played; return the revisions that it deploys."""
    deployed: list[Any] = []

    def fleet(name, *_arguments, **_options):
        def deploy(revision):
            deployed.append(revision)
            if fails:
                raise DeploymentError(fails)
            return {"commit": "3f2a9c1b77de", "hosts": {}}

        return Mock(
            deploy=deploy,
            abandon=lambda **_options: {},
            commit_of=lambda _revision: "b" * 40,
            site=name,
            store=Mock(folder=Path("/nowhere/x")),
            by="",
            about={},
        )

    monkeypatch.setattr(runner, "_fleet", fleet)
    return deployed


def test_revision_that_salt_has_made_a_number_of_is_requested_and_deployed_nowhere(runner, monkeypatch):
    deployed = played(monkeypatch, runner)
    for verb in (runner.request, runner.deploy):
        answer = verb("blog", 1.1)
        assert answer["error"].startswith("the revision was read as 1.1") and answer["retcode"] == 1
    assert deployed == []


def test_request_is_deployed_and_listed_with_who_asked(runner, monkeypatch):
    deployed = played(monkeypatch, runner)
    monkeypatch.setattr(runner, "__user__", "sudo_ada", raising=False)
    answer = runner.request("blog", "v2.1", wait=False)
    assert (answer["status"], answer["why"]) == ("released", "3f2a9c1b77de is active") and deployed == ["v2.1"]
    ((row,),) = runner.requests("blog", full=True).values()
    assert (row["commit"], row["status"], row["by"]) == ("v2.1", "released", "ada (salt)")
    assert "retcode" not in runner.__context__


def test_request_that_fails_fails_the_runner(runner, monkeypatch):
    played(monkeypatch, runner, fails="web1 is silent")
    answer = runner.request("blog")
    assert (answer["status"], answer["why"], answer["retcode"]) == ("failed", "web1 is silent", 1)
    assert runner.__context__["retcode"] == 1


def test_what_ends_the_deployment_of_a_killed_runner_goes_on_with_requests(runner, monkeypatch, tmp_path):
    deployed = played(monkeypatch, runner)
    runner.fleet_requests.put(store.Store(tmp_path, "blog"), "v3", runner.Caller("ada", how="salt"))
    runner.abandon("blog")
    assert deployed == []
    runner.abandon("blog", own=True)
    assert deployed == ["v3"] and not runner.fleet_requests.is_open(store.Store(tmp_path, "blog"))


@pytest.mark.parametrize("verb", ["promote", "back"])
def test_people_end_the_canary_of_all_hosts(runner, monkeypatch, tmp_path, verb):
    blog, orders = store.Store(tmp_path, "blog"), []
    assert "gets a share of the visitors now" in runner.back("blog")["error"]
    monkeypatch.setattr(runner, "__user__", "sudo_ada", raising=False)
    monkeypatch.setattr(store.Store, "is_deployed", lambda _store, *_: not orders)
    monkeypatch.setattr(store.Store, "set_order", lambda _store, *given: orders.append(given))
    blog.begin("20260301T120000-7")
    (tmp_path / "blog/canary.json").write_text(json.dumps({"deployment": blog.last(), "verb": "", "by": ""}))
    active = "20260301T120000-7" if verb == "promote" else "20260301T110000-6"
    blog.set_release({"commit": "a" * 40, "sequence": 1, "held": []}, active)
    assert getattr(runner, verb)("blog") == {"commit": "a" * 40}
    assert orders == [("20260301T120000-7", verb, f"ada (salt-run django.{verb})")]


def test_deployment_without_a_canary_and_what_ends_that_of_a_request(runner, monkeypatch, tmp_path):
    made = []

    def fleet(name, _verb, _roster, **options):
        made.append(options)
        return Mock(site=name, store=Mock(folder=Path("/nowhere/x")), by="", about={})

    monkeypatch.setattr(runner, "_fleet", fleet)
    monkeypatch.setattr(runner.record, "told", lambda *_given: {"commit": "a" * 40})
    runner.deploy("blog", canary=False)
    runner.deploy("shop-d*", canary=False, full=True)
    runner.deploy("blog")
    assert [one["canary"] for one in made] == [False, False, True]
    runner.request("blog")
    assert made[-1]["is_overtaken"]() is False
    runner.fleet_requests.put(store.Store(tmp_path, "blog"), "v3", runner.Caller("ada", how="salt"))
    assert made[-1]["is_overtaken"]() is True


def test_site_whose_name_yaml_reads_as_another_value_is_found(runner, tmp_path):
    store.Store(tmp_path, "no").make()
    (tmp_path / "no/hosts.json").write_text(json.dumps({"web1": ["app"]}))
    assert runner._store(False).site == "no" and runner._chosen(False) == ["no"]
    assert runner._chosen(None) == ["blog", "no", "shop-de", "shop-fr", "shop-it"]
