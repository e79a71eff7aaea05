"""The contract of an ACME client: a program of Debian's that orders certificates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site


class Client(ABC):
    """A program that speaks ACME; each kind is a class in a module of its own.

    What it keeps of an account is in a folder of root's. Errors of the authority are in the log of a DeploymentError,
    ``badNonce`` among them where that is the error.
    """

    #: What its log has where the account exists already, as after a registration that was killed.
    ACCOUNT_EXISTS: ClassVar[str]

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
