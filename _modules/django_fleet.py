"""
What the master's runner ``django`` has the hosts of a site do, one part of a release at a time: see
docs/guides/fleet.md. People call the runner instead: ``salt-run django.deploy blog``.
"""

import django_engine
import salt.pillar

django_engine.use()

from django_formula.host import lazy  # noqa: F401 - the others run when they are used

# isort: split
from django_formula.database import served as database_served
from django_formula.deploy.entries import entry
from django_formula.doctor import walks
from django_formula.host.commands import DeploymentError
from django_formula.page import pages
from django_formula.secret import secrets as secret_secrets
from django_formula.store import served as store_served
from django_formula.verbs import fleet
from django_formula.verbs import proof as verbs_proof

__virtualname__ = "django_fleet"


def __virtual__():
    return __virtualname__


def ready(site):
    """
    Return what the master has to know before a deployment: the active release, the next number, a fingerprint of
    the secret key, the hosts as last applied, who deploys the site.

    site
        Name of the site.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.ready blog
    """
    return _answer(lambda: fleet.ready(site))


def resolve(site, revision=None):
    """
    Return the commit of a revision.

    site
        Name of the site.
    revision
        Branch, tag or commit. That of the last apply by default.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.resolve blog main
    """
    return _answer(lambda: {"commit": fleet.resolve(site, None if revision is None else str(revision))})


def release(site, commit):
    """
    Return the newest release of a commit that can be activated again.

    site
        Name of the site.
    commit
        Commit, or its first characters, seven at least.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.release blog 3f2a9c1b77de
    """
    return _answer(lambda: fleet.release(site, str(commit)))


def proof(site):
    """
    Return what the promotion of a commit has to know of a host: the active commit, whether its page answers well, and
    what two sites must have in common.

    site
        Name of the site.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.proof staging
    """
    return _answer(lambda: fleet.proof(site))


def plan(site, commit):
    """
    Return what a release of a commit would change on this host.

    site
        Name of the site.
    commit
        Commit, whole.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.plan blog 3f2a9c1b77de0f2f1f0a4c9b3b0a5d1c2e3f4a5b
    """
    return _answer(lambda: fleet.plan(site, str(commit)))


def claim(site, deployment, by, until):
    """
    Claim a site for a deployment.

    site
        Name of the site.
    deployment
        Id of the deployment.
    by
        Who has started it, and where.
    until
        When the claim ends by itself (Unix time).

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.claim blog 20260301T120000-4711 'root on master1' 1772366460
    """
    return _answer(lambda: fleet.claim(site, deployment, by, until))


def renew(site, deployment, until):
    """
    Have the claim of a deployment end later, unless it was given back.

    site, deployment, until
        As for ``django_fleet.claim``.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.renew blog 20260301T120000-4711 1772366520
    """
    return _answer(lambda: fleet.renew(site, deployment, until))


def keys(site, deployment, by):
    """
    Take the secret keys of the master's store, which come with the pillar, for the release that is prepared next.

    site, deployment, by
        As for ``django_fleet.claim``.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.keys blog ID 'root on master1'
    """
    return _answer(lambda: fleet.keys(site, deployment, by, _keys(site)))


def prepare(site, deployment, by, commit, sequence):
    """
    Build a release up to its static files.

    site, deployment, by
        As for ``django_fleet.claim``.
    commit
        What is released.
    sequence
        Number of the release.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.prepare blog ID 'root on master1' 3f2a9c1b77de24f0c7e5a1d8b9630e4f5a6b7c8d 42
    """
    return _answer(lambda: _done(*fleet.prepare(site, deployment, by, commit, sequence)))


def migrate(site, deployment, by, until):
    """
    Push static files and migrate the databases for the prepared release, on one host for all.

    site, deployment, by, until
        As for ``django_fleet.claim``; nothing is begun after ``until``.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.migrate blog ID 'root on master1' 1772366460
    """
    return _answer(lambda: _done(*fleet.migrate(site, deployment, by, until)))


