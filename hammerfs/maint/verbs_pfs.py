"""The verbs of PFSs."""

from __future__ import annotations

import os
from typing import Any

from hammerfs.errors import ExistsError, InvalidError, NotFound
from hammerfs.inode import Inode
from hammerfs.maint import pfs_admin
from hammerfs.maint.pfs_admin import Rollback
from hammerfs.maint.sweep import SLICE_SECONDS, key_text, parse_key
from hammerfs.maint.verb import Context, Verb
from hammerfs.namespace import Owner
from hammerfs.symlink import softlink_pfs, stored_target


async def _next(ctx: Context, path: str) -> dict[str, Any]:
    """The lowest free id, for a softlink in a directory of PFS 0."""
    _home(ctx, path)
    with ctx.fs.cache.section():
        return {"pfs": pfs_admin.next_id(ctx.fs)}


async def _create(
    ctx: Context,
    path: str,
    slave: bool,
    options: list[str],
    pfs: int | None = None,
    link: str | None = None,
    uid: int = 0,
    gid: int = 0,
) -> dict[str, Any]:
    """Make a PFS.

    Args:
        ctx: The file system.
        path: The directory of its softlink.
        slave: Whether it is a slave.
        options: Fields of its record.
        pfs: Its id, if the softlink is there already; else the lowest free one.
        link: Name of the softlink to be made.
        uid: Owner of its root directory.
        gid: Its group.
    """
    home = _home(ctx, path)
    with ctx.fs.cache.section():
        pfs_id = pfs_admin.next_id(ctx.fs) if pfs is None else pfs
        if link is not None:
            name = os.fsencode(link)
            try:
                ctx.fs.lookup(home, name)
            except NotFound:
                pass
            else:
                raise ExistsError(f"{link} is there already")
    await pfs_admin.create(ctx.fs, pfs_id, options, slave=slave, uid=uid, gid=gid)
    if link is not None:
        with ctx.fs.cache.section():
            ctx.fs.namespace.symlink(home, name, b"@@PFS%05d" % pfs_id, Owner(uid, gid, 0o755))
        await ctx.fs.flusher.flush()
    return pfs_admin.status(ctx.fs, pfs_id)


async def _status(ctx: Context, path: str) -> dict[str, Any]:
    """The PFS that holds a path."""
    return pfs_admin.status(ctx.reader, ctx.pfs_of(path))


async def _update(ctx: Context, path: str, options: list[str]) -> dict[str, Any]:
    """Change the record of the PFS that holds a path."""
    pfs_id = ctx.pfs_of(path)
    await pfs_admin.update(ctx.fs, pfs_id, options)
    return pfs_admin.status(ctx.fs, pfs_id)


async def _downgrade(ctx: Context, path: str) -> dict[str, Any]:
    """Make a master a slave."""
    pfs_id = ctx.pfs_of(path)
    await pfs_admin.downgrade(ctx.fs, pfs_id)
    return pfs_admin.status(ctx.fs, pfs_id)


async def _upgrade(ctx: Context, path: str, start: str | None = None, seconds: float = SLICE_SECONDS) -> dict[str, Any]:
    """Make a slave a master."""
    pfs_id = ctx.pfs_of(path)
    with ctx.fs.cache.section():
        data = ctx.fs.pfs.get(pfs_id)
    rollback = Rollback(ctx.fs, pfs_id, data.sync_end_tid + 1)
    at = await pfs_admin.upgrade(ctx.fs, pfs_id, rollback, None if start is None else parse_key(start), seconds)
    return {"pfs": pfs_id, "label": os.fsdecode(data.label_text), "next": key_text(at), "stats": rollback.stats}


async def _destroy(
    ctx: Context,
    path: str,
    pfs: int | None = None,
    unlink: bool = False,
    start: str | None = None,
    seconds: float = SLICE_SECONDS,
) -> dict[str, Any]:
    """Destroy a PFS; of one that is destroyed already only the softlink can be left.

    Args:
        ctx: The file system.
        path: Its softlink.
        pfs: Its id, as an earlier call has told.
        unlink: Whether the softlink goes as well.
        start: Where to go on.
        seconds: For how long.
    """
    fs = ctx.fs
    link = ctx.find(path, follow=False)
    with fs.cache.section():
        pfs_id = softlink_pfs(stored_target(fs.records, link)) if link.is_symlink else link.pfs_id
        if pfs_id is None or (pfs is not None and pfs != pfs_id):
            raise InvalidError(f"{path} is no softlink to a PFS")
        if pfs_id == ctx.pfs_id:
            raise InvalidError(f"PFS {pfs_id} is what is mounted")
        is_gone = fs.pfs.was_destroyed(pfs_id)
    rollback = Rollback(fs, pfs_id, 0)
    key = None if start is None else parse_key(start)
    at = None if is_gone else await pfs_admin.destroy(fs, pfs_id, rollback, start=key, seconds=seconds)
    if at is None and unlink and link.is_symlink:
        with fs.cache.section():
            folder, name = os.path.split(os.fsencode(path).rstrip(b"/"))
            fs.namespace.unlink(ctx.find(os.fsdecode(folder) or "/"), name)
        await fs.flusher.flush()
    return {"pfs": pfs_id, "next": key_text(at), "stats": rollback.stats}


def _home(ctx: Context, path: str) -> Inode:
    """A directory in which a softlink to a PFS works: at the head of PFS 0.

    Raises:
        InvalidError: It is another one.
        HammerError: As `Context.find`.
    """
    inode = ctx.find(path)
    if inode.pfs_id or not inode.is_head or not inode.is_dir:
        raise InvalidError(f"{path}: softlinks to PFSs belong to directories of PFS 0, as they are now")
    return inode


VERBS = {
    "pfs-next": Verb(_next),
    "pfs-create": Verb(_create),
    "pfs-status": Verb(_status, needs_owner=False),
    "pfs-update": Verb(_update),
    "pfs-downgrade": Verb(_downgrade, fixes_time=True),
    "pfs-upgrade": Verb(_upgrade),
    "pfs-destroy": Verb(_destroy, fixes_time=True),
}
