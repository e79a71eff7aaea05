"""Files of changes/ have the form of which towncrier makes the next version of CHANGELOG.md."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
TYPES = [about["directory"] for about in SETTINGS["type"]]
CHANGES = sorted((ROOT / SETTINGS["directory"]).glob("*.md"))


@pytest.mark.parametrize("change", CHANGES, ids=lambda path: str(path.stem))
def test_change_has_the_form(change):
    assert re.fullmatch(rf"[a-z0-9]+(-[a-z0-9]+)*\.({'|'.join(TYPES)})\.md", change.name), "<what>.<type>.md"
    text = change.read_text()
    lines = text.splitlines()
    assert text == "\n".join([*lines, ""]) and all(line == line.strip() for line in lines)
    assert lines and max(map(len, lines)) <= 118  # two more when they are assembled
    assert re.match(r"[A-Z`]", text) and re.search(r"([.:]|\.md(#[\w-]+)?\))\n$", text), (
        "sentences, or a link at the end"
    )
    assert "- " not in [line[:2] for line in lines], "towncrier adds the bullet"


def test_changes_are_assembled(tmp_path):
    """Each under its type's heading, before the version that is the newest now; other names are refused."""
    built = ["towncrier", "build", "--keep", "--version", "99.0", "--date", "2099-01-01"]
    for name in ("pyproject.toml", "CHANGELOG.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    folder = tmp_path / SETTINGS["directory"]
    folder.mkdir()
    for path in [*CHANGES, ROOT / SETTINGS["template"]]:
        (folder / path.name).write_text(path.read_text())
    (folder / "host-example.fixed.md").write_text("One line,\nand another.\n")
    (folder / "host-example.ids.md").write_text("`one` is now `other`.\n")
    subprocess.run(built, cwd=tmp_path, check=True)
    before, mark, versions = (ROOT / "CHANGELOG.md").read_text().partition("<!-- towncrier release notes start -->\n\n")
    head, title, body = (tmp_path / "CHANGELOG.md").read_text().partition("## 99.0 - 2099-01-01\n\n")
    assert head == before + mark and title
    assert body.endswith(f"\n\n{versions}") and "\n\n\n" not in body and "=" * 9 not in body
    body = body.removesuffix(versions)
    headings = re.findall(r"^### (.+)$", body, re.MULTILINE)
    assert headings == [about["name"] for about in SETTINGS["type"] if about["name"] in headings]
    assert body.count("\n- ") == len(CHANGES) + 2
    assert "\n- One line,\n  and another.\n" in body.partition("### Fixed\n")[2].partition("\n### ")[0]
    (folder / "host-example.feature.md").write_text("A type that does not exist.\n")
    refused = subprocess.run(built, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert refused.returncode and "host-example.feature.md" in refused.stderr
