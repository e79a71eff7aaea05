"""What two releases answer to visitors, as the reader takes it from a log that grows and that visitors write to."""

import json
import os
import random
import re

import pytest
from django_formula.proof.judge import CUT_SHORT, EXCEPTION, NO_ANSWER, REFUSED, Question
from django_formula.proof.said import Reader
from django_formula.proxy import site_files
from specimen import FACTS, configured, formula_templates

OLD, NEW = "0041-9be1c07d2a44", "0042-3f2a9c1b77de"
SAID = f"{NEW} item/<int:pk>/ 4.25 3 -"


def line(**more):
    values = {
        "time": "2026-03-01T12:00:00+00:00", "client": "192.0.2.1", "host": "blog.example.org", "method": "GET",
        "uri": "/item/7/?q=1", "protocol": "HTTP/1.1", "status": 200, "bytes": 10, "seconds": 0.9,
        "upstream_seconds": "0.012", "referrer": "", "agent": "Firefox", "user": "", "id": "0", "at": 1772366400.25,
        "said": SAID, "canary": "next",
    }  # fmt: skip
    return json.dumps({**values, **more}) + "\n"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "django-blog.log"
    path.touch()
    return path


@pytest.fixture
def read(log):
    """Write some text to the log; return the lines that the reader makes of it."""
    reader = Reader(log, {"current": OLD, "next": NEW}, ["/static/"])

    def read(*texts):
        with log.open("ab") as file:
            file.write(b"".join(text if isinstance(text, bytes) else text.encode() for text in texts))
        return list(reader.new())

    read.reader = reader
    return read


def test_line_has_what_the_release_says_and_the_time_of_the_release_alone(read):
    (answer,) = read(line())
    assert answer._replace(visitor="") == (
        1772366400.25,
        NEW,
        "",
        "item/<int:pk>/",
        0.012,
        4.25,
        3,
        "",
        200,
        False,
        False,
    )
    assert re.fullmatch("[0-9a-f]{16}", answer.visitor)


def test_first_answer_of_a_process_failed_post_and_unknown_figures(read):
    said = f"{OLD} order/ ~9.5 - KeyError@shop.views.Order.post.<locals>.each"
    (answer,) = read(line(method="POST", said=said, status=500, upstream_seconds="0.001, 0.250", canary="current"))
    assert (answer.release, answer.route, answer.is_cold, answer.status) == (OLD, "POST order/", True, 500)
    assert (answer.cpu, answer.queries, answer.exception) == (9.5, None, "KeyError@shop.views.Order.post.<locals>.each")
    assert answer.seconds == pytest.approx(0.251)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"status": 502, "said": ""}, (NEW, "-", 502, False)),
        ({"status": 504, "said": "", "canary": "current", "upstream_seconds": "60.001"}, (OLD, "-", 504, False)),
        ({"status": 499, "said": "", "upstream_seconds": "-"}, (NEW, "-", 499, False)),
        ({"status": 502, "said": "", "canary": ""}, ("", "-", 502, False)),
        ({"status": 502, "said": "", "canary": "x"}, ("", "-", 502, False)),
        (
            {"uri": "/static/a.1.js?v=1", "upstream_seconds": "", "said": "", "status": 404},
            (NEW, "/static/a.1.js", 404, True),
        ),
        (
            {"uri": "/static/a.css", "upstream_seconds": "", "said": "", "canary": "current"},
            (OLD, "/static/a.css", 200, True),
        ),
        ({"uri": "/static/<script>", "upstream_seconds": "", "said": "", "status": 404}, (NEW, "-", 404, True)),
        # a third release, as after another switch, is none of the two
        ({"said": "0043-000000000000 item/ 4.25 3 -", "canary": ""}, ("", "-", 200, False)),
    ],
)
def test_answer_of_nginx_itself_is_of_the_release_that_it_has_chosen(read, more, expected):
    (answer,) = read(line(**more))
    assert (answer.release, answer.route, answer.status, answer.is_static) == expected


