"""The overlay against a bytearray model, and that the device below keeps its bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hammerfs.device.base import Device, ZeroDevice
from hammerfs.device.faulty import FaultyDevice
from hammerfs.device.overlay import OverlayDevice, memory_device
from hammerfs.errors import DeviceError, ReadOnlyError, UsageError

SIZE = 10_000  # not a multiple of the granule: the last one is cut


def filled(content: bytes, name: str = "base") -> OverlayDevice:
    """A device in memory with this content."""
    device = memory_device(len(content), name)
    device.pwrite(0, content)
    return device


BASE = bytes(i * 13 % 251 for i in range(SIZE))

ranges = st.integers(0, SIZE).flatmap(lambda off: st.tuples(st.just(off), st.integers(0, min(SIZE - off, 3000))))
writes = ranges.flatmap(lambda r: st.tuples(st.just(r[0]), st.binary(min_size=r[1], max_size=r[1])))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), writes),
        st.tuples(st.just("writev"), writes),
        st.tuples(st.just("read"), ranges),
        st.tuples(st.just("revert"), st.none()),
    ),
    max_size=25,
)


@given(actions, st.sampled_from([512, 1024, 16384]))
def test_reads_merge_as_in_a_model(script: list[tuple[str, object]], granule: int) -> None:
    lower = filled(BASE)
    overlay = OverlayDevice(lower, granule=granule)
    model = bytearray(BASE)
    for kind, what in script:
        match kind, what:
            case "write", (int(off), bytes(data)):
                overlay.pwrite(off, data)
                model[off : off + len(data)] = data
            case "writev", (int(off), bytes(data)):
                third = len(data) // 3
                assert overlay.pwritev(off, [data[:third], memoryview(data)[third:]]) == len(data)
                model[off : off + len(data)] = data
            case "read", (int(off), int(n)):
                assert overlay.pread(off, n) == bytes(model[off : off + n])
                views = [memoryview(bytearray(n // 2)), memoryview(bytearray(n - n // 2))]
                assert overlay.preadv(off, views) == n
                assert b"".join(views) == bytes(model[off : off + n])
                if overlay.preadv_nowait(off, views) is not None:
                    assert b"".join(views) == bytes(model[off : off + n])
            case _:
                overlay.revert()
                model = bytearray(BASE)
    assert overlay.pread(0, SIZE) == bytes(model)
    assert lower.pread(0, SIZE) == BASE
    differing = {i for i in range(SIZE) if model[i] != BASE[i]}
    inside = {i for begin, end in overlay.dirty for i in range(begin, end)}
    assert differing <= inside
    assert overlay.memory_bytes >= sum(end - begin for begin, end in overlay.dirty)


@given(st.lists(writes, max_size=10), ranges)
def test_extents_hold_all_that_is_not_zero(script: list[tuple[int, bytes]], window: tuple[int, int]) -> None:
    device = memory_device(SIZE)
    for off, data in script:
        device.pwrite(off, data)
    off, n = window
    extents = list(device.extents(off, n))
    assert extents == sorted(extents)
    assert all(off <= begin < end <= off + n for begin, end in extents)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(extents))
    covered = {i for begin, end in extents for i in range(begin, end)}
    content = device.pread(0, SIZE)
    assert all(content[i] == 0 for i in range(off, off + n) if i not in covered)


class _SlowDevice(ZeroDevice):
    """Would always block."""

    def _preadv_nowait(self, off: int, views: object, n: int) -> bool:
        return False


def test_nowait_asks_below_only_for_what_is_not_ours() -> None:
    overlay = OverlayDevice(_SlowDevice(65536), granule=512)
    view = memoryview(bytearray(1024))
    assert overlay.preadv_nowait(0, [view]) is None
    overlay.pwrite(0, b"a" * 1024)
    assert overlay.preadv_nowait(0, [view]) == 1024
    assert bytes(view) == b"a" * 1024
    assert overlay.preadv_nowait(512, [view]) is None


def test_unchanged_ranges_are_read_in_one_piece() -> None:
    below = FaultyDevice(ZeroDevice(1 << 20))
    overlay = OverlayDevice(below, granule=512)
    overlay.pread(0, 1 << 20)
    assert below.counts.reads == 1
    overlay.pwrite(512 * 100, bytes(512))
    assert below.counts.reads == 1, "a write of a whole granule needs nothing from below"
    overlay.pread(0, 1 << 20)
    assert below.counts.reads == 3
    overlay.pwrite(5, b"x")
    assert below.counts.reads == 4


def test_readonly_overlay_takes_patches_only() -> None:
    overlay = OverlayDevice(filled(BASE), readonly=True)
    with pytest.raises(ReadOnlyError):
        overlay.pwrite(0, b"x")
    overlay.patch(1, b"patched")
    assert overlay.pread(0, 10) == BASE[:1] + b"patched" + BASE[8:10]
    with pytest.raises(DeviceError):
        overlay.patch(SIZE - 1, b"xy")


def test_bounds_and_names() -> None:
    overlay = OverlayDevice(filled(BASE, "disk"))
    assert overlay.name == "disk"
    with pytest.raises(DeviceError) as caught:
        overlay.pread(SIZE, 1)
    assert caught.value.volume == "disk"
    for granule in (0, 511, 513, 768):
        with pytest.raises(UsageError):
            OverlayDevice(ZeroDevice(1), granule=granule)


@pytest.mark.parametrize("owns", [True, False])
def test_closing(owns: bool) -> None:
    lower: Device = filled(BASE)
    OverlayDevice(lower, owns_lower=owns).close()
    assert lower.is_closed is owns


def test_huge_memory_device_costs_what_is_written() -> None:
    device = memory_device(1 << 50)
    device.pwrite((1 << 50) - 10, b"0123456789")
    assert device.memory_bytes == 16384
    assert device.pread((1 << 50) - 12, 12) == b"\0\x000123456789"
    assert list(device.extents(0, 1 << 50)) == [((1 << 50) - 16384, 1 << 50)]
    device.flush()
    device.will_need(0, 100)
    assert device.discard(0, 100) is False
