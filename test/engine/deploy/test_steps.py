import gzip
import json
import os
import re
import shlex
import sqlite3
import stat
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import in_django
import pytest
from django_formula.database import databases
from django_formula.deploy import coherence, drift, inputs, step_build, step_site, steps
from django_formula.host import daemons, file, users
from django_formula.host.commands import DeploymentError
from django_formula.inspect import advice
from django_formula.pillar import states
from django_formula.process import build_user
from django_formula.project import page
from django_formula.project import program as project_program
from django_formula.proxy import nginx
from django_formula.release import health, instances
from django_formula.release import static as release_static
from django_formula.site import sites
from django_formula.source import commits, mirror
from django_formula.untrusted.foreign import Foreign
from django_formula.virtualenv import virtualenvs
from specimen import ROOT, configured
from trees import write_tree
from world import commit

refuse_closed_parents = step_site.refuse_closed_parents


# The site


@pytest.mark.parametrize(
    ("mode", "group", "passes"),
    [
        *[(0o755, None, True), (0o711, None, True), (0o700, None, False), (0o750, None, False)],
        *[(0o750, "proxy", True), (0o740, "proxy", False), (0o704, "proxy", False)],
    ],
)
def test_parent_folder_closed_to_the_proxy_is_refused(open_folder, monkeypatch, mode, group, passes):
    home = open_folder / "home"
    home.mkdir()
    home.chmod(mode)
    monkeypatch.setattr(users, "group_id", lambda name: home.stat().st_gid if group else -2)
    site = configured()
    site.root = home / "site/blog"
    if passes:
        refuse_closed_parents(site)
        return
    with pytest.raises(DeploymentError) as error:
        refuse_closed_parents(site)
    owner = users.owner_of(home.stat())
    assert error.value.message == f"www-data cannot traverse {home} ({owner} {mode:04o}), which is above {site.root}"
    assert error.value.hint == f"chmod o+x {home}, or set django:sites:blog:root to another folder"


def test_parent_folder_that_an_acl_opens_to_the_proxy_is_none_to_refuse(open_folder, monkeypatch):
    """As after ``setfacl -m u:www-data:x /home/ann``."""
    home = open_folder / "home"
    home.mkdir()
    home.chmod(0o710)
    uid, nothing = users.user_id("www-data"), 0xFFFFFFFF
    entries = [(1, 7, nothing), (2, 1, uid), (4, 0, nothing), (16, 1, nothing), (32, 0, nothing)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)
    monkeypatch.setattr(os, "getxattr", lambda path, *_arguments, **_options: value if path == home else b"")
    site = configured()
    site.root = home / "site/blog"
    refuse_closed_parents(site)


OF_WORKERS = {"django_formula_celery_app", "django_formula_huey"}


def test_every_release_has_the_modules_that_its_programs_import():
    given = {url.rpartition("/")[2].removesuffix(".py") for url in inputs.PROGRAMS}
    texts = [(ROOT / f"django/files/{name}.py").read_text() for name in given]
    imported = {name for text in texts for name in re.findall(r"^ *import (django_formula_\w+)", text, re.M)}
    assert imported - given == OF_WORKERS, "a release with workers of Celery or huey has that"


def test_states_are_given_every_program_of_a_release():
    """The engine's tests have all templates; on a host `pillar.states` names them."""
    names = [url.rpartition("/")[2] for url in (*inputs.PROGRAMS, inputs.OVERLAY)]
    assert [name for name in names if name not in states.PROGRAMS] == []


def test_programs_of_a_release_have_the_modules_that_they_import():
    """They are all in one folder; those of Celery and huey are there with their workers only."""
    paths = [ROOT / url.removeprefix("salt://") for url in inputs.PROGRAMS]
    imported = {name for path in paths for name in re.findall(r"import (django_formula_\w+)", path.read_text())}
    assert imported - {path.stem for path in paths} == OF_WORKERS


def test_existing_site_directories_are_unchanged(world):
    deployment = world.deployment()
    changes = list(steps.site(deployment))
    assert len(changes) == 1 and changes[0][str(world.site.root)] == "missing"
    assert changes[0][str(world.site.applied)] == "new" and changes[0]["registered"] == str(world.site.root)
    assert changes[0]["templates"] == sorted(world.templates)
    assert list(steps.site(world.deployment())) == []
    assert stat.S_IMODE(world.site.applied.stat().st_mode) == 0o600
    assert sites.find("blog").config == world.site.config


def test_what_is_applied_is_written_down_even_where_it_makes_no_release(world):
    world.apply()
    world.options = {"health": {"path": "/healthz"}}
    assert world.apply() == {"site": {str(world.site.applied): "changed"}}
    assert sites.find("blog").config["health"]["path"] == "/healthz"
    world.templates["salt://django/files/nginx/locations.conf"] += "# more\n"
    assert world.apply()["site"] == {"templates": ["salt://django/files/nginx/locations.conf"]}
    assert world.apply() == {}


def test_wrong_folders_are_mended(world):
    world.apply()
    world.site.media.top.chmod(0o777)
    changes = world.apply()["site"]
    media = str(world.site.media)
    assert list(changes) == [media] and " 0777, not blog:www-data 2750" in changes[media]
    assert world.apply() == {}


def test_keys_are_laid_into_the_mirror(world, monkeypatch):
    world.apply()
    laid = []
    monkeypatch.setattr(mirror, "unprepared", lambda site, key: [] if laid else ["deploy_key"])
    monkeypatch.setattr(mirror, "prepare", lambda site, key: laid.append(key))
    world.given = {"deploy_key": "the key"}
    assert world.apply() == {"site": {"mirror": ["deploy_key"]}} and laid == ["the key"]
    assert "the key" in world.last.secrets.masked()


@pytest.mark.parametrize("key", ["root", "user"])
def test_changed_root_or_user_of_a_site_is_refused(world, key):
    world.apply()
    before = world.site.config[key]
    moved = type(world.site)({**world.site.config, key: f"{before}-2"}, world.site.platform)
    with pytest.raises(DeploymentError) as error:
        sites.refuse_another_identity(moved, ["blog"])
    assert error.value.message == (
        f"blog cannot change its {key} from {before} to {before}-2: its data belongs to the former"
    )
    assert f"keep django:sites:blog:{key}: {before}, or remove the site first" in error.value.hint
    sites.refuse_another_identity(world.site, ["blog"])


