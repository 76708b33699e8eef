"""Writing the UNDO/REDO FIFO: records are laid down in memory, buffer by buffer, and handed out for writing.

Every 512-byte sector of the FIFO begins with a record and is filled to its end, so that any mix of old and new sectors
can be walked. A record gets the next sequence number; the end of the active range is where the numbers stop to follow
each other. Sectors of a 16 KiB buffer behind the append point hold DUMMY records with numbers far away
(`FIFO_SEQ_PREFORMAT`); the buffers behind it hold those of the last lap. Below version 4 all numbers are 0, and only
the volume header knows the range.
"""

from __future__ import annotations

import struct

from hammerfs.addr import zone2_of
from hammerfs.const import (
    BUFMASK,
    BUFSIZE,
    FIFO_HEAD_SIGNATURE,
    FIFO_SEQ_PREFORMAT,
    FIFO_TAIL_SIGNATURE,
    FIFO_TYPE_REDO,
    FIFO_TYPE_UNDO,
    REDO_SYNC,
    REDO_WRITE,
    UNDO_SECTOR,
    VERSION_REDO,
    ZONE_RAW_VOLUME,
    ZONE_SHIFT,
)
from hammerfs.errors import FifoFull, InvalidError
from hammerfs.ondisk.fifo import HEAD_SIZE, REDO_HEAD, TAIL_SIZE, UNDO_HEAD, RedoRecord, encode_dummy, encode_pad
from hammerfs.ondisk.volume import FIELD_OFFSETS
from hammerfs.recover import SMALLEST_RECORD, RecoveryScan
from hammerfs.undo import FIFO_BASE, UndoFifo
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes

RESERVE = 49152
"""Bytes of the FIFO that are never laid down, so that its end does not run into its start."""
Run = tuple[Volume, int, list[memoryview | bytes]]
"""Bytes to write: the volume, the byte offset in it, the pieces that follow each other there."""

_HEAD = struct.Struct("<HHII")
_TAIL = struct.Struct("<HHI")
_UNDO = struct.Struct("<QiI")
_REDO = struct.Struct("<qqiIIIQ")
_SECTOR_MASK = UNDO_SECTOR - 1
_SEQ_MASK = 0xFFFFFFFF
_UNDO_OVERHEAD = UNDO_HEAD + TAIL_SIZE
_REDO_OVERHEAD = REDO_HEAD + TAIL_SIZE
_UNDO_FULL = UNDO_SECTOR - _UNDO_OVERHEAD
"""Bytes that an UNDO record of a whole sector saves."""
_FIELDS = {
    "vol_count": struct.Struct("<i"),
    "vol_version": struct.Struct("<I"),
    "vol0_stat_bigblocks": struct.Struct("<q"),
    "vol0_stat_freebigblocks": struct.Struct("<q"),
    "vol0_stat_inodes": struct.Struct("<q"),
    "vol0_btree_root": struct.Struct("<Q"),
}


def _end(rec_type: int, nbytes: int) -> bytes:
    """What follows a body of `nbytes`: padding and tail."""
    fill = -nbytes & 7
    size = HEAD_SIZE + nbytes + fill + TAIL_SIZE
    return bytes(fill) + _TAIL.pack(FIFO_TAIL_SIGNATURE, rec_type, size)


_ENDS = {
    rec_type: [_end(rec_type, nbytes) for nbytes in range(UNDO_SECTOR - HEAD_SIZE - TAIL_SIZE + 1)]
    for rec_type in (FIFO_TYPE_UNDO, FIFO_TYPE_REDO)
}
"""By record type and length of the body: what comes behind the body."""


