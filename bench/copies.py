"""What a backup and its copy elsewhere cost, and what the next copy adds: a site on PostgreSQL, and a store by sftp."""

from collections.abc import Mapping
from typing import Any

from contestants import SALT, Formula, apply, measured
from lab import Host

NAME, LOGIN, STORE = "copies", "backup1", "/srv/copies"
#: Rows of a table next to the project's, each of 1 kB of random hex digits, which compress to half.
_FILL = """
CREATE TABLE filling (id serial PRIMARY KEY, text text);
INSERT INTO filling (text)
SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 32 * {rows}) n GROUP BY n % {rows};
"""
#: The next day: a hundredth is new, and as much has changed in one place.
_NEXT = """
INSERT INTO filling (text) SELECT md5(random()::text) || text FROM filling WHERE id <= {part};
UPDATE filling SET text = md5(random()::text) || text WHERE id BETWEEN {part} AND 2 * {part};
"""


class Copies:
    """A site with a database of some size, whose store is on the same host.

    Args:
        rows: of 1 kB each.
    """

    def __init__(self, host: Host, formula: Formula, commit: str, rows: int):
        self.host, self.rows = host, rows
        host.run(f"useradd --create-home --shell /bin/sh {LOGIN} && install -d -o {LOGIN} -g {LOGIN} {STORE}")
        host.run("ssh-keygen -q -t ed25519 -N '' -f /root/copies && systemctl start ssh")
        host.write(f"/home/{LOGIN}/.ssh/authorized_keys", host.read("/root/copies.pub"), owner=LOGIN, mode="0600")
        known = " ".join(["127.0.0.1", *host.read("/etc/ssh/ssh_host_ed25519_key.pub").split()[:2]])
        store = {"kind": "sftp", "host": "127.0.0.1", "user": LOGIN, "path": STORE, "known_hosts": [known]}
        secrets: Mapping[str, Any] = {"ssh_key": host.read("/root/copies"), "password": "grenadier-of-the-store"}
        host.run("apt-get -qq install --no-install-recommends age >/dev/null && age-keygen -o /root/recovery.txt")
        recipients = [host.run(["age-keygen", "-y", "/root/recovery.txt"]).stdout.strip()]
        options = {**formula.options(commit, f"{NAME}.example.org"), "database": {"engine": "postgres"}}
        options["backup"] = {"offsite": {**store, **secrets, "recipients": recipients}}
        host.pillar({"django": {"sites": {NAME: options}}})
        apply(host, *formula.apply_argv)
        self._sql(_FILL.format(rows=rows))

    def change(self) -> None:
        """Let a day pass."""
        self._sql(_NEXT.format(part=self.rows // 100))

    def usual(self) -> float:
        """CPU seconds of a dump as people make it, which zlib compresses."""
        argv = ["runuser", "-u", NAME, "--", "pg_dump", "--format=custom", "--no-sync", "--file=/dev/null", NAME]
        return measured(self.host, *argv)[0].cpu

    def spent(self, function: str, *words: str) -> float:
        """CPU seconds of a function of the formula."""
        return measured(self.host, *SALT, f"django.{function}", NAME, *words)[0].cpu

    def dump(self) -> int:
        """Bytes of the newest dump."""
        (newest, *_others) = self.host.run(f"ls -t /srv/django/{NAME}/backups/*.dump.zst").stdout.split()
        return int(self.host.run(["stat", "-c", "%s", newest]).stdout)

    def stored(self) -> int:
        """Bytes of the store."""
        return int(self.host.run(["du", "-sb", STORE]).stdout.split()[0])

    def _sql(self, text: str) -> None:
        self.host.run(
            ["runuser", "-u", NAME, "--", "psql", "-q", "-v", "ON_ERROR_STOP=1", NAME], stdin=text, timeout=900
        )
