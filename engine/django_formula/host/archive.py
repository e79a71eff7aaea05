"""Programs of timers: archives of our modules, which Python runs without Salt."""

import functools
import hashlib
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from django_formula.host import commands, file

#: Where our modules are. An archive has those that a source imports, loaded or not: it is equal for equal code.
_PACKAGE = Path(__file__).parents[1]
#: Whether this runs in such a program, which makes no other one.
IS_PACKED = not _PACKAGE.is_dir()
#: What a source imports: of a family, of a module, and by a name that it composes.
_OF_FAMILY = re.compile(r"^ *from django_formula\.(\w+) import (\([^)]*\)|.*)", re.MULTILINE)
_OF_MODULE = re.compile(r"^ *from django_formula\.(\w+)\.(\w+) import", re.MULTILINE)
#: A file next to modules that a source reads, also where that is in an archive.
_DATA = re.compile(r"""get_data\(["']django_formula\.(\w+)["'], ["']([\w.]+)["']\)""")
_COMPOSED = re.compile(r"""import_module\(f["']django_formula\.(\w+)\.{""")

#: Has a program import from the open file of its archive: an apply may replace that while it runs.
_OWN = """import os
import sys
sys.path[0] = f"/proc/self/fd/{os.open(sys.path[0], os.O_RDONLY)}"
"""


@functools.cache
def packed(module: str, without: frozenset[str] = frozenset()) -> bytes:
    """Return a program as an archive that Python runs: a module and those that it imports; equal for equal code.

    Args:
        module: its whole name. Its `main` gets the arguments.
        without: modules that it does not need, with those that only they import.
    """
    package, _, name = module.rpartition(".")
    main = f"{_OWN}from {package} import {name}\nsys.exit({name}.main(*sys.argv[1:]))\n"
    sources: dict[str, str] = {}
    names = [module]
    for name in names:  # grows meanwhile
        sources[name] = _path(name).read_text(encoding="utf-8")
        imported = dict.fromkeys(_imported(sources[name]))
        names += [other for other in imported if other not in names and other not in without]
    packages = dict.fromkeys([_PACKAGE.name, *(name.rpartition(".")[0] for name in sources)])
    sources |= {f"{name}.__init__": _path(f"{name}.__init__").read_text(encoding="utf-8") for name in packages}
    data = {f"{family}/{name}" for source in sources.values() for family, name in _DATA.findall(source)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr(zipfile.ZipInfo("__main__.py"), main)
        for name, source in sources.items():
            members.writestr(zipfile.ZipInfo(f"{name.replace('.', '/')}.py"), source)
        for path in sorted(data):
            members.writestr(zipfile.ZipInfo(f"{_PACKAGE.name}/{path}"), (_PACKAGE / path).read_bytes())
    return archive.getvalue()


#: Adds the bytecode of each module to an archive, for the Python that runs this: it is used as it is, without a look at
#: the source, and by another version of Python not at all.
_COMPILE = """
import importlib.util, marshal, sys, zipfile
with zipfile.ZipFile(sys.argv[1], "a") as members:
    for name in [name for name in members.namelist() if name.endswith(".py")]:
        source = members.read(name)
        code = compile(source, f"{sys.argv[2]}/{name}", "exec", dont_inherit=True)
        head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
        members.writestr(zipfile.ZipInfo(f"{name}c"), head + marshal.dumps(code))
"""
PYTHON = Path("/usr/bin/python3")


def version(module: str) -> str:
    """Return what a compiled program is made of: the engine, and the Python of this host."""
    name = _PACKAGE.parent.name
    is_digest = re.fullmatch(r"[0-9a-f]{16,}", name)
    engine = name if is_digest else hashlib.sha256(packed(module)).hexdigest()
    return f"{engine[:32]} {os.path.realpath(PYTHON)}"


def install(module: str, path: Path) -> None:
    """Write a program with its bytecode, for what runs often: compiling it takes longer than all else that it does.

    Raises:
        DeploymentError: Python cannot compile it.
    """
    with tempfile.TemporaryDirectory(prefix="django-formula-") as folder:  # another apply may install the same one
        new = Path(folder) / path.name
        new.write_bytes(packed(module))
        argv = [str(PYTHON), "-I", "-c", _COMPILE, str(new), str(path)]
        commands.run(argv, doing=f"compiling {path.name}", timeout=120)
        file.write(path, new.read_bytes(), mode=0o644)  # it is our code alone


def is_whole(path: Path) -> bool:
    """Return whether a program is there, to its end."""
    return zipfile.is_zipfile(path)


def _path(name: str) -> Path:
    return _PACKAGE.parent / f"{name.replace('.', '/')}.py"


def _imported(source: str) -> Iterator[str]:
    """Yield the names of our modules that a source imports, also in a function, and by a name that it composes."""
    for family, name in _OF_MODULE.findall(source):
        yield f"{_PACKAGE.name}.{family}.{name}"
    for family, names in _OF_FAMILY.findall(source):
        for name in re.sub(r"#.*|[()]", "", names).split(","):
            if name.strip():
                yield f"{_PACKAGE.name}.{family}.{name.split()[0]}"
    for family in _COMPOSED.findall(source):
        paths = sorted((_PACKAGE / family).glob("*.py"))
        yield from (f"{_PACKAGE.name}.{family}.{path.stem}" for path in paths if path.stem[0] != "_")
