"""No string of the pillar breaks out of a file that it reaches.

Every place of django/schema.yaml that takes a string, the names of maps among them, is given what could do harm. It is
refused with its path, or each file that is rendered reads like that of a harmless value, with the one instead of
the other: byte for byte, and with no directive more.
"""

import functools
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dotenv
import pytest
from django_formula.deploy.deployment import Deployment
from django_formula.host import environment_files, proc
from django_formula.host.commands import DeploymentError
from django_formula.pillar import check, compiler, layers
from django_formula.process.supervisor import PROGRAMS
from django_formula.proxy import apache, listener, nginx, site_files
from django_formula.release import instances, settings
from django_formula.secret import secrets as secret_secrets
from django_formula.server import uwsgi
from django_formula.site.sites import Site
from django_formula.source import mirror
from django_formula.store import service, stores
from readers import read_apache, read_environment, read_ini, read_json, read_nginx, read_program, read_script, read_unit
from specimen import FACTS, compiled, contract, formula_templates, three_keys

pytestmark = pytest.mark.slow  # each place of the pillar with each value

NASTY = {
    "newline": "\nExecStartPre=/bin/touch /tmp/pwn",
    "newline in nginx": "\n}\nserver { return 200 pwn; }\n#",
    "newline alone": "\n",
    "carriage return": "\rexec-as-root = id",
    "nginx": '"; return 200 pwn; #',
    "nginx without quotes": "x; return 200 pwn; #",
    "nginx block": "x { return 200 pwn; }",
    "nginx variable": "$http_cookie",
    "shell": "$(id)",
    "backticks": "`id`",
    "uwsgi file": "@(/etc/shadow)",
    "uwsgi option": "%(pidfile)",
    "specifier": "%n",
    "half a specifier": "100%",
    "jinja": "{{ 7*7 }}",
    "jinja block": "{% raw %}",
    "path": "../../etc",
    "absolute path": "/etc/shadow",
    "git option": "--upload-pack=x",
    "git transport": "ext::sh -c id",
    "zero": "a\0b",
    "64 KiB": "x" * 65536,
    "line separator": "a\u2028b",
    "next line": "a\x85b",
    "surrogate": "a\ud800b",
    "escape": "\x1b[31m",
    "trailing backslash": "a\\",
    "backslash": "a\\nb",
    "variable": "${x}",
    "quote": "'",
    "double quote": '"',
    "comment": "a # b",
    "semicolon": "a;b",
    "blanks": " a ",
    "tab": "a\tb",
    "empty": "",
    "unit prefix": "-@:+!/bin/sh",
    "true": "true",
    "unicode": "grüße 日本 🙂",
    "section": "[Service]",
    "json": '", "DEBUG": true, "x": "',
    "equals": "a=b",
    "colon": "a:b",
}
KNOWN_HOST = "qzx ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
#: Harmless values, of which each place gets the first that it takes. They are like nothing else in a rendered file.
HARMLESS = [
    "qzx",
    "/qzx",
    "/srv/qzx",
    "/srv/qzx/qzx",
    "https://qzx.example.org/qzx",
    KNOWN_HOST,
    "salt://qzx/qzx",
    "-----BEGIN QZX PRIVATE KEY-----\nqzx\n-----END QZX PRIVATE KEY-----",
    "QZX",
    "qzxqzxqzxqzxqzxqzxqzxqzx",
]
#: What else has to be said for a value to reach a file, by the beginning of its path.
TOGETHER = {
    "settings_module": {"overlay": False},
    "push": {"repository": None},
    "fleet": {"hosts": {"web1": {"parts": ["app"], "address": "192.0.2.1"}}},
    "tls": {"tls": {"kind": "acme", "challenge": "dns-01", "hook": "/x", "eab": {"key_id": "x", "key": "x"}}},
    "index": {"index": {"url": "https://example.org/simple", "user": "x", "password": "x"}},
    "email": {"email": {"host": "smtp.example.org", "user": "x", "password": "x"}},
    "checks": {"deploy": "manual", "checks": {"kind": "github", "url": "https://api.github.com/repos/x/x"}},
}
#: What has to be said within the same database, by the key that gets the value.
DATABASE = {
    "name": {"engine": "sqlite"},
    "variable": {"engine": "postgres", "name": "xqz", "manage": False, "as": "environment"},
}
#: The same of a store for static files.
PUSH = {
    "s3": {"kind": "s3", "bucket": "xqz", "key": "x", "secret": "x" * 20},
    "rsync": {"kind": "rsync", "host": "xqz", "path": "/xqz", "ssh_key": "sdb://xqz", "known_hosts": []},
}
#: The same of a store for copies.
OFFSITE = {"password": "x" * 20, "recipients": ["age1" + "q" * 58]}
BY_SSH = {
    "host": "xqz",
    "user": "xqz",
    "ssh_key": "sdb://xqz",
    "known_hosts": [f"xqz {KNOWN_HOST.removeprefix('qzx ')}"],
}
STORES = {
    "s3": {**OFFSITE, "kind": "s3", "bucket": "xqz", "key": "x", "secret": "x" * 20},
    "rclone": {**OFFSITE, "kind": "rclone", **BY_SSH},
    "sftp": {**OFFSITE, "kind": "sftp", "path": "/xqz", **BY_SSH},
}
ARCHIVE = {"kind": "s3", "bucket": "xqz", "key": "x", "secret": "x" * 20, "password": "x" * 20}
SERVER = {"engine": "postgres", "name": "xqz", "manage": False}
#: What has to be said within the same queue or cache: `memory` and `sync` are of a server of the site's own.
STORE = {name: {"engine": "redis"} for name in ("memory", "sync", "engine")}
ELSEWHERE = {"engine": "redis", "host": "redis1", "password": "x", "tls": True}
#: What a value that is needed as well has to be, where it is not the first that does.
NEEDED = {
    ("environment", "*=", "from"): "domains",
    ("releases", "canary", "steps", "*="): "5m",
    ("push", "keys", "*=", "key"): KNOWN_HOST.removeprefix("qzx "),
}
SECRET = "some-secret"
#: How the files of an instance are read, by the last part of their name.
READERS: dict[str, Any] = {
    ".service": read_unit,
    ".socket": read_unit,
    ".ini": read_ini,
    ".json": read_json,
    ".conf": read_nginx,
    ".sh": read_script,
}

