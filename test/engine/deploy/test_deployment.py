import difflib
import errno
import itertools
import json
import os
import stat
import time

import msgpack
import pytest
from django_formula.deploy import steps
from django_formula.deploy.origin import asked_by
from django_formula.host import commands, proc, users
from django_formula.host import file as host_file
from django_formula.host import folders as host_folders
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd
from django_formula.project import program
from django_formula.proxy import ports as proxy_ports
from django_formula.release import disk, health, instances, releases
from django_formula.secret import secrets
from django_formula.server import uwsgi
from django_formula.site import sites
from django_formula.source import commits
from django_formula.source import folder as source_folder
from django_formula.verbs import operations
from specimen import contract
from thinned import each, full, pairs
from world import commit

ONE, TWO, THREE = commit("one"), commit("two"), commit("three")


def test_a_first_release(world):
    changes = world.apply()
    name = f"0001-{ONE[:12]}"
    assert list(changes) == [
        *[
            "site",
            "source",
            "virtualenv",
            "build",
            "secret_key",
            "settings",
            "static",
            "instance",
            "live",
            "proxy",
            "record",
        ]
    ]
    assert changes["source"] == {"release": {"old": None, "new": name}}
    assert changes["live"] == {"live": {"old": None, "new": name}, "receipt": world.last.findings.switch_report}
    assert world.live == name and not world.site.previous.exists()
    world.check()
    record = host_file.read_json(world.site.current / "release.json")
    assert stat.S_IMODE((world.site.current / "release.json").stat().st_mode) == 0o640
    about = {"name": name, "state": "good", "commit": ONE, "asked_by": "a test", "author": "Ada", "subject": ONE[:7]}
    assert record.items() >= about.items()
    more = {
        "began",
        "live_since",
        "inputs",
        "facts",
        "steps",
        "virtualenv",
        "packages",
        "warnings",
        "receipt",
        "size",
        "page",
    }
    assert set(record) - set(about) == more
    assert set(record["steps"]) == {"site", "schedules", *(step.__name__ for step in steps.RELEASE[:-1])}
    attempts = [json.loads(line) for line in world.site.deploys.read_text().splitlines()]
    assert [attempt["result"] for attempt in attempts] == ["released"]
    assert attempts[0].keys() == {"time", "release", "commit", "result", "asked_by", "seconds", "receipt"}


def test_seconds_of_a_deployment_in_which_the_clock_is_set_back(world, monkeypatch):
    """As on a machine that has just been started, which asks for the time while its first site is deployed."""
    world.apply()
    deployment, real = world.deployment(), time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    deployment.write_attempt("released")
    assert 0 <= releases.attempts(world.site)[-1]["seconds"] < 600


def test_nothing_to_do_is_nothing_done(world):
    world.apply()
    world.commands.clear()
    before = snapshot(world)
    for options in ({}, {"test": True}):
        assert world.apply(**options) == {}
    assert world.commands == [] and snapshot(world) == before


def snapshot(world):
    """Everything on the host: path → content, mode and time."""
    found = {}
    for path in world.site.root.parents[1].rglob("*"):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = (content, status.st_mode, status.st_mtime_ns if path.is_file() else None)
    return found


def test_a_new_commit(world):
    world.apply()
    world.push("two")
    changes = world.apply()
    old, new = f"0001-{ONE[:12]}", f"0002-{TWO[:12]}"
    assert changes["source"] == {
        "release": {"old": old, "new": new},
        "commit": {"old": ONE, "new": TWO},
        "files": 1,
        "gapless": "yes",
    }
    assert changes["virtualenv"]["virtualenv"].endswith(", shared")
    assert "secret_key" not in changes and "proxy" not in changes
    assert changes["live"] == {"live": {"old": old, "new": new}, "receipt": world.last.findings.switch_report}
    assert world.live == new and os.readlink(world.site.previous) == f"releases/{old}"
    assert world.releases == {old: "good", new: "good"}
    world.check()
    assert world.apply() == {}


def test_old_releases_go(world):
    world.options["releases"] = {"keep": 2}
    for number in range(5):
        world.push(f"commit {number}")
        world.apply()
    assert [name[:4] for name in world.releases] == ["0004", "0005"]
    assert len(list(world.site.virtualenvs.iterdir())) == 1
    world.check()


def test_drop_in_of_a_deleted_release_gives_a_warning(world):
    world.options = {"releases": {"keep": 2}}
    world.apply()
    folders = [f"django-blog-{name}.d" for name in ("0001.service", "0001.socket", "0004.service")]
    folders += ["django-blog-.service.d", "django-blog-task-0001.service.d", "django-blogs-0001.service.d"]
    for folder in folders:
        (systemd.UNITS / folder).mkdir(exist_ok=True)
        if "socket" not in folder:
            (systemd.UNITS / folder / "override.conf").write_text("[Service]\nNice=5\n")
    for name in ("two", "three", "four"):
        world.push(name)
        world.apply()
    left = systemd.UNITS / "django-blog-0001.service.d"
    assert world.last.warnings == [
        f"{left} overrides the unit of a deleted release: set it in the pillar (resources, sandbox), then rm -r {left}"
    ]
    there = {path.name for path in systemd.UNITS.glob("*.d")}
    assert there == {*folders} - {"django-blog-0001.socket.d"}


def test_an_old_release_that_cannot_be_deleted_stops_nothing(world, monkeypatch):
    for number in range(3):
        world.push(f"commit {number}")
        world.apply()
    remove = disk.remove

    def stuck(release):
        if release.sequence == 1:
            raise OSError(errno.EPERM, "Operation not permitted")
        remove(release)

    monkeypatch.setattr(disk, "remove", stuck)
    world.options["releases"] = {"keep": 2}
    site = world.site
    stuck = f"0001-{commit('commit 0')[:12]} could not be deleted: [Errno 1] Operation not permitted"
    assert disk.prune(site) == [stuck]
    world.push("last")
    assert "live" in world.apply() and world.last.warnings == [stuck]


def test_what_is_stuck_is_tried_again_and_stops_nothing(world, monkeypatch):
    """A virtualenv, and what a deployment has left that was killed, on a disk that does not let them go."""
    world.apply()
    left = releases.Release(world.site, f"0002-{TWO[:12]}")
    left.path.mkdir()
    left.update(state="building")
    (world.site.virtualenvs / "old").mkdir()
    remove_tree = host_file.remove_tree

    def stuck(path):
        if path.name in (f".{left.name}.gone", ".old.gone") and path.exists():
            raise OSError(errno.EPERM, "Operation not permitted", str(path))
        remove_tree(path)

    with monkeypatch.context() as patched:
        patched.setattr(host_file, "remove_tree", stuck)
        world.push("three")
        world.apply()
    assert world.live == f"0003-{THREE[:12]}"
    assert [warning.split(":")[0] for warning in world.last.warnings] == [
        f"releases/.{left.name}.gone could not be deleted",
        "the virtualenv old could not be deleted",
    ]
    world.push("four")
    world.apply()
    assert left.name not in world.releases and len(list(world.site.virtualenvs.iterdir())) == 1
    world.check()


