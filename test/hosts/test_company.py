"""A host within a company: out by a proxy alone, an authority and a package index of its own, both with a password."""

from collections.abc import Iterator, Mapping

import pytest
from company import Company
from images import CERTIFICATES
from lab import Applied, Host
from sites import Site, lines

pytestmark = pytest.mark.full

BUNDLE = "/etc/ssl/authorities.pem"
CANARY = "grenadier-9c1-"
UV = "/usr/local/lib/django-formula/uv"
#: What the lab says to every host.
UNSAID = "unset SSL_CERT_FILE PIP_CERT NODE_EXTRA_CA_CERTS"
#: The arguments of every process, for as long as the tests run.
WATCH = "while sleep 0.2; do cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; done 2>/dev/null > /run/arguments"


class Employee(Site):
    """A site whose Salt is started with an environment of its own; `said` is all that its applies have said."""

    said = ""

    def starts_salt_with(self, environment: Mapping[str, str]) -> None:
        exported = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
        script = f'#!/bin/sh\n{UNSAID}\n{exported}exec /opt/salt/bin/salt-call "$@"\n'
        self.host.write("/usr/local/bin/salt-call", script, mode="0755")

    def apply(self, test: bool = False, **changes: object) -> Applied:
        applied = super().apply(test=test, **changes)
        self.said += repr(applied) + applied.stdout
        return applied


@pytest.fixture(scope="module")
def host(module_hosts) -> Host:
    return module_hosts(kind="ready", name="web1", options=["--cap-add=NET_ADMIN"])


@pytest.fixture(scope="module")
def company(lab, host, tmp_path_factory) -> Iterator[Company]:
    """What the host reaches; its network is there once a host is."""
    folder = tmp_path_factory.mktemp("company")
    company = Company(folder, str(lab.subnet[1]), folder / "repositories")
    yield company
    company.close()


@pytest.fixture(scope="module")
def environment(company) -> dict[str, str]:
    return {"http_proxy": company.proxy_url, "https_proxy": company.proxy_url}


@pytest.fixture(scope="module")
def blog(host, repositories, company, environment) -> Employee:
    host.run(f"cat {CERTIFICATES} - > {BUNDLE}", stdin=company.authority.read_text())
    host.run("ip route del default && rm /usr/local/bin/salt-call")
    host.run(["systemd-run", "--quiet", "--unit=watch", "bash", "-c", WATCH])
    blog = Employee(host, repositories(host))
    company.repositories.mkdir()
    (company.repositories / "project.git").symlink_to(blog.repository.bare)
    commit(blog, "company-motto\n")
    blog.options["repository"] = f"{company.url}/git/project.git"
    blog.options["index"] = {"url": f"{company.url}/simple", "user": company.user, "password": f"{CANARY}wrong"}
    blog.starts_salt_with(environment)
    return blog


def commit(blog: Site, needs: str) -> None:
    """Commit what the project needs besides Django, and let it be read by https."""
    blog.repository.git("checkout", "--quiet", blog.repository.first, "--", "requirements.txt")
    blog.repository.append("requirements.txt", needs)
    blog.repository.git("-C", str(blog.repository.bare), "update-server-info")


def test_an_authority_that_is_not_known_is_named(blog, company):
    comment = blog.apply().failed["blog has its source"]
    assert "the certificate of" in comment and "SSL_CERT_FILE" in comment and lines(comment) <= 10
    assert company.intranet.place in company.proxy.seen and not company.intranet.seen


def test_a_wrong_password_of_the_index_is_named(blog, environment):
    blog.starts_salt_with(environment | {"SSL_CERT_FILE": BUNDLE})
    comment = blog.apply().failed["blog has its virtualenv"]
    assert "the package index refused the login: set django:sites:blog:index:user" in comment and lines(comment) <= 10


def test_all_comes_by_the_proxy_and_from_the_index(blog, company):
    blog.deploy(index={**blog.options["index"], "password": company.password})
    assert blog.answering["release"] == blog.live
    assert {"/simple/django/", "/simple/company-motto/", "/simple/pyuwsgi/"} <= {*company.intranet.seen}
    assert "files.pythonhosted.org:443" in company.proxy.seen
    python = f"{blog.root}/current/virtualenv/bin/python"
    assert blog.host.run([python, "-c", "import company_motto; print(company_motto.MOTTO)"]).stdout == "by the book\n"
    assert not blog.apply().changed


def test_a_wrong_password_of_the_proxy_is_named(blog, company, environment):
    commit(blog, "company-motto\niniconfig\n")
    wrong = {name: url.replace(company.proxy_password, f"{CANARY}wrong") for name, url in environment.items()}
    blog.starts_salt_with(wrong | {"SSL_CERT_FILE": BUNDLE})
    applied = blog.apply()
    assert applied.ok and "407" in str(applied.warnings["blog has its source"]), applied


def test_uv_comes_from_the_index_and_the_system_knows_the_authority(blog, company, environment):
    """`django.release` works too: the password was kept for it."""
    blog.host.mount("--bind", BUNDLE, CERTIFICATES)
    blog.host.run(["rm", "-r", UV])
    blog.starts_salt_with(environment)
    live = blog.live
    company.intranet.seen.clear()
    applied = blog.deploy(deploy="manual")
    assert (
        applied.changed.keys() == {"uv is installed", "blog has its directories"}
        and "/simple/uv/" in company.intranet.seen
    )
    assert "live" in str(blog.host.call("django.release", "blog")) and blog.live != live
    assert "/simple/iniconfig/" in company.intranet.seen


def test_no_password_is_seen_anywhere(blog, company):
    failing = ["salt-call", "--local", "--log-level=debug", "state.apply", "django"]
    commit(blog, "nothing-of-that-name-9c1\n")
    blog.configure(deploy=None)
    done = blog.host.run(failing, check=False)
    assert "installing packages failed" in done.stdout
    logs = "journalctl --no-pager --output=verbose; cat /var/log/salt/* /var/log/nginx/* /run/arguments"
    blog.host.run(["systemctl", "stop", "watch"])
    said = "\n".join([blog.said, done.stdout, done.stderr, blog.host.run(logs, check=False).stdout])
    assert "pip install" in said, "the processes were seen"
    assert [line[:300] for line in said.splitlines() if CANARY in line] == []
    listed = blog.host.run(f"grep -rl --binary-files=text {CANARY} /etc /run /srv /tmp /usr/local /var", check=False)
    expected = {"/srv/pillar/host.sls", "/usr/local/bin/salt-call", f"{blog.root}/secrets/.index_password"}
    formula = "/srv/formula/"
    assert {path for path in listed.stdout.split() if not path.startswith(formula)} == expected
    file = blog.host.testinfra.file(f"{blog.root}/secrets/.index_password")
    assert (file.user, file.mode, file.content_string) == ("root", 0o600, company.password)
