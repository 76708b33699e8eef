"""History: the TIDs at which an object, a part of a file or a directory changed; what was deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hammerfs.addr import localize
from hammerfs.const import (
    LOCALIZE_INODE,
    LOCALIZE_MISC,
    RECTYPE_DATA,
    RECTYPE_DIRENTRY,
    RECTYPE_INODE,
    XBUFSIZE,
)
from hammerfs.dirent import decode_entry, entry_localization
from hammerfs.inode import Inode
from hammerfs.keys import MAX_INT64
from hammerfs.ondisk.node import LeafElm
from hammerfs.record import Records


class Moment(NamedTuple):
    """A point in time at which something changed."""

    tid: int
    ts: int
    """Unix seconds."""


class DeletedEntry(NamedTuple):
    """A name that was in a directory once."""

    name: bytes
    pfs_id: int
    obj_id: int
    obj_type: int
    create_tid: int
    delete_tid: int
    """First TID at which it is gone."""
    delete_ts: int


def inode_history(records: Records, pfs_id: int, obj_id: int) -> list[Moment]:
    """TIDs at which an object's inode changed, ascending; empty when it never existed.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    return moments(records.generations(localize(pfs_id, LOCALIZE_INODE), obj_id, RECTYPE_INODE, 0, 0))


def data_history(
    records: Records, pfs_id: int, obj_id: int, offset: int = 0, length: int | None = None
) -> list[Moment]:
    """TIDs at which the contents of a file range changed, ascending; without `length` to the end of all records.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    end = MAX_INT64 if length is None else min(offset + length, MAX_INT64)
    last = min(end + XBUFSIZE, MAX_INT64)
    elms = records.generations(localize(pfs_id, LOCALIZE_MISC), obj_id, RECTYPE_DATA, offset + 1, last)
    return moments(elm for elm in elms if elm.key - elm.data_len < end)


def file_history(records: Records, pfs_id: int, obj_id: int) -> list[Moment]:
    """TIDs at which inode or contents of a file changed, ascending."""
    both = {*inode_history(records, pfs_id, obj_id), *data_history(records, pfs_id, obj_id)}
    return _by_tid(both)


def dir_history(records: Records, directory: Inode) -> list[Moment]:
    """TIDs at which entries of a directory came or went, ascending.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    return moments(records.generations(entry_localization(directory), directory.obj_id, RECTYPE_DIRENTRY))


def deleted_entries(records: Records, directory: Inode) -> Iterator[DeletedEntry]:
    """Names that were removed from a directory and not pruned yet, in key order.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    for elm in records.generations(entry_localization(directory), directory.obj_id, RECTYPE_DIRENTRY):
        if elm.delete_tid:
            data = decode_entry(records, elm)
            yield DeletedEntry(
                data.name,
                data.localization >> 16,
                data.obj_id,
                elm.obj_type,
                elm.create_tid,
                elm.delete_tid,
                elm.delete_ts,
            )


def moments(elms: Iterable[LeafElm]) -> list[Moment]:
    """Create and delete TIDs of elements with their times, ascending, each TID once."""
    found = set()
    for elm in elms:
        found.add(Moment(elm.create_tid, elm.create_ts))
        if elm.delete_tid:
            found.add(Moment(elm.delete_tid, elm.delete_ts))
    return _by_tid(found)


def _by_tid(found: set[Moment]) -> list[Moment]:
    newest: dict[int, int] = {}
    for tid, ts in found:
        newest[tid] = max(ts, newest.get(tid, 0))
    return [Moment(tid, newest[tid]) for tid in sorted(newest)]