@pytest.mark.parametrize(
    ("changed", "managed", "serves"),
    [
        ({}, ["journal"], "blog.example.org"),
        ({}, ["journal", "blog"], None),
        ({"path": "/journal"}, ["journal"], None),
        ({"domains": ["journal.example.org"]}, ["journal"], None),
        ({"path": "/journal", "root": None}, ["journal"], "/"),
    ],
)
def test_a_site_keeps_its_name(world, changed, managed, serves):
    """Unless the pillar has its old name too, if only to take it off."""
    world.apply()
    root = world.site.config["root"] if "root" in changed else "/srv/other"
    config = {**world.site.config, "name": "journal", **changed, "root": root}
    renamed = type(world.site)(config, world.site.platform)
    if not serves:
        sites.refuse_another_identity(renamed, managed)
        return
    with pytest.raises(
        DeploymentError, match=f"blog, which is no longer in the pillar, still serves {serves}"
    ) as error:
        sites.refuse_another_identity(renamed, managed)
    assert "django:sites:blog: {state: absent}" in error.value.hint and "user: blog}" in error.value.hint


# The source


def test_build_commands_run_as_the_build_identity(world, monkeypatch):
    world.options = {"build": ["npm ci", "make 'a b' c"], "timeouts": {"build": "1m"}}
    seen = []
    monkeypatch.setattr(build_user, "run_as_build_user", lambda site, argv, **options: seen.append((argv, options)))
    changes = world.apply()
    assert changes["build"] == {"commands": ["npm ci", "make 'a b' c"], "source": "compiled"}
    release = world.site.releases / world.live
    own = [one for one in seen if one[0][0] != "sh"]
    assert [argv for argv, _options in own[:2]] == [["npm", "ci"], ["make", "a b", "c"]]
    assert own[2][0][1:4] == ["-I", "-S", "-c"] and own[2][0][5:] == [f"{release}/source"]
    for _argv, options in seen:
        assert options["writable"] == [options["folder"]] == [f"{release}/source"] and options["timeout"] == 60
        environment = options["environment"]
        assert environment["HOME"] == str(world.site.build) and environment["VIRTUAL_ENV"] == f"{release}/virtualenv"
        assert environment["PATH"].startswith(f"{release}/virtualenv/bin:")
    assert own[1][1]["doing"] == "make 'a b' c"
    assert own[1][1]["hint"] == "the command is from django:sites:blog:build"


#: A project whose package sets up Django while its settings are imported, with what no build has.
UNBUILT = {
    "manage.py": "from django.core.management import execute_from_command_line as run; import sys; run(sys.argv)\n",
    "shop/__init__.py": "from . import celery\n",
    "shop/celery.py": "import django\ndjango.setup()\n",
    "shop/settings.py": """
        LOGGING = {"version": 1, "root": {"handlers": ["file"]}, "handlers": {
            "file": {"class": "logging.FileHandler", "filename": "/nonexistent/logs/all.log"}}}
        DATABASES = {"default": {"ENGINE": "nonexistent"}}
        INSTALLED_APPS = ["basket"]
        SECRET_KEY = "x"
    """,
    "basket/__init__.py": "",
    "basket/models.py": "from django.db import models\nclass Basket(models.Model):\n    pass\n",
}


def test_a_build_has_neither_log_files_nor_databases_of_the_settings(world, monkeypatch, tmp_path):
    world.options = {"build": ["make"]}
    seen = {}
    monkeypatch.setattr(
        build_user, "run_as_build_user", lambda _site, argv, **options: seen.update({argv[0]: options["environment"]})
    )
    world.apply()
    tree = write_tree(tmp_path / "shop", {name: textwrap.dedent(text) for name, text in UNBUILT.items()})
    argv = [in_django.python("django"), "manage.py", "makemigrations", "--skip-checks", "basket"]
    variables = {"PATH": "/usr/bin", "DJANGO_SETTINGS_MODULE": "shop.settings"}
    alone = subprocess.run(argv, cwd=tree, env=variables, capture_output=True, text=True)
    assert "Unable to configure handler 'file'" in alone.stderr
    variables["PYTHONPATH"] = seen["make"]["PYTHONPATH"]
    subprocess.run(argv, cwd=tree, env=variables, check=True)
    assert (tree / "basket/migrations/0001_initial.py").is_file()


@pytest.mark.parametrize(
    ("log", "packages", "known", "expected"),
    [
        (
            "ImportError: cannot import name 'ugettext' from 'django.utils.translation' (/srv/x.py)",
            {"django": "4.2.1"},
            "",
            "django 4.2.1, which is installed, does not have ugettext: set django:sites:blog:constraints: "
            "['django<4.0']\n",
        ),
        (
            'File "/srv/x/lib/python3.11/site-packages/paramiko/hostkeys.py", line 23, in <module>\n'
            "ImportError: cannot import name 'MutableMapping' from 'collections' (/usr/lib/python3.11/x.py)",
            {"paramiko": "2.4.2"},
            "Python's collections no longer has MutableMapping: set django:sites:blog:python: '3.9'",
            "paramiko 2.4.2 uses collections.MutableMapping, which this Python no longer has: set "
            "django:sites:blog:python_packages: ['paramiko>2.4.2,<6'], whose version",
        ),
        ("OSError: no such file", {"django": "4.2.1"}, "a known cause", "a known cause\n"),
    ],
)
def test_command_of_a_build_names_the_packages_that_do_not_go_with_each_other_or_with_python(
    world, monkeypatch, log, packages, known, expected
):
    world.options = {"build": ["python manage.py compilemessages"]}

    def run(_site, argv, **options):
        if "compilemessages" in argv:
            raise DeploymentError("manage.py failed (exit 1)", log=log, hint=known or options["hint"])

    monkeypatch.setattr(build_user, "run_as_build_user", run)
    monkeypatch.setattr(virtualenvs, "packages", lambda _folder: packages)
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.hint.startswith(expected)


def test_a_build_has_the_files_without_secrets_only(world, monkeypatch):
    public = {"contents": "DEBUG = False\n", "build": True}
    world.options = {"build": ["make"], "files": {"app/local.py": public, "app/mail.py": {"contents": "hunter2"}}}
    seen = []

    def run(_site, argv, **options):
        if argv == ["make"]:
            path = Path(options["folder"], "app/local.py")
            seen.extend([path.read_text(), sorted(one.name for one in path.parent.iterdir())])
            path.write_text("of the build")

    monkeypatch.setattr(build_user, "run_as_build_user", run)
    world.apply()
    assert seen == ["DEBUG = False\n", ["local.py"]]
    app = world.site.releases / world.live / "source/app"
    assert (app / "local.py").read_text() == "DEBUG = False\n" and (app / "mail.py").read_text() == "hunter2"


