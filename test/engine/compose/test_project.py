"""Compose files: those of each project, whole, in the subset that all implementations of compose understand."""

import ast
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from django_formula.compose import project as compose_project
from django_formula.compose import secrets as compose_secrets
from django_formula.host import environment_files
from django_formula.host.commands import DeploymentError
from django_formula.inspect import inspection
from specimen import configured
from trees import write_tree

CASES = Path(__file__).parents[2] / "compose"
SOURCES = yaml.safe_load((CASES / "sources.yaml").read_text())
#: Keys that docker compose 2, docker-compose 1.29 and podman-compose 1.3 all have; `name` and `build.secrets` are not.
TOP = {"x-app", "services", "volumes", "secrets"}
SERVICE = {
    *(
        "image",
        "build",
        "command",
        "user",
        "environment",
        "secrets",
        "volumes",
        "ports",
        "depends_on",
        "healthcheck",
        "entrypoint",
    ),
    *("read_only", "tmpfs", "cap_drop", "cap_add", "security_opt", "stop_grace_period", "restart"),
}
FILES = (
    *(".dockerignore", "compose.production.yml", "compose.local.yml"),
    *("compose/start", "compose/healthy", "compose/nginx.conf", "compose/settings_local.py"),
)


@pytest.fixture(autouse=True)
def secrets_in_order(monkeypatch):
    monkeypatch.setattr(compose_secrets, "generated", lambda length=50: f"generated-{length}")


def project(case: str, tmp_path: Path) -> Path:
    return write_tree(tmp_path / case, SOURCES[case]["files"])


def written(case: str, tmp_path: Path) -> tuple[Path, list[str]]:
    folder = project(case, tmp_path)
    return folder, compose_project.write(str(folder), case, SOURCES[case].get("given"))


def new_files(folder: Path, case: str) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = (str(path.relative_to(folder)) for path in paths)
    owner = f"{os.geteuid() or 10001}:{os.getegid() or 10001}"
    return {
        name: (folder / name).read_text().replace(f":-{owner}}}", ":-1000:1000}")
        for name in names
        if name not in SOURCES[case]["files"] and name != ".envs/written.json"  # checksums, of the user too
    }


def _kept_as(name: str) -> str:
    """The name of a file in `test/compose`, where git has to see what `.gitignore` of a project hides from it."""
    return name.replace(".envs", "envs").replace(".gitignore", "gitignore")


@pytest.mark.parametrize("case", SOURCES)
def test_the_files_of_a_project(case, tmp_path):
    folder, lines = written(case, tmp_path)
    found, kept = new_files(folder, case), CASES / case
    if os.environ.get("UPDATE"):
        for path in [*kept.rglob("*")] if kept.exists() else []:
            path.unlink() if path.is_file() else None
        write_tree(kept, {_kept_as(name): text for name, text in found.items()})
    there = {str(path.relative_to(kept)): path.read_text() for path in kept.rglob("*") if path.is_file()}
    assert {_kept_as(name): text for name, text in found.items()} == there
    assert lines[1:] == SOURCES[case].get("lines", [])


def test_image_has_the_versions_that_pdm_locked(tmp_path):
    files = {name: text for name, text in SOURCES["mysql"]["files"].items() if name != "poetry.lock"}
    packages = '[[package]]\nname = "django"\nversion = "5.2.8"\ngroups = ["default"]\n'
    folder = write_tree(
        tmp_path / "chat", {**files, "pyproject.toml": "[project]\nname = 'chat'\n", "pdm.lock": packages}
    )
    compose_project.write(str(folder), "chat", None)
    lines = (folder / "Dockerfile").read_text().splitlines()
    first = lines.index('COPY ["pdm.lock", "/app/pdm.lock"]')
    assert lines[first + 1 : first + 4] == [
        'COPY ["pyproject.toml", "/app/pyproject.toml"]',
        "RUN cd /app && PDM_USE_VENV=false uv tool run --quiet pdm export --prod --output /tmp/pdm.lock.txt",
        "RUN uv pip install --requirement=/tmp/pdm.lock.txt channels-redis",
    ]


GROUP = '[[package]]\nname = "django"\nversion = "5.2.8"\ngroups = ["{}", "prod"]\n'
POETRY = "[tool.poetry.group.prod.dependencies]\ngunicorn = '*'\n[tool.poetry.group.dev.dependencies]\nruff = '*'\n"
NAMED = "[project]\nname = 'chat'\n"
GROUPS = "[dependency-groups]\nprod = ['gunicorn']\ndev = ['ruff']\n"


