"""The package index of a site: what uv and pip are told, and where the password is kept."""

import stat
from pathlib import Path

import django_host_command
import django_virtualenv
import django_virtualenv_index
import django_wall_build
import pytest
from django_host_command import DeploymentError

URL = "https://pypi.example.org/simple"
PASSWORD = "p@ss/word:1"
INDEX = {"url": URL, "user": "deploy", "password": {"pillar": "django:sites:blog:index:password"}, "only": True}
NONE = {"url": None, "user": None, "password": None, "only": True}
LOGIN = {"UV_INDEX_FORMULA_USERNAME": "deploy", "UV_INDEX_FORMULA_PASSWORD": PASSWORD}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """The machine of the tests has no proxy, authority or index of its own."""
    for name in django_host_command.network_environment():
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
        (NONE, {"UV_INDEX_OWN_PASSWORD": "x", "OTHER": "y"}, {"UV_INDEX_OWN_PASSWORD": "x"}),
    ],
)
def test_what_uv_is_told(monkeypatch, index, host, expected):
    for name, value in host.items():
        monkeypatch.setenv(name, value)
    assert django_virtualenv_index.for_uv(index, PASSWORD) == expected


@pytest.mark.parametrize(
    ("index", "host", "expected"),
    [
        (None, {}, {}),
        (NONE, {"UV_DEFAULT_INDEX": "a", "UV_INDEX": "b"}, {"PIP_INDEX_URL": "a", "PIP_EXTRA_INDEX_URL": "b"}),
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
def test_what_pip_is_told(monkeypatch, index, host, expected):
    for name, value in host.items():
        monkeypatch.setenv(name, value)
    assert django_virtualenv_index.for_pip(index, PASSWORD) == expected


def test_the_password_is_kept_for_the_verbs_and_masked(world):
    world.options = {"index": {"url": URL, "user": "deploy", "password": PASSWORD}}
    world.given = {"index_password": PASSWORD}
    assert "index" in world.apply()["site"]
    file = world.site.secrets / ".index_password"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (PASSWORD, 0o600)
    assert world.apply() == {}
    by_hand = world.deployment()
    world.given = {}
    assert by_hand.index_password == world.deployment().index_password == PASSWORD
    assert PASSWORD in by_hand.masked()

    world.given = {"index_password": "another"}
    assert world.apply() == {"site": {"index": "password kept"}} and file.read_text() == "another"
    world.options, world.given = {}, {}
    assert world.apply()["site"]["index"] == "password removed" and not file.exists()
    assert world.deployment().index_password is None


def test_another_password_tries_again_what_has_failed(world, monkeypatch):
    world.options = {"index": {"url": URL, "user": "deploy", "password": "x"}}
    world.given = {"index_password": "wrong"}
    asked = []

    def build(site, source, files, key, password):
        asked.append(password)
        if password == "wrong":
            raise DeploymentError("installing packages failed")
        world.build(site, source, files, key, password)

    monkeypatch.setattr(django_virtualenv, "build", build)
    for message in ("virtualenv: installing packages failed", "has failed before"):
        with pytest.raises(DeploymentError, match=message):
            world.apply()
    world.given = {"index_password": "right"}
    assert "live" in world.apply() and asked == ["wrong", "right"]


@pytest.mark.parametrize(
    ("says", "hint"),
    [
        ("HTTP status client error (401 Unauthorized) for url", "the package index wants another login"),
        ("cause: invalid peer certificate: UnknownIssuer", "the index has an authority that is not"),
        ("error: No solution found", "look at the requirements"),
    ],
)
def test_uv_gets_the_login_by_its_environment(make_site, monkeypatch, says, hint):
    site = make_site(index={"url": URL, "user": "deploy", "password": "x"})
    seen = {}

    def run(site, argv, **options):
        seen.update(options, argv=argv)
        raise DeploymentError("installing packages failed", log=says, hint=options["hint"])

    monkeypatch.setattr(django_wall_build, "run", run)
    with pytest.raises(DeploymentError) as caught:
        django_virtualenv._Uv(site, Path("v"), Path("w"), PASSWORD).install("x")
    assert caught.value.hint.startswith(hint)
    assert LOGIN.items() <= seen["environment"].items() and seen["secrets"] == [PASSWORD]
    assert PASSWORD not in " ".join(seen["argv"])
    assert not LOGIN.keys() & django_virtualenv.build_environment(site).keys(), "build commands get no login"
