"""
One site on many hosts: release, roll back, show what they serve. Each command is one for all hosts, and each host gets
the same release or keeps what it serves. See docs/guides/fleet.md.

.. code-block:: yaml

    # the master's configuration
    runner_dirs: [/srv/django-formula/_runners]
    pillar_dirs: [/srv/django-formula/_pillar]
    ext_pillar: [{django: /srv/django-fleet}]
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time

import salt.utils.event

for _name in ("engine", "utils"):  # of the formula, or of what Salt has synced
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), _name))

import django_engine

django_engine.use()

from django_formula.audit.caller import Caller
from django_formula.fleet import canary as fleet_canary
from django_formula.fleet import dashboard as fleet_dashboard
from django_formula.fleet import deployment, known_minions, minions, record, rotation
from django_formula.fleet import doctor as fleet_doctor
from django_formula.fleet import promotion as fleet_promotion
from django_formula.fleet import requests as fleet_requests
from django_formula.fleet import store as fleet_store
from django_formula.fleet import watch as fleet_watch
from django_formula.host.commands import DeploymentError
from django_formula.secret import references
from django_formula.site import sites
from django_formula.untrusted.text import shown_answer, tell
from django_formula.verbs import terminal

__virtualname__ = "django"


def __virtual__():
    return __virtualname__


def deploy(site, revision=None, roster=False, batch="25%", exclude=(), keep_going=False, full=None, canary=True):
    """
    Release a site on all its hosts: as a whole, or not at all. The exit code is 1 when it was not released. Of several
    sites it shows a line for each: how it ended, its commit, hosts and seconds.

    site
        Name of the site; or a pattern such as ``shop-*``, a tag of the pillar such as ``tag:eu``, or several with
        commas between them: these sites are released one after the other, and the first one that fails is the last one.
    revision
        Branch, tag or commit, instead of the revision of the pillar.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.
    batch
        How many hosts switch at once, after the first one: a number, or a percentage of all.
    exclude
        Hosts to leave out, such as dead ones, with commas between them. ``status`` shows them until an apply has
        brought them to the common release.
    keep_going
        Of several sites, release the others too when one fails.
    full
        Of several sites, rows for programs in place of lines for people; by default where ``--out`` is for programs.
    canary
        With ``False`` all visitors get the release at once, also where the pillar has ``releases:canary``.

    CLI Example:

    .. code-block:: bash

        salt-run django.deploy blog
        salt-run django.deploy blog v2.4.1
        salt-run django.deploy blog roster=True
        salt-run django.deploy blog batch=1
        salt-run django.deploy blog exclude=web7
        salt-run django.deploy blog canary=False
        salt-run django.deploy 'shop-*' v2.4.1
        salt-run django.deploy tag:eu keep_going=True
    """
    if {*"*?[,:"} & {*str(site)}:
        return _answer(
            lambda: _several(
                site, keep_going, full, lambda name: deploy(name, revision, roster, batch, exclude, canary=canary)
            )
        )
    with _watched(site, roster):

        def deployed():
            wanted = terminal.revision(revision)
            options = {"batch": str(batch), "exclude": _names(exclude), "canary": bool(canary)}
            fleet = _fleet(site, "deploy", roster, **options)
            return record.told(fleet, "deploy", _user(), wanted, lambda: fleet.deploy(wanted))

        return _answer(deployed)


def request(site, revision=None, wait=True, roster=False):
    """
    Request the release of a site on all its hosts. While another deployment runs it waits; of several that wait the
    newest is released, and the others end as ``superseded``, which is no failure. The exit code is 1 when it failed.

    site
        Name of the site.
    revision
        Branch, tag or commit, instead of the revision of the pillar. It is looked up when the release begins.
    wait
        Wait for the final status also where another runner works the requests off.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.

    CLI Example:

    .. code-block:: bash

        salt-run django.request blog
        salt-run django.request blog v2.4.1 wait=False
    """

    def requested():
        store = _store(site)
        made = fleet_requests.put(store, terminal.revision(revision), Caller(_user(), how="salt"))
        return _ended(store, made, wait, roster)

    answer = _answer(requested)
    _fail_as(answer)
    return answer


def promote(site, commit=None, wait=True, roster=False):
    """
    Request the release of the commit that is active on another site with several hosts, the one of ``promote:from``,
    once it has proved itself there: see docs/guides/promotion.md. The answer has the plan of one host too. The exit
    code is 1 when it has not, or when the release failed. While a release of the site gets a share of the visitors,
    give it to all of them instead, whatever is known of it: the deployment that waits for that goes on.

    site
        Name of the site that gets the commit.
    commit
        The commit that is expected to be active there, at least seven digits of it.
    wait
        Wait for the final status also where another runner works the requests off.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.

    CLI Example:

    .. code-block:: bash

        salt-run django.promote blog
        salt-run django.promote blog 3f2a9c1b77de
    """

    def promoted():
        store, by = _store(site), Caller(_user(), how="salt")
        if store.proving():
            return fleet_canary.decide(store, "promote", f"{by.who} (salt-run django.promote)")
        found = fleet_promotion.find(store, None if commit is None else str(commit))
        fleet = _fleet(site, "promote", roster)
        fleet_promotion.refuse_unproved(found, fleet, _fleet(found.source.site, "promote", roster), by)
        plan = fleet_promotion.plan(found, fleet)
        origin = by._replace(how=f"promote from {found.source.site}")
        made = fleet_requests.put(store, found.commit, origin, is_promoted=True)
        return {**_ended(store, made, wait, roster), "plan": plan}

    answer = _answer(promoted)
    _fail_as(answer)
    return answer


def back(site):
    """
    Give all visitors the former release again, on all hosts, where a release gets a share of them. The deployment that
    waits for the canary fails.

    site
        Name of the site.

    CLI Example:

    .. code-block:: bash

        salt-run django.back blog
    """
    return _answer(lambda: fleet_canary.decide(_store(site), "back", f"{_user()} (salt-run django.back)"))


def canary(site, share=None, token=None, roster=False):
    """
    Change which share of the visitors gets the new release on all hosts, while a deployment waits for its canary.

    site
        Name of the site.
    share
        From 0 to 50 percent; the steps of the pillar do not go on then: ``promote`` or ``back`` ends it.
    token
        With ``True`` the answer has a cookie by which people get the release from every host; with ``False`` none does.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.

    CLI Example:

    .. code-block:: bash

        salt-run django.canary blog share=20
        salt-run django.canary blog share=0 token=True
    """
    return _answer(lambda: fleet_canary.share(_fleet(site, "canary", roster), share, token=token))


def approve(site, commit=None):
    """
    Record that you approve the promotion of a commit to a site: ``promote:approve`` is how many others have to.

    site
        Name of the site that gets the commit.
    commit
        The commit that is expected to be active on the other site, at least seven digits of it.

    CLI Example:

    .. code-block:: bash

        salt-run django.approve blog 3f2a9c1b77de
    """

    def approved():
        found = fleet_promotion.find(_store(site), None if commit is None else str(commit))
        return fleet_promotion.approve(found, Caller(_user(), how="salt"))

    return _answer(approved)


def _ended(store, made, wait, roster):
    """Work off what is requested of a site; return the status of a request."""
    _work_requests_off(store, roster)
    return fleet_requests.ended(store, made, wait=bool(wait))


def _fail_as(answer):
    """Have the exit code 1 where a request has failed, or was refused by its checks."""
    if answer.get("status") in ("failed", "refused"):
        __context__["retcode"] = 1
        answer["retcode"] = 1


def requests(site, full=None):
    """
    Show the requests of a site with several hosts, the newest first: those that wait or run, and the last twenty with
    their final status, each with who asked and why it has ended so.

    site
        Name of the site.
    full
        Rows for programs in place of lines for people; by default where ``--out`` is for programs.

    CLI Example:

    .. code-block:: bash

        salt-run django.requests blog
    """
    return _answer(lambda: {site: _rows(fleet_requests.rows(_store(site)), terminal.requests, full)})


def _work_requests_off(store, roster):
    """Deploy what is requested of a site until nothing waits, unless another runner does."""

    def deployed(revision, by):
        fleet = _fleet(store.site, "deploy", roster, is_overtaken=lambda: fleet_requests.waits(store))
        answer = record.told(fleet, "deploy", by.who, revision, lambda: fleet.deploy(revision))
        return f"{answer['commit'][:12]} is active"

    def looked(revision):
        return _fleet(store.site, "request", roster).commit_of(revision)

    def token(text):
        return references.value(text, __salt__["sdb.get"]) if text.startswith(references.SCHEME) else text

    with _watched(store.site, roster):
        fleet_requests.work(store, fleet_requests.Verbs(deployed, looked, token))


def rollback(site, to=None, force=False, roster=False, batch="25%", exclude=()):
    """
    Roll all hosts of a site back to an older commit, of which each host still has a release. The commit that was
    active is put on hold.

    site
        Name of the site.
    to
        Commit to return to. The one before the active one by default.
    force
        Roll back even if the older release does not work with the schema of the databases.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.
    batch
        How many hosts switch at once, after the first one: a number, or a percentage of all.
    exclude
        Hosts to leave out, as for ``deploy``.

    CLI Example:

    .. code-block:: bash

        salt-run django.rollback blog
        salt-run django.rollback blog 3f2a9c1b77de
    """
    to = None if to is None else str(to)
    with _watched(site, roster):

        def rolled_back():
            fleet = _fleet(site, "rollback", roster, batch=str(batch), exclude=_names(exclude))
            return record.told(fleet, "rollback", _user(), to, lambda: fleet.rollback(to, force=force))

        return _answer(rolled_back)


def rotate_secret_key(site):
    """
    Give all hosts of a site a new secret key, by two releases of the commit that they serve: no session is lost. The
    former key is accepted until all that it has signed has expired.

    site
        Name of the site.

    CLI Example:

    .. code-block:: bash

        salt-run django.rotate_secret_key blog
    """
    with _watched(site, False):

        def rotated():
            fleet = _fleet(site, "rotate_secret_key", False, rotation.Rotation)
            return record.told(fleet, "rotate_secret_key", _user(), None, fleet.rotate_secret_key)

        return _answer(rotated)


def status(site=None, roster=False):
    """
    Show what the hosts of sites serve, which of them get no requests from balancers (``no_requests``), and which ones a
    deployment has left out (``excluded``). The exit code is 1 when one does not answer, is behind or was left out.

    site
        Name of the site. All sites with hosts by default.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.

    CLI Example:

    .. code-block:: bash

        salt-run django.status
        salt-run django.status blog
    """
    answer = _answer(lambda: {name: _fleet(name, "status", roster).status() for name in _chosen(site)})
    if any(isinstance(row, dict) and row.get("behind") for row in answer.values()):
        __context__["retcode"] = 1
        answer["retcode"] = 1
    return answer


def _chosen(site):
    """Return the name of a site, of all without one."""
    return _sites() if site in (None, "") else [sites.spelled(site, _sites)]


def _sites():
    return fleet_store.sites(_folder())


def doctor(site, url="", roster=False):
    """
    Find out on which hosts a site does not answer, and why: its balancers, and each host with its releases, walk
    through it as ``django.doctor`` does, and answer with the broken link and what to do there. The exit code is 1 when
    one has a broken link or does not answer.

    site
        Name of the site.
    url
        What a visitor asks for. The page at the site's own path by default.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.

    CLI Example:

    .. code-block:: bash

        salt-run django.doctor blog
        salt-run django.doctor blog https://blog.example.org/archive/
    """
    answer = _answer(lambda: fleet_doctor.walk(_fleet(site, "doctor", roster), url))
    if "retcode" not in answer and not fleet_doctor.is_whole(answer):
        __context__["retcode"] = 1
        answer["retcode"] = 1
    return answer


def history(site=None, count=20, full=None):
    """
    Show the last deployments on several hosts, the newest first, those too that failed or whose runner was killed: who
    asked for what, its commit, hosts, seconds and cause.

    site
        Name of the site. All sites by default.
    count
        How many at most.
    full
        Rows for programs in place of lines for people; by default where ``--out`` is for programs.

    CLI Example:

    .. code-block:: bash

        salt-run django.history
        salt-run django.history blog count=5
    """
    return _answer(lambda: _rows(record.history(_folder(), sites.spelled(site, _sites), count), record.lines, full))


def dashboard(folder, roster=False):
    """
    Write a page of all hosts with sites that answer this master into a folder, and ``hosts.json``, by which a host that
    is silent is shown with what it was when it last answered.

    folder
        Folder that only root may write to; created for root alone where it is missing.
    roster
        By salt-ssh, of the hosts of its roster, instead of by minions.

    CLI Example:

    .. code-block:: bash

        salt-run django.dashboard /srv/status
    """

    def written():
        place, found = terminal.place(folder, "folder"), _hosts(roster, applies=False)
        return fleet_dashboard.write(place, found, _names_of(found, roster))

    return _answer(written)


def watch(since=None, roster=False, seen=False):
    """
    Ask all hosts of the store whether they answer, for ten seconds at most, and show those that are ``silent``;
    ``known`` has those of which that is expected: they are drained, left out, or being deployed. The timer of a master
    that ``django:watch:fleet`` names calls it every two minutes, and sends the messages.

    since
        Offset in the file of deployments, of which those after it are shown; of the last answer.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions: for 25 seconds at most, whether they can be
        logged in to.
    seen
        Have all hosts return what a page shows of them, too.

    CLI Example:

    .. code-block:: bash

        salt-run django.watch
        salt-run django.watch roster=True
    """

    def asked():
        if since is not None and type(since) is not int:
            raise DeploymentError(f"since: expected an offset, got {since!r}", hint="offset of the last answer has it")
        hosts, folder = _hosts(roster, applies=False), _folder()
        if roster:
            _forget_jobs()

        def fleet_of(site):
            return deployment.Fleet(fleet_store.Store(folder, site), hosts, "watch", lambda _phase, _found: None)

        return fleet_watch.watch(folder, hosts, fleet_of, since, _names_of(hosts, roster) if seen else None)

    return _answer(asked)


def _forget_jobs():
    """Remove old jobs from Salt's cache once an hour: what is called every two minutes leaves some, and without a
    master's daemon nothing else removes them."""
    if time.gmtime().tm_min < 2:
        import salt.daemons.masterapi  # only here: it imports most of Salt

        salt.daemons.masterapi.clean_old_jobs(__opts__)


