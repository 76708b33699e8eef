"""`hammer dedup dedup-simulate`: equal file data is stored once, on a mount or an image."""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import NamedTuple

from hammerfs.addr import zone_of
from hammerfs.maint.dedup import Outcome
from tools.output import print_json, safe_name, size_text
from tools.session import Session, open_session

_PAIRS = 400
"""Pairs of one request."""


class _Extent(NamedTuple):
    key: str
    crc: int
    length: int
    off: int


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


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    for verb, text in (
        ("dedup", "store equal file data once"),
        ("dedup-simulate", "tell what dedup would gain, by checksums"),
    ):
        parser = verbs.add_parser(verb, help=text)
        parser.add_argument("path", metavar="FS", help="anything in the PFS")
        parser.set_defaults(run=run_dedup, simulate=verb != "dedup")


def run_dedup(args: argparse.Namespace) -> int:
    """Deduplicate a PFS, or tell what that would come to."""
    name = "Dedup-simulate" if args.simulate else "Dedup"
    if not args.json:
        print(f"{name} running", flush=True)
    with open_session(args, args.path) as session:
        totals = Deduper(session, simulate=args.simulate).run(args.path)
    ratio = totals.referenced / totals.allocated if totals.allocated else 1.0
    if args.json:
        print_json({**asdict(totals), "ratio": round(ratio, 4)})
        return 0
    print(f"{name} {safe_name(os.fsencode(args.path))} succeeded")
    if args.simulate:
        print(f"Simulated dedup ratio = {ratio:.2f}")
        return 0
    print(f"Dedup ratio = {ratio:.2f} (in this run)")
    for value, what in (
        (totals.referenced, "referenced"),
        (totals.allocated, "allocated"),
        (totals.skipped, "skipped"),
    ):
        print(f"    {size_text(value):>8} {what}")
    for value, what in (
        (totals.crc_collisions, "CRC collisions"),
        (0, "SHA collisions"),  # bytes are compared, not hashed
        (totals.underflows, "big-block underflows"),
        (totals.records, "new dedup records"),
        (totals.nbytes, "new dedup bytes"),
    ):
        print(f"    {value:8d} {what}")
    return 0


class Deduper:
    """Finds equal extents, and has all but the first of each kind given up.

    Args:
        session: Where the file system is.
        simulate: Whether equal checksums are taken for equal bytes and nothing is changed.
    """

    def __init__(self, session: Session, *, simulate: bool) -> None:
        self._session = session
        self._simulate = simulate
        self._leaders: dict[tuple[int, int, int], list[_Extent]] = defaultdict(list)
        """By checksum, length and zone: extents with different bytes."""
        self._seen: set[int] = set()
        """Addresses of extents that stay."""
        self._totals = Totals()

    def run(self, path: str, deadline: float | None = None) -> Totals:
        """Go through a PFS, or a part of it until `time.monotonic` says so."""
        start: str | None = None
        while True:
            reply = self._session.run("dedup-scan", path, start=start)
            todo = [(_Extent(*row), 0) for row in reply["extents"]]
            self._totals.referenced += sum(extent.length for extent, _ in todo)
            while todo:
                todo = self._round(todo)
            start = reply["next"]
            if start is None or (deadline is not None and time.monotonic() >= deadline):
                return self._totals

    def _round(self, todo: list[tuple[_Extent, int]]) -> list[tuple[_Extent, int]]:
        """Compare each extent with one leader of its kind; those that are to be compared with the next one."""
        pairs: list[tuple[_Extent, _Extent, int]] = []
        for extent, number in todo:
            leaders = self._leaders[extent.crc, extent.length, zone_of(extent.off)]
            if extent.off in self._seen:
                continue
            if number == len(leaders):
                leaders.append(extent)
                self._keep(extent)
            elif self._simulate:
                self._totals.records += 1
                self._totals.nbytes += extent.length
            else:
                pairs.append((leaders[number], extent, number))
        again: list[tuple[_Extent, int]] = []
        for beg in range(0, len(pairs), _PAIRS):
            part = pairs[beg : beg + _PAIRS]
            words = [[leader.key, extent.key] for leader, extent, _ in part]
            outcomes = self._session.run("dedup", pairs=words)["outcomes"]
            for (_, extent, number), outcome in zip(part, outcomes, strict=True):
                again += self._took(extent, number, Outcome(outcome))
        return again

    def _took(self, extent: _Extent, number: int, outcome: Outcome) -> list[tuple[_Extent, int]]:
        totals = self._totals
        if outcome is Outcome.DONE:
            totals.records += 1
            totals.nbytes += extent.length
        elif outcome is Outcome.GONE:
            totals.skipped += extent.length
            self._keep(extent)
        elif outcome is not Outcome.SHARED:
            totals.crc_collisions += outcome is Outcome.DIFFERENT
            totals.underflows += outcome is Outcome.FULL
            return [(extent, number + 1)]
        return []

    def _keep(self, extent: _Extent) -> None:
        self._seen.add(extent.off)
        self._totals.allocated += extent.length
