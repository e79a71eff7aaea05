"""Messages as people and programs read them: a batch as text, and as what each kind of channel takes.

Texts of a project are data in each of them: no part of a message is markup, a link or a name that is called.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django_formula.untrusted.text import shown

Batch = Mapping[str, Any]
#: The most messages of a batch that a text has.
_MOST = 30
#: The most bytes that Teams takes.
_OF_TEAMS = 28000
_HEADS = {"good": "good again", "unstable": "unstable"}
_EVENTS = {
    **{"failed": "release failed", "interrupted": "deployment interrupted", "refused": "deployment refused"},
    "shell": "console that can change data",
}


class Request(NamedTuple):
    """What is posted to a channel: a body, and headers."""

    body: bytes
    headers: dict[str, str]


def title(batch: Batch) -> str:
    """Return the first line of a batch: ``[web1] shop: down``."""
    messages = batch["messages"]
    if len(messages) > 1:
        sites = {site for one in messages for site in one.get("sites") or [one["site"]]} - {""}
        of_sites = f" of {len(sites)} site{'s' if len(sites) > 1 else ''}" if sites else ""
        return shown(f"[{batch['host']}] {len(messages)} messages{of_sites}")
    one = messages[0]
    kind = one["kind"].replace("_", " ")
    head = f"{_HEADS[one['what']]}: {kind}" if one["what"] in _HEADS else _EVENTS.get(kind, kind)
    where = f"{one['site'] or one['host']}: " if one["site"] or one.get("host") else ""
    return shown(f"[{batch['host']}] {where}{head}")


def text(batch: Batch, limit: int) -> str:
    """Return a batch as lines, cut after a number of characters."""
    lines = []
    for one in batch["messages"][:_MOST]:
        lines.append(f"{one['site'] or one.get('host') or batch['host']}: {one['text']}")
        lines += [f"    do: {one['command']}"] if one.get("command") else []
        lines += [f"    by: {one['by']}"] if one.get("by") else []
    more = len(batch["messages"]) - _MOST
    lines += [f"and {more} more: salt-call django.status"] if more > 0 else []
    whole = "\n".join(shown(line) for line in lines)
    return whole if len(whole) <= limit else f"{whole[: limit - 1]}…"


def plain(batch: Batch) -> dict[str, Any]:
    """Return a batch as programs read it; within a version keys are only added."""
    return {"version": 1, **batch}


def _slack(batch: Batch) -> Any:
    return {"text": f"*{_in_slack(title(batch))}*\n```{_in_slack(text(batch, 2900))}```"}


def _in_slack(part: str) -> str:
    return _fenced(part).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fenced(part: str) -> str:
    """Return a text that does not end the block of code that it is in."""
    return part.replace("`", "'")


def _mattermost(batch: Batch) -> Any:
    # A block of code mentions no person; the title has the names of host, site and kind alone.
    return {
        "text": f"**{_fenced(title(batch))}**\n```\n{_fenced(text(batch, 3800))}\n```",
        "username": "django-formula",
    }


def _discord(batch: Batch) -> Any:
    content = f"**{_fenced(title(batch))[:100]}**\n```\n{_fenced(text(batch, 1850))}\n```"
    return {"content": content, "allowed_mentions": {"parse": []}}


def _teams(batch: Batch) -> Any:
    cards = (_card(batch, limit) for limit in (20000, 10000, 5000, 1800))  # of which the last one always fits
    return next(card for card in cards if len(json.dumps(card)) <= _OF_TEAMS)


def _card(batch: Batch, limit: int) -> Any:
    lines = [
        {"type": "TextRun", "text": f"{line}\n", "fontType": "Monospace"} for line in text(batch, limit).split("\n")
    ]
    head = {"type": "TextRun", "text": title(batch), "weight": "Bolder"}
    card = {
        "type": "AdaptiveCard",
        "version": "1.4",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "body": [{"type": "RichTextBlock", "inlines": inlines} for inlines in ([head], lines)],
    }
    return {
        "type": "message",
        "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}],
    }


#: What is posted as JSON, by the format of a channel.
_JSON: dict[str, Callable[[Batch], Any]] = {
    "json": plain,
    "slack": _slack,
    "mattermost": _mattermost,
    "discord": _discord,
    "teams": _teams,
}
FORMATS = (*_JSON, "ntfy", "apprise")


def request(batch: Batch, form: str, token: str = "") -> Request:
    """Return what is posted to a channel of a format, other than by apprise.

    Args:
        token: sent as a bearer token, if there is one.
    """
    headers = {"User-Agent": "django-formula"} | ({"Authorization": f"Bearer {token}"} if token else {})
    if form != "ntfy":
        body = json.dumps(_JSON[form](batch)).encode()
        return Request(body, {"Content-Type": "application/json", **headers})
    urgent = any(one["what"] == "problem" for one in batch["messages"])
    head = title(batch).encode("ascii", "replace").decode()
    headers |= {"Content-Type": "text/plain; charset=utf-8", "Title": head, "Priority": "4" if urgent else "3"}
    return Request(text(batch, 3900).encode(), headers)
