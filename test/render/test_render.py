"""What a pillar becomes on the host, whole: a case is a folder with a pillar.yaml, and all files rendered from it.

A file that is byte for byte one of an earlier case is kept there only: same.yaml names it (file → case/file).
configuration.json is compared by test/engine/pillar/test_compiler.py; facts.yaml, where there is one, has facts of the
sources. A new case is a new folder; UPDATE=1 writes what is rendered now, and the diff is the change to review.
"""

import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import CASES, kept
from django_formula.container import containers
from django_formula.host import environment_files, proc, users
from django_formula.proxy import apache, listener, nginx, site_files
from django_formula.release import instances, settings
from django_formula.secret import secrets as secret_secrets
from django_formula.server import servers, uwsgi
from django_formula.site.sites import Site
from readers import read_apache, read_environment, read_ini, read_json, read_nginx, read_program, read_script, read_unit
from specimen import FACTS, compiled, formula_templates

RELEASE = "0042-3f2a9c1b77de"


@pytest.fixture(autouse=True)
def any_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing depends on the machine of the tests."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(uwsgi, "_backlog", lambda: 1024)
    monkeypatch.setattr(uwsgi, "_binary", lambda virtualenv: virtualenv / "bin/python")
    monkeypatch.setattr(nginx, "IPV6", Path(__file__))
    monkeypatch.setattr(proc, "total_memory", lambda: 16 << 30)
    monkeypatch.setattr(nginx, "ETC", tmp_path / "etc/nginx")
    monkeypatch.setattr(nginx, "version", lambda: (1, 26, 3))
    monkeypatch.setattr(apache, "ETC", tmp_path / "etc/apache2")
    monkeypatch.setattr(apache, "unescapes", lambda _site: True)
    monkeypatch.setattr(containers, "_existing", lambda _site, _release, paths: list(map(str, paths)))
    monkeypatch.setattr(users, "owner", lambda _user, _group: (998, 998))
    monkeypatch.setattr(users, "find_user", lambda _name: None)
    monkeypatch.setattr(socket, "gethostname", lambda: "web1")


def files_of(site: Site, facts: dict[str, Any]) -> dict[str, str]:
    """Every file of a release of a site: its name below the site's folder → content."""
    release = site.releases / RELEASE
    secrets = {name: f"secret of {name}" for name in secret_secrets.configured(site)}
    plain = settings.environment(site, release, facts)
    hidden = settings.secret_environment(site, secrets, [])
    configuration = instances.configuration(site, release, facts, formula_templates())
    templates = {url: f"# {url}\n{{{{ environment | tojson }}}}\n" for url in sources(site)} | formula_templates()
    return {
        "environment": environment_files.environment_file(plain),
        "secrets": environment_files.environment_file(hidden),
        **({"settings.json": settings.overlay(site, release, "x")} if site.config["overlay"] else {}),
        **{name: text for name, text in configuration.items() if text not in formula_templates().values()},
        **{
            f"source/{path}": text
            for path, text in settings.project_files(site, templates, {**plain, **hidden}).items()
        },
    }


def sources(site: Site) -> list[str]:
    return [said["source"] for said in site.config["files"].values() if "source" in said]


def proxy_of(site: Site, facts: dict[str, Any]) -> dict[str, str]:
    """The files of the proxy of a site: name below /etc → content, or where a link leads; or the units without one."""
    wanted = site_files.files_of_site(site, facts, formula_templates())
    units = listener.listener_units(site, formula_templates())
    return {f"{site.name}/{path.name}": text or "" for path, text in units.items()} | {
        str(path.relative_to(nginx.ETC.parent)): content.replace(str(nginx.ETC.parent), "/etc")
        for path, content in wanted.items()
        if content is not None
    }


def rendered(case: Path) -> dict[str, str]:
    """Every file that is rendered for a case, by its name below the case's folder."""
    pillar = yaml.safe_load((case / "pillar.yaml").read_text())["django"]
    known = yaml.safe_load((case / "facts.yaml").read_text()) if (case / "facts.yaml").exists() else {}
    result = compiled(pillar["sites"], pillar.get("defaults"), pillar.get("process"))
    assert result["errors"] == []
    files: dict[str, str] = {}
    for name, config in result["sites"].items():
        site = Site(config, result["platform"])
        facts = {
            **FACTS,
            "settings_module": config["settings_module"] or FACTS["settings_module"],
            "application": config[servers.configured(site).interface(site)] or FACTS["application"],
            **known.get(name, {}),
        }
        files |= {f"{name}/{path}": text for path, text in files_of(site, facts).items()}
        for path, text in proxy_of(site, facts).items():
            assert files.setdefault(path, text) == text, f"two sites write {path}, each in its own way"
    return files


def write_all() -> None:
    """Write every case anew."""
    first: dict[str, str] = {}
    for case in CASES:
        for path in case.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        same = {}
        for name, content in sorted(rendered(case).items()):
            if first.setdefault(content, f"{case.name}/{name}") != f"{case.name}/{name}":
                same[name] = first[content]
            else:
                (case / name).parent.mkdir(parents=True, exist_ok=True)
                (case / name).write_text(content)
        (case / "same.yaml").write_text(yaml.safe_dump(same, width=120) if same else "{}\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_files_of_a_case(case: Path) -> None:
    if os.environ.get("UPDATE"):
        write_all()
    assert rendered(case) == kept(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_files_of_a_case_are_read_without_surprises(case: Path) -> None:
    """By the readers that the fuzz relies on; and what has to hold of every unit."""
    for name, content in rendered(case).items():
        if re.search(r"/django-\w+-0042\.conf$", name) and not name.startswith(("nginx/", "apache2/")):
            assert {section for section, _name, _value in read_program(content)} == {f"[program:{Path(name).stem}]"}
        elif name.endswith(".sh"):
            read_script(content)
        elif name.endswith((".service", ".socket")):
            directives = read_unit(content)
            sections = {section for section, _name, _value in directives}
            own = "[Service]" if name.endswith(".service") else "[Socket]"
            assert sections | {"[Install]"} == {"[Unit]", own, "[Install]"}
            assert "[Install]" in sections or name.endswith("-listen.service")
        elif name.endswith("mod_wsgi.conf"):
            assert ["Require", "all", "denied"] in read_apache(content)
        elif name.endswith("uwsgi.ini"):
            assert {section for section, _name, _value in read_ini(content)} == {"[uwsgi]"}
        elif name.endswith(("/environment", "/secrets")):
            assert read_environment(content) or name.endswith("/secrets")
        elif name.endswith(".json"):
            assert read_json(content)
        elif name.endswith(".pem"):
            assert "\n-----BEGIN CERTIFICATE-----\n" in content
        elif name.startswith(("nginx/", "apache2/")) and not content.startswith("-> "):
            assert read_nginx(content) if name.startswith("nginx/") else read_apache(content)


def test_every_template_is_rendered_by_a_case() -> None:
    names = {Path(name).name for case in CASES for name in rendered(case)}
    assert {"uwsgi.ini", "upstream.conf", "django-blog-0042.service", "django-blog-0042.socket"} <= names
    assert {"django-blog-0042.conf", "supervisor.sh"} <= names
    text = "".join(text for case in CASES for name, text in rendered(case).items() if name.startswith("nginx/"))
    assert "return 301 $scheme://" in text and "proxy_pass" in text and "uwsgi_pass" in text