def test_failed_releases_do_not_count_and_go(world):
    world.options["releases"] = {"keep": 2}
    for number in range(3):
        world.push(f"good {number}")
        world.apply()
        world.push(f"bad {number}")
        world.fails["enable --quiet"] = DeploymentError("no")
        with pytest.raises(DeploymentError):
            world.apply()
        world.fails.clear()
    assert list(world.releases.values()) == ["good", "good", "failed"]
    world.push("last")
    world.apply()
    assert [name[:4] for name in world.releases] == ["0005", "0007"]
    world.check()


def test_units_whose_release_is_gone_go_too(world):
    world.apply()
    units = [*write_units(world, "0007"), *write_units(world, "0001")]
    world.systemctl("enable", "--now", *units[:2])
    world.push("two")
    world.apply()
    assert {path.name[:16] for path in systemd.UNITS.glob("django-blog-*.*")} == {
        "django-blog-0001",
        "django-blog-0002",
    }
    assert world.running == {"django-blog-0002.service", "django-blog-0002.socket"}


def test_a_virtualenv_stays_while_a_release_has_it(world):
    world.apply()
    world.options = {"python_packages": ["gunicorn"], "releases": {"keep": 2}}
    world.apply()
    first = [os.readlink(path / "virtualenv") for path in sorted(world.site.releases.iterdir())]
    assert len(set(first)) == len(list(world.site.virtualenvs.iterdir())) == 2
    world.push("two")
    world.apply()
    assert len(list(world.site.virtualenvs.iterdir())) == 1, "that of the first release goes with it"


def test_a_dry_run_of_a_bare_host(world, monkeypatch):
    for name in ("user_id", "group_id"):
        monkeypatch.setattr(users, name, lambda name: -2)
    root = world.site.root.parent
    before = {str(path) for path in root.parent.rglob("*")}
    changes = world.apply(test=True)
    assert changes["site"] == {str(world.site.root): "would be created"}
    assert changes["source"] == {"release": "would be built from main"}
    assert {name: changes[name] for name in list(changes)[2:]} == {
        step.__name__: {"release": "the first release"} for step in steps.RELEASE[1:] if step.__name__ != "push"
    }
    assert {str(path) for path in root.parent.rglob("*")} == before and world.commands == []


def test_a_dry_run_of_a_new_commit(world):
    world.apply()
    world.push("two")
    before = snapshot(world)
    changes = world.apply(test=True)
    new = f"0002-{TWO[:12]}"
    assert changes.pop("source")["release"] == {"old": f"0001-{ONE[:12]}", "new": new}
    assert changes == {
        **{name: {"release": new} for name in ["virtualenv", "build", "settings", "static"]},
        **{name: {"release": new} for name in ["migration", "instance", "live", "record"]},
    }
    assert snapshot(world) == before and world.releases == {f"0001-{ONE[:12]}": "good"}


