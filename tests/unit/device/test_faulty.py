"""What the recorder and the power cuts promise, against a model; faults strike exactly where they are told to."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hammerfs.device.base import ZeroDevice
from hammerfs.device.faulty import TEAR, Crash, Faults, FaultyDevice, Journal, RecordingDevice, crash_images
from hammerfs.errors import DeviceError
from tests.unit.device.test_overlay import filled

SECTORS = 8
SIZE = SECTORS * TEAR

# A script over two devices: ("w", device, off, data), ("f", device) or ("m",).
writes = st.tuples(
    st.just("w"), st.integers(0, 1), st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=3 * TEAR)
).map(lambda w: (*w[:3], w[3][: SIZE - w[2]]))
flushes = st.tuples(st.just("f"), st.integers(0, 1))
marks = st.tuples(st.just("m"))
scripts = st.lists(st.one_of(writes, writes, flushes, marks), max_size=12)

Script = list[tuple[object, ...]]


def record(script: Script) -> tuple[Journal, list[RecordingDevice]]:
    journal = Journal()
    bases = [filled(bytes([0x40 + i]) * SIZE) for i in range(2)]
    devices = [RecordingDevice(base, journal) for base in bases]
    for step in script:
        match step:
            case "w", int(device), int(off), bytes(data):
                devices[device].pwrite(off, data)
            case "f", int(device):
                devices[device].flush()
            case _:
                journal.mark("promise")
    return journal, devices


def sector_versions(script: Script, cut: int, device: int) -> list[set[bytes]]:
    """Model: for each sector, the contents it may have after a cut; exactly one where it is durable."""
    content = bytearray(bytes([0x40 + device]) * SIZE)
    versions = [{bytes(content[i * TEAR : (i + 1) * TEAR])} for i in range(SECTORS)]
    for step in script[:cut]:
        if step[0] == "w" and step[1] == device:
            _, _, off, data = step
            assert isinstance(off, int)
            assert isinstance(data, bytes)
            content[off : off + len(data)] = data
            for i in range(off // TEAR, -(-(off + len(data)) // TEAR)):
                versions[i].add(bytes(content[i * TEAR : (i + 1) * TEAR]))
        elif step == ("f", device):
            versions = [{bytes(content[i * TEAR : (i + 1) * TEAR])} for i in range(SECTORS)]
    return versions


@given(scripts)
def test_recorder_is_transparent(script: Script) -> None:
    journal, devices = record(script)
    models = [bytearray(bytes([0x40 + i]) * SIZE) for i in range(2)]
    for step in script:
        match step:
            case "w", int(index), int(off), bytes(data):
                models[index][off : off + len(data)] = data
    for device, model, base in zip(devices, models, journal.bases, strict=True):
        assert device.pread(0, SIZE) == bytes(model)
        assert base.pread(0, SIZE) == bytes([0x40 + device.index]) * SIZE
    assert [event.kind[0] for event in journal.events] == [step[0] for step in script]
    assert journal.writes == sum(step[0] == "w" for step in script)
    assert journal.flushes == sum(step[0] == "f" for step in script)
    assert journal.marks(len(script)) == ["promise"] * sum(step[0] == "m" for step in script)
    assert journal.marks(0) == []


@given(scripts, st.integers(0, 5))
def test_ordered_cut_holds_exactly_the_prefix(script: Script, seed: int) -> None:
    journal, _ = record(script)
    for image in crash_images(journal, seed=seed, crashes=[Crash.ORDERED]):
        models = [bytearray(bytes([0x40 + i]) * SIZE) for i in range(2)]
        for step in script[: image.cut]:
            match step:
                case "w", int(index), int(off), bytes(data):
                    models[index][off : off + len(data)] = data
        assert [device.pread(0, SIZE) for device in image.devices] == [bytes(model) for model in models]


@given(scripts, st.integers(0, 5))
def test_flushed_writes_survive_every_crash(script: Script, seed: int) -> None:
    """Sectors untouched since their last flush are certain; others hold bytes of the writes at risk only."""
    journal, _ = record(script)
    for image in crash_images(journal, seed=seed):
        for index, device in enumerate(image.devices):
            versions = sector_versions(script, image.cut, index)
            content = device.pread(0, SIZE)
            for i, possible in enumerate(versions):
                if len(possible) == 1:
                    assert content[i * TEAR : (i + 1) * TEAR] in possible, (str(image), i)


@given(scripts, st.integers(0, 5))
def test_aligned_sectors_are_never_torn(script: Script, seed: int) -> None:
    """With whole-sector writes every sector holds one of its versions, whatever the crash."""
    aligned: Script = []
    for step in script:
        match step:
            case "w", int(device), int(off), bytes(data):
                n = -(-len(data) // TEAR)
                at = min(off // TEAR, SECTORS - n)
                aligned.append(("w", device, at * TEAR, data.ljust(n * TEAR, b".")))
            case _:
                aligned.append(step)
    journal, _ = record(aligned)
    for image in crash_images(journal, seed=seed):
        for index, crashed in enumerate(image.devices):
            content = crashed.pread(0, SIZE)
            for i, possible in enumerate(sector_versions(aligned, image.cut, index)):
                assert content[i * TEAR : (i + 1) * TEAR] in possible, (str(image), i)


def _images(seed: int, crash: Crash) -> list[bytes]:
    journal, devices = record([])
    for i in range(SECTORS):
        devices[0].pwrite(i * TEAR, bytes([i + 1]) * TEAR)
        devices[0].pwrite(0, bytes([0xA0 + i]) * (2 * TEAR))
    return [
        image.devices[0].pread(0, SIZE)
        for image in crash_images(journal, seed=seed, crashes=[crash], cuts=[len(journal.events)])
    ]


@pytest.mark.parametrize("crash", [Crash.TORN, Crash.DROPPED, Crash.REORDERED, Crash.SECTORS])
def test_crashes_use_their_freedom_and_repeat_by_seed(crash: Crash) -> None:
    different = {bytes(_images(seed, crash)[0]) for seed in range(20)}
    assert len(different) > 1
    assert _images(7, crash) == _images(7, crash)


def test_cuts_asked_for_and_their_text() -> None:
    journal, _ = record([("w", 0, 0, b"x"), ("m",), ("f", 0), ("w", 1, 0, b"y")])
    assert [image.cut for image in crash_images(journal, crashes=[Crash.ORDERED])] == [0, 1, 3, 4]
    assert [image.cut for image in crash_images(journal, crashes=[Crash.ORDERED], cuts=[2, 4])] == [2, 4]
    torn = list(crash_images(journal, crashes=[Crash.TORN]))
    assert [image.cut for image in torn] == [1, 4], "nothing is at risk after the flush"
    assert str(torn[0]).startswith("cut after event 1, 1 writes unflushed: ")


def test_images_are_writable_and_do_not_touch_each_other() -> None:
    journal, _ = record([("w", 0, 0, b"first"), ("f", 0), ("w", 0, 600, b"second")])
    for image in crash_images(journal):
        image.devices[0].pwrite(0, b"recovered")
        image.devices[0].flush()
        for device in image.devices:
            device.close()
    assert all(not base.is_closed for base in journal.bases)
    last = list(crash_images(journal, crashes=[Crash.ORDERED]))[-1]
    assert last.cut == 3


def _faulty(faults: Faults) -> FaultyDevice:
    return FaultyDevice(filled(b"0123456789" * 500, "disk"), faults)


def _raises(action: Callable[[], object], text: str) -> DeviceError:
    with pytest.raises(DeviceError, match=text) as caught:
        action()
    assert caught.value.volume == "disk"
    return caught.value


def test_nth_read_write_and_flush_fail() -> None:
    device = _faulty(Faults(reads={2}, writes={1}, flushes={2}, errno=errno.ENOSPC))
    assert device.pread(0, 4) == b"0123"
    assert _raises(lambda: device.pread(40, 4), "read 2 failed").offset == 40
    assert device.pread(0, 4) == b"0123"
    assert _raises(lambda: device.pwrite(20, b"zz"), "write 1 failed").errno == errno.ENOSPC
    assert device.pread(20, 2) == b"01"
    device.pwrite(20, b"zz")
    assert device.pread(20, 2) == b"zz"
    device.flush()
    _raises(device.flush, "flush 2 failed")
    device.flush()
    counts = device.counts
    assert (counts.reads, counts.bytes_read, counts.writes, counts.bytes_written, counts.flushes) == (5, 16, 2, 4, 3)
    assert counts.outside == 0


def test_short_write_leaves_its_part() -> None:
    device = _faulty(Faults(short_writes={1: 3}))
    _raises(lambda: device.pwritev(0, [b"ab", b"cdef"]), "after 3 of 6 bytes")
    assert device.pread(0, 6) == b"abc345"


def test_bad_ranges_and_flipped_bits() -> None:
    device = _faulty(Faults(bad=[(1000, 1512)], flips={5: 0x01, 2001: 0x80}))
    assert device.pread(0, 1000)[:8] == b"01234467"
    assert _raises(lambda: device.pread(990, 11), "unreadable sector").offset == 1000
    assert _raises(lambda: device.pread(1511, 1), "unreadable").offset == 1511
    assert device.pread(1512, 10) == b"2345678901"
    views = [memoryview(bytearray(1)), memoryview(bytearray(3))]
    device.preadv(2000, views)
    assert [bytes(view) for view in views] == [b"0", b"\xb123"]
    assert device.preadv_nowait(2000, views) is not None
    assert [bytes(view) for view in views] == [b"0", b"\xb123"]
    device.pwrite(5, b"5")
    assert device.lower.pread(5, 1) == b"5"


def test_power_goes_off_for_good() -> None:
    device = _faulty(Faults(power_off_after=2))
    device.pwrite(0, b"1")
    device.pwrite(1, b"2")
    assert device.is_off
    for action in (
        lambda: device.pread(0, 1),
        lambda: device.pwrite(0, b"3"),
        device.flush,
        lambda: device.discard(0, 1),
    ):
        _raises(action, "power is off")
    assert device.lower.pread(0, 2) == b"12"


def test_accesses_outside_are_counted() -> None:
    device = FaultyDevice(ZeroDevice(100, "disk"))
    for _ in range(3):
        _raises(lambda: device.pread(90, 11), "leaves the device")
    assert (device.counts.outside, device.counts.reads) == (3, 0)
    assert list(device.extents(0, 100)) == []
    device.close()
    assert device.lower.is_closed
