"""`state.apply django` in this process, on a host in miniature: see test/engine/world.py and the modules in played/."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import salt.utils.templates as salt_templates
from authority import signed
from django_formula.database import engines, setup
from django_formula.database import server as database_server
from django_formula.deploy import steps as deploy_steps
from django_formula.host import daemons
from django_formula.host import ports as host_ports
from django_formula.host import users as host_users
from django_formula.host.commands import DeploymentError
from django_formula.proxy import nginx as proxy_nginx
from django_formula.release import console as release_console
from django_formula.tls import acme, certificates
from specimen import ROOT, compiled
from world import commit

pytestmark = pytest.mark.slow  # whole applies by Salt

POSTGRESQL = setup.SERVERS["postgres"]
KEY = "canary-0123456789-canary"
SITE = {"repository": "https://git.example.org/blog.git", "revision": "main", "domains": ["blog.example.org"]}
SENTENCES = [
    *[
        "blog has its users",
        "blog has its directories",
        "blog has its source",
        "blog has its virtualenv",
        "blog is built",
    ],
    *["blog has its secrets", "blog has its settings", "blog has its static files", "blog has its database migrated"],
    *["blog has its instance", "blog is live", "blog is served", "blog is recorded"],
]
#: The steps of a site that pushes no static files.
STEPS = [step for step in deploy_steps.RELEASE if step.__name__ != "push"]
#: Of a host one of whose sites is not refused.
LAST = ["django-shell is installed", "People have their rights"]
HOST = ["blog can be deployed", "The packages of the sites are installed", "uv is installed"]
HOST += ["The ports of nginx are free", "The host is watched", "nginx is installed"]
#: Which an apply of a bare host removes; before that, there is none.
DEFAULT = "The default site of a fresh nginx is off"
HOST += [DEFAULT, "nginx runs"]
UNCHANGED = {"blog can be deployed", "The ports of nginx are free", "The host is watched"}


def results(states):
    return {state.id: state.result for state in states}


def changed(states):
    return [state.id for state in states if state.changes]


def test_pillar_errors_are_listed_by_one_failing_state(salt):
    pillar = {"sites": {"blog": {**SITE, "server": {"kindd": "uwsgi"}}, "shop": {"repository": "/srv/shop.git"}}}
    for test in (True, False):
        (state,) = salt(pillar)(test=test)
        assert (state.id, state.result, state.changes) == ("The pillar has errors", False, {})
        assert state.name.split("\n")[1:] == compiled(pillar["sites"])["errors"]
        assert len(state.name.split("\n")) == 3


def test_dry_run_of_a_bare_host_reports_all_changes_and_makes_none(salt, world, own_host, monkeypatch):
    for name in ("user_id", "group_id"):
        monkeypatch.setattr(host_users, name, lambda name: -2)
    before = {str(path) for path in own_host.rglob("*")}
    states = salt({"sites": {"blog": SITE}})(test=True)
    assert [state.id for state in states] == [*HOST, *SENTENCES, *LAST]
    expected = dict.fromkeys([*HOST, *SENTENCES]) | dict.fromkeys([*UNCHANGED, DEFAULT, *LAST], True)
    assert results(states) == expected
    assert states[len(HOST) + 2].changes == {"release": "would be built from main"}
    made = {str(path) for path in own_host.rglob("*")} - before
    assert [path for path in made if "/minion" not in path] == []
    assert {line[0] for line in world.commands} <= {"dpkg-query"}


def test_first_apply_releases_the_site_and_the_second_changes_nothing(salt, world, own_host):
    apply = salt({"sites": {"blog": SITE}})
    states = apply()
    assert not (own_host / "etc/nginx/sites-enabled/default").exists()
    assert set(results(states).values()) == {True}
    assert set(changed(states)) == {*HOST, *SENTENCES} - UNCHANGED - {"blog has its database migrated"}
    assert world.live == f"0001-{commit('one')[:12]}"
    world.check()
    assert [state.comment for state in states if state.id == "blog is live"] == ["blog: active release switched"]
    for test in (False, True):
        states = apply(test=test)
        assert (changed(states), set(results(states).values())) == ([], {True})
    assert [state.comment for state in states if state.id == "blog is live"] == ["blog: active release unchanged"]


def test_site_runs_under_supervisor_when_the_host_has_no_systemd(salt, world):
    apply = salt({"sites": {"blog": SITE}}, grains={"init": "unknown"})
    assert results(apply(test=True)).keys() == {*HOST, *SENTENCES, *LAST, "supervisor is installed", "supervisor runs"}
    states = apply()
    assert set(results(states).values()) == {True}
    assert {"supervisor is installed", "blog has its instance"} <= {*changed(states)}
    assert {"django-blog-0001.conf"} == world.running
    world.check()
    for test in (False, True):
        states = apply(test=test)
        assert (changed(states), set(results(states).values())) == ([], {True})


def test_daemon_is_started_when_it_is_not_running(salt, world, monkeypatch):
    running = salt({"sites": {}}).loaders.states.django.running
    assert running(name="nginx").comment == "nginx is already running" and running(name="nginx").changes == {}
    monkeypatch.setattr(daemons, "is_running", lambda daemon: False)
    monkeypatch.setattr(daemons, "start", lambda daemon: world.commands.append([daemon.service]))
    for test, comment in ((True, "nginx would be started"), (False, "nginx has been started")):
        state = running(name="nginx", test=test)
        assert (state.result, state.comment) == (None if test else True, comment)
        assert state.changes == {"nginx": "started"} and world.commands == ([] if test else [["nginx"]])

    def fails(daemon):
        raise DeploymentError("it does not run")

    monkeypatch.setattr(daemons, "start", fails)
    state = running(name="supervisor")
    assert (state.result, state.changes, state.comment) == (False, {}, "it does not run")


def test_umask_of_the_caller_does_not_matter(salt, monkeypatch):
    """Else the proxy could not read the password of the page, in a folder that the watch has made."""
    running = salt({"sites": {}}).loaders.states.django.running
    masks = []
    monkeypatch.setattr(daemons, "is_running", lambda daemon: masks.append(os.umask(0o022)) or True)
    before = os.umask(0o077)
    try:
        running(name="nginx")
        assert (masks, os.umask(0o077)) == ([0o022], 0o077)
    finally:
        os.umask(before)


def test_running_daemon_is_enabled_when_systemd_does_not_start_it_at_boot(salt, world, monkeypatch):
    running = salt({"sites": {}}).loaders.states.django.running
    enabled = []
    monkeypatch.setattr(daemons, "is_enabled", lambda daemon: daemon.service in enabled)
    monkeypatch.setattr(daemons, "enable", lambda daemon: enabled.append(daemon.service))
    assert running(name="nginx").changes == {}
    for test, comment in ((True, "nginx would be enabled"), (False, "nginx has been enabled")):
        state = running(name="nginx", enable=True, test=test)
        assert (state.result, state.comment) == (None if test else True, comment)
        assert state.changes == {"nginx": "enabled"} and enabled == ([] if test else ["nginx"])
    assert running(name="nginx", enable=True).changes == {}


def test_new_commit_is_reported_by_a_dry_run_and_released_by_an_apply(salt, world):
    apply = salt({"sites": {"blog": SITE}})
    apply()
    world.push("two")
    states = apply(test=True)
    same = {"blog has its users", "blog has its directories", "blog has its secrets", "blog is served"}
    expected = {name: True if name in {*HOST, *same, *LAST} else None for name in [*HOST, *SENTENCES, *LAST]}
    assert results(states) == expected
    assert {state.comment for state in states if state.result is None} > {"blog: source would be exported"}
    assert world.live == f"0001-{commit('one')[:12]}"
    states = apply()
    assert set(changed(states)) == {*SENTENCES} - same - {"blog has its database migrated"}
    assert world.live == f"0002-{commit('two')[:12]}"
    world.check()


def test_changed_pillar_value_changes_only_its_states(salt, world):
    salt({"sites": {"blog": SITE}})()
    states = salt({"sites": {"blog": {**SITE, "media": {"max_upload": "5M"}}}})()
    assert changed(states) == ["blog has its directories", "blog is served"]
    assert changed(salt({"sites": {"blog": {**SITE, "media": {"max_upload": "5M"}}}})()) == []


def test_failed_step_stops_only_its_own_site(salt, world, monkeypatch):
    apply = salt({"sites": {"blog": SITE, "shop": {**SITE, "domains": ["shop.example.org"]}}})
    for step, sentence in [*zip(STEPS, SENTENCES[2:], strict=True)][::4]:
        world.push(step.__name__)
        with monkeypatch.context() as patched:
            patched.setattr(deploy_steps, step.__name__, broken_for_the_blog(step))
            states = apply()
        failed = [state for state in states if state.result is False]
        assert [state.id for state in failed] == SENTENCES[SENTENCES.index(sentence) :]
        lines = failed[0].comment.splitlines()
        assert lines[:3] == [f"{step.__name__}: it is broken", "  | a line", "mend it"] and len(lines) < 10
        assert all("One or more requisite failed" in state.comment for state in failed[1:])
        assert {"shop is live", "shop is recorded"} <= {*changed(states)}


def test_last_state_repeats_what_has_failed(salt, world, monkeypatch):
    apply = salt({"sites": {"blog": SITE, "shop": {**SITE, "domains": ["shop.example.org"]}}})
    apply(test=True)
    last = max(apply.returned.values(), key=lambda one: one["__run_num__"])
    assert (last["result"], last["comment"], last["changes"]) == (True, "no state of this formula has failed", {})
    monkeypatch.setattr(deploy_steps, "build", broken_for_the_blog(deploy_steps.build))
    states = apply()
    last = max(apply.returned.values(), key=lambda one: one["__run_num__"])
    failed = [state for state in states if state.result is False]
    assert (last["result"], last["changes"]) == (False, {})
    told = [
        f"failed (states that were not run because of these failures: {len(failed) - 1}):",
        "blog is built:",
        "  build: it is broken",
    ]
    assert last["comment"].splitlines()[:5] == [*told, "    | a line", "  mend it"]
    assert last["comment"].count("blog") == 1


def test_existing_deployment_stops_only_its_own_site(salt, world, own_host):
    source = own_host / "srv/django/blog/source"
    source.mkdir(parents=True)
    (source / "manage.py").write_text("")
    states = salt({"sites": {"blog": SITE}})()
    failed = [state for state in states if state.result is False]
    assert failed[0].id == "blog can be deployed" and f"folder {source}" in failed[0].comment
    nginx = HOST[HOST.index("The ports of nginx are free") :]
    assert {state.id for state in failed[1:]} == {*nginx, *SENTENCES, *LAST} - {DEFAULT}
    assert set(changed(states)) == {"The packages of the sites are installed", "uv is installed"}
    assert list(source.parent.iterdir()) == [source] and "systemctl" not in str(world.commands)

    states = salt({"sites": {"blog": SITE, "shop": {**SITE, "domains": ["shop.example.org"]}}})()
    assert {state.id for state in states if state.result is False} == {"blog can be deployed", *SENTENCES}
    assert {"nginx is installed", "shop is live", "shop is recorded"} <= {*changed(states)}


def test_mod_wsgi_is_not_enabled_in_an_existing_apache(salt, own_host):
    notes = own_host / "var/lib/apache2/module"
    (notes / "disabled_by_maint").mkdir()
    (notes / "disabled_by_maint/wsgi").touch()
    apply = salt({"sites": {"blog": {**SITE, "server": {"kind": "mod_wsgi"}}}})
    (planned,) = [state for state in apply(test=True) if state.id == "mod_wsgi is installed"]
    assert planned.result is None and not (notes / "disabled_by_admin").exists()
    assert "mod_wsgi is installed" in changed(apply())
    assert [path.relative_to(notes).as_posix() for path in notes.rglob("wsgi")] == ["disabled_by_admin/wsgi"]
    (notes / "disabled_by_admin/wsgi").unlink()  # an administrator enables it
    apply()
    assert not (notes / "disabled_by_admin/wsgi").exists()


def test_apache_module_is_installed_only_when_a_site_requires_it(salt, own_host):
    apache = {**SITE, "proxy": {"kind": "apache"}}
    name, note = "mod_xsendfile is installed", own_host / "var/lib/apache2/module/disabled_by_admin/xsendfile"
    assert name not in results(salt({"sites": {"blog": apache}})(test=True))
    apply = salt({"sites": {"blog": {**apache, "media": {"protected": True}}}})
    assert results(apply(test=True))[name] is None and not note.exists()
    assert name in changed(apply()) and note.exists(), "Apache is not restarted"


@pytest.mark.parametrize("name", ["blog", "blog-build"])
def test_existing_user_with_the_name_of_the_site_is_refused(salt, world, monkeypatch, name):
    ada = SimpleNamespace(pw_name=name, pw_gecos="Ada Lovelace", pw_dir="/home/ada")
    monkeypatch.setattr(host_users, "find_user", {name: ada}.get)
    states = salt({"sites": {"blog": SITE}})()
    failed = [state for state in states if state.result is False]
    assert [state.id for state in failed] == [*SENTENCES, *LAST]
    assert f"the user {name} exists on this host and does not belong to the site blog" in failed[0].comment
    assert "django:sites:blog:user" in failed[0].comment and not failed[0].changes and not world.live


def test_existing_user_with_another_number_is_refused(salt, world, monkeypatch):
    blog = SimpleNamespace(pw_name="blog", pw_gecos="Django site blog", pw_uid=998)
    monkeypatch.setattr(host_users, "find_user", {"blog": blog}.get)
    states = salt({"sites": {"blog": {**SITE, "uid": 1500}}})()
    failed = [state for state in states if state.result is False]
    text = "the user blog has the number 998 on this host, and django:sites:blog:uid is 1500"
    assert failed[0].id == "blog has its users" and text in failed[0].comment
    assert "usermod --uid 1500 blog" in failed[0].comment and not failed[0].changes and not world.live


def test_number_that_another_user_has_is_refused_in_a_dry_run_too(salt, world, monkeypatch):
    monkeypatch.setattr(host_users, "find_user", {}.get)
    states = salt({"sites": {"blog": {**SITE, "uid": 100}}})
    monkeypatch.setattr(host_users, "user_name", {100: "ada"}.get)
    for test in (True, False):
        failed = [state for state in states(test=test) if state.result is False]
        assert failed[0].id == "blog has its users" and not failed[0].changes and not world.live
        assert "100, which django:sites:blog:uid has, is the number of the user ada" in failed[0].comment


def test_host_that_mounts_uploads_gets_the_package_of_the_type(salt):
    media = {"mount": {"device": "files1:/blog", "type": "nfs4"}}
    low = salt({"sites": {"blog": {**SITE, "media": media, "uid": 1500}}}).loaders.modules.state.show_low_sls("django")
    (packages,) = [chunk["pkgs"] for chunk in low if chunk["fun"] == "packages"]
    (users,) = [chunk for chunk in low if chunk["fun"] == "users"]
    assert "nfs-common" in packages and users["uid"] == 1500


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({}, {"podman", "mmdebstrap"}),
        ({"base": "docker.io/library/python:3.13"}, {"podman"}),
        ({"file": "Dockerfile"}, {"podman"}),
        ({"image": "registry.example.org/blog:{commit}"}, {"podman"}),
        ({"engine": "docker", "file": "Dockerfile"}, {"docker.io"}),
    ],
)
def test_host_with_containers_gets_the_engine_and_what_makes_its_base(salt, container, expected):
    low = salt({"sites": {"blog": {**SITE, "container": container}}}).loaders.modules.state.show_low_sls("django")
    (packages,) = [chunk["pkgs"] for chunk in low if chunk["fun"] == "packages"]
    assert {*packages} & {"podman", "docker.io", "mmdebstrap"} == expected


def broken_for_the_blog(step):
    def fails(deployment):
        if deployment.site.name == "blog":
            raise DeploymentError("it is broken", log="a line", hint="mend it")
        yield from step(deployment)

    fails.__name__ = step.__name__
    return fails


def test_states_of_a_site_are_the_steps_in_their_order(salt):
    low = salt({"sites": {"blog": SITE}}).loaders.modules.state.show_low_sls("django")
    steps = [chunk["fun"] for chunk in low if chunk["state"] == "django" and chunk["name"] == "blog"]
    assert steps == ["adoption", "users", "site", *(step.__name__ for step in STEPS)]
    names = [chunk["__id__"] for chunk in low if chunk["state"] == "django" and chunk["name"] == "blog"]
    assert names == ["blog can be deployed", *SENTENCES]
    for before, chunk in zip(names[2:], [chunk for chunk in low if chunk["__id__"] in names[3:]], strict=False):
        assert chunk["require"] == [{"django": before}]


def test_directories_of_all_sites_are_made_before_the_first_step(salt):
    pillar = {"sites": {"blog": SITE, "shop": {**SITE, "domains": ["shop.example.org"]}}}
    names = [state.id for state in salt(pillar)()]
    assert names.index("shop has its directories") < names.index("blog has its source")
    assert names.index("blog is recorded") < names.index("shop has its source")


def test_pillar_values_reach_the_engine_unchanged(salt):
    """Through Jinja, YAML and Salt."""
    texts = [
        "grüße 日本 🙂",
        "a: b",
        "yes",
        "1e3",
        "0777",
        "~",
        "",
        " a ",
        "'",
        '"',
        "\\",
        "a\nb",
        "#",
        "%",
        "</",
        "$(id)",
        "- a",
    ]
    numbers = [1, 1.5, 1e30, 10**30, True, None]
    site = {
        **SITE,
        "settings": {"TEXTS": texts, "NUMBERS": numbers, "NAMES": dict.fromkeys(texts, 1)},
        "environment": {f"V{number}": text for number, text in enumerate(texts)},
        "files": {"a.html": {"contents": "{{ 7*7 }} {% raw %} {# #}".join(texts)}},
    }
    low = salt({"sites": {"blog": site}}).loaders.modules.state.show_low_sls("django")
    (chunk,) = [chunk for chunk in low if chunk["state"] == "django" and chunk["fun"] == "site"]
    assert json.loads(chunk["config"]) == compiled({"blog": site})["sites"]["blog"]


def test_secrets_reach_only_the_engine(salt, world, own_host):
    site = {
        **SITE,
        "secret_key": KEY,
        "secrets": {"API": "canary-api", "FILED": {"value": "canary-file", "as": "file"}},
    }
    apply = salt({"defaults": {"secrets": {"SHARED": "canary-shared"}}, "sites": {"blog": site}})
    low = apply.loaders.modules.state.show_low_sls("django")
    assert "canary" not in json.dumps(low, default=str)
    states = apply()
    assert set(results(states).values()) == {True}
    assert "canary" not in repr(states)
    known = re.compile("|".join((KEY, "canary-api", "canary-file", "canary-shared")).encode())
    holders = {path for path in own_host.rglob("*") if path.is_file() and known.search(path.read_bytes())}
    secrets = world.site.secrets
    assert holders == {secrets / name for name in ("environment", "secret_key.json", "API", "FILED", "SHARED")}
    world.push("two")
    world.fails["systemd-run"] = DeploymentError("failed", log=f"KeyError: canary-api {KEY}")
    (comment,) = [state.comment for state in apply() if state.id == "blog has its static files"]
    assert "KeyError: ********** **********" in comment


@pytest.mark.parametrize(
    ("engine", "packages"),
    [
        ("sqlite", set()),
        ("postgres", {"libpq5"}),
        ("mysql", {"gcc", "libmariadb-dev", "pkgconf", "python3-dev"}),
    ],
)
def test_packages_of_a_database_driver_are_installed(salt, own_host, engine, packages):
    database = {"engine": engine} | ({"host": "db1", "password": "canary-db"} if packages else {})
    states = salt({"sites": {"blog": {**SITE, "database": database}}})()
    installed = set((own_host / "played").read_text().split()) & {
        "libpq5",
        "gcc",
        "libmariadb-dev",
        "pkgconf",
        "python3-dev",
    }
    assert installed == packages
    assert "canary-db" not in str([vars(state) for state in states])
    kept = own_host / "srv/django/blog/secrets/database.default"
    assert (kept.read_text() if packages else None) == database.get("password")


@pytest.fixture
def postgres(monkeypatch):
    """A PostgreSQL on the host after its package is installed: its roles and databases, and the number of queries."""
    server = SimpleNamespace(installed=False, answer=POSTGRESQL.empty_state(), asked=0, made=[])

    def ask(managed):
        server.asked += 1
        return server.answer

    def make(managed, changes):
        server.made += [change.item for change in changes]
        role = {"comment": "Django site blog", "login": True, "rights": False, "verifier": None}
        database = {"comment": "Django site blog", "owner": managed.user, "is_public": False}
        server.answer["roles"][managed.user] = role | {"comment": database_server.owner_comment(managed.site)}
        server.answer["databases"][managed.database] = database

    monkeypatch.setattr(POSTGRESQL, "is_installed", lambda: server.installed)
    monkeypatch.setattr(POSTGRESQL, "query", ask)
    monkeypatch.setattr(POSTGRESQL, "apply", make)
    return server


def two_sites(world):
    """Two sites with a database on this host: the first one's default, and one more of the second."""
    world.answers["databases"] = {name: {"engine": "postgresql", "name": name} for name in ("default", "shop")}
    world.answers["databases"]["default"]["name"] = "blog"
    databases = {"default": {}, "shop": {"engine": "postgres", "name": "shop"}}
    shop = {**SITE, "domains": ["shop.example.org"], "databases": databases}
    return {"blog": {**SITE, "database": {"engine": "postgres"}}, "shop": shop}


