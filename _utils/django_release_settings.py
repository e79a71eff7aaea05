"""What a release is told: the settings overlay and its data, the environment, the files rendered into its source."""

import contextlib
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django_database
import django_host_user
import django_proxy_headers
import django_site
from django_host_command import PATH, DeploymentError
from django_site import Site
from django_wall_foreign import Foreign

if TYPE_CHECKING:
    import jinja2

#: Seconds that a connection to a database is kept from one request to the next, where the project does not say it.
_CONN_MAX_AGE = 60
#: The overlay is a module of its own name, so that it never hides one of the project.
MODULE = "django_formula_settings"
#: What the environment may take that only the secret key's rotation knows.
FORMER_KEYS = "secret_key_fallbacks"


def overlay(site: Site, release: Path, settings_module: str, *, keeps_threads: bool = True) -> str:
    """The data that the overlay module reads (``config/settings.json``); no secret is among it.

    Args:
        keeps_threads: whether the server's threads, and with them their connections to databases, outlive a request.
    """
    config = site.config
    data = {
        "settings_module": settings_module,
        "secret_key_file": str(site.secrets / "secret_key.json"),
        "path": config["path"].rstrip("/"),
        "database_folder": str(site.database),
        "databases": django_database.overlay_data(site),
        "conn_max_age": _CONN_MAX_AGE if keeps_threads else 0,
        "always": {
            "DEBUG": False,
            "ALLOWED_HOSTS": config["domains"],
            "STATIC_ROOT": str(release / "static"),
            "MEDIA_ROOT": str(site.media),
        },
        "settings": config["settings"],
        **({"https": origins(site)} if site.https else {}),
    }
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def origins(site: Site) -> list[str]:
    """The origins of a site that is served by https, such as ``https://blog.example.org``."""
    port = "" if site.https[0] == 443 else f":{site.https[0]}"
    return [f"https://{domain}{port}" for domain in site.config["domains"]]


