import contextlib
import os
import subprocess
import time
import zipfile
from pathlib import Path

import django_acme
import django_command
import django_proxy
import django_renewal
import django_schedule
import django_service
import django_site
import django_tls
import pytest
from authority import signed
from django_command import DeploymentError
from specimen import formula_templates

DOMAIN = "blog.example.org"
URL = "https://acme.example.org/dir"
ACME = {"kind": "acme", "email": "ops@example.org", "directory": URL}
SAID = 'uacme: received 403\n  "detail": "no A record for blog.example.org",\nuacme: failed to authorize'


class Uacme:
    """Plays uacme, and the authority behind it."""

    def __init__(self):
        self.commands, self.environments, self.fails = [], [], {}
        self.certificate, self.refused = {"ends": 89}, []

    def run(self, argv, *, doing, environment=None, **options):
        assert argv[0] == "uacme", argv
        folder, verb = Path(argv[argv.index("-c") + 1]), "new" if "new" in argv else "issue"
        self.commands.append(argv[argv.index("-a") + 1 :])
        self.environments.append((environment or {}).get("UACME_CHALLENGE_PATH"))
        if self.refused:
            raise self.refused.pop()
        if verb in self.fails:
            raise DeploymentError(f"{doing} failed (exit 2)", log=self.fails[verb])
        if verb == "issue":
            new = signed(argv[-1], **self.certificate)
            for path, text in {f"{argv[-1]}/cert.pem": new.certificate, f"private/{argv[-1]}/key.pem": new.key}.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
        return ""


@pytest.fixture
def uacme(own_host, monkeypatch):
    uacme = Uacme()
    monkeypatch.setattr(django_command, "run", uacme.run)
    monkeypatch.setattr(django_service, "reload", lambda daemon: None)
    return uacme


@pytest.fixture
def blog(make_site, uacme):
    return make_site(tls=ACME)


def put(signed, origin=f"acme {URL}"):
    django_tls.path_of(DOMAIN).parent.mkdir(parents=True, exist_ok=True)
    django_tls.path_of(DOMAIN).write_text(django_tls.joined(origin, signed.key, signed.certificate))


def order(site, **files):
    return django_acme.renew(site, [DOMAIN], files)


@pytest.mark.parametrize(
    ("certificate", "origin", "why"),
    [
        (None, "", "new"),
        ({}, "self_signed 0123", "new, in place of self_signed"),
        ({}, "files", "new, in place of files"),
        ({}, "acme https://staging.example.org/dir", "new, in place of acme"),
        ({"begins": -59, "ends": 31}, f"acme {URL}", None),
        ({"begins": -61, "ends": 29}, f"acme {URL}", "29.0 days left"),
        ({"begins": -3, "ends": 3}, f"acme {URL}", None),
        ({"begins": -4.5, "ends": 1.5}, f"acme {URL}", "1.5 days left"),
    ],
)
def test_what_is_ordered(blog, certificate, origin, why):
    if certificate is not None:
        put(signed(DOMAIN, **certificate), origin)
    assert django_acme.due(blog) == ({DOMAIN: why} if why else {}, [])


def test_an_order(blog, uacme):
    ordered, warnings = order(blog)
    assert warnings == [] and ordered[DOMAIN].startswith("valid until 2")
    assert uacme.commands == [
        [URL, "-t", "EC", "new", "ops@example.org"],
        [URL, "-f", "-t", "EC", "-h", "/usr/share/uacme/uacme.sh", "issue", DOMAIN],
    ]
    assert uacme.environments[1] == str(django_tls.STATE / "challenges")
    assert django_tls.read(DOMAIN).origin == f"acme {URL}" and django_acme.due(blog) == ({}, [])
    uacme.certificate["ends"] = 95
    order(blog)
    assert len(uacme.commands) == 3, "the account is made once"


def test_what_a_killed_order_has_left_goes(blog):
    django_tls.challenges().mkdir(parents=True)
    old, new = (django_tls.challenges() / name for name in ("old", "new"))
    for path, age in ((old, 90000), (new, 60)):
        path.write_text("")
        os.utime(path, (time.time() - age,) * 2)
    order(blog)
    assert not old.exists() and new.exists(), "another order may be under way"


def test_a_program_of_ones_own_proves_a_domain(make_site, uacme):
    order(make_site(tls={**ACME, "challenge": "dns-01", "hook": "/usr/local/lib/hook"}))
    assert uacme.commands[1][4:6] == ["-h", "/usr/local/lib/hook"]


def test_an_account_with_a_binding(make_site, uacme):
    site = make_site(tls={**ACME, "eab": {"key_id": "kid-1", "key": "sdb://vault/eab"}})
    (warning,) = order(site)[1]
    assert "the key of its binding is in the pillar only" in warning
    django_tls.path_of(DOMAIN).with_suffix(".failed").unlink(missing_ok=True)
    assert order(site, **{"eab:key": "c2VjcmV0cw=="})[1] == []
    assert uacme.commands[0][3:6] == ["-e", "kid-1:c2VjcmV0cw", "new"]


def test_an_account_that_a_killed_run_has_left(blog, uacme):
    uacme.fails["new"] = "uacme: Account already exists at https://acme.example.org/acct/1"
    assert order(blog)[1] == []
    uacme.fails = {"new": "uacme: no"}
    assert django_acme._account(blog, {}).joinpath("account.json").exists()


