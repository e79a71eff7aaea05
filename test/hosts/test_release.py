"""Releases of one site: under load, broken, on hold, rolled back, and through every kind of restart."""

import re

import pytest
from client import Load
from products import shortened
from sites import Site, lines, release_of, until, version

CODE_ONLY = {
    *("blog has its source", "blog has its virtualenv", "blog is built", "blog has its settings"),
    *("blog has its static files", "blog has its instance", "blog is live", "blog is recorded"),
}

MIGRATION = """
from django.db import migrations

def fail(apps, schema_editor):
    raise RuntimeError("the ledger does not balance")

class Migration(migrations.Migration):
    dependencies = [("guestbook", "0003_entry_hidden")]
    operations = [migrations.RunPython(fail)]
"""
HEALTH = """
def health(request):
    raise RuntimeError("out of ink")
"""
HANDLER = """
def handler500(request):
    raise RuntimeError("no paper either")
"""

#: A health page that fails once its release is live.
TURNS = """
def health(request):
    if os.readlink("/srv/django/blog/current").endswith(os.environ["DJANGO_RELEASE"]):
        raise RuntimeError("out of ink")
    return HttpResponse("ok")
"""

#: What is committed (a text that begins with + is appended), the state that fails, and what it says.
BROKEN = {
    "syntax error": (
        {"guestbook/views.py": "def entries(:\n"},
        "has its static files",
        r"SyntaxError.*guestbook/views\.py:1",
    ),
    "import error": (
        {"website/wsgi.py": "+\nimport lacking\n"},
        "has its static files",
        r"No module named 'lacking'.*website/wsgi\.py",
    ),
    "missing variable": (
        {"website/settings.py": '+\nimport os\nMAIL = os.environ["MAIL_HOST"]\n'},
        "has its static files",
        r"KeyError: 'MAIL_HOST'.*website/settings\.py",
    ),
    "view that raises": (
        {"guestbook/views.py": f"+{HEALTH}"},
        "has its instance",
        r"/healthz.*returned 500: RuntimeError: out of ink \(guestbook/views\.py:\d+\)",
    ),
    "view that raises, and so does the page for errors": (
        {"guestbook/views.py": f"+{HEALTH}", "website/urls.py": f"+{HANDLER}"},
        "has its instance",
        r"/healthz.*returned 500: RuntimeError: no paper either \(website/urls\.py:\d+\)",
    ),
    "migration that raises": (
        {"guestbook/migrations/0004_ledger.py": MIGRATION},
        "has its database migrated",
        r"the ledger does not balance.*0004_ledger\.py",
    ),
    "requirements that do not resolve": (
        {"requirements.txt": "Django==5.2.9\nsix==0.0.1\n"},
        "has its virtualenv",
        r"(?s)installing packages.*no version of six==0\.0\.1",
    ),
    "no requirements": ({"requirements.txt": None}, "has its virtualenv", "no requirements found in the source"),
    "unknown application": (
        {"website/settings.py": '+\nINSTALLED_APPS += ["shop"]\n'},
        "has its static files",
        r"No module named 'shop'",
    ),
    "server that dies": (
        {"website/wsgi.py": "+\nimport sys\nif 'uwsgi' in sys.modules: raise SystemExit(3)\n"},
        "has its instance",
        "does not start",
    ),
}
#: The others are among the faults of faults.yaml, in the same words.
SHORT = {"missing variable"}


@pytest.fixture
def good(blog) -> Site:
    """The site with a good release live, whatever the test before has left."""
    blog.make_good(deploy=None, releases=None)
    return blog


def load(blog: Site, **options: object) -> Load:
    return Load(f"http://{blog.host.address}/release", blog.domain, release=release_of, **options)  # type: ignore[arg-type]


@pytest.mark.smoke
def test_commit_is_activated_without_losing_a_request(good):
    old, virtualenv = good.live, good.record()["virtualenv"]
    good.repository.commit(version("2.0"))
    with load(good) as requests:
        requests.wait(200)
        applied = good.deploy()
        requests.wait(200)
    assert requests.failed == [] and requests.went_back == []
    assert requests.releases == [old, good.live]
    assert good.answering["version"] == "2.0"
    assert applied.changed.keys() == CODE_ONLY
    assert applied["blog has its virtualenv"].changes["virtualenv"] == f"{virtualenv}, shared"
    assert good.record()["virtualenv"] == virtualenv
    assert good.host.run(["ls", f"{good.root}/virtualenvs"]).stdout.split() == [virtualenv]
    assert applied["blog has its source"].changes["gapless"] == "yes"
    report = applied["blog is live"].changes["receipt"]
    assert report["sent"] >= 4 and report["failed"] == report["cut"] == 0 and report["through"] == "proxy"
    assert 0 < report["latency_before"] < 5 and 0 < report["latency_after"] < 5
    assert good.record()["receipt"] == good.last_attempt["receipt"] == report
    assert not good.apply().changed