COMMANDS = {
    "after_static": ["manage.py compress --force", "true"],
    "after_migrate": ["./manage.py createcachetable"],
    "before_switch": ["warm 'a b'"],
    "after_switch": ["manage.py clear_cache"],
}
RUN = [
    ["/usr/bin/env", "python", "manage.py", "compress", "--force"],
    ["/usr/bin/env", "true"],
    ["/usr/bin/env", "python", "manage.py", "createcachetable"],
    ["/usr/bin/env", "warm", "a b"],
    ["/usr/bin/env", "python", "manage.py", "clear_cache"],
]


def ran(world):
    """The commands of the project that were run by systemd-run, without its options."""
    told = [argv[argv.index("--") + 1 :] for argv in world.commands if argv[0] == "systemd-run"]
    return [argv for argv in told if argv[0] == "/usr/bin/env"]


def test_each_command_runs_once_in_each_release(world):
    world.options = {"commands": COMMANDS, "timeouts": {"command": "90s"}}
    changes = world.apply()
    assert [step for step, change in changes.items() if "commands" in change and step != "build"] == [
        "static",
        "migration",
        "instance",
        "record",
    ]
    assert ran(world) == RUN
    writable = [
        argv[-2]
        for argv in world.commands
        if argv[-1] in ("--force", "clear_cache") and f"{world.site.releases / world.live}/static" in " ".join(argv)
    ]
    assert len(writable) == 1
    assert all("RuntimeMaxSec=105" in " ".join(argv) for argv in world.commands if "/usr/bin/env" in argv)
    assert world.apply() == {} and ran(world) == RUN
    world.push("two")
    world.apply()
    assert ran(world) == RUN * 2
    world.roll_back()
    assert ran(world) == RUN * 2


@pytest.mark.parametrize(
    ("stage", "step"), [("after_static", "static"), ("after_migrate", "migration"), ("before_switch", "instance")]
)
def test_a_command_that_fails_before_the_switch_stops_the_release(world, stage, step):
    world.apply()
    one = world.live
    world.options = {"commands": {stage: ["good", "bad x", "never"]}}
    world.push("two")
    world.fails["bad x"] = DeploymentError("bad x failed (exit 1)")
    with pytest.raises(DeploymentError, match=f"{step}: bad x failed"):
        world.apply()
    assert world.live == one and [argv[1] for argv in ran(world)] == ["good", "bad"]


def failed_after_static(world):
    """Let the second release fail in a command of the pillar; return the first one's name and the error."""
    world.apply()
    one = world.live
    world.push("two")
    world.options = {"commands": {"after_static": ["bad x"]}}
    world.fails["bad x"] = DeploymentError("bad x failed (exit 1)")
    with pytest.raises(DeploymentError) as error:
        world.apply()
    return one, error.value


def test_failed_release_names_what_inspection_finds_and_the_pillar_does_not_have(world, monkeypatch):
    seen = []

    def not_in_pillar(site, release, facts, step, hint, has_page, routes):
        seen.append((release.name, step, (release / "source").is_dir(), has_page))
        return "found in the source, and not in django:sites:blog: build: [make]"

    monkeypatch.setattr(advice, "not_in_pillar", not_in_pillar)
    one, error = failed_after_static(world)
    assert error.hint == (
        "correct django:sites:blog:commands:after_static:0, or the command itself\n"
        f"found in the source, and not in django:sites:blog: build: [make]\n{one} still runs"
    )
    ((name, *about),) = seen
    assert name.startswith("0002-") and about == ["static", True, True]
    world.fails["bad x"] = DeploymentError("it is busy", transient=True)
    world.push("three")
    with pytest.raises(DeploymentError, match="busy"):
        world.apply()
    assert len(seen) == 1


@pytest.mark.parametrize(("general", "found"), [(True, "set KEY"), (True, ""), (False, "set KEY")])
def test_variable_that_a_page_lacks_is_named_where_nothing_else_is_known(world, monkeypatch, general, found):
    monkeypatch.setattr(advice, "not_in_pillar", lambda *about, **more: "")
    monkeypatch.setattr(advice, "unset_variables", lambda site, release, facts, cause: found)
    hint = "correct the project, or set django:sites:blog:health (path)" if general else "load rows"
    world.fails["check"] = DeploymentError("health check failed: KeyError: 'KEY' (blog/views.py:6)", hint=hint)

    def check(site, release, explain):
        raise world.fails["check"]

    monkeypatch.setattr(health, "check", check)
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.hint.splitlines()[0] == (found if general and found else hint)


@pytest.mark.parametrize(("options", "own"), [({"database": {"engine": "sqlite"}}, "db"), ({}, "x y")])
def test_rows_that_a_first_page_may_need_are_copied_by_a_command(world, monkeypatch, options, own):
    """A project that commits its database may have no page without rows; a site that was released has rows."""
    monkeypatch.setattr(advice, "not_in_pillar", lambda *about, **more: "")
    monkeypatch.setattr(advice, "committed_database", lambda site, release, facts: "data/x y.sqlite3")
    world.options = options
    hint = "correct the project, or set django:sites:blog:health (path)"

    def fails(*_arguments):
        raise DeploymentError("health check failed: GET / returned 500", hint=hint)

    for released in (False, True):
        with monkeypatch.context() as patched, pytest.raises(DeploymentError) as error:
            patched.setattr(health, "check", fails)
            world.apply()
        told = [line for line in error.value.hint.splitlines() if line.startswith("its database is empty")]
        assert len(told) == (not released)
        if not released:
            (release,) = world.site.releases.iterdir()
            words = shlex.split(told[0].partition("rows: ")[2])
            assert words[:4] == ["runuser", "-u", world.site.user, "--"]
            assert f'"file:{release}/source/data/x%20y.sqlite3?' in words[-1]
            assert f'"{world.site.database.top}/{own}.sqlite3"' in words[-1]
            world.push("two")
            world.apply()
            world.push("three")


