"""What the front end's build has made, and in which later releases it is used: real files, by the shell and tar."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django_formula.deploy import kept_build
from django_formula.host import disk, folders, users
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.source import submodule
from django_formula.source.submodule import Entry
from django_formula.untrusted.foreign import Foreign
from specimen import configured

FILES = {"package.json": '{"scripts": {"build": "vite build"}}', "app.js": "1", "requirements.txt": "django==5.2"}
NPM = "mkdir -p node_modules/a dist/empty && echo {} > node_modules/a/package.json && cat app.js > dist/app.js && "


class Lab:
    """A site whose releases have a front end; `ran` has the commands that were run."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch):
        self.site = site
        self.files, self.script, self.ran = dict(FILES), NPM + "true", list[str]()
        self.node, self.virtualenv, self.number = "v20", "one", 0
        self.path = os.environ["PATH"]
        self.attack: Callable[[], None] = lambda: None
        (self.site.root / "build").mkdir(parents=True)
        monkeypatch.setattr(submodule, "entries", lambda site, commit: self.entries())
        monkeypatch.setattr(users, "user_id", lambda name: os.geteuid())
        monkeypatch.setattr(users, "group_id", lambda name: os.getegid())
        monkeypatch.setattr(folders, "make", lambda folder: folder.path.mkdir(exist_ok=True))
        monkeypatch.setattr(disk, "free", lambda path: disk.Space(1 << 40, 1))
        monkeypatch.setattr(kept_build, "_SECONDS", 0.0)

    def entries(self) -> list[Entry]:
        return [Entry("100644", text, path) for path, text in self.files.items()]

    def release(self) -> Path:
        """Build the next release; return its source."""
        self.number += 1
        release = SimpleNamespace(site=self.site, name=f"{self.number:04}-abc", record={"virtualenv": self.virtualenv})
        source = self.site.releases / release.name / "source"
        for name, text in self.files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)

        def run(argv: list[str], doing: str) -> str:
            if "node --version" in argv[-1]:
                return self.node
            done = subprocess.run(
                argv, cwd=source, capture_output=True, text=True, check=False, env={"PATH": self.path}
            )
            if done.returncode:
                raise DeploymentError(f"{doing}: {done.stderr}")
            return done.stdout

        release_: Any = release
        commands = kept_build.leading(self.site)
        kept = kept_build.KeptBuild(release_, Foreign(source), run, commands, "commit")
        self.ran = []
        if not kept.take():
            self.ran = [*commands]
            subprocess.run(["sh", "-c", self.script], cwd=source, check=True)
            self.attack()
            kept.keep()
        assert not (self.site.root / "build/kept").exists()
        return source

    @property
    def kept(self) -> list[str]:
        folder = self.site.root / "kept"
        return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.fixture
def lab(make_site, monkeypatch):
    return Lab(make_site(folders=False, build=["npm ci", "npm run build", "make x", "npm run y"]), monkeypatch)


def made(source: Path) -> dict[str, str]:
    return {str(path.relative_to(source)): path.read_text() for path in sorted(source.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (["npm ci", "env A=b npm run x", "NODE_ENV=production yarn build", "python manage.py x", "npm run y"], 3),
        (["npm exec --yes --package=pnpm@10 -- pnpm install"], 1),
        (["make assets", "npm ci"], 0),
        (["nodeenv x"], 0),
        ([], 0),
    ],
)
def test_only_the_first_commands_and_those_of_node_are_kept(build, count):
    assert kept_build.leading(configured(build=build)) == build[:count]


def test_equal_inputs_are_built_once(lab):
    first = made(lab.release())
    assert lab.ran == ["npm ci", "npm run build"] and lab.kept[0].endswith(".0001-abc.tar")
    second = lab.release()
    assert lab.ran == [] and made(second) == first and (second / "dist/empty").is_dir()
    lab.virtualenv, lab.files["requirements.txt"] = "two", "django==6.0"
    third = made(lab.release())
    assert lab.ran == [] and third == first | {"requirements.txt": "django==6.0"}