def _names_of(hosts, roster):
    """Return the names of all hosts: of the roster, or of the minions that the master has accepted."""
    return hosts.names() if roster else known_minions.accepted(__opts__)


def drain(site, host, roster=False):
    """
    Have the balancers give a host of a site no new requests; those that it has are finished.

    site
        Name of the site.
    host
        Name of the host's minion.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.

    CLI Example:

    .. code-block:: bash

        salt-run django.drain blog web2
    """
    return _answer(lambda: _fleet(site, "drain", roster).set_backend(str(host), "drain"))


def join(site, host, roster=False):
    """
    Have the balancers give a host of a site requests again, while its checks pass.

    site
        Name of the site.
    host
        Name of the host's minion.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.

    CLI Example:

    .. code-block:: bash

        salt-run django.join blog web2
    """
    return _answer(lambda: _fleet(site, "join", roster).set_backend(str(host), "ready"))


def abandon(site, roster=False, own=False):
    """
    End a deployment whose runner is gone: what it has prepared is removed, and hosts that have switched go back. The
    master does so by itself when a runner is killed. A claim of another master ends after a minute, three by salt-ssh,
    or by this.

    site
        Name of the site.
    roster
        By salt-ssh, to the hosts of its roster, instead of by minions.
    own
        End only a deployment of this master.

    CLI Example:

    .. code-block:: bash

        salt-run django.abandon blog
    """

    def ended():
        fleet = _fleet(site, "abandon", roster)
        answer = fleet.abandon(own=own)
        if own:  # its runner has reported no end
            record.interrupted(fleet, answer)
        return answer

    outcome = _answer(ended)
    if own:  # it may have worked requests off
        _answer(lambda: _resume_requests(_store(site), roster))
    return outcome


