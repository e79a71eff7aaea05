"""Webhooks without a Salt that runs: what git servers send is released, and what is forged does nothing."""

import contextlib
import hashlib
import hmac
import json
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from conftest import Hosts, Repositories
from sites import Site, until, version

PATH = "/.well-known/django-hook"
CASES = yaml.safe_load((Path(__file__).parents[1] / "engine/request/deliveries.yaml").read_text())
GITHUB = {"X-GitHub-Event": "push"}
#: Sends forged requests to the socket of the webhook, as the proxy does, and tells what they have cost its program.
FLOOD = """
import collections, json, socket, subprocess
body = json.dumps({"ref": "refs/heads/main", "after": "a" * 40, "commits": ["x" * 4000]}).encode()
head = f"POST / HTTP/1.1\\r\\nX-GitHub-Event: push\\r\\nX-Hub-Signature-256: sha256={'0' * 64}\\r\\n"
data = f"{head}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body
found = collections.Counter()
for _ in range(1000):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/run/django-hook/blog.sock")
        client.sendall(data)
        found[client.makefile().readline().split()[1]] += 1
show = ["systemctl", "show", "--property=MainPID", "--value", "django-blog-web-hook.service"]
pid = subprocess.run(show, capture_output=True, text=True).stdout.strip()
memory = next(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM"))
user = next(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("Uid"))
capabilities = next(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("CapEff"))
print(json.dumps({"answers": found, "kilobytes": int(memory), "uid": int(user), "capabilities": capabilities}))
"""


