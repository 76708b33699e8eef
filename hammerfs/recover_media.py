"""Stage 1 of crash recovery on the media: metadata is rolled back to the last commit that is whole.

The FIFO's range is kept until a later flush, so a cut at any moment leaves an image from which recovery starts again
and comes to the same result.
"""

from __future__ import annotations

from hammerfs.const import VOL_HEADER_SIZE, ZONE_UNDO
from hammerfs.device.overlay import OverlayDevice
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.recover import RecoveryScan, UndoSummary, apply_undo, scan_fifo
from hammerfs.undo import UndoFifo
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes

_GRANULE = 4096


def recover_media(volumes: Volumes) -> tuple[RecoveryScan, UndoSummary | None]:
    """Roll back what was under way when the file system was last used; nothing is written when that was nothing.

    Returns:
        The active range of the FIFO, and what was undone in it, if anything.

    Raises:
        CorruptError: The FIFO is damaged where it is needed.
        ReadOnlyError: A volume can't be written to.
        DeviceError: A device failed; recovery can be tried again.
    """
    fifo = UndoFifo(volumes)
    scan = scan_fifo(fifo, volumes.version)
    if not scan.is_dirty:
        return scan, None
    overlays = {volume: OverlayDevice(volume.dev, granule=_GRANULE, owns_lower=False) for volume in volumes}

    def patch(volume: Volume, byte_off: int, saved: bytes) -> None:
        overlays[volume].pwrite(byte_off, saved)

    undone = apply_undo(volumes, fifo, scan, patch)
    for volume, overlay in overlays.items():
        _copy(volume, overlay, skip_header=volume is volumes.root)
    _write_header(volumes, overlays[volumes.root], scan)
    volumes.reload()
    return scan, undone


def _copy(volume: Volume, overlay: OverlayDevice, *, skip_header: bool) -> None:
    """Write what was patched, then a barrier; the root header comes last."""
    for begin, end in overlay.dirty:
        start = _GRANULE if skip_header and begin == 0 else begin
        if start < end:
            volume.dev.pwrite(start, overlay.pread(start, end - start))
    volume.dev.flush()


def _write_header(volumes: Volumes, overlay: OverlayDevice, scan: RecoveryScan) -> None:
    """The restored root header with the range as it was found."""
    root = volumes.root
    head = VolumeOndisk.decode(overlay.pread(0, VOL_HEADER_SIZE))
    head.vol0_next_tid = max(head.vol0_next_tid, root.ondisk.vol0_next_tid)
    zones = head.vol0_blockmap
    zones[ZONE_UNDO] = zones[ZONE_UNDO]._replace(first_offset=scan.first, next_offset=scan.last).sealed(volumes.rule)
    head.seal(volumes.rule)
    root.dev.pwrite(0, head.encode())
    root.dev.flush()
