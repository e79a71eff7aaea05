"""Certificates: a site that gets https while people visit it, by each kind in turn, and goes back to http."""

import contextlib
import json
import re
import socket
import ssl
import subprocess
import threading
import time

import pebble
import pytest
from certificates import Authority, Visitors, ask
from images import pins
from sites import Site, until

ROOT = "/var/lib/django-formula/authority/root.pem"


def serial(blog, root=None):
    """The serial number of the certificate that a visitor sees, verified by a root."""
    return ask(blog.host.address, blog.domain, "/healthz", root=root).certificate.get("serialNumber")


@pytest.fixture(scope="module")
def wiki(module_hosts, repositories):
    """A site behind Apache."""
    host = module_hosts("bookworm", kind="ready")
    wiki = Site(host, repositories(host), "wiki", proxy={"kind": "apache"}, tls={"kind": "self_signed"})
    wiki.deploy()
    assert not wiki.deploy().changed
    return wiki


def test_https_is_added_without_a_lost_request(blog):
    with Visitors(blog.host.address, blog.domain, "/release") as visitors:
        foreseen = blog.apply(test=True, tls={"kind": "self_signed"}, packages=["curl"])
        assert foreseen["blog has its certificates"].changes["certificates"] == {blog.domain: "new"}
        applied = blog.deploy()
    assert visitors.failed == [] and visitors.statuses[200] > 20 and visitors.statuses[301] > 0
    assert applied["blog is live"].changes["receipt"]["failed"] == 0
    assert not blog.deploy().changed


def test_client_that_trusts_the_root_gets_http2(blog):
    root = blog.host.read(ROOT)
    url = f"https://{blog.domain}/release"
    argv = ["curl", "-sS", "--http2", "--cacert", ROOT, "--resolve", f"{blog.domain}:443:127.0.0.1", url]
    done = blog.host.run([*argv, "-o", "/dev/null", "-w", "%{http_version} %{http_code}"])
    assert done.stdout == "2 200"
    seen = ask(blog.host.address, blog.domain, "/", root=root)
    assert seen.status == 200 and seen.headers["strict-transport-security"] == "max-age=3600"
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(blog.host.address, blog.domain, root=Authority().root)


def test_http_redirects_to_https(blog):
    for method, status in (("GET", 301), ("HEAD", 301), ("POST", 308)):
        moved = blog.host.http("/sign/?a=b", blog.domain, method)
        assert (moved.status_code, moved.headers["Location"]) == (status, f"https://{blog.domain}/sign/?a=b")
    assert blog.get("/.well-known/acme-challenge/none").status_code == 404


def test_an_unknown_name_gets_no_certificate(blog):
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        ask(blog.host.address, "nobody.example.org", root=None)


def test_keys_are_readable_for_root_alone(blog):
    listed = blog.host.run(["find", "/var/lib/django-formula", "-type", "f", "-printf", "%f %u:%g %m\n"]).stdout
    modes = dict(line.split(" ", 1) for line in listed.splitlines())
    assert modes["root.key"] == modes[f"{blog.domain}.pem"] == "root:root 600"
    assert modes["root.pem"] == "root:root 644"


def test_django_knows_that_the_request_is_secure(blog):
    assert blog.host.call("django.check", "blog") == []
    (status,) = blog.host.call("django.status")
    assert re.fullmatch(r"self_signed, 36[45] of 365 days left; root: /var/.*/root.pem", status["certificate"])


def test_form_with_csrf_is_accepted_by_https(blog):
    page = ask(blog.host.address, blog.domain, "/sign/", root=None)
    assert "secure" in page.headers["set-cookie"].lower()


