"""What every change of the tree is made of: nodes saved for UNDO, made, given back and sealed; children linked.

A node is saved once in an UNDO span, whole, before its first change; one that was allocated in the span is not, because
nothing refers to it once the span is undone. Its checksum is made once, when the section ends.

Whatever can fail (memory, media, space, UNDO) comes before the first byte of a step is changed: a step that raises has
left a sound tree.
"""

from __future__ import annotations

import struct
from typing import Protocol

from hammerfs.btree.node import Node, adopt_node, forget_node, raw_key
from hammerfs.btree.search import BTree
from hammerfs.buffer import DirtyClass
from hammerfs.const import (
    BTREE_TYPE_DELETED,
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    BUFMASK,
    ELM_SIZE,
    NODE_HEADER,
    NODE_SIZE,
    ZONE_BTREE,
)
from hammerfs.keys import KEY_MAX, KEY_MIN, Key
from hammerfs.ondisk.node import BASE_ELM, NODE_HEAD, ROOT_LEFT, ROOT_RIGHT, NodeHead
from hammerfs.volumes import Volumes

Path = list[tuple[Node, int]]
"""The internal nodes above a node, root first, each with the index of the child that leads to it."""

PARENT_AT, COUNT_AT, TYPE_AT, MIRROR_AT = 8, 16, 20, 56
"""Bytes of a node's head; a count is at most 63 and so one byte."""
_BASE_SIZE = BASE_ELM.size
_BTYPE_AT = 35
_ELM_MIRROR_AT, _ELM_SUBTREE_AT = 40, 48
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SUBTREE = struct.Struct("<QQQ")
_ZEROS = bytes(NODE_SIZE)


class NodeSpace(Protocol):
    """Where nodes get their space; `hammerfs.alloc.Allocator` is one."""

    def alloc(self, zone: int, nbytes: int, /) -> int:
        """Address of new space."""

    def free(self, off: int, nbytes: int, /) -> object:
        """Give space back."""


class UndoSpan(Protocol):
    """Where former bytes are saved; `hammerfs.undo_writer.UndoWriter` is one."""

    @property
    def span(self) -> int:
        """Number of the span: what was saved in it need not be saved again."""

    def save(self, off: int, old: memoryview, /) -> None:
        """Save bytes that are about to change; they are copied."""

    def save_field(self, name: str, /) -> None:
        """Save a field of the root volume's header that is about to change."""