@pytest.fixture(scope="module", params=["nginx", pytest.param("apache", marks=pytest.mark.full)])
def blog(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Site:
    host = module_hosts(kind="live")
    blog = Site(host, repositories(host), deploy="manual", releases={"keep": 2, "drain": "1s"})
    blog.deploy(proxy={"kind": request.param})
    assert left(blog) == []
    assert blog.apply(test=True, hook=True).changed and left(blog) == []
    blog.deploy()
    assert not blog.apply().changed and not blog.apply(test=True).changed
    salt = host.run(["systemctl", "is-active", "salt-minion", "salt-master"], check=False).stdout
    assert salt.split() == ["inactive", "inactive"]
    return blog


def left(blog: Site) -> list[str]:
    """What the host has of webhooks and of the door of requests."""
    folders = ["/etc/systemd/system", "/run", "/usr/local/lib/django-formula", f"{blog.root}/secrets"]
    names = [
        "-name",
        "*web-hook*",
        "-o",
        "-name",
        "django-hook",
        "-o",
        "-name",
        "hook.pyz",
        "-o",
        "-name",
        ".hook.json",
    ]
    names += ["-o", "-name", "django-blog-requests*.socket"]
    found = blog.host.run(["find", *folders, *names], check=False).stdout
    users = blog.host.run(["getent", "passwd", "blog-hook"], check=False).stdout
    return (found + users + blog.host.run(["getent", "group", "blog-hook", "blog-ask"], check=False).stdout).split()


def secret(blog: Site, **options: Any) -> str:
    told = blog.host.call("django.hook", "blog", **options)
    assert told["url"] == f"http://blog.example.org{PATH}" and told["branch"] == "refs/heads/main"
    return str(told["secret"])


def deliver(blog: Site, headers: dict[str, str], body: bytes, **options: Any) -> int:
    """Send a delivery, again where too many have been sent, as git servers do."""
    while True:
        answer = blog.host.http(PATH, blog.domain, "POST", data=body, headers=headers, **options)
        if answer.status_code != 429:
            print(answer.status_code, answer.text.strip()[:80])
            return answer.status_code
        time.sleep(2)


def push(blog: Site, commit: str, key: str, case: dict[str, Any] | None = None) -> int:
    """Send what a git server sends about a commit of main, signed with a key."""
    case = case or CASES[0]
    text = json.dumps(case["body"]).replace('"C"', f'"{commit}"')
    body = urlencode({"payload": text}).encode() if case.get("form") else text.encode()
    digest = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    signed = {name: key if value == "SECRET" else value.format(digest) for name, value in case["sign"].items()}
    return deliver(blog, {**case["headers"], **signed}, body)


def ended(blog: Site) -> dict[str, dict[str, Any]]:
    """The requests with a final status, by commit, read without Salt."""
    text = blog.host.run(["cat", f"{blog.root}/requests/requests.jsonl"], check=False).stdout
    return {one["commit"]: one for one in map(json.loads, text.splitlines())}


def recorded(blog: Site) -> str:
    """All that is recorded of requests."""
    files = [f"{blog.root}/requests/{name}" for name in ("requests.jsonl", "pending.json", "running.json")]
    return blog.host.run(["cat", *files], check=False).stdout


def test_delivery_of_each_git_server_is_accepted_and_the_newest_is_released(blog: Site) -> None:
    key, cases = secret(blog), [case for case in CASES if "by" in case and not case.get("former")]
    commits = [blog.repository.commit(version(f"2.{number}")) for number in range(len(cases))]
    for commit, case in zip(commits, cases, strict=True):
        assert push(blog, commit, key, case) == 202
    until(lambda: ended(blog).keys() >= {*commits})
    found = [ended(blog)[commit] for commit in commits]
    assert [one["by"]["who"] for one in found] == [case["by"] for case in cases]
    assert found[-1]["status"] == "released" and {one["status"] for one in found} <= {"released", "superseded"}
    assert len({one["by"]["from"] for one in found}) == 1 and found[0]["by"]["from"] not in ("", "127.0.0.1")
    assert blog.record()["commit"] == commits[-1]
    assert blog.answering["version"] == f"2.{len(cases) - 1}"


def test_forged_deliveries_are_refused_and_not_recorded(blog: Site) -> None:
    before, body = recorded(blog), json.dumps({"ref": "refs/heads/main", "after": blog.repository.first}).encode()
    forged = [case for case in CASES if case.get("status") == 403 and not {"former", "wrong", "changed"} & {*case}]
    forged = [{name: value.format("0" * 64) for name, value in case["sign"].items()} for case in forged]
    assert len(forged) >= 6
    for headers in forged:
        signature = {name: value.encode() for name, value in headers.items()}
        assert deliver(blog, {**GITHUB, **signature}, body) == 403
    assert blog.get(PATH).status_code == 405
    # Apache has begun to send the body when the program refuses it
    too_large = 413 if blog.options["proxy"]["kind"] == "nginx" else 502
    assert deliver(blog, GITHUB, b"x" * ((25 << 20) + 1)) == too_large
    assert recorded(blog) == before


def test_slow_senders_delay_no_delivery(blog: Site) -> None:
    """Apache passes a body on as it comes: one after the other, they would hold the program for 15 s each."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: {blog.domain}\r\nX-GitHub-Event: push\r\nContent-Length: 60000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            slow = stack.enter_context(socket.create_connection((blog.host.address, 80), timeout=30))
            slow.sendall(head.encode() + b"x" * 40000)
        began = time.monotonic()
        assert deliver(blog, GITHUB, b"{}") == 403
        assert time.monotonic() - began < 60


def test_a_thousand_forged_deliveries_cost_little(blog: Site) -> None:
    before = recorded(blog)
    found = json.loads(blog.host.run(["python3", "-c", FLOOD], timeout=300).stdout)
    print(f"1000 forged deliveries: {found}")
    assert found["answers"] == {"403": 1000} and found["kilobytes"] <= 20_000
    assert found["uid"] == int(blog.host.run(["id", "-u", "blog-hook"]).stdout) and int(found["capabilities"], 16) == 0
    assert recorded(blog) == before
    if blog.options["proxy"]["kind"] == "nginx":

        def forged() -> int:
            return int(blog.host.http(PATH, blog.domain, "POST", headers=GITHUB, data=b"{}").status_code)

        until(lambda: forged() == 403)  # the deliveries of the tests before have used up what is let through
        answers = [403, *(forged() for _ in range(60))]
        assert {*answers} == {403, 429} and answers.count(429) >= 30, answers


def test_commit_of_another_branch_or_an_older_one_is_not_released(blog: Site) -> None:
    key, live = secret(blog), blog.live
    fork = blog.repository.commit(version("evil"), branch="fork")
    tip = blog.repository.git("rev-parse", "main").strip()
    blog.repository.git("switch", "--quiet", "main")
    for commit, status, why in (
        (fork, "refused", "is no commit of main"),
        (blog.repository.first, "superseded", "is part of"),
        (tip, "released", "it was active already"),
    ):
        assert push(blog, commit, key) == 202
        until(lambda commit=commit, why=why: why in ended(blog).get(commit, {}).get("why", ""))
        assert ended(blog)[commit]["status"] == status
    assert blog.live == live


@pytest.mark.full
def test_webhook_is_open_where_the_site_is_closed(blog: Site) -> None:
    blog.deploy(proxy={**blog.options["proxy"], "allow": ["192.0.2.0/24"]}, maintenance={"allow": ["192.0.2.0/24"]})
    blog.host.call("django.maintenance", "blog", "on")
    assert blog.get("/").status_code in (403, 503)
    commit = blog.repository.commit(version("3.0"))
    assert push(blog, commit, secret(blog)) == 202
    assert until(lambda: ended(blog).get(commit))["status"] == "released" and blog.record()["commit"] == commit
    blog.host.call("django.maintenance", "blog", "off")
    blog.deploy(proxy={"kind": blog.options["proxy"]["kind"]}, maintenance=None)


@pytest.mark.full
def test_former_secret_is_accepted_after_a_rotation(blog: Site) -> None:
    former, tip = secret(blog), blog.repository.git("rev-parse", "main").strip()
    new = secret(blog, rotate=True)
    assert new != former
    for key, status in ((former, 202), (new, 202), (new[::-1], 403)):
        assert push(blog, tip, key) == status
    blog.deploy(hook={"secret": "of the pillar".replace(" ", "-") * 2})
    assert secret(blog) == "as in the pillar, django:sites:blog:hook:secret"
    assert [push(blog, tip, key) for key in ("of-the-pillarof-the-pillar", new, former)] == [202, 202, 403]
    audited = [line for line in blog.host.read("/var/lib/django-formula/audit.jsonl").splitlines() if '"hook"' in line]
    assert audited and not any(key in line for key in (former, new) for line in audited)


@pytest.mark.full
def test_removed_webhook_leaves_nothing(blog: Site) -> None:
    blog.deploy(hook=None)
    assert left(blog) == [] and not blog.apply().changed
    assert blog.host.http(PATH, blog.domain, "POST", headers=GITHUB, data=b"{}").status_code in (403, 404)
    blog.deploy(hook=True)
    assert left(blog) != []
    blog.deploy(state="absent")
    assert left(blog) == []
