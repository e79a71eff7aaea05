import contextlib
import json
import os
import stat
import sys
import types

import pytest
from django_formula.deploy import plan as deploy_plan
from django_formula.deploy import preflight as deploy_preflight
from django_formula.deploy import steps
from django_formula.host import commands, file, proc
from django_formula.host.commands import DeploymentError
from django_formula.process import build_user as process_build_user
from django_formula.release import releases
from django_formula.secret import secrets
from django_formula.source import commits
from specimen import ROOT
from world import commit

ONE, TWO = f"0001-{commit('one')[:12]}", f"0002-{commit('two')[:12]}"


@pytest.fixture
def pushed(world):
    """A world with a live release, and a commit after it."""
    world.options = {"shared": ["data"], "commands": {"after_static": ["manage.py compress"]}}
    world.apply()
    world.push("two")
    world.commands.clear()
    return world


def snapshot(world):
    """Everything on the host: path → content, owner and mode."""
    found = {}
    for path in world.site.root.parents[1].rglob("*"):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = (content, status.st_mode, status.st_uid)
    return {name: value for name, value in found.items() if not name.endswith(("blog/lock", "/build/tmp"))}


def setting(text, digest=None):
    return {"text": text, "hash": digest or str(text)}


def test_a_plan_of_a_new_commit(pushed):
    before = snapshot(pushed)
    plan = deploy_plan.make("blog")
    assert plan["release"] == {"old": ONE, "new": TWO} and plan["commit"]["new"] == commit("two")
    assert plan["restarts"] == [
        "django-blog-0002 starts next to django-blog-0001, which is stopped after the switch once it is idle, "
        "at the latest after 30s",
        "nginx is not reloaded",
    ]
    assert plan.keys() >= {"release", "commit", "restarts"} and plan["gapless"] == "yes"
    assert not plan.keys() & {"packages", "migrations", "settings", "rendered", "refused", "warnings", "not known"}
    assert snapshot(pushed) == before and pushed.live == ONE
    pushed.check()
    assert len(releases.attempts(pushed.site)) == 1
    ran = [" ".join(argv) for argv in pushed.commands if argv[0] == "systemd-run"]
    assert len(ran) == 3 and all(f"--unit=django-blog-plan-{os.getpid()}.service" in line for line in ran)
    assert not any("compress" in line or "django-blog-task" in line for line in ran)


def test_a_plan_asks_for_the_disk_before_it_takes_of_it(pushed, monkeypatch):
    there = []
    refuse = deploy_preflight.refuse_without_disk

    def asked(*arguments, **options):
        there.append(bool(pushed.site.plans()))
        refuse(*arguments, **options)

    monkeypatch.setattr(deploy_preflight, "refuse_without_disk", asked)
    deploy_plan.make("blog")
    assert there == [False]


def test_a_plan_tells_what_the_release_then_does(pushed):
    pushed.options = pushed.options | {"server": {"threads": 2}}
    pushed.requirements, pushed.packages = "django\npillow\n", {"django": "6.0", "pillow": "12.0"}
    pushed.answers = {"static_url": "/files/"}
    pushed.answers["migrations"] = {"default": {"applied": ["blog.0001"], "pending": ["blog.0002"]}}
    list(steps.site(pushed.deployment()))
    plan = deploy_plan.make("blog")
    assert plan["packages"] == {"added": {"pillow": "12.0"}, "changed": {"django": "5.2 → 6.0"}}
    assert plan["changed"] == ["server:threads"] and plan["migrations"] == {"default": ["blog.0002"]}
    nginx = next(text for path, text in plan["rendered"].items() if path.endswith("/django/blog.conf"))
    assert "+threads = 2" in plan["rendered"]["uwsgi.ini"] and "/files/" in nginx
    assert plan["restarts"][1] == "nginx is reloaded: its files change"
    done = pushed.apply()
    assert done["virtualenv"]["virtualenv"].endswith(", shared")
    assert done["migration"]["migrations"] == plan["migrations"] and list(done["proxy"].values()) == [nginx]
    record = releases.Release(pushed.site, TWO).record
    assert record["packages"] == {"django": "6.0", "pillow": "12.0"}


def test_migrations_are_shown_with_all_that_the_start_says_of_them(pushed):
    operation = {**BREAKS, "class": "data", "way": "", "sql": "UPDATE …"}
    schema = {"default": [{"name": "blog.0002", "class": "data", "reversible": True, "operations": [operation]}]}
    pushed.answers["migrations"] = {"default": {"applied": ["blog.0001"], "pending": ["blog.0002"]}}
    pushed.answers["schema"] = schema
    assert deploy_plan.make("blog")["migrations"] == schema


