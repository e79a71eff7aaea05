"""PostgreSQL on this host: pending changes of a site, and how they are made."""

import json
import os
import pwd
from pathlib import Path

import pytest
from django_formula.database import engines, postgres, setup
from django_formula.database.server import Change, ManagedDatabase
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from specimen import configured

POSTGRESQL = setup.SERVERS["postgres"]
BLOG = ManagedDatabase("blog", "blog", "default", "django:sites:blog:database", "blog", "blog", "blog_2")
#: On another login, by which the server has to be told that it is the site's.
MAPPED = BLOG._replace(user="editor")
PASSWORD = "sésame 'open' \"it\""
WITH_PASSWORD = BLOG._replace(password=PASSWORD, over_socket=False)
NEW_ROLE = (
    'BEGIN; CREATE ROLE "blog" LOGIN NOSUPERUSER NOCREATEROLE CREATEDB; '
    "COMMENT ON ROLE \"blog\" IS 'Django site blog'; COMMIT;"
)
CLOSED = 'REVOKE ALL ON DATABASE "blog" FROM PUBLIC;'
NEW_DATABASE = [
    "CREATE DATABASE \"blog\" OWNER \"blog\" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';",
    CLOSED,
    "COMMENT ON DATABASE \"blog\" IS 'Django site blog';",
]
HBA = "local all all peer\n"


def role(comment="Django site blog", login=True, rights=False, verifier=None, member_of=None):
    return {"comment": comment, "login": login, "rights": rights, "verifier": verifier, "member_of": member_of}


def database(owner="blog", comment="Django site blog", is_public=False):
    return {"owner": owner, "comment": comment, "is_public": is_public, "acts_as": None}


def answer(roles=None, databases=None, hba=HBA, ident="", unread=()):
    files = {"hba": "/etc/postgresql/15/main/pg_hba.conf", "ident": "/etc/postgresql/15/main/pg_ident.conf"}
    texts = {"hba": hba, "ident": ident}
    return {**files, "roles": roles or {}, "databases": databases or {}, "texts": texts, "unread": list(unread)}


THERE = answer({"blog": role()}, {"blog": database()})


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        (answer(), {"role blog": ("new", [NEW_ROLE]), "database blog": ("new", NEW_DATABASE)}),
        (answer({"blog": role()}), {"database blog": ("new", NEW_DATABASE)}),
        (THERE, {}),
        (answer({"blog": role(comment=None)}, {"blog": database(comment=None, is_public=True)}), {}),
        (answer({"blog": role(rights=True)}, {"blog": database()}), {}),
        (
            answer({"blog": role()}, {"blog": database(comment=None, is_public=True)}),
            {"database blog": ("closed to other roles", [CLOSED])},
        ),
        (
            answer({"blog": role(comment=None)}, {"blog": database(is_public=True)}),
            {"database blog": ("closed to other roles", [CLOSED])},
        ),
    ],
)
def test_pending_changes_by_state(has, expected):
    changes = POSTGRESQL.pending_changes([BLOG], has)
    assert {change.item: (change.action, list(change.statements)) for change in changes} == expected


SPATIAL = BLOG._replace(extensions=("postgis", "unaccent"))


@pytest.mark.parametrize(
    ("has", "present", "expected"),
    [
        (answer({"blog": role()}), None, ["postgis", "unaccent"]),
        (THERE, ["plpgsql", "unaccent"], ["postgis"]),
        (THERE, ["plpgsql", "unaccent", "postgis"], []),
    ],
)
def test_missing_extensions_are_created_by_the_superuser(monkeypatch, has, present, expected):
    scripts = []

    def run(argv, **options):
        scripts.append((options["user"], options["stdin"]))
        return "\n".join(present)

    monkeypatch.setattr(commands, "run", run)
    changes = POSTGRESQL.pending_changes([SPATIAL], has)
    made = [change for change in changes if change.item.startswith("extension")]
    assert [change.item for change in made] == [f"extension {name} of blog" for name in expected]
    lines = ['\\connect "blog"\nSET search_path = public;', 'CREATE EXTENSION IF NOT EXISTS "{}" CASCADE;']
    for change, name in zip(made, expected, strict=True):
        assert [*change.statements][:2] == [line.format(name) for line in lines]
    listing = "SET search_path = public;\nSELECT extname FROM pg_catalog.pg_extension;"
    assert scripts == ([] if present is None else [("postgres", f'\\connect "blog"\n{listing}')])


