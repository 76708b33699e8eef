"""The allocator: what it does at the borders, on full volumes, after failures, and on images of the original."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from functools import cache

import pytest

from hammerfs.addr import encode, retag, zone_of
from hammerfs.alloc import Allocator
from hammerfs.buffer import DirtyClass
from hammerfs.cache import BufferCache
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_SIZE,
    BUFSIZE,
    LAYER1_SPAN,
    NODE_SIZE,
    OFF_BAD,
    OFF_LONG_MASK,
    XBUFSIZE,
    ZONE_BTREE,
    ZONE_FREE,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
    ZONE_SMALL_DATA,
    ZONE_UNDO,
    ZONES_MAPPED,
)
from hammerfs.device.open import open_devices
from hammerfs.device.overlay import OverlayDevice, memory_device
from hammerfs.errors import BufferMiss, CorruptError, InvalidError, NoSpace, RefCountError
from hammerfs.freemap import Freemap
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.recover import scan_fifo
from hammerfs.recover_media import recover_media
from hammerfs.undo import UndoFifo
from hammerfs.undo_writer import UndoWriter
from hammerfs.volumes import Volumes
from mkfs.layout import ROOT_META_SIZE, Params, plan
from tests.golden import GoldenStore, golden_names

PER_BLOCK = BIGBLOCK_SIZE // XBUFSIZE
OVERHEAD = 1 << 20
"""More than what lies before the big-blocks of a volume."""


@cache
def _bases(version: int, blocks: tuple[int, ...]) -> tuple[OverlayDevice, ...]:
    sizes = tuple(n * BIGBLOCK_SIZE + OVERHEAD for n in blocks)
    layout = plan(Params(b"T", sizes, uuid.UUID(int=7), 0, version, undo_size=BIGBLOCK_SIZE))
    devices = tuple(memory_device(size, f"v{i}") for i, size in enumerate(sizes))
    for extent in layout.extents():
        devices[extent.vol_no].pwrite(extent.offset, extent.data)
    return devices


class Space:
    """An allocator on a file system of its own: each volume has so many big-blocks."""

    def __init__(self, version: int, blocks: tuple[int, ...]) -> None:
        self._open([OverlayDevice(base, owns_lower=False) for base in _bases(version, blocks)])

    @classmethod
    def over(cls, devices: list[OverlayDevice]) -> Space:
        """The same on given devices."""
        space = cls.__new__(cls)
        space._open(devices)
        return space

    def _open(self, devices: list[OverlayDevice]) -> None:
        self.devices = devices
        self.volumes = Volumes(devices)
        self.cache = BufferCache(self.volumes)
        self.freemap = Freemap(self.volumes, self.cache)
        self.undo = UndoWriter.from_scan(self.volumes, scan_fifo(UndoFifo(self.volumes), self.volumes.version))
        self.alloc = Allocator(self.volumes, self.cache, self.freemap, self.undo)

    def settle(self) -> None:
        """The end of a section whose buffers reach the media."""
        self.alloc.settle()
        for buf in self.cache.dirty(DirtyClass.META):
            buf.volume.dev.pwrite(buf.byte_off, buf.ro)
            self.cache.mark_clean(buf)

    def flush(self) -> None:
        """A whole flush, after which nothing can be rolled back."""
        self.settle()
        self.alloc.committed()
        self.undo.begin_span()
        self.undo.take_dirty()
        self.undo.first = self.undo.durable_first = self.undo.next

    def media(self, *, ours: bool = True) -> Iterator[tuple[int, int, int, int]]:
        """(number, zone, append point, bytes free) of the big-blocks; all checksums and totals are checked.

        An image that is not `ours` may hold checksums of an older version, and a total that is off.
        """
        rule = self.volumes.rule
        total = 0
        for base, layer1, _ in self.freemap.spans():
            assert layer1 == layer1.sealed(rule) or (not ours and layer1.crc_ok(rule))
            blocks = list(self.freemap.blocks(base, layer1))
            assert layer1.blocks_free == sum(entry.zone == ZONE_FREE for _, entry, _ in blocks)
            total += layer1.blocks_free
            for off, entry, _ in blocks:
                assert entry == entry.sealed(rule) or (not ours and entry.crc_ok(rule))
                yield block_of(off), entry.zone, entry.append_off, entry.bytes_free
        assert self.volumes.superblock.vol0_stat_freebigblocks == self.alloc.free_bigblocks
        assert total == self.alloc.free_bigblocks or not ours


def block_of(off: int) -> int:
    return (off & OFF_LONG_MASK) >> BIGBLOCK_BITS


def test_first_allocations_go_on_where_newfs_stopped() -> None:
    space = Space(7, (10,))
    node = space.volumes.superblock.vol0_btree_root
    assert space.alloc.alloc(ZONE_BTREE, NODE_SIZE) == node + NODE_SIZE
    meta = encode(ZONE_META, 0, (node & OFF_LONG_MASK) + BIGBLOCK_SIZE)
    assert space.alloc.alloc(ZONE_META, 100) == meta + ROOT_META_SIZE
    assert space.alloc.alloc(ZONE_META, 1) == meta + ROOT_META_SIZE + 112
    large = space.alloc.reserve(ZONE_LARGE_DATA, BUFSIZE)
    assert large == encode(ZONE_LARGE_DATA, 0, (meta & OFF_LONG_MASK) + BIGBLOCK_SIZE)
    assert space.alloc.free_bigblocks == space.volumes.superblock.vol0_stat_freebigblocks
    space.alloc.commit_reserved(large, BUFSIZE)
    space.settle()
    found = {index: entry for index, *entry in space.media()}
    assert found[block_of(large)] == [ZONE_LARGE_DATA, BUFSIZE, BIGBLOCK_SIZE - BUFSIZE]
    assert space.volumes.superblock.vol0_blockmap[ZONE_LARGE_DATA].next_offset == large + BUFSIZE


@pytest.mark.parametrize("version", range(1, 8))
def test_every_version(version: int) -> None:
    """Checksums by the version; what was settled is rolled back by what was saved."""
    space = Space(version, (9, 3))
    before = state(space)
    off = space.alloc.alloc(ZONE_META, 5000)
    large = [space.alloc.alloc(ZONE_LARGE_DATA, XBUFSIZE) for _ in range(PER_BLOCK + 1)]
    space.alloc.free(off, 5000)
    space.settle()
    assert len({block_of(off) for off in large}) == 2
    list(space.media())
    space.volumes.root.dev.pwrite(0, space.volumes.superblock.encode())
    assert state(space) != before
    for volume, byte_off, pieces in space.undo.take_dirty():
        volume.dev.pwritev(byte_off, pieces)
    head = VolumeOndisk.decode(space.devices[0].pread(0, BUFSIZE))
    head.vol0_blockmap[ZONE_UNDO] = head.vol0_blockmap[ZONE_UNDO]._replace(next_offset=space.undo.next)
    space.devices[0].pwrite(0, head.encode())
    assert recover_media(Volumes(space.devices)).is_dirty
    assert state(space) == before


def state(space: Space) -> list[bytes]:
    """Freemap tables and counters as the media has them."""
    head = VolumeOndisk.decode(space.devices[0].pread(0, BUFSIZE))
    found = [repr([zone[:4] for i, zone in enumerate(head.vol0_blockmap) if i != ZONE_UNDO]).encode()]
    found.append(repr((head.vol0_stat_freebigblocks, head.vol0_stat_bigblocks)).encode())
    beg = [volume.buf_beg for volume in space.volumes]
    found += [space.devices[0].pread(beg[0], 2 * BIGBLOCK_SIZE), space.devices[1].pread(beg[1], BIGBLOCK_SIZE)]
    return found


def fill(space: Space, zone: int) -> list[int]:
    """Allocate until nothing is left."""
    found = []
    with pytest.raises(NoSpace, match=f"no big-block is left for zone {zone}"):
        while True:
            found.append(space.alloc.alloc(zone, XBUFSIZE))
    return found


def test_full_volume_and_reuse() -> None:
    space = Space(7, (10, 3))
    free = space.alloc.free_bigblocks
    found = fill(space, ZONE_LARGE_DATA)
    assert len(found) == free * PER_BLOCK
    assert {off >> 52 & 0xFF for off in found} == {0, 1}
    assert space.alloc.free_bigblocks == 0
    with pytest.raises(NoSpace):
        space.alloc.reserve(ZONE_SMALL_DATA, 16)
    assert zone_of(space.alloc.alloc(ZONE_BTREE, NODE_SIZE)) == ZONE_BTREE  # its big-block has room
    space.settle()
    for off in found[:PER_BLOCK]:
        space.alloc.free(off, XBUFSIZE)
    assert (space.alloc.free_bigblocks, space.alloc.delayed_bigblocks) == (1, 1)
    for _ in range(2):
        with pytest.raises(NoSpace):
            space.alloc.alloc(ZONE_SMALL_DATA, 16)
        space.settle()
        assert not space.alloc.has_space({}, 1)
    space.flush()
    assert space.alloc.has_space({}, 1)
    assert not space.alloc.has_space({ZONE_META: BIGBLOCK_SIZE}, 1)
    assert block_of(space.alloc.alloc(ZONE_SMALL_DATA, 16)) == block_of(found[0])


def go_on_from(space: Space, zone: int, hint: int) -> None:
    """A new allocator with a hint in the header of where the zone goes on."""
    zones = space.volumes.superblock.vol0_blockmap
    zones[zone] = zones[zone]._replace(next_offset=hint)
    space.alloc = Allocator(space.volumes, space.cache, space.freemap, space.undo)


def test_a_partly_filled_bigblock_is_found_after_the_wrap() -> None:
    space = Space(7, (12,))
    first = [space.alloc.alloc(ZONE_SMALL_DATA, XBUFSIZE) for _ in range(PER_BLOCK + 3)]
    space.settle()
    go_on_from(space, ZONE_SMALL_DATA, (ZONE_SMALL_DATA + 1) << ZONE_SHIFT)
    assert space.alloc.alloc(ZONE_SMALL_DATA, XBUFSIZE) == first[-1] + XBUFSIZE


@pytest.mark.parametrize("hint", [0, 1, OFF_BAD, ZONE_META << ZONE_SHIFT, encode(ZONE_LARGE_DATA, 77, 12345)])
def test_the_hint_may_be_anything(hint: int) -> None:
    space = Space(7, (10,))
    go_on_from(space, ZONE_LARGE_DATA, hint)
    off = space.alloc.alloc(ZONE_LARGE_DATA, BUFSIZE)
    assert off % BIGBLOCK_SIZE == 0
    space.settle()
    assert (block_of(off), ZONE_LARGE_DATA, BUFSIZE, BIGBLOCK_SIZE - BUFSIZE) in list(space.media())


def test_a_span_without_free_bigblocks_is_skipped() -> None:
    """A volume of more than 4 TiB has two layer-2 tables."""
    beyond = 3
    space = Space(7, (LAYER1_SPAN // BIGBLOCK_SIZE + beyond,))
    first, second = (space.freemap.find_layer1(encode(ZONE_RAW_BUFFER, 0, i * LAYER1_SPAN)) for i in range(2))
    assert second[0].blocks_free == beyond
    full = first[0]._replace(blocks_free=0).sealed(space.volumes.rule).encode()
    space.cache.bread(first[1]).mem.mv[: len(full)] = full
    start = encode(ZONE_LARGE_DATA, 0, LAYER1_SPAN)
    assert [space.alloc.alloc(ZONE_LARGE_DATA, XBUFSIZE) for _ in range(2)] == [start, start + XBUFSIZE]
    space.alloc.settle()
    assert space.freemap.layer1(start).blocks_free == beyond - 1


def test_a_failed_section_gives_reservations_back() -> None:
    """What it committed is reserved again, and is not handed out, even when the zone comes around."""
    space = Space(7, (9,))
    kept, *others = [space.alloc.reserve(ZONE_LARGE_DATA, XBUFSIZE) for _ in range(PER_BLOCK + 1)]
    for off in others[:-1]:
        space.alloc.abandon(off, XBUFSIZE)
    space.alloc.commit_reserved(kept, XBUFSIZE)
    free = space.alloc.free_bigblocks
    space.alloc.reset()
    assert space.alloc.free_bigblocks == free + 1
    assert kept not in fill(space, ZONE_LARGE_DATA)
    space.alloc.commit_reserved(kept, XBUFSIZE)
    with pytest.raises(InvalidError, match="not reserved"):
        space.alloc.commit_reserved(kept, XBUFSIZE)
    space.settle()
    list(space.media())


def test_a_failed_section_does_not_end_the_delay_of_an_earlier_one() -> None:
    space = Space(7, (9,))
    first = space.alloc.alloc(ZONE_LARGE_DATA, XBUFSIZE)
    held = space.alloc.reserve(ZONE_LARGE_DATA, XBUFSIZE)
    space.flush()
    space.alloc.free(first, XBUFSIZE)
    space.settle()
    space.alloc.commit_reserved(held, XBUFSIZE)
    space.alloc.free(held, XBUFSIZE)
    space.alloc.reset()
    space.alloc.abandon(held, XBUFSIZE)
    assert space.alloc.delayed_bigblocks == 1
    assert block_of(first) not in {block_of(off) for off in fill(space, ZONE_META)}
    space.flush()
    assert block_of(space.alloc.alloc(ZONE_SMALL_DATA, XBUFSIZE)) == block_of(first)


def test_an_abandoned_bigblock_is_free_for_others() -> None:
    space = Space(7, (8,))
    free = space.alloc.free_bigblocks
    found = [space.alloc.reserve(ZONE_LARGE_DATA, XBUFSIZE) for _ in range(free * PER_BLOCK)]
    with pytest.raises(NoSpace):
        space.alloc.alloc(ZONE_SMALL_DATA, 16)
    for off in found[::-1]:
        space.alloc.abandon(off, XBUFSIZE)
    with pytest.raises(InvalidError, match="not reserved"):
        space.alloc.abandon(found[0], XBUFSIZE)
    assert len(fill(space, ZONE_SMALL_DATA)) == free * PER_BLOCK


class NeverReady(OverlayDevice):
    """A device that always has to be waited for."""

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        return False


def test_a_miss_of_reserve_changes_nothing() -> None:
    space = Space(7, (9, 3))
    want = Space(7, (9, 3)).alloc.reserve(ZONE_LARGE_DATA, XBUFSIZE)
    space = Space.over([NeverReady(dev) for dev in space.devices])
    space.cache.inline = False
    misses = 0
    while True:
        try:
            got = space.alloc.reserve(ZONE_LARGE_DATA, XBUFSIZE)
        except BufferMiss as miss:
            misses += 1
            for missing in space.cache.prepare(miss):
                missing.volume.dev.preadv(missing.byte_off, [missing.view])
                missing.commit()
                missing.release()
        else:
            break
    assert misses == 2
    assert got == want


def test_damage_is_found() -> None:
    space = Space(7, (9,))
    off = space.alloc.alloc(ZONE_LARGE_DATA, BUFSIZE)
    space.settle()
    for call in (space.alloc.free, space.alloc.add_ref):
        with pytest.raises(CorruptError, match="belongs to zone 10"):
            call(retag(off, ZONE_SMALL_DATA), BUFSIZE)
    with pytest.raises(CorruptError, match="freed where 16384 are in use"):
        space.alloc.free(off, 2 * BUFSIZE)
    with pytest.raises(CorruptError, match="span that does not exist"):
        space.alloc.free(encode(ZONE_META, 9, 0), 16)
    for zone in (ZONE_META, ZONE_LARGE_DATA):  # the first has to look for a place, the second knows it
        for nbytes in (0, -20, XBUFSIZE + 1):
            with pytest.raises(InvalidError, match="an extent has 1"):
                space.alloc.alloc(zone, nbytes)
    found = space.freemap.find_layer2(off)
    assert found is not None
    entry, where = found
    raw = space.cache.bread(where).mem.mv[where % BUFSIZE :][:16]
    raw[:] = entry._replace(append_off=BIGBLOCK_SIZE + 16).sealed(space.volumes.rule).encode()
    space.alloc.reset()
    with pytest.raises(CorruptError, match="append point 8388624"):
        space.alloc.free(off, BUFSIZE)
    raw[0] ^= 1
    with pytest.raises(CorruptError, match="bad CRC"):
        space.alloc.free(off, BUFSIZE)


def test_references_are_counted_to_the_end() -> None:
    space = Space(5, (9,))
    off = space.alloc.alloc(ZONE_LARGE_DATA, XBUFSIZE)
    count = 1
    with pytest.raises(RefCountError, match="too many references"):
        while True:
            space.alloc.add_ref(off, XBUFSIZE)
            count += 1
    space.settle()
    entry = space.freemap.layer2(off)
    assert entry is not None
    assert entry.bytes_free == BIGBLOCK_SIZE - count * XBUFSIZE
    assert 0 <= entry.bytes_free - (-(1 << 31) + (16 << 20)) < XBUFSIZE
    for _ in range(count):
        space.alloc.free(off, XBUFSIZE)
    assert space.alloc.delayed_bigblocks == 1


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names())
def test_going_on_in_a_freemap_of_the_original(golden: GoldenStore, name: str) -> None:
    """Allocate in every zone, give all back: what stands between and after is what a recount gives."""
    devices = [OverlayDevice(dev) for dev in open_devices([str(path) for path in golden[name].volumes], readonly=True)]
    recover_media(Volumes(devices))
    space = Space.over(devices)
    before = {index: entry for index, *entry in space.media(ours=False)}
    free = space.alloc.free_bigblocks
    zones = sorted(ZONES_MAPPED) if free else [ZONE_BTREE, ZONE_META]
    taken = [(space.alloc.alloc(zone, n), n) for zone in zones for n in (16, 4096, BUFSIZE, XBUFSIZE)]
    space.settle()
    between = {index: entry for index, *entry in space.media(ours=False)}
    assert free - space.alloc.free_bigblocks == sum(zone != before[index][0] for index, (zone, _, _) in between.items())
    for index, (zone, append, bytes_free) in between.items():
        used = sum(n for off, n in taken if block_of(off) == index)
        assert bytes_free == before[index][2] - used
        assert append >= before[index][1]
        assert zone == before[index][0] or (before[index] == [ZONE_FREE, 0, BIGBLOCK_SIZE] and used)
    for off, n in taken:
        space.alloc.free(off, n)
    space.settle()
    after = {index: (zone, left) for index, zone, _, left in space.media(ours=False)}
    assert after == {index: (zone, left) for index, (zone, _, left) in before.items()}
    assert space.alloc.free_bigblocks == free
    space.volumes.close()
