"""Descending the tree: to the leaf of a key, to the element at or below a key, to the visible generation of a slot."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import NamedTuple

from hammerfs.btree.node import Node, load_node
from hammerfs.cache import BufferCache
from hammerfs.const import BUFMASK, BUFSIZE, MAX_DEPTH, MAX_TID, TID_INFINITE, ZONE_BTREE, ZONE_SHIFT
from hammerfs.errors import CorruptError
from hammerfs.keys import KEY_MAX, KEY_MIN, Key, visible
from hammerfs.ondisk.node import LeafElm
from hammerfs.volumes import Volumes

AHEAD = 32
"""Nodes that a scan which has to wait for one asks for with it."""


class Place(NamedTuple):
    """Where a descent ended."""

    leaf: Node | None
    """The leaf whose range holds the key; None in a gap between the boundaries of a node and its parent's."""
    left: Key
    """Lower bound of the range."""
    right: Key
    """First key behind the range."""


class BTree:
    """The tree of a file system.

    Args:
        volumes: Their superblock names the root node.
        cache: The buffers.
    """

    __slots__ = ("_root", "_volumes", "cache")

    def __init__(self, volumes: Volumes, cache: BufferCache) -> None:
        self._volumes = volumes
        self.cache = cache
        self._root: Node | None = None

    def root(self) -> Node:
        """The root node.

        Raises:
            CorruptError: It is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        root = self._root
        off = self._volumes.superblock.vol0_btree_root
        if root is None or not root.live or root.off != off:
            root = load_node(self.cache, self._volumes.rule, off, KEY_MIN, KEY_MAX)
            self._root = root
        root.buf.used = True
        return root

    def child(self, node: Node, i: int) -> Node:
        """Child `i` of an internal node.

        Raises:
            CorruptError: It is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        kid = node.kids[i]
        if isinstance(kid, int) or not kid.live:
            off = kid if isinstance(kid, int) else kid.off
            kids = node.kids
            kid = load_node(self.cache, self._volumes.rule, off, node.keys[i], node.keys[i + 1])
            kids[i] = kid
        kid.buf.used = True
        return kid

    def ahead(self, key: Key, end: Key) -> list[tuple[int, int, int]]:
        """Buffers that a scan from `key` to `end` needs next, as far as cached nodes tell: for a BufferMiss."""
        node = self._root
        i = 0
        while node is not None and node.live and not node.is_leaf:
            i = max(bisect_right(node.keys, key) - 1, 0)
            kid = node.kids[i] if i < node.count else 0
            if isinstance(kid, int) or not kid.live or kid.is_leaf:
                break
            node = kid
        if node is None or not node.live or node.is_leaf:
            return []
        found: dict[tuple[int, int, int], None] = {}
        for kid, left in zip(node.kids[i : i + AHEAD], node.keys[i : i + AHEAD], strict=False):
            if left >= end:
                break
            off = kid if isinstance(kid, int) else kid.off
            if off >> ZONE_SHIFT == ZONE_BTREE:
                try:
                    volume, byte_off = self._volumes.locate(off & ~BUFMASK, BUFSIZE)
                except CorruptError:
                    continue  # who comes there will be told
                found[volume.vol_no, byte_off, BUFSIZE] = None
        return list(found)

    def leaf_of(self, key: Key) -> Place:
        """The leaf whose range holds `key`.

        Raises:
            CorruptError: The tree is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        node, left, right = self.root(), KEY_MIN, KEY_MAX
        depth = 0
        while not node.is_leaf:
            keys = node.keys
            i = bisect_right(keys, key)
            if i == 0:
                return Place(None, left, keys[0])
            if i == len(keys):
                return Place(None, keys[-1], right)
            left, right = keys[i - 1], keys[i]
            node = self.child(node, i - 1)
            depth += 1
            if depth > MAX_DEPTH:
                raise CorruptError(f"B-Tree is deeper than {MAX_DEPTH} levels", offset=node.off)
        return Place(node, left, right)

    def floor(self, key: Key, *, below: bool = False) -> LeafElm | None:
        """The last element that is not above `key` (with `below`: that is below it) in the whole tree.

        Raises:
            CorruptError: The tree is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        bound: Key | None = key
        while bound is not None:
            elm, bound = self._floor_step(bound, below=below)
            if elm is not None:
                return elm
            below = True
        return None

    def lookup(self, localization: int, obj_id: int, rec_type: int, key: int, asof: int) -> LeafElm | None:
        """The generation of a record slot that is visible as of a TID (MAX_TID: the current one).

        Raises:
            CorruptError: The tree is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        slot = (localization, obj_id, rec_type, key)
        at: Key = (*slot, asof if asof != MAX_TID else TID_INFINITE)
        elm = self._lookup_here(at)
        if elm is None:
            elm = self.floor(at)
        while elm is not None and elm.sort_key[:4] == slot:
            if visible(elm.create_tid, elm.delete_tid, asof):
                return elm
            elm = self.floor(elm.sort_key, below=True)
        return None

    def _lookup_here(self, at: Key) -> LeafElm | None:
        """The element at or below `at` when it is in the leaf of `at`: the common case, without a second descent."""
        leaf = self.leaf_of(at).leaf
        if leaf is None:
            return None
        i = leaf.leaf_right(at, self.cache)
        return leaf.elm(i - 1) if i else None

    def _floor_step(self, key: Key, *, below: bool) -> tuple[LeafElm | None, Key | None]:
        """Look for the floor of `key` in one leaf; else the bound below which to look next."""
        index: Callable[[list[Key], Key], int] = bisect_left if below else bisect_right
        node, left = self.root(), KEY_MIN
        depth = 0
        while not node.is_leaf:
            i = index(node.keys, key)
            if i == 0:
                return None, left if left > KEY_MIN else None
            i = min(i, node.count)
            left = node.keys[i - 1]
            node = self.child(node, i - 1)
            depth += 1
            if depth > MAX_DEPTH:
                raise CorruptError(f"B-Tree is deeper than {MAX_DEPTH} levels", offset=node.off)
        i = node.leaf_left(key, self.cache) if below else node.leaf_right(key, self.cache)
        if i:
            return node.elm(i - 1), None
        return None, left if left > KEY_MIN else None
