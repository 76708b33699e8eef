"""The freemap of a volume that joins or leaves the set: its layer-2 tables, and the layer-1 entries that lead to them.

Layer 1 and the number of volumes can't change by one write. So a volume joins without space and gets it by a group of
its own, and loses all space before it leaves. In between it is *bare*: part of the set, none of its layer-1 entries
leading anywhere. Nothing refers to a bare volume, and the next who opens the set for writing gives it its space.
"""

from __future__ import annotations

import logging

from hammerfs.addr import encode, short_of, vol_of
from hammerfs.alloc import Allocator
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_SIZE,
    BUFSIZE,
    LAYER1_SHIFT,
    LAYER2_ENTRIES,
    OFF_BAD,
    OFF_LONG_MASK,
    ROOT_VOLUME,
    ZONE_FREEMAP,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
    ZONE_UNAVAIL,
    ZONE_UNDO,
)
from hammerfs.crc import CrcRule
from hammerfs.device.base import Device
from hammerfs.errors import CorruptError
from hammerfs.freemap import Freemap, volume_spans
from hammerfs.ondisk.blockmap import ABSENT_SPAN, LAYER2_SIZE, Layer1, Layer2, encode_layer2_table, full_block
from hammerfs.undo_writer import UndoWriter
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes

log = logging.getLogger("hammerfs")
_TABLE = {0: full_block(ZONE_FREEMAP)}
"""In a volume that was added each table is the first big-block of the span it describes."""


def write_tables(dev: Device, vol_no: int, buf_beg: int, bigblocks: int, rule: CrcRule) -> None:
    """Write the layer-2 tables of a volume on which nothing is in use, and make them durable.

    Raises:
        DeviceError: It failed.
    """
    for span, count in volume_spans(vol_no, bigblocks).items():
        dev.pwrite(buf_beg + _first_byte(span), encode_layer2_table(count, _TABLE, rule))
    dev.flush()


def is_bare(freemap: Freemap, volume: Volume) -> bool:
    """Whether a volume of the set has no space at all.

    Raises:
        CorruptError: Layer 1 is damaged.
        DeviceError: The root volume failed.
    """
    spans = volume_spans(volume.vol_no, volume.bigblocks)
    return all(freemap.layer1(span << LAYER1_SHIFT).phys_offset == OFF_BAD for span in spans)


