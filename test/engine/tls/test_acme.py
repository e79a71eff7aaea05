import contextlib
import os
import subprocess
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
from authority import signed
from django_formula.balancer import certificates as balancer_certificates
from django_formula.host import archive, commands, daemons, file
from django_formula.host.commands import DeploymentError
from django_formula.proxy import switch
from django_formula.tls import acme, certificates, clients, renewal
from specimen import formula_templates

DOMAIN = "blog.example.org"
URL = "https://acme.example.org/dir"
ACME = {"kind": "acme", "email": "ops@example.org", "directory": URL}
SAID = {
    "uacme": 'uacme: received 403\n  "detail": "no A record for blog.example.org",\nuacme: failed to authorize',
    "certbot": 'Some challenges have failed.\n"detail": "no A record for blog.example.org"',
}


class Authority:
    """Fake clients, and the authority behind them.

    Attributes:
        commands: the arguments of each call of a client, from the directory on.
        fails: what it prints when it fails, by ``new`` and ``issue``.
        refused: errors of the next calls.
        certificate: of what is issued.
    """

    def __init__(self):
        self.commands, self.environments, self.fails = [], [], {}
        self.certificate, self.refused, self.bindings = {"ends": 89}, [], []

    def run(self, argv, *, doing, environment=None, **options):
        verb = "issue" if {"issue", "certonly"} & {*argv} else "new"
        self.commands.append(argv)
        self.environments.append(environment or {})
        if "--config" in argv:
            self.bindings.append(Path(argv[argv.index("--config") + 1]).read_text())
        if self.refused:
            raise self.refused.pop()
        if verb in self.fails:
            raise DeploymentError(f"{doing} failed (exit 2)", log=self.fails[verb])
        if verb == "issue":
            new = signed(argv[-1], **self.certificate)
            for path, text in zip(self.files(argv), (new.certificate, new.key), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return ""

    def files(self, argv):
        """Where a client puts the certificate and the key of an order."""
        domain = argv[-1]
        if argv[0] == "uacme":
            folder = Path(argv[argv.index("-c") + 1])
            return folder / domain / "cert.pem", folder / "private" / domain / "key.pem"
        live = Path(argv[argv.index("--config-dir") + 1]) / "live" / domain
        return live / "fullchain.pem", live / "privkey.pem"


@pytest.fixture
def authority(own_host, monkeypatch):
    authority = Authority()
    monkeypatch.setattr(commands, "run", authority.run)
    monkeypatch.setattr(daemons, "reload", lambda daemon: None)
    return authority


@pytest.fixture(params=["uacme", "certbot"])
def blog(make_site, authority, request):
    return make_site(tls={**ACME, "client": request.param})


@pytest.fixture
def by_uacme(make_site, authority):
    return make_site(tls=ACME)


@pytest.fixture
def short():
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def put(signed, origin=f"acme {URL}"):
    certificates.path_of(DOMAIN).parent.mkdir(parents=True, exist_ok=True)
    certificates.path_of(DOMAIN).write_text(certificates.joined(origin, signed.key, signed.certificate))


def order(site, **files):
    return acme.renew(site, [DOMAIN], files)


@pytest.mark.parametrize(
    ("certificate", "origin", "why"),
    [
        (None, "", "new"),
        ({}, "self_signed 0123", "new, instead of self_signed"),
        ({}, "files", "new, instead of files"),
        ({}, "acme https://staging.example.org/dir", "new, instead of acme"),
        ({"begins": -59, "ends": 31}, f"acme {URL}", None),
        ({"begins": -61, "ends": 29}, f"acme {URL}", "29.0 days left"),
        ({"begins": -3, "ends": 3}, f"acme {URL}", None),
        ({"begins": -4.5, "ends": 1.5}, f"acme {URL}", "1.5 days left"),
    ],
)
def test_certificate_is_ordered_when_missing_due_or_of_another_origin(blog, certificate, origin, why):
    if certificate is not None:
        put(signed(DOMAIN, **certificate), origin)
    assert acme.due(blog) == ({DOMAIN: why} if why else {}, [])


def test_order_installs_the_certificate(blog, authority):
    ordered, warnings = order(blog)
    assert warnings == [] and ordered[DOMAIN].startswith("valid until 2")
    assert certificates.read(DOMAIN).origin == f"acme {URL}" and acme.due(blog) == ({}, [])
    authority.certificate["ends"] = 95
    order(blog)
    assert len(authority.commands) == 3, "the account is made once"


def test_uacme_gets_its_arguments(by_uacme, authority):
    order(by_uacme)
    new, issue = authority.commands
    folder = new[3]
    assert new == ["uacme", "-y", "-c", folder, "-a", URL, "-t", "EC", "new", "ops@example.org"]
    hook = "/usr/share/uacme/uacme.sh"
    assert issue == ["uacme", "-y", "-c", folder, "-a", URL, "-t", "EC", "-f", "-h", hook, "issue", DOMAIN]
    assert authority.environments[1]["UACME_CHALLENGE_PATH"] == str(certificates.STATE / "challenges")


def test_certbot_gets_its_arguments(make_site, authority):
    order(make_site(tls={**ACME, "client": "certbot"}))
    register, certonly = authority.commands
    folder = register[register.index("--config-dir") + 1].removesuffix("/etc")
    common = ["--non-interactive", "--agree-tos", "--no-directory-hooks", "--max-log-backups", "0", "--server", URL]
    common += ["--config-dir", f"{folder}/etc", "--work-dir", f"{folder}/work", "--logs-dir", f"{folder}/log"]
    assert register == ["certbot", "register", *common, "--email", "ops@example.org", "--no-eff-email"]
    way = ["--webroot", "--webroot-path", f"{folder}/webroot", "--key-type", "ecdsa"]
    assert certonly == ["certbot", "certonly", *common, *way, "--cert-name", DOMAIN, "--domain", DOMAIN]
    assert authority.environments[0]["HOME"] == folder, "the configuration of root is not its own"
    assert Path(folder, "webroot/.well-known/acme-challenge").resolve() == certificates.STATE / "challenges"
    left = [str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()]
    assert left == ["account.json"], "no key but in the file of the domain"


def test_each_client_has_its_own_account(make_site, authority):
    for client in ("uacme", "certbot"):
        order(make_site(tls={**ACME, "client": client}))
    folders = [path.parent for path in (certificates.STATE / "acme").glob("*/account.json")]
    assert len(authority.commands) == 4 and len(folders) == 2


def test_files_of_a_killed_order_are_removed(blog):
    certificates.challenges().mkdir(parents=True)
    old, new = (certificates.challenges() / name for name in ("old", "new"))
    for path, age in ((old, 90000), (new, 60)):
        path.write_text("")
        os.utime(path, (time.time() - age,) * 2)
    order(blog)
    assert not old.exists() and new.exists(), "another order may be under way"


BY_DNS = {**ACME, "challenge": "dns-01", "hook": "/usr/local/lib/hook"}


def test_hook_of_the_pillar_proves_a_domain(make_site, authority):
    order(make_site(tls=BY_DNS))
    assert authority.commands[1][9:11] == ["-h", "/usr/local/lib/hook"]


def test_certbot_calls_the_hook_with_the_arguments_of_uacme(make_site, authority, tmp_path):
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\nfor each; do echo "($each)"; done >> {tmp_path}/called\n')
    hook.chmod(0o755)
    order(make_site(tls={**BY_DNS, "client": "certbot", "hook": str(hook)}))
    argv = authority.commands[1]
    assert "--manual" in argv and "--webroot" not in argv
    environment = {"CERTBOT_DOMAIN": DOMAIN, "CERTBOT_VALIDATION": "-$(x) y"}
    for option in ("--manual-auth-hook", "--manual-cleanup-hook"):
        subprocess.run(argv[argv.index(option) + 1], shell=True, env=environment, check=True)
    expected = [f"({word})" for verb in ("begin", "done") for word in (verb, "dns-01", DOMAIN, "", "-$(x) y")]
    assert (tmp_path / "called").read_text().splitlines() == expected


@pytest.mark.parametrize(("eab", "client"), [({}, "uacme"), ({"key_id": "kid-1", "key": "x"}, "certbot")])
def test_default_client_with_a_binding_does_not_show_the_key(make_site, eab, client):
    assert make_site(tls={**ACME, "eab": eab}).config["tls"]["client"] == client


@pytest.mark.parametrize("client", ["uacme", "certbot"])
def test_account_is_registered_with_a_binding(make_site, authority, client):
    site = make_site(tls={**ACME, "client": client, "eab": {"key_id": "kid-1", "key": "sdb://vault/eab"}})
    (warning,) = order(site)[1]
    assert "only the pillar has the key of the account binding" in warning
    certificates.path_of(DOMAIN).with_suffix(".failed").unlink(missing_ok=True)
    assert order(site, **{"eab:key": "c2VjcmV0cw=="})[1] == []
    if client == "uacme":
        assert authority.commands[0][8:11] == ["-e", "kid-1:c2VjcmV0cw", "new"]
    else:
        assert authority.bindings == ["eab-kid = kid-1\neab-hmac-key = c2VjcmV0cw\n"]
        assert not [word for argv in authority.commands for word in argv if "c2VjcmV0cw" in word]
        left = [path for path in (certificates.STATE / "acme").rglob("*") if path.is_file()]
        assert not [path for path in left if "c2VjcmV0cw" in path.read_text()]


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ("uacme", "uacme: Account already exists at https://acme.example.org/acct/1"),
        (
            "certbot",
            "There is an existing account; registration of a duplicate account is unsupported.",
        ),
    ],
)
def test_account_of_a_killed_run_is_used(make_site, authority, client, text):
    site = make_site(tls={**ACME, "client": client})
    authority.fails["new"] = text
    assert order(site)[1] == []
    authority.fails = {"new": "uacme: no"}
    assert acme._account(site, {}).joinpath("account.json").exists()


