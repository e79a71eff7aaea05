"""The pillar that an inspection writes for a project."""

import json
import os
import platform
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from django_formula.host import daemons, packages
from django_formula.host.commands import DeploymentError
from django_formula.inspect import access, background, inspection, metadata, options, removed, report, requirements
from django_formula.inspect import settings as inspect_settings
from django_formula.knowledge.rows import rows
from django_formula.pillar import compiler
from engine.inspect.test_project import Cases
from specimen import contract
from thinned import each
from trees import write_tree

INSPECTIONS = yaml.load((Path(__file__).parents[1] / "inspections.yaml").read_text(), Loader=Cases)
DEBIAN = {"os_family": "Debian", "osmajorrelease": 12, "init": "systemd"}
BACKGROUND = yaml.safe_load((Path(__file__).parents[1] / "inspections_background.yaml").read_text())
#: What inspection proposes for background work; `environment` too.
OF_BACKGROUND = ("workers", "schedules", "queue", "cache", "caches", "sessions", "environment")


@pytest.mark.slow
@pytest.mark.parametrize("case", each(3, INSPECTIONS), ids=[case["case"] for case in INSPECTIONS])
def test_inspection_writes_a_valid_pillar(tmp_path, case, monkeypatch):
    monkeypatch.setattr(daemons, "SYSTEMD", tmp_path)
    monkeypatch.setattr(inspection, "_host_python", lambda: "3.11.2")
    monkeypatch.setattr(packages, "offered", lambda names: {name for name in names if "gone" not in name})
    tree = write_tree(tmp_path / case["folder"], case["files"])
    text = inspection.inspect(str(tree))
    text = text.replace(str(tree), "<tree>")
    assert re.sub(r"(host is|for Python)(\s+#?\s*)3[\d.]+", r"\1\2<python>", text) == case["pillar"]
    pillar = yaml.safe_load(text.replace("<tree>", str(tree)))
    assert compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("case", [pytest.param(case, id=case["case"]) for case in BACKGROUND])
def test_background_work_is_proposed_as_the_project_has_it(tmp_path, case):
    files = {
        "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site.settings')",
        "site/__init__.py": "",
        "site/wsgi.py": "application = get_wsgi_application()",
        "site/settings.py": f"import environ, os\nenv = environ.Env()\n{case['settings']}",
        "requirements.txt": case["requirements"].replace(" ", "\n"),
    }
    tree = write_tree(tmp_path / "shop", files | case.get("files", {}))
    text = inspection.inspect(str(tree))
    pillar = yaml.safe_load(text)
    (site,) = pillar["django"]["sites"].values()
    assert {key: site[key] for key in OF_BACKGROUND if key in site} == case.get("keys", {}), text
    told = re.sub(r"\n#     ", " ", text)
    assert [remark for remark in case.get("remarks", []) if f"#   {remark}\n" not in told] == [], text
    assert ("not understood" in told) == ("not understood" in str(case.get("remarks"))) and "secret" not in text
    assert compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []


@pytest.mark.parametrize(
    ("at", "style", "expected"),
    [
        ("30 02 * * *", "cron", "30 2 * * *"),
        ("00 08-09,12 01 */2 *", "cron", "0 8-9,12 1 */2 *"),
        ("@midnight", "cron", "daily"),
        ("*/15 8-18 * * 01-05", "cron", "*/15 8-18 * * 1-5"),
        ("0 4 * * */2", "cron", ""),
        ("0 4 */2 * 1", "cron", ""),
        ("0 4 1 * 1", "cron", ""),
        ("0 22-4 * * *", "cron", ""),
        ("60 24 * * *", "cron", ""),
        ("0 4 0 * *", "cron", ""),
        ("0 4 * * MON", "cron", ""),
        ("@reboot", "cron", ""),
        ("Mon..Fri *-*-* 06:00:00 Europe/Berlin", "calendar", "Mon..Fri *-*-* 06:00:00 Europe/Berlin"),
        ("*:0/15", "calendar", "*:0/15"),
        ("Mon,Sun *-*-1..7 18:00", "calendar", "Mon,Sun *-*-1..7 18:00"),
        ("weekly", "calendar", "weekly"),
        ("Monday 06:00", "calendar", ""),
        ("semiannually", "calendar", ""),
        ("@daily", "calendar", ""),
        ("", "calendar", ""),
    ],
)
def test_time_of_a_job_is_one_that_the_schema_takes(at, style, expected):
    site = contract("schema.yaml")["$defs"]["site"]["properties"]
    pattern = site["schedules"]["additionalProperties"]["properties"]["at"]["pattern"]
    assert background.time(at, style) == expected
    assert not expected or re.fullmatch(pattern, expected)


@pytest.mark.parametrize(
    ("folder", "settings", "blank"),
    [
        (".", "{{ project_name }}.settings", "manage.py has {{ project_name }}"),
        ("src", "{{ cookiecutter.slug }}.settings", "src/manage.py has {{ cookiecutter.slug }}"),
        ("[[ name ]]", "config.settings", "[[ name ]]/manage.py has [[ name ]]"),
    ],
)
def test_template_for_projects_is_no_project(tmp_path, folder, settings, blank):
    manage = f"os.environ.setdefault('DJANGO_SETTINGS_MODULE', '{settings}')\n"
    tree = write_tree(tmp_path, {f"{folder}/manage.py": manage})
    with pytest.raises(DeploymentError, match="is a template for projects, and no project: ") as raised:
        inspection.inspect(str(tree))
    assert blank in str(raised.value)
    write_tree(
        tmp_path, {"own/manage.py": "print(f'{{not}} a {name}')\n" + manage.replace(settings, "config.settings")}
    )
    assert "manage.py is in own\n" in inspection.inspect(str(tree))


@pytest.mark.parametrize("version", ["attr: shop.__version__", "file: VERSION", "1.2"])
def test_metadata_of_a_project_whose_version_setup_cfg_takes_from_elsewhere(tmp_path, version):
    files = {"setup.cfg": f"[metadata]\nname = shop\nversion = {version}\n"}
    files["shop/__init__.py"] = "from importlib.metadata import version\n__version__ = version('shop')\n"
    known = version if version[0].isdigit() else "0"
    contents = f"Metadata-Version: 2.1\nName: shop\nVersion: {known}\n"
    tree = write_tree(tmp_path, files)
    assert metadata.stand_ins(tree, ".", [tree]) == {f"shop-{known}.dist-info/METADATA": {"contents": contents}}


def test_paths_are_those_that_the_schema_takes():
    definitions = contract("schema.yaml")["$defs"]
    assert definitions["relative"]["pattern"] == f"^{report.PATH.pattern}$"
    site = definitions["site"]["properties"]
    assert site["project"]["pattern"] == site["python_path"]["items"]["pattern"] == f"^(\\.|{report.PATH.pattern})$"
    assert definitions["module"]["pattern"] == f"^{report.MODULE.pattern}$"


def test_modules_with_letters_that_the_pillar_refuses_are_only_named(tmp_path):
    files = dict.fromkeys(("größe/settings/__init__.py", "größe/__init__.py", "laden/__init__.py"), "")
    files |= dict.fromkeys(("größe/wsgi.py", "laden/wsgi.py"), "application = get_wsgi_application()\n")
    files |= dict.fromkeys(("größe/settings/dev.py", "größe/settings/production.py"), "DEBUG = False\nDATABASES = {}\n")
    files["manage.py"] = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'größe.settings.dev')\n"
    text = inspection.inspect(str(write_tree(tmp_path / "x", files | {"requirements.txt": "django\n"})))
    pillar = yaml.safe_load(text)
    assert compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []
    said = "the pillar takes no such names in `settings_module`, rename them: größe.settings.production\n"
    assert said in text.replace("\n#     ", " ")


def test_names_of_workers_are_those_that_the_schema_takes():
    worker = contract("schema.yaml")["$defs"]["worker"]["properties"]
    assert worker["app"]["pattern"] == f"^{background.APP.pattern}$"
    assert worker["queues"]["items"]["pattern"] == f"^{background.QUEUE.pattern}$".replace("{1,100}", "+")
    assert [*background.STOPS, None] == worker["stop"]["enum"]