class Spans:
    """Changes layer 1, inside sections.

    Args:
        volumes: The set.
        freemap: Reads it.
        alloc: Changes its entries.
        undo: Saves the header's statistics.
    """

    def __init__(self, volumes: Volumes, freemap: Freemap, alloc: Allocator, undo: UndoWriter) -> None:
        self._volumes = volumes
        self._freemap = freemap
        self._alloc = alloc
        self._undo = undo

    def bare(self) -> list[Volume]:
        """Volumes without space whose tables say that nothing on them is in use; others are only told of.

        Raises:
            DeviceError: A volume failed.
        """
        found = []
        for volume in self._volumes:
            try:
                if volume.vol_no == ROOT_VOLUME or not is_bare(self._freemap, volume):
                    continue
            except CorruptError as err:  # whoever needs that part of the freemap will be told again
                log.warning("%s", err)
                continue
            if _is_unused(volume):
                found.append(volume)
            else:
                log.warning("volume %s: has no space, and its freemap is not that of an empty one", volume.dev.name)
        return found

    def attach(self, volume: Volume) -> bool:
        """A bare volume whose tables have been written gets its space.

        Raises:
            HammerError: The freemap is damaged, the FIFO at an end, or the media failed.
        """
        free = 0
        for span, count in volume_spans(volume.vol_no, volume.bigblocks).items():
            table = encode(ZONE_RAW_BUFFER, volume.vol_no, _first_byte(span))
            self._put(span, Layer1(count - len(_TABLE), table, 0, 0, 0))
            free += count - len(_TABLE)
        self._count(volume.bigblocks, free)  # DragonFly counts the tables of added volumes as usable
        return True

    def detach(self, volume: Volume) -> bool:
        """A volume on which nothing is in use loses its space.

        Raises:
            HammerError: As `attach`.
        """
        tables, free = len(self.tables(volume)), 0
        surplus = self._volumes.superblock.vol0_stat_bigblocks - self._usable()
        for span in volume_spans(volume.vol_no, volume.bigblocks):
            free += self._freemap.layer1(span << LAYER1_SHIFT).blocks_free
            self._put(span, ABSENT_SPAN)
        usable = volume.bigblocks - tables
        self._count(-(usable + min(max(surplus, 0), tables)), -free)
        return True

    def tables(self, volume: Volume) -> list[int]:
        """Addresses of the layer-2 tables of a volume.

        Raises:
            CorruptError: Layer 1 is damaged.
            DeviceError: The root volume failed.
        """
        entries = (self._freemap.layer1(span << LAYER1_SHIFT) for span in volume_spans(volume.vol_no, volume.bigblocks))
        return [entry.phys_offset for entry in entries if entry.phys_offset != OFF_BAD]

    def used(self, volume: Volume) -> dict[int, int]:
        """Bytes that are in use on a volume, by zone; its own tables do not count.

        Raises:
            CorruptError: The freemap is damaged.
            DeviceError: A volume failed.
        """
        own = {short_of(table) >> BIGBLOCK_BITS for table in self.tables(volume) if vol_of(table) == volume.vol_no}
        found: dict[int, int] = {}
        for span, count in volume_spans(volume.vol_no, volume.bigblocks).items():
            layer1 = self._freemap.layer1(span << LAYER1_SHIFT)
            if layer1.phys_offset == OFF_BAD:
                continue
            for first in range(0, count, BUFSIZE // LAYER2_SIZE):
                off = span << LAYER1_SHIFT | first << BIGBLOCK_BITS
                raw = self._freemap.raw_layer2(layer1, off)
                owners = bytes(raw[::LAYER2_SIZE])[: count - first]
                for i, zone in enumerate(owners if any(owners) else b""):
                    if zone and not (zone == ZONE_FREEMAP and (short_of(off) >> BIGBLOCK_BITS) + i in own):
                        entry = Layer2.decode(raw, i * LAYER2_SIZE)
                        found[zone] = found.get(zone, 0) + BIGBLOCK_SIZE - entry.bytes_free
        return found

    def _usable(self) -> int:
        """Big-blocks of the set that are neither FIFO nor freemap."""
        fifo = (self._volumes.superblock.vol0_blockmap[ZONE_UNDO].alloc_offset & OFF_LONG_MASK) // BIGBLOCK_SIZE
        tables = sum(len(self.tables(volume)) for volume in self._volumes)
        return (
            sum(volume.bigblocks for volume in self._volumes if not is_bare(self._freemap, volume)) - tables - fifo - 1
        )

    def _put(self, span: int, entry: Layer1) -> None:
        old, where = self._freemap.find_layer1(span << LAYER1_SHIFT)
        self._alloc.put(where, old.encode(), entry.sealed(self._volumes.rule).encode())

    def _count(self, usable: int, free: int) -> None:
        head = self._volumes.superblock
        self._undo.save_field("vol0_stat_bigblocks")
        self._undo.save_field("vol0_stat_freebigblocks")
        head.vol0_stat_bigblocks += usable
        head.vol0_stat_freebigblocks += free


def _first_byte(span: int) -> int:
    """First byte of a span in the zone-2 space of its volume."""
    return short_of(span << LAYER1_SHIFT | ZONE_RAW_BUFFER << ZONE_SHIFT)


def _is_unused(volume: Volume) -> bool:
    """Whether the tables of a volume are where `write_tables` puts them, and name no owner but themselves."""
    for span, count in volume_spans(volume.vol_no, volume.bigblocks).items():
        owners = bytes((ZONE_FREEMAP, *bytes(count - 1), *bytes([ZONE_UNAVAIL]) * (LAYER2_ENTRIES - count)))
        raw = volume.dev.pread(volume.buf_beg + _first_byte(span), LAYER2_ENTRIES * LAYER2_SIZE)
        if raw[::LAYER2_SIZE] != owners:
            return False
    return True


assert LAYER2_ENTRIES * LAYER2_SIZE == BIGBLOCK_SIZE == 1 << BIGBLOCK_BITS