def test_refused_account_is_reported(blog, authority):
    authority.fails["new"] = "uacme: no"
    assert "no certificate for blog.example.org yet: " in order(blog)[1][0]
    assert not list((certificates.STATE / "acme").glob("*/account.json"))


@pytest.mark.parametrize(
    ("client", "log", "expected"),
    [
        ("uacme", SAID["uacme"], "no A record for blog.example.org"),
        ("uacme", "curl: x\nuacme: connection refused\n", "connection refused"),
        ("uacme", "", ""),
        ("certbot", 'Some challenges have failed.\n"detail": "no \\"A\\" record"', 'no "A" record'),
        (
            "certbot",
            'Hook \'--manual-auth-hook\' for x reported error code 127\n"detail": "no TXT"',
            "Hook '--manual-auth-hook' for x reported error code 127; no TXT",
        ),
        (
            "certbot",
            "Saving debug log to /x\nAn unexpected error occurred:\nConnectionError: refused\nAsk for help or search",
            "ConnectionError: refused",
        ),
        ("certbot", "", ""),
    ],
)
def test_cause_is_the_error_of_the_authority(client, log, expected):
    assert clients.CLIENTS[client].cause(log).removeprefix("uacme: ") == expected


def test_error_of_the_authority_is_read_from_certbots_log(make_site, authority):
    def fail(argv, **_options):
        log = Path(argv[argv.index("--logs-dir") + 1]) / "letsencrypt.log"
        log.parent.mkdir()
        log.write_text('x\n  "detail": "nonce",\n      "detail": "no A record",\n  "status": 400')
        raise DeploymentError("certbot failed", log="Some challenges have failed.")

    acme._account(site := make_site(tls={**ACME, "client": "certbot"}), {})
    authority.run, commands.run = fail, fail
    assert order(site)[1][0].startswith("no certificate for blog.example.org yet: certbot failed: no A record; ")
    assert not list((certificates.STATE / "acme").rglob("letsencrypt.log"))


