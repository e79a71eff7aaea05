import contextlib
import sqlite3

import pytest
from django_formula.database import databases


def record(number, applied, pending=(), **more):
    facts = {"migrations": {"default": {"applied": list(applied), "pending": list(pending)}}}
    return {"name": f"{number:04}-aaaaaaaaaaaa", "facts": facts, **more}


def fits(site, *records):
    """What is said of each release."""
    has = databases.applied_migrations(site, records)
    return [databases.schema_status(one, records, has) for one in records]


SCHEMA = {
    "default": [{"name": "blog.2", "class": "safe"}, {"name": "blog.3", "class": "breaking"}],
}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record(1, ["blog.1"]), record(2, ["blog.1"])], ["fits", "fits"]),
        ([record(1, ["blog.1"]), record(2, ["blog.1", "blog.2"])], ["database has 1 migration more", "fits"]),
        (
            [record(1, ["blog.1"]), record(2, ["blog.1", "blog.2"], schema=SCHEMA)],
            ["fits; database has 1 migration more (all safe)", "fits"],
        ),
        (
            [record(1, ["blog.1"]), record(2, ["blog.1", "blog.2", "blog.3"], schema=SCHEMA)],
            ["database has 2 migrations more (blog.3: breaking)", "fits"],
        ),
        ([record(1, ["blog.1"]), record(2, ["blog.1"], ["blog.2"])], ["fits", "missing in the database: 1 migration"]),
        # squashed: the old ones are no news, and no loss
        (
            [record(1, ["blog.1", "blog.2"]), record(2, ["blog.1_squashed_2"])],
            ["database has 1 migration more", "fits"],
        ),
        ([{"name": "0001-aaaaaaaaaaaa", "state": "failed"}, record(2, ["blog.1"])], ["", "fits"]),
        ([{"name": "0001-aaaaaaaaaaaa", "facts": {"migrations": {}}}], [""]),
    ],
)
def test_schema_status(make_site, records, expected):
    assert fits(make_site(), *records) == expected


def test_schema_status_reads_sqlite_file(make_site):
    site = make_site()
    path = site.database.top / "db.sqlite3"
    records = [record(1, ["blog.1"]), record(2, ["blog.1", "blog.2"])]
    for one in records:
        one["facts"] |= {"folder": ".", "databases": {"default": {"engine": "sqlite3", "name": str(path)}}}
    assert fits(site, *records) == ["database has 1 migration more", "fits"]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE django_migrations (app, name)")
        connection.execute("INSERT INTO django_migrations VALUES ('blog', '1')")
    assert fits(site, *records) == ["fits", "missing in the database: 1 migration"]


def test_schema_status_after_change_of_engine(make_site):
    """The file that an older release has used says nothing of the server that the live one uses, nor the other way."""
    site = make_site()
    path = site.database.top / "db.sqlite3"
    records = [record(1, ["blog.1"]), record(2, ["blog.1", "blog.2"]), record(3, ["blog.1", "blog.2"], ["blog.3"])]
    for one in records[:1]:
        one["facts"] |= {"folder": ".", "databases": {"default": {"engine": "sqlite3", "name": str(path)}}}
    for one in records[1:]:
        one["facts"] |= {"folder": ".", "databases": {"default": {"engine": "postgresql", "name": "blog"}}}
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE django_migrations (app, name)")
        connection.execute("INSERT INTO django_migrations VALUES ('blog', '1')")
    assert fits(site, *records) == ["fits", "fits", "missing in the database: 1 migration"]
