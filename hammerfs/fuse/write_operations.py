"""The pyfuse3 handlers of a mount that writes: those of a read-only one, and those that change something.

The kernel is told everything for ever: all changes go through this daemon. What stands in the virtual directories comes
into being without the kernel, so it gets a second.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, ModeT, RequestContext, SetattrFields

from hammerfs.asof import parse_component
from hammerfs.const import (
    MAX_TID,
    OBJTYPE_BDEV,
    OBJTYPE_CDEV,
    OBJTYPE_FIFO,
    OBJTYPE_REGFILE,
    OBJTYPE_SOCKET,
    SF_APPEND,
    UF_APPEND,
)
from hammerfs.errors import HammerError, NotFound, NotPermitted
from hammerfs.filewrite import SetAttr
from hammerfs.fuse.guard import guarded
from hammerfs.fuse.operations import NAMES_KEPT, Entry, OpenDir, Operations, entry_attributes
from hammerfs.fuse.service import Service
from hammerfs.fuse.stamps import Stamps
from hammerfs.inode import Inode
from hammerfs.namespace import Owner
from hammerfs.rw import WritableFS
from hammerfs.vfs.node import Node, ObjectNode
from hammerfs.vfs.vfs import Vfs
from hammerfs.vfs.xattrs import new_uflags

T = TypeVar("T")
_SOON = 1.0
"""Seconds the kernel may keep what can change without it."""
_OBJ_TYPES = {
    stat.S_IFREG: OBJTYPE_REGFILE,
    stat.S_IFIFO: OBJTYPE_FIFO,
    stat.S_IFSOCK: OBJTYPE_SOCKET,
    stat.S_IFCHR: OBJTYPE_CDEV,
    stat.S_IFBLK: OBJTYPE_BDEV,
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND
_TICK_US = 1_000_000
"""More than the kernel's clock takes to move on, and a write to come here on a busy host. If a time is older, it got
lost (its writer was killed), and that of our own is the better one."""
_APPEND_ONLY = UF_APPEND | SF_APPEND
_LAST_US = (1 << 64) - 1
_REPLY = 32
"""Entries of a directory that one reply may hold, about."""


@guarded
class WritableOperations(Operations):
    """A mount that reads and writes.

    Args:
        vfs: The file system as it is to look.
        service: Runs calls.
        fs: The same file system, to be changed.
        xattr: Whether there are extended attributes.
    """

    enable_writeback_cache = True

    def __init__(self, vfs: Vfs, service: Service, fs: WritableFS, *, xattr: bool = False) -> None:
        super().__init__(vfs, service, xattr=xattr)
        self._fs = fs
        self._unlinked: dict[int, Inode] = {}
        """Objects without a name that the kernel still knows, by number: they live until it forgets them."""
        self._stamps = Stamps()
        self._writers: Counter[int] = Counter()
        """How often each file is open for writing, by number: the kernel may hold data of these."""
        self._kernel_times: dict[int, tuple[int, int]] = {}
        """mtime and ctime as the kernel has them, of files written since: it tells no time that did not change."""
        self._untold: set[int] = set()
        """Numbers of what has been changed without the kernel."""

    # Names

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A name in a directory."""
        parent = self._nodes.get(parent_inode) or await self._node(parent_inode)
        kept = self._names.get((parent_inode, name))
        try:
            if kept is not None:
                node = kept[0]
                attrs = self._nodes.attrs(node.number) or entry_attributes(
                    await self._service.call(self._vfs.getattr, node)
                )
            else:
                node, attrs = await self._service.call(self._look_up, parent, name)
        except NotFound:
            missing = self.nothing()
            if _leads_into_pfs(name):
                missing.entry_timeout = 0
            elif b"@@" in name or not _is_live(parent):
                missing.entry_timeout = _SOON
            return missing
        except HammerError as err:
            raise self._refusal(err) from err
        if _leads_into_pfs(name):
            attrs.entry_timeout = 0  # under the same name there may be another PFS soon
        elif _is_live(parent) and _is_live(node):
            self._remember(parent_inode, name, node, attrs)
        elif not _is_past(node):
            attrs.entry_timeout = attrs.attr_timeout = _SOON
        self._nodes.looked_up(node, attrs)
        return attrs

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """The kernel gives references back; an object without a name goes with the last."""
        for number, count in inode_list:
            self._nodes.forget(number, count)
            if number in self._unlinked and self._nodes.get(number) is None:
                self._fs.release(self._unlinked.pop(number))

    async def mknod(
        self, parent_inode: InodeT, name: bytes, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """A file, fifo, socket or device."""
        obj_type = _OBJ_TYPES.get(stat.S_IFMT(mode) or stat.S_IFREG)
        if obj_type is None:
            raise FUSEError(errno.EINVAL)
        directory = await self._dir(parent_inode)
        device = os.major(rdev), os.minor(rdev)
        owner = _owner(directory, mode, ctx)
        return await self._made(parent_inode, name, self._fs.mknod, directory, name, obj_type, owner, device)

    async def mkdir(self, parent_inode: InodeT, name: bytes, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        """A directory; below one with the set-gid bit it has that bit too."""
        directory = await self._dir(parent_inode)
        mode = ModeT(mode | (directory.data.mode & stat.S_ISGID))
        return await self._made(parent_inode, name, self._fs.mkdir, directory, name, _owner(directory, mode, ctx))

    async def symlink(self, parent_inode: InodeT, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """A symbolic link."""
        directory = await self._dir(parent_inode)
        owner = _owner(directory, ModeT(0o777), ctx)
        return await self._made(parent_inode, name, self._fs.symlink, directory, name, target, owner)

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """One more name."""
        node = await self._live_node(inode)
        directory = await self._dir(new_parent_inode)
        await self._change(self._fs.link, await self._inode(node), directory, new_name)
        self._unlinked_again(inode)
        self._touched(new_parent_inode, inode)
        self._listing_changed(new_parent_inode)
        attrs = await self._attrs_of(node)
        self._remember(new_parent_inode, new_name, node, attrs)
        self._nodes.looked_up(node, attrs)
        return attrs

    async def unlink(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        """Remove a name of anything but a directory."""
        self._gone(parent_inode, name, await self._change(self._fs.unlink, await self._dir(parent_inode), name))

    async def rmdir(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty directory."""
        self._gone(parent_inode, name, await self._change(self._fs.rmdir, await self._dir(parent_inode), name))

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: bytes,
        parent_inode_new: InodeT,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Another name; with flags only if it is free, or in exchange."""
        if flags & ~(pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE):
            raise FUSEError(errno.EINVAL)
        old, new = await self._dir(parent_inode_old), await self._dir(parent_inode_new)
        if flags & pyfuse3.RENAME_EXCHANGE:
            await self._change(self._fs.exchange, old, name_old, new, name_new)
            replaced = None
        else:
            noreplace = bool(flags & pyfuse3.RENAME_NOREPLACE)
            replaced = await self._change(self._rename, old, name_old, new, name_new, noreplace)
        if replaced is not None:
            self._gone(parent_inode_new, name_new, replaced)
        moved = [(parent_inode_new, name_new, self._names.pop((parent_inode_old, name_old), None))]
        before = self._names.pop((parent_inode_new, name_new), None)
        if flags & pyfuse3.RENAME_EXCHANGE:
            moved.append((parent_inode_old, name_old, before))
        for parent in {parent_inode_old, parent_inode_new}:
            self._touched(parent)
            self._listing_changed(parent)
        for parent, name, kept in moved:
            node = kept[0] if kept is not None else await self._moved(parent, name)
            if node is not None:
                self._touched(node.number)
            if kept is not None:
                self._remember(parent, name, *kept)

    # Attributes

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Change what stat shows."""
        node = await self._live_node(inode)
        found = await self._inode(node)
        # With a size that changes the kernel sends the time; else it has it as it was
        resized = fields.update_size and (fields.update_mtime or attr.st_size != found.size)
        new = SetAttr(
            stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            None,
            attr.st_size if resized else None,
            _microseconds(attr.st_atime_ns) if fields.update_atime else None,
            _microseconds(attr.st_mtime_ns) if fields.update_mtime else None,
            _microseconds(attr.st_ctime_ns) if fields.update_ctime else None,
        )
        await self._change(self._fs.setattr, found, new)
        if fields.update_mtime:
            self._kernel_times.pop(inode, None)
        self._touched(inode)
        return await self._attrs_of(node)

    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Change the flags, by their names."""
        if not self._has_xattrs:
            raise FUSEError(errno.ENOSYS)
        found = await self._inode(await self._live_node(inode))
        try:
            uflags = new_uflags(found, name, value, ctx.uid)
        except HammerError as err:
            raise self._refusal(err) from err
        await self._change(self._fs.setattr, found, SetAttr(uflags=uflags))
        self._touched(inode)

    async def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        """What HAMMER knows of an object is not removed."""
        raise FUSEError(errno.EOPNOTSUPP if self._has_xattrs else errno.ENOSYS)

    # Files

    async def create(
        self, parent_inode: InodeT, name: bytes, mode: ModeT, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """A new file, open."""
        directory = await self._dir(parent_inode)
        attrs = await self._made(parent_inode, name, self._fs.create, directory, name, _owner(directory, mode, ctx))
        node = self._nodes.get(attrs.st_ino)
        assert isinstance(node, ObjectNode)
        self._fs.hold(await self._inode(node))
        self._writers[attrs.st_ino] += 1
        return FileInfo(fh=FileHandleT(attrs.st_ino), keep_cache=True), attrs

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        """Open a file; what the kernel has cached of it stays right."""
        node = await self._node(inode)
        if not _is_live(node):
            if flags & _WRITING:
                raise FUSEError(errno.EROFS)
            return FileInfo(fh=FileHandleT(inode), keep_cache=True)
        found = await self._inode(node)
        if flags & (os.O_ACCMODE | os.O_TRUNC):  # now: what is written later only the kernel's cache would hear of
            appending = bool(flags & os.O_APPEND) and not flags & os.O_TRUNC
            await self._answer(self._check_writable, found, appending)
        if flags & os.O_TRUNC:
            self._kernel_times.setdefault(inode, (found.data.mtime, found.data.ctime))
            await self._change(self._fs.truncate, found, 0)
            self._touched(inode)
        self._fs.hold(found)
        self._writers[inode] += 1
        return FileInfo(fh=FileHandleT(inode), keep_cache=True)

    async def release(self, fh: FileHandleT) -> None:
        """The last close of a handle."""
        node = self._nodes.get(InodeT(fh))
        if node is not None and _is_live(node):
            inode = await self._inode(node)
            try:
                if fh in self._kernel_times:
                    await self._take_times(fh, inode)
            finally:
                self._fs.release(inode)
                self._writers[fh] -= 1
                if not self._writers[fh]:
                    del self._writers[fh]

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Write to a file."""
        node = await self._live_node(InodeT(fh))
        inode = await self._inode(node)
        if fh not in self._kernel_times:
            self._kernel_times[fh] = inode.data.mtime, inode.data.ctime
        if inode.data.uflags & _APPEND_ONLY and off < inode.size:
            return await self._append(inode, off, buf)
        count = await self._change(self._fs.write, inode, off, buf)
        self._nodes.forget_attrs(fh)
        return count

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Make a file durable."""
        await self._sync(InodeT(fh))

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Make a directory durable."""
        await self._sync(InodeT(self._dirs[fh].node.number))

    async def write_back(self) -> None:
        """Have the kernel hand over what it holds unwritten of files that are open."""
        for number in list(self._writers):
            await trio.to_thread.run_sync(_invalidate, number)

    def changed(self, inode: Inode) -> None:
        """An object has been changed without the kernel: `tell_changes` will say so."""
        self._nodes.forget_all_attrs()
        self._untold.update(self._nodes.numbers_of(inode.pfs_id, inode.obj_id))

    async def tell_changes(self) -> None:
        """Have the kernel ask for the attributes of what has been changed without it."""
        while self._untold:
            await trio.to_thread.run_sync(_invalidate, self._untold.pop(), True)

    # Inside

    async def _change(self, fn: Callable[..., T], *args: Any) -> T:
        """Run a call that changes something, unless far too much waits for a flush already."""
        try:
            if self._fs.changes.is_overfull:
                await self._service.run(self._fs.flusher.throttle())
            return await self._service.call(fn, *args)
        except HammerError as err:
            raise self._refusal(err) from err

    def _check_writable(self, inode: Inode, appending: bool) -> None:
        self._fs.changes.check_writable(inode, appending=appending)

    async def _append(self, inode: Inode, off: int, buf: bytes) -> int:
        """The kernel writes whole pages: what it repeats of a file that is only added to must be what is there."""
        there = inode.size - off
        try:
            if await self._service.read(inode, off, min(there, len(buf))) != buf[:there]:
                raise NotPermitted("append-only", **inode.place)
        except HammerError as err:
            raise self._refusal(err) from err
        if len(buf) > there:
            await self._change(self._fs.write, inode, inode.size, buf[there:])
        return len(buf)

    async def _take_times(self, number: int, inode: Inode) -> None:
        """Data came, but no time after it: if that was within one tick of the kernel's clock, its times stand."""
        mtime, ctime = self._kernel_times.pop(number)
        if inode.data.mtime - mtime < _TICK_US:
            await self._change(self._fs.setattr, inode, SetAttr(mtime_us=mtime, ctime_us=ctime))
            self._touched(number)

    def _rename(self, old: Inode, old_name: bytes, new: Inode, new_name: bytes, noreplace: bool) -> Inode | None:
        return self._fs.rename(old, old_name, new, new_name, noreplace=noreplace)

    async def _made(self, parent: InodeT, name: bytes, fn: Callable[..., Inode], *args: Any) -> EntryAttributes:
        """Make an object and tell the kernel of it."""
        inode = await self._change(fn, *args)
        directory = self._nodes.get(parent)
        assert isinstance(directory, ObjectNode)
        node = self._vfs.child(directory, inode)
        attrs = entry_attributes(await self._answer(self._vfs.getattr, node))
        self._touched(parent)
        self._listing_changed(parent)
        self._remember(parent, name, node, attrs)
        self._nodes.looked_up(node, attrs)
        return attrs

    def _gone(self, parent: InodeT, name: bytes, inode: Inode) -> None:
        """A name of an object has been removed."""
        kept = self._names.pop((parent, name), None)
        directory = self._nodes.get(parent)
        assert isinstance(directory, ObjectNode)
        number = kept[0].number if kept is not None else self._vfs.child(directory, inode).number
        self._touched(parent, number)
        self._listing_changed(parent)
        if not inode.data.nlinks and number not in self._unlinked and self._nodes.get(number) is not None:
            self._fs.hold(inode)
            self._unlinked[number] = inode

    async def _moved(self, parent: InodeT, name: bytes) -> Node | None:
        """What a name leads to after a rename."""
        try:
            return await self._service.call(self._vfs.lookup, await self._node(parent), name)
        except NotFound:
            return None
        except HammerError as err:
            raise self._refusal(err) from err

    def _unlinked_again(self, number: int) -> None:
        if number in self._unlinked:
            self._fs.release(self._unlinked.pop(number))

    def _remember(self, parent: int, name: bytes, node: Node, attrs: EntryAttributes) -> None:
        if len(self._names) >= NAMES_KEPT:
            self._names.clear()
        self._names[parent, name] = node, attrs

    def _touched(self, *numbers: int) -> None:
        """Attributes of these have changed."""
        for number in numbers:
            self._nodes.forget_attrs(number)

    async def _sync(self, number: InodeT) -> None:
        node = await self._node(number)
        if _is_live(node):
            try:
                await self._service.run(self._fs.flusher.fsync(await self._inode(node)))
            except HammerError as err:
                raise self._refusal(err) from err

    async def _dir(self, number: InodeT) -> Inode:
        """Inode of a directory that something is changed in."""
        return await self._inode(await self._live_node(number))

    async def _live_node(self, number: InodeT) -> ObjectNode:
        """A node that can be changed."""
        node = await self._node(number)
        if not isinstance(node, ObjectNode) or node.asof != MAX_TID:
            raise FUSEError(errno.EROFS)
        return node

    async def _page_at(self, opened: OpenDir, position: int) -> list[Entry]:
        """As for a read-only mount; of a directory that has changed the entries are made ready anew."""
        node = opened.node
        if _is_past(node):
            return await super()._page_at(opened, position)
        if not _is_live(node):
            return await self._answer(self._make_page, node, position)
        while True:
            stamp = self._stamps.of(node.number)
            if opened.stamp != stamp:
                opened.forget(stamp)
            page = await super()._page_at(opened, position)
            page = await self._answer(self._with_attrs, page[:_REPLY])
            if stamp == self._stamps.of(node.number):
                return page
            self._drop_listing(node.number)  # it was made while names came or went

    def _with_attrs(self, page: list[Entry]) -> list[Entry]:
        """Entries with their attributes of now: those of the listing may be of its time."""
        fresh = []
        for entry in page:
            node = entry.node
            if node is not None:
                attrs = self._nodes.attrs(node.number)
                if attrs is None:
                    attrs = entry_attributes(self._vfs.getattr(node))
                    self._nodes.keep_attrs(node.number, attrs)
                if attrs is not entry.attrs:
                    entry = entry._replace(attrs=attrs)
            fresh.append(entry)
        return fresh

    def _listing_changed(self, number: int) -> None:
        """Names in a directory came or went: listings made before must not reach the kernel any more."""
        self._drop_listing(number)
        self._stamps.changed(number)


def _leads_into_pfs(name: bytes) -> bool:
    """Whether a name is what the softlink to a PFS expands to."""
    return name.startswith(b"@@") and parse_component(name).pfs_id is not None


def _invalidate(number: int, attr_only: bool = False) -> None:
    """Have the kernel forget attributes, and pages: unwritten ones it writes first. Blocks until we have them."""
    try:
        pyfuse3.invalidate_inode(InodeT(number), attr_only)
    except OSError as err:
        if err.errno != errno.ENOENT:  # the kernel has forgotten the file meanwhile: it holds nothing of it
            raise


def _is_live(node: Node) -> bool:
    """An object as it is now: it changes only by our own doing."""
    return isinstance(node, ObjectNode) and node.asof == MAX_TID


def _is_past(node: Node) -> bool:
    """An object at a point in time: it never changes."""
    return isinstance(node, ObjectNode) and node.asof != MAX_TID


def _owner(directory: Inode, mode: int, ctx: RequestContext) -> Owner:
    """Owner of something new: who asks; below a set-gid directory its group is the directory's."""
    gid = None if directory.data.mode & stat.S_ISGID else ctx.gid
    return Owner(ctx.uid, gid, stat.S_IMODE(mode))


def _microseconds(ns: int) -> int:
    """Times before 1970 can't be stored: they become its first moment."""
    return min(max(ns // 1000, 0), _LAST_US)
