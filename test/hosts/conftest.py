"""Fixtures: `hosts` and `module_hosts` start hosts, `host` is one, `repositories` makes repositories, `blog` a site."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from images import RELEASES
from lab import CONTAINER, CommandFailed, Host, Lab, LabUnavailable, Needs
from repository import EXAMPLE, PATH, Repository
from sites import Site
from thinned import full as full

Hosts = Callable[..., Host]
Repositories = Callable[..., Repository]


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """The network of this run. Where the machine has none to give, tests are left out; under CI they fail."""

    def say(line: str) -> None:
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{line}", end=" ", flush=True)

    try:
        lab = Lab(say)
    except (LabUnavailable, CommandFailed) as why:  # the latter where only some of podman's commands work
        reason = f"left out every test on hosts: {str(why).strip().splitlines()[-1]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    yield lab
    lab.close()


@contextmanager
def starting(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Start hosts as Lab.start does, and remove them at the end: failed tests' too, but with --keep-hosts."""
    started: list[Host] = []
    failed_before = request.session.testsfailed
    needs = getattr(request.module, "NEEDS", Needs(CONTAINER, ""))

    def start(*arguments: str, **options: object) -> Host:
        options.setdefault("rights", needs.rights)
        if not arguments and not options.get("release"):
            options["release"] = request.config.getoption("--debian")
        started.append(lab.start(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    if request.config.getoption("--keep-hosts") and request.session.testsfailed > failed_before:
        lab.keep(started)
    else:
        for host in started:
            host.remove()


@pytest.fixture
def hosts(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Start hosts that live as long as the test: `hosts("trixie", kind="bare", name="web1")`."""
    with starting(lab, request) as start:
        yield start


@pytest.fixture(scope="module")
def module_hosts(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Start hosts that live as long as the module's tests."""
    with starting(lab, request) as start:
        yield start


#: The Debian releases as parameters: the first, and with --all each. Some tests take another one by its name, so that
#: each has hosts by default too.
EACH_RELEASE = [RELEASES[0], *map(full, RELEASES[1:])]


@pytest.fixture(params=EACH_RELEASE)  # of a wider scope it would tear the stories of modules apart
def release(request: pytest.FixtureRequest) -> str:
    """Each Debian release in turn."""
    return str(request.param)


@pytest.fixture
def host(hosts: Hosts) -> Host:
    """A host of the default release, with Salt and without pillar."""
    return hosts()


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Repositories:
    """Make a git repository on a host, of the bundled example or another folder: `repositories(host)`."""

    def make(host: Host, path: str = PATH, source: Path = EXAMPLE) -> Repository:
        return Repository(tmp_path_factory.mktemp("repository"), host, path, source)

    return make


@pytest.fixture(scope="module")
def blog(module_hosts: Hosts, repositories: Repositories) -> Site:
    """A live site of the bundled example on a host of the module; some modules have one of their own."""
    return live_site(module_hosts, repositories)


def live_site(hosts: Hosts, repositories: Repositories, **options: Any) -> Site:
    """A live site of the bundled example on a host of its own, with the options of a Site."""
    host = hosts(kind="live")
    blog = Site(host, repositories(host), **options)
    blog.configure()
    if options:
        blog.deploy()
        assert blog.units  # the former release has ended
    return blog
