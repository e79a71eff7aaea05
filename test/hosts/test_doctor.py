"""Where django.doctor finds a broken site, and that the command which it prints cures it: see doctor.yaml."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Hosts, Repositories
from sites import Site

CASES = yaml.safe_load(Path(__file__).with_name("doctor.yaml").read_text())
#: What a walk may take on a loaded machine; two deadlines of 5 s are the longest on a quiet one.
PATIENCE = 60


#: What hosts and sites of the rows are, by their key `host`.
WORKERS = {"workers": {"feed": {"kind": "command", "command": "sleep infinity"}}}
HOSTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "": ({"kind": "live"}, WORKERS),
    "apache": ({"kind": "ready"}, {"proxy": {"kind": "apache"}}),
    "supervisor": ({"kind": "ready", "init": False}, WORKERS),
}


@pytest.fixture(scope="module")
def blog(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Site:
    """A site with https, next to another one; its first release is older than the active one."""
    of_host, options = HOSTS[request.param]
    host = module_hosts(**of_host)
    options = {"tls": {"kind": "self_signed"}, **options}
    blog = Site(host, repositories(host), **options)
    Site(host, blog.repository, "forum", neighbour=blog, **options)
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
    done = blog.host.salt("django.doctor", blog.name, *url, skip_network="network" not in case)
    answer = dict(json.loads(done.stdout)[blog.host.minion])
    assert answer["seconds"] < PATIENCE and done.returncode == bool(answer["broken"]), answer
    return answer


def first_broken(answer: dict[str, Any]) -> dict[str, Any]:
    return next((link for link in answer["links"] if link["is_broken"]), {"name": "", "text": ""})


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


def parameter(case: dict[str, Any]) -> Any:
    """A row as a test; those of other hosts are for `--all`."""
    kind = case.get("host", "")
    return pytest.param(kind, case, id=case["fault"], marks=[pytest.mark.full] * bool(kind or case.get("full")))


# Of the scope of a function, as by default, each row would have a host of its own.
@pytest.mark.parametrize(("blog", "case"), [parameter(case) for case in CASES], indirect=["blog"], scope="module")
def test_fault_is_found_at_its_link_and_cured_by_the_command(blog: Site, case: dict[str, Any]) -> None:
    if "commit" in case:
        blog.repository.commit(
            {path: (blog.repository.read(path) + text[1:]) if text[0] == "+" else text
             for path, text in case["commit"].items()}
        )  # fmt: skip
        blog.deploy()
    if "break" in case:
        command = case["break"].replace("RELEASE", f"{blog.root}/releases/{blog.live}").replace("UNIT", blog.unit)
        blog.host.run(command)
    answer = walk(blog, case)
    broken = first_broken(answer)
    assert (broken["name"], case["says"] in broken["text"]) == (case["link"], True), str(broken)
    cure(blog, case, broken)
    if case.get("whole", True):
        after = walk(blog, case)
        assert after["broken"] == "", str(first_broken(after))