class Editor:
    """Changes single nodes.

    Args:
        volumes: The superblock names the root, the version the checksums.
        tree: The tree.
        space: Gives and takes the space of nodes.
        undo: Keeps former bytes.
    """

    __slots__ = ("_changed", "_space", "_volumes", "cache", "tree", "undo")

    def __init__(self, volumes: Volumes, tree: BTree, space: NodeSpace, undo: UndoSpan) -> None:
        self._volumes = volumes
        self._space = space
        self.tree = tree
        self.cache = tree.cache
        self.undo = undo
        self._changed: list[Node] = []

    def touch(self, node: Node) -> memoryview:
        """Prepare a node for a change.

        Returns:
            Its bytes, writable.
        """
        if node.mv:
            return node.mv
        if node.span != self.undo.span:
            self.undo.save(node.off, node.raw)
            node.span = self.undo.span
        return self._open(node)

    def new_node(self, btype: int, left: Key, right: Key, *, mirror_tid: int, parent: int) -> Node:
        """A new, empty node, registered and ready for changes."""
        off = self._space.alloc(ZONE_BTREE, NODE_SIZE)
        buf = self.cache.bread(off) if off & BUFMASK else self.cache.bnew(off)
        node = Node(off, buf, NodeHead(0, 0, parent, 0, btype, b"", b"", mirror_tid), left, right)
        node.span = self.undo.span
        mv = self._open(node)
        mv[:] = _ZEROS
        NODE_HEAD.pack_into(mv, 0, 0, 0, parent, 0, btype, b"", b"", mirror_tid)
        adopt_node(self.cache, node)
        return node

    def retire(self, node: Node) -> None:
        """A node that nothing refers to any more: mark it deleted and give its space back."""
        mv = self.touch(node)
        mv[TYPE_AT] = BTREE_TYPE_DELETED
        mv[COUNT_AT] = 0
        self._seal(mv)
        forget_node(self.cache, node)
        self._space.free(node.off, NODE_SIZE)

    def new_root(self, old: Node) -> Node:
        """Put a new root with one child above the old one."""
        self.touch(old)
        root = self.new_node(BTREE_TYPE_INTERNAL, KEY_MIN, KEY_MAX, mirror_tid=old.mirror_tid, parent=0)
        self.set_root(root)
        root.keys = [ROOT_RIGHT.sort_key]
        root.mv[NODE_HEADER : NODE_HEADER + _BASE_SIZE] = ROOT_RIGHT.encode()
        self.link(root, 0, ROOT_LEFT.encode(), old)
        old.right = root.keys[1]
        return root

    def set_root(self, root: Node) -> None:
        """Another node is the root."""
        self.undo.save_field("vol0_btree_root")
        self._volumes.superblock.vol0_btree_root = root.off

    def link(self, parent: Node, i: int, base: bytes | memoryview, child: Node) -> None:
        """Insert a child as element `i` of an internal node that is touched and not full; both know it afterwards.

        Args:
            parent: The internal node.
            i: Index; the elements from there on, right boundary included, move on by one.
            base: Left boundary of the child, 40 bytes of which the btype is not used.
            child: The child, touched.
        """
        mv, at = parent.mv, NODE_HEADER + i * ELM_SIZE
        end = NODE_HEADER + (parent.count + 1) * ELM_SIZE
        mv[at + ELM_SIZE : end + ELM_SIZE] = mv[at:end]
        mv[at : at + _BASE_SIZE] = base
        mv[at + _BTYPE_AT] = BTREE_TYPE_LEAF if child.is_leaf else BTREE_TYPE_INTERNAL
        _SUBTREE.pack_into(mv, at + _ELM_MIRROR_AT, child.mirror_tid, child.off, 0)
        parent.count += 1
        mv[COUNT_AT] = parent.count
        child.left = raw_key(mv, i)
        parent.keys.insert(i, child.left)
        parent.kids.insert(i, child)
        self.set_parent(child, parent.off)

    def unlink(self, parent: Node, i: int) -> None:
        """Remove element `i` of an internal node that is touched and has more than one.

        What it knew of TIDs below goes to its neighbour; the child's range goes to the left neighbour, and if there is
        none the node's own left boundary becomes tighter.
        """
        mv = parent.mv
        neighbour = i - 1 if i else 1
        tid = elm_mirror_tid(parent, i)
        if tid > elm_mirror_tid(parent, neighbour):
            self.set_elm_mirror_tid(parent, neighbour, tid)
        at, end = NODE_HEADER + i * ELM_SIZE, NODE_HEADER + (parent.count + 1) * ELM_SIZE
        mv[at : end - ELM_SIZE] = mv[at + ELM_SIZE : end]
        parent.count -= 1
        mv[COUNT_AT] = parent.count
        del parent.keys[i]
        del parent.kids[i]
        if i:
            self._bound(parent, i - 1)

    def widen(self, node: Node, above: tuple[Node, int] | None, *, at_left: bool) -> None:
        """Set a boundary of an internal node to what its parent gives it.

        Args:
            node: The node.
            above: Its parent and its index there; None for the root.
            at_left: Which boundary.
        """
        mv = self.touch(node)
        i = 0 if at_left else node.count
        at = NODE_HEADER + i * ELM_SIZE
        btype = mv[at + _BTYPE_AT] if at_left else 0
        if above is None:
            base: bytes | memoryview = (ROOT_LEFT if at_left else ROOT_RIGHT).encode()
        else:
            base = elm_base(above[0], above[1] if at_left else above[1] + 1)
        mv[at : at + _BASE_SIZE] = base
        mv[at + _BTYPE_AT] = btype
        node.keys[i] = raw_key(mv, i)
        self._bound(node, 0 if at_left else node.count - 1)

    def end_at(self, node: Node, i: int) -> None:
        """Element `i` of an internal node, touched, is its right boundary; what lies behind is gone."""
        at = NODE_HEADER + i * ELM_SIZE
        node.mv[at + _BTYPE_AT] = 0
        _U64.pack_into(node.mv, at + _ELM_SUBTREE_AT, 0)
        node.count = node.mv[COUNT_AT] = i
        del node.keys[i + 1 :]
        del node.kids[i:]

    def clear(self, node: Node) -> None:
        """A touched node becomes an empty leaf."""
        node.mv[TYPE_AT] = BTREE_TYPE_LEAF
        node.is_leaf = True
        node.count = node.mv[COUNT_AT] = 0
        node.keys, node.kids = [], []

    def take_over(self, node: Node, former: Node) -> None:
        """A new node gets all another one has, but for its place."""
        node.mv[:] = former.raw
        node.count, node.mirror_tid = former.count, former.mirror_tid
        node.keys, node.kids = former.keys, former.kids

    def set_parent(self, node: Node, parent: int) -> None:
        """Set the parent field of a touched node."""
        _U64.pack_into(node.mv, PARENT_AT, parent)

    def set_mirror_tid(self, node: Node, tid: int) -> None:
        """Set a touched node's own mirror_tid."""
        node.mirror_tid = tid
        _U64.pack_into(node.mv, MIRROR_AT, tid)

    def set_elm_mirror_tid(self, node: Node, i: int, tid: int) -> None:
        """Set the mirror_tid of element `i` of a touched internal node."""
        _U64.pack_into(node.mv, NODE_HEADER + i * ELM_SIZE + _ELM_MIRROR_AT, tid)

    def set_subtree(self, node: Node, i: int, child: Node) -> None:
        """Have element `i` of a touched internal node lead to another node with the same range."""
        _U64.pack_into(node.mv, NODE_HEADER + i * ELM_SIZE + _ELM_SUBTREE_AT, child.off)
        node.kids[i] = child

    def seal(self) -> None:
        """Checksums of all changed nodes."""
        for node in self._changed:
            if node.live and node.mv:
                self._seal(node.mv)
                node.mv = node.mv[:0]
                node.charge(self.cache)
        self._changed.clear()

    def abandon(self) -> None:
        """Forget which nodes were changed: their buffers have been thrown away."""
        self._changed.clear()

    def _open(self, node: Node) -> memoryview:
        start = node.off & BUFMASK
        node.mv = node.buf.mem.mv[start : start + NODE_SIZE]
        self._changed.append(node)
        self.cache.mark_dirty(node.buf, DirtyClass.META)
        return node.mv

    def _seal(self, mv: memoryview) -> None:
        _U32.pack_into(mv, 0, self._volumes.rule.compute(mv[4:], 0))

    def _bound(self, parent: Node, i: int) -> None:
        """Tell child `i`, if it is loaded, the range its parent gives it now."""
        kid = parent.kids[i]
        if isinstance(kid, Node):
            kid.left, kid.right = parent.keys[i], parent.keys[i + 1]


def elm_base(node: Node, i: int) -> bytes:
    """The 40 bytes of the base of element `i`."""
    at = NODE_HEADER + i * ELM_SIZE
    return bytes(node.raw[at : at + _BASE_SIZE])


def elm_mirror_tid(node: Node, i: int) -> int:
    """mirror_tid of element `i` of an internal node."""
    value: int = _U64.unpack_from(node.raw, NODE_HEADER + i * ELM_SIZE + _ELM_MIRROR_AT)[0]
    return value