LOCATIONS = "salt://django/files/nginx/locations.conf"
#: A change, and the files that a dry run shows as differences: those of the instance, those of nginx.
CHANGES = {
    "commit": ({}, None, [], []),
    "threads": ({"server": {"threads": 2}}, None, ["uwsgi.ini"], []),
    "an option of the server": ({"server": {"options": {"harakiri": 7}}}, None, ["uwsgi.ini"], ["blog.conf"]),
    "a limit": ({"resources": {"MemoryMax": "1G"}}, None, ["django-blog-0001.service"], []),
    "a path": ({"path": "/blog"}, None, ["uwsgi.ini"], ["blog.conf"]),
    "STATIC_URL": ({"settings": {"STATIC_URL": "/files/"}}, None, [], ["blog.conf"]),
    "domains": ({"domains": ["new.org"]}, None, [], ["blog.example.org", "new.org"]),
    "a port": (
        {"server": {"bind": "127.0.0.1:8000"}},
        None,
        ["django-blog-0001.socket", "instance.json", "upstream.conf"],
        ["django-blog.conf"],
    ),
    "what only nginx reads": ({"media": {"max_upload": "5M"}}, None, [], ["blog.conf"]),
    "the server's template": ({}, uwsgi.SERVER.templates[0], ["uwsgi.ini"], []),
    "the unit's template": ({}, systemd.SERVICE, ["django-blog-0001.service"], []),
    "nginx's template": ({}, LOCATIONS, [], ["blog.conf"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", each(2, CHANGES))
def test_a_dry_run_tells_what_the_apply_then_does(world, change):
    world.apply()
    world.options, template, instance, nginx = CHANGES[change]
    if change == "commit":
        world.push("two")
    if template:
        world.templates[template] += "# more\n"
    if change == "STATIC_URL":
        world.answers["static_url"] = "/files/"
    old = world.site.releases / world.live
    before = {path.name: path.read_text() for path in (old / "config").iterdir()}
    told = [world.apply(test=True) for _ in range(2)]
    assert told[0] == told[1]
    done = world.apply()
    assert {*done} <= {*told[0]} and {*told[0]} - {*done} <= {"migration"}
    foreseen = told[0].get("instance", {}).get("files", {})
    assert sorted(foreseen) == [*instance] and foreseen == differences(world, old, before)
    assert told[0].get("proxy", {}).keys() == done.get("proxy", {}).keys()
    # another kind of address is led to in two steps, the first of which is part of the switch
    assert told[0].get("proxy", {}) == done.get("proxy", {}) or change == "a port"
    found = {name for name in done.get("proxy", {}) if "sites-enabled" not in name and "blog.example.org/" not in name}
    assert {path.rpartition("/")[2] for path in found} >= {*nginx} and bool(found) is bool(nginx)
    if "source" in done:
        unknown = told[0]["source"].pop("not known")
        assert told[0]["source"] == done["source"] and ("django.plan blog" in unknown) is (change == "commit")
    assert world.apply(test=True) == world.apply() == {}


def differences(world, old, before):
    """What the configuration of the live release has that the one before it had not, but for names."""
    found = {}
    new = world.site.releases / world.live
    names = {str(new): str(old), new.name: old.name, "django-blog-0002": "django-blog-0001", "/0002.sock": "/0001.sock"}
    names["/runtime/0002"] = "/runtime/0001"
    for path in (new / "config").iterdir() if new != old else ():
        name, text = path.name, path.read_text()
        for one, other in names.items():
            name, text = name.replace(one, other), text.replace(one, other)
        lines = list(difflib.unified_diff(before[name].splitlines(), text.splitlines(), lineterm="", n=1))[2:]
        if lines and name not in ("settings.json", "environment"):
            found[name] = "\n".join(lines)
    return found


def test_a_dry_run_hides_secrets(world):
    world.options, world.given = {"secrets": {"API": "x"}}, {"API": "hunter2"}
    world.apply()
    world.options = world.options | {"server": {"options": {"procname": "is-hunter2"}}}
    assert "+procname = is-**********" in world.apply(test=True)["instance"]["files"]["uwsgi.ini"]


@pytest.mark.parametrize("gone", ["virtualenv", "config", "static", "config/instance.json", "config/uwsgi.ini"])
def test_a_dry_run_of_a_release_that_has_lost_a_part(world, gone):
    world.apply()
    host_file.remove_tree(world.site.current / gone)
    told = world.apply(test=True)
    done = world.apply()
    assert {*done} <= {*told} and told.get("source", {}).get("release") == done.get("source", {}).get("release")
    assert world.apply(test=True) == world.apply() == {}


def test_dry_run_of_another_process_manager_names_its_files(world):
    world.apply()
    world.process = "supervisor"
    files = world.apply(test=True)["instance"]["files"]
    assert files["django-blog-0001.service"] == files["django-blog-0001.socket"] == "removed"
    assert files["django-blog-0001.conf"] == files["supervisor.sh"] == "new file"


# What a release is made of


#: Each option of a site: a value that makes a new release, and one that does not; None where there is no such value.
#: An option of the schema that is not here fails the test.
INPUTS = {
    "state": (None, None),
    "remove_data": (None, True),
    "repository": (None, "https://git.example.org/moved.git"),
    "folder": (None, None),
    "revision": (None, "other"),
    "deploy": (None, "manual"),
    "deploy_key": (None, None),
    "known_hosts": (None, [f"git.example.org ssh-ed25519 {'A' * 68}"]),
    "submodules": (False, None),
    "domains": (["a.org"], None),
    "redirect_domains": (None, ["old.example.org"]),
    "adopt": (None, True),
    "path": ("/blog", None),
    "root": (None, None),
    "user": (None, None),
    "uid": (None, 1500),
    "project": ("src", None),
    "python_path": (["src"], None),
    "settings_module": ("blog.other", None),
    "wsgi": ("blog.other", None),
    "asgi": ("blog.other", None),
    "python": ("python3.12", None),
    "requirements": (["other.txt"], None),
    "python_packages": (["gunicorn"], None),
    "constraints": (["kombu<5"], None),
    "index": (None, {"url": "https://pypi.example.org/simple"}),
    "packages": (None, ["libpq5"]),
    "build": (["npm ci"], None),
    "build_sandbox": (None, {"PrivateUsers": False}),
    "commands": ({"after_static": ["manage.py compress"]}, None),
    "settings": ({"TIME_ZONE": "UTC"}, None),
    "overlay": (False, None),
    "environment": ({"A": "1"}, None),
    "environment_name": ("staging", None),
    "secrets": ({"TOKEN": {"generate": 20}}, None),
    "secret_key": (None, None),
    "files": ({"a.txt": {"contents": "a"}}, None),
    "shared": (["data"], None),
    "writable": (["logs"], None),
    "writable_packages": (["ours"], None),
    "mount": ("/app", None),
    "check": (None, "deploy"),
    "silenced_checks": (["models.W042"], None),
    "database": ({"engine": "sqlite"}, {"password": None}),
    "databases": ({"default": {}, "metrics": {"engine": "sqlite"}}, None),
    "queue": ({"engine": "redis", "host": "redis1.example.org"}, None),
    "cache": ({"engine": "database"}, None),
    "caches": ({"default": {"engine": "database"}}, None),
    "sessions": ("db", None),
    "migrate": (None, {"run": False}),
    "static": ({"compress": []}, {"expires": "5d"}),
    "media": (None, {"max_upload": "5M"}),  # a mount: test_site_mount.py
    "health": (None, {"path": "/healthz"}),
    "server": ({"threads": 2}, None),
    "sandbox": ({"PrivateTmp": False}, None),
    "resources": ({"MemoryMax": "1G"}, None),
    "workers": ({"feed": {"kind": "command", "command": "manage.py feed"}}, None),
    "proxy": (None, {"listen": [8080]}),
    "tls": ({"kind": "self_signed"}, {"listen": [8443]}),
    "maintenance": (None, {"allow": ["10.0.0.0/8"]}),
    "releases": (None, {"keep": 3}),
    "timeouts": (None, {"build": "1h"}),
    "schedules": (None, {"hourly": {"command": "manage.py check", "at": "hourly"}}),
    "email": ({"host": "mail.example.org"}, None),
    "backup": (None, {"keep": 3}),
    "log": ({"requests": True}, None),
    "hosts": (None, {"web1": ["app"]}),
    "balancer": (None, {"sticky": True}),
    "fleet": (None, {"commit": "3f2a9c1b77de24f0c7e5a1d8b9630e4f5a6b7c8d"}),
    "container": ({"base": "localhost/base:1"}, None),
    "knowledge": (None, {"causes": {"ours": {"match": "no route to the mainframe", "say": "start its tunnel"}}}),
    "notify": (None, {"ops": {"mail": ["ops@example.org"]}}),
    "people": (None, {"ada": {"may": ["status"]}}),
    "push": (None, {"keys": {"ada": f"ssh-ed25519 {'A' * 68}"}}),
    "checks": (None, {"kind": "github", "url": "https://api.github.com/repos/acme/blog"}),
    "hook": (None, True),
    "promote": (None, {"from": "staging"}),
    "tags": (None, ["eu"]),
}


#: What the options of a site on several hosts need besides.
HOSTS = {
    "hosts": {
        "web1": {"address": "10.0.0.1", "parts": ["app"]},
        "lb1": {"address": "10.0.0.9", "parts": ["balancer"]},
    }
}
#: Options that are short for an entry of another one.
_ALIASED = {"database": "databases", "cache": "caches"}


def test_every_option_is_known_to_make_a_release_or_not():
    assert INPUTS.keys() == contract("schema.yaml")["$defs"]["site"]["properties"].keys()


@pytest.fixture
def laid_out(world):
    """A world with a site that has its folders, but no release."""
    world.make_site()
    return world


@pytest.mark.parametrize("option", INPUTS)
def test_which_options_make_a_release(laid_out, option):
    world = laid_out
    if option == "asgi":  # alone it is refused with this server
        world.options = {"wsgi": "blog.wsgi"}
    before = world.deployment().inputs()
    makes, keeps = INPUTS[option]
    if makes is not None:
        world.options = world.options | {option: makes}
        after = world.deployment().inputs()
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        more = {"salt"} if option in ("workers", "email") else set()  # programs that no other release has
        more |= {"packages"} if option == "container" else set()  # which are in its image
        assert {name.split(":")[0] for name in changed} - more == {_ALIASED.get(option, option)}
    if keeps is not None:
        needed = HOSTS if option in ("fleet", "balancer", "tags") else {}
        needed = {"deploy": "manual"} if option in ("checks", "promote") else needed
        world.options = {option: keeps, **needed}
        assert world.deployment().inputs() == before


def changed_inputs(world, **options):
    """Return the inputs that these options change."""
    before = world.deployment().inputs()
    world.options = world.options | options
    after = world.deployment().inputs()
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ({"settings": {"A": {"B": 1, "C": [2]}}}, {"settings": {"A": {"B": 2, "C": [2]}}}, ["settings:A:B"]),
        ({"settings": {"A": 1}}, {"settings": {"A": 1.0}}, ["settings:A"]),
        ({"queue": {"engine": "redis"}}, {"queue": {"engine": "redis", "memory": "1G", "sync": "always"}}, []),
        ({"settings": {"A": 1}}, {"settings": {"A": True}}, ["settings:A"]),
        ({"environment": {"A": "1"}}, {"environment": {"A": 1}}, []),
        (
            {"secrets": {"A": {"generate": 20}}},
            {"secrets": {"A": {"generate": 20, "as": "file"}}},
            ["secrets:A:as", "secrets:A:variable"],
        ),
        ({"secrets": {"A": {"generate": 20}}}, {"secrets": {"A": {"generate": 30}}}, []),
        ({"database": {"engine": "mysql"}}, {"database": {"engine": "mysql", "password": "hunter2"}}, []),
        ({"database": {"engine": "mysql"}}, {"database": {"engine": "mysql", "port": 1}}, ["databases:default:port"]),
        (
            {"server": {"options": {"harakiri": 30}}},
            {"server": {"options": {"harakiri": 31}}},
            ["server:options:harakiri"],
        ),
    ],
)
def test_an_input_is_named_by_its_path(laid_out, first, then, expected):
    laid_out.options = first
    assert changed_inputs(laid_out, **then) == expected


def test_connections_that_are_kept_are_the_servers_matter_too(laid_out):
    laid_out.options = {"server": {"kind": "gunicorn", "threads": 2}}
    assert changed_inputs(laid_out, proxy={"keepalive": 8}) == ["proxy:keepalive"]
    assert changed_inputs(laid_out, proxy={"keepalive": 9}) == []


def test_secrets_and_templates_are_inputs_too(laid_out):
    world = laid_out
    world.options = {"secrets": {"API": "x"}, "files": {"a.py": {"source": "salt://a.jinja"}}}
    deployment = world.deployment()
    world.templates["salt://a.jinja"] = "one"
    before = deployment.inputs()
    assert deployment.inputs() == before
    deployment.secrets.by_name = {"API": "hunter2", "secret_key": "key"}
    deployment.templates = world.templates | {"salt://a.jinja": "two", "salt://other": "x"}
    deployment.templates[uwsgi.SERVER.templates[0]] += "\n"
    deployment.templates["salt://django/files/nginx/locations.conf"] += "\n"
    after = deployment.inputs()
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    assert changed == ["salt://a.jinja", uwsgi.SERVER.templates[0], "secrets:API", "secrets:secret_key"]
    assert "hunter2" not in json.dumps(after)


def test_a_changed_secret_is_a_new_release_of_the_same_commit(world):
    world.options, world.given = {"secrets": {"API": "x"}}, {"API": "one"}
    world.apply()
    world.given = {"API": "two"}
    changes = world.apply()
    assert changes["source"]["changed"] == ["secrets:API"] and changes["secret_key"] == {"API": "kept"}
    assert world.live == f"0002-{ONE[:12]}"
    assert 'API="two"' in (world.site.secrets / "environment").read_text()


def test_a_release_of_settings_that_changed(world):
    world.apply()
    world.options = {"settings": {"TIME_ZONE": "UTC"}, "server": {"threads": 2}}
    assert world.apply()["source"]["changed"] == ["server:threads", "settings", "settings:TIME_ZONE"]


def test_without_an_overlay_there_is_nothing_to_do_either(world):
    world.options = {"overlay": False}
    world.apply()
    assert not (world.site.current / "config/settings.json").exists()
    assert world.apply() == {}


# What keeps a commit from going live


def failing(world, step, error):
    """Let a step of the next deployments fail once it has done its work."""
    original = getattr(steps, step)

    def fails(deployment):
        yield from original(deployment)
        raise ERRORS[error][0]()

    fails.__name__ = step
    return tuple(fails if one.__name__ == step else one for one in steps.RELEASE)


BUILT = [step.__name__ for step in steps.RELEASE if step.__name__ not in ("live", "proxy", "record")]
AFTER = ["live", "proxy", "record"]


class Killed(BaseException):
    """The end of the process in which the engine runs."""


#: What may go wrong, and how the message begins.
ERRORS = {
    "permanent": (lambda: DeploymentError("it is broken", log="line 1\nline 2", hint="mend it"), "it is broken"),
    "transient": (lambda: DeploymentError("no network", transient=True), "no network"),
    "full": (lambda: OSError(errno.ENOSPC, "No space left on device", "/srv/x"), "No space left on device: /srv/x"),
    "killed": (Killed, None),
}


@pytest.mark.slow
@pytest.mark.parametrize(("step", "error"), pairs(BUILT, ERRORS))
@pytest.mark.parametrize("first", [full(True), False], ids=["first", "second"])
def test_step_failing_before_the_switch_keeps_the_active_release(world, monkeypatch, step, first, error):
    if not first:
        world.apply()
        world.push("two")
    old = world.live
    with monkeypatch.context() as patched:
        patched.setattr(steps, "RELEASE", failing(world, step, error))
        with pytest.raises((DeploymentError, Killed)) as caught:
            world.apply()
    assert world.live == old and (not old or f"django-blog-{old[:4]}.service" in world.running)
    world.check_leftovers()
    if error != "killed":
        assert caught.value.message == f"{step}: {ERRORS[error][1]}"
        assert caught.value.hint.endswith(f"{old} still runs" if old else "nothing runs yet")
        assert world.running == (world.enabled if old else set())
        assert len(world.running) == (2 if old else 0)
        attempts = [json.loads(line) for line in world.site.deploys.read_text().splitlines()]
        assert (attempts[-1]["result"], attempts[-1]["step"]) == ("failed", step)
    new = f"0001-{ONE[:12]}" if first else f"0002-{TWO[:12]}"
    if error == "permanent":
        assert world.releases[new] == "failed"
        for _ in range(2):
            with pytest.raises(DeploymentError) as again:
                world.apply()
            assert again.value.message == (
                f"source: {new} failed before with the same inputs: "
                f"{step}: it is broken\n  | line 1\n  | line 2\nmend it"
            )
            assert again.value.hint.splitlines() == [
                "change the revision or the pillar, or try it again: salt-call django.release blog",
                f"{old} still runs" if old else "nothing runs yet",
            ]
        world.push("three")
    world.apply()
    assert world.live[5:] == (THREE if error == "permanent" else ONE if first else TWO)[:12]
    world.check()
    assert world.apply() == {}


@pytest.mark.parametrize(("step", "error"), pairs(AFTER, ERRORS))
@pytest.mark.parametrize("first", [full(True), False], ids=["first", "second"])
def test_step_failing_after_the_switch_keeps_the_new_release(world, monkeypatch, step, first, error):
    if not first:
        world.apply()
        world.push("two")
    new = f"0001-{ONE[:12]}" if first else f"0002-{TWO[:12]}"
    with monkeypatch.context() as patched:
        patched.setattr(steps, "RELEASE", failing(world, step, error))
        with pytest.raises((DeploymentError, Killed)) as caught:
            world.apply()
    assert world.live == new and f"django-blog-{new[:4]}.service" in world.running
    if error != "killed":
        assert caught.value.message == f"{step}: {ERRORS[error][1]}" and caught.value.hint.endswith(f"{new} is live")
    world.apply()
    assert world.live == new
    world.check()
    assert world.apply() == {}


def test_a_step_is_looked_at_before_it_acts(world, monkeypatch):
    """No step changes anything before it has said that it would."""
    world.apply()
    world.push("two")
    deployment = world.deployment()
    for step in (steps.site, *steps.RELEASE):
        before = snapshot(world)
        work = step(deployment)
        next(work, None)
        assert snapshot(world) == before, step.__name__
        next(work, None)


def test_an_error_in_the_failing_itself_hides_nothing(world, monkeypatch):
    world.apply()
    world.push("two")
    world.fails["enable --quiet --no-reload --now django-blog-0002"] = DeploymentError("no")
    world.fails["disable"] = DeploymentError("D-Bus is down")
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.message == "instance: the application server of 0002-" + TWO[:12] + " does not start: no"
    world.check_leftovers()


def test_new_release_is_synced_before_it_is_activated(world):
    """First while its server starts, then what is left; a rollback writes none."""
    world.apply()
    one = world.live
    world.push("two")
    world.fails["sync --file-system"] = DeploymentError("Input/output error")
    with pytest.raises(DeploymentError, match="live: Input/output error"):
        world.apply()
    assert world.live == one
    world.fails.clear()
    world.push("three")
    world.apply()
    world.roll_back()
    synced = [argv[-1].rsplit("/", 1)[1].split("-")[0] for argv in world.commands if argv[0] == "sync"]
    assert synced == ["0001", "0001", "0002", "0002", "0003", "0003"]


def test_rolled_back_release_is_on_hold(world):
    world.apply()
    world.push("two")
    world.apply()
    one, two = f"0001-{ONE[:12]}", f"0002-{TWO[:12]}"
    world.roll_back()
    assert world.live == one and world.releases == {one: "good", two: "held"}
    assert os.readlink(world.site.previous) == f"releases/{two}"
    world.check()
    for _ in range(2):
        assert world.apply() == {}
        assert world.last.warnings == [
            f"{two} is on hold since it was rolled back; {one} stays live. "
            f"salt-call django.rollback blog {two} activates it again"
        ]
    assert world.live == one
    world.push("three")
    world.apply()
    assert world.live == f"0003-{THREE[:12]}" and world.releases == {one: "good", world.live: "good"}
    world.check()


@pytest.mark.parametrize("what", ["option", "again"])
def test_release_on_hold_is_released_when_asked_for_or_changed(world, what):
    world.apply()
    world.push("two")
    world.apply()
    world.roll_back()
    if what == "option":
        world.options = {"settings": {"TIME_ZONE": "UTC"}}
    world.apply(again=what == "again")
    assert world.live == f"0003-{TWO[:12]}"
    world.check()
    assert world.apply() == {}


def test_a_site_that_was_stopped_is_started_though_its_newest_commit_failed(world):
    """The second apply fails as the first one did, before it would start anything."""
    world.apply()
    one = f"0001-{ONE[:12]}"
    world.push("two")
    world.fails["systemd-run"] = DeploymentError("it is broken")
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.hint.endswith(f"{one} still runs")
    world.running.clear()
    with pytest.raises(DeploymentError, match="failed before with the same inputs") as error:
        world.apply()
    assert error.value.hint.endswith(f"{one} runs again") and world.live == one
    world.check()
    world.running.clear()
    world.fails["systemctl enable"] = DeploymentError("no interpreter")
    with pytest.raises(DeploymentError, match="failed before with the same inputs") as error:
        world.apply()
    assert f"{one} does not start again: " in error.value.hint
    with pytest.raises(DeploymentError), world.deployment(test=True).step("source"):
        raise DeploymentError("a dry run starts nothing")
    assert not world.running


def test_a_rollback_whose_release_does_not_come_up(world, monkeypatch):
    world.apply()
    world.push("two")
    world.apply()
    one, two = f"0001-{ONE[:12]}", f"0002-{TWO[:12]}"
    with monkeypatch.context() as patched:

        def unwell(site, release, explain=None):
            raise DeploymentError("health check failed")

        patched.setattr(health, "check", unwell)
        with pytest.raises(DeploymentError) as error:
            world.roll_back()
    assert error.value.hint.endswith(f"{two} still runs")
    assert world.live == two and world.releases == {one: "good", two: "good"}
    world.check()
    assert world.apply() == {}


@pytest.mark.parametrize("failed", [False, True])
def test_releases_take_turns_on_two_ports(world, failed):
    """Each on the port that the live one has not, also where numbers were skipped, and in a rollback."""
    world.options = {"server": {"bind": "127.0.0.1:8001"}}
    addresses = []
    for name in ("one", "two", "three"):
        world.push(name)
        if failed and name == "two":
            world.fails["enable --quiet"] = DeploymentError("no")
            with pytest.raises(DeploymentError):
                world.apply()
            world.fails.clear()
            continue
        world.apply()
        site = world.site
        addresses.append(instances.address(site, site.current.resolve()))
        assert addresses[-1] in (systemd.UNITS / f"django-blog-{world.live[:4]}.socket").read_text()
        world.check()
    assert addresses == ["127.0.0.1:8002", "127.0.0.1:8001", "127.0.0.1:8002"][: len(addresses)]
    if failed:
        assert world.live == f"0003-{THREE[:12]}"
    world.roll_back()
    back = instances.address(world.site, world.site.current.resolve())
    assert back != addresses[-1]
    assert back in (systemd.UNITS / f"django-blog-{world.live[:4]}.socket").read_text()
    assert (world.site.current / "config/upstream.conf").read_text() == f"server {back};\n"
    world.check()


# Which commit is wanted


@pytest.mark.parametrize(
    ("options", "again", "revision", "expected"),
    [
        ({}, False, None, TWO),
        ({"deploy": "manual"}, False, None, ONE),
        ({"deploy": "manual"}, True, None, TWO),
        ({"revision": THREE}, False, None, THREE),
        ({"revision": THREE, "deploy": "manual"}, False, None, ONE),
        ({}, True, "other", commit("other")),
        ({"deploy": "manual"}, True, THREE, THREE),
    ],
)
def test_the_commit_that_is_wanted(world, options, again, revision, expected):
    world.apply()
    world.push("two")
    world.push("other", "other")
    world.options = options
    assert world.deployment(again=again, revision=revision).resolve_commit() == expected


def test_a_manual_site_gets_its_first_release(world):
    world.options = {"deploy": "manual"}
    world.apply()
    world.push("two")
    assert world.apply() == {"site": {str(world.site.applied): "changed"}} or world.live == f"0001-{ONE[:12]}"
    assert world.live == f"0001-{ONE[:12]}"


def test_the_commit_of_a_folder(world, monkeypatch):
    world.options = {"folder": "/srv/checkout"}
    monkeypatch.setattr(source_folder, "tree", lambda site: TWO)
    assert world.deployment().resolve_commit() == TWO
    assert world.deployment(revision=ONE, again=True).resolve_commit() == ONE


def test_a_remote_that_is_silent(world):
    world.branches = None
    with pytest.raises(DeploymentError, match="connection refused"):
        world.apply()
    world.branches = {"main": ONE}
    world.apply()
    world.branches = None
    assert world.apply() == {}
    assert world.last.warnings == [f"asking for main: connection refused; 0001-{ONE[:12]} stays live"]
    world.options = {"settings": {"TIME_ZONE": "UTC"}}
    assert world.apply()["source"]["changed"] == ["settings", "settings:TIME_ZONE"]
    with pytest.raises(DeploymentError, match="connection refused"):
        world.apply(again=True)


def test_a_revision_that_is_gone(world):
    world.apply()
    world.options = {"revision": "gone"}
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.message == "source: asking for gone: there is no such branch"
    assert error.value.hint == f"0001-{ONE[:12]} still runs"


# What a host does in between


def test_an_instance_that_was_stopped_is_started(world):
    world.apply()
    world.running.clear()
    changes = world.apply()
    assert changes == {"instance": {"instance": "django-blog-0001 started"}}
    world.check()


@pytest.mark.parametrize("how", ["unit", "wants"])
def test_an_instance_that_would_not_survive_a_boot_is_mended(world, how):
    world.apply()
    units = systemd.UNITS
    if how == "unit":
        (units / "django-blog-0001.service").write_text("edited")
    else:
        (units / "multi-user.target.wants/django-blog-0001.service").unlink()
    assert list(world.apply()) == ["instance"]
    assert "edited" not in (units / "django-blog-0001.service").read_text()
    world.check()


def test_instance_of_an_interrupted_switch_is_stopped(world):
    """As a deployment leaves it that was killed between the switch and the stop of the old instance."""
    world.apply()
    world.push("two")
    world.apply()
    world.systemctl("enable", "--now", *write_units(world, "0001"))
    assert world.apply() == {"live": {"stopped": [f"0001-{ONE[:12]}"]}}
    world.check_leftovers()
    assert world.running == {"django-blog-0002.service", "django-blog-0002.socket"}


def write_units(world, sequence):
    names = [f"django-blog-{sequence}.service", f"django-blog-{sequence}.socket"]
    for name in names:
        (systemd.UNITS / name).write_text("")
    return names


@pytest.mark.parametrize("part", ["source", "static", "virtualenv", "config", "socket", "config/environment"])
def test_a_release_that_lost_a_part_is_made_anew(world, part):
    world.apply()
    host_file.remove_tree(world.site.current.resolve() / part)
    world.apply()
    assert world.live == f"0002-{ONE[:12]}"
    world.check()


def test_a_virtualenv_whose_interpreter_is_gone_is_built_anew(world):
    world.apply()
    python = world.site.current / "virtualenv/bin/python"
    python.unlink()
    python.symlink_to("/no/such/python")
    damaged = python.parent.parent.resolve()
    assert world.apply()["virtualenv"]["virtualenv"] == f"{damaged.name}.2, new"
    assert world.live == f"0002-{ONE[:12]}"
    assert damaged.is_dir(), "the live release may still import from it"


TORN = {"empty": lambda old: b"", "half": lambda old: old[: len(old) // 2], "zeros": lambda old: b"\0" * len(old)}
FILES = ["site.json", "deploys.jsonl", "secrets/environment", "releases/{live}/config/instance.json"]
TORN |= {"garbage": lambda old: old + b"}", "all but its end": lambda old: old[:-2]}


@pytest.mark.parametrize("how", each(2, TORN))
def test_a_torn_record_of_the_live_release(world, how):
    """The release goes on serving until the next apply has another, with the next number."""
    world.apply()
    record = world.site.current.resolve() / "release.json"
    record.write_bytes(TORN[how](record.read_bytes()))
    seen = []
    start = world.systemctl
    world.systemctl = lambda *arguments: (seen.append({*world.running}), start(*arguments))
    world.apply()
    assert world.live == f"0002-{ONE[:12]}"
    assert all("django-blog-0001.service" in running for running in seen if "django-blog-0002.service" not in running)
    world.check()
    assert world.apply() == {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "how"), pairs(FILES, TORN))
def test_a_torn_file_is_written_anew_or_left(world, how, name):
    world.apply()
    path = world.site.root / name.format(live=world.live)
    path.write_bytes(TORN[how](path.read_bytes()))
    world.apply()
    world.check()
    assert world.apply() == {}
    world.push("two")
    world.apply()
    assert world.live == f"0002-{TWO[:12]}"


@pytest.mark.parametrize("how", each(2, TORN))
def test_a_torn_secret_key_is_an_error(world, how):
    world.apply()
    path = world.site.secrets / "secret_key.json"
    path.write_bytes(TORN[how](path.read_bytes()))
    with pytest.raises(DeploymentError, match=r"source: .*/secret_key.json is empty or damaged"):
        world.apply()
    path.unlink()
    with pytest.raises(DeploymentError, match=r"source: .*/secret_key.json is missing"):
        world.apply()
    assert world.live == f"0001-{ONE[:12]}" and len(world.running) == 2


def test_a_secret_key_that_is_gone_with_all_releases_is_an_error_too(world):
    world.apply()
    for path in (world.site.secrets / "secret_key.json", world.site.releases, world.site.current):
        host_file.remove_tree(path)
    with pytest.raises(DeploymentError, match=r"source: .*/secret_key.json is missing"):
        world.apply()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "current is not a link"),
        ("/srv/elsewhere", "current points to /srv/elsewhere, which is not one of the site's releases"),
        ("releases/../../0001", "which is not one of the site's releases"),
    ],
)
def test_a_current_that_is_something_else_is_left_alone(world, target, message):
    world.apply()
    world.site.current.unlink()
    world.site.current.mkdir() if target is None else world.site.current.symlink_to(target)
    with pytest.raises(DeploymentError, match=message) as error:
        world.apply()
    assert str(world.site.current) in error.value.hint and len(world.running) == 2


