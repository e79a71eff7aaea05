"""The management commands that a project runs after migrations, or once.

They are in what deployment files declare for a release, in entry points and in compose files.
"""

import contextlib
import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from django_formula.inspect import code, process_files, project, shell
from django_formula.inspect.declared import Declared

_SCRIPT = re.compile(r"(\w+[-_])?entry-?point(\.sh)?|release([-_]\w+)?(\.sh)?")
#: Commands that a release has anyway, or that are not for one.
_OTHERS = re.compile(
    r"(make|show)?migrat\w*|collectstatic|createcachetable|compress|compilemessages|compilescss|check|createsuperuser"
    r"|run\w*|shell\w*|test\w*|loaddata|flush|wait\w*"
)
#: Commands that are for a new site, whatever a script runs whenever it starts, and those that may be; not of these.
_OF_NEW_SITE = re.compile(r"register_\w+|create_?(super|admin)\w*")
_ONCE = re.compile(
    r"(init|initiali[sz]e|seed|set_?up|bootstrap|populate|install|configure|ensure|create|load|import)(_\w+|db|data)"
)
_OF_DEVELOPMENT = re.compile(r"(^|_)(demo|samples?|dev|tests?|fake|dummy)(_|$)")
#: Words of shell by which lines are in a block of their own.
_OPENS, _ENDS = re.compile(r"(if|case|for|while|until)\b|.*\)\s*\{$|\{$"), re.compile(r"(fi|esac|done)\b|\}")
_ELSE = re.compile(r"else\b|elif\b|.*;;$")
_MIGRATE = ["manage.py", "migrate"]
#: A script of the source, as a command names it.
_SCRIPT_PATH = re.compile(r"(?:\./)?(?!/)(?!.*\.\.)[\w./-]+")
_SHELL = re.compile(r"#!\s*/\S*(sh|env \w*sh)\s")
_PLAIN = re.compile(r"manage\.py( [\w./=@:+-]+)+")


def after_migrate(tree: Path, deployed: Declared) -> tuple[list[str], str]:
    """Return the commands of manage.py that the project runs after migrate, and the file that has them."""
    for path, commands in _files(tree, deployed):
        others = (_OTHERS, _OF_NEW_SITE)
        following = [one for one in _following(commands) if not any(name.fullmatch(one[1]) for name in others)]
        texts = [shlex.join(words) for words in following]
        found = [text for text in texts if _PLAIN.fullmatch(text)]
        if found:
            return found, path
    return [], ""


def not_understood(tree: Path, deployed: Declared) -> list[str]:
    """Return the programs that deployment files declare for each release, but Django's and scripts that are read."""
    rows = {row: shell.commands(row) for row in deployed.release}
    every = [words for commands in rows.values() for words in commands or ()]
    scripts = [_script(tree, deployed, words) for words in every]
    own = [words[0] for words, script in zip(every, scripts, strict=True) if not script]
    programs = [program for program in own if program not in ("manage.py", "cd")]
    return [*(row for row, commands in rows.items() if commands is None), *dict.fromkeys(programs)]


def once(tree: Path, known: Collection[str], deployed: Declared) -> tuple[list[str], str]:
    """Return the commands of manage.py that a project runs for the first release, by its files, and the file.

    Those with words that a shell expands are without their arguments.

    Args:
        known: the commands that are known already.
    """
    for path, commands in _files(tree, deployed):
        words = [words[1:] for _block, words in commands if words[:1] == ["manage.py"] and len(words) > 1]
        words = [one for one in words if _is_for_new_site(one[0])]
        texts = [shlex.join(["manage.py", *one]) for one in words]
        found = [text if _PLAIN.fullmatch(text) else " ".join(text.split()[:2]) for text in texts]
        found = [text for text in dict.fromkeys(found) if text not in known]
        if found:
            return found, path
    return [], ""


def _is_for_new_site(name: str) -> bool:
    is_known = _OF_NEW_SITE.fullmatch(name) or _ONCE.fullmatch(name)
    return bool(is_known) and not _OF_DEVELOPMENT.search(name) and name not in ("createcachetable", "loaddata")


def loaded(tree: Path, installed: Collection[str], deployed: Declared) -> tuple[list[str], str]:
    """Return the fixtures that the project loads after migrate, and the file that has the command.

    Those that are named for development or tests, or are for applications that are not installed, are left out.

    Args:
        installed: the entries of INSTALLED_APPS.
    """
    for path, commands in _files(tree, deployed):
        words = [word for command in _following(commands) if command[1] == "loaddata" for word in command[2:]]
        names = [name for word in words if re.fullmatch(r"[\w./*-]+", word) for name in _fixtures(tree, word)]
        names = [
            name for name in names if _labels(tree / name) <= {part for app in installed for part in app.split(".")}
        ]
        if names:
            return names, path
    return [], ""


