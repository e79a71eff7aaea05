"""What gunicorn reads when it starts: the settings in gunicorn.json, in the same folder."""

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
sys.path.append(_HERE)
if _given["options"].get("worker_class") == "uvicorn":
    import ctypes
    import signal

    from uvicorn_worker import UvicornWorker

    class worker_class(UvicornWorker):
        """Uvicorn's worker, which ends with its main process, as Gunicorn's own do, and knows the path of the site."""

        def load_wsgi(self):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of linux/prctl.h
            super().load_wsgi()
            project, prefix = self.wsgi, _given["script_name"]

            async def application(scope, receive, send):
                await project({**scope, "root_path": prefix}, receive, send)

            self.wsgi = application if prefix else project


else:
    import django_formula_unread

    def post_worker_init(worker):
        """Read requests to their end; the worker serves requests next."""
        worker.wsgi = django_formula_unread.reading_on(worker.wsgi)


os.environ["SPT_NOENV"] = "1"  # setproctitle, if installed, leaves the environment of the process


def when_ready(server):
    """Load what workers share, and report readiness; workers are forked next."""
    if server.cfg.preload_app:
        import django_formula_warm

        django_formula_warm.warm()
    with open(_given["ready"], "w", encoding="utf-8"):
        pass
