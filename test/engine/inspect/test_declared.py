"""What deployment files of other platforms declare."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django_formula.host import packages
from django_formula.inspect import declared, inspection
from trees import write_tree

FLY = """
app = "shop"
[env]
WEB_CONCURRENCY = 3
DEBUG = false
[processes]
app = "gunicorn shop.wsgi"
worker = "celery -A shop worker"
[http_service]
internal_port = 8000
[[http_service.checks]]
path = "/up/"
"""
RENDER = {
    "services": [
        {
            "type": "web",
            "startCommand": "gunicorn shop.wsgi",
            "healthCheckPath": "/status",
            "domains": ["shop.example.org", "-no-.example", "shop.example.org"],
            "envVars": [{"key": "REGION", "value": "eu"}, {"key": "KEY", "generateValue": True}, {"fromGroup": "x"}],
        },
        {"type": "worker", "name": "mail", "startCommand": "python manage.py send_queued_mail"},
        {"type": "cron", "name": "clean", "schedule": "0 4 * * *", "startCommand": "python manage.py clearsessions"},
        "nonsense",
    ]
}
KAMAL = {
    "proxy": {"host": "shop.example.org", "healthcheck": {"path": "/up"}},
    "servers": {"web": ["192.0.2.1"], "job": {"hosts": ["192.0.2.1"], "cmd": "celery -A shop worker"}},
    "env": {"clear": {"REGION": "eu", "PORT": 8000}, "secret": ["KEY"]},
}
KAMAL_ROLE = {  # Kamal merges what a role has over what is for all
    "env": {"clear": {"REGION": "us"}},
    "servers": {
        "web": {
            "hosts": ["192.0.2.1"],
            "proxy": {"host": "shop.example.org", "healthcheck": {"timeout": 60}},
            "env": {"clear": {"REGION": "eu", "STAGE": "live"}, "secret": ["KEY"]},
        },
        "other": {"proxy": {"host": "beta.example.org"}},
        "job": {"cmd": "celery -A shop worker"},
    },
}
RENDER_GROUP = {
    "envVarGroups": [
        {"name": "all", "envVars": [{"key": "REGION", "value": "eu"}, {"key": "STAGE", "value": "live"}]},
        {"name": "unused", "envVars": [{"key": "X", "value": "y"}]},
    ],
    "services": [{"type": "web", "envVars": [{"key": "REGION", "value": "us"}, {"fromGroup": "all"}]}],
}
HEROKU = {
    "setup": {"config": {"STAGE": "live"}},
    "run": {
        "web": "gunicorn shop.wsgi",
        "worker": {"command": ["cd backend && python manage.py qcluster"], "image": "web"},
        "beat": "celery -A shop beat",
        "odd": {"command": [1]},
    },
}
DOKKU = {
    "env": {"REGION": "eu", "KEY": {"generator": "secret"}, "STAGE": {"value": "live"}, "bad name": "x"},
    "healthchecks": {"web": [{"type": "startup", "path": "/ready"}]},
    "cron": [{"command": "python manage.py clearsessions", "schedule": "@daily"}, {"schedule": 3}, None],
}
SHOP = {
    "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')",
    "shop/__init__.py": "",
    "shop/wsgi.py": "application = get_wsgi_application()",
    "shop/settings.py": "ROOT_URLCONF = 'shop.urls'\nINSTALLED_APPS = ['shop']\n",
    "requirements.txt": "django\ncelery\n",
}
UWSGI = """[uwsgi]
module = hc.wsgi
attach-daemon = ./manage.py sendalerts
attach-daemon2 = stopsignal=15,cmd=./manage.py smtpd --port 2525,freq=3
smart-attach-daemon = /tmp/beat.pid celery -A hc beat
attach-daemon = %(home)/x
cron = 0 4 -1 -1 -1 ./manage.py prunepings
cron = -5 -1 -1 -1 -1 ./manage.py tick
"""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"fly.toml": FLY},
            {
                "health": "/up/",
                "commands": [("worker", "celery -A shop worker", "")],
                "variables": {"WEB_CONCURRENCY": "3", "DEBUG": "false"},
            },
        ),
        (
            {"render.yaml": yaml.safe_dump(RENDER)},
            {
                "domains": ["shop.example.org"],
                "health": "/status",
                "commands": [
                    ("mail", "python manage.py send_queued_mail", ""),
                    ("clean", "python manage.py clearsessions", "0 4 * * *"),
                ],
                "variables": {"REGION": "eu"},
            },
        ),
        (
            {"config/deploy.yml": yaml.safe_dump(KAMAL)},
            {
                "domains": ["shop.example.org"],
                "health": "/up",
                "commands": [("job", "celery -A shop worker", "")],
                "variables": {"REGION": "eu", "PORT": "8000"},
            },
        ),
        (
            {"app.json": json.dumps(DOKKU)},
            {
                "health": "/ready",
                "commands": [("", "python manage.py clearsessions", "@daily")],
                "variables": {"REGION": "eu", "STAGE": "live"},
            },
        ),
        (
            {"docker/uwsgi.ini": UWSGI, "dev/uwsgi.ini": "attach-daemon = x\n"},
            {
                "commands": [
                    ("", "./manage.py sendalerts", ""),
                    ("", "./manage.py smtpd --port 2525", ""),
                    ("", "celery -A hc beat", ""),
                    ("", "./manage.py prunepings", "0 4 * * *"),
                    ("", "./manage.py tick", "*/5 * * * *"),
                ]
            },
        ),
        (
            {"config/deploy.yml": yaml.safe_dump(KAMAL_ROLE)},
            {
                "domains": ["shop.example.org"],
                "health": "/up",
                "commands": [("job", "celery -A shop worker", "")],
                "variables": {"REGION": "eu", "STAGE": "live"},
            },
        ),
        (
            {"render.yaml": yaml.safe_dump(RENDER_GROUP)},
            {"variables": {"REGION": "us", "STAGE": "live"}},
        ),
        (
            {"heroku.yml": yaml.safe_dump(HEROKU)},
            {
                "commands": [
                    ("beat", "celery -A shop beat", ""),
                    ("worker", "cd backend && python manage.py qcluster", ""),
                ],
                "variables": {"STAGE": "live"},
            },
        ),
        (
            {"uwsgi.ini": "[uwsgi]\nattach-daemon = nice -n $(LEVEL) celery -A shop worker -n a@%%h\n"},
            {"commands": [("", "nice -n ${LEVEL} celery -A shop worker -n a@%h", "")]},
        ),
        ({"Procfile": "web: gunicorn x\nrelease:  ./manage.py sync  \n"}, {"release": ["./manage.py sync"]}),
        (
            {"app.json": json.dumps(DOKKU), "fly.toml": FLY},  # the first that declares a thing
            {
                "health": "/ready",
                "commands": [("", "python manage.py clearsessions", "@daily")],
                "variables": {"REGION": "eu", "STAGE": "live"},
            },
        ),
    ],
)
def test_files_declare(tmp_path: Path, files: dict[str, str], expected: dict[str, Any]) -> None:
    remarks: list[str] = []
    found = declared.find(write_tree(tmp_path / "shop", files), remarks)
    commands = [(line.name, line.command, line.at) for line in found.commands]
    given = found._replace(commands=commands)._asdict()
    given.pop("places")
    assert {key: value for key, value in given.items() if value} == expected and remarks == []
    assert set(found.places) == set(expected) and set(found.places.values()) <= set(files)


@pytest.mark.parametrize(
    ("files", "remarks"),
    [
        ({"app.json": "{", "fly.toml": "= x", "render.yaml": "a: [", "config/deploy.yml": "[1, 2]"}, 3),
        ({"app.json": "[" * 100_000}, 1),
        ({"app.json": json.dumps({"env": [1], "cron": {"a": 1}, "healthchecks": {"web": {"path": "/"}}})}, 0),
        (
            {"render.yaml": yaml.safe_dump({"services": {"web": 1}}), "fly.toml": "services = 3\nchecks = 4\nenv = []"},
            0,
        ),
        ({"config/deploy.yml": "proxy: [x]\nservers: {job: {cmd: [1]}, web: {cmd: x}}\nenv: x"}, 0),
        ({"render.yaml": 'services: [{type: web, healthCheckPath: "/a b", domains: ["a b", 3, "x"]}]'}, 0),
        ({"render.yaml": 'services: [{type: worker, startCommand: "a\\nb"}, {type: worker, startCommand: 3}]'}, 0),
        ({"render.yaml": "services: [{type: web, envVars: [{key: [a], value: x}, {fromGroup: [a]}]}]"}, 0),
        ({"render.yaml": "services: [{type: worker, name: [a], startCommand: 3}]\nenvVarGroups: [x, {name: [a]}]"}, 0),
        ({"heroku.yml": "run: {job: [[a]], odd: {command: {a: b}}}\nsetup: {config: [x]}"}, 0),
    ],
)
def test_what_has_not_the_shape_is_left_out(tmp_path: Path, files: dict[str, str], remarks: int) -> None:
    told: list[str] = []
    assert declared.find(write_tree(tmp_path / "shop", files), told) == declared.NOTHING
    assert len(told) == remarks
    assert all(re.fullmatch(r"\S+ was not read: it is not valid (JSON|TOML|YAML)", text) for text in told)


@pytest.mark.usefixtures("asked_here")
def test_declarations_come_before_guesses(tmp_path: Path) -> None:
    files = {
        "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')",
        "shop/__init__.py": "",
        "shop/wsgi.py": "application = get_wsgi_application()",
        "shop/urls.py": "urlpatterns = [path('healthz', view)]",
        "shop/settings.py": "import os\nROOT_URLCONF = 'shop.urls'\nREGION = os.environ['REGION']\n",
        "requirements.txt": "django\ncelery\n",
        "config/deploy.yml": yaml.safe_dump(KAMAL),
    }
    text = inspection.inspect(str(write_tree(tmp_path / "shop", files)))
    (site,) = yaml.safe_load(text)["django"]["sites"].values()
    assert site["domains"] == ["shop.example.org"] and site["health"]["path"] == "/up", text
    assert site["environment"]["REGION"] == "eu" and site["workers"] == {"job": {"kind": "celery", "app": "shop"}}, text
    assert text.count("as config/deploy.yml has") == 2, text


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"uwsgi.ini": "[uwsgi]\nattach-daemon = ./manage.py sendalerts\nattach-daemon = ./manage.py sendreports\n"},
            {
                "sendalerts": {"kind": "command", "command": "manage.py sendalerts"},
                "sendreports": {"kind": "command", "command": "manage.py sendreports"},
            },
        ),
        (
            {
                "uwsgi.ini": "[uwsgi]\nattach-daemon = celery -A shop worker -Q mail\n",
                "start.sh": "#!/bin/sh\ncelery -A shop worker\n",
                "shop/celery.py": "app = Celery('shop')\n",
            },
            {"default": {"kind": "celery", "app": "shop", "queues": ["mail"]}},
        ),
    ],
)
def test_workers_are_those_that_are_declared(tmp_path: Path, files: dict[str, str], expected: dict[str, Any]) -> None:
    text = inspection.inspect(str(write_tree(tmp_path / "shop", {**SHOP, **files})))
    (site,) = yaml.safe_load(text)["django"]["sites"].values()
    assert site["workers"] == expected, text


def test_name_that_is_no_text_is_written_as_one(tmp_path: Path) -> None:
    files = {"render.yaml": "services: [{type: worker, name: [a], startCommand: run}]"}
    (line,) = declared.find(write_tree(tmp_path / "shop", files), []).commands
    assert (line.name, line.command) == ("['a']", "run")


@pytest.mark.usefixtures("asked_here")
def test_the_settings_module_is_the_declared_one(tmp_path: Path) -> None:
    files = {**SHOP, "shop/deployed.py": "from shop.settings import *\n"}
    files |= {"fly.toml": "[env]\nDJANGO_SETTINGS_MODULE = 'shop.deployed'\n"}
    text = inspection.inspect(str(write_tree(tmp_path / "shop", files)))
    assert "settings_module: shop.deployed  # as fly.toml has it" in text
    files["fly.toml"] = "[env]\nDJANGO_SETTINGS_MODULE = 'shop.absent'\n"
    text = inspection.inspect(str(write_tree(tmp_path / "other", files)))
    assert "settings_module:" not in text.replace("# settings module", "")


@pytest.mark.usefixtures("asked_here")
def test_files_next_to_the_manage_py_of_a_monorepo_declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "offered", lambda names: {*names})
    files = {f"backend/{name}": text for name, text in SHOP.items()} | {"fly.toml": "[env]\nREGION = 'us'\n"}
    files["backend/shop/deployed.py"] = "import os\nfrom shop.settings import *\nREGION = os.environ['REGION']\n"
    files["backend/fly.toml"] = f"{FLY}[deploy]\nrelease_command = './release.sh'\n".replace(
        "[env]", "[env]\nREGION = 'eu'\nDJANGO_SETTINGS_MODULE = 'shop.deployed'"
    )
    files["backend/release.sh"] = "#!/bin/sh\npython manage.py migrate\npython manage.py sync\n"
    files["backend/Aptfile"] = "ffmpeg\n"
    text = inspection.inspect(str(write_tree(tmp_path / "shop", files)))
    (site,) = yaml.safe_load(text)["django"]["sites"].values()
    assert site["settings_module"] == "shop.deployed" and site["health"] == {"path": "/up/"}, text
    assert site["environment"]["REGION"] == "eu" and "as in backend/fly.toml" in text, text
    assert site["commands"] == {"after_migrate": ["manage.py sync"]} and site["packages"] == ["ffmpeg"], text
    assert "not understood" not in text, text


@pytest.mark.usefixtures("asked_here")
def test_the_project_at_the_top_comes_first(tmp_path: Path) -> None:
    files = {**SHOP, "shop/celery.py": "app = Celery('shop')\n"}
    files |= {f"attic/old/{name}": text for name, text in files.items()}
    text = inspection.inspect(str(write_tree(tmp_path / "shop", files)))
    assert 'project: "."' in text and "{kind: celery, app: shop.celery}  # shop/celery.py:1" in text, text


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("files", "named"),
    [
        (
            {"app.json": {"cron": [{"command": f"bin/quiet {name}.sh", "schedule": "@daily"} for name in ("a", "b")]}},
            ["quiet a.sh (app.json)", "quiet b.sh (app.json)"],
        ),
        (
            {
                "render.yaml": {
                    "services": [{"type": "worker", "name": "mail", "startCommand": "celery -A shop x worker"}]
                }
            },
            ["mail (render.yaml)"],
        ),
        ({"Procfile": "worker: ./manage.py run_huey --skip-checks\n"}, []),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, files: dict[str, Any], named: list[str]) -> None:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in files.items()}
    text = " ".join(inspection.inspect(str(write_tree(tmp_path / "shop", {**SHOP, **texts}))).replace("#", "").split())
    assert all(one in text for one in named) and ("not understood" in text) == bool(named), text
