"""Known causes of failures, and the exact text of what cures each."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from django_formula.host import packages as host_packages
from django_formula.knowledge import cause as knowledge_cause
from django_formula.knowledge import hints
from django_formula.knowledge import rows as knowledge_rows
from specimen import configured

AT = "django:sites:blog"
CASES = [
    pytest.param(case["text"], case["hint"], name == "build", id=f"{name}-{case['text'][:60]}")
    for name, cases in yaml.safe_load((Path(__file__).parents[1] / "causes.yaml").read_text()).items()
    for case in cases
]


@pytest.fixture(autouse=True)
def lists(monkeypatch):
    """The names of apt's lists."""
    names = ["librrd-dev", "librrd8t64", "librrds-perl", "libzmq3-dev", "libzmq5", "drawille", "draw"]

    def run(argv, **options):
        assert argv[:2] == ["apt-cache", "pkgnames"]
        return "\n".join(name for name in names if name.startswith(argv[2]))

    monkeypatch.setattr(host_packages.commands, "run", run)


@pytest.mark.parametrize(
    ("text", "what", "likely"),
    [
        ("rrdmodule.c:1:10: fatal error: rrd.h: No such file", "rrd.h", "librrd-dev"),
        ("you need to install a library that provides `rrd/rrd_client.h` for `x`", "rrd/rrd_client.h", "librrd-dev"),
        ("fatal error: zmq.h: No such file", "zmq.h", "libzmq3-dev"),
        ("fatal error: other.h: No such file", "other.h", ""),
        ("ImportError: librrd.so.8: cannot open shared object file", "librrd.so.8", "librrd8t64"),
        ("ImportError: libzmq.so.5: cannot open shared object file", "libzmq.so.5", "libzmq5"),
        ("ImportError: libzmq.so.4: cannot open shared object file", "libzmq.so.4", ""),
        ("sh: 1: draw: not found", "the program draw", "draw"),
        ("sh: 1: drawi: not found", "the program drawi", ""),
    ],
)
def test_file_that_no_row_knows_is_looked_for_in_the_names_of_apt(text, what, likely):
    hint = f"{what} is missing on this host: add the Debian package that has it to {AT}:packages"
    assert knowledge_cause.hint(configured(), text, building=True) == f"{hint}{likely and f', most likely {likely}'}"


PACKAGES = {
    **knowledge_rows.rows("modules"),
    **{module: f"python-{module}" for module in knowledge_rows.rows("python_modules")},
    **dict.fromkeys(("cgi", "cgitb"), "legacy-cgi"),
    **{"audioop": "audioop-lts", "asyncore": "standard-asyncore", "telnetlib": "standard-telnetlib"},
}


@pytest.mark.parametrize("module", PACKAGES)
def test_module_of_a_row_has_its_package(module):
    package = PACKAGES[module]
    site = configured(python_packages=["six"])
    cure = hints.extended(site, "python_packages", [package])
    found = knowledge_cause.hint(site, f"ModuleNotFoundError: No module named '{module}'")
    assert found == f"no package that is installed has the module {module}: set {cure}" and package in found


@pytest.mark.parametrize(("text", "hint", "building"), CASES)
def test_known_cause_has_its_cure(text, hint, building):
    assert knowledge_cause.hint(configured(), text, building=building) == hint


@pytest.mark.parametrize("program", knowledge_rows.rows("own_programs"))
def test_program_with_the_name_of_its_package_is_installed(program):
    site = configured(packages=["gcc"])
    hint = f"the program {program} is missing on this host: set {AT}:packages: [gcc, {program}]"
    assert knowledge_cause.hint(site, f"sh: 1: {program}: not found", building=True) == hint


def test_there_are_at_most_three_hundred_rows():
    """A list of names is one row: each name in it is there for the same reason."""
    parts = json.loads((Path(knowledge_rows.__file__).with_name("knowledge.json")).read_text())
    count = sum(1 if isinstance(rows, list) and isinstance(rows[0], str) else len(rows) for rows in parts.values())
    assert 200 < count <= 300


def test_every_row_that_is_searched_for_has_a_case():
    texts = [case.values[0] for case in CASES]
    rows = [row for part in ("headers", "libraries", "causes") for row in knowledge_rows.rows(part)]
    patterns = [re.compile(row["match"]) for row in rows]
    assert [one.pattern for one in patterns if not any(map(one.search, texts))] == []


