"""Which variable an exception is about, what it is given, and in which settings it is found again.

It runs in the project's Python and imports nothing of ours; see `observe.program`.
"""

import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

Answer = dict[str, Any]
#: Attempts until all stages pass, and of the survey after it; how many texts a variable is given there.
_ATTEMPTS, _SURVEYED, _TEXTS = 120, 80, 4
#: What a variable is given, in this order: {0} makes a text unique.
_LADDER = {
    "text": "obs{0:03d}q",
    "int": "1{0:04d}",
    "bool": "False",
    "url": "https://obs{0:03d}u@obs{0:03d}h.example/1{0:04d}",
    "database": "postgres://obs{0:03d}u:obs{0:03d}w@obs{0:03d}h:1{0:04d}/obs{0:03d}d",
    "redis": "redis://obs{0:03d}h:1{0:04d}/1",
    "list": "obs{0:03d}a,obs{0:03d}b",
    "json": '{{"obs{0:03d}k": "obs{0:03d}v"}}',
    "path": "/nonexistent/obs{0:03d}f",
    "key": "b2JzLW9icy1vYnMtb2JzLW9icy1vYnMtb2JzLW9{0:03d}0=",
    "email": "obs{0:03d}e@obs{0:03d}h.example",
    "truth": "True",
}
#: The first of these, by the type that a library was given, or by how the name ends.
KINDS = {
    **{
        "int": "int",
        "float": "int",
        "bool": "bool",
        "boolean": "bool",
        "list": "list",
        "tuple": "list",
        "json": "json",
    },
    **{"dict": "json", "loads": "json", "db": "database", "db_url": "database", "url": "url", "path": "path"},
    "cache": "redis",
}
_BY_NAME = (
    (r"(DATABASE|DB|POSTGRES\w*)_UR[LI]$", "database"),
    (r"(REDIS|BROKER|CACHE|CELERY|RESULT)\w*UR[LI]$", "redis"),
    (r"(UR[LI]|DSN)$", "url"),
    (r"PORT$|_TIMEOUT$|_SIZE$|_AGE$", "int"),
    (r"(DEBUG|ENABLED?)$|^USE_", "bool"),
    (r"(DIR|FOLDER|ROOT|PATH|FILE)$", "path"),
    (r"EMAIL$", "email"),
)
#: What separates the entries of a list in a text.
SEPARATORS = (",", " ", ";", "|")
#: What a switch is given whose default is on.
_ON = re.compile(r"'?(true|1|yes|on)'?", re.IGNORECASE)


