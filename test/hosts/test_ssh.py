"""salt-ssh: a host with Debian and sshd, nothing of Salt on it, driven from another one."""

import hashlib
import json
import re
import subprocess

import pytest
import yaml
from driven import Driven, reachable_by_ssh
from images import TOOLS
from lab import ROOT
from repository import EXAMPLE
from sites import Site, version

TOKEN = "hunter2 $HOME 'and' \"quotes\""
MASTER = {"file_roots": {"base": ["/srv/formula", "/srv/salt"]}, "pillar_roots": {"base": ["/srv/pillar"]}}
TEMPLATE = "DOMAIN = {{ site.domains[0] | tojson }}\nTOKEN = {{ environment.API_TOKEN | tojson }}\n"


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    """A site of a host that salt-ssh had never seen, after the first dry run and the first apply."""
    desk = module_hosts(name="desk", packages=TOOLS)
    bare = module_hosts(kind="bare", name="web1")
    bare.run(["rm", "-r", "/srv/formula"])
    reachable_by_ssh(desk, bare)
    desk.write("/etc/salt/master", json.dumps(MASTER))
    desk.write("/etc/salt/roster", "web1:\n  host: web1\n  user: root\n  priv: /root/.ssh/id_ed25519\n")
    desk.write("/srv/salt/blog/place.py.jinja", TEMPLATE)
    web1 = Driven(bare, by=desk, command=("salt-ssh",))
    files = {"website/place.py": {"source": "salt://blog/place.py.jinja"}}
    blog = Site(web1, repositories(bare), files=files, secrets={"API_TOKEN": TOKEN})
    bare.send(
        subprocess.run(["tar", "--create", "."], cwd=EXAMPLE, stdout=subprocess.PIPE, check=True).stdout, "/root/blog"
    )
    blog.inspected = web1.printed("django.inspect", "/root/blog")
    blog.foreseen = blog.apply(test=True)
    blog.before = bare.run("ls /srv /usr/bin/git /usr/sbin/nginx", check=False).stdout.split()
    blog.first = blog.deploy()
    return blog


def test_a_bare_host_inspects_a_project(blog):
    """Before any apply: a folder, for even git is not there."""
    (site,) = yaml.safe_load(blog.inspected)["web1"]["django"]["sites"].values()
    assert site["folder"] == "/root/blog" and "not completely inspected" not in blog.inspected, blog.inspected


def test_a_bare_host_is_dry_run(blog):
    assert not blog.foreseen.failed and not blog.foreseen.errors, blog.foreseen
    would = blog.foreseen["blog has its source"]
    assert would.result is None and "main" in str(would.changes)
    assert blog.before == ["/srv:", "git"]


@pytest.mark.smoke
def test_the_site_is_served_and_salt_is_not_installed(blog):
    assert "Guestbook" in blog.get().text
    assert blog.host.run("command -v salt-call salt-minion", check=False).returncode == 1


def test_a_second_apply_changes_nothing(blog):
    again = blog.apply()
    assert again.ok and not again.changed, again


def test_a_template_and_a_secret_of_the_pillar_arrive(blog):
    place: dict[str, str] = {}
    exec(blog.host.read(f"{blog.root}/current/source/website/place.py"), place)
    assert (place["DOMAIN"], place["TOKEN"]) == ("blog.example.org", TOKEN)
    assert blog.host.read(f"{blog.root}/secrets/API_TOKEN") == TOKEN
    seen = blog.manage(
        "shell --command 'import hashlib, os; print(hashlib.sha256(os.environ[\"API_TOKEN\"].encode()).hexdigest())'"
    )
    assert hashlib.sha256(TOKEN.encode()).hexdigest() in seen
    assert "hunter2" not in blog.foreseen.stdout + blog.first.stdout + blog.first.stderr


@pytest.mark.full
@pytest.mark.smoke
def test_verbs_go_by_ssh(blog):
    first = blog.live
    blog.repository.commit(version("2.0"))
    assert blog.host.call("django.release", "blog")["release"] == blog.live != first
    assert blog.answering["version"] == "2.0"
    assert blog.host.call("django.rollback", "blog")["release"] == blog.live == first
    assert blog.host.call("django.status", "blog", full=True)[0]["managed"] is None
    held = blog.apply()
    assert held.ok and not held.changed and blog.live == first


@pytest.mark.full
def test_salt_ssh_prints_a_view_for_people_and_a_pillar_to_paste(blog):
    lines = blog.host.printed("django.status").splitlines()
    assert lines[0] == "web1:" and lines[3].split()[:3] == ["-", "blog", blog.live], lines
    assert len(lines) < 10 and max(map(len, lines)) <= 100
    printed = blog.host.printed("django.inspect", f"{blog.root}/current/source")
    pillar = yaml.safe_load(printed)["web1"]
    assert pillar["django"]["sites"] and "not completely inspected" not in printed, printed
    assert yaml.safe_load(printed.partition("\n")[2]) == pillar


@pytest.mark.full
def test_what_fails_is_no_success_of_salt_ssh(blog):
    assert blog.host.salt("django.manage", "blog", "lacking").returncode != 0
    applied = blog.apply(revision="lacking")
    assert applied.returncode != 0 and list(applied.failed)[:1] == ["blog has its source"], applied


@pytest.mark.full
def test_secret_of_a_store_is_taken_into_the_pillar(blog):
    """As docs/guides/secrets.md prints it; the reference itself has no value on the host."""
    page = (ROOT / "docs/guides/secrets.md").read_text().partition("\n## With salt-ssh\n")[2]
    expression = re.search(r"\{\{ .* \}\}", page)
    assert expression
    desk, reference = blog.host.by, "sdb://vault/secret/blog/token"
    profile = {"vault": {"driver": "yaml", "files": ["/etc/salt/secrets.yaml"]}}
    desk.write("/etc/salt/master", json.dumps(MASTER | profile))
    desk.write("/etc/salt/secrets.yaml", json.dumps({"secret/blog/token": "of-the-store"}), mode="0600")
    refused = blog.apply(revision="main", secrets={"API_TOKEN": reference})
    said = [comment for comment in refused.failed.values() if reference in comment]
    assert len(said) == 1 and "has no value: this Salt has no sdb profile vault" in said[0], refused
    assert "with salt-ssh" in said[0] and "Traceback" not in refused.stdout
    blog.host.pillar(json.dumps({"django": {"sites": blog.sites}}).replace(json.dumps(reference), expression[0]))
    assert blog.host.apply().ok
    assert blog.host.read(f"{blog.root}/secrets/API_TOKEN") == "of-the-store"
