"""The queue and caches that a host has for the other hosts of a site: a real server, with TLS and a password."""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from background import SERVER, until
from django_formula.fleet import certificate as fleet_certificate
from django_formula.host import commands as host_commands
from django_formula.host import users as host_users
from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.store import client, contract, redis, setup
from django_formula.store import served as store_served
from django_formula.store import service as store_service
from django_formula.store.contract import OwnServer
from specimen import configured, formula_templates

REDIS = redis.STORE
PASSWORD = "4c7e12"
OPERATOR = "5e" * 32
FORBIDDEN = ("CONFIG SET maxmemory 0", "SHUTDOWN NOSAVE", "ACL LIST", "MODULE LIST", "REPLICAOF 127.0.0.1 1")
FORBIDDEN += ("MIGRATE 127.0.0.1 6379 a 0 10", "AUTH operator 5e")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A site whose queue and cache this host has for two others; a short folder for sockets and data."""
    folder = Path(tempfile.mkdtemp(prefix="served-"))
    monkeypatch.setattr(contract, "RUN", folder)
    monkeypatch.setattr(contract, "folder", lambda _site: folder / "stores")
    monkeypatch.setattr(store_service, "UNITS", folder)
    monkeypatch.setattr(store_service, "PROGRAMS", folder)
    monkeypatch.setattr(secrets, "store_password", lambda _site: OPERATOR)
    site = configured()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = {"engine": "redis", "memory": "8M", "sync": "everysec", "host": None}
    servers = {"queue": {**store, "port": port}, "cache": {**store, "sync": "never", "port": port + 1}}
    site.config["fleet"] = {"stores": {"servers": servers, "clients": ["10.0.0.1", "10.0.0.2"]}}
    yield site
    shutil.rmtree(folder)


def served(site: Any) -> store_served.Served:
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    certificate, key = fleet_certificate.of_host(contract.RUN, "cache1", "127.0.0.1")
    return store_served.Served(site, hashed, {"certificate": certificate, "key": key})


@pytest.fixture
def queue(site: Any) -> Iterator[OwnServer]:
    """The queue as a process."""
    found = served(site)
    own = found.servers[0][1]
    own.data.mkdir(parents=True)
    own.socket.parent.mkdir()
    for path, text in found._files.items():
        path.write_text(text)
    own.configuration.write_text(REDIS.configuration(own))
    process = subprocess.Popen(REDIS.command(own, SERVER), executable=SERVER, stdout=subprocess.DEVNULL)
    until(lambda: store_service.answers(own))
    yield own
    process.kill()
    process.wait()


def ask(server: OwnServer, *commands: str, context: ssl.SSLContext | None = None) -> Any:
    """The answer to the last of some commands over the network."""
    assert server.service
    if context is None:
        context = ssl.create_default_context(cafile=str(server.certificate))
    with (
        socket.create_connection(("127.0.0.1", server.service.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connected,
        connected.makefile("rb") as stream,
    ):
        for command in commands:
            connected.sendall(client._encoded(command.split()))
            found = client.answer(stream, server.socket)
    return found


def test_the_sandbox_is_tried_on_a_host_without_the_build_user(
    site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A container of Debian 13 starts no unit with all directives, and this host has the site's user alone."""
    users, tried = {site.user: 990}, []
    monkeypatch.setattr(host_users, "user_id", lambda name: users.get(name, -1))
    monkeypatch.setattr(sites, "RUNTIME", tmp_path / "django")
    monkeypatch.setattr(store_service.host_folders, "make", lambda folder: folder.path.mkdir())
    monkeypatch.setattr(store_service, "SYSTEMD", SimpleNamespace(warnings=tried.append))
    store_service.try_sandbox(site)
    assert tried == [site] and (tmp_path / "django").is_dir(), "what it finds is kept there"
    users.clear()
    store_service.try_sandbox(site)
    assert len(tried) == 1, "a dry run on a fresh host"