@pytest.mark.parametrize(
    ("pyproject", "lock", "command"),
    [
        (POETRY, "poetry.lock", "poetry export --with=prod --output /tmp/poetry.lock.txt"),
        (f"{NAMED}{GROUPS}", "poetry.lock", "poetry export --with=prod --output /tmp/poetry.lock.txt"),
        ("[tool", "poetry.lock", "poetry export --output /tmp/poetry.lock.txt"),
        (f"{NAMED}{GROUPS}", "pdm.lock", "pdm export --group=prod --output /tmp/pdm.lock.txt"),
        (
            f"{NAMED}optional-dependencies = {{prod = ['gunicorn'], test = ['pytest']}}\n",
            "pdm.lock",
            "pdm export --prod --group=prod --output /tmp/pdm.lock.txt",
        ),
        (
            f"{NAMED}dependencies = ['django']\n{GROUPS}",
            "",
            "RUN uv pip install --requirement=pyproject.toml --group=pyproject.toml:prod ",
        ),
        (GROUPS.replace("'gunicorn'", "'django', 'gunicorn'"), "", "RUN uv pip install --group=pyproject.toml:prod "),
        (f"[project]\ndependencies = ['django>=5']\n{GROUPS}", "", "RUN uv pip install 'django>=5' gunicorn "),
        (
            f"[tool.poetry]\nname = 'chat'\ndependencies = {{django = '^5.1'}}\n"
            f"source = [{{url = 'https://a.example/x y'}}]\n{POETRY}",
            "",
            "RUN uv pip install --extra-index-url='https://a.example/x y' 'django>=5.1,<6' gunicorn ",
        ),
    ],
)
def test_image_has_the_groups_that_a_site_needs(tmp_path, pyproject, lock, command):
    files = {name: text for name, text in SOURCES["mysql"]["files"].items() if name != "poetry.lock"}
    files |= {lock: GROUP.format("main" if lock == "poetry.lock" else "default")} if lock else {}
    folder = write_tree(tmp_path / "chat", {**files, "pyproject.toml": pyproject})
    compose_project.write(str(folder), "chat", {"python_packages": ["channels-redis"]})
    assert f"{command}{'' if lock else 'channels-redis'}\n" in (folder / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("python", "version"), [("==3.12.4", "3.12"), (">=3.11.10,<3.12", "3.11"), (">=3.10", "3.13"), ("<3", "3.13")]
)
def test_python_of_the_image_is_of_a_series_that_the_project_is_for(tmp_path, python, version):
    pyproject = f"[project]\nname = 'chat'\nrequires-python = '{python}'\ndependencies = ['django']\n"
    files = {name: text for name, text in SOURCES["mysql"]["files"].items() if name != "poetry.lock"}
    folder = write_tree(tmp_path / "chat", {**files, "pyproject.toml": pyproject})
    compose_project.write(str(folder), "chat", None)
    assert f"FROM docker.io/library/python:{version}-slim" in (folder / "Dockerfile").read_text()


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("kind", ["production", "local"])
@pytest.mark.parametrize("case", SOURCES)
def test_compose_files_are_in_the_portable_subset(case, kind, tmp_path):
    folder, _lines = written(case, tmp_path)
    compose = yaml.safe_load((folder / f"compose.{kind}.yml").read_text())
    assert {*compose} <= TOP
    services: dict[str, dict[str, Any]] = compose["services"]
    for name, service in services.items():
        assert {*service} <= SERVICE, name
        assert re.match(r"(docker\.io|localhost)/", service["image"]), "podman looks for others in a registry"
        assert {*service.get("secrets", [])} <= {*compose["secrets"]}
        assert {*service.get("depends_on", {})} <= {*services} - {name}
        check = service.get("healthcheck", {"test": ["CMD"]})["test"]
        assert check[0] == "CMD"
        assert not re.search(r"['\"() ]", "".join(check)), "podman-compose breaks the quotes"
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[needed]
        mounted = [volume.split(":") for volume in service.get("volumes", [])]
        assert {source for source, *_rest in mounted if not source.startswith(".")} <= {*compose["volumes"]}
        assert not any(target.startswith("/app/") for _source, target, *_rest in mounted)
    assert services["app"]["build"] == {"context": "."}
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    https = ["${LISTEN_TLS:-127.0.0.1:8443}:8443"] if "certificates" in services else []
    expected = {"nginx": ["${LISTEN:-127.0.0.1:8080}:8080", *https]}
    assert published == (expected if kind == "production" else {"app": ["127.0.0.1:8000:8000"]})
    assert {source for source in compose["secrets"].values() if not source["file"].startswith("./.envs/")} == set()


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("case", SOURCES)
def test_programs_can_be_read_by_what_runs_them(case, tmp_path):
    folder, _lines = written(case, tmp_path)
    for name in ("start", *(["serve", "certificates"] if case == "seed" else [])):
        subprocess.run(["sh", "-n", str(folder / "compose" / name)], check=True)
    for name in ("healthy", "settings_production.py", "settings_local.py"):
        ast.parse((folder / "compose" / name).read_text())
    assert "exec " in (folder / "compose/start").read_text()
    assert os.access(folder / "compose/start", os.X_OK)
    assert "127.0.0.11" not in (folder / "compose/nginx.conf").read_text()


def test_nginx_that_visitors_reach_takes_no_address_from_them(tmp_path):
    direct, behind = (written(case, tmp_path)[0] / "compose/nginx.conf" for case in ("seed", "sqlite"))
    assert "X-Forwarded-For $remote_addr;" in direct.read_text()
    assert "proxy_add_x_forwarded_for" not in direct.read_text()
    assert "X-Forwarded-For $proxy_add_x_forwarded_for;" in behind.read_text()


