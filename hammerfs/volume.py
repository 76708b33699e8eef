"""One volume: a device and the header found on it, checked as far as one volume can be."""

from __future__ import annotations

from hammerfs.const import (
    BIGBLOCK_SIZE,
    BUFMASK,
    BUFSIZE,
    MAX_VOLUMES,
    OFF_SHORT_MASK,
    VOL_HEADER_SIZE,
    VOL_SIGNATURE,
    VOL_SIGNATURE_REV,
)
from hammerfs.device.base import Device
from hammerfs.errors import CorruptError, VolumeSetError
from hammerfs.ondisk.volume import VolumeOndisk


class Volume:
    """A volume of the set.

    Args:
        dev: Where its bytes are.

    Raises:
        VolumeSetError: Not a HAMMER volume.
        CorruptError: A header whose fields can't be.
        DeviceError: The device failed.
    """

    __slots__ = ("buf_beg", "buf_end", "buf_size", "dev", "ondisk", "vol_no")

    def __init__(self, dev: Device) -> None:
        self.dev = dev
        self.ondisk = read_header(dev)
        self.vol_no = self.ondisk.vol_no
        self.buf_beg = self.ondisk.vol_buf_beg
        self.buf_end = self.ondisk.vol_buf_end
        self.buf_size = self.buf_end - self.buf_beg
        """Bytes of zone-2 space."""

    def __repr__(self) -> str:
        return f"<Volume {self.vol_no} {self.dev.name!r}>"

    def reload(self) -> None:
        """Read the header again, after recovery has changed it on the device.

        Raises:
            CorruptError: It can't be, or it names another volume than before.
        """
        ondisk = read_header(self.dev)
        if (ondisk.vol_no, ondisk.vol_buf_beg, ondisk.vol_buf_end) != (self.vol_no, self.buf_beg, self.buf_end):
            raise CorruptError("recovery changed the geometry of the volume", volume=self.dev.name, offset=0)
        self.ondisk = ondisk

    @property
    def bigblocks(self) -> int:
        """Whole big-blocks of the volume."""
        return self.buf_size // BIGBLOCK_SIZE


def read_header(dev: Device) -> VolumeOndisk:
    """Read and check the header of a volume; the checksum is not looked at (the caller knows the version).

    Raises:
        VolumeSetError: Not a HAMMER volume.
        CorruptError: A header whose fields can't be.
    """
    if dev.size < BUFSIZE:
        raise VolumeSetError(f"no HAMMER volume: {dev.size} bytes are too few", volume=dev.name)
    ondisk = VolumeOndisk.decode(dev.pread(0, VOL_HEADER_SIZE))
    if ondisk.vol_signature == VOL_SIGNATURE_REV:
        raise VolumeSetError("HAMMER volume of the other byte order", volume=dev.name)
    if ondisk.vol_signature != VOL_SIGNATURE:
        raise VolumeSetError("no HAMMER volume: bad signature", volume=dev.name)
    if not 0 <= ondisk.vol_no < MAX_VOLUMES:
        raise CorruptError(f"volume number {ondisk.vol_no}", volume=dev.name, offset=0)
    beg, end = ondisk.vol_buf_beg, ondisk.vol_buf_end
    if (beg | end) & BUFMASK or not BUFSIZE <= beg <= end or end - beg > OFF_SHORT_MASK:
        raise CorruptError(f"buffer area {beg}..{end} can't be", volume=dev.name, offset=0)
    if end > dev.size:
        raise CorruptError(f"volume of {end} bytes is cut off at {dev.size}", volume=dev.name, offset=0)
    return ondisk