Place = tuple[str, ...]


@functools.cache
def rules_of_pillars() -> dict[str, Any]:
    schema = contract("schema.yaml")
    rules: dict[str, Any] = check.resolve(schema, schema)
    return rules


def site_rules() -> dict[str, Any]:
    rules: dict[str, Any] = rules_of_pillars()["properties"]["django"]["properties"]["defaults"]
    return rules


def places(rules: dict[str, Any], path: Place = ()) -> Iterator[Place]:
    """Every place below some rules that takes a string; `*` is a name that the operator chooses, `0` an item.

    A path that ends in `*` is the name itself, one that ends in `*=` is the value of such a name; `kind=gunicorn` is
    what holds besides for that kind of server or proxy.
    """
    if "string" in rules.get("type", ["string"]):
        yield path
    for name, inner in rules.get("properties", {}).items():
        yield from places(inner, (*path, name))
    if rules.get("propertyNames"):
        yield (*path, "*")
    if isinstance(rules.get("additionalProperties"), dict):
        yield from places(rules["additionalProperties"], (*path, "*="))
    if "items" in rules:
        yield from places(rules["items"], (*path, "0"))
    for kind, inner in rules.get("kinds", {}).items():
        if {"propertyNames", "additionalProperties"} & {*inner}:
            yield from places({**rules, "kinds": {}, **inner}, (*path, f"kind={kind}"))


#: What only a site with `hosts` has reaches the balancer alone: test/engine/balancer/test_plan.py.
OF_FLEETS = {"hosts", "fleet", "balancer"}
PLACES = [path for path in places(site_rules()) if path and path[0] not in OF_FLEETS]


def rules_of(path: Place) -> dict[str, Any]:
    rules = site_rules()
    for step in path:
        if step == "*":
            rules = rules["propertyNames"]
        elif step == "*=":
            rules = rules["additionalProperties"]
        elif step.startswith("kind="):
            rules = {**rules, **rules["kinds"][step.removeprefix("kind=")]}
        else:
            rules = rules["items"] if step == "0" else rules["properties"][step]
    return rules


def accepts(path: Place, value: str) -> bool:
    return not check.check(value, rules_of(path))


def harmless(path: Place, similar_to: str = "") -> str | None:
    """A value that a place takes; None where it takes none that could be told from others, such as one of a list.

    An absolute path is compared with an absolute one, where both are taken.
    """
    alike = sorted(HARMLESS, key=lambda value: value.startswith("/") is not similar_to.startswith("/"))
    return next((value for value in alike if accepts(path, value)), None)


