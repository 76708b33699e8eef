"""cpusync: bring other CPUs to rest, then run a function on each.

`interlock` returns when every named CPU has acknowledged and spins in its IPI processing; `deinterlock` lets them go,
each running the function once. `quick` only runs it everywhere.

Two masters at once must neither deadlock nor both believe the other at rest. So a CPU that is still gathering
acknowledgements for its own sync answers a master of a lower number, and then may not complete before that one has let
it go; it leaves masters of higher numbers waiting until it is done itself. The order is total, so somebody always gets
through. (DragonFly lets a master that has answered another one complete; then both run.)

In a domain of one OS thread all other CPUs are at rest already: only the functions are run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kernelcore.crit import crit_enter, crit_exit
from kernelcore.globaldata import GlobalData, cpu, mycpu
from kernelcore.ipiq import process_ipiq, send_ipiq
from kernelcore.panic import KernelPanic, thread_label

PHASE_NONE: Final = 0
PHASE_GATHER: Final = 1
PHASE_HELD: Final = 2


class CpuSync:
    """One rendezvous: `fn(data)` on each CPU of the bit mask `mask`. Reusable when done."""

    __slots__ = ("cs_data", "cs_done", "cs_fn", "cs_mack", "cs_mask", "cs_master", "cs_release", "cs_targets")

    def __init__(self, mask: int, fn: Callable[[Any], object] | None, data: Any = None) -> None:
        self.cs_mask = mask
        self.cs_fn = fn
        self.cs_data = data
        # Dicts as atomic sets of CPU numbers: each CPU adds only itself.
        self.cs_mack: dict[int, None] = {}
        self.cs_done: dict[int, None] = {}
        self.cs_release = False
        self.cs_master: GlobalData | None = None
        self.cs_targets: list[GlobalData] = []

    def interlock(self) -> None:
        """Bring all other named CPUs to rest; returns in a critical section that `deinterlock` leaves.

        Raises:
            KernelPanic: this CPU masters a sync already.
        """
        gd = self._begin()
        domain = gd.gd_domain
        if not domain.contended:
            gd.gd_csphase = PHASE_HELD
            return
        gd.gd_csphase = PHASE_GATHER
        for target in self.cs_targets:
            send_ipiq(target, _arrive, self)
        while len(self.cs_mack) < len(self.cs_targets) or _held_by_another(gd):
            process_ipiq()
            domain.spin(gd)
        gd.gd_csphase = PHASE_HELD

    def deinterlock(self) -> None:
        """Run the function on every named CPU and let them all go.

        Raises:
            KernelPanic: this CPU has not interlocked this sync.
        """
        gd = mycpu()
        if self.cs_master is not gd or gd.gd_csphase != PHASE_HELD:
            raise KernelPanic(f"cpusync deinterlock without interlock in {thread_label(gd.gd_curthread)}")
        domain = gd.gd_domain
        if domain.contended:
            self.cs_release = True
            self._run_here(gd)
            while len(self.cs_done) < len(self.cs_targets):
                process_ipiq()
                domain.spin(gd)
        else:
            self._run_everywhere(gd)
        self._end(gd)

    def quick(self) -> None:
        """Run the function once on each named CPU, without bringing them to rest; wait until all have."""
        gd = self._begin()
        domain = gd.gd_domain
        if domain.contended:
            gd.gd_csphase = PHASE_HELD
            for target in self.cs_targets:
                send_ipiq(target, _run_quick, self)
            self._run_here(gd)
            while len(self.cs_done) < len(self.cs_targets):
                process_ipiq()
                domain.spin(gd)
        else:
            self._run_everywhere(gd)
        self._end(gd)

    def poll(self, gd: GlobalData) -> None:
        """On a named CPU, while it processes IPIs: acknowledge, or run the function once released."""
        me = gd.gd_cpuid
        assert self.cs_master is not None
        if me not in self.cs_mack:
            if gd.gd_csphase and (gd.gd_csphase == PHASE_HELD or self.cs_master.gd_cpuid > me):
                return
            self.cs_mack[me] = None
        elif self.cs_release:
            gd.gd_cpusyncq.remove(self)
            if self.cs_fn is not None:
                self.cs_fn(self.cs_data)
            self.cs_done[me] = None

    def _begin(self) -> GlobalData:
        gd = mycpu()
        td = gd.gd_curthread
        if gd.gd_csphase:
            raise KernelPanic(f"a second cpusync by {thread_label(td)}, which masters one already")
        crit_enter()
        td.td_cscount += 1
        gd.gd_intr_nesting_level += 1
        gd.gd_cnt.ipiq_cscount += 1
        self.cs_mack.clear()
        self.cs_done.clear()
        self.cs_release = False
        self.cs_master = gd
        self.cs_targets = [other for other in gd.gd_domain.gds if other is not gd and self.cs_mask & other.gd_cpumask]
        return gd

    def _end(self, gd: GlobalData) -> None:
        gd.gd_csphase = PHASE_NONE
        gd.gd_curthread.td_cscount -= 1
        gd.gd_intr_nesting_level -= 1
        if gd.gd_cpusyncq:
            process_ipiq()  # masters that had to wait for this one: nobody will send an IPI for them again
        crit_exit()

    def _run_here(self, gd: GlobalData) -> None:
        if self.cs_mask & gd.gd_cpumask and self.cs_fn is not None:
            self.cs_fn(self.cs_data)

    def _run_everywhere(self, gd: GlobalData) -> None:
        self._run_here(gd)
        if self.cs_fn is None:
            return
        try:
            for target in self.cs_targets:
                cpu.gd = target
                self.cs_fn(self.cs_data)
        finally:
            cpu.gd = gd


def cpusync_simple(mask: int, fn: Callable[[Any], object] | None, data: Any = None) -> None:
    """Interlock and deinterlock at once: `fn(data)` runs on each CPU of `mask` while all others of it are at rest."""
    cs = CpuSync(mask, fn, data)
    cs.interlock()
    cs.deinterlock()


def _arrive(cs: CpuSync, _arg2: int) -> None:
    cpu.gd.gd_cpusyncq.append(cs)


def _run_quick(cs: CpuSync, _arg2: int) -> None:
    if cs.cs_fn is not None:
        cs.cs_fn(cs.cs_data)
    cs.cs_done[cpu.gd.gd_cpuid] = None


def _held_by_another(gd: GlobalData) -> bool:
    return any(gd.gd_cpuid in cs.cs_mack for cs in gd.gd_cpusyncq)