def _resume_requests(store, roster):
    if fleet_requests.is_open(store):
        _work_requests_off(store, roster)


def _several(pattern, keep_going, full, act):
    """Call a function for each site of a pattern, up to the first one that fails; return a row of each."""
    rows = []
    failed = ""
    for name in fleet_store.matching(_folder(), str(pattern)):
        if failed and not keep_going:
            rows.append(record.row(name, "not begun", {"error": f"{failed} failed before it"}))
            continue
        answer = act(name)
        error = answer.get("error", "")
        failed = name if error else failed
        rows.append(record.row(name, "failed" if error else "released", answer))
        first = error.split("\n")[0] if error else f"{answer.get('commit', '')[:12]} is active"
        tell(f"{name}: {first}", is_error=True)
    if failed:
        __context__["retcode"] = 1
    return {"sites": _rows(rows, terminal.deployments, full), **({"retcode": 1} if failed else {})}


def _rows(rows, view, full):
    """Return rows for programs, or a view of them for people (docs/decisions/0054)."""
    return rows if terminal.is_for_programs(__opts__, full) else view(rows)


def _names(hosts):
    """Return the names of hosts: those of a list, or of a text with commas between them; 7 is one as Salt reads it."""
    names = hosts if isinstance(hosts, (list, tuple)) else str("" if hosts is None else hosts).split(",")
    return [str(name).strip() for name in names if str(name).strip()]


