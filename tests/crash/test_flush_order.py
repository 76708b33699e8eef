"""A flush of several groups, and what is called or cut in between; groups that fit the FIFO."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from hammerfs import backend
from hammerfs.changes import WriteOptions
from hammerfs.const import BUFSIZE, OBJTYPE_REGFILE, UNDO_SECTOR
from hammerfs.device.faulty import Crash, crash_images
from hammerfs.rw import WritableFS
from kernelcore.host.up import UpHost
from tests.crash.cuts import Recorded
from tests.enginelab import Clock, assert_sound, fresh, mount, plugged, tree
from tests.fsmodel import contents

BLOCK = 65536
MOST = 8


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group removes no more than some records."""
    monkeypatch.setattr(backend, "MOST_REMOVED", MOST)


@pytest.mark.usefixtures("few_at_once")
def test_a_file_that_is_cut_first_keeps_what_is_written_meanwhile() -> None:
    """The mount lets calls in while the groups of a cut are on their way to the media."""
    host = UpHost(name="lab")
    meanwhile: list[Callable[[], object]] = []

    async def submit(call: Callable[..., Any], *args: Any) -> Any:
        if meanwhile:
            meanwhile.pop()()
        return call(*args)

    media = fresh()
    fs = WritableFS(plugged(media), WriteOptions(clock=Clock()), host=host, submit=submit)
    host.call(fs.start())
    long, other = (fs.create(fs.root(), name) for name in (b"long", b"other"))
    fs.write(long, 0, contents(Random(1), 4 * MOST * BLOCK))
    host.call(fs.flusher.settle())
    fs.truncate(long, 0)
    meanwhile += [lambda: fs.write(long, 5, b"in a block"), lambda: fs.write(other, 0, b"of another file")] * 3
    host.call(fs.flusher.settle())
    assert not meanwhile
    host.call(fs.finish())
    fs = mount(media)
    assert fs.read(fs.resolve(b"/long"), 0, 100) == bytes(5) + b"in a block"
    assert fs.read(fs.resolve(b"/other"), 0, 100) == b"of another file"
    fs.close()
    assert_sound(media)


@pytest.mark.usefixtures("few_at_once")
def test_what_was_fsynced_outlives_the_groups_of_a_cut() -> None:
    twin = Recorded(7, WriteOptions(clock=Clock()))
    logged, long, longer = (twin.make(1, name, OBJTYPE_REGFILE) for name in (b"logged", b"long", b"longer"))
    old = contents(Random(1), 3 * MOST * BLOCK)
    twin.write(long, 0, old)
    twin.write(longer, 0, old)
    twin.sync()
    twin.record()
    twin.make(1, b"new", OBJTYPE_REGFILE)
    twin.sync()
    twin.write(logged, 0, b"promised")
    twin.fsync(logged)
    assert twin.fsynced
    assert twin.journal is not None
    begin = len(twin.journal.events)
    twin.truncate(long, 0)
    twin.truncate(longer, BLOCK + 1)
    twin.sync()
    assert twin.fs.flusher.flushes
    cuts = [n for n in range(begin, len(twin.journal.events)) if twin.journal.events[n - 1].kind != "mark"]
    assert len(cuts) > 20
    cuts = cuts[::3]
    for image in crash_images(twin.journal, crashes=(Crash.ORDERED, Crash.DROPPED, Crash.SECTORS), cuts=cuts):
        fs = mount(image.devices)
        found = {path: node.data for path, node in tree(fs).items()}
        fs.close()
        assert found[b"/logged"] == b"promised", str(image)
        assert found[b"/long"] in {old, b""}
        assert found[b"/longer"] in {old, old[: 2 * BLOCK], old[: BLOCK + 1]}
        assert_sound(image.devices, idle=False)


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("size", [0, 5 * BUFSIZE + 1])
def test_a_file_that_is_half_cut_is_shorter_and_nothing_behind_its_end_comes_back(size: int) -> None:
    twin = Recorded(7, WriteOptions(clock=Clock()))
    ino = twin.make(1, b"f", OBJTYPE_REGFILE)
    old = contents(Random(1), 5 * MOST * BUFSIZE)
    twin.write(ino, 0, old)
    twin.sync()
    twin.record()
    twin.truncate(ino, size)
    twin.sync()
    journal = twin.journal
    assert journal is not None
    sizes = set()
    for image in crash_images(journal, crashes=(Crash.ORDERED,), cuts=range(1, len(journal.events))):
        fs = mount(image.devices)
        inode = fs.resolve(b"/f")
        left = inode.size
        sizes.add(left)
        assert fs.read(inode, 0, left) == old[:left], str(image)
        fs.close()
        assert_sound(image.devices, idle=False)
        fs = mount(image.devices)
        fs.truncate(fs.resolve(b"/f"), len(old))
        fs.sync()
        assert fs.read(fs.resolve(b"/f"), 0, len(old)) == old[:left].ljust(len(old), b"\0"), str(image)
        fs.close()
    assert {size, len(old)} < sizes
    assert len(sizes) >= 4


