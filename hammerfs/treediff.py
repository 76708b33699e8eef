"""What changed in a PFS between two points in time, found by TIDs: the cost follows the change, not the tree.

Every internal element of the B-Tree carries the newest TID below it (`mirror_tid`), so whole subtrees in which nothing
happened since are passed by. What is left are the records that came or went in between; they tell which objects and
names changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hammerfs.addr import localize, pfs_of
from hammerfs.btree.node import Node
from hammerfs.btree.search import BTree
from hammerfs.const import (
    ELM_SIZE,
    LOCALIZE_MASK,
    NODE_HEADER,
    OBJID_ROOT,
    RECTYPE_DATA,
    RECTYPE_DIRENTRY,
    RECTYPE_FIX,
    RECTYPE_INODE,
)
from hammerfs.dirent import Dirent, decode_entry, read_dir
from hammerfs.errors import HammerError, NotFound
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.keys import MAX_INT64, MIN_INT64, Key, visible
from hammerfs.ondisk.node import InternalElm, LeafElm

_MAX_DEPTH = 10_000
"""More directories above each other than a path can name: damage leads in a circle."""
_OF_OBJECTS = frozenset({RECTYPE_INODE, RECTYPE_DATA, RECTYPE_FIX})


class Change(NamedTuple):
    """One difference."""

    kind: str
    """``added``, ``removed``, ``modified`` or ``renamed``."""
    path: bytes
    """Path from the root of the PFS; of something removed the one it had."""
    old_path: bytes | None
    """Where something renamed was before."""
    obj_id: int
    tid: int
    """TID of the newest change that made the difference."""


class _Name(NamedTuple):
    parent: int
    name: bytes
    obj_id: int
    tid: int


def changed_elements(tree: BTree, pfs_id: int, first: int, last: int) -> Iterator[LeafElm]:
    """Records of a PFS created or deleted by a TID with first < TID <= last, in key order.

    Raises:
        CorruptError: The tree is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    low: Key = (localize(pfs_id), MIN_INT64, 0, MIN_INT64, 0)
    high: Key = (localize(pfs_id, LOCALIZE_MASK), MAX_INT64, 0xFFFF, MAX_INT64, 0)
    stack: list[Node] = [tree.root()]
    while stack:
        node = stack.pop()
        if node.is_leaf:
            for elm in node.elms(0, node.count):
                inside = pfs_of(elm.localization) == pfs_id
                if inside and (first < elm.create_tid <= last or first < elm.delete_tid <= last):
                    yield elm
            continue
        below: list[Node] = []
        for i in range(node.count):
            if node.keys[i + 1] <= low or node.keys[i] > high:
                continue
            if InternalElm.decode(node.raw, NODE_HEADER + i * ELM_SIZE).mirror_tid > first:
                below.append(tree.child(node, i))
        stack.extend(reversed(below))


