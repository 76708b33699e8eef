"""The verbs of hammer(8) that need a file system opened for writing, by name, with plain values in and out.

A mount runs them for whoever asks on its control socket, a tool runs them on an image: arguments and results are what
JSON can hold. Names are text as `os.fsdecode` makes it.
"""

from __future__ import annotations

import os
from typing import Any

from hammerfs.const import VERSION_SNAPSHOT
from hammerfs.errors import HammerError, UsageError
from hammerfs.maint import (
    snapshots,
    verbs_dedup,
    verbs_df,
    verbs_history,
    verbs_mirror,
    verbs_pfs,
    verbs_space,
    verbs_stat,
    verbs_volumes,
)
from hammerfs.maint.verb import Context, Verb, tid_of


async def _synctid(ctx: Context) -> dict[str, str]:
    """Flush; the TID as of which everything is visible."""
    return {"tid": snapshots.tid_text(await ctx.fs.flusher.settle())}


async def _snap(ctx: Context, path: str, label: str = "", linked: bool = False) -> dict[str, Any]:
    """Take a snapshot of the PFS that holds a path; `linked`: a softlink will lead to it."""
    pfs_id = ctx.find(path).pfs_id
    snap = await snapshots.take(ctx.fs, pfs_id, os.fsencode(label), linked=linked)
    recorded = ctx.fs.volumes.version >= VERSION_SNAPSHOT
    tid = snapshots.tid_text(snap.tid)
    return {"tid": tid, "pfs": pfs_id, "ts_us": snap.ts_us, "label": label, "recorded": recorded}


async def _snapls(ctx: Context, path: str) -> dict[str, Any]:
    """List the snapshots of the PFS that holds a path."""
    pfs_id = ctx.pfs_of(path)
    with ctx.reader.cache.section():
        found = ctx.reader.snapshots(pfs_id)
    rows = [{"tid": snapshots.tid_text(s.tid), "ts_us": s.ts_us, "label": os.fsdecode(s.label)} for s in found]
    return {"pfs": pfs_id, "snapshots": rows}


async def _snaprm(ctx: Context, path: str, tids: list[str]) -> dict[str, Any]:
    """Remove snapshots from the PFS that holds a path."""
    pfs_id = ctx.pfs_of(path)
    await snapshots.remove(ctx.fs, pfs_id, [tid_of(tid) for tid in tids])
    return {"pfs": pfs_id, "removed": tids}


async def _config(ctx: Context, path: str, text: str | None = None) -> dict[str, Any]:
    """Show or set the configuration text of the PFS that holds a path."""
    pfs_id = ctx.pfs_of(path)
    if text is not None:
        await snapshots.set_config(ctx.fs, pfs_id, os.fsencode(text))
    with ctx.reader.cache.section():
        found = ctx.reader.config(pfs_id)
    return {"pfs": pfs_id, "config": None if found is None else os.fsdecode(found)}


async def _chflags(ctx: Context, path: str, uflags: int) -> dict[str, Any]:
    """Set the flags of an object."""
    inode = ctx.find(path, follow=False)
    with ctx.fs.cache.section():
        ctx.fs.setattr(inode, snapshots.flags_only(uflags))
    if ctx.changed is not None:
        ctx.changed(inode)
    await ctx.fs.flusher.flush()
    return {"uflags": inode.data.uflags}


async def _lsflags(ctx: Context, path: str) -> dict[str, Any]:
    """Show the flags of an object."""
    return {"uflags": ctx.find(path, follow=False).data.uflags}


VERBS = {
    "synctid": Verb(_synctid, fixes_time=True, needs_owner=False),
    "snap": Verb(_snap, fixes_time=True),
    "snapls": Verb(_snapls, needs_owner=False),
    "snaprm": Verb(_snaprm),
    "config": Verb(_config),
    "chflags": Verb(_chflags, fixes_time=True),
    "lsflags": Verb(_lsflags, needs_owner=False),
    **verbs_dedup.VERBS,
    **verbs_df.VERBS,
    **verbs_history.VERBS,
    **verbs_mirror.VERBS,
    **verbs_pfs.VERBS,
    **verbs_space.VERBS,
    **verbs_stat.VERBS,
    **verbs_volumes.VERBS,
}


async def run_verb(ctx: Context, name: str, args: dict[str, Any]) -> Any:
    """Run a verb by its name.

    Raises:
        UsageError: There is no such verb, or the arguments do not fit it.
        HammerError: What the verb raises.
    """
    verb = VERBS.get(name)
    if verb is None:
        raise UsageError(f"there is no verb '{name}'")
    try:
        work = verb.run(ctx, **args)
    except TypeError as err:
        raise UsageError(f"{name}: {err}") from None
    return await work


def error_reply(err: HammerError) -> dict[str, Any]:
    """An error as a reply."""
    return {"error": str(err), "errno": err.errno, "exit_code": err.exit_code}
