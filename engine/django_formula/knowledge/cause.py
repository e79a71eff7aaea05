"""Known causes of failures of a site's programs, and what cures each.

Every place that reports a failure asks for its hint: builds, starts of Django, commands of the project, the health
check. A new cause is a new row in `knowledge.yaml` and a case in ``test/engine/causes.yaml``; it is a function here or
next to it only where the cure is found in the site, such as the folder of a file. Why texts are matched:
docs/decisions/0058.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from django_formula.knowledge import cause_file, cause_package, cause_repository, hints, node, python_versions
from django_formula.knowledge.rows import rows
from django_formula.site import build
from django_formula.site.sites import Site

#: How clients report that they do not reach Redis, Memcached, or a broker of Celery.
_REDIS = re.compile(r"Error -?\d+ (?:while )?connecting to (?P<at>[\w.-]+:\d+)\b")
_MEMCACHED = re.compile(r"pymemcache[\s\S]{0,2000}(Connection refused|Name or service not known|name resolution)")
_BROKER = re.compile(r"kombu\.exceptions\.OperationalError: (\[Errno -?\d+\]|Error -?\d+)|consumer: Cannot connect to ")
_OF_CACHE = re.compile(r"django_redis|django/core/cache|django\.core\.cache")
#: How npm, Vite, yarn and pnpm report the versions of Node.js that a package is for.
_NODE = re.compile(
    r"(?:Required: +\{[^}\n]*\"node\": *\"|requires Node\.js version |engine \"node\" is incompatible with this "
    r"module\. Expected version \"|Your Node version is incompatible with [^\n]*\s+Expected version: )"
    r"([\d.x+<>=^~| or-]*[\dx]\+?)"
)
#: What a program reports where migrations are not committed → the hint, and the application that they are made for.
_UNCOMMITTED = (
    (
        r"Dependency on app with no migrations: (\w+)",
        "no migrations are committed for {0}: run manage.py makemigrations {0} in the project, and commit what it "
        "writes; or have a release make the first ones",
        "{0}",
    ),
    (
        r"(?:[Cc]olumn |no such column: |no column named )[\"']?([a-zA-Z_][\w.]*)[\"']?"
        r"(?: of relation \"\w+\")?(?: does not exist| in '|$|\n| \()",
        "the database has no column {0}: commit the migration that adds it, which manage.py makemigrations writes; or, "
        "until it is committed, have a release make it",
        "",
    ),
)
#: A word of a row's text that is replaced, or a group of its pattern.
_WORD = re.compile(r"\{(\w+)\}")


class Failure(NamedTuple):
    """What a program of a site reported: the end of its output, and all of it, the release's facts, who ran it."""

    site: Site
    text: str
    whole: str
    facts: Mapping[str, Any]
    building: bool


def hint(site: Site, text: str, facts: Mapping[str, Any] | None = None, *, building: bool = False) -> str:
    """Return what cures the cause that an exception or the output of a failed program names; empty if it is not known.

    Call it wherever a message is made of what a program of a site reported, with the exception and the lines before
    it, and use its result instead of a general hint.

    Args:
        text: the exception, or the last lines of the output; secrets are masked already.
        facts: those of the release, which have its databases.
        building: whether the build user's program failed, whose sandbox is another.
    """
    failure = Failure(site, hints.bounded(text), text, facts or {}, building)
    return next(filter(None, (cause(failure) for cause in _CAUSES)), "")


def _of_rows_of_site(failure: Failure) -> str:
    own = (failure.site.config.get("knowledge") or {}).get("causes") or {}
    return _of(failure, own.values())


def _of_rows(failure: Failure) -> str:
    return _of(failure, rows("causes"))


def _of(failure: Failure, causes: Iterable[Mapping[str, Any]]) -> str:
    """Return the cure of the first row that matches."""
    when = "build" if failure.building else "start"
    for row in causes:
        found = re.search(row["match"], failure.text) if (row.get("at") or when) == when else None
        if found:
            return _cure(failure, row, found)
    return ""


