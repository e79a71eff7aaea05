import os
import stat
import threading
import time

import pytest
from authority import serving, signed
from django_formula.deploy import switch_report
from django_formula.host import commands, daemons, file
from django_formula.host.commands import DeploymentError
from django_formula.proxy import nginx as proxy_nginx
from django_formula.proxy import proxies, site_files, switch
from django_formula.release import health, http
from django_formula.tls import certificates
from specimen import FACTS, formula_templates

DOMAIN = "blog.example.org"
SELF_SIGNED = {"kind": "self_signed"}
FILES = {"kind": "files", "certificate": "sdb://x/certificate", "key": "sdb://x/key"}
ACME = {"kind": "acme", "directory": "https://acme.example.org/dir"}


@pytest.fixture
def blog(make_site, monkeypatch):
    """Return a site with options of tls: `blog(kind="files")`."""
    monkeypatch.setattr(proxy_nginx, "version", lambda: (1, 22, 1))
    return lambda **tls: make_site(tls=tls)


def missing(site, **files):
    return certificates.missing(site, files, {})


def put(domain, signed, origin):
    """Have a certificate on the host."""
    certificates.path_of(domain).parent.mkdir(parents=True, exist_ok=True)
    certificates.path_of(domain).write_text(certificates.joined(origin, signed.key, signed.certificate))


def make(site, wanted, **files):
    certificates.path_of(DOMAIN).parent.mkdir(parents=True, exist_ok=True)
    for path, text in certificates.texts(site, wanted, files, {}).items():
        path.write_text(text)


def test_site_without_tls_has_no_certificates(make_site):
    site = make_site()
    assert site.https == [] and certificates.domains(site) == [] and missing(site) == {}
    assert certificates.summary(site) == {"certificate": ""}
    assert not certificates.STATE.joinpath("certificates").exists()


