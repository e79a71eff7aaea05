"""Each state's comment, warnings and changes through Salt's own highstate outputter, in all its modes."""

import copy
import re
from itertools import product

import pytest
import salt.loader
from django_formula.deploy import steps
from django_formula.host.commands import DeploymentError
from django_formula.proxy import switch
from django_formula.takeover import takeovers
from django_formula.verbs import terminal
from thinned import each

pytestmark = pytest.mark.slow  # whole applies by Salt

SITE = {"repository": "https://git.example.org/blog.git", "revision": "main", "domains": ["blog.example.org"]}
STEPS = ("database", "tls", *(step.__name__ for step in steps.RELEASE), "acme")
#: What an error, a value or a project's own text may have.
TEXTS = {
    "braces": "sandbox {ProtectProc: default}, {0}, {} and {{name}} {0[key]!r:>10}",
    "a lone brace": "a } and { in JSON: {'detail': 'no A record'",
    "percent signs": "100 % of %s, %(name)s and %d",
    "newlines": "it failed\n  | a line of the log\n\nhint: mend it\n",
    "other characters": "Grüße aus 日本 🙂\x1b[31m red\x00\x9b",
    "a long word": f"{'x' * 200} and-then-{'y-' * 90}",
}
MODES = [
    {"state_output": f"{mode}{suffix}", "state_verbose": verbose, "state_tabular": tabular, **more}
    for mode, suffix, verbose, tabular in product(
        ("full", "terse", "mixed", "changes", "filter"), ("", "_id"), (True, False), (True, False)
    )
    for more in ([{}] if mode != "filter" else [{}, {"state_output_terse": ["True", "None"]}])
]


def shown(loaders, returned, mode):
    """Return what `salt-call` prints in a mode; an outputter that fails raises."""
    opts = {**loaders.opts, "color": False, **mode}
    return salt.loader.outputters(opts)["highstate"]({"local": returned})


def words(text):
    """Return the text without what an outputter may wrap: white space, and hyphens at the end of a line."""
    return re.sub(r"\s+", "", text)


def check_all_modes(loaders, returned):
    """Print a return in all modes, and look for each warning, comment and change where the mode shows it."""
    states = returned.values()
    assert states
    for mode in MODES:
        text = words(shown(loaders, copy.deepcopy(returned), mode))
        for state in states:
            if not mode["state_verbose"] and state["result"] and not state["changes"]:
                continue
            for warning in state.get("warnings", ()):
                assert text.count(words(warning)) == 1, (mode, warning)
            if mode["state_output"].startswith("full"):
                assert words(state["comment"]) in text, (mode, state["comment"])
                assert all(words(str(key)) in text for key in state["changes"]), (mode, state["changes"])


@pytest.fixture
def run(loaders, world):
    """Run a step of a registered site as a state: `run(step, test=True)` answers the loaders and the return."""
    world.apply()
    made = loaders({"django": {"sites": {"blog": SITE}}})

    def run(step, **options):
        made.context.clear()
        return made, getattr(made.states.django, step)(name="blog", **options).raw

    return run


@pytest.mark.parametrize("step", each(5, STEPS))
def test_outputter_prints_a_step_when_texts_have_any_character(run, monkeypatch, step):
    def changes(deployment):
        deployment.warnings += [f"{step} {number}: {text}" for number, text in enumerate(TEXTS.values())]
        yield {name: {"new": text, "old": [text, None, 1]} for name, text in TEXTS.items()} | {"{0} {a}": "{0} {a}"}

    changes.__name__ = step
    monkeypatch.setattr(steps, step, changes)
    for test in (True, False):
        made, returned = run(step, test=test)
        (state,) = returned.values()
        assert state["result"] is (None if test else True) and len(state["warnings"]) == len(TEXTS)
        check_all_modes(made, returned)


@pytest.mark.parametrize("step", each(5, STEPS))
def test_outputter_prints_an_error_when_texts_have_any_character(run, monkeypatch, step):
    text = "\n".join(TEXTS.values())

    def fails(deployment):
        deployment.warnings.append(f"a warning: {text}")
        raise DeploymentError(f"it failed: {text}", log=text, hint=f"mend it: {text}")
        yield

    fails.__name__ = step
    monkeypatch.setattr(steps, step, fails)
    made, returned = run(step)
    (state,) = returned.values()
    assert state["result"] is False and state["warnings"] and state["comment"].startswith(f"{step}: it failed")
    check_all_modes(made, returned)


@pytest.mark.parametrize(("module", "name"), [(takeovers, "pending"), (switch, "apply")])
def test_outputter_prints_a_failed_state_of_the_host(salt, world, monkeypatch, module, name):
    text = "\n".join(TEXTS.values())

    def fails(*_arguments):
        raise DeploymentError(text, log=text, hint=text)

    monkeypatch.setattr(module, name, fails)
    made = salt({"sites": {"blog": SITE}})
    made()
    assert [state for state in made.returned.values() if state["comment"].startswith(TEXTS["braces"])]
    check_all_modes(made.loaders, made.returned)


def test_outputter_prints_the_errors_of_a_pillar(salt):
    made = salt({"sites": {"blog": {**SITE, "server": {"{kind}": "{uwsgi}"}, "settings": {"{": "%s {}"}}}})
    made()
    check_all_modes(made.loaders, made.returned)


def test_outputter_prints_a_release_and_a_site_that_is_removed(salt, world):
    world.answers = {"checks": [f"blog.W001: {text}" for text in TEXTS.values() if text.isprintable()]}
    made = salt({"sites": {"blog": SITE}})
    made(test=True)
    check_all_modes(made.loaders, made.returned)
    made()
    (warnings,) = [state["warnings"] for state in made.returned.values() if "warnings" in state]
    assert len(warnings) == 4
    check_all_modes(made.loaders, made.returned)
    made = salt({"sites": {"blog": {"state": "absent"}}})
    for test in (True, False):
        made(test=test)
        check_all_modes(made.loaders, made.returned)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("it failed", "it failed."),
        ("it failed.", "it failed."),
        ("set {ProtectProc: default}", "set (ProtectProc: default)."),
        ("set sites:a:env: {X_Y: {from: queue_url}}", "set sites:a:env:X_Y:from: queue_url."),
        ("set a: {b: 1, c: 2}", "set a: (b: 1, c: 2)."),
        ("it failed\n  | a line\nmend it", "it failed; | a line; mend it."),
        ("\x1b[31mred\x00", "red\\x00."),
    ],
)
def test_warning_is_a_sentence_that_the_outputter_cannot_format(text, warning):
    assert terminal.warnings([text, text]) == [warning]
