"""The steps `secret_key` and `settings`: the secrets of a site, and the configuration of its new release."""

from collections.abc import Iterator

import django_database
import django_email
import django_host_environment
import django_host_file
import django_host_folder
import django_proxy_maintenance
import django_proxy_move
import django_proxy_page
import django_release_settings
import django_secret
import django_server
import django_worker
from django_deploy import Changes, Deployment
from django_deploy_inputs import OVERLAY, PROGRAMS
from django_release import Release


def secret_key(deployment: Deployment) -> Iterator[Changes]:
    """Generate missing secrets, and keep them and the pillar's."""
    site = deployment.site
    missing = django_secret.missing(site, deployment.secrets.by_name, deployment.recorded_inputs())
    logins = django_database.logins(site)
    changed = django_secret.changed(site, {**deployment.secrets.by_name, **logins})
    lapsed = deployment.secrets.lapsed if deployment.is_new else []
    begun = deployment.secrets.given.get(django_secret.NEXT_KEY)
    is_changed = bool(lapsed or (begun and begun not in django_secret.fallbacks(site)))
    environment = site.secrets / "environment"
    is_current = not missing and django_host_file.read_text(environment) == _secret_environment(deployment)
    if is_current and not changed and not is_changed:
        return
    changes = dict.fromkeys(missing, "generated") | dict.fromkeys(changed, "kept")
    changes |= {"former keys": f"{len(lapsed)} dropped, since all their signatures have expired"} if lapsed else {}
    changes |= {"next key": "accepted"} if is_changed and not lapsed else {}
    yield changes or {"environment": "written"}
    deployment.take_lock()
    exposed = django_secret.exposed(site, changed)
    deployment.warn(f"{path} was readable by every user until now: replace that secret" for path in exposed)
    for name in missing:
        deployment.secrets.add(name, django_secret.generate(site, name))
    if deployment.is_new:
        deployment.secrets.keep_replaced([environment, *(django_secret.path_of(site, name) for name in changed)])
    for name in {*missing, *changed} | ({"secret_key"} if is_changed else set()):
        django_secret.store(
            site, name, logins.get(name) or deployment.secrets.by_name[name], lapsed, deployment.secrets.given
        )
    django_host_file.write(environment, _secret_environment(deployment), mode=0o640, group=site.user)
    if deployment.is_new and deployment.release:
        deployment.release.update(inputs=deployment.inputs())


def _secret_variables(deployment: Deployment) -> dict[str, str]:
    site, secrets = deployment.site, deployment.secrets.by_name
    return django_release_settings.secret_environment(site, secrets, deployment.secrets.former_keys())


def _secret_environment(deployment: Deployment) -> str:
    return django_host_environment.environment_file(_secret_variables(deployment))


def settings(deployment: Deployment) -> Iterator[Changes]:
    """Write the overlay and its data, the environment, and the pillar's files into the new release."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    leaving = django_proxy_move.leaving(site)
    environment = django_release_settings.environment(site, release.path, release.facts, leaving)
    variables = {**environment, **_secret_variables(deployment)}
    key = deployment.secrets.by_name["secret_key"]
    files = django_release_settings.project_files(site, deployment.templates, variables, key)
    contents = {"environment": django_host_environment.environment_file(environment), **_programs(deployment)}
    written = [
        *contents,
        *([f"{django_release_settings.MODULE}.py", "settings.json"] if site.config["overlay"] else []),
    ]
    yield {"config": written, **({"files": sorted(files)} if files else {})}
    config = release.path / "config"
    django_host_folder.make(django_host_folder.Folder(config, "root", site.user, 0o750))
    if site.config["overlay"]:
        contents |= _overlay(deployment, release, leaving)
    for name, content in contents.items():
        django_host_file.write(config / name, content, mode=0o640, group=site.user, durable=False)
    for path, content in files.items():
        django_release_settings.write_project_file(site, release.path / "source", path, content)
    django_proxy_maintenance.refuse_missing_page(site, release.path, release.facts["folder"])
    django_proxy_page.of_errors(site, release.path, release.facts["folder"])


def _programs(deployment: Deployment) -> dict[str, str]:
    return {
        url.rpartition("/")[2]: deployment.templates[url]
        for url in (*PROGRAMS, *django_worker.programs(deployment.site))
    }


def _overlay(deployment: Deployment, release: Release, leaving: list[str]) -> dict[str, str]:
    """Return the overlay module and its data: file name in ``config/`` → content."""
    site, module = deployment.site, release.facts["settings_module"]
    keeps = django_server.of_site(site).keeps_threads(site)
    email = {"django_formula_email.py": deployment.templates[django_email.MODULE]} if site.config.get("email") else {}
    return {
        **email,
        f"{django_release_settings.MODULE}.py": deployment.templates[OVERLAY],
        "settings.json": django_release_settings.overlay(
            site, release.path, module, leaving=leaving, keeps_threads=keeps
        ),
    }
