"""Inodes in memory: one object of one PFS at one point in time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from hammerfs.addr import localize
from hammerfs.const import (
    BUFSIZE,
    LOCALIZE_INODE,
    MAX_FILE_SIZE,
    MAX_TID,
    OBJTYPE_BDEV,
    OBJTYPE_CDEV,
    OBJTYPE_DBFILE,
    OBJTYPE_DIRECTORY,
    OBJTYPE_FIFO,
    OBJTYPE_REGFILE,
    OBJTYPE_SOCKET,
    OBJTYPE_SOFTLINK,
    RECTYPE_INODE,
)
from hammerfs.errors import CorruptError, HammerError, InvalidError, IsADirectory, NotADirectory, NotFound, ObjectPlace
from hammerfs.ondisk.records import InodeData, unix_id
from hammerfs.record import Records

if TYPE_CHECKING:
    from hammerfs.data import ExtentMap
    from hammerfs.dirent import PendingEntries
    from hammerfs.dirty import DirtyData

TYPE_MODES = {
    OBJTYPE_DIRECTORY: 0o040000,
    OBJTYPE_REGFILE: 0o100000,
    OBJTYPE_DBFILE: 0o100000,
    OBJTYPE_FIFO: 0o010000,
    OBJTYPE_CDEV: 0o020000,
    OBJTYPE_BDEV: 0o060000,
    OBJTYPE_SOFTLINK: 0o120000,
    OBJTYPE_SOCKET: 0o140000,
}
"""S_IFMT bits by object type."""


class Attr(NamedTuple):
    """What stat shows, in plain values. Times are microseconds since 1970."""

    obj_id: int
    pfs_id: int
    asof: int
    obj_type: int
    mode: int
    """Type and permission bits."""
    nlink: int
    uid: int
    gid: int
    size: int
    rmajor: int
    rminor: int
    uflags: int
    ctime_us: int
    mtime_us: int
    atime_us: int
    blksize: int


DIRTY_ATIME = 1
"""Only atime is newer than the media: rewritten in place."""
DIRTY_CONTENTS = 2
"""Contents, times or growth of a file: the record gets a new generation, and an fsync can log it."""
DIRTY_ALL = 4
"""Anything else: the record gets a new generation."""


class Inode:
    """An object as of a TID. The head and each point in time have inodes of their own.

    What is newer than the media hangs on the inode of the head until a flush has put it into the tree.

    Args:
        pfs_id: PFS of the object.
        obj_id: Its id.
        asof: Point in time, MAX_TID for the head.
        create_tid: TID of the inode record's generation.
        data: Its inode record.
    """

    __slots__ = (
        "asof",
        "blocks",
        "counted",
        "create_tid",
        "data",
        "dirty",
        "entries",
        "error",
        "extents",
        "obj_id",
        "opens",
        "pfs_id",
        "state",
        "target",
    )

    def __init__(self, pfs_id: int, obj_id: int, asof: int, create_tid: int, data: InodeData) -> None:
        self.pfs_id = pfs_id
        self.obj_id = obj_id
        self.asof = asof
        self.create_tid = create_tid
        """0 while no flush has written its record."""
        self.data = data
        self.extents: ExtentMap | None = None
        """Where its data is; made when first read."""
        self.dirty: DirtyData | None = None
        """Contents that are newer than the media."""
        self.entries: PendingEntries | None = None
        """Names of a directory that came or went since the last flush."""
        self.target: bytes | None = None
        """Long target of a new symbolic link."""
        self.counted: tuple[int, int] | None = None
        """While they are counted: the first record key that is still to come, and the bytes so far."""
        self.blocks: int | None = None
        """Bytes its data records hold, counted when first asked."""
        self.state = 0
        """`DIRTY_ATIME`, `DIRTY_CONTENTS`, `DIRTY_ALL`."""
        self.opens = 0
        """Who has it open; an object without a name lives until nobody has."""
        self.error: HammerError | None = None
        """A write that failed behind the back of whoever made it; the next fsync tells."""

    def __repr__(self) -> str:
        return f"<Inode pfs {self.pfs_id} obj 0x{self.obj_id:016x} asof 0x{self.asof:016x}>"

    @property
    def is_head(self) -> bool:
        """The current state, not a point in time."""
        return self.asof == MAX_TID

    @property
    def is_dir(self) -> bool:
        """A directory."""
        return self.data.obj_type == OBJTYPE_DIRECTORY

    @property
    def is_file(self) -> bool:
        """A regular file (or a database file, which reads like one)."""
        return self.data.obj_type in {OBJTYPE_REGFILE, OBJTYPE_DBFILE}

    @property
    def is_symlink(self) -> bool:
        """A symbolic link."""
        return self.data.obj_type == OBJTYPE_SOFTLINK

    @property
    def size(self) -> int:
        """Bytes of a file or of a symbolic link's target."""
        return self.data.size if self.dirty is None else self.dirty.size

    @property
    def is_dead(self) -> bool:
        """Without a name and not open: it goes with the next flush."""
        return not self.data.nlinks and not self.opens and self.is_head

    @property
    def is_busy(self) -> bool:
        """It must stay in memory."""
        return self.state != 0 or self.opens != 0 or self.dirty is not None or self.entries is not None

    @property
    def place(self) -> ObjectPlace:
        """Where an error about it is, as keyword arguments."""
        return {"obj_id": self.obj_id, "localization": localize(self.pfs_id)}

    def attr(self) -> Attr:
        """What stat shows: stored times at the head, ctime for all three in the past.

        mtime and atime are rewritten in place, so those stored in an old record are not of its time.
        """
        data = self.data
        mtime, atime = data.mtime, data.atime
        if self.asof != MAX_TID:
            mtime = atime = data.ctime
        elif self.dirty is not None:
            mtime = max(mtime, self.dirty.mtime)
        return Attr(
            self.obj_id,
            self.pfs_id,
            self.asof,
            data.obj_type,
            TYPE_MODES[data.obj_type] | (data.mode & 0o7777),
            1 if data.obj_type == OBJTYPE_DIRECTORY else data.nlinks,
            unix_id(data.uid),
            unix_id(data.gid),
            self.size,
            data.rmajor,
            data.rminor,
            data.uflags,
            data.ctime,
            mtime,
            atime,
            BUFSIZE,
        )


