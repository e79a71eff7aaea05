"""The page in a real browser: Chromium of Debian's packages, with axe-core, at the widths of a screen and a phone."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import seen_hosts
from django_formula.page import document
from lab import Host
from test_page import RAISES, SUBJECT

pytestmark = pytest.mark.full
AXE = "axe-playwright-python==0.1.8"  # a wheel with axe-core and without dependencies that are needed here


@pytest.fixture(scope="module")
def browser(module_hosts: Callable[..., Any]) -> Host:
    host: Host = module_hosts(kind="live")
    host.run("apt-get update -q && apt-get install -qy --no-install-recommends chromium python3-pip", timeout=900)
    host.run(
        f"pip download -q --no-deps --dest=/srv/axe {AXE} && cd /srv/axe && python3 -m zipfile -e *.whl .", timeout=300
    )
    return host


def looks(host: Host, page: str) -> list[dict[str, Any]]:
    host.write("/srv/page.html", page)
    axe = "/srv/axe/axe_playwright_python/axe.min.js"
    argv = ["python3", "/srv/formula/test/hosts/chromium.py", "/srv/page.html", axe]
    return list(json.loads(host.run(argv, timeout=300).stdout))


def hostile() -> list[dict[str, Any]]:
    text = f"{SUBJECT} {RAISES}"
    site = seen_hosts.site(subject=text, author=text, deployments=[seen_hosts.deployment(60, error=text, by=text)])
    return [seen_hosts.host(sites=[site], problems=[seen_hosts.problem(text=text, detail=text)])]


@pytest.mark.parametrize(
    "hosts", [seen_hosts.whole(), seen_hosts.many(), hostile(), []], ids=["whole", "50", "hostile", "none"]
)
def test_page_fits_each_width_and_axe_finds_nothing(browser: Host, hosts: list[dict[str, Any]]) -> None:
    found = looks(browser, document.of_hosts(hosts, seen_hosts.NOW))
    assert [(one["width"], one["scheme"]) for one in found] == [
        (1280, "light"),
        (1280, "dark"),
        (390, "light"),
        (390, "dark"),
    ]
    for look in found:
        assert look["scroll"] == look["client"] == look["width"] and look["requested"] == []
        assert look["elements"] == 0 and look["violations"] == []
    assert found[0]["ground"] != found[1]["ground"]


def test_what_is_wrong_is_found(browser: Host) -> None:
    page = document.of_hosts(seen_hosts.whole(), seen_hosts.NOW)
    wrong = page.replace("<main>", f'<main><img src="http://127.0.0.1:9/x.png"><pre>{"x" * 200}</pre>').replace(
        ' lang="en"', ""
    )
    look = looks(browser, wrong)[2]
    assert look["elements"] == 1 and look["scroll"] > look["client"] and look["requested"]
    assert {"image-alt", "html-has-lang"} <= {one["id"] for one in look["violations"]}
