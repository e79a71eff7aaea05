"""The program of a site's timer for backups: it requires neither Salt nor a master."""

import django_backup
import django_release
import django_secret
import django_site
from django_host_command import DeploymentError
from django_wall_text import tell


def main(name: str) -> int:
    """Back up a site as last applied, and return the exit code."""
    try:
        site = django_site.find(name)
        live = django_release.linked(site, site.current)
        if not live:
            tell(f"{name} has no active release yet")
            return 0
        secrets = list(django_secret.values(site, {}).values())
        for path in django_backup.make(site, live, why=django_backup.BY_TIMER, secrets=secrets):
            tell(path)
    except (DeploymentError, OSError) as error:
        tell(error, is_error=True)
        return 1
    return 0
