"""Contradictions between the project's settings, the pillar and the proxy: each is a sentence with both values."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django_formula.deploy.deployment import Deployment
from django_formula.host.commands import DeploymentError, seconds
from django_formula.knowledge import hints
from django_formula.project import queue as project_queue
from django_formula.proxy import nginx
from django_formula.release.releases import Release
from django_formula.server import servers
from django_formula.site import domains as site_domains
from django_formula.site.sites import Site
from django_formula.untrusted import headers
from django_formula.worker import workers


def contradictions(site: Site, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the contradictions: the site works, but not for every visitor or not on every page.

    Args:
        settings: the effective settings, as Django reported them at its start.
    """
    if not servers.configured(site).SERVES:
        return  # the hosts that serve the site say it
    domains = [*map(site_domains.host, site.config["domains"])]
    if not all(_is_allowed(domain, settings["allowed_hosts"]) for domain in domains):
        yield f"ALLOWED_HOSTS is {settings['allowed_hosts']}, which does not include every domain of the site"
    if settings["media_root"] and Path(settings["media_root"]) != site.media.top:
        yield f"MEDIA_ROOT is {settings['media_root']}, not {site.media}: uploads are not served"
    yield from _of_cookies(site, settings.get("cookies", {}))
    yield from _of_https(site, settings.get("https", {}))
    yield from _of_origins(site, settings.get("trusted_origins", ()))
    yield from _of_paths(site, settings)
    yield from _of_static_files(site, settings)
    yield from _of_sizes(site, settings.get("largest_body"))
    yield from _of_times(site, settings.get("timeouts", {}))
    for text in settings.get("unready", ()):
        yield (
            "AppConfig.ready() of an application reads what migrations have yet to make, and ends there until they "
            f"are applied: {text}; have the project read it later, or in a data migration"
        )


def _is_allowed(domain: str, hosts: Sequence[str]) -> bool:
    """Return whether Django's ALLOWED_HOSTS allows a domain; ``.example.org`` allows subdomains too."""
    patterns = [host.lower() for host in hosts]
    return any(host in ("*", domain) or (host.startswith(".") and f".{domain}".endswith(host)) for host in patterns)


def _of_cookies(site: Site, cookies: Mapping[str, Any]) -> Iterator[str]:
    """Yield cookies that no browser sends back: those of another domain, or over https only on a site without it."""
    secure = [name for name, value in cookies.items() if name.endswith("_SECURE") and value]
    if secure and not _may_be_https(site):
        names = " and ".join(secure)
        yield (
            f"{names} {'are' if len(secure) > 1 else 'is'} on, so that browsers send the cookie over https only, and "
            "the site has no tls: set tls, or list the proxy in front that serves https in proxy:trusted"
        )
    for name, value in cookies.items():
        for domain in site.config["domains"] if name.endswith("_DOMAIN") and value else ():
            if not f".{domain}".endswith(f".{value.lower().lstrip('.')}"):
                yield (
                    f"{name} is {value}, which does not include {domain}: browsers reject the cookie there; "
                    f"correct {hints.setting(site, name)}"
                )


def _may_be_https(site: Site) -> bool:
    """Return whether visitors may use https: to the site's proxy, or to another one in front of it or instead of it."""
    return bool(site.https or site.config["proxy"]["trusted"] or not _is_ours(site))


def _of_https(site: Site, https: Mapping[str, Any]) -> Iterator[str]:
    """Yield redirects to https on a site without it, or with a header that the proxy removes."""
    header = https.get("header")
    is_custom = header not in (None, "HTTP_X_FORWARDED_PROTO")  # which the proxy passes on from the visitor
    removed = {headers.meta(name): name for name in headers.removed(site.config["proxy"])}
    if _is_ours(site) and header in removed:
        name, at = removed[header], f"{site.at}:proxy"
        yield (
            f"SECURE_PROXY_SSL_HEADER is {header}, and the proxy removes {name} from requests: use "
            f"HTTP_X_FORWARDED_PROTO, or list {name} in {at}:trusted_headers and the proxy that sends it in "
            f"{at}:trusted"
        )
    if https.get("redirect") and not _may_be_https(site) and not is_custom:
        at = site.at
        yield (
            "SECURE_SSL_REDIRECT redirects every visitor to https, and the site has no tls: set "
            f"{at}:tls, or list the proxy in front that serves https in {at}:proxy:trusted"
        )