@pytest.mark.full
@pytest.mark.parametrize("site", ["blog", "wiki"])
def test_sslyze_finds_mozillas_intermediate_profile(site, request):
    site = request.getfixturevalue(site)
    (sslyze,) = pins("tls")
    argv = ["uv", "tool", "run", "--python=/usr/bin/python3", f"--from={sslyze}", "sslyze"]
    argv += ["--mozilla_config=intermediate", f"--sni={site.domain}", f"{site.host.address}:443"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    told = done.stdout.partition("COMPLIANCE AGAINST")[2]
    assert "Checking results against Mozilla's" in told, done.stdout + done.stderr
    wrong = re.findall(r"^ +\* (\w+):", told, re.MULTILINE)
    assert {*wrong} <= {"certificate_path_validation"}, told


@pytest.mark.full
@pytest.mark.parametrize("site", ["blog", "wiki"])
def test_testssl_finds_nothing_of_medium_severity(site, request):
    site = request.getfixturevalue(site)
    install = "apt-get -qq update && apt-get -qq install --no-install-recommends testssl.sh bsdextrautils dnsutils"
    site.host.run(f"DEBIAN_FRONTEND=noninteractive sh -c '{install}' >/dev/null", timeout=300)
    argv = ["testssl", "--quiet", "--warnings", "off", "--color", "0", "--ip", "127.0.0.1", "--add-ca", ROOT]
    argv += ["--jsonfile", "/tmp/testssl.json", "--severity", "MEDIUM", site.domain]
    done = site.host.run(argv, check=False, timeout=900)
    rows = json.loads(site.host.read("/tmp/testssl.json"))
    found = {row["id"]: row["finding"] for row in rows if row["severity"] in ("MEDIUM", "HIGH", "CRITICAL")}
    # The authority of the host has no list of what it has revoked, and HSTS begins with an hour on purpose.
    assert {*found} <= {"cert_revocation", "HSTS_time"}, (found, done.stdout[-2000:])


# Files


@pytest.fixture(scope="module")
def authority():
    return Authority()


def give(blog, signed):
    """Have a certificate and its key on the host."""
    blog.host.write("/etc/ssl/blog/chain.pem", signed.certificate)
    blog.host.write("/etc/ssl/blog/key.pem", signed.key, mode="0600")


FILES = {"kind": "files", "certificate": "/etc/ssl/blog/chain.pem", "key": "/etc/ssl/blog/key.pem"}


def test_invalid_files_change_nothing(blog, authority):
    before = serial(blog, blog.host.read(ROOT))
    give(blog, authority.sign("shop.example.org"))
    refused = blog.apply(tls=FILES)
    told = refused.failed["blog has its directories"]
    assert "django:sites:blog:tls:certificate is for shop.example.org, not for blog.example.org" in told
    assert not refused.changed and serial(blog, blog.host.read(ROOT)) == before


def test_certificate_of_the_pillar_is_served_and_replaced(blog, authority):
    give(blog, authority.sign(blog.domain))
    with Visitors(blog.host.address, blog.domain, "/release") as visitors:
        applied = blog.deploy()
        assert applied["blog has its certificates"].changes == {"certificates": {blog.domain: "changed"}}
        until(lambda: is_of(blog, authority))
        first = serial(blog, authority.root)
        give(blog, authority.sign(blog.domain))
        blog.deploy()
    assert visitors.failed == []
    assert first
    until(lambda: serial(blog, authority.root) not in (None, first))
    assert not blog.deploy().changed


def rating(site):
    """How exposed systemd finds the unit of a site's certificates."""
    unit = f"django-{site.name}-tls.service"
    told = site.host.run(["systemd-analyze", "security", "--no-pager", unit]).stdout
    return float(re.findall(r"exposure level for \S+: ([0-9.]+)", told)[0])


def test_timer_installs_changed_files(blog, authority):
    first = serial(blog, authority.root)
    give(blog, authority.sign(blog.domain))
    blog.host.run(["mkdir", "-p", "/home/ray/logs", "/srv/logs"])
    logs = "access_log /home/ray/logs/access.log; error_log /srv/logs/error.log;"
    blog.host.write("/etc/nginx/conf.d/neighbour.conf", f"server {{ listen 8099; {logs} }}\n")
    blog.host.run(["systemctl", "start", "django-blog-tls.service"])
    blog.host.run(["rm", "/etc/nginx/conf.d/neighbour.conf"])
    until(lambda: serial(blog, authority.root) != first)
    assert rating(blog) <= 2.6
    timers = blog.host.run(["systemctl", "list-timers", "--no-legend", "django-blog-tls.timer"]).stdout
    assert "django-blog-tls.timer" in timers


# ACME


@pytest.fixture(scope="module")
def acme(blog):
    """An authority on the same network as the site."""
    pebble.start(blog.host)
    told = {"directory": pebble.DIRECTORY, "eab": pebble.EAB, "client": "uacme"}
    return {"kind": "acme", "email": "ops@example.org", **told}


@pytest.fixture(scope="module")
def shop(blog, acme):
    return Site(blog.host, blog.repository, "shop", neighbour=blog, tls=acme)


def test_placeholder_serves_until_the_certificate_is_issued(blog, shop):
    seen: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                answer = ask(blog.host.address, shop.domain, "/healthz", root=None)
                seen.append(f"{answer.status}")
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    applied = shop.deploy()
    over.set()
    watcher.join()
    assert seen and {*seen} == {"200"}
    assert not applied.warnings and applied["shop has its certificates"].changes["certificates"] == {shop.domain: "new"}
    ordered = applied["shop has its certificates ordered"].changes["certificates"]
    assert ordered[shop.domain].startswith("valid until ") and not applied.warnings
    assert not shop.deploy().changed
    assert pebble.EAB["key"] not in blog.host.run("journalctl --no-pager").stdout


@pytest.mark.full
def test_placeholder_stays_when_the_challenge_fails(shop):
    pebble.names(shop.host, "set-servfail", "lost.example.org")
    applied = shop.deploy(domains=[shop.domain, "lost.example.org"])
    (warning,) = applied.warnings["shop has its certificates ordered"]
    assert warning.startswith("no certificate for lost.example.org yet: ") and "a placeholder is in use" in warning
    assert ask(shop.host.address, "lost.example.org", "/healthz", root=shop.host.read(ROOT)).status == 200
    again = shop.deploy()
    assert not again.changed and re.search(r"the next try is in 1[0-5] min", str(again.warnings)), again
    pebble.names(shop.host, "clear-servfail", "lost.example.org")
    assert "lost.example.org" in shop.host.call("django.renew", "shop")["renewed"]
    assert not shop.deploy().warnings


def served(site):
    """The certificate that the proxy sends, in PEM."""
    context = ssl._create_unverified_context()
    plain = socket.create_connection((site.host.address, 443), timeout=60)
    with context.wrap_socket(plain, server_hostname=site.domain) as secure:
        return ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True))


