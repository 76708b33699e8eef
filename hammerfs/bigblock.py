"""Big-blocks as the allocator sees them: the freemap's entry as it will be, and what holds space back beside it."""

from __future__ import annotations

from hammerfs.addr import round16
from hammerfs.const import BIGBLOCK_BITS, BIGBLOCK_SIZE, OFF_LONG_MASK, ZONE_FREE
from hammerfs.ondisk.blockmap import Layer2

NOBODY = -1
"""`Block.user` of a big-block in which nothing may be allocated."""


class Hold:
    """Why a big-block, or what lies below a mark in it, is kept from being handed out, beside what the freemap says.

    Args:
        zone: The zone that reserved space in it, or owned it until it became free.
    """

    __slots__ = ("delayed", "mark", "nbytes", "zone")

    def __init__(self, zone: int) -> None:
        self.zone = zone
        self.mark = 0
        """Space below has been handed out."""
        self.nbytes = 0
        """Reserved and neither committed nor abandoned."""
        self.delayed = False
        """It became free, but a crash could bring back what pointed into it."""


class Block:
    """A big-block in use.

    Args:
        index: Its number, see `bigblock_index`.
        entry: Its layer-2 entry.
        where: Address of the entry.
        hold: What else holds space back.
    """

    __slots__ = ("append", "dirty", "free", "hold", "index", "old", "user", "where", "zone")

    def __init__(self, index: int, entry: Layer2, where: int, hold: Hold | None) -> None:
        self.index = index
        self.old = entry
        """The entry as the freemap has it."""
        self.where = where
        self.zone = entry.zone
        self.append = entry.append_off
        self.free = entry.bytes_free
        self.dirty = False
        self.user = 0
        """Zone that may allocate behind its own cursor without looking further; 0 none in particular, -1 none."""
        self.attach(hold)

    def attach(self, hold: Hold | None) -> None:
        """The hold has changed, come or gone."""
        self.hold = hold
        self._set_user()

    def give(self, zone: int) -> None:
        """The owner has changed."""
        self.zone = zone
        self._set_user()

    def used_by(self, zone: int) -> int:
        """Bytes from its start that a zone can't have: all of them when the big-block is not for it."""
        hold = self.hold
        if self.zone not in {ZONE_FREE, zone} or (hold is not None and hold.zone != zone):
            return BIGBLOCK_SIZE
        return self.append if hold is None else max(self.append, hold.mark)

    def _set_user(self) -> None:
        hold = self.hold
        if hold is None:
            self.user = self.zone
        elif hold.delayed or self.zone not in {ZONE_FREE, hold.zone}:
            self.user = NOBODY
        else:
            self.user = hold.zone


class Cursor:
    """Where a zone goes on.

    Args:
        zone: The zone.
        next_offset: The header's hint, which may be anything.
    """

    __slots__ = ("block", "next", "stop", "zone")

    def __init__(self, zone: int, next_offset: int) -> None:
        self.zone = zone
        self.next = round16(next_offset)
        self.block: Block | None = None
        """The big-block of `next`, when it is known."""
        self.stop = 0
        """Address behind that big-block."""


def bigblock_index(off: int) -> int:
    """Number of the big-block of an address: its bits without the zone, divided by the size of a big-block."""
    return (off & OFF_LONG_MASK) >> BIGBLOCK_BITS
