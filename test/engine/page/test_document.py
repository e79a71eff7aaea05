"""The page, made of data: what it shows, that it is valid and small, and that texts of others are text."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import seen_hosts as sample
from django_formula.page import document, style

GOLDEN = Path(__file__).with_name("page.html")
VOID = {"meta", "link"}
#: Texts of a repository, an exception, a person or a name that want to be markup.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</code></p></li></ul><iframe src=//example.org>",
    "&lt;b&gt; &#60;b&#62; <!-- ",
    "]]><svg/onload=alert(1)>",
    "\u202e\x1b[31mreversed\x00\n<a href=javascript:alert(1)>",
]


class Reader(HTMLParser):
    """The elements of a page, each with its attributes; what is not closed in its order is an error."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def names(self):
        return [name for name, _attributes in self.elements]


def read(hosts):
    return Reader(document.of_hosts(hosts, sample.NOW))


def test_page_is_the_one_that_was_reviewed():
    text = document.of_hosts(sample.whole(), sample.NOW).replace("><", ">\n<")
    if os.environ.get("UPDATE"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_problems_come_first_with_their_commands():
    text = read(sample.whole()).text
    assert text.index("Problems") < text.index("salt-call state.apply django") < text.index("Last deployments")
    assert text.index("intra on web1") < text.index("shop on web1")
    assert "salt-call django.record shop 0009-b131096afa4a" in text and "no licence key (website/wsgi.py:8)" in text


def test_silent_host_is_shown_with_since_when_and_its_sites_are_not_known():
    page = read(sample.whole())
    assert "web2 is silent: it does not answer" in page.text and "silent, last seen 90 min ago" in page.text
    assert "salt web2 test.ping" in page.text and "1 not known" in page.text


def test_same_problem_of_many_sites_is_one_card():
    problems = [sample.problem(f"site{number}", text="no release is active") for number in range(12)]
    page = read([sample.host(problems=problems, sites=[sample.site(f"site{number}") for number in range(12)])])
    assert page.text.count("no release is active") == 1 and "12 sites are down" in page.text


def test_fifty_sites_with_twenty_deployments_are_small():
    text = document.of_hosts(sample.many(), sample.NOW)
    assert len(text.encode()) < 100_000
    assert Reader(text).names().count("svg") == 50


def test_later_one_of_two_deployments_of_a_second_comes_first():
    one = sample.site("shop")["deployments"][-1] | {"time": "2026-03-01T12:00:00Z"}
    own = [one | {"release": "0008-old"}, one | {"release": "0009-new"}]
    text = read([sample.host(sites=[sample.site("shop") | {"deployments": own}])]).text.partition("Last deployments")[2]
    assert text.index("0009") < text.index("0008")


def test_page_requests_nothing_and_has_no_script():
    page = read(sample.whole())
    assert not {"script", "img", "iframe", "object", "form", "base", "audio", "video"} & {*page.names()}
    links = [(name, attributes) for name, attributes in page.elements if {"href", "src"} & {*attributes}]
    assert all(re.match(r"https?://[a-z]+\.example\.org/$", own["href"]) for name, own in links if name == "a")
    assert [own["href"][:19] for name, own in links if name == "link"] == ["data:image/svg+xml,"]
    assert "url(" not in style.sheet() and "@import" not in style.sheet()
    policy = next(own["content"] for name, own in page.elements if own.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_others_makes_an_element_or_an_attribute(text):
    def hostile(value):
        if isinstance(value, dict):
            kept = ("version", "kind", "since", "time", "result", "backup", "https", "schedule")
            return {key: one if key in kept else hostile(one) for key, one in value.items()}
        if isinstance(value, list):
            return [hostile(one) for one in value]
        return text if isinstance(value, str) and value else value

    hosts = sample.whole()
    good, bad = read(hosts), read(hostile(hosts))
    shape = {(name, *sorted(attributes)) for name, attributes in good.elements}
    assert {(name, *sorted(attributes)) for name, attributes in bad.elements} <= shape
    assert not [own for name, own in bad.elements if name == "a"]  # no such host name is a link
    assert not {"script", "img", "iframe", "b[", "svg/onload"} & {*bad.names()}


def test_share_of_a_canary_is_shown_and_a_host_of_before_has_none():
    hosts = sample.whole()
    assert "gets 10 % of the visitors" not in document.of_hosts(hosts, sample.NOW)
    hosts[0]["sites"][0] = {**hosts[0]["sites"][0], "canary": "0042-3f2a9c1b77de gets 10 % of the visitors"}
    assert "<small>0042-3f2a9c1b77de gets 10 % of the visitors</small>" in document.of_hosts(hosts, sample.NOW)


def test_certificate_and_backup_are_coloured_when_they_need_a_look():
    text = document.of_hosts(sample.whole(), sample.NOW)
    assert 'data-l="Certificate" class="w">3 days' in text
    assert 'data-l="Backup" class="w">none yet' in text


def test_plot_says_in_words_what_it_shows():
    done = [sample.deployment(9), sample.deployment(8, "failed"), sample.deployment(7, "refused")]
    assert 'aria-label="1 released, 1 failed, 1 refused or unchanged; median 9.4 s"' in document.plot(done)


def test_style_has_no_character_with_a_meaning_in_html():
    assert not set("<>&\"'\n") & {*style.sheet()}


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_contrast_is_enough_for_each_text_and_each_part_of_a_plot(scheme):
    pairs = [(text, ground, 4.5) for text, grounds in style.TEXTS.items() for ground in grounds]
    pairs += [(part, ground, 3) for part, grounds in style.PARTS.items() for ground in grounds]
    low = [(one, other) for one, other, least in pairs if contrast(scheme[one], scheme[other]) < least]
    assert low == []


def test_every_colour_of_a_text_is_checked():
    used = {*re.findall(r"(?<![\w-])color:var\(--(\w+)\)", style.sheet())}
    assert used <= {*style.TEXTS}
    assert {*re.findall(r"fill:var\(--(\w+)\)", style.sheet())} <= {*style.PARTS}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"requests": 0, "waiting": 0}, "12 ms"),
        (
            {"requests": 9, "errors": 1, "p95": 0.042, "waiting": 1},
            "12 ms9 in an hour, 1 error, 95 % in 42 ms1 task waits",
        ),
        ({"requests": 9, "errors": 0, "p95": 1.26, "waiting": None}, "12 ms9 in an hour, 95 % in 1.3 s"),
        ({"requests": None, "errors": None, "p95": None, "waiting": 30, "ms": None}, "\N{EN DASH}30 tasks wait"),
    ],
)
def test_answer_comes_with_the_last_hour(seen, expected):
    (host, *_others) = sample.whole()
    host = {**host, "problems": [], "sites": [{**sample.site("blog"), **seen}]}
    assert f"blog.example.org{expected}7 3f2a9c1b" in read([host]).text
