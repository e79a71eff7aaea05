"""The page of this host behind a password: a server of its own in the proxy of a site, with certificates like those.

No site waits for it, and it is in no release: what shows never decides (docs/decisions/0137).
"""

import contextlib
import hmac
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import commands, config_files, file, folders
from django_formula.host import template as host_template
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import OURS, Files
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome
from django_formula.kind.kinds import FILES
from django_formula.page import pages
from django_formula.proxy import proxies, site_files, switch
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.tls import acme, certificates, renewal
from django_formula.watch import setup, spool

PASSWORDS = Path("/etc/django-formula/page.htpasswd")
#: A password that is a hash already, as `crypt` reads it.
_HASH = re.compile(r"\$(5|6|2[aby]|y)\$[!-~]{20,}")


def serve(
    wanted: Mapping[str, str], owner: Site, secrets: Mapping[str, str], templates: Mapping[str, str], *, test: bool
) -> Outcome:
    """Serve the page of this host.

    Args:
        wanted: its ``domain`` and ``user``.
        owner: the site whose proxy, addresses and kind of certificates it has.
        secrets: ``password``, and of the certificates ``certificate``, ``key`` and ``eab:key``.
        templates: texts of the files of the proxy.
        test: whether this is a dry run.

    Raises:
        DeploymentError: a file is in the way, or the proxy refuses one.
    """
    site = renewal.with_domain(owner, wanted["domain"])
    files = _files(site, templates)
    changes: dict[str, Any] = dict(config_files.differences(files))
    folder = Folder(spool.PAGE, "root", site.proxy_group, 0o750)
    changes |= {str(folder.path): found for found in [folders.problem(folder)] if found}
    if not _has_password(wanted["user"], secrets["password"]):
        changes[str(PASSWORDS)] = "changed" if PASSWORDS.exists() else "new"
    record = {"domain": wanted["domain"], "site": owner.name, "kind": site.config["proxy"]["kind"]}
    if renewal.served_page() != record:
        changes[str(renewal.PAGE)] = "changed" if renewal.PAGE.exists() else "new"
    missing = certificates.missing(site, secrets, templates)
    due, deferred = acme.due(site) if site.https and site.config["tls"]["kind"] == "acme" else ({}, [])
    changes |= {"certificates": {**missing, **due}} if missing or due else {}
    if test or not changes:
        return Outcome("the page is served" if not changes else "the page would be served", changes, warnings=deferred)
    folders.make(folder)
    if str(PASSWORDS) in changes:
        _keep_password(wanted["user"], secrets["password"], site.proxy_group)
    if not (spool.PAGE / pages.NAME).exists():
        with contextlib.suppress(DeploymentError, OSError):  # the next look of the watch writes it too
            pages.write(spool.PAGE, [pages.here()])
    if missing:
        switch.change_certificates(certificates.texts(site, missing, secrets, templates))
    renewal.keep_page(record)
    switch.apply(files)
    _ordered, failed = acme.renew(site, due, secrets)
    return Outcome(f"the page is served: {proxies.origin(site)}/", changes, warnings=[*deferred, *failed])


def _files(site: Site, templates: Mapping[str, str]) -> Files:
    """Return the files of the page for its proxy."""
    proxy = proxies.PROXIES[site.config["proxy"]["kind"]]
    domain = site.config["domains"][0]
    path = proxy.server(domain)
    variables = {
        "ours": OURS,
        "domain": domain,
        "folder": spool.PAGE,
        "passwords": PASSWORDS,
        "certificate": certificates.path_of(domain),
        "challenges": certificates.challenges(),
        **site_files.listening(proxy, site),
    }
    files: Files = {
        **proxy.needs_for_page(site),
        path: host_template.render(templates, FILES + proxy.KIND.page, **variables),
        proxy.enabled(domain): f"-> ../sites-available/{path.name}",
    }
    return site_files.together([files | (proxy.shared_protocols(templates) if site.https else {})])


# The password: its hash, in a file that root and the proxy read


def _has_password(user: str, password: str) -> bool:
    known, _, kept = (file.read_text(PASSWORDS) or "").strip().partition(":")
    if known != user or not kept:
        return False
    if _HASH.fullmatch(password):
        return hmac.compare_digest(kept, password)
    salt = re.match(r"\$6\$([^$]+)\$", kept)
    return salt is not None and hmac.compare_digest(kept, _hashed(password, salt[1]))


def _keep_password(user: str, password: str, group: str) -> None:
    text = password if _HASH.fullmatch(password) else _hashed(password)
    PASSWORDS.parent.mkdir(parents=True, exist_ok=True)
    file.write(PASSWORDS, f"{user}:{text}\n", mode=0o640, group=group)


def _hashed(password: str, salt: str = "") -> str:
    """Return the SHA-512 hash of a password, as `crypt` has it; it is on no command line."""
    argv = ["openssl", "passwd", "-6", *(["-salt", salt] if salt else []), "-stdin"]
    return commands.run(
        argv, doing="hashing the password of the page", stdin=f"{password}\n", secrets=[password]
    ).strip()


# Its end


def retire(served: Mapping[str, str] | None, *, test: bool) -> dict[str, str]:
    """Remove the server of the page where it is served otherwise now, or not; return what is removed.

    It is called before the sites of an apply: another proxy may need the ports.

    Args:
        served: ``domain`` and ``kind`` of the proxy; None without a server.
    """
    record = renewal.served_page()
    present = [path for path in (renewal.PAGE, PASSWORDS) if path.exists()]
    if not present or (record and served == {key: record[key] for key in ("domain", "kind")}):
        return {}
    domain = record["domain"] if record else ""
    files: Files = {}
    for proxy in proxies.PROXIES.values() if domain else ():
        paths = (proxy.enabled(domain), proxy.server(domain))
        files |= {path: None for path in paths if config_files.read(path) is not None}
    gone = [*present, *(certificates.belongings(domain) if domain else [])]
    if not test:
        switch.apply(site_files.together([files]))
        for path in gone:
            file.remove_tree(path)
        if spool.PAGE.exists():
            folders.make(Folder(spool.PAGE, "root", "root", 0o700))
    return dict.fromkeys(map(str, [*files, *gone]), "removed")


def remove_if_last(gone: Collection[str], *, test: bool) -> dict[str, str]:
    """Remove the page and the watch of a host whose last site is removed; return what is removed.

    Args:
        gone: sites that are removed, which are still there in a dry run.
    """
    if {*sites.registered()}.difference(gone):
        return {}
    return {**retire(None, test=test), **setup.remove_if_last(gone, test=test)}
