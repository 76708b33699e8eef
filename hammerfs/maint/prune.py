"""Pruning: history between snapshots goes, physically.

A record goes when it lived and died between two remembered points in time, so that none of them shows it.
What is newer than the newest snapshot stays. `prune-everything` leaves nothing but the present.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hammerfs.btree.iterate import scan_reverse
from hammerfs.const import MAX_TID, RECTYPE_DIRENTRY, RECTYPE_INODE
from hammerfs.keys import Key
from hammerfs.maint.sweep import CHANGED, SCANNED, Step, forget_places, pfs_keys, sweep
from hammerfs.ondisk.node import LeafElm
from hammerfs.rw import WritableFS


class PruneRange(NamedTuple):
    """TIDs between two points in time that are to stay visible."""

    beg: int
    end: int


@dataclass
class PruneStats:
    """What a prune has done."""

    scanned: int = 0
    records: int = 0
    """Pruned ones that are no directory entries."""
    entries: int = 0
    nbytes: int = 0


def deciding_recent(snaps: Collection[tuple[int, float]], prune_min: int, now: float) -> int | None:
    """TID of the snapshot before which pruning ends, so that recent history stays; arguments as for `prune_ranges`."""
    recent = [tid for tid, ts in dict(snaps).items() if prune_min and now - ts < prune_min]
    return min(recent, default=None)


def prune_ranges(snaps: Collection[tuple[int, float]], prune_min: int, now: float) -> list[PruneRange]:
    """The ranges that the snapshots of a PFS leave to be pruned, newest first.

    Args:
        snaps: TID and time (Unix seconds) of each.
        prune_min: Seconds of recent history that stay.
        now: Unix seconds.

    Returns:
        None of them reaches beyond the newest snapshot; without two snapshots there is none.
    """
    newest_first = sorted(dict(snaps).items(), reverse=True)
    ends = [MAX_TID, *(tid for tid, _ in newest_first)]
    ranges = [PruneRange(tid, end) for (tid, _), end in zip(newest_first, ends, strict=False)]
    recent = deciding_recent(snaps, prune_min, now)
    if recent is not None:
        ranges = [one for one in ranges if one.beg < recent]
        ranges[:1] = [PruneRange(one.beg, MAX_TID) for one in ranges[:1]]
    ranges = ranges[1:]
    if ranges:
        ranges.append(PruneRange(1, ranges[-1].beg))
    return ranges


def is_prunable(elm: LeafElm, ranges: Sequence[PruneRange] | None, *, exact: bool = False) -> bool:
    """Whether a record goes.

    Args:
        elm: The record.
        ranges: Newest first; None: every record that is not alive goes.
        exact: Whether one that was created at the very TID of a snapshot, and so is visible there, stays. DragonFly
            removes it. No record carries the TID of a snapshot that was taken here, but those of others may.
    """
    if not elm.delete_tid or ranges is None:
        return elm.delete_tid != 0
    for one in ranges:
        if elm.create_tid >= one.end or elm.delete_tid > one.end:
            return False
        if elm.create_tid > one.beg or (elm.create_tid == one.beg and not exact):
            return elm.delete_tid < one.end
    return False


class Prune:
    """A pass that prunes one PFS, from its highest key down.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        ranges: As for `is_prunable`.
        exact: As for `is_prunable`.
    """

    def __init__(
        self, fs: WritableFS, pfs_id: int, ranges: Sequence[PruneRange] | None, *, exact: bool = False
    ) -> None:
        self._fs = fs
        self._pfs_id = pfs_id
        self._ranges = ranges
        self._exact = exact
        self._beg, self.start = pfs_keys(pfs_id)
        self.stats = PruneStats()
        self._alive: list[tuple[int, int, int, int]] = []
        """Slots of the inodes that have been met."""
        with fs.cache.section():
            self._may_reap = not fs.pfs.get(pfs_id).is_slave

    async def run(self, start: Key | None, seconds: float) -> Key | None:
        """Go on for a while; objects that lost their last name in a crash go as well.

        Returns:
            Where to go on; None at the end.

        Raises:
            HammerError: The tree is damaged, or the media failed.
        """
        fs = self._fs
        at = await sweep(fs, self._step, start or self.start, seconds)
        with fs.cache.section():
            forget_places(fs)
            for slot in self._alive:  # others have had their turn since: some have gone by themselves
                elm = fs.records.lookup(*slot, MAX_TID)
                if elm is not None:
                    fs.reap(self._pfs_id, elm)
        if self._alive:
            self._alive = []
            await fs.flusher.settle()
        return at

    def _step(self, at: Key) -> Step:
        fs, stats = self._fs, self.stats
        beg, doomed, seen = self._beg, [], 0
        last: Key | None = None
        for elm in scan_reverse(fs.tree, beg, at):
            seen += 1
            if is_prunable(elm, self._ranges, exact=self._exact):
                doomed.append(elm)
            elif elm.rec_type == RECTYPE_INODE and not elm.delete_tid and self._may_reap:
                self._alive.append((elm.localization, elm.obj_id, elm.rec_type, elm.key))
            if seen >= SCANNED or len(doomed) >= CHANGED:
                last = elm.sort_key
                break
        for elm in doomed:
            fs.backend.tree.destroy(elm.sort_key)
            if elm.data_len:
                fs.alloc.free(elm.data_offset, elm.data_len)
        stats.scanned += seen
        stats.entries += sum(elm.rec_type == RECTYPE_DIRENTRY for elm in doomed)
        stats.records += sum(elm.rec_type != RECTYPE_DIRENTRY for elm in doomed)
        stats.nbytes += sum(elm.data_len for elm in doomed)
        return Step(last, bool(doomed))