@pytest.mark.parametrize(("package", "key"), [("shop", "build"), ("lib+x/shop", "files"), ("shöp", None)])
def test_file_of_an_example_is_made_by_a_command(tmp_path, monkeypatch, package, key):
    """What the example has, and after it what the site knows.

    Where its path is odd, its text is in the pillar, unless the pillar does not take that path.
    """
    example = "KEY = 'x'\nALLOWED_HOSTS = []\nSECRET_KEY = '...'"
    files = {"__init__.py": "", "wsgi.py": "application = get_wsgi_application()", "local.sample.py": example}
    files |= {"settings.py": "INSTALLED_APPS = []\nfrom .local import *\n"}
    files = {f"{package}/{name}": text for name, text in files.items()}
    tree = write_tree(tmp_path / "x", {"manage.py": "import sys\nsys.path.append('lib+x')\n", **files})
    keys = inspection.found(str(tree))
    assert [one for one in ("build", "files") if one in keys] == ([key] if key else []), keys
    if key == "build":
        subprocess.run(shlex.split(keys["build"][0]), cwd=tree, check=True)
        monkeypatch.setitem(os.environ, "ALLOWED_HOSTS", "a.example.org,b.example.org")
        monkeypatch.setitem(os.environ, "SECRET_KEY", "of the site")
        made = runpy.run_path(str(tree / "shop/local.py"))
        hosts = ["a.example.org", "b.example.org"]
        assert (made["KEY"], made["ALLOWED_HOSTS"], made["SECRET_KEY"]) == ("x", hosts, "of the site")


@pytest.mark.parametrize(
    ("files", "settings", "program"),
    [
        (["blog/locale/de/LC_MESSAGES/django.po"], "", "django-admin"),
        (["blog/locale/de/LC_MESSAGES/djangojs.po"], "USE_I18N = True\n", "django-admin"),
        (["words/de/LC_MESSAGES/django.po"], "LOCALE_PATHS = ['words']\n", "blog.settings python manage.py"),
        (["blog/locale/de/LC_MESSAGES/django.po"], "USE_I18N = False\n", ""),
        ([f"blog/locale/de/LC_MESSAGES/django.{end}" for end in ("po", "mo")], "", ""),
        (["words/de/LC_MESSAGES/django.po"], "", ""),
        (["docs/locale/de/LC_MESSAGES/index.po"], "", ""),
        (["LC_MESSAGES/django.po"], "", ""),
    ],
)
def test_translations_are_compiled_where_none_is_committed(tmp_path, files, settings, program):
    own = {"manage.py": "", "blog/wsgi.py": "get_wsgi_application", "requirements.txt": "django"}
    own["blog/settings.py"] = f"INSTALLED_APPS = []\n{settings}"
    keys = inspection.found(str(write_tree(tmp_path / "x", {**own, **dict.fromkeys(files, "")})))
    assert keys.get("packages", []) == (["gettext"] if program else [])
    assert [one[-len(program) - 16 :] for one in keys.get("build", [])] == (
        [f"{program} compilemessages"] if program else []
    )


@pytest.mark.parametrize(("distribution", "packages"), [("trixie", ["postgresql-17-pgvector"]), ("bookworm", None)])
def test_extension_vector_is_installed_with_the_server(tmp_path, monkeypatch, distribution, packages):
    settings = "INSTALLED_APPS = []\nDATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql'}}\n"
    files = {"manage.py": "", "site/wsgi.py": "application = get_wsgi_application()", "site/settings.py": settings}
    migration = "from pgvector.django import VectorExtension\noperations = [VectorExtension()]\n"
    tree = write_tree(tmp_path / "x", files | {"site/migrations/1.py": migration, "requirements.txt": "django\n"})
    monkeypatch.setattr(options, "_distribution", lambda: distribution)
    text = inspection.inspect(str(tree))
    (site,) = yaml.safe_load(text)["django"]["sites"].values()
    assert site["database"] == {"engine": "postgres", "extensions": ["vector"]}
    assert site.get("packages") == packages
    assert ("extension vector, of which bookworm has no package" in text) == (distribution == "bookworm")


def test_inspection_of_a_repository_at_a_revision(tmp_path):
    tree = write_tree(
        tmp_path / "work", {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django"}
    )
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v1"]):
        subprocess.run([*git, *arguments], check=True)
    write_tree(tree, {"later/manage.py": ""})
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "two"], check=True)
    bare = tmp_path / "blog.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(tree), str(bare)], check=True)
    assert "manage.py is in ., later" in inspection.inspect(str(bare))
    text = inspection.inspect(f"file://{bare}", "v1")
    assert yaml.safe_load(text)["django"]["sites"]["blog"]["revision"] == "v1" and "manage.py is in" not in text
    assert text.splitlines()[1].startswith("#   commit ")


def test_sandbox_is_not_proposed_without_systemd(tmp_path, monkeypatch):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\nnumba"}
    tree = write_tree(tmp_path / "tree", files)
    for is_there in (True, False):
        monkeypatch.setattr(daemons, "SYSTEMD", tmp_path / ("." if is_there else "missing"))
        assert ("sandbox: {Memory" in inspection.inspect(str(tree))) == is_there


def test_names_that_the_schema_refuses_are_not_proposed():
    refused = contract("schema.yaml")["$defs"]["user"]["not"]["pattern"]
    names = [word for word in re.findall(r"[\w-]+", refused) if word.isascii()]
    names += ["x-build", "build", "root-build", f"{'x' * 20}-buildings", f"2026-{'x' * 10}-build-tools"]
    proposed = [inspection.name_of(f"https://host/{name}.git") for name in names]
    assert len(names) > 30 and not [name for name in proposed if re.match(refused, name)]


@pytest.mark.parametrize("file", ["site/settings.py", "shop/__init__.py"])
def test_variables_that_the_schema_refuses_are_not_proposed(tmp_path, file):
    patterns = [one["not"]["pattern"] for one in contract("schema.yaml")["$defs"]["variable"]["allOf"]]
    words = [word for pattern in patterns for word in re.findall(r"[A-Z_]+", pattern)]
    names = {f"{begin}{word}" for begin in ("", "DJANGO_", "LISTEN_", "LD_") for word in words}
    refused = sorted(name for name in names if any(re.search(pattern, name) for pattern in patterns))
    assert {"PATH", "LD_LIBRARY_PATH", "LISTEN_FDS", "DJANGO_SITE"} <= {*refused} and len(refused) > 25
    code = "".join(f"X{name} = os.environ['{name}']\n" for name in [*refused, "A" * 201, "LD_SDK_REGION"])
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n"}
    files |= {"site/settings.py": "INSTALLED_APPS = ['shop']\n", "shop/__init__.py": ""}
    pillar = yaml.safe_load(inspection.inspect(str(write_tree(tmp_path / "x", {**files, file: files[file] + code}))))
    assert [*pillar["django"]["sites"]["x"]["environment"]] == ["LD_SDK_REGION"]


@pytest.mark.parametrize("function", [inspection.inspect, inspection.found])
def test_login_of_a_repository_is_in_no_error(monkeypatch, tmp_path, function):
    monkeypatch.setattr(inspection, "_fetched", lambda *_arguments: (tmp_path, "0" * 40))
    monkeypatch.setattr(inspection, "_read", lambda *_arguments: os._exit(0))
    with pytest.raises(DeploymentError, match=r"reading https://.*example.org/shop.git: it ended") as raised:
        function("https://ann:hunter2@example.org/shop.git")
    assert "hunter2" not in str(raised.value)


