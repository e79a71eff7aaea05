"""`salt-call` on a test host without the second that Python takes to import Salt.

    python3 preloaded_salt.py --local state.apply django

The first call starts a process that imports Salt and waits. Each call is a fork of it, as each job of a minion is one;
it imports the formula's modules and compiles the pillar by itself. It has the caller's files, variables and folder,
runs the `sitecustomize.py` of its PYTHONPATH, if it has one, ends with the caller, and the caller ends as it did. Where
`salt-call` is not the one of the test hosts' image, that program runs. Grains are those of a call before, for at most
five minutes (Salt's `grains_cache`) and until the host has another id or release.
"""

import fcntl
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any, NoReturn

SOCKET, LOCK = "/run/preloaded-salt.sock", "/run/preloaded-salt.lock"
GRAINS, MADE_OF = "/var/cache/salt/minion/grains.cache.p", ("/etc/salt/minion", "/etc/os-release")
SALT_CALL, PYTHON, OURS = "/usr/local/bin/salt-call", "/opt/salt/bin/python", "/opt/salt/bin/salt-call"


def connect() -> socket.socket:
    """Connect to the process that waits, which is started where there is none."""
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(SOCKET)
        except OSError:  # none yet in this boot
            start()
            connection.connect(SOCKET)
    return connection


def start() -> None:
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(SOCKET):
        os.unlink(SOCKET)
    listener.bind(SOCKET)
    os.chmod(SOCKET, 0o600)
    listener.listen(64)
    argv = [PYTHON, os.path.abspath(__file__), "--serve", str(listener.fileno())]
    null, variables = subprocess.DEVNULL, {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    files = {"stdin": null, "stdout": null, "stderr": null, "pass_fds": [listener.fileno()]}
    subprocess.Popen(argv, env=variables, cwd="/", start_new_session=True, **files)  # type: ignore[call-overload]


def call(arguments: list[str]) -> NoReturn:
    """Have the process run `salt-call`, and end as it does."""
    if os.path.realpath(SALT_CALL) != OURS:
        os.execv(SALT_CALL, [SALT_CALL, *arguments])
    umask = os.umask(0)
    os.umask(umask)
    request = {"argv": [SALT_CALL, *arguments], "environment": dict(os.environ), "cwd": os.getcwd(), "umask": umask}
    connection = connect()
    socket.send_fds(connection, [b"\0"], [0, 1, 2])
    answers = connection.makefile("rw")
    answers.write(json.dumps(request) + "\n")
    answers.flush()
    process = int(answers.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(process, received))
    status = int(answers.readline())
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.waitstatus_to_exitcode(status))


def serve(listener: socket.socket) -> None:
    """Fork for each call; returns in the process that is to run `salt-call`."""
    import gc

    # What salt-call imports before it knows what it is to do, and what its loader's modules import.
    import salt.cli.call
    import salt.cli.caller
    import salt.client.ssh
    import salt.config
    import salt.fileclient
    import salt.loader
    import salt.minion
    import salt.modules.cmdmod
    import salt.modules.file
    import salt.pillar
    import salt.runners.state
    import salt.scripts
    import salt.serializers.yaml
    import salt.state
    import salt.utils.gitfs
    import salt.utils.immutabletypes
    import salt.utils.pkg.deb
    import salt.utils.systemd
    import salt.wheel

    look_once()
    options = salt.config.DEFAULT_MINION_OPTS.copy() | {"grains_cache": True}
    salt.config.DEFAULT_MINION_OPTS = salt.utils.immutabletypes.freeze(options)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _address = listener.accept()
        if os.fork() == 0:
            listener.close()
            return attend(connection)
        connection.close()


def look_once() -> None:
    """Have folders looked through once, and Salt's own here: the 45 loaders of a call do it twice each."""
    import functools

    import salt
    import salt.utils.entrypoints
    from salt.loader.lazy import LazyLoader

    look = LazyLoader._refresh_file_mapping
    found: dict[tuple[str, ...], dict[str, object]] = {}

    def names(folder: str) -> list[str]:
        return os.listdir(folder) if os.path.isdir(folder) else []

    def modules(loader: LazyLoader, folder: str) -> dict[str, object]:
        key = (folder, *names(folder), *names(f"{folder}/__pycache__"))
        if key not in found:
            alone = LazyLoader.__new__(LazyLoader)
            vars(alone).update(vars(loader), module_dirs=[folder], static_modules=[])
            look(alone)
            found[key] = alone.file_mapping
        return found[key]

    def look_through(loader: LazyLoader) -> None:
        folders, loader.module_dirs = loader.module_dirs, []
        look(loader)
        loader.module_dirs = folders
        mapping: dict[str, object] = {}
        for folder in folders:
            mapping.update((name, file) for name, file in modules(loader, folder).items() if name not in mapping)
        loader.file_mapping = mapping | loader.file_mapping

    LazyLoader._refresh_file_mapping = look_through
    for entry in os.scandir(os.path.dirname(salt.__file__)):
        if entry.is_dir():
            LazyLoader([entry.path], {"optimization_order": [0, 1, 2]})
    salt.utils.entrypoints.iter_entry_points = functools.cache(salt.utils.entrypoints.iter_entry_points)


def attend(connection: socket.socket) -> None:
    """Wait for the process of one call; returns in that process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _byte, files, _flags, _address = socket.recv_fds(connection, 1, 3)
    answers = connection.makefile("rw")
    request = json.loads(answers.readline())
    process = os.fork()
    if process == 0:
        answers.close()
        connection.close()
        become(request, files)
        return
    for file in files:
        os.close(file)
    answers.write(f"{process}\n")
    answers.flush()
    ended = os.pidfd_open(process)
    watched = select.poll()
    watched.register(connection, select.POLLIN)
    watched.register(ended, select.POLLIN)
    if ended not in dict(watched.poll()):  # the caller was killed
        os.kill(process, signal.SIGKILL)
    answers.write(f"{os.waitpid(process, 0)[1]}\n")
    answers.flush()
    os._exit(0)


def become(request: dict[str, Any], files: list[int]) -> None:
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    if os.path.exists(GRAINS) and any(os.stat(path).st_ctime > os.stat(GRAINS).st_mtime for path in MADE_OF):
        os.unlink(GRAINS)
    if folder := request["environment"].get("PYTHONPATH"):
        sys.path.insert(0, folder)
        sys.modules.pop("sitecustomize", None)  # that of Debian
        importlib.import_module("sitecustomize")


def main() -> None:
    if sys.argv[1] != "--serve":
        call(sys.argv[1:])
    serve(socket.socket(fileno=int(sys.argv[2])))
    import salt.scripts

    sys.exit(salt.scripts.salt_call())


if __name__ == "__main__":
    main()
