"""Crash recovery, stage 1: find the active range of the FIFO, and roll metadata back by it (hammer_recover.c).

`scan_fifo` only reads; `apply_undo` hands the saved bytes, newest first, to whoever keeps them: an overlay in memory
for a reader, the volumes for a read-write mount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hammerfs.const import (
    BUFMASK,
    BUFSIZE,
    FIFO_TYPE_REDO,
    FIFO_TYPE_UNDO,
    REDO_SYNC,
    UNDO_SECTOR,
    VERSION_REDO,
    ZONE_RAW_BUFFER,
    ZONE_RAW_VOLUME,
    ZONE_SHIFT,
)
from hammerfs.errors import CorruptError
from hammerfs.ondisk.fifo import UndoRecord
from hammerfs.undo import FIFO_BASE, FifoRecord, UndoFifo
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes

SMALLEST_RECORD = 48
"""Bytes of the smallest record that carries a number."""
_SEQ_MASK = 0xFFFFFFFF
Patch = Callable[[Volume, int, bytes], None]
"""Takes saved bytes: the volume, the byte offset in it, the bytes."""


class RecoveryScan(NamedTuple):
    """The active range of the FIFO."""

    first: int
    """Zone-3 address of the oldest record to undo."""
    last: int
    """Behind the newest one."""
    length: int
    """Bytes between them; 0 when the file system was closed cleanly."""
    first_seq: int
    """Sequence number of the first record of the range (version 4 and up)."""
    next_seq: int
    """Number the next record will get."""

    @property
    def is_dirty(self) -> bool:
        """There is something to undo."""
        return self.length > 0


class UndoSummary(NamedTuple):
    """What stage 1 did."""

    records: int
    nbytes: int
    redo_from: int | None
    """FIFO address of the earliest REDO record still needed, by the newest SYNC record; None without one."""


def scan_fifo(fifo: UndoFifo, version: int) -> RecoveryScan:
    """Find the active range: by sequence numbers from version 4 on, else by the header.

    A write to the FIFO may have stopped inside a sector, when a device failed. What cannot be read ends the range if
    no later number lies behind it: no barrier has followed that write, so nothing relied on it.

    Raises:
        CorruptError: A record inside the range is damaged.
        DeviceError: The root volume failed.
    """
    if version < VERSION_REDO:
        return RecoveryScan(fifo.first, fifo.next, fifo.distance(fifo.first, fifo.next), 0, 0)
    first_seq = (_seq_before(fifo, fifo.first) + 1) & _SEQ_MASK
    expected, off, end, walked = first_seq, fifo.first, fifo.first, 0
    while walked < fifo.size:
        try:
            record, off = fifo.step_forward(off)
        except CorruptError:
            if _goes_on(fifo, off, expected):
                raise
            break
        walked += record.size
        if record.is_pad:
            continue
        if record.seq != expected:
            break
        end, expected = off, (expected + 1) & _SEQ_MASK
    return RecoveryScan(fifo.first, end, fifo.distance(fifo.first, end), first_seq, expected)


def _goes_on(fifo: UndoFifo, off: int, expected: int) -> bool:
    """Whether records with later numbers lie behind a damaged one; every sector begins with a record."""
    most = fifo.size // SMALLEST_RECORD
    start = off & ~(UNDO_SECTOR - 1)
    for distance in range(UNDO_SECTOR, fifo.size, UNDO_SECTOR):
        try:
            record, _ = fifo.step_forward(FIFO_BASE + (start - FIFO_BASE + distance) % fifo.size)
        except CorruptError:
            continue
        if not record.is_pad and (record.seq - expected) & _SEQ_MASK < most:
            return True
    return False


def backward(fifo: UndoFifo, last: int, length: int) -> Iterator[FifoRecord]:
    """Records of the `length` bytes before `last`, newest first.

    Raises:
        CorruptError: A damaged record, or one that begins before the range.
    """
    off = last
    while length > 0:
        record = fifo.step_back(off)
        off = record.off
        length -= record.size
        if length < 0:
            raise CorruptError("FIFO record begins before the active range", offset=off)
        yield record


def apply_undo(volumes: Volumes, fifo: UndoFifo, scan: RecoveryScan, patch: Patch) -> UndoSummary:
    """Hand out the saved bytes of the active range, newest first. Doing it twice gives the same result.

    Raises:
        CorruptError: A damaged record, or one that restores bytes where none can be.
    """
    records = nbytes = 0
    redo_from: int | None = None
    for record in backward(fifo, scan.last, scan.length):
        if record.type == FIFO_TYPE_UNDO:
            undo = record.undo()
            volume, byte_off = undo_target(volumes, undo, record.off)
            patch(volume, byte_off, undo.data)
            records += 1
            nbytes += len(undo.data)
        elif record.type == FIFO_TYPE_REDO and redo_from is None:
            redo = record.redo()
            if redo.flags == REDO_SYNC:
                redo_from = redo.offset
    if redo_from is not None and not FIFO_BASE <= redo_from < fifo.end:
        raise CorruptError("REDO SYNC record points outside the FIFO", offset=redo_from)
    return UndoSummary(records, nbytes, redo_from)


def undo_target(volumes: Volumes, undo: UndoRecord, off: int) -> tuple[Volume, int]:
    """Where saved bytes go.

    Raises:
        CorruptError: No metadata can be there.
    """
    zone, start = undo.undo_offset >> ZONE_SHIFT, undo.undo_offset & BUFMASK
    if zone not in {ZONE_RAW_VOLUME, ZONE_RAW_BUFFER} or start + len(undo.data) > BUFSIZE:
        raise CorruptError(f"UNDO record restores {len(undo.data)} bytes at {undo.undo_offset:016x}", offset=off)
    volume, byte_off = volumes.locate(undo.undo_offset, len(undo.data))
    if zone == ZONE_RAW_VOLUME and byte_off + len(undo.data) > BUFSIZE:
        raise CorruptError(f"UNDO record restores bytes at {undo.undo_offset:016x}, behind the header", offset=off)
    return volume, byte_off


def _seq_before(fifo: UndoFifo, off: int) -> int:
    """Number of the newest record before a position, fillers passed over."""
    walked = 0
    while walked < fifo.size:
        record = fifo.step_back(off)
        if not record.is_pad:
            return record.seq
        off = record.off
        walked += record.size
    raise CorruptError("FIFO holds nothing but fillers", offset=off)
