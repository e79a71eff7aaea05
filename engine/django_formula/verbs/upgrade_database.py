"""The upgrade of the PostgreSQL cluster of a site to a newer version: plan, rehearse, run, and back.

The new cluster is made next to the former one, which is only read until both exchange their ports, and is kept then.
What is under way is recorded, so that each step can be killed: a child, or the next command, has the right cluster
serve. See docs/decisions/0163.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from django_formula.backup import backups, loading, restore
from django_formula.database import clusters, replication
from django_formula.database import server as database_server
from django_formula.database.clusters import Cluster
from django_formula.host import clock, commands, file, folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.proof import unit as proof_unit
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log
from django_formula.verbs import upgrade_hold, upgrade_plan
from django_formula.verbs.status import live_release
from django_formula.verbs.upgrade_hold import Holder
from django_formula.verbs.upgrade_plan import Plan

log = Log.of(__name__)

STATE = database_server.STATE / "upgrade.json"
#: Where an upgrade is: the former cluster serves until `_DONE`, and again from `_RETURNED` on.
_COPYING, _HELD, _DONE, _RETURNING, _RETURNED = "copying", "held", "done", "returning", "returned"
_OF_NEW = (_DONE, _RETURNING)
#: Seconds after which a backup is too old to begin an upgrade with.
_FRESH = 3600
#: Seconds in which the rows have to be counted for requests to wait meanwhile.
_COUNTING = 10.0
_INSTALL = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends")
_BY = "django.upgrade_database"
#: The name of the cluster into which a backup is loaded.
_REHEARSAL = "rehearsal"

State = dict[str, Any]
#: Where requests of sites wait, by the names of the sites.
Holders = Mapping[str, Holder]


class _Watch:
    """The seconds that each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def took(self, step: str) -> None:
        """Record that a step has ended now."""
        self.seconds[step] = round(time.monotonic() - self._began, 1)
        self._began = time.monotonic()


def plan(name: str, to: str | None = None) -> dict[str, Any]:
    """Return what an upgrade would do, and where one is that was begun.

    Raises:
        DeploymentError: the site has no cluster on this host.
    """
    port = upgrade_plan.port_of(sites.find(name))
    state, other = _of(port), _prevented_by_other(port)
    if state and state["held"] and _is_free(port):
        problem = f"an upgrade was interrupted: salt-call django.upgrade_database {name} back has its sites serve"
        return {"upgrade": _summary(state), "problems": [problem]}
    found = upgrade_plan.make(port, to)
    is_newest = bool(state) and state["phase"] == _DONE and not found.version
    answer: dict[str, Any] = {
        "from": f"{found.former}, port {port}",
        "to": "nothing newer is offered" if is_newest else found.version or "nothing",
        "sites": [site.name for site, _live in found.places],
        **found.notes,
    }
    if found.packages:
        answer["to install"] = found.packages
    if state:
        answer["upgrade"] = _summary(state)
    if not is_newest:
        answer |= {"way": found.way, **({"because": found.reasons} if found.reasons else {})}
    return answer | {"problems": [] if is_newest else [*([other] if other else []), *found.problems]}


def _is_free(port: int) -> bool:
    """Return whether no cluster runs at a port."""
    return not any(one.is_running and one.port == port for one in clusters.clusters())


def _summary(state: State) -> dict[str, Any]:
    former, new = _pair(state)
    texts = {
        _COPYING: "was interrupted: run begins anew, back removes what is left",
        _HELD: "was interrupted: run begins anew, back has the former cluster serve",
        _DONE: f"{former} is kept, stopped; once you do not need it: pg_dropcluster {former}",
        _RETURNING: "back was interrupted: back goes on",
        _RETURNED: f"taken back; {new} is kept, stopped, with what was written there",
    }
    answer: dict[str, Any] = {state["phase"]: texts[state["phase"]], "since": state["since"]}
    if state["phase"] == _DONE:
        answer["written since"] = _written(state) or "nothing"
    return answer


