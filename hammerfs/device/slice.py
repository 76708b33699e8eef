"""A part of a device as a device of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hammerfs.device.base import Buffer, Device
from hammerfs.errors import DeviceError


class SliceDevice(Device):
    """`size` bytes of another device from byte `begin` on.

    Args:
        parent: The whole.
        begin: First byte of the part.
        size: Bytes of the part.
        name: What errors call it.
        on_close: Called when this is closed; by default closes the whole.

    Raises:
        DeviceError: The part leaves the whole.
    """

    def __init__(
        self, parent: Device, begin: int, size: int, name: str, *, on_close: Callable[[], None] | None = None
    ) -> None:
        if begin < 0 or size < 0 or begin + size > parent.size:
            raise DeviceError(f"{size} bytes from {begin} on leave the disk of {parent.size} bytes", volume=name)
        super().__init__(name, size, readonly=parent.readonly, sector=parent.sector)
        self.parent = parent
        self.begin = begin
        self._on_close = on_close or parent.close

    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        self.parent.preadv(self.begin + off, views)

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        return self.parent.preadv_nowait(self.begin + off, views) is not None

    def _pwritev(self, off: int, buffers: Sequence[Buffer], n: int) -> None:
        self.parent.pwritev(self.begin + off, buffers)

    def _flush(self) -> None:
        self.parent.flush()

    def _discard(self, off: int, n: int) -> bool:
        return self.parent.discard(self.begin + off, n)

    def _will_need(self, off: int, n: int) -> None:
        self.parent.will_need(self.begin + off, n)

    def _extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        for b, e in self.parent.extents(self.begin + begin, end - begin):
            yield b - self.begin, e - self.begin

    def _close(self) -> None:
        self._on_close()
