"""Functions on minions, from a runner of their master: whose answer comes, whose job has failed, who is lost.

Salt's own client reports no error for a minion that does not answer. Here each minion answers, or is named as lost
after six questions for its job without an answer. A job that goes on is waited for.
"""

import contextlib
import math
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import salt.client
import salt.exceptions

from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import shown

#: Seconds that the master's client waits for the publication of a job.
_PUBLISH = 5
#: Seconds for each host by which the first question for a job is later: the master takes answers one after the other.
_EACH = 0.02
#: Seconds that a master may be away in a deployment, as in a restart; in which its minions connect again then, each
#: after up to eleven (recon_default and recon_max); and between two questions whether they have.
_AWAY = 60.0
_CONNECT = 12.0
_PING = 1.0
#: How many questions in a row may stay without an answer; a host that builds a release, or is busy, answers late.
_UNANSWERED = 6
#: Seconds after a host has said that the job does not run, from which on it is asked for the last time: a minion says
#: so from the moment in which it begins to send the answer, and sends what gets lost again after five to ten seconds
#: (return_retry_timer and return_retry_timer_max).
_ENDED = 12.0
#: Seconds between two questions to hosts that do not answer a ping, and after which one is silent whatever it does.
_PING_LOOK, _PING_LIMIT = 2.0, 10.0
#: Characters of an error that are shown of a host.
_LENGTH = 8000
#: The deepest nesting of an answer that is read.
_DEPTH = 8


class Answer(NamedTuple):
    """What has become of a function on one host.

    value: what it returned; empty where it failed. error: why it failed, or how the host was lost; empty on success.
    is_lost: whether it is not known what the host has done.
    """

    value: dict[str, Any]
    error: str = ""
    is_lost: bool = False


class Minions:
    """The minions of a master.

    Args:
        options: the master's configuration.
    """

    #: Seconds after which a host does not begin any more what it was asked to do.
    patience = 20.0

    def __init__(self, options: dict[str, Any]):
        self._options = options
        self._client = salt.client.get_local_client(mopts=options)
        self._patience = 0.0  # with a master: one that has not answered yet does not run
        self._connecting = 0.0  # until when minions connect again to a master that was restarted
        self._connected: set[str] = set()

    def ask(
        self,
        hosts: Collection[str],
        function: str,
        *arguments: Any,
        look: float = 3.0,
        limit: float = math.inf,
        every: float = 20.0,
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, Answer]:
        """Call a function on hosts at once; return the answer of each.

        Args:
            look: seconds after which those without an answer are asked whether the job runs, and for which each of
                six such questions may stay without an answer; and `_EACH` for each host.
            limit: seconds after which a host is lost on which the job still runs; and `_EACH` for each host.
            every: seconds between two calls of `meanwhile`.
            meanwhile: is called as long as an answer is missing.

        Raises:
            DeploymentError: the master takes no jobs.
        """
        look, limit = (seconds + _EACH * len(hosts) for seconds in (look, limit))
        job = self._publish(hosts, function, arguments, to_all=True)
        waiting = _Waiting(hosts, job, time.monotonic())
        first = client = self._client
        called = time.monotonic()
        while waiting.names:
            event, now = self._event()
            waiting.take(event, now)
            if now - waiting.began > limit:
                waiting.lose(*waiting.names, reason=unfinished(limit))
            elif waiting.has_to_look(now, look):
                asked = self._publish(waiting.names, "saltutil.find_job", [waiting.job["jid"]])
                # Answers that came while the master was away, or its bus was busy, were on no bus; they are kept.
                if first is not self._client or waiting.has_ended:
                    with contextlib.suppress(salt.exceptions.SaltException):
                        waiting.take_kept(self._client.get_cache_returns(waiting.job["jid"]))
                rest = 0.0 if client is self._client else _CONNECT
                client = self._client
                waiting.look(str(asked.get("jid", "")), time.monotonic(), rest)
            if meanwhile and now - called > every:
                meanwhile()
                called = now
        return waiting.answers

    def ping(self, hosts: Collection[str]) -> dict[str, Answer]:
        """Ask hosts whether they are there; return the answer of each, after ten seconds at most."""
        return self.ask(hosts, "test.ping", look=_PING_LOOK, limit=_PING_LIMIT)

    def send(self, hosts: Collection[str], function: str, *arguments: Any) -> None:
        """Call a function on hosts without waiting for an answer."""
        self._publish(hosts, function, arguments)

    def _event(self) -> tuple[dict[str, Any] | None, float]:
        """Return the next event of the master's bus that is about a job, if one comes soon; and the time after it."""
        event = self._client.event.get_event(wait=0.05, tag="salt/job/", full=True, auto_reconnect=True)
        return event, time.monotonic()

    def _await(self, hosts: Collection[str]) -> None:
        """Wait for hosts to connect to a master that was restarted: until then they miss what it publishes."""
        asked: set[str] = set()
        later = now = time.monotonic()
        while now < self._connecting and not self._connected.issuperset(hosts):
            if now >= later:
                asked.add(str(self._publish({*hosts} - self._connected, "test.ping", ())["jid"]))
                later = time.monotonic() + _PING
            event, now = self._event()
            jid, name = _answering(event)
            if name and jid in asked:
                self._connected.add(name)

    def _publish(
        self, hosts: Collection[str], function: str, arguments: Collection[Any], *, to_all: bool = False
    ) -> dict[str, Any]:
        """Have the master publish a job; one that was restarted has another key and another bus of events.

        Args:
            to_all: wait before until the hosts are connected, where it was restarted.

        Raises:
            DeploymentError: it takes none.
        """
        limit = time.monotonic() + self._patience
        while True:
            if to_all:
                self._await(hosts)
            try:
                found: dict[str, Any] = self._client.run_job(
                    sorted(hosts), function, list(arguments), tgt_type="list", timeout=_PUBLISH, listen=True
                )
            except salt.exceptions.SaltException as error:
                if time.monotonic() > limit:
                    raise DeploymentError(
                        f"the master takes no jobs: {str(error).partition('. ')[0]}",
                        hint="look at its log: journalctl --unit salt-master",
                    ) from None
                time.sleep(0.5)
                self._client.destroy()
                self._client = salt.client.get_local_client(mopts=self._options)
                self._connecting, self._connected = time.monotonic() + _CONNECT, set()
            else:
                self._patience = _AWAY
                return found or {"jid": "", "minions": []}


