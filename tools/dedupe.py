"""Finding equal extents within a limit of memory, and having all but the first of each kind given up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hammerfs.addr import zone_of
from hammerfs.maint.dedup import MAX_CRC, Outcome
from tools.session import Session

MEMORY = 1 << 30
"""Bytes that may be used where nothing else is said."""
LEAST_MEMORY = 1 << 20
_PAIRS = 400
"""Pairs of one request."""
_KIND_BYTES = 600
"""What a kind of extent takes in memory beside its extents; rather too much."""
_EXTENT_BYTES = 300


class _Kind(NamedTuple):
    """What extents have in common that may be equal."""

    crc: int
    length: int
    zone: int


class _Extent(NamedTuple):
    key: str
    off: int


class _Group:
    """The extents of a kind."""

    __slots__ = ("count", "kept", "leaders", "waiting")

    def __init__(self) -> None:
        self.count = 0
        """How many records refer to one of them."""
        self.leaders: list[_Extent] = []
        """They stay, and their bytes differ."""
        self.kept: set[int] = set()
        """Addresses of those that stay."""
        self.waiting: list[_Extent] = []
        """Not compared yet, without those that share the first one's address."""


class _Candidate(NamedTuple):
    extent: _Extent
    kind: _Kind
    group: _Group
    number: int
    """Of the leader to compare with."""


@dataclass
class Totals:
    """What has been done; bytes, and numbers of extents."""

    referenced: int = 0
    allocated: int = 0
    skipped: int = 0
    crc_collisions: int = 0
    underflows: int = 0
    records: int = 0
    nbytes: int = 0


class Deduper:
    """Deduplicates a PFS.

    A pass is about a range of checksums. It begins with all that are left; whenever what has been collected takes more
    memory than it may, the upper part of the range is left to another pass. Nothing is compared before a pass has
    collected all of its range: so each kind is gone through once, and the outcome is that of a single pass.

    Args:
        session: Where the file system is.
        simulate: Whether equal checksums are taken for equal bytes and nothing is changed.
        memory: Bytes that what is collected may take.
        check: Called often; raises when the work is to end.
    """

    def __init__(
        self, session: Session, *, simulate: bool, memory: int = MEMORY, check: Callable[[], None] = lambda: None
    ) -> None:
        self._session = session
        self._simulate = simulate
        self._memory = memory
        self._check = check
        self._groups: dict[_Kind, _Group] = {}
        self._used = 0
        self._totals = Totals()
        self._deadline: float | None = None
        self.passes = 0
        self.is_complete = False
        """Whether all of the PFS has been gone through."""

    def run(self, path: str, seconds: float | None = None) -> Totals:
        """Go through a PFS, or through a part of it in a limited time: half of it is kept for comparing.

        Raises:
            HammerError: The file system is damaged or fails.
        """
        halfway = None
        if seconds is not None:
            self._deadline = time.monotonic() + seconds
            halfway = self._deadline - seconds / 2
        least = 0
        while least <= MAX_CRC and not _is_over(self._deadline):
            self.passes += 1
            most, is_whole = self._collect(path, least, halfway)
            self._totals.referenced += sum(group.count * kind.length for kind, group in self._groups.items())
            is_compared = self._compare()
            self._groups, self._used = {}, 0
            if not is_whole or not is_compared:
                return self._totals
            least = most + 1
        self.is_complete = least > MAX_CRC
        return self._totals

    def _collect(self, path: str, least: int, deadline: float | None) -> tuple[int, bool]:
        """Extents by kind, from a checksum on; up to which, and whether these are all of them."""
        most = MAX_CRC
        start: str | None = None
        while True:
            self._check()
            reply = self._session.run("dedup-scan", path, start=start, least=least, most=most)
            for key, crc, length, off in reply["extents"]:
                if crc <= most:
                    self._take(_Kind(crc, length, zone_of(off)), _Extent(key, off))
                    if self._used > self._memory:
                        most = self._narrow(most)
            start = reply["next"]
            if start is None or _is_over(deadline):
                return most, start is None

    def _take(self, kind: _Kind, extent: _Extent) -> None:
        group = self._groups.get(kind)
        if group is None:
            group = self._groups[kind] = _Group()
            self._used += _KIND_BYTES
        group.count += 1
        first = group.leaders or group.waiting
        if not first or extent.off != first[0].off:
            group.waiting.append(extent)
            self._used += _EXTENT_BYTES

    def _narrow(self, most: int) -> int:
        """Leave the upper part of the range to another pass; up to where this one goes now."""
        crcs = sorted({kind.crc for kind in self._groups})
        if len(crcs) > 1:
            most = crcs[(len(crcs) - 1) // 2]
            self._groups = {kind: group for kind, group in self._groups.items() if kind.crc <= most}
        else:
            self._compare()  # one checksum is all there is: what has been compared need not be kept
        kept = sum(len(group.leaders) + len(group.waiting) for group in self._groups.values())
        self._used = len(self._groups) * _KIND_BYTES + kept * _EXTENT_BYTES
        return most

    def _compare(self) -> bool:
        """Compare what is waiting with the leaders of its kind; whether there was time for all of it."""
        todo: list[_Candidate] = []
        for kind, group in self._groups.items():
            todo += (_Candidate(extent, kind, group, 0) for extent in group.waiting)
            group.waiting = []
            if len(todo) >= _PAIRS:
                if _is_over(self._deadline):
                    return False
                self._rounds(todo)
                todo = []
        self._rounds(todo)
        return True

    def _rounds(self, todo: Iterable[_Candidate]) -> None:
        while todo:
            todo = self._round(todo)

    def _round(self, todo: Iterable[_Candidate]) -> list[_Candidate]:
        """Compare each extent with one leader of its kind; those that are to be compared with the next one."""
        pairs: list[_Candidate] = []
        for one in todo:
            group = one.group
            if one.extent.off in group.kept:
                continue
            if one.number == len(group.leaders):
                group.leaders.append(one.extent)
                self._keep(one)
            elif self._simulate:
                self._count(one)
            else:
                pairs.append(one)
        again: list[_Candidate] = []
        for beg in range(0, len(pairs), _PAIRS):
            self._check()
            part = pairs[beg : beg + _PAIRS]
            words = [[one.group.leaders[one.number].key, one.extent.key] for one in part]
            outcomes = self._session.run("dedup", pairs=words)["outcomes"]
            for one, outcome in zip(part, outcomes, strict=True):
                again += self._took(one, Outcome(outcome))
        return again

    def _took(self, one: _Candidate, outcome: Outcome) -> list[_Candidate]:
        totals = self._totals
        if outcome is Outcome.DONE:
            self._count(one)
        elif outcome is Outcome.GONE:
            totals.skipped += one.kind.length
            self._keep(one)
        elif outcome is not Outcome.SHARED:
            totals.crc_collisions += outcome is Outcome.DIFFERENT
            totals.underflows += outcome is Outcome.FULL
            return [one._replace(number=one.number + 1)]
        return []

    def _count(self, one: _Candidate) -> None:
        self._totals.records += 1
        self._totals.nbytes += one.kind.length

    def _keep(self, one: _Candidate) -> None:
        one.group.kept.add(one.extent.off)
        self._totals.allocated += one.kind.length


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
