"""The environment of a project in the pillar: for the variables that its settings read, what the formula knows."""

import ast
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from django_formula.database import engines
from django_formula.inspect import code, imports, layers, python_path, unusable, variables
from django_formula.inspect import settings as inspect_settings
from django_formula.inspect.examples import Example
from django_formula.inspect.readers import HOME
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import UNKNOWN, Called, Method, Value, Variable, plain, truth
from django_formula.knowledge.rows import rows

#: Variables that a release, systemd or the system's linker decides; the pillar takes none of the latter.
OWN = re.compile(
    r"DJANGO_SETTINGS_MODULE|DJANGO_(RELEASE|SITE)|PATH|HOME|PYTHON\w+|LANG|VCAP_\w+|NOTIFY_SOCKET"
    r"|LISTEN_(FDNAMES|FDS|PID|PIDFDID)"
    r"|LD_(AUDIT|ASSUME_KERNEL|BIND_NOT|BIND_NOW|DEBUG|DEBUG_OUTPUT|DYNAMIC_WEAK|HWCAP_MASK|LIBRARY_PATH|ORIGIN_PATH"
    r"|POINTER_GUARD|PREFER_MAP_32BIT_EXEC|PRELOAD|PROFILE|PROFILE_OUTPUT|SHOW_AUXV|TRACE_LOADED_OBJECTS"
    r"|TRACE_PRELINKING|USE_LOAD_BIAS|VERBOSE|WARN)"
)
#: Names of secrets that the project itself may choose, of further passwords, and of what another service issues.
_SECRET = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|SALT|PEPPER|API_?KEY|_KEY$")
_PASS = re.compile(r"(^|_)(PASS|PWD|PASSPHRASE|CREDENTIALS?)(_|$)")
_ISSUED = re.compile(rf"(^|_)({'|'.join(rows('issuers'))})(_|$)")
#: Names of keys that have a form: an empty one ends the settings, and an example shows the form.
_FORMED = re.compile(r"FERNET|ENCRYPT|PRIVATE|VAPID")
#: Names of switches, whatever their values are read as.
_SWITCH = re.compile(r"(^|_)ENABLED?$|^(USE|ENABLE)_")
#: Names of switches that no live site has on, whatever an example has.
_DEBUG = re.compile(r"(\w+_)?DEBUG(_MODE)?")
#: Names of variables for the domain of the site.
_DOMAIN = re.compile(
    r"((\w+_)?(SITE|APP|SERVER|DJANGO|WEB|MAIN|PRIMARY|BASE|ROOT|PUBLIC|DEFAULT|CURRENT|COOKIE|HOST)_)?"
    r"(DOMAIN|DOMAIN_NAME|HOSTNAME|FQDN)"
)
#: Names of variables for the scheme of the site's URLs.
_SCHEME = re.compile(r"((\w+_)?(SITE|APP|SERVER|DJANGO|WEB|BASE|PUBLIC|HOST|DOMAIN|URL|HTTP)_)?(PROTOCOL|SCHEME)")
#: Names of variables for the URL of the site, and values that stand for it.
_URL = re.compile(
    r"(\w+_)?(SITE|APP|SERVER|WEB|BASE|ROOT|PUBLIC|EXTERNAL|CANONICAL|DOMAIN|HOST|INSTANCE|FRONTEND|BACKEND)_"
    r"(URL|URI|ROOT|BASE_URL|ORIGIN)"
)
#: Such a variable of the site itself, which may have a domain only, as that of a developer's own machine.
_HOST = re.compile(r"((DJANGO|APP|SITE|WEB)_)?(SITE|APP|BASE|PUBLIC|EXTERNAL|CANONICAL|DOMAIN|HOST)_(URL|ORIGIN)")
_LOCAL = re.compile(r"localhost|127\.0\.0\.1|0\.0\.0\.0")
_OF_EXAMPLE = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0|([\w-]+\.)*(example\.(com|org|net)|localhost|local))(:\d+)?(?P<end>/?)"
)
#: A domain of a developer's own machine, or of documents.
_EXAMPLE_DOMAIN = re.compile(r"([\w-]+\.)+localhost(:\d+)?|([\w-]+\.)*example\.(com|org|net)")
#: Names of variables for the settings that a project runs with, and values of them that no live site has.
_STAGE = re.compile(r"((DJANGO|APP)_)?(ENV|ENVIRONMENT)")
_OF_DEVELOPMENT = re.compile(r"dev|develop|development|local", re.IGNORECASE)
_OF_LIVE_SITE = ("production", "prod", "live")
#: Names of modules with the settings of a live site, and the variables and texts that are tried to reach one.
_LIVE = re.compile(rf"(^|[._])({code.LIVE_WORDS}|deploy\w*)([._]|$)")
_TRIED = 5
#: Settings with origins, which begin with https://, whatever the variables with them are called.
_ORIGINS = re.compile(r"CORS_ALLOWED_ORIGINS|CORS_ORIGIN_WHITELIST|CSRF_TRUSTED_ORIGINS")
#: Names of variables for the host of a service, words in them → the package of Debian whose server listens there.
_SERVICE = re.compile(
    r"(\w+_)?(REDIS|CACHE|MEMCACHED?|RABBITMQ|BROKER|ELASTIC(SEARCH)?|OPENSEARCH|SOLR)_(\w+_)?HOST(NAME)?"
)
_SERVERS = {"REDIS": "redis-server", "MEMCACHE": "memcached", "RABBITMQ": "rabbitmq-server"}
#: Names of variables for a folder with data.
_FOLDER = re.compile(r"(\w+_)?(DIR|DIRECTORY|FOLDER|UPLOAD_TMP|(STORE|STORAGE|DATA|UPLOADS?|FILES)_PATH)")
#: Names of variables for a file that another service issued.
_PATH = re.compile(
    r"_FILE$|_(FILE|SA|ACCOUNT|KEY|CERT|CERTIFICATE|CREDENTIALS|JSON)_PATH$|^GOOGLE_APPLICATION_CREDENTIALS$"
)
#: Names of variables for the URL of a Redis, which Debian's package serves on this host.
_REDIS = re.compile(r"(\w+_)?REDIS_(URL|URI)|(\w+_)?(CELERY_)?BROKER_(URL|URI)")
#: The URL of a Redis without a login, on a host whose name has no dots.
_OF_REDIS = re.compile(r"^(redis://)[\w-]+(?=:6379/)")
#: A default that has a container of the project's own by its name, and the parts around that.
_OF_CONTAINER = re.compile(r"((?:redis://)?)(?!localhost\b)[a-z][\w-]*((?::\d+)?(?:/\d*)?)")
#: Folders in which everyone may create others, and those of the system.
_OF_ALL = ("/tmp", "/var/tmp", "/dev", "/run", "/proc")  # noqa: S108  # nosec B108 - paths of projects
#: The value of a kind of variable that turns nothing on.
_OFF = {
    **{"bool": "False", "json": "{}", "array": "[]", "pairs": ""},
    **{"cache": "locmemcache://", "dj_cache": "locmem://", "parsed_cache": "locmem://"},
    **dict.fromkeys(("email", "dj_email"), "smtp://localhost:25"),  # as Django has it without a setting
}
#: What a text may be by which a project turns DEBUG off.
_FALSE = ("False", "0", "", "false", "FALSE", "no", "off")
_FILES = "django.core.files.storage.FileSystemStorage"
_STATIC = "django.contrib.staticfiles.storage.StaticFilesStorage"
#: Settings with the name of a class → the one that Django has without them.
_BACKENDS = {
    "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
    **dict.fromkeys(("DEFAULT_FILE_STORAGE", "STORAGES:default"), _FILES),
    **dict.fromkeys(("STATICFILES_STORAGE", "STORAGES:staticfiles"), _STATIC),
}
_CACHE = "django.core.cache.backends.locmem.LocMemCache"
#: Settings of mail → what Django has without them: the mail server of this host.
_MAIL = {
    **{"EMAIL_HOST": "localhost", "EMAIL_PORT": "25", "EMAIL_HOST_USER": "", "EMAIL_HOST_PASSWORD": ""},
    **{"DEFAULT_FROM_EMAIL": "webmaster@localhost", "SERVER_EMAIL": "root@localhost"},
}
#: Names of variables for the URL of the default database; a replica has another one.
_DATABASE_URL = re.compile(
    r"(?!\w*(REPLICA|READ|SECONDARY|LEGACY|TEST|MONGO))(\w+_)?"
    r"(DATABASE_(URL|URI|DSN|SERVER)|DB_(URL|URI|DSN)|POSTGRES(QL)?_(URL|URI|DSN))"
)
#: Names of variables with the words of a database's connection, and beginnings of them on Azure; settings parse these.
_CONNECTION = re.compile(r"(\w+_)?(POSTGRES(QL)?|MYSQL|DATABASE|DB)_?CONN(ECTION)?_?STR(ING)?_?")
_UNUSED_CONNECTION = "dbname=unused host=unused user=unused password=unused"
#: Parts of a database's entry that a database on this host has; it is reached over a socket, without a password.
_DATABASE = {"NAME": {"from": "database_name"}, "USER": {"from": "database_user"}, "PASSWORD": "", "HOST": ""}