def test_database_server_is_installed_and_databases_are_created(salt, world, own_host, postgres):
    sites = two_sites(world)
    apply = salt({"sites": sites})
    planned = {state.id: state for state in apply(test=True)}
    assert planned["PostgreSQL is installed"].result is None
    assert planned["blog has its databases"].changes == {"postgres": {"role blog": "new", "database blog": "new"}}
    assert postgres.asked == 0 and "mariadb" not in "".join(planned).lower()
    states = apply()
    assert "postgresql" in (own_host / "played").read_text().split() and not [s for s in states if s.result is False]
    made_as = (own_host / "etc/postgresql-common/createcluster.d/django-formula.conf").read_text()
    assert made_as.splitlines()[1:] == ["wal_level = logical"]
    assert postgres.made == ["role blog", "database blog", "role shop", "database shop"]
    postgres.installed, postgres.asked = True, 0
    again = apply()
    assert changed(again) == [] and postgres.asked == 1
    assert results(again)["shop has its databases"] is True


@pytest.mark.parametrize("test", [False, True])
def test_empty_database_of_another_engine_is_refused_before_anything_is_changed(salt, world, own_host, postgres, test):
    world.answers["databases"] = {"default": {"engine": "mysql", "name": "blog"}}
    salt({"sites": {"blog": {**SITE, "database": {"engine": "mysql", "host": "db1"}}}})()
    states = {
        state.id: state for state in salt({"sites": {"blog": {**SITE, "database": {"engine": "postgres"}}}})(test=test)
    }
    assert states["blog can be deployed"].comment.startswith(
        "the database 'default' would be postgres:///blog, which is empty; the data is in mysql:///blog"
    )
    assert states["PostgreSQL is installed"].result is False and states["blog has its directories"].result is False
    played = (own_host / "played").read_text() if (own_host / "played").exists() else ""
    assert "postgresql" not in played.split()


