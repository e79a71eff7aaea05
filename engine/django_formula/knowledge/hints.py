"""What hints for a site's failures are made of: the output that is searched, and the options of the site."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from django_formula.host.commands import seconds
from django_formula.knowledge import package
from django_formula.site.sites import Site
from django_formula.untrusted.text import InPillar, in_pillar, uncoloured

#: The most characters of an output, and of each of its lines, that are searched for causes.
_TEXT, _LINE = 20_000, 2_000


class Hint(str):
    """What to do about a failure, with those options of the site that are its cure, which need not be typed.

    Attributes:
        options: the path of an option, such as ``health:path`` → its whole value, but for ``environment``, of which it
            has the variables to add. Only what cures for certain, or costs nothing where it does not.
    """

    options: Mapping[str, Any]

    def __new__(cls, text: str, *given: Mapping[str, Any] | str) -> "Hint":
        """Return a text with options, or with those of other hints."""
        made = super().__new__(cls, text)
        made.options = merged(*given)
        return made


def merged(*given: Mapping[str, Any] | str) -> dict[str, Any]:
    """Return the options of several hints: lists and maps have what each has, other values are those of the first."""
    found: dict[str, Any] = {}
    for one in given:
        for path, value in (one if isinstance(one, Mapping) else getattr(one, "options", {})).items():
            present = found.setdefault(path, value)
            if isinstance(present, list) and isinstance(value, list):
                found[path] = joined(path, present, value)
            elif isinstance(present, Mapping) and isinstance(value, Mapping):
                found[path] = {**value, **present}
    return found


def joined(option: str, *lists: Collection[Any]) -> list[Any]:
    """Return the values of an option that is a list, each once; a package with its version where one of them has it."""
    values = [value for some in lists for value in some]
    if option == "python_packages":
        return package.united(values)
    return [value for index, value in enumerate(values) if value not in values[:index]]


def bounded(text: str) -> str:
    """Return the end of an output, with the beginnings of its lines: a project controls how much it prints."""
    return "\n".join(line[:_LINE] for line in uncoloured(text[-_TEXT:]).splitlines())


def at(site: Site) -> str:
    """Return the key of a site in the pillar."""
    return site.at


def setting(site: Site, name: str) -> str:
    """Return the key of the pillar that changes a setting of the project."""
    return f"{at(site)}:{f'settings:{name}' if site.config['overlay'] else 'environment'}"


def flow(value: Any) -> InPillar:
    """Return a value of the pillar in one line of YAML."""
    return in_pillar(value, quote="'")


def listed(names: Collection[str]) -> InPillar:
    """Return a list in one line of YAML."""
    return flow([*dict.fromkeys(names)])


def extended(site: Site, option: str, more: Collection[str]) -> Hint:
    """Return an option that is a list, with the values that the pillar has and more, so that it can be pasted."""
    values = joined(option, site.config.get(option, []), more)
    return Hint(f"{at(site)}:{option}: {flow(values)}", {option: values})


def more_time(site: Site, message: str) -> str:
    """Return the options by which a step gets more time, where one of the site's timeouts ended it; else nothing."""
    late = re.search(r"timed out after ([0-9.]+) s\b", message)
    keys = [key for key, value in site.config["timeouts"].items() if late and seconds(value) == float(late[1])]
    return f"give it more time: set {' or '.join(f'{at(site)}:timeouts:{key}' for key in keys)}" if keys else ""
