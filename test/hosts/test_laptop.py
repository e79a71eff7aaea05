"""`django-formula up` from a machine with Python, git and ssh to a bare host, by a user with sudo."""

import subprocess
import sys
import time

import pytest
from conftest import Hosts
from driven import reachable_by_ssh
from lab import ROOT, Host, Result
from repository import EXAMPLE

pytestmark = pytest.mark.full

QUIET = {"DEBIAN_FRONTEND": "noninteractive"}
UP = "django-formula up ada@web1 --repository guestbook --domain blog.example.org"


class Laptop:
    """A machine that has the program, and a host that it may log in to as ada."""

    def __init__(self, desk: Host, web1: Host):
        self.desk, self.web1 = desk, web1

    def run(self, command: str, check: bool = True) -> Result:
        return self.desk.run(
            ["bash", "-c", f"cd /root && export PATH=/root/v/bin:$PATH && {command}"], check=check, timeout=900
        )

    def page(self) -> str:
        return self.web1.http("/", "blog.example.org").text


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def laptop(request: pytest.FixtureRequest, module_hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    built = tmp_path_factory.mktemp("wheel")
    argv = ["uv", "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*argv, "--out-dir", str(built), str(ROOT)], check=True)
    (wheel,) = built.glob("*.whl")
    desk, web1 = module_hosts(kind="bare", name="desk"), module_hosts(request.param, kind="bare", name="web1")
    desk.run("apt-get -qq update && apt-get -qq install --no-install-recommends git python3-venv", environment=QUIET)
    web1.run(
        "rm -r /srv/formula; apt-get -qq update && apt-get -qq install --no-install-recommends sudo", environment=QUIET
    )
    reachable_by_ssh(desk, web1)
    web1.run("useradd --create-home --shell /bin/bash ada && echo ada:of-the-laptop | chpasswd && adduser ada sudo")
    web1.run("install -d -o ada -g ada -m 700 ~ada/.ssh && install -o ada /root/.ssh/authorized_keys ~ada/.ssh")
    web1.write("/etc/sudoers.d/ada", "ada ALL=(ALL) NOPASSWD: ALL\n", mode="0440")
    desk.write(f"/root/{wheel.name}", wheel.read_bytes())
    desk.run(f"python3 -m venv /root/v && /root/v/bin/pip install --quiet --no-index /root/{wheel.name}")
    desk.send(
        subprocess.run(["tar", "-c", "."], cwd=EXAMPLE, stdout=subprocess.PIPE, check=True).stdout, "/root/guestbook"
    )
    git = "git -c user.name=Ada -c user.email=ada@example.org"
    desk.run(f"cd /root/guestbook && git init --quiet && git add . && {git} commit --quiet -m First")
    return Laptop(desk, web1)


def test_one_command_brings_a_bare_host_to_serve_what_is_committed_here(laptop: Laptop) -> None:
    began = time.monotonic()
    done = laptop.run(UP)
    print(f"one command to a page: {time.monotonic() - began:.0f} s")
    assert "http://blog.example.org/ answers 200 OK" in done.stdout, done
    assert "Guestbook" in laptop.page()
    left = laptop.web1.run(
        "ls -d /var/tmp/django-formula* /srv/projects/*; stat -c %U:%a /srv/projects/guestbook", check=False
    )
    assert left.stdout == "/srv/projects/guestbook\nroot:700\n"


def test_the_same_command_releases_what_is_committed_since(laptop: Laptop) -> None:
    name = laptop.desk.run("cd /root/guestbook && grep -rl Guestbook --include=*.html . | head -1").stdout.strip()
    assert name
    edit = f"sed -i s/Guestbook/Visitors/g {name}"
    commit = "git -c user.name=Ada -c user.email=ada@example.org commit --quiet -am Next"
    laptop.desk.run(f"cd /root/guestbook && {edit} && {commit} && echo KEY=1 >.env")
    laptop.run(UP)
    assert "Visitors" in laptop.page()
    assert laptop.web1.run("ls -A /srv/projects/guestbook").stdout.split().count(".env") == 0


def test_verbs_of_the_host_are_called(laptop: Laptop) -> None:
    shown = laptop.run("django-formula status ada@web1 guestbook")
    assert "0002" in shown.stdout
    back = laptop.run("django-formula rollback ada@web1 guestbook")
    assert "0001" in back.stdout and "Guestbook" in laptop.page()
    failed = laptop.run("django-formula rollback ada@web1 lacking", check=False)
    assert failed.returncode and "lacking" in failed.stdout


def test_folder_is_pushed_from_then_on(laptop: Laptop) -> None:
    laptop.desk.run("ls /root/.ssh/*.pub || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
    done = laptop.run(f"{UP} --push")
    assert "in /root/guestbook: git push live" in done.stdout, done
    git = "git -c user.name=Ada -c user.email=ada@example.org"
    word = "Visitors"
    for new in ("Pushed", "Twice"):
        laptop.desk.run(f"cd /root/guestbook && sed -i s/{word}/{new}/g $(grep -rl {word} --include=*.html .)")
        began = time.monotonic()
        pushed = laptop.run(f"cd guestbook && {git} commit --quiet -am {new} && git push live")
        print(f"git push: {time.monotonic() - began:.1f} s")
        assert "is active" in pushed.stderr and new in laptop.page(), pushed
        word = new
    again = laptop.run(UP)
    assert "which git push releases" in again.stdout and "Twice" in laptop.page(), again


def test_password_of_sudo_is_typed_at_the_terminal(laptop: Laptop) -> None:
    laptop.web1.run("rm /etc/sudoers.d/ada")
    refused = laptop.run("django-formula status ada@web1 guestbook </dev/null", check=False)
    assert refused.returncode == 1 and "sudo of ada@web1 asks for a password, and this is no terminal" in refused.stderr
    active = laptop.web1.run("basename $(readlink /srv/django/guestbook/current)").stdout.strip()
    command = "cd /root && v/bin/django-formula status ada@web1 guestbook"
    done = laptop.desk.type(command, "assword", "of-the-laptop")
    assert active in done.stdout and done.returncode == 0, done
