"""
Manage Django sites: show what runs, release, roll back, back up, run management commands.

Each verb uses the configuration that the last apply left on the host (``site.json``), not the master's pillar, so
it does the same with a master, masterless and by salt-ssh. A verb that fails returns the error as text and sets the
return code.
"""

import functools

import django_engine

django_engine.use()

from django_formula.host import lazy  # noqa: F401 - the others run when they are used

# isort: split
from django_formula.audit import verbs as audit_verbs
from django_formula.backup import backups as backup_backups
from django_formula.deploy import origin as deploy_origin
from django_formula.deploy import plan as deploy_plan
from django_formula.deploy.entries import entry
from django_formula.doctor import walks
from django_formula.host.commands import DeploymentError, seconds
from django_formula.inspect import inspection
from django_formula.page import pages
from django_formula.project import program
from django_formula.release import bus
from django_formula.site import sites as site_sites
from django_formula.untrusted.text import shown_answer
from django_formula.verbs import backup as verbs_backup
from django_formula.verbs import documentation, operations, rotation, terminal, trial
from django_formula.verbs import history as verbs_history
from django_formula.verbs import hold as verbs_hold
from django_formula.verbs import hook as verbs_hook
from django_formula.verbs import logs as verbs_logs
from django_formula.verbs import promotion as verbs_promotion
from django_formula.verbs import proof as verbs_proof
from django_formula.verbs import requests as verbs_requests
from django_formula.verbs import schedule as verbs_schedule
from django_formula.verbs import status as verbs_status
from django_formula.verbs import upgrade as verbs_upgrade
from django_formula.verbs import upgrade_database as verbs_upgrade_database
from django_formula.watch import notify as verbs_notify

__virtualname__ = "django"

# The others have Salt's own default, `nested`: `txt` would print the minion's name before each line of a pillar.
__outputter__ = {"manage": "txt", "logs": "txt"}

#: What is said of arguments that several verbs have.
_ARGUMENTS = {
    "site": "Name of the site.",
    "full": "Return rows with every key, as for ``django.status``.",
}


def __virtual__():
    return __virtualname__


def _verb(*examples, reads=False, shows=()):
    """Make a verb of a function: its answer is shown, an error is one, and the audit log has it.

    Its documentation is completed. The examples are what follows its name on the command line; `reads` and `shows` are
    those of `audit.verbs.Rule`.
    """

    def made(function):
        rule = audit_verbs.Rule(reads, shows)

        @functools.wraps(function)
        def verb(*arguments, **named):
            if arguments and function.__code__.co_varnames[0] == "site":
                arguments = (_site(arguments[0]), *arguments[1:])
            elif "site" in named:
                named["site"] = _site(named["site"])
            call = audit_verbs.Call(function, rule, arguments, named, lambda: deploy_origin.caller(__opts__))
            before = __context__.pop("retcode", 0)
            with call.recorded():
                try:
                    with bus.of_minion(__opts__):
                        answer = function(*arguments, **named)
                    if __context__.get("retcode"):
                        call.fail(f"return code {__context__['retcode']}")
                except (DeploymentError, OSError) as error:
                    __context__["retcode"] = 1
                    program.explain(error)
                    answer = str(error)
                    call.fail(answer)
            __context__.setdefault("retcode", before)
            return shown_answer(audit_verbs.with_warning(answer, call.warning))

        example = documentation.commands(f"{__virtualname__}.{function.__name__}", examples)
        verb.__doc__ = documentation.completed(function, _ARGUMENTS, example)
        return verb

    return made


def _site(name):
    return site_sites.spelled(name, site_sites.registered)


@_verb("", "blog --out json", reads=True)
def status(site=None, full=None):
    """
    Show the sites of this host: the problems first, then each site with its active release and every value that it
    has. The return code is 1 when a file that describes a site is damaged.

    site
        Name of the site. All sites of this host by default.
    full
        Return a list with one row per site and every key, also those without a value. By default ``salt-call`` does
        this when ``--out`` names an outputter for programs (json, yaml, pprint, raw). ``salt`` and ``salt-ssh`` do
        not send ``--out`` to the host; use ``full=True`` there.
    """
    return _rows(_status(site), terminal.status, full)


