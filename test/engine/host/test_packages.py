"""Packages of the operating system."""

import pytest
from django_formula.host import commands, packages


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["git", "libmagic1"], set()),
        (["git", "awk", "libold1", "libnone1"], {"libold1", "libnone1"}),
        (["libheld1", "libgone1"], {"libgone1"}),
    ],
)
def test_package_that_another_one_provides_is_not_missing(monkeypatch, names, expected):
    lines = [
        "ii  libmagic1 (= 1:5.46-5)",
        "ii  x (= 2), awk:any",
        "rc  libold1",
        "ii  ",
        "hi  libheld1 (= 3)",
        "hc  libgone1",
    ]
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


@pytest.mark.parametrize(
    ("code", "printed", "expected"),
    [
        (0, "Package: ffmpeg\nVersion: 7\nDepends: libc6\n\nPackage: pandoc\n", {"ffmpeg", "pandoc"}),
        (0, "Package: ffmpeg\nDescription: as\n Package: pandoc\n\n", {"ffmpeg"}),
        (100, "", set()),
        (None, "", set()),
    ],
)
def test_packages_of_apts_lists(monkeypatch, code, printed, expected):
    argvs = []
    monkeypatch.setattr(
        packages.commands, "execute", lambda command: argvs.append(command.argv) or commands.Ended(code, printed, "")
    )
    assert packages.offered(["ffmpeg", "pandoc"]) == expected
    assert argvs == [["apt-cache", "--no-all-versions", "show", "--", "ffmpeg", "pandoc"]]
    assert packages.offered([]) == set() and len(argvs) == 1


def test_no_package_is_known_where_apt_is_not_there(monkeypatch):
    monkeypatch.setattr(packages.commands, "PATH", "/nonexistent")
    assert packages.offered(["ffmpeg"]) == set()
