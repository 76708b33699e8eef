"""HammerFS: a file system opened from its volumes, and the calls on it in plain values.

Knows neither FUSE nor a command line. Every call that reads may raise `BufferMiss` when the cache is not inline; it
has changed nothing then but caches, and is run again when the buffers are there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self

from hammerfs import config, data, dirent, history, snapshot
from hammerfs.blockmap import BlockMap
from hammerfs.btree.search import BTree
from hammerfs.cache import DEFAULT_CACHE_BYTES, BufferCache
from hammerfs.const import BIGBLOCK_SIZE, BUFSIZE, MAX_TID, VERSION_SNAPSHOT
from hammerfs.device.base import Device
from hammerfs.device.open import open_devices
from hammerfs.device.overlay import OverlayDevice
from hammerfs.dirent import Dirent
from hammerfs.errors import LoopError, NameTooLong, NotADirectory, NotFound
from hammerfs.freemap import Freemap
from hammerfs.history import Moment
from hammerfs.inode import Attr, Inode, Inodes, need_file
from hammerfs.namei import Namei
from hammerfs.ondisk.fifo import RedoRecord
from hammerfs.ondisk.records import PfsData
from hammerfs.pfs import PfsTable, readlink
from hammerfs.record import Records
from hammerfs.recover import RecoveryScan, UndoSummary, apply_undo, scan_fifo
from hammerfs.redo import operations
from hammerfs.redo_replay import replay
from hammerfs.snapshot import Snapshot
from hammerfs.symlink import linked_tid, softlink_pfs, stored_target
from hammerfs.undo import UndoFifo
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes

Recover = Literal["full", "undo", "raw"]
"""``full``: UNDO and REDO in memory; ``undo``: UNDO only, as DragonFly's read-only mount; ``raw``: the media as is."""
Spec = str | os.PathLike[str]
_UNDO_GRANULE = 4096


class Statfs(NamedTuple):
    """Space of the file system in blocks of `bsize` bytes."""

    bsize: int
    blocks: int
    bfree: int
    files: int
    """Live inodes."""


