"""certbot orders certificates, in folders of the formula's own: /etc/letsencrypt and its timer are somebody else's."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import django_host_command
import django_host_file
import django_host_folder
from django_host_command import DeploymentError
from django_host_folder import Folder
from django_site import Site

#: What an order leaves in its folder, but for the accounts: nobody renews by it, and a killed one would be in the way.
_OF_ORDERS = ("archive", "csr", "keys", "live", "renewal")
_VERBS = ("begin", "done")
#: The lines of a problem as an authority says it; certbot shows some only by an AttributeError of its own.
_PROBLEM = re.compile(r'^ *("type": "urn:[^"]*"|"detail": "(?:[^"\\]|\\.)*")', re.MULTILINE)


def register(site: Site, folder: Path, binding: tuple[str, str] | None, patience: float) -> None:
    """Have an account at the authority; the key of a binding is in a file of root's meanwhile."""
    email, file = site.config["tls"]["email"], folder / "binding.ini"
    arguments = ["--email", email, "--no-eff-email"] if email else ["--register-unsafely-without-email"]
    try:
        if binding:
            text = f"eab-kid = {binding[0]}\neab-hmac-key = {binding[1]}\n"
            django_host_file.write(file, text, mode=0o600)
            arguments += ["--config", str(file)]
        _run(site, folder, "register", arguments, "certbot register", patience, binding[1:] if binding else ())
    except DeploymentError as error:
        if "existing account" not in error.log:  # of a run that was killed then
            raise
    finally:
        file.unlink(missing_ok=True)


def issue(site: Site, folder: Path, domain: str, challenges: Path, patience: float) -> tuple[str, str]:
    """Order a certificate; returns its key and its chain."""
    tls = site.config["tls"]
    root = folder / "webroot/.well-known"
    for path in (folder / "webroot", root):
        django_host_folder.make(Folder(path, "root", "root", 0o755))
    django_host_file.link(root / "acme-challenge", str(challenges))
    arguments = ["--webroot", "--webroot-path", str(folder / "webroot")]
    if tls["challenge"] == "dns-01":
        # certbot has a shell run it, with the domain and the value in its environment
        begin, done = (f'{tls["hook"]} {verb} dns-01 "$CERTBOT_DOMAIN" "" "$CERTBOT_VALIDATION"' for verb in _VERBS)
        arguments = ["--manual", "--preferred-challenges", "dns"]
        arguments += ["--manual-auth-hook", begin, "--manual-cleanup-hook", done]
    _forget_orders(folder)
    try:
        arguments += ["--key-type", "ecdsa", "--cert-name", domain, "--domain", domain]
        _run(site, folder, "certonly", arguments, f"certbot {domain}", patience)
        live = folder / "etc/live" / domain
        return (live / "privkey.pem").read_text(), (live / "fullchain.pem").read_text()
    finally:
        _forget_orders(folder)


def _forget_orders(folder: Path) -> None:
    for name in _OF_ORDERS:
        django_host_file.remove_tree(folder / "etc" / name)


def _run(
    site: Site, folder: Path, verb: str, arguments: list[str], doing: str, patience: float, secrets: Sequence[str] = ()
) -> None:
    """Run certbot; its log goes with it, but for what the authority has said last where that is an error."""
    argv = ["certbot", verb, "--non-interactive", "--agree-tos", "--no-directory-hooks", "--max-log-backups", "0"]
    argv += ["--server", site.config["tls"]["directory"]]
    argv += ["--config-dir", f"{folder}/etc", "--work-dir", f"{folder}/work", "--logs-dir", f"{folder}/log"]
    environment = {**django_host_command.network_environment(), "HOME": str(folder)}
    try:
        django_host_command.run(
            [*argv, *arguments], doing=doing, environment=environment, timeout=patience, secrets=secrets
        )
    except DeploymentError as error:
        error.log += "".join(f"\n{line}" for line in _PROBLEM.findall(_log(folder))[-2:])
        raise
    finally:
        django_host_file.remove_tree(folder / "log")


def _log(folder: Path) -> str:
    return django_host_file.read_text(folder / "log/letsencrypt.log") or ""


def said(log: str) -> str:
    """What the authority or certbot has said of an order that has failed."""
    lines = [line for line in log.splitlines() if line.strip()]
    details = [line.removeprefix('"detail": ') for line in lines if line.startswith('"detail": ')]
    if details:  # a hook that has failed is the cause of what the authority does not find
        hooks = [line for line in lines if re.match("Hook '.* reported error code", line)]
        return "; ".join([*hooks[:1], str(json.loads(details[-1]))])
    told = [line for line in lines if not re.match("Saving debug log|Ask for help|An unexpected error", line)]
    return told[-1] if told else ""
