"""Records of the UNDO/REDO FIFO (hammer_disk.h: hammer_fifo_head, _tail, _undo, _redo)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from hammerfs.const import (
    BUFSIZE,
    FIFO_HEAD_SIGNATURE,
    FIFO_TAIL_SIGNATURE,
    FIFO_TYPE_DUMMY,
    FIFO_TYPE_PAD,
    FIFO_TYPE_REDO,
    FIFO_TYPE_UNDO,
    UNDO_SECTOR,
)
from hammerfs.crc import CrcRule, Data
from hammerfs.errors import CorruptError

_HEAD = struct.Struct("<HHIII")
_TAIL = struct.Struct("<HHI")
_UNDO = struct.Struct("<QiI")
_REDO = struct.Struct("<qqiIIIQ")
HEAD_SIZE = 16
TAIL_SIZE = 8
UNDO_HEAD = 32
"""Head and fixed part of an UNDO record."""
REDO_HEAD = 56
"""Head and fixed part of a REDO record."""
MIN_PAD = 8
assert _HEAD.size == HEAD_SIZE
assert _TAIL.size == TAIL_SIZE
assert HEAD_SIZE + _UNDO.size == UNDO_HEAD
assert HEAD_SIZE + _REDO.size == REDO_HEAD
_KNOWN = frozenset({FIFO_TYPE_PAD, FIFO_TYPE_DUMMY, FIFO_TYPE_UNDO, FIFO_TYPE_REDO})


class FifoHead(NamedTuple):
    """Start of every record."""

    signature: int
    type: int
    size: int
    """Bytes of the whole record, head and tail included; a multiple of 8."""
    seq: int
    """Sequence number; 0 below version 4, meaningless in a PAD."""
    crc: int


class UndoRecord(NamedTuple):
    """Old bytes of a piece of metadata."""

    undo_offset: int
    """Zone-1 (volume header) or zone-2 address of the first byte."""
    data: bytes


class RedoRecord(NamedTuple):
    """A logical file operation."""

    obj_id: int
    offset: int
    """File offset; the new size of TRUNC; a FIFO address of SYNC."""
    data_bytes: int
    flags: int
    """One of the REDO_* values."""
    localization: int
    """PFS id << 16."""
    mtime: int
    """Microseconds."""
    data: bytes
    """Payload of WRITE, else empty."""


def align8(n: int) -> int:
    """Round up to 8."""
    return (n + 7) & ~7


def decode_head(buf: Data, pos: int, rule: CrcRule) -> FifoHead:
    """Check the record at `pos` of a 16 KiB FIFO buffer.

    Args:
        buf: One buffer of the FIFO.
        pos: Offset of the record in it, 0..16383.
        rule: Checksums of the volume version.

    Returns:
        Its head. For a PAD of 8 bytes, which has no more than the first half of a head, seq and crc are 0.

    Raises:
        CorruptError: Bad signature, size, type, tail or checksum; the message does not name the place.
    """
    if pos + MIN_PAD > BUFSIZE:
        raise CorruptError("FIFO record crosses the end of its buffer")
    signature, rec_type, size = _TAIL.unpack_from(buf, pos)
    if signature != FIFO_HEAD_SIGNATURE:
        raise CorruptError(f"FIFO record has signature {signature:04x}")
    if rec_type not in _KNOWN:
        raise CorruptError(f"FIFO record has type {rec_type:04x}")
    if size < MIN_PAD or size & 7 or pos + size > BUFSIZE:
        raise CorruptError(f"FIFO record has size {size}")
    if rec_type == FIFO_TYPE_PAD and size < HEAD_SIZE:
        return FifoHead(signature, rec_type, size, 0, 0)
    if _TAIL.unpack_from(buf, pos + size - TAIL_SIZE) != (FIFO_TAIL_SIGNATURE, rec_type, size):
        raise CorruptError("FIFO record's tail does not repeat its head")
    head = FifoHead._make(_HEAD.unpack_from(buf, pos))
    if rec_type == FIFO_TYPE_PAD:
        return head
    if size < HEAD_SIZE + TAIL_SIZE:
        raise CorruptError(f"FIFO record has size {size}")
    view = memoryview(buf)
    if not rule.matches(head.crc, view[pos : pos + 12], view[pos + HEAD_SIZE : pos + size]):
        raise CorruptError("FIFO record has a bad CRC")
    return head


def size_before(buf: Data, end: int) -> int:
    """Size of the record that ends at `end` (1..16384) of a FIFO buffer, from its last 8 bytes.

    Raises:
        CorruptError: No tail (nor an 8-byte PAD) there.
    """
    if end < MIN_PAD:
        raise CorruptError("no FIFO record ends here")
    signature, rec_type, size = _TAIL.unpack_from(buf, end - TAIL_SIZE)
    small_pad = signature == FIFO_HEAD_SIGNATURE and rec_type == FIFO_TYPE_PAD and size == MIN_PAD
    if signature != FIFO_TAIL_SIGNATURE and not small_pad:
        raise CorruptError(f"FIFO tail has signature {signature:04x}")
    if size < MIN_PAD or size & 7 or size > end:
        raise CorruptError(f"FIFO tail has size {size}")
    return int(size)


def decode_undo(buf: Data, pos: int, size: int) -> UndoRecord:
    """Body of the UNDO record at `pos`, already checked by `decode_head`.

    Raises:
        CorruptError: The saved bytes do not fit the record.
    """
    if size < UNDO_HEAD + TAIL_SIZE:
        raise CorruptError(f"UNDO record has size {size}")
    undo_offset, data_bytes, _ = _UNDO.unpack_from(buf, pos + HEAD_SIZE)
    if not 0 <= data_bytes <= size - UNDO_HEAD - TAIL_SIZE:
        raise CorruptError(f"UNDO record of {size} bytes claims {data_bytes} bytes of data")
    start = pos + UNDO_HEAD
    return UndoRecord(undo_offset, bytes(buf[start : start + data_bytes]))


def decode_redo(buf: Data, pos: int, size: int) -> RedoRecord:
    """Body of the REDO record at `pos`, already checked by `decode_head`.

    Raises:
        CorruptError: The data does not fit the record.
    """
    if size < REDO_HEAD + TAIL_SIZE:
        raise CorruptError(f"REDO record has size {size}")
    obj_id, offset, data_bytes, flags, localization, _, mtime = _REDO.unpack_from(buf, pos + HEAD_SIZE)
    data = b""
    if flags & 1:
        if not 0 <= data_bytes <= size - REDO_HEAD - TAIL_SIZE:
            raise CorruptError(f"REDO record of {size} bytes claims {data_bytes} bytes of data")
        data = bytes(buf[pos + REDO_HEAD : pos + REDO_HEAD + data_bytes])
    return RedoRecord(obj_id, offset, data_bytes, flags, localization, mtime, data)


def _seal(rec_type: int, seq: int, body: bytes, rule: CrcRule) -> bytes:
    size = HEAD_SIZE + len(body) + TAIL_SIZE
    head = _HEAD.pack(FIFO_HEAD_SIGNATURE, rec_type, size, seq, 0)[:12]
    rest = body + _TAIL.pack(FIFO_TAIL_SIGNATURE, rec_type, size)
    return head + rule.of(head, rest).to_bytes(4, "little") + rest


def encode_undo(rec: UndoRecord, seq: int, rule: CrcRule) -> bytes:
    """A whole UNDO record."""
    body = _UNDO.pack(rec.undo_offset, len(rec.data), 0) + rec.data
    return _seal(FIFO_TYPE_UNDO, seq, body.ljust(align8(len(body)), b"\0"), rule)


def encode_redo(rec: RedoRecord, seq: int, rule: CrcRule) -> bytes:
    """A whole REDO record."""
    fixed = _REDO.pack(rec.obj_id, rec.offset, rec.data_bytes, rec.flags, rec.localization, 0, rec.mtime)
    body = fixed + rec.data
    return _seal(FIFO_TYPE_REDO, seq, body.ljust(align8(len(body)), b"\0"), rule)


def encode_dummy(seq: int, rule: CrcRule) -> bytes:
    """A DUMMY record, one whole sector of 512 bytes."""
    return _seal(FIFO_TYPE_DUMMY, seq, bytes(UNDO_SECTOR - HEAD_SIZE - TAIL_SIZE), rule)


def encode_pad(size: int) -> bytes:
    """A PAD of `size` bytes (a multiple of 8): no sequence number, no checksum, and at 8 bytes no tail."""
    head = _TAIL.pack(FIFO_HEAD_SIGNATURE, FIFO_TYPE_PAD, size)
    if size < HEAD_SIZE:
        return head
    return head + bytes(size - HEAD_SIZE) + _TAIL.pack(FIFO_TAIL_SIGNATURE, FIFO_TYPE_PAD, size)
