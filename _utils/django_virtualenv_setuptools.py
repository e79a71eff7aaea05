"""Packages that import pkg_resources, which setuptools has until version 80, and do not require setuptools."""

import os
import re
from pathlib import Path

REQUIREMENT = "setuptools<81"
#: An import that every import of the module runs: it is not in a block that may handle its failure.
_IMPORT = re.compile(rb"^(import pkg_resources|from pkg_resources import)\b", re.MULTILINE)
#: Folders of modules that a running project does not import.
_OTHERS = ("test", "tests", "testing", "setuptools", "_distutils_hack", "_vendor", "vendor")
#: The most bytes of a module that are read: imports are at its top.
_TOP = 1 << 16


def needed_by(virtualenv: Path) -> str:
    """Return the file of a package in a virtualenv that imports pkg_resources; empty if none does, or it is there."""
    for packages in virtualenv.glob("lib/python3*/site-packages"):
        if (packages / "pkg_resources").is_dir():
            return ""
        for folder, folders, names in os.walk(packages):
            folders[:] = sorted(name for name in folders if name not in _OTHERS)
            for path in (Path(folder, name) for name in sorted(names) if name.endswith(".py")):
                if path.is_file() and _IMPORT.search(_top(path)):
                    return str(path.relative_to(packages))
    return ""


def _top(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_TOP)
