import json
import os
import stat
from pathlib import Path

import pytest
from django_formula.backup import backups
from django_formula.deploy import inputs as deploy_inputs
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd
from django_formula.project import command as project_command
from django_formula.release import releases
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.verbs import logs as verbs_logs
from django_formula.verbs import operations, rotation, status, terminal
from django_formula.virtualenv import virtualenvs
from readers import read_environment
from world import commit

ONE, TWO, THREE = (f"{number:04}-{commit(name)[:12]}" for number, name in enumerate(["one", "two", "three"], 1))


@pytest.fixture
def two(world):
    """A world with two releases, the second of which is live."""
    world.apply()
    world.push("two")
    world.apply()
    return world


def test_release_verb_makes_a_release_without_changes(two):
    deployment, changes = operations.release("blog")
    assert two.live == deployment.release.name == f"0003-{commit('two')[:12]}"
    assert "source" in changes and "live" in changes and "secret_key" not in changes
    two.check()
    assert two.apply() == {}


def test_a_release_of_another_revision(two):
    two.push("other", "other")
    operations.release("blog", "other")
    assert two.live == f"0003-{commit('other')[:12]}"
    two.apply()
    assert two.live == f"0004-{commit('two')[:12]}"
    operations.release("blog", commit("three"))
    assert two.live == f"0005-{commit('three')[:12]}"


@pytest.fixture
def failed(two):
    """A site whose third release failed for what is corrected now."""
    two.push("three")
    two.fails["systemd-run"] = DeploymentError("no")
    for _ in range(2):
        with pytest.raises(DeploymentError):
            two.apply()
    two.fails.clear()
    return two


def test_a_release_that_has_failed_is_tried_again(failed):
    with pytest.raises(DeploymentError, match="failed before with the same inputs"):
        failed.apply()
    operations.release("blog")
    assert failed.live == f"0004-{commit('three')[:12]}"
    failed.check()


def test_a_failed_release_is_tried_again_by_another_formula(failed, monkeypatch):
    monkeypatch.setattr(deploy_inputs, "formula", lambda: "a later one")
    failed.apply()
    assert failed.live[5:] == commit("three")[:12]


def test_verbs_are_recorded_with_their_caller(two):
    operations.release("blog", asked_by="salt job 7")
    operations.rollback("blog", asked_by="salt job 8")
    lines = [json.loads(line) for line in two.site.deploys.read_text().splitlines()]
    assert [(line["release"][:4], line["result"], line["asked_by"]) for line in lines] == [
        ("0001", "released", "a test"),
        ("0002", "released", "a test"),
        ("0003", "released", "salt job 7"),
        ("0002", "rolled back", "salt job 8"),
    ]


def test_rollback_activates_the_release_before(two):
    deployment, changes = operations.rollback("blog")
    assert two.live == ONE and changes["live"]["live"] == {"old": TWO, "new": ONE}
    assert two.releases == {ONE: "good", TWO: "held"} and deployment.warnings == []
    two.check()
    assert two.apply() == {}
    with pytest.raises(DeploymentError) as error:
        operations.rollback("blog")
    assert error.value.message == "rollback: blog has no older good release to roll back to"
    assert error.value.hint == f"salt-call django.releases blog lists them\n{ONE} still runs"
    attempt = json.loads(two.site.deploys.read_text().splitlines()[-1])
    assert (attempt["result"], attempt["step"]) == ("refused", "rollback")
    assert operations.status("blog")["failed"] == ""
    two.check()
    assert two.apply() == {}


def test_rollback_to_a_newer_release_activates_it_without_a_build(two):
    operations.rollback("blog")
    two.commands.clear()
    deployment, changes = operations.rollback("blog", TWO)
    assert two.live == TWO and two.releases == {ONE: "good", TWO: "good"}
    assert set(changes) <= {"rollback", "instance", "live", "proxy", "record"} and deployment.warnings == []
    record = host_file.read_json(two.site.releases / TWO / "release.json")
    assert "held_since" not in record
    attempt = json.loads(two.site.deploys.read_text().splitlines()[-1])
    assert (attempt["result"], attempt["release"]) == ("rolled forward", TWO)
    two.check()
    assert two.apply() == {} and two.last.warnings == []
    operations.rollback("blog")
    assert two.live == ONE and two.releases == {ONE: "good", TWO: "held"}


