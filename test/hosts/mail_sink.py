"""A mail server that takes every mail and keeps it: each is a line of JSON in a file. Its first line is its port."""

import base64
import json
import socketserver
import sys
import time
from typing import Any


class Session(socketserver.StreamRequestHandler):
    """A client's session: as much of SMTP (RFC 5321) as clients use, and AUTH PLAIN."""

    def handle(self) -> None:
        self.mail: dict[str, Any] = {"login": "", "from": "", "to": [], "text": ""}
        self.say("220 sink")
        for line in self.rfile:
            words = line.decode(errors="replace").strip()
            verb, _blank, rest = words.partition(" ")
            match verb.upper():
                case "EHLO" | "HELO":
                    self.say("250-sink\r\n250 AUTH PLAIN")
                case "AUTH":
                    self.mail["login"] = base64.b64decode(rest.split()[-1]).decode().replace("\0", " ").strip()
                    self.say("235 2.7.0 accepted")
                case "MAIL":
                    self.mail |= {"from": rest[5:].split()[0], "to": []}
                    self.say("250 OK")
                case "RCPT":
                    self.mail["to"].append(rest[3:].split()[0])
                    self.say("250 OK")
                case "DATA":
                    self.say("354 go on")
                    self.keep()
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 OK")

    def keep(self) -> None:
        lines = iter(lambda: self.rfile.readline().decode(errors="replace").rstrip("\r\n"), ".")
        self.mail |= {"text": "\n".join(lines), "time": time.time()}
        with open(sys.argv[2], "a") as file:
            file.write(f"{json.dumps(self.mail)}\n")
        self.say("250 OK")

    def say(self, answer: str) -> None:
        self.wfile.write(f"{answer}\r\n".encode())


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Session) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
