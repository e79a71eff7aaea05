"""A bare host that is made of copies elsewhere: what an apply fetches first, and what fails of it."""

import json
import os
from types import SimpleNamespace

import pytest
from django_formula.backup import backups
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies, fetching, rebuild, sealed
from django_formula.proxy import maintenance
from django_formula.site import sites
from django_formula.verbs import backup as verbs_backup

OFFSITE = {
    "kind": "s3",
    "bucket": "backups",
    "key": "key",
    "secret": "grenadier-of-the-key",
    "password": "grenadier-of-the-store",
    "recipients": ["age1" + "q" * 58],
}
COPY = {"backup": "20260301T120000Z-0001-c71d97a38e83", "parts": {"media.tar": {}, sealed.NAME: {}}}


@pytest.fixture
def bare(world, own_host, tmp_path, monkeypatch):
    """A host without the site, whose store has a copy; `calls` has what is fetched."""
    world.options = {"backup": {"offsite": OFFSITE}, "secrets": {"TOKEN": {"generate": 40}}}
    world.given = {"offsite_password": "grenadier-of-the-store", "offsite_secret": "grenadier-of-the-key"}
    world.calls = []
    (tmp_path / "recovery.txt").write_text("AGE-SECRET-KEY-1")
    world.identity = str(tmp_path / "recovery.txt")
    monkeypatch.setattr(rebuild, "REQUEST", own_host / "run/django-formula-rebuild.json")
    rebuild.REQUEST.parent.mkdir(exist_ok=True)
    monkeypatch.setattr(copies, "find", lambda store, which: dict(COPY))
    monkeypatch.setattr(fetching, "fetch_part", lambda store, copy, name, target: target.write_bytes(b"sealed"))
    monkeypatch.setattr(sealed, "opened", lambda path, identity: {"TOKEN": b"grenadier of before"})
    monkeypatch.setattr(fetching, "into_backups", lambda store, copy, **options: world.calls.append(options))
    return world


def request():
    return json.loads(rebuild.REQUEST.read_text())


def test_secrets_are_there_before_others_are_generated(bare):
    with rebuild.requested(bare.identity):
        assert bare.apply(test=True)["site"]["copy"] == "fetched from elsewhere" and bare.calls == []
        assert bare.apply()["site"]["copy"] == "fetched from elsewhere"
        assert rebuild.fetched() == {"blog": COPY["backup"]} and bare.calls == [{"uploads": True}]
    token = bare.site.secrets / "TOKEN"
    assert token.read_text() == "grenadier of before" and token.stat().st_mode & 0o777 == 0o640
    assert not rebuild.REQUEST.exists() and not (bare.site.backups / "fetched").exists()


def test_site_is_in_maintenance_until_its_data_is_there(bare):
    with rebuild.requested(bare.identity):
        bare.apply()
    about = sites.known_maintenance(bare.site)
    assert about and about["by"] == "django.rebuild" and maintenance.holds_workers(bare.site)


def test_site_with_a_release_stays_as_it_is(bare):
    bare.apply()
    token = (bare.site.secrets / "TOKEN").read_text()
    with rebuild.requested(bare.identity):
        assert bare.apply() == {} and rebuild.fetched() == {}
    assert (bare.site.secrets / "TOKEN").read_text() == token and sites.known_maintenance(bare.site) is None


def test_what_a_killed_process_has_left_is_no_request(bare):
    file.write_json(rebuild.REQUEST, {"pid": os.getppid(), "identity": bare.identity, "fetched": {}})
    assert "copy" not in bare.apply()["site"] and bare.calls == []


def test_failure_leaves_a_site_that_the_next_try_goes_on_with(bare, monkeypatch):
    def refuse(_path, _identity):
        raise DeploymentError("opening the secrets failed (exit 1)")

    right = sealed.opened
    monkeypatch.setattr(sealed, "opened", refuse)
    with rebuild.requested(bare.identity):
        with pytest.raises(DeploymentError, match="opening the secrets"):
            bare.apply()
        assert bare.site.is_registered() and not os.path.lexists(bare.site.secrets / "TOKEN")
        monkeypatch.setattr(sealed, "opened", right)
        bare.apply()
    assert (bare.site.secrets / "TOKEN").read_text() == "grenadier of before"


def test_key_is_a_file_on_this_host(bare):
    for name in ("recovery.txt", "/root/none.txt"):
        with pytest.raises(DeploymentError, match="there is no recovery key in"), rebuild.requested(name):
            pass
    assert not rebuild.REQUEST.exists()


@pytest.fixture
def rebuilding(bare, monkeypatch):
    """`run` is django.rebuild, with what an apply answers; `failing` are the sites whose data cannot be restored."""
    failing = set()

    def restore(name, which, **options):
        if name in failing:
            raise DeploymentError("the server is away")
        bare.calls.append((name, which, options))
        return {"release": bare.live, "restored": {}, "rows": {}, "kept": {}}

    monkeypatch.setattr(verbs_backup, "restore", restore)
    monkeypatch.setattr(backups, "find", lambda site, which: [{"engine": "postgres"}, {"engine": "media"}])

    def run(*comments):
        def apply():
            bare.apply()
            return {str(number): {"result": False, "comment": one} for number, one in enumerate(comments)}

        return verbs_backup.rebuild(bare.identity, apply, queue=True, asked_by="ada")

    return SimpleNamespace(run=run, failing=failing)


def test_data_is_restored_and_maintenance_ends(bare, rebuilding):
    assert rebuilding.run() == {"blog": {"release": bare.live, "restored": {}, "rows": {}}}
    options = {"migrate": True, "media": True, "queue": False, "asked_by": "ada"}
    assert bare.calls[-1] == ("blog", COPY["backup"], options)
    assert sites.known_maintenance(bare.site) is None


def test_data_is_restored_though_another_site_has_failed(bare, rebuilding):
    with pytest.raises(DeploymentError, match="not all sites are rebuilt: blog") as failure:
        rebuilding.run("shop: it has no such branch")
    assert "shop: it has no such branch" in failure.value.message and bare.calls[-1][0] == "blog"


def test_site_whose_data_is_not_restored_stays_in_maintenance(bare, rebuilding):
    rebuilding.failing.add("blog")
    with pytest.raises(DeploymentError, match="not all sites are rebuilt: none is") as failure:
        rebuilding.run()
    command = f"salt-call django.restore blog {COPY['backup']} migrate=True media=True"
    assert f"the server is away; once that is mended: {command}" in failure.value.message
    assert sites.known_maintenance(bare.site)


def test_host_whose_sites_have_releases_is_not_rebuilt(bare, rebuilding):
    bare.apply()
    with pytest.raises(DeploymentError, match="each site of this host has a release already"):
        rebuilding.run()