def old(shop, authority, left):
    """Have a certificate of ninety days that ends in so many."""
    signed = authority.sign(shop.domain, begins=left - 90, ends=left)
    text = f"# Written by django-formula: acme {pebble.DIRECTORY}\n{signed.key}{signed.certificate}"
    shop.host.write(f"/var/lib/django-formula/certificates/{shop.domain}.pem", text, mode="0600")
    shop.host.run(["systemctl", "reload", "apache2" if "proxy" in shop.options else "nginx"])
    deadline, good = time.monotonic() + 200, 0
    while good < 5:  # workers of before may still answer once or twice
        good = good + 1 if served(shop) == signed.certificate else 0
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return serial(shop, authority.root)


def is_of(site, authority):
    """Whether visitors see a certificate of an authority; workers of before a reload may still answer once or twice."""
    with contextlib.suppress(ssl.SSLCertVerificationError):
        serial(site, authority.root)
        return True
    return False


def test_timer_renews_certificates_that_expire_soon(shop, authority):
    before = old(shop, authority, left=20)
    (status,) = (row for row in shop.host.call("django.status") if row["site"] == "shop")
    assert status["certificate"] == "acme, 20 of 90 days left; WARNING: shop.example.org should have been renewed"
    with Visitors(shop.host.address, shop.domain, "/release") as visitors:
        shop.host.run(["systemctl", "start", "django-shop-tls.service"])
    assert before and visitors.failed == []
    until(lambda: not is_of(shop, authority))
    (status,) = (row for row in shop.host.call("django.status") if row["site"] == "shop")
    assert "WARNING" not in status["certificate"] and not shop.deploy().changed


