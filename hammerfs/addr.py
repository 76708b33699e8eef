"""Addresses (zone, volume, offset), localizations (PFS id, class), and TIDs as text."""

from __future__ import annotations

from hammerfs.const import (
    BIGBLOCK_SIZE,
    LOCALIZE_MASK,
    OFF_LONG_MASK,
    OFF_SHORT_MASK,
    VOL_SHIFT,
    XBUFSIZE,
    XDEMARC,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
)
from hammerfs.const import BUFSIZE as _BUFSIZE


def zone_of(off: int) -> int:
    """Zone number of an address, 0..15."""
    return off >> ZONE_SHIFT


def vol_of(off: int) -> int:
    """Volume number of an address, 0..255."""
    return (off >> VOL_SHIFT) & 0xFF


def short_of(off: int) -> int:
    """Offset inside the volume's space, 52 bits."""
    return off & OFF_SHORT_MASK


def encode(zone: int, vol_no: int, short: int) -> int:
    """The address of byte `short` of volume `vol_no` in `zone`."""
    return zone << ZONE_SHIFT | vol_no << VOL_SHIFT | short


def zone2_of(off: int) -> int:
    """The raw-buffer (zone 2) address of a tagged one: zones 4 and 8..15 differ from zone 2 in the tag only."""
    return (off & OFF_LONG_MASK) | ZONE_RAW_BUFFER << ZONE_SHIFT


def retag(off: int, zone: int) -> int:
    """The same place tagged with another zone."""
    return (off & OFF_LONG_MASK) | zone << ZONE_SHIFT


def bigblock_base(off: int) -> int:
    """First byte of the big-block that holds `off`."""
    return off & ~(BIGBLOCK_SIZE - 1)


def round16(nbytes: int) -> int:
    """Space an allocation of `nbytes` takes: rounded up to the 16-byte alignment."""
    return (nbytes + 15) & ~15


def block_size_at(offset: int) -> int:
    """Size of the data block that holds file offset `offset`: 16 KiB below 1 MiB, else 64 KiB."""
    return _BUFSIZE if offset < XDEMARC else XBUFSIZE


def pfs_of(localization: int) -> int:
    """PFS id of a localization."""
    return localization >> 16


def class_of(localization: int) -> int:
    """Class of a localization: LOCALIZE_INODE or LOCALIZE_MISC."""
    return localization & LOCALIZE_MASK


def localize(pfs_id: int, cls: int = 0) -> int:
    """Localization of a class of records of a PFS."""
    return pfs_id << 16 | cls


def tid_text(tid: int) -> str:
    """A TID as it is printed everywhere."""
    return f"0x{tid:016x}"
