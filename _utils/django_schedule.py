"""Backups by themselves: a timer of systemd's, or a line of cron's, and the program that it runs.

The program needs neither Salt nor a master: the modules that make a backup, as the last apply had them, in one file.
"""

import functools
import inspect
import io
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import django_backup
import django_command
import django_database
import django_release
import django_secret
import django_service
import django_settings
import django_site
import django_systemd
from django_command import DeploymentError
from django_site import Site

CRON = Path("/etc/cron.d")
SERVICE, TIMER = "salt://django/files/backup.service", "salt://django/files/backup.timer"
#: What cron has for the words of systemd.
_CRON = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 1", "monthly": "0 0 1 * *"}
_MAIN = "import sys\nimport django_schedule\nsys.exit(django_schedule.main(sys.argv[1]))\n"


def main(name: str) -> int:
    """What the timer runs: back up a site as its last apply left it; returns the exit code."""
    try:
        site = django_site.find(name)
        live = django_release.linked(site, site.current)
        if not live:
            print(f"{name} has no live release yet")
            return 0
        secrets = list(django_secret.values(site, {}).values())
        for path in django_backup.make(site, live, why=django_backup.BY_TIMER, secrets=secrets):
            print(path)
    except (DeploymentError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def stale(site: Site, templates: Mapping[str, str]) -> dict[str, str]:
    """What is not as the pillar has it: path → what is the matter with it.

    Raises:
        DeploymentError: this host has nobody who would look at the clock.
    """
    wanted = _files(site, templates)
    found = {path: _matter(path, content) for path, content in wanted.items()}
    found |= {path: "removed" for path in present(site) if path not in wanted}
    if wanted and django_service.has_systemd() and not os.path.lexists(_link(site)):
        found[_timer(site)] = found[_timer(site)] or "disabled"
    return {str(path): matter for path, matter in found.items() if matter}


def _matter(path: Path, content: bytes) -> str:
    try:
        return "" if path.read_bytes() == content else "changed"
    except FileNotFoundError:
        return "new"


def apply(site: Site, templates: Mapping[str, str]) -> None:
    """Have the timer of a site as the pillar has it, or none.

    Raises:
        DeploymentError: systemd does not take it.
    """
    wanted = _files(site, templates)
    if not wanted:
        remove(site)
        return
    for path in present(site):
        if path not in wanted:
            path.unlink()
    for path, content in wanted.items():
        django_site.write(path, content, mode=0o600 if path == _program(site) else 0o644)
    if django_service.has_systemd():
        timer = _timer(site).name
        django_command.run(["systemctl", "enable", "--quiet", timer], doing=f"enabling {timer}")
        django_command.run(["systemctl", "restart", timer], doing=f"starting {timer}")


def present(site: Site) -> list[Path]:
    """What there is on the host for a schedule of a site."""
    return [path for path in (_timer(site), _service(site), _cron(site), _program(site)) if path.exists()]


def remove(site: Site) -> None:
    """Take the schedule of a site off the host."""
    timer = _timer(site)
    if timer.exists() or os.path.lexists(_link(site)):
        django_command.run(["systemctl", "disable", "--quiet", "--now", timer.name], doing=f"stopping {timer.name}")
    for path in present(site):
        path.unlink()


def _program(site: Site) -> Path:
    return site.root / "backup.pyz"


def _service(site: Site) -> Path:
    return django_systemd.UNITS / f"django-{site.name}-backup.service"


def _timer(site: Site) -> Path:
    return _service(site).with_suffix(".timer")


def _link(site: Site) -> Path:
    return django_systemd.UNITS / "timers.target.wants" / _timer(site).name


def _cron(site: Site) -> Path:
    return CRON / f"django-{site.name}-backup"


def _files(site: Site, templates: Mapping[str, str]) -> dict[Path, bytes]:
    """What a schedule needs on the host; nothing where there is none."""
    schedule = site.config["backup"]["schedule"]
    if not schedule:
        return {}
    command = f"/usr/bin/python3 -I {_program(site)} {site.name}"
    files = {_program(site): _packed()}
    if django_service.has_systemd():
        variables = {"site": site.config, "command": command, "schedule": schedule}
        variables |= {"local": django_database.are_local(site), "at_home": _is_at_home(site)}
        files[_service(site)] = django_settings.render(templates, SERVICE, **variables).encode()
        files[_timer(site)] = django_settings.render(templates, TIMER, **variables).encode()
    else:
        _refuse_without_cron(site)
        files[_cron(site)] = f"# Backups of the Django site {site.name}\n{_CRON[schedule]} root {command}\n".encode()
    return files


def _is_at_home(site: Site) -> bool:
    """Whether anything of the site may lie where the homes of people are."""
    said = json.dumps({**site.config, "backups": str(site.backups)})
    return any(f'"{folder}/' in said or f":{folder}/" in said for folder in ("/home", "/root", "/run/user"))


def _refuse_without_cron(site: Site) -> None:
    at = f"django:sites:{site.name}:backup:schedule"
    schedule = site.config["backup"]["schedule"]
    if schedule not in _CRON:
        raise DeploymentError(
            f"{schedule} is a time as systemd has it, and this host has cron",
            hint=f"say {', '.join(_CRON)} in {at}, or run salt-call django.backup {site.name} by a line of your own",
        )
    if not CRON.is_dir() or not shutil.which("cron", path=django_command.PATH):
        raise DeploymentError(
            "this host has neither systemd nor cron, so nobody would make backups by themselves",
            hint=f"take {at} out and have somebody run django.backup {site.name}; "
            f"or have cron there and running: django:sites:{site.name}:packages: [cron]",
        )


@functools.cache
def _packed() -> bytes:
    """The program: this module and those that it needs, as an archive that Python runs; the same for the same code."""
    sources = {"__main__": _MAIN}
    names = [__name__]
    for name in names:  # which grows meanwhile
        sources[name] = inspect.getsource(sys.modules[name])
        needed = re.findall(r"^ *(?:import|from) (django_\w+)", sources[name], re.MULTILINE)
        names += [one for one in dict.fromkeys(needed) if one not in names and one in sys.modules]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, source in sources.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.py"), source)
    return packed.getvalue()
