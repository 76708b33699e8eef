"""Verification of addresses against the freemap.

Zones 4 and 8..15 are tags on zone-2 addresses, so the fast path (`Volumes.locate`) only checks that a range lies
inside its volume; `BlockMap.verify` also asks the freemap whether the big-block is owned by the zone of the tag.
"""

from __future__ import annotations

from hammerfs.const import BIGBLOCK_MASK, ZONE_SHIFT
from hammerfs.errors import CorruptError
from hammerfs.freemap import Freemap
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes


class BlockMap:
    """Address translation of a volume set.

    Args:
        volumes: The set.
        freemap: Who owns which big-block.
    """

    __slots__ = ("_volumes", "freemap")

    def __init__(self, volumes: Volumes, freemap: Freemap) -> None:
        self._volumes = volumes
        self.freemap = freemap

    def translate(self, off: int, nbytes: int) -> tuple[Volume, int]:
        """The volume and the byte offset in it of `nbytes` at address `off`.

        Raises:
            CorruptError: As `Volumes.locate`.
        """
        return self._volumes.locate(off, nbytes)

    def verify(self, off: int, nbytes: int) -> None:
        """Check that the range lies in a big-block owned by the zone of its tag and handed out already.

        Raises:
            CorruptError: It does not.
        """
        self._volumes.locate(off, nbytes)
        layer2 = self.freemap.layer2(off)
        if layer2 is None or layer2.zone != off >> ZONE_SHIFT:
            owner = "none" if layer2 is None else str(layer2.zone)
            raise CorruptError(f"big-block belongs to zone {owner}", offset=off)
        if (off & BIGBLOCK_MASK) + nbytes > layer2.append_off:
            raise CorruptError(f"range of {nbytes} bytes lies behind the append point {layer2.append_off}", offset=off)
