"""Who gets the other release: files in /run, for which nginx looks at each request.

``/run/django/<site>.canary/<slot>/<key>``: the key is a visitor's bucket, one of a hundred, or a token. A slot lasts
ten seconds by nginx's own clock, and who holds the lease writes the present one and the next. So the share ends by
itself when its process is killed, and with the boot of the host. While ``on`` is missing nginx looks for nothing else:
it goes first, so that the share ends for all visitors at one moment. See docs/decisions/0170.
"""

import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path

from django_formula.host import file
from django_formula.host.folders import Folder, make
from django_formula.site import sites
from django_formula.site.sites import Site

#: Seconds of a slot, as nginx's map of `$msec` has it, and slots that are written at a time.
SLOT, _AHEAD = 10, 2
BUCKETS = 100
#: The key of visitors who ask for the active release.
NONE = "none"


def folder(site: Site) -> Path:
    """Return the folder of a site's lease; not in `Site.runtime`, which the site may write to."""
    return sites.RUNTIME / f"{site.name}.canary"


def first(share: int) -> list[str]:
    """Return the buckets of the visitors who get a new release first: a larger share has those of a smaller one."""
    return [f"{number:02}" for number in range(share)]


def rest(share: int) -> list[str]:
    """Return the buckets of the visitors who keep the former release longest: the last ones."""
    return [f"{number:02}" for number in range(BUCKETS - share, BUCKETS)]


def hold(site: Site, keys: Collection[str], now: float | None = None) -> None:
    """Give these visitors the other release for the present slot and the next one, and no others."""
    top = folder(site)
    if not top.is_dir():
        make(Folder(top, "root", "root", 0o711))
    chosen = _set(top, keys)
    slot = int((time.time() if now is None else now) // SLOT)
    kept = {str(number) for number in range(slot, slot + _AHEAD)}
    for name in sorted(kept):
        if not (top / name).is_symlink() or os.readlink(top / name) != chosen:
            file.link(top / name, chosen, durable=False)
    if not (top / "on").exists():
        (top / "on").touch()
    for path in top.iterdir():
        if path.name not in {"on", chosen, *kept}:
            file.remove_tree(path)


def _set(top: Path, keys: Collection[str]) -> str:
    """Make the folder with a file for each key; return its name, which says what is in it."""
    name = f"set-{file.checksum(' '.join(sorted(keys)))[:16]}"
    if not (top / name).is_dir():
        made = top / f".{name}"
        if made.exists():
            file.remove_tree(made)
        make(Folder(made, "root", "root", 0o711))
        for key in keys:
            (made / key).touch()
        made.rename(top / name)
    return name


def end(site: Site) -> None:
    """Give all visitors the active release from now on."""
    top = folder(site)
    with contextlib.suppress(FileNotFoundError):
        (top / "on").unlink()
    if top.exists():
        file.remove_tree(top)
