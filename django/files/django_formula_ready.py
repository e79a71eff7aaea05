"""How the programs that run a server report its state; `run` is the instance's folder for such files."""

import ctypes
import os
import signal
import socket

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def begin(run, *states):
    """Delete the state files of an earlier process, and write the pid file of this one."""
    for name in ("ready", *states):
        path = os.path.join(run, name)
        if os.path.exists(path):
            os.unlink(path)
    with open(os.path.join(run, "pid"), "w", encoding="utf-8") as pid:
        pid.write(str(os.getpid()))


def end_with_parent(by=signal.SIGTERM):
    """Have the kernel end this process when its parent ends, so that it does not go on serving without it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


def connect(address):
    """Connect once to the path of a unix socket, or to host:port."""
    family = socket.AF_UNIX if address[0] == "/" else socket.AF_INET6 if address[0] == "[" else socket.AF_INET
    host, _colon, port = address.rpartition(":")
    with socket.socket(family) as client:
        client.connect(address if address[0] == "/" else (host.strip("[]"), int(port)))


def report(run):
    """Report readiness: to the engine by a file, to systemd by sd_notify."""
    with open(os.path.join(run, "ready"), "w", encoding="utf-8"):
        pass
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + address[1:] if address[0] == "@" else address)
            notify.sendall(b"READY=1")
