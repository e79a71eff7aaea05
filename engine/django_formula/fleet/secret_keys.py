"""The secret key of a site on several hosts: the one that they sign with, and the others that they accept.

Two files in the site's folder of the store:

    secret_key       the key that the hosts sign with
    other_keys.json  ``next``: the key that a rotation goes on to; ``former``: those that were replaced, the last first

Each change is written in an order in which every state between two files is one that the hosts may get: the key that
they sign with is never missing among those that others accept. See docs/decisions/0067.
"""

from collections.abc import Callable
from typing import Any

from django_formula.fleet.store import Store, new_key
from django_formula.host import file

_SHAPE = {"next": str, "former": [str]}


class Keys:
    """The secret keys of a site.

    Args:
        store: what the master keeps of the site.
    """

    def __init__(self, store: Store):
        self._store = store
        self._others = store.folder / "other_keys.json"

    def current(self) -> str:
        """Return the key that the hosts sign with; it is generated once."""
        return self._store.secret_key()

    def given(self) -> dict[str, str]:
        """Return the keys that the hosts accept besides: ``next`` in a rotation, and the former ones by number."""
        others, current = self._read(), self.current()
        former = [key for key in others["former"] if key != current]
        begun = {"next": others["next"]} if others["next"] not in ("", current) else {}
        return begun | {str(number): key for number, key in enumerate(former, 1)}

    def begin(self) -> str:
        """Return the next key: the one that a rotation has begun with, or a new one."""
        if "next" not in self.given():
            self._write({**self._read(), "next": new_key()})
        return self.given()["next"]

    def give_up(self) -> None:
        """Forget the next key, which no host signs with."""
        self._write({**self._read(), "next": ""})

    def promote(self) -> None:
        """Let the hosts sign with the next key, which each of them accepts; the current one is a former key then."""
        others, current = self._read(), self.current()
        former = [current, *(key for key in others["former"] if key != current)]
        self._write({**others, "former": former})
        self._set(others["next"])
        self._write({"next": "", "former": former})

    def take_back(self) -> None:
        """Let the hosts sign with the former key again; the current one is the next key then, which they accept."""
        others, current = self._read(), self.current()
        before, *former = others["former"]
        self._write({**others, "next": current})
        self._set(before)
        self._write({"next": current, "former": former})

    def forget(self, is_accepted: Callable[[str], bool]) -> None:
        """Forget the former keys that no host accepts any more."""
        others = self._read()
        former = [key for key in others["former"] if is_accepted(key)]
        if former != others["former"]:
            self._write({**others, "former": former})

    def _set(self, key: str) -> None:
        file.write(self._store.folder / "secret_key", key, mode=0o600)

    def _read(self) -> dict[str, Any]:
        return file.read_json(self._others, _SHAPE) or {"next": "", "former": []}

    def _write(self, others: dict[str, Any]) -> None:
        file.write_json(self._others, others, mode=0o600)