def test_rows_of_the_formula_have_the_form_of_those_of_the_pillar():
    named = {
        part: {f"row-{number}": row for number, row in enumerate(knowledge_rows.rows(part))}
        for part in ("causes", "headers", "libraries")
    }
    maps = {part: knowledge_rows.rows(part) for part in ("packages", "programs", "modules")}
    assert configured(knowledge={**named, **maps}).config["knowledge"]["packages"] == maps["packages"]


OWN = {
    "causes": {
        "licence": {"match": r"LicenceError: (\w+)", "say": "{1} has no licence", "set": {"environment": {"L": "{1}"}}},
        "again": {"match": "no licence", "say": "{set}, {nothing} and run {again}", "set": {"build": ["make"]}},
        "building": {"match": "LicenceError", "at": "build", "say": "{user} needs a licence"},
        "before": {"match": "MEDIA_URL and STATIC_URL", "say": "ask Ada ({site})"},
    },
    "headers": {"ours": {"match": r"ours\.h", "packages": ["libours-dev"]}},
    "libraries": {"ours": {"match": r"libours\.so", "packages": ["libours1"]}},
    "packages": {"ours": ["libours-dev"]},
    "programs": {"oursc": "ours-tools", "convert": "graphicsmagick-imagemagick-compat"},
    "modules": {"ours": "ours-of-company"},
}


@pytest.mark.parametrize(
    ("text", "building", "hint"),
    [
        ("LicenceError: pro", False, f"pro has no licence: set {AT}:environment: {{L: pro}}"),
        ("no licence", False, f"set {AT}:build: [npm ci, make], {{nothing}} and run salt-call django.release blog"),
        ("LicenceError", True, "blog-build needs a licence"),
        ("The MEDIA_URL and STATIC_URL settings must have different values", False, "ask Ada (blog)"),
        (
            "fatal error: ours.h: No such file",
            True,
            f"a package is built from source: set {AT}:packages: [gcc, libc6-dev, libours-dev, python3-dev]",
        ),
        (
            "Failed to build `ours==1.0`\ncommand 'gcc' failed: No such file",
            True,
            f"a package is built from source: set {AT}:packages: [gcc, libc6-dev, libours-dev, python3-dev]",
        ),
        ("libours.so.1: cannot open", False, f"a library is missing on this host: set {AT}:packages: [libours1]"),
        (
            "sh: 1: oursc: not found",
            True,
            f"the program oursc is missing on this host: set {AT}:packages: [ours-tools]",
        ),
        (
            "sh: 1: convert: not found",
            True,
            f"the program convert is missing on this host: set {AT}:packages: [graphicsmagick-imagemagick-compat]",
        ),
        (
            "ModuleNotFoundError: No module named 'ours'",
            False,
            f"no package that is installed has the module ours: set {AT}:python_packages: [ours-of-company]",
        ),
    ],
)
def test_rows_of_the_pillar_come_first(text, building, hint):
    assert knowledge_cause.hint(configured(knowledge=OWN, build=["npm ci"]), text, building=building) == hint


@pytest.mark.parametrize(
    ("value", "code", "hint"),
    [
        ("", 'int(os.getenv("ROWS"))', f"{AT}:environment:ROWS is empty: set a value that the code can read"),
        ("1  # a", "int(os.environ['ROWS'])", f"correct {AT}:environment:ROWS, which the code cannot read"),
        ({"from": "secret_key"}, "int(os.environ['ROWS'])", ""),
        ("1", "int(os.environ['COLUMNS'])", ""),
    ],
)
def test_variable_whose_value_the_settings_cannot_read(value, code, hint):
    site = configured(environment={"ROWS": value})
    text = f'  File "settings.py", line 7, in <module>\n    ROWS = {code}\nValueError: invalid literal for int()'
    assert knowledge_cause.hint(site, text) == hint
    assert knowledge_cause.hint(site, text.replace("ValueError", "OSError")) == ""


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        (
            "src/camp/site_settings.py",
            f"camp/settings.py uses TOOLBAR, which src/camp/site_settings.py has to set: add it and the others of the "
            f"site to {AT}:files:src/camp/site_settings.py:contents",
        ),
        (
            "src/other/site_settings.py",
            f"camp/settings.py:165 uses TOOLBAR, which the settings do not have: add the file that has it to {AT}:"
            f"files, where the project does not commit that, or set {AT}:settings_module to another settings module of "
            "the project, or correct it there",
        ),
    ],
)
def test_name_that_a_file_of_the_pillar_has_to_set(path, hint):
    site = configured(files={path: {"contents": "# settings of this site\n"}})
    assert knowledge_cause.hint(site, "NameError: name 'TOOLBAR' is not defined (camp/settings.py:165)") == hint