def start(site, deployment, by, until, migrated):
    """
    Start the prepared release, and check its health.

    site, deployment, by, until
        As for ``django_fleet.migrate``.
    migrated
        Migrations that one host has applied for all.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.start blog ID 'root on master1' 1772366460 '[]'
    """
    return _answer(lambda: _done(*fleet.start(site, deployment, by, until, migrated)))


def canary(site, deployment, by, until):
    """
    Give the release that was started a share of the visitors, which a program of this host carries on.

    site, deployment, by, until
        As for ``django_fleet.migrate``.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.canary blog ID 'root on master1' 1772366460
    """
    return _answer(lambda: _done(*fleet.canary(site, deployment, by, until)))


def proving(site, deployment):
    """
    Return how far the canary of a deployment is on this host: running, passed or ended.

    site, deployment
        As for ``django_fleet.claim``.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.proving blog 20260301T120000-4711
    """
    return _answer(lambda: fleet.proving(site, deployment))


def share(site, deployment, percent=None, token=None):
    """
    Change which share of the visitors gets the release of a deployment on this host, and whether a token does.

    site, deployment
        As for ``django_fleet.claim``.
    percent
        From 0 to 50; None leaves the share as it is.
    token
        Whether people get the release by a cookie; None leaves it as it is.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.share blog 20260301T120000-4711 20
    """
    return _answer(lambda: verbs_proof.share_of_fleet(site, deployment, percent, token=token))


def switch(site, deployment, by, until):
    """
    Activate the release that was started. The former instance runs on until ``django_fleet.finish``.

    site, deployment, by, until
        As for ``django_fleet.migrate``.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.switch blog ID 'root on master1' 1772366460
    """
    return _answer(lambda: _done(*fleet.switch(site, deployment, by, until)))


def start_older(site, deployment, by, until, commit, force=False):
    """
    Start the newest release of an older commit that is still on this host, for ``rollback``.

    site, deployment, by, until
        As for ``django_fleet.migrate``.
    commit
        Commit of the release.
    force
        Also where it does not work with the schema of the databases.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.start_older blog ID 'root on master1' 1772366460 3f2a9c1b77de24f0c7e5a1d8b9630e4f5a6b7c8d
    """
    return _answer(lambda: _done(*fleet.start_older(site, deployment, by, until, commit, force=force)))


def rollback(site, deployment, by, until, commit, force=False):
    """
    Activate the newest release of an older commit that is still on this host.

    site, deployment, by, until
        As for ``django_fleet.migrate``.
    commit
        Commit of the release.
    force
        Also where it does not work with the schema of the databases.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.rollback blog ID 'root on master1' 1772366460 3f2a9c1b77de24f0c7e5a1d8b9630e4f5a6b7c8d
    """
    return _answer(lambda: _done(*fleet.rollback(site, deployment, by, until, commit, force=force)))


def finish(site, deployment, by, first, known):
    """
    End a deployment on this host, when all hosts have switched: the former instance is stopped.

    site, deployment, by
        As for ``django_fleet.claim``.
    first
        The host that runs the commands of ``after_switch`` for all; empty where none does.
    known
        Commit, number and held commits of the release that the hosts have in common now.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.finish blog ID 'root on master1' web1 '{commit: …, sequence: 42, held: []}'
    """
    return _answer(lambda: _done(*fleet.finish(site, deployment, by, first, known)))


def abandon(site, deployment, by, keep=False):
    """
    Give up a deployment: remove what it has prepared, take back what it has activated.

    site, by
        As for ``django_fleet.claim``.
    deployment
        Id of the deployment; empty for whichever has claimed the site last.
    keep
        All hosts have activated it: it stays active.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.abandon blog '' 'root on master1'
    """
    return _answer(lambda: fleet.abandon(site, deployment, by, keep))


