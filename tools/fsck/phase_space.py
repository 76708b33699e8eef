"""Phase: space: the bytes that are referred to in each big-block beside what the freemap says."""

from __future__ import annotations

from hammerfs.addr import retag, round16, zone_of
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_SIZE,
    LAYER2_ENTRIES,
    OFF_LONG_MASK,
    VERSION_DEDUP,
    ZONE_LARGE_DATA,
    ZONE_RAW_BUFFER,
    ZONE_SMALL_DATA,
    ZONE_UNDO,
    ZONES_MAPPED,
)
from tools.fsck.context import Context

_SHARED_ZONES = frozenset({ZONE_LARGE_DATA, ZONE_SMALL_DATA})
"""Zones whose extents deduplication lets several records refer to."""
_BLOCK_MASK = OFF_LONG_MASK >> BIGBLOCK_BITS


def run(ctx: Context) -> None:
    """Compare. The tree and the freemap must have been read whole, but for spans known to be lost."""
    head = ctx.volumes.superblock
    size = (head.vol0_blockmap[ZONE_UNDO].alloc_offset & OFF_LONG_MASK) // BIGBLOCK_SIZE
    for off in head.vol0_undo_array[:size]:
        if zone_of(off) == ZONE_RAW_BUFFER:
            ctx.usage.take(retag(off, ZONE_UNDO), BIGBLOCK_SIZE)
    used: dict[int, list[tuple[int, int, int]]] = {}
    for block, (nbytes, end) in ctx.usage.blocks.items():
        if nbytes:
            used.setdefault(block & _BLOCK_MASK, []).append((zone_of(block << BIGBLOCK_BITS), nbytes, end))
    for block in sorted(used.keys() | ctx.freemap.keys()):
        if block // LAYER2_ENTRIES not in ctx.lost_spans and block not in ctx.untrusted_blocks:
            _compare(ctx, block, used.get(block, []))


def _compare(ctx: Context, block: int, refs: list[tuple[int, int, int]]) -> None:
    stored = ctx.freemap.get(block)
    zone = stored[0] if stored is not None else refs[0][0]
    tag = zone if zone in ZONES_MAPPED else ZONE_RAW_BUFFER
    off = retag(block << BIGBLOCK_BITS, tag)
    if stored is None:
        ctx.report.add("bigblock-zone", f"in use by zone {zone}, the freemap has it free", offset=off)
        return
    if not refs:
        ctx.report.add("bigblock-orphan", f"belongs to zone {zone}, and nothing leads there", offset=off)
        return
    others = sorted(ref[0] for ref in refs if ref[0] != zone)
    if others:
        users = ", ".join(map(str, others))
        ctx.report.add("bigblock-zone", f"in use by zone {users}, the freemap says zone {zone}", offset=off)
        return
    _, nbytes, end = refs[0]
    if nbytes > round16(end) and not (zone in _SHARED_ZONES and ctx.volumes.version >= VERSION_DEDUP):
        ctx.report.add("bigblock-overlap", f"{nbytes} bytes in use within {end}", offset=off)
    if BIGBLOCK_SIZE - nbytes != stored[2]:
        what = f"{stored[2]} bytes free, counted {BIGBLOCK_SIZE - nbytes}"
        ctx.report.add("bigblock-free", what, offset=off)
    elif end > stored[1]:
        ctx.report.add("bigblock-append", f"in use up to {end}, append point {stored[1]}", offset=off)