def test_local_authority_issues_certificates(blog):
    site = blog(kind="self_signed")
    assert missing(site) == {DOMAIN: "new"}
    make(site, [DOMAIN])
    assert missing(site) == {}
    certificate = certificates.read(DOMAIN)
    assert certificate.names == [DOMAIN] and certificate.origin == certificates.origin(site)
    assert 364 < certificate.left / 86400 <= 365 and not certificate.is_due
    key = certificates.root().with_name("root.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and stat.S_IMODE(certificates.root().stat().st_mode) == 0o644
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", DOMAIN]
    commands.run([*verify, "-CAfile", str(certificates.root()), str(certificates.path_of(DOMAIN))], doing="verify")
    assert {path.name for path in certificates.root().parent.iterdir()} == {"root.key", "root.pem"}


def test_local_authority_is_made_once_by_two_applies_at_the_same_time(own_host, monkeypatch):
    """Else its key is that of the one, and its certificate that of the other."""

    def write(path, *arguments, **options):
        real(path, *arguments, **options)
        if not other.ident:
            other.start()
            other.join(1)

    other, real = threading.Thread(target=certificates.make_authority), file.write
    monkeypatch.setattr(file, "write", write)
    certificates.make_authority()
    other.join()
    certificates._load(str(certificates.root()), str(certificates.root().with_name("root.key")))


def test_local_authority_is_replaced_when_it_expires_too_soon(blog, monkeypatch):
    site = blog(kind="self_signed")
    make(site, [DOMAIN])
    before = certificates.root().read_text()
    make(site, [DOMAIN])
    assert certificates.root().read_text() == before
    monkeypatch.setattr(certificates, "DAYS", 3651)
    certificates.make_authority()
    assert certificates.root().read_text() != before and missing(site) == {DOMAIN: "new"}


@pytest.mark.parametrize(
    ("kind", "certificate", "origin", "why"),
    [
        ("self_signed", {"begins": -70, "ends": 20}, "own", "due"),
        ("self_signed", {"begins": -60, "ends": 31}, "own", None),
        ("self_signed", {}, "files", "new"),
        ("self_signed", {"begins": 20, "ends": 385}, "own", "not valid yet"),
        ("acme", {"begins": 20, "ends": 385}, "own", "not valid yet"),
        ("acme", {"begins": 1, "ends": 90}, "acme https://acme.example.org/dir", None),  # it is the clock that is late
        ("acme", {"begins": -80, "ends": 10}, "acme https://acme.example.org/dir", None),
        ("acme", {"begins": -80, "ends": -1}, "acme https://acme.example.org/dir", "expired"),
        ("acme", {"begins": -80, "ends": 10}, "own", "due"),
        ("acme", {"begins": -8, "ends": 90}, "files", None),
    ],
)
def test_certificates_that_the_local_authority_replaces(blog, kind, certificate, origin, why):
    site = blog(**{"self_signed": SELF_SIGNED, "acme": ACME}[kind])
    own = f"self_signed {certificates._fingerprint()}"
    put(DOMAIN, signed(DOMAIN, **certificate), own if origin == "own" else origin)
    assert missing(site) == ({DOMAIN: why} if why else {})


def test_local_authority_of_a_clock_that_was_ahead_is_replaced(blog):
    site = blog(kind="self_signed")
    make(site, [DOMAIN])
    future = signed("Local authority", begins=20, ends=3000, ca=True)
    certificates.root().write_text(future.certificate)
    certificates.root().with_name("root.key").write_text(future.key)
    make(site, [DOMAIN])
    assert certificates.root().read_text() != future.certificate and missing(site) == {}


@pytest.mark.parametrize("key", [None, "", "other"])
def test_local_authority_without_its_own_key_is_replaced(blog, key):
    """Two files are not replaced in one moment: an apply may be killed between them, or another one come between."""
    site = blog(kind="self_signed")
    make(site, [DOMAIN])
    before, path = certificates.root().read_text(), certificates.root().with_name("root.key")
    path.unlink() if key is None else path.write_text(signed("other", ca=True).key if key else "")
    make(site, [DOMAIN])
    assert certificates.root().read_text() != before and missing(site) == {}


@pytest.mark.parametrize("damage", ["", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "key"])
def test_damaged_certificate_is_issued_again(blog, damage):
    site = blog(kind="self_signed")
    make(site, [DOMAIN])
    other = signed("x.example.org").key
    path = certificates.path_of(DOMAIN)
    path.write_text(certificates.joined("x", other, path.read_text().partition("KEY-----\n")[2]) if damage else damage)
    assert missing(site) == {DOMAIN: "damaged"}
    make(site, [DOMAIN])
    assert missing(site) == {}


# Files


def pair(*names, **options):
    made = signed(*(names or [DOMAIN]), **options)
    return {"certificate": made.certificate, "key": made.key}


def test_certificate_and_key_of_the_pillar_are_one_file(blog):
    site = blog(**FILES)
    given = pair()
    assert missing(site, **given) == {DOMAIN: "new"}
    make(site, [DOMAIN], **given)
    assert missing(site, **given) == {} and missing(site) == {}, "commands do not read the pillar"
    assert certificates.path_of(DOMAIN).read_text().startswith("# Written by django-formula: files\n-----BEGIN")
    assert missing(site, **pair(ends=100)) == {DOMAIN: "changed"}


def test_missing_file_is_written_again_by_an_apply_only(blog):
    site = blog(**FILES)
    assert missing(site) == {DOMAIN: "missing"}
    with pytest.raises(DeploymentError, match="the certificate of blog is missing, and only the pillar has it"):
        make(site, [DOMAIN])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda: {**pair(), "key": pair("x")["key"]}, "tls:key is not the key of django:sites:blog:tls:certificate"),
        (lambda: {**pair(), "key": pair()["certificate"]}, "tls:key has no private keys"),
        (lambda: {**pair(), "key": pair()["key"] * 2}, "tls:key has 2 private keys"),
        (
            lambda: {**pair(), "key": pair()["key"].replace("PRIVATE", "ENCRYPTED PRIVATE")},
            "tls:key is encrypted: expected one in PEM without a password",
        ),
        (lambda: {**pair(), "certificate": pair()["key"]}, "tls:certificate has no certificate in PEM"),
        (
            lambda: {**pair(), "certificate": pair()["certificate"].replace("MII", "MIA")},
            "tls:certificate: block 1 is not a certificate",
        ),
        (
            lambda: pair("shop.example.org", "*.shop.example.org"),
            "tls:certificate is for shop.example.org, *.shop.example.org, not for blog.example.org",
        ),
        (lambda: pair(begins=-90, ends=-1), "tls:certificate expired on 2"),
        (lambda: pair(begins=1, ends=9), "tls:certificate is not valid before 2"),
        (
            lambda: {**pair(), "certificate": pair()["certificate"] + pair("other")["certificate"]},
            "tls:certificate: certificate 2 is not the issuer of certificate 1",
        ),
    ],
)
def test_invalid_files_are_refused_with_the_reason(blog, given, told):
    with pytest.raises(DeploymentError) as error:
        missing(blog(**FILES), **given())
    assert error.value.message.startswith("django:sites:blog:tls:") and told in error.value.message
    assert "\n" not in error.value.message


