"""What every raw view begins with: identity of the volume set, its areas, its zones; and the table of zones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hammerfs.const import BIGBLOCK_SIZE, MAX_ZONES, OFF_LONG_MASK, ZONE_UNDO
from hammerfs.fs import HammerFS
from tools.output import json_name, safe_name, size_column

ZONE_NAMES: Final = {
    1: "raw_volume",
    2: "raw_buffer",
    3: "undo",
    4: "freemap",
    8: "btree",
    9: "meta",
    10: "large_data",
    11: "small_data",
    15: "unavail",
}


def summary(fs: HammerFS) -> Iterator[str]:
    """The lines before the view itself."""
    head = fs.volumes.superblock
    undo = head.vol0_blockmap[ZONE_UNDO]
    size = undo.alloc_offset & OFF_LONG_MASK
    used = (undo.next_offset - undo.first_offset) & OFF_LONG_MASK
    if undo.next_offset < undo.first_offset:
        used = size - ((undo.first_offset - undo.next_offset) & OFF_LONG_MASK)
    yield f"vol_label\t{safe_name(head.label)}"
    yield f"vol_count\t{head.vol_count}"
    yield f'vol_fstype\t{head.fstype} "DragonFly HAMMER"'
    yield f"vol_fsid\t{head.fsid}"
    for name in ("vol_bot_beg", "vol_mem_beg", "vol_buf_beg", "vol_buf_end"):
        yield f"{name}\t{size_column(getattr(head, name))}"
    yield f"vol0_next_tid\t{head.vol0_next_tid:016x}"
    yield f"undo_size\t{size_column(size)}"
    yield f"undo_used\t{size_column(used)}"
    yield "zone #             phys             first            next             alloc"
    for zone, desc in enumerate(head.vol0_blockmap):
        offsets = (desc.phys_offset, desc.first_offset, desc.next_offset, desc.alloc_offset)
        yield f"zone {zone:<2} {ZONE_NAMES.get(zone, ''):<10} {' '.join(f'{off:016x}' for off in offsets)}"


def summary_json(fs: HammerFS) -> dict[str, Any]:
    """The same as plain values."""
    head = fs.volumes.superblock
    zones = [
        {
            "zone": zone,
            "name": ZONE_NAMES.get(zone, ""),
            "phys": desc.phys_offset,
            "first": desc.first_offset,
            "next": desc.next_offset,
            "alloc": desc.alloc_offset,
        }
        for zone, desc in enumerate(head.vol0_blockmap)
    ]
    return {
        "label": json_name(head.label),
        "volumes": head.vol_count,
        "fsid": str(head.fsid),
        "next_tid": f"0x{head.vol0_next_tid:016x}",
        "zones": zones,
    }


class ZoneTable:
    """Big-blocks and used bytes by zone."""

    def __init__(self) -> None:
        self.blocks = [0] * MAX_ZONES
        self.used = [0] * MAX_ZONES

    def add(self, zone: int, used: int) -> None:
        """Count one big-block."""
        self.blocks[zone] += 1
        self.used[zone] += used

    def lines(self) -> Iterator[str]:
        """The table. The original counts no items here either."""
        yield "HAMMER zone statistics"
        yield f"{'zone #':<18} {'blocks':<12} {'items':<18} {'used[B]':<19} used[%]"
        for zone in range(MAX_ZONES):
            name = f"zone {zone:<2} {ZONE_NAMES.get(zone, ''):<10}"
            yield _row(name, self.blocks[zone], self.used[zone])
        yield "-" * 80
        yield _row("total", sum(self.blocks), sum(self.used))


def _row(name: str, blocks: int, used: int) -> str:
    percent = used * 100 / (blocks * BIGBLOCK_SIZE) if blocks else 0
    return f"{name:<18} {blocks:<12} {0:<18} {used:<19} {percent:g}"
