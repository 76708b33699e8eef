"""What changed in a PFS between two points in time, found by TIDs: the cost follows the change, not the tree.

Every internal element of the B-Tree carries the newest TID below it (`mirror_tid`), so whole subtrees in which nothing
happened since are passed by. What is left are the records that came or went in between; they tell which objects and
names changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hammerfs.addr import localize, pfs_of
from hammerfs.btree.node import Node
from hammerfs.btree.search import BTree
from hammerfs.const import (
    ELM_SIZE,
    LOCALIZE_INODE,
    LOCALIZE_MASK,
    LOCALIZE_MISC,
    MAX_TID,
    NODE_HEADER,
    OBJID_ROOT,
    RECTYPE_DATA,
    RECTYPE_DIRENTRY,
    RECTYPE_FIX,
    RECTYPE_INODE,
)
from hammerfs.dirent import decode_entry
from hammerfs.errors import HammerError, NotFound
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.keys import MAX_INT64, MIN_INT64, Key, visible
from hammerfs.ondisk.node import InternalElm, LeafElm

_MAX_DEPTH = 10_000
"""More directories above each other than a path can name: damage leads in a circle."""
_FIRST_SPAN = 1 << 12
"""TIDs of the first window into the past."""
_SPAN_GROWTH = 8
_OF_OBJECTS = frozenset({RECTYPE_INODE, RECTYPE_DATA, RECTYPE_FIX})


class Change(NamedTuple):
    """One difference."""

    kind: str
    """``added``, ``removed``, ``modified`` or ``renamed``."""
    path: bytes
    """Path from the root of the PFS; of something removed the one it had."""
    old_path: bytes | None
    """Where it was before, if that was elsewhere: it was renamed, or a directory above it was."""
    obj_id: int
    tid: int
    """TID of the newest change that made the difference."""


class _Name(NamedTuple):
    parent: int
    name: bytes
    obj_id: int
    tid: int


class _Life(NamedTuple):
    """A time during which a directory held a name."""

    create_tid: int
    delete_tid: int
    name: bytes


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


def diff(fs: HammerFS, pfs_id: int, first: int, last: int) -> Iterator[Change]:
    """Differences between two points in time, in no order.

    Args:
        fs: The file system; of one that is written to, what has been flushed.
        pfs_id: The PFS.
        first: The older TID.
        last: The newer one.

    Raises:
        CorruptError: Something on the way is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    yield from _Diff(fs, Paths(fs, pfs_id), pfs_id, first, last).run(changed_elements(fs.tree, pfs_id, first, last))


class Step(NamedTuple):
    """All that one TID changed."""

    tid: int
    ts: int
    """Unix seconds."""
    changes: list[Change]
    """By path; empty when no name and no object is concerned."""


