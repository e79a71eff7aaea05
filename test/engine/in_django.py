"""Django for tests of what runs inside a site's virtualenv: virtualenvs made once, with the pins of pyproject.toml."""

import fcntl
import functools
import os
import subprocess
import tomllib
from pathlib import Path

from specimen import ROOT

#: Groups of pyproject.toml: a Django of today, and one without defaults in the database.
DJANGOS = ("django", "django-without-db-default")


@functools.cache
def python(group: str) -> str:
    """The interpreter of a virtualenv with a group's packages."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"][group]
    folder = Path(os.environ["DJANGO_FORMULA_CACHE"]) / "django" / requirements[0]
    folder.parent.mkdir(exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".compiled").exists():
            install = ["uv", "pip", "install", "--quiet", "--compile-bytecode"]
            for argv in (
                ["uv", "venv", "--quiet", "--clear", "--python", "/usr/bin/python3", str(folder)],
                [*install, "--python", f"{folder}/bin/python", *requirements],
            ):
                subprocess.run(argv, check=True)
            (folder / ".compiled").touch()
    return f"{folder}/bin/python"
