"""What gunicorn reads when it starts: the settings in gunicorn.json, which lies beside this file."""

import json
import os
import sys

import gunicorn
import gunicorn.config

_HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(_HERE, "gunicorn.json"), encoding="utf-8") as _file:
    _given = json.load(_file)
_known = gunicorn.config.make_settings()
_unknown = sorted(set(_given["options"]) - set(_known))
if _unknown:
    sys.exit(f"gunicorn {gunicorn.__version__} has no setting {', '.join(_unknown)} (server:options)")
globals().update({name: value for name, value in _given["settings"].items() if name in _known})
globals().update(_given["options"])
if _given["script_name"]:
    raw_env = [f"SCRIPT_NAME={_given['script_name']}"]
if _given["options"].get("worker_class") == "uvicorn":
    from uvicorn_worker import UvicornWorker

    class worker_class(UvicornWorker):
        CONFIG_KWARGS = {**UvicornWorker.CONFIG_KWARGS, "root_path": _given["script_name"]}  # noqa: RUF012


os.environ["SPT_NOENV"] = "1"  # setproctitle, where there is one, leaves the environment of the process


def when_ready(server):
    """Workers are made next."""
    if server.cfg.preload_app:
        sys.path.append(_HERE)
        import django_formula_warm

        django_formula_warm.warm()
    with open(_given["ready"], "w", encoding="utf-8"):
        pass