def test_nginx_reads_a_certificate_later_that_it_has_refused(tmp_path, monkeypatch):
    """A certificate and its key are two files: nginx may read them between the two, and refuses the pair."""
    folder, _lines = written("seed", tmp_path)
    tls, log = tmp_path / "tls", tmp_path / "log"
    text = (folder / "compose/serve").read_text().replace("/tmp/", f"{tmp_path}/").replace("/srv/tls", str(tls))
    text = text.replace("sleep 5", "sleep 0.1")
    nginx = '#!/bin/sh\n[ "$1" = -s ] || exec sleep 30\necho "$2" >>LOG\n[ "$(wc -l <LOG)" -gt 1 ]\n'
    write_tree(tmp_path, {"bin/nginx": nginx.replace("LOG", str(log)), "tls/fullchain.pem": "1"})
    (tmp_path / "bin/nginx").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    serving = subprocess.Popen(["sh", "-c", text], start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while not (log.exists() and len(log.read_text().split()) > 1) and time.monotonic() < deadline:
            (tls / "fullchain.pem").touch() if not log.exists() else None
            time.sleep(0.1)
        time.sleep(0.5)
        assert log.read_text().split() == ["reload", "reload"], "refused once, then taken, then no more"
    finally:
        os.killpg(serving.pid, signal.SIGKILL)
        serving.wait()


def test_every_pattern_of_what_no_image_has_is_of_all_folders(tmp_path):
    folder, _lines = written("sqlite", tmp_path)
    patterns = [line for line in (folder / ".dockerignore").read_text().splitlines() if line[0] != "#"]
    assert all(pattern.startswith("**/") for pattern in patterns)
    assert {"**/.git", "**/.env", "**/.env.*", "**/.envs", "**/*.key"} <= {*patterns}


def test_a_certificate_of_the_source_is_in_the_image_and_no_private_key(tmp_path):
    folder = project("sqlite", tmp_path)
    certificate, key = (
        f"-----BEGIN {kind}-----\nMIIB\n-----END {kind}-----\n" for kind in ("CERTIFICATE", "PRIVATE KEY")
    )
    files = {
        "ca.pem": certificate,
        "both.pem": certificate + key,
        "own.key": key,
        "empty.pem": "",
        "a b.pem": certificate,
    }
    write_tree(folder, {f"certs/{name}": text for name, text in files.items()})
    (folder / "certs/link.pem").symlink_to("ca.pem")
    compose_project.write(str(folder), "sqlite")
    added = [line for line in (folder / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert added == ["!certs/ca.pem"]
    (line,) = [one for one in (folder / "Dockerfile").read_text().splitlines() if "-exec rm" in one]
    source = tmp_path / "app"
    shutil.copytree(folder, source, symlinks=True)
    subprocess.run(["sh", "-c", line.removeprefix("RUN ").replace("/app", str(source))], check=True)
    assert {path.name for path in (source / "certs").iterdir()} == {"ca.pem"}
    assert not (source / ".envs").exists() and (source / "manage.py").exists()


def test_secrets_are_in_files_of_the_user_alone_and_in_no_other(tmp_path):
    folder, _lines = written("celery", tmp_path)
    secret = {path.name: path.read_text() for path in (folder / ".envs").iterdir()}
    assert {*secret} == {".gitignore", "database_password", "local", "production", "written.json"}
    assert secret[".gitignore"] == "*\n"
    assert {path.stat().st_mode & 0o777 for path in (folder / ".envs").iterdir()} == {0o600}
    assert (folder / ".envs").stat().st_mode & 0o777 == 0o700
    others = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".envs"]
    assert [path for path in others if "generated-" in path.read_text()] == []


def test_variables_are_what_the_shell_reads(tmp_path):
    folder, _lines = written("celery", tmp_path)
    argv = ["sh", "-c", 'set -a; . "$0"; exec env -0', str(folder / ".envs/production")]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    found = dict(line.partition("=")[::2] for line in done.stdout.split("\0") if line)
    assert {name: found[name] for name in ("SECRET_KEY", "TOKEN_SALT", "CELERY_BROKER_URL")} == {
        "SECRET_KEY": "generated-50",
        "TOKEN_SALT": "generated-50",
        "CELERY_BROKER_URL": "redis://queue:6379/0",
    }


def test_a_second_run_changes_nothing_and_keeps_the_secrets(tmp_path, monkeypatch):
    folder, _lines = written("celery", tmp_path)
    before = new_files(folder, "celery")
    monkeypatch.setattr(compose_secrets, "generated", lambda length=50: "another")
    lines = compose_project.write(str(folder), "celery", SOURCES["celery"]["given"])
    assert lines == ["nothing had to be written", *SOURCES["celery"]["lines"]]
    assert new_files(folder, "celery") == before


def test_files_of_the_pillar_are_mounted_and_in_no_image(tmp_path):
    folder = project("sqlite", tmp_path)
    files = {"keys/mail.json": {"contents": '{"password": "hunter2"}\n'}, ".env": {"environment": True}}
    files["own/local.py"] = {"contents": "DEBUG = False\n", "build": True}
    lines = compose_project.write(str(folder), "sqlite", {"files": files})
    assert (folder / "keys/mail.json").stat().st_mode & 0o777 == 0o600
    services = yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    assert "./keys/mail.json:/app/keys/mail.json:ro" in services["app"]["volumes"]
    dockerfile = (folder / "Dockerfile").read_text()
    assert dockerfile.index("COPY . /app") < dockerfile.index("&& rm -f /app/keys/mail.json &&")
    assert "&& rm -f /app/own/local.py.new" in dockerfile and "rm -f /app/own/local.py " not in dockerfile
    assert "&& rm -f /app/keys/mail.json.new" in dockerfile, "it is written next to one of the repository"
    assert "no file .env: write it, and mount it in compose.production.yml" in lines


def test_secrets_that_cannot_be_generated_are_to_be_set(tmp_path, monkeypatch):
    folder = project("sqlite", tmp_path)
    secrets = {"TOKEN": "abc", "PIN": {"generate": 16, "as": "file", "variable": "PIN_PATH"}, "SALT": {"generate": 20}}
    monkeypatch.setattr(compose_project.sites, "find", lambda _name: configured(secrets=secrets))
    lines = compose_project.write_compose_files("blog", str(folder))
    environment = (folder / ".envs/production").read_text().splitlines()
    assert {'TOKEN=""', 'PIN_PATH=""', 'SALT="generated-20"'} <= {*environment}
    for name in ("TOKEN", "PIN_PATH"):
        assert f"set {name} in .envs/production and .envs/local: the project requires it" in lines


def test_no_line_of_a_project_reaches_the_terminal_as_it_is(tmp_path):
    folder = project("sqlite", tmp_path)
    write_tree(folder, {"crontab": "0 3 * * * python manage.py clear --x='\x1b]0;a\x07'\n"})
    lines = compose_project.write(str(folder), "sqlite")
    assert "have cron run it in the service app: manage.py clear '--x=\\x1b]0;a\\x07'" in lines[1]


def test_a_program_that_assigns_its_settings_is_named(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "requirements.txt").write_text("django\n")
    (tmp_path / "manage.py").write_text("import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n")
    (tmp_path / "shop/settings.py").write_text("INSTALLED_APPS = []\nSECRET_KEY = 'a'\n")
    wsgi = "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'shop.settings'\napplication = get_wsgi_application()\n"
    (tmp_path / "shop/wsgi.py").write_text(wsgi)
    (line,) = [one for one in compose_project.write(str(tmp_path), "shop") if "assigns" in one]
    assert line.startswith("shop.wsgi assigns DJANGO_SETTINGS_MODULE: use os.environ.setdefault there")


@pytest.mark.parametrize("plain", [["www.example.org"], []])
def test_certificate_is_for_no_domain_that_needs_a_challenge_by_dns(tmp_path, plain):
    folder = project("sqlite", tmp_path)
    given = {"domains": ["*.example.org", *plain], "email": "ray@example.org"}
    lines = compose_project.write(str(folder), "sqlite", given)
    assert "no certificate for *.example.org: the containers answer no challenge by DNS" in lines
    found = (folder / "compose/certificates").read_text() if plain else ""
    assert "*.example.org" not in found and ("--domain www.example.org &&" in found) == bool(plain)
    services = yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    assert ("certificates" in services) == bool(plain)
    assert "server_name *.example.org" in (folder / "compose/nginx.conf").read_text()


@pytest.mark.parametrize(
    "files",
    [
        {"pyproject.toml": f"{NAMED}dependencies = ['django']\noptional-dependencies.prod = [\"y\\nRUN z\"]\n"},
        {"Pipfile": "[packages]\ndjango = '*'\n\"y\\nRUN z\" = '*'\n"},
    ],
)
def test_package_that_would_add_a_line_to_the_dockerfile_is_refused(tmp_path, files):
    sqlite = {name: text for name, text in SOURCES["sqlite"]["files"].items() if "requirements" not in name}
    folder = write_tree(tmp_path / "x", sqlite | files)
    with pytest.raises(DeploymentError, match="cannot be written to compose files"):
        compose_project.write(str(folder), "x")
    assert not (folder / "Dockerfile").exists()


def test_each_worker_has_a_service_of_its_own(tmp_path):
    folder = project("sqlite", tmp_path)
    workers = {name: {"kind": "command", "command": f"manage.py {name}"} for name in ("default", "worker", "mail")}
    compose_project.write(str(folder), "sqlite", {"workers": workers})
    services = yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    assert {"worker", "worker_default", "worker_mail"} <= {*services}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_differs_stays_and_ours_is_next_to_it(name, tmp_path):
    folder = project("sqlite", tmp_path)
    write_tree(folder, {name: "of the user\n"})
    lines = compose_project.write(str(folder), "sqlite")
    assert (folder / name).read_text() == "of the user\n"
    assert (folder / f"{name}.new").read_text() != "of the user\n"
    assert lines[1:] == [f"{name} is another one and stays as it is; what compose needs is in {name}.new"]


def test_a_dockerfile_of_the_project_stays_and_ours_is_the_one_of_compose(tmp_path):
    folder = project("sqlite", tmp_path)
    write_tree(folder, {"Dockerfile": "FROM python\n", ".dockerignore": "compose\n"})
    before = inspection.inspect(str(folder))
    lines = compose_project.write(str(folder), "sqlite")
    assert lines[0].startswith("written:") and lines[1:] == []
    assert {(folder / name).read_text() for name in ("Dockerfile", ".dockerignore")} == {"FROM python\n", "compose\n"}
    for kind in ("production", "local"):
        app = yaml.safe_load((folder / f"compose.{kind}.yml").read_text())["services"]["app"]
        assert app["build"] == {"context": ".", "dockerfile": "compose/Dockerfile"}
    assert "COPY . /app" in (folder / "compose/Dockerfile").read_text()
    assert "**/.env" in (folder / "compose/Dockerfile.dockerignore").read_text().splitlines()
    assert compose_project.write(str(folder), "sqlite") == ["nothing had to be written"]
    assert inspection.inspect(str(folder)) == before


def test_what_was_merged_is_not_written_next_to_a_file_again(tmp_path):
    folder = project("sqlite", tmp_path)
    write_tree(folder, dict.fromkeys((".dockerignore", "compose/nginx.conf"), "of the user\n"))
    told = [f"{name} is another one and stays" for name in (".dockerignore", "compose/nginx.conf")]
    for _time in range(2):  # as long as it is not merged
        lines = compose_project.write(str(folder), "sqlite")[1:]
        assert [line.partition(" as it is")[0] for line in lines] == told
    merged = (folder / ".dockerignore.new").read_text()
    (folder / ".dockerignore").write_text(f"of the user\n{merged}")
    for name in (".dockerignore.new", "compose/nginx.conf.new"):
        (folder / name).unlink()
    assert compose_project.write(str(folder), "sqlite") == ["nothing had to be written"]
    assert not [*folder.rglob("*.new")]
    (folder / ".envs/written.json").unlink()  # as in another clone
    (line,) = compose_project.write(str(folder), "sqlite")[1:]
    assert line.startswith("compose/nginx.conf is another one")


def test_a_clone_in_a_folder_of_another_name_logs_in_to_its_database(tmp_path):
    """The name is that of the files, which both have; each has a password of its own."""
    first = project("celery", tmp_path)
    compose_project.write(str(first))
    second = tmp_path / "srv-copy"
    shutil.copytree(first, second, ignore=shutil.ignore_patterns(".envs"))
    lines = compose_project.write(str(second))
    assert not [line for line in lines if "is another one" in line]
    environments = [(folder / ".envs/production").read_text() for folder in (first, second)]
    names = [re.findall(r"@database:\d+/(\w+)|DB_NAME=\"?(\w+)", text) for text in environments]
    assert names[0] == names[1] and (second / "compose.production.yml").read_text().count("localhost/celery:") == 1


def test_commands_of_a_release_run_as_in_a_deployment(tmp_path):
    folder = project("sqlite", tmp_path)
    commands = {"after_static": ["manage.py compress --force"], "after_migrate": ["./load 'a b'"]}
    commands |= {"before_switch": ["manage.py warm"], "after_switch": ["manage.py tell"]}
    lines = compose_project.write(str(folder), "sqlite", {"commands": commands})
    serve = (folder / "compose/start").read_text().partition("serve)\n")[2].partition("    ;;")[0].splitlines()
    assert [line.strip().removeprefix("python ") for line in serve][:5] == [
        *("manage.py collectstatic --noinput", "manage.py compress --force", "manage.py migrate --noinput"),
        *("./load 'a b'", "manage.py warm"),
    ]
    assert lines[1:] == ["no service runs after a switch: manage.py tell"]


def test_celery_gets_the_app_that_its_program_finds_in_a_deployment(tmp_path):
    files = {**SOURCES["sqlite"]["files"]}
    settings = next(name for name in files if name.endswith("settings.py"))
    package = Path(settings).parts[-2]
    app = 'from celery import Celery\n{} = Celery("x")\n'
    top = Path(settings).parents[1]
    folder = write_tree(
        tmp_path / "blog",
        {**files, str(top / package / "celery.py"): app.format("app"), str(top / "other/tasks.py"): app.format("app")},
    )
    workers = {"default": {"kind": "celery"}, "beat": {"kind": "celery_beat"}}
    compose_project.write(str(folder), "blog", {"workers": workers})
    services = yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    assert {services[name]["command"][1] for name in ("worker", "beat")} == {f"--app={package}.celery"}
    assert all(services[name]["command"][0] == "celery" for name in ("worker", "beat"))


@pytest.mark.parametrize("engine", ["postgres", "mysql", "sqlite"])
def test_the_database_can_be_chosen(tmp_path, engine):
    folder = project("sqlite", tmp_path)
    compose_project.write(str(folder), "sqlite", compose_project.chosen("", engine))
    services = yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    image = services.get("database", {}).get("image", "")
    assert image == {"postgres": "docker.io/library/postgres:17", "mysql": "docker.io/library/mariadb:11.8"}.get(
        engine, ""
    )
    assert ('"HOST"' in (folder / "compose/settings_production.py").read_text()) is (engine != "sqlite")


def test_another_database_is_refused():
    with pytest.raises(DeploymentError, match="database is 'oracle'"):
        compose_project.chosen("", "oracle")


@pytest.mark.parametrize("python", ["3.1", "3", "python3.12", "three"])
def test_python_that_there_is_no_image_of_is_refused(python):
    """Salt reads python=3.10 as 3.1."""
    with pytest.raises(DeploymentError, match=f"python is '{python}'") as refused:
        compose_project.chosen(python, "")
    assert "3.10" in refused.value.hint
    assert compose_project.chosen("3.10", "") == {"python": "3.10"}


def test_services_of_the_project_s_own_compose_file_are_named(tmp_path):
    own = {
        "web": {"build": ".", "command": "./manage.py runserver"},
        "db": {"image": "postgres:16"},
        "search": {"image": "getmeili/meilisearch:v1"},
        "cleaner": {"build": ".", "command": "manage.py clean"},
    }
    folder = write_tree(project("sqlite", tmp_path), {"docker-compose.yml": yaml.safe_dump({"services": own})})
    lines = compose_project.write(str(folder), "sqlite")[1:]
    assert lines == ["docker-compose.yml has services that are not in these files: db, search; add those that you need"]
    assert "worker_cleaner" in yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    assert compose_project.write(str(folder), "sqlite")[0] == "nothing had to be written"


def test_a_file_that_was_written_for_the_project_stays_in_the_containers(tmp_path):
    """The next run finds it in the source, where inspection no longer misses it."""
    folder = project("sqlite", tmp_path)
    write_tree(folder, {"site/there.py": "B = 1\n"})
    given = {"files": {"site/local.py": {"contents": "A = 1\n"}, "site/there.py": {"source": "salt://there.py"}}}
    assert compose_project.write(str(folder), "sqlite", given)[1:] == []
    first = (folder / "compose.production.yml").read_text()
    assert "./site/local.py:/app/site/local.py:ro" in first
    assert compose_project.write(str(folder), "sqlite") == ["nothing had to be written"]


def test_nginx_outlives_a_release_of_the_application(tmp_path):
    folder, _lines = written("celery", tmp_path)
    services = yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    assert "depends_on" not in services["nginx"]


def test_a_clone_on_another_machine_keeps_the_files_and_names_its_own_user(tmp_path):
    folder, _lines = written("sqlite", tmp_path)
    for kind in ("production", "local"):
        file = folder / f"compose.{kind}.yml"
        file.write_text(re.sub(r"APP_USER:-\d+:\d+", "APP_USER:-1234:1235", file.read_text()))
        (folder / f".envs/{kind}").unlink()
    own = f"{os.geteuid() or 10001}:{os.getegid() or 10001}"
    first, second = compose_project.write(str(folder), "sqlite")
    assert first == "written: .envs/production, .envs/local"
    assert second == (
        f"the compose files are for uid 1234, and .envs is of {own.partition(':')[0]}: add APP_USER={own} to .env"
    )
    (folder / ".env").write_text(f"APP_USER={own}\n")
    assert compose_project.write(str(folder), "sqlite") == ["nothing had to be written"]


def test_variables_that_the_file_lacks_are_next_to_it_with_those_that_it_has(tmp_path):
    folder = project("celery", tmp_path)
    write_tree(folder, {".envs/production": 'SECRET_KEY="kept"\nOWN="1"\n'})
    lines = compose_project.write(str(folder), "celery")
    assert ".envs/production is another one" in lines[1]
    assert (folder / ".envs/production").read_text() == 'SECRET_KEY="kept"\nOWN="1"\n'
    new = folder / ".envs/production.new"
    assert {'SECRET_KEY="kept"', 'OWN="1"', 'TOKEN_SALT="generated-50"'} <= {*new.read_text().splitlines()}
    assert new.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["compose", ".envs"])
def test_a_link_out_of_the_project_is_not_followed(name, tmp_path):
    folder = project("sqlite", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(DeploymentError, match=name):
        compose_project.write(str(folder), "sqlite")
    assert [*elsewhere.iterdir()] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_files_in_a_folder_of_a_user_are_written_by_that_user():
    owner = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="compose-") as top:
        os.chmod(top, 0o755)
        folder = project("sqlite", Path(top))
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, owner.pw_uid, owner.pw_gid)
        compose_project.write(str(folder), "sqlite")
        assert {path.stat().st_uid for path in folder.rglob("*")} == {owner.pw_uid}
        assert (
            f'user: "${{APP_USER:-{owner.pw_uid}:{owner.pw_gid}}}"' in (folder / "compose.production.yml").read_text()
        )