def _labels(path: Path) -> set[str]:
    """Return the labels of the applications whose rows a fixture in JSON has; none for another file."""
    with contextlib.suppress(ValueError, RecursionError):
        rows = json.loads(code.read(path)) if path.suffix == ".json" else []
        models = [str(row.get("model")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return {model.partition(".")[0] for model in models}
    return set()


def _fixtures(tree: Path, word: str) -> list[str]:
    """Return the fixtures that a word of loaddata names, which a shell expands."""
    if word.startswith(("/", "-")) or ".." in word:
        return []
    names = sorted(str(path.relative_to(tree)) for path in code.matching(tree, word)) if "*" in word else [word]
    return [name for name in names if process_files.is_for_live(Path(name))]


def _files(tree: Path, deployed: Declared) -> Iterator[tuple[str, list[tuple[int, list[str]]]]]:
    """Yield the files that may have commands for a release, and all their commands, as `_commands` has them."""
    if deployed.release:
        yield deployed.places["release"], _declared(tree, deployed)
    paths = [path.relative_to(tree) for path in project.walk(tree, None, depth=4)]
    is_compose = process_files.is_compose_file
    paths = [path for path in paths if _SCRIPT.fullmatch(path.name) or is_compose(path)]
    order = [(is_compose(path), "prod" not in str(path), len(path.parts)) for path in paths]
    for _rank, path in sorted(zip(order, paths, strict=True)):
        if process_files.is_for_live(path):
            yield str(path), [*_commands(tree / path)]


def _declared(tree: Path, deployed: Declared) -> list[tuple[int, list[str]]]:
    """Return the commands that deployment files declare for each release, and those of scripts among them.

    Without migrate they are for a database that is migrated already.
    """
    found: list[tuple[int, list[str]]] = []
    for words in (words for row in deployed.release for words in shell.commands(row) or ()):
        script = _script(tree, deployed, words)
        found += [(0, inner) for _block, inner in _commands(script)] if script else [(0, words)]
    has_migrate = any(words[:2] == _MIGRATE for _block, words in found)
    return found if has_migrate else [(0, _MIGRATE), *found]


def _script(tree: Path, deployed: Declared, words: Sequence[str]) -> Path | None:
    """Return the script of shell in the source that a command runs; None where it runs another program.

    It is named from the folder of the file that declares the command, or from one above that.
    """
    named = words[1] if words[0] in ("sh", "bash") and len(words) > 1 else words[0]
    if _SCRIPT_PATH.fullmatch(named):
        for folder in Path(deployed.places["release"]).parents:
            for path in (tree / folder / named, tree / folder / "bin" / named):  # `inspect.shell` takes bin away
                if (named.endswith(".sh") and path.is_file()) or _SHELL.match(code.read(path)):
                    return path
    return None


def _commands(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the commands of a file's lines, each with the number of the block that it is in."""
    text = code.read(path)
    if process_files.is_compose_file(path):
        lines = process_files.services(path, [])
        for block, service in enumerate(lines.values()):
            line = process_files.line_of(service)
            yield from ((block, words) for words in shell.commands(line) or ())
        return
    blocks, last = [0], 0
    for line in re.sub(r"\\\n\s*", " ", text[:20_000]).splitlines():
        row = re.sub(r"\|\|.*", "", line).strip()
        if _ENDS.match(row):
            blocks = blocks[:-1] or [0]
        elif _OPENS.match(row) or _ELSE.match(row):
            last += 1
            blocks = [*(blocks if _OPENS.match(row) else blocks[:-1]), last]
            if re.search(r";\s*(fi|done|esac)$", row):
                blocks = blocks[:-1]
        elif not row.startswith(("exec ", "#")):
            yield from ((blocks[-1], words) for words in shell.commands(row) or ())


def _following(commands: Iterable[tuple[int, list[str]]]) -> Iterator[list[str]]:
    """Yield the commands of manage.py that come after migrate in the same block."""
    migrated: set[int] = set()
    for block, words in commands:
        if words[:2] == _MIGRATE:
            migrated.add(block)
        elif block in migrated and words[:1] == ["manage.py"] and len(words) > 1:
            yield words
