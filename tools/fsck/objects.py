"""The live objects of one PFS and the entries that lead to them, packed: some 70 bytes for each file."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

_ENTRY = struct.Struct("<qqqB")
_OBJECT = struct.Struct("<QQqQBBB")
_new = tuple.__new__
_KIND = 32
"""Offset of the object type in a packed `Object`."""


class Object(NamedTuple):
    """What is kept of an inode."""

    nlinks: int
    size: int
    parent: int
    place: int
    """Address of the inode's payload."""
    kind: int
    """Object type."""
    caps: int
    """Capability bits."""
    is_damaged: int
    """The payload can't be trusted: nothing is compared with it."""


class Objects:
    """Inodes by object id. Ids mostly come in ascending order, as the tree has them."""

    __slots__ = ("_at", "_rows", "has_fix", "ids")

    def __init__(self) -> None:
        self.ids = array("q")
        self._at = -1
        self._rows = bytearray()
        self.has_fix: set[int] = set()
        """Ids of the symbolic links whose target has been seen in a FIX record."""

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> Iterator[tuple[int, int, int, int, int, int, int]]:
        """The fields of each `Object` as plain tuples, in the order of the ids."""
        return _OBJECT.iter_unpack(self._rows)

    def kinds(self) -> bytes:
        """The object types, in the order of the ids."""
        return bytes(self._rows[_KIND :: _OBJECT.size])

    def add(self, obj_id: int, found: Object) -> None:
        """Add an inode; one that is there already stays."""
        ids = self.ids
        if not ids or obj_id > ids[-1]:
            ids.append(obj_id)
            self._rows += _OBJECT.pack(*found)
            return
        at = bisect_left(ids, obj_id)
        if ids[at] != obj_id:
            ids.insert(at, obj_id)
            self._rows[at * _OBJECT.size : at * _OBJECT.size] = _OBJECT.pack(*found)

    def seek(self, obj_id: int) -> Object | None:
        """An object. Who asks in ascending order, as records come, mostly asks for the one behind the last."""
        ids, at = self.ids, self._at + 1
        if at >= len(ids) or ids[at] != obj_id:
            at = bisect_left(ids, obj_id)
            if at == len(ids) or ids[at] != obj_id:
                return None
        self._at = at
        return _new(Object, _OBJECT.unpack_from(self._rows, at * _OBJECT.size))

    def find(self, obj_id: int) -> int:
        """Index of an object, -1 when there is none."""
        ids = self.ids
        at = bisect_left(ids, obj_id)
        return at if at < len(ids) and ids[at] == obj_id else -1


class Entries:
    """Live directory entries, in tree order."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows = bytearray()

    def __len__(self) -> int:
        return len(self._rows) // _ENTRY.size

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """(target, directory, key, object type by the element) of each."""
        return _ENTRY.iter_unpack(self._rows)

    def add(self, target: int, directory: int, key: int, kind: int) -> None:
        """Add an entry."""
        self._rows += _ENTRY.pack(target, directory, key, kind)
