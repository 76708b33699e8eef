"""The live objects of one PFS and the entries that lead to them, in flat arrays: some 60 bytes for each file."""

from __future__ import annotations

from array import array
from bisect import bisect_left

DAMAGED = 1
"""The inode's payload can't be trusted: nothing is compared with it."""
HAS_FIX = 2
"""A FIX record with the target of a long symbolic link has been seen."""


class Objects:
    """Inodes by object id. Ids mostly come in ascending order, as the tree has them."""

    __slots__ = ("caps", "flags", "ids", "kinds", "links", "nlinks", "parents", "places", "sizes")

    def __init__(self) -> None:
        self.ids = array("q")
        self.nlinks = array("Q")
        """Link count by the inode."""
        self.links = array("Q")
        """Entries found."""
        self.sizes = array("Q")
        self.parents = array("q")
        self.places = array("Q")
        """Address of the inode's payload."""
        self.kinds = bytearray()
        """Object types."""
        self.caps = bytearray()
        """Capability bits."""
        self.flags = bytearray()

    def __len__(self) -> int:
        return len(self.ids)

    def add(
        self, obj_id: int, nlinks: int, size: int, parent: int, place: int, kind: int, caps: int, flags: int
    ) -> None:
        """Add an inode; one that is there already stays."""
        at = len(self.ids)
        if at and obj_id <= self.ids[-1]:
            at = bisect_left(self.ids, obj_id)
            if self.ids[at] == obj_id:
                return
        self.ids.insert(at, obj_id)
        self.nlinks.insert(at, nlinks)
        self.links.insert(at, 0)
        self.sizes.insert(at, size)
        self.parents.insert(at, parent)
        self.places.insert(at, place)
        self.kinds.insert(at, kind)
        self.caps.insert(at, caps)
        self.flags.insert(at, flags)

    def find(self, obj_id: int) -> int:
        """Index of an object, -1 when there is none."""
        ids = self.ids
        at = bisect_left(ids, obj_id)
        return at if at < len(ids) and ids[at] == obj_id else -1


class Entries:
    """Live directory entries, in tree order."""

    __slots__ = ("directories", "keys", "kinds", "targets")

    def __init__(self) -> None:
        self.targets = array("q")
        self.directories = array("q")
        self.keys = array("q")
        self.kinds = bytearray()
        """Object type that the entry's element tells."""

    def __len__(self) -> int:
        return len(self.targets)

    def add(self, target: int, directory: int, key: int, kind: int) -> None:
        """Add an entry."""
        self.targets.append(target)
        self.directories.append(directory)
        self.keys.append(key)
        self.kinds.append(kind)
