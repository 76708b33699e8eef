"""Pseudo file systems: their records, what a softlink to one expands to, their roots."""

from __future__ import annotations

from collections import Counter

from hammerfs.addr import tid_text
from hammerfs.const import LOCALIZE_MISC, MAX_PFS, MAX_TID, OBJID_ROOT, RECTYPE_PFS
from hammerfs.errors import NotFound
from hammerfs.inode import Inode
from hammerfs.ondisk.records import PfsData
from hammerfs.record import Records
from hammerfs.symlink import softlink_pfs, stored_target


class PfsTable:
    """The PFS records of a file system, as of now.

    Args:
        records: The records of the file system.
    """

    __slots__ = ("_cached", "_records", "epochs")

    def __init__(self, records: Records) -> None:
        self._records = records
        self._cached: dict[int, PfsData] = {}
        self.epochs: Counter[int] = Counter()
        """How often what a PFS holds has become something else since the file system was opened."""

    def get(self, pfs_id: int) -> PfsData:
        """Data of a PFS. PFS 0 exists even without a record.

        Raises:
            NotFound: No such PFS, or a destroyed one.
            CorruptError: Its record is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        data = self._cached.get(pfs_id)
        if data is None:
            data = self._load(pfs_id)
            self._cached[pfs_id] = data
        return data

    def was_destroyed(self, pfs_id: int) -> bool:
        """Whether there was such a PFS, and its id is free again.

        Raises:
            CorruptError: Its record is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        data = self._cached.get(pfs_id) or self._stored(pfs_id)
        return pfs_id != 0 and data is not None and data.is_deleted

    def all(self) -> list[tuple[int, PfsData]]:
        """All PFSs that exist, by id.

        Raises:
            CorruptError: A record is damaged.
            BufferMiss: As `BufferCache.bread`.
        """
        found = {0: self.get(0)}
        for elm in self._records.of_type(LOCALIZE_MISC, OBJID_ROOT, RECTYPE_PFS, MAX_TID):
            pfs_id = elm.key >> 16
            if 0 <= pfs_id < MAX_PFS and not elm.key & 0xFFFF:
                data = PfsData.decode(self._records.payload(elm))
                if pfs_id == 0 or not data.is_deleted:
                    found[pfs_id] = data
        return sorted(found.items())

    def asof(self, pfs_id: int) -> int:
        """Point in time a PFS is normally seen at: a slave at its last complete synchronisation, else the head.

        Raises:
            NotFound: No such PFS.
        """
        data = self.get(pfs_id)
        return data.sync_end_tid if data.is_slave else MAX_TID

    def expand(self, inode: Inode, target: bytes) -> bytes:
        """What readlink shows: a softlink to a PFS that exists becomes an ``@@`` name, all else stays."""
        pfs_id = softlink_pfs(target) if inode.pfs_id == 0 and inode.is_head else None
        if pfs_id is None:
            return target
        try:
            data = self.get(pfs_id)
        except NotFound:
            return target
        tid = tid_text(data.sync_end_tid) if data.is_slave else "-1"
        return f"@@{tid}:{pfs_id:05d}".encode()

    def put(self, pfs_id: int, data: PfsData) -> None:
        """A record that is on its way to the media counts now."""
        self._cached[pfs_id] = data

    def forget(self) -> None:
        """Read the records anew."""
        self._cached.clear()

    def _stored(self, pfs_id: int) -> PfsData | None:
        """What the record of a PFS holds."""
        if not 0 <= pfs_id < MAX_PFS:
            return None
        elm = self._records.lookup(LOCALIZE_MISC, OBJID_ROOT, RECTYPE_PFS, pfs_id << 16, MAX_TID)
        return None if elm is None else PfsData.decode(self._records.payload(elm))

    def _load(self, pfs_id: int) -> PfsData:
        data = self._stored(pfs_id)
        if data is not None:
            if pfs_id == 0 or not data.is_deleted:
                return data
        elif pfs_id == 0:
            fsid = self._records.volumes.superblock.vol_fsid
            return PfsData(sync_beg_tid=0, sync_end_tid=0, shared_uuid=fsid, unique_uuid=fsid)
        raise NotFound(f"PFS {pfs_id} does not exist")


def readlink(records: Records, table: PfsTable, inode: Inode) -> bytes:
    """Target of a symbolic link as a user sees it; errors as `stored_target`."""
    return table.expand(inode, stored_target(records, inode))
