"""Iteration over ranges of keys, forward and backward, over all generations or those visible at a point in time.

An iterator holds no node: it keeps decoded elements of one leaf and the key where it goes on, which only grows (or
only shrinks). So evictions can't hurt it and no damage can make it loop.
"""

from __future__ import annotations

from collections.abc import Iterator

from hammerfs.btree.search import BTree
from hammerfs.const import TID_INFINITE
from hammerfs.errors import BufferMiss
from hammerfs.keys import KEY_MIN, Key, visible
from hammerfs.ondisk.node import LeafElm

_CROWD = 8
"""Dead generations of one slot in a row that make a look-up of the living one worth while."""


def leaves(tree: BTree, beg: Key, end: Key) -> Iterator[list[LeafElm]]:
    """Elements with beg <= key < end in order, leaf by leaf (no empty lists).

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    key = beg
    while key < end:
        try:
            leaf, _, right = tree.leaf_of(key)
        except BufferMiss as miss:
            raise BufferMiss(list(dict.fromkeys([*miss.wanted, *tree.ahead(key, end)]))) from None
        if leaf is not None and leaf.count:
            cache = tree.cache
            first = leaf.leaf_left(key, cache) if key > leaf.left else 0
            last = leaf.leaf_left(end, cache) if end < right else leaf.count
            if first < last:
                yield leaf.elms(first, last)
        if right <= key:
            return
        key = right


def scan(tree: BTree, beg: Key, end: Key) -> Iterator[LeafElm]:
    """All generations with beg <= key < end, ascending.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    for elms in leaves(tree, beg, end):
        yield from elms


def scan_reverse(tree: BTree, beg: Key, end: Key) -> Iterator[LeafElm]:
    """All generations with beg <= key < end, descending.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    at: Key | None = end
    while at is not None and at > beg:
        last = tree.floor(at, below=True)
        if last is None or last.sort_key < beg:
            return
        place = tree.leaf_of(last.sort_key)
        leaf = place.leaf
        if leaf is None:
            return
        first = leaf.leaf_left(beg, tree.cache) if beg > place.left else 0
        stop = leaf.leaf_right(last.sort_key, tree.cache)
        yield from reversed(leaf.elms(first, stop))
        at = place.left if place.left > KEY_MIN else None


def scan_asof(tree: BTree, beg: Key, end: Key, asof: int) -> Iterator[LeafElm]:
    """Elements with beg <= key < end visible as of a TID (MAX_TID: now), ascending.

    A slot with so many generations that they fill leaves (a name created and removed all the time) is passed by one
    look-up instead of reading them.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    for elms in leaves_asof(tree, beg, end, asof):
        yield from elms


def leaves_asof(tree: BTree, beg: Key, end: Key, asof: int) -> Iterator[list[LeafElm]]:
    """As `scan_asof`, leaf by leaf; lists may be empty."""
    key: Key | None = beg
    while key is not None:
        start, key = key, None
        for elms in leaves(tree, start, end):
            yield [elm for elm in elms if visible(elm.create_tid, elm.delete_tid, asof)]
            last = elms[-1]
            slot = last.sort_key[:4]
            crowded = len(elms) > _CROWD and elms[0].sort_key[:4] == slot
            if crowded and not visible(last.create_tid, last.delete_tid, asof):
                found = tree.lookup(*slot, asof)
                if found is not None and last.sort_key < found.sort_key < end:
                    yield [found]
                key = (*slot, TID_INFINITE + 1)
                break
