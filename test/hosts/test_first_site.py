"""The page of the first site, typed as it is: each command works, and prints what the page has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Hosts
from lab import Lab
from test_quickstart import OFFLINE, wheels

PAGE = Path(__file__).parents[2] / "docs/getting-started/first-site.md"
#: What the page cannot know: where the formula is cloned from, and hosts that exist for examples only.
ELSEWHERE = {"sudo git clone https://git.example.org/django-formula.git": "cp -r /srv/formula"}
SKIPPED = "shop.example.org"


def blocks() -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of the page, each with the lines that it prints; a block without a prompt is a script."""
    steps = re.split(r"^## What is on the disk$", PAGE.read_text(), flags=re.MULTILINE)[0]
    for block in re.findall(r"(?:^    .*\n)+", steps, re.MULTILINE):
        lines = [line.removeprefix("    ") for line in block.splitlines()]
        if SKIPPED in block:
            continue
        if not lines[0].startswith("# "):
            yield "\n".join(lines), []
            continue
        for command, printed in re.findall(r"^# (.+)\n((?:(?!# ).*\n?)*)", "\n".join(lines), re.MULTILINE):
            yield command, printed.splitlines()


def same(line: str) -> str:
    """A line without what differs from run to run: commits, times, numbers, addresses."""
    line = re.sub(r"\b[0-9a-f]{12}\b|\b[0-9a-f]{7}\b(?= )", "COMMIT", " ".join(line.split()))
    line = re.sub(r"(?<=domains: ).*", "DOMAINS", re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", line))
    return re.sub(r"(?<!\d)(?!000)\d+(\.\d+)?( ms| s)?(?=$| )|(?<=:)\d+(?=\))", "N", line)


def missing(shown: list[str], printed: str) -> list[str]:
    """The lines of the page that were not printed, in their order."""
    lines = iter([same(line) for line in printed.splitlines()])
    return [line for line in shown if same(line) not in lines]


@pytest.mark.full
def test_the_page_is_typed_as_it_is(lab: Lab, hosts: Hosts):
    host = hosts(kind="bare", name="web1", options=[f"--volume={wheels(lab, 'bookworm')}:/wheels:ro"])
    host.run("apt-get -qq update && apt-get -qq install git sudo >/dev/null")
    host.run("echo 'Defaults env_keep += \"PIP_FIND_LINKS PIP_NO_INDEX\"' >/etc/sudoers.d/wheels")
    typed = []
    for command, shown in blocks():
        for words, instead in ELSEWHERE.items():
            command = command.replace(words, instead)
        script = command if shown else f"set -e; {command}"
        done = host.run(script, environment=OFFLINE | {"HOME": "/root"}, check=not shown)
        assert missing(shown, done.stdout + done.stderr) == [], f"{command}\n{done.stdout}{done.stderr}"
        typed.append(command.split()[0])
    assert typed.count("salt-call") == 7
    assert host.browser("web1").get("/release").status_code == 200