def changes_back(fs: HammerFS, pfs_id: int) -> Iterator[Step]:
    """All changes of a PFS, one TID after the other, the newest first.

    The past is gone through in windows that grow, so that the newest changes come soon.

    Raises:
        CorruptError: Something on the way is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    paths = Paths(fs, pfs_id)
    span = _FIRST_SPAN
    last, first = MAX_TID - 1, max(fs.newest_tid - span, 0)
    while last > 0:
        groups: dict[int, tuple[int, list[LeafElm]]] = {}
        for elm in changed_elements(fs.tree, pfs_id, first, last):
            for tid, ts in {(elm.create_tid, elm.create_ts), (elm.delete_tid, elm.delete_ts)}:
                if first < tid <= last:
                    groups.setdefault(tid, (ts, []))[1].append(elm)
        for tid in sorted(groups, reverse=True):
            ts, elms = groups[tid]
            yield Step(tid, ts, sorted(_Diff(fs, paths, pfs_id, tid - 1, tid).run(elms), key=by_path))
        span *= _SPAN_GROWTH
        last, first = first, max(first - span, 0)


class Paths:
    """Finds the paths of objects at points in time; a directory is read once for all of them.

    Args:
        fs: The file system.
        pfs_id: The PFS.
    """

    def __init__(self, fs: HammerFS, pfs_id: int) -> None:
        self._fs = fs
        self._pfs_id = pfs_id
        self._lives: dict[int, dict[int, list[_Life]]] = {}

    def of_object(self, obj_id: int, asof: int) -> bytes | None:
        """Path of an object by the directory its inode names; None when it is not in there."""
        if obj_id == OBJID_ROOT:
            return b"/"
        parent = self._fs.iget(self._pfs_id, obj_id, asof).data.parent_obj_id
        name = self._name_in(parent, obj_id, asof)
        return None if name is None else self.of_name(parent, name, asof)

    def of_name(self, parent: int, name: bytes, asof: int) -> bytes | None:
        """Path of a name in a directory; None when that directory is not in the tree at that time."""
        parts = [name]
        for _ in range(_MAX_DEPTH):
            if parent == OBJID_ROOT:
                return b"/" + b"/".join(reversed(parts))
            try:
                above = self._fs.iget(self._pfs_id, parent, asof).data.parent_obj_id
            except NotFound:
                return None
            own = self._name_in(above, parent, asof)
            if own is None:
                return None
            parts.append(own)
            parent = above
        return None

    def _name_in(self, directory: int, obj_id: int, asof: int) -> bytes | None:
        """The name by which a directory leads to an object."""
        lives = self._lives.get(directory)
        if lives is None:
            lives = self._lives[directory] = self._read(directory)
        for life in lives.get(obj_id, ()):
            if visible(life.create_tid, life.delete_tid, asof):
                return life.name
        return None

    def _read(self, directory: int) -> dict[int, list[_Life]]:
        """All names a directory ever held, by the objects they led to; damaged ones are left out."""
        records, found = self._fs.records, dict[int, list[_Life]]()
        for localization in (localize(self._pfs_id, LOCALIZE_INODE), localize(self._pfs_id, LOCALIZE_MISC)):
            for elm in records.generations(localization, directory, RECTYPE_DIRENTRY):
                try:
                    data = decode_entry(records, elm)
                except HammerError:
                    continue  # what leads through it has no path
                found.setdefault(data.obj_id, []).append(_Life(elm.create_tid, elm.delete_tid, data.name))
        return found


class _Diff:
    """One comparison.

    Args:
        fs: As for `diff`.
        paths: Finds paths.
        pfs_id: As for `diff`.
        first: As for `diff`.
        last: As for `diff`.
    """

    def __init__(self, fs: HammerFS, paths: Paths, pfs_id: int, first: int, last: int) -> None:
        self._fs = fs
        self._paths = paths
        self._pfs_id = pfs_id
        self._first = first
        self._last = last
        self._objects: dict[int, int] = {}
        """Objects whose inode or contents changed, with the newest TID."""
        self._came: dict[tuple[int, bytes], _Name] = {}
        self._went: dict[tuple[int, bytes], _Name] = {}

    def run(self, elms: Iterable[LeafElm]) -> Iterator[Change]:
        """Work them out from the records that came or went in between."""
        for elm in elms:
            self._take(elm)
        told: set[bytes] = set()
        for change in self._names():
            told.add(change.path)
            yield change
        for obj_id, tid in self._objects.items():
            if self._is_modified(obj_id):
                path = self._paths.of_object(obj_id, self._last)
                if path is not None and path not in told:
                    before = self._paths.of_object(obj_id, self._first)
                    yield Change("modified", path, before if before != path else None, obj_id, tid)

    def _names(self) -> Iterator[Change]:
        """What came of names that came and went; a path that leads to another object now is that of a modified one."""
        went = {name.obj_id: name for name in self._went.values()}
        gone: dict[bytes, _Name] = {}
        for name in self._went.values():
            path = self._paths.of_name(name.parent, name.name, self._first)
            if path is not None:
                gone[path] = name
        added: list[tuple[bytes, _Name]] = []
        for name in self._came.values():
            path = self._paths.of_name(name.parent, name.name, self._last)
            if path is None:
                continue
            old = went.get(name.obj_id)
            before = None if old is None else self._paths.of_name(old.parent, old.name, self._first)
            if before is None:
                added.append((path, name))
            else:
                gone.pop(before, None)
                yield Change("renamed", path, before, name.obj_id, name.tid)
        for path, name in added:
            kind = "modified" if gone.pop(path, None) is not None else "added"
            yield Change(kind, path, None, name.obj_id, name.tid)
        for path, name in gone.items():
            yield Change("removed", path, None, name.obj_id, name.tid)

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

    def _is_modified(self, obj_id: int) -> bool:
        """Whether an object is there at both times and differs; of a directory only what is its own, not its names."""
        try:
            before = self._fs.iget(self._pfs_id, obj_id, self._first)
            after = self._fs.iget(self._pfs_id, obj_id, self._last)
        except NotFound:
            return False
        return not before.is_dir or _own(before) != _own(after)


def _own(inode: Inode) -> tuple[object, ...]:
    data = inode.data
    return data.mode, data.uid, data.gid, data.uflags


def by_path(change: Change) -> tuple[bytes, str]:
    """Order of changes."""
    return change.path, change.kind
