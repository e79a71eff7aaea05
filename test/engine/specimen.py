"""Sites for tests: configured by the formula's own schema, on a host below a temporary folder."""

import functools
import json
import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from django_formula.audit import audit, people
from django_formula.audit import chain as audit_chain
from django_formula.container import dockerfile
from django_formula.database import clusters
from django_formula.deploy import preflight
from django_formula.host import commands, daemons, mounts, proc, users
from django_formula.host import compiled as host_compiled
from django_formula.host import folders as host_folders
from django_formula.pillar import compiler
from django_formula.process import contract as process_contract
from django_formula.process import supervisor, systemd
from django_formula.proxy import apache, nginx, waiting
from django_formula.request import hook_unit
from django_formula.schedule import timer
from django_formula.site import sites as site_sites
from django_formula.site.sites import Site
from django_formula.takeover import manager
from django_formula.tls import certificates
from django_formula.virtualenv import kept, managed_python, uv

ROOT = Path(__file__).parents[2]
GRAINS = {"os_family": "Debian", "osmajorrelease": 12, "init": "systemd", "id": "web1"}
COMMIT = "3f2a9c1b77de4e0f8a5d6c7b8a9f0e1d2c3b4a59"
#: An account that is not root: `nobody` if root runs the tests, else the account that runs them.
UNPRIVILEGED = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
#: What was found in the source of a release, and what its start has answered.
FACTS: dict[str, Any] = {
    "commit": COMMIT,
    "folder": ".",
    "python_path": [],
    "settings_module": "blog.settings",
    "application": "blog.wsgi",
    "static_url": "/static/",
    "media_url": "/media/",
    "collected": 127,
    "databases": {},
    "migrations": {},
}

MakeSite = Callable[..., Site]


@functools.cache
def contract(name: str) -> dict[str, Any]:
    """A table of the formula: schema.yaml, platforms.yaml or pythons.yaml."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "django" / name).read_text())
    return data


def compiled(
    sites: dict[str, Any], defaults: dict[str, Any] | None = None, process: str | None = None
) -> dict[str, Any]:
    """What the pillar of these sites becomes: errors, or the configuration of each."""
    pillar = {"django": {"sites": sites, "defaults": defaults or {}, "process": process}}
    return compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), GRAINS)


def three_keys(name: str = "blog") -> dict[str, Any]:
    """The smallest site."""
    return {
        "repository": f"https://git.example.org/{name}.git",
        "revision": "main",
        "domains": [f"{name}.example.org"],
    }


def configured(name: str = "blog", process: str = "systemd", **options: Any) -> Site:
    """A site of three keys and these; with `folder` it has no repository."""
    return Site(*_configuration(name, process, options))


def _configuration(name: str, process: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration and the platform of a site of three keys and these."""
    result = json.loads(_compiled_once(name, process, json.dumps(options)))
    return (result["sites"] | result["absent"])[name], result["platform"]


@functools.cache
def _compiled_once(name: str, process: str, options: str) -> str:
    pillar = {**three_keys(name), **json.loads(options)}
    if "folder" in pillar:
        del pillar["repository"], pillar["revision"]
    if "push" in pillar:
        del pillar["repository"]
    origin = (pillar.get("promote") or {}).get("from")  # another site of the host
    result = compiled({name: pillar, **({origin: three_keys(origin)} if origin else {})}, process=process)
    assert result["errors"] == [], result["errors"]
    return json.dumps(result)


@functools.cache
def formula_templates() -> dict[str, str]:
    """The text of the formula's own templates by URL."""
    folder = ROOT / "django/files"
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"salt://django/files/{path.relative_to(folder)}": path.read_text() for path in files}


