"""What carries a proof on after the apply that has begun it: a program, and its unit of systemd.

The unit is enabled while a proof runs, so that after a boot the program ends what the boot has interrupted. Without
systemd the program runs in the background, and the next apply ends what was interrupted.
"""

from pathlib import Path

from django_formula.host import archive, commands, config_files, daemons, file, units
from django_formula.host.locks import Lock
from django_formula.proof import state
from django_formula.proof.state import Proof
from django_formula.proxy import lease
from django_formula.release import claim, instances
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)
MODULE = "django_formula.deploy.proof_run"
_SERVICE = """\
[Unit]
Description=Proof of a release of the Django site {site}
After=network.target
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=1
# As with requests: after a kill systemd may not see that the control group is empty.
KillMode=process

[Install]
WantedBy=multi-user.target
"""
#: Seconds that the program has to end.
_PATIENCE = 10.0


def run_lock(site: Site) -> Lock:
    """Return the lock that the program holds as long as it runs."""
    hint = f"see: salt-call django.proof {site.name}"
    return Lock(state.folder(site) / ".run", "a proof", busy=f"a proof of {site.name}", timeout="1s", hint=hint)


def runs(site: Site) -> bool:
    """Return whether the program of a proof runs; one that was killed is started again within a second by systemd."""
    return bool(run_lock(site).holder())


def start(site: Site) -> None:
    """Start the program, made anew where it is of another version.

    Raises:
        DeploymentError: systemd does not start it.
    """
    program, made_of = _program(site), archive.version(MODULE)
    if not archive.is_whole(program) or file.read_text(_version(site)) != made_of:
        archive.install(MODULE, program)
        file.write(_version(site), made_of, mode=0o600)
    if not daemons.has_systemd():
        commands.detach(_command(site))
        return
    text = f"{config_files.OURS}\n{_SERVICE.format(site=site.name, command=_shell(site))}"
    if file.read_text(_service(site)) != text:
        file.write(_service(site), text)
        units.daemon_reload()
    name = _service(site).name
    units.control("enable", "--quiet", "--now", name, doing=f"starting {name}")


def disable(site: Site) -> None:
    """Have the program not start at boot: the proof has ended."""
    if daemons.has_systemd() and _service(site).exists():
        name = _service(site).name
        units.attempt("disable", "--quiet", name, doing=f"disabling {name}")


def stop(site: Site) -> None:
    """End the program, from another one."""
    disable(site)
    if daemons.has_systemd() and _service(site).exists():
        name = _service(site).name
        units.stop("stop", units=[name], doing=f"stopping {name}", within=_PATIENCE)
    if runs(site):
        run_lock(site).end_holders(_PATIENCE)


def forget(site: Site, proof: Proof, why: str) -> None:
    """End a proof before its end: the active release serves all visitors; the release is cleared away by the caller."""
    lease.end(site)
    stop(site)
    lease.end(site)  # which the program may have renewed in between
    state.end(site, proof, state.SUPERSEDED, why)
    claim.next_link(site).unlink(missing_ok=True)


def supersede(site: Site, by: str) -> None:
    """End the proof of a site, if one runs, for something else: the release that it is about is given up.

    Args:
        by: what is done instead, in words.
    """
    proof = state.current(site)
    if not proof:
        return
    log.info("%s: the proof of %s ends: %s", site.name, proof.release, by)
    forget(site, proof, by)
    if proof.phase == state.CANARY:
        instances.remove(site, Release(site, proof.release).path)


def present(site: Site) -> list[Path]:
    """Return what the site has of it."""
    return [path for path in (_service(site), state.folder(site)) if path.exists()]


def remove(site: Site) -> None:
    """End the program and remove its unit; the folder is left to who removes the site."""
    stop(site)
    if _service(site).exists():
        _service(site).unlink()
        if daemons.has_systemd():
            units.daemon_reload()


def _program(site: Site) -> Path:
    return state.folder(site) / "program.pyz"


def _version(site: Site) -> Path:
    return state.folder(site) / "program.version"


def _command(site: Site) -> list[str]:
    return ["/usr/bin/python3", "-I", str(_program(site)), site.name]


def _shell(site: Site) -> str:
    return " ".join(_command(site)).replace("%", "%%")


def service_name(site: Site) -> str:
    """Return the name of the program's unit."""
    return f"django-{site.name}-proof.service"


def _service(site: Site) -> Path:
    return daemons.UNITS / service_name(site)
