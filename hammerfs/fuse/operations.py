"""The pyfuse3 handlers: thin, each one call of the vfs layer, answered in FUSE's terms."""

from __future__ import annotations

import errno
import logging
import os
import stat
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, ReaddirToken, RequestContext

from hammerfs.const import OBJID_ROOT
from hammerfs.errors import CorruptError, DeviceError, HammerError, NotFound
from hammerfs.fuse.guard import guarded
from hammerfs.fuse.nodes import NodeTable
from hammerfs.fuse.service import Service
from hammerfs.inode import Inode
from hammerfs.vfs.attrs import Stat
from hammerfs.vfs.node import Node, ObjectNode
from hammerfs.vfs.vfs import Vfs
from hammerfs.vfs.xattrs import is_ours, xattrs

T = TypeVar("T")
log = logging.getLogger("hammerfs")

FOR_EVER = 1e9
"""Seconds the kernel may keep what never changes."""
_PAGE = 64
"""Entries of a directory made ready at a time: some milliseconds' work where nothing of them is cached."""
_LISTED = 20_000
"""Entries of directories kept ready in all."""
NAMES_KEPT = 20_000
"""Names kept ready; some 8 MB."""
_MAX_OBJ_ID = (1 << 63) - 1
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND


class Entry(NamedTuple):
    """An entry of a directory, ready to be sent."""

    name: bytes
    next: int
    node: Node | None
    """None for ``.`` and ``..``, which the kernel takes no reference to."""
    attrs: EntryAttributes


class OpenDir:
    """An open directory.

    Args:
        node: The directory.
    """

    __slots__ = ("entries", "is_whole", "node", "stamp", "start")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.start = 0
        """Position of the first of the entries kept."""
        self.entries: list[Entry] = []
        """Entries made ready last, one after the other; from the beginning on while there are not too many."""
        self.is_whole = False
        """They are all there are."""
        self.stamp = 0
        """Which state of the directory they are of."""

    def forget(self, stamp: int) -> None:
        """The directory has changed: they are not of this state."""
        self.entries, self.start, self.is_whole, self.stamp = [], 0, False, stamp


