"""Secrets of the pillar, kept in each way that docs/guides/secrets.md has, by the commands and files that it prints."""

import json
import re

import pytest
import yaml
from conftest import Hosts, Repositories
from driven import Driven
from fleet import await_minions, start_salt
from lab import MINION, ROOT, Host
from products import shortened
from sites import Site

PAGE = (ROOT / "docs/guides/secrets.md").read_text()
MASTER = {
    "auto_accept": True,
    "file_roots": {"base": ["/srv/formula"]},
    "pillar_roots": {"base": ["/srv/pillar"]},
    "runner_dirs": ["/srv/formula/_runners"],
}
URI = "sdb://vault/secret/blog/database"
#: Of the stand-in.
ROLE, SECRET = "role-of-web1", "canary-secret-id"


def section(title: str) -> str:
    """What is below a title of the page."""
    return re.split(r"\n## ", PAGE.partition(f"\n## {title}\n")[2])[0]


def commands(text: str) -> str:
    """The commands for root in a section, as one program."""
    joined = re.sub(r"\\\n +", "", text)
    return "\n".join(["set -e", *re.findall(r"(?m)^    # (.*)$", joined)])


def block(text: str, language: str, number: int = 0) -> str:
    """A block of a language in a section."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number]


def write(host: Host, content: str) -> None:
    """Write a file to the place that its comment names."""
    named = re.search(r"(?m)^# (/[\w./]+)(, root:root 0600)?", content)
    assert named, content
    host.write(named[1], content, mode="0600" if named[2] else "0644")


def restart(host: Host) -> None:
    """Have Salt read its configuration anew: each call does so where there is no minion."""
    if isinstance(host, Driven):
        host.run("systemctl restart salt-minion")
        await_minions(host, [host])


#: The hosts that the site of each way begins on.
KINDS = {"masterless": "live", "master": "ready", "salt-3007": "salt-3007"}


@pytest.fixture(scope="module", params=shortened(KINDS, "masterless"))
def blog(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Site:
    host = module_hosts(kind=KINDS[request.param], name="web1")
    if request.param == "master":
        start_salt(host, "master", MASTER)
        start_salt(host, "minion", {"id": "web1", "master": "localhost"})
        await_minions(host, [host])
        host = Driven(host, by=host, command=("salt", "--timeout=600"))
    else:
        host.write("/etc/salt/minion", json.dumps(MINION | {"id": "web1", "default_include": "minion.d/*.conf"}))
    blog = Site(host, repositories(host))
    blog.deploy()
    return blog


def arrived(blog: Site) -> str:
    """The token that the project has, as its process reads it."""
    program = "import os; print(os.environ['API_TOKEN'])"
    assert blog.answering["release"] == blog.live
    return str(blog.manage(f'shell -c "{program}"')).splitlines()[-1]


def test_file_of_the_host(blog: Site) -> None:
    for number in (0, 1):
        write(blog.host, block(section("In a file of the host"), "yaml", number))
    restart(blog.host)
    blog.deploy(secrets={"API_TOKEN": URI})
    assert arrived(blog) == "the password"
    assert not blog.apply().changed


def test_text_that_gpg_has_encrypted(blog: Site) -> None:
    text = section("Encrypted in git: GPG")
    printed = blog.host.run(commands(text), timeout=300, environment={"DEBIAN_FRONTEND": "noninteractive"}).stdout
    cipher = printed[printed.index("-----BEGIN PGP MESSAGE") :]
    blog.configure(secrets={"API_TOKEN": cipher})
    head = block(text, "yaml").splitlines()[0]
    blog.host.pillar(f"{head}\n{yaml.safe_dump({'django': {'sites': blog.sites}})}")
    assert blog.host.apply().ok and arrived(blog) == "the password"

    blog.configure(secrets={"API_TOKEN": "sdb://vault/secret/blog/encrypted"})
    profile = yaml.safe_load(block(section("In a file of the host"), "yaml"))
    blog.host.write("/etc/salt/minion.d/vault.conf", yaml.safe_dump({"vault": profile["vault"] | {"gpg": True}}))
    blog.host.write("/etc/salt/secrets.yaml", yaml.safe_dump({"secret/blog/encrypted": cipher}), mode="0600")
    restart(blog.host)
    assert blog.host.apply().ok and arrived(blog) == "the password"


@pytest.mark.full
def test_file_that_age_has_encrypted(blog: Site) -> None:
    text = section("Encrypted in git: age")
    blog.host.run(commands(text), timeout=300, environment={"DEBIAN_FRONTEND": "noninteractive"})
    content = block(text, "python")
    write(blog.host, content)
    blog.configure(secrets=None)
    blog.host.write("/srv/pillar/top.sls", "base:\n  '*':\n    - host\n    - blog_secrets\n")
    applied = blog.host.apply()
    assert applied.ok and arrived(blog) == "the token", applied


@pytest.mark.full
def test_store_and_what_is_said_where_it_fails(blog: Site) -> None:
    text, host = section("In Vault or OpenBao"), blog.host
    installing = commands(text).replace("/opt/django-formula/salt", "/opt/salt")
    host.run(installing, timeout=300)
    host.write("/srv/vault.py", (ROOT / "test/hosts/stand_ins/vault.py").read_text())
    start = ["systemd-run", "--quiet", "--unit=vault", "python3", "/srv/vault.py", ROLE, SECRET, "database", "rotated"]
    host.run(start)
    profile = block(text, "yaml").replace("https://vault.example.org:8200", "http://127.0.0.1:8200")
    profile = profile.replace("ROLE", ROLE)
    write(host, profile.replace("SECRET", SECRET))
    restart(host)
    blog.deploy(secrets={"API_TOKEN": URI})
    assert arrived(blog) == "rotated"
    live = blog.live

    def refused(uri: str, *causes: str) -> None:
        applied = blog.apply(secrets={"API_TOKEN": uri})
        comments = [comment for comment in applied.failed.values() if uri in comment]
        assert not applied.ok and len(comments) == 1, applied
        first, hint = comments[0].split("\n")[:2]
        assert first.startswith("django:sites:blog:secrets:API_TOKEN") and f": {uri} has no value: " in first, first
        assert all(cause in first for cause in causes) and hint.endswith("docs/guides/secrets.md"), (first, hint)
        printed = applied.stdout + applied.stderr
        assert "Traceback" not in printed and "canary" not in printed
        assert blog.answering["release"] == blog.live == live

    refused("sdb://nowhere/secret/blog/database", "this Salt has no sdb profile nowhere")
    refused("sdb://vault/secret/blog/lacking", "profile vault has no secret/blog/lacking")
    host.run("systemctl stop vault; find /var/cache/salt -path '*vault*' -delete")
    refused(URI, "CommandExecutionError: ", "127.0.0.1")
    host.run(start)
    write(host, profile.replace("SECRET", "canary-of-another"))
    restart(host)
    refused(URI, "CommandExecutionError: ", "invalid role or secret ID")
    write(host, profile.replace("driver: vault", "driver: keyring"))
    restart(host)
    refused(URI, "this Salt has no sdb driver keyring")
