"""Changing the tree: records inserted, marked deleted, destroyed, rewritten; nodes moved.

All changes of a flush are made in one atomic section of the cache (`BufferCache.section`), which ends with `seal`::

    with cache.section():
        for elm in sorted(elms, key=sort_key):
            writer.insert(elm)
        writer.seal()

Within a section nodes stay in memory, so the leaf of the last call is remembered: the next record of a sorted batch
needs no descent.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from hammerfs.btree.delete import remove_empty
from hammerfs.btree.edit import COUNT_AT, Editor, NodeSpace, Path, UndoSpan
from hammerfs.btree.mirror_tid import raise_mirror_tid
from hammerfs.btree.node import Node
from hammerfs.btree.rebalance import Repacked, repack
from hammerfs.btree.search import BTree
from hammerfs.btree.split import split_internal, split_leaf
from hammerfs.const import (
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    ELM_SIZE,
    INT_ELMS,
    LEAF_ELMS,
    MAX_DEPTH,
    NODE_HEADER,
    NODE_SIZE,
    ZONE_BTREE,
    ZONE_SHIFT,
)
from hammerfs.errors import CorruptError, ExistsError, InvalidError, NotFound
from hammerfs.keys import Key
from hammerfs.ondisk.node import LEAF_ELM, ROOT_LEFT, ROOT_RIGHT, LeafElm, NodeHead
from hammerfs.volumes import Volumes

_DELETE_TID, _DELETE_TS = struct.Struct("<Q"), struct.Struct("<I")
_DELETE_TID_AT, _DELETE_TS_AT = 24, 44
"""Bytes of a leaf element."""
_LOWEST, _END = ROOT_LEFT.sort_key, ROOT_RIGHT.sort_key


class TreeWriter:
    """Writes to the tree. Every method may also raise what reading the tree raises, NoSpace, and what `undo` raises.

    Args:
        volumes: The volume set.
        tree: Its tree.
        alloc: Gives and takes the space of nodes.
        undo: Keeps the bytes as they were.
        mirror: Whether TIDs are told upwards to the root, for mirroring (not under ``nomirror``).
    """

    __slots__ = ("_cache", "_editor", "_leaf", "_mirror", "_path", "_tree")

    def __init__(self, volumes: Volumes, tree: BTree, alloc: NodeSpace, undo: UndoSpan, *, mirror: bool = True) -> None:
        self._tree = tree
        self._cache = tree.cache
        self._editor = Editor(volumes, tree, alloc, undo)
        self._mirror = mirror
        self._leaf: Node | None = None
        self._path: Path = []

    def insert(self, elm: LeafElm) -> None:
        """Insert a record.

        Raises:
            ExistsError: There is one with this key.
            InvalidError: No tree has such a key.
        """
        key = elm.sort_key
        raw = LEAF_ELM.pack(*elm)
        leaf = self._leaf
        if leaf is None or not leaf.left <= key < leaf.right or leaf.count == LEAF_ELMS:
            leaf = self._descend_inserting(key)
        i = leaf.leaf_left(key, self._cache)
        if i < leaf.count and leaf.key_at(i) == key:
            raise ExistsError(f"record {_text(key)} is there already")
        if leaf.count == LEAF_ELMS:
            leaf, i = split_leaf(self._editor, self._path, leaf, i, key)
            self._leaf = leaf
        mv = self._stamped(leaf, max(elm.create_tid, elm.delete_tid))
        at, count = NODE_HEADER + i * ELM_SIZE, leaf.count
        if i < count:
            end = NODE_HEADER + count * ELM_SIZE
            mv[at + ELM_SIZE : end + ELM_SIZE] = mv[at:end]
        mv[at : at + ELM_SIZE] = raw
        leaf.count = mv[COUNT_AT] = count + 1
        if leaf.keys:
            leaf.keys.insert(i, key)

    def mark_deleted(self, key: Key, tid: int, ts: int) -> LeafElm:
        """End the life of a record: it stays as history.

        Args:
            key: Its key.
            tid: TID of the deletion.
            ts: Unix seconds.

        Returns:
            The element as it was.

        Raises:
            NotFound: There is none.
            InvalidError: It is deleted already, or was created at this TID or later.
        """
        leaf, i = self._find(key)
        elm = leaf.elm(i)
        if elm.delete_tid or tid <= elm.create_tid:
            raise InvalidError(f"record {_text(key)}, deleted 0x{elm.delete_tid:016x}, can't be deleted 0x{tid:016x}")
        mv, at = self._stamped(leaf, tid), NODE_HEADER + i * ELM_SIZE
        _DELETE_TID.pack_into(mv, at + _DELETE_TID_AT, tid)
        _DELETE_TS.pack_into(mv, at + _DELETE_TS_AT, ts)
        return elm

    def replace(self, key: Key, elm: LeafElm) -> None:
        """Rewrite a record in its place.

        Args:
            key: Its key.
            elm: The element as it will be, with the same key.

        Raises:
            NotFound: There is none.
            InvalidError: The key of `elm` is another one.
        """
        if elm.sort_key != key:
            raise InvalidError(f"record {_text(key)} can't become {_text(elm.sort_key)} in its place")
        raw = LEAF_ELM.pack(*elm)
        leaf, i = self._find(key)
        at = NODE_HEADER + i * ELM_SIZE
        self._stamped(leaf, max(elm.create_tid, elm.delete_tid))[at : at + ELM_SIZE] = raw

    def destroy(self, key: Key) -> LeafElm:
        """Remove a record without trace; its payload is the caller's.

        Returns:
            The element.

        Raises:
            NotFound: There is none.
        """
        leaf, i = self._find(key)
        elm = leaf.elm(i)
        mv = self._editor.touch(leaf)
        at, end = NODE_HEADER + i * ELM_SIZE, NODE_HEADER + leaf.count * ELM_SIZE
        mv[at : end - ELM_SIZE] = mv[at + ELM_SIZE : end]
        leaf.count -= 1
        mv[COUNT_AT] = leaf.count
        if leaf.keys:
            del leaf.keys[i]
        if not leaf.count:
            remove_empty(self._editor, self._path, leaf)
            self._leaf = None
        return elm

    def move_node(self, off: int) -> int:
        """Move a node to newly allocated space.

        Args:
            off: Its address.

        Returns:
            Its new address.

        Raises:
            CorruptError: The tree does not lead to a node there.
        """
        editor = self._editor
        node, path = self._path_to(off)
        kids = [] if node.is_leaf else [self._tree.child(node, i) for i in range(node.count)]
        for touched in (node, *kids, *(parent for parent, _ in path[-1:])):
            editor.touch(touched)
        btype = BTREE_TYPE_LEAF if node.is_leaf else BTREE_TYPE_INTERNAL
        moved = editor.new_node(btype, node.left, node.right, mirror_tid=node.mirror_tid, parent=0)
        editor.take_over(moved, node)
        if path:
            editor.set_subtree(*path[-1], moved)
        else:
            editor.set_root(moved)
        for kid in kids:
            editor.set_parent(kid, moved.off)
        self._leaf = None
        editor.retire(node)
        return moved.off

    def repack(self, parent: Node, first: int, saturation: int) -> Repacked:
        """Repack children of an internal node of the tree; see `rebalance.repack`."""
        self._leaf = None
        return repack(self._editor, parent, first, saturation)

    def seal(self) -> None:
        """The section ends: the checksums of what was changed in it."""
        self._leaf = None
        self._editor.seal()

    def abandon(self) -> None:
        """The changes of the section have been thrown away (`BufferCache.discard_dirty`)."""
        self._leaf = None
        self._editor.abandon()

    def _stamped(self, leaf: Node, tid: int) -> memoryview:
        """Bytes of a leaf, writable, whose mirror_tid and those above cover `tid`."""
        if tid > leaf.mirror_tid:
            raise_mirror_tid(self._editor, self._path, leaf, tid, climb=self._mirror)
        return leaf.mv or self._editor.touch(leaf)

    def _find(self, key: Key) -> tuple[Node, int]:
        """The leaf of a record, with its path remembered, and the index there."""
        leaf = self._leaf
        if leaf is None or not leaf.left <= key < leaf.right:
            leaf = self._descend(key)
        i = leaf.leaf_left(key, self._cache)
        if i == leaf.count or leaf.key_at(i) != key:
            raise NotFound(f"no record {_text(key)}")
        return leaf, i

    def _descend(self, key: Key) -> Node:
        """The leaf whose range holds `key`."""
        tree, node = self._tree, self._tree.root()
        path: Path = []
        while not node.is_leaf:
            i = bisect_right(node.keys, key) - 1
            if not 0 <= i < node.count:
                raise NotFound(f"no record {_text(key)}")
            path.append((node, i))
            node = tree.child(node, i)
            if len(path) > MAX_DEPTH:
                raise CorruptError(f"B-Tree is deeper than {MAX_DEPTH} levels", offset=node.off)
        self._leaf, self._path = node, path
        return node

    def _descend_inserting(self, key: Key) -> Node:
        """The same for a key to come: full internal nodes are split, gaps between boundaries closed."""
        if not _LOWEST <= key < _END:
            raise InvalidError(f"record {_text(key)} lies outside every tree")
        tree, node = self._tree, self._tree.root()
        path: Path = []
        self._leaf = None
        while not node.is_leaf:
            if node.count == INT_ELMS:
                node = split_internal(self._editor, path, node, key)
            i = bisect_right(node.keys, key) - 1
            if not 0 <= i < node.count:
                self._editor.widen(node, path[-1] if path else None, at_left=i < 0)
                i = 0 if i < 0 else node.count - 1
            path.append((node, i))
            node = tree.child(node, i)
            if len(path) > MAX_DEPTH:
                raise CorruptError(f"B-Tree is deeper than {MAX_DEPTH} levels", offset=node.off)
        self._leaf, self._path = node, path
        return node

    def _path_to(self, off: int) -> tuple[Node, Path]:
        """A node by its address: up along the parent fields, then down from the root."""
        tree = self._tree
        root = tree.root()
        way = [off]
        while way[-1] != root.off:
            if len(way) > MAX_DEPTH:
                raise CorruptError("parent fields of B-Tree nodes do not lead to the root", offset=off)
            way.append(self._parent_address(way[-1]))
        node, path = root, []
        for below in reversed(way[:-1]):
            addresses = [kid if isinstance(kid, int) else kid.off for kid in node.kids]
            if below not in addresses:
                raise CorruptError("the parent of this B-Tree node does not refer to it", offset=below)
            i = addresses.index(below)
            path.append((node, i))
            node = tree.child(node, i)
        return node, path

    def _parent_address(self, off: int) -> int:
        if off >> ZONE_SHIFT != ZONE_BTREE or off % NODE_SIZE:
            raise CorruptError("B-Tree node address can't be", offset=off)
        return NodeHead.decode(self._cache.view(off, NODE_SIZE)).parent


def _text(key: Key) -> str:
    localization, obj_id, rec_type, at, create_tid = key
    return f"{localization:08x} obj=0x{obj_id & (1 << 64) - 1:016x} rt={rec_type:02x} key={at} tid=0x{create_tid:016x}"