def some_name(path: Place) -> str:
    """A name for which a map takes a value."""
    rules = rules_of((*path, "*")) if rules_of(path).get("propertyNames") else {}
    names = ["some_name", "some-name", "SOME_NAME", "SomeName", "/some-name/", "192.0.2.1:80", "10%"]
    return next(name for name in [*names, *rules.get("enum", [])[-1:]] if not check.check(name, rules))


def options(path: Place, value: str) -> dict[str, Any]:
    """The options of a site that have a value at a place."""
    built: Any = value
    for depth in reversed(range(len(path))):
        step, above = path[depth], path[:depth]
        if step == "0":
            built = [built]
        elif step == "*":
            servers = {("databases",): SERVER, ("caches",): {"engine": "redis"}}
            built = {value: servers.get(above) or needed((*above, "*="))}
        elif step == "*=":
            built = {some_name(above): built}
        elif not step.startswith("kind="):
            siblings = {
                name: needed((*above, name)) for name in rules_of(above).get("required", []) if above and name != step
            }
            if above == ("tls", "eab"):
                siblings = {"key_id": "x", "key": "x"}
            if above in (("database",), ("databases", "*=")):
                siblings = DATABASE.get(step, SERVER)
            if above in (("queue",), ("cache",), ("caches", "*=")):
                siblings = STORE.get(step, ELSEWHERE)
            siblings = store(above, step) or siblings
            built = {**siblings, step: built}
    said: dict[str, Any] = {"database": {"engine": "postgres"}} if path[:2] == ("backup", "points") else {}
    for start, more in TOGETHER.items():
        if path[0] == start:
            said |= more
    merged = built if path[0] not in said else {path[0]: said[path[0]] | built[path[0]]}
    for step in path:
        if step.startswith("kind="):
            merged[path[0]]["kind"] = step.removeprefix("kind=")
    return {**said, **merged}


def store(above: Place, step: str) -> dict[str, Any]:
    """What a store elsewhere needs besides an option of it; nothing for other maps."""
    if above == ("static", "push"):
        return PUSH["rsync" if step in PUSH["rsync"] or step == "user" else "s3"]
    if above == ("backup", "offsite"):
        return STORES["rclone" if step in (*BY_SSH, "port") else "sftp" if step == "path" else "s3"]
    return ARCHIVE if above == ("backup", "points") else {}


def needed(path: Place) -> Any:
    """Some value that a place takes."""
    rules = rules_of(path)
    if path in NEEDED:
        return NEEDED[path]
    if "enum" in rules:
        return rules["enum"][0]
    if "object" in rules.get("type", ()) and rules.get("oneOf"):
        name = next(choice["required"][0] for choice in rules["oneOf"] if "required" in choice)
        return {name: needed((*path, name))}
    return next(value for value in ("x", True, 5, "/x", "x" * 20, {}, []) if not check.check(value, rules))


def sites(path: Place, values: list[str]) -> dict[str, dict[str, Any]]:
    """A site for each value, which has it at a place; the sites contradict each other nowhere."""
    made = {}
    for number, value in enumerate(values):
        name = f"site-{number}"
        domains = [f"{name}.example.org", f"www.{name}.example.org"]
        made[name] = {**three_keys(name), "domains": domains, **options(path, value)}
        push = made[name].get("static", {}).get("push", {})
        if push.get("kind") == "rsync":
            push |= {"path": value if path[-1] == "path" else f"/srv/static/{name}"}
            push |= {"known_hosts": push["known_hosts"] or [KNOWN_HOST.replace("qzx", "xqz")]}
        if path[0] == "folder":
            del made[name]["repository"], made[name]["revision"]
    return made


def judged(path: Place, values: list[str]) -> tuple[dict[str, Site], dict[str, list[str]]]:
    """The values that a place takes, each with its site, and the errors of the others."""
    pillar = sites(path, values)
    accepted: dict[str, Site] = {}
    refused: dict[str, list[str]] = {}
    if path[:2] == ("backup", "points"):  # sites of one host have one archive
        errors = [line for name, one in pillar.items() for line in compiled({name: one})["errors"]]
        result = {"errors": errors or ["each is another archive"]}
    else:
        result = compiled(pillar)
    for name, value in zip(pillar, values, strict=True):
        lines = [line for line in result["errors"] if line.startswith(f"django:sites:{name}:")]
        if lines:
            refused[value] = [line.removeprefix(f"django:sites:{name}:") for line in lines]
    good = {name: value for name, value in zip(pillar, values, strict=True) if value not in refused}
    together = compiled({name: pillar[name] for name in good}) if result["errors"] else result
    for name, value in good.items():
        known = compiled({name: pillar[name]}) if together["errors"] else together
        assert known["errors"] == []
        accepted[value] = Site(known["sites"][name], known["platform"])
    return accepted, refused


