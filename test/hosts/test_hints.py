"""The hint of each error is followed literally, in the state that causes it: see hints.yaml."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Hosts, Repositories, live_site
from sites import Site

CASES = yaml.safe_load(Path(__file__).with_name("hints.yaml").read_text())

pytestmark = pytest.mark.full


def test_cases_follow_or_quote_their_hints() -> None:
    for case in CASES:
        assert case.keys() & {"run", "set", "do"} or (case["mends"] is False and case["hint"]), case["state"]


@pytest.fixture(scope="module")
def blog(module_hosts: Hosts, repositories: Repositories) -> Site:
    return live_site(module_hosts, repositories)


def keys(options: dict[str, Any], at: str = "django:sites:blog") -> Iterator[str]:
    """The keys of the pillar that options set, by their paths."""
    for name, value in options.items():
        yield f"{at}:{name}"
        if isinstance(value, dict):
            yield from keys(value, f"{at}:{name}")


def failure(blog: Site, case: dict[str, Any]) -> str:
    """What the command of a case says, or the first state that fails in an apply; empty where none does."""
    if "command" in case:
        done = blog.host.salt(*case["command"])
        return done.stdout.replace("\\n", "\n") if done.returncode else ""
    applied = blog.host.apply()
    texts = [text for text in applied.failed.values() if not text.startswith("One or more requisite")]
    return texts[0] if texts else "" if applied.ok else str(applied)


@pytest.mark.parametrize("case", CASES, ids=[case["state"] for case in CASES])
def test_error_is_gone_when_its_hint_is_followed(blog: Site, case: dict[str, Any]) -> None:
    usual = copy.deepcopy(blog.options)
    try:
        if "before" in case:
            blog.host.run(case["before"])
        blog.configure(**case.get("pillar", {}))
        said = failure(blog, case)
        assert case["says"] in said, said
        if "run" in case:
            command = re.search(case["run"], said)
            assert command, said
            blog.host.run(command[0].replace("salt-call", "salt-call --local"))
        if "set" in case:
            assert any(key in said for key in keys(case["set"])), f"{[*keys(case['set'])]} are not in: {said}"
            blog.configure(**case["set"])
            if "command" in case:
                blog.deploy()
        assert case.get("hint", "") in said, said
        if "do" in case:
            blog.host.run(case["do"])
        if case.get("mends", True):
            assert failure(blog, case) == ""
    finally:
        if "after" in case:
            blog.host.run(case["after"])
        blog.options.clear()
        blog.options.update(usual)
        blog.deploy()
