"""Copying trees out of an image: contents, holes, links, modes, times, and owners where the host lets us.

Whatever an image says, nothing is written outside the target: every name is used below an open directory, never
followed through a link, and an existing file is replaced only when asked to, by a new one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.inode import TYPE_MODES, Attr, Inode
from hammerfs.pages import page_buffer
from tools.walk import Found, walk

CHUNK = 1 << 20
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Extractor:
    """Copies out of one file system.

    Args:
        fs: The file system.
        force: Replace what is there.
        complain: Told about each object that could not be copied, by its path and why; the rest goes on.
    """

    def __init__(self, fs: HammerFS, *, force: bool, complain: Callable[[bytes, str], object]) -> None:
        self._fs = fs
        self._force = force
        self._complain = complain
        self._links: dict[tuple[int, int], bytes] = {}
        self._buf = page_buffer(CHUNK)
        self.copied = 0
        """Objects copied."""

    def tree(self, top: Inode, target: bytes) -> None:
        """Copy `top` (a directory with all below it, or anything else) to be `target`.

        Raises:
            OSError: The target's own directory can't be used.
        """
        self._links.clear()
        if top.is_dir:
            self._directories(top, target)
            return
        parent, name = os.path.split(target)
        with _opened(parent or b".") as at:
            self._object(Found(name, top), name, at)

    def _directories(self, top: Inode, target: bytes) -> None:
        """Pre-order walk with one open directory for each level; a directory's own attributes come last."""
        open_dirs: list[tuple[bytes, int, Inode]] = []
        skipped: bytes | None = None
        try:
            for found in walk(self._fs, top, self._damaged):
                if skipped is not None and found.path.startswith(skipped):
                    continue
                skipped = None
                while open_dirs and not _is_below(found.path, open_dirs[-1][0]):
                    self._leave(*open_dirs.pop())
                at = open_dirs[-1][1] if open_dirs else None
                name = found.name if open_dirs else target
                if not found.inode.is_dir:
                    self._object(found, name, at, target)
                    continue
                fd = self._enter(found, name, at)
                if fd is None:
                    skipped = found.path + b"/" if found.path else b""
                else:
                    open_dirs.append((found.path, fd, found.inode))
        finally:
            while open_dirs:
                self._leave(*open_dirs.pop())

    def _enter(self, found: Found, name: bytes, at: int | None) -> int | None:
        """Make a directory, or take the one that is there; its descriptor."""
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=at)
            flags = _DIRECTORY if at is not None else _DIRECTORY & ~os.O_NOFOLLOW
            fd = os.open(name, flags, dir_fd=at)
        except OSError as err:
            self._complain(found.path, err.strerror or str(err))
            return None
        self.copied += 1
        return fd

    def _leave(self, path: bytes, fd: int, inode: Inode) -> None:
        try:
            attr = inode.attr()
            _own(attr, lambda uid, gid: os.fchown(fd, uid, gid))
            os.fchmod(fd, stat.S_IMODE(attr.mode))
            os.utime(fd, ns=(attr.mtime_us * 1000, attr.mtime_us * 1000))
        except (OSError, OverflowError) as err:
            self._complain(path, str(err))
        finally:
            os.close(fd)

    def _object(self, found: Found, name: bytes, at: int | None, target: bytes | None = None) -> None:
        """Anything but a directory."""
        try:
            if self._force:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=at)
            first = self._links.get((found.inode.pfs_id, found.inode.obj_id))
            if first is not None:
                os.link(first, name, dst_dir_fd=at, follow_symlinks=False)
            else:
                self._make(found.inode, name, at)
                if target is not None and found.inode.data.nlinks > 1:
                    # The directories on this path are those made or entered here, never links.
                    self._links[found.inode.pfs_id, found.inode.obj_id] = target + b"/" + found.path
            self.copied += 1
        except HammerError as err:
            self._complain(found.path, str(err))
        except (OSError, OverflowError) as err:
            self._complain(found.path, getattr(err, "strerror", None) or str(err))

    def _make(self, inode: Inode, name: bytes, at: int | None) -> None:
        attr = inode.attr()
        if inode.is_file:
            self._file(inode, attr, name, at)
        elif inode.is_symlink:
            os.symlink(self._fs.readlink(inode), name, dir_fd=at)
            _own(attr, lambda uid, gid: os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False))
        else:
            mode = TYPE_MODES[attr.obj_type] | stat.S_IMODE(attr.mode)
            os.mknod(name, mode, os.makedev(attr.rmajor, attr.rminor), dir_fd=at)
            _own(attr, lambda uid, gid: os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False))
            os.chmod(name, stat.S_IMODE(attr.mode), dir_fd=at)
        if not inode.is_file:
            times = attr.mtime_us * 1000, attr.mtime_us * 1000
            os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)

    def _file(self, inode: Inode, attr: Attr, name: bytes, at: int | None) -> None:
        """A regular file; holes stay holes. One that can't be read in full is taken away again."""
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=at)
        try:
            os.ftruncate(fd, attr.size)
            for offset, view in chunks(self._fs, inode, self._buf):
                _write_all(fd, view, offset)
            _own(attr, lambda uid, gid: os.fchown(fd, uid, gid))
            os.fchmod(fd, stat.S_IMODE(attr.mode))
            os.utime(fd, ns=(attr.mtime_us * 1000, attr.mtime_us * 1000))
        except BaseException:
            os.unlink(name, dir_fd=at)
            raise
        finally:
            os.close(fd)

    def _damaged(self, path: bytes, err: HammerError) -> None:
        self._complain(path, str(err))


def chunks(fs: HammerFS, inode: Inode, buf: memoryview) -> Iterator[tuple[int, memoryview]]:
    """What a file holds beside its holes, piece by piece; each piece is good until the next one.

    Args:
        fs: The file system.
        inode: A regular file.
        buf: Memory for the pieces.

    Raises:
        HammerError: A piece is damaged.
    """
    for beg, end in fs.data_ranges(inode):
        offset = beg
        while offset < end:
            n = fs.readinto(inode, offset, buf[: min(len(buf), end - offset)])
            if not n:
                break
            yield offset, buf[:n]
            offset += n


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


def _own(attr: Attr, chown: Callable[[int, int], object]) -> None:
    """Give it its owner, which only root may; others keep what they copy."""
    if os.geteuid() == 0:
        chown(attr.uid, attr.gid)


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


@contextlib.contextmanager
def _opened(directory: bytes) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