class Context(NamedTuple):
    """What is known of a project and its site, in addition to the settings.

    Attributes:
        roots: the folders that the project is imported from.
        settings_module: the settings module.
        application: the WSGI or ASGI module.
        engine: the database that the project is deployed with: ``sqlite``, ``postgres`` or ``mysql``.
        domain: the domain of the site.
        examples: the variables of which the project shows a value.
        stores: the variables with the URL of a queue or a cache → what the pillar gives for each.
    """

    roots: Sequence[Path]
    settings_module: str
    application: str
    engine: str
    domain: str
    examples: Mapping[str, Example]
    stores: Mapping[str, Mapping[str, str]]


@dataclass
class Environment:
    """The variables of a project.

    Attributes:
        environment: variable → its value in the pillar and a comment.
        secrets: the same, for generated ones.
        open: required variables whose values are not known.
        optional: those with a default.
        presence: those that switch something on by being set; they are never written.
    """

    environment: dict[str, tuple[Any, str]] = field(default_factory=dict)
    secrets: dict[str, tuple[Any, str]] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    presence: list[str] = field(default_factory=list)


def read(roots: Sequence[Path], settings_module: str, application: str) -> Settings:
    """Read the settings of a project with DEBUG off, as a release has it, if a variable turns it off.

    Args:
        roots: the folders that it is imported from, the folder of manage.py first.
        settings_module: the settings module.
        application: the WSGI or ASGI module.
    """
    settings = _read(roots, settings_module, {}, application)
    given = {name: text for name, variable in settings.variables.items() if (text := _of_live_site(variable))}
    if given:
        settings = _read(roots, settings_module, given, application)
    chosen = of_live_module(roots, settings_module, application, settings, given)
    if chosen:
        given |= chosen
        settings = _read(roots, settings_module, given, application)
    debug = settings.values.get("DEBUG", Value())
    by_name = sorted(debug.taint, key=lambda name: ("DEBUG" not in name, name))
    names = [name for name in by_name if name in settings.variables and not OWN.fullmatch(name)]
    for name in names:
        if truth(debug) is False and not settings.variables[name].required:
            continue
        for text in _FALSE:
            changed = _read(roots, settings_module, {**given, name: text}, application)
            if changed.get("DEBUG") is not UNKNOWN and not changed.get("DEBUG"):
                return changed
    return settings