def _user():
    """Return who has called the runner, as Salt tells its functions; who has become root by sudo is sudo_ada there."""
    found = globals().get("__user__") or "UNKNOWN"
    return getpass.getuser() if found == "UNKNOWN" else str(found).removeprefix("sudo_")


def _folder():
    """Return the folder of the store, which the master's configuration names."""
    for entry in __opts__.get("ext_pillar") or ():
        if isinstance(entry.get("django"), str):
            return entry["django"]
    raise DeploymentError(
        "the master has no store for the hosts of sites",
        hint="add to its configuration, and restart it: ext_pillar: [{django: /srv/django-fleet}]",
    )


def _store(site):
    """Return the store of a site, whose name Salt's command line may have read as another value."""
    return fleet_store.Store(_folder(), sites.spelled(site, _sites))


def _fleet(site, verb, roster, kind=deployment.Fleet, **options):
    def report(phase, found):
        if os.path.exists(os.path.join(__opts__["sock_dir"], "master_event_pull.ipc")):  # without a master, no bus
            with (
                contextlib.suppress(Exception),  # no deployment depends on an event
                salt.utils.event.get_event("master", opts=__opts__, listen=False) as events,
            ):
                events.fire_event({"site": site, "phase": phase, **found}, f"django/{site}/{verb}/{phase}")
        if phase in ("begin", "end"):
            return
        hosts = ", ".join(f"{host} {text}" for host, text in found["hosts"].items())
        # At once and apart from the answer, which may be read by a program.
        tell(f"{phase} {found['seconds']} s: {hosts}", is_error=True)

    by = f"{getpass.getuser()} (salt-run django.{verb}{' roster=True' if roster else ''} on {socket.gethostname()})"
    store = _store(site)
    words = ["roster=True"] if roster else []
    return kind(store, _hosts(roster), by, report, words=words, **options)


