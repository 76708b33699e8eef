"""What the slab has: memory for zones, and for each CPU its zones, its free zones and its accounts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from kernelcore.arena import Arena, Buf
from kernelcore.callout import Callout
from kernelcore.globaldata import GlobalData, mycpu
from kernelcore.malloctype import M_POWEROF2, M_USE_RESERVE, M_WAITOK, M_ZERO, MallocType, TypeUse
from kernelcore.panic import KernelPanic
from kernelcore.serialize import Spinlock
from kernelcore.sleep import wakeup
from kernelcore.zone import (
    NZONES,
    SLIDE,
    ZONE_SIZE,
    Chunk,
    Pages,
    Zone,
    check_poison,
    check_poison_unused,
    poison,
)

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain

ZONE_RELS_THRESH: Final = 32
"""Free zones that a CPU keeps."""
RESERVE_ZONES: Final = 4
"""The last zones, for M_USE_RESERVE."""
CLEANUP_S: Final = 10.0
SLAB_MEMORY: Final = 1 << 30
"""Bytes in zones at most, where nobody says otherwise."""
ODD: Final = M_ZERO | M_POWEROF2
"""Flags that always need the long way."""


class SlabCpu:
    """What one CPU has: its zones by class, its free zones, its accounts. Fields are its own, save where said."""

    __slots__ = (
        "attend",
        "attend_free",
        "by_size",
        "callout",
        "debug",
        "due",
        "free_zones",
        "gd",
        "junk_index",
        "parked",
        "slab",
        "slabs_allocated",
        "slabs_freed",
        "use",
        "wanted",
        "zone_ary",
        "zones",
    )

    def __init__(self, slab: Slab, gd: GlobalData) -> None:
        self.slab = slab
        self.gd = gd
        self.debug = slab.debug
        self.zone_ary: list[list[Zone]] = [[] for _ in range(NZONES)]
        """By class, the zones with free chunks; the head is the last item."""
        self.zones: dict[Zone, None] = {}
        """All zones, those that have run dry as well."""
        self.by_size: dict[int, list[Zone]] = {}
        """The same by the sizes that were asked for."""
        self.free_zones: list[Buf] = []
        self.parked: list[Chunk] = []
        """Oversized chunks freed where unmapping would not do, for the next malloc that may block."""
        self.attend = ODD
        """Flags of kmalloc that need the long way: M_WAITOK is one while there is something to give back."""
        self.junk_index = 0
        self.use: dict[MallocType, TypeUse] = {}
        self.wanted = False
        """Somebody sleeps for memory: the next free wakes. Set by any CPU, before `attend_free`."""
        self.attend_free = self.debug
        """kfree has more to do: somebody sleeps, or debug mode."""
        self.due: dict[int, Chunk] = {}
        """Has an item while a cleanup is asked for. Set by any CPU."""
        self.callout = Callout(SlabCpu.cleanup, self)
        self.slabs_allocated = 0
        self.slabs_freed = 0

    def new_zone(self, zi: int, flags: int) -> bool:
        """Give a class another zone, a free one or new memory; False where there is none."""
        if self.free_zones:
            buf = self.free_zones.pop()
            if self.debug:
                check_poison_unused(buf, f"free zone {buf.index} of cpu {self.gd.gd_cpuid}")
        else:
            fresh = self.slab.take_zone(flags)  # leaves a critical section: IPIs may have freed and allocated
            if fresh is None:
                return bool(self.zone_ary[zi])
            buf = fresh
            self.slabs_allocated += 1
            if self.debug:
                poison(buf.mv)
        zone = Zone(self, zi, self.zone_ary[zi], buf, self.junk_index)
        self.junk_index = (self.junk_index + SLIDE) % ZONE_SIZE
        self.zones[zone] = None
        self.zone_ary[zi].append(zone)
        return True

    def retire(self, zone: Zone) -> None:
        """Make a zone that is altogether free a free zone, unless it is the only one of its class or still told of."""
        zones = zone.z_class
        if len(zones) < 2 or zone.z_rcount:
            return
        if self.debug:
            for chunk in zone.z_chunks:
                check_poison(chunk)
        zones.remove(zone)
        del self.zones[zone]
        self.free_zones.append(zone.give_up())
        if len(self.free_zones) > self.slab.zone_cache:
            self.attend |= M_WAITOK

    def release(self) -> None:
        """For a caller who may block: give back what is too much."""
        self.attend = ODD
        while len(self.free_zones) > self.slab.zone_cache:
            self.slab.give_zone(self.free_zones.pop(0), discard=True)
            self.slabs_freed += 1
        while self.parked:
            chunk = self.parked.pop()
            assert isinstance(chunk.c_zone, Pages)
            chunk.c_zone.unmap(chunk)

    def give_back(self) -> None:
        """For a thread that waits for memory: let others have the free zones."""
        self._sweep()
        gave = bool(self.free_zones)
        while self.free_zones:
            self.slab.give_zone(self.free_zones.pop(), discard=False)
            self.slabs_freed += 1
        if gave:
            self.wake()

    def cleanup(self) -> None:
        """Retire zones whose last chunks were freed elsewhere."""
        self.due.clear()  # first: who frees from now on asks for another
        self._sweep()

    def wake(self) -> None:
        """Wake those who sleep for memory."""
        self.attend_free = self.debug  # both before the wakeup: who still finds nothing sets them again
        self.wanted = False
        wakeup(self.slab)

    def _sweep(self) -> None:
        """Take over what others have freed; retire what is free."""
        for zones in self.zone_ary:
            for zone in tuple(zones):
                if zone.collect() == zone.z_nmax:
                    self.retire(zone)


class Slab:
    """The slab of a domain; makes itself known to its CPUs.

    Args:
        domain: Whose.
        memory: Most bytes in zones.
        debug: Fill free memory with a pattern and check it; panic, not wait, at a limit. The domain's where None.
        zone_cache: Free zones that each CPU keeps.
        reserve: Zones of `memory` that only M_USE_RESERVE may take.
        cleanup_s: Seconds from a remote free that nobody is told of to the cleanup that looks for it.

    Raises:
        KernelPanic: The domain has one.
    """

    def __init__(
        self,
        domain: Domain,
        memory: int = SLAB_MEMORY,
        *,
        debug: bool | None = None,
        zone_cache: int = ZONE_RELS_THRESH,
        reserve: int = RESERVE_ZONES,
        cleanup_s: float = CLEANUP_S,
    ) -> None:
        if domain.gds[0].gd_slab is not None:
            raise KernelPanic(f"domain '{domain.name}' has a slab already")
        self.memory = memory
        self.debug = domain.debug if debug is None else debug
        self.zone_cache = zone_cache
        self.reserve = reserve
        self.cleanup_s = cleanup_s
        self.arena = Arena(memory, ZONE_SIZE, name=f"slab of {domain.name}")
        self.types: list[MallocType] = []
        self.big: dict[Chunk, None] = {}
        """Oversized chunks in use."""
        self._spin = Spinlock("slab")
        self.cpus = [SlabCpu(self, gd) for gd in domain.gds]
        for sc in self.cpus:
            sc.gd.gd_slab = sc

    def add_type(self, mtype: MallocType) -> list[TypeUse]:
        """Make a type known to all CPUs; returns its accounts (`MallocType` calls this)."""
        uses = [TypeUse() for _ in self.cpus]
        for sc, use in zip(self.cpus, uses, strict=True):
            sc.use[mtype] = use
        self.types.append(mtype)
        return uses

    def remove_type(self, mtype: MallocType) -> None:
        """Forget a type: nothing can be allocated of it any more."""
        self.types.remove(mtype)
        for sc in self.cpus:
            del sc.use[mtype]

    def take_zone(self, flags: int) -> Buf | None:
        """Memory for a zone; None where there is none left, or only the reserve."""
        with self._spin:
            row = self.arena.stats()
            kept = 0 if flags & M_USE_RESERVE else self.reserve
            return self.arena.alloc() if row.in_use < row.limit - kept else None

    def give_zone(self, buf: Buf, discard: bool) -> None:
        """Take the memory of a zone back; `discard` gives it on to the host."""
        with self._spin:
            if discard:
                self.arena.discard(buf)
            self.arena.free(buf)


_making = threading.Lock()


def slab_of(domain: Domain | None = None) -> Slab:
    """The slab of `domain`, or of the one that runs; made with the usual values where there is none yet."""
    if domain is None:
        domain = mycpu().gd_domain
    with _making:
        sc = domain.gds[0].gd_slab
        if sc is None:
            return Slab(domain)
    slab: Slab = sc.slab
    return slab
