"""What runs now: the kernel core's threads, memory and tokens, and the counters of the file system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hammerfs.addr import tid_text
from hammerfs.buffer import DirtyClass
from hammerfs.errors import NotFound, UsageError
from hammerfs.maint.verb import Context, Verb
from hammerfs.rw import WritableFS
from kernelcore import stat


async def _ps(ctx: Context) -> dict[str, Any]:
    """Threads."""
    return _table(stat.ThreadRow, stat.ps())


async def _vmstat(ctx: Context) -> dict[str, Any]:
    """Memory: buffers of arenas, and malloc types."""
    return {"arenas": [row._asdict() for row in stat.arenas()], **_table(stat.MallocRow, stat.vmstat_m())}


async def _tokens(ctx: Context) -> dict[str, Any]:
    """Tokens."""
    return _table(stat.TokenRow, stat.tokens())


def _table(kind: type[NamedTuple], rows: Sequence[Any]) -> dict[str, Any]:
    return {"rows": [row._asdict() for row in rows], "text": stat.text(kind, rows)}


async def _iostats(ctx: Context) -> dict[str, Any]:
    """Reads and writes of the media since the file system was opened."""
    fs = ctx.reader
    read = {"buffer_misses": fs.cache.misses, "buffer_evictions": fs.cache.evictions}
    if not isinstance(fs, WritableFS):
        return read
    return {
        **read,
        "flushes": fs.flusher.flushes,
        "fsyncs_logged": fs.flusher.logs,
        "fifo_free_bytes": fs.undo.free_bytes,
    }


async def _bstats(ctx: Context) -> dict[str, Any]:
    """What is in memory now."""
    fs = ctx.reader
    cached = {
        "cache_bytes": fs.cache.used_bytes,
        "cache_limit_bytes": fs.cache.limit_bytes,
        "inodes": fs.inodes.count,
    }
    if not isinstance(fs, WritableFS):
        return cached
    return {
        **cached,
        "dirty_buffers": sum(len(fs.cache.dirty(cls)) for cls in DirtyClass if cls),
        "dirty_inodes": len(fs.changes.dirty),
        "pending_records": fs.changes.pending,
        "dirty_data_bytes": fs.changes.data_bytes,
        "placed_data_bytes": fs.changes.placed_bytes,
        "orphans": len(fs.backend.orphans),
    }


async def _stats(ctx: Context) -> dict[str, Any]:
    """Both, and the state of the file system."""
    fs = ctx.reader
    head = fs.volumes.superblock
    counters = {
        **await _iostats(ctx),
        **await _bstats(ctx),
        "free_bigblocks": head.vol0_stat_freebigblocks,
        "live_inodes": head.vol0_stat_inodes,
        "flush_tid": tid_text(fs.newest_tid),
        "writable": isinstance(fs, WritableFS),
    }
    if not isinstance(fs, WritableFS):
        return counters
    return {
        **counters,
        "free_bigblocks": fs.alloc.free_bigblocks,
        "delayed_bigblocks": fs.alloc.delayed_bigblocks,
        "failed": None if fs.changes.failed is None else str(fs.changes.failed),
    }


async def _sysctl(ctx: Context, name: str | None = None, value: str | None = None) -> dict[str, Any]:
    """Counters of the kernel core, and what of vfs.hammer can be seen and set, by name."""
    tree = {**stat.sysctl(), "vfs.hammer.count_inodes": ctx.reader.inodes.count}
    if isinstance(ctx.reader, WritableFS):
        tree.update(_of_writer(ctx.reader))
    if value is not None and name is not None:
        _set(ctx, name, value)
        return await _sysctl(ctx, name)
    found = {key: tree[key] for key in sorted(tree) if name is None or key == name or key.startswith(f"{name}.")}
    if not found:
        raise NotFound(f"there is no '{name}'")
    return found


def _of_writer(fs: WritableFS) -> dict[str, Any]:
    options = fs.options
    return {
        "vfs.hammer.fsync_mode": options.fsync_mode,
        "vfs.hammer.commit_seconds": options.commit_seconds,
        "vfs.hammer.limit_dirtybufspace": options.dirty_bytes,
        "vfs.hammer.limit_inode_records": options.group_records,
        "vfs.hammer.count_dirtybufspace": fs.changes.data_bytes,
        "vfs.hammer.count_iqueued": len(fs.changes.dirty),
        "vfs.hammer.count_newrecords": fs.changes.pending,
        "vfs.hammer.stats_commits": fs.flusher.flushes,
    }


def _set(ctx: Context, name: str, text: str) -> None:
    settable = {"vfs.hammer.fsync_mode": (0, 4), "vfs.hammer.commit_seconds": (1, 3600)}
    if name not in settable:
        raise UsageError(f"'{name}' can't be set; {' and '.join(settable)} can")
    lowest, highest = settable[name]
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise UsageError(f"{name}: '{text}' is no number from {lowest} to {highest}")
    if name == "vfs.hammer.fsync_mode":
        ctx.fs.options.fsync_mode = int(text)
    else:
        ctx.fs.options.commit_seconds = int(text)


VERBS = {
    "ps": Verb(_ps, needs_owner=False),
    "vmstat": Verb(_vmstat, needs_owner=False),
    "tokens": Verb(_tokens, needs_owner=False),
    "iostats": Verb(_iostats, needs_owner=False),
    "bstats": Verb(_bstats, needs_owner=False),
    "stats": Verb(_stats, needs_owner=False),
    "sysctl": Verb(_sysctl),
}
