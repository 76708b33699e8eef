"""What people ask of the past, as rows that JSON can hold: differences, deleted names, versions of a name.

Names are text as `os.fsdecode` makes it, TIDs as they are printed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from hammerfs.addr import tid_text
from hammerfs.const import MAX_TID
from hammerfs.errors import HammerError, NotFound, UsageError
from hammerfs.fs import HammerFS
from hammerfs.history import data_history, deleted_entries
from hammerfs.inode import Inode, need_dir
from hammerfs.manifest import TYPE_NAMES
from hammerfs.treediff import Change, diff
from hammerfs.versions import name_versions
from hammerfs.viewspec import parse_asof

Row = dict[str, Any]


def diff_rows(fs: HammerFS, root: Inode, older: str, newer: str, below: str = "/") -> list[Row]:
    """Differences between two points in time.

    Args:
        fs: The file system.
        root: Root of the PFS.
        older: The one time, in any form that `parse_asof` knows; ``-1`` or ``now`` for the head.
        newer: The other.
        below: Only what lies below this path.

    Raises:
        NotFound: There is no such point in time.
        UsageError: The first is not before the second.
        HammerError: Something on the way is damaged.
    """
    first, last = (_point(fs, root.pfs_id, text) for text in (older, newer))
    if first >= last:
        raise UsageError(f"{older} is not before {newer}")
    prefix = os.fsencode(below).rstrip(b"/") + b"/"
    return [
        _change_row(change)
        for change in diff(fs, root.pfs_id, first, last)
        if any(path is not None and (path + b"/").startswith(prefix) for path in (change.path, change.old_path))
    ]


def _point(fs: HammerFS, pfs_id: int, text: str) -> int:
    return MAX_TID if text in {"-1", "now"} else parse_asof(fs, pfs_id, text)


def _change_row(change: Change) -> Row:
    row: Row = {"change": change.kind, "path": os.fsdecode(change.path)}
    if change.old_path is not None:
        row["from"] = os.fsdecode(change.old_path)
    return {**row, "ino": tid_text(change.obj_id), "tid": tid_text(change.tid)}


def deleted_rows(fs: HammerFS, directory: Inode, path: str, *, recursive: bool = False) -> Iterator[Row]:
    """Names that were removed from a directory (and from those below it) and can still be brought back.

    Args:
        fs: The file system.
        directory: The directory.
        path: Its path, to make paths of the names.
        recursive: Also of the directories in it.

    Raises:
        NotADirectory: It is none.
        HammerError: It is damaged; a damaged directory below it is left out.
    """
    need_dir(directory)
    newest: dict[bytes, Row] = {}
    for gone in deleted_entries(fs.records, directory):
        full = os.path.join(path, os.fsdecode(gone.name))
        row = {
            "path": full,
            "type": TYPE_NAMES.get(gone.obj_type, "unknown"),
            "ino": tid_text(gone.obj_id),
            "deleted_tid": tid_text(gone.delete_tid),
            "deleted_ts": gone.delete_ts,
            "restore": f"{full}@@{tid_text(gone.delete_tid - 1)}",
        }
        known = newest.get(gone.name)
        if known is None or str(known["deleted_tid"]) < str(row["deleted_tid"]):
            newest[gone.name] = row
    present = {entry.name: entry for entry in fs.readdir(directory)}
    yield from (row for name, row in sorted(newest.items()) if name not in present)
    if recursive:
        for name, entry in sorted(present.items()):
            try:
                inode = fs.iget(entry.pfs_id, entry.obj_id, directory.asof)
                if inode.is_dir:
                    yield from deleted_rows(fs, inode, os.path.join(path, os.fsdecode(name)), recursive=True)
            except HammerError:
                continue  # looking at it says what is wrong with it


def version_rows(fs: HammerFS, directory: Inode, name: bytes) -> list[Row]:
    """Every version of a name, oldest first: when, how large, and what changed.

    Raises:
        NotFound: The directory never held the name.
        HammerError: Something on the way is damaged.
    """
    rows: list[Row] = []
    before: Inode | None = None
    for version in name_versions(fs.records, fs.inodes, directory, name):
        try:
            inode = fs.iget(version.pfs_id, version.obj_id, version.tid)
        except NotFound:
            continue
        attr = inode.attr()
        rows.append(
            {
                "tid": tid_text(version.tid),
                "ts": version.ts,
                "ino": tid_text(inode.obj_id),
                "type": TYPE_NAMES.get(inode.data.obj_type, "unknown"),
                "size": inode.size,
                "mode": f"{attr.mode & 0o7777:04o}",
                "changed": _what_changed(fs, before, inode, version.tid),
            }
        )
        before = inode
    return rows


def _what_changed(fs: HammerFS, before: Inode | None, inode: Inode, tid: int) -> list[str]:
    """Words for what made a version."""
    if before is None or before.obj_id != inode.obj_id:
        return ["created"]
    old, new = before.data, inode.data
    words = []
    written = (
        {moment.tid for moment in data_history(fs.records, inode.pfs_id, inode.obj_id)} if inode.is_file else set()
    )
    if tid in written or old.size != new.size:
        words.append("contents")
    if old.mode != new.mode:
        words.append("mode")
    if (old.uid, old.gid) != (new.uid, new.gid):
        words.append("owner")
    if old.nlinks != new.nlinks:
        words.append("links")
    if old.uflags != new.uflags:
        words.append("flags")
    if old.parent_obj_id != new.parent_obj_id:
        words.append("place")
    return words or ["times"]
