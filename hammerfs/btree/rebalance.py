"""Repacking the children of an internal node, left to right, so that each is well filled; those left empty go.

Nothing but the structure changes: the elements of the leaves stay what they are, in the same order.
"""

from __future__ import annotations

from typing import NamedTuple

from hammerfs.btree.edit import COUNT_AT, Editor, elm_base, elm_mirror_tid
from hammerfs.btree.node import Node, raw_key
from hammerfs.const import ELM_SIZE, INT_ELMS, NODE_HEADER
from hammerfs.keys import Key

_BASE_SIZE = 40
_BTYPE_AT = 35
INTERNAL_WINDOW = 6
"""Internal children that are repacked together: every child of theirs that moves is saved for UNDO."""


class Repacked(NamedTuple):
    """What became of some children."""

    scanned: int
    """Children that were looked at."""
    following: int
    """Index of the child to go on with."""
    changed: int
    """Children that hold other elements than before."""
    removed: int
    """Children that are gone."""


def repack(editor: Editor, parent: Node, first: int, saturation: int) -> Repacked:
    """Repack children of an internal node from index `first` on: all of them, or a window of internal ones.

    Args:
        editor: Changes nodes.
        parent: The internal node.
        first: Index of the first child.
        saturation: Elements that each is to have.
    """
    tree = editor.tree
    leaves = tree.child(parent, first).is_leaf
    end = parent.count if leaves else min(first + INTERNAL_WINDOW, parent.count)
    nodes = [tree.child(parent, i) for i in range(first, end)]
    counts = [node.count for node in nodes]
    per = max(saturation, -(-sum(counts) // len(nodes)))
    wanted = [min(per, sum(counts) - at) for at in range(0, sum(counts), per)]
    if len(nodes) < 2 or not wanted or (len(wanted) == len(nodes) and (wanted == counts or not leaves)):
        return Repacked(end - first, end, 0, 0)
    editor.touch(parent)
    mirrors = _mirror_tids(parent, first, nodes, wanted)
    kept, gone = nodes[: len(wanted)], nodes[len(wanted) :]
    if leaves:
        _repack_leaves(editor, parent, first, nodes, wanted)
    else:
        _repack_internals(editor, parent, first, end, nodes, wanted)
    for i, (node, tid) in enumerate(zip(kept, mirrors, strict=True), first):
        editor.set_mirror_tid(node, tid)
        editor.set_elm_mirror_tid(parent, i, tid)
    for i in reversed(range(first + len(kept), end)):
        editor.unlink(parent, i)
    for node in gone:
        editor.touch(node)
        editor.retire(node)
    is_done = leaves or wanted[-1] == per or not gone
    return Repacked(end - first, first + len(kept) - (0 if is_done else 1), len(nodes), len(gone))


def _repack_leaves(editor: Editor, parent: Node, first: int, nodes: list[Node], wanted: list[int]) -> None:
    body = b"".join([bytes(node.raw[NODE_HEADER : NODE_HEADER + node.count * ELM_SIZE]) for node in nodes])
    at = 0
    for i, (node, count) in enumerate(zip(nodes, wanted, strict=False), first):
        mv = editor.touch(node)
        mv[NODE_HEADER : NODE_HEADER + count * ELM_SIZE] = body[at : at + count * ELM_SIZE]
        at += count * ELM_SIZE
        node.count = mv[COUNT_AT] = count
        node.keys = []
        node.appended = False
        if i > first:
            _set_bound(parent, i, raw_key(mv, 0), mv[NODE_HEADER : NODE_HEADER + _BASE_SIZE])
    _tell_range(parent, first, first + len(wanted))


def _repack_internals(editor: Editor, parent: Node, first: int, end: int, nodes: list[Node], wanted: list[int]) -> None:
    tree = editor.tree
    body = b"".join([bytes(node.raw[NODE_HEADER : NODE_HEADER + node.count * ELM_SIZE]) for node in nodes])
    keys = [key for node in nodes for key in node.keys[: node.count]]
    kids = [tree.child(node, i) for node in nodes for i in range(node.count)]
    homes = [node for node in nodes for _ in range(node.count)]
    end_base, end_key = elm_base(parent, end), parent.keys[end]
    moves = [node for node, count in zip(nodes, wanted, strict=False) for _ in range(count)]
    for kid, before, now in zip(kids, homes, moves, strict=True):
        if before is not now:
            editor.touch(kid)
    at = 0
    for i, (node, count) in enumerate(zip(nodes, wanted, strict=False), first):
        mv, stop = editor.touch(node), at + count
        mv[NODE_HEADER : NODE_HEADER + count * ELM_SIZE] = body[at * ELM_SIZE : stop * ELM_SIZE]
        right = body[stop * ELM_SIZE : stop * ELM_SIZE + _BASE_SIZE] if stop < len(keys) else end_base
        slot = NODE_HEADER + count * ELM_SIZE
        mv[slot : slot + ELM_SIZE] = right.ljust(ELM_SIZE, b"\0")
        mv[slot + _BTYPE_AT] = 0
        node.count = mv[COUNT_AT] = count
        node.keys = [*keys[at:stop], keys[stop] if stop < len(keys) else end_key]
        node.kids = [*kids[at:stop]]
        if i > first:
            _set_bound(parent, i, keys[at], body[at * ELM_SIZE : at * ELM_SIZE + _BASE_SIZE])
        _tell_range(node, 0, count)
        at = stop
    for kid, before, now in zip(kids, homes, moves, strict=True):
        if before is not now:
            editor.set_parent(kid, now.off)
    _tell_range(parent, first, first + len(wanted))


def _set_bound(parent: Node, i: int, bound: Key, base: bytes | memoryview) -> None:
    """Element `i` of an internal node, touched, begins at another key; its btype stays."""
    at = NODE_HEADER + i * ELM_SIZE
    btype = parent.mv[at + _BTYPE_AT]
    parent.mv[at : at + _BASE_SIZE] = base
    parent.mv[at + _BTYPE_AT] = btype
    parent.keys[i] = bound


def _tell_range(parent: Node, first: int, end: int) -> None:
    """Children that are loaded know their range."""
    for i in range(first, end):
        kid = parent.kids[i]
        if isinstance(kid, Node):
            kid.left, kid.right = parent.keys[i], parent.keys[i + 1]


def _mirror_tids(parent: Node, first: int, nodes: list[Node], wanted: list[int]) -> list[int]:
    """The bound of TIDs of each child to be: that of all whose elements or range it gets something of."""
    known = [max(node.mirror_tid, elm_mirror_tid(parent, first + i)) for i, node in enumerate(nodes)]
    source = [i for i, node in enumerate(nodes) for _ in range(node.count)]
    found, at = [], 0
    for number, count in enumerate(wanted):
        low = source[at - 1] if at else 0
        at += count
        high = source[at - 1] if number + 1 < len(wanted) else len(nodes) - 1
        found.append(max(known[low : high + 1]))
    return found


assert INTERNAL_WINDOW < INT_ELMS
