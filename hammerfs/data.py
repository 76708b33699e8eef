"""File contents: extent maps loaded in windows, and reads planned as few scattered reads straight to their target.

A read has three parts so that a mounted file system can do the middle one elsewhere: `plan_read` needs only the tree,
`ReadPlan.run` (or whoever takes its `ios`) reads the volumes, `ReadPlan.finish` verifies checksums. A checksum covers
a whole extent: the first read of an extent brings all of it, later ones only what they need.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator

from hammerfs.addr import localize
from hammerfs.const import LOCALIZE_MISC, RECTYPE_DATA, XBUFSIZE
from hammerfs.crc import CrcFunc, crc32
from hammerfs.errors import BufferMiss, CorruptError, CrcError
from hammerfs.inode import Inode, need_file
from hammerfs.keys import MAX_INT64, MIN_INT64
from hammerfs.ondisk.node import LeafElm
from hammerfs.record import Records, check_payload_address, place_of
from hammerfs.volume import Volume

WINDOW = 8 << 20
"""File bytes whose extents are loaded together."""
_STEP_LEAVES = 64
"""Leaves of the tree that are counted before others get a turn."""
MAX_WINDOWS = 16
"""Windows kept for one file."""
_ZEROS = bytes(XBUFSIZE)


class Extent:
    """A piece of a file on the media.

    Args:
        elm: Its DATA record.
        beg: First file offset it is read for (a record with a lower key may cover its start).
    """

    __slots__ = ("base", "beg", "elm", "end", "verified")

    def __init__(self, elm: LeafElm, beg: int) -> None:
        self.elm = elm
        self.base = elm.key - elm.data_len
        """File offset of the extent's first byte."""
        self.beg = beg
        self.end = elm.key
        """File offset behind its last byte."""
        self.verified = False
        """Checksum seen to be right since it was loaded."""


class ExtentMap:
    """The extents of one inode by windows of 8 MiB; the ones used lately are kept."""

    __slots__ = ("_windows",)

    def __init__(self) -> None:
        self._windows: OrderedDict[int, list[Extent]] = OrderedDict()

    def window(self, records: Records, inode: Inode, index: int) -> list[Extent]:
        """Extents that meet window `index`, ascending, without overlaps.

        Raises:
            CorruptError: A DATA record that can't be.
            BufferMiss: As `BufferCache.bread`.
        """
        found = self._windows.get(index)
        if found is not None:
            self._windows.move_to_end(index)
            return found
        found = list(_load_window(records, inode, index * WINDOW, min((index + 1) * WINDOW, MAX_INT64)))
        if len(self._windows) >= MAX_WINDOWS:
            self._windows.popitem(last=False)
        self._windows[index] = found
        return found

    def forget(self) -> None:
        """Load everything anew."""
        self._windows.clear()


def _load_window(records: Records, inode: Inode, beg: int, end: int) -> Iterator[Extent]:
    """Where records overlap, the one with the lower key counts."""
    localization = localize(inode.pfs_id, LOCALIZE_MISC)
    last_key = min(end + XBUFSIZE, MAX_INT64)
    pos = beg
    for elms in records.between(localization, inode.obj_id, RECTYPE_DATA, beg + 1, last_key, inode.asof):
        for elm in elms:
            if not elm.data_len:
                continue
            check_data(elm)
            base = elm.key - elm.data_len
            if base >= end:
                continue
            yield Extent(elm, max(base, pos))
            pos = elm.key


def check_data(elm: LeafElm) -> None:
    """Check key, length and address of a DATA record with a payload.

    Raises:
        CorruptError: They can't be.
    """
    check_payload_address(elm)
    if elm.key < elm.data_len:
        raise CorruptError(f"data record ends at {elm.key} and is {elm.data_len} bytes long", **place_of(elm))


class Io:
    """One scattered read from a volume.

    Args:
        volume: The volume.
        byte_off: Byte offset in it.
    """

    __slots__ = ("_parts", "byte_off", "nbytes", "volume")

    def __init__(self, volume: Volume, byte_off: int) -> None:
        self.volume = volume
        self.byte_off = byte_off
        self.nbytes = 0
        self._parts: list[tuple[memoryview, int, int]] = []

    def add(self, target: memoryview, beg: int, end: int) -> None:
        """The next bytes go to target[beg:end]; a part that continues the last one is joined to it."""
        if beg == end:
            return
        self.nbytes += end - beg
        if self._parts:
            last, last_beg, last_end = self._parts[-1]
            if last is target and last_end == beg:
                self._parts[-1] = (target, last_beg, end)
                return
        self._parts.append((target, beg, end))

    @property
    def views(self) -> list[memoryview]:
        """Memory to fill, in order."""
        return [target[beg:end] for target, beg, end in self._parts]


