"""Compile the pillar while Salt renders: `django/map.jinja` runs this file by Salt's py renderer.

The formula's modules may not be synced to the minion yet. So the modules that compile the pillar are rendered too,
lower ones first: the renderer registers each in ``sys.modules``, where the imports of the next ones find it. See
docs/decisions/0004.
"""

from __future__ import annotations

import sys
from typing import Any

#: What compiles the pillar, in the order of its imports.
MODULES = (
    "django_kinds",
    "django_database_engine",
    "django_pillar_check",
    "django_pillar_layers",
    "django_pillar_worker",
    "django_pillar_email",
    "django_pillar_listen",
    "django_pillar_schedule",
    "django_pillar_server",
    "django_pillar_proxy",
    "django_pillar_database",
    "django_pillar_store",
    "django_pillar_static",
    "django_pillar_site",
    "django_pillar",
)
# Each file that imports map.jinja runs this one anew. The pillar of one apply is one object, so its last compilation is
# kept from one run to the next: reading modules and schema through Salt costs more than all the rest.
KEPT: list[Any] = getattr(sys.modules.get("django_pillar_render"), "KEPT", [])


def run() -> dict[str, Any]:
    """Return `django_pillar.compile` over this minion's pillar and grains."""
    context = globals()  # Salt's py renderer adds __salt__ and the like
    given = context["__pillar__"].get("django")
    if not KEPT or KEPT[0] is not given:
        KEPT[:] = [given, _compiled(context, given)]
    result: dict[str, Any] = KEPT[1]
    return result


def _compiled(context: dict[str, Any], given: Any) -> dict[str, Any]:
    environment = {"saltenv": context["saltenv"]} if context.get("saltenv") else {}
    render = context["__salt__"]["slsutil.renderer"]
    for name in MODULES:
        render(f"salt://_utils/{name}.py", default_renderer="py", **environment)
    schema, platforms = (
        render(f"salt://django/{name}.yaml", default_renderer="yaml", **environment) for name in ("schema", "platforms")
    )
    compiled: dict[str, Any] = sys.modules["django_pillar"].compile(
        {"django": given}, schema, platforms, context["__grains__"]
    )
    return compiled