def test_command_that_makes_migrations_has_what_the_settings_read():
    """A build has neither the site's variables nor its secrets, and the message shows none."""
    site = configured(
        build=["npm ci"],
        environment={
            "SECRET_KEY": {"from": "secret_key"},
            "PAY_TOKEN": "sk_live_51Habc",
            "TOKEN_DAYS": "30",
            "STORE_KEY_URL": "redis://ada:geheim@redis1/0",
        },
        secrets={"TOKEN": {"generate": 50}},
    )
    none = "none-in-a-build".ljust(50, "-")
    facts = {"settings_module": "camp.settings"}
    assert knowledge_cause.hint(site, "ValueError: Dependency on app with no migrations: shop", facts).endswith(
        f"make the first ones, by {AT}:build: [npm ci, 'env DJANGO_SETTINGS_MODULE=camp.settings SECRET_KEY={none} "
        f"PAY_TOKEN={none} TOKEN_DAYS=30 STORE_KEY_URL=redis://redis1/0 TOKEN={none} python manage.py makemigrations "
        "--noinput --skip-checks shop']"
    )


@pytest.mark.parametrize(
    ("required", "packages", "cure"),
    [
        ("django==4.2.22 and django<4.0", [], ["django<4.0"]),
        ("django<4.0 and django>=4.2", ["asgiref"], ["asgiref", "django<4.0"]),
        ("numpy==2.2.0\n  and numpy<2,", [], []),
        ("django==4.2.22 and django<4.0", ["django~=4.2"], []),
    ],
    ids=["pinned", "bound", "not of the pillar", "replaced already"],
)
def test_package_that_a_constraint_of_the_pillar_excludes_is_replaced(required, packages, cure):
    site = configured(constraints=["django < 4.0"], python_packages=packages)
    text = (
        f"error: No solution found\n  cause: Because you require {required}, we can conclude that your requirements are"
    )
    found = knowledge_cause.hint(site, text, building=True)
    other = required.replace("django<4.0", "").replace(" and ", "")
    wanted = [one.replace("<", " < ") for one in cure]
    text = f"django<4.0 in django:sites:blog:constraints excludes {other}, which the requirements have: set "
    text += f"django:sites:blog:python_packages: {hints.flow(wanted)}, which replaces it"
    assert found == (text if cure else "")
    assert not cure or found.options == {"python_packages": wanted}


def test_packages_of_a_hint_include_those_of_the_pillar():
    """So that the line can be pasted; what the pillar has already is no cure."""
    site = configured(packages=["gettext", "libpq5"], python="/usr/bin/python3.12")
    missing = "fatal error: Python.h: No such file or directory"
    assert knowledge_cause.hint(site, missing) == (
        f"a package is built from source: set {AT}:packages: [gettext, libpq5, gcc, libc6-dev, python3.12-dev]"
    )
    assert knowledge_cause.hint(site, "ImportError: no pq wrapper available.") == ""


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["gunicorn"], "[gunicorn, 'pylibmc>1.6.0'], whose version"),
        (["pylibmc-sasl>1"], "['pylibmc-sasl>1', 'pylibmc>1.6.0'], whose version"),
        (["pylibmc"], "['pylibmc>1.6.0'], whose version"),
        (["pylibmc>1.6.0"], ""),
        (["PyLibMC ~= 1.6"], ""),
        (["pylibmc[sasl]>1.5"], ""),
    ],
)
def test_another_version_is_advised_where_the_pillar_names_none(present, expected):
    text = "error: Failed to build `pylibmc==1.6.0`\n" + "a.c:1:9: warning: unused\n" * 2000
    found = knowledge_cause.hint(configured(python_packages=present), text, building=True)
    assert found == "" if not expected else f"set {AT}:python_packages: {expected}" in found


PEERS = """npm ERR! code ERESOLVE
npm ERR! ERESOLVE unable to resolve dependency tree
npm ERR! Found: typescript@5.9.3
npm ERR! Could not resolve dependency:
npm ERR! peer typescript@">=3.8 <5.0" from ts-jest@26.5.6
"""


