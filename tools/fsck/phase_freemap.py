"""Phase: both layers of the freemap: checksums, fields, free blocks counted anew."""

from __future__ import annotations

from hammerfs.addr import retag
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BUFSIZE,
    LAYER1_ENTRIES,
    LAYER1_PER_VOLUME,
    LAYER1_SHIFT,
    LAYER2_ENTRIES,
    OFF_BAD,
    ROOT_VOLUME,
    VERSION_DEDUP,
    VERSION_REDO,
    ZONE_FREE,
    ZONE_FREEMAP,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
    ZONE_UNAVAIL,
    ZONE_UNDO,
    ZONES_MAPPED,
)
from hammerfs.crc import CrcRule, crc32
from hammerfs.freemap import volume_spans
from hammerfs.ondisk.blockmap import (
    ABSENT_SPAN,
    FREE_BLOCK,
    LAYER1_SIZE,
    LAYER2_SIZE,
    Layer1,
    Layer2,
    full_block,
)
from tools.fsck.context import Context, header_address

_PER_LAYER1 = BUFSIZE // LAYER1_SIZE
_PER_LAYER2 = BUFSIZE // LAYER2_SIZE
_FIXED_ZONES = frozenset({ZONE_UNDO, ZONE_FREEMAP})
_UNAVAIL = full_block(ZONE_UNAVAIL)


def run(ctx: Context) -> None:
    """Check the freemap; leaves what it says of big-blocks that are not free in the context."""
    table = ctx.volumes.superblock.vol0_blockmap[ZONE_FREEMAP].phys_offset
    spans = _spans(ctx)
    if not _is_table(ctx, table):
        ctx.report.add("freemap-table", f"the layer-1 table can't be at {table:016x}", offset=table)
        ctx.lost_spans.update(spans)
        return
    scan = _Scan(ctx, spans)
    end = LAYER1_ENTRIES if ctx.idle else max(spans, default=0) + 1
    head = ctx.read("freemap-table", table, BUFSIZE)
    if head is None or not _is_any_sound(head, Layer1, ctx):
        if head is not None:
            ctx.report.add("freemap-table", "no layer-1 entries here", offset=table)
        ctx.lost_spans.update(spans)
        return
    for first in range(0, end, _PER_LAYER1):
        scan.layer1_row(first, table + first * LAYER1_SIZE)
    scan.totals()


def _is_any_sound(raw: bytes, kind: type[Layer1 | Layer2], ctx: Context) -> bool:
    """Whether a buffer holds entries at all, and not something else: a pointer to a table may lead anywhere."""
    size = LAYER1_SIZE if kind is Layer1 else LAYER2_SIZE
    return any(kind.decode(raw, at).crc_ok(ctx.volumes.rule) for at in range(0, BUFSIZE, size))


def _spans(ctx: Context) -> dict[int, int]:
    """Layer-1 index -> number of big-blocks, of every 4 TiB span that the volumes have."""
    return {
        index: count
        for vol_no, volume in ctx.volumes.by_number.items()
        for index, count in volume_spans(vol_no, volume.bigblocks).items()
    }


def _both_ways(entry: Layer1 | Layer2, rule: CrcRule) -> set[bytes]:
    """An entry with the checksum of this version, and with the one that older versions made."""
    raw = entry.encode()[:-4]
    return {entry.sealed(rule).encode(), raw + crc32(raw, 0).to_bytes(4, "little")}


def _is_table(ctx: Context, off: int) -> bool:
    volume = ctx.volumes.by_number.get(off >> 52 & 0xFF)
    inside = volume is not None and (off & (1 << 52) - 1) >> BIGBLOCK_BITS < volume.bigblocks
    return inside and off >> ZONE_SHIFT == ZONE_RAW_BUFFER and not off & BIGBLOCK_MASK