def _status(site):
    rows = [operations.status(site)] if site else operations.every_status()
    # A running minion has an older pillar in memory. By salt-ssh a verb has none.
    pillar = __salt__["pillar.items"]()
    sites = (pillar.get("django") or {}).get("sites") or {}
    if any(row["damage"] for row in rows):
        __context__["retcode"] = 1
    return [{**row, "managed": row["site"] in sites if pillar else None} for row in rows]


@_verb("blog", reads=True)
def releases(site, full=None):
    """
    Show the releases of a site on this host, the newest first, with age, health and whether the databases fit them.
    Failed attempts since the active release that left no release are listed first.
    """
    return _rows(verbs_status.releases(site_sites.find(site)), terminal.releases, full)


@_verb("blog", reads=True)
def steps(site, full=None):
    """
    Show the steps of a site's releases in their order: what each does, the user that runs what it runs of the project,
    and how long it took in the active release.
    """
    return _rows(verbs_status.steps(site_sites.find(site)), terminal.steps, full)


@_verb("blog", "blog 42 --out json", reads=True)
def record(site, release=None):
    """
    Return everything that is recorded about a release: commit, packages, migrations, duration of each step, who
    started it, requests that failed during the switch.

    release
        Name, number or commit (at least seven digits) of the release. The active release by default.
    """
    return operations.record(site, release)


@_verb("blog", "blog v2.4.1", shows=("revision",))
def release(site, revision=None, canary=True, wait=False):
    """
    Release a site now, also when nothing has changed, its commit is on hold, or it failed before.

    revision
        Branch, tag or commit to release instead of the revision of the last apply. The next apply uses the pillar's
        revision again, unless the site has ``deploy: manual``.
    canary
        With ``False`` all visitors get it at once, also where the pillar has ``releases:canary``.
    wait
        Wait until its canary has ended, and fail where it was taken back.
    """
    made, changes = operations.release(site, terminal.revision(revision), _asked_by("release"), is_proved=not canary)
    waits = wait and made.findings.is_proving
    return {**operations.answer(made, changes), **(verbs_proof.wait(site) if waits else {})}


@_verb("blog", reads=True)
def proof(site):
    """
    Return how the release fares that gets a share of the visitors, or has had one last: requests, errors, the routes
    that differ most, and the verdict. See docs/guides/canary.md.
    """
    return verbs_proof.show(site)


@_verb("blog", "blog share=20", "blog token=True", "blog share=0 token=True", shows=("share", "token"))
def canary(site, share=None, token=None):
    """
    Change who gets the release that is proved: a share of the visitors, and people with a cookie.

    share
        Percent of the visitors, from 0 to 50. The steps of the pillar do not go on then: ``django.promote`` and
        ``django.back`` end it.
    token
        With ``True`` the answer has a cookie by which people get that release, with ``False`` no cookie does.

    Without either it starts the program that carries the canary on, where that does not run.
    """
    return verbs_proof.share(site, share, token=token)


@_verb("blog")
def back(site):
    """
    Give all visitors the former release again, where a canary or a bake runs, and put the new one on hold.
    """
    return verbs_proof.back(site)


@_verb("blog", "blog v2.4.1", "blog 3f2a9c1b77de wait=False", shows=("revision", "wait"))
def request(site, revision=None, wait=True):
    """
    Request the release of a commit. While another deployment runs it waits; of several that wait the newest is
    released, and the others end as ``superseded``. A request is kept on disk until it has a final status, so it
    survives a reboot, and the end of who asked. The answer has the status: ``released``; ``superseded`` by a newer
    request, or because the active commit contains it; ``failed``, with return code 1; ``refused``, with 2.

    revision
        Branch, tag or commit to release instead of the revision of the last apply. It is looked up now.
    wait
        Wait for the final status. With ``False`` the answer is that it waits.
    """
    by, salt_call = deploy_origin.caller(__opts__), deploy_origin.salt_call(__opts__)
    return _requested(verbs_requests.ask(site, terminal.revision(revision), by, salt_call, wait=bool(wait)))


def _requested(answer):
    """Return the answer of a request, whose status decides the return code."""
    if answer["status"] in verbs_requests.CODES:
        __context__["retcode"] = verbs_requests.CODES[answer["status"]]
    return answer


@_verb("blog", "blog --out json", reads=True)
def requests(site, full=None):
    """
    Show the requests of a site, the newest first: those that wait or run, and the last twenty with their final
    status, each with who asked and why it has ended so.
    """
    return _rows(verbs_requests.rows(site), terminal.requests, full)