def test_release_that_had_a_share_before_and_was_taken_back_is_none_of_both(read):
    """In a bake `next` is the former release, to which its failures would count."""
    said = "0040-000000000000 item/ 4.25 3 KeyError@shop.views.item"
    assert read(line(said=said, status=500)) == []
    (answer,) = read(line(said=said, canary="current"))
    assert (answer.release, answer.exception) == (OLD, "")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"status": 502, "said": ""}, [(NEW, NO_ANSWER, 502)]),
        ({"status": 502, "said": "", "canary": "current"}, [(OLD, NO_ANSWER, 502)]),
        ({"status": 502, "said": "", "canary": ""}, [("", "", 502)]),
        ({"status": 504, "said": ""}, [(NEW, "", 504)]),
        # the active release has answered in place of the new one, neither has, and the new one has become it meanwhile
        ({"said": SAID.replace(NEW, OLD), "upstream_seconds": "0.001, 0.250"}, [(NEW, NO_ANSWER, 502)]),
        ({"status": 502, "said": "", "upstream_seconds": "0.001, 0.250"}, []),
        ({"upstream_seconds": "0.000, 0.250"}, [(NEW, "", 200)]),
        # the relay of requests that wait
        ({"said": SAID.replace(NEW, OLD), "canary": "current", "upstream_seconds": "0.0, 0.2"}, [(OLD, "", 200)]),
    ],
)
def test_release_that_gives_no_answer_is_known_although_another_one_has_answered(read, more, expected):
    assert [(answer.release, answer.exception, answer.status) for answer in read(line(**more))] == expected


#: What nginx writes of an answer of which a release has sent a tenth: it has completed the request with that.
CUT = {"promised": "300000", "received": "30000", "completion": "OK", "internal": ""}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [(NEW, CUT_SHORT, 200)]),
        ({"received": "0"}, [(NEW, CUT_SHORT, 200)]),
        ({"said": SAID.replace(NEW, OLD), "canary": "current"}, [(OLD, CUT_SHORT, 200)]),
        ({"said": ""}, [(NEW, CUT_SHORT, 200)]),
        ({"said": "", "canary": ""}, [("", "", 200)]),
        ({"said": "0043-000000000000 item/ 4.25 3 -", "canary": "current"}, [(OLD, "", 200)]),
        ({"said": f"{NEW} item/ 4.25 3 KeyError@shop.item", "status": 500}, [(NEW, "KeyError@shop.item", 500)]),
        # the relay of requests that wait, then the release
        ({"upstream_seconds": "0.0, 0.2", "received": "0, 30000"}, [(NEW, CUT_SHORT, 200)]),
        ({"upstream_seconds": "0.0, 0.2", "received": "0, 300000"}, [(NEW, "", 200)]),
        # all of it; more; a visitor who has left; no promise, as of a stream; no body; a file that nginx has sent
        *(
            ({**more}, [(NEW, "", more.get("status", 200))])
            for more in (
                *({"received": "300000"}, {"received": "300001"}, {"completion": ""}, {"promised": ""}),
                *({"method": "HEAD"}, {"status": 304}, {"status": 204}, {"internal": "/protected/a.pdf"}),
                *({"received": "-"}, {"received": "0 : 30000"}, {"promised": "-1"}, {"promised": "\u0663"}),
                *({"received": 7}, {"received": None}, {"completion": 1}, {"internal": None}, {"promised": "9" * 99}),
            )
        ),
    ],
)
def test_answer_that_is_shorter_than_promised_is_cut_short_unless_its_visitor_has_left(read, more, expected):
    (answer,) = read(line(**{**CUT, **more}))
    assert [(answer.release, answer.exception, answer.status)] == expected
    assert CUT_SHORT not in {question.name for question in read.reader.requests}


def test_methods_that_a_visitor_invents_are_one_route(read):
    methods = ("GET", "HEAD", "POST", "DELETE", "A", "B", "", "\x16")
    assert [
        answer.route.removesuffix("item/<int:pk>/") for answer in read(*(line(method=name) for name in methods))
    ] == [
        *("", "", "POST ", "DELETE "),
        *["other "] * 4,
    ]


def test_release_that_has_answered_counts_more_than_the_one_that_nginx_chose(read):
    assert [answer.release for answer in read(line(canary="current"), line(canary=7))] == [NEW, NEW]


