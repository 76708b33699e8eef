"""The back end of a flush: one group of changed inodes is put into the tree in memory under one TID.

A group is worked out completely before the tree is touched: a list of insertions and deletions, sorted by key, so that
neighbours meet the same leaf. Then everything happens in one atomic section of the buffer cache, UNDO before change.
How it gets to the media from there is the business of `commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hammerfs.addr import block_size_at, localize
from hammerfs.btree.iterate import scan_reverse
from hammerfs.btree.modify import TreeWriter
from hammerfs.buffer import DirtyClass
from hammerfs.changes import Changes, NewRecord
from hammerfs.const import (
    BTREE_TYPE_RECORD,
    BUFMASK,
    FIXKEY_SYMLINK,
    LOCALIZE_INODE,
    LOCALIZE_MISC,
    MAX_TID,
    RECTYPE_DATA,
    RECTYPE_DIRENTRY,
    RECTYPE_EXT,
    RECTYPE_FIX,
    RECTYPE_INODE,
    RECTYPE_MAX,
    XBUFSIZE,
    ZONE_META,
)
from hammerfs.dirent import entry_localization
from hammerfs.errors import CorruptError, CrcError, HammerError, NoSpace
from hammerfs.filewrite import FileWriter
from hammerfs.inode import DIRTY_ALL, DIRTY_CONTENTS, Inode
from hammerfs.keys import MAX_INT64, Key
from hammerfs.ondisk.node import LeafElm
from hammerfs.ondisk.records import INODE_MTIME_OFFSET, DirentryData, InodeData, payload_crc
from hammerfs.record import key_range
from hammerfs.undo_writer import UndoWriter

MOST_REMOVED = 1024
"""Data records one group removes; files that hold more lose them in groups of their own, before or after the others."""
_REMOVED_FIFO = 32768
"""Bytes of the FIFO for each of them: where it is small the groups are smaller."""


class _Insert(NamedTuple):
    """A record to come. Its payload, if it has one, is stored by then."""

    key: Key
    elm: LeafElm
    payload: bytes | None
    inode: Inode | None
    """Whose inode record it is."""


class _Delete(NamedTuple):
    """A record to go."""

    key: Key
    keep: bool
    """Marked as deleted, or (without history) destroyed."""


class Backend:
    """Puts groups into the tree.

    Args:
        changes: The front end's state.
        files: Makes blocks of pieces.
        tree: Changes the tree.
        undo: Saves what is changed.
    """

    def __init__(self, changes: Changes, files: FileWriter, tree: TreeWriter, undo: UndoWriter) -> None:
        self.changes = changes
        self._files = files
        self.cache = changes.records.cache
        self.alloc = changes.alloc
        self.tree = tree
        self.undo = undo
        self.orphans: set[tuple[int, int]] = set()
        """(PFS id, object id) of objects on the media that have no name any more."""
        self.cut: dict[Inode, int] = {}
        """Files that groups of their own have cut, and where, since the last group of all that is dirty."""
        self.most_removed = max(1, min(MOST_REMOVED, undo.size // _REMOVED_FIFO))
        self.reaping: list[Inode] = []
        """Removed objects with too many records for one group: they go by and by."""

    def trim(self, tid: int) -> bool:
        """Cut files that lose more than a group may remove, by one group; whether there was one.

        Such a file grows shorter from its end on, group by group, and only then do its other changes come. So whatever
        is left of this by a power cut, no record lies behind the end of a file.

        Raises:
            HammerError: As `apply`.
        """
        batch = _Batch(self, tid, self._now())
        sizes: dict[Inode, int] = {}
        with self.cache.section():
            for inode in self.changes.dirty:
                dirty = inode.dirty
                if dirty is None or dirty.media_limit >= dirty.media_size or inode.is_dead:
                    continue
                sizes[inode] = batch.trim(inode, dirty.media_limit, dirty.media_size)
                if batch.is_large:
                    self._run(batch)
                    for cut, size in sizes.items():
                        assert cut.dirty is not None
                        self.cut[cut] = cut.dirty.media_size = size
                    return True
        return False

    def prepare(self) -> HammerError | None:
        """Bring the data of all changed files to new space; nothing refers to it yet.

        Returns:
            Why data of some file is lost, if it is: no space was left for it, or old bytes beside it are damaged. Its
            next fsync tells, too.

        Raises:
            DeviceError: The device failed. What was written is kept for another try.
        """
        lost: HammerError | None = None
        with self.cache.section():
            for inode in self.changes.dirty:
                lost = self._prepare(inode) or lost
        return lost

    def give_up(self) -> None:
        """A change of the tree has failed: forget what it did in memory."""
        self.tree.abandon()
        self.cache.discard_dirty()
        self.cache.drop()
        self.alloc.reset()

    def apply(self, tid: int) -> bool:
        """Put all changes into the tree under one TID. When it fails nothing of it may reach the media.

        Returns:
            True: there is something to commit.

        Raises:
            HammerError: The tree is damaged, the space or the FIFO at an end, or the device failed.
        """
        changes = self.changes
        group = list(changes.dirty)
        batch = _Batch(self, tid, self._now())
        with self.cache.section():
            for inode in group:
                batch.add(inode)
            for record in changes.records_new:
                batch.add_record(record)
            self._run(batch)
        for inode in group:
            self._done(inode)
        self.cut.clear()
        changes.dirty.clear()
        changes.records_new.clear()
        changes.pending = changes.data_bytes = changes.placed_bytes = 0
        for inode in self.reaping:
            changes.touch(inode, DIRTY_ALL)
        return True

    def _now(self) -> int:
        return self.changes.now() // 1_000_000 & 0xFFFFFFFF

    def transact(self, change: Callable[[int], bool], tid: int) -> bool:
        """Change the tree directly, as a group of its own; when it fails nothing of it may reach the media.

        Args:
            change: Called with the TID; uses `tree`, `alloc` and `undo`, saves fields of the header that it changes
                itself, and tells whether it has changed anything.
            tid: The TID of the group.

        Returns:
            Whether there is something to commit.

        Raises:
            HammerError: What `change` raises, or the FIFO is at an end.
        """
        with self.cache.section():
            self.undo.begin_span()
            changed = change(tid)
            if changed:
                self.undo.save_field("vol0_blockmap")
            self.tree.seal()
            self.alloc.settle()
            return changed

    def store(self, elm: LeafElm, payload: bytes) -> LeafElm:
        """Put a payload into newly allocated space of zone 9, inside a section.

        Returns:
            The element with its place, length and checksum.

        Raises:
            NoSpace: No space is left.
            HammerError: The freemap is damaged, or the media failed.
        """
        off = self.alloc.alloc(ZONE_META, len(payload))
        at = off & BUFMASK
        buf = self.cache.bnew(off) if at == 0 else self.cache.bread(off)
        buf.mem.mv[at : at + len(payload)] = payload
        self.cache.mark_dirty(buf, DirtyClass.META)
        crc = payload_crc(elm.rec_type, payload, self.changes.records.volumes.rule)
        return elm._replace(data_offset=off, data_len=len(payload), data_crc=crc)

    def _run(self, batch: _Batch) -> None:
        self.undo.begin_span()
        self.undo.save_field("vol0_blockmap")
        self.undo.save_field("vol0_stat_inodes")
        batch.run()
        self.tree.seal()
        self.alloc.settle()

    def _prepare(self, inode: Inode) -> HammerError | None:
        """Data first: all of it is on the media before anything refers to it."""
        if inode.is_dead:
            self._files.discard(inode)
        elif inode.dirty is not None:
            try:
                self._files.blocks_to_media(inode)
            except (CrcError, NoSpace) as err:  # it must not keep everything else from being flushed
                inode.error = err
                self._files.discard_blocks(inode)
                return err
        return None

    def _done(self, inode: Inode) -> None:
        """The tree holds everything of this inode now."""
        inode.state = 0
        if inode.dirty is not None:
            inode.dirty = None
            inode.extents = None
            inode.blocks = inode.counted = None
        inode.entries = None
        inode.target = None
        ident = inode.pfs_id, inode.obj_id
        if not inode.data.nlinks and inode.create_tid:
            self.orphans.add(ident)
        if inode.is_dead and not inode.create_tid:
            self.orphans.discard(ident)
            self.changes.inodes.forget(inode)
            if inode in self.reaping:
                self.reaping.remove(inode)


class _Batch:
    """The records of one group.

    Args:
        backend: Whose group it is.
        tid: Its TID.
        ts: Its time, Unix seconds.
    """

    def __init__(self, backend: Backend, tid: int, ts: int) -> None:
        self._backend = backend
        self._changes = backend.changes
        self._records = backend.changes.records
        self._tid = tid
        self._ts = ts
        self._inserts: list[_Insert] = []
        self._deletes: dict[Key, _Delete] = {}
        self._times: list[Inode] = []
        self._inodes = 0
        """By how much the number of inodes changes."""
        self._removed = 0
        """Data records of removed and cut files among the deletions."""
        self.is_large = False
        """There is more to remove than fits."""

    # Working out

    def add(self, inode: Inode) -> None:
        """All records of one inode."""
        keep = self._changes.keeps_history(inode)
        if inode.entries is not None:
            self._add_entries(inode, keep)
        if inode.is_dead:
            self._remove(inode, keep)
            return
        if inode.dirty is not None:
            self._add_data(inode, keep)
        if inode.target is not None:
            self._insert(LOCALIZE_MISC, inode, RECTYPE_FIX, FIXKEY_SYMLINK, inode.target)
        if inode.state & (DIRTY_ALL | DIRTY_CONTENTS) or not inode.create_tid:
            self._add_inode(inode, keep)
        elif inode.state:
            self._times.append(inode)

    def add_record(self, record: NewRecord) -> None:
        """A record that belongs to no inode."""
        slot = record.localization, record.obj_id, record.rec_type, record.key
        old = self._records.lookup(*slot, MAX_TID)
        if old is not None:
            self._deletes[old.sort_key] = _Delete(old.sort_key, record.keep)
        payload = record.payload
        if payload is not None:
            elm = LeafElm(
                *(record.obj_id, record.key, record.tid or self._tid, 0, record.rec_type, record.obj_type),
                *(BTREE_TYPE_RECORD, record.localization, self._ts if record.is_timed else 0, 0, 0, len(payload), 0),
            )
            self._inserts.append(_Insert(elm.sort_key, elm, payload, None))

    def trim(self, inode: Inode, limit: int, size: int) -> int:
        """Of what a truncation leaves behind as many records as fit, the last ones first, and the inode.

        The block with the new end comes later. Up to its end the file stays: what is behind the end of a file has to
        read as zeros when it grows.

        Args:
            inode: The file.
            limit: Where it is cut.
            size: Its size on the media.

        Returns:
            Its size on the media then.
        """
        block = block_size_at(limit)
        limit = -(-limit // block) * block
        keep = self._changes.keeps_history(inode)
        for elm in self._data_before(inode, size):
            if elm.key <= limit:
                break
            if self._removed >= self._backend.most_removed:
                self.is_large = True
                limit = min(size, elm.key)
                break
            self._deletes[elm.sort_key] = _Delete(elm.sort_key, keep)
            self._removed += 1
        key = _inode_key(inode)
        found = self._records.lookup(key[0], inode.obj_id, RECTYPE_INODE, 0, MAX_TID)
        if found is None:
            raise CorruptError("the inode record is gone", **inode.place)
        data = InodeData.decode(self._records.payload(found))
        if data.size > limit:
            data.size = limit
            self._deletes[key] = _Delete(key, keep)
            self._insert(LOCALIZE_INODE, inode, RECTYPE_INODE, 0, data.encode(), whose=inode)
        return min(limit, data.size)

    def _add_entries(self, directory: Inode, keep: bool) -> None:
        pending = directory.entries
        assert pending is not None
        localization = entry_localization(directory)
        for entry in pending.removed.values():
            key = (localization, directory.obj_id, RECTYPE_DIRENTRY, entry.key, entry.create_tid)
            self._deletes[key] = _Delete(key, keep)
        for entry in pending.added.values():
            payload = DirentryData(entry.obj_id, localize(entry.pfs_id), 0, entry.name).encode()
            elm = LeafElm(
                *(directory.obj_id, entry.key, self._tid, 0, RECTYPE_DIRENTRY, entry.obj_type, BTREE_TYPE_RECORD),
                *(localization, self._ts, 0, 0, len(payload), 0),
            )
            self._inserts.append(_Insert(elm.sort_key, elm, payload, None))

    def _add_data(self, inode: Inode, keep: bool) -> None:
        dirty = inode.dirty
        assert dirty is not None
        if dirty.media_limit < dirty.media_size:
            limit = dirty.media_limit
            size = block_size_at(limit)
            self._delete_data(inode, -(-limit // size) * size, MAX_INT64, keep)
        beg = end = 0
        for base in sorted(dirty.placed):
            elm = dirty.placed[base].elm
            if inode.create_tid and base < dirty.media_size:
                if base != end:  # blocks that follow each other replace what was there by one walk
                    self._delete_data(inode, beg, end, keep)
                    beg = base
                end = base + (elm.data_len + BUFMASK & ~BUFMASK)
            elm = elm._replace(create_tid=self._tid, create_ts=self._ts)
            self._inserts.append(_Insert(elm.sort_key, elm, None, None))
        self._delete_data(inode, beg, end, keep)

    def _delete_data(self, inode: Inode, beg: int, end: int, keep: bool) -> None:
        """Records that begin in [beg, end), and those that begin before and reach into it."""
        if beg == end:
            return
        for elm in self._data_from(inode, beg):
            if elm.key - elm.data_len >= end:
                return
            self._deletes[elm.sort_key] = _Delete(elm.sort_key, keep)

    def _remove_data(self, inode: Inode, beg: int, keep: bool) -> None:
        """Records from `beg` on, as many as fit."""
        for elm in self._data_from(inode, beg):
            if self._removed >= self._backend.most_removed:
                self.is_large = True
                return
            self._deletes[elm.sort_key] = _Delete(elm.sort_key, keep)
            self._removed += 1

    def _data_from(self, inode: Inode, beg: int) -> Iterator[LeafElm]:
        localization = localize(inode.pfs_id, LOCALIZE_MISC)
        first = min(beg + 1, MAX_INT64)
        for elms in self._records.between(localization, inode.obj_id, RECTYPE_DATA, first, MAX_INT64, MAX_TID):
            yield from elms

    def _data_before(self, inode: Inode, size: int) -> Iterator[LeafElm]:
        """Live data records of a file that has so many bytes, the last one first."""
        localization = localize(inode.pfs_id, LOCALIZE_MISC)
        beg, end = key_range(localization, inode.obj_id, RECTYPE_DATA, 0, min(size + XBUFSIZE, MAX_INT64))
        for elm in scan_reverse(self._records.tree, beg, end):
            if not elm.delete_tid:
                yield elm

    def _add_inode(self, inode: Inode, keep: bool) -> None:
        """The inode record anew; the old one goes."""
        if inode.create_tid:
            key = _inode_key(inode)
            self._deletes[key] = _Delete(key, keep)
        else:
            self._inodes += 1
        self._insert(LOCALIZE_INODE, inode, RECTYPE_INODE, 0, inode.data.encode(), whose=inode)

    def _rewrite_times(self, inode: Inode) -> None:
        """The times are the last 16 bytes of the payload, outside its checksum: in place, wherever that is by now."""
        localization = localize(inode.pfs_id, LOCALIZE_INODE)
        elm = self._records.lookup(localization, inode.obj_id, RECTYPE_INODE, 0, MAX_TID)
        if elm is None:
            return  # its PFS has been destroyed
        cache, off = self._backend.cache, elm.data_offset + INODE_MTIME_OFFSET
        buf = cache.bread(off)
        at = off & BUFMASK
        times = inode.data.encode()[INODE_MTIME_OFFSET:]
        old = buf.ro[at : at + len(times)]
        if old != times:
            self._backend.undo.save(off, old)
            buf.mem.mv[at : at + len(times)] = times
            cache.mark_dirty(buf, DirtyClass.META)

    def _remove(self, inode: Inode, keep: bool) -> None:
        """An object without a name that nobody has open: all of its records go."""
        if not inode.create_tid:
            return
        reaping = self._backend.reaping
        if inode.is_file:
            self.is_large = False
            self._remove_data(inode, 0, keep)
            if self.is_large:
                if inode not in reaping:
                    reaping.append(inode)
                    self._add_inode(inode, keep)
                return
        localization = localize(inode.pfs_id, LOCALIZE_MISC)
        beg, _ = key_range(localization, inode.obj_id, RECTYPE_EXT)
        _, end = key_range(localization, inode.obj_id, RECTYPE_MAX)
        for elm in self._records.visible(beg, end):
            self._deletes[elm.sort_key] = _Delete(elm.sort_key, keep)
        key = _inode_key(inode)
        self._deletes[key] = _Delete(key, keep)
        self._inodes -= 1
        inode.create_tid = 0

    def _insert(
        self, cls: int, inode: Inode, rec_type: int, key: int, payload: bytes, whose: Inode | None = None
    ) -> None:
        elm = LeafElm(
            *(inode.obj_id, key, self._tid, 0, rec_type, inode.data.obj_type, BTREE_TYPE_RECORD),
            *(localize(inode.pfs_id, cls), self._ts, 0, 0, len(payload), 0),
        )
        self._inserts.append(_Insert(elm.sort_key, elm, payload, whose))

    # Doing

    def run(self) -> None:
        """Change the tree: deletions and insertions in one order of keys."""
        for inode in self._times:
            self._rewrite_times(inode)
        steps: list[_Insert | _Delete] = [*self._deletes.values(), *self._inserts]
        steps.sort(key=_key_of)
        tree, alloc = self._backend.tree, self._backend.alloc
        for step in steps:
            if isinstance(step, _Insert):
                elm = step.elm if step.payload is None else self._backend.store(step.elm, step.payload)
                if step.payload is None:
                    alloc.commit_reserved(elm.data_offset, elm.data_len)
                tree.insert(elm)
                if step.inode is not None:
                    step.inode.create_tid = self._tid
            else:
                self._delete(step)
        if self._inodes:
            self._records.volumes.superblock.vol0_stat_inodes += self._inodes

    def _delete(self, step: _Delete) -> None:
        tree = self._backend.tree
        elm = tree.mark_deleted(step.key, self._tid, self._ts)
        if not step.keep:
            tree.destroy(step.key)
            if elm.data_len:
                self._backend.alloc.free(elm.data_offset, elm.data_len)


def _key_of(step: _Insert | _Delete) -> Key:
    return step.key


def _inode_key(inode: Inode) -> Key:
    return localize(inode.pfs_id, LOCALIZE_INODE), inode.obj_id, RECTYPE_INODE, 0, inode.create_tid
