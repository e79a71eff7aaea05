"""The program that installs the packages of a front end, by its lock file or its scripts: npm, pnpm, yarn or bun.

Debian has only npm; `npm exec` brings the others from its registry.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_formula.inspect import code

#: Lock file → its program; of several the first is taken.
_LOCKS = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
#: A script that runs scripts of the same package by another program than npm.
_CALLS = re.compile(r"(?:^|&&|;)\s*(pnpm|yarn|bun)(?:\s+run)?\s+([\w:.-]+)")
_EXACT = re.compile(r"(npm|pnpm|yarn|bun)@(\d+\.\d+\.\d+)(?![\w-])")
#: What pnpm's and yarn's lock files begin with → the version of the program that wrote them.
_OF_PNPM = {"9": "10", "6": "8", "5.4": "7", "5.3": "6"}
_OF_YARN = {"4": "2", "5": "2", "6": "3", "7": "3"}
#: The Node.js that programs need; older versions of them need an older one.
_NODE = {"pnpm@10": ">=18.12", "@yarnpkg/cli-dist@4": ">=18.12", "pnpm@8": ">=16.14", "pnpm@9": ">=18.12"}


@dataclass(frozen=True)
class Program:
    """A program that installs packages and runs scripts of a package.json.

    Attributes:
        name: ``npm``, ``pnpm``, ``yarn`` or ``bun``.
        package: its package and version for ``npm exec``; empty for npm itself.
        is_locked: whether there is a lock file, which the program must not change.
    """

    name: str
    package: str = ""
    is_locked: bool = True

    @property
    def node(self) -> str:
        """The versions of Node.js that it needs, as package.json has them; empty if any will do."""
        return next((need for start, need in _NODE.items() if re.match(rf"{re.escape(start)}(\.|$)", self.package)), "")

    def commands(self, folder: str, scripts: Sequence[str], *, options: str = "") -> list[str]:
        """Return the commands that install the packages of a folder and run scripts of its package.json.

        Args:
            folder: where its package.json is, from the folder of manage.py; empty if it is found from there.
            scripts: their names.
            options: those of npm for the scripts.
        """
        if self.name == "npm":
            prefix = f"npm --prefix {folder}" if folder else "npm"
            install = f"{prefix} {'ci' if self.is_locked else 'install'}"
            return [install, *(f"{prefix} run {script}{options}" for script in scripts)]
        own = f"npm exec --yes --package={self.package} -- {self.name}"
        frozen = " --frozen-lockfile" if self.is_locked else ""
        install = {
            "pnpm": f"install{frozen} --package-import-method=copy",  # no hard links to its store
            "yarn": f"install{self._strictness() if self.is_locked else ''}",
            "bun": f"install{frozen} --backend=copyfile",
        }[self.name]
        at = f" {'--dir' if self.name == 'pnpm' else '--cwd'} {folder}" if folder else ""
        if self.name == "bun":  # its options follow the command
            return [f"{own} {install}{at}", *(f"{own} run{at} {script}" for script in scripts)]
        return [f"{own}{at} {install}", *(f"{own}{at} run {script}" for script in scripts)]

    def _strictness(self) -> str:
        """Return the option by which yarn does not change its lock file; a newer yarn 2 rewrites its form."""
        if self.package.startswith("yarn@"):
            return " --frozen-lockfile"
        return " --immutable" if self.package.count(".") else ""


def of(tree: Path, folder: Path, content: Mapping[str, Any]) -> Program:
    """Return the program by which the packages of a package.json are locked.

    Without a lock it is the one by which its scripts run each other, else npm.

    Args:
        folder: the folder of package.json, in the tree or the tree itself.
        content: that of package.json.
    """
    found = {_LOCKS[name]: folder / name for name in reversed(_LOCKS) if (folder / name).is_file()}
    for above in folder.parents if not found else ():
        workspace = above / "pnpm-workspace.yaml"
        if above.is_relative_to(tree) and workspace.is_file() and (above / "pnpm-lock.yaml").is_file():
            found = {"pnpm": above / "pnpm-lock.yaml"}
    exact = _EXACT.match(str(content.get("packageManager", "")))
    named = exact[1] if exact and exact[1] in found else ""
    name = named or next((one for one in dict.fromkeys(_LOCKS.values()) if one in found), "") or _calling(content)
    version = exact[2] if exact and exact[1] == name else ""
    if name == "npm":
        return Program(name, is_locked="npm" in found)
    return Program(name, _package(name, version, found.get(name)), is_locked=name in found)


def _calling(content: Mapping[str, Any]) -> str:
    """Return the program by which scripts of a package.json run others of it; npm where it is none of the others."""
    listed = content.get("scripts")
    scripts: dict[str, Any] = listed if isinstance(listed, dict) else {}
    texts = [text for text in scripts.values() if isinstance(text, str)]
    return next((name for text in texts for name, script in _CALLS.findall(text) if script in scripts), "npm")


def _package(name: str, version: str, lock: Path | None) -> str:
    """Return the package for ``npm exec`` of the version that is named, or that wrote a lock file."""
    if name == "bun":
        return f"bun@{version or 1}"
    text = code.read(lock)[:2000] if lock else ""
    if name == "pnpm":
        found = re.search(r"^lockfileVersion: *'?([\d.]+)", text, re.MULTILINE)
        known = [made for start, made in _OF_PNPM.items() if found and re.match(rf"{re.escape(start)}(\.|$)", found[1])]
        return f"pnpm@{version or (known or ['latest'])[0]}"
    found = re.search(r"^__metadata:\s+version: *\"?(\d+)", text, re.MULTILINE)
    if not found:
        return f"yarn@{version or 1}"
    return f"@yarnpkg/cli-dist@{version or _OF_YARN.get(found[1], '4')}"