@pytest.mark.parametrize(
    "more",
    [
        *({"agent": "django-formula"}, {"agent": "django-formula replay"}),  # health checks, the probe, replay
        *({"status": 503, "upstream_seconds": ""}, {"status": 301, "upstream_seconds": "-"}),  # maintenance, redirects
        *({"uri": "/static/x", "method": "POST", "upstream_seconds": ""}, {"uri": "/media/x", "upstream_seconds": ""}),
        *({"status": "200"}, {"status": -1}, {"at": None}, {"at": "1"}, {"seconds": 1e300}, {"seconds": float("nan")}),
        *({"client": 1}, {"agent": None}, {"method": 7}, {"uri": []}, {"upstream_seconds": 1}),
    ],
)
def test_line_that_is_no_request_of_a_visitor_to_the_application_is_left_out(read, more):
    assert [answer.status for answer in read(line(**more), line(status=201))] == [201]


@pytest.mark.parametrize(
    "said",
    [
        *(
            "-",
            f"{NEW} item/ 4.25 3",
            f"{NEW} item/ 4.25 3 - -",
            f"{NEW} item/ x 3 -",
            f"{NEW} item/ 1e999 3 -",
            SAID + "\n",
        ),
        *(f"{NEW} item/ -1 3 -", f"{NEW} item/ 4.25 -3 -", f"{NEW} item/ 4.25 3 KeyError", f"{NEW}  4.25 3 -"),
        *(
            f"{NEW} it\u00e9m/ 4.25 3 -",
            f"{NEW} item/ \u0664.25 3 -",
            f"{NEW} {'a' * 201} 4.25 3 -",
            f"{NEW} \x1b[31m 4.25 3 -",
        ),
        *(f"{NEW} item/ 4.25 3 {'a' * 200}@x", 7, None, ["x"]),
    ],
)
def test_header_of_another_form_tells_nothing(read, said):
    (answer,) = read(line(said=said))
    assert answer[3:] == ("-", 0.9, None, None, "", 200, False, False) and answer.release == NEW


def test_visitors_are_numbers_by_address_and_browser_that_another_reader_has_not(read, log):
    answers = read(line(), line(), line(agent="Chrome"), line(client="192.0.2.2"), line(agent="\udcff"))
    assert len({answer.visitor for answer in answers}) == 4 and answers[0].visitor == answers[1].visitor
    (other,) = list(Reader(log, {"current": OLD, "next": NEW}, ["/static/"]).past())[:1]
    assert other.visitor != answers[0].visitor


@pytest.mark.parametrize(
    "text",
    [
        *(b"\n\n", b"not JSON\n", b"[]\n", b"7\n", b"{}\n", b"\x00" * 100 + b"\n", b"[" * 9000 + b"\n", b"\xff\xfe\n"),
        *(b'{"at": ' + b"9" * 5000 + b"}\n", line(agent="x" * (1 << 14)).encode()),
    ],
)
def test_line_that_is_none_is_left_out(read, text):
    assert [answer.status for answer in read(text, line(status=201))] == [201]


def test_agent_that_is_no_utf8_is_a_visitor(read):
    assert len(read(line().encode().replace(b"Firefox", b"\xe9\xff"))) == 1


def test_half_a_line_waits_for_its_other_half_and_rotation_loses_none(read, log):
    text = line(status=201)
    assert read(text[:100]) == []
    assert [answer.status for answer in read(text[100:])] == [201]
    with log.open("a") as file:
        file.write(line(status=202))
    log.rename(log.with_name(f"{log.name}.1"))
    assert [answer.status for answer in read(line(status=203))] == [202, 203]
    log.write_text(line(status=204))  # cut in place
    assert [answer.status for answer in read.reader.new()] == [204]


def test_past_is_the_end_of_the_log_and_the_reader_goes_on_after_it(log):
    log.write_text(line(status=201))
    reader = Reader(log, {"current": OLD, "next": NEW}, ["/static/"])
    assert [answer.status for answer in reader.past()] == [201] and list(reader.new()) == []


def test_log_that_a_user_of_the_site_has_laid_is_not_read(tmp_path, log):
    log.write_text(line())
    (tmp_path / "link").symlink_to(log)
    assert list(Reader(tmp_path / "link", {"current": OLD, "next": NEW}, []).past()) == []
    assert list(Reader(log, {"current": OLD, "next": NEW}, [], os.getuid()).past()) == []
    reader = Reader(tmp_path / "missing", {"current": OLD, "next": NEW}, [])
    assert list(reader.new()) == [] and list(reader.past()) == []


