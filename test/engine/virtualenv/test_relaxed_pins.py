"""What gives way where requirements cannot be installed; uv is an index in a table that fails as uv 0.13.8 does."""

import json
import os
import re
from pathlib import Path

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import hints
from django_formula.process import build_user
from django_formula.virtualenv import interpreter as virtualenv_interpreter
from django_formula.virtualenv import relaxed_pins, versions_of_index, virtualenvs, wheels
from trees import write_tree

#: What uv prints of a build that fails, after its first line.
BACKEND = "  cause: The build backend returned an error\n  cause: Call to `setuptools.build_meta:__legacy__.x` failed\n"
NO_HEADER = BACKEND + "\n  Error: Please make sure the libxml2 and libxslt development packages are installed.\n"
NO_COMPILER = BACKEND + "\n  error: [Errno 2] No such file or directory: 'gcc'\n"
NOT_COMPILED = BACKEND + "\n  src/lxml/etree.c: error\n  error: command '/usr/bin/gcc' failed with exit code 1\n"
OLD_CYTHON = BACKEND + "\n  AttributeError: 'build_ext' object has no attribute 'cython_sources'\n"
OLDER_TOOLS = BACKEND + "\n  AttributeError: 'HTMLParser' object has no attribute 'unescape'\n"
NO_TOOLS = BACKEND + "\n  /build/x.cfg: Exception: an Error of its own at 0x1234\n"
OLD_TOOLS = (
    BACKEND + "\n  ImportError: cannot import name 'convert_path' from 'setuptools' (…/setuptools/__init__.py)\n"
)
OTHER_PYTHON = BACKEND + "\n  RuntimeError: Cannot install on Python version 3.11.2; only versions >=3.7,<3.11 are.\n"
#: Name → version → the day it was published, the file of its wheel for this Python or nothing, and how its build fails.
INDEX = {
    "django": {"3.2.4": ("2021-06-02", "py3-none-any", ""), "6.0": ("2026-01-01", "py3-none-any", "")},
    "lxml": {"4.6.3": ("2021-03-21", "", NO_HEADER), "4.9.1": ("2022-07-01", "cp311-cp311-linux", "")},
    "pillow": {
        **{"6.2.2": ("2020-01-02", "", NO_COMPILER), "8.2.0": ("2021-04-01", "", NO_COMPILER)},
        **{"9.2.0": ("2022-07-01", "cp311-cp311-linux", ""), "10.0.0": ("2023-07-01", "cp311-cp311-linux", "")},
    },
    "psycopg2": {"2.8.6": ("2020-09-06", "", NO_COMPILER), "2.9.9": ("2023-10-03", "", NO_COMPILER)},
    "allauth": {"0.39.1": ("2019-02-28", "", OLD_TOOLS), "65.13.0": ("2025-10-01", "py3-none-any", "")},
    "forms": {"1.7.2": ("2018-03-09", "", ""), "1.8.0": ("2019-03-01", "py3-none-any", "")},
    "yaml": {"5.4.1": ("2021-01-20", "", OLD_CYTHON), "6.0": ("2021-10-13", "cp311-cp311-linux", "")},
    "numba": {"0.56.4": ("2022-11-04", "", OTHER_PYTHON), "0.57.0": ("2023-05-01", "cp311-cp311-linux", "")},
    "numpy": {"1.19.5": ("2021-01-05", "", OLD_TOOLS), "1.23.2": ("2022-08-14", "cp311-cp311-linux", "")},
    "client": {
        **{"1.3": ("2018-01-01", "", NOT_COMPILED), "1.4": ("2019-01-01", "", NOT_COMPILED)},
        **{"2.2": ("2022-01-01", "", ""), "9.0": ("2026-01-01", "", "")},
    },
    "odd": {"1.0": ("2020-01-01", "", NO_TOOLS)},
    "speedups": {"1.0": ("2020-01-01", "", NOT_COMPILED), "1.1": ("2023-01-01", "cp311-cp311-linux", "")},
    "mysqlclient": {"2.2.8": ("2025-01-01", "", NO_COMPILER)},
    # Of these the versions that requirements pin are gone.
    "driver": {
        **{"8.0.5": ("2017-09-28", "py3-none-any", ""), "8.0.23": ("2021-01-18", "py3-none-any", "")},
        "26.1": ("2026-10-22", "py3-none-any", ""),
    },
    "parser": {"1.0": ("2017-01-01", "", ""), "1.3": ("2020-01-01", "", ""), "9.0": ("2026-01-01", "py3-none-any", "")},
    "sums": {"1.0": ("2017-01-01", "", ""), "1.4": ("2022-01-01", "", "")},
    "shifted": {"1.0": ("2017-01-01", "py3-none-any", ""), "7.0": ("2022-01-01", "py3-none-any", "")},
    # A version that replaces a pin depends on a newer one of another pin.
    "waits": {"3.0.1": ("2018-10-09", "py3-none-any", ""), "4.0.2": ("2021-12-01", "py3-none-any", "")},
    "web": {"3.7.3": ("2020-11-18", "", NO_COMPILER), "3.8.3": ("2022-09-21", "cp311-cp311-linux", "")},
    # Of these other packages require an older version.
    "drawn": {"1.4": ("2022-01-01", "cp311-cp311-linux", ""), "1.0": ("2020-01-01", "", NOT_COMPILED)},
    "woven": {"2.4": ("2022-01-01", "cp311-cp311-linux", ""), "2.0": ("2020-01-01", "", NOT_COMPILED)},
    "later": {"2.0": ("2024-01-01", "py3-none-any", ""), "2.4": ("2025-01-01", "py3-none-any", "")},
}
INDEX["setuptools"] = {f"{year - 1980}.0": (f"{year}-02-01", "py3-none-any", "") for year in range(2012, 2027)}
#: When the tools of builds did not run on this Python yet, and when they no longer had what old packages need.
TOOLS = ("2020-01-01", "2022-01-01")


