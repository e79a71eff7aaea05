"""A host that others have set up in their own way, all of it at once.

Apache has port 80, /srv is another disk, /tmp is small and noexec, there is no IPv6, and Salt is started with umask 077
and the locale C. The repository has names that are not ASCII.
"""

import errno
import json
import socket

import pytest
import requests
from lab import ROOT
from sites import Site, lines, version

pytestmark = pytest.mark.full

SALT_CALL = """#!/bin/sh
umask 077
export LANG=C LC_ALL=C
exec /opt/salt/bin/salt-call "$@"
"""
OPTIONS = ["--sysctl=net.ipv6.conf.all.disable_ipv6=1", "--tmpfs=/srv:rw,exec,size=2g,mode=0755"]
#: As with ipv6.disable=1 for the kernel: no address, and no socket of that family (EAFNOSUPPORT).
NO_IPV6 = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": errno.EAFNOSUPPORT,
            "args": [{"index": 0, "value": int(socket.AF_INET6), "op": "SCMP_CMP_EQ"}],
        }
    ],
}
APT = {"DEBIAN_FRONTEND": "noninteractive"}
GREETING = "guestbook/static/guestbook/grüße.txt"


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(name="web1", options=OPTIONS)
    host.run("apt-get -qq update && apt-get -qq install --no-install-recommends apache2", environment=APT)
    host.mount("-t", "tmpfs", "-o", "noexec,nosuid,nodev,size=8m", "tmpfs", "/tmp")
    host.mount("--bind", "/tmp", "/var/tmp")
    host.run("rm /usr/local/bin/salt-call")
    host.write("/usr/local/bin/salt-call", SALT_CALL, mode="0755")
    repository = repositories(host, "/srv/git/bücher.git")
    needs = repository.read("requirements.txt")
    repository.commit({GREETING: "Grüße\n", "requirements.txt": f"{needs}iniconfig\n--no-binary iniconfig\n"})
    repository.git("commit", "--quiet", "--amend", "--author=Jörg Ünal <joerg@example.org>", "--message=Grüße")
    repository.push()
    return Site(host, repository, settings={"TITLE": "Bücher, 本"}, environment={"MOTTO": "Grüße 🙂"})


def apache(blog: Site) -> str:
    return str(blog.host.browser(port=80).get("/").text)


def test_the_host_is_as_strange_as_it_is_meant_to_be(blog):
    host = blog.host
    assert "noexec" in host.run(["findmnt", "--noheadings", "--output=OPTIONS", "/tmp"]).stdout
    assert host.run(["stat", "--format=%d", "/srv"]).stdout != host.run(["stat", "--format=%d", "/"]).stdout
    assert host.run(["ip", "-6", "address"]).stdout == ""
    assert "It works" in apache(blog)


def test_apache_keeps_the_port_and_nginx_is_not_begun(blog):
    applied = blog.apply()
    told = applied.failed["blog has its directories"]
    assert "port 80 is taken by apache2 (pid " in told and "systemctl disable --now apache2.service" in told
    assert "django:sites:blog:proxy:listen: [8080]" in told and lines(told) <= 5
    assert applied.failed["The ports of nginx are free"] in told.removeprefix("site: ")
    assert not blog.host.testinfra.package("nginx").is_installed
    assert not blog.host.testinfra.file("/etc/nginx").exists and not blog.host.testinfra.file(blog.root).exists
    assert "It works" in apache(blog)
    assert blog.apply(test=True).failed.keys() >= {"The ports of nginx are free"}


def test_hint_leads_to_a_site_on_a_host_with_apache(blog):
    blog.deploy(proxy={"listen": [8080]})
    with blog.host.browser(blog.domain, 8080) as browser:
        assert browser.get("/").status_code == 200
        assert browser.get("/release").json()["release"] == blog.live
    assert "It works" in apache(blog)
    assert blog.host.run(["systemctl", "is-system-running"], check=False).stdout.strip() == "running"
    assert not blog.apply().changed


def test_apache_may_pass_the_domain_on(blog):
    page = (ROOT / "docs/getting-started/ways-to-run.md").read_text()
    told = page[page.index("    <VirtualHost") : page.index("</VirtualHost>") + len("</VirtualHost>")]
    blog.host.write("/etc/apache2/sites-enabled/blog.conf", told + "\n")
    blog.host.run("a2enmod -q proxy proxy_http && systemctl restart apache2")
    assert blog.get("/release").json()["release"] == blog.live
    assert "It works" in apache(blog)


def test_what_is_not_ascii_comes_through(blog):
    record = blog.record()
    assert (record["author"], record["subject"]) == ("Jörg Ünal", "Grüße")
    manifest = json.loads(blog.host.read(f"{blog.root}/current/static/staticfiles.json"))
    with blog.host.browser(blog.domain, 8080) as browser:
        answer = browser.get(f"/static/{manifest['paths']['guestbook/grüße.txt']}")
    assert answer.content.decode() == "Grüße\n"
    program = "from django.conf import settings; import os; print(ascii([settings.TITLE, os.environ['MOTTO']]))"
    assert ascii(["Bücher, 本", "Grüße 🙂"]) in blog.manage(f'shell -c "{program}"')


def test_files_are_as_open_as_elsewhere(blog):
    paths = ["", "/releases", "/current/static", "/current/static/guestbook", "/virtualenvs", "/database", "/secrets"]
    paths += ["/current/virtualenv/bin/python", "/media"]
    modes = blog.host.run(["stat", "--dereference", "--format=%a", *(f"{blog.root}{path}" for path in paths)]).stdout
    assert modes.split() == ["755", "755", "755", "755", "755", "750", "750", "755", "2750"]
    uv = "/usr/local/lib/django-formula/uv/bin/uv"
    assert blog.host.run([uv, "--version"], user="nobody").stdout.startswith("uv ")
    assert "[::]" not in blog.host.run("cat /etc/nginx/sites-enabled/*").stdout


def test_releases_and_rollbacks(blog):
    first = blog.live
    blog.repository.commit(version("2.0"))
    blog.deploy()
    with blog.host.browser(blog.domain, 8080) as browser:
        assert browser.get("/release").json()["version"] == "2.0"
        blog.host.call("django.rollback", blog.name)
        assert browser.get("/release").json()["release"] == blog.live == first


# Without IPv6 in the kernel


@pytest.mark.full
def test_nginx_is_installed_and_runs_without_ipv6(hosts, tmp_path):
    """Debian's default site would not let it start."""
    (tmp_path / "seccomp.json").write_text(json.dumps(NO_IPV6))
    host = hosts(options=[OPTIONS[0], f"--security-opt=seccomp={tmp_path}/seccomp.json"])
    asked = host.run(["python3", "-c", "import socket; socket.socket(socket.AF_INET6)"], check=False)
    assert "Address family not supported" in asked.stderr
    host.pillar({"django": {"sites": {"blog": {"repository": "/srv/none", "domains": ["blog.example.org"]}}}})
    applied = host.apply("django.sync", "django.proxy")
    assert applied.ok, applied
    assert host.testinfra.service("nginx").is_running
    assert host.run("ls /etc/nginx/sites-enabled").stdout.split() == ["django-default"]
    with pytest.raises(requests.ConnectionError):
        host.http("/", "blog.example.org")
    assert not host.apply("django.sync", "django.proxy").changed
