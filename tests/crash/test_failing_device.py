"""Devices that fail: the error reaches the caller, nothing is made worse, and what was promised is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from hammerfs.changes import WriteOptions
from hammerfs.const import OBJTYPE_DIRECTORY, OBJTYPE_REGFILE, UNDO_SECTOR
from hammerfs.device.faulty import Counts, Faults, FaultyDevice
from hammerfs.errors import CorruptError, DeviceError, HammerError, ReadOnlyError
from hammerfs.filewrite import SetAttr
from hammerfs.fs import HammerFS
from tests.crash.cuts import Fsyncing, with_part
from tests.enginelab import Clock, abandon, assert_sound, different, fresh, mount, plugged, tree
from tests.fsmodel import Twin, contents

Break = Callable[[FaultyDevice, int], None]
"""Arranges that the nth access from now on fails."""


def nth_read(device: FaultyDevice, n: int) -> None:
    device.faults.reads = {device.counts.reads + n}


def nth_write(device: FaultyDevice, n: int) -> None:
    device.faults.writes = {device.counts.writes + n}


def short_write(device: FaultyDevice, n: int) -> None:
    device.faults.short_writes = {device.counts.writes + n: 700}


def nth_flush(device: FaultyDevice, n: int) -> None:
    device.faults.flushes = {device.counts.flushes + n}


def no_more_writes(device: FaultyDevice, n: int) -> None:
    device.faults.writes = set(range(device.counts.writes + n, device.counts.writes + n + 10_000))


def no_power(device: FaultyDevice, n: int) -> None:
    device.faults.power_off_after = device.counts.writes + n


WRITES = [nth_write, short_write, nth_flush, no_more_writes, no_power]


def build(version: int, volumes: int = 1) -> tuple[Twin, FaultyDevice]:
    """Some files on devices of which the last one may fail, nothing of them in memory."""
    media = [FaultyDevice(device) for device in fresh(version, volumes=volumes)]
    twin = Twin(media, WriteOptions(clock=Clock(), group_records=100_000))
    below = twin.make(1, b"dir", OBJTYPE_DIRECTORY)
    for n in range(60):
        twin.write(twin.make(below, b"f%d" % n, OBJTYPE_REGFILE), 0, contents(Random(n), 200 * n))
    twin.sync()
    twin.remount()
    return twin, media[-1]


def script(twin: Twin) -> None:
    """Some of everything; changes reach the media in syncs and fsyncs only, whole blocks in writes."""
    rng = Random(1)
    below = twin.now.objs[1].entries[b"dir"]
    inos = list(twin.now.objs[below].entries.values())
    twin.write(inos[5], 100, b"over the old")
    twin.write(twin.make(1, b"straight", OBJTYPE_REGFILE), 0, contents(rng, 200_000))
    twin.sync()
    twin.write(inos[7], 0, contents(rng, 3000))
    twin.fsync(inos[7])
    twin.write(inos[7], 2000, contents(rng, 3000))
    twin.fsync(inos[7])
    twin.rename(below, b"f9", 1, b"moved")
    twin.truncate(inos[50], 777)
    twin.sync()
    for n in range(10, 20):
        twin.remove(below, b"f%d" % n)
    twin.write(inos[59], 9000, contents(rng, 150_000))
    twin.sync()


def failures(arrange: Break, version: int, volumes: int = 1) -> Iterator[tuple[Twin, FaultyDevice, HammerError | None]]:
    """The script with its first, second ... access failing, until it has so many no more."""
    for n in range(1, 200):
        twin, device = build(version, volumes)
        before = device.counts.writes, device.counts.reads, device.counts.flushes
        arrange(device, n)
        try:
            script(twin)
        except HammerError as err:
            yield twin, device, err
        else:
            if _is_over(arrange, before, device.counts, n):
                return
            yield twin, device, None
        abandon(twin.fs)


def _is_over(arrange: Break, before: tuple[int, int, int], counts: Counts, n: int) -> bool:
    writes, reads, flushes = before
    done: dict[Break, int] = {nth_read: counts.reads - reads, nth_flush: counts.flushes - flushes}
    return done.get(arrange, counts.writes - writes) < n


def check_read_only(twin: Twin) -> None:
    """Nothing is written any more; what is in memory can still be read."""
    with pytest.raises(ReadOnlyError):
        twin.fs.create(twin.fs.root(), b"new")
    with pytest.raises(ReadOnlyError):
        twin.fs.sync()
    assert twin.fs.statfs().blocks


def check_recovered(twin: Twin) -> None:
    """With sound devices: all that was promised, or that and what was being flushed."""
    fs = mount(twin.media, twin.options)
    got = tree(fs)
    promised = twin.durable.with_contents(twin.fsynced)
    logged = twin.now.objs[twin.now.objs[1].entries[b"dir"]].entries[b"f7"]
    promised = with_part(promised, Fsyncing(logged, twin.now.objs[logged].data), got)  # perhaps under way
    differences = different(got, promised.tree())
    assert differences == [] or different(got, twin.now.tree()) == [], differences
    for tid, state in twin.history:
        assert different(tree(fs, tid), state.tree()) == []
    fs.create(fs.root(), b"goes on")
    fs.close()
    assert_sound(twin.media, idle=False)


@pytest.mark.parametrize(
    ("arrange", "version", "volumes"),
    [*((arrange, version, 1) for arrange in WRITES for version in (7, 3)), (nth_flush, 6, 2)],
)
def test_writes_and_flushes(arrange: Break, version: int, volumes: int) -> None:
    seen = 0
    for twin, device, error in failures(arrange, version, volumes):
        seen += 1
        assert isinstance(error, (DeviceError, ReadOnlyError))
        if twin.fs.changes.failed is not None:
            check_read_only(twin)
            if not device.is_off:
                twin.check_head()
            abandon(twin.fs)
            device.faults = Faults()
            check_recovered(twin)
        else:  # file data only: it is still in memory, and goes out once the device is well again
            device.faults = Faults()
            twin.check_head()
            twin.sync()
            twin.check_head()
            twin.check_past(Random(1), 10)
            twin.remount()
            twin.check_head()
            assert_sound(twin.media, idle=False)
    assert seen > 2


@pytest.mark.parametrize("version", [7, 1])
def test_reads(version: int) -> None:
    seen = 0
    for twin, device, error in failures(nth_read, version):
        seen += error is not None
        if error is not None:
            assert isinstance(error, (DeviceError, ReadOnlyError))
        device.faults = Faults()
        if twin.fs.changes.failed is None:
            twin.check_head()
            twin.sync()
            twin.check_head()
        else:
            check_read_only(twin)
        abandon(twin.fs)
        check_recovered(twin)
    assert seen > 5


@pytest.mark.parametrize("arrange", [nth_read, *WRITES])
@pytest.mark.parametrize("version", [7, 3])
def test_recovery(arrange: Break, version: int) -> None:
    """It fails, and is made again."""
    seen = 0
    for n in range(1, 100):
        twin, device = build(version)
        twin.write(twin.now.objs[twin.now.objs[1].entries[b"dir"]].entries[b"f3"], 0, b"logged, perhaps")
        twin.fsync(twin.now.objs[twin.now.objs[1].entries[b"dir"]].entries[b"f3"])
        twin.make(1, b"lost, perhaps", OBJTYPE_REGFILE)
        nth_flush(device, 2)
        with pytest.raises(HammerError):
            twin.sync()
        abandon(twin.fs)
        device.faults = Faults()
        arrange(device, n)
        try:
            fs = mount(twin.media, twin.options)
        except (DeviceError, ReadOnlyError, CorruptError):
            seen += 1
        else:
            abandon(fs)
            break
        device.faults = Faults()
        check_recovered(twin)
    assert seen > 1


def test_an_unreadable_place_stops_only_what_needs_it() -> None:
    twin, device = build(7)
    below = twin.now.objs[1].entries[b"dir"]
    inode = twin.inode(twin.now.objs[below].entries[b"f59"])
    plan = twin.fs.plan_read(inode, 0, memoryview(bytearray(inode.size)))
    at = plan.ios[0].byte_off
    device.faults.bad = [(at, at + 1)]
    with pytest.raises(DeviceError):
        twin.fs.read(inode, 0, 100)
    twin.make(1, b"new", OBJTYPE_REGFILE)
    twin.sync()
    twin.fs.write(inode, 100, b"into the block that can't be read")
    with pytest.raises(DeviceError):
        twin.fs.fsync(inode)
    assert twin.fs.changes.failed is None
    device.faults = Faults()
    twin.fs.fsync(inode)
    with HammerFS(plugged(twin.media)) as fs:
        assert fs.read(fs.resolve(b"/dir/f59"), 100, 7) == b"into th"
    abandon(twin.fs)


def test_damage_inside_the_active_range_is_not_taken_for_its_end() -> None:
    """A record that cannot be read, and after it some that were there before the metadata was written."""
    twin, device = build(7)
    begin = twin.fs.undo.next
    for n in range(60):
        twin.setattr(twin.now.objs[twin.now.objs[1].entries[b"dir"]].entries[b"f%d" % n], SetAttr(mode=0o600))
    nth_flush(device, 4)  # after two for the restart, and that of the FIFO: the one of the metadata
    with pytest.raises(ReadOnlyError):
        twin.sync()
    abandon(twin.fs)
    device.faults = Faults()
    with HammerFS(plugged(twin.media)) as fs:
        assert fs.recovery is not None
        assert fs.recovery.length > 8 * UNDO_SECTOR
        assert fs.recovery.first > begin
        volume, byte_off = fs.volumes.locate(fs.recovery.first + 4 * UNDO_SECTOR, 1)
    assert volume.vol_no == 0
    device.pwrite(byte_off | 0x100, b"damage")
    with pytest.raises(CorruptError):
        mount(twin.media)