@pytest.mark.full
@pytest.mark.smoke
def test_releases_and_rollbacks_in_a_row_lose_no_request(good):
    with load(good, connections=4, pause=0.08) as requests:
        for number in range(3):
            good.repository.commit(version(f"3.{number}"))
            good.deploy()
        good.host.call("django.rollback", "blog")
        good.host.call("django.rollback", "blog")
        requests.wait(50)
    assert requests.failed == []
    assert good.answering["version"] == "3.0"


def test_slow_requests_are_answered_by_the_release_that_they_reached(good):
    old = good.live
    good.repository.commit(version("2.1"))
    with Load(
        f"http://{good.host.address}/slow?seconds=4", good.domain, connections=2, release=release_of, requests=2
    ) as slow:
        while not good.host.run(["ss", "-xH", "state", "connected", "src", "*.sock"], check=False).stdout:
            pass
        good.deploy()
        for thread in slow.threads:
            thread.join(20)
    assert slow.failed == [] and slow.releases == [old]


def test_pages_of_the_release_before_find_their_static_files(good):
    def style() -> str:
        found = re.search(r"/static/guestbook/style\.\w+\.css", good.get().text)
        assert found
        return found.group()

    old, text = style(), good.get(style()).text
    good.repository.append("guestbook/static/guestbook/style.css", "\n/* new */\n")
    good.deploy()
    assert style() != old and "/* new */" in good.get(style()).text
    assert good.get(old).text == text


@pytest.mark.full
def test_manual_site_keeps_its_commit_until_it_is_released(good):
    good.deploy(deploy="manual")
    before = good.live
    commit = good.repository.commit(version("2.3"))
    applied = good.apply()
    assert applied.ok and not applied.changed and good.live == before
    good.host.call("django.release", "blog")
    assert good.record()["commit"] == commit and good.live != before
    assert not good.apply().changed


@pytest.mark.full
def test_what_is_older_than_keep_is_deleted(good):
    for number in range(3):
        good.repository.commit(version(f"4.{number}"))
        good.deploy(releases={"keep": 2})
    assert len(good.releases) == 2 and good.releases[-1] == good.live
    sequences = {name.split("-")[0] for name in good.releases}
    units = good.host.run("ls /etc/systemd/system | grep -o '^django-blog-[0-9]*' | sort -u").stdout.split()
    assert {unit.rsplit("-", 1)[1] for unit in units} == sequences
    assert good.units == [f"{good.unit}.service", f"{good.unit}.socket"]


@pytest.mark.parametrize("cause", shortened(BROKEN, *SHORT))
def test_a_broken_commit_leaves_the_old_release_serving(good, cause):
    changes, step, says = BROKEN[cause]
    old = good.live
    good.repository.commit(good.repository.amended(changes))
    with load(good, connections=2, pause=0.1) as requests:
        applied = good.apply()
    assert requests.failed == [] and requests.releases == [old]
    assert next(iter(applied.failed)) == f"blog {step}", applied
    comment = applied.failed[f"blog {step}"]
    assert re.search(says, comment), comment
    assert f"{old} still runs" in comment and lines(comment) <= 10 and "django_formula/" not in comment
    assert applied.returncode != 0

    releases = good.releases
    again = good.apply()
    assert next(iter(again.failed)) == "blog has its source", again
    assert "failed before" in again.failed["blog has its source"] and lines(again.failed["blog has its source"]) <= 10
    assert re.search(says, again.failed["blog has its source"])
    assert good.releases == releases and good.live == old

    good.host.run(["systemctl", "restart", f"{good.unit}.service"])
    assert good.answering["release"] == old
    assert good.units == [f"{good.unit}.service", f"{good.unit}.socket"]


def test_a_page_that_fails_once_it_is_live_brings_the_release_before_back(good):
    old = good.live
    good.repository.append("guestbook/views.py", TURNS)
    with load(good, connections=4, pause=0.08) as requests:
        applied = good.apply()
    comment = applied.failed["blog is live"]
    assert re.search(
        rf"requests for the health page /healthz failed .*returned 500.*: RuntimeError: out of ink .*; {old} is live",
        comment,
    )
    assert lines(comment) <= 10 and applied.returncode != 0
    assert requests.failed == [], "all other pages were answered"
    assert good.live == good.answering["release"] == old
    assert good.units == [f"{good.unit}.service", f"{good.unit}.socket"]
    assert good.last_attempt["result"] == "failed" and good.last_attempt["receipt"]["failed"] >= 1

    again = good.apply()
    assert "failed before" in again.failed["blog has its source"] and good.live == old
    good.repository.git("checkout", "--quiet", good.repository.first, "--", "guestbook")
    good.repository.commit(version("2.1"))
    good.deploy()
    assert good.answering["version"] == "2.1"


