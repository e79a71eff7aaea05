"""A host that is watched, and receivers of its messages: by HTTP and by mail, each message kept with its time."""

import email
import email.policy
import html
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lab import Host
from sites import Site

#: Receives by HTTP: the first part of the path is the channel, which says how it answers.
RECEIVER = """
import http.server, json, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open("/srv/beats", "a") as file:
            file.write(self.path + "\\n")
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        channel = self.path.split("/")[1]
        time.sleep({"hangs": 600, "slow": 8}.get(channel, 0))
        row = {"channel": channel, "time": time.time(), "title": self.headers["Title"], "body": body}
        with open("/srv/messages", "a") as file:
            file.write(json.dumps(row) + "\\n")
        self.send_response(500 if channel == "fails" else 200)
        self.end_headers()

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", 9001), Handler).serve_forever()
"""
UNIT = """[Service]
ExecStart=python3 {command}
[Install]
WantedBy=multi-user.target
"""
SECRET = "wh-53cr3t"
#: Where mails are kept.
MAILS = "/srv/mails"


class Told(NamedTuple):
    """What a channel has got at once: a text, or for JSON its messages."""

    time: float
    text: str
    messages: list[dict[str, Any]]


def channel(name: str, form: str = "", **options: Any) -> dict[str, Any]:
    """A channel of the pillar by HTTP; `name` says how the receiver answers: hangs, slow, fails, else well."""
    return {"url": f"http://127.0.0.1:9001/{name}/{SECRET}", **({"format": form} if form else {}), **options}


NOTIFY = {"good": channel("good"), "hangs": channel("hangs", "slack")}


def receive(host: Host) -> None:
    """Start the receivers, also after a reboot."""
    host.write("/srv/receiver.py", RECEIVER)
    host.write("/srv/mail_sink.py", Path(__file__).with_name("mail_sink.py").read_text())
    host.write("/etc/systemd/system/receiver.service", UNIT.format(command="/srv/receiver.py"))
    host.write("/etc/systemd/system/sink.service", UNIT.format(command=f"/srv/mail_sink.py 25 {MAILS}"))
    host.run("systemctl daemon-reload; systemctl enable --quiet --now receiver sink")


def told(host: Host) -> dict[str, list[Told]]:
    """What has arrived, by channel, in its order."""
    found: dict[str, list[Told]] = {}
    for line in host.run("cat /srv/messages 2>/dev/null || true").stdout.splitlines():
        row = json.loads(line)
        form = row["channel"] if row["channel"] in _READ else "json"
        text = "\n".join([row["title"] or "", _READ[form](row["body"])])
        messages = json.loads(row["body"])["messages"] if form == "json" else []
        found.setdefault(row["channel"], []).append(Told(row["time"], text, messages))
    for line in host.run(f"cat {MAILS} 2>/dev/null || true").stdout.splitlines():
        mail = json.loads(line)
        read = email.message_from_string(mail["text"], policy=email.policy.default)
        text = f"{read['Subject']}\n{read.get_content()}"
        found.setdefault("mail", []).append(Told(mail["time"], text, []))
    return found


def _card(body: str) -> str:
    blocks = json.loads(body)["attachments"][0]["content"]["body"]
    return "".join(run["text"] for block in blocks for run in block["inlines"])


#: The text of a message, by the format of its channel, which is named like it.
_READ: dict[str, Callable[[str], str]] = {
    "json": lambda body: body,
    "slack": lambda body: html.unescape(json.loads(body)["text"]),
    "mattermost": lambda body: str(json.loads(body)["text"]),
    "discord": lambda body: str(json.loads(body)["content"]),
    "teams": _card,
    "ntfy": lambda body: body,
    "apprise": lambda body: str(json.loads(body)["message"]),
    "forgejo": lambda body: " ".join(json.loads(body)[key] for key in ("context", "state", "description")),
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
        return [one for batch in told(self.host).get("good", []) for one in batch.messages]

    def wait_for(self, what: str, kind: str, within: float = 300) -> tuple[dict[str, Any], float]:
        """A message, and the seconds until it arrived."""
        began = time.monotonic()
        while True:
            found = [one for one in self.messages if (one["what"], one["kind"]) == (what, kind)]
            if found:
                return found[-1], time.monotonic() - began
            assert time.monotonic() - began < within, self.messages
            time.sleep(min(1, within / 100))