class ReadPlan:
    """What is to be read, verified and laid over to answer one read.

    Args:
        records: The records, for the checksum rule.
        target: Where the answer goes.
    """

    __slots__ = ("_checks", "_overlay", "_records", "ios", "nbytes", "target")

    def __init__(self, records: Records, target: memoryview) -> None:
        self._records = records
        self.target = target
        self.ios: list[Io] = []
        self.nbytes = 0
        """Bytes of the answer; those the media does not hold are filled already."""
        self._checks: list[tuple[Extent, list[memoryview]]] = []
        self._overlay: list[tuple[int, bytes]] = []

    def run(self) -> None:
        """Read inline.

        Raises:
            DeviceError: A volume failed.
        """
        for io in self.ios:
            io.volume.dev.preadv(io.byte_off, io.views)

    def run_nowait(self) -> bool:
        """Read what the host has in memory; whether that was all of it (else run the whole plan elsewhere).

        Raises:
            DeviceError: A volume failed.
        """
        return all(io.volume.dev.preadv_nowait(io.byte_off, io.views) is not None for io in self.ios)

    def finish(self) -> int:
        """Verify the checksums of what came in and lay memory over it.

        Returns:
            Bytes of the answer.

        Raises:
            CrcError: An extent is damaged; the target holds nothing to be used then.
        """
        for extent, pieces in self._checks:
            _verify(self._records, extent, pieces)
            extent.verified = True
        for pos, data in self._overlay:
            self.target[pos : pos + len(data)] = data
        return self.nbytes

    def add_extent(self, extent: Extent, beg: int, end: int, target_pos: int) -> None:
        """Read file offsets [beg, end) of an extent to the target; all of it when it is not verified yet."""
        elm = extent.elm
        skip, length = beg - extent.base, end - beg
        if extent.verified:
            io = self._io_at(elm.data_offset, elm.data_len, skip)
            io.add(self.target, target_pos, target_pos + length)
            return
        rest = elm.data_len - skip - length
        io = self._io_at(elm.data_offset, elm.data_len, 0)
        pieces: list[memoryview] = []
        scratch = memoryview(bytearray(skip + rest)) if skip or rest else self.target
        if skip:
            io.add(scratch, 0, skip)
            pieces.append(scratch[:skip])
        io.add(self.target, target_pos, target_pos + length)
        pieces.append(self.target[target_pos : target_pos + length])
        if rest:
            io.add(scratch, skip, skip + rest)
            pieces.append(scratch[skip:])
        self._checks.append((extent, pieces))

    def lay_over(self, pos: int, data: bytes) -> None:
        """Put `data` at `pos` of the target when the rest is there."""
        self._overlay.append((pos, data))

    def _io_at(self, off: int, nbytes: int, skip: int) -> Io:
        """The read that goes on at this address, or a new one."""
        volume, byte_off = self._records.volumes.locate(off, nbytes)
        byte_off += skip
        if self.ios:
            last = self.ios[-1]
            if last.volume is volume and last.byte_off + last.nbytes == byte_off:
                return last
        io = Io(volume, byte_off)
        self.ios.append(io)
        return io


def plan_read(records: Records, inode: Inode, offset: int, target: memoryview) -> ReadPlan:
    """Plan a read of len(target) bytes at a file offset, cut at the end of the file.

    Args:
        records: The records.
        inode: A regular file.
        offset: First byte, not negative.
        target: Writable memory; bytes of holes are zeroed at once.

    Raises:
        IsADirectory: Not a file.
        CorruptError: A DATA record that can't be.
        BufferMiss: As `BufferCache.bread`.
    """
    need_file(inode)
    plan = ReadPlan(records, target)
    size = inode.size
    end = min(offset + len(target), size)
    if end <= offset:
        return plan
    plan.nbytes = end - offset
    dirty = inode.dirty
    _plan_media(plan, records, inode, offset, end)
    if dirty is not None:
        for beg, data in dirty.segments(offset, end):
            plan.lay_over(beg - offset, data)
    return plan


def plan_media(records: Records, inode: Inode, offset: int, target: memoryview) -> ReadPlan:
    """As `plan_read`, but what is in memory does not count, nor does the size: for rewriting blocks of the media."""
    plan = ReadPlan(records, target)
    plan.nbytes = len(target)
    _plan_media(plan, records, inode, offset, offset + len(target))
    return plan


def _plan_media(plan: ReadPlan, records: Records, inode: Inode, offset: int, end: int) -> None:
    """Plan the part of a read that the media answers; holes are zeroed at once."""
    pos, target = offset, plan.target
    for extent, beg, stop in _pieces_in(records, inode, offset, end):
        zero_fill(target, pos - offset, beg - offset)
        plan.add_extent(extent, beg, stop, beg - offset)
        pos = stop
    zero_fill(target, pos - offset, end - offset)


