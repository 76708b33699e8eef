"""Writing a layout to its volumes, in an order in which nothing half-made looks whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hammerfs.device.base import Device
from hammerfs.errors import InvalidError
from mkfs.layout import Extent, Layout

_TRIM_CHUNK = 1 << 30

Trace = Callable[[str], None]


def erase(device: Device) -> None:
    """Give all bytes of a volume back to the host (TRIM).

    Raises:
        InvalidError: The host or the disk can't.
        DeviceError: It failed.
    """
    end = device.size - device.size % device.sector
    for at in range(0, end, _TRIM_CHUNK):
        if not device.discard(at, min(_TRIM_CHUNK, end - at)):
            raise InvalidError("takes no TRIM: leave -E out", volume=device.name)


def write_layout(layout: Layout, devices: Sequence[Device], *, window: int | None = None, trace: Trace) -> None:
    """Write everything and make it durable: the first sectors of the headers, which hold the signatures, at the end.

    Args:
        layout: What to write.
        devices: The volumes by number; they have no valid header.
        window: Bytes that may wait in the host's cache before they are forced out; None leaves it to the host.
        trace: Told of every extent.

    Raises:
        DeviceError: A volume failed; the set is no file system then, unless the last barrier failed.
    """
    waiting = 0
    signatures: list[Extent] = []
    for extent in layout.extents():
        trace(f"volume {extent.vol_no}: {len(extent.data)} bytes at {extent.offset}")
        device, offset, data = devices[extent.vol_no], extent.offset, extent.data
        if offset == 0:
            signatures.append(Extent(extent.vol_no, 0, data[: device.sector]))
            offset, data = device.sector, data[device.sector :]
        if not any(device.extents(offset, len(data))):  # a hole is zeros already, and stays one
            data = data.rstrip(b"\0")
        device.pwrite(offset, data)
        waiting += len(extent.data)
        if window is not None and waiting >= window:
            _flush(devices)
            waiting = 0
    _flush(devices)
    for signature in signatures:
        devices[signature.vol_no].pwrite(0, signature.data)
    _flush(devices)


def _flush(devices: Sequence[Device]) -> None:
    for device in devices:
        device.flush()
