"""Applying a mirror stream to a slave.

The stream and the slave are walked in parallel, in key order: what the stream does not mention, though it went over it,
has been pruned or removed at the source, and is marked deleted. TIDs are the stream's. What has come in stays invisible
until the slave's synchronisation point is moved, so a stream that breaks off does no harm: the next one repairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hammerfs.addr import tid_text
from hammerfs.btree.iterate import scan
from hammerfs.changes import SLOP_WRITE
from hammerfs.const import (
    BTREE_TYPE_RECORD,
    BUFSIZE,
    LOCALIZE_MASK,
    LOCALIZE_PFS_MASK,
    MAX_TID,
    RECTYPE_CONFIG,
    RECTYPE_DATA,
    RECTYPE_DB,
    RECTYPE_DIRENTRY,
    RECTYPE_INODE,
    RECTYPE_PERM,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_SMALL_DATA,
)
from hammerfs.errors import InvalidError
from hammerfs.keys import Key
from hammerfs.maint.reblock import store_payload
from hammerfs.maint.sweep import CHANGED, MOVED_BYTES, SCANNED, Step, after, forget_places, pfs_keys, sweep
from hammerfs.ondisk.mirror import MREC_PASS, MREC_REC, MREC_SKIP, MirrorRecord
from hammerfs.ondisk.node import BaseElm, LeafElm
from hammerfs.ondisk.records import DirentryData, PfsData, payload_crc_ok
from hammerfs.record import place_of
from hammerfs.rw import WritableFS

_LOCAL = frozenset({RECTYPE_CONFIG, RECTYPE_PERM})
"""Records that are never mirrored."""
APPLIED = 2000
"""Records one step applies."""
UNDO_BYTES = 2 << 20
"""What one step may need of the FIFO, the smallest of which has 8 MiB."""
_FOREVER = 1000.0


class MirrorWriter:
    """Applies records of one round to a slave.

    Args:
        fs: The file system.
        pfs_id: The slave.
        tid_beg: Records created before are not made.
        tid_end: TID of the end of the round: what has gone at the source is deleted as of it.
    """

    def __init__(self, fs: WritableFS, pfs_id: int, tid_beg: int, tid_end: int) -> None:
        self._fs = fs
        self._pfs_id = pfs_id
        self._tid_beg = tid_beg
        self._tid_end = tid_end
        self._ts = fs.options.clock() // 1_000_000 & 0xFFFFFFFF
        self._todo: deque[MirrorRecord] = deque()
        self.start, self._end = pfs_keys(pfs_id)
        self._last, self._ahead = self.start, self._end
        self.stats = {"records": 0, "created": 0, "deleted": 0, "nbytes": 0}

    async def apply(self, records: Iterable[MirrorRecord], at: Key | None) -> Key:
        """Apply records.

        Args:
            records: In the order of the stream.
            at: Up to where the slave has been gone over in this round; None: it begins.

        Returns:
            The same, behind these records.

        Raises:
            InvalidError: A payload and its checksum do not fit, or the checksum is of a kind that the volumes lack.
            NoSpace: Too little space is left.
            HammerError: The tree is damaged, or the media failed.
        """
        self._todo.extend(records)
        position = at or self.start
        while self._todo:
            position = await sweep(self._fs, self._step, position, _FOREVER) or self._last
        forget_places(self._fs, self._pfs_id)
        return position

    def _step(self, at: Key) -> Step:
        fs, stats = self._fs, self.stats
        fs.changes.check_space(SLOP_WRITE, MOVED_BYTES)
        before = dict(stats)
        undo_bytes = fs.undo.free_bytes
        self._last = at
        self._ahead = self._first_from(at)
        while self._todo:
            record = self._todo[0]
            base = record.skip_beg if record.type == MREC_SKIP else record.leaf
            if base is not None and record.type in {MREC_REC, MREC_PASS, MREC_SKIP} and not record.flags:
                key = self._local(base)
                if self._ahead < key:
                    reached = self._delete_up_to(self._last, key)
                    if reached is not None:
                        self._last = reached
                        return Step(reached, True)
                behind = self._take(record, key)
                if behind > self._last:
                    self._last = behind
                if self._ahead < behind:
                    self._ahead = self._first_from(self._last)
            self._todo.popleft()
            stats["records"] += 1
            if (
                stats["records"] - before["records"] >= APPLIED
                or stats["nbytes"] - before["nbytes"] >= MOVED_BYTES
                or undo_bytes - fs.undo.free_bytes >= UNDO_BYTES
            ):
                break
        changes = stats["created"] + stats["deleted"] - before["created"] - before["deleted"]
        return Step(self._last if self._todo else None, changes > 0)

    def _first_from(self, at: Key) -> Key:
        """The key of the first element of the slave that is not below a key; the end of the slave if there is none."""
        tree = self._fs.tree
        while at < self._end:
            leaf, _, right = tree.leaf_of(at)
            if leaf is not None:
                i = leaf.leaf_left(at, tree.cache)
                if i < leaf.count:
                    return min(leaf.key_at(i), self._end)
            if right <= at:
                break
            at = right
        return self._end

    def _delete_up_to(self, at: Key, limit: Key) -> Key | None:
        """What lies between two keys is not in the stream; where to go on, when that is much."""
        gone: list[LeafElm] = []
        for seen, elm in enumerate(scan(self._fs.tree, at, limit), 1):
            if elm.rec_type not in _LOCAL and not elm.delete_tid and elm.create_tid < self._tid_end:
                gone.append(elm)
            if seen >= SCANNED or len(gone) >= CHANGED:
                reached: Key | None = after(elm.sort_key)
                break
        else:
            reached = None
        for elm in gone:
            self._delete(elm, self._tid_end, self._ts)
        return reached

    def _take(self, record: MirrorRecord, key: Key) -> Key:
        """One record; where the slave has been gone over behind it."""
        if record.type == MREC_SKIP:
            assert record.skip_end is not None
            return self._local(record.skip_end)
        leaf = record.leaf
        assert leaf is not None
        if leaf.rec_type not in _LOCAL:
            self._fs.tids.raise_to(max(leaf.create_tid, leaf.delete_tid))
            # between what has been gone over and the next element there is nothing to look for
            is_new = self._last <= key < self._ahead
            present = None if is_new else next(scan(self._fs.tree, key, after(key)), None)
            if present is not None:
                if leaf.delete_tid and leaf.delete_tid != present.delete_tid:
                    self._delete(present, leaf.delete_tid, leaf.delete_ts)
            elif record.type == MREC_REC and leaf.create_tid >= self._tid_beg:
                self._create(leaf, key, record.data)
        return after(key)

    def _create(self, leaf: LeafElm, key: Key, payload: bytes) -> None:
        fs = self._fs
        if len(payload) != leaf.data_len:
            raise InvalidError(f"mirror record of {len(payload)} bytes for {leaf.data_len}", **place_of(leaf))
        if not payload_crc_ok(leaf.rec_type, payload, leaf.data_crc, fs.volumes.rule):
            raise InvalidError(
                f"the checksum of a mirrored record does not fit it on version {fs.volumes.version}", **place_of(leaf)
            )
        elm = leaf._replace(localization=key[0], btype=BTREE_TYPE_RECORD, data_offset=0)
        if leaf.rec_type == RECTYPE_DIRENTRY:
            entry = DirentryData.decode(payload)
            home = key[0] & LOCALIZE_PFS_MASK | entry.localization & LOCALIZE_MASK
            elm = store_payload(fs, elm, entry._replace(localization=home).encode(), ZONE_META)
        elif payload:
            stored = store_payload(fs, elm, payload, _zone_for(leaf))
            elm = stored._replace(data_crc=leaf.data_crc)
        fs.backend.tree.insert(elm)
        self.stats["created"] += 1
        self.stats["nbytes"] += len(payload)
        if leaf.rec_type == RECTYPE_INODE and not leaf.delete_tid:
            self._count_inodes(1)

    def _delete(self, elm: LeafElm, tid: int, ts: int) -> None:
        fs = self._fs
        fs.backend.tree.replace(elm.sort_key, elm._replace(delete_tid=tid, delete_ts=ts))
        self.stats["deleted"] += 1
        if elm.rec_type == RECTYPE_INODE and not elm.delete_tid:
            self._count_inodes(-1)

    def _count_inodes(self, change: int) -> None:
        self._fs.undo.save_field("vol0_stat_inodes")
        self._fs.volumes.superblock.vol0_stat_inodes += change

    def _local(self, base: BaseElm | LeafElm) -> Key:
        """A key of the stream as it is in the slave."""
        localization, obj_id, rec_type, at, tid = base.sort_key
        return self._pfs_id << 16 | localization & LOCALIZE_MASK, obj_id, rec_type, at, tid


def check_round(fs: WritableFS, pfs_id: int, shared_uuid: bytes, tid_end: int = MAX_TID) -> None:
    """Refuse to mirror into a PFS that is no slave of the sender, or has been told more already.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        shared_uuid: The sender's.
        tid_end: Where the round ends, if that is known.

    Raises:
        NotFound: No such PFS.
        InvalidError: It is a master, or another one's slave, or complete up to a later TID: its past would change.
    """
    with fs.cache.section():
        data = fs.pfs.get(pfs_id)
    check_slave(data, shared_uuid, f"PFS {pfs_id}")
    if tid_end < data.sync_end_tid:
        raise InvalidError(f"PFS {pfs_id} is complete up to a later TID than {tid_text(tid_end)}")


def check_slave(data: PfsData, shared_uuid: bytes, name: str) -> None:
    """The same where only the record of the PFS is at hand, and what to call it.

    Raises:
        InvalidError: It is a master, or another one's slave.
    """
    if not data.is_slave:
        raise InvalidError(f"{name} is a master: it takes no stream")
    if data.shared_uuid != shared_uuid:
        raise InvalidError(f"{name} is a slave of another master: the shared uuids differ")


def _zone_for(elm: LeafElm) -> int:
    if elm.rec_type not in {RECTYPE_DATA, RECTYPE_DB}:
        return ZONE_META
    return ZONE_LARGE_DATA if elm.data_len >= BUFSIZE else ZONE_SMALL_DATA