def _pieces_in(records: Records, inode: Inode, beg: int, end: int) -> Iterator[tuple[Extent, int, int]]:
    """Extents that meet [beg, end), each with the part wanted: placed ones, and between them those of the tree."""
    dirty = inode.dirty
    if dirty is None:
        yield from _extents_in(records, inode, beg, end)
        return
    limit, pos = dirty.media_limit, beg
    for extent in dirty.placed_in(beg, end):
        start, stop = max(extent.base, beg), min(extent.end, end)
        yield from _extents_in(records, inode, pos, min(start, limit))
        if start < stop:
            yield extent, start, stop
            pos = stop
    yield from _extents_in(records, inode, pos, min(end, limit))


def _extents_in(records: Records, inode: Inode, beg: int, end: int) -> Iterator[tuple[Extent, int, int]]:
    """Extents that meet [beg, end), each with the part of it that is wanted."""
    extents = inode.extents
    if extents is None:
        extents = inode.extents = ExtentMap()
    pos = beg
    while pos < end:
        window = extents.window(records, inode, pos // WINDOW)
        window_end = min((pos // WINDOW + 1) * WINDOW, end)
        i = bisect_right(window, pos, key=_extent_end)
        while i < len(window) and window[i].beg < window_end:
            extent = window[i]
            start, stop = max(extent.beg, pos), min(extent.end, window_end)
            yield extent, start, stop
            pos = stop
            i += 1
        pos = window_end


def _extent_end(extent: Extent) -> int:
    return extent.end


def zero_fill(target: memoryview, beg: int, end: int) -> None:
    """Zero target[beg:end]."""
    while beg < end:
        n = min(end - beg, XBUFSIZE)
        target[beg : beg + n] = _ZEROS[:n]
        beg += n


def _verify(records: Records, extent: Extent, pieces: list[memoryview]) -> None:
    rule = records.volumes.rule
    want = extent.elm.data_crc
    found = _crc_of(rule.compute, pieces)
    if found != want and (rule.compute is crc32 or _crc_of(crc32, pieces) != want):
        raise CrcError(
            f"file data at {extent.base}, {extent.elm.data_len} bytes", want=want, found=found, **place_of(extent.elm)
        )


def _crc_of(crc: CrcFunc, pieces: list[memoryview]) -> int:
    value = 0
    for piece in pieces:
        value = crc(piece, value)
    return value


def data_elms(records: Records, inode: Inode) -> Iterator[LeafElm]:
    """All visible DATA records of a file, by offset."""
    return records.of_type(localize(inode.pfs_id, LOCALIZE_MISC), inode.obj_id, RECTYPE_DATA, inode.asof)


def data_bytes(records: Records, inode: Inode) -> int:
    """Bytes the data records of a file hold, for st_blocks; counted when first asked, estimated while it is written.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`; and from time to time, to let others run. What was counted is kept.
    """
    if inode.blocks is None:
        inode.blocks = _count(records, inode)
        inode.counted = None
    dirty = inode.dirty
    if dirty is None:
        return inode.blocks
    return inode.blocks + dirty.memory_bytes + sum(extent.elm.data_len for extent in dirty.placed.values())


def _count(records: Records, inode: Inode) -> int:
    localization = localize(inode.pfs_id, LOCALIZE_MISC)
    first, total = inode.counted or (MIN_INT64, 0)
    left = _STEP_LEAVES
    for elms in records.between(localization, inode.obj_id, RECTYPE_DATA, first, MAX_INT64, inode.asof):
        if not elms:
            continue
        total += sum([elm.data_len for elm in elms])
        inode.counted = elms[-1].key + 1, total
        left -= 1
        if not left and not records.cache.inline:
            raise BufferMiss([])
    return total


def data_ranges(records: Records, inode: Inode) -> Iterator[tuple[int, int]]:
    """Ranges [beg, end) of a file that hold data, ascending, neighbours joined; the rest reads as zeros.

    Raises:
        CorruptError: A DATA record that can't be.
        BufferMiss: As `BufferCache.bread`.
    """
    beg = end = 0
    for start, stop in _merged(records, inode):
        if start > end:
            if end > beg:
                yield beg, end
            beg = start
        end = max(end, stop)
    if end > beg:
        yield beg, end


def _merged(records: Records, inode: Inode) -> Iterator[tuple[int, int]]:
    """Data ranges of media and memory, by start."""
    size, dirty = inode.size, inode.dirty
    limit = size if dirty is None else min(size, dirty.media_limit)
    media = ((max(elm.key - elm.data_len, 0), min(elm.key, limit)) for elm in data_elms(records, inode))
    if dirty is None:
        yield from media
        return
    memory = list(dirty.ranges(0, size))
    placed = [(extent.base, min(extent.end, size)) for extent in dirty.placed_in(0, size)]
    yield from sorted([*media, *memory, *placed])
