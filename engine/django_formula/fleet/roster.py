"""Functions on the hosts of salt-ssh's roster, from a runner: the same as `fleet.minions`, without minions.

salt-ssh tells how each call has ended. A host is lost where ssh itself has failed, or brought no answer of Salt's: what
was begun there may go on. A connection that has died is noticed by ssh, as Salt's own defaults would take minutes.
"""

import json
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import salt.client.ssh.client
import salt.roster

from django_formula.fleet.minions import Answer, answer_of, unfinished

#: Of ssh: seconds to connect (two values, which Salt adds), and how often a silent host is asked before it is lost.
_SSH = {"timeout": 5, "ssh_timeout": 1, "ssh_keepalive_interval": 5, "ssh_keepalive_count_max": 3}
#: Seconds in which a host is to run a command that does nothing: those of ssh to notice that it is gone, and some.
_PING_LIMIT = 25.0
#: Seconds after which what was sent without waiting for an answer is not waited for either: that host hangs.
_SENT = 60.0
#: How functions are called on hosts of the roster, each answer with its host.
_Call = Callable[[list[str]], Iterator[tuple[str, Answer]]]


class Roster:
    """The hosts of the roster.

    Args:
        options: the master's configuration.
    """

    #: A call takes salt-ssh some seconds to begin, and more of them for many hosts.
    patience = 60.0

    def __init__(self, options: dict[str, Any]):
        self._client = salt.client.ssh.client.SSHClient(mopts=options)
        self._known = {*targets(options)}
        self._sent: list[tuple[threading.Thread, float]] = []  # and when it is not waited for any more

    def names(self) -> list[str]:
        """Return the hosts of the roster."""
        return sorted(self._known)

    def ask(
        self,
        hosts: Collection[str],
        function: str,
        *arguments: Any,
        look: float = 0.1,
        limit: float = math.inf,
        every: float = 20.0,
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, Answer]:
        """Call a function on hosts at once; return the answer of each.

        Args:
            look: has no effect: ssh itself notices that a host is gone.
            limit: seconds after which a host without an answer is lost.
            every: seconds between two calls of `meanwhile`.
            meanwhile: is called as long as an answer is missing.
        """
        texts = [_argument(value) for value in arguments]
        return self._answers(hosts, lambda known: self._call(known, function, texts), limit, every, meanwhile)

    def ping(self, hosts: Collection[str]) -> dict[str, Answer]:
        """Log in to hosts; return the answer of each: one that runs a command is there, with Salt or without."""
        return self._answers(hosts, self._reach, _PING_LIMIT, math.inf, None)

    def _answers(
        self,
        hosts: Collection[str],
        call: _Call,
        limit: float,
        every: float,
        meanwhile: Callable[[], None] | None,
    ) -> dict[str, Answer]:
        answers = {name: Answer({}, "it is not in the roster", True) for name in hosts if name not in self._known}
        came: queue.Queue[tuple[str, Answer]] = queue.Queue()
        self._begin(hosts, call, came)
        began = called = time.monotonic()
        while len(answers) < len({*hosts}):
            if time.monotonic() - began > limit:
                answers |= {name: Answer({}, unfinished(limit), True) for name in {*hosts} - {*answers}}
            try:
                name, answer = came.get(timeout=0.2)
                answers[name] = answer
            except queue.Empty:
                pass
            if meanwhile and time.monotonic() - called > every:
                meanwhile()
                called = time.monotonic()
        for thread, until in self._sent:  # what salt-ssh has begun is over before the runner ends
            thread.join(max(until - time.monotonic(), 0.0))
        self._sent = []
        return answers

    def send(self, hosts: Collection[str], function: str, *arguments: Any) -> None:
        """Call a function on hosts without waiting for an answer; the next `ask` ends after it, unless a host hangs."""
        texts = [_argument(value) for value in arguments]
        thread = self._begin(hosts, lambda known: self._call(known, function, texts), queue.Queue())
        self._sent.append((thread, time.monotonic() + _SENT))

    def _begin(self, hosts: Collection[str], call: _Call, came: "queue.Queue[tuple[str, Answer]]") -> threading.Thread:
        """Call a function on those hosts that the roster has; put each answer into a queue as it comes."""
        known = sorted({*hosts} & self._known)

        def run() -> None:
            missing = {*known}
            problem = "salt-ssh brought no answer"
            try:
                for name, answer in call(known):
                    missing.discard(name)
                    came.put((name, answer))
            except Exception as error:  # whatever it is, those that wait for an answer have to get one
                problem = f"salt-ssh failed: {error}"
            for name in missing:
                came.put((name, Answer({}, problem, True)))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def _call(self, hosts: list[str], function: str, texts: list[str]) -> Iterator[tuple[str, Answer]]:
        if not hosts:
            return
        for found in self._client.cmd_iter(hosts, function, texts, tgt_type="list", **_SSH):
            for name, value in found.items():
                yield name, _answer(value)

    def _reach(self, hosts: list[str]) -> Iterator[tuple[str, Answer]]:
        if not hosts:
            return
        for found in self._client.cmd_iter(hosts, "true", [], tgt_type="list", raw_shell=True, **_SSH):
            for name, value in found.items():
                is_there = isinstance(value, dict) and value.get("retcode") == 0
                yield name, Answer({}) if is_there else _answer(value)


def targets(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the hosts of the roster that the master's configuration names, each with its entry."""
    roster = salt.roster.Roster(options, options.get("roster") or "flat")
    try:
        return dict(roster.targets("*", "glob"))
    finally:
        roster.destroy()


def _argument(value: Any) -> str:
    """Return an argument as a text of which a host makes the same value: Salt reads each one there as YAML.

    >>> _argument("0012345"), _argument("v1 #2"), _argument(None)
    ('"0012345"', '"v1 \\\\u00232"', 'null')
    """
    return json.dumps(value).replace("#", "\\u0023")


def _answer(value: Any) -> Answer:
    """Return the answer of a host, of what salt-ssh found: without a value of Salt's own, the host is lost."""
    if isinstance(value, dict) and "return" in value:
        return answer_of(value["return"], value.get("retcode", 0))
    found = value if isinstance(value, dict) else {"stderr": value}
    lines = str(found.get("stderr") or found.get("stdout") or found.get("_error") or "").strip().splitlines()
    return answer_of(lines[-1] if lines else "", 1)._replace(is_lost=True)
