"""Random programs of the scheduler: priorities, yields, parking, children, holds, migration by push and by pull.

The run queues are exchanged for ones that stamp every arrival. So the order of equals, and how often a migrated thread
was enqueued, can be seen from outside. T1, T2 and T4 are checked by the simulator after each step.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import nullcontext
from itertools import count, pairwise
from typing import Any, NamedTuple

from hypothesis import strategies as st

from kernelcore import sched, switch
from kernelcore.defs import (
    NPRI,
    TDF_BLOCKED,
    TDF_DEAD,
    TDF_EXITING,
    TDF_FIXEDCPU,
    TDF_MIGRATING,
    TDF_NOSTART,
    TDF_RUNQ,
    TDF_TSLEEP_DESCHEDULED,
)
from kernelcore.globaldata import cpu, curthread
from kernelcore.panic import KernelPanic
from kernelcore.sched import (
    lwkt_acquire,
    lwkt_deschedule,
    lwkt_giveaway,
    lwkt_migratecpu,
    lwkt_schedule,
    lwkt_setcpu_self,
    lwkt_setpri,
    lwkt_setpri_self,
    lwkt_switch,
    lwkt_user_yield,
    lwkt_yield,
    lwkt_yield_quick,
    migrate_finish,
    preempt_point,
    schedulerclock,
)
from kernelcore.sleep import lwkt_sleep, tsleep
from kernelcore.thread import Thread, finish_exit, join, lwkt_create, lwkt_exit, lwkt_hold, lwkt_rele
from tests.model.kernelcore.harness import CheckedHost, Sim, expect, sims, simulate
from tests.model.kernelcore.token_programs import watched_pick

Op = tuple[str, int]

OPS = (
    *("yield", "user_yield", "quick", "switch", "preempt", "preempt", "tick", "setpri", "setpri_other", "migrate"),
    *("migrate", "child", "child", "exit", "hold", "hold", "rele", "park", "unpark", "bounce", "give", "give_self"),
)
_ALIVE = TDF_RUNQ | TDF_TSLEEP_DESCHEDULED | TDF_BLOCKED | TDF_MIGRATING | TDF_NOSTART | TDF_EXITING | TDF_DEAD


# What CPUs do with a thread that is, or was, another's.
FINE = (
    *(lwkt_acquire, lwkt_giveaway, vars(sched)["_leave_cpu"], lwkt_setcpu_self, migrate_finish, lwkt_schedule),
    *(lwkt_deschedule, lwkt_setpri, lwkt_hold, lwkt_rele, join, lwkt_create, finish_exit),
    *(switch.switched_out, switch.thread_ended),
)


class SchedCase(NamedTuple):
    sim: Sim
    threads: list[tuple[int, int, bool, list[Op]]]


def sched_cases(max_threads: int = 6, max_ops: int = 12) -> st.SearchStrategy[SchedCase]:
    """Draw programs over 1 to 4 CPUs; some of the threads are fixed to theirs."""
    op = st.tuples(st.sampled_from(OPS), st.integers(0, 63))
    thread = st.tuples(st.integers(0, 3), st.integers(4, 20), st.booleans(), st.lists(op, min_size=1, max_size=max_ops))
    return st.builds(SchedCase, sims(1, 4), st.lists(thread, min_size=1, max_size=max_threads))


class _StampingQueue(deque[Thread]):
    """A run queue that numbers arrivals."""

    def __init__(self, stamps: dict[Thread, int], arrivals: Counter[Thread], numbers: count[int]) -> None:
        super().__init__()
        self.stamps = stamps
        self.arrivals = arrivals
        self.numbers = numbers

    def _stamp(self, td: Thread) -> None:
        self.stamps[td] = next(self.numbers)
        self.arrivals[td] += 1

    def append(self, td: Thread) -> None:
        self._stamp(td)
        super().append(td)

    def appendleft(self, td: Thread) -> None:
        self._stamp(td)
        super().appendleft(td)

    def rotate(self, n: int = 1) -> None:
        if n == -1 and self:
            self.stamps[self[0]] = next(self.numbers)
        super().rotate(n)


class _Play:
    """All threads of a case and what is known of them."""

    def __init__(self, host: CheckedHost) -> None:
        self.host = host
        self.actors: list[_Actor] = []
        self.threads: list[Thread] = []
        self.stamps: dict[Thread, int] = {}
        self.arrivals: Counter[Thread] = Counter()
        self.held: Counter[Thread] = Counter()
        numbers = count(1)
        for gd in host.gds:
            queues: list[Any] = [_StampingQueue(self.stamps, self.arrivals, numbers) for _ in range(NPRI)]
            gd.gd_runqs = queues
            gd.gd_idlethread.td_runq = queues[0]

    def check(self) -> None:
        """T3: equals stand in the order of their arrival. T4: nobody is lost. T6: who is held is not gone."""
        for gd in self.host.gds:
            for q in gd.gd_runqs:
                for first, second in pairwise(q):
                    expect(self.stamps[first] < self.stamps[second], "T3", f"{second} came before {first}")
        for td in self.threads:
            running = td.td_gd.gd_curthread is td
            expect(running or td.td_flags & _ALIVE, "T4", f"{td} is lost")
            expect(not (self.held[td] and td.td_flags & TDF_DEAD), "T6", f"{td} is gone while held")


class _Actor:
    """The program of one thread."""

    def __init__(self, play: _Play, ops: list[Op]) -> None:
        self.play = play
        self.ops = ops
        self.td: Thread
        self.holds: list[Thread] = []
        self.parked = False

    async def run(self) -> None:
        for name, arg in self.ops:
            await getattr(self, f"op_{name}")(arg)
        while self.holds:
            await self.op_rele(0)

    def other(self, arg: int) -> _Actor:
        return self.play.actors[arg % len(self.play.actors)]

    async def op_yield(self, _arg: int) -> None:
        await lwkt_yield()

    async def op_user_yield(self, _arg: int) -> None:
        await lwkt_user_yield()

    async def op_quick(self, _arg: int) -> None:
        await lwkt_yield_quick()

    async def op_switch(self, _arg: int) -> None:
        await lwkt_switch()

    async def op_preempt(self, _arg: int) -> None:
        await preempt_point()

    async def op_tick(self, _arg: int) -> None:
        schedulerclock(cpu.gd)

    async def op_setpri(self, arg: int) -> None:
        lwkt_setpri_self(4 + arg % 16)

    async def op_setpri_other(self, arg: int) -> None:
        other = self.other(arg)
        if other.td.td_flags & TDF_FIXEDCPU:
            lwkt_setpri(other.td, 4 + arg % 16)

    async def op_migrate(self, arg: int) -> None:
        """T5: on the CPU that was asked for, enqueued once, and refused to a thread that is fixed."""
        target, here = arg % self.play.host.ncpus, cpu.gd.gd_cpuid
        before = self.play.arrivals[self.td]
        try:
            await lwkt_migratecpu(target)
        except KernelPanic:
            expect(self.td.td_flags & TDF_FIXEDCPU and cpu.gd.gd_cpuid == here, "T5", "a migration was refused")
            return
        expect(target == here or not self.td.td_flags & TDF_FIXEDCPU, "T5", "a fixed thread migrated")
        self.arrived(target, before + (target != here))

    def arrived(self, target: int, arrivals: int) -> None:
        listed = [gd.gd_cpuid for gd in self.play.host.gds if self.td in gd.gd_tdallq]
        expect(cpu.gd.gd_cpuid == target == self.td.td_gd.gd_cpuid, "T5", f"on cpu {cpu.gd.gd_cpuid}, not {target}")
        expect(listed == [target], "T5", f"listed on {listed}")
        expect(self.play.arrivals[self.td] == arrivals, "T5", f"enqueued {self.play.arrivals[self.td]}, not {arrivals}")

    async def op_child(self, arg: int) -> None:
        async def child() -> int:
            for _ in range(arg % 4):
                await preempt_point()
                await lwkt_user_yield()
            return arg

        td = lwkt_create(child, cpu_id=arg % self.play.host.ncpus, pri=4 + arg % 16)
        self.play.threads.append(td)
        expect(await join(td) == arg, "T4", "a child ended with another result")
        expect(td.td_flags & TDF_DEAD, "T6", "a joined thread is not gone")

    async def op_exit(self, arg: int) -> None:
        while self.holds:
            await self.op_rele(0)
        if arg % 4 == 0:
            lwkt_exit()

    async def op_hold(self, arg: int) -> None:
        td = self.other(arg).td
        if td is not self.td and td not in self.holds and not td.td_flags & TDF_DEAD:
            lwkt_hold(td, self)
            self.holds.append(td)
            self.play.held[td] += 1

    async def op_rele(self, _arg: int) -> None:
        if self.holds:
            td = self.holds.pop()
            self.play.held[td] -= 1
            lwkt_rele(td, self)

    async def op_park(self, arg: int) -> None:
        """Wait until somebody else comes along, at most once for each who can."""
        self.parked = True
        waker = lwkt_create(self.unpark_later, arg)
        self.play.threads.append(waker)
        while self.parked:
            await lwkt_sleep("parked")

    async def unpark_later(self, arg: int) -> None:
        await tsleep(self, 0, "later", 0.001 * (arg % 4 + 1))
        self.parked = False
        lwkt_schedule(self.td)

    async def op_unpark(self, arg: int) -> None:
        """A stray schedule: whoever sleeps loops."""
        lwkt_schedule(self.other(arg).td)

    async def op_bounce(self, arg: int) -> None:
        """Deschedule and schedule arrive in this order, wherever the thread is."""
        td = self.other(arg).td
        if td.td_flags & TDF_FIXEDCPU:
            lwkt_deschedule(td)
            await preempt_point()
            lwkt_schedule(td)

    async def op_give(self, arg: int) -> None:
        """Pull: a parked child is given away here and taken by another CPU."""
        await self.give(arg, by_itself=False)

    async def op_give_self(self, arg: int) -> None:
        """Pull of a thread that still runs: the taker waits until it has switched out."""
        await self.give(arg, by_itself=True)

    async def give(self, arg: int, by_itself: bool) -> None:
        target = arg % self.play.host.ncpus
        ready: list[Thread] = []
        traveller = _Actor(self.play, [])

        async def body() -> None:
            traveller.td = td = curthread()
            if by_itself:
                lwkt_giveaway(td)
                ready.append(td)
                for _ in range(arg % 3):
                    await preempt_point()
                await lwkt_switch()
            else:
                await lwkt_sleep("to be given away")
            traveller.arrived(target, before[0] + 1)

        async def taker() -> None:
            while not ready:
                await preempt_point()
                await lwkt_user_yield()
            lwkt_acquire(td)
            before.append(self.play.arrivals[td])
            lwkt_schedule(td)

        before: list[int] = []
        td = lwkt_create(body, cpu_id=cpu.gd.gd_cpuid, pri=19)
        self.play.threads.append(td)
        if not by_itself:
            while not td.td_flags & TDF_BLOCKED:
                await tsleep((self, "ready"), 0, "ready", 0.001)
            lwkt_giveaway(td)
            ready.append(td)
        await join(lwkt_create(taker, cpu_id=target, pri=19))
        await join(td)


def check_sched(case: SchedCase, fine: bool = False) -> None:
    """T1 to T6 on one case."""
    watch = nullcontext() if fine else watched_pick()
    with simulate(case.sim, 40_000 if fine else 30_000, FINE if fine else ()) as host, watch:
        play = _Play(host)
        play.actors = [_Actor(play, ops) for _cpu, _pri, _fixed, ops in case.threads]
        for actor, (cpuid, pri, fixed, _ops) in zip(play.actors, case.threads, strict=True):
            flags = TDF_FIXEDCPU if fixed else 0
            actor.td = host.spawn(actor.run, cpu_id=cpuid % case.sim.ncpus, pri=pri, flags=flags)
        play.threads += [actor.td for actor in play.actors]
        if not fine:
            host.watches.append(play.check)
        host.run_to_end("T4")
        for td in play.threads:
            expect(td.td_flags & TDF_DEAD and not td.td_critcount, "T6, C1", f"{td} has not gone")
