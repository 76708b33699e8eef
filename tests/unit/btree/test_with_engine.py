"""The changing tree on the real allocator and the real FIFO: a cut rolls a span back, a commit leaves a sound image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from hammerfs.alloc import Allocator
from hammerfs.btree.iterate import scan
from hammerfs.btree.modify import TreeWriter
from hammerfs.btree.search import BTree
from hammerfs.cache import BufferCache
from hammerfs.commit import Commit, Step
from hammerfs.device.overlay import OverlayDevice
from hammerfs.freemap import Freemap
from hammerfs.keys import KEY_MAX, KEY_MIN, Key
from hammerfs.ondisk.node import LeafElm
from hammerfs.recover import apply_undo, scan_fifo
from hammerfs.transaction import TidCounter
from hammerfs.undo import UndoFifo
from hammerfs.undo_writer import UndoWriter
from hammerfs.volumes import Volumes
from tests.imagebuilder import ImageBuilder
from tests.treelab import record
from tools.fsck.check import check

TID = 0x100000010
OURS = (
    "bigblock-",
    "fifo-",
    "freemap-",
    "header-",
    "layer",
    "node-",
    "record-place",
    "stat-bigblocks",
    "stat-freebigblocks",
    "tree-",
    "zone-",
)
"""Findings about space and structure; what the records mean is none of this test."""


class Engine:
    """What a writable file system is made of, without objects."""

    def __init__(self, version: int) -> None:
        self.device = ImageBuilder(version, free_blocks=4).build()
        self.volumes = Volumes([self.device])
        self.cache = BufferCache(self.volumes, 8 << 20)
        tree = BTree(self.volumes, self.cache)
        self.undo = UndoWriter.from_scan(self.volumes, scan_fifo(UndoFifo(self.volumes), version))
        self.alloc = Allocator(self.volumes, self.cache, Freemap(self.volumes, self.cache), self.undo)
        self.writer = TreeWriter(self.volumes, tree, self.alloc, self.undo)
        tids = TidCounter(TID + (1 << 20), 0)
        self.commit = Commit(self.volumes, self.cache, self.alloc, self.undo, tids)

    def apply(self, new: list[LeafElm], gone: list[Key]) -> Iterator[Step]:
        """A span of one section; the steps that bring it to the media."""
        self.undo.begin_span()
        with self.cache.section():
            for elm in new:
                self.writer.insert(elm)
            for key in gone:
                self.writer.destroy(key)
            self.writer.seal()
            self.alloc.settle()
        return self.commit.steps(self.undo.next, mark=False)

    def run(self, steps: Iterator[Step]) -> None:
        for step in steps:
            for volume, at, buffers in step.writes:
                volume.dev.pwritev(at, buffers)


def recovered(engine: Engine) -> Volumes:
    """The media after a cut, rolled back in memory."""
    volumes = Volumes([OverlayDevice(engine.device, owns_lower=False)])
    fifo = UndoFifo(volumes)
    found = scan_fifo(fifo, volumes.version)
    apply_undo(volumes, fifo, found, lambda volume, at, saved: volume.dev.pwrite(at, saved))
    volumes.reload()
    return volumes


def elements(volumes: Volumes) -> list[LeafElm]:
    """All records on the media."""
    return list(scan(BTree(volumes, BufferCache(volumes)), KEY_MIN, KEY_MAX))


def faults(engine: Engine) -> list[str]:
    found = check([engine.device], idle=False)
    return [str(finding) for finding in found if finding.is_error and finding.code.startswith(OURS)]


@pytest.mark.parametrize("version", [1, 3, 4, 6, 7])
def test_a_cut_rolls_back_and_a_commit_stays(version: int) -> None:
    engine = Engine(version)
    rng = Random(version)
    known = elements(engine.volumes)
    for n in range(4):
        new = [record(rng.randrange(1 << 40), tid=TID + n) for _ in range(0 if n % 2 else 900)]
        gone = [elm.sort_key for elm in known[len(known) // 2 :][: len(known) // 3]] if n % 2 else []
        steps = engine.apply(new, gone)
        engine.run(islice(steps, 1))
        assert elements(recovered(engine)) == known
        engine.run(islice(steps, 2 if version < 4 else 1))
        assert faults(engine) == []
        assert elements(recovered(engine)) == known
        engine.run(steps)
        known = sorted((elm for elm in [*known, *new] if elm.sort_key not in gone), key=lambda elm: elm.sort_key)
        assert elements(Volumes([engine.device])) == known
        assert faults(engine) == []
