"""What the code of a project says of its background work: Celery's application, queues, entries of beat."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django_formula.inspect import code, project

_WORDS = re.compile(r"celery|Celery|periodic_task|apply_async|shared_task")


@dataclass
class Tasks:
    """What was found.

    Attributes:
        apps: Celery's applications, as ``-A`` takes them → file and line.
        brokers: URLs of brokers that an application has as an argument, or sets itself → file and line.
        queues: names of queues that tasks are sent to.
        has_beat: whether an application has entries of beat.
    """

    apps: dict[str, str] = field(default_factory=dict)
    brokers: dict[str, str] = field(default_factory=dict)
    queues: list[str] = field(default_factory=list)
    has_beat: bool = False


def read(roots: Sequence[Path]) -> Tasks:
    """Return what the modules of a project say of Celery.

    Args:
        roots: the folders that it is imported from, the folder of manage.py first.
    """
    found = Tasks()
    for root in roots:
        for path in project.own_files([root], None, depth=5):
            text = code.read(path) if path.suffix == ".py" else ""
            if _WORDS.search(text):
                _module(found, root, path, code.parse(text))
    return found


def _module(found: Tasks, root: Path, path: Path, tree: ast.Module) -> None:
    inside = path.relative_to(root)
    module = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
    names = set()
    for name, call in _applications(tree) if code.is_module(module) else ():
        names.add(name)
        found.apps[module if name in ("app", "celery") else f"{module}:{name}"] = f"{inside}:{call.lineno}"
        for keyword in call.keywords:
            if keyword.arg == "broker":
                _broker(found, keyword.value, f"{inside}:{keyword.value.lineno}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _call(found, node, names)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                _assignment(found, code.dotted(target), node.value, f"{inside}:{node.lineno}")


def _applications(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield the names at the top level of a module that are an application of Celery."""
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(value, ast.Call) and code.dotted(value.func).rpartition(".")[2] == "Celery":
            yield from ((target.id, value) for target in targets if isinstance(target, ast.Name))


def _broker(found: Tasks, value: ast.expr, place: str) -> None:
    """Keep the place of a URL that is written into the code; one that is read from somewhere can be set there."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        found.brokers.setdefault(value.value, place)


def _assignment(found: Tasks, target: str, value: ast.expr, place: str) -> None:
    if target.endswith((".conf.beat_schedule", ".conf.CELERYBEAT_SCHEDULE")):
        found.has_beat |= not (isinstance(value, ast.Dict) and not value.keys)
    elif target.endswith((".conf.broker_url", ".conf.BROKER_URL")):
        _broker(found, value, place)
    elif target.endswith(".conf.task_routes"):
        _add(found, queues_of(value))


def _call(found: Tasks, node: ast.Call, names: set[str]) -> None:
    function = code.dotted(node.func)
    last = function.rpartition(".")[2]
    if last == "add_periodic_task":
        found.has_beat = True
    elif function.endswith("conf.update"):
        for keyword in node.keywords:
            found.has_beat |= keyword.arg == "beat_schedule"
            _add(found, queues_of(keyword.value) if keyword.arg == "task_routes" else [])
    is_task = last in ("shared_task", "apply_async") or (
        last == "task" and function.partition(".")[0] in {*names, "app"}
    )
    for keyword in node.keywords if is_task else ():
        if keyword.arg == "queue" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            _add(found, [keyword.value.value])


def queues_of(node: ast.expr) -> list[str]:
    """Return the queues in a literal of ``task_routes``, in their order."""
    queues = []
    for part in ast.walk(node):
        if isinstance(part, ast.Dict):
            for key, value in zip(part.keys, part.values, strict=True):
                is_queue = isinstance(key, ast.Constant) and key.value == "queue" and isinstance(value, ast.Constant)
                queues += [str(value.value)] if is_queue and isinstance(value, ast.Constant) else []
    return queues


def _add(found: Tasks, queues: Sequence[str]) -> None:
    found.queues += [queue for queue in dict.fromkeys(queues) if queue not in found.queues]