BREAKS = {"operation": "RemoveField", "model": "blog.Post", "field": "title", "class": "breaking", "why": "gone"}


def test_a_plan_says_why_the_release_would_be_refused(pushed):
    operation = {**BREAKS, "way": "remove it later"}
    schema = {"default": [{"name": "blog.0002", "class": "breaking", "reversible": True, "operations": [operation]}]}
    pushed.answers["migrations"] = {"default": {"applied": ["blog.0001"], "pending": ["blog.0002"]}}
    pushed.answers["schema"] = schema
    plan = deploy_plan.make("blog")
    assert plan["migrations"] == schema and "restarts" in plan
    assert plan["refused"].startswith(f"1 operation would break {ONE}, which still serves")
    pushed.memory = 1 << 20
    preflight, migration = deploy_plan.make("blog")["refused"].split("\n1 operation", 1)
    assert "MB of memory" in preflight and "would break" in migration
    with pytest.raises(DeploymentError) as error:
        pushed.apply()
    assert error.value.message.removeprefix("source: ") in preflight


def test_what_a_plan_warns_of(pushed):
    pushed.answers = {"checks": ["security.W001"], "media_root": "/elsewhere"}
    assert [text.partition(" ")[0] for text in deploy_plan.make("blog")["warnings"]] == [
        "MEDIA_ROOT",
        "security.W001",
    ]
    pushed.options = pushed.options | {"migrate": {"run": False}}
    list(steps.site(pushed.deployment()))
    pushed.answers = {"migrations": {"default": {"applied": ["blog.0001"], "pending": ["blog.0002"]}}}
    plan = deploy_plan.make("blog")
    assert plan["migrations"] == {"default": ["blog.0002"]}
    assert plan["warnings"] == ["migrations not applied, since migrate:run is false: blog.0002"]


def test_a_plan_where_supervisor_keeps_the_site(pushed):
    pushed.process = "supervisor"
    pushed.apply()
    pushed.push("three")
    before = snapshot(pushed)
    plan = deploy_plan.make("blog")
    assert plan["release"]["new"].startswith("0003-") and "rendered" not in plan
    assert snapshot(pushed) == before and pushed.live == TWO
    pushed.check()


def test_packages_that_go(pushed):
    releases.Release(pushed.site, ONE).update(packages={"django": "5.2", "gone": "1"})
    assert deploy_plan.make("blog")["packages"] == {"removed": {"gone": "1"}}


def test_settings_that_change(pushed):
    key = file.read_json(pushed.site.secrets / "secret_key.json")["key"]
    same = {"A": setting("1"), "OBJECT": setting("<object>", "x")}
    old = {
        "TZ": setting("'UTC'"),
        "PASSWORD": setting(None, "a"),
        "LIST": setting("['****']", "a"),
        "OLD": setting("1"),
    }
    new = {
        "TZ": setting("'CET'"),
        "PASSWORD": setting(None, "b"),
        "LIST": setting("['****']", "b"),
        "NEW": setting("2"),
    }
    pushed.settings = {ONE: same | old, TWO: same | new | {"TOKEN": setting(None, "x"), "LEAK": setting(key)}}
    assert deploy_plan.make("blog")["settings"] == {
        "LEAK": "not set → **********",
        "LIST": "changed",
        "NEW": "not set → 2",
        "OLD": "1 → not set",
        "PASSWORD": "changed",
        "TOKEN": "new",
        "TZ": "'UTC' → 'CET'",
    }


def test_settings_of_a_live_release_that_does_not_start_any_more(pushed):
    pushed.fails[f"releases/{ONE}/virtualenv/bin/python"] = DeploymentError("no")
    assert deploy_plan.make("blog")["settings"] == (f"not known, since {ONE} does not start: reading the settings: no")


def test_settings_of_a_site_that_an_older_formula_has_applied(pushed):
    pushed.site.kept_template(deploy_plan.SETTINGS_PROGRAM).unlink()
    assert deploy_plan.make("blog")["settings"].startswith("not known: the last apply was by an older formula")


def test_plan_gives_a_project_only_its_own_secrets(pushed, monkeypatch):
    index = {"url": "https://pypi.example.org/simple", "user": "ci", "password": "index-password"}
    pushed.options, pushed.given = pushed.options | {"index": index}, {"index_password": "index-password"}
    pushed.apply()
    pushed.push("three")
    asked = []
    monkeypatch.setattr(deploy_plan.project_program, "settings", lambda *all: asked.append(all[4]) or {})
    deploy_plan.make("blog")
    assert len(asked) == 2 and "index-password" not in json.dumps(asked)
    assert asked[0]["secrets"] == [secrets.values(pushed.site, {})["secret_key"]]