@pytest.mark.parametrize("change", ["file", "new file", "commands", "node", "environment", "virtualenv"])
def test_another_input_is_built_anew_and_only_the_last_is_kept(lab, monkeypatch, change):
    if change == "virtualenv":  # which counts where a script may run Python
        lab.files["package.json"] = '{"scripts": {"build": "python manage.py collect && vite build"}}'
    lab.release()
    if change == "file":
        lab.files["app.js"] = "2"
    elif change == "new file":
        lab.files["templates/a.html"] = "<b class='p-4'>"
    elif change == "commands":
        lab.site.config["build"][1] = "npm run other"
    elif change == "environment":
        monkeypatch.setattr(kept_build.uv, "build_environment", lambda site: {"HTTPS_PROXY": "x"})
    else:
        setattr(lab, change, "another")
    source = lab.release()
    assert len(lab.ran) == 2 and (source / "dist/app.js").read_text() == lab.files["app.js"]
    assert len(lab.kept) == 1 and lab.kept[0].endswith(".0002-abc.tar")


def test_tracked_file_that_the_build_changes_is_kept_too(lab):
    lab.script += "; echo 3 > app.js"
    lab.release()
    assert (lab.release() / "app.js").read_text() == "3\n" and lab.ran == []


def test_folder_of_the_release_is_replaced_in_json(lab):
    lab.script += """; echo "{\\"path\\": \\"$PWD/dist/app.js\\"}" > dist/stats.json; ln -s app.js dist/link.js"""
    lab.release()
    source = lab.release()
    assert lab.ran == [] and (source / "dist/stats.json").read_text() == f'{{"path": "{source}/dist/app.js"}}\n'
    assert os.readlink(source / "dist/link.js") == "app.js"


@pytest.mark.parametrize("script", ["echo $PWD > dist/map.js", "rm requirements.txt", "truncate -s 2G dist/large"])
def test_what_another_release_could_not_use_is_not_kept(lab, monkeypatch, script):
    monkeypatch.setattr(kept_build, "_MOST", 1 << 20)
    lab.script += f"; {script}; true"
    lab.release()
    assert lab.kept == []
    lab.release()
    assert lab.ran != []


def test_archive_that_is_damaged_is_deleted_and_built_again(lab):
    lab.release()
    (lab.site.root / "kept" / lab.kept[0]).write_bytes(b"no archive")
    source = lab.release()
    assert len(lab.ran) == 2 and (source / "dist/app.js").exists() and lab.kept == []
    lab.release()
    lab.release()
    assert lab.ran == []


@pytest.mark.parametrize(
    "planted",
    [
        "ln -s /etc/hostname made.tar",
        "echo theirs > {root}/theirs; ln {root}/theirs made.tar",
        "truncate -s 2M made.tar",
        "echo x > made.tar; ln -s /etc more",
        "mkfifo made.tar",
        "mkdir made.tar",
        "rm -rf $PWD; ln -s {root} $PWD",
        "rm -rf $PWD",
    ],
)
def test_what_is_no_plain_archive_of_the_build_user_is_not_taken(lab, monkeypatch, planted):
    """The archive is made as the build user, so that its files may be anything by the time that root takes them."""
    monkeypatch.setattr(kept_build, "_MADE", "true")
    monkeypatch.setattr(kept_build, "_MOST", 1 << 20)
    (lab.site.root / "other").write_text("of root")
    script = planted.format(root=lab.site.root)
    lab.attack = lambda: subprocess.run(
        ["sh", "-c", f"mkdir -p $PWD/kept/made; cd $PWD/kept/made; {script}"], cwd=lab.site.root / "build", check=True
    )
    lab.release()
    assert lab.kept == [] and (lab.site.root / "other").read_text() == "of root"


def test_a_build_has_no_part_in_the_program_that_archives(lab):
    """Packages of the virtualenv may bring a tar, and the PATH of a build begins with them."""
    folder = lab.site.root / "virtualenv-bin"
    folder.mkdir()
    (folder / "tar").write_text("#!/bin/sh\necho forged > made.tar\n")
    (folder / "tar").chmod(0o755)
    lab.path = f"{folder}:{os.environ['PATH']}"
    first = made(lab.release())
    assert made(lab.release()) == first and lab.ran == []


def test_nothing_is_kept_for_a_build_that_no_longer_has_a_front_end(lab):
    lab.release()
    lab.site.config["build"] = ["make x"]
    lab.release()
    assert lab.kept == []


def test_quick_build_and_a_full_disk_keep_nothing(lab, monkeypatch):
    monkeypatch.setattr(kept_build, "_SECONDS", 60.0)
    lab.release()
    monkeypatch.setattr(kept_build, "_SECONDS", 0.0)
    monkeypatch.setattr(disk, "free", lambda path: disk.Space(1 << 30, 1))
    lab.release()
    assert lab.kept == []