def test_extension_without_its_package(monkeypatch):
    def run(_argv, **_options):
        raise DeploymentError("setting PostgreSQL up failed", log='ERROR:  extension "postgis" is not available')

    monkeypatch.setattr(commands, "run", run)
    with pytest.raises(DeploymentError) as error:
        POSTGRESQL.apply(SPATIAL, POSTGRESQL.pending_changes([SPATIAL], answer({"blog": role()})))
    assert error.value.hint == (
        "add the Debian package of the extension to django:sites:blog:packages; "
        "django:sites:blog:database:extensions names it"
    )


@pytest.mark.parametrize(
    ("has", "managed", "told"),
    [
        (
            answer({"blog": role(comment=None, login=False)}),
            BLOG,
            "PostgreSQL already has a role blog that is not the site's, and it cannot",
        ),
        (answer({"blog": role(comment="DBA", rights=True)}), BLOG, "has rights beyond its own databases"),
        (answer({"blog": role(comment=None)}), WITH_PASSWORD, "that is not the site's, with another password"),
        (
            answer({"blog": role()}, {"blog": database(owner="ray")}),
            BLOG,
            "PostgreSQL already has a database blog, owned by ray",
        ),
        (answer(databases={"blog": database(owner="ray")}), BLOG, "owned by ray"),
    ],
)
def test_item_of_another_owner_refused(has, managed, told):
    with pytest.raises(DeploymentError) as error:
        POSTGRESQL.pending_changes([managed], has)
    assert told in error.value.message and "django:sites:blog:database:" in error.value.hint


def test_password_sent_as_hash():
    (new, _database) = POSTGRESQL.pending_changes([WITH_PASSWORD], answer())
    assert PASSWORD not in str(new) and "PASSWORD 'SCRAM-SHA-256$4096:" in new.statements[0]
    kept = engines.postgres_verifier(PASSWORD)
    assert not POSTGRESQL.pending_changes([WITH_PASSWORD], answer({"blog": role(verifier=kept)}, {"blog": database()}))
    other = answer({"blog": role(verifier=engines.postgres_verifier("other"))}, {"blog": database()})
    (changed,) = POSTGRESQL.pending_changes([WITH_PASSWORD], other)
    assert (changed.item, changed.action) == ("role blog", "password changed")
    assert changed.statements[0].startswith('ALTER ROLE "blog" PASSWORD \'SCRAM-SHA-256$')


@pytest.mark.parametrize("rounds", [1, 4096, 100_000])
def test_password_is_known_again_whatever_the_rounds_of_the_server(rounds):
    """Those of `scram_iterations`, which version 16 has; an administrator may have made the role."""
    kept = engines.postgres_verifier(PASSWORD, b"0123456789abcdef", rounds)
    assert kept.startswith(f"SCRAM-SHA-256${rounds}:")
    assert not POSTGRESQL.pending_changes([WITH_PASSWORD], answer({"blog": role(verifier=kept)}, {"blog": database()}))
    assert not engines.is_verifier_of(kept, "other", "blog")


def test_login_that_sets_endless_rounds_for_itself_costs_no_time(monkeypatch):
    monkeypatch.setattr(engines.hashlib, "pbkdf2_hmac", lambda *_arguments: 1 / 0)
    for rounds in ("2000000000", "9" * 400):
        assert not engines.is_verifier_of(f"SCRAM-SHA-256${rounds}:c2FsdA==$a:b", PASSWORD, "blog")