def test_a_current_that_leads_nowhere_is_healed(world):
    world.apply()
    host_file.link(world.site.current, "releases/0009-aaaaaaaaaaaa")
    world.apply()
    assert world.live == f"0002-{ONE[:12]}"
    world.check()


def leave_behind(world):
    """Have a deployment of a second commit end by a kill; a third one is pushed."""
    world.apply()
    left = releases.Release(world.site, f"0002-{TWO[:12]}")
    left.path.mkdir()
    left.update(state="building")
    world.systemctl("enable", "--now", *write_units(world, "0002"))
    world.push("three")


def test_what_a_killed_deployment_has_left_is_cleared(world):
    leave_behind(world)
    world.apply()
    assert world.releases == {f"0001-{ONE[:12]}": "good", f"0003-{THREE[:12]}": "good"}
    world.check()


def test_what_a_killed_deployment_has_left_and_systemd_does_not_stop_delays_no_release(world):
    leave_behind(world)
    world.fails = {"disable --quiet --no-reload --now django-blog-0002": DeploymentError("it does not")}
    world.apply()
    assert world.releases == {f"0001-{ONE[:12]}": "good", f"0003-{THREE[:12]}": "good"}
    world.check()


def test_folders_of_images_that_a_killed_process_has_left_are_cleared_and_no_others(world):
    world.apply()
    running, others = "image-4711", ["image-2024-old", "image-uploads"]
    for name in ("image-4194305", "image-4194305-4194306", running, f"{running}-4712", *others):
        (world.site.root / name).mkdir()
    (proc.PROC / "4711").mkdir()
    disk.clear_leftovers(world.site)
    assert sorted(path.name for path in world.site.root.glob("image-*")) == sorted(
        [running, f"{running}-4712", *others]
    )


