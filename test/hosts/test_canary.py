"""Releases that get a share of the visitors first, and are given to all of them, or taken back."""

import collections
import json
import re
import socket
import time
from urllib.parse import urlsplit

import pytest
import requests
from client import Answer, Load
from conftest import live_site
from sites import AFTER_RESTART, Site, release_of, until, version

#: Visitors of the site; the odds that none or all of them get a share of 30 % are nothing.
VISITORS = [f"browser {number}" for number in range(60)]
CANARY = {"steps": {"30%": "20s", "50%": "4s"}, "requests": 10, "limit": "1m"}
OUTLOOK = "30 % for 20s, 50 % for 4s of the visitors"
#: A view that fails for half of the visitors.
BROKEN = """
def release(request):
    if request.META.get("HTTP_USER_AGENT", "")[-1:] in set("13579"):
        raise KeyError("seven")
    return JsonResponse({"release": os.environ["DJANGO_RELEASE"]})
"""
CUTS = """
def release(request):
    answer = JsonResponse({"release": os.environ["DJANGO_RELEASE"]})
    if request.META.get("HTTP_USER_AGENT", "")[-1:] in set("13579"):
        answer["Content-Length"] = 5000
    return answer
"""
#: A view that takes half a second to send a megabyte.
LARGE = """
from django.http import StreamingHttpResponse

def slow(request):
    def parts():
        for _ in range(10):
            yield b"x" * 100_000
            time.sleep(0.05)
    answer = StreamingHttpResponse(parts())
    answer["Content-Length"] = 1_000_000
    return answer
"""
LOST = """
from django.http import HttpResponseNotFound

def release(request):
    return HttpResponseNotFound()
"""
EXITS = BROKEN.replace('raise KeyError("seven")', "os._exit(1)")


class Leaving(Load):
    """Visitors who leave once they have the first bytes."""

    def ask(self) -> Answer:
        where, visitor = urlsplit(self.url), self.visitors[next(self.turns) % len(self.visitors)]
        head = f"GET {where.path} HTTP/1.1\r\nHost: {self.host_header}\r\nUser-Agent: {visitor}\r\n\r\n"
        with socket.create_connection((where.hostname, 80), timeout=self.timeout) as connection:
            connection.sendall(head.encode())
            status = int(connection.recv(12).split()[1])
        return Answer(time.time(), 0, status, None, None, visitor)


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    blog = live_site(module_hosts, repositories, proxy={"access_log": "json"}, releases={"canary": CANARY})
    blog.deploy()
    blog.good = f"import os\n{blog.repository.read('guestbook/views.py')}"
    return blog


def visitors(blog: Site, visitors: list[str] = VISITORS) -> Load:
    """Have all visitors ask in turn which release answers, about 40 times a second."""
    address = f"http://{blog.host.address}/release"
    return Load(address, blog.domain, connections=4, release=release_of, visitors=visitors)


def proof(blog: Site) -> dict:
    return dict(blog.host.call("django.proof", "blog"))


def ended(blog: Site) -> dict:
    def found() -> dict:
        time.sleep(2)  # each look is a call of Salt
        seen = proof(blog)
        return seen if seen.get("ended") else {}

    return until(found)


def program(blog: Site) -> str:
    """The process of the proof's program; 0 while systemd has none."""
    argv = ["systemctl", "show", "--value", "--property=MainPID", "django-blog-proof"]
    return blog.host.run(argv).stdout.strip()


def serves(blog: Site) -> bool:
    """Whether the site answers; not while its host starts."""
    try:
        return blog.get("/release").status_code == 200
    except requests.ConnectionError:
        return False


def alone(blog: Site) -> bool:
    """Whether the active release is the only one with units."""
    return {unit.partition(".")[0] for unit in blog.units} == {blog.unit}


def moved(load: Load) -> dict[str, list[str]]:
    """The releases that each visitor has got, in their order, without repetition."""
    found = collections.defaultdict(list)
    for answer in sorted(load.answers, key=lambda answer: answer.time):
        seen = found[answer.visitor]
        if answer.release and seen[-1:] != [answer.release]:
            seen.append(answer.release)
    return found


def broken(blog: Site, subject: str, views: str) -> None:
    """Commit a view more, which nothing requests, or one that fails in place of the one that visitors get."""
    blog.repository.commit({"guestbook/views.py": f"{blog.good}\n{views}"}, subject)


