"""MariaDB on this host: what a site lacks on it, and how it comes to it."""

import json

import django_database_mariadb
import django_database_server
import django_host_command
import pytest
from django_database import Share
from django_host_command import DeploymentError
from specimen import configured

BLOG = Share("blog", "blog", "default", "django:sites:blog:database", "my_blog", "blog")
WITH_PASSWORD = BLOG._replace(password="sesame 'open'", over_socket=False)
SOCKET = {"access": 0, "plugin": "unix_socket", "authentication_string": ""}
BY_PASSWORD = {
    "access": 0,
    "plugin": "mysql_native_password",
    "authentication_string": django_database_mariadb.verifier("sesame 'open'"),
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
def test_what_a_site_lacks(has, expected):
    lacking = django_database_mariadb.lacks([BLOG], has)
    assert {lack.what: " ".join(lack.statements) for lack in lacking} == expected


@pytest.mark.parametrize(
    ("has", "share", "told"),
    [
        (
            answer({"blog": {**SOCKET, "access": 1}}),
            BLOG,
            "there is a user blog@localhost in MariaDB already, and it may",
        ),
        (answer({"blog": BY_PASSWORD}), BLOG, "there is a user blog@localhost in MariaDB already, and it logs in"),
        (answer({"blog": SOCKET}), WITH_PASSWORD, "and it logs in by other means"),
        (answer({"blog": BY_PASSWORD}, OURS), BLOG, "and it logs in by other means"),
        (answer(databases={"my_blog": ""}), BLOG, "there is a database my_blog in MariaDB already, and blog@localhost"),
        (
            answer({"blog": SOCKET}, {"my_blog": "Django site shop"}, [("shop", "my\\_blog")]),
            BLOG,
            "there is a database my_blog in MariaDB already",
        ),
    ],
)
def test_what_is_somebody_elses_is_refused(has, share, told):
    with pytest.raises(DeploymentError) as error:
        django_database_mariadb.lacks([share], has)
    assert told in error.value.message and error.value.hint


def test_a_password_is_told_as_what_the_server_keeps_of_it():
    assert django_database_mariadb.verifier("password") == "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"
    has = answer({"blog": BY_PASSWORD}, OURS, GRANTS)
    assert django_database_mariadb.lacks([WITH_PASSWORD], has) == []
    (changed,) = django_database_mariadb.lacks([WITH_PASSWORD._replace(password="other")], has)
    kept = django_database_mariadb.verifier("other")
    assert (changed.what, changed.how) == ("user blog", "password changed")
    assert changed.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA mysql_native_password USING '{kept}';"]


def test_a_new_password_is_taken_beside_the_one_that_the_live_release_has():
    has = answer({"blog": BY_PASSWORD}, OURS, GRANTS)
    new = WITH_PASSWORD._replace(live=True, password="new")
    (added,) = django_database_mariadb.lacks([new], has)
    ways = [
        f"mysql_native_password USING '{django_database_mariadb.verifier(text)}'" for text in ("new", "sesame 'open'")
    ]
    assert (added.what, added.how) == ("user blog", "password added")
    assert added.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA {' OR '.join(ways)};"]
    second = {"plugin": "mysql_native_password", "authentication_string": django_database_mariadb.verifier("new")}
    has["users"]["blog"] = {**BY_PASSWORD, "auth_or": [second, {}]}
    assert (
        django_database_mariadb.lacks([new], has)
        == django_database_mariadb.lacks([WITH_PASSWORD._replace(live=True)], has)
        == []
    )
    (taken,) = django_database_mariadb.lacks([new._replace(alone=True)], has)
    assert (taken.what, taken.how) == ("user blog", "former password taken away")
    assert taken.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA {ways[0]};"]
    has["users"]["blog"] = {**BY_PASSWORD, **second, "auth_or": [{}, {"plugin": "unix_socket"}]}
    assert django_database_mariadb.lacks([new._replace(alone=True)], has) == []


def test_another_way_in_is_taken_beside_the_one_that_the_live_release_has():
    has = answer({"blog": SOCKET}, OURS, GRANTS)
    password = f"mysql_native_password USING '{BY_PASSWORD['authentication_string']}'"
    (added,) = django_database_mariadb.lacks([WITH_PASSWORD._replace(live=True)], has)
    assert added.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA {password} OR unix_socket;"]
    has["users"]["blog"] = BY_PASSWORD
    (added,) = django_database_mariadb.lacks([BLOG._replace(live=True)], has)
    assert added.how == "login over the socket added"
    assert added.statements == [f"ALTER USER 'blog'@'localhost' IDENTIFIED VIA unix_socket OR {password};"]


def test_a_way_in_that_is_not_known_is_not_changed_but_another_login_made():
    has = answer({"blog": {**SOCKET, "plugin": "ed25519"}}, OURS, GRANTS)
    live = WITH_PASSWORD._replace(live=True)
    with pytest.raises(DeploymentError, match="the live release uses the login blog as it is"):
        django_database_mariadb.lacks([live], has)
    made = django_database_mariadb.lacks([live._replace(user="blog2")], has)
    assert [lack.what for lack in made] == ["user blog2", "grant blog2 on my_blog"]


def test_two_databases_of_a_site_have_one_login():
    metrics = BLOG._replace(alias="metrics", database="metrics")
    assert [lack.what for lack in django_database_mariadb.lacks([BLOG, metrics], THERE)] == [
        "database metrics",
        "grant blog on metrics",
    ]


def test_what_was_made_for_a_site_is_dropped_and_nothing_else():
    users = dict.fromkeys(("blog", "shop", "reader"), SOCKET)
    databases = {**OURS, "my_blog_before_20260101": "", "my_blogs": "", "shop": "Django site shop", "theirs": ""}
    grants = [*GRANTS, ("shop", "shop"), ("reader", "my\\_blog"), ("reader", "theirs")]
    dropped = django_database_mariadb.belongings(BLOG, answer(users, databases, grants))
    gone = ["DROP USER 'blog'@'localhost';", "DROP DATABASE `my_blog`;", "DROP DATABASE `my_blog_before_20260101`;"]
    assert [lack.statements for lack in dropped] == [[statement] for statement in gone]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client that answers `client.lines`; what it is told lies in `client.told`."""

    class Played:
        lines, told, argv, error = ["zones\t500"], [], [], None

    def run(argv, *, stdin="", **options):
        Played.argv.append(argv)
        Played.told.append(stdin)
        if Played.error:
            raise Played.error
        return "\n".join(Played.lines) if stdin == django_database_mariadb._QUESTION else f"printed by {argv[0]}"

    Played.told, Played.argv = [], []
    monkeypatch.setattr(django_host_command, "run", run)
    monkeypatch.setattr(django_database_mariadb, "PROGRAMS", (tmp_path,))
    monkeypatch.setattr(django_database_mariadb, "ZONES", tmp_path)
    return Played


def test_what_the_server_says_is_read(client):
    client.lines = ["zones\t7", f"user\tblog\t{json.dumps(SOCKET)}", "database\tmy_blog\tDjango site blog"]
    client.lines += ["database\tmysql\t", "grant\tblog\tmy\\_blog"]
    found = django_database_mariadb.ask(BLOG._replace(socket="/run/other.sock"))
    assert found == {"users": {"blog": SOCKET}, "databases": {**OURS, "mysql": ""}, "grants": [GRANT], "zones": 7}
    assert client.argv[0][-1] == "--socket=/run/other.sock"


def test_a_server_without_time_zones_gets_them(client):
    client.lines = ["zones\t0"]
    django_database_server.make({"mysql": [BLOG]}, {})
    assert client.told[1].replace("\n", " ") == " ".join(NEW.values())
    assert client.argv[2][0] == "mariadb-tzinfo-to-sql"
    assert (client.argv[3][-1], client.told[3]) == ("mysql", "printed by mariadb-tzinfo-to-sql")


def test_a_server_that_is_mysql_is_not_set_up(client):
    client.error = DeploymentError("asking MariaDB failed", log="Table 'mysql.global_priv' doesn't exist")
    with pytest.raises(DeploymentError, match="the server on this host is MySQL, not MariaDB") as error:
        django_database_mariadb.ask(BLOG)
    assert "django:sites:blog:database:manage: false" in error.value.hint
    client.error = DeploymentError("asking MariaDB failed", log="Access denied")
    with pytest.raises(DeploymentError, match="asking MariaDB failed"):
        django_database_mariadb.ask(BLOG)


def test_what_belongs_to_a_site_on_its_servers(client):
    client.lines = ["zones\t7", "database\tmy_blog\tDjango site blog"]
    site = configured(database={"engine": "mysql", "name": "my_blog"})
    assert [lack.what for lack in django_database_server.belongings(site)["mysql"]] == ["database my_blog"]
    django_database_server.drop(site)
    assert client.told[-1] == "DROP DATABASE `my_blog`;"
    assert django_database_server.belongings(configured(database={"engine": "mysql", "host": "db1"})) == {}
