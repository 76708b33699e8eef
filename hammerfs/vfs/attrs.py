"""What stat shows on a mount."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from hammerfs.const import BUFSIZE
from hammerfs.inode import Attr

_MAJOR, _MINOR = 0xFFF, 0xFFFFF
"""Bits of device numbers that FUSE carries."""


class Stat(NamedTuple):
    """Attributes as struct stat has them; times in nanoseconds since 1970."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    """512-byte units that the data records really hold."""
    blksize: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Ownership(NamedTuple):
    """What a mount of a foreign disk shows instead of what is stored; None: what is stored."""

    uid: int | None = None
    gid: int | None = None
    umask: int | None = None

    def mode(self, mode: int) -> int:
        """Type and permission bits to show."""
        return mode if self.umask is None else mode & ~self.umask


STORED = Ownership()
"""Owners and permissions as they are."""


def stat_of(attr: Attr, number: int, data_bytes: int, show: Ownership) -> Stat:
    """Attributes of an object.

    Args:
        attr: Those stored.
        number: Its inode number.
        data_bytes: Bytes its data records hold.
        show: What replaces owner and permissions.
    """
    return Stat(
        number,
        show.mode(attr.mode),
        attr.nlink,
        attr.uid if show.uid is None else show.uid,
        attr.gid if show.gid is None else show.gid,
        os.makedev(attr.rmajor & _MAJOR, attr.rminor & _MINOR),
        attr.size,
        (data_bytes + 511) // 512,
        attr.blksize,
        *_times(attr),
    )


def virtual_stat(owner: Attr, number: int, mode: int, size: int, show: Ownership) -> Stat:
    """Attributes of a virtual directory or link that belongs to an object."""
    if not stat.S_ISLNK(mode):
        mode = show.mode(mode)
    uid = owner.uid if show.uid is None else show.uid
    gid = owner.gid if show.gid is None else show.gid
    return Stat(number, mode, 1, uid, gid, 0, size, 0, BUFSIZE, *_times(owner))


def _times(attr: Attr) -> tuple[int, int, int]:
    """Access, modification and change time in nanoseconds."""
    return attr.atime_us * 1000, attr.mtime_us * 1000, attr.ctime_us * 1000