@_verb("blog", "blog 3f2a9c1b77de wait=False", shows=("commit",))
def promote(site, commit=None, wait=True):
    """
    Request the release of the commit that is active on another site of this host, the one of ``promote:from``, once it
    has proved itself there: see docs/guides/promotion.md. The answer has the plan of the release too. While a release
    of the site gets a share of the visitors, give it to all of them instead, whatever is known of it.

    commit
        The commit that is expected to be active there, at least seven digits of it.
    wait
        Wait for the final status. With ``False`` the answer is that it waits.
    """
    if verbs_proof.runs(site):
        return verbs_proof.finish(site)
    by, salt_call = deploy_origin.caller(__opts__), deploy_origin.salt_call(__opts__)
    commit = None if commit is None else str(commit)
    options = {"wait": bool(wait), "asked_by": _asked_by("promote")}
    return _requested(verbs_promotion.promote(site, commit, by, salt_call, **options))


@_verb("blog", "blog 3f2a9c1b77de", shows=("commit",))
def approve(site, commit=None):
    """
    Record that you approve the promotion of a commit to a site: ``promote:approve`` is how many others have to.

    commit
        The commit that is expected to be active on the other site, at least seven digits of it.
    """
    commit = None if commit is None else str(commit)
    return verbs_promotion.approve(site, commit, deploy_origin.caller(__opts__))


@_verb("blog", "blog rotate=True", shows=("rotate",))
def hook(site, rotate=False):
    """
    Show the URL and the secret of a site's webhook, which the git server has to know. The answer has a secret: by a
    master it is in the master's job cache, so call it on the host.

    rotate
        Generate another secret first. The former one is accepted for a day.
    """
    return verbs_hook.hook(site, rotate=bool(rotate))


@_verb("blog", "blog v2.4.1", shows=("revision",))
def plan(site, revision=None):
    """
    Show what a release would change: commits, packages, migrations, effective settings, files, and what restarts.
    The release is built in a temporary folder, compared with the active release, and removed; nothing that serves
    is touched. The virtualenv is kept for the next release.

    revision
        Branch, tag or commit to compare instead of the revision of the last apply.
    """
    return deploy_plan.make(site, terminal.revision(revision), _asked_by("plan"))


@_verb("", "blog", reads=True)
def upgrade_check(site=None, full=None):
    """
    Show what an upgrade of this host to its distribution's next release changes for its sites, and what would not work
    then: whether each project is for that Python, whether its packages have wheels for it, PostgreSQL, queues and
    caches, packages and containers. Nothing is changed. The return code is 1 when there is a problem.

    site
        Name of the site. All sites of this host by default.
    """
    answer = _failing(verbs_upgrade.check(site), "problems")
    return _rows(answer, verbs_upgrade.view, full)


@_verb("blog", "blog rehearse", "blog run", "blog back", shows=("what", "to", "lose"))
def upgrade_database(site, what="plan", to=None, lose=False):
    """
    Upgrade the PostgreSQL of this host, in which a site has its database, to a newer version, with all sites that have
    databases there. The former cluster is kept, stopped. See docs/guides/upgrade-database.md.

    what
        ``plan`` shows the cluster and each reason that prevents an upgrade; with a reason the return code is 1.
        ``rehearse`` loads the newest backup into a cluster of the new version, which is removed. ``run`` upgrades.
        ``back`` has the former cluster serve again.
    to
        The new major version. The newest one that is installed or that apt has by default.
    lose
        Go back although something was written since the upgrade.
    """
    version = str(to) if to else None
    if what == "plan":
        return _failing(verbs_upgrade_database.plan(site, version), "problems")
    if what == "rehearse":
        return verbs_upgrade_database.rehearse(site, version)
    if what == "run":
        return verbs_upgrade_database.upgrade(site, version)
    if what == "back":
        return verbs_upgrade_database.back(site, lose=bool(lose))
    raise DeploymentError(f"django.upgrade_database does not know {what!r}", hint="plan, rehearse, run or back")


@_verb("blog")
def unlock(site):
    """
    End the deployment that holds the lock of a site: SIGTERM, after ten seconds SIGKILL. The active release keeps
    serving; the next apply repairs what the deployment left unfinished.
    """
    return operations.unlock(site)