@pytest.mark.parametrize(
    ("text", "build", "expected"),
    [
        (
            PEERS,
            ["npm --prefix ui install", "npm --prefix ui run build"],
            "ts-jest@26.5.6 is for typescript >=3.8 <5.0, and package.json requires another version: correct it there, "
            f"or set {AT}:build: [npm --prefix ui install --legacy-peer-deps, npm --prefix ui run build], by which "
            "npm installs them nevertheless",
        ),
        (PEERS, ["npm exec --yes --package=x -- npm ci"], ""),
        (
            "sh: 1: sass: not found",
            ["npm ci", "npm run css", "npm prune --omit=dev"],
            "no package of package.json has the program sass: add one there that has it, or set "
            f"{AT}:build: [npm ci, 'npm exec --yes --package=sass -- npm run css', 'npm prune --omit=dev']",
        ),
        (
            "sh: 1: sass: not found",
            ["npm exec --yes --package=sass -- npm run css"],
            f"the program sass is missing on this host: add the Debian package that has it to {AT}:packages",
        ),
    ],
)
def test_commands_of_npm_are_corrected_so_that_they_can_be_pasted(text, build, expected):
    assert knowledge_cause.hint(configured(build=build), text, building=True) == expected


@pytest.mark.parametrize("piece", ["EACCES", "git executable ", "Failed to build ", "Permission denied, a ", "/.so"])
def test_endless_output_takes_little_time(piece):
    """A project controls what is searched; the end of an output counts."""
    began = time.process_time()
    assert knowledge_cause.hint(configured(), piece * 300_000 + "\nmissing from offline manifest") == (
        f"set {AT}:commands:after_static: [manage.py compress]"
    )
    assert time.process_time() - began < 2


def test_a_log_next_to_the_code_is_shared_alone():
    """Its folder has manage.py: no process of the site may write to the code."""
    source = "/srv/django/blog/releases/0042-3f2a9c1b77de/source"
    cause = f"OSError: [Errno 30] Read-only file system: '{source}/backend/server.log'"
    hint = (
        "the release is read-only: set django:sites:blog:shared: [backend/server.log], which keeps backend/server.log "
    )
    assert knowledge_cause.hint(configured(), cause, {"folder": "backend"}) == f"{hint}outside of it"


_LATER = (
    f"which are written after the build: set {AT}:files:tabby/settings/local.py:build: true if the file has no secret"
)
_AFTER = f"run the command after collectstatic, by {AT}:commands:after_static"


@pytest.mark.parametrize(
    ("text", "about", "expected"),
    [
        ("OSError: No such file: /srv/x/releases/1/source/tabby/settings/local.py", {"contents": ""}, _LATER),
        ("ModuleNotFoundError: No module named 'settings.local'", {"contents": ""}, _LATER),
        ("ImportError: cannot import name 'local' from 'tabby.settings' (/srv/x)", {"contents": ""}, _LATER),
        (
            "ModuleNotFoundError: No module named 'settings.local'",
            {"source": "salt://x"},
            f"which are written after the build, since they may have secrets: {_AFTER}, or take it out of {AT}:build",
        ),
        ("ModuleNotFoundError: No module named 'settings.local'", {"contents": "", "build": True}, ""),
        ("ModuleNotFoundError: No module named 'other.local'", {"contents": ""}, ""),
    ],
)
def test_a_build_lacks_a_file_that_the_pillar_has(text, about, expected):
    site = configured(files={"tabby/settings/local.py": about})
    what = f"tabby/settings/local.py is in {AT}:files, "
    found = knowledge_cause.hint(site, text, building=True)
    assert found.startswith(f"{what}{expected}") if expected else not found.startswith(what)
    assert "build" not in knowledge_cause.hint(site, text)


def test_a_compressed_block_that_depends_on_the_page():
    site = configured(commands={"after_static": ["manage.py compress --force"]})
    assert knowledge_cause.hint(site, "compressor.exceptions.OfflineGenerationError: key") == (
        f"a compressed block has variables of the page: set {AT}:settings: {{COMPRESS_OFFLINE_CONTEXT: "
        "[{LANGUAGE_CODE: en}]}, with an entry for all that they may be"
    )
    assert knowledge_cause.hint(site, "TemplateSyntaxError") == ""
    none = "compressor.exceptions.OfflineGenerationError: No 'compress' template tags found in templates."
    assert knowledge_cause.hint(site, none) == (
        f"no template has a block to compress: take manage.py compress out of {AT}:commands:after_static"
    )


