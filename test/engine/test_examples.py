"""The pillars of examples/ and of test/projects are valid; tests on hosts apply them."""

from pathlib import Path

import django_pillar
import pytest
import yaml
from specimen import compiled

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "test/projects").glob("*.yaml"))
PILLARS = sorted((ROOT / "examples/pillars").glob("*.sls"))


@pytest.mark.parametrize("path", PILLARS, ids=lambda path: path.stem)
def test_a_pillar_is_valid(path: Path) -> None:
    schema, platforms = (
        yaml.safe_load((ROOT / "django" / name).read_text()) for name in ("schema.yaml", "platforms.yaml")
    )
    grains = {"os_family": "Debian", "osmajorrelease": 13, "init": "systemd"}
    result = django_pillar.compile(yaml.safe_load(path.read_text()), schema, platforms, grains)
    assert result["errors"] == [] and result["sites"]


def test_they_fit_on_one_host() -> None:
    sites = [name for path in PILLARS for name in yaml.safe_load(path.read_text())["django"]["sites"]]
    assert len(sites) == len(set(sites)) > 4


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_whole(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    assert {"about", "versions", "owner", "pillar", "pages"} <= recipe.keys()
    assert recipe.keys() <= {"about", "debian", "versions", "owner", "host", "pillar", "pages", "write", "read"}
    assert recipe["versions"] and all(isinstance(version, str) for version in recipe["versions"])
    site = {"repository": "/srv/x", "domains": [f"{path.stem}.example.org"], **recipe["pillar"]}
    assert compiled({path.stem: site})["errors"] == []