def test_database_refused_for_one_site_stops_only_that_site(salt, world, postgres):
    postgres.installed = True
    postgres.answer["databases"]["shop"] = {"comment": None, "owner": "ray", "is_public": True}
    sites = two_sites(world)
    states = {state.id: state for state in salt({"sites": sites})()}
    assert states["blog is recorded"].result is True and states["shop has its source"].result is False
    comment = states["shop has its databases"].comment
    assert comment.startswith("database: PostgreSQL already has a database shop, owned by ray")


def test_password_is_generated_for_a_login_over_tcp(salt, world, own_host, postgres):
    database = {"engine": "postgres", "host": "localhost", "manage": True}
    apply = salt({"sites": {"blog": {**SITE, "database": database}}})
    states = {state.id: state for state in apply()}
    kept = (own_host / "srv/django/blog/secrets/database.default").read_text()
    assert len(kept) == 40 and kept not in str([vars(state) for state in states.values()])
    assert states["blog has its databases"].changes["passwords"] == ["database.default"]
    postgres.answer["roles"]["blog"]["verifier"] = engines.postgres_verifier(kept)
    assert changed(apply()) == []


def test_missing_secret_is_an_error(salt, world):
    apply = salt({"sites": {"blog": {**SITE, "secret_key": "sdb://vault/key-of-the-blog"}}})
    (state,) = [state for state in apply() if state.id == "blog has its directories"]
    assert state.result is False
    assert state.comment.startswith("django:sites:blog:secret_key: sdb://vault/key-of-the-blog has no value")


