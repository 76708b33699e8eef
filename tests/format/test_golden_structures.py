"""Every structure of every golden image survives decoding and encoding, and its checksum is right."""

from __future__ import annotations

from collections import Counter

import pytest

from hammerfs.addr import bigblock_base, retag, round16
from hammerfs.btree.iterate import scan, scan_reverse
from hammerfs.btree.search import BTree
from hammerfs.const import (
    BIGBLOCK_SIZE,
    BTREE_TYPE_INTERNAL,
    FIFO_TYPE_REDO,
    FIFO_TYPE_UNDO,
    MAX_TID,
    NODE_SIZE,
    OBJTYPE_REGFILE,
    RECTYPE_DIRENTRY,
    RECTYPE_INODE,
    RECTYPE_PFS,
    RECTYPE_SNAPSHOT,
    VERSION_REDO,
    VOL_HEADER_SIZE,
    ZONE_BTREE,
    ZONE_FREE,
    ZONE_FREEMAP,
    ZONE_LARGE_DATA,
    ZONE_UNAVAIL,
    ZONE_UNDO,
)
from hammerfs.errors import CorruptError
from hammerfs.fs import HammerFS
from hammerfs.keys import KEY_MAX, KEY_MIN, visible
from hammerfs.ondisk import fifo, mirror
from hammerfs.ondisk.node import InternalElm, LeafElm, NodeOndisk, verify_node
from hammerfs.ondisk.records import DirentryData, InodeData, PfsData, SnapshotData
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.undo import FIFO_BASE, UndoFifo
from tests.golden import GoldenStore, golden_names

pytestmark = pytest.mark.golden
CODECS: dict[int, type[InodeData | DirentryData | PfsData | SnapshotData]] = {
    RECTYPE_INODE: InodeData,
    RECTYPE_DIRENTRY: DirentryData,
    RECTYPE_PFS: PfsData,
    RECTYPE_SNAPSHOT: SnapshotData,
}


@pytest.mark.parametrize("name", golden_names())
def test_headers(golden: GoldenStore, name: str) -> None:
    with HammerFS.open(list(golden[name].volumes), recover="raw") as fs:
        for volume in fs.volumes:
            raw = volume.dev.pread(0, VOL_HEADER_SIZE)
            assert VolumeOndisk.decode(raw).encode() == raw
            if volume.ondisk.vol_crc:
                assert volume.ondisk.crc_ok(fs.volumes.rule)


def nodes(fs: HammerFS) -> list[tuple[int, NodeOndisk]]:
    found, todo = [], [fs.volumes.superblock.vol0_btree_root]
    while todo:
        off = todo.pop()
        volume, byte_off = fs.volumes.locate(off, NODE_SIZE)
        raw = volume.dev.pread(byte_off, NODE_SIZE)
        verify_node(raw, fs.volumes.rule, off)
        node = NodeOndisk.decode(raw)
        assert node.encode() == raw
        found.append((off, node))
        if node.head.type == BTREE_TYPE_INTERNAL:
            todo += [elm.subtree_offset for elm in node.elms[:-1] if isinstance(elm, InternalElm)]
    return found


