"""Which tests cover which family of the engine: the table of CONTRIBUTING.md has the files on hosts."""

import re
from pathlib import Path

CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"


def on_hosts() -> dict[str, list[str]]:
    """The files of test/hosts for each family, in the order of the table: ``{"proxy": ["proxy", "listener"], …}``."""
    section = CONTRIBUTING.read_text().partition("## Test one family")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
    return {family: re.findall(r"\w+", files) for family, files in rows}


def files_of(family: str) -> list[str]:
    """The files of test/hosts for one family.

    Raises ValueError where there is no such family.
    """
    files = on_hosts()
    if family not in files:
        raise ValueError(f"{family}: no such family; there are {', '.join(files)}")
    return files[family]


def covers(family: str, path: Path) -> bool:
    """Whether a file is of a family's tests, or helps tests."""
    if not path.name.startswith("test_"):
        return True
    name = path.stem.removeprefix("test_")
    if path.parent.name == "hosts":
        return name in files_of(family)
    return path.parent.name == family and path.parent.parent.name == "engine"
