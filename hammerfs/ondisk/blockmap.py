"""Zone descriptors and the entries of the two-level freemap (hammer_disk.h: hammer_blockmap, _layer1, _layer2)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from hammerfs.const import BIGBLOCK_SIZE, LAYER2_ENTRIES, OFF_BAD, ZONE_FREE, ZONE_UNAVAIL
from hammerfs.crc import CrcRule, Data

_ZONE = struct.Struct("<QQQQII")
_LAYER1 = struct.Struct("<QQQII")
_LAYER2 = struct.Struct("<BBHIiI")
ZONE_DESC_SIZE = 40
LAYER1_SIZE = 32
LAYER2_SIZE = 16
assert _ZONE.size == ZONE_DESC_SIZE
assert _LAYER1.size == LAYER1_SIZE
assert _LAYER2.size == LAYER2_SIZE


class ZoneDesc(NamedTuple):
    """One of the 16 zone descriptors of the root volume header (40 bytes)."""

    phys_offset: int
    """Zone 4: address of the layer-1 table. Zone 3: all ones. Others 0."""
    first_offset: int
    """Zone 3: start of the active FIFO range. Zones 8..15: base of the zone."""
    next_offset: int
    """Zone 3: append point. Zones 8..15: where the allocator goes on (a hint)."""
    alloc_offset: int
    """Zone 3: end of the FIFO. Zones 8..15: last address of the zone."""
    reserved: int
    entry_crc: int

    @classmethod
    def decode(cls, buf: Data, offset: int = 0) -> ZoneDesc:
        """The descriptor at `offset` of `buf`."""
        return cls._make(_ZONE.unpack_from(buf, offset))

    def encode(self) -> bytes:
        """The 40 bytes, checksum as it stands."""
        return _ZONE.pack(*self)

    def sealed(self, rule: CrcRule) -> ZoneDesc:
        """The descriptor with a right checksum."""
        return self._replace(entry_crc=rule.of(self.encode()[:36]))

    def crc_ok(self, rule: CrcRule) -> bool:
        """Whether the checksum is right. An all-zero descriptor of a fresh volume is right as it is."""
        raw = self.encode()
        return rule.matches(self.entry_crc, raw[:36]) or not any(raw)


class Layer1(NamedTuple):
    """Freemap layer 1: one entry for each 4 TiB of address space (32 bytes)."""

    blocks_free: int
    """Free big-blocks in the span."""
    phys_offset: int
    """Zone-2 address of the layer-2 table, all ones when the span does not exist."""
    reserved: int
    layer2_crc: int
    """Never used, 0."""
    layer1_crc: int

    @classmethod
    def decode(cls, buf: Data, offset: int = 0) -> Layer1:
        """The entry at `offset` of `buf`."""
        return cls._make(_LAYER1.unpack_from(buf, offset))

    def encode(self) -> bytes:
        """The 32 bytes, checksum as it stands."""
        return _LAYER1.pack(*self)

    def sealed(self, rule: CrcRule) -> Layer1:
        """The entry with a right checksum."""
        return self._replace(layer1_crc=rule.of(self.encode()[:28]))

    def crc_ok(self, rule: CrcRule) -> bool:
        """Whether the checksum is right."""
        return rule.matches(self.layer1_crc, self.encode()[:28])


class Layer2(NamedTuple):
    """Freemap layer 2: one entry for each big-block (16 bytes)."""

    zone: int
    """Owner: 0 free, 3 undo, 4 freemap, 8..11 data, 15 beyond the end of the volume."""
    reserved1: int
    reserved2: int
    append_off: int
    """First byte of the big-block never handed out, 0..8 MiB."""
    bytes_free: int
    """Free bytes; negative when deduplicated extents are referenced more often than there are bytes."""
    entry_crc: int

    @classmethod
    def decode(cls, buf: Data, offset: int = 0) -> Layer2:
        """The entry at `offset` of `buf`."""
        return cls._make(_LAYER2.unpack_from(buf, offset))

    def encode(self) -> bytes:
        """The 16 bytes, checksum as it stands."""
        return _LAYER2.pack(*self)

    def sealed(self, rule: CrcRule) -> Layer2:
        """The entry with a right checksum."""
        return self._replace(entry_crc=rule.of(self.encode()[:12]))

    def crc_ok(self, rule: CrcRule) -> bool:
        """Whether the checksum is right."""
        return rule.matches(self.entry_crc, self.encode()[:12])


ABSENT_SPAN = Layer1(0, OFF_BAD, 0, 0, 0)
"""The entry of 4 TiB that no volume has, not sealed."""
FREE_BLOCK = Layer2(ZONE_FREE, 0, 0, 0, BIGBLOCK_SIZE, 0)
"""The entry of a free big-block, not sealed."""


def full_block(zone: int) -> Layer2:
    """The entry of a big-block that is used as a whole (FIFO, freemap) or does not exist, not sealed."""
    return Layer2(zone, 0, 0, BIGBLOCK_SIZE, 0, 0)


def encode_layer2_table(count: int, owners: Mapping[int, Layer2], rule: CrcRule) -> bytes:
    """A whole new layer-2 table.

    Args:
        count: Big-blocks that exist of its span.
        owners: Those that are not free, by index.
        rule: Makes the checksums.
    """
    free = FREE_BLOCK.sealed(rule).encode()
    beyond = full_block(ZONE_UNAVAIL).sealed(rule).encode()
    raw = bytearray(free * count + beyond * (LAYER2_ENTRIES - count))
    for index, entry in owners.items():
        raw[index * LAYER2_SIZE : (index + 1) * LAYER2_SIZE] = entry.sealed(rule).encode()
    return bytes(raw)


def decode_layer1_table(buf: Data) -> list[Layer1]:
    """All entries of a buffer of the layer-1 table."""
    return [Layer1._make(fields) for fields in _LAYER1.iter_unpack(buf)]


def decode_layer2_table(buf: Data) -> list[Layer2]:
    """All entries of a buffer of a layer-2 table."""
    return [Layer2._make(fields) for fields in _LAYER2.iter_unpack(buf)]
