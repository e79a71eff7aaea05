"""What a site that is pushed has on its host: the lines of its keys, its limits, and nothing where it has no push."""

import json

import pytest
from django_formula.request import push_setup
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