def test_submodules_that_cannot_be_fetched_are_among_the_keys(tmp_path):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django"}
    tree = write_tree(tmp_path, files | {".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = ./x\n'})
    assert inspection.found(str(tree))["submodules"] is False


@pytest.mark.parametrize("text", ["services: {a: {x: !!bool y}}", "services: {a: {x: !!int ''}}", "x: !!timestamp y"])
def test_value_that_yaml_cannot_make_ends_its_own_file_only(tmp_path, text):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n"}
    files |= {"compose.yaml": text, "render.yaml": text, "heroku.yml": "run: {web: x, z: manage.py y}\n"}
    files["docker-compose.yml"] = "services: {a: {build: ., command: manage.py x, labels: 5}}\n"
    text = inspection.inspect(str(write_tree(tmp_path / "x", files)))
    assert "compose.yaml was not read: it is not valid YAML" in text and "not completely inspected" not in text
    assert "render.yaml was not read: it is not valid YAML" in text
    (site,) = yaml.safe_load(text)["django"]["sites"].values()
    assert sorted(worker["command"] for worker in site["workers"].values()) == ["manage.py x", "manage.py y"]


def test_name_that_is_longer_than_a_file_can_have_is_of_no_module(tmp_path):
    long = "a" * 300
    settings = f"import {long}\nINSTALLED_APPS = ['{long}', 'b.{long}', 'shop']\nROOT_URLCONF = '{long}'\n"
    settings += "KEY = os.environ['KEY']\n"
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n"}
    files |= {"site/settings.py": settings, "shop/__init__.py": "x = os.environ['OF_SHOP']\n"}
    text = inspection.inspect(str(write_tree(tmp_path / "x", files)))
    assert "not completely inspected" not in text
    assert [*yaml.safe_load(text)["django"]["sites"]["x"]["environment"]] == ["KEY", "OF_SHOP"]


def test_command_that_the_pillar_takes_for_jinja_is_only_named(tmp_path):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n"}
    files["Procfile"] = "mail: manage.py mail '{{ a }}'\nsums: manage.py sums '{%a%}'\nruns: manage.py runs '{}'\n"
    files["Procfile"] += "release: manage.py migrate && manage.py fill {{a}}\n"
    files["crontab"] = "0 3 * * * manage.py clear '{{ a }}'\n0 4 * * * manage.py clean\n"
    text = inspection.inspect(str(write_tree(tmp_path / "x", files)))
    pillar = yaml.safe_load(text)
    assert compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []
    (site,) = pillar["django"]["sites"].values()
    assert [*site["workers"]] == ["runs"] and [one["command"] for one in site["schedules"].values()] == [
        "manage.py clean"
    ]
    assert "not understood, and not in the pillar: mail (Procfile), sums (Procfile)," in text.replace("\n#     ", " ")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("Pipfile", '[packages]\ndjango = "*"\nx = {version = "*", markers = "{{ a }}"}\ny = ">=1\\nz"\n'),
        ("Pipfile", '[packages]\ndjango = "*"\n"\\u0007" = "*"\n'),
        ("pyproject.toml", "[project]\nname = 'a'\ndependencies = ['b']\n[project.optional-dependencies]\n"
         "prod = ['django', '{{ a }}', 'y; {%a%}', '--index-url=https://c.example', '-r d.txt', 'é']\n"),
    ],
)  # fmt: skip
def test_requirement_that_the_pillar_refuses_is_only_named(tmp_path, path, content):
    text = inspection.inspect(str(write_tree(tmp_path / "x", {"manage.py": "", path: content})))
    pillar = yaml.safe_load(text)
    assert compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []
    (site,) = pillar["django"]["sites"].values()
    assert site["python_packages"] == ["django"]
    assert "the pillar takes no such requirements, which `python_packages` leaves out: " in text.replace(
        "\n#     ", " "
    )


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("Dynaconf()", "DYNACONF_SECRET_KEY"),
        ("dynaconf.DjangoDynaconf(__name__)", "DJANGO_SECRET_KEY"),
        ("Dynaconf(envvar_prefix='shop')", "SHOP_SECRET_KEY"),
        ("Dynaconf(envvar_prefix='A, B')", "A_SECRET_KEY"),
        ("Dynaconf(envvar_prefix=False)", "SECRET_KEY"),
        ("Dynaconf(envvar_prefix='a-b')", "DYNACONF_SECRET_KEY"),
        ("Dynaconf(envvar_prefix=None)", None),
    ],
)
def test_secret_key_has_the_prefix_of_dynaconf(tmp_path, call, name):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n"}
    files["site/settings.py"] = f"ROOT_URLCONF = 'site.urls'\nINSTALLED_APPS = []\nsettings = {call}\n"
    (site,) = yaml.safe_load(inspection.inspect(str(write_tree(tmp_path / "x", files))))["django"]["sites"].values()
    assert site.get("environment", {}) == ({name: {"from": "secret_key"}} if name else {})


@pytest.mark.parametrize(
    ("call", "path", "content", "expected"),
    [
        ("DjangoDynaconf(__name__)", "settings.toml", "[default]\n[production]\nA = 1\n", ("DJANGO_ENV", "production")),
        ("DjangoDynaconf(__name__)", "site/settings.yaml", "default:\n  A: 1\nprod:\n  A: 1\n", ("DJANGO_ENV", "prod")),
        ("DjangoDynaconf(__name__)", "settings.json", '{\n  "LIVE": {"A": 1}\n}\n', ("DJANGO_ENV", "live")),
        ("DjangoDynaconf(__name__, env_switcher='S')", "config/settings.toml", "[production.a]\n", ("S", "production")),
        ("Dynaconf(environments=True)", ".secrets.toml", "[production]\n", ("ENV_FOR_DYNACONF", "production")),
        ("Dynaconf(environments=True, settings_files=['c/a.toml'])", "c/a.toml", "['production']\n",
         ("ENV_FOR_DYNACONF", "production")),
        ("Dynaconf()", "settings.toml", "[production]\n", None),
        ("DjangoDynaconf(__name__, environments=False)", "settings.toml", "[production]\n", None),
        ("DjangoDynaconf(__name__, env='production')", "settings.toml", "[production]\n", None),
        ("DjangoDynaconf(__name__)", "settings.yaml", "default:\n  production: a\n", None),
        ("DjangoDynaconf(__name__)", "settings.toml", "[default]\n[development]\n", None),
    ],
)  # fmt: skip
def test_settings_of_dynaconf_are_those_of_a_live_site(tmp_path, call, path, content, expected):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n", path: content}
    files["site/settings.py"] = f"SECRET_KEY = 'a'\nINSTALLED_APPS = []\nsettings = {call}\n"
    (site,) = yaml.safe_load(inspection.inspect(str(write_tree(tmp_path / "x", files))))["django"]["sites"].values()
    found = {name: value for name, value in site.get("environment", {}).items() if "SECRET_KEY" not in name}
    assert found == (dict([expected]) if expected else {})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[default]\nA = 1\n[development]\nDEBUG = true\n", True),
        ("[development]\n[production]\n", False),
        ("A = 1\n", False),
    ],
)
def test_settings_that_are_for_development_only_are_named(tmp_path, content, expected):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n"}
    files |= {"site/settings.py": "SECRET_KEY = 'a'\nsettings = DjangoDynaconf(__name__)\n", "settings.toml": content}
    text = inspection.inspect(str(write_tree(tmp_path / "x", files))).replace("\n#     ", " ")
    said = "settings.toml has settings for development and none for production, so a site runs with the former: add"
    assert (said in text) == expected and ("set DJANGO_ENV: production in `environment`" in text) == expected


def test_build_command_that_is_too_long_for_the_pillar_is_only_named(tmp_path):
    names = [f"ADDRESS_OF_SERVICE_{number:03}" for number in range(200)]  # each is in a command that needs the settings
    settings = "import os\n" + "".join(f"{name} = os.environ['{name}']\n" for name in names)
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\nlibsass\n"}
    files["site/settings.py"] = f"{settings}SECRET_KEY = 'a'\nINSTALLED_APPS = ['sass_processor']\n"
    text = inspection.inspect(str(write_tree(tmp_path / "x", files)))
    pillar = yaml.safe_load(text)
    assert compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []
    said = (
        "the pillar takes no such commands, which `build` leaves out: env DJANGO_SETTINGS_MODULE=site.settings ADDRESS"
    )
    assert said in text.replace("\n#     ", " ")


