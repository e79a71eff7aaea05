"""The audit log: its lines, their chain, a file for each year, and what happens where it cannot be written."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest
from django_formula.audit import audit, chain
from django_formula.audit import caller as audit_caller
from django_formula.audit.audit import Act
from django_formula.audit.caller import Caller
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.verbs import history

ADA = Caller("ada", "10.0.0.7", "salt", "20260301")
pytestmark = pytest.mark.usefixtures("own_host")


def read(path=None):
    return [json.loads(line) for line in (path or chain.current()).read_text().splitlines()]


def done(verb="release", site="blog", **arguments):
    with audit.recorded(Act(verb, ADA, site, arguments)) as act:
        pass
    return act


def test_act_leaves_a_line_when_it_begins_and_one_when_it_ends():
    done(revision="https://ada:hunter2@git.example.org/\x1b[31m", to="x" * 500, force=True)
    first, last = read()
    assert stat.S_IMODE(chain.current().stat().st_mode) == 0o600
    assert first["id"] == last["id"] and (first["result"], last["result"]) == ("begun", "done")
    assert (first["who"], first["from"], first["how"], first["job"]) == ("ada", "10.0.0.7", "salt", "20260301")
    assert first["arguments"]["force"] is True and len(first["arguments"]["to"]) == 200
    assert "hunter2" not in first["arguments"]["revision"] and "\x1b" not in first["arguments"]["revision"]
    assert first["prev"] == "" and last["prev"] == chain.digest(chain.current().read_bytes().splitlines()[0])


def test_act_that_raises_has_failed():
    with pytest.raises(ValueError, match="secret"), audit.recorded(Act("manage", ADA)):
        assert audit.is_open()
        raise ValueError("secret")
    assert read()[-1]["result"] == "failed: ValueError" and not audit.is_open()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda lines: [lines[0], lines[1].replace("10.0.0.7", "10.0.0.8"), *lines[2:]], 3),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3),
        (lambda lines: [*lines[:3], "{", *lines[3:]], 4),
    ],
    ids=["changed", "removed", "first removed", "turned", "inserted"],
)
def test_verify_names_the_first_line_that_was_changed(change, place):
    for _ in range(3):
        done()
    assert history.verify()["lines"] == 6
    lines = change(chain.current().read_text().splitlines())
    chain.current().write_text("\n".join(lines) + "\n")
    with pytest.raises(DeploymentError, match=f"audit.jsonl:{place} does not follow"):
        history.verify()


def test_line_of_the_journal_that_the_log_lacks_is_an_error(monkeypatch):
    done()
    lines = chain.current().read_text().splitlines()
    chain.current().write_text(lines[0] + "\n")
    assert history.verify()["lines"] == 1
    monkeypatch.setattr(history, "_of_journal", lambda: lines)
    with pytest.raises(DeploymentError, match="lacks a line that the journal has"):
        history.verify()


def test_act_that_begins_while_the_log_is_verified_is_no_error(monkeypatch):
    done()

    def of_journal():
        done()
        return chain.current().read_text().splitlines()

    monkeypatch.setattr(history, "_of_journal", of_journal)
    assert history.verify()["in the journal"] == 4


def test_a_year_begins_a_new_file_and_the_chain_goes_on(monkeypatch):
    monkeypatch.setattr(clock, "now", lambda: "2026-12-31T23:59:59Z")
    done()
    monkeypatch.setattr(clock, "now", lambda: "2027-01-01T00:00:00Z")
    done()
    older, newer = chain.years()
    assert older.name == "audit-2026.jsonl" and len(read(older)) == len(read(newer)) == 2
    assert read(newer)[0]["prev"] == chain.digest(older.read_bytes().splitlines()[-1])
    assert history.verify()["lines"] == 4
    newer.unlink()
    done()
    assert chain.broken() == ("", 4)
    older.unlink()
    assert chain.broken()[0] == f"{newer}:1"


def test_a_clock_that_was_wrong_for_a_while_changes_no_order(monkeypatch):
    for when in ("2025-06-01T00:00:00Z", "2026-06-01T00:00:00Z", "1970-01-01T00:00:09Z", "2026-06-02T00:00:00Z"):
        monkeypatch.setattr(clock, "now", lambda when=when: when)
        done()
    assert history.verify()["lines"] == 8
    monkeypatch.setattr(clock, "now", lambda: "2027-01-01T00:00:00Z")
    done()
    assert [path.name for path in chain.years()] == ["audit-2025.jsonl", "audit-2026.jsonl", "audit.jsonl"]
    assert history.verify()["lines"] == 10


def test_line_after_a_torn_one_is_whole():
    done()
    with chain.current().open("a") as file:
        file.write('{"id": "to')
    done()
    assert len(chain.current().read_text().splitlines()) == 5
    assert chain.broken()[0].endswith(":3")


def test_full_disk_is_a_warning_and_leaves_no_part_of_a_line(monkeypatch):
    done()
    before, write = chain.current().read_bytes(), os.write
    monkeypatch.setattr(chain.os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    act = done()
    assert act.warning == f"the audit log has no line of this: No space left on device: {chain.current()}"
    assert chain.current().read_bytes() == before


def test_process_that_holds_the_file_delays_an_act_by_a_second_at_most(monkeypatch):
    done()
    monkeypatch.setattr(chain, "_PATIENCE", 0.05)
    hold = (
        f"import fcntl, sys; f = open({str(chain.current())!r}); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", hold]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin and holder.stdout
        holder.stdout.readline()
        assert "no line of this" in done().warning
        holder.stdin.close()
    assert not done().warning


def test_lines_of_many_processes_are_one_chain():
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\nfrom pathlib import Path\n"
        "from django_formula.audit import audit, chain\n"
        f"from django_formula.audit.caller import Caller\nchain.FOLDER = Path({str(chain.FOLDER)!r})\n"
        "for _ in range(50):\n    audit.Act('run', Caller('ada')).begin()\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert chain.broken() == ("", 200)


def test_journal_gets_each_line_with_fields(monkeypatch, tmp_path):
    path = tmp_path / "socket"
    monkeypatch.setattr(audit, "JOURNAL", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        done(revision="a\nDJANGO_WHO=root")
        fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
    assert (fields["DJANGO_SITE"], fields["DJANGO_VERB"], fields["DJANGO_WHO"]) == ("blog", "release", "ada")
    assert fields["MESSAGE"] == "release blog by ada: begun"
    assert fields["DJANGO_AUDIT"] == chain.current().read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Caller("root")),
        ({"SUDO_USER": "ray"}, Caller("ray")),
        ({"SSH_CONNECTION": "10.0.0.9 51234 10.0.0.2 22"}, Caller("root", "10.0.0.9", "ssh")),
        (
            {"DJANGO_OPS_PERSON": "ada", "SUDO_USER": "django-ops", "SSH_CONNECTION": "10.0.0.9 1 2 3"},
            Caller("ada", "10.0.0.9", "ssh"),
        ),
    ],
)
def test_caller_is_known_by_the_environment(monkeypatch, environment, expected):
    for name in ("SUDO_USER", "SSH_CONNECTION", "DJANGO_OPS_PERSON"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert audit_caller.of_this_process() == expected


@pytest.mark.parametrize(
    ("asked_by", "expected"),
    [
        ("state.apply by ada, salt job 2026", ("state.apply", Caller("ada", how="salt", job="2026"))),
        ("root on master1", ("deployment", Caller("root on master1", how="salt"))),
        ("django.backup", ("deployment", Caller("django.backup", how="salt"))),
    ],
)
def test_caller_is_known_by_what_a_deployment_records(asked_by, expected):
    assert audit_caller.of_request(asked_by) == expected