def rehearse(name: str, to: str | None = None) -> dict[str, Any]:
    """Load the newest backup of a site into a cluster of the new version, check it as a drill does, and remove that.

    Raises:
        DeploymentError: something is against an upgrade, there is no backup, or it does not work in that version.
    """
    site = sites.find(name)
    found = upgrade_plan.make(upgrade_plan.port_of(site), to)
    _refuse(found)
    live, former = live_release(site), found.former
    chosen = [one for one in backups.find(site, None) if one["engine"] == "postgres"]
    if not chosen:
        raise DeploymentError(
            f"the newest backup of {name} has no database of PostgreSQL", hint=f"salt-call django.backup {name}"
        )
    watch = _Watch()
    with backups.lock(site, _BY).held():
        _install(found)
        clusters.drop(Cluster(found.version, _REHEARSAL, 0, False, former.data))
        clusters.remove_remains(found.version, _REHEARSAL)
        watch.took("packages")
        taken = [one.port for one in clusters.clusters()]
        try:
            new = clusters.create(former, found.version, _REHEARSAL, clusters.free_port(taken))
            clusters.copy_roles(former, new)
            for one in site.config["databases"].values():
                if one["name"] in found.sizes:
                    clusters.copy_database(former, new, one["name"], schema_only=True)
            watch.took("new cluster")
            answer = loading.rehearse(live, chosen, site.backups, secrets.known(site), new.port)
            watch.took("loaded and checked")
        finally:
            clusters.drop(Cluster(found.version, _REHEARSAL, 0, False, former.data))
        watch.took("removed")
    backup = f"{chosen[0]['backup']}, taken {chosen[0]['taken']}"
    return {
        "from": str(former),
        "to": found.version,
        "backup": backup,
        "result": "good",
        **answer,
        "seconds": watch.seconds,
    }


def upgrade(name: str, to: str | None = None) -> dict[str, Any]:
    """Upgrade the cluster of a site, and with it all sites that have databases there.

    Raises:
        DeploymentError: something is against it, or a step fails: the former cluster serves then.
    """
    with _locked(name) as port:
        if other := _prevented_by_other(port):
            raise DeploymentError(other)
        _settle()
        found, state = upgrade_plan.make(port, to), _read()
        if state and state["phase"] == _DONE and not found.version:
            raise DeploymentError(
                f"the cluster is {found.former} since {state['since']}, and no newer version is offered",
                hint=f"to go back: salt-call django.upgrade_database {name} back",
            )
        _refuse(found)
        watch = _Watch()
        _back_up(found)
        watch.took("backup")
        _install(found)
        watch.took("packages")
        state = _begin(found)
        try:
            with commands.ending_with_this_process():
                held = _upgrade(found, state, watch.took)
        except BaseException:
            _clean(state)
            raise
        former, new = _pair(state)
    return {
        "from": str(former),
        "to": str(new),
        "sites": [site.name for site, _live in found.places],
        "way": found.way,
        **held,
        "seconds": watch.seconds,
        "rows": state["rows"],
        "kept": f"{former}, stopped, with what it had; back: salt-call django.upgrade_database {name} back",
    }


def back(name: str, *, lose: bool = False) -> dict[str, Any]:
    """Have the former cluster serve again; what was written to the new one stays there.

    Args:
        lose: go back although something was written since.

    Raises:
        DeploymentError: there is no former cluster, something was written since, or it does not start.
    """
    with _locked(name) as port:
        state = _of(port)
        if not state or state["phase"] == _RETURNED:
            raise DeploymentError(
                f"no upgrade of the cluster at port {port} can be taken back", hint="look at pg_lsclusters"
            )
        former, new = _pair(state)
        if state["phase"] in (_COPYING, _HELD):
            _settle()
            return {"serves": str(former), "removed": f"{new}, which was not complete"}
        _settle()
        state = _read()
        if clusters.find(*state["former"]) is None:
            raise DeploymentError(
                f"the former cluster {former} was removed", hint=f"restore a backup: salt-call django.restore {name}"
            )
        _refuse_written(name, state, lose)
        began = time.monotonic()
        state["phase"] = _RETURNING
        _write(state)
        with _no_backups(state), _guarded(state) as holders:
            _hold(state, holders, waits=False)
            clusters.limit(_found(state["new"]), dict.fromkeys(state["limits"], 0), end=True)
            lost = _refuse_written(name, state, lose)
            clusters.exchange(former, state["port"], new, state["other_port"])
            clusters.limit(_found(state["former"]), state["limits"])
            _start(state)
            state |= {"phase": _RETURNED, "since": clock.now()}
            _write(state)
            _reopen(state, holders)
        clusters.tell_systemd()
    answer = {"serves": str(former), "in maintenance": f"{time.monotonic() - began:.1f} s"}
    return answer | {"lost": lost or "nothing", "kept": f"{new}, stopped"}


