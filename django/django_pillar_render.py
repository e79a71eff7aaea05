"""Compile the pillar while Salt renders: `django/init.sls` and `map.jinja` run this file by Salt's py renderer.

The formula's modules may not be synced to the minion yet. So the engine, which compiles the pillar, is loaded from the
file server too. See docs/decisions/0004.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

#: The engine.
ENGINE = "salt://_utils/django_engine.py"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Each file that imports map.jinja runs this one anew. The pillar of one apply is one object, so its last compilation is
# kept from one run to the next: reading the engine and the schema through Salt costs more than all the rest.
KEPT: list[Any] = getattr(sys.modules.get("django_pillar_render"), "KEPT", [])


def run() -> dict[str, Any]:
    """Return `pillar.compiler.compile` over this minion's pillar and grains, and `pillar.states.parts` of that."""
    context = globals()  # Salt's py renderer adds __salt__ and the like
    given = context["__pillar__"].get("django")
    if not KEPT or KEPT[0] is not given:
        KEPT[:] = [given, *_compiled(context, given)]
    from django_formula.pillar import parts, states

    compiled, table = KEPT[1:]
    return {
        **compiled,
        "parts": states.parts(compiled, context["__grains__"], table),
        "order": parts.order(compiled),
    }  # Salt writes into them


def _compiled(context: dict[str, Any], given: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """Return the compiled pillar, and what reads a table of the formula."""
    environment = {"saltenv": context["saltenv"]} if context.get("saltenv") else {}
    if "no_such_module" in context["__salt__"]:
        table = _loaded_on_master(context["__salt__"], environment)
    else:
        files = context.get("files")  # django/init.sls gives it
        cached = files.path if files else functools.partial(context["__salt__"]["cp.cache_file"], **environment)
        table = _loaded_on_minion(cached, context["__opts__"]["cachedir"])
    from django_formula.pillar import compiler

    return compiler.compile({"django": given}, table("schema"), table("platforms"), context["__grains__"]), table


def _loaded_on_master(functions: Any, environment: dict[str, str]) -> Callable[[str], Any]:
    """Use the engine under salt-ssh, whose wrapper contains every name; return what reads a file of `django/`.

    There `cp.cache_file` would name a file of the target, so Salt's renderers fetch the files.
    """
    render = functions["slsutil.renderer"]
    render(ENGINE, default_renderer="py", **environment)
    return lambda name: render(f"salt://django/{name}.yaml", default_renderer="yaml", **environment)


def _loaded_on_minion(cached: Callable[[str], str], cachedir: str) -> Callable[[str], Any]:
    """Use the engine, for which Salt need not build its renderers anew for each file; return the same."""
    spec = importlib.util.spec_from_file_location("django_engine", cached(ENGINE))
    assert spec is not None and spec.loader is not None  # noqa: S101 - the path ends in .py
    engine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(engine)
    engine.use(cachedir)

    def table(name: str) -> Any:
        text = Path(cached(f"salt://django/{name}.yaml")).read_bytes()
        return yaml.load(text, Loader=_LOADER)  # noqa: S506  # nosec B506 - a safe loader

    return table
