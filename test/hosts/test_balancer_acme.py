"""Certificates of an authority at the edge: two balancers order them, and the authority asks the first one only."""

import pebble
import pytest
from balancing import Fleet, start
from certificates import ask
from conftest import Hosts
from images import CERTIFICATES

pytestmark = pytest.mark.full
DOMAIN = "blog.example.org"
TLS = {"kind": "acme", "directory": pebble.DIRECTORY, "email": "ops@example.org", "eab": pebble.EAB}
#: Issuer and serial number of the certificate that visitors see.
SHOW = f"openssl s_client -connect 127.0.0.1:443 -servername {DOMAIN} </dev/null | openssl x509 -noout -issuer -serial"


@pytest.fixture(scope="module")
def fleet(module_hosts: Hosts) -> Fleet:
    fleet = start(module_hosts)
    fleet.second = module_hosts(name="lb2")
    return prepared(fleet)


def prepared(fleet: Fleet) -> Fleet:
    """Pebble on the first balancer, which the second one trusts too."""
    lb, second = fleet.lb, fleet.second
    pebble.start(lb)
    second.write("/etc/pebble.pem", lb.read("/etc/pebble/trusted.pem"))
    second.mount("--bind", "/etc/pebble.pem", CERTIFICATES)
    second.run(f"echo {lb.address} acme.example.org >> /etc/hosts")
    fleet.hosts["lb2"] = {"parts": ["balancer"], "address": second.address}
    return fleet


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
def test_each_balancer_has_a_certificate_of_its_own(fleet: Fleet, kind: str) -> None:
    lb, second = fleet.lb, fleet.second
    for host in (lb, second):
        host.run("rm -rf /var/lib/django-formula/certificates /var/lib/django-formula/acme")
    fleet.balancer = {"kind": kind}
    serials = set()
    for host in (lb, second):
        fleet.lb = host  # the pillar is that of each
        applied = fleet.apply(tls=TLS)
        assert applied.warnings == {}, applied.warnings
        assert "valid until" in applied["The balancer serves its sites"].changes["certificates"][DOMAIN]
        assert host.apply().changed == {}
        found = host.run(SHOW).stdout
        assert "Pebble" in found and ask(host.address, DOMAIN, root=None).body.startswith("web")
        serials.add(found)
    assert len(serials) == 2
    fleet.lb = lb
    assert lb.http("/.well-known/acme-challenge/none", DOMAIN).status_code in (404, 502, 503)
    assert lb.http("/", DOMAIN).status_code == 301


def test_certificate_that_is_due_is_renewed_by_the_timer(fleet: Fleet) -> None:
    second, path = fleet.second, f"/var/lib/django-formula/certificates/{DOMAIN}.pem"
    assert second.run(["systemctl", "is-enabled", "django-balancer-tls.timer"]).stdout.strip() == "enabled"
    text = second.read(path)
    second.write(path, text.replace("acme https://", "acme https://former."), mode="0600")
    second.run(["systemctl", "start", "django-balancer-tls.service"])
    assert second.read(path) != text and "acme https://acme.example.org" in second.read(path)