@pytest.mark.parametrize(
    ("settings", "template", "path"),
    [
        ("A = yaml.safe_load(open(BASE_DIR / 'conf/base.yml'))", "conf/base_stencil.yml", "conf/base.yml"),
        ("with open(os.path.join(BASE_DIR, 'a.json')) as file:\n    A = json.load(file)", "a.json.dist", "a.json"),
        ("c = configparser.ConfigParser()\nc.read([BASE_DIR / 'config.ini'])", "config.example.ini", "config.ini"),
        ("A = json.loads((BASE_DIR / 'a.json').read_text())", "a-sample.json", "a.json"),
        (
            "def read(name):\n    with open(name) as file:\n        return file.read()\nA = read('a.yml')",
            "a.dist.yml",
            "a.yml",
        ),
        ("A = toml.load(os.environ.get('CONFIG', 'a.toml'))", "a.template.toml", "a.toml"),
        ("A = open(BASE_DIR / 'base.yml')", "baseline.yml", ""),
        ("A = open(BASE_DIR / 'base.yml')", "base.example.ini", ""),
        ("A = open(BASE_DIR / 'a.yml', 'w')", "a.dist.yml", ""),
        ("A = open('/etc/shop/a.yml')", "a.dist.yml", ""),
        ("try:\n    A = open('a.yml')\nexcept OSError:\n    A = None", "a.dist.yml", ""),
        ("if os.path.exists('a.yml'):\n    A = open('a.yml')", "a.dist.yml", ""),
    ],
)
def test_file_that_settings_read_is_named_with_the_template_next_to_it(tmp_path, settings, template, path):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n", template: ""}
    files["site/settings.py"] = (
        "import configparser, json, os, toml, yaml\nfrom pathlib import Path\n"
        f"BASE_DIR = Path(__file__).resolve().parent.parent\nSECRET_KEY = 'a'\n{settings}\n"
    )
    text = inspection.inspect(str(write_tree(tmp_path / "x", files))).replace("\n#     ", " ")
    name = template.rpartition("/")[2]
    said = rf"site/settings\.py:\d+ reads {path}, which is not in the source, and {name} is next to it: add"
    assert bool(re.search(said, text)) == bool(path) and ("is next to it" in text) == bool(path), text


@pytest.mark.parametrize(
    ("django", "host", "drivers", "packages"),
    [
        (
            "3.0.5",
            "3.11.2",
            {"psycopg2": "2.8.4", "psycopg2-binary": "2.8.4"},
            ["psycopg2~=2.9.5", "psycopg2-binary~=2.9.5", "django~=3.2.0"],
        ),
        ("2.2.1", "3.11.2", {"psycopg2-binary": "2.8.6"}, ["django~=3.2.0"]),
        ("3.0.5", "3.9.2", {"psycopg2": "2.8.4", "psycopg2-binary": "2.8.4"}, []),
        ("3.1.5", "3.11.2", {"psycopg2": "2.8.4"}, ["psycopg2~=2.9.5"]),
        ("3.0.5", "3.11.2", {"mysqlclient": "2.0.1"}, []),
    ],
)
def test_django_is_one_that_runs_with_the_psycopg2_of_this_python(
    tmp_path, monkeypatch, django, host, drivers, packages
):
    monkeypatch.setattr(inspection, "_host_python", lambda: host)
    pins = "".join(f"{name}=={version}\n" for name, version in {"django": django, **drivers}.items())
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": pins}
    files["site/settings.py"] = "SECRET_KEY = 'a'\nINSTALLED_APPS = []\n"
    text = inspection.inspect(str(write_tree(tmp_path / "x", files)))
    (site,) = yaml.safe_load(text)["django"]["sites"].values()
    assert site.get("python_packages", []) == packages, text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pyproject.toml", "[project]\nname = 'a'\ndependencies = 'django'\n", "project.dependencies is no list"),
        (
            "pyproject.toml",
            "[project]\nname = 'a'\noptional-dependencies = []\n",
            "project.optional-dependencies is no table",
        ),
        (
            "pyproject.toml",
            "[project]\nname = 'a'\n[project.optional-dependencies]\nweb = 'django'\n",
            "project.optional-dependencies.web is no list",
        ),
        ("pyproject.toml", "[project]\nname = 'a'\n[tool.poetry]\ngroup = 'a'\n", "tool.poetry.group is no table"),
        ("pyproject.toml", "[project]\nname = 'a'\n[tool", "Expected ']' at the end of a table declaration"),
        ("poetry.lock", "[package]\nname = 'django'\n", "package is no list"),
        ("pdm.lock", "[[package]]\nname = ['django']\n", "package.0.name is no text"),
        ("uv.lock", "version = 1\npackage = ['django']\n", "package.0 is no table"),
    ],
)
def test_file_with_a_value_of_another_type_is_named_with_its_key(tmp_path, name, content, said):
    files = {
        "manage.py": "",
        "shop/wsgi.py": "get_wsgi_application",
        "shop/settings.py": "DEBUG = False\n",
        name: content,
    }
    text = inspection.inspect(str(write_tree(tmp_path / "x", files))).replace("\n#     ", " ")
    assert f"not completely inspected (ValueError: {name}: {said}" in text, text


@pytest.mark.parametrize(
    ("prefix", "path"), [("/app", "/app"), ("/a/b/", "/a/b"), ("/", None), ("", None), ("/a b", None), ("app", None)]
)
def test_site_has_the_path_that_its_links_have(tmp_path, prefix, path):
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n"}
    files["site/settings.py"] = f"SECRET_KEY = 'a'\nINSTALLED_APPS = []\nFORCE_SCRIPT_NAME = {prefix!r}\n"
    text = inspection.inspect(str(write_tree(tmp_path / "x", files)))
    pillar = yaml.safe_load(text)
    assert pillar["django"]["sites"]["x"].get("path") == path, text
    assert compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []


def test_name_that_no_application_can_have_is_in_no_command(tmp_path):
    name, model = "x; touch y", "class A(models.Model):\n    b = models.CharField()\n"
    settings = f"INSTALLED_APPS = ['{name}', 'sass_processor', 'shop']\n"
    files = {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "site/settings.py": settings}
    files |= {f"{name}/models.py": model, "shop/models.py": model, "requirements.txt": "django\n"}
    files[f"shop/management/commands/{name}.py"] = "from sass_processor.processor import x\n"
    text = inspection.inspect(str(write_tree(tmp_path, files)))
    assert "touch y" not in text and "compilescss" in text and " --run-syncdb" in text