def _prevented_by_other(port: int) -> str:
    """Return why a cluster cannot be upgraded before that of another port is settled; empty where it can.

    The record of one upgrade is kept, by which it can be taken back.
    """
    state = _read()
    if not state or state["port"] == port or state["phase"] == _RETURNED:
        return ""
    former, new = _pair(state)
    if state["phase"] != _DONE:
        name = next((site.name for site, _live in upgrade_plan.of_port(state["port"])), "SITE")
        return (
            f"the upgrade of {former}, port {state['port']}, was interrupted: "
            f"salt-call django.upgrade_database {name} back has its sites serve"
        )
    if clusters.find(*state["former"]) is None:
        return ""
    return (
        f"the upgrade of {former}, port {state['port']}, to {new} could not be taken back any more: "
        f"once you do not need that: pg_dropcluster {former}"
    )


def _refuse(found: Plan) -> None:
    if found.problems:
        raise DeploymentError(
            f"{found.former} cannot be upgraded: {found.problems[0]}",
            details=found.problems[1:],
            hint="salt-call django.upgrade_database SITE plan shows the whole",
        )


def _refuse_written(name: str, state: State, lose: bool) -> list[str]:
    """Return what was written since the upgrade; refuse to lose it unless that is wished."""
    found = _written(state)
    if found and not lose:
        raise DeploymentError(
            f"since the upgrade of {state['since']} was written what the former cluster does not have: {found[0]}",
            details=found[1:20],
            hint=f"to lose it: salt-call django.upgrade_database {name} back lose=True",
        )
    return found


def _written(state: State) -> list[str]:
    new = _found(state["new"])
    before = state["activity"]
    names = clusters.names(new)
    more = [f"{name}: a database that is new" for name in names if name not in before]
    return [*clusters.written(before, clusters.activity(new, [name for name in names if name in before])), *more]


def _back_up(found: Plan) -> None:
    """Have each site a backup that is fresh."""
    for site, live in found.places:
        newest = [one["taken"] for one in backups.manifests(site) if one["engine"] == "postgres"]
        if live and not any(time.time() - clock.seconds(taken) < _FRESH for taken in newest):
            backups.make(site, live, why=backups.BY_COMMAND, secrets=secrets.known(site))


def _install(found: Plan) -> None:
    if not found.packages:
        return
    environment = {"DEBIAN_FRONTEND": "noninteractive", **commands.network_environment()}
    doing, hint = f"installing {', '.join(found.packages)}", "run apt-get update, and look at apt-cache policy"
    commands.run([*_INSTALL, *found.packages], doing=doing, environment=environment, timeout=1800, hint=hint)
    made = clusters.find(found.version, found.former.name)
    if made and not upgrade_plan.is_ours(*made[:2]):  # of the package, by an older postgresql-common; empty
        clusters.drop(made)


def _begin(found: Plan) -> State:
    """Record what begins; what is left of one that was taken back is removed."""
    former = found.former
    new = Cluster(found.version, former.name, 0, False, former.data.parents[1] / found.version / former.name)
    clusters.drop(new)
    clusters.remove_remains(new.version, new.name)
    other = clusters.free_port(one.port for one in clusters.clusters())
    state = {
        "former": [former.version, former.name],
        "new": [new.version, new.name],
        "port": former.port,
        "other_port": other,
        "phase": _COPYING,
        "since": clock.now(),
        "limits": found.limits,
        "held": {},
    }
    _write(state)
    return state


