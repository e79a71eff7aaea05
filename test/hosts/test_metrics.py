"""The metrics of a host: what the watch writes, who gets it by HTTP, and that Prometheus reads it."""

import json
import re
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import requests
from client import Load
from lab import ROOT
from sites import Site, until

FILE = "/var/lib/prometheus/node-exporter/django.prom"


class Measured(Site):
    """A site whose host has metrics."""

    metrics: dict[str, Any] | None = None

    def configure(self, **changes: Any) -> None:
        super().configure(**changes)
        self.host.pillar({"django": {"process": self.process, "sites": self.sites, "metrics": self.metrics}})

    def wait_for(self, line: str, within: float = 300) -> str:
        """The metrics, once they have a line."""
        began = time.monotonic()
        while True:
            text = self.host.run(["cat", FILE], check=False).stdout
            if line in text.splitlines():
                return text
            assert time.monotonic() - began < within, text
            self.host.run(["systemctl", "start", "django-watch.service"])
            time.sleep(1)


@pytest.fixture(scope="module")
def blog(module_hosts: Callable[..., Any], repositories: Callable[..., Any]) -> Measured:
    host = module_hosts(kind="live")
    blog = Measured(host, repositories(host))
    blog.deploy(proxy={"access_log": "json"})
    assert not host.testinfra.file("/var/lib/prometheus").exists
    blog.metrics = {"listen": "0.0.0.0:9180", "allow": []}
    blog.deploy()
    blog.wait_for('django_site_up{site="blog"} 1')
    return blog


def test_requests_and_deployments_are_measured(blog: Measured) -> None:
    assert not blog.apply().changed
    for _request in range(7):
        assert blog.get("/healthz").status_code == 200
    assert blog.get("/nothing-here").status_code == 404
    text = blog.wait_for('django_http_requests_total{site="blog",code="4xx"} 1')
    (found,) = re.findall(r'requests_total\{site="blog",code="2xx"\} (\d+)', text)
    assert int(found) >= 7
    commit = blog.live.partition("-")[2]
    assert f'django_release_info{{site="blog",release="{blog.live}",commit="{commit}"}} 1' in text
    assert 'django_deployments_total{site="blog",result="released"}' in text
    assert 'django_unit_restarts_total{site="blog",unit="server"' in text


def test_clients_of_the_pillar_get_them_from_a_process_without_rights(blog: Measured) -> None:
    program = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9180/metrics').read().decode())"
    here = blog.host.run(["python3", "-c", program]).stdout
    assert 'django_site_up{site="blog"} 1' in here.splitlines()
    elsewhere = f"http://{blog.host.address}:9180/metrics"
    assert requests.get(elsewhere, timeout=60).status_code == 403
    unit = blog.host.run(["systemctl", "cat", "django-metrics@.service"]).stdout
    assert "User=nobody" in unit and "CapabilityBoundingSet=\n" in unit
    until(lambda: blog.host.run("pgrep -u 65534 | wc -l").stdout.strip() == "0")  # each ends with its answer