@pytest.mark.parametrize("state", ["building", "", "failed", "good", "held"])
def test_which_releases_are_left_over(world, state):
    world.apply()
    other = releases.Release(world.site, f"0002-{TWO[:12]}")
    other.path.mkdir()
    if state:
        live = releases.linked(world.site, world.site.current)
        other.update(**{**live.record, "name": other.name, "state": state})
    disk.clear_leftovers(world.site)
    assert (other.name in world.releases) is (state in ("failed", "good", "held"))
    assert world.live in world.releases


def test_a_number_is_never_given_twice(world):
    world.apply()
    site = world.site
    assert releases.next_sequence(site) == 2
    site.deploys.write_text('{"release": "0041-aaaaaaaaaaaa"}\ntorn {"release": "12')
    assert releases.next_sequence(site) == 42
    (site.releases / "9999-bbbbbbbbbbbb").mkdir()
    (site.releases / "lost+found").mkdir()
    assert releases.next_sequence(site) == 10000
    world.push("two")
    world.apply()
    assert world.live == f"10000-{TWO[:12]}"
    world.check()


def test_releases_are_in_the_order_of_their_numbers(world):
    world.apply()
    for name in ("10000-aaaaaaaaaaaa", "9999-bbbbbbbbbbbb", "0002-short", "note.txt"):
        (world.site.releases / name).mkdir()
    names = [release.name for release in releases.releases(world.site)]
    assert names == [f"0001-{ONE[:12]}", "9999-bbbbbbbbbbbb", "10000-aaaaaaaaaaaa"]