@pytest.mark.parametrize("name", golden_names())
def test_tree_payloads_and_space(golden: GoldenStore, name: str) -> None:
    """All elements are read, both ways round; each big-block's free bytes are what the references leave."""
    with HammerFS.open(list(golden[name].volumes)) as fs:
        elms = list(scan(fs.tree, KEY_MIN, KEY_MAX))
        assert list(scan_reverse(fs.tree, KEY_MIN, KEY_MAX)) == elms[::-1]
        tree = nodes(fs)
        leaves = [elm for _, node in tree for elm in node.elms if isinstance(elm, LeafElm)]
        assert sorted(leaves, key=lambda e: e.sort_key) == elms
        used: Counter[int] = Counter()
        for off, _ in tree:
            used[bigblock_base(retag(off, ZONE_FREEMAP))] += NODE_SIZE
        for elm in elms:
            if elm.data_len:
                used[bigblock_base(retag(elm.data_offset, ZONE_FREEMAP))] += round16(elm.data_len)
                fs.blockmap.verify(elm.data_offset, elm.data_len)
            if elm.data_offset >> 60 != ZONE_LARGE_DATA:
                payload = bytes(fs.records.payload(elm))
                codec = CODECS.get(elm.rec_type)
                if codec is not None:
                    assert codec.decode(payload).encode() == payload
        free = 0
        for base, layer1, _ in fs.freemap.spans():
            assert layer1.crc_ok(fs.volumes.rule)
            for off, layer2, _ in fs.freemap.blocks(base, layer1):
                assert layer2.crc_ok(fs.volumes.rule)
                free += layer2.zone == ZONE_FREE
                if layer2.zone not in {ZONE_UNDO, ZONE_FREEMAP, ZONE_UNAVAIL}:
                    assert layer2.bytes_free == BIGBLOCK_SIZE - used[off]
                    assert layer2.zone in {ZONE_FREE, *range(ZONE_BTREE, ZONE_UNAVAIL)}
        assert free == sum(layer1.blocks_free for _, layer1, _ in fs.freemap.spans())
        if name != "dragonfly-v1-2009":  # its kernel left the header's own count two too high
            assert free == fs.volumes.superblock.vol0_stat_freebigblocks


@pytest.mark.parametrize("name", golden_names())
def test_lookup_finds_every_visible_generation(golden: GoldenStore, name: str) -> None:
    with HammerFS.open(list(golden[name].volumes)) as fs:
        elms = list(scan(fs.tree, KEY_MIN, KEY_MAX))
        for elm in elms[:: max(1, len(elms) // 500)]:
            slot = elm.sort_key[:4]
            for asof in (elm.create_tid, elm.delete_tid or MAX_TID, elm.create_tid - 1):
                want = [e for e in generations(fs.tree, slot) if visible(e.create_tid, e.delete_tid, asof)]
                assert len(want) <= 1
                assert fs.tree.lookup(*slot, asof) == (want[0] if want else None)


def generations(tree: BTree, slot: tuple[int, int, int, int]) -> list[LeafElm]:
    lo, obj_id, rec_type, key = slot
    return list(scan(tree, (*slot, 0), (lo, obj_id, rec_type, key + 1, 0)))


@pytest.mark.parametrize("name", golden_names())
def test_fifo_records(golden: GoldenStore, name: str) -> None:
    """The first MiB of the FIFO is valid records; those with a body come out byte for byte when encoded again."""
    image = golden[name]
    with HammerFS.open(list(image.volumes), recover="raw") as fs:
        ring, rule, seen, limit = UndoFifo(fs.volumes), fs.volumes.rule, 0, 1 << 20
        for record in ring.walk():
            if isinstance(record, CorruptError):
                assert record.offset is not None
                assert record.offset >= ring.next, record
                break
            if record.off - FIFO_BASE >= limit:
                break
            seen += 1
            start = record.off & 16383
            raw = record.buf[start : start + record.size]
            if record.type == FIFO_TYPE_UNDO and fs.volumes.version >= VERSION_REDO:
                again = fifo.decode_head(fifo.encode_undo(record.undo(), record.seq, rule).ljust(16384, b"\0"), 0, rule)
                assert (again.type, again.size, again.seq) == (record.type, record.size, record.seq)
                assert fifo.encode_undo(record.undo(), record.seq, rule)[16 : 32 + len(record.undo().data)] == (
                    raw[16:28] + bytes(4) + raw[32 : 32 + len(record.undo().data)]
                )
            elif record.type == FIFO_TYPE_REDO:
                redo = record.redo()
                assert fifo.decode_redo(fifo.encode_redo(redo, record.seq, rule), 0, record.size) == redo
        assert seen > 100


@pytest.mark.parametrize("suffix", ["stream1", "stream2", "stream-full"])
def test_mirror_streams(golden: GoldenStore, suffix: str) -> None:
    stream = golden["pfs-mirror"].data(suffix)
    records = mirror.decode_stream(stream)
    again = b"".join(raw + bytes(-len(raw) % 8) for raw in (record.encode() for _, record in records))
    assert again == stream
    kinds = Counter(record.type for _, record in records)
    assert kinds[mirror.MREC_REC] > 10
    assert any(r.leaf is not None and r.leaf.obj_type == OBJTYPE_REGFILE for _, r in records)
