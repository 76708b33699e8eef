"""Zones of the slab: 128 KiB cut into chunks of one size, with everything about them kept outside.

The bookkeeping of a zone lies beside its memory, not at the start of it: 16 KiB buffers, a power of two, would
otherwise fit seven times instead of eight. A chunk is an object that is made when its memory is first handed out and
then lives as long as its zone; it carries the view of its bytes, and who has it.
"""

from __future__ import annotations

import mmap
from collections import deque
from typing import TYPE_CHECKING, Final

from kernelcore.arena import Buf
from kernelcore.malloctype import MallocType
from kernelcore.panic import KernelPanic

if TYPE_CHECKING:
    from kernelcore.slabcpu import SlabCpu

ZONE_SIZE: Final = 131072
CHUNK_LIMIT: Final = 16384
"""Most bytes of a chunk; what is larger gets pages of its own."""
SLIDE: Final = 20
"""How many chunks further each new zone begins, so that their first chunks use different cache sets."""

# (requests below this, chunk sizes are multiples of this, what to add to the rounded quotient)
_CLASSES: Final = (
    (128, 8, -1),
    (256, 16, 7),
    (512, 32, 15),
    (1024, 64, 23),
    (2048, 128, 31),
    (4096, 256, 39),
    (8192, 512, 47),
    (CHUNK_LIMIT + 1, 1024, 55),
)


