"""Packages of the operating system."""

import re
from collections.abc import Collection

import django_host_command


def missing(names: Collection[str], installed: Collection[str]) -> set[str]:
    """Return the packages that are not installed, nor provided by one that is: libmagic1 by libmagic1t64.

    Args:
        names: the names of the packages.
        installed: those that are installed.
    """
    absent = {*names} - {*installed}
    if not absent:
        return set()
    program = ["dpkg-query", "--show", "--showformat", r"${db:Status-Abbrev} ${Provides}\n"]
    text = django_host_command.run(program, doing="listing the installed packages")
    lists = [line[2:] for line in text.splitlines() if line.startswith("ii")]
    provided = {re.split(r"[\s(:]", part.strip())[0] for line in lists for part in line.split(",")}
    return absent - provided