class Index:
    """uv, and the index that it asks."""

    def __init__(self):
        self.installs: list[list[str]] = []
        self.asked = 0

    def run(self, site, argv, *, folder, **_options):
        if "venv" in argv:
            Path(argv[-1], "bin").mkdir()
            Path(argv[-1], "bin/python").write_text("")
            Path(argv[-1], ".lock").write_text("")
        if "compile" in argv:
            self.asked += 1
            self.compile(argv)
        elif "--requirement" in argv:
            self.installs.append(argv[5:])
            self.install(argv)
        return ""

    def compile(self, argv):
        only = [one.partition("=")[2] for one in argv if one.startswith("--only-binary=")]
        until = "".join(one.partition("=")[2] for one in argv if one.startswith("--exclude-newer="))
        text = ""
        for line in Path(argv[-1]).read_text().splitlines():
            parts = re.fullmatch(r"(\w+)(?:(>=|==|>|<)([^, ]+)(?:,<([\d.]+))?)?(?: ;.*)?", line).groups()
            name, how, version, below = parts
            self.refuse_unknown(name, version if how == "==" else "")
            every = [one for one, about in INDEX[name].items() if not until or about[0] <= until]
            found = [one for one in every if one == version or (how in (">=", ">") and numbers(one, version))]
            if how == ">":
                found = [one for one in found if one != version and not numbers(one, below)][::-1]
            if how in ("<", None):
                found = [one for one in every if not how or not numbers(one, version)][::-1]
            found = [one for one in found if name not in only or INDEX[name][one][1]]
            if until and not found:
                raise self.error(f"Because there are no versions of {name} and you require {name}, we can conclude …")
            if not found:
                raise self.error(f"Because {name}{how}{version} has no usable wheels and you require {line}, we can …")
            wheel = INDEX[name][found[0]][1]
            wheels = f'wheels = [{{ url = "https://x.org/a/{name}-{found[0]}-{wheel}.whl" }}]\n' if wheel else ""
            source = f'sdist = {{ url = "https://x.org/a.zip", upload-time = {INDEX[name][found[0]][0]}T01:02:03Z }}\n'
            text += f'[[packages]]\nname = "{name}"\nversion = "{found[0]}"\n{source}{wheels}\n'
        Path(argv[argv.index("--output-file") + 1]).write_text(text)

    def install(self, argv):
        until = argv[argv.index("--exclude-newer") + 1] if "--exclude-newer" in argv else ""
        days = dict(one.split("=")[1:] for one in argv if one.startswith("--exclude-newer-package="))
        overrides = argv[argv.index("--overrides") + 1] if "--overrides" in argv else ""
        versions = {}
        for path in [argv[argv.index("--requirement") + 1], *([overrides] if overrides else [])]:
            for line in re.findall(r"^\w.*", Path(path).read_text(), re.MULTILINE):
                name, version = re.match(r"(\w+)(?:\[\w+\])?(?: ?== ?)?([^ ;]*)", line).groups()
                versions[name.lower()] = version
        for name, version in versions.items():
            self.refuse_unknown(name, version)
            if name == "web" and version == "3.8.3" and versions.get("waits") == "3.0.1":
                text = "Because web==3.8.3 depends on waits>=4.0.0a3,<5.0 and you require web==3.8.3, we can conclude "
                text += (
                    "that you require waits>=4.0.0a3,<5.0.\n  And because you require waits==3.0.1, we can conclude …"
                )
                raise self.error(text)
            newest = [*INDEX[name]][-1]
            published, wheel, failure = INDEX[name][version or newest]
            if published > days.get(name, published):
                raise self.error(f"Because there is no version of {name}=={version} and you require it, we can …")
            if until and published > until and name not in days and version:
                text = (
                    f"Because there is no version of {name}=={version} and you require it, we can conclude that …\n\n"
                )
                text += f"hint: `{name}` was filtered by `exclude-newer` to only include packages uploaded before X. "
                raise self.error(text + f"The requested version, v{version}, was published at {published}T09:33:15Z.")
            limits = [Path(one.partition("=")[2]).read_text() for one in argv if one.startswith("--build-constraint=")]
            newest_tools = re.search(r"setuptools<=(\S+)", "".join(limits))
            tools = INDEX["setuptools"][newest_tools[1]][0] if newest_tools and failure == OLD_TOOLS else until
            if failure in (OLD_TOOLS, OLD_CYTHON) and tools:
                failure = "" if TOOLS[0] <= tools < TOOLS[1] else OLDER_TOOLS if tools < TOOLS[0] else failure
            if not wheel and failure:
                raise DeploymentError(
                    "installing packages failed", log=f"error: Failed to build `{name}=={version or newest}`\n{failure}"
                )

    def refuse_unknown(self, name, version):
        if name not in INDEX:
            raise self.error(f"Because {name} was not found in the package registry and you require {name}, we can …")
        if version and version not in INDEX[name]:
            text = (
                f"Because there is no version of {name}=={version} and you require {name}=={version}, we can conclude"
            )
            raise self.error(text)

    def error(self, text):
        return DeploymentError(
            "it failed", log=f"error: No solution found when resolving dependencies\n  cause: {text}"
        )