def test_good_release_gets_a_share_and_then_all_visitors(blog):
    old = blog.live
    blog.repository.commit(version("2.0"), "Good")
    planned = blog.apply(test=True)["blog is live"].changes
    assert planned["canary"] == OUTLOOK, planned
    with visitors(blog) as load:
        load.wait(20)
        applied = blog.deploy()
        assert applied["blog is live"].changes["canary"] == OUTLOOK and blog.live == old
        new = proof(blog)["release"]
        again = blog.deploy()
        assert not again.changed and f"{new} gets 30 % of the visitors" in json.dumps(again.warnings), again
        status = blog.host.call("django.status", "blog")[0]
        assert status["release"] == old and f"{new} gets 30 %" in status["canary"]
        load.wait(60)
        few = {visitor for visitor, seen in moved(load).items() if new in seen}
        assert 5 <= len(few) <= 32, len(few)
        result = ended(blog)
        load.wait(90)  # each visitor once more
    assert load.failed == [] and result["ended"] == "active" and blog.live == new
    assert {*map(tuple, moved(load).values())} <= {(old, new), (new,)}, "a visitor keeps a release"
    assert {answer.release for answer in load.answers[-20:]} == {new}
    assert not blog.deploy().changed
    assert alone(blog)
    record = blog.record()
    assert (
        record["state"] == "good" and record["proof"]["evidence"]["new"]["visitors"] > 5 and "static" in record["steps"]
    )


def test_release_that_raises_is_taken_back(blog):
    old = blog.live
    broken(blog, "Broken", BROKEN)
    many = [f"browser {number}" for number in range(800)]  # it is broken for 120 of them
    with visitors(blog, many) as load:
        blog.deploy()
        result = ended(blog)
        load.wait(40)
    why = r"\S+ raised KeyError in guestbook\.views\.release for 2 visitors; \S+ never did"
    assert result["ended"] == "back" and re.fullmatch(why, result["why"]), result
    assert blog.live == old and {answer.release for answer in load.answers[-20:]} == {old}
    assert {answer.status for answer in load.answers} == {200, 500} and len({one.visitor for one in load.failed}) <= 60
    failed = blog.record(blog.releases[-1])
    assert failed["state"] == "failed" and failed["step"] == "canary" and "KeyError" in failed["error"]
    again = blog.apply()
    assert "failed before with the same inputs: canary: " in again.failed["blog has its source"], again
    assert alone(blog)


@pytest.mark.full
def test_release_that_has_lost_a_page_is_taken_back(blog):
    blog.repository.commit({"guestbook/views.py": blog.good}, "Names the views that answer")
    blog.host.call("django.release", "blog", "canary=False")
    old = blog.live
    broken(blog, "Lost", LOST)
    with visitors(blog) as load:
        blog.deploy()
        result = ended(blog)
        load.wait(40)
    why = r"\S+: responses with 404, the last from release: 2 of \d+ visitors; \S+: 0 of \d+; odds .+"
    assert result["ended"] == "back" and re.fullmatch(why, result["why"]), result
    assert blog.live == old and {one.status for one in load.failed} == {404}


@pytest.mark.full
def test_visitors_of_a_release_that_exits_are_answered_by_the_active_one(blog):
    old = blog.live
    broken(blog, "Exits", EXITS)
    with visitors(blog) as load:
        blog.deploy()
        result = ended(blog)
        load.wait(40)
    assert load.failed == [] and result["ended"] == "back" and "gave no answer to 2 visitors" in result["why"], result
    assert blog.live == old and result["release"] in load.releases


@pytest.mark.full
def test_release_that_cuts_answers_short_is_taken_back(blog):
    old = blog.live
    broken(blog, "Cuts", CUTS)
    with visitors(blog) as load:
        blog.deploy()
        result = ended(blog)
        load.wait(40)
    why = r"\S+ sent only a part of its answer to 2 visitors; \S+ never did"
    assert result["ended"] == "back" and re.fullmatch(why, result["why"]), result
    assert blog.live == old and load.failed and {one.error[:14] for one in load.failed} == {"IncompleteRead"}


@pytest.mark.full
def test_visitors_who_leave_do_not_count(blog):
    broken(blog, "Large", LARGE)
    address = f"http://{blog.host.address}/slow"
    with visitors(blog) as load, Leaving(address, blog.domain, connections=1, visitors=VISITORS) as leaving:
        blog.deploy()
        result = ended(blog)
    assert result["ended"] == "active" and blog.record()["proof"]["evidence"]["exceptions"] == {}, result
    assert load.failed == leaving.failed == [] and len(leaving.answers) > 20
    cut = f'grep -c \'"completion":""\' /var/log/nginx/django-{blog.name}.log'
    assert int(blog.host.run(cut).stdout) > 10, "nginx has seen them leave the new release"


