"""How projects read variables: os.environ, django-environ, environs, decouple, dotenv, cfenv, pydantic-settings."""

import ast
import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from django_formula.database import engines
from django_formula.inspect.expressions import Expressions, Missing, joined, text_method
from django_formula.inspect.values import (
    UNKNOWN,
    Called,
    Method,
    Namespace,
    Reader,
    Symbol,
    Value,
    Variable,
    taint,
    truth,
)

#: A word of a function or type that converts a variable → the kind of the variable.
_KINDS = {
    "bool": "bool",
    **dict.fromkeys(("int", "integer", "float", "decimal", "Decimal", "timedelta"), "int"),
    **dict.fromkeys(("list", "tuple", "Csv", "set"), "list"),
    "json": "json",
    "dict": "pairs",
    **dict.fromkeys(("db", "db_url", "dj_db_url"), "database"),
    **dict.fromkeys(("cache", "cache_url"), "cache"),
    **dict.fromkeys(("email", "email_url"), "email"),
    "dj_cache_url": "dj_cache",
    "dj_email_url": "dj_email",
}
#: The variable that a function reads if it is called without a name.
_NAMES = {
    "database": "DATABASE_URL",
    **dict.fromkeys(("cache", "dj_cache"), "CACHE_URL"),
    **dict.fromkeys(("email", "dj_email"), "EMAIL_URL"),
}
#: Types of Python itself by their names; tuples and sets are lists here.
_TYPES: dict[str, type] = {
    **{"str": str, "bool": bool, "int": int, "float": float, "dict": dict},
    **dict.fromkeys(("list", "tuple", "set"), list),
}
#: Schemes of the URLs of caches → the backend.
_CACHES = (
    (r"(hi)?rediss?(cache)?", "django.core.cache.backends.redis.RedisCache"),
    (r"(py)?memcached?|(django)?pylibmc|elasticache", "django.core.cache.backends.memcached.PyMemcacheCache"),
)
#: Functions that raise an exception for None, and methods that only texts have.
_OF_TEXT = ("json.loads", "ast.literal_eval", "eval", "base64.b64decode", "base64.urlsafe_b64decode", "open", "io.open")
_METHODS_OF_TEXT = ("lower", "upper", "strip", "split", "replace", "startswith", "endswith", "encode")
_FALSE = ("", "0", "false", "off", "no", "n", "f", "none")
#: Functions of libraries that read a variable with an optional default → the kind of object that they are.
_DECOUPLE = ("decouple.config", "config", "prettyconf.config", "starlette.config")
_ENV = re.compile(r"(env|(envparse|environs)\.env)(\.|$)")
_WITH_NONE = (
    "os.getenv",
    "getenv",
    "getenv.env",
    "os.environ.get",
    "environ.get",
    "os.environ.setdefault",
    "os.environ.pop",
)
#: Functions of a package's module for variables, such as mitol.common.envs: get_bool(name="X", default=True).
_GETTER = re.compile(r"[\w.]+\.envs?\.get_(string|bool|int|float|delimited_list|any)")
#: A variable as the package typed-environment-configuration declares it.
_TYPED = re.compile(r"(typed_environment_configuration\.)?(String|Bool|Integer|Float|StringList)Variable")
#: What django-environ, decouple, and environs with marshmallow, take for a default that is not given.
_NONE_GIVEN = re.compile(r"(^|\.)(Env|environ|env)\.NOTSET$|^(decouple\.)?[uU]ndefined$|^(marshmallow|ma)\.missing$")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
#: The home of the site's user, which does not exist.
HOME = PurePosixPath("/nonexistent")


