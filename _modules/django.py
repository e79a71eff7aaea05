"""
Django sites by hand: what runs, releasing, going back, management commands.

Each verb reads what the last apply left on the host (``site.json``), never the master, so that it does the same under a
master, masterless and by salt-ssh. One that fails returns its error as text and sets the return code.
"""

import shlex

import django_backup
import django_project_inspection
import django_release
import django_release_plan
import django_site
import django_verbs
from django_host_command import DeploymentError, seconds
from django_release_deployment import asked_by

__virtualname__ = "django"

# A table, or plain text, for people; `--out json` gives the data.
__outputter__ = {
    "status": "table",
    "releases": "table",
    "backups": "table",
    "manage": "txt",
    "logs": "txt",
    "inspect": "txt",
}


def __virtual__():
    return __virtualname__


def status(site=None):
    """
    What runs: a row for each site, with its live release, whether its process runs and its databases fit it, what is
    held back or has failed since, what the pillar has changed in its sandbox, and whether the pillar has it at all. The
    return code is 1 where files of a site are damaged.

    site
        One site; all sites of this host if it is not given.

    CLI Example:

    .. code-block:: bash

        salt-call django.status
        salt-call django.status blog --out json
    """
    return _answer(lambda: _managed([django_verbs.status(site)] if site else django_verbs.every_status()))


def _managed(rows):
    # The pillar as it is now: that in the memory of a running minion is older. By salt-ssh a verb has none.
    pillar = __salt__["pillar.items"]()
    managed = (pillar.get("django") or {}).get("sites") or {}
    if any(row["damage"] for row in rows):
        __context__["retcode"] = 1
    return [{**row, "managed": row["site"] in managed if pillar else None} for row in rows]


def releases(site):
    """
    The releases of a site that are on this host, the newest first, with age, health and whether the databases still fit
    them; before them what has failed since the live one and left nothing here.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.releases blog
    """
    return _answer(lambda: django_release.overview(django_site.find(site)))


def record(site, release=None):
    """
    All that is recorded of a release: commit, packages, migrations, seconds of each step, who asked, what visitors met.

    site
        The site.
    release
        By its name, its number or its commit (seven digits or more); the live one if none is given.

    CLI Example:

    .. code-block:: bash

        salt-call django.record blog
        salt-call django.record blog 42 --out json
    """
    return _answer(lambda: django_verbs.record(site, release))


def release(site, revision=None):
    """
    Release a site now: its revision as it is today, even if nothing has changed, it is held back, or has failed before.

    site
        The site.
    revision
        Another branch, tag or commit than that of the last apply; the next apply goes by pillar again, unless it says
        ``deploy: manual``.

    CLI Example:

    .. code-block:: bash

        salt-call django.release blog
        salt-call django.release blog v2.4.1
    """
    return _answer(lambda: _told(*django_verbs.release(site, revision, _asked_by("release"))))


def plan(site, revision=None):
    """
    What a release would change: commits, packages, migrations, effective settings, files, and what restarts. It is
    built aside for that, as ``release`` would, compared with what is live, and removed; nothing that serves is touched.
    The virtualenv stays for the release to come.

    site
        The site.
    revision
        Another branch, tag or commit than that of the last apply.

    CLI Example:

    .. code-block:: bash

        salt-call django.plan blog
        salt-call django.plan blog v2.4.1
    """
    return _answer(lambda: django_release_plan.make(site, revision, _asked_by("plan")))


def unlock(site):
    """
    End the deployment that holds the lock of a site, with SIGTERM and after ten seconds with SIGKILL. What serves goes
    on; the next apply puts right what it has left half done.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.unlock blog
    """
    return _answer(lambda: django_verbs.unlock(site))


def rollback(site, to=None, migrate=False, force=False):
    """
    Go back to the last good release before the live one, or to another. The commit that is left is held back: applies
    do not bring it back until the revision or the pillar changes.

    Where the databases have migrations that the older release does not know, the answer is `safe` (it can live with
    them), `reversible` or `unsafe`; nothing is done then in the last two cases.

    site
        The site.
    to
        A release: its name, its number, or its commit (seven digits or more).
    migrate
        Take the migrations back first that the older release does not know, by the one that is left.
    force
        Go back even where the older release cannot live with what the databases have.

    CLI Example:

    .. code-block:: bash

        salt-call django.rollback blog
        salt-call django.rollback blog 0041-9be1c07d2a44 migrate=True
    """
    options = {"migrate": migrate, "force": force, "asked_by": _asked_by("rollback")}
    return _answer(lambda: _told(*django_verbs.rollback(site, to, **options)))


