"""
Binds a socket and executes the server that inherits it, as systemd passes one (sd_listen_fds): supervisor cannot.

    python -I django_formula_listen.py ADDRESS COMMAND [ARGUMENT…]

ADDRESS is the path of a unix socket, which its owner and group may connect to, or host:port.
"""

import os
import socket
import sys

BACKLOG = 1024
FIRST = 3  # the descriptor at which sd_listen_fds begins


def bound(address):
    """Return a socket that listens on an address."""
    if address.startswith("/"):
        if os.path.lexists(address):
            os.unlink(address)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o117)
        listener.bind(address)
        os.umask(before)
    else:
        host, _colon, port = address.rpartition(":")
        listener = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host.strip("[]"), int(port)))
    listener.listen(BACKLOG)
    return listener


address, *command = sys.argv[1:]
listener = bound(address)
if listener.fileno() == FIRST:
    os.set_inheritable(FIRST, True)
else:
    os.dup2(listener.fileno(), FIRST)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(command[0], command)  # noqa: S606 - root wrote the argument list
