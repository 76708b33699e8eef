"""Phase: the headers of the volumes, as they are on the media."""

from __future__ import annotations

from collections.abc import Sequence

from hammerfs.const import (
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BUFMASK,
    FSTYPE_UUID,
    MAX_UNDO_BIGBLOCKS,
    OFF_BAD,
    OFF_LONG_MASK,
    ROOT_VOLUME,
    VOL_SHIFT,
    ZONE_BTREE,
    ZONE_FREEMAP,
    ZONE_META,
    ZONE_RAW_BUFFER,
    ZONE_RAW_VOLUME,
    ZONE_SHIFT,
    ZONE_UNDO,
)
from hammerfs.crc import CrcRule
from hammerfs.ondisk.blockmap import ZONE_DESC_SIZE, ZoneDesc
from hammerfs.ondisk.volume import BLOCKMAP_OFFSET, FIELD_OFFSETS, UNDO_ARRAY_OFFSET, VolumeOndisk
from hammerfs.volume import Volume
from tools.fsck.findings import Report

_EMPTY_ZONES = (0, 1, 2, 5, 6, 7)
_FRESH_STALE = (ZONE_BTREE, ZONE_META)
"""The formatter allocates from these after it made their checksums."""


def run(report: Report, volumes: Sequence[Volume], *, dirty: bool) -> None:
    """Check all headers.

    Args:
        report: Takes the findings.
        volumes: The volumes, before any recovery.
        dirty: Whether the file system was not closed cleanly: recovery may then have been cut off between its
            changes to the header and the flush that makes the checksums right again.
    """
    root = next((volume for volume in volumes if volume.vol_no == ROOT_VOLUME), volumes[0])
    rule = CrcRule(root.ondisk.vol_version)
    for volume in volumes:
        _common(report, volume, root.ondisk)
        _checksum(report, volume, rule, dirty=dirty)
    _zones(report, root, rule, dirty=dirty)
    if not _zone_fault(ZONE_UNDO, root.ondisk.vol0_blockmap[ZONE_UNDO]):
        _undo_array(report, root)


def _at(volume: Volume, byte_off: int) -> int:
    return ZONE_RAW_VOLUME << ZONE_SHIFT | volume.vol_no << VOL_SHIFT | byte_off


def _common(report: Report, volume: Volume, root: VolumeOndisk) -> None:
    head = volume.ondisk

    def bad(what: str, byte_off: int) -> None:
        report.add("header-field", what, offset=_at(volume, byte_off))

    if head.vol_fstype != FSTYPE_UUID:
        bad(f"file system type is {head.fstype}", 64)
    areas = (head.vol_bot_beg, head.vol_mem_beg, head.vol_buf_beg)
    if not 0 < areas[0] <= areas[1] <= areas[2] or any(area & BUFMASK for area in areas):
        bad(f"boot area, memory log and buffers begin at {areas[0]}, {areas[1]}, {areas[2]}", 8)
    if head.vol_rootvol != ROOT_VOLUME:
        bad(f"root volume is number {head.vol_rootvol}", 164)
    if head.vol_label.find(b"\0") < 0:
        bad("label has no end", 80)
    if volume.vol_no != ROOT_VOLUME and head.vol_label != root.vol_label:
        bad("label differs from the root volume's", 80)
    if volume.vol_no == ROOT_VOLUME and head.vol0_next_tid >= 0xFFFFFFFFFF000000:
        bad(f"next TID is 0x{head.vol0_next_tid:016x}", FIELD_OFFSETS["vol0_next_tid"])


def _checksum(report: Report, volume: Volume, rule: CrcRule, *, dirty: bool) -> None:
    head, at = volume.ondisk, _at(volume, FIELD_OFFSETS["vol_crc"])
    if head.vol_crc == 0:
        report.add("header-crc-unset", "the header has not been written since formatting", offset=at)
    elif not head.crc_ok(rule):
        stale = dirty and volume.vol_no == ROOT_VOLUME
        report.add("header-crc-stale" if stale else "header-crc", f"stored {head.vol_crc:08x}", offset=at)


def _zones(report: Report, root: Volume, rule: CrcRule, *, dirty: bool) -> None:
    fresh = root.ondisk.vol_crc == 0
    for zone, desc in enumerate(root.ondisk.vol0_blockmap):
        at = _at(root, BLOCKMAP_OFFSET + zone * ZONE_DESC_SIZE)
        if not desc.crc_ok(rule):
            stale = (fresh and zone in _FRESH_STALE) or (dirty and zone == ZONE_UNDO)
            code = "zone-crc-stale" if stale else "zone-crc"
            report.add(code, f"descriptor of zone {zone}: stored {desc.entry_crc:08x}", offset=at)
        what = _zone_fault(zone, desc)
        if what:
            report.add("zone-field", f"descriptor of zone {zone}: {what}", offset=at)


def _zone_fault(zone: int, desc: ZoneDesc) -> str:
    """What can't be in a descriptor; empty when all is right."""
    base = zone << ZONE_SHIFT
    if zone in _EMPTY_ZONES:
        return "is not empty" if any(desc[:4]) else ""
    if zone == ZONE_UNDO:
        size = desc.alloc_offset - base
        if not 0 < size <= MAX_UNDO_BIGBLOCKS * BIGBLOCK_SIZE or size % BIGBLOCK_SIZE:
            return f"the FIFO ends at {desc.alloc_offset:016x}"
        for name, off in (("first", desc.first_offset), ("next", desc.next_offset)):
            if not base <= off <= desc.alloc_offset or off & 7:
                return f"{name}_offset is {off:016x}"
        return ""
    if zone == ZONE_FREEMAP:
        table = desc.phys_offset
        return "" if table >> ZONE_SHIFT == ZONE_RAW_BUFFER and not table & BIGBLOCK_MASK else f"table at {table:016x}"
    if desc.first_offset != base or desc.alloc_offset != base | OFF_LONG_MASK:
        return f"spans {desc.first_offset:016x}..{desc.alloc_offset:016x}"
    if not base <= desc.next_offset <= base + OFF_LONG_MASK + 1:
        return f"next_offset is {desc.next_offset:016x}"
    return ""


def _undo_array(report: Report, root: Volume) -> None:
    """The FIFO's big-blocks: each on the root volume, none twice, all ones behind them."""
    size = root.ondisk.vol0_blockmap[ZONE_UNDO].alloc_offset & OFF_LONG_MASK
    used = min(size // BIGBLOCK_SIZE, MAX_UNDO_BIGBLOCKS)
    seen: set[int] = set()
    for i, off in enumerate(root.ondisk.vol0_undo_array):
        if i < used:
            inside = (
                off >> VOL_SHIFT == ZONE_RAW_BUFFER << 8 and (off & OFF_LONG_MASK) // BIGBLOCK_SIZE < root.bigblocks
            )
            wrong = not inside or off & BIGBLOCK_MASK or off in seen
            seen.add(off)
        else:
            wrong = off != OFF_BAD
        if wrong:
            report.add("header-field", f"FIFO big-block {i} is {off:016x}", offset=_at(root, UNDO_ARRAY_OFFSET + i * 8))
