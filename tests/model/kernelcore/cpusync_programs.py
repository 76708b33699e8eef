"""Random programs of cpusync: masters that overlap, each looking whether the others really rest."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from kernelcore import cpusync, ipiq
from kernelcore.cpusync import CpuSync, cpusync_simple
from kernelcore.globaldata import GlobalData, cpu, curthread
from kernelcore.ipiq import process_ipiq, send_ipiq
from kernelcore.panic import KernelPanic, WrongContext
from kernelcore.sched import lwkt_switch, lwkt_user_yield, preempt_point
from kernelcore.thread import Thread
from tests.model.kernelcore.harness import CheckedHost, Sim, expect, sims, simulate

Op = tuple[str, int]

OPS = ("hold", "hold", "hold", "simple", "simple", "quick", "quick", "ipi", "burst", "work", "work", "yield")
HOLD = 6  # how often a master lets others run while it believes them at rest

FINE = (
    *(getattr(CpuSync, name) for name in ("interlock", "deinterlock", "quick", "poll", "_begin", "_end")),
    *(vars(cpusync)[name] for name in ("_arrive", "_run_quick", "_held_by_another")),
    *(process_ipiq, vars(ipiq)["_must_rest"]),
)


class SyncCase(NamedTuple):
    sim: Sim
    threads: list[tuple[int, list[Op]]]


def sync_cases(max_threads: int = 6, max_ops: int = 8) -> st.SearchStrategy[SyncCase]:
    """Draw programs over 2 to 4 CPUs."""
    op = st.tuples(st.sampled_from(OPS), st.integers(0, 63))
    thread = st.tuples(st.integers(0, 3), st.lists(op, min_size=1, max_size=max_ops))
    return st.builds(SyncCase, sims(2, 4), st.lists(thread, min_size=2, max_size=max_threads))


class _Play:
    def __init__(self, host: CheckedHost) -> None:
        self.host = host
        self.worked = [0] * host.ncpus  # thread code executed on each CPU
        self.resting: dict[int, list[CpuSync]] = {n: [] for n in range(host.ncpus)}
        self.calls: dict[tuple[CpuSync, int], int] = {}
        self.ipis = [0, 0]  # sent, run

    def begin(self, arg: int) -> tuple[CpuSync, list[int]]:
        everybody = (1 << self.host.ncpus) - 1
        mask = everybody if arg & 32 else arg & everybody
        cs = CpuSync(mask, self.function)
        cs.cs_data = cs
        return cs, [n for n in range(self.host.ncpus) if mask & (1 << n)]

    def function(self, cs: CpuSync) -> None:
        key = cs, cpu.gd.gd_cpuid
        self.calls[key] = self.calls.get(key, 0) + 1

    def check_calls(self, cs: CpuSync, named: list[int]) -> None:
        """Y2: once on each CPU that was named, and nowhere else."""
        calls = {n: self.calls.get((cs, n), 0) for n in range(self.host.ncpus)}
        expect(all(calls[n] == (n in named) for n in calls), "Y2", f"called {calls}, named {named}")

    def ran(self, _arg: Any, _arg2: int) -> None:
        self.ipis[1] += 1


class _Actor:
    """The program of one thread; whenever it does anything it checks that nobody has brought its CPU to rest."""

    def __init__(self, play: _Play, ops: list[Op]) -> None:
        self.play = play
        self.ops = ops

    async def run(self) -> None:
        for name, arg in self.ops:
            self.work()
            await getattr(self, f"op_{name}")(arg)
            self.work()
            await preempt_point()

    def work(self) -> None:
        me = cpu.gd.gd_cpuid
        expect(not self.play.resting[me], "Y1", f"cpu {me} runs a thread between interlock and deinterlock")
        self.play.worked[me] += 1

    async def op_hold(self, arg: int) -> None:
        gd: GlobalData = cpu.gd
        td: Thread = curthread()
        cs, named = self.play.begin(arg)
        others = [n for n in named if n != gd.gd_cpuid]
        cs.interlock()
        self.work()
        for n in others:
            self.play.resting[n].append(cs)
        worked = [self.play.worked[n] for n in others]
        expect(td.td_cscount == 1 and td.td_critcount >= 1, "Y1", "a master is in no critical section")
        self.refused()
        for _ in range(HOLD):
            process_ipiq()
            self.play.host.spin(gd)
        expect([self.play.worked[n] for n in others] == worked, "Y1", f"of {others} one has run threads")
        expect(not any(self.play.calls.get((cs, n)) for n in named), "Y2", "the function ran before deinterlock")
        for n in others:
            self.play.resting[n].remove(cs)
        cs.deinterlock()
        self.play.check_calls(cs, named)
        expect(td.td_cscount == 0 and td.td_critcount == 0, "Y1", "a master has not left its section")

    def refused(self) -> None:
        """A master may neither switch nor begin a second sync."""
        coro = lwkt_switch()
        try:
            coro.send(None)
            expect(False, "Y1", "a master could switch")
        except WrongContext:
            pass
        finally:
            coro.close()
        try:
            cpusync_simple(1, None)
        except KernelPanic:
            return
        expect(False, "Y3", "a master could begin a second sync")

    async def op_simple(self, arg: int) -> None:
        cs, named = self.play.begin(arg)
        cs.interlock()
        cs.deinterlock()
        self.play.check_calls(cs, named)
        cs.interlock()  # it may be used again
        cs.deinterlock()
        expect(all(self.play.calls[cs, n] == 2 for n in named), "Y2", "a second round missed a CPU")

    async def op_quick(self, arg: int) -> None:
        cs, named = self.play.begin(arg)
        cs.quick()
        self.play.check_calls(cs, named)

    async def op_ipi(self, arg: int) -> None:
        self.play.ipis[0] += 1
        send_ipiq(self.play.host.gds[arg % self.play.host.ncpus], self.play.ran)

    async def op_burst(self, arg: int) -> None:
        """Y3 with full FIFOs: other IPIs keep flowing."""
        for n in range(20 + arg % 20):
            await self.op_ipi(arg + n % 2)

    async def op_work(self, arg: int) -> None:
        for _ in range(arg % 6):
            self.work()
            await preempt_point()

    async def op_yield(self, _arg: int) -> None:
        await lwkt_user_yield()


def check_syncs(case: SyncCase, fine: bool = False, max_steps: int = 60_000) -> None:
    """Y1 to Y3 on one case."""
    with simulate(case.sim, max_steps, FINE if fine else ()) as host:
        play = _Play(host)
        for cpuid, ops in case.threads:
            host.spawn(_Actor(play, ops).run, cpu_id=cpuid % case.sim.ncpus)
        host.run_to_end("Y3")
        expect(play.ipis[0] == play.ipis[1], "Y3", f"{play.ipis[1]} of {play.ipis[0]} IPIs were run")
