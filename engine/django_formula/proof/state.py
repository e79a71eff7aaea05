"""What is known of the proof of a release: which two there are, how far it is, and how it has ended."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from django_formula.host import file, proc
from django_formula.host.folders import Folder, make
from django_formula.host.locks import Lock
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.worker import workers

#: Before the switch visitors get the new release by a share; after it a share of them stays on the former one.
CANARY, BAKE = "canary", "bake"
#: How a proof ends: the release is active, taken back, given up for a newer one, or the host was started anew.
ACTIVE, BACK, SUPERSEDED, INTERRUPTED = "active", "back", "superseded", "interrupted"
_SHAPE = {
    **dict.fromkeys(("release", "old", "phase", "by", "judged_by", "boot", "token", "fleet", "outcome", "why"), str),
    **dict.fromkeys(("began", "since", "ended"), float),
    **dict.fromkeys(("stage", "share"), int),
    "steps": {str: float},
    "warnings": [str],
    "evidence": {},
}


class Proof(NamedTuple):
    """The proof of a release.

    Attributes:
        release: the new one, by its name.
        old: the one that was active before.
        phase: `CANARY` or `BAKE`.
        by: who has asked for the deployment.
        judged_by: `Deployment.configuration_hash` of that, for a release that is taken back.
        boot: the boot of the host, after which it is not gone on with.
        began: Unix time; and `since`, of the step that it is in; and `ended`, 0 before.
        stage: the number of the step; of a site with `hosts` the number of all steps, once it has passed them.
        share: percent of the visitors who get the release that is not active; on the command line where no step has it.
        token: the cookie by which people get that release without being of the share; empty without one.
        fleet: the id of the deployment on all hosts of the site, whose master decides the end; empty for one host.
        steps: seconds of the deployment's steps, and `warnings` of it, for the record of the release.
        outcome: how it has ended; empty before. `why`: in words; before the end it is the verdict that is carried out.
        evidence: of the judge, see `proof.judge`.
    """

    release: str
    old: str
    phase: str
    by: str
    judged_by: str
    boot: str
    began: float
    since: float
    share: int
    steps: Mapping[str, float]
    warnings: Sequence[str]
    stage: int = 0
    ended: float = 0.0
    token: str = ""
    fleet: str = ""
    outcome: str = ""
    why: str = ""
    evidence: Mapping[str, Any] = MappingProxyType({})


def folder(site: Site) -> Path:
    """Return the folder of a site's proof, which is root's: its state, its program, its lock."""
    return site.root / "proof"


def lock(site: Site) -> Lock:
    """Return the lock of the state, which its program and verbs change."""
    busy, hint = f"another change of the proof of {site.name}", f"see: salt-call django.proof {site.name}"
    return Lock(folder(site) / ".lock", "a proof", busy=busy, timeout="30s", hint=hint, interval=0.001)


def last(site: Site) -> Proof | None:
    """Return the proof that runs, or the last one; None without one.

    Its phase is what `current` says, also where a switch was interrupted.
    """
    values = file.read_json(_path(site), _SHAPE)
    if not values:
        return None
    proof = Proof(**{key: values[key] for key in Proof._fields})
    is_active = site.current.is_symlink() and os.path.basename(os.readlink(site.current)) == proof.release
    return proof._replace(phase=BAKE if is_active else CANARY)


def current(site: Site) -> Proof | None:
    """Return the proof that runs; None without one."""
    proof = last(site)
    return proof if proof and not proof.outcome else None


def new(site: Site, release: Release, old: Release, **about: Any) -> Proof:
    """Return the proof of a release that begins now.

    Args:
        about: ``by``, ``judged_by``, ``fleet``, ``steps`` and ``warnings`` of its deployment.
    """
    now, share = time.time(), stages(site)[0][0]
    return Proof(release.name, old.name, CANARY, boot=boot(), began=now, since=now, share=share, **about)


def boot() -> str:
    """Return what is another one after each boot of the host, or start of the container that this is in."""
    init = proc.stat(1)
    return f"{proc.boot_id()} {init.started if init else ''}"


def begin(site: Site, proof: Proof) -> None:
    """Write what is known of a proof that begins."""
    make(Folder(folder(site), "root", "root", 0o700))
    with lock(site).held():
        file.write_json(_path(site), _plain(proof), mode=0o600)


def change(site: Site, proof: Proof, **values: Any) -> Proof | None:
    """Change what is known of a proof; return it, None where it has ended or another one has begun meanwhile."""
    with lock(site).held():
        known = current(site)
        if not known or (known.release, known.began) != (proof.release, proof.began):
            return None
        known = known._replace(**values)
        file.write_json(_path(site), _plain(known), mode=0o600, durable="evidence" not in values)
        return known


def end(site: Site, proof: Proof, outcome: str, why: str) -> None:
    """Write how a proof has ended."""
    change(site, proof, outcome=outcome, why=why, ended=time.time())


def has_passed(site: Site, proof: Proof) -> bool:
    """Return whether a release has gone through all steps on this host, and waits for the site's other hosts."""
    return bool(proof.fleet) and proof.stage >= len(stages(site))


def _plain(proof: Proof) -> dict[str, Any]:
    return {**proof._asdict(), "evidence": dict(proof.evidence)}


def _path(site: Site) -> Path:
    return folder(site) / "state.json"


def stages(site: Site) -> list[tuple[int, str]]:
    """Return the steps of a site's canary in their order: percent of the visitors, and how long.

    Where the active release's workers would fail what the new one sends, no visitor gets it before the switch: what is
    left of the proof is the bake, in which the new one's workers take the tasks of both.
    """
    if workers.failing_unknown(site):
        return [(0, "0s")]
    steps = site.config["releases"]["canary"]["steps"]
    return sorted((int(share.rstrip("%")), duration) for share, duration in steps.items())
