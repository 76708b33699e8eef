"""The file system as a mount shows it: nodes, look-ups with all virtual names, attributes, listings.

Every call may raise `BufferMiss` on a file system that is not inline (it is run again then), and `HammerError`.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hammerfs import dirent
from hammerfs.asof import parse_component
from hammerfs.const import MAX_NAME, MAX_TID, OBJID_ROOT
from hammerfs.dirent import FIRST_COOKIE
from hammerfs.errors import HammerError, NotADirectory, NotFound
from hammerfs.flushpoints import FlushPoints
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.keys import MAX_INT64
from hammerfs.snapshot import Snapshot
from hammerfs.versions import Version, lives, name_versions
from hammerfs.vfs.attrs import STORED, Ownership, Stat, stat_of, virtual_stat
from hammerfs.vfs.names import labelled, snapshot_names
from hammerfs.vfs.node import Node, ObjectNode, View, VirtualDir, VirtualLink, number_in
from hammerfs.vfs.number import way_number
from hammerfs.vfs.snapdir import SnapDir, VersionsDir

SnapdirMode = Literal["hidden", "visible", "disabled"]
_KEPT_VERSIONS = 16
_LAST_POSITION = MAX_INT64 - 1


@dataclass(frozen=True, slots=True)
class Look:
    """How a mount is to look.

    Attributes:
        pfs_id: PFS whose root is the root of the mount.
        asof: Point in time; None: as the PFS is normally seen.
        snapdir: Whether the directory of snapshots is there, and listed.
        snapdir_name: Its name.
        snapshot_time: strftime format (UTC) of the names of snapshots; None: labels, or times where there are none.
        ownership: What is shown instead of stored owners and permissions.
    """

    pfs_id: int = 0
    asof: int | None = None
    snapdir: SnapdirMode = "hidden"
    snapdir_name: bytes = b".hammer"
    snapshot_time: str | None = None
    ownership: Ownership = STORED


class Listed(NamedTuple):
    """An entry of a directory."""

    name: bytes
    next: int
    """Position where a listing goes on behind it."""
    node: Node


class Vfs:
    """A mounted file system.

    Args:
        fs: The file system.
        look: How it is to look.

    Raises:
        NotFound: The PFS, or its root at that point in time, does not exist.
        HammerError: They are damaged.
    """

    def __init__(self, fs: HammerFS, look: Look) -> None:
        self.fs = fs
        self.look = look
        inode = fs.root(look.pfs_id, look.asof)
        self._main = View(look.pfs_id, inode.asof, has_snapdir=look.snapdir != "disabled")
        self.root = ObjectNode(OBJID_ROOT, self._main, look.pfs_id, OBJID_ROOT, inode.asof)
        self.snapshot_time = look.snapshot_time
        self._newest = fs.newest_tid
        self._flush_points: dict[tuple[int, int], FlushPoints] = {}
        self._snapshots: dict[tuple[int, int], dict[bytes, Snapshot]] = {}
        self._versions: OrderedDict[tuple[int, bytes], list[Version]] = OrderedDict()

    # Finding nodes

    def lookup(self, parent: Node, name: bytes) -> Node:
        """The node under a name; a stored one goes before a virtual one.

        Raises:
            NotFound: No such name.
            NotADirectory: `parent` is none.
            NameTooLong: More than 255 bytes.
        """
        if isinstance(parent, VirtualDir):
            return parent.lookup(name)
        if not isinstance(parent, ObjectNode):
            raise NotADirectory("a virtual link is no directory")
        directory = self.inode(parent)
        if parse_component(name).tid is not None:
            return self._jump(parent, directory, name)
        try:
            entry = dirent.lookup(self.fs.records, directory, name)
        except NotFound:
            found = self._virtual(parent, directory, name)
            if found is None:
                raise
            return found
        return self.child(parent, self.fs.iget(entry.pfs_id, entry.obj_id, directory.asof))

    def by_number(self, number: int) -> ObjectNode:
        """The node of an object of the mount's own tree, by its number alone (for file handles of NFS).

        Raises:
            NotFound: There is none.
        """
        inode = self.fs.iget(self._main.pfs_id, number, self._main.asof)
        return ObjectNode(number, self._main, inode.pfs_id, inode.obj_id, inode.asof)

    def parent(self, node: ObjectNode) -> ObjectNode:
        """The directory that a directory of the same tree lies in; the root's is the root itself.

        Raises:
            NotFound: It is not there.
        """
        return self.child(node, self.fs.namei.parent(self.inode(node)))

    def enter(self, way: int, name: bytes, pfs_id: int, obj_id: int, asof: int) -> ObjectNode:
        """An object at a point in time, reached by a virtual name.

        Args:
            way: Number of the directory that holds the name.
            name: The name.
            pfs_id: PFS of the object.
            obj_id: Its object id.
            asof: The point in time.
        """
        view = View(pfs_id, asof, way_number(way, name))
        return self._node(view, self.fs.iget(pfs_id, obj_id, asof))

    # Reading nodes

    def inode(self, node: ObjectNode) -> Inode:
        """The inode of an object."""
        return self.fs.iget(node.pfs_id, node.obj_id, node.asof)

    def getattr(self, node: Node) -> Stat:
        """What stat shows."""
        show = self.look.ownership
        if isinstance(node, ObjectNode):
            inode = self.inode(node)
            return stat_of(inode.attr(), node.number, self.fs.data_bytes(inode), show)
        if isinstance(node, VirtualLink):
            owner = self.inode(node.owner).attr()
            return virtual_stat(owner, node.number, stat.S_IFLNK | 0o777, len(node.target), show)
        assert isinstance(node, VirtualDir)
        return virtual_stat(self.inode(node.owner).attr(), node.number, stat.S_IFDIR | 0o555, 0, show)

    def readlink(self, node: Node) -> bytes:
        """Target of a symbolic link.

        Raises:
            InvalidError: It is none.
        """
        if isinstance(node, VirtualLink):
            return node.target
        assert isinstance(node, ObjectNode)
        return self.fs.readlink(self.inode(node))

    def list_dir(self, node: Node, start: int = 0) -> Iterator[Listed]:
        """Entries of a directory, without ``.`` and ``..``.

        An entry whose object can't be read is left out; looking it up tells why.

        Args:
            node: The directory.
            start: First position wanted; 0 and 1 are those of ``.`` and ``..``, an entry's is its key.

        Raises:
            NotADirectory: It is none.
        """
        if isinstance(node, VirtualDir):
            yield from self._list_virtual(node, start)
            return
        if not isinstance(node, ObjectNode):
            raise NotADirectory("a virtual link is no directory")
        directory = self.inode(node)
        for entry in self.fs.readdir(directory, max(start - 1, 0)):
            try:
                inode = self.fs.iget(entry.pfs_id, entry.obj_id, directory.asof)
            except HammerError:
                continue
            yield Listed(entry.name, entry.key + 1, self.child(node, inode))
        if self.look.snapdir == "visible" and start <= _LAST_POSITION:
            found = self._snapdir(node)
            if found is not None and not self._is_stored(directory, self.look.snapdir_name):
                yield Listed(self.look.snapdir_name, _LAST_POSITION + 1, found)

    # What virtual directories are made of

    def _refresh(self) -> None:
        """Forget what has been found out before the newest flush."""
        newest = self.fs.newest_tid
        if newest != self._newest:
            self._newest = newest
            self._flush_points.clear()
            self._snapshots.clear()
            self._versions.clear()

    def flush_points(self, root: ObjectNode) -> FlushPoints:
        """The moments of a PFS, all of them found."""
        self._refresh()
        key = root.pfs_id, root.asof
        points = self._flush_points.get(key)
        if points is None:
            points = self._flush_points[key] = FlushPoints(self.fs.records, root.pfs_id, root.asof)
        points.load(patient=not self.fs.cache.inline)
        return points

    def snapshots(self, root: ObjectNode) -> dict[bytes, Snapshot]:
        """The snapshots of a PFS by their names in the virtual directory."""
        self._refresh()
        key = root.pfs_id, root.asof
        found = self._snapshots.get(key)
        if found is None:
            all_of_them = self.fs.snapshots(root.pfs_id)
            shown = [snap for snap in all_of_them if snap.tid <= root.asof]
            found = self._snapshots[key] = snapshot_names(shown, self.snapshot_time)
        return found

    def snapshot(self, root: ObjectNode, name: bytes) -> Snapshot | None:
        """The snapshot under a name; where times are names, a label of just one does as well."""
        found = self.snapshots(root)
        snap = found.get(name)
        return labelled(found.values(), name) if snap is None else snap

    def versions(self, directory: ObjectNode, name: bytes) -> list[Version]:
        """All versions of a name, oldest first."""
        self._refresh()
        key = directory.number, name
        found = self._versions.get(key)
        if found is None:
            found = name_versions(self.fs.records, self.fs.inodes, self.inode(directory), name)
            if len(self._versions) >= _KEPT_VERSIONS:
                self._versions.popitem(last=False)
            self._versions[key] = found
        return found

    # Inside

    def child(self, parent: ObjectNode, inode: Inode) -> ObjectNode:
        """Node of an object found in the tree of `parent`."""
        view = parent.view
        if inode.pfs_id != view.pfs_id or inode.asof != view.asof:
            view = View(inode.pfs_id, inode.asof, view.way)
        return self._node(view, inode)

    def _node(self, view: View, inode: Inode) -> ObjectNode:
        ident = inode.pfs_id, inode.obj_id, inode.asof
        epoch = self.fs.pfs.epochs[inode.pfs_id]
        return ObjectNode(number_in(view, self._main, *ident, is_dir=inode.is_dir, epoch=epoch), view, *ident)

    def _jump(self, parent: ObjectNode, directory: Inode, name: bytes) -> ObjectNode:
        """Along ``@@``: into another time, or another PFS."""
        inode = self.fs.lookup(directory, name)
        crosses = inode.obj_id == OBJID_ROOT and inode.pfs_id != directory.pfs_id
        has_snapdir = crosses and self._main.has_snapdir
        view = View(inode.pfs_id, inode.asof, way_number(parent.number, name), has_snapdir=has_snapdir)
        return self._node(view, inode)

    def _virtual(self, parent: ObjectNode, directory: Inode, name: bytes) -> Node | None:
        if name == self.look.snapdir_name:
            return self._snapdir(parent)
        if name.endswith(b"@@") and len(name) <= MAX_NAME and lives(self.fs.records, directory, name[:-2]):
            return VersionsDir(self, parent, name[:-2])
        return None

    def _snapdir(self, node: ObjectNode) -> Node | None:
        if node.obj_id == OBJID_ROOT and node.view.has_snapdir:
            return SnapDir(self, node, self.look.snapdir_name)
        return None

    def _is_stored(self, directory: Inode, name: bytes) -> bool:
        try:
            dirent.lookup(self.fs.records, directory, name)
        except NotFound:
            return False
        return True

    def _list_virtual(self, node: VirtualDir, start: int) -> Iterator[Listed]:
        """Positions count the names."""
        for position, name in enumerate(node.names(), FIRST_COOKIE):
            if position >= start:
                try:
                    yield Listed(name, position + 1, node.lookup(name))
                except HammerError:
                    continue


def is_past(node: Node) -> bool:
    """Whether what is under a node never changes."""
    return isinstance(node, ObjectNode) and node.asof != MAX_TID
