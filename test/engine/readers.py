"""Readers of the files that are rendered, each as the program reads it that the file is for.

They are strict: what the program would expand, include or run raises a Surprise.
"""

import configparser
import functools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any


class Surprise(Exception):
    """The file makes its program do something else than take a value."""


class _EnvironmentFile:
    """parse_env_file_internal() of systemd 252 (src/basic/env-file.c): a method for each state returns the next one."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.key = self.value = ""
        self.trimmed = 0

    def before_key(self, letter: str) -> "_State":
        if letter in "#;":
            return self.comment
        if letter.isspace():
            return self.before_key
        self.key, self.value, self.trimmed = letter, "", 0
        return self.in_key

    def comment(self, letter: str) -> "_State":
        return self.before_key if letter == "\n" else self.comment

    def in_key(self, letter: str) -> "_State":
        if letter == "\n":
            raise Surprise(f"a line without a value: {self.key}")
        if letter == "=":
            return self.before_value
        self.key += letter
        return self.in_key

    def before_value(self, letter: str) -> "_State":
        if letter == "\n":
            return self._ended(self.value)
        if letter in "'\"":
            return self.in_single_quotes if letter == "'" else self.in_double_quotes
        return self.before_value if letter.isspace() else self.in_value(letter)

    def in_value(self, letter: str) -> "_State":
        if letter == "\n":
            return self._ended(self.value[: self.trimmed])
        if letter == "\\":
            return self.escape
        self.value += letter
        self.trimmed = self.trimmed if letter.isspace() else len(self.value)
        return self.in_value

    def escape(self, letter: str) -> "_State":
        self.value += "" if letter == "\n" else letter
        self.trimmed = len(self.value)
        return self.in_value

    def in_single_quotes(self, letter: str) -> "_State":
        if letter == "'":
            return self.before_value
        self.value += letter
        return self.in_single_quotes

    def in_double_quotes(self, letter: str) -> "_State":
        if letter in '"\\':
            return self.before_value if letter == '"' else self.escape_in_quotes
        self.value += letter
        return self.in_double_quotes

    def escape_in_quotes(self, letter: str) -> "_State":
        self.value += letter if letter in '"\\`$' else "" if letter == "\n" else f"\\{letter}"
        return self.in_double_quotes

    def _ended(self, value: str) -> "_State":
        self.found[self.key.rstrip()] = value
        return self.before_key


_State = Callable[[str], Any]


@functools.lru_cache(1000)
def read_environment(text: str) -> dict[str, str]:
    """An EnvironmentFile, as systemd reads it."""
    file = _EnvironmentFile()
    state: _State = file.before_key
    for letter in f"{text}\n":
        state = state(letter)
    if state != file.before_key:
        raise Surprise(f"the file ends within {file.key}")
    return file.found


def read_environ(text: str) -> dict[str, str]:
    """A .env file, after Env.read_env() of django-environ 0.14 (which imports Django)."""
    found = {}
    for line in text.splitlines():
        matched = re.match(r"\A(?:export )?([A-Za-z_0-9]+)=(.*)\Z", line)
        if not matched:
            raise Surprise(f"an invalid line: {line}")
        name, value = matched.groups()
        if single := re.match(r"\A'(.*)'\Z", value):
            value = single.group(1)
        if double := re.match(r'\A"(.*)"\Z', value):
            value = re.sub(r"\\(.)", lambda found: ("\\" if found[1] in "rnt" else "") + found[1], double.group(1))
        found[name] = value
    return found


#: Directives of systemd in which a percent sign is one, and no specifier is expanded.
SHARES = ("CPUQuota", "MemoryHigh", "MemoryMax", "TasksMax")


@functools.lru_cache(1000)
def read_unit(text: str) -> list[tuple[str, str, str]]:
    """A unit of systemd: (section, directive, value) of each line, specifiers expanded."""
    section, entries, before = "", [], ""
    for line in text.splitlines():
        line = before + line
        before = ""
        if line.endswith("\\") and not line.startswith(("#", ";")):
            before = line[:-1] + " "
        elif line.startswith("["):
            section = line
        elif line.strip() and not line.startswith(("#", ";")):
            name, equals, value = line.partition("=")
            if not equals:
                raise Surprise(f"a line without a value: {line}")
            value = value.strip()
            if name == "TemporaryFileSystem":  # systemd takes its options as they are
                path, colon, options = value.partition(":")
                value = f"{_expanded(path)}{colon}{options}"
            else:
                value = value if name in SHARES else _expanded(value)
            entries.append((section, name, value))
    return entries


def read_program(text: str) -> list[tuple[str, str, str]]:
    """A program of supervisor: (section, option, value) of each, after UnhosedConfigParser of supervisor 4.2."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise Surprise(str(error)) from None
    return [(f"[{name}]", key, _expanded(value)) for name in parser.sections() for key, value in parser.items(name)]


