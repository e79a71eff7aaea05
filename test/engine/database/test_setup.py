"""Passwords of databases on this host's servers, renewed while the site serves."""

import re

import pytest
from django_formula.database import engines, setup
from django_formula.deploy import secrets_in_use, steps
from django_formula.host import commands
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.project import ask as project_ask
from django_formula.release import health, instances
from django_formula.verbs import operations, rotation
from world import commit

POSTGRESQL = setup.SERVERS["postgres"]
POSTGRES = {"engine": "postgres", "host": "localhost", "manage": True}
SETTINGS = {"databases": {"default": {"engine": "django.db.backends.postgresql", "name": "blog"}}}


class Server:
    """A PostgreSQL that knows roles, databases and members as far as they are needed here."""

    def __init__(self):
        self.roles, self.databases, self.told = {}, {}, []
        self.refuses = ""

    def ask(self, managed):
        texts = {"hba": "", "ident": ""}
        return {**texts, "texts": texts, "unread": [], "roles": self.roles, "databases": self.databases}

    def make(self, managed, changes):
        for statement in (statement for change in changes for statement in change.statements):
            self.told.append(statement)
            if self.refuses and self.refuses in statement:
                raise DeploymentError("setting PostgreSQL up failed")
            if made := re.search(r'CREATE ROLE "(\w+)"', statement):
                role = {
                    "comment": "Django site blog",
                    "login": True,
                    "rights": False,
                    "verifier": None,
                    "member_of": [],
                }
                self.roles[made[1]] = role
            if secret := re.search(r"""ROLE "(\w+)" .*PASSWORD (NULL|'([^']+)')""", statement):
                self.roles[secret[1]]["verifier"] = secret[3]
            if made := re.search(r'CREATE DATABASE "(\w+)" OWNER "(\w+)"', statement):
                database = {"comment": "Django site blog", "owner": made[2], "is_public": False, "acts_as": {}}
                self.databases[made[1]] = database
            if member := re.search(r'GRANT "(\w+)" TO "(\w+)"', statement):
                self.roles[member[2]]["member_of"] = [member[1]]
                self.databases["blog"]["acts_as"][member[2]] = f"role={member[1]}"

    def lets_in(self, login):
        user, password = login
        return engines.is_verifier_of(self.roles.get(user, {}).get("verifier") or "", password, user)


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(POSTGRESQL, "query", server.ask)
    monkeypatch.setattr(POSTGRESQL, "apply", server.make)
    monkeypatch.setattr(POSTGRESQL, "is_installed", lambda: True)
    monkeypatch.setattr(POSTGRESQL, "is_running", lambda: True)
    return server


@pytest.fixture
def blog(world, server, monkeypatch):
    """A site whose release is live, with a generated password; `both` has who was let in while both instances ran."""
    world.options, world.answers = {"database": POSTGRES}, SETTINGS
    monkeypatch.setattr(steps, "RELEASE", (steps.database, *steps.RELEASE))
    world.apply()
    world.first, world.both = login(world), {}
    seen = world.both

    def look(site, release, explain=None):
        seen.update(old=server.lets_in(world.first), new=server.lets_in(login(world)))

    monkeypatch.setattr(health, "check", look)
    return world


def login(world):
    """What a process of the site would log in with, were it to start now."""
    files = ("database.default.user", "database.default")
    return tuple((world.site.secrets / name).read_text() for name in files)


def test_generated_password_renewed_while_both_logins_work(blog, server):
    assert blog.first[0] == "blog" and server.lets_in(blog.first)
    deployment, changes = rotation.rotate_database_password("blog")
    assert blog.both == {"old": True, "new": True}
    assert login(blog)[0] == "blog_2" and server.lets_in(login(blog)) and not server.lets_in(blog.first)
    assert changes["database"] == {"postgres": {"role blog_2": "new", "membership of blog_2": "of blog"}}
    assert changes["live"]["postgres"] == {"role blog": "password removed"} and deployment.warnings == []
    assert blog.live == f"0002-{commit('one')[:12]}" and blog.apply() == {}
    blog.first = login(blog)
    rotation.rotate_database_password("blog")
    assert blog.both == {"old": True, "new": True}
    assert login(blog)[0] == "blog" and not server.lets_in(blog.first) and server.lets_in(login(blog))
    assert blog.apply() == {} and not any(blog.first[1] in text for text in server.told)
    blog.check()


def test_pillar_password_renewed_by_apply(blog, server):
    blog.options = {"database": {**POSTGRES, "password": "x"}}
    for password, user in (("the first", "blog_2"), ("the second", "blog")):
        blog.given = {"database.default": password}
        changes = blog.apply()
        assert blog.both == {"old": True, "new": True}
        assert login(blog) == (user, password) and not server.lets_in(blog.first)
        assert changes["live"]["postgres"] and blog.apply() == {}
        blog.first = login(blog)


