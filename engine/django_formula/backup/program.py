"""The program of a site's timer for backups: it requires neither Salt nor a master."""

from django_formula.backup import backups
from django_formula.host.commands import DeploymentError
from django_formula.release import releases
from django_formula.secret import secrets as secret_secrets
from django_formula.site import sites
from django_formula.untrusted.text import tell


def main(name: str) -> int:
    """Back up a site as last applied, and return the exit code."""
    try:
        site = sites.find(name)
        live = releases.linked(site, site.current)
        if not live:
            tell(f"{name} has no active release yet")
            return 0
        secrets = list(secret_secrets.values(site, {}).values())
        for path in backups.make(site, live, why=backups.BY_TIMER, secrets=secrets):
            tell(path)
    except (DeploymentError, OSError) as error:
        tell(error, is_error=True)
        return 1
    return 0
