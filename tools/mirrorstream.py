"""Mirror streams on pipes: read record by record, plain or compressed, and what hammer(8) frames a round with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, cast

from hammerfs.errors import CorruptError, CrcError
from hammerfs.ondisk.mirror import (
    HEAD_SIZE,
    MREC_IDLE,
    MREC_PFSD,
    MREC_SYNC,
    MREC_TERM,
    MREC_UPDATE,
    MirrorRecord,
    check_record,
    decode_head,
    decode_record,
    padded,
)
from hammerfs.ondisk.records import PfsData

LZ4_MAGIC = b"\x04\x22\x4d\x18"
_FRAMED_BODY = bytes(8)


class Source(Protocol):
    """Where stream bytes come from."""

    def read(self, nbytes: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        ...


class Sink(Protocol):
    """Where stream bytes go."""

    def write(self, data: bytes, /) -> object:
        """Write bytes."""
        ...


class Found(NamedTuple):
    """A record in a stream, whose checksum is right."""

    at: int
    """Offset in the (uncompressed) stream."""
    type: int
    """As that of `MirrorRecord`."""
    raw: bytes
    """As it stands there, with padding."""

    @property
    def record(self) -> MirrorRecord:
        """What it says."""
        return decode_record(self.raw)


def opened(stream: Source) -> Source:
    """A stream to read records from; a compressed one is told by its first bytes."""
    first = stream.read(len(LZ4_MAGIC))
    source = _Pushed(first, stream)
    if first != LZ4_MAGIC:
        return source
    import lz4.frame

    return cast("Source", lz4.frame.LZ4FrameFile(source, mode="rb"))


class _Pushed:
    """A stream whose first bytes have been looked at."""

    def __init__(self, first: bytes, stream: Source) -> None:
        self._first = first
        self._stream = stream

    def read(self, nbytes: int = -1) -> bytes:
        if self._first:
            data, self._first = self._first[:nbytes], self._first[nbytes:]
            return data
        return self._stream.read(nbytes)


def records(source: Source) -> Iterator[Found]:
    """The records of a stream, until it ends.

    Raises:
        CorruptError: One is damaged, or the stream ends inside it; says where.
    """
    at = 0
    while True:
        head = _exactly(source, HEAD_SIZE, at, may_end=True)
        if not head:
            return
        try:
            size, _, _ = decode_head(head)
            raw = head + _exactly(source, (size + 7 & ~7) - HEAD_SIZE, at)
            found = Found(at, check_record(raw)[1], raw)
        except CrcError as err:
            raise CrcError("mirror record", want=err.want, found=err.found, offset=at) from None
        except CorruptError as err:
            raise CorruptError(err.what, offset=at) from None
        yield found
        at += len(raw)


def _exactly(source: Source, nbytes: int, at: int, *, may_end: bool = False) -> bytes:
    got = b""
    while len(got) < nbytes:
        try:
            more = source.read(nbytes - len(got))
        except (EOFError, RuntimeError) as err:  # what the decompressor makes of a damaged or cut-off stream
            raise CorruptError(f"compressed mirror stream: {err}", offset=at) from None
        if not more:
            if may_end and not got:
                return b""
            raise CorruptError("mirror stream ends inside a record", offset=at)
        got += more
    return got


def head_record(pfs: PfsData) -> bytes:
    """A PFS record: two of them begin a round, what the source is, and up to where it goes."""
    return padded(MirrorRecord(MREC_PFSD, pfsd=pfs))


def update_record(tid: int) -> bytes:
    """What a slave answers when it is complete up to a TID."""
    return padded(MirrorRecord(MREC_UPDATE, tid=tid))


def round_end(*, has_work: bool) -> bytes:
    """What a round ends with."""
    return padded(MirrorRecord(MREC_SYNC if has_work else MREC_IDLE, body=_FRAMED_BODY))


def last_record() -> bytes:
    """What an exchange ends with."""
    return padded(MirrorRecord(MREC_TERM, body=_FRAMED_BODY))
