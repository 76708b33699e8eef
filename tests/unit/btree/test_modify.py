"""Changing the tree: insertion, splits, deletion, boundaries, mirror_tid, moving nodes, UNDO."""

from __future__ import annotations

from random import Random

import pytest

from hammerfs.btree.edit import elm_mirror_tid
from hammerfs.btree.split import separator
from hammerfs.const import BTREE_TYPE_INTERNAL, BTREE_TYPE_LEAF, BUFSIZE, MAX_TID, NODE_SIZE
from hammerfs.errors import CorruptError, ExistsError, InvalidError, NoSpace, NotFound
from hammerfs.keys import Key
from hammerfs.ondisk.node import LeafElm, NodeOndisk
from tests.treelab import TreeLab, record

TID = 0x100000010


def fill(lab: TreeLab, elms: list[LeafElm], at_once: int = 700) -> None:
    """Insert in sections of a size that a small cache bears."""
    for first in range(0, len(elms), at_once):
        with lab.section() as writer:
            for elm in elms[first : first + at_once]:
                writer.insert(elm)


def depth(lab: TreeLab) -> int:
    node, levels = lab.tree.root(), 1
    while not node.is_leaf:
        node, levels = lab.tree.child(node, 0), levels + 1
    return levels


@pytest.mark.parametrize("version", [1, 3, 6, 7])
@pytest.mark.parametrize("order", ["up", "down", "shuffled"])
def test_thousands_of_records_in_any_order(version: int, order: str) -> None:
    lab = TreeLab.fresh(version)
    old = lab.elements()
    ids = list(range(4500, 1000, -1) if order == "down" else range(1000, 4500))
    if order == "shuffled":
        Random(version).shuffle(ids)
    elms = [record(obj_id, tid=TID + n) for n, obj_id in enumerate(ids)]
    fill(lab, elms)
    lab.cache.drop()
    assert lab.elements() == sorted([*old, *elms], key=lambda elm: elm.sort_key)
    assert depth(lab) == 3


def test_a_key_that_is_there_is_refused() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 1200)])
    before = lab.elements()
    with lab.section() as writer:
        for obj_id in (1000, 1100, 1199):
            with pytest.raises(ExistsError, match=f"obj=0x{obj_id:016x}"):
                writer.insert(record(obj_id, delete_tid=TID + 16))
        assert lab.undo.saved == {}
    assert lab.elements() == before


def test_what_is_not_there_is_not_found() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 1400, 2)])
    before = lab.elements()
    with lab.section() as writer:
        for obj_id in (999, 1101, 1401):
            absent = record(obj_id)
            with pytest.raises(NotFound, match=f"obj=0x{obj_id:016x}"):
                writer.mark_deleted(absent.sort_key, TID + 16, 1)
            with pytest.raises(NotFound):
                writer.destroy(absent.sort_key)
            with pytest.raises(NotFound):
                writer.replace(absent.sort_key, absent)
        assert lab.undo.saved == {}
    assert lab.elements() == before


def test_logical_deletion_changes_the_element_only() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 1100)])
    before = lab.elements()
    want = record(1050)
    with lab.section() as writer:
        assert writer.mark_deleted(want.sort_key, TID + 32, 77) == want
    gone = want._replace(delete_tid=TID + 32, delete_ts=77)
    assert lab.elements() == [gone if elm == want else elm for elm in before]
    assert lab.tree.lookup(1, 1050, 1, 0, MAX_TID) is None
    assert lab.tree.lookup(1, 1050, 1, 0, TID + 31) == gone
    assert lab.tree.root().mirror_tid == TID + 32


@pytest.mark.parametrize("tid", [TID - 1, TID])
def test_nothing_dies_before_it_was_born(tid: int) -> None:
    lab = TreeLab.fresh()
    with lab.section() as writer:
        writer.insert(record(1000))
        with pytest.raises(InvalidError, match="can't be deleted"):
            writer.mark_deleted(record(1000).sort_key, tid, 1)


def test_nothing_dies_twice() -> None:
    lab = TreeLab.fresh()
    with lab.section() as writer:
        writer.insert(record(1000, delete_tid=TID + 16))
        with pytest.raises(InvalidError, match="can't be deleted"):
            writer.mark_deleted(record(1000).sort_key, TID + 32, 1)