def test_a_folder_without_a_project_is_refused(tmp_path):
    with pytest.raises(DeploymentError, match=r"no manage\.py found in the source"):
        compose_project.write(str(tmp_path))
    with pytest.raises(DeploymentError, match="is not a folder"):
        compose_project.write(str(tmp_path / "missing"))
    assert [*tmp_path.iterdir()] == []


#: A folder's name that ends a value of YAML, and one that ends an instruction of a Dockerfile or a line of a script.
_NAMES = {"yaml": "a}\n  privileged: true\n  x-a: {b", "line": "a\nRUN evil", "shell": "a$(evil)"}


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("where", ["settings", "application", "manage.py", "requirements"])
@pytest.mark.parametrize("name", _NAMES.values(), ids=[*_NAMES])
def test_no_name_of_a_repository_adds_to_the_files(name, where, tmp_path):
    places = {place: name if place == where else place.partition(".")[0] for place in ("settings", "application")}
    top = f"{name}/" if where == "manage.py" else ""
    lists = f"{name}/requirements.txt" if where == "requirements" else "requirements.txt"
    settings = "from configurations import Configuration\nclass Live(Configuration):\n    INSTALLED_APPS = []\n"
    sets = f"import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', {places['settings'] + '.settings'!r})\n"
    folder = write_tree(
        tmp_path / "site",
        {
            lists: "django\ndjango-configurations\n",
            f"{top}manage.py": sets,
            f"{top}{places['settings']}/__init__.py": "",
            f"{top}{places['settings']}/settings.py": settings,
            f"{top}{places['application']}/wsgi.py": f"{sets}from configurations.wsgi import get_wsgi_application\n"
            "application = get_wsgi_application()\n",
        },
    )
    before = sorted(folder.rglob("*"))
    with pytest.raises(DeploymentError, match="cannot be written to compose files"):
        compose_project.write(str(folder), "site")
    assert sorted(folder.rglob("*")) == before


