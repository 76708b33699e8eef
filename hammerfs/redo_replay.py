"""Crash recovery, stage 2: fsynced writes brought back as contents that are newer than the media.

A reader keeps them in memory; a mount that writes has them in its next flush.
"""

from __future__ import annotations

from collections.abc import Iterable

from hammerfs.addr import pfs_of
from hammerfs.const import MAX_FILE_SIZE, REDO_WRITE
from hammerfs.dirty import DirtyData
from hammerfs.errors import CorruptError, NotFound
from hammerfs.inode import Inode, Inodes
from hammerfs.ondisk.fifo import RedoRecord


def replay(inodes: Inodes, operations: Iterable[RedoRecord]) -> list[Inode]:
    """Carry out logged operations in memory, in order; those on files that are gone are passed over.

    Returns:
        The inodes of the files concerned, with what came back as their `dirty`.

    Raises:
        CorruptError: An operation that can't be, or a damaged inode.
    """
    files: dict[tuple[int, int], Inode] = {}
    for op in operations:
        ident = (pfs_of(op.localization), op.obj_id)
        inode = files.get(ident) or _file(inodes, *ident)
        if inode is None:
            continue
        files[ident] = inode
        dirty = inode.dirty
        if dirty is None:
            dirty = inode.dirty = DirtyData(inode.data.size, inode.data.mtime)
        if op.offset < 0 or op.offset + len(op.data) > MAX_FILE_SIZE:
            raise CorruptError(f"REDO record at file offset {op.offset}", obj_id=op.obj_id)
        if op.flags == REDO_WRITE:
            dirty.write(op.offset, op.data)
        else:
            dirty.truncate(op.offset)
        dirty.mtime = max(dirty.mtime, op.mtime)
    return list(files.values())


def _file(inodes: Inodes, pfs_id: int, obj_id: int) -> Inode | None:
    try:
        inode = inodes.get(pfs_id, obj_id)
    except NotFound:
        return None
    return inode if inode.is_file else None
