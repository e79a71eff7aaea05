"""A host whose Salt is driven from another one: by a master, or by salt-ssh."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lab import HOSTS, Host, Result


class Driven(Host):
    """A host of which `pillar`, `salt`, `call` and `apply` go through another one.

    by: the host that has the formula and the pillar
    command: what is called there, up to the target
    """

    def __init__(self, host: Host, by: Host, command: Sequence[str]):
        super().__init__(host.container, host.name, host.address, host.init, host.identity)
        HOSTS.remove(self)  # its seconds of CPU are those of the other object of the same container
        self.by, self.command, self.minion = by, command, host.name

    def pillar(self, pillar: Mapping[str, Any] | str) -> None:
        self.by.pillar(pillar)

    def salt(
        self,
        function: str,
        *arguments: str,
        timeout: float = 900,
        log_level: str = "warning",
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Result:
        named = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
        argv = [*self.command, "--out=json", f"--log-level={log_level}", self.minion, function, *arguments, *named]
        return self.by.run(argv, check=False, timeout=timeout, environment=environment)

    def printed(self, function: str, *arguments: str) -> str:
        """What the command prints for people."""
        return self.by.run([*self.command, "--log-level=warning", self.minion, function, *arguments]).stdout


def reachable_by_ssh(desk: Host, *hosts: Host) -> None:
    """Let root of a host log in as root of others."""
    desk.run(
        "command -v ssh-keygen || apt-get -qq install --no-install-recommends openssh-client",
        environment={"DEBIAN_FRONTEND": "noninteractive"},
    )
    desk.run("mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
    for host in hosts:
        host.write("/root/.ssh/authorized_keys", desk.read("/root/.ssh/id_ed25519.pub"), mode="0600")
        desk.run(["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", host.name, "true"])