def test_replace_keeps_the_key() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 1100)])
    moved = record(1050)._replace(data_offset=0xB000000000100000, data_len=100, data_crc=5)
    with lab.section() as writer:
        writer.replace(moved.sort_key, moved)
        with pytest.raises(InvalidError, match="in its place"):
            writer.replace(moved.sort_key, record(1051))
    assert [elm for elm in lab.elements() if elm.obj_id == 1050] == [moved]


@pytest.mark.parametrize(
    "elm",
    [
        record((1 << 63) - 1, key=(1 << 63) - 1, tid=(1 << 64) - 1, localization=0xFFFFFFFF, rec_type=0xFFFF),
        record(-(1 << 63), key=-(1 << 63), tid=0, localization=0xFFFFFFFF, rec_type=0xFFFF)._replace(
            obj_id=(1 << 63) - 1, key=(1 << 63) - 1
        ),
    ],
)
def test_keys_outside_every_tree_are_refused(elm: LeafElm) -> None:
    lab = TreeLab.fresh()
    with lab.section() as writer, pytest.raises(InvalidError, match="outside every tree"):
        writer.insert(elm)


def test_extreme_keys() -> None:
    lab = TreeLab.fresh()
    lowest = record(-(1 << 63), key=-(1 << 63), tid=1, localization=0, rec_type=0)
    highest = record((1 << 63) - 1, key=(1 << 63) - 1, tid=(1 << 64) - 2, localization=0xFFFFFFFF, rec_type=0xFFFF)
    fill(lab, [record(obj_id) for obj_id in range(1000, 1500)])
    fill(lab, [highest, lowest])
    elms = lab.elements()
    assert (elms[0], elms[-1]) == (lowest, highest)


def test_generations_of_one_slot_fill_leaves() -> None:
    lab = TreeLab.fresh()
    tids = range(TID, TID + 16 * 400, 16)
    fill(lab, [record(1000, tid=tid, delete_tid=tid + 8) for tid in tids])
    lab.cache.drop()
    for tid in tids[::7]:
        found = lab.tree.lookup(1, 1000, 1, 0, tid + 7)
        assert found is not None
        assert found.create_tid == tid
        assert lab.tree.lookup(1, 1000, 1, 0, tid + 8) is None


def test_growth_at_the_end_leaves_fuller_leaves() -> None:
    ascending, descending = TreeLab.fresh(), TreeLab.fresh()
    elms = [record(obj_id, localization=0x10001) for obj_id in range(1000, 3000)]
    fill(ascending, elms)
    fill(descending, elms[::-1])
    assert len(ascending.media_nodes()) < 0.75 * len(descending.media_nodes())


def test_a_leaf_is_split_at_its_end_only_once() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(1000 * n, localization=0x10001) for n in range(1, 200)])
    root = lab.tree.root()
    leaf = lab.tree.child(root, root.count - 2)
    assert leaf.count == 48
    last = leaf.elm(47).obj_id
    more = [record(last + n, localization=0x10001) for n in range(1, 17)]
    fill(lab, more)
    assert leaf.count == 32
    grown = lab.tree.leaf_of(more[-1].sort_key).leaf
    assert grown is not None
    assert grown.count == 32


@pytest.mark.parametrize("localization", [1, 0x10001])
def test_tids_are_told_to_the_right_parents_while_an_internal_node_is_split(localization: int) -> None:
    lab = TreeLab.fresh()
    elms = (record(n, tid=TID + n, localization=localization) for n in range(1000, 9000))
    while lab.tree.root().is_leaf or lab.tree.root().count < 62:
        fill(lab, [next(elms) for _ in range(40)])
    while depth(lab) < 3:
        fill(lab, [next(elms)])
    for _ in range(3):
        fill(lab, [next(elms)])


def test_the_leaf_of_the_last_call_may_be_gone_in_the_next_section() -> None:
    lab = TreeLab.fresh()
    for n in range(100):
        fill(lab, [record(1000 + n)])
        lab.cache.drop()
    assert len(lab.elements()) == 102