def test_chain_and_wildcard_are_accepted(blog):
    issuer = signed("issuer", ca=True)
    own = signed("*.example.org", by="issuer")
    given = {"certificate": own.certificate + issuer.certificate, "key": own.key}
    site = blog(**FILES)
    assert missing(site, **given) == {DOMAIN: "new"}
    make(site, [DOMAIN], **given)
    assert certificates.path_of(DOMAIN).read_text().count("BEGIN CERTIFICATE") == 2
    assert not certificates.read(DOMAIN).covers("a.blog.example.org")


def test_files_are_read_from_a_path_and_from_salt(blog, own_host):
    given = pair()
    (own_host / "chain.pem").write_text(given["certificate"])
    site = blog(kind="files", certificate=str(own_host / "chain.pem"), key="salt://keys/blog.pem")
    assert certificates.missing(site, {}, {"salt://keys/blog.pem": given["key"]}) == {DOMAIN: "new"}
    with pytest.raises(DeploymentError, match=r"the template salt://keys/blog\.pem is not there"):
        missing(site)
    (own_host / "chain.pem").unlink()
    with pytest.raises(DeploymentError, match=r"tls:certificate: .*/chain.pem cannot be read: No such file"):
        missing(site)


@pytest.mark.parametrize("before", ["\n", "Bag Attributes\n    localKeyID: 01\n", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_of_a_vault_is_accepted_as_other_programs_write_it(blog, before, end):
    given = {name: (before + text).replace("\n", end) for name, text in pair().items()}
    assert missing(blog(**FILES), **given) == {DOMAIN: "new"}


def test_key_that_is_no_pem_is_not_shown(blog):
    key = pair()["key"].replace("-----", "").replace("\n", "")
    with pytest.raises(DeploymentError) as error:
        missing(blog(**FILES), **{**pair(), "key": key})
    assert (
        error.value.message == "django:sites:blog:tls:key has no private keys: expected one in PEM without a password"
    )
    assert key not in f"{error.value.message}{error.value.hint}{error.value.log}"


# Status


@pytest.mark.parametrize(
    ("tls", "certificate", "origin", "told"),
    [
        (ACME, {"begins": -30, "ends": 60}, "acme https://acme.example.org/dir", "acme, 60 of 90 days left"),
        (
            ACME,
            {"begins": -70, "ends": 20},
            "acme https://acme.example.org/dir",
            "acme, 20 of 90 days left; WARNING: blog.example.org should have been renewed",
        ),
        (
            ACME,
            {"begins": -90, "ends": -1},
            "acme https://acme.example.org/dir",
            "acme, 0 of 89 days left; WARNING: blog.example.org has expired",
        ),
        (
            SELF_SIGNED,
            {"begins": 20, "ends": 385},
            "files",
            "self_signed, 385 of 365 days left; WARNING: blog.example.org has a certificate that is not valid yet, by "
            "the clock of this host",
        ),
        (ACME, {}, "files", "acme, 89 of 90 days left; blog.example.org has a placeholder"),
        (
            {"kind": "files", "certificate": "/a.pem", "key": "/b.pem"},
            {"begins": 0, "ends": 1},
            "files",
            "files, 1 of 1 days left; WARNING: blog.example.org should have been renewed",
        ),
        (SELF_SIGNED, {}, "self_signed x", "self_signed, 89 of 90 days left; root: {root}"),
        (SELF_SIGNED, None, "", "blog.example.org: missing or damaged: state.apply creates it again"),
    ],
)
def test_status_has_the_certificate_that_expires_first(blog, tls, certificate, origin, told):
    site = blog(**tls)
    if certificate is not None:
        put(DOMAIN, signed(DOMAIN, **certificate), origin)
    assert certificates.summary(site) == {"certificate": told.format(root=certificates.root())}


@pytest.mark.parametrize(
    ("names", "ends", "origin", "is_worse"),
    [
        ([DOMAIN], 100, "same", False),
        ([DOMAIN], 50, "same", True),
        ([DOMAIN], 50, "other", False),
        ([DOMAIN], -1, "other", True),
        (["x.example.org"], 100, "other", True),
    ],
)
def test_worse_certificate_is_refused(blog, names, ends, origin, is_worse):
    put(DOMAIN, signed(DOMAIN), "same")
    new = signed(*names, begins=-2, ends=ends)
    text = certificates.joined(origin, new.key, new.certificate)
    if is_worse:
        with pytest.raises(DeploymentError, match="is worse than the present one"):
            certificates.refuse_worse(DOMAIN, text)
    else:
        certificates.refuse_worse(DOMAIN, text)
    with pytest.raises(DeploymentError, match="cannot be used"):
        certificates.refuse_worse(DOMAIN, text.replace("MII", "MIA"))


# nginx


class Nginx:
    def __init__(self, monkeypatch):
        self.commands, self.refuses = [], False
        monkeypatch.setattr(commands, "run", self.run)
        monkeypatch.setattr(daemons, "reload", lambda daemon: self.commands.append("reload"))

    def run(self, argv, *, doing, **_options):
        self.commands.append(" ".join(argv))
        if self.refuses:
            raise DeploymentError("nginx -t failed", log="nginx: [emerg] bad certificate")
        return ""


def installed(site, **options):
    switch.apply(site_files.files_of_site(site, FACTS, formula_templates(), **options))


def server(domain=DOMAIN):
    return (proxy_nginx.ETC / "sites-available" / domain).read_text()


def test_probe_uses_https(blog, tmp_path, monkeypatch):
    site = blog(kind="self_signed")
    Nginx(monkeypatch)
    with serving(DOMAIN, tmp_path) as server:
        installed(site)
        domain = proxy_nginx.ETC / "sites-available" / DOMAIN
        domain.write_text(domain.read_text().replace("443 ssl", f"{server.server_port} ssl"))
        assert switch_report.Probe(site, through_proxy=True).problem() == ""
    assert server.requests == [("/", DOMAIN)] and server.names == [DOMAIN]
    assert "got no response" in switch_report.Probe(site, through_proxy=True).problem()


@pytest.mark.parametrize(
    ("scheme", "location", "problem"),
    [
        ("https", "https://blog.example.org/b", ""),
        ("https", "http://blog.example.org/b", "redirected to http://blog.example.org/b"),
        ("http", "https://blog.example.org/b", "redirected to https://blog.example.org/b"),
        ("https", "/b", ""),
    ],
)
def test_health_check_uses_the_scheme_of_the_site(blog, scheme, location, problem):
    def ask(path, timeout):
        return http.Answer(200 if path == "/b" else 301, {"location": location}, "")

    site = blog(kind="self_signed")
    assert health.problem(site, ask, time.monotonic() + 9, scheme) == problem


def test_certificate_is_restored_when_nginx_refuses_it(blog, monkeypatch):
    site = blog(**FILES)
    put(DOMAIN, signed(DOMAIN), "files")
    nginx = Nginx(monkeypatch)
    installed(site)
    before, nginx.refuses = certificates.path_of(DOMAIN).read_text(), True
    with pytest.raises(DeploymentError, match="nginx refuses its configuration: bad certificate"):
        switch.change_certificates({certificates.path_of(DOMAIN): "other"})
    assert certificates.path_of(DOMAIN).read_text() == before
    nginx.refuses, nginx.commands = False, []
    switch.change_certificates({certificates.path_of(DOMAIN): "other", certificates.path_of("x.example.org"): "x"})
    assert nginx.commands == ["nginx -t -q", "reload"]
    assert stat.S_IMODE(os.stat(certificates.path_of(DOMAIN)).st_mode) == 0o600
    nginx.commands = []
    switch.change_certificates({certificates.path_of("y.example.org"): "y"})
    assert nginx.commands == [], "no proxy serves it"


def test_https_is_added_before_http_redirects(blog, make_site, monkeypatch):
    plain, site = make_site(), blog(kind="self_signed")
    Nginx(monkeypatch)
    assert site_files.opening(site, formula_templates()) == {}, "nothing is served yet"
    installed(plain)
    before = server()
    assert not proxies.speaks_tls(site)
    switch.apply(site_files.opening(site, formula_templates()))
    assert "return 301" not in server() and "listen 443 ssl http2;" in server() and "listen 80;" in server()
    assert server().count(f"include /etc/nginx/django/{DOMAIN}/*.conf;") == 2
    assert proxies.speaks_tls(site) and site_files.opening(site, formula_templates()) == {}
    installed(site)
    assert f"return 301 https://{DOMAIN}$request_uri;" in server()
    put(DOMAIN, signed(DOMAIN), "self_signed x")
    wanted = site_files.files_of_site(plain, FACTS, formula_templates())
    assert site_files.leftovers(site, site_files.files_of_site(site, FACTS, formula_templates())) == []
    assert site_files.leftovers(site, wanted) == [certificates.path_of(DOMAIN)]
    switch.apply(wanted)
    assert server() == before


def test_certificates_are_removed_with_the_site(blog, monkeypatch):
    site = blog(**ACME)
    Nginx(monkeypatch)
    installed(site)
    put(DOMAIN, signed(DOMAIN), "acme x")
    own = [
        certificates.path_of(DOMAIN).with_suffix(".failed"),
        certificates.STATE / "acme/1/private" / DOMAIN / "key.pem",
    ]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    gone = site_files.leftovers(site, site_files.absent(site))
    assert gone == [certificates.path_of(DOMAIN), own[0], own[1].parent]
    certificates.challenges().mkdir()
    certificates.remove_challenges()
    assert certificates.challenges().exists(), "another domain has a certificate yet"
    certificates.path_of(DOMAIN).unlink()
    certificates.remove_challenges()
    assert not certificates.challenges().exists()


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("nginx/1.22.1", (1, 22, 1)),
        ("nginx/1.18.0 (Ubuntu)", (1, 18, 0)),
        ("nginx/1.26.3 (Ubuntu)", (1, 26, 3)),
        (None, (1, 26)),
    ],
)
def test_version_of_nginx_is_parsed(monkeypatch, version, said):
    def run(argv, **options):
        if version is None:
            raise DeploymentError("nginx cannot be started")
        return f"nginx version: {version}\n"

    monkeypatch.setattr(commands, "run", run)
    assert proxy_nginx.version.__wrapped__() == said


