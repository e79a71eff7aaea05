"""``django-ops``: what the SSH key of a person runs as root, by sudo: one function of ``django_ops`` for one site.

Some take a commit too, which `django_ops` looks for in the revision of the site.

The command that the client asks for is compared with names, and is no part of any other command.
"""

import os
import re
import subprocess

from django_formula.audit import caller, people
from django_formula.host import file
from django_formula.untrusted.text import tell

_ASKED = re.compile(rf"([a-z_]{{1,30}})(?: ([a-z][a-z0-9-]{{0,40}})(?: ({people.COMMIT.pattern}))?)?")


def main(*arguments: str) -> int:
    """Run what a person asks for; return the exit code.

    Args:
        arguments: the name of the person, which its key has in ``authorized_keys``.
    """
    if len(arguments) != 1 or os.geteuid() != 0:
        tell("django-ops is run by the SSH keys of people: docs/guides/people.md", is_error=True)
        return 2
    (person,) = arguments
    may = {site: of_site[person] for site, of_site in people.rights().items() if person in of_site}
    asked = os.environ.get("SSH_ORIGINAL_COMMAND", "").strip()
    found = _ASKED.fullmatch(asked)
    verb, site = (found[1], found[2] or (next(iter(may)) if len(may) == 1 else "")) if found else ("", "")
    commit = (found[3] or "") if found else ""
    if verb not in may.get(site, ()) or (commit and verb not in people.OF_COMMITS):
        if asked:
            known = verb if verb in people.VERBS else "ssh"
            people.note_refusal(known, site if site in may else "", person, caller.of_this_process())
        _explain(person, may)
        return 1
    return _called(person, verb, site, commit)


def _explain(person: str, may: dict[str, list[str]]) -> None:
    tell(f"{person} may call, without any option:", is_error=True)
    for site, verbs in sorted(may.items()):
        tell(
            "\n".join(f"    {verb} {site}{' [COMMIT]' * (verb in people.OF_COMMITS)}" for verb in verbs), is_error=True
        )


def _called(person: str, verb: str, site: str, commit: str) -> int:
    config = file.read_json(people.CONFIG) or {}
    salt_call = config["salt_call"]
    environment = {
        **config.get("environment", {}),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/root",
        "SSH_CONNECTION": os.environ.get("SSH_CONNECTION", ""),
        caller.PERSON: person,
    }
    is_request = verb in ("request", "promote")
    codes = ["--retcode-passthrough"] if is_request else []  # 2 is a request that was refused
    argv = [*salt_call, *codes, f"django_ops.{verb}", site]
    if commit:  # which may be a number in YAML
        argv[len(salt_call) : len(salt_call)] = ["--no-parse=commit"]
        argv.append(f"commit={commit}")
    return subprocess.call(argv, env=environment, stdin=subprocess.DEVNULL, cwd="/")  # noqa: S603 # nosec B603
