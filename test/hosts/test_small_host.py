"""A host of 512 MB: a release overlaps, and goes one after the other where the project is too large for that."""

import pytest
from sites import Site, lines, version

pytestmark = pytest.mark.full

LIMIT = ["--memory=512m", "--memory-swap=512m"]
#: What each process that serves takes besides from its first request on; what is loaded before that they share.
FAT = """
from django.core.signals import request_started

EATEN = []


def eat(**_signal):
    EATEN[:] = EATEN or [b"x" * (50 << 20)]


request_started.connect(eat)
"""
#: The memory of the host's processes without the kernel's caches, ten times a second.
SAMPLE = """
while sleep 0.1; do
    cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat 2>/dev/null | grep -E '^(anon|total_rss) '
done > /run/samples
"""


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready", options=LIMIT)
    host.run(["systemd-run", "--quiet", "--unit=samples", "bash", "-c", SAMPLE])
    blog = Site(host, repositories(host))
    blog.deploy(server={"processes": 2})
    return blog


def most(blog: Site) -> int:
    """The largest sample so far, in MB."""
    return max(int(line.split()[1]) for line in blog.host.read("/run/samples").splitlines()) >> 20


def test_release_and_rollback_overlap(blog):
    first = blog.live
    blog.repository.commit(version("2.0"))
    blog.deploy()
    assert blog.answering["version"] == "2.0"
    blog.host.call("django.rollback", blog.name)
    assert blog.answering["release"] == blog.live == first
    assert most(blog) < 320, "docs/decisions/0019 has 204"


def test_release_is_refused_when_two_instances_do_not_fit(blog):
    blog.repository.append("website/urls.py", FAT)
    blog.deploy(server={"processes": 3})
    live = blog.live
    blog.repository.commit(version("3.0"))
    told = blog.apply().failed["blog has its source"]
    assert "another instance next to the active one needs" in told and lines(told) <= 4
    assert "django:sites:blog:releases:overlap: false" in told and f"{live} still runs" in told
    assert blog.answering["release"] == blog.live == live


def test_release_succeeds_with_the_hinted_options(blog):
    live = blog.live
    applied = blog.deploy(releases={"overlap": False})
    (warning,) = applied.warnings["blog is live"]
    assert "the site did not answer for " in warning
    assert blog.live != live and blog.answering["version"] == "3.0"
    assert [unit for unit in blog.units if unit.endswith(".service")] == [f"{blog.unit}.service"]
    assert not blog.apply().changed


def test_previous_instance_is_restarted_when_new_one_fails(blog):
    live = blog.live
    urls = blog.repository.read("website/urls.py")
    broken = urls.replace("urlpatterns = [", 'urlpatterns = [path("healthz", lambda request: 1 / 0),')
    blog.repository.commit({"website/urls.py": broken})
    told = blog.apply().failed["blog has its instance"]
    assert "returned 500" in told and f"{live} runs again" in told and lines(told) <= 10
    assert blog.answering["release"] == blog.live == live
    blog.host.call("django.rollback", blog.name)
    assert blog.answering["release"] == blog.live != live


def test_no_process_was_killed_for_lack_of_memory(blog):
    told = "cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null | grep '^oom_kill '"
    assert blog.host.run(told).stdout.split()[1] == "0"
