"""The execution module through Salt: answers, errors, return codes, and what its outputters print.

What the verbs do is in test_verbs.py.
"""

import ast
import importlib.util
import inspect
import json
import re
from unittest import mock

import pytest
import salt.loader
import salt.utils.args
import yaml
from django_formula.audit import chain
from django_formula.host import distribution
from django_formula.host import file as host_file
from django_formula.verbs import operations, terminal
from django_formula.virtualenv import kept, wheels
from django_formula.watch import spool
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


@pytest.mark.parametrize("verb", ["release", "plan", "request"])
def test_revision_that_salt_has_made_a_number_of_is_refused(call, verb):
    """`django.release blog 1.10` has the number 1.1, and there may be a tag of that name."""
    (given,), _named = salt.utils.args.parse_input(["1.10"], condition=False)
    answer, code = call(verb, "blog", given)
    assert answer.startswith("the revision was read as 1.1") and "refs/tags/1.10" in answer and code == 1
    assert call("status", "blog", full=True)[0][0]["release"] == TWO


@pytest.mark.parametrize(
    ("written", "expected"),
    [("main", "main"), ("2024", "2024"), ('"1.10"', "1.10"), ("null", None), ("v1.10", "v1.10")],
)
def test_revision_is_what_was_written(written, expected):
    (given,), _named = salt.utils.args.parse_input([written], condition=False)
    assert terminal.revision(given) == expected


def test_site_that_is_named_by_a_number_is_none(call):
    answer, code = call("status", 42)
    assert answer.startswith("there is no site '42' on this host (registered: blog)") and code == 1


def test_name_that_yaml_reads_as_false_is_not_no_name(call, monkeypatch):
    """Without a name these verbs are about all sites of the host."""
    asked = []
    monkeypatch.setattr(operations, "status", lambda name: asked.append(name) or (_ for _ in ()).throw(OSError("no")))
    monkeypatch.setattr("django_formula.site.sites.registered", lambda: ["blog", "no"])
    (given,), _named = salt.utils.args.parse_input(["no"], condition=False)
    call("status", given)
    call("status", site=given)
    assert asked == ["no", "no"]


def test_messages_of_a_site_are_on_hold_and_sent_again_as_they_are_asked_for(call, monkeypatch, tmp_path):
    monkeypatch.setattr(spool, "STATE", tmp_path)
    monkeypatch.setattr(spool, "CHANNELS", tmp_path / "channels")
    monkeypatch.setattr(spool, "config", lambda: {"channels": {}})

    def answer(*words):
        return call("notify", *salt.utils.args.parse_input(["quiet", "blog", *words], condition=False)[0])

    until, code = answer("2h", "4711")
    assert until["blog"].startswith("no messages until ") and code == 0
    assert answer("off") == ({"blog": "messages are sent"}, 0)


def test_problem_of_an_upgrade_is_a_return_code(call, monkeypatch):
    monkeypatch.setattr(distribution, "next_release", lambda: distribution.NEXT["debian 12"])
    monkeypatch.setattr(kept, "changes", dict)
    lacking = []
    monkeypatch.setattr(wheels, "without", lambda *_given: lacking)
    view, code = call("upgrade_check")
    assert view.endswith("Debian 13: no problems") and code == 0
    lacking.append(wheels.Lacking("lxml", "4.9.2", "it has no wheel", ""))
    answer, code = call("upgrade_check", "blog", full=True)
    assert (answer["problems"], answer["rows"][-1]["problem"], code) == (1, "it has no wheel", 1)


def test_full_rows_have_every_key(call):
    (row,), code = call("status", full=True)
    assert (row["release"], row["running"], row["managed"], code) == (TWO, True, True, 0)
    assert call("status", "blog", full=True)[0] == [row]
    assert {"damage", "failed", "held_back", "maintenance", "sandbox"} <= {key for key in row if not row[key]}
    rows, code = call("releases", "blog", full=True)
    assert [(row["release"], row["role"]) for row in rows] == [(TWO, "live"), (ONE, "previous")]
    assert call("backups", "blog", full=True) == ([], 0)


