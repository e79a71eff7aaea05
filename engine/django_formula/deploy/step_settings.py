"""The steps `secret_key` and `settings`: the secrets of a site, and the configuration of its new release."""

from collections.abc import Iterator

from django_formula.database import databases
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.deploy.inputs import LOGS, OVERLAY, PROGRAMS, SAID
from django_formula.email import mail
from django_formula.host import environment_files, file, folders
from django_formula.proxy import maintenance, moves, page
from django_formula.release import settings as release_settings
from django_formula.release import templates as release_templates
from django_formula.release.releases import Release
from django_formula.secret import secrets as secret_secrets
from django_formula.server import servers
from django_formula.worker import workers


def secret_key(deployment: Deployment) -> Iterator[Changes]:
    """Generate missing secrets, and keep them and the pillar's."""
    site = deployment.site
    missing = secret_secrets.missing(site, deployment.secrets.by_name, deployment.recorded_inputs())
    logins = databases.logins(site)
    changed = secret_secrets.changed(site, {**deployment.secrets.by_name, **logins})
    lapsed = deployment.secrets.lapsed if deployment.is_new else []
    begun = deployment.secrets.given.get(secret_secrets.NEXT_KEY)
    is_changed = bool(lapsed or (begun and begun not in secret_secrets.fallbacks(site)))
    environment = site.secrets / "environment"
    is_current = not missing and file.read_text(environment) == _secret_environment(deployment)
    if is_current and not changed and not is_changed:
        return
    changes = dict.fromkeys(missing, "generated") | dict.fromkeys(changed, "kept")
    changes |= {"former keys": f"{len(lapsed)} dropped, since all their signatures have expired"} if lapsed else {}
    changes |= {"next key": "accepted"} if is_changed and not lapsed else {}
    yield changes or {"environment": "written"}
    deployment.take_lock()
    exposed = secret_secrets.exposed(site, changed)
    deployment.warn(f"{path} was readable by every user until now: replace that secret" for path in exposed)
    for name in missing:
        deployment.secrets.add(name, secret_secrets.generate(site, name))
    if deployment.is_new:
        replaced = [path for name in changed for path in secret_secrets.paths_of(site, name)]
        deployment.secrets.keep_replaced([environment, *replaced])
    for name in {*missing, *changed} | ({"secret_key"} if is_changed else set()):
        secret_secrets.store(
            site, name, logins.get(name) or deployment.secrets.by_name[name], lapsed, deployment.secrets.given
        )
    file.write(environment, _secret_environment(deployment), mode=0o640, group=site.user)
    if deployment.is_new and deployment.release:
        deployment.release.update(inputs=deployment.inputs())


def _secret_variables(deployment: Deployment) -> dict[str, str]:
    site, secrets = deployment.site, deployment.secrets.by_name
    return release_settings.secret_environment(site, secrets, deployment.secrets.former_keys())


def _secret_environment(deployment: Deployment) -> str:
    return environment_files.environment_file(_secret_variables(deployment))


def settings(deployment: Deployment) -> Iterator[Changes]:
    """Write the overlay and its data, the environment, and the pillar's files into the new release."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    leaving = moves.leaving(site)
    environment = release_settings.environment(site, release.path, release.facts, leaving)
    variables = {**environment, **_secret_variables(deployment)}
    key = deployment.secrets.by_name["secret_key"]
    files = release_settings.project_files(site, deployment.templates, variables, key)
    contents = {"environment": environment_files.environment_file(environment), **_programs(deployment)}
    overlay = [f"{release_settings.MODULE}.py", "django_formula_logs.py", "settings.json"]
    proof = ["django_formula_said.py"] if release_templates.proves(site.config) else []
    written = [*contents, *([*overlay, *proof] if site.config["overlay"] else [])]
    yield {"config": written, **({"files": sorted(files)} if files else {})}
    config = release.path / "config"
    folders.make(folders.Folder(config, "root", site.user, 0o750))
    if site.config["overlay"]:
        contents |= _overlay(deployment, release, leaving)
    for name, content in contents.items():
        file.write(config / name, content, mode=0o640, group=site.user, durable=False)
    for path, content in files.items():
        release_settings.write_project_file(site, release.path / "source", path, content)
    maintenance.refuse_missing_page(site, release.path, release.facts["folder"])
    page.of_errors(site, release.path, release.facts["folder"])


def _programs(deployment: Deployment) -> dict[str, str]:
    return {
        url.rpartition("/")[2]: deployment.templates[url] for url in (*PROGRAMS, *workers.programs(deployment.site))
    }


def _overlay(deployment: Deployment, release: Release, leaving: list[str]) -> dict[str, str]:
    """Return the overlay module and its data: file name in ``config/`` → content."""
    site, module = deployment.site, release.facts["settings_module"]
    keeps = servers.configured(site).keeps_threads(site)
    email = {"django_formula_email.py": deployment.templates[mail.MODULE]} if site.config.get("email") else {}
    return {
        **email,
        **({"django_formula_said.py": deployment.templates[SAID]} if release_templates.proves(site.config) else {}),
        "django_formula_logs.py": deployment.templates[LOGS],
        f"{release_settings.MODULE}.py": deployment.templates[OVERLAY],
        "settings.json": release_settings.overlay(site, release.path, module, leaving=leaving, keeps_threads=keeps),
    }
