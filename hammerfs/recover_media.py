"""Crash recovery, stage 1, on the media: what a read-write mount does before anything else (hammer_recover.c).

The saved bytes go back, newest first; then the root header, with the active range as it was found. So a recovery that
is interrupted is simply done again, and what is appended to the FIFO later extends the same range until a commit
drops it as a whole.
"""

from __future__ import annotations

from hammerfs.const import BUFMASK, BUFSIZE, VOL_HEADER_SIZE, ZONE_UNDO
from hammerfs.crc import CrcRule
from hammerfs.errors import ReadOnlyError
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.recover import RecoveryScan, apply_undo, scan_fifo
from hammerfs.undo import UndoFifo
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes

_MOST_BUFFERS = 2048
"""Buffers held in memory before they are written: 32 MiB."""
_RUN = 64
"""Most buffers in one write: 1 MiB."""


def recover_media(volumes: Volumes) -> RecoveryScan:
    """Roll metadata back to the last commit, and make that durable; a clean file system is not written to.

    Returns:
        The active range, which the media still holds. What is left to do: carry out again what `redo.operations`
        gives, and commit.

    Raises:
        ReadOnlyError: A volume can't be written to.
        CorruptError: The FIFO is damaged, or what it restores can't be.
        DeviceError: A volume failed; the recovery may be tried again.
    """
    for volume in volumes:
        if volume.dev.readonly:
            raise ReadOnlyError("recovery has to write to all volumes", volume=volume.dev.name)
    fifo = UndoFifo(volumes)
    scan = scan_fifo(fifo, volumes.version)
    if scan.is_dirty:
        media = _Media(volumes)
        apply_undo(volumes, fifo, scan, media.patch)
        media.finish(scan)
        volumes.reload()
    return scan


def redo_from(volumes: Volumes, scan: RecoveryScan) -> int | None:
    """FIFO address of the earliest REDO record still needed, by the newest SYNC record of the range; None without one.

    Raises:
        CorruptError: The FIFO is damaged.
        DeviceError: The root volume failed.
    """
    return apply_undo(volumes, UndoFifo(volumes), scan, _ignore).redo_from


def _ignore(volume: Volume, byte_off: int, saved: bytes) -> None:
    """Takes saved bytes that are not wanted."""


class _Media:
    """Saved bytes on their way back to the media, by buffer; the root header's buffer is kept to the end."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._buffers: dict[tuple[int, int], bytearray] = {}
        self._header = bytearray(volumes.root.dev.pread(0, BUFSIZE))

    def patch(self, volume: Volume, byte_off: int, saved: bytes) -> None:
        """Put saved bytes back; they lie inside one buffer."""
        at = byte_off & BUFMASK
        base = byte_off - at
        if not base and volume is self._volumes.root:
            buf = self._header
        else:
            key = (volume.vol_no, base)
            found = self._buffers.get(key)
            if found is None:
                if len(self._buffers) == _MOST_BUFFERS:
                    self._write()
                found = self._buffers[key] = bytearray(volume.dev.pread(base, BUFSIZE))
            buf = found
        buf[at : at + len(saved)] = saved

    def finish(self, scan: RecoveryScan) -> None:
        """Write all; a barrier; the root header, with the range; a barrier."""
        self._write()
        for volume in self._volumes:
            volume.dev.flush()
        head = VolumeOndisk.decode(self._header)
        rule = CrcRule(head.vol_version)
        zones = head.vol0_blockmap
        zones[ZONE_UNDO] = zones[ZONE_UNDO]._replace(first_offset=scan.first, next_offset=scan.last).sealed(rule)
        head.seal(rule)
        self._header[:VOL_HEADER_SIZE] = head.encode()
        root = self._volumes.root.dev
        root.pwrite(0, self._header)
        root.flush()

    def _write(self) -> None:
        """Write the buffers in order of address, neighbours together, and forget them."""
        run: list[bytearray] = []
        first = follows = (-1, -1)
        for key in sorted(self._buffers):
            if key != follows or len(run) == _RUN:
                self._write_run(first, run)
                first, run = key, []
            run.append(self._buffers[key])
            follows = (key[0], key[1] + BUFSIZE)
        self._write_run(first, run)
        self._buffers.clear()

    def _write_run(self, first: tuple[int, int], run: list[bytearray]) -> None:
        if run:
            vol_no, byte_off = first
            self._volumes.by_number[vol_no].dev.pwritev(byte_off, run)
