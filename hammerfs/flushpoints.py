"""Flush points: the moments of a PFS that really exist, by time.

Nothing on the media lists them; they are the create and delete TIDs of all records. One pass over the PFS's part of
the tree collects them, in steps, so that a mounted file system serves others meanwhile and goes on where a buffer was
missing. They are kept in two arrays (12 bytes a moment) up to a limit; beyond it only the last one of each minute
stays, then of each hour.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from hammerfs.btree.iterate import leaves
from hammerfs.const import MAX_TID
from hammerfs.errors import BufferMiss, NotFound
from hammerfs.history import Moment
from hammerfs.keys import MIN_INT64, Key
from hammerfs.record import Records

MAX_POINTS = 1_000_000
"""Most moments kept; 12 MB."""
DAY = 86400
_BATCH = 65536
_STEP_LEAVES = 64
_COARSER = (60, 3600, DAY)


class FlushPoints:
    """The moments of one PFS.

    Args:
        records: The records of the file system.
        pfs_id: The PFS.
        asof: Nothing later is shown.
        limit: Most moments kept.
    """

    __slots__ = ("_asof", "_end", "_fresh", "_key", "_limit", "_records", "_tids", "_times", "grain_s")

    def __init__(self, records: Records, pfs_id: int, asof: int = MAX_TID, *, limit: int = MAX_POINTS) -> None:
        self._records = records
        self._asof = asof
        self._limit = limit
        self._key: Key = (pfs_id << 16, MIN_INT64, 0, MIN_INT64, 0)
        self._end: Key = ((pfs_id + 1) << 16, MIN_INT64, 0, MIN_INT64, 0)
        self._fresh: set[Moment] = set()
        self._times = array("I")
        self._tids = array("Q")
        self.grain_s = 1
        """Seconds of which only the last moment is kept; 1: all are."""

    def load(self, *, patient: bool = False) -> None:
        """Collect them, if that has not been done.

        Args:
            patient: Come back after some leaves by a BufferMiss that wants nothing: run it again, after others.

        Raises:
            CorruptError: The tree is damaged.
            BufferMiss: As `BufferCache.bread`; what was seen is kept.
        """
        left = _STEP_LEAVES
        while self._key < self._end:
            for elms in leaves(self._records.tree, self._key, self._end):
                for elm in elms:
                    if elm.create_ts and elm.create_tid <= self._asof:
                        self._fresh.add(Moment(elm.create_tid, elm.create_ts))
                    if elm.delete_ts and elm.delete_tid <= self._asof:
                        self._fresh.add(Moment(elm.delete_tid, elm.delete_ts))
                last = elms[-1].sort_key
                self._key = (*last[:4], last[4] + 1)
                if len(self._fresh) >= _BATCH:
                    self._merge()
                left -= 1
                if patient and not left:
                    raise BufferMiss([])
            self._key = self._end
            self._merge()

    def days(self) -> list[int]:
        """Days since 1970 (UTC) in which there are any, ascending."""
        found, at = [], 0
        while at < len(self._times):
            day = self._times[at] // DAY
            found.append(day)
            at = bisect_left(self._times, (day + 1) * DAY, at)
        return found

    def of_day(self, day: int) -> Iterator[Moment]:
        """Those of a day, by time and TID."""
        return self.between(day * DAY, (day + 1) * DAY)

    def between(self, beg: int, end: int) -> Iterator[Moment]:
        """Those with beg <= time < end (Unix seconds), by time and TID."""
        for i in range(bisect_left(self._times, beg), bisect_left(self._times, end)):
            yield Moment(self._tids[i], self._times[i])

    def ends(self) -> tuple[Moment, Moment] | None:
        """The first and the last one; None when there are none."""
        if not self._times:
            return None
        return Moment(self._tids[0], self._times[0]), Moment(self._tids[-1], self._times[-1])

    def at(self, ts: int) -> Moment:
        """The last one that is not after a time (Unix seconds).

        Raises:
            NotFound: The first one is later.
        """
        i = bisect_right(self._times, ts)
        if not i:
            raise NotFound("nothing was recorded at that time or before")
        return Moment(self._tids[i - 1], self._times[i - 1])

    def _merge(self) -> None:
        """Sort what is new among the rest; coarser when that is too much."""
        both = {*self._fresh, *map(Moment, self._tids, self._times)}
        self._fresh.clear()
        ordered = _thin(sorted((ts, tid) for tid, ts in both), self.grain_s)
        for grain in _COARSER:
            if len(ordered) <= self._limit:
                break
            self.grain_s = max(self.grain_s, grain)
            ordered = _thin(ordered, self.grain_s)
        self._times = array("I", [ts for ts, _ in ordered])
        self._tids = array("Q", [tid for _, tid in ordered])


def _thin(ordered: list[tuple[int, int]], grain_s: int) -> list[tuple[int, int]]:
    """The last of each `grain_s` seconds."""
    if grain_s == 1:
        return ordered
    return list({ts // grain_s: (ts, tid) for ts, tid in ordered}.values())
