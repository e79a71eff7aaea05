"""Kills and losses of power while a release proves itself: one release answers afterwards, without a command."""

import shlex
import time
from collections.abc import Iterator, Mapping

import pytest
from client import Load
from conftest import live_site
from faults import APPLY, provoked
from lab import Applied, busy
from sites import Site, release_of, until, version

pytestmark = pytest.mark.full

#: Seconds after which one release answers, and a host that was without power has booted.
WITHIN = 20
#: Visitors; the odds that none or all of them get a share of a half are nothing.
VISITORS = [f"browser {number}" for number in range(40)]
SHORT = {"steps": {"50%": "1s"}, "requests": 0, "bake": "2s"}
LONG = {"steps": {"50%": "10m"}}
UNIT = "django-blog-proof.service"
NGINX = "$(cat /run/nginx.pid)"
#: What ends a proof, by functions of its program; and what begins one, in an apply.
ENDS = " ".join(f"deploy.proof_end.{name}" for name in ("activate", "begin_bake", "end_bake", "take_back", "interrupt"))
BEGINS = "deploy.proof_begin.begin"
MADE, REACHED = "/root/changes", "/root/reached"
#: A view that fails for half of the visitors.
BROKEN = """
def release(request):
    if request.META.get("HTTP_USER_AGENT", "")[-1:] in set("13579"):
        raise KeyError("seven")
    return JsonResponse({"release": os.environ["DJANGO_RELEASE"]})
"""
#: What is killed while visitors have both releases.
KILLED = {
    "master process of nginx": f"kill -KILL {NGINX}",
    "workers of nginx": f"pkill -KILL --parent {NGINX}",
    "nginx": "systemctl kill --signal=KILL nginx",
    "program of the proof": f"systemctl kill --signal=KILL {UNIT}",
    "both": f"systemctl kill --signal=KILL nginx {UNIT}",
}


@pytest.fixture(scope="module")
def host_of_blog(module_hosts, repositories) -> Site:
    blog = live_site(module_hosts, repositories, proxy={"access_log": "json"}, releases={"canary": SHORT})
    blog.deploy()
    blog.good = f"import os\n{blog.repository.read('guestbook/views.py')}"
    commit(blog, "Good")
    blog.deploy()
    until(lambda: "ended" in proof(blog))
    return blog


@pytest.fixture
def blog(host_of_blog) -> Iterator[Site]:
    """The site without a proof, and without a fault."""
    blog = host_of_blog
    yield blog
    mend(blog)
    blog.host.run(["rm", "-f", MADE, REACHED])
    if "ended" not in proof(blog):
        blog.host.call("django.back", "blog")


def proof(blog: Site) -> dict:
    return dict(blog.host.call("django.proof", "blog"))


def settled(blog: Site) -> dict:
    """What is known of the proof, once its program runs where systemd has started it."""

    def found() -> list[dict]:
        known = proof(blog)
        return [known] if "problem" not in known or not is_started(blog) else []

    [known] = until(found)
    return dict(known)


def sharing(blog: Site) -> list[str]:
    """The release that gets a share of the visitors."""
    known = settled(blog)
    return [known["release"]] if "now" in known and "problem" not in known else []


def is_started(blog: Site) -> bool:
    state = blog.host.run(["systemctl", "is-active", UNIT], check=False).stdout.strip()
    return state in ("active", "activating")


def visitors(blog: Site) -> Load:
    """Have all visitors ask in turn which release answers, about 40 times a second.

    Where control groups are of version 1, systemd in a container starts a killed server 40 s later, after its
    TimeoutStopSec; requests wait in its socket meanwhile.
    """
    address = f"http://{blog.host.address}/release"
    return Load(address, blog.domain, 4, release=release_of, visitors=VISITORS, timeout=90)


def commit(blog: Site, subject: str, views: str = "") -> None:
    blog.repository.commit({**version(subject), "guestbook/views.py": f"{blog.good}\n{views}"}, subject)


