"""WritableFS: a file system opened for writing, and the calls that change it, in plain values.

Every call looks first and changes then: one that raises has changed nothing, and with a cache that is not inline it may
raise `BufferMiss` and is run again. Changes are in memory until a flush: `sync`, `fsync`, the age or amount of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from hammerfs.addr import localize
from hammerfs.alloc import Allocator
from hammerfs.backend import Backend
from hammerfs.btree.iterate import scan
from hammerfs.btree.modify import TreeWriter
from hammerfs.cache import DEFAULT_CACHE_BYTES
from hammerfs.changes import SLOP_WRITE, Changes, WriteOptions
from hammerfs.commit import Commit
from hammerfs.const import BIGBLOCK_SIZE, BUFSIZE, LOCALIZE_INODE, RECTYPE_INODE
from hammerfs.device.base import Device
from hammerfs.device.open import open_devices
from hammerfs.disk_threads import Submit, submit_inline
from hammerfs.errors import CorruptError, UsageError
from hammerfs.filewrite import FileWriter, SetAttr
from hammerfs.flusher import Flusher
from hammerfs.fs import HammerFS, Spec, Statfs
from hammerfs.inode import DIRTY_ALL, DIRTY_CONTENTS, Inode
from hammerfs.keys import MAX_INT64, MIN_INT64
from hammerfs.namespace import Namespace, Owner
from hammerfs.ondisk.node import LeafElm
from hammerfs.ondisk.records import InodeData
from hammerfs.recover_media import recover_media, redo_from
from hammerfs.spans import Spans, write_tables
from hammerfs.transaction import TidCounter
from hammerfs.undo_writer import UndoWriter
from hammerfs.volume import Volume
from kernelcore.host.domain import Domain
from kernelcore.host.up import UpHost

T = TypeVar("T")
log = logging.getLogger("hammerfs")
DEFAULT_OWNER = Owner()


class WritableFS(HammerFS):
    """An open file system, for reading and writing.

    Args:
        devices: One for each volume, writable; the file system closes them.
        options: How to write.
        cache_bytes: Most memory for cached buffers and nodes.
        host: The kernel that runs the flusher's threads; without one the calls run them themselves.
        submit: Makes calls that wait for the media; with `host` only.
        redo: Whether fsynced writes of an image that was not closed cleanly come back.

    Raises:
        HammerError: As `HammerFS`; ReadOnlyError when a device is.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        options: WriteOptions | None = None,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        host: Domain | None = None,
        submit: Submit = submit_inline,
        redo: bool = True,
    ) -> None:
        self.options = options or WriteOptions()
        self._redone: list[Inode] = []
        self._up = UpHost(name="hammer") if host is None else None
        super().__init__(devices, recover="full" if redo else "undo", cache_bytes=cache_bytes)
        volumes = self.volumes
        assert self.recovery is not None
        self.undo = UndoWriter.from_scan(volumes, self.recovery)
        self.tids = TidCounter(volumes.superblock.vol0_next_tid, self.options.master_id)
        self.alloc = Allocator(volumes, self.cache, self.freemap, self.undo)
        self.changes = Changes(self.records, self.inodes, self.pfs, self.alloc, self.tids, self.options, self.undo.size)
        self.namespace = Namespace(self.changes)
        self.files = FileWriter(self.changes)
        tree = TreeWriter(volumes, self.tree, self.alloc, self.undo)
        self.backend = Backend(self.changes, self.files, tree, self.undo)
        commit = Commit(volumes, self.cache, self.alloc, self.undo, self.tids)
        self.spans = Spans(volumes, self.freemap, self.alloc, self.undo)
        self.flusher = Flusher(volumes, self.changes, self.backend, commit, self.undo, self.tids, submit)
        self._flushed_us = self.options.clock()
        self._is_open = True
        if self._up is not None:
            self._up.call(self.start())

    @classmethod
    def open_rw(
        cls,
        volumes: Spec | Sequence[Spec],
        options: WriteOptions | None = None,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        warn: Callable[[str], None] | None = None,
    ) -> WritableFS:
        """Open volumes by name for writing: a colon list or several names, in any order.

        Raises:
            BusyError: Somebody else writes to a volume.
            HammerError: As the constructor, and what opening files raises.
        """
        devices = open_devices(volumes, readonly=False, warn=warn)
        try:
            return cls(devices, options, cache_bytes=cache_bytes)
        except BaseException:
            for dev in devices:
                dev.close()
            raise

    # Life

    async def start(self) -> None:
        """Create the flusher's threads and finish recovery. A kernel coroutine; without a host of its own it has run.

        Raises:
            HammerError: Recovery could not be finished.
        """
        await self.flusher.start()
        if self.recovery is not None and self.recovery.is_dirty:
            with self.cache.section():
                self._take_redone()
                self._find_orphans()
        if self.recovery is None or self.recovery.is_dirty or self.volumes.notes:
            await self.flusher.recover(self._operations)  # it also writes a header that was torn, whole
        with self.cache.section():
            bare = self.spans.bare()
        for volume in bare:  # one was being added or removed
            await self.give_space(volume)

    async def give_space(self, volume: Volume) -> None:
        """A bare volume of the set (see `spans`) on which nothing is in use gets its space. A kernel coroutine.

        Raises:
            HammerError: The freemap is damaged, or the media failed.
        """
        tables = volume.dev, volume.vol_no, volume.buf_beg, volume.bigblocks, self.volumes.rule
        await self.flusher.disks.submit(write_tables, *tables)
        self.cache.forget_volume(volume)
        await self.flusher.transact(lambda _tid: self.spans.attach(volume))

    async def finish(self) -> None:
        """Flush everything and end the flusher's threads. A kernel coroutine.

        Raises:
            HammerError: Not everything could be flushed.
        """
        try:
            if self.changes.failed is None:
                await self.flusher.settle()
        finally:
            await self.flusher.stop()

    def close(self) -> None:
        """Flush everything (unless a failure forbids it) and close the volumes. A second call does nothing.

        Raises:
            HammerError: Not everything could be flushed; the volumes are closed all the same.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            if self._up is not None:
                self._up.call(self.finish())
        finally:
            super().close()

    # Names

    def create(self, directory: Inode, name: bytes, owner: Owner = DEFAULT_OWNER) -> Inode:
        """A new regular file; see `Namespace.create`."""
        return self._after(self.namespace.create(directory, name, owner))

    def mknod(
        self,
        directory: Inode,
        name: bytes,
        obj_type: int,
        owner: Owner = DEFAULT_OWNER,
        rdev: tuple[int, int] = (0, 0),
    ) -> Inode:
        """A new file, fifo, socket or device; see `Namespace.mknod`."""
        return self._after(self.namespace.mknod(directory, name, obj_type, owner, rdev))

    def mkdir(self, directory: Inode, name: bytes, owner: Owner = DEFAULT_OWNER) -> Inode:
        """A new directory; see `Namespace.mkdir`."""
        return self._after(self.namespace.mkdir(directory, name, owner))

    def symlink(self, directory: Inode, name: bytes, target: bytes, owner: Owner = DEFAULT_OWNER) -> Inode:
        """A new symbolic link; see `Namespace.symlink`."""
        return self._after(self.namespace.symlink(directory, name, target, owner))

    def link(self, inode: Inode, directory: Inode, name: bytes) -> None:
        """One more name; see `Namespace.link`."""
        self.namespace.link(inode, directory, name)
        self._after(inode)

    def unlink(self, directory: Inode, name: bytes) -> Inode:
        """Remove a name; see `Namespace.unlink`."""
        inode = self.namespace.unlink(directory, name)
        self._bury(inode)
        return self._after(inode)

    def rmdir(self, directory: Inode, name: bytes) -> Inode:
        """Remove an empty directory; see `Namespace.rmdir`."""
        return self._after(self.namespace.rmdir(directory, name))

    def rename(
        self, old_dir: Inode, old_name: bytes, new_dir: Inode, new_name: bytes, *, noreplace: bool = False
    ) -> Inode | None:
        """Give an object another name; see `Namespace.rename`."""
        replaced = self.namespace.rename(old_dir, old_name, new_dir, new_name, noreplace=noreplace)
        if replaced is not None:
            self._bury(replaced)
        self._after(old_dir)
        return replaced

    def exchange(self, old_dir: Inode, old_name: bytes, new_dir: Inode, new_name: bytes) -> None:
        """Let two objects change names; see `Namespace.exchange`."""
        self.namespace.exchange(old_dir, old_name, new_dir, new_name)
        self._after(old_dir)

    # Contents and attributes

    def write(self, inode: Inode, offset: int, data: bytes | memoryview) -> int:
        """Write bytes at an offset; see `FileWriter.write`."""
        count = self.files.write(inode, offset, data)
        self._after(inode)
        return count

    def truncate(self, inode: Inode, size: int) -> None:
        """Set the size of a file; see `FileWriter.truncate`."""
        self.files.truncate(inode, size)
        self._after(inode)

    def setattr(self, inode: Inode, new: SetAttr) -> None:
        """Change attributes; see `FileWriter.setattr`."""
        self.files.setattr(inode, new)
        self._after(inode)

    def hold(self, inode: Inode) -> None:
        """Somebody opens an object: it lives until `release`, with or without a name."""
        inode.opens += 1

    def release(self, inode: Inode) -> None:
        """Somebody closes an object; one without a name goes with the last."""
        inode.opens -= 1
        if inode.is_dead:
            self._bury(inode)
            self.changes.touch(inode, DIRTY_ALL)
            self._after(inode)

    def statfs(self) -> Statfs:
        """Space and number of inodes; what is kept for metadata and what is in memory counts as used."""
        found, changes = super().statfs(), self.changes
        kept = changes.slop_bigblocks(SLOP_WRITE) + self.alloc.delayed_bigblocks + self.alloc.closed_bigblocks
        taken = kept * (BIGBLOCK_SIZE // BUFSIZE) + changes.reserved_bytes // BUFSIZE
        return found._replace(bfree=max(0, found.bfree - taken))

    # Durability

    @property
    def newest_tid(self) -> int:
        """TID of the newest flush that is on the media."""
        return self.flusher.flush_tid

    def sync(self) -> int:
        """Bring everything to the media, durably; returns the TID as of which all of it is visible.

        Raises:
            HammerError: As `Flusher.flush`.
        """
        tid = self._call(self.flusher.settle())
        self._flushed_us = self.options.clock()
        return tid

    def fsync(self, inode: Inode) -> None:
        """Bring an object to the media; see `Flusher.fsync`."""
        self._call(self.flusher.fsync(inode))

    # Inside

    @property
    def host(self) -> UpHost:
        """Runs kernel coroutines for the caller.

        Raises:
            UsageError: Another host runs the flusher's threads.
        """
        if self._up is None:
            raise UsageError("this file system has a host of its own")
        return self._up

    def _call(self, body: Coroutine[Any, Any, T]) -> T:
        if self._up is None:
            body.close()
        return self.host.call(body)

    def _after(self, inode: Inode) -> Inode:
        """After a change: flush when there is enough, or the oldest of it is old enough."""
        changes = self.changes
        if self._up is None:
            if changes.is_full:
                self.flusher.kick()
            return inode
        aged = self.options.clock() - self._flushed_us > self.options.commit_seconds * 1_000_000
        if (aged or changes.is_full) and changes.failed is None:
            self._up.call(self.flusher.flush())
            self._flushed_us = self.options.clock()
        return inode

    def _bury(self, inode: Inode) -> None:
        """New contents of an object that nobody will see again take no space from now on."""
        if inode.is_dead:
            self.files.discard(inode)

    def _undo(self) -> None:
        """Stage 1 of recovery, on the media."""
        self.recovery = recover_media(self.volumes)

    def _redo(self) -> list[Inode]:
        self._redone = super()._redo()
        return self._redone

    def _redo_from(self) -> int | None:
        scan = self.recovery
        return redo_from(self.volumes, scan) if scan is not None and scan.is_dirty else None

    def _take_redone(self) -> None:
        """What REDO brought back goes with the first flush."""
        for inode in self._redone:
            dirty = inode.dirty
            assert dirty is not None
            inode.data.size = dirty.size
            inode.data.mtime = inode.data.ctime = self.options.clock()
            shrunk = dirty.media_limit < dirty.media_size
            self.changes.touch(inode, DIRTY_ALL if shrunk else DIRTY_CONTENTS)
            self.changes.data_bytes += dirty.memory_bytes
        self._redone = []

    def _find_orphans(self) -> None:
        """Objects without a name that were open when the power went: they go with the first flush."""
        for pfs_id, data in self.pfs_list():
            if data.is_slave:
                continue
            lo = localize(pfs_id, LOCALIZE_INODE)
            for elm in scan(self.tree, (lo, MIN_INT64, 0, MIN_INT64, 0), (lo, MAX_INT64, 0, 0, 0)):
                if elm.rec_type == RECTYPE_INODE and not elm.delete_tid:
                    self.reap(pfs_id, elm)

    def reap(self, pfs_id: int, elm: LeafElm) -> None:
        """Have the next flush remove an object if nothing leads to it any more: no name, and nobody has it open.

        Args:
            pfs_id: Its PFS.
            elm: Its live inode record.
        """
        try:
            data = InodeData.decode(self.records.payload(elm))
        except CorruptError as err:
            log.warning("%s", err)  # a damaged inode must not keep the others from being mounted
            return
        if not data.nlinks:
            inode = self.inodes.get_dead_or_alive(pfs_id, elm.obj_id)
            if inode.is_dead:
                self.backend.orphans.add((pfs_id, elm.obj_id))
                self.changes.touch(inode, DIRTY_ALL)
