"""The configuration text that ``hammer cleanup`` follows, one for each PFS."""

from __future__ import annotations

from hammerfs.addr import localize
from hammerfs.const import LOCALIZE_INODE, MAX_TID, OBJID_ROOT, RECTYPE_CONFIG
from hammerfs.ondisk.records import decode_config
from hammerfs.record import Records


def config_text(records: Records, pfs_id: int) -> bytes | None:
    """Configuration of a PFS, None when there is no record.

    Raises:
        CorruptError: The record is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    elm = records.lookup(localize(pfs_id, LOCALIZE_INODE), OBJID_ROOT, RECTYPE_CONFIG, 0, MAX_TID)
    return None if elm is None else decode_config(records.payload(elm))
