"""Devices that fail on purpose: recorded writes, power cuts, errors, torn and lost writes, flipped bits.

What a power cut may leave is computed, not simulated in time. A `Journal` holds every write and flush of a volume
set in the order they were made; `crash_images` walks through it and yields, for each point, volume sets as a cut at
that point may leave them. A write is durable for certain when its device has finished a flush that began after it.
Until then the media may hold all of it, none, or some of its 512-byte sectors, in any order among the unflushed ones:
`Crash` names how much of this freedom is used.

    journal = Journal()
    devices = [RecordingDevice(base, journal) for base in bases]
    ... run the file system on `devices`, call journal.mark("synced") where a promise was made ...
    for image in crash_images(journal, seed=1):
        ... open image.devices, recover, compare with what had been promised at image.cut ...
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from hammerfs.device.base import Buffer, Device
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import DeviceError

TEAR = 512
"""Bytes that reach the media as one: a sector is never torn itself."""


class Event(NamedTuple):
    """One thing that happened to a volume set.

    Attributes:
        kind: "write", "flush" or "mark".
        device: Index of the device in the set; -1 for a mark.
        off: Byte offset of a write.
        data: Bytes of a write.
        note: What the test said in a mark.
    """

    kind: str
    device: int
    off: int = 0
    data: bytes = b""
    note: object = None


class Journal:
    """What happened to the devices of one volume set, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.bases: list[Device] = []

    def mark(self, note: object) -> None:
        """Note a promise (or anything else) at this point of the order."""
        self.events.append(Event("mark", -1, note=note))

    def marks(self, cut: int) -> list[object]:
        """The notes made before a cut after `cut` events, oldest first."""
        return [event.note for event in self.events[:cut] if event.kind == "mark"]

    @property
    def writes(self) -> int:
        """Number of writes so far."""
        return sum(event.kind == "write" for event in self.events)

    @property
    def flushes(self) -> int:
        """Number of flushes so far."""
        return sum(event.kind == "flush" for event in self.events)


class RecordingDevice(OverlayDevice):
    """Records every write and flush; the device below stays as it was, so that cuts can be made from it.

    Args:
        base: The state before the first recorded write. It is never written to, nor closed.
        journal: Where to record; one journal for all devices of a set.
    """

    def __init__(self, base: Device, journal: Journal) -> None:
        super().__init__(base, owns_lower=False)
        self.journal = journal
        self.index = len(journal.bases)
        journal.bases.append(base)

    def _pwritev(self, off: int, buffers: Sequence[Buffer], n: int) -> None:
        data = b"".join(buffers)
        self.journal.events.append(Event("write", self.index, off, data))
        super()._pwritev(off, (data,), n)

    def _flush(self) -> None:
        self.journal.events.append(Event("flush", self.index))


class Crash(enum.Enum):
    """What a power cut does to the writes that no flush had made durable yet."""

    ORDERED = "all of them reached the media, up to the cut"
    TORN = "all reached the media, but of the last one only some sectors"
    DROPPED = "some are lost, the others reached the media in order"
    REORDERED = "they were being written in another order, and some had not been begun"
    SECTORS = "each sector holds its old bytes or those of any unflushed write to it"


@dataclass(frozen=True)
class CrashImage:
    """A volume set as a power cut may leave it; valid until the next one is asked for.

    Attributes:
        cut: The cut came after this many events of the journal.
        crash: What was done to unflushed writes.
        unflushed: How many writes were at risk.
        devices: The set, writable, in memory over the base; closing them is not needed.
    """

    cut: int
    crash: Crash
    unflushed: int
    devices: list[OverlayDevice]

    def __str__(self) -> str:
        return f"cut after event {self.cut}, {self.unflushed} writes unflushed: {self.crash.value}"


def crash_images(
    journal: Journal,
    *,
    seed: int = 0,
    crashes: Sequence[Crash] = tuple(Crash),
    cuts: Sequence[int] | None = None,
) -> Iterator[CrashImage]:
    """Yield what power cuts may leave of a recorded volume set.

    Args:
        journal: The recording.
        seed: Decides which writes and sectors are lost; equal seeds give equal images.
        crashes: Kinds wanted; one image for each of them at each cut. Those but ORDERED are left out where no write is
            at risk, since they would give the same image.
        cuts: Wanted cuts: numbers of events, ascending; by default one before the first event and one after each write
            and flush.
    """
    wanted = set(cuts) if cuts is not None else None
    media = [OverlayDevice(base, owns_lower=False, granule=TEAR) for base in journal.bases]
    unflushed: list[Event] = []
    for cut in range(len(journal.events) + 1):
        event = journal.events[cut - 1] if cut else None
        if event is not None and event.kind == "write":
            unflushed.append(event)
        elif event is not None and event.kind == "flush":
            for write in unflushed:
                if write.device == event.device:
                    media[write.device].pwrite(write.off, write.data)
            unflushed = [write for write in unflushed if write.device != event.device]
        if (cut not in wanted) if wanted is not None else (event is not None and event.kind == "mark"):
            continue
        for crash in crashes:
            if crash is Crash.ORDERED or unflushed:
                rng = Random(f"{seed}/{cut}/{crash.name}")
                yield CrashImage(cut, crash, len(unflushed), _cut(media, unflushed, crash, rng))


def _cut(media: list[OverlayDevice], unflushed: list[Event], crash: Crash, rng: Random) -> list[OverlayDevice]:
    devices = [OverlayDevice(device, owns_lower=False, granule=TEAR) for device in media]
    for write in _survivors(unflushed, crash, rng):
        devices[write.device].pwrite(write.off, write.data)
    return devices


