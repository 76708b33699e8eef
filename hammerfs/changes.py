"""What the next flush will put into the tree: the inodes that are newer than the media, and how much that is.

System calls change inodes in memory and note them here; they look first and change then, so one that needs a buffer
which is not cached has changed nothing when it is run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from hammerfs.alloc import Allocator
from hammerfs.const import (
    BIGBLOCK_SIZE,
    BUFSIZE,
    SF_APPEND,
    SF_IMMUTABLE,
    SF_NOHISTORY,
    UF_APPEND,
    UF_IMMUTABLE,
    UF_NOHISTORY,
    UNDO_SECTOR,
    ZONE_BTREE,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_SMALL_DATA,
)
from hammerfs.dirent import PendingEntries
from hammerfs.dirty import DirtyData
from hammerfs.errors import HammerError, NoSpace, NotPermitted, ReadOnlyError
from hammerfs.inode import DIRTY_ALL, Inode, Inodes
from hammerfs.pfs import PfsTable
from hammerfs.record import Records
from hammerfs.transaction import TidCounter

SLOP_WRITE = 20
"""Big-blocks that stay free when data is written or names are added."""
SLOP_REBLOCK = 25
"""Big-blocks that stay free when records move."""
SLOP_REMOVE = 10
"""Big-blocks that stay free when something is changed or removed."""
_SLOP_PART = 160
"""On a small volume the slop is so much of it: an eighth for writes, half of that for removals."""
_INODE_SPACE = 192
_RECORD_SPACE = 128
_ELEMENT_SPACE = 160
"""Bytes of an element in a node that has been split."""
_RESERVE = 1 << 20
"""Bytes for nodes, and for payloads, that stay when data or names are added to a full volume."""
_RECORD_UNDO = 10 * UNDO_SECTOR
"""Most bytes of the FIFO that a record costs: a node of its own is saved."""
_IMMUTABLE = UF_IMMUTABLE | SF_IMMUTABLE
_APPEND = UF_APPEND | SF_APPEND
_NOHISTORY = UF_NOHISTORY | SF_NOHISTORY


def wall_clock_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class WriteOptions:
    """How a file system is written to.

    Attributes:
        nohistory: Whether what is deleted or overwritten is destroyed at once.
        master_id: Low bits of TIDs, 0..15; None: not tagged, every value is used.
        fsync_mode: 0 full flush, 1 start it only, 2 and 3 by REDO where possible, 4 nothing.
        commit_seconds: Age at which changes are flushed.
        group_records: Records of one flush, about: it works in one go, while nobody else runs.
        dirty_bytes: File data kept in memory before a flush.
        clock: Microseconds since 1970.
    """

    nohistory: bool = False
    master_id: int | None = 0
    fsync_mode: int = 3
    commit_seconds: float = 5.0
    group_records: int = 4000
    dirty_bytes: int = 16 << 20
    clock: Callable[[], int] = wall_clock_us


class NewRecord(NamedTuple):
    """A record that belongs to no inode: a snapshot, a configuration, a PFS. It replaces one with the same key."""

    localization: int
    obj_id: int
    rec_type: int
    key: int
    obj_type: int
    payload: bytes | None
    """None: the record only goes."""
    tid: int = 0
    """Its create_tid; 0: that of the flush."""
    is_timed: bool = True
    """Whether it has a create_ts."""
    keep: bool = True
    """Whether the one that goes stays in history."""


class Changes:
    """The front end's state.

    Args:
        records: The records on the media.
        inodes: The inodes in memory.
        pfs: The PFSs.
        alloc: Gives out space.
        tids: Gives out ids.
        options: How to write.
        fifo_bytes: Size of the UNDO FIFO.
    """

    def __init__(
        self,
        records: Records,
        inodes: Inodes,
        pfs: PfsTable,
        alloc: Allocator,
        tids: TidCounter,
        options: WriteOptions,
        fifo_bytes: int,
    ) -> None:
        self.records = records
        self.inodes = inodes
        self.alloc = alloc
        self.tids = tids
        self.options = options
        self.now = options.clock
        self.dirty: dict[Inode, None] = {}
        """Inodes with something new, in the order in which that came."""
        self.records_new: list[NewRecord] = []
        """Records of no inode to come or go."""
        self.pending = 0
        """Records that a flush would write, about."""
        self.data_bytes = 0
        """File data in memory."""
        self.placed_bytes = 0
        """File data on the media that no record knows yet."""
        self.failed: HammerError | None = None
        """Why nothing may be written any more."""
        self._pfs = pfs
        self._group_records = min(options.group_records, fifo_bytes // (4 * _RECORD_UNDO))
        """Records of one flush: at most twice as many ever wait for it, and have to fit half of the FIFO."""

    @property
    def is_empty(self) -> bool:
        """Nothing is newer than the media."""
        return not self.dirty and not self.records_new

    @property
    def is_full(self) -> bool:
        """Enough for a flush."""
        return self.pending >= self._group_records // 2 or self.data_bytes >= self.options.dirty_bytes

    @property
    def is_overfull(self) -> bool:
        """So much that nothing should be added before a flush."""
        return self.pending >= 2 * self._group_records or self.data_bytes >= 2 * self.options.dirty_bytes

    def touch(self, inode: Inode, level: int) -> None:
        """An inode is newer than the media now."""
        if inode not in self.dirty:
            self.dirty[inode] = None
            self.pending += 1
            self.inodes.changed(inode)
        inode.state |= level

    def changed(self, inode: Inode, level: int = DIRTY_ALL) -> None:
        """As `touch`, and its ctime is now."""
        inode.data.ctime = self.now()
        self.touch(inode, level)

    def modified(self, inode: Inode, level: int = DIRTY_ALL) -> None:
        """As `touch`, and its mtime and ctime are now."""
        data = inode.data
        data.mtime = data.ctime = self.now()
        self.touch(inode, level)

    def entries_of(self, directory: Inode) -> PendingEntries:
        """New and removed names of a directory, to be added to."""
        if directory.entries is None:
            directory.entries = PendingEntries()
        return directory.entries

    def data_of(self, inode: Inode) -> DirtyData:
        """New contents of a file, to be added to."""
        if inode.dirty is None:
            inode.dirty = DirtyData(inode.data.size)
        return inode.dirty

    # What may be done

    def check_alive(self, inode: Inode) -> None:
        """Refuse to change what can't be changed, whatever its flags; errors as `check_writable`."""
        self.check_sound()
        if not inode.is_head:
            raise ReadOnlyError("the past can't be changed", **inode.place)
        if inode.pfs_id and self._pfs.get(inode.pfs_id).is_slave:
            raise ReadOnlyError(f"PFS {inode.pfs_id} is a slave", **inode.place)

    def check_writable(self, inode: Inode, *, appending: bool = False) -> None:
        """Refuse to change an object.

        Args:
            inode: The object.
            appending: Whether it would only be added to.

        Raises:
            ReadOnlyError: It is in the past, in a slave, or nothing may be written any more.
            NotPermitted: It is immutable, or append-only.
        """
        self.check_alive(inode)
        uflags = inode.data.uflags
        if uflags & (_IMMUTABLE | _APPEND):
            if uflags & _IMMUTABLE:
                raise NotPermitted("immutable", **inode.place)
            if not appending:
                raise NotPermitted("append-only", **inode.place)

    def check_sound(self) -> None:
        """Refuse any change after a failure.

        Raises:
            ReadOnlyError: Nothing may be written any more; says why.
        """
        if self.failed is not None:
            raise ReadOnlyError(f"read-only since a failure: {self.failed}")

    def check_space(self, slop: int, nbytes: int = 0) -> None:
        """Refuse what might not fit.

        Args:
            slop: Big-blocks that stay free.
            nbytes: File data about to come.

        Raises:
            NoSpace: It might not.
        """
        alloc, pending = self.alloc, self.pending
        reserve = 0 if slop == SLOP_REMOVE else _RESERVE
        needs = {
            ZONE_BTREE: pending * _ELEMENT_SPACE + reserve,
            ZONE_META: len(self.dirty) * _INODE_SPACE + pending * _RECORD_SPACE + reserve,
        }
        if slop != SLOP_REMOVE:
            needs[ZONE_LARGE_DATA] = self.data_bytes + nbytes
            needs[ZONE_SMALL_DATA] = min(self.data_bytes + nbytes, (pending + 1) * BUFSIZE)
        if not alloc.has_space(needs, self.slop_bigblocks(slop)):
            total = self.records.volumes.superblock.vol0_stat_bigblocks
            raise NoSpace(f"{alloc.free_bigblocks} of {total} big-blocks of {BIGBLOCK_SIZE >> 20} MiB are free")

    @property
    def reserved_bytes(self) -> int:
        """Space that what is in memory will take, about."""
        records = len(self.dirty) * _INODE_SPACE + self.pending * _RECORD_SPACE
        return records + self.data_bytes + self.placed_bytes

    def slop_bigblocks(self, slop: int) -> int:
        """A slop in big-blocks as far as the volumes are large enough for it."""
        total = self.records.volumes.superblock.vol0_stat_bigblocks - self.alloc.closed_size
        return min(slop, max(0, total) * slop // _SLOP_PART)

    def keeps_history(self, inode: Inode) -> bool:
        """Whether deleted records of an object (of a directory: its entries too) stay."""
        return not (self.options.nohistory or inode.data.uflags & _NOHISTORY)
