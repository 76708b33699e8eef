"""Phase: the B-Tree, node by node in key order; leaves are handed on to the check of records."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    BUFMASK,
    ELM_SIZE,
    MAX_DEPTH,
    NODE_HEADER,
    NODE_SIZE,
    TID_INFINITE,
    ZONE_BTREE,
    ZONE_SHIFT,
)
from hammerfs.errors import CorruptError, HammerError
from hammerfs.keys import KEY_MAX, KEY_MIN, Key
from hammerfs.ondisk.node import INTERNAL_ELM, NodeHead, used_slots
from tools.fsck.context import Context

_TYPE_NAMES = {BTREE_TYPE_INTERNAL: "internal", BTREE_TYPE_LEAF: "leaf"}


class LeafSink(Protocol):
    """Takes the leaves in key order."""

    def leaf(self, off: int, left: Key, right: Key, body: bytes, mirror_tid: int) -> None:
        """One leaf: its address, its range, the elements in use, the TID bound of its head."""

    def lost(self, left: Key, right: Key) -> None:
        """A range of keys whose leaves can't be read."""


class _Child(NamedTuple):
    """A node still to be visited, and what its parent says of it."""

    off: int
    left: Key
    right: Key
    parent: int
    btype: int
    """0 for the root, whose type nobody tells."""
    mirror_tid: int
    depth: int


class TreeWalk:
    """Goes through the tree once.

    Args:
        ctx: The check.
        sink: Takes the leaves.
        estimate: How many nodes there should be, for the progress.
    """

    def __init__(self, ctx: Context, sink: LeafSink, estimate: int) -> None:
        self._ctx = ctx
        self._report = ctx.report
        self._sink = sink
        self._estimate = estimate
        self._seen: dict[int, bytearray] = {}
        self._leaf_depth: int | None = None
        self.complete = True
        """No part of the tree was unreadable."""

    def run(self) -> None:
        """Walk."""
        self._ctx.progress("tree", 0, self._estimate)
        root = self._ctx.volumes.superblock.vol0_btree_root
        stack = [_Child(root, KEY_MIN, KEY_MAX, 0, 0, (1 << 64) - 1, 0)]
        while stack:
            child = stack.pop()
            raw = self._load(child)
            if raw is None:
                self.complete = False
                self._sink.lost(child.left, child.right)
                continue
            self._ctx.nodes += 1
            if not self._ctx.nodes & 0xFF:
                self._ctx.progress("tree", self._ctx.nodes, max(self._estimate, self._ctx.nodes))
            head = NodeHead.decode(raw)
            self._check_head(child, head)
            if head.type == BTREE_TYPE_LEAF:
                body = raw[NODE_HEADER : NODE_HEADER + head.count * ELM_SIZE]
                if not head.count:
                    self._report.add("node-empty", "leaf without elements", offset=child.off)
                self._sink.leaf(child.off, child.left, child.right, body, head.mirror_tid)
            else:
                stack += reversed(self._children(child, head, raw))

    def _load(self, child: _Child) -> bytes | None:
        """The bytes of a node that is fit to be looked into, else a finding."""
        off, report = child.off, self._report
        if off >> ZONE_SHIFT != ZONE_BTREE or off & NODE_SIZE - 1:
            report.add("node-unreadable", f"no node can be at {off:016x}", offset=child.parent or off)
            return None
        if child.depth > MAX_DEPTH:
            report.add("node-depth", f"deeper than {MAX_DEPTH} levels", offset=off)
            return None
        if self._is_seen(off):
            report.add("node-shared", "a second pointer leads to this node", offset=off)
            return None
        try:
            buf = self._ctx.buffers.load(off)
        except HammerError as err:
            report.add("node-unreadable", err.what, offset=off)
            return None
        self._ctx.usage.take(off, NODE_SIZE)
        raw = buf[off & BUFMASK : (off & BUFMASK) + NODE_SIZE]
        head = NodeHead.decode(raw)
        rule = self._ctx.volumes.rule
        body = memoryview(raw)[4:]
        if not rule.matches(head.crc, body):
            report.add("node-crc", f"stored {head.crc:08x}, computed {rule.of(body):08x}", offset=off)
        try:
            used_slots(head)
        except CorruptError as err:
            report.add("node-type", err.what, offset=off)
            return None
        return raw

    def _is_seen(self, off: int) -> bool:
        """Whether a node has been on the way already; one bit for each."""
        bits = self._seen.setdefault(off >> BIGBLOCK_BITS, bytearray(BIGBLOCK_SIZE // NODE_SIZE // 8))
        index = (off & BIGBLOCK_MASK) // NODE_SIZE
        was = bits[index >> 3] >> (index & 7) & 1
        bits[index >> 3] |= 1 << (index & 7)
        return bool(was)

    def _check_head(self, child: _Child, head: NodeHead) -> None:
        report, off = self._report, child.off
        if head.parent != child.parent:
            report.add("node-parent", f"parent is {head.parent:016x} instead of {child.parent:016x}", offset=off)
        if child.btype and head.type != child.btype:
            what = f"{_TYPE_NAMES[head.type]} node, the parent says 0x{child.btype:02x}"
            report.add("node-type", what, offset=off)
        if head.mirror_tid > child.mirror_tid:
            what = f"mirror_tid 0x{head.mirror_tid:016x} is above the parent's 0x{child.mirror_tid:016x}"
            self._ctx.add_mirror_fault(what, off)
        if head.type == BTREE_TYPE_LEAF:
            if self._leaf_depth is None:
                self._leaf_depth = child.depth
            elif self._leaf_depth != child.depth:
                report.add("node-depth", f"leaf on level {child.depth}, others on {self._leaf_depth}", offset=off)

    def _children(self, child: _Child, head: NodeHead, raw: bytes) -> list[_Child]:
        """The children of an internal node, in order; those with impossible ranges are left out."""
        report, off = self._report, child.off
        body = raw[NODE_HEADER : NODE_HEADER + (head.count + 1) * ELM_SIZE]
        found: list[_Child] = []
        pending: tuple[Key, int, int, int] | None = None
        last = child.left
        for i, elm in enumerate(INTERNAL_ELM.iter_unpack(body)):
            obj_id, key, create_tid, _, rec_type, _, btype, lo, mirror_tid, subtree, _ = elm
            at: Key = (lo, obj_id, rec_type, key, create_tid or TID_INFINITE)
            if at < last if i == 0 else at <= last:
                code, what = (
                    ("node-bounds", "left boundary is below") if i == 0 else ("node-order", "boundaries do not ascend")
                )
                report.add(code, f"element {i}: {what}", offset=off)
                at = max(at, last)
            if at > child.right:
                report.add("node-bounds", f"element {i}: boundary is above the parent's", offset=off)
                at = child.right
            if pending is not None:
                left, p_type, p_mirror, p_subtree = pending
                found.append(_Child(p_subtree, left, at, off, p_type, p_mirror, child.depth + 1))
            last = at
            if i < head.count:
                pending = (at, btype, mirror_tid, subtree)
                if mirror_tid > head.mirror_tid:
                    what = f"element {i}: mirror_tid 0x{mirror_tid:016x} is above the node's 0x{head.mirror_tid:016x}"
                    self._ctx.add_mirror_fault(what, off)
        return found