def test_hosts_that_come_and_go_are_let_in_without_a_restart(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd 257 needs it: of a changed unit it takes no filter over, and a property that was set stays."""
    did: list[str] = []
    folder = store_service.UNITS
    monkeypatch.setattr(store_service, "PROPERTY", f"{folder}/{{unit}}.d")
    monkeypatch.setattr(host_commands, "run", lambda argv, **_: did.append(" ".join(argv)) or "")
    monkeypatch.setattr(store_service, "folders", lambda _server: [])
    monkeypatch.setattr(store_service, "is_enabled", lambda _server: True)
    monkeypatch.setattr(store_service, "answers", lambda _server: True)
    monkeypatch.setattr(redis.RedisStore, "differences", lambda _self, _server: {})
    contract.folder(site).mkdir()

    def apply() -> list[str]:
        (one, *_) = setup.pending(served(site).servers, formula_templates())
        did.clear()
        assert setup.apply(one) == ""
        return [line for line in did if one.server.unit in line]

    apply()
    setup._restart_mark(served(site).servers[0][1]).unlink()
    site.config["fleet"]["stores"]["clients"] = ["10.0.0.2", "fd00::3"]
    unit = "django-blog-served_queue.service"
    left = folder / f"{unit}.d"
    left.touch()
    allowed = " ".join(f"IPAddressAllow={one}" for one in ("", "localhost", "10.0.0.2", "fd00::3"))
    assert apply() == [f"systemctl set-property --runtime {unit} {allowed}"] and not left.exists()
    assert did[-1] == "systemctl daemon-reload" and "IPAddressAllow=fd00::3\n" in (folder / unit).read_text()


def test_hosts_log_in_by_tls(queue: OwnServer) -> None:
    login = f"AUTH blog {PASSWORD}"
    assert ask(queue, login, "RPUSH celery a b") == 2 and ask(queue, login, "ACL WHOAMI") == "blog"
    assert REDIS.waiting(queue) == 2 and setup.taken(queue) == 0
    assert REDIS.differences(queue) == {} and 0 < REDIS.usage(queue).used < 8 << 20
    assert PASSWORD not in queue.configuration.read_text() and PASSWORD not in repr(queue)


def test_a_former_password_is_valid_without_a_restart(queue: OwnServer) -> None:
    new = hashlib.sha256(b"new").hexdigest()
    text, service = queue.configuration.read_text(), queue.service
    assert service
    for passwords in (f"{new},{service.password}", new):
        other = dataclasses.replace(queue, service=dataclasses.replace(service, password=passwords))
        assert REDIS.CHANGEABLE.sub("", REDIS.configuration(other)) == REDIS.CHANGEABLE.sub("", text)
        assert REDIS.differences(other) == {"password": "changed"}
        REDIS.change(other, REDIS.differences(other))
        assert REDIS.differences(other) == {} and ask(queue, "AUTH blog new", "PING") == "PONG"
        if "," in passwords:
            assert ask(queue, f"AUTH blog {PASSWORD}", "PING") == "PONG"
    with pytest.raises(DeploymentError, match="WRONGPASS"):
        ask(queue, f"AUTH blog {PASSWORD}", "PING")


def test_hosts_that_may_use_it_are_those_of_its_unit_once_it_answers(
    site: Any, queue: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before each deployment: one that is stopped accepts connections too, until its backlog is full."""
    kind, _own = served(site).servers[0]
    with pytest.raises(DeploymentError, match="this host has no queue or cache of blog yet\napply on it"):
        store_served.clients("blog")
    for path, text in store_service.server_files(kind, queue, formula_templates()).items():
        path.write_text(text)
    queue.configuration.with_name("django-blog-served_queue.service.d").mkdir()
    assert store_served.clients("blog") == ["10.0.0.1", "10.0.0.2", "localhost"]
    for name in ("log", "blog-served_queue", "*"):
        with pytest.raises(DeploymentError, match="no queue or cache"):
            store_served.clients(name)
    monkeypatch.setattr(store_served, "_ANSWER", 0.3)
    os.kill(client.process(queue.socket), signal.SIGSTOP)
    with pytest.raises(DeploymentError, match="served_queue/socket does not answer: timed out"):
        store_served.clients("blog")
    queue.socket.unlink()
    with pytest.raises(DeploymentError, match="served_queue/socket does not answer: No such file"):
        store_served.clients("blog")


def test_where_supervisor_runs_it_addresses_do_not_count(site: Any, queue: OwnServer) -> None:
    (store_service.PROGRAMS / "django-blog-served_queue.conf").touch()
    assert store_served.clients("blog") is None


@pytest.mark.parametrize("login", ["PING", "AUTH 4c7e12", "AUTH blog wrong", "AUTH default 4c7e12"])
def test_other_logins_are_refused(queue: OwnServer, login: str) -> None:
    with pytest.raises(DeploymentError, match=r"NOAUTH|WRONGPASS"):
        ask(queue, login)


def test_a_certificate_that_is_not_pinned_is_refused(queue: OwnServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(queue, "PING", context=ssl.create_default_context())


def test_pinned_certificate_holds_for_strict_clients(queue: OwnServer) -> None:
    """Python 3.13 checks so by default."""
    context = ssl.create_default_context(cafile=str(queue.certificate))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert ask(queue, f"AUTH blog {PASSWORD}", "PING", context=context) == "PONG"


def test_without_tls_nothing_answers(queue: OwnServer) -> None:
    assert queue.service
    with socket.create_connection(("127.0.0.1", queue.service.port), timeout=10) as plain:
        plain.sendall(b"PING\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"PONG" not in plain.recv(100)


@pytest.mark.parametrize("command", FORBIDDEN)
def test_site_may_not_administer_its_server(queue: OwnServer, command: str) -> None:
    with pytest.raises(DeploymentError, match=r"NOPERM|WRONGPASS|command not allowed"):
        ask(queue, f"AUTH blog {PASSWORD}", command)


def test_unit_lets_in_the_hosts_of_the_site_alone(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    templates = {url: (Path("django/files") / Path(url).name).read_text() for url in store_service.templates("systemd")}
    ((kind, own), _cache) = served(site).servers
    files = store_service.server_files(kind, own, templates)
    (unit,) = (text for path, text in files.items() if path.suffix == ".service")
    lines = unit.splitlines()
    addresses = [line.partition("=")[2] for line in lines if line.startswith("IPAddressAllow=")]
    assert addresses == ["localhost", "10.0.0.1", "10.0.0.2"] and "IPAddressDeny=any" in lines
    assert "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6" in lines and "PrivateNetwork=yes" not in lines
    assert own.unit == "django-blog-served_queue" and kinds.is_of_site(own.part)
    more = unit.replace("IPAddressAllow=10.0.0.2\n", "IPAddressAllow=10.0.0.2\nIPAddressAllow=10.0.0.3\n")
    assert setup._fixed(kind, more) == setup._fixed(kind, unit)


def test_port_of_another_program_is_named_with_the_key(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_users, "owner", lambda *_: (os.getuid(), os.getgid()))
    (kind, own), _cache = served(site).servers
    assert own.service
    starting = setup.Pending(kind, own, {}, [], {}, starts=True, restarts=False)
    store_served._refuse_taken_port(starting)
    with socket.create_server(("127.0.0.1", own.service.port)):
        needs = f"port {own.service.port}, which django-blog-served_queue needs"
        expected = rf"{needs}, is taken by .+ \(pid {os.getpid()}\)"
        with pytest.raises(DeploymentError, match=expected) as refused:
            store_served._refuse_taken_port(starting)
        with monkeypatch.context() as running:  # it is the server itself, which would not start at boot
            running.setattr(store_service, "answers", lambda _server: True)
            store_served._refuse_taken_port(starting)
    assert refused.value.hint == "set django:sites:blog:queue:port to another one"


def test_server_that_the_pillar_has_no_more_is_removed_without_its_data(site: Any) -> None:
    folder = contract.folder(site)
    for part in ("queue", "served_queue", "served_cache"):
        (folder / part).mkdir(parents=True)
        (folder / f"{part}.conf").write_text("")
    (folder / "served_cache/appendonly.aof").write_text("data")
    del site.config["fleet"]["stores"]["servers"]["cache"]
    data = folder / "served_cache"
    assert store_served.gone(site) == {f"{data}.conf": f"removed; {data} stays"}
    assert [*store_service.files_on_host(site)] == ["queue"]
    store_served.remove(site)
    assert (data / "appendonly.aof").exists() and store_served.gone(site) == {}
    site.config["fleet"].pop("stores")
    assert [*store_served.gone(site)] == [str(folder / "served_queue.conf")]
