"""Snapshot records: TIDs of a PFS that pruning respects, with a time and a note."""

from __future__ import annotations

from typing import NamedTuple

from hammerfs.addr import localize
from hammerfs.const import LOCALIZE_INODE, MAX_TID, OBJID_ROOT, RECTYPE_SNAPSHOT
from hammerfs.errors import CorruptError
from hammerfs.ondisk.records import SnapshotData
from hammerfs.record import Records, place_of


class Snapshot(NamedTuple):
    """One snapshot record."""

    tid: int
    ts_us: int
    """Microseconds since 1970."""
    label: bytes


def snapshots(records: Records, pfs_id: int) -> list[Snapshot]:
    """Snapshot records of a PFS by TID. The record's key counts; it is signed, so the media's order is not this one.

    Raises:
        CorruptError: A record is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    found = []
    for elm in records.of_type(localize(pfs_id, LOCALIZE_INODE), OBJID_ROOT, RECTYPE_SNAPSHOT, MAX_TID):
        try:
            data = SnapshotData.decode(records.payload(elm))
        except CorruptError as err:
            raise CorruptError(err.what, **place_of(elm)) from None
        found.append(Snapshot(elm.key & MAX_TID, data.ts, data.label_text))
    return sorted(found)
