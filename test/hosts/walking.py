"""A site as faults are brought about in it: what the doctor finds, and that its command cures it: see doctor.yaml."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Hosts, Repositories
from contained import engine_of
from sites import Site

CASES = yaml.safe_load(Path(__file__).with_name("doctor.yaml").read_text())
#: What a walk may take on a loaded machine; two deadlines of 5 s are the longest on a quiet one.
PATIENCE = 60
WORKERS = {"workers": {"feed": {"kind": "command", "command": "sleep infinity"}}}
#: What hosts and sites of the rows are, by their key `host`.
HOSTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "": ({"kind": "live"}, WORKERS),
    "apache": ({"kind": "ready"}, {"proxy": {"kind": "apache"}}),
    "supervisor": ({"kind": "ready", "init": False}, WORKERS),
    "podman": ({}, {**WORKERS, "container": {"engine": "podman"}}),
    "docker": ({}, {**WORKERS, "container": {"engine": "docker"}}),
}


def cases(kinds: Collection[str]) -> list[Any]:
    """The rows of some kinds of hosts as tests; those of other hosts than the first are for `--all`."""
    found = []
    for case in CASES:
        hosts = case.get("host", "")
        for kind in [hosts] if isinstance(hosts, str) else hosts:
            if kind.partition(" under ")[0] in kinds:
                name = case["fault"] if isinstance(hosts, str) else f"{case['fault']} on {kind}"
                marks = [pytest.mark.full] * bool(kind or case.get("full"))
                found.append(pytest.param(kind, case, id=name, marks=marks))
    return found


def whole_site(named: str, hosts: Hosts, repositories: Repositories) -> Site:
    """A site with https, next to another one; its first release is older than the active one."""
    kind, _, process = named.partition(" under ")
    of_host, options = HOSTS[kind]
    host = hosts(**of_host)
    if "container" in options:
        host.run("apt-get -qq update && apt-get -qq install --no-install-recommends git >/dev/null")
    options = {"tls": {"kind": "self_signed"}, **options}
    blog = Site(host, repositories(host), **options)
    Site(host, blog.repository, "forum", neighbour=blog, **options)
    blog.process = process or blog.process
    blog.deploy()
    if blog.live.startswith("0001"):
        blog.repository.commit({"README.md": "A second release.\n"})
        blog.deploy()
    host.run(f"echo {host.address} {blog.domain} >> /etc/hosts")
    assert walk(blog, {"network": True})["broken"] == ""
    return blog


def walk(blog: Site, case: dict[str, Any]) -> dict[str, Any]:
    """What django.doctor answers for programs."""
    url = [case["url"]] if "url" in case else []
    done = blog.host.salt("django.doctor", case.get("site", blog.name), *url, skip_network="network" not in case)
    answer = dict(json.loads(done.stdout)[blog.host.minion])
    assert answer["seconds"] < PATIENCE and done.returncode == bool(answer["broken"]), answer
    return answer


def first_broken(answer: dict[str, Any]) -> dict[str, Any]:
    return next((link for link in answer["links"] if link["is_broken"]), {"name": "", "text": ""})


def bring_about(blog: Site, case: dict[str, Any]) -> None:
    """Break what the row says, or release its commit."""
    if "commit" in case:
        blog.repository.commit(
            {path: (blog.repository.read(path) + text[1:]) if text[0] == "+" else text
             for path, text in case["commit"].items()}
        )  # fmt: skip
        blog.deploy()
    if "break" in case:
        words = {"RELEASE": f"{blog.root}/releases/{blog.live}", "UNIT": blog.unit, "ENGINE": engine_of(blog)}
        blog.host.run(re.sub("|".join(words), lambda word: words[word[0]], case["break"]))


def cure(blog: Site, case: dict[str, Any], link: dict[str, Any]) -> None:
    """Run the command of a broken link, or do what it says where no command of the host can."""
    if "do" not in case:
        assert link["command"], link
        blog.host.run(link["command"])
        return
    pattern, command = case["do"]
    found = re.search(pattern, link["todo"])
    assert found and not link["command"], link
    blog.host.run(command.format(*found.groups()))


def check(blog: Site, case: dict[str, Any]) -> None:
    """The fault is found at its link, and cured by the command."""
    bring_about(blog, case)
    answer = walk(blog, case)
    broken = first_broken(answer)
    assert (broken["name"], case["says"] in broken["text"]) == (case["link"], True), str(broken)
    cure(blog, case, broken)
    if case.get("whole", True):
        after = walk(blog, case)
        assert after["broken"] == "", str(first_broken(after))
