"""How a project is configured: settings, environment, secrets and files; and that no secret is seen anywhere else."""

import pytest
from sites import Site, lines, version

#: Settings of a project that reads its environment, appended to the example's.
FROM_ENVIRONMENT = """
import os
SECRET_KEY = os.environ["SECRET_KEY"]
DEBUG = os.environ.get("DEBUG") == "true"
ALLOWED_HOSTS = os.environ["HOSTS"].split(" ")
DATABASES["default"]["NAME"] = os.environ["DATABASE"]
STATIC_ROOT, MEDIA_ROOT = os.environ["STATIC_ROOT"], os.environ["MEDIA_ROOT"]
"""
ENVIRONMENT = {
    "SECRET_KEY": {"from": "secret_key"},
    "HOSTS": {"from": "domains", "join": " "},
    "DATABASE": {"from": "database_path"},
    "STATIC_ROOT": {"from": "static_root"},
    "MEDIA_ROOT": {"from": "media_root"},
    "COMMIT": {"from": "commit"},
}
KEY = "grenadier-7f3-key-0123456789-0123456789-0123456789"
TOKEN = 'grenadier-7f3-token $HOME "quoted"'
CERTIFICATE = "grenadier-7f3-certificate"
CANARY = "grenadier-7f3-"
#: A project that says all that it knows when it fails.
BROKEN = """
import os
raise RuntimeError(f"{os.environ['API_TOKEN']} and {os.environ['OWN_KEY']} in {dict(os.environ)}")
"""


@pytest.fixture
def plain(blog) -> Site:
    """The site with the example project as it is, and no option of these tests."""
    blog.repository.git("checkout", "--quiet", blog.repository.first, "--", ".")
    blog.repository.commit({"website/place.py": None})
    options = (
        "environment",
        "overlay",
        "settings",
        "secrets",
        "secret_key",
        "files",
        "shared",
        "writable",
        "mount",
        "database",
    )
    blog.configure(**dict.fromkeys(options))
    return blog


def value(site: Site, expression: str) -> str:
    """What an expression is in the site's Django."""
    program = f"from django.conf import settings; import os; print(({expression}))"
    return str(site.manage(f'shell -c "{program}"')).splitlines()[-1]


def test_the_overlay_decides_what_the_project_hard_codes(plain):
    plain.deploy(settings={"EMAIL_PORT": 2525, "ADMINS": [["Ada", "ada@example.org"]], "X": {"a": [1, None, True]}})
    own = "settings.EMAIL_PORT, settings.ADMINS, settings.X, settings.DEBUG, settings.ALLOWED_HOSTS"
    assert value(plain, f"{own}, settings.DATABASES['default']['NAME'], 'insecure' in settings.SECRET_KEY") == str(
        (
            *(2525, [["Ada", "ada@example.org"]], {"a": [1, None, True]}),
            *(False, ["blog.example.org"], f"{plain.root}/database/db.sqlite3", False),
        )
    )
    assert plain.host.run(["git", "-C", plain.repository.path, "show", "HEAD:website/settings.py"]).stdout == (
        plain.host.read(f"{plain.root}/current/source/website/settings.py")
    ), "the project's files are as they were committed"


def test_without_an_overlay_the_project_reads_its_environment(plain):
    plain.repository.append("website/settings.py", FROM_ENVIRONMENT)
    plain.deploy(overlay=False, database={"engine": "sqlite"}, environment=ENVIRONMENT)
    assert plain.get().status_code == 200 and plain.get("/static/guestbook/style.css").status_code == 200
    read = "settings.SETTINGS_MODULE, settings.DATABASES['default']['NAME'], os.environ['COMMIT']"
    assert value(plain, read) == str(
        ("website.settings", f"{plain.root}/database/db.sqlite3", plain.record()["commit"])
    )
    assert not plain.host.testinfra.file(f"{plain.root}/current/config/settings.json").exists
    assert not plain.apply().changed


def test_without_an_overlay_debug_is_refused(plain):
    plain.repository.append("website/settings.py", FROM_ENVIRONMENT)
    live = plain.live
    environment = ENVIRONMENT | {"DEBUG": True}
    applied = plain.apply(overlay=False, database={"engine": "sqlite"}, environment=environment)
    comment = applied.failed["blog has its static files"]
    assert "DEBUG is on" in comment and "django:sites:blog:environment" in comment and lines(comment) <= 10
    assert plain.answering["release"] == live


