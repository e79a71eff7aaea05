"""A host with programs behind sockets, of which users and calls of systemd or supervisor are only noted."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django_formula.host import archive, commands, units, users


@pytest.fixture
def socket_host(monkeypatch: pytest.MonkeyPatch, own_host: Path) -> types.SimpleNamespace:
    """The host: its `calls`, `users` and `root`."""
    known: dict[str, Any] = {}
    calls: list[str] = []

    def run(argv: list[str], **_options: object) -> str:
        if argv[0] == "useradd":
            known[argv[-1]] = types.SimpleNamespace(pw_gecos=argv[-2])
        elif argv[0] == "userdel":
            del known[argv[1]]
        elif "enable" in argv:
            link = own_host / "etc/systemd/system" / f"{argv[-1].rpartition('.')[2]}s.target.wants" / argv[-1]
            link.parent.mkdir(exist_ok=True)
            link.touch()
        calls.append(" ".join(argv))
        return ""

    stop: Callable[..., None] = lambda *words, units, **_: calls.append(" ".join([*words, *units]))  # noqa: E731
    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(archive, "install", lambda _module, path: path.write_bytes(b"PK\5\6" + bytes(18)))
    monkeypatch.setattr(units, "stop", stop)
    monkeypatch.setattr(users, "find_user", known.get)
    return types.SimpleNamespace(calls=calls, users=known, root=own_host)
