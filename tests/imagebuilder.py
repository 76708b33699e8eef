"""Lays out a valid HAMMER image from the bottom up, in memory: for tests that need a certain tree without a writer.

Records are collected, payloads placed zone by zone, the tree is packed from sorted elements, then come freemap, FIFO
and header. Nothing of it is how a file system grows; all of it is what the format allows.

    b = ImageBuilder()
    b.file(b"/a/b", b"contents")
    fs = HammerFS([b.build()])
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hammerfs.addr import block_size_at, encode, localize, retag, round16
from hammerfs.const import (
    BIGBLOCK_SIZE,
    BLOCKMAP_UNAVAIL,
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    BTREE_TYPE_RECORD,
    BUFSIZE,
    CAP_DIR_LOCAL_INO,
    CAP_DIRHASH_ALG1,
    FIXKEY_SYMLINK,
    HBUFSIZE,
    LOCALIZE_INODE,
    LOCALIZE_MISC,
    NODE_SIZE,
    OBJID_ROOT,
    OBJTYPE_DIRECTORY,
    OBJTYPE_REGFILE,
    OBJTYPE_SOFTLINK,
    RECTYPE_CONFIG,
    RECTYPE_DATA,
    RECTYPE_DIRENTRY,
    RECTYPE_FIX,
    RECTYPE_INODE,
    RECTYPE_PFS,
    RECTYPE_SNAPSHOT,
    UNDO_SECTOR,
    VERSION_DIRHASH1,
    VERSION_DIRLOCAL,
    ZONE_BTREE,
    ZONE_FREE,
    ZONE_FREEMAP,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_RAW_BUFFER,
    ZONE_SMALL_DATA,
    ZONE_UNAVAIL,
    ZONE_UNDO,
)
from hammerfs.crc import CrcRule
from hammerfs.device.base import ZeroDevice
from hammerfs.device.overlay import OverlayDevice
from hammerfs.keys import KEY_MAX, KEY_MIN, Key, namekey_range
from hammerfs.ondisk.blockmap import Layer1, Layer2, ZoneDesc
from hammerfs.ondisk.fifo import encode_dummy
from hammerfs.ondisk.node import InternalElm, LeafElm, NodeHead, NodeOndisk
from hammerfs.ondisk.records import (
    INODE_SYMLINK_MAX,
    DirentryData,
    InodeData,
    PfsData,
    SnapshotData,
    encode_config,
    id_uuid,
    payload_crc,
)
from hammerfs.ondisk.volume import VolumeOndisk

FIRST_TID = 0x100000001
BUF_BEG = 557056
FSID = bytes(range(16))
TIME_US = 1_400_000_000_000_000
FIRST_OBJ = 0x100000400


class _Formatted(ZeroDevice):
    """What the formatter leaves under all else: freemap tables that know of no big-block, and zeros.

    Args:
        size: Bytes.
        rule: Checksums of the volume version.
    """

    def __init__(self, size: int, rule: CrcRule) -> None:
        super().__init__(size, "built.img")
        absent = Layer1(0, BLOCKMAP_UNAVAIL, 0, 0, 0).sealed(rule).encode()
        beyond = Layer2(ZONE_UNAVAIL, 0, 0, BIGBLOCK_SIZE, 0, 0).sealed(rule).encode()
        self._tables = [(BUF_BEG, absent * 2), (BUF_BEG + BIGBLOCK_SIZE, beyond * 4)]

    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        for view in views:
            view[:] = bytes(view.nbytes)
            for beg, entries in self._tables:
                first, last = max(off, beg), min(off + view.nbytes, beg + BIGBLOCK_SIZE)
                if first < last:
                    at = (first - beg) % len(entries)
                    repeated = entries * ((last - first) // len(entries) + 2)
                    view[first - off : last - off] = repeated[at : at + last - first]
            off += view.nbytes

    def _extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        first, last = max(begin, BUF_BEG), min(end, BUF_BEG + 2 * BIGBLOCK_SIZE)
        if first < last:
            yield first, last


@dataclass
class _Zone:
    """Space of one zone: the big-blocks it owns and how far the last one is used."""

    blocks: list[int] = field(default_factory=list)
    append: int = BIGBLOCK_SIZE


class ImageBuilder:
    """Collects records and builds one volume.

    Args:
        version: Volume version.
        fill: Elements put into a node.
        free_blocks: Big-blocks left free.
        undo_blocks: Big-blocks of the FIFO.
    """

    def __init__(self, version: int = 7, *, fill: int = 50, free_blocks: int = 2, undo_blocks: int = 1) -> None:
        self.version = version
        self.rule = CrcRule(version)
        self.fill = fill
        self.free_blocks = free_blocks
        self.undo_blocks = undo_blocks
        self.records: list[tuple[LeafElm, bytes]] = []
        self.paths: dict[tuple[int, bytes], int] = {}
        self._live_keys: dict[tuple[int, int], set[int]] = {}
        self._next_obj = FIRST_OBJ
        self._writes: list[tuple[int, bytes]] = []
        self._zones = {zone: _Zone() for zone in (ZONE_BTREE, ZONE_META, ZONE_LARGE_DATA, ZONE_SMALL_DATA)}
        self._owners: dict[int, tuple[int, int, int]] = {}
        self._next_block = 2 + undo_blocks
        self.inodes = 0
        self.pfs(0, PfsData(sync_beg_tid=0, sync_end_tid=0, shared_uuid=FSID, unique_uuid=FSID))
        self.pfs_root(0)

    # Records

    def record(
        self,
        obj_id: int,
        rec_type: int,
        key: int,
        payload: bytes,
        *,
        localization: int,
        obj_type: int = 0,
        tid: int = FIRST_TID,
        delete_tid: int = 0,
        ts: int = TIME_US // 1_000_000,
    ) -> None:
        """Any record. Payload space is taken in the order of the calls."""
        offset = 0
        if payload:
            zone = ZONE_META
            if rec_type == RECTYPE_DATA:
                zone = ZONE_LARGE_DATA if len(payload) >= BUFSIZE else ZONE_SMALL_DATA
            offset = self._place(zone, payload)
        elm = LeafElm(
            obj_id,
            key,
            tid,
            delete_tid,
            rec_type,
            obj_type,
            BTREE_TYPE_RECORD,
            localization,
            ts,
            ts if delete_tid else 0,
            offset,
            len(payload),
            payload_crc(rec_type, payload, self.rule),
        )
        self.records.append((elm, payload))

    def inode(
        self,
        obj_id: int,
        obj_type: int,
        *,
        pfs: int = 0,
        parent: int = OBJID_ROOT,
        mode: int = 0o644,
        size: int = 0,
        nlinks: int = 1,
        symlink: bytes = b"",
        tid: int = FIRST_TID,
        delete_tid: int = 0,
        uflags: int = 0,
        dev: tuple[int, int] = (0, 0),
    ) -> None:
        """An inode record."""
        data = InodeData(
            1, mode, uflags, *dev, TIME_US, parent, id_uuid(0), id_uuid(0), obj_type, self.cap_flags(obj_type), 0, 0,
            nlinks, size, symlink, TIME_US, TIME_US,
        )  # fmt: skip
        self.record(
            obj_id,
            RECTYPE_INODE,
            0,
            data.encode(),
            localization=localize(pfs, LOCALIZE_INODE),
            obj_type=obj_type,
            tid=tid,
            delete_tid=delete_tid,
        )
        self.inodes += not delete_tid

    def cap_flags(self, obj_type: int = OBJTYPE_DIRECTORY) -> int:
        """Capability bits of a new inode of this version."""
        if obj_type != OBJTYPE_DIRECTORY:
            return 0
        flags = CAP_DIRHASH_ALG1 if self.version >= VERSION_DIRHASH1 else 0
        return flags | (CAP_DIR_LOCAL_INO if self.version >= VERSION_DIRLOCAL else 0)

    def direntry(
        self,
        directory: int,
        name: bytes,
        target: int,
        obj_type: int,
        *,
        pfs: int = 0,
        tid: int = FIRST_TID,
        delete_tid: int = 0,
    ) -> None:
        """A directory entry, probed past the live ones with the same hash."""
        local = LOCALIZE_INODE if self.version >= VERSION_DIRLOCAL else LOCALIZE_MISC
        key, _ = namekey_range(name, self.cap_flags())
        taken = self._live_keys.setdefault((pfs, directory), set())
        while key in taken:
            key += 1
        if not delete_tid:
            taken.add(key)
        self.record(
            directory,
            RECTYPE_DIRENTRY,
            key,
            DirentryData(target, localize(pfs), 0, name).encode(),
            localization=localize(pfs, local),
            obj_type=obj_type,
            tid=tid,
            delete_tid=delete_tid,
        )

    def data(
        self, obj_id: int, offset: int, payload: bytes, *, pfs: int = 0, tid: int = FIRST_TID, delete_tid: int = 0
    ) -> None:
        """A DATA record at a file offset."""
        self.record(
            obj_id,
            RECTYPE_DATA,
            offset + len(payload),
            payload,
            localization=localize(pfs, LOCALIZE_MISC),
            obj_type=OBJTYPE_REGFILE,
            tid=tid,
            delete_tid=delete_tid,
        )

    def pfs(self, pfs_id: int, data: PfsData) -> None:
        """A PFS record."""
        self.record(OBJID_ROOT, RECTYPE_PFS, pfs_id << 16, data.encode(), localization=LOCALIZE_MISC, obj_type=1)

    def pfs_root(self, pfs_id: int, *, tid: int = FIRST_TID) -> None:
        """The root directory of a PFS."""
        self.inode(OBJID_ROOT, OBJTYPE_DIRECTORY, pfs=pfs_id, parent=0, mode=0o755, tid=tid)
        self.paths[pfs_id, b"/"] = OBJID_ROOT

    def snapshot(self, tid: int, label: bytes, *, pfs: int = 0) -> None:
        """A snapshot record."""
        data = SnapshotData(tid, TIME_US, b"", label, b"")
        key = tid - (1 << 64) if tid >> 63 else tid
        self.record(
            OBJID_ROOT, RECTYPE_SNAPSHOT, key, data.encode(), localization=localize(pfs, LOCALIZE_INODE), tid=tid
        )

    def config(self, text: bytes, *, pfs: int = 0) -> None:
        """A configuration record."""
        local = localize(pfs, LOCALIZE_INODE)
        self.record(OBJID_ROOT, RECTYPE_CONFIG, 0, encode_config(text), localization=local)

    # Paths

    def mkdir(self, path: bytes, *, pfs: int = 0) -> int:
        """A directory with its parents; the id of what is there already is returned."""
        found = self.paths.get((pfs, path))
        if found is not None:
            return found
        obj_id = self._add(path, OBJTYPE_DIRECTORY, pfs, mode=0o755, size=0)
        self.paths[pfs, path] = obj_id
        return obj_id

    def file(self, path: bytes, contents: bytes = b"", *, pfs: int = 0, size: int | None = None) -> int:
        """A regular file, its data cut into blocks as the format says."""
        obj_id = self._add(path, OBJTYPE_REGFILE, pfs, mode=0o644, size=len(contents) if size is None else size)
        if len(contents) <= HBUFSIZE:
            if contents:
                self.data(obj_id, 0, contents.ljust(round16(len(contents)), b"\0"), pfs=pfs)
            return obj_id
        offset = 0
        while offset < len(contents):
            n = block_size_at(offset)
            self.data(obj_id, offset, contents[offset : offset + n].ljust(n, b"\0"), pfs=pfs)
            offset += n
        return obj_id

    def symlink(self, path: bytes, target: bytes, *, pfs: int = 0) -> int:
        """A symbolic link."""
        short = target if len(target) <= INODE_SYMLINK_MAX else b""
        obj_id = self._add(path, OBJTYPE_SOFTLINK, pfs, mode=0o777, size=len(target), symlink=short)
        if not short:
            misc = localize(pfs, LOCALIZE_MISC)
            self.record(obj_id, RECTYPE_FIX, FIXKEY_SYMLINK, target, localization=misc, obj_type=OBJTYPE_SOFTLINK)
        return obj_id

    def new_obj_id(self) -> int:
        """An object id not used yet."""
        self._next_obj += 1
        return self._next_obj - 1

    def _add(self, path: bytes, obj_type: int, pfs: int, *, mode: int, size: int, symlink: bytes = b"") -> int:
        parent, _, name = path.rpartition(b"/")
        directory = self.mkdir(parent or b"/", pfs=pfs)
        obj_id = self.new_obj_id()
        self.inode(obj_id, obj_type, pfs=pfs, parent=directory, mode=mode, size=size, symlink=symlink)
        self.direntry(directory, name, obj_id, obj_type, pfs=pfs)
        return obj_id

    # Layout

    def build(self) -> OverlayDevice:
        """The volume, in memory."""
        root = self._build_tree()
        blocks = self._next_block + self.free_blocks
        header = self._header(root, blocks)
        dev = OverlayDevice(_Formatted(BUF_BEG + blocks * BIGBLOCK_SIZE, self.rule))
        for short, raw in self._writes:
            dev.pwrite(BUF_BEG + short, raw)
        self._write_freemap(dev, blocks)
        self._write_fifo(dev)
        dev.pwrite(0, header.encode())
        return dev

    def _place(self, zone: int, raw: bytes) -> int:
        """Space for `raw` in a zone; its tagged address."""
        state, nbytes = self._zones[zone], round16(len(raw))
        unit = BUFSIZE if nbytes <= BUFSIZE else BIGBLOCK_SIZE
        start = state.append
        if start % BIGBLOCK_SIZE and start // unit != (start + nbytes - 1) // unit:
            start = (start // unit + 1) * unit
        if start + nbytes > BIGBLOCK_SIZE:
            state.blocks.append(self._next_block)
            self._owners[self._next_block] = (zone, 0, BIGBLOCK_SIZE)
            self._next_block += 1
            start = 0
        state.append = start + nbytes
        block = state.blocks[-1]
        _, _, free = self._owners[block]
        self._owners[block] = (zone, state.append, free - nbytes)
        self._writes.append((block * BIGBLOCK_SIZE + start, raw))
        return encode(zone, 0, block * BIGBLOCK_SIZE + start)

    def _build_tree(self) -> int:
        """Pack the elements into nodes, level by level; the root's address."""
        elms = sorted((elm for elm, _ in self.records), key=lambda e: e.sort_key)
        level: list[tuple[Key, NodeOndisk]] = []
        for first in range(0, max(len(elms), 1), self.fill):
            part = elms[first : first + self.fill]
            mirror = max((max(e.create_tid, e.delete_tid) for e in part), default=0)
            level.append((part[0].sort_key if part else KEY_MIN, self._node(BTREE_TYPE_LEAF, len(part), mirror, part)))
        placed = [(KEY_MIN if i == 0 else key, node, self._reserve()) for i, (key, node) in enumerate(level)]
        while len(placed) > 1:
            placed = self._build_level(placed)
        _, node, off = placed[0]
        self._put_node(node, off)
        return off

    def _build_level(self, below: list[tuple[Key, NodeOndisk, int]]) -> list[tuple[Key, NodeOndisk, int]]:
        above = []
        for first in range(0, len(below), self.fill):
            part = below[first : first + self.fill]
            end = below[first + self.fill][0] if first + self.fill < len(below) else KEY_MAX
            elms = [_internal(key, node.head.type, node.head.mirror_tid, off) for key, node, off in part]
            mirror = max(node.head.mirror_tid for _, node, _ in part)
            parent_off = self._reserve()
            parent = self._node(BTREE_TYPE_INTERNAL, len(part), mirror, [*elms, _internal(end, 0, 0, 0)])
            for _, node, off in part:
                node.head = node.head._replace(parent=parent_off)
                self._put_node(node, off)
            above.append((part[0][0], parent, parent_off))
        return above

    def _node(self, btype: int, count: int, mirror: int, elms: list[LeafElm] | list[InternalElm]) -> NodeOndisk:
        return NodeOndisk(NodeHead(0, 0, 0, count, btype, b"", b"", mirror), elms, b"")

    def _reserve(self) -> int:
        off = self._place(ZONE_BTREE, bytes(NODE_SIZE))
        self._writes.pop()
        return off

    def _put_node(self, node: NodeOndisk, off: int) -> None:
        self._writes.append((off & (1 << 52) - 1, node.seal(self.rule)))

    def _header(self, root: int, blocks: int) -> VolumeOndisk:
        header = VolumeOndisk(
            vol_bot_beg=262144,
            vol_mem_beg=294912,
            vol_buf_beg=BUF_BEG,
            vol_buf_end=BUF_BEG + blocks * BIGBLOCK_SIZE,
            vol_fsid=FSID,
            vol_label=b"BUILT",
            vol_version=self.version,
            vol0_stat_bigblocks=blocks - 2 - self.undo_blocks,
            vol0_stat_freebigblocks=self.free_blocks,
            vol0_stat_inodes=self.inodes,
            vol0_btree_root=root,
            vol0_next_tid=max(max(elm.create_tid, elm.delete_tid) for elm, _ in self.records) + 16,
        )
        base = encode(ZONE_RAW_BUFFER, 0, 0)
        undo = encode(ZONE_UNDO, 0, 0)
        zones = [ZoneDesc(0, 0, 0, 0, 0, 0)] * 16
        zones[ZONE_UNDO] = ZoneDesc(BLOCKMAP_UNAVAIL, undo, undo, undo + self.undo_blocks * BIGBLOCK_SIZE, 0, 0)
        zones[ZONE_FREEMAP] = ZoneDesc(base, 0, base, retag((1 << 60) - 1, ZONE_RAW_BUFFER), 0, 0)
        for zone in range(ZONE_BTREE, 16):
            start = encode(zone, 0, 0)
            state = self._zones.get(zone)
            used = state.blocks[-1] * BIGBLOCK_SIZE + state.append if state is not None and state.blocks else 0
            zones[zone] = ZoneDesc(0, start, start + used, start + (1 << 60) - 1, 0, 0)
        header.vol0_blockmap = [desc.sealed(self.rule) for desc in zones]
        for i in range(self.undo_blocks):
            header.vol0_undo_array[i] = base + (2 + i) * BIGBLOCK_SIZE
        header.seal(self.rule)
        return header

    def _write_freemap(self, dev: OverlayDevice, blocks: int) -> None:
        base = encode(ZONE_RAW_BUFFER, 0, 0)
        first = Layer1(self.free_blocks, base + BIGBLOCK_SIZE, 0, 0, 0).sealed(self.rule).encode()
        dev.pwrite(BUF_BEG, first)
        fixed = {0: ZONE_FREEMAP, 1: ZONE_FREEMAP} | {2 + i: ZONE_UNDO for i in range(self.undo_blocks)}
        table = bytearray()
        for block in range(blocks):
            if block in fixed:
                entry = Layer2(fixed[block], 0, 0, BIGBLOCK_SIZE, 0, 0)
            elif block in self._owners:
                zone, append, free = self._owners[block]
                entry = Layer2(zone, 0, 0, append, free, 0)
            else:
                entry = Layer2(ZONE_FREE, 0, 0, 0, BIGBLOCK_SIZE, 0)
            table += entry.sealed(self.rule).encode()
        dev.pwrite(BUF_BEG + BIGBLOCK_SIZE, table)

    def _write_fifo(self, dev: OverlayDevice) -> None:
        start = BUF_BEG + 2 * BIGBLOCK_SIZE
        per = BUFSIZE // UNDO_SECTOR
        for buf in range(self.undo_blocks * BIGBLOCK_SIZE // BUFSIZE):
            raw = b"".join(encode_dummy(buf * per + i, self.rule) for i in range(per))
            dev.pwrite(start + buf * BUFSIZE, raw)


def _internal(key: Key, btype: int, mirror: int, off: int) -> InternalElm:
    lo, obj_id, rec_type, k, tid = key
    return InternalElm(obj_id, k, min(tid, (1 << 64) - 1), 0, rec_type, 0, btype, lo, mirror, off)


def pattern(nbytes: int, seed: int = 0) -> bytes:
    """Bytes that repeat nowhere soon and depend on the seed."""
    out = bytearray()
    value = zlib.crc32(seed.to_bytes(8, "little", signed=False))
    while len(out) < nbytes:
        value = zlib.crc32(value.to_bytes(4, "little"))
        out += value.to_bytes(4, "little")
    return bytes(out[:nbytes])