@pytest.fixture
def own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host below a temporary folder, on which every user and group is that of the tests."""
    folders = {
        (site_sites, "REGISTRY"): "var/lib/django-formula/sites",
        (audit_chain, "FOLDER"): "var/lib/django-formula",
        (site_sites, "RUNTIME"): "run/django",
        (site_sites, "TMPFILES"): "etc/tmpfiles.d",
        (systemd, "UNITS"): "etc/systemd/system",
        (mounts, "UNITS"): "etc/systemd/system",
        (daemons, "SYSTEMD"): "run/systemd/system",
        (daemons, "UNITS"): "etc/systemd/system",
        (systemd, "CGROUP"): "sys/fs/cgroup",
        (daemons, "RUN"): "run",
        (supervisor, "PROGRAMS"): "etc/supervisor/conf.d",
        (supervisor, "OUTPUT"): "var/log/supervisor",
        (process_contract, "RUN"): "run",
        (proc, "PROC"): "proc",
        (nginx, "ETC"): "etc/nginx",
        (apache, "ETC"): "etc/apache2",
        (apache, "NOTES"): "var/lib/apache2/module",
        (certificates, "STATE"): "var/lib/django-formula",
        (clusters, "CREATION"): "etc/postgresql-common/createcluster.d",
        (managed_python, "FOLDER"): "usr/local/lib/django-formula/python",
        (uv, "UV"): "usr/local/lib/django-formula/uv",
        (dockerfile, "CACHES"): "var/lib/django-formula/caches",
        (timer, "CRON"): "etc/cron.d",
        (manager, "SYSTEMD"): "etc/systemd/system",
        (manager, "SUPERVISOR"): "etc/supervisor/conf.d",
    }
    for (module, name), folder in folders.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(module, name, tmp_path / folder)
    for module, name in ((waiting, "RELAY"), (hook_unit, "HOOK")):
        behind = getattr(module, name)
        program, folder = (tmp_path / str(path).lstrip("/") for path in (behind.program, behind.folder))
        monkeypatch.setattr(module, name, behind._replace(program=program, folder=folder))
    for name in ("CONFIG", "HOME", "KEYS", "SUDOERS", "PROGRAM", "ARCHIVE"):
        monkeypatch.setattr(people, name, tmp_path / str(getattr(people, name)).lstrip("/"))
    monkeypatch.setattr(audit, "JOURNAL", tmp_path / "run/systemd/journal/socket")
    monkeypatch.setattr(host_compiled, "FOLDER", tmp_path / "var/lib/django-formula/templates")
    (tmp_path / "proc/meminfo").symlink_to("/proc/meminfo")
    (tmp_path / "etc/apt/apt.conf.d").mkdir(parents=True)
    for name in ("CONFIGURATION", "UPGRADER"):
        monkeypatch.setattr(kept, name, tmp_path / str(getattr(kept, name)).lstrip("/"))
    crontabs = [tmp_path / "var/spool/cron/crontabs", tmp_path / "etc/cron.d", tmp_path / "etc/crontab"]
    monkeypatch.setattr(manager, "CRONTABS", crontabs)
    monkeypatch.setattr(manager, "CRON", tmp_path / "etc")
    monkeypatch.setattr(manager, "UWSGI", [tmp_path / "etc/uwsgi", tmp_path / "etc/uwsgi-emperor"])
    monkeypatch.setattr(host_folders, "refuse_unsafe_parents", lambda path, at="": None)
    refusal = preflight._refusal
    monkeypatch.setattr(preflight, "_refusal", lambda address: "" if _is_of_this_machine(address) else refusal(address))
    identity = commands.identity
    monkeypatch.setattr(commands, "identity", lambda user: identity(user) if _is_there(user) else {})
    monkeypatch.setattr(users, "user_id", lambda name: os.getuid())
    monkeypatch.setattr(users, "group_id", lambda name: os.getgid())
    return tmp_path


def _is_of_this_machine(address: str | tuple[str, int]) -> bool:
    """Whether an address is the socket of a server that the machine has which runs the tests, and the host has not."""
    return str(address).startswith(("/run/", "/var/run/"))


def _is_there(user: str | None) -> bool:
    """Whether the host that runs the tests has a user."""
    try:
        return bool(user and pwd.getpwnam(user))
    except KeyError:
        return False


@pytest.fixture
def make_site(own_host: Path) -> MakeSite:
    """Make a site on that host, with its folders: `make_site(timeouts={"lock": "1s"})`."""

    def make(name: str = "blog", folders: bool = True, process: str = "systemd", **options: Any) -> Site:
        config, platform = _configuration(name, process, options)
        site = Site({**config, "root": str(own_host / "srv/django" / name)}, platform)
        for folder in site.folders() if folders else ():
            host_folders.make(folder)
        return site

    return make