class Readers(Expressions):
    """The evaluation of what reads variables and files."""

    def read(self, name: str, default: Value | None, kind: str, place: str) -> Value:
        """Return the value of a variable, and record that it is read.

        Args:
            default: the value if it is not set; None if it is required.
        """
        if not _NAME.fullmatch(name):
            return default or Value()
        default = None if default and _is_none_given(default.content) else default
        variable = self.variables.setdefault(name, Variable(name, place))
        if self.certain and name not in self.surely_read:
            self.surely_read.add(name)
            variable.place = place
        variable.is_read = True
        variable.kind = kind if variable.kind == "text" else variable.kind
        how = {"list": "list:,", "database": "url", "array": "json"}.get(kind, "")
        known = frozenset({name})
        if name in self.assumed:
            return Value(UNKNOWN, name, how, known)
        if name in self.given:
            return Value(_converted(self.given[name], kind), name, how, known)
        if default:
            content = default.content
            variable.default = str(content) if isinstance(content, str | PurePosixPath) else variable.default
            if kind == "list" and isinstance(content, str):
                content = [Value(part) for part in content.split(",") if part]
            if kind in _FROM_URL:
                content = _FROM_URL[kind](content)
            return Value(content, name, how, known | default.taint)
        if self.guards:
            raise Missing(name)
        variable.required |= self.certain
        return Value(UNKNOWN, name, how, known)

    def presence(self, name: str, place: str) -> bool:
        """Return whether a variable is set, and record that this is tested."""
        self.variables.setdefault(name, Variable(name, place))
        return name in self.given

    def needed(self, value: Value, kind: str = "") -> Value:
        """Return a value that the code needs: a variable without default, which would be None there, is required."""
        if value.content is not None or value.source not in self.variables:
            return value
        variable = self.variables[value.source]
        return replace(self.read(variable.name, None, kind or variable.kind, variable.place), how=value.how)

    # Functions of libraries

    def call_library(self, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        """Return what a function of a library returns; a `Called` where nothing is known of it."""
        first = args[0].content if args else None
        if name == "os.environ.setdefault" and len(args) > 1 and isinstance(first, str):
            if isinstance(args[1].content, str):
                self.given.setdefault(first, args[1].content)
            found = self._named(args, args[1], "text", place)
            if first in self.variables and isinstance(args[1].content, str):
                self.variables[first].default = args[1].content
            return found
        if name in _WITH_NONE:
            default = args[1] if len(args) > 1 else keywords.get("default", Value(None))
            return self._named(args or [keywords.get("key", Value())], default, "text", place)
        if name in _DECOUPLE or name in ("decouple.Config", "decouple.AutoConfig"):
            return self._decouple(name, args, keywords, place)
        if _ENV.match(name):
            return self._environ(Reader("environ"), _ENV.sub("", name), args, keywords, place)
        if re.fullmatch(r"(\w+\.)?(Env|FileAwareEnv|SmartEnv)", name):  # of environs, and of those that build on it
            spread = keywords.get("**", Value()).content
            entries = {**(spread if isinstance(spread, dict) else {}), **keywords}
            scheme = {key: part.content for key, part in entries.items() if isinstance(part.content, list)}
            return Value(Reader("environ", scheme))
        if getter := _GETTER.fullmatch(name):
            required = keywords.get("required", Value()).content is True
            otherwise = None if required else keywords.get("default", Value(None))
            named = args or [keywords.get("name", Value())]
            return self._named(named, otherwise, _KINDS.get(getter[1].rpartition("_")[2], "text"), place)
        if typed := _TYPED.fullmatch(name):
            kind = "database" if first == "DATABASE_URL" else _KINDS.get(typed[2].lower(), "text")
            return self._named(args, keywords.get("default"), kind, place)
        if name.startswith("dj_database_url."):
            return self._database_url(name, args, keywords, place)
        if name == "django_cache_url.parse" and args and args[0].source in self.variables:
            self.variables[args[0].source].kind = "parsed_cache"  # no URL of a socket
            return Value(Called(name, args, keywords), taint=taint(*args))
        if name.endswith(("dotenv_values", "RepositoryEnv")):
            self.files.append(str(first) if isinstance(first, str | PurePosixPath) else ".env")
            return Value(Reader("dotenv"))
        if name.endswith(("cfenv.AppEnv", "cfenv.cloud_foundry")):
            for variable in ("VCAP_APPLICATION", "VCAP_SERVICES"):
                self.read(variable, Value(None), "json", place)
            return Value(Reader("cfenv"))
        if name in ("open", "io.open", "codecs.open", "toml.load") and args:
            self._reads(args[0], (args[1] if len(args) > 1 else keywords.get("mode", Value("r"))).content, place)
        return self._standard_library(name, first, args, keywords)

    def _decouple(self, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        if name in ("decouple.Config", "decouple.AutoConfig"):
            return Value(Reader("decouple"))
        default = args[1] if len(args) > 1 else keywords.get("default")
        return self._named(args, default, _kind(keywords.get("cast")), place)

    def _database_url(self, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        if name == "dj_database_url.config":
            named = [keywords["env"]] if "env" in keywords else args[:1]
            if not named or named[0].content == Symbol("dj_database_url.DEFAULT_ENV"):
                named = [Value("DATABASE_URL")]
            return self._named(named, keywords.get("default", Value(None)), "database", place)
        url = args[0] if args else keywords.get("url", Value())
        if url.source in self.variables and name == "dj_database_url.parse":
            self.variables[url.source].kind = "database"
        return Value(_database(url.content), url.source, "url", url.taint)

    def _named(self, args: list[Value], default: Value | None, kind: str, place: str) -> Value:
        """Read the variable that the first argument names."""
        name = args[0].content if args else None
        if not isinstance(name, str):
            return Value(taint=taint(*args))
        return self.read(name, default, kind, place)

    def _standard_library(self, name: str, first: Any, args: list[Value], keywords: dict[str, Value]) -> Value:
        short = name.rpartition(".")[2]
        if name in ("int", "float", "Path", "pathlib.Path", "os.path.join"):
            args = [self.needed(value, "int" if name in ("int", "float") else "") for value in args]
            if len(args) > 1:
                self.is_joined(args[0])
        elif args and (name in _OF_TEXT or short == "strtobool"):
            args = [self.needed(args[0], "bool" if short == "strtobool" else ""), *args[1:]]
        first = args[0].content if args else None
        known = [value.content for value in args]
        if name in ("Path", "pathlib.Path", "os.path.join", "pathlib.PurePath", "environ.Path", "os.path.normpath"):
            return Value(joined(*known), args[0].source if len(args) == 1 else "", taint=taint(*args))
        if name == "os.path.expanduser":
            return Value(_at_home(joined(first)), args[0].source if args else "", taint=taint(*args))
        if name in ("os.path.exists", "os.path.isdir", "os.path.isfile"):
            return Value(_exists(joined(first)), taint=taint(*args))
        if name in ("os.path.abspath", "os.path.realpath", "os.fspath"):
            return Value(joined(first), args[0].source if args else "", taint=taint(*args))
        if name in ("Path.home", "pathlib.Path.home"):
            return Value(HOME)
        if name in ("os.path.dirname", "os.path.basename"):
            path = joined(first)
            part = "parent" if short == "dirname" else "name"
            return Value(getattr(path, part) if path is not UNKNOWN else UNKNOWN, taint=taint(*args))
        if name in ("open", "io.open", "os.makedirs", "os.mkdir"):
            return self._opened(short, args, keywords)
        if name in ("str", "int", "bool", "float", "list", "tuple", "set", "dict", "bytes"):
            return self._converted_by(name, args, keywords)
        if name == "json.loads" and args and args[0].source in self.variables:
            self.variables[args[0].source].kind = "parsed_json"
            return Value(UNKNOWN, args[0].source, "json", taint(*args))
        if name == "isinstance" and len(args) == 2:
            return Value(_is_instance(first, args[1].content), taint=taint(args[0]))
        if name == "filter" and len(args) == 2 and first is None and isinstance(args[1].content, list):
            known = [(part, truth(part)) for part in args[1].content]
            kept = UNKNOWN if any(is_true is None for _part, is_true in known) else [one for one, yes in known if yes]
            return Value(kept, args[1].source, args[1].how, taint(*args))
        if name in ("copy.copy", "copy.deepcopy", "copy", "deepcopy") and isinstance(first, list | dict):
            return replace(args[0], content=first.copy())
        if name in ("any", "all", "len") and isinstance(first, list):
            return Value(_of_elements(name, first), taint=taint(*args))
        if name.endswith("strtobool") and args:
            return Value(
                _converted(first, "bool") if isinstance(first, str) else UNKNOWN, args[0].source, taint=taint(*args)
            )
        return Value(Called(name, args, keywords), taint=taint(*args, *keywords.values()))

    def _opened(self, function: str, args: list[Value], keywords: Mapping[str, Value]) -> Value:
        path = joined(args[0].content) if args else UNKNOWN
        mode = (args[1] if len(args) > 1 else keywords.get("mode", Value("r"))).content
        if isinstance(path, PurePosixPath):
            if function in ("makedirs", "mkdir"):
                self.written.setdefault(path, "folder")
            elif isinstance(mode, str) and {*mode} & {*"wax+"}:
                self.written[path] = "file"
        content = Called("open", args[:1], {}) if function == "open" and args else UNKNOWN
        return Value(content, args[0].source if args else "", "file", taint(*args))

    def _reads(self, path: Value, mode: Any, place: str) -> None:
        """Record a file that the settings surely read."""
        found = joined(path.content)
        is_sure = self.certain and not self.guards and not self.without_files
        if is_sure and isinstance(found, PurePosixPath) and isinstance(mode, str) and not {*mode} & {*"wax+"}:
            self.opened.setdefault(found, place)

    def _converted_by(self, name: str, args: list[Value], keywords: Mapping[str, Value]) -> Value:
        if name == "dict" and not args:
            return Value(dict(keywords), taint=taint(*keywords.values()))
        if not args:
            return Value({"list": [], "tuple": [], "set": [], "str": ""}.get(name, UNKNOWN))
        content: Any = args[0].content
        if name in ("list", "tuple", "set", "dict"):
            content = content if isinstance(content, dict if name == "dict" else list | Symbol) else UNKNOWN
        elif content is not UNKNOWN:
            with contextlib.suppress(TypeError, ValueError):
                is_plain = isinstance(content, str | int | float | PurePosixPath | None)
                kinds: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": float}
                content = kinds[name](content) if name in kinds and is_plain else UNKNOWN
        variable = self.variables.get(args[0].source)
        if variable and variable.kind == "text" and name in ("int", "float"):
            variable.kind = "int"
        return Value(content, args[0].source, args[0].how, taint(*args))

    # Objects of libraries

    def call_method(self, owner: Value, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        """Return what a method returns."""
        is_other = name in _METHODS_OF_TEXT and isinstance(owner.content, int | float)
        owner = self.needed(replace(owner, content=None) if is_other else owner) if name else owner
        content = owner.content
        if isinstance(content, Method):  # of what a method has, such as env.read_env.x
            return Value(taint=taint(owner, *args))
        if isinstance(content, Reader):
            return self._of_reader(content, name, args, keywords, place)
        if isinstance(content, PurePosixPath):
            if name in ("open", "read_text", "read_bytes"):
                mode = args[0] if args and name == "open" else keywords.get("mode", Value("r"))
                self._reads(owner, mode.content, place)
            return self._of_path(owner, content, name, args, keywords)
        if isinstance(content, Called) and content.name.endswith("ConfigParser") and name == "read" and args:
            every = args[0].content if isinstance(args[0].content, list) else args[:1]
            for one in every:
                self._reads(one, "r", place)
        if isinstance(content, dict):
            return _of_dictionary(owner, name, args, keywords)
        if isinstance(content, list):
            return _of_list(owner, name, args)
        if name in ("get", "getint", "getboolean", "getfloat") and "fallback" in keywords:
            return keywords["fallback"]  # of configparser: its files are not in the source
        if isinstance(content, str) and name == "join" and args and isinstance(args[0].content, list):
            parts = [part.content for part in args[0].content]
            known = all(isinstance(part, str) for part in parts)
            return Value(content.join(parts) if known else UNKNOWN, taint=taint(owner, *args))
        if isinstance(content, str) and name == "format" and ":" not in content and "!" not in content:
            return _formatted(content, owner, args, keywords)
        if name in ("read_text", "read_bytes", "read", "open"):
            return Value(content if isinstance(content, Called) else UNKNOWN, owner.source, "file", owner.taint)
        return text_method(owner, name, args)

    def _of_reader(self, reader: Reader, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        if reader.kind == "cfenv":
            return keywords.get("default", args[1] if len(args) > 1 else Value(None))
        if name in ("read_env", "read_envfile", "seal", "prefixed", "add_parser", "parser_for"):
            return Value()
        if reader.kind == "environ":
            return self._environ(reader, name, args, keywords, place)
        if reader.kind == "decouple":
            return self._decouple("config", args, keywords, place)
        if name == "get":
            return self._named(args, args[1] if len(args) > 1 else Value(None), "text", place)
        return Value()

    def _environ(self, reader: Reader, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        """Read a variable as django-environ and environs do: ``env("X")``, ``env.bool("X", default)``."""
        cast = args[1] if not name and len(args) > 1 and isinstance(args[1].content, Symbol) else keywords.get("cast")
        kind = _KINDS.get(name) or _kind(cast)
        kind = "list" if "subcast" in keywords else kind
        default = keywords.get("default", keywords.get("**"))
        if default is None and len(args) > 1 and args[1] is not cast:
            default = args[1]
        if default is None and not name and len(args) > 2:
            default = args[2]
        variable = args[0].content if args else keywords.get("var", Value(_NAMES.get(kind))).content
        if not isinstance(variable, str) or re.search(r"\W", variable):
            return Value(taint=taint(*args))
        declared = reader.scheme.get(variable)
        if declared is not None:
            kind = _kind(declared[0]) if kind == "text" and declared else kind
            default = default or (declared[1] if len(declared) > 1 else None)
        return self.read(f"{reader.prefix}{variable}", default, kind, place)

    def _of_path(
        self, owner: Value, path: PurePosixPath, name: str, args: list[Value], keywords: dict[str, Value]
    ) -> Value:
        if name in ("joinpath", ""):  # a path of django-environ is called
            return Value(joined(path, *(part.content for part in args)), taint=taint(owner, *args))
        if name == "expanduser":
            return Value(_at_home(path), owner.source, taint=owner.taint)
        if name in ("exists", "is_dir", "is_file"):
            return Value(_exists(path), taint=owner.taint)
        if name in ("resolve", "absolute", "as_posix", "__str__"):
            return owner
        if name in ("mkdir", "touch", "write_text", "write_bytes"):
            self.written.setdefault(path, "folder" if name == "mkdir" else "file")
            return Value(None)
        if name == "open":
            return self._opened("open", [owner, *args], keywords)
        if name in ("read_text", "read_bytes"):
            return Value(Called("open", [owner], {}), owner.source, "file", owner.taint)
        with_name = {"with_name", "with_suffix"} & {name} and args and isinstance(args[0].content, str)
        with contextlib.suppress(ValueError):
            return Value(getattr(path, name)(args[0].content) if with_name else UNKNOWN, taint=taint(owner, *args))
        return Value(taint=taint(owner, *args))

    def subscript_of(self, owner: Value, key: Value, place: str) -> Value:
        """Return an element of the environment, or of the values of a .env file."""
        content, name = owner.content, key.content
        is_environment = self._is_environment(owner) or isinstance(content, Reader)
        if is_environment and isinstance(name, str) and not (isinstance(content, Reader) and content.kind == "cfenv"):
            return self.read(name, None, "text", place)
        return Value(taint=taint(self.needed(owner), key))

    def call_class(self, found: Namespace, place: str) -> Value:
        """Return an instance of a class; one of pydantic-settings reads a variable for each of its fields."""
        self.count()
        if found.kind != "model":
            return Value(Namespace(dict(found.names)))
        config = found.names.get("model_config", Value()).content
        options = config.keywords if isinstance(config, Called) else config if isinstance(config, dict) else {}
        inner = found.names.get("Config", Value()).content
        options = {**(inner.names if isinstance(inner, Namespace) else {}), **options}
        prefix, delimiter = (options.get(name, Value("")).content for name in ("env_prefix", "env_nested_delimiter"))
        prefix, delimiter = (text if isinstance(text, str) else "" for text in (prefix, delimiter))
        return self._with_fields(found, "", prefix, delimiter, place)

    def _with_fields(self, found: Namespace, above: str, prefix: str, delimiter: str, place: str) -> Value:
        """Return an instance of a class of pydantic, of whose fields each has a variable.

        Args:
            above: what the names of the variables begin with: the variable of the field with the instance, of a part.
            delimiter: what is between that and the name of a field; empty where a part is read as JSON.
        """
        self.count()
        names = dict(found.names)
        for name, (annotation, default, place_of_field, kind) in found.fields.items():
            variable, value = _field(name, default, prefix)
            variable, where = f"{above}{variable}", place_of_field or place
            value = value or (Value(None) if _is_optional(annotation) else None)
            factory = default.content.keywords.get("default_factory") if default and _is_field(default) else None
            if factory and isinstance(factory.content, Namespace):
                value = self.call_class(factory.content, where)
            form = _kind_of_annotation(annotation)
            if isinstance(kind, Namespace) and kind.fields and value is None:
                if delimiter and _is_required(kind):
                    names[name] = self._with_fields(kind, f"{variable}{delimiter}", "", delimiter, where)
                    continue
                form = "parsed_json" if _is_required(kind) else "json"
            names[name] = self.read(variable, value, form, where)
        return Value(Namespace(names))


def _database(url: Any) -> Any:
    """Return the entry of DATABASES that a URL results in, as far as it is known."""
    scheme = url.partition(":")[0] if isinstance(url, str) else ""
    engine = {"postgis": "postgis", "spatialite": "spatialite"}.get(scheme, "") or next(
        (one.backend for one in engines.ENGINES.values() if one.is_backend(scheme)), ""
    )
    return {"ENGINE": Value(engine), "NAME": Value()} if engine else UNKNOWN


def _cache(url: Any) -> Any:
    """Return the entry of CACHES that a URL results in, if it is one of Redis or Memcached."""
    scheme = url.partition(":")[0] if isinstance(url, str) else ""
    backend = next((backend for pattern, backend in _CACHES if re.fullmatch(pattern, scheme)), "")
    return {"BACKEND": Value(backend), "LOCATION": Value(url)} if backend else UNKNOWN


#: Kinds of variables that a library makes an entry of a setting of → how it does so with a URL.
_FROM_URL = {"database": _database, "cache": _cache, "dj_cache": _cache}


def _at_home(path: Any) -> Any:
    """Return a path with the home of the site's user instead of ``~``."""
    parts = path.parts if isinstance(path, PurePosixPath) else ()
    return HOME.joinpath(*parts[1:]) if parts[:1] == ("~",) else path


def _exists(path: Any) -> Any:
    """Return False for a path in the home of the site's user, which has none; of others it is not known."""
    return False if isinstance(path, PurePosixPath) and path.is_relative_to(HOME) else UNKNOWN


def _field(name: str, default: Value | None, prefix: str) -> tuple[str, Value | None]:
    """Return the variable of a field of pydantic-settings, and its default."""
    if not default or not _is_field(default):
        return f"{prefix}{name}".upper(), default
    made = default.content
    aliases = [made.keywords[key].content for key in ("validation_alias", "alias", "env") if key in made.keywords]
    alias = aliases[0] if aliases else None
    if isinstance(alias, Called) and alias.args:  # AliasChoices
        alias = alias.args[0].content
    given = made.keywords.get("default", made.args[0] if made.args else None)
    given = given or (Value() if "default_factory" in made.keywords else None)
    given = None if given and given.content is Ellipsis else given
    return (alias if isinstance(alias, str) else f"{prefix}{name}").upper(), given


def _is_optional(annotation: ast.expr | None) -> bool:
    return annotation is not None and bool(re.search(r"Optional|\bNone\b", ast.unparse(annotation)))


def _is_required(part: Namespace) -> bool:
    """Return whether a class of pydantic has a field without a default."""
    fields = ((_field(name, default, "")[1], annotation) for name, (annotation, default, *_rest) in part.fields.items())
    return any(value is None and not _is_optional(annotation) for value, annotation in fields)


def _is_field(default: Value) -> bool:
    """Return whether a field has its default by pydantic's function for that."""
    return isinstance(default.content, Called) and default.content.name.endswith("Field")


def _kind_of_annotation(annotation: ast.expr | None) -> str:
    text = ast.unparse(annotation) if annotation else ""
    if re.search(r"\b(list|List|set|tuple|Sequence)\[", text):
        return "array"
    if re.search(r"\b(dict|Dict)\[", text):
        return "json"
    found = re.search(r"\b(bool|int|float)\b", text)
    return _KINDS[found.group(1)] if found else "text"


def _kind(cast: Value | None) -> str:
    """Return the kind of variable that a type or a function converts."""
    content = cast.content if cast else None
    if isinstance(content, list) and content:
        return "list"
    name = content.name if isinstance(content, Symbol | Called) else ""
    return "database" if name == "dj_database_url.parse" else _KINDS.get(name.rpartition(".")[2], "text")


def _converted(text: str, kind: str) -> Any:
    """Return the value of a variable as its reader converts it."""
    if kind == "bool":
        return text.lower() not in _FALSE
    if kind == "int":
        return int(text) if re.fullmatch(r"-?\d{1,18}", text) else UNKNOWN
    if kind == "list":
        return [Value(part) for part in text.split(",") if part]
    return text if kind == "text" else UNKNOWN


def _of_dictionary(owner: Value, name: str, args: list[Value], keywords: Mapping[str, Value]) -> Value:
    content, key = owner.content, args[0].content if args else None
    if name in ("get", "setdefault", "pop") and isinstance(key, str | int):
        default = args[1] if len(args) > 1 else Value(None)
        found: Value = content.setdefault(key, default) if name == "setdefault" else content.get(key, default)
        return found
    if name == "update":
        content.update(key if isinstance(key, dict) else {})
        content.update(keywords)
    if name == "copy":
        return Value(dict(content), taint=owner.taint)
    if name == "items":
        return Value([Value([Value(one), value]) for one, value in content.items()], taint=owner.taint)
    if name in ("keys", "values"):
        return Value([Value(one) for one in content] if name == "keys" else [*content.values()], taint=owner.taint)
    return Value(taint=taint(owner, *args))


def _is_none_given(content: Any) -> bool:
    """Return whether a default is what the libraries pass where none is given, by which the variable is required."""
    if isinstance(content, Method):  # env.NOTSET
        return content.name == "NOTSET" and isinstance(content.owner.content, Reader)
    return content is Ellipsis or (isinstance(content, Symbol) and bool(_NONE_GIVEN.search(content.name)))


def _is_instance(content: Any, kind: Any) -> Any:
    """Return what ``isinstance`` returns for a value and a type, or a list of types, of Python itself."""
    kinds = [one.content for one in kind] if isinstance(kind, list) else [kind]
    names = [one.name for one in kinds if isinstance(one, Symbol)]
    is_known = content is None or isinstance(content, str | int | float | list | dict)
    if not is_known or len(names) < len(kinds) or not {*names} <= {*_TYPES}:
        return UNKNOWN
    return isinstance(content, tuple(_TYPES[name] for name in names))


def _of_elements(name: str, elements: list[Value]) -> Any:
    """Return what ``any``, ``all`` or ``len`` returns for a list."""
    if name == "len":
        return len(elements)
    found, decides = [truth(element) for element in elements], name == "any"
    return decides if decides in found else UNKNOWN if None in found else not decides


def _of_list(owner: Value, name: str, args: list[Value]) -> Value:
    content = owner.content
    if name == "append":
        content.extend(args[:1])
    elif name in ("extend", "__iadd__") and args and isinstance(args[0].content, list):
        content.extend(args[0].content)
    elif name == "insert" and len(args) > 1:
        content.insert(args[0].content if isinstance(args[0].content, int) else 0, args[1])
    return Value(
        None if name in ("append", "extend", "insert", "remove", "sort") else UNKNOWN, taint=taint(owner, *args)
    )


def _formatted(text: str, owner: Value, args: list[Value], keywords: Mapping[str, Value]) -> Value:
    known = [part.content for part in args]
    named = {name: part.content for name, part in keywords.items()}
    found: Any = UNKNOWN
    if all(isinstance(part, str | int | PurePosixPath) for part in (*known, *named.values())):
        with contextlib.suppress(LookupError, ValueError, AttributeError, TypeError):
            found = text.format(*known, **named)
    return Value(found, taint=taint(owner, *args, *keywords.values()))
