"""Power cuts at any moment of a recorded workload, and what must be there after recovery.

The recording notes, behind each call, what had been promised by then. After a cut the recovered tree must be
exactly the state of one of two moments: that of the newest flush before the cut (with fsynced contents laid over it),
or that which the call under way was flushing. Nothing in between is allowed, but for the bytes of a file whose fsync
was under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from hammerfs.changes import WriteOptions
from hammerfs.device.base import Device
from hammerfs.device.faulty import Crash, CrashImage, Journal, RecordingDevice, crash_images
from hammerfs.device.overlay import OverlayDevice
from tests.enginelab import Tree, assert_sound, different, fresh, mount, node_of, tree
from tests.fsmodel import State, Twin


@dataclass(frozen=True)
class Promise:
    """What had been promised when a call returned.

    Attributes:
        call: Number of the call.
        durable: State of the newest flush.
        fsynced: Contents of files logged since.
        history: How many TIDs had been promised.
    """

    call: int
    durable: State
    fsynced: dict[int, bytes]
    history: int


@dataclass(frozen=True)
class Fsyncing:
    """An fsync of a file with these contents begins."""

    ino: int
    data: bytes


class Recorded(Twin):
    """A twin whose devices are recorded from `record` on."""

    def __init__(self, version: int, options: WriteOptions, *, volumes: int = 1) -> None:
        self.journal: Journal | None = None
        self.states: list[State] = []
        super().__init__(fresh(version, volumes=volumes), options)

    def record(self, media: Sequence[Device] | None = None) -> None:
        """Close, open anew, and record from here on."""
        self.journal = None
        self.remount(media)
        self.journal = journal = Journal()
        self.states = []
        self.fs.close()
        journal.mark(Promise(-1, self.now, {}, len(self.history)))
        self.media = [RecordingDevice(device, journal) for device in self.media]
        self._opened(self.now)
        self.done()

    def done(self) -> None:
        super().done()
        if self.journal is not None:
            self.journal.mark(Promise(len(self.states), self.durable, dict(self.fsynced), len(self.history)))
            self.states.append(self.now.copy())

    def fsync(self, ino: int) -> None:
        if self.journal is not None:
            self.journal.mark(Fsyncing(ino, self.now.objs[ino].data))
        super().fsync(ino)


Workload = Callable[[Recorded, Random], None]
KINDS = tuple(Crash)


def cut_everywhere(
    twin: Recorded, seed: int, *, cuts: int | None = None, crashes: Sequence[Crash] = KINDS, nested: int = 0
) -> int:
    """Check what cuts of a recording leave; returns how many were checked.

    Args:
        twin: The recorded one.
        seed: Decides what is lost, and which cuts are checked when there are too many.
        cuts: About how many images to check at most; None: all.
        crashes: Kinds of cuts.
        nested: Check also, at one of so many cuts, cuts of the recovery and of what is written then; 0: at none.
    """
    journal, rng = twin.journal, Random(seed)
    assert journal is not None
    points = [n + 1 for n, event in enumerate(journal.events) if event.kind != "mark"]
    if cuts is not None and len(points) * len(crashes) > cuts:
        points = sorted(rng.sample(points, max(1, cuts // len(crashes))))
    checked = 0
    for image in crash_images(journal, seed=seed, crashes=crashes, cuts=[1, *points]):
        checked += 1
        try:
            if nested and checked % nested == 0:
                checked += _cut_again(twin, image, rng)
            else:
                _check(twin, image, rng)
        except Exception as err:
            err.add_note(f"seed {seed}, {image}")
            raise
    return checked


def _check(twin: Recorded, image: CrashImage, rng: Random) -> Tree:
    """Recover an image and compare it with what was promised; returns what is there."""
    fs = mount(image.devices, twin.options)
    try:
        got = tree(fs)
        _compare(twin, image.cut, got)
        promise = _newest(twin, image.cut)
        history = twin.history[: promise.history]
        for tid, state in rng.sample(history, min(2, len(history))):
            assert different(tree(fs, tid), state.tree()) == []
    finally:
        fs.close()
    assert_sound(image.devices, idle=rng.random() < 0.05)
    return got


def _cut_again(twin: Recorded, image: CrashImage, rng: Random) -> int:
    """Cuts of the recovery of an image, and of what is written then: nothing of what was recovered is lost."""
    before = [OverlayDevice(device, owns_lower=False) for device in image.devices]
    want = _check(twin, image, rng)
    journal = Journal()
    fs = mount([RecordingDevice(device, journal) for device in before], twin.options)
    assert different(tree(fs), want) == []
    wanted = [want]
    for name in (b"one", b"two"):
        inode = fs.create(fs.root(), name)
        fs.write(inode, 0, name)
        wanted.append({**wanted[-1], b"/" + name: node_of(fs, inode)})
        fs.sync()
        journal.mark(len(wanted) - 1)
    fs.close()
    points = [n + 1 for n, event in enumerate(journal.events) if event.kind != "mark"]
    checked = 0
    for again in crash_images(journal, seed=rng.randrange(1 << 30), crashes=(rng.choice(KINDS),), cuts=[0, *points]):
        checked += 1
        done = len(journal.marks(again.cut))
        fs = mount(again.devices, twin.options)
        got = tree(fs)
        fs.close()
        assert different(got, wanted[done]) == [] or different(got, wanted[min(done + 1, 2)]) == [], str(again)
        assert_sound(again.devices, idle=False)
    return checked


def _newest(twin: Recorded, cut: int) -> Promise:
    """What had been promised before a cut."""
    assert twin.journal is not None
    return next(note for note in reversed(twin.journal.marks(cut)) if isinstance(note, Promise))


def _compare(twin: Recorded, cut: int, got: Tree) -> None:
    """The tree is that of the newest flush, or that of the call under way."""
    assert twin.journal is not None
    promise = _newest(twin, cut)
    if promise.call + 1 < len(twin.states) and got == twin.states[promise.call + 1].tree():
        return
    state = promise.durable.with_contents(promise.fsynced)
    notes = twin.journal.marks(cut)
    if notes and isinstance(notes[-1], Fsyncing):
        state = with_part(state, notes[-1], got)
    state.bury(set())
    differences = different(got, state.tree())
    assert differences == [], differences[:5]


def with_part(state: State, fsyncing: Fsyncing, got: Tree) -> State:
    """With those bytes of a file that its fsync under way has brought; every other byte must be the old one."""
    old = state.objs.get(fsyncing.ino)
    if old is None:
        return state
    paths = [path for path, node in state.tree().items() if node == old.node and path in got]
    for path in paths:
        data, new = got[path].data, fsyncing.data
        before = old.data.ljust(len(data), b"\0")
        if len(old.data) <= len(data) <= len(new) and all(
            byte in {one, other} for byte, one, other in zip(data, before, new, strict=False)
        ):
            return state.with_contents({fsyncing.ino: data})
    return state
