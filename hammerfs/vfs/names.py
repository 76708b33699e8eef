"""Names in virtual directories: snapshots by label or time, moments by time of day, versions of a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime

from hammerfs.addr import tid_text
from hammerfs.const import MAX_NAME, MAX_TID
from hammerfs.flushpoints import DAY
from hammerfs.history import Moment
from hammerfs.snapshot import Snapshot
from hammerfs.versions import Version

SNAPSHOT_TIME = "%Y-%m-%dT%H:%M:%SZ"
_TID = re.compile(rb"0[xX]([0-9a-fA-F]{16})\Z")
_TIME = re.compile(rb"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:-0[xX]([0-9a-fA-F]{16}))?)?\Z")
_VERSION = re.compile(rb"(0[xX][0-9a-fA-F]{16})(?:-[0-9TZ:-]*)?\Z")
_UNUSABLE = {b"", b".", b".."}


def snapshot_names(snapshots: Iterable[Snapshot], time_format: str | None = None) -> dict[bytes, Snapshot]:
    """Names of snapshots in the order of their TIDs.

    The label, or the time (UTC) where it has none; those of equal names have their TID behind, slashes become ``_``.
    With a format all are named by their times, as programs want that make times of the names again; of several in one
    moment the last has no TID behind, so that they find that one.
    """
    if time_format is None:
        plain = [(_label_name(snap) or _time_name(snap, SNAPSHOT_TIME), snap) for snap in snapshots]
        count = Counter(name for name, _ in plain)
        return {name if count[name] == 1 else _with_tid(name, snap): snap for name, snap in plain}
    plain = [(_time_name(snap, time_format), snap) for snap in snapshots]
    last = dict(plain)
    return {name if last[name] is snap else _with_tid(name, snap): snap for name, snap in plain}


def labelled(snapshots: Iterable[Snapshot], name: bytes) -> Snapshot | None:
    """The one snapshot whose label makes a name; None when there is none, or are several."""
    found = [snap for snap in snapshots if _label_name(snap) == name]
    return found[0] if len(found) == 1 else None


def _label_name(snap: Snapshot) -> bytes | None:
    name = snap.label.replace(b"/", b"_")[: MAX_NAME - 19]
    return None if name in _UNUSABLE else name


def _time_name(snap: Snapshot, time_format: str) -> bytes:
    return utc(snap.ts_us // 1_000_000).strftime(time_format).encode()


def _with_tid(name: bytes, snap: Snapshot) -> bytes:
    return b"%s-%s" % (name, tid_text(snap.tid).encode())


def tid_of(name: bytes) -> int | None:
    """The TID in a name ``0x`` and 16 hex digits; None when it is none."""
    match = _TID.match(name)
    return (int(match[1], 16) or MAX_TID) if match else None


def day_name(day: int) -> bytes:
    """``YYYY-MM-DD`` of a day since 1970."""
    return utc(day * DAY).strftime("%Y-%m-%d").encode()


def day_of(name: bytes) -> int | None:
    """Day since 1970 of ``YYYY-MM-DD``; None when it is none."""
    try:
        found = date.fromisoformat(name.decode("ascii"))
    except ValueError:
        return None
    return found.toordinal() - date(1970, 1, 1).toordinal() if len(name) == 10 else None


def moment_names(moments: Iterable[Moment]) -> Iterable[bytes]:
    """``HH:MM:SS`` of moments of one day by time; those of one second have their TID behind."""
    held: list[Moment] = []
    for moment in moments:
        if held and held[0].ts != moment.ts:
            yield from _of_second(held)
            held = []
        held.append(moment)
    yield from _of_second(held)


def _of_second(moments: list[Moment]) -> Iterable[bytes]:
    for tid, ts in moments:
        second = utc(ts).strftime("%H:%M:%S")
        yield (second if len(moments) == 1 else f"{second}-{tid_text(tid)}").encode()


def moment_of(name: bytes) -> tuple[int, int | None] | None:
    """Second of the day, and the TID if there is one, of ``HH:MM[:SS[-0xTID]]``; None when it is none of these.

    Without seconds the minute's last second is meant.
    """
    match = _TIME.match(name)
    if match is None:
        return None
    second = 59 if match[3] is None else int(match[3])
    return int(match[1]) * 3600 + int(match[2]) * 60 + second, None if match[4] is None else int(match[4], 16)


def version_name(version: Version) -> bytes:
    """TID and time (UTC) of a version: names sort as the versions followed each other."""
    return f"{tid_text(version.tid)}-{utc(version.ts).strftime(SNAPSHOT_TIME)}".encode()


def version_tid(name: bytes) -> int | None:
    """The TID at the start of a version's name; None when it is none."""
    match = _VERSION.match(name)
    return tid_of(match[1]) if match else None


def utc(ts: int) -> datetime:
    """Unix seconds as a time; what no calendar holds becomes its last second."""
    try:
        return datetime.fromtimestamp(ts, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(microsecond=0, tzinfo=UTC)
