"""A B-Tree node in memory: its 4 KiB in the buffer cache and, decoded once, its keys.

Inner nodes are decoded when they are loaded; a leaf is searched in its raw bytes the first time and decoded when it is
hit again, because the decoded list costs more memory than the node.

What changes a node (modify.py) writes its bytes and what is decoded of it together: they agree between any two calls.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right

from hammerfs.buffer import Buffer
from hammerfs.cache import BufferCache
from hammerfs.const import (
    BTREE_TYPE_LEAF,
    BUFMASK,
    ELM_SIZE,
    NODE_HEADER,
    NODE_SIZE,
    TID_INFINITE,
    ZONE_BTREE,
)
from hammerfs.crc import CrcRule
from hammerfs.errors import CorruptError
from hammerfs.keys import Key
from hammerfs.ondisk.node import INTERNAL_ELM, LEAF_ELM, LeafElm, NodeHead, decode_keys, verify_node

_RAW_KEY = struct.Struct("<qqQ8xHxxI")
assert _RAW_KEY.size == 40
_KEY_BYTES = 176
"""Memory of one decoded key: the tuple and the integers that are not small, by resident size."""
_KID_BYTES = 48
"""Memory of a child: its place in two lists and the address."""
_NODE_BYTES = 440
_EMPTY = memoryview(b"")
_NO_SPAN = -1


class Node:
    """One node. It dies (`live` is false) when its buffer is evicted; a parent then loads it anew.

    Args:
        off: Zone-8 address.
        buf: Its buffer.
        head: Its first 64 bytes, decoded.
        left: Lowest key that belongs below this node, by its parent.
        right: First key that does not.
    """

    __slots__ = (
        "_hits",
        "appended",
        "buf",
        "cost",
        "count",
        "is_leaf",
        "keys",
        "kids",
        "left",
        "live",
        "mirror_tid",
        "mv",
        "off",
        "raw",
        "right",
        "span",
    )

    def __init__(self, off: int, buf: Buffer, head: NodeHead, left: Key, right: Key) -> None:
        self.off = off
        self.buf = buf
        self.raw = buf.ro[off & BUFMASK : (off & BUFMASK) + NODE_SIZE]
        self.mv = _EMPTY
        """The same bytes, writable, from a change on until the checksum is made; empty otherwise."""
        self.count = head.count
        """Elements, without the right boundary."""
        self.is_leaf = head.type == BTREE_TYPE_LEAF
        self.mirror_tid = head.mirror_tid
        self.left = left
        self.right = right
        self.live = True
        self.keys: list[Key] = []
        """Sort keys; of an internal node including its right boundary; empty while a leaf is not decoded."""
        self.kids: list[Node | int] = []
        """Children of an internal node: the address until loaded."""
        self.span = _NO_SPAN
        """UNDO span in which its former bytes were saved, or in which it was allocated."""
        self.appended = False
        """It was split where its last element is; the next time it is split in the middle."""
        self.cost = 0
        """What the cache counts for it, see `charge`."""
        self._hits = 0

    def detach(self) -> None:
        """The buffer goes: let go of its memory."""
        self.live = False
        self.raw = _EMPTY
        self.mv = _EMPTY
        self.keys = []
        self.kids = []

    def charge(self, cache: BufferCache) -> None:
        """Have the cache count what the node takes by now."""
        each = _KEY_BYTES if self.is_leaf else _KEY_BYTES + _KID_BYTES
        cost = _NODE_BYTES + len(self.keys) * each
        more, self.cost = cost - self.cost, cost
        cache.charge(self.buf, more)

    def elm(self, i: int) -> LeafElm:
        """Element `i` of a leaf."""
        return LeafElm._make(LEAF_ELM.unpack_from(self.raw, NODE_HEADER + i * ELM_SIZE))

    def elms(self, first: int, end: int) -> list[LeafElm]:
        """Elements first..end-1 of a leaf, decoded: they stay good when the node goes."""
        body = self.raw[NODE_HEADER + first * ELM_SIZE : NODE_HEADER + end * ELM_SIZE]
        return [LeafElm._make(fields) for fields in LEAF_ELM.iter_unpack(body)]

    def key_at(self, i: int) -> Key:
        """Sort key of element `i`."""
        return self.keys[i] if self.keys else raw_key(self.raw, i)

    def leaf_left(self, key: Key, cache: BufferCache) -> int:
        """Index of the first element of a leaf that is not below `key`."""
        if self.keys or self._decode(cache):
            return bisect_left(self.keys, key)
        return self._raw_index(key, inclusive=False)

    def leaf_right(self, key: Key, cache: BufferCache) -> int:
        """Index behind the last element of a leaf that is not above `key`."""
        if self.keys or self._decode(cache):
            return bisect_right(self.keys, key)
        return self._raw_index(key, inclusive=True)

    def _decode(self, cache: BufferCache) -> bool:
        """Decode a leaf that is hit again; whether there are keys now."""
        self._hits += 1
        if self._hits < 2 or not self.count:
            return False
        keys = decode_keys(self.raw[NODE_HEADER : NODE_HEADER + self.count * ELM_SIZE])
        check_order(keys, self.off)
        self.keys = keys
        self.charge(cache)
        return True

    def _raw_index(self, key: Key, *, inclusive: bool) -> int:
        low, high, raw = 0, self.count, self.raw
        while low < high:
            middle = (low + high) >> 1
            at = raw_key(raw, middle)
            if at < key or (inclusive and at == key):
                low = middle + 1
            else:
                high = middle
        return low


def raw_key(raw: memoryview, i: int) -> Key:
    """Sort key of element `i` from the bytes of a node."""
    obj_id, key, create_tid, rec_type, localization = _RAW_KEY.unpack_from(raw, NODE_HEADER + i * ELM_SIZE)
    return localization, obj_id, rec_type, key, create_tid or TID_INFINITE


def check_order(keys: list[Key], off: int) -> None:
    """Keys of a node ascend strictly.

    Raises:
        CorruptError: They do not.
    """
    last = keys[0]
    for key in keys[1:]:
        if key <= last:
            raise CorruptError("B-Tree elements out of order", offset=off)
        last = key


def load_node(cache: BufferCache, rule: CrcRule, off: int, left: Key, right: Key) -> Node:
    """The node at `off`, whose elements must lie in [left, right).

    The checksum is verified when the node comes in, the range whenever a parent with another range asks for it: so
    no two places of a tree can share a node that has elements, and a walk visits no more nodes than there are.

    Args:
        cache: The buffers.
        rule: Checksums of the volume version.
        off: Zone-8 address.
        left: Lower bound by the parent.
        right: Upper bound by the parent, exclusive.

    Raises:
        CorruptError: No node there, a bad checksum, type or count, or elements outside their range.
        BufferMiss: As `BufferCache.bread`.
    """
    if off >> 60 != ZONE_BTREE or off & NODE_SIZE - 1:
        raise CorruptError("B-Tree node address can't be", offset=off)
    buf = cache.bread(off)
    node = buf.nodes.get(off) if buf.nodes else None
    if node is None:
        raw = buf.ro[off & BUFMASK : (off & BUFMASK) + NODE_SIZE]
        head = verify_node(raw, rule, off)
        node = Node(off, buf, head, left, right)
        _check_range(node, left, right)
        if not node.is_leaf:
            _decode_internal(node)
        adopt_node(cache, node)
    elif node.left != left or node.right != right:
        _check_range(node, left, right)
        node.left, node.right = left, right
    return node


def adopt_node(cache: BufferCache, node: Node) -> None:
    """Hang a node on its buffer, to be found by its address."""
    if node.buf.nodes is None:
        node.buf.nodes = {}
    node.buf.nodes[node.off] = node
    node.charge(cache)


def forget_node(cache: BufferCache, node: Node) -> None:
    """Undo `adopt_node`: the tree does not lead to this node any more."""
    if node.buf.nodes is not None:
        del node.buf.nodes[node.off]
    cache.charge(node.buf, -node.cost)
    node.detach()


def _decode_internal(node: Node) -> None:
    body = node.raw[NODE_HEADER : NODE_HEADER + (node.count + 1) * ELM_SIZE]
    keys: list[Key] = []
    kids: list[Node | int] = []
    for obj_id, key, create_tid, _, rec_type, _, _, lo, _, subtree, _ in INTERNAL_ELM.iter_unpack(body):
        keys.append((lo, obj_id, rec_type, key, create_tid or TID_INFINITE))
        kids.append(subtree)
    kids.pop()
    check_order(keys, node.off)
    node.keys, node.kids = keys, kids


def _check_range(node: Node, left: Key, right: Key) -> None:
    if not node.count:
        return
    first, last = raw_key(node.raw, 0), raw_key(node.raw, node.count - 1 if node.is_leaf else node.count)
    inside = left <= first and (last < right if node.is_leaf else last <= right)
    if not inside:
        raise CorruptError("B-Tree node has elements outside the range its parent gives it", offset=node.off)