def test_refused_nonce_is_read_from_certbots_log(make_site, authority):
    site, tries = make_site(tls={**ACME, "client": "certbot"}), []

    def fail(argv, **options):
        if argv[1] == "certonly" and len(tries) < 4:
            tries.append(argv)
            log = Path(argv[argv.index("--logs-dir") + 1]) / "letsencrypt.log"
            log.parent.mkdir()
            problem = '  "type": "urn:ietf:params:acme:error:badNonce",\n  "detail": "invalid anti-replay nonce: x",'
            log.write_text(f'  "type": "http-01",\n{{\n{problem}\n}}\nAttributeError')
            raise DeploymentError(
                "certbot failed", log="An unexpected error occurred:\nAttributeError: can't set attribute"
            )
        return Authority.run(authority, argv, **options)

    authority.run, commands.run = fail, fail
    assert order(site)[0] and len(tries) == 4


def test_failed_order_keeps_the_present_certificate(blog, authority, monkeypatch):
    put(signed(DOMAIN, begins=-85, ends=5))
    before = certificates.path_of(DOMAIN).read_text()
    authority.fails["issue"] = SAID[blog.config["tls"]["client"]]
    ordered, (warning,) = order(blog)
    assert ordered == {} and certificates.path_of(DOMAIN).read_text() == before
    assert warning == (
        f"no certificate for blog.example.org yet: {blog.config['tls']['client']} blog.example.org failed (exit 2): "
        "no A record for blog.example.org; the previous one is in use, with 5 days left"
    )
    due, (deferred,) = acme.due(blog)
    assert due == {} and "the next try is in 15 min, or now: salt-call django.renew blog" in deferred
    assert acme.due(blog, again=True)[0] == {DOMAIN: "5.0 days left"}
    for _ in range(9):
        order(blog)
    assert "the next try is in 360 min" in acme.due(blog)[1][0]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6 * 3600 + 1)
    assert acme.due(blog)[0]
    authority.fails = {}
    assert order(blog)[0] and not certificates.path_of(DOMAIN).with_suffix(".failed").exists()