def _upgrade(found: Plan, state: State, took: Callable[[str], None]) -> dict[str, str]:
    """Copy the cluster, and have the copy serve; return how long the sites did not serve, and what visitors saw."""
    former, names, is_live, waits = found.former, [*state["limits"]], found.way == upgrade_plan.LIVE, False
    meanwhile = replication.needs(len(names)) if is_live else None
    with _guarded(state):  # a copy that is left would have the former cluster keep its WAL
        new = clusters.create(former, found.version, former.name, state["other_port"], meanwhile)
        lacking = clusters.extensions_without_files(found.extensions, found.version)
        if lacking:
            raise DeploymentError(f"{found.version} does not have the extensions {', '.join(lacking)}")
        clusters.copy_roles(former, new)
        took("new cluster")
        if is_live:
            replication.copy(former, new, names)
            took("copied")
            clusters.analyze(new, marks=True)
            took("analyzed")
            clusters.checkpoint(former, new)
            counting = time.monotonic()
            clusters.rows(former, names)
            waits = time.monotonic() - counting < _COUNTING  # for the rows are counted again while requests wait
            took("counted")
    with _no_backups(state), _guarded(state, waits=waits) as holders:
        began = time.monotonic()
        _hold(state, holders, waits=waits)
        clusters.limit(former, dict.fromkeys(names, 0), end=True)
        took("sites stopped")
        if is_live:
            replication.finish(former, new, names)
            clusters.forget_meanwhile(new)
            took("last writes")
        else:
            for name in names:
                clusters.copy_database(former, new, name)
            took("copied")
            clusters.analyze(new)
            took("analyzed")
        clusters.limit(new, state["limits"])
        _compare(former, new, state)
        took("compared")
        clusters.exchange(new, state["port"], former, state["other_port"])
        state["activity"] = clusters.activity(_found(state["new"]), names)
        took("ports exchanged")
        _start(state)
        state |= {"phase": _DONE, "since": clock.now()}
        _write(state)
        took("sites started")
        held = time.monotonic() - began
        _reopen(state, holders)
    clusters.tell_systemd()
    return {"held" if waits else "in maintenance": f"{held:.1f} s"}


def _compare(former: Cluster, new: Cluster, state: State) -> None:
    with ThreadPoolExecutor(2) as pool:  # each is a server of its own, and requests wait for both
        before, now = pool.map(lambda one: clusters.rows(one, state["limits"]), (former, new))
    for name, tables in before.items():
        if tables != now[name]:
            table = next(one for one in {*tables, *now[name]} if tables.get(one) != now[name].get(one))
            there = f"{table} has {now[name].get(table)} rows, expected {tables.get(table)}"
            raise DeploymentError(f"the copy of {name} is not complete: {there}")
    state["rows"] = {name: sum(tables.values()) for name, tables in before.items()}


def _hold(state: State, holders: Holders, *, waits: bool) -> None:
    """Have the sites stop, while requests wait or get the maintenance page; what they were before is recorded first.

    Raises:
        DeploymentError: a command runs for a site, or maintenance does not work for it.
    """
    chosen = [(site, live) for site, live in upgrade_plan.of_port(state["port"]) if live]
    for site, _live in chosen:
        restore.refuse_running_commands(site)
    for site, _live in chosen:
        proof_unit.supersede(site, "its database server is upgraded")
    state["held"] = {site.name: upgrade_hold.before(site, live, waits=waits) for site, live in chosen}
    state["phase"] = _HELD if state["phase"] == _COPYING else state["phase"]
    _write(state)
    for site, live in chosen:
        upgrade_hold.hold(site, live, state["held"][site.name], holders.get(site.name), _BY)
    for site, _live in chosen:
        restore.refuse_running_commands(site)
    _for_each(restore.stop, chosen)


def _for_each(call: Callable[[Site, Release], None], chosen: Iterable[tuple[Site, Release]]) -> None:
    """Call a function for each site, all at the same time; the error of the first one is raised."""
    given = [*chosen]
    with ThreadPoolExecutor(max(1, len(given))) as pool:
        for called in [pool.submit(call, *one) for one in given]:
            called.result()


def _start(state: State) -> None:
    """Start the sites, and check that each passes its health check.

    Raises:
        DeploymentError: one does not.
    """
    _for_each(restore.start, _held(state))


def _reopen(state: State, holders: Holders) -> None:
    """Have requests reach the sites again, those that wait first."""
    for site, live in _held(state):
        upgrade_hold.release(site, live, state["held"][site.name], holders.get(site.name))
    state["held"] = {}
    _write(state)


def _held(state: State) -> Iterator[tuple[Site, Release]]:
    for name in state["held"]:
        site = sites.find(name)
        live = releases.linked(site, site.current)
        if live:
            yield site, live