def test_verifier_equals_that_of_postgresql():
    """Of the password and the salt of RFC 7677's example; and as servers before PostgreSQL 14 keep it."""
    made = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert engines.postgres_verifier("pencil", b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81") == made
    assert engines.is_verifier_of(made, "pencil", "blog") and not engines.is_verifier_of(made, "pen", "blog")
    assert engines.is_verifier_of("md5", "x", "blog") is False
    assert engines.is_verifier_of("md5dcfc1c3638fb838ce4c701460fa35511", "pencil", "vm")
    assert not engines.is_verifier_of("md5dcfc1c3638fb838ce4c701460fa35511", "pencil", "blog")


def test_login_of_another_name_mapped_in_server_files():
    role_and_database = answer({"editor": role()}, {"blog": database(owner="editor")})
    hba, ident = POSTGRESQL.pending_changes([MAPPED], role_and_database)
    assert (hba.item, ident.item) == ("pg_hba.conf", "pg_ident.conf")
    (text,), (names,) = hba.files.values(), ident.files.values()
    block = '# django-formula: blog\nlocal all "editor" peer map=django-blog\n# django-formula: end of blog\n'
    assert text == block + HBA
    assert names == '# django-formula: blog\ndjango-blog "blog" "editor"\n# django-formula: end of blog\n'
    told = {**role_and_database, "texts": {"hba": text, "ident": names}}
    assert POSTGRESQL.pending_changes([MAPPED], told) == []
    unread = {**told, "unread": ["hba"]}
    assert [change.item for change in POSTGRESQL.pending_changes([MAPPED], unread)] == ["pg_hba.conf"]
    back = {**THERE, "texts": told["texts"]}
    assert [list(change.files.values()) for change in POSTGRESQL.pending_changes([BLOG], back)] == [[HBA], [""]]


def test_former_login_authenticated_until_role_is_dropped():
    server = answer({"editor": role(), "manager": role(member_of=["editor"])}, {"blog": database(owner="editor")})
    server["databases"]["blog"]["acts_as"] = {"manager": "role=editor"}
    first = POSTGRESQL.pending_changes([MAPPED], server)
    server["texts"] = dict(zip(("hba", "ident"), (next(iter(change.files.values())) for change in first), strict=True))
    second = POSTGRESQL.pending_changes([MAPPED._replace(user="manager", other_user="manager_2")], server)
    texts = [next(iter(change.files.values())) for change in second]
    assert 'local all "manager" peer map=django-blog\nlocal all "editor" peer map=django-blog\n#' in texts[0]
    assert 'django-blog "blog" "manager"\ndjango-blog "blog" "editor"\n#' in texts[1]
    server["texts"] = dict(zip(("hba", "ident"), texts, strict=True))
    assert POSTGRESQL.pending_changes([MAPPED._replace(user="manager", other_user="manager_2")], server) == []
    del server["roles"]["editor"]
    server["databases"]["blog"]["owner"] = "manager"
    third = POSTGRESQL.pending_changes([MAPPED._replace(user="manager", other_user="manager_2")], server)
    assert [text.count("editor") for change in third for text in change.files.values()] == [0, 0]


def test_password_required_over_socket():
    managed = BLOG._replace(password=PASSWORD)
    has = answer({"blog": role(verifier=engines.postgres_verifier(PASSWORD))}, {"blog": database()})
    (hba,) = POSTGRESQL.pending_changes([managed], has)
    assert 'local all "blog" scram-sha-256\n' in next(iter(hba.files.values()))


def test_authentication_of_active_release_kept_and_new_login_made():
    live, kept = WITH_PASSWORD._replace(has_active_release=True), engines.postgres_verifier("former")
    has = answer({"blog": role(verifier=kept)}, {"blog": database()})
    by_socket = BLOG._replace(has_active_release=True, password=PASSWORD)
    with pytest.raises(DeploymentError, match="the login blog cannot be changed: the active release uses it") as error:
        POSTGRESQL.pending_changes([by_socket], answer({"blog": role()}, {"blog": database()}))
    assert "django:sites:blog:database:user: blog2" in error.value.hint
    first = answer({"blog": role()}, {"blog": database()})
    assert [change.action for change in POSTGRESQL.pending_changes([live], first)] == ["password changed"]
    second = live._replace(user="blog2")
    new, member = POSTGRESQL.pending_changes([second], has)
    assert (new.item, member.item, member.action) == ("role blog2", "membership of blog2", "of blog")
    assert member.statements == [
        'BEGIN; GRANT "blog" TO "blog2"; ALTER ROLE "blog2" IN DATABASE "blog" SET role = \'blog\'; COMMIT;'
    ]
    has["roles"]["blog2"] = role(verifier=engines.postgres_verifier(PASSWORD), member_of=["blog"])
    assert [change.item for change in POSTGRESQL.pending_changes([second], has)] == ["membership of blog2"]
    has["databases"]["blog"]["acts_as"] = {"blog2": "role=blog"}
    assert POSTGRESQL.pending_changes([second], has) == []


def test_new_password_comes_with_other_login():
    former, new = (engines.postgres_verifier(text) for text in ("former", PASSWORD))
    managed = WITH_PASSWORD._replace(has_active_release=True)
    has = answer({"blog": role(verifier=former)}, {"blog": database()})
    assert POSTGRESQL.login(managed, has) == "blog_2"
    assert POSTGRESQL.login(managed._replace(password="former"), has) == "blog"
    assert POSTGRESQL.login(managed._replace(has_active_release=False), has) == "blog"
    second = managed._replace(user="blog_2", other_user="blog")
    made, member = POSTGRESQL.pending_changes([second], has)
    assert (made.item, made.action, member.item) == ("role blog_2", "new", "membership of blog_2")
    has["roles"]["blog_2"] = role(verifier=new, member_of=["blog"])
    has["databases"]["blog"]["acts_as"] = {"blog_2": "role=blog"}
    assert POSTGRESQL.login(managed, has) == POSTGRESQL.login(second, has) == "blog_2"
    assert POSTGRESQL.pending_changes([second], has) == []
    (closed,) = POSTGRESQL.pending_changes([second._replace(is_password_active=True)], has)
    assert (closed.item, closed.action) == ("role blog", "password removed")
    assert closed.statements == ['ALTER ROLE "blog" PASSWORD NULL;']
    has["roles"]["blog"] = role()
    assert POSTGRESQL.pending_changes([second._replace(is_password_active=True)], has) == []
    third = second._replace(password="third")
    assert POSTGRESQL.login(third, has) == "blog"
    (changed,) = POSTGRESQL.pending_changes([third._replace(user="blog", other_user="blog_2")], has)
    assert (changed.item, changed.action) == ("role blog", "password changed")


def test_second_login_refused_when_another_database_uses_it():
    managed = WITH_PASSWORD._replace(has_active_release=True, is_password_active=True)
    metrics = managed._replace(alias="metrics", database="metrics", user="blog_2", other_user="blog_2_2")
    kept = engines.postgres_verifier(PASSWORD)
    databases = {"blog": database(), "metrics": database(owner="blog_2")}
    has = answer({"blog": role(verifier=kept), "blog_2": role(verifier=kept)}, databases)
    assert POSTGRESQL.pending_changes([managed, metrics], has) == []
    asked = {("postgres", "", 5432): has}
    with pytest.raises(DeploymentError, match="the login blog cannot be changed: the active release uses it"):
        setup.logins({"postgres": [managed._replace(password="new"), metrics]}, asked)
    assert setup.logins({"postgres": [managed, metrics]}, asked) == {
        "default": "blog",
        "metrics": "blog_2",
    }


def test_both_logins_authenticated_over_socket():
    managed = BLOG._replace(password=PASSWORD, has_active_release=True)
    new = answer({}, {})
    hba = POSTGRESQL.pending_changes([managed], new)[-1]
    text = next(iter(hba.files.values()))
    assert 'local all "blog" scram-sha-256\nlocal all "blog_2" scram-sha-256\n' in text
    has = answer({"blog": role(verifier=engines.postgres_verifier("former"))}, {"blog": database()}, hba=text)
    second = managed._replace(user="blog_2", other_user="blog")
    assert [change.item for change in POSTGRESQL.pending_changes([second], has)] == [
        "role blog_2",
        "membership of blog_2",
    ]


def test_removals_drop_only_own_items():
    roles = {"blog": role(), "shop": role(comment="Django site shop"), "ray": role(comment=None)}
    databases = {
        "blog": database(),
        "metrics": database(comment=None),
        "theirs": database(owner="ray", comment=None),
        "shop": database("shop", "Django site shop"),
    }
    block = "# django-formula: blog\nlocal x\n# django-formula: end of blog\n"
    dropped = POSTGRESQL.removals(BLOG, answer(roles, databases, hba=block + HBA))
    assert [change.item for change in dropped] == ["database blog", "database metrics", "role blog", "pg_hba.conf"]
    assert dropped[0].statements == ['DROP DATABASE "blog" WITH (FORCE);']
    assert list(dropped[-1].files.values()) == [HBA]


@pytest.fixture
def psql(tmp_path, monkeypatch):
    """A psql that answers `psql.answer`; its input is in `psql.received`."""

    class Played:
        answer, received, argv, options = answer(), [], [], {}

    def run(argv, *, stdin, **options):
        Played.argv, Played.options = argv, options
        Played.received.append(stdin)
        asked = stdin == postgres._STATE
        return json.dumps({**Played.answer, "loaded": 5e9}) if asked else ""

    Played.received = []
    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(postgres, "PROGRAMS", tmp_path)
    monkeypatch.setattr(os, "fchown", lambda *arguments: None)  # the user postgres need not exist here
    monkeypatch.setattr(commands, "identity", lambda user: {})
    for version in ("9.6", "15", "17"):
        (tmp_path / version / "bin").mkdir(parents=True)
        for program in ("psql", "postgres"):
            (tmp_path / version / "bin" / program).touch()
    hba = tmp_path / "pg_hba.conf"
    hba.write_text(HBA)
    Played.answer = {**answer(), "hba": str(hba), "ident": str(tmp_path / "pg_ident.conf")}
    return Played


def test_newest_psql_runs_as_postgres(psql, tmp_path):
    found = POSTGRESQL.query(BLOG._replace(socket="/run/other", port=5433))
    assert psql.argv[0] == str(tmp_path / "17/bin/psql")
    assert psql.argv[-2:] == ["--port=5433", "--host=/run/other"] and psql.options["user"] == "postgres"
    assert found["texts"] == {"hba": HBA, "ident": ""} and found["unread"] == []


def test_server_queried_once_until_it_is_changed(psql):
    asked = {}
    shop = BLOG._replace(site="shop", database="shop", user="shop", system_user="shop")
    for managed in (BLOG, shop):
        assert list(setup.pending_changes({"postgres": [managed]}, asked)) == ["postgres"]
    assert psql.received == [postgres._STATE]
    setup.apply({"postgres": [BLOG]}, asked)
    assert psql.received[1:] == ["\n".join([NEW_ROLE, *NEW_DATABASE])] and asked == {}


def test_same_server_queried_once_for_all_notations(psql):
    asked = {}
    first = configured(database={"engine": "postgres"})
    second = configured(database={"engine": "postgres", "host": "/run/postgresql", "port": 5432, "manage": True})
    for site in (first, second):
        setup.pending_changes(setup.databases(site, {}, None), asked)
    assert len(psql.received) == 1
    other = configured(database={"engine": "postgres", "port": 5433})
    setup.pending_changes(setup.databases(other, {}, None), asked)
    assert len(psql.received) == 2 and psql.argv[-1] == "--port=5433"


def test_authentication_files_written_before_reload(psql):
    psql.answer |= {"roles": {"editor": role()}, "databases": {"blog": database(owner="editor")}}
    setup.apply({"postgres": [MAPPED]}, {})
    assert psql.received[1:] == ["SELECT pg_reload_conf();"]
    assert Path(psql.answer["hba"]).read_text().startswith("# django-formula: blog\nlocal")


@pytest.mark.skipif(os.getuid() != 0, reason="left out: another identity is taken, which needs root")
def test_files_that_the_server_names_are_opened_as_its_user(psql, tmp_path, monkeypatch):
    """It may name a file of root's, which it would get the text of, and own then."""
    own = pwd.getpwnam("nobody")
    identity = {"user": own.pw_uid, "group": own.pw_gid, "extra_groups": []}
    monkeypatch.setattr(commands, "identity", lambda user: identity)
    secret = tmp_path / "shadow"
    secret.write_text("root:x\n")
    secret.chmod(0o600)
    psql.answer["ident"] = str(secret)
    with pytest.raises(DeploymentError, match=r"^reading how PostgreSQL authenticates: .*Permission denied"):
        POSTGRESQL.query(MAPPED)
    change = Change("pg_ident.conf", "changed", files={str(secret): "blog"})
    with pytest.raises(DeploymentError, match=r"^changing how PostgreSQL authenticates: .*Permission denied"):
        POSTGRESQL.apply(MAPPED, [change])
    assert secret.read_text() == "root:x\n"


def test_password_masked_in_errors(psql):
    setup.apply({"postgres": [WITH_PASSWORD]}, {})
    (hidden,) = psql.options["secrets"]
    assert (
        hidden.startswith("SCRAM-SHA-256$4096:") and hidden in psql.received[-1] and PASSWORD not in psql.received[-1]
    )


def test_dry_run_treats_missing_server_as_empty(psql, tmp_path, monkeypatch):
    monkeypatch.setattr(postgres, "PROGRAMS", tmp_path / "none")
    changes = setup.pending_changes({"postgres": [MAPPED]}, {}, test=True)
    assert [change.item for change in changes["postgres"]] == [
        "role editor",
        "database blog",
        "pg_hba.conf",
        "pg_ident.conf",
    ]
    assert psql.received == []