def test_newer_release_that_fails_is_on_hold_again(two):
    operations.rollback("blog")
    two.problems["0002"] = "returned 500"
    with pytest.raises(DeploymentError, match=f"{ONE} is live again"):
        operations.rollback("blog", TWO)
    assert two.live == ONE and two.releases == {ONE: "good", TWO: "held"}
    two.check()
    assert two.apply() == {}


def test_rollback_to_a_newer_release_refused_without_its_migrations(world):
    """They were reversed by the rollback to the older one."""
    world.answers["migrations"] = {"default": {"applied": ["blog.0001"], "pending": []}}
    world.apply()
    world.push("two")
    world.apply()
    operations.rollback("blog")
    world.server.databases["blog"] = {}
    world.lacking = {"default": ["blog.0002", "blog.0003"]}
    with pytest.raises(DeploymentError) as error:
        operations.rollback("blog", TWO)
    assert error.value.message == (
        f"rollback: {TWO} requires migrations that the database does not have: blog.0002, blog.0003"
    )
    assert error.value.hint == (
        f"salt-call django.release blog {commit('two')} releases its commit anew, and applies them\n{ONE} still runs"
    )
    assert world.live == ONE
    world.lacking = {"default": []}
    operations.rollback("blog", TWO)
    assert world.live == TWO


def test_a_refusal_hides_no_failure(two):
    two.fails["systemd-run"] = DeploymentError("no", transient=True)
    two.push("three")
    with pytest.raises(DeploymentError):
        two.apply()
    two.fails.clear()
    with pytest.raises(DeploymentError):
        operations.rollback("blog", "0009")
    assert operations.status("blog")["failed"].startswith("static ")


def test_second_rollback_activates_an_older_release(two):
    two.push("three")
    two.apply()
    operations.rollback("blog")
    operations.rollback("blog")
    assert two.live == ONE and two.releases == {ONE: "good", TWO: "held", THREE: "held"}
    two.check()


@pytest.mark.parametrize("why", ["failed", "not whole"])
def test_rollback_skips_failed_and_incomplete_releases(two, why):
    two.push("three")
    two.apply()
    release = releases.Release(two.site, TWO)
    if why == "failed":
        release.update(state="failed")
    else:
        host_file.remove_tree(release.path / "static")
    operations.rollback("blog")
    assert two.live == ONE
    two.check()


def test_going_back_needs_no_network(two):
    two.branches = None
    operations.rollback("blog")
    assert two.live == ONE


def test_a_new_secret_key(two):
    before = two.site.secrets / "secret_key.json"
    old = host_file.read_json(before)["key"]
    rotation.rotate_secret_key("blog")
    told = host_file.read_json(before)
    assert told["key"] != old and told["fallbacks"] == [old]
    assert {told["key"], old} <= {*secrets.known(two.site)}  # which no output shows: it signs for some time yet
    assert two.live == f"0003-{commit('two')[:12]}"
    two.check()
    assert two.apply() == {}
    inputs = host_file.read_json(two.site.current / "release.json")["inputs"]
    assert inputs["secrets:secret_key"] == secrets.keyed_hash(secrets.record_key(two.site), told["key"])


@pytest.mark.parametrize("environment", [{}, {"KEY_FILE": {"from": "secret_key_file"}}], ids=["", "file"])
def test_rotation_that_fails_leaves_the_key_that_the_active_release_signs_with(two, environment):
    """A process that starts again reads the file of the key; the others would refuse what it signs with a new one."""
    if environment:
        two.options = {**two.options, "environment": environment}
        two.apply()
    folder, live = two.site.secrets, two.live
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder) if "secret_key" in name}
    assert len(before) == (2 if environment else 1)
    two.fails["systemd-run"] = DeploymentError("no")
    with pytest.raises(DeploymentError):
        rotation.rotate_secret_key("blog")
    assert {name: (folder / name).read_bytes() for name in before} == before and two.live == live
    two.fails.clear()
    rotation.rotate_secret_key("blog")
    assert two.live != live and all((folder / name).read_bytes() != text for name, text in before.items())


def test_rotation_refused_when_the_pillar_gives_the_key(world):
    world.options, world.given = {"secret_key": "x" * 50}, {"secret_key": "x" * 50}
    world.apply()
    with pytest.raises(DeploymentError, match="the pillar gives blog its secret key"):
        rotation.rotate_secret_key("blog")


