"""Setting up and removing the site's own servers, where a deployment is killed meanwhile or a task comes late."""

import shutil
from types import SimpleNamespace

import pytest
from distributions import UPGRADES, platform
from django_formula.backup import store
from django_formula.deploy import step_record, step_site
from django_formula.host import commands, daemons, file, proc, units
from django_formula.host.commands import DeploymentError
from django_formula.process import sandbox, systemd
from django_formula.release import releases, workers
from django_formula.secret import secrets
from django_formula.store import client, contract, redis, service, setup, stores
from django_formula.store.contract import OwnServer
from django_formula.worker.workers import State
from specimen import formula_templates


@pytest.fixture
def host(own_host, tmp_path, monkeypatch):
    """A host whose stores answer; `did` has what was done with them."""
    found = SimpleNamespace(did=[], waiting=0)
    run, programs = tmp_path / "run", tmp_path / "programs"
    for folder in (run, programs):
        folder.mkdir(exist_ok=True)
    monkeypatch.setattr(contract, "RUN", run)
    monkeypatch.setattr(service, "PROGRAMS", programs)
    monkeypatch.setattr(service, "UNITS", systemd.UNITS)
    monkeypatch.setattr(daemons, "pid", lambda _daemon: 1)
    monkeypatch.setattr(service, "folders", lambda _server: [])
    monkeypatch.setattr(secrets, "store_password", lambda _site: "5e" * 32)
    monkeypatch.setattr(service, "answers", lambda _server: True)
    monkeypatch.setattr(redis.RedisStore, "differences", lambda _self, _server: {})
    monkeypatch.setattr(redis, "lengths", lambda _server: {"celery": found.waiting})
    monkeypatch.setattr(commands, "run", lambda argv, **_: found.did.append(" ".join(argv)) or "")
    return found


def pending(site):
    """What differs on the host, for the servers of the site's own."""
    return setup.pending(stores.own_servers(site), formula_templates())


@pytest.fixture
def queue(host, make_site):
    """The site with a queue that is set up."""
    site = make_site(queue={"engine": "redis"}, process="supervisor")
    contract.folder(site).mkdir(parents=True)
    (one,) = pending(site)
    setup.apply(one)
    setup.restart(one.server)
    host.did.clear()
    return site


def stop_at(monkeypatch, module, name, what):
    """Have the deployment end where a function is called with an argument that has a text in it."""
    called = getattr(module, name)

    def ends(*arguments, **options):
        if what in str(arguments):
            raise KeyboardInterrupt
        return called(*arguments, **options)

    monkeypatch.setattr(module, name, ends)


@pytest.mark.parametrize("at", ["reload", "restart"])
def test_server_whose_files_a_killed_deployment_has_changed_is_restarted(queue, host, monkeypatch, at):
    script = contract.folder(queue) / "queue.sh"
    script.write_text("of an older version\n")
    (one,) = pending(queue)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        stop_at(killed, service, at, "queue")
        setup.apply(one)
        setup.restart(one.server)
    (one,) = pending(queue)
    assert one.restarts and not one.files
    setup.apply(one)
    setup.restart(one.server)
    assert host.did[-1] == "supervisorctl restart django-blog-queue"
    assert pending(queue) == []


def test_server_that_is_started_with_its_new_files_is_not_restarted_next(queue, host, monkeypatch):
    """As after a restart that has failed: the next apply, with a pillar that is mended, starts it."""
    (contract.folder(queue) / "queue.sh").write_text("of an older version\n")
    (one,) = pending(queue)
    setup.apply(one)  # what restarts it next fails
    with monkeypatch.context() as stopped:
        stopped.setattr(service, "answers", lambda _server: False)
        (one,) = pending(queue)
        stopped.setattr(service, "answers", lambda _server: True)
        setup.apply(one)
    assert one.starts and not one.restarts
    assert pending(queue) == []


def test_server_that_was_stopped_on_the_command_line_is_started(queue, host, monkeypatch):
    """supervisorctl update starts no program that it knows."""
    monkeypatch.setattr(service, "answers", lambda _server: "supervisorctl start django-blog-queue" in host.did)
    (one,) = pending(queue)
    setup.apply(one)
    assert pending(queue) == []


