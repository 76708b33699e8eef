"""System calls on contents and attributes: write, truncate, setattr. They change inodes in memory (see `changes`).

Whole blocks that come in runs of 64 KiB and more go straight to the media, to space nobody refers to yet; only their
records wait for the flush. Everything else is kept as written pieces, and the flush makes blocks of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from hammerfs.addr import block_size_at, localize
from hammerfs.changes import SLOP_REMOVE, SLOP_WRITE, Changes
from hammerfs.const import (
    BTREE_TYPE_RECORD,
    BUFSIZE,
    LOCALIZE_MISC,
    MAX_FILE_SIZE,
    OBJTYPE_REGFILE,
    RECTYPE_DATA,
    SF_APPEND,
    UF_APPEND,
    XBUFSIZE,
    ZONE_LARGE_DATA,
    ZONE_SMALL_DATA,
)
from hammerfs.data import Extent, plan_media
from hammerfs.dirty import DirtyData
from hammerfs.errors import FileTooBig, InvalidError, NotPermitted
from hammerfs.inode import DIRTY_ALL, DIRTY_ATIME, DIRTY_CONTENTS, Inode, need_file
from hammerfs.ondisk.node import LeafElm
from hammerfs.ondisk.records import id_uuid

MAX_WRITTEN = MAX_FILE_SIZE + 1 - XBUFSIZE
"""Behind this a file can only be long: the key of a data record is the file offset of its block's end."""
STRAIGHT = XBUFSIZE
"""Bytes of whole blocks from which on a write goes straight to the media."""
_APPEND = UF_APPEND | SF_APPEND


class SetAttr(NamedTuple):
    """Attributes to change; None leaves one as it is. Times are microseconds since 1970."""

    mode: int | None = None
    """Permission bits."""
    uid: int | None = None
    gid: int | None = None
    uflags: int | None = None
    size: int | None = None
    atime_us: int | None = None
    mtime_us: int | None = None
    ctime_us: int | None = None
    """Set by a kernel that keeps this time itself; else it is now whenever something changes."""