def test_package_that_breaks_a_page_on_this_python_is_named(world, monkeypatch):
    """The frames of the page's exception have the package; its version is that of the virtualenv."""
    monkeypatch.setattr(advice, "not_in_pillar", lambda *about, **more: "")
    monkeypatch.setattr(virtualenvs, "packages", lambda folder: {"errors": "1.4"})
    cause = "TypeError: cannot pickle 'FrameLocalsProxy' object"
    frame = 'File "/srv/x/virtualenv/lib/python3.13/site-packages/errors/utils.py", line 3, in vars'
    general = "correct the project, or set django:sites:blog:health (path)"

    def check(site, release, explain):
        message = f"health check failed: GET / on release {release.name} returned 500: {cause}"
        raise DeploymentError(message, log=f"Traceback\n  {frame}\n    copy(frame.f_locals)\n{cause}\n", hint=general)

    monkeypatch.setattr(health, "check", check)
    with pytest.raises(DeploymentError) as error:
        world.apply()
    cure = "errors 1.4 does not run on this Python: set django:sites:blog:python_packages: ['errors>1.4,<5']"
    assert error.value.hint.startswith(cure)
    assert error.value.options == {"python_packages": ["errors>1.4,<5"]}


@pytest.mark.parametrize("found", ["", "found in the source, and not in django:sites:blog: health:path: /up/"])
def test_page_is_looked_for_where_the_health_check_meets_none(world, monkeypatch, found):
    """Inspection names one that the code shows and Django has; else some of Django's routes are named."""
    seen = []

    def not_in_pillar(*about, has_page, routes):
        seen.append((about[3], has_page, routes))
        return found

    monkeypatch.setattr(advice, "not_in_pillar", not_in_pillar)
    monkeypatch.setattr(page, "routes", lambda *about: ["/docs/", "/login/", "/delete/"])

    def check(site, release, explain):
        raise health.NoPage("health check failed")

    monkeypatch.setattr(health, "check", check)
    with pytest.raises(DeploymentError, match="health check failed") as error:
        world.apply()
    assert seen == [("instance", False, ["/docs/", "/login/", "/delete/"])]
    routes = "pages of the project, by its routes, that health:path may name: /docs/, /login/"
    assert error.value.hint.splitlines() == [found or routes, "nothing runs yet"]


def test_a_source_that_no_advice_can_be_had_of_hides_nothing(world, monkeypatch):
    """Such as an answer of another shape, by a process of the site's user that the site has changed."""
    monkeypatch.setattr(advice, "not_in_pillar", lambda *_, **__: [].pop())
    one, error = failed_after_static(world)
    assert error.message == "static: bad x failed (exit 1)"
    assert error.hint == (f"correct django:sites:blog:commands:after_static:0, or the command itself\n{one} still runs")
    assert json.loads(world.site.deploys.read_text().splitlines()[-1])["result"] == "failed"
    world.check_leftovers()


def test_command_failing_after_the_switch_keeps_the_release(world):
    world.apply()
    world.options = {"commands": {"after_switch": ["bad x"]}}
    world.push("two")
    world.fails["bad x"] = DeploymentError("bad x failed (exit 1)")
    with pytest.raises(DeploymentError) as error:
        world.apply()
    two = world.live
    assert error.value.message == "record: bad x failed (exit 1)" and f"{two} is live" in error.value.hint
    assert world.releases[two] == "good" and two.startswith("0002")
    last = json.loads(world.site.deploys.read_text().splitlines()[-1])
    assert last["result"] == "released" and last["step"] == "record" and "bad x" in last["error"]
    world.fails.clear()
    assert world.apply() == {}


def test_file_that_does_not_compile_does_not_fail_the_release(world):
    world.fails["py_compile"] = DeploymentError("SyntaxError in a template of code")
    world.apply()
    world.check()


def test_a_source_is_compiled_but_for_what_is_none_of_the_project(tmp_path):
    tree = tmp_path / ".hidden" / "source"
    left_out = ["node_modules/a.py", ".git/b.py", "app/.c.py", "app/text.txt", "app/broken.py", "app/null.py"]
    for name in ["manage.py", "app/views.py", "app/deep/er/x.py", *left_out]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text({"broken": "def f(:\n", "null": "\0"}.get(Path(name).stem, "X = 1\n"))
    program = [sys.executable, "-I", "-S", "-c", step_build.COMPILE, str(tree)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    found = {path.relative_to(tree).as_posix().replace("__pycache__/", "") for path in tree.rglob("*.pyc")}
    tag = sys.implementation.cache_tag
    assert found == {f"manage.{tag}.pyc", f"app/views.{tag}.pyc", f"app/deep/er/x.{tag}.pyc"}


def brings(world, monkeypatch, **files):
    """Let the source of each release have these files too; a None is a link out of it."""
    export = world.export

    def more(site, commit, target):
        export(site, commit, target)
        for name, content in files.items():
            path = target / name.replace("__", "/").replace("_db", ".db")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(world.site.root.parent) if content is None else path.write_text(content)

    monkeypatch.setattr(commits, "export", more)


def test_what_is_shared_outlives_its_release(world, monkeypatch):
    brings(world, monkeypatch, data__photo="first", blog__site_db="first")
    world.options = {"shared": ["data", "blog/site.db", "new/folder", "new.file"]}
    world.apply()
    source, shared = world.site.current / "source", world.site.shared.top
    for name in world.options["shared"]:
        assert os.readlink(source / name) == str(shared / name)
    assert (shared / "data/photo").read_text() == (shared / "blog/site.db").read_text() == "first"
    assert (shared / "new/folder").is_dir() and not (shared / "new.file").exists()
    (shared / "data/photo").write_text("mine")
    world.push("two")
    brings(world, monkeypatch, data__photo="second", blog__site_db="second")
    world.apply()
    assert (world.site.current / "source/data/photo").read_text() == "mine"
    assert (world.site.current / "source/blog/site.db").read_text() == "first"


def test_what_is_writable_is_the_sites(world, monkeypatch):
    brings(world, monkeypatch, logs__old="x")
    world.options = {"writable": ["logs", "tmp/cache"]}
    given = []
    give = Foreign.give
    monkeypatch.setattr(
        Foreign, "give", lambda tree, owner, modes, **how: given.append(tree.name) or give(tree, owner, modes, **how)
    )
    world.apply()
    assert given == ["source", "source", "logs", "cache", "static"]
    assert (world.site.current / "source/tmp/cache").is_dir()


def installs(world, monkeypatch, *packages):
    """Let the virtualenv of each release have these packages."""
    build = virtualenvs.build

    def more(site, source, files, key, password, folder, day):
        drivers = build(site, source, files, key, password, folder, day)
        for name in packages:
            folder = site.virtualenvs / key / "lib/python3.11/site-packages" / name
            (folder / "css").mkdir(parents=True)
            (folder / "__init__.py").write_text("A = 1\n")
            (folder / "__init__.py").chmod(0o444)
            (folder / "link").symlink_to("/etc/passwd")
        return drivers

    monkeypatch.setattr(virtualenvs, "build", more)


def test_package_that_writes_into_its_folder_is_copied_into_the_release(world, monkeypatch):
    installs(world, monkeypatch, "ours", "other")
    world.options = {"writable_packages": ["ours"]}
    assert world.apply()["build"] == {"commands": "none", "source": "compiled", "packages": ["ours"]}
    live = world.site.releases / world.live
    copied = live / "packages/ours"
    assert [path.name for path in (live / "packages").iterdir()] == ["ours"]
    assert (copied / "__init__.py").read_text() == "A = 1\n" and (copied / "link").is_symlink()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (live / "packages", copied / "css", copied / "__init__.py")]
    assert modes == [0o750, 0o750, 0o640]
    (copied / "css/site.css").write_text("made")
    virtualenv = live / "virtualenv/lib/python3.11/site-packages/ours"
    assert not (virtualenv / "css/site.css").exists()
    assert drift.differing_paths(world.site, world.last.release) == [] and world.apply() == {}
    world.push("two")
    world.apply()
    assert not (world.site.releases / world.live / "packages/ours/css/site.css").exists()


