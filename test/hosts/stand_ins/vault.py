"""A stand-in of Vault's and OpenBao's API: one login by AppRole, one secret of a KV store, version 2.

python3 vault.py ROLE SECRET KEY VALUE
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

ROLE, SECRET, KEY, VALUE = sys.argv[1:]
TOKEN = "hvs.of-the-stand-in"
LOGIN: dict[str, Any] = {
    "accessor": "accessor",
    "entity_id": "",
    "lease_duration": 3600,
    "metadata": {},
    "num_uses": 0,
    "orphan": True,
    "policies": ["blog"],
    "renewable": True,
}


class Handler(BaseHTTPRequestHandler):
    def answer(self, status: int, **content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        login = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/auth/approle/login" or (login["role_id"], login["secret_id"]) != (ROLE, SECRET):
            return self.answer(400, errors=["invalid role or secret ID"])
        return self.answer(200, auth={**LOGIN, "client_token": TOKEN, "token_type": "service"})

    def do_GET(self) -> None:
        if self.headers.get("X-Vault-Token") != TOKEN:
            return self.answer(403, errors=["permission denied"])
        if self.path == "/v1/auth/token/lookup-self":
            lifetime = {"creation_time": 0, "expire_time": None, "explicit_max_ttl": 0, "ttl": 3600}
            return self.answer(200, data={**LOGIN, **lifetime, "id": TOKEN, "type": "service"})
        if self.path.startswith("/v1/sys/internal/ui/mounts/secret"):
            return self.answer(200, data={"path": "secret/", "type": "kv", "options": {"version": "2"}, "uuid": "1"})
        if self.path == "/v1/secret/data/blog":
            return self.answer(200, data={"data": {KEY: VALUE}, "metadata": {"version": 1}})
        return self.answer(404, errors=[])

    def log_message(self, format: str, *arguments: object) -> None:
        pass


HTTPServer(("127.0.0.1", 8200), Handler).serve_forever()
