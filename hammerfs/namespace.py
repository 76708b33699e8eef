"""System calls on names: create, link, unlink, rmdir, rename. They change inodes in memory (see `changes`)."""

from __future__ import annotations

from typing import NamedTuple

from hammerfs.asof import parse_component
from hammerfs.changes import SLOP_REMOVE, SLOP_WRITE, Changes
from hammerfs.const import (
    CAP_DIR_LOCAL_INO,
    CAP_DIRHASH_ALG1,
    MAX_NAME,
    MAX_SYMLINK,
    MAX_TID,
    OBJID_ROOT,
    OBJTYPE_BDEV,
    OBJTYPE_CDEV,
    OBJTYPE_DIRECTORY,
    OBJTYPE_FIFO,
    OBJTYPE_REGFILE,
    OBJTYPE_SOCKET,
    OBJTYPE_SOFTLINK,
    SF_NOUNLINK,
    UF_NOUNLINK,
    UFLAGS_INHERITED,
    VERSION_DIRHASH1,
    VERSION_DIRLOCAL,
)
from hammerfs.dirent import Dirent, find_free_key, is_empty, probe
from hammerfs.errors import (
    CrossPfsError,
    ExistsError,
    InvalidError,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    ReadOnlyError,
)
from hammerfs.inode import DIRTY_ALL, Inode, need_dir
from hammerfs.ondisk.records import INODE_SYMLINK_MAX, INODE_VERSION, InodeData, id_uuid

_NOUNLINK = UF_NOUNLINK | SF_NOUNLINK
_NODES = frozenset({OBJTYPE_REGFILE, OBJTYPE_FIFO, OBJTYPE_SOCKET, OBJTYPE_CDEV, OBJTYPE_BDEV})
_MAX_DEPTH = 100_000
"""More directories above each other than paths can name; a longer chain is a circle."""


class Owner(NamedTuple):
    """Who makes an object: owner, group and permission bits."""

    uid: int = 0
    gid: int | None = None
    """None: the directory's."""
    mode: int = 0o644


