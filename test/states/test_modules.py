"""What people call by hand, through Salt: answers, errors and return codes. What is done is in test_verbs.py."""

import ast

import pytest
from specimen import ROOT
from world import commit

ONE, TWO = f"0001-{commit('one')[:12]}", f"0002-{commit('two')[:12]}"


@pytest.fixture
def call(loaders, world):
    """Call a verb: `call("status")`; the answer, and the return code that Salt would end with."""
    world.apply()
    world.push("two")
    world.apply()
    made = loaders({"django": {"sites": {"blog": {}}}})

    def call(verb, *arguments, **named):
        made.context.pop("retcode", None)
        answer = getattr(made.modules.django, verb)(*arguments, **named)
        return answer, made.context.get("retcode", 0)

    return call


def test_what_runs(call, monkeypatch):
    (row,), code = call("status")
    assert (row["release"], row["running"], row["managed"], code) == (TWO, True, True, 0)
    assert call("status", "blog")[0] == [row]
    rows, code = call("releases", "blog")
    assert [(row["release"], row["role"]) for row in rows] == [(TWO, "live"), (ONE, "previous")]


def test_releasing_and_going_back(call, world):
    answer, code = call("release", "blog")
    assert (answer["release"], code) == (world.live, 0) and world.live.startswith("0003-")
    assert set(answer) == {"release", "took", "changes"} and answer["changes"]["live"]["live"]["new"] == world.live
    answer, code = call("rollback", "blog")
    assert (answer["release"], code) == (TWO, 0)
    world.check()


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("status", ["shop"], "there is no site 'shop' on this host (registered: blog)"),
        ("releases", ["../blog"], "there is no site '../blog' on this host (registered: blog)"),
        ("release", ["blog", "gone"], "source: asking for gone: there is no such branch"),
        ("manage", ["blog", "check 'x"], '"check \'x" is no command: No closing quotation'),
        ("logs", ["shop"], "there is no site 'shop' on this host (registered: blog)"),
        ("config", ["shop"], "there is no site 'shop' on this host (registered: blog)"),
    ],
)
def test_an_error_is_text_and_a_return_code(call, verb, arguments, message):
    answer, code = call(verb, *arguments)
    assert (answer.splitlines()[0], code) == (message, 1)


@pytest.mark.parametrize("timeout", ["soon", 5])
def test_a_timeout_that_is_none(call, timeout):
    answer, code = call("manage", "blog", "check", timeout=timeout)
    assert (answer.splitlines()[0], code) == (f"{timeout!r} is no duration", 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["showmigrations --list 'a b'"], ["showmigrations", "--list", "a b"]),
        (["loaddata", "a b", 5], ["loaddata", "a b", "5"]),
        ([], []),
    ],
)
def test_a_command_of_words_or_of_one_string(call, world, words, expected):
    assert call("manage", "blog", *words) == ("printed by the command\n", 0)
    assert world.commands[-1][world.commands[-1].index("manage.py") + 1 :] == expected


def test_every_verb_has_an_example():
    module = ast.parse((ROOT / "_modules/django.py").read_text())
    verbs = [node for node in module.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert len(verbs) > 10
    for verb in verbs:
        text = ast.get_docstring(verb)
        assert "CLI Example:" in text and f"salt-call django.{verb.name}" in text