@pytest.mark.full
def test_people_see_it_first_and_switch(blog):
    old = blog.live
    blog.repository.commit({"guestbook/views.py": blog.good, **version("3.0")}, "Good again")
    blog.deploy()
    answer = blog.host.call("django.canary", "blog", share=0, token=True)
    name, _, token = answer["cookie"].partition("=")
    new = answer["release"]
    until(lambda: release_of(blog.get("/release", cookies={name: token}).content) == new)
    with visitors(blog) as load:
        load.wait(80)
    assert {answer.release for answer in load.answers} == {old}
    assert release_of(blog.get("/release", cookies={name: "0" * 32}).content) == old
    roles = {row["role"]: row["release"] for row in blog.host.call("django.releases", "blog")}
    assert (roles["canary"], roles["live"]) == (new, old)
    with blog.load() as load:
        load.wait(10)
        assert blog.host.call("django.promote", "blog") == {"release": new}
        load.wait(20)
    assert load.failed == [] and load.releases == [old, new] and blog.live == new


@pytest.mark.full
def test_bake_keeps_a_tenth_and_goes_back(blog):
    old = blog.live
    blog.repository.commit({"guestbook/views.py": blog.good, **version("4.0")}, "Leaks")
    bake = {"canary": {"steps": {"50%": "2s"}, "requests": 0, "bake": "10m"}}
    with visitors(blog) as load:
        blog.deploy(releases=bake)
        until(lambda: blog.live != old)
        until(lambda: proof(blog)["now"].startswith("10 % of the visitors stay on"))
        time.sleep(4)
        before = len(load.answers)
        load.wait(120)
        some = {answer.release for answer in load.answers[before:]}
        assert some == {old, blog.live}
        kept = {answer.visitor for answer in load.answers[before:] if answer.release == old}
        assert 1 <= len(kept) <= 18, kept
        blog.host.call("django.back", "blog")
        load.wait(40)
    assert load.failed == [] and blog.live == old and {answer.release for answer in load.answers[-20:]} == {old}
    assert alone(blog) and blog.host.call("django.releases", "blog")[0]["state"] == "held"


@pytest.mark.full
def test_share_ends_by_itself_when_its_program_is_killed(blog):
    old = blog.live
    blog.repository.commit(version("5.0"), "Killed")
    blog.deploy(releases={"canary": {"steps": {"50%": "10m"}}})
    new = proof(blog)["release"]
    with visitors(blog) as load:
        until(lambda: new in load.releases)
        first = program(blog)
        blog.host.run(["systemctl", "kill", "--signal=SIGKILL", "django-blog-proof.service"])
        until(lambda: program(blog) not in ("0", first))
        assert "gets 50 %" in proof(blog)["now"]
        blog.host.run(["systemctl", "mask", "--runtime", "--now", "django-blog-proof.service"])
        killed = time.time()
        until(lambda: {answer.release for answer in load.answers[-80:]} == {old})
        assert max(answer.time for answer in load.answers if answer.release == new) < killed + 25
    assert load.failed == [] and "its program does not run" in blog.host.call("django.status", "blog")[0]["canary"]
    blog.host.run(["systemctl", "unmask", "--runtime", "django-blog-proof.service"])
    assert blog.host.call("django.back", "blog")["on hold"] == new


@pytest.mark.full
def test_boot_of_the_host_gives_all_visitors_the_active_release(blog):
    old = blog.live
    blog.repository.commit({"guestbook/views.py": blog.good, **version("6.0")}, "Booted meanwhile")
    blog.deploy(releases={"canary": {"steps": {"50%": "10m"}}})
    new = proof(blog)["release"]
    with visitors(blog) as load:
        until(lambda: new in load.releases)
    blog.host.restart()
    until(lambda: serves(blog))
    assert ended(blog)["ended"] == "interrupted"
    with visitors(blog) as load:
        load.wait(120)
    assert load.failed == [] and load.releases == [old] and blog.live == old and alone(blog)
    blog.deploy()
    assert blog.live == old and proof(blog)["now"].startswith(f"{int(new[:4]) + 1:04}-")


@pytest.mark.full
def test_host_without_systemd(module_hosts, repositories):
    host = module_hosts(kind="ready", init=False, command=AFTER_RESTART, options=["--tmpfs=/run"])
    host.run("rm -f /etc/nginx/sites-enabled/default")
    blog = Site(host, repositories(host), proxy={"access_log": "json"}, releases={"canary": CANARY})
    blog.deploy()
    old = blog.live
    blog.repository.commit(version("2.0"), "Good")
    with visitors(blog) as load:
        blog.deploy()
        new = proof(blog)["release"]
        until(lambda: new in load.releases)
        assert ended(blog)["ended"] == "active"
        load.wait(40)
    assert load.failed == [] and blog.live == new != old
    blog.repository.commit(version("3.0"), "Restarted meanwhile")
    blog.deploy(releases={"canary": {"steps": {"50%": "10m"}}})
    assert "gets 50 %" in proof(blog)["now"]
    host.restart()
    until(lambda: serves(blog))
    with visitors(blog) as load:
        load.wait(80)
    assert {answer.release for answer in load.answers} == {new} and "problem" in proof(blog)
    blog.deploy()
    assert proof(blog)["now"].startswith("0004-") and blog.live == new
