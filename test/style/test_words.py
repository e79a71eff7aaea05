"""The project's texts use none of the words that `words.py` lists."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _module(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


words, style = _module("words"), _module("test_style")
#: `words.py` quotes the words; the lock files are written by other programs.
QUOTES = ("test/style/words.py", "test/style/test_words.py", "test/hosts/locks/")
TEXTS = [
    name
    for name in style.files(
        *(
            "engine/*.py",
            "laptop/*.py",
            "_utils/*.py",
            "_modules/*.py",
            "_states/*.py",
            "_runners/*.py",
            "_pillar/*.py",
            "django/*",
            "examples/*",
            "bench/*",
            "test/*",
            "docs/*.md",
        ),
        *("*.md", "pillar.example", "pyproject.toml", "quickstart", "quickstart.py"),
    )
    if not name.startswith((*QUOTES, style.PACKED))
]


def test_texts_have_plain_words():
    found = {name: words.found((ROOT / name).read_text(errors="replace")) for name in TEXTS}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("# Somebody else has the lock.", "Somebody"),
        ("def test_what_was_held_back_is_released():", "held back"),
        ('receipt = changes["receipt"]', "receipt"),
        ("The health page is not well.", "not well"),
    ],
)
def test_word_is_found(line, word):
    (found,) = words.found(f"first line\n{line}")
    assert found.startswith(f"2: {word!r} (")


@pytest.mark.parametrize(
    "line", ['changes["receipt"]', "| `held_back` | releases on hold |", "release.update(receipt=report)", '"nobody"']
)
def test_key_of_data_is_not_found(line):
    assert words.found(line) == []
