"""Servers of databases that somebody has set up on a host before: PostgreSQL and MariaDB."""

from lab import Host

INSTALL = """
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update && apt-get -qq install --no-install-recommends postgresql mariadb-server >/dev/null
"""


def set_up(host: Host, *, postgres: str, mysql: str) -> None:
    """Install both servers, and let each run statements as its administrator."""
    host.run(f"set -e\n{INSTALL}", timeout=600)
    host.run(["runuser", "-u", "postgres", "--", "psql", "--quiet", "--set=ON_ERROR_STOP=1"], stdin=postgres)
    host.run(["mariadb"], stdin=mysql)
