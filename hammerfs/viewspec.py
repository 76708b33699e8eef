"""What people write to say which tree they mean: a PFS by number or label, a point in time by TID, label or time."""

from __future__ import annotations

import os
import re
from datetime import datetime

from hammerfs.const import MAX_PFS, MAX_TID
from hammerfs.errors import NotFound, UsageError
from hammerfs.fs import HammerFS

_TID = re.compile(r"0[xX][0-9a-fA-F]{1,16}\Z")


def parse_pfs(fs: HammerFS, text: str) -> int:
    """A PFS by number or by label.

    Raises:
        NotFound: There is none.
        UsageError: The label is that of several.
    """
    if text.isdecimal():
        if int(text) >= MAX_PFS:
            raise NotFound(f"PFS {text} does not exist")
        return int(text)
    wanted = os.fsencode(text)
    found = [pfs_id for pfs_id, pfs in fs.pfs_list() if pfs.label_text == wanted]
    if not found:
        raise NotFound(f"no PFS has the label '{text}'")
    if len(found) > 1:
        raise UsageError(f"label '{text}' is that of PFSs {', '.join(map(str, found))}: name one by number")
    return found[0]


def parse_tid(text: str) -> int | None:
    """A TID as people write it (``0x`` and hex digits; 0 means the head); None when it is none."""
    return int(text, 16) or MAX_TID if _TID.match(text) else None


def parse_asof(fs: HammerFS, pfs_id: int, text: str) -> int:
    """A point in time: a TID, the label of a snapshot of that PFS, or an ISO time (local unless it has a zone).

    Raises:
        NotFound: It is none of them, or nothing was recorded that early.
        UsageError: The label is that of several snapshots.
    """
    tid = parse_tid(text)
    if tid is not None:
        return tid
    found = [snap.tid for snap in fs.snapshots(pfs_id) if snap.label == os.fsencode(text)]
    if len(found) > 1:
        tids = ", ".join(f"0x{tid:016x}" for tid in found)
        raise UsageError(f"{len(found)} snapshots have the label '{text}': name one of {tids}")
    if found:
        return found[0]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise NotFound(f"'{text}' is no TID (0x...), no snapshot of PFS {pfs_id} and no ISO time") from None
    return fs.tid_at(when.timestamp())
