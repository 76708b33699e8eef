"""What people ask of the past, as rows that JSON can hold: differences, deleted names, versions of a name.

Names are text as `os.fsdecode` makes it, TIDs as they are printed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from hammerfs.addr import localize, tid_text
from hammerfs.asof import asof_suffix, parse_component
from hammerfs.const import LOCALIZE_MISC, MAX_TID, OBJTYPE_DIRECTORY, RECTYPE_DATA, RECTYPE_DIRENTRY
from hammerfs.dirent import decode_entry, entry_localization
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.history import DeletedEntry, deleted_entries, dir_history
from hammerfs.inode import Inode, need_dir
from hammerfs.keys import visible
from hammerfs.manifest import TYPE_NAMES
from hammerfs.ondisk.node import LeafElm
from hammerfs.treediff import Change, by_path, changes_back
from hammerfs.versions import Life, lives, name_versions

Row = dict[str, Any]


def diff_rows(changes: Iterable[Change], below: bytes = b"/") -> list[Row]:
    """Differences between two points in time, by path.

    Args:
        changes: What `diff` found.
        below: Only what lies below this path (from the root of the PFS).
    """
    return [_change_row(change) for change in sorted(changes, key=by_path) if _is_below(change, below)]


def log_rows(fs: HammerFS, pfs_id: int, below: bytes = b"/", most: int | None = None) -> Iterator[Row | None]:
    """What changed and when, the newest first; None after each TID, so that whoever reads may pause.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        below: Only what lies below this path (from the root of the PFS).
        most: How many rows, at most; None: all.

    Raises:
        HammerError: Something on the way is damaged.
    """
    left = most
    for step in changes_back(fs, pfs_id):
        rows = [{**_change_row(change), "ts": step.ts} for change in step.changes if _is_below(change, below)][:left]
        yield from rows
        if left is not None:
            left -= len(rows)
            if not left:
                return
        yield None


def _is_below(change: Change, folder: bytes) -> bool:
    prefix = folder.rstrip(b"/") + b"/"
    return any(path is not None and (path + b"/").startswith(prefix) for path in (change.path, change.old_path))


def _change_row(change: Change) -> Row:
    row: Row = {"change": change.kind, "path": os.fsdecode(change.path)}
    if change.old_path is not None:
        row["from"] = os.fsdecode(change.old_path)
    return {**row, "ino": tid_text(change.obj_id), "tid": tid_text(change.tid)}


def deleted_rows(fs: HammerFS, directory: Inode, path: bytes) -> tuple[list[Row], list[Row]]:
    """Names that were removed from a directory and can still be brought back, and where more of them may be.

    Args:
        fs: The file system.
        directory: The directory, at the point in time that counts.
        path: Its path, as `fs.resolve` takes it, to make paths of the names.

    Returns:
        A row for each name, and one for each directory in it, those removed included (as of their last moment).

    Raises:
        NotADirectory: It is none.
        HammerError: It is damaged.
    """
    need_dir(directory)
    newest: dict[bytes, DeletedEntry] = {}
    for gone in deleted_entries(fs.records, directory):
        known = newest.get(gone.name)
        if gone.delete_tid <= directory.asof and (known is None or known.delete_tid < gone.delete_tid):
            newest[gone.name] = gone
    present = {entry.name: entry for entry in fs.readdir(directory)}
    rows, below = [], []
    for name, gone in sorted(newest.items()):
        if name in present or gone.delete_tid == gone.create_tid:
            continue
        last = asof_path(path, name, gone.delete_tid - 1)
        where = gone.pfs_id, gone.obj_id
        lives_on = _nlinks(fs, *where, directory.asof) > 0 or _was_moved(fs, *where, gone.delete_tid)
        rows.append(
            {
                "path": os.fsdecode(plain_path(path) + name),
                "type": TYPE_NAMES.get(gone.obj_type, "unknown"),
                "ino": tid_text(gone.obj_id),
                "deleted_tid": tid_text(gone.delete_tid),
                "deleted_ts": gone.delete_ts,
                "lives_on": lives_on,
                "restore": os.fsdecode(last),
            }
        )
        if gone.obj_type == OBJTYPE_DIRECTORY and not lives_on:
            below.append(_folder(last, gone.obj_id, gone.delete_tid - 1))
    below += [
        _folder(join(path, name), entry.obj_id, directory.asof)
        for name, entry in sorted(present.items())
        if entry.obj_type == OBJTYPE_DIRECTORY
    ]
    return rows, below


def held_rows(fs: HammerFS, directory: Inode, path: bytes, first: int, last: int) -> tuple[list[Row], list[Row]]:
    """Names that a directory held at any time from one TID to another, each as it was last in that time.

    Args:
        fs: The file system.
        directory: The directory; nothing behind its own point in time is told.
        path: Its path, as `fs.resolve` takes it.
        first: The first TID.
        last: The last one; MAX_TID for the head.

    Returns:
        As for `deleted_rows`.

    Raises:
        NotADirectory: It is none.
        HammerError: It is damaged.
    """
    need_dir(directory)
    last = min(last, directory.asof)
    newest: dict[bytes, tuple[int, LeafElm, int]] = {}
    for elm in fs.records.generations(entry_localization(directory), directory.obj_id, RECTYPE_DIRENTRY):
        if elm.create_tid <= last and not 0 < elm.delete_tid <= max(first, elm.create_tid):
            data = decode_entry(fs.records, elm)
            if data.name not in newest or newest[data.name][1].create_tid < elm.create_tid:
                tid = last if visible(elm.create_tid, elm.delete_tid, last) else elm.delete_tid - 1
                newest[data.name] = tid, elm, data.obj_id
    rows, below = [], []
    for name, (tid, elm, obj_id) in sorted(newest.items()):
        way = join(path, name) if tid == directory.asof else asof_path(path, name, tid)
        rows.append(
            {
                "path": os.fsdecode(plain_path(path) + name),
                "asof": os.fsdecode(way),
                "type": TYPE_NAMES.get(elm.obj_type, "unknown"),
                "ino": tid_text(obj_id),
            }
        )
        if elm.obj_type == OBJTYPE_DIRECTORY:
            below.append(_folder(way, obj_id, tid))
    return rows, below


def _folder(path: bytes, obj_id: int, asof: int) -> Row:
    """A directory where more may be: its path, and a mark that is equal for what is the same at the same time."""
    return {"path": os.fsdecode(path), "mark": f"{obj_id:x}@{asof:x}"}


def _was_moved(fs: HammerFS, pfs_id: int, obj_id: int, tid: int) -> bool:
    """Whether an object whose name went by a TID got another one by that."""
    left = _nlinks(fs, pfs_id, obj_id, tid)
    return left > 0 and left == _nlinks(fs, pfs_id, obj_id, tid - 1)


def _nlinks(fs: HammerFS, pfs_id: int, obj_id: int, asof: int) -> int:
    try:
        return fs.iget(pfs_id, obj_id, asof).data.nlinks
    except HammerError:
        return 0


def asof_path(folder: bytes, name: bytes, tid: int) -> bytes:
    """Path of a name as it was: in a folder that is there or, if its path has a point in time already, was there."""
    parts = [parse_component(part) for part in folder.split(b"/")]
    if all(part.tid is None for part in parts):
        suffix = asof_suffix(tid)
        return join(folder, suffix + b"/" + name if b"@@" in name else name + suffix)
    return join(b"/".join(p.name + (asof_suffix(tid, p.pfs_id) if p.tid is not None else b"") for p in parts), name)


def plain_path(folder: bytes) -> bytes:
    """Path of a folder as it is now: without points in time, but those that lead to a PFS; a slash at its end."""
    parts = []
    for part in folder.rstrip(b"/").split(b"/"):
        name, _, pfs_id = parse_component(part)
        parts.append(name + (asof_suffix(MAX_TID, pfs_id) if pfs_id is not None else b""))
    return b"/".join(part for i, part in enumerate(parts) if part or not i) + b"/"


def tree_path(path: bytes, tid: int) -> bytes:
    """A path from the root in the whole tree as of a TID; one that begins with a PFS goes on from there."""
    first, slash, rest = path.lstrip(b"/").partition(b"/")
    pfs_id = parse_component(first).pfs_id
    if pfs_id is not None:
        return b"/" + asof_suffix(tid, pfs_id) + slash + rest
    return b"/" + asof_suffix(tid) + b"/" + path.lstrip(b"/")


def join(folder: bytes, name: bytes) -> bytes:
    """A name in a folder."""
    return folder.rstrip(b"/") + b"/" + name


def version_rows(fs: HammerFS, directory: Inode, name: bytes, *, fold: bool = True) -> list[Row]:
    """Every version of a name, oldest first: when, how large, and what changed; and when it was deleted.

    Args:
        fs: The file system.
        directory: The directory.
        name: The name.
        fold: Leave out versions that differ in nothing but times from those before them, and count them there.

    Raises:
        NotFound: The directory never held the name.
        HammerError: Something on the way is damaged.
    """
    rows: list[Row] = []
    before: Inode | None = None
    contents = _Contents(fs)
    for version in name_versions(fs.records, fs.inodes, directory, name):
        inode = fs.iget(version.pfs_id, version.obj_id, version.tid)
        changed = _what_changed(contents, before, inode)
        before = inode
        if fold and changed == ["times"]:
            rows[-1]["folded"] += 1
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
                "changed": changed,
                "folded": 0,
            }
        )
    rows += _ends(fs, lives(fs.records, directory, name))
    return sorted(rows, key=_by_tid)


def _ends(fs: HammerFS, found: list[Life]) -> Iterator[Row]:
    """Rows, without a size, for the moments from which on a name stood for nothing."""
    born = {life.born.tid for life in found}
    for life in found:
        if life.ended is not None and life.ended.tid not in born:
            moved = _was_moved(fs, life.pfs_id, life.obj_id, life.ended.tid)
            yield {
                "tid": tid_text(life.ended.tid),
                "ts": life.ended.ts,
                "ino": tid_text(life.obj_id),
                "type": TYPE_NAMES.get(life.obj_type, "unknown"),
                "size": None,
                "mode": None,
                "changed": ["moved" if moved else "deleted"],
                "folded": 0,
            }


def _by_tid(row: Row) -> str:
    return str(row["tid"])


class _Contents:
    """What tells the contents of versions of files apart, by checksums of their records, without reading them.

    Args:
        fs: The file system.
    """

    def __init__(self, fs: HammerFS) -> None:
        self._fs = fs
        self._of: tuple[int, int] | None = None
        self._elms: list[LeafElm] = []
        self._names: dict[tuple[int, int], set[int]] = {}

    def names(self, directory: Inode) -> set[int]:
        """TIDs at which names came to a directory or went."""
        ident = directory.pfs_id, directory.obj_id
        if ident not in self._names:
            self._names[ident] = {moment.tid for moment in dir_history(self._fs.records, directory)}
        return self._names[ident]

    def mark(self, inode: Inode) -> int:
        """Equal for versions of an object that hold the same."""
        ident = inode.pfs_id, inode.obj_id
        if ident != self._of:
            where = localize(inode.pfs_id, LOCALIZE_MISC)
            self._of, self._elms = ident, list(self._fs.records.generations(where, inode.obj_id, RECTYPE_DATA))
        shown = (elm for elm in self._elms if visible(elm.create_tid, elm.delete_tid, inode.asof))
        return hash((inode.size, tuple((elm.key, elm.data_len, elm.data_crc) for elm in shown)))


def _what_changed(contents: _Contents, before: Inode | None, inode: Inode) -> list[str]:
    """Words for what made a version."""
    if before is None or before.obj_id != inode.obj_id:
        return ["created"]
    old, new = before.data, inode.data
    words = []
    if inode.is_file and contents.mark(before) != contents.mark(inode):
        words.append("contents")
    if inode.is_dir and inode.asof in contents.names(inode):
        words.append("names")
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
