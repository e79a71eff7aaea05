"""Programs of timers: archives of our modules, which Python runs without Salt."""

import functools
import io
import re
import zipfile
from pathlib import Path

#: Where our modules are. An archive has those that a source imports, loaded or not: it is equal for equal code.
_MODULES = Path(__file__).parent
#: Whether this runs in such a program, which makes no other one.
IS_PACKED = not _MODULES.is_dir()


@functools.cache
def packed(module: str, without: frozenset[str] = frozenset()) -> bytes:
    """Return a program as an archive that Python runs: a module and those that it imports; equal for equal code.

    Args:
        without: modules that it does not need, with those that only they import.
    """
    sources = {"__main__": f"import sys\nimport {module}\nsys.exit({module}.main(*sys.argv[1:]))\n"}
    names = [module]
    for name in names:  # grows meanwhile
        sources[name] = (_MODULES / f"{name}.py").read_text(encoding="utf-8")
        names += [one for one in dict.fromkeys(_imported(sources[name])) if one not in names and one not in without]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        for name, source in sources.items():
            members.writestr(zipfile.ZipInfo(f"{name}.py"), source)
    return archive.getvalue()


def _imported(source: str) -> list[str]:
    """Return the names of our modules that a source imports, also in a function, and by a name that it composes."""
    prefixes = re.findall(r"""import_module\(f["'](django_\w+_){""", source)
    composed = [path.stem for prefix in prefixes for path in sorted(_MODULES.glob(f"{prefix}*.py"))]
    return [*re.findall(r"^ *(?:import|from) (django_\w+)", source, re.MULTILINE), *composed]
