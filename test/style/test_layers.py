"""Who imports whom in the engine: families in layers, as docs/internals/architecture.md has them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "_utils").glob("*.py"))
ARCHITECTURE = (ROOT / "docs/internals/architecture.md").read_text()
#: The families of each layer, the lowest first: the rows of the page's table.
LAYERS = [re.findall(r"`(\w+)`", row) for row in re.findall(r"(?m)^\| \d+ \| ([^|]+) \|", ARCHITECTURE)]
LAYER = {family: number for number, families in enumerate(LAYERS) for family in families}


def family(module: str) -> str:
    return module.split("_")[1]


def imports(path: Path) -> set[str]:
    """Return the modules of the engine that a module imports, within functions too."""
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names = plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name for name in names if (ROOT / f"_utils/{name}.py").exists()}


def test_imports_go_down():
    pairs = [(path.stem, name) for path in MODULES for name in sorted(imports(path))]
    assert [(one, other) for one, other in pairs if LAYER[family(other)] > LAYER[family(one)]] == []


def test_no_module_imports_itself_by_way_of_others():
    below = {path.stem: imports(path) for path in MODULES}
    while leaves := {name for name, names in below.items() if not names}:
        below = {name: names - leaves for name, names in below.items() if name not in leaves}
    assert below == {}


def test_page_names_every_family_that_exists():
    assert {family(path.stem) for path in MODULES} == LAYER.keys()


def test_systemctl_is_called_by_one_module():
    calls = [path.stem for path in sorted((ROOT / "_utils").glob("*.py")) if '["systemctl"' in path.read_text()]
    assert calls == ["django_host_unit"]