def test_view_for_people_has_only_what_has_a_value(call):
    view, code = call("status")
    ((head, *values),) = [text.splitlines() for text in view["sites"]]
    assert (list(view), code) == (["sites"], 0)
    assert head.startswith(f"blog  {TWO}  running  since 20") and values == [
        "    domains: blog.example.org",
        "    uwsgi",
        "    schema: fits",
    ]
    releases, code = call("releases", "blog")
    assert [text.split()[:3] for text in releases] == [[TWO, "live", "good"], [ONE, "previous", "good"]]
    assert call("backups", "blog") == ("none", 0)


@pytest.mark.parametrize(
    ("options", "full", "is_data"),
    [
        ({}, None, False),
        ({"output": "nested"}, None, False),
        ({"output": "json"}, None, True),
        ({"output": "yaml"}, None, True),
        ({"output": "json"}, False, False),
        ({"output": "json", "print_metadata": True}, None, False),  # as salt-ssh calls it
        ({"output": "json", "print_metadata": True}, True, True),
    ],
)
def test_verb_returns_data_when_a_program_reads_it(loaders, world, options, full, is_data):
    world.apply()
    django = loaders({"django": {"sites": {"blog": {}}}}, **options).modules.django
    for verb, arguments in (("status", []), ("releases", ["blog"])):
        answer = getattr(django, verb)(*arguments, full=full)
        assert (isinstance(answer, list) and isinstance(answer[0], dict)) is is_data


ROW = {
    "site": "blog",
    "damage": "",
    "domains": "blog.example.org, www.blog.example.org",
    "release": "0042-3f2a9c1b77de",
    "live_since": "2026-03-01T12:00:00Z",
    "running": True,
    "server": "uwsgi: 12 of 16 busy, 0 waiting, 53211 requests, 0 exceptions",
    "schema": "fits",
    "held_back": "",
    "failed": "",
    "sandbox": "",
    "maintenance": "",
    "backup": "2026-03-01T02:00:00Z",
    "restore_drill": "2026-03-01T03:00:00Z, 3.2 s: good",
    "certificate": "acme, 60 of 90 days left",
    "managed": True,
}


def printed(loaders, verb, answer, **options):
    """Return the lines that `salt-call` prints for what a verb answers."""
    made = loaders({"django": {}})
    out = getattr(getattr(made.modules.django, verb), "__outputter__", "nested")
    return salt.loader.outputters({**made.opts, "color": False, **options})[out]({"local": answer}).splitlines()


def test_status_of_ten_sites_fits_a_screen(loaders):
    names = ["blog", "shop", "wiki", "docs", "api", "newsletter", "intranet", "stats", "forum", "jobs"]
    lines = printed(loaders, "status", terminal.status([{**ROW, "site": name} for name in names]))
    assert 24 <= len(lines) <= 40 and max(map(len, lines)) <= 100
    assert all(any(name in line for line in lines) for name in names)


def test_status_shows_problems_first(loaders):
    long = "a long explanation " * 20
    rows = [
        ROW,
        {
            **ROW,
            "site": "shop",
            "running": False,
            "failed": "0043-abcdefabcdef: static",
            "schema": "missing: 1 migration",
        },
        {**dict.fromkeys(ROW, ""), "site": "torn", "running": None, "damage": long, "managed": False},
        {**ROW, "site": "wiki", "certificate": "acme, 0 of 90 days left; WARNING: wiki.example.org has expired"},
        {**ROW, "site": "docs", "restore_drill": "2026-03-01T03:00:00Z, 3.2 s: failed: damaged", "maintenance": "on"},
        {**ROW, "site": "new", "release": "", "live_since": "", "running": False, "server": ""},
    ]
    view = terminal.status(rows)
    assert [" ".join(text.partition("\n    do: ")[0].split())[:40] for text in view["problems"]] == [
        "shop: 0042-3f2a9c1b77de is not running",
        "shop: failed since the active release: 0043-abcdefabcdef: static"[:40],
        "shop: missing: 1 migration",
        f"torn: {long}"[:40],
        "torn: this minion's pillar does not have it"[:40],
        "wiki: certificate: acme, 0 of 90 days left; WARNING"[:40],
        "docs: restore drill: 2026-03-01T03:00:00Z, 3.2"[:40],
        "new: no release is active",
    ]
    assert view["problems"][0].splitlines()[1:] == ["    do: salt-call state.apply django"]
    assert [text.split()[0] for text in view["sites"]] == ["shop", "torn", "wiki", "docs", "new", "blog"]
    lines = printed(loaders, "status", view)
    assert lines[2] == "    problems:" and max(map(len, lines)) <= 100
    assert terminal.status([]) == "no site is registered on this host"


