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
from django_formula.deploy import origin as deploy_origin
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.source import commits
from django_formula.untrusted.text import shown_answer
from django_formula.verbs import requests as verbs_requests

__virtualname__ = "django_ops"
__outputter__ = {"logs": "txt"}


def __virtual__():
    return __virtualname__


def _of_verb(verb):
    """Return the function for one of `django`."""

    def called(site):
        return _call(verb, site)

    def called_for_a_commit(site, commit=""):
        return _call(verb, site, str(commit))

    is_of_commits = verb in people.OF_COMMITS
    function = called_for_a_commit if is_of_commits else called
    function.__name__ = function.__qualname__ = verb
    commit = """
    commit
        A commit that is part of the site's revision, instead of its newest one.
    """
    function.__doc__ = f"""
    Call ``django.{verb}`` for a site, without any option, if ``people`` of the site has it for who calls.

    site
        Name of the site.
    {commit.strip() if is_of_commits else ""}
    CLI Example:

    .. code-block:: bash

        salt web1 django_ops.{verb} blog
    """
    return function


def _call(verb, site, commit=""):
    """Call a function of `django`, if who calls may do so; one that fails has its return code."""
    site = sites.spelled(site, sites.registered)
    try:
        people.refuse(site, verb, _callers())
        revision = [commits.of_revision(sites.find(site), commit)] if commit else []
    except DeploymentError as error:
        __context__["retcode"] = verbs_requests.CODES["refused"] if verb == "request" else 1
        return shown_answer(str(error))
    return __salt__[f"django.{verb}"](site, *revision)


globals().update({verb: _of_verb(verb) for verb in people.VERBS})


def _callers():
    person = os.environ.get(caller.PERSON)
    return {*deploy_origin.publishers(__opts__), *([person] if person else [])}
