"""What passes every check of a new release and fails without a sign: warnings, by what the start has found."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.deploy.deployment import Deployment
from django_formula.inspect import advice, code, project
from django_formula.knowledge import hints
from django_formula.release.releases import Release
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign
from django_formula.worker import workers

#: Static files that a warning names, and the most characters of a text of the project.
_SHOWN, _TEXT = 5, 200
#: A folder of the project, relative to that of manage.py, as a start may report it.
_FOLDER = re.compile(r"(?!\.\.?(/|$))(?!.*/\.\.(/|$))\w[\w./-]{0,99}", re.ASCII)


def warnings(site: Site, release: Release, faults: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each fault but those of static files.

    Args:
        faults: what the start of Django has reported.
    """
    at, configured = site.at, site.config["settings"]
    own = workers.configured(site)  # the project may name others
    at_once = {name: setting for name, setting in faults.get("at_once", {}).items() if name in own}
    for setting in sorted({*at_once.values()}):
        names = sorted(name for name, one in at_once.items() if one == setting)
        yield (
            f"worker {project.listed(names)} gets no task: {setting[:_TEXT]} has each run at once, in the process that "
            f"sends it; {_correction(site, release, setting)}"
        )
    if (mail := faults.get("mail", "")[:_TEXT]) and not {"EMAIL_BACKEND", "MAILERS"} & configured.keys():
        yield f"{mail}, which sends no mail: set {at}:email, or {_correction(site, release, mail)}"
    if sessions := faults.get("sessions", "")[:_TEXT]:
        processes = site.config["server"]["processes"] if servers.configured(site).SERVES else 1
        ends = "each release and each restart ends all sessions"
        if processes != 1:  # a number, or `auto`, which is at least two
            ends = "each process of the server has sessions of its own, so that visitors are logged out by chance"
        yield f"SESSION_ENGINE is the cache, and {sessions}: {ends}; set {at}:sessions: db, or {at}:cache"
    yield from _of_development(site, release)


def _correction(site: Site, release: Release, setting: str) -> str:
    """Return where a setting of the project is changed: by the variables that decide it, where these are known."""
    name = setting.partition(":")[0].partition(" ")[0]
    if not name.isupper():
        return "correct it in the project"
    variables = advice.deciding(site, release.path, release.facts, name)
    if variables:
        return f"correct {project.listed(variables)} in {site.at}:environment, which decides it"
    return f"correct {hints.setting(site, name)}"


def _of_development(site: Site, release: Release) -> Iterator[str]:
    """Yield a warning of settings that are named for development, where the source has others for a live site."""
    module = advice.own(release.path, release.facts)["settings_module"]
    if not code.NOT_LIVE.search(module):
        return
    live = [one for one in advice.settings_modules(site, release.path, release.facts) if code.LIVE.search(one)]
    if live:
        yield (
            f"the settings are those of {module}, which is named for development, and the source has "
            f"{project.listed(live)}: set {site.at}:settings_module"
        )


def not_collected(deployment: Deployment, release: Release, found: Mapping[str, Any]) -> None:
    """Warn of static files that templates name and that are not there once all commands have run.

    Args:
        found: what the start of Django has reported: in ``static`` the names that were not collected, each with the
            place in a template and the folder of the source that has it, and in ``folders`` those that are collected.
    """
    static = Foreign(release.path / "static")
    names = [one for one in found.get("static", []) if len(one["name"]) <= _TEXT and ".." not in one["name"].split("/")]
    gone = [one for one in names if not (static / one["name"].lstrip("/")).exists()]
    committed = sorted({one["folder"] for one in gone if _FOLDER.fullmatch(one.get("folder", ""))})
    if not gone:
        return
    cure = (
        f"have {release.site.at}:build create what is generated, without removing packages that are served, or correct "
        "the names in the project"
    )
    if committed:
        cures = [_collecting(release.site, committed, found.get("folders")), cure]
        cure = "; for the others ".join(cures[: 1 + any(not one.get("folder") for one in gone)])
    shown = [f"{one['name']} ({one['place'][-_TEXT:]})" for one in gone[:_SHOWN]]
    more = f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
    deployment.warn([f"templates name static files that were not collected: {', '.join(shown)}{more}; {cure}"])


def _collecting(site: Site, committed: list[str], present: list[str] | None) -> str:
    """Return how folders of the source are collected.

    Args:
        present: those that the project has collected; None where it gives them prefixes.
    """
    names, folders = project.listed(committed), [*dict.fromkeys([*(present or []), *committed])]
    cure = f"add {names} to STATICFILES_DIRS in the project"
    if site.config["overlay"] and present is not None and all(map(_FOLDER.fullmatch, folders)):
        cure = f"set {site.at}:settings:STATICFILES_DIRS: {hints.flow(folders)}, or {cure}"  # Salt replaces braces
    return f"the source has them in {names}, which is not collected: {cure}"
