"""Random programs on an object cache over several CPUs, beside a multiset of what is in use.

Each thread gets objects, with and without sleeping, hands some to other threads, and puts them back wherever it runs.
Who sleeps for an object holds none, so that every program can end.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import NamedTuple

from hypothesis import strategies as st

from kernelcore.globaldata import cpu
from kernelcore.objcache import DEPOT_MAGAZINES, MIN_CAPACITY, ObjCache
from kernelcore.sched import lwkt_migratecpu, lwkt_user_yield, preempt_point
from kernelcore.sleep import tsleep
from tests.model.kernelcore.harness import Sim, expect, sims, simulate

Op = tuple[str, int]

OPS = (
    *("get", "get", "get", "get_many", "get_many", "sleep", "sleep", "put", "put", "put", "put_all", "put_all"),
    *("hand", "hand", "reclaim", "yield", "migrate"),
)

FINE = (
    *(ObjCache.get, ObjCache.put, ObjCache.surrender, ObjCache.reclaim),
    *(vars(ObjCache)[name] for name in ("_get", "_get_depot", "_put", "_construct", "_destruct")),
)


class CacheCase(NamedTuple):
    sim: Sim
    limit: int
    debug: bool
    threads: list[tuple[int, list[Op]]]


def cache_cases(max_threads: int = 5, max_ops: int = 20) -> st.SearchStrategy[CacheCase]:
    """Draw programs over 2 to 4 CPUs, with a limit or none."""
    op = st.tuples(st.sampled_from(OPS), st.integers(0, 99))
    thread = st.tuples(st.integers(0, 3), st.lists(op, min_size=4, max_size=max_ops))
    limits = st.sampled_from((0, 1, 3, 10, 20))
    return st.builds(CacheCase, sims(2, 4), limits, st.booleans(), st.lists(thread, min_size=2, max_size=max_threads))


class CacheModel:
    """The cache, its constructor, and who has what."""

    def __init__(self, case: CacheCase) -> None:
        self.numbers = count()
        self.alive: set[int] = set()
        self.in_use: Counter[int] = Counter()
        self.limit = case.limit
        self.most = 0
        self.cache: ObjCache[int] = ObjCache("things", self.ctor, self.dtor, case.limit, MIN_CAPACITY)
        self.handed: list[int] = []

    def ctor(self) -> int:
        number = next(self.numbers)
        self.alive.add(number)
        self.most = max(self.most, len(self.alive))
        expect(not self.limit or self.most <= self.limit, "O3", f"{self.most} objects, the limit is {self.limit}")
        return number

    def dtor(self, number: int) -> None:
        expect(number in self.alive and not self.in_use[number], "O2", f"object {number} was destructed while in use")
        self.alive.remove(number)

    def take(self, number: int) -> None:
        self.in_use[number] += 1
        expect(self.in_use[number] == 1 and number in self.alive, "O1", f"object {number} was had twice")

    def give(self, number: int) -> None:
        self.in_use[number] -= 1
        self.cache.put(number)

    def check(self) -> None:
        """O4: every object is in one place. O5: the depot has full and empty magazines, of each what it should."""
        cache = vars(self.cache)
        magazines = [part for cc in cache["_cpus"] for part in (cc.loaded, cc.previous)]
        full, empty, capacity = cache["_full"], cache["_empty"], self.cache.capacity
        places = Counter(number for part in (*magazines, *full, cache["_loose"]) for number in part)
        places.update(self.in_use)
        expect(+places == Counter(self.alive), "O4", "an object is in no place or in two")
        expect(len(self.alive) == cache["_allocated"], "O4", f"{cache['_allocated']} objects are counted")
        expect(all(len(one) == capacity for one in full) and not any(empty), "O5", "the depot has other magazines")
        expect(len(full) + len(empty) == DEPOT_MAGAZINES, "O5", "the depot has lost or found a magazine")
        expect(all(len(cc.loaded) <= capacity for cc in cache["_cpus"]), "O5", "a magazine is overfull")
        expect(all(len(cc.previous) in (0, capacity) for cc in cache["_cpus"]), "O5", "a magazine is neither")


class _Worker:
    def __init__(self, model: CacheModel, ops: list[Op]) -> None:
        self.model = model
        self.ops = ops
        self.held: list[int] = []

    async def run(self) -> None:
        for name, arg in self.ops:
            result = getattr(self, f"op_{name}")(arg)
            if result is not None:
                await result
            await preempt_point()
        self.op_put_all(0)

    def op_get(self, _arg: int) -> None:
        number = self.model.cache.get()
        if number is not None:
            self.model.take(number)
            self.held.append(number)
        else:
            expect(self.model.limit, "O3", "None without a limit")

    def op_get_many(self, arg: int) -> None:
        for _ in range(arg % 12):
            self.op_get(0)

    async def op_sleep(self, _arg: int) -> None:
        self.op_put_all(0)
        while self.model.handed:
            self.model.give(self.model.handed.pop())
        number = await self.model.cache.aget()
        self.model.take(number)
        self.held.append(number)

    def op_put(self, arg: int) -> None:
        if self.held:
            self.model.give(self.held.pop(arg % len(self.held)))

    def op_put_all(self, _arg: int) -> None:
        while self.held:
            self.model.give(self.held.pop())

    def op_hand(self, _arg: int) -> None:
        """Swap what is held with what another thread has left."""
        self.model.handed, self.held = self.held, self.model.handed

    def op_reclaim(self, _arg: int) -> None:
        self.model.cache.reclaim()

    async def op_yield(self, _arg: int) -> None:
        await lwkt_user_yield()

    async def op_migrate(self, arg: int) -> None:
        gds = cpu.gd.gd_domain.gds
        await lwkt_migratecpu(arg % len(gds))


def check_caches(case: CacheCase, fine: bool = False) -> None:
    """O1 to O5 on one case; O6: who sleeps for an object gets one."""
    with simulate(case.sim, 40_000, FINE if fine else (), debug=case.debug) as host:
        model = CacheModel(case)

        def watch() -> None:
            if not vars(host)["_spinning"]:
                model.check()

        if not fine:
            host.watches.append(watch)
        workers = [_Worker(model, ops) for _cpuid, ops in case.threads]
        left = len(workers)

        async def work(worker: _Worker) -> None:
            nonlocal left
            await worker.run()
            left -= 1

        async def janitor() -> None:
            """Put back what was handed to threads that have ended."""
            while left:
                while model.handed:
                    model.give(model.handed.pop())
                await tsleep("janitor", 0, "janitor", 0.01)

        for worker, (cpuid, _ops) in zip(workers, case.threads, strict=True):
            host.spawn(work, worker, cpu_id=cpuid % case.sim.ncpus)
        host.spawn(janitor, cpu_id=0)
        host.run_to_end("O6")
        while model.handed:
            model.give(model.handed.pop())
        model.check()
        expect(not +model.in_use, "O4", "objects are in use after the end")