@pytest.mark.full
def test_prometheus_reads_metrics_and_rules(blog: Measured) -> None:
    packages = "apt-get -qq update && apt-get -qq install --no-install-recommends prometheus"
    blog.host.run(f"export DEBIAN_FRONTEND=noninteractive; {packages}")
    checked = blog.host.run(f"promtool check metrics < {FILE}")
    assert checked.stdout + checked.stderr == ""
    for name in ("alerts.yml", "alerts.test.yml"):
        blog.host.write(f"/srv/rules/{name}", (ROOT / "examples/prometheus" / name).read_text())
    assert "SUCCESS" in blog.host.run("cd /srv/rules && promtool check rules alerts.yml").stdout
    assert "SUCCESS" in blog.host.run("cd /srv/rules && promtool test rules alerts.test.yml").stdout
    dashboard = json.loads((ROOT / "examples/grafana/django.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown += [each["expr"] for each in dashboard["annotations"]["list"]]
    rules = [{"record": f"shown_{number}", "expr": expression} for number, expression in enumerate(shown)]
    blog.host.write("/srv/rules/dashboard.yml", json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = blog.host.run("cd /srv/rules && promtool check rules dashboard.yml")
    assert len(shown) > 10 and f"SUCCESS: {len(shown)} rules found" in checked.stdout


#: The project's own metrics, by django-prometheus as its README has it.
OWN = """
INSTALLED_APPS += ["django_prometheus"]
MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    *MIDDLEWARE,
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
"""
ENTRIES = re.compile(
    r"(?m)^django_http_responses_total_by_status_view_method_total"
    r'{(?=.*status="200")(?=.*view="guestbook:entries").*} (.+)'
)


#: Adds up, some times a second, what the project's page of metrics says, until it is ended.
SCRAPES = f"""
import re, time, urllib.request
pattern = re.compile({ENTRIES.pattern!r})
while True:
    request = urllib.request.Request("http://127.0.0.1/metrics", headers={{"Host": "blog.example.org"}})
    text = urllib.request.urlopen(request, timeout=60).read().decode()
    print(sum(map(float, pattern.findall(text))), flush=True)
    time.sleep(0.05)
"""


@pytest.mark.full
@pytest.mark.parametrize("server", ["uwsgi", "gunicorn", "granian"])
def test_processes_of_a_server_are_added_up(blog: Measured, server: str) -> None:
    if "django_prometheus" not in blog.repository.read("website/settings.py"):
        urls = blog.repository.read("website/urls.py")
        own = '    path("", include("django_prometheus.urls")),\n'
        blog.repository.commit(
            blog.repository.amended({"website/settings.py": f"+{OWN}", "requirements.txt": "+django-prometheus\n"})
            | {"website/urls.py": urls.replace("urlpatterns = [\n", f"urlpatterns = [\n{own}")}
        )
    networks = {"/metrics": {"allow": "127.0.0.1", "deny": "all"}}
    blog.deploy(server={"kind": server, "processes": 3}, proxy={"access_log": "json", "locations": networks})
    assert blog.get("/metrics").status_code == 403

    def entries() -> set[float]:
        request = f"urllib.request.Request('http://127.0.0.1/metrics', headers={{'Host': '{blog.domain}'}})"
        program = f"import urllib.request; print(urllib.request.urlopen({request}).read().decode())"
        texts = [blog.host.run(["python3", "-c", program]).stdout for _scrape in range(10)]
        return {sum(map(float, ENTRIES.findall(text))) for text in texts}

    (before,) = entries()
    for _request in range(60):
        assert blog.get("/").status_code == 200
    assert entries() == {before + 60}
    blog.host.write("/srv/scrapes.py", SCRAPES)
    blog.host.run("systemd-run --quiet --unit=scrapes sh -c 'exec python3 /srv/scrapes.py >/srv/sums'")
    with Load(f"http://{blog.host.address}/", blog.domain, connections=2, pause=0.05) as load:
        load.wait(40)
        blog.repository.commit({"README.md": f"Released under load by {server}.\n"})
        blog.deploy()
        load.wait(40)
    blog.host.run(["systemctl", "stop", "scrapes"])
    sums = [float(line) for line in blog.host.read("/srv/sums").split()]
    back = [(former, later) for former, later in pairwise(sums) if later < former]
    print(f"{server}: {len(sums)} scrapes; back from, to: {back}")
    assert load.failed == [] and len(back) == 1 and len(sums) > 20


def test_folder_that_leads_elsewhere_gets_nothing(blog: Measured) -> None:
    blog.host.run("mv /var/lib/prometheus/node-exporter /srv/aside && ln -s /etc /var/lib/prometheus/node-exporter")
    blog.host.run(["systemctl", "start", "django-watch.service"])
    assert blog.host.run(["ls", "/etc/django.prom"], check=False).returncode != 0
    told = blog.host.run("journalctl --no-pager -u django-watch | grep metrics").stdout
    assert "the metrics could not be written: " in told
    blog.host.run("rm /var/lib/prometheus/node-exporter && mv /srv/aside /var/lib/prometheus/node-exporter")


def test_host_without_metrics_has_nothing_of_them(blog: Measured) -> None:
    blog.metrics = None
    blog.configure()
    assert blog.apply().ok and not blog.apply().changed
    for path in (FILE, "/etc/systemd/system/django-metrics.socket", "/etc/systemd/system/django-metrics@.service"):
        assert not blog.host.testinfra.file(path).exists
    assert blog.host.run(["ss", "-Hltn", "sport", "=", ":9180"]).stdout == ""
