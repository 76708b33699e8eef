"""A tree to change in tests: an image in memory, space and UNDO that remember what they were asked, and a full check.

Everything a section changed is compared with what the nodes in memory say, written, and looked at again from the
media with the eyes of fsck.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

from hammerfs.addr import encode
from hammerfs.btree.iterate import scan
from hammerfs.btree.modify import TreeWriter
from hammerfs.btree.node import Node
from hammerfs.btree.search import BTree
from hammerfs.buffer import DirtyClass
from hammerfs.cache import MIN_CACHE_BYTES, BufferCache
from hammerfs.const import (
    BIGBLOCK_SIZE,
    BTREE_TYPE_DELETED,
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    BTREE_TYPE_RECORD,
    BUFMASK,
    NODE_SIZE,
    ZONE_BTREE,
)
from hammerfs.errors import NoSpace
from hammerfs.fs import HammerFS
from hammerfs.keys import KEY_MAX, KEY_MIN, Key
from hammerfs.ondisk.node import InternalElm, LeafElm, NodeHead, NodeOndisk
from hammerfs.volumes import Volumes
from tests.imagebuilder import ImageBuilder
from tools.fsck.context import Context
from tools.fsck.findings import Report
from tools.fsck.phase_btree import TreeWalk

FREE_BLOCKS = 4
HARMLESS = {"node-empty", "node-mirror-tid-fresh"}


class BumpSpace:
    """Hands out space that was never used before.

    Args:
        begin: Zone-8 address of the first byte.
        end: Of the first byte that is not there.
    """

    def __init__(self, begin: int, end: int) -> None:
        self.begin = self.next = begin
        self.end = end
        self.live: set[int] = set()
        self.freed: list[int] = []

    def alloc(self, zone: int, nbytes: int, /) -> int:
        assert (zone, nbytes) == (ZONE_BTREE, NODE_SIZE)
        off = self.next
        if off >= self.end:
            raise NoSpace("no space for nodes is left")
        self.next += nbytes
        self.live.add(off)
        return off

    def free(self, off: int, nbytes: int, /) -> None:
        assert nbytes == NODE_SIZE
        assert off not in self.freed
        self.live.discard(off)
        self.freed.append(off)


class UndoLog:
    """Keeps what was saved in this span.

    Args:
        volumes: Where fields are.
    """

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self.span = 1
        self.saved: dict[int, bytes] = {}
        self.root: int | None = None

    def save(self, off: int, old: memoryview, /) -> None:
        assert off not in self.saved
        assert len(old) == NODE_SIZE
        self.saved[off] = bytes(old)

    def save_field(self, name: str, /) -> None:
        assert name == "vol0_btree_root"
        if self.root is None:
            self.root = self._volumes.superblock.vol0_btree_root

    def next_span(self) -> None:
        self.span += 1
        self.saved.clear()
        self.root = None


class Elements:
    """The leaf elements fsck's walk comes by, their order and ranges checked."""

    def __init__(self) -> None:
        self.found: list[LeafElm] = []

    def leaf(self, off: int, left: Key, right: Key, body: bytes, mirror_tid: int) -> None:
        elms = [LeafElm.decode(body, at) for at in range(0, len(body), 64)]
        for elm in elms:
            assert left <= elm.sort_key < right, f"{off:016x}"
            assert not self.found or self.found[-1].sort_key < elm.sort_key, f"{off:016x}"
            assert max(elm.create_tid, elm.delete_tid) <= mirror_tid, f"{off:016x}"
            self.found.append(elm)

    def lost(self, left: Key, right: Key) -> None:
        raise AssertionError(f"no leaves for {left}..{right}")


