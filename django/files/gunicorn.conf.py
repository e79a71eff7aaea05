"""What gunicorn reads when it starts: the settings in gunicorn.json, which lies beside this file."""

import gc
import json
import os
import sys

import gunicorn
import gunicorn.config

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "gunicorn.json"), encoding="utf-8") as _file:
    _given = json.load(_file)
_known = gunicorn.config.make_settings()
_unknown = sorted(set(_given["options"]) - set(_known))
if _unknown:
    sys.exit(f"gunicorn {gunicorn.__version__} has no setting {', '.join(_unknown)} (server:options)")
globals().update({name: value for name, value in _given["settings"].items() if name in _known})
globals().update(_given["options"])
if _given["script_name"]:
    raw_env = [f"SCRIPT_NAME={_given['script_name']}"]
os.environ["SPT_NOENV"] = "1"  # setproctitle, where there is one, leaves the environment of the process


def when_ready(server):
    """The project is loaded: what the workers get of it is never copied for a collection of garbage."""
    if "django.db" in sys.modules:  # what was connected while the project was loaded is no connection of a worker
        sys.modules["django.db"].connections.close_all()
    gc.collect()
    gc.freeze()
    with open(_given["ready"], "w", encoding="utf-8"):
        pass
