"""PostgreSQL on this host: what a site lacks on it, and how it comes to it."""

import json
from pathlib import Path

import django_database
import django_database_postgres
import django_database_server
import django_host_command
import pytest
from django_database import Share
from django_host_command import DeploymentError
from specimen import configured

BLOG = Share("blog", "blog", "default", "django:sites:blog:database", "blog", "blog", "blog_2")
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


def role(mark="Django site blog", login=True, rights=False, verifier=None, of=None):
    return {"mark": mark, "login": login, "rights": rights, "verifier": verifier, "of": of}


def database(owner="blog", mark="Django site blog", open=False):
    return {"owner": owner, "mark": mark, "open": open, "acts": None}


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
        (answer({"blog": role(mark=None)}, {"blog": database(mark=None, open=True)}), {}),
        (answer({"blog": role(rights=True)}, {"blog": database()}), {}),
        (
            answer({"blog": role()}, {"blog": database(mark=None, open=True)}),
            {"database blog": ("closed to others", [CLOSED])},
        ),
        (
            answer({"blog": role(mark=None)}, {"blog": database(open=True)}),
            {"database blog": ("closed to others", [CLOSED])},
        ),
    ],
)
def test_what_a_site_lacks(has, expected):
    lacking = django_database_postgres.lacks([BLOG], has)
    assert {lack.what: (lack.how, list(lack.statements)) for lack in lacking} == expected


@pytest.mark.parametrize(
    ("has", "share", "told"),
    [
        (
            answer({"blog": role(mark=None, login=False)}),
            BLOG,
            "there is a role blog in PostgreSQL already, and it cannot",
        ),
        (answer({"blog": role(mark="DBA", rights=True)}), BLOG, "may do more on this server than own a database"),
        (answer({"blog": role(mark=None)}), WITH_PASSWORD, "already, with another password"),
        (
            answer({"blog": role()}, {"blog": database(owner="ray")}),
            BLOG,
            "there is a database blog in PostgreSQL already, and ray owns it",
        ),
        (answer(databases={"blog": database(owner="ray")}), BLOG, "and ray owns it"),
    ],
)
def test_what_is_somebody_elses_is_refused(has, share, told):
    with pytest.raises(DeploymentError) as error:
        django_database_postgres.lacks([share], has)
    assert told in error.value.message and "django:sites:blog:database:" in error.value.hint


def test_a_password_is_told_as_what_the_server_keeps_of_it():
    (new, _database) = django_database_postgres.lacks([WITH_PASSWORD], answer())
    assert PASSWORD not in str(new) and "PASSWORD 'SCRAM-SHA-256$4096:" in new.statements[0]
    kept = django_database_postgres.verifier(PASSWORD)
    assert not django_database_postgres.lacks(
        [WITH_PASSWORD], answer({"blog": role(verifier=kept)}, {"blog": database()})
    )
    other = answer({"blog": role(verifier=django_database_postgres.verifier("other"))}, {"blog": database()})
    (changed,) = django_database_postgres.lacks([WITH_PASSWORD], other)
    assert (changed.what, changed.how) == ("role blog", "password changed")
    assert changed.statements[0].startswith('ALTER ROLE "blog" PASSWORD \'SCRAM-SHA-256$')


