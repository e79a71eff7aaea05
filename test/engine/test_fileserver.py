"""Which files a minion asks its master for, and when it uses the copies that it has."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import django_fileserver
import pytest
from django_fileserver import TRUSTED, Files

PLAN, NGINX = "django/files/plan.py", "django/files/nginx.conf"
STATE, UTIL = "_states/django.py", "_utils/django_engine.py"


class Master:
    """A file server, and a minion with its caches; `asked` has the files that it was asked for."""

    def __init__(self, folder: Path):
        self.files = {name: f"# {name}\n" for name in (PLAN, NGINX, STATE, UTIL)}
        self.opts: dict[str, Any] = {"file_client": "remote", "cachedir": str(folder)}
        self.opts["extension_modules"] = str(folder / "extmods")
        self.functions: dict[str, Any] = {
            "cp.cache_file": self.cache_file,
            "cp.hash_file": self.hash_file,
            "cp.list_master": lambda env, prefix: [name for name in self.files if name.startswith(prefix)],
        }
        self.asked: list[str] = []
        self.write_digests()

    def write_digests(self) -> None:
        rows = [f"{digest(text)}  {name}\n" for name, text in self.files.items() if name != "django/digests"]
        self.files["django/digests"] = "".join(rows)

    def copy(self, name: str) -> Path:
        return Path(self.opts["cachedir"], "files/base", name)

    def module(self, name: str) -> Path:
        return Path(self.opts["extension_modules"], name.removeprefix("_"))

    def cache_file(self, url: str, saltenv: str) -> str:
        name = self.ask(url, saltenv)
        if name not in self.files:
            return ""
        if not self.copy(name).exists() or self.copy(name).read_text() != self.files[name]:
            put(self.copy(name), self.files[name])
        return str(self.copy(name))

    def hash_file(self, url: str, saltenv: str) -> dict[str, str]:
        name = self.ask(url, saltenv)
        return {"hash_type": "sha256", "hsum": digest(self.files[name])} if name in self.files else {}

    def ask(self, url: str, saltenv: str) -> str:
        assert saltenv == "base"
        name = url.removeprefix("salt://")
        self.asked.append(name)
        return name

    def apply(self) -> dict[str, str]:
        """Return the texts of the templates as an apply gets them, and sync modules as it does."""
        self.asked.clear()
        files = Files(self.opts, self.functions, "base")
        for kind in files.stale_kinds():
            for name in self.files:
                if name.startswith(f"_{kind}/"):
                    put(self.module(name), self.files[name])
        paths = {name: files.path(f"salt://{name}") for name in (PLAN, NGINX)}
        return {name: Path(path).read_text() for name, path in paths.items() if path}

    def pass_time(self, seconds: float) -> None:
        for path in Path(self.opts["cachedir"]).rglob("*.*"):
            moved = path.stat().st_mtime - seconds
            os.utime(path, (moved, moved))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def master(tmp_path: Path) -> Master:
    """A master whose minion has applied once."""
    master = Master(tmp_path)
    assert master.apply()[PLAN] == f"# {PLAN}\n"
    assert master.module(STATE).exists()
    return master


def test_one_request_when_nothing_has_changed(master: Master) -> None:
    assert master.apply()[NGINX] == f"# {NGINX}\n"
    assert master.asked == ["django/digests"]


def test_states_use_the_digests_that_the_apply_was_rendered_with(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"__opts__": master.opts, "__salt__": master.functions, "saltenv": "base", "_rendered": None}
    for name, value in given.items():
        monkeypatch.setattr(django_fileserver, name, value, raising=False)
    rendering = django_fileserver.run()
    master.asked.clear()
    states = django_fileserver.of_states(master.opts, master.functions, "base")
    for files in (rendering, states):
        assert files.path(f"salt://{PLAN}") == str(master.copy(PLAN))
    assert master.asked == ["django/digests"]


def test_changed_files_alone_are_fetched(master: Master) -> None:
    master.files |= {PLAN: "new plan", UTIL: "new module"}
    master.write_digests()
    assert master.apply()[PLAN] == "new plan"
    assert master.asked == ["django/digests", UTIL, PLAN]
    assert master.module(UTIL).read_text() == "new module"


@pytest.mark.parametrize("name", [STATE, UTIL])
def test_damaged_or_missing_module_is_synced(master: Master, name: str) -> None:
    for damage in (lambda path: path.write_text("torn"), Path.unlink):
        damage(master.module(name))
        master.apply()
        assert master.module(name).read_text() == f"# {name}\n"


def test_change_without_digest_is_found_within_a_day_and_followed_from_then_on(master: Master) -> None:
    master.files |= {PLAN: "edited", UTIL: "edited module"}
    assert master.apply()[PLAN] == f"# {PLAN}\n"
    master.pass_time(TRUSTED)
    assert master.apply()[PLAN] == "edited"
    assert master.module(UTIL).read_text() == "edited module"
    master.files |= {PLAN: "edited again", UTIL: "edited module again"}
    assert master.apply()[PLAN] == "edited again"
    assert master.module(UTIL).read_text() == "edited module again"
    assert sorted(master.asked) == [UTIL, "django/digests", PLAN]


def test_each_file_is_compared_once_a_day(master: Master) -> None:
    master.pass_time(TRUSTED)
    master.apply()
    assert sorted(master.asked) == sorted(master.files)
    master.apply()
    assert master.asked == ["django/digests"]
    ages = {time.time() - path.stat().st_mtime for path in (master.copy(PLAN), master.copy(NGINX))}
    assert len(ages) == 2 and max(ages) < TRUSTED / 2, "they are due again at different times"


def test_copy_from_the_future_is_compared(master: Master) -> None:
    master.pass_time(-TRUSTED)
    master.apply()
    assert sorted(master.asked) == sorted(master.files)


def test_file_that_the_server_has_lost_is_missing_within_a_day(master: Master) -> None:
    del master.files[PLAN]
    master.pass_time(TRUSTED)
    assert PLAN not in master.apply()
    assert PLAN not in master.apply(), "its old copy is not trusted again"


def test_file_server_without_digests_is_asked_for_each_file(master: Master) -> None:
    del master.files["django/digests"]
    master.apply()
    assert sorted(master.asked) == sorted({*master.files, "django/digests"})


def test_masterless_host_reads_each_file(master: Master) -> None:
    master.opts["file_client"] = "local"
    master.files |= {PLAN: "edited", UTIL: "edited module"}
    assert master.apply()[PLAN] == "edited"
    assert master.module(UTIL).read_text() == "edited module"
    assert "django/digests" not in master.asked


def test_salt_ssh_gets_urls(master: Master) -> None:
    files = Files(master.opts, {**master.functions, "no_such_module": None}, "base")
    master.asked.clear()
    assert files.path(f"salt://{PLAN}") == f"salt://{PLAN}"
    assert files.is_wrapped and master.asked == []
