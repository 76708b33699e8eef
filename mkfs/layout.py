"""What a freshly formatted file system consists of: pure arithmetic and bytes, no I/O.

Volume 0 holds, by big-block of its zone-2 space: the layer-1 table, its layer-2 tables, the UNDO FIFO, the first
big-block of zone 8 (the root node) and of zone 9 (root inode and PFS 0). Every other volume begins with its own layer-2
tables. Byte for byte this is what newfs_hammer(8) writes, its quirks included: `vol_crc` stays 0, the checksums of the
zone 8 and 9 descriptors are those before the root directory was allocated, and `vol0_next_tid` is one less than the
TID of the first records. The first flush puts these right.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from hammerfs.addr import encode, round16
from hammerfs.const import (
    BIGBLOCK_SIZE,
    BOOT_AREA_MIN,
    BTREE_TYPE_LEAF,
    BTREE_TYPE_RECORD,
    BUFMASK,
    BUFSIZE,
    CAP_DIR_LOCAL_INO,
    CAP_DIRHASH_ALG1,
    LAYER1_ENTRIES,
    LAYER1_PER_VOLUME,
    LAYER1_SPAN,
    LAYER2_ENTRIES,
    LOCALIZE_INODE,
    LOCALIZE_MISC,
    MAX_UNDO_BIGBLOCKS,
    MAX_VOLUMES,
    MEMORY_LOG_MIN,
    MIN_UNDO_BIGBLOCKS,
    NODE_SIZE,
    OBJID_ROOT,
    OBJTYPE_DIRECTORY,
    OFF_BAD,
    OFF_LONG_MASK,
    RECTYPE_INODE,
    RECTYPE_PFS,
    ROOT_VOLUME,
    UNDO_SECTOR,
    VERSION_DIRHASH1,
    VERSION_DIRLOCAL,
    VOL_HEADER_SIZE,
    ZONE_BTREE,
    ZONE_FREEMAP,
    ZONE_META,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
    ZONE_UNAVAIL,
    ZONE_UNDO,
)
from hammerfs.crc import CrcRule
from hammerfs.errors import InvalidError, UsageError
from hammerfs.ondisk.blockmap import (
    ABSENT_SPAN,
    LAYER1_SIZE,
    LAYER2_SIZE,
    Layer1,
    Layer2,
    ZoneDesc,
    encode_layer2_table,
    full_block,
)
from hammerfs.ondisk.fifo import encode_dummy
from hammerfs.ondisk.node import LeafElm, NodeHead, NodeOndisk
from hammerfs.ondisk.records import INODE_SIZE, PFS_SIZE, InodeData, PfsData, payload_crc
from hammerfs.ondisk.volume import VolumeOndisk, new_header

BOOT_AREA_MAX: Final = 256 << 20
MEMORY_LOG_MAX: Final = 64 << 30
MAX_LABEL: Final = 63

ROOT_META_SIZE: Final = INODE_SIZE + round16(PFS_SIZE)
"""Bytes that root inode and PFS record take in zone 9."""
FIRST_TID: Final = 0x100000000
"""`vol0_next_tid` of a fresh file system; its records carry the next one."""


class Extent(NamedTuple):
    """Bytes to be written: volume number, byte offset in it, data."""

    vol_no: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Params:
    """What is to be formatted. Sizes are bytes.

    `undo_size` 0 takes the default: a thousandth of the root volume, between 512 MiB and 1 GiB.
    """

    label: bytes
    volume_sizes: tuple[int, ...]
    fsid: uuid.UUID
    now_us: int
    """Time of the root directory, microseconds since 1970."""
    version: int = 7
    boot_area: int = BOOT_AREA_MIN
    memory_log: int = MEMORY_LOG_MIN
    undo_size: int = 0


@dataclass(slots=True)
class Span:
    """One layer-2 table: 4 TiB of one volume. Big-blocks below `limit` exist; `owners` are those that are not free."""

    table: int
    """Byte offset of the table in zone-2 space."""
    limit: int
    """Big-blocks of this span that exist."""
    owners: dict[int, Layer2]

    @property
    def free(self) -> int:
        """Free big-blocks."""
        return self.limit - len(self.owners)

    def encode(self, rule: CrcRule) -> bytes:
        """The whole table."""
        return encode_layer2_table(self.limit, self.owners, rule)


@dataclass(slots=True)
class Layout:
    """The computed file system: headers, and by `extents` everything to write."""

    params: Params
    rule: CrcRule
    headers: list[VolumeOndisk]
    layer1: list[Layer1]
    undo_bigblocks: int
    spans: list[list[Span]]
    """For each volume its layer-2 tables."""

    @property
    def preallocated(self) -> int:
        """Bytes taken by freemap and FIFO, as newfs_hammer(8) reports them."""
        return (1 + len(self.spans[ROOT_VOLUME]) + self.undo_bigblocks) * BIGBLOCK_SIZE

    def extents(self) -> Iterator[Extent]:
        """Everything to write, the headers last: an interrupted format leaves no volume that looks complete."""
        root = self.headers[ROOT_VOLUME]
        buf_beg = root.vol_buf_beg
        table = b"".join(entry.encode() for entry in self.layer1)
        absent = ABSENT_SPAN.sealed(self.rule).encode()
        yield Extent(0, buf_beg, table + absent * (LAYER1_ENTRIES - len(self.layer1)))
        for vol_no, spans in enumerate(self.spans):
            for span in spans:
                yield Extent(vol_no, self.headers[vol_no].vol_buf_beg + span.table, span.encode(self.rule))
        yield from self._fifo()
        for address, data in _root_directory(self.params, self.rule, root):
            yield Extent(0, buf_beg + address, data)
        for vol_no, header in enumerate(self.headers):
            yield Extent(vol_no, 0, header.encode().ljust(BUFSIZE, b"\0"))

    def _fifo(self) -> Iterator[Extent]:
        root = self.headers[ROOT_VOLUME]
        per_block = BIGBLOCK_SIZE // UNDO_SECTOR
        for i, address in enumerate(root.vol0_undo_array[: self.undo_bigblocks]):
            sectors = [encode_dummy(seq, self.rule) for seq in range(i * per_block, (i + 1) * per_block)]
            yield Extent(0, root.vol_buf_beg + (address & OFF_LONG_MASK), b"".join(sectors))


def default_undo_size(root_zone2_bytes: int) -> int:
    """FIFO size for a root volume with that much zone-2 space: a thousandth, 512 MiB to 1 GiB, whole big-blocks."""
    size = max(root_zone2_bytes // 1000, MIN_UNDO_BIGBLOCKS * BIGBLOCK_SIZE)
    return min(_round_up(size), MAX_UNDO_BIGBLOCKS * BIGBLOCK_SIZE)


def _round_up(size: int) -> int:
    return -(-size // BIGBLOCK_SIZE) * BIGBLOCK_SIZE


def plan(params: Params) -> Layout:
    """Lay out a file system.

    Raises:
        UsageError: a size is out of range, the label too long, there are too many volumes.
        InvalidError: a volume is too small or too large; its `volume` is the number.
    """
    _check(params)
    rule = CrcRule(params.version)
    headers = [_header(params, vol_no, size) for vol_no, size in enumerate(params.volume_sizes)]
    spans = [_spans_of(header) for header in headers]
    root = headers[ROOT_VOLUME]
    undo_size = _round_up(params.undo_size) if params.undo_size else default_undo_size(root.buf_size)
    undo_bigblocks = undo_size // BIGBLOCK_SIZE
    first = spans[0][0] if spans[0] else None
    used = 1 + len(spans[0]) + undo_bigblocks + 2
    if first is None or used > first.limit:
        needed = root.vol_buf_beg + used * BIGBLOCK_SIZE
        raise InvalidError(
            f"is too small: freemap, FIFO and root directory need {needed} bytes, it has {params.volume_sizes[0]}",
            volume=ROOT_VOLUME,
        )
    first_undo = 1 + len(spans[0])
    for index in range(first_undo, first_undo + undo_bigblocks):
        first.owners[index] = full_block(ZONE_UNDO)
    node_block = first_undo + undo_bigblocks
    first.owners[node_block] = Layer2(ZONE_BTREE, 0, 0, NODE_SIZE, BIGBLOCK_SIZE - NODE_SIZE, 0)
    first.owners[node_block + 1] = Layer2(ZONE_META, 0, 0, ROOT_META_SIZE, BIGBLOCK_SIZE - ROOT_META_SIZE, 0)
    _fill_root(root, params, rule, spans, first_undo, undo_bigblocks)
    layer1 = [ABSENT_SPAN.sealed(rule)] * ((len(headers) - 1) * LAYER1_PER_VOLUME + len(spans[-1]))
    for vol_no, vol_spans in enumerate(spans):
        for i, span in enumerate(vol_spans):
            address = encode(ZONE_RAW_BUFFER, vol_no, span.table)
            layer1[vol_no * LAYER1_PER_VOLUME + i] = Layer1(span.free, address, 0, 0, 0).sealed(rule)
    return Layout(params, rule, headers, layer1, undo_bigblocks, spans)


def _check(params: Params) -> None:
    if not params.label or len(params.label) > MAX_LABEL or b"\0" in params.label:
        raise UsageError(f"a label has 1 to {MAX_LABEL} bytes, not {len(params.label)}")
    if not 1 <= len(params.volume_sizes) <= MAX_VOLUMES:
        raise UsageError(f"a file system has 1 to {MAX_VOLUMES} volumes, not {len(params.volume_sizes)}")
    for what, value, low, high in (
        ("boot area", params.boot_area, BOOT_AREA_MIN, BOOT_AREA_MAX),
        ("memory log", params.memory_log, MEMORY_LOG_MIN, MEMORY_LOG_MAX),
    ):
        if not low <= value <= high or value & BUFMASK:
            raise UsageError(f"the {what} is {value} bytes; it must be {low} to {high}, a multiple of {BUFSIZE}")
    if params.undo_size > MAX_UNDO_BIGBLOCKS * BIGBLOCK_SIZE or params.undo_size & BUFMASK:
        raise UsageError(f"an UNDO FIFO of {params.undo_size} bytes is over 1 GiB or no multiple of {BUFSIZE}")


def _header(params: Params, vol_no: int, size: int) -> VolumeOndisk:
    header = new_header(vol_no, size, boot_area=params.boot_area, memory_log=params.memory_log)
    header.vol_fsid = params.fsid.bytes_le
    header.vol_label = params.label.ljust(64, b"\0")
    header.vol_count = len(params.volume_sizes)
    header.vol_version = params.version
    return header


def _spans_of(header: VolumeOndisk) -> list[Span]:
    """The layer-2 tables of one volume; on the root volume they come behind the layer-1 table."""
    bigblocks = header.buf_size // BIGBLOCK_SIZE
    per_span = LAYER1_SPAN // BIGBLOCK_SIZE
    count = -(-bigblocks // per_span)
    first_table = 1 if header.vol_no == ROOT_VOLUME else 0
    spans = [Span((first_table + i) * BIGBLOCK_SIZE, min(per_span, bigblocks - i * per_span), {}) for i in range(count)]
    for index in range(first_table + count):
        if spans and index < spans[0].limit:
            spans[0].owners[index] = full_block(ZONE_FREEMAP)
    return spans


def _fill_root(
    root: VolumeOndisk,
    params: Params,
    rule: CrcRule,
    spans: list[list[Span]],
    first_undo: int,
    undo_bigblocks: int,
) -> None:
    """The fields of the root volume that describe the file system as a whole."""
    free = sum(span.free for vol_spans in spans for span in vol_spans)
    root.vol0_stat_bigblocks = free + 2
    root.vol0_stat_freebigblocks = free
    root.vol0_stat_inodes = 1
    root.vol0_next_tid = FIRST_TID
    node_block = first_undo + undo_bigblocks
    root.vol0_btree_root = encode(ZONE_BTREE, 0, node_block * BIGBLOCK_SIZE)
    for i in range(undo_bigblocks):
        root.vol0_undo_array[i] = encode(ZONE_RAW_BUFFER, 0, (first_undo + i) * BIGBLOCK_SIZE)
    zones = root.vol0_blockmap
    table = encode(ZONE_RAW_BUFFER, 0, 0)
    zones[ZONE_FREEMAP] = ZoneDesc(table, 0, table, table | OFF_LONG_MASK, 0, 0).sealed(rule)
    fifo = encode(ZONE_UNDO, 0, 0)
    zones[ZONE_UNDO] = ZoneDesc(OFF_BAD, fifo, fifo, fifo + undo_bigblocks * BIGBLOCK_SIZE, 0, 0).sealed(rule)
    for zone in range(ZONE_BTREE, ZONE_UNAVAIL + 1):
        base = zone << ZONE_SHIFT
        zones[zone] = ZoneDesc(0, base, base, base | OFF_LONG_MASK, 0, 0).sealed(rule)
    meta = encode(ZONE_META, 0, (node_block + 1) * BIGBLOCK_SIZE)
    zones[ZONE_BTREE] = zones[ZONE_BTREE]._replace(next_offset=root.vol0_btree_root + NODE_SIZE)
    zones[ZONE_META] = zones[ZONE_META]._replace(next_offset=meta + ROOT_META_SIZE)


def _root_directory(params: Params, rule: CrcRule, root: VolumeOndisk) -> Iterator[tuple[int, bytes]]:
    """The root node, and root inode with PFS record, as (offset in zone 2, bytes of a buffer)."""
    cap_flags = CAP_DIR_LOCAL_INO if params.version >= VERSION_DIRLOCAL else 0
    if params.version >= VERSION_DIRHASH1:
        cap_flags |= CAP_DIRHASH_ALG1
    now = params.now_us
    inode = InodeData(
        version=1,
        mode=0o755,
        uflags=0,
        rmajor=0,
        rminor=0,
        ctime=now,
        parent_obj_id=0,
        uid=bytes(16),
        gid=bytes(16),
        obj_type=OBJTYPE_DIRECTORY,
        cap_flags=cap_flags,
        reserved1=0,
        reserved2=0,
        nlinks=1,
        size=0,
        symlink=b"",
        mtime=now,
        atime=now,
    ).encode()
    pfs = PfsData(
        sync_low_tid=1,
        sync_beg_tid=0,
        sync_end_tid=0,
        shared_uuid=params.fsid.bytes_le,
        unique_uuid=params.fsid.bytes_le,
        label=params.label.ljust(64, b"\0"),
    ).encode()
    node_at = root.vol0_btree_root & OFF_LONG_MASK
    meta = encode(ZONE_META, 0, node_at + BIGBLOCK_SIZE)
    elms = [
        _record(params, LOCALIZE_INODE, RECTYPE_INODE, meta, inode, rule),
        _record(params, LOCALIZE_MISC, RECTYPE_PFS, meta + len(inode), pfs, rule),
    ]
    head = NodeHead(0, 0, 0, len(elms), BTREE_TYPE_LEAF, b"", b"", 0)
    yield node_at, NodeOndisk(head, elms, b"").seal(rule).ljust(BUFSIZE, b"\0")
    yield node_at + BIGBLOCK_SIZE, (inode + pfs).ljust(BUFSIZE, b"\0")


def _record(params: Params, localization: int, rec_type: int, address: int, payload: bytes, rule: CrcRule) -> LeafElm:
    return LeafElm(
        obj_id=OBJID_ROOT,
        key=0,
        create_tid=FIRST_TID + 1,
        delete_tid=0,
        rec_type=rec_type,
        obj_type=OBJTYPE_DIRECTORY,
        btype=BTREE_TYPE_RECORD,
        localization=localization,
        create_ts=params.now_us // 1_000_000,
        delete_ts=0,
        data_offset=address,
        data_len=len(payload),
        data_crc=payload_crc(rec_type, payload, rule),
    )


assert VOL_HEADER_SIZE <= BUFSIZE
assert LAYER1_ENTRIES * LAYER1_SIZE == LAYER2_ENTRIES * LAYER2_SIZE == BIGBLOCK_SIZE