def test_a_verifier_is_that_of_postgresql():
    """Of the password and the salt of RFC 7677's example; and as servers before PostgreSQL 14 keep it."""
    made = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert django_database_postgres.verifier("pencil", b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81") == made
    assert django_database_postgres.fits(made, "pencil", "blog") and not django_database_postgres.fits(
        made, "pen", "blog"
    )
    assert django_database_postgres.fits("md5", "x", "blog") is False
    assert django_database_postgres.fits("md5dcfc1c3638fb838ce4c701460fa35511", "pencil", "vm")
    assert not django_database_postgres.fits("md5dcfc1c3638fb838ce4c701460fa35511", "pencil", "blog")


def test_a_login_of_another_name_is_told_to_the_server():
    role_and_database = answer({"editor": role()}, {"blog": database(owner="editor")})
    hba, ident = django_database_postgres.lacks([MAPPED], role_and_database)
    assert (hba.what, ident.what) == ("pg_hba.conf", "pg_ident.conf")
    (text,), (names,) = hba.files.values(), ident.files.values()
    block = '# django-formula: blog\nlocal all "editor" peer map=django-blog\n# django-formula: end of blog\n'
    assert text == block + HBA
    assert names == '# django-formula: blog\ndjango-blog "blog" "editor"\n# django-formula: end of blog\n'
    told = {**role_and_database, "texts": {"hba": text, "ident": names}}
    assert django_database_postgres.lacks([MAPPED], told) == []
    unread = {**told, "unread": ["hba"]}
    assert [lack.what for lack in django_database_postgres.lacks([MAPPED], unread)] == ["pg_hba.conf"]
    back = {**THERE, "texts": told["texts"]}
    assert [list(lack.files.values()) for lack in django_database_postgres.lacks([BLOG], back)] == [[HBA], [""]]


def test_a_login_that_is_left_gets_in_until_the_role_is_gone():
    server = answer({"editor": role(), "keeper": role(of=["editor"])}, {"blog": database(owner="editor")})
    server["databases"]["blog"]["acts"] = {"keeper": "role=editor"}
    first = django_database_postgres.lacks([MAPPED], server)
    server["texts"] = dict(zip(("hba", "ident"), (next(iter(lack.files.values())) for lack in first), strict=True))
    second = django_database_postgres.lacks([MAPPED._replace(user="keeper", other="keeper_2")], server)
    texts = [next(iter(lack.files.values())) for lack in second]
    assert 'local all "keeper" peer map=django-blog\nlocal all "editor" peer map=django-blog\n#' in texts[0]
    assert 'django-blog "blog" "keeper"\ndjango-blog "blog" "editor"\n#' in texts[1]
    server["texts"] = dict(zip(("hba", "ident"), texts, strict=True))
    assert django_database_postgres.lacks([MAPPED._replace(user="keeper", other="keeper_2")], server) == []
    del server["roles"]["editor"]
    server["databases"]["blog"]["owner"] = "keeper"
    third = django_database_postgres.lacks([MAPPED._replace(user="keeper", other="keeper_2")], server)
    assert [text.count("editor") for lack in third for text in lack.files.values()] == [0, 0]


def test_a_password_over_the_socket_is_asked_for():
    share = BLOG._replace(password=PASSWORD)
    has = answer({"blog": role(verifier=django_database_postgres.verifier(PASSWORD))}, {"blog": database()})
    (hba,) = django_database_postgres.lacks([share], has)
    assert 'local all "blog" scram-sha-256\n' in next(iter(hba.files.values()))


def test_the_way_in_of_a_live_release_is_not_changed_but_another_login_made():
    live, kept = WITH_PASSWORD._replace(live=True), django_database_postgres.verifier("former")
    has = answer({"blog": role(verifier=kept)}, {"blog": database()})
    by_socket = BLOG._replace(live=True, password=PASSWORD)
    with pytest.raises(DeploymentError, match="the live release uses the login blog as it is") as error:
        django_database_postgres.lacks([by_socket], answer({"blog": role()}, {"blog": database()}))
    assert "django:sites:blog:database:user: blog2" in error.value.hint
    first = answer({"blog": role()}, {"blog": database()})
    assert [lack.how for lack in django_database_postgres.lacks([live], first)] == ["password changed"]
    second = live._replace(user="blog2")
    new, member = django_database_postgres.lacks([second], has)
    assert (new.what, member.what, member.how) == ("role blog2", "membership of blog2", "of blog")
    assert member.statements == [
        'BEGIN; GRANT "blog" TO "blog2"; ALTER ROLE "blog2" IN DATABASE "blog" SET role = \'blog\'; COMMIT;'
    ]
    has["roles"]["blog2"] = role(verifier=django_database_postgres.verifier(PASSWORD), of=["blog"])
    assert [lack.what for lack in django_database_postgres.lacks([second], has)] == ["membership of blog2"]
    has["databases"]["blog"]["acts"] = {"blog2": "role=blog"}
    assert django_database_postgres.lacks([second], has) == []


def test_a_new_password_comes_with_the_other_login_of_the_pair():
    former, new = (django_database_postgres.verifier(text) for text in ("former", PASSWORD))
    share = WITH_PASSWORD._replace(live=True)
    has = answer({"blog": role(verifier=former)}, {"blog": database()})
    assert django_database_postgres.login(share, has) == "blog_2"
    assert django_database_postgres.login(share._replace(password="former"), has) == "blog"
    assert django_database_postgres.login(share._replace(live=False), has) == "blog"
    second = share._replace(user="blog_2", other="blog")
    made, member = django_database_postgres.lacks([second], has)
    assert (made.what, made.how, member.what) == ("role blog_2", "new", "membership of blog_2")
    has["roles"]["blog_2"] = role(verifier=new, of=["blog"])
    has["databases"]["blog"]["acts"] = {"blog_2": "role=blog"}
    assert django_database_postgres.login(share, has) == django_database_postgres.login(second, has) == "blog_2"
    assert django_database_postgres.lacks([second], has) == []
    (closed,) = django_database_postgres.lacks([second._replace(alone=True)], has)
    assert (closed.what, closed.how) == ("role blog", "password taken away")
    assert closed.statements == ['ALTER ROLE "blog" PASSWORD NULL;']
    has["roles"]["blog"] = role()
    assert django_database_postgres.lacks([second._replace(alone=True)], has) == []
    third = second._replace(password="third")
    assert django_database_postgres.login(third, has) == "blog"
    (changed,) = django_database_postgres.lacks([third._replace(user="blog", other="blog_2")], has)
    assert (changed.what, changed.how) == ("role blog", "password changed")


def test_another_database_may_have_the_second_login_for_its_own():
    share = WITH_PASSWORD._replace(live=True, alone=True)
    metrics = share._replace(alias="metrics", database="metrics", user="blog_2", other="blog_2_2")
    kept = django_database_postgres.verifier(PASSWORD)
    databases = {"blog": database(), "metrics": database(owner="blog_2")}
    has = answer({"blog": role(verifier=kept), "blog_2": role(verifier=kept)}, databases)
    assert django_database_postgres.lacks([share, metrics], has) == []
    asked = {("postgres", "", 5432): has}
    with pytest.raises(DeploymentError, match="the live release uses the login blog as it is"):
        django_database_server.logins({"postgres": [share._replace(password="new"), metrics]}, asked)
    assert django_database_server.logins({"postgres": [share, metrics]}, asked) == {
        "default": "blog",
        "metrics": "blog_2",
    }


def test_a_login_over_the_socket_is_let_in_by_either_name():
    share = BLOG._replace(password=PASSWORD, live=True)
    new = answer({}, {})
    hba = django_database_postgres.lacks([share], new)[-1]
    text = next(iter(hba.files.values()))
    assert 'local all "blog" scram-sha-256\nlocal all "blog_2" scram-sha-256\n' in text
    has = answer({"blog": role(verifier=django_database_postgres.verifier("former"))}, {"blog": database()}, hba=text)
    second = share._replace(user="blog_2", other="blog")
    assert [lack.what for lack in django_database_postgres.lacks([second], has)] == [
        "role blog_2",
        "membership of blog_2",
    ]


def test_what_was_made_for_a_site_is_dropped_and_nothing_else():
    roles = {"blog": role(), "shop": role(mark="Django site shop"), "ray": role(mark=None)}
    databases = {
        "blog": database(),
        "metrics": database(mark=None),
        "theirs": database(owner="ray", mark=None),
        "shop": database("shop", "Django site shop"),
    }
    block = "# django-formula: blog\nlocal x\n# django-formula: end of blog\n"
    dropped = django_database_postgres.belongings(BLOG, answer(roles, databases, hba=block + HBA))
    assert [lack.what for lack in dropped] == ["database blog", "database metrics", "role blog", "pg_hba.conf"]
    assert dropped[0].statements == ['DROP DATABASE "blog" WITH (FORCE);']
    assert list(dropped[-1].files.values()) == [HBA]


@pytest.fixture
def psql(tmp_path, monkeypatch):
    """A psql that answers `psql.answer`; what it is told lies in `psql.told`."""

    class Played:
        answer, told, argv, options = answer(), [], [], {}

    def run(argv, *, stdin, **options):
        Played.argv, Played.options = argv, options
        Played.told.append(stdin)
        asked = stdin == django_database_postgres._QUESTION
        return json.dumps({**Played.answer, "loaded": 5e9}) if asked else ""

    Played.told = []
    monkeypatch.setattr(django_host_command, "run", run)
    monkeypatch.setattr(django_database_postgres, "PROGRAMS", tmp_path)
    for version in ("9.6", "15", "17"):
        (tmp_path / version / "bin").mkdir(parents=True)
        for program in ("psql", "postgres"):
            (tmp_path / version / "bin" / program).touch()
    hba = tmp_path / "pg_hba.conf"
    hba.write_text(HBA)
    Played.answer = {**answer(), "hba": str(hba), "ident": str(tmp_path / "pg_ident.conf")}
    return Played


def test_the_newest_psql_is_asked_as_the_servers_own_user(psql, tmp_path):
    found = django_database_postgres.ask(BLOG._replace(socket="/run/other", port=5433))
    assert psql.argv[0] == str(tmp_path / "17/bin/psql")
    assert psql.argv[-2:] == ["--port=5433", "--host=/run/other"] and psql.options["user"] == "postgres"
    assert found["texts"] == {"hba": HBA, "ident": ""} and found["unread"] == []


def test_sites_of_a_server_ask_it_once_and_see_what_has_been_made(psql):
    asked = {}
    shop = BLOG._replace(site="shop", database="shop", user="shop", system_user="shop")
    for share in (BLOG, shop):
        assert list(django_database_server.lacks({"postgres": [share]}, asked)) == ["postgres"]
    assert psql.told == [django_database_postgres._QUESTION]
    django_database_server.make({"postgres": [BLOG]}, asked)
    assert psql.told[1:] == ["\n".join([NEW_ROLE, *NEW_DATABASE])] and asked == {}


def test_one_server_is_one_however_it_is_said(psql):
    asked = {}
    first = configured(database={"engine": "postgres"})
    second = configured(database={"engine": "postgres", "host": "/run/postgresql", "port": 5432, "manage": True})
    for site in (first, second):
        django_database_server.lacks(django_database.shares(site, {}), asked)
    assert len(psql.told) == 1
    other = configured(database={"engine": "postgres", "port": 5433})
    django_database_server.lacks(django_database.shares(other, {}), asked)
    assert len(psql.told) == 2 and psql.argv[-1] == "--port=5433"


def test_files_are_written_before_the_server_reads_them_anew(psql):
    psql.answer |= {"roles": {"editor": role()}, "databases": {"blog": database(owner="editor")}}
    django_database_server.make({"postgres": [MAPPED]}, {})
    assert psql.told[1:] == ["SELECT pg_reload_conf();"]
    assert Path(psql.answer["hba"]).read_text().startswith("# django-formula: blog\nlocal")


def test_the_password_of_a_statement_is_masked_in_errors(psql):
    django_database_server.make({"postgres": [WITH_PASSWORD]}, {})
    (hidden,) = psql.options["secrets"]
    assert hidden.startswith("SCRAM-SHA-256$4096:") and hidden in psql.told[-1] and PASSWORD not in psql.told[-1]


def test_a_dry_run_takes_a_server_that_is_not_there_for_an_empty_one(psql, tmp_path, monkeypatch):
    monkeypatch.setattr(django_database_postgres, "PROGRAMS", tmp_path / "none")
    lacking = django_database_server.lacks({"postgres": [MAPPED]}, {}, test=True)
    assert [lack.what for lack in lacking["postgres"]] == [
        "role editor",
        "database blog",
        "pg_hba.conf",
        "pg_ident.conf",
    ]
    assert psql.told == []
