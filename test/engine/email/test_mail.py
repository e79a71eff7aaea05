"""Mail: the settings that the pillar gives, words for the environment, and the few mails of a burst of errors."""

import json
import subprocess
import sys
from pathlib import Path

import in_django
import pytest
from django_formula.deploy import inputs
from django_formula.email import mail as email_mail
from django_formula.release import settings
from django_formula.secret import secrets
from specimen import ROOT, compiled, configured, three_keys

FILES = ROOT / "django/files"
SINK = ROOT / "test/hosts/mail_sink.py"
LOGIN = {"host": "smtp.example.org", "user": "blog@example.org", "password": "gr/n adier:7f3"}
#: A project that logs errors: the same one often, and others.
PROGRAM = """
import json, logging, pathlib, sys
import django
django.setup()
from django.conf import settings
from django.core.mail import send_mail
for name, number in json.loads(sys.argv[1]):
    for _ in range(number):
        try:
            exec(compile(f"raise {name}('no such entry')", name, "exec"))
        except Exception:
            logging.getLogger("django.request").error("Internal Server Error: %s", "/", exc_info=True)
send_mail("hello", "a text", None, ["ada@example.org"])
"""


@pytest.fixture
def sink(tmp_path):
    """A mail server: its port, and the mails that it has got."""
    process = subprocess.Popen([sys.executable, SINK, "0", tmp_path / "mails"], stdout=subprocess.PIPE, text=True)
    yield int(process.stdout.readline()), lambda: [json.loads(line) for line in (tmp_path / "mails").open()]
    process.terminate()
    process.wait()
    process.stdout.close()


def config_of(folder, project="", **email):
    """The folder of a release's configuration, with a project that has these settings."""
    site = configured(email=email)
    folder.mkdir(exist_ok=True)
    (folder / "project.py").write_text(f"DATABASES = {{}}\nSECRET_KEY = 'x'\n{project}\n")
    data = json.loads(settings.overlay(site, folder, "project"))
    data["secret_key_file"] = str(folder / "key.json")
    data["email"]["errors"]["path"] = str(folder / "error_mails.json")
    if data["email"]["password_file"]:
        data["email"]["password_file"] = str(folder / "password")
        (folder / "password").write_text("grenadier")
    (folder / "key.json").write_text('{"key": "x", "fallbacks": []}')
    (folder / "settings.json").write_text(json.dumps(data))
    for name in ("django_formula_settings.py", "django_formula_logs.py", "django_formula_email.py"):
        (folder / name).write_text((FILES / name).read_text())
    return folder


def run(folder, program, *arguments, group=in_django.DJANGOS[0]):
    environment = {"PYTHONPATH": str(folder), "DJANGO_SETTINGS_MODULE": "django_formula_settings"}
    argv = [in_django.python(group), "-c", program, *arguments]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def shown(folder, *names, group=in_django.DJANGOS[0]):
    """The effective values of settings."""
    program = f"from django.conf import settings as s; import json; print(json.dumps([getattr(s, n) for n in {names}]))"
    return json.loads(finished(run(folder, program, group=group)))


@pytest.mark.slow
@pytest.mark.parametrize("group", in_django.DJANGOS)
def test_burst_of_errors_sends_a_few_mails(tmp_path, sink, group):
    port, mails = sink
    folder = config_of(
        tmp_path / "config", host="localhost", port=port, admins=["ops@example.org", "ada@example.org"], hourly=3,
        subject_prefix="[blog] ", server_email="root@web1.example.org", **{"from": "Blog <blog@example.org>"},
    )  # fmt: skip
    errors = [["ValueError", 400], ["KeyError", 5], ["TypeError", 1], ["RuntimeError", 1]]
    processes = [run(folder, PROGRAM, json.dumps(errors), group=group) for _ in range(2)]  # as a server's
    for process in processes:
        finished(process)
    sent = [mail for mail in mails() if "[blog] ERROR" in mail["text"]]
    assert len(sent) == 3 and len(mails()) == 5
    assert {tuple(mail["to"]) for mail in sent} == {("<ops@example.org>", "<ada@example.org>")}
    assert {mail["from"] for mail in sent} == {"<root@web1.example.org>"}
    assert sum("errors that were not mailed)" in " ".join(mail["text"].split()) for mail in sent) >= 1
    known = json.loads((folder / "error_mails.json").read_text())
    assert len(known["sent"]) == 3 and known["left"] > 0
    (hello, _other) = [mail for mail in mails() if "Subject: hello" in mail["text"]]
    assert hello["from"] == "<blog@example.org>" and hello["to"] == ["<ada@example.org>"]


