"""Every version of a name in a directory: what it stood for and how that changed, from its first day to its last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hammerfs.addr import pfs_of
from hammerfs.const import MAX_NAME, OBJTYPE_DIRECTORY, RECTYPE_DIRENTRY
from hammerfs.dirent import decode_entry, entry_localization
from hammerfs.errors import NotFound
from hammerfs.history import Moment, dir_history, file_history
from hammerfs.inode import Inode, Inodes, need_dir
from hammerfs.keys import namekey_range
from hammerfs.record import Records


class Life(NamedTuple):
    """A time during which a name stood for one object."""

    pfs_id: int
    obj_id: int
    obj_type: int
    born: Moment
    ended: Moment | None
    """When the name was removed or given to another object; None while it lives."""


class Version(NamedTuple):
    """A name as it was from a moment on."""

    tid: int
    ts: int
    """Unix seconds."""
    pfs_id: int
    obj_id: int


def lives(records: Records, directory: Inode, name: bytes) -> list[Life]:
    """The lives of a name in a directory up to the directory's point in time, oldest first; empty: it never was there.

    Raises:
        NotADirectory: Not a directory.
        CorruptError: The directory is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    need_dir(directory)
    if not 0 < len(name) <= MAX_NAME:
        return []
    first, last = namekey_range(name, directory.data.cap_flags)
    found = []
    for elm in records.generations(entry_localization(directory), directory.obj_id, RECTYPE_DIRENTRY, first, last):
        if elm.data_len != len(name) + 16 or elm.create_tid > directory.asof:
            continue
        entry = decode_entry(records, elm)
        if entry.name == name:
            over = elm.delete_tid and elm.delete_tid <= directory.asof
            ended = Moment(elm.delete_tid, elm.delete_ts) if over else None
            born = Moment(elm.create_tid, elm.create_ts)
            found.append(Life(pfs_of(entry.localization), entry.obj_id, elm.obj_type, born, ended))
    return sorted(found, key=_age)


def name_versions(records: Records, inodes: Inodes, directory: Inode, name: bytes) -> list[Version]:
    """All versions of a name up to the directory's point in time, oldest first.

    A version begins where the name was given to an object, and at each change of its inode, contents or entries.

    Raises:
        NotFound: The directory never held the name.
        NotADirectory: Not a directory.
        CorruptError: Something on the way is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    found: dict[int, Version] = {}
    for life in lives(records, directory, name):
        for moment in _changes(records, inodes, life, directory.asof):
            found[moment.tid] = Version(moment.tid, moment.ts, life.pfs_id, life.obj_id)
    if not found:
        raise NotFound(f"the directory never held {name.decode('utf-8', 'backslashreplace')!r}", **directory.place)
    return [found[tid] for tid in sorted(found)]


def _changes(records: Records, inodes: Inodes, life: Life, asof: int) -> Iterator[Moment]:
    last = asof if life.ended is None else life.ended.tid - 1
    moments = [life.born, *file_history(records, life.pfs_id, life.obj_id)]
    if life.obj_type == OBJTYPE_DIRECTORY:
        moments += dir_history(records, inodes.get(life.pfs_id, life.obj_id, last))
    for moment in moments:
        if life.born.tid <= moment.tid <= last and _exists(inodes, life, moment.tid):
            yield moment


def _exists(inodes: Inodes, life: Life, tid: int) -> bool:
    try:
        inodes.get(life.pfs_id, life.obj_id, tid)
    except NotFound:
        return False
    return True


def _age(life: Life) -> int:
    return life.born.tid