def test_no_release_builds_next_to_a_plan(pushed, monkeypatch):
    """A build ends all processes of the build user, and so those of the other build."""
    pushed.options = pushed.options | {"build": ["npm ci"], "timeouts": {"lock": "0s"}}
    list(steps.site(pushed.deployment()))
    refused = []
    own = process_build_user.end_processes

    def ends(site):
        with contextlib.suppress(DeploymentError):
            with pushed.site.lock("a test").held():
                refused.append("free")
            return
        refused.append("held")
        own(site)

    monkeypatch.setattr(process_build_user, "end_processes", ends)
    deploy_plan.make("blog")
    assert refused and {*refused} == {"held"}


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("py_compile", None),
        ("systemd-run", "plan: starting Django: no **********"),
        ("npm ci", "plan: npm ci: no **********"),
    ],
)
def test_a_plan_that_fails_leaves_nothing(pushed, monkeypatch, fails, message):
    pushed.options = pushed.options | {"build": ["npm ci"], "timeouts": {"lock": "0s"}}
    list(steps.site(pushed.deployment()))
    before = snapshot(pushed)
    key = file.read_json(pushed.site.secrets / "secret_key.json")["key"]
    prefix = "npm ci: " if fails == "npm ci" else ""
    pushed.fails[fails] = DeploymentError(f"{prefix}no {key}", log=key)
    if message:
        with pytest.raises(DeploymentError) as error:
            deploy_plan.make("blog")
        assert error.value.message == message and key not in str(error.value)
    else:
        deploy_plan.make("blog")
    assert snapshot(pushed) == before
    pushed.check()


def test_a_plan_that_is_killed_leaves_nothing_for_long(pushed):
    left = pushed.site.root / "plan-4711"
    (left / TWO).mkdir(parents=True)
    (left / TWO / "virtualenv").symlink_to("../../virtualenvs/gone")
    (pushed.site.root / "plan-b").mkdir()
    deploy_plan.make("blog")
    assert not left.exists()
    left.mkdir()
    pushed.apply()
    assert not left.exists() and (pushed.site.root / "plan-b").exists()


def test_a_virtualenv_of_a_plan_under_way_stays(pushed):
    (proc.PROC / "4711").mkdir()
    folder = pushed.site.root / "plan-4711" / TWO
    folder.mkdir(parents=True)
    (folder / "virtualenv").symlink_to("../../virtualenvs/aaaa")
    for name in ("aaaa", "bbbb"):
        (pushed.site.virtualenvs / name).mkdir()
    pushed.apply()
    names = {path.name for path in pushed.site.virtualenvs.iterdir()}
    assert "aaaa" in names and "bbbb" not in names and folder.exists()


def test_what_is_shared_is_left_as_it_is(pushed, monkeypatch):
    export = commits.export

    def with_data(site, commit, target):
        export(site, commit, target)
        (target / "more").mkdir()
        (target / "more/file").write_text("x")

    monkeypatch.setattr(commits, "export", with_data)
    pushed.options = pushed.options | {"shared": ["data", "more"]}
    list(steps.site(pushed.deployment()))
    deploy_plan.make("blog")
    assert [path.name for path in pushed.site.shared.top.iterdir()] == ["data"]


def test_a_plan_generates_no_secret(pushed):
    pushed.options = pushed.options | {"secrets": {"API": {"generate": 20}}}
    list(steps.site(pushed.deployment()))
    plan = deploy_plan.make("blog")
    assert plan["not known"] == (
        "migrations, settings, rendered files: API would have to be generated, which a plan does not do"
    )
    assert not (pushed.site.secrets / "API").exists()
    assert [argv for argv in pushed.commands if argv[0] == "systemd-run"] == []


def test_there_is_nothing_to_plan(world):
    world.fails["systemd-run"] = DeploymentError("no")
    with pytest.raises(DeploymentError):
        world.apply()
    with pytest.raises(DeploymentError, match="plan: blog has no live release to compare with") as error:
        deploy_plan.make("blog")
    assert error.value.hint == "salt-call state.apply django"
    world.fails.clear()
    world.apply(again=True)
    assert deploy_plan.make("blog") == {
        "release": f"none: {world.live} is of this commit, and nothing else has changed"
    }


