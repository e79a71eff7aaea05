"""Redis, or Valkey: Debian has one or the other, and their servers, files and clients are the same."""

import fnmatch
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from django_formula.host.commands import DeploymentError, size
from django_formula.kind import kinds
from django_formula.secret import secrets
from django_formula.store import client
from django_formula.store.contract import OwnServer, ServerStore, Service, Usage

#: The hash of the messages that workers of Celery have taken and not acknowledged; a project may have set a prefix.
UNACKED = "unacked"
#: What `lengths` has for the tasks that wait for their time; no list has this name.
SCHEDULED = "\0scheduled"


class _Tasks(NamedTuple):
    """Keys that have tasks. The server looks at all of its keys for each of these.

    Attributes:
        scan: how SCAN finds them, and others.
        command: the one that counts the tasks of a key.
        totals: pattern of their names → the name that `lengths` has for the sum of them; empty where it has each.
    """

    scan: tuple[str, ...]
    command: str
    totals: Mapping[str, str]


_KINDS = kinds.WORKERS.values()
_TASKS = (
    _Tasks(("TYPE", "list"), "LLEN", {"*": ""}),
    _Tasks(("MATCH", f"*{UNACKED}", "TYPE", "hash"), "HLEN", {"*": UNACKED}),
    _Tasks(
        ("TYPE", "zset"),
        "ZCARD",
        {
            **{pattern: "" for kind in _KINDS for pattern in kind.by_priority},
            **{pattern: SCHEDULED for kind in _KINDS for pattern in kind.scheduled},
        },
    ),
)
#: Keys that one SCAN looks at, and the most characters of the names of all lists.
_BATCH, _NAMES = 1000, 4 << 20
#: The user of a server that may change its settings; everybody else who may connect is `default`.
OPERATOR = "operator"
#: Among the settings of a server that other hosts use: the passwords of the site.
_PASSWORD = "password"  # noqa: S105 - a name
#: The channels of its users: a Redis of which an upgrade of the host has made a newer one was configured without.
_CHANNELS = "channels"
#: What the site may not do with its own server: change its settings or files, stop it, load code, have it connect to
#: another one. RQ lists connections, and Redis 6 has their names in the same group of commands.
SITE = "+@all -@admin +client|list +client|id +client|getname +client|setname"
#: Seconds for a server to give memory back, and between looks.
_COMPACT, _PAUSE = 60.0, 0.1
#: Seconds in which a server has to end its scripts, and the commands: a script and a function have one each.
_ENDING = 15.0
_KILLS = (("SCRIPT", "KILL"), ("FUNCTION", "KILL"))