def test_status_of_one_site_shows_every_value(loaders):
    (text,) = terminal.status([{**ROW, "sandbox": "ProtectHome=false"}])["sites"]
    shown = [key for key in ROW if str(ROW[key]) in text and ROW[key] not in ("", True)]
    assert set(shown) == {key for key in ROW if ROW[key]} - {"running", "managed"}
    assert "sandbox: ProtectHome=false" in text and text.splitlines()[0].split()[2] == "running"


def test_long_and_odd_values_stay_within_a_hundred_columns(loaders):
    odd = "\x1b[31m" + "Grüße 日本 {0} %s\n" * 9 + "x" * 300
    row = {"release": "0002-93850b1145f5", "role": "live", "state": "good", "age": "21 s", "health": "runs"}
    row |= {"schema": "fits", "subject": odd, "asked_by": "root", "failure": odd}
    lines = printed(loaders, "releases", terminal.releases([row, {**row, "role": "previous"}]))
    assert max(map(len, lines)) <= 100 and "\x1b" not in "".join(lines)
    lines = printed(loaders, "status", terminal.status([{**ROW, "failed": odd, "domains": odd}]))
    assert max(map(len, lines)) <= 100 and "\x1b" not in "".join(lines)
    row = {"backup": "20260301T120000Z", "age": "3 h", "size": "3 MB", "why": "timer", "release": "0002-93850b1145f5"}
    lines = printed(loaders, "backups", terminal.backups([{**row, "rows": 7, "verified": ""}]))
    assert lines[1:] == [
        "    - 20260301T120000Z  3 h  3 MB",
        "          why: timer | release: 0002-93850b1145f5 | rows: 7",
    ]


def test_output_of_inspect_is_yaml_without_its_first_line(loaders):
    made = loaders({})
    text = made.modules.django.inspect(str(ROOT / "examples/project"))
    lines = printed(loaders, "inspect", text)
    pillar = yaml.safe_load(text)
    assert lines[0] == "local:" and all(line.startswith("    ") for line in lines[1:])
    assert yaml.safe_load("\n".join(lines[1:])) == pillar and yaml.safe_load("\n".join(lines)) == {"local": pillar}
    assert "# guessed" in "".join(lines)


def test_status_shows_the_only_site_when_its_files_are_damaged(call, world):
    world.site.applied.write_text("{")
    view, code = call("status")
    assert "the applied configuration of blog, is missing or damaged" in " ".join(view["problems"][0].split())
    assert view["sites"][0].startswith("blog") and code == 1


@pytest.mark.parametrize(
    ("file", "content", "damage"),
    [
        ("site.json", "{", "site.json, the applied configuration of shop, is missing or damaged"),
        ("current/release.json", "", "current/release.json is missing or damaged: state.apply makes a new release"),
        ("current/release.json", '{"facts": [], "inputs": 1}', "current/release.json is missing or damaged"),
    ],
)
def test_status_shows_other_sites_when_files_of_one_are_damaged(call, world, make_site, file, content, damage):
    shop = make_site("shop")
    shop.register()
    for path in ("site.json", "releases/0001-abcdefabcdef/release.json"):
        (shop.root / path).parent.mkdir(parents=True, exist_ok=True)
    host_file.write_json(shop.applied, {"config": dict(shop.config), "platform": dict(shop.platform)})
    shop.current.symlink_to("releases/0001-abcdefabcdef")
    record = {"state": "good", "commit": "", "inputs": {}, "facts": {"folder": ".", "application": "blog.wsgi"}}
    (shop.current / "release.json").write_text(json.dumps(record))
    rows, code = call("status", full=True)
    assert [(row["site"], row["damage"], code) for row in rows] == [("blog", "", 0), ("shop", "", 0)]
    (shop.root / file).write_text(content)
    view, code = call("status")
    assert "".join(damage.split()) in "".join(view["problems"][0].split()) and code == 1
    (blog, damaged), code = call("status", full=True)
    assert (blog["site"], blog["release"], blog["damage"], code) == ("blog", TWO, "", 1)
    assert damage in damaged["damage"] and list(damaged) == list(blog) and not damaged["managed"]


