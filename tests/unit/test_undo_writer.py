"""What the UNDO writer lays down is what the reader of the FIFO finds: any version, position, and cut."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hammerfs.const import (
    BIGBLOCK_SIZE,
    BUFSIZE,
    FIFO_TYPE_UNDO,
    OFF_LONG_MASK,
    UNDO_SECTOR,
    ZONE_BTREE,
    ZONE_FREEMAP,
    ZONE_META,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
    ZONE_UNDO,
)
from hammerfs.crc import CrcRule
from hammerfs.device.overlay import OverlayDevice
from hammerfs.ondisk.fifo import encode_dummy
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.recover import RecoveryScan, apply_undo, backward, scan_fifo
from hammerfs.undo import FIFO_BASE, FifoRecord, UndoFifo
from hammerfs.undo_writer import UndoWriter
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes
from tests.imagebuilder import ImageBuilder

VERSIONS = (1, 3, 4, 7)
UNDO_BLOCKS = 2
SIZE = UNDO_BLOCKS * BIGBLOCK_SIZE
SECTORS = SIZE // UNDO_SECTOR
_BASES: dict[int, OverlayDevice] = {}


def fresh(version: int) -> OverlayDevice:
    """A writable file system of its own over one built once; its FIFO's big-blocks do not follow each other."""
    if version not in _BASES:
        dev = ImageBuilder(version, undo_blocks=UNDO_BLOCKS).build()
        head = VolumeOndisk.decode(dev.pread(0, BUFSIZE))
        first, second = head.vol0_undo_array[:2]
        head.vol0_undo_array[:2] = [second, first]
        dev.pwrite(0, head.encode())
        rule = CrcRule(version)
        beg = head.vol_buf_beg + (first & OFF_LONG_MASK)
        seqs = [(i + SECTORS // 2) % SECTORS for i in range(SECTORS)]
        raw = b"".join([encode_dummy(seq if version >= 4 else 0, rule) for seq in seqs])
        dev.pwrite(beg, raw)
        _BASES[version] = dev
    return OverlayDevice(_BASES[version], owns_lower=False)


def set_range(dev: OverlayDevice, first: int, next_off: int) -> None:
    head = VolumeOndisk.decode(dev.pread(0, BUFSIZE))
    head.vol0_blockmap[ZONE_UNDO] = head.vol0_blockmap[ZONE_UNDO]._replace(first_offset=first, next_offset=next_off)
    dev.pwrite(0, head.encode())


@dataclass
class Session:
    """A FIFO whose append point starts at a sector of choice, and bytes of a free big-block that change under it."""

    version: int
    sector: int = 0
    seqno: int = 5_000_000
    dev: OverlayDevice = field(init=False)
    volumes: Volumes = field(init=False)
    writer: UndoWriter = field(init=False)

    def __post_init__(self) -> None:
        self.dev = fresh(self.version)
        start = FIFO_BASE + self.sector % SECTORS * UNDO_SECTOR
        set_range(self.dev, start, start)
        self.volumes = Volumes([self.dev])
        if self.version >= 4:
            before = FIFO_BASE + (self.sector - 1) % SECTORS * UNDO_SECTOR
            self.dev.pwrite(
                self.volumes.locate(before, UNDO_SECTOR)[1],
                encode_dummy((self.seqno - 1) % 2**32, self.volumes.rule),
            )
        self.reopen()
        self.block = (self.volumes.root.bigblocks - 1) * BIGBLOCK_SIZE

    def reopen(self) -> None:
        self.volumes = Volumes([self.dev])
        self.writer = UndoWriter.from_scan(self.volumes, self.scan()[1])

    def scan(self) -> tuple[UndoFifo, RecoveryScan]:
        fifo = UndoFifo(self.volumes)
        return fifo, scan_fifo(fifo, self.version)

    def change(self, at: int, data: bytes, zone: int = ZONE_META) -> None:
        """Save bytes of the last big-block, and change them on the media."""
        byte_off = self.volumes.root.buf_beg + self.block + at
        self.writer.save(zone << ZONE_SHIFT | self.block + at, self.dev.pread(byte_off, len(data)))
        self.dev.pwrite(byte_off, data)

    def flush(self) -> list[tuple[int, bytes]]:
        """Write what is dirty; returns it sector by sector."""
        sectors = []
        for volume, byte_off, pieces in self.writer.take_dirty():
            raw = b"".join(pieces)
            assert volume is self.volumes.root
            assert byte_off % UNDO_SECTOR == len(raw) % UNDO_SECTOR == 0 or self.volumes.root.buf_beg % UNDO_SECTOR
            sectors += [(byte_off + i, raw[i : i + UNDO_SECTOR]) for i in range(0, len(raw), UNDO_SECTOR)]
            volume.dev.pwritev(byte_off, pieces)
        if self.version < 4:
            set_range(self.dev, self.writer.durable_first, self.writer.next)
        return sectors

    def undo(self) -> RecoveryScan:
        """Roll back on the device, by what it holds."""
        self.volumes = Volumes([self.dev])
        fifo, scan = self.scan()

        def patch(volume: Volume, byte_off: int, saved: bytes) -> None:
            volume.dev.pwrite(byte_off, saved)

        apply_undo(self.volumes, fifo, scan, patch)
        return scan

    def state(self) -> bytes:
        return self.dev.pread(self.volumes.root.buf_beg + self.block, 8 * BUFSIZE) + self.dev.pread(0, BUFSIZE)


def records(fifo: UndoFifo, scan: RecoveryScan) -> list[FifoRecord]:
    return [rec for rec in backward(fifo, scan.last, scan.length) if not rec.is_pad][::-1]


def contents(found: list[FifoRecord]) -> list[object]:
    return [rec.undo() if rec.type == FIFO_TYPE_UNDO else rec.redo() for rec in found]


changes = st.tuples(
    st.integers(0, 8 * BUFSIZE - 1),
    st.one_of(st.integers(1, 40), st.just(16), st.just(32), st.integers(400, 600), st.just(4096), st.just(BUFSIZE)),
    st.integers(0, 255),
    st.sampled_from([ZONE_RAW_BUFFER, ZONE_FREEMAP, ZONE_BTREE, ZONE_META]),
)
seqnos = st.one_of(st.just(5_000_000), st.integers(2**32 - 60, 2**32 - 1), st.integers(2**30 - 60, 2**30))
sectors = st.one_of(
    st.integers(0, SECTORS - 1),
    st.integers(-40, 40),
    st.integers(-40, 40).map(lambda n: SECTORS // 2 + n),
)


@pytest.mark.parametrize("version", VERSIONS)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_undone_state_equals_the_state_before(version: int, data: st.DataObject) -> None:
    session = Session(version, data.draw(sectors), data.draw(seqnos))
    before = session.state()
    start = session.writer.next
    for _ in range(data.draw(st.integers(1, 3), label="spans")):
        session.writer.begin_span()
        for at, nbytes, value, zone in data.draw(st.lists(changes, max_size=12)):
            at = min(at, at & ~(BUFSIZE - 1) | BUFSIZE - nbytes)
            session.change(at, bytes([value]) * nbytes, zone)
        session.flush()
    end, seqno = session.writer.next, session.writer.seqno
    scan = session.undo()
    set_range(session.dev, start, start)
    assert session.state() == before
    if version >= 4:
        assert (scan.first, scan.next_seq) == (start, seqno)
        assert scan.length <= (end - start) % SIZE
    else:
        assert (scan.first, scan.last, seqno) == (start, end, 0)