def numbers(one, version):
    return [int(part) for part in one.split(".")] >= [int(part) for part in re.findall(r"(?<![a-z])\d+", version)]


@pytest.fixture
def index(monkeypatch):
    index = Index()
    monkeypatch.setattr(virtualenv_interpreter, "path", lambda site: "/usr/bin/python3")
    monkeypatch.setattr(build_user, "run_as_build_user", index.run)
    monkeypatch.setattr(virtualenvs.servers, "requirements", lambda *_: [])
    return index


@pytest.fixture
def build(make_site, tmp_path, index):
    """Return a function: what gave way in the build of a virtualenv for these requirements."""

    def build(text, day="2021-06-30", **options):
        site = make_site(**options)
        source = write_tree(tmp_path / "source", {"requirements.txt": text})
        virtualenvs.build(site, source, ["requirements.txt"], "key", day=lambda: day)
        return virtualenvs.relaxed(site.virtualenvs / "key")

    return build


LXML, PILLOW = {"lxml": ["4.6.3", "4.9.1"]}, {"pillow": ["8.2.0", "9.2.0"]}


@pytest.mark.parametrize(
    ("text", "day", "versions", "until", "tools"),
    [
        ("lxml==4.6.3\nforms==1.7.2\nPillow==8.2.0 ; python_version > '3'\n", "", LXML | PILLOW, "", ""),
        ("speedups==1.0\nlxml==4.6.3\n", "", {"speedups": ["1.0", "1.1"]} | LXML, "", ""),
        ("client==1.3\nforms==1.7.2\n", "", {"client": ["1.3", "2.2"]}, "", ""),
        ("numba==0.56.4\nforms==1.7.2\n", "", {"numba": ["0.56.4", "0.57.0"]}, "", ""),
        ("numpy==1.19.5\ndjango\n", "", {"numpy": ["1.19.5", "1.23.2"]}, "", ""),
        ("allauth==0.39.1\nforms\n", "", {}, "", "2020-02-28"),
        ("allauth==0.39.1\nlxml==4.6.3\n", "", LXML, "", "2020-02-28"),
        ("yaml==5.4.1\n", "2021-02-01", {}, "2021-02-01", ""),
        ("yaml==5.4.1\n", "2019-02-01", {}, "2021-01-20", ""),
        ("yaml==5.4.1\ndjango==3.2.4\n", "2021-02-01", {}, "2021-06-02", ""),
        ("yaml==5.4.1\nforms==1.7.2\n", "2022-06-01", {"yaml": ["5.4.1", "6.0"]}, "", ""),
        ("yaml==5.4.1\nallauth==0.39.1\n", "2021-02-01", {}, "2021-02-01", ""),
        ("driver==8.0.22\nforms==1.7.2\n", "2021-01-02", {"driver": ["8.0.22", "8.0.23"]}, "", ""),
        ("parser[fast]==1.4\n", "2021-06-30", {"parser": ["1.4", "1.3"]}, "", ""),
        ("sums==1.2+cpu\n", "2021-06-30", {"sums": ["1.2+cpu", "1.4"]}, "", ""),
        ("web==3.7.3\nwaits==3.0.1\n", "", {"web": ["3.7.3", "3.8.3"], "waits": ["3.0.1", "4.0.2"]}, "", ""),
        ("drawn\nwoven\n", "", {"drawn": ["1.0", "1.4"], "woven": ["2.0", "2.4"]}, "", ""),
        ("driver==8.0.22\nlxml==4.6.3\n", "2021-06-30", {"driver": ["8.0.22", "8.0.23"]} | LXML, "", ""),
    ],
)
def test_the_kind_of_the_failure_decides_what_gives_way(build, text, day, versions, until, tools):
    tools = {"setuptools": tools} if tools else {}
    assert build(text, day) == {"versions": versions, "until": until, "tools": tools}


