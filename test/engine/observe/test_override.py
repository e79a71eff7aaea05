"""Settings that are replaced as soon as they are imported, in a build."""

import sys
from types import SimpleNamespace

import pytest
from django_formula.observe import override

MAKE = ["manage.py", "makemigrations", "--noinput", "--skip-checks", "shop"]


@pytest.mark.parametrize(
    ("argv", "version", "expected", "settings"),
    [
        (MAKE, (2, 2), ["manage.py", "makemigrations", "--noinput", "shop"], {"DATABASES", "SILENCED_SYSTEM_CHECKS"}),
        (MAKE, (3, 0), MAKE, {"DATABASES"}),
        (["manage.py", "compilemessages"], (2, 2), ["manage.py", "compilemessages"], set()),
    ],
)
def test_migrations_are_made_without_checks_and_database(monkeypatch, argv, version, expected, settings):
    monkeypatch.setattr(sys, "argv", [*argv])
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace(VERSION=version))
    values = override.of_build()
    assert (sys.argv, {*values}) == (expected, {"LOGGING_CONFIG", *settings})
    assert "urls.E007" in values.get("SILENCED_SYSTEM_CHECKS", ["urls.E007"])
