"""A host made anew of copies elsewhere: what an apply fetches before it makes the sites, where that was asked for.

The secrets have to be there before an apply generates others. So the request of `django.rebuild` is a file, which the
step `site` reads of each site that has no release yet. Visitors get the maintenance page and workers no tasks, from
before the first release until the data is there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies, fetching, repository, sealed
from django_formula.proxy import maintenance
from django_formula.site.sites import Site

#: The request: the process that applies, the file of the recovery key, and of each site that was fetched the name of
#: its copy. It is of one process, so that what a killed one has left is no request.
REQUEST = Path("/run/django-formula-rebuild.json")
_SHAPE = {"pid": int, "identity": str, "fetched": {str: str}}


@contextmanager
def requested(identity: str) -> Iterator[None]:
    """Have applies in the block fetch the copies of sites that have no release.

    Args:
        identity: the file of the recovery key.

    Raises:
        DeploymentError: there is no such file.
    """
    path = Path(identity)
    if not path.is_absolute() or not path.is_file():
        hint = (
            "copy the file that age-keygen wrote to this host, such as to /root/recovery.txt, and give its whole path"
        )
        raise DeploymentError(f"there is no recovery key in {identity}", hint=hint)
    file.write_json(REQUEST, {"pid": os.getpid(), "identity": identity, "fetched": {}}, mode=0o600)
    try:
        yield
    finally:
        REQUEST.unlink(missing_ok=True)


def fetched() -> dict[str, str]:
    """Return the sites whose copies were fetched, and the name of each copy."""
    return dict((_request() or {"fetched": {}})["fetched"])


def pending(site: Site) -> dict[str, str]:
    """Return what `prepare` would do."""
    request = _request()
    is_meant = request and repository.configured(site.config) and not os.path.lexists(site.current)
    return {"copy": "fetched from elsewhere"} if is_meant else {}


def prepare(site: Site) -> None:
    """Fetch the newest copy of a site and open its secrets, where it is to be made of them.

    Raises:
        DeploymentError: there is no copy, it is damaged, or the recovery key does not open it.
    """
    request = _request()
    if not request or not pending(site):
        return
    with copies.lock(site, "django.rebuild").held(), repository.opened(site) as store:
        copy = copies.find(store, None)
        _open_secrets(site, store, copy, Path(request["identity"]))
        fetching.into_backups(store, copy, uploads=copies.UPLOADS in copy["parts"])
    maintenance.on(site, "its data is being restored", by="django.rebuild", is_coming=True)
    maintenance.hold_workers(site)
    request["fetched"][site.name] = copy["backup"]
    file.write_json(REQUEST, request, mode=0o600)


def _open_secrets(site: Site, store: repository.Repository, copy: copies.Copy, identity: Path) -> None:
    with fetching.folder(site, "fetched") as folder:
        path = folder / sealed.NAME
        fetching.fetch_part(store, copy, sealed.NAME, path)
        sealed.restore(site, sealed.opened(path, identity))


def _request() -> dict[str, Any] | None:
    request = file.read_json(REQUEST, _SHAPE)
    return request if request and request["pid"] == os.getpid() else None
