"""Upgrades of distributions in place, as data: what each has before and after."""

import copy
from typing import Any

import yaml
from django_formula.pillar import compiler
from specimen import ROOT, contract

UPGRADES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "test/engine/distributions.yaml").read_text())


def platform(upgrade: dict[str, Any], at: int) -> dict[str, Any]:
    """The names of packages and paths before (0) or after (1) an upgrade."""
    grains = {"os_family": "Debian", "init": "systemd", **upgrade["grains"][at]}
    found = compiler.compile({"django": {}}, contract("schema.yaml"), contract("platforms.yaml"), grains)
    return copy.deepcopy(dict(found["platform"]))  # it shares its parts with the file, which is read once