def test_requirements_that_can_be_installed_are_not_relaxed(build, index):
    assert build("django\nforms==1.7.2\n") == {} and index.asked == 0
    assert [argv[-1].rpartition("/")[2] for argv in index.installs] == ["requirements.txt"]


def test_all_pins_without_a_wheel_give_way_at_once(build, index):
    build("lxml==4.6.3\nPillow==8.2.0\nspeedups==1.0\nforms==1.7.2\n")
    assert len(index.installs) == 2 and index.asked == 2


def test_all_versions_that_the_index_lacks_give_way_at_once(build, index):
    found = build("driver==8.0.22\nforms==1.7.2\nsums==1.2\n")
    assert found["versions"] == {"driver": ["8.0.22", "8.0.23"], "sums": ["1.2", "1.4"]} and len(index.installs) == 2


@pytest.mark.parametrize(
    ("text", "day", "offered"),
    [
        ("driver==8.0.22\n", "", ["driver==8.0.23"]),
        ("driver==8.0.22 --hash=sha256:00\n", "2021-06-30", ["driver==8.0.23"]),
        ("later==2.3\n", "2021-06-30", ["later==2.4"]),
        ("shifted==4.0\n", "2021-06-30", ["shifted==7.0"]),
    ],
)
def test_a_version_that_may_be_another_packages_or_is_far_is_offered(build, index, text, day, offered):
    """The nearest version of a package that came to the index after the requirements may be another person's."""
    with pytest.raises(DeploymentError, match="there is no version of") as error:
        build(text, day)
    assert error.value.offered == {"python_packages": offered} and len(index.installs) == 1
    assert "the nearest versions that the index has are not taken unasked, since" in error.value.hint


