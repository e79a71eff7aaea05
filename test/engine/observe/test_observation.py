"""What the formula makes of an observation: text from outside, which may choose among words of the pillar only."""

import json
from typing import Any

import pytest
from django_formula.host import daemons
from django_formula.host.commands import DeploymentError
from django_formula.observe import observation
from django_formula.observe.observation import Variable
from django_formula.process import sandbox, transient
from specimen import configured

FACTS = {"folder": "src", "python_path": ["src/apps"], "settings_module": "blog.settings", "application": "blog.wsgi"}


@pytest.fixture
def answered(monkeypatch):
    """Has an answer for each command, and keeps the command."""

    class Answered:
        answer: Any = None
        command: Any = None

        def run(self, command):
            self.command = command
            if isinstance(self.answer, DeploymentError):
                raise self.answer
            return self.answer if isinstance(self.answer, str) else json.dumps(self.answer)

    found = Answered()
    monkeypatch.setattr(daemons, "has_systemd", lambda: True)
    monkeypatch.setattr(transient, "run_command", found.run)
    return found


def answer(*variables: dict[str, Any]) -> dict[str, Any]:
    return {"stage": "done", "error": "", "attempts": 3, "variables": list(variables)}


def variable(name: str, **feeds: str) -> dict[str, Any]:
    return {"name": name, "place": "blog/settings.py:7", "feeds": feeds}


@pytest.mark.parametrize(
    ("feeds", "options", "word"),
    [
        ({"SECRET_KEY": "whole"}, {}, "secret_key"),
        ({"SECRET_KEY": "part"}, {}, ""),
        (
            {"DATABASES:default:NAME": "part", "DATABASES:default:HOST": "part"},
            {"database": {"engine": "postgres"}},
            "database_url",
        ),
        ({"DATABASES:default:PASSWORD": "whole"}, {"database": {"engine": "postgres"}}, "database_password"),
        ({"DATABASES:other:PASSWORD": "whole"}, {"database": {"engine": "postgres"}}, ""),
        ({"ALLOWED_HOSTS": "element"}, {}, "domains"),
        ({"CELERY_BROKER_URL": "whole"}, {"queue": {"engine": "redis"}}, "celery_broker_url"),
        ({"CACHES:default:LOCATION": "whole"}, {"cache": {"engine": "redis"}}, "cache_url"),
        ({"MEDIA_ROOT": "whole"}, {}, "media_root"),
        ({"SECRET_KEY: {a: b}": "whole"}, {}, ""),
        ({}, {}, ""),
    ],
)
def test_variable_gets_a_word_by_the_setting_that_it_is_in(answered, tmp_path, feeds, options, word):
    answered.answer = answer(variable("KEY", **feeds))
    assert observation.needed(configured(**options), tmp_path, FACTS) == [Variable("KEY", "blog/settings.py:7", word)]


@pytest.mark.parametrize(
    ("word", "options", "lacking"),
    [
        ("database_url", {}, {"database": {"engine": "postgres"}}),
        ("database_url", {"database": {"engine": "sqlite"}}, {}),
        ("celery_broker_url", {}, {"queue": {"engine": "redis"}}),
        ("celery_broker_url", {"queue": {"engine": "redis"}}, {}),
        ("cache_url", {}, {"cache": {"engine": "redis"}}),
        ("cache_url", {"cache": {"engine": "memcached"}}, {}),
        ("secret_key", {}, {}),
        ("", {}, {}),
    ],
)
def test_a_word_may_need_an_option(word, options, lacking):
    assert observation.lacking(configured(**options), [Variable("A", "", word)]) == lacking


@pytest.mark.parametrize("name", ["", "A B", "a: {b: c}", "\x1b[31m", "A\n", "x" * 82, "1A", "A}}{{ 1 }}"])
def test_a_name_that_is_none_is_left_out(answered, tmp_path, name):
    answered.answer = answer(variable(name), variable("KEY"))
    assert [one.name for one in observation.needed(configured(), tmp_path, FACTS)] == ["KEY"]


@pytest.mark.parametrize("said", ["", "null", "[]", "{}", '{"variables": 1}', "x" * 100, DeploymentError("timed out")])
def test_an_answer_of_no_use_is_none(answered, tmp_path, said):
    answered.answer = said
    assert observation.needed(configured(), tmp_path, FACTS) == []


def test_many_variables_are_not_all_told(answered, tmp_path):
    answered.answer = answer(*(variable(f"V{number}") for number in range(200)))
    assert len(observation.needed(configured(), tmp_path, FACTS)) == 50


def test_the_project_gets_no_secret_and_no_network(answered, tmp_path):
    site = configured(
        environment={"KEY": {"from": "secret_key"}, "MODE": "live"},
        secrets={"TOKEN": "hunter2", "PIN": {"generate": 20}},
    )
    answered.answer = answer(variable("TOKEN"), variable("KEY"), variable("MODE"), variable("OTHER"))
    assert [one.name for one in observation.needed(site, tmp_path, FACTS)] == ["OTHER"]
    command = answered.command
    assert command.closed and "hunter2" not in command.stdin
    given = json.loads(command.stdin[command.stdin.rindex('{"root"') :])["given"]
    assert given == dict.fromkeys(["KEY", "PIN", "TOKEN"], "x" * 50)
    open_ = sandbox.directives(site, tmp_path, FACTS)
    closed = sandbox.without_secrets(site, open_)
    assert ("EnvironmentFile", f"{site.secrets}/environment") in open_
    assert [value for name, value in closed if name == "EnvironmentFile"] == [f"{tmp_path}/config/environment"]
    assert {("SystemCallFilter", "~@network-io"), ("InaccessiblePaths", str(site.secrets))} <= {*closed}
    assert len(dict(closed)["MemoryMax"]) and [name for name, _value in closed].count("TasksMax") == 1


def test_no_unit_of_systemd_no_observation(answered, tmp_path, monkeypatch):
    monkeypatch.setattr(daemons, "has_systemd", lambda: False)
    answered.answer = answer(variable("KEY"))
    assert observation.needed(configured(), tmp_path, FACTS) == []
