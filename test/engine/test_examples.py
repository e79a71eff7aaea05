"""The pillars of examples/ and of test/projects are valid; tests on hosts apply them."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
import salt.utils.data
import yaml
from django_formula.pillar import compiler
from engine.database import test_served
from specimen import compiled

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "test/projects").glob("*.yaml"))
PILLARS = sorted((ROOT / "examples/pillars").glob("*.sls"))
REQUIRED = {"about", "versions", "owner", "pillar", "pages"}
OPTIONAL = {"debian", "host", "write", "read", "work", "run"}


@pytest.mark.parametrize("path", PILLARS, ids=lambda path: path.stem)
def test_a_pillar_is_valid(path: Path) -> None:
    schema, platforms = (
        yaml.safe_load((ROOT / "django" / name).read_text()) for name in ("schema.yaml", "platforms.yaml")
    )
    grains = {"os_family": "Debian", "osmajorrelease": 13, "init": "systemd"}
    result = compiler.compile(yaml.safe_load(path.read_text()), schema, platforms, grains)
    assert result["errors"] == [] and result["sites"]


@pytest.mark.parametrize(
    ("host", "place"), {"web1": "sites", "jobs1": "sites", "db1": "served", "lb1": "balanced"}.items()
)
def test_the_pillar_of_several_hosts_is_valid_on_each(host: str, place: str) -> None:
    """`test/hosts/test_fleet_example.py` applies it; here is what the master would add."""
    example: dict[str, Any] = yaml.safe_load((ROOT / "examples/fleet.sls").read_text())["django"]["sites"]["blog"]
    example["fleet"] = test_served.pillar()["fleet"]
    example["fleet"]["passwords"] |= {"redis": "5e" * 32, "cache": "hunter2-and-more"}
    found = test_served.on(host, {"blog": {**example, "secret_key": "at-least-twenty-characters"}})
    assert found["errors"] == [] and [*found[place]] == ["blog"]


def test_they_fit_on_one_host() -> None:
    sites = [name for path in PILLARS for name in yaml.safe_load(path.read_text())["django"]["sites"]]
    assert len(sites) == len(set(sites)) > 4


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_whole(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    assert REQUIRED <= recipe.keys() <= REQUIRED | OPTIONAL
    assert recipe["versions"] and all(isinstance(version, str) for version in recipe["versions"])
    site = {"repository": "/srv/x", "domains": [f"{path.stem}.example.org"], **recipe["pillar"]}
    assert compiled({path.stem: site})["errors"] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_gives_its_workers_tasks_and_runs_its_schedule(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    assert ("work" in recipe) is ("workers" in recipe["pillar"])
    assert recipe.get("run") in recipe["pillar"].get("schedules", [None])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_programs_of_a_recipe_fit_into_a_shell_command(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    programs = []
    if "read" in recipe:
        assert recipe["read"].keys() == {"program", "expected"}
        programs += [recipe["read"]["program"]]
    if "work" in recipe:
        assert recipe["work"].keys() == {"enqueue", "done", "tasks"} and recipe["work"]["tasks"] >= 1
        programs += [recipe["work"]["enqueue"], recipe["work"]["done"]]
    for program in programs:
        compile(program, path.name, "exec")
        assert not {*program} & {*'"$`\\'}, "the shell expands these in double quotes"


SIGNATURE = "sha256=" + hmac.new(b"s3cret", b'{"ref": "refs/heads/main"}', hashlib.sha256).hexdigest()
PUSH = {"ref": "refs/heads/main", "site": "shop", "revision": "evil"}


@pytest.mark.parametrize(
    ("headers", "change", "is_deployed"),
    [
        ({"X-Hub-Signature-256": SIGNATURE}, {}, True),
        ({"X-Gitlab-Token": "s3cret"}, {}, True),
        ({"X-Hub-Signature-256": SIGNATURE}, {"post": {**PUSH, "ref": "refs/heads/draft"}}, False),
        ({"X-Hub-Signature-256": SIGNATURE}, {"body": '{"ref": "refs/heads/main" }'}, False),
        ({"X-Hub-Signature-256": SIGNATURE.replace("sha256=", "")}, {}, False),
        ({"X-Hub-Signature-256": "sha256=ä"}, {}, False),
        ({"X-Gitlab-Token": "s3cre"}, {}, False),
        ({"X-Gitlab-Token": ""}, {"secret": ""}, False),
        ({}, {}, False),
        ({}, {"secret": "\n"}, False),
        ({"X-Hub-Signature-256": SIGNATURE}, {"post": ["ref", "refs/heads/main"]}, False),
    ],
)
def test_the_webhook_deploys_one_site_for_who_knows_the_secret(
    tmp_path: Path, headers: dict[str, str], change: dict[str, Any], is_deployed: bool
) -> None:
    (tmp_path / "secret").write_text(change.get("secret", "s3cret\n"))
    data = {"headers": headers, "body": '{"ref": "refs/heads/main"}', "post": PUSH, **change}
    names: dict[str, Any] = {"data": data, "tag": "salt/netapi/hook/deploy/blog"}
    exec((ROOT / "examples/webhook/deploy.sls").read_text(), names)
    names["SECRET"] = str(tmp_path / "secret")
    answer = names["run"]()
    if is_deployed:  # the reactor reads a list of maps with one key each
        (runner,) = answer.pop("request blog")["runner.django.request"]
        assert salt.utils.data.repack_dictlist(runner["args"]) == {"site": "blog", "wait": False}
    assert answer == {}


@pytest.mark.parametrize("sender", ["web1", "master"])
def test_the_reactor_notes_an_end_of_a_deployment_and_does_nothing(tmp_path: Path, sender: str) -> None:
    end = {"site": "blog", "user": "ada", "commit": "3f2a9c1b77de", "result": "failed", "error": "x" * 9000}
    names: dict[str, Any] = {"data": end if sender == "master" else {"id": sender, "data": end, "cmd": "_minion_event"}}
    exec((ROOT / "examples/events/note.sls").read_text(), names)
    names["FILE"] = str(tmp_path / "deployments")
    assert names["run"]() == {}
    noted = json.loads((tmp_path / "deployments").read_text())
    assert (noted["from"], noted["site"], noted["result"], len(noted["error"])) == (sender, "blog", "failed", 1000)
