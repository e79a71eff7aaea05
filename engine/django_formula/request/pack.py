"""The pack of a push, judged object by object before git has it: what an object unpacks to is said at its beginning.

git bounds what a push sends, not what that unpacks to, and a hook runs when all of it has been unpacked and hashed.
The format: https://git-scm.com/docs/gitformat-pack and https://git-scm.com/docs/gitprotocol-pack.
"""

import re
import zlib
from collections.abc import Callable

#: A push may unpack to this many times what it sends, besides what is allowed: whole histories have about 50.
_TIMES = 100
_WHOLE, _DELTAS = range(1, 5), (_OFFSET_DELTA := 6, _NAMED_DELTA := 7)
_DIGEST = 20
#: Of a size, as git has it in memory.
_BITS = 64
#: Bytes that are unpacked at a time, and that are given for it.
_PIECE, _GIVEN = 1 << 18, 1 << 12
#: The most bytes of both sizes at the beginning of a delta.
_SIZES = 20
_DIGITS = re.compile(rb"[0-9a-fA-F]{4}")
_NO_PACK = "what was sent is no push of git; nothing was changed"


class Refusal(Exception):
    """A push is not passed on, for this reason."""


class Push:
    """What a client of git sends to `git receive-pack`: lines that name refs, and a pack."""

    def __init__(self, read: Callable[[], bytes], write: Callable[[bytes], object], allowed: int) -> None:
        """Take the two ends.

        Args:
            read: returns the next bytes of the client, none at its end.
            write: passes bytes on to git.
            allowed: bytes that any push may unpack to.
        """
        self._read, self._write, self._allowed = read, write, allowed
        self._data, self._at = b"", 0
        self._sent = self._unpacked = 0

    def relay(self) -> None:
        """Pass on what was judged, until the end of the pack or of the client.

        Raises:
            Refusal: the rest is not passed on.
        """
        try:
            has_options = self._lines()
            if has_options:
                self._lines()
            self._pack()
        except EOFError:
            return
        self._write(self._data[: self._at])

    def _lines(self) -> bool:
        """Pass lines up to the one that ends them; return whether lines of options follow."""
        has_options = False
        while size := _length(self._take(4)):
            options = self._take(size - 4).partition(b"\0")[2]
            has_options |= any(word.partition(b"=")[0] == b"push-options" for word in options.split())
        return has_options

    def _pack(self) -> None:
        if self._take(4) != b"PACK":
            raise Refusal(_NO_PACK)
        self._take(4)
        for _number_of_object in range(int.from_bytes(self._take(4), "big")):
            self._object()
        self._take(_DIGEST)

    def _object(self) -> None:
        first = byte = self._byte()
        kind, size, shift = first >> 4 & 7, first & 15, 4
        while byte & 128 and shift < _BITS:
            byte = self._byte()
            size |= (byte & 127) << shift
            shift += 7
        if kind not in (*_WHOLE, *_DELTAS) or byte & 128:
            raise Refusal(_NO_PACK)
        if kind == _NAMED_DELTA:
            self._take(_DIGEST)
        elif kind == _OFFSET_DELTA:
            while self._byte() & 128:
                pass
        self._count(size)
        self._inflate(size, is_delta=kind in _DELTAS)

    def _inflate(self, size: int, *, is_delta: bool) -> None:
        """Pass the bytes of one object, of so many unpacked, of a delta those of the delta itself."""
        stream, done, begin = zlib.decompressobj(), 0, b""
        while not stream.eof:
            if self._at == len(self._data):
                self._fill()
            given = self._data[self._at : self._at + _GIVEN]
            try:
                piece = stream.decompress(given, _PIECE)
            except zlib.error:
                raise Refusal(_NO_PACK) from None
            self._at += len(given) - len(stream.unused_data if stream.eof else stream.unconsumed_tail)
            done += len(piece)
            if done > size:
                raise Refusal(_NO_PACK)
            if is_delta and (len(begin) < _SIZES):
                begin += piece[:_SIZES]
                if len(begin) >= _SIZES or stream.eof:
                    self._count(_result(begin))

    def _count(self, size: int) -> None:
        self._unpacked += size
        if self._unpacked > self._allowed + _TIMES * self._sent:
            raise Refusal(
                f"what was pushed unpacks to more than releases:size ({self._allowed >> 20} MB) and {_TIMES} times "
                "what it sends; nothing was changed"
            )

    # What the client sends

    def _fill(self) -> None:
        """Pass on what was judged, and wait for more."""
        if self._data:
            self._write(self._data)
        self._data, self._at = self._read(), 0
        self._sent += len(self._data)
        if not self._data:
            raise EOFError

    def _byte(self) -> int:
        if self._at == len(self._data):
            self._fill()
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, number: int) -> bytes:
        taken = b""
        while len(taken) < number:
            if self._at == len(self._data):
                self._fill()
            part = self._data[self._at : self._at + number - len(taken)]
            self._at += len(part)
            taken += part
        return taken


def _length(digits: bytes) -> int:
    """Return the length of a line with its own four digits; 0 of the one that ends them."""
    length = int(digits, 16) if _DIGITS.fullmatch(digits) else -1
    if length and length < len(digits):
        raise Refusal(_NO_PACK)
    return length


def _result(begin: bytes) -> int:
    """Return the size of what a delta makes, the second of the two sizes it begins with."""
    sizes, size, shift = [], 0, 0
    for byte in begin:
        size |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            sizes.append(size)
            size = shift = 0
    if len(sizes) < 2:
        raise Refusal(_NO_PACK)
    return sizes[1]
