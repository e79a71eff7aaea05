"""The workers of a site as the engine sees them: configuration of a release, and what their programs report."""

import errno
import importlib
import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from django_formula.deploy import inputs as deploy_inputs
from django_formula.release import templates
from django_formula.untrusted.foreign import Foreign
from django_formula.worker import workers as worker_workers
from specimen import FACTS, ROOT, configured, formula_templates

STATE = {"pid": 42, "time": 1.5, "fetching": True, "active": 2, "reserved": 6, "done": 10, "tasks": ["shop.tasks.a"]}


def state(tmp_path: Path, text: str) -> worker_workers.State | None:
    (tmp_path / "state").write_text(text)
    return worker_workers.state(Foreign(tmp_path))


def test_state_is_what_the_program_reports(tmp_path):
    assert worker_workers.state(Foreign(tmp_path)) is None
    assert worker_workers.state(Foreign(tmp_path / "gone")) is None
    found = state(tmp_path, json.dumps(STATE))
    assert found == worker_workers.State(42, 1.5, True, 2, 6, 10, ("shop.tasks.a",))
    minimal = state(tmp_path, json.dumps({"pid": 1, "time": 1, "fetching": False, "active": None}))
    assert minimal == worker_workers.State(1, 1, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        json.dumps({**STATE, "pid": "42"}),
        json.dumps({**STATE, "fetching": 1}),
        json.dumps({**STATE, "active": 1.5}),
        json.dumps({**STATE, "done": 1 << 70}),
        json.dumps({**STATE, "time": float("nan")}),
        json.dumps({**STATE, "tasks": [1]}),
        json.dumps({**STATE, "outcomes": {"a": {"done": 1}}}),
        json.dumps({**STATE, "outcomes": {"a": {"done": 1, "raised": {"KeyError": "1"}}}}),
        json.dumps({**STATE, "tasks": ["x" * (1 << 17)]}),
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
)
def test_state_of_another_shape_is_none(tmp_path, text):
    assert state(tmp_path, text) is None


@pytest.mark.parametrize("counts", [{"active": -1}, {"done": 10**13}, {"reserved": 10**4000}, {"pid": -1}])
def test_state_with_numbers_that_cannot_be_is_none(tmp_path, counts):
    assert state(tmp_path, json.dumps({**STATE, **counts})) is None


def test_state_of_a_unit_that_has_ended_is_none(tmp_path):
    assert worker_workers.state(Foreign(tmp_path / "django-blog-0042-mail")) is None


def test_names_of_tasks_are_bounded_and_printable(tmp_path):
    names = ["a\x1b[2J", "b\n", *(f"{number:0300}" for number in range(150))]
    found = state(tmp_path, json.dumps({**STATE, "tasks": names}))
    assert found and len(found.tasks) == 98 and {len(name) for name in found.tasks} == {200}


def test_ends_of_tasks_are_bounded_and_printable(tmp_path):
    rows = {f"{number:03}{'x' * 300}": {"done": 1, "raised": {}} for number in range(80)}
    raised = {f"Error{number}": number for number in range(9)}
    odd = {
        "a\x1b[2J": {"done": 1, "raised": {}},
        "b": {"done": -1, "raised": {}},
        "c": {"done": 3, "raised": {"E\n": 1}},
        "d": {"done": 10, "raised": raised},
    }
    found = state(tmp_path, json.dumps({**STATE, "outcomes": {**odd, **rows}}))
    assert found and len(found.outcomes) == 47 and max(map(len, found.outcomes)) == 200
    assert found.outcomes["d"] == worker_workers.Outcome(10, {f"Error{number}": number for number in range(5)})
    assert {"b", "c"}.isdisjoint(found.outcomes)


def test_state_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text(json.dumps(STATE))
    (tmp_path / "state").symlink_to(tmp_path / "secret")
    assert worker_workers.state(Foreign(tmp_path)) is None


