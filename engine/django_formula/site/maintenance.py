"""Whether a site is in maintenance, as its files say."""

from typing import Any

from django_formula.host import file
from django_formula.site.sites import Site


def known(site: Site) -> dict[str, Any] | None:
    """Return what is known of the maintenance of a site, or None where it is off.

    Returns:
        ``since``, ``by``, ``message``, ``page`` (``own``, or the path of the project's), and ``until`` if the message
        has a time.
    """
    if not (site.maintenance / "on/index.html").is_file():
        return None
    nothing = dict.fromkeys(("since", "by", "message", "page"), "")
    return {**nothing, **(file.read_json(site.maintenance / "on/about.json") or {})}
