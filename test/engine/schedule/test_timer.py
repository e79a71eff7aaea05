"""Scheduled backups: the timer, cron without systemd, and the program that does not require Salt."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from django_formula.backup import backups
from django_formula.backup import program as backup_program
from django_formula.deploy import removal, steps
from django_formula.host import archive, daemons, file, locks
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies
from django_formula.process import systemd
from django_formula.schedule import timer as schedule_timer
from django_formula.tls import certificates
from django_formula.verbs import schedule as verbs_schedule
from specimen import formula_templates

#: What a release in a container records of it.
CONTAINER = {"engine": "podman", "image": "localhost/django/blog:0001", "base": "x", "mounts": []}


@pytest.fixture
def daily(world):
    """A world in which a site is live that is backed up every day."""
    world.apply()
    world.options = {"backup": {"schedule": "daily"}}
    return world


def units(world):
    found = systemd.UNITS.rglob("*backup*")
    return {str(path.relative_to(systemd.UNITS)) for path in found}


def test_schedule_is_installed_as_a_timer(daily):
    assert daily.apply()["site"]["schedule"].keys() == {
        str(daily.site.root / "backup.pyz"),
        str(systemd.UNITS / "django-blog-backup.service"),
        str(systemd.UNITS / "django-blog-backup.timer"),
    }
    timer = (systemd.UNITS / "django-blog-backup.timer").read_text()
    assert "\nOnCalendar=daily\nPersistent=yes\n" in timer
    service = (systemd.UNITS / "django-blog-backup.service").read_text()
    assert f"\nExecStart=/usr/bin/python3 -I {daily.site.root}/backup.pyz blog\n" in service
    assert ["systemctl", "restart", "django-blog-backup.timer"] in daily.commands
    assert (daily.site.root / "backup.pyz").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("databases", "local"),
    [
        ({}, False),
        ({"database": {"engine": "sqlite"}}, True),
        ({"database": {"engine": "postgres", "manage": False}}, True),
        ({"database": {"engine": "mysql", "host": "/run/mysqld/mysqld.sock", "manage": False}}, True),
        ({"database": {"engine": "postgres", "host": "db1", "password": "x"}}, False),
        ({"databases": {"default": {"engine": "sqlite"}, "replica": {"migrate": False}}}, False),
    ],
)
def test_unit_without_remote_databases_has_no_network(daily, databases, local):
    daily.options |= databases
    daily.given = {"database.default": "x"}
    list(steps.site(daily.deployment()))
    service = (systemd.UNITS / "django-blog-backup.service").read_text()
    assert ("\nPrivateNetwork=yes\nIPAddressDeny=any\nRestrictAddressFamilies=AF_UNIX\n" in service) == local
    assert ("\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n" in service) != local


@pytest.mark.parametrize(
    ("options", "homes"),
    [
        ({}, "yes"),
        ({"backup": {"schedule": "daily", "directory": "/home/backups"}}, "no"),
        ({"sandbox": {"BindPaths": ["/home/ray/data"]}}, "no"),
        ({"sandbox": {"BindPaths": ["/data:/root/data"]}}, "no"),
        ({"environment": {"NOTE": "see /home/ray"}}, "yes"),
    ],
)
def test_homes_are_hidden_unless_the_site_is_below_them(daily, options, homes):
    daily.options |= options
    list(steps.site(daily.deployment()))
    assert f"\nProtectHome={homes}\n" in (systemd.UNITS / "django-blog-backup.service").read_text()


def enabled(world):
    """The link that systemctl made."""
    link = systemd.UNITS / "timers.target.wants/django-blog-backup.timer"
    assert link.is_symlink()
    return link


def test_second_apply_changes_nothing(daily):
    daily.apply()
    link = enabled(daily)
    daily.commands.clear()
    assert daily.apply() == {} and daily.commands == []
    link.unlink()
    assert daily.apply() == {"site": {"schedule": {str(systemd.UNITS / link.name): "disabled"}}}


def test_changed_files_are_written_again(daily):
    daily.apply()
    enabled(daily)
    daily.options = {"backup": {"schedule": "Mon..Fri 03:30"}}
    changes = daily.apply()["site"]
    assert changes["schedule"] == {str(systemd.UNITS / "django-blog-backup.timer"): "changed"}
    (daily.site.root / "backup.pyz").write_bytes(b"")
    assert daily.apply()["site"]["schedule"] == {str(daily.site.root / "backup.pyz"): "changed"}


@pytest.mark.parametrize("refused", ["daemon-reload", "restart django-blog-backup.timer"])
def test_timer_that_was_refused_is_begun_anew(daily, refused):
    """As for 22..06:00, which is no time of systemd's."""
    daily.fails = {refused: DeploymentError("it cannot")}
    for _ in range(2):
        with pytest.raises(DeploymentError, match="it cannot"):
            daily.apply()
    daily.fails = {}
    daily.apply()
    daily.options = {"backup": {"schedule": "Mon..Fri 03:30"}}
    daily.fails = {refused: DeploymentError("it cannot")}
    with pytest.raises(DeploymentError, match="it cannot"):
        daily.apply()
    daily.fails = {}
    assert daily.apply()["site"] == {"schedule": {str(systemd.UNITS / "django-blog-backup.timer"): "disabled"}}
    assert daily.apply() == {}