def _read(roots: Sequence[Path], settings_module: str, given: Mapping[str, str], application: str) -> Settings:
    """Read the settings; a required variable with the name of a database's URL is one, however they parse it."""
    settings = inspect_settings.read(roots, settings_module, given, application)
    for variable in settings.variables.values():
        is_url = variable.required and re.search(r"_UR[LI]$", variable.name) and _DATABASE_URL.fullmatch(variable.name)
        variable.kind = "database" if is_url and variable.kind == "text" else variable.kind
    return settings


def of_live_module(
    roots: Sequence[Path], settings_module: str, application: str, settings: Settings, given: Mapping[str, str]
) -> dict[str, str]:
    """Return the variable by whose text a settings module takes every name of a further one, for a live site.

    The text is in a condition, or is a part of the further one's name.
    """
    path = python_path.find_module(roots, settings_module)
    nodes = [node for node in ast.walk(code.tree(path)) if isinstance(node, ast.If)] if path else []
    for node in nodes:
        taken = code.star_imports(ast.Module(node.body, []))
        if not any(map(_LIVE.search, taken)) or _takes_live(settings):
            continue
        texts = [getattr(part, "value", "") for part in ast.walk(node.test) if isinstance(part, ast.Constant)]
        texts = [text for text in texts if isinstance(text, str) and text and text not in settings.variables]
        own = [name for name, variable in settings.variables.items() if variable.place.startswith(f"{path}:")]
        for name, text in itertools.product(own[:_TRIED], (texts or ["1"])[:_TRIED]):
            if _takes_live(_read(roots, settings_module, {**given, name: text}, application)):
                return {name: text}
    of_development = [one.name for one in settings.variables.values() if _OF_DEVELOPMENT.fullmatch(one.default)]
    for name, text in itertools.product([] if _takes_live(settings) else of_development[:_TRIED], _OF_LIVE_SITE):
        if _takes_live(_read(roots, settings_module, {**given, name: text}, application)):
            return {name: text}
    return {}


