"""One pass over a site: what is wanted, what is live, the release in the making, and how it ends when a step fails."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import django_database_migration
import django_host_clock
import django_host_disk
import django_host_file
import django_release
import django_release_attempt
import django_release_instance
import django_release_switch_report
import django_secret
import django_source
import django_source_folder
import django_takeover
import django_virtualenv_index
import msgpack
from django_host_command import DeploymentError, redact
from django_release import Release
from django_site import Site

#: Keys of the configuration that a release is not made of: changing one makes no new release.
_NOT_INPUTS = {
    *(
        "state",
        "remove_data",
        "adopt",
        "repository",
        "folder",
        "revision",
        "deploy",
        "deploy_key",
        "known_hosts",
        "redirect_domains",
    ),
    *(
        "packages",
        "index",
        "secret_key",
        "health",
        "migrate",
        "check",
        "proxy",
        "releases",
        "timeouts",
        "media",
    ),
    "build_sandbox",
    "maintenance",
    "backup",
    "tls",
}
#: Of the templates that a release is rendered from, those that the server does not need.
PROGRAMS = [f"salt://django/files/django_formula_{name}.py" for name in ("start", "migrate", "lock", "guard")]
OVERLAY = "salt://django/files/django_formula_settings.py"


class Deployment:
    """One pass over the steps of one site.

    Args:
        site: the site with its effective configuration.
        given: secrets that the pillar gives, by name, and ``deploy_key`` and ``index_password``.
        templates: text of the templates, by URL.
        asked_by: whose deployment this is, for the lock and the record.
        revision: a revision other than the configuration's; with it, and with `again`, nothing is held back.
        again: release even where nothing has changed, or the commit was held back or has failed.
        test: steps only look.
    """

    def __init__(
        self,
        site: Site,
        given: Mapping[str, str],
        templates: Mapping[str, str],
        *,
        asked_by: str = "salt",
        revision: str | None = None,
        again: bool = False,
        test: bool = False,
    ):
        self.site = site
        others = ("deploy_key", "index_password")
        self.given = {name: value for name, value in given.items() if name not in others and name[:4] != "tls:"}
        #: What the pillar gives of ``tls``, by its key there, where it is no path.
        self.tls = {name[4:]: value for name, value in given.items() if name[:4] == "tls:"}
        self.deploy_key = given.get("deploy_key")
        self.index_password = django_virtualenv_index.password(site, given.get("index_password"))
        self.templates = templates
        self.asked_by = asked_by
        self.revision = revision
        self.again = again
        self.test = test
        self.lock = site.lock(asked_by)
        self.live = django_release.linked(site, site.current)
        #: The release that the steps work on: the live one until `source` begins another.
        self.release: Release | None = self.live
        self.is_new = False
        #: The live release where it was stopped before the new one starts, and when (by the monotonic clock).
        self.paused: Release | None = None
        self.paused_at = 0.0
        #: In a rollback, the release that is left; it is held back from then on.
        self.left: Release | None = None
        #: Whether the release is built aside, for a plan: what outlives releases is left as it is.
        self.aside = False
        #: In a test or a plan, the name of the release that would be made.
        self.planned = ""
        #: In a test, what steps of that release would change, by their names, as far as it is known before it is built.
        self.foreseen: dict[str, dict[str, Any]] = {}
        self.commit = ""
        self.secrets: dict[str, str] = {}
        #: Former secret keys that the new release does without.
        self.lapsed: list[str] = []
        #: The files of secrets that were written for the new release, as the live one had them.
        self.replaced: dict[Path, bytes] = {}
        #: What the servers of databases on this host have, as they were asked last; shared by the sites of an apply.
        self.servers: dict[Any, Any] = {}
        #: Who listens on which port, where this apply has looked already.
        self.listening: Mapping[int, set[str]] | None = None
        self.warnings: list[str] = []
        self._told = 0
        self._fallbacks: list[str] = []
        #: The adoption of an old site, until it is done.
        self.takeover = django_takeover.load(site)
        self.find_commit: Callable[[], str] | None = None
        self.went_live = False
        #: The main process of the release when its health page was found well.
        self.steady: int | None = None
        #: What asks for the health page over the switch, and what it has seen in the end.
        self.probe: django_release_switch_report.Probe | None = None
        self.receipt: dict[str, Any] = {}
        #: Whether what fails is written down: not where it has failed before, and is not tried again.
        self.is_attempt = True
        #: Whether it is still being decided if anything is done: what fails then is a refusal.
        self.is_undecided = False
        self.began = time.time()
        self.seconds: dict[str, float] = {}

    def untold_warnings(self) -> list[str]:
        """The warnings that have come since this was asked last."""
        before, new = self.warnings[: self._told], self.warnings[self._told :]
        self._told = len(self.warnings)
        return [text for text in dict.fromkeys(new) if text not in before]

    def masked(self) -> list[str]:
        """The texts that no output may show, as they are and as they stand in a URL."""
        keys = [value for name, value in self.tls.items() if name != "certificate"]
        given = filter(None, [*self.given.values(), self.deploy_key, self.index_password, *keys])
        with contextlib.suppress(OSError):  # no more files may be opened: what was read before is known yet
            self._fallbacks = django_secret.fallbacks(self.site)
        known = list(dict.fromkeys([*self.secrets.values(), *given, *self._fallbacks]))
        return [*known, *(quoted for value in known if (quoted := quote(value, safe="")) != value)]

    def inputs(self) -> dict[str, str]:
        """What the release is made of: the commit, and keyed hashes of the values below the site's pillar, by path."""
        key = django_secret.record_key(self.site)
        config = {name: value for name, value in self.site.config.items() if name not in _NOT_INPUTS}
        config["static"] = {name: value for name, value in config["static"].items() if name != "expires"}
        config["secrets"] = {
            name: {"as": said["as"], "variable": said["variable"]} for name, said in config["secrets"].items()
        }
        databases = config["databases"].items()
        config["databases"] = {
            alias: {key: value for key, value in {**database, "password": None}.items() if key != "manage"}
            for alias, database in databases
        }
        used = {said["source"] for said in config["files"].values() if said.get("source")}
        used |= {*PROGRAMS, OVERLAY, *django_release_instance.templates(self.site)}
        if self.site.https and self.site.config["overlay"]:
            config["tls"] = {"listen": self.site.https}
        if self.site.config["proxy"].get("keepalive"):
            config["proxy"] = {"keepalive": True}
        values = dict(_leaves(config))
        values |= {f"secrets:{name}": value for name, value in self.secrets.items()}
        if former := self.former_keys():
            values["secrets:secret_key:fallbacks"] = former
        values |= {url: text for url, text in self.templates.items() if url in used}
        return {"commit": self.commit, **{path: django_secret.keyed_hash(key, value) for path, value in values.items()}}

    def former_keys(self) -> list[str]:
        """The former secret keys that the release knows, the last one first."""
        former = django_secret.fallbacks_beside(self.site, self.secrets.get("secret_key", ""))
        return [key for key in former if key not in self.lapsed]

    def judged_by(self) -> str:
        """A keyed hash of the whole configuration: what a release that has failed was made of and judged by."""
        judge = {**self.site.config, "index_password": self.index_password}
        return django_secret.keyed_hash(django_secret.record_key(self.site), judge)

    def take_lock(self, *, look_again: bool = False) -> None:
        """Take the site's lock, unless this deployment has it.

        Args:
            look_again: go on with what is live by then; the caller begins anew with it.

        Raises:
            DeploymentError: another deployment holds the lock too long, or has changed what is live while this one
                waited for it.
        """
        if self.lock.is_held:
            return
        self.lock.take()
        before, self.live = self.live, django_release.linked(self.site, self.site.current)
        if not look_again and (before and before.name) != (self.live and self.live.name):
            raise DeploymentError(
                f"another deployment has made {self.live.name if self.live else 'nothing'} live meanwhile",
                hint="apply again",
                transient=True,
            )

    def recorded_inputs(self) -> dict[str, Any]:
        """The inputs of the live release, or of the last good one."""
        good = [
            release for release in django_release.releases(self.site) if release.record.get("state") in ("good", "held")
        ]
        last = self.live or (good[-1] if good else None)
        recorded = dict(last.record.get("inputs", {})) if last else {}
        if django_release_attempt.has_released(self.site):
            recorded.setdefault("secrets:secret_key", "")
        return recorded

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step: what it raises ends the deployment and is recorded with the step's name.

        Raises:
            DeploymentError: always this, for the operator; an error of the file system becomes one.
        """
        began, umask = time.monotonic(), os.umask(0o022)
        try:
            try:
                yield
            finally:
                self.seconds[name] = round(self.seconds.get(name, 0) + time.monotonic() - began, 3)
        except DeploymentError as error:
            self._fail(name, error)
            raise
        except OSError as error:
            wrapped = DeploymentError(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), transient=True)
            self._fail(name, wrapped)
            raise wrapped from error
        except BaseException:
            self._put_back()
            if self.paused and not self.went_live:
                self._resume(self.paused)
            self._let_go()
            raise
        finally:
            os.umask(umask)

    def _fail(self, step: str, error: DeploymentError) -> None:
        """The new release is stopped and kept as failed, or removed where trying again may help; what is live stays."""
        error.log = redact(error.log, self.masked())
        error.message = redact(error.message, self.masked())
        django_host_disk.explain(error, self.site.root)
        self._put_back()
        release = self.release if self.is_new and not self.went_live else None
        self._write_failure(step, error)
        with contextlib.suppress(DeploymentError, OSError):
            if release and release.path.exists():
                self._clear_away(release, step, error)
            elif self.left and self.release and not self.went_live and self.release.name != self.left.name:
                django_release_instance.stop(self.site, self.release.path)
        live = self.release if self.went_live else self.live
        nothing = "the old site still serves" if self.takeover else "nothing runs yet"
        runs = f"{live.name} still runs" if live else nothing
        if self.paused and not self.went_live:
            runs = self._resume(self.paused)
        with contextlib.suppress(OSError):
            if not self.went_live and self.live and django_database_migration.is_in_maintenance(self.site, self.live):
                runs = (
                    f"visitors get the maintenance page: {self.live.name} runs, and cannot live with what was migrated"
                    f"; release forward, or restore a backup and salt-call django.maintenance {self.site.name} off"
                )
        error.message = f"{step}: {error.message}"
        error.hint = "\n".join(filter(None, [error.hint, runs]))
        self._let_go()

    def _put_back(self) -> None:
        """Give the live release its secrets again, for it reads them when it starts the next time."""
        if self.live and not self.went_live:
            for path, content in self.replaced.items():
                with contextlib.suppress(OSError):
                    django_host_file.write(path, content, mode=0o640, group=self.site.user)
        self.replaced = {}

    def _let_go(self) -> None:
        if self.probe:
            self.probe.end()
        if self.takeover:
            self.takeover.let_go()
        self.lock.release()

    def pause(self, live: Release) -> None:
        """Stop the live instance, for there is no memory for two; it comes back if the new one fails."""
        self.paused, self.paused_at = live, time.monotonic()
        django_release_instance.pause(self.site, live.path)

    def _resume(self, live: Release) -> str:
        """Start the instance again that was stopped first; returns what runs then."""
        try:
            django_release_instance.start(self.site, live.path)
        except (DeploymentError, OSError) as error:
            again = f"salt-call django.release {self.site.name} {live.record['commit']}"
            return f"{live.name} does not come back: {str(error).splitlines()[0]}\n{again} releases it anew"
        return f"{live.name} runs again"

    def _clear_away(self, release: Release, step: str, error: DeploymentError) -> None:
        django_release_instance.remove(self.site, release.path)
        for part in ("source", "static"):
            django_host_file.remove_tree(release.path / part)
        if error.transient:
            django_host_file.remove_tree(release.path)
        else:
            failure = {"step": step, "error": str(error), "judged_by": self.judged_by()}
            release.update(state="failed", steps=self.seconds, **failure)

    def _write_failure(self, step: str, error: DeploymentError) -> None:
        """Write down what has failed, also before there was a release; not where nothing was tried."""
        if self.is_attempt and not self.test and self.site.applied.exists():
            with contextlib.suppress(OSError):  # a full disk
                ended = "refused" if self.is_undecided else "failed"
                self.write_attempt(self.result() if self.went_live else ended, step=step, error=error.message)
                if self.went_live and self.release:
                    self.release.update(steps=self.seconds)

    def result(self) -> str:
        """What a deployment that went live has done."""
        return "rolled back" if self.left else "released"

    def write_attempt(self, result: str, **more: Any) -> None:
        """Append what came of this deployment to ``deploys.jsonl``."""
        begun = self.release.name if self.release else None
        attempt = {
            "time": django_host_clock.now(),
            "release": None if self.live and begun == self.live.name else begun,
            "commit": self.commit,
            "result": result,
            "asked_by": self.asked_by,
            "seconds": round(time.time() - self.began, 1),
            **({"receipt": self.receipt} if self.receipt else {}),
            **more,
        }
        django_release_attempt.append(self.site, attempt)

    def ask_for_commit(self) -> Callable[[], str]:
        """Begin to find out the commit of the revision: the remotes of all sites are asked at the same time."""
        from concurrent.futures import ThreadPoolExecutor

        site, live = self.site, self.live
        revision = self.revision or site.config["revision"]
        if site.config["folder"] and not self.revision:
            self.find_commit = lambda: django_source_folder.tree(site)
        elif live and site.config["deploy"] == "manual" and not self.again:
            self.find_commit = lambda: live.record["commit"]
        elif django_source.COMMIT.fullmatch(revision):
            self.find_commit = lambda: revision
        else:
            pool = ThreadPoolExecutor(1)
            self.find_commit = pool.submit(django_source.resolve, site, revision).result
            pool.shutdown(wait=False)
        return self.find_commit

    def wanted_commit(self) -> str:
        """The commit that is to be live: the revision's, or the live one, with a warning, if the remote is silent."""
        find = self.find_commit or self.ask_for_commit()
        try:
            return find()
        except DeploymentError as error:
            if not (self.live and error.transient and not self.again):
                raise
            cause = next((line.strip() for line in reversed(error.log.splitlines()) if line.strip()), "")
            self.warnings.append(f"{error.message}{f' ({cause})' if cause else ''}; {self.live.name} stays live")
            return str(self.live.record["commit"])


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}:{name}" if path else name)
    else:
        yield path, value


def asked_by(what: str, cachedir: str) -> str:
    """Who asks for a deployment, for the lock and the record: what was called, by whom, the number of the Salt job.

    Args:
        cachedir: Salt's cache on this host, where it keeps a file for each job that runs.
    """
    for path in Path(cachedir, "proc").glob("*"):
        with contextlib.suppress(OSError, ValueError):
            job = msgpack.unpackb(path.read_bytes())
            if job.get("pid") == os.getpid():
                return f"{what} by {_person(job)}, salt job {path.name}"
    return f"{what} by {_person({})}"


def _person(job: Mapping[str, Any]) -> str:
    """Who has published a Salt job, its schedule, or whoever became root on this host to call it."""
    if "schedule" in job:
        return f"the schedule {job['schedule']}"
    return str(job.get("user") or os.environ.get("SUDO_USER") or "root").removeprefix("sudo_")
