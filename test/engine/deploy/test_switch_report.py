import http.server
import math
import threading
import time
from types import SimpleNamespace

import pytest
from django_formula.deploy import switch_report
from django_formula.deploy.switch_report import Probe, Sample
from django_formula.release import health
from django_formula.release import http as release_http


def probe_of(site, before, after):
    """A probe that has ended: what was wrong with each request before and after the switch, 100 ms apart."""
    probe = Probe(site, through_proxy=True)
    for place, problem in enumerate([*before, *after]):
        probe.samples.append(Sample(100 + place / 10, 100.02 + place / 10, problem))
    probe.leaves = probe.switched = 100 + len(before) / 10 - 0.01
    return probe


@pytest.mark.parametrize(
    ("before", "after", "failures", "steady", "worse"),
    [
        ("..", "...", 0, True, False),
        ("..", "..", 0, False, False),
        ("", "...", 0, True, False),
        ("..", "x..", 1, False, True),
        ("..", "x...", 1, True, True),
        ("..", "xxx", 3, False, True),
        ("", "xxx", 3, False, True),
        ("xx", "xxx", 3, False, False),
        ("x.", "..x.", 1, False, False),
        ("x...", "xxx", 3, False, True),
    ],
)
def test_how_a_release_does_after_the_switch(make_site, before, after, failures, steady, worse):
    problems = [["returned 500" if one == "x" else "" for one in part] for part in (before, after)]
    probe = probe_of(make_site(), *problems)
    assert (probe.failures(), probe.is_steady(), probe.is_worse()) == (failures, steady, worse)
    assert probe.last_problem() == ("returned 500" if failures else "")


def test_what_meets_the_switch_on_its_way_belongs_to_no_release(make_site):
    probe = probe_of(make_site(), [""], [""])
    probe.leaves, probe.switched = 100.1, 100.15
    probe.samples += [Sample(100.08, 100.2, "no answer"), Sample(100.12, 100.2, "no answer")]
    assert (len(probe._before()), len(probe._after()), probe.report(0)["failed"]) == (1, 0, 2)


def test_a_switch_waits_for_the_first_response_of_the_release_before(make_site, monkeypatch):
    probe = Probe(make_site(), through_proxy=False)
    monkeypatch.setattr(probe, "problem", lambda: time.sleep(0.3) or "")
    probe.start().wait_for_first()
    with probe.switching():
        pass
    probe.end()
    assert probe.report(0)["latency_before"] >= 0.3


def test_a_switch_does_not_wait_for_a_release_that_hangs(make_site, monkeypatch):
    monkeypatch.setattr(switch_report, "FIRST", 0.1)
    probe, ends = Probe(make_site(), through_proxy=False), threading.Event()
    monkeypatch.setattr(probe, "problem", lambda: ends.wait(30) or "")
    began = time.monotonic()
    probe.start().wait_for_first()
    probe.end()
    assert time.monotonic() - began < 20
    ends.set()


def test_report_has_counts_gap_and_latencies(make_site):
    probe = probe_of(make_site(), ["", ""], ["no answer", "", ""])
    probe.samples[-1] = Sample(100.4, 100.45, "")
    assert probe.report(7) == {
        "rate": 20,
        "through": "proxy",
        "seconds": 0.45,
        "sent": 5,
        "failed": 1,
        "longest_gap": 0.15,
        "latency_before": 0.02,
        "latency_after": 0.035,
        "cut": 7,
    }


def test_report_without_requests_has_no_latency(make_site):
    report = Probe(make_site(), through_proxy=False).report(0)
    assert (report["sent"], report["failed"], report["longest_gap"], report["latency_before"]) == (0, 0, 0.0, None)


class Proxy(http.server.BaseHTTPRequestHandler):
    """What nginx answers: a status for each path, and it remembers the requests."""

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def proxy():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.requests, server.status = [], 200
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def served(make_site, proxy, **options):
    site = make_site(path="/shop", health={"path": "/healthz", "headers": {"X-Scheme": "https"}, **options})
    site.config["proxy"]["listen"] = [proxy.server_port]
    return site


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_probe_asks_as_a_visitor_does(make_site, proxy, monkeypatch):
    monkeypatch.setattr(switch_report, "RATE", 100)
    probe = Probe(served(make_site, proxy), through_proxy=True).start()
    wait_for(lambda: len(probe.samples) > 2)
    with probe.switching():
        pass
    wait_for(probe.is_steady)
    probe.end()
    path, headers = proxy.requests[0]
    assert path == "/shop/healthz"
    assert headers["Host"] == "blog.example.org" and headers["Connection"] == "close"
    assert headers["X-Scheme"] == "https" and headers["User-Agent"] == "django-formula"
    report = probe.report(0)
    assert report["sent"] >= 5 and report["failed"] == 0 and report["through"] == "proxy"

    def has_ended():
        sent = len(proxy.requests)
        time.sleep(0.1)
        return len(proxy.requests) == sent

    wait_for(has_ended)