def _survivors(unflushed: list[Event], crash: Crash, rng: Random) -> Iterator[Event]:
    """What of the unflushed writes reached the media, in the order in which it did."""
    if crash is Crash.ORDERED:
        yield from unflushed
    elif crash is Crash.TORN:
        yield from unflushed[:-1]
        yield from (sector for sector in _sectors(unflushed[-1]) if rng.random() < 0.5)
    elif crash is Crash.DROPPED:
        yield from (write for write in unflushed if rng.random() < 0.5)
    elif crash is Crash.REORDERED:
        yield from rng.sample(unflushed, rng.randint(0, len(unflushed)))
    else:
        sectors = [sector for write in unflushed for sector in _sectors(write) if rng.random() < 0.6]
        rng.shuffle(sectors)
        yield from sectors


def _sectors(write: Event) -> Iterator[Event]:
    """The write cut at sector boundaries of the device."""
    done = 0
    while done < len(write.data):
        take = TEAR - (write.off + done) % TEAR
        yield Event("write", write.device, write.off + done, write.data[done : done + take])
        done += take


@dataclass
class Faults:
    """What goes wrong, counted from 1; empty means nothing does.

    Attributes:
        reads: Reads that fail.
        writes: Writes that fail before anything reached the media.
        short_writes: Write -> bytes that reach the media before it fails.
        flushes: Flushes that fail; what was unflushed stays in the device's cache.
        bad: (begin, end) ranges that can't be read.
        flips: Byte offset -> bits flipped in what is read there (the media keeps the right bytes).
        power_off_after: Number of writes after which nothing works any more.
        errno: Number that failing calls report.
    """

    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    short_writes: dict[int, int] = field(default_factory=dict)
    flushes: set[int] = field(default_factory=set)
    bad: list[tuple[int, int]] = field(default_factory=list)
    flips: Mapping[int, int] = field(default_factory=dict)
    power_off_after: int | None = None
    errno: int = errno.EIO


@dataclass
class Counts:
    """What a device was asked for.

    Attributes:
        reads: Read calls that stayed inside the device.
        bytes_read: Bytes of them.
        writes: Write calls.
        bytes_written: Bytes of them.
        flushes: Flush calls.
        outside: Accesses that would have left the device.
    """

    reads: int = 0
    bytes_read: int = 0
    writes: int = 0
    bytes_written: int = 0
    flushes: int = 0
    outside: int = 0


class FaultyDevice(Device):
    """Counts all accesses to the device below and fails those it is told to.

    Args:
        lower: The device; this one owns it.
        faults: What goes wrong; may be changed at any time.
    """

    def __init__(self, lower: Device, faults: Faults | None = None) -> None:
        super().__init__(lower.name, lower.size, readonly=lower.readonly, sector=lower.sector)
        self.lower = lower
        self.faults = faults or Faults()
        self.counts = Counts()

    @property
    def is_off(self) -> bool:
        """Whether the power has been cut."""
        limit = self.faults.power_off_after
        return limit is not None and self.counts.writes >= limit

    def _check(self, off: int, n: int) -> None:
        if off < 0 or n < 0 or off + n > self.size:
            self.counts.outside += 1
        super()._check(off, n)

    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        self._before_read(off, n)
        self.lower.preadv(off, views)
        self._flip(off, views)

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        if self.lower.preadv_nowait(off, views) is None:
            return False
        self._before_read(off, n)
        self._flip(off, views)
        return True

    def _pwritev(self, off: int, buffers: Sequence[Buffer], n: int) -> None:
        self._need_power(off)
        self.counts.writes += 1
        self.counts.bytes_written += n
        number = self.counts.writes
        if number in self.faults.writes:
            raise self._error(f"write {number} failed", off)
        short = self.faults.short_writes.get(number)
        if short is not None:
            self.lower.pwrite(off, b"".join(buffers)[:short])
            raise self._error(f"write {number} failed after {min(short, n)} of {n} bytes", off)
        self.lower.pwritev(off, buffers)

    def _flush(self) -> None:
        self._need_power(None)
        self.counts.flushes += 1
        if self.counts.flushes in self.faults.flushes:
            raise self._error(f"flush {self.counts.flushes} failed", None)
        self.lower.flush()

    def _discard(self, off: int, n: int) -> bool:
        self._need_power(off)
        return self.lower.discard(off, n)

    def _extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        return self.lower.extents(begin, end - begin)

    def _close(self) -> None:
        self.lower.close()

    def _before_read(self, off: int, n: int) -> None:
        self._need_power(off)
        self.counts.reads += 1
        self.counts.bytes_read += n
        if self.counts.reads in self.faults.reads:
            raise self._error(f"read {self.counts.reads} failed", off)
        for begin, end in self.faults.bad:
            if off < end and off + n > begin:
                raise self._error("unreadable sector", max(off, begin))

    def _flip(self, off: int, views: Sequence[memoryview]) -> None:
        for at, mask in self.faults.flips.items():
            begin = off
            for view in views:
                if begin <= at < begin + view.nbytes:
                    flat = view.cast("B")
                    flat[at - begin] ^= mask & 0xFF
                begin += view.nbytes

    def _need_power(self, off: int | None) -> None:
        if self.is_off:
            raise self._error("power is off", off)

    def _error(self, what: str, off: int | None) -> DeviceError:
        error = DeviceError(what, volume=self.name, offset=off)
        error.errno = self.faults.errno
        return error
