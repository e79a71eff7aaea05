"""Another secret key for all hosts of a site, of which no visitor notices anything: see docs/decisions/0067."""

import time
from collections.abc import Callable
from typing import Any

from django_formula.fleet.deployment import Answers, Failed, Fleet, accepted
from django_formula.fleet.secrets import Keys
from django_formula.host.commands import DeploymentError
from django_formula.secret import secrets


class Rotation(Fleet):
    """The hosts of a site, as one rotation deals with them."""

    def rotate_secret_key(self) -> dict[str, Any]:
        """Give all hosts a new secret key, by two releases of the commit that they serve.

        The first makes every instance accept the new key, the second makes it sign with it: at every moment each
        accepts what any other signs. What is left of a rotation that did not end is gone on with.

        Returns:
            As `Fleet.deploy`.

        Raises:
            DeploymentError: as `Fleet.deploy`; or the pillar has the key, or the hosts serve nothing yet.
        """
        began, hosts, keys, own = time.monotonic(), self.recipients(), Keys(self.store), self.id
        with self.store.deploying(self.by) as self._progress:
            ready = self._preflight(hosts)
            self._refuse(ready)
            current = secrets.fingerprint(keys.current())
            if "next" in keys.given() or all(answer.value["key"] == current for answer in ready.values()):
                following = secrets.fingerprint(keys.begin())
                if _without(ready, following):
                    self.id = f"{own}-1"
                    self._release_or(keys.give_up, hosts, ready, began)
                    ready = self._preflight(hosts)
                keys.promote()
            elif missing := _without(ready, current):
                raise Failed("preflight", dict.fromkeys(missing, "it does not accept the store's key: apply on it"))
            self.id = f"{own}-2"
            return self._release_or(keys.take_back, hosts, ready, began)

    def _release_or(self, undo: Callable[[], None], hosts: list[str], ready: Answers, began: float) -> dict[str, Any]:
        """Release with the store's secret keys; where that fails, the store is taken back as the hosts are."""
        try:
            return self._release(hosts, ready, self.store.release()["commit"], began, keys=True)
        except BaseException:
            if not self.store.is_complete(self.id):
                undo()
            raise

    def _refuse(self, ready: Answers) -> None:
        if not self.store.release()["commit"]:
            raise DeploymentError(
                f"the hosts of {self.site} have no release yet", hint=f"salt-run django.deploy {self.site}"
            )
        if not all(answer.value.get("has_keys") for answer in ready.values()):
            raise DeploymentError(
                f"the pillar gives {self.site} its secret key, or gave it when it was applied last",
                hint=f"write that key to {self.store.folder}/secret_key (mode 0600), take it out of the pillar, apply "
                "on all hosts, and rotate again",
            )


def _without(ready: Answers, key: str) -> list[str]:
    """Return the hosts that do not accept a key, by its fingerprint."""
    return [host for host, answer in ready.items() if key not in accepted(answer.value)]
