"""A mount lets calls in while a flush is on its way to the media: they belong to the next one, and none is lost."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from hammerfs import backend
from hammerfs.changes import WriteOptions
from hammerfs.const import OBJTYPE_DIRECTORY, OBJTYPE_REGFILE
from hammerfs.device.faulty import Crash, Journal, RecordingDevice, crash_images
from hammerfs.filewrite import SetAttr
from hammerfs.fs import HammerFS
from hammerfs.rw import WritableFS
from kernelcore.host.up import UpHost
from tests.enginelab import Clock, abandon, assert_same, assert_sound, fresh, mount, plugged, tree
from tests.fsmodel import Twin, contents


class Mounted(Twin):
    """A twin whose file system has a host of its own, and makes calls while its flusher writes.

    Args:
        seed: Decides which.
        version: Of the volume.
    """

    def __init__(self, seed: int, version: int) -> None:
        self.journal: Journal | None = None
        super().__init__(fresh(version), WriteOptions(clock=Clock(), group_records=40))
        self.rng = Random(seed)
        self.between = 0
        self.is_ending = False
        below = self.make(1, b"dir", OBJTYPE_DIRECTORY)
        for n in range(8):
            self.write(self.make(below, b"f%d" % n, OBJTYPE_REGFILE), 0, contents(self.rng, 60_000 * n))
        self.places = [1, below]
        self.remount()
        self.fs.close()
        self.journal = Journal()
        self.media = [RecordingDevice(device, self.journal) for device in self.media]
        self.states = [self.now.copy()]
        self.journal.mark(0)
        self.host = UpHost(name="mounted")
        self.fs = WritableFS(plugged(self.media), self.options, host=self.host, submit=self._submit)
        self.host.call(self.fs.start())

    def done(self) -> None:
        super().done()
        if self.journal is not None:
            self.states.append(self.now.copy())

    async def _submit(self, call: Callable[..., Any], *args: Any) -> Any:
        if self.rng.random() < 0.5 and not self.is_ending:
            self.between += 1
            self.change()
        return call(*args)

    def change(self) -> None:
        """Some call."""
        rng, directory = self.rng, self.rng.choice(self.places)
        names = [name for name, ino in self.now.objs[directory].entries.items() if ino not in self.places]
        name = b"f%d" % rng.randrange(12)
        kind = rng.randrange(9)
        if not names or kind == 0:
            if name not in self.now.objs[directory].entries:
                self.make(directory, name, OBJTYPE_REGFILE)
            return
        ino = self.now.objs[directory].entries[rng.choice(names)]
        size = len(self.now.objs[ino].data)
        if kind == 1:
            self.remove(directory, rng.choice(names))
        elif kind == 2:
            self.rename(directory, rng.choice(names), rng.choice(self.places), name)
        elif kind == 3:
            self.truncate(ino, rng.choice([0, size // 2, size + 9000]))
        elif kind == 4:
            self.setattr(ino, SetAttr(mode=rng.randrange(0o1000)))
        elif kind == 5 and ino in self.held:
            self.release(ino)
        elif kind == 5:
            self.hold(ino)
        else:
            self.write(ino, rng.choice([0, size, size // 2, 16384]), contents(rng, rng.choice([10, 9000, 140_000])))

    def flush(self, *, fsync: bool) -> None:
        """Flush, or fsync something."""
        files = [ino for ino, obj in self.now.objs.items() if obj.is_file]
        if fsync and files:
            self.host.call(self.fs.flusher.fsync(self.inode(self.rng.choice(files))))
        else:
            promised = len(self.states) - 1
            self.host.call(self.fs.flusher.settle())
            assert self.journal is not None
            self.journal.mark(promised)

    def end(self) -> None:
        """Close everything."""
        for ino in list(self.held):
            self.release(ino)
        self.is_ending = True
        self.host.call(self.fs.finish())
        HammerFS.close(self.fs)


@pytest.mark.parametrize("version", [7, 3])
@pytest.mark.parametrize("seed", range(8))
def test_calls_between_the_steps_of_a_commit(seed: int, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "MOST_REMOVED", 6)
    twin = Mounted(seed, version)
    for _ in range(25):
        for _ in range(twin.rng.randrange(6)):
            twin.change()
        twin.flush(fsync=twin.rng.random() < 0.4)
        assert twin.fs.changes.failed is None
        twin.check_head()
    assert twin.between > 20
    twin.end()
    fs = mount(twin.media)
    assert_same(tree(fs), twin.now.tree())
    abandon(fs)
    assert_sound(twin.media)


@pytest.mark.parametrize("version", [7, 3])
def test_cuts_while_calls_come_in(version: int) -> None:
    """What is recovered is the state behind one call: not before the newest promise, and nothing half-done."""
    twin = Mounted(100, version)
    for _ in range(12):
        for _ in range(twin.rng.randrange(6)):
            twin.change()
        twin.flush(fsync=False)
    journal = twin.journal
    assert journal is not None
    cuts = [n + 1 for n, event in enumerate(journal.events) if event.kind != "mark"][::3]
    checked = 0
    for image in crash_images(journal, seed=version, crashes=(Crash.DROPPED, Crash.SECTORS, Crash.ORDERED), cuts=cuts):
        checked += 1
        fs = mount(image.devices)
        got = tree(fs)
        fs.close()
        promised = max(note for note in journal.marks(image.cut) if isinstance(note, int))
        assert any(got == state.tree() for state in twin.states[promised:]), str(image)
        assert_sound(image.devices, idle=False)
    assert checked > 50
    abandon(twin.fs)
