"""The engine in one file, as hosts have it: unpacked once for each version, whole, and by this user alone."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("pack", ROOT / "engine/pack.py")
assert _spec and _spec.loader
pack = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pack)

#: As a module of Salt has it; it prints what it imports, and from where.
ENTRY = """
import sys
sys.path.append({utils!r})
import django_engine
django_engine.use()
from django_formula.site import sites
print(sites.VERSION, sites.__file__, flush=True)
"""


class Minion:
    """A host with Salt's cache; `sync` gives it a version of the engine."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cache = folder / "cache"
        self.utils = self.cache / "extmods/utils"
        self.home = self.cache / "django-formula" if not os.geteuid() else self.cache / f"django-formula-{os.geteuid()}"
        self.utils.mkdir(parents=True)

    def sync(self, version: int) -> str:
        """Write the packed engine of a small tree, and return its digest."""
        tree = self.folder / f"engine{version}/django_formula"
        (tree / "site").mkdir(parents=True, exist_ok=True)
        (tree / "__init__.py").write_text('"""One."""\n')
        (tree / "site/__init__.py").write_text('"""Two."""\n')
        (tree / "site/sites.py").write_text(f'VERSION = {version}\n\n#: a/b.py\nTEXT = """\n# \\u2028\n\n"""\n')
        (tree / "site/late.py").write_text(f"VERSION = {version}\n" * 100)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pack, "TREE", tree)
            text: str = pack.engine()
        (self.utils / "new").write_text(text)
        (self.utils / "new").rename(self.utils / "django_engine.py")
        found = re.search('^DIGEST = "(.+)"$', text, re.MULTILINE)
        assert found
        return found[1]

    def start(self, more: str = "", before: str = "") -> "subprocess.Popen[str]":
        code = before + ENTRY.format(utils=str(self.utils)) + more
        argv = [sys.executable, "-B", "-c", code]
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )

    def run(self, more: str = "", before: str = "") -> str:
        process = self.start(more, before)
        output, errors = process.communicate(timeout=60)
        return output if process.returncode == 0 else errors

    def folders(self) -> list[str]:
        return sorted(os.listdir(self.home))


@pytest.fixture
def minion(tmp_path: Path) -> Minion:
    return Minion(tmp_path)