def test_dry_run_changes_nothing(daily):
    assert "schedule" in daily.apply(test=True)["site"] and units(daily) == set()


@pytest.mark.parametrize("off", [{"backup": {}}, {"state": "absent"}])
def test_timer_is_removed_with_its_schedule(daily, off):
    daily.apply()
    link = enabled(daily)
    daily.options = off
    if "state" in off:
        assert str(daily.site.root / "backup.pyz") in removal.present(daily.site)
        removal.remove(daily.site, "a test")
    else:
        assert set(daily.apply()["site"]["schedule"].values()) == {"removed"}
        assert daily.apply() == {}
    assert ["systemctl", "disable", "--quiet", "--now", link.name] in daily.commands
    assert units(daily) <= {"timers.target.wants/django-blog-backup.timer"}
    assert not (daily.site.root / "backup.pyz").exists()


def test_program_that_runs_is_ended_when_its_site_is_removed(daily, monkeypatch):
    """A renewal would write the certificate again, and a backup what its user owns."""

    def stop(*verb, units, **options):
        if {*units} & programs:
            assert all((systemd.UNITS / unit).exists() for unit in units), "systemd stops none that it lacks"
            stopped.extend(units)
            file.write(written, "{}")  # until it is ended
        else:
            real(*verb, units=units, **options)

    daily.options |= {"tls": {"kind": "self_signed"}}
    daily.apply()
    programs, stopped = {"django-blog-backup.service", "django-blog-tls.service"}, []
    written, real = certificates.path_of(daily.site.canonical).with_suffix(".failed"), schedule_timer.units.stop
    written.parent.mkdir(exist_ok=True)
    monkeypatch.setattr(schedule_timer.units, "stop", stop)
    removal.remove(daily.site, "a test")
    assert {*stopped} == programs and not written.exists()


# Copies elsewhere


@pytest.fixture
def offsite(daily):
    """The same site with a store for copies elsewhere."""
    store = {"kind": "s3", "bucket": "backups", "key": "x", "secret": "x" * 20, "password": "x" * 20}
    daily.options = {"backup": {"schedule": "daily", "offsite": {**store, "recipients": ["age1" + "q" * 58]}}}
    daily.given = {"offsite_password": "x" * 20, "offsite_secret": "x" * 20}
    return daily


def test_copies_are_made_each_hour_and_after_each_backup(offsite):
    offsite.apply()
    timer = (systemd.UNITS / "django-blog-offsite.timer").read_text()
    service = (systemd.UNITS / "django-blog-offsite.service").read_text()
    assert "\nOnCalendar=hourly\n" in timer and "PrivateNetwork" not in service
    assert f"\nExecStart=/usr/bin/python3 -I {offsite.site.root}/offsite.pyz blog\n" in service
    backup = (systemd.UNITS / "django-blog-backup.service").read_text()
    assert "\nOnSuccess=django-blog-offsite.service\n" in backup and offsite.apply() == {}
    offsite.options = {"backup": {"schedule": "daily"}}
    offsite.apply()
    assert not [*systemd.UNITS.rglob("*offsite*")] and not (offsite.site.root / "offsite.pyz").exists()
    assert "OnSuccess" not in (systemd.UNITS / "django-blog-backup.service").read_text()