@pytest.mark.parametrize(
    "verb",
    [
        operations.rollback,
        rotation.rotate_secret_key,
        lambda name: operations.create_superuser(name, "admin", ""),
    ],
    ids=["rollback", "rotate_secret_key", "superuser"],
)
def test_nothing_is_live_yet(world, verb):
    world.fails["systemd-run"] = DeploymentError("no")
    with pytest.raises(DeploymentError):
        world.apply()
    with pytest.raises(DeploymentError, match="blog has no live release") as error:
        verb("blog")
    assert error.value.hint.splitlines()[0] == "salt-call state.apply django"


RUN = ["showmigrations"], None, 60.0


def fail(world, program="systemd-run", **options):
    """Apply, where a program fails; it works again afterwards."""
    world.fails[program] = DeploymentError("no ink", **options)
    with pytest.raises(DeploymentError):
        world.apply()
    world.fails.clear()


def test_before_a_first_release_commands_run_in_the_newest_one_that_failed(world, monkeypatch):
    fail(world)
    world.push("two")
    fail(world)
    notice = f"no release is live: this is {TWO}, which failed in the step static"
    sources = [(world.site.releases / name / "source").is_dir() for name in (ONE, TWO)]
    assert sources == [False, True]
    assert operations.manage("blog", *RUN) == f"{notice}\nprinted by the command\n"
    assert world.commands[-1][-3:] == [
        f"{world.site.releases / TWO}/virtualenv/bin/python",
        "manage.py",
        "showmigrations",
    ]
    world.answers = {"checks": ["security.W001: no middleware"]}
    assert operations.check("blog") == [notice, "security.W001: no middleware"]
    monkeypatch.setattr(systemd.MANAGER, "log", lambda _, release, lines, part: f"{release.name} {lines}")
    assert verbs_logs.show("blog", 7) == f"{notice}:\nstarting Django: no ink\n{TWO} 7"
    world.fails["systemd-run"] = DeploymentError("exit 1")
    with pytest.raises(DeploymentError) as error:
        operations.manage("blog", *RUN)
    assert error.value.hint == notice


def test_once_a_release_is_active_commands_run_there(world):
    fail(world)
    operations.release("blog")
    assert world.live == f"0002-{commit('one')[:12]}"
    assert operations.manage("blog", *RUN) == "printed by the command\n"
    world.push("two")
    fail(world)
    failed = releases.Release(world.site, f"0003-{commit('two')[:12]}")
    assert failed.record["state"] == "failed" and not (failed.path / "source").exists()
    assert operations.manage("blog", *RUN) == "printed by the command\n"
    world.check()


def test_release_that_failed_before_it_had_a_configuration_runs_no_commands(world, monkeypatch):
    def build(*_arguments, **_options):
        raise DeploymentError("no such package")

    monkeypatch.setattr(virtualenvs, "build", build)
    with pytest.raises(DeploymentError):
        world.apply()
    for run in (lambda: operations.manage("blog", *RUN), lambda: operations.check("blog")):
        with pytest.raises(DeploymentError) as error:
            run()
        assert error.value.message == (
            f"blog has no live release, and {ONE} failed too early to run commands in it, in the step virtualenv"
        )
        assert error.value.hint == f"correct what failed: salt-call django.record blog {ONE}"
    assert not (world.site.releases / ONE / "source").exists()

    def no_log(site, release, lines, part):
        raise DeploymentError("no log")

    monkeypatch.setattr(systemd.MANAGER, "log", no_log)
    notice = f"no release is live: this is {ONE}, which failed in the step virtualenv"
    assert verbs_logs.show("blog", 7) == f"{notice}:\nno such package\n"


def test_attempt_that_left_no_release_has_nothing_to_run_in(world):
    fail(world, transient=True)
    for run in (lambda: operations.manage("blog", *RUN), lambda: verbs_logs.show("blog", 7)):
        with pytest.raises(DeploymentError) as error:
            run()
        assert error.value.message == "blog has no live release"


@pytest.mark.parametrize(
    "verb",
    [
        operations.release,
        operations.rollback,
        rotation.rotate_secret_key,
        lambda name: operations.manage(name, ["check"], None, 60.0),
    ],
    ids=["release", "rollback", "rotate_secret_key", "manage"],
)
def test_a_site_that_is_not_there(world, verb):
    with pytest.raises(DeploymentError, match=r"there is no site 'shop' on this host \(registered: none\)"):
        verb("shop")


def test_a_command_is_refused_during_a_restore(two):
    with backups.lock(two.site, "django.restore").held():
        with pytest.raises(DeploymentError, match="a restore of blog is under way") as refused:
            operations.manage("blog", ["check"], None, 60.0)
        assert "salt-call django.unlock blog" in refused.value.hint
    with backups.lock(two.site, "django.backup").held():
        assert operations.manage("blog", ["check"], None, 60.0) == "printed by the command\n"


