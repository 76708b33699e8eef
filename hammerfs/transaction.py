"""Transaction ids: one counter for the whole file system; object ids come from it in batches."""

from __future__ import annotations

from hammerfs.errors import HammerError

_MASTER_STEP = 16
_LAST_TID = 0xFFFFFFFFFF000000
_BATCH_STEPS = 2048
_BATCH_IDS = 1024
"""Object ids of one batch: from a multiple of 1024 on, so that half of the counter's steps pay for them."""


class TidCounter:
    """Gives out transaction ids.

    Args:
        next_tid: The highest one known to have been used (`vol0_next_tid`).
        master_id: 0..15, kept in the low four bits so that several masters never collide; None: every value is used.
    """

    __slots__ = ("_next_id", "_stop_id", "master_id", "next_tid")

    def __init__(self, next_tid: int, master_id: int | None = 0) -> None:
        self.next_tid = next_tid + (master_id is None)
        """Not below any id given out. A fresh file system counts one less than the ids of its first records: with the
        low bits unused that does no harm, else it would be given out again."""
        self.master_id = master_id
        self._next_id = self._stop_id = 0

    @property
    def newest(self) -> int:
        """As of this, all is visible that was ever written, and nothing that will be."""
        if self.master_id is None:
            return self.next_tid
        return ((self.next_tid + _MASTER_STEP) & ~(_MASTER_STEP - 1)) - 1

    def alloc(self, count: int = 1) -> int:
        """The first of `count` ids nobody has used.

        Raises:
            HammerError: The space of ids is exhausted.
        """
        if self.master_id is None:
            tid = self.next_tid + 1
            self.next_tid = tid + count
        else:
            tid = (self.next_tid + _MASTER_STEP) & ~(_MASTER_STEP - 1)
            self.next_tid = tid + count * _MASTER_STEP
            tid |= self.master_id
        if tid >= _LAST_TID:
            raise HammerError(f"transaction ids are exhausted at 0x{tid:016x}")
        return tid

    def alloc_object(self) -> int:
        """An object id nobody has used. Ids given out one after the other are neighbours in the tree."""
        if self._next_id == self._stop_id:
            tid = self.alloc(_BATCH_STEPS)
            self._next_id = (tid + _BATCH_IDS - 1) & ~(_BATCH_IDS - 1)
            self._stop_id = self._next_id + _BATCH_IDS
        obj_id = self._next_id
        self._next_id += 1
        return obj_id

    def raise_to(self, tid: int) -> None:
        """A TID from elsewhere (a mirror stream) has been written."""
        self.next_tid = max(self.next_tid, tid)