def test_missing_template_is_an_error(salt, world):
    apply = salt({"sites": {"blog": {**SITE, "files": {"a.py": {"source": "salt://blog/nowhere.jinja"}}}}})
    (state,) = [state for state in apply() if state.id == "blog has its directories"]
    assert (state.result, state.comment.split("\n")[0]) == (
        False,
        "cannot find salt://blog/nowhere.jinja on the file server",
    )


def test_each_warning_appears_once(salt, world):
    world.answers = {"allowed_hosts": ["other.org"], "checks": ["security.W001: no"] * 2}
    made = salt({"sites": {"blog": SITE}})
    made()
    warnings = [text for one in made.returned.values() for text in one.get("warnings", [])]
    assert len(warnings) == 2 and "security.W001: no." in warnings


# Sites that are removed


def test_absent_site_is_removed_before_other_sites_are_applied(salt, world):
    both = {"sites": {"blog": SITE, "shop": {**SITE, "domains": ["shop.example.org"]}}}
    salt(both)()
    gone = {"sites": {"blog": {"state": "absent"}, "shop": both["sites"]["shop"]}}
    apply = salt(gone)
    states = apply(test=True)
    assert [state.id for state in states][:2] == ["blog is absent", "blog has no build user"]
    assert [(state.id, state.result) for state in states if state.changes] == [
        ("blog is absent", None),
        ("blog has no build user", None),
    ]
    assert world.live
    assert changed(apply()) == ["blog is absent", "blog has no build user"]
    assert not world.site.releases.exists() and world.site.media.exists()
    states = apply()
    assert changed(states) == [] and set(results(states).values()) == {True}
    away = {"sites": {"blog": {"state": "absent", "remove_data": True}}}
    apply = salt(away)
    assert changed(apply()) == ["blog is absent", "blog has no user"] and not world.site.root.exists()
    assert changed(apply()) == []