def test_a_store_that_the_site_has_is_to_be_used():
    refused = "Error 111 connecting to localhost:6379. Connection refused."
    site = configured(queue={"engine": "redis"}, cache={"engine": "redis"})
    for text, what, word in (
        (refused, "the project does not reach Redis at localhost:6379, and does not use the site's queue", "queue_url"),
        (f"kombu.exceptions.OperationalError: {refused}", "Celery does not reach its broker", "queue_url"),
        (f"django_redis {refused}", "the project does not reach its cache at localhost:6379", "cache_url"),
    ):
        hint = knowledge_cause.hint(site, text)
        assert hint.startswith(what) and f"{AT}:environment: {{NAME_OF_IT: {{from: {word}}}}}" in hint
    assert f"for a client of its own, {AT}:packages: [redis-server], " in knowledge_cause.hint(site, refused)
    assert "redis-server" not in knowledge_cause.hint(site, refused.replace("localhost", "redis"))
    assert knowledge_cause.hint(configured(queue={"engine": "redis"}), refused).startswith(
        f"the project does not reach Redis at localhost:6379: set {AT}:cache: {{engine: redis}} for a cache; or, "
    )


def test_lists_of_a_hint_include_those_of_the_pillar():
    commands = {"after_static": ["manage.py thumbnails"]}
    site = configured(python_packages=["psycopg[binary]"], build=["make 'a b'"], commands=commands)
    hints = {
        "No module named 'pkg_resources'": f"set {AT}:python_packages: ['psycopg[binary]', 'setuptools<81'], which has "
        "pkg_resources",
        "WebpackLoaderBadStatsError": f"the project's assets are not built: set {AT}:build: ['make ''a b''', npm ci, "
        f"npm run build] and {AT}:packages: [npm]",
        "OfflineGenerationError": f"set {AT}:commands:after_static: [manage.py thumbnails, manage.py compress]",
    }
    for text, hint in hints.items():
        assert knowledge_cause.hint(site, text) == hint


def test_writable_folders_of_a_hint_include_those_of_the_pillar():
    site = configured(writable=["cache"], shared=["data"], mount="/app")
    text = "OSError: [Errno 30] Read-only file system: '/app/logs/tock.log'"
    assert knowledge_cause.hint(site, text) == (
        f"the release is read-only: set {AT}:writable: [cache, logs], or, for files that outlive a release, "
        f"{AT}:shared: [data, logs]"
    )
    assert knowledge_cause.hint(site, text.replace("logs", "cache")) == ""


def test_write_outside_of_the_site_without_systemd_has_no_sandbox():
    text = "OSError: [Errno 30] Read-only file system: '/var/lib/tock/x.log'"
    assert knowledge_cause.hint(configured(process="supervisor"), text) == (
        "let blog write to /var/lib/tock, or have the project write below /srv/django/blog/shared"
    )


def test_file_of_an_unnamed_database_is_that_of_the_release():
    facts = {"folder": "app", "databases": {"default": {"engine": "django.db.backends.sqlite3", "name": "data/db"}}}
    assert knowledge_cause.hint(configured(), "unable to open database file", facts) == (
        f"the SQLite file is app/data/db of the release; the release is read-only: set {AT}:writable: [app/data/db], "
        f"or, for files that outlive a release, {AT}:shared: [app/data/db]"
    )


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        (
            "{root}/releases/0001-45b8563d90e6/source/data/logs/a.log",
            f"set {AT}:shared: [data, data/logs], which creates data/logs",
        ),
        (
            "{root}/releases/0001-45b8563d90e6/source/data/cache",
            f"set {AT}:shared: [data, data/cache], which creates data/cache",
        ),
        (
            "{root}/releases/0001-45b8563d90e6/source/data/v1.2/a.log",
            "runuser -u blog -- mkdir -p /srv/django/blog/shared/data/v1.2",
        ),
        ("{root}/shared/uploads/x.json", "runuser -u blog -- mkdir -p /srv/django/blog/shared/uploads"),
        ("data/in/x.json", f"set {AT}:shared: [data, data/in], which creates data/in"),
        ("data/x.json", "runuser -u blog -- mkdir -p /srv/django/blog/shared/data"),
    ],
)
def test_missing_folder_below_a_shared_one(path, cure):
    path = path.format(root="/srv/django/blog")
    text = f"FileNotFoundError: [Errno 2] No such file or directory: '{path}'"
    name = path.rpartition("/")[2]
    assert knowledge_cause.hint(configured(shared=["data"]), text) == (
        f"{name} is missing in what releases share: {cure}, or put it there"
    )


def test_missing_path_that_is_shared_itself_has_no_such_hint():
    text = "FileNotFoundError: [Errno 2] No such file or directory: 'data'"
    assert "runuser" not in knowledge_cause.hint(configured(shared=["data"]), text)