def test_all_packages_that_the_index_lacks_are_named_with_what_leaves_them_out(build):
    listed = "forms==1.7.2\nhouse==1.0\nyard[garden]>=2  # ours\nfence @ https://git.example.org/fence.zip\n"
    with pytest.raises(DeploymentError) as error:
        build(listed, python_packages=["six"])
    never = ["house; sys_platform == 'none'", "yard; sys_platform == 'none'"]
    assert error.value.offered == {"python_packages": ["six", *never]}
    assert error.value.hint.startswith(
        "the package index has no packages house, yard: correct the requirements; or set"
    )
    assert "django:sites:blog:index to the index" in error.value.hint and "yard; sys_platform" in error.value.hint


@pytest.mark.parametrize("name", ["sums", "house"])
def test_a_version_that_a_distribution_has_built_is_left_out_and_not_replaced(build, index, name):
    with pytest.raises(DeploymentError) as error:
        build(f"{name}==1.1+ubuntu2\nforms==1.7.2\n")
    assert error.value.hint.startswith(f"the package index has no package {name} 1.1+ubuntu2: ")
    assert error.value.offered == {"python_packages": [f"{name}; sys_platform == 'none'"]} and len(index.installs) == 1


def test_an_index_that_refuses_the_login_lacks_no_package(build, monkeypatch, index):
    hint = "\nhint: An index URL (https://x.org/simple/) could not be queried (401 Unauthorized)."
    monkeypatch.setattr(
        index, "error", lambda text: DeploymentError("it failed", log=f"No solution found {text}{hint}")
    )
    with pytest.raises(DeploymentError) as error:
        build("house==1.0\n")
    assert not error.value.offered


def test_packages_of_debian_for_all_that_is_built_are_named_at_once(build, monkeypatch, index):
    install = index.install

    def failing(argv):
        try:
            install(argv)
        except DeploymentError as error:
            error.hint = hints.Hint("set", {"packages": ["gcc"]})
            raise

    monkeypatch.setattr(index, "install", failing)
    with pytest.raises(DeploymentError) as error:
        build("psycopg2==2.8.6\nmysqlclient==2.2.8\nforms==1.7.2\n")
    expected = ["default-libmysqlclient-dev", "gcc", "libc6-dev", "libpq-dev", "pkg-config", "python3-dev"]
    assert error.value.options["packages"] == expected
    assert relaxed_pins.lacking(error.value) == "psycopg2"


def test_extras_and_markers_of_a_pin_are_kept(make_site, tmp_path, index, monkeypatch):
    found = []
    listed = "lxml[html5] == 4.6.3 ; python_version > '3'  # pinned\n-c limits.txt\n"
    source = write_tree(tmp_path / "source", {"requirements.txt": listed, "limits.txt": "LXML==4.6.3\n"})

    def seen(site, argv, **options):
        if "--overrides" in argv:
            work = site.build.top / "requirements"
            found.extend((work / name).read_text() for name in (".relaxed.txt", "requirements.txt", "limits.txt"))
        return index.run(site, argv, **options)

    monkeypatch.setattr(build_user, "run_as_build_user", seen)
    virtualenvs.build(make_site(), source, ["requirements.txt"], "key")
    assert found == [
        "lxml[html5]==4.9.1; python_version > '3'\n",
        "lxml[html5] == 4.9.1 ; python_version > '3'  # pinned\n-c limits.txt\n",
        "LXML==4.9.1\n",
    ]


def fails(_argv):
    raise DeploymentError("it failed", log=f"error: Failed to build `lxml @ https://x.org/x`\n{NO_HEADER}")


@pytest.mark.parametrize(
    ("text", "options", "offered"),
    [
        ("psycopg2==2.8.6\n", {}, []),
        ("odd==1.0\n", {}, []),
        ("lxml==4.6.3\nPillow==6.2.2\n", {}, ["lxml==4.9.1", "pillow==9.2.0"]),
        ("lxml==4.6.3 --hash=sha256:00\nPillow==6.2.2 --hash=sha256:00\n", {}, ["lxml==4.9.1", "pillow==9.2.0"]),
        ("lxml==4.6.3\n", {"python_packages": ["lxml<5"]}, []),
        ("lxml==4.6.3\n", {"constraints": ["lxml<4.7"]}, []),
        ("lxml @ https://x.org/lxml-4.6.3.tar.gz\n", {}, []),
    ],
)
def test_what_only_a_person_decides_is_offered(build, monkeypatch, index, text, options, offered):
    if "@" in text:
        monkeypatch.setattr(index, "install", fails)
    with pytest.raises(DeploymentError) as error:
        build(text, "", **options)
    hint = error.value.hint
    assert (f"django:sites:blog:python_packages: {json.dumps(offered)}".replace('"', "'") in hint) == bool(offered), (
        hint
    )


