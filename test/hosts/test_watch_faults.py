"""Faults of live sites, each a message once and good again once on every channel, and none in an hour of rest."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Hosts, Repositories
from sites import Site, version
from watching import SECRET, Told, Watched, channel, receive, told

pytestmark = pytest.mark.full

CASES = yaml.safe_load(Path(__file__).with_name("watch.yaml").read_text())
FORMATS = ("slack", "mattermost", "discord", "teams", "ntfy")
NOTIFY = {
    "good": channel("good"),
    **{form: channel(form, form) for form in FORMATS},
    "apprise": {"url": f"json://127.0.0.1:9001/apprise/{SECRET}", "format": "apprise"},
    "mail": {"mail": ["ops@example.org"], "from": "host@example.org"},
}


class Host(Watched):
    """A host with five sites, whose looks a test takes one after another."""

    def look(self, times: int = 1) -> None:
        for _turn in range(times):
            self.host.run(["systemctl", "start", "django-watch.service"], timeout=120)

    def new(self, before: dict[str, list[Told]]) -> dict[str, list[Told]]:
        """What each channel has got since; what is on its way is waited for."""
        limit = time.monotonic() + 300
        while True:
            now = {name: rows[len(before.get(name, [])) :] for name, rows in told(self.host).items()}
            if all(now.get(name) for name in NOTIFY) or time.monotonic() > limit:
                return {name: now.get(name, []) for name in NOTIFY}
            time.sleep(0.3)


@pytest.fixture(scope="module")
def watched(module_hosts: Hosts, repositories: Repositories) -> Host:
    host = module_hosts(kind="live")
    get = "apt-get -qq install --no-install-recommends redis-server apprise"
    host.run(f"apt-get -qq update && {get} >/dev/null", timeout=300)
    receive(host)
    blog = Host(host, repositories(host), tls={"kind": "self_signed"})
    blog.notify = NOTIFY
    options: dict[str, dict[str, Any]] = {
        "shop": {"workers": {"feed": {"kind": "command", "command": "sleep infinity"}}, "queue": {"engine": "redis"}},
        "wiki": {
            "hook": True,
            "schedules": {"clear": {"command": "manage.py clearsessions", "at": "daily"}},
            "backup": {"schedule": "daily"},
        },
        "forum": {},
        "press": {"domains": ["press.example.org", "www.press.example.org"]},
    }
    for name, own in options.items():
        Site(host, blog.repository, name, neighbour=blog, tls={"kind": "self_signed"}, **own)
    blog.deploy()
    host.mount("-t", "tmpfs", "-o", "size=8m,mode=0700", "none", "/srv/django/press/backups")
    host.run("systemctl stop django-watch.timer")
    blog.look(3)
    assert [one for one in blog.messages if one["kind"] != "rebooted"] == []  # it was made of another host's image
    return blog


@pytest.mark.parametrize("case", CASES, ids=[case["fault"] for case in CASES])
def test_fault_is_a_message_once_and_good_again_once(watched: Host, case: dict[str, Any]) -> None:
    host, root = watched.host, f"/srv/django/{case['site']}"
    active = host.run(f"basename $(readlink {root}/current)").stdout.strip()
    unit = f"django-{case['site']}-{active.partition('-')[0]}"
    before = told(host)
    host.run(case["break"].replace("RELEASE", f"{root}/releases/{active}").replace("UNIT", unit))
    watched.look(3)
    found = watched.new(before)
    assert {name: len(rows) for name, rows in found.items()} == dict.fromkeys(NOTIFY, 1), found
    (message,) = found["good"][0].messages
    about = case.get("about", case["site"])
    assert (message["what"], message["site"], message["kind"]) == ("problem", about, case["kind"]), message
    assert case["says"] in message["text"] and message["command"], message
    texts = {name: " ".join(rows[0].text.split()) for name, rows in found.items() if name != "good"}
    assert all(case["site"] in text and message["command"][:40] in text for text in texts.values()), texts
    host.run(case.get("do", message["command"]), timeout=300)
    cured = told(host)
    watched.look(4)
    found = watched.new(cured)
    assert {name: len(rows) for name, rows in found.items()} == dict.fromkeys(NOTIFY, 1), found
    (message,) = found["good"][0].messages
    assert (message["what"], message["site"], message["kind"]) == ("good", about, case["kind"]), message


def test_hour_of_rest_with_a_release_every_five_minutes_is_silent(watched: Host) -> None:
    before = told(watched.host)
    for number in range(12):
        watched.repository.commit(version(f"5.{number}"))
        watched.deploy()
        watched.look(5)
    assert [name for name, rows in told(watched.host).items() if len(rows) > len(before.get(name, []))] == []


def test_reboot_is_one_message(watched: Host) -> None:
    before = told(watched.host)
    watched.host.restart()
    watched.host.run("systemctl stop django-watch.timer")
    watched.look(3)
    found = watched.new(before)
    assert [one["kind"] for row in found["good"] for one in row.messages] == ["rebooted"]
    assert {name: len(rows) for name, rows in found.items()} == dict.fromkeys(NOTIFY, 1), found