@pytest.mark.parametrize(("refused", "is_ordered"), [(4, True), (5, False)])
def test_order_is_retried_when_a_nonce_is_refused(blog, authority, refused, is_ordered):
    nonce = DeploymentError("uacme failed", log='"type": "urn:ietf:params:acme:error:badNonce",\n"detail": "bad nonce"')
    authority.refused = [nonce] * refused
    ordered, warnings = order(blog)
    assert bool(ordered) is is_ordered and ("bad nonce" in str(warnings)) is not is_ordered


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ("uacme", "uacme: no account associated with private/key.pem found at https://x. Consider trying 'new'"),
        ("uacme", "uacme: invalid account status (deactivated)"),
        ("certbot", '"type": "urn:ietf:params:acme:error:accountDoesNotExist"'),
        ("certbot", '"detail": "Account is not valid, has status \\"deactivated\\""'),
    ],
)
def test_another_account_is_registered_when_the_authority_does_not_have_it_any_more(make_site, authority, client, text):
    site = make_site(tls={**ACME, "client": client})
    assert order(site)[1] == []
    authority.refused.append(DeploymentError("the order failed", log=text))
    authority.certificate["ends"] = 95
    ordered, warnings = order(site)
    assert (list(ordered), warnings) == ([DOMAIN], [])
    verbs = ["issue" if {"issue", "certonly"} & {*argv} else "new" for argv in authority.commands]
    assert verbs == ["new", "issue", "issue", "new", "issue"]


