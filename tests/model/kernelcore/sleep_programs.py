"""Random programs of sleepers and wakers: a store of items that consumers wait for, time limits, signals.

A consumer loops on the condition, as the rules demand, so a lost wakeup shows as a simulation that never ends. Beside
that stands a model of each sleep: what may end it, and that nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple
from unittest.mock import patch

from hypothesis import strategies as st

from kernelcore import sleep
from kernelcore.defs import PCATCH, PINTERLOCKED, TDF_RUNQ, TDF_TSLEEP_DESCHEDULED, TDF_TSLEEPQ
from kernelcore.globaldata import GlobalData, cpu, curthread
from kernelcore.ipiq import seq_ipiq, wait_ipiq
from kernelcore.sched import lwkt_migratecpu, lwkt_schedule, lwkt_user_yield, preempt_point, tsleep_remove
from kernelcore.serialize import Serializer, Spinlock
from kernelcore.sleep import (
    EINTR,
    EWOULDBLOCK,
    lwkt_signal,
    ssleep,
    tsleep,
    tsleep_interlock,
    wakeup,
    wakeup_mycpu,
    wakeup_mycpu_one,
    wakeup_one,
    zsleep,
)
from kernelcore.thread import Thread
from tests.model.kernelcore.harness import CheckedHost, Sim, expect, sims, simulate

Op = tuple[str, int]

OPS = (
    *(
        "take",
        "take",
        "take_one",
        "take_one",
        "take_spin",
        "take_slz",
        "take_timed",
        "put",
        "put",
        "put_one",
        "put_spin",
        "put_slz",
    ),
    *("nap", "nap", "catch", "signal", "stray", "wake", "wake_here", "preempt", "yield", "migrate"),
)

KINDS = ("all", "one", "spin", "slz")

FINE = (tsleep_interlock, tsleep, tsleep_remove, wakeup, wakeup_mycpu, vars(sleep)["_wakeup_others"], ssleep)


class SleepCase(NamedTuple):
    sim: Sim
    nstores: int
    threads: list[tuple[int, list[Op]]]


def sleep_cases(max_threads: int = 7, max_ops: int = 10, ops: tuple[str, ...] = OPS) -> st.SearchStrategy[SleepCase]:
    """Draw programs over 1 to 4 CPUs."""
    op = st.tuples(st.sampled_from(ops), st.integers(0, 63))
    thread = st.tuples(st.integers(0, 3), st.lists(op, min_size=1, max_size=max_ops))
    return st.builds(SleepCase, sims(1, 4), st.integers(1, 3), st.lists(thread, min_size=2, max_size=max_threads))


class _Store:
    """Items to wait for, four times: any number woken, one woken, under a spinlock, under a serializer."""

    def __init__(self, n: int) -> None:
        self.items = 0
        self.one_items = 0
        self.spin_items = 0
        self.slz_items = 0
        self.spin = Spinlock(f"spin{n}")
        self.slz = Serializer(f"slz{n}")
        self.wakeups = 0


class _Actor:
    """The program of one thread."""

    def __init__(self, play: _Play, ops: list[Op]) -> None:
        self.play = play
        self.ops = ops
        self.td: Thread
        self.episode = 0  # counts the sleeps of this thread
        self.strays = 0  # both may take effect long after they were sent
        self.signals = 0

    async def run(self) -> None:
        self.td = curthread()
        for name, arg in self.ops:
            await getattr(self, f"op_{name}")(arg)
        self.play.ended += 1

    def store(self, arg: int) -> _Store:
        return self.play.stores[arg % len(self.play.stores)]

    async def sleep(self, store: _Store, flags: int, seconds: float) -> int:
        """S4: one sleep, and what may have ended it."""
        host = self.play.host
        woken = store.wakeups
        if flags & PINTERLOCKED:  # the wakeup may have come already
            woken = self.play.hooked_at[self]
        began = host.now
        self.episode += 1
        error = await tsleep(store, flags, "store", seconds)
        self.episode += 1
        expect(not self.td.td_flags & TDF_TSLEEPQ and self.td.td_wchan is None, "S4", "returned while still hooked")
        if error == EWOULDBLOCK:
            expect(seconds and host.now >= began + seconds, "S4", f"timed out at {host.now}, {seconds} from {began}")
        elif error:
            expect(error == EINTR and flags & PCATCH and self.signals, "S4", f"result {error}")
        else:
            expect(store.wakeups != woken or self.strays, "S4", "returned without a wakeup")
        return error

    def interlock(self, store: _Store) -> None:
        tsleep_interlock(store)
        self.play.hooked_at[self] = store.wakeups

    async def op_take(self, arg: int) -> None:
        """S1: hook, test, sleep."""
        store = self.store(arg)
        self.play.wanted["all"][store] += 1
        while True:
            self.interlock(store)
            for _ in range(arg // 16):
                await preempt_point()
            if store.items:
                break
            await self.sleep(store, PINTERLOCKED, 0)
        store.items -= 1

    async def op_take_one(self, arg: int) -> None:
        """S1 where one wakeup wakes one thread: all who sleep there must want the same."""
        store = self.store(arg)
        self.play.wanted["one"][store] += 1
        while True:
            tsleep_interlock((store, "one"))
            for _ in range(arg // 16):
                await preempt_point()
            if store.one_items:
                break
            await tsleep((store, "one"), PINTERLOCKED, "one")
        store.one_items -= 1
        for _ in range(arg % 16):  # the hook is left set: a wakeup of one must not count it
            await preempt_point()

    async def op_take_timed(self, arg: int) -> None:
        store = self.store(arg)
        for _ in range(3):
            self.interlock(store)
            if store.items:
                store.items -= 1
                self.play.wanted["all"][store] += 1
                return
            await self.sleep(store, PINTERLOCKED, 0.001 * (arg % 4 + 1))

    async def op_take_spin(self, arg: int) -> None:
        store = self.store(arg)
        self.play.wanted["spin"][store] += 1
        store.spin.lock()
        while not store.spin_items:
            await ssleep((store, "spin"), store.spin, 0, "spin")
        store.spin_items -= 1
        store.spin.unlock()

    async def op_take_slz(self, arg: int) -> None:
        store = self.store(arg)
        self.play.wanted["slz"][store] += 1
        await store.slz.enter()
        while not store.slz_items:
            await zsleep((store, "slz"), store.slz, 0, "slz")
        store.slz_items -= 1
        await preempt_point()
        store.slz.exit()

    async def give(self, kind: str, arg: int) -> None:
        """Put one item of a kind."""
        await getattr(self, "op_put" if kind == "all" else f"op_put_{kind}")(arg)

    async def op_put(self, arg: int) -> None:
        self.put(self.store(arg))

    def put(self, store: _Store) -> None:
        self.play.given["all"][store] += 1
        store.items += 1
        store.wakeups += 1
        wakeup(store)

    async def op_put_one(self, arg: int) -> None:
        self.put_one(self.store(arg))

    def put_one(self, store: _Store) -> None:
        self.play.given["one"][store] += 1
        store.one_items += 1
        wakeup_one((store, "one"))

    async def op_put_spin(self, arg: int) -> None:
        self.put_spin(self.store(arg))

    def put_spin(self, store: _Store) -> None:
        self.play.given["spin"][store] += 1
        with store.spin:
            store.spin_items += 1
        wakeup((store, "spin"))

    async def op_put_slz(self, arg: int) -> None:
        store = self.store(arg)
        self.play.given["slz"][store] += 1
        await store.slz.enter()
        store.slz_items += 1
        await preempt_point()
        store.slz.exit()
        wakeup_one((store, "slz"))

    async def op_nap(self, arg: int) -> None:
        """A sleep that only time, or anybody's wakeup, ends."""
        await self.sleep(self.store(arg), 0, 0.001 * (arg % 8 + 1))

    async def op_catch(self, arg: int) -> None:
        await self.sleep(self.store(arg), PCATCH, 0.002 * (arg % 4 + 1))

    async def op_signal(self, arg: int) -> None:
        other = self.play.actors[arg % len(self.play.actors)]
        if hasattr(other, "td"):
            other.signals += 1
            lwkt_signal(other.td)

    async def op_stray(self, arg: int) -> None:
        """Anybody may be scheduled at any time; it loops."""
        other = self.play.actors[arg % len(self.play.actors)]
        if hasattr(other, "td"):
            other.strays += 1
            lwkt_schedule(other.td)

    async def op_wake(self, arg: int) -> None:
        """S3: whoever is hooked when the wakeup runs on its CPU is not any more when it has run everywhere."""
        store = self.store(arg)
        before = [(a, a.episode) for a in self.play.actors if hasattr(a, "td") and a.td.td_wchan is store]
        settled = {a for a, _ in before if a.td.td_flags & TDF_TSLEEP_DESCHEDULED}
        store.wakeups += 1
        wakeup(store)
        for target in self.play.host.gds:
            if target is not cpu.gd:
                wait_ipiq(target, seq_ipiq(target))
        if self.play.fine:  # who seemed to sleep may have been half woken by another
            return
        for actor, episode in before:
            if actor in settled and actor.episode == episode:
                expect(actor.td.td_wchan is not store, "S3", f"{actor.td} is still hooked after a wakeup")

    async def op_wake_here(self, arg: int) -> None:
        """S3 on one CPU, where it is a single step."""
        gd: GlobalData = cpu.gd
        store = self.store(arg)
        hooked = list(gd.gd_tsleep_hash.get(store, ()))
        asleep = [td for td in hooked if td.td_flags & TDF_TSLEEP_DESCHEDULED]
        store.wakeups += 1
        if arg & 32:
            wakeup_mycpu_one(store)
            woken = [td for td in asleep if not td.td_flags & TDF_TSLEEPQ]
            expect(woken == asleep[:1], "S3", f"wakeup_one woke {woken} of {asleep}")
        else:
            wakeup_mycpu(store)
            expect(not any(td.td_flags & TDF_TSLEEPQ for td in hooked), "S3", "a hooked thread was left")
            expect(all(td.td_flags & TDF_RUNQ for td in asleep), "S3", "a sleeper is not ready")

    async def op_preempt(self, _arg: int) -> None:
        await preempt_point()

    async def op_yield(self, _arg: int) -> None:
        await lwkt_user_yield()

    async def op_migrate(self, arg: int) -> None:
        await lwkt_migratecpu(arg % self.play.host.ncpus)


