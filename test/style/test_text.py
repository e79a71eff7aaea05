"""Text of others leaves the formula by `untrusted.text` alone: the places are found in the code, and each is checked.

A place is a value within a text of ours (an f-string, or a template of ``str.format``) that is a part of a pillar or of
a command, and each way to a terminal: an error, a log, a print, what Salt gets from a function.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import parsed
import pytest

ROOT = Path(__file__).parents[2]
WALL = "untrusted/text"
#: The types of text that has left by a function of the wall.
TYPES = {"Shown", "InPillar", "InCommand", "InPage"}
#: Programs that a hint or a comment may propose to root.
PROGRAMS = (
    "runuser|sudo|chown|chmod|chgrp|rm|mkdir|cp|mv|ln|mount|umount|usermod|curl|wget|git clone|psql|mysql|fuser|tar"
    "|kill|cat|systemctl|journalctl|salt-call|salt-run|salt|df -h|df -i|install -d|apt install|sh -c|python3 -c"
)
#: A value, after its program, up to the end of the command: what separates it from the words around it.
COMMAND = re.compile(rf"(?:^|(?<=[\s(;&|:'\"`]))(?:{PROGRAMS}) [^;,:\n]*?\0")
#: A value in a list or map of YAML, or after a key of a site.
YAML = re.compile(r":\s*[\[{][^\]}\n]*\0|(?:django:sites:\0|(?:^|(?<=[\s(]))\0)(?::\w+)+: ['\"]?\0")
#: Values that have no character with a meaning: patterns of schema.yaml hold what the operator named, and the formula
#: makes the others.
NAMES = re.compile(
    r"(self\.|database\.|left\.|target\.|deployment\.)?site\.(name|user|proxy_group|process)|self\.name|self\.site|NAME"
    r"|(self\.live|target|release|former\[-1\])\.name|(server|DAEMON|self|daemon)\.(unit|service)|unit\(.*\)|name|site|verb"
    r"|(live|found|target|self\.live)\.record(\['commit'\]|\.get\('commit', ''\))|uid|user|port"
)
#: Places where a value is no text of others, by module and expression; each says why.
OWN = {
    ("_runners/django", "' roster=True' if roster else ''"): "our own word",
    ("_runners/django", "socket.gethostname()"): "who asks, which the master shows",
    ("compose/image", "_quoted(path)"): "a Dockerfile, whose paths have the characters of a pattern",
    ("compose/image", "files"): "of these",
    ("compose/services", "condition"): "a compose file: our own word",
    ("compose/services", "suffix"): "of ours",
    ("compose/services", "path"): "of ours",
    ("compose/settings", "queue"): "a module of settings: an address of ours",
    ("deploy/origin", "path.name"): "a prose: the number of a job of Salt",
    ("site/mount", "site.media"): "prose: the mount, whose path the pillar has",
    ("site/mount", "mount['device']"): "prose, of the pillar",
    ("site/mount", "owner"): "a number",
    ("site/mount", "path.name"): "our own unit",
    ("backup/dumps", "package"): "a package of our table",
    ("database/server", "database.user"): "of the pillar",
    ("host/ports", "row[9]"): "the number of a socket of Linux",
    ("takeover/process", "inode"): "the number of a socket of Linux",
    ("pillar/store", "_alias_of(alias)"): "of the pillar",
    ("schedule/schedules", "at"): "prose: the value that the pillar has",
    ("knowledge/cause", "word"): "our own word",
    ("knowledge/cause", "engine"): "our own word",
    ("knowledge/cause_file", "top"): "made of the name of the site",
    ("takeover/detection", "kind"): "our own word",
    ("tls/certificates", "reason"): "prose of OpenSSL",
}


class Place(NamedTuple):
    module: str
    line: int
    value: str

    def __str__(self) -> str:
        return f"{self.module}.py:{self.line}: {self.value}"


@functools.cache
def trees() -> dict[str, ast.Module]:
    folders = ("engine/django_formula", "_modules", "_states", "_runners", "_pillar")
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {f"{path.parent.name}/{path.stem}": parsed.tree(path) for path in paths}


@functools.cache
def makers() -> frozenset[str]:
    """The functions whose result has one of the types, as `module.function`."""
    return frozenset(
        f"{module.rpartition('/')[2]}.{node.name}"
        for module, tree in trees().items()
        for node in parsed.walked(tree)
        if isinstance(node, ast.FunctionDef) and node.returns
        if ast.unparse(node.returns).removesuffix(" | None") in TYPES
    )


def is_made(node: ast.AST, function: ast.AST, module: str) -> bool:
    """Whether a value comes from the wall: a call, or a name that only such calls are assigned to."""
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        is_maker = bool({name, f"{module.rpartition('/')[2]}.{name}", f"text.{name}"} & makers())
        return is_maker or (name.endswith(".join") and all(_all_made(one, function, module) for one in node.args))
    return isinstance(node, ast.Name) and _all_made(node, function, module)


def _all_made(node: ast.AST, function: ast.AST, module: str) -> bool:
    if isinstance(node, ast.List | ast.Tuple):
        return all(is_made(one, function, module) for one in node.elts)
    if not isinstance(node, ast.Name):
        return is_made(node, function, module)
    values = [
        one.value
        for one in parsed.walked(function)
        if isinstance(one, ast.Assign) and [parsed.name(target) for target in one.targets] == [node.id]
    ]
    is_cycle = any(isinstance(value, ast.Name) for value in values)
    return bool(values) and not is_cycle and all(_all_made(value, function, module) for value in values)


@functools.cache
def functions(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    """The innermost function of each node of a module."""
    inner = [node for node in parsed.walked(tree) if isinstance(node, ast.FunctionDef)]
    return {node: function for function in [tree, *inner] for node in parsed.walked(function)}


@functools.cache
def places(tree: ast.AST, pattern: re.Pattern[str]) -> list[tuple[int, ast.expr, ast.AST]]:
    """The values in texts of a module that a pattern finds, and the function of each."""
    found = []
    for text in parsed.walked(tree):
        if isinstance(text, ast.JoinedStr):
            values = [part for part in text.values if isinstance(part, ast.FormattedValue)]
            plain = "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in text.values)  # type: ignore[misc]
            for number in _found(plain, pattern):
                found.append((text.lineno, values[number].value, functions(tree)[text]))
    return found


def _found(text: str, pattern: re.Pattern[str]) -> Iterator[int]:
    """The numbers of the values in a text with which a match ends that begins anywhere."""
    ending = re.compile(f"(?:{pattern.pattern})$".replace("*?", "*"))
    for number, value in enumerate(re.finditer("\0", text)):
        if ending.search(text[: value.end()]):
            yield number


def unsafe(pattern: re.Pattern[str]) -> Iterator[Place]:
    for module, tree in trees().items():
        for line, value, function in places(tree, pattern) if module != WALL else ():
            text = ast.unparse(value)
            if not (is_made(value, function, module) or NAMES.fullmatch(text) or (module, text) in OWN):
                yield Place(module, line, text)


def test_every_exception_is_one():
    """A place that is gone, or that the wall writes by now, is none."""
    found = {
        (module, ast.unparse(value))
        for module, tree in trees().items()
        for pattern in (COMMAND, YAML)
        for _line, value, function in places(tree, pattern)
        if not is_made(value, function, module)
    }
    assert {*OWN} - found == set()


def test_values_in_commands_are_quoted_by_the_wall():
    assert [*map(str, unsafe(COMMAND))] == []


def test_values_in_pillars_are_written_by_the_wall():
    assert [*map(str, unsafe(YAML))] == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (COMMAND, "f'run: chown -R root {path}'"),
        (COMMAND, "f'runuser -u {site.user} -- mkdir -p {folder}'"),
        (COMMAND, "f'move it away: mv {site.name} {a}.aside'"),
        (COMMAND, "f'{at}; then salt-call django.restore {site.name} {name[2]}'"),
        (YAML, "f'set {at}:sandbox: {{ReadWritePaths: [{folder}]}}'"),
        (YAML, "f\"set {at}:environment: {{A: '{value}'}}\""),
        (YAML, "f'{at}:settings_module: {module}'"),
        (YAML, "f'keep django:sites:{site}:python_path: {path}'"),
    ],
)
def test_a_value_that_nothing_writes_is_found(pattern, line):
    tree = ast.parse(line)
    assert [value for _, value, function in places(tree, pattern) if not NAMES.fullmatch(ast.unparse(value))]


def test_a_value_of_the_wall_is_known():
    code = "def a(x):\n one = in_command('mv', x)\n return f'run: rm {one} and {hints.flow(x)}, mv {b}'"
    found = [*places(ast.parse(code), re.compile(r"\0"))]
    assert [is_made(value, function, "x") for _, value, function in found] == [True, True, False]


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call of the code, with its module."""
    for module, tree in trees().items():
        yield from ((module, node) for node in parsed.walked(tree) if isinstance(node, ast.Call))


