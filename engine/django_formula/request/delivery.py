"""What git servers send to a webhook: whether a secret has signed it, and which branch has which commit now.

GitHub, GitLab, Gitea, Forgejo, Gogs and Bitbucket (Cloud, Data Center). Nothing of a delivery is believed that is not
signed, and of a signed one the name of a branch and a commit: docs/decisions/0159.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

#: The headers with a signature, and what comes before its digits: SHA-256 of all.
_SIGNATURES = {
    "x-hub-signature-256": "sha256=",
    "x-hub-signature": "sha256=",
    "x-forgejo-signature": "",
    "x-gitea-signature": "",
    "x-gogs-signature": "",
}
#: The header of GitLab, which sends the secret itself.
_TOKEN = "x-gitlab-token"  # noqa: S105 # nosec B105
#: The header with the name of the event, the server, and its names of a push. A server sends those of its ancestors
#: too, so the first one that is there counts.
_EVENTS = (
    ("x-forgejo-event", "Forgejo", ("push",)),
    ("x-gitea-event", "Gitea", ("push",)),
    ("x-gogs-event", "Gogs", ("push",)),
    ("x-gitlab-event", "GitLab", ("Push Hook",)),
    ("x-event-key", "Bitbucket", ("repo:push", "repo:refs_changed")),
    ("x-github-event", "GitHub", ("push",)),
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: What servers send as the commit of a branch that is deleted.
_DELETED = "0" * 40


class Update(NamedTuple):
    """A branch or tag by its whole name, and the commit that it has now; an empty one where it is deleted."""

    ref: str
    commit: str


def is_signed(headers: Mapping[str, str], body: bytes | bytearray, secrets: Iterable[str]) -> bool:
    """Return whether one of the secrets has signed a delivery.

    Args:
        headers: by their names in lower case.
    """
    same = []
    for secret in secrets:
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        same += [_is_same(headers.get(name, ""), before + digest) for name, before in _SIGNATURES.items()]
        same.append(_is_same(headers.get(_TOKEN, ""), secret))
    return any(same)


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def server(headers: Mapping[str, str]) -> str:
    """Return the name of the server that has sent a delivery; an empty text for another program."""
    return next((name for header, name, _push in _EVENTS if header in headers), "")


def updates(headers: Mapping[str, str], body: bytes | bytearray) -> list[Update]:
    """Return what a signed delivery tells of branches; nothing for events that are no push.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: it is not what such a server sends.
    """
    event, pushes = next(((headers[header], push) for header, _name, push in _EVENTS if header in headers), ("", ()))
    if not event:
        raise ValueError("no header names an event of a git server that is known")
    if event not in pushes:
        return []
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        from urllib.parse import parse_qs  # GitHub's other format, which few choose

        body = parse_qs(body.decode(), max_num_fields=2, strict_parsing=True)["payload"][0].encode()
    return [Update(ref, _commit(commit)) for ref, commit in _refs(json.loads(body))]


def _commit(text: Any) -> str:
    if not isinstance(text, str) or not _COMMIT.fullmatch(text):
        raise ValueError("a commit has 40 hexadecimal digits")
    return "" if text == _DELETED else text


def _refs(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield the refs of a push with their commits, in the formats of the servers."""
    if "ref" in found:
        yield str(found["ref"]), found["after"]
    elif "push" in found:  # Bitbucket Cloud: without a new state the branch is deleted
        for change in found["push"]["changes"]:
            new = change["new"] or {**change["old"], "target": {"hash": _DELETED}}
            kind = "tags" if new["type"] == "tag" else "heads"
            yield f"refs/{kind}/{new['name']}", new["target"]["hash"]
    else:  # Bitbucket Data Center
        for change in found["changes"]:
            yield str(change["ref"]["id"]), change["toHash"]
