"""
What people may do with a site: functions of ``django`` that have the name of the site, and no option.

Salt's ``publisher_acl`` limits the first arguments of a function and none of the others, so that a right to call
``django.rollback blog`` is one to force it. Each function here checks ``people`` of the site, as last applied, for the
user who has published the job. See docs/guides/people.md.
"""

import os

import django_engine

django_engine.use()

from django_formula.host import lazy  # noqa: F401 - the others run when they are used

# isort: split
from django_formula.audit import caller, people
from django_formula.deploy import request
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import shown_answer

__virtualname__ = "django_ops"
__outputter__ = {"logs": "txt"}


def __virtual__():
    return __virtualname__


def _of_verb(verb):
    """Return the function for one of `django`."""

    def called(site):
        try:
            people.refuse(site, verb, _callers())
        except DeploymentError as error:
            __context__["retcode"] = 1
            return shown_answer(str(error))
        return __salt__[f"django.{verb}"](site)

    called.__name__ = called.__qualname__ = verb
    called.__doc__ = f"""
    Call ``django.{verb}`` for a site, without any option, if ``people`` of the site has it for who calls.

    site
        Name of the site.

    CLI Example:

    .. code-block:: bash

        salt web1 django_ops.{verb} blog
    """
    return called


globals().update({verb: _of_verb(verb) for verb in people.VERBS})


def _callers():
    person = os.environ.get(caller.PERSON)
    return {*request.publishers(__opts__), *([person] if person else [])}
