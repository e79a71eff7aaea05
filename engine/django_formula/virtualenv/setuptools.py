"""Packages that import a module which they do not require, since every environment had it once.

Until 2023 pip's own environment brought setuptools, whose pkg_resources is in it until version 80, and packaging.
"""

import os
import re
from pathlib import Path

#: The modules, and what has them.
MODULES = {"pkg_resources": "setuptools<81", "packaging": "packaging"}
#: An import that every import of the module runs: it is not in a block that may handle its failure.
IMPORT = "^(import|from) {module}([ .]|$)"
#: Folders of modules that a running project does not import.
_OTHERS = ("test", "tests", "testing", "setuptools", "_distutils_hack", "_vendor", "vendor")
#: The most bytes of a module that are read: imports are at its top.
_TOP = 1 << 16


def needed_by(virtualenv: Path) -> dict[str, str]:
    """Return the modules that a virtualenv lacks and a package in it imports, with the file of one that does."""
    found: dict[str, str] = {}
    for packages in virtualenv.glob("lib/python3*/site-packages"):
        absent = {module for module in MODULES if not (packages / module).is_dir()}
        patterns = {module: re.compile(IMPORT.format(module=module).encode(), re.MULTILINE) for module in absent}
        for folder, folders, names in os.walk(packages):
            folders[:] = sorted(name for name in folders if name not in _OTHERS)
            for path in (Path(folder, name) for name in sorted(names) if name.endswith(".py")):
                waiting = [module for module in patterns if module not in found]
                top = _top(path) if waiting and path.is_file() else b""
                found |= {one: str(path.relative_to(packages)) for one in waiting if patterns[one].search(top)}
    return found


def _top(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_TOP)