def test_writable_package_that_the_virtualenv_lacks_is_refused(world, monkeypatch):
    installs(world, monkeypatch, "django_simple_bulma")
    world.options = {"writable_packages": ["simple_bulma"]}
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.message == (
        "build: the virtualenv has no folder of a package simple_bulma; there are django_simple_bulma"
    )
    assert error.value.hint == "correct django:sites:blog:writable_packages\nnothing runs yet"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"writable": ["link"]}, "build: django:sites:blog:writable: link leads through the link link"),
        ({"writable": ["link/x"]}, "build: django:sites:blog:writable: link/x leads through the link link"),
        ({"shared": ["link/x"]}, "build: django:sites:blog:shared: link/x leads through the link link"),
        (
            {"files": {"link/x": {"contents": ""}}},
            "settings: django:sites:blog:files: link/x leads through the link link",
        ),
    ],
)
def test_path_through_a_link_of_the_source_is_refused(world, monkeypatch, options, message):
    brings(world, monkeypatch, link=None)
    world.options = options
    before = sorted(path.name for path in world.site.root.parent.iterdir()) if world.site.root.parent.exists() else []
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.message == message
    assert sorted(path.name for path in world.site.root.parent.iterdir()) == [*before, "blog"]


def test_a_link_that_is_shared_is_replaced(world, monkeypatch):
    brings(world, monkeypatch, link=None)
    world.options = {"shared": ["link"]}
    world.apply()
    assert os.readlink(world.site.current / "source/link") == str(world.site.shared.top / "link")
    assert (world.site.shared.top / "link").is_dir() and world.site.root.parent.is_dir()


# The start of Django


