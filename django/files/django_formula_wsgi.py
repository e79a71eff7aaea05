"""The application that mod_wsgi runs: that of the project's module, which mod_wsgi.json in the same folder names."""

import gc
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def load():
    with open(os.path.join(HERE, "mod_wsgi.json"), encoding="utf-8") as file:
        given = json.load(file)
    # mod_wsgi's own streams write to Apache's log, which escapes each non-ASCII letter as \x…
    log = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    sys.stdout = sys.stderr = log
    os.chdir(given["folder"])
    sys.path.append(HERE)
    import django_formula_application
    import django_formula_warm

    state = "broken"
    try:
        gc.disable()  # what is imported now stays in memory; `warm` enables it again
        found = django_formula_application.load(given["module"])
        django_formula_warm.warm()
        state = "loaded"
    finally:
        with open(os.path.join(given["run"], state), "w", encoding="utf-8"):
            pass
    return found


application = load()
