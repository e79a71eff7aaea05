"""
Django sites by hand: what runs, releasing, going back, management commands.

Each verb reads what the last apply left on the host (``site.json``), never the master, so that it does the same under a
master, masterless and by salt-ssh. One that fails returns its error as text and sets the return code.
"""

import shlex

import django_inspection
import django_release
import django_site
import django_verbs
from django_command import DeploymentError, seconds
from django_deployment import asked_by

__virtualname__ = "django"

# A table, or plain text, for people; `--out json` gives the data.
__outputter__ = {"status": "table", "releases": "table", "manage": "txt", "logs": "txt", "inspect": "txt"}


def __virtual__():
    return __virtualname__


def status(site=None):
    """
    What runs: a row for each site, with its live release, whether its process runs, what is held back or has failed
    since, what the pillar has changed in its sandbox, and whether the pillar has it at all.

    site
        One site; all sites of this host if it is not given.

    CLI Example:

    .. code-block:: bash

        salt-call django.status
        salt-call django.status blog --out json
    """
    return _answer(lambda: _status([site] if site else django_site.registered()))


def _status(names):
    # The pillar as it is now: that in the memory of a running minion is older. By salt-ssh a verb has none.
    pillar = __salt__["pillar.items"]()
    managed = (pillar.get("django") or {}).get("sites") or {}
    return [
        django_release.status(django_site.find(name)) | {"managed": name in managed if pillar else None}
        for name in names
    ]


def releases(site):
    """
    The releases of a site that are on this host, the newest first.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.releases blog
    """
    return _answer(lambda: django_release.overview(django_site.find(site)))


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


def rollback(site):
    """
    Go back to the last good release before the live one. The commit that is left is held back: applies do not bring it
    back until the revision or the pillar changes.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt-call django.rollback blog
    """
    return _answer(lambda: _told(*django_verbs.rollback(site, _asked_by("rollback"))))


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
    return _answer(lambda: django_inspection.inspect(source, revision, deploy_key))


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