def test_a_project_without_a_list_of_packages_is_refused(tmp_path):
    folder = project("sqlite", tmp_path)
    for name in ("requirements.txt", "requirements/more.txt"):
        (folder / name).unlink()
    with pytest.raises(DeploymentError, match="has no list of packages"):
        compose_project.write(str(folder))


def test_a_path_that_nginx_cannot_have_is_refused_by_its_setting(tmp_path):
    folder = project("sqlite", tmp_path)
    with (folder / "website/settings.py").open("a") as settings:
        settings.write("\nSTATIC_URL = '/$static/'\n")
    with pytest.raises(DeploymentError, match="STATIC_URL is '/\\$static/', and no path of nginx can have that"):
        compose_project.write(str(folder))


def test_a_secret_that_a_full_disk_has_left_empty_is_written_again(tmp_path):
    folder, _lines = written("celery", tmp_path)
    before = new_files(folder, "celery")
    (folder / ".envs/database_password").write_text("")
    (folder / ".envs/production").write_text("")
    compose_project.write(str(folder), "celery", SOURCES["celery"]["given"])
    assert new_files(folder, "celery") == before


def test_a_password_that_the_user_has_set_is_one_in_a_url(tmp_path):
    folder, _lines = written("uv", tmp_path)
    (folder / ".envs/database_password").write_text("p@ss/w#rd\n")
    (folder / ".envs/production").write_text("")
    compose_project.write(str(folder), "uv", SOURCES["uv"].get("given"))
    variables = environment_files.read_environment((folder / ".envs/production").read_text())
    assert variables["DATABASE_URL"] == "postgres://uv:p%40ss%2Fw%23rd@database:5432/uv"
    assert (folder / ".envs/database_password").read_text() == "p@ss/w#rd\n"