def test_dry_run_of_the_removal_of_the_last_site_names_what_goes_with_it(salt, world):
    salt({"sites": {"blog": SITE}})()
    release_console.PROGRAM.write_text("")  # which no apply of these tests installs
    apply = salt({"sites": {"blog": {"state": "absent"}}})
    dry, done = ({state.id: {*state.changes} for state in apply(test=test)}["blog is absent"] for test in (True, False))
    assert str(release_console.PROGRAM) in done and dry == done


def test_dry_run_of_the_removal_of_all_sites_names_what_goes_with_the_last(salt, world):
    salt({"sites": {"blog": SITE, "shop": {**SITE, "domains": ["shop.example.org"]}}})()
    release_console.PROGRAM.write_text("")
    apply = salt({"sites": {"blog": {"state": "absent"}, "shop": {"state": "absent"}}})
    dry, done = ({state.id: {*state.changes} for state in apply(test=test)} for test in (True, False))
    assert str(release_console.PROGRAM) in done["shop is absent"] and dry == done


def test_absent_site_that_never_existed_changes_nothing(salt, own_host):
    states = salt({"sites": {"blog": {"state": "absent"}}})()
    assert [(state.id, state.result, state.changes) for state in states] == [
        ("blog is absent", True, {}),
        ("blog has no build user", True, {}),
        ("The host is watched", True, {}),
    ]


