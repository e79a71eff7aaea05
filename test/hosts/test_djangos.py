"""One site with each supported version of Django on Debian 13: what of the formula runs inside Django, on a host."""

from collections.abc import Iterator

import pytest
import servers
from django_formula.virtualenv.interpreter import TESTED
from sites import Site, lines, version
from test_mail import VIEWS, mails, sink
from test_maintenance import is_logged_in, login
from test_migrations import GONE, MOOD, PASSWORD, WITHOUT, add

pytestmark = pytest.mark.full

ROLE = "CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{password}'; CREATE DATABASE {name} OWNER {name};\n"
#: What `startproject` of the newest version writes about mail.
MAILERS = "\nMAILERS = {'default': {'BACKEND': 'django.core.mail.backends.console.EmailBackend'}}\n"
#: A page that only the first request of a release calls, which raises at run time.
RAISES = "\n\nhealth = None\n\n\ndef health(request):\n    return {}['ink']\n"
EMAIL = {"host": "localhost", "port": 2525, "admins": ["ops@example.org"], "from": "Our blog <blog@example.org>"}


@pytest.fixture(scope="module")
def host(module_hosts):
    host = module_hosts("trixie", kind="ready")
    names = ["d" + one.replace(".", "") for one in TESTED]
    servers.set_up(host, postgres="".join(ROLE.format(name=name, password=PASSWORD) for name in names))
    sink(host)
    return host


@pytest.fixture(scope="module", params=TESTED)
def site(request, host, repositories) -> Iterator[Site]:
    """A site of its own for each version, which is removed after it."""
    name = "d" + request.param.replace(".", "")
    database = {"engine": "postgres", "host": "127.0.0.1", "password": PASSWORD}
    repository = repositories(host, f"/srv/git/{name}.git")
    site = Site(host, repository, name=name, database=database, email=EMAIL)
    views, urls, settings = (
        repository.read(path) for path in ("guestbook/views.py", "guestbook/urls.py", "website/settings.py")
    )
    files = {
        "requirements.txt": f"Django~={request.param}.0\n",
        "guestbook/views.py": views + VIEWS,
        "guestbook/urls.py": urls.replace("urlpatterns = [", 'urlpatterns = [path("fails/<error>", views.fails),'),
        "website/settings.py": settings + MAILERS,
    }
    repository.commit(files)
    yield site
    site.deploy(state="absent")


def test_site_is_released_and_nothing_is_to_do_after_it(site, request):
    applied = site.deploy()
    wanted = request.node.callspec.params["site"]
    assert site.record()["packages"]["django"].startswith(f"{wanted}.")
    assert "Guestbook" in site.get().text and site.answering["release"] == site.live
    assert applied.warnings.get(f"{site.name} has its virtualenv", []) == []
    again = site.apply()
    assert again.ok and not again.changed, again
    row = site.host.call("django.status", site.name, full=True)[0]
    assert (row["schema"], row["interpreter"], row["unreached"], row["failed"]) == ("fits", "", "", "")
    assert site.host.call("django.check", site.name) == []


def test_static_files_are_hashed_and_served(site):
    page = site.get("/admin/login/").text
    path = next(part for part in page.split('"') if part.startswith("/static/admin/css/base."))
    assert site.get(path).status_code == 200


def test_release_loses_no_request_and_migrations_are_judged(site):
    site.repository.commit(version("2.0"))
    add(site, "0004_mood", MOOD, "0003_entry_hidden")
    plan = site.host.call("django.plan", site.name)
    assert "guestbook.0004_mood" in str(plan)
    with site.lossless():
        site.deploy()
    assert site.answering["version"] == "2.0"
    before = site.live
    add(site, "0005_gone", GONE.replace("note", "message"), "0004_mood")
    comment = site.apply().failed[f"{site.name} has its database migrated"]
    assert "guestbook.0005_gone: RemoveField guestbook.Entry.message" in comment and lines(comment) <= 10
    assert site.live == before
    site.repository.commit({"guestbook/migrations/0005_gone.py": None})
    site.deploy()


def test_former_release_runs_on_the_new_schema(site):
    new = site.live
    good = [name for name in site.releases if name < new]
    told = site.host.call("django.rollback", site.name, good[0])
    assert site.live == good[0], told
    assert site.get("/").status_code == 200
    site.manage("shell -c \"from guestbook.models import Entry; Entry.objects.create(name='old', message='x')\"")
    assert site.manage(f'shell -c "{WITHOUT}"').splitlines()[-1] == "0", "the default of the new column is kept"
    site.host.call("django.rollback", site.name, new)
    assert site.live == new


def test_error_of_a_page_is_named_and_the_former_release_goes_on(site):
    views, before = site.repository.read("guestbook/views.py"), site.live
    site.repository.commit({"guestbook/views.py": views + RAISES})
    comment = site.apply().failed[f"{site.name} has its instance"]
    assert "KeyError: 'ink'" in comment and lines(comment) <= 12 and site.answering["release"] == before
    site.repository.commit({"guestbook/views.py": views})
    site.deploy()


def test_mail_and_mails_of_errors_are_sent(site):
    before = len(mails(site.host))
    site.manage("sendtestemail ada@example.org")
    assert site.get("/fails/value").status_code == 500
    sent = mails(site.host)[before:]
    assert [mail["to"] for mail in sent] == [["<ada@example.org>"], ["<ops@example.org>"]]
    assert "From: Our blog <blog@example.org>" in sent[0]["text"] and "/fails/value" in sent[1]["text"]


def test_backup_is_restored(site):
    site.manage("shell -c \"from guestbook.models import Entry; Entry.objects.create(name='kept', message='x')\"")
    site.host.call("django.backup", site.name)
    assert site.host.call("django.restore_drill", site.name)
    site.manage('shell -c "from guestbook.models import Entry; Entry.objects.all().delete()"')
    site.host.call("django.restore", site.name)
    program = "from guestbook.models import Entry; print(Entry.objects.filter(name='kept').count())"
    assert site.manage(f'shell -c "{program}"').splitlines()[-1] == "1"


def test_session_survives_a_rotation(site):
    browser = login(site)
    site.host.call("django.rotate_secret_key", site.name)
    assert is_logged_in(browser) and site.answering["release"] == site.live
