"""Two places where files are looked at and made by their paths: the host (a mount above all), and an open image."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from hammerfs.errors import HammerError, NotADirectory, NotFound
from hammerfs.filewrite import SetAttr
from hammerfs.fs import HammerFS
from hammerfs.inode import TYPE_MODES, Inode
from hammerfs.namespace import Owner
from hammerfs.pages import page_buffer
from hammerfs.rw import WritableFS
from tools.extract import chunks

CHUNK = 1 << 20
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_OLD = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Thing(NamedTuple):
    """An object of a tree."""

    mode: int
    """Type and permission bits."""
    nlink: int
    ident: int
    """Equal for all names of one object at one point in time."""
    uid: int
    gid: int
    size: int
    mtime_us: int
    rdev: tuple[int, int]
    uflags: int = 0

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


class Source(Protocol):
    """Where objects are looked at. Every call may raise HammerError or OSError."""

    def look(self, path: bytes) -> Thing | None:
        """What is at a path, a symbolic link itself; None when nothing is."""
        ...

    def names(self, path: bytes) -> list[bytes]:
        """Names in a directory, sorted."""
        ...

    def target(self, path: bytes) -> bytes:
        """Target of a symbolic link, as it is stored."""
        ...

    def pieces(self, path: bytes) -> Iterator[tuple[int, memoryview]]:
        """What a file holds beside its holes, by offset; each piece is good until the next one."""
        ...


class Place(Source, Protocol):
    """Where objects are made as well."""

    def make(self, path: bytes, thing: Thing, source: bytes) -> None:
        """Make an object like one that is looked at in the same place; a directory comes without attributes."""
        ...

    def rewrite(self, path: bytes, thing: Thing, source: bytes) -> None:
        """Give a regular file that is there contents and attributes of another."""
        ...

    def finish(self, path: bytes, thing: Thing) -> None:
        """Give something that has been made its owner, mode and times."""
        ...

    def link(self, first: bytes, path: bytes) -> None:
        """One more name."""
        ...

    def remove(self, path: bytes) -> None:
        """Remove a name that is no directory's."""
        ...


class HostPlace:
    """The host's own files, by system calls. Nothing is followed in the last component of a path."""

    def __init__(self) -> None:
        self._buf = page_buffer(CHUNK)

    def look(self, path: bytes) -> Thing | None:
        """As for `Source`."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        rdev = os.major(found.st_rdev), os.minor(found.st_rdev)
        who = found.st_uid, found.st_gid
        return Thing(
            found.st_mode, found.st_nlink, found.st_ino, *who, found.st_size, found.st_mtime_ns // 1000, rdev
        )  # fmt: skip

    def names(self, path: bytes) -> list[bytes]:
        """As for `Source`."""
        return sorted(os.listdir(path))

    def target(self, path: bytes) -> bytes:
        """As for `Source`."""
        return os.readlink(path)

    def pieces(self, path: bytes) -> Iterator[tuple[int, memoryview]]:
        """As for `Source`."""
        fd = os.open(path, _READ)
        try:
            offset, size = 0, os.fstat(fd).st_size
            while offset < size:
                try:
                    offset = os.lseek(fd, offset, os.SEEK_DATA)
                except OSError:
                    break  # nothing but a hole is left
                end = min(os.lseek(fd, offset, os.SEEK_HOLE), size)
                while offset < end:
                    n = os.preadv(fd, [self._buf[: min(CHUNK, end - offset)]], offset)
                    if not n:
                        return
                    yield offset, self._buf[:n]
                    offset += n
        finally:
            os.close(fd)

    def make(self, path: bytes, thing: Thing, source: bytes) -> None:
        """As for `Place`."""
        if thing.is_dir:
            os.mkdir(path, 0o700)
            return
        if thing.is_file:
            self._fill(path, _OPEN_NEW, thing, source)
            return
        if thing.is_link:
            os.symlink(self.target(source), path)
        else:
            os.mknod(path, stat.S_IFMT(thing.mode) | 0o600, os.makedev(*thing.rdev))
        self.finish(path, thing)

    def rewrite(self, path: bytes, thing: Thing, source: bytes) -> None:
        """As for `Place`."""
        self._fill(path, _OPEN_OLD, thing, source)

    def finish(self, path: bytes, thing: Thing) -> None:
        """As for `Place`; the owner only where this process may give files away."""
        if os.geteuid() == 0:
            os.chown(path, thing.uid, thing.gid, follow_symlinks=False)
        if not thing.is_link:
            os.chmod(path, stat.S_IMODE(thing.mode))
        os.utime(path, ns=(thing.mtime_us * 1000, thing.mtime_us * 1000), follow_symlinks=False)

    def link(self, first: bytes, path: bytes) -> None:
        """As for `Place`."""
        os.link(first, path, follow_symlinks=False)

    def remove(self, path: bytes) -> None:
        """As for `Place`."""
        os.unlink(path)

    def _fill(self, path: bytes, flags: int, thing: Thing, source: bytes) -> None:
        """Write a file; a new one that can't be written in full is taken away again."""
        fd = os.open(path, flags, 0o600)
        try:
            os.ftruncate(fd, 0)
            for offset, view in self.pieces(source):
                left = view
                while left:
                    left = left[os.pwrite(fd, left, offset + len(view) - len(left)) :]
            os.ftruncate(fd, thing.size)
            self.finish(path, thing)
        except BaseException:
            if flags & os.O_EXCL:
                os.unlink(path)
            raise
        finally:
            os.close(fd)