def zoneindex(nbytes: int) -> tuple[int, int]:
    """The class of a request of 1..16384 bytes: its index, 0..71, and the size of its chunks."""
    for below, chunking, offset in _CLASSES:
        if nbytes < below:
            quotient = -(-nbytes // chunking)
            return quotient + offset, quotient * chunking
    raise ValueError(f"no class of chunks for {nbytes} bytes")


def chunk_bytes(nbytes: int) -> int:
    """What a request of `nbytes` really takes: the size of its class, or whole pages; 0 for none."""
    if nbytes > CHUNK_LIMIT:
        return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    return zoneindex(nbytes)[1] if nbytes > 0 else 0


CHUNK_SIZE: Final = tuple(sorted({zoneindex(n)[1] for n in range(1, CHUNK_LIMIT + 1)}))
"""Size of chunks by class."""
NZONES: Final = len(CHUNK_SIZE)

_POISON: Final = b"\xde\xc0\xad\xde" * (ZONE_SIZE // 4)
_POISON_VIEW: Final = memoryview(_POISON)


class Chunk:
    """Memory from kmalloc, and what is given back to kfree.

    `mv` is all of it, writable: at least what was asked for, up to the size of its class. `c_type` is the malloc type
    while it is in use, None while it is free.
    """

    __slots__ = ("c_index", "c_last", "c_type", "c_zone", "mv")

    def __init__(self, zone: Zone, index: int, mv: memoryview) -> None:
        self.c_zone = zone
        self.c_index = index
        self.mv = mv
        self.c_type: MallocType | None = None
        self.c_last: MallocType | None = None
        """The type it had when it was last freed: kept in debug mode, and for oversized chunks."""

    def __repr__(self) -> str:
        state = "free" if self.c_type is None else f"type '{self.c_type.ks_shortdesc}'"
        return f"<chunk {self.c_index} of {self.c_zone.label}, {state}>"


class Zone:
    """A zone: its owner alone allocates from it; other CPUs leave what they free on `z_rchunks`.

    What other CPUs touch is a deque or a dict, whose single operations are atomic. `z_rcount` is a counter in the form
    of a deque: as many items as remote frees are between their first and their last step, a notification on its way
    included. `z_rsignal` asks remote freers for a notification, and `z_notice` has an item while one is on its way.

    Args:
        owner: Its CPU.
        index: Its class.
        listed: The list of zones of that class, of that CPU, that have free chunks.
        buf: Its memory.
        start: The first chunk handed out, before all others; the rest follows in order, around the end.
    """

    __slots__ = (
        "label",
        "z_buf",
        "z_chunks",
        "z_chunksize",
        "z_class",
        "z_cpu",
        "z_lchunks",
        "z_nmax",
        "z_notice",
        "z_rchunks",
        "z_rcount",
        "z_rsignal",
        "z_uindex",
        "z_unused",
    )

    def __init__(self, owner: SlabCpu, index: int, listed: list[Zone], buf: Buf, start: int) -> None:
        self.z_cpu: SlabCpu | None = owner
        self.z_class = listed
        self.z_chunksize = size = CHUNK_SIZE[index]
        self.z_buf: Buf | None = buf
        self.z_nmax = self.z_unused = ZONE_SIZE // size
        self.z_uindex = start % self.z_nmax
        self.z_lchunks: list[Chunk] = []
        self.z_chunks: list[Chunk] = []
        self.z_rchunks: deque[Chunk] = deque()
        self.z_rcount: deque[None] = deque()
        self.z_rsignal = False
        self.z_notice: dict[int, Chunk] = {}
        self.label = f"zone {buf.index} ({size} bytes, cpu {owner.gd.gd_cpuid})"

    def __repr__(self) -> str:
        return f"<{self.label}, {self.z_nfree} of {self.z_nmax} chunks free>"

    @property
    def z_nfree(self) -> int:
        """Chunks that its owner can hand out: those freed and those never used."""
        return len(self.z_lchunks) + self.z_unused

    def bump(self) -> Chunk:
        """A chunk that was never used before.

        Raises:
            KernelPanic: There is none: the zone and its count of free chunks contradict each other.
        """
        if not self.z_unused or self.z_buf is None:
            raise KernelPanic(f"no chunk left in {self!r}")
        self.z_unused -= 1
        index = self.z_uindex
        self.z_uindex = index + 1 if index + 1 < self.z_nmax else 0
        start = index * self.z_chunksize
        chunk = Chunk(self, index, self.z_buf.mv[start : start + self.z_chunksize])
        self.z_chunks.append(chunk)
        return chunk

    def collect(self) -> int:
        """Take over what other CPUs have freed; returns how many chunks are free now. Only its owner may."""
        rchunks = self.z_rchunks
        for _ in range(len(rchunks)):
            self.z_lchunks.append(rchunks.popleft())
        return self.z_nfree

    def run_dry(self) -> None:
        """Its owner took the last free chunk: take over what others have freed, or leave the list of the class."""
        if self.collect():
            return
        self.z_rsignal = True
        if self.z_rchunks:  # freed by somebody who has not seen the signal, and does not tell
            self.z_rsignal = False
            self.collect()
            return
        self.z_class.remove(self)

    def relink(self) -> None:
        """It has free chunks again after it had run dry."""
        self.z_rsignal = False
        self.z_class.append(self)

    def give_up(self) -> Buf:
        """Its memory, for other use; the zone is done with."""
        assert self.z_buf is not None
        buf, self.z_buf = self.z_buf, None
        return buf


class Pages(Zone):
    """What stands for the zone of an oversized chunk: pages mapped for it alone. Nobody's: any CPU may free it.

    Args:
        nbytes: Whole pages.
    """

    __slots__ = ("z_map",)

    def __init__(self, nbytes: int) -> None:
        self.z_cpu = None
        self.z_chunksize = nbytes
        self.z_map = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.label = f"pages of its own ({nbytes} bytes)"

    def whole(self) -> memoryview:
        """The pages."""
        return memoryview(self.z_map)

    def unmap(self, chunk: Chunk) -> None:
        """Give the pages back.

        Raises:
            KernelPanic: Somebody holds a view of a part of them.
        """
        chunk.mv.release()
        try:
            self.z_map.close()
        except BufferError:
            raise KernelPanic(f"freed while somebody holds a view of it: {chunk!r}, {_last_use(chunk)}") from None


class _NoMemory(Zone):
    """Where the chunk of no bytes belongs."""

    __slots__ = ()

    def __init__(self) -> None:
        self.z_cpu = None
        self.z_chunksize = 0
        self.label = "no memory"


ZERO_CHUNK: Final = Chunk(_NoMemory(), 0, memoryview(bytearray()))
"""What a request of no bytes gets: one for all, never in use, never freed."""


# ------------------------------------------------------------------ debug mode


def poison(mv: memoryview) -> None:
    """Fill free memory with the pattern."""
    mv[:] = _POISON_VIEW[: len(mv)]


def check_poison(chunk: Chunk) -> None:
    """Raise KernelPanic if a free chunk was written to."""
    if chunk.mv != _POISON_VIEW[: len(chunk.mv)]:
        at = _first_difference(chunk.mv)
        raise KernelPanic(f"write after free at byte {at} of {chunk!r}, {_last_use(chunk)}")


def check_poison_unused(buf: Buf, what: str) -> None:
    """Raise KernelPanic if the memory of a zone that is in no use was written to."""
    if buf.mv != _POISON_VIEW:
        raise KernelPanic(f"write after free at byte {_first_difference(buf.mv)} of {what}")


def _last_use(chunk: Chunk) -> str:
    return "never used" if chunk.c_last is None else f"last of type '{chunk.c_last.ks_shortdesc}'"


def _first_difference(mv: memoryview) -> int:
    return next(i for i, byte in enumerate(mv) if byte != _POISON[i])
