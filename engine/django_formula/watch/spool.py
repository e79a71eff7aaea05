"""The folder of the watch: its state, and what waits for each channel. All of it is root's."""

import contextlib
import errno
import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import file, locks

STATE = Path("/var/lib/django-formula/watch")
#: Where the page is written, if it is wanted: a folder of root, which the proxy may read where it is served.
PAGE = Path("/var/lib/django-formula/page")
CONFIG = Path("/etc/django-formula/watch.json")
CHANNELS = Path("/etc/django-formula/notify")
#: The user that sends messages: nothing on the host belongs to it but what waits for a channel.
SENDER = "_django-notify"
#: The channel of the heartbeat, which no channel of the pillar can have as its name.
HEARTBEAT = "_heartbeat"
#: The most messages that wait for a channel.
MOST = 200
#: The file with space for what is written on a full disk, and its size.
_SPARE, _SPARE_SIZE = ".spare", 1 << 17
_RETRY = {"tries": int, "at": (int, float), "error": str, "kept?": (int, float)}


def state_path(name: str = "state.json") -> Path:
    """Return the file that the watch writes after each look."""
    return STATE / name


def state(name: str = "state.json") -> dict[str, Any]:
    """Return what the watch has written after its last look."""
    return file.read_json(state_path(name)) or {}


def keep(state: Mapping[str, Any], name: str = "state.json") -> None:
    """Write what the next look, `django.notify` and the page read."""
    _write(state_path(name), state)


def keep_spare(folder: Path) -> None:
    """Allocate space for the next file of a folder, with which it is written where the disk is full by then."""
    spare = folder / _SPARE
    with contextlib.suppress(OSError):  # it is full already
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not spare.exists():
            file.write(spare, bytes(_SPARE_SIZE), mode=0o600, durable=False)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    try:
        file.write_json(path, value, mode=0o600, durable=False)
    except OSError as error:
        spare = path.with_name(_SPARE)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not spare.exists():
            raise
        with spare.open("r+b") as own:
            own.write(f"{json.dumps(value)}\n".encode())
            own.truncate()
        spare.replace(path)
        keep_spare(path.parent)  # of what it has replaced


def config() -> dict[str, Any]:
    """Return the configuration of the watch, as the last apply wrote it; empty without a watch."""
    return file.read_json(CONFIG) or {}


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Wait until no other process writes what the watch is configured to write, or changes its configuration.

    Else a look that has begun before an apply would write once more what the apply has removed. Only root may open the
    folder whose lock it is: any user could hold that of another one for ever.
    """
    CHANNELS.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.of_folder(CHANNELS):
        yield


def host() -> str:
    """Return the name of this host in messages."""
    return socket.gethostname()


def folder(channel: str) -> Path:
    """Return the folder of what waits for a channel."""
    return STATE / "spool" / channel


def put(channel: str, batch: Mapping[str, Any]) -> None:
    """Have a batch of messages sent by a channel."""
    folder(channel).mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in batches(channel)[:-MOST]:
        path.unlink(missing_ok=True)
    _write(folder(channel) / f"{time.time_ns()}.json", batch)


def batches(channel: str) -> list[Path]:
    """Return the batches that wait for a channel, the oldest first."""
    return sorted(folder(channel).glob("*.json"))


def forget_lost(channel: str) -> None:
    """Delete the oldest batches that were given up."""
    for path in sorted(folder(channel).glob("*.lost"))[:-MOST]:
        path.unlink(missing_ok=True)


def due(channels: Iterable[str]) -> list[str]:
    """Return the channels for which something waits, and whose next try is due."""
    now = time.time()
    return [channel for channel in channels if batches(channel) and retry(channel)["at"] <= now]


def retry(channel: str) -> dict[str, Any]:
    """Return how often sending by a channel has failed since it last succeeded, when it is tried again, and why."""
    found = file.read_json(folder(channel) / ".retry", _RETRY) or {"tries": 0, "at": 0, "error": ""}
    is_set_back = found.pop("kept", 0) > time.time()  # the clock, since then: a host may begin with a wrong one
    return found | ({"at": 0} if is_set_back else {})


def keep_retry(channel: str, **retry: Any) -> None:
    """Write when a channel is tried again; nothing, where it has succeeded."""
    path = folder(channel) / ".retry"
    if retry:
        with contextlib.suppress(FileNotFoundError):  # the watch was removed while this was sent
            file.write_json(path, {**retry, "kept": time.time()}, mode=0o600, durable=False)
    else:
        path.unlink(missing_ok=True)


def quiet() -> dict[str, dict[str, Any]]:
    """Return the sites whose messages are on hold by `django.notify quiet`: until, why and by whom."""
    now, moment = time.time(), (int, float)
    shape = {str: {"until": moment, "since?": moment, "why": str, "by": str}}
    kept = file.read_json(STATE / "quiet.json", shape) or {}
    # One that has yet to begin was made while the clock was wrong: its end may be years away.
    return {site: one for site, one in kept.items() if one.get("since", 0) <= now < one["until"]}