def environment(site: Site, release: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """The environment of everything that runs the project, but for its secrets.

    Args:
        facts: what was found in the source: ``commit``, ``settings_module``, ``folder`` (that of manage.py) and
            ``python_path`` (other folders).
    """
    config = site.config
    source = _source_folder(site, release)
    imported_from = [
        *([release / "config"] if config["overlay"] else []),
        *(source / path for path in (facts["folder"], *facts["python_path"])),
    ]
    variables = {
        "PATH": f"{release}/virtualenv/bin:{PATH}",
        "VIRTUAL_ENV": f"{release}/virtualenv",
        "PYTHONPATH": ":".join(map(str, imported_from)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
        "DJANGO_SETTINGS_MODULE": MODULE if config["overlay"] else facts["settings_module"],
        "DJANGO_SITE": site.name,
        "DJANGO_RELEASE": release.name,
    }
    known = {
        "commit": facts["commit"],
        "release": release.name,
        "domains": config["domains"],
        "static_root": f"{release}/static",
        "media_root": str(site.media),
        "shared": str(site.shared),
        "root": str(site.root),
        "secret_key_file": str(site.secrets / "secret_key"),
        **django_database.environment_values(site, {}),
    }
    for name, value in config["environment"].items():
        if not isinstance(value, dict):
            variables[name] = json.dumps(value) if isinstance(value, bool) else str(value)
        elif not _is_secret(site, value["from"]):
            found = known[value["from"]]
            variables[name] = value.get("join", ",").join(found) if isinstance(found, list) else found
    files = {
        said["variable"]: str(site.secrets / name) for name, said in config["secrets"].items() if said["as"] == "file"
    }
    return {**variables, **django_database.url_variables(site, {}, secret=False), **files}


def _is_secret(site: Site, word: str) -> bool:
    return word in ("secret_key", FORMER_KEYS) or django_database.is_secret(site, word)


def secret_environment(site: Site, secrets: Mapping[str, str], former_keys: Sequence[str]) -> dict[str, str]:
    """The variables that hold secrets.

    Raises:
        DeploymentError: the former keys cannot be told apart in a variable.
    """
    known = {"secret_key": secrets.get("secret_key", ""), **django_database.environment_values(site, secrets)}
    taken = {
        name: _joined(site, name, former_keys) if value["from"] == FORMER_KEYS else known[value["from"]]
        for name, value in site.config["environment"].items()
        if isinstance(value, dict) and _is_secret(site, value["from"])
    }
    return {
        **taken,
        **django_database.url_variables(site, secrets, secret=True),
        **{name: secrets[name] for name, said in site.config["secrets"].items() if said["as"] == "variable"},
    }


def _joined(site: Site, name: str, keys: Sequence[str]) -> str:
    between = str(site.config["environment"][name].get("join", ","))
    if any(between in key for key in keys):
        raise DeploymentError(
            f"a former secret key has {between!r} in it, which stands between the keys in {name}",
            hint=f"let the project split them at something else, and say it: django:sites:{site.name}:environment:"
            f"{name}:join, such as ' ' or '|||'",
        )
    return between.join(keys)


def project_folder(site: Site, release: Path, facts: Mapping[str, Any]) -> Path:
    """The folder of manage.py as the project sees it: below ``mount`` where the pillar has one."""
    return _source_folder(site, release) / str(facts["folder"])


def _source_folder(site: Site, release: Path) -> Path:
    return Path(site.config["mount"]) if site.config["mount"] else release / "source"


def environment_file(variables: Mapping[str, str]) -> str:
    """Variables as systemd's EnvironmentFile and ``sh`` both read them, byte for byte."""
    lines = (f'{name}="{_escape(value)}"\n' for name, value in sorted(variables.items()))
    return "".join(lines)


_LINE = re.compile(
    r"""^[ \t]*(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=
    (?P<quoted>(?:[ \t]*(?:'[^']*'|"(?:[^"\\]|\\.)*"))*)
    [ \t]*(?P<plain>(?:\\.|[^\\\n])*?)[ \t]*$""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def read_environment(text: str) -> dict[str, str]:
    """The variables of a file that systemd would take as an EnvironmentFile."""
    return {line["name"]: _unquoted(line["quoted"]) + _unescaped(line["plain"]) for line in _LINE.finditer(text)}


def _unquoted(text: str) -> str:
    parts = re.findall(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", text, re.DOTALL)
    return "".join(single + _unescaped(double, '"\\`$\n') for single, double in parts)


def _unescaped(text: str, escaped: str = "") -> str:
    """A text without its backslashes, or without those before certain letters; one before a line's end joins lines."""

    def plain(found: re.Match[str]) -> str:
        letter = found[1]
        return found[0] if escaped and letter not in escaped else letter.replace("\n", "")

    return re.sub(r"\\(.)", plain, text, flags=re.DOTALL)


def _escape(value: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", value)


def dotenv_file(variables: Mapping[str, str]) -> str:
    """Variables as python-dotenv reads them, and django-environ and python-decouple but for those of several lines.

    Raises:
        DeploymentError: a value cannot be written for python-dotenv.
    """
    return "".join(f"{name}={_dotenv(name, value)}\n" for name, value in sorted(variables.items()))


def _dotenv(name: str, value: str) -> str:
    """Nothing is escaped where that can be helped, since each reader has escapes of its own."""
    if re.search(r"\$\{[^}]*\}", value):
        raise DeploymentError(f"{name} cannot stand in a .env file: python-dotenv expands ${{…}} there")
    if not re.search(r"['\\\n]", value):
        return value if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]*", value) else f"'{value}'"
    if value == value.strip() and not re.search(r"^['\"]|\s#|\n", value):
        return value
    if value.endswith("\\"):
        raise DeploymentError(f"{name} cannot stand in a .env file: it ends with a backslash in quotes")
    return '"' + re.sub(r'([\\"])', r"\\\1", value) + '"'


def project_files(site: Site, templates: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """The files of the pillar's ``files``, rendered: path below the source → content.

    Raises:
        DeploymentError: a template is missing, or cannot be rendered.
    """
    rendered = {}
    for path, said in site.config["files"].items():
        if said.get("environment"):
            own = {name: value for name, value in variables.items() if name in _own_names(site)}
            rendered[path] = dotenv_file(own)
        elif said.get("source"):
            rendered[path] = render(templates, said["source"], site=site.config, environment=dict(variables))
        else:
            rendered[path] = said["contents"]
    return rendered


def _own_names(site: Site) -> set[str]:
    secrets = {said["variable"] for said in site.config["secrets"].values()}
    urls = {database["variable"] for database in site.config["databases"].values()} - {None}
    return {*site.config["environment"], *secrets, *urls}


def unit_value(value: Any) -> str:
    """A value in a systemd unit: no specifier is expanded, no line ends early.

    Raises:
        ValueError: it holds a control character or ends in a backslash.
    """
    text = {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if not text.isprintable() or text.endswith("\\"):
        raise ValueError(f"{text!r} cannot stand in a systemd unit")
    return text.replace("%", "%%")


def uwsgi_value(value: Any) -> str:
    """A value in uWSGI's ini: no magic variable, no inclusion.

    Raises:
        ValueError: it holds a control character, or ``$(``, ``@(`` or ``%(``, which cannot be escaped there.
    """
    text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if not text.isprintable() or re.search(r"[$@%]\(", text) or text != text.strip():
        raise ValueError(f"{text!r} cannot stand in an ini file of uWSGI")
    return text.replace("%", "%%")


def nginx_value(value: Any) -> str:
    """A value in quotes in nginx's configuration, where nothing in it is expanded.

    Raises:
        ValueError: it holds a control character or ``$``, which cannot be escaped there.
    """
    return _quoted(value, "$", "nginx")


def apache_value(value: Any) -> str:
    """A value in quotes in Apache's configuration, where nothing in it is expanded.

    Raises:
        ValueError: it holds a control character or ``${``, which cannot be escaped there.
    """
    return _quoted(value, "${", "Apache")


def _quoted(value: Any, expanded: str, program: str) -> str:
    text = str(value)
    if not text.isprintable() or expanded in text:
        raise ValueError(f"{text!r} cannot stand in {program}'s configuration")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def apache_header(value: Any) -> str:
    """The value of a header in quotes in Apache's configuration, where a ``%`` begins something else.

    Raises:
        ValueError: it holds what cannot be escaped there.
    """
    return apache_value(str(value).replace("%", "%%"))


@functools.cache
def _jinja() -> "jinja2.Environment":
    import jinja2  # which the program of a timer has not

    # Configuration, not HTML: each format has a filter of its own.
    environment = jinja2.Environment(  # noqa: S701  # nosec B701
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        unit=unit_value,
        uwsgi=uwsgi_value,
        nginx=nginx_value,
        apache=apache_value,
        apache_header=apache_header,
        meta=django_proxy_headers.meta,
    )
    return environment


@functools.lru_cache(maxsize=64)
def _template(text: str) -> "jinja2.Template":
    return _jinja().from_string(text)


def compile_templates(templates: Mapping[str, str], urls: Iterable[str]) -> None:
    """Compile templates while there is time; one that is missing or wrong is told of when it is to be rendered."""
    import jinja2

    for url in urls:
        with contextlib.suppress(KeyError, jinja2.TemplateError):
            _template(templates[url])


def render(templates: Mapping[str, str], url: str, **variables: Any) -> str:
    """Render a template of the formula or of the pillar.

    Args:
        templates: the text of each template by its ``salt://`` URL.

    Raises:
        DeploymentError: the template is not there or cannot be rendered with these values.
    """
    if url not in templates:
        raise DeploymentError(f"the template {url} is not there", hint="is it in the file_roots of Salt?")
    try:
        return _template(templates[url]).render(**variables)
    except Exception as error:  # a template may raise anything
        raise DeploymentError(f"{url} cannot be rendered: {error}") from None


def write_project_file(site: Site, source: Path, path: str, content: str) -> None:
    """Write one of the pillar's files into the source; a link of the project is replaced, never followed.

    Raises:
        DeploymentError: a folder on the way is a link.
    """
    target = django_site.inside(Foreign(source), path, f"django:sites:{site.name}:files")
    readable = django_host_user.owner("root", site.user)
    target.parent.make_folder(mode=0o750, owner=readable)
    target.write(content, mode=0o640, owner=readable)