def test_default_server_refuses_unknown_names_by_https(own_host, monkeypatch):
    monkeypatch.setattr(proxy_nginx, "version", lambda: (1, 25, 1))
    Nginx(monkeypatch)
    wanted = proxy_nginx.PROXY.default_server([80], [443], formula_templates())
    switch.apply(wanted)
    text = server("django-default")
    assert "listen 443 ssl default_server;" in text and "ssl_reject_handshake on;" in text and "http2 on;" in text
    assert proxy_nginx.PROXY.refused() == ([80], [443])
    assert file.read_text(proxy_nginx.PROXY.protocols())
    switch.apply(proxy_nginx.PROXY.default_server([80], [], formula_templates()))
    assert "443" not in server("django-default")


def test_default_server_of_nginx_1_18_has_a_certificate_of_no_host(own_host, monkeypatch):
    monkeypatch.setattr(proxy_nginx, "version", lambda: (1, 18, 0))
    Nginx(monkeypatch)
    monkeypatch.setattr(proxy_nginx, "_nameless", lambda: "key and certificate\n")
    switch.apply(proxy_nginx.PROXY.default_server([80], [443], formula_templates()))
    path = proxy_nginx.ETC / "django/unknown-hosts.pem"
    assert path.read_text() == "key and certificate\n"
    text = server("django-default")
    assert f"ssl_certificate {path};" in text and f"ssl_certificate_key {path};" in text
    assert "listen 443 ssl http2 default_server;" in text
    assert "ssl_reject_handshake" not in text and "http2 on" not in text
    assert "ssl_conf_command" not in proxy_nginx.PROXY.protocols().read_text()
    monkeypatch.setattr(proxy_nginx, "_nameless", lambda: "another\n")
    again = proxy_nginx.PROXY.default_server([80], [443], formula_templates())
    assert again[path] == "key and certificate\n"
    monkeypatch.setattr(proxy_nginx, "version", lambda: (1, 24, 0))
    switch.apply(proxy_nginx.PROXY.default_server([80], [443], formula_templates()))
    assert not path.exists() and "ssl_reject_handshake on;" in server("django-default")
    assert "ssl_conf_command" in proxy_nginx.PROXY.protocols().read_text()


