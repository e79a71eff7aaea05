"""The metrics of a look as Prometheus reads them, who gets them by HTTP, and the values that they are made of."""

import io
import json
import re

import pytest
from django_formula.metrics import access_log, exposition, metrics, serve
from django_formula.request import entrance
from django_formula.watch import look, machine, setup
from specimen import ROOT

ROW = {
    "site": "blog",
    "release": "0042-3f2a9c1b77de",
    "live_since": "2026-03-01T12:00:00Z",
    "running": True,
    "maintenance": "",
    "schema": "fits",
    "held_back": "0040-aaaaaaaaaaaa, 0041-bbbbbbbbbbbb",
    "workers": "mails takes tasks, reports does not run",
    "stores": "queue 1M of 64M, 14 tasks wait; cache 1M of 64M",
    "backup": "2026-03-01T03:00:00Z",
    "offsite": "2026-02-28T03:00:00Z, 14 copies; drill 2026-02-27T04:00:00Z, 9 s: good, 41 rows",
    "points": "since 2026-02-15T03:00:00Z, backup 2026-03-01T03:00:00Z",
    "points_behind": 12,
    "ms": 12,
}
UNITS = {
    "django-blog-0042.service": {"ActiveState": "active", "NRestarts": "2", "ControlGroup": "/system.slice/x.service"},
    "django-blog-0042-mails.service": {"ActiveState": "active", "NRestarts": "0", "ControlGroup": ""},
    "django-blog-0041.service": {"ActiveState": "inactive", "NRestarts": "0", "ControlGroup": ""},
    "django-watch.service": {"ActiveState": "activating", "NRestarts": "0", "ControlGroup": ""},
}
PROBLEMS = {
    "blog/worker/workers": {"site": "blog", "kind": "worker"},
    "/disk/8:1": {"site": "", "kind": "disk"},
}


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The lines of a look at one site, with a file of deployments and what the kernel counts of its server."""
    group = tmp_path / "system.slice/x.service"
    group.mkdir(parents=True)
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (group / "memory.current").write_text("1048576\n")
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    deploys = tmp_path / "deploys.jsonl"
    attempts = [
        {"result": "released", "seconds": 2.5, "receipt": {"sent": 30, "failed": 1}},
        {"result": "rolled back"},
        {"result": 'hostile"} 1\n', "seconds": 1},
        {"result": "failed", "seconds": "long", "receipt": []},
        ["no object"],
    ]
    deploys.write_text("".join(f"{json.dumps(one)}\n" for one in attempts) + '{"result": "released"')
    site = type("Site", (), {"deploys": deploys})
    monkeypatch.setattr(metrics.sites, "find", lambda _name: site)
    monkeypatch.setattr(metrics.certificates, "domains", lambda _site: ["blog.example.org"])
    ends = type("Certificate", (), {"ends": 1.8e9})
    monkeypatch.setattr(metrics.certificates, "read", lambda _domain: ends)
    requests = access_log.Requests({"2xx": 9, "5xx": 1}, 1000, 0.5, [10, *[0] * 11])._asdict()
    state = {"sites_seen": {"blog": {"requests": requests}}, "took": 0.25}

    def lines(**changes):
        seen = look.Seen(PROBLEMS, [], [{**ROW, **changes}], UNITS)
        return exposition.text(metrics.of_look(seen, state, 1772366400.0)).splitlines()

    return lines


#: What the look above is as metrics.
EXPECTED = """\
django_site_up{site="blog"} 1
django_site_maintenance{site="blog"} 0
django_site_schema_fits{site="blog"} 1
django_site_answer_seconds{site="blog"} 0.012
django_worker_running{site="blog",worker="mails"} 1
django_worker_running{site="blog",worker="reports"} 0
django_queue_waiting{site="blog"} 14
django_release_info{site="blog",release="0042-3f2a9c1b77de",commit="3f2a9c1b77de"} 1
django_release_active_since_timestamp_seconds{site="blog"} 1772366400
django_releases_held{site="blog"} 2
django_deployments_total{site="blog",result="failed"} 1
django_deployments_total{site="blog",result="released"} 1
django_deployments_total{site="blog",result="rolled_back"} 1
django_deployment_seconds_total{site="blog"} 2.5
django_switch_requests_total{site="blog"} 30
django_switch_requests_failed_total{site="blog"} 1
django_http_requests_total{site="blog",code="2xx"} 9
django_http_requests_total{site="blog",code="5xx"} 1
django_http_response_bytes_total{site="blog"} 1000
django_http_request_duration_seconds_sum{site="blog"} 0.5
django_http_request_duration_seconds_count{site="blog"} 10
django_backup_newest_timestamp_seconds{site="blog"} 1772334000
django_offsite_copy_newest_timestamp_seconds{site="blog"} 1772247600
django_points_behind_seconds{site="blog"} 12
django_certificate_expiry_timestamp_seconds{site="blog",domain="blog.example.org"} 1800000000
django_unit_restarts_total{site="blog",unit="mails",release="0042"} 0
django_unit_restarts_total{site="blog",unit="server",release="0042"} 2
django_unit_cpu_seconds_total{site="blog",unit="server",release="0042"} 2.5
django_unit_memory_bytes{site="blog",unit="server",release="0042"} 1048576
django_unit_oom_kills_total{site="blog",unit="server",release="0042"} 1
django_problems{site="",kind="disk"} 1
django_problems{site="blog",kind="worker"} 1
django_watch_timestamp_seconds 1772366400
django_watch_look_seconds 0.25"""


def test_look_becomes_metrics(measured):
    lines = [line for line in measured() if line[0] != "#" and "_bucket" not in line]
    assert lines == EXPECTED.splitlines()


def test_buckets_are_cumulative_and_end_with_all(measured):
    buckets = [line.split() for line in measured() if "_bucket" in line]
    assert [count for _name, count in buckets] == ["10"] * 12 and 'le="+Inf"' in buckets[-1][0]


def test_each_name_is_described_once_before_its_values(measured):
    lines = measured()
    described = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(described) == len(set(described))
    for line in lines:
        name = line.partition("{")[0].partition(" ")[0]
        assert line[0] == "#" or any(name in (one, f"{one}_bucket", f"{one}_sum", f"{one}_count") for one in described)


def test_deployments_are_counted_once(measured):
    assert measured() == measured()


def test_site_that_cannot_be_looked_at_is_down(measured):
    row = {"release": "", "running": None, "maintenance": None, "schema": "", "workers": "", "stores": "", "backup": ""}
    assert 'django_site_up{site="blog"} 0' in measured(**row)


def test_value_of_a_label_cannot_end_it():
    family = exposition.gauge("x", "An x.", [({"name": 'a"} 1\n# \\'}, 1)])
    assert exposition.text([family]).splitlines()[2] == 'x{name="a\\"} 1\\n# \\\\"} 1'


# By HTTP


@pytest.fixture
def served(monkeypatch, tmp_path):
    path = tmp_path / "django.prom"
    path.write_text("django_site_up 1\n")

    def answer(request, client="127.0.0.1", allowed=()):
        out = io.BytesIO()
        monkeypatch.setenv("REMOTE_ADDR", client)
        monkeypatch.setattr(serve.sys, "stdin", type("In", (), {"buffer": io.BytesIO(request)}))
        monkeypatch.setattr(serve.sys, "stdout", type("Out", (), {"buffer": out}))
        serve.main(str(path), *allowed)
        head, _blank, body = out.getvalue().partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    answer.path = path
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: web1\r\n\r\n", 200),
        (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", 200),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"\xff\x00\r\n\r\n", 405),
        (b"", 405),
        (b"x" * 100_000, 405),
    ],
)
def test_metrics_are_all_that_is_served(served, request_, status):
    assert served(request_)[0] == status


def test_head_has_no_body_and_a_link_is_not_followed(served):
    assert served(b"HEAD /metrics HTTP/1.1\r\n\r\n") == (200, "")
    target = served.path.with_name("secret")
    served.path.rename(target)
    served.path.symlink_to(target)
    assert served(b"GET /metrics HTTP/1.1\r\n\r\n")[0] == 503


@pytest.mark.parametrize(
    ("client", "allowed", "is_allowed"),
    [
        ("127.0.0.1", [], True),
        ("::1", [], True),
        ("::ffff:192.0.2.7", ["192.0.2.0/24"], True),
        ("192.0.2.7", ["192.0.2.0/24"], True),
        ("192.0.2.7", ["192.0.2.7"], True),
        ("192.0.2.7", [], False),
        ("198.51.100.1", ["192.0.2.0/24", "2001:db8::/32"], False),
        ("", ["0.0.0.0/0"], False),
        ("not an address", ["0.0.0.0/0"], False),
    ],
)
def test_clients_of_the_pillar_are_served(served, client, allowed, is_allowed):
    assert serve.is_allowed(client, allowed) is is_allowed
    assert served(b"GET /metrics HTTP/1.1\r\n\r\n", client, allowed)[0] == (200 if is_allowed else 403)


def test_nothing_is_read_of_a_client_that_gets_nothing(served, monkeypatch):
    """Or it could have all connections wait for what it does not send."""
    monkeypatch.setattr(serve, "_request_line", lambda: pytest.fail("it is waited for"))
    assert served(b"", "198.51.100.1")[0] == 403


@pytest.mark.parametrize("unit", [setup._SERVED["django-metrics.socket"], entrance._SOCKET], ids=["metrics", "door"])
def test_clients_cannot_end_a_socket_by_many_connections(unit):
    """systemd ends one that accepts connections itself after 200 within two seconds, by default."""
    assert {"Accept=yes", "TriggerLimitIntervalSec=0"} <= {*unit.splitlines()} and "\nMaxConnections=" in unit


# What the docs and examples name


def test_guide_has_every_metric(measured):
    guide = (ROOT / "docs/guides/metrics.md").read_text().partition("## What is measured")[2].partition("## Alerts")[0]
    made = {line.split()[2] for line in measured() if line.startswith("# TYPE ")}
    made |= {name for name, *_more in metrics._CGROUP}
    assert {*re.findall(r"`(django_\w+)`", guide)} == made


@pytest.mark.parametrize("path", ["prometheus/alerts.yml", "grafana/django.json"])
def test_examples_use_what_is_measured(measured, path):
    guide = {*re.findall(r"`(django_\w+)`", (ROOT / "docs/guides/metrics.md").read_text())}
    named = {
        re.sub("_(bucket|sum|count)$", "", name)
        for name in re.findall(r"\bdjango_\w+", (ROOT / "examples" / path).read_text())
    }
    assert named and named <= guide