class _Play:
    """All actors and stores, what was wanted of each and what was given."""

    def __init__(self, host: CheckedHost, case: SleepCase, fine: bool) -> None:
        self.host = host
        self.fine = fine
        cpu.gd = host.gds[0]
        self.stores = [_Store(n) for n in range(case.nstores)]
        self.actors = [_Actor(self, ops) for _cpu, ops in case.threads]
        self.wanted = {kind: dict.fromkeys(self.stores, 0) for kind in KINDS}
        self.given = {kind: dict.fromkeys(self.stores, 0) for kind in KINDS}
        self.hooked_at: dict[_Actor, int] = {}
        self.ended = 0

    def check(self) -> None:
        """S2: at every moment another CPU can see, a bucket that is not empty is marked."""
        for gd in self.host.gds:
            for ident in gd.gd_tsleep_hash:
                marked = not gd.gd_other_cpus or (ident, gd.gd_cpuid) in self.host.slpque
                expect(marked, "S2", f"no mark for {ident!r} on cpu {gd.gd_cpuid}")

    async def supplier(self) -> None:
        """Put what is wanted and nobody has put, until all have ended: no more, so that each wakeup counts."""
        put = _Actor(self, [])
        while self.ended < len(self.actors):
            for n, store in enumerate(self.stores):
                for kind in KINDS:
                    if self.given[kind][store] < self.wanted[kind][store]:
                        await put.give(kind, n)
            await tsleep("supplier", 0, "supplier", 0.01)


_run_wakeup: Callable[[Hashable, int], None] = vars(sleep)["_wakeup_remote"]


def _counted(ident: Hashable, one: int) -> None:
    """A wakeup counts where it runs, too: it may find a thread that went to sleep after it was sent."""
    if isinstance(ident, _Store):
        ident.wakeups += 1
    _run_wakeup(ident, one)


def check_sleeps(case: SleepCase, fine: bool = False, max_steps: int = 30_000) -> None:
    """S1 to S4 on one case."""
    with simulate(case.sim, max_steps, FINE if fine else ()) as host, patch.object(sleep, "_wakeup_remote", _counted):
        play = _Play(host, case, fine)
        host.watches.append(play.check)
        for actor, (cpuid, _ops) in zip(play.actors, case.threads, strict=True):
            host.spawn(actor.run, cpu_id=cpuid % case.sim.ncpus)
        host.spawn(play.supplier, cpu_id=0)
        host.run_to_end("S1")
