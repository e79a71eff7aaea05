"""`django.history`: the audit log and the recorded deployments, merged."""

import contextlib
import json
import re
import time

import pytest
from django_formula.audit import audit, chain
from django_formula.audit.caller import Caller
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.release import releases
from django_formula.site import sites
from django_formula.verbs import history
from world import commit

RAY = Caller("ray", "10.0.0.9", "ssh")


def lines(*arguments):
    return history.view(history.rows(*arguments))


def test_state_that_deploys_leaves_lines_and_a_row(world, monkeypatch):
    moment = clock.now()
    monkeypatch.setattr(clock, "now", lambda: moment)  # a quick host does both within a second
    world.apply()
    first, last = map(json.loads, chain.current().read_text().splitlines())
    assert (first["verb"], first["result"], last["result"]) == ("deployment", "begun", "released")
    (row,) = history.rows("blog", "1h", "")
    assert row["to"] == world.live == last["release"] and row["result"] == "released"
    world.push("two")
    world.fails["systemd-run"] = DeploymentError("no")
    with pytest.raises(DeploymentError):
        world.apply()
    newest, _older = history.rows("blog", "1h", "")
    assert newest["result"] == "failed in static"
    assert chain.broken() == ("", 4)


def test_history_of_no_name_is_that_of_all_sites(world):
    world.apply()
    chain.current().unlink()
    assert len(history.rows("", "1h", "")) == 1 and history.rows("", "1h", "") == history.rows(None, "1h", "")


def test_verb_has_one_row_with_what_its_deployment_did(world):
    world.apply()
    chain.current().unlink()
    deploys = sites.find("blog").deploys
    earlier = clock.timestamp(time.time() - 600)
    deploys.write_text(re.sub('(?<="time": ")[^"]+', earlier, deploys.read_text()))
    act = audit.Act("release", RAY, "blog", {"revision": "main"})
    world.push("two")
    with audit.recorded(act):
        world.apply()
    newest, older = history.rows("blog", "1h", "")
    assert (newest["verb"], newest["who"], newest["to"]) == ("release", "ray", world.live)
    assert (older["verb"], older["id"]) == ("deployment", "")  # of which the audit log knows nothing any more
    assert lines("blog", "1h", "ray") == [
        f"{clock.now()[5:10]} {newest['time'][11:16]}  blog  release main 0001 → 0002  ray (ssh, 10.0.0.9)"
        f"  done, {newest['seconds']} s"
    ]
    assert len(releases.attempts(sites.find("blog"))) == 2 and world.live == f"0002-{commit('two')[:12]}"


@pytest.mark.parametrize("asked_by", [None, "django.release by root"])
def test_deployment_is_not_shown_as_what_another_user_did_meanwhile(world, monkeypatch, asked_by):
    """A command of ray's runs for an hour, while the minion applies, or root releases."""
    world.apply()
    act = audit.Act("manage", RAY, "blog", {"command": "import_posts"})
    act.begin()
    world.push("two")
    world.fails["systemd-run"] = DeploymentError("no")
    with contextlib.ExitStack() as stack:
        if asked_by:
            stack.enter_context(audit.recorded(audit.Act("release", Caller("root"), "blog")))
        with pytest.raises(DeploymentError):
            world.apply()
    act.end()
    if asked_by:
        deploys = sites.find("blog").deploys
        deploys.write_text(deploys.read_text().replace('"asked_by": "a test"', f'"asked_by": "{asked_by}"'))
    (row,) = history.rows("blog", "1h", "ray")
    assert (row["verb"], row["result"]) == ("manage", "done")
    others = [one["result"] for one in history.rows("blog", "1h", "") if one["who"] != "ray"]
    assert sorted(others) == ["failed in static", "released"]


def test_long_history_is_read_with_one_look_at_each_line(world, monkeypatch):
    """A site with ten releases a day has thousands of acts and deployments after a year."""
    world.apply()
    for number in range(60):
        audit.Act("backup", RAY, "blog", key=f"{number}").end()
    deploys = sites.find("blog").deploys
    line = json.loads(deploys.read_text().splitlines()[0])
    with deploys.open("a") as file:
        for number in range(60):
            earlier = clock.timestamp(time.time() - 60 * number)
            file.write(f"{json.dumps({**line, 'time': earlier})}\n")
    read = []
    seconds = clock.seconds
    monkeypatch.setattr(clock, "seconds", lambda when: read.append(when) or seconds(when))
    assert len(history.rows("blog", "30m", "")) > 60
    assert len(read) < 600


def test_act_that_was_killed_and_filters(world, monkeypatch):
    audit.Act("shell", RAY, "blog", {"kind": "bash", "write": "ticket 311"}).begin()
    (line,) = lines("blog", "1h", "")
    assert line.endswith("blog  shell bash ticket 311  ray (ssh, 10.0.0.9)  did not end, or has not yet")
    assert lines(None, "1h", "ada") == ["nothing is recorded"]
    with pytest.raises(DeploymentError, match="there is no site 'shop'"):
        lines("shop", "1h", "")
    with pytest.raises(DeploymentError, match="is not a duration"):
        lines(None, "soon", "")
    monkeypatch.setattr(history.time, "time", lambda: clock.seconds(clock.now()) + 7200)
    assert lines(None, "1h", "") == ["nothing is recorded"]


@pytest.mark.parametrize("damage", [{"time": 5}, {"id": []}, {"seconds": "x"}, {"arguments": ["to"]}, {"verb": None}])
def test_line_of_another_shape_is_left_out(world, damage):
    for _time in range(2):
        with audit.recorded(audit.Act("backup", RAY, "blog", {"kind": "all"})):
            pass
    written = chain.current().read_text().splitlines()
    changed = json.dumps({**json.loads(written[-1]), **damage})
    chain.current().write_text("\n".join([*written[:-1], changed]) + "\n")
    assert [line.endswith("done, 0.0 s") for line in lines("blog", "1h", "")] == [False, True]
