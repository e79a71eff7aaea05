"""What the formula makes of an observation: text from outside, which may choose among words of the pillar only."""

import json
from typing import Any

import pytest
import yaml
from django_formula.host import daemons
from django_formula.host.commands import DeploymentError
from django_formula.observe import observation, report
from django_formula.observe.observation import Variable
from django_formula.process import sandbox, transient
from observed import LIE, answer, variable
from specimen import configured

ELSEWHERE = {"engine": "postgres", "manage": False, "host": "db1", "user": "blog", "password": "x" * 20}
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
        ({"DATABASES:default:PASSWORD": "whole"}, {"database": ELSEWHERE}, "database_password"),
        ({"DATABASES:default:HOST": "whole"}, {"database": ELSEWHERE}, "database_host"),
        ({"DATABASES:default:PASSWORD": "whole"}, {"database": {"engine": "postgres"}}, "unused"),
        ({"DATABASES:default:HOST": "whole"}, {"database": {"engine": "postgres"}}, "unused"),
        ({"DATABASES:default:HOST": "whole"}, {}, "unused"),
        ({"DATABASES:default:USER": "whole"}, {"database": {"engine": "postgres"}}, "database_user"),
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
    answered.answer = answer(variable("KEY", feeds))
    found = observation.needed(configured(**options), tmp_path, FACTS)
    assert [(one.name, one.place, one.word) for one in found] == [("KEY", "blog/settings.py:7", word)]