def rotate_secret_key(site):
    """
    Give a site a new secret key by a release of the same commit. The old key stays among the fallbacks, so no session
    is lost.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.rotate_secret_key blog
    """
    return _answer(lambda: _told(*django_verbs.rotate_secret_key(site, _asked_by("rotate_secret_key"))))


def rotate_database_password(site, database="default"):
    """
    Give a database a new generated password by a release of the same commit: one on a server that the formula sets up,
    reached with a password. Until the old instance has ended the server takes both, so no visitor notices.

    site
        The site.
    database
        Its name in Django.

    CLI Example:

    .. code-block:: bash

        salt-call django.rotate_database_password blog
        salt-call django.rotate_database_password blog metrics
    """
    return _answer(
        lambda: _told(*django_verbs.rotate_database_password(site, database, _asked_by("rotate_database_password")))
    )


def drift(site):
    """
    What of a site is otherwise than its live release was made: source, static files, configuration, virtualenv, units,
    nginx's files and secrets. Each path that was changed, is missing or was added, with its owner and the time when it
    was last written. The return code is 1 when there is such a path; a new release mends it.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.drift blog
    """
    answer = _answer(lambda: django_verbs.drift(site))
    if isinstance(answer, dict) and answer["drift"]:
        __context__["retcode"] = 1
    return answer


def renew(site, force=False):
    """
    Renew the certificates of a site that are due, and those that could not be ordered before, without waiting for the
    timer. The return code is 1 when one has failed; the one before serves on then.

    site
        The site.
    force
        Order those too that are not due, from an authority that speaks ACME.

    CLI Example:

    .. code-block:: bash

        salt-call django.renew blog
    """
    answer = _answer(lambda: django_verbs.renew(site, force=force))
    if isinstance(answer, dict) and answer["warnings"]:
        __context__["retcode"] = 1
    return answer


def maintenance(site, switch="", message=""):
    """
    Have visitors get a page and status 503 in the place of a site, and end that; without ``on`` or ``off``, only say
    how it is. It lasts through releases and reboots. Static files and uploads are served, and who is in
    ``maintenance:allow`` of the pillar sees the site.

    site
        The site.
    switch
        ``on`` or ``off``.
    message
        What the page says. A time in it (14:00, 2026-03-01 06:00 UTC) or a duration (30m) is told to clients as
        Retry-After.

    CLI Example:

    .. code-block:: bash

        salt-call django.maintenance blog on 'back at 14:00'
        salt-call django.maintenance blog off
        salt-call django.maintenance blog
    """
    # Salt reads arguments as YAML: on and off are booleans, 14:00 is the number of its minutes.
    switch = {True: "on", False: "off"}.get(switch, switch) if isinstance(switch, bool) else switch
    message = "{:02}:{:02}".format(*divmod(message, 60)) if isinstance(message, int) else str(message)
    return _answer(lambda: django_verbs.maintenance(site, switch, message, _asked_by("maintenance")))


def manage(site, *command, environment_file=None, timeout="1h"):
    """
    Run a management command of the live release: as the site's user, with its environment, in its sandbox.

    site
        The site.
    command
        The command and its arguments: words, or all in one string. Salt takes options for its own, so put them into
        one string.
    environment_file
        A file on the host with further variables, in systemd's format, for what must not be seen in a process list.
    timeout
        How long it may take.

    CLI Example:

    .. code-block:: bash

        salt-call django.manage blog showmigrations
        salt-call django.manage blog 'createsuperuser --noinput --username admin' environment_file=/root/admin
    """
    return _answer(lambda: django_verbs.manage(site, _words(command), environment_file, seconds(timeout)))


def _words(command):
    try:
        return shlex.split(command[0]) if len(command) == 1 else [str(word) for word in command]
    except ValueError as error:
        raise DeploymentError(f"{command[0]!r} is no command: {error}") from None


def superuser(site, username="admin", email="admin@localhost"):
    """
    Create a superuser with a generated password, which is written to a file that only root reads; the answer names it.

    site
        The site.
    username, email
        Of the user.

    CLI Example:

    .. code-block:: bash

        salt-call django.superuser blog
        salt-call django.superuser blog elspeth elspeth@example.org
    """
    return _answer(lambda: django_verbs.superuser(site, username, email))


