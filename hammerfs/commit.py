"""How a group that has been applied in memory reaches the media: what is written in which order, and the barriers.

1. UNDO records; barrier. 2. The root header, whose FIFO range holds them (below version 4 with a barrier of its own:
there the header is all that recovery has to go by), and the changed metadata; barrier on all volumes. 3. The header
with an empty FIFO range; barrier. A cut before the end of 3 rolls the whole group back, one after it loses nothing.
File data went to new space before 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hammerfs.alloc import Allocator
from hammerfs.buffer import Buffer, DirtyClass
from hammerfs.cache import BufferCache
from hammerfs.const import UNDO_SECTOR, VERSION_REDO, VOL_HEADER_SIZE, ZONE_UNDO
from hammerfs.crc import CrcRule
from hammerfs.device.base import Buffer as Bytes
from hammerfs.ondisk.fifo import encode_dummy
from hammerfs.transaction import TidCounter
from hammerfs.undo import FIFO_BASE
from hammerfs.undo_writer import UndoWriter
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes

MOST_IN_A_WRITE = 1 << 20
"""Bytes gathered into one write."""


class Write(NamedTuple):
    """Bytes to be written one behind the other."""

    volume: Volume
    byte_off: int
    buffers: list[Bytes]


class Step(NamedTuple):
    """Writes in any order, then, with `flush`, a barrier on these volumes."""

    writes: list[Write]
    flush: list[Volume]


class Commit:
    """Works out the steps of a commit; whoever runs them (see `flusher`) does the I/O.

    Args:
        volumes: The set.
        cache: Holds the changed metadata.
        alloc: Told when freed big-blocks may be used again.
        undo: The FIFO.
        tids: The counter whose value the header keeps.
    """

    def __init__(
        self, volumes: Volumes, cache: BufferCache, alloc: Allocator, undo: UndoWriter, tids: TidCounter
    ) -> None:
        self._volumes = volumes
        self._cache = cache
        self._alloc = alloc
        self._undo = undo
        self._tids = tids

    def restart(self) -> Iterator[Step]:
        """The steps that put on the media what `UndoWriter.restart`, and who logged behind it, have laid down."""
        undo, root = self._undo, self._volumes.root
        writes = self._fifo_writes()
        if writes:
            yield Step(writes, [root])
        elif undo.first == undo.durable_first:
            return
        yield Step([self._header(undo.first, undo.next)], [root])
        undo.durable_first = undo.first

    def steps(self, end: int, *, mark: bool, keep: bool = False) -> Iterator[Step]:
        """The steps of one commit; each is worked out when the one before has been done.

        Args:
            end: Append point of the FIFO at the end of the atomic section.
            mark: Leave a record in the FIFO although all is committed, so that the next mount looks for orphans.
            keep: Leave the FIFO range as it is: a cut later than this still rolls the group back, and what was logged
                before it is still carried out again.
        """
        undo, root = self._undo, self._volumes.root
        if mark:
            undo.begin_span()
            undo.save_field("vol0_stat_inodes")
        yield Step(self._fifo_writes(), [root])
        header = self._header(undo.first, undo.next)
        if self._volumes.version < VERSION_REDO:
            yield Step([header], [root])
        meta = self._cache.dirty(DirtyClass.META)
        yield Step([header, *_gather(meta)], self._volumes.order)
        for buf in meta:
            self._cache.mark_clean(buf)
        if keep:
            return
        undo.first = end
        yield Step([self._header(end, undo.next)], [root])
        undo.durable_first = end
        self._alloc.committed()

    def upgrade(self, version: int) -> Iterator[Step]:
        """The steps that make the volumes a later version: its header is one write, after which all new rules count.

        From version 4 on the numbers of FIFO records count: when that is reached the FIFO, which is empty, is filled
        with records that are numbered, while the header is what tells that it is empty.
        """
        volumes, undo = self._volumes, self._undo
        root, rule = volumes.root, CrcRule(version)
        yield Step(self._fifo_writes(), [root])
        first, last, seqno = undo.first, undo.next, undo.seqno
        if volumes.version < VERSION_REDO <= version:
            for beg in range(0, undo.size, MOST_IN_A_WRITE):
                sectors = [
                    encode_dummy((beg + at) // UNDO_SECTOR, rule) for at in range(0, MOST_IN_A_WRITE, UNDO_SECTOR)
                ]
                volume, byte_off = volumes.locate(FIFO_BASE + beg, MOST_IN_A_WRITE)
                yield Step([Write(volume, byte_off, [b"".join(sectors)])], [])
            yield Step([], [root])
            first = last = FIFO_BASE
            seqno = 0
        root.ondisk.vol_version = version
        yield Step([self._header(first, last)], [root])
        volumes.rule = rule
        undo.go_on(first=first, next_off=last, seqno=seqno)

    def change_set(self, count: int, change: Callable[[], object]) -> Iterator[Step]:
        """The steps that change the number of volumes: one write of the root header, while the FIFO is empty.

        So a power cut leaves one set or the other. The headers of the other volumes follow; nobody goes by theirs.

        Args:
            count: How many there are to be.
            change: Called once that is so on the media.
        """
        volumes, root = self._volumes, self._volumes.root
        yield Step(self._fifo_writes(), [root])
        root.ondisk.vol_count = count
        yield Step([self._header(self._undo.first, self._undo.next)], [root])
        change()
        others = [volume for volume in volumes if volume is not root]
        for volume in others:
            volume.ondisk.vol_count = count
            volume.ondisk.seal(volumes.rule)
        yield Step([Write(volume, 0, [volume.ondisk.encode()]) for volume in others], others)

    def log_step(self) -> Step:
        """The one step of an fsync by REDO records: the FIFO, and a barrier."""
        return Step(self._fifo_writes(), [self._volumes.root])

    def _fifo_writes(self) -> list[Write]:
        return [Write(volume, byte_off, list(buffers)) for volume, byte_off, buffers in self._undo.take_dirty()]

    def _header(self, first: int, last: int) -> Write:
        """The root header as it is now, with a FIFO range and right checksums."""
        root, rule = self._volumes.root, self._volumes.rule
        head = root.ondisk
        head.vol0_next_tid = max(head.vol0_next_tid, self._tids.next_tid)
        zones = head.vol0_blockmap
        zones[ZONE_UNDO] = zones[ZONE_UNDO]._replace(first_offset=first, next_offset=last)
        head.vol0_blockmap = [zone.sealed(rule) for zone in zones]
        head.seal(rule)
        raw = head.encode()
        assert len(raw) == VOL_HEADER_SIZE
        return Write(root, 0, [raw])


def _gather(bufs: list[Buffer]) -> Iterator[Write]:
    """Buffers in address order as few writes."""
    run: Write | None = None
    length = 0
    for buf in bufs:
        view = buf.ro
        if run is not None:
            if run.volume is buf.volume and run.byte_off + length == buf.byte_off and length < MOST_IN_A_WRITE:
                run.buffers.append(view)
                length += len(view)
                continue
            yield run
        run, length = Write(buf.volume, buf.byte_off, [view]), len(view)
    if run is not None:
        yield run
