"""Arena: page-aligned buffers of one size out of anonymous memory, with pins and read-only views.

A buffer object lives as long as its arena: handing one out is a list pop, with no allocation, no page fault after its
first use and no copy. Memory is touched when a buffer is first used, grows by regions up to a hard limit, and can be
given back to the host while it is idle. Views of a buffer show whatever it holds next once it has been freed: a pin
keeps it from being handed out again while somebody still looks at it.
"""

from __future__ import annotations

import mmap
import weakref
from typing import Final, NamedTuple

from kernelcore.panic import KernelPanic

CHUNK: Final = 16384
REGION_CHUNKS: Final = 256
"""Buffers in a region: 4 MiB at the usual size."""
ARENAS: Final[weakref.WeakSet[Arena]] = weakref.WeakSet()
"""Those of this process, for the statistics."""
_POISON: Final = b"\xde\xc0\xad\xde"
_FREE, _USED, _LIMBO = 0, 1, 2
_ADVICE: Final = getattr(mmap, "MADV_DONTNEED", None)


class ArenaRow(NamedTuple):
    """What statistics show of an arena."""

    name: str
    chunk: int
    """Bytes of a buffer."""
    limit: int
    """Most buffers."""
    made: int
    """Buffers touched so far."""
    in_use: int
    pinned: int
    """Freed while pinned, and not back yet."""
    allocs: int
    failures: int
    """Times all were in use."""


class Buf:
    """One buffer.

    Args:
        arena: Where it belongs.
        index: Its number there; neighbours follow each other in memory within a region.
        mv: Its bytes, writable.
    """

    __slots__ = ("_pins", "_state", "arena", "index", "mv", "ro")

    def __init__(self, arena: Arena, index: int, mv: memoryview) -> None:
        self.arena = arena
        self.index = index
        self.mv = mv
        self.ro = mv.toreadonly()
        """The same bytes, read-only: what is handed to others."""
        self._pins = 0
        self._state = _FREE

    def __repr__(self) -> str:
        state = ("free", "in use", "freed, pinned")[self._state]
        return f"<Buf {self.index} of arena '{self.arena.name}', {state}, {self._pins} pins>"

    @property
    def pins(self) -> int:
        """Who still looks at it."""
        return self._pins

    def pin(self) -> None:
        """Keep its bytes as they are beyond `Arena.free`, until `unpin`.

        Raises:
            KernelPanic: It is free.
        """
        if self._state == _FREE:
            raise KernelPanic(f"pin of a free buffer: {self!r}")
        self._pins += 1

    def unpin(self) -> None:
        """One looker less; the last one gives a buffer back that was freed meanwhile.

        Raises:
            KernelPanic: It is not pinned.
        """
        if self._pins <= 0:
            raise KernelPanic(f"unpin of a buffer without pins: {self!r}")
        self._pins -= 1
        if not self._pins and self._state == _LIMBO:
            self.arena.take_back(self)