def test_inspection_skips_links_that_lead_nowhere(tmp_path):
    tree = write_tree(tmp_path, {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django"})
    for name in ("package.json", "site/urls.py", "site/settings.py"):
        (tree / name).symlink_to("../nowhere")
    assert "build" not in yaml.safe_load(inspection.inspect(str(tree)))["django"]["sites"]


def test_inspection_refuses_a_source_without_project(tmp_path):
    with pytest.raises(DeploymentError, match=r"no manage\.py found in the source"):
        inspection.inspect(str(tmp_path))
    with pytest.raises(DeploymentError, match="no repository found at"):
        inspection.inspect(f"file://{tmp_path}/missing")


def test_health_page_of_an_included_module_is_found():
    """The bundled example includes the routes of its application without a prefix."""
    example = Path(__file__).parents[3] / "examples/project"
    assert "\n      health: {path: /healthz}  # guessed\n" in inspection.inspect(str(example))


@pytest.mark.parametrize(
    ("pinned", "python", "expected"),
    [
        ({"psycopg2": "2.7.5"}, "3.11.2", [("psycopg2", "2.9.5")]),
        ({"psycopg2": "2.7.5"}, "3.13.5", [("psycopg2", "2.9.10")]),
        ({"psycopg2": "2.7.5"}, "3.10.1", []),
        ({"psycopg2": "2.9.9"}, "3.12.3", []),
        ({"psycopg2": "2.7.5"}, "", []),
        (
            {"psycopg2": "2.7.5", "psycopg2-binary": "2.8.6"},
            "3.11.2",
            [("psycopg2", "2.9.5"), ("psycopg2-binary", "2.9.5")],
        ),
        ({}, "3.11.2", []),
        ({"lxml": "4.6.3", "psycopg2-binary": "2.7.5", "uwsgi": "2.0.19.1"}, "3.11.2", []),
    ],
)
def test_a_pinned_package_that_a_python_cannot_import_is_replaced(pinned, python, expected):
    assert [*requirements.not_running(pinned, python)] == expected


@pytest.mark.parametrize("name", rows("on_python"))
def test_package_of_each_row_is_replaced_from_its_python_on(name):
    """The version that replaces it has no row of its own, and on an older Python nothing is replaced."""
    for row in rows("on_python")[name]:
        pinned = {name: "0.1", **({row["with"]: "0.1"} if "with" in row else {})}
        assert dict(requirements.not_running(pinned, row["python"]))[name] == row["to"]
        assert [*requirements.not_running({name: row["to"]}, row["python"])] == []
        assert [*requirements.not_running({name: row["since"]}, row["python"])] == []
    assert [*requirements.not_running({name: "0.1"}, "3.9")] == []


def test_required_package_of_each_row_needs_packages():
    """Each name in a pattern is tried; extras and longer names are distinguished."""
    names = {
        *("psycopg2", "psycopg2cffi", "psycopg", "psycopg[c]", "psycopg-c", "mysqlclient", "pylibmc", "uwsgi"),
        *("netifaces", "python-ldap", "django-auth-ldap", "xmlsec", "python3-saml", "pycairo", "xhtml2pdf", "cairosvg"),
        *("cairocffi", "weasyprint", "python-magic", "pygraphviz", "dlib", "face-recognition", "pyicu", "pyaudio"),
        *("gssapi", "requests-kerberos", "phoenixdb", "pyzbar", "opencv-python", "opencv-contrib-python"),
    }
    found = {name: [*requirements.system_packages([name])] for name in names}
    assert {name for name, needed in found.items() if len(needed) != 1} == set()
    assert {json.dumps(one["packages"]) for one in rows("needed")} == {json.dumps(one[0][1]) for one in found.values()}
    assert [*requirements.system_packages(["psycopg2-binary", "psycopg[binary]", "uwsgi-tools", "magic"])] == []


@pytest.mark.parametrize("name", rows("removed_names")["django"])
def test_django_without_the_name_of_each_row_is_not_installed(tmp_path, name):
    module, _dot, one = name.rpartition(".")
    version = rows("removed_names")["django"][name]
    tree = write_tree(tmp_path / "shop", {"shop/x.py": f"from {module} import {one}\n"})
    why = f"shop/x.py imports {one}, which Django {version} does not have"
    assert removed.limit(tree, {}) == (f"django<{version}", why)
    assert removed.is_outdated(tree / "shop", version) and not removed.is_outdated(tree / "shop", "1.7")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (
            {"a/models.py": "x = models.ForeignKey('b.C', null=True)"},
            "a/models.py calls models.ForeignKey without on_delete",
        ),
        (
            {"a/models.py": "x = models.OneToOneField(\n  User)"},
            "a/models.py calls models.OneToOneField without on_delete",
        ),
        ({"a/models.py": "x = models.ForeignKey('b.C', on_delete=models.CASCADE)"}, ""),
        ({"a/models.py": "x = models.ForeignKey(User, models.CASCADE)"}, ""),
        ({"a/models.py": "x = models.ForeignKey(User, **more)"}, ""),
        ({"a/models.py": "# models.ForeignKey(User)"}, ""),
        ({"a/tests/test_models.py": "x = models.ForeignKey(User)"}, ""),
        ({"a/tables.py": "x = sqlalchemy.ForeignKey('b.id')"}, ""),
        (
            {"a/urls.py": "url(r'^', include('shop.urls', namespace='shop'))", "shop/urls.py": "urlpatterns = []"},
            "a/urls.py calls include without app_name",
        ),
        (
            {"a/urls.py": "url(r'^', include('shop.urls', 'shop'))", "shop/urls/__init__.py": ""},
            "a/urls.py calls include",
        ),
        ({"a/urls.py": "url(r'^', include('shop.urls', namespace='x'))", "shop/urls.py": "app_name = 'shop'"}, ""),
        ({"a/urls.py": "url(r'^', include('shop.urls'))", "shop/urls.py": "urlpatterns = []"}, ""),
        ({"a/urls.py": "url(r'^', include('elsewhere.urls', namespace='x'))"}, ""),
        ({"a/urls.py": "url(r'^', include((patterns, 'shop'), namespace='x'))"}, ""),
        ({"a/urls.py": "url(r'^', include())\ninclude(*given)\ninclude('', namespace='x')"}, ""),
    ],
)
def test_code_that_lacks_what_django_requires_keeps_its_django(tmp_path, files, found):
    tree = write_tree(tmp_path / "shop", files)
    constraint, why = removed.limit(tree, {})
    assert (constraint, why.startswith(found), bool(why)) == ("django<2.0" if found else "", True, bool(found))
    assert removed.runs_with(tree, "1.11") and removed.runs_with(tree, "2.2") == (not found)


@pytest.mark.parametrize(
    ("text", "is_bound"),
    [
        ("django<4\n", True),
        ("Django [argon2] == 3.2\n", True),
        ("[packages]\ndjango = '~=3.2'\n", True),
        ("django\npillow==9.1.0\n", False),
        ("[options]\ninstall_requires =\n    django\n    pillow<10\n", False),
        ("django>=3.2; python_version < '3.13'\n", False),
    ],
)
def test_django_is_limited_unless_its_own_line_says_which_versions(tmp_path, text, is_bound):
    tree = write_tree(tmp_path, {"shop/x.py": "from django.utils.translation import ugettext_lazy\n"})
    assert (removed.limit(tree, {"requirements.txt": text})[0] == "") == is_bound


@pytest.mark.parametrize("kind", ["legacy", "git", "url"])
def test_index_of_a_lock_of_poetry_is_neither_repository_nor_archive(kind):
    text = (
        f'[[package]]\nname = "house"\n\n[package.source]\ntype = "{kind}"\nurl = "https://git.example.org/x/house"\n'
    )
    expected = ["https://git.example.org/x/house"] if kind == "legacy" else []
    assert requirements.indexes({"poetry.lock": text}) == expected


def test_django_with_an_extra_is_django(tmp_path):
    project = "[project]\nname = 'x'\n[project.optional-dependencies]\n"
    files = {"pyproject.toml": f"{project}dev = ['ruff']\nsite = ['Django[argon2]>=5']\n", "tools.txt": "ruff\n"}
    files |= {"live.txt": "Django[argon2]\n", "Dockerfile": "FROM x\nRUN pip install -r live.txt\n"}
    tree = write_tree(tmp_path, files)
    assert requirements.extra_with_django(tree, ["pyproject.toml"], []) == ("site", ["Django[argon2]>=5"])
    assert requirements.of_dockerfile(tree, ".", ["tools.txt"]) == (["live.txt"], "Dockerfile")


def test_an_extra_has_what_it_takes_from_others_and_not_the_project_itself(tmp_path):
    """The name of the project may be another package's on the index."""
    extras = """
        [project]
        name = "My_Shop"
        [project.optional-dependencies]
        mail = ["mailer>=2 ; python_version >= '3.8'", "my-shop[all,mail]"]
        web = ["Django>=5", "my.shop[mail]"]
        prod = ["gunicorn", "my-shop[web, Data_Base]", "my-shop", "my-shop-theme"]
        data-base = ["psycopg[binary]"]
    """
    tree = write_tree(tmp_path, {"pyproject.toml": extras.replace("        ", "")})
    mail = "mailer>=2 ; python_version >= '3.8'"
    assert requirements.extra_with_django(tree, ["pyproject.toml"], []) == ("web", ["Django>=5", mail])
    found = requirements.extra_for_servers(tree, ["pyproject.toml"])
    assert found == ("prod", ["gunicorn", "my-shop-theme", "Django>=5", "psycopg[binary]", mail])


