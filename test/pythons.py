"""Write `django/pythons.yaml` anew, from what the pinned uv knows: `./test/run --exec python test/pythons.py`.

uv has the digest of each archive of an interpreter within it, and shows it only in an error: each one is asked for from
a mirror that has an empty archive under its name. Nothing is downloaded.
"""

import json
import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

PYTHONS = Path(__file__).resolve().parent.parent / "django/pythons.yaml"
MACHINES = ("aarch64", "x86_64")
HEAD = """\
# The interpreters that `python: '3.13'` installs where the host has none of that version: uv's managed ones, for glibc.
# An archive is below `origin`, or below django:python_mirror, and is used if it has this SHA-256.
# Written by test/pythons.py, for each new version of uv. See docs/decisions/0085.
"""


def known() -> list[dict[str, str]]:
    """Return the newest release of each version of CPython for Linux that uv installs, newest first."""
    argv = [
        "uv",
        "python",
        "list",
        "--no-config",
        "--only-downloads",
        "--offline",
        "--all-arches",
        "--output-format=json",
    ]
    listed = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    wanted = {"os": "linux", "libc": "gnu", "implementation": "cpython", "variant": "default"}
    return [
        entry
        for entry in listed
        if all(entry[key] == value for key, value in wanted.items())
        and entry["arch"] in MACHINES
        and re.fullmatch(r"3\.\d+\.\d+", entry["version"])
    ]


def digest(key: str, path: str, folder: Path) -> str:
    """Return the SHA-256 by which uv refuses an empty archive.

    Args:
        path: that of the archive below the mirror.
    """
    archive = folder / "mirror" / path
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz"):
        pass
    argv = ["uv", "python", "install", "--no-config", "--no-bin", f"--install-dir={folder / 'installed'}", key]
    environment = {**os.environ, "UV_PYTHON_INSTALL_MIRROR": (folder / "mirror").as_uri(), "UV_HTTP_RETRIES": "0"}
    text = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment).stderr
    found = re.search(r"expected\W+(?:sha256:)?([0-9a-f]{64})", text, re.IGNORECASE)
    if not found:
        raise SystemExit(f"{key}: uv named no digest:\n{text}")
    return found[1]


def text(folder: Path) -> str:
    lines, origin, series = [], "", ""
    for entry in known():
        base, build, name = entry["url"].replace("%2B", "+").rsplit("/", 2)
        if origin and base != origin:
            raise SystemExit(f"{entry['url']} is not below {origin}")
        if not origin:
            lines.append(f"origin: {base}\nversions:\n")
        origin = base
        if series != (series := entry["version"].rpartition(".")[0]):
            lines.append(f"  '{series}':\n    version: {entry['version']}\n    archives:\n")
        sha256 = digest(entry["key"], f"{build}/{name}", folder)
        lines.append(f"      {entry['arch']}:\n        path: {build}/{name}\n        sha256: {sha256}\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        PYTHONS.write_text(text(Path(temporary)), encoding="utf-8")