class Search:
    """Attempts to start a project, each with other variables.

    Args:
        request: what is asked.
        root: the folder of the source, with a slash.
        attempt: starts the project with some variables, up to a stage if one is named, and returns how that ended.
    """

    def __init__(self, request: Answer, root: str, attempt: Callable[..., Answer]):
        self.end = time.monotonic() + request["seconds"]
        self.given: dict[str, str] = dict(request["given"])
        self.attempts = 0
        self._request, self._root, self._attempt = request, root, attempt
        self._tried: dict[str, list[str]] = {}
        self._numbers: dict[str, int] = {}
        self._kinds: dict[str, str] = {}

    def attempt(self, given: dict[str, str], **options: Any) -> Answer:
        """Return how a start with some variables ended."""
        self.attempts += 1
        return self._attempt(self._request, given, **options)

    def may(self, most: int) -> bool:
        """Return whether there is time for another attempt."""
        return self.attempts < most and time.monotonic() < self.end

    def complete(self) -> Answer:
        """Try until all stages pass, or an exception is about nothing that can be given; return the last attempt."""
        result = Answer()
        while self.may(_ATTEMPTS):
            result = self.attempt(self.given)
            if not result["error"]:
                break
            is_given = self._gives(self._named(result, self.given), result)
            if not is_given and not any(self._gives([name], result) for name in self._near(result, self.given)):
                break
        return result

    def needed(self, result: Answer) -> list[str]:
        """Return the variables that were given without which a start ends earlier than an attempt did."""
        found = []
        for name in self._tried:
            if name in self._request["given"] or time.monotonic() > self.end:
                continue
            without = self.attempt({key: text for key, text in self.given.items() if key != name})
            if without["stage"] != result["stage"] or bool(without["error"]) != bool(result["error"]):
                found.append(name)
        return found

    def described(self, result: Answer, name: str, *, is_required: bool) -> Answer:
        """Return what is known of a variable."""
        feeds = self.traces(result["settings"], self.given, name) if name in self._numbers else {}
        about = result["asked"].get(name, {})
        kind = self._kinds.get(name) or self._first(name, about)
        told = {"name": name, "place": self._place(about), "default": about.get("default", ""), "kind": kind}
        return {**told, "feeds": feeds, "required": is_required, "together": False}

    def _place(self, about: Answer) -> str:
        """Return where a variable is read: a file relative to the source, and a line."""
        places: list[Any] = about.get("places", [])
        return f"{os.path.relpath(places[0][0], self._root)}:{places[0][1]}" if places else ""

    # All that is asked

    def survey(self, result: Answer, needed: Collection[str]) -> list[Answer]:
        """Return all variables that were asked for, with the settings that each is in.

        Those that are no switches are all changed at once, and each text is found again; what is refused is given
        another text, and then left out. A switch is changed alone: which settings are others with it?
        """
        base = {name: text for name, text in self.given.items() if name in needed or name in self._request["given"]}
        self.given, most = dict(base), self.attempts + _SURVEYED
        left_out: set[str] = set()
        together = result
        while self.may(most):
            asked = {**result["asked"], **together["asked"]}
            new = [one for one in asked if one not in self.given and one not in left_out]
            new = [one for one in new if self._first(one, asked[one]) not in ("bool", "truth")]
            self._gives(new, {"asked": asked, "error": {"text": ""}})
            if together is not result and not together["error"] and not new:
                break
            together = self.attempt(self.given)
            if not together["error"]:
                continue
            guilty = [one for one in self._named(together, self.given) if one not in base]
            guilty = guilty or [
                one for one in self._near(together, self.given) if one in self.given and one not in base
            ]
            if not guilty:
                break
            for one in guilty[:1]:
                if len(self._tried.get(one, ())) >= _TEXTS or not self._gives([one], together):
                    left_out.add(one)
                    self.given.pop(one, None)
        asked = {**together["asked"], **result["asked"]}
        reached = together if together["settings"] else result
        found = []
        for name in asked:
            if name not in self._request["given"]:
                found.append(self.described({**reached, "asked": asked}, name, is_required=name in needed))
        self.given = base
        self._databases(found, most)
        for about in found:
            if about["kind"] in ("bool", "truth") and not about["required"] and self.may(most):
                about["feeds"] = self._switched(result, about, base)
        return found

    def add_separator(self, one: Answer) -> None:
        """Add what separates the entries of the list that is made of a variable, where it is one of `SEPARATORS`."""
        paths = [path for path, how in one["feeds"].items() if how == "element"]
        name, number = one["name"], self._numbers.get(one["name"], 0)
        entries = {f"obs{number:03d}a", f"obs{number:03d}b"}
        for separator in SEPARATORS if paths else ():
            text = separator.join(sorted(entries))
            if self.may(self.attempts + 1):
                value: Any = self.attempt({**self.given, name: text}, until="settings")["settings"]
                for part in paths[0].split(":"):
                    value = value.get(part) if isinstance(value, dict) else None
                if isinstance(value, list) and entries <= {*map(str, value)}:
                    one["separator"] = separator
                    return

    def _databases(self, found: list[Answer], most: int) -> None:
        """Mark the variables of a database that only several of them together make."""
        group = [one for one in found if any(path.startswith("DATABASES:") for path in one["feeds"])]
        optional = [one["name"] for one in group if not one["required"]]
        texts = {name: self._text(name) for name in optional}
        for one in group if len(optional) > 1 else ():
            if one["name"] in texts and self.may(most):
                alone = self.attempt({**self.given, one["name"]: texts[one["name"]]}, until="settings")
                traced = self.traces(alone["settings"], {one["name"]: texts[one["name"]]}, one["name"])
                one["together"] = not any(path.startswith("DATABASES:") for path in traced)

    def _switched(self, result: Answer, one: Answer, base: dict[str, str]) -> dict[str, str]:
        """Return the settings that are others with a switch than without it."""
        other = "False" if _ON.fullmatch(one["default"]) else "True"
        changed = self.attempt({**base, one["name"]: other}, until="settings")["settings"]
        before = result["settings"]
        names = [name for name in {**before, **changed} if before.get(name) != changed.get(name)] if changed else []
        return dict.fromkeys(sorted(names)[:20], "switched")

    # One variable

    def _named(self, result: Answer, given: dict[str, str]) -> list[str]:
        """Return the variables that an exception names: themselves, their texts, or the settings made of them."""
        error, asked, text = result["error"], result["asked"], result["error"]["text"]
        if "fields" in error:
            return [result["fields"].get(one.lower(), one.upper()) for one in error["fields"]]
        for name, value in given.items():
            if len(value) > 4 and value not in ("False", "True") and (value in text or value.partition(",")[0] in text):
                return [name]
        if error.get("key") in asked:
            return [error["key"]]
        absent = [name for name in asked if name not in given]
        named = [name for name in absent if re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", text)]
        words = re.findall(r"[A-Z][A-Z0-9_]{3,}", text)  # a setting, whose name a variable's ends with
        return named or [name for name in absent if any(f"_{name}".endswith(f"_{word}") for word in words)]

    def _near(self, result: Answer, given: dict[str, str]) -> list[str]:
        """Return the variables that an exception may be about: read near the line that failed, then those before them.

        One that is not given comes before those that are; one that has a default counts on the line that failed alone,
        which may not take its own default. Each is taken away later, to see whether it was.
        """
        error, asked = result["error"], result["asked"]
        if error["type"] in ("ModuleNotFoundError", "FileNotFoundError", "Ended"):
            return []
        own = [frame for frame in error["frames"] if self._is_own(frame[0])]
        near = [
            (-depth, line - number, "default" in about, name in given, -about["order"], name)
            for depth, (file, line) in enumerate(own)
            for name, about in asked.items()
            for path, number in about["places"]
            if path == file and 0 <= line - number <= (12 if name in given or "default" not in about else 0)
        ]
        before = sorted(asked, key=lambda name: -int(asked[name]["order"]))
        before = [name for name in before if name in given or "default" not in asked[name]]
        is_own = bool(own) and own[-1] == error["frames"][-1]
        return list(dict.fromkeys([name for *_how, name in sorted(near)] + (before if is_own else [])))

    def _is_own(self, file: str) -> bool:
        return file.startswith(self._root) and "/site-packages/" not in file

    def _first(self, name: str, about: Answer) -> str:
        """Return what a variable is given first, by the type that a library was given, or by its name."""
        return KINDS.get(str(about.get("cast", "")).lower()) or next(
            (kind for end, kind in _BY_NAME if re.search(end, name)), "text"
        )

    def _gives(self, names: Collection[str], result: Answer) -> bool:
        """Give variables their first text, or the next; return whether there is one for any."""
        return sum(self._give(name, result) for name in names) > 0

    def _give(self, name: str, result: Answer) -> bool:
        """Give a variable its first text, or the next; return whether there is one."""
        done = self._tried.setdefault(name, [])
        left = [kind for kind in (self._first(name, result["asked"].get(name, {})), *_LADDER) if kind not in done]
        text = result["error"]["text"]
        for pattern, wanted in ((r"invalid literal for int|valid integer|not an int", "int"), (r"bool|truth", "bool")):
            if re.search(pattern, text) and wanted in left:
                left.insert(0, wanted)
        done += left[:1]
        self._numbers.setdefault(name, len(self._numbers) + 1)
        self._kinds[name] = left[0] if left else done[0]
        self.given[name] = self._text(name)
        return bool(left)

    def _text(self, name: str) -> str:
        return _LADDER[self._kinds[name]].format(self._numbers[name])

    def traces(self, settings: Answer, given: dict[str, str], name: str) -> dict[str, str]:
        """Return the settings that the text of a variable is in, and how."""
        return dict(_traces(settings, given[name], self._numbers[name])) if name in given else {}


def _traces(settings: Answer, text: str, number: int) -> Iterator[tuple[str, str]]:
    """Yield the settings that a text is in, and how: as the whole, as a part, or as an element of a list."""
    mark = re.compile(rf"obs{number:03d}[a-z]|(?<!\d)1{number:04d}(?!\d)")

    def walk(value: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, one in value.items():
                yield from walk(one, f"{path}:{key}" if path else key)
        elif isinstance(value, list):
            if any(isinstance(one, str) and mark.search(one) for one in value):
                yield path, "element"
        elif mark.search(str(value)):
            yield path, "whole" if str(value) == text else "part"

    return walk(settings, "")
