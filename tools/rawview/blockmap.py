"""`hammer blockmap`: who owns each big-block, how full it is, and whether the entries' checksums are right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hammerfs.addr import short_of, vol_of
from hammerfs.const import BIGBLOCK_BITS, BIGBLOCK_SIZE, LAYER1_PER_VOLUME, LAYER1_SHIFT, LAYER2_ENTRIES
from hammerfs.fs import HammerFS
from hammerfs.ondisk.blockmap import LAYER1_SIZE, LAYER2_SIZE, Layer1, Layer2
from tools.rawview.summary import ZoneTable


class Span(NamedTuple):
    """An entry of layer 1 and those of layer 2 under it."""

    base: int
    layer1: Layer1
    is_ok: bool
    """Its checksum is right."""
    blocks: Iterator[Block]


class Block(NamedTuple):
    """A big-block."""

    off: int
    """Zone-4 address."""
    layer2: Layer2
    is_ok: bool
    """Its entry's checksum is right."""


def spans(fs: HammerFS) -> Iterator[Span]:
    """All spans of the set, with their big-blocks.

    Raises:
        CorruptError: A table is not where it can be.
    """
    rule = fs.volumes.rule
    for base, layer1, _ in fs.freemap.spans():
        blocks = (Block(off, entry, entry.crc_ok(rule)) for off, entry, _ in fs.freemap.blocks(base, layer1))
        yield Span(base, layer1, layer1.crc_ok(rule), blocks)


def lines(fs: HammerFS, *, brief: bool = False) -> Iterator[str]:
    """The text of the view.

    Args:
        fs: Opened raw.
        brief: Owner, append point and free bytes only, as releases before 4.8 show it; no table.

    Raises:
        CorruptError: A table is not where it can be.
    """
    table = ZoneTable()
    bad1 = bad2 = 0
    for span in spans(fs):
        bad1 += not span.is_ok
        yield _marked(
            span.is_ok,
            f"  layer1 {span.base:016x} @{span.layer1.phys_offset:016x} blocks-free {span.layer1.blocks_free}",
        )
        for block in span.blocks:
            entry = block.layer2
            bad2 += not block.is_ok
            table.add(entry.zone & 15, BIGBLOCK_SIZE - entry.bytes_free)
            if brief:
                used = f"app={entry.append_off:<7} free={entry.bytes_free:<7}"
                yield _marked(block.is_ok, f"        {block.off:016x} zone={entry.zone:<2} {used}")
            else:
                yield _marked(block.is_ok, _long(span, block))
    if not brief:
        yield from table.lines()
        yield f"{bad1} bad layer1"
        yield f"{bad2} bad layer2"


def _marked(is_ok: bool, line: str) -> str:
    return line if is_ok else "B" + line[1:]


def _long(span: Span, block: Block) -> str:
    entry, off = block.layer2, block.off
    index1 = vol_of(off) * LAYER1_PER_VOLUME + (short_of(off) >> LAYER1_SHIFT)
    index2 = off >> BIGBLOCK_BITS & LAYER2_ENTRIES - 1
    fill = 100 - entry.bytes_free * 100 / BIGBLOCK_SIZE
    return (
        f"        {off:016x} zone={entry.zone:<2} vol={vol_of(off):<3} L1#={index1:<6} L2#={index2:<6} "
        f"L1={index1 * LAYER1_SIZE:<7} L2={index2 * LAYER2_SIZE:<7} app={entry.append_off:<7} "
        f"free={entry.bytes_free:<7} fill={fill:<5.1f} crc={span.layer1.layer1_crc:08x}-{entry.entry_crc:08x}"
    )


def as_json(fs: HammerFS) -> list[dict[str, Any]]:
    """The view as plain values.

    Raises:
        CorruptError: A table is not where it can be.
    """
    return [
        {
            "layer1": f"0x{span.base:016x}",
            "blocks_free": span.layer1.blocks_free,
            "crc_ok": span.is_ok,
            "blocks": [
                {
                    "offset": f"0x{block.off:016x}",
                    "zone": block.layer2.zone,
                    "append_off": block.layer2.append_off,
                    "bytes_free": block.layer2.bytes_free,
                    "crc_ok": block.is_ok,
                }
                for block in span.blocks
            ],
        }
        for span in spans(fs)
    ]
