"""The domains of a site: host names, and wildcards such as ``*.example.org``, which stand for every name below one."""

import re

#: The label with which the name below a wildcard is asked for: one that is not the name of another site.
_LABEL = "health-check"


def is_wildcard(domain: str) -> bool:
    """Return whether a domain is a wildcard."""
    return domain.startswith("*.")


def file_name(domain: str) -> str:
    """Return the name of the files of a domain, which is also the one of its own.

    Apache takes the first virtual host that fits, in the order of the files' names: a wildcard comes after all host
    names, and one of fewer labels after those of more.

    Example: ``file_name("*.example.org") == "~wildcard7.example.org"``
    """
    if not is_wildcard(domain):
        return domain
    labels = domain.count(".")
    return f"~wildcard{max(9 - labels, 0)}{domain[1:]}"


def of_file(name: str) -> str:
    """Return the domain whose files have a name, see `file_name`."""
    return re.sub(r"~wildcard\d\.", "*.", name)


def host(domain: str) -> str:
    """Return a host name of a domain, for requests of the formula: of a wildcard ``health-check.example.org``."""
    return f"{_LABEL}{domain[1:]}" if is_wildcard(domain) else domain


def in_django(domain: str) -> str:
    """Return a domain as ALLOWED_HOSTS has it: of a wildcard ``.example.org``."""
    return domain[1:] if is_wildcard(domain) else domain


def has(domains: list[str], name: str | None) -> bool:
    """Return whether a host name is one of these domains, or below a wildcard among them."""
    return any(name == one or (is_wildcard(one) and (name or "").endswith(one[1:])) for one in domains)
