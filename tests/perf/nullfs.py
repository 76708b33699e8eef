"""A file system that is only a mount: trees in memory, no look-ups on media, no checksums. What pyfuse3 can do at best.

``python -m tests.perf.nullfs SOURCE MOUNTPOINT`` shows a copy of SOURCE, read-only, until it is unmounted. It has every
switch on that makes a pyfuse3 file system fast, as the mount of HAMMER has.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, ReaddirToken, RequestContext

from hammerfs.fuse import loop

FOR_EVER = 1e9


class Node:
    """A file or directory in memory."""

    def __init__(self, number: int, path: str) -> None:
        found = os.lstat(path)
        self.attrs = EntryAttributes()
        self.attrs.st_ino = InodeT(number)
        self.attrs.st_mode = pyfuse3.ModeT(found.st_mode)
        self.attrs.st_size = found.st_size
        self.attrs.entry_timeout = self.attrs.attr_timeout = FOR_EVER
        self.kids: dict[bytes, Node] = {}
        self.data = b""
        if stat.S_ISREG(found.st_mode):
            with open(path, "rb") as file:
                self.data = file.read()


class NullFs(pyfuse3.Operations):
    """Serves the nodes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._nodes: dict[int, Node] = {}
        self._load(source)

    def _load(self, path: str) -> Node:
        node = Node(len(self._nodes) + 1, path)
        self._nodes[len(self._nodes) + 1] = node
        if stat.S_ISDIR(node.attrs.st_mode):
            for name in sorted(os.listdir(path)):
                node.kids[os.fsencode(name)] = self._load(os.path.join(path, name))
        return node

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A name."""
        found = self._nodes[parent_inode].kids.get(name)
        if found is None:
            raise FUSEError(errno.ENOENT)
        return found.attrs

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """Attributes."""
        return self._nodes[inode].attrs

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Nothing is ever dropped."""

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """The number is the handle."""
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """All entries from a position on."""
        for position, (name, kid) in enumerate(self._nodes[fh].kids.items(), 1):
            if position > start_id and not pyfuse3.readdir_reply(token, name, kid.attrs, position):
                return

    async def releasedir(self, fh: FileHandleT) -> None:
        """Nothing was kept."""

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        """The number is the handle."""
        return FileInfo(fh=FileHandleT(inode), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """A slice, without a copy."""
        return memoryview(self._nodes[fh].data)[off : off + size]  # type: ignore[return-value]

    async def release(self, fh: FileHandleT) -> None:
        """Nothing was kept."""

    async def flush(self, fh: FileHandleT) -> None:
        """Not needed."""
        raise FUSEError(errno.ENOSYS)


def main() -> None:
    """Mount and serve."""
    source, mountpoint = sys.argv[1:]
    loop.install(pyfuse3, lambda: True)
    pyfuse3.init(NullFs(source), mountpoint, {"ro", "fsname=null"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
