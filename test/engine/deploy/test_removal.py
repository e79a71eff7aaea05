"""Sites that are removed, with and without their data."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django_formula.database import setup
from django_formula.deploy import removal as deploy_removal
from django_formula.host import config_files, file, locks
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd, transient
from django_formula.proxy import nginx, site_files, switch
from django_formula.site import sites

POSTGRESQL = setup.SERVERS["postgres"]
DATA = ["backups", "database", "deploys.jsonl", "log", "media", "secrets", "shared", "site.json"]


def below(root):
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def rest(world):
    """Return what is on the host outside of the site's root, except the lock that all sites share."""
    folders = (
        systemd.UNITS,
        nginx.ETC,
        sites.REGISTRY,
        sites.RUNTIME,
        sites.TMPFILES,
    )
    return sorted(
        path.name
        for folder in folders
        for path in folder.rglob("*")
        if (not path.is_dir() or path.is_symlink()) and path.name != "flip.lock"
    )


@pytest.mark.parametrize("data", [False, True])
def test_site_is_removed(world, data):
    world.apply()
    world.push("two")
    world.apply()
    world.options = {"state": "absent", "remove_data": data}
    site = world.site
    present = deploy_removal.present(site)
    assert set(present.values()) == {"removed"} and str(site.releases) in present
    assert (str(site.media.top) in present) is data and (str(site.root) in present) is data
    units = [systemd.UNITS / f"django-blog-{number}.service" for number in ("0001", "0002")]
    known = [
        site.runtime,
        site.tmpfiles,
        sites.REGISTRY / "blog",
        nginx.ETC / "django/blog.conf",
        *units,
    ]
    assert {str(path) for path in known} <= set(present)
    world.commands.clear()
    deploy_removal.remove(site, "a test")
    assert below(site.root) == ([] if data else DATA) and site.root.exists() is not data
    assert rest(world) == [] and world.running == set() and not site.runtime.exists()
    assert deploy_removal.present(site) == {}
    names = [" ".join(command[:2]) for command in world.commands]
    assert names.index("nginx -t") < names.index("systemctl disable")
    world.check_leftovers()


def test_root_that_stays_for_what_another_has_put_there_is_not_reported(world):
    world.apply()
    (world.site.root / "media.before").mkdir()
    world.options = {"state": "absent", "remove_data": True}
    deploy_removal.remove(world.site, "a test")
    assert below(world.site.root) == ["media.before"] and deploy_removal.present(world.site) == {}


