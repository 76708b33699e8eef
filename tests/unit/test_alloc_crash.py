"""Power cuts while groups of the allocator's changes are committed: the freemap is that of one group, never a mix."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from hammerfs.alloc import Allocator
from hammerfs.cache import BufferCache
from hammerfs.commit import Commit
from hammerfs.const import (
    BIGBLOCK_SIZE,
    BUFSIZE,
    VERSION_REDO,
    XBUFSIZE,
    ZONE_BTREE,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_SMALL_DATA,
    ZONE_UNDO,
)
from hammerfs.device.faulty import Journal, RecordingDevice, crash_images
from hammerfs.device.overlay import OverlayDevice
from hammerfs.freemap import Freemap
from hammerfs.recover import scan_fifo
from hammerfs.recover_media import recover_media
from hammerfs.transaction import TidCounter
from hammerfs.undo import UndoFifo
from hammerfs.undo_writer import UndoWriter
from hammerfs.volumes import Volumes
from tests.unit.test_alloc import Space, block_of

GROUPS = 6


class Engine:
    """Allocator, UNDO writer and commit on recorded devices; nothing above them."""

    def __init__(self, devices: list[OverlayDevice]) -> None:
        self.volumes = Volumes(devices)
        self.cache = BufferCache(self.volumes)
        self.undo = UndoWriter.from_scan(self.volumes, scan_fifo(UndoFifo(self.volumes), self.volumes.version))
        self.alloc = Allocator(self.volumes, self.cache, Freemap(self.volumes, self.cache), self.undo)
        tids = TidCounter(self.volumes.superblock.vol0_next_tid, 0)
        self.commit = Commit(self.volumes, self.cache, self.alloc, self.undo, tids)
        self.refs: list[tuple[int, int]] = []

    def group(self, rng: Random) -> None:
        """One section and its commit."""
        self.undo.begin_span()
        self.undo.save_field("vol0_blockmap")
        zones = rng.choices([ZONE_BTREE, ZONE_META, ZONE_LARGE_DATA, ZONE_SMALL_DATA], k=rng.randint(1, 150))
        self.refs += [(self.alloc.alloc(zone, XBUFSIZE), XBUFSIZE) for zone in zones]
        if rng.random() < 0.5:
            emptied = block_of(rng.choice(self.refs)[0])
            for ref in [ref for ref in self.refs if block_of(ref[0]) == emptied]:
                self.alloc.free(*ref)
                self.refs.remove(ref)
        self.alloc.settle()
        for step in self.commit.steps(self.undo.next, mark=False):
            for volume, byte_off, buffers in step.writes:
                volume.dev.pwritev(byte_off, buffers)
            for volume in step.flush:
                volume.dev.flush()


def state(devices: list[OverlayDevice]) -> list[object]:
    """Counters, cursors and freemap as the media has them.

    The cursors lie in the second sector of the header. Below version 4 the range in the first one says whether there
    is anything to undo, so a torn header may keep the cursors of a group that did not happen: they are hints only.
    """
    volumes = Volumes(devices)
    head = volumes.superblock
    zones = [desc[:4] for zone, desc in enumerate(head.vol0_blockmap) if zone != ZONE_UNDO]
    if volumes.version < VERSION_REDO:
        zones = []
    root = volumes.root
    tables = [root.dev.pread(root.buf_beg, BUFSIZE), root.dev.pread(root.buf_beg + BIGBLOCK_SIZE, BUFSIZE)]
    tables += [volume.dev.pread(volume.buf_beg, BUFSIZE) for volume in volumes if volume is not root]
    return [head.vol0_stat_freebigblocks, zones, tables]


@pytest.mark.parametrize("version", [1, 3, 4, 7])
def test_a_cut_leaves_the_freemap_of_one_group(version: int) -> None:
    journal = Journal()
    recorded = [RecordingDevice(dev, journal) for dev in Space(version, (20, 6)).devices]
    engine = Engine(list(recorded))
    rng = Random(version)
    states = [state(list(recorded))]
    for number in range(1, GROUPS + 1):
        engine.group(rng)
        journal.mark(number)
        states.append(state(list(recorded)))
    assert all(one != other for one, other in pairwise(states))
    cuts = 0
    for image in crash_images(journal, seed=version):
        recover_media(Volumes(image.devices))
        promised = [number for number in journal.marks(image.cut) if isinstance(number, int)]
        group = promised[-1] if promised else 0
        assert state(list(image.devices)) in states[group : group + 2], image
        cuts += 1
    assert cuts >= 100
