"""A git repository for a host to deploy from, to which a test commits."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from lab import ROOT, Host

EXAMPLE = ROOT / "examples" / "project"
PATH = "/srv/git/project.git"
AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


class Repository:
    """A bare repository on a host, at `path`; commits are made here, in `folder`, and sent there.

    The host itself needs no git for it.
    """

    def __init__(self, folder: Path, host: Host, path: str, source: Path = EXAMPLE):
        self.worktree, self.bare = folder / "worktree", folder / "bare.git"
        self.host, self.path = host, path
        shutil.copytree(source, self.worktree, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3"))
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        self.git("remote", "add", "origin", str(self.bare))
        # Of the same name everywhere: hosts begin with a release of it (`kind="live"`).
        self.first = self.commit({}, "The example project", date="2026-01-01T00:00:00Z")

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def git(self, *arguments: str, **variables: str) -> str:
        """Run git in the work tree; `push` sends afterwards what it changed."""
        environment = {**os.environ, **AUTHOR, **variables}
        argv = ["git", *arguments]
        return subprocess.run(
            argv, cwd=self.worktree, env=environment, check=True, capture_output=True, text=True
        ).stdout

    def commit(
        self,
        files: Mapping[str, str | bytes | None],
        message: str = "A change",
        branch: str = "main",
        date: str | None = None,
    ) -> str:
        """Commit files by path (None removes one) to a branch, new or not, and send it. Returns the commit."""
        if self.git("branch", "--list", branch):
            self.git("switch", "--quiet", branch)
        elif self.git("branch", "--show-current").strip() != branch:
            self.git("switch", "--quiet", "--create", branch)
        for name, content in files.items():
            file = self.worktree / name
            if content is None:
                file.unlink(missing_ok=True)
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
        self.git("commit", "--quiet", "--allow-empty", "--message", message, **dates)
        self.push()
        return self.git("rev-parse", "HEAD").strip()

    def read(self, name: str) -> str:
        """A file of the work tree."""
        return (self.worktree / name).read_text()

    def append(self, name: str, text: str) -> str:
        """Commit a text at the end of a file. Returns the commit."""
        return self.commit({name: self.read(name) + text})

    def amended(self, files: Mapping[str, str | None]) -> dict[str, str | None]:
        """Files to be committed, where a text that begins with + is to be appended."""
        return {
            name: self.read(name) + text[1:] if text and text.startswith("+") else text for name, text in files.items()
        }

    def push(self) -> None:
        """Send all branches and tags to the host."""
        self.git("push", "--quiet", "--force", "--all", "origin")
        self.git("push", "--quiet", "--force", "--tags", "origin")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(self.bare, ".")
        self.host.send(archive.getvalue(), self.path)


def start_git_server(host: Host) -> dict[str, str]:
    """Start the API of a Git server, which has the state of a check from /run/check; return `checks` of a site."""
    host.write("/run/check", "")
    host.write("/run/server.py", (ROOT / "test/hosts/stand_ins/git_server.py").read_text())
    host.run(["systemd-run", "--unit=git-server", "/usr/bin/python3", "/run/server.py"])
    return {"kind": "forgejo", "url": "http://127.0.0.1:8300/p", "token": "of-the-checks", "within": "10m"}