def answer(blog: Site, load: Load, *releases: str) -> None:
    """Wait until these releases answer all visitors, each of whom has asked once more; the site reports the same."""
    began = time.time()
    other = [began]

    def do() -> bool:
        last = [one for one in load.answers if one.time >= other[0]]
        wrong = [one.time for one in last if one.status != 200 or one.release not in releases]
        other[0] = max([other[0], *(at + 0.001 for at in wrong)])
        are_all = {one.visitor for one in last} == {*VISITORS}
        return not wrong and are_all and {one.release for one in last} == {*releases}

    until(do)
    assert other[0] - began < WITHIN * busy()
    print(f"{' and '.join(releases)} after {other[0] - began:.1f} s")
    settled(blog)  # a program that is just started again is in one of the two answers only
    status, known = blog.host.call("django.status", "blog")[0], proof(blog)
    assert status["release"] == blog.live and blog.live in releases, (status, releases)
    if "ended" in known:
        assert releases == (blog.live,) and "canary" not in status, (status, known)
        assert (known["ended"] == "active") == (known["release"] == blog.live), known
    else:
        assert known["now"] in status["canary"] and ("problem" in known) == ("does not run" in status["canary"])


def ends(blog: Site, load: Load, outcome: str) -> dict:
    """Wait until the proof has ended; the active release answers everybody and alone runs, and applies go on."""
    ended = until(lambda: (found := proof(blog)).get("ended") and found)
    assert ended["ended"] == outcome, ended
    answer(blog, load, blog.live)
    until(lambda: {unit.partition(".")[0] for unit in blog.units} == {blog.unit})
    is_enabled = ["systemctl", "is-enabled", UNIT]
    until(lambda: blog.host.run(is_enabled, check=False).stdout.strip() == "disabled")
    return ended


def goes_on(blog: Site) -> None:
    """The next apply does what a proof has left, another one nothing, and a further commit reaches all visitors."""
    live = blog.live
    again = blog.apply()
    assert again.ok or "failed before with the same inputs" in str(again.failed), again
    assert not blog.apply().changed and blog.live == live


def break_program(blog: Site, does: str) -> Mapping[str, str]:
    """Have a fault come before each change of the program that ends a proof, one for each start."""
    told = {**provoked(blog.host, "", "change", does), "FAULT_IN": ENDS, "FAULT_MADE": MADE}
    environment = "".join(f"Environment={shlex.quote(f'{name}={value}')}\n" for name, value in told.items())
    starts = f"ExecStart=\nExecStart=/usr/bin/python3 {blog.root}/proof/program.pyz blog\n"
    blog.host.write(f"/etc/systemd/system/{UNIT}.d/fault.conf", f"[Service]\n{environment}{starts}")
    blog.host.run(["systemctl", "daemon-reload"])
    return told


def mend(blog: Site) -> None:
    blog.host.run(f"rm -rf /etc/systemd/system/{UNIT}.d && systemctl daemon-reload && sync")


def changes(blog: Site) -> list[str]:
    """The changes before which the fault has come."""
    return blog.host.run(["cat", MADE], check=False).stdout.splitlines()


def stays(blog: Site) -> bool:
    """Whether the program has run for some seconds, and reads what the release uses."""
    before = changes(blog)
    time.sleep(5)
    return "now" in proof(blog) and changes(blog) == before


@pytest.mark.parametrize("what", KILLED)
def test_what_is_killed_while_visitors_have_both_releases(blog, what):
    old = blog.live
    commit(blog, f"{what} is killed")
    blog.deploy(releases={"canary": LONG})
    new = proof(blog)["release"]
    with visitors(blog) as load:
        answer(blog, load, old, new)
        blog.host.run(KILLED[what])
        time.sleep(0.5)
        answer(blog, load, old, new)
        lost = len(load.failed)
        blog.host.run(f"systemctl mask --runtime --now {UNIT}; {KILLED['nginx']}")
        answer(blog, load, old)
    print(f"{what}: {lost} of {len(load.answers)} requests failed")
    blog.host.run(f"systemctl unmask --runtime {UNIT}")
    assert not blog.apply(test=True).failed and blog.live == old


