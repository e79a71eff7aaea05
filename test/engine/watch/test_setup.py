"""The files by which a host is watched."""

import pytest
from django_formula.host import archive, daemons
from django_formula.watch import setup, spool

WANTED = {"every": 60, "deploys": [], "channels": {}, "page": False}


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host without systemd and cron."""
    monkeypatch.setattr(daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(archive, "install", lambda _module, path: path.write_text("program"))
    monkeypatch.setattr(setup, "UNITS", tmp_path / "units")
    monkeypatch.setattr(setup, "CRON", tmp_path / "etc/cron.d/django-watch")
    monkeypatch.setattr(setup, "PROGRAM", tmp_path / "lib/watch.pyz")
    for name in ("STATE", "CHANNELS", "CONFIG", "PAGE"):
        monkeypatch.setattr(spool, name, tmp_path / "watch" / name)
    return tmp_path


def test_a_host_without_cron_is_watched_once_cron_is_there(host):
    foreseen = setup.watch(WANTED, {}, test=True)
    assert foreseen.changes and not (host / "etc").exists()
    assert setup.watch(WANTED, {}, test=False).comment == "the host is watched as soon as cron is installed and runs"
    assert "* * * * root" in setup.CRON.read_text()
    assert not setup.watch(WANTED, {}, test=False).changes
    assert str(setup.CRON) in setup.remove(test=False).changes and not setup.CRON.exists()