def test_a_server_of_asgi_needs_a_module_of_asgi(tmp_path):
    folder = project("sqlite", tmp_path)
    compose_project.write(str(folder), given={"server": {"kind": "uvicorn"}})
    assert "exec gunicorn" in (folder / "compose/start").read_text()
    folder = project("sqlite", tmp_path / "other")
    (folder / "website/asgi.py").write_text("from django.core.asgi import get_asgi_application\n")
    compose_project.write(str(folder), given={"server": {"kind": "uvicorn"}})
    assert "exec uvicorn" in (folder / "compose/start").read_text()


def test_the_options_of_a_site_replace_what_is_found(tmp_path, monkeypatch):
    folder = project("sqlite", tmp_path)
    site = configured(
        domains=["a.example.org"],
        python="python3.11",
        packages=["libpq5"],
        database={"engine": "postgres"},
        queue={"engine": "redis"},
        workers={"default": {"kind": "rq", "queues": ["high", "low"]}},
        environment={"REDIS_URL": {"from": "queue_url"}, "LEVEL": 3},
        path="/blog",
    )
    monkeypatch.setattr(compose_project.sites, "find", lambda _name: site)
    lines = compose_project.write_compose_files("blog", str(folder))
    assert lines[1:] == ["the site is served below /blog, the containers serve it at /"]
    assert "python:3.11-slim" in (folder / "Dockerfile").read_text()
    assert "libpq5" in (folder / "Dockerfile").read_text()
    services = yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    assert {*services} == {"app", "nginx", "database", "queue", "worker"}
    assert services["worker"]["command"] == ["python", "manage.py", "rqworker", "high", "low"]
    environment = (folder / ".envs/production").read_text()
    assert 'REDIS_URL="redis://queue:6379/0"' in environment
    assert 'LEVEL="3"' in environment
    assert 'ALLOWED_HOSTS = ["a.example.org"]' in (folder / "compose/settings_production.py").read_text()