def test_release_and_rollback_report_the_active_release(call, world):
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
        ("manage", ["blog", "check 'x"], 'cannot split "check \'x" into words: No closing quotation'),
        ("logs", ["shop"], "there is no site 'shop' on this host (registered: blog)"),
        ("config", ["shop"], "there is no site 'shop' on this host (registered: blog)"),
    ],
)
def test_error_is_returned_as_text_with_return_code_1(call, verb, arguments, message):
    answer, code = call(verb, *arguments)
    assert (answer.splitlines()[0], code) == (message, 1)


@pytest.mark.parametrize(
    ("verb", "argument", "given"),
    [
        *[(verb, "folder", value) for verb in ("page", "compose") for value in (5, "", ["/srv"])],
        *[("inspect", "source", value) for value in (5, "", ["/srv"])],
        *[("inspect", "deploy_key", 5), ("rebuild", "identity", 5), ("save_images", "file", 5)],
        *[("load_images", "file", 5), ("rotate_database_password", "database", ["default"])],
    ],
)
def test_argument_that_is_no_path_is_refused(call, own_host, monkeypatch, verb, argument, given):
    """Salt reads a number as one, and an empty path would be the folder in which a minion was started."""
    (own_host / "shop").mkdir()
    (own_host / "shop/manage.py").write_text("")
    monkeypatch.chdir(own_host / "shop")
    others = {"inspect": {"source": "/srv/blog"}, "rebuild": {}, "page": {}}.get(verb, {"site": "blog"})
    answer, code = call(verb, **others | {argument: given})
    text = "the pillar of blog has no database" if argument == "database" else f"{argument}: expected a path"
    assert code == 1 and answer.startswith(text)
    assert [*(own_host / "shop").iterdir()] == [own_host / "shop/manage.py"]


@pytest.mark.parametrize("timeout", ["soon", 5])
def test_invalid_timeout_is_refused(call, timeout):
    answer, code = call("manage", "blog", "check", timeout=timeout)
    assert (answer.splitlines()[0], code) == (f"{timeout!r} is not a duration", 1)


def test_what_a_project_prints_cannot_write_to_the_terminal(call, monkeypatch):
    printed = "\x1b[31mred\x1b[0m\n\x1b]0;title\x07\x85\u2028\u202e\x9b2J\tend\n"
    monkeypatch.setattr(operations, "manage", lambda *_, **__: printed)
    assert call("manage", "blog", "shout") == ("red\n\\x1b]0;title\\x07\\x85\\u2028\\u202e\\x9b2J\tend\n", 0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["showmigrations --list 'a b'"], ["showmigrations", "--list", "a b"]),
        (["loaddata", "a b", 5], ["loaddata", "a b", "5"]),
        ([], []),
    ],
)
def test_management_command_is_several_words_or_one_string(call, world, words, expected):
    assert call("manage", "blog", *words) == ("printed by the command\n", 0)
    assert world.commands[-1][world.commands[-1].index("manage.py") + 1 :] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["on", "back at 14:00"], ("on", "back at 14:00")),
        ([True, 14 * 60], ("on", "14:00")),  # as Salt reads on and 14:00
        (["on", (14 * 60 + 30) * 60 + 5], ("on", "14:30:05")),
        (["on", 5], ("on", "5")),
        ([False], ("off", None)),
        ([], ("off", None)),
    ],
)
def test_maintenance_accepts_values_that_salt_parsed_as_yaml(call, arguments, expected):
    answer, code = call("maintenance", "blog", *arguments)
    assert (answer["maintenance"], answer.get("message"), code) == (*expected, 0)
    row = call("status", full=True)[0][0]
    assert row["maintenance"].endswith(expected[1] or "")


def functions(path):
    """Return the public functions of a module of Salt, by name."""
    nodes = ast.parse((ROOT / path).read_text()).body
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


