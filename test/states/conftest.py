"""Salt in this process: without a minion, without root, with files in a temporary folder only."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import django_engine
import jinja2
import played_host
import pytest
import salt.config
import salt.loader
import salt.loader.lazy
import salt.utils.event
from django_formula.host import users as host_users
from django_formula.host.outcome import Outcome
from django_formula.release import console as release_console
from django_formula.site import sites
from django_formula.watch import spool
from saltfactories.utils.functional import Loaders
from specimen import make_site, own_host
from world import kept_templates, world

__all__ = ["kept_templates", "loaders", "make_site", "own_host", "world"]

ROOT = Path(__file__).parent.parent.parent
GRAINS = {"os": "Debian", "os_family": "Debian", "osmajorrelease": 12, "osrelease": "12", "init": "systemd"}

#: The id of the last state.
OUTCOME = "All of it has succeeded"

MakeLoaders = Callable[..., "UnitLoaders"]


#: Templates and modules compiled in this process: each apply compiles the same ones.
COMPILED: dict[Any, Any] = {}


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Compile each template and each module once, for all tests."""
    of_template, of_module = jinja2.Environment.compile, SourceFileLoader.source_to_code

    def template(self: Any, source: Any, name: Any = None, filename: Any = None, *more: Any, **named: Any) -> Any:
        key = (type(self), self.trim_blocks, self.lstrip_blocks, source, name, *more, *named.items())
        if key not in COMPILED:
            COMPILED[key] = of_template(self, source, name, filename, *more, **named)
        return COMPILED[key]

    def module(self: Any, data: Any, path: str, **named: Any) -> Any:
        key = (data, Path(path).name)
        if key not in COMPILED:
            COMPILED[key] = of_module(self, data, path, **named)
        return COMPILED[key]

    with (
        mock.patch.object(jinja2.Environment, "compile", template),
        mock.patch.object(SourceFileLoader, "source_to_code", module),
    ):
        yield


@pytest.fixture(scope="session", autouse=True)
def packed_engine() -> None:
    """What renders has the packed engine: the modules of this process, where it is that of the tree."""
    digest = django_engine.digest(django_engine.tree(str(ROOT / "engine")))
    assert f'DIGEST = "{digest}"' in (ROOT / "_utils/django_engine.py").read_text(), "run: python3 engine/pack.py"


@pytest.fixture(scope="session", autouse=True)
def sorted_once() -> Iterator[None]:
    """List the files in folders of modules once, for all of Salt's loaders."""
    known: dict[Any, Any] = {}
    refresh = salt.loader.lazy.LazyLoader._refresh_file_mapping

    def looked_up(self: Any) -> None:
        folders = tuple((path, *os.listdir(path)) for path in self.module_dirs if os.path.isdir(path))
        key = (folders, tuple(self.static_modules), tuple(sorted(self.disabled)), tuple(self.suffix_map))
        if key in known:
            mapping, self.suffix_map, self.suffix_order = map(copy.copy, known[key])
            self.file_mapping = mapping
        else:
            refresh(self)
            known[key] = tuple(map(copy.copy, (self.file_mapping, self.suffix_map, self.suffix_order)))

    with mock.patch.object(salt.loader.lazy.LazyLoader, "_refresh_file_mapping", looked_up):
        yield


@cache
def grains_of_this_machine() -> dict[str, Any]:
    return dict(salt.loader.grains(salt.config.minion_config(None)))


class UnitLoaders(Loaders):
    """Loaders that start quickly: grains and pillar are given, the modules are in module_dirs and not synced."""

    def __init__(self, opts: dict[str, Any], grains: Mapping[str, Any]):
        self.given = grains
        with mock.patch.object(Loaders, "modules"):
            super().__init__(opts)

    def refresh_pillar(self) -> None:
        self.opts["pillar"] = self._original_opts["pillar"]

    @property
    def grains(self) -> dict[str, Any]:
        return grains_of_this_machine() | dict(self.given)


