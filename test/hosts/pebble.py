"""Pebble, the server of Let's Encrypt for tests, on the host of a site: it rejects nonces and wants a binding."""

import json
import time
from typing import Any

from certificates import Authority
from images import CERTIFICATES
from lab import APT_UPDATE, Host

DIRECTORY = "https://acme.example.org:14000/dir"
EAB = {"key_id": "kid-1", "key": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}
CONFIGURATION = {
    "pebble": {
        "listenAddress": "0.0.0.0:14000",
        "managementListenAddress": "0.0.0.0:15000",
        "certificate": "/etc/pebble/server.pem",
        "privateKey": "/etc/pebble/server.key",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": True,
        "externalAccountMACKeys": {EAB["key_id"]: EAB["key"]},
    }
}
#: Each name is proven anew.
ENVIRONMENT = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0"}


#: A hook of dns-01 as an operator might write it.
HOOK = """#!/bin/sh
[ "$2" = dns-01 ] || exit 1
echo "$1 $3" >> /var/log/dns-hook
case $1 in begin) verb=set-txt ;; *) verb=clear-txt ;; esac
exec curl -fsS -d "{\\"host\\": \\"_acme-challenge.$3.\\", \\"value\\": \\"$5\\"}" "http://127.0.0.1:8055/$verb"
"""


def names(host: Host, verb: str, name: str) -> None:
    """Tell the DNS that pebble asks, where every name leads to the host: `set-servfail`, `clear-servfail`."""
    data = json.dumps({"host": f"{name}."})
    host.run(["curl", "-fsS", "-d", data, f"http://127.0.0.1:8055/{verb}"])


def start(host: Host, *, rejected: int = 20, **changes: Any) -> None:
    """Have pebble on a host, which trusts it; with changes of its configuration.

    rejected: how many of a hundred good nonces it refuses
    """
    install = "DEBIAN_FRONTEND=noninteractive apt-get -qq install curl pebble >/dev/null"
    host.run(f"{APT_UPDATE} && {install}", timeout=300)
    authority = Authority()
    server = authority.sign("acme.example.org")
    host.write("/etc/pebble/server.pem", server.certificate)
    host.write("/etc/pebble/server.key", server.key, mode="0600")
    host.write("/etc/pebble/pebble.json", json.dumps({"pebble": {**CONFIGURATION["pebble"], **changes}}))
    host.write("/etc/pebble/trusted.pem", host.read(CERTIFICATES) + authority.root)
    host.mount("--bind", "/etc/pebble/trusted.pem", CERTIFICATES)
    host.run("echo 127.0.0.1 acme.example.org >> /etc/hosts")
    dns = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]
    others = [option for name in ("http01", "https01", "tlsalpn01") for option in (f"-{name}", "")]
    host.run(["systemd-run", "--unit=pebble-dns", *dns, *others])
    told = [f"--setenv={name}={value}" for name, value in {**ENVIRONMENT, "PEBBLE_WFE_NONCEREJECT": rejected}.items()]
    pebble = ["pebble", "-config", "/etc/pebble/pebble.json", "-dnsserver", "127.0.0.1:8053"]
    host.run(["systemd-run", "--unit=pebble", *told, *pebble])
    deadline = time.monotonic() + 200
    while host.run("ss -ltn | grep -q :14000 && ss -ltn | grep -q :8055", check=False).returncode:
        assert time.monotonic() < deadline, host.run(["journalctl", "-u", "pebble"]).stdout
        time.sleep(0.2)