#: Arguments with which each function can be called here; `blog` by default.
CALLED = {
    "status": [],
    "history": [],
    "record": ["blog"],
    "manage": ["blog", "check --password=hunter2"],
    "superuser": ["blog", "ada", "ada@example.org", "createsuperuser --password hunter2"],
    "run": ["blog", "nightly"],
    "notify": ["test"],
    "maintenance": ["blog", "off"],
    "queue": ["blog", False, True],
    "page": ["srv/status"],
    "inspect": ["/nowhere"],
    "compose": ["blog", "/nowhere"],
    "save_images": ["blog", "/nowhere/x.tar"],
    "request": ["shop"],
    "load_images": ["blog", "/nowhere/x.tar"],
}
READING = {
    "status", "releases", "steps", "requests", "record", "doctor", "drift", "schedules", "backups", "check", "workers",
    "history", "inspect", "upgrade_check", "proof",
}  # fmt: skip


@pytest.mark.parametrize("verb", functions("_modules/django.py"))
def test_every_verb_reads_or_leaves_two_lines(call, verb):
    path = chain.current()
    before = len(path.read_text().splitlines())
    call(verb, *CALLED.get(verb, ["blog"]))
    lines = [json.loads(line) for line in path.read_text().splitlines()[before:]]
    assert [line["verb"] for line in lines] == ([] if verb in READING else [verb, verb])
    assert chain.broken()[0] == "" and "hunter2" not in path.read_text()
    if lines:
        assert lines[0]["result"] == "begun" and lines[1]["result"].startswith(("done", "failed: "))


@pytest.mark.parametrize("verb", ["maintenance", "queue", "notify"])
def test_verb_that_is_given_nothing_to_do_leaves_no_line(call, verb):
    before = chain.current().read_bytes()
    call(verb, *([] if verb == "notify" else ["blog"]))
    assert chain.current().read_bytes() == before


def test_full_disk_is_a_warning_in_the_answer(call, monkeypatch):
    monkeypatch.setattr(chain, "append", mock.Mock(side_effect=OSError(28, "No space left on device")))
    answer, code = call("release", "blog")
    assert code == 0 and answer["warnings"][-1].startswith("the audit log has no line of this: No space left")
    answer, code = call("manage", "blog", "check")
    assert code == 0 and answer.endswith(f"No space left on device: {chain.current()}")


VERBS, STATES = functions("_modules/django.py"), functions("_states/django.py")


@pytest.fixture(scope="module")
def documented():
    """Return the documentation of a public function as Salt shows it: `documented("_modules/django.py", "status")`."""
    modules = {}

    def documentation(path, name):
        if path not in modules:
            spec = importlib.util.spec_from_file_location(f"documented_{path[:2]}", ROOT / path)
            modules[path] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[path])
        return inspect.getdoc(getattr(modules[path], name))

    return documentation


@pytest.mark.parametrize(
    ("path", "function"),
    [
        *(("_modules/django.py", one) for one in VERBS.values()),
        *(("_states/django.py", one) for one in STATES.values()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_documentation_describes_every_parameter(documented, path, function):
    given = function.args
    names = [one.arg for one in (*given.args, given.vararg, *given.kwonlyargs) if one]
    lines = documented(path, function.name).splitlines()
    described = [line for line in lines if line.isidentifier() and line in names]
    assert (lines[0][0].isupper(), described) == (True, names)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_on_the_command_line(documented, verb):
    _description, example = documented("_modules/django.py", verb).split("CLI Example:\n\n.. code-block:: bash\n\n")
    assert all(line.startswith(f"    salt-call django.{verb}") for line in example.splitlines())


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_an_example_in_yaml(documented, state):
    _description, example = documented("_states/django.py", state).split(".. code-block:: yaml\n\n")
    ((sentence, declared),) = yaml.safe_load(re.sub(r"{{.*?}}", "rendered", example)).items()
    ((function, arguments),) = declared.items()
    names = {name for argument in arguments for name in argument} | {"name"}
    parameters = [one.arg for one in STATES[state].args.args]
    required = parameters[: len(parameters) - len(STATES[state].args.defaults)]
    assert (function, sentence[-1] != ":") == (f"django.{state}", True)
    assert names <= {*parameters} and {*required} <= names