def _cure(failure: Failure, row: Mapping[str, Any], found: re.Match[str]) -> str:
    site, at = failure.site, failure.site.at
    words = {"at": at, "python": site.python, "user": site.user, "where": f"{at}:environment", "index": ""}
    words |= {"site": site.name, "again": site.to_release(), "in_build": ""}
    words["database"] = site.config["databases"].get("default", {}).get("name") or "DATABASE"
    if failure.building:
        words |= {"user": site.build_user, "where": "Salt's environment", "in_build": ", with build: true"}
        words["index"] = f", or {at}:index:url to an index that it reaches"
    words |= {str(number): group or "" for number, group in enumerate(found.groups(), 1)}
    options, supported = row.get("set") or {}, _filled(row.get("python") or "", words)
    version = python_versions.suggested(supported) if supported and not site.config.get("container") else ""
    cure = _set(site, _filled({**options, **({"python": version} if version else {})}, words))
    if supported and not version and not options:
        cure = hints.Hint(f"set {at}:python to a version that the packages support")
    words["set"] = cure
    text = row["say"] if "{set}" in row["say"] or not cure else f"{row['say']}: {{set}}"
    return hints.Hint(_filled(text, words), cure)


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    """Return a value with words and groups in its texts."""
    if isinstance(value, dict):
        return {_filled(key, words): _filled(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, words) for inner in value]
    return _WORD.sub(lambda word: words.get(word[1], word[0]), value) if isinstance(value, str) else value


def _set(site: Site, options: Mapping[str, Any]) -> hints.Hint:
    """Return options of a site to paste; a list has what the pillar has already."""
    whole = {}
    for path, value in options.items():
        present: Any = site.config
        for key in path.split(":"):
            present = present.get(key) or {}
        whole[path] = hints.joined(path, present, value) if isinstance(value, list) else value
    parts = [f"{site.at}:{path}: {hints.flow(value)}" for path, value in whole.items()]
    return hints.Hint(f"set {' and '.join(parts)}" if parts else "", whole)


def _of_node(failure: Failure) -> str:
    """Return the Node.js that a front end is built with where that of Debian is too old for it."""
    site, found = failure.site, _NODE.search(failure.text)
    if not found:
        return ""
    cure = hints.extended(site, "python_packages", [node.wheel(found[1].replace(" or ", "||"))])
    text = (
        f"the build needs Node.js {found[1]}, which Debian does not have: set {cure}, and take npm out of "
        f"{site.at}:packages"
    )
    return hints.Hint(text, cure, {"packages": [name for name in site.config["packages"] if name != "npm"]})


def _of_migrations(failure: Failure) -> str:
    """Return how a project comes by migrations that are not committed."""
    site = failure.site
    for pattern, cure, label in _UNCOMMITTED:
        found = re.search(pattern, failure.text)
        if found:
            secrets = [name for name, secret in site.config["secrets"].items() if secret["as"] == "variable"]
            environment = site.config["environment"]
            module = site.config["settings_module"] or failure.facts.get("settings_module")
            given = {"DJANGO_SETTINGS_MODULE": module, **environment} if module else environment
            command = build.manage(
                f"makemigrations --noinput --skip-checks {label.format(found[1])}".rstrip(), given, secrets
            )
            option = hints.extended(site, "build", [command])
            return hints.Hint(f"{cure.format(found[1])}, by {option}", option)
    return ""


def _of_variable(failure: Failure) -> str:
    """Return the variables of the pillar that a line of code reads which cannot use their value."""
    site, text = failure.site, failure.text
    if not re.search(r"^(\| )?(json\.decoder\.JSONDecodeError|decimal\.\w+|ValueError)\b", text, re.MULTILINE):
        return ""
    read = re.findall(r"""(?:environ|env|config)\S*?[\[(]\s*["'](\w+)["']""", text)
    names = [name for name in dict.fromkeys(read) if isinstance(site.config["environment"].get(name), str)]
    keys = [f"{site.at}:environment:{name}" for name in names]
    empty = [f"{key} is empty" for key, name in zip(keys, names, strict=True) if not site.config["environment"][name]]
    if empty:
        return f"{', '.join(empty)}: set a value that the code can read"
    return f"correct {' or '.join(keys)}, which the code cannot read" if keys else ""


