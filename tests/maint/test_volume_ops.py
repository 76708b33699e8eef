"""Volumes added and removed: all that is there stays, the set changes at one moment, and what can't be is refused."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from random import Random

import pytest

from hammerfs.addr import vol_of
from hammerfs.btree.iterate import scan
from hammerfs.changes import WriteOptions
from hammerfs.const import BUFSIZE, OFF_BAD, ROOT_VOLUME, UF_NOHISTORY, ZONE_FREEMAP
from hammerfs.device.base import Device
from hammerfs.device.faulty import Crash, Faults, FaultyDevice, Journal, RecordingDevice, crash_images
from hammerfs.device.overlay import memory_device
from hammerfs.errors import (
    BusyError,
    DeviceError,
    ExistsError,
    HammerError,
    InvalidError,
    NoSpace,
    ReadOnlyError,
    VolumeSetError,
)
from hammerfs.filewrite import SetAttr
from hammerfs.keys import KEY_MAX, KEY_MIN
from hammerfs.maint import reblock, volume_ops
from hammerfs.maint.facts import facts
from hammerfs.maint.sweep import parse_key
from hammerfs.maint.volume_ops import Removal, add_volume
from hammerfs.rw import WritableFS
from hammerfs.volume import Volume, read_header
from tests.enginelab import Clock, abandon, assert_same, assert_sound, different, fresh, mount, plugged, tree
from tests.maint.lab import churn, history, trees, verb
from tools.fsck.check import check

SMALL = 120 << 20
CUTS = 16
KINDS = (Crash.ORDERED, Crash.DROPPED, Crash.SECTORS)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reblock, "SCANNED", 150)
    monkeypatch.setattr(reblock, "CHANGED", 40)
    monkeypatch.setattr(reblock, "MOVED_BYTES", 300_000)


def add(fs: WritableFS, device: Device, *, force: bool = False) -> Volume:
    return fs.host.call(add_volume(fs, device, force=force))


def remove(fs: WritableFS, number: int) -> None:
    """Remove a volume, slice by slice."""
    removal, at = Removal(fs, fs.volumes.by_number[number]), None
    while True:
        at, _ = fs.host.call(removal.run(at, 0))
        if at is None:
            return


def on_volume(fs: WritableFS, number: int) -> int:
    """Payloads and nodes of the tree that lie on a volume."""
    with fs.cache.section():
        elms = list(scan(fs.tree, KEY_MIN, KEY_MAX))
        used = fs.spans.used(fs.volumes.by_number[number])
    return sum(bool(elm.data_len) and vol_of(elm.data_offset) == number for elm in elms) + len(used)


def spread(media: Sequence[Device], *, versions: int = 2) -> tuple[dict[int | None, object], list[int | None]]:
    """Files and history on both of two volumes; the trees, and the points in time that remember them."""
    fs = mount(media)
    points: list[int | None] = [None]
    points += history(fs, 2, per_round=20)
    fs.alloc.close_volume(ROOT_VOLUME)  # from here on everything new goes to the other one
    points += churn(fs, versions)
    for number in range(3):
        fs.write(fs.create(fs.root(), b"big%d" % number), 0, Random(number).randbytes(1_500_000))
    points.append(fs.sync())
    fs.alloc.open_volume(ROOT_VOLUME)
    want: dict[int | None, object] = dict(trees(fs, points))
    assert on_volume(fs, 1) > 30
    fs.close()
    return want, points


@pytest.mark.parametrize("version", [1, 3, 6, 7])
def test_an_added_volume_is_laid_out_as_the_original_does(version: int) -> None:
    media = fresh(version)
    fs = mount(media)
    history(fs, 1)
    want, before = tree(fs), facts(fs)
    space = fs.statfs()
    new = memory_device(512 << 20, "new")
    volume = add(fs, plugged([new])[0])
    assert (volume.vol_no, volume.bigblocks) == (1, 63)
    after = facts(fs)
    assert after["bigblocks"]["free"] == before["bigblocks"]["free"] + 62
    assert after["bigblocks"]["total"] == before["bigblocks"]["total"] + 63
    assert [number for number, _ in after["volumes"]] == [0, 1]
    assert fs.statfs().blocks == space.blocks + 63 * 512
    assert fs.statfs().bfree > space.bfree + 40 * 512
    assert_same(tree(fs), want)
    fs.close()
    root, other = read_header(media[0]), read_header(new)
    assert root.vol_count == other.vol_count == 2
    assert other.crc_ok(fs.volumes.rule)
    assert (other.vol_fsid, other.vol_label, other.vol_version) == (root.vol_fsid, root.vol_label, version)
    assert root.vol0_stat_bigblocks == 28 + 63, "DragonFly counts the table as usable"
    again = mount([new, media[0]])
    with again.cache.section():
        layer1 = again.freemap.layer1(ZONE_FREEMAP << 60 | 1 << 52)
        assert (layer1.blocks_free, layer1.phys_offset) == (62, 0x2010000000000000)
    assert_same(tree(again), want)
    again.close()
    assert_sound([media[0], new])
    with pytest.raises(VolumeSetError, match="has 2 volumes, 1 given"):
        mount(media)


def test_a_full_file_system_goes_on_on_the_new_volume() -> None:
    media = fresh(size=SMALL)
    fs = mount(media)
    count = 0
    with pytest.raises(NoSpace):
        for count in range(1000):
            fs.write(fs.create(fs.root(), b"f%d" % count), 0, bytes([count & 0xFF]) * 1_000_000)
            fs.sync()
    new = memory_device(SMALL, "new")
    add(fs, plugged([new])[0])
    for number in range(30):
        fs.write(fs.create(fs.root(), b"more%d" % number), 0, b"m" * 1_000_000)
    fs.sync()
    assert on_volume(fs, 1) > 10
    want = tree(fs)
    assert len(want) > count + 30
    fs.close()
    again = mount([*media, new])
    assert_same(tree(again), want)
    again.close()
    assert_sound([*media, new])


@pytest.mark.parametrize("version", [1, 4, 7])
@pytest.mark.usefixtures("small_steps")
def test_a_removed_volume_leaves_everything_on_the_others(version: int) -> None:
    media = fresh(version, volumes=2, size=SMALL)
    want, points = spread(media)
    fs = mount(media)
    before = facts(fs)
    fs.write(fs.create(fs.root(), b"unflushed"), 0, b"u" * 200_000)
    want_now = tree(fs)
    remove(fs, 1)
    assert facts(fs)["bigblocks"]["total"] == before["bigblocks"]["total"] // 2
    assert [number for number, _ in facts(fs)["volumes"]] == [0]
    assert_same(tree(fs), want_now)
    fs.unlink(fs.root(), b"unflushed")
    fs.sync()
    got = trees(fs, points)
    assert {point: got[point] for point in points[1:]} == {point: want[point] for point in points[1:]}
    assert got[None].keys() == trees(fs, [None])[None].keys()
    fs.close()
    assert media[1].pread(0, BUFSIZE) == bytes(BUFSIZE)
    root = read_header(media[0])
    assert (root.vol_count, root.vol0_stat_bigblocks) == (1, fresh_bigblocks(version))
    with pytest.raises(VolumeSetError):
        Volume(media[1])
    again = mount(media[:1])
    assert trees(again, points[1:]) == {point: want[point] for point in points[1:]}
    again.close()
    assert_sound(media[:1])


def fresh_bigblocks(version: int) -> int:
    return read_header(fresh(version, size=SMALL)[0]).vol0_stat_bigblocks


def test_numbers_are_used_again_and_gaps_are_allowed() -> None:
    media = fresh(volumes=3, size=SMALL)
    fs = mount(media)
    history(fs, 2, per_round=10)
    want = tree(fs)
    remove(fs, 1)
    fs.close()
    left = [media[2], media[0]]
    fs = mount(left)
    assert sorted(fs.volumes.by_number) == [0, 2]
    new = memory_device(SMALL, "new")
    assert add(fs, plugged([new])[0]).vol_no == 1
    fs.alloc.close_volume(0)
    fs.write(fs.create(fs.root(), b"there"), 0, b"t" * 100_000)
    fs.sync()
    assert on_volume(fs, 1) > 0
    fs.close()
    fs = mount([new, *left])
    assert fs.read(fs.lookup(fs.root(), b"there"), 0, 200_000) == b"t" * 100_000
    fs.unlink(fs.root(), b"there")
    assert_same(
        {path: node for path, node in tree(fs).items() if path}, {path: node for path, node in want.items() if path}
    )
    fs.close()
    assert_sound([new, *left])


def test_a_wrong_set_is_told_by_the_numbers_it_has() -> None:
    media = fresh(volumes=3, size=SMALL)
    fs = mount(media)
    held = media[1].pread(0, BUFSIZE)
    remove(fs, 1)
    fs.close()
    with pytest.raises(VolumeSetError, match=r"has 2 volumes, 1 given: missing number 2$"):
        mount(media[:1])
    media[1].pwrite(0, held)  # the power went before it was wiped
    with pytest.raises(VolumeSetError, match=r"has 2 volumes, 3 given: not one of them is volume1 \(number 1\)$"):
        mount(media)
    mount([media[0], media[2]]).close()


def test_a_volume_of_several_spans_comes_and_goes() -> None:
    media = fresh(size=SMALL)
    fs = mount(media)
    before = facts(fs)["bigblocks"]
    new = memory_device(9 << 40, "huge")
    volume = add(fs, plugged([new])[0])
    found = facts(fs)["bigblocks"]
    assert found["free"] == before["free"] + volume.bigblocks - 3, "a table for each 4 TiB"
    with fs.cache.section():
        assert fs.spans.tables(volume) == [0x2010000000000000 | span << 42 for span in range(3)]
    fs.alloc.close_volume(0)
    fs.write(fs.create(fs.root(), b"there"), 0, b"t" * 300_000)
    fs.sync()
    fs.close()
    assert_sound([*media, new], idle=False)
    fs = mount([*media, new])
    assert on_volume(fs, 1) > 0
    remove(fs, 1)
    assert facts(fs)["bigblocks"]["total"] == before["total"]
    assert fs.read(fs.lookup(fs.root(), b"there"), 0, 300_000) == b"t" * 300_000
    fs.close()
    assert_sound(media)


# What can't be


def test_what_is_no_new_volume_is_refused() -> None:
    media = fresh(volumes=2, size=SMALL)
    fs = mount(media)
    small = memory_device(1 << 20, "small")
    with pytest.raises(InvalidError, match="volume small: is too small: 1048576 bytes hold no big-block"):
        add(fs, small)
    other = fresh(size=SMALL)[0]
    held = other.pread(0, BUFSIZE)
    with pytest.raises(ExistsError, match="holds a HAMMER volume: --force overwrites it"):
        add(fs, other)
    assert other.pread(0, BUFSIZE) == held
    with pytest.raises(InvalidError, match="is the root volume, which can't be removed"):
        Removal(fs, fs.volumes.root)
    assert add(fs, plugged([other])[0], force=True).vol_no == 2
    fs.close()
    assert_sound([*media, other])


def test_the_257th_volume_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_ops, "MAX_VOLUMES", 2)
    fs = mount(fresh(volumes=2, size=SMALL))
    with pytest.raises(InvalidError, match="has 2 volumes, the most there can be"):
        add(fs, memory_device(SMALL, "third"))
    fs.close()


def test_no_volume_goes_whose_contents_fit_nowhere() -> None:
    media = fresh(volumes=2, size=SMALL)
    fs = mount(media)
    for number in range(120):
        fs.write(fs.create(fs.root(), b"f%d" % number), 0, b"f" * 1_000_000)
    fs.sync()
    want = tree(fs)
    with pytest.raises(NoSpace, match=r"volume volume1: can't be removed: it holds \d+ big-blocks of 8 MiB, the other"):
        remove(fs, 1)
    fs.write(fs.create(fs.root(), b"goes on"), 0, b"there")
    fs.unlink(fs.root(), b"goes on")
    assert different({**tree(fs), b"": want[b""]}, want) == []
    fs.close()
    assert_sound(media)


def test_what_waits_in_memory_is_not_lost_for_want_of_space() -> None:
    media = fresh(volumes=2, size=SMALL)
    fs = mount(media, WriteOptions(clock=Clock(), commit_seconds=3600))
    for number in range(70):  # the first volume is full, and some are on the second
        inode = fs.create(fs.root(), b"f%d" % number)
        fs.setattr(inode, SetAttr(uflags=UF_NOHISTORY))
        fs.write(inode, 0, b"f" * 1_500_000)
        fs.sync()
    assert on_volume(fs, 1) > 10
    for number in range(65):
        fs.unlink(fs.root(), b"f%d" % number)
    new = fs.create(fs.root(), b"new")
    for at in range(0, 2_000_000, 50_000):  # until the removals have been flushed only the second volume has room
        fs.write(new, at, b"n" * 50_000)
    remove(fs, 1)
    assert fs.read(new, 0, 3_000_000) == b"n" * 2_000_000
    fs.close()
    fs = mount(media[:1])
    assert fs.read(fs.lookup(fs.root(), b"new"), 0, 3_000_000) == b"n" * 2_000_000
    fs.close()
    assert_sound(media[:1])


def test_a_damaged_payload_keeps_its_volume() -> None:
    media = fresh(volumes=2, size=SMALL)
    spread(media)
    fs = mount(media)
    inode = fs.lookup(fs.root(), b"big1")
    with fs.cache.section():
        elm = next(e for e in scan(fs.tree, KEY_MIN, KEY_MAX) if e.obj_id == inode.obj_id and e.data_len == BUFSIZE)
    volume, at = fs.volumes.locate(elm.data_offset, elm.data_len)
    assert volume.vol_no == 1
    volume.dev.pwrite(at, b"damaged")
    with pytest.raises(BusyError, match=r"can't be removed: \d+ bytes of zone 10 can't be moved") as caught:
        remove(fs, 1)
    assert caught.value.errno == errno.EBUSY
    assert not fs.alloc.is_closed(1)
    fs.write(fs.create(fs.root(), b"goes on"), 0, b"there")
    fs.sync()
    volume.dev.pwrite(at, Random(1).randbytes(1_500_000)[elm.key - elm.data_len : elm.key])
    remove(fs, 1)
    fs.close()
    assert_sound(media[:1])


def test_a_new_volume_that_fails_harms_nothing() -> None:
    media = fresh(size=SMALL)
    fs = mount(media)
    history(fs, 1, per_round=5)
    want = tree(fs)
    for faults in (Faults(writes={1}), Faults(writes={2}), Faults(flushes={2}), Faults(flushes={3})):
        device = FaultyDevice(memory_device(SMALL, "bad"), faults)
        with pytest.raises(DeviceError):
            add(fs, device)
        assert len(fs.volumes) == 1
    fs.write(fs.create(fs.root(), b"goes on"), 0, b"there")
    fs.sync()
    fs.unlink(fs.root(), b"goes on")
    assert different({**tree(fs), b"": want[b""]}, want) == []
    fs.close()
    assert_sound(media)


def test_nothing_changes_after_a_failure() -> None:
    fs = mount(fresh(volumes=2, size=SMALL))
    fs.changes.failed = HammerError("broken")
    with pytest.raises(ReadOnlyError):
        add(fs, memory_device(SMALL, "new"))
    with pytest.raises(ReadOnlyError):
        remove(fs, 1)
    fs.close()


# Slices, and power cuts


@pytest.mark.usefixtures("small_steps")
def test_a_removal_that_is_given_up_is_none() -> None:
    media = fresh(volumes=2, size=SMALL)
    want, points = spread(media)
    fs = mount(media)
    reply = verb(fs, "volume-del", device="volume1", seconds=0)
    assert parse_key(reply["next"])
    assert fs.alloc.is_closed(1)
    assert verb(fs, "volume-del", device="volume1", stop=True) == {"number": 1}
    assert not fs.alloc.is_closed(1)
    fs.alloc.close_volume(0)
    fs.write(fs.create(fs.root(), b"later"), 0, b"x" * 50_000)
    fs.sync()
    fs.close()
    assert_sound(media)
    fs = mount(media)
    remove(fs, 1)
    assert trees(fs, points[1:]) == {point: want[point] for point in points[1:]}
    assert fs.lookup(fs.root(), b"later").size == 50_000
    fs.close()
    assert_sound(media[:1])


def set_of(devices: Sequence[Device]) -> list[Device]:
    """The volumes of the set that the root header speaks of: as who mounts it would find out."""
    return list(devices[: read_header(devices[0]).vol_count])


def cut(
    media: Sequence[Device], work: Callable[[list[Device]], object], check_one: Callable[[WritableFS], object]
) -> set[int]:
    """Check the set that a cut anywhere in some work leaves; the numbers of volumes that were met."""
    journal, seen = Journal(), set()
    work([RecordingDevice(device, journal) for device in media])
    points = [n + 1 for n, event in enumerate(journal.events) if event.kind != "mark"]
    chosen = sorted({*points[-8:], *Random(1).sample(points, min(CUTS, len(points)))})
    for image in crash_images(journal, seed=1, crashes=KINDS, cuts=chosen):
        devices = set_of(image.devices)
        assert [f for f in check(devices, data=True, idle=False) if f.is_error] == [], str(image)
        fs = mount(devices, WriteOptions(clock=Clock()))
        seen.add(len(fs.volumes))
        try:
            check_one(fs)
            for volume in fs.volumes:
                with fs.cache.section():
                    assert OFF_BAD not in fs.spans.tables(volume)
                    assert fs.spans.tables(volume), "every volume has its space"
        except AssertionError as err:
            err.add_note(str(image))
            raise
        fs.close()
        assert_sound(set_of(image.devices), idle=False)
    return seen


@pytest.mark.parametrize("version", [3, 7])
def test_a_cut_while_a_volume_is_added_leaves_one_set_or_the_other(version: int) -> None:
    media = [*fresh(version, size=SMALL), memory_device(SMALL, "new")]
    fs = mount(media[:1])
    points: list[int | None] = [None, *history(fs, 2, per_round=10)]
    want = trees(fs, points)
    fs.close()

    def work(devices: list[Device]) -> None:
        fs = mount(devices[:1], WriteOptions(clock=Clock()))
        add(fs, plugged(devices[1:])[0])
        abandon(fs)

    def check_one(fs: WritableFS) -> None:
        assert trees(fs, points) == want
        fs.write(fs.create(fs.root(), b"afterwards"), 0, b"a" * 40_000)

    assert cut(media, work, check_one) == {1, 2}


@pytest.mark.parametrize("version", [2, 7])
@pytest.mark.usefixtures("small_steps")
def test_a_cut_while_a_volume_is_removed_loses_nothing_and_it_can_be_removed_then(version: int) -> None:
    media = fresh(version, volumes=2, size=SMALL)
    want, points = spread(media, versions=1)
    checked = 0

    def work(devices: list[Device]) -> None:
        fs = mount(devices, WriteOptions(clock=Clock()))
        remove(fs, 1)
        abandon(fs)

    def check_one(fs: WritableFS) -> None:
        nonlocal checked
        checked += 1
        assert trees(fs, points) == want
        if checked % 10 == 0 and len(fs.volumes) == 2:
            remove(fs, 1)
            assert trees(fs, points) == want

    assert cut(media, work, check_one) == {1, 2}
    assert checked > CUTS


def test_what_was_only_logged_outlives_a_change_of_the_set() -> None:
    media = [*fresh(size=SMALL), memory_device(SMALL, "new")]
    fs = mount(media[:1])
    fs.write(fs.create(fs.root(), b"log"), 0, b"old")
    fs.close()
    journal = Journal()
    devices = [RecordingDevice(device, journal) for device in media]
    fs = mount(devices[:1], WriteOptions(clock=Clock()))
    fs.create(fs.root(), b"first flush")
    fs.sync()
    inode = fs.lookup(fs.root(), b"log")
    fs.write(inode, 0, b"promised")
    fs.fsync(inode)
    assert fs.flusher.logs == 1
    begin = len(journal.events)
    add(fs, plugged(devices[1:])[0])
    abandon(fs)
    seen = set()
    for image in crash_images(journal, seed=1, crashes=KINDS, cuts=range(begin, len(journal.events) + 1)):
        fs = mount(set_of(image.devices))
        seen.add(len(fs.volumes))
        assert fs.read(fs.lookup(fs.root(), b"log"), 0, 100) == b"promised", str(image)
        fs.close()
        assert_sound(set_of(image.devices), idle=False)
    assert seen == {1, 2}
