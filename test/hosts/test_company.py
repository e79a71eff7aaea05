"""A host within a company: out by a proxy alone, an authority and a package index of its own, both with a password."""

import re
from collections.abc import Iterator

import pytest
from company import Company
from images import CERTIFICATES
from lab import Host
from sites import Site, lines

BUNDLE = "/root/authorities.pem"
CANARY = "grenadier-9c1-"
UV = "/usr/local/lib/django-formula/uv"
SAYS = "import company_motto; print(company_motto.MOTTO)"


class Employee(Site):
    """A site whose Salt is started with the company's environment."""

    environment: dict[str, str]

    def apply(self, test: bool = False, **changes):
        self.configure(**changes)
        lines = "".join(f"export {name}='{value}'\n" for name, value in self.environment.items())
        self.host.write(
            "/usr/local/bin/salt-call", f'#!/bin/sh\n{lines}exec /opt/salt/bin/salt-call "$@"\n', mode="0755"
        )
        return self.host.apply(test=test)


@pytest.fixture(scope="module")
def host(module_hosts) -> Host:
    return module_hosts(kind="ready", name="web1", options=["--cap-add=NET_ADMIN"])


@pytest.fixture(scope="module")
def company(lab, host, tmp_path_factory) -> Iterator[Company]:
    """What the host reaches; its network is there once a host is."""
    repositories = tmp_path_factory.mktemp("repositories")
    company = Company(tmp_path_factory.mktemp("company"), str(lab.subnet[1]), repositories)
    yield company
    company.close()


@pytest.fixture(scope="module")
def blog(host, repositories, company) -> Employee:
    host.run(f"cat {CERTIFICATES} - > {BUNDLE}", stdin=company.authority.read_text())
    host.run(f"ip route del default && rm -r {UV} /usr/local/bin/salt-call")
    repository = repositories(host)
    folder = company.intranet.RequestHandlerClass.folder  # type: ignore[attr-defined]
    (folder / "project.git").symlink_to(repository.bare)
    needs = (repository.worktree / "requirements.txt").read_text()
    repository.commit({"requirements.txt": f"{needs}company-motto\n"})
    repository.git("-C", str(repository.bare), "update-server-info")
    blog = Employee(host, repository)
    blog.options["repository"] = f"{company.url}/git/project.git"
    blog.options["index"] = {"url": f"{company.url}/simple", "user": company.user, "password": f"{CANARY}wrong"}
    blog.environment = {}
    return blog


def test_without_a_proxy_nothing_is_reached(blog):
    comment = blog.apply(timeouts={"fetch": "5s"}).failed["uv is installed"]
    assert "installing uv failed" in comment and lines(comment) <= 10


def test_an_authority_that_is_not_known_is_named(blog, company):
    blog.environment = {"http_proxy": company.proxy_url, "https_proxy": company.proxy_url}
    applied = blog.apply()
    comment = applied.failed["uv is installed"]
    assert re.search("certificate|SSL", comment) and lines(comment) <= 10, comment


def test_a_wrong_password_of_the_index_is_named(blog, company):
    blog.environment |= {"SSL_CERT_FILE": BUNDLE}
    blog.environment |= {"PIP_CERT": BUNDLE}
    blog.options["index"]["password"] = company.password
    blog.host.run(["true"])
    applied = blog.apply(index={**blog.options["index"], "password": f"{CANARY}wrong"})
    print(applied)
    assert 0


def test_all_comes_by_the_proxy_and_from_the_index(blog, company):
    blog.deploy(index={**blog.options["index"], "password": company.password})
    assert blog.get().status_code == 200
