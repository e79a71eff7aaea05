"""What passes every check and fails without a sign: tasks that no worker gets, mail, sessions, static files."""

import os
import re
import sys

#: Backends of mail that send nothing, and caches that no other process has.
SILENT = re.compile(r"django\.core\.mail\.backends\.(console|dummy|filebased|locmem)\.")
OF_PROCESS = re.compile(r"django\.core\.cache\.backends\.(locmem|dummy)\.")
#: A static file that a template names by a text, and what a template does not show.
STATIC = re.compile(r"\{%-?\s*static\s+(\"[^\"{}]+\"|'[^'{}]+')\s*(?:as\s+\w+\s*)?-?%\}")
HIDDEN = re.compile(r"\{#.*?#\}|\{%-?\s*(comment|verbatim)\b.*?%\}.*?\{%-?\s*end\1\b.*?%\}", re.DOTALL)
#: Of names that were not collected, the most that are reported; files and bytes of templates that are read.
MOST, FILES, BYTES = 100, 20_000, 1 << 20
#: The most folders that are searched for those files.
FOLDERS = 2_000


def found(settings, workers, modules, static_root):
    """Return the faults of a project that is set up.

    Args:
        workers: ``kind``, ``app`` and ``queues`` of the site's workers that run tasks, by name.
        modules: of the project; its Celery app is in one of their packages.
        static_root: the folder of the collected files; empty where none are collected there.
    """
    return {
        "at_once": at_once(settings, workers, modules),
        "mail": mail(settings),
        "sessions": sessions(settings),
        "static": static(static_root) if static_root else [],
        "folders": static_folders(settings),
    }


def at_once(settings, workers, modules):
    """Return the setting by which tasks run at once, in the process that sends them, by worker that never gets any."""
    find = {
        "celery": lambda worker: of_celery(settings, worker["app"], modules),
        "huey": of_huey,
        "rq": lambda worker: of_rq(settings, worker["queues"]),
    }
    named = {name: find[worker["kind"]](worker) for name, worker in workers.items()}
    return {name: setting for name, setting in named.items() if setting}


def of_celery(settings, named, modules):
    import django_formula_celery_app

    if not django_formula_celery_app.find(named, modules).conf.task_always_eager:
        return ""
    names = [name for name in dir(settings) if name.endswith("ALWAYS_EAGER") and getattr(settings, name)]
    return names[0] if names else "task_always_eager"


def of_huey(worker):
    import django_formula_huey

    return "HUEY: immediate" if getattr(django_formula_huey.instance(worker), "immediate", False) else ""


def of_rq(settings, queues):
    configured = getattr(settings, "RQ_QUEUES", None) or {}
    switched_off = [name for name in queues if not configured.get(name, {}).get("ASYNC", True)]
    return f"RQ_QUEUES: {switched_off[0]}: ASYNC" if switched_off else ""


def mail(settings):
    """Return the setting with a backend that sends no mail, and that; empty if mail is sent."""
    mailers = getattr(settings, "MAILERS", None) or {}
    default = mailers.get("default") or {}
    name = "MAILERS: default: BACKEND" if default.get("BACKEND") else "EMAIL_BACKEND"
    backend = str(default.get("BACKEND") or getattr(settings, "EMAIL_BACKEND", ""))
    return f"{name} is {backend}" if SILENT.match(backend) else ""


def sessions(settings):
    """Return the cache with the sessions where each process has one of its own; empty if they are elsewhere."""
    has_sessions = any(str(one).endswith("SessionMiddleware") for one in settings.MIDDLEWARE or ())
    if not has_sessions or settings.SESSION_ENGINE != "django.contrib.sessions.backends.cache":
        return ""
    alias = settings.SESSION_CACHE_ALIAS
    backend = str((settings.CACHES.get(alias) or {}).get("BACKEND"))
    return f"CACHES: {alias} is {backend}" if OF_PROCESS.match(backend) else ""


def static(root):
    """Return the names that the project's own templates have in ``{% static %}`` and that were not collected."""
    from django.contrib.staticfiles.storage import staticfiles_storage

    hashed = getattr(staticfiles_storage, "hashed_files", None) or {}  # some storages keep only these
    missing = {}
    for path in templates():
        with open(path, "rb") as file:
            text = HIDDEN.sub(lines_of, file.read(BYTES).decode(errors="replace"))
        for tag in STATIC.finditer(text):
            name = re.sub(r"[?#].*", "", tag[1][1:-1])
            if name in missing or name in hashed or os.path.lexists(os.path.join(root, name.lstrip("/"))):
                continue
            missing[name] = f"{os.path.relpath(path)}:{text.count(chr(10), 0, tag.start()) + 1}"
            if len(missing) == MOST:
                break
    present = committed(missing) if missing else {}
    return [{"name": name, "place": place, "folder": present.get(name, "")} for name, place in missing.items()]


def committed(names):
    """Return the folders that have files of these names and no code, relative to the working directory, by name."""
    found = {}
    for count, (parent, folders, _files) in enumerate(os.walk(".")):
        folders[:] = sorted(one for one in folders if one != "node_modules" and not one.startswith((".", "__")))
        for name in names:
            if name not in found and os.path.isfile(os.path.join(parent, name.lstrip("/"))) and not has_code(parent):
                found[name] = os.path.relpath(parent)
        if count > FOLDERS:
            break
    return found


def has_code(folder):
    """Return whether a folder has modules of Python, which are not to be served."""
    return any(name.endswith(".py") for _parent, _folders, names in os.walk(folder) for name in names)


def static_folders(settings):
    """Return the folders of STATICFILES_DIRS, relative to the working directory; None of those with a prefix."""
    folders = [one for one in settings.STATICFILES_DIRS or () if not isinstance(one, (list, tuple))]
    return [os.path.relpath(one) for one in folders] if len(folders) == len(settings.STATICFILES_DIRS or ()) else None


def lines_of(hidden):
    """Return the ends of the lines of what is left out, so that lines keep their numbers."""
    return "\n" * hidden[0].count("\n")


def templates():
    """Yield the files of the project's own templates, which no package has."""
    from django.template import engines
    from django.template.utils import get_app_template_dirs

    folders = [folder for engine in engines.all() for folder in engine.template_dirs]
    count = 0
    for folder in dict.fromkeys(os.path.realpath(one) for one in [*folders, *get_app_template_dirs("templates")]):
        if "site-packages" in folder or folder.startswith((sys.prefix, sys.base_prefix)):
            continue
        for parent, _folders, names in os.walk(folder):
            for name in sorted(names):
                path = os.path.join(parent, name)
                if os.path.isfile(path):
                    count += 1
                    yield path
                if count > FILES:
                    return