def test_server_that_runs_and_would_not_after_a_boot_is_restarted_with_its_new_files(queue, host):
    service._program(service_of(queue)).unlink()
    (contract.folder(queue) / "queue.sh").write_text("of an older version\n")
    (one,) = pending(queue)
    assert one.starts and one.restarts
    setup.apply(one)
    setup.restart(one.server)
    assert host.did[-1] == "supervisorctl restart django-blog-queue"
    assert pending(queue) == []


def service_of(site):
    ((_kind, server),) = stores.own_servers(site)
    return server


@pytest.mark.parametrize("ends", [True, False])
def test_server_that_the_site_keeps_busy_delays_no_deployment(queue, host, monkeypatch, ends):
    """It is restarted at most once, with its new files."""
    busy, seen = iter([True, not ends]), []

    def differences(_self, _server):
        if next(busy, False):
            raise client.BusyError("BUSY")
        return {"maxmemory": "1"}

    kind = redis.RedisStore
    monkeypatch.setattr(kind, "differences", differences)
    monkeypatch.setattr(kind, "end_scripts", lambda _self, _server: True)
    monkeypatch.setattr(kind, "change", lambda _self, _server, settings: seen.append(settings))
    deployment = SimpleNamespace(
        site=queue, templates=formula_templates(), take_lock=lambda: None, warnings=[], switch_lock=SimpleNamespace()
    )
    deployment.warn = deployment.warnings.extend
    (changes,) = step_site.store(deployment)
    assert changes == {"django-blog-queue": "freed of what keeps it busy, or restarted"}
    (warning,) = deployment.warnings
    assert ("until the script that it ran was ended: BUSY" in warning) is ends
    assert host.did == (
        [] if ends else ["supervisorctl update django-blog-queue", "supervisorctl restart django-blog-queue"]
    )
    assert seen == ([{"maxmemory": "1"}] if ends else [])


@pytest.fixture
def cache(host, make_site, tmp_path, monkeypatch):
    """Set up a cache under systemd, with a given memory; `did` has the order of what changes then."""
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(service, "UNITS", tmp_path / "units")
    monkeypatch.setattr(service, "is_enabled", lambda _server: True)
    host.used = 0
    kind, wanted = redis.RedisStore, []
    monkeypatch.setattr(kind, "differences", lambda _self, _server: dict(wanted))
    monkeypatch.setattr(kind, "change", lambda _self, _server, changes: host.did.append(changes) or wanted.clear())
    monkeypatch.setattr(kind, "compact", lambda _self, _server: host.did.append("compact"))
    monkeypatch.setattr(client, "process", lambda _socket: 7)
    monkeypatch.setattr(proc, "memory", lambda _pid: host.used)

    def apply(memory):
        """Return the warning of an apply, and the limit in the unit."""
        wanted[:] = [("maxmemory", memory)]
        (one,) = pending(make_site(cache={"engine": "redis", "memory": memory}))
        warning = setup.apply(one)
        unit = (tmp_path / "units/django-blog-cache.service").read_text()
        return warning, int(setup._LIMIT.search(unit)[1]) >> 20

    contract.folder(make_site()).mkdir()
    apply("1G")
    setup._restart_mark(OwnServer(make_site(), "cache", "cache", {})).unlink(missing_ok=True)
    host.did.clear()
    return apply


RELOAD = "systemctl daemon-reload"


def test_limit_is_raised_before_a_server_stores_more(cache, host):
    assert cache("2G") == ("", 2 * 2048 + 128) and host.did == [RELOAD, {"maxmemory": "2G"}]


def test_limit_is_lowered_once_the_server_uses_less(cache, host):
    host.used = 128 << 20
    assert cache("64M") == ("", 2 * 64 + 128) and host.did == [{"maxmemory": "64M"}, "compact", RELOAD]


def test_server_that_uses_more_keeps_its_limit_until_a_later_apply(cache, host):
    host.used = 500 << 20
    warning, kept = cache("64M")
    assert kept == 2 * 1024 + 128 and "django-blog-cache keeps MemoryMax=2281701376 until a later apply" in warning
    assert warning.endswith("it still uses 500M")
    host.used = 100 << 20
    assert cache("64M") == ("", 2 * 64 + 128)


