"""A cached buffer: 16 KiB of one volume, its dirty class, and the B-Tree nodes decoded from it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from hammerfs.volume import Volume
from kernelcore.arena import Buf

if TYPE_CHECKING:
    from hammerfs.btree.node import Node


class DirtyClass(enum.IntEnum):
    """What a changed buffer is written as; the classes reach the media in a fixed order."""

    CLEAN = 0
    UNDO = 1
    DATA = 2
    META = 3
    VOLUME = 4


class Buffer:
    """16 KiB of a volume in memory.

    A buffer with references or of a dirty class stays. A clean one may go whenever another one is brought in, so a
    view of it is good only until the next call that may do so.

    Args:
        key: Address without its zone, divided by 16384.
        volume: The volume.
        byte_off: Byte offset in it.
        mem: Chunk of memory that holds the bytes.
    """

    __slots__ = ("byte_off", "cost", "dirty", "key", "mem", "nodes", "refs", "ro", "used", "volume")

    def __init__(self, key: int, volume: Volume, byte_off: int, mem: Buf) -> None:
        self.key = key
        self.volume = volume
        self.byte_off = byte_off
        self.mem = mem
        self.ro = mem.ro
        """Read-only view of the 16384 bytes."""
        self.refs = 0
        self.used = True
        """Set by every access; the sweep of the cache clears it."""
        self.dirty = DirtyClass.CLEAN
        self.nodes: dict[int, Node] | None = None
        """Nodes decoded from it, by address."""
        self.cost = 0
        """Bytes that its decoded nodes take beside it, estimated."""