@pytest.mark.parametrize(
    ("answers", "options", "message", "hint"),
    [
        (
            {"settings_module": "blog.settings"},
            {},
            "static: the project overrides DJANGO_SETTINGS_MODULE with blog.settings",
            "set django:sites:blog:settings_module: blog.settings, if the site is to have those settings; "
            "otherwise use os.environ.setdefault in blog.wsgi",
        ),
        (
            {"debug": True},
            {},
            "static: DEBUG is on",
            "turn it off in the project's environment: django:sites:blog:environment, "
            "or let the overlay do it: django:sites:blog:overlay: true",
        ),
        *(
            (
                {"databases": {"default": {"engine": "django.db.backends.sqlite3", "name": name}}},
                options,
                f"static: the database 'default' is inside the release ({name}) and would be deleted with it",
                "add its file to django:sites:blog:shared, "
                "or set its path: django:sites:blog:environment, {from: database_path}, "
                "with database: {engine: sqlite}",
            )
            for name, options in [
                ("{release}/source/db.sqlite3", {}),
                ("db.sqlite3", {}),
                ("../data/db.sqlite3", {}),
                ("/app/db.sqlite3", {"mount": "/app"}),
                ("db.sqlite3", {"mount": "/app", "shared": ["data"]}),
            ]
        ),
    ],
)
def test_insecure_or_unsafe_project_is_refused(world, answers, options, message, hint):
    release = str(world.site.releases / f"0001-{commit('one')[:12]}")
    world.options = options
    for database in answers.get("databases", {}).values():
        database["name"] = database["name"].replace("{release}", release)
    world.answers = answers
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.message.replace(release, "{release}") == message.replace(release, "{release}")
    assert error.value.hint == f"{hint}\nnothing runs yet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "warnings"),
    [
        ({}, []),
        ({"allowed_hosts": ["*"]}, []),
        ({"allowed_hosts": [".example.org"]}, []),
        (
            {"allowed_hosts": ["xblog.example.org", ".ample.org"]},
            ["ALLOWED_HOSTS is ['xblog.example.org', '.ample.org'], which does not include every domain of the site"],
        ),
        (
            {"allowed_hosts": ["other.org"]},
            ["ALLOWED_HOSTS is ['other.org'], which does not include every domain of the site"],
        ),
        ({"media_root": ""}, []),
        ({"media_root": "{media}/.//"}, []),
        ({"allowed_hosts": ["Blog.Example.ORG"]}, []),
        ({"media_root": "/app/media"}, ["MEDIA_ROOT is /app/media, not {media}: uploads are not served"]),
        (
            {"cookies": {"SESSION_COOKIE_SECURE": True, "CSRF_COOKIE_SECURE": False, "SESSION_COOKIE_DOMAIN": None}},
            [
                "SESSION_COOKIE_SECURE is on, so that browsers send the cookie over https only, and "
                "the site has no tls: set tls, or list the proxy in front that serves https in proxy:trusted"
            ],
        ),
        ({"cookies": {"SESSION_COOKIE_DOMAIN": ".Example.ORG", "CSRF_COOKIE_DOMAIN": "blog.example.org"}}, []),
        (
            {"cookies": {"CSRF_COOKIE_DOMAIN": ".log.example.org"}},
            [
                "CSRF_COOKIE_DOMAIN is .log.example.org, which does not include blog.example.org: "
                "browsers reject the cookie there; correct django:sites:blog:settings:CSRF_COOKIE_DOMAIN"
            ],
        ),
        ({"https": {"redirect": False, "header": None}}, []),
        ({"https": {"redirect": True, "header": "HTTP_X_OF_THE_CDN"}}, []),
        (
            {"https": {"redirect": True, "header": "HTTP_X_SCHEME"}},
            [
                "SECURE_PROXY_SSL_HEADER is HTTP_X_SCHEME, and the proxy removes X-Scheme from requests: use "
                "HTTP_X_FORWARDED_PROTO, or list X-Scheme in django:sites:blog:proxy:trusted_headers and the proxy "
                "that sends it in django:sites:blog:proxy:trusted"
            ],
        ),
        *(
            (
                {"https": {"redirect": True, "header": header}},
                [
                    "SECURE_SSL_REDIRECT redirects every visitor to https, and the site has no tls: set "
                    "django:sites:blog:tls, or list the proxy in front that serves https in "
                    "django:sites:blog:proxy:trusted"
                ],
            )
            for header in (None, "HTTP_X_FORWARDED_PROTO")
        ),
        ({"trusted_origins": ["https://app.example.com", "https://*.Example.org:8443"]}, []),
        ({"trusted_origins": ["http://blog.example.org"]}, []),
        (
            {"trusted_origins": ["https://app.example.com", "https://*.example.com"]},
            [
                "CSRF_TRUSTED_ORIGINS is ['https://app.example.com', 'https://*.example.com'], which includes no "
                "domain of the site (blog.example.org); correct django:sites:blog:settings:CSRF_TRUSTED_ORIGINS"
            ],
        ),
        ({"script_name": "/"}, []),
        (
            {"script_name": "/app"},
            [
                "FORCE_SCRIPT_NAME is '/app', and the site's path is '/': links lead to the former; "
                "correct django:sites:blog:settings:FORCE_SCRIPT_NAME, or django:sites:blog:path"
            ],
        ),
        ({"static_url": "https://cdn.example.org/", "media_url": "https://cdn.example.org/media/"}, []),
        ({"static_url": "/static/", "media_url": "/"}, []),
        ({"static_url": "/static/", "media_url": "/static/", "collected": None}, []),
        (
            {"static_url": "/"},
            [
                "STATIC_URL is '/', and the site's path is '/': no static files are served there; "
                "correct django:sites:blog:settings:STATIC_URL"
            ],
        ),
        *(
            (
                {"static_url": static, "media_url": media},
                [
                    f"MEDIA_URL is '{media}', and STATIC_URL is '{static}': a file below both is served from one "
                    "of them; correct django:sites:blog:settings:MEDIA_URL, or STATIC_URL"
                ],
            )
            for static, media in (("/media/static/", "/media/"), ("/static/", "/static/media/"))
        ),
        ({"static_code": [], "unready": []}, []),
        (
            {"unready": ["blog: ProgrammingError: relation blog_post does not exist (blog/apps.py:9)"]},
            [
                "AppConfig.ready() of an application reads what migrations have yet to make, and ends there until they "
                "are applied: blog: ProgrammingError: relation blog_post does not exist (blog/apps.py:9); have the "
                "project read it later, or in a data migration"
            ],
        ),
        (
            {"static_code": ["models.py", "settings.py", "views.py"]},
            [
                "STATICFILES_DIRS has a folder with the project's code, and everyone can read settings.py below "
                "STATIC_URL: have it name folders without code"
            ],
        ),
        ({"largest_body": 75 << 20}, []),
        (
            {"largest_body": 76 << 20},
            [
                "DATA_UPLOAD_MAX_MEMORY_SIZE is 79691776 bytes, and the proxy refuses requests over 75M: "
                "raise django:sites:blog:media:max_upload"
            ],
        ),
        (
            {"timeouts": {"DATABASES['default']['OPTIONS']['timeout']": 60, "x": 90.5}},
            [
                "x is 90.5 s, and the server ends a request after 60 s, before Django can report the timeout: set a "
                "shorter one in the project, or a longer django:sites:blog:server:options:harakiri"
            ],
        ),
        ({"checks": ["security.W001: no middleware"]}, ["security.W001: no middleware"]),
        ({"databases": {"default": {"engine": "sqlite3", "name": ":memory:"}}}, []),
        ({"databases": {"default": {"engine": "sqlite3", "name": "file:x?mode=memory"}}}, []),
    ],
)
def test_contradictions_of_a_project_give_warnings(world, answers, warnings):
    if answers.get("media_root"):
        answers = {**answers, "media_root": answers["media_root"].format(media=world.site.media.top)}
    world.answers = answers
    world.apply()
    assert world.last.warnings == [text.format(media=world.site.media.top) for text in warnings]


def test_files_that_the_health_page_links_to_and_the_release_lacks_give_a_warning(world):
    world.answers = {"static_url": "/static/"}
    world.page = '<script src="/static/dist/a.js"></script>'
    world.apply()
    assert world.last.warnings == [
        "the health page links to dist/a.js, not among the static files: have django:sites:blog:build create what is "
        "generated, or correct the names in the project"
    ]
    world.apply()
    assert world.last.warnings == []


@pytest.mark.parametrize(
    ("options", "home", "warning"),
    [
        (
            {},
            (200, '<link rel="stylesheet" href="/static/css/site.css">'),
            "the page / links to css/site.css, not among the static files: have django:sites:blog:build create what is "
            "generated, or correct the names in the project",
        ),
        (
            {"path": "/app"},
            (500, ""),
            "GET /app/ on release 0001-3f2a9c1b77de returned 500, and the health check requests another page: the "
            "exception is in salt-call django.logs blog, if the project logs it",
        ),
        ({}, (404, ""), ""),
    ],
)
def test_home_page_that_the_health_check_does_not_request_gives_warnings(world, options, home, warning):
    world.answers, world.home = {"static_url": "/static/"}, home
    world.options |= options
    world.apply()
    told = [text.replace(world.live, "0001-3f2a9c1b77de") for text in world.last.warnings]
    assert [text for text in told if "STATIC_URL" not in text] == ([warning] if warning else [])


@pytest.mark.parametrize("is_installed", [True, False])
def test_log_is_read_for_files_of_the_health_page_only_where_a_package_inlines_them(world, is_installed):
    world.packages |= {"django_staticinline": "1.0"} if is_installed else {}
    world.prints["journalctl"] = 'WARNING Unable to include inline static file "gone.css", file not found.\n'
    world.apply()
    warning = (
        "the health page uses gone.css, not among the static files: have django:sites:blog:build create what is "
        "generated, or correct the names in the project"
    )
    assert world.last.warnings == [warning] * is_installed