# The host


def test_uv_is_installed_once(salt, world):
    state = salt({"sites": {}}).loaders.states.django.uv
    assert (state(name="x", test=True).result, world.commands) == (None, [])
    made = state(name="x")
    assert made.result is True and made.changes == {"uv": "0.13.8"} and made.comment == "uv has been installed"
    for test in (True, False):
        again = state(name="x", test=test)
        assert (again.result, again.changes, again.comment) == (True, {}, "uv is already installed")


def test_error_of_the_installation_of_uv_is_reported(salt, world):
    world.fails["pip install"] = DeploymentError("installing uv failed", log="no network")
    made = salt({"sites": {}}).loaders.states.django.uv(name="x")
    assert (made.result, made.changes, made.comment) == (False, {}, "installing uv failed\n  | no network")


def test_port_used_by_another_process_stops_the_site_and_installs_no_nginx(salt, world, monkeypatch):
    taken = {80: host_ports.Listener("apache2", 7, "apache2.service")}
    monkeypatch.setattr(host_ports, "listener", lambda port, exclude, ports=None: taken.get(port))
    states = salt({"sites": {"blog": SITE, "shop": {**SITE, "domains": ["a.org"], "proxy": {"listen": [8080]}}}})()
    failed = {state.id: state.comment for state in states if state.result is False}
    message = failed["The ports of nginx are free"]
    assert message == failed["blog has its directories"].removeprefix("site: ").removesuffix("\nnothing runs yet")
    assert message.splitlines() == [
        "port 80 is taken by apache2 (pid 7, apache2.service), so nginx cannot listen there; nothing has been changed",
        "stop that process (systemctl disable --now apache2.service), "
        "or set another port: django:sites:blog:proxy:listen: [8080]",
    ]
    assert not {"nginx is installed", "nginx runs"} & {*changed(states)}
    assert {"shop has its directories", "shop is live"} <= {*changed(states)}


