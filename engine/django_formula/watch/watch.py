"""The program of the watch, an archive: it looks, walks, sends messages, and serves metrics."""

from django_formula.host import lazy  # noqa: F401 - the others run when they are used

# isort: split
import os
import time
from collections.abc import Callable
from typing import Any

from django_formula.git_server import servers
from django_formula.host import daemons, units
from django_formula.metrics import metrics, serve
from django_formula.page import pages
from django_formula.untrusted.text import tell
from django_formula.watch import decide, fleet, look, send, spool, walk

#: Seconds until a second look, where one has found something new.
AGAIN = 10.0
#: The state of the watch of a master.
FLEET = "fleet.json"
#: Seconds of a look that are a problem.
SLOW = 30.0


def main(action: str, *words: str) -> int:
    """Do what a unit or cron asks for; return the exit code."""
    parts = {"send": send, "walk": walk, "serve": serve}  # as modules, of which only that runs which is meant
    looks = {"look": take, "fleet": take_fleet}
    status: int = parts[action].main(*words) if action in parts else looks[action](spool.config())
    return status


def take(config: dict[str, Any]) -> int:
    """Look at this host, decide, and have messages sent; where something is new, look once more shortly after."""
    for turn in range(2):
        state = spool.state()
        last, began, since = state.get("time"), time.time(), time.monotonic()
        seen = look.examine(state, config, began)
        known = state.setdefault("known", {})
        is_quiet = look.quiet_by(config, seen, began)
        messages = decide.decide(known, seen.problems, began, is_quiet) + look.told_events(state, seen, is_quiet)
        took = time.monotonic() - since
        state |= {"version": 1, "host": spool.host(), "time": began, "took": round(took, 2), "sites": seen.rows}
        if _is_over(config, last):
            return 0
        with spool.locked():
            if _is_over(config, last):
                return 0
            if config.get("metrics"):
                _attempt("the metrics", metrics.write, config["metrics"], seen, state, began)
            _keep(config, messages, began, state)
            if config.get("page") and config.get("page_of") != "all":
                _attempt("the page", pages.of_look, seen, known, began)
        for one in messages:
            tell(f"{one['what']}: {one['site'] or state['host']}: {one['text']}")
        if turn or not decide.is_new(known):
            break
        time.sleep(AGAIN)
    return 0


def take_fleet(config: dict[str, Any]) -> int:
    """Look at the hosts of this master, and have messages sent."""
    began, state = time.time(), spool.state(FLEET)
    last = state.get("time")
    messages, seen = fleet.take(state, config, began)
    if _is_over(config, last, FLEET):
        return 0
    with spool.locked():
        if _is_over(config, last, FLEET):
            return 0
        _keep({**config, "heartbeat": False}, messages, began, {**state, "version": 1, "time": began}, FLEET)
        if seen is not None:
            _attempt("the page", pages.of_hosts, seen, began)
    for one in messages:
        tell(f"{one['what']}: {one.get('host') or one['site'] or spool.host()}: {one['text']}")
    return 0


def _is_over(config: dict[str, Any], last: float | None, *name: str) -> bool:
    """Return whether what a look has found is no longer to be told.

    An apply has changed or removed the configuration meanwhile: the next look tells of all that this one has found. Or
    another look, which cron starts although one is under way, has told of it.

    Args:
        last: when the host was looked at before this one, as its state had it.
        name: of the file of the state.
    """
    return spool.config() != config or spool.state(*name).get("time") != last


def _attempt(what: str, write: Callable[..., object], *arguments: Any) -> None:
    """Write what shows and measures; whatever that fails with, messages are sent and looks go on."""
    try:
        write(*arguments)
    except Exception as error:
        tell(f"{what} could not be written: {type(error).__name__}: {error}", is_error=True)


def _keep(config: dict[str, Any], messages: list[decide.Message], began: float, state: Any, *name: str) -> None:
    """Have messages sent, and keep the state, also on a full disk; what waits is sent whatever cannot be kept."""
    for folder in (spool.STATE, *map(spool.folder, config["channels"])):
        spool.keep_spare(folder)
    try:
        _have_sent(config, messages, began)
        spool.keep(state, *name)
    finally:
        _start(config)


def _have_sent(config: dict[str, Any], messages: list[decide.Message], now: float) -> None:
    """Put messages into the spool of each channel that takes them: a batch of this look."""
    for name, channel in config["channels"].items():
        own = decide.folded([one for one in messages if look.takes(channel, one)])
        # A Git server gets each deployment by itself: one that it refuses is not sent again with the next.
        parts = [[one] for one in own if one.get("commit")] if channel.get("format") in servers.KINDS else [own]
        for part in filter(None, parts):
            spool.put(name, {"host": spool.host(), "time": now, "messages": part})


def _start(config: dict[str, Any]) -> None:
    """Start the senders of the channels for which something waits; nothing waits for them."""
    names = spool.due(config["channels"])
    names += [spool.HEARTBEAT] if config["heartbeat"] else []
    if not names:
        return
    if daemons.has_systemd():
        senders = (f"django-notify@{name}.service" for name in names)
        units.attempt("start", "--no-block", *senders, doing="starting senders", timeout=10)
        return
    for name in names:
        if not os.fork():
            code = 1
            try:
                os.setsid()
                code = send.main(name)
            finally:
                os._exit(code)  # whatever it fails with: it is not the look
