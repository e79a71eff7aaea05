"""Templates of files: rendered with each value quoted for the program that reads it."""

import contextlib
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django_formula.host import compiled
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import headers

if TYPE_CHECKING:
    import jinja2


def unit_value(value: Any) -> str:
    """Escape a value for a systemd unit: no specifier is expanded, no line ends early.

    Raises:
        ValueError: it contains a control character or ends in a backslash.
    """
    text = {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if not text.isprintable() or text.endswith("\\"):
        raise ValueError(f"{text!r} cannot be written to a systemd unit")
    return text.replace("%", "%%")


def uwsgi_value(value: Any) -> str:
    """Escape a value for uWSGI's ini: no magic variable, no inclusion.

    Raises:
        ValueError: it contains a control character, or ``$(``, ``@(`` or ``%(``, which cannot be escaped there.
    """
    text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if not text.isprintable() or re.search(r"[$@%]\(", text) or text != text.strip():
        raise ValueError(f"{text!r} cannot be written to an ini file of uWSGI")
    return text.replace("%", "%%")


def nginx_value(value: Any) -> str:
    """Quote a value for nginx's configuration, so that nothing in it is expanded.

    Raises:
        ValueError: it contains a control character or ``$``, which cannot be escaped there.
    """
    return _quoted(value, "$", "nginx")


def apache_value(value: Any) -> str:
    """Quote a value for Apache's configuration, so that nothing in it is expanded.

    Raises:
        ValueError: it contains a control character or ``${``, which cannot be escaped there.
    """
    return _quoted(value, "${", "Apache")


def _quoted(value: Any, expanded: str, program: str) -> str:
    text = str(value)
    if not text.isprintable() or expanded in text:
        raise ValueError(f"{text!r} cannot be written to {program}'s configuration")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def apache_header(value: Any) -> str:
    """Quote the value of a header for Apache's configuration, where ``%`` begins a format specifier.

    Raises:
        ValueError: it contains what cannot be escaped there.
    """
    return apache_value(str(value).replace("%", "%%"))


def haproxy_value(value: Any) -> str:
    """Quote a value for HAProxy's configuration, so that nothing in it is expanded.

    Raises:
        ValueError: it contains a control character.
    """
    text = str(value)
    if not text.isprintable():
        raise ValueError(f"{text!r} cannot be written to HAProxy's configuration")
    return "'" + text.replace("'", "'\\''") + "'"


def haproxy_regex(value: Any) -> str:
    """Return a regular expression of HAProxy, before it is quoted, that matches a text."""
    return re.sub(r"[][.\\^$*+?(){}|]", r"\\\g<0>", str(value))


def haproxy_format(value: Any) -> str:
    """Quote a value for HAProxy's configuration where ``%`` begins a variable.

    Raises:
        ValueError: it contains a control character.
    """
    return haproxy_value(str(value).replace("%", "%%"))


@functools.cache
def _jinja() -> "jinja2.Environment":
    import jinja2  # which the Python of a timer's program does not have

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
        haproxy=haproxy_value,
        haproxy_format=haproxy_format,
        haproxy_regex=haproxy_regex,
        meta=headers.meta,
    )
    return environment


@functools.lru_cache(maxsize=64)
def _template(url: str, text: str) -> "jinja2.Template":
    """Return a template, compiled now or by an earlier apply; Jinja compares the text that was compiled."""
    environment, cache = _jinja(), compiled.cache()
    bucket = cache.get_bucket(environment, url, None, text)
    if bucket.code is None:
        bucket.code = environment.compile(text, url)
        compiled.add(bucket)
    return environment.template_class.from_code(environment, bucket.code, environment.make_globals(None))


def compile_templates(templates: Mapping[str, str], urls: Iterable[str]) -> None:
    """Compile templates ahead of time; one that is missing or invalid fails when it is rendered."""
    import jinja2

    for url in urls:
        with contextlib.suppress(KeyError, jinja2.TemplateError):
            _template(url, templates[url])


def can_render() -> bool:
    """Return whether templates can be rendered here: Salt's Python has Jinja, that of a timer's program may not."""
    return importlib.util.find_spec("jinja2") is not None


def render(templates: Mapping[str, str], url: str, **variables: Any) -> str:
    """Render a template of the formula or of the pillar.

    Args:
        templates: the text of each template by its ``salt://`` URL.

    Raises:
        DeploymentError: the template is missing, or cannot be rendered with these values.
    """
    if url not in templates:
        raise DeploymentError(f"the template {url} is missing", hint="is it in the file_roots of Salt?")
    try:
        return _template(url, templates[url]).render(**variables)
    except Exception as error:  # a template may raise anything
        raise DeploymentError(f"{url} cannot be rendered: {error}") from None
