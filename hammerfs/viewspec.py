"""What people write to say which tree they mean: a PFS by number or label, a point in time by TID, label or time."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime
from difflib import get_close_matches

from hammerfs.addr import tid_text
from hammerfs.const import MAX_PFS, MAX_TID, OBJID_ROOT
from hammerfs.errors import NotFound, UsageError
from hammerfs.flushpoints import FlushPoints
from hammerfs.fs import HammerFS
from hammerfs.history import Moment, inode_history

_HEAD = frozenset({"-1", "now"})
_AGO = re.compile(r"(\d{1,9}) ?(second|minute|hour|day|week)s? ago\Z", re.ASCII)
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
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


def means_snapshot(label: str) -> bool:
    """Whether a snapshot's label is understood as one by `parse_asof`, and not as a TID or the head."""
    return label not in _HEAD and parse_tid(label) is None


def parse_asof(
    fs: HammerFS, pfs_id: int, text: str, points: FlushPoints | None = None, *, patient: bool = False
) -> int:
    """A point in time, as a TID.

    That is a TID, ``-1`` or ``now`` for the head, the label of a snapshot of that PFS, an ISO time (local unless it has
    a zone), or ``N seconds|minutes|hours|days|weeks ago``. A time means the last moment that is not later.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        text: What was written.
        points: The moments of that PFS, loaded when a time needs them.
        patient: As for `FlushPoints.load`.

    Raises:
        NotFound: It is none of these, or lies outside the moments recorded; the nearest is named.
        UsageError: The label is that of several snapshots.
        BufferMiss: As `FlushPoints.load`.
    """
    if text in _HEAD:
        return MAX_TID
    tid = parse_tid(text)
    if tid is not None:
        _check_tid(fs, pfs_id, tid)
        return tid
    snapshots = fs.snapshots(pfs_id)
    found = [snap.tid for snap in snapshots if snap.label == os.fsencode(text)]
    if len(found) > 1:
        tids = ", ".join(map(tid_text, found))
        raise UsageError(f"{len(found)} snapshots have the label '{text}': name one of {tids}")
    if found:
        return found[0]
    ago = _AGO.match(text)
    when = time.time() - int(ago[1]) * _UNITS[ago[2]] if ago else _iso_time(text)
    if when is None:
        labels = [os.fsdecode(snap.label) for snap in snapshots]
        near = "".join(f"; did you mean '{label}'?" for label in get_close_matches(text, labels, 1))
        raise NotFound(f"'{text}' is no TID (0x...), no snapshot of PFS {pfs_id} and no time{near}")
    if points is None:
        points = FlushPoints(fs.records, pfs_id)
    points.load(patient=patient)
    return _last_not_after(points, pfs_id, text, when, is_past=ago is not None)


def _iso_time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _check_tid(fs: HammerFS, pfs_id: int, tid: int) -> None:
    """A TID lies between the first state of a PFS and the newest there is."""
    if tid == MAX_TID:
        return
    states = inode_history(fs.records, pfs_id, OBJID_ROOT)
    if states and tid < states[0].tid:
        raise NotFound(f"{tid_text(tid)} is before the first state of PFS {pfs_id}, {_moment_text(states[0])}")
    # A new file system's records are one TID ahead of its header; a mirror's are those of its master.
    newest = max([fs.newest_tid + 1, *(pfs.sync_end_tid for number, pfs in fs.pfs_list() if number == pfs_id)])
    if tid > newest:
        raise NotFound(f"{tid_text(tid)} is behind the newest state, {tid_text(fs.newest_tid)}; now is the present one")


def _last_not_after(points: FlushPoints, pfs_id: int, text: str, when: float, *, is_past: bool) -> int:
    """TID of the last moment that is not after a time; one told by how long ago it was may be behind the last."""
    ends = points.ends()
    if ends is None:
        raise NotFound(f"nothing is recorded in PFS {pfs_id}")
    first, last = ends
    if when < first.ts:
        raise NotFound(f"'{text}' is before the first moment recorded in PFS {pfs_id}, {_moment_text(first)}")
    if int(when) > last.ts and not is_past:
        raise NotFound(f"'{text}' is behind the last moment recorded in PFS {pfs_id}, {_moment_text(last)}")
    return points.at(min(int(when), last.ts)).tid


def _moment_text(moment: Moment) -> str:
    try:
        when = datetime.fromtimestamp(moment.ts).astimezone().isoformat(" ")
    except (OverflowError, ValueError, OSError):
        when = str(moment.ts)
    return f"{tid_text(moment.tid)} ({when})"