POETRY = '[[package]]\nname = "{}"\nversion = "{}"\noptional = false\ngroups = ["main"]\n'
PINS = {"lxml": "4.6.3", "pillow": "6.2.2", "forms": "1.7.2"}


@pytest.mark.parametrize(
    ("lock", "text"),
    [
        ("poetry.lock", "".join(POETRY.format(*pin) for pin in PINS.items())),
        ("Pipfile.lock", json.dumps({"default": {name: {"version": f"=={pin}"} for name, pin in PINS.items()}})),
    ],
)
def test_all_pins_of_a_lock_without_a_wheel_are_offered_at_once(make_site, tmp_path, index, lock, text):
    source = write_tree(tmp_path / "source", {lock: text})
    with pytest.raises(DeploymentError) as error:
        virtualenvs.build(make_site(), source, [lock], "key")
    assert error.value.offered == {"python_packages": ["lxml==4.9.1", "pillow==9.2.0"]} and len(index.installs) == 1


def test_a_file_of_the_source_is_not_taken_for_a_converted_lock(make_site, tmp_path, index):
    source = write_tree(tmp_path / "source", {"requirements.txt": "lxml==4.6.3\n", ".requirements.txt.txt": "forms\n"})
    site = make_site()
    virtualenvs.build(site, source, ["requirements.txt"], "key")
    assert virtualenvs.relaxed(site.virtualenvs / "key")["versions"] == {"lxml": ["4.6.3", "4.9.1"]}


def test_a_lock_is_built_with_the_tools_of_its_day(build):
    expected = {"versions": {}, "until": "", "tools": {"setuptools": "2020-02-28"}}
    assert build("allauth==0.39.1 --hash=sha256:00\n") == expected


def test_tools_of_a_build_do_not_bind_what_the_requirements_want_of_them(build):
    assert build("allauth==0.39.1\nsetuptools==46.0\n")["tools"] == {"setuptools": "2020-02-28"}


@pytest.mark.parametrize("day", ["", "2999-01-01", "soon"])
def test_without_a_usable_day_the_failure_is_that_of_the_build(build, monkeypatch, day):
    monkeypatch.delitem(INDEX["yaml"], "6.0")
    with pytest.raises(DeploymentError) as error:
        build("yaml==5.4.1\n", day)
    assert "cython_sources" in error.value.log


def test_a_build_that_does_not_depend_on_its_tools_is_tried_twice(build, index):
    with pytest.raises(DeploymentError):
        build("odd==1.0\n")
    assert len(index.installs) == 3  # as written, with older tools, as of the day