def test_containers_keep_the_folder_of_a_server_that_is_stopped_and_started(host, make_site, tmp_path, monkeypatch):
    """They have it as a mount. A server that was set up with another line is not restarted for it."""
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(service, "UNITS", tmp_path / "units")
    monkeypatch.setattr(service, "is_enabled", lambda _server: True)
    site = make_site(queue={"engine": "redis"}, container={})
    contract.folder(site).mkdir(parents=True)
    (one,) = pending(site)
    setup.apply(one)
    setup.restart(one.server)
    unit = tmp_path / "units/django-blog-queue.service"
    text = unit.read_text()
    assert "\nRuntimeDirectoryPreserve=yes\n" in text
    unit.write_text(text.replace("Preserve=yes", "Preserve=restart").replace("# Containers", "# Once containers"))
    (one,) = pending(site)
    assert [*one.files] == [unit] and not one.starts and not one.restarts
    setup.apply(one)
    assert pending(site) == [] and unit.read_text() == text


@pytest.fixture
def programs(tmp_path, make_site):
    """The programs of Redis, and of Valkey as the platform's; a site with these is returned by the function."""
    for name in ("redis", "valkey"):
        (tmp_path / name).touch(0o755)

    def site(platform, **options):
        found = make_site(**options)
        found.platform["stores"]["redis"] = str(tmp_path / platform)
        return found

    return site


@pytest.mark.parametrize("process", ["systemd", "supervisor"])
def test_queue_stays_with_its_program_after_an_upgrade_of_the_host(host, programs, tmp_path, monkeypatch, process):
    """One that the pillar has lost and gets again is a new one, and so is one whose program the host has no longer."""
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(service, "UNITS", tmp_path / "units")
    monkeypatch.setattr(service, "is_enabled", lambda _server: True)
    former, later = (programs(name, queue={"engine": "redis"}, process=process) for name in ("redis", "valkey"))
    contract.folder(former).mkdir(parents=True)
    (one,) = pending(former)
    setup.apply(one)
    setup.restart(one.server)
    assert pending(later) == []
    (database,) = store.own_queues(later)
    assert service.program(redis.STORE, store._server(database)) == str(tmp_path / "redis")
    monkeypatch.setattr(units, "stop", lambda *_arguments, **_options: None)
    with monkeypatch.context() as removed:
        removed.setattr(service, "is_enabled", lambda _server: False)
        kept = {path: path.read_text() for path in service.files_on_host(later)["queue"]}
        setup.remove_parts(later, ["queue"])
        (one,) = pending(later)
        assert one.starts and str(tmp_path / "valkey") in "".join(one.files.values())
    for path, text in kept.items():
        path.write_text(text)
    (tmp_path / "redis").unlink()
    (one,) = pending(later)
    assert one.restarts and str(tmp_path / "valkey") in "".join(one.files.values())


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_no_server_is_restarted_by_an_upgrade_of_the_distribution(host, make_site, tmp_path, monkeypatch, upgrade):
    """Its configuration may differ, as for Redis 6.0 and 7.0; what runs gets that by a command."""
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(service, "UNITS", tmp_path / "units")
    monkeypatch.setattr(service, "is_enabled", lambda _server: True)
    former, later = (make_site(queue={"engine": "redis"}, cache={"engine": "redis"}) for _at in (0, 1))
    for at, site in enumerate((former, later)):
        site.platform["stores"] = platform(UPGRADES[upgrade], at)["stores"]
    contract.folder(former).mkdir(parents=True)
    for one in pending(former):
        setup.apply(one)
        setup.restart(one.server)
    host.did.clear()
    for one in pending(later):
        assert one.files and not (one.starts or one.restarts)
        setup.apply(one)
    assert pending(later) == [] and not [line for line in host.did if "restart" in line]


