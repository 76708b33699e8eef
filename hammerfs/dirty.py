"""Contents of a file that are newer than the media: written pieces, a cut, and extents that wait for their records.

The same store serves a mount that writes (what the next flush will put into the tree) and a reader of an image that was
not closed cleanly (what REDO records bring back).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hammerfs.addr import block_size_at
from hammerfs.const import XBUFSIZE, XDEMARC

if TYPE_CHECKING:
    from hammerfs.data import Extent

_ZEROS = bytes(XBUFSIZE)
LOG_LIMIT = 128 << 10
"""Bytes written between two fsyncs up to which logging them is cheaper than a flush."""


class DirtyBlock:
    """One block of a file (16 KiB below 1 MiB, else 64 KiB) of which some bytes were written.

    Args:
        base: File offset of its first byte.
    """

    __slots__ = ("base", "buf", "spans")

    def __init__(self, base: int) -> None:
        self.base = base
        self.buf = bytearray()
        """Bytes from the start of the block up to the last one written; those outside `spans` mean nothing."""
        self.spans: list[tuple[int, int]] = []
        """Written ranges inside the block, ascending, neighbours joined."""

    def write(self, beg: int, data: memoryview) -> int:
        """Put bytes at an offset of the block; returns by how many bytes its memory grew."""
        buf = self.buf
        end = beg + len(data)
        grown = 0
        if end > len(buf):
            grown = end - len(buf)
            if beg > len(buf):
                buf += _ZEROS[: beg - len(buf)]
            buf[beg:] = data
        else:
            buf[beg:end] = data
        spans = self.spans
        if not spans:
            spans.append((beg, end))
        elif spans[-1][0] <= beg <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            self.spans = _with(spans, beg, end)
        return grown

    def cut(self, end: int) -> int:
        """Forget what lies at or behind an offset of the block; returns by how many bytes its memory shrank."""
        shrunk = max(0, len(self.buf) - end)
        del self.buf[end:]
        self.spans = [(beg, min(stop, end)) for beg, stop in self.spans if beg < end]
        return shrunk

    def covers(self, end: int) -> bool:
        """Whether all bytes up to `end` are known."""
        return len(self.spans) == 1 and self.spans[0][0] == 0 and self.spans[0][1] >= end


class DirtyData:
    """What is newer than the media of one file.

    Args:
        size: Size of the file on the media.
        mtime: Its modification time, microseconds; a reader's REDO moves it on.
    """

    __slots__ = (
        "blocks",
        "log",
        "log_bytes",
        "logged_size",
        "media_limit",
        "media_size",
        "memory_bytes",
        "mtime",
        "placed",
        "size",
    )

    def __init__(self, size: int, mtime: int = 0) -> None:
        self.size = size
        self.mtime = mtime
        self.media_size = size
        """Size by the inode on the media: no record begins behind it."""
        self.media_limit = size
        """File offset from which the media's data does not count: a truncation cut it off."""
        self.blocks: dict[int, DirtyBlock] = {}
        """By base offset."""
        self.placed: dict[int, Extent] = {}
        """Extents whose bytes are on the media already and whose records come with the next flush, by base offset."""
        self.memory_bytes = 0
        """Bytes held in `blocks`."""
        self.log: list[tuple[int, int]] = []
        """Ranges written since the last fsync, in order."""
        self.log_bytes = 0
        """Sum of them; beyond `LOG_LIMIT` they are not kept any more."""
        self.logged_size = size
        """Size that the log has told."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put bytes at an offset; newer ones win. No extent may be placed where they go (see `placed_in`)."""
        self.put(offset, data)
        self.wrote(offset, offset + len(data))

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """As `write` for bytes that were there already: neither the size nor the log change."""
        view = memoryview(data)
        done, n = 0, len(view)
        while done < n:
            pos = offset + done
            size = block_size_at(pos)
            start = pos % size
            take = min(size - start, n - done)
            base = pos - start
            block = self.blocks.get(base)
            if block is None:
                block = self.blocks[base] = DirtyBlock(base)
            self.memory_bytes += block.write(start, view[done : done + take])
            done += take

    def wrote(self, beg: int, end: int) -> None:
        """Bytes in [beg, end) are new, wherever they are kept."""
        self.size = max(self.size, end)
        self.log_bytes += end - beg
        if self.log_bytes > LOG_LIMIT:
            self.log.clear()
        elif self.log and self.log[-1][1] == beg:
            self.log[-1] = (self.log[-1][0], end)
        else:
            self.log.append((beg, end))

    def truncate(self, size: int) -> None:
        """Set the size; what lies behind is gone, also when the file grows again. No extent may be placed there."""
        if size < self.size:
            self.media_limit = min(self.media_limit, size)
            for base in [base for base in self.blocks if base + block_size_at(base) > size]:
                if base >= size:
                    self.memory_bytes -= len(self.blocks.pop(base).buf)
                else:
                    self.memory_bytes -= self.blocks[base].cut(size - base)
        self.size = size

    def placed_in(self, beg: int, end: int) -> list[Extent]:
        """Placed extents that meet [beg, end), ascending."""
        placed = self.placed
        if not placed:
            return []
        return [placed[base] for base in _bases(placed, beg, end) if base in placed]

    def segments(self, beg: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Pieces in memory that meet [beg, end), cut to it: file offset and a copy of the bytes, ascending."""
        for base, first, last in self._pieces(beg, end):
            yield base + first, bytes(self.blocks[base].buf[first:last])

    def ranges(self, beg: int, end: int) -> Iterator[tuple[int, int]]:
        """First and last offset of the pieces in memory that meet [beg, end), ascending."""
        for base, first, last in self._pieces(beg, end):
            yield base + first, base + last

    def _pieces(self, beg: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Base of a block, and a written range inside it."""
        for base in _bases(self.blocks, beg, end):
            block = self.blocks.get(base)
            if block is None:
                continue
            for span_beg, span_end in block.spans:
                first, last = max(span_beg, beg - base), min(span_end, end - base)
                if first < last:
                    yield base, first, last

    def forget(self) -> None:
        """Drop all that is in memory."""
        self.blocks.clear()
        self.memory_bytes = 0

    def force(self, base: int) -> None:
        """Have a block written anew although nothing in it was."""
        self.blocks[base] = DirtyBlock(base)

    def log_taken(self) -> None:
        """The FIFO holds all that was logged."""
        self.log = []
        self.log_bytes = 0
        self.logged_size = self.size


def _bases(keyed: dict[int, DirtyBlock] | dict[int, Extent], beg: int, end: int) -> Iterator[int]:
    """Base offsets of the blocks that meet [beg, end), ascending; some of them may hold nothing."""
    if end <= beg or not keyed:
        return
    if (end - beg) // XBUFSIZE > len(keyed) + XDEMARC // XBUFSIZE:  # a long range, few blocks
        yield from sorted(base for base in keyed if base < end and base + block_size_at(base) > beg)
        return
    base = beg - beg % block_size_at(beg)
    while base < end:
        yield base
        base += block_size_at(base)


def _with(spans: list[tuple[int, int]], beg: int, end: int) -> list[tuple[int, int]]:
    """Spans with one more."""
    joined: list[tuple[int, int]] = []
    for span in sorted([*spans, (beg, end)]):
        if joined and joined[-1][1] >= span[0]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], span[1]))
        else:
            joined.append(span)
    return joined