def test_the_failure_as_written_is_reported_where_no_day_helps(build, monkeypatch):
    monkeypatch.setitem(INDEX["allauth"], "0.39.1", ("2019-02-28", "", BACKEND + "\n  ValueError: no version\n"))
    with pytest.raises(DeploymentError) as error:
        build("allauth==0.39.1\ndjango==3.2.4\n", "2020-01-01")
    assert "ValueError: no version" in error.value.log and "exclude-newer" not in error.value.log


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (
            "error: No solution found when resolving dependencies\n  cause: Because a==1 depends on b>=2 and …",
            "unsolved",
        ),
        ("error: No solution found …\n  cause: Because there is no version of a==1 and you require a==1, we …", "gone"),
        (
            "error: No solution found …\n  cause: Because there is no version of a[x]==1 and you require a[x]==1, …",
            "gone",
        ),
        ("error: No solution found …\n  cause: Because there are no versions of a and you require a, we …", ""),
        ("error: No solution found …\n  cause: Because a was not found in the package registry and you …", "unknown"),
        (
            "error: No solution found …\n  cause: Because a was not found in the package registry …\n401 Unauthorized",
            "",
        ),
        (
            "error: No solution found …\n  cause: Because the requested Python version (>=3.11.2) does not satisfy "
            "Python>=3.7,<3.11 and a==1 depends on Python>=3.7,<3.11, we can conclude that a==1 cannot be used.",
            "python",
        ),
        (
            "error: No solution found …\n  cause: Because a==1 has no wheels with a matching Python ABI tag (`cp313`)"
            " and you require a==1, we can conclude that your requirements are unsatisfiable.",
            "python",
        ),
        (
            "error: No solution found …\n  cause: Because a==1 has invalid metadata and you require a==1, we can …",
            "python",
        ),
        (
            "error: No solution found …\n\nhint: `b` was filtered by `exclude-newer` to only include packages …",
            "filtered",
        ),
        (f"error: Failed to build `a==1`\n{NO_COMPILER}", "missing"),
        (f"error: Failed to build `a @ git+https://x.org/a`\n{NOT_COMPILED}", "uncompiled"),
        (
            f"error: Failed to build `a==1`\n{BACKEND}\n  fatal error: longintrepr.h: No such file or directory",
            "uncompiled",
        ),
        (f"error: Failed to build `a==1`\n{BACKEND}\n  error in a setup command: use_2to3 is invalid.", "build"),
        ("error: Failed to download and build `a==1`\n  cause: Hash mismatch for `a==1`", ""),
        ("error: Failed to fetch: `https://pypi.org/simple/a/`\n  cause: error sending request for url", ""),
    ],
)
def test_failures_have_kinds(log, expected):
    assert relaxed_pins.failure(log)[0] == expected


def test_an_answer_that_is_not_of_packages_is_nothing():
    answer = [
        ["a", "1", "a-1-py3-none-any.whl"],
        ["b; import os", "1", ""],
        ["c", "1 --pre", ""],
        ["d", "2", "../d.whl"],
    ]
    assert dict(versions_of_index._versions(answer)) == {"a": ("1", "a-1-py3-none-any.whl", ""), "d": ("2", "", "")}
    assert dict(versions_of_index._versions({"a": "1"})) == {} == dict(versions_of_index._versions([["a", 1]]))
    assert not versions_of_index.is_pin("a", ["1", "", "\n-r /etc/passwd"])
    assert not versions_of_index.is_pin("a b", ["1", "", ""])


# Wheels for another Python: nothing is installed


def test_packages_without_wheels_for_another_python_are_found(make_site, tmp_path, index, monkeypatch):
    """Only the compiled ones are a problem: those of Python alone are built of their source again."""
    site, infos = (
        make_site(),
        {"lxml-4.6.3": "cp311-cp311-linux", "forms-1.7.2": "py3-none-any", "yaml-6.0": "cp39-abi3-x"},
    )
    for name, tag in infos.items():
        write_tree(tmp_path / f"venv/lib/python3.11/site-packages/{name}.dist-info", {"WHEEL": f"Tag: {tag}\n"})
    asked, run = [], index.run
    monkeypatch.setattr(
        build_user, "run_as_build_user", lambda *given, **more: asked.append(given[1]) or run(*given, **more)
    )
    (lacking,) = wheels.without(site, tmp_path / "venv", "3.13", [])
    assert lacking == ("lxml", "4.6.3", "it has no wheel for Python 3.13, and is compiled", "4.9.1")
    assert len(asked) == 2 and all("--python-version=3.13" in argv for argv in asked) and index.installs == []
    assert not os.path.lexists(f"{site.build}/wheels")


def test_package_for_other_pythons_is_found(make_site, tmp_path, index, monkeypatch):
    write_tree(tmp_path / "venv/lib/python3.11/site-packages/numba-0.56.4.dist-info", {"WHEEL": "Tag: cp311-x-y\n"})
    text = "Because numba==0.56.4 depends on Python>=3.7,<3.11 and you require it, …"
    compile, failed = index.compile, [text]
    monkeypatch.setattr(index, "compile", lambda argv: index.fail(failed.pop()) if failed else compile(argv))
    index.fail = lambda text: (_ for _ in ()).throw(index.error(text))
    (lacking,) = wheels.without(make_site(), tmp_path / "venv", "3.13", [])
    assert lacking == ("numba", "0.56.4", "it is not for Python 3.13", "0.57.0")