def _of_origins(site: Site, origins: Sequence[str]) -> Iterator[str]:
    """Yield origins that no page of the site has; the project may trust others in addition to its own."""
    domains = site.config["domains"]
    own = [origin for origin in origins if any(_is_allowed(site_domains.host(one), [_host(origin)]) for one in domains)]
    if origins and not own:
        yield (
            f"CSRF_TRUSTED_ORIGINS is {list(origins)}, which includes no domain of the site ({', '.join(domains)}); "
            f"correct {hints.setting(site, 'CSRF_TRUSTED_ORIGINS')}"
        )
    plain = [origin for origin in own if origin.lower().startswith("http://")]
    if plain and site.public_https:
        yield (
            f"CSRF_TRUSTED_ORIGINS has {' and '.join(plain)}, and the site is served by https only; "
            f"correct {hints.setting(site, 'CSRF_TRUSTED_ORIGINS')}"
        )


def _host(origin: str) -> str:
    """Return the host of an origin in the form of ALLOWED_HOSTS; before Django 4 an origin has no scheme."""
    return origin.rpartition("://")[2].partition(":")[0].removeprefix("*")


def _of_paths(site: Site, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield links to another path than that of the site, and URLs of files that shadow each other."""
    at = site.at
    prefix, path = settings.get("script_name"), site.config["path"].rstrip("/")
    if prefix is not None and prefix.rstrip("/") != path:
        yield (
            f"FORCE_SCRIPT_NAME is {prefix!r}, and the site's path is {path or '/'!r}: links lead to the former; "
            f"correct {hints.setting(site, 'FORCE_SCRIPT_NAME')}, or {at}:path"
        )
    static, media = (str(settings.get(key, "")) for key in ("static_url", "media_url"))
    if settings.get("collected") is None or not _is_here(static) or not _is_ours(site):
        return
    if static.rstrip("/") in ("", path):
        yield (
            f"STATIC_URL is {static!r}, and the site's path is {path or '/'!r}: no static files are served there; "
            f"correct {hints.setting(site, 'STATIC_URL')}"
        )
    elif _is_here(media) and media.strip("/") and (static.startswith(media) or media.startswith(static)):
        yield (
            f"MEDIA_URL is {media!r}, and STATIC_URL is {static!r}: a file below both is served from one of them; "
            f"correct {hints.setting(site, 'MEDIA_URL')}, or STATIC_URL"
        )


def _of_static_files(site: Site, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a storage that names the files of the next release too early, and code among the files."""
    code = settings.get("static_code") or []
    if code:
        first = next((name for name in code if "settings" in name), code[0])
        yield (
            f"STATICFILES_DIRS has a folder with the project's code, and everyone can read {first} below STATIC_URL: "
            "have it name folders without code"
        )
    storage = settings.get("static_storage") or {}
    if storage.get("elsewhere") and storage.get("manifest"):
        yield (
            f"{storage['class']} uploads its manifest while collectstatic runs: from then on processes of the active "
            "release that start name static files of this one, even if it fails; use ManifestStaticFilesStorage with "
            f"{site.at}:static:push (docs/guides/static.md)"
        )


def _is_ours(site: Site) -> bool:
    """Return whether the formula manages the proxy of the site."""
    return bool(site.config["proxy"]["kind"] != "none")


def _is_here(url: str) -> bool:
    """Return whether a URL is a path of this host."""
    return url.startswith("/") and not urlsplit(url).netloc


def _of_sizes(site: Site, largest: int | None) -> Iterator[str]:
    """Yield a limit of Django that is above the proxy's; one below is fine, since Django does not count files."""
    sizes = [site.config["media"]["max_upload"]]
    parts = site.config["proxy"]["locations"].values()
    sizes += [part[name] for part in parts for name in ("client_max_body_size", "LimitRequestBody") if name in part]
    limits = [size for size in map(nginx.size, sizes) if size is not None]
    if largest and _is_ours(site) and 0 not in limits and largest > max(limits):
        yield (
            f"DATA_UPLOAD_MAX_MEMORY_SIZE is {largest} bytes, and the proxy refuses requests over {sizes[0]}: "
            f"raise {site.at}:media:max_upload"
        )


def _of_times(site: Site, timeouts: Mapping[str, float]) -> Iterator[str]:
    """Yield timeouts of databases that are longer than the server's timeout of a request."""
    server = servers.configured(site)
    limit = server.timeout(site)
    longer = f", or a longer {site.at}:server:options:{server.TIMEOUT}" if server.TIMEOUT else ""
    for name, timeout in timeouts.items():
        if timeout > limit:
            yield (
                f"{name} is {timeout:g} s, and the server ends a request after {limit} s, before Django can report the "
                f"timeout: set a shorter one in {_options(site, name)}{longer}"
            )


def _options(site: Site, name: str) -> str:
    """Return the key of the pillar that has the options of a database, or ``the project``."""
    for alias, database in site.config["databases"].items():
        if database["engine"] and name.startswith(f"DATABASES[{alias!r}]"):
            is_alone = alias == "default" and len(site.config["databases"]) == 1
            return f"{site.at}:{'database' if is_alone else f'databases:{alias}'}:options"
    return "the project"


# What the Celery app of a new release is refused for or warned of: its broker, its limits, tasks that wait

#: Names of tasks that a warning has.
_SHOWN = 3


def judge_celery(deployment: Deployment, release: Release, apps: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn of what the workers of a new release would lose.

    Args:
        apps: what the start of the project reported of the Celery app of each worker.

    Raises:
        DeploymentError: the app uses another broker than the site.
    """
    site = deployment.site
    apps = {name: app for name, app in apps.items() if name in workers.of_celery(site)}  # the project answers
    for name, app in apps.items():
        _refuse_other_broker(site, name, app)
    deployment.warn(dict.fromkeys(text for name, app in apps.items() for text in _celery_warnings(site, name, app)))
    if deployment.live and apps:
        deployment.warn(_vanished(deployment, deployment.live, release))


def _refuse_other_broker(site: Site, name: str, app: Mapping[str, Any]) -> None:
    if not app["uses_variable"]:
        raise DeploymentError(
            f"the Celery app of worker {name} uses the broker {app['broker']} "
            f"instead of CELERY_BROKER_URL ({app['place'] or 'its place was not found'})",
            hint="remove broker_read_url and broker_write_url from its settings, since they override the variable; "
            f"or remove the variable: {site.at}:environment, {site.at}:queue",
        )


def _celery_warnings(site: Site, name: str, app: Mapping[str, Any]) -> Iterator[str]:
    """Yield settings of Celery by which tasks are lost or run twice."""
    worker = site.config["workers"][name]
    if worker["kind"] == "celery_beat":
        unknown = {entry: task for entry, task in app["schedule"].items() if not _is_known(task, app)}
        for entry, task in sorted(unknown.items()):
            yield f"Celery beat: the entry {entry} sends {task}, and no task of the release has this name"
        return
    if app.get("no_results"):
        yield (
            f"worker {name}: results of tasks are lost, since their server does not answer ({app['no_results']}): "
            f"{site.at}:environment: {{CELERY_RESULT_BACKEND: {{from: celery_broker_url}}}}"
        )
    patience = seconds(worker["patience"])
    if app["acks_late"] and not app["rejects_lost"]:
        yield (
            f"worker {name}: task_acks_late without task_reject_on_worker_lost: "
            "a task is lost when the process that runs it is killed, for example where memory is short"
        )
    timeout = app["visibility_timeout"]
    if app["acks_late"] and timeout is not None and timeout <= patience:
        yield (
            f"worker {name}: a task that takes longer than visibility_timeout ({timeout:g} s) is run twice; "
            f"patience is {worker['patience']}"
        )
    if app["time_limit"] is not None and app["time_limit"] > patience:
        yield (
            f"worker {name}: task_time_limit is {app['time_limit']:g} s, and after patience ({worker['patience']}) "
            "a release's tasks are killed"
        )
    if app["waits_when_idle"]:
        yield (
            f"worker {name}: worker_enable_soft_shutdown_on_idle lets an idle worker wait for "
            "worker_soft_shutdown_timeout when it is stopped"
        )


def _is_known(task: str, app: Mapping[str, Any]) -> bool:
    return task in app["tasks"] or task.startswith("celery.")


def _vanished(deployment: Deployment, live: Release, release: Release) -> Iterator[str]:
    """Yield the names of tasks that the active release has and the new one does not, where tasks of these wait."""
    before, after = (_tasks_of(one.facts) for one in (live, release))
    if not before - after:
        return
    try:
        found = project_queue.read(
            deployment.site, release.path, release.facts, deployment.secrets.masked(), names=True
        )
    except DeploymentError as error:
        yield f"whether tasks wait that {release.name} does not know was not found out: {error.message}"
        return
    waiting: dict[str, int] = {}
    for queue in found.values():
        for task, count in (queue.get("names") or {}).items():
            waiting[task] = waiting.get(task, 0) + count
    for task in sorted((before - after) & waiting.keys())[:_SHOWN]:
        yield (
            f"{waiting[task]} tasks of {task} wait, which {release.name} does not have: "
            f"they are parked (salt-call django.queue {deployment.site.name})"
        )


def _tasks_of(facts: Mapping[str, Any]) -> set[str]:
    """Return the names of the tasks that the workers of a release know."""
    return {task for app in facts.get("celery", {}).values() for task in app["tasks"]}