def test_variables_of_what_the_containers_do_not_know_are_to_be_set(tmp_path, monkeypatch):
    """They were empty, and nothing said so: mails went to the container itself."""
    folder = project("sqlite", tmp_path)
    site = configured(
        queue={"engine": "redis"},
        email={"host": "mail.example.org", "from": "blog@example.org"},
        environment={
            "EMAIL_URL": {"from": "email_url"},
            "QUEUE": {"from": "queue_socket"},
            "REDIS_URL": {"from": "queue_url"},
            "COMMIT": {"from": "commit"},
        },
    )
    monkeypatch.setattr(compose_project.sites, "find", lambda _name: site)
    lines = compose_project.write_compose_files("blog", str(folder))
    assert [line for line in lines if line.startswith("set ")] == [
        f"set {name} in .envs/production and .envs/local" for name in ("EMAIL_URL", "QUEUE")
    ]
    mail = "the site sends its mail by mail.example.org: set EMAIL_HOST and the like in compose/settings_production.py"
    assert mail in lines


LOCMEM = 'CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "TIMEOUT": 5}}\n'
MEMCACHED = LOCMEM.replace("locmem.LocMemCache", "memcached.PyLibMCCache")
CORE, PYMEMCACHE = (f"django.core.cache.backends.{one}" for one in ("redis.RedisCache", "memcached.PyMemcacheCache"))
LOCATION = "redis://cache:6379/0"