def test_a_plan_of_another_revision(pushed):
    pushed.push("other", "next")
    assert deploy_plan.make("blog", "next")["release"]["new"] == f"0002-{commit('other')[:12]}"
    with pytest.raises(DeploymentError, match="plan: asking for gone: there is no such branch"):
        deploy_plan.make("blog", "gone")


def test_a_plan_waits_for_a_deployment_that_is_under_way(pushed):
    pushed.options = pushed.options | {"timeouts": {"lock": "0s"}}
    list(steps.site(pushed.deployment()))
    other = pushed.deployment()
    other.lock.take()
    with pytest.raises(DeploymentError, match="plan: another deployment of blog is under way: a test, pid"):
        deploy_plan.make("blog")
    other.lock.release()
    assert commands.locks == set()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"releases": {"overlap": False}}, "django-blog-0001 is stopped, then django-blog-0002 starts"),
        ({"server": {"bind": "127.0.0.1:8000"}}, "nginx is reloaded: its files change, as part of the switch"),
    ],
)
def test_what_restarts(pushed, options, expected):
    pushed.options = pushed.options | options
    list(steps.site(pushed.deployment()))
    assert any(line.startswith(expected) for line in deploy_plan.make("blog")["restarts"])


# The program that is asked for settings


@pytest.fixture
def program(monkeypatch):
    """The program as a module, without the one that starts the project."""
    path = ROOT / "django/files/django_formula_plan.py"
    monkeypatch.setitem(sys.modules, "django_formula_start", types.ModuleType("django_formula_start"))
    module = types.ModuleType("django_formula_plan")
    exec(compile(path.read_text(), path, "exec"), vars(module))
    return module


REQUEST = {"key": "k", "secrets": ["hunter2"], "names": ["/srv/releases/0001-abc", "0001-abc"]}
STARS = "********************"


@pytest.mark.parametrize(
    ("value", "cleansed", "text"),
    [
        (7, 7, "7"),
        ("x", STARS, None),
        ("token=hunter2", "token=hunter2", None),
        (["a", "hunter2"], ["a", "hunter2"], None),
        (b"hunter2", b"hunter2", None),
        ("/srv/releases/0001-abc/static", "/srv/releases/0001-abc/static", "'(release)/static'"),
        ({"b", "a"}, {"b", "a"}, "{'a', 'b'}"),
        ([{"A": 1, "KEY": "x"}], [{"A": 1, "KEY": STARS}], f"[{{'A': 1, 'KEY': '{STARS}'}}]"),
    ],
)
def test_what_is_shown_of_a_setting(program, value, cleansed, text):
    assert program.described(value, cleansed, REQUEST)["text"] == text


def test_which_settings_differ(program):
    def digest(value, **request):
        return program.described(value, value, REQUEST | request)["hash"]

    assert digest("hunter2") != digest("hunter3") and digest("a", key="1") != digest("a", key="2")
    assert digest("x/0001-abc") == program.described("x/0002-d", "", REQUEST | {"names": ["0002-d"]})["hash"]
    assert digest([object]) == digest([object]) and digest(object()) == digest(object())


def test_settings_in_dictionaries_are_compared_each(program):
    value = {"default": {"NAME": "a", "PASSWORD": "b", "OPTIONS": {}}, 7: 1}
    cleansed = {"default": {"NAME": "a", "PASSWORD": STARS, "OPTIONS": {}}, 7: 1}
    assert list(program.leaves("DATABASES", value, cleansed)) == [
        ("DATABASES.default.NAME", "a", "a"),
        ("DATABASES.default.PASSWORD", "b", STARS),
        ("DATABASES.default.OPTIONS", {}, {}),
        ("DATABASES.7", 1, 1),
    ]
    assert list(program.leaves("SECRETS", value, STARS)) == [("SECRETS", value, STARS)]


def test_the_modes_of_a_plan(pushed, monkeypatch):
    seen = {}

    def look(site, path, *rest, **named):
        found = [path, path.parent, *path.iterdir()] if path.name == TWO else []
        seen.update({p.name: stat.S_IMODE(p.stat().st_mode) for p in found})
        return {}

    monkeypatch.setattr(deploy_plan.project_program, "settings", look)
    os.umask(0o077)
    deploy_plan.make("blog")
    assert os.umask(0o022) == 0o077
    expected = {TWO: 0o755, f"plan-{os.getpid()}": 0o755, "source": 0o750, "config": 0o750, "plan": 0o750}
    assert seen.items() >= (expected | {"static": 0o755}).items()
