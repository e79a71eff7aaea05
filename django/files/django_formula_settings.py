"""The settings of the project, and over them what the pillar decides, which is data: settings.json beside this file."""

import importlib
import json
import os
import pathlib


def _over(project, data):
    """The settings that replace those of the project."""
    keys = json.loads(pathlib.Path(data["secret_key_file"]).read_text())
    values = {"SECRET_KEY": keys["key"], "SECRET_KEY_FALLBACKS": keys["fallbacks"], **data["always"]}
    values["DATABASES"] = _databases(project.get("DATABASES", {}), data)
    path = data["path"]
    if path:
        values["FORCE_SCRIPT_NAME"] = path
    for name, default in (("STATIC_URL", "static/"), ("MEDIA_URL", "media/")):
        url = project.get(name) or default
        elsewhere = url.startswith((path + "/", "http:", "https:", "//"))
        values[name] = url if elsewhere or not path else f"{path}/{url.lstrip('/')}"
    if "LOGGING" not in project:
        console = {"class": "logging.StreamHandler"}
        django = {"handlers": ["console"], "level": "INFO", "propagate": False}
        values["LOGGING"] = {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"console": console},
            "root": {"handlers": ["console"], "level": "INFO"},
            "loggers": {"django": django},
        }
    return {**values, **data["settings"]}


def _databases(databases, data):
    """The project's databases, each SQLite file in the site's folder; the default one as the pillar says it."""
    moved, files = {}, {}
    for alias, database in databases.items():
        if "sqlite" in database.get("ENGINE", "") or "spatialite" in database.get("ENGINE", ""):
            said = str(database.get("NAME") or "")
            name = os.path.basename(said) or "db.sqlite3"
            if files.setdefault(name, said) != said:
                name = f"{alias}.{name}"
            database = {**database, "NAME": os.path.join(data["database_folder"], name)}
        moved[alias] = database
    if data["database_engine"] == "sqlite" and "sqlite" not in moved.get("default", {}).get("ENGINE", ""):
        moved["default"] = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.path.join(data["database_folder"], "db.sqlite3"),
        }
    if data["database_name"] and "default" in moved:
        moved["default"] = {**moved["default"], "NAME": os.path.join(data["database_folder"], data["database_name"])}
    return moved


_data = json.loads(pathlib.Path(__file__).with_name("settings.json").read_text())
_project = vars(importlib.import_module(_data["settings_module"]))
globals().update({name: value for name, value in _project.items() if name.isupper()})
globals().update(_over(_project, _data))
