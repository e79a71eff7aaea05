"""The databases of a site as they were at a moment, as a backup, which is made of a server that is restored aside.

The site's user may open nothing of that server but the site's own databases, as in the present one.
"""

import contextlib
import datetime
import re
from typing import Any

from django_formula.backup import backups, dumps
from django_formula.backup.dumps import Database
from django_formula.database.engines import POSTGRES
from django_formula.host import clock, file
from django_formula.host.commands import DeploymentError
from django_formula.points import archive, aside
from django_formula.points.aside import Moment, Server
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site.sites import Site

#: How a moment is written.
_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M")
_OWNER = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{}'"
#: Names of roles that may be written into the files of authentication.
_ROLE = re.compile(r"[\w.@$-]{1,63}")


def fetch(site: Site, live: Release, at: str, secrets: list[str]) -> str:
    """Restore the databases of a site aside as they were at a moment, and return the name of the backup of them.

    Args:
        at: the moment, by the clock of the host unless it says otherwise: ``2026-11-26 04:00``.
        secrets: texts that no output may show.

    Raises:
        DeploymentError: the archive does not have that moment, or cannot be reached.
    """
    moment = parse(at)
    clusters = recorded(site)
    aliases = [alias for alias in sorted(live.facts["migrations"]) if alias in clusters]
    present = dumps.databases(live, aliases, secrets)
    release, commit = _made_under(site, live, moment)
    with aside.lock("django.restore").held():
        kept = backups.of_moment(site, moment.text)
        if kept:
            return kept
        for stanza in dict.fromkeys(clusters[one.alias]["stanza"] for one in present):
            own = [one for one in present if clusters[one.alias]["stanza"] == stanza]
            cluster = archive.cluster(clusters[own[0].alias])
            size = aside.check_covered(cluster, moment)
            with aside.restored(cluster, moment, size) as server:
                name = backups.keep(site, _opened(server, own), taken=moment.text, release=release, commit=commit)
    return name


def recorded(site: Site) -> dict[str, dict[str, Any]]:
    """Return what the host remembers of the archived cluster of each database of a site, by alias.

    Raises:
        DeploymentError: it has no archive, or that is not set up.
    """
    if not archive.options(site.config):
        hint = f"from now on: set {site.at}:backup:points, and apply; of what is there: django.backups {site.name}"
        raise DeploymentError(f"{site.name} has no points in time", hint=hint)
    clusters = archive.clusters_of(site.config)
    if "default" not in clusters:
        hint = "apply, and see what that says: salt-call state.apply django"
        raise DeploymentError(f"the archive of {site.name} is not set up yet", hint=hint)
    return clusters


def coverage(site: Site) -> dict[str, Any]:
    """Return which moments the archive of a site has, and its backups.

    Raises:
        DeploymentError: it has none, or the store cannot be reached.
    """
    entry = archive.clusters_of(site.config).get("default")
    if not archive.options(site.config) or not entry:
        hint = f"set {site.at}:backup:points, and apply: salt-call state.apply django"
        raise DeploymentError(f"{site.name} has no points in time", hint=hint)
    there = archive.contents(archive.cluster(entry))
    archive.remember(entry, there)
    made = [f"{clock.timestamp(when)} {kind}, {backups.in_words(size)}" for when, kind, size in there.backups]
    return {
        "oldest": entry["oldest"],
        "newest": entry["newest"],
        "missing": [f"{begin} to {end}" for begin, end in entry["gaps"]],
        "backups": made[::-1],
    }


def parse(at: str) -> Moment:
    """Return a moment.

    Raises:
        DeploymentError: the text is none.
    """
    text = re.sub(r"(?<=\d)T(?=\d)", " ", at.strip())
    plain, zone = re.fullmatch(r"(.*?)\s*(Z|UTC|[+-]\d\d:?\d\d)?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    for pattern in _FORMATS:
        with contextlib.suppress(ValueError, OverflowError):
            found = datetime.datetime.strptime(plain, pattern)  # in the host's own zone
            if zone:
                offset = "+0000" if zone in ("Z", "UTC") else zone.replace(":", "")
                found = found.replace(tzinfo=datetime.datetime.strptime(offset, "%z").tzinfo)
            return Moment(found.timestamp(), clock.timestamp(found.timestamp()))
    raise DeploymentError(
        f"{at!r} is no moment",
        hint="write it as '2026-11-26 04:00' or '2026-11-26 04:00:30', by the clock of the host, or with Z for UTC",
    )


def _made_under(site: Site, live: Release, moment: Moment) -> tuple[str, str]:
    """Return the name and the commit of the release that was active at a moment, as far as that is recorded."""
    before = [
        one
        for one in releases.attempts(site)
        if one.get("release")
        and one.get("result") in ("released", "rolled back", "rolled forward")
        and clock.seconds(str(one.get("time"))) <= moment.seconds
    ]
    if before and re.fullmatch(r"\d{4,}-[0-9a-f]{12}", str(before[-1]["release"])):
        return str(before[-1]["release"]), str(before[-1].get("commit") or "")
    return live.name, str(live.record["commit"])


def _opened(server: Server, databases: list[Database]) -> list[Database]:
    """Return databases with the connections by which the site's user reads them on the temporary server.

    Raises:
        DeploymentError: one did not exist then.
    """
    opened, hba, ident = [], ["local all postgres peer"], []
    for one in databases:
        name = one.site.config["databases"][one.alias]["name"]  # not what the project says: it gets into a file
        owner = server.ask(_OWNER.format(name)).strip()
        if not owner:
            raise DeploymentError(
                f"the database {name} did not exist at that moment", hint="choose a later one, at which the site had it"
            )
        if not _ROLE.fullmatch(owner):
            raise DeploymentError(f"the owner of the database {name} has a name that is not supported: {owner!r}")
        server.ask(f'ALTER ROLE "{owner}" LOGIN;')
        hba.append(f'local "{name}" "{owner}" peer map=django')
        ident.append(f'django "{one.site.user}" "{owner}"')
        connection = {"host": server.socket, "port": server.cluster.port, "user": owner}
        opened.append(Database(one.site, one.alias, POSTGRES.name, name, connection))
    for file_name, lines in (("pg_hba.conf", hba), ("pg_ident.conf", ident)):
        file.write(server.folder / file_name, "\n".join([*lines, ""]), durable=False)
    server.ask("SELECT pg_reload_conf();")
    return opened
