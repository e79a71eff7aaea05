"""Compile the pillar while Salt renders: `django/init.sls` and `map.jinja` run this file by Salt's py renderer.

The formula's modules may not be synced to the minion yet. So the engine, which compiles the pillar, is loaded from the
file server too. See docs/decisions/0004.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

#: The engine.
ENGINE = "salt://_utils/django_engine.py"
# Each file that imports map.jinja runs this one anew. The pillar of one apply is one object, so its last compilation is
# kept from one run to the next: reading the engine through Salt costs more than all the rest.
KEPT: list[Any] = getattr(sys.modules.get("django_pillar_render"), "KEPT", [])


def run() -> dict[str, Any]:
    """Return `pillar.compiler.compile` over this minion's pillar and grains, and `pillar.states.parts` of that."""
    context = globals()  # Salt's py renderer adds __salt__ and the like
    given = context["__pillar__"].get("django")
    if not KEPT or KEPT[0] is not given:
        KEPT[:] = [given, *_compiled(context, given)]
    from django_formula.pillar import parts, states

    compiled, pythons = KEPT[1:]
    return {
        **compiled,
        "parts": states.parts(compiled, context["__grains__"], pythons),
        "order": parts.order(compiled),
    }  # Salt writes into them


def _compiled(context: dict[str, Any], given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the compiled pillar, and what `states.parts` needs of the versions of Python."""
    environment = {"saltenv": context["saltenv"]} if context.get("saltenv") else {}
    if "no_such_module" in context["__salt__"]:  # salt-ssh, whose wrapper contains every name
        # There `cp.cache_file` would name a file of the target, so Salt's renderer fetches the file.
        context["__salt__"]["slsutil.renderer"](ENGINE, default_renderer="py", **environment)
    else:  # no need to build Salt's renderers anew
        files = context.get("files")  # django/init.sls gives it
        path = files.path(ENGINE) if files else context["__salt__"]["cp.cache_file"](ENGINE, **environment)
        _use_engine(path, context["__opts__"]["cachedir"])
    from django_formula.pillar import compiler, tables

    known = tables.read()
    pillar = {"django": given} if "django" in context["__pillar__"] else {}
    compiled = compiler.compile(pillar, known["schema"], known["platforms"], context["__grains__"])
    return compiled, known["pythons"]


def _use_engine(path: str, cachedir: str) -> None:
    """Have the engine importable, by the module that brings it."""
    spec = importlib.util.spec_from_file_location("django_engine", path)
    assert spec is not None and spec.loader is not None  # noqa: S101 - the path ends in .py
    engine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(engine)
    engine.use(cachedir)
