"""Where a site's uploads are: on the disk of this host, or on a mount without which they are not."""

from django_formula.host import proc
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site


def is_shared(site: Site) -> bool:
    """Return whether the site's uploads are to be on a mount."""
    return bool(site.config["media"].get("shared"))


def refuse_unmounted(site: Site) -> None:
    """Check that the site's uploads are on a mount where the pillar says so.

    Raises:
        DeploymentError: nothing is mounted there.
    """
    if is_shared(site) and not proc.mount(site.media.top):
        mount = site.config["media"].get("mount")
        way = "salt-call state.apply django mounts it" if mount else "mount it, by /etc/fstab for example"
        raise DeploymentError(
            f"uploads of {site.name} are to be on a mount, and nothing is mounted at {site.media}"
            + (f": {mount['device']} is missing" if mount else ""),
            hint=f"{way}; if the hosts share no uploads: {site.at}:media: {{shared: false}}",
            transient=True,
        )
