"""tsleep and wakeup, lwkt_sleep, signals, callouts."""

from __future__ import annotations

import pytest

from kernelcore.callout import Callout, next_deadline
from kernelcore.defs import PCATCH, PINTERLOCKED
from kernelcore.globaldata import curthread, globaldata_find, mycpu
from kernelcore.host.sim import SimHost
from kernelcore.ipiq import seq_ipiq, wait_ipiq
from kernelcore.panic import WrongContext
from kernelcore.sched import lwkt_schedule, lwkt_user_yield, preempt_point, thread_state
from kernelcore.serialize import Serializer, Spinlock
from kernelcore.sleep import (
    EINTR,
    ERESTART,
    EWOULDBLOCK,
    lwkt_signal,
    lwkt_sleep,
    ssleep,
    tsleep,
    tsleep_interlock,
    wakeup,
    wakeup_mycpu,
    wakeup_mycpu_one,
    wakeup_one,
    zsleep,
)
from kernelcore.thread import Thread, join, lwkt_create
from tests.unit.kernelcore.conftest import JumpHost


async def asleep(*threads: Thread) -> None:
    while any(thread_state(td) not in "SB" for td in threads):
        await lwkt_user_yield()


def sleeper(log: list[str], name: str, cpu_id: int = 0) -> Thread:
    async def body() -> None:
        await tsleep("door", 0, "door")
        log.append(name)

    return lwkt_create(body, name=name, cpu_id=cpu_id)


