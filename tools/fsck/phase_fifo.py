"""Phase: every record of the UNDO/REDO FIFO, as it is on the media.

Recovery needs only the active range; what lies elsewhere is checked because it shows damage of the media before it
matters. Most sectors of a FIFO hold the DUMMY records of the formatter, whose bytes are known but for two numbers.
"""

from __future__ import annotations

import struct

from hammerfs.const import (
    BIGBLOCK_SIZE,
    BUFSIZE,
    FIFO_HEAD_SIGNATURE,
    FIFO_TAIL_SIGNATURE,
    FIFO_TYPE_DUMMY,
    FIFO_TYPE_REDO,
    FIFO_TYPE_UNDO,
    UNDO_SECTOR,
    VERSION_REDO,
)
from hammerfs.crc import CrcRule
from hammerfs.errors import CorruptError, HammerError
from hammerfs.ondisk.fifo import TAIL_SIZE, UNDO_HEAD, decode_head, decode_redo, decode_undo, encode_dummy
from hammerfs.undo import FIFO_BASE, UndoFifo
from hammerfs.volumes import Volumes
from tools.fsck.context import Progress
from tools.fsck.findings import Report

_SECTOR = struct.Struct("<12sI496s")
_WHOLE = {
    struct.pack("<HHI", FIFO_HEAD_SIGNATURE, kind, UNDO_SECTOR): struct.pack(
        "<HHI", FIFO_TAIL_SIGNATURE, kind, UNDO_SECTOR
    )
    for kind in (FIFO_TYPE_DUMMY, FIFO_TYPE_UNDO)
}
"""Start and end of records that fill a sector, as most do."""
_MAX_UNDO = UNDO_SECTOR - UNDO_HEAD - TAIL_SIZE
"""Most bytes that one UNDO record restores; where it says how many, a DUMMY has zeros."""
_SEQ, _CRC = slice(8, 12), slice(12, 16)
"""Where a record has its sequence number and its checksum."""
_CHUNK = 64 * BUFSIZE
assert _SECTOR.size == UNDO_SECTOR


def run(report: Report, volumes: Volumes, progress: Progress) -> None:
    """Check all records.

    Args:
        report: Takes the findings.
        volumes: The set, before any recovery.
        progress: Told how far it has come.
    """
    try:
        fifo = UndoFifo(volumes)
    except CorruptError:
        return  # told with the zone descriptor
    checker = _Records(report, volumes.rule, volumes.version)
    for off in range(FIFO_BASE, fifo.end, _CHUNK):
        progress("FIFO", off - FIFO_BASE, fifo.size)
        try:
            volume, byte_off = volumes.locate(off, min(_CHUNK, BIGBLOCK_SIZE))
            chunk = volume.dev.pread(byte_off, _CHUNK)
        except HammerError as err:
            report.add("fifo-unreadable", err.what, offset=off)
            continue
        checker.chunk(off, chunk)
    checker.finish()


class _Formatted:
    """Knows a chunk in which every sector is a DUMMY record, all sectors at once.

    The bytes of such records are known but for sequence number and checksum, and a checksum is linear in the bits of
    the number: byte `j` of it is the XOR of one table look-up for each byte `i` of the number. Whole columns of bytes
    go through the tables in one call.
    """

    def __init__(self, rule: CrcRule) -> None:
        self._template = encode_dummy(0, rule) * (_CHUNK // UNDO_SECTOR)
        zero = _number(encode_dummy(0, rule)[_CRC])
        crcs = [[_number(encode_dummy(b << 8 * i, rule)[_CRC]) ^ zero for b in range(256)] for i in range(4)]
        self._tables = [[bytes(crc >> 8 * j & 0xFF for crc in crcs[i]) for i in range(4)] for j in range(4)]
        self._zero = [_number(bytes([zero >> 8 * j & 0xFF]) * (_CHUNK // UNDO_SECTOR)) for j in range(4)]

    def is_sound(self, chunk: bytes) -> bool:
        """Whether all sectors are DUMMY records with right checksums."""
        if chunk[: _SEQ.start] != self._template[: _SEQ.start]:
            return False
        columns = [chunk[at::UNDO_SECTOR] for at in range(_SEQ.start, _CRC.stop)]
        want = bytearray(self._template)
        for at, column in enumerate(columns, _SEQ.start):
            want[at::UNDO_SECTOR] = column
        if want != chunk:
            return False
        for tables, crc, stored in zip(self._tables, self._zero, columns[4:], strict=True):
            for table, column in zip(tables, columns, strict=False):
                crc ^= _number(column.translate(table))
            if crc != _number(stored):
                return False
        return True


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


class _Records:
    """Checks chunks of the FIFO, buffer by buffer."""

    def __init__(self, report: Report, rule: CrcRule, version: int) -> None:
        self._report = report
        self._rule = rule
        self._may_be_unwritten = version < VERSION_REDO
        """The first formatters left the FIFO as they found it: zeros, or what an earlier file system had there."""
        self._unwritten = 0
        self._foreign: list[tuple[int, str]] = []
        """Buffers that begin with no record, on such versions."""
        self._formatted = _Formatted(rule)

    def chunk(self, off: int, chunk: bytes) -> None:
        """Check the buffers of a chunk that begins at a zone-3 address."""
        if self._formatted.is_sound(chunk):
            return
        compute = self._rule.compute
        at = skip_to = 0
        for head, crc, body in _SECTOR.iter_unpack(chunk):
            if at >= skip_to and not (
                body.endswith(_WHOLE.get(head[:8], b"no such tail"))
                and compute(head, 0) ^ compute(body, 0) == crc
                and int.from_bytes(body[8:12], "little") <= _MAX_UNDO
            ):
                skip_to = self._slow(off, chunk, at)
            at += UNDO_SECTOR

    def finish(self) -> None:
        """The whole FIFO has been seen."""
        if self._unwritten:
            what = f"{self._unwritten} bytes never written, as old formatters left them"
            self._report.add("fifo-unwritten", what, offset=FIFO_BASE)
            return
        for off, what in self._foreign:
            self._report.add("fifo-record", what, offset=off)

    def _note_unwritten(self, off: int, buf: bytes, pos: int, what: str) -> None:
        if not _is_zero(buf, pos):
            if len(self._foreign) < self._report.limit:
                self._foreign.append((off, what))
        else:
            self._unwritten += BUFSIZE - pos

    def _slow(self, off: int, chunk: bytes, at: int) -> int:
        """Check from one record on up to the next one that begins a sector; where that is in the chunk."""
        beg = at - at % BUFSIZE
        buf, pos = chunk[beg : beg + BUFSIZE], at - beg
        while pos < BUFSIZE:
            try:
                head = decode_head(buf, pos, self._rule)
                if head.type == FIFO_TYPE_UNDO:
                    decode_undo(buf, pos, head.size)
                elif head.type == FIFO_TYPE_REDO:
                    decode_redo(buf, pos, head.size)
            except CorruptError as err:
                if self._may_be_unwritten and (pos == 0 or _is_zero(buf, pos)):
                    self._note_unwritten(off + beg, buf, pos, err.what)
                    return beg + BUFSIZE
                self._report.add("fifo-record", err.what, offset=off + beg + pos)
                pos = pos - pos % UNDO_SECTOR + UNDO_SECTOR
                return beg + pos
            pos += head.size
            if pos % UNDO_SECTOR == 0:
                break
        return beg + pos


def _is_zero(buf: bytes, pos: int) -> bool:
    return buf.count(0, pos) == len(buf) - pos
