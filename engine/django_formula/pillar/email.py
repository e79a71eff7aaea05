"""Contradictions in the mail of a site: what the schema cannot check option by option."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_formula.pillar.check import Problem
from django_formula.pillar.layers import LOOPBACK


def email(site: dict[str, Any], _own: dict[str, Any]) -> Iterator[Problem]:
    """Yield a login that everybody on the way can read, mail without an effect, and words without a server."""
    words = {name: value.get("from", "") for name, value in site["environment"].items() if isinstance(value, dict)}
    used = {name: word for name, word in words.items() if word.startswith("email_")}
    mail = site.get("email")
    if not mail:
        yield from ((("environment", name), f"{word} is not known: set email:host") for name, word in used.items())
        return
    if mail["user"] and mail["password"] and mail["tls"] == "none" and mail["host"] not in LOOPBACK:
        yield ("email", "tls"), f"expected starttls or tls, since the password is sent to {mail['host']}"
    if not site["overlay"] and not used:
        yield ("email",), "has no effect with overlay: false, unless environment takes email_url or another word of it"
