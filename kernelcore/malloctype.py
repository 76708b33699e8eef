"""Malloc types: what memory is used for, how much of it on which CPU, and how much at most.

Every CPU keeps its own account of a type and writes nobody else's, so only the sum over the CPUs means anything: what
one CPU allocates and another frees makes the first account too high and the second too low, perhaps negative.

To spare every malloc the sum, a CPU has an *allowance*: bytes it may take before anybody has to look. All allowances
together never exceed what is left below the type's highest use so far; a CPU that has used its own up adds up the
accounts (`MallocType.grow`). So the high use is exact and the limit hard, at the cost of one subtraction. Where CPUs
are OS threads an allowance may be withdrawn at the very moment it is used: there both are exact but for what the CPUs
allocate in that moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kernelcore.slabcpu import Slab

# Flags of kmalloc. WAITOK says that the caller may block.
M_RNOWAIT: Final = 0x0001
M_WAITOK: Final = 0x0002
M_ZERO: Final = 0x0100
M_USE_RESERVE: Final = 0x0200  # may take the last zones
M_NULLOK: Final = 0x0400  # None where the type is at its limit
M_POWEROF2: Final = 0x0800  # round the size up to a power of two
M_NOWAIT: Final = M_RNOWAIT | M_NULLOK
M_INTWAIT: Final = M_WAITOK | M_USE_RESERVE


class TypeUse:
    """One CPU's account of one type; bytes, and numbers of chunks."""

    __slots__ = ("blocked", "calls", "frees", "left", "memuse")

    def __init__(self) -> None:
        self.left = 0
        """The allowance. Its CPU spends it; another one may set it to zero."""
        self.memuse = 0
        self.calls = 0
        self.frees = 0
        self.blocked = 0
        """Requests that met the limit."""


class MallocType:
    """A type, known to one domain's slab from its construction to `slab.malloc_uninit`.

    Args:
        desc: Its name.
        limit: Most bytes in use; 0 for a tenth of the slab's memory.
        slab: Whose; the running domain's (made if there is none yet) where none is given.
    """

    __slots__ = ("ks_highuse", "ks_limit", "ks_shortdesc", "ks_slab", "ks_use")

    def __init__(self, desc: str, limit: int = 0, slab: Slab | None = None) -> None:
        if slab is None:
            from kernelcore.slabcpu import slab_of

            slab = slab_of()
        self.ks_shortdesc = desc
        self.ks_slab = slab
        self.ks_limit = limit or slab.memory // 10
        self.ks_highuse = 0
        """Most bytes that were ever in use at one time."""
        self.ks_use: list[TypeUse] = slab.add_type(self)

    def __repr__(self) -> str:
        return f"<malloc type '{self.ks_shortdesc}', {self.ks_memuse} of {self.ks_limit} bytes>"

    @property
    def ks_memuse(self) -> int:
        """Bytes in use."""
        return sum(use.memuse for use in self.ks_use)

    @property
    def ks_inuse(self) -> int:
        """Chunks in use."""
        return self.ks_calls - sum(use.frees for use in self.ks_use)

    @property
    def ks_calls(self) -> int:
        """Requests granted."""
        return sum(use.calls for use in self.ks_use)

    @property
    def ks_blocked(self) -> int:
        """Requests that met the limit."""
        return sum(use.blocked for use in self.ks_use)

    def grow(self, use: TypeUse, nbytes: int) -> bool:
        """Bring the allowance of the running CPU, `use`, to at least `nbytes`; False where the limit forbids it."""
        total = sum(one.memuse for one in self.ks_use)
        room = self.ks_highuse - total - sum(one.left for one in self.ks_use if one is not use)
        if room < nbytes:
            for one in self.ks_use:
                one.left = 0
            room = self.ks_highuse - total
            if room < nbytes:
                if total + nbytes > self.ks_limit:
                    return False
                self.ks_highuse = total + nbytes
                room = nbytes
        # Not all of it: the next CPU to ask would have to withdraw it again.
        use.left = room if len(self.ks_use) == 1 else nbytes + (room - nbytes) // 2
        return True