def test_a_command(two, tmp_path):
    assert operations.manage("blog", ["check", "--deploy"], None, 60.0) == "printed by the command\n"
    assert two.commands[-1][-3:] == ["manage.py", "check", "--deploy"]
    variables = tmp_path / "admin"
    variables.write_text("A=1\n")
    operations.manage("blog", ["createsuperuser"], str(variables), 60.0)
    assert f"--property=EnvironmentFile={variables}" in two.commands[-1]
    with pytest.raises(DeploymentError, match="there is no file /nowhere on this host"):
        operations.manage("blog", ["check"], "/nowhere", 60.0)


@pytest.mark.parametrize("word", [False, None, 1.1, ["a"], {"a": None}])
def test_word_of_a_command_that_salt_has_read_as_another_value_is_refused(word):
    assert operations.words(["migrate", "shop", 12]) == ["migrate", "shop", "12"]
    for command in (["flag", word], [word], ["flag", word, "x"]):
        with pytest.raises(DeploymentError, match="a word of the command was read as"):
            operations.words(command)


def test_a_command_hides_secrets(two, monkeypatch):
    seen = []
    monkeypatch.setattr(project_command, "manage", lambda *arguments: seen.extend(arguments[-1]) or "")
    operations.manage("blog", ["check"], None, 60.0)
    assert seen == [host_file.read_json(two.site.secrets / "secret_key.json")["key"]]


def test_what_there_is(two):
    two.push("three")
    two.fails["systemd-run"] = DeploymentError("it is broken")
    with pytest.raises(DeploymentError):
        two.apply()
    site = sites.find("blog")
    rows = status.releases(site)
    assert [(row["release"], row["role"], row["state"]) for row in rows] == [
        (THREE, "", "failed"),
        (TWO, "live", "good"),
        (ONE, "previous", "good"),
    ]
    assert rows[0]["failure"] == "static: starting Django: it is broken"
    assert status.status(site) == {
        "site": "blog",
        "stores": "",
        "workers": "",
        "finishing": "",
        "domains": "blog.example.org",
        "release": TWO,
        "live_since": releases.Release(site, TWO).record["live_since"],
        "running": True,
        "server": "uwsgi",
        "schema": "fits",
        "held_back": "",
        "failed": f"{THREE}: static",
        "sandbox": "",
        "maintenance": "",
        "unreached": "",
        "interpreter": "",
        "damage": "",
    }
    assert [row["health"].split(",")[0] for row in rows[:2]] == ["", "runs"] and rows[1]["age"].endswith(" s")
    two.running.clear()
    assert status.status(site)["running"] is False
    assert status.releases(site)[1]["health"].startswith("does not run")
    releases.Release(site, ONE).update(receipt={"sent": 41, "failed": 2})
    assert status.releases(site)[2]["health"] == "2 of 41 failed"


def results(world):
    return [json.loads(line)["result"] for line in world.site.deploys.read_text().splitlines()]


@pytest.mark.parametrize("transient", [False, True])
def test_failure_is_over_once_an_apply_has_nothing_to_do(two, transient):
    two.push("three")
    fail(two, transient=transient)
    assert operations.status("blog")["failed"].startswith("static " if transient else f"{THREE}: static")
    two.push("two")
    assert two.apply(test=True) == {}
    assert operations.status("blog")["failed"]
    assert two.apply() == {}
    assert operations.status("blog")["failed"] == ""
    assert two.apply() == {}
    assert results(two) == ["released", "released", "failed", "unchanged"]
    two.push("four")
    fail(two)
    assert operations.status("blog")["failed"] == f"0004-{commit('four')[:12]}: static"
    two.check()


def test_failure_is_not_over_while_it_is_repeated_or_the_remote_is_away(two):
    two.push("three")
    fail(two)
    with pytest.raises(DeploymentError, match="failed before with the same inputs"):
        two.apply()
    two.branches = None
    assert two.apply() == {}
    assert operations.status("blog")["failed"] == f"{THREE}: static"
    assert results(two) == ["released", "released", "failed"]


def test_failure_is_over_after_a_rollback(two):
    two.push("three")
    fail(two)
    operations.rollback("blog")
    assert operations.status("blog")["failed"] == ""


