"""What only the host knows of its disks: sizes, sectors, discards. Each question has its Linux and its BSD form."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys

IS_LINUX = sys.platform.startswith("linux")

# linux/fs.h
_BLKGETSIZE64 = 0x80081272
_BLKSSZGET = 0x1268
_BLKDISCARD = 0x1277
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

# FreeBSD sys/disk.h
_DIOCGSECTORSIZE = 0x40046480
_DIOCGMEDIASIZE = 0x40086481
_DIOCGDELETE = 0x80106488

_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.ENODEV}


def media_size(fd: int) -> int:
    """Bytes of an open regular file or disk device.

    Raises:
        OSError: The host does not say.
    """
    mode = os.fstat(fd)
    if stat.S_ISREG(mode.st_mode):
        return mode.st_size
    request = _BLKGETSIZE64 if IS_LINUX else _DIOCGMEDIASIZE
    try:
        return int(struct.unpack("=Q", fcntl.ioctl(fd, request, bytes(8)))[0])
    except OSError as err:
        if err.errno not in _UNSUPPORTED:
            raise
    return os.lseek(fd, 0, os.SEEK_END)


def sector_size(fd: int) -> int:
    """Bytes of a logical sector of an open disk device; 512 for a file and where the host does not say."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return 512
    try:
        answer = fcntl.ioctl(fd, _BLKSSZGET if IS_LINUX else _DIOCGSECTORSIZE, bytes(4))
    except OSError:
        return 512
    sector = int(struct.unpack("=I", answer)[0])
    return sector if 512 <= sector <= 65536 and sector & (sector - 1) == 0 else 512


def make_durable(fd: int) -> None:
    """Have the host and its disk write everything of this file that is still in a cache.

    Raises:
        OSError: It could not.
    """
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def discard(fd: int, off: int, n: int) -> bool:
    """Give a range back to the host: a hole in a file, a TRIM on a disk. False where the host can't.

    Raises:
        OSError: It can, but failed.
    """
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return IS_LINUX and _punch_hole(fd, off, n)
        fcntl.ioctl(fd, _BLKDISCARD if IS_LINUX else _DIOCGDELETE, struct.pack("=QQ", off, n))
    except OSError as err:
        if err.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _punch_hole(fd: int, off: int, n: int) -> bool:
    import ctypes

    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if fallocate is None:
        return False
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, off, n) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True
