"""certbot (https://eff-certbot.readthedocs.io) in folders of the formula, apart from /etc/letsencrypt."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from django_formula.host import file as host_file
from django_formula.host import folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.site import domains
from django_formula.site.sites import Site
from django_formula.tls.client import Client

#: What an order leaves in its folder in addition to accounts: renewals do not use it, and a killed one's would collide.
_OF_ORDERS = ("archive", "csr", "keys", "live", "renewal")
_VERBS = ("begin", "done")
#: The lines of an authority's problem document; certbot reports some only by an AttributeError of its own.
_PROBLEM = re.compile(r'^ *("type": "urn:[^"]*"|"detail": "(?:[^"\\]|\\.)*")', re.MULTILINE)


class Certbot(Client):
    """certbot."""

    ACCOUNT_EXISTS = "existing account"

    def _register(self, site: Site, folder: Path, binding: tuple[str, str] | None, patience: float) -> None:
        """Register an account; during that the key of a binding is in a file that root alone reads."""
        email, file = site.config["tls"]["email"], folder / "binding.ini"
        arguments = ["--email", email, "--no-eff-email"] if email else ["--register-unsafely-without-email"]
        try:
            if binding:
                text = f"eab-kid = {binding[0]}\neab-hmac-key = {binding[1]}\n"
                host_file.write(file, text, mode=0o600)
                arguments += ["--config", str(file)]
            secrets = binding[1:] if binding else ()
            self._certbot(site, folder, ["register", *arguments], "certbot register", patience, secrets)
        finally:
            file.unlink(missing_ok=True)

    def issue(self, site: Site, folder: Path, domain: str, challenges: Path, patience: float) -> tuple[str, str]:
        """Order a certificate, and return its key and its chain."""
        tls = site.config["tls"]
        name, root = domains.file_name(domain), folder / "webroot/.well-known"
        for path in (folder / "webroot", root):
            folders.make(Folder(path, "root", "root", 0o755))
        host_file.link(root / "acme-challenge", str(challenges))
        arguments = ["--webroot", "--webroot-path", str(folder / "webroot")]
        if tls["challenge"] == "dns-01":
            # certbot runs it by a shell, with domain and value in its environment
            begin, done = (f'{tls["hook"]} {verb} dns-01 "$CERTBOT_DOMAIN" "" "$CERTBOT_VALIDATION"' for verb in _VERBS)
            arguments = ["--manual", "--preferred-challenges", "dns"]
            arguments += ["--manual-auth-hook", begin, "--manual-cleanup-hook", done]
        _remove_orders(folder)
        try:
            arguments += ["--key-type", "ecdsa", "--cert-name", name, "--domain", domain]
            self._certbot(site, folder, ["certonly", *arguments], f"certbot {domain}", patience)
            live = folder / "etc/live" / name
            return (live / "privkey.pem").read_text(), (live / "fullchain.pem").read_text()
        finally:
            _remove_orders(folder)

    def _certbot(
        self, site: Site, folder: Path, arguments: list[str], doing: str, patience: float, secrets: Sequence[str] = ()
    ) -> None:
        """Run certbot and remove its log; the authority's last error is added to the log of the DeploymentError."""
        argv = ["certbot", arguments[0], "--non-interactive", "--agree-tos", "--no-directory-hooks"]
        argv += ["--max-log-backups", "0", "--server", site.config["tls"]["directory"]]
        argv += ["--config-dir", f"{folder}/etc", "--work-dir", f"{folder}/work", "--logs-dir", f"{folder}/log"]
        environment = {"HOME": str(folder)}
        try:
            self.run([*argv, *arguments[1:]], doing=doing, patience=patience, environment=environment, secrets=secrets)
        except DeploymentError as error:
            log = host_file.read_text(folder / "log/letsencrypt.log") or ""
            error.log += "".join(f"\n{line}" for line in _PROBLEM.findall(log)[-2:])
            raise
        finally:
            host_file.remove_tree(folder / "log")

    def cause(self, log: str) -> str:
        """Return what the authority or certbot reports of an order that failed."""
        lines = [line for line in log.splitlines() if line.strip()]
        details = [line.removeprefix('"detail": ') for line in lines if line.startswith('"detail": ')]
        if details:  # a hook that failed is the cause of what the authority does not find
            hooks = [line for line in lines if re.match("Hook '.* reported error code", line)]
            return "; ".join([*hooks[:1], str(json.loads(details[-1]))])
        messages = [line for line in lines if not re.match("Saving debug log|Ask for help|An unexpected error", line)]
        return messages[-1] if messages else ""


def _remove_orders(folder: Path) -> None:
    for name in _OF_ORDERS:
        host_file.remove_tree(folder / "etc" / name)


CLIENT = Certbot()
