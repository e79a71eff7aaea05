"""The management commands that a project runs in each release after migrations: in its Procfile or entry point."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import django_project
import django_project_code
import django_project_process_files
import django_project_shell

_SCRIPT = re.compile(r"(\w+[-_])?entry-?point(\.sh)?|release([-_]\w+)?(\.sh)?")
#: Commands that a release has anyway, or that are not for one.
_OTHERS = re.compile(
    r"(make|show)?migrat\w*|collectstatic|createcachetable|compress|compilemessages|compilescss|check|createsuperuser"
    r"|run\w*|shell\w*|test\w*|loaddata|flush|wait\w*"
)
#: Words of shell by which lines are in a block of their own.
_OPENS, _ENDS = re.compile(r"(if|case|for|while|until)\b|.*\)\s*\{$|\{$"), re.compile(r"(fi|esac|done)\b|\}")
_ELSE = re.compile(r"else\b|elif\b|.*;;$")
_PLAIN = re.compile(r"manage\.py( [\w./=@:+-]+)+")


def after_migrate(tree: Path) -> tuple[list[str], str]:
    """Return the commands of manage.py that the project runs after migrate, and the file that has them."""
    paths = [path.relative_to(tree) for path in django_project.files(tree, None, depth=4)]
    paths = [path for path in paths if path.name == "Procfile" or _SCRIPT.fullmatch(path.name)]
    for path in sorted(paths, key=lambda one: (one.name != "Procfile", "prod" not in str(one), len(one.parts), one)):
        if not django_project_process_files.is_for_live(path):
            continue
        found = [*_following(_commands(path.name, django_project_code.read(tree / path)))]
        if found:
            return found, str(path)
    return [], ""


def _commands(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the commands of a file's lines, each with the number of the block that it is in."""
    if name == "Procfile":
        found = re.search(r"^release:\s*(\S.*)", text, re.MULTILINE)
        yield from ((0, words) for words in django_project_shell.commands(found[1] if found else "") or ())
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
            yield from ((blocks[-1], words) for words in django_project_shell.commands(row) or ())


def _following(commands: Iterable[tuple[int, list[str]]]) -> Iterator[str]:
    """Yield the commands of manage.py that come after migrate in the same block."""
    migrated: set[int] = set()
    for block, words in commands:
        if words[:2] == ["manage.py", "migrate"]:
            migrated.add(block)
        elif block in migrated and words[:1] == ["manage.py"] and len(words) > 1:
            text = shlex.join(words)
            if _PLAIN.fullmatch(text) and not _OTHERS.fullmatch(words[1]):
                yield text
