"""Who may call the runner: an orchestration, and a git server's webhook by salt-api. The examples as they are."""

import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest
from fleet import STORE, Fleet, start_master, start_minions
from lab import Result
from sites import version

pytestmark = pytest.mark.full
EXAMPLES = Path(__file__).parents[2] / "examples"
SECRET = "a-secret-of-the-webhook"


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """A master and one host, before the first apply."""
    master, web1 = module_hosts(name="master"), module_hosts(kind="ready", name="web1")
    start_master(master)
    start_minions(master, [web1])
    fleet = Fleet(master, [web1], web1, tmp_path_factory.mktemp("repository"), hosts={"web1": ["app"]})
    fleet.configure(database={"engine": "sqlite"})
    return fleet


def orchestrate(fleet: Fleet) -> Result:
    return fleet.master.run(
        ["salt-run", "--out=json", "--log-level=error", "state.orchestrate", "examples.orchestrate"],
        check=False,
        timeout=600,
    )


def test_an_orchestration_applies_and_releases(fleet):
    done = orchestrate(fleet)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.live() == {"web1": fleet.live()["web1"]} and fleet.live()["web1"].startswith("0001-")


def test_an_orchestration_fails_with_a_deployment_and_shows_why(fleet):
    before, urls = fleet.live(), fleet.repository.read("website/urls.py")
    fleet.repository.commit({"website/urls.py": "import nothing_there\n"})
    failed = orchestrate(fleet)
    fleet.repository.commit({"website/urls.py": urls})
    assert failed.returncode != 0 and "nothing_there" in failed.stdout and fleet.live() == before


@pytest.fixture(scope="module")
def webhook(fleet) -> Fleet:
    """The fleet with salt-api, as the guide sets it up, of which the branch has another commit."""
    master = fleet.master
    master.run("apt-get -qq install python3-pip curl >/dev/null", environment={"DEBIAN_FRONTEND": "noninteractive"})
    master.run("pip --python /opt/salt/bin/python install --quiet --break-system-packages cherrypy", timeout=300)
    master.write("/etc/salt/master.d/webhook.conf", (EXAMPLES / "webhook/master.conf").read_text())
    master.write("/etc/salt/reactor/deploy.sls", (EXAMPLES / "webhook/deploy.sls").read_text())
    master.write("/etc/salt/webhook_secret", f"{SECRET}\n", mode="0600")
    master.run("systemctl stop salt-master && until ! systemctl status salt-master; do sleep 0.2; done", check=False)
    start_master(master)
    master.run(["systemd-run", "--unit=salt-api", "salt-api"])
    master.run("until salt --timeout=5 web1 test.ping | grep True; do sleep 0.5; done", timeout=240)
    master.run("until curl --silent --fail http://127.0.0.1:8000; do sleep 0.5; done", timeout=120)
    fleet.repository.commit(version("2.0"))
    return fleet


def push(fleet: Fleet, ref: str, secret: str) -> str:
    """What a git server posts; return the answer."""
    body = json.dumps({"ref": ref, "site": "shop", "revision": "v1", "after": "$(touch /tmp/injected)"})
    signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    signed = f"X-Hub-Signature-256: sha256={signature}"
    argv = ["curl", "--silent", "--fail", "--header", "Content-Type: application/json", "--header", signed]
    return fleet.master.run([*argv, "--data", body, "http://127.0.0.1:8000/hook/deploy/blog"]).stdout


def test_requests_that_are_not_of_the_git_server_deploy_nothing(webhook):
    before = webhook.master.read(f"{STORE}/blog/last")
    for ref, secret in (("refs/heads/main", "another"), ("refs/heads/main", ""), ("refs/heads/draft", SECRET)):
        assert "success" in push(webhook, ref, secret)
    time.sleep(5)
    assert webhook.master.read(f"{STORE}/blog/last") == before


def test_a_push_deploys(webhook):
    before = webhook.live()
    push(webhook, "refs/heads/main", SECRET)
    limit = time.monotonic() + 300
    while webhook.live() == before or webhook.master.run(["cat", f"{STORE}/blog/lock"]).stdout:
        assert time.monotonic() < limit, "the push was not deployed"
        time.sleep(0.5)
    assert webhook.run("status").returncode == 0
    head = webhook.repository.git("rev-parse", "main").strip()
    assert webhook.commits() == {"web1": head}


def test_pushes_during_a_deployment_wait_and_the_newest_is_deployed(webhook):
    """Each has one status in the master's store, none is refused, and the runner may be killed meanwhile.

    It is not the master's reactor that is killed: Salt keeps no event for it.
    """
    folder = f"{STORE}/blog/requests"
    known = len(webhook.master.read(f"{folder}/requests.jsonl").splitlines())
    for number in range(6):
        webhook.repository.commit(version(f"3.{number}"))
        if number:
            push(webhook, "refs/heads/main", SECRET)
        else:
            webhook.master.run(["systemd-run", "--unit=request", "salt-run", "django.request", "blog"])
            webhook.master.run(f"until test -s {STORE}/blog/lock; do sleep 0.2; done", timeout=300)
        if number == 3:
            pid = f"sed -nE 's/.*, pid ([0-9]+) of .*/\\1/p' {STORE}/blog/lock"  # of none, between two of them
            webhook.master.run(f"until kill -KILL $({pid}); do sleep 0.1; done", timeout=300)
    limit = time.monotonic() + 600
    while "json" in webhook.master.run(f"ls {folder} | grep -E '(pending|running).json'", check=False).stdout:
        assert time.monotonic() < limit, webhook.master.run(f"cat {folder}/*.json*").stdout
        time.sleep(0.5)
    ended = [json.loads(line) for line in webhook.master.read(f"{folder}/requests.jsonl").splitlines()[known:]]
    assert len({one["id"] for one in ended}) == len(ended) == 6, ended
    assert {one["status"] for one in ended} == {"superseded", "released"} and ended[-1]["status"] == "released"
    assert webhook.commits() == {"web1": webhook.repository.git("rev-parse", "main").strip()}
