"""Logs that another host gets, by what docs/guides/logs.md prints."""

import re
import time
from collections.abc import Callable

import pytest
from conftest import Hosts, Repositories
from lab import ROOT
from sites import Site

pytestmark = pytest.mark.full

BOOM = """

def boom(request):
    import logging
    logging.getLogger("shop").warning("ink is low")
    raise ValueError("no ink")
"""
PAGE = (ROOT / "docs/guides/logs.md").read_text()
SENDER = re.search(r"```\n(if \$programname .*?)```", PAGE, re.DOTALL)
#: An rsyslog of its own, which writes what it gets with the severity.
RECEIVER = """\
global(workDirectory="/srv/receiver" DefaultNetstreamDriver="gtls"
       DefaultNetstreamDriverCAFile="/srv/receiver/cert.pem"
       DefaultNetstreamDriverCertFile="/srv/receiver/cert.pem" DefaultNetstreamDriverKeyFile="/srv/receiver/key.pem")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
input(type="imtcp" port="6514")
template(name="line" type="string" string="%programname% %syslogseverity-text%%msg%\\n")
action(type="omfile" file="/srv/receiver/got" template="line")
"""
START = "systemd-run --quiet --unit=receiver rsyslogd -n -f /srv/receiver/rsyslog.conf -i /srv/receiver/pid"


@pytest.fixture(scope="module")
def blog(module_hosts: Hosts, repositories: Repositories) -> Site:
    host = module_hosts(kind="ready")
    blog = Site(host, repositories(host))
    blog.repository.append("guestbook/views.py", BOOM)
    urls = blog.repository.read("guestbook/urls.py")
    blog.repository.commit(
        {"guestbook/urls.py": urls.replace("urlpatterns = [", 'urlpatterns = [path("boom", views.boom),')}
    )
    blog.deploy()
    return blog


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline
        time.sleep(1)


def test_rsyslog_sends_lines_with_their_levels_and_keeps_those_of_an_outage(blog: Site) -> None:
    host = blog.host
    host.run(
        "apt-get -qq update && "
        "apt-get -qq install --no-install-recommends rsyslog rsyslog-gnutls openssl ca-certificates >/dev/null"
    )
    host.run(
        "mkdir -p /srv/receiver && cd /srv/receiver && openssl req -x509 -newkey rsa:2048 -nodes -days 2 "
        "-keyout key.pem -out cert.pem -subj /CN=logs.example.org -addext subjectAltName=DNS:logs.example.org "
        "2>/dev/null && echo 127.0.0.1 logs.example.org >> /etc/hosts"
    )
    host.write("/srv/receiver/rsyslog.conf", RECEIVER)
    assert SENDER
    trusted = SENDER[1].replace("/etc/ssl/certs/ca-certificates.crt", "/srv/receiver/cert.pem")
    host.write("/etc/rsyslog.d/30-django.conf", trusted)
    assert host.run("rsyslogd -N1 2>&1 && systemctl restart rsyslog").returncode == 0
    got = lambda: host.run("cat /srv/receiver/got", check=False).stdout  # noqa: E731 - read anew each time
    assert blog.get("/boom").status_code == 500
    host.run(START)
    unit = blog.unit
    until(lambda: f"{unit} err" in got() and "ValueError: no ink" in got())
    assert re.search(rf"(?m)^{unit} warning.*ink is low", got())
    host.run("systemctl stop receiver && systemctl restart rsyslog")
    before = got().count("ink is low")
    assert blog.get("/boom").status_code == 500
    host.run("systemctl restart rsyslog")
    host.run(START)
    until(lambda: got().count("ink is low") == before + 1)
