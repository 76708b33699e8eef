"""Deduplication: two records with the same bytes refer to one extent.

Whoever looks for candidates compares checksums only; here the bytes are compared before a record is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from hammerfs.addr import zone_of
from hammerfs.btree.iterate import scan
from hammerfs.const import RECTYPE_DATA, VERSION_DEDUP
from hammerfs.errors import CrcError, InvalidError, RefCountError
from hammerfs.fs import HammerFS
from hammerfs.keys import Key
from hammerfs.maint.reblock import read_payload
from hammerfs.maint.sweep import CHANGED, MOVED_BYTES, Step, after, forget_places, pfs_keys, sweep
from hammerfs.ondisk.node import LeafElm
from hammerfs.rw import WritableFS

LISTED = 2000
"""Elements of one piece of a list of candidates."""
MAX_CRC = (1 << 32) - 1
_FOREVER = 1000.0


class Outcome(StrEnum):
    """What became of a pair."""

    DONE = "done"
    """The second record refers to the first one's extent."""
    SHARED = "shared"
    """It did already."""
    DIFFERENT = "different"
    """The bytes differ, though the checksums do not, or the zones do."""
    FULL = "full"
    """The big-block of the first has as many references as can be counted."""
    GONE = "gone"
    """One of them is not there any more, or damaged."""


def extents(
    fs: HammerFS, pfs_id: int, start: Key | None, crcs: tuple[int, int] = (0, MAX_CRC)
) -> tuple[list[LeafElm], Key | None]:
    """Data records of a PFS, all generations, piece by piece, inside a section.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        start: Where to go on.
        crcs: The first and the last checksum that are of interest.

    Returns:
        Those with a payload and such a checksum, and where to go on (None at the end).

    Raises:
        CorruptError: The tree is damaged.
    """
    first, end = pfs_keys(pfs_id)
    least, most = crcs
    found = []
    for seen, elm in enumerate(scan(fs.tree, start or first, end), 1):
        if elm.rec_type == RECTYPE_DATA and elm.data_len and least <= elm.data_crc <= most:
            found.append(elm)
        if seen >= LISTED:
            return found, after(elm.sort_key)
    return found, None


class Dedup:
    """Makes second records of pairs refer to the extents of the first ones.

    Args:
        fs: The file system.
        pairs: Keys of data records.

    Raises:
        InvalidError: The volume version has no shared extents.
    """

    def __init__(self, fs: WritableFS, pairs: Sequence[tuple[Key, Key]]) -> None:
        if fs.volumes.version < VERSION_DEDUP:
            raise InvalidError(
                f"volume version {fs.volumes.version} has no shared extents, {VERSION_DEDUP} is the first"
            )
        self._fs = fs
        self._pairs = pairs
        self.outcomes: list[Outcome] = []

    async def run(self) -> list[Outcome]:
        """Do all pairs.

        Returns:
            What became of each.

        Raises:
            HammerError: The tree or the freemap is damaged, or the media failed.
        """
        if self._pairs:
            await sweep(self._fs, self._step, self._pairs[0][0], _FOREVER)
            forget_places(self._fs)
        return self.outcomes

    def _step(self, at: Key) -> Step:
        done = nbytes = 0
        while len(self.outcomes) < len(self._pairs) and done < CHANGED and nbytes < MOVED_BYTES:
            outcome, length = self._share(*self._pairs[len(self.outcomes)])
            self.outcomes.append(outcome)
            done += outcome is Outcome.DONE
            nbytes += length
        return Step(at if len(self.outcomes) < len(self._pairs) else None, done > 0)

    def _share(self, one: Key, other: Key) -> tuple[Outcome, int]:
        """One pair; how many bytes were compared."""
        fs = self._fs
        first, second = (next(scan(fs.tree, key, after(key)), None) for key in (one, other))
        if first is None or second is None or {first.rec_type, second.rec_type} != {RECTYPE_DATA}:
            return Outcome.GONE, 0
        off, length = first.data_offset, first.data_len
        if second.data_offset == off and second.data_len == length:
            return Outcome.SHARED, 0
        if second.data_len != length or zone_of(second.data_offset) != zone_of(off):
            return Outcome.DIFFERENT, 0
        try:
            if read_payload(fs, first) != read_payload(fs, second):
                return Outcome.DIFFERENT, length
            fs.alloc.add_ref(off, length)
        except CrcError:
            return Outcome.GONE, length
        except RefCountError:
            return Outcome.FULL, length
        fs.backend.tree.replace(other, second._replace(data_offset=off))
        fs.alloc.free(second.data_offset, length)
        return Outcome.DONE, length
