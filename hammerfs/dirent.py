"""Directory entries: look-up by name through the hash, and reading a directory in key order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hammerfs.addr import localize, pfs_of
from hammerfs.const import (
    CAP_DIR_LOCAL_INO,
    LOCALIZE_INODE,
    LOCALIZE_MISC,
    MAX_NAME,
    RECTYPE_DIRENTRY,
)
from hammerfs.errors import CorruptError, NameTooLong, NotFound
from hammerfs.inode import Inode, need_dir
from hammerfs.keys import MAX_INT64, namekey_range
from hammerfs.ondisk.node import LeafElm
from hammerfs.ondisk.records import DirentryData
from hammerfs.record import Records, place_of

FIRST_COOKIE = 2
"""Offsets 0 and 1 stand for ``.`` and ``..``; entries start here."""


class Dirent(NamedTuple):
    """One name in a directory."""

    name: bytes
    pfs_id: int
    """PFS of the object."""
    obj_id: int
    obj_type: int
    key: int
    """Name key of the entry, also its offset for `read_dir`; stable as long as the entry is there."""
    create_tid: int


def lookup(records: Records, directory: Inode, name: bytes) -> Dirent:
    """Find a name as of the directory's point in time.

    Raises:
        NotFound: No such name.
        NotADirectory: Not a directory.
        NameTooLong: More than 255 bytes.
        CorruptError: The directory is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    need_dir(directory)
    if len(name) > MAX_NAME:
        raise NameTooLong(f"name of {len(name)} bytes", **directory.place)
    first, last = namekey_range(name, directory.data.cap_flags)
    localization = entry_localization(directory)
    for elms in records.between(localization, directory.obj_id, RECTYPE_DIRENTRY, first, last, directory.asof):
        for elm in elms:
            if elm.data_len == len(name) + 16:
                entry = _decode(records, elm)
                if entry.name == name:
                    return entry
    text = name.decode("utf-8", "backslashreplace")
    raise NotFound(f"no entry {text!r} in the directory", **directory.place)


def read_dir(records: Records, directory: Inode, after: int = 0) -> Iterator[Dirent]:
    """Entries in key order, those with a key above `after` (0 or 1: all).

    Raises:
        NotADirectory: Not a directory.
        CorruptError: The directory is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    need_dir(directory)
    if after >= MAX_INT64:
        return
    localization, first = entry_localization(directory), max(after + 1, FIRST_COOKIE)
    for elms in records.between(localization, directory.obj_id, RECTYPE_DIRENTRY, first, MAX_INT64, directory.asof):
        for elm in elms:
            yield _decode(records, elm)


def is_empty(records: Records, directory: Inode) -> bool:
    """Whether a directory has no entries."""
    return next(read_dir(records, directory), None) is None


def entry_localization(directory: Inode) -> int:
    """Localization under which a directory keeps its entries: newer ones beside the inodes."""
    local = directory.data.cap_flags & CAP_DIR_LOCAL_INO
    return localize(directory.pfs_id, LOCALIZE_INODE if local else LOCALIZE_MISC)


def decode_entry(records: Records, elm: LeafElm) -> DirentryData:
    """Payload of any generation of a DIRENTRY record.

    Raises:
        CorruptError: Damaged, or a name no directory can hold.
        BufferMiss: As `BufferCache.bread`.
    """
    payload = records.payload(elm)
    try:
        data = DirentryData.decode(payload)
    except CorruptError as err:
        raise CorruptError(err.what, **place_of(elm)) from None
    name = data.name
    if b"/" in name or b"\0" in name or name in {b".", b".."}:
        raise CorruptError(f"directory entry with the name {name!r}", **place_of(elm))
    return data


def _decode(records: Records, elm: LeafElm) -> Dirent:
    data = decode_entry(records, elm)
    return Dirent(data.name, pfs_of(data.localization), data.obj_id, elm.obj_type, elm.key, elm.create_tid)