def diff(fs: HammerFS, pfs_id: int, first: int, last: int) -> list[Change]:
    """Differences between two points in time, by path.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        first: The older TID.
        last: The newer one.

    Raises:
        CorruptError: Something on the way is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    return sorted(_Diff(fs, pfs_id, first, last).run(), key=_by_path)


class _Diff:
    """One comparison.

    Args:
        fs: As for `diff`.
        pfs_id: As for `diff`.
        first: As for `diff`.
        last: As for `diff`.
    """

    def __init__(self, fs: HammerFS, pfs_id: int, first: int, last: int) -> None:
        self._fs = fs
        self._pfs_id = pfs_id
        self._first = first
        self._last = last
        self._objects: dict[int, int] = {}
        """Objects whose inode or contents changed, with the newest TID."""
        self._came: dict[tuple[int, bytes], _Name] = {}
        self._went: dict[tuple[int, bytes], _Name] = {}
        self._listings: dict[tuple[int, int], dict[int, bytes]] = {}

    def run(self) -> Iterator[Change]:
        """Work them out."""
        for elm in changed_elements(self._fs.tree, self._pfs_id, self._first, self._last):
            self._take(elm)
        moved: set[int] = set()
        went = {name.obj_id: name for name in self._went.values()}
        for name in self._came.values():
            old = went.get(name.obj_id)
            path = self._path(name.parent, self._last, name.name)
            if path is None:
                continue
            moved.add(name.obj_id)
            if old is None:
                yield Change("added", path, None, name.obj_id, name.tid)
            else:
                yield Change("renamed", path, self._path(old.parent, self._first, old.name), name.obj_id, name.tid)
        for name in self._went.values():
            path = self._path(name.parent, self._first, name.name)
            if name.obj_id not in moved and path is not None:
                moved.add(name.obj_id)
                yield Change("removed", path, None, name.obj_id, name.tid)
        for obj_id, tid in self._objects.items():
            if obj_id not in moved and self._existed(obj_id):
                path = self._path_of(obj_id, self._last)
                if path is not None:
                    yield Change("modified", path, None, obj_id, tid)

    def _take(self, elm: LeafElm) -> None:
        tid = max(tid for tid in (elm.create_tid, elm.delete_tid) if self._first < tid <= self._last)
        if elm.rec_type in _OF_OBJECTS:
            self._objects[elm.obj_id] = max(tid, self._objects.get(elm.obj_id, 0))
        elif elm.rec_type == RECTYPE_DIRENTRY:
            before = visible(elm.create_tid, elm.delete_tid, self._first)
            after = visible(elm.create_tid, elm.delete_tid, self._last)
            if before == after:
                return
            data = decode_entry(self._fs.records, elm)
            ident = elm.obj_id, data.name
            name = _Name(elm.obj_id, data.name, data.obj_id, tid)
            other = (self._went if after else self._came).get(ident)
            if other is not None and other.obj_id == data.obj_id:
                del (self._went if after else self._came)[ident]  # taken away and given back
            else:
                (self._came if after else self._went)[ident] = name

    def _existed(self, obj_id: int) -> bool:
        """Whether an object is there at both times, and is no directory (whose changes are those of its names)."""
        try:
            before = self._fs.iget(self._pfs_id, obj_id, self._first)
            self._fs.iget(self._pfs_id, obj_id, self._last)
        except NotFound:
            return False
        return not before.is_dir

    def _path_of(self, obj_id: int, asof: int) -> bytes | None:
        """Path of an object by the directory its inode names; None when it is not in there."""
        if obj_id == OBJID_ROOT:
            return b"/"
        inode = self._fs.iget(self._pfs_id, obj_id, asof)
        parent = inode.data.parent_obj_id
        name = self._names_in(parent, asof).get(obj_id)
        return None if name is None else self._path(parent, asof, name)

    def _path(self, parent: int, asof: int, name: bytes) -> bytes | None:
        """Path of a name in a directory; None when that directory is not in the tree at that time."""
        parts = [name]
        for _ in range(_MAX_DEPTH):
            if parent == OBJID_ROOT:
                return b"/" + b"/".join(reversed(parts))
            try:
                directory = self._fs.iget(self._pfs_id, parent, asof)
            except NotFound:
                return None
            above = directory.data.parent_obj_id
            own = self._names_in(above, asof).get(parent)
            if own is None:
                return None
            parts.append(own)
            parent = above
        return None

    def _names_in(self, directory: int, asof: int) -> dict[int, bytes]:
        """Names of a directory by the objects they lead to; a directory is read once."""
        found = self._listings.get((directory, asof))
        if found is None:
            found = {}
            try:
                inode: Inode = self._fs.iget(self._pfs_id, directory, asof)
                entries: Iterator[Dirent] = read_dir(self._fs.records, inode)
                found = {entry.obj_id: entry.name for entry in entries}
            except HammerError:
                found = {}  # what leads through it has no path
            self._listings[directory, asof] = found
        return found


def _by_path(change: Change) -> tuple[bytes, str]:
    return change.path, change.kind
