"""MariaDB on this host: what a site lacks on it, and how it comes to it."""

import json
import re

import pytest
from django_formula.backup import loading
from django_formula.backup.dumps import Database
from django_formula.database import engines, mariadb, setup
from django_formula.database.server import ManagedDatabase
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from specimen import compiled, configured, three_keys

MARIADB = setup.SERVERS["mysql"]
BLOG = ManagedDatabase("blog", "blog", "default", "django:sites:blog:database", "my_blog", "blog")
WITH_PASSWORD = BLOG._replace(password="sesame 'open'", over_socket=False)
SOCKET = {"access": 0, "plugin": "unix_socket", "authentication_string": ""}
BY_PASSWORD = {
    "access": 0,
    "plugin": "mysql_native_password",
    "authentication_string": engines.mariadb_verifier("sesame 'open'"),
}
NEW = {
    "database my_blog": "CREATE DATABASE `my_blog` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci "
    "COMMENT 'Django site blog';",
    "user blog": "CREATE USER 'blog'@'localhost' IDENTIFIED VIA unix_socket;",
    "grant blog on my_blog": " ".join(
        f"GRANT ALL PRIVILEGES ON `my\\_blog{copy}`.* TO 'blog'@'localhost';"
        for copy in ("", "\\_restore\\_%", "\\_before\\_%", "\\_drill\\_%")
    ),
}


def answer(users=None, databases=None, grants=(), zones=500):
    return {"users": users or {}, "databases": databases or {}, "grants": list(grants), "zones": zones}


OURS = {"my_blog": "Django site blog"}
GRANT = ("blog", "my\\_blog")
GRANTS = [GRANT, *(("blog", f"my\\_blog\\_{why}\\_%") for why in ("restore", "before", "drill"))]
THERE = answer({"blog": SOCKET}, OURS, GRANTS)


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        (answer(), NEW),
        (answer(databases=OURS), {what: NEW[what] for what in list(NEW)[1:]}),
        (answer({"blog": SOCKET}, OURS), {what: NEW[what] for what in list(NEW)[2:]}),
        (answer({"blog": SOCKET}), {what: NEW[what] for what in list(NEW) if "user" not in what}),
        (THERE, {}),
        (answer({"blog": SOCKET}, {"my_blog": ""}, [("blog", "my_blog")]), {}),
        (answer({"blog": {**SOCKET, "access": 5}}, OURS, GRANTS), {}),
        (
            answer({"blog": {**BY_PASSWORD, "auth_or": [{}, {"plugin": "unix_socket"}]}}, OURS, GRANTS),
            {},
        ),
        (
            answer({"blog": BY_PASSWORD}, OURS, GRANTS),
            {"user blog": "ALTER USER 'blog'@'localhost' IDENTIFIED VIA unix_socket;"},
        ),
    ],
)
def test_pending_changes_by_state(has, expected):
    changes = MARIADB.pending_changes([BLOG], has)
    assert {change.item: " ".join(change.statements) for change in changes} == expected


@pytest.mark.parametrize(
    ("has", "managed", "told"),
    [
        (
            answer({"blog": {**SOCKET, "access": 1}}),
            BLOG,
            "MariaDB already has a user blog@localhost, and it has rights",
        ),
        (
            answer({"blog": BY_PASSWORD}),
            BLOG,
            "MariaDB already has a user blog@localhost, with another password or authentication",
        ),
        (answer({"blog": SOCKET}), WITH_PASSWORD, "with another password or authentication"),
        (answer({"blog": BY_PASSWORD}, OURS), BLOG, "with another password or authentication"),
        (
            answer(databases={"my_blog": ""}),
            BLOG,
            "MariaDB already has a database my_blog, and blog@localhost has no rights",
        ),
        (
            answer({"blog": SOCKET}, {"my_blog": "Django site shop"}, [("shop", "my\\_blog")]),
            BLOG,
            "MariaDB already has a database my_blog",
        ),
    ],
)
def test_item_of_another_owner_refused(has, managed, told):
    with pytest.raises(DeploymentError) as error:
        MARIADB.pending_changes([managed], has)
    assert told in error.value.message and error.value.hint


