"""A pyfuse3 mount of a few files that do nothing, each in another way: what the mount rows of the bench measure.

`python -m kernelcore.lab.nullmount MOUNTPOINT DATAFILE` serves until it is unmounted. Attributes are never cached, so
every `stat` is a request; files are read past the page cache, so every `read` is one, too.

    null      the handler answers by itself
    plain     a plain system call that never blocks
    syscall   a coroutine system call that never blocks
    service   a message to a service thread, and its answer
    zeros     read: the handler answers 16 KiB by itself
    miss      read: 16 KiB of DATAFILE, which an I/O CPU reads
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Any, Final

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, RequestContext

from kernelcore.host.iocpu import IoCpu
from kernelcore.host.trio_host import TrioHost
from kernelcore.msgport import LwktMsg, ThreadPort, domsg, initmsg, lwkt_port, service_loop
from kernelcore.thread import lwkt_create
from kernelcore.token import Token

NAMES: Final = (b"null", b"plain", b"syscall", b"service", b"zeros", b"miss")
"""The files; inode numbers follow that of the root."""
READ_BYTES: Final = 16384
_FIRST: Final = int(pyfuse3.ROOT_INODE) + 1
_PLAIN, _SYSCALL, _SERVICE, _MISS = (_FIRST + NAMES.index(name) for name in (b"plain", b"syscall", b"service", b"miss"))


class NullMount(pyfuse3.Operations):
    """The files.

    Args:
        host: Started already.
        io: Reads the data file.
        data: A descriptor of the data file, of at least `READ_BYTES`.
    """

    def __init__(self, host: TrioHost, io: IoCpu, data: int) -> None:
        super().__init__()
        self._host = host
        self._io = io
        self._data = data
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._attrs = {_FIRST + i: _attributes(_FIRST + i, stat.S_IFREG | 0o444) for i in range(len(NAMES))}
        self._attrs[pyfuse3.ROOT_INODE] = _attributes(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755)
        self._token = Token("attributes", host)
        self._port: ThreadPort | None = None
        self._messages: list[LwktMsg] = []

    async def boot(self) -> None:
        """Create the service thread."""

        async def start() -> ThreadPort:
            return lwkt_port(lwkt_create(serve, name="service"))

        async def serve() -> None:
            await service_loop(lwkt_port(), lambda _msg: 0)

        self._port = await self._host.syscall(start(), "boot")

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A name."""
        if name not in NAMES:
            raise FUSEError(errno.ENOENT)
        return self._attrs[_FIRST + NAMES.index(name)]

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """Attributes, in the way of this file."""
        if inode == _PLAIN:
            return self._host.syscall_plain(self._attributes, inode)
        if inode == _SYSCALL:
            return await self._host.syscall(self._look(inode), "getattr")
        if inode == _SERVICE:
            return await self._host.syscall(self._ask(inode), "getattr")
        return self._attrs[inode]

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        """The number is the handle; the kernel keeps nothing."""
        return FileInfo(fh=FileHandleT(inode), direct_io=True, keep_cache=False)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """A buffer, in the way of this file."""
        if fh == _MISS:
            await self._host.syscall(self._miss(), "read")
        return self._buffer  # type: ignore[return-value]

    async def release(self, fh: FileHandleT) -> None:
        """Nothing was kept."""

    async def forget(self, inode_list: Any) -> None:
        """Nothing is ever dropped."""

    async def flush(self, fh: FileHandleT) -> None:
        """Not needed."""
        raise FUSEError(errno.ENOSYS)

    def _attributes(self, inode: int) -> EntryAttributes:
        with self._token:
            return self._attrs[inode]

    async def _look(self, inode: int) -> EntryAttributes:
        return self._attributes(inode)

    async def _ask(self, inode: int) -> EntryAttributes:
        assert self._port is not None
        msg = self._messages.pop() if self._messages else LwktMsg()
        initmsg(msg, lwkt_port())
        await domsg(self._port, msg)
        self._messages.append(msg)
        return self._attributes(inode)

    async def _miss(self) -> None:
        await self._io.call(os.preadv, self._data, [self._buffer], 0)


def _attributes(number: int, mode: int) -> EntryAttributes:
    attrs = EntryAttributes()
    attrs.st_ino = InodeT(number)
    attrs.st_mode = pyfuse3.ModeT(mode)
    attrs.st_size = READ_BYTES
    attrs.entry_timeout = 1e9
    attrs.attr_timeout = 0
    return attrs


async def _serve(mountpoint: str, data: int) -> None:
    host = TrioHost(name="nullmount")
    async with trio.open_nursery() as nursery:
        host.start(nursery)
        io = IoCpu(host)
        mount = NullMount(host, io, data)
        await mount.boot()
        pyfuse3.init(mount, mountpoint, {"ro", "fsname=kernelcore", *pyfuse3.default_options} - {"default_permissions"})
        try:
            await pyfuse3.main()
        finally:
            pyfuse3.close(unmount=False)
        await host.shutdown()
        io.stop()


def main() -> None:
    """Mount and serve."""
    mountpoint, datafile = sys.argv[1:]
    data = os.open(datafile, os.O_RDONLY | os.O_CLOEXEC)
    trio.run(_serve, mountpoint, data)


if __name__ == "__main__":
    main()
