"""The page of a host: what is on it, that only root writes it, and that texts of a project are no part of it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sites import Site

#: A subject and an exception that want to be elements of the page.
SUBJECT = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
RAISES = "raise RuntimeError('\"><img src=x onerror=alert(1)>')\n"


@pytest.fixture(scope="module")
def blog(module_hosts: Callable[..., Any], repositories: Callable[..., Any]) -> Site:
    host = module_hosts(kind="live")
    blog = Site(host, repositories(host))
    blog.deploy()
    return blog


def test_page_has_problems_first_and_texts_of_a_project_as_text(blog: Site) -> None:
    blog.repository.commit({}, message=SUBJECT)
    blog.deploy()
    blog.repository.commit({"guestbook/views.py": RAISES})
    assert not blog.apply().ok
    answer = blog.host.call("django.page", "/srv/status")
    assert answer == {"page": "/srv/status/index.html", "sites": 1, "problems": 1}
    page = blog.host.read("/srv/status/index.html")
    assert page.index("RuntimeError") < page.index("Last deployments") and "salt-call django.record blog 000" in page
    assert "&lt;img src=x onerror" in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"<(script|img)", page)
    assert blog.host.run(["stat", "-c", "%U %a", "/srv/status"]).stdout.strip() == "root 700"


def test_page_is_written_to_no_folder_of_others(blog: Site) -> None:
    for folder in ("/tmp/status", "/srv/django/blog/media", "status"):
        assert blog.host.salt("django.page", folder).returncode != 0