@_verb("blog", "blog 0041-9be1c07d2a44 migrate=True", shows=("to", "migrate", "force"))
def rollback(site, to=None, migrate=False, force=False):
    """
    Roll back to the last good release before the active one, or to another release. The commit that was active is
    put on hold: applies do not release it again until the revision or the pillar changes. A newer release that is
    still on the host, such as the one on hold, is activated by its name without a new build.

    When the databases have migrations that the older release does not have, the answer is ``safe`` (the older
    release works with them), ``reversible`` or ``unsafe``. In the last two cases the rollback is refused.

    to
        Name, number or commit (at least seven digits) of a release.
    migrate
        Reverse the migrations that the older release does not have, before the switch.
    force
        Roll back even if the older release does not work with the schema of the databases.
    """
    options = {"migrate": migrate, "force": force, "asked_by": _asked_by("rollback")}
    return operations.answer(*operations.rollback(site, to, **options))


@_verb("blog")
def rotate_secret_key(site):
    """
    Generate a new secret key for a site and release the active commit with it. The old key becomes a fallback, so
    sessions remain valid.
    """
    return operations.answer(*rotation.rotate_secret_key(site, _asked_by("rotate_secret_key")))


@_verb("blog", "blog metrics", shows=("database",))
def rotate_database_password(site, database="default"):
    """
    Generate a new password for a database and release the active commit with it. The database has to be on a server
    that the formula sets up, and its login has to use a password. The server accepts both passwords until the old
    instance has exited, so no request fails.

    database
        Alias of the database in Django.
    """
    asked_by = _asked_by("rotate_database_password")
    return operations.answer(*rotation.rotate_database_password(site, str(database), asked_by))


@_verb("blog", "blog https://blog.example.org/archive/", "blog skip_network=True", reads=True)
def doctor(site, url="", skip_network=False, full=None):
    """
    Find out why a site does not answer: walk from its domain, DNS, port, certificate, server block, maintenance,
    release, process and socket to Django, the database, the page, its static files and the uploads. Each link is
    printed; the walk stops where the rest would only be a consequence, and prints the command that cures the broken
    link. Nothing is changed. The return code is 1 when a link is broken. On a host that balances the site it walks
    through the balancer: its programs, ports and certificate, and which hosts get requests.

    url
        What a visitor asks for. The page at the site's own path by default; a balancer is always asked for that.
    skip_network
        Do not ask DNS, on a host that has none.
    """
    answer = walks.doctor(site, url, skip_network=bool(skip_network))
    if answer["broken"]:
        __context__["retcode"] = 1
    return _rows(answer, walks.view, full)


@_verb("blog", reads=True)
def drift(site):
    """
    Report files that differ from the active release: source, static files, configuration, virtualenv, units, the
    proxy's files and secrets. Each path is reported as changed, missing or added, with its owner and modification
    time. The return code is 1 when there is one; a new release restores them.
    """
    return _failing(operations.drift(site), "drift")


@_verb("blog", shows=("force",))
def renew(site, force=False):
    """
    Renew the certificates of a site that are due, and order those that failed before, without waiting for the
    timer. The return code is 1 when an order fails; the existing certificate remains in use then.

    force
        Order certificates from the ACME authority even if they are not due.
    """
    return _failing(operations.renew(site, force=force), "warnings")


@_verb("blog on 'back at 14:00'", "blog off", "blog", reads=("switch",), shows=("switch", "message"))
def maintenance(site, switch="", message=""):
    """
    Switch the maintenance page of a site on or off, or report its state. While it is on, visitors get the page with
    status 503. It remains on during releases and reboots. Static files and uploads are still served, and the
    addresses in ``maintenance:allow`` of the pillar see the site.

    switch
        ``on`` or ``off``. Without it, the state is reported.
    message
        Text of the page. A time (14:00, 2026-03-01 06:00 UTC) or a duration (30m) in it is sent as ``Retry-After``.
    """
    # Salt reads arguments as YAML: on and off are booleans, 14:00 is the number of its minutes.
    switch = {True: "on", False: "off"}.get(switch, switch) if isinstance(switch, bool) else switch
    message = _of_base_60(message) if type(message) is int else str(message)
    return operations.maintenance(site, switch, message, _asked_by("maintenance"))