class TreeLab:
    """A file system whose tree is changed.

    Args:
        volumes: Its volumes, writable.
        begin: Zone-8 address of space that nothing uses.
        end: Behind it.
        limit_bytes: Most memory of the cache.
        mirror: As for TreeWriter.
    """

    def __init__(
        self, volumes: Volumes, begin: int, end: int, *, limit_bytes: int = MIN_CACHE_BYTES, mirror: bool = True
    ) -> None:
        self.volumes = volumes
        self.cache = BufferCache(self.volumes, limit_bytes)
        self.tree = BTree(self.volumes, self.cache)
        self.space = BumpSpace(begin, end)
        self.undo = UndoLog(self.volumes)
        self.mirror = mirror
        self.writer = TreeWriter(self.volumes, self.tree, self.space, self.undo, mirror=mirror)

    @classmethod
    def fresh(cls, version: int = 7, *, limit_bytes: int = MIN_CACHE_BYTES, mirror: bool = True) -> TreeLab:
        """A new file system with two records."""
        volumes = Volumes([ImageBuilder(version, free_blocks=FREE_BLOCKS).build()])
        blocks = volumes.root.bigblocks
        begin, end = (encode(ZONE_BTREE, 0, n * BIGBLOCK_SIZE) for n in (blocks - FREE_BLOCKS, blocks))
        return cls(volumes, begin, end, limit_bytes=limit_bytes, mirror=mirror)

    @property
    def root(self) -> int:
        """Address of the root node."""
        return self.volumes.superblock.vol0_btree_root

    @contextmanager
    def section(self) -> Iterator[TreeWriter]:
        """A span of one atomic section; then it is checked in memory, written, checked on the media, and undone."""
        root, before = self.root, self.media_nodes()
        with self.cache.section():
            yield self.writer
            self.writer.seal()
            self.check_memory()
        self.write()
        self.check_media()
        self.check_undo(root, before)
        self.undo.next_span()

    def write(self) -> None:
        """Write what was changed; all of it may be evicted then."""
        for buf in self.cache.dirty(DirtyClass.META):
            buf.volume.dev.pwrite(buf.byte_off, buf.ro)
            self.cache.mark_clean(buf)

    def elements(self) -> list[LeafElm]:
        """All records, as readers find them."""
        return list(scan(self.tree, KEY_MIN, KEY_MAX))

    def media_nodes(self) -> dict[int, bytes]:
        """Bytes of all nodes as they are on the media, by address."""
        found: dict[int, bytes] = {}
        todo = [self.root]
        while todo:
            off = todo.pop()
            raw = found[off] = self.media_node(off)
            node = NodeOndisk.decode(raw)
            if node.head.type != BTREE_TYPE_LEAF:
                todo += [InternalElm._make(elm).subtree_offset for elm in node.elms[:-1]]
        return found

    def media_node(self, off: int) -> bytes:
        """4096 bytes of the media."""
        volume, at = self.volumes.locate(off, NODE_SIZE)
        return volume.dev.pread(at, NODE_SIZE)

    def check_memory(self) -> None:
        """Every node in memory says what its bytes say, and knows the range its parent gives it."""
        root = self.tree.root()
        assert (root.left, root.right) == (KEY_MIN, KEY_MAX)
        todo = [root]
        while todo:
            node = todo.pop()
            self._check_node(node)
            for i, kid in enumerate(node.kids):
                if isinstance(kid, Node) and kid.live:
                    assert (kid.left, kid.right) == (node.keys[i], node.keys[i + 1])
                    todo.append(kid)

    def _check_node(self, node: Node) -> None:
        start = node.off & BUFMASK
        raw = node.buf.ro[start : start + NODE_SIZE]
        disk = NodeOndisk.decode(raw)
        assert node.raw == raw
        assert not node.mv
        assert node.count == disk.head.count
        assert node.is_leaf == (disk.head.type == BTREE_TYPE_LEAF)
        assert node.mirror_tid == disk.head.mirror_tid
        keys = [elm.sort_key for elm in disk.elms]
        assert node.keys == keys or (node.is_leaf and not node.keys)
        kids = [kid if isinstance(kid, int) else kid.off for kid in node.kids]
        assert kids == ([] if node.is_leaf else [InternalElm._make(elm).subtree_offset for elm in disk.elms[:-1]])
        assert node.buf.nodes is not None
        assert node.buf.nodes[node.off] is node
        cost = node.cost
        node.charge(self.cache)
        assert node.cost == cost
        assert node.buf.cost == sum(other.cost for other in node.buf.nodes.values())

    def check_media(self) -> None:
        """The tree on the media has no fault, and takes the space that was given out for it."""
        report = Report()
        fs = cast(HammerFS, SimpleNamespace(volumes=self.volumes))
        elements = Elements()
        TreeWalk(Context(fs, report, False, False, False, lambda _phase, _done, _total: None), elements, 1).run()
        harmless = HARMLESS if self.mirror else HARMLESS | {"node-mirror-tid"}
        assert [finding for finding in report.findings if finding.code not in harmless] == []
        assert elements.found == self.elements()
        nodes = self.media_nodes()
        assert {off for off in nodes if self.space.begin <= off < self.space.end} == self.space.live
        for off in self.space.freed:
            head = NodeHead.decode(self.media_node(off))
            assert (head.type, head.count) == (BTREE_TYPE_DELETED, 0)
            assert off not in nodes
        for off in nodes.keys() & (self.space.live | self.undo.saved.keys()):
            self._check_written(nodes[off], is_new=off in self.space.live)

    def _check_written(self, raw: bytes, *, is_new: bool) -> None:
        """What a writer keeps to beyond what readers accept."""
        node = NodeOndisk.decode(raw)
        assert self.volumes.rule.compute(raw[4:], 0) == node.head.crc
        if is_new and node.head.type == BTREE_TYPE_INTERNAL:
            assert {elm.btype for elm in node.elms[:-1]} <= {BTREE_TYPE_LEAF, BTREE_TYPE_INTERNAL}
            assert (node.elms[-1].btype, InternalElm._make(node.elms[-1]).subtree_offset) == (0, 0)

    def check_undo(self, root: int, before: dict[int, bytes]) -> None:
        """With the saved bytes put back the tree is the former one, and nothing was saved that was not changed."""
        saved = self.undo.saved
        assert saved.keys() <= before.keys()
        for off, raw in before.items():
            now = self.media_node(off)
            assert saved.get(off, now) == raw
        assert root == (self.root if self.undo.root is None else self.undo.root)


def record(
    obj_id: int, *, key: int = 0, tid: int = 0x100000010, delete_tid: int = 0, localization: int = 1, rec_type: int = 1
) -> LeafElm:
    """A record without payload."""
    return LeafElm(obj_id, key, tid, delete_tid, rec_type, 2, BTREE_TYPE_RECORD, localization, 0, 0, 0, 0, 0)
