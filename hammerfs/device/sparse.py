"""Holes of sparse files: finding the data of a file and copying it without filling the holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

_COPY_CHUNK = 4 << 20
_NO_SEEK_DATA = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}


def data_extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of the byte ranges in [start, end) of an open file that may hold data.

    What lies between is known to read as zeros. Where the host can't tell (a block device, a file system without
    SEEK_DATA) the rest of the range is one extent. Moves the file position.
    """
    at = start
    while at < end:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            hole = os.lseek(fd, begin, os.SEEK_HOLE) if begin < end else end
        except OSError as err:
            if err.errno == errno.ENXIO:  # only a hole is left
                return
            if err.errno not in _NO_SEEK_DATA:
                raise
            begin, hole = at, end
        if begin >= end:
            return
        yield begin, min(hole, end)
        at = max(hole, begin + 1)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file so that its holes stay holes; the data is shared where the host can (reflinks).

    Args:
        source: File to read.
        target: File to make; it must not exist.

    Raises:
        OSError: As the host says.
    """
    src = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        dst = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(src).st_size
            os.ftruncate(dst, size)
            for begin, end in data_extents(src, 0, size):
                _copy_range(src, dst, begin, end)
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _copy_range(src: int, dst: int, begin: int, end: int) -> None:
    in_kernel = hasattr(os, "copy_file_range")
    while begin < end:
        n = 0
        if in_kernel:
            try:
                n = os.copy_file_range(src, dst, end - begin, begin, begin)
            except OSError as err:
                if err.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
                    raise
                in_kernel = False
        if not in_kernel:
            data = os.pread(src, min(_COPY_CHUNK, end - begin), begin)
            n = os.pwrite(dst, data, begin) if data else 0
        if n == 0:  # the source shrank while it was read
            raise OSError(errno.EIO, f"source ends at {begin}, expected {end} bytes")
        begin += n
