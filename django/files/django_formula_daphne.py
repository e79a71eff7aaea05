"""
Runs daphne as daphne.json in the same folder configures it, on the socket that systemd passes (sd_listen_fds).

Daphne is one process. Here one process makes as many of it as configured, replaces those that end, and reports when the
first of them is ready.
"""

import contextlib
import inspect
import json
import os
import signal
import socket
import sys
import time
import traceback

import django_formula_application
import django_formula_ready

HERE = os.path.dirname(os.path.abspath(__file__))
LISTENER = 3  # the descriptor at which sd_listen_fds begins
HEADERS = 65536  # bytes of a request's headers; Twisted's own limit, 16384, is less than proxies let through
IDLE = 1.0  # seconds after SIGTERM within which the request of a connection that was just accepted arrives

with open(os.path.join(HERE, "daphne.json"), encoding="utf-8") as file:
    GIVEN = json.load(file)
READY = os.path.join(GIVEN["run"], "ready")


def project():
    """Import the project's application, below the path of the site."""
    from asgiref.compatibility import guarantee_single_callable

    found = guarantee_single_callable(django_formula_application.load(GIVEN["module"]))

    async def application(scope, receive, send):
        # Daphne takes the path from a header, Daphne-Root-Path, that visitors may send too.
        await found({**scope, "root_path": GIVEN["prefix"]}, receive, send)

    return application


class Listener:
    """The inherited socket, as an endpoint of Twisted and what its reactor reads.

    Twisted's own port would make a unix socket accessible to every user (mode 0666), shorten its queue to 50, and
    delete its path at the end.
    """

    def __init__(self):
        self.socket = socket.socket(fileno=LISTENER)
        self.socket.setblocking(False)

    def listen(self, factory):
        """Accept connections for a factory of protocols from now on."""
        from twisted.internet import defer, reactor

        self.factory, self.reactor = factory, reactor
        factory.doStart()
        reactor.addReader(self)
        return defer.succeed(self)

    def fileno(self):
        return self.socket.fileno()

    def doRead(self):
        """Accept one connection: the other processes get the next ones."""
        try:
            connection, _address = self.socket.accept()
            with connection:
                connection.setblocking(False)
                self.reactor.adoptStreamConnection(connection.fileno(), connection.family, self.factory)
        except OSError:
            pass  # another process accepted it, or its client is gone

    def connectionLost(self, reason):
        """The reactor ends; the socket belongs to the process manager."""

    def logPrefix(self):
        return "daphne"

    def close(self):
        """Accept no more connections."""
        self.reactor.removeReader(self)


def server(listener):
    """Return a server of Daphne on the inherited socket."""
    import daphne.server  # it installs Twisted's reactor, which no two processes may share
    from daphne.access import AccessLogGenerator
    from twisted.web.http import HTTPChannel

    HTTPChannel.totalHeadersSize = HEADERS
    daphne.server.serverFromString = lambda _reactor, _description: listener
    known = inspect.signature(daphne.server.Server).parameters
    unknown = sorted(set(GIVEN["options"]) - set(known))
    if unknown:
        sys.exit(f"daphne {daphne.__version__} has no setting {', '.join(unknown)} (server:options)")
    settings = {name: value for name, value in {**GIVEN["settings"], **GIVEN["options"]}.items() if name in known}
    return daphne.server.Server(
        project(),
        endpoints=["the inherited socket"],
        signal_handlers=False,
        action_logger=AccessLogGenerator(sys.stdout) if GIVEN["log_requests"] else None,
        **settings,
    )


def finish(daphne, listener):
    """Accept no more connections, close websockets, and stop once every request is answered, or the time is up."""
    from daphne.ws_protocol import WebSocketProtocol
    from twisted.internet import reactor, tcp

    began = time.monotonic()
    listener.close()
    for protocol in list(daphne.connections):
        if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
            protocol.sendCloseFrame(code=1012)  # service restart

    def look():
        passed = time.monotonic() - began
        is_busy = any("disconnected" not in details for details in daphne.connections.values())
        is_sending = any(isinstance(one, tcp.Server) for one in reactor.getWriters())
        is_open = any(isinstance(one, tcp.Server) for one in reactor.getReaders())
        if passed > GIVEN["drain"] or not (is_busy or is_sending or (is_open and passed < IDLE)):
            reactor.stop()
        else:
            reactor.callLater(0.05, look)

    look()


def serve():
    """Answer requests until SIGTERM."""
    django_formula_ready.end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    sys.path[:0] = [GIVEN["folder"]]
    listener = Listener()
    daphne = server(listener)
    from twisted.internet import reactor

    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(finish, daphne, listener))
    with open(READY, "w", encoding="utf-8"):
        pass
    daphne.run()


def forked():
    """Make a process that serves, and return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        serve()
        code = 0
    except SystemExit as error:
        if not isinstance(error.code, (int, type(None))):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Watch:
    """The processes that serve, and whether they are to end."""

    def __init__(self):
        self.children, self.is_ending, self.is_ready = set(), False, False

    def end(self, *_):
        self.is_ending = True
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    def run(self):
        signal.signal(signal.SIGTERM, self.end)
        for _ in range(GIVEN["processes"]):
            self.make()
        while self.children:
            child, _status = os.waitpid(-1, 0 if self.is_ready or self.is_ending else os.WNOHANG)
            if child:
                self.children.discard(child)
                self.replace()
            elif os.path.exists(READY):
                self.is_ready = True
                django_formula_ready.report(GIVEN["run"])
            else:
                time.sleep(0.02)

    def make(self):
        # A SIGTERM in between would reach no process that is not noted yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if not self.is_ending:
            self.children.add(forked())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def replace(self):
        """Replace a process that ended; before any was ready, end the others too."""
        if self.is_ending:
            return
        if not self.is_ready:
            self.end()
            while self.children:
                self.children.discard(os.wait()[0])
            sys.exit("the project does not start")
        time.sleep(0.1)  # one that ends as soon as it is made does not use a whole CPU
        self.make()


if __name__ == "__main__":
    django_formula_ready.begin(GIVEN["run"])
    Watch().run()