def _of_store(failure: Failure) -> str:
    """Return which store the project needs that the site does not have, or does not use."""
    site, text = failure.site, failure.text
    at, redis = site.at, _REDIS.search(text)
    if _MEMCACHED.search(text):
        return _store(site, "the project does not reach Memcached", "cache", "memcached")
    if redis and _OF_CACHE.search(text):
        return _store(site, f"the project does not reach its cache at {redis['at']}", "cache", "redis")
    if redis and not _BROKER.search(text):
        what = f"the project does not reach Redis at {redis['at']}"
        missing = {"queue": "for tasks and channels", "cache": "for a cache"}
        missing = {key: use for key, use in missing.items() if not site.config.get("caches" if key == "cache" else key)}
        options = ", ".join(f"{at}:{key}: {{engine: redis}} {use}" for key, use in missing.items())
        given = hints.Hint(f"{what}: set {options}", {key: {"engine": "redis"} for key in missing})
        cure = given if missing else _store(site, what, "queue", "redis")
        if not re.match(r"(localhost|127\.0\.0\.1):6379", redis["at"]):
            return cure
        server = hints.extended(site, "packages", ["redis-server"])
        own = f"for a client of its own, {server}, to which all users of this host may connect"
        return hints.Hint(f"{cure}; or, {own}", cure)
    if redis or _BROKER.search(text):
        return _store(site, "Celery does not reach its broker", "queue", "redis")
    return ""


def _store(site: Site, what: str, key: str, engine: str) -> str:
    """Return the hint to set a store; where the site has it, to have the project use it."""
    at, word = site.at, {"queue": "queue_url", "cache": "cache_url"}[key]
    if not site.config.get("caches" if key == "cache" else key):
        return hints.Hint(f"{what}: set {at}:{key}: {{engine: {engine}}}", {key: {"engine": engine}})
    return (
        f"{what}, and does not use the site's {key}: have its settings read the URL from a variable, and set "
        f"{at}:environment: {{NAME_OF_IT: {{from: {word}}}}}"
    )


def _of_compressed_block(failure: Failure) -> str:
    """Return what lets django-compressor find a block that `manage.py compress` has compressed with other content."""
    site, commands = failure.site, failure.site.config["commands"]["after_static"]
    is_missing = re.search(r"OfflineGenerationError|missing from offline manifest", failure.text)
    if not is_missing or not any("compress" in command for command in commands):
        return ""
    if "template tags found" in failure.text:
        return f"no template has a block to compress: take manage.py compress out of {site.at}:commands:after_static"
    return (
        f"a compressed block has variables of the page: set {site.at}:settings: "
        "{COMPRESS_OFFLINE_CONTEXT: [{LANGUAGE_CODE: en}]}, with an entry for all that they may be"
    )


#: What is asked for the cure of a failure, until one knows it.
_CAUSES: tuple[Callable[[Failure], str], ...] = (
    _of_rows_of_site,
    lambda failure: cause_file.of_file_of_pillar(failure.site, failure.text) if failure.building else "",
    lambda failure: cause_file.of_file_of_settings(failure.site, failure.text),
    lambda failure: cause_file.of_database_file(failure.site, failure.text, failure.facts),
    lambda failure: cause_file.of_file(failure.site, failure.text, failure.facts, building=failure.building),
    lambda failure: cause_repository.of_repository(failure.site, failure.text),
    lambda failure: cause_package.of_contradiction(failure.site, failure.text),
    lambda failure: cause_package.of_absent_version(failure.site, failure.text),
    lambda failure: cause_package.of_peers(failure.site, failure.text),
    lambda failure: cause_package.of_packages(failure.site, failure.text),
    lambda failure: cause_package.of_program(failure.site, failure.text),
    _of_compressed_block,
    _of_store,
    _of_node,
    lambda failure: cause_package.of_module(failure.site, failure.text),
    _of_migrations,
    _of_rows,
    _of_variable,
    lambda failure: cause_package.of_unbuilt_package(failure.site, failure.whole),
)
