"""Reading the UNDO/REDO FIFO: a ring of records, walked forward and backward, every record verified.

Positions are zone-3 addresses. A record lies inside one 16 KiB buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hammerfs.const import (
    BIGBLOCK_SIZE,
    BUFMASK,
    BUFSIZE,
    FIFO_TYPE_PAD,
    MAX_UNDO_BIGBLOCKS,
    OFF_LONG_MASK,
    ZONE_SHIFT,
    ZONE_UNDO,
)
from hammerfs.errors import CorruptError
from hammerfs.ondisk.fifo import RedoRecord, UndoRecord, decode_head, decode_redo, decode_undo, size_before
from hammerfs.volumes import Volumes

FIFO_BASE = ZONE_UNDO << ZONE_SHIFT


class FifoRecord(NamedTuple):
    """A verified record; `undo` and `redo` decode its body."""

    off: int
    """Zone-3 address."""
    type: int
    size: int
    seq: int
    """Sequence number; of a PAD and below version 4 meaningless."""
    buf: bytes
    """The 16 KiB buffer it is in."""

    @property
    def is_pad(self) -> bool:
        """Filler without a sequence number."""
        return self.type == FIFO_TYPE_PAD

    def undo(self) -> UndoRecord:
        """Body of an UNDO record.

        Raises:
            CorruptError: It does not fit the record.
        """
        try:
            return decode_undo(self.buf, self.off & BUFMASK, self.size)
        except CorruptError as err:
            raise CorruptError(err.what, offset=self.off) from None

    def redo(self) -> RedoRecord:
        """Body of a REDO record.

        Raises:
            CorruptError: It does not fit the record.
        """
        try:
            return decode_redo(self.buf, self.off & BUFMASK, self.size)
        except CorruptError as err:
            raise CorruptError(err.what, offset=self.off) from None


class UndoFifo:
    """The FIFO of a volume set as it is on the media.

    Args:
        volumes: The set.

    Raises:
        CorruptError: The header describes no possible FIFO.
    """

    __slots__ = ("_buf", "_buf_off", "_volumes", "end", "first", "next", "size")

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        desc = volumes.superblock.vol0_blockmap[ZONE_UNDO]
        self.end = desc.alloc_offset
        """Zone-3 address behind the last byte."""
        self.size = self.end - FIFO_BASE
        """Bytes; a multiple of 8 MiB."""
        if not 0 < self.size <= MAX_UNDO_BIGBLOCKS * BIGBLOCK_SIZE or self.size % BIGBLOCK_SIZE:
            raise CorruptError("the volume header describes a FIFO that can't be", offset=self.end)
        self.first = self._position(desc.first_offset)
        """Start of the active range by the header."""
        self.next = self._position(desc.next_offset)
        """Append point by the header; from version 4 on a hint."""
        self._buf_off = 0
        self._buf = b""

    def distance(self, first: int, last: int) -> int:
        """Bytes from one position to the other, going forward around the ring."""
        return (last - first) % self.size

    def step_forward(self, off: int) -> tuple[FifoRecord, int]:
        """The record at a position, and the position behind it.

        Raises:
            CorruptError: No valid record there.
            DeviceError: The root volume failed.
        """
        off = self._position(off)
        record = self._record(off)
        return record, self._position(off + record.size)

    def step_back(self, off: int) -> FifoRecord:
        """The record that ends at a position.

        Raises:
            CorruptError: No valid record there.
            DeviceError: The root volume failed.
        """
        off = self._position(off)
        end = self.end if off == FIFO_BASE else off
        inside = (end - 1 & BUFMASK) + 1
        try:
            size = size_before(self._buffer(end - inside), inside)
        except CorruptError as err:
            raise CorruptError(err.what, offset=end) from None
        return self._record(end - size)

    def walk(self) -> Iterator[FifoRecord | CorruptError]:
        """All records from the start of the FIFO, as they lie there, for listing.

        A buffer in which no valid record follows is given up with the error, and the next one tried.
        """
        for start in range(FIFO_BASE, self.end, BUFSIZE):
            off = start
            while off < start + BUFSIZE:
                try:
                    record = self._record(off)
                except CorruptError as err:
                    yield err
                    break
                yield record
                off += record.size

    def _record(self, off: int) -> FifoRecord:
        buf = self._buffer(off & ~BUFMASK)
        try:
            head = decode_head(buf, off & BUFMASK, self._volumes.rule)
        except CorruptError as err:
            raise CorruptError(err.what, offset=off) from None
        return FifoRecord(off, head.type, head.size, head.seq, buf)

    def _buffer(self, off: int) -> bytes:
        if off != self._buf_off:
            volume, byte_off = self._volumes.locate(off, BUFSIZE)
            self._buf = volume.dev.pread(byte_off, BUFSIZE)
            self._buf_off = off
        return self._buf

    def _position(self, off: int) -> int:
        """A position with the end of the ring taken for its start."""
        if off >> ZONE_SHIFT != ZONE_UNDO or off & OFF_LONG_MASK > self.size or off & 7:
            raise CorruptError("address outside the FIFO", offset=off)
        return FIFO_BASE if off == self.end else off