@pytest.mark.parametrize(
    ("options", "answers", "words"),
    [
        (
            {"tls": {"kind": "self_signed"}},
            {
                "https": {"redirect": True, "header": None},
                "trusted_origins": ["http://blog.example.org", "https://blog.example.org", "http://a.example.com"],
            },
            "CSRF_TRUSTED_ORIGINS has http://blog.example.org, and the site is served by https only",
        ),
        (
            {"path": "/app", "overlay": False},
            {"script_name": "/"},
            "FORCE_SCRIPT_NAME is '/', and the site's path is '/app': links lead to the former; "
            "correct django:sites:blog:environment",
        ),
        ({"path": "/app"}, {"static_url": "/app/"}, "STATIC_URL is '/app/', and the site's path is '/app': no"),
        ({"proxy": {"trusted": ["10.0.0.1"]}}, {"https": {"redirect": True, "header": None}}, ""),
        ({"media": {"max_upload": "1k"}}, {"largest_body": 1025}, "DATA_UPLOAD_MAX_MEMORY_SIZE is 1025 bytes, and"),
        ({"media": {"max_upload": "0"}}, {"largest_body": 1 << 40}, ""),
        (
            {"proxy": {"kind": "none"}},
            {
                "https": {"redirect": True, "header": "HTTP_X_FORWARDED_PROTO"},
                "cookies": {"SESSION_COOKIE_SECURE": True},
                "largest_body": 1 << 40,
                "static_url": "/",
            },
            "",
        ),
        (
            {},
            {"static_storage": {"class": "storages.S3Manifest", "manifest": "staticfiles.json", "elsewhere": True}},
            "storages.S3Manifest uploads its manifest while collectstatic runs",
        ),
        ({}, {"static_storage": {"class": "storages.S3", "manifest": None, "elsewhere": True}}, ""),
        ({}, {"static_storage": {"class": "Manifest", "manifest": "staticfiles.json", "elsewhere": False}}, ""),
        ({"proxy": {"locations": {"/a/": {"client_max_body_size": "1G"}}}}, {"largest_body": 1 << 30}, ""),
        ({"proxy": {"kind": "apache", "locations": {"/a/": {"LimitRequestBody": 0}}}}, {"largest_body": 1 << 30}, ""),
        (
            {"server": {"kind": "uvicorn"}, "database": {"engine": "postgres", "options": {"connect_timeout": 90}}},
            {"timeouts": {"DATABASES['default']['OPTIONS']['connect_timeout']": 90}},
            "before Django can report the timeout: set a shorter one in django:sites:blog:database:options",
        ),
    ],
)
def test_what_contradicts_the_pillar(make_site, options, answers, words):
    plain = {"allowed_hosts": ["*"], "static_url": "/static/", "media_url": "/media/", "media_root": "", "collected": 1}
    found = list(coherence.contradictions(make_site(**options), {**plain, **answers}))
    assert [words in line for line in found] == ([True] if words else []), found


@pytest.mark.parametrize(
    ("name", "mount"),
    [
        ("{shared}/db.sqlite3", None),
        ("data/db.sqlite3", None),
        ("/app/data/db.sqlite3", "/app"),
        ("{database}/x.db", None),
    ],
)
def test_a_database_that_is_kept(world, name, mount):
    world.options = {"shared": ["data"], "mount": mount}
    name = name.format(shared=world.site.shared.top, database=world.site.database.top)
    migrations = {"default": {"applied": ["blog.0001_initial"], "pending": []}}
    world.answers = {"databases": {"default": {"engine": "django.db.backends.sqlite3", "name": name}}}
    world.answers["migrations"] = migrations
    world.apply()
    path = databases.database_file(
        world.site, world.last.release.path, world.last.release.facts, world.answers["databases"]["default"]
    )
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE django_migrations (app TEXT, name TEXT)")
        connection.execute("INSERT INTO django_migrations VALUES ('blog', '0001_initial')")
    assert world.apply() == {}
    path.unlink()
    assert world.apply()["migration"] == {"migrations": {"default": ["blog.0001_initial"]}}


@pytest.mark.parametrize("has_tables", [True, False])
def test_database_in_two_places_is_refused(world, has_tables):
    world.apply()
    own = {"engine": "sqlite", "name": "a.db", "replaces": "postgres:///blog"}
    world.options = {"shared": ["data"], "database": own}
    used, own = world.site.database.top / "a.db", world.site.shared.top / "data/db.sqlite3"
    own.parent.mkdir(parents=True)
    with sqlite3.connect(own) as connection:
        if has_tables:
            connection.execute("CREATE TABLE django_migrations (app TEXT, name TEXT)")
            connection.execute("INSERT INTO django_migrations VALUES ('blog', '0001_initial')")
    world.answers = {
        "databases": {"default": {"engine": "django.db.backends.sqlite3", "name": str(used)}},
        "own_files": {"default": str(own)},
    }
    if not has_tables:
        world.apply()
        assert "own_files" not in world.last.release.facts
        return
    with pytest.raises(DeploymentError) as error:
        world.apply()
    key = "django:sites:blog:database"
    assert error.value.message == (
        f"static: the database 'default' is in two places: {used}, which {key}:name sets, and {own}, which the "
        "project's settings name"
    )
    assert error.value.hint == f"remove {key}:name, or move {own} away\n0001-{commit('one')[:12]} still runs"


def test_static_files_are_compressed_where_that_helps(own_host):
    folder = own_host / "static"
    (folder / "deep").mkdir(parents=True)
    text, noise = b"body { color: red }\n" * 200, os.urandom(3000)
    files = {
        "a.css": text,
        "deep/b.js": text,
        "small.css": text[:1024],
        "c.png": text,
        "noise.svg": noise,
        "d.css": text,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "link.css").symlink_to("a.css")
    release_static.compress(folder)
    made = {str(path.relative_to(folder)): path for path in folder.rglob("*.gz")}
    assert made.keys() == {"a.css.gz", "deep/b.js.gz", "d.css.gz"}
    assert all(gzip.decompress(path.read_bytes()) == text for path in made.values())
    assert made["a.css.gz"].read_bytes() == made["d.css.gz"].read_bytes()
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in made.values())


def test_static_file_whose_compressed_one_cannot_have_its_name_stays_alone(own_host):
    folder, text = own_host / "static", b"a" * 4000
    (folder / "app.css.gz").mkdir(parents=True)
    names = ["app.css", f"{'x' * 251}.js", f"{'x' * 249}.js"]
    for name in names:
        (folder / name).write_bytes(text)
    release_static.compress(folder)
    assert sorted(path.name for path in folder.glob("*.gz")) == ["app.css.gz", f"{'x' * 249}.js.gz"]
    assert (folder / "app.css.gz").is_dir()


