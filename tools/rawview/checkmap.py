"""`hammer checkmap`: free bytes counted anew from the tree, the freemap and the FIFO, beside what the freemap says.

Memory grows with the big-blocks in use (a few hundred bytes for each 8 MiB), never with the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from hammerfs.addr import encode, retag, round16, short_of, vol_of, zone_of
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BTREE_TYPE_INTERNAL,
    BTREE_TYPE_LEAF,
    ELM_SIZE,
    INT_ELMS,
    LEAF_ELMS,
    NODE_HEADER,
    NODE_SIZE,
    XBUFSIZE,
    ZONE_FREE,
    ZONE_FREEMAP,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
    ZONE_UNAVAIL,
    ZONE_UNDO,
    ZONES_MAPPED,
)
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.ondisk.node import INTERNAL_ELM, LEAF_ELM, NodeHead
from tools.rawview.blockmap import spans
from tools.rawview.summary import ZoneTable


class Finding(NamedTuple):
    """A big-block, counted and stored."""

    block: int
    """Its address: zone 4 for the freemap's own, else zone 2."""
    zone: int
    """Zone by whoever uses it."""
    stored_zone: int
    free: int
    """Free bytes as counted."""
    stored_free: int

    @property
    def is_correct(self) -> bool:
        """Whether both agree."""
        return self.zone == self.stored_zone and self.free == self.stored_free


@dataclass(slots=True)
class _Use:
    zone: int
    free: int = BIGBLOCK_SIZE