@pytest.mark.full
@pytest.mark.parametrize("interruption", ["reboot", "power loss"])
def test_a_broken_commit_does_not_come_up_after(good, interruption):
    good.repository.commit({"guestbook/views.py": "def entries(:\n"})
    assert not good.apply().ok
    old = good.live
    interrupt(good, interruption)
    assert good.answering["release"] == old
    assert not good.apply().ok, "the broken commit is said again"
    good.repository.commit({"guestbook/views.py": None})
    good.repository.git("checkout", "--quiet", good.repository.first, "--", "guestbook")
    good.repository.commit(version("2.4"))
    good.deploy()
    assert good.answering["version"] == "2.4"


def interrupt(blog: Site, how: str) -> None:
    if how == "reboot":
        blog.host.restart()
    else:
        blog.host.kill()
        blog.host.start()


@pytest.mark.full
def test_the_last_good_release_comes_up_after_a_reboot_without_salt(good):
    good.repository.commit(version("2.5"))
    good.deploy()
    live = good.live
    good.host.restart()
    assert good.answering["release"] == live
    assert not good.apply().changed


def test_a_killed_worker_and_a_killed_server_come_back(good):
    # Under cgroup v1 systemd may see that a killed server is gone only when its time to stop is over.
    good.repository.commit(version("2.6"))
    good.deploy(releases={"drain": "1s"})
    live = good.live
    good.host.run(["kill", "-KILL", str(good.answering["pid"])])
    assert good.answering["release"] == live
    good.host.run(["systemctl", "kill", "--signal=KILL", f"{good.unit}.service"])
    assert good.answering["release"] == live, "the socket stays open, the request waits"
    assert not good.apply().changed


@pytest.mark.full
def test_an_instance_that_was_stopped_is_started_by_an_apply(good):
    live = good.live
    good.host.run(["systemctl", "disable", "--now", f"{good.unit}.service", f"{good.unit}.socket"])
    assert good.get().status_code == 502
    applied = good.deploy()
    assert applied.changed.keys() == {"blog has its instance"} and good.live == live
    assert good.answering["release"] == live


def test_a_rollback_needs_no_network_and_holds_the_commit_back(good):
    first = good.live
    good.repository.commit(version("5.1"))
    good.deploy()
    second = good.live
    good.repository.commit(version("5.2"))
    good.deploy()
    left = good.live
    with gone(good), load(good, connections=4, pause=0.05) as requests:
        answer = good.host.call("django.rollback", "blog")
    assert requests.failed == [] and requests.releases == [left, second]
    assert answer["release"] == second and good.live == second

    applied = good.apply()
    assert applied.ok and not applied.changed
    assert f"{left} is on hold" in str(applied.warnings) and second in str(applied.warnings)
    assert good.live == second
    assert left in good.host.call("django.status", "blog")[0]["held_back"]

    with gone(good), load(good, connections=4, pause=0.05) as requests:
        answer = good.host.call("django.rollback", "blog", left)
    assert requests.failed == [] and requests.releases == [second, left], "forward again, and nothing is built"
    assert answer["release"] == left and "source" not in answer["changes"]
    assert not good.apply().changed and good.live == left
    good.host.call("django.rollback", "blog")

    assert good.host.call("django.rollback", "blog")["release"] == first, "a second rollback goes further back"
    good.host.restart()
    assert good.answering["release"] == first
    good.repository.commit(version("5.3"))
    good.deploy()
    assert good.answering["version"] == "5.3"


class gone:
    """The git server is away."""

    def __init__(self, blog: Site):
        self.blog = blog

    def __enter__(self) -> None:
        self.blog.host.run(["mv", self.blog.repository.path, "/srv/away"])

    def __exit__(self, *_error: object) -> None:
        self.blog.host.run(["mv", "/srv/away", self.blog.repository.path])


@pytest.mark.full
def test_release_on_hold_is_activated_by_django_release(good):
    good.repository.commit(version("6.0"))
    good.deploy()
    good.host.call("django.rollback", "blog")
    assert good.answering["version"] != "6.0"
    good.host.call("django.release", "blog")
    assert good.answering["version"] == "6.0"
    assert not good.apply().changed


@pytest.mark.full
def test_without_an_older_release_a_rollback_says_so(good):
    for _release in good.releases:
        answer = good.host.salt("django.rollback", "blog")
        if answer.returncode:
            break
    assert answer.returncode == 1 and "no older good release" in answer.stdout
    assert good.answering["release"] == good.live


@pytest.mark.full
def test_a_deployment_waits_for_another_and_then_says_whose(good):
    holder = ["systemd-run", "--quiet", "--collect", "--unit=holder", "--", "flock", "--exclusive", f"{good.root}/lock"]
    live = good.live
    good.host.run([*holder, "sleep", "600"])
    try:
        until(lambda: good.host.run(["flock", "--nonblock", f"{good.root}/lock", "true"], check=False).returncode)
        applied = good.apply(timeouts={"lock": "300ms"}, settings={"TIME_ZONE": "Asia/Tokyo"})
    finally:
        good.host.run(["systemctl", "stop", "holder"])
    comment = applied.failed["blog has its source"]
    assert "another deployment of blog is under way" in comment and lines(comment) <= 10
    assert good.answering["release"] == live
    good.deploy()
    good.deploy(settings=None, timeouts=None)