def test_error_is_mailed_again_after_an_hour(tmp_path, sink):
    port, mails = sink
    folder = config_of(tmp_path / "config", host="localhost", port=port, admins=["ops@example.org"])
    for _ in range(2):
        finished(run(folder, PROGRAM, json.dumps([["ValueError", 7]])))
        known = json.loads((folder / "error_mails.json").read_text())
        aged = {key: when - 3601 for key, when in known["sent"].items()}
        (folder / "error_mails.json").write_text(json.dumps({**known, "sent": aged}))
    sent = [mail["text"] for mail in mails() if "ERROR" in mail["text"]]
    assert len(sent) == 2 and "(and 6 errors that were not mailed)" in " ".join(sent[1].split())


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["not json", '{"sent": [], "left": "x"}', "[]", '{"sent": {"a": null}, "left": 1}'])
def test_damaged_file_is_begun_anew(tmp_path, sink, damage):
    port, mails = sink
    folder = config_of(tmp_path / "config", host="localhost", port=port, admins=["ops@example.org"])
    (folder / "error_mails.json").write_text(damage)
    finished(run(folder, PROGRAM, json.dumps([["ValueError", 9]])))
    assert sum("ERROR" in mail["text"] for mail in mails()) == 1


def test_without_a_file_a_process_counts_its_own(tmp_path, sink):
    port, mails = sink
    folder = config_of(tmp_path / "config", host="localhost", port=port, admins=["ops@example.org"])
    (folder / "error_mails.json").mkdir()
    finished(run(folder, PROGRAM, json.dumps([["ValueError", 9]])))
    assert sum("ERROR" in mail["text"] for mail in mails()) == 1


def test_error_is_mailed_while_the_disk_is_full(tmp_path, sink):
    """Such as that the disk is full."""
    port, mails = sink
    folder = config_of(tmp_path / "config", host="localhost", port=port, admins=["ops@example.org"], hourly=2)
    data = json.loads((folder / "settings.json").read_text())
    data["email"]["errors"]["path"] = "/dev/full"
    (folder / "settings.json").write_text(json.dumps(data))
    finished(run(folder, PROGRAM, json.dumps([["OSError", 9], ["ValueError", 9], ["KeyError", 9]])))
    assert sum("ERROR" in mail["text"] for mail in mails()) == 2


def test_login_is_used_and_its_password_is_in_no_settings_file(tmp_path, sink):
    port, mails = sink
    folder = config_of(tmp_path / "config", host="localhost", port=port, user="blog", password="grenadier")
    finished(run(folder, PROGRAM, "[]"))
    assert [mail["login"] for mail in mails()] == ["blog grenadier"]
    assert "grenadier" not in (folder / "settings.json").read_text()


@pytest.mark.parametrize("group", in_django.DJANGOS)
def test_settings_of_a_server_elsewhere(tmp_path, group):
    folder = config_of(tmp_path / "config", **LOGIN)
    names = ("EMAIL_HOST", "EMAIL_PORT", "EMAIL_USE_TLS", "EMAIL_USE_SSL", "EMAIL_HOST_USER", "EMAIL_TIMEOUT", "ADMINS")
    values = ["smtp.example.org", 587, True, False, "blog@example.org", 10.0, []]
    assert shown(folder, *names, group=group) == values
    config_of(folder, host="smtp.example.org", tls="tls", admins=["ops@example.org"])
    assert shown(folder, *names[1:4], "ADMINS", group=group) == [465, False, True, [["ops", "ops@example.org"]]]


@pytest.mark.parametrize(
    ("project", "backend"),
    [
        ("", "smtp.EmailBackend"),
        ("EMAIL_BACKEND = 'django.core.mail.backends.console.EmailBackend'", "smtp.EmailBackend"),
        ("EMAIL_BACKEND = 'anymail.backends.mailgun.EmailBackend'", "mailgun.EmailBackend"),
    ],
)
def test_backend_of_the_project_stays_unless_it_sends_nothing(tmp_path, project, backend):
    folder = config_of(tmp_path / "config", project, host="localhost")
    assert shown(folder, "EMAIL_BACKEND")[0].endswith(backend)


def test_logging_of_the_project_stays_as_it_is(tmp_path):
    folder = config_of(tmp_path / "config", "LOGGING = {'version': 1}", host="localhost", admins=["ops@example.org"])
    assert shown(folder, "LOGGING", "ADMINS") == [{"version": 1}, [["ops", "ops@example.org"]]]
    config_of(folder, host="localhost")
    assert "mail_admins" not in shown(folder, "LOGGING")[0]["handlers"]