def test_order_at_another_authority_does_not_wait(blog, make_site, authority):
    authority.fails["issue"] = SAID[blog.config["tls"]["client"]]
    order(blog)
    assert acme.due(make_site(tls={**ACME, "directory": "https://other.example.org/dir"}))[0] == {DOMAIN: "new"}


@pytest.mark.parametrize("certificate", [{"ends": 3}, {"begins": -2, "ends": -1}])
def test_worse_certificate_of_the_authority_is_refused(blog, authority, certificate):
    put(signed(DOMAIN, begins=-85, ends=5))
    authority.certificate = certificate
    ordered, (warning,) = order(blog)
    assert ordered == {} and "is worse than the present one" in warning
    assert 4 < certificates.read(DOMAIN).left / 86400 <= 5


def test_present_certificate_stays_when_nginx_refuses_the_new_one(blog, monkeypatch):
    put(signed(DOMAIN, begins=-85, ends=5))

    def refuse(texts):
        raise DeploymentError("nginx refuses its configuration: x")

    monkeypatch.setattr(switch, "change_certificates", refuse)
    assert "nginx refuses its configuration: x; the previous one is in use" in order(blog)[1][0]


def test_order_is_skipped_when_another_process_made_it(blog, authority, monkeypatch):
    alone = acme._alone

    @contextlib.contextmanager
    def waited():
        with alone():
            put(signed(DOMAIN))
            yield

    monkeypatch.setattr(acme, "_alone", waited)
    assert order(blog) == ({}, []) and authority.commands == []


def test_order_times_out_while_another_process_orders(blog, authority, monkeypatch):
    put(signed(DOMAIN, begins=-85, ends=5))
    monkeypatch.setattr(acme, "PATIENCE", 0.0)
    with acme._alone():
        assert "another order of certificates is under way" in order(blog)[1][0]
    assert acme.due(blog) == ({DOMAIN: "5.0 days left"}, []), "no order has failed"


@pytest.mark.parametrize("patience", [0.0, 20.0])
def test_balancer_serves_the_challenges_of_one_order_while_another_waits(by_uacme, short, monkeypatch, patience):
    """An apply and the timer: what ends first would remove the socket of the other."""

    def renew():
        answers.append(balancer_certificates.renew({}, {}))

    monkeypatch.setattr(acme, "CHALLENGES", short / "challenges.sock")
    monkeypatch.setattr(acme, "PATIENCE", patience)
    monkeypatch.setattr(balancer_certificates, "sites", lambda _entries: [by_uacme])
    monkeypatch.setattr(balancer_certificates.plan, "catch_up", lambda: None)
    monkeypatch.setattr(balancer_certificates.plan, "change_certificates", lambda _texts: None)
    put(signed(DOMAIN, begins=-85, ends=5))
    answers, other = [], threading.Thread(target=renew)
    with acme._alone(), acme.serving_challenges():
        socket = acme.CHALLENGES.stat().st_ino
        other.start()
        other.join(0.3)
        assert acme.CHALLENGES.stat().st_ino == socket
    other.join()
    assert len(answers) == 1 and not acme.CHALLENGES.exists()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("then", ["changed", "removed"])
def test_order_leaves_what_an_apply_has_done_meanwhile(blog, authority, monkeypatch, then, fails):
    """A site that is removed, or gets another kind of certificates, while the authority looks at it."""

    def applies(argv, **options):
        if then == "removed":
            certificates.path_of(DOMAIN).unlink(missing_ok=True)
        else:
            put(given, "files")
        return run(argv, **options)

    put(signed(DOMAIN, begins=-85, ends=5))
    given, run = signed(DOMAIN, ends=20), authority.run
    if fails:
        authority.fails["issue"] = "no A record"
    monkeypatch.setattr(commands, "run", applies)
    assert order(blog)[0] == {}
    certificate = certificates.read(DOMAIN)
    assert certificate.origin == "files" if then == "changed" else certificate is None
    assert not certificates.path_of(DOMAIN).with_suffix(".failed").exists()


