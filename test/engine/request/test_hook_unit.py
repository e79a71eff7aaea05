"""The webhook of a site as files: what is made, what changes it, how its secret is rotated, and what is left."""

import json
import stat
import threading
import types

import pytest
from django_formula.host import config_files
from django_formula.host.commands import DeploymentError
from django_formula.request import hook_unit
from django_formula.site import behind_socket

SECRET, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def host(socket_host):
    return socket_host


def applied(site, given=None):
    changes = hook_unit.pending(site, given)
    hook_unit.apply(site, given)
    assert hook_unit.pending(site, given) == {}
    return changes


def kept(site):
    return json.loads(hook_unit.config_file(site).read_text())


def files(host):
    return sorted(path.name for path in host.root.rglob("*") if "hook" in path.name)


def test_webhook_is_made_once_and_removed_whole(host, make_site):
    site = make_site(hook=True)
    changes = applied(site)
    units = ["django-blog-web-hook.service", "django-blog-web-hook.socket"]
    assert files(host) == [".hook.json", *sorted([*units, units[1], "hook.pyz"])]
    assert changes["user blog-hook"] == "new" and changes[str(hook_unit.config_file(site))] == "new"
    secret = kept(site)["secret"]
    assert len(secret) == 64 and kept(site)["ref"] == "refs/heads/main" and secret not in str(changes)
    assert stat.S_IMODE(hook_unit.config_file(site).stat().st_mode) == 0o600
    service = (host.root / "etc/systemd/system" / units[0]).read_text()
    assert secret not in service and f"StandardInput=file:{hook_unit.config_file(site)}\n" in service
    assert "\nUser=blog-hook\nSupplementaryGroups=blog-ask\n" in service
    host.calls.clear()
    hook_unit.apply(site, None)
    assert host.calls == []
    gone = make_site()
    assert set(applied(gone).values()) == {"removed"} and files(host) == [] and host.users == {}
    assert hook_unit.pending(gone, None) == {} and hook_unit.read(gone) is None


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({}, "http://blog.example.org/"),
        ({"proxy": {"listen": [8080]}}, "http://blog.example.org:8080/"),
        ({"proxy": {"listen": ["192.0.2.1:8080", 80]}}, "http://blog.example.org/"),
        ({"proxy": {"listen": [8080], "trusted": ["10.0.0.1"]}}, "http://blog.example.org/"),
        ({"tls": {"kind": "self_signed"}}, "https://blog.example.org/"),
        ({"tls": {"kind": "self_signed", "listen": [9443, 8443]}}, "https://blog.example.org:8443/"),
    ],
)
def test_url_has_the_port_that_git_servers_reach(make_site, options, begins):
    assert hook_unit.url(make_site(hook=True, **options)) == f"{begins}.well-known/django-hook"


def test_program_stays_for_another_site(host, make_site):
    applied(make_site(hook=True))
    applied(make_site("shop", hook=True))
    hook_unit.remove(make_site())
    assert hook_unit.HOOK.program.exists() and [*host.users] == ["shop-hook"]
    assert hook_unit.pending(make_site(), None) == {}
    hook_unit.remove(make_site("shop"))
    assert files(host) == []


def test_secret_of_the_pillar_replaces_another_one(host, make_site, monkeypatch):
    monkeypatch.setattr(hook_unit.time, "time", lambda: 1000)
    site = make_site(hook={"secret": SECRET})
    applied(site, SECRET)
    assert (kept(site)["secret"], kept(site)["former"], kept(site)["until"]) == (SECRET, "", 0)
    assert hook_unit.describe(site)["secret"] == "as in the pillar, django:sites:blog:hook:secret"
    with pytest.raises(DeploymentError, match="the pillar has the secret of the webhook of blog"):
        hook_unit.rotate(site)
    applied(site, OTHER)
    assert (kept(site)["secret"], kept(site)["former"], kept(site)["until"]) == (OTHER, SECRET, 1000 + 86400)
    applied(make_site(hook=True))
    assert kept(site)["secret"] == OTHER and kept(site)["is_given"] is False