def _hosts(roster, applies=True):
    """Return how functions are called on hosts: by minions, or by salt-ssh on those of the roster.

    applies
        Whether later applies of these hosts are to have what is done now.
    """
    if not roster:
        if applies and __opts__.get("pillar_cache"):
            raise DeploymentError(
                "the master keeps the pillars of its minions, so an apply would take hosts back to an older release",
                hint="set pillar_cache: false in its configuration, and restart it",
            )
        return minions.Minions(__opts__)
    try:
        from django_formula.fleet import roster as fleet_roster  # only here: salt-ssh is a package of its own
    except ImportError as error:
        raise DeploymentError(f"salt-ssh is not installed here: {error}", hint="apt install salt-ssh") from None
    return fleet_roster.Roster(__opts__)


@contextlib.contextmanager
def _watched(site, roster):
    """Have a process end the deployment of this block, should it not end itself: see ``abandon``.

    A shell reads from a pipe whose other end is this process's alone. Without a line from it, this one was killed, or
    interrupted while it ended the deployment.
    """
    runner = shutil.which("salt-run")
    if not runner:
        yield
        return
    configuration = f"--config-dir={os.path.dirname(__opts__['conf_file'])}"
    options = [f"site={site}", f"roster={bool(roster)}", "own=True"]
    argv = [runner, configuration, "--out=quiet", "django.abandon", *options]
    nothing = subprocess.DEVNULL
    shell = subprocess.Popen(  # noqa: S603 - the shell's command is a constant, and has the rest as arguments
        ["sh", "-c", 'read -r over || exec "$@"', "sh", *argv],
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )
    assert shell.stdin  # noqa: S101 - it is a pipe
    try:
        yield
    except BaseException:
        shell.stdin.close()
        tell(f"{site}: what was begun is being ended; salt-run django.status {site} shows it", is_error=True)
        raise
    shell.communicate(b"over\n")


def _answer(verb):
    """Return what a command answers; where it fails, the error, and the exit codes that Salt knows.

    Each of the two is needed: salt-run looks into the answer, an orchestration into the context.
    """
    try:
        return shown_answer(verb())
    except (DeploymentError, OSError) as error:
        __context__["retcode"] = 1
        return {"retcode": 1, "error": shown_answer(str(error))}