def backend(site, host=None, state="state"):
    """
    Show how the balancer on this host sees a host of a site, or change whether it gives it requests.

    site
        Name of the site.
    host
        Minion's name of the host. All hosts by default, which can only be shown.
    state
        ``drain``: no new requests, except, with HAProxy, those of visitors whom a sticky site keeps there. ``maint``:
        no requests and no health checks. ``ready``: requests again, while the health checks pass. ``state`` changes
        nothing.

    CLI Example:

    .. code-block:: bash

        salt lb1 django_fleet.backend blog
        salt lb1 django_fleet.backend blog web2 drain
    """
    return _answer(lambda: entry("state of a backend")(site, host, state))


def expect(site, commits, count=None):
    """
    Set the commits of which the balancer on this host gives a host of a site requests. Without any, the release of a
    host does not count. Returns whether that changed anything.

    site
        Name of the site.
    commits
        List of whole commits.
    count
        Number of the release that the hosts have in common now; applies of an older pillar do not change the commits.

    CLI Example:

    .. code-block:: bash

        salt lb1 django_fleet.expect blog '[3f2a9c1b77de24f0c7e5a1d8b9630e4f5a6b7c8d]'
    """
    return _answer(lambda: entry("commits that are expected")(site, commits, count))


def serves(site):
    """
    Return the addresses of the hosts that may log in to the database of a site on this host, once its server has
    answered.

    site
        Name of the site.

    CLI Example:

    .. code-block:: bash

        salt db1 django_fleet.serves blog
    """
    return _answer(lambda: {"clients": database_served.clients(site)})


def stores(site):
    """
    Return the addresses of the hosts that may use the queue and caches of a site on this host, once their servers have
    answered. Without systemd addresses do not count, and there are none.

    site
        Name of the site.

    CLI Example:

    .. code-block:: bash

        salt cache1 django_fleet.stores blog
    """

    def found():
        clients = store_served.clients(site)
        return {} if clients is None else {"clients": clients}

    return _answer(found)


def seen():
    """
    Return what the page of the master's runner shows of this host: its problems, its sites, their last deployments.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.seen
    """
    return _answer(pages.here)


def balances():
    """
    Return what is wrong with the sites that this host balances, by their names: a text, and the hosts that get no
    requests where others do.

    CLI Example:

    .. code-block:: bash

        salt lb1 django_fleet.balances
    """
    return _answer(lambda: {"sites": walks.balancers()})


def doctor(site, url=""):
    """
    Walk through a site as ``django.doctor`` does, without DNS, whose records are of the balancers.

    site
        Name of the site.
    url
        What a visitor asks for. The page at the site's own path by default.

    CLI Example:

    .. code-block:: bash

        salt web1 django_fleet.doctor blog
    """
    return _answer(lambda: walks.doctor(site, url, skip_network=True))


def _keys(site):
    """Return the site's secret keys of this host's pillar, which is compiled anew for it."""
    found = salt.pillar.get_pillar(__opts__, __grains__, __opts__["id"], __opts__.get("saltenv"))
    own = found.compile_pillar().get("django", {}).get("sites", {}).get(site, {})
    given = {"secret_key": own.get("secret_key"), **(own.get("fleet", {}).get("keys") or {})}
    return secret_secrets.named_keys(given)


def _done(deployment, answer):
    """Return what a part of a deployment has done, with its release, the seconds of each step, and warnings."""
    release = deployment.release.name if deployment.release else ""
    warnings = list(dict.fromkeys(deployment.warnings))
    report = deployment.findings.switch_report or {}
    requests = {key: report[key] for key in ("sent", "failed") if key in report}
    return {"release": release, "seconds": deployment.seconds, "warnings": warnings, **requests, **answer}


def _answer(verb):
    """Return what a verb answers; where it fails, the error, which the master shows with the host's name."""
    try:
        return verb()
    except (DeploymentError, OSError) as error:
        __context__["retcode"] = 1
        return {"error": str(error)}
