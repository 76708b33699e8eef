"""Random programs of critical sections: what is posted and sent meanwhile waits, and the outermost exit runs it.

Every thread keeps a model of its own count. A function that starts on a CPU looks at the model of the thread it
interrupts; after an outermost exit nothing may be pending.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from kernelcore.crit import (
    crit_enter,
    crit_enter_hard,
    crit_enter_id,
    crit_exit,
    crit_exit_hard,
    crit_exit_id,
    crit_exit_noyield,
    crit_test,
    critical,
    intr_post,
    splz,
    splz_check,
)
from kernelcore.globaldata import GlobalData, cpu, curthread
from kernelcore.ipiq import send_ipiq, send_ipiq_passive
from kernelcore.panic import KernelPanic, WrongContext
from kernelcore.sched import lwkt_switch, lwkt_user_yield, preempt_point
from kernelcore.sleep import tsleep
from kernelcore.thread import Thread, join, lwkt_create
from tests.model.kernelcore.harness import CheckedHost, Sim, expect, sims, simulate

Op = tuple[str, int]

OPS = (
    *("enter", "enter", "enter", "exit", "exit", "exit", "noyield", "hard", "named", "block", "scope"),
    *("post", "post", "ipi", "ipi", "ipi", "ipi", "passive", "splz", "check", "preempt", "yield", "leave"),
)


class CritCase(NamedTuple):
    sim: Sim
    threads: list[tuple[int, list[Op]]]


def crit_cases(max_threads: int = 6, max_ops: int = 16) -> st.SearchStrategy[CritCase]:
    """Draw programs over 1 to 3 CPUs."""
    op = st.tuples(st.sampled_from(OPS), st.integers(0, 63))
    thread = st.tuples(st.integers(0, 2), st.lists(op, min_size=1, max_size=max_ops))
    return st.builds(CritCase, sims(1, 3), st.lists(thread, min_size=2, max_size=max_threads))


class _Play:
    def __init__(self, host: CheckedHost) -> None:
        self.host = host
        self.depth: dict[Thread, int] = {}  # the model: sections each thread is in
        self.posted = 0
        self.ran = 0

    def check(self) -> None:
        """C1: the count is what the thread has entered, at every moment that others can see."""
        for td, depth in self.depth.items():
            spins = td.td_critcount >= depth if td.td_gd.gd_intr_nesting_level else td.td_critcount == depth
            expect(spins, "C1", f"{td} is in {depth} sections, its count is {td.td_critcount}")

    def interrupt(self, _arg: Any = None, _arg2: int = 0) -> None:
        """C2: what starts here interrupts no section."""
        gd: GlobalData = cpu.gd
        depth = self.depth.get(gd.gd_curthread, 0)
        expect(not depth, "C2", f"started in {depth} sections of {gd.gd_curthread}")
        expect(gd.gd_intr_nesting_level > 0, "C2", "started where it could block")
        self.ran += 1


class _Actor:
    """The program of one thread."""

    def __init__(self, play: _Play, ops: list[Op]) -> None:
        self.play = play
        self.ops = ops
        self.td: Thread
        self.hard: list[bool] = []  # how each section is to be left, newest last: hard, or not
        self.named: list[str] = []

    async def run(self) -> None:
        self.td = curthread()
        self.play.depth[self.td] = 0
        for name, arg in self.ops:
            await getattr(self, f"op_{name}")(arg)
            expect(self.td.td_critcount == len(self.hard), "C1", f"count {self.td.td_critcount} after {name}")
            expect(crit_test(self.td) == bool(self.hard), "C1", "crit_test")
            await preempt_point()
        while self.hard:
            await self.op_exit(0)
        del self.play.depth[self.td]

    def enter(self, hard: bool) -> None:
        (crit_enter_hard if hard else crit_enter)()
        self.hard.append(hard)
        self.play.depth[self.td] += 1

    async def op_enter(self, _arg: int) -> None:
        self.enter(hard=False)

    async def op_hard(self, arg: int) -> None:
        """A hard section forbids to block."""
        self.enter(hard=True)
        coro = lwkt_switch() if arg & 1 else tsleep(self)
        try:
            coro.send(None)
            expect(False, "C1", "blocked in a hard section")
        except WrongContext:
            pass
        finally:
            coro.close()

    async def op_exit(self, _arg: int) -> None:
        """C3: the outermost exit leaves nothing pending. C1: there is no exit without an enter."""
        if not self.hard:
            try:
                crit_exit()
            except KernelPanic:
                return
            expect(False, "C1", "an exit without an enter was allowed")
        self.play.depth[self.td] -= 1
        (crit_exit_hard if self.hard.pop() else crit_exit)()
        self.nothing_pending()

    def nothing_pending(self) -> None:
        gd: GlobalData = cpu.gd
        if not self.hard:
            expect(not gd.gd_ipimask and not gd.gd_intpend and not gd.gd_reqflags, "C3", "work is left after the exit")

    async def op_noyield(self, _arg: int) -> None:
        """The one exit that leaves work where it is."""
        if self.hard and not self.hard[-1]:
            self.hard.pop()
            self.play.depth[self.td] -= 1
            ran = self.play.ran
            crit_exit_noyield()
            expect(self.play.ran == ran, "C2", "crit_exit_noyield ran something")

    async def op_named(self, arg: int) -> None:
        crit_enter_id("a")
        self.play.depth[self.td] += 1
        for _ in range(arg % 3):
            await preempt_point()
        try:
            crit_exit_id("b")
            expect(False, "C1", "a section was left under another name")
        except KernelPanic:
            pass
        self.play.depth[self.td] -= 1
        crit_exit_id("a")
        self.nothing_pending()

    async def op_scope(self, arg: int) -> None:
        with critical():
            self.play.depth[self.td] += 1
            for _ in range(arg % 3):
                await preempt_point()
            self.play.depth[self.td] -= 1
        self.nothing_pending()

    async def op_block(self, arg: int) -> None:
        """A section may be slept through; it stands again on return."""
        if not any(self.hard):
            await tsleep(self, 0, "nap", 0.001 * (arg % 4 + 1))

    async def op_post(self, _arg: int) -> None:
        """At once outside a section, else when it ends."""
        self.play.posted += 1
        ran = self.play.ran
        intr_post(cpu.gd, self.play.interrupt)
        expect(self.play.ran == ran + (not self.hard), "C2", "a completion ran at the wrong time")

    async def op_ipi(self, _arg: int) -> None:
        self.to_others(send_ipiq)

    async def op_passive(self, _arg: int) -> None:
        self.to_others(send_ipiq_passive)

    def to_others(self, send: Callable[..., int]) -> None:
        """Never more at once than a FIFO holds without making the sender spin."""
        for target in self.play.host.gds:
            q = cpu.gd.gd_ipiq[target.gd_cpuid]
            if target is not cpu.gd and q.windex - q.rindex < q.high:
                self.play.posted += 1
                send(target, self.play.interrupt)

    async def op_splz(self, _arg: int) -> None:
        if not self.hard:
            splz()
            self.nothing_pending()

    async def op_check(self, _arg: int) -> None:
        ran = self.play.ran
        splz_check()
        expect(not self.hard or self.play.ran == ran, "C2", "splz_check ran something in a section")
        self.nothing_pending()

    async def op_preempt(self, _arg: int) -> None:
        await preempt_point()

    async def op_yield(self, _arg: int) -> None:
        if not any(self.hard):
            await lwkt_user_yield()

    async def op_leave(self, arg: int) -> None:
        """C1: a thread that ends in a section is told so, and takes nothing along."""
        if any(self.hard):
            return

        async def careless() -> None:
            (crit_enter_hard if arg & 1 else crit_enter)()
            await preempt_point()

        td = lwkt_create(careless, cpu_id=arg % self.play.host.ncpus)
        try:
            await join(td)
        except KernelPanic:
            expect(td.td_critcount == 0, "C1", f"{td} has gone with count {td.td_critcount}")
            return
        expect(False, "C1", "a thread ended in a section, and nobody said so")


def check_crit(case: CritCase) -> None:
    """C1 to C3 on one case."""
    with simulate(case.sim) as host:
        play = _Play(host)
        host.watches.append(play.check)
        for cpuid, ops in case.threads:
            host.spawn(_Actor(play, ops).run, cpu_id=cpuid % case.sim.ncpus)
        host.run_to_end("C3")
        expect(play.ran == play.posted, "C3", f"{play.ran} of {play.posted} were run")