@pytest.fixture
def watched(shop):
    """What the list of processes has shown of the key of the binding, as a file that grows; it is watched meanwhile."""
    shop.deploy()
    shop.host.write("/root/key", pebble.EAB["key"], mode="0600")
    watch = "while sleep 0.02; do grep -sazFf /root/key /proc/[0-9]*/cmdline; done > /root/shown"
    shop.host.run(["systemd-run", "--quiet", "--unit=watch", "sh", "-c", watch])
    yield "/root/shown"
    shop.host.run(["systemctl", "stop", "watch"])


@pytest.mark.full
def test_certbot_orders_without_showing_the_key(shop, acme, authority, watched):
    before = old(shop, authority, left=20)
    applied = shop.deploy(tls={**acme, "client": None})
    assert {*applied["shop has its certificates ordered"].changes["certificates"]} == {shop.domain}, applied
    assert not applied.warnings and served(shop) != before and not shop.deploy().changed
    assert shop.host.read(watched) == ""
    left = shop.host.run("grep -rlFf /root/key /var/lib/django-formula /etc/letsencrypt /var/log", check=False)
    assert left.stdout == ""
    shop.host.run("! ls -d /etc/letsencrypt/live /var/log/letsencrypt/letsencrypt.log")
    before = old(shop, authority, left=20)
    shop.host.run(["systemctl", "start", "django-shop-tls.service"])
    until(lambda: not is_of(shop, authority))


@pytest.mark.full
@pytest.mark.parametrize("client", ["uacme", "certbot"])
def test_a_hook_proves_a_domain_by_dns(shop, acme, client):
    shop.host.write("/usr/local/lib/dns-hook", pebble.HOOK, mode="0755")
    shop.host.run(["rm", "-f", "/var/log/dns-hook"])
    names = shop.options["domains"]
    tls = {**acme, "client": client, "challenge": "dns-01", "hook": "/usr/local/lib/dns-hook"}
    shop.deploy(tls=tls, domains=[*names, "*.tenants.example.org"])
    shop.host.run(["rm", "-f", "/var/log/dns-hook"])
    assert rating(shop) <= 3.0
    before = served(shop)
    done = shop.host.call("django.renew", "shop", force=True)
    assert {*done["renewed"]} == {*shop.options["domains"]} and served(shop) != before
    called = [f"{verb} {name}" for name in (*names, "tenants.example.org") for verb in ("begin", "done")]
    assert [*dict.fromkeys(shop.host.read("/var/log/dns-hook").splitlines())] == called
    path = "/var/lib/django-formula/certificates/~wildcard6.tenants.example.org.pem"
    text = shop.host.run(["openssl", "x509", "-in", path, "-noout", "-ext", "subjectAltName"]).stdout
    assert "DNS:*.tenants.example.org" in text
    shop.deploy(tls=acme, domains=names)


@pytest.mark.full
@pytest.mark.parametrize("client", ["certbot", "uacme"])
def test_order_succeeds_after_a_killed_one(shop, acme, authority, client):
    shop.deploy(tls={**acme, "client": client})
    before = old(shop, authority, left=20)
    kill = f"until child=$(pgrep -x {client}); do sleep 0.02; done; sleep 0.2; kill -KILL $! $child"
    shop.host.run(f"salt-call --local django.renew shop & {kill}", check=False, timeout=300)
    assert serial(shop, authority.root) == before
    assert shop.domain in shop.deploy()["shop has its certificates ordered"].changes["certificates"]


