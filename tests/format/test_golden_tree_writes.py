"""Thousands of records put between those of golden images: every old one stays, and is found as of every TID."""

from __future__ import annotations

from random import Random

import pytest

from hammerfs.addr import retag
from hammerfs.cache import BufferCache
from hammerfs.const import BIGBLOCK_MASK, MAX_TID, ZONE_BTREE, ZONE_FREE
from hammerfs.device.open import open_devices
from hammerfs.device.overlay import OverlayDevice
from hammerfs.freemap import Freemap
from hammerfs.keys import Key
from hammerfs.ondisk.node import LeafElm
from hammerfs.recover import apply_undo, scan_fifo
from hammerfs.undo import UndoFifo
from hammerfs.volumes import Volumes
from tests.golden import GoldenImage, GoldenStore, golden_names
from tests.treelab import TreeLab, record

pytestmark = pytest.mark.golden
INSERTS, AT_ONCE = 2500, 500


def writable(image: GoldenImage) -> Volumes:
    """The image as recovered, with what is written to it in memory."""
    volumes = Volumes([OverlayDevice(device) for device in open_devices(list(image.volumes), readonly=True)])
    fifo = UndoFifo(volumes)
    scan = scan_fifo(fifo, volumes.version)
    apply_undo(volumes, fifo, scan, lambda volume, at, saved: volume.dev.pwrite(at, saved))
    volumes.reload()
    return volumes


def unused_space(volumes: Volumes) -> tuple[int, int]:
    """Begin and end, in zone 8, of space for nodes: a free big-block, else what is left of the last one."""
    freemap = Freemap(volumes, BufferCache(volumes))
    blocks = (block for base, layer1, _ in freemap.spans() for block in freemap.blocks(base, layer1))
    free = (retag(off, ZONE_BTREE) for off, layer2, _ in blocks if layer2.zone == ZONE_FREE)
    begin = next(free, volumes.superblock.vol0_blockmap[ZONE_BTREE].next_offset)
    return begin, (begin | BIGBLOCK_MASK) + 1


def between(rng: Random, left: LeafElm, right: LeafElm) -> LeafElm:
    """A record of an object between two others, or of the left one's."""
    obj_id = rng.randint(left.obj_id, max(left.obj_id, right.obj_id))
    return record(obj_id, key=rng.randrange(1 << 60), tid=MAX_TID - 16, localization=left.localization, rec_type=0x12)


@pytest.mark.parametrize("name", golden_names())
def test_records_between_the_old_ones(golden: GoldenStore, name: str) -> None:
    volumes = writable(golden[name])
    lab = TreeLab(volumes, *unused_space(volumes), limit_bytes=8 << 20)
    rng = Random(name)
    old = lab.elements()
    tids = sorted({elm.create_tid for elm in old} | {elm.delete_tid for elm in old if elm.delete_tid})
    questions: list[tuple[Key, int]] = [
        (elm.sort_key, rng.choice([MAX_TID, rng.choice(tids) + rng.randint(-1, 1)])) for elm in rng.choices(old, k=1000)
    ]
    answers = [lab.tree.lookup(*key[:4], asof) for key, asof in questions]
    new: dict[Key, LeafElm] = {}
    while len(new) < INSERTS:
        at = rng.randrange(len(old))
        elm = between(rng, old[at], old[min(at + 1, len(old) - 1)])
        new[elm.sort_key] = elm
    keys = list(new)
    for first in range(0, INSERTS, AT_ONCE):
        with lab.section() as writer:
            for key in keys[first : first + AT_ONCE]:
                writer.insert(new[key])
    lab.cache.drop()
    assert [lab.tree.lookup(*key[:4], asof) for key, asof in questions] == answers
    assert [elm for elm in lab.elements() if elm.sort_key not in new] == old
    for first in range(0, INSERTS, AT_ONCE):
        with lab.section() as writer:
            for key in keys[first : first + AT_ONCE]:
                assert writer.destroy(key) == new[key]
    assert lab.elements() == old
    volumes.close()