def test_no_other_module_makes_the_types():
    made = [
        f"{module}:{call.lineno}"
        for module, call in calls()
        if module != WALL and (getattr(call.func, "attr", "") or getattr(call.func, "id", "")) in TYPES
    ]
    assert made == []


#: A program that imports nothing of ours: what it prints is the output of a command, which the engine shows.
ALONE = {"untrusted/reaper", "observe/program", "proxy/relay"}


def test_what_is_printed_and_logged_is_shown():
    ways = ("print", "sys.stdout.write", "sys.stderr.write", "logging.getLogger", "logging.info", "logging.warning")
    found = [
        f"{module}:{call.lineno}"
        for module, call in calls()
        if module not in {WALL, *ALONE} and parsed.name(call.func) in ways
    ]
    assert found == []


def test_what_salt_gets_is_shown():
    """All that a state, a function or a runner returns; those of a fleet answer the master, which shows it."""
    found = []
    for module in ("_modules/django", "_states/django", "_runners/django"):
        for function in trees()[module].body:
            if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
                continue
            if not {ast.unparse(one).partition("(")[0] for one in function.decorator_list} & {"_state", "_verb"}:
                found += [f"{module}:{one.lineno}" for one in _returns(function) if not _is_shown(one.value, function)]
    assert found == []


def _returns(function: ast.AST) -> Iterator[ast.Return]:
    """The values that a function returns, without those of functions in it."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield from _returns(node)


def _is_shown(value: ast.expr | None, function: ast.FunctionDef) -> bool:
    if isinstance(value, ast.Name):
        values = [
            one.value for one in parsed.walked(function) if isinstance(one, ast.Assign) and value.id in _names(one)
        ]
        return bool(values) and all(_is_shown(one, function) for one in values)
    return isinstance(value, ast.Call) and ast.unparse(value.func) in ("shown_answer", "_answer", "_run")


def _names(assignment: ast.Assign) -> list[str]:
    return [ast.unparse(target) for target in assignment.targets]


def test_no_pattern_passes_over_blank_lines_before_its_own():
    """It would begin at each of them, which takes hours where a file of others has a million."""
    found = [
        f"{module}:{node.lineno}"
        for module, tree in trees().items()
        for node in parsed.walked(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\^\\s[*+](?!\$)", node.value)
    ]
    assert found == []
