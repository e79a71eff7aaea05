"""A master and a minion: the formula and the pillar are on one host, the sites on another; at last it is silent."""

import json
import time
from typing import Any

import pytest
import yaml
from driven import Driven
from fleet import await_minions
from lab import Host
from sites import Site, until, version

CANARY = "canary-8d1f0c"
MASTER = {
    "auto_accept": True,
    "file_roots": {"base": ["/srv/formula"]},
    "pillar_roots": {"base": ["/srv/pillar"]},
    "runner_dirs": ["/srv/formula/_runners"],
}

#: Writes what minions get of the master's files anew.
PACK = ["python3", "/srv/formula/engine/pack.py"]
#: Appended to a module of each kind on the master; the minion shows which code it runs.
CHANGED = {
    "engine/django_formula/verbs/status.py": """
CODE = "new"
_status = status

def status(site, **options):
    return _status(site, **options) | {"code": CODE}
""",
    "_states/django.py": """
from django_formula.verbs.status import CODE
_as_before = _as_state

def _as_state(name, outcome):
    ret = _as_before(name, outcome)
    return ret | {"comment": f"{ret['comment']} ({CODE} code)"}
""",
}


#: Where the events of deployments are written, each a line.
EVENTS = "/var/log/events"
#: Where the master notes the requests of its minion, and what it is started by.
REQUESTS = "/var/log/requests"
COUNTING = ("/opt/salt/bin/python", "/srv/formula/bench/counting_master.py")


@pytest.fixture(scope="module")
def master(module_hosts) -> Host:
    master = module_hosts(name="master")
    master.write("/etc/salt/master", json.dumps(MASTER))
    master.run(["systemd-run", "--unit=salt-master", f"--setenv=REQUESTS={REQUESTS}", *COUNTING])
    return master


@pytest.fixture(scope="module")
def blog(master, module_hosts, repositories) -> Site:
    """A site of a minion, after the first dry run and the first apply that the minion ever saw."""
    minion = module_hosts("trixie", name="web1")
    minion.run(["rm", "-r", "/srv/formula", "/srv/pillar"])
    minion.write("/etc/salt/minion", json.dumps({"id": "web1", "master": "master"}))
    minion.run(["systemd-run", "--unit=salt-minion", "salt-minion"])
    web1 = Driven(minion, by=master, command=("salt", "--timeout=600"))
    key, token = f"{CANARY}-secret-key-of-the-pillar", f"{CANARY}-token"
    blog = Site(web1, repositories(minion), secret_key=key, secrets={"API_TOKEN": token})
    blog.configure(packages=["libmagic1"])  # which libmagic1t64 provides on Debian 13
    await_minions(master, [minion])
    listen = f"exec salt-run state.event tagmatch='django/*' count=-1 >{EVENTS}"
    master.run(["systemd-run", "--unit=events", "--setenv=PYTHONUNBUFFERED=1", "sh", "-c", listen])
    master.run("until pgrep -f state.event; do sleep 0.2; done; sleep 5", timeout=60)
    master.run(["truncate", "--size=0", REQUESTS])
    blog.foreseen = blog.apply(test=True)
    blog.asked = master.read(REQUESTS).splitlines()
    blog.before = minion.run("ls /srv /usr/bin/git /usr/sbin/nginx", check=False).stdout.split()
    blog.first = blog.deploy()
    return blog


def test_a_bare_minion_is_dry_run_without_a_sync(blog):
    assert not blog.foreseen.failed and not blog.foreseen.errors, blog.foreseen
    would = blog.foreseen["blog has its source"]
    assert would.result is None and "main" in str(would.changes)
    assert blog.before == ["/srv:", "git"]


def test_a_first_apply_asks_the_master_for_few_files(blog):
    assert len(blog.asked) <= 150, blog.asked


@pytest.mark.smoke
def test_a_minion_serves_what_its_master_says(blog):
    assert "Guestbook" in blog.get().text
    assert blog.answering["release"] == blog.live


def events(master: Host, *tags: str) -> list[dict]:
    """The last event of each of these tags, once they have arrived, as the minion has sent it."""
    limit = time.monotonic() + 300
    while True:
        lines = [line.partition("\t") for line in master.read(EVENTS).splitlines()]
        found = {tag: json.loads(text) for tag, _tab, text in lines if text}
        if found.keys() >= {*tags}:
            assert {found[tag]["id"] for tag in tags} == {"web1"}
            return [found[tag]["data"] for tag in tags]
        assert time.monotonic() < limit, (tags, lines)
        time.sleep(0.5)


