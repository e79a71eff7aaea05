"""Metrics as text: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Labels = Mapping[str, str]


class Family(NamedTuple):
    """The metrics of one name: what Prometheus says of them, and their values by labels.

    Attributes:
        kind: ``gauge``, ``counter`` or ``histogram``.
        samples: a suffix of the name, empty but for a histogram, labels and a value.
    """

    name: str
    kind: str
    says: str
    samples: list[tuple[str, Labels, float]]


def gauge(name: str, says: str, values: Iterable[tuple[Labels, float | None]]) -> Family:
    """Return the values of one name that may rise and fall; None is left out."""
    return Family(name, "gauge", says, [("", labels, value) for labels, value in values if value is not None])


def counter(name: str, says: str, values: Iterable[tuple[Labels, float | None]]) -> Family:
    """Return the values of one name that only rise; None is left out."""
    return gauge(name, says, values)._replace(kind="counter")


def text(families: Iterable[Family]) -> str:
    """Return the metrics as Prometheus reads them; a name without values is left out."""
    lines = []
    for one in families:
        if one.samples:
            lines += [f"# HELP {one.name} {one.says}", f"# TYPE {one.name} {one.kind}"]
        for suffix, labels, value in one.samples:
            pairs = ",".join(f'{label}="{_quoted(label_value)}"' for label, label_value in labels.items())
            lines.append(f"{one.name}{suffix}{'{' if pairs else ''}{pairs}{'}' if pairs else ''} {_number(value)}")
    return "\n".join([*lines, ""])


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.9g}"