@pytest.mark.parametrize("name", rows("added_names")["django"])
def test_django_has_what_a_migration_calls_of_each_row(tmp_path, name):
    call = re.sub(r"\((\w+)\)", r"(\1=1)", name if "(" in name else f"{name}()")
    code = f"models.{call if call[0] != '(' else f'CharField{call}'}\n"
    tree = write_tree(tmp_path / "shop", {"shop/migrations/__init__.py": "", "shop/migrations/0001_a.py": code})
    assert removed.newer(tree, "3.2")[0] == rows("added_names")["django"][name]
    assert removed.newer(tree, "5.2") == ("", "")


def test_version_with_a_fault_is_replaced():
    row = rows("broken")["redis"]
    assert [*requirements.broken({"redis": "8.0.0"})] == [("redis", row["to"], row["why"])]
    assert [*requirements.broken({"redis": "8.0.1"})] == []


def test_an_open_version_is_no_pin_of_a_package_that_cannot_be_built():
    text = "psycopg2-binary==2.*\ndjango==1.11.*  # old\npillow ==9.1.0; python_version > '3'\nsix==1.*,<1.16\n"
    assert requirements.versions({"requirements.txt": text}) == {"django": "1.11", "pillow": "9.1.0"}
    text = "Django~=3.2.22\nboto3~=1.23.10\n"
    assert requirements.versions({"requirements.txt": text}) == {"django": "3.2.22"}
    assert requirements.versions({"requirements.txt": "Django ~= 4.1\n"}) == {}


@pytest.mark.parametrize(
    ("text", "newest"),
    [
        ("Django<1.9\n", "1.8"),
        ('dependencies = [\n    "django >=1.11, <2.0",\n]\n', "1.11"),
        ("django[argon2]>=3.2,<4  # soon\n", "3.2"),
        ("django<=4.1\n", "4.1"),
        ("django<4.2.8\n", "4.2"),
        ("django>=4.2\ndjango-filter<2\n", ""),
    ],
)
def test_newest_django_below_a_bound(text, newest):
    assert requirements.newest_django([text, ""]) == newest


@pytest.mark.parametrize(
    ("pinned", "expected"),
    [
        (
            {"ufw": "0.36.1", "distro-info": "1.1+ubuntu0.2", "dbus-python": "1.2.18", "six": "1.16.0"},
            ["dbus-python", "distro-info", "ufw"],
        ),
        ({"python-debian": "0.1.49+deb12u1", "pygobject": "3.42.1"}, ["pygobject", "python-debian"]),
        ({"pkg-resources": "0.0.0", "six": "1.16.0"}, ["pkg-resources"]),
        ({"pygobject": "3.42.1", "torch": "2.1.0+cpu"}, []),
    ],
)
def test_packages_of_the_system_are_left_out(pinned, expected):
    assert requirements.of_system(pinned) == expected


@pytest.mark.parametrize(
    ("pinned", "code", "expected"),
    [
        (
            "4.2.20",
            "models.CheckConstraint(condition=x, name='a')",
            ("5.2", "a/migrations/0002.py has CheckConstraint(condition=…), which Django 4.2.20 does not have"),
        ),
        (
            "4.2.20",
            "models.GeneratedField(db_comment='x', db_persist=True)",
            ("5.2", "a/migrations/0002.py has GeneratedField, which Django 4.2.20 does not have"),
        ),
        ("5.1", "models.CheckConstraint(condition=x, name='a')", ("", "")),
        ("5.2", "models.CompositePrimaryKey('a', 'b')", ("", "")),
        ("4.2.20", "models.CheckConstraint(check=x, name='a')", ("", "")),
        ("", "models.CheckConstraint(condition=x, name='a')", ("", "")),
    ],
)
def test_migration_that_the_pinned_django_cannot_run_has_a_newer_one_installed(tmp_path, pinned, code, expected):
    text = f"# Generated by Django 5.2.5 on 2025-08-13 22:15\nfrom django.db import models\nx = {code}\n"
    tree = write_tree(tmp_path, {"a/migrations/0001.py": "", "a/migrations/0002.py": text, "a/models.py": text})
    assert removed.newer(tree, pinned) == expected


@pytest.mark.parametrize(
    ("pinned", "required", "is_limited"),
    [
        ({}, ["django", "djangorestframework"], True),
        ({}, ["djangorestframework[coreapi]"], True),
        ({"djangorestframework": "3.16.0"}, ["djangorestframework"], False),
        ({}, ["django"], False),
    ],
)
def test_package_that_lacks_a_module_which_the_code_names_is_limited(tmp_path, pinned, required, is_limited):
    code = "from rest_framework.documentation import include_docs_urls\n"
    tree = write_tree(tmp_path, {"blog/urls.py": code, "blog/views.py": "import rest_framework.documents\n"})
    why = "blog/urls.py names rest_framework.documentation, which djangorestframework 3.17 does not have"
    expected = [("djangorestframework<3.17", why)] if is_limited else []
    assert [*removed.limits_of_packages(tree, pinned, required)] == expected


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        (
            "x = = 1",
            "invalid syntax, a SyntaxError for Python {}: set `python` to the one that the project is for, or correct",
        ),
        (
            "print x",
            "Missing parentheses in call to 'print'. Did you mean print(...)?, which is Python 2: no site runs it; "
            "convert the project to Python 3 first, as with 2to3",
        ),
        (
            "if a:\n    x = 1\n\ty = 2",
            "inconsistent use of tabs and spaces in indentation, which is Python 2: no site runs it",
        ),
        (
            "exec 'x'",
            "Missing parentheses in call to 'exec'. Did you mean exec(...)?, which is Python 2: no site runs it",
        ),
    ],
)
@pytest.mark.parametrize("is_host", [True, False])
def test_module_that_the_python_of_this_host_cannot_read_is_named(monkeypatch, tmp_path, is_host, line, remark):
    own = ".".join(platform.python_version_tuple()[:2])
    monkeypatch.setattr(inspection, "_host_python", lambda: f"{own}.1" if is_host else "3.1.1")
    files = {"manage.py": "", "new/wsgi.py": "get_wsgi_application", "requirements.txt": "django\n"}
    files["new/settings.py"] = "INSTALLED_APPS = ['rows']\nROOT_URLCONF = 'new.urls'\n"
    files |= {"new/urls.py": "import rows.views\n", "rows/views.py": f"import a\n{line}\n", "rows/unused.py": "y = =\n"}
    text = inspection.inspect(str(write_tree(tmp_path / "new", files)))
    assert (
        f"rows/views.py:{line.count(chr(10)) + 2}: {remark.format(own)}" in text.replace("\n#     ", " ")
    ) is is_host
    assert "unused" not in text


@pytest.mark.parametrize(("host", "is_replaced"), [("3.11.2", True), ("3.13.5", True), ("3.10.1", False), ("", False)])
def test_celery_that_the_python_of_this_host_cannot_import_is_replaced(monkeypatch, tmp_path, host, is_replaced):
    monkeypatch.setattr(inspection, "_host_python", lambda: host)
    files = {"manage.py": "", "old/wsgi.py": "get_wsgi_application", "old/settings.py": "INSTALLED_APPS = []\n"}
    pins = "django==4.2\ncelery[redis]==4.4.2\nvine==1.3.0\nbilliard==3.6.3.0\n"
    text = inspection.inspect(str(write_tree(tmp_path / "old", {**files, "requirements.txt": pins})))
    line = (
        f'["celery~=5.4.0", "vine~=5.1", "billiard~=4.2"]  # celery 4.4.2 is too old for Python {host[:4]}; vine 1.3.0 '
    )
    assert (f"      python_packages: {line}" in text) is is_replaced
    assert ("python_packages" in text) is is_replaced


