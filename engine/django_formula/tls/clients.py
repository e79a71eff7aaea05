"""The ACME clients that order certificates, programs of Debian's: their contract, and each of them."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from django_formula.host import commands, folders
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.site import domains
from django_formula.site.sites import Site


class Client(ABC):
    """A program that speaks ACME; each kind is a class below.

    What it keeps of an account is in a folder of root's. Errors of the authority are in the log of a DeploymentError,
    ``badNonce`` among them where that is the error.
    """

    #: What its log has where the account exists already, as after a registration that was killed.
    ACCOUNT_EXISTS: ClassVar[str]
    #: Finds in its log that the authority does not have the account any more, or has closed it.
    ACCOUNT_GONE: ClassVar[str]

    def register(self, site: Site, folder: Path, binding: tuple[str, str] | None, patience: float) -> None:
        """Register an account at the authority; one that exists is as good.

        Args:
            site: the site.
            folder: of the account.
            binding: identifier and key (base64url, without padding) of an external account.
            patience: seconds.

        Raises:
            DeploymentError: the authority refuses.
        """
        try:
            self._register(site, folder, binding, patience)
        except DeploymentError as error:
            if self.ACCOUNT_EXISTS not in error.log:
                raise

    @abstractmethod
    def _register(self, site: Site, folder: Path, binding: tuple[str, str] | None, patience: float) -> None:
        """Register an account at the authority."""

    @abstractmethod
    def issue(self, site: Site, folder: Path, domain: str, challenges: Path, patience: float) -> tuple[str, str]:
        """Order a certificate, whether or not one exists, and return its key and its chain in PEM.

        Args:
            site: the site.
            folder: of the account.
            domain: what the certificate is for.
            challenges: the folder that the proxy serves answers to http-01 from.
            patience: seconds.

        Raises:
            DeploymentError: the authority issues none.
        """

    @abstractmethod
    def cause(self, log: str) -> str:
        """Return in a line what the authority, or the client, reports of an order that failed; empty for nothing."""

    def run(
        self,
        argv: Sequence[str],
        *,
        doing: str,
        patience: float,
        environment: dict[str, str],
        secrets: Sequence[str] = (),
    ) -> None:
        """Run the client with the host's proxies for outgoing requests in its environment.

        Raises:
            DeploymentError: the client fails.
        """
        variables = {**commands.network_environment(), **environment}
        commands.run(list(argv), doing=doing, environment=variables, timeout=patience, secrets=secrets)


# uacme (https://github.com/ndilieto/uacme): a small client in C, which keeps keys and certificates only

#: Debian's hook for http-01: it writes each challenge into the folder that its environment names.
HOOK = Path("/usr/share/uacme/uacme.sh")


class Uacme(Client):
    """uacme."""

    ACCOUNT_EXISTS = "already exists"
    ACCOUNT_GONE = "no account associated with|invalid account status"

    def _register(self, site: Site, folder: Path, binding: tuple[str, str] | None, patience: float) -> None:
        """Register an account; uacme takes the key of a binding as an argument only."""
        email = site.config["tls"]["email"]
        arguments = [*(["-e", ":".join(binding)] if binding else []), "new", *([email] if email else [])]
        secrets = [binding[1]] if binding else []
        self.run(
            _uacme_argv(site, folder, *arguments), doing="uacme new", patience=patience, environment={}, secrets=secrets
        )

    def issue(self, site: Site, folder: Path, domain: str, challenges: Path, patience: float) -> tuple[str, str]:
        """Order a certificate, and return its key and its chain."""
        tls = site.config["tls"]
        hook = tls["hook"] if tls["challenge"] == "dns-01" else str(HOOK)
        argv = _uacme_argv(site, folder, "-f", "-h", hook, "issue", domain)
        environment = {"UACME_CHALLENGE_PATH": str(challenges)}
        self.run(argv, doing=f"uacme {domain}", patience=patience, environment=environment)
        name = domain.removeprefix("*.")  # uacme's name of a wildcard's files
        return (folder / "private" / name / "key.pem").read_text(), (folder / name / "cert.pem").read_text()

    def cause(self, log: str) -> str:
        """Return what the authority or uacme reports of an order that failed."""
        lines = [line.strip() for line in log.splitlines() if '"detail"' in line or line.startswith("uacme: ")]
        details = [line for line in lines if '"detail"' in line]
        if details:
            return details[-1].partition(":")[2].strip(' ",').replace('\\"', '"')
        return lines[-1] if lines else ""


def _uacme_argv(site: Site, folder: Path, *arguments: str) -> list[str]:
    return ["uacme", "-y", "-c", str(folder), "-a", site.config["tls"]["directory"], "-t", "EC", *arguments]


# certbot (https://eff-certbot.readthedocs.io) in folders of the formula, apart from /etc/letsencrypt

#: What an order leaves in its folder in addition to accounts: renewals do not use it, and a killed one's would collide.
_OF_ORDERS = ("archive", "csr", "keys", "live", "renewal")
_VERBS = ("begin", "done")
#: The lines of an authority's problem document; certbot reports some only by an AttributeError of its own.
_PROBLEM = re.compile(r'^ *("type": "urn:[^"]*"|"detail": "(?:[^"\\]|\\.)*")', re.MULTILINE)


class Certbot(Client):
    """certbot."""

    ACCOUNT_EXISTS = "existing account"
    ACCOUNT_GONE = "accountDoesNotExist|Account is not valid, has status"

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


# All of them

#: Every client, by the name that the pillar has for it.
CLIENTS: dict[str, Client] = {"uacme": Uacme(), "certbot": Certbot()}
