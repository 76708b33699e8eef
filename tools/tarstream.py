"""A tree of an image as a tar stream: PAX, stored times to the microsecond, hard links, holes (GNU sparse 1.0)."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Final

from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.inode import Attr, Inode
from hammerfs.pages import page_buffer
from tools.extract import CHUNK
from tools.walk import Found, walk

_BLOCK: Final = tarfile.BLOCKSIZE
_LEAST_HOLES: Final = 65536
"""Bytes of holes that make a file worth to be stored as sparse."""
_MAX_DEVICE: Final = 0o7777777
_TYPES: Final = {
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}
Complain = Callable[[bytes, str], object]


class TarStream:
    """Writes trees to a stream.

    Args:
        fs: The file system.
        out: Where to; need not be seekable.
        complain: Told about each object that could not be stored, by its path and why; the rest goes on.
    """

    def __init__(self, fs: HammerFS, out: IO[bytes], complain: Complain) -> None:
        self._fs = fs
        self._out = out
        self._complain = complain
        self._links: dict[tuple[int, int], str] = {}
        self._buf = page_buffer(CHUNK)
        self._written = 0
        self._sparse_files = 0

    def tree(self, top: Inode, name: bytes) -> None:
        """Store `top` and all below it under `name`."""
        for found in walk(self._fs, top, lambda path, err: self._complain(path, str(err))):
            path = b"/".join(part for part in (name, found.path) if part) or b"."
            try:
                self._member(path, found)
            except HammerError as err:
                self._complain(path, str(err))

    def close(self) -> None:
        """The end of the archive: two empty blocks, filled up to a record."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._written % tarfile.RECORDSIZE))
        self._out.flush()

    def _member(self, path: bytes, found: Found) -> None:
        inode = found.inode
        attr = inode.attr()
        info = tarfile.TarInfo(_text(path))
        kind = _TYPES.get(stat.S_IFMT(attr.mode))
        if kind is None:
            self._complain(path, "a socket can't be stored in a tar archive")
            return
        info.type = kind
        info.mode = stat.S_IMODE(attr.mode)
        info.uid, info.gid = attr.uid, attr.gid
        info.mtime = attr.mtime_us // 1_000_000
        info.pax_headers = {"mtime": _seconds(attr)}
        if max(attr.rmajor, attr.rminor) > _MAX_DEVICE:
            self._complain(path, f"device {attr.rmajor}, {attr.rminor} has a number no tar archive can hold")
            return
        info.devmajor, info.devminor = attr.rmajor, attr.rminor
        ident = inode.pfs_id, inode.obj_id
        if ident in self._links:
            info.type, info.linkname = tarfile.LNKTYPE, self._links[ident]
        elif inode.is_symlink:
            info.linkname = _text(self._fs.readlink(inode))
        elif inode.is_file:
            self._file(path, info, inode)
        if attr.nlink > 1 and not inode.is_dir:
            self._links.setdefault(ident, _text(path))
        if info.type != tarfile.REGTYPE:
            self._header(info)

    def _file(self, path: bytes, info: tarfile.TarInfo, inode: Inode) -> None:
        ranges = list(self._fs.data_ranges(inode))
        held = sum(end - beg for beg, end in ranges)
        if inode.size - held >= _LEAST_HOLES:
            self._sparse(path, info, inode, ranges)
        else:
            info.size = inode.size
            self._header(info)
            self._contents(path, inode, [(0, inode.size)])

    def _sparse(self, path: bytes, info: tarfile.TarInfo, inode: Inode, ranges: list[tuple[int, int]]) -> None:
        """A map of the data, as text in blocks of its own, then the data."""
        if not ranges or ranges[-1][1] < inode.size:
            ranges = [*ranges, (inode.size, inode.size)]
        numbers = [len(ranges), *(number for beg, end in ranges for number in (beg, end - beg))]
        table = "".join(f"{number}\n" for number in numbers).encode()
        table += bytes(-len(table) % _BLOCK)
        info.pax_headers = {
            **info.pax_headers,
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": info.name,
            "GNU.sparse.realsize": str(inode.size),
        }
        # A short plain name: what needs a PAX record of its own would win over the sparse file's name in some readers.
        self._sparse_files += 1
        info.name = f"GNUSparseFile.0/{self._sparse_files}"
        info.size = len(table) + sum(end - beg for beg, end in ranges)
        self._header(info)
        self._write(table)
        self._contents(path, inode, ranges)

    def _contents(self, path: bytes, inode: Inode, ranges: list[tuple[int, int]]) -> None:
        """The bytes promised in the header; zeros for what is damaged, which is said."""
        total = sum(end - beg for beg, end in ranges)
        done = 0
        try:
            for piece in self._pieces(inode, ranges):
                self._write(piece)
                done += len(piece)
        except HammerError as err:
            self._complain(path, f"{err}; the rest of it is zeros in the archive")
            while done < total:
                n = min(CHUNK, total - done)
                self._write(bytes(n))
                done += n
        self._write(bytes(-total % _BLOCK))

    def _pieces(self, inode: Inode, ranges: list[tuple[int, int]]) -> Iterator[memoryview | bytes]:
        """Contents of the ranges, holes inside them as zeros."""
        for beg, end in ranges:
            offset = beg
            while offset < end:
                n = self._fs.readinto(inode, offset, self._buf[: min(CHUNK, end - offset)])
                piece: memoryview | bytes = self._buf[:n] if n else bytes(min(CHUNK, end - offset))
                yield piece
                offset += len(piece)

    def _header(self, info: tarfile.TarInfo) -> None:
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _write(self, data: memoryview | bytes) -> None:
        self._out.write(data)
        self._written += len(data)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _seconds(attr: Attr) -> str:
    """Modification time as PAX has it: seconds with a fraction."""
    seconds, rest = divmod(attr.mtime_us, 1_000_000)
    if seconds < 0 and rest:
        return f"-{-seconds - 1}.{1_000_000 - rest:06d}"
    return f"{seconds}.{rest:06d}" if rest else str(seconds)
