"""What the UNDO writer lays down is what the reader of the FIFO finds: any version, position, and cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hammerfs.const import (
    BIGBLOCK_SIZE,
    BUFSIZE,
    FIFO_SEQ_PREFORMAT,
    FIFO_TYPE_DUMMY,
    FIFO_TYPE_REDO,
    FIFO_TYPE_UNDO,
    NODE_SIZE,
    OFF_LONG_MASK,
    REDO_SYNC,
    REDO_TERM_WRITE,
    REDO_TRUNC,
    REDO_WRITE,
    UNDO_SECTOR,
    ZONE_BTREE,
    ZONE_FREEMAP,
    ZONE_META,
    ZONE_RAW_BUFFER,
    ZONE_RAW_VOLUME,
    ZONE_SHIFT,
    ZONE_UNDO,
)
from hammerfs.crc import CrcRule
from hammerfs.device.faulty import FaultyDevice
from hammerfs.device.open import open_devices
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import FifoFull, InvalidError
from hammerfs.ondisk.fifo import RedoRecord, UndoRecord, encode_dummy
from hammerfs.ondisk.volume import FIELD_OFFSETS, VolumeOndisk
from hammerfs.recover import RecoveryScan, apply_undo, backward, scan_fifo
from hammerfs.redo import operations
from hammerfs.undo import FIFO_BASE, FifoRecord, UndoFifo
from hammerfs.undo_writer import RESERVE, UndoWriter
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes
from tests.golden import GoldenStore, golden_names
from tests.imagebuilder import ImageBuilder

VERSIONS = (1, 3, 4, 7)
UNDO_BLOCKS = 2
SIZE = UNDO_BLOCKS * BIGBLOCK_SIZE
SECTORS = SIZE // UNDO_SECTOR
OLD_SEQ = 0x60000000
"""Numbers of the last lap begin here: no test comes near."""
WHOLE_SECTOR = 472
"""Bytes of an UNDO record that fills a sector."""
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
        seqs = [OLD_SEQ + (i + SECTORS // 2) % SECTORS if version >= 4 else 0 for i in range(SECTORS)]
        dev.pwrite(beg, b"".join([encode_dummy(seq, rule) for seq in seqs]))
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

    def flush(self) -> None:
        """Write what is dirty, and below version 4 the range."""
        for off, raw in self.take():
            self.dev.pwrite(off, raw)
        if self.version < 4:
            set_range(self.dev, self.writer.durable_first, self.writer.next)

    def take(self) -> list[tuple[int, bytes]]:
        """What is dirty, sector by sector."""
        laid = []
        for volume, byte_off, pieces in self.writer.take_dirty():
            raw = b"".join(pieces)
            assert volume is self.volumes.root
            assert byte_off % UNDO_SECTOR == len(raw) % UNDO_SECTOR == 0
            laid += [(byte_off + i, raw[i : i + UNDO_SECTOR]) for i in range(0, len(raw), UNDO_SECTOR)]
        return laid

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
        if data.draw(st.booleans(), label="the session ends, the next one goes on in its range"):
            session.reopen()
    end, seqno = session.writer.next, session.writer.seqno
    scan = session.undo()
    assert all(rec.undo().data for rec in records(UndoFifo(session.volumes), scan))
    set_range(session.dev, start, start)
    assert session.state() == before
    if version >= 4:
        assert (scan.first, scan.next_seq) == (start, seqno)
        assert scan.length <= (end - start) % SIZE
    else:
        assert (scan.first, scan.last, seqno) == (start, end, 0)


def redo(flags: int, data: bytes = b"", *, offset: int = 0, data_bytes: int | None = None) -> RedoRecord:
    return RedoRecord(0x100000400, offset, len(data) if data_bytes is None else data_bytes, flags, 1 << 16, 77, data)


redos = st.one_of(
    st.builds(lambda n, o: redo(REDO_WRITE, bytes([n & 255]) * n, offset=o), st.integers(0, 3000), st.integers(0, 9)),
    st.builds(lambda o: redo(REDO_TRUNC, offset=o), st.integers(0, 2**40)),
    st.builds(lambda o: redo(REDO_TERM_WRITE, offset=o, data_bytes=65536), st.integers(0, 2**40)),
)


@pytest.mark.parametrize("version", [4, 7])
@given(sectors, seqnos, st.lists(redos, min_size=1, max_size=12), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_redo_is_read_back(version: int, sector: int, seqno: int, ops: list[RedoRecord], sync_at: int) -> None:
    """WRITEs cut into records make up the same bytes, the others come as they went; SYNC names the oldest."""
    session = Session(version, sector, seqno)
    oldest = None
    for i, op in enumerate(ops):
        at = session.writer.log_redo(op)
        oldest = at if oldest is None else oldest
        if i == sync_at:
            session.writer.log_sync(oldest)
            session.change(0, b"x" * 700)
    session.flush()
    session.volumes = Volumes([session.dev])
    fifo, scan = session.scan()
    found = [rec.redo() for rec in records(fifo, scan) if rec.type == FIFO_TYPE_REDO]
    found = [rec for rec in found if rec.flags != REDO_SYNC]
    assert scan.first == oldest
    check_operations(found, ops)
    summary = apply_undo(session.volumes, fifo, scan, lambda volume, byte_off, saved: None)
    if sync_at < len(ops):
        assert summary.redo_from == oldest
        assert list(operations(fifo, scan, oldest)) == [op for op in found if op.flags != REDO_TERM_WRITE]
    else:
        assert summary.redo_from is None


def check_operations(found: list[RedoRecord], ops: list[RedoRecord]) -> None:
    left = iter(found)
    for op in ops:
        rec = next(left)
        if op.flags != REDO_WRITE:
            assert rec == op
            continue
        data = rec.data
        assert rec == op._replace(data=data, data_bytes=len(data))
        while len(data) < len(op.data):
            rec = next(left)
            assert rec == op._replace(data=rec.data, data_bytes=len(rec.data), offset=op.offset + len(data))
            assert rec.data
            data += rec.data
        assert data == op.data
    assert next(left, None) is None


small_changes = st.lists(changes, max_size=4)


def make(session: Session, wanted: list[tuple[int, int, int, int]]) -> None:
    session.writer.begin_span()
    for at, nbytes, value, zone in wanted:
        at = min(at, at & ~(BUFSIZE - 1) | BUFSIZE - nbytes)
        session.change(at, bytes([value]) * nbytes, zone)


@pytest.mark.parametrize("version", [4, 7])
@given(sectors, seqnos, small_changes, small_changes, st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_what_a_cut_leaves_is_a_prefix(
    version: int,
    sector: int,
    seqno: int,
    durable: list[tuple[int, int, int, int]],
    newest: list[tuple[int, int, int, int]],
    rng: Random,
) -> None:
    """Sectors of the newest buffers reach the media up to any one, or any of them: what is found is what came first."""
    session = Session(version, sector, seqno)
    make(session, durable)
    session.flush()
    kept = contents(records(*session.scan()))
    before = OverlayDevice(session.dev, owns_lower=False)
    make(session, newest)
    laid = session.take()
    whole = contents(records(*scan_of(before, laid)))
    assert len(whole) >= len(kept)
    for cut in range(len(laid)):
        for some in (laid[:cut], rng.sample(laid, cut)):
            found = contents(records(*scan_of(before, some)))
            assert found == whole[: len(found)]
            assert len(found) >= len(kept)


def scan_of(dev: OverlayDevice, written: list[tuple[int, bytes]]) -> tuple[UndoFifo, RecoveryScan]:
    """What recovery sees when these sectors have been written over a device."""
    media = OverlayDevice(dev, owns_lower=False)
    for off, raw in written:
        media.pwrite(off, raw)
    volumes = Volumes([media])
    fifo = UndoFifo(volumes)
    return fifo, scan_fifo(fifo, volumes.version)


@pytest.mark.parametrize("version", [3, 7])
@given(sectors, seqnos, st.integers(2, 70), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_remains_of_a_lost_flush_never_follow_a_new_one(
    version: int, sector: int, seqno: int, count: int, rng: Random
) -> None:
    """A cut leaves later sectors without earlier ones; the next session lays down as many records as had been there."""
    session, lost = lose_sectors(version, sector, seqno, count, rng.randint(1, count))
    session.writer.restart()
    for _ in range(lost + 34):
        session.flush()
        end = session.writer.first = session.writer.durable_first = session.writer.next
        set_range(session.dev, end, end)
        assert not scan_of(session.dev, [])[1].is_dirty
        make(session, [(0, WHOLE_SECTOR, 1, ZONE_META)])


def test_remains_in_the_same_buffer_never_follow_the_commit_of_a_recovery() -> None:
    for count in range(2, 30):
        session, _ = lose_sectors(7, 33, 5_000_000, count, 1)
        make(session, [(0, WHOLE_SECTOR, 1, ZONE_META)])
        session.flush()
        assert len(records(*scan_of(session.dev, []))) == 1


def lose_sectors(version: int, sector: int, seqno: int, count: int, cut: int) -> tuple[Session, int]:
    """`count` sectors of records were laid down, the first `cut` of them were not written; recovered since."""
    session = Session(version, sector, seqno)
    make(session, [(i * 512, WHOLE_SECTOR, i, ZONE_META) for i in range(count)])
    laid = session.take()
    for off, raw in laid[cut:]:
        session.dev.pwrite(off, raw)
    assert not session.undo().is_dirty
    session.reopen()
    return session, len(laid)


def test_saved_once_in_a_span() -> None:
    writer = Session(7).writer
    off = ZONE_BTREE << ZONE_SHIFT | 4 * BIGBLOCK_SIZE
    steps = []
    for nbytes in (32, 16, 32, 48):
        before = writer.next
        writer.save(off, bytes(nbytes))
        steps.append((writer.next - before) % SIZE)
    assert steps == [72, 0, 0, 88]
    assert writer.span == 0
    writer.begin_span()
    assert writer.span == 1
    before = writer.next
    writer.save(off & OFF_LONG_MASK | ZONE_RAW_BUFFER << ZONE_SHIFT, memoryview(bytes(16)))
    writer.save(off, bytes(16))
    assert writer.next - before == 56


def test_an_undo_stays_inside_a_buffer() -> None:
    writer = Session(7).writer
    with pytest.raises(InvalidError, match="crosses the end of a buffer"):
        writer.save(ZONE_META << ZONE_SHIFT | BUFSIZE - 8, bytes(16))


@pytest.mark.parametrize("version", VERSIONS)
def test_header_fields(version: int) -> None:
    session = Session(version)
    head = session.volumes.superblock
    before = session.dev.pread(0, BUFSIZE)
    for name, value in (
        ("vol_count", 1),
        ("vol_version", version),
        ("vol0_stat_bigblocks", -1),
        ("vol0_stat_freebigblocks", 7),
        ("vol0_stat_inodes", 1 << 40),
        ("vol0_btree_root", 8 << 60 | 5),
    ):
        session.writer.save_field(name)
        setattr(head, name, value)
    session.writer.save_field("vol0_blockmap")
    head.vol0_blockmap[ZONE_META] = head.vol0_blockmap[ZONE_META]._replace(next_offset=3, entry_crc=4)
    session.dev.pwrite(0, head.encode())
    session.flush()
    session.volumes = Volumes([session.dev])
    fifo, scan = session.scan()
    saved = {undo.undo_offset: len(undo.data) for undo in (rec.undo() for rec in records(fifo, scan))}
    assert {off >> ZONE_SHIFT for off in saved} == {ZONE_RAW_VOLUME}
    by_field = {off & OFF_LONG_MASK: nbytes for off, nbytes in saved.items()}
    assert by_field[FIELD_OFFSETS["vol_count"]] == by_field[FIELD_OFFSETS["vol_version"]] == 4
    assert by_field[FIELD_OFFSETS["vol0_btree_root"]] == 8
    beg = FIELD_OFFSETS["vol0_blockmap"]
    assert sum(nbytes for off, nbytes in by_field.items() if off >= beg) == 640
    session.undo()
    set_range(session.dev, scan.first, scan.first)
    assert session.dev.pread(0, BUFSIZE) == before


@pytest.mark.parametrize("version", [3, 7])
def test_full(version: int) -> None:
    """It stops before its reserve, whatever is laid down; what does not fit leaves no trace; a moved start frees it."""
    session = Session(version, 77)
    writer = session.writer
    old = bytes(NODE_SIZE)
    node = 0
    with pytest.raises(FifoFull, match="UNDO FIFO has"):
        while True:
            writer.save(ZONE_BTREE << ZONE_SHIFT | node * NODE_SIZE, old)
            node += 1
    assert 0 <= writer.free_bytes < 11 * UNDO_SECTOR
    laid = (writer.next - writer.durable_first) % SIZE
    assert laid + writer.free_bytes == SIZE - RESERVE
    assert node > SIZE / (NODE_SIZE * 1.15)
    where = writer.next, writer.seqno
    with pytest.raises(FifoFull):
        writer.log_redo(redo(REDO_WRITE, bytes(8192)))
    assert where == (writer.next, writer.seqno)
    session.flush()
    assert session.scan()[1].length == laid or version < 4
    writer.durable_first = writer.next
    assert writer.free_bytes == SIZE - RESERVE
    writer.save(ZONE_BTREE << ZONE_SHIFT | node * NODE_SIZE, old)


def test_what_is_written_and_when() -> None:
    session = Session(7, SECTORS // 2 - 64)
    writer = session.writer
    assert writer.take_dirty() == []
    base = session.volumes.root.buf_beg
    for node in range(9):
        writer.save(ZONE_BTREE << ZONE_SHIFT | node * NODE_SIZE, bytes(NODE_SIZE))
    runs = writer.take_dirty()
    assert [sum(len(piece) for piece in pieces) for _, _, pieces in runs] == [2 * BUFSIZE, BUFSIZE]
    assert [(off - base) % BUFSIZE for _, off, _ in runs] == [0, 0]
    last = runs[-1][2][-1]
    copy = bytes(last)
    assert writer.take_dirty() == []
    writer.save(ZONE_META << ZONE_SHIFT | BIGBLOCK_SIZE, bytes(16))
    assert bytes(last) == copy
    ((_, off, pieces),) = writer.take_dirty()
    assert off == runs[-1][1] + (writer.next - 56 & ~(UNDO_SECTOR - 1) & (BUFSIZE - 1))
    assert len(b"".join(pieces)) == UNDO_SECTOR


@pytest.mark.parametrize("version", VERSIONS)
def test_every_sector_can_be_walked(version: int) -> None:
    """A buffer that is entered is formatted with numbers far away, or 0 below version 4."""
    session = Session(version, 0, 1000)
    session.change(0, bytes(5000))
    session.flush()
    fifo, _ = session.scan()
    found = list(fifo.walk())
    assert all(isinstance(rec, FifoRecord) for rec in found)
    entered = [rec for rec in found if isinstance(rec, FifoRecord) and rec.off < FIFO_BASE + BUFSIZE]
    ahead = [rec for rec in entered if rec.off >= session.writer.next and not rec.is_pad]
    assert {(rec.type, rec.size) for rec in ahead} == {(FIFO_TYPE_DUMMY, UNDO_SECTOR)}
    for rec in ahead:
        index = (rec.off - FIFO_BASE) // UNDO_SECTOR
        assert rec.seq == ((1000 ^ FIFO_SEQ_PREFORMAT) + index if version >= 4 else 0)


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names())
def test_going_on_in_a_fifo_of_the_original(golden: GoldenStore, name: str) -> None:
    bases = open_devices([str(path) for path in golden[name].volumes], readonly=True)
    devices = [OverlayDevice(dev) for dev in bases]
    volumes = Volumes(devices)
    fifo = UndoFifo(volumes)
    scan = scan_fifo(fifo, volumes.version)
    before = contents(records(fifo, scan))
    writer = UndoWriter.from_scan(volumes, scan)
    for i in range(40):
        writer.save(ZONE_BTREE << ZONE_SHIFT | i * NODE_SIZE, bytes([i]) * NODE_SIZE)
        writer.save(ZONE_FREEMAP << ZONE_SHIFT | BIGBLOCK_SIZE + i * 16, bytes([i]) * 16)
    for volume, byte_off, pieces in writer.take_dirty():
        volume.dev.pwritev(byte_off, pieces)
    head = volumes.superblock
    head.vol0_blockmap[ZONE_UNDO] = head.vol0_blockmap[ZONE_UNDO]._replace(next_offset=writer.next)
    volumes.root.dev.pwrite(0, head.encode())
    volumes.reload()
    fifo = UndoFifo(volumes)
    again = scan_fifo(fifo, volumes.version)
    found = contents(records(fifo, again))
    assert found[: len(before)] == before
    total = 0
    for rec in found[len(before) :]:
        assert isinstance(rec, UndoRecord)
        short = rec.undo_offset & OFF_LONG_MASK
        value = short // NODE_SIZE if short < BIGBLOCK_SIZE else (short - BIGBLOCK_SIZE) // 16
        assert rec.data == bytes([value]) * len(rec.data)
        total += len(rec.data)
    assert total == 40 * (NODE_SIZE + 16)
    assert again.next_seq == writer.seqno
    volumes.close()


def test_the_fifo_is_not_read_while_it_is_written() -> None:
    """Only the buffer at the append point is, once."""
    session = Session(7, 1)
    counted = FaultyDevice(session.dev)
    volumes = Volumes([counted])
    scan = scan_fifo(UndoFifo(volumes), 7)
    before = counted.counts.bytes_read
    writer = UndoWriter.from_scan(volumes, scan)
    assert counted.counts.bytes_read - before == BUFSIZE
    for node in range(50):
        writer.save(ZONE_BTREE << ZONE_SHIFT | node * NODE_SIZE, bytes(NODE_SIZE))
        if node % 10 == 0:
            writer.take_dirty()
    assert counted.counts.bytes_read - before == BUFSIZE
