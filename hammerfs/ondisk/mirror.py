"""Records of a mirror stream (hammer_disk.h: hammer_mrecord): what mirror-read writes and mirror-write reads.

Every record is padded to 8 bytes in the stream; the padding is not counted in rec_size. Checksums are CRC-32 on
every version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hammerfs.const import ELM_SIZE, XBUFSIZE
from hammerfs.crc import Data, crc32
from hammerfs.errors import CorruptError, CrcError
from hammerfs.ondisk.node import BaseElm, LeafElm
from hammerfs.ondisk.records import PFS_SIZE, PfsData

_HEAD = struct.Struct("<IIII")
HEAD_SIZE = 16
assert _HEAD.size == HEAD_SIZE
MREC_SIGNATURE = 0x4DD97272
MREC_SIGNATURE_REV = 0x7272D94D
MREC_REC = 1
MREC_PFSD = 2
MREC_UPDATE = 3
MREC_SYNC = 4
MREC_SKIP = 5
MREC_PASS = 6
MREC_TERM = 7
MREC_IDLE = 8
MREC_TYPE_MASK = 0x800000FF
MREC_CRC_ERROR = 0x80000000
MREC_DATA_CRC_BAD = 0x40000000
MREC_RECD = 0x20000000
MREC_NODATA = 0x10000000
REC_HEAD = HEAD_SIZE + ELM_SIZE
PFSD_SIZE = HEAD_SIZE + 8 + PFS_SIZE
SKIP_SIZE = HEAD_SIZE + 80
SHORT_SIZE = 24
"""Size of UPDATE, SYNC, TERM and IDLE."""
MAX_REC_SIZE = 320 + XBUFSIZE
_MIN_SIZE = {
    MREC_REC: REC_HEAD,
    MREC_PFSD: PFSD_SIZE,
    MREC_UPDATE: SHORT_SIZE,
    MREC_SYNC: HEAD_SIZE,
    MREC_SKIP: SKIP_SIZE,
    MREC_PASS: REC_HEAD,
    MREC_TERM: HEAD_SIZE,
    MREC_IDLE: HEAD_SIZE,
}


@dataclass(slots=True)
class MirrorRecord:
    """One record; only the fields of its type are set."""

    type: int
    """MREC_* type without flags."""
    flags: int = 0
    leaf: LeafElm | None = None
    """REC and PASS."""
    data: bytes = b""
    """REC: payload."""
    pfsd: PfsData | None = None
    """PFSD."""
    pfsd_version: int = 1
    tid: int = 0
    """UPDATE."""
    skip_beg: BaseElm | None = None
    """SKIP: first key left out."""
    skip_end: BaseElm | None = None
    """SKIP: first key sent again."""
    body: bytes = b""
    """SYNC, TERM, IDLE: whatever follows the head."""

    def encode(self) -> bytes:
        """The record with its checksum, without padding."""
        body = self._body()
        size = HEAD_SIZE + len(body)
        tail = struct.pack("<II", size, self.type | self.flags) + body
        return struct.pack("<II", MREC_SIGNATURE, crc32(tail, 0)) + tail

    def _body(self) -> bytes:
        if self.type in {MREC_REC, MREC_PASS} and self.leaf is not None:
            return self.leaf.encode() + self.data
        if self.type == MREC_PFSD and self.pfsd is not None:
            return struct.pack("<II", self.pfsd_version, 0) + self.pfsd.encode() + self.body
        if self.type == MREC_UPDATE:
            return struct.pack("<Q", self.tid)
        if self.type == MREC_SKIP and self.skip_beg is not None and self.skip_end is not None:
            return self.skip_beg.encode() + self.skip_end.encode()
        return self.body


def padded(record: MirrorRecord) -> bytes:
    """A record as it stands in a stream."""
    raw = record.encode()
    return raw + bytes(-len(raw) & 7)


def decode_head(buf: Data) -> tuple[int, int, int]:
    """Check the first 16 bytes of a record.

    Returns:
        rec_size, type and flags of the record.

    Raises:
        CorruptError: Bad signature, unknown type, or a size the type does not allow.
    """
    signature, _, size, typed = _HEAD.unpack_from(buf)
    if signature == MREC_SIGNATURE_REV:
        raise CorruptError("mirror stream of the other byte order")
    if signature != MREC_SIGNATURE:
        raise CorruptError(f"mirror record has signature {signature:08x}")
    rec_type, flags = typed & 0xFF, typed & ~0xFF
    if rec_type not in _MIN_SIZE:
        raise CorruptError(f"mirror record has type {rec_type}")
    if not _MIN_SIZE[rec_type] <= size <= MAX_REC_SIZE:
        raise CorruptError(f"mirror record of type {rec_type} has size {size}")
    return size, rec_type, flags


def check_record(buf: Data) -> tuple[int, int, int]:
    """Check the whole record at the start of `buf`, as far as that goes without a look at its contents.

    Returns:
        As `decode_head`.

    Raises:
        CorruptError: Bad head, or fewer bytes than the head says.
        CrcError: Bad checksum.
    """
    if len(buf) < HEAD_SIZE:
        raise CorruptError("mirror stream ends inside a record")
    size, rec_type, flags = decode_head(buf)
    if len(buf) < size:
        raise CorruptError("mirror stream ends inside a record")
    want, found = _HEAD.unpack_from(buf)[1], crc32(memoryview(buf)[8:size], 0)
    if want != found:
        raise CrcError("mirror record", want=want, found=found)
    return size, rec_type, flags


def decode_record(buf: Data) -> MirrorRecord:
    """Decode the whole record at the start of `buf`.

    Raises:
        CorruptError: As `check_record`.
    """
    size, rec_type, flags = check_record(buf)
    view = memoryview(buf)[:size]
    body = view[HEAD_SIZE:]
    rec = MirrorRecord(rec_type, flags)
    if rec_type in {MREC_REC, MREC_PASS}:
        rec.leaf = LeafElm.decode(body)
        rec.data = bytes(body[ELM_SIZE:])
    elif rec_type == MREC_PFSD:
        rec.pfsd_version = struct.unpack_from("<I", body)[0]
        rec.pfsd = PfsData.decode(body[8 : 8 + PFS_SIZE])
        rec.body = bytes(body[8 + PFS_SIZE :])
    elif rec_type == MREC_UPDATE:
        rec.tid = struct.unpack_from("<Q", body)[0]
    elif rec_type == MREC_SKIP:
        rec.skip_beg, rec.skip_end = BaseElm.decode(body), BaseElm.decode(body, 40)
    else:
        rec.body = bytes(body)
    return rec


def decode_stream(buf: Data) -> list[tuple[int, MirrorRecord]]:
    """All records of a stream held in memory, each with its offset.

    Raises:
        CorruptError: As for `decode_record`, with the offset of the record.
    """
    view = memoryview(buf)
    pos, records = 0, []
    while pos < len(view):
        try:
            rec = decode_record(view[pos:])
        except CrcError as err:
            raise CrcError("mirror record", want=err.want, found=err.found, offset=pos) from None
        except CorruptError as err:
            raise CorruptError(err.what, offset=pos) from None
        records.append((pos, rec))
        pos += (int(_HEAD.unpack_from(view, pos)[2]) + 7) & ~7
    return records
