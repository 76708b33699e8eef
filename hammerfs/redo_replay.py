"""Crash recovery, stage 2, for a reader: fsynced writes kept in memory and laid over what the media holds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from hammerfs.addr import pfs_of
from hammerfs.const import MAX_FILE_SIZE, REDO_WRITE
from hammerfs.errors import CorruptError, NotFound
from hammerfs.inode import Inodes
from hammerfs.ondisk.fifo import RedoRecord


class RedoFile:
    """Contents of one file that came from REDO records.

    Args:
        size: Size of the file on the media.
        mtime: Its modification time, microseconds.
    """

    __slots__ = ("_begs", "_data", "media_limit", "mtime", "size")

    def __init__(self, size: int, mtime: int) -> None:
        self.size = size
        self.media_limit = size
        """File offset from which the media's data does not count: a truncation cut it off."""
        self.mtime = mtime
        self._begs: list[int] = []
        self._data: list[bytearray] = []

    @property
    def memory_bytes(self) -> int:
        """Bytes held."""
        return sum(len(data) for data in self._data)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset; newer ones win."""
        end = offset + len(data)
        self.size = max(self.size, end)
        self._cut(offset, end)
        i = bisect_left(self._begs, offset)
        if i and self._begs[i - 1] + len(self._data[i - 1]) == offset:
            self._data[i - 1] += data
        elif data:
            self._begs.insert(i, offset)
            self._data.insert(i, bytearray(data))

    def truncate(self, size: int) -> None:
        """Set the size; what lies behind is gone, also when the file grows again."""
        if size < self.size:
            self.media_limit = min(self.media_limit, size)
            self._cut(size, self.size)
        self.size = size

    def segments(self, beg: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Pieces that meet [beg, end), cut to it: file offset and bytes, ascending."""
        i = max(bisect_right(self._begs, beg) - 1, 0)
        while i < len(self._begs) and self._begs[i] < end:
            start, data = self._begs[i], self._data[i]
            first, last = max(start, beg), min(start + len(data), end)
            if first < last:
                yield first, memoryview(data)[first - start : last - start]
            i += 1

    def _cut(self, beg: int, end: int) -> None:
        """Remove [beg, end) from the pieces."""
        i = max(bisect_right(self._begs, beg) - 1, 0)
        while i < len(self._begs) and self._begs[i] < end:
            start, data = self._begs[i], self._data[i]
            stop = start + len(data)
            if stop <= beg:
                i += 1
                continue
            pieces = [(start, data[: beg - start])] if start < beg else []
            if stop > end:
                pieces.append((end, data[end - start :]))
            self._begs[i : i + 1] = [piece_beg for piece_beg, _ in pieces]
            self._data[i : i + 1] = [piece for _, piece in pieces]
            i += len(pieces)


def replay(inodes: Inodes, operations: Iterable[RedoRecord]) -> dict[tuple[int, int], RedoFile]:
    """Carry out logged operations in memory, in order; those on files that are gone are passed over.

    Returns:
        (PFS id, object id) -> contents.

    Raises:
        CorruptError: An operation that can't be, or a damaged inode.
    """
    files: dict[tuple[int, int], RedoFile] = {}
    for op in operations:
        ident = (pfs_of(op.localization), op.obj_id)
        file = files.get(ident)
        if file is None:
            file = _file(inodes, *ident)
            if file is None:
                continue
            files[ident] = file
        if op.offset < 0 or op.offset + len(op.data) > MAX_FILE_SIZE:
            raise CorruptError(f"REDO record at file offset {op.offset}", obj_id=op.obj_id)
        if op.flags == REDO_WRITE:
            file.write(op.offset, op.data)
        else:
            file.truncate(op.offset)
        file.mtime = max(file.mtime, op.mtime)
    return files


def _file(inodes: Inodes, pfs_id: int, obj_id: int) -> RedoFile | None:
    try:
        inode = inodes.get(pfs_id, obj_id)
    except NotFound:
        return None
    return RedoFile(inode.data.size, inode.data.mtime) if inode.is_file else None