class _Scan:
    """Goes through the entries and adds up.

    Most entries are those of absent spans, of free big-blocks or of big-blocks behind the end: the same bytes again
    and again, and compared as such.
    """

    def __init__(self, ctx: Context, spans: dict[int, int]) -> None:
        self._ctx = ctx
        self._report = ctx.report
        self._rule = rule = ctx.volumes.rule
        self._spans = spans
        self._dedup = ctx.volumes.version >= VERSION_DEDUP
        self._free = 0
        self._usable = 0
        self._tables = 0
        self._absent = _both_ways(ABSENT_SPAN, rule)
        self._free_entries = _both_ways(FREE_BLOCK, rule)
        self._unavail_entries = _both_ways(_UNAVAIL, rule)
        self._absent_rows = {entry * _PER_LAYER1 for entry in self._absent}
        self._free_rows = {entry * _PER_LAYER2 for entry in self._free_entries}
        self._unavail_rows = {entry * _PER_LAYER2 for entry in self._unavail_entries}
        self._trusted = True
        """The entries counted so far tell the truth: sums may be compared."""

    def layer1_row(self, first: int, at: int) -> None:
        """One buffer of layer 1, whose first entry is number `first` and lies at an address."""
        here = [index for index in self._spans if first <= index < first + _PER_LAYER1]
        raw = self._ctx.read("freemap-table", at, BUFSIZE)
        if raw is None:
            for index in here:
                self._lose(index)
            return
        if raw in self._absent_rows and not here:
            return
        for i in range(_PER_LAYER1):
            entry = raw[i * LAYER1_SIZE : (i + 1) * LAYER1_SIZE]
            if entry not in self._absent or first + i in self._spans:
                self._layer1(first + i, Layer1.decode(entry), at + i * LAYER1_SIZE)

    def _layer1(self, index: int, entry: Layer1, at: int) -> None:
        """One entry of layer 1, and its layer-2 table."""
        blocks = self._spans.get(index, 0)
        is_sound = entry.crc_ok(self._rule)
        if not is_sound:
            self._report.add("layer1-crc", f"entry {index}: stored {entry.layer1_crc:08x}", offset=at)
            if not blocks:
                return
        if entry.phys_offset == OFF_BAD:
            if blocks and self._is_bare(index // LAYER1_PER_VOLUME, at - index * LAYER1_SIZE):
                self._report.add("volume-bare", f"entry {index}: the volume has no space yet, or no more", offset=at)
            elif blocks:
                self._report.add("layer1-field", f"entry {index}: has no table for {blocks} big-blocks", offset=at)
                self._lose(index)
            elif entry.blocks_free:
                self._report.add("layer1-field", f"entry {index}: free blocks where there is no volume", offset=at)
            return
        if not blocks or not _is_table(self._ctx, entry.phys_offset):
            what = f"entry {index}: table at {entry.phys_offset:016x}" if blocks else f"entry {index}: has a table"
            self._report.add("layer1-field", what, offset=at)
            if blocks:
                self._lose(index)
            return
        self._tables += 1
        self._ctx.usage.take(retag(entry.phys_offset, ZONE_FREEMAP), BIGBLOCK_SIZE)
        free = self._table(index, entry.phys_offset, blocks)
        if free is None:
            self._lose(index)
            return
        self._free += free
        if free != entry.blocks_free and is_sound and self._trusted:
            self._report.add(
                "layer1-free", f"entry {index}: {entry.blocks_free} free big-blocks, counted {free}", offset=at
            )

    def _is_bare(self, vol_no: int, table: int) -> bool:
        """Whether a volume has no table at all, as one that was being added or removed."""
        spans = [index for index in self._spans if index // LAYER1_PER_VOLUME == vol_no]
        raw = (self._ctx.read("freemap-table", table + index * LAYER1_SIZE, LAYER1_SIZE) for index in spans)
        return vol_no != ROOT_VOLUME and all(entry in self._absent for entry in raw)

    def totals(self) -> None:
        """Compare the sums with the header's statistics."""
        head, report = self._ctx.volumes.superblock, self._report
        table = head.vol0_blockmap[ZONE_FREEMAP].phys_offset
        self._ctx.usage.take(retag(table, ZONE_FREEMAP), BIGBLOCK_SIZE)
        if not self._trusted:
            return
        if head.vol0_stat_freebigblocks != self._free:
            what = f"{head.vol0_stat_freebigblocks} free big-blocks, counted {self._free}"
            code = "stat-freebigblocks" if self._ctx.volumes.version >= VERSION_REDO else "stat-freebigblocks-old"
            report.add(code, what, offset=header_address("vol0_stat_freebigblocks"))
        more = head.vol0_stat_bigblocks - self._usable
        if more:
            # Adding a volume counted its tables as usable in some releases.
            harmless = 0 < more < max(self._tables, 2) and len(self._ctx.volumes) > 1
            what = f"{head.vol0_stat_bigblocks} usable big-blocks, counted {self._usable}"
            report.add(
                "stat-bigblocks-tables" if harmless else "stat-bigblocks",
                what,
                offset=header_address("vol0_stat_bigblocks"),
            )

    def _lose(self, index: int) -> None:
        self._ctx.lost_spans.add(index)
        self._trusted = False

    def _table(self, index: int, table: int, blocks: int) -> int | None:
        """Check a layer-2 table; how many of its big-blocks are free."""
        free = 0
        end = LAYER2_ENTRIES if self._ctx.idle else blocks
        for first in range(0, end, _PER_LAYER2):
            at = table + first * LAYER2_SIZE
            raw = self._ctx.read("freemap-table", at, BUFSIZE)
            if raw is None:
                return None
            if first == 0 and not _is_any_sound(raw, Layer2, self._ctx):
                self._report.add("freemap-table", "no layer-2 entries here", offset=at)
                return None
            if first + _PER_LAYER2 <= blocks and raw in self._free_rows:
                free += _PER_LAYER2
                self._usable += _PER_LAYER2
            elif first < blocks or raw not in self._unavail_rows:
                free += self._row(index << LAYER1_SHIFT - BIGBLOCK_BITS | first, raw, at, blocks - first)
        return free

    def _row(self, block: int, raw: bytes, at: int, inside: int) -> int:
        """Check a buffer of layer 2 whose first `inside` big-blocks exist; how many are free."""
        free = 0
        for i in range(_PER_LAYER2 if self._ctx.idle else min(inside, _PER_LAYER2)):
            here = raw[i * LAYER2_SIZE : (i + 1) * LAYER2_SIZE]
            is_inside = i < inside
            if is_inside and here in self._free_entries:
                free += 1
                self._usable += 1
                continue
            if not is_inside and here in self._unavail_entries:
                continue
            entry = Layer2.decode(here)
            if is_inside:
                if entry.zone in ZONES_MAPPED or entry.zone in _FIXED_ZONES:
                    self._ctx.freemap[block + i] = entry.zone, entry.append_off, entry.bytes_free
                self._usable += entry.zone not in _FIXED_ZONES and entry.zone != ZONE_UNAVAIL
                free += entry.zone == ZONE_FREE
            if not self._entry(entry, at + i * LAYER2_SIZE, is_inside=is_inside) and is_inside:
                self._ctx.untrusted_blocks.add(block + i)
                self._trusted = False
        return free

    def _entry(self, entry: Layer2, at: int, *, is_inside: bool) -> bool:
        """Whether an entry is right; else a finding."""
        if not entry.crc_ok(self._rule):
            self._report.add("layer2-crc", f"stored {entry.entry_crc:08x}", offset=at)
            return False
        zone, append, free = entry.zone, entry.append_off, entry.bytes_free
        if not is_inside:
            right = zone == ZONE_UNAVAIL
        elif zone == ZONE_FREE:
            right = append == 0 and free == BIGBLOCK_SIZE
        elif zone in _FIXED_ZONES:
            right = append == BIGBLOCK_SIZE and free == 0
        else:
            lowest = -(1 << 31) if self._dedup else 0
            right = zone in ZONES_MAPPED and 0 < append <= BIGBLOCK_SIZE and lowest <= free <= BIGBLOCK_SIZE
        if not right:
            self._report.add("layer2-field", f"zone {zone}, append point {append}, {free} bytes free", offset=at)
        return right