def test_where_no_more_threads_are_to_be_had_it_asks_all_the_same(make_site, proxy, monkeypatch):
    class Refused(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(switch_report, "RATE", 100)
    probe = Probe(served(make_site, proxy), through_proxy=True).start()
    monkeypatch.setattr(switch_report, "threading", SimpleNamespace(Thread=Refused))
    with probe.switching():
        pass
    wait_for(probe.is_steady)
    probe.end()
    assert probe.report(0)["failed"] == 0


def test_where_the_proxy_keeps_the_page_the_socket_is_asked(make_site, proxy, monkeypatch):
    """As in maintenance: its 503 says nothing of the release."""
    monkeypatch.setattr(switch_report, "RATE", 100)
    asked = []

    def ask(site, release, path, *, scheme, headers, timeout):
        asked.append((release, path, headers))
        return release_http.Answer(200, {}, "ok")

    monkeypatch.setattr(release_http, "get", ask)
    proxy.status = 503
    site = served(make_site, proxy)
    probe = Probe(site, through_proxy=True).start()
    with probe.switching():
        pass
    wait_for(probe.is_steady)
    probe.end()
    assert len(proxy.requests) == 1 and asked[0] == (site.current, "/shop/healthz", {"X-Scheme": "https"})
    assert probe.report(0)["through"] == "socket" and probe.report(0)["failed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["nobody listens", "returned 500", "returned a page without"])
def test_what_is_wrong_is_said(make_site, proxy, problem):
    site = served(make_site, proxy, contains="well")
    if problem == "nobody listens":
        proxy.shutdown()
        proxy.server_close()
    proxy.status = 500 if "500" in problem else 200
    found = Probe(site, through_proxy=True).problem()
    assert found.startswith("got no response (" if problem == "nobody listens" else problem)


def test_requests_that_hang_do_not_pile_up(make_site, monkeypatch):
    """They count once they are over, each with its time limit."""
    monkeypatch.setattr(switch_report, "RATE", 2000)
    monkeypatch.setattr(Probe, "problem", lambda probe: go_on.wait(10) and "no answer within 10s")
    go_on = threading.Event()
    probe = Probe(make_site(), through_proxy=False).start()
    wait_for(lambda: len(probe._under_way) == 20)
    time.sleep(0.05)
    assert len(probe._under_way) == 20 and probe.samples == []
    go_on.set()
    wait_for(lambda: len(probe.samples) >= 20)
    probe.end()
    assert probe.report(0)["failed"] >= 20


def test_a_request_that_waits_is_waited_for(make_site):
    probe = probe_of(make_site(), ["", ""], ["", "", "", ""])
    probe._under_way = [99.0]
    assert probe.is_steady(), "sent before the switch: the drain waits for it"
    probe._under_way = [100.25]
    assert not probe.is_steady()
    probe._under_way = [101.0]
    assert probe.is_steady(), "the next one has just been sent"


def test_request_that_raises_has_failed(make_site, monkeypatch):
    """As where too many files are open: a switch would wait for its answer for ever."""

    def fail(probe):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(switch_report, "RATE", 100)
    monkeypatch.setattr(Probe, "problem", fail)
    probe = Probe(make_site(), through_proxy=True).start()
    with probe.switching():
        pass
    wait_for(probe.failures)
    probe.end()
    assert probe.last_problem() == "got no response ([Errno 24] Too many open files)" and not probe.through_proxy
    wait_for(lambda: not probe._under_way)


class Paced:
    """A clock that goes on when a probe waits, and never by itself; at its end the probe is ended."""

    def __init__(self, probe, monkeypatch, *, switches_at, ends_at):
        self.now, self.probe, self.switches_at, self.ends_at = 100.0, probe, switches_at, ends_at
        monkeypatch.setattr(switch_report, "time", SimpleNamespace(monotonic=lambda: self.now))
        probe._wake = self
        monkeypatch.setattr(probe, "problem", lambda: "")
        monkeypatch.setattr(
            switch_report, "threading", SimpleNamespace(Thread=lambda target, **_: SimpleNamespace(start=target))
        )
        probe._run()

    def wait(self, seconds):
        due = self.now + max(seconds, 0)
        if self.now < self.switches_at < due:
            self.now = self.switches_at
            with self.probe.switching():
                pass
            return True
        self.now = due
        if due >= self.ends_at:
            self.probe.end()
        return False

    def set(self):
        """Wake the probe, for which `wait` returns at once."""

    def clear(self):
        """It waits for the next one."""


def test_the_pace_is_kept(make_site, monkeypatch):
    probe = Probe(make_site(), through_proxy=False)
    Paced(probe, monkeypatch, switches_at=math.inf, ends_at=100.99)
    assert [sample.sent for sample in probe.samples] == pytest.approx([100 + number / 20 for number in range(20)])


def test_after_the_switch_it_asks_at_once_and_the_first_come_twice_as_fast(make_site, monkeypatch):
    monkeypatch.setattr(switch_report, "RATE", 5)
    probe = Probe(make_site(), through_proxy=False)
    Paced(probe, monkeypatch, switches_at=100.33, ends_at=101)
    sent = [sample.sent - probe.switched for sample in probe._after()]
    assert sent == pytest.approx([0, 0.1, 0.2, 0.4, 0.6]), "three for which it is waited, then as before"
    assert probe.report(0)["longest_gap"] < 0.001


OLD = {"domain": "old.example.org", "path": "/", "health": {"path": "/", "status": [200], "contains": "good"}}


@pytest.fixture
def moved(make_site, monkeypatch):
    """A site whose pillar has another path than its active release, and the pages that were requested."""
    monkeypatch.setattr(switch_report, "RATE", 100)
    site = make_site(path="/shop", health={"path": "/healthz", "headers": {"X-Scheme": "https"}})
    pages = []

    def get(asked, release, path, *, scheme, headers, timeout):
        assert headers == {"X-Scheme": "https"}
        serves = site.current.read_text() if site.current.exists() else "old"
        pages.append((serves, asked.config["domains"][0], path))
        known = ("old.example.org", "/") if serves == "old" else ("blog.example.org", "/shop/healthz")
        is_known = (asked.config["domains"][0], path) == known
        return release_http.Answer(200 if is_known else 404, {}, "all is good")

    monkeypatch.setattr(release_http, "get", get)
    return site, pages


def test_old_release_is_asked_for_the_page_that_it_has(moved):
    site, pages = moved
    before = health.as_checked(site, {"page": OLD})
    probe = Probe(site, through_proxy=False, before=before).start()
    wait_for(lambda: len(probe.samples) > 2)
    with probe.switching():
        site.current.write_text("new")
    wait_for(probe.is_steady)
    probe.end()
    assert probe.report(0)["failed"] == 0
    assert {page[1:] for page in pages if page[0] == "old"} == {("old.example.org", "/")}
    assert pages[-1] == ("new", "blog.example.org", "/shop/healthz")


def test_request_for_the_old_page_that_the_new_release_gets_is_repeated(moved, monkeypatch):
    site, _pages = moved
    probe = Probe(site, through_proxy=False, before=health.as_checked(site, {"page": OLD}))
    probe.switched = 0.0
    monkeypatch.setattr(time, "monotonic", iter([-1.0, *[1.0] * 20]).__next__)
    monkeypatch.setattr(Probe, "problem", lambda self: problems.pop(0))
    problems = ["returned 404 (expected 200)", ""]
    probe._sample()
    assert [sample.problem for sample in probe.samples] == [""] and problems == []


@pytest.mark.parametrize("record", [{}, {"page": None}])
def test_release_without_a_recorded_page_is_asked_for_that_of_now(make_site, record):
    site = make_site()
    assert health.as_checked(site, record) is site
    assert health.as_checked(site, {"page": health.page(site)}) is site


def test_page_of_a_release_has_what_decides_and_no_headers(make_site):
    site = make_site(path="/shop", health={"path": "/healthz", "headers": {"Authorization": "secret"}})
    assert health.page(site) == {
        "domain": "blog.example.org",
        "path": "/shop",
        "health": {"path": "/healthz", "status": [200], "contains": None},
    }
    old = health.as_checked(site, {"page": OLD})
    assert old.config["domains"] == ["old.example.org", "blog.example.org"]
    assert old.config["health"] == {**site.config["health"], **OLD["health"]}