class ImageSource:
    """The files of an image.

    Args:
        fs: The file system.
        root: Where paths start.
    """

    def __init__(self, fs: HammerFS, root: Inode) -> None:
        self._fs = fs
        self._root = root
        self._buf = page_buffer(CHUNK)

    def look(self, path: bytes) -> Thing | None:
        """As for `Source`."""
        try:
            attr = self._inode(path).attr()
        except (NotFound, NotADirectory):
            return None
        who = attr.uid, attr.gid
        rdev = attr.rmajor, attr.rminor
        return Thing(
            attr.mode, attr.nlink, attr.obj_id, *who, attr.size, attr.mtime_us, rdev, attr.uflags
        )  # fmt: skip

    def names(self, path: bytes) -> list[bytes]:
        """As for `Source`."""
        return sorted(entry.name for entry in self._fs.readdir(self._inode(path)))

    def target(self, path: bytes) -> bytes:
        """As for `Source`."""
        return self._fs.readlink(self._inode(path))

    def pieces(self, path: bytes) -> Iterator[tuple[int, memoryview]]:
        """As for `Source`."""
        return chunks(self._fs, self._inode(path), self._buf)

    def _inode(self, path: bytes) -> Inode:
        return self._fs.resolve(path.lstrip(b"/") or b".", self._root, follow=False)


class ImagePlace(ImageSource):
    """The files of an image that is open for writing.

    Args:
        fs: The file system.
        root: Where paths start.
    """

    def __init__(self, fs: WritableFS, root: Inode) -> None:
        super().__init__(fs, root)
        self._rw = fs

    def make(self, path: bytes, thing: Thing, source: bytes) -> None:
        """As for `Place`."""
        directory, name = self._parent(path)
        owner = Owner(thing.uid, thing.gid, stat.S_IMODE(thing.mode))
        if thing.is_dir:
            self._rw.mkdir(directory, name, owner)
            return
        if thing.is_file:
            self._rw.create(directory, name, owner)
            try:
                self._fill(path, thing, source)
            except BaseException:
                with contextlib.suppress(HammerError):
                    self._rw.unlink(directory, name)
                raise
            return
        if thing.is_link:
            self._rw.symlink(directory, name, self.target(source), owner)
        else:
            kind = next(kind for kind, mode in TYPE_MODES.items() if mode == stat.S_IFMT(thing.mode))
            self._rw.mknod(directory, name, kind, owner, thing.rdev)
        self.finish(path, thing)

    def rewrite(self, path: bytes, thing: Thing, source: bytes) -> None:
        """As for `Place`."""
        self._rw.truncate(self._inode(path), 0)
        self._fill(path, thing, source)

    def finish(self, path: bytes, thing: Thing) -> None:
        """As for `Place`."""
        mode = None if thing.is_link else stat.S_IMODE(thing.mode)
        times = {"atime_us": thing.mtime_us, "mtime_us": thing.mtime_us}
        self._rw.setattr(self._inode(path), SetAttr(mode, thing.uid, thing.gid, **times))
        if thing.uflags:
            self._rw.setattr(self._inode(path), SetAttr(uflags=thing.uflags))

    def link(self, first: bytes, path: bytes) -> None:
        """As for `Place`."""
        self._rw.link(self._inode(first), *self._parent(path))

    def remove(self, path: bytes) -> None:
        """As for `Place`."""
        self._rw.unlink(*self._parent(path))

    def _fill(self, path: bytes, thing: Thing, source: bytes) -> None:
        inode = self._inode(path)
        for offset, view in self.pieces(source):
            self._rw.write(inode, offset, view)
        if inode.size != thing.size:
            self._rw.truncate(inode, thing.size)
        self.finish(path, thing)

    def _parent(self, path: bytes) -> tuple[Inode, bytes]:
        folder, _, name = path.lstrip(b"/").rpartition(b"/")
        return self._rw.resolve(folder or b".", self._root), name
