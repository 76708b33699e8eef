"""Pipes of buffers: a guaranteed number, allocated in advance, and an upper limit.

For who must make progress to get memory free, a flusher above all: he waits only for his own buffers to come back,
never for memory that others have and that only his progress would free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelcore.globaldata import mycpu
from kernelcore.malloctype import M_NULLOK, M_RNOWAIT, M_USE_RESERVE, MallocType
from kernelcore.panic import KernelPanic, LimitExceeded
from kernelcore.sched import assert_can_block
from kernelcore.serialize import Spinlock
from kernelcore.slab import kfree, kmalloc
from kernelcore.sleep import sleep_until, wakeup_one
from kernelcore.zone import Chunk

if TYPE_CHECKING:
    from kernelcore.thread import Thread


class MPipe:
    """A pipe of chunks.

    Args:
        mtype: Their malloc type.
        nbytes: Size of each.
        nnom: How many it always has; allocated at once.
        nmax: How many at most; 0 for no limit but the type's.

    Raises:
        ValueError: Numbers that make no sense.
        LimitExceeded: There is no memory for the guaranteed ones.
    """

    __slots__ = (
        "__weakref__",
        "_free",
        "_out",
        "_spin",
        "_total",
        "_waiters",
        "mtype",
        "nbytes",
        "nmax",
        "nnom",
        "waits",
    )

    def __init__(self, mtype: MallocType, nbytes: int, nnom: int, nmax: int = 0) -> None:
        if nbytes <= 0 or nnom < 1 or (nmax and nmax < nnom):
            raise ValueError(f"an mpipe of {nnom} to {nmax or 'any number of'} buffers of {nbytes} bytes")
        self.mtype = mtype
        self.nbytes = nbytes
        self.nnom = nnom
        self.nmax = nmax
        self.waits = 0
        """Times a thread went to sleep for a buffer."""
        self._spin = Spinlock(mtype.ks_shortdesc)
        self._free: list[Chunk] = []
        self._out: dict[Chunk, None] = {}
        self._total = 0
        self._waiters: dict[Thread, None] = {}
        while self._total < nnom:
            chunk = self._more()
            if chunk is None:
                made = self._total
                self._give_up()
                raise LimitExceeded(f"an mpipe of type '{mtype.ks_shortdesc}' gets {made} of {nnom} buffers")
            self._free.append(chunk)

    def __repr__(self) -> str:
        return f"<mpipe '{self.mtype.ks_shortdesc}', {len(self._out)} of {self._total} buffers in use>"

    @property
    def total(self) -> int:
        """Buffers it has, in use or not."""
        return self._total

    @property
    def in_use(self) -> int:
        """Buffers in use."""
        return len(self._out)

    def alloc_nowait(self) -> Chunk | None:
        """A buffer with any content; None where all are in use and there is no memory or no room for more."""
        try:
            chunk = self._free.pop()
        except IndexError:
            more = self._more()
            if more is None:
                return None
            chunk = more
        self._out[chunk] = None
        return chunk

    async def alloc_waitok(self) -> Chunk:
        """A buffer; sleeps until one comes back, where there can be no more.

        Raises:
            WrongContext: The caller may not sleep.
        """
        gd = mycpu()
        assert_can_block(gd, f"mpipe '{self.mtype.ks_shortdesc}'")
        chunk = self.alloc_nowait()
        if chunk is not None:
            return chunk
        with self._spin:
            self.waits += 1
        td = gd.gd_curthread
        self._waiters[td] = None
        try:
            return await sleep_until(self, self.alloc_nowait, self.mtype.ks_shortdesc)
        finally:
            del self._waiters[td]

    def free(self, chunk: Chunk) -> None:
        """Give a buffer back, on any CPU. What is beyond the guaranteed number goes back to the slab.

        Raises:
            KernelPanic: It is not one of this pipe's that is in use.
        """
        try:
            del self._out[chunk]
        except KeyError:
            raise KernelPanic(f"free to {self!r} of {chunk!r}, which is not in use there") from None
        with self._spin:
            surplus = self._total > self.nnom and not self._waiters
            if surplus:
                self._total -= 1
            else:
                self._free.append(chunk)
        if surplus:
            kfree(chunk, self.mtype)
        if self._waiters:
            wakeup_one(self)

    def close(self) -> None:
        """Give everything back to the slab.

        Raises:
            KernelPanic: A buffer is in use.
        """
        if self._out:
            raise KernelPanic(f"closed: {self!r}")
        self._give_up()

    def _more(self) -> Chunk | None:
        """Another buffer from the slab, within the limit."""
        with self._spin:
            if self.nmax and self._total >= self.nmax:
                return None
            self._total += 1
        chunk = kmalloc(self.nbytes, self.mtype, M_RNOWAIT | M_NULLOK | M_USE_RESERVE)
        if chunk is None:
            with self._spin:
                self._total -= 1
        return chunk

    def _give_up(self) -> None:
        while self._free:
            kfree(self._free.pop(), self.mtype)
            self._total -= 1