class Namespace:
    """Changes of names.

    Args:
        changes: Where they are noted.
    """

    __slots__ = ("_changes", "_inodes", "_records")

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._records = changes.records
        self._inodes = changes.inodes

    # New objects

    def create(self, directory: Inode, name: bytes, owner: Owner) -> Inode:
        """A regular file, empty; errors as `mknod`."""
        return self.mknod(directory, name, OBJTYPE_REGFILE, owner)

    def mknod(
        self, directory: Inode, name: bytes, obj_type: int, owner: Owner, rdev: tuple[int, int] = (0, 0)
    ) -> Inode:
        """A regular file, fifo, socket or device.

        Args:
            directory: Where it is to be.
            name: Its name.
            obj_type: OBJTYPE_REGFILE, _FIFO, _SOCKET, _CDEV or _BDEV.
            owner: Owner and mode.
            rdev: Major and minor number of a device.

        Raises:
            ExistsError: The name is there.
            NotFound: The directory has been removed.
            NotADirectory: It is none.
            NameTooLong: More than 255 bytes.
            InvalidError: No name, or no such type.
            ReadOnlyError: As `Changes.check_writable`.
            NotPermitted: As `Changes.check_writable`.
            NoSpace: No space, or too many names with one hash.
            BufferMiss: As `BufferCache.bread`; nothing has been changed.
        """
        if obj_type not in _NODES:
            raise InvalidError(f"object type {obj_type} is not made by mknod")
        key = self._new_name(directory, name)
        inode = self._new_inode(directory, obj_type, owner)
        if obj_type in {OBJTYPE_CDEV, OBJTYPE_BDEV}:
            inode.data.rmajor, inode.data.rminor = rdev
        self._add_entry(directory, name, key, inode)
        return inode

    def mkdir(self, directory: Inode, name: bytes, owner: Owner) -> Inode:
        """A directory; errors as `mknod`."""
        key = self._new_name(directory, name)
        inode = self._new_inode(directory, OBJTYPE_DIRECTORY, owner)
        version = self._records.volumes.version
        if version >= VERSION_DIRLOCAL:
            inode.data.cap_flags |= CAP_DIR_LOCAL_INO
        if version >= VERSION_DIRHASH1:
            inode.data.cap_flags |= CAP_DIRHASH_ALG1
        self._add_entry(directory, name, key, inode)
        return inode

    def symlink(self, directory: Inode, name: bytes, target: bytes, owner: Owner) -> Inode:
        """A symbolic link.

        Raises:
            NameTooLong: A target of more than 4095 bytes.
            InvalidError: An empty target.
            HammerError: As `mknod`.
        """
        if not target:
            raise InvalidError("symbolic link without a target", **directory.place)
        if len(target) > MAX_SYMLINK:
            raise NameTooLong(f"target of {len(target)} bytes, {MAX_SYMLINK} is the most", **directory.place)
        key = self._new_name(directory, name)
        inode = self._new_inode(directory, OBJTYPE_SOFTLINK, owner)
        inode.data.size = len(target)
        if len(target) <= INODE_SYMLINK_MAX:
            inode.data.symlink = target.ljust(INODE_SYMLINK_MAX, b"\0")
        else:
            inode.target = target
            self._changes.pending += 1
        self._add_entry(directory, name, key, inode)
        return inode

    def link(self, inode: Inode, directory: Inode, name: bytes) -> None:
        """One more name for an object.

        Raises:
            NotPermitted: It is a directory, or immutable or append-only.
            CrossPfsError: The directory is in another PFS.
            NotFound: The object has been removed.
            HammerError: As `mknod`.
        """
        if inode.is_dir:
            raise NotPermitted("directories have one name only", **inode.place)
        if not inode.data.nlinks:
            raise NotFound("has been removed", **inode.place)
        self._same_pfs(inode, directory)
        self._changes.check_writable(inode)
        key = self._new_name(directory, name)
        inode.data.nlinks += 1
        self._changes.changed(inode)
        self._add_entry(directory, name, key, inode)

    # Removal

    def unlink(self, directory: Inode, name: bytes) -> Inode:
        """Remove a name of anything but a directory; returns the object.

        Raises:
            NotFound: No such name.
            IsADirectory: It is a directory.
            NotPermitted: Directory or object are immutable, append-only or not to be unlinked.
            ReadOnlyError: As `Changes.check_writable`.
            NoSpace: Not even enough for that.
            BufferMiss: As `BufferCache.bread`; nothing has been changed.
        """
        entry, inode = self._victim(directory, name)
        if inode.is_dir:
            raise IsADirectory("is a directory", **inode.place)
        self._remove(directory, entry, inode)
        return inode

    def rmdir(self, directory: Inode, name: bytes) -> Inode:
        """Remove an empty directory; returns it.

        Raises:
            NotADirectory: It is none.
            NotEmpty: It holds entries.
            InvalidError: The name is ``.``.
            HammerError: As `unlink`.
        """
        if name == b".":
            raise InvalidError("'.' can't be removed", **directory.place)
        if name == b"..":
            raise NotEmpty("'..' can't be removed", **directory.place)
        entry, inode = self._victim(directory, name)
        need_dir(inode)
        if not is_empty(self._records, inode):
            raise NotEmpty("directory is not empty", **inode.place)
        self._remove(directory, entry, inode)
        return inode

    # Renaming

    def rename(
        self, old_dir: Inode, old_name: bytes, new_dir: Inode, new_name: bytes, *, noreplace: bool = False
    ) -> Inode | None:
        """Give an object another name; what had that name before goes.

        Args:
            old_dir: Directory of the object.
            old_name: Its name.
            new_dir: Directory of the new name.
            new_name: The new name.
            noreplace: Fail when the new name is there.

        Returns:
            The object that had the new name before, if any.

        Raises:
            NotFound: No such name, or the new directory has been removed.
            ExistsError: With `noreplace` the new name is there.
            InvalidError: A directory into itself, or a name that is none.
            NotADirectory: A directory in place of something else.
            IsADirectory: Something else in place of a directory.
            NotEmpty: In place of a directory that holds entries.
            CrossPfsError: Into another PFS.
            HammerError: As `mknod` and `unlink`.
        """
        entry, inode = self._victim(old_dir, old_name)
        self._same_pfs(inode, new_dir)
        self._check_target(inode, new_dir, new_name)
        found = probe(self._records, new_dir, new_name)
        target = None
        if found.entry is not None:
            if noreplace:
                raise ExistsError(f"name {_text(new_name)} exists", **new_dir.place)
            if found.entry.obj_id == inode.obj_id:
                return None  # the same entry, or two links of one object
            target = self._inodes.get(found.entry.pfs_id, found.entry.obj_id)
            self._check_replace(inode, target)
            self._changes.check_writable(new_dir)
        self._changes.check_space(SLOP_REMOVE)
        key = find_free_key(self._records, new_dir, new_name) if found.entry else found.free_key
        if key is None:
            raise NoSpace("too many names with one hash", **new_dir.place)
        if target is not None and found.entry is not None:
            self._remove(new_dir, found.entry, target)
        self._drop_entry(old_dir, entry)
        self._move(inode, new_dir)
        self._add_entry(new_dir, new_name, key, inode)
        return target

    def exchange(self, old_dir: Inode, old_name: bytes, new_dir: Inode, new_name: bytes) -> None:
        """Let two objects change names; errors as `rename`, and both have to exist."""
        one, first = self._victim(old_dir, old_name)
        two, second = self._victim(new_dir, new_name)
        self._same_pfs(first, new_dir)
        if first is second:
            return
        self._check_target(first, new_dir, new_name)
        self._check_target(second, old_dir, old_name)
        self._changes.check_space(SLOP_REMOVE)
        key = find_free_key(self._records, new_dir, new_name)
        other = find_free_key(self._records, old_dir, old_name)
        if key is not None and key == other and old_dir is new_dir:
            other = find_free_key(self._records, old_dir, old_name, besides=key)
        if key is None or other is None:
            raise NoSpace("too many names with one hash", **new_dir.place)
        self._drop_entry(old_dir, one)
        self._drop_entry(new_dir, two)
        self._move(first, new_dir)
        self._move(second, old_dir)
        self._add_entry(new_dir, new_name, key, first)
        self._add_entry(old_dir, old_name, other, second)

    # Inside

    def _new_name(self, directory: Inode, name: bytes) -> int:
        """The key a new name gets; refuses what can't be made."""
        self._check_new(directory, name)
        found = probe(self._records, directory, name)
        if found.entry is not None:
            raise ExistsError(f"name {_text(name)} exists", **directory.place)
        self._changes.check_space(SLOP_WRITE)
        if found.free_key is None:
            raise NoSpace("too many names with one hash", **directory.place)
        return found.free_key

    def _check_new(self, directory: Inode, name: bytes) -> None:
        need_dir(directory)
        check_name(name)
        self._changes.check_writable(directory, appending=True)
        if not directory.data.nlinks:
            raise NotFound("the directory has been removed", **directory.place)

    def _check_target(self, inode: Inode, new_dir: Inode, new_name: bytes) -> None:
        """Refuse a new place that can't be: no name, a removed directory, a directory into itself."""
        self._check_new(new_dir, new_name)
        if not inode.is_dir:
            return
        above = new_dir
        for _ in range(_MAX_DEPTH):
            if above.obj_id == inode.obj_id:
                raise InvalidError("a directory can't be moved into itself", **inode.place)
            if above.obj_id == OBJID_ROOT or not above.data.parent_obj_id:
                return
            above = self._inodes.get(above.pfs_id, above.data.parent_obj_id)
        raise InvalidError("directories lead in a circle", **new_dir.place)

    def _check_replace(self, inode: Inode, target: Inode) -> None:
        if inode.is_dir and not target.is_dir:
            raise NotADirectory("a directory can't replace something else", **target.place)
        if target.is_dir and not inode.is_dir:
            raise IsADirectory("something else can't replace a directory", **target.place)
        self._check_removable(target)
        if target.is_dir and not is_empty(self._records, target):
            raise NotEmpty("directory is not empty", **target.place)

    def _victim(self, directory: Inode, name: bytes) -> tuple[Dirent, Inode]:
        """An entry that may be removed, and its object."""
        need_dir(directory)
        check_name(name)
        self._changes.check_writable(directory)
        entry = probe(self._records, directory, name).entry
        if entry is None:
            raise NotFound(f"no entry {_text(name)} in the directory", **directory.place)
        inode = self._inodes.get(entry.pfs_id, entry.obj_id)
        self._check_removable(inode)
        return entry, inode

    def _check_removable(self, inode: Inode) -> None:
        self._changes.check_writable(inode)
        if inode.data.uflags & _NOUNLINK:
            raise NotPermitted("is not to be unlinked", **inode.place)

    def _same_pfs(self, inode: Inode, directory: Inode) -> None:
        if inode.pfs_id != directory.pfs_id:
            raise CrossPfsError(f"PFS {inode.pfs_id} and PFS {directory.pfs_id} are two", **inode.place)

    def _new_inode(self, directory: Inode, obj_type: int, owner: Owner) -> Inode:
        changes, above = self._changes, directory.data
        now = changes.now()
        data = InodeData(
            INODE_VERSION,
            owner.mode & 0o7777,
            above.uflags & UFLAGS_INHERITED,
            0,
            0,
            now,
            directory.obj_id,
            id_uuid(owner.uid),
            above.gid if owner.gid is None else id_uuid(owner.gid),
            obj_type,
            0,
            0,
            0,
            1,
            0,
            bytes(INODE_SYMLINK_MAX),
            now,
            now,
        )
        inode = Inode(directory.pfs_id, changes.tids.alloc_object(), MAX_TID, 0, data)
        inode.blocks = 0
        changes.touch(inode, DIRTY_ALL)
        self._inodes.add(inode)
        return inode

    def _add_entry(self, directory: Inode, name: bytes, key: int, inode: Inode) -> None:
        entry = Dirent(name, inode.pfs_id, inode.obj_id, inode.data.obj_type, key, 0)
        self._changes.entries_of(directory).add(entry)
        self._changes.pending += 1
        self._changes.modified(directory)

    def _drop_entry(self, directory: Inode, entry: Dirent) -> None:
        if self._changes.entries_of(directory).remove(entry):
            self._changes.pending += 1
        else:
            self._changes.pending -= 1
        self._changes.modified(directory)

    def _remove(self, directory: Inode, entry: Dirent, inode: Inode) -> None:
        self._changes.check_space(SLOP_REMOVE)
        self._drop_entry(directory, entry)
        inode.data.nlinks -= 1
        self._changes.changed(inode)

    def _move(self, inode: Inode, directory: Inode) -> None:
        inode.data.parent_obj_id = directory.obj_id
        self._changes.changed(inode)


def check_name(name: bytes) -> None:
    """Refuse what can't be the name of an entry.

    Raises:
        InvalidError: Empty, or with a slash or NUL in it.
        ExistsError: ``.`` or ``..``.
        NameTooLong: More than 255 bytes.
        ReadOnlyError: A name with a point in time: it leads into the past.
    """
    if len(name) > MAX_NAME:
        raise NameTooLong(f"name of {len(name)} bytes, {MAX_NAME} is the most")
    if not name or b"/" in name or b"\0" in name:
        raise InvalidError(f"{_text(name)} is no name")
    if name in {b".", b".."}:
        raise ExistsError(f"{_text(name)} is in every directory")
    if b"@@" in name and parse_component(name).tid is not None:
        raise ReadOnlyError(f"{_text(name)} names a point in time")


def _text(name: bytes) -> str:
    return repr(name.decode("utf-8", "backslashreplace"))
