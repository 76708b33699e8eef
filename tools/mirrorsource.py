"""Where a mirror stream comes from: its rounds, how large they are, how fast they go, and when the next one is due."""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hammerfs.addr import tid_text
from hammerfs.const import MAX_TID
from hammerfs.maint.verbs_mirror import MOST_BYTES
from hammerfs.ondisk.records import PfsData
from tools.mirrortarget import Target
from tools.session import Session

SPLIT = 4 << 30
"""About so many bytes are sent in one round."""
DELAY_S = 5.0
"""Between the rounds of a stream that goes on."""
_LEAST_PAUSE_S = 0.1
_MOST_TIDS = 1 << 16
"""More of them than this are weighed in groups."""
_SLOW_PIECE = 16 << 10


class Sending(NamedTuple):
    """How a stream is sent."""

    begin: int = 0
    """For a slave that does not tell: what is new since this TID."""
    split: int | None = SPLIT
    """Bytes of a round; None: all in one."""
    bandwidth: int | None = None
    """Most bytes in a second."""
    delay: float | None = None
    """Go on for ever, with so many seconds between rounds; None: end when all is sent."""


class Round(NamedTuple):
    """What has been sent in one round."""

    tid_beg: int
    tid_end: int
    nbytes: int


class MirrorSource:
    """A PFS that can be read as a stream.

    Args:
        session: Where it is.
        path: Anything in it.
    """

    def __init__(self, session: Session, path: str) -> None:
        self._session = session
        self._path = path
        self.pfs_id = -1
        self._is_slave = False
        self.used = 0
        """Bytes in use of its file system."""

    def status(self) -> PfsData:
        """Its record after a flush, with the TID as of which everything is there."""
        reply = self._session.run("mirror-source", self._path)
        self.pfs_id, self.used = reply["pfs"], reply["used"]
        data = PfsData.decode(bytes.fromhex(reply["data"]))
        self._is_slave = data.is_slave
        return data

    def pieces(self, tid_beg: int, tid_end: int, nbytes: int) -> Iterator[bytes]:
        """The records of a round, about so many bytes at a time."""
        words = {**self._range(tid_beg, tid_end), "nbytes": nbytes}
        start: str | None = None
        while True:
            reply = self._session.run("mirror-read", start=start, **words)
            yield base64.b64decode(reply["data"])
            start = reply["next"]
            if start is None:
                return

    def weights(self, tid_beg: int, tid_end: int) -> Iterator[list[tuple[int, int]]]:
        """How many bytes each TID is the reason for, in parts."""
        words = self._range(tid_beg, tid_end)
        start: str | None = None
        while True:
            reply = self._session.run("mirror-weigh", start=start, **words)
            yield [(int(tid, 16), nbytes) for tid, nbytes in reply["weights"]]
            start = reply["next"]
            if start is None:
                return

    def _range(self, tid_beg: int, tid_end: int) -> dict[str, Any]:
        return {"pfs": self.pfs_id, "tid_beg": tid_text(tid_beg), "tid_end": tid_text(tid_end)}

    def has_news(self, since: int) -> bool:
        """Whether something is to be sent since a TID. What a slave gets is not to be seen before it is complete."""
        if self._is_slave:
            return self.status().sync_end_tid > since
        return any(self.weights(since, MAX_TID))


def send(
    source: MirrorSource, target: Target, how: Sending, check: Callable[[], None], told: Callable[[Round], None]
) -> None:
    """Send what a slave lacks, in rounds each of which makes it complete up to a TID.

    Args:
        source: What is sent.
        target: Where it goes.
        how: How.
        check: Called often; raises when the work is to end.
        told: Called after each round.

    Raises:
        Stopped: The user, or the time limit, has ended it.
        HammerError: One of the two fails.
    """
    ends: list[int] = []
    begin = how.begin
    while True:
        master = source.status()
        lacks = target.greet(master)
        tid_beg = max(begin if lacks is None else lacks, master.sync_beg_tid)
        if not ends:
            ends = _ends(source, tid_beg, master.sync_end_tid, how.split, check)
        tid_end = ends.pop(0)
        planned = copy.copy(master)
        planned.sync_end_tid = tid_end
        target.begin(planned)
        nbytes = _send_round(source, target, (tid_beg, tid_end), how.bandwidth, check)
        target.end(has_work=tid_beg < tid_end)
        told(Round(tid_beg, tid_end, nbytes))
        begin = tid_end + 1
        if ends:
            continue
        if how.delay is None:
            target.close()
            return
        pause = max(how.delay, _LEAST_PAUSE_S)
        target.pause(pause)
        while not source.has_news(begin):
            target.pause(pause)


def _send_round(
    source: MirrorSource, target: Target, ends: tuple[int, int], bandwidth: int | None, check: Callable[[], None]
) -> int:
    """The records of one round; how many bytes they are."""
    tid_beg, tid_end = ends
    sent = 0
    most = MOST_BYTES // 2
    if bandwidth is not None:
        most = min(most, max(bandwidth // 4, _SLOW_PIECE))
    began = time.monotonic()
    for data in source.pieces(tid_beg, tid_end, most) if tid_beg < tid_end else ():
        check()
        target.add(data)
        sent += len(data)
        if bandwidth is not None:
            early = began + sent / bandwidth - time.monotonic()
            if early > 0:
                target.pause(early)
    return sent


def _ends(source: MirrorSource, tid_beg: int, tid_end: int, split: int | None, check: Callable[[], None]) -> list[int]:
    """Where the rounds end that lead to a TID, none of them much larger than what was asked for."""
    if split is None or source.used <= split or tid_beg >= tid_end:
        return [tid_end]
    weights: dict[int, int] = {}
    for part in source.weights(tid_beg, tid_end):
        check()
        for tid, nbytes in part:
            weights[tid] = weights.get(tid, 0) + nbytes
        if len(weights) > _MOST_TIDS:
            weights = _grouped(weights)
    ends = []
    filled = last = 0
    for tid, nbytes in sorted(weights.items()):
        # a round from a TID to the same one sends nothing, by the rules of the exchange: there is always another one
        if filled + nbytes > split and last > tid_beg and last + 1 < tid_end:
            ends.append(last)
            tid_beg = last + 1
            filled = 0
        filled += nbytes
        last = tid
    return [*ends, tid_end]


def _grouped(weights: dict[int, int]) -> dict[int, int]:
    """The weights of two neighbours each, under the later one's TID."""
    rows = sorted(weights.items())
    grouped = {right: one + other for (_, one), (right, other) in zip(rows[::2], rows[1::2], strict=False)}
    if len(rows) % 2:
        grouped[rows[-1][0]] = rows[-1][1]
    return grouped