def test_times_are_read_from_the_certificate():
    found = certificates.Certificate([DOMAIN], (), (), time.time() - 300, time.time() + 100)
    assert 0.24 < found.part_left < 0.26 and found.is_due and found.covers(DOMAIN)


# Certificates of clients


@pytest.fixture
def asking(make_site, own_host):
    def make(**tls):
        return make_site(tls={"kind": "self_signed", **tls})

    return make


def test_authorities_of_clients_are_checked_before_anything_is_changed(asking, own_host):
    root = signed("An authority", ca=True).certificate
    path = own_host / "clients.pem"
    certificates.refuse_bad_files(asking(client_ca=root), {}, {})
    for text, problem in (
        (None, f"{path} cannot be read: No such file or directory"),
        ("no", " has no certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "block 1 is not a certificate"),
        (root + "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "PRIVATE KEY besides certificates"),
    ):
        if text:
            path.write_text(text)
        with pytest.raises(DeploymentError) as error:
            certificates.refuse_bad_files(asking(client_ca=str(path)), {}, {})
        assert error.value.message.startswith("django:sites:blog:tls:client_ca") and problem in error.value.message
    path.write_text(root)
    certificates.refuse_bad_files(asking(client_ca=str(path)), {}, {})


def test_text_of_authorities_is_a_file_of_the_proxy_and_goes_with_the_option(asking, own_host):
    root, etc = signed("An authority", ca=True).certificate, own_host / "etc/nginx"
    site = asking(client_ca=root)
    path, files = certificates.client_authorities(site.name, site.config["tls"], etc)
    assert path == f"{etc}/django-blog.clients.pem" and [*files] == [etc / "django-blog.clients.pem"]
    assert files[etc / "django-blog.clients.pem"].endswith(root)
    key = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"
    assert certificates.client_authorities(site.name, {**site.config["tls"], "client_ca": root + key}, etc)[1] == files
    (etc / "django-blog.clients.pem").write_text("x")
    site = asking(client_ca="/etc/ssl/clients.pem")
    assert certificates.client_authorities(site.name, site.config["tls"], etc) == (
        "/etc/ssl/clients.pem",
        {etc / "django-blog.clients.pem": None},
    )
    assert certificates.requires_clients(site) and not certificates.requires_clients(asking())
    assert not certificates.requires_clients(asking(client_ca="/etc/ssl/clients.pem", verify="optional"))
