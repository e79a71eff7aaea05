"""What a key may run, what its hooks judge, and what the client of the door does when its unit is restarted."""

import json
import socket
import subprocess
import threading

import pytest
from django_formula.request import ask, push

A, B = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("git-receive-pack 'blog'", "receive-pack"),
        ("git-receive-pack '/srv/django/other/push.git'", "receive-pack"),  # the path counts nothing
        ("git-upload-pack blog", "upload-pack"),
        ("git-upload-archive blog", ""),
        ("git-receive-pack blog; id", ""),
        ("git-receive-pack blog --upload-pack=id", ""),
        ("git-receive-pack", ""),
        ("git-receive-pack 'blog", ""),
        ("git receive-pack blog", ""),
        ("/usr/bin/git-receive-pack blog", ""),
        ("sh -c id", ""),
        ("$(id) blog", ""),
        ("", ""),
    ],
)
def test_key_runs_two_programs_of_git(asked, expected):
    assert push.program(asked) == expected


@pytest.mark.parametrize(
    ("new", "ref", "why"),
    [
        (A, "refs/heads/main", ""),
        ("0" * 40, "refs/heads/main", "main cannot be deleted"),
        (A, "refs/heads/other", "only main is released"),
        (A, "refs/heads/main/../other", "only main is released"),
        (A, "refs/tags/main", "only main is released"),
        (A, "refs/formula/x", "only main is released"),
        (A, "main", "only main is released"),
        (A, "HEAD", "only main is released"),
        ("0" * 40, "refs/heads/other", "only main is released"),
    ],
)
def test_one_branch_is_released(new, ref, why):
    refusal = push.refusal_of_ref("main", new, ref)
    assert refusal.startswith(why) and bool(refusal) is bool(why)


@pytest.mark.parametrize(
    ("now", "is_part", "has", "is_rewind", "why"),
    [
        ("", False, False, False, ""),
        (A, False, True, False, ""),
        (A, True, False, False, "superseded: bbbbbbbbbbbb is part of aaaaaaaaaaaa"),
        (A, True, False, True, ""),
        (A, False, False, False, "refused: bbbbbbbbbbbb does not have aaaaaaaaaaaa"),
        (A, False, False, True, ""),
        (A, True, True, False, ""),  # the same commit
    ],
)
def test_commit_judged_by_the_branch(now, is_part, has, is_rewind, why):
    refusal = push.refusal(B, now, is_part=is_part, has=has, is_rewind=is_rewind)
    assert refusal.startswith(why) and bool(refusal) is bool(why)


@pytest.fixture
def commits(tmp_path, monkeypatch):
    """Three commits of a repository that is pushed to, each part of the next, and what the branch is."""
    given = {"GIT_DIR": str(tmp_path), "PUSH_SITE": "blog", "PUSH_BY": "ada"}
    for name in ("AUTHOR", "COMMITTER"):
        given |= {f"GIT_{name}_NAME": "ada", f"GIT_{name}_EMAIL": "ada@example.org"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(push, "configuration", lambda _site: {"socket": "/nowhere"})

    def git(*words):
        return subprocess.run(["git", *words], check=True, input="", capture_output=True, text=True).stdout.strip()

    git("init", "--quiet", "--bare")
    tree, found = git("mktree"), []
    for number in range(3):
        found.append(git("commit-tree", tree, "-m", str(number), *(word for one in found[-1:] for word in ("-p", one))))
    return found, git


@pytest.mark.parametrize("meanwhile", [None, 1, 2])
@pytest.mark.parametrize("before", [None, 0])
def test_late_push_does_not_take_the_branch_back(commits, monkeypatch, before, meanwhile):
    """The hook of a push learns of its release late; a newer push may be released by then."""
    (first, second, third), git = commits
    ref = "refs/heads/main"
    if before is not None:
        git("update-ref", ref, first)

    def ask_door(*_arguments):
        if meanwhile:
            git("update-ref", ref, [first, second, third][meanwhile])  # as root does for what is active
        return "released", "0002 is active"

    monkeypatch.setattr(push.ask, "ask", ask_door)
    lines = push._report(ref, second, is_rewind=False)
    tip = third if meanwhile == 2 else second
    assert git("rev-parse", ref) == tip
    assert lines == [f"ok {ref}", *([f"option new-oid {third}"] if tip == third else [])]


@pytest.mark.parametrize(
    ("number", "size", "why"),
    [
        (3, 1 << 20, ""),
        (4, 0, "aaaaaaaaaaaa has more than 3 files"),
        (1, (1 << 20) + 1, "the files of aaaaaaaaaaaa have more than 1 MB"),
    ],
)
def test_files_of_a_commit_are_bounded(number, size, why):
    refusal = push.refusal_of_files(A, number, size, {"files": 3, "files_size": 1 << 20})
    assert refusal.startswith(why) and bool(refusal) is bool(why)


def test_cause_is_one_short_line():
    assert push.cause("failed", "static: no\x1b[31m such folder\nhint") == "failed: static: no such folder"
    assert len(push.cause("failed", "x" * 5000)) == 200


@pytest.fixture
def unit(tmp_path, monkeypatch):
    """A stand-in of the door, which sends what it is given for each connection and notes what was asked."""
    monkeypatch.setattr(ask, "_PAUSE", 0.01)
    path, asked = tmp_path / "blog.sock", []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve(*answers):
        def run():
            for lines in answers:
                connection, _address = listener.accept()
                with connection, connection.makefile("rb") as sent:
                    asked.append(json.loads(sent.readline()))
                    connection.sendall(lines)

        threading.Thread(target=run, daemon=True).start()
        return path, asked

    with listener:
        yield serve


def lines(*answers):
    return b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)


DONE = {"status": "released", "why": "0002 is active"}


@pytest.mark.parametrize(
    ("answers", "does", "steps", "expected"),
    [
        ([lines({"accepted": "1"}, {"step": "source"}, DONE)], ["request"], ["source"], "released"),
        ([b"", lines({"accepted": "1"}, DONE)], ["request", "request"], [], "released"),
        (
            [lines({"accepted": "1"}, {"step": "source"}), lines({"step": "source"}, {"step": "static"}, DONE)],
            ["request", "result"],
            ["source", "static"],
            "released",
        ),
        ([lines({"accepted": "1"}) + b'{"st', lines(DONE)], ["request", "result"], [], "released"),
        ([b"[]\n7\n" + lines({"status": "refused", "why": "no"})], ["request"], [], "refused"),
    ],
)
def test_restarted_unit_is_asked_again(unit, answers, does, steps, expected):
    path, asked = unit(*answers)
    told = []
    assert ask.ask(path, {"commit": A, "by": "alice"}, told.append)[0] == expected
    assert [one["do"] for one in asked] == does and told == steps
    assert all(one.get("id") == "1" for one in asked if one["do"] == "result")


def test_unit_that_never_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(ask, "_PAUSE", 0)
    assert ask.ask(tmp_path / "none.sock", {"commit": A}, str) == ("failed", f"{tmp_path}/none.sock does not answer")
