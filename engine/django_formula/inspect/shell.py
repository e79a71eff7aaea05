"""Read a line of shell as far as it is surely understood. No shell is run, and nothing is guessed."""

import os
import re
import shlex
from collections.abc import Iterator

#: ``${NAME:-default}``, which is its default where nothing sets the variable.
_DEFAULT = re.compile(r"\$\{\w+:?-([^${}`]*)\}")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
#: A quoted part, and a comment, which begins a word; `shlex` finds one in the middle of words too.
_COMMENT = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*"|\\.)|(?:^|(?<=[\s;&|]))#.*""")
_PYTHON = re.compile(r"python[\d.]*|pypy[\d.]*")
_SHELL = re.compile(r"(ba|da|z|a)?sh")
#: Programs that run the command after them → how many of their arguments come before it.
_PREFIXES = {
    **dict.fromkeys(("exec", "env", "command", "nohup", "time", "ddtrace-run", "opentelemetry-instrument"), 0),
    **dict.fromkeys(("start-pgbouncer", "start-pgbouncer-stunnel", "start-stunnel", "qgtunnel", "with-contenv"), 0),
    **dict.fromkeys(("gosu", "su-exec", "chpst", "timeout", "s6-setuidgid"), 1),
}
#: Programs that run the command after one of their own words.
_RUNNERS = {
    **dict.fromkeys(("poetry", "pipenv", "uv", "pdm", "hatch", "rye"), "run"),
    "newrelic-admin": "run-program",
    **dict.fromkeys(("doppler", "infisical", "dotenv"), "run"),
    **dict.fromkeys(("wait-for-it", "wait-for-it.sh", "wait-for", "wait-for.sh"), "--"),
    "watchmedo": "auto-restart",
}
#: Options of prefixes that have a value.
_WITH_VALUE = {
    *("-n", "-w", "-u", "-g", "-c", "--user", "--group", "--wait", "--env-file", "--project", "-s", "-k"),
    *("-d", "--directory", "-p", "--pattern", "--patterns", "-i", "--ignore-patterns", "--signal"),
}


def commands(line: str) -> list[list[str]] | None:
    """Return the commands of a line, each as its words without what only starts it; None if it is not understood.

    ``cd app && exec env A=b venv/bin/celery -A app worker >>log 2>&1`` has ``cd app`` and ``celery -A app worker``. A
    word with a variable that the line does not set keeps its ``$``.
    """
    text = _COMMENT.sub(r"\1", _DEFAULT.sub(r"\1", line))
    if "`" in text or "$(" in text:
        return None
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        parts = _split([*lexer], text)
    except ValueError:
        return None
    found: list[list[str]] = []
    for part in parts or ():
        inner = _command(part)
        if inner is None:
            return None
        found += inner
    return None if parts is None else found


def _split(tokens: list[str], text: str) -> list[list[str]] | None:
    """Return the parts between ``&&``, ``&`` and ``;`` without redirections; None for pipes and everything else."""
    parts: list[list[str]] = [[]]
    rest = iter(tokens)
    for token in rest:
        if token in ("&&", "&", ";"):
            parts.append([])
        elif re.fullmatch(r"&?>>?&?", token):
            if parts[-1] and re.fullmatch(r"[12]", parts[-1][-1]) and f"{parts[-1][-1]}>" in text:
                parts[-1].pop()
            next(rest, None)
        elif re.fullmatch(r"[|&;<>()]+", token):
            return None
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _command(words: list[str]) -> list[list[str]] | None:
    """Return the commands that the words run, without what starts them; several for a shell."""
    words = _without_prefixes(words)
    if not words:
        return []
    program = os.path.basename(words[0])
    if _SHELL.fullmatch(program):
        flag = next((number for number, word in enumerate(words) if re.fullmatch(r"-[a-z]*c", word)), 0)
        return commands(words[flag + 1]) if flag and len(words) > flag + 1 else [[words[0], *words[1:]]]
    if _PYTHON.fullmatch(program):
        return [_without_host(_of_python(words))]
    is_project_path = "/" in words[0] and "/bin/" not in f"/{words[0]}" and program != "manage.py"
    program = "manage.py" if program in ("django-admin", "django-admin.py") else program
    return [_without_host([words[0] if is_project_path else program, *words[1:]])]


def _without_host(words: list[str]) -> list[str]:
    """Return a command of manage.py without the settings and the path of its host: a release has its own."""
    if words[:1] != ["manage.py"]:
        return words
    rest = iter(words)
    kept = []
    for word in rest:
        if word in ("--settings", "--pythonpath"):
            next(rest, None)
        elif not re.match(r"--(settings|pythonpath)=", word):
            kept.append(word)
    return kept


def _without_prefixes(words: list[str]) -> list[str]:
    while words:
        program = os.path.basename(words[0])
        if _ASSIGNMENT.match(words[0]):
            words = words[1:]
        elif program in _PREFIXES:
            words = [*_after_options(words[1:])][_PREFIXES[program] :]
        elif program in ("nice", "ionice", "sudo", "runuser", "tini", "dumb-init", "setpriv"):
            words = [*_after_options(words[1:])]
        elif program == "flock":
            words = [*_after_options(words[1:])][1:]
            words = ["sh", *words] if words[:1] == ["-c"] else words
        elif program in _RUNNERS and _RUNNERS[program] in words[1:]:
            words = [*_after_options(words[words.index(_RUNNERS[program]) + 1 :])]
        else:
            break
    return words


def _after_options(words: list[str]) -> Iterator[str]:
    """Yield the words after the options that they begin with."""
    rest = iter(words)
    for word in rest:
        if word == "--":
            break
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            yield word
            break
    yield from rest


def _of_python(words: list[str]) -> list[str]:
    """Return the words of a program that Python runs: of a module its name, of manage.py that."""
    rest = iter(words[1:])
    for word in rest:
        if word == "-m":
            module = next(rest, "")
            return ["manage.py" if module in ("django", "manage") else module.replace(".__main__", ""), *rest]
        if word in ("-W", "-X"):
            next(rest, None)
        elif not word.startswith("-"):
            return ["manage.py" if os.path.basename(word) == "manage.py" else word, *rest]
        elif word == "-c":
            break
    return words
