"""What a played host has installed: a file of lines such as `user blog`, kept by the modules of test/states/played."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def known(opts: Mapping[str, Any], kind: str) -> list[str]:
    """The names of a kind that the host has."""
    path = Path(opts["played_host"])
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]


def state(
    opts: Mapping[str, Any], name: str, kind: str, there: Iterable[str], gone: Iterable[str] = ()
) -> dict[str, Any]:
    """A state that has these names of a kind on the host, and not those."""
    has = set(known(opts, kind))
    changes = {**dict.fromkeys(sorted({*there} - has), "new"), **dict.fromkeys(sorted({*gone} & has), "gone")}
    if changes and not opts["test"]:
        path = Path(opts["played_host"])
        others = (
            [line for line in path.read_text().splitlines() if not line.startswith(f"{kind} ")] if path.exists() else []
        )
        path.write_text("\n".join([*others, *(f"{kind} {one}" for one in sorted((has | {*there}) - {*gone}))]) + "\n")
    return {"name": name, "changes": changes, "result": None if changes and opts["test"] else True, "comment": "played"}
