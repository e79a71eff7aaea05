"""Releases of a project with background work, their workers as real processes, and a Redis of their own."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from django_formula.store import redis as store_redis
from in_django import python
from specimen import ROOT

#: redis-tools has the server too, by the name of the program that checks its files.
SERVER = shutil.which("redis-server") or shutil.which("redis-check-rdb") or ""
SETTINGS = """
SECRET_KEY = "x" * 50
INSTALLED_APPS = ["shop"]
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""
WSGI = """
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""
#: What the tasks of every kind do: two lines of a file, with the release that runs them.
WORK = """
import os, time

def work(number, seconds=0.0):
    line(f"begin {number}")
    time.sleep(seconds)
    line(f"end {number}")

def line(text):
    descriptor = os.open(os.environ["WORK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{time.time():.3f} {os.environ['RELEASE']} {text}\\n".encode())
    os.close(descriptor)
"""


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what a condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
    return found


class Worker:
    """A worker of a release, started as its process manager does."""

    def __init__(self, lab: "Lab", release: str, kind: str, name: str, given: Mapping[str, Any]):
        self.run = lab.folder / "run" / f"{release}-{name}"
        self.run.mkdir(parents=True, exist_ok=True)
        config = lab.release(release) / "config"
        file = config / f"worker-{name}.json"
        file.write_text(
            json.dumps(
                {
                    "name": name,
                    "unit": f"django-shop-{release}-{name}",
                    "run": str(self.run),
                    "release": str(lab.release(release)),
                    "current": str(lab.current),
                    "switch": str(lab.switch),
                    "hold": str(lab.folder / "hold"),
                    "folder": str(lab.release(release) / "source"),
                    "modules": ["project.settings", "project.wsgi"],
                    **given,
                }
            )
        )
        self.log = lab.folder / f"{release}-{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [lab.python, str(config / f"django_formula_{kind}.py"), str(file)],
                cwd=lab.release(release) / "source",
                env={**lab.environment, "RELEASE": release},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> "Worker":
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return (self.run / "ready").exists()

        until(is_ready)
        return self

    @property
    def state(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            found: dict[str, Any] = json.loads((self.run / "state").read_text())
            return found
        return {}

    @property
    def is_fetching(self) -> bool:
        return bool(self.state.get("fetching"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Lab:
    """A site's folders without the engine: releases, the link to the active one, the switch lock."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.current, self.switch = folder / "current", folder / "switch"
        self.switch.touch()
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.python = python("workers")
        self.workers: list[Worker] = []
        self.log = folder / "work.log"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "CELERY_BROKER_URL": f"redis+socket://{self.socket}",
            "REDIS_URL": self.url,
            "WORK_LOG": str(self.log),
        }
        argv = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(folder)]
        argv += ["--user", *f"default on nopass ~* &* {store_redis.SITE}".split()]  # as in a site's own server
        argv += ["--user", "operator", "on", "nopass", "~*", "&*", "+@all"]
        self.server = subprocess.Popen(["redis-server", *argv], executable=SERVER, stdout=subprocess.DEVNULL)
        until(self.socket.exists)

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.server.kill()
        self.server.wait()

    def release(self, number: str) -> Path:
        return self.folder / "releases" / number

    def make(self, number: str, files: Mapping[str, str]) -> str:
        """Make a release of the project with these files in addition."""
        source = self.release(number) / "source"
        own = {
            "project/__init__.py": "",
            "project/settings.py": SETTINGS,
            "project/wsgi.py": WSGI,
            "shop/__init__.py": "",
            "shop/work.py": WORK,
        }
        for name, text in {**own, **files}.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(textwrap.dedent(text))
        config = self.release(number) / "config"
        config.mkdir()
        for program in (ROOT / "django/files").glob("django_formula_*.py"):
            shutil.copy(program, config)
        return number

    def activate(self, number: str) -> None:
        new = self.folder / "current.new"
        new.symlink_to(f"releases/{number}")
        new.replace(self.current)

    @contextlib.contextmanager
    def switching(self) -> Iterator[None]:
        """Hold the switch lock, as a deployment does."""
        with open(self.switch) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def start(self, release: str, kind: str, name: str = "default", **given: Any) -> Worker:
        worker = Worker(self, release, kind, name, given)
        self.workers.append(worker)
        return worker

    def shell(self, release: str, code: str, **variables: str) -> str:
        """Run Python in a release, with Django set up."""
        done = subprocess.run(
            [self.python, "-c", f"import django; django.setup()\n{textwrap.dedent(code)}"],
            cwd=self.release(release) / "source",
            env={**self.environment, "RELEASE": release, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stderr
        return done.stdout

    def redis(self, *command: str) -> str:
        argv = ["redis-cli", "-s", str(self.socket), *command]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    @contextlib.contextmanager
    def busy_redis(self, *command: str) -> Iterator[None]:
        """Have the server run a command on and on in the block."""
        argv = ["redis-cli", "-s", str(self.socket), "-r", "-1", "-i", "0.001", *command]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.kill()

    def limit(self, memory: int) -> None:
        """Limit the memory of the server, as root does; 0 is no limit."""
        operator = ["--user", "operator", "--pass", "any"]
        limited = self.redis(*operator, "CONFIG", "SET", "maxmemory", str(memory))
        assert limited == "OK", limited

    def lines(self) -> list[tuple[float, str, str, int]]:
        """Return what the tasks have written: time, release, ``begin`` or ``end``, number."""
        text = self.log.read_text() if self.log.exists() else ""
        found = re.findall(r"^(\S+) (\S+) (begin|end) (\d+)$", text, re.M)
        return [(float(at), release, what, int(number)) for at, release, what, number in found]

    def counts(self, what: str) -> Counter[int]:
        return Counter(number for _time, _release, event, number in self.lines() if event == what)

    def runs(self) -> dict[int, str]:
        """Return the release that has ended each number."""
        return {number: release for _time, release, event, number in self.lines() if event == "end"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    if not SERVER:
        pytest.skip("no redis-server and no redis-check-rdb: apt install redis-tools")
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.end()