def _takes_live(settings: Settings) -> bool:
    """Return whether one of the modules that settings surely have is for a live site, by its name."""
    return any(_LIVE.search(path.stem) for path in settings.files if path not in settings.perhaps)


def _of_live_site(variable: Variable) -> str:
    """Return the text of a required switch that a live site has by its name: DEBUG is off, PRODUCTION is on."""
    is_on = bool(re.fullmatch(r"(\w+_)?(PROD|PRODUCTION)(_MODE)?", variable.name))
    is_off = bool(_DEBUG.fullmatch(variable.name))
    if not variable.required or variable.kind not in ("int", "bool") or not (is_on or is_off):
        return ""
    return str(int(is_on)) if variable.kind == "int" else str(is_on)


def is_made_up(name: str) -> bool:
    """Return whether a variable is a secret by its name that only the site knows, and no address."""
    is_address = name.endswith(("_URL", "_URI", "_LINK"))
    return bool(_SECRET.search(name)) and not is_address and not _ISSUED.search(name)


def may_be_secret(name: str) -> bool:
    """Return whether a variable may be a secret, or a login of a service, by its name."""
    return bool(_SECRET.search(name) or _ISSUED.search(name) or _PASS.search(name))


def prefixes(settings: Settings) -> list[tuple[str, str]]:
    """Return what the names of variables begin with that settings of any name are taken from, and where it is.

    Settings iterate over the environment, or have it from dynaconf.
    """
    found: dict[str, str] = {}
    for path in settings.files:
        for node in ast.walk(code.tree(path)):
            for prefix in _prefixes(node):
                found.setdefault(prefix, f"{path}:{getattr(node, 'lineno', 1)}")
    return [*found.items()]