def test_wakeup_wakes_all_in_the_order_they_came(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        threads = [sleeper(log, name) for name in "abc"]
        await asleep(*threads)
        assert threads[0].td_wmesg == "door" and threads[0].td_wchan == "door"
        wakeup("window")
        await lwkt_user_yield()
        assert log == []
        wakeup("door")
        for td in threads:
            await join(td)

    up.call(main())
    assert log == ["a", "b", "c"]


def test_wakeup_one_wakes_the_one_that_waits_longest(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        threads = [sleeper(log, name) for name in "abc"]
        await asleep(*threads)
        for wake, expected in ((wakeup_one, "a"), (wakeup_mycpu_one, "ab"), (wakeup_mycpu, "abc")):
            wake("door")
            await lwkt_user_yield()
            assert "".join(log) == expected

    up.call(main())


def test_a_wakeup_without_a_sleeper_is_lost(up: JumpHost) -> None:
    async def main() -> int:
        wakeup("door")
        return await tsleep("door", 0, "door", 5.0)

    assert up.call(main()) == EWOULDBLOCK
    assert up.now == 5.0


def test_a_wakeup_after_the_interlock_is_not_lost(sim: SimHost) -> None:
    ready: list[int] = []

    async def producer() -> None:
        ready.append(1)
        wakeup("ready")

    async def main() -> int:
        tsleep_interlock("ready")
        lwkt_create(producer, cpu_id=1)
        while not ready:
            await preempt_point()
        return await tsleep("ready", PINTERLOCKED, "ready")

    assert sim.call(main()) == 0


def test_a_second_interlock_moves_the_hook(up: JumpHost) -> None:
    async def main() -> None:
        tsleep_interlock("one")
        tsleep_interlock("two")
        assert list(mycpu().gd_tsleep_hash) == ["two"]
        wakeup("two")
        assert await tsleep("two", PINTERLOCKED) == 0

    up.call(main())


def test_one_ipi_for_each_cpu_that_has_sleepers(sim: SimHost) -> None:
    log: list[str] = []

    async def main() -> None:
        other = globaldata_find(1)
        threads = [sleeper(log, name, cpu_id=1) for name in "abc"]
        await asleep(*threads)
        before = seq_ipiq(other)
        wakeup("nobody")
        assert seq_ipiq(other) == before
        wakeup("door")
        assert seq_ipiq(other) == before + 1
        wait_ipiq(other, before + 1)
        assert {thread_state(td) for td in threads} <= {"Q", "R", "Z"}
        for td in threads:
            await join(td)

    sim.call(main())
    assert log == ["a", "b", "c"]


def test_a_time_limit_and_a_wakeup_before_it(up: JumpHost) -> None:
    async def waker() -> None:
        await tsleep("clock", 0, "clock", 1.0)
        wakeup("door")

    async def main() -> tuple[int, int]:
        lwkt_create(waker)
        woken = await tsleep("door", 0, "door", 3.0)
        return woken, await tsleep("door", 0, "door", 3.0)

    assert up.call(main()) == (0, EWOULDBLOCK)
    assert up.now == 4.0  # the first limit has not cut the second sleep short


def test_a_signal_ends_only_an_interruptible_sleep(up: JumpHost) -> None:
    log: list[int] = []

    async def victim() -> None:
        log.append(await tsleep("door", PCATCH, "door"))
        log.append(await lwkt_sleep("parked", PCATCH))
        log.append(await tsleep("door", 0, "door", 1.0))
        log.append(await tsleep("door", PCATCH, "door"))  # the signal that came meanwhile

    async def main() -> None:
        td = lwkt_create(victim)
        for error in (EINTR, ERESTART, EINTR):
            await asleep(td)
            lwkt_signal(td, error)
            await lwkt_user_yield()
        await join(td)

    up.call(main())
    assert log == [EINTR, ERESTART, EWOULDBLOCK, EINTR]


def test_a_signal_to_another_cpu(sim: SimHost) -> None:
    async def main() -> object:
        td = lwkt_create(lambda: tsleep("door", PCATCH, "door"), cpu_id=1)
        await asleep(td)
        lwkt_signal(td)
        return await join(td)

    assert sim.call(main()) == EINTR


def test_lwkt_sleep_until_scheduled(up: JumpHost) -> None:
    async def main() -> object:
        td = lwkt_create(lambda: lwkt_sleep("parked"), name="parked")
        await asleep(td)
        wakeup("parked")  # has no ident: nobody hears
        await lwkt_user_yield()
        assert thread_state(td) == "B"
        lwkt_schedule(td)
        return await join(td)

    assert up.call(main()) == 0


def test_ssleep_and_zsleep_let_go_of_their_lock(up: JumpHost) -> None:
    spin, slz = Spinlock("spin"), Serializer("slz")
    items: list[str] = []

    async def consumer() -> list[str]:
        got = []
        with spin:
            while not items:
                await ssleep("items", spin, 0, "items")
            got.append(items.pop())
        await slz.enter()
        while not items:
            await zsleep("items", slz, 0, "items")
        slz.assert_held()
        got.append(items.pop())
        slz.exit()
        return got

    async def main() -> object:
        td = lwkt_create(consumer)
        await asleep(td)
        with spin:
            items.append("under a spinlock")
        wakeup("items")
        await lwkt_user_yield()
        await slz.enter()
        items.append("under a serializer")
        slz.exit()
        wakeup("items")
        return await join(td)

    assert up.call(main()) == ["under a spinlock", "under a serializer"]


def test_nobody_sleeps_outside_a_thread(up: JumpHost) -> None:
    with pytest.raises(WrongContext, match="outside a kernel thread"):
        tsleep_interlock("door")


def test_a_callout_fires_once_at_its_time_in_a_critical_section(up: JumpHost) -> None:
    fired: list[tuple[float, str, bool]] = []

    def fire(name: str) -> None:
        fired.append((up.now, name, mycpu().gd_intr_nesting_level > 0))

    async def main() -> None:
        late, early, never, twice = (Callout(fire, name) for name in ("late", "early", "never", "twice"))
        late.reset(3.0)
        early.reset(1.0)
        never.reset(2.0)
        twice.reset(9.0)
        twice.reset(2.0)  # the time set before is forgotten
        assert next_deadline(mycpu()) == 1.0
        assert [never.stop(), never.stop()] == [True, False]
        assert [timer.armed for timer in (early, never)] == [True, False]
        await tsleep("end", 0, "end", 10.0)
        assert [timer.armed for timer in (early, late)] == [False, False]
        assert next_deadline(mycpu()) is None
        await late.drain()

    up.call(main())
    assert fired == [(1.0, "early", True), (2.0, "twice", True), (3.0, "late", True)]


def test_a_callout_may_arm_itself_again(up: JumpHost) -> None:
    ticks: list[float] = []

    def tick(_arg: object) -> None:
        ticks.append(up.now)
        if len(ticks) < 3:
            timer.reset(1.0)

    timer = Callout(tick)

    async def main() -> None:
        timer.reset(1.0)
        await tsleep("end", 0, "end", 10.0)

    up.call(main())
    assert ticks == [1.0, 2.0, 3.0]


def test_a_callout_fires_on_the_cpu_that_armed_it(sim: SimHost) -> None:
    async def arm() -> int:
        where: list[int] = []
        timer = Callout(lambda _arg: where.append(mycpu().gd_cpuid))
        timer.reset(0.5)
        await tsleep(curthread(), 0, "wait", 1.0)
        return where[0]

    async def main() -> list[int]:
        return [await join(lwkt_create(arm, cpu_id=n)) for n in (0, 1)]

    assert sim.call(main()) == [0, 1]