def test_server_is_not_restarted_for_what_its_unit_does_not_start_with(cache, host, make_site, tmp_path):
    cache("1G")
    host.did.clear()
    unit = tmp_path / "units/django-blog-cache.service"
    site = make_site(cache={"engine": "redis", "memory": "1G"})
    site.confinement.parent.mkdir(parents=True, exist_ok=True)
    file.write_json(site.confinement, file.with_checksum({"refused": [*sandbox.MAY_BE_REFUSED]}))
    (one,) = pending(site)
    assert not one.restarts
    setup.apply(one)
    assert RELOAD in host.did and "TemporaryFileSystem" not in unit.read_text()


def test_removal_that_was_killed_is_repeated(queue, host, make_site, monkeypatch):
    site = make_site(process="supervisor", folders=False)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        stop_at(killed, commands, "run", "supervisorctl")
        setup.remove_parts(site, ["queue"])
    assert setup.obsolete(site) == ["queue"] and setup.lost_tasks(site) == 0
    setup.remove_parts(site, ["queue"])
    assert host.did == ["supervisorctl update django-blog-queue"] and setup.obsolete(site) == []


def unused(site):
    told = []
    release = SimpleNamespace(name="0002-3f2a9c1b77de", path=site.releases / "0002-3f2a9c1b77de")
    deployment = SimpleNamespace(site=site, warn=told.extend)
    return step_record._unused_stores(deployment, release), told


def test_queue_in_which_a_task_waits_after_the_switch_is_not_removed(queue, host, make_site):
    site = make_site(process="supervisor", folders=False)
    assert unused(site) == (["queue"], [])
    host.waiting = 2  # the former release has added them before the switch
    parts, (warning,) = unused(site)
    assert parts == [] and "2 tasks wait in the queue of blog, which the pillar no longer has" in warning


def test_stores_are_not_removed_while_tasks_of_older_releases_run(queue, host, make_site, monkeypatch):
    site = make_site(process="supervisor", folders=False)
    state = State(pid=1, time=1.0, fetching=False, active=1)
    finishing = [workers.Finishing(site.releases / "0001-x", "mail", 1, state)]
    monkeypatch.setattr(releases, "releases", lambda _site: [])
    monkeypatch.setattr(workers, "finishing", lambda _site, _releases: finishing)
    assert unused(site) == ([], [])
    finishing.clear()
    assert unused(site) == (["queue"], [])


def test_queue_that_does_not_answer_is_not_taken_for_an_empty_one(queue, make_site, monkeypatch):
    site = make_site(process="supervisor", folders=False)

    def refuses(_server):
        raise DeploymentError("the store does not answer")

    monkeypatch.setattr(redis, "lengths", refuses)
    with pytest.raises(DeploymentError) as refused:
        setup.refuse_lost_tasks(site)
    assert "removed only once it reports that no task waits" in refused.value.hint


@pytest.mark.parametrize("fails", ["stop", "restart"])
def test_queue_that_does_not_start_with_a_backup_has_its_own_tasks_again(queue, host, monkeypatch, fails):
    (database,) = store.own_queues(queue)
    folder = contract.folder(queue)
    for name, text in (("queue", "its own"), ("queue-new", "the backup")):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "tasks").write_text(text)
    called, results = getattr(service, fails), iter([DeploymentError("it does not end or start"), None])

    def failing(server):
        if error := next(results):
            raise error
        called(server)

    monkeypatch.setattr(service, fails, failing)
    with pytest.raises(DeploymentError, match="it does not end or start"):
        store.StoreDumper().swap(database, str(folder / "queue-new"), str(folder / "queue-kept"))
    assert (folder / "queue/tasks").read_text() == "its own" and not (folder / "queue-kept").exists()
    assert (folder / "queue-new/tasks").read_text() == "the backup"
    assert host.did[-1] == "supervisorctl restart django-blog-queue"


def test_queue_whose_folder_was_deleted_has_the_tasks_of_a_backup(queue, host):
    (database,) = store.own_queues(queue)
    folder = contract.folder(queue)
    shutil.rmtree(folder / "queue", ignore_errors=True)
    (folder / "queue-new").mkdir(parents=True)
    store.StoreDumper().swap(database, str(folder / "queue-new"), str(folder / "queue-kept"))
    assert (folder / "queue").is_dir() and not (folder / "queue-kept").exists()