def test_an_order_that_fails_leaves_what_serves(blog, uacme, monkeypatch):
    put(signed(DOMAIN, begins=-85, ends=5))
    before = django_tls.path_of(DOMAIN).read_text()
    uacme.fails["issue"] = SAID
    ordered, (warning,) = order(blog)
    assert ordered == {} and django_tls.path_of(DOMAIN).read_text() == before
    assert warning == (
        "no certificate for blog.example.org yet: uacme blog.example.org failed (exit 2): "
        "no A record for blog.example.org; the one before serves, with 5 days left"
    )
    due, (deferred,) = django_acme.due(blog)
    assert due == {} and "it is tried again in 15 min, or now by salt-call django.renew blog" in deferred
    assert django_acme.due(blog, again=True)[0] == {DOMAIN: "5.0 days left"}
    for _ in range(9):
        order(blog)
    assert "tried again in 360 min" in django_acme.due(blog)[1][0]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6 * 3600 + 1)
    assert django_acme.due(blog)[0]
    uacme.fails = {}
    assert order(blog)[0] and not django_tls.path_of(DOMAIN).with_suffix(".failed").exists()


@pytest.mark.parametrize(("refused", "is_ordered"), [(2, True), (3, False)])
def test_a_nonce_that_is_refused_says_nothing_of_the_order(blog, uacme, refused, is_ordered):
    nonce = DeploymentError("uacme failed", log='"type": "urn:ietf:params:acme:error:badNonce",\n"detail": "bad nonce"')
    uacme.refused = [nonce] * refused
    ordered, warnings = order(blog)
    assert bool(ordered) is is_ordered and ("bad nonce" in str(warnings)) is not is_ordered


def test_another_authority_is_asked_at_once(blog, make_site, uacme):
    uacme.fails["issue"] = SAID
    order(blog)
    assert django_acme.due(make_site(tls={**ACME, "directory": "https://other.example.org/dir"}))[0] == {DOMAIN: "new"}


@pytest.mark.parametrize("certificate", [{"ends": 3}, {"begins": -2, "ends": -1}])
def test_a_worse_certificate_is_not_taken(blog, uacme, certificate):
    put(signed(DOMAIN, begins=-85, ends=5))
    uacme.certificate = certificate
    ordered, (warning,) = order(blog)
    assert ordered == {} and "is worse than the one that there is" in warning
    assert 4 < django_tls.read(DOMAIN).left / 86400 <= 5


def test_one_that_nginx_refuses_is_not_taken(blog, monkeypatch):
    put(signed(DOMAIN, begins=-85, ends=5))

    def refuse(texts):
        raise DeploymentError("nginx refuses its configuration: x")

    monkeypatch.setattr(django_proxy, "change_certificates", refuse)
    assert "nginx refuses its configuration: x; the one before serves" in order(blog)[1][0]


def test_who_has_waited_for_another_order_does_not_order_again(blog, uacme, monkeypatch):
    alone = django_acme._alone

    @contextlib.contextmanager
    def waited():
        with alone():
            put(signed(DOMAIN))
            yield

    monkeypatch.setattr(django_acme, "_alone", waited)
    assert order(blog) == ({}, []) and uacme.commands == []


def test_an_order_of_somebody_else_that_never_ends(blog, uacme, monkeypatch):
    monkeypatch.setattr(django_acme, "PATIENCE", 0.0)
    with django_acme._alone():
        assert "somebody else orders certificates for 0 s already" in order(blog)[1][0]


# The timer


def applied(site):
    """Have a site as its last apply left it."""
    django_site.write_json(site.applied, {"config": dict(site.config), "platform": dict(site.platform)})
    site.register()
    site.keep_templates(formula_templates())


def test_the_timer_renews_what_is_due(blog, capsys):
    applied(blog)
    put(signed(DOMAIN, begins=-61, ends=29))
    assert django_renewal.main("blog") == 0
    assert f"{DOMAIN}: valid until " in capsys.readouterr().out
    assert django_renewal.main("blog") == 0 and capsys.readouterr().out == ""


def test_the_timer_says_what_has_failed(blog, uacme, capsys):
    applied(blog)
    put(signed(DOMAIN, begins=-61, ends=29))
    uacme.fails["issue"] = SAID
    assert django_renewal.main("blog") == 1 and "the one before serves" in capsys.readouterr().err
    assert django_renewal.main("nobody") == 1
    answer = django_renewal.renew(blog, again=True)
    assert answer[0] == {} and len(uacme.commands) == 3


def test_the_timer_of_the_local_authority(make_site, monkeypatch):
    monkeypatch.setattr(django_service, "reload", lambda daemon: None)
    site = make_site(tls={"kind": "self_signed"})
    applied(site)
    put(signed(DOMAIN, begins=-300, ends=65), "self_signed 0")
    assert django_renewal.renew(site) == ({DOMAIN: "due"}, [])
    assert django_renewal.renew(site) == ({}, [])
    assert django_renewal.renew(make_site(tls={"kind": "none"})) == ({}, [])


def test_the_program_of_the_timer_needs_nothing_but_python(blog):
    django_schedule._packed.cache_clear()
    program = blog.root / "tls.pyz"
    program.write_bytes(django_schedule._packed("django_renewal"))
    argv = ["/usr/bin/python3", "-I", program, "nobody"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no site 'nobody' on this host" in done.stderr, done.stderr
    names = {*zipfile.ZipFile(program).namelist()}
    assert {"django_acme.py", "django_proxy.py", "django_tls.py"} <= names and "django_backup.py" not in names
