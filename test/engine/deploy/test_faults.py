"""What a new release is warned of that passes every check and fails without a sign."""

import json

import pytest
from django_formula.deploy import commands
from django_formula.source import commits

AT = "django:sites:blog"
CONSOLE = "EMAIL_BACKEND is django.core.mail.backends.console.EmailBackend"
LOCMEM = "CACHES: default is django.core.cache.backends.locmem.LocMemCache"


@pytest.fixture
def source(world, monkeypatch):
    """Files that the source of each release has too."""
    files, export = {}, world.export

    def more(site, commit, target):
        export(site, commit, target)
        for name, content in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text(content)

    monkeypatch.setattr(commits, "export", more)
    return files


def warned(world):
    world.apply()
    return world.last.warnings


@pytest.mark.parametrize(
    ("faults", "options", "settings", "warnings"),
    [
        ({"at_once": {}, "mail": "", "sessions": "", "static": []}, {}, "", []),
        (
            {"at_once": {"main": "CELERY_TASK_ALWAYS_EAGER", "mail": "CELERY_TASK_ALWAYS_EAGER", "forged": "X"}},
            {"workers": {"main": {"kind": "celery"}, "mail": {"kind": "celery", "queues": ["mail"]}}},
            "import os\nCELERY_TASK_ALWAYS_EAGER = os.environ.get('USE_CELERY', '') != 'yes'",
            [
                "worker mail, main gets no task: CELERY_TASK_ALWAYS_EAGER has each run at once, in the process that "
                f"sends it; correct USE_CELERY in {AT}:environment, which decides it"
            ],
        ),
        (
            {"at_once": {"main": "HUEY: immediate"}},
            {"workers": {"main": {"kind": "huey"}}},
            "HUEY = {'immediate': True}",
            [
                "worker main gets no task: HUEY: immediate has each run at once, in the process that sends it; "
                f"correct {AT}:settings:HUEY"
            ],
        ),
        (
            {"at_once": {"main": "task_always_eager"}},
            {"workers": {"main": {"kind": "celery"}}},
            "",
            [
                "worker main gets no task: task_always_eager has each run at once, in the process that sends it; "
                "correct it in the project"
            ],
        ),
        (
            {"mail": CONSOLE},
            {},
            "import os\nEMAIL_BACKEND = os.environ.get('MAIL_BY', 'django.core.mail.backends.console.EmailBackend')",
            [
                f"{CONSOLE}, which sends no mail: set {AT}:email, or correct MAIL_BY in {AT}:environment, which "
                "decides it"
            ],
        ),
        ({"mail": CONSOLE}, {"settings": {"EMAIL_BACKEND": "django.core.mail.backends.console.EmailBackend"}}, "", []),
        (
            {"sessions": LOCMEM},
            {"server": {"processes": 3}},
            "",
            [
                f"SESSION_ENGINE is the cache, and {LOCMEM}: each process of the server has sessions of its own, so "
                f"that visitors are logged out by chance; set {AT}:sessions: db, or {AT}:cache"
            ],
        ),
        (
            {"sessions": LOCMEM},
            {"server": {"processes": "auto"}},
            "",
            [
                f"SESSION_ENGINE is the cache, and {LOCMEM}: each process of the server has sessions of its own, so "
                f"that visitors are logged out by chance; set {AT}:sessions: db, or {AT}:cache"
            ],
        ),
        (
            {"sessions": LOCMEM},
            {"server": {"processes": 1}},
            "",
            [
                f"SESSION_ENGINE is the cache, and {LOCMEM}: each release and each restart ends all sessions; "
                f"set {AT}:sessions: db, or {AT}:cache"
            ],
        ),
    ],
)
def test_faults_that_no_check_sees_give_warnings(world, source, faults, options, settings, warnings):
    source["blog/settings.py"] = settings
    world.options, world.answers = options, {"faults": faults}
    assert warned(world) == warnings
    assert warned(world) == []  # an apply with nothing to do
    facts = json.loads((world.site.current / "release.json").read_text())["facts"]
    assert "faults" not in facts


@pytest.mark.parametrize(
    ("named", "others", "warning"),
    [
        ("local", ["base", "production"], "the settings are those of blog.settings.local, which is named for "),
        ("local", ["base"], ""),
        ("production", ["local"], ""),
    ],
)
def test_settings_for_development_give_a_warning_where_there_are_others(world, source, named, others, warning):
    for name in (named, *others):
        source[f"blog/settings/{name}.py"] = "ROOT_URLCONF = 'blog.urls'\n"
    world.options = {"settings_module": f"blog.settings.{named}"}
    found = warned(world)
    assert len(found) == bool(warning) and str(found).startswith(f"[{warning!r}"[:-1] if warning else "[]")
    assert not warning or f"the source has blog.settings.production: set {AT}:settings_module" in found[0]


def test_static_files_that_templates_name_and_nothing_makes(world, monkeypatch):
    """One that a command makes after collectstatic is there; a name that leads out of the folder is none."""
    names = ["made.css", "a.js", "../b.js", "/c.js", "d.js", "e.js", "f.js", "g.js"]
    world.answers = {"faults": {"static": [{"name": name, "place": "pages/home.html:3"} for name in names]}}

    def made(_deployment, stage, writable=()):
        return stage == "after_static" and (writable[0] / "made.css").touch()

    monkeypatch.setattr(commands, "run_stage", made)
    assert warned(world) == [
        "templates name static files that were not collected: a.js (pages/home.html:3), /c.js (pages/home.html:3), "
        "d.js (pages/home.html:3), e.js (pages/home.html:3), f.js (pages/home.html:3) and 1 more; have "
        f"{AT}:build create what is generated, without removing packages that are served, or correct the names in the "
        "project"
    ]


@pytest.mark.parametrize(
    ("folders", "given", "cure"),
    [
        (["static"], [], "set {at}:settings:STATICFILES_DIRS: [static], or "),
        (["static"], ["own"], "set {at}:settings:STATICFILES_DIRS: [own, static], or "),
        (["b", "a"], ["a"], "set {at}:settings:STATICFILES_DIRS: [a, b], or "),
        (["static"], None, ""),
        (["static"], ["../outside"], ""),
    ],
)
def test_static_files_that_are_committed_and_in_no_setting(world, folders, given, cure):
    named = [{"name": f"{one}.css", "place": "a.html:1", "folder": one} for one in folders]
    world.answers = {"faults": {"static": named, "folders": given}}
    listed = ", ".join(sorted(folders))
    text = f"; the source has them in {listed}, which is not collected: {cure.format(at=AT)}add {listed} to "
    assert warned(world)[0].endswith(f"{text}STATICFILES_DIRS in the project")


@pytest.mark.parametrize("folder", [".", "..", "../x", "/etc", "a/../..", "a\nb", "{{x}}", "", "x" * 200])
def test_folder_that_a_project_makes_up_is_not_proposed(world, folder):
    world.answers = {"faults": {"static": [{"name": "a", "place": "a.html:1", "folder": folder}], "folders": []}}
    warning = warned(world)[0]
    assert "STATICFILES_DIRS" not in warning and "create what is generated" in warning


def test_static_files_of_which_only_some_are_committed(world):
    named = [{"name": "a.css", "place": "a.html:1", "folder": "static"}, {"name": "b.css", "place": "a.html:2"}]
    world.answers = {"faults": {"static": named, "folders": []}}
    assert f"STATICFILES_DIRS in the project; for the others have {AT}:build create" in warned(world)[0]
