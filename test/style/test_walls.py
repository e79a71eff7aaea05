"""The mistake that root follows a path of others cannot be written: types refuse it, and ways around them are found."""

import ast
import functools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import parsed
import pytest

ROOT = Path(__file__).parent.parent.parent

#: What a path is opened, read or changed by.
_OPENS = re.compile(
    r"^(open|Path|pathlib\.Path|os\.(?!path\.(join|basename|dirname)|geteuid|getuid|getpid).*|shutil\..*|sqlite3\..*)$"
)
#: The folders of a site whose entries others decide, as `site.sites.Site` names them.
FOLDERS = ("build", "database", "log", "media", "shared")
MISUSES = """\
import os
import shutil
from pathlib import Path
from django_formula.site.sites import Site

def misuse(site: Site) -> None:
{lines}
"""


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """The formula's modules, and the code of each."""
    folders = ("engine/django_formula", "_modules", "_states", "_runners", "_pillar")
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert len(paths) > 300
    return {path: parsed.tree(path) for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "open(site.{folder})",
        "os.chown(site.{folder}, 0, 0)",
        "shutil.rmtree(site.{folder})",
        "Path(site.{folder})",
        "(site.{folder} / 'x').read_text()",
        "(site.{folder} / 'x').mkdir()",
        "os.path.realpath(site.{folder} / 'x')",
    ],
)
def test_types_refuse_a_path_of_others(tmp_path, line):
    lines = [f"    {line.format(folder=folder)}" for folder in FOLDERS]
    (tmp_path / "misuse.py").write_text(MISUSES.format(lines="\n".join(lines)))
    argv = ["mypy", "--config-file", str(ROOT / "pyproject.toml"), str(tmp_path / "misuse.py")]
    environment = os.environ | {"MYPYPATH": str(ROOT / "engine")}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    told = set(re.findall(r"misuse\.py:(\d+): error: ", done.stdout))
    assert told == {str(number) for number in range(7, 7 + len(FOLDERS))}, done.stdout


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def names_others(node: ast.AST) -> bool:
    """Whether an expression has a folder of others in it, or the source of a release."""
    return any(
        (isinstance(part, ast.Attribute) and part.attr in FOLDERS)
        or (isinstance(part, ast.Attribute) and part.attr == "path" and ast.unparse(part.value) in ("source", "tree"))
        for part in ast.walk(node)
    )


def laundered(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that open a path which was made of the text of one of others."""
    for call in calls(tree):
        if _OPENS.match(ast.unparse(call.func)):
            texts = [part for argument in call.args for part in ast.walk(argument) if _is_text(part)]
            if any(names_others(text) for text in texts):
                yield call


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and ast.unparse(node.func) == "str")


def test_nothing_opens_the_text_of_a_path_of_others():
    calls_ = [(module, call) for module, tree in trees().items() for call in laundered(tree)]
    assert [f"{module.name}:{call.lineno}: {ast.unparse(call)}" for module, call in calls_] == []


@pytest.mark.parametrize(
    "line",
    [
        "open(str(site.media / 'x'))",
        "os.stat(f'{site.shared}/x')",
        "Path(str(site.log)).read_text()",
        "os.listdir(str(site.build))",
    ],
)
def test_the_text_of_a_path_of_others_is_found(line):
    assert list(laundered(ast.parse(line)))


def test_root_parses_no_database():
    """SQLite files of a site are opened by programs that run as its user."""
    importing = {
        module.name
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        if "sqlite3" in {name.name for name in node.names}
    }
    assert importing == set()


def test_only_one_module_works_by_descriptors_of_folders():
    """``dir_fd`` is needed only in trees that other users control, which only `untrusted.foreign` opens."""
    found = [
        f"{module.name}:{call.lineno}"
        for module, tree in trees().items()
        if f"{module.parent.name}/{module.stem}" not in {"untrusted/foreign", *BY_DESCRIPTOR}
        for call in calls(tree)
        if any(keyword.arg in ("dir_fd", "src_dir_fd", "dst_dir_fd") for keyword in call.keywords)
    ]
    assert found == []


#: Modules that look at the way to a path, read one file or change the owners of a tree by descriptors: each says why.
BY_DESCRIPTOR = {
    "proxy/page",
    "source/reader",
    "source/submodule",
    "untrusted/handover",
    "untrusted/move",
}
