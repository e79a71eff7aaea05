"""uacme orders certificates: a small client in C, which keeps no state beside its files."""

from collections.abc import Mapping
from pathlib import Path

import django_host_command
from django_host_command import DeploymentError
from django_site import Site

#: Debian's hook for http-01: it writes each challenge into the folder that its environment names.
HOOK = Path("/usr/share/uacme/uacme.sh")


def register(site: Site, folder: Path, binding: tuple[str, str] | None, patience: float) -> None:
    """Have an account at the authority; uacme takes the key of a binding as an argument only."""
    email, secrets, arguments = site.config["tls"]["email"], [], []
    if binding:
        identifier, key = binding
        arguments, secrets = ["-e", f"{identifier}:{key}"], [key]
    try:
        _run(site, folder, [*arguments, "new", *([email] if email else [])], "uacme new", patience, secrets=secrets)
    except DeploymentError as error:
        if "already exists" not in error.log:  # of a run that was killed then
            raise


def issue(site: Site, folder: Path, domain: str, challenges: Path, patience: float) -> tuple[str, str]:
    """Order a certificate; returns its key and its chain."""
    tls = site.config["tls"]
    hook = tls["hook"] if tls["challenge"] == "dns-01" else str(HOOK)
    environment = {"UACME_CHALLENGE_PATH": str(challenges)}
    _run(site, folder, ["-f", "-h", hook, "issue", domain], f"uacme {domain}", patience, environment)
    return (folder / "private" / domain / "key.pem").read_text(), (folder / domain / "cert.pem").read_text()


def _run(
    site: Site,
    folder: Path,
    arguments: list[str],
    doing: str,
    patience: float,
    environment: Mapping[str, str] | None = None,
    secrets: list[str] | None = None,
) -> None:
    argv = ["uacme", "-y", "-c", str(folder), "-a", site.config["tls"]["directory"], "-t", "EC", *arguments]
    variables = {**django_host_command.network_environment(), **(environment or {})}
    django_host_command.run(argv, doing=doing, environment=variables, timeout=patience, secrets=secrets or [])


def said(log: str) -> str:
    """What the authority or uacme has said of an order that has failed."""
    lines = [line.strip() for line in log.splitlines() if '"detail"' in line or line.startswith("uacme: ")]
    details = [line for line in lines if '"detail"' in line]
    if details:
        return details[-1].partition(":")[2].strip(' ",').replace('\\"', '"')
    return lines[-1] if lines else ""
