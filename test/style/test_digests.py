"""`django/digests` is true of the files that minions fetch from their master."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("digests", ROOT / "django/digests.py")
assert _spec and _spec.loader
digests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(digests)


def test_digests_are_those_of_the_files():
    if digests.DIGESTS.read_text() != "".join(digests.lines()):
        pytest.fail("django/digests is not true of the files; run: python3 django/digests.py", pytrace=False)


def test_digests_have_every_module_state_and_template():
    names = {line.partition("  ")[2].rstrip("\n") for line in digests.lines()}
    found = [path for folder in ("_modules", "_states", "_utils", "django") for path in (ROOT / folder).rglob("*")]
    fetched = {
        path.relative_to(ROOT).as_posix() for path in found if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == fetched - {"django/digests", "django/digests.py"}
