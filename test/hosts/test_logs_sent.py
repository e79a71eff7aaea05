"""Logs that another host gets, by what docs/guides/logs.md prints."""

import re
import time

import pytest
from conftest import Hosts, Repositories
from lab import ROOT, Host
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


def until(host: Host, pattern: str, number: int = 1) -> str:
    """What the receiver got, once a pattern is in it so often."""
    deadline = time.monotonic() + 300
    while True:
        got = host.run("cat /srv/receiver/got", check=False).stdout
        if len(re.findall(pattern, got)) >= number:
            return got
        assert time.monotonic() < deadline, got + host.run("journalctl -u rsyslog -u receiver | tail -30").stdout
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
    assert blog.get("/boom").status_code == 500
    host.run(START)
    got = until(host, rf"(?m)^{blog.unit} err.*ValueError: no ink$")
    assert re.search(rf"(?m)^{blog.unit} warning.*ink is low", got)
    host.run("systemctl stop receiver && systemctl restart rsyslog")
    assert blog.get("/boom").status_code == 500
    host.run("systemctl restart rsyslog")
    host.run(START)
    until(host, r"(?m)ValueError: no ink$", got.count("ValueError: no ink\n") + 1)
