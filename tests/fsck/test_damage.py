"""One thing is broken, its checksum right or not: exactly that is found. Headers, FIFO, nodes, records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hammerfs.const import (
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    BUFSIZE,
    FIFO_TYPE_UNDO,
    NODE_SIZE,
    OBJID_ROOT,
    OBJTYPE_REGFILE,
    OFF_BAD,
    RECTYPE_CONFIG,
    RECTYPE_DATA,
    RECTYPE_DIRENTRY,
    RECTYPE_FIX,
    RECTYPE_INODE,
    RECTYPE_PFS,
    RECTYPE_SNAPSHOT,
    REDO_WRITE,
)
from hammerfs.device.faulty import Faults, FaultyDevice
from hammerfs.ondisk.fifo import UndoRecord, decode_redo, encode_dummy, encode_pad, encode_redo, encode_undo
from hammerfs.ondisk.node import InternalElm, LeafElm, NodeOndisk
from hammerfs.ondisk.records import PfsData, SnapshotData
from tests.fsck.edit import GONE, LATER_TID, Edit, base, builder, is_inode, is_type, place
from tests.fuzz.bases import crashed
from tools.fsck import check

Damage = Callable[[Edit], object]


def run(damage: Damage, version: int = 7, **options: Any) -> dict[str, int]:
    edit = Edit(base(version))
    damage(edit)
    return edit.codes(**options)


# Headers


def header(**fields: Any) -> Damage:
    def damage(edit: Edit) -> None:
        for name, value in fields.items():
            setattr(edit.header, name, value)
        edit.put_header()

    return damage


def zone(number: int, *, seal: bool = True, **fields: Any) -> Damage:
    def damage(edit: Edit) -> None:
        desc = edit.header.vol0_blockmap[number]._replace(**fields)
        edit.header.vol0_blockmap[number] = desc.sealed(edit.rule) if seal else desc
        edit.put_header()

    return damage


def undo_slot(index: int, off: int) -> Damage:
    def damage(edit: Edit) -> None:
        edit.header.vol0_undo_array[index] = off
        edit.put_header()

    return damage


HEADER = {
    "checksum": (lambda e: e.flip(81), {"header-crc": 1}),
    "never written": (lambda e: e.put_u32(156, 0), {"header-crc-unset": 1}),
    "too big": (header(vol_buf_end=1 << 40), {"header-damaged": 1}),
    "type": (header(vol_fstype=bytes(16)), {"header-field": 1}),
    "label": (header(vol_label=b"x" * 64), {"header-field": 1}),
    "root volume": (header(vol_rootvol=1), {"header-field": 1}),
    "areas": (header(vol_mem_beg=1 << 30), {"header-field": 1}),
    "next TID": (header(vol0_next_tid=OFF_BAD), {"header-field": 1}),
    "usable": (header(vol0_stat_bigblocks=99), {"stat-bigblocks": 1}),
    "free": (header(vol0_stat_freebigblocks=99), {"stat-freebigblocks": 1}),
    "inodes": (header(vol0_stat_inodes=-1), {"stat-inodes": 1}),
    "zone 10": (zone(10, first_offset=0), {"zone-field": 1}),
    "zone 10 iterator": (zone(10, next_offset=9 << 60), {"zone-field": 1}),
    "zone 5": (zone(5, phys_offset=1), {"zone-field": 1}),
    "zone 3": (zone(3, next_offset=0), {"zone-field": 1, "recovery-failed": 1}),
    "zone 9 checksum": (zone(9, seal=False, entry_crc=1), {"zone-crc": 1}),
    "unused FIFO slot": (undo_slot(5, 0), {"header-field": 1}),
}


@pytest.mark.parametrize("name", HEADER)
def test_header(name: str) -> None:
    damage, expected = HEADER[name]
    assert run(damage) == expected


def test_free_blocks_of_old_versions_are_a_note() -> None:
    assert run(header(vol0_stat_freebigblocks=99), 3) == {"stat-freebigblocks-old": 1}


def test_header_of_an_image_that_was_not_closed_cleanly() -> None:
    edit = Edit(crashed(7))
    edit.flip(81)
    assert edit.codes() == {"dirty": 1, "header-crc-stale": 1}


# FIFO


def sector(off: int, raw: Callable[[Edit], bytes]) -> Damage:
    return lambda edit: edit.fifo(off, raw(edit).ljust(512, b"\0"))


def oversized_undo(edit: Edit) -> bytes:
    """An UNDO record whose claim of data does not fit it; its checksum is right."""
    raw = bytearray(encode_undo(UndoRecord(1 << 60, bytes(464)), 5, edit.rule))
    raw[24:28] = (500).to_bytes(4, "little")
    raw[12:16] = edit.rule.of(bytes(raw[:12]), bytes(raw[16:])).to_bytes(4, "little")
    assert len(raw) == 504
    assert int.from_bytes(raw[2:4], "little") == FIFO_TYPE_UNDO
    return bytes(raw)


def fifo_byte(off: int) -> Damage:
    return lambda edit: edit.flip(place(0x2000000001000000) + off)


LAST = (8 << 20) - 512
FIFO = {
    "filler": (fifo_byte(9 * 512 + 100), {"fifo-record": 1}),
    "head": (fifo_byte(9 * 512), {"fifo-record": 1}),
    "sequence number": (fifo_byte(9 * 512 + 8), {"fifo-record": 1}),
    "tail": (fifo_byte(9 * 512 + 508), {"fifo-record": 1}),
    "claim of data": (sector(9 * 512, oversized_undo), {"fifo-record": 1}),
    "two in a buffer": (lambda e: (fifo_byte(40000)(e), fifo_byte(41000)(e)), {"fifo-record": 2}),
    "newest record": (fifo_byte(LAST + 100), {"fifo-record": 1, "recovery-failed": 1}),
    "zeros": (lambda e: e.dev.pwrite(place(0x2000000001000000) + BUFSIZE, bytes(512)), {"fifo-record": 1}),
    "sound rewrite": (sector(9 * 512, lambda e: encode_dummy(77, e.rule)), {}),
}


@pytest.mark.parametrize("name", FIFO)
def test_fifo(name: str) -> None:
    damage, expected = FIFO[name]
    assert run(damage) == expected


def test_idle_fifo_records_can_be_left_out() -> None:
    assert run(fifo_byte(9 * 512 + 100), idle=False) == {}


def test_old_formatters_left_the_fifo_as_it_was() -> None:
    def unwritten(edit: Edit) -> None:
        edit.dev.pwrite(place(0x2000000001000000) + 4 * BUFSIZE, bytes(BUFSIZE))
        edit.dev.pwrite(place(0x2000000001000000) + 5 * BUFSIZE, b"something else" * 1000)

    assert run(unwritten, 3) == {"fifo-unwritten": 1}
    assert run(lambda e: e.dev.pwrite(place(0x2000000001000000) + 5 * BUFSIZE, b"else"), 3) == {"fifo-record": 1}
    assert run(fifo_byte(5 * BUFSIZE + 600), 3) == {"fifo-record": 1}


def test_a_part_of_the_fifo_can_not_be_read() -> None:
    bad = place(0x2000000001000000) + (3 << 20)
    faulty = FaultyDevice(Edit().dev, Faults(bad=[(bad, bad + 512)]))
    assert [finding.code for finding in check([faulty])] == ["fifo-unreadable"]


def test_redo_that_can_not_be_carried_out() -> None:
    """What can be recovered is checked as recovered: UNDO alone."""
    edit = Edit(crashed(7))
    raw = edit.fifo(7 * 512)
    logged = decode_redo(raw.ljust(BUFSIZE, b"\0"), 0, int.from_bytes(raw[4:8], "little"))
    assert logged.flags == REDO_WRITE
    raw = encode_redo(logged._replace(offset=-5), int.from_bytes(raw[8:12], "little"), edit.rule)
    edit.fifo(7 * 512, raw + encode_pad(512 - len(raw)))
    assert edit.codes() == {"recovery-failed": 1, "dirty": 1}


# Nodes


def leaves(edit: Edit) -> list[tuple[int, NodeOndisk]]:
    return [(off, node) for off, node in edit.nodes() if node.head.type == BTREE_TYPE_LEAF]


def inner(edit: Edit, number: int = 1) -> tuple[int, NodeOndisk]:
    """A node above the leaves, counted from 1."""
    return [(off, node) for off, node in edit.nodes() if node.head.type == BTREE_TYPE_INTERNAL][number]


def leaf_head(**fields: Any) -> Damage:
    def damage(edit: Edit) -> None:
        off, node = leaves(edit)[2]
        node.head = node.head._replace(**fields)
        edit.put_node(off, node)

    return damage


def inner_elm(index: int, number: int = 1, /, **fields: Any) -> Damage:
    def damage(edit: Edit) -> None:
        off, node = inner(edit, number)
        elms: list[Any] = node.elms
        elms[index] = elms[index]._replace(**fields)
        edit.put_node(off, node)

    return damage


def swap_elements(edit: Edit) -> None:
    off, node = next(
        (off, node) for off, node in leaves(edit) if {elm.rec_type for elm in node.elms[1:3]} == {RECTYPE_DIRENTRY}
    )
    elms: list[Any] = node.elms
    elms[1], elms[2] = elms[2], elms[1]
    edit.put_node(off, node)


def swap_boundaries(edit: Edit) -> None:
    off, node = inner(edit)
    one, two = node.elms[1], node.elms[2]
    assert isinstance(one, InternalElm)
    assert isinstance(two, InternalElm)
    node.elms[1] = two._replace(subtree_offset=one.subtree_offset)  # type: ignore[call-overload]
    node.elms[2] = one._replace(subtree_offset=two.subtree_offset)  # type: ignore[call-overload]
    edit.put_node(off, node)


def share_a_child(edit: Edit) -> None:
    child = inner(edit)[1].elms[0]
    assert isinstance(child, InternalElm)
    inner_elm(1, subtree_offset=child.subtree_offset)(edit)


def skip_a_level(edit: Edit) -> None:
    """The root leads straight to a leaf below its last child."""
    root = edit.header.vol0_btree_root
    node, (leaf, _) = edit.node(root), leaves(edit)[-1]
    last = node.elms[node.head.count - 1]
    assert isinstance(last, InternalElm)
    node.elms[node.head.count - 1] = last._replace(subtree_offset=leaf, btype=BTREE_TYPE_LEAF)  # type: ignore[call-overload]
    edit.put_node(root, node)


def empty_leaf(edit: Edit) -> None:
    """A leaf loses its elements, the freemap the bytes they took."""
    off, node = leaves(edit)[2]
    node.head = node.head._replace(count=0)
    edit.put_node(off, node)


NODE = {
    "stale byte": (lambda e: e.flip(place(leaves(e)[2][0]) + NODE_SIZE - 1), {"node-crc": 1}),
    "reserved byte": (lambda e: e.flip(place(leaves(e)[2][0]) + 30), {"node-crc": 1}),
    "stored checksum": (lambda e: e.flip(place(leaves(e)[2][0])), {"node-crc": 1}),
    "parent": (leaf_head(parent=0), {"node-parent": 1}),
    "mirror_tid": (leaf_head(mirror_tid=5), {"node-mirror-tid": 1}),
    "type": (leaf_head(type=0x44), {"node-type": 1, "tree-incomplete": 1}),
    "count": (leaf_head(count=64), {"node-type": 1, "tree-incomplete": 1}),
    "negative count": (leaf_head(count=-1), {"node-type": 1, "tree-incomplete": 1}),
    "parent's type": (inner_elm(1, btype=BTREE_TYPE_INTERNAL), {"node-type": 1}),
    "parent's mirror_tid": (inner_elm(1, mirror_tid=5), {"node-mirror-tid": 1}),
    "boundary's mirror_tid": (inner_elm(-1, mirror_tid=5), {}),
    "boundary's type": (inner_elm(-1, btype=BTREE_TYPE_LEAF), {}),
    "inner mirror_tid": (inner_elm(1, mirror_tid=OFF_BAD), {"node-mirror-tid": 1}),
    "no such address": (inner_elm(1, subtree_offset=5), {"node-unreadable": 1, "tree-incomplete": 1}),
    "beyond the volume": (
        inner_elm(1, subtree_offset=0x80F0000000000000),
        {"node-unreadable": 1, "tree-incomplete": 1},
    ),
    "root": (header(vol0_btree_root=0), {"node-unreadable": 1, "tree-incomplete": 1}),
    "shared": (share_a_child, {"node-shared": 1, "tree-incomplete": 1}),
    "order in a leaf": (swap_elements, {"node-order": 1}),
    "order of boundaries": (swap_boundaries, {"node-order": 1, "node-bounds": 1}),
    "left boundary": (inner_elm(0, 2, obj_id=-5), {"node-bounds": 1}),
    "right boundary": (inner_elm(-1, localization=0xFFFFFFFF), {"node-bounds": 1}),
    "separator": (inner_elm(1, key=1), {"node-bounds": 1}),
}


@pytest.mark.parametrize("name", NODE)
def test_node(name: str) -> None:
    damage, expected = NODE[name]
    assert run(damage) == expected


def test_a_low_mirror_tid_after_mounts_that_do_not_mirror() -> None:
    """Such mounts take every TID, so that their low bits differ; and they tell no node above of them."""
    b = builder()
    b.file(b"/late", b"x")
    obj_id = b.new_obj_id()
    b.inode(obj_id, OBJTYPE_REGFILE, delete_tid=LATER_TID + 1)
    edit = Edit(b.build())
    leaf_head(mirror_tid=5)(edit)
    assert edit.codes() == {"node-mirror-tid-nomirror": 1}


def test_level_skipped() -> None:
    assert {"node-depth", "node-parent"} <= run(skip_a_level).keys()


def test_empty_leaf() -> None:
    assert "node-empty" in run(empty_leaf)


def test_a_tree_without_end_is_walked_once() -> None:
    """The last child of the root is the root."""

    def circle(edit: Edit) -> None:
        root = edit.header.vol0_btree_root
        node = edit.node(root)
        elms: list[Any] = node.elms
        elms[1] = elms[1]._replace(subtree_offset=root)
        edit.put_node(root, node)

    assert run(circle) == {"node-shared": 1, "tree-incomplete": 1}


# Records


def record(rec_type: int, pfs: int = 0, /, *, live: bool = True, **fields: Any) -> Damage:
    return lambda edit: edit.edit(is_type(rec_type, pfs, live=live), **fields)


def payload(rec_type: int, at: int) -> Damage:
    """A byte of a payload, its checksum left alone."""
    return lambda edit: edit.flip(place(edit.leaf_with(is_type(rec_type))[3].data_offset) + at)


def inode(name: bytes, **fields: Any) -> Damage:
    return lambda edit: edit.edit_inode(edit.inode_of(name), **fields)


def data_of(edit: Edit, name: bytes) -> Callable[[Any], bool]:
    obj_id = edit.obj_id(name)
    return lambda e: e.rec_type == RECTYPE_DATA and e.obj_id == obj_id and not e.delete_tid


def data(name: bytes, **fields: Any) -> Damage:
    return lambda edit: edit.edit(data_of(edit, name), **fields)


def half_a_block_back(edit: Edit) -> None:
    """A block of a file begins before the one before it ends."""
    wanted = data_of(edit, b"big")
    for _, node in leaves(edit):
        blocks = [elm for elm in node.elms if isinstance(elm, LeafElm) and wanted(elm)]
        if len(blocks) > 1:
            edit.edit(blocks[1].__eq__, key=blocks[1].key - 100)
            return
    raise LookupError("no two blocks in one leaf")


def inode_type(name: bytes, obj_type: int) -> Damage:
    """Another object type, in the element and in the payload."""

    def damage(edit: Edit) -> None:
        wanted = edit.inode_of(name)
        edit.edit_inode(wanted, obj_type=obj_type)
        edit.edit(wanted, obj_type=obj_type)

    return damage


def pfs(pfs_id: int, **fields: Any) -> Damage:
    return lambda edit: edit.edit(lambda e: e.rec_type == RECTYPE_PFS and e.key == pfs_id << 16, **fields)


def late_first_generation(edit: Edit) -> None:
    """The newer generation of an inode begins before the older one ends."""
    wanted = edit.inode_of(b"old")
    edit.edit(wanted, create_tid=LATER_TID - 1)


def pfs_data(pfs_id: int, **fields: Any) -> Damage:
    def damage(edit: Edit) -> None:
        wanted = lambda e: e.rec_type == RECTYPE_PFS and e.key == pfs_id << 16  # noqa: E731
        data = PfsData.decode(edit.payload(edit.leaf_with(wanted)[3]))
        for name, value in fields.items():
            setattr(data, name, value)
        edit.put_payload(wanted, data.encode())

    return damage


def snapshot(edit: Edit) -> None:
    wanted = is_type(RECTYPE_SNAPSHOT)
    data = SnapshotData.decode(edit.payload(edit.leaf_with(wanted)[3]))
    edit.put_payload(wanted, data._replace(tid=5).encode())


RECORD = {
    "element type": (record(RECTYPE_FIX, btype=1), {"record-type": 1}),
    "unknown type": (record(RECTYPE_CONFIG, rec_type=0x77), {"record-type": 1}),
    "class": (record(RECTYPE_CONFIG, localization=3), {"record-place": 1, "node-order": 1}),
    "deleted before created": (record(RECTYPE_CONFIG, delete_tid=5), {"record-tid": 1}),
    "no creation": (record(RECTYPE_CONFIG, create_tid=0), {"record-tid": 1}),
    "generations": (late_first_generation, {"record-generations": 1}),
    "no payload": (record(RECTYPE_CONFIG, data_len=0, data_offset=0), {"payload-length": 1, "bigblock-free": 1}),
    "endless payload": (record(RECTYPE_CONFIG, data_len=1 << 20), {"payload-length": 1, "bigblock-free": 1}),
    "negative payload": (record(RECTYPE_CONFIG, data_len=-1), {"payload-length": 1, "bigblock-free": 1}),
    "address": (record(RECTYPE_CONFIG, data_offset=9 << 60 | 1 << 50), {"payload-address": 1, "bigblock-free": 1}),
    "no zone": (record(RECTYPE_CONFIG, data_offset=2 << 60), {"payload-address": 1, "bigblock-free": 1}),
    "odd address": (data(b"linked", data_offset=(11 << 60) + 8), {"payload-address": 1, "bigblock-free": 1}),
    "address without length": (
        data(b"linked", data_len=0),
        {"payload-address": 1, "data-shape": 1, "data-beyond-end": 1, "bigblock-free": 1},
    ),
    "inode checksum": (payload(RECTYPE_INODE, 50), {"payload-crc": 1}),
    "inode times are under no checksum": (payload(RECTYPE_INODE, 120), {}),
    "entry checksum": (payload(RECTYPE_DIRENTRY, 17), {"payload-crc": 1}),
    "target checksum": (payload(RECTYPE_FIX, 3), {"payload-crc": 1}),
    "PFS checksum": (payload(RECTYPE_PFS, 3), {"payload-crc": 1}),
    "snapshot checksum": (payload(RECTYPE_SNAPSHOT, 3), {"payload-crc": 1}),
    "configuration checksum": (payload(RECTYPE_CONFIG, 3), {"payload-crc": 1}),
    "stored checksum": (record(RECTYPE_CONFIG, data_crc=1), {"payload-crc": 1}),
    "inode version": (inode(b"linked", version=2), {"inode-field": 1}),
    "inode mode": (inode(b"linked", mode=0o100644), {"inode-field": 1}),
    "inode type": (inode(b"linked", obj_type=1), {"inode-field": 1}),
    "inode size": (inode(b"linked", size=1 << 63), {"inode-field": 1}),
    "capabilities of a file": (inode(b"linked", cap_flags=1), {"inode-field": 1}),
    "unknown hash": (inode(b"d0", cap_flags=6), {"inode-field": 1}),
    "inode length": (
        lambda e: e.edit(is_inode(OBJID_ROOT, 1), data_len=112),
        {"payload-length": 1, "bigblock-free": 1},
    ),
    "inode key": (lambda e: e.edit(is_inode(OBJID_ROOT, 1), key=4), {"record-place": 1}),
    "target length": (inode(b"long", size=150), {"symlink-target": 1}),
    "target missing": (inode(b"short", size=150), {"symlink-target": 1}),
    "target too long": (inode(b"short", size=5000), {"symlink-target": 2}),
    "short target with NUL": (inode(b"short", symlink=b""), {"symlink-target": 1}),
    "data in half blocks": (data(b"linked", key=24), {"data-shape": 1}),
    "data behind the end": (inode(b"big", size=100), {"data-beyond-end": 7}),
    "data of no file": (inode_type(b"linked", 9), {"record-orphan": 1, "dirent-type": 2}),
    "data that overlaps": (half_a_block_back, {"data-shape": 1, "data-overlap": 1}),
    "PFS key": (pfs(GONE, key=GONE << 16 | 5), {"record-place": 1}),
    "PFS flags": (pfs_data(1, mirror_flags=4), {"pfs-field": 1}),
    "PFS label": (pfs_data(1, label=b"x" * 64), {"pfs-field": 1}),
    "PFS destroyed": (pfs_data(1, mirror_flags=1 << 31), {"pfs-deleted": 1}),
    "PFS without record": (pfs(1, delete_tid=LATER_TID), {"pfs-unknown": 1}),
    "PFS without root": (pfs_data(GONE, mirror_flags=0), {"pfs-root": 1}),
    "snapshot": (snapshot, {"snapshot-field": 1}),
    "configuration": (lambda e: e.put_payload(is_type(RECTYPE_CONFIG), b"x" * 1024), {"config-field": 1}),
}


@pytest.mark.parametrize("name", RECORD)
def test_record(name: str) -> None:
    damage, expected = RECORD[name]
    assert run(damage) == expected
