"""The files by which a host is watched."""

import pytest
from django_formula.host import archive, daemons
from django_formula.host.commands import DeploymentError
from django_formula.watch import look, setup, spool, watch

WANTED = {"every": 60, "deploys": [], "channels": {}, "page": False}


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host without systemd and cron."""
    monkeypatch.setattr(daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(archive, "install", lambda _module, path: path.write_bytes(b"PK\5\6" + bytes(18)))
    monkeypatch.setattr(setup, "UNITS", tmp_path / "units")
    monkeypatch.setattr(setup, "CRON", tmp_path / "etc/cron.d/django-watch")
    monkeypatch.setattr(setup, "PROGRAM", tmp_path / "lib/watch.pyz")
    for name in ("STATE", "CHANNELS", "CONFIG", "PAGE"):
        monkeypatch.setattr(spool, name, tmp_path / "watch" / name)
    return tmp_path


@pytest.mark.parametrize("is_installed", [False, True])
def test_a_host_without_cron_is_watched_once_cron_is_there(host, monkeypatch, is_installed):
    foreseen = setup.watch(WANTED, {}, test=True)
    assert foreseen.changes and not (host / "etc").exists()
    assert setup.watch(WANTED, {}, test=False).comment == "the host is watched as soon as cron is installed and runs"
    assert "* * * * root" in setup.CRON.read_text()
    assert not setup.watch(WANTED, {}, test=False).changes
    monkeypatch.setattr(setup.shutil, "which", lambda _name: "/usr/sbin/cron" if is_installed else None)
    assert str(setup.CRON) in setup.remove(test=False).changes and not setup.CRON.exists()
    assert setup.CRON.parent.exists() is is_installed


def test_look_makes_nothing_again_of_a_watch_that_was_removed_meanwhile(host, monkeypatch):
    """Without systemd the removal does not end it."""

    def removed(*_arguments):
        setup.remove(test=False)
        return look.Seen({}, [], [], {})

    setup.watch({**WANTED, "quiet": [], "heartbeat": False}, {}, test=False)
    monkeypatch.setattr(look, "examine", removed)
    assert watch.take(spool.config()) == 0
    assert not spool.CHANNELS.exists() and not spool.STATE.exists()


def test_watch_of_a_master_without_systemd_is_a_second_line_of_cron(host, monkeypatch):
    monkeypatch.setattr(setup.fleet, "program", lambda: "/usr/bin/salt-run")
    setup.watch({**WANTED, "is_master": True}, {}, test=False)
    assert "*/2 * * * * root" in setup.CRON.read_text() and " fleet >/dev/null" in setup.CRON.read_text()
    assert not setup.watch({**WANTED, "is_master": True}, {}, test=False).changes
    assert str(setup.CRON) in setup.watch(WANTED, {}, test=False).changes and "fleet" not in setup.CRON.read_text()


def test_master_without_salt_run_is_refused_before_anything_is_changed(host, monkeypatch):
    monkeypatch.setattr(setup.fleet, "PATH", str(host))
    with pytest.raises(DeploymentError, match="there is no salt-run on this host"):
        setup.watch({**WANTED, "is_master": True}, {}, test=False)
    assert not setup.CRON.exists()


def test_timer_of_a_master_is_started_and_removed_by_systemd(host, monkeypatch):
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(daemons, "has_systemd", lambda: True)
    monkeypatch.setattr(setup.units, "control", lambda *words, **_options: calls.append(words))
    monkeypatch.setattr(setup.fleet, "program", lambda: "/usr/bin/salt-run")
    setup.watch({**WANTED, "is_master": True}, {}, test=False)
    assert ("restart", setup.TIMER, setup.FLEET) in calls, "no path unit without deployments to wait for"
    assert not (setup.UNITS / setup.EVENTS).exists()
    setup.watch({**WANTED, "deploys": ["/srv/django/blog/deploys.jsonl"]}, {}, test=False)
    assert ("disable", "--quiet", "--now", setup.FLEET) in calls and not (setup.UNITS / setup.FLEET).exists()
    assert ("restart", setup.TIMER, setup.EVENTS) in calls


@pytest.mark.parametrize("is_master", [True, False])
def test_watch_of_a_master_outlives_its_last_site(host, monkeypatch, is_master):
    monkeypatch.setattr(setup.fleet, "program", lambda: "/usr/bin/salt-run")
    monkeypatch.setattr(setup.sites, "registered", list)
    setup.watch({**WANTED, "is_master": is_master}, {}, test=False)
    assert bool(setup.remove_if_last((), test=False)) is not is_master
    assert setup.CRON.exists() is is_master


def test_instances_weigh_little_among_all_services():
    texts = [text for name, text in setup._TEXTS.items() if "@" in name and "CPUWeight=" in text]
    assert len(texts) == 2 and all("\nSlice=system.slice\n" in text for text in texts)