# The timer


def applied(site):
    """Have a site as its last apply left it."""
    file.write_json(site.applied, {"config": dict(site.config), "platform": dict(site.platform)})
    site.register()
    site.keep_templates(formula_templates())


def test_timer_renews_due_certificates(blog, capsys):
    applied(blog)
    put(signed(DOMAIN, begins=-61, ends=29))
    assert renewal.main("blog") == 0
    assert f"{DOMAIN}: valid until " in capsys.readouterr().out
    assert renewal.main("blog") == 0 and capsys.readouterr().out == ""


def test_timer_reports_failures(blog, authority, capsys):
    applied(blog)
    put(signed(DOMAIN, begins=-61, ends=29))
    authority.fails["issue"] = SAID[blog.config["tls"]["client"]]
    assert renewal.main("blog") == 1 and "the previous one is in use" in capsys.readouterr().err
    assert renewal.main("nobody") == 1
    answer = renewal.renew(blog, again=True)
    assert answer[0] == {} and len(authority.commands) == 3


def test_timer_renews_certificates_of_the_local_authority(make_site, monkeypatch):
    monkeypatch.setattr(daemons, "reload", lambda daemon: None)
    site = make_site(tls={"kind": "self_signed"})
    applied(site)
    put(signed(DOMAIN, begins=-300, ends=65), "self_signed 0")
    assert renewal.renew(site) == ({DOMAIN: "due"}, [])
    assert renewal.renew(site) == ({}, [])
    assert renewal.renew(make_site(tls={"kind": "none"})) == ({}, [])


def test_timer_replaces_no_certificate_before_the_clock_is_set_after_a_boot(make_site, monkeypatch):
    monkeypatch.setattr(daemons, "reload", lambda daemon: None)
    site = make_site(tls={"kind": "self_signed"})
    applied(site)
    put(signed(DOMAIN, begins=-1, ends=300), certificates.origin(site))
    now = time.time()
    monkeypatch.setattr(certificates.time, "time", lambda: now - 30 * 86400)
    assert renewal.renew(site) == ({}, [])
    assert renewal.renew(site, again=True) == ({DOMAIN: "not valid yet"}, [])


@pytest.mark.parametrize("waits", ["catch_up", "alone"])
def test_timer_leaves_what_an_apply_has_installed_while_it_waited(make_site, monkeypatch, waits):
    """It waits for the switch of another site, and so does the apply, which may be the first to go on."""

    def applies():
        if not done:
            done.append(True)
            put(given, "files")
            applied(make_site(tls={"kind": "files", "certificate": given.certificate, "key": given.key}))

    def caught_up():
        applies()
        return []

    @contextlib.contextmanager
    def alone():
        applies()
        yield

    monkeypatch.setattr(daemons, "reload", lambda daemon: None)
    applied(make_site(tls={"kind": "self_signed"}))
    put(signed(DOMAIN, begins=-300, ends=65), "self_signed 0")
    given, done = signed(DOMAIN, ends=20), []
    monkeypatch.setattr(switch, waits, caught_up if waits == "catch_up" else alone)
    assert renewal.main("blog") == 0 and done
    assert certificates.read(DOMAIN).origin == "files"


def test_program_of_the_timer_needs_python_alone(blog):
    archive.packed.cache_clear()
    program = blog.root / "tls.pyz"
    program.write_bytes(archive.packed("django_formula.tls.renewal"))
    argv = ["/usr/bin/python3", "-I", program, "nobody"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no site 'nobody' on this host" in done.stderr, done.stderr
    names = {*zipfile.ZipFile(program).namelist()}
    assert {f"django_formula/{name}.py" for name in ("tls/acme", "tls/certificates", "proxy/proxies")} <= names
    assert "django_formula/backup/backups.py" not in names
