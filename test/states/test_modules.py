"""What people call by hand, through Salt: answers, errors and return codes. What is done is in test_verbs.py."""

import ast
import json

import django_host_file
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


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("site.json", "{", "site.json, the configuration of shop as applied, is gone or damaged"),
        ("current/release.json", "", "current/release.json is gone or torn: state.apply makes a new release"),
        ("current/release.json", '{"facts": [], "inputs": 1}', "current/release.json is gone or torn"),
    ],
)
def test_a_site_whose_files_are_damaged_does_not_hide_the_others(call, world, make_site, file, content, told):
    shop = make_site("shop")
    shop.register()
    for path in ("site.json", "releases/0001-abcdefabcdef/release.json"):
        (shop.root / path).parent.mkdir(parents=True, exist_ok=True)
    django_host_file.write_json(shop.applied, {"config": dict(shop.config), "platform": dict(shop.platform)})
    shop.current.symlink_to("releases/0001-abcdefabcdef")
    record = {"state": "good", "commit": "", "inputs": {}, "facts": {"folder": ".", "application": "blog.wsgi"}}
    (shop.current / "release.json").write_text(json.dumps(record))
    rows, code = call("status")
    assert [(row["site"], row["damage"], code) for row in rows] == [("blog", "", 0), ("shop", "", 0)]
    (shop.root / file).write_text(content)
    (blog, damaged), code = call("status")
    assert (blog["site"], blog["release"], blog["damage"], code) == ("blog", TWO, "", 1)
    assert told in damaged["damage"] and list(damaged) == list(blog) and not damaged["managed"]


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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["on", "back at 14:00"], ("on", "back at 14:00")),
        ([True, 14 * 60], ("on", "14:00")),  # as Salt reads on and 14:00
        ([False], ("off", None)),
        ([], ("off", None)),
    ],
)
def test_maintenance_as_salt_reads_it(call, arguments, expected):
    answer, code = call("maintenance", "blog", *arguments)
    assert (answer["maintenance"], answer.get("message"), code) == (*expected, 0)
    row = call("status")[0][0]
    assert row["maintenance"].endswith(expected[1] or "")


def test_every_verb_has_an_example():
    module = ast.parse((ROOT / "_modules/django.py").read_text())
    verbs = [node for node in module.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert len(verbs) > 10
    for verb in verbs:
        text = ast.get_docstring(verb)
        assert "CLI Example:" in text and f"salt-call django.{verb.name}" in text