@pytest.mark.parametrize("then", ["remove", "apply"])
def test_half_of_a_tree_has_another_name_after_a_removal_was_killed(world, monkeypatch, then):
    world.apply()
    site, remove_tree = world.site, file.remove_tree
    half = site.root / ".virtualenvs.gone"

    def killed(path):
        if path == half and half.exists():
            raise KeyboardInterrupt
        remove_tree(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(file, "remove_tree", killed)
        deploy_removal.remove(site, "a test")
    assert half.is_dir() and not site.virtualenvs.exists()
    assert deploy_removal.present(site)[str(half)] == "removed"
    if then == "remove":
        deploy_removal.remove(site, "a test")
        assert deploy_removal.present(site) == {} and below(site.root) == DATA
    else:
        assert world.apply()["virtualenv"]["virtualenv"].endswith(", new")
        world.check()
    assert not half.exists()


def test_missing_paths_are_not_reported_as_removed(make_site, own_host):
    site = make_site(folders=False, state="absent")
    assert deploy_removal.present(site) == {}
    deploy_removal.remove(site, "a test")
    assert not site.root.exists()


def test_leftovers_of_a_failed_first_deployment_are_removed(world):
    world.fails["enable"] = DeploymentError("no")
    with pytest.raises(DeploymentError):
        world.apply()
    deploy_removal.remove(world.site, "a test")
    assert below(world.site.root) == DATA and rest(world) == []


def test_units_without_a_release_are_removed(world):
    world.apply()
    file.remove_tree(world.site.releases)
    deploy_removal.remove(world.site, "a test")
    assert rest(world) == [] and world.running == set()


def test_a_command_that_still_runs_is_ended(world, monkeypatch):
    world.apply()
    monkeypatch.setattr(transient, "_is_loaded", lambda unit: unit == "django-blog-task.service")
    world.commands.clear()
    deploy_removal.remove(world.site, "a test")
    assert ["systemctl", "stop", "django-blog-task.service"] in world.commands


def test_foreign_folder_in_the_root_stays(world):
    world.apply()
    (world.site.root / "notes").mkdir()
    world.options = {"state": "absent", "remove_data": True}
    deploy_removal.remove(world.site, "a test")
    assert below(world.site.root) == ["notes"]


def test_site_with_the_same_prefix_stays(world, make_site):
    world.apply()
    for name in ("django-blog-2-0001.service", "django-blog-2-0001.socket", "django-blogs-0001.service"):
        (systemd.UNITS / name).write_text("")
    deploy_removal.remove(world.site, "a test")
    assert rest(world) == ["django-blog-2-0001.service", "django-blog-2-0001.socket", "django-blogs-0001.service"]
    assert deploy_removal.present(world.site) == {}


def test_removal_fails_when_nginx_refuses_its_configuration(world):
    world.apply()
    world.fails["nginx -t"] = DeploymentError("nginx -t failed", log="nginx: [emerg] broken in /etc/nginx/x:1")
    live, running = world.live, {*world.running}
    with pytest.raises(DeploymentError, match="nginx refuses its configuration: broken in /etc/nginx/x:1"):
        deploy_removal.remove(world.site, "a test")
    assert (world.live, world.running) == (live, running)
    world.check()
    world.fails.clear()
    assert world.apply() == {}


def test_proxy_reads_that_a_removal_was_killed_before_its_reload(world):
    """Of the last site: no other one has a step that sees to it."""
    world.apply()
    with contextlib.suppress(KeyboardInterrupt), switch.alone(), switch.noted([nginx.PROXY], restores=False):
        config_files.install(site_files.absent(world.site))
        raise KeyboardInterrupt
    world.commands.clear()
    deploy_removal.remove(world.site, "a test")
    assert ["systemctl", "reload", "nginx.service"] in [[*command] for command in world.commands]
    assert switch.unread() == []


def test_databases_on_local_servers_are_removed_with_the_data(world, monkeypatch):
    on_it = {"roles": {"blog": {"comment": "Django site blog", "login": True, "rights": False, "verifier": None}}}
    databases = {"blog": {"owner": "blog", "comment": "Django site blog", "is_public": False}}
    server = {**POSTGRESQL.empty_state(), **on_it, "databases": databases}
    told = []
    monkeypatch.setattr(POSTGRESQL, "is_installed", lambda: True)
    monkeypatch.setattr(POSTGRESQL, "query", lambda managed: server)
    monkeypatch.setattr(POSTGRESQL, "apply", lambda managed, changes: told.extend(change.item for change in changes))
    world.options = {"database": {"engine": "postgres"}}
    world.apply()
    world.options = {"state": "absent"}
    assert not {*deploy_removal.present(world.site)} & {"postgres database blog", "postgres role blog"}
    deploy_removal.remove(world.site, "a test")
    assert told == []
    world.options = {"state": "absent", "remove_data": True}
    assert deploy_removal.present(world.site)["postgres database blog"] == "dropped"
    deploy_removal.remove(world.site, "a test")
    assert told == ["database blog", "role blog"] and not world.site.root.exists()
    assert deploy_removal.present(world.site) == {}


def test_removal_waits_for_a_deployment(world):
    world.options = {"timeouts": {"lock": "0s"}}
    world.apply()
    other = world.deployment()
    other.lock.take()
    with pytest.raises(DeploymentError, match="another deployment of blog is under way: a test, pid"):
        deploy_removal.remove(world.site, "another test")
    other.lock.release()
    assert world.live


def test_removal_that_waited_for_a_release_is_refused(world, monkeypatch):
    """The pillar by which it was begun is older than the one that the release has."""
    waits, is_taken = threading.Event(), locks._is_taken
    monkeypatch.setattr(locks, "_is_taken", lambda *arguments: is_taken(*arguments) or waits.set())
    world.apply()
    other = world.site.lock("a deployment")
    other.take()
    with ThreadPoolExecutor() as threads:
        removal = threads.submit(deploy_removal.remove, world.site, "a test")
        assert waits.wait(30)
        other_release = world.site.releases / "0009-0123456789ab"
        world.site.current.unlink()
        world.site.current.symlink_to(f"releases/{other_release.name}")
        other.release()
        with pytest.raises(DeploymentError, match=f"a deployment has activated {other_release.name} meanwhile"):
            removal.result()
    assert world.site.releases.is_dir() and not world.site.lock("").holder()