def test_tree_is_unpacked_once_for_this_user_alone(minion: Minion) -> None:
    digest = minion.sync(1)
    path = minion.home / digest / "django_formula/site/sites.py"
    assert minion.run() == f"1 {path}\n"
    written = path.stat().st_ino
    for folder in (minion.home, minion.home / digest, path.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert path.read_bytes() == (minion.folder / "engine1/django_formula/site/sites.py").read_bytes()
    assert minion.run() == f"1 {path}\n" and path.stat().st_ino == written
    assert minion.folders() == [digest]


def test_files_of_salt_are_loaded_under_names_that_python_does_not_know() -> None:
    """As Salt's loader does it with all of them, when a verb does not exist."""
    for path in sorted((ROOT / "_utils").glob("django_*.py")):
        spec = importlib.util.spec_from_file_location(f"salt.loaded.ext.utils.{path.stem}", path)
        assert spec and spec.loader
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_processes_that_unpack_at_once_all_run(minion: Minion) -> None:
    digest = minion.sync(1)
    processes = [minion.start() for _number in range(6)]
    outputs = {process.communicate(timeout=60) for process in processes}
    assert outputs == {(f"1 {minion.home / digest / 'django_formula/site/sites.py'}\n", "")}
    assert minion.folders() == [digest]


def test_a_begun_tree_that_another_process_removed_is_begun_again(minion: Minion) -> None:
    digest = minion.sync(1)
    removes = """
import os, tempfile
original = tempfile.mkdtemp
def removing(*arguments, **options):
    tempfile.mkdtemp = original
    folder = original(*arguments, **options)
    os.rmdir(folder)
    return folder
tempfile.mkdtemp = removing
"""
    assert minion.run(before=removes).startswith("1 ")
    assert minion.folders() == [digest]


def test_an_old_tree_that_another_process_removes_too_leaves_nothing(minion: Minion) -> None:
    digests = []
    removes = """
import os
original = os.unlink
def removing(*arguments, **options):
    os.unlink = original
    original(*arguments, **options)
    raise FileNotFoundError(arguments[0])
os.unlink = removing
"""
    for version in (1, 2, 3):
        digests.append(minion.sync(version))
        assert minion.run(before=removes).startswith(f"{version} ")
        time.sleep(0.01)
    assert minion.folders() == sorted(digests[-2:])


@pytest.mark.parametrize("moment", ["makedirs", "open", "rename", "flock"])
def test_a_process_that_is_killed_while_it_unpacks_leaves_nothing(minion: Minion, moment: str) -> None:
    digest = minion.sync(1)
    module = "fcntl" if moment == "flock" else "os"
    dies = f"""
import fcntl, os, signal
count, original = 0, {module}.{moment}
def killing(*arguments, **options):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
{module}.{moment} = killing
"""
    assert minion.run(before=dies) == ""
    assert minion.run().startswith("1 ")
    assert minion.folders() == [digest]
    assert minion.run().startswith("1 ")


def test_tree_of_another_version_is_removed_but_for_the_newest(minion: Minion) -> None:
    digests = []
    for version in (1, 2, 3, 4):
        digests.append(minion.sync(version))
        assert minion.run().startswith(f"{version} ")
        time.sleep(0.01)  # by their times it is known which one is older
    assert minion.folders() == sorted(digests[-2:])


def test_tree_that_a_process_uses_is_kept(minion: Minion) -> None:
    first = minion.sync(1)
    with minion.start("sys.stdin.readline()\nfrom django_formula.site import late\nprint(late.VERSION)\n") as process:
        assert process.stdout and process.stdout.readline().startswith("1 ")
        for version in (2, 3, 4):
            last = minion.sync(version)
            assert minion.run().startswith(f"{version} ")
        assert first in minion.folders() and last in minion.folders()
        assert process.communicate("\n", timeout=60) == ("1\n", "")
    minion.sync(5)
    minion.run()
    assert first not in minion.folders() and len(minion.folders()) == 2


def test_one_process_uses_the_version_that_was_synced_last(minion: Minion) -> None:
    """A minion with `multiprocessing: False` runs all jobs in one; Salt loads the entry anew after a sync."""
    minion.sync(1)
    again = ENTRY.format(utils=str(minion.utils))
    with minion.start(
        f"sys.stdin.readline()\n{again}\nprint(sites.__name__ in sys.modules, len(sys.path))\n"
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline().startswith("1 ")
        minion.sync(2)
        output, errors = process.communicate("\n", timeout=60)
        assert output.startswith("2 ") and "True" in output, errors


def test_tree_of_which_files_are_missing_is_written_anew(minion: Minion) -> None:
    """`saltutil.clear_cache` removes the files of Salt's cache, and no folder."""
    digest = minion.sync(1)
    again = f"""
import os
for top, _folders, names in os.walk({str(minion.home)!r}):
    for name in names:
        os.remove(os.path.join(top, name))
django_engine.use()
from django_formula.site import late
print(late.VERSION)
"""
    assert minion.run(again).endswith("\n1\n")
    assert minion.run().startswith("1 ") and minion.folders() == [digest]


def test_tree_is_compared_after_a_boot(minion: Minion) -> None:
    """A crash of the host may lose what was written shortly before."""
    digest = minion.sync(1)
    path, checked = minion.home / digest / "django_formula/site/sites.py", minion.home / digest / ".checked"
    minion.run()
    boot = checked.read_text()
    path.write_text("")
    checked.write_text("another boot")
    assert minion.run().startswith("1 ") and "VERSION" in path.read_text() and checked.read_text() == boot
    inode = path.stat().st_ino
    checked.write_text("another boot")
    assert minion.run().startswith("1 ") and path.stat().st_ino == inode and checked.read_text() == boot
    os.utime(checked, (0, 0))
    assert minion.run().startswith("1 ") and checked.stat().st_mtime > time.time() - 60


@pytest.mark.parametrize("laid", ["link", "open", "other", "file"])
def test_folder_that_others_may_change_is_refused(minion: Minion, laid: str) -> None:
    minion.sync(1)
    if laid == "link":
        (minion.folder / "elsewhere").mkdir(mode=0o700)
        minion.home.symlink_to(minion.folder / "elsewhere")
    elif laid == "file":
        minion.home.write_text("")
    else:
        minion.home.mkdir()
        minion.home.chmod(0o777 if laid == "open" else 0o755)
        if laid == "other":
            if os.geteuid():
                pytest.skip("only root gives a folder away")
            os.chown(minion.home, 65534, 65534)
    errors = minion.run().splitlines()[-1]
    assert f"{minion.home}" in errors and "Error: " in errors
    assert laid == "file" or not os.listdir(minion.home)


def test_damaged_file_is_refused(minion: Minion) -> None:
    """As a merge leaves it that took the lines of both sides."""
    minion.sync(1)
    path = minion.utils / "django_engine.py"
    path.write_text(path.read_text().replace("# VERSION = 1\n", "# VERSION = 1\n# VERSION = 2\n", 1))
    said = f"ImportError: {path} is damaged; run: python3 engine/pack.py, in the formula's folder"
    assert minion.run().splitlines()[-1] == said
    assert minion.folders() == []


def test_checkout_uses_its_own_tree(minion: Minion) -> None:
    """A runner, and what renders in its process: from the file that is packed."""
    minion.sync(1)
    top = minion.folder / "checkout"
    (top / "_utils").mkdir(parents=True)
    (minion.folder / "engine1").rename(top / "engine")
    (top / "engine/django_engine.py").write_text((ROOT / "engine/django_engine.py").read_text())
    (minion.utils / "django_engine.py").rename(top / "_utils/django_engine.py")
    minion.utils.rmdir()
    minion.utils = top / "engine"
    rendered = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("django_engine", {str(top / "_utils/django_engine.py")!r})
packed = importlib.util.module_from_spec(spec)
spec.loader.exec_module(packed)
packed.use({str(minion.cache)!r})
from django_formula.site import late
print(late.__file__)
"""
    tree = top / "engine/django_formula/site"
    assert minion.run(rendered) == f"1 {tree}/sites.py\n{tree}/late.py\n"
    assert not minion.home.exists()


def test_the_whole_engine_is_unpacked_as_it_is(tmp_path: Path) -> None:
    module = ModuleType("packed")
    path = ROOT / "_utils/django_engine.py"
    module.__file__ = str(path)
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    folder = Path(module._unpacked(str(tmp_path / "home")))
    sources = sorted((ROOT / "engine/django_formula").rglob("*.py"))
    assert len(sources) > 100
    for source in sources:
        assert (folder / source.relative_to(ROOT / "engine")).read_bytes() == source.read_bytes(), source
