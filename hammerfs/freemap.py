"""The two-level freemap: who owns each big-block, and how much of it is free."""

from __future__ import annotations

from collections.abc import Iterator

from hammerfs.addr import vol_of, zone2_of
from hammerfs.cache import BufferCache
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_MASK,
    BUFMASK,
    BUFSIZE,
    LAYER1_ENTRIES,
    LAYER1_PER_VOLUME,
    LAYER1_SHIFT,
    LAYER2_ENTRIES,
    OFF_BAD,
    VOL_SHIFT,
    ZONE_FREEMAP,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
)
from hammerfs.errors import CorruptError, CrcError
from hammerfs.ondisk.blockmap import (
    LAYER1_SIZE,
    LAYER2_SIZE,
    Layer1,
    Layer2,
    decode_layer1_table,
    decode_layer2_table,
)
from hammerfs.volumes import Volumes


def volume_spans(vol_no: int, bigblocks: int) -> dict[int, int]:
    """The spans of 4 TiB that a volume of so many big-blocks has: layer-1 index -> big-blocks in it."""
    return {
        vol_no * LAYER1_PER_VOLUME + first // LAYER2_ENTRIES: min(bigblocks - first, LAYER2_ENTRIES)
        for first in range(0, bigblocks, LAYER2_ENTRIES)
    }


class Freemap:
    """Reads layer 1 and layer 2 through the buffer cache.

    Args:
        volumes: The set.
        cache: Its buffers.
    """

    __slots__ = ("_cache", "_volumes")

    def __init__(self, volumes: Volumes, cache: BufferCache) -> None:
        self._volumes = volumes
        self._cache = cache

    def layer1(self, off: int) -> Layer1:
        """Layer-1 entry of an address of any zone 2, 4, 8..15.

        Raises:
            CorruptError: The table is not where it can be, or the entry's checksum is wrong.
        """
        return self.find_layer1(off)[0]

    def layer2(self, off: int) -> Layer2 | None:
        """Layer-2 entry of the big-block that holds `off`; None when its 4 TiB span does not exist.

        Raises:
            CorruptError: A table is not where it can be, or an entry's checksum is wrong.
        """
        found = self.find_layer2(off)
        return found and found[0]

    def find_layer1(self, off: int) -> tuple[Layer1, int]:
        """As `layer1`, with the zone-2 address of the entry."""
        where = self._layer1_table() + (off >> LAYER1_SHIFT & LAYER1_ENTRIES - 1) * LAYER1_SIZE
        entry = Layer1.decode(self._cache.view(where, LAYER1_SIZE))
        if not entry.crc_ok(self._volumes.rule):
            want = self._volumes.rule.of(entry.encode()[:28])
            raise CrcError("freemap layer 1 entry", want=entry.layer1_crc, found=want, offset=where)
        return entry, where

    def find_layer2(self, off: int) -> tuple[Layer2, int] | None:
        """As `layer2`, with the zone-2 address of the entry."""
        layer1 = self.layer1(off)
        if layer1.phys_offset == OFF_BAD:
            return None
        where = self._layer2_where(layer1, off)
        entry = Layer2.decode(self._cache.view(where, LAYER2_SIZE))
        if not entry.crc_ok(self._volumes.rule):
            want = self._volumes.rule.of(entry.encode()[:12])
            raise CrcError("freemap layer 2 entry", want=entry.entry_crc, found=want, offset=where)
        return entry, where

    def raw_layer2(self, layer1: Layer1, off: int) -> memoryview:
        """Layer-2 entries as they are stored: from that of the big-block of `off` to the end of their buffer.

        Args:
            layer1: The entry of the span, which exists.
            off: Any address in the big-block.

        Raises:
            CorruptError: The table is not where it can be.
        """
        where = self._layer2_where(layer1, off)
        return self._cache.view(where, BUFSIZE - (where & BUFMASK))

    def spans(self) -> Iterator[tuple[int, Layer1, int]]:
        """All layer-1 entries of the volumes of the set whose span exists; checksums are left to the caller.

        Yields:
            (zone-4 address of the span's first byte, the entry, address of the entry).
        """
        table = self._layer1_table()
        per_buffer = BUFSIZE // LAYER1_SIZE
        for vol_no in sorted(self._volumes.by_number):
            for first in range(0, LAYER1_PER_VOLUME, per_buffer):
                index = vol_no * LAYER1_PER_VOLUME + first
                where = table + index * LAYER1_SIZE
                entries = decode_layer1_table(self._cache.view(where, BUFSIZE))
                for i, entry in enumerate(entries):
                    if entry.phys_offset != OFF_BAD:
                        base = ZONE_FREEMAP << ZONE_SHIFT | (index + i) << LAYER1_SHIFT
                        yield base, entry, where + i * LAYER1_SIZE

    def blocks(self, base: int, layer1: Layer1) -> Iterator[tuple[int, Layer2, int]]:
        """Layer-2 entries of the whole big-blocks that the volume has in one span; checksums are left to the caller.

        Args:
            base: Zone-4 address of the span, as `spans` gives it.
            layer1: Its entry.

        Yields:
            (zone-4 address of the big-block, its entry, address of the entry).
        """
        table = self._table(layer1.phys_offset)
        volume = self._volumes.by_number[vol_of(base)]
        left = volume.bigblocks - ((base & (1 << VOL_SHIFT) - 1) >> BIGBLOCK_BITS)
        count = max(0, min(LAYER2_ENTRIES, left))
        for first in range(0, count, BUFSIZE // LAYER2_SIZE):
            where = table + first * LAYER2_SIZE
            entries = decode_layer2_table(self._cache.view(where, BUFSIZE))
            for i, entry in enumerate(entries[: count - first]):
                yield base + (first + i << BIGBLOCK_BITS), entry, where + i * LAYER2_SIZE

    def _layer1_table(self) -> int:
        return self._table(self._volumes.superblock.vol0_blockmap[ZONE_FREEMAP].phys_offset)

    def _layer2_where(self, layer1: Layer1, off: int) -> int:
        return self._table(layer1.phys_offset) + (off >> BIGBLOCK_BITS & LAYER2_ENTRIES - 1) * LAYER2_SIZE

    def _table(self, phys_offset: int) -> int:
        if phys_offset >> ZONE_SHIFT != ZONE_RAW_BUFFER or phys_offset & BIGBLOCK_MASK:
            raise CorruptError("freemap table is not at the start of a big-block", offset=phys_offset)
        return zone2_of(phys_offset) & ~BUFMASK