class HammerFS:
    """An open file system, for reading.

    Args:
        devices: One for each volume; the file system closes them.
        recover: What to do about an image that was not closed cleanly.
        cache_bytes: Most memory for cached buffers and nodes.
        inline: Whether calls read what is not cached themselves (else they raise BufferMiss).
        asof: Point in time of the whole view.

    Raises:
        VolumeSetError: The devices are no complete volume set.
        CorruptError: A volume header, or what recovery needs, is damaged.
        DeviceError: A device failed.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        recover: Recover = "full",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        inline: bool = True,
        asof: int = MAX_TID,
    ) -> None:
        self.volumes = Volumes(devices)
        self.asof = asof
        self.recovery: RecoveryScan | None = None
        """Active range of the FIFO, when it was looked for."""
        self.undone: UndoSummary | None = None
        """What was rolled back, if anything."""
        if recover != "raw":
            self._undo()
        self.cache = BufferCache(self.volumes, cache_bytes)
        self.freemap = Freemap(self.volumes, self.cache)
        self.blockmap = BlockMap(self.volumes, self.freemap)
        self.tree = BTree(self.volumes, self.cache)
        self.records = Records(self.volumes, self.cache, self.tree)
        self.inodes = Inodes(self.records)
        self.pfs = PfsTable(self.records)
        self.namei = Namei(self.records, self.inodes, self.pfs, asof)
        if recover == "full":
            self._redo()
        self.cache.inline = inline

    @classmethod
    def open(
        cls,
        volumes: Spec | Sequence[Spec],
        *,
        recover: Recover = "full",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        inline: bool = True,
        asof: int = MAX_TID,
        warn: Callable[[str], None] | None = None,
    ) -> HammerFS:
        """Open volumes by name: a colon list or several names, in any order; they are not written to.

        Args:
            volumes: The names.
            recover: As for the constructor.
            cache_bytes: As for the constructor.
            inline: As for the constructor.
            asof: As for the constructor.
            warn: Told about a volume that somebody else writes to.

        Raises:
            HammerError: As the constructor, and what opening files raises.
        """
        devices = open_devices(volumes, readonly=True, warn=warn)
        try:
            return cls(devices, recover=recover, cache_bytes=cache_bytes, inline=inline, asof=asof)
        except BaseException:
            for dev in devices:
                dev.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the volumes. A second call does nothing."""
        self.volumes.close()

    # Finding objects

    def root(self, pfs_id: int = 0, asof: int | None = None) -> Inode:
        """Root directory of a PFS; see `Namei.root`."""
        return self.namei.root(pfs_id, asof)

    def iget(self, pfs_id: int, obj_id: int, asof: int = MAX_TID) -> Inode:
        """An object by its identity; see `Inodes.get`."""
        return self.inodes.get(pfs_id, obj_id, asof)

    def lookup(self, directory: Inode, name: bytes) -> Inode:
        """A name in a directory, ``..`` and ``@@`` forms included; see `Namei.step`."""
        return self.namei.step(directory, name)

    def resolve(self, path: bytes, start: Inode | None = None, *, follow: bool = True) -> Inode:
        """A path; see `Namei.resolve`."""
        return self.namei.resolve(path, start, follow=follow)

    # Reading objects

    def getattr(self, inode: Inode) -> Attr:
        """What stat shows."""
        return inode.attr()

    def data_bytes(self, inode: Inode) -> int:
        """Bytes that the data records of a file hold; st_blocks is this divided by 512."""
        return data.data_bytes(self.records, inode) if inode.is_file else 0

    def data_ranges(self, inode: Inode) -> Iterator[tuple[int, int]]:
        """Ranges of a file that are no holes; see `data.data_ranges`."""
        return data.data_ranges(self.records, inode)

    def readdir(self, directory: Inode, after: int = 0) -> Iterator[Dirent]:
        """Entries of a directory in key order, without ``.`` and ``..``; see `dirent.read_dir`."""
        return dirent.read_dir(self.records, directory, after)

    def readlink(self, inode: Inode) -> bytes:
        """Target of a symbolic link; see `symlink.stored_target` and `PfsTable.expand`."""
        return readlink(self.records, self.pfs, inode)

    def plan_read(self, inode: Inode, offset: int, target: memoryview) -> data.ReadPlan:
        """First part of a read; see `data.plan_read`."""
        return data.plan_read(self.records, inode, offset, target)

    def readinto(self, inode: Inode, offset: int, target: memoryview) -> int:
        """Read file contents into memory of the caller, straight from the volumes.

        Returns:
            Bytes read; fewer than asked for only at the end of the file.

        Raises:
            CrcError: The data is damaged.
            CorruptError: The tree is damaged.
            IsADirectory: Not a file.
            BufferMiss: As `BufferCache.bread`.
            DeviceError: A volume failed.
        """
        plan = data.plan_read(self.records, inode, offset, target)
        plan.run()
        return plan.finish()

    def read(self, inode: Inode, offset: int, nbytes: int) -> bytes:
        """As `readinto`, into new memory."""
        need_file(inode)
        buf = bytearray(max(0, min(nbytes, inode.size - offset)))
        with memoryview(buf) as view:
            self.readinto(inode, offset, view)
        return bytes(buf)

    # The file system as a whole

    @property
    def newest_tid(self) -> int:
        """TID of the newest state on the media."""
        return self.volumes.superblock.vol0_next_tid

    def statfs(self) -> Statfs:
        """Space and number of inodes."""
        head = self.volumes.superblock
        per_block = BIGBLOCK_SIZE // BUFSIZE
        free = max(0, head.vol0_stat_freebigblocks)
        return Statfs(
            BUFSIZE, max(0, head.vol0_stat_bigblocks) * per_block, free * per_block, max(0, head.vol0_stat_inodes)
        )

    def pfs_list(self) -> list[tuple[int, PfsData]]:
        """All PFSs by id; see `PfsTable.all`."""
        return self.pfs.all()

    def snapshots(self, pfs_id: int = 0) -> list[Snapshot]:
        """Snapshots of a PFS by TID: its records; below version 3 the softlinks in its directory of snapshots."""
        if self.volumes.version >= VERSION_SNAPSHOT:
            return snapshot.snapshots(self.records, pfs_id)
        folder = self._link_folder(pfs_id)
        return [] if folder is None else self.linked_snapshots(folder, pfs_id)

    def linked_snapshots(self, folder: Inode, pfs_id: int) -> list[Snapshot]:
        """Snapshots of a PFS that softlinks in a directory lead to, by TID; a link's name is the label.

        Raises:
            NotADirectory: It is none.
            CorruptError: It is damaged, or what is in it.
            BufferMiss: As `BufferCache.bread`.
        """
        found, led_to = [], {}
        for entry in self.readdir(folder):
            inode = self.iget(entry.pfs_id, entry.obj_id, folder.asof)
            target = self.readlink(inode) if inode.is_symlink else b""
            tid = linked_tid(target, pfs_id)
            if tid is None:
                continue
            base = target.rpartition(b"@@")[0]
            if base not in led_to:
                led_to[base] = self._pfs_led_to(base)
            if led_to[base] in {None, pfs_id}:
                found.append(Snapshot(tid, inode.data.ctime, entry.name))
        return sorted(found)

    def _link_folder(self, pfs_id: int) -> Inode | None:
        """The directory of a PFS's snapshots below version 3: the one its record names, or ``snapshots`` in it."""
        named = self.pfs.get(pfs_id).snapshots_path
        try:
            root = self.root(pfs_id)
        except NotFound:
            return None
        found = self._below_mount(named or b"snapshots", root)
        return found if found is not None and found.is_dir else None

    def _pfs_led_to(self, base: bytes) -> int | None:
        """The PFS whose softlink a path on the host ends in; None when that can't be told."""
        inode = self._below_mount(base, self.root(), follow=False)
        return softlink_pfs(stored_target(self.records, inode)) if inode is not None and inode.is_symlink else None

    def _below_mount(self, path: bytes, root: Inode, *, follow: bool = True) -> Inode | None:
        """What a path on the host leads to, wherever it is mounted: the longest end of it that is there."""
        parts = [part for part in path.split(b"/") if part not in {b"", b".", b".."}]
        for first in range(len(parts)):
            try:
                return self.resolve(b"/".join(parts[first:]), root, follow=follow)
            except (NotFound, NotADirectory, LoopError, NameTooLong):
                continue
        return None

    def config(self, pfs_id: int = 0) -> bytes | None:
        """Configuration text of a PFS."""
        return config.config_text(self.records, pfs_id)

    def history(self, inode: Inode) -> list[Moment]:
        """TIDs at which a file, or the entries of a directory, changed; ascending."""
        moments = history.file_history(self.records, inode.pfs_id, inode.obj_id)
        if inode.is_dir:
            moments = sorted({*moments, *history.dir_history(self.records, inode)})
        return moments

    def _undo(self) -> None:
        """Stage 1 of recovery, in memory: the media is not written to."""
        fifo = UndoFifo(self.volumes)
        self.recovery = scan_fifo(fifo, self.volumes.version)
        if not self.recovery.is_dirty:
            return
        overlays = {}
        for volume in self.volumes:
            overlays[volume.vol_no] = OverlayDevice(volume.dev, granule=_UNDO_GRANULE, readonly=True)

        def patch(volume: Volume, byte_off: int, saved: bytes) -> None:
            overlays[volume.vol_no].patch(byte_off, saved)

        self.undone = apply_undo(self.volumes, fifo, self.recovery, patch)
        for volume in self.volumes:
            volume.dev = overlays[volume.vol_no]
        self.volumes.reload()

    def _redo(self) -> list[Inode]:
        """Stage 2: fsynced writes come back as contents in memory; the files concerned."""
        return replay(self.inodes, self._operations())

    def _operations(self) -> Iterator[RedoRecord]:
        """What was logged and has to be carried out again, oldest first."""
        start = self._redo_from()
        if self.recovery is not None and start is not None:
            yield from operations(UndoFifo(self.volumes), self.recovery, start)

    def _redo_from(self) -> int | None:
        """FIFO address of the first REDO record that counts."""
        return None if self.undone is None else self.undone.redo_from