@pytest.mark.parametrize("mask", [0o077, 0o007, 0o000])
def test_the_umask_of_the_caller_does_not_matter(world, mask):
    world.apply()
    expected = modes(world)
    host_file.remove_tree(world.site.root)
    for folder in (systemd.UNITS, sites.REGISTRY):
        for path in folder.iterdir():
            host_file.remove_tree(path)
    world.running.clear()
    before = os.umask(mask)
    try:
        world.apply()
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert modes(world) == expected


def modes(world):
    played = ("commit", "manage.py", "wsgi.py", "requirements.txt", "uwsgi", "python", ".complete", "HEAD")
    paths = [path for path in world.site.root.rglob("*") if not path.is_symlink() and path.name not in played]
    return {str(path.relative_to(world.site.root)): oct(stat.S_IMODE(path.stat().st_mode)) for path in paths}


def test_owners_and_modes_of_a_release(world, monkeypatch):
    given = []
    monkeypatch.setattr(os, "lchown", lambda path, uid, gid: given.append((path, uid, gid)))
    monkeypatch.setattr(users, "user_id", {"root": 0, "blog": 1, "blog-build": 2}.__getitem__)
    monkeypatch.setattr(users, "group_id", {"root": 0, "blog": 1, "blog-build": 2, "www-data": 3, "adm": 4}.__getitem__)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid, **_: given.append((str(path), uid, gid)))
    monkeypatch.setattr(
        os, "fchown", lambda file, uid, gid: given.append((os.readlink(f"/proc/self/fd/{file}"), uid, gid))
    )
    monkeypatch.setattr(secrets, "_is_stored", lambda *_: True)
    monkeypatch.setattr(host_folders, "problem", lambda folder: "missing")
    monkeypatch.setattr(secrets, "_read", lambda site, name: None)
    world.options = {"writable": ["logs"], "shared": ["data"], "files": {"local.py": {"contents": "x"}}}
    world.apply()
    owners = {}
    for path, uid, gid in given:
        owners[str(path).replace("/.", "/").removesuffix(".new")] = (uid, gid)
    release = world.site.releases / world.live
    found = {
        str(path.relative_to(release)): owners.get(str(path)) for path in release.rglob("*") if not path.is_symlink()
    }
    assert {
        path: found[path] for path in ("source", "source/manage.py", "source/blog", "source/local.py", "config")
    } == dict.fromkeys(("source", "source/manage.py", "source/blog", "source/local.py", "config"), (0, 1))
    assert found["source/logs"] == (1, 1) and (world.site.shared.top / "data").is_dir()
    assert found["static"] == (0, 0) and found["config/environment"] == found["config/settings.json"] == (0, 1)
    assert found["release.json"] == (0, 0) and not any(uid == 2 for uid, _gid in filter(None, found.values()))
    assert owners[str(world.site.secrets / "secret_key.json")] == (0, 1)


