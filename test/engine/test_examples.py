"""The pillars of examples/ are valid; test/hosts/test_example_pillars.py applies them."""

from pathlib import Path

import django_pillar
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PILLARS = sorted((ROOT / "examples/pillars").glob("*.sls"))


@pytest.mark.parametrize("path", PILLARS, ids=lambda path: path.stem)
def test_a_pillar_is_valid(path: Path) -> None:
    schema, platforms = (
        yaml.safe_load((ROOT / "django" / name).read_text()) for name in ("schema.yaml", "platforms.yaml")
    )
    compiled = django_pillar.compile(
        yaml.safe_load(path.read_text()),
        schema,
        platforms,
        {"os_family": "Debian", "osmajorrelease": 13, "init": "systemd"},
    )
    assert compiled["errors"] == [] and compiled["sites"]


def test_they_fit_on_one_host() -> None:
    sites = [name for path in PILLARS for name in yaml.safe_load(path.read_text())["django"]["sites"]]
    assert len(sites) == len(set(sites)) > 4