def test_port_that_nginx_keeps_for_a_site_without_pillar_stops_the_site_and_installs_no_apache(
    salt, world, monkeypatch
):
    """Each site of the pillar, though the records of those that come along have nginx still."""
    sites = {name: {**SITE, "domains": [f"{name}.example.org"]} for name in ("blog", "old", "shop")}
    salt({"sites": sites})()
    holder = host_ports.Listener("nginx", 7, "nginx.service")
    monkeypatch.setattr(host_ports, "listener", lambda port, exclude, ports=None: holder if port == 80 else None)
    monkeypatch.setattr(host_ports, "listens_on", lambda pid, port, ports=None: (pid, port) == (7, 80))
    monkeypatch.setattr(daemons, "pid", lambda daemon: 7 if daemon.service == "nginx" else None)
    apache = {name: {**sites[name], "proxy": {"kind": "apache"}} for name in ("blog", "shop")}
    states = salt({"sites": apache})()
    failed = {state.id: state.comment.splitlines() for state in states if state.result is False}
    text = "nginx needs port 80 for the site old, so Apache cannot listen there; nothing has been changed"
    assert failed["The ports of apache are free"][0] == text
    assert {failed[f"{name} has its directories"][0] for name in apache} == {f"site: {text}"}
    assert not {"apache is installed", "apache runs"} & {*changed(states)}
    with_all = salt({"sites": {name: {**site, "proxy": {"kind": "apache"}} for name, site in sites.items()}})(test=True)
    assert "The ports of apache are free" not in [state.id for state in with_all if state.result is False]


def test_default_server_is_configured_on_new_ports(salt, world):
    made = salt({"sites": {}}).loaders

    def state(ports, test=False):
        templates = ["salt://django/files/nginx/default.conf"]
        return made.states.django.proxy_runs(name="x", kind="nginx", http=ports, templates=templates, test=test)

    assert state([80], test=True).result is None and world.commands == []
    assert state([80]).result is True and state([80]).changes == {}
    (difference,) = state([80, 8080]).changes.values()
    assert "+    listen 8080 default_server;" in difference
    world.fails["nginx -t"] = DeploymentError("no")
    refused = state([81])
    assert refused.result is False and refused.comment.startswith("nginx refuses its configuration")


@pytest.mark.parametrize("kind", ["nginx", "apache"])
def test_web_server_that_was_killed_is_started_again(salt, world, kind):
    made = salt({"sites": {}}).loaders
    path = daemons.UNITS / f"{'nginx' if kind == 'nginx' else 'apache2'}.service.d/django-formula.conf"

    def state(test=False):
        return made.states.django.proxy_runs(name="x", kind=kind, http=[], templates=[], test=test)

    assert state(test=True).changes[str(path)] == "new: file" and not path.exists()
    assert state().changes[str(path)] == "new: file" and ["systemctl", "daemon-reload"] in world.commands
    assert "Restart=on-abnormal\n" in path.read_text() and not state().changes
    path.write_text("[Service]\n# of a person\n")
    refused = state()
    assert refused.result is False and "was not written by this formula" in refused.comment


def test_apply_of_sites_compiles_no_template(salt, monkeypatch):
    """What every host with sites has is made by Python; a part that is applied alone has the same states."""
    rendered = []
    jinja = salt_templates.JINJA
    monkeypatch.setattr(salt_templates, "JINJA", lambda path, **more: rendered.append(path) or jinja(path, **more))
    apply = salt({"sites": {"blog": SITE}})
    ids = [state.id for state in apply(test=True)]
    assert rendered == []
    alone = [state.id for state in apply("django.host,django.watch,django.site", test=True)]
    assert rendered and {*alone} == {*ids} - {"All of it has succeeded"}


@pytest.mark.parametrize("stale", ["nothing is synced", "one is old"])
def test_modules_of_the_formula_are_synced_when_stale(salt, stale):
    apply = salt({"sites": {"blog": SITE}}, current=stale == "one is old")
    modules = Path(apply.loaders.opts["extension_modules"])
    if stale == "one is old":
        (modules / "utils").unlink()
        (modules / "utils").mkdir()
        for path in (ROOT / "_utils").glob("*.py"):
            (modules / "utils" / path.name).write_text(path.read_text() + ("# old" if "engine" in path.name else ""))
    first = apply(test=True)[0]
    assert first.id == "The modules of the formula are current"
    assert first.name == ("utils" if stale == "one is old" else "modules, states, utils")
    assert (modules / "utils/django_engine.py").read_text() == (ROOT / "_utils/django_engine.py").read_text()
    assert apply(test=True)[0].id == HOST[0]


