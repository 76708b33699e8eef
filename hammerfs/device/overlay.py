"""Copy-on-write in memory over another device, and devices that live in memory only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hammerfs.device.base import Buffer, Device, ZeroDevice
from hammerfs.errors import UsageError

GRANULE = 16384
"""Bytes kept as one piece by default: a file system buffer."""


class OverlayDevice(Device):
    """Writes stay in memory, in granules; all else is read from the device below, which is never written to.

    The first write that covers a granule only in part reads the rest of it from below.

    Args:
        lower: Where unchanged bytes come from.
        granule: Bytes kept as one piece: a power of two, 512 or more.
        readonly: Refuse writes (`patch` still works).
        name: What errors call it; by default the name of the device below.
        owns_lower: Whether closing this closes the device below too.
    """

    def __init__(
        self,
        lower: Device,
        *,
        granule: int = GRANULE,
        readonly: bool = False,
        name: str | None = None,
        owns_lower: bool = True,
    ) -> None:
        if granule < 512 or granule & (granule - 1):
            raise UsageError(f"overlay granule of {granule} bytes is not a power of two from 512 up")
        super().__init__(name or lower.name, lower.size, readonly=readonly, sector=lower.sector)
        self.lower = lower
        self.granule = granule
        self._owns_lower = owns_lower
        self._pieces: dict[int, bytearray] = {}

    @property
    def memory_bytes(self) -> int:
        """Bytes held in memory."""
        return len(self._pieces) * self.granule

    @property
    def dirty(self) -> list[tuple[int, int]]:
        """(begin, end) of the ranges held in memory, ascending, neighbours joined, cut at the device's end."""
        joined: list[tuple[int, int]] = []
        for index in sorted(self._pieces):
            begin, end = index * self.granule, min((index + 1) * self.granule, self.size)
            if joined and joined[-1][1] == begin:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((begin, end))
        return joined

    def revert(self) -> None:
        """Forget all writes."""
        self._pieces.clear()

    def patch(self, off: int, data: Buffer) -> None:
        """As `pwrite`, also on a read-only overlay: for recovery, which changes what a reader sees."""
        view = memoryview(data).cast("B")
        self._check(off, view.nbytes)
        self._pwritev(off, (view,), view.nbytes)

    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        if self._touched(off, n):
            for view in views:
                off = self._fill(off, view)
        else:
            self.lower.preadv(off, views)

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        if not self._touched(off, n):
            return self.lower.preadv_nowait(off, views) is not None
        missing = any(index not in self._pieces for index in self._span(off, n))
        if missing and self.lower.preadv_nowait(off, views) is None:
            return False
        for view in views:
            off = self._lay_over(off, view)
        return True

    def _pwritev(self, off: int, buffers: Sequence[Buffer], n: int) -> None:
        size = self.granule
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            done = 0
            while done < view.nbytes:
                index, at = divmod(off + done, size)
                take = min(size - at, view.nbytes - done)
                piece = self._pieces.get(index)
                if piece is None:
                    piece = self._bring(index, whole=take == size)
                    self._pieces[index] = piece
                piece[at : at + take] = view[done : done + take]
                done += take
            off += done

    def _discard(self, off: int, n: int) -> bool:
        return False

    def _will_need(self, off: int, n: int) -> None:
        self.lower.will_need(off, n)

    def _extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        ours = [(b, e) for b, e in self.dirty if b < end and e > begin]
        below = self.lower.extents(begin, end - begin)
        yield from _join(sorted([*below, *((max(b, begin), min(e, end)) for b, e in ours)]))

    def _close(self) -> None:
        self._pieces.clear()
        if self._owns_lower:
            self.lower.close()

    def _span(self, off: int, n: int) -> range:
        return range(off // self.granule, -(-(off + n) // self.granule))

    def _touched(self, off: int, n: int) -> bool:
        pieces = self._pieces
        if not pieces:
            return False
        span = self._span(off, n)
        if len(span) > len(pieces):  # a long read over a small overlay: look through the smaller one
            return any(index in span for index in pieces)
        return any(index in pieces for index in span)

    def _fill(self, off: int, view: memoryview) -> int:
        """Read into one view, ranges that are not ours in one call each; returns the offset behind it."""
        size, pieces = self.granule, self._pieces
        view = view.cast("B")
        done = 0
        while done < view.nbytes:
            index, at = divmod(off + done, size)
            take = min(size - at, view.nbytes - done)
            piece = pieces.get(index)
            if piece is not None:
                view[done : done + take] = memoryview(piece)[at : at + take]
            else:
                while done + take < view.nbytes and (index := index + 1) not in pieces:
                    take = min(take + size, view.nbytes - done)
                self.lower.preadv(off + done, (view[done : done + take],))
            done += take
        return off + done

    def _lay_over(self, off: int, view: memoryview) -> int:
        """Put our granules over a view that holds the bytes from below; returns the offset behind it."""
        size = self.granule
        view = view.cast("B")
        for index in self._span(off, view.nbytes):
            piece = self._pieces.get(index)
            if piece is not None:
                begin, end = max(off, index * size), min(off + view.nbytes, (index + 1) * size)
                view[begin - off : end - off] = memoryview(piece)[begin - index * size : end - index * size]
        return off + view.nbytes

    def _bring(self, index: int, *, whole: bool) -> bytearray:
        piece = bytearray(self.granule)
        if not whole:
            begin = index * self.granule
            keep = min(self.granule, self.size - begin)
            self.lower.preadv(begin, (memoryview(piece)[:keep],))
        return piece


def memory_device(size: int, name: str = "memory") -> OverlayDevice:
    """A writable device of `size` zero bytes that keeps in memory what is written to it, and no more."""
    return OverlayDevice(ZeroDevice(size, name))


def _join(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begin, end = -1, -1
    for b, e in ranges:
        if b > end:
            if end > begin:
                yield begin, end
            begin, end = b, e
        else:
            end = max(end, e)
    if end > begin:
        yield begin, end
