"""Requests: many at once, kills, a power loss, checks, a removal; each has one final status, the newest is released."""

import json
import time
from typing import Any

import pytest
from conftest import Hosts, Repositories
from repository import start_git_server
from sites import Site, until, version

SERVICE = "django-blog-requests.service"


@pytest.fixture(scope="module")
def blog(module_hosts: Hosts, repositories: Repositories) -> Site:
    host = module_hosts(kind="live")
    blog = Site(host, repositories(host), deploy="manual", releases={"keep": 2, "drain": "1s"})
    blog.deploy()
    return blog


def commit(blog: Site, number: str) -> str:
    """Commit another version of the example."""
    return blog.repository.commit(version(number))


def request(blog: Site, commit: str, **options: Any) -> dict[str, Any]:
    return dict(blog.host.call("django.request", blog.name, commit, **options))


def called(blog: Site, revision: str) -> tuple[dict[str, Any], int]:
    """The answer of a request as people make it, and its exit code."""
    options = ["--local", "--out=json", "--retcode-passthrough"]
    done = blog.host.run(["salt-call", *options, "django.request", blog.name, revision], check=False)
    return json.loads(done.stdout)["local"], done.returncode


def ended(blog: Site) -> list[dict[str, Any]]:
    """The requests with a final status, read without Salt."""
    text = blog.host.run(["cat", f"{blog.root}/requests/requests.jsonl"], check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


def open_files(blog: Site) -> list[str]:
    listed = blog.host.run(["ls", f"{blog.root}/requests"], check=False).stdout.split()
    return [name for name in listed if name in ("pending.json", "running.json")]


def statuses(blog: Site, *commits: str) -> list[str]:
    """The final status of each of these commits, which has exactly one."""
    found = [(one["commit"], one["status"]) for one in ended(blog)]
    for commit in commits:
        assert len([one for one, _status in found if one == commit]) == 1, (commit, found)
    return [dict(found)[commit] for commit in commits]


def test_site_without_requests_has_nothing_of_them(blog: Site) -> None:
    assert "django-blog-requests" not in blog.host.run(["ls", "/etc/systemd/system"]).stdout
    assert "requests" not in blog.host.run(["ls", blog.root]).stdout.split()


def test_request_has_the_status_of_its_release(blog: Site) -> None:
    good = commit(blog, "2.0")
    answer = request(blog, good)
    assert (answer["status"], answer["commit"]) == ("released", good) and answer["why"] == f"{blog.live} is active"
    assert blog.record()["commit"] == good and blog.answering["version"] == "2.0"
    assert request(blog, "main")["why"] == "it was active already"
    part = request(blog, blog.repository.first)
    assert part["status"] == "superseded" and "to go back: salt-call django.release blog" in part["why"]
    broken = blog.repository.append("website/settings.py", "\nimport nothing_there\n")
    failed, code = called(blog, broken)
    assert code == 1 and failed["status"] == "failed" and "nothing_there" in failed["why"], failed
    refused, code = called(blog, "mian")
    assert code == 2 and refused["status"] == "refused" and "no such branch" in refused["why"], refused
    shown = blog.host.run(["salt-call", "--local", "django.requests", "blog"]).stdout
    assert f"{broken[:12]}  failed" in shown and f"{good[:12]}  released" in shown
    blog.repository.git("revert", "--no-edit", "HEAD")
    mended = commit(blog, "2.1")
    assert request(blog, mended)["status"] == "released"
    lines = [json.loads(line) for line in blog.host.read("/var/lib/django-formula/audit.jsonl").splitlines()]
    last = [line for line in lines if line["verb"] in ("request", "release")][-4:]
    assert [(line["verb"], line["result"]) for line in last] == [
        ("request", "begun"),
        ("release", "begun"),
        ("release", "done"),
        ("request", "done"),
    ]
    assert {line["who"] for line in last} == {"root"}


def test_requests_wait_for_another_deployment_and_the_newest_is_released(blog: Site) -> None:
    blog.host.run(["systemd-run", "--unit=other", "flock", f"{blog.root}/lock", "sleep", "4242"])
    older, newer = commit(blog, "3.0"), commit(blog, "3.1")
    assert request(blog, older, wait=False)["status"] == "waiting"
    assert request(blog, newer, wait=False)["status"] == "waiting"
    (row, *_rest) = blog.host.call("django.requests", "blog", full=True)
    assert row["commit"] == newer[:12] and row["why"].startswith("another deployment is under way")
    blog.host.run(["systemctl", "stop", "other"])
    until(lambda: not open_files(blog))
    assert statuses(blog, older, newer) == ["superseded", "released"] and blog.record()["commit"] == newer


@pytest.mark.full
def test_stop_of_the_unit_lets_a_release_end(blog: Site) -> None:
    wanted = commit(blog, "4.0")
    request(blog, wanted, wait=False)
    until(lambda: "running.json" in open_files(blog))
    blog.host.run(["systemctl", "stop", SERVICE], timeout=300)
    assert open_files(blog) == [] and statuses(blog, wanted) == ["released"]
    assert blog.record()["commit"] == wanted


@pytest.mark.full
@pytest.mark.parametrize(("count", "seconds", "every"), [(6, 4, 2), (20, 3, 2)])
def test_kills_lose_no_request(blog: Site, count: int, seconds: float, every: int) -> None:
    """Requests of distinct commits, and every few of them the program and its release are killed."""
    wanted = [commit(blog, f"5.{count}.{number}") for number in range(count)]
    began = time.monotonic()
    for number, one in enumerate(wanted):
        assert request(blog, one, wait=False)["status"] == "waiting"
        if number % every:
            blog.host.run(["systemctl", "kill", "--signal=KILL", SERVICE], check=False)
        time.sleep(max(0, (number + 1) * seconds - (time.monotonic() - began)))
    last = time.monotonic()
    until(lambda: not open_files(blog))
    print(f"{count} requests in {last - began:.0f} s; the last was active after {time.monotonic() - last:.0f} s")
    found = statuses(blog, *wanted)
    print({status: found.count(status) for status in found})
    assert found[-1] == "released" and {*found} <= {"released", "superseded", "failed"}
    assert {one["why"] for one in ended(blog) if one["status"] == "failed" and one["commit"] in wanted} <= {
        "interrupted 3 times"
    }
    assert blog.record()["commit"] == wanted[-1] and blog.answering["version"] == f"5.{count}.{count - 1}"


@pytest.mark.full
def test_power_loss_loses_no_request(blog: Site) -> None:
    running, waiting = commit(blog, "6.0"), commit(blog, "6.1")
    request(blog, running, wait=False)
    until(lambda: "running.json" in open_files(blog))
    request(blog, waiting, wait=False)
    blog.host.kill()
    blog.host.start()
    until(lambda: len([one for one in ended(blog) if one["commit"] in (running, waiting)]) == 2)
    assert statuses(blog, running, waiting)[1] == "released"
    assert open_files(blog) == [] and blog.record()["commit"] == waiting


@pytest.mark.full
def test_request_waits_for_the_checks_of_its_commit(blog: Site) -> None:
    host, before = blog.host, blog.live
    applied = blog.deploy(checks=start_git_server(host))
    assert blog.live == before and "of-the-checks" not in str(applied)
    older, newer = commit(blog, "8.0"), commit(blog, "8.1")
    request(blog, older, wait=False)
    until(lambda: "knows no check" in waits_for(blog))
    host.write("/run/check", "pending")
    request(blog, newer, wait=False)
    until(lambda: waits_for(blog) == f"checks of {newer[:12]} have not passed yet: test")
    assert blog.live == before
    host.write("/run/check", "success")
    until(lambda: not open_files(blog))
    assert statuses(blog, older, newer) == ["superseded", "released"] and blog.record()["commit"] == newer
    host.write("/run/check", "failure")
    refused, code = called(blog, commit(blog, "8.2"))
    assert code == 2 and refused["status"] == "refused" and "have failed: test" in refused["why"], refused
    assert blog.record()["commit"] == newer and not blog.apply().changed


def waits_for(blog: Site) -> str:
    (row, *_rest) = blog.host.call("django.requests", "blog", full=True)
    return str(row["why"])


@pytest.mark.full
def test_commit_is_promoted_once_it_has_proved_itself_and_another_person_approves(blog: Site) -> None:
    promote = {"from": "blog", "after": "1s", "approve": 1}
    stable = Site(blog.host, blog.repository, "stable", neighbour=blog, deploy="manual", promote=promote)
    stable.deploy()
    before, good = stable.live, commit(blog, "9.0")
    blog.host.call("django.release", "blog", good)
    refused, code = called(stable, good)
    assert code == 2 and "stable gets its commits from blog" in refused["why"], refused
    until(lambda: "from blog: approvals by others: 0 of 1" in promoted(stable, good))
    assert stable.live == before
    stable.host.run(["env", "SUDO_USER=ada", "salt-call", "--local", "django.approve", "stable", good[:12]])
    answer = json.loads(promoted(stable, good, "--out=json"))["local"]
    assert answer["status"] == "released" and answer["plan"]["release"]["old"] == before, answer
    assert stable.record()["commit"] == good and stable.answering["version"] == "9.0"
    (row, *_rest) = stable.host.call("django.requests", "stable", full=True)
    assert "promote from blog" in row["by"], row
    assert "ada" in stable.host.run(["cat", f"{stable.root}/requests/approvals.json"]).stdout
    assert not stable.apply().changed


def promoted(site: Site, commit: str, *options: str) -> str:
    """What `django.promote` answers, to root who has become it by sudo as ben."""
    verb = ["salt-call", "--local", *options, "django.promote", site.name, commit]
    return str(site.host.run(["env", "SUDO_USER=ben", *verb], check=False).stdout)


def test_removed_site_leaves_no_unit(blog: Site) -> None:
    request(blog, commit(blog, "7.0"), wait=False)
    blog.deploy(state="absent")
    assert "django-blog-requests" not in blog.host.run(["ls", "-R", "/etc/systemd/system"]).stdout
    assert "requests" not in blog.host.run(["ls", blog.root]).stdout.split()
    listed = blog.host.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "django-blog-*"]).stdout
    assert listed == ""
