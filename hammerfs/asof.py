"""Names with a point in time: ``name@@0x<16 hex>``, ``@@-1``, ``@@0x<16 hex>:<5 digits>``."""

from __future__ import annotations

import re
from typing import NamedTuple

from hammerfs.const import MAX_TID

_SUFFIX = re.compile(rb"(?:0[xX]([0-9a-fA-F]{16})|-1)(?::([0-9]{5}))?\Z")


class AsofName(NamedTuple):
    """A path component taken apart."""

    name: bytes
    """What stands before ``@@``; the whole component when there is no suffix."""
    tid: int | None = None
    """MAX_TID for -1 (and for the two TIDs that mean the head); None without a suffix."""
    pfs_id: int | None = None
    """PFS named in the suffix."""


def parse_component(component: bytes) -> AsofName:
    """Take a path component apart at its first ``@@``; what is not exactly one of the forms is an ordinary name."""
    name, at, suffix = component.partition(b"@@")
    match = _SUFFIX.match(suffix) if at else None
    if match is None:
        return AsofName(component)
    tid = MAX_TID if match[1] is None else int(match[1], 16) or MAX_TID
    return AsofName(name, tid, None if match[2] is None else int(match[2]))


def asof_suffix(tid: int, pfs_id: int | None = None) -> bytes:
    """The suffix for a point in time (MAX_TID: -1), with or without a PFS."""
    text = b"@@-1" if tid == MAX_TID else b"@@0x%016x" % tid
    return text if pfs_id is None else text + b":%05d" % pfs_id
