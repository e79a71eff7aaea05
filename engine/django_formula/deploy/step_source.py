"""The step `source`: whether there is to be a new release, and its files."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from django_formula.container import file as container_file
from django_formula.deploy import difference, preflight, proof_begin, replay
from django_formula.deploy.deployment import Changes, Deployment, RepeatedFailure
from django_formula.host import clock, folders
from django_formula.host import file as host_file
from django_formula.host.commands import redact
from django_formula.inspect import project
from django_formula.process import contract
from django_formula.proof import state, unit
from django_formula.release import claim as release_claim
from django_formula.release import disk, instances, releases
from django_formula.release.releases import Release
from django_formula.request import push_setup
from django_formula.source import commits, mirror
from django_formula.store import setup
from django_formula.virtualenv import interpreter as virtualenv_interpreter
from django_formula.worker import workers


def source(deployment: Deployment) -> Iterator[Changes]:
    """Decide whether there is a new release; export the commit of the revision into it."""
    site, live = deployment.site, deployment.live
    if deployment.test and not (site.mirror / "HEAD").exists():
        deployment.plan("the first release")
        yield {"release": f"would be built from {site.config['folder'] or site.config['revision']}"}
        return
    if _waits_for_fleet(deployment) or _waits_for_push(deployment):
        deployment.secrets.read()
        return
    recorded, inputs = deployment.find_inputs()
    python = disk.interpreter_difference(site, live)
    is_made = _is_made_of(live, inputs) and not python
    if not deployment.again and (is_made or _is_proving(deployment, inputs) or _is_on_hold(deployment, inputs)):
        return
    changes = {**differences(deployment, recorded, inputs), **({"python": python} if python else {})}
    deployment.plan(releases.next_name(site, deployment.findings.commit, deployment.sequence))
    foreseen = _foresee(deployment, live) if deployment.test and live else {}
    outlook = preflight.check_host(deployment, changes)
    release = {"old": live.name if live else None, "new": deployment.findings.planned}
    yield {"release": release, **changes, **outlook.changes(), **foreseen}

    if outlook.refusal:
        raise outlook.refusal
    deployment.warn(instances.warnings(site))
    deployment.take_lock(look_again=True)
    has_same = not disk.interpreter_difference(site, deployment.live)
    if _is_made_of(deployment.live, inputs) and has_same and not deployment.again:
        deployment.keep_live()
    else:
        _begin(deployment, inputs)


def _waits_for_fleet(deployment: Deployment) -> bool:
    """Return whether the hosts of a site get their release together, and not by this deployment; with a warning why."""
    site, known = deployment.site, deployment.release_of_fleet
    if deployment.fleet or "fleet" not in site.config:
        return False
    claim = release_claim.current(site)
    if claim:
        deployment.warn([f"{site.name} is being deployed by {claim}: apply again when it is done"])
        return True
    live = deployment.live
    if not known and live and live.record.get("fleet") and not deployment.again:
        deployment.warn(
            [
                f"the pillar has nothing of the master's store, by which the hosts of {site.name} have their release "
                f"in common; {live.name} stays live: look at the master's log (ext_pillar), and apply again"
            ]
        )
        return True
    if known and not known["commit"]:
        deployment.warn([f"the hosts of {site.name} have no release yet: salt-run django.deploy {site.name} makes it"])
        return True
    return False


def _waits_for_push(deployment: Deployment) -> bool:
    """Return whether nothing was pushed to the site yet, of which there could be a release; with a warning how to."""
    site = deployment.site
    if deployment.live or deployment.again or commits.was_pushed(site):
        return False
    branch, address = site.config["revision"], push_setup.address(site)
    deployment.warn([f"nothing was pushed yet: git remote add live {address}; git push live {branch}"])
    return True


def _is_proving(deployment: Deployment, inputs: dict[str, str]) -> bool:
    """Return whether a release with these inputs gets a share of the visitors now; with a warning.

    One whose program was ended, as by a restart of a host without systemd, is begun again.
    """
    site, proof = deployment.site, state.current(deployment.site)
    release = Release(site, proof.release) if proof else None
    if not proof or not release or release.record.get("inputs") != inputs or not unit.runs(site):
        return False
    deployment.warn([f"{proof_begin.described(site, proof)}: see salt-call django.proof {site.name}"])
    return True


def _is_made_of(release: Release | None, inputs: dict[str, str]) -> bool:
    return bool(release and release.record.get("inputs") == inputs and disk.is_whole(release))


def _begin(deployment: Deployment, inputs: dict[str, str]) -> None:
    """Make the folder and the record of a new release, and export its source."""
    site = deployment.site
    release = Release(site, releases.next_name(site, deployment.findings.commit, deployment.sequence))
    unit.supersede(site, f"{release.name} is made")
    disk.clear_leftovers(site)
    release.path.mkdir(mode=0o755)
    if site.config.get("fleet"):
        host_file.write(release.path / releases.COMMIT, deployment.findings.commit, mode=0o644, durable=False)
    deployment.begin(release)
    deployment.note_begin()
    about = {"commit": deployment.findings.commit, "asked_by": deployment.asked_by, "began": clock.now()}
    if deployment.fleet or deployment.release_of_fleet:
        about["fleet"] = deployment.fleet or "apply"
    release.update(name=release.name, state="building", inputs=inputs, facts={}, **about)
    with ThreadPoolExecutor(1) as pool:  # the interpreter is asked for its version while git works
        if not container_file.configured(site):  # whose interpreter is that of an image which is not built yet
            pool.submit(virtualenv_interpreter.interpreter, site)
        export(deployment, release)
    release.update(**commits.describe(site, deployment.findings.commit))
    release.update(facts={"commit": deployment.findings.commit, **project.find(site, release.path / "source")})


def export(deployment: Deployment, release: Release) -> None:
    """Write the files of the commit into a release, readable by the build user only."""
    folder = folders.Folder(release.path / "source", "root", deployment.site.build_user, 0o750)
    folders.make(folder)
    commits.export(deployment.site, deployment.findings.commit, folder.path)
    folders.make(folder)  # a damaged mirror is fetched anew, and the folder made anew with it


def _foresee(deployment: Deployment, live: Release) -> Changes:
    """Render what can be rendered before the release is built; return what is not known before."""
    site = deployment.site
    path = site.releases / deployment.findings.planned
    facts = difference.expected_facts(site, live, deployment.findings.commit)
    files = difference.of_instance(live, path, facts, deployment.templates, deployment.secrets.masked())
    starts = [contract.unit(site, path, name) for name in workers.configured(site)]
    stops = instances.units(site, live.path)[1:]
    proof = replay.outlook(site, live)
    instance: Changes = {
        **({"files": files} if files else {}),
        **({"starts": ", ".join(starts)} if starts else {}),
        **({"replay": proof} if proof else {}),
    }
    stores = {f"django-{site.name}-{part}": "removed" for part in setup.obsolete(site)}
    shares = {"canary": proof_begin.outlook(site)} if proof_begin.begins(site) and not deployment.is_proved else {}
    known = {
        "instance": instance,
        "live": {**({"stops": ", ".join(stops)} if stops else {}), **shares},
        "record": {"stores": stores} if stores else {},
    }
    deployment.plan(deployment.findings.planned, {step: changes for step, changes in known.items() if changes})
    is_new_commit = deployment.findings.commit != live.record["commit"]
    builds = f"; salt-call django.plan {site.name} builds the release to tell" if is_new_commit else ""
    return {"not known": f"packages, migrations' SQL, settings of the project (STATIC_URL in nginx's files){builds}"}


def _is_on_hold(deployment: Deployment, inputs: dict[str, str]) -> bool:
    """Return whether a release with these inputs is on hold.

    Raises:
        RepeatedFailure: such a release failed; it is tried again only when it is asked for.
    """
    site, live = deployment.site, deployment.live
    former = [release for release in releases.releases(site) if release.record.get("inputs") == inputs]
    state = former[-1].record.get("state") if former else None
    if state == "held" and live and not deployment.release_of_fleet:
        text = f"{former[-1].name} is on hold since it was rolled back; {live.name} stays live."
        again = f"{site.to_release()} releases it anyway"
        if disk.is_whole(former[-1]):
            again = f"{site.to_return(former[-1].name, former[-1].record['commit'])} activates it again"
        python = disk.interpreter_problem(live)
        deployment.warn([f"{text} {again}", *([f"{site.name}: {python}"] if python else [])])
        return True
    if state == "failed" and former[-1].record.get("judged_by") == deployment.configuration_hash():
        record = former[-1].record
        raise RepeatedFailure(
            f"{former[-1].name} failed before with the same inputs: {record['step']}: {record['error']}",
            hint=f"change the revision or the pillar, or try it again: {site.to_release()}",
        )
    return False


def differences(deployment: Deployment, recorded: dict[str, str], inputs: dict[str, str]) -> Changes:
    """Return what changes in the inputs of the next release: commits, requirements, paths of the pillar.

    Args:
        recorded: the inputs of the last release.
        inputs: those of the next one.
    """
    site, old = deployment.site, recorded.get("commit")
    if not old:
        return {}
    changes: Changes = {}
    if old != deployment.findings.commit:
        if deployment.test and not site.config["folder"] and not mirror.has(site, deployment.findings.commit):
            commits.fetch(site, deployment.findings.commit)
        changes = {
            "commit": {"old": old, "new": deployment.findings.commit},
            **commits.commit_difference(site, old, deployment.findings.commit),
        }
        diffs = changes.get("requirements", {})
        diffs.update({path: redact(text, deployment.secrets.masked()) for path, text in diffs.items()})
    paths = {*recorded, *inputs} - {"commit"}
    pillar = sorted(path for path in paths if recorded.get(path) != inputs.get(path))
    return {**changes, **({"changed": pillar} if pillar else {})}