@pytest.mark.parametrize("end", ["all visitors", "back", "back from the bake"])
def test_kill_of_the_program_before_each_change_of_an_end(blog, end):
    """It is started again and goes on, as often as it is killed: no request fails, and the end is the same."""
    old = blog.live
    commit(blog, end, BROKEN if end == "back" else "")
    break_program(blog, "KILL")
    with visitors(blog) as load:
        blog.deploy(releases={"canary": {**SHORT, **({"bake": "10m"} if "bake" in end else {})}})
        new = proof(blog)["release"]
        if "bake" in end:
            until(lambda: blog.live == new and stays(blog))
            blog.host.run(["systemctl", "kill", "--signal=KILL", f"{blog.unit}.service"])
        ended = ends(blog, load, "active" if end == "all visitors" else "back")
    print(f"{end}: killed before {len(changes(blog))} changes: {ended['why']}")
    assert blog.live == (new if end == "all visitors" else old) and len(changes(blog)) > 8
    assert [one for one in load.failed if one.status != 500 or end != "back"] == []
    goes_on(blog)


def apply_killed(blog: Site) -> Applied:
    told = {**provoked(blog.host, "", "change", "KILL"), "FAULT_IN": BEGINS, "FAULT_MADE": MADE}
    return blog.host.apply(environment=told)


def test_kill_of_the_deployment_before_each_change_of_a_beginning(blog):
    old = blog.live
    commit(blog, "killed at its beginning")
    blog.configure(releases={"canary": LONG})
    with visitors(blog) as load:
        for number in range(30):
            applied = apply_killed(blog)
            if applied.ok:
                break
            assert len(changes(blog)) == number + 1, applied
            answer(blog, load, old, *sharing(blog))
        assert len(changes(blog)) > 3
        answer(blog, load, old, proof(blog)["release"])
        blog.host.call("django.back", "blog")
        ends(blog, load, "back")
    assert load.failed == []


def reaches_a_change(blog: Site, moment: str) -> bool:
    """Release a commit up to the next change of a moment, before which it stands still; whether there was one."""
    does, unit = f"sync; touch {REACHED}; sleep 60", "deploying" if moment == "beginning" else UNIT
    commit(blog, f"{moment} {time.time()}")
    blog.host.run(["rm", "-f", REACHED])
    if moment == "beginning":
        told = {**provoked(blog.host, "", "change", does), "FAULT_IN": BEGINS, "FAULT_MADE": MADE}
        variables = [f"--setenv={name}={value}" for name, value in told.items()]
        blog.configure(releases={"canary": LONG})
        blog.host.run(["systemd-run", "--quiet", "--collect", f"--unit={unit}", *variables, *APPLY])
    else:
        break_program(blog, does)
        blog.deploy(releases={"canary": SHORT})
    blog.host.run(f"until test -e {REACHED} || ! systemctl is-active --quiet {unit}; do sleep 0.1; done")
    return blog.host.run(["test", "-e", REACHED], check=False).returncode == 0


def cut_power(blog: Site, *releases: str) -> None:
    """Cut the power, and switch on again: one of the releases that may be active by now is, and answers everybody."""
    mend(blog)
    live = blog.live
    assert live in releases
    blog.host.kill()
    blog.host.start()
    with visitors(blog) as load:
        answer(blog, load, live)
    until(lambda: (found := proof(blog)).get("ended") or "problem" in found)


@pytest.mark.parametrize("moment", ["beginning", "end"])
def test_power_fails_before_each_change(blog, moment):
    for number in range(40):
        old = blog.live
        if not reaches_a_change(blog, moment):
            break
        assert len(changes(blog)) == number + 1
        cut_power(blog, old, proof(blog)["release"])
    print(f"{moment}: without power before {number} changes")
    assert number > 3
    if moment == "beginning":
        blog.host.call("django.promote", "blog")
    goes_on(blog)


def test_power_fails_while_visitors_have_both_releases(blog):
    old = blog.live
    commit(blog, "no power")
    blog.deploy(releases={"canary": LONG})
    with visitors(blog) as load:
        answer(blog, load, old, proof(blog)["release"])
    cut_power(blog, old)
    blog.deploy(releases={"canary": SHORT})
    with visitors(blog) as load:
        ends(blog, load, "active")
    goes_on(blog)