@pytest.mark.parametrize(
    ("settings", "django", "caches", "expected"),
    [
        ("", "django==5.2.8", {"default": "redis"}, {"default": {"BACKEND": CORE, "LOCATION": LOCATION}}),
        (LOCMEM, "django==5.2.8", {"default": "redis"}, {"default": {"BACKEND": CORE, "LOCATION": LOCATION}}),
        (
            LOCMEM,
            "django==3.2.25\nredis==5.0.0",
            {"default": "redis"},
            {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": LOCATION}},
        ),
        (
            LOCMEM,
            "django==5.2.8",
            {"sessions": "memcached"},
            {
                "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "TIMEOUT": 5},
                "sessions": {"BACKEND": PYMEMCACHE, "LOCATION": "cache:11211"},
            },
        ),
        (
            "",
            "django==5.2.8",
            {"sessions": "redis"},
            {
                "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
                "sessions": {"BACKEND": CORE, "LOCATION": LOCATION},
            },
        ),
        (
            MEMCACHED,
            "django==5.2.8",
            {"default": "memcached"},
            {
                "default": {
                    "BACKEND": "django.core.cache.backends.memcached.PyLibMCCache",
                    "TIMEOUT": 5,
                    "LOCATION": "cache:11211",
                }
            },
        ),
    ],
)
def test_caches_of_a_site_are_on_their_server_whatever_the_project_has(
    tmp_path, monkeypatch, settings, django, caches, expected
):
    """A cache in the memory of each process has the sessions of that alone."""
    folder = project("sqlite", tmp_path)
    (module,) = folder.rglob("settings.py")
    module.write_text(module.read_text() + settings)
    (folder / "requirements.txt").write_text(django + "\n")
    site = configured(caches={alias: {"engine": engine} for alias, engine in caches.items()})
    monkeypatch.setattr(compose_project.sites, "find", lambda _name: site)
    compose_project.write_compose_files("blog", str(folder))
    for kind in ("production", "local"):
        written = (folder / f"compose/settings_{kind}.py").read_text()
        found: dict[str, Any] = {}
        exec(settings, found)
        exec("\n".join(line for line in written.splitlines() if line.startswith("CACHES")), found)
        assert found["CACHES"] == expected
    uses_django_redis = "django_redis" in str(expected)
    assert ("django-redis" in (folder / "Dockerfile").read_text()) is uses_django_redis


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("rq", {"with_scheduler": True, "max_jobs": 9}, ["--with-scheduler", "--max-jobs=9"]),
        ("rq", {"with_scheduler": False, "logging_level": "WARNING"}, ["--verbosity=0"]),
        ("huey", {"periodic": False, "worker_type": "process"}, ["--no-periodic", "--worker-type=process"]),
        ("huey", {"periodic": True}, []),
        ("celery", {"without_gossip": True, "task_events": False, "pool": "solo"}, ["--without-gossip", "--pool=solo"]),
    ],
)
def test_options_of_workers_are_what_their_programs_take(tmp_path, monkeypatch, kind, options, words):
    """Of a flag they take no value, and a worker with one does not start."""
    folder = project("sqlite", tmp_path)
    app = {"app": "website"} if kind == "celery" else {}
    worker = {"kind": kind, "options": options, **app}
    site = configured(queue={"engine": "redis"}, workers={"default": worker})
    monkeypatch.setattr(compose_project.sites, "find", lambda _name: site)
    compose_project.write_compose_files("blog", str(folder))
    services = yaml.safe_load((folder / "compose.production.yml").read_text())["services"]
    usual = [word for word in services["worker"]["command"] if word.startswith("--")]
    own = [word for word in usual if not word.startswith(("--app", "--loglevel", "--concurrency", "--workers"))]
    assert sorted(own) == sorted(words)


def test_inspection_is_not_changed_by_the_files(tmp_path):
    """Otherwise a second run, and an apply of the formula, would take settings of containers for the project's."""
    folder = project("sqlite", tmp_path)
    before = inspection.inspect(str(folder))
    compose_project.write(str(folder), "sqlite")
    assert inspection.inspect(str(folder)) == before


@pytest.mark.parametrize(
    ("files", "folder", "installs"),
    [
        ({"requirements.txt": "-e ./libs/kit\n"}, ".", "uv pip install --requirement=requirements.txt"),
        (
            {"apps/web/requirements.txt": "Django\n../../libs/kit\n"},
            "apps/web",
            "cd /app/apps/web && uv pip install --requirement=/app/apps/web/requirements.txt",
        ),
        (
            {
                "pyproject.toml": '[tool.uv.workspace]\nmembers = ["apps/*", "libs/*"]\n',
                "apps/web/pyproject.toml": '[project]\nname = "web"\nversion = "1"\ndependencies = ["kit"]\n',
                "uv.lock": '[[package]]\nname = "web"\nsource = { virtual = "apps/web" }\n'
                'dependencies = [{ name = "kit" }]\n[[package]]\nname = "kit"\nsource = { editable = "libs/kit" }\n',
            },
            "apps/web",
            "cd /app && uv export --quiet --frozen --no-dev --no-emit-project --package=web --output-file",
        ),
    ],
    ids=["editable", "above", "workspace"],
)
def test_own_packages_of_a_repository_are_in_the_image(tmp_path, files, folder, installs):
    source = {f"{folder}/{name}": text for name, text in SOURCES["sqlite"]["files"].items() if not is_listing(name)}
    kit = {"libs/kit/pyproject.toml": '[project]\nname = "kit"\n', "libs/kit/kit/__init__.py": ""}
    tree = write_tree(tmp_path / "shop", {**source, **kit, **files})
    compose_project.write(str(tree), "shop")
    lines = (tree / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith(f"RUN {installs}")], lines
    packages = lines[lines.index("FROM base AS packages") : lines.index("FROM packages AS source")]
    assert "COPY . /app" in packages


def is_listing(name: str) -> bool:
    return name.endswith((".lock", "requirements.txt", "pyproject.toml"))
