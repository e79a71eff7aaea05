"""Database servers that were set up on a host before the formula was applied: PostgreSQL and MariaDB."""

from lab import APT_UPDATE, Host

INSTALL = """
export DEBIAN_FRONTEND=noninteractive
{update} && apt-get -qq install --no-install-recommends {packages} >/dev/null
"""


def set_up(host: Host, *, postgres: str | None = None, mysql: str | None = None) -> None:
    """Install the servers that are given statements, and let each run its own as its administrator."""
    packages = [name for name, text in (("postgresql", postgres), ("mariadb-server", mysql)) if text]
    host.run(f"set -e\n{INSTALL.format(update=APT_UPDATE, packages=' '.join(packages))}", timeout=600)
    if postgres:
        host.run(["runuser", "-u", "postgres", "--", "psql", "--quiet", "--set=ON_ERROR_STOP=1"], stdin=postgres)
    if mysql:
        host.run(["mariadb"], stdin=mysql)
