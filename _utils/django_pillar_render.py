"""Compile the pillar while Salt renders: `django/init.sls` and `map.jinja` run this file by Salt's py renderer.

The formula's modules may not be synced to the minion yet. So the modules that compile the pillar are loaded from the
file server too, lower ones first: each is registered in ``sys.modules``, where the imports of the next ones find it.
See docs/decisions/0004.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

#: What compiles the pillar, in the order of its imports.
MODULES = (
    "django_kinds",
    "django_deploy_order",
    "django_database_engine",
    "django_pillar_check",
    "django_pillar_rules",
    "django_pillar_layers",
    "django_pillar_worker",
    "django_pillar_email",
    "django_pillar_listen",
    "django_pillar_schedule",
    "django_pillar_server",
    "django_pillar_proxy",
    "django_pillar_database",
    "django_pillar_fleet",
    "django_pillar_store",
    "django_pillar_static",
    "django_pillar_pool",
    "django_pillar_database_host",
    "django_pillar_balancer",
    "django_pillar_cache",
    "django_pillar_container",
    "django_pillar_site",
    "django_pillar",
    "django_pillar_states",
)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Each file that imports map.jinja runs this one anew. The pillar of one apply is one object, so its last compilation is
# kept from one run to the next: reading modules and schema through Salt costs more than all the rest.
KEPT: list[Any] = getattr(sys.modules.get("django_pillar_render"), "KEPT", [])


def run() -> dict[str, Any]:
    """Return `django_pillar.compile` over this minion's pillar and grains, and `django_pillar_states.parts` of that."""
    context = globals()  # Salt's py renderer adds __salt__ and the like
    given = context["__pillar__"].get("django")
    if not KEPT or KEPT[0] is not given:
        KEPT[:] = [given, *_compiled(context, given)]
    compiled, table = KEPT[1:]
    parts = sys.modules["django_pillar_states"].parts(compiled, context["__grains__"], table)  # Salt writes into them
    return {**compiled, "parts": parts}


def _compiled(context: dict[str, Any], given: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """Return the compiled pillar, and what reads a table of the formula."""
    environment = {"saltenv": context["saltenv"]} if context.get("saltenv") else {}
    if "no_such_module" in context["__salt__"]:
        table = _loaded_on_master(context["__salt__"], environment)
    else:
        files = context.get("files")  # django/init.sls gives it
        cached = files.path if files else functools.partial(context["__salt__"]["cp.cache_file"], **environment)
        table = _loaded_on_minion(cached)
    tables = (table("schema"), table("platforms"))
    return sys.modules["django_pillar"].compile({"django": given}, *tables, context["__grains__"]), table


def _loaded_on_master(functions: Any, environment: dict[str, str]) -> Callable[[str], Any]:
    """Load `MODULES` under salt-ssh, whose wrapper contains every name; return what reads a file of `django/`.

    There `cp.cache_file` would name a file of the target, so Salt's renderers fetch the files.
    """
    render = functions["slsutil.renderer"]
    for name in MODULES:
        render(f"salt://_utils/{name}.py", default_renderer="py", **environment)
    return lambda name: render(f"salt://django/{name}.yaml", default_renderer="yaml", **environment)


def _loaded_on_minion(cached: Callable[[str], str]) -> Callable[[str], Any]:
    """Load `MODULES`, for which Salt need not build its renderers anew for each file; return the same."""
    for name in MODULES:
        spec = importlib.util.spec_from_file_location(name, cached(f"salt://_utils/{name}.py"))
        assert spec is not None and spec.loader is not None  # noqa: S101 - the path ends in .py
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module

    def table(name: str) -> Any:
        text = Path(cached(f"salt://django/{name}.yaml")).read_bytes()
        return yaml.load(text, Loader=_LOADER)  # noqa: S506  # nosec B506 - a safe loader

    return table
