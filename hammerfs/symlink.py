"""Symbolic links: short ones inside the inode, longer ones in a FIX record, PFS softlinks expanded."""

from __future__ import annotations

import re

from hammerfs.addr import localize
from hammerfs.const import (
    FIXKEY_SYMLINK,
    LOCALIZE_MISC,
    MAX_SYMLINK,
    RECTYPE_FIX,
)
from hammerfs.errors import CorruptError, InvalidError, NotFound
from hammerfs.inode import Inode
from hammerfs.ondisk.records import INODE_SYMLINK_MAX
from hammerfs.record import Records

_PFS_LINK_LEN = 10
_LINKED_TID = re.compile(rb"@@0[xX]([0-9a-fA-F]{16})(?::([0-9]{5}))?")


def stored_target(records: Records, inode: Inode) -> bytes:
    """The target as it is stored.

    Raises:
        InvalidError: Not a symbolic link.
        NotFound: A long target whose record is not visible at the point in time (it came with a later TID).
        CorruptError: A length that can't be, or a damaged record.
        BufferMiss: As `BufferCache.bread`.
    """
    if not inode.is_symlink:
        raise InvalidError("not a symbolic link", **inode.place)
    size = inode.data.size
    if size <= INODE_SYMLINK_MAX:
        return inode.data.symlink[:size]
    if inode.target is not None:
        return inode.target
    localization = localize(inode.pfs_id, LOCALIZE_MISC)
    elm = records.lookup(localization, inode.obj_id, RECTYPE_FIX, FIXKEY_SYMLINK, inode.asof)
    if elm is None:
        raise NotFound("the target of the symbolic link is not recorded", **inode.place)
    if not 0 < elm.data_len <= MAX_SYMLINK:
        raise CorruptError(f"symbolic link with a target of {elm.data_len} bytes", **inode.place)
    return bytes(records.payload(elm))


def softlink_pfs(target: bytes) -> int | None:
    """PFS id of a PFS softlink (exactly ``@@PFS`` and five digits), else None."""
    if len(target) != _PFS_LINK_LEN or not target.startswith(b"@@PFS") or not target[5:].isdigit():
        return None
    return int(target[5:])


def linked_tid(target: bytes, pfs_id: int) -> int | None:
    """The TID that a softlink to a snapshot of a PFS leads to; None when it is no such link."""
    match = _LINKED_TID.search(target)
    if match is None or (match[2] is not None and int(match[2]) != pfs_id):
        return None
    return int(match[1], 16)
