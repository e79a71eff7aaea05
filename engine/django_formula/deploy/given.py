"""What Salt gives an apply besides the configuration of sites: secrets of the pillar, files of the file server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from django_formula.database import served
from django_formula.deploy import secrets_in_use
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.secret import references, secrets
from django_formula.site.sites import Site


class Given:
    """The pillar and the file server of an apply.

    Args:
        pillar: all of it. It is read as it is: ``pillar.get`` returns ten asterisks with salt-ssh.
        sdb: returns what an ``sdb://`` URI refers to.
        path: returns the path on this host of a file of the file server; an empty text where there is none.
        texts: those that were read before in this apply, by URL.
    """

    def __init__(
        self,
        pillar: Mapping[str, Any],
        sdb: Callable[[str], Any],
        path: Callable[[str], str],
        texts: dict[str, str],
    ):
        self._pillar, self._sdb, self._path, self._texts = pillar, sdb, path, texts

    def text(self, url: str) -> str:
        """Return the text of a file of the file server, which is fetched once in an apply.

        Raises:
            DeploymentError: there is none, or it is no text.
        """
        if url not in self._texts:
            path = self._path(url)
            if not path:
                hint = "check file_roots and gitfs_remotes"
                raise DeploymentError(f"cannot find {url} on the file server", hint=hint)
            try:
                self._texts[url] = Path(path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                hint = "convert it: certificates and keys are in PEM, templates in UTF-8"
                raise DeploymentError(f"{url} is no text in UTF-8", hint=hint) from None
        return self._texts[url]

    def texts(self, urls: Iterable[str]) -> dict[str, str]:
        """Return the texts of files by their URLs."""
        return {url: self.text(url) for url in urls}

    def secret(self, path: str) -> str:
        """Return the value of a secret of the pillar, or what an ``sdb://`` URI there refers to.

        Raises:
            DeploymentError: it has none.
        """
        first, *rest = path.split(":")
        value = self._pillar.get(first)
        for key in rest:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            value = value.get("value")
        if isinstance(value, str) and value.startswith(references.SCHEME):
            try:
                value = references.value(value, self._sdb)
            except DeploymentError as error:
                raise DeploymentError(f"{path}: {error.message}", hint=error.hint) from None
        if not isinstance(value, str) or not value or value == secrets.MASK:
            raise DeploymentError(
                f"{path} has no value in this minion's pillar", hint="run: salt-call saltutil.refresh_pillar"
            )
        return value

    def pem(self, value: Any) -> str:
        """Return a certificate or key: it is in the pillar, on the file server, or in a file of this host.

        Raises:
            DeploymentError: it is not there.
        """
        if isinstance(value, dict):
            return self.secret(value["pillar"])
        if value.startswith("salt://"):
            return self.text(value)
        text = file.read_text(Path(value))
        if text is None:
            raise DeploymentError(f"{value} does not exist", hint="put the file there, or correct the pillar")
        return text

    def of_site(self, site: Site) -> dict[str, str]:
        """Return the secrets that the pillar has for a site, by name.

        Raises:
            DeploymentError: one has no value.
        """
        config = site.config
        references = {name: entry.get("value") for name, entry in secrets.configured(site).items()}
        references |= {f"tls:{key}": config["tls"][key] for key in ("certificate", "key")}
        references["tls:eab:key"] = config["tls"]["eab"]["key"]
        references |= self._other_keys(site)
        references |= {kept.given: kept.reference(config) for kept in secrets_in_use.kept()}
        references["hook_secret"] = (config.get("hook") or {}).get("secret")
        references["deploy_key"] = config["deploy_key"]
        trusted = (config.get("fleet") or {}).get("trusted") or {}
        return self._values(references) | {f"trusted:{host}": self.pem(value) for host, value in trusted.items()}

    def of_balancer(self, site: Site) -> dict[str, str]:
        """Return the secrets that the pillar has for the balancer of a site: of its status page, and certificates.

        Raises:
            DeploymentError: one has no value.
        """
        references = {key: site.config["tls"][key] for key in ("certificate", "key")}
        references["eab:key"] = site.config["tls"]["eab"]["key"]
        references["password"] = (site.config["balancer"]["status"] or {}).get("password")
        return self._values(references)

    def of_sender(self, sender: Mapping[str, Any]) -> dict[str, Any]:
        """Return what sends messages by a channel, with its secrets.

        Raises:
            DeploymentError: one has no value.
        """
        return {**sender, **self._values(sender)}

    def of_page(self, site: Site, password: Any) -> dict[str, str]:
        """Return the password of the page, and the secrets of the site whose kind of certificates it has.

        Raises:
            DeploymentError: one has no value.
        """
        references = {key: site.config["tls"][key] for key in ("certificate", "key")}
        return self._values({**references, "eab:key": site.config["tls"]["eab"]["key"], "password": password})

    def of_databases(self, site: Site) -> served.Served:
        """Return a site whose databases this host has, with what the pillar has for their server.

        Raises:
            DeploymentError: a secret has no value.
        """
        given = f"{site.at}:fleet"
        verifiers = {engine: self.secret(f"{given}:passwords:{engine}") for engine in served.engines(site)}
        certificate = self.secret(f"{given}:certificates:{site.config['fleet']['host']}")
        return served.Served(site, verifiers, certificate, self.secret(f"{given}:key"))

    def _values(self, references: Mapping[str, Any]) -> dict[str, str]:
        return {
            name: self.secret(entry["pillar"])
            for name, entry in references.items()
            if isinstance(entry, dict) and entry
        }

    def _other_keys(self, site: Site) -> dict[str, Any]:
        """Return where the pillar has the secret keys that the master lets the site accept: references by name."""
        if not site.config.get("fleet", {}).get("has_keys"):
            return {}
        path = f"{site.at}:fleet:keys"
        keys = self._pillar["django"]["sites"][site.name]["fleet"]["keys"]
        return secrets.named_keys({name: {"pillar": f"{path}:{name}"} for name in keys})
