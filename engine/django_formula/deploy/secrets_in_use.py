"""The secrets of a deployment: those that the pillar gives, those of the site's files, and what no output may show."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from django_formula.container import registry
from django_formula.git_server import servers
from django_formula.host import file
from django_formula.offsite import repository
from django_formula.push import static_files
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.secret.secrets import KeptSecret
from django_formula.site.sites import Site
from django_formula.virtualenv import index

#: Names of what the pillar gives for other programs than the project, besides what is `kept`.
_FOR_PROGRAMS = ("deploy_key", "hook_secret")
#: Prefixes of names that have the rest of the name as a key: of ``tls``, and of hosts with certificates.
_TLS, _TRUSTED = "tls:", "trusted:"


def kept() -> tuple[KeptSecret, ...]:
    """Return what the formula itself uses, and keeps for commands, which have no pillar."""
    return (index.PASSWORD, registry.PASSWORD, static_files.SECRET, servers.TOKEN, *repository.SECRETS)


class Secrets:
    """The secrets of one deployment.

    Args:
        site: the site with its effective configuration.
        given: secrets from the pillar by name, and ``deploy_key``, ``hook_secret``, ``tls:<key>``, ``trusted:<host>``,
            and what is `kept`.

    Attributes:
        given: those of the project that the pillar gives, by name.
        by_name: all of the project, by name; empty until `read`.
        trusted: certificates of the hosts that have servers for all hosts of the site, by the names of these hosts.
        tls: what the pillar gives for ``tls``, by its key there, where it is no path.
        lapsed: former secret keys that the new release no longer accepts.
    """

    def __init__(self, site: Site, given: Mapping[str, str]):
        self._site = site
        self.trusted = _with_prefix(given, _TRUSTED)
        self.tls = _with_prefix(given, _TLS)
        own = {name: value for name, value in given.items() if not name.startswith((_TLS, _TRUSTED))}
        self._kept = {secret: secret.value(site, given.get(secret.given)) for secret in kept()}
        others = {*_FOR_PROGRAMS, *(secret.given for secret in self._kept)}
        self.given = {name: value for name, value in own.items() if name not in others}
        self.deploy_key, self.hook_secret = given.get("deploy_key"), given.get("hook_secret")
        self.by_name: dict[str, str] = {}
        self.lapsed: list[str] = []
        #: The files of secrets that were replaced for the new release: path → content before.
        self._replaced: dict[Path, bytes] = {}
        self._fallbacks: list[str] = []

    def read(self) -> None:
        """Read the secrets of the site.

        Raises:
            DeploymentError: a file holds no usable secret.
        """
        self.by_name = secrets.values(self._site, self.given)

    def of(self, secret: KeptSecret) -> str | None:
        """Return one of what is `kept`: of the pillar, else of the last apply; None where the pillar has none."""
        return self._kept[secret]

    def unkept(self) -> dict[str, str]:
        """Return what `keep` would change, by the key in the pillar and what it is."""
        changed = {secret: value for secret, value in self._kept.items() if not secret.is_kept(self._site, value)}
        return {secret.given.replace("_", " "): "kept" if value else "removed" for secret, value in changed.items()}

    def keep(self) -> None:
        """Keep what commands need that have no pillar."""
        for secret, value in self._kept.items():
            secret.keep(self._site, value)

    def add(self, name: str, value: str) -> None:
        """Add a secret that was generated."""
        self.by_name[name] = value

    def masked(self) -> list[str]:
        """Return the texts that no output may contain."""
        keys = [value for name, value in self.tls.items() if name != "certificate"]
        given = filter(None, [*self.given.values(), self.deploy_key, self.hook_secret, *self._kept.values(), *keys])
        with contextlib.suppress(OSError):  # no file can be opened any more: those read before are still known
            self._fallbacks = secrets.fallbacks(self._site)
        return list(dict.fromkeys([*self.by_name.values(), *given, *self._fallbacks]))

    def former_keys(self) -> list[str]:
        """Return the former secret keys that the release accepts, the last one first."""
        former = secrets.fallbacks_with(self._site, self.by_name.get("secret_key", ""), self.given)
        return [key for key in former if key not in self.lapsed]

    def expired_keys(self, live: Release, *, test: bool) -> list[str]:
        """Return the former secret keys of which every signature has expired, counted from a release's activation.

        Args:
            test: whether nothing is written.
        """
        key = secrets.keyed_hash(secrets.record_key(self._site), self.by_name.get("secret_key"))
        if live.record["inputs"].get("secrets:secret_key") != key:
            return []
        expired = secrets.expired_keys(self._site, live.facts.get("signed_for"), test=test)
        return [key for key in expired if key != self.given.get(secrets.NEXT_KEY)]

    def drop(self, keys: Iterable[str]) -> None:
        """Have the new release no longer accept former secret keys."""
        self.lapsed = [*keys]

    def keep_replaced(self, paths: Iterable[Path]) -> None:
        """Keep the content of secrets' files; where the deployment fails, they are restored."""
        self._replaced = {path: path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()}

    def restore_replaced(self) -> None:
        """Restore the secrets of the active release, which reads them at its next start."""
        for path, content in self._replaced.items():
            with contextlib.suppress(OSError):
                file.write(path, content, mode=0o640, group=self._site.user)
        self.forget_replaced()

    def forget_replaced(self) -> None:
        """Forget what was kept: the new release is active, or nothing was replaced."""
        self._replaced = {}


def _with_prefix(given: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