@pytest.mark.parametrize(
    ("left", "right", "want"),
    [
        ((1, 5, 1, 0, 7), (1, 9, 1, 3, 8), (1, 7, 1, 3, 8)),
        ((1, 5, 1, 0, 7), (1, 6, 1, 3, 8), (1, 6, 1, 3, 8)),
        ((1, 5, 1, 0, 7), (2, 1, 1, 3, 8), (2, 1, 1, 3, 8)),
        ((1, 5, 1, 10, 7), (1, 5, 1, 20, 8), (1, 5, 1, 15, 8)),
        ((1, 5, 1, 10, 7), (1, 5, 1, 10, 8), (1, 5, 1, 10, 8)),
        ((1, 5, 1, 0, 7), (1, 5, 0x11, 3, 8), (1, 5, 9, 3, 8)),
        ((1, -(1 << 63), 1, 0, 7), (1, (1 << 63) - 1, 1, 0, 8), (1, 0, 1, 0, 8)),
    ],
)
def test_separators(left: Key, right: Key, want: Key) -> None:
    assert separator(left, right) == want
    assert left < want <= right


@pytest.mark.parametrize("order", ["up", "down", "shuffled"])
def test_a_tree_destroyed_to_the_last_record_is_an_empty_leaf(order: str) -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 4500)])
    keys = [elm.sort_key for elm in lab.elements()]
    if order == "down":
        keys.reverse()
    elif order == "shuffled":
        Random(3).shuffle(keys)
    for first in range(0, len(keys), 700):
        with lab.section() as writer:
            for key in keys[first : first + 700]:
                assert writer.destroy(key).sort_key == key
    root = lab.tree.root()
    assert (lab.elements(), root.is_leaf, root.count) == ([], True, 0)
    fill(lab, [record(obj_id) for obj_id in range(1000, 2000)])
    assert len(lab.elements()) == 1000


def test_a_gap_left_by_deletion_is_closed_by_insertion() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 4500)])
    first = lab.tree.child(lab.tree.root(), 1)
    begin, end = first.left[1], first.right[1]
    inner = [elm for elm in lab.elements() if begin <= elm.obj_id < end]
    for part in (inner[:200], inner[-200:]):
        with lab.section() as writer:
            for elm in part:
                writer.destroy(elm.sort_key)
    node = lab.tree.child(lab.tree.root(), 1)
    assert node.keys[0] > node.left
    assert node.keys[-1] == node.right
    assert lab.tree.leaf_of(inner[0].sort_key).leaf is None
    fill(lab, inner[:200])
    fill(lab, inner[-200:])
    assert [elm for elm in lab.elements() if begin <= elm.obj_id < end] == inner


def test_nothing_is_told_upwards_without_mirroring() -> None:
    lab = TreeLab.fresh(mirror=False)
    fill(lab, [record(obj_id) for obj_id in range(1000, 2000)])
    with lab.section() as writer:
        writer.mark_deleted(record(1500).sort_key, TID + 512, 1)
    assert lab.tree.root().mirror_tid < TID + 512
    leaf = lab.tree.leaf_of(record(1500).sort_key).leaf
    assert leaf is not None
    assert leaf.mirror_tid == TID + 512


@pytest.mark.parametrize("index", [0, 3])
def test_a_removed_leaf_leaves_its_tid_with_its_neighbour(index: int) -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 1400)])
    root = lab.tree.root()
    leaf = lab.tree.child(root, index)
    with lab.section() as writer:
        for elm in leaf.elms(0, leaf.count):
            writer.mark_deleted(elm.sort_key, TID + 512, 1)
            writer.destroy(elm.sort_key)
    tids = [elm_mirror_tid(root, i) for i in range(root.count)]
    assert [i for i, tid in enumerate(tids) if tid == TID + 512] == [max(0, index - 1)]
    assert lab.tree.child(root, max(0, index - 1)).mirror_tid < TID + 512


def stale_boundary(lab: TreeLab, off: int) -> None:
    """Give a node's right boundary the btype that early kernels left there."""
    raw = bytearray(lab.media_node(off))
    raw[64 + 64 * raw[16] + 35] = BTREE_TYPE_LEAF
    raw[:4] = lab.volumes.rule.of(raw[4:]).to_bytes(4, "little")
    volume, at = lab.volumes.locate(off, len(raw))
    volume.dev.pwrite(at, raw)
    lab.cache.drop()


def boundary_btypes(lab: TreeLab) -> set[int]:
    nodes = (NodeOndisk.decode(raw) for raw in lab.media_nodes().values())
    return {node.elms[-1].btype for node in nodes if node.head.type == BTREE_TYPE_INTERNAL}


