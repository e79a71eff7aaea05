"""Packages of the operating system."""

import pytest
from django_formula.host import commands, packages


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["git", "libmagic1"], set()),
        (["git", "awk", "libold1", "libnone1"], {"libold1", "libnone1"}),
    ],
)
def test_package_that_another_one_provides_is_not_missing(monkeypatch, names, expected):
    lines = ["ii  libmagic1 (= 1:5.46-5)", "ii  x (= 2), awk:any", "rc  libold1", "ii  "]
    monkeypatch.setattr(commands, "run", lambda argv, **_options: "\n".join(lines))
    assert packages.missing(names, ["git", "mawk"]) == expected


def test_no_program_is_run_where_all_are_installed(monkeypatch):
    monkeypatch.setattr(commands, "run", pytest.fail)
    assert packages.missing(["git"], ["git", "mawk"]) == set()


@pytest.mark.parametrize(
    ("comment", "pillar", "expected"),
    [
        (
            "E: Unable to locate package libnope",
            {"sites": {"blog": {"packages": ["libnope"]}, "shop": {}}},
            "correct django:sites:blog:packages, or add the repository that has libnope to apt's sources",
        ),
        (
            "E: Package 'libnope' has no installation candidate",
            {"sites": {"blog": None}, "defaults": {"packages": ["libnope"]}},
            "correct django:defaults:packages, or add the repository that has libnope to apt's sources",
        ),
        ("E: Unable to locate package nginx", {"sites": {}}, "add the repository that has nginx to apt's sources"),
        ("E: Could not get lock /var/lib/dpkg/lock", {"sites": {"blog": {"packages": ["x"]}}}, ""),
    ],
)
def test_hint_names_the_key_when_apt_does_not_find_a_package(comment, pillar, expected):
    assert packages.hint(comment, pillar).strip() == expected
