"""What takes the space: the present, the past, and which of it pruning gives back now or without one of the snapshots.

One pass over all records, in steps. Every record counts with the bytes of its payload, as prune counts them, in one
of these classes of its PFS:

    live         it is visible now
    reclaimable  prune removes it
    one          prune would remove it if one certain snapshot were not there, and keeps it
    several      each of the snapshots that show it would have to go
    recent       no snapshot that prune goes by is newer than its beginning: prune never takes it

Extents that several records refer to (dedup) count with each of them there, since each is pruned for itself. How much
is stored is counted beside that, by one bit for each place where an extent can begin.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hammerfs.addr import pfs_of, round16, tid_text, zone_of
from hammerfs.bigblock import bigblock_index
from hammerfs.btree.iterate import leaves
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BUFSIZE,
    ZONE_BTREE,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_SMALL_DATA,
    ZONES_MAPPED,
)
from hammerfs.errors import NotFound
from hammerfs.fs import HammerFS
from hammerfs.keys import KEY_MAX, KEY_MIN, Key
from hammerfs.maint.prune import deciding_recent, prune_ranges
from hammerfs.maint.sweep import SCANNED, after
from hammerfs.ondisk.node import LeafElm
from hammerfs.snapshot import Snapshot

_BLOCKS = 20_000
"""Entries of the freemap that one step looks at."""
_SMALL_BLOCKS = 256
"""Big-blocks of small data whose extents are told apart: 2 GiB of it, for 48 MiB of memory."""


@dataclass
class Sum:
    """So many records, with so many bytes of payload."""

    records: int = 0
    nbytes: int = 0

    def add(self, nbytes: int) -> None:
        """One more."""
        self.records += 1
        self.nbytes += nbytes

    def as_json(self) -> dict[str, int]:
        """As plain values."""
        return {"records": self.records, "bytes": self.nbytes}


class Policy:
    """What prune does with the history of one PFS, by its snapshots, and without one of them.

    Args:
        snaps: The snapshots.
        prune_min: Seconds of recent history that stay.
        now: Unix seconds.
    """

    def __init__(self, snaps: list[Snapshot], prune_min: int, now: float) -> None:
        points = [(snap.tid, snap.ts_us / 1_000_000) for snap in snaps]
        self._ends = _ends(points, prune_min, now)
        self._recent = deciding_recent(points, prune_min, now)
        """Snapshot that keeps recent history; without it `_ends_then` count."""
        rest = [point for point in points if point[0] != self._recent]
        self._ends_then = self._ends if self._recent is None else _ends(rest, prune_min, now)

    def is_prunable(self, create: int, delete: int) -> bool:
        """Whether prune takes a record of such a life; see `prune.is_prunable`, which says the same of a list."""
        return _takes(self._ends, create, delete)

    def holder(self, create: int, delete: int) -> int | None:
        """TID of the one snapshot without which prune would take a record, which it does not take now."""
        ends = self._ends
        at = bisect_right(ends, create)
        # without its next snapshot the one behind it counts; the newest two bound what prune looks at
        if len(ends) > 2 and at < len(ends) - 1 and ends[at] <= delete < ends[at + 1]:
            return ends[at]
        return self._recent if _takes(self._ends_then, create, delete) else None

    def is_recent(self, create: int) -> bool:
        """Whether no snapshot that prune goes by is newer than this."""
        return not self._ends or create >= self._ends[-1]


def _ends(points: list[tuple[int, float]], prune_min: int, now: float) -> list[int]:
    """Ends of the ranges in which prune works, ascending: each begins at the one before, the first at the beginning."""
    return [one.end for one in reversed(prune_ranges(points, prune_min, now))]


def _takes(ends: list[int], create: int, delete: int) -> bool:
    at = bisect_right(ends, create)
    return at < len(ends) and delete < ends[at]


class _Bits:
    """Marks at addresses, and the bytes of what begins at those that are marked."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}
        self.nbytes = 0

    def mark(self, block: int, unit: int, per_block: int, nbytes: int) -> None:
        """Something of so many bytes begins there; the second time it counts no more."""
        bits = self._blocks.get(block)
        if bits is None:
            bits = self._blocks[block] = bytearray(per_block >> 3)
        mask = 1 << (unit & 7)
        if not bits[unit >> 3] & mask:
            bits[unit >> 3] |= mask
            self.nbytes += nbytes