def need_dir(inode: Inode) -> None:
    """Refuse anything but a directory.

    Raises:
        NotADirectory: It is something else.
    """
    if not inode.is_dir:
        raise NotADirectory("not a directory", **inode.place)


def need_file(inode: Inode) -> None:
    """Refuse anything but a regular file.

    Raises:
        IsADirectory: A directory.
        InvalidError: Something else without contents.
    """
    if inode.is_dir:
        raise IsADirectory("is a directory", **inode.place)
    if not inode.is_file:
        raise InvalidError("not a regular file", **inode.place)


class Inodes:
    """Loads inodes and keeps those used lately; those that are open or changed stay.

    Args:
        records: The records of the file system.
        limit: Most inodes kept.
    """

    __slots__ = ("_cached", "_limit", "_records")

    def __init__(self, records: Records, limit: int = 20_000) -> None:
        self._records = records
        self._limit = limit
        self._cached: OrderedDict[tuple[int, int, int], Inode] = OrderedDict()

    def __iter__(self) -> Iterator[Inode]:
        return iter(self._cached.values())

    def get(self, pfs_id: int, obj_id: int, asof: int = MAX_TID) -> Inode:
        """The object as of a TID.

        Raises:
            NotFound: No such object then.
            CorruptError: Its record is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        inode = self.get_dead_or_alive(pfs_id, obj_id, asof)
        if not inode.data.nlinks and inode.is_dead:
            raise NotFound("has been removed", obj_id=obj_id, localization=localize(pfs_id))
        return inode

    def get_dead_or_alive(self, pfs_id: int, obj_id: int, asof: int = MAX_TID) -> Inode:
        """As `get`, also an object that has no name any more and that nobody has open."""
        ident = (pfs_id, obj_id, asof)
        inode = self._cached.get(ident)
        if inode is None:
            inode = self._load(pfs_id, obj_id, asof)
            self._keep(ident, inode)
        else:
            self._cached.move_to_end(ident)
        return inode

    def cached(self, pfs_id: int, obj_id: int, asof: int = MAX_TID) -> Inode | None:
        """What `get` would return, if that needs no look at the media."""
        ident = (pfs_id, obj_id, asof)
        inode = self._cached.get(ident)
        if inode is None or (not inode.data.nlinks and inode.is_dead):
            return None
        self._cached.move_to_end(ident)
        return inode

    @property
    def count(self) -> int:
        """Inodes in memory."""
        return len(self._cached)

    def add(self, inode: Inode) -> None:
        """A new object that no flush has written yet."""
        self._keep((inode.pfs_id, inode.obj_id, inode.asof), inode)

    def changed(self, inode: Inode) -> None:
        """An inode is about to be newer than the media: it is the one that others find, if it had to go meanwhile."""
        self._cached.setdefault((inode.pfs_id, inode.obj_id, inode.asof), inode)

    def forget(self, inode: Inode) -> None:
        """Drop an inode from the cache."""
        self._cached.pop((inode.pfs_id, inode.obj_id, inode.asof), None)

    def drop(self) -> None:
        """Drop all that need not stay."""
        for ident in [ident for ident, inode in self._cached.items() if not inode.is_busy]:
            del self._cached[ident]

    def _keep(self, ident: tuple[int, int, int], inode: Inode) -> None:
        cached = self._cached
        if len(cached) >= self._limit:
            for _ in range(len(cached)):
                oldest, old = next(iter(cached.items()))
                if not old.is_busy:
                    del cached[oldest]
                    break
                cached.move_to_end(oldest)
        cached[ident] = inode

    def _load(self, pfs_id: int, obj_id: int, asof: int) -> Inode:
        localization = localize(pfs_id, LOCALIZE_INODE)
        elm = self._records.lookup(localization, obj_id, RECTYPE_INODE, 0, asof)
        if elm is None:
            raise NotFound("no such object", obj_id=obj_id, localization=localization)
        try:
            data = InodeData.decode(self._records.payload(elm))
        except CorruptError as err:
            if err.obj_id is None:
                err.obj_id, err.localization = obj_id, localization
            raise
        _check(data, obj_id, localization)
        return Inode(pfs_id, obj_id, asof, elm.create_tid, data)


def _check(data: InodeData, obj_id: int, localization: int) -> None:
    if data.obj_type not in TYPE_MODES:
        raise CorruptError(f"inode of object type {data.obj_type}", obj_id=obj_id, localization=localization)
    if data.size > MAX_FILE_SIZE:
        raise CorruptError(f"inode of {data.size} bytes", obj_id=obj_id, localization=localization)