def migrate(site):
    """
    Migrate the databases to what the live release needs, then run Django's checks.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.migrate blog
    """
    return _answer(lambda: django_verbs.migrate(site, _asked_by("migrate")))


def backup(site):
    """
    Back up the databases of a site now, and with ``backup: {media: true}`` its uploads.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.backup blog
    """
    return _answer(lambda: django_verbs.backup(site, _asked_by("backup")))


def backups(site):
    """
    The backups of a site that are on this host, the newest first: age, size, why each was made and under which release,
    and when it was loaded for the last time and found to be whole.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.backups blog
    """
    return _answer(lambda: django_backup.overview(django_site.find(site)))


def restore(site, which=None, media=False, migrate=False, rollback=False):
    """
    Put a backup in the place of the databases. It is loaded beside them and looked through first; then the site is in
    maintenance for a moment. What was there is kept under a name that the answer tells.

    site
        The site.
    which
        A backup as ``django.backups`` names it, or the part of its name from the time on, for all its files; the newest
        one if it is not given.
    media
        The uploads of the backup too.
    migrate
        Bring what is restored to what the live release needs.
    rollback
        Go back to the release that the backup was made under.

    CLI Example:

    .. code-block:: bash

        salt-call django.restore blog
        salt-call django.restore blog 20260301T120000Z-0041-9be1c07d2a44 rollback=True
    """
    options = {"media": bool(media), "migrate": bool(migrate), "rollback": bool(rollback)}
    return _answer(lambda: django_verbs.restore(site, which, asked_by=_asked_by("restore"), **options))


def restore_drill(site):
    """
    See whether the newest backup can be restored: it is loaded into a database beside the site's own, its rows are
    counted, and the live release looks for migrations that it lacks. What was loaded is removed; the site serves.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.restore_drill blog
    """
    return _answer(lambda: django_verbs.restore_drill(site))


def collectstatic(site):
    """
    Collect static files anew. A release is never changed once it is live, so this releases the live commit once more.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.collectstatic blog
    """
    return _answer(lambda: _told(*django_verbs.collectstatic(site, _asked_by("collectstatic"))))


def check(site):
    """
    Run Django's checks in the live release, those for deployment too. The answer is the list of warnings; an error, or
    a warning where pillar says ``check: deploy``, sets the return code.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.check blog
    """
    return _answer(lambda: django_verbs.check(site))


def secret_key(site):
    """
    Fingerprints of the secret key and its fallbacks, never the keys: hosts with equal keys have equal fingerprints.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.secret_key blog
    """
    return _answer(lambda: django_verbs.secret_key(site))


def config(site):
    """
    The configuration of a site as it was last applied, with every default; secrets by their place in the pillar.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.config blog
    """
    return _answer(lambda: django_verbs.config(site))


def logs(site, lines=50):
    """
    The last lines that the live release has written to the journal.

    site
        The site.
    lines
        How many.

    CLI Example:

    .. code-block:: bash

        salt-call django.logs blog
        salt-call django.logs blog 500
    """
    return _answer(lambda: django_verbs.logs(site, lines))


def inspect(source, revision="HEAD", deploy_key=None):
    """
    What is found in a project, and a pillar that deploys it, with comments where something is a guess. Its source is
    read; nothing of it is run, and nothing is changed on this host.

    source
        The URL of a git repository, or a folder on this host.
    revision
        A branch, tag or commit of the repository.
    deploy_key
        The file of a private SSH key to fetch with. Host keys are those of /etc/ssh/ssh_known_hosts.

    CLI Example:

    .. code-block:: bash

        salt-call django.inspect https://git.example.org/blog.git
        salt-call django.inspect /home/ray/blog
    """
    return _answer(lambda: django_project_inspection.inspect(source, revision, deploy_key))


def _answer(verb):
    try:
        return verb()
    except (DeploymentError, OSError) as error:
        __context__["retcode"] = 1
        return str(error)


def _told(deployment, changes):
    """What a deployment by hand has done, for people."""
    answer = {"release": deployment.release.name, "took": deployment.seconds, "changes": changes}
    return answer | ({"warnings": deployment.warnings} if deployment.warnings else {})


def _asked_by(verb):
    return asked_by(f"django.{verb}", __opts__["cachedir"])