@pytest.mark.full
def test_unreachable_authority_is_a_warning(shop, authority):
    before = old(shop, authority, left=20)
    shop.host.run(["systemctl", "stop", "pebble"])
    applied = shop.deploy()
    assert (
        "the previous one is in use, with 20 days left" in str(applied.warnings)
        and serial(shop, authority.root) == before
    )


@pytest.mark.full
def test_timer_renews_with_apache(wiki, authority):
    pebble.start(wiki.host)
    told = wiki.deploy(tls={"kind": "acme", "directory": pebble.DIRECTORY, "eab": pebble.EAB})
    assert not told.warnings and not wiki.deploy().changed
    placed = old(wiki, authority, left=20)
    unit, neighbour = ["systemctl", "start", "django-wiki-tls"], "/etc/apache2/sites-enabled/neighbour.conf"
    wiki.host.write(neighbour, "Nonsense on\n")
    assert wiki.host.run(unit, check=False).returncode and serial(wiki, authority.root) == placed
    said = wiki.host.run(["journalctl", "--no-pager", "--output=cat", "--unit=django-wiki-tls"]).stdout
    assert "Apache refuses its configuration: Syntax error on line 1 of " in said, said
    wiki.host.write(neighbour, "CustomLog /home/ray/access.log combined\n")
    wiki.host.run("mkdir -p /home/ray; rm /var/lib/django-formula/certificates/*.failed")
    with Visitors(wiki.host.address, wiki.domain, "/release") as visitors:
        wiki.host.run(unit)
    assert visitors.failed == [] and rating(wiki) <= 2.6
    until(lambda: not is_of(wiki, authority))


def test_certificates_are_removed_with_the_site(shop):
    shop.deploy(state="absent")
    left = shop.host.run("find /var/lib/django-formula /etc/systemd /run/systemd/system -name '*shop*'").stdout
    assert left == ""


@pytest.mark.full
def test_https_is_removed_without_a_lost_request(blog):
    blog.sites.pop("shop", None)
    with Visitors(blog.host.address, blog.domain, "/release") as visitors:
        blog.deploy(tls=None)
    assert {*visitors.statuses} == {200, 301}
    assert len(visitors.failed) <= 4 and all(re.search("refused|reset", one) for one in visitors.failed), (
        "only a client redirected to https just before it ended is not served"
    )
    assert blog.get("/release").status_code == 200 and not blog.deploy().changed
    left = blog.host.run("find /var/lib/django-formula/certificates -type f").stdout
    assert blog.domain not in left
    with pytest.raises(OSError):
        ask(blog.host.address, blog.domain, root=None)


@pytest.mark.full
@pytest.mark.parametrize(
    ("release", "init", "kind"), [("trixie", True, "gunicorn"), ("bookworm", False, "uvicorn")], ids=["trixie", "cron"]
)
def test_https_works_on_other_hosts_and_servers(hosts, repositories, release, init, kind):
    host = hosts(release, init=init)
    tls = {"kind": "self_signed"}
    site = Site(host, repositories(host), tls=tls, server={"kind": kind}, packages=["curl", "cron"])
    site.deploy()
    assert not site.deploy().changed
    url = f"https://{site.domain}/release"
    argv = ["curl", "-sS", "--http2", "--cacert", ROOT, "--resolve", f"{site.domain}:443:127.0.0.1", url]
    assert host.run([*argv, "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]).stdout == "2 200"
    if not init:
        assert f"{site.root}/tls.pyz blog" in host.read("/etc/cron.d/django-blog-tls")
    path = f"/var/lib/django-formula/certificates/{site.domain}.pem"
    before = host.read(path)
    host.run(["rm", path])
    host.run(["/usr/bin/python3", "-I", f"{site.root}/tls.pyz", "blog"])
    assert host.read(path) not in ("", before) and served(site) in host.read(path)
    site.deploy(state="absent")
    assert host.run("find /var/lib/django-formula/certificates /etc/cron.d -name '*blog*'").stdout == ""
