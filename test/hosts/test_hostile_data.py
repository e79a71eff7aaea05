"""A site's own user replaces its SQLite file by something else: no command of root's waits for it, or grows."""

import time

import pytest
from conftest import live_site
from products import shortened
from sites import Site

pytestmark = pytest.mark.full


#: The most that root's process may take of the memory, in kB, and the seconds of a command.
MEMORY, PATIENCE = 300_000, 60
#: Seconds after which no thread of the server still has the other file open: its connections are kept for 60 s.
KEPT = 90
#: Runs a command, and says last how much memory it and its children took at most.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
ENDLESS = """
import sqlite3
connection = sqlite3.connect("/srv/django/blog/database/db.sqlite3")
numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 1 AS id, 'a' AS app, x AS name FROM n"
connection.execute(f"CREATE VIEW django_migrations AS {numbers}")
connection.commit()
"""
HOSTILE = {
    "a FIFO": "mkfifo db.sqlite3",
    "a device": "ln -s /dev/zero db.sqlite3",
    "a link to root's": "ln -s /root/secret db.sqlite3",
    "an endless view": f"python3 - <<'EOF'\n{ENDLESS}\nEOF",
}


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    return live_site(module_hosts, repositories, migrate={"timeout": "20s"}, timeouts={"start": "20s"})


@pytest.fixture(params=shortened(HOSTILE, "an endless view"))
def hostile(blog, request):
    """The site's user replaces its database; afterwards it is as before."""
    folder = f"{blog.root}/database"
    blog.host.run(f"cd {folder} && mkdir aside && mv db.sqlite3* aside/ && {HOSTILE[request.param]}", user="blog")
    yield blog
    blog.host.run(f"cd {folder} && rm -f db.sqlite3* && mv aside/* . && rmdir aside", user="blog")


@pytest.mark.parametrize(
    "command",
    shortened(
        ("django.status blog", "django.releases blog", "state.apply django", "django.backup blog"),
        "state.apply django",
        "django.backup blog",
    ),
)
def test_a_hostile_database_costs_root_neither_time_nor_memory(hostile, command):
    began = time.monotonic()
    argv = ["python3", "-c", MEASURED, "salt-call", "--local", *command.split()]
    result = hostile.host.run(argv, check=False, timeout=2 * PATIENCE)
    assert time.monotonic() - began < PATIENCE
    assert int(result.stdout.split()[-1]) < MEMORY, result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_afterwards_all_is_as_before(blog):
    assert not blog.apply().changed
    until = time.monotonic() + KEPT
    while (answer := blog.get("/")).status_code != 200 and time.monotonic() < until:
        time.sleep(1)
    assert answer.status_code == 200