def test_what_failed_and_left_nothing_is_shown_too(two):
    site = two.site
    for number in range(7):
        two.push("three") if number == 3 else None
        two.branches, branches = None if number == 3 else {}, two.branches
        with pytest.raises(DeploymentError):
            two.apply(again=True)
        two.branches = branches
    rows = status.releases(site)
    assert [row["release"] for row in rows] == ["", "", "", "", "", TWO, ONE]
    assert (rows[0]["state"], rows[0]["failure"]) == ("failed", "source: asking for main: there is no such branch")
    assert rows[3]["failure"] == "source: asking for main: connection refused" and rows[0]["asked_by"] == "a test"
    failed = status.status(site)["failed"].split(", ")
    assert len(failed) == 5 and all(one.startswith("source ") and one.endswith(" s ago") for one in failed)
    two.apply()
    assert [row["release"] for row in status.releases(site)] == [THREE, TWO, ONE]
    assert status.status(site)["failed"] == ""


def test_all_of_one_release(two):
    for name in (TWO, "2", 2, "0002", commit("two")[:7]):
        assert operations.record("blog", name)["packages"] == {"django": "5.2"}
    assert operations.record("blog")["name"] == TWO and operations.record("blog", 1)["name"] == ONE
    for name in ("3", "0003-x", "x", "", "²"):
        with pytest.raises(DeploymentError, match=f"blog has no release {name} on this host"):
            operations.record("blog", name)


def test_steps_have_what_they_took_in_the_active_release(two):
    live = releases.linked(two.site, two.site.current)
    live.update(steps={"source": 0.1, "live": 1.5})
    rows = status.steps(two.site)
    assert [row["step"] for row in rows][:3] == ["site", "source", "virtualenv"] and rows[-1]["step"] == "record"
    assert {row["step"]: row["seconds"] for row in rows if row["seconds"] != ""} == {"source": 0.1, "live": 1.5}
    text = terminal.steps(rows)
    assert text[1].startswith("2.   source      root         0.1 s\n    decides whether") and len(text) == len(rows)
    assert max(map(len, "\n".join(text).splitlines())) <= terminal.WIDTH


def test_a_superuser(two):
    two.commands.clear()
    told = operations.create_superuser("blog", "admin", "admin@localhost")
    file = two.site.secrets / "superuser-admin"
    assert told == {"username": "admin", "password_file": str(file)}
    variables = read_environment(file.read_text())
    assert {**variables, "DJANGO_SUPERUSER_PASSWORD": None} == {
        "DJANGO_SUPERUSER_USERNAME": "admin",
        "DJANGO_SUPERUSER_EMAIL": "admin@localhost",
        "DJANGO_SUPERUSER_PASSWORD": None,
    }
    assert len(variables["DJANGO_SUPERUSER_PASSWORD"]) == 20 and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert two.commands[0][-3:] == ["manage.py", "createsuperuser", "--noinput"]
    assert variables["DJANGO_SUPERUSER_PASSWORD"] not in repr(two.commands)
    with pytest.raises(DeploymentError, match="admin has been created before; the password was written to"):
        operations.create_superuser("blog", "admin", "")
    two.fails["systemd-run"] = DeploymentError("that username is already taken")
    with pytest.raises(DeploymentError, match="already taken"):
        operations.create_superuser("blog", "other", "")
    assert [path.name for path in two.site.secrets.glob("*superuser*")] == ["superuser-admin"]
    two.check_leftovers()


@pytest.mark.parametrize(
    ("command", "fails", "expected"),
    [
        ([], ["createsuperuser"], {"created_by": "Django's own createsuperuser, since the project's failed"}),
        ([], ["createsuperuser", "shell"], None),
        (["create_admin", "--user", "ada"], [], {}),
        (["create_admin"], ["create_admin"], None),
    ],
)
def test_superuser_of_a_project_with_a_command_of_its_own(two, monkeypatch, command, fails, expected):
    ran = []

    def manage(name, words, environment_file, timeout):
        ran.append(words[0])
        assert "DJANGO_SUPERUSER_PASSWORD=" in Path(environment_file).read_text()
        if words[0] in fails:
            raise DeploymentError(f"manage.py {words[0]} failed (exit 2)")

    monkeypatch.setattr(operations, "manage", manage)
    file = two.site.secrets / "superuser-ada"
    if expected is not None:
        created = operations.create_superuser("blog", "ada", "", command)
        assert created == {"username": "ada", "password_file": str(file), **expected}
    else:
        with pytest.raises(DeploymentError) as error:
            operations.create_superuser("blog", "ada", "", command)
        assert error.value.message == f"manage.py {fails[0]} failed (exit 2)"
        assert error.value.hint == (
            "if the command requires more, give all of it: django.superuser blog command='createsuperuser --noinput "
            "--first_name Ada'; DJANGO_SUPERUSER_USERNAME, _EMAIL and _PASSWORD are in its environment"
        )
        assert not file.exists()
    assert ran == ([command[0]] if command else ["createsuperuser", "shell"])