@pytest.mark.full
def test_files_are_rendered_for_projects_that_want_them(plain):
    template = "PLACE = {{ site.domains[0] | tojson }}\nTOKEN = {{ environment.API_TOKEN | tojson }}\n"
    plain.host.write("/srv/formula/blog/place.py.jinja", template)
    files = {
        ".env": {"environment": True},
        "website/place.py": {"source": "salt://blog/place.py.jinja"},
        "motto/motto.txt": {"contents": "One {{ plain }} line.\n"},
    }
    given = {"files": files, "environment": {"MOTTO": "it's 100%"}, "secrets": {"API_TOKEN": {"value": TOKEN}}}
    plain.deploy(**given)
    source = f"{plain.root}/current/source"
    assert plain.host.read(f"{source}/.env") == f"API_TOKEN='{TOKEN}'\nMOTTO=it's 100%\n"
    assert plain.host.read(f"{source}/motto/motto.txt") == "One {{ plain }} line.\n"
    assert value(plain, "__import__('website.place').place.TOKEN") == TOKEN
    for name in files:
        file = plain.host.testinfra.file(f"{source}/{name}")
        assert (file.user, file.group, file.mode) == ("root", "blog", 0o640)
    assert plain.get("/.env").status_code == 404

    before = plain.live
    plain.host.write("/srv/formula/blog/place.py.jinja", template + "MORE = 1\n")
    plain.deploy()
    assert plain.live != before, "another template is another release"


@pytest.mark.full
def test_shared_paths_outlive_a_release_and_writable_ones_do_not(plain):
    files = {"data/words.txt": "committed\n", "notes/first.txt": "committed\n"}
    plain.repository.commit(files)
    plain.deploy(shared=["data", "data/inner/logs"], writable=["logs", "notes"])
    paths = "('data/words.txt', 'data/inner/logs/own.log', 'logs/own.log', 'notes/own.txt')"
    program = f"[open(p, 'a').write('written\\n') for p in {paths}]"
    value(plain, program)
    plain.repository.commit(files | version("2.0") | {"data/words.txt": "committed later\n"})
    plain.deploy()
    source = f"{plain.root}/current/source"
    assert plain.host.read(f"{source}/data/words.txt") == "committed\nwritten\n"
    assert plain.host.read(f"{source}/data/inner/logs/own.log") == "written\n"
    assert plain.host.run(["ls", f"{source}/logs", f"{source}/notes"]).stdout.split() == [
        *(f"{source}/logs:", f"{source}/notes:", "first.txt")
    ]
    denied = plain.host.salt("django.manage", "blog", """shell -c "open('own.txt', 'w')" """)
    assert denied.returncode == 1 and "Read-only file system" in denied.stdout


def test_a_path_that_is_wired_in(plain):
    plain.repository.append("guestbook/version.py", 'RELEASE_NOTE = open("/app/motto.txt").read()\n')
    plain.repository.commit({"motto.txt": "here"})
    plain.deploy(mount="/app", writable=["logs"])
    assert plain.answering["note"] == "here"
    assert value(plain, "os.getcwd(), open('/app/logs/own.log', 'w').write('written')") == "('/app', 7)"
    assert plain.host.read(f"{plain.root}/current/source/logs/own.log") == "written"
    assert not plain.host.testinfra.file("/app/motto.txt").exists, "only the site's processes see it"


def test_secrets_reach_the_project(plain):
    secrets = {
        "API_TOKEN": {"value": TOKEN},
        "CERTIFICATE": {"value": CERTIFICATE, "as": "file"},
        "SALT": {"generate": 40},
        "SIGNING": {"generate": 64, "as": "file"},
    }
    plain.deploy(secrets=secrets, secret_key=KEY)
    given = "os.environ['API_TOKEN'], open(os.environ['CERTIFICATE_FILE']).read(), settings.SECRET_KEY"
    lengths = "len(os.environ['SALT']), len(open(os.environ['SIGNING_FILE']).read())"
    assert value(plain, f"{given}, {lengths}") == str((TOKEN, CERTIFICATE, KEY, 40, 64))
    generated = plain.host.read(f"{plain.root}/secrets/SALT")
    assert not plain.apply().changed
    plain.repository.commit(version("2.1"))
    plain.deploy()
    assert plain.host.read(f"{plain.root}/secrets/SALT") == generated

    before = plain.live
    changed = plain.deploy(secrets=secrets | {"API_TOKEN": {"value": TOKEN + "2"}})
    assert plain.live != before and "blog has its secrets" in changed.changed
    assert value(plain, "os.environ['API_TOKEN']") == TOKEN + "2"


