"""The certificates of a balancer: ordered and renewed on its host, by an apply and by a timer.

The timer's program needs neither Salt nor the pillar: the balancer's record has what an order needs of a site.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.balancer import plan
from django_formula.balancer.program import Entries
from django_formula.host import archive, config_files, file, template, units
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import OURS, Files
from django_formula.kind.kinds import FILES
from django_formula.site.sites import Site
from django_formula.tls import acme, certificates
from django_formula.untrusted.text import tell

SERVICE = Path("/etc/systemd/system/django-balancer-tls.service")
TIMER = SERVICE.with_suffix(".timer")
TEMPLATES = (f"{FILES}tls.service", f"{FILES}tls.timer")


def main() -> int:
    """Renew the certificates that are due, and return the exit code: 1 where something failed."""
    try:
        changed, warnings = renew(plan.recorded(), {})
    except (DeploymentError, OSError) as error:
        changed, warnings = {}, [str(error)]
    for domain, how in changed.items():
        tell(f"{domain}: {how}")
    for warning in warnings:
        tell(warning, is_error=True)
    return 1 if warnings else 0


def sites(entries: Entries) -> list[Site]:
    """Return the sites whose certificates this balancer renews."""
    return [Site(entry["tls"]["config"], entry["tls"]["platform"]) for entry in entries.values() if entry.get("tls")]


def renew(entries: Entries, given: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Renew the certificates that are due.

    Args:
        entries: the sites, as `balancer.plan` records them.
        given: secrets of the pillar by site: ``eab:key``.

    Returns:
        What changed, by domain, and warnings.

    Raises:
        DeploymentError: a certificate cannot be made, or the balancer refuses it.
    """
    changed: dict[str, str] = {}
    warnings: list[str] = []
    plan.catch_up()
    for site in sites(entries):
        missing = certificates.missing(site, {}, {}, trusts_clock=False)
        if missing:
            plan.change_certificates(certificates.texts(site, missing, {}, {}, trusts_clock=False))
            changed |= missing
        if not _is_acme(site):
            continue
        due, deferred = acme.due(site)
        warnings += deferred
        if due:
            secrets, install, serving = given.get(site.name, {}), plan.change_certificates, acme.serving_challenges
            ordered, failed = acme.renew(site, due, secrets, install=install, serving=serving)
            changed |= ordered
            warnings += failed
    return changed, warnings


def planned(entries: Entries, templates: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return what `apply` would change, and warnings."""
    changes: dict[str, Any] = dict(config_files.differences(timer_files(entries, templates)))
    due: dict[str, str] = {}
    warnings: list[str] = []
    for site in sites(entries):
        found, deferred = acme.due(site) if _is_acme(site) else ({}, [])
        due |= found
        warnings += deferred
    return {**changes, **({"certificates": due} if due else {})}, warnings


def apply(
    entries: Entries, templates: Mapping[str, str], given: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, Any], list[str]]:
    """Order the certificates that are due, and install the timer that renews them.

    Args:
        entries: the sites, as `balancer.plan` records them.
        templates: texts of `TEMPLATES`.
        given: secrets of the pillar by site: ``eab:key``.

    Returns:
        The changes, and warnings.

    Raises:
        DeploymentError: systemd refuses the timer, or a certificate cannot be made.
    """
    wanted = timer_files(entries, templates)
    changes: dict[str, Any] = dict(config_files.differences(wanted))
    install(wanted)
    ordered, warnings = renew(entries, given)
    return {**changes, **({"certificates": ordered} if ordered else {})}, warnings


def _is_acme(site: Site) -> bool:
    return bool(site.config["tls"]["kind"] == "acme")


# The timer


def timer_files(entries: Entries, templates: Mapping[str, str]) -> Files:
    """Return the units of the timer, or None for each where there is nothing to renew."""
    own = sites(entries)
    if not own:
        return dict.fromkeys((SERVICE, TIMER))
    hooks = [site.config["tls"]["hook"] for site in own]
    about = {"name": ", ".join(site.name for site in own), "tls": {"hook": next(filter(None, hooks), None)}}
    variables: dict[str, Any] = {"site": about, "command": f"/usr/bin/python3 -I {_program()}", "schedule": "hourly"}
    texts = [template.render(templates, url, **variables) for url in TEMPLATES]
    return {path: f"{OURS}.\n{text}" for path, text in zip((SERVICE, TIMER), texts, strict=True)}


def _program() -> Path:
    """Return the path of the program, which another one has under another name."""
    digest = hashlib.sha256(archive.packed("django_formula.balancer.certificates")).hexdigest()
    return certificates.STATE / f"balancer-tls-{digest[:12]}.pyz"


def install(wanted: Files) -> None:
    """Install the timer as `files` has it, or remove it.

    Raises:
        DeploymentError: systemd refuses it.
    """
    program = _program()
    for path in certificates.STATE.glob("balancer-tls-*.pyz"):
        if path != program or wanted[TIMER] is None:
            path.unlink()
    if wanted[TIMER] is None and TIMER.exists():
        with contextlib.suppress(DeploymentError):
            units.end_timer(TIMER.name)
    elif wanted[TIMER] is not None and not program.exists():
        file.write(program, archive.packed("django_formula.balancer.certificates"), mode=0o600)
    if config_files.differences(wanted):
        config_files.install(wanted)
        units.daemon_reload()
    if wanted[TIMER] is not None:
        units.start_timer(TIMER.name)