class FileWriter:
    """Changes of contents and attributes.

    Args:
        changes: Where they are noted.
    """

    __slots__ = ("_changes", "_records")

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._records = changes.records

    def write(self, inode: Inode, offset: int, data: bytes | memoryview) -> int:
        """Write bytes at an offset; returns how many, always all of them.

        Raises:
            IsADirectory: No file.
            InvalidError: No regular file, or a negative offset.
            FileTooBig: Beyond the last byte a file can have.
            NoSpace: The volume is full.
            ReadOnlyError: As `Changes.check_writable`.
            NotPermitted: The file is immutable, or append-only and the bytes do not go behind its end.
            DeviceError: The device failed.
            BufferMiss: As `BufferCache.bread`; nothing has been changed.
        """
        need_file(inode)
        view = memoryview(data)
        end = offset + len(view)
        self._check_offset(inode, offset, end)
        if end > MAX_WRITTEN:
            raise FileTooBig(f"byte {end} of a file", **inode.place)
        changes = self._changes
        changes.check_writable(inode, appending=offset >= inode.size)
        changes.check_space(SLOP_WRITE, len(view))
        if not view:
            return 0
        first, last = _whole_blocks(offset, end)
        dirty = changes.data_of(inode)
        with self._accounted(dirty):
            if last - first < STRAIGHT:
                self._unplace(dirty, offset, end)
                dirty.write(offset, view)
            else:
                self._write_straight(inode, dirty, offset, view, first, last)
        inode.data.size = dirty.size
        changes.modified(inode, DIRTY_CONTENTS)
        return len(view)

    def truncate(self, inode: Inode, size: int) -> None:
        """Set the size; what lies behind is gone, what is new reads as zeros; errors as `write`."""
        need_file(inode)
        self._check_offset(inode, size, size)
        changes = self._changes
        changes.check_writable(inode)
        if size == inode.size:
            changes.modified(inode)
            return
        changes.check_space(SLOP_REMOVE)
        dirty = changes.data_of(inode)
        shrinks = size < dirty.size
        with self._accounted(dirty):
            if shrinks:
                self._unplace_behind(dirty, size)
            dirty.truncate(size)
        inode.data.size = size
        changes.modified(inode, DIRTY_ALL if shrinks else DIRTY_CONTENTS)

    def setattr(self, inode: Inode, new: SetAttr) -> None:
        """Change attributes.

        Raises:
            NotPermitted: The object is immutable (its flags can be changed) or append-only.
            ReadOnlyError: As `Changes.check_writable`.
            HammerError: As `truncate`, when there is a size.
        """
        changes, data = self._changes, inode.data
        of_kernel = new.ctime_us is not None and new._replace(mtime_us=None, ctime_us=None) == _NOTHING
        if of_kernel or (new.uflags is not None and new._replace(uflags=None) == _NOTHING):
            changes.check_alive(inode)  # the kernel tells times late, maybe after a flag that forbids it
        else:
            changes.check_writable(inode)
        if new.size is not None:
            self.truncate(inode, new.size)
        if new.mode is not None:
            data.mode = new.mode & 0o7777
        if new.uid is not None:
            data.uid = id_uuid(new.uid)
        if new.gid is not None:
            data.gid = id_uuid(new.gid)
        if new.uflags is not None:
            data.uflags = new.uflags & 0xFFFFFFFF
        if any(field is not None for field in (new.mode, new.uid, new.gid, new.uflags)):
            changes.changed(inode)
        self._set_times(inode, new)

    def _set_times(self, inode: Inode, new: SetAttr) -> None:
        changes, data = self._changes, inode.data
        if new.mtime_us is not None:
            data.mtime = new.mtime_us
            changes.changed(inode, DIRTY_CONTENTS)
        if new.atime_us is not None:
            data.atime = new.atime_us
            changes.changed(inode, DIRTY_ATIME)
        if new.ctime_us is not None:
            data.ctime = new.ctime_us
            changes.touch(inode, DIRTY_CONTENTS)

    def discard(self, inode: Inode) -> None:
        """Forget new contents of a file that is being removed; its space goes back."""
        dirty = inode.dirty
        if dirty is None:
            return
        with self._accounted(dirty):
            for base in list(dirty.placed):
                self._abandon(dirty, base)
            dirty.forget()
        inode.dirty = None

    def discard_blocks(self, inode: Inode) -> None:
        """Forget pieces that can't become blocks."""
        if inode.dirty is not None:
            with self._accounted(inode.dirty):
                inode.dirty.forget()

    def blocks_to_media(self, inode: Inode) -> None:
        """Make whole blocks of the pieces in memory and write them to new space; only their records are missing then.

        Raises:
            CrcError: Old bytes of a block are damaged.
            NoSpace: There is no space.
            DeviceError: The device failed. Blocks written before stay written.
        """
        dirty = inode.dirty
        if dirty is None:
            return
        with self._accounted(dirty):
            self._cut_block(inode, dirty)
            for run in _runs(sorted(dirty.blocks)):
                self._place_run(inode, dirty, run)

    # Inside

    @contextmanager
    def _accounted(self, dirty: DirtyData) -> Iterator[None]:
        """What happens to new contents inside is counted, also when it fails half-way."""
        held, count = dirty.memory_bytes, len(dirty.blocks) + len(dirty.placed)
        try:
            yield
        finally:
            self._changes.data_bytes += dirty.memory_bytes - held
            self._changes.pending += len(dirty.blocks) + len(dirty.placed) - count

    def _check_offset(self, inode: Inode, offset: int, end: int) -> None:
        if offset < 0:
            raise InvalidError(f"file offset {offset}", **inode.place)
        if end > MAX_FILE_SIZE:
            raise FileTooBig(f"byte {end} of a file", **inode.place)
        if inode.data.uflags & _APPEND and offset < inode.size:
            raise NotPermitted("append-only", **inode.place)

    def _write_straight(
        self, inode: Inode, dirty: DirtyData, offset: int, view: memoryview, first: int, last: int
    ) -> None:
        """Whole blocks to new space, what is before and behind them to memory."""
        end = offset + len(view)
        if offset < first:
            self._unplace(dirty, offset, first)
        if last < end:
            self._unplace(dirty, last, end)
        bases, sizes, base = [], [], first
        while base < last:
            bases.append(base)
            sizes.append(block_size_at(base))
            base += sizes[-1]
        self._place(inode, dirty, bases, sizes, view[first - offset : last - offset])
        dirty.wrote(first, last)
        if offset < first:
            dirty.write(offset, view[: first - offset])
        if last < end:
            dirty.write(last, view[last - offset :])

    def _place(
        self, inode: Inode, dirty: DirtyData, bases: Sequence[int], sizes: Sequence[int], view: memoryview
    ) -> None:
        """Write blocks, one behind the other in `view`, to new space; their extents replace what was there before."""
        alloc, rule = self._changes.alloc, self._records.volumes.rule
        zones = [ZONE_LARGE_DATA if size >= BUFSIZE else ZONE_SMALL_DATA for size in sizes]
        offs: list[int] = []
        try:
            for zone, size in zip(zones, sizes, strict=True):
                offs.append(alloc.reserve(zone, size))
            self._write_runs(offs, sizes, view)
        except BaseException:
            for off, size in zip(offs, sizes, strict=False):
                alloc.abandon(off, size)
            raise
        localization = localize(inode.pfs_id, LOCALIZE_MISC)
        at = 0
        for base, size, off in zip(bases, sizes, offs, strict=True):
            crc = rule.compute(view[at : at + size], 0)
            at += size
            elm = LeafElm(
                *(inode.obj_id, base + size, 0, 0, RECTYPE_DATA, OBJTYPE_REGFILE, BTREE_TYPE_RECORD, localization),
                *(0, 0, off, size, crc),
            )
            extent = Extent(elm, base)
            extent.verified = True
            block = dirty.blocks.pop(base, None)
            if block is not None:
                dirty.memory_bytes -= len(block.buf)
            if base in dirty.placed:
                self._abandon(dirty, base)
            dirty.placed[base] = extent
            self._changes.placed_bytes += size

    def _write_runs(self, offs: Sequence[int], sizes: Sequence[int], view: memoryview) -> None:
        """Write pieces of `view` to their addresses, neighbours by one call."""
        volumes, cache = self._records.volumes, self._records.cache
        first = at = start = 0
        for i, (off, size) in enumerate(zip(offs, sizes, strict=True)):
            at += size
            if i + 1 < len(offs) and offs[i + 1] == off + size:
                continue
            volume, byte_off = volumes.locate(offs[first], sizes[first])
            volume.dev.pwritev(byte_off, (view[start:at],))
            cache.invalidate(offs[first], at - start)
            first, start = i + 1, at

    def _unplace(self, dirty: DirtyData, beg: int, end: int) -> None:
        """Bring placed extents of which only a part is about to change back to memory; the others need not come."""
        for extent in dirty.placed_in(beg, end):
            base = extent.base
            keep = min(extent.end, dirty.size) - base
            self._abandon_into(dirty, extent, keep if beg > base or end < base + keep else 0)

    def _unplace_behind(self, dirty: DirtyData, size: int) -> None:
        """The file ends at `size` now: placed extents behind it go, one that it cuts comes back to memory."""
        for extent in dirty.placed_in(size, MAX_FILE_SIZE):
            self._abandon_into(dirty, extent, max(0, min(size, extent.end) - extent.base))

    def _abandon_into(self, dirty: DirtyData, extent: Extent, keep: int) -> None:
        """Give a placed extent up, its first `keep` bytes kept in memory."""
        if keep:
            elm = extent.elm
            volume, byte_off = self._records.volumes.locate(elm.data_offset, elm.data_len)
            dirty.put(extent.base, volume.dev.pread(byte_off, keep))
        self._abandon(dirty, extent.base)

    def _abandon(self, dirty: DirtyData, base: int) -> None:
        elm = dirty.placed.pop(base).elm
        self._changes.alloc.abandon(elm.data_offset, elm.data_len)
        self._changes.placed_bytes -= elm.data_len

    def _cut_block(self, inode: Inode, dirty: DirtyData) -> None:
        """A block that a truncation cut is written anew, padded with zeros, if the media holds something of it."""
        limit = dirty.media_limit
        size = block_size_at(limit)
        base = limit - limit % size
        if limit == base or limit >= dirty.media_size or base in dirty.blocks or base in dirty.placed:
            return
        plan = plan_media(self._records, inode, base, memoryview(bytearray(limit - base)))
        if plan.ios:
            dirty.force(base)

    def _place_run(self, inode: Inode, dirty: DirtyData, run: list[int]) -> None:
        """Complete blocks that follow each other and write them."""
        bases: list[int] = []
        sizes: list[int] = []
        pieces: list[bytearray] = []
        for base in run:
            if base >= dirty.size:
                dirty.memory_bytes -= len(dirty.blocks.pop(base).buf)
                continue
            sizes.append(_record_size(base, dirty.size))
            bases.append(base)
            pieces.append(self._complete(inode, dirty, base, sizes[-1]))
        if bases:
            whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._place(inode, dirty, bases, sizes, memoryview(whole))

    def _complete(self, inode: Inode, dirty: DirtyData, base: int, size: int) -> bytearray:
        """The bytes of a block: what was written, the rest from the media, zeros behind the end of the file."""
        block = dirty.blocks[base]
        end = min(dirty.size - base, size)
        if block.covers(end):
            whole = block.buf[:end]
            whole.extend(bytes(size - len(whole)))
            return whole
        whole = bytearray(size)
        with memoryview(whole) as view:
            plan = plan_media(self._records, inode, base, view[:end])
            plan.run()
            plan.finish()
            for beg, stop in block.spans:
                view[beg:stop] = block.buf[beg:stop]
            if end < size:
                view[end:] = bytes(size - end)
        return whole


_NOTHING = SetAttr()


def _whole_blocks(offset: int, end: int) -> tuple[int, int]:
    """The whole blocks inside [offset, end): first and last offset, equal when there is none."""
    size = block_size_at(offset)
    first = -(-offset // size) * size
    last = end - end % block_size_at(end)
    return (first, last) if last > first else (offset, offset)


def _record_size(base: int, file_size: int) -> int:
    """Length of the record of a block: whole blocks, but a file of up to 8 KiB takes what it needs, rounded to 16."""
    from_small = base == 0 and file_size <= BUFSIZE // 2
    return (file_size + 15) & ~15 if from_small else block_size_at(base)


def _runs(bases: list[int], most: int = 1 << 20) -> list[list[int]]:
    """Blocks that follow each other, in runs of at most `most` bytes."""
    runs: list[list[int]] = []
    for base in bases:
        run = runs[-1] if runs else None
        if run and run[-1] + block_size_at(run[-1]) == base and base - run[0] < most:
            run.append(base)
        else:
            runs.append([base])
    return runs