@pytest.fixture
def authorities(monkeypatch):
    """Plays openssl and uacme: what is ordered, and how an order fails."""
    played = SimpleNamespace(ordered=[], fails=None)

    def certificate(origin, domain):
        made = signed(domain)
        return certificates.joined(origin, made.key, made.certificate)

    def order(site, domain, files):
        played.ordered.append((domain, files))
        if played.fails:
            raise played.fails
        return certificate(certificates.origin(site), domain)

    monkeypatch.setattr(certificates, "make_authority", lambda **_options: None)
    own = f"self_signed {certificates._fingerprint()}"
    monkeypatch.setattr(certificates, "_issued", lambda domain: certificate(own, domain))
    monkeypatch.setattr(acme, "_order", order)
    monkeypatch.setattr(proxy_nginx, "version", lambda: (1, 22, 1))
    return played


BY_HTTPS = [*SENTENCES[:2], "blog has its certificates", *SENTENCES[2:]]


def test_site_with_self_signed_certificate_is_applied_once(salt, world, own_host, authorities):
    apply = salt({"sites": {"blog": {**SITE, "tls": {"kind": "self_signed"}}}})
    foreseen = apply(test=True)
    assert [state.id for state in foreseen] == [*HOST, *BY_HTTPS, *LAST]
    states = {state.id: state for state in apply()}
    assert states["blog has its certificates"].changes == {"certificates": {"blog.example.org": "new"}}
    assert {state.result for state in states.values()} == {True}
    assert changed(apply()) == []


def test_https_is_added_and_removed_by_the_pillar(salt, world, own_host, authorities):
    salt({"sites": {"blog": SITE}})()
    tls = salt({"sites": {"blog": {**SITE, "tls": {"kind": "self_signed"}}}})
    foreseen = {state.id: state for state in tls(test=True)}["blog has its certificates"]
    states = {state.id: state for state in tls()}
    domain = own_host / "etc/nginx/sites-available/blog.example.org"
    opened = states["blog has its certificates"].changes
    assert opened.keys() <= foreseen.changes.keys() and "+    listen 443 ssl http2;" in opened[str(domain)]
    assert "return 301" in states["blog is served"].changes[str(domain)]
    assert world.live.startswith("0002-")
    states = {state.id: state for state in salt({"sites": {"blog": SITE}})()}
    assert states["blog is served"].changes[str(certificates.path_of("blog.example.org"))] == "removed"
    assert world.live.startswith("0003-") and "ssl" not in domain.read_text()
    assert not certificates.path_of("blog.example.org").exists()


def test_certificates_are_ordered_after_the_site_is_served(salt, world, own_host, authorities):
    tls = {"kind": "acme", "eab": {"key_id": "kid-1", "key": KEY}}
    apply = salt({"sites": {"blog": {**SITE, "tls": tls}}})
    ids = [state.id for state in apply(test=True)]
    assert ids[-4:] == ["blog has its certificates ordered", "blog is recorded", *LAST]
    authorities.fails = DeploymentError("uacme failed", log='"detail": "no A record"')
    states = apply()
    assert {state.result for state in states} == {True} and authorities.ordered == [
        ("blog.example.org", {"eab:key": KEY})
    ]
    assert "blog has its certificates ordered" not in changed(states)
    assert changed(apply()) == [] and len(authorities.ordered) == 1, "it is not tried again at once"
    certificates.path_of("blog.example.org").with_suffix(".failed").unlink()
    authorities.fails = None
    assert changed(apply(test=True)) == changed(apply()) == ["blog has its certificates ordered"]
    assert changed(apply()) == []
    assert not [path for path in own_host.rglob("*") if path.is_file() and KEY in path.read_text(errors="replace")]


def test_invalid_certificate_files_stop_only_their_site(salt, world, authorities):
    made = signed("x.example.org")
    bad = {"kind": "files", "certificate": made.certificate, "key": made.key}
    sites = {"blog": {**SITE, "tls": bad}, "shop": {**SITE, "domains": ["shop.example.org"]}}
    states = salt({"sites": sites})()
    failed = {state.id: state.comment for state in states if state.result is False}
    message = "site: django:sites:blog:tls:certificate is for x.example.org, not for blog.example.org"
    assert failed["blog has its directories"].splitlines() == [message, "nothing runs yet"]
    assert "shop is live" in changed(states)


def test_site_that_pushes_has_a_state_and_the_host_a_user_for_it(salt):
    push = {"kind": "rsync", "host": "static.example.org", "path": "/srv/static", "ssh_key": "sdb://vault/key"}
    push["known_hosts"] = [
        "static.example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9"
    ]
    low = salt({"sites": {"blog": {**SITE, "static": {"push": push}}}}).loaders.modules.state.show_low_sls("django")
    steps = [chunk["fun"] for chunk in low if chunk["state"] == "django" and chunk["name"] == "blog"]
    assert steps[3:] == [step.__name__ for step in deploy_steps.RELEASE]
    assert [chunk["name"] for chunk in low if chunk["state"] == "user"] == ["_django-push"]
    (packages,) = [chunk["pkgs"] for chunk in low if chunk["fun"] == "packages"]
    assert "rsync" in packages