# What is written down


def attempts(world):
    return [(line["release"], line["result"], line.get("step")) for line in releases.attempts(world.site)]


@pytest.mark.parametrize("first", [full(True), False], ids=["first", "second"])
def test_what_fails_before_there_is_a_release_is_written_down(world, first):
    if not first:
        world.apply()
    before = attempts(world)
    world.given = {"API": "hunter2"}
    world.options = {"secrets": {"API": "x"}, "revision": "hunter2"}
    for _ in range(2):
        with pytest.raises(DeploymentError):
            world.apply()
        before.append((None, "failed", "source"))
        assert attempts(world) == before
        with pytest.raises(DeploymentError):
            world.apply(test=True)
    last = releases.attempts(world.site)[-1]
    assert last["error"] == "asking for **********: there is no such branch" and last["asked_by"] == "a test"
    assert last["seconds"] >= 0 and last["commit"] == ""


def test_secrets_in_an_error_are_masked(world):
    """Its hint too: it may name what a program of the project has reported."""
    world.options, world.given = {"secrets": {"API": "x"}}, {"API": "hunter2"}
    world.fails["systemd-run"] = DeploymentError("a hunter2", log="b hunter2", hint="c hunter2")
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert "hunter2" not in str(error.value) and str(error.value).count("**********") == 3


