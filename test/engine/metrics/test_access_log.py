"""Requests counted from an access log that grows, is rotated and is written to by visitors."""

import json

import pytest
from django_formula.metrics import access_log
from django_formula.proxy import access_log as proxy_access_log

LINE = (
    '{{"time":"2026-03-01T12:00:00+00:00","client":"192.0.2.1","host":"blog.example.org","method":"GET","uri":"{uri}",'
    '"protocol":"HTTP/1.1","status":{status},"bytes":{size},"seconds":{seconds},"upstream_seconds":"0.004",'
    '"referrer":"","agent":"curl","user":""}}\n'
)


def line(status=200, size=100, seconds="0.004", uri="/"):
    return LINE.format(status=status, size=size, seconds=seconds, uri=uri)


def test_lines_are_counted_by_status_and_duration():
    text = line() + line(302) + line(500, seconds="2.0") + line(200, 50, "12.5")
    counted = access_log.count(text.encode())
    assert counted.codes == {"2xx": 2, "3xx": 1, "5xx": 1} and counted.bytes == 350
    assert counted.seconds == pytest.approx(14.508)
    assert counted.buckets == [2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1]


def test_duration_of_apache_is_in_microseconds():
    assert access_log.count(line(seconds="4021e-6").encode()).seconds == pytest.approx(0.004021)


#: What visitors may send as a path; nginx and Apache escape it as JSON.
HOSTILE = [
    '","protocol":"x","status":500,"bytes":1,"seconds":9',
    'x\n{"protocol":"x","status":500,"bytes":1,"seconds":9}',
    "\\",
    "\u202e",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_visitor_cannot_forge_a_request(path):
    assert access_log.count(line(uri=json.dumps(path)[1:-1]).encode()).codes == {"2xx": 1}


@pytest.mark.parametrize(
    "text", ["", "\n\n", "not JSON\n", line(seconds="1e"), line().replace('"status":200', '"status":x')]
)
def test_what_is_no_line_is_left_out(text):
    assert access_log.count(text.encode()).codes == {}


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "django-blog.log"
    path.write_text(line() * 3)
    return path


def codes(path, place):
    return access_log.count(proxy_access_log.grown(path, place)).codes


def test_first_look_counts_no_history_and_later_ones_what_is_new(log):
    place = {}
    assert codes(log, place) == {} and codes(log, place) == {}
    with log.open("a") as file:
        file.write(line(404) + line(200)[:40])
    assert codes(log, place) == {"4xx": 1}
    with log.open("a") as file:
        file.write(line(200)[40:])
    assert codes(log, place) == {"2xx": 1} and codes(log, json.loads(json.dumps(place))) == {}


def test_rotated_log_is_read_to_its_end(log):
    place = {}
    codes(log, place)
    with log.open("a") as file:
        file.write(line(404))
    log.rename(log.with_name(f"{log.name}.1"))
    log.write_text(line(500))
    assert codes(log, place) == {"4xx": 1, "5xx": 1}


@pytest.mark.parametrize("grown", [1, 9])
def test_log_that_is_cut_is_read_anew(log, grown):
    place = {}
    codes(log, place)
    log.write_text(line(500, size=7) * grown)
    assert codes(log, place) == {"5xx": grown}


def test_log_that_is_none_is_not_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(line())
    link = tmp_path / "django-blog.log"
    link.symlink_to(secret)
    assert proxy_access_log.grown(link, {}) == b"" and proxy_access_log.grown(tmp_path / "missing.log", {}) == b""
    assert proxy_access_log.grown(tmp_path, {}) == b""


def test_line_longer_than_what_is_read_is_passed(log, monkeypatch):
    place = {}
    codes(log, place)
    monkeypatch.setattr(proxy_access_log, "_MOST_OF_LOOK", 1000)
    with log.open("a") as file:
        file.write(f"{'x' * 2500}\n{line(404)}")
    assert {"4xx": 1} in [codes(log, place) for _look in range(4)]


def test_looks_add_up():
    total = {}
    for text in (line(), line(500), line(200)):
        total = json.loads(json.dumps(access_log.add(total, access_log.count(text.encode()))))
    assert total["codes"] == {"2xx": 2, "5xx": 1} and sum(total["buckets"]) == 3


def test_last_hour_is_the_difference_of_two_counts():
    kept, total, found = [], {}, []
    for minute in range(0, 151):
        slow = {"seconds": "0.3"} if minute > 100 else {}
        total = access_log.add(total, access_log.count((line() * 9 + line(status=500, **slow)).encode()))
        found.append(access_log.of_hour(kept, total, 60.0 * minute))
    assert found[0] == {"requests": 10, "errors": 1, "p95": pytest.approx(found[0]["p95"])}
    assert found[30]["requests"] == 310
    assert 600 <= found[90]["requests"] <= 650 and 60 <= found[90]["errors"] <= 65
    assert found[90]["p95"] < 0.1 < found[150]["p95"] < 0.5
    assert len(kept) <= 14


@pytest.mark.parametrize("back", [60, 7200, 86400])
def test_clock_that_is_set_back_does_not_count_all_requests_once_more(back):
    kept, total, found = [], {}, []
    for minute in range(0, 181):
        now = 1e6 + 60.0 * minute - (back if minute > 150 else 0)
        total = access_log.add(total, access_log.count((line() * 9 + line(status=500)).encode()))
        found.append(access_log.of_hour(kept, total, now))
    assert all(one["requests"] <= 1000 and one["errors"] <= 100 for one in found[150:])
    assert found[180]["requests"] >= 300


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0] * 12, None),
        ([100, *[0] * 11], 0.00475),
        ([0, 100, *[0] * 10], 0.00975),
        ([90, 0, 10, *[0] * 9], 0.0175),
        ([*[0] * 11, 7], 10.0),
    ],
)
def test_share_is_answered_within_a_time(counts, expected):
    total = {"codes": {"2xx": sum(counts)}, "buckets": counts}
    assert access_log.of_hour([], total, 0.0)["p95"] == (expected if expected is None else pytest.approx(expected))
