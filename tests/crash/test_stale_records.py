"""Records that a power cut left behind the end of the FIFO's active range never come back to life.

A cut may lose the first sectors of a write to the FIFO and leave the others. The range ends before them, but their
numbers go on from its end. Once later records have filled the gap, such a tail would follow them, and undo what had
been committed meanwhile.
"""

from __future__ import annotations

import pytest

from hammerfs import flusher
from hammerfs.changes import WriteOptions
from hammerfs.const import BUFMASK, BUFSIZE, OBJTYPE_REGFILE, UNDO_SECTOR, ZONE_RAW_VOLUME, ZONE_SHIFT
from hammerfs.device.faulty import Crash, Journal, RecordingDevice, crash_images
from hammerfs.device.overlay import OverlayDevice
from hammerfs.fs import HammerFS
from hammerfs.ondisk.volume import FIELD_OFFSETS
from hammerfs.recover import SMALLEST_RECORD
from hammerfs.undo_writer import UndoWriter
from hammerfs.volumes import Volumes
from tests.crash.cuts import Recorded
from tests.enginelab import FIFO, Clock, abandon, assert_sound, fresh, mount, plugged, tree


def plant(media: OverlayDevice, number: int, off: int) -> None:
    """The tail of an interrupted write, from a buffer on: a record that takes the root of the tree back."""
    volumes = Volumes(plugged([media]))
    writer = UndoWriter(volumes, first=off, next_off=off, seqno=number)
    writer.save(ZONE_RAW_VOLUME << ZONE_SHIFT | FIELD_OFFSETS["vol0_btree_root"], bytes(8))
    for volume, byte_off, pieces in writer.take_dirty():
        volume.dev.pwritev(byte_off, pieces)


@pytest.mark.parametrize("version", [4, 7])
def test_the_tail_of_an_interrupted_write_is_not_undone(version: int) -> None:
    (media,) = fresh(version)
    options = WriteOptions(clock=Clock())
    fs = mount([media], options)
    fs.create(fs.root(), b"old")
    fs.sync()
    number = fs.undo.seqno
    abandon(fs)
    fs = mount([media], options)
    count = 0
    while fs.undo.next & BUFMASK <= BUFSIZE - UNDO_SECTOR:
        fs.create(fs.root(), b"new%d" % count)
        fs.sync()
        count += 1
    want = tree(fs)
    tail = min(fs.undo.seqno, number + FIFO // SMALLEST_RECORD)  # an interrupted write holds no more
    abandon(fs)
    plant(media, tail, (fs.undo.next | BUFMASK) + 1)
    with HammerFS(plugged([media])) as reader:
        assert reader.recovery is not None
        assert not reader.recovery.is_dirty
        assert tree(reader) == want
    assert_sound([media])


def test_logged_operations_that_do_not_fit_twice_go_with_the_first_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The FIFO is too full to tell them again behind the jump: that is the second commit's then."""
    twin = Recorded(7, WriteOptions(clock=Clock()))
    ino = twin.make(1, b"logged", OBJTYPE_REGFILE)
    twin.sync()
    twin.write(ino, 0, b"promised")
    twin.fsync(ino)
    assert twin.fsynced
    monkeypatch.setattr(flusher, "UNDO_SECTOR", FIFO)
    abandon(twin.fs)
    journal = Journal()
    fs = mount([RecordingDevice(twin.media[0], journal)], twin.options)
    monkeypatch.undo()
    number = fs.undo.seqno
    assert number - twin.fs.undo.seqno < 200
    fs.create(fs.root(), b"next")
    fs.sync()
    assert fs.undo.seqno > number + FIFO // SMALLEST_RECORD
    abandon(fs)
    checked = 0
    for image in crash_images(journal, crashes=(Crash.ORDERED, Crash.SECTORS)):
        checked += 1
        fs = mount(image.devices, twin.options)
        assert fs.read(fs.resolve(b"/logged"), 0, 100) == b"promised", str(image)
        fs.close()
        assert_sound(image.devices, idle=False)
    assert checked > 10


def test_a_torn_header_is_whole_again_after_a_mount() -> None:
    """Of the first header ever written only the first sector is there: checksums in it are of the whole."""
    (media,) = fresh()
    journal = Journal()
    fs = mount([RecordingDevice(media, journal)], WriteOptions(clock=Clock()))
    fs.create(fs.root(), b"new")
    fs.sync()
    abandon(fs)
    for event in journal.events:
        if event.kind == "write":
            media.pwrite(event.off, event.data if event.off else event.data[:UNDO_SECTOR])
            if not event.off:
                break
    mount([media]).close()
    assert_sound([media])