class RedisStore(ServerStore):
    """A queue, which keeps its tasks in a file and refuses more than fits, or a cache, which drops what is not read."""

    KIND = "redis"
    CLIENTS = frozenset({"redis", "django_redis", "valkey"})
    NOTIFIES = True
    CHANGEABLE = re.compile(
        r"(?m)^(?:maxmemory|maxmemory-policy|appendonly|appendfsync) .*\n"
        r"|(?<= on)(?: #[0-9a-f]{64})+(?= .* -migrate$)|(?<= ~\*) &\*(?= )"
    )

    def clients(self, django_version: tuple[int, ...]) -> frozenset[str]:
        return frozenset({"django_redis"}) if () < django_version < (4, 0) else self.CLIENTS

    def requirement(self, django_version: tuple[int, ...]) -> str:
        """Return redis-py, and for a Django without a cache of its own for it django-redis."""
        return "redis>=4.5" if django_version >= (4, 0) else "django-redis>=5.0"

    def url(self, address: Mapping[str, Any]) -> str:
        if address.get("socket"):
            return f"unix://{address['socket']}"
        login = f"{quote(address['user'] or '', safe='')}:{quote(address['password'], safe='')}@"
        query = f"?ssl_ca_certs={address['ca']}" if address["ca"] else ""
        scheme = "rediss" if address["tls"] else "redis"
        place = f"{address['host']}:{address['port']}/{address['number']}"
        return f"{scheme}://{login if address['password'] else ''}{place}{query}"

    def broker_url(self, address: Mapping[str, Any]) -> str:
        """Return the URL by which Celery reaches it."""
        if address.get("socket"):
            return f"redis+socket://{address['socket']}"
        url = self.url(address)
        required = f"{'&' if '?' in url else '?'}ssl_cert_reqs=required" if address["tls"] else ""
        return f"{url}{required}"

    def command(self, server: OwnServer, program: str) -> list[str]:
        return ["redis-server", str(server.configuration)]

    def configuration(self, server: OwnServer) -> str:
        settings = {
            "port": "0",
            "unixsocket": str(server.socket),
            "unixsocketperm": "770",
            "dir": str(server.data),
            "daemonize": "no",
            "supervised": "auto",
            "logfile": '""',
            "databases": "16",
            "maxclients": "1000",
            "save": '""',
            "repl-diskless-sync-delay": "0",
            # Where memory is short, the kernel ends a child that writes a file rather than the server.
            "oom-score-adj": "yes",
            **_listening(server),
            **_changeable(server),
        }
        head = f"# {server.unit}: written by django-formula; change it in the pillar.\n"
        return head + "".join(f"{name} {value}\n" for name, value in [*settings.items(), *_users(server)])

    def differences(self, server: OwnServer) -> dict[str, str]:
        wanted = _changeable(server)
        users = _names(server) if server.site.platform["stores"]["redis_channels"] else []
        asked = [*(["CONFIG", "GET", name] for name in wanted), *(["ACL", "GETUSER", name] for name in users)]
        answers = operate(server, asked)
        found = {str(pair[0]): str(pair[1]) for pair in answers if isinstance(pair, list) and len(pair) == 2}
        changed = {name: value for name, value in wanted.items() if found.get(name) != value}
        changed |= {_CHANNELS: "all"} if any(map(_lacks_channels, answers[len(wanted) :])) else {}
        return changed | ({_PASSWORD: "changed"} if server.service and not _has_passwords(server) else {})

    def change(self, server: OwnServer, settings: Mapping[str, str]) -> None:
        of_config = {name: value for name, value in settings.items() if name not in (_PASSWORD, _CHANNELS)}
        commands = [["CONFIG", "SET", name, value] for name, value in of_config.items()]
        commands += [["ACL", "SETUSER", name, "allchannels"] for name in _names(server) if _CHANNELS in settings]
        if server.service and _PASSWORD in settings:
            commands.append(["ACL", "SETUSER", server.service.user, "resetpass", *_hashes(server.service)])
        operate(server, commands)

    def end_scripts(self, server: OwnServer) -> bool:
        """End scripts that have written nothing; Redis ends no other, of which half would stay written."""
        deadline = time.monotonic() + _ENDING
        while time.monotonic() < deadline:
            try:
                operate(server, [["PING"]])
                return True
            except client.BusyError:
                answers = [_ended(server, command) for command in _KILLS]
            if any("UNKILLABLE" in one for one in answers):
                break
            time.sleep(_PAUSE)
        return False

    def compact(self, server: OwnServer) -> None:
        """Have a cache drop what is too much, memory freed, and a file written anew: it is read at the next start.

        A queue that has more than fits keeps it.
        """
        limit, deadline = size(server.options["memory"]), time.monotonic() + _COMPACT
        while server.name != "queue" and self.usage(server).used > limit and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        if _changeable(server)["appendonly"] == "yes":
            _await_rewrite(server, deadline)
            operate(server, [["BGREWRITEAOF"]])
            _await_rewrite(server, deadline)
        operate(server, [["MEMORY", "PURGE"]])

    def usage(self, server: OwnServer) -> Usage:
        return Usage(int(_info(server, "memory").get("used_memory", 0)), size(server.options["memory"]))

    def waiting(self, server: OwnServer) -> int:
        """Return the number of tasks that wait, and of the messages that a worker of Celery has not acknowledged."""
        return sum(lengths(server).values())


def operate(server: OwnServer, commands: list[list[str]]) -> list[Any]:
    """Send commands that the site may not send; return the answer to each.

    Raises:
        DeploymentError: the server does not answer, or refuses a command.
    """
    return client.redis(server.socket, [login(server), *commands])[1:]


def _ended(server: OwnServer, command: Sequence[str]) -> str:
    """Send a command that ends a script, which it does a moment later; return the answer, or the error."""
    try:
        return str(operate(server, [list(command)])[0])
    except DeploymentError as error:
        return error.message


def _ask(server: OwnServer, commands: Sequence[Sequence[str]], **options: float) -> list[Any]:
    """Send commands that the site may send too; return the answer to each."""
    first = [login(server)] if server.service else []
    return client.redis(server.socket, [*first, *commands], **options)[len(first) :]


def login(server: OwnServer) -> list[str]:
    """Return the command that makes a connection that of the operator."""
    return ["AUTH", OPERATOR, secrets.store_password(server.site)]


def _users(server: OwnServer) -> list[tuple[str, str]]:
    """Return the users of a server; of the operator's password a hash, since the password itself is random."""
    hashed = hashlib.sha256(secrets.store_password(server.site).encode()).hexdigest()
    everything = f"~* {server.site.platform['stores']['redis_channels']}".strip()
    service = server.service
    site = f"{service.user} on {' '.join(_hashes(service))}" if service else "default on nopass"
    return [
        *([("user", "default off")] if service else []),
        ("user", f"{site} {everything} {SITE}{' -migrate' if service else ''}"),
        ("user", f"{OPERATOR} on #{hashed} {everything} +@all"),
    ]