def _settle(holders: Holders | None = None) -> None:
    """Have the cluster serve that has to, with all sites, wherever an upgrade was interrupted.

    Args:
        holders: of the sites whose requests wait.
    """
    state = _read()
    if not state:
        return
    former, new = _pair(state)
    serving, other = (new, former) if state["phase"] in _OF_NEW else (former, new)
    if state["held"]:
        clusters.exchange(serving, state["port"], other, state["other_port"])
        clusters.limit(_found([serving.version, serving.name]), state["limits"])
        try:
            _start(state)
        finally:
            _reopen(state, holders or {})
    if state["phase"] == _RETURNING:
        state["phase"] = _DONE
        _write(state)
    if state["phase"] in (_COPYING, _HELD):
        _clean(state)


def _clean(state: State) -> None:
    """Remove a cluster that is not complete, and the record of it, unless the upgrade was done."""
    if state["phase"] in (_COPYING, _HELD):
        clusters.drop(_pair(state)[1])
        clusters.remove_remains(*state["new"])
        former = clusters.find(*state["former"])
        if former and former.is_running:
            replication.remove(former, [name for name in clusters.names(former) if name in state["limits"]])
        STATE.unlink(missing_ok=True)


@contextmanager
def _no_backups(state: State) -> Iterator[None]:
    """Have no backup and no drill of the sites run, which would be cut off."""
    with ExitStack() as stack:
        for site, live in upgrade_plan.of_port(state["port"]):
            if live and site.backups.is_dir():
                stack.enter_context(backups.lock(site, _BY).held())
        yield


@contextmanager
def _guarded(state: State, *, waits: bool = False) -> Iterator[Holders]:
    """Have the right cluster serve again where the block fails, or where this process is killed in it.

    A child waits for that: a pipe tells it when its parent is gone. It has the locks too, and the sockets in which
    requests wait.

    Args:
        waits: whether requests wait while a site is stopped.
    """
    live = [site for site, release in upgrade_plan.of_port(state["port"]) if release]
    holders = {site.name: Holder(site) for site in live} if waits else {}
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _watch(reader, writer, holders)
    os.close(reader)
    try:
        with commands.ending_with_this_process():
            yield holders
    except BaseException:
        _settle_after_failure(holders)
        raise
    finally:
        os.write(writer, b".")
        os.close(writer)
        os.waitpid(child, 0)
        for one in holders.values():
            one.close()


def _watch(reader: int, writer: int, holders: Holders) -> None:
    code = 1
    try:
        os.setsid()
        os.close(writer)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)
        if not os.read(reader, 1):
            _settle(holders)
        code = 0
    finally:
        os._exit(code)


def _settle_after_failure(holders: Holders) -> None:
    try:
        _settle(holders)
    except DeploymentError as error:
        log.error("after the failure of an upgrade: %s", error)


@contextmanager
def _locked(name: str) -> Iterator[int]:
    """Hold the locks of all sites of a site's cluster, of their deployments and of their backups; yields its port."""
    port = upgrade_plan.port_of(sites.find(name))
    with ExitStack() as stack:
        for site, _live in upgrade_plan.of_port(port):
            stack.enter_context(site.lock(_BY).held())
        yield port


def _pair(state: Mapping[str, Any]) -> tuple[Cluster, Cluster]:
    """Return the former and the new cluster of an upgrade, whether they are there or not."""
    return tuple(_absent(one) for one in (state["former"], state["new"]))  # type: ignore[return-value]


def _absent(names: Sequence[str]) -> Cluster:
    return Cluster(names[0], names[1], 0, False, clusters.CONFIGURATION)


def _found(names: Sequence[str]) -> Cluster:
    found = clusters.find(*names)
    if found is None:
        raise DeploymentError(f"the cluster {' '.join(names)} is not there", hint="look at pg_lsclusters")
    return found


def _read() -> State:
    return file.read_json(STATE) or {}


def _of(port: int) -> State:
    """Return the record of the upgrade of the cluster at a port, which both clusters have had."""
    state = _read()
    return state if state.get("port") == port else {}


def _write(state: State) -> None:
    for folder in (STATE.parent.parent, STATE.parent):
        folders.make(Folder(folder, "root", "root", 0o755))
    file.write_json(STATE, state, mode=0o600)