def test_failure_of_the_site_step_is_recorded_for_registered_sites(world, monkeypatch):
    def taken(name, kind, ports, listening, coming):
        raise DeploymentError("port 80 is taken")

    monkeypatch.setattr(proxy_ports, "refuse_taken_ports", taken)
    with pytest.raises(DeploymentError):
        world.apply()
    assert not world.site.root.exists()


def test_what_has_failed_before_is_no_attempt(world):
    world.fails["systemd-run"] = DeploymentError("no")
    for _ in range(3):
        with pytest.raises(DeploymentError):
            world.apply()
    assert attempts(world) == [(f"0001-{ONE[:12]}", "failed", "static")]
    record = releases.Release(world.site, f"0001-{ONE[:12]}").record
    assert {"source", "virtualenv", "static"} <= set(record["steps"])


def test_a_rollback_that_is_refused_is_written_down(world):
    world.apply()
    with pytest.raises(DeploymentError):
        operations.rollback("blog")
    assert attempts(world)[1:] == [(None, "refused", "rollback")]
    world.push("two")
    world.apply()
    world.fails["django-blog-0001"] = DeploymentError("no")
    with pytest.raises(DeploymentError):
        operations.rollback("blog")
    assert attempts(world)[-1] == (f"0001-{ONE[:12]}", "failed", "instance")


@pytest.mark.parametrize("step", ["source", "static", "instance"])
def test_a_deployment_that_was_killed_is_written_down_by_the_next(world, monkeypatch, step):
    with monkeypatch.context() as patched:
        patched.setattr(steps, "RELEASE", failing(world, step, "killed"))
        with pytest.raises(Killed):
            world.apply()
    assert not world.site.deploys.exists()
    world.apply()
    assert attempts(world) == [(f"0001-{ONE[:12]}", "interrupted", None), (f"0002-{ONE[:12]}", "released", None)]
    assert releases.attempts(world.site)[0].items() >= {"commit": ONE, "asked_by": "a test"}.items()


def test_a_deployment_that_was_killed_after_the_switch_is_written_down_by_the_next(world, monkeypatch):
    world.options = {"commands": {"after_switch": ["manage.py clear_cache"]}}
    with monkeypatch.context() as patched:
        patched.setattr(steps, "RELEASE", failing(world, "proxy", "killed"))
        with pytest.raises(Killed):
            world.apply()
    name = f"0001-{ONE[:12]}"
    expected = {"record": {"release": f"{name}, whose deployment was interrupted"}}
    assert world.apply(test=True) == expected == world.apply()
    assert world.last.warnings == [
        f"the deployment of {name} was interrupted: these commands may not have run: manage.py clear_cache"
    ]
    assert attempts(world) == [(name, "released", None)]
    assert world.apply() == {}


def test_who_asks(tmp_path, monkeypatch):
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert asked_by("state.apply", str(tmp_path)) == "state.apply by root"
    monkeypatch.setenv("SUDO_USER", "ray")
    assert asked_by("state.apply", str(tmp_path)) == "state.apply by ray"
    (tmp_path / "proc").mkdir()
    job = tmp_path / "proc/20261120083604097515"
    for more, who in (
        ({}, "ray"),
        ({"user": "ada"}, "ada"),
        ({"user": "sudo_ada"}, "ada"),
        ({"schedule": "nightly"}, "the schedule nightly"),
    ):
        job.write_bytes(msgpack.packb({"pid": os.getpid(), **more}))
        assert asked_by("django.release", str(tmp_path)) == f"django.release by {who}, salt job {job.name}"
    job.write_bytes(msgpack.packb({"pid": 1, "user": "ada"}))
    (tmp_path / "proc/torn").write_bytes(b"\xc1")
    assert asked_by("django.release", str(tmp_path)) == "django.release by ray"


# Two at once


def test_a_site_is_deployed_by_one_at_a_time(world):
    world.options = {"timeouts": {"lock": "0s"}}
    world.apply()
    other = world.deployment()
    other.lock.take()
    assert world.apply() == {}
    world.push("two")
    with pytest.raises(DeploymentError, match="source: another deployment of blog is under way: a test, pid"):
        world.apply()
    other.lock.release()
    world.apply()
    assert world.live == f"0002-{TWO[:12]}"


def test_who_has_waited_for_the_lock_does_not_act_on_what_is_no_longer_so(world):
    world.apply()
    late = world.deployment()
    world.push("two")
    world.apply()
    with pytest.raises(DeploymentError, match="another deployment has activated 0002-"):
        late.take_lock()
    late.lock.release()
    again = world.deployment()
    again.take_lock()
    again.lock.release()


def test_every_step_is_in_the_sweeps():
    names = [step.__name__ for step in steps.RELEASE]
    assert sorted(itertools.chain(BUILT, AFTER)) == sorted(names)
    assert commands.locks == set()


def test_password_of_the_sites_own_redis_is_made_once_and_not_by_a_dry_run(world):
    file = world.site.secrets / ".store_password"
    world.apply()
    world.options = {"queue": {"engine": "redis"}}
    assert world.apply(test=True)["site"][str(file)] == "new" and not file.exists()
    world.apply()
    password = file.read_text()
    assert len(password) == 64 and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert world.apply() == {} and file.read_text() == password


def test_a_failure_that_can_open_no_file_says_what_still_runs(world, monkeypatch):
    """Not even the modules that explain a failure can be loaded; the next apply is as after a kill."""
    world.apply()
    world.push("two")
    full = OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/srv/module.py")

    def unloaded(*_):
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(program, "explain", unloaded)
        patched.setattr(commits, "export", unloaded)
        with pytest.raises(DeploymentError) as error:
            world.apply()
    assert error.value.message == "source: Too many open files: /srv/module.py" and error.value.transient
    assert error.value.hint == f"0001-{ONE[:12]} still runs" and not error.value.log
    assert world.live == f"0001-{ONE[:12]}"
    world.apply()
    assert world.live.endswith(TWO[:12])
    world.check()
    assert world.apply() == {}