@pytest.mark.parametrize("has", [answer({"blog": BY_PASSWORD}), answer({"blog": {**SOCKET, "access": 1}})])
def test_hint_for_another_login_is_accepted_by_the_pillar(has):
    with pytest.raises(DeploymentError) as error:
        MARIADB.pending_changes([BLOG], has)
    assert "user to another name and django:sites:blog:database:password to one for it" in error.value.hint
    for more, errors in (({"password": "of-its-own"}, 0), ({}, 1)):
        pillar = {"engine": "mysql", "user": "other", **more}
        found = compiled({"blog": {**three_keys("blog"), "database": pillar}})["errors"]
        assert len(found) == errors, found


def test_password_sent_as_hash():
    assert engines.mariadb_verifier("password") == "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"
    has = answer({"blog": BY_PASSWORD}, OURS, GRANTS)
    assert MARIADB.pending_changes([WITH_PASSWORD], has) == []
    (changed,) = MARIADB.pending_changes([WITH_PASSWORD._replace(password="other")], has)
    kept = engines.mariadb_verifier("other")
    assert (changed.item, changed.action) == ("user blog", "password changed")
    assert changed.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA mysql_native_password USING '{kept}';"]


def test_new_password_added_to_active_one():
    has = answer({"blog": BY_PASSWORD}, OURS, GRANTS)
    new = WITH_PASSWORD._replace(has_active_release=True, password="new")
    (added,) = MARIADB.pending_changes([new], has)
    ways = [f"mysql_native_password USING '{engines.mariadb_verifier(text)}'" for text in ("new", "sesame 'open'")]
    assert (added.item, added.action) == ("user blog", "password added")
    assert added.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA {' OR '.join(ways)};"]
    second = {"plugin": "mysql_native_password", "authentication_string": engines.mariadb_verifier("new")}
    has["users"]["blog"] = {**BY_PASSWORD, "auth_or": [second, {}]}
    assert (
        MARIADB.pending_changes([new], has)
        == MARIADB.pending_changes([WITH_PASSWORD._replace(has_active_release=True)], has)
        == []
    )
    (taken,) = MARIADB.pending_changes([new._replace(is_password_active=True)], has)
    assert (taken.item, taken.action) == ("user blog", "former password removed")
    assert taken.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA {ways[0]};"]
    has["users"]["blog"] = {**BY_PASSWORD, **second, "auth_or": [{}, {"plugin": "unix_socket"}]}
    assert MARIADB.pending_changes([new._replace(is_password_active=True)], has) == []


def test_new_authentication_added_to_active_one():
    has = answer({"blog": SOCKET}, OURS, GRANTS)
    password = f"mysql_native_password USING '{BY_PASSWORD['authentication_string']}'"
    (added,) = MARIADB.pending_changes([WITH_PASSWORD._replace(has_active_release=True)], has)
    assert added.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA {password} OR unix_socket;"]
    has["users"]["blog"] = BY_PASSWORD
    (added,) = MARIADB.pending_changes([BLOG._replace(has_active_release=True)], has)
    assert added.action == "login over the socket added"
    assert added.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA unix_socket OR {password};"]


def test_unknown_authentication_kept_and_new_login_made():
    has = answer({"blog": {**SOCKET, "plugin": "ed25519"}}, OURS, GRANTS)
    live = WITH_PASSWORD._replace(has_active_release=True)
    with pytest.raises(DeploymentError, match="the login blog cannot be changed: the active release uses it"):
        MARIADB.pending_changes([live], has)
    made = MARIADB.pending_changes([live._replace(user="blog2")], has)
    assert [change.item for change in made] == ["user blog2", "grant blog2 on my_blog"]


def test_databases_of_a_site_share_login():
    metrics = BLOG._replace(alias="metrics", database="metrics")
    assert [change.item for change in MARIADB.pending_changes([BLOG, metrics], THERE)] == [
        "database metrics",
        "grant blog on metrics",
    ]


