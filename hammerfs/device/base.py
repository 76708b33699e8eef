"""What a device is: numbered bytes that can be read, written and made durable.

Everything above sees volumes through `Device` only. The public methods check bounds and state once, in one place, and
hand over to the `_…` methods of a kind of device; a kind never sees an access that leaves it.

A device may be used by several OS threads at the same time (the I/O CPUs do) as long as nobody closes it meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from hammerfs.errors import ClosedError, DeviceError, ReadOnlyError

Buffer = bytes | bytearray | memoryview
"""What can be written: any contiguous bytes."""


class Device(ABC):
    """Numbered bytes: `size` of them, from 0.

    Args:
        name: What errors call it, mostly its path.
        size: Bytes; fixed for the life of the device.
        readonly: Whether writes are refused.
        sector: Bytes of a sector as the host reports it; 512 where there is no such thing.
    """

    def __init__(self, name: str, size: int, *, readonly: bool, sector: int = 512) -> None:
        self.name = name
        self.size = size
        self.readonly = readonly
        self.sector = sector
        self._closed = False

    def __repr__(self) -> str:
        mode = "closed" if self._closed else "ro" if self.readonly else "rw"
        return f"<{type(self).__name__} {self.name!r} {self.size} bytes {mode}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def pread(self, off: int, n: int) -> bytes:
        """Read exactly `n` bytes at byte `off`.

        Raises:
            DeviceError: The range leaves the device, or the host failed; names device and offset.
            ClosedError: The device has been closed.
        """
        self._check(off, n)
        return self._pread(off, n)

    def preadv(self, off: int, views: Sequence[memoryview]) -> int:
        """Fill writable byte views, one after the other, from byte `off` on.

        Returns:
            Bytes read: always the sum of the views' lengths.

        Raises:
            DeviceError: The range leaves the device, or the host failed; names device and offset.
            ClosedError: The device has been closed.
        """
        n = _total(views)
        self._check(off, n)
        self._preadv(off, views, n)
        return n

    def preadv_nowait(self, off: int, views: Sequence[memoryview]) -> int | None:
        """As `preadv`, if that needs no wait for the media (the host has all of it in memory).

        Returns:
            Bytes read (the sum of the views' lengths), or None when it would block or the host can't tell; the
            views may then hold anything.

        Raises:
            DeviceError: As `preadv`.
            ClosedError: The device has been closed.
        """
        n = _total(views)
        self._check(off, n)
        return n if self._preadv_nowait(off, views, n) else None

    def pwrite(self, off: int, data: Buffer) -> None:
        """Write `data` at byte `off`; durable only after `flush`.

        Raises:
            ReadOnlyError: The device was opened for reading.
            DeviceError: The range leaves the device, or the host failed; names device and offset.
            ClosedError: The device has been closed.
        """
        self.pwritev(off, (data,))

    def pwritev(self, off: int, buffers: Sequence[Buffer]) -> int:
        """Write buffers one after the other from byte `off` on, however many; durable only after `flush`.

        Returns:
            Bytes written: always the sum of the buffers' lengths.

        Raises:
            ReadOnlyError: The device was opened for reading.
            DeviceError: The range leaves the device, or the host failed; names device and offset.
            ClosedError: The device has been closed.
        """
        n = _total(buffers)
        self._check_write(off, n)
        self._pwritev(off, buffers, n)
        return n

    def flush(self) -> None:
        """Make all finished writes durable: a barrier. Nothing to do on a read-only device.

        Raises:
            DeviceError: The host failed; what was written since the last flush may be lost.
            ClosedError: The device has been closed.
        """
        self._check(0, 0)
        if not self.readonly:
            self._flush()

    def discard(self, off: int, n: int) -> bool:
        """Tell the media that `n` bytes at `off` are not needed: they may hold anything afterwards.

        Returns:
            Whether the host took the hint; False leaves the bytes as they were.

        Raises:
            ReadOnlyError: The device was opened for reading.
            DeviceError: The range leaves the device.
            ClosedError: The device has been closed.
        """
        self._check_write(off, n)
        return n > 0 and self._discard(off, n)

    def will_need(self, off: int, n: int) -> None:
        """Hint that `n` bytes at `off` are read soon, so that the host can bring them in. Never fails."""
        if not self._closed and 0 <= off <= self.size:
            self._will_need(off, min(n, self.size - off))

    def extents(self, off: int, n: int) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the ranges in [off, off + n) that may hold data; the rest reads as zeros.

        Raises:
            DeviceError: The range leaves the device.
            ClosedError: The device has been closed.
        """
        self._check(off, n)
        return self._extents(off, off + n)

    def close(self) -> None:
        """Give the device and its lock back. A second call does nothing. Does not flush."""
        if not self._closed:
            self._closed = True
            self._close()

    def _check(self, off: int, n: int) -> None:
        if self._closed:
            raise ClosedError("device is closed", volume=self.name)
        if off < 0 or n < 0 or off + n > self.size:
            raise DeviceError(
                f"access of {n} bytes leaves the device of {self.size} bytes", volume=self.name, offset=off
            )

    def _check_write(self, off: int, n: int) -> None:
        self._check(off, n)
        if self.readonly:
            raise ReadOnlyError("device is open for reading only", volume=self.name, offset=off)

    def _pread(self, off: int, n: int) -> bytes:
        buf = bytearray(n)
        self._preadv(off, (memoryview(buf),), n)
        return bytes(buf)

    @abstractmethod
    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        """Fill the views, `n` bytes together; the range is inside the device."""

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        """Fill the views if that needs no wait; True when all is filled."""
        return False

    @abstractmethod
    def _pwritev(self, off: int, buffers: Sequence[Buffer], n: int) -> None:
        """Write all buffers, `n` bytes together; the range is inside the device, which is writable."""

    def _flush(self) -> None:
        """Make writes durable; the default has nothing to do."""
        return

    def _discard(self, off: int, n: int) -> bool:
        """Drop the range; the default can't."""
        return False

    def _will_need(self, off: int, n: int) -> None:
        """Take the hint; the default can't."""
        return

    def _extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where data may be; the default knows no holes."""
        if begin < end:
            yield begin, end

    def _close(self) -> None:
        """Give back what the device holds; the default holds nothing."""
        return


def _total(buffers: Sequence[Buffer]) -> int:
    return sum([b.nbytes if isinstance(b, memoryview) else len(b) for b in buffers])


class ZeroDevice(Device):
    """Reads as zeros and takes no writes: the lower layer of memory-only devices."""

    def __init__(self, size: int, name: str = "zero") -> None:
        super().__init__(name, size, readonly=True)

    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        for view in views:
            view[:] = bytes(view.nbytes)

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        self._preadv(off, views, n)
        return True

    def _pwritev(self, off: int, buffers: Sequence[Buffer], n: int) -> None:
        raise ReadOnlyError("a device of zeros takes no writes", volume=self.name, offset=off)

    def _extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        return iter(())
