"""Walking a path: components, ``..``, points in time, symbolic links, and crossing into a PFS."""

from __future__ import annotations

from collections import deque

from hammerfs import dirent
from hammerfs.asof import parse_component
from hammerfs.const import MAX_PFS, MAX_TID, OBJID_ROOT
from hammerfs.errors import HammerError, LoopError, NameTooLong, NotFound
from hammerfs.inode import Inode, Inodes, need_dir
from hammerfs.pfs import PfsTable, readlink
from hammerfs.record import Records

MAX_LINKS = 40
MAX_PATH = 65536


class Namei:
    """Turns paths into inodes.

    Args:
        records: The records of the file system.
        inodes: Its inodes.
        pfs: Its PFSs.
        asof: Point in time of the whole view, MAX_TID for the head.
    """

    __slots__ = ("_asof", "_inodes", "_pfs", "_records")

    def __init__(self, records: Records, inodes: Inodes, pfs: PfsTable, asof: int = MAX_TID) -> None:
        self._records = records
        self._inodes = inodes
        self._pfs = pfs
        self._asof = asof

    def root(self, pfs_id: int = 0, asof: int | None = None) -> Inode:
        """Root directory of a PFS; without `asof` as the PFS is normally seen (a slave at its sync point).

        Raises:
            NotFound: No such PFS, or no root in it (a slave before its first mirror-write).
        """
        if asof is None:
            asof = self._asof
            if pfs_id and asof == MAX_TID:
                asof = self._pfs.asof(pfs_id)
        return self._inodes.get(pfs_id, OBJID_ROOT, asof)

    def step(self, directory: Inode, component: bytes) -> Inode:
        """One component below a directory; symbolic links are not followed.

        Raises:
            NotFound: No such name, point in time or PFS.
            NotADirectory: `directory` is none.
            CorruptError: Something on the way is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        need_dir(directory)
        if component == b".":
            return directory
        if component == b"..":
            return self.parent(directory)
        name, tid, pfs_id = parse_component(component)
        if tid is None:
            entry = dirent.lookup(self._records, directory, component)
            return self._inodes.get(entry.pfs_id, entry.obj_id, directory.asof)
        if not name and pfs_id is not None:
            if pfs_id >= MAX_PFS:
                raise NotFound(f"PFS {pfs_id} does not exist")
            return self._inodes.get(pfs_id, OBJID_ROOT, tid)
        there = self._inodes.get(directory.pfs_id, directory.obj_id, tid)
        if name in {b"", b"."}:
            return there
        entry = dirent.lookup(self._records, there, name)
        return self._inodes.get(entry.pfs_id, entry.obj_id, tid)

    def parent(self, directory: Inode) -> Inode:
        """Where ``..`` leads: in the past it stays there, but the root leads to itself at the view's own time.

        Raises:
            NotFound: The parent is not there.
        """
        parent_id = directory.data.parent_obj_id
        if parent_id:
            return self._inodes.get(directory.pfs_id, parent_id, directory.asof)
        if directory.asof != self._asof and directory.pfs_id == 0:
            return self._inodes.get(directory.pfs_id, directory.obj_id, self._asof)
        return directory

    def resolve(self, path: bytes, start: Inode | None = None, *, follow: bool = True) -> Inode:
        """Walk a whole path; symbolic links on the way are followed, the last one only with `follow`.

        An absolute path and an absolute link target start at the root of PFS 0; ``..`` goes back the way that was
        come, so it leaves a PFS to the directory that holds its softlink.

        Raises:
            NotFound: A component does not exist; the error carries the path.
            LoopError: More than 40 symbolic links.
            NotADirectory: A component in the middle is none.
            CorruptError: Something on the way is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        if len(path) > MAX_PATH:
            raise NameTooLong(f"path of {len(path)} bytes")
        try:
            return self._walk(path, start, follow=follow)
        except HammerError as err:
            err.path = path
            raise

    def _walk(self, path: bytes, start: Inode | None, *, follow: bool) -> Inode:
        root = self.root()
        trail = [root if start is None or path.startswith(b"/") else start]
        todo = deque(_split(path))
        links = 0
        while todo:
            component = todo.popleft()
            if component == b".." and len(trail) > 1:
                need_dir(trail.pop())
                continue
            inode = self.step(trail[-1], component)
            if inode.is_symlink and (todo or follow):
                links += 1
                if links > MAX_LINKS:
                    raise LoopError(f"more than {MAX_LINKS} symbolic links")
                target = readlink(self._records, self._pfs, inode)
                if target.startswith(b"/"):
                    trail = [root]
                todo.extendleft(reversed(_split(target)))
                continue
            if component == b"..":
                trail[-1] = inode
            elif component != b".":
                trail.append(inode)
        return trail[-1]


def _split(path: bytes) -> list[bytes]:
    words = [word for word in path.split(b"/") if word]
    if path.endswith(b"/") and words:
        words.append(b".")
    return words
