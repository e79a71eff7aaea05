"""``django-shell``: a console in the active release of a site, on each kind of database, and under supervisor."""

import json
import re
import subprocess
from typing import Any

import pytest
from conftest import Hosts, Repositories
from sites import Site

COUNT = "from guestbook.models import Entry\nprint('entries', Entry.objects.count())\n"
WRITE = COUNT + "Entry.objects.create(name='ada', message='hello')\nprint('written', Entry.objects.count())\n"
DELETE = "DELETE FROM guestbook_entry;\n"
#: What each server of a database answers to a change, in the shell and to its own client.
REFUSED = {
    "sqlite": ("attempt to write a readonly database", "readonly"),
    "postgres": ("in a read-only transaction", "read-only transaction"),
    "mysql": ("READ ONLY transaction", "READ ONLY transaction"),
}
KINDS = ["sqlite", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("postgres", "mysql"))]


@pytest.fixture(scope="module")
def sites(module_hosts: Hosts, repositories: Repositories) -> dict[str, Site]:
    """Sites of one host by the kinds of their databases, those of servers once they are wanted; one has a neighbour."""
    host = module_hosts(kind="live")
    first = Site(host, repositories(host), packages=["sqlite3"])
    Site(host, first.repository, "press", neighbour=first)
    first.deploy()
    return {"sqlite": first}


def console(site: Site, *arguments: str, stdin: str = "") -> Any:
    return site.host.run(["django-shell", site.name, *arguments], stdin=stdin, check=False)


@pytest.mark.parametrize("kind", KINDS)
def test_console_reads_and_changes_nothing_without_a_reason(sites: dict[str, Site], kind: str) -> None:
    if kind not in sites:
        first = sites["sqlite"]
        sites[kind] = Site(first.host, first.repository, f"of-{kind}", neighbour=first, database={"engine": kind})
        sites[kind].deploy()
    site, (by_shell, by_client) = sites[kind], REFUSED[kind]
    read = console(site, stdin=WRITE)
    assert "entries 0" in read.stdout and by_shell in read.stderr and "written" not in read.stdout and read.returncode
    deleted = console(site, "dbshell", stdin=DELETE)
    assert by_client in deleted.stdout + deleted.stderr, deleted
    written = console(site, "--write", "ticket 311", stdin=WRITE)
    assert "written 1" in written.stdout and written.returncode == 0 and "CHANGES ARE POSSIBLE" in written.stderr
    assert "entries 1" in console(site, stdin=COUNT).stdout


def test_console_has_the_terminal_the_sandbox_and_the_exit_code(sites: dict[str, Site]) -> None:
    site = sites["sqlite"]
    inside = f"id -un; touch {site.root}/media/x; cat /srv/django/press/secrets/environment; exit 7\n"
    done = console(site, "bash", stdin=inside)
    assert done.returncode == 7 and done.stdout == "blog\n"
    assert "Read-only file system" in done.stderr and "Permission denied" in done.stderr
    done = site.host.type("stty rows 33 cols 99; django-shell blog bash", "blog$ ", "stty size; exit 7")
    assert "33 99" in done.stdout and done.returncode == 7, done
    last = json.loads(site.host.read("/var/lib/django-formula/audit.jsonl").splitlines()[-1])
    assert (last["site"], last["arguments"], last["result"]) == ("blog", {"kind": "bash"}, "exit 7")
    assert site.host.call("django.shell", "blog", "dbshell").endswith("'django-shell blog dbshell'")


@pytest.mark.full
def test_release_of_an_open_console_is_kept(sites: dict[str, Site]) -> None:
    site = sites["sqlite"]
    before, listed = site.live, ["ls", f"{site.root}/releases"]
    opened = ["podman", "exec", "--interactive", site.host.container, "django-shell", "blog", "bash"]
    with subprocess.Popen(opened, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as open_console:
        assert open_console.stdin and open_console.stdout
        open_console.stdin.write("echo open\n")
        open_console.stdin.flush()
        assert open_console.stdout.readline() == "open\n"
        for number in range(3):
            site.deploy(releases={"keep": 2}, environment={"NUMBER": str(number)})
        assert before in site.host.run(listed).stdout.split() and site.live != before
        open_console.communicate("pwd -P\n")
    site.deploy(environment={"NUMBER": "3"})
    assert before not in site.host.run(listed).stdout.split()


@pytest.mark.full
def test_console_under_supervisor(module_hosts: Hosts, repositories: Repositories) -> None:
    host = module_hosts(kind="ready", init=False)
    site = Site(host, repositories(host))
    site.deploy()
    read = console(site, stdin=WRITE)
    assert "entries 0" in read.stdout and REFUSED["sqlite"][0] in read.stderr and "no sandbox" in read.stderr
    done = console(site, "bash", stdin="id -un; grep CapBnd /proc/self/status; cat /etc/shadow; exit 7\n")
    assert done.returncode == 7 and re.fullmatch(r"blog\nCapBnd:\s+0+\n", done.stdout), done
    assert "Permission denied" in done.stderr
    assert "written 1" in console(site, "--write", "ticket 311", stdin=WRITE).stdout
    typed = "echo 'echo typed >/dev/tty' | django-shell blog bash"  # into the terminal of root, who has opened it
    for way in (typed, f"{typed} 2>/dev/null"):
        told = host.run(["script", "-qec", way, "/dev/null"], check=False).stdout
        assert "typed" not in told.replace(way, ""), told