def test_a_right_boundary_that_is_widened_or_moved_gets_no_type() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 4500)])
    root = lab.tree.root()
    node, doomed = lab.tree.child(root, 0), lab.tree.child(root, 1)
    inner = [elm for elm in lab.elements() if doomed.left <= elm.sort_key < doomed.right]
    for first in range(0, len(inner), 700):
        with lab.section() as writer:
            for elm in inner[first : first + 700]:
                writer.destroy(elm.sort_key)
    assert lab.tree.leaf_of(inner[0].sort_key).leaf is None
    assert node.keys[-1] < node.right == root.keys[1]
    stale_boundary(lab, node.off)
    assert BTREE_TYPE_LEAF in boundary_btypes(lab)
    fill(lab, inner)
    assert boundary_btypes(lab) == {0}
    stale_boundary(lab, node.off)
    assert BTREE_TYPE_LEAF in boundary_btypes(lab)
    fill(lab, [record(1000, tid=TID + n) for n in range(1, 3000)])
    assert boundary_btypes(lab) == {0}


def test_every_node_can_be_moved() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 4500)])
    before = lab.elements()
    nodes = list(lab.media_nodes())
    for first in range(0, len(nodes), 25):
        with lab.section() as writer:
            for off in nodes[first : first + 25]:
                moved = writer.move_node(off)
                writer.destroy(before[first].sort_key)
                writer.insert(before[first])
                assert moved not in nodes
    lab.cache.drop()
    assert lab.elements() == before
    assert not set(nodes) & set(lab.media_nodes())


def test_an_empty_leaf_can_be_moved() -> None:
    lab = TreeLab.fresh()
    with lab.section() as writer:
        for elm in lab.elements():
            writer.destroy(elm.sort_key)
    former = lab.root
    with lab.section() as writer:
        assert writer.move_node(former) == lab.root != former


def test_what_is_no_node_of_the_tree_is_not_moved() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 1100)])
    freed = lab.root
    with lab.section() as writer:
        moved = writer.move_node(freed)
        for off in (freed, moved + 1, 0, moved | 9 << 60):
            with pytest.raises(CorruptError):
                writer.move_node(off)


def test_new_nodes_hold_nothing_of_what_was_there_before() -> None:
    lab = TreeLab.fresh()
    volume, at = lab.volumes.locate(lab.space.begin, BUFSIZE)
    volume.dev.pwrite(at, b"\xaa" * BUFSIZE)
    lab.space.next += NODE_SIZE
    fill(lab, [record(obj_id) for obj_id in range(1000, 1063)])
    for off in lab.space.live:
        assert b"\xaa" * 4 not in lab.media_node(off)
    assert len(lab.space.live) == 2


def test_no_space_leaves_a_sound_tree() -> None:
    lab = TreeLab.fresh()
    lab.space.end = lab.space.next + 10 * 4096
    done = lab.elements()
    with lab.section() as writer, pytest.raises(NoSpace):
        for obj_id in range(1000, 9000):
            writer.insert(record(obj_id))
            done.append(record(obj_id))
    assert lab.elements() == sorted(done, key=lambda elm: elm.sort_key)


def test_a_section_thrown_away_never_was() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 1100)])
    before, root = lab.elements(), lab.root
    with lab.cache.section():
        for obj_id in range(2000, 2500):
            lab.writer.insert(record(obj_id))
    lab.cache.discard_dirty()
    lab.writer.abandon()
    lab.volumes.superblock.vol0_btree_root = root
    lab.undo.next_span()
    assert lab.elements() == before
    lab.space.live = {off for off in lab.media_nodes() if lab.space.begin <= off < lab.space.end}
    fill(lab, [record(obj_id) for obj_id in range(3000, 3200)])
    assert len(lab.elements()) == len(before) + 200


def test_a_second_section_of_a_span_saves_nothing_again() -> None:
    lab = TreeLab.fresh()
    fill(lab, [record(obj_id) for obj_id in range(1000, 1500)])
    root, before = lab.root, lab.media_nodes()
    for first in (2000, 2001):
        with lab.cache.section():
            for obj_id in range(first, first + 400, 2):
                lab.writer.insert(record(obj_id))
            lab.writer.seal()
            lab.check_memory()
    assert len(lab.undo.saved) == 2
    lab.write()
    lab.check_media()
    lab.check_undo(root, before)
