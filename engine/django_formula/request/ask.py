"""Ask for the release of a commit by the socket of a site, for programs of this host that are not root."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Tries to connect, and seconds between two.
_TRIES, _PAUSE = 30, 1.0
#: Bytes of a line of the answer.
_LINE = 1 << 16
#: The final statuses that are no failure.
GOOD = ("released", "superseded")


def ask(path: Path, request: dict[str, Any], tell: Callable[[str], None]) -> tuple[str, str]:
    """Return the final status of a request, and why it has it.

    A unit that was restarted meanwhile is asked again: for the result of what it has accepted, else for the same.

    Args:
        path: the socket.
        request: what is sent, as `request.door` reads it.
        tell: is called with each step of the release.
    """
    number, told = "", 0
    for _try in range(_TRIES):
        sent = {"do": "result", "id": number} if number else {**request, "do": "request", "follow": True}
        begun = 0
        for answer in _answers(path, sent):
            number = str(answer.get("accepted") or number)
            if "step" in answer:
                begun += 1
                if begun > told:
                    told = begun
                    tell(str(answer["step"]))
            if "status" in answer:
                return str(answer["status"]), str(answer.get("why", ""))
        time.sleep(_PAUSE)
    return "failed", f"{path} does not answer" if not number else f"request {number} has no result yet"


def _answers(path: Path, sent: dict[str, Any]) -> list[dict[str, Any]] | Any:
    """Yield what is answered, until the connection ends."""
    with contextlib.suppress(OSError, ValueError, RecursionError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(json.dumps(sent).encode() + b"\n")
        with connection.makefile("rb") as lines:
            while line := lines.readline(_LINE):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    yield answer
