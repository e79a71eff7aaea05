"""The secrets of a deployment: those that the pillar gives, those of the site's files, and what no output may show."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from django_formula.container import registry
from django_formula.git_server import servers
from django_formula.host import file
from django_formula.push import static_files
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.virtualenv import index

#: Names of what the pillar gives for other programs than the project.
_FOR_PROGRAMS = ("checks_token", "deploy_key", "hook_secret", "index_password", "push_secret", "registry_password")
#: Prefixes of names that have the rest of the name as a key: of ``tls``, and of hosts with certificates.
_TLS, _TRUSTED = "tls:", "trusted:"


class Secrets:
    """The secrets of one deployment.

    Args:
        site: the site with its effective configuration.
        given: secrets from the pillar by name, and ``deploy_key``, ``hook_secret``, ``index_password``,
            ``checks_token``, ``push_secret``, ``registry_password``, ``tls:<key>``, ``trusted:<host>``.

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
        self.given = {name: value for name, value in own.items() if name not in _FOR_PROGRAMS}
        self.deploy_key, self.hook_secret = given.get("deploy_key"), given.get("hook_secret")
        self.index_password = index.PASSWORD.value(site, given.get("index_password"))
        self.checks_token = servers.TOKEN.value(site, given.get("checks_token"))
        self.push_secret = static_files.SECRET.value(site, given.get("push_secret"))
        self.registry_password = registry.PASSWORD.value(site, given.get("registry_password"))
        #: What commands without a pillar need: its key in the pillar, what it is, its file, its value.
        self._kept = (
            ("index", "password", index.PASSWORD, self.index_password),
            ("registry", "password", registry.PASSWORD, self.registry_password),
            ("push", "secret", static_files.SECRET, self.push_secret),
            ("checks", "token", servers.TOKEN, self.checks_token),
        )
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

    def unkept(self) -> dict[str, str]:
        """Return what `keep` would change, by the key in the pillar."""
        changed = [
            (key, noun, value) for key, noun, secret, value in self._kept if not secret.is_kept(self._site, value)
        ]
        return {key: f"{noun} kept" if value else f"{noun} removed" for key, noun, value in changed}

    def keep(self) -> None:
        """Keep what commands need that have no pillar."""
        for _key, _noun, secret, value in self._kept:
            secret.keep(self._site, value)

    def add(self, name: str, value: str) -> None:
        """Add a secret that was generated."""
        self.by_name[name] = value

    def masked(self) -> list[str]:
        """Return the texts that no output may contain, as they are and URL-encoded."""
        keys = [value for name, value in self.tls.items() if name != "certificate"]
        programs = [value for _key, _noun, _secret, value in self._kept]
        given = filter(None, [*self.given.values(), self.deploy_key, self.hook_secret, *programs, *keys])
        with contextlib.suppress(OSError):  # no file can be opened any more: those read before are still known
            self._fallbacks = secrets.fallbacks(self._site)
        known = list(dict.fromkeys([*self.by_name.values(), *given, *self._fallbacks]))
        return [*known, *(quoted for value in known if (quoted := quote(value, safe="")) != value)]

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