def _names(server: OwnServer) -> list[str]:
    """Return the users of a server that may do something."""
    return [server.service.user if server.service else "default", OPERATOR]


def _lacks_channels(answer: Any) -> bool:
    """Return whether a user, as a server describes it, may use no channels; Redis 6.0 has none in its answer."""
    found = [str(one) for one in answer] if isinstance(answer, list) else []
    return _CHANNELS in found and not answer[found.index(_CHANNELS) + 1]


def _hashes(service: Service) -> list[str]:
    """Return the rules with the passwords of the site: the former one is valid too while the master has it."""
    return [f"#{one}" for one in service.password.split(",")]


def _has_passwords(server: OwnServer) -> bool:
    """Return whether a running server accepts the site's passwords, and no others."""
    assert server.service is not None  # noqa: S101 - the caller has looked
    (answer,) = operate(server, [["ACL", "GETUSER", server.service.user]])
    found = [str(one) for one in answer] if isinstance(answer, list) else []
    kept = answer[found.index("passwords") + 1] if "passwords" in found else []
    return {f"#{one}" for one in kept} == {*_hashes(server.service)}


def _listening(server: OwnServer) -> dict[str, str]:
    """Return the settings of a server that other hosts use: by TLS alone, and with a password."""
    if not server.service:
        return {}
    return {
        "tls-port": str(server.service.port),
        "tls-cert-file": str(server.certificate),
        "tls-key-file": str(server.key),
        "tls-auth-clients": "no",
        "tls-protocols": '"TLSv1.2 TLSv1.3"',
        "protected-mode": "no",  # it would refuse other hosts as long as the user `default` needs no password
        "tcp-keepalive": "60",
    }


def _info(server: OwnServer, section: str) -> dict[str, str]:
    (text,) = _ask(server, [["INFO", section]])
    return dict(line.partition(":")[::2] for line in str(text).splitlines())


def _await_rewrite(server: OwnServer, deadline: float) -> None:
    """Wait until a server does not write its file anew, or a time (monotonic) has come."""
    while _info(server, "persistence").get("aof_rewrite_in_progress") == "1" and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def lengths(server: OwnServer) -> dict[str, int]:
    """Return how many tasks each key of the server's first database has; under `UNACKED` and `SCHEDULED` a sum of some.

    Raises:
        DeploymentError: the server does not answer in time, or has too many lists.
    """
    deadline = time.monotonic() + 2 * client.PATIENCE  # it has several looks at all of its keys
    keys = _keys(deadline, server)
    counts = _until(deadline, server, [[command, name] for command, name, _total in keys])
    found: dict[str, int] = {}
    for (_command, name, total), count in zip(keys, counts, strict=True):
        if count:
            found[total or name] = found.get(total or name, 0) + int(count)
    return found


def _keys(deadline: float, server: OwnServer) -> list[tuple[str, str, str]]:
    """Return the keys that have tasks: the command that counts these, the name, and that of the sum if it has one."""
    found: set[tuple[str, str, str]] = set()
    cursors = dict.fromkeys(range(len(_TASKS)), "0")
    while cursors:
        scans = [["SCAN", cursor, "COUNT", str(_BATCH), *_TASKS[one].scan] for one, cursor in cursors.items()]
        for one, (cursor, names) in zip([*cursors], _until(deadline, server, scans), strict=True):
            row = _TASKS[one]
            found |= {(row.command, name, total) for name in names for total in _totals(row, name)}
            cursors[one] = cursor
        if sum(len(name) for _command, name, _total in found) > _NAMES:
            raise DeploymentError(f"{server.unit} has more lists than are counted")
        cursors = {one: cursor for one, cursor in cursors.items() if cursor != "0"}
    return sorted(found)


def _totals(row: _Tasks, name: str) -> list[str]:
    """Return what `lengths` calls the sum that a key belongs to; nothing for a key that has no tasks."""
    return [total for pattern, total in row.totals.items() if fnmatch.fnmatchcase(name, pattern)][:1]


def _until(deadline: float, server: OwnServer, commands: list[list[str]]) -> list[Any]:
    """Send commands, and return the answers, all of which have to arrive before a time (monotonic)."""
    return _ask(server, commands, patience=max(deadline - time.monotonic(), 0.001))


def _changeable(server: OwnServer) -> dict[str, str]:
    """Return the settings that the pillar decides, each of which a running server can change."""
    keeps = server.options["sync"] != "never"
    return {
        "maxmemory": str(size(server.options["memory"])),
        "maxmemory-policy": "noeviction" if server.name == "queue" else "allkeys-lru",
        "appendonly": "yes" if keeps else "no",
        "appendfsync": server.options["sync"] if keeps else "everysec",
    }


STORE = RedisStore()
