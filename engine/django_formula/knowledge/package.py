"""Python packages and the modules that they are imported by."""

import re
from collections.abc import Iterable

from django_formula.knowledge.rows import rows
from django_formula.site.sites import Site

#: Extensions of Django, Wagtail and Django REST framework whose package has their own name too.
_BY_PREFIX = re.compile(r"(django(?!_formula)|drf|wagtail)_\w+$")
#: A requirement that says more than the name of its package.
_MORE = re.compile(r"([A-Za-z0-9][\w.-]*)\s*[\[<>=!~@;]")


def has(package: str, module: str) -> bool:
    """Return whether a package, in lower case, has a module, of which several packages may be known."""
    name = normalised(package_of(module))
    return package == name or bool(re.fullmatch(rows("also").get(module, ""), package))


def package_of(module: str, site: Site | None = None) -> str:
    """Return the package that has a module, by the rows of a site too; empty if that is not known."""
    packages = rows("modules", site)
    if module in packages:
        return str(packages[module])
    if removed := removed_module(module):
        return removed[1]
    name = module.replace("_", "-")
    if module in rows("python_modules"):
        return f"python-{name}"
    if module.startswith("rest_framework_"):  # as most extensions of Django REST framework are named
        return name.replace("rest-framework", "djangorestframework")
    if module in rows("django_modules"):
        return f"django-{name}"
    return name if module in rows("own_names") or _BY_PREFIX.match(module) else ""


def removed_module(module: str) -> tuple[str, str] | None:
    """Return the versions of Python that lack a module which others have, and the package that carries it on."""
    found = next((row for row in rows("removed_modules") if module in row["modules"]), None)
    return (found["python"], found["package"].format(module)) if found else None


def of_program(program: str, site: Site | None = None) -> str:
    """Return the package of Debian that has a program, by the rows of a site too; empty if that is not known."""
    return str(rows("programs", site).get(program) or (program if program in rows("own_programs") else ""))


def united(requirements: Iterable[str]) -> list[str]:
    """Return requirements, each once, without a name of which another one says more.

    >>> united(["pillow", "django", "pillow>=10"])
    ['django', 'pillow>=10']
    """
    found = [*dict.fromkeys(requirements)]
    more = {normalised(match[1]) for match in map(_MORE.match, found) if match}
    return [one for one in found if _MORE.match(one) or normalised(one) not in more]


def normalised(name: str) -> str:
    """Return the name of a package as indexes and metadata compare it (PEP 503).

    Written here: `packaging.utils` has it too, and takes as long to import as a step without work may take.
    """
    return re.sub("[-_.]+", "-", name).lower()