def test_removals_drop_only_own_items():
    users = dict.fromkeys(("blog", "shop", "reader"), SOCKET)
    databases = {**OURS, "my_blog_before_20260101": "", "my_blogs": "", "shop": "Django site shop", "theirs": ""}
    databases |= {"my_blog_before_tax": "", "my_blog_drill_20260101t120000": "of others", "my_blog_restore_tests": ""}
    grants = [*GRANTS, ("shop", "shop"), ("reader", "my\\_blog"), ("reader", "theirs")]
    dropped = MARIADB.removals(BLOG, answer(users, databases, grants))
    gone = ["DROP USER 'blog'@'localhost';", "DROP DATABASE `my_blog`;", "DROP DATABASE `my_blog_before_20260101`;"]
    assert [change.statements for change in dropped] == [[statement] for statement in gone]


def test_copies_of_another_database_are_neither_dropped_nor_granted():
    """Where the names of both begin alike, and are so long that those of copies have only a part of them."""
    start = "accounting_of_the_department_of_printing"
    books, wages = (BLOG._replace(database=f"{start}_{end}") for end in ("books", "wages"))
    databases = [Database(None, one.database, "mysql", one.database) for one in (books, wages)]
    copies = loading.names_with(databases, "before_20260301t120000")
    there = {books.database: "Django site blog", **dict.fromkeys(copies.values(), "")}
    dropped = [one.statements for one in MARIADB.removals(books, answer({"blog": SOCKET}, there))]
    gone = (books.database, copies[books.database])
    assert dropped == [[f"DROP DATABASE `{name}`;"] for name in gone]
    patterns = [[*mariadb._patterns(one, answer())] for one in (books, wages)]
    assert not {*patterns[0]} & {*patterns[1]}


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client that answers with `client.rows` by their kinds; its input is in `client.received`."""

    class Played:
        rows, received, argv, error, hidden = {"zones": [("500",)]}, [], [], None, []

        @classmethod
        def answer(cls, statements):
            """Return what a server prints: each column as it is, or in hexadecimal digits where a statement has so."""
            for kind, columns in re.findall(r"SELECT '(\w+)', (.*?)(?: FROM .*)?;", statements):
                hexed = [one.startswith("HEX(") for one in re.findall(r"(?:\w+\([^)]*\)+|[^,( ])+", columns)]
                for row in cls.rows.get(kind, ()):
                    texts = [
                        one.encode().hex().upper() if is_hex else one for one, is_hex in zip(row, hexed, strict=False)
                    ]
                    yield "\t".join([kind, *texts])

    def run(argv, *, stdin="", secrets=(), **options):
        Played.argv.append(argv)
        Played.hidden += secrets
        Played.received.append(stdin)
        if Played.error:
            raise Played.error
        return "\n".join(Played.answer(stdin)) if stdin == mariadb._STATE else f"printed by {argv[0]}"

    Played.received, Played.argv, Played.hidden = [], [], []
    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(mariadb, "PROGRAMS", (tmp_path,))
    monkeypatch.setattr(mariadb, "ZONES", tmp_path)
    return Played


def test_state_of_mariadb_parsed(client):
    client.rows = {
        "zones": [("7",)],
        "user": [("blog", json.dumps(SOCKET))],
        "database": [("my_blog", "Django site blog"), ("mysql", "")],
        "grant": [("blog", "my\\_blog")],
        "account": [("blog@10.0.0.1", json.dumps(BY_PASSWORD))],
        "right": [("blog@10.0.0.1", "my\\_blog")],
        "variable": [("bind", "127.0.0.1")],
    }
    found = MARIADB.query(BLOG._replace(socket="/run/other.sock"))
    assert found == {
        **{"users": {"blog": SOCKET}, "databases": {**OURS, "mysql": ""}, "grants": [GRANT], "zones": 7},
        "accounts": {"blog@10.0.0.1": BY_PASSWORD},
        "rights": [("blog@10.0.0.1", "my\\_blog")],
        "variables": {"bind": "127.0.0.1"},
    }
    assert client.argv[0][-1] == "--socket=/run/other.sock"


@pytest.mark.parametrize("text", ["one\ntwo", "one\ndatabase\tmysql\tDjango site blog", "a\tb", "caf\u00e9\u2028\x0c"])
def test_comments_and_names_of_others_are_no_rows_of_the_state(client, text):
    """A site's login may give its databases any comment, and those that its backups are loaded into any such name."""
    databases = [("my_blog", "Django site blog"), ("shop", text), (f"shop_restore_{text}", "")]
    client.rows = {"zones": [("7",)], "database": databases}
    assert MARIADB.query(BLOG)["databases"] == dict(databases)


