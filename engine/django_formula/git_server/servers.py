"""The APIs of Git servers as data: where the checks of a commit are, and how the status of a deployment is written.

What calls them runs in a child of `untrusted.network`, with the address of the project's API and a token. Sources:
docs.github.com (REST: commit statuses, check runs, deployments), docs.gitlab.com (commits API), the Swagger pages of
Forgejo and Gitea (repository: statuses).
"""

import json
import urllib.error
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from django_formula.secret.secrets import KeptSecret
from django_formula.untrusted import network, shapes

#: The token that `checks` of a site reads with, which the last apply keeps; with several hosts their master has it.
TOKEN = KeptSecret(
    ".checks_token", lambda config: None if config.get("fleet") else (config.get("checks") or {}).get("token")
)
#: What our own statuses begin with: they are no checks.
OWN = "django-formula"
#: The most bytes of an answer, and pages of a list.
_LIMIT, _PAGES = 4 << 20, 20
#: Bytes of a refusal.
_REFUSAL = 4096
#: The states of a check that has passed, and of one that has not ended.
_GOOD = ("success", "neutral", "skipped")
_WAITS = (
    *("pending", "queued", "in_progress", "waiting", "requested", "created", "running", "preparing", "scheduled"),
    *("waiting_for_resource", "manual"),
)


class Listed(NamedTuple):
    """Where an API lists what ran for a commit.

    Attributes:
        path: after the address of the project.
        key: of the rows in the answer; empty where the answer is the rows.
        name: the key of a row's name.
        states: the keys of its state: the first that has a value counts.
    """

    path: str
    key: str
    name: str
    states: tuple[str, ...]


class Kind(NamedTuple):
    """A kind of Git server.

    Attributes:
        header: the name and the beginning of the value of the header that has the token.
        lists: where checks are listed.
        states: how it names the end of a deployment: released, failed, interrupted.
    """

    header: tuple[str, str]
    lists: tuple[Listed, ...]
    states: dict[str, str]


KINDS = {
    "github": Kind(
        ("Authorization", "Bearer "),
        (
            Listed("commits/{commit}/status?per_page=100", "statuses", "context", ("state",)),
            Listed("commits/{commit}/check-runs?per_page=100", "check_runs", "name", ("conclusion", "status")),
        ),
        {"released": "success", "failed": "failure", "interrupted": "error"},
    ),
    "gitlab": Kind(
        ("PRIVATE-TOKEN", ""),
        (Listed("repository/commits/{commit}/statuses?per_page=100", "", "name", ("status",)),),
        {"released": "success", "failed": "failed", "interrupted": "canceled"},
    ),
    "forgejo": Kind(
        ("Authorization", "token "),
        (Listed("commits/{commit}/status?limit=50", "statuses", "context", ("status", "state")),),
        {"released": "success", "failed": "failure", "interrupted": "error"},
    ),
}


def call(kind: str, url: str, token: str, body: Any = None) -> Any:
    """Return what the API answers, of any shape; None for an empty answer.

    Args:
        body: posted as JSON; None asks by GET.

    Raises:
        OSError, http.client.HTTPException, ValueError, RecursionError: it does not answer, or not with JSON.
    """
    name, begin = KINDS[kind].header
    headers = {"Accept": "application/json", "User-Agent": OWN, "Content-Type": "application/json"}
    headers |= {name: f"{begin}{token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    answer = network.fetched(network.request(url, data, headers), _LIMIT)
    return json.loads(answer) if answer else None


def checks(kind: str, url: str, token: str, commit: str, names: list[str], ignored: list[str]) -> dict[str, Any]:
    """Return how the checks of a commit are: ``state``, and the ``names`` of those that decide it.

    ``passed``, ``pending``, ``failed``, or ``none`` where there is none at all.

    Args:
        url: the address of the project's API.
        names: of the checks that have to pass; with none, all that there are.
        ignored: of those that do not count, such as the job that waits for this release.

    Raises:
        OSError, http.client.HTTPException, ValueError, RecursionError: the server does not say.
    """
    found = [row for listed in KINDS[kind].lists for row in _rows(kind, url, token, listed, commit)]
    found = [row for row in found if not row[0].startswith(OWN) and row[0] not in ignored]
    there = {name for name, _state in found}
    rows = [row for row in found if row[0] in names] if names else found
    failed = [name for name, state in rows if state not in _GOOD + _WAITS]
    waits = [name for name, state in rows if state in _WAITS] + [name for name in names if name not in there]
    state = "failed" if failed else "pending" if waits else "passed" if rows else "none"
    return {"state": state, "names": [name[:80] for name in dict.fromkeys(failed or waits)][:20]}


def _rows(kind: str, url: str, token: str, listed: Listed, commit: str) -> Iterator[tuple[str, str]]:
    """Yield name and state of what ran for a commit: pages until one is empty, or has nothing new."""
    seen: set[str] = set()
    for page in range(1, _PAGES + 1):
        answer = call(kind, f"{url}/{listed.path.format(commit=commit)}&page={page}", token)
        if listed.key and isinstance(answer, dict) and listed.key in answer:
            answer = answer[listed.key] or []
        if not shapes.fits(answer, [{listed.name: str}]):
            raise ValueError("the answer has no list of checks")
        new = [row for row in answer if json.dumps(row, sort_keys=True) not in seen]
        if not new:
            return
        seen |= {json.dumps(row, sort_keys=True) for row in new}
        for row in new:
            state = next((row[key] for key in listed.states if row.get(key)), "")
            yield row[listed.name], "success" if row.get("allow_failure") is True else str(state)
    raise ValueError(f"it has more than {_PAGES} pages of checks")


def report(kind: str, url: str, token: str, message: Mapping[str, Any], environment: str) -> None:
    """Write how a deployment has ended: a deployment of GitHub, a status of the commit elsewhere.

    Args:
        message: of the watch, with ``commit``, ``kind`` and ``text``.
        environment: the name that the deployment has there.

    Raises:
        OSError, http.client.HTTPException, ValueError, RecursionError: the server did not take it.
    """
    ended = {"rolled_back": "released"}.get(message["kind"], message["kind"])
    state, text = KINDS[kind].states[ended], message["text"][:140]
    if kind != "github":
        name = "name" if kind == "gitlab" else "context"
        body = {"state": state, name: f"{OWN}/{environment}", "description": text}
        try:
            call(kind, f"{url}/statuses/{message['commit']}", token, body)
        except urllib.error.HTTPError as error:  # GitLab refuses the status that the commit has
            if error.code != 400 or b"Cannot transition status" not in error.read(_REFUSAL):
                raise
        return
    made = {"ref": message["commit"], "environment": environment, "description": OWN, "auto_merge": False}
    made = call(kind, f"{url}/deployments", token, {**made, "required_contexts": []})  # or 409 while checks run
    if not shapes.fits(made, {"id": int}):
        raise ValueError("the answer has no number of a deployment")
    call(kind, f"{url}/deployments/{made['id']}/statuses", token, {"state": state, "description": text})