def test_words_of_the_environment():
    words = ("host", "port", "user", "password", "from", "url")
    environment = {f"MAIL_{word.upper()}": {"from": f"email_{word}"} for word in words}
    site = configured(email={**LOGIN, "from": "blog@example.org"}, environment=environment)
    secret = settings.secret_environment(site, {email_mail.SECRET: LOGIN["password"]}, [])
    assert secret == {
        "MAIL_PASSWORD": "gr/n adier:7f3",
        "MAIL_URL": "smtp+tls://blog%40example.org:gr%2Fn%20adier%3A7f3@smtp.example.org:587",
    }
    facts = {"folder": ".", "python_path": [], "commit": "c", "settings_module": "blog.settings"}
    plain = settings.environment(site, Path("/srv/django/blog/releases/0001-c"), facts)
    mail = {name: value for name, value in plain.items() if name.startswith("MAIL_")}
    assert mail == {
        "MAIL_HOST": "smtp.example.org", "MAIL_PORT": "587", "MAIL_USER": "blog@example.org",
        "MAIL_FROM": "blog@example.org",
    }  # fmt: skip


def test_password_is_a_secret_of_the_site():
    site = configured(email=LOGIN)
    assert secrets.configured(site)["email.password"] == {"value": {"pillar": "django:sites:blog:email:password"}}
    assert secrets.pillar_key(site, "email.password") == "django:sites:blog:email:password"
    assert "grenadier" not in json.dumps(site.config) and "adier" not in json.dumps(site.config)


def test_site_without_mail_is_unchanged(make_site):
    site = make_site()
    data = json.loads(settings.overlay(site, Path("/x"), "blog.settings"))
    assert "email" not in site.config and "email" not in data
    templates = {email_mail.MODULE: "text"}
    before = inputs.hashes(site, "c" * 40, {}, [], templates)
    after = inputs.hashes(make_site(email=LOGIN), "c" * 40, {}, [], templates)
    assert after.keys() - before.keys() >= {email_mail.MODULE, "email:host"} and before.keys() <= after.keys()


def test_null_takes_inherited_mail_back():
    result = compiled({"blog": {**three_keys(), "email": None}}, {"email": {"host": "localhost"}})
    assert result["errors"] == [] and "email" not in result["sites"]["blog"]


#: Prints the settings of mail that another version of Django gets, of a project with these.
OF_VERSION = """
import json, sys
import django
django.VERSION = tuple(json.loads(sys.argv[1]))
import django_formula_settings as s
print(json.dumps({name: getattr(s, name) for name in dir(s) if name.startswith(("EMAIL_H", "EMAIL_B", "MAILERS"))}))
"""
SMTP = "django.core.mail.backends.smtp.EmailBackend"
SERVER = {
    **{"host": "smtp.example.org", "port": 587, "username": "blog@example.org", "password": "grenadier"},
    **{"use_tls": True, "use_ssl": False, "timeout": 10},
}


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        ("MAILERS = {}", {"default": {"OPTIONS": SERVER}}),
        (
            "MAILERS = {'default': {'BACKEND': 'django.core.mail.backends.console.EmailBackend', 'OPTIONS': {}}, "
            "'news': {'OPTIONS': {'host': 'x'}}}",
            {"default": {"BACKEND": SMTP, "OPTIONS": SERVER}, "news": {"OPTIONS": {"host": "x"}}},
        ),
        (
            "MAILERS = {'default': {'OPTIONS': {'host': 'localhost', 'ssl_certfile': '/x'}}}",
            {"default": {"OPTIONS": {"ssl_certfile": "/x", **SERVER}}},
        ),
        (
            "MAILERS = {'default': {'BACKEND': 'anymail.Backend', 'OPTIONS': {'api_key': 'x'}}}",
            {"default": {"BACKEND": "anymail.Backend", "OPTIONS": {"api_key": "x"}}},
        ),
        ("", None),
    ],
)
def test_mailers_of_a_project_take_the_place_of_single_settings(tmp_path, project, expected):
    folder = config_of(tmp_path / "config", project, **LOGIN)
    new, old = (json.loads(finished(run(folder, OF_VERSION, version))) for version in ("[6, 1, 3]", "[6, 0, 9]"))
    assert old["EMAIL_HOST"] == "smtp.example.org" and old["EMAIL_HOST_PASSWORD"] == "grenadier"
    if expected is None:
        assert new == old and "MAILERS" not in new
    else:
        assert new == {"MAILERS": expected}


def test_mailers_of_the_pillar_are_those_of_the_site(tmp_path):
    site = configured(email=LOGIN, settings={"MAILERS": {"default": {"OPTIONS": {"host": "own"}}}})
    folder = config_of(tmp_path / "config", **LOGIN)
    data = json.loads((folder / "settings.json").read_text())
    data["settings"] = json.loads(settings.overlay(site, folder, "project"))["settings"]
    (folder / "settings.json").write_text(json.dumps(data))
    assert json.loads(finished(run(folder, OF_VERSION, "[6, 1, 3]"))) == {
        "MAILERS": {"default": {"OPTIONS": {"host": "own"}}}
    }