class _Waiting:
    """The hosts whose answer to a job is missing.

    Args:
        hosts: whom it was sent to.
        job: as Salt's client returns it: ``jid``, and the names of the minions that the master knows.
        now: the time of the monotonic clock.
    """

    def __init__(self, hosts: Collection[str], job: dict[str, Any], now: float):
        self.job = job
        self.names = {*hosts} & {*job["minions"]}
        self.answers = {
            name: Answer({}, "the master has no accepted key of it", True) for name in {*hosts} - self.names
        }
        self.began = self._looked = now
        self._questions: dict[str, float] = {}  # when each was asked
        self._unanswered: set[str] = set()
        self._silent = dict.fromkeys(self.names, 0)
        self._ended: dict[str, float] = {}  # since when a host says that its job does not run

    def take(self, event: dict[str, Any] | None, now: float) -> None:
        """Take an event of the master's bus: the answer of a host to the job, or whether its job runs."""
        jid, name = _answering(event)
        if not event or not jid:
            return
        data = event["data"]
        if jid == self.job["jid"] and name in self.names:
            self._settle(name, answer_of(data["return"], data.get("retcode", 0)))
        elif jid in self._questions and name in self.names:  # also a late answer to an earlier question
            self._unanswered.discard(name)
            self._silent[name] = 0
            if data["return"]:
                self._ended.pop(name, None)
            elif self._questions[jid] - self._ended.setdefault(name, now) >= _ENDED:
                self.lose(name, reason="its job has ended without an answer")

    @property
    def has_ended(self) -> bool:
        """Whether a host has said that its job does not run, and its answer is missing."""
        return not self._ended.keys().isdisjoint(self.names)

    def take_kept(self, kept: dict[str, Any]) -> None:
        """Take the answers to the job that the master has kept, as Salt's client returns them."""
        for name in self.names & {*kept}:
            self._settle(name, answer_of(kept[name]["ret"], 0))

    def has_to_look(self, now: float, look: float) -> bool:
        """Return whether it is time for the next question; those who did not answer the last one are counted."""
        if now - self._looked < look:
            return False
        for name in list(self._unanswered):
            self._silent[name] += 1
            if self._silent[name] == _UNANSWERED:
                self.lose(name, reason="it does not answer")
        self._unanswered, self._looked = set(), now
        return bool(self.names)

    def look(self, question: str, now: float, rest: float = 0.0) -> None:
        """Remember the question that was just asked; the time for an answer begins after some seconds of rest."""
        self._questions |= {question: now} if question else {}
        self._looked, self._unanswered = now + rest, {*self.names}

    def lose(self, *names: str, reason: str) -> None:
        """Wait for some hosts no more."""
        for name in names:
            self._settle(name, Answer({}, reason, True))

    def _settle(self, name: str, answer: Answer) -> None:
        self.names.discard(name)
        self._unanswered.discard(name)
        self.answers[name] = answer


def _answering(event: dict[str, Any] | None) -> tuple[str, str]:
    """Return the job and the host of an event with an answer; empty texts for another one: a minion sends any."""
    data = event["data"] if event else None
    if not event or not isinstance(data, dict) or "return" not in data or not isinstance(data.get("id"), str):
        return "", ""
    jid, _ret, name = event["tag"].removeprefix("salt/job/").partition("/ret/")
    return (jid, name) if name and name == data["id"] else ("", "")


def unfinished(seconds: float) -> str:
    """Return why a host is lost that works too long on what takes others a moment."""
    return f"it does not finish what it was asked {seconds:.0f} s ago"


def answer_of(value: Any, code: Any) -> Answer:
    """Return the answer of a function: a map, with ``error`` where it failed; Salt's own errors are texts."""
    code = code if isinstance(code, int) else 1  # a minion returns any
    if isinstance(value, dict):
        error = _plain(str(value.get("error", ""))) or (f"exit code {code}" if code else "")
        return Answer({} if error else _cleaned(value), error)
    if not isinstance(value, str) and not code:
        return Answer({"value": _cleaned(value)})
    text = _plain(str(value).strip())
    if "is not available" in text:
        text = f"{text} (the formula is not there yet: apply on it)"
    return Answer({}, text or f"exit code {code}")


def _cleaned(value: Any, depth: int = 0) -> Any:
    """Return an answer with plain texts only, which are shown here and there; of what is nested deeply, nothing."""
    if isinstance(value, str):
        return _plain(value)
    if depth == _DEPTH or not isinstance(value, dict | list):
        return value if isinstance(value, bool | int | float) else None
    if isinstance(value, list):
        return [_cleaned(one, depth + 1) for one in value]
    return {_plain(str(key)): _cleaned(one, depth + 1) for key, one in value.items()}


def _plain(text: str) -> str:
    """Return what a host reports as terminals, events and logs can take it: a host may report anything."""
    kept = shown(text[: 4 * _LENGTH], lines=True)
    return kept if len(kept) <= _LENGTH else f"{kept[:_LENGTH]} [...]"
