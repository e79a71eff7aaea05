"""The watch of a host: what it finds, the messages that it sends, and that nothing waits for them."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from sites import Site

#: A receiver of messages: port 9001 takes each and keeps it, 9002 never answers.
RECEIVER = """
import http.server, socketserver, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.server_port == 9002:
            time.sleep(600)
        with open("/srv/messages", "ab") as file:
            file.write(body + b"\\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass

for port in (9001, 9002):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever).start()
"""
SECRET = "wh-53cr3t"
NOTIFY = {
    "good": {"url": f"http://127.0.0.1:9001/{SECRET}"},
    "hangs": {"url": f"http://127.0.0.1:9002/{SECRET}", "format": "slack"},
}


class Watched(Site):
    """A site whose host is watched, with `notify` and `watch` of the host's pillar."""

    notify: dict[str, Any] = NOTIFY
    watch: Any = None

    def configure(self, **changes: Any) -> None:
        super().configure(**changes)
        more = {"notify": self.notify} | ({"watch": self.watch} if self.watch is not None else {})
        self.host.pillar({"django": {"process": self.process, "sites": self.sites, **more}})

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What the good channel has got."""
        text = self.host.run("cat /srv/messages 2>/dev/null || true").stdout
        return [one for line in text.splitlines() for one in json.loads(line)["messages"]]

    def wait_for(self, what: str, kind: str, within: float = 120) -> tuple[dict[str, Any], float]:
        """A message, and the seconds until it arrived."""
        began = time.monotonic()
        while True:
            found = [one for one in self.messages if (one["what"], one["kind"]) == (what, kind)]
            if found:
                return found[-1], time.monotonic() - began
            assert time.monotonic() - began < within, self.messages
            time.sleep(0.3)


@pytest.fixture(scope="module")
def blog(module_hosts: Callable[..., Any], repositories: Callable[..., Any]) -> Watched:
    host = module_hosts(kind="live")
    host.write("/srv/receiver.py", RECEIVER)
    host.run(["systemd-run", "--unit=receiver", "python3", "/srv/receiver.py"])
    blog = Watched(host, repositories(host))
    blog.deploy()
    return blog


def test_site_that_is_down_is_reported_once_with_its_cure(blog: Watched) -> None:
    applied = blog.apply()
    assert applied.ok and not applied.changed, applied
    blog.host.run(["systemctl", "stop", f"{blog.unit}.socket", f"{blog.unit}.service"])
    message, _seconds = blog.wait_for("problem", "down")
    assert message["text"].startswith("process: ") and message["site"] == "blog"
    blog.host.run(message["command"])  # the doctor's, as it is printed
    blog.wait_for("good", "down", within=300)
    assert [one["what"] for one in blog.messages if one["kind"] == "down"] == ["problem", "good"]


def test_failed_release_is_reported_within_seconds_though_a_channel_hangs(blog: Watched) -> None:
    blog.repository.commit({"guestbook/views.py": "def entries(:\n"})
    assert not blog.apply().ok
    message, seconds = blog.wait_for("event", "failed", within=30)
    assert seconds <= 10 and "still runs" not in message["text"] and "SyntaxError" in message["text"]
    assert message["command"].startswith("salt-call django.record blog 000")
    state = blog.host.run(["systemctl", "is-active", "django-notify@hangs.service"], check=False).stdout.strip()
    assert state in ("activating", "inactive")  # it waits, or has been given up for a minute


def test_stopped_site_whose_newest_commit_has_failed_is_started_by_the_printed_command(blog: Watched) -> None:
    blog.host.run(["systemctl", "stop", f"{blog.unit}.socket", f"{blog.unit}.service"])
    assert not blog.apply().ok  # it failed before with the same inputs
    assert blog.get("/healthz").status_code == 200


def test_no_site_reads_to_whom_messages_go(blog: Watched) -> None:
    argv = ["grep", "-rlsF", SECRET, "/etc", "/var/lib", "/var/log", "/run", "/usr/local", blog.root]
    assert blog.host.run(argv, user="blog", check=False).stdout == ""
    assert SECRET not in blog.host.run("ps axww; journalctl --no-pager -u 'django-*'").stdout
    assert SECRET not in str(blog.apply(test=True))
    assert blog.host.call("django.notify", "test", "good") == {"good": "sent"}
    assert SECRET not in str(blog.host.call("django.notify"))


def test_look_is_cheap(blog: Watched) -> None:
    program = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
    program += "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss)"
    look = ["python3", "-I", "/usr/local/lib/django-formula/watch.pyz", "look"]
    assert int(blog.host.run(["python3", "-c", program, *look]).stdout) < 60 * 1024


def test_host_without_a_watch_has_nothing_of_it(blog: Watched) -> None:
    blog.watch = False
    blog.apply()
    found = blog.host.run(
        "ls -d /etc/systemd/system/django-watch* /var/lib/django-formula/watch /etc/django-formula/* "
        "/usr/local/lib/django-formula/watch.pyz 2>/dev/null",
        check=False,
    )
    assert found.stdout == ""
    assert blog.host.run(["id", "_django-notify"], check=False).returncode != 0
