"""The verb `django.notify`: the channels of this host, a message to try one, and sites about which none is sent."""

import contextlib
import time
from typing import Any

from django_formula.host import clock, commands, file
from django_formula.host.commands import DeploymentError, seconds
from django_formula.site import sites
from django_formula.untrusted.text import shown
from django_formula.watch import setup, spool


def notify(action: str, name: str, duration: str, why: str, by: str) -> Any:
    """Do what `django.notify` asks for.

    Raises:
        DeploymentError: the host is not watched, or there is no such action, channel or site.
    """
    config = spool.config()
    if not config:
        raise DeploymentError(
            "this host is not watched", hint="remove django:watch: false, and run salt-call state.apply django"
        )
    if action == "test":
        return _tried(config, name)
    if action == "quiet":
        return _quieten(name, duration, why, by)
    if action:
        raise DeploymentError(
            f"there is no action {action!r}", hint="django.notify test, or django.notify quiet blog 2h"
        )
    return overview(config)


def overview(config: dict[str, Any]) -> dict[str, Any]:
    """Return the channels, what is wrong now, and the sites about which no messages are sent."""
    state = spool.state()
    known = state.get("known", {}).values()
    return {
        "last look": clock.timestamp(state["time"]) if "time" in state else "none yet",
        "channels": {name: _channel(name, one) for name, one in config["channels"].items()},
        "problems": [f"{one['site'] or state['host']}: {one['text']}" for one in known if one["looks"][-1]],
        "quiet": {
            site: f"until {clock.timestamp(one['until'])} by {one['by']}: {one['why']}"
            for site, one in spool.quiet().items()
        },
    }


def _channel(name: str, one: dict[str, Any]) -> str:
    waits, retry = len(spool.batches(name)), spool.retry(name)
    parts = [one["format"], ", ".join(one["sites"]) if not one["host"] else "all sites"]
    parts += [f"{waits} wait"] if waits else []
    parts += [f"{retry['error']} ({retry['tries']} tries)"] if retry["error"] else []
    lost = len([*spool.folder(name).glob("*.lost")])
    return "; ".join([*parts, *([f"{lost} given up"] if lost else [])])


def _tried(config: dict[str, Any], name: str) -> dict[str, str]:
    if not config["channels"] or (name and name not in config["channels"]):
        known = ", ".join(config["channels"]) or "none"
        raise DeploymentError(f"there is no channel {name or 'yet'!r} (configured: {known})", hint="set django:notify")
    return {one: _try(one) for one in ([name] if name else config["channels"])}


def _try(name: str) -> str:
    """Have the program of the watch send a message by a channel, and return how that ended."""
    text = "a message to try this channel, from django.notify test"
    message = {"what": "event", "site": "", "kind": "watch", "text": text, "command": "", "since": time.time()}
    spool.put(name, {"host": spool.host(), "time": time.time(), "messages": [message]})
    if (failed := spool.retry(name))["tries"]:
        spool.keep_retry(name, **{**failed, "at": 0})  # now, and what has failed until then is not forgotten
    argv = ["/usr/bin/python3", "-I", str(setup.PROGRAM), "send", name]
    with contextlib.suppress(DeploymentError):  # what it has to say is in the file of its next try
        commands.run(argv, doing=f"sending by {name}", timeout=120)
    return spool.retry(name)["error"] or ("it waits" if spool.batches(name) else "sent")


def _quieten(site: str, duration: str, why: str, by: str) -> dict[str, Any]:
    sites.find(site)
    with spool.locked():  # another command may have another site be quiet
        kept = spool.quiet()
        kept.pop(site, None)
        if duration != "off":
            now = time.time()
            try:
                until = now + seconds(duration)
            except (KeyError, TypeError, ValueError):
                raise DeploymentError(
                    f"{duration!r} is no duration", hint=f"django.notify quiet {site} 2h 'moving the database'"
                ) from None
            kept[site] = {"until": until, "since": now, "why": shown(why)[:200], "by": by}
        file.write_json(spool.STATE / "quiet.json", kept, mode=0o600)
    return {site: f"no messages until {clock.timestamp(kept[site]['until'])}" if site in kept else "messages are sent"}