@pytest.fixture
def loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeLoaders:
    """Make Salt's loaders for a minion with this pillar: `loaders({...}).states.django.live(name="blog", test=True)`.

    `loaders(pillar, grains={...})` changes single grains of Debian 12, other options are the minion's configuration.
    Do not change loaders afterwards: make other ones for another pillar.
    """
    # Without a minion there is no event bus, and firing an event waits a second for it.
    monkeypatch.setattr(salt.utils.event, "get_event", mock.Mock(side_effect=OSError("no event bus")))
    count = 0

    def make(
        pillar: Mapping[str, Any] | None = None, grains: Mapping[str, Any] | None = None, **options: Any
    ) -> UnitLoaders:
        nonlocal count
        count += 1
        root = tmp_path / f"minion{count}"
        folders = {name: root / name for name in ("cache", "pki", "sock", "extension_modules", "pillar")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        opts = salt.config.minion_config(None)
        opts.update(
            id="unit",
            file_client="local",
            root_dir=str(root),
            conf_file=str(root / "minion"),
            cachedir=str(folders["cache"]),
            pki_dir=str(folders["pki"]),
            sock_dir=str(folders["sock"]),
            extension_modules=str(folders["extension_modules"]),
            file_roots={"base": [str(ROOT)]},
            pillar_roots={"base": [str(folders["pillar"])]},
            module_dirs=[str(ROOT / "_modules")],
            states_dirs=[str(ROOT / "_states")],
            utils_dirs=[str(ROOT / "_utils")],
            pillar=dict(pillar or {}),
            __cli="salt-call",  # whose pillar is not compiled again for each apply
        )
        opts.update(options)
        return UnitLoaders(opts, GRAINS | dict(grains or {}))

    return make


@pytest.fixture(name="salt")
def apply_states(loaders, world, own_host, monkeypatch):
    """Apply states to that host: `salt(pillar)(test=True)` answers id, result, changes and comment of each state.

    The whole return, with warnings, is in `returned` of what `salt(pillar)` answers.
    """

    class Below(sites.Site):
        """A site whose root is below the host's folder."""

        def __init__(self, config, platform):
            root = config["root"].removeprefix(str(own_host))
            super().__init__({**config, "root": f"{own_host}{root}"}, platform)

    played = Path(__file__).parent / "played"
    formula = own_host / "formula"  # Salt would list the whole work tree
    formula.mkdir()
    for name in ("django", "_modules", "_states", "_utils"):
        (formula / name).symlink_to(ROOT / name)
    options = {
        "played_host": str(own_host / "played"),
        "file_roots": {"base": [str(formula)]},
        "module_dirs": [str(ROOT / "_modules"), str(played / "modules")],
        "states_dirs": [str(ROOT / "_states"), str(played / "states")],
    }
    monkeypatch.setattr(sites, "Site", Below)
    monkeypatch.setattr(
        host_users, "find_user", lambda name: find_user(options, name) if name != spool.SENDER else None
    )

    monkeypatch.setattr(release_console, "install", lambda *, test: Outcome("django-shell is installed"))
    monkeypatch.setattr(release_console, "PROGRAM", own_host / "django-shell")
    monkeypatch.setattr(release_console, "ARCHIVE", own_host / "console.pyz")

    def on(pillar, current=True, **more):
        # The watch is of the whole host: its files are in no folder of the test.
        made = loaders({"django": {"watch": False, **pillar}}, **options, **more)
        for kind in ("modules", "states", "utils") if current else ():
            folder = Path(made.opts["extension_modules"]) / kind
            folder.symlink_to(ROOT / f"_{kind}")

        def apply(name="django", **arguments):
            made.context.clear()
            returned = made.modules.state.apply(name, **arguments)
            apply.returned = getattr(returned, "raw", returned)
            return answer(apply.returned)

        apply.loaders = made
        return apply

    return on


def find_user(opts, name):
    users = played_host.known(opts, "user")
    fullname = f"Django site {name.removesuffix('-build')}"
    return SimpleNamespace(pw_name=name, pw_gecos=fullname, pw_dir="/nonexistent", pw_gid=0) if name in users else None


def answer(returned):
    """Return the states in their order, without the last one, which repeats what has failed."""
    if isinstance(returned, list):
        raise AssertionError(returned)
    states = sorted((one for one in returned.values() if one["__id__"] != OUTCOME), key=lambda one: one["__run_num__"])
    return [
        SimpleNamespace(id=one["__id__"], **{key: one[key] for key in ("result", "changes", "comment", "name")})
        for one in states
    ]
