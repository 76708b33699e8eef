"""The volume header (hammer_disk.h: hammer_volume_ondisk), 1928 bytes at byte 0 of every volume."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field

from hammerfs.const import (
    BIGBLOCK_SIZE,
    BOOT_AREA_MIN,
    BUFMASK,
    FSTYPE_UUID,
    MAX_UNDO_BIGBLOCKS,
    MAX_ZONES,
    MEMORY_LOG_MIN,
    OFF_BAD,
    OFF_SHORT_MASK,
    ROOT_VOLUME,
    VOL_HEADER_AREA,
    VOL_HEADER_SIZE,
    VOL_SIGNATURE,
)
from hammerfs.crc import CrcRule, Data
from hammerfs.errors import CorruptError, InvalidError
from hammerfs.ondisk.blockmap import ZONE_DESC_SIZE, ZoneDesc

_HEAD = struct.Struct("<Q4qq16s16s64siiIIII32sqqqqqQQQ")
_UNDO = struct.Struct(f"<{MAX_UNDO_BIGBLOCKS}Q")
BLOCKMAP_OFFSET = 264
"""Byte offset of the 16 zone descriptors in the header."""
UNDO_ARRAY_OFFSET = 904
assert _HEAD.size == BLOCKMAP_OFFSET
assert UNDO_ARRAY_OFFSET == BLOCKMAP_OFFSET + MAX_ZONES * ZONE_DESC_SIZE
assert UNDO_ARRAY_OFFSET + _UNDO.size == VOL_HEADER_SIZE

FIELD_OFFSETS = {
    "vol_count": 148,
    "vol_version": 152,
    "vol_crc": 156,
    "vol0_stat_bigblocks": 200,
    "vol0_stat_freebigblocks": 208,
    "vol0_stat_inodes": 224,
    "vol0_btree_root": 240,
    "vol0_next_tid": 248,
    "vol0_blockmap": BLOCKMAP_OFFSET,
}
"""Byte offsets of the fields that change during use: what a zone-1 UNDO record names."""


def _no_zones() -> list[ZoneDesc]:
    return [ZoneDesc(0, 0, 0, 0, 0, 0)] * MAX_ZONES


def _no_undo() -> list[int]:
    return [OFF_BAD] * MAX_UNDO_BIGBLOCKS


@dataclass(slots=True)
class VolumeOndisk:
    """One volume header. The ``vol0_*`` fields mean something on the root volume only."""

    vol_signature: int = VOL_SIGNATURE
    vol_bot_beg: int = 0
    """Start of the boot area, bytes; unused by any code."""
    vol_mem_beg: int = 0
    """Start of the memory log, bytes; unused."""
    vol_buf_beg: int = 0
    """Zone-2 offset 0, bytes in the volume."""
    vol_buf_end: int = 0
    """End of zone-2 space, bytes in the volume."""
    reserved0: int = 0
    vol_fsid: bytes = b"\0" * 16
    """Identifies the file system, equal on all its volumes; DCE byte order."""
    vol_fstype: bytes = FSTYPE_UUID
    vol_label: bytes = b""
    """64 bytes, NUL padded as stored; see `label`."""
    vol_no: int = 0
    vol_count: int = 1
    vol_version: int = 7
    vol_crc: int = 0
    vol_flags: int = 0
    vol_rootvol: int = 0
    reserved1: bytes = b"\0" * 32
    """Early releases stored a block size and count here."""
    vol0_stat_bigblocks: int = 0
    vol0_stat_freebigblocks: int = 0
    reserved2: int = 0
    vol0_stat_inodes: int = 0
    reserved3: int = 0
    vol0_btree_root: int = 0
    vol0_next_tid: int = 0
    """Highest TID known to have been used in a flush."""
    reserved4: int = 0
    vol0_blockmap: list[ZoneDesc] = field(default_factory=_no_zones)
    vol0_undo_array: list[int] = field(default_factory=_no_undo)
    """Zone-2 addresses of the FIFO's big-blocks, all ones where unused."""

    @classmethod
    def decode(cls, buf: Data) -> VolumeOndisk:
        """The header at the start of `buf`; nothing is verified.

        Raises:
            CorruptError: Fewer than 1928 bytes.
        """
        if len(buf) < VOL_HEADER_SIZE:
            raise CorruptError(f"volume header has {len(buf)} bytes instead of {VOL_HEADER_SIZE}")
        zones = [ZoneDesc.decode(buf, BLOCKMAP_OFFSET + i * ZONE_DESC_SIZE) for i in range(MAX_ZONES)]
        fields = (*_HEAD.unpack_from(buf), zones, list(_UNDO.unpack_from(buf, UNDO_ARRAY_OFFSET)))
        return cls(*fields)

    def encode(self) -> bytes:
        """The 1928 bytes, checksums as they stand."""
        head = _HEAD.pack(
            self.vol_signature,
            self.vol_bot_beg,
            self.vol_mem_beg,
            self.vol_buf_beg,
            self.vol_buf_end,
            self.reserved0,
            self.vol_fsid,
            self.vol_fstype,
            self.vol_label,
            self.vol_no,
            self.vol_count,
            self.vol_version,
            self.vol_crc,
            self.vol_flags,
            self.vol_rootvol,
            self.reserved1,
            self.vol0_stat_bigblocks,
            self.vol0_stat_freebigblocks,
            self.reserved2,
            self.vol0_stat_inodes,
            self.reserved3,
            self.vol0_btree_root,
            self.vol0_next_tid,
            self.reserved4,
        )
        zones = b"".join(zone.encode() for zone in self.vol0_blockmap)
        return head + zones + _UNDO.pack(*self.vol0_undo_array)

    def seal(self, rule: CrcRule) -> None:
        """Set `vol_crc` to the right value."""
        self.vol_crc = header_crc(self.encode(), rule)

    def crc_ok(self, rule: CrcRule) -> bool:
        """Whether `vol_crc` is right; 0 (never flushed since formatting) is not."""
        raw = self.encode()
        return rule.matches(self.vol_crc, raw[:156], raw[160:VOL_HEADER_SIZE])

    @property
    def label(self) -> bytes:
        """The label without its padding."""
        return self.vol_label.split(b"\0", 1)[0]

    @property
    def fsid(self) -> uuid.UUID:
        """`vol_fsid` as a UUID object."""
        return uuid.UUID(bytes_le=self.vol_fsid)

    @property
    def fstype(self) -> uuid.UUID:
        """`vol_fstype` as a UUID object."""
        return uuid.UUID(bytes_le=self.vol_fstype)

    @property
    def buf_size(self) -> int:
        """Bytes of zone-2 space."""
        return self.vol_buf_end - self.vol_buf_beg