def test_password_of_a_superuser_whose_call_was_killed_is_kept(two, monkeypatch):
    passwords = []

    def manage(name, words, environment_file, timeout):
        passwords.append(Path(environment_file).read_text())
        if len(passwords) == 1:
            raise KeyboardInterrupt
        if len(passwords) in (2, 3):
            raise DeploymentError("manage.py createsuperuser failed (exit 1): That username is already taken.")

    monkeypatch.setattr(operations, "manage", manage)
    with pytest.raises(KeyboardInterrupt):
        operations.create_superuser("blog", "ada", "")
    new = two.site.secrets / ".superuser-ada"
    with pytest.raises(DeploymentError, match="already taken") as error:
        operations.create_superuser("blog", "ada", "")
    assert error.value.hint.endswith(f"with the password in {new}") and new.read_text() == passwords[0]
    operations.create_superuser("blog", "ada", "")
    assert (two.site.secrets / "superuser-ada").read_text() == passwords[0] and len({*passwords}) == 1


def test_superuser_where_no_command_can_be_run(make_site, monkeypatch):
    def manage(*_arguments, **_options):
        raise DeploymentError("no sandbox")

    monkeypatch.setattr(operations.verbs_status, "live_release", lambda site: None)
    monkeypatch.setattr(operations.sites, "find", lambda name: make_site())
    monkeypatch.setattr(operations, "manage", manage)
    with pytest.raises(DeploymentError) as error:
        operations.create_superuser("blog", "ada", "")
    assert (error.value.message, error.value.hint) == ("no sandbox", "")


@pytest.mark.parametrize(
    ("username", "email"), [("a b", ""), ("../x", ""), ("", ""), ("a", "b\nc"), ("a\n", ""), ("-a/", "")]
)
def test_a_superuser_whose_name_is_none(two, username, email):
    with pytest.raises(DeploymentError, match="may contain only letters, digits and"):
        operations.create_superuser("blog", username, email)


def test_migrate_verb_applies_pending_migrations(two):
    two.answers = {}
    live = releases.Release(two.site, TWO)
    facts = live.facts | {"migrations": {"default": {"applied": [], "pending": ["blog.0001_initial"]}}}
    live.update(facts=facts)
    assert operations.migrate("blog") == {"migrated": {"default": ["blog.0001_initial"]}, "warnings": []}
    assert operations.migrate("blog") == {"migrated": {"default": []}, "warnings": []}
    two.check()
    two.fails["systemd-run"] = DeploymentError("no")
    with pytest.raises(DeploymentError, match="migrate: migrating the database: no"):
        operations.migrate("blog")
    two.check()


def test_collectstatic_verb_makes_a_new_release(two):
    operations.collectstatic("blog")
    assert two.live == f"0003-{commit('two')[:12]}"
    two.check()


def test_check_verb_returns_warnings_of_the_active_release(two):
    two.answers = {"checks": ["security.W001: no middleware"]}
    assert operations.check("blog") == ["security.W001: no middleware"]
    two.fails["systemd-run"] = DeploymentError("x", log="cause: 1 of Django's checks fail: (a.E1) x")
    with pytest.raises(DeploymentError, match=r"1 of Django's checks fail: \(a\.E1\) x"):
        operations.check("blog")


def test_fingerprints_of_the_secret_key(two):
    first = operations.secret_key("blog")
    key = host_file.read_json(two.site.secrets / "secret_key.json")["key"]
    assert first["fallbacks"] == [] and first["given_by"] == "generated" and key not in repr(first)
    rotation.rotate_secret_key("blog")
    second = operations.secret_key("blog")
    assert second["fallbacks"] == [first["fingerprint"]] and second["fingerprint"] != first["fingerprint"]


def test_the_configuration_and_the_logs(two):
    assert operations.config("blog") == two.site.config
    key = host_file.read_json(two.site.secrets / "secret_key.json")["key"]
    two.prints["journalctl"] = f"a line with {key}\n"
    assert verbs_logs.show("blog", 7) == "a line with **********\n"
    assert two.commands[-1][:6] == ["journalctl", "--unit", "django-blog-0002", "--lines", "7", "--output"]