class UndoWriter:
    """Lays down records at the append point.

    Args:
        volumes: The set; its root volume holds the FIFO.
        first: Zone-3 address where the active range begins.
        next_off: Zone-3 address of the append point.
        seqno: Number of the next record (ignored below version 4).

    Raises:
        CorruptError: The header describes no possible FIFO.
        DeviceError: The buffer at the append point can't be read.
    """

    def __init__(self, volumes: Volumes, *, first: int, next_off: int, seqno: int) -> None:
        fifo = UndoFifo(volumes)
        self._volumes = volumes
        self._end = fifo.end
        self._limit = fifo.size - RESERVE
        self.size = fifo.size
        """Bytes of the FIFO."""
        self.span = 0
        """Counts flush spans: what carries the present number has been saved in this one."""
        self.go_on(first=first, next_off=next_off, seqno=seqno)

    def go_on(self, *, first: int, next_off: int, seqno: int) -> None:
        """Go on at another place, by the rules of the volume version: it has changed, and the FIFO been rewritten.

        Args:
            first: As for the constructor.
            next_off: As for the constructor.
            seqno: As for the constructor.

        Raises:
            DeviceError: As the constructor.
        """
        volumes = self._volumes
        self.first = first
        """Start of the active range, zone 3."""
        self.next = next_off if next_off < self._end else FIFO_BASE
        """Append point, zone 3."""
        self._step = 1 if volumes.version >= VERSION_REDO else 0
        self.seqno = seqno & _SEQ_MASK if self._step else 0
        """Number of the next record."""
        self.durable_first = first
        """Start of the active range on the media: set by whoever writes the header. Space is measured against it."""
        self._saved: dict[int, int] = {}
        self._crc = volumes.rule.compute
        self._full: list[tuple[int, memoryview, int]] = []
        self._mem = memoryview(bytearray(BUFSIZE))
        self._base = self.next & ~BUFMASK
        self._dirty_from = BUFSIZE
        """First byte of the buffer at the append point that is not on the media; 16384 when all of it is."""
        self._entry_seq = self.seqno
        self._formatted = False
        """Whether the sectors behind the append point hold DUMMY records already."""
        if self.next & BUFMASK:
            volume, byte_off = volumes.locate(self._base, BUFSIZE)
            volume.dev.preadv(byte_off, [self._mem])

    @classmethod
    def from_scan(cls, volumes: Volumes, scan: RecoveryScan) -> UndoWriter:
        """Go on where the active range ends.

        Raises:
            CorruptError: As the constructor.
            DeviceError: As the constructor.
        """
        return cls(volumes, first=scan.first, next_off=scan.last, seqno=scan.next_seq)

    @property
    def free_bytes(self) -> int:
        """Bytes of records that may still be laid down."""
        return self._limit - (self.next - self.durable_first) % self.size

    def begin_span(self) -> None:
        """A new flush span begins: everything has to be saved again before its first change."""
        self.span += 1
        self._saved.clear()

    def restart(self) -> None:
        """Begin the active range anew behind a record whose number lies ahead of all that may be on the media.

        A writer that was interrupted between two barriers may have left records behind the end of the range: sectors
        that were written while earlier ones were not. Numbers that go on from the end could make them follow ours. So
        before the first flush of a session the numbers jump. The caller then writes `take_dirty`, a barrier, and the
        header with the new `first` and `next`, before any record laid down later counts.

        Raises:
            FifoFull: No space.
        """
        if self._step:
            self._need(2 * UNDO_SECTOR)
            if self.next & _SECTOR_MASK:
                self._pad()
            pos = self.next & BUFMASK
            if not pos:
                self._enter()
            self.seqno = (self.seqno + self.size // SMALLEST_RECORD) & _SEQ_MASK
            self._mem[pos : pos + UNDO_SECTOR] = encode_dummy(self.seqno, self._volumes.rule)
            self._advance(pos, UNDO_SECTOR)
            self.seqno = (self.seqno + 1) & _SEQ_MASK
        self.first = self.next

    def save(self, off: int, old: memoryview | bytes) -> None:
        """Save old bytes that are about to change; nothing is done when they were saved in this span.

        Args:
            off: Address of the first byte, zone 1, 2, 4 or 8..15.
            old: The bytes, inside one 16 KiB buffer.

        Raises:
            FifoFull: No space.
            InvalidError: The range crosses the end of its buffer.
        """
        if off >> ZONE_SHIFT != ZONE_RAW_VOLUME:
            off = zone2_of(off)
        nbytes = len(old)
        if self._saved.get(off, 0) >= nbytes:
            return
        if (off & BUFMASK) + nbytes > BUFSIZE:
            raise InvalidError(f"UNDO of {nbytes} bytes crosses the end of a buffer", offset=off)
        self._need((nbytes // _UNDO_FULL + 2) * UNDO_SECTOR)
        self._saved[off] = nbytes
        old = bytes(old)
        done = 0
        while done < nbytes:
            room = self._room(_UNDO_OVERHEAD)
            data = old[done : done + room]
            self._lay(FIFO_TYPE_UNDO, _UNDO.pack(off + done, len(data), 0) + data)
            done += room

    def save_field(self, name: str) -> None:
        """Save a field of the root volume header as it is now in memory.

        Args:
            name: `vol0_blockmap`, or one of the counters and pointers that change during use.

        Raises:
            FifoFull: No space.
        """
        head = self._volumes.superblock
        if name == "vol0_blockmap":
            old = b"".join([desc.encode() for desc in head.vol0_blockmap])
        else:
            old = _FIELDS[name].pack(getattr(head, name))
        self.save(ZONE_RAW_VOLUME << ZONE_SHIFT | FIELD_OFFSETS[name], old)

    def log_redo(self, record: RedoRecord) -> int:
        """Log a file operation; the data of a WRITE, however long, is cut into records of a sector.

        Returns:
            Zone-3 address of the first record.

        Raises:
            FifoFull: No space.
        """
        obj_id, offset, nbytes, flags, localization, mtime, payload = record
        size = len(payload)
        self._need((size // (UNDO_SECTOR - _REDO_OVERHEAD) + 2) * UNDO_SECTOR)
        done = start = 0
        while not start or done < size:
            room = self._room(_REDO_OVERHEAD)
            start = start or self.next
            data = payload[done : done + room]
            if flags == REDO_WRITE:
                nbytes = len(data)
            self._lay(FIFO_TYPE_REDO, _REDO.pack(obj_id, offset + done, nbytes, flags, localization, 0, mtime) + data)
            done += room
        return start

    def log_sync(self, oldest: int) -> None:
        """Log the address of the oldest REDO record that is still needed.

        Raises:
            FifoFull: No space.
        """
        self.log_redo(RedoRecord(0, oldest, 0, REDO_SYNC, 0, 0, b""))

    def take_dirty(self) -> list[Run]:
        """What has to be written, oldest first, neighbours joined; from now on it counts as written.

        The pieces stay as they are, whatever is laid down later.
        """
        pieces: list[tuple[int, memoryview | bytes]] = [(base + beg, mem[beg:]) for base, mem, beg in self._full]
        self._full = []
        if self._dirty_from < BUFSIZE:
            beg = self._dirty_from & ~_SECTOR_MASK
            pieces.append((self._base + beg, bytes(self._mem[beg : self._fill()])))
            self._dirty_from = BUFSIZE
        runs: list[Run] = []
        follows = -1
        for off, piece in pieces:
            volume, byte_off = self._volumes.locate(off, len(piece))
            if byte_off == follows:
                runs[-1][2].append(piece)
            else:
                runs.append((volume, byte_off, [piece]))
            follows = byte_off + len(piece)
        return runs

    def _need(self, nbytes: int) -> None:
        if nbytes > self.free_bytes:
            raise FifoFull(f"the UNDO FIFO has {self.free_bytes} bytes left, {nbytes} are needed", offset=self.next)

    def _room(self, overhead: int) -> int:
        """Move the append point to where a record with `overhead` bytes beside its data fits; most bytes of data."""
        pos = self.next & BUFMASK
        room = UNDO_SECTOR - (pos & _SECTOR_MASK) - overhead
        if room <= 0:
            self._pad()
            pos, room = self.next & BUFMASK, UNDO_SECTOR - overhead
        if not pos:
            self._enter()
        return room

    def _pad(self) -> None:
        """Fill the sector at the append point, and go behind it."""
        pos = self.next & BUFMASK
        room = UNDO_SECTOR - (pos & _SECTOR_MASK)
        self._mem[pos : pos + room] = encode_pad(room)
        self._advance(pos, room)

    def _enter(self) -> None:
        """The append point enters a new buffer, which is never read."""
        if self._dirty_from < BUFSIZE:
            self._full.append((self._base, self._mem, self._dirty_from & ~_SECTOR_MASK))
        self._mem = memoryview(bytearray(BUFSIZE))
        self._base = self.next
        self._dirty_from = 0
        self._entry_seq = self.seqno
        self._formatted = False

    def _lay(self, rec_type: int, body: bytes) -> None:
        """Put a record at the append point, where it fits, and go behind it."""
        seq = self.seqno
        rest = body + _ENDS[rec_type][len(body)]
        size = HEAD_SIZE + len(rest)
        head = _HEAD.pack(FIFO_HEAD_SIGNATURE, rec_type, size, seq)
        pos = self.next & BUFMASK
        crc = self._crc(head, 0) ^ self._crc(rest, 0)
        self._mem[pos : pos + size] = head + crc.to_bytes(4, "little") + rest
        self.seqno = seq + self._step & _SEQ_MASK
        self._advance(pos, size)

    def _advance(self, pos: int, size: int) -> None:
        if pos < self._dirty_from:
            self._dirty_from = pos
        self.next += size
        if self.next == self._end:
            self.next = FIFO_BASE

    def _fill(self) -> int:
        """Make the buffer at the append point whole; returns the end of what has to be written."""
        pos = (self.next - 1 & BUFMASK) + 1
        room = -pos & _SECTOR_MASK
        if room:
            self._mem[pos : pos + room] = encode_pad(room)
        pos += room
        if self._formatted:
            return pos
        self._formatted = True
        number = self._entry_seq ^ FIFO_SEQ_PREFORMAT if self._step else 0
        for beg in range(pos, BUFSIZE, UNDO_SECTOR):
            seq = number + beg // UNDO_SECTOR * self._step & _SEQ_MASK
            self._mem[beg : beg + UNDO_SECTOR] = encode_dummy(seq, self._volumes.rule)
        return BUFSIZE