def test_rotation_keeps_the_former_secret_for_a_day(host, make_site):
    site = make_site(hook=True, path="/blog")
    applied(site)
    before = kept(site)["secret"]
    assert hook_unit.describe(site) == {
        "url": "http://blog.example.org/blog/.well-known/django-hook",
        "content_type": "application/json",
        "branch": "refs/heads/main",
        "secret": before,
    }
    hook_unit.rotate(site)
    assert kept(site)["former"] == before != kept(site)["secret"]
    assert hook_unit.describe(site)["former_secret"] == "accepted for 24 h"
    assert host.calls[-1] == "systemctl stop django-blog-web-hook.service"
    assert hook_unit.pending(site, None) == {}


def test_rotation_during_an_apply_is_kept(host, make_site, monkeypatch):
    applied(make_site(hook=True))
    site = make_site(hook=True, revision="release")
    before, config, begun = kept(site)["secret"], hook_unit._config, []
    rotation = threading.Thread(target=hook_unit.rotate, args=(site,))

    def slow(*arguments):
        made = config(*arguments)
        begun.append(1)
        if len(begun) == 2:  # the first one is the look
            rotation.start()
            rotation.join(0.3)
        return made

    monkeypatch.setattr(hook_unit, "_config", slow)
    hook_unit.apply(site, None)
    rotation.join(5)
    assert kept(site)["former"] == before != kept(site)["secret"] and kept(site)["ref"] == "refs/heads/release"


def test_another_branch_or_a_damaged_file_is_a_change(host, make_site):
    applied(make_site(hook=True))
    site = make_site(hook=True, revision="release")
    before = kept(site)["secret"]
    assert applied(site) == {str(hook_unit.config_file(site)): "changed"}
    assert (kept(site)["secret"], kept(site)["ref"]) == (before, "refs/heads/release")
    hook_unit.config_file(site).write_text("{")
    assert applied(site) == {str(hook_unit.config_file(site)): "new"} and kept(site)["secret"] != before


def test_user_of_another_one_is_refused(host, make_site):
    host.users["blog-hook"] = types.SimpleNamespace(pw_gecos="Ray")
    with pytest.raises(DeploymentError, match="exists on this host and does not belong to the site blog"):
        hook_unit.apply(make_site(hook=True), None)
    hook_unit.remove(make_site())
    assert "blog-hook" in host.users


def test_site_without_a_webhook_has_nothing(host, make_site):
    site = make_site()
    assert hook_unit.pending(site, None) == {} and hook_unit.present(site) == []
    for call in (hook_unit.rotate, hook_unit.describe):
        with pytest.raises(DeploymentError, match="blog has no webhook"):
            call(site)


def apply_over(older, host, make_site, monkeypatch, *, listens):
    """Apply a webhook again, of which one unit has another text."""
    site = make_site(hook=True)
    applied(site)
    (host.root / "etc/systemd/system" / older).write_text(f"{config_files.OURS}\nan older one")
    host.calls.clear()
    monkeypatch.setattr(behind_socket.unix_sockets, "listens", lambda path: listens)
    applied(site)


@pytest.mark.parametrize(("listens", "stopped"), [(True, ["service"]), (False, ["service", "socket"])])
def test_socket_that_is_as_configured_stays_open_while_the_program_is_replaced(
    host, make_site, monkeypatch, listens, stopped
):
    """A delivery that comes meanwhile waits in it: git servers do not send one again."""
    apply_over("django-blog-web-hook.service", host, make_site, monkeypatch, listens=listens)
    assert f"systemctl stop {' '.join(f'django-blog-web-hook.{kind}' for kind in stopped)}" in host.calls
    assert "systemctl start django-blog-web-hook.socket" in host.calls


def test_socket_of_another_configuration_is_opened_anew(host, make_site, monkeypatch):
    apply_over("django-blog-web-hook.socket", host, make_site, monkeypatch, listens=True)
    assert "systemctl stop django-blog-web-hook.service django-blog-web-hook.socket" in host.calls