def test_site_without_workers_has_no_file_more_and_the_inputs_of_before():
    without, empty = configured(), configured(workers={})
    assert without.config == empty.config and "workers" not in without.config
    variables = {"chdir": "/x", "facts": FACTS}
    assert worker_workers.configuration(without, Path("/srv/0042-x"), variables, {}) == {}
    assert worker_workers.programs(without) == [] and worker_workers.start_request(without, FACTS) == {}
    assert not [name for name in templates.of_kinds(without.config) if "worker" in name or "celery" in name]
    inputs = deploy_inputs._configuration(without)
    assert "workers" not in inputs


def test_release_records_its_workers(tmp_path):
    site = configured(workers={"default": {"kind": "celery", "patience": "2h"}, "beat": {"kind": "celery_beat"}})
    release = tmp_path / "0042-x"
    (release / "config").mkdir(parents=True)
    files = worker_workers.configuration(site, release, {"chdir": "/x", "facts": FACTS}, formula_templates())
    for name, text in files.items():
        (release / "config" / name).write_text(text)
    recorded = {"default": {"kind": "celery", "patience": 7200}, "beat": {"kind": "celery_beat", "patience": 600}}
    assert worker_workers.recorded(release) == recorded
    given = json.loads(files["worker-default.json"])
    assert given["unit"] == "django-blog-0042-default" and given["run"] == "/srv/django/blog/runtime/0042-default"
    assert given["processes"] == 2 and given["queues"] is None and given["switch"] == "/run/django/blog.switch"
    programs = {url.rpartition("/")[2] for url in worker_workers.programs(site)}
    assert programs <= {*files} and "django_formula_celery_app.py" in programs
    (release / "config/workers.json").write_text('{"x": {"kind": "later", "patience": 1}}')
    assert worker_workers.recorded(release) == {}


def test_only_workers_with_a_schedule_may_write_to_its_folder():
    site = configured(workers={"default": {"kind": "celery"}, "beat": {"kind": "celery_beat"}})
    workers = worker_workers.configured(site)
    assert workers["default"].writable(site) == [] and workers["beat"].writable(site) == [site.beat.top]
    assert site.beat.top in [folder.path for folder in site.folders()]
    assert configured().beat.top not in [folder.path for folder in configured().folders()]


def test_management_command_of_a_project_without_manage_py_is_django_s_own(tmp_path):
    site = configured(workers={"feed": {"kind": "command", "command": "./manage.py feed 'a b'", "ready": "2s"}})
    release = tmp_path / "0042-x"
    (release / "source").mkdir(parents=True)
    kind, worker = worker_workers.configured(site)["feed"], site.config["workers"]["feed"]
    facts = {**FACTS, "folder": "."}
    python = f"{release}/virtualenv/bin/python"
    assert kind.settings(site, release, facts, worker) == {
        "argv": [python, "-m", "django", "feed", "a b"],
        "processes": 1,
        "stop": "SIGTERM",
        "ready_after": 2.0,
    }
    (release / "source/manage.py").touch()
    assert kind.settings(site, release, facts, worker)["argv"][:2] == [python, "manage.py"]


def test_worker_goes_on_while_the_disk_is_full(tmp_path, monkeypatch):
    """Without a report, it counts as one that takes tasks."""
    monkeypatch.syspath_prepend(str(ROOT / "django/files"))
    program = importlib.import_module("django_formula_worker")
    report = program.Report({"run": str(tmp_path)})
    report.write(False)
    with monkeypatch.context() as disk:
        disk.setattr(program.os, "write", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        report.write(True, active=1)
        with pytest.raises(OSError, match="No space left"):  # a process of RQ takes no job of which it cannot tell
            program.Report({"run": str(tmp_path)}, "state-0").write(True)
    assert worker_workers.state(Foreign(tmp_path)) is None
    report.write(True, active=1)
    assert worker_workers.state(Foreign(tmp_path)).active == 1