def _prefixes(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and code.dotted(node.func).endswith(("Dynaconf", "LazySettings")):
        values = {keyword.arg: getattr(keyword.value, "value", "") for keyword in node.keywords}
        own = next((values[name] for name in ("envvar_prefix", "ENVVAR_PREFIX_FOR_DYNACONF") if name in values), "")
        word = str(own).partition(",")[0].strip().upper()
        if own is False:
            yield ""
        elif re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", word) and own is not None:
            yield f"{word}_"
        elif own is not None:  # that of Django's extension, or the one that counts in each case
            yield "DJANGO_" if code.dotted(node.func).endswith("DjangoDynaconf") else "DYNACONF_"
    yield from variables.prefixes(node)


def required(settings: Settings) -> list[str]:
    """Return the variables without which the settings cannot be imported."""
    found = [variable for variable in settings.variables.values() if variable.required]
    return sorted(variable.name for variable in found if not OWN.fullmatch(variable.name))


def of(settings: Settings, context: Context) -> Environment:
    """Return what the pillar gives for the variables that settings read."""
    result = Environment()
    examples = context.examples
    secret_key = settings.values.get("SECRET_KEY", Value()).content
    if settings.configuration:
        comment = f"a class of {context.settings_module}, by django-configurations"
        result.environment["DJANGO_CONFIGURATION"] = (settings.configuration, comment)
    found = [(prefix, place) for prefix, place in prefixes(settings) if not _CONNECTION.fullmatch(prefix)]
    for prefix, place in found if "SECRET_KEY" not in settings.sources else ():
        if secret_key in ("", None, UNKNOWN) or isinstance(secret_key, Called | Method):
            text = f"{prefix}* are settings" if prefix else "variables are settings"
            result.environment[f"{prefix}SECRET_KEY"] = ({"from": "secret_key"}, f"{place}: {text}")
    for prefix, place in prefixes(settings):
        if _CONNECTION.fullmatch(prefix):
            result.environment[f"{prefix}default"] = (_UNUSED_CONNECTION, f"{place}: `database` replaces it")
    for name, live, place in layers.switches(settings, context.roots):
        if not OWN.fullmatch(name):
            result.environment.setdefault(name, (live, f"{place} has settings for {live}; else those for development"))
    for name in {*context.stores} - {*settings.variables}:
        result.environment[name] = (context.stores[name], "Celery has another form of URL than clients of Redis")
    for variable in sorted(settings.variables.values(), key=lambda one: one.name):
        name, place = variable.name, variable.place
        if OWN.fullmatch(name) or (name == "DJANGO_CONFIGURATION" and settings.configuration):
            continue
        known = context.stores.get(name) or _known(settings, variable, context)
        known = settings.given.get(name) if known is None else known
        if known is None and variable.required and variable.accepted:
            known = _accepted(variable, examples)
        if known == {"from": "database_url"} and not _is_url_of_default(settings, name):
            place = f"{place}: of a further database, here the same one; replace it if that is another"
        if known is not None and not variable.required and (setting := _without_scheme(settings, name)):
            place = f"{place}: {setting} would have {variable.default!r}, which is no origin"
        cookies = [
            setting for setting in unusable.COOKIE_DOMAINS if settings.values.get(setting, Value()).source == name
        ]
        if known is None and cookies and unusable.is_of_others(variable.default, context.domain):
            known, place = context.domain, f"{place}: {variable.default} by default, of which no browser takes a cookie"
        if known == "" and variable.filled:
            known, place = _filled(settings, variable)
        if name in settings.set_by_application:
            given = settings.set_by_application[name]  # workers and commands of manage.py do not import that module
            result.environment[name] = (given, f"set by {context.application}")
        elif known is None and _is_another_domain(variable, context.domain):
            result.environment[name] = (context.domain, f"{place}: {variable.default} by default")
        elif known is None and (url := _url(variable, context.domain)):
            result.environment[name] = (url, f"{place}: https with a certificate")
        elif known is None and _is_in_home(variable):
            result.environment[name] = ({"from": "shared"}, f"{place}: in the home that the site's user does not have")
        elif known is None and _is_made_elsewhere(settings, variable, context.roots):
            word = "static_root" if name in settings.sources.get("STATIC_ROOT", {}) else "shared"
            result.environment[name] = ({"from": word}, f"{place}: the settings create {variable.default}")
        elif known is None and variable.required and _SCHEME.fullmatch(name):
            result.environment[name] = ("http", f"{place}: https with a certificate")
        elif known is not None:
            result.environment[name] = (known, place)
        elif application := _refusing_none(settings, variable):
            result.environment[name] = ("", f"{place}: set it, {application} refuses None")
            result.open.append(name)
        elif variable.required and variable.kind == "text" and is_made_up(name):
            comment = f"{place}: if another service issued it, give that value instead"
            result.secrets[name] = ({"generate": 50}, comment)
        elif variable.required and variable.kind == "int" and _SWITCH.search(name):
            result.environment[name] = ("0", f"{place}: required; this turns nothing on")
        elif variable.required and variable.kind in _OFF:
            result.environment[name] = (_OFF[variable.kind], f"{place}: required; this turns nothing on")
        elif variable.required and name in examples and not _is_public_token(name):
            value = _OF_REDIS.sub(r"\1localhost", examples[name].value)  # a container of the example
            own = context.domain if _EXAMPLE_DOMAIN.fullmatch(value) else ""
            if _DEBUG.fullmatch(name) and re.fullmatch(r"1|true|yes|on", value, re.IGNORECASE):
                own = "0" if value == "1" else "False"
            own = "production" if _STAGE.fullmatch(name) and _OF_DEVELOPMENT.fullmatch(value) else own
            result.environment[name] = (own or value, place if own else f"{place}: as in {examples[name].place}")
        elif variable.required:
            kinds = {"int": "a number", "list": "a list, separated by commas", "parsed_json": "JSON"}
            kind = kinds.get(variable.kind, "the path of a file" if _PATH.search(name) else "")
            result.environment[name] = ("", f"{place}: set it{f' to {kind}' if kind else ''}, it has no default")
            result.open.append(name)
        else:
            (result.optional if variable.is_read else result.presence).append(name)
    return result


def _is_another_domain(variable: Variable, domain: str) -> bool:
    """Return whether the site's own domain is by default that of another site, or of a developer's own machine."""
    is_local = _HOST.fullmatch(variable.name) and _LOCAL.fullmatch(variable.default)
    return bool(is_local or (_DOMAIN.fullmatch(variable.name) and unusable.is_of_others(variable.default, domain)))


def _accepted(variable: Variable, examples: Mapping[str, Example]) -> str:
    """Return one of the texts that the settings accept: that of a live site, or that of an example, or the first."""
    live = [text for text in variable.accepted if re.match(r"prod|live", text, re.IGNORECASE)]
    shown = [text for text in variable.accepted if variable.name in examples and examples[variable.name].value == text]
    return [*live, *shown, *variable.accepted][0]


def _filled(settings: Settings, variable: Variable) -> tuple[str | None, str]:
    """Return what a variable is set to whose empty value would do and is refused, and a comment.

    That is None for the password of a mail server: with one Django logs in there.
    """
    if "EMAIL_HOST_PASSWORD" in (setting for setting, how in settings.sources.items() if variable.name in how):
        return None, variable.place
    is_of_database = variable.name in {value.source for value in default_database(settings).values()}
    why = "; `database` replaces it" if is_of_database else ""
    return "unused", f"{variable.place}: the settings refuse an empty one{why}"


def server_on_this_host(name: str, value: Any) -> str:
    """Return the Debian package of the server that a variable names on this host, by its host or URL; else empty."""
    if value == "localhost" and _SERVICE.fullmatch(name):
        return next((package for word, package in _SERVERS.items() if word in name), "")
    return _SERVERS["REDIS"] if re.match(r"redis://localhost(:6379)?(/|$)", str(value)) else ""


def _is_public_token(name: str) -> bool:
    """Return whether the value of a variable in an example is another's: a secret that a service has issued."""
    return bool(_SECRET.search(name) and _ISSUED.search(name)) and not _FORMED.search(name)


def _is_in_home(variable: Variable) -> bool:
    """Return whether the default of a variable is a folder in the home of the site's user, which has none."""
    top = re.escape(str(HOME))
    return not variable.required and bool(re.fullmatch(rf"(~|{top})(/\.?[^./]+)+/?", variable.default))


def _is_made_elsewhere(settings: Settings, variable: Variable, roots: Sequence[Path]) -> bool:
    """Return whether the settings create the folder that a variable has by default, where a site may not write."""
    path = PurePosixPath(variable.default)
    is_made = path.is_absolute() and settings.written.get(path) == "folder"
    return is_made and not any(path.is_relative_to(one) for one in (*map(str, roots), *_OF_ALL))


def _url(variable: Variable, domain: str) -> str:
    """Return the URL of the site for a variable that has none, or one of this host; empty for other variables."""
    found = _OF_EXAMPLE.fullmatch(variable.default)
    if not _URL.fullmatch(variable.name) or not (found or (variable.required and variable.name.endswith("_URL"))):
        return ""
    return f"http://{domain}{found['end'] if found else ''}"


def _is_url_of_default(settings: Settings, name: str) -> bool:
    """Return whether a variable has the URL of the site's own database."""
    return bool(_is_of_database(settings, name) or _DATABASE_URL.fullmatch(name))


def _known(settings: Settings, variable: Variable, context: Context) -> Any:
    """Return the value of a variable that the formula knows; None for others."""
    name = variable.name
    forms = {setting: how[name] for setting, how in settings.sources.items() if name in how}
    ways = settings.sources.get("SECRET_KEY", {}).values()
    way = forms.get("SECRET_KEY")
    if way == "file" and (variable.required or {*ways} == {"file"}):
        return {"from": "secret_key_file"}
    if way is not None and way != "file":
        return {"from": "secret_key"}
    if forms.get("SECRET_KEY_FALLBACKS", "").startswith("list:"):
        return _joined("secret_key_fallbacks", forms["SECRET_KEY_FALLBACKS"])
    if variable.kind == "database" and (variable.required or _is_url_of_default(settings, name)):
        return {"from": "database_url"}
    if backend := _backend(settings, variable, forms):
        return backend
    if "MEDIA_ROOT" in forms and _makes_folders(settings, name):
        return {"from": "media_root"}
    if variable.kind == "parsed_cache" and _REDIS.fullmatch(name):
        return "redis://localhost:6379/0"
    if server := _without_container(settings, variable, context.roots):
        return server
    if not variable.required and _without_scheme(settings, name):
        return f"https://{context.domain}"
    is_for_origins = "ALLOWED_HOSTS" in forms and name in settings.values.get("CSRF_TRUSTED_ORIGINS", Value()).taint
    if name.endswith("ADMIN_URL") and any(
        value.source == name and value.content is None for value in settings.values.values()
    ):
        return "admin/"  # no urls module takes None
    if variable.required or is_for_origins:
        return _required(settings, name, forms, context)
    if context.engine != "sqlite" and _is_in_another_text(settings, name):
        part = next((value.content for value in default_database(settings).values() if value.source == name), None)
        known = _of_database(settings, name, context.engine)
        return None if part is not None and known == str(part) else known
    return None


def _without_container(settings: Settings, variable: Variable, roots: Sequence[Path]) -> str:
    """Return the default of a variable with this host in place of a container, where code asks for its setting."""
    container = _OF_CONTAINER.fullmatch(variable.default)
    is_service = _SERVICE.fullmatch(variable.name) or _REDIS.fullmatch(variable.name)
    if variable.required or not container or not is_service:
        return ""
    names = [setting for setting, value in settings.values.items() if value.source == variable.name]
    asked = re.compile(rf"\bsettings\.({'|'.join(map(re.escape, names))})\b")
    paths = imports.imported(roots, settings) if names else ()
    is_asked = any(asked.search(code.read(path)) for path in paths)
    return f"{container[1]}localhost{container[2]}" if is_asked else ""


def _without_scheme(settings: Settings, name: str) -> str:
    """Return the setting with origins that has a text without ``://`` by a variable's default; a check refuses it."""
    for setting, value in settings.values.items():
        is_it = _ORIGINS.fullmatch(setting) and value.taint == {name} and isinstance(value.content, list)
        if is_it and any(isinstance(text, str) and "://" not in text for text in plain(value)):
            return setting
    return ""


def _is_of_database(settings: Settings, name: str) -> bool:
    """Return whether the default database, or all of them, are taken from a variable."""
    databases = settings.values.get("DATABASES", Value())
    entries = databases.content if isinstance(databases.content, dict) else {}
    return name in settings.sources.get("DATABASES", {}) or entries.get("default", Value()).source == name


def _is_in_another_text(settings: Settings, name: str) -> bool:
    """Return whether a setting with a text, such as a URL of Celery's results, is made of a variable and others."""
    return any(
        name in value.taint and value.source != name and len(value.taint) > 1
        for value in settings.values.values()
        if value.content is UNKNOWN or isinstance(value.content, str)
    )


def _backend(settings: Settings, variable: Variable, forms: dict[str, str]) -> str:
    """Return Django's own class for a setting that is None without its variable, or raises: Django imports neither."""
    storages = settings.values.get("STORAGES", Value()).content
    entries = storages.items() if isinstance(storages, dict) else ()
    found = [(_BACKENDS.get(setting, ""), settings.values.get(setting, Value(""))) for setting in forms]
    for alias, entry in entries:
        value = entry.content.get("BACKEND", Value("")) if isinstance(entry.content, dict) else Value("")
        found.append((_BACKENDS.get(f"STORAGES:{alias}", ""), value))
    caches = settings.values.get("CACHES", Value()).content
    for entry in caches.values() if isinstance(caches, dict) else ():
        value = entry.content.get("BACKEND", Value("")) if isinstance(entry.content, dict) else Value("")
        found.append((_CACHE, value))
    own = [name for name, value in found if name and value.source == variable.name and _is_none(value, variable)]
    return next(iter(own), "")


def _is_none(value: Value, variable: Variable) -> bool:
    """Return whether a setting has no value without its variable."""
    return value.content is None or (variable.required and value.content is UNKNOWN)


def _refusing_none(settings: Settings, variable: Variable) -> str:
    """Return the installed application that refuses a setting which has no value without its variable; else empty."""
    installed = settings.get("INSTALLED_APPS")
    for application in installed if isinstance(installed, list) else ():
        refused = (row["settings"] for row in rows("refusing_none") if application in row["apps"])
        for setting in next(refused, ()):
            value = settings.values.get(setting, Value(""))
            if value.source == variable.name and _is_none(value, variable):
                return str(application)
    return ""


def _makes_folders(settings: Settings, name: str) -> bool:
    """Return whether the settings make folders in MEDIA_ROOT, which is the value of a variable."""
    is_root = settings.values.get("MEDIA_ROOT", Value()).source == name
    return is_root and any(is_in_media(settings, path) for path, kind in settings.written.items() if kind == "folder")


def is_in_media(settings: Settings, path: PurePosixPath) -> bool:
    """Return whether a path is that of MEDIA_ROOT or below it, as far as that is known."""
    root = settings.get("MEDIA_ROOT")
    return isinstance(root, str | PurePosixPath) and bool(str(root)) and path.is_relative_to(root)


def _required(settings: Settings, name: str, forms: dict[str, str], context: Context) -> Any:
    domain = context.domain
    if "ALLOWED_HOSTS" in forms:
        how = forms["ALLOWED_HOSTS"]
        return json.dumps([domain]) if how == "json" else _joined("domains", how)
    if origins := next((how for setting, how in forms.items() if _ORIGINS.fullmatch(setting)), None):
        return json.dumps([f"https://{domain}"]) if origins == "json" else f"https://{domain}"
    lists = {setting for setting, value in settings.values.items() if _is_element(value, name)}
    if "ALLOWED_HOSTS" in lists:
        return domain
    if any(map(_ORIGINS.fullmatch, lists)):
        return f"https://{domain}"
    if _DOMAIN.fullmatch(name):
        return domain
    if name.endswith("ADMIN_URL"):
        return "admin/"
    if _CONNECTION.fullmatch(name):
        return _UNUSED_CONNECTION
    if _REDIS.fullmatch(name):
        return "redis://localhost:6379/0"
    if _SERVICE.fullmatch(name):
        return "localhost"
    for setting, word in (("STATIC_ROOT", "static_root"), ("MEDIA_ROOT", "media_root")):
        if setting in forms:
            return {"from": word}
    if _FOLDER.fullmatch(name) or settings.variables[name].is_folder:
        return {"from": "shared"}
    of_mail = (value for setting, value in _MAIL.items() if setting in forms)
    return next(of_mail, _of_database(settings, name, context.engine))


def _is_element(value: Value, name: str) -> bool:
    """Return whether a setting is a list of which the value of a variable is an element."""
    return isinstance(value.content, list) and any(element.source == name for element in value.content)


def _joined(word: str, how: str) -> dict[str, str]:
    separator = how.removeprefix("list:") or ","
    return {"from": word} if separator == "," else {"from": word, "join": separator}


def default_database(settings: Settings) -> dict[str, Value]:
    """Return the entry of the default database as far as it is known."""
    databases = settings.values.get("DATABASES", Value()).content
    default = databases.get("default", Value()).content if isinstance(databases, dict) else None
    return default if isinstance(default, dict) else {}


def _of_database(settings: Settings, name: str, engine: str) -> Any:
    """Return the value of a variable that is a part of the default database's entry."""
    for key, value in default_database(settings).items():
        is_file = key == "NAME" and engine == "sqlite"
        if value.source != name and not (is_file and value.taint == {name}):  # NAME: BASE_DIR / config("DB_NAME")
            continue
        if key == "ENGINE":
            kind = engines.ENGINES[engine]
            is_spatial = "postgis" in str(settings.get("DATABASES", "default", "ENGINE"))
            return kind.spatial_backend if is_spatial and kind.spatial_backend else kind.backend
        if engine == "sqlite":
            return {"from": "database_path"} if is_file else ""
        if key == "PORT":
            return str(engines.ENGINES[engine].port)
        return _DATABASE.get(key)
    return None
