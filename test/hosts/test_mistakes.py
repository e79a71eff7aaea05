"""What newcomers get wrong, in the order in which they meet it: each error names the cause, and its advice works."""

import re

import pytest
from sites import Site, lines

pytestmark = pytest.mark.full

#: Settings of a project that reads its environment, appended to the example's.
FROM_ENVIRONMENT = """
import os
SECRET_KEY = os.environ["SECRET_KEY"]
DEBUG = os.environ.get("DEBUG", "on") == "on"
ALLOWED_HOSTS = os.environ["HOSTS"].split(",")
DATABASES["default"]["NAME"] = os.environ["DATABASE"]
STATIC_ROOT, MEDIA_ROOT = os.environ["STATIC_ROOT"], os.environ["MEDIA_ROOT"]
MAIL = os.environ["MAIL_TOKEN"]
"""
ENVIRONMENT = {
    "SECRET_KEY": {"from": "secret_key"},
    "HOSTS": {"from": "domains"},
    "DATABASE": {"from": "database_path"},
    "STATIC_ROOT": {"from": "static_root"},
    "MEDIA_ROOT": {"from": "media_root"},
}
LOGS = """
LOGGING = {
    "version": 1,
    "handlers": {"file": {"class": "logging.FileHandler", "filename": BASE_DIR / "logs/site.log"}},
    "root": {"handlers": ["file"]},
}
"""
OTHER = (
    "systemd-run --quiet --unit=other python3 -m http.server 81; "
    "until ss -Hltn sport = :81 | grep -q .; do sleep 0.1; done"
)


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready", name="web1")
    repository = repositories(host)
    settings = repository.read("website/settings.py")
    repository.commit({"website/settings.py": settings + FROM_ENVIRONMENT, "requirements.txt": None})
    options = {"overlay": False, "database": {"engine": "sqlite"}, "environment": ENVIRONMENT}
    return Site(host, repository, **options, revision="master", proxy={"listen": [81]})


def cause(blog: Site, state: str) -> str:
    """The comment of the one state that fails by itself in an apply; those that need it are not run."""
    applied = blog.apply()
    causes = {name: text for name, text in applied.failed.items() if not text.startswith("One or more requisite")}
    assert list(causes) == [state], applied
    assert "nothing runs yet" in causes[state] and lines(causes[state]) <= 10
    return causes[state]


def test_the_pillar_is_no_yaml(blog):
    blog.host.pillar("django:\n  sites:\n    blog:\n      domains: [blog.example.org\n      revision: main\n")
    applied = blog.host.apply()
    assert "Rendering SLS 'host' failed" in applied.errors[1] and "line 4, column 16" in applied.stderr
    assert applied.returncode and not applied.states


def test_salt_is_not_run_by_root(blog):
    blog.configure()
    apply = ["salt-call", "--local", "state.apply", "django"]
    done = blog.host.run(apply, user="nobody", check=False)
    assert done.returncode and "are you running as the correct user?" in done.stderr, "Salt says it by itself"
    blog.host.run("cp -r /etc/salt /tmp/salt && chown -R nobody: /tmp/salt && chmod -R a+rX /srv/pillar")
    done = blog.host.run([*apply, "--config-dir=/tmp/salt", "--log-file=/tmp/salt/log", "--cachedir=/tmp/salt/cache"],
                         user="nobody", check=False)  # fmt: skip
    assert done.returncode and "ID: The pillar has errors" in done.stdout and done.stdout.count("ID: ") == 1
    assert re.search(r"grains:uid — expected 0 .*sudo", done.stdout)
    blog.host.run(["chmod", "-R", "go-rwx", "/srv/pillar"])


def test_a_port_is_taken(blog):
    blog.host.run(OTHER)
    applied = blog.apply()
    told = applied.failed["blog has its directories"]
    assert "port 81 is taken by python3 (pid " in told and "django:sites:blog:proxy:listen" in told
    assert told.startswith(applied.failed["The ports of nginx are free"].partition("\n")[0].join(["site: ", ""]))
    assert blog.host.browser(port=81).get("/").status_code == 200
    assert not applied.changed.keys() - {"blog has its users"}
    command = re.search(r"\((systemctl stop .*)\)", told)  # a unit that systemd-run made has no file to disable
    assert command
    blog.host.run(command[1])


def test_a_branch_that_does_not_exist(blog):
    told = cause(blog, "blog has its source")
    assert "looking up master in " in told and ": no such branch, tag or commit" in told
    assert "the repository has main; correct django:sites:blog:revision" in told
    blog.options["revision"] = "main"


def test_nothing_says_what_the_project_needs(blog):
    told = cause(blog, "blog has its virtualenv")
    assert "searched for uv.lock" in told and "django:sites:blog:requirements" in told
    blog.repository.commit({"needs.txt": "Django==5.2.19\n"})
    blog.options["requirements"] = ["needs.txt"]


def test_a_variable_that_is_missing(blog):
    told = cause(blog, "blog has its static files")
    assert "KeyError: 'MAIL_TOKEN' (website/settings.py:" in told
    blog.options["secrets"] = {"MAIL_TOKEN": "x-0123456789"}


def test_a_log_file_is_in_the_source(blog):
    settings = blog.repository.read("website/settings.py")
    blog.repository.commit({"website/settings.py": settings + LOGS, "logs/.gitignore": "*\n!.gitignore\n"})
    told = cause(blog, "blog has its static files").splitlines()
    assert re.fullmatch(
        r"static: starting Django: ValueError: Unable to configure handler 'file' \(website/wsgi.py:\d+\), caused by "
        r"OSError: \[Errno 30\] Read-only file system: '/srv/django/blog/releases/\S+/source/logs/site.log'",
        told[0],
    )
    assert "django_formula_" not in "\n".join(told)
    assert (
        "the release is read-only: set django:sites:blog:writable: [logs], or, for files that outlive a release, "
        "django:sites:blog:shared: [logs]"
    ) in told
    blog.options["writable"] = ["logs"]


def test_debug_is_on(blog):
    told = cause(blog, "blog has its static files")
    assert "DEBUG is on" in told and "django:sites:blog:environment" in told
    blog.options["environment"] = ENVIRONMENT | {"DEBUG": "off"}


def test_the_advice_was_good(blog):
    blog.deploy()
    with blog.host.browser(blog.domain, 81) as browser:
        assert browser.get("/").status_code == 200
    assert not blog.apply().changed
    assert blog.host.testinfra.file("/srv/django/blog/current/source/logs/site.log").exists


def test_apache_is_not_begun_while_nginx_has_a_site_that_the_pillar_lost(blog):
    shop = Site(blog.host, blog.repository, "shop")
    applied = shop.apply(
        **{**blog.options, "domains": ["shop.example.org"], "proxy": {"kind": "apache", "listen": [81]}}
    )
    told = "nginx needs port 81 for the site blog, so Apache cannot listen there; nothing has been changed"
    assert applied.failed["The ports of apache are free"].splitlines()[0] == told
    assert applied.failed["shop has its directories"].splitlines()[0] == f"site: {told}"
    assert not applied.changed.keys() - {"shop has its users", "The packages of the sites are installed"}
    with blog.host.browser(blog.domain, 81) as browser:
        assert browser.get("/").status_code == 200
    shop.sites["blog"] = {**blog.options, "proxy": {"kind": "apache", "listen": [81]}}
    assert "The ports of apache are free" not in shop.apply(test=True).failed
