"""What a site that is pushed has on its host: the lines of its keys, its limits, and nothing where it has no push."""

import json
import subprocess
from pathlib import Path

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.request import entrance, push, push_setup
from django_formula.source import git

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJ5S2dPZ0lWQ1h6R0ZtV0pQbGJwUWRCdUZ6cGFk ada@laptop"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
RUN = "/usr/bin/python3 -I /usr/local/lib/django-formula/push.pyz ssh blog"


@pytest.fixture
def site(make_site):
    keys = {"ada": {"key": KEY, "from": []}, "ci": {"key": OTHER, "from": ["192.0.2.0/24", "2001:db8::/32"]}}
    return make_site(push={"keys": keys, "size": "100M", "quota": "1G"}, revision="main")


def files(site):
    return {path.name: text for path, (text, _mode) in push_setup._files(site).items()}


def test_key_runs_one_program(site):
    _ours, *lines = files(site)["authorized_keys"].splitlines()
    assert lines == [
        f'restrict,command="{RUN} ada" {KEY}',
        f'restrict,from="192.0.2.0/24,2001:db8::/32",command="{RUN} ci" {OTHER}',
    ]


def test_limits_are_bytes(site):
    config = json.loads(files(site)["config.json"])
    assert (config["size"], config["quota"], config["branch"]) == (100 << 20, 1 << 30, "main")
    assert "missingEmail" in config["harmless"] and len(config["harmless"]) == git.CONFIGURATION.count("= ignore")


def test_site_that_is_not_pushed_has_nothing_of_it(make_site):
    site = make_site()
    assert push_setup.pending(site) == {} and push_setup.present(site) == []


@pytest.fixture
def host(socket_host, site, monkeypatch):
    """A host that can be pushed to; git runs there as the user of the tests."""
    site.root.mkdir(parents=True, exist_ok=True)
    run = commands.run

    def with_git(argv, **options):
        if argv[0] == "git":
            subprocess.run(argv, check=True)
        return run(argv, **options)

    monkeypatch.setattr(commands, "run", with_git)
    for name in ("HOME", "HOOKS"):
        monkeypatch.setattr(push, name, socket_host.root / str(getattr(push, name)).lstrip("/"))
        getattr(push, name).parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(push_setup, "_ARCHIVE", push.HOOKS.parent / "push.pyz")
    monkeypatch.setattr(entrance, "is_admitted", lambda _site, _user: True)
    monkeypatch.setattr(push_setup.build_user, "end_user", lambda _name: None)
    return socket_host


@pytest.mark.parametrize(
    ("name", "content"), [("HEAD", b""), ("HEAD", bytes(21)), ("config", b""), ("config", None), ("objects", None)]
)
def test_repository_that_a_power_loss_has_left_without_content_is_made_anew(host, site, name, content):
    push_setup.apply(site)
    assert push_setup.pending(site) == {}
    path = Path(str(push_setup.repository(site) / name))
    if path.is_dir():
        for folder in (*path.iterdir(), path):
            folder.rmdir()
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert push_setup.pending(site) == {str(push_setup.repository(site)): "damaged"}
    push_setup.apply(site)
    assert push_setup.pending(site) == {}
    subprocess.run(["git", f"--git-dir={push_setup.repository(site)}", "rev-parse", "--git-dir"], check=True)


def die_at(word, site, monkeypatch):
    """Have an apply end before a command with a word, as by a loss of power."""
    run = commands.run

    def die(argv, **options):
        if word in argv:
            raise DeploymentError("the power is lost")
        return run(argv, **options)

    with monkeypatch.context() as patched:
        patched.setattr(commands, "run", die)
        with pytest.raises(DeploymentError, match="the power is lost"):
            push_setup.apply(site)


def test_timer_that_was_written_and_not_enabled_is_enabled(host, site, monkeypatch):
    die_at("enable", site, monkeypatch)
    assert push_setup.pending(site) == {str(push_setup._units(site)[1]): "disabled"}
    push_setup.apply(site)
    assert push_setup.pending(site) == {}


def test_user_whose_removal_was_interrupted_is_removed(host, site, monkeypatch):
    push_setup.apply(site)
    site.config["push"] = None
    die_at("userdel", site, monkeypatch)
    assert push_setup.pending(site) == {"user blog-push": "removed"}
    push_setup.apply(site)
    assert push_setup.pending(site) == {} and host.users == {}


def test_host_with_the_longest_name_of_linux_is_named(site, monkeypatch):
    """Python refuses to look for one of 64 characters: `label too long`."""
    monkeypatch.setattr(push_setup.socket, "gethostname", lambda: "x" * 64)
    assert push_setup.address(site) == f"blog-push@{'x' * 64}:blog"
