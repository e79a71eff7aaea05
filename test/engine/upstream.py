"""Local git repositories that tests deploy from."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


class Upstream:
    """A repository with a work tree, at `folder`."""

    def __init__(self, folder: Path, files: Mapping[str, str | bytes | None] | None = None):
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "protocol.file.allow", "always")
        self.first = self.commit({"manage.py": "first\n", **(files or {})}, "The first commit")

    def git(self, *arguments: str) -> str:
        environment = {**os.environ, **AUTHOR}
        argv = ["git", *arguments]
        done = subprocess.run(argv, cwd=self.folder, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str | bytes | None], message: str = "A change") -> str:
        """Commit files by path (None removes one) to the branch that is checked out; returns the commit."""
        for name, content in files.items():
            file = self.folder / name
            if content is None:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def submodule(self, url: str, path: str, commit: str) -> str:
        """Commit a submodule as its entry in .gitmodules and in the tree, without fetching it."""
        with open(self.folder / ".gitmodules", "a") as file:
            file.write(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n')
        self.git("add", ".gitmodules")
        self.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        self.git("commit", "--quiet", "--message", f"The submodule {path}")
        return self.git("rev-parse", "HEAD")