def test_packages_of_a_celery_that_runs_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(inspection, "_host_python", lambda: "3.11.2")
    files = {"manage.py": "", "old/wsgi.py": "get_wsgi_application", "old/settings.py": "INSTALLED_APPS = []\n"}
    pins = "django==4.2\ncelery==5.2.2\nkombu==5.2.2\nvine==5.0.0\nbilliard==3.6.4.0\n"
    text = inspection.inspect(str(write_tree(tmp_path / "old", {**files, "requirements.txt": pins})))
    assert "python_packages" not in text


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("bound", "host", "line"),
    [
        (
            "<1.12",
            "3.13.5",
            'python: "3.9"  # Django 1.11 runs on Python >=3.4,<3.10, and python3 of this host is 3.13.5',
        ),
        (">=4.2,<6.1", "3.11.2", ""),
        ("<4", "3.11.2", ""),
        ("<4", "3.13.5", 'python: "3.11"  # Django 3.2 runs on Python >=3.6,<3.12, and python3 of this host is 3.13.5'),
    ],
)
def test_python_is_older_where_every_django_within_a_bound_is_too_old(monkeypatch, tmp_path, bound, host, line):
    monkeypatch.setattr(inspection, "_host_python", lambda: host)
    files = {"manage.py": "", "old/wsgi.py": "get_wsgi_application", "old/settings.py": "INSTALLED_APPS = []\n"}
    files |= {"old/settings.py": "INSTALLED_APPS = []\n", "requirements.txt": f"django{bound}\n"}
    text = inspection.inspect(str(write_tree(tmp_path / "old", files)))
    assert line in text if line else "python:" not in text


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("pinned", "host", "code", "newer"),
    [
        ("4.0.3", "3.13.5", "", "4.2"),
        ("3.2.25", "3.13.5", "from django.utils.timezone import utc\n", "4.2"),
        ("3.2.25", "3.13.5", "from django.conf.urls import url\n", ""),
        ("2.2.28", "3.13.5", "", ""),
        ("4.0.3", "3.11.2", "", ""),
        ("4.0.3", "", "", ""),
    ],
)
def test_django_that_the_python_of_this_host_does_not_run_is_replaced(monkeypatch, tmp_path, pinned, host, code, newer):
    monkeypatch.setattr(inspection, "_host_python", lambda: host)
    files = {"manage.py": "", "old/wsgi.py": "get_wsgi_application", "old/settings.py": "INSTALLED_APPS = []\n"}
    files |= {"old/views.py": code, "requirements.txt": f"django=={pinned}\n"}
    text = inspection.inspect(str(write_tree(tmp_path / "old", files)))
    line = f'["django~={newer}.0"]  # Django {pinned} does not run on this host\'s Python\n'
    assert (f"      python_packages: {line}" in text) is bool(newer)
    remark = f"and python3 of this host is {host}: `python_packages` replaces it by Django {newer}, unless `python` is "
    assert (remark in text.replace("\n#     ", " ")) is bool(newer)
    older = f'python: "3.11"  # Django {pinned} runs on Python >=3.6,<3.12, and python3 of this host is {host}'
    assert (older in text) is (host == "3.13.5" and not newer)
    assert "set `python` to another one" not in text


SHOP = {
    "manage.py": "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'conf.settings')\n",
    "conf/__init__.py": "",
    "conf/wsgi.py": "application = get_wsgi_application()\n",
    "requirements.txt": "django\n",
}


def inspected(folder, settings, files=None) -> dict:
    """The options of a site for a project with these settings."""
    code = f"import os\nfrom pathlib import Path\nBASE_DIR = Path(__file__).parent.parent\n{settings}\n"
    tree = write_tree(folder / "shop", {**SHOP, "conf/settings.py": code, **(files or {})})
    pillar = yaml.safe_load(inspection.inspect(str(tree)))
    assert compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []
    return pillar["django"]["sites"]["shop"]


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("settings", "key", "expected"),
    [
        (
            "SECRET_KEY = env.get_credential('DJANGO_KEY', get_random_string(50))",
            "environment",
            {"DJANGO_KEY": {"from": "secret_key"}},
        ),
        (
            "SECRET_KEY = os.environ.get('KEY') or get_random_secret_key()",
            "environment",
            {"KEY": {"from": "secret_key"}},
        ),
        ("SECRET_KEY = get_random_secret_key()", "environment", None),
        ("SALT = os.getenv('URL_SALT', secrets.token_hex(8))", "secrets", {"URL_SALT": {"generate": 50}}),
        ("RUN = os.getenv('RUN', uuid4())", "secrets", None),
        ("SALT = os.getenv('URL_SALT', 'x')", "secrets", None),
        ("SESSION_COOKIE_DOMAIN = '.author.org'", "settings", {"SESSION_COOKIE_DOMAIN": None}),
        ("SESSION_COOKIE_DOMAIN = '.example.org'", "settings", None),
        ("CSRF_COOKIE_DOMAIN = None", "settings", None),
        ("CSRF_COOKIE_DOMAIN = os.getenv('CD', 'author.org')", "environment", {"CD": "shop.example.org"}),
        ("CSRF_COOKIE_DOMAIN = os.getenv('CD', 'example.org')", "environment", None),
    ],
)
def test_what_would_be_another_one_for_each_process_or_another_site_is_set(tmp_path, settings, key, expected):
    assert inspected(tmp_path, settings).get(key) == expected


def test_secret_that_each_process_makes_is_named(tmp_path):
    settings = "import secrets\nJWT_KEY = secrets.token_hex(8)\nTOKEN_SALT = uuid4().hex\nRUN_ID = uuid4().hex\n"
    text = inspection.inspect(str(write_tree(tmp_path, {**SHOP, "conf/settings.py": settings})))
    assert re.findall(r"(\S+): each process has another (\w+)", text.replace("\n#     ", " ")) == [
        ("conf/settings.py:2", "JWT_KEY"),
        ("conf/settings.py:3", "TOKEN_SALT"),
    ]


@pytest.mark.parametrize(
    ("settings", "is_needed"),
    [
        ("if (BASE_DIR / 'conf' / 'local.py').exists():\n    from .local import *", False),
        ("if os.path.isfile(BASE_DIR / 'conf/local.py'):\n    from .local import *\nelse:\n    print('none')", False),
        ("if os.path.exists('conf/local.py'):\n    from .local import *\nelse:\n    raise SystemExit(1)", True),
        ("from .local import *", True),
    ],
)
@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("example", ["local.py.example", "local_example.py"])
def test_file_that_settings_look_for_first_is_not_needed(tmp_path, settings, is_needed, example):
    found = inspected(tmp_path, settings, files={f"conf/{example}": "NAME = 1\n"})
    assert ("conf/local.py" in str(found)) is is_needed


@pytest.mark.parametrize(
    ("python", "required", "packages"),
    [
        ("3.13.5", "", ["legacy-cgi", "standard-telnetlib"]),
        ("3.12.1", "", None),
        ("3.13.5", "sqlparse\nlegacy-cgi\n", ["standard-telnetlib"]),
        ("3.11.2", "sqlparse\n", None),
    ],
)
def test_modules_that_python_has_removed_come_from_packages(tmp_path, monkeypatch, python, required, packages):
    monkeypatch.setattr(inspection, "_host_python", lambda: python)
    files = {"conf/urls.py": "import cgi\nimport telnetlib\n", "requirements.txt": f"django\n{required}"}
    assert inspected(tmp_path, "ROOT_URLCONF = 'conf.urls'", files=files).get("python_packages") == packages


@pytest.mark.parametrize(("name", "paths"), [("calendar", None), ("events", ["apps"])])
def test_folder_that_would_hide_a_module_of_python_is_not_imported_from(tmp_path, name, paths):
    files = {f"apps/{name}/__init__.py": "", "apps/shops/__init__.py": ""}
    assert inspected(tmp_path, "INSTALLED_APPS = ['shops']", files=files).get("python_path") == paths


def test_settings_package_next_to_manage_py_in_its_own_package(tmp_path):
    files = {
        "site/shop/manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings.live')",
        "site/shop/__init__.py": "",
        "site/shop/wsgi.py": "application = get_wsgi_application()",
        "site/shop/settings/__init__.py": "",
        "site/shop/settings/live.py": "ROOT_URLCONF = 'shop.urls'\nINSTALLED_APPS = []\n",
        "requirements.txt": "django\n",
    }
    text = inspection.inspect(str(write_tree(tmp_path / "x", files)))
    (site,) = yaml.safe_load(text)["django"]["sites"].values()
    assert (site["project"], site["settings_module"], site["wsgi"]) == ("site", "shop.settings.live", "shop.wsgi")


