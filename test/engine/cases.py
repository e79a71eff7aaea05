"""The cases of test/render: folders with a pillar.yaml and the files that are rendered from it."""

from pathlib import Path

import yaml

RENDER = Path(__file__).parents[1] / "render"
CASES = sorted(path.parent for path in RENDER.glob("*/pillar.yaml"))
#: Files of a case that are not rendered from its pillar.
_ABOUT = {"pillar.yaml", "facts.yaml", "configuration.json", "same.yaml"}


def kept(case: Path) -> dict[str, str]:
    """Return the rendered files of a case: those in its folder, and those that an earlier case has too (same.yaml)."""
    own = {str(path.relative_to(case)): path for path in case.rglob("*") if path.is_file()}
    shared = {name: RENDER / other for name, other in yaml.safe_load((case / "same.yaml").read_text()).items()}
    return {name: path.read_text() for name, path in {**own, **shared}.items() if name not in _ABOUT}


def unfolded(folder: Path) -> list[Path]:
    """Write each case whole below a folder; return the cases' folders."""
    for case in CASES:
        for name, text in kept(case).items():
            path = folder / case.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return [folder / case.name for case in CASES]