def new_header(
    vol_no: int, size: int, *, boot_area: int = BOOT_AREA_MIN, memory_log: int = MEMORY_LOG_MIN
) -> VolumeOndisk:
    """The header of a new volume of so many bytes: its number and areas. The rest is the caller's.

    Raises:
        InvalidError: Too small or too large; its `volume` is the number.
    """
    mem_beg = VOL_HEADER_AREA + boot_area
    buf_beg = mem_beg + memory_log
    if size & ~BUFMASK < buf_beg + BIGBLOCK_SIZE:
        raise InvalidError(f"is too small: {size} bytes hold no big-block", volume=vol_no)
    if size - buf_beg > OFF_SHORT_MASK:
        raise InvalidError(f"is too large: a volume has at most {OFF_SHORT_MASK + 1} bytes", volume=vol_no)
    header = VolumeOndisk(
        vol_bot_beg=VOL_HEADER_AREA,
        vol_mem_beg=mem_beg,
        vol_buf_beg=buf_beg,
        vol_buf_end=size & ~BUFMASK,
        vol_no=vol_no,
        vol_rootvol=ROOT_VOLUME,
    )
    if vol_no != ROOT_VOLUME:
        header.vol0_undo_array = [0] * MAX_UNDO_BIGBLOCKS
    return header


def header_crc(raw: Data, rule: CrcRule) -> int:
    """Checksum of a raw header: bytes 0..155 and 160..1927 separately, XORed."""
    view = memoryview(raw)
    return rule.of(view[:156], view[160:VOL_HEADER_SIZE])