def test_a_file_that_has_not_changed_shares_what_is_compressed(own_host):
    old, new = own_host / "old", own_host / "new"
    texts = {
        "same.css": (b"a" * 2000, b"a" * 2000),
        "other.css": (b"a" * 2000, b"b" * 2000),
        "new.css": (b"", b"c" * 2000),
        "shorter.css": (b"d" * 3000, b"d" * 2000),
    }
    for place, folder in enumerate((old, new)):
        folder.mkdir()
        for name, contents in texts.items():
            (folder / name).write_bytes(contents[place])
    release_static.compress(old)
    release_static.compress(new, old)
    assert (new / "same.css.gz").samefile(old / "same.css.gz")
    made = {path.name: gzip.decompress(path.read_bytes()) for path in new.glob("*.gz")}
    assert made == {f"{name}.gz": contents[1] for name, contents in texts.items()}


def test_existing_link_named_gz_is_replaced_not_followed(own_host):
    folder, foreign = own_host / "static", own_host / "foreign"
    folder.mkdir()
    foreign.write_text("mine")
    (folder / "a.css").write_text("x" * 2000)
    (folder / "a.css.gz").symlink_to(foreign)
    release_static.compress(folder)
    assert foreign.read_text() == "mine"
    assert not (folder / "a.css.gz").is_symlink()


@pytest.mark.parametrize(("compress", "made"), [(["gzip"], True), ([], False)])
def test_compression_is_asked_of_the_pillar(world, monkeypatch, compress, made):
    project = world.project

    def collects(request):
        Path(request["static_root"], "a.css").write_text("x" * 2000)
        return project(request)

    world.project = collects
    world.options = {"static": {"compress": compress}}
    world.apply()
    static = world.site.current / "static"
    assert (static / "a.css.gz").exists() is made
    assert stat.S_IMODE((static / "a.css").stat().st_mode) == 0o644


# The database


def pending(*names):
    return {"default": {"applied": ["blog.0001"], "pending": list(names)}}


def test_migrations_that_are_pending_are_run(world):
    world.answers = {"migrations": pending("blog.0002", "blog.0003")}
    changes = world.apply()
    assert changes["migration"] == {"migrations": {"default": ["blog.0002", "blog.0003"]}}
    facts = file.read_json(world.site.current / "release.json")["facts"]
    assert facts["migrations"]["default"]["pending"] == []
    assert world.apply() == {}


def test_migrations_that_the_pillar_does_not_want(world):
    world.options = {"migrate": {"run": False}}
    world.answers = {"migrations": pending("blog.0002")}
    assert "migration" not in world.apply()
    assert world.last.warnings == ["migrations not applied, since migrate:run is false: blog.0002"]


# The switch


def test_switch_of_a_unix_socket_does_not_reload_nginx(world):
    world.apply()
    world.push("two")
    world.commands.clear()
    world.apply()
    assert not any("nginx" in part for command in world.commands for part in command)


@pytest.mark.parametrize(
    "then", [{"server": {"bind": "127.0.0.1:8001", "protocol": "http"}}, {"server": {"protocol": "http"}}, {}]
)
@pytest.mark.parametrize("first", [{"server": {"bind": "127.0.0.1:8001"}}, {}])
def test_switch_to_another_kind_of_address_reloads_nginx(world, monkeypatch, first, then):
    """nginx is reloaded once the release is active, and not before it answers."""
    world.options = first
    world.apply()
    old = world.live
    world.options = then
    world.push("two")
    seen = []
    reload = daemons.reload
    monkeypatch.setattr(daemons, "reload", lambda daemon: (seen.append(world.live), reload(daemon)))
    world.apply()
    kinds = {instances.kind(world.site.releases / name) for name in (old, world.live)}
    is_tcp = instances.kind(world.site.current)[0] == "tcp"
    if len(kinds) == 1 and not is_tcp:
        assert seen == []
    else:
        assert seen[0] == (old if len(kinds) == 2 else world.live)
        assert seen[-1] == world.live
    assert world.apply() == {}
    world.check()


@pytest.mark.parametrize("then", [{"server": {"bind": "127.0.0.1:8001"}}, {}])
@pytest.mark.parametrize("first", [{"server": {"bind": "127.0.0.1:8001"}}, {}])
def test_a_live_release_whose_record_is_torn_is_left_as_any_other(world, monkeypatch, first, then):
    """It serves, so nginx has to be led to the next one where the rename does not do that."""
    world.options = first
    world.apply()
    old = world.live
    (world.site.current / "release.json").write_text("{")
    world.options = then
    seen = []
    monkeypatch.setattr(daemons, "reload", lambda daemon: seen.append(world.live))
    world.apply()
    assert world.live != old and (seen[-1:] == [world.live] if first or then else seen == [])
    assert world.apply() == {} and not any(old[:4] in unit for unit in world.running)
    world.check()


def test_cut_connections_give_a_warning(world, monkeypatch):
    world.apply()
    world.push("two")
    monkeypatch.setattr(instances, "drain", lambda site, release: 3)
    world.apply()
    assert world.last.warnings == ["3 connections were still open after 30s, and were cut"]


def test_a_neighbour_that_breaks_nginx_stops_the_proxy_step_only(world):
    world.apply()
    world.options = {"media": {"max_upload": "5M"}}
    world.push("two")
    world.fails["nginx -t"] = DeploymentError("x", log="nginx: [emerg] broken in /etc/nginx/sites-enabled/other:3")
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.message == "proxy: nginx refuses its configuration: broken in /etc/nginx/sites-enabled/other:3"
    assert world.live == f"0002-{commit('two')[:12]}"
    assert "75M" in (nginx.ETC / "django/blog.conf").read_text()
    world.fails.clear()
    assert list(world.apply()) == ["proxy"]
    world.check()


def test_missing_database_driver_is_installed_and_reported(world):
    world.drivers = ["psycopg[binary]>=3.1.8"]
    assert world.apply()["virtualenv"]["added"] == world.drivers
    world.drivers = []
    world.push("two")
    assert "added" not in world.apply()["virtualenv"]


def test_only_a_release_changes_how_sqlite_keeps_its_log(world, monkeypatch):
    start, asked = project_program.start, []

    def played(*arguments, **options):
        asked.append(options["write_ahead"])
        return start(*arguments, **options)

    monkeypatch.setattr(project_program, "start", played)
    world.apply()
    assert asked == [True]
