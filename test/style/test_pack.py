"""What hosts get of the engine is that of the tree: `_utils/django_engine.py`, and `django/digests`."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("pack", ROOT / "engine/pack.py")
assert _spec and _spec.loader
pack = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pack)


def test_packed_engine_is_that_of_the_tree():
    if pack.ENGINE.read_text() != pack.engine():
        pytest.fail("_utils/django_engine.py is not that of the tree; run: python3 engine/pack.py", pytrace=False)


def test_knowledge_is_that_of_the_rows():
    if pack.KNOWLEDGE.with_suffix(".json").read_text() != pack.knowledge():
        pytest.fail("knowledge.json is not that of knowledge.yaml; run: python3 engine/pack.py", pytrace=False)


def test_tables_of_the_engine_are_those_of_the_formula():
    if pack.TABLES.read_text() != pack.tables():
        pytest.fail("tables.json is not that of django/*.yaml; run: python3 engine/pack.py", pytrace=False)


def test_digests_are_those_of_the_files():
    if pack.DIGESTS.read_text() != "".join(pack.digests()):
        pytest.fail("django/digests is not true of the files; run: python3 engine/pack.py", pytrace=False)


def test_digests_have_every_module_state_and_template():
    names = {line.partition("  ")[2].rstrip("\n") for line in pack.digests()}
    found = [path for folder in ("_modules", "_states", "_utils", "django") for path in (ROOT / folder).rglob("*")]
    fetched = {
        path.relative_to(ROOT).as_posix() for path in found if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == fetched - {"django/digests"}


def test_packages_have_one_sentence_and_no_code():
    for path in pack.TREE.rglob("__init__.py"):
        (line,) = path.read_text().splitlines()
        assert line.startswith('"""') and line.endswith('."""'), path