def test_what_the_server_keeps_of_a_password_is_masked_in_its_errors(client):
    """It quotes the statement that it does not read."""
    setup.apply({"mysql": [WITH_PASSWORD]}, {})
    assert client.hidden == [engines.mariadb_verifier(WITH_PASSWORD.password)]


def test_time_zones_loaded_when_missing(client):
    client.rows = {"zones": [("0",)]}
    setup.apply({"mysql": [BLOG]}, {})
    assert client.received[1].replace("\n", " ") == " ".join(NEW.values())
    assert client.argv[2][0] == "mariadb-tzinfo-to-sql"
    assert (client.argv[3][-1], client.received[3]) == ("mysql", "printed by mariadb-tzinfo-to-sql")


def test_mysql_server_not_set_up(client):
    client.error = DeploymentError("querying MariaDB failed", log="Table 'mysql.global_priv' doesn't exist")
    with pytest.raises(DeploymentError, match="the server on this host is MySQL, not MariaDB") as error:
        MARIADB.query(BLOG)
    assert "django:sites:blog:database:manage: false" in error.value.hint
    client.error = DeploymentError("querying MariaDB failed", log="Access denied")
    with pytest.raises(DeploymentError, match="querying MariaDB failed"):
        MARIADB.query(BLOG)


def test_removals_of_a_site_on_its_servers(client):
    client.rows = {"zones": [("7",)], "database": [("my_blog", "Django site blog")]}
    site = configured(database={"engine": "mysql", "name": "my_blog"})
    assert [change.item for change in setup.removals(site)["mysql"]] == ["database my_blog"]
    setup.drop(site)
    assert client.received[-1] == "DROP DATABASE `my_blog`;"
    assert setup.removals(configured(database={"engine": "mysql", "host": "db1"})) == {}


@pytest.mark.parametrize(
    ("other", "item"),
    [
        ({"engine": "mysql", "name": "my_blog", "user": "paper"}, "database my_blog"),
        ({"engine": "mysql", "name": "my_blog", "user": "paper", "host": "localhost"}, "database my_blog"),
        ({"engine": "mysql", "name": "paper", "user": "blog", "password": "sesame-open"}, "user blog"),
        ({"engine": "mysql", "name": "my_blog", "user": "paper", "host": "db1"}, ""),
        ({"engine": "mysql"}, ""),
        ({"engine": "postgres", "name": "my_blog"}, ""),
    ],
)
def test_database_of_a_removed_site_that_another_one_uses_is_kept(client, monkeypatch, other, item):
    """Such as the site under its new name, which has kept the database of the former one."""
    client.rows["database"] = [("my_blog", "Django site blog")]
    client.rows["grant"], client.rows["user"] = [("blog", "my\\_blog")], [("blog", json.dumps(SOCKET))]
    site = configured(database={"engine": "mysql", "name": "my_blog"})
    others = {"blog": site, "paper": configured("paper", database={"password": "x", **other} if item else other)}
    monkeypatch.setattr(setup.sites, "registered", lambda: [*others, "damaged"])
    monkeypatch.setattr(setup.sites, "find", lambda name: others.get(name) or damaged(name))
    if not item:
        assert [change.item for change in setup.removals(site)["mysql"]] == ["user blog", "database my_blog"]
        return
    for function in (setup.removals, setup.drop):
        with pytest.raises(DeploymentError) as error:
            function(site)
        assert error.value.message == f"{item} is used by the site paper, and remove_data of blog would drop it"
        assert error.value.hint == "set django:sites:blog:remove_data to false, which keeps it"
    assert not [text for text in client.received if "DROP" in text]


def damaged(name):
    raise DeploymentError(f"site.json of {name} is damaged")