def test_master_gets_events_of_the_deployments_of_its_minion(blog, master):
    begin, end = events(master, "django/blog/apply/begin", "django/blog/apply/end")
    commit = blog.record()["commit"]
    assert {(one["user"], one["revision"], one["commit"]) for one in (begin, end)} == {("root", "main", commit)}
    assert (end["result"], end["release"], end["error"]) == ("released", blog.live, "")
    assert blog.host.salt("django.release", "blog", "lacking").returncode != 0
    [failed] = events(master, "django/blog/release/end")
    assert (failed["result"], failed["revision"]) == ("failed", "lacking") and "lacking" in failed["error"]
    assert CANARY not in master.read(EVENTS)


@pytest.mark.full
def test_a_second_apply_changes_nothing(blog):
    again = blog.apply()
    assert again.ok and not again.changed, again


def test_an_apply_with_nothing_to_do_asks_the_master_for_four_files(blog, master):
    master.run(["truncate", "--size=0", REQUESTS])
    assert not blog.apply().changed
    requests = master.read(REQUESTS).splitlines()
    files = {line.partition(" ")[2] for line in requests if line.startswith("_file_hash")}
    assert files == {"django.sls", "django/init.sls", "_utils/django_fileserver.py", "django/digests"}, requests
    assert len(requests) <= 8, requests


@pytest.mark.full
def test_a_sync_and_a_highstate_ask_the_master_for_few_files(blog, master):
    for function, most in (("saltutil.sync_all", 30), ("state.highstate", 40)):
        master.run(["truncate", "--size=0", REQUESTS])
        assert blog.host.salt(function).returncode == 0
        requests = master.read(REQUESTS).splitlines()
        assert len(requests) <= most, " | ".join([function, *requests])
        master.write("/srv/formula/top.sls", "base: {web1: [django]}")
    master.run(["rm", "/srv/formula/top.sls"])


@pytest.mark.full
@pytest.mark.smoke
def test_verbs_go_through_the_master(blog):
    first = blog.live
    blog.repository.commit(version("2.0"))
    assert blog.host.call("django.release", "blog")["release"] == blog.live != first
    assert blog.answering["version"] == "2.0"
    assert blog.host.call("django.rollback", "blog")["release"] == blog.live == first
    assert blog.host.call("django.status", "blog", full=True)[0]["managed"] is True, (
        "the pillar is newer than the minion's start"
    )
    assert "0001_initial" in blog.manage("showmigrations guestbook")
    held = blog.apply()
    assert held.ok and not held.changed and blog.live == first


def test_master_prints_a_view_for_people_and_a_pillar_to_paste(blog):
    lines = blog.host.printed("django.status").splitlines()
    assert lines[0] == "web1:" and lines[3].split()[:3] == ["-", "blog", blog.live], lines
    assert len(lines) < 10 and max(map(len, lines)) <= 100
    printed = blog.host.printed("django.inspect", f"{blog.root}/current/source")
    pillar = yaml.safe_load(printed)["web1"]
    assert pillar["django"]["sites"] and "not completely inspected" not in printed, printed
    assert yaml.safe_load(printed.partition("\n")[2]) == pillar