def parsed(site: Site, path: Place, value: str) -> dict[str, Any]:
    """Every file of a site that has a value at a place, as the program reads it that the file is for."""
    release = site.releases / "0042-3f2a9c1b77de"
    said = {"settings_module": site.config["settings_module"], "application": site.config["wsgi"]}
    facts = FACTS | {key: value for key, value in said.items() if value}
    facts["folder"] = site.config["project"] or "."
    said = {entry["source"] for entry in site.config["files"].values() if "source" in entry}
    templates = formula_templates() | dict.fromkeys(said, "{{ site.name }}\n")
    secret = value if rules_of(path).get("secret") and path[0] != "deploy_key" else SECRET
    deploy_key = value.strip() if path[0] == "deploy_key" else SECRET
    secrets = dict.fromkeys(secret_secrets.configured(site), secret)
    plain = settings.environment(site, release, facts)
    hidden = settings.secret_environment(site, secrets, [])
    files: dict[str, Any] = {
        "environment": read_environment(environment_files.environment_file(plain)),
        "secrets": read_environment(environment_files.environment_file(hidden)),
        "settings.json": read_json(settings.overlay(site, release, facts["settings_module"])),
        "tmpfiles": site._tmpfiles(site.current),
        "ssh": [path.name + text for path, text, _mode in mirror.ssh_files(site, deploy_key)],
        "inputs": sorted(Deployment(site, {}, templates).inputs()),
    }
    files["dotenv"] = dict(dotenv.dotenv_values(stream=io.StringIO(environment_files.dotenv_file(hidden))))
    for name, text in settings.project_files(site, templates, plain | hidden).items():
        files[f"source/{name}"] = text
    files["site.json"] = read_json(json.dumps(site.config))
    for kept in (site, Site({**site.config, "process": "supervisor"}, site.platform)):
        for name, text in instances.configuration(kept, release, facts, templates).items():
            if text in templates.values():
                continue  # a program, the same for every site
            own_readers = {f"django-{site.name}-0042.conf": read_program, "mod_wsgi.conf": read_apache}
            reader = own_readers.get(name, READERS[Path(name).suffix])
            files[name if kept is site else f"supervised {name}"] = reader(text)
    for kept in (site, Site({**site.config, "process": "supervisor"}, site.platform)):
        for kind, server in stores.own_servers(kept):
            for file, text in service.server_files(kind, server, templates).items():
                own_readers = {str(PROGRAMS): read_program, str(server.configuration.parent): str.splitlines}
                reader = read_script if file.suffix == ".sh" else own_readers.get(str(file.parent), read_unit)
                files[str(file)] = reader(text)
    listened = Site({**site.config, "listener": "127.0.0.1:8000"}, site.platform)
    for file, content in listener.listener_units(listened, templates).items():
        files[f"listener {file.suffix}"] = read_unit(content or "")
    for kind, reader in (("nginx", read_nginx), ("apache", read_apache)):
        served = Site({**site.config, "proxy": {**site.config["proxy"], "kind": kind}}, site.platform)
        for file, content in site_files.files_of_site(served, facts, templates).items():
            if content is not None:
                file = re.sub(r"/\d{3}-(?=[^/]+$)", "/by-length-", str(file))
                files[file] = content if content.startswith("-> ") else reader(content)
                files[f"variables of {file}"] = re.findall(r"\$[{\w]+", content)
    return files


def replaced(value: Any, *pairs: tuple[str, str]) -> Any:
    """A structure with some texts instead of others, one pair after the other, wherever they stand."""
    kind = type(value)
    if kind is str:
        for old, new in pairs:
            value = value.replace(old, new)
        return value
    if kind is dict:
        return {replaced(name, *pairs): replaced(item, *pairs) for name, item in value.items()}
    if kind is list or kind is tuple:
        return kind([replaced(item, *pairs) for item in value])
    return value