def test_a_cut_that_needs_more_than_the_fifo_holds_loses_no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The range of the FIFO has to be dropped in between: what was logged in it is logged anew."""
    monkeypatch.setattr(backend, "MOST_REMOVED", 2)
    twin = Recorded(7, WriteOptions(clock=Clock()))
    logged, shorter = (twin.make(1, name, OBJTYPE_REGFILE) for name in (b"logged", b"shorter"))
    long = [twin.make(1, b"long%d" % n, OBJTYPE_REGFILE) for n in range(18)]
    old, promised = contents(Random(1), 62 * BUFSIZE), contents(Random(2), 1_600_000)
    for ino in (shorter, *long):
        twin.write(ino, 0, old)
    twin.sync()
    twin.record()
    twin.make(1, b"new", OBJTYPE_REGFILE)
    twin.sync()
    for beg in range(0, len(promised), 100_000):
        twin.write(logged, beg, promised[beg : beg + 100_000])
        twin.fsync(logged)
    twin.write(shorter, 100, b"kept")
    twin.write(shorter, 60 * BUFSIZE, b"cut off later")
    twin.fsync(shorter)
    assert len(twin.fsynced) == 2
    journal = twin.journal
    assert journal is not None
    begin = len(journal.events)
    twin.truncate(shorter, BUFSIZE)
    for ino in long:
        twin.truncate(ino, 0)
    twin.sync()
    twin.check_head()
    changed = old[:100] + b"kept" + old[104:]
    fsynced = changed[: 60 * BUFSIZE] + b"cut off later" + changed[60 * BUFSIZE + 13 :]
    cuts = [n for n in range(begin + 1, len(journal.events)) if journal.events[n - 1].kind != "mark"]
    gone = set()
    for image in crash_images(journal, crashes=(Crash.DROPPED,), cuts=[*cuts[200:-12:400], *cuts[-12::3]]):
        fs = mount(image.devices)
        found = {path: node.data for path, node in tree(fs).items()}
        fs.close()
        assert found[b"/logged"] == promised, str(image)
        assert len(found[b"/shorter"]) >= BUFSIZE
        assert fsynced.startswith(found[b"/shorter"]), str(image)
        assert all(old.startswith(found[b"/long%d" % n]) for n in range(len(long)))
        gone.add(sum(not found[b"/long%d" % n] for n in range(len(long))))
        assert_sound(image.devices, idle=False)
    assert len(gone) > 2, "not all of it was rolled back, or done, at once"


@pytest.mark.usefixtures("few_at_once")
def test_many_cut_files_are_not_cut_in_one_group() -> None:
    twin = Recorded(7, WriteOptions(clock=Clock()))
    inos = [twin.make(1, b"f%d" % n, OBJTYPE_REGFILE) for n in range(12)]
    for ino in inos:
        twin.write(ino, 0, contents(Random(ino), (MOST - 1) * BUFSIZE))
    twin.sync()
    twin.record()
    for ino in inos:
        twin.truncate(ino, 0)
    twin.sync()
    twin.check_head()
    twin.check_past(Random(1))
    assert twin.journal is not None
    assert twin.journal.flushes > 3 * len(inos) * (MOST - 1) // MOST
    twin.remount()
    twin.check_head()
    assert_sound(twin.media)


def test_groups_fit_the_fifo() -> None:
    """As many records as ever wait for one flush, each in a node of its own, need half of the smallest FIFO."""
    fs = mount(fresh(), WriteOptions(clock=Clock(), group_records=100_000))
    while not fs.changes.is_overfull:
        fs.changes.pending += 1
    assert 200 < fs.changes.pending <= fs.undo.size // 2 // (10 * UNDO_SECTOR)
    fs.close()
