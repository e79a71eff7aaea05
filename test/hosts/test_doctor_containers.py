"""Where django.doctor finds a broken site in containers, and that its command cures it: see doctor.yaml."""

from typing import Any

import pytest
from conftest import Hosts, Repositories
from lab import ENGINE, Needs
from sites import Site
from walking import cases, check, whole_site

NEEDS = Needs(ENGINE, "podman and Docker run on them")


@pytest.fixture(scope="module")
def blog(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Site:
    return whole_site(request.param, module_hosts, repositories)


# Of the scope of a function, as by default, each row would have a host of its own.
@pytest.mark.parametrize(("blog", "case"), cases(["podman", "docker"]), indirect=["blog"], scope="module")
def test_fault_is_found_at_its_link_and_cured_by_the_command(blog: Site, case: dict[str, Any]) -> None:
    check(blog, case)
