"""What `django.logs` finds, and that one id leads from the proxy to the traceback of a request."""

import json
import re
import time

import pytest
from conftest import Hosts, Repositories
from sites import Site

BOOM = """

def boom(request):
    import logging

    logging.getLogger(__name__).warning("about to fail")
    raise ValueError("no ink")
"""
#: Where the tests' client is, as a proxy of the site.
TRUSTED = "10.0.0.0/8"
ID = "of-the-proxy-in-front_1"
EXCEPTION = "ValueError: no ink"


@pytest.fixture(scope="module", params=["nginx", pytest.param("apache", marks=pytest.mark.full)])
def blog(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Site:
    """A site that raises an exception at /boom."""
    host = module_hosts(kind="live" if request.param == "nginx" else "ready")
    blog = Site(host, repositories(host), proxy={"kind": request.param, "access_log": "json"})
    blog.repository.append("guestbook/views.py", BOOM)
    urls = blog.repository.read("guestbook/urls.py")
    blog.repository.commit(
        {"guestbook/urls.py": urls.replace("urlpatterns = [", 'urlpatterns = [path("boom", views.boom),')}
    )
    blog.deploy()
    return blog


def logs(blog: Site, *arguments: str, **options: object) -> list[str]:
    """Lines of the verb, without those about a time and a process."""
    return str(blog.host.call("django.logs", blog.name, *arguments, **options)).splitlines()


def test_one_id_leads_from_the_proxy_to_the_traceback(blog: Site) -> None:
    answer = blog.get("/boom", headers={"X-Request-ID": "forged-by-a-visitor"})
    found = answer.headers["X-Request-ID"]
    assert answer.status_code == 500 and len(found) >= 24 and "forged" not in found
    # Those that Apache makes within a second differ at the end only.
    lines = logs(blog, id=found if blog.options["proxy"]["kind"] == "apache" else found[:12])
    assert json.loads(lines[0])["id"] == found and json.loads(lines[0])["status"] == 500
    rest = "\n".join(lines[1:])
    assert f"about to fail [{found}]" in rest and f"Internal Server Error: /boom [{found}]" in rest
    assert EXCEPTION in rest and re.search(rf"GET /boom => .*\[{re.escape(found)}\]", rest)
    assert "forged" not in blog.host.run("journalctl; cat /var/log/nginx/* /var/log/apache2/* || true").stdout


def test_errors_and_their_tracebacks_are_found_by_level(blog: Site) -> None:
    errors = logs(blog, level="error", since="10m")
    assert any("Internal Server Error: /boom" in line for line in errors) and EXCEPTION in errors[-1]
    assert not [line for line in errors if "about to fail" in line or "spawned" in line]
    assert [line for line in logs(blog, level="warning", grep="ABOUT|about") if "about to fail" in line]
    assert logs(blog, grep="no such text") == []


def test_follow_without_a_terminal_names_the_command_that_has_one(blog: Site) -> None:
    answer = logs(blog, "5", follow=True)
    host = blog.host.minion if blog.host.minion != "local" else blog.host.name
    assert answer == [f"following needs a terminal: ssh -t {host} 'salt-call --local django.logs blog 5 follow=True'"]
    follow = (
        "timeout 300 script -qec 'salt-call --local django.logs blog 1 follow=True' /tmp/followed >/dev/null </dev/null"
    )
    blog.host.run(f"({follow}) & sleep 1; true")
    for _ in range(150):
        blog.get("/boom")
        if EXCEPTION in blog.host.run("cat /tmp/followed", check=False).stdout:
            return
        time.sleep(1)
    raise AssertionError(blog.host.read("/tmp/followed"))


def test_second_apply_changes_nothing_and_ids_of_a_trusted_proxy_are_kept(blog: Site) -> None:
    applied = blog.deploy()
    assert not applied.changed
    live = blog.live
    blog.deploy(proxy={**blog.options["proxy"], "trusted": [TRUSTED]})
    assert blog.live == live
    for given, is_kept in ((ID, True), ("a b", False), ("x" * 200, False)):
        found = blog.get("/boom", headers={"X-Request-ID": given}).headers["X-Request-ID"]
        assert (found == given) is is_kept
    assert EXCEPTION in "\n".join(logs(blog, id=ID))
