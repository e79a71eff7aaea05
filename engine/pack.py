"""Write what hosts get of the engine: `python3 engine/pack.py` after any change in it, and after each merge or rebase.

* `engine/django_formula/knowledge/knowledge.json`: `knowledge.yaml` next to it, where Python has PyYAML. A bare host's
  has not, and `quickstart --inspect` runs there.
* `engine/django_formula/pillar/tables.json`: `schema.yaml`, `platforms.yaml` and `pythons.yaml` of `django`, without
  what people read: hosts would take a tenth of a second for them.
* `_utils/django_engine.py`: `engine/django_engine.py`, and the whole tree `engine/django_formula` as comments.
* `django/digests`: the digest of each file that a minion fetches from its master one by one, in the format of
  sha256sum, so that `sha256sum --check django/digests` compares it too.

None of them is edited or merged otherwise. See docs/decisions/0065 and 0100.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import django_engine

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "engine/django_formula"
LOADER = ROOT / "engine/django_engine.py"
ENGINE = ROOT / "_utils/django_engine.py"
DIGESTS = ROOT / "django/digests"
KNOWLEDGE = TREE / "knowledge/knowledge.yaml"
TABLES = TREE / "pillar/tables.json"
#: What minions fetch.
PATTERNS = ("_modules/*.py", "_states/*.py", "_utils/*.py", "django/**/*")


def knowledge() -> str:
    """Return the text of `knowledge.json`.

    Raises:
        ImportError: this Python has no PyYAML.
    """
    import yaml

    return f"{json.dumps(yaml.safe_load(KNOWLEDGE.read_text(encoding='utf-8')), indent=1, ensure_ascii=False)}\n"


def tables() -> str:
    """Return the text of `tables.json`.

    Raises:
        ImportError: this Python has no PyYAML.
    """
    import yaml

    names = ("schema", "platforms", "pythons")
    read = {name: yaml.safe_load((ROOT / f"django/{name}.yaml").read_text(encoding="utf-8")) for name in names}
    return f"{json.dumps(_plain(read), indent=0, ensure_ascii=False)}\n"


def _plain(value: Any) -> Any:
    """Return a table without descriptions and examples; an option may have these names too."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    told = {"description": str, "examples": list}
    return {key: _plain(one) for key, one in value.items() if not isinstance(one, told.get(key, ()))}


def engine() -> str:
    """Return the text of `_utils/django_engine.py` that is true of the tree as it is."""
    tree = django_engine.tree(str(TREE.parent))
    digest = f'DIGEST = "{django_engine.digest(tree)}"\n'
    loader = LOADER.read_text(encoding="utf-8").replace('DIGEST = ""\n', digest)
    return f"{loader}\n\n# Written by engine/pack.py.\n{django_engine.TREE}{tree}"


def digests() -> list[str]:
    """Return the lines of `django/digests` that are true of the files as they are."""
    files = {path for pattern in PATTERNS for path in ROOT.glob(pattern) if path.is_file()} - {DIGESTS}
    names = {path.relative_to(ROOT).as_posix(): path for path in files if "__pycache__" not in path.parts}
    return [f"{hashlib.sha256(names[name].read_bytes()).hexdigest()}  {name}\n" for name in sorted(names)]


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        KNOWLEDGE.with_suffix(".json").write_text(knowledge(), encoding="utf-8")
        TABLES.write_text(tables(), encoding="utf-8")
    ENGINE.write_text(engine(), encoding="utf-8")
    DIGESTS.write_text("".join(digests()), encoding="utf-8")
