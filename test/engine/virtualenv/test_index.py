"""The package index of a site: how uv and pip are configured with it, and where its password is kept."""

import stat
from pathlib import Path

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.process import build_user
from django_formula.virtualenv import index as virtualenv_index
from django_formula.virtualenv import uv, virtualenvs

URL = "https://pypi.example.org/simple"
PASSWORD = "p@ss/word:1"
INDEX = {"url": URL, "user": "deploy", "password": {"pillar": "django:sites:blog:index:password"}, "only": True}
NONE = {"url": None, "user": None, "password": None, "only": True}
LOGIN = {"UV_INDEX_FORMULA_USERNAME": "deploy", "UV_INDEX_FORMULA_PASSWORD": PASSWORD}

NAMED = {"UV_INDEX_CORP_TWO_USERNAME": "bot", "UV_INDEX_CORP_TWO_PASSWORD": PASSWORD}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Remove the proxies, authorities and indexes of the machine that runs the tests."""
    for name in commands.network_environment():
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("index", "host", "expected"),
    [
        (NONE, {}, {}),
        (INDEX, {}, {"UV_DEFAULT_INDEX": f"formula={URL}", **LOGIN}),
        ({**INDEX, "only": False}, {}, {"UV_INDEX": f"formula={URL}", **LOGIN}),
        ({**INDEX, "user": None}, {}, {"UV_DEFAULT_INDEX": f"formula={URL}"}),
        (INDEX, {"UV_DEFAULT_INDEX": "a", "UV_INDEX": "b"}, {"UV_DEFAULT_INDEX": f"formula={URL}", **LOGIN}),
        (INDEX, {"PIP_INDEX_URL": "a", "PIP_EXTRA_INDEX_URL": "b"}, {"UV_DEFAULT_INDEX": f"formula={URL}", **LOGIN}),
        (
            {**INDEX, "only": False},
            {"UV_DEFAULT_INDEX": "a"},
            {"UV_DEFAULT_INDEX": "a", "UV_INDEX": f"formula={URL}", **LOGIN},
        ),
        (NONE, {"PIP_INDEX_URL": "a", "PIP_EXTRA_INDEX_URL": "b"}, {"UV_DEFAULT_INDEX": "a", "UV_INDEX": "b"}),
        (NONE, {"PIP_INDEX_URL": "a", "UV_DEFAULT_INDEX": "b"}, {"UV_DEFAULT_INDEX": "b"}),
        (NONE, {"PIP_FIND_LINKS": "/a /b"}, {"UV_FIND_LINKS": "/a,/b"}),
        (NONE, {"UV_INDEX_OWN_PASSWORD": "x", "OTHER": "y"}, {"UV_INDEX_OWN_PASSWORD": "x"}),
    ],
)
def test_environment_of_uv(monkeypatch, index, host, expected):
    for name, value in host.items():
        monkeypatch.setenv(name, value)
    assert virtualenv_index.for_uv(index, PASSWORD) == expected


KEPT = 'cache-control = { files = "max-age=31536000, immutable" }\n'
PYPI = f'[[index]]\nurl = "https://pypi.org/simple"\n{KEPT}default = true\n'


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, PYPI),
        ({"UV_DEFAULT_INDEX": f"formula={URL}"}, f'[[index]]\nurl = "{URL}"\nname = "formula"\n{KEPT}default = true\n'),
        (
            {"UV_INDEX": f"formula={URL} https://b.org/?a=b"},
            f'[[index]]\nurl = "{URL}"\nname = "formula"\n{KEPT}[[index]]\nurl = "https://b.org/?a=b"\n{KEPT}{PYPI}',
        ),
        ({"UV_DEFAULT_INDEX": '/a"b'}, f'[[index]]\nurl = "/a\\"b"\n{KEPT}default = true\n'),
    ],
)
def test_configuration_of_uv_keeps_the_files_of_indexes(monkeypatch, variables, expected):
    monkeypatch.setattr(virtualenv_index, "HOST_CONFIGURATION", ())
    assert virtualenv_index.configuration(variables) == expected


def test_index_of_the_host_configuration_stays_the_default(monkeypatch, tmp_path):
    monkeypatch.setattr(virtualenv_index, "HOST_CONFIGURATION", (tmp_path,))
    assert virtualenv_index.configuration({}) == ""
    assert "default = true" in virtualenv_index.configuration({"UV_DEFAULT_INDEX": URL})


@pytest.mark.parametrize(
    ("index", "host", "expected"),
    [
        (None, {}, {}),
        (NONE, {"UV_FIND_LINKS": "/a,/b"}, {"PIP_FIND_LINKS": "/a /b"}),
        (NONE, {"UV_DEFAULT_INDEX": "a", "UV_INDEX": "b"}, {"PIP_INDEX_URL": "a", "PIP_EXTRA_INDEX_URL": "b"}),
        (NONE, {"UV_DEFAULT_INDEX": f"corp={URL}"}, {"PIP_INDEX_URL": URL}),
        (
            NONE,
            {"UV_INDEX": f"corp-two={URL} b", **NAMED},
            {"PIP_EXTRA_INDEX_URL": "https://bot:p%40ss%2Fword%3A1@pypi.example.org/simple b", **NAMED},
        ),
        (
            INDEX,
            {"PIP_EXTRA_INDEX_URL": "b"},
            {"PIP_INDEX_URL": "https://deploy:p%40ss%2Fword%3A1@pypi.example.org/simple"},
        ),
        (
            {**INDEX, "user": None, "only": False},
            {"PIP_INDEX_URL": "a"},
            {"PIP_INDEX_URL": "a", "PIP_EXTRA_INDEX_URL": URL},
        ),
    ],
)
def test_environment_of_pip(monkeypatch, index, host, expected):
    for name, value in host.items():
        monkeypatch.setenv(name, value)
    assert virtualenv_index.for_pip(index, PASSWORD) == expected


def test_index_password_is_kept_for_commands_and_masked(world):
    world.options = {"index": {"url": URL, "user": "deploy", "password": PASSWORD}}
    world.given = {"index_password": PASSWORD}
    assert "index password" in world.apply()["site"]
    file = world.site.secrets / ".index_password"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (PASSWORD, 0o600)
    assert world.apply() == {}
    command = world.deployment()
    world.given = {}
    assert (
        command.secrets.of(virtualenv_index.PASSWORD)
        == world.deployment().secrets.of(virtualenv_index.PASSWORD)
        == PASSWORD
    )
    assert PASSWORD in command.secrets.masked()

    world.given = {"index_password": "another"}
    assert world.apply() == {"site": {"index password": "kept"}} and file.read_text() == "another"
    world.options, world.given = {}, {}
    assert world.apply()["site"]["index password"] == "removed" and not file.exists()
    assert world.deployment().secrets.of(virtualenv_index.PASSWORD) is None


def test_failed_build_is_tried_again_when_the_index_password_changes(world, monkeypatch):
    world.options = {"index": {"url": URL, "user": "deploy", "password": "x"}}
    world.given = {"index_password": "wrong"}
    tried = []

    def build(site, source, files, key, password, folder, day):
        tried.append(password)
        if password == "wrong":
            raise DeploymentError("installing packages failed")
        world.build(site, source, files, key, password, folder, day)

    monkeypatch.setattr(virtualenvs, "build", build)
    for message in ("virtualenv: installing packages failed", "failed before with the same inputs"):
        with pytest.raises(DeploymentError, match=message):
            world.apply()
    world.given = {"index_password": "right"}
    assert "live" in world.apply() and tried == ["wrong", "right"]


def test_index_login_is_in_the_environment_of_uv_only(make_site, monkeypatch):
    site = make_site(index={"url": URL, "user": "deploy", "password": "x"})
    given = {}

    def run(site, argv, **options):
        given.update(options, argv=argv)
        raise DeploymentError("installing packages failed", log="error: No solution found", hint=options["hint"])

    monkeypatch.setattr(build_user, "run_as_build_user", run)
    with pytest.raises(DeploymentError) as caught:
        uv.Uv(site, Path("v"), Path("w"), PASSWORD).install("x")
    assert caught.value.hint.startswith("check the requirements")
    assert LOGIN.items() <= given["environment"].items() and given["secrets"] == [PASSWORD]
    assert PASSWORD not in " ".join(given["argv"])
    assert not LOGIN.keys() & uv.build_environment(site).keys(), "build commands must not have the login"
