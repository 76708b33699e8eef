"""The verbs that give space back: prune, reblock, rebalance. Each works for a while and tells where to go on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from hammerfs.addr import tid_text
from hammerfs.const import VERSION_SNAPSHOT
from hammerfs.errors import UsageError
from hammerfs.maint import snapshots
from hammerfs.maint.prune import Prune, PruneRange, prune_ranges
from hammerfs.maint.rebalance import Rebalance
from hammerfs.maint.reblock import Reblock, What
from hammerfs.maint.sweep import SLICE_SECONDS, key_text, parse_key
from hammerfs.maint.verb import Context, Verb, tid_of
from hammerfs.symlink import linked_tid

CLASSES = {"btree": What.BTREE, "inodes": What.INODES, "dirs": What.DIRS, "data": What.DATA}
"""Names of what reblock moves."""


async def _prune(
    ctx: Context,
    path: str,
    directory: str | None = None,
    targets: list[str] | None = None,
    times: list[float] | None = None,
    ranges: list[list[str]] | None = None,
    everything: bool = False,
    exact: bool = False,
    start: str | None = None,
    seconds: float = SLICE_SECONDS,
) -> dict[str, Any]:
    """Prune the PFS that holds a path.

    Args:
        ctx: The file system.
        path: Anything in the PFS.
        directory: Where softlinks to snapshots are, inside the file system.
        targets: What softlinks found elsewhere lead to.
        times: Their times (Unix seconds).
        ranges: What an earlier call has worked out, to go on with.
        everything: All history goes, and with it the snapshots.
        exact: What was created at the very TID of a snapshot stays; see `is_prunable`.
        start: Where to go on.
        seconds: For how long.
    """
    fs, pfs_id = ctx.fs, ctx.pfs_of(path)
    wanted: list[PruneRange] | None = None
    if not everything and ranges is not None:
        wanted = [PruneRange(tid_of(beg), tid_of(end)) for beg, end in _pairs(ranges)]
    elif not everything:
        with fs.cache.section():
            snaps = [*_snapshots(ctx, pfs_id, directory, zip(targets or (), times or (), strict=False))]
            wanted = prune_ranges(snaps, fs.pfs.get(pfs_id).prune_min, fs.options.clock() / 1_000_000)
    prune = Prune(fs, pfs_id, wanted, exact=exact)
    at = await prune.run(None if start is None else parse_key(start), seconds) if everything or wanted else None
    if everything and at is None:
        with fs.cache.section():
            held = [snap.tid for snap in fs.snapshots(pfs_id)]
        if held and fs.volumes.version >= VERSION_SNAPSHOT:  # below, they are the users' softlinks
            await snapshots.remove(fs, pfs_id, held)
    return {
        "pfs": pfs_id,
        "prune_min": fs.pfs.get(pfs_id).prune_min,
        "ranges": None if wanted is None else [[tid_text(one.beg), tid_text(one.end)] for one in wanted],
        "next": key_text(at),
        "stats": asdict(prune.stats),
    }


def _pairs(words: list[list[str]]) -> Iterator[tuple[str, str]]:
    for word in words:
        if len(word) != 2:
            raise UsageError(f"{word} is no pair")
        yield word[0], word[1]


def _snapshots(
    ctx: Context, pfs_id: int, directory: str | None, targets: Iterable[tuple[str, float]]
) -> Iterator[tuple[int, float]]:
    """TID and time of all that remembers a point in time of a PFS."""
    fs = ctx.fs
    for snap in fs.snapshots(pfs_id):
        yield snap.tid, snap.ts_us / 1_000_000
    for target, ts in targets:
        tid = linked_tid(os.fsencode(target), pfs_id)
        if tid is not None:
            yield tid, ts
    if directory is not None:
        for snap in fs.linked_snapshots(ctx.find(directory), pfs_id):
            yield snap.tid, snap.ts_us / 1_000_000


async def _reblock(
    ctx: Context,
    path: str,
    what: list[str] | None = None,
    percent: int = 100,
    start: str | None = None,
    seconds: float = SLICE_SECONDS,
) -> dict[str, Any]:
    """Move what the PFS that holds a path has in big-blocks that are not full.

    Args:
        ctx: The file system.
        path: Anything in the PFS.
        what: Names of `CLASSES`; all of them by default.
        percent: Big-blocks filled to less than that are emptied.
        start: Where to go on.
        seconds: For how long.
    """
    if not 0 <= percent <= 100:
        raise UsageError(f"{percent} percent")
    classes = What(0)
    for name in CLASSES if what is None else what:
        if name not in CLASSES:
            raise UsageError(f"reblock moves {', '.join(CLASSES)}, not '{name}'")
        classes |= CLASSES[name]
    pfs_id = ctx.pfs_of(path)
    reblock = Reblock(ctx.fs, pfs_id, classes, percent)
    at = await reblock.run(None if start is None else parse_key(start), seconds)
    return {
        "pfs": pfs_id,
        "free_level": reblock.free_level,
        "next": key_text(at),
        "stats": asdict(reblock.stats),
    }


async def _rebalance(
    ctx: Context, path: str, percent: int = 85, start: str | None = None, seconds: float = SLICE_SECONDS
) -> dict[str, Any]:
    """Fill the B-Tree nodes of the PFS that holds a path evenly, to so many percent."""
    if not 50 <= percent <= 100:
        raise UsageError(f"{percent} percent: nodes are filled to 50..100")
    pfs_id = ctx.pfs_of(path)
    rebalance = Rebalance(ctx.fs, pfs_id, percent)
    at = await rebalance.run(None if start is None else parse_key(start), seconds)
    return {"pfs": pfs_id, "saturation": rebalance.saturation, "next": key_text(at), "stats": asdict(rebalance.stats)}


VERBS = {
    "prune": Verb(_prune, fixes_time=True),
    "reblock": Verb(_reblock),
    "rebalance": Verb(_rebalance),
}