def test_program_of_copies_requires_only_python(offsite):
    offsite.apply()
    argv = [sys.executable, "-I", str(offsite.site.root / "offsite.pyz"), "nothing"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no site 'nothing' on this host" in done.stderr


# Without systemd


@pytest.fixture
def cron(daily, own_host, monkeypatch):
    """The same host with cron in place of systemd."""
    monkeypatch.setattr(schedule_timer, "CRON", own_host / "etc/cron.d")
    monkeypatch.setattr(daemons, "SYSTEMD", own_host / "none")
    monkeypatch.setattr(schedule_timer.shutil, "which", lambda name, path: f"/usr/sbin/{name}")
    (own_host / "etc/cron.d").mkdir(exist_ok=True)
    return own_host / "etc/cron.d/django-blog-backup"


def test_cron_is_used_without_systemd(daily, cron):
    changes = daily.apply()["site"]["schedule"]
    assert changes == {str(daily.site.root / "backup.pyz"): "new", str(cron): "new"}
    line = f"0 0 * * * root /usr/bin/python3 -I {daily.site.root}/backup.pyz blog"
    assert cron.read_text() == f"# Backups of the Django site blog\n{line}\n" and daily.apply() == {}
    daily.options = {}
    daily.apply()
    assert not cron.exists()


def test_cron_makes_copies_each_hour(offsite, cron):
    offsite.apply()
    text = cron.with_name("django-blog-offsite").read_text()
    line = f"{sum(b'blog') % 60} * * * * root /usr/bin/python3 -I {offsite.site.root}/offsite.pyz blog"
    assert text == f"# Copies of the backups elsewhere of the Django site blog\n{line}\n"


def test_copies_are_refused_without_systemd_and_cron(offsite, cron, monkeypatch):
    monkeypatch.setattr(schedule_timer.shutil, "which", lambda name, path: None)
    offsite.options["backup"]["schedule"] = None
    with pytest.raises(DeploymentError, match="neither systemd nor cron to run copies of the backups") as refused:
        offsite.apply()
    assert "remove django:sites:blog:backup:offsite, and run django.offsite blog" in refused.value.hint


def test_cron_that_does_not_run_is_shown_and_started(daily, cron, monkeypatch):
    """As after the restart of a container, whose command starts supervisor and nginx alone."""
    daily.apply()
    assert cron.exists() and verbs_schedule.idle(daily.site) == ""
    started = []
    monkeypatch.setattr(daemons, "is_running", lambda daemon: daemon.service in started)
    monkeypatch.setattr(daemons, "start", lambda daemon: started.append(daemon.service))
    told = "does not run, so these wait: backups; salt-call state.apply django starts it"
    assert verbs_schedule.idle(daily.site) == told
    assert daily.apply(test=True)["site"]["schedule"] == {"cron": "started"} and not started
    assert daily.apply()["site"]["schedule"] == {"cron": "started"} and started == ["cron"]
    assert daily.apply() == {} and verbs_schedule.idle(daily.site) == ""


@pytest.mark.parametrize("lock", [backups.lock, copies.lock])
def test_program_of_cron_that_runs_is_ended_when_its_site_is_removed(daily, cron, monkeypatch, lock):
    daily.apply()
    ended, site = [], daily.site
    monkeypatch.setattr(locks.Lock, "end_holders", lambda own: ended.append(own.path))
    with lock(site, "cron").held():
        removal.remove(site, "a test")
    assert ended == [lock(site, "").path]


@pytest.mark.parametrize(
    ("schedule", "has_cron", "message"),
    [
        ("03:30", True, "03:30 is a time in systemd's notation, and this host has cron"),
        ("daily", False, "this host has neither systemd nor cron"),
    ],
)
def test_schedule_without_a_scheduler_is_refused(daily, cron, monkeypatch, schedule, has_cron, message):
    if not has_cron:
        monkeypatch.setattr(schedule_timer.shutil, "which", lambda name, path: None)
    daily.options = {"backup": {"schedule": schedule}}
    with pytest.raises(DeploymentError, match=message) as error:
        daily.apply()
    assert "django:sites:blog:backup:schedule" in error.value.hint and not cron.exists()


# The program


def test_program_requires_only_python(daily):
    """No module of Salt's environment, as on a host that only salt-ssh knows."""
    daily.apply()
    program = daily.site.root / "backup.pyz"
    done = subprocess.run(["/usr/bin/python3", "-I", program, "nobody"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no site 'nobody' on this host" in done.stderr, done.stderr
    names = set(zipfile.ZipFile(program).namelist())
    assert {
        "__main__.py",
        *(f"django_formula/{name}.py" for name in ("backup/backups", "backup/mysql", "site/sites")),
    } <= names
    assert not names & {f"django_formula/{name}.py" for name in ("deploy/deployment", "deploy/steps", "backup/restore")}


def modules(program):
    """The names of the modules of a program."""
    names = (name.removesuffix(".py").replace("/", ".") for name in zipfile.ZipFile(program).namelist())
    return {name for name in names if not name.endswith(("__main__", "__init__"))}


@pytest.mark.parametrize(
    ("module", "most"),
    [
        ("django_formula.backup.program", 40),
        ("django_formula.tls.renewal", 40),
        ("django_formula.schedule.run", 40),
        ("django_formula.balancer.certificates", 55),
    ],
)
def test_program_of_a_timer_has_few_modules_and_no_inspection(daily, module, most):
    names = modules(io.BytesIO(archive.packed(module, schedule_timer.unused(daily.site))))
    assert len(names) <= most
    assert {
        name
        for name in names
        if name.startswith(("django_formula.project.", "django_formula.inspect.", "django_formula.container."))
    } <= {"django_formula.project.ask"}


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("django_formula.backup.program", ["nobody"]),
        ("django_formula.tls.renewal", ["nobody"]),
        ("django_formula.schedule.run", ["nobody", "clear"]),
    ],
)
def test_program_starts_without_what_its_site_does_not_use(tmp_path, monkeypatch, module, arguments):
    """What is left out is imported by the functions that need it alone."""
    site = SimpleNamespace(process="", config={})
    monkeypatch.setattr(schedule_timer.release_releases, "releases", lambda _site: [])
    monkeypatch.setattr(schedule_timer.backups, "has_queue", lambda _site: False)
    unused = schedule_timer.unused(site)
    assert len(unused) == 4
    program = tmp_path / "program.pyz"
    program.write_bytes(archive.packed(module, unused))
    done = subprocess.run(["/usr/bin/python3", "-I", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no site 'nobody' on this host" in done.stderr, done.stderr


def test_program_has_what_its_site_and_its_releases_use(daily):
    everything = modules(io.BytesIO(archive.packed("django_formula.backup.program")))
    of_containers, of_queue = (
        {"django_formula.process.container", "django_formula.container.containers"},
        {"django_formula.backup.store"},
    )
    of_supervisor = {"django_formula.process.reaped", "django_formula.untrusted.reaper"}
    assert of_containers | of_supervisor | of_queue <= everything
    daily.apply()
    assert not modules(daily.site.root / "backup.pyz") & (of_containers | of_supervisor | of_queue)
    daily.options = {**daily.options, "queue": {"engine": "redis"}}
    assert of_queue <= modules(
        io.BytesIO(archive.packed("django_formula.backup.program", schedule_timer.unused(daily.site)))
    )
    (daily.site.current / "config/instance.json").write_text(
        '{"process": "supervisor", "address": "/run/x", "protocol": "http"}'
    )
    record = json.loads((daily.site.current / "release.json").read_text())
    (daily.site.current / "release.json").write_text(json.dumps({**record, "container": CONTAINER}))
    assert of_containers | of_supervisor <= modules(
        io.BytesIO(archive.packed("django_formula.backup.program", schedule_timer.unused(daily.site)))
    )


def test_program_backs_up_the_site(daily, capsys):
    daily.server.databases["blog"]["rows"] = {"public.guestbook_entry": 3}
    assert backup_program.main("blog") == 0
    (about,) = backups.manifests(daily.site)
    assert capsys.readouterr().out == f"{daily.site.backups}/{about['name']}\n" and about["why"] == "timer"
    daily.server.fails["dump"] = DeploymentError("the server is gone", hint="start it")
    assert backup_program.main("blog") == 1
    assert capsys.readouterr().err == "the server is gone\nstart it\n"
    assert backup_program.main("nobody") == 1
    daily.site.current.unlink()
    assert backup_program.main("blog") == 0 and "has no active release yet" in capsys.readouterr().out


def test_modules_of_the_program_import_only_the_standard_library():
    packed = zipfile.ZipFile(io.BytesIO(archive.packed("django_formula.backup.program")))
    sources = {name: packed.read(name).decode() for name in packed.namelist()}
    words = {line.split()[1].split(".")[0] for text in sources.values() for line in text.splitlines()
             if line.startswith(("import ", "from "))}  # fmt: skip
    own = {"django_formula"}
    assert {word for word in words if word not in own and word not in sys.stdlib_module_names} == set()


# Certificates


@pytest.fixture
def secure(world):
    """A site by https on that host."""
    world.options = {"tls": {"kind": "self_signed"}}
    return world


def test_certificates_are_checked_hourly(secure):
    list(steps.site(secure.deployment()))
    unit = systemd.UNITS / "django-blog-tls.service"
    assert f"\nExecStart=/usr/bin/python3 -I {secure.site.root}/tls.pyz blog\n" in unit.read_text()
    timer = unit.with_suffix(".timer").read_text()
    assert "\nOnCalendar=hourly\nRandomizedDelaySec=30m\nPersistent=yes\n" in timer
    assert ["systemctl", "enable", "--quiet", "django-blog-tls.timer"] in secure.commands
    assert not (secure.site.root / "backup.pyz").exists()
    secure.options = {}
    list(steps.site(secure.deployment()))
    assert not unit.exists() and not (secure.site.root / "tls.pyz").exists()


@pytest.mark.parametrize("has_cron", [True, False])
def test_certificates_are_checked_by_cron_or_applies_without_systemd(secure, own_host, monkeypatch, has_cron):
    monkeypatch.setattr(schedule_timer, "CRON", own_host / "etc/cron.d")
    monkeypatch.setattr(daemons, "SYSTEMD", own_host / "none")
    monkeypatch.setattr(schedule_timer.shutil, "which", lambda name, path: "/usr/sbin/cron" if has_cron else None)
    (own_host / "etc/cron.d").mkdir(exist_ok=True)
    changes = next(steps.site(secure.deployment())).get("schedule", {})
    cron, program = own_host / "etc/cron.d/django-blog-tls", secure.site.root / "tls.pyz"
    assert changes == ({str(program): "new", str(cron): "new"} if has_cron else {})
    list(steps.site(secure.deployment()))
    if has_cron:
        lines = "# Renewal of the certificates of the Django site blog\n"
        assert cron.read_text() == f"{lines}{sum(b'blog') % 60} * * * * root /usr/bin/python3 -I {program} blog\n"


@pytest.mark.parametrize(
    ("tls", "more"),
    [
        ({"kind": "self_signed"}, set()),
        ({"kind": "acme"}, set()),
        (
            {"kind": "acme", "challenge": "dns-01", "hook": "/usr/local/lib/hook"},
            {"CAP_KILL", "CAP_SETGID", "CAP_SETUID"},
        ),
    ],
)
def test_foreign_acme_client_has_more_rights(make_site, tls, more):
    files = schedule_timer._files(make_site(tls=tls), formula_templates(), schedule_timer.RENEWAL)
    unit = files[systemd.UNITS / "django-blog-tls.service"].decode()
    said = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    usual = {"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_NET_BIND_SERVICE"}
    assert {*said["CapabilityBoundingSet"].split()} == usual | more
    assert said["ProtectSystem"] == "full" and "ProtectHome" not in said  # other sites may have their logs there


def test_program_does_not_depend_on_what_was_imported_before():
    """Otherwise an apply in another process would change the program, and the next one again."""
    digest = "hashlib.sha256(t.packed('django_formula.backup.program')).hexdigest()"
    code = f"import hashlib; from django_formula.host import archive as t; {{}}; print({digest})"
    environment = {"PYTHONPATH": str(Path(schedule_timer.__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    sums = set()
    for first in ("pass", "import django_formula.inspect.advice, django_formula.deploy.plan"):
        argv = [sys.executable, "-c", code.format(first)]
        sums.add(subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(sums) == 1


@pytest.mark.parametrize("schedule", ["*-02-30 03:30", "Mon..Wed..Fri 03:30"])
def test_backup_that_would_never_be_made_is_refused(daily, schedule):
    daily.options = {"backup": {"schedule": schedule}}
    with pytest.raises(DeploymentError, match="never comes, so that nothing would be backed up") as error:
        daily.apply()
    assert "django:sites:blog:backup:schedule" in error.value.message and not units(daily)