def test_failed_release_keeps_login_of_active_one(blog, server, monkeypatch):
    monkeypatch.setattr(health, "check", lambda site, release, explain=None: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rotation.rotate_database_password("blog")
    assert login(blog) == blog.first and server.lets_in(blog.first)
    monkeypatch.setattr(health, "check", lambda site, release, explain=None: None)
    assert blog.apply()["database"] == {"postgres": {"role blog_2": "password removed"}}
    assert server.lets_in(blog.first) and blog.apply() == {}


def test_killed_deployment_resumed_with_new_login(blog, server, monkeypatch):
    monkeypatch.setattr(secrets_in_use.Secrets, "restore_replaced", lambda secrets: None)
    start = instances.start
    monkeypatch.setattr(instances, "start", lambda site, release: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rotation.rotate_database_password("blog")
    assert login(blog)[0] == "blog_2" and server.lets_in(blog.first)
    monkeypatch.setattr(instances, "start", start)
    changes = blog.apply()
    assert blog.both == {"old": True, "new": True} and changes["live"]["postgres"]
    assert login(blog)[0] == "blog_2" and not server.lets_in(blog.first) and blog.apply() == {}


def test_former_password_closed_by_next_apply_after_error(blog, server):
    server.refuses = "PASSWORD NULL"
    deployment, _changes = rotation.rotate_database_password("blog")
    assert deployment.warnings == [
        "the former database password is still valid: setting PostgreSQL up failed; apply again"
    ]
    server.refuses = ""
    assert blog.apply()["database"] == {"postgres": {"role blog": "password removed"}}
    assert not server.lets_in(blog.first) and blog.apply() == {}


def test_rollback_uses_new_login(blog, server):
    rotation.rotate_database_password("blog")
    operations.rollback("blog")
    assert blog.live == f"0001-{commit('one')[:12]}"
    data = host_file.read_json(blog.site.current / "config/settings.json")["databases"]["default"]
    assert data["user_file"] == str(blog.site.secrets / "database.default.user") and server.lets_in(login(blog))
    assert "user_file" in data and blog.apply() == {}


def test_rollback_refused_when_database_is_unreachable(blog, monkeypatch):
    asked = []

    def ask(site, path, facts, request, secrets, *_):
        asked.append((path.name, request))
        raise DeploymentError('FATAL: database "blog" does not exist')

    blog.push("two")
    blog.apply()
    monkeypatch.setattr(project_ask, "backup", ask)
    operations.rollback("blog")
    assert asked == [] and blog.live == f"0001-{commit('one')[:12]}"
    rotation.rotate_database_password("blog")
    live = blog.live
    with pytest.raises(
        DeploymentError, match="cannot connect to its databases with the present passwords: FATAL"
    ) as error:
        operations.rollback("blog")
    assert "force=True rolls back anyway" in error.value.hint and blog.live == live
    assert asked == [(f"0001-{commit('one')[:12]}", {"mode": "fit", "names": {"default": "blog"}, "migrate": False})]
    operations.rollback("blog", force=True)
    assert blog.live == f"0001-{commit('one')[:12]}"


@pytest.mark.parametrize("torn", ["", "postgres", "blog_", None])
def test_damaged_login_file_restored(blog, server, torn):
    rotation.rotate_database_password("blog")
    right, file = login(blog), blog.site.secrets / "database.default.user"
    if torn is None:
        file.unlink()
    else:
        file.write_text(torn)
    assert [row["drift"] for row in operations.drift("blog")["drift"]] == ["missing" if torn is None else "changed"]
    assert blog.apply() == {"secret_key": {"database.default.user": "kept"}}
    assert login(blog) == right and server.lets_in(right) and blog.apply() == {}


@pytest.mark.parametrize(
    ("database", "alias", "told"),
    [
        ({"engine": "postgres"}, "default", "the database 'default' of blog has no password"),
        ({**POSTGRES, "password": "x"}, "default", "the pillar gives blog the password of its database 'default'"),
        ({"engine": "postgres", "host": "db1", "password": "x"}, "default", "is not on a server that the formula"),
        ({"engine": "sqlite"}, "default", "has the database 'default' on no server"),
        (POSTGRES, "metrics", "the pillar of blog has no database 'metrics'"),
    ],
)
def test_rotation_refused_for_password_that_was_not_generated(world, database, alias, told):
    world.options, world.answers = {"database": database}, SETTINGS
    world.given = {"database.default": "x"} if "password" in database else {}
    if database.get("manage"):
        world.given = {"database.default": "made before"}
    world.apply()
    with pytest.raises(DeploymentError, match=told):
        rotation.rotate_database_password("blog", alias)
    assert world.live == f"0001-{commit('one')[:12]}"


def test_server_queried_once_per_apply(blog, server, monkeypatch):
    asked = []
    monkeypatch.setattr(POSTGRESQL, "query", lambda managed: asked.append(managed) or server.ask(managed))
    assert blog.apply() == {} and len(asked) == 1
    assert setup.is_installed("postgres") and commands.locks == set()
