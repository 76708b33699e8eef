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
from hammerfs.crc import crc32
from hammerfs.ondisk.blockmap import (
    LAYER1_SIZE,
    LAYER2_SIZE,
    Layer1,
    Layer2,
    decode_layer1_table,
    decode_layer2_table,
)
from tools.fsck.context import Context, header_address

_PER_LAYER1 = BUFSIZE // LAYER1_SIZE
_PER_LAYER2 = BUFSIZE // LAYER2_SIZE
_FIXED_ZONES = frozenset({ZONE_UNDO, ZONE_FREEMAP})
_FREE = Layer2(ZONE_FREE, 0, 0, 0, BIGBLOCK_SIZE, 0)
_UNAVAIL = Layer2(ZONE_UNAVAIL, 0, 0, BIGBLOCK_SIZE, 0, 0)
_ABSENT = Layer1(0, OFF_BAD, 0, 0, 0)


def run(ctx: Context) -> None:
    """Check the freemap; leaves what it says of big-blocks that are not free in the context."""
    table = ctx.volumes.superblock.vol0_blockmap[ZONE_FREEMAP].phys_offset
    if not _is_table(ctx, table):
        ctx.report.add("freemap-table", f"the layer-1 table can't be at {table:016x}", offset=table)
        ctx.lost_spans.update(vol_no * LAYER1_PER_VOLUME for vol_no in ctx.volumes.by_number)
        return
    scan = _Scan(ctx)
    absent = [_repeat(_ABSENT.sealed(ctx.volumes.rule), 1), _ABSENT.encode()[:28] + _old_crc(_ABSENT.encode()[:28])]
    full = [entry * _PER_LAYER1 for entry in absent]
    step = BUFSIZE
    rows = range(0, LAYER1_ENTRIES, _PER_LAYER1)
    if not ctx.idle:
        rows = range(0, (max(ctx.volumes.by_number) + 1) * LAYER1_PER_VOLUME, _PER_LAYER1)
    for first in rows:
        raw = ctx.read("freemap-table", table + first * LAYER1_SIZE, step)
        vol_no = first // LAYER1_PER_VOLUME
        if raw is None:
            if vol_no in ctx.volumes.by_number:
                ctx.lost_spans.update(range(first, first + _PER_LAYER1))
        elif raw not in full or (first % LAYER1_PER_VOLUME == 0 and vol_no in ctx.volumes.by_number):
            for i, entry in enumerate(decode_layer1_table(raw)):
                scan.layer1(first + i, entry, table + (first + i) * LAYER1_SIZE)
    scan.totals()


def _repeat(entry: Layer1 | Layer2, times: int) -> bytes:
    return entry.encode() * times


def _old_crc(raw: bytes) -> bytes:
    return crc32(raw, 0).to_bytes(4, "little")


def _is_table(ctx: Context, off: int) -> bool:
    volume = ctx.volumes.by_number.get(off >> 52 & 0xFF)
    inside = volume is not None and (off & (1 << 52) - 1) >> BIGBLOCK_BITS < volume.bigblocks
    return inside and off >> ZONE_SHIFT == ZONE_RAW_BUFFER and not off & BIGBLOCK_MASK


class _Scan:
    """Goes through the entries and adds up."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._report = ctx.report
        self._rule = ctx.volumes.rule
        self._dedup = ctx.volumes.version >= VERSION_DEDUP
        self._free = 0
        self._usable = 0
        self._tables = 0
        old = [entry.encode()[:12] for entry in (_FREE, _UNAVAIL)]
        self._free_entries = {_FREE.sealed(self._rule).encode(), old[0] + _old_crc(old[0])}
        self._unavail_entries = {_UNAVAIL.sealed(self._rule).encode(), old[1] + _old_crc(old[1])}
        self._free_rows = {entry * _PER_LAYER2 for entry in self._free_entries}
        self._unavail_rows = {entry * _PER_LAYER2 for entry in self._unavail_entries}
        self._trusted = True
        """The entries counted so far tell the truth: sums may be compared."""

    def layer1(self, index: int, entry: Layer1, at: int) -> None:
        """One entry of layer 1, and its layer-2 table."""
        volume = self._ctx.volumes.by_number.get(index // LAYER1_PER_VOLUME)
        blocks = 0
        if volume is not None:
            blocks = min(max(volume.bigblocks - index % LAYER1_PER_VOLUME * LAYER2_ENTRIES, 0), LAYER2_ENTRIES)
        is_sound = entry.crc_ok(self._rule)
        if not is_sound:
            self._report.add("layer1-crc", f"entry {index}: stored {entry.layer1_crc:08x}", offset=at)
            if not blocks:
                return
        if entry.phys_offset == OFF_BAD:
            if blocks:
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
            if first + _PER_LAYER2 <= blocks and raw in self._free_rows:
                free += _PER_LAYER2
                self._usable += _PER_LAYER2
            elif first < blocks or raw not in self._unavail_rows:
                free += self._row(index << LAYER1_SHIFT - BIGBLOCK_BITS | first, raw, at, blocks - first)
        return free

    def _row(self, block: int, raw: bytes, at: int, inside: int) -> int:
        """Check a buffer of layer 2 whose first `inside` big-blocks exist; how many are free."""
        free = 0
        free_entries, unavail_entries = self._free_entries, self._unavail_entries
        for i, entry in enumerate(decode_layer2_table(raw)):
            here = raw[i * LAYER2_SIZE : (i + 1) * LAYER2_SIZE]
            if here in free_entries and i < inside:
                free += 1
                self._usable += 1
                continue
            if i >= inside:
                if here in unavail_entries or not self._ctx.idle:
                    continue
            elif entry.zone in ZONES_MAPPED or entry.zone in _FIXED_ZONES:
                self._ctx.freemap[block + i] = entry.zone, entry.append_off, entry.bytes_free
            self._usable += i < inside and entry.zone not in _FIXED_ZONES and entry.zone != ZONE_UNAVAIL
            free += i < inside and entry.zone == ZONE_FREE
            if not self._entry(entry, at + i * LAYER2_SIZE, is_inside=i < inside) and i < inside:
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