@functools.lru_cache(1000)
def read_script(text: str) -> list[list[str]]:
    """The words of each line of a shell script that runs nothing to find them; it has none in single quotes."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    if re.search(r"\$\(|`", re.sub(r"'[^']*'", "", code)):
        raise Surprise("something is inserted")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def read_ini(text: str) -> list[tuple[str, str, str]]:
    """A configuration of uWSGI: (section, option, value) of each line, magic variables expanded."""
    section, entries = "", []
    for line in text.splitlines():
        line = line.strip(" \t")
        if line.startswith("["):
            section = line
        elif line and not line.startswith((";", "#")):
            name, _equals, value = line.partition("=")
            if name.strip() == "log-format":  # whose words uWSGI leaves to its log: no option has such a name
                entries.append((section, name.strip(), value.strip()))
                continue
            value = _expanded(value.lstrip(" \t"))
            if re.search(r"[$@%]\(", value):  # %%( too: placeholders come after magic variables
                raise Surprise(f"something is inserted: {line}")
            entries.append((section, name.rstrip(" \t"), value))
    return entries


def _expanded(value: str) -> str:
    """The value with its doubled percent signs single; another one stands for something else."""
    if "%" in value.replace("%%", ""):
        raise Surprise(f"something is inserted: {value}")
    return value.replace("%%", "%")


@functools.lru_cache(1000)
def read_nginx(text: str) -> list[Any]:
    """A configuration of nginx: [directive, its block or None] of each."""
    words = _nginx_words(text)
    return _nginx_block(words, top=True)


def _nginx_block(words: Iterator[str], top: bool = False) -> list[Any]:
    block: list[Any] = []
    arguments: list[str] = []
    for word in words:
        if word == ";":
            block.append([" ".join(arguments), None])
            arguments = []
        elif word == "{":
            block.append([" ".join(arguments), _nginx_block(words)])
            arguments = []
        elif word == "}":
            if top or arguments:
                raise Surprise(f"a block ends within {arguments}")
            return block
        else:
            arguments.append(word[1:])
    if arguments or not top:
        raise Surprise(f"the file ends within {arguments}")
    return block


def _nginx_words(text: str) -> Iterator[str]:
    """The words of nginx's configuration, those that are no punctuation with a = before them."""
    quoted = r"""\s+|\#[^\n]*|([;{}])|"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'"""
    word = re.compile(quoted + r"""|((?:\\.|\$\{|[^\s;{}"'\\])(?:\\.|\$\{|[^\s;{\\])*)""", re.DOTALL)
    letters = {"t": "\t", "r": "\r", "n": "\n"}
    place = 0
    while place < len(text):
        found = word.match(text, place)
        if not found:
            raise Surprise(f"quotes do not end: {text[place : place + 40]}")
        place = found.end()
        punctuation, *words = found.groups()
        if punctuation:
            yield punctuation
        for content in words:
            if content is not None:
                yield "=" + re.sub(r"""\\([\\"'trn])""", lambda escape: letters.get(escape[1], escape[1]), content)
        if words[2] is None and (words[0], words[1]) != (None, None) and text[place : place + 1] not in " \t\n;{)":
            raise Surprise(f"something follows a quote: {text[place : place + 40]}")


@functools.lru_cache(1000)
def read_apache(text: str) -> list[list[str]]:
    """A configuration of Apache: the words of each directive, its sections as such; nothing in it is defined."""
    found: list[list[str]] = []
    open_sections: list[tuple[str, str]] = []
    for line in (line.strip(" \t\r\v\f") for line in re.sub(r"\\\n", "", text).split("\n")):
        if not line or line.startswith("#"):
            continue
        if "${" in re.sub(r"\$\{(APACHE_LOG_DIR\}|django_escape:%1\})", "", line):
            raise Surprise(f"something is inserted: {line}")
        if line.startswith("<"):
            name, _blank, argument = line[1:].partition(" ")
            if not line.endswith(">") or (name.startswith("/") and open_sections.pop()[0] != name[1:-1]):
                raise Surprise(f"a section does not end: {line}")
            if "django_application" in argument:
                argument = argument.replace("(/|%2[Ff])", "/").replace("\\.", ".")
            found.append([f"<{name.removesuffix('>')}", *_apache_words(argument.removesuffix(">"))])
            open_sections += [] if name.startswith("/") else [(name, argument)]
        else:
            words = _apache_words(line)
            if words[:2] == ["RequestHeader", "set"] and not words[-1].startswith("expr="):
                words[-1] = _expanded(words[-1])
            is_verbatim = bool(open_sections) and "django_application" in open_sections[-1][1]
            found.append([words[0], line.partition(" ")[2]] if is_verbatim else words)
    if open_sections:
        raise Surprise(f"the file ends within {open_sections}")
    return found


def _apache_words(line: str) -> list[str]:
    """The words of a directive, after ap_getword_conf() of Apache 2.4; those of mod_wsgi are name=value."""
    words = []
    word = re.compile(r"""\s*([\w-]+=)?(?:"((?:\\.|[^"\\])*)"|([^\s"][^\s]*))(?=\s|$)""")
    place = 0
    while line[place:].strip():
        matched = word.match(line, place)
        if not matched:
            raise Surprise(f"quotes do not end: {line[place:]}")
        name, quoted, plain = matched.groups()
        value = plain if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)
        words.append((name or "") + value)
        place = matched.end()
    return words


def read_json(text: str) -> Any:
    """JSON, in which no name stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _value in pairs}) < len(pairs):
            raise Surprise(f"a name stands twice: {[name for name, _value in pairs]}")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)