@pytest.mark.parametrize(
    ("body", "gates"),
    [
        ("if request.get_host() not in ALLOWED:\n            raise Http404", 0),
        ("if not request.user.is_authenticated:\n            raise PermissionDenied", 1),
        ("if request.get_host() and not request.user.is_authenticated:\n            raise PermissionDenied", 1),
    ],
)
def test_middleware_that_compares_domains_is_no_login(tmp_path, body, gates):
    code = f"ALLOWED = ['https://a.org/']\nclass Gate:\n    def __call__(self, request):\n        {body}\n"
    tree = write_tree(tmp_path, {**SHOP, "conf/gate.py": code, "conf/settings.py": "MIDDLEWARE = ['conf.gate.Gate']\n"})
    settings = inspect_settings.read([tree], "conf.settings", {})
    assert access.Access([tree], settings).gates("/") == gates


def test_packages_that_do_not_run_with_a_newer_django_or_python_are_replaced_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(inspection, "_host_python", lambda: "3.13.5")
    files = {"manage.py": "", "old/wsgi.py": "get_wsgi_application", "old/settings.py": "INSTALLED_APPS = []\n"}
    pins = "Django==4.0.3\nchannels==3.0.4\nchannels-redis==3.4.0\ndjangorestframework==3.13.1\n"
    pins += "django-compressor==2.4.1\ndjango-haystack==3.1\n"
    text = inspection.inspect(str(write_tree(tmp_path / "old", {**files, "requirements.txt": pins})))
    versions = '"channels~=4.0.0", "channels-redis~=4.0.0", "django~=4.2.0", "djangorestframework>=3.13.1"'
    versions += ', "django-compressor>=2.4.1", "django-haystack>=3.1"'
    assert f"      python_packages: [{versions}]  # channels 3.0.4 is too old for Python 3.13; " in text
    names = "djangorestframework, django-compressor, django-haystack"
    assert f"; those of {names} that are for Django 4.2 take their place\n" in text

    monkeypatch.setattr(inspection, "_host_python", lambda: "3.11.2")
    pins = "Django==2.2.14\ndjango-allauth==0.39.1\ndjango-countries==5.3.3\ndjango-debug-toolbar==3.2.4\n"
    pins += "django-compressor==2.3\ndjango-haystack==2.8.1\n"
    text = inspection.inspect(str(write_tree(tmp_path / "older", {**files, "requirements.txt": pins})))
    assert "python_packages" not in text and "runs on Python" not in text  # as the project has it


@pytest.mark.parametrize(
    ("packages", "found"),
    [
        (["Django~=4.2.0", "six"], {"django": "4.2.0"}),
        (["django [argon2] == 5.2"], {"django": "5.2"}),
        (["django>=4.2,<5"], {"django": ""}),
        (["typing_extensions!=4", "Django @ file:///srv/django.whl"], {"typing-extensions": "", "django": ""}),
        (["django", "djangorestframework[x]"], {}),
    ],
)
def test_package_of_the_pillar_with_a_version_replaces_the_pin_of_the_project(packages, found):
    assert requirements.replacing(packages) == found


def test_pinned_packages_that_give_way_in_the_build_are_left_to_it(monkeypatch, tmp_path):
    monkeypatch.setattr(inspection, "_host_python", lambda: "3.11.2")
    manage = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'old.settings')\n"
    files = {"manage.py": manage, "old/settings.py": "INSTALLED_APPS = []\n"}
    pins = "django==4.2\nlxml==4.6.3\npsycopg2-binary==2.8\npyyaml==5.4.1\ndjango-allauth==0.47.0\n"
    text = inspection.inspect(str(write_tree(tmp_path, {**files, "requirements.txt": pins})))
    assert not re.search("      (packages|python_packages|constraints): ", text)


DEEP = {
    "sum": "X = " + "+".join(["'a'"] * 2500),
    "calls": "X = a" + ".b()" * 300 + "\nINSTALLED_APPS = ['a'" + " + 'b'" * 2500 + "]",
    "conditions": "if A:\n    X = 1\n" + "elif B:\n    X = 2\n" * 2000,
}


@pytest.mark.parametrize("name", ["shop/settings.py", "shop/urls.py"])
@pytest.mark.parametrize("deep", DEEP)
def test_statement_that_is_nested_too_deep_is_named_and_left_out(tmp_path, deep, name):
    files = {
        "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')",
        "shop/settings.py": "ROOT_URLCONF = 'shop.urls'\nSTATIC_ROOT = 'static'\n",
        "shop/urls.py": "urlpatterns = []\n\n",
        "shop/wsgi.py": "application = get_wsgi_application()",
        "requirements.txt": "django\n",
    }
    tree = write_tree(tmp_path / "shop", files | {name: files[name] + DEEP[deep]})
    text = inspection.inspect(str(tree))
    assert f"not read: {name}:3 is nested too deep" in re.sub(r"\n#     ", " ", text)
    assert yaml.safe_load(text)["django"]["sites"]["shop"]["folder"] == str(tree)


@pytest.mark.parametrize("error", [RecursionError("maximum recursion depth exceeded"), KeyError("a"), MemoryError()])
def test_inspection_that_fails_names_the_file_that_was_read(tmp_path, monkeypatch, error):
    def add(_report, tree, *_more):
        inspection.code.read(tree / "shop/models.py")
        raise error

    monkeypatch.setattr(options, "add", add)
    tree = write_tree(tmp_path / "shop", {"manage.py": "", "shop/models.py": "", "shop/settings.py": ""})
    with pytest.raises(DeploymentError) as failed:
        inspection.inspect(str(tree))
    expected = f"the project could not be inspected: {type(error).__name__}: {error}, after shop/models.py was read"
    assert failed.value.message == expected and "without that file" in failed.value.hint


@pytest.mark.parametrize(
    ("module", "function", "what", "keys"),
    [
        ("inspect_packages", "add", "the requirements", {"folder", "domains", "environment"}),
        ("environment", "read", "the settings", {"folder", "domains"}),
        ("background", "add", "workers, schedules and stores", {"folder", "environment"}),
        ("options", "_front_ends", "the front end", {"folder", "environment"}),
        ("options", "_health", "the health check", {"folder", "environment"}),
    ],
)
@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("error", [IndexError("tuple index out of range"), RecursionError(), OSError(36, "too long")])
def test_a_part_that_fails_leaves_the_others(tmp_path, monkeypatch, module, function, what, keys, error):
    def fail(*_arguments):
        inspection.code.read(tmp_path / "shop/odd.yaml")
        raise error

    settings = (
        "import os\nSECRET_KEY = os.environ['KEY']\nDATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3'}}"
    )
    files = {"manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')", "odd.yaml": ""}
    tree = write_tree(tmp_path / "shop", files | {"shop/settings.py": settings, "requirements.txt": "django\n"})
    monkeypatch.setattr(options if module == "options" else getattr(options, module), function, fail)
    text = inspection.inspect(str(tree))
    assert f"{what}: not completely inspected ({type(error).__name__}" in re.sub(r"\n#     ", " ", text)
    assert "after odd.yaml was read); complete it in the pillar" in re.sub(r"\n#     ", " ", text)
    assert {*yaml.safe_load(text)["django"]["sites"]["shop"]} >= keys


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    "pattern", [".", "./", "", "..", "/", "**/..", "packages/***", "a\0b", "packages/*", "[", "\ud800"]
)
def test_workspaces_of_each_form_are_read(tmp_path, pattern):
    """pnpm-workspace.yaml and package.json may name the folder itself, and what is no pattern."""
    package = {"workspaces": [pattern], "scripts": {"build": "vite build"}, "packageManager": "npm@10.0.0"}
    files = {"src/manage.py": "", "src/shop/settings.py": "DEBUG = False", "package.json": json.dumps(package)}
    tree = write_tree(tmp_path / "shop", files | {"packages/a/package.json": "{}", "requirements.txt": "django"})
    assert "not completely inspected" not in inspection.inspect(str(tree))