def logged_in(plain):
    """A browser in which a superuser is logged in."""
    browser = plain.browser()
    plain.host.write("/root/ada", "DJANGO_SUPERUSER_PASSWORD=lovelace-1815\n", mode="0600")
    plain.host.salt(
        "django.manage",
        "blog",
        "createsuperuser --noinput --username=ada --email=a@b.org",
        environment_file="/root/ada",
    )
    token = browser.get("/admin/login/").cookies["csrftoken"]
    form = {"csrfmiddlewaretoken": token, "username": "ada", "password": "lovelace-1815", "next": "/admin/"}
    assert browser.post("/admin/login/", data=form).status_code == 302
    return browser


@pytest.mark.full
def test_a_session_outlives_a_new_secret_key(plain):
    plain.deploy()
    browser = logged_in(plain)
    plain.deploy(secret_key="another-" * 6)
    assert browser.get("/admin/", allow_redirects=False).status_code == 200
    plain.deploy(secret_key=None)
    plain.host.call("django.rotate_secret_key", "blog")
    assert browser.get("/admin/", allow_redirects=False).status_code == 200


@pytest.mark.full
def test_a_secret_key_that_is_gone_is_never_made_anew(plain):
    plain.deploy()
    key = f"{plain.root}/secrets/secret_key.json"
    kept = plain.host.read(key)
    plain.host.run(["rm", key])
    comment = next(iter(plain.apply().failed.values()))
    assert f"{key} is missing" in comment and "backup" in comment and lines(comment) <= 10
    assert not plain.host.testinfra.file(key).exists
    plain.host.write(key, kept, mode="0640", group="blog")
    plain.deploy()


@pytest.mark.full
def test_a_session_outlives_a_new_secret_key_of_a_project_that_reads_its_environment(plain):
    fallbacks = 'SECRET_KEY_FALLBACKS = [key for key in os.environ["OLD_KEYS"].split(" ") if key]\n'
    plain.repository.append("website/settings.py", FROM_ENVIRONMENT + fallbacks)
    environment = {**ENVIRONMENT, "OLD_KEYS": {"from": "secret_key_fallbacks", "join": " "}}
    plain.deploy(overlay=False, environment=environment, database={"engine": "sqlite"})
    browser = logged_in(plain)
    before = value(plain, "settings.SECRET_KEY")
    told = plain.host.call("django.rotate_secret_key", "blog")
    assert "every session ends" not in str(told) and not plain.apply().changed
    assert value(plain, "settings.SECRET_KEY_FALLBACKS[0]") == before
    assert browser.get("/admin/", allow_redirects=False).status_code == 200


def test_no_secret_is_seen_anywhere(plain):
    host = plain.host
    secrets = {
        "API_TOKEN": {"value": TOKEN},
        "CERTIFICATE": {"value": CERTIFICATE, "as": "file"},
        "SALT": {"generate": 40},
    }
    plain.configure(secrets=secrets, secret_key=KEY, environment={"OWN_KEY": {"from": "secret_key"}})
    outputs = [debugged(plain)]
    assert plain.answering["release"] == plain.live
    plain.repository.append("website/settings.py", BROKEN)
    outputs.append(debugged(plain))
    assert "RuntimeError" in outputs[-1]
    outputs.append(debugged(plain))
    plain.configure(repository=f"http://user:{CANARY}password@localhost:9000/blog.git")
    outputs.append(debugged(plain))
    assert "localhost:9000" in outputs[-1]

    generated = host.read(f"{plain.root}/secrets/SALT")
    for command in (
        "journalctl --no-pager --output=verbose",
        "ps -ef",
        "systemctl show 'django-*'",
        f"cat {plain.root}/releases/*/release.json {plain.root}/deploys.jsonl /etc/systemd/system/django-*",
        "cat /var/log/salt/* /var/log/nginx/*",
        "salt-call --local django.status; salt-call --local django.releases blog",
    ):
        outputs.append(host.run(command, check=False).stdout)
    for output in outputs:
        found = [line[:300] for line in output.splitlines() for secret in (CANARY, generated) if secret in line]
        assert not found

    searched = "--exclude-dir=formula /etc /run /srv /tmp /var /usr/local"
    listed = host.run(f"grep -rlE --binary-files=text '{CANARY}|{generated}' {searched}", check=False)
    files = set(listed.stdout.split())
    root_only = {path for path in files if path.startswith("/var/cache/salt/")} | {
        f"{plain.root}/site.json",
        "/srv/pillar/host.sls",
    }
    assert {path for path in files - root_only if not path.startswith(f"{plain.root}/secrets/")} == set()
    modes = host.run(["stat", "--format=%U %a", *sorted(root_only)]).stdout.splitlines()
    assert set(modes) == {"root 600"}


def debugged(site: Site) -> str:
    """Everything that an apply at debug level says."""
    done = site.host.salt("state.apply", "django", log_level="debug")
    return done.stdout + done.stderr