@pytest.mark.full
@pytest.mark.parametrize(
    "verb",
    [
        ("manage", "blog", "lacking"),
        ("release", "blog", "lacking"),
        ("status", "shop"),
        ("rollback", "blog"),
    ],
)
def test_a_verb_that_fails_is_no_success_of_salt(blog, verb):
    function, *arguments = verb
    done = blog.host.salt(f"django.{function}", *arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr


def test_a_failing_apply_is_no_success_of_salt(blog):
    applied = blog.apply(revision="lacking")
    assert applied.returncode != 0 and list(applied.failed)[:1] == ["blog has its source"]
    assert blog.apply(domain="a.org").returncode != 0
    blog.configure(revision="main", domain=None)


@pytest.mark.full
@pytest.mark.parametrize("ends", ["kill --signal=KILL", "restart"])
def test_a_minion_that_ends_within_a_deployment(blog, master, ends):
    old, minion = blog.live, blog.host
    commit = blog.repository.commit(version(ends))
    blog.configure(build=["sleep 20"])
    master.run(["salt", "--async", "web1", "state.apply", "django"])
    minion.run("until pgrep --uid blog-build --exact sleep; do sleep 0.1; done", timeout=300)
    minion.run(f"systemctl {ends} salt-minion")
    if "kill" in ends:
        minion.run("until systemctl reset-failed salt-minion; do sleep 0.1; done", timeout=60)
        minion.run(["systemd-run", "--unit=salt-minion", "salt-minion"])
    until(lambda: not minion.run(["pgrep", "--uid", "blog-build"], check=False).stdout)
    assert blog.live == old and blog.answering["release"] == old
    master.run("until salt --timeout=5 web1 test.ping | grep True; do sleep 0.5; done", timeout=180)
    blog.deploy(build=None)
    assert blog.record()["commit"] == commit and blog.answering["release"] == blog.live
    assert not blog.apply().changed


@pytest.fixture(scope="module")
def changed_code(blog, master) -> None:
    """The master's code is another one than what the minion has run."""
    for name, lines in CHANGED.items():
        path = f"/srv/formula/{name}"
        master.write(path, master.read(path) + lines)
    master.run(PACK)


def test_changed_code_reaches_a_running_minion_by_the_next_apply(blog, changed_code):
    applied = blog.deploy()
    assert "(new code)" in applied["blog is live"].comment
    assert blog.host.call("django.status", "blog", full=True)[0]["code"] == "new"
    assert not blog.apply().changed


@pytest.mark.full
def test_changed_code_reaches_a_minion_that_runs_all_jobs_in_one_process(blog, changed_code, master):
    minion = blog.host
    minion.write("/etc/salt/minion", json.dumps({"id": "web1", "master": "master", "multiprocessing": False}))
    minion.run(["systemctl", "restart", "salt-minion"])
    master.run("until salt --timeout=5 web1 test.ping | grep True; do sleep 0.5; done", timeout=180)
    assert not blog.apply().changed
    path = "/srv/formula/engine/django_formula/verbs/status.py"
    for number in ("one", "two"):
        master.write(path, master.read(path) + f'\nCODE = "{number}"\n')
        master.run(PACK)
        assert f"({number} code)" in blog.deploy()["blog is live"].comment
        assert minion.call("django.status", "blog", full=True)[0]["code"] == number
    master.write(path, master.read(path) + '\nCODE = "three"\n')
    master.run(PACK)
    assert minion.salt("saltutil.sync_all").returncode == 0
    assert minion.call("django.status", "blog", full=True)[0]["code"] == "three"
    assert len(minion.run(["ls", "/var/cache/salt/minion/django-formula"]).stdout.split()) <= 4
    assert not blog.apply().changed


@pytest.mark.full
def test_a_changed_template_without_a_digest_is_found_within_a_day_and_followed_from_then_on(blog, master):
    path = "/srv/formula/django/files/maintenance.html"
    text, templates = master.read(path), "blog has its directories"
    master.write(path, text + "<!-- ours -->\n")
    assert not blog.apply().changed
    blog.host.run("find /var/cache/salt/minion/files -type f -exec touch --date='25 hours ago' {} +")
    assert templates in blog.deploy().changed
    master.write(path, text + "<!-- ours, again -->\n")
    assert templates in blog.deploy().changed
    master.write(path, text)
    assert templates in blog.deploy().changed
    assert not blog.apply().changed


@pytest.mark.full
def test_a_changed_template_without_a_digest_is_found_at_once_after_the_cache_is_cleared(blog, master):
    path = "/srv/formula/django/files/maintenance.html"
    master.write(path, master.read(path) + "<!-- ours -->\n")
    assert blog.host.call("saltutil.clear_cache") is True
    assert "blog has its directories" in blog.deploy().changed
    master.run(PACK)
    assert not blog.apply().changed


def test_secrets_stay_out_of_caches_of_jobs_logs_and_answers(blog, master):
    applied = blog.deploy(secret_key=f"{CANARY}-second-secret-key-of-the-pillar")
    assert blog.host.read(f"{blog.root}/secrets/API_TOKEN") == f"{CANARY}-token"
    answers = [text for each in (blog.foreseen, blog.first, applied) for text in (each.stdout, each.stderr)]
    assert CANARY not in "".join(answers)
    jobs = "/var/cache/salt/master/jobs"
    assert holding("blog is live", master, jobs)
    assert holding(CANARY, master, jobs, "/var/log") == []
    assert blog.host.run(["test", "-s", "/var/log/salt/minion"])
    assert holding(CANARY, blog.host, "/var/log", "/etc", f"{blog.root}/releases") == []


def test_page_of_a_master_shows_a_silent_minion_with_since_when(blog, master):
    assert dashboard(master) == {"page": "/srv/status/index.html", "hosts": ["web1"], "silent": {}}
    assert "1</b> good" in master.read("/srv/status/index.html")
    blog.host.run(["systemctl", "stop", "salt-minion"])
    assert dashboard(master)["silent"] == {"web1": "it does not answer"}
    page = master.read("/srv/status/index.html")
    assert (
        "web1 is silent: it does not answer" in page and "salt web1 test.ping" in page and "silent, last seen" in page
    )


def dashboard(master: Host) -> dict[str, Any]:
    argv = ["salt-run", "--out=json", "--log-level=warning", "django.dashboard", "/srv/status"]
    return dict(json.loads(master.run(argv, timeout=300).stdout))


def holding(text: str, host: Host, *folders: str) -> list[str]:
    """The files below these folders that hold a text."""
    return host.run(["grep", "-rlaF", text, *folders], check=False).stdout.split()
