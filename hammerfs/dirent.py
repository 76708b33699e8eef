"""Directory entries: look-up by name through the hash, and reading a directory in key order.

Names that came or went since the last flush hang on the directory's inode (`PendingEntries`) and are merged with those
of the media.
"""

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
from hammerfs.ondisk.records import DIRENTRY_HEAD, DirentryData
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


class PendingEntries:
    """Names of a directory that the media does not know yet, and those that it still has."""

    __slots__ = ("added", "keys", "removed")

    def __init__(self) -> None:
        self.added: dict[bytes, Dirent] = {}
        """New names."""
        self.keys: dict[int, Dirent] = {}
        """The same by key."""
        self.removed: dict[int, Dirent] = {}
        """Names of the media that are gone, by key. Their keys are taken until the flush."""

    def add(self, entry: Dirent) -> None:
        """A name comes."""
        self.added[entry.name] = entry
        self.keys[entry.key] = entry

    def remove(self, entry: Dirent) -> bool:
        """A name goes; whether the media has it."""
        if self.keys.get(entry.key) is entry:
            del self.added[entry.name], self.keys[entry.key]
            return False
        self.removed[entry.key] = entry
        return True


class Probe(NamedTuple):
    """What looking for a name found."""

    entry: Dirent | None
    """The entry of that name."""
    free_key: int | None
    """First key under which it could be stored; None when its part of the key space is full."""


def probe(records: Records, directory: Inode, name: bytes) -> Probe:
    """Find a name in a directory, or the place it would get.

    Raises:
        NotADirectory: Not a directory.
        NameTooLong: More than 255 bytes.
        CorruptError: The directory is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    need_dir(directory)
    if len(name) > MAX_NAME:
        raise NameTooLong(f"name of {len(name)} bytes", **directory.place)
    pending = directory.entries
    if pending is not None and name in pending.added:
        return Probe(pending.added[name], None)
    taken: set[int] = set()
    for elm in _with_hash(records, directory, name):
        taken.add(elm.key)
        if elm.data_len == len(name) + DIRENTRY_HEAD and (pending is None or elm.key not in pending.removed):
            entry = _decode(records, elm)
            if entry.name == name:
                return Probe(entry, None)
    return Probe(None, _free_key(directory, name, taken))


def find_free_key(records: Records, directory: Inode, name: bytes, *, besides: int | None = None) -> int | None:
    """A key under which a name could be stored beside one that is there; errors as `probe`."""
    taken = {elm.key for elm in _with_hash(records, directory, name)}
    if besides is not None:
        taken.add(besides)
    return _free_key(directory, name, taken)


def _with_hash(records: Records, directory: Inode, name: bytes) -> Iterator[LeafElm]:
    """Entries of the media that may have the name, by their keys."""
    first, last = namekey_range(name, directory.data.cap_flags)
    localization = entry_localization(directory)
    for elms in records.between(localization, directory.obj_id, RECTYPE_DIRENTRY, first, last, directory.asof):
        yield from elms


def _free_key(directory: Inode, name: bytes, taken: set[int]) -> int | None:
    """The first key of a name that nobody has; keys of removed entries are taken until the flush."""
    first, last = namekey_range(name, directory.data.cap_flags)
    pending = directory.entries
    while first in taken or (pending is not None and (first in pending.keys or first in pending.removed)):
        first += 1
    return first if first <= last else None


def lookup(records: Records, directory: Inode, name: bytes) -> Dirent:
    """Find a name as of the directory's point in time.

    Raises:
        NotFound: No such name.
        NotADirectory: Not a directory.
        NameTooLong: More than 255 bytes.
        CorruptError: The directory is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    entry = probe(records, directory, name).entry
    if entry is not None:
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
    if directory.entries is not None:
        yield from _merged(records, directory, directory.entries, first)
        return
    for elms in records.between(localization, directory.obj_id, RECTYPE_DIRENTRY, first, MAX_INT64, directory.asof):
        for elm in elms:
            yield _decode(records, elm)


def _merged(records: Records, directory: Inode, pending: PendingEntries, first: int) -> Iterator[Dirent]:
    """Entries of media and memory with a key of at least `first`, by key, as they are when the reading begins."""
    added = sorted((key, entry) for key, entry in pending.keys.items() if key >= first)
    removed = set(pending.removed)
    at = 0
    localization = entry_localization(directory)
    for elms in records.between(localization, directory.obj_id, RECTYPE_DIRENTRY, first, MAX_INT64, directory.asof):
        for elm in elms:
            while at < len(added) and added[at][0] < elm.key:
                yield added[at][1]
                at += 1
            if elm.key not in removed:
                yield _decode(records, elm)
    for _, entry in added[at:]:
        yield entry


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