@guarded
class Operations(pyfuse3.Operations):
    """A read-only mount.

    Args:
        vfs: The file system as it is to look.
        service: Runs calls.
        xattr: Whether there are extended attributes. They cost a request at every write(2): the kernel asks for one.
    """

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, vfs: Vfs, service: Service, *, xattr: bool = False) -> None:
        super().__init__()
        self._vfs = vfs
        self._has_xattrs = xattr
        self._service = service
        self._nodes = NodeTable(vfs.root)
        self._dirs: dict[int, OpenDir] = {}
        self._next_dir = 1
        self._listed: OrderedDict[int, list[Entry]] = OrderedDict()
        self._listed_entries = 0
        self._names: dict[tuple[int, bytes], tuple[Node, EntryAttributes]] = {}
        """Names looked up lately: the kernel forgets them sooner than we have to."""
        self._complaints: set[str] = set()

    # Names

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A name in a directory; that there is none is remembered by the kernel as well."""
        found = self._names.get((parent_inode, name))
        if found is not None:
            self._nodes.looked_up(*found)
            return found[1]
        parent = self._nodes.get(parent_inode) or await self._node(parent_inode)
        try:
            node, attrs = await self._service.call(self._look_up, parent, name)
        except NotFound:
            return self.nothing()
        except HammerError as err:
            raise self._refusal(err) from err
        if len(self._names) >= NAMES_KEPT:
            self._names.clear()
        self._names[parent_inode, name] = node, attrs
        self._nodes.looked_up(node, attrs)
        return attrs

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """The kernel gives references back."""
        for number, count in inode_list:
            self._nodes.forget(number, count)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """What stat shows."""
        return await self._attrs_of(await self._node(inode))

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        """Target of a symbolic link."""
        return await self._answer(self._vfs.readlink, await self._node(inode))

    # Directories

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """A handle that knows where its listing stands."""
        handle = self._next_dir
        self._next_dir += 1
        self._dirs[handle] = OpenDir(await self._node(inode))
        return FileHandleT(handle)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """Entries from a position on, as many as fit; each one sent is a reference given to the kernel."""
        opened = self._dirs[fh]
        position = start_id
        while True:
            page = await self._page_at(opened, position)
            if not page:
                return
            for entry in page:
                if not pyfuse3.readdir_reply(token, entry.name, entry.attrs, entry.next):
                    return
                if entry.node is not None:
                    self._nodes.looked_up(entry.node, entry.attrs)
                position = entry.next

    async def releasedir(self, fh: FileHandleT) -> None:
        """The handle is not needed any more."""
        self._dirs.pop(fh, None)

    # Files

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        """Files are only read, and what the kernel has cached of them stays right."""
        if flags & _WRITING:
            raise FUSEError(errno.EROFS)
        await self._node(inode)
        return FileInfo(fh=FileHandleT(inode), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Contents of a file."""
        node = await self._node(InodeT(fh))
        try:
            if not isinstance(node, ObjectNode):
                raise NotFound("a virtual object has no contents")
            inode = await self._inode(node)
            return await self._service.read(inode, off, size)  # type: ignore[return-value]  # any buffer will do
        except HammerError as err:
            raise self._refusal(err) from err

    async def release(self, fh: FileHandleT) -> None:
        """Nothing was kept for an open file."""

    async def flush(self, fh: FileHandleT) -> None:
        """Not implemented: the kernel then stops asking at every close."""
        raise FUSEError(errno.ENOSYS)

    # Extended attributes

    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        """One of the attributes `xattrs` makes."""
        if not self._has_xattrs:
            raise FUSEError(errno.ENOSYS)  # the kernel then stops asking
        found = None
        if is_ours(name):
            found = (await self._answer(xattrs, self._vfs, await self._node(inode))).get(name)
        if found is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return found

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[bytes]:
        """Their names."""
        if not self._has_xattrs:
            raise FUSEError(errno.ENOSYS)
        return list(await self._answer(xattrs, self._vfs, await self._node(inode)))

    # The file system

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """Space and inodes."""
        found = await self._answer(self._vfs.fs.statfs)
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = found.bsize
        data.f_blocks = found.blocks
        data.f_bfree = data.f_bavail = found.bfree
        data.f_files = found.files
        data.f_ffree = data.f_favail = 0
        data.f_namemax = 255
        return data

    # Inside

    async def _answer(self, fn: Callable[..., T], *args: Any) -> T:
        try:
            return await self._service.call(fn, *args)
        except HammerError as err:
            raise self._refusal(err) from err

    @staticmethod
    def nothing() -> EntryAttributes:
        """That a name does not exist."""
        attrs = EntryAttributes()
        attrs.st_ino = InodeT(0)
        attrs.entry_timeout = FOR_EVER
        return attrs

    def _refusal(self, err: HammerError) -> FUSEError:
        """The errno of an error; damage and failures of the device are logged, each place once."""
        if isinstance(err, CorruptError | DeviceError) or err.errno == errno.EIO:
            text = str(err)
            if text not in self._complaints and len(self._complaints) < 1000:
                self._complaints.add(text)
                log.error("%s", text)
        if isinstance(err, DeviceError) and err.errno != errno.ENOSPC:
            return FUSEError(errno.EIO)  # the host's reason is about the image, not about the user's file
        return FUSEError(err.errno)

    async def _node(self, number: InodeT) -> Node:
        """The node of a number; one the kernel has forgotten (a file handle of NFS) is found again in the main tree."""
        node = self._nodes.get(number)
        if node is not None:
            return node
        if number > _MAX_OBJ_ID:
            raise FUSEError(errno.ESTALE)
        try:
            return await self._service.call(self._vfs.by_number, number)
        except NotFound:
            raise FUSEError(errno.ESTALE) from None
        except HammerError as err:
            raise self._refusal(err) from err

    async def _inode(self, node: Node) -> Inode:
        """Inode of an object; nearly always it is in memory."""
        assert isinstance(node, ObjectNode)
        inode = self._vfs.fs.inodes.cached(node.pfs_id, node.obj_id, node.asof)
        return inode if inode is not None else await self._answer(self._vfs.inode, node)

    def _look_up(self, parent: Node, name: bytes) -> tuple[Node, EntryAttributes]:
        if name == b".":
            node = parent
        elif name == b".." and isinstance(parent, ObjectNode):
            node = self._vfs.parent(parent)
        else:
            node = self._vfs.lookup(parent, name)
        return node, self._nodes.attrs(node.number) or entry_attributes(self._vfs.getattr(node))

    async def _attrs_of(self, node: Node) -> EntryAttributes:
        attrs = self._nodes.attrs(node.number)
        if attrs is None:
            attrs = entry_attributes(await self._answer(self._vfs.getattr, node))
            self._nodes.keep_attrs(node.number, attrs)
        return attrs

    async def _page_at(self, opened: OpenDir, position: int) -> list[Entry]:
        """Entries from a position on; of a directory seen lately they are still there."""
        number = opened.node.number
        if not opened.entries and number in self._listed:
            self._listed.move_to_end(number)
            opened.entries, opened.is_whole = self._listed[number], True
        entries = opened.entries
        if opened.start <= position and (opened.is_whole or (entries and entries[-1].next > position)):
            return entries[bisect_right(entries, position, key=_next_of) :] if position else entries
        page = await self._answer(self._make_page, opened.node, position)
        at_end = len(page) < _PAGE
        if entries and entries[-1].next == position and len(entries) <= _LISTED // 2:
            opened.entries = entries + page
        else:
            opened.entries, opened.start = page, position
        opened.is_whole = at_end
        if at_end and not opened.start:
            self._keep_listing(number, opened.entries)
        return page

    def _make_page(self, node: Node, position: int) -> list[Entry]:
        page = [] if position > 1 else self._dots(node)[position:]
        for name, following, found in islice(self._vfs.list_dir(node, position), _PAGE - len(page)):
            attrs = self._nodes.attrs(found.number)
            try:
                attrs = attrs or entry_attributes(self._vfs.getattr(found))
            except HammerError:
                continue  # looking it up says what is wrong with it
            page.append(Entry(name, following, found, attrs))
        return page

    def _dots(self, node: Node) -> list[Entry]:
        parent = node
        if isinstance(node, ObjectNode) and node.obj_id != OBJID_ROOT:
            try:
                parent = self._vfs.parent(node)
            except HammerError:
                parent = node  # a lost parent must not hide what is below
        return [Entry(b".", 1, None, _number_only(node)), Entry(b"..", 2, None, _number_only(parent))]

    def _drop_listing(self, number: int) -> None:
        self._listed_entries -= len(self._listed.pop(number, ()))

    def _keep_listing(self, number: int, entries: list[Entry]) -> None:
        if number in self._listed:
            return
        self._listed[number] = entries
        self._listed_entries += len(entries)
        while self._listed_entries > _LISTED:
            _, dropped = self._listed.popitem(last=False)
            self._listed_entries -= len(dropped)


def _next_of(entry: Entry) -> int:
    return entry.next


def entry_attributes(found: Stat) -> EntryAttributes:
    """What the kernel is told of an object, to be kept for ever."""
    attrs = EntryAttributes()
    attrs.st_ino = InodeT(found.ino)
    attrs.st_mode = pyfuse3.ModeT(found.mode)
    attrs.st_nlink = found.nlink
    attrs.st_uid = found.uid
    attrs.st_gid = found.gid
    attrs.st_rdev = found.rdev
    attrs.st_size = found.size
    attrs.st_blocks = found.blocks
    attrs.st_blksize = found.blksize
    attrs.st_atime_ns = found.atime_ns
    attrs.st_mtime_ns = found.mtime_ns
    attrs.st_ctime_ns = found.ctime_ns
    attrs.entry_timeout = attrs.attr_timeout = FOR_EVER
    return attrs


def _number_only(node: Node) -> EntryAttributes:
    attrs = EntryAttributes()
    attrs.st_ino = InodeT(node.number)
    attrs.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o555)
    return attrs
