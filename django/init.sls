#!py
"""
The Django sites of this host: ``salt '*' state.apply django``. The pillar is described in pillar.example. The parts:

django.sync        our own modules, where they are missing or old
django.clean       removes sites with `state: absent`
django.balancer    HAProxy or nginx, where this host balances sites between their hosts
django.place       stops where another deployment is in the path of a site
django.host        packages and uv
django.watch       messages about problems of the sites and of this host
django.proxy       nginx and Apache, which reject unknown hosts
django.postgres    PostgreSQL, where a site has its database on a server of this host
django.mysql       MariaDB, likewise
django.database    what other hosts use of those servers
django.supervisor  the process manager where it is not systemd
django.cache       queue and caches that this host has for the other hosts of a site
django.site        each site, step by step

The last state repeats all errors: Salt prints them far above, followed by every state that was not run.

They are put together here, with one compilation of the pillar, and not included: of each included file Salt asks the
master for the file itself and for all that it imports. See docs/decisions/0065. Those that every host with sites has are
made by engine/django_formula/pillar/states.py, and their files are for a part that is applied alone: docs/decisions/0107.
"""

OUTCOME = "All of it has succeeded"


def run():
    files = _rendered("salt://_utils/django_fileserver.py", "py")
    django = _rendered(files.path("salt://django/django_pillar_render.py"), "py", files=files)
    if django["errors"]:
        return _failing(django["errors"])
    states = {}
    for part in django["order"]:
        own = django["parts"].get(part)
        if own is None:
            path = files.path(f"salt://django/{part}.sls")
            own = _rendered(path, "jinja|yaml", sls=f"django.{part}", files=files, django=django) or {}
        # As if the part had been included: requisites may name its SLS.
        own = {name: state for name, state in own.items() if name != "include"}
        states.update({name: {**state, "__sls__": f"django.{part}"} for name, state in own.items()})
    states[OUTCOME] = {"django.outcome": [{"order": "last"}], "__sls__": "django"}
    return states


def _rendered(path, renderer, **context):
    return __salt__["slsutil.renderer"](path, default_renderer=renderer, saltenv=__env__, **context)


def _failing(errors):
    return {
        "The pillar has errors": {
            "test.fail_without_changes": [
                {"name": "\n" + "\n".join(errors)},
                {"comment": "Correct the pillar; nothing has been changed."},
                {"failhard": True},
            ]
        }
    }