class Arena:
    """Buffers of one size.

    Args:
        size_bytes: Most memory, rounded down to whole buffers.
        chunk: Bytes of a buffer, a multiple of the page size.
        name: For messages and statistics.
        debug: Fill freed buffers with a pattern, and check it when they are handed out again.

    Raises:
        ValueError: A size that makes no sense.
    """

    def __init__(self, size_bytes: int, chunk: int = CHUNK, *, name: str = "arena", debug: bool = False) -> None:
        if chunk <= 0 or chunk % mmap.PAGESIZE:
            raise ValueError(f"buffers of {chunk} bytes are not whole pages of {mmap.PAGESIZE}")
        if size_bytes < chunk:
            raise ValueError(f"an arena of {size_bytes} bytes holds no buffer of {chunk}")
        self.name = name
        self.chunk = chunk
        self.limit = size_bytes // chunk
        self._debug = debug
        self._regions: list[mmap.mmap] = []
        self._bufs: list[Buf] = []
        self._free: list[Buf] = []
        self._pinned = 0
        self._allocs = 0
        self._failures = 0
        self._pattern = (_POISON * (chunk // 4 + 1))[:chunk]
        ARENAS.add(self)

    def alloc(self) -> Buf | None:
        """A buffer with any content; None when all are in use.

        Raises:
            KernelPanic: Debug: somebody wrote to it after it had been freed.
        """
        free = self._free
        if not free and not self._grow():
            self._failures += 1
            return None
        buf = free.pop()
        buf._state = _USED
        self._allocs += 1
        if self._debug:
            self._check_poison(buf)
        return buf

    def alloc_run(self, count: int) -> list[Buf] | None:
        """Buffers that follow each other in memory, for one read or write; None when there is no such run.

        Args:
            count: How many, 1..256.
        """
        by_index = sorted(self._free, key=_index_of)
        run = self._run_in(by_index, count)
        while run is None and self._grow():
            run = self._run_in(sorted(self._free, key=_index_of), count)
        if run is None:
            self._failures += 1
            return None
        taken = set(map(_index_of, run))
        self._free = [buf for buf in self._free if buf.index not in taken]
        for buf in run:
            buf._state = _USED
            if self._debug:
                self._check_poison(buf)
        self._allocs += count
        return run

    def run_view(self, run: list[Buf]) -> memoryview:
        """The bytes of a run of neighbours as one view, writable."""
        region = self._regions[run[0].index // REGION_CHUNKS]
        start = run[0].index % REGION_CHUNKS * self.chunk
        return memoryview(region)[start : start + len(run) * self.chunk]

    def free(self, buf: Buf) -> None:
        """Take a buffer back; a pinned one comes back with its last unpin.

        Raises:
            KernelPanic: It is another arena's, or free already.
        """
        if buf.arena is not self:
            raise KernelPanic(f"buffer freed to arena '{self.name}': {buf!r}")
        if buf._state != _USED:
            raise KernelPanic(f"double free: {buf!r}")
        if buf._pins:
            buf._state = _LIMBO
            self._pinned += 1
        else:
            self._put_back(buf)

    def take_back(self, buf: Buf) -> None:
        """The last pin of a freed buffer is gone (`Buf.unpin` calls this)."""
        self._pinned -= 1
        self._put_back(buf)

    def release(self) -> int:
        """Give the memory of free buffers back to the host; they stay usable. Returns the bytes given back."""
        if self._debug:  # the pattern in free buffers has to stay
            return 0
        return sum(self.discard(buf) for buf in self._free)

    def discard(self, buf: Buf) -> int:
        """Give the memory of one buffer back to the host; it reads as zeros then. Returns the bytes given back."""
        if _ADVICE is None:
            return 0
        region = self._regions[buf.index // REGION_CHUNKS]
        region.madvise(_ADVICE, buf.index % REGION_CHUNKS * self.chunk, self.chunk)
        return self.chunk

    def stats(self) -> ArenaRow:
        """Counters."""
        made = len(self._bufs)
        in_use = made - len(self._free) - self._pinned
        return ArenaRow(self.name, self.chunk, self.limit, made, in_use, self._pinned, self._allocs, self._failures)

    def close(self) -> None:
        """Unmap everything.

        Raises:
            KernelPanic: A buffer is still in use or pinned, or somebody holds a view of one.
        """
        busy = [buf for buf in self._bufs if buf._state != _FREE]
        if busy:
            raise KernelPanic(f"arena '{self.name}' closed with {len(busy)} buffers in use, such as {busy[0]!r}")
        self._free.clear()
        for buf in self._bufs:
            buf.ro.release()
            buf.mv.release()
        self._bufs.clear()
        ARENAS.discard(self)
        try:
            while self._regions:
                self._regions[-1].close()
                self._regions.pop()
        except BufferError:
            raise KernelPanic(f"arena '{self.name}' closed while somebody holds a view of a buffer") from None

    def _grow(self) -> bool:
        """Map another region; whether there was room for it."""
        made = len(self._bufs)
        count = min(REGION_CHUNKS, self.limit - made)
        if count <= 0:
            return False
        region = mmap.mmap(-1, count * self.chunk, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._regions.append(region)
        whole = memoryview(region)
        fresh = [Buf(self, made + i, whole[i * self.chunk : (i + 1) * self.chunk]) for i in range(count)]
        self._bufs += fresh
        if self._debug:
            for buf in fresh:
                buf.mv[:] = self._pattern
        self._free.extend(reversed(fresh))
        return True

    def _put_back(self, buf: Buf) -> None:
        buf._state = _FREE
        if self._debug:
            buf.mv[:] = self._pattern
        self._free.append(buf)

    def _check_poison(self, buf: Buf) -> None:
        if buf.mv != self._pattern:
            raise KernelPanic(f"write after free: {buf!r}")

    def _run_in(self, by_index: list[Buf], count: int) -> list[Buf] | None:
        """The first `count` neighbours among free buffers."""
        run: list[Buf] = []
        for buf in by_index:
            follows = run and buf.index == run[-1].index + 1 and buf.index % REGION_CHUNKS
            run = [*run, buf] if follows else [buf]
            if len(run) == count:
                return run
        return None


def _index_of(buf: Buf) -> int:
    return buf.index
