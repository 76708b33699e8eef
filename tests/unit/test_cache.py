"""The buffer cache: its limit, what it keeps, how buffers come in from outside, and what is too old to come in."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hammerfs.buffer import DirtyClass
from hammerfs.cache import MIN_CACHE_BYTES, BufferCache, Fill
from hammerfs.const import BIGBLOCK_SIZE, BUFSIZE, ZONE_RAW_BUFFER, ZONE_SHIFT
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import BufferMiss, CorruptError, HammerError
from hammerfs.volumes import Volumes
from tests.imagebuilder import ImageBuilder

BUFFERS = MIN_CACHE_BYTES // BUFSIZE
FIFO = 2 * BIGBLOCK_SIZE
"""Short offset of 8 MiB of which no two buffers are equal."""


class ColdDisk(OverlayDevice):
    """Never has anything in memory."""

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        return False


def address(i: int) -> int:
    return ZONE_RAW_BUFFER << ZONE_SHIFT | FIFO + i * BUFSIZE


@pytest.fixture(scope="module")
def volumes() -> Volumes:
    return Volumes([ColdDisk(ImageBuilder().build())])


@pytest.fixture
def cache(volumes: Volumes) -> BufferCache:
    return BufferCache(volumes, MIN_CACHE_BYTES)


def bytes_at(volumes: Volumes, i: int) -> bytes:
    volume, byte_off = volumes.locate(address(i), BUFSIZE)
    return volume.dev.pread(byte_off, BUFSIZE)


def missed(cache: BufferCache, i: int) -> BufferMiss:
    with pytest.raises(BufferMiss) as caught:
        cache.bread(address(i))
    return caught.value


def filled(cache: BufferCache, volumes: Volumes, i: int) -> Fill:
    (fill,) = cache.prepare(missed(cache, i))
    fill.view[:] = bytes_at(volumes, i)
    return fill


def test_what_was_used_stays_and_the_limit_holds(cache: BufferCache, volumes: Volumes) -> None:
    for i in range(3 * BUFFERS):
        assert bytes(cache.bread(address(i)).ro) == bytes_at(volumes, i)
        cache.bread(address(0))
        assert cache.used_bytes <= cache.limit_bytes
    assert 3 * BUFFERS <= cache.misses < 3 * BUFFERS + 4  # the one that is used all the time hardly ever goes
    cache.drop()
    assert cache.used_bytes == 0


def test_held_and_changed_buffers_stay(cache: BufferCache) -> None:
    held, changed = cache.bread(address(0)), cache.bread(address(1))
    held.refs += 1
    cache.mark_dirty(changed, DirtyClass.META)
    for i in range(2, 3 * BUFFERS):
        cache.bread(address(i))
    assert cache.bread(address(0)) is held
    assert cache.dirty(DirtyClass.META) == [changed]
    held.refs -= 1
    cache.mark_clean(changed)
    cache.drop()
    assert cache.used_bytes == 0


def test_decoded_nodes_count(cache: BufferCache) -> None:
    for i in range(BUFFERS // 2):
        cache.charge(cache.bread(address(i)), BUFSIZE)
    full = cache.used_bytes
    cache.charge(cache.bread(address(BUFFERS)), 4 * BUFSIZE)
    assert cache.used_bytes <= cache.limit_bytes == full


def test_nothing_left_to_evict_is_an_error(cache: BufferCache) -> None:
    for i in range(2 * BUFFERS):
        cache.bread(address(i)).refs += 1
    with pytest.raises(HammerError, match=f"all {2 * BUFFERS} buffers of the cache are in use"):
        cache.bread(address(2 * BUFFERS))


def test_ranges_inside_one_buffer_only(cache: BufferCache) -> None:
    assert len(cache.view(address(1) - 8, 8)) == 8
    with pytest.raises(CorruptError, match="crosses"):
        cache.view(address(1) - 8, 16)


def test_a_miss_is_filled_from_outside(cache: BufferCache, volumes: Volumes) -> None:
    cache.inline = False
    miss = missed(cache, 5)
    volume, byte_off = volumes.locate(address(5), BUFSIZE)
    assert miss.wanted == [(volume.vol_no, byte_off, BUFSIZE)]
    (fill,) = cache.prepare(miss)
    assert (fill.volume, fill.byte_off) == (volume, byte_off)
    volume.dev.preadv(byte_off, [fill.view])
    missed(cache, 5)  # not yet
    fill.commit()
    buf = cache.bread(address(5))
    assert bytes(buf.ro) == bytes_at(volumes, 5)
    assert buf.refs == 1
    assert cache.prepare(miss) == []
    fill.release()
    assert buf.refs == 0


def test_a_failed_fill_leaves_nothing(cache: BufferCache, volumes: Volumes) -> None:
    cache.inline = False
    for _ in range(3 * BUFFERS):
        filled(cache, volumes, 5).abort()
    assert cache.used_bytes == 0


def test_the_one_that_is_there_wins(cache: BufferCache, volumes: Volumes) -> None:
    cache.inline = False
    fill = filled(cache, volumes, 5)
    with cache.section():
        buf = cache.bread(address(5))
        cache.mark_dirty(buf, DirtyClass.META)
        buf.mem.mv[:4] = b"new!"
    fill.commit()
    assert cache.bread(address(5)) is buf
    assert bytes(buf.ro[:4]) == b"new!"
    fill.release()
    cache.mark_clean(buf)


@pytest.mark.parametrize("how", ["invalidated", "came and went"])
def test_what_was_read_before_a_write_does_not_come_in(cache: BufferCache, volumes: Volumes, how: str) -> None:
    cache.inline = False
    fill = filled(cache, volumes, 5)
    if how == "came and went":
        with cache.section():
            cache.mark_dirty(cache.bread(address(5)), DirtyClass.META)
        cache.mark_clean(cache.bread(address(5)))
    cache.invalidate(address(5), 100)
    fill.commit()
    fill.release()
    again = filled(cache, volumes, 5)  # it is still missing
    again.commit()
    assert bytes(cache.bread(address(5)).ro) == bytes_at(volumes, 5)
    again.release()
    cache.drop()
    assert cache.used_bytes == 0
    for i in range(3 * BUFFERS):  # no memory was lost, nor given back twice
        filled(cache, volumes, i).abort()


def test_a_section_reads_at_once_and_evicts_nothing(cache: BufferCache) -> None:
    cache.inline = False
    with cache.section():
        first = cache.bread(address(0))
        for i in range(BUFFERS - 1):
            cache.bread(address(i + 1))
        assert cache.bread(address(0)) is first
    assert not cache.inline
    assert cache.used_bytes <= cache.limit_bytes