@pytest.mark.parametrize(
    ("word", "options", "lacking"),
    [
        ("database_url", {}, {"database": {"engine": "postgres"}}),
        ("database_url", {"database": {"engine": "sqlite"}}, {}),
        ("unused", {}, {"database": {"engine": "postgres"}}),
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


@pytest.mark.parametrize(
    "said",
    [
        answer(variable(LIE), variable("KEY")),
        answer(variable("KEY", {LIE: "whole", "SECRET_KEY:{}": "whole", "SECRET_KEY": LIE})),
        answer(variable("KEY", place=LIE, default=LIE, kind=LIE)),
        answer(variable("KEY"), stage=LIE, error=LIE),
        answer(variable("KEY"), facts={"databases": {LIE: LIE}, "routes": [LIE] * 300, "logs": [LIE]}),
        answer(*(variable(f"V{number}", {"SECRET_KEY": "whole"}) for number in range(480)), variable("KEY")),
    ],
    ids=["name", "settings", "texts", "stage", "facts", "many"],
)
def test_a_lie_is_text_of_one_line_and_chooses_no_word(said, tmp_path):
    """Jinja, YAML, control characters and thousands of variables, in each place that an answer has."""
    found = observation.parse(json.dumps(said), [])
    assert found.variables[-1].name == "KEY" and found.stage in ("done", "") and len(found.variables) < 500
    assert all(one.word in ("", "secret_key") for one in found.variables) and found.variables[-1].word == ""
    printed = report.text(configured(), "0001-abc", found)
    assert yaml.safe_load(printed.replace("{{", "")) in (None, PILLAR) or len(found.variables) > 400
    assert "{{" not in printed and "\x1b" not in printed and "\u202e" not in printed
    comments = [line for line in printed.splitlines() if line.startswith("#")]
    assert len(printed) < 300_000 and comments and all(len(one) <= 300 for one in [found.error, *found.facts])


#: The part of a pillar for a variable that only its owner knows is none.
PILLAR: Any = None


def test_an_answer_that_is_too_long_is_none():
    with pytest.raises(DeploymentError, match="more than 256 KiB"):
        observation.parse(json.dumps(answer(*(variable(f"V{number}") for number in range(10_000)))), [])


def test_a_variable_that_no_site_can_set_is_left_out():
    said = answer(*map(variable, ("LD_PRELOAD", "LISTEN_FDS", "DJANGO_RELEASE", "KEY")))
    assert [one.name for one in observation.parse(json.dumps(said), []).variables] == ["KEY"]


def test_a_secret_in_an_answer_is_masked():
    found = observation.parse(
        json.dumps(answer(variable("KEY", default="canary-5f1c"), error="canary-5f1c")), [], ["canary-5f1c"]
    )
    assert "canary" not in str(found)


def test_report_has_what_is_required_as_a_part_of_a_pillar():
    said = answer(
        variable("KEY", {"SECRET_KEY": "whole"}),
        variable(
            "URL", {"DATABASES:default:NAME": "part", "DATABASES:default:HOST": "part"}, required=False, together=True
        ),
        variable("OWN_SALT", {"SALT": "whole"}),
        variable("REGION", default="'north'", required=False),
        facts={"eager": ["Celery: task_always_eager"], "databases": {"default": "django.db.backends.dummy"}},
    )
    printed = report.text(configured(), "0001-abc", observation.parse(json.dumps(said), []))
    assert printed.splitlines() == [
        "# blog, asked of 0001-abc",
        "#   started without network, secrets and database (3 attempts)",
        "#   databases: default: django.db.backends.dummy",
        "#   tasks run in the process that asks for them, not in a worker: Celery: task_always_eager",
        "#   a database that only these variables make together: URL",
        "#   KEY: required; read in blog/settings.py:7; in SECRET_KEY",
        "#   OWN_SALT: required; read in blog/settings.py:7; in SALT",
        "#   REGION: without it 'north'; read in blog/settings.py:7",
        "#   URL: not required; read in blog/settings.py:7; in DATABASES:default:NAME (a part of it),",
        "#     DATABASES:default:HOST (a part of it)",
        "django:",
        "  sites:",
        "    blog:",
        "      environment:",
        "        KEY: {from: secret_key}",
        "        URL: {from: database_url}",
        "      secrets:",
        "        OWN_SALT: {generate: 50}",
        "      database: {engine: postgres}",
    ]


@pytest.mark.parametrize("name", ["", "A B", "a: {b: c}", "\x1b[31m", "A\n", "x" * 82, "1A", "A}}{{ 1 }}"])
def test_a_name_that_is_none_is_left_out(answered, tmp_path, name):
    answered.answer = answer(variable(name), variable("KEY"))
    assert [one.name for one in observation.needed(configured(), tmp_path, FACTS)] == ["KEY"]


@pytest.mark.parametrize("said", ["", "null", "[]", "{}", '{"variables": 1}', "x" * 100, DeploymentError("timed out")])
def test_an_answer_of_no_use_is_none(answered, tmp_path, said):
    answered.answer = said
    assert observation.needed(configured(), tmp_path, FACTS) == []


def test_a_release_that_was_asked_for_all_is_not_asked_again(answered, tmp_path):
    answered.answer = answer(variable("KEY"), variable("OTHER", required=False))
    observation.of(configured(), tmp_path, FACTS, everything=True)
    answered.answer = DeploymentError("asked again")
    assert [one.name for one in observation.needed(configured(), tmp_path, FACTS)] == ["KEY"]


def test_many_variables_are_not_all_told(answered, tmp_path):
    answered.answer = answer(*(variable(f"V{number}") for number in range(1000)))
    assert len(observation.needed(configured(), tmp_path, FACTS)) == 500


def test_the_project_gets_no_secret_and_no_network(answered, tmp_path):
    site = configured(
        environment={"KEY": {"from": "secret_key"}, "MODE": "live"},
        secrets={"TOKEN": "hunter2", "PIN": {"generate": 20}},
    )
    answered.answer = answer(variable("TOKEN"), variable("KEY"), variable("MODE"), variable("OTHER"))
    assert [one.name for one in observation.needed(site, tmp_path, FACTS)] == ["OTHER"]
    command = answered.command
    assert command.closed and "hunter2" not in command.stdin
    given = json.loads(command.stdin)["given"]
    assert given == {**dict.fromkeys(["PIN", "TOKEN"], "x" * 50), "KEY": "none-in-a-build".ljust(50, "-")}
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
