"""Object caches: magazines, depot, limit, sleeping, surrender."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from kernelcore import stat
from kernelcore.globaldata import cpu
from kernelcore.host.sim import SimDeadlock, SimHost
from kernelcore.host.thread_host import ThreadHost
from kernelcore.host.up import UpHost
from kernelcore.objcache import DEPOT_MAGAZINES, ObjCache, ObjCacheRow
from kernelcore.panic import KernelPanic, WrongContext
from kernelcore.sched import lwkt_user_yield
from kernelcore.sleep import tsleep
from kernelcore.thread import lwkt_create
from tests.unit.kernelcore.memory import any_cpu, hasty


@pytest.fixture(autouse=True)
def cpu_put_back() -> Iterator[None]:
    with any_cpu():
        yield


class Thing:
    """Something dear."""


class Maker:
    """Constructor and destructor that count."""

    def __init__(self) -> None:
        self.alive: set[Thing] = set()
        self.made = 0

    def ctor(self) -> Thing | None:
        thing = Thing()
        self.alive.add(thing)
        self.made += 1
        return thing

    def dtor(self, thing: Thing) -> None:
        self.alive.remove(thing)


@contextmanager
def on(host: UpHost, n: int) -> Iterator[None]:
    before, cpu.gd = cpu.gd, host.gds[n]
    try:
        yield
    finally:
        cpu.gd = before


def got(cache: ObjCache[Thing], count: int) -> list[Thing]:
    things = [cache.get() for _ in range(count)]
    assert None not in things
    return [thing for thing in things if thing is not None]


def put(cache: ObjCache[Thing], things: list[Thing]) -> None:
    for thing in things:
        cache.put(thing)


def test_an_object_put_last_comes_back_first_and_constructed_once() -> None:
    UpHost(1)
    maker = Maker()
    cache = ObjCache("things", maker.ctor, maker.dtor)
    a, b = got(cache, 2)
    put(cache, [a, b])
    assert cache.get() is b
    assert cache.get() is a
    assert maker.made == 2
    assert cache.stats() == ("things", 4, 0, 2, 0, 0, 0, 2, 0, 0)


def test_two_magazines_per_cpu_and_two_at_the_depot_are_kept_the_rest_destructed() -> None:
    UpHost(1)
    maker = Maker()
    cache = ObjCache("things", maker.ctor, maker.dtor, capacity=4)
    put(cache, got(cache, 40))
    kept = 4 * (2 + DEPOT_MAGAZINES)
    assert len(maker.alive) == kept
    assert cache.stats()[-3:] == (kept, kept, 0)
    put(cache, got(cache, kept))
    assert maker.made == 40


def test_a_program_at_the_boundary_of_a_magazine_does_not_go_to_the_depot() -> None:
    UpHost(1)
    cache = ObjCache("things", Maker().ctor, capacity=4)
    put(cache, got(cache, 6))  # one magazine full, the other half
    contested = cache._spin.l_lock
    contested.acquire()  # whoever goes to the depot now is stuck
    for _ in range(20):
        things = got(cache, 6)
        put(cache, things)
    contested.release()


def test_other_cpus_get_full_magazines_from_the_depot() -> None:
    host = UpHost(2)
    maker = Maker()
    cache = ObjCache("things", maker.ctor, maker.dtor, capacity=4)
    put(cache, got(cache, 16))
    with on(host, 1):
        things = got(cache, 8)
        assert maker.made == 16
        got(cache, 1)
        assert maker.made == 17
        put(cache, things)
    assert cache.stats().allocated == 17


@pytest.mark.parametrize(
    ("ncpus", "capacity", "nom_cache", "expected"),
    [(1, 0, 0, 64), (1, 2, 0, 4), (1, 500, 0, 128), (1, 0, 100, 26), (3, 0, 100, 13), (1, 0, 4000, 128), (7, 0, 3, 4)],
)
def test_capacity_is_derived_from_the_nominal_cache(ncpus: int, capacity: int, nom_cache: int, expected: int) -> None:
    UpHost(ncpus)
    assert ObjCache("things", Maker().ctor, capacity=capacity, nom_cache=nom_cache).capacity == expected


def test_at_the_limit_get_gives_none() -> None:
    UpHost(1)
    maker = Maker()
    cache = ObjCache("things", maker.ctor, maker.dtor, 3)
    things = got(cache, 3)
    assert cache.get() is None
    cache.put(things[0])
    assert cache.get() is things[0]
    row = cache.stats()
    assert (row.gets, row.gets_null, row.exhausted, row.allocated, row.limit) == (4, 1, 1, 3, 3)
    assert repr(cache) == "<objcache 'things', 3 objects of at most 3>"


def test_a_constructor_that_fails_or_raises_takes_nothing_from_the_limit() -> None:
    UpHost(1)
    answers: list[Thing | Exception | None] = [None, ValueError("no"), Thing()]

    def ctor() -> Thing | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cache = ObjCache("things", ctor, limit=1)
    assert cache.get() is None
    with pytest.raises(ValueError, match="no"):
        cache.get()
    assert cache.get() is not None
    assert cache.stats().exhausted == 0


def test_debug_what_is_not_in_use_cannot_be_put() -> None:
    UpHost(1, debug=True)
    cache = ObjCache("things", Maker().ctor)
    thing = cache.get()
    assert thing is not None
    cache.put(thing)
    with pytest.raises(KernelPanic, match=r"put to objcache 'things' of an object that is not in use: <.*Thing"):
        cache.put(thing)
    with pytest.raises(KernelPanic, match="not in use"):
        cache.put(Thing())


def test_a_cache_belongs_to_its_domain() -> None:
    host = UpHost(1)
    cache = ObjCache("things", Maker().ctor)
    UpHost(1, name="other")
    with pytest.raises(KernelPanic, match="objcache 'things' used on <cpu 0 of other>, which does not know it"):
        cache.get()
    assert [row.name for row in stat.objcaches(host)] == ["things"]
    assert stat.text(ObjCacheRow, stat.objcaches(host)).splitlines()[1].split()[0] == "things"


def test_reclaim_destructs_what_is_cached_here_and_at_the_depot() -> None:
    host = UpHost(2)
    maker = Maker()
    cache = ObjCache("things", maker.ctor, maker.dtor, capacity=4)
    things = got(cache, 17)
    put(cache, things[:16])
    with on(host, 1):
        put(cache, got(cache, 4))
        assert cache.reclaim() == 4 + 4  # its own, and the one magazine left at the depot
    assert cache.reclaim() == 8
    assert maker.alive == {things[16]}
    put(cache, got(cache, 40))
    assert cache.stats().cached == 4 * (2 + DEPOT_MAGAZINES)


def test_destroy_destructs_everything_on_all_cpus() -> None:
    host = SimHost(3, seed=2)
    maker = Maker()

    async def main() -> None:
        cache = ObjCache("things", maker.ctor, maker.dtor, capacity=4)
        for n in range(1, 3):
            lwkt_create(fill, cache, cpu_id=n)
        await tsleep("nothing", 0, "nap", 1.0)
        thing = cache.get()
        assert thing is not None
        with pytest.raises(KernelPanic, match="objcache 'things' destroyed with 1 objects in use"):
            await cache.destroy()
        cache.put(thing)
        await cache.destroy()
        assert stat.objcaches() == []
        with pytest.raises(KernelPanic, match="does not know it"):
            cache.get()

    async def fill(cache: ObjCache[Thing]) -> None:
        put(cache, got(cache, 7))

    host.call(main())
    assert not maker.alive
    assert maker.made == 14 + 1
    host.stop()


@pytest.mark.parametrize("seed", range(8))
def test_who_sleeps_at_the_limit_is_given_what_is_put_on_any_cpu(seed: int) -> None:
    host = SimHost(3, seed=seed)
    maker = Maker()
    served: list[str] = []

    async def main() -> None:
        cache = ObjCache("things", maker.ctor, maker.dtor, 2)
        things = got(cache, 2)
        waiters = [lwkt_create(partial(wait, cache, f"w{n}"), cpu_id=n % 3) for n in range(5)]
        await tsleep("nothing", 0, "nap", 0.1)
        assert not served
        put(cache, things)
        while not all(td.is_done for td in waiters):
            await tsleep("nothing", 0, "nap", 0.01)
        assert cache.stats()[:3] == ("things", 7, 0)
        assert cache.stats().waiting == 5

    async def wait(cache: ObjCache[Thing], name: str) -> None:
        thing = await cache.aget()
        served.append(name)
        await lwkt_user_yield()
        cache.put(thing)

    host.call(main())
    assert sorted(served) == ["w0", "w1", "w2", "w3", "w4"]
    host.stop()


def test_who_sleeps_makes_other_cpus_surrender_what_lies_in_their_magazines() -> None:
    host = SimHost(2, seed=1)
    maker = Maker()

    async def hoard(cache: ObjCache[Thing]) -> None:
        put(cache, got(cache, 6))

    async def main() -> None:
        cache = ObjCache("things", maker.ctor, maker.dtor, 6, 4)
        lwkt_create(hoard, cache, cpu_id=1)
        await tsleep("nothing", 0, "nap", 0.1)
        assert cache.get() is None
        things = [await cache.aget() for _ in range(6)]
        assert set(things) == maker.alive
        put(cache, things)

    host.call(main())
    host.stop()


def test_sleeping_for_nobody_is_a_deadlock_and_only_for_threads() -> None:
    host = SimHost(1, seed=1)

    async def main() -> None:
        cache = ObjCache("things", Maker().ctor, limit=1)
        await cache.aget()
        await cache.aget()

    with pytest.raises(SimDeadlock, match="waits for 'things'"):
        host.call(main())
    host.stop()
    UpHost(1)
    coro = ObjCache("things", Maker().ctor).aget()
    with pytest.raises(WrongContext, match="objcache 'things' awaited outside a kernel thread"):
        coro.send(None)


def test_thread_host_no_object_is_lost_or_had_twice() -> None:
    ncpus, limit = 3, 12
    maker = Maker()
    in_use: dict[Thing, None] = {}
    with hasty(), ThreadHost(ncpus, debug=False) as host:
        cache = ObjCache("things", maker.ctor, maker.dtor, limit, 4, domain=host)

        async def worker() -> None:
            for i in range(200):
                things = [await cache.aget() for _ in range(1 + i % 4)]
                for thing in things:
                    assert in_use.setdefault(thing) is None
                    in_use[thing] = None
                await lwkt_user_yield()
                for thing in things:
                    del in_use[thing]
                    cache.put(thing)

        for n in range(ncpus):
            host.spawn(worker, cpu_id=n)
        host.wait_until_ended()
    row = cache.stats()
    assert row.allocated == row.cached == len(maker.alive) <= limit
    assert row.gets == row.puts == ncpus * 500