def test_lines_that_are_damaged_at_random_never_fail(read):
    chance, text = random.Random(3), line().encode()
    for _ in range(3000):
        damaged = bytearray(text)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(damaged) - 1)
            if chance.random() < 0.5:
                damaged[place] = chance.randrange(256)
            else:
                del damaged[place : place + chance.randrange(9)]
        for answer in read(bytes(damaged) + b"\n"):
            assert answer.release in (OLD, NEW, "") and re.fullmatch(
                "[!-~]{1,200}", answer.route.removeprefix("other ")
            )
            assert re.fullmatch(r"([\w.<>]+@[\w.<>]+)?", answer.exception)


@pytest.mark.parametrize("proves", [False, True])
@pytest.mark.parametrize("kind", ["uwsgi", "gunicorn"])
def test_nginx_logs_the_header_and_removes_it_where_releases_prove_themselves(read, kind, proves):
    site = configured(proxy={"access_log": "json"}, server={"kind": kind})
    site.config["releases"] = {**site.config["releases"], **({"canary": {"steps": {"10%": "5m"}}} if proves else {})}
    text = "\n".join(filter(None, site_files.files_of_site(site, FACTS, formula_templates()).values()))
    form = "".join(re.findall("'(.*)'", re.search(r"log_format [^;]+;", text)[0]))
    values = {"msec": "1772366400.250", "upstream_http_x_django_said": SAID, "django_canary_side": "next"}
    values |= {"status": "200", "request_time": "0.012", "body_bytes_sent": "1", "request_method": "GET"}
    written = re.sub(r"\$(\w+)", lambda name: values.get(name[1], "0.012"), form) + "\n"
    hidden = re.findall(r"(?m)^ +(?:uwsgi|proxy)_hide_header X-Django-Said;$", text)
    told = re.findall(r"(?m)^ +.* (?:HTTP_X_DJANGO_PROOF|X-Django-Proof) \$django_canary_way( if_not_empty)?;$", text)
    assert told == ([" if_not_empty" if kind == "uwsgi" else ""] if proves else [])
    if proves:
        (answer,) = read(written)
        assert (answer.release, answer.route, answer.cpu, len(hidden)) == (NEW, "item/<int:pk>/", 4.25, 1)
    else:
        assert json.loads(written) and not hidden and "said" not in text.lower()


def test_answer_that_was_not_measured_has_its_route_and_exception(read):
    (answer,) = read(line(said=f"{OLD} item/<int:pk>/ - - KeyError@shop.item", canary="current", status=500))
    assert (answer.release, answer.route, answer.cpu, answer.queries) == (OLD, "item/<int:pk>/", None, None)
    assert answer.exception == "KeyError@shop.item" and not answer.is_cold


@pytest.mark.parametrize(
    ("exception", "status", "question"),
    [
        ("KeyError@shop.views.item", 500, Question(EXCEPTION, NEW, "KeyError@shop.views.item")),
        ("-", 404, Question(REFUSED, NEW, "item/<int:pk>/")),
        ("-", 200, None),
    ],
)
def test_request_that_failed_is_kept_where_it_may_be_sent_again(read, exception, status, question):
    failed = {"said": f"{NEW} item/<int:pk>/ 4.25 3 {exception}", "status": status}
    read(line(**failed, method="POST", uri="/order/1/"))
    read(line(**failed, uri="/item/7/?token=abc"), line(**failed, uri="/item/7/\u00e9"))
    assert read.reader.requests == {}
    read(line(**failed, uri="/item/7/?q=1"), line(**failed, uri="/logout/"))
    assert read.reader.requests == ({question: ("blog.example.org", "/item/7/?q=1")} if question else {})


def test_static_file_is_of_the_release_that_the_bucket_gets(read):
    missing = {"uri": "/static/a.css", "status": 404, "upstream_seconds": "-", "said": "", "canary": ""}
    read.reader.keys = ["07"]
    assert [one.release for one in read(line(**missing, bucket="07"), line(**missing, bucket="08"))] == [NEW, OLD]