@pytest.fixture(autouse=True)
def any_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uwsgi, "_binary", lambda virtualenv: virtualenv / "bin/python")
    monkeypatch.setattr(proc, "total_memory", lambda: 16 << 30)
    monkeypatch.setattr(secret_secrets, "store_password", lambda _site: "5e" * 32)
    monkeypatch.setattr(nginx, "ETC", tmp_path / "etc/nginx")
    monkeypatch.setattr(nginx, "version", lambda: (1, 22, 1))
    monkeypatch.setattr(nginx, "shared_variable", lambda purpose, *_values: f"django_{purpose}")
    monkeypatch.setattr(apache, "ETC", tmp_path / "etc/apache2")
    resolved = rules_of_pillars()  # which takes as long as the rest for a small pillar
    monkeypatch.setattr(compiler, "resolve", lambda rules, schema: resolved)


@pytest.mark.parametrize("forms", ["one of each", pytest.param("all", marks=pytest.mark.full)])
@pytest.mark.parametrize("path", PLACES, ids=":".join)
def test_a_string(path: Place, forms: str) -> None:
    """By default a sixth of the texts, each alone, after or before a harmless one, in turn and from place to place."""
    good = harmless(path)
    values = [[nasty, *([good + nasty, nasty + good] if good else [])] for nasty in NASTY.values()]
    if forms != "all":
        round_, first = divmod(PLACES.index(path), 6)
        values = [[one[(turn + round_) % len(one)]] for turn, one in enumerate(values)][first::6]
    values = list(dict.fromkeys(itertools.chain.from_iterable(values)))
    accepted, refused = judged(path, values)
    assert len(accepted) + len(refused) == len(values)
    for value, lines in refused.items():
        check_refusal(path, value, lines)
    if good is None:
        assert all(re.fullmatch("[A-Za-z0-9%.:-]*", value) for value in accepted), list(accepted)
        return
    goods = {value: harmless(path, value) or "" for value in accepted}
    baseline, _ = judged(path, sorted({*goods.values()}))
    expected = {good: (site.name, parsed(site, path, good)) for good, site in baseline.items()}
    texts = {good: spelled(files) for good, (_name, files) in expected.items()}
    for value, site in accepted.items():
        good = goods[value]
        check_accepted(path, good, *expected[good], texts[good], value, site)


def spelled(value: Any) -> str:
    """A structure as a text that is compared quickly: each letter is spelled in one way, wherever it stands."""
    return json.dumps(value, ensure_ascii=False)


def check_refusal(path: Place, value: str, lines: list[str]) -> None:
    """The error names the place, in one line that shows little of the value."""
    literal = list(itertools.takewhile(lambda step: not step.startswith(("*", "kind=")) and step != "0", path))
    assert any(line.startswith(":".join(literal)) for line in lines), (value[:80], lines)
    assert all(line.isprintable() and len(line) < 1000 for line in lines), lines


def check_accepted(path: Place, good: str, name: str, files: Any, text: str, value: str, site: Site) -> None:
    """The files of a value are those of the harmless one, with the one instead of the other."""
    try:
        found = parsed(site, path, value)
    except DeploymentError as error:
        assert "cannot be written to a .env file" in error.message
        return
    new = value.strip() if path[0] == "deploy_key" else value
    variables = (name.replace("-", "_"), site.name.replace("-", "_"))
    addresses = (layers.loopback(name), layers.loopback(site.name))
    # A header's name becomes a variable of WSGI.
    in_wsgi = tuple(f"HTTP_{one.upper().replace('-', '_')}" for one in (good, new))
    pairs = ((name, site.name), variables, addresses, in_wsgi, (good, new))
    for pair in pairs:
        text = text.replace(*(spelled(one)[1:-1] for one in pair))
    if text == spelled(found):
        return
    wanted = replaced(files, *pairs)
    for kind in (found, wanted):
        for name in ("uwsgi.ini", "supervised uwsgi.ini"):
            kind.get(name, []).sort()
        for name in ("mod_wsgi.conf", "supervised mod_wsgi.conf"):
            for words in kind.get(name, []):
                words.sort()
    assert found == wanted, (value[:80], difference(found, wanted))


def difference(found: Any, wanted: Any) -> Any:
    """The first place in which two structures differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in {*found, *wanted}:
            if found.get(name) != wanted.get(name):
                return name, difference(found.get(name), wanted.get(name))
    if isinstance(found, list) and isinstance(wanted, list):
        for one, other in itertools.zip_longest(found, wanted):
            if one != other:
                return difference(one, other)
    return found, wanted