class Recount:
    """One recount.

    Args:
        fs: Opened raw.
    """

    def __init__(self, fs: HammerFS) -> None:
        self._fs = fs
        self._used: dict[int, _Use] = {}
        self._stored: dict[int, tuple[int, int]] = {}
        self._seen: dict[int, bytearray] = {}
        self.bad_nodes = 0
        """Nodes that can't be read, or have a bad checksum or an impossible count."""

    def from_freemap(self) -> None:
        """Note what is stored, and that the freemap's own tables take space.

        Raises:
            CorruptError: A table is not where it can be.
        """
        for span in spans(self._fs):
            for block in span.blocks:
                zone = block.layer2.zone
                if zone not in {ZONE_FREE, ZONE_UNAVAIL}:
                    self._stored[short_key(block.off)] = zone, block.layer2.bytes_free
            self._take(span.layer1.phys_offset, ZONE_FREEMAP, BIGBLOCK_SIZE)
        self._take(self._fs.volumes.superblock.vol0_blockmap[ZONE_FREEMAP].phys_offset, ZONE_FREEMAP, BIGBLOCK_SIZE)

    def from_btree(self) -> None:
        """Count every node and payload that the tree leads to, each node once."""
        todo = [self._fs.volumes.superblock.vol0_btree_root]
        while todo:
            off = todo.pop()
            raw = self._node(off)
            if raw is None:
                self.bad_nodes += 1
                continue
            self._take(off, zone_of(off), NODE_SIZE)
            head = NodeHead.decode(raw)
            body = memoryview(raw)[NODE_HEADER:]
            if head.type == BTREE_TYPE_INTERNAL:
                children = [fields[9] for fields in INTERNAL_ELM.iter_unpack(body[: head.count * ELM_SIZE])]
                todo.extend(child for child in children if not self._is_seen(child))
                continue
            for fields in LEAF_ELM.iter_unpack(body[: head.count * ELM_SIZE]):
                data_offset, data_len = fields[10], fields[11]
                if data_offset >> ZONE_SHIFT in ZONES_MAPPED and 0 < data_len <= XBUFSIZE:
                    self._take(data_offset, zone_of(data_offset), round16(data_len))

    def from_undo(self) -> None:
        """Count the big-blocks of the FIFO."""
        head = self._fs.volumes.superblock
        count = (head.vol0_blockmap[ZONE_UNDO].alloc_offset & (1 << ZONE_SHIFT) - 1) // BIGBLOCK_SIZE
        for off in head.vol0_undo_array[: min(count, len(head.vol0_undo_array))]:
            if zone_of(off) == ZONE_RAW_BUFFER:
                self._take(off, ZONE_UNDO, BIGBLOCK_SIZE)

    def findings(self) -> Iterator[Finding]:
        """Every big-block that is used or stored as used, by address."""
        for key in sorted(self._used.keys() | self._stored.keys()):
            stored_zone, stored_free = self._stored.get(key, (ZONE_FREE, BIGBLOCK_SIZE))
            use = self._used.get(key) or _Use(stored_zone)
            tag = ZONE_FREEMAP if ZONE_FREEMAP in {use.zone, stored_zone} else ZONE_RAW_BUFFER
            yield Finding(retag(key << BIGBLOCK_BITS, tag), use.zone, stored_zone, use.free, stored_free)

    def _take(self, off: int, zone: int, nbytes: int) -> None:
        use = self._used.setdefault(short_key(off), _Use(zone))
        use.free -= nbytes

    def _is_seen(self, off: int) -> bool:
        """Whether a node has been on the way already; one bit for each. A tree that leads in circles ends so."""
        bits = self._seen.setdefault(short_key(off), bytearray(BIGBLOCK_SIZE // NODE_SIZE // 8))
        index = (off & BIGBLOCK_MASK) // NODE_SIZE
        was = bits[index >> 3] >> (index & 7) & 1
        bits[index >> 3] |= 1 << (index & 7)
        return bool(was)

    def _node(self, off: int) -> bytes | None:
        volumes = self._fs.volumes
        try:
            if zone_of(off) not in ZONES_MAPPED or off & NODE_SIZE - 1:
                return None
            raw = bytes(self._fs.cache.view(off, NODE_SIZE))
        except HammerError:
            return None
        head = NodeHead.decode(raw)
        limit = {BTREE_TYPE_INTERNAL: INT_ELMS, BTREE_TYPE_LEAF: LEAF_ELMS}.get(head.type, -1)
        if not volumes.rule.matches(head.crc, memoryview(raw)[4:]) or not 0 <= head.count <= limit:
            return None
        return raw


def short_key(off: int) -> int:
    """Number of a big-block over all volumes."""
    return encode(0, vol_of(off), short_of(off)) >> BIGBLOCK_BITS


def run(fs: HammerFS, emit: Callable[[str], object]) -> int:
    """The view as text; return the number of errors.

    Raises:
        CorruptError: A freemap table is not where it can be.
    """
    recount = Recount(fs)
    for what, collect in _sources(recount):
        collect()
        emit(f"Collecting allocation info from {what}: done")
    table = ZoneTable()
    errors = 0
    for found in recount.findings():
        table.add(found.stored_zone & 15, BIGBLOCK_SIZE - found.stored_free)
        for line in _lines(found):
            emit(line)
        errors += not found.is_correct
    for line in table.lines():
        emit(line)
    emit(f"{recount.bad_nodes} bad nodes")
    emit(f"{errors} errors")
    return errors + recount.bad_nodes


def _lines(found: Finding) -> Iterator[str]:
    where = f"\tblock={found.block:016x}"
    if found.is_correct:
        yield f"{where} zone={found.zone:<2} {found.free} free (correct)"
    if found.free != found.stored_free:
        yield f"BM{where} zone={found.zone:<2} calc {found.free} free, got {found.stored_free}"
    if found.zone != found.stored_zone:
        yield f"BZ{where} calc zone={found.zone:<2}, got zone={found.stored_zone:<2}"


def as_json(fs: HammerFS) -> dict[str, Any]:
    """The view as plain values.

    Raises:
        CorruptError: A freemap table is not where it can be.
    """
    recount = Recount(fs)
    for _, collect in _sources(recount):
        collect()
    blocks = [
        {**found._asdict(), "block": f"0x{found.block:016x}", "correct": found.is_correct}
        for found in recount.findings()
    ]
    errors = sum(not block["correct"] for block in blocks)
    return {"blocks": blocks, "bad_nodes": recount.bad_nodes, "errors": errors}


def _sources(recount: Recount) -> list[tuple[str, Callable[[], None]]]:
    return [("freemap", recount.from_freemap), ("B-Tree", recount.from_btree), ("UNDO", recount.from_undo)]
