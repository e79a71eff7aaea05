"""What of a push git gets: all of what it may unpack, and nothing after what is too large or no push."""

import io
import subprocess
import zlib

import pytest
from django_formula.request import pack

COMMIT, BLOB, BY_OFFSET, BY_NAME = 1, 3, 6, 7
LINES = b"0010a b c\0atomic0000"
ALLOWED = 1 << 20


def number(value):
    """A number of seven bits in each byte, the last of which has no eighth."""
    return bytes([value & 127 | 128]) + number(value >> 7) if value >> 7 else bytes([value])


def declared(kind, size):
    first, rest = kind << 4 | size & 15, size >> 4
    return bytes([first | 128]) + number(rest) if rest else bytes([first])


def item(kind, content, size=None):
    base = {BY_OFFSET: b"\x83\x07", BY_NAME: b"n" * 20}.get(kind, b"")
    return declared(kind, len(content) if size is None else size) + base + zlib.compress(content)


def packed(*items):
    return b"PACK\0\0\0\2" + len(items).to_bytes(4, "big") + b"".join(items) + b"d" * 20


def relayed(sent, at_once=65536, allowed=ALLOWED):
    """What git gets of what a client sends, and why the rest is refused."""
    client, git = io.BytesIO(sent), io.BytesIO()
    try:
        pack.Push(lambda: client.read(at_once), git.write, allowed).relay()
    except pack.Refusal as error:
        return git.getvalue(), str(error)
    return git.getvalue(), ""


@pytest.mark.parametrize("at_once", [1, 7, 4096, 65536])
@pytest.mark.parametrize(
    "items",
    [
        [],
        [item(BLOB, b"")],
        [item(COMMIT, b"tree"), item(BLOB, bytes(700_000)), item(BLOB, b"x" * 15)],
        [
            item(BY_OFFSET, number(3) + number(5) + b"\x05abcde"),
            item(BY_NAME, number(3) + number(300_000) + b"\x80" * 90),
        ],
    ],
)
def test_push_is_passed_on_as_it_is(at_once, items):
    sent = LINES + packed(*items)
    assert relayed(sent + b"what comes after it", at_once) == (sent, "")


def test_lines_of_options_are_no_pack():
    sent = b"0018a b c\0push-options \n0000" + b"000arewind0000" + packed(item(BLOB, b"x"))
    assert relayed(sent) == (sent, "")
    sent = b"000cshallow\n" + sent  # what a shallow clone sends first names no options
    assert relayed(sent) == (sent, "")


@pytest.mark.parametrize("sent", [b"", b"0000", LINES, LINES + b"PAC", (LINES + packed(item(BLOB, b"x" * 90)))[:-5]])
def test_push_that_ends_early_is_passed_on_for_git_to_judge(sent):
    assert sent.startswith(relayed(sent)[0]) and relayed(sent)[1] == ""


@pytest.mark.parametrize(
    "items",
    [
        [item(BLOB, b"", size=3 * ALLOWED)],
        [item(BLOB, bytes(ALLOWED // 2))] * 4,
        [item(BY_OFFSET, number(3) + number(3 * ALLOWED))],
        [item(BY_NAME, number(3) + number(ALLOWED // 2))] * 4,
        [item(BY_NAME, b"", size=3 * ALLOWED)],
    ],
)
def test_push_that_unpacks_to_too_much_is_refused(items):
    passed, why = relayed(LINES + packed(*items), at_once=512)
    assert (
        why
        == "what was pushed unpacks to more than releases:size (1 MB) and 100 times what it sends; nothing was changed"
    )
    assert len(passed) < len(LINES + packed(*items))


def test_large_push_may_unpack_to_more():
    sent = LINES + packed(item(BLOB, bytes(100)), *[item(BLOB, bytes(90_000))] * 12)
    assert len(sent) < ALLOWED < 12 * 90_000
    assert relayed(sent) == (sent, "")


@pytest.mark.parametrize(
    "sent",
    [
        b"PACK",
        b"0002",
        b"-004",
        b"0x10",
        LINES + b"PICK\0\0\0\2",
        LINES + packed(item(0, b"x")),
        LINES + packed(item(5, b"x")),
        LINES + packed(declared(BLOB, 9) + b"no stream of zlib"),
        LINES + packed(item(BLOB, bytes(1000), size=10)),  # more than it says
        LINES + packed(item(BY_OFFSET, b"")),
        LINES + packed(item(BY_OFFSET, b"\x80" * 30)),
        LINES + packed(b"\xb0" + b"\xff" * 1000),  # a size without an end
    ],
)
def test_what_is_no_push_is_refused(sent):
    passed, why = relayed(sent)
    assert why == "what was sent is no push of git; nothing was changed" and passed == b""


def test_pack_of_git_is_passed_on(tmp_path):
    def git(*arguments, **options):
        names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", tmp_path, *names, *arguments], check=True, capture_output=True, **options
        ).stdout

    git("init", "-q")
    for version in range(9):
        (tmp_path / "text").write_text("".join(f"line {line} of {version}\n" for line in range(500)))
        git("add", "text")
        git("commit", "-qm", str(version))
    for option in ("--delta-base-offset", "--no-reuse-delta"):
        sent = LINES + git("pack-objects", "--all", "--stdout", "-q", option, input=b"")
        assert len(sent) < 20_000 and relayed(sent) == (sent, "")