class Stored:
    """What is stored, each extent once: a bit for each 16 KiB of large data, for each 16 bytes of small."""

    def __init__(self) -> None:
        self._all, self._live, self._kept = _Bits(), _Bits(), _Bits()
        self._small: set[int] = set()
        self._metadata = [0, 0, 0]
        self.is_exact = True
        """Whether all extents were told apart; else some that are shared count several times."""

    def add(self, elm: LeafElm, *, live: bool, kept: bool) -> None:
        """A record with a payload: whether it is visible now, and whether it stays when prune runs."""
        nbytes = round16(elm.data_len)
        marks = [bits for bits, wanted in ((self._all, True), (self._live, live), (self._kept, kept)) if wanted]
        zone, block = zone_of(elm.data_offset), bigblock_index(elm.data_offset)
        if zone == ZONE_SMALL_DATA and block not in self._small and len(self._small) < _SMALL_BLOCKS:
            self._small.add(block)
        if zone == ZONE_LARGE_DATA and not elm.data_offset % BUFSIZE:
            unit = BUFSIZE
        elif zone == ZONE_SMALL_DATA and block in self._small:
            unit = 16
        else:  # payloads of metadata are not shared
            self.is_exact &= zone == ZONE_META
            for bits in marks:
                bits.nbytes += nbytes
            return
        place = (elm.data_offset & BIGBLOCK_MASK) // unit
        for bits in marks:
            bits.mark(block, place, BIGBLOCK_SIZE // unit, nbytes)

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        everything, live, kept = self._all.nbytes, self._live.nbytes, self._kept.nbytes
        return {
            "bytes": everything,
            "live_bytes": live,
            "history_bytes": everything - live,
            "reclaimable_bytes": everything - kept,
            "exact": self.is_exact,
        }


@dataclass
class PfsCensus:
    """Sums of one PFS."""

    label: bytes
    snaps: list[Snapshot]
    policy: Policy
    live: Sum = field(default_factory=Sum)
    history: Sum = field(default_factory=Sum)
    reclaimable: Sum = field(default_factory=Sum)
    several: Sum = field(default_factory=Sum)
    recent: Sum = field(default_factory=Sum)
    held: dict[int, Sum] = field(default_factory=dict)
    """By the TID of the one snapshot that holds them."""

    def add(self, elm: LeafElm) -> bool:
        """Count a record; whether it stays when prune runs."""
        nbytes, create, delete = elm.data_len, elm.create_tid, elm.delete_tid
        if not delete:
            self.live.add(nbytes)
            return True
        self.history.add(nbytes)
        if self.policy.is_prunable(create, delete):
            self.reclaimable.add(nbytes)
            return False
        holder = self.policy.holder(create, delete)
        if holder is not None:
            self.held.setdefault(holder, Sum()).add(nbytes)
        elif self.policy.is_recent(create):
            self.recent.add(nbytes)
        else:
            self.several.add(nbytes)
        return True

    def as_json(self, pfs_id: int) -> dict[str, Any]:
        """As plain values."""
        sums = {name: getattr(self, name).as_json() for name in ("live", "history", "reclaimable", "several", "recent")}
        held = [
            {"tid": tid_text(snap.tid), "label": os.fsdecode(snap.label), **self.held.get(snap.tid, Sum()).as_json()}
            for snap in self.snaps
        ]
        return {"id": pfs_id, "label": os.fsdecode(self.label), **sums, "snapshots": held}


class Census:
    """The pass. It sees what has been flushed; what changes while it is under way counts as it is met.

    Args:
        fs: The file system.
        now: Unix seconds, for what prune keeps because it is recent.

    Raises:
        CorruptError: A record of a PFS or snapshot is damaged.
        DeviceError: The media failed.
    """

    def __init__(self, fs: HammerFS, now: float) -> None:
        self._fs = fs
        self._now = now
        self._at: Key | None = KEY_MIN
        with fs.cache.section():
            self._pfs = {pfs_id: self._open(pfs_id) for pfs_id, _ in fs.pfs_list()}
        self._stored = Stored()
        self._zones = {zone: [0, 0] for zone in sorted(ZONES_MAPPED)}
        """Big-blocks of each zone, and bytes in them that are referred to."""
        self._blocks: Iterator[tuple[int, int]] | None = self._owners()

    def step(self) -> bool:
        """Look at a few thousand records, or entries of the freemap; whether there are more.

        Raises:
            CorruptError: The tree or the freemap is damaged.
            DeviceError: The media failed.
        """
        with self._fs.cache.section():
            if self._at is not None:
                self._at = self._records(self._at)
            elif self._blocks is not None:
                seen = list(islice(self._blocks, _BLOCKS))
                for zone, nbytes in seen:
                    if zone in self._zones:
                        self._zones[zone][0] += 1
                        self._zones[zone][1] += nbytes
                if len(seen) < _BLOCKS:
                    self._blocks = None
        return self._at is not None or self._blocks is not None

    def as_json(self) -> dict[str, Any]:
        """What has been found, as plain values."""
        stored = self._stored.as_json()
        owned = sum(count for count, _ in self._zones.values()) << BIGBLOCK_BITS
        nodes = self._zones[ZONE_BTREE][1]
        return {
            "pfs": [found.as_json(pfs_id) for pfs_id, found in sorted(self._pfs.items())],
            "stored": stored,
            "nodes_bytes": nodes,
            "room_bytes": max(0, owned - nodes - stored["bytes"]),
        }

    def _open(self, pfs_id: int) -> PfsCensus:
        fs = self._fs
        try:
            data = fs.pfs.get(pfs_id)
        except NotFound:  # it was destroyed, and its records are still going
            return PfsCensus(b"", [], Policy([], 0, self._now))
        snaps = fs.snapshots(pfs_id)
        return PfsCensus(data.label.split(b"\0")[0], snaps, Policy(snaps, data.prune_min, self._now))

    def _records(self, at: Key) -> Key | None:
        seen = 0
        last: LeafElm | None = None
        for elms in leaves(self._fs.tree, at, KEY_MAX):
            for elm in elms:
                pfs_id = pfs_of(elm.localization)
                found = self._pfs.get(pfs_id)
                if found is None:
                    found = self._pfs[pfs_id] = self._open(pfs_id)
                kept = found.add(elm)
                if elm.data_len:
                    self._stored.add(elm, live=not elm.delete_tid, kept=kept)
            seen, last = seen + len(elms), elms[-1]
            if seen >= SCANNED:
                return after(last.sort_key)
        return None

    def _owners(self) -> Iterator[tuple[int, int]]:
        """Owner of each big-block, and the bytes in it that are referred to."""
        freemap = self._fs.freemap
        for base, layer1, _ in freemap.spans():
            for _, entry, _ in freemap.blocks(base, layer1):
                yield entry.zone, BIGBLOCK_SIZE - entry.bytes_free