def _of_base_60(number):
    """Return the time, with seconds or without, that YAML has read as a number."""
    parts = [number // 3600, number // 60 % 60, number % 60] if number >= 24 * 60 else divmod(number, 60)
    return ":".join(f"{part:02}" for part in parts) if number >= 60 else str(number)


@_verb("blog", "blog 20", "blog off", shows=("lasts",))
def hold(site, lasts=""):
    """
    Have the requests of visitors wait while you restart a database or another server of the site, once those that the
    site's server has got are answered. They reach it again by themselves after the time. See ``releases:wait``.

    lasts
        For how many seconds, at most as long as a request waits, which is the default; or ``off``.
    """
    return verbs_hold.hold(site, "off" if lasts is False else str(lasts), _asked_by("hold"))


@_verb(
    "blog showmigrations",
    "blog 'createsuperuser --noinput --username admin' environment_file=/root/admin",
    shows=("command", "timeout"),
)
def manage(site, *command, environment_file=None, timeout="1h"):
    """
    Run a management command of the active release as the site's user, with its environment, in its sandbox. Before
    the first release is active, it runs in the newest one that failed; the first line of the output says so.

    command
        The command and its arguments, as several words or as one string. Salt would parse options as its own, and
        reads words as YAML, ``0012`` as 12; pass a command with such ones as one string.
    environment_file
        File on the host with additional variables in systemd's format, for values that must not appear in the
        process list.
    timeout
        Maximum duration, such as ``30s``, ``5m`` or ``1h``.
    """
    return operations.manage(site, operations.words(command), environment_file, seconds(timeout))


@_verb(
    "blog",
    "blog ada ada@example.org command='createsuperuser --noinput --first_name Ada'",
    "blog elspeth elspeth@example.org",
    shows=("username", "email"),
)
def superuser(site, username="admin", email="admin@localhost", command=""):
    """
    Create a superuser with a generated password. The password is written to a file that only root can read; the
    answer names the file.

    username
        Username of the superuser.
    email
        Its e-mail address.
    command
        The management command that creates the user, with its options, by default ``createsuperuser --noinput``. It
        gets the variables ``DJANGO_SUPERUSER_USERNAME``, ``_EMAIL`` and ``_PASSWORD``. Where the project's own
        ``createsuperuser`` fails without options, Django's creates the user.
    """
    return operations.create_superuser(site, str(username), str(email), operations.words([command]))


@_verb("blog clearsessions", shows=("schedule",))
def run(site, schedule):
    """
    Run a schedule of a site now, in the active release, and wait until it has ended. The answer has its output, its
    exit code and the release. The return code is the exit code of the command. While the schedule runs already it is
    not started a second time.

    schedule
        Name of the schedule in the pillar.
    """
    return _ran(verbs_schedule.run_now(site, schedule, _asked_by("run")))


def _ran(result):
    if result["exit"] != 0:
        __context__["retcode"] = result["exit"] or 1
    return result


@_verb("blog", "blog --out json", reads=True)
def schedules(site, full=None):
    """
    Show the schedules of a site: when each runs next, and how its last run ended.

    full
        Return rows with every key, as for ``django.status``; ``runs`` has the records of the last hundred runs.
    """
    return _rows(verbs_schedule.rows(site), terminal.schedules, full)


@_verb("blog")
def migrate(site):
    """
    Apply the migrations of the active release to the databases, then run Django's checks.
    """
    return operations.migrate(site, _asked_by("migrate"))


@_verb("blog")
def backup(site):
    """
    Back up the databases of a site now, and its uploads if the pillar has ``backup: {media: true}``.
    """
    return verbs_backup.backup(site, _asked_by("backup"))


@_verb("blog", reads=True)
def backups(site, full=None, offsite=False):
    """
    Show the backups of a site on this host, the newest first: age, size, reason, release, and when the backup was
    last loaded successfully.

    offsite
        Show the copies elsewhere instead.
    """
    if offsite:
        return _rows(verbs_backup.copied(site), terminal.copies, full)
    return _rows(backup_backups.overview(site_sites.find(site)), terminal.backups, full)


@_verb("blog", shows=("forget",))
def offsite(site, forget=False):
    """
    Copy the newest backup of a site to its store elsewhere, with its uploads and its sealed secrets, and check that
    all copies are there; see docs/guides/offsite.md. The timer does so by itself.

    forget
        Accept that copies are gone that no rule has deleted.
    """
    return verbs_backup.offsite(site, forget=bool(forget))


@_verb("blog")
def points(site):
    """
    Check the archive of a site's PostgreSQL server, back that up if it is due, and show which moments the site can be
    restored to; see docs/guides/points-in-time.md. The timer does so by itself.
    """
    return verbs_backup.points(site)


@_verb(
    "blog",
    "blog 20260301T120000Z-0041-9be1c07d2a44 rollback=True",
    "blog at='2026-11-26 04:00'",
    shows=("which", "media", "migrate", "rollback", "queue", "offsite", "at", "compare"),
)
def restore(
    site, which=None, media=False, migrate=False, rollback=False, queue=False, offsite=False, at=None, compare=False
):
    """
    Restore a backup. It is loaded into spare databases and checked; then the site is in maintenance while they
    replace the current ones. The current databases are kept under a name that the answer reports.

    which
        Name of a backup as in ``django.backups``, or the part from the time on to restore all its files. The newest
        backup by default.
    media
        Restore the uploads of the backup too.
    migrate
        Apply the migrations of the active release to the restored databases.
    rollback
        Roll back to the release that the backup was made with.
    queue
        Restore the site's own queue too. Tasks in it that have run since the backup run again.
    offsite
        Fetch the backup from the copies elsewhere first.
    at
        Restore the databases as they were at a moment, by the clock of the host: ``'2026-11-26 04:00'``. The pillar
        has to have ``backup: {points: …}``.
    compare
        Restore nothing, and show in which tables the backup or the moment has other numbers of rows.
    """
    options = {"media": bool(media), "migrate": bool(migrate), "rollback": bool(rollback), "queue": bool(queue)}
    options |= {"offsite": bool(offsite), "compare": bool(compare)}
    return verbs_backup.restore(site, which, at=at and str(at), asked_by=_asked_by("restore"), **options)


@_verb("/root/recovery.txt", shows=("queue",))
def rebuild(identity, queue=False):
    """
    Make the sites of a bare host of their copies elsewhere: open their secrets, apply the formula, and restore their
    databases and uploads. The pillar has to have the sites, with ``backup: {offsite: …}``. See docs/guides/offsite.md.

    identity
        File with the recovery key on this host. It is read, and not kept.
    queue
        Restore the queues too. Tasks in them that have run since the backup run again.
    """
    apply = functools.partial(__salt__["state.apply"], "django")
    identity = terminal.place(identity, "identity")
    return verbs_backup.rebuild(identity, apply, queue=bool(queue), asked_by=_asked_by("rebuild"))


@_verb("blog", shows=("offsite",))
def restore_drill(site, offsite=False, points=False):
    """
    Check whether the newest backup can be restored: load it into a spare database, count its rows, and compare its
    migrations with the active release. The spare database is removed. The site keeps serving.

    offsite
        Fetch the newest copy elsewhere, and load that.

    points
        Restore the PostgreSQL server aside from its archive, as it is now, and read each row of it.
    """
    return verbs_backup.restore_drill(site, offsite=bool(offsite), points=bool(points))


@_verb("blog")
def collectstatic(site):
    """
    Collect static files again. The active release is never modified, so this releases the active commit once more.
    """
    return operations.answer(*operations.collectstatic(site, _asked_by("collectstatic")))


@_verb("blog", reads=True)
def check(site):
    """
    Run Django's system checks in the active release, including those for deployment, and return the warnings. The
    return code is 1 on an error, and on a warning if the pillar has ``check: deploy``. Before the first release is
    active, they run in the newest one that failed; the first line says so.
    """
    return operations.check(site)


@_verb("blog")
def secret_key(site):
    """
    Return fingerprints of the secret key and its fallbacks, never the keys. Hosts with equal keys have equal
    fingerprints.
    """
    return operations.secret_key(site)


@_verb("blog")
def config(site):
    """
    Return the configuration of a site as it was last applied, including defaults. Secrets are shown as their path
    in the pillar.
    """
    return operations.config(site)


@_verb("blog", "blog --out json", reads=True)
def workers(site, full=None):
    """
    Show the workers of a site: those of the active release, then those of older ones that still finish tasks.
    """
    return _rows(operations.workers(site), terminal.workers, full)


@_verb(
    "blog", "blog names=True", "blog drop=shop.tasks.old_name", reads=("give_back", "drop"), shows=("give_back", "drop")
)
def queue(site, names=False, give_back=False, drop="", full=None):
    """
    Show the queues of a site's workers: how many tasks wait in each, how many a worker of Celery holds in Redis
    (unacknowledged; abandoned if that worker is gone), and how many are parked, since the active release does not know
    their names. The workers are not disturbed.

    names
        Count by the names of the tasks too. Not for a broker that shows a message only by taking it (RabbitMQ).
    give_back
        Give parked tasks back to their queue if the active release knows them. A worker does that too when it begins to
        take tasks.
    drop
        Delete the parked tasks of this name.
    """
    rows = operations.queue(site, names=bool(names or give_back or drop), give_back=give_back, drop=drop)
    return _rows(rows, terminal.queue, full)


@_verb("blog", "blog worker=default", shows=("worker",))
def restart(site, worker=None):
    """
    Restart the workers of the active release. Each takes no more tasks, finishes those that it runs, and starts again;
    the command does not wait for that. The application server is not restarted: ``django.release`` replaces it without
    a failed request.

    worker
        Name of one worker. All of them by default.
    """
    return operations.restart(site, worker, asked_by=_asked_by("restart"))


@_verb(
    "",
    "test",
    "test chat",
    "quiet blog 2h 'moving the database'",
    "quiet blog off",
    reads=("action",),
    shows=("action", "name", "duration", "why"),
)
def notify(action="", name="", duration="", why=""):
    """
    Show to which channels the watch of this host sends messages, what is wrong now and what waits; send a message to
    try a channel; or send none about a site for some time.

    action
        ``test`` sends a message now and returns the answer of the channel; ``quiet`` sends none about a site.
    name
        Of a channel, all by default; with ``quiet`` of a site.
    duration
        How long, such as ``2h``; ``off`` ends it.
    why
        The reason, for those who look.
    """
    duration = "off" if duration is False else str(duration)  # as Salt reads it
    return verbs_notify.notify(str(action), str(name), duration, str(why), _asked_by("notify"))


@_verb("/srv/status", shows=("folder",))
def page(folder):
    """
    Write a page of this host and its sites into a folder: ``index.html``, without a script and requests. Problems come
    first, each with the command that cures it; then each site with its last deployments.

    folder
        Folder that only root may write to; created for root alone where it is missing.
    """
    return pages.page(terminal.place(folder, "folder"))


@_verb(
    "blog",
    "blog 500 worker=default",
    "blog since=1h level=error",
    "blog id=9123ac9f",
    "blog follow=True",
    shows=("worker", "since", "until", "level", "id", "follow"),
)
def logs(site, lines=50, worker=None, since="", until="", grep="", level="", id="", follow=False):
    """
    Return the last lines that the active release logged; with any of the options below but ``worker``, those of all
    releases on the host that they fit. Before the first release is active: the error and the last lines of the newest
    one that failed.

    lines
        Number of lines, at most 10000.
    worker
        Name of a worker, whose log is returned instead of the application server's.
    since
        Time of the first line: ``1h`` (also s, m, d) before now, ``14:30``, ``'2026-11-27 14:30'``, today, yesterday.
    until
        Time of the last line.
    grep
        A regular expression (PCRE); one without capital letters also finds capital letters.
    level
        The least severe level: debug, info, warning, error, critical. In the journal only.
    id
        The id of a request, or its first characters, as in the response's ``X-Request-ID``: the lines of the proxy, the
        server and Django about it, with the traceback.
    follow
        Print new lines until Ctrl-C. With ``salt-call`` at a terminal.
    """
    asked = {"since": since, "until": until, "grep": grep, "level": level, "id": id}
    if not follow:
        return verbs_logs.show(site, lines, worker, **asked)
    return verbs_logs.follow(site, lines, worker, __grains__["id"], salt_call=verbs_logs.salt_call(__opts__), **asked)


@_verb("blog", "blog dbshell", "blog 'manage changepassword ada' write='ada forgot it'", shows=("write",))
def shell(site, command="shell", write=""):
    """
    Return the command that opens a console in the active release of a site: it needs a terminal, which ssh gives.

    command
        What runs in it: ``shell`` (Django's), ``dbshell`` (the client of the database), ``bash``, or ``manage`` and a
        management command.
    write
        Why data may be changed. Without a reason the console is read-only.
    """
    return verbs_logs.console(site, __grains__["id"], str(command), str(write) if write else "")


@_verb(
    "https://git.example.org/blog.git",
    "/home/ray/blog",
    "blog run=True",
    "https://git.example.org/blog.git run=True",
    reads=("run",),
    shows=("source", "revision", "run"),
)
def inspect(source, revision="HEAD", deploy_key=None, run=False):
    """
    Inspect a project and return a pillar that deploys it, with comments where a value is a guess. The source is
    read; without ``run`` none of it is executed, and nothing on this host is changed. Except for its first line
    (``local:``) the output is an SLS.

    source
        URL of a git repository, or a folder on this host; with ``run`` also the name of a site.
    revision
        Branch, tag or commit of the repository.
    deploy_key
        File with the private SSH key to fetch with. Host keys are read from ``/etc/ssh/ssh_known_hosts``.
    run
        Run the settings, in a sandbox without network, secrets and databases, and return every variable that they ask
        for, which of these are required, the settings that each is in, and what Django knows of the project. Of a site
        they are those of its active release, or of its newest one that failed. A project that is no site here is built
        first, in a folder of the formula's cache and by two users who are removed again; it gets no Debian packages,
        and where it cannot be built, the pillar is the one that was read, with the cause.
    """
    where, key = terminal.place(source, "source"), deploy_key and terminal.place(deploy_key, "deploy_key")
    return (trial.of if run else inspection.inspect)(where, terminal.revision(revision) or "HEAD", key)


@_verb("blog /home/ray/blog", "blog /home/ray/blog database=postgres", shows=("folder",))
def compose(site, folder, python="", database=""):
    """
    Write the files by which Docker or podman runs a site's project without Salt: a Dockerfile, compose files for
    production and for development, and variables with secrets of their own. No file that differs is overwritten; ours
    is written next to it, with ``.new`` after its name.

    site
        Name of the site, whose domains, packages, variables, workers and stores the files have.
    folder
        Work tree of the project, where the files are written as the user who owns it.
    python
        Version of Python of the image, such as ``3.12``. By default the newest that the project is for.
    database
        ``postgres``, ``mysql`` or ``sqlite`` in place of the site's database.
    """
    return "\n".join(entry("compose files")(site, terminal.place(folder, "folder"), str(python), database))


@_verb("blog /root/blog.tar", shows=("file",))
def save_images(site, file):
    """
    Write the image that the active release of a site in containers begins with into a file, for another host whose
    engine gets it by ``django.load_images``: a release of the same commit or the same requirements is then made
    without building it. Return its name.

    file
        Path of a new file in a folder that only root may write to.
    """
    return operations.save_images(site, terminal.place(file, "file"))


@_verb("blog /root/blog.tar", shows=("file",))
def load_images(site, file):
    """
    Give the engine of a site in containers the images of a file that ``django.save_images`` has written on another
    host. Return their names.

    file
        Path of the file, in a folder that only root may write to.
    """
    return operations.load_images(site, terminal.place(file, "file"))


@_verb("", "blog since=7d who=ada", "verify=True", reads=True)
def history(site=None, since="30d", who="", verify=False, full=None):
    """
    Show who had this host do what, when, and how it ended, the newest first: the audit log and the recorded
    deployments.

    site
        Name of the site. All sites of this host by default, and what is about none.
    since
        How long ago at most: ``90m``, ``12h``, ``30d``.
    who
        Name of the user.
    verify
        Check instead that no line of the audit log was changed or removed since it was written. The return code is 1
        otherwise, and the answer names the first line that does not follow the one before it.
    """
    if verify:
        return verbs_history.verify()
    return _rows(verbs_history.rows(site, since, str(who)), verbs_history.view, full)


def _failing(answer, key):
    """Have Salt end with 1 where an answer has something under a key."""
    if answer[key]:
        __context__["retcode"] = 1
    return answer


def _rows(rows, view, full):
    """Return rows as data for programs, or a view of them for people (docs/decisions/0054)."""
    return rows if terminal.is_for_programs(__opts__, full) else view(rows)


def _asked_by(verb):
    return deploy_origin.asked_by(f"django.{verb}", __opts__["cachedir"])
