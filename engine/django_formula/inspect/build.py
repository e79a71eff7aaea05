"""Build commands that load the settings of a project, and what they have in place of the site's variables and files."""

from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.site import build


def command(report: Report, settings: Settings, name: str) -> str:
    """Return a command of manage.py as a build runs it, which has neither the site's variables nor its secrets.

    Args:
        name: the command, with its arguments.
    """
    given = {"DJANGO_SETTINGS_MODULE": report.settings_module, **settings.set_by_application}
    given |= {name: value for name, (value, _comment) in report.value("environment", {}).items()}
    return build.manage(name, given, report.value("secrets", {}))


def add_files(report: Report) -> None:
    """Have the modules of the pillar's `files`, which settings import, where a build command loads the settings."""
    files, comment = report.pillar.get("files", ({}, ""))
    names = [path for path, about in files.items() if path.endswith(".py") and "contents" in about]
    if names and any("manage.py " in command for command in report.value("build", [])):
        report.set("files", files | {path: {**files[path], "build": True} for path in names}, comment)
        report.remarks.append(
            f"builds read {', '.join(names)} too (`build: true`), so no secret may be in there: set it in `secrets`, "
            "and read it from the variable"
        )
