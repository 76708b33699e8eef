"""The scheduler: priorities, turns, yields, schedule and deschedule, migration."""

from __future__ import annotations

import pytest

from kernelcore.defs import TDF_BLOCKED, TDF_FIXEDCPU, TDF_NOSTART
from kernelcore.globaldata import curthread, globaldata_find, mycpu
from kernelcore.host.sim import SimHost
from kernelcore.panic import KernelPanic
from kernelcore.sched import (
    lwkt_acquire,
    lwkt_deschedule,
    lwkt_deschedule_self,
    lwkt_giveaway,
    lwkt_migratecpu,
    lwkt_schedule,
    lwkt_schedule_self,
    lwkt_setcpu_self,
    lwkt_setpri,
    lwkt_setpri_self,
    lwkt_switch,
    lwkt_user_yield,
    lwkt_yield,
    lwkt_yield_quick,
    preempt_point,
    schedulerclock,
    should_yield,
    thread_state,
)
from kernelcore.sleep import lwkt_sleep
from kernelcore.thread import TDPRI, Thread, join, lwkt_create
from kernelcore.token import Token
from tests.unit.kernelcore.conftest import JumpHost


def logger(log: list[str], name: str, rounds: int = 1) -> Thread:
    """Create a thread that writes its name, and lets its equals write theirs in between."""

    async def body() -> None:
        for _ in range(rounds):
            log.append(name)
            await lwkt_user_yield()

    return lwkt_create(body, name=name, flags=TDF_NOSTART)


async def run(*threads: Thread) -> None:
    for td in threads:
        lwkt_schedule(td)
    for td in threads:
        await join(td)


def test_higher_priorities_run_first_and_equals_in_turn(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        low, one, two, high = (logger(log, name, 2) for name in ("low", "one", "two", "high"))
        lwkt_setpri(low, TDPRI.KERN_USER)
        lwkt_setpri(high, TDPRI.SOFT_NORM)
        await run(low, one, two, high)

    up.call(main())
    assert log == ["high", "high", "one", "two", "one", "two", "low", "low"]


def test_setpri_puts_a_thread_behind_its_new_equals(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        low, one, two = (logger(log, name) for name in ("late", "one", "two"))
        lwkt_setpri(low, TDPRI.KERN_USER)
        for td in (low, one, two):
            lwkt_schedule(td)
        lwkt_setpri(low, TDPRI.KERN_DAEMON)
        for td in (low, one, two):
            await join(td)
        with pytest.raises(ValueError, match=r"priority -1 is not in 0\.\.31"):
            lwkt_setpri(low, -1)

    up.call(main())
    assert log == ["one", "two", "late"]


def test_setpri_of_a_thread_elsewhere_travels_by_ipi(smp: JumpHost) -> None:
    async def sleeper() -> int:
        await lwkt_sleep("parked")
        return curthread().td_pri

    async def main() -> object:
        td = lwkt_create(sleeper, cpu_id=1)
        while thread_state(td) != "B":
            await lwkt_user_yield()
        lwkt_setpri(td, 20)
        lwkt_schedule(td)
        return await join(td)

    assert smp.call(main()) == 20


def test_yield_only_when_it_is_somebody_elses_turn(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        other = logger(log, "equal")
        lwkt_schedule(other)
        await lwkt_yield()
        assert log == []  # nobody better, and no tick
        assert should_yield()
        schedulerclock(mycpu())  # now it is: the tick has put us behind
        await lwkt_yield()
        assert log == ["equal"]
        await join(other)
        await lwkt_user_yield()
        assert not should_yield()  # nobody else is there
        better = logger(log, "better")
        lwkt_setpri(better, 20)
        lwkt_schedule(better)
        await lwkt_yield()
        assert log == ["equal", "better"]
        await join(better)

    up.call(main())


def test_yield_quick_keeps_ones_place(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        equal, better = logger(log, "equal"), logger(log, "better")
        lwkt_setpri(better, 20)
        lwkt_schedule(equal)
        await lwkt_yield_quick()
        assert log == []
        lwkt_schedule(better)
        await lwkt_yield_quick()
        assert log == ["better"]  # and not the equal: we are still before it
        await join(equal)
        await join(better)

    up.call(main())


def test_switch_keeps_ones_place_and_deschedule_gives_it_up(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        me = curthread()
        equal = logger(log, "equal")
        lwkt_schedule(equal)
        await lwkt_switch()
        assert log == []

        async def waker() -> None:
            log.append("waker")
            lwkt_schedule(me)

        lwkt_create(waker)
        lwkt_deschedule_self()
        assert me.td_flags & TDF_BLOCKED
        await lwkt_switch()
        assert log == ["equal", "waker"]
        lwkt_schedule_self()  # no-op: it is ready
        await join(equal)

    up.call(main())


def test_deschedule_and_schedule_of_a_thread_elsewhere(smp: JumpHost) -> None:
    log: list[str] = []

    async def worker() -> None:
        for _ in range(3):
            log.append("work")
            await lwkt_user_yield()

    async def main() -> None:
        td = lwkt_create(worker, cpu_id=1, flags=TDF_NOSTART)
        lwkt_schedule(td)
        lwkt_deschedule(td)
        for _ in range(5):
            await lwkt_user_yield()
        assert log == []
        lwkt_schedule(td)
        await join(td)
        assert log == ["work"] * 3

    smp.call(main())


def test_setpri_self_and_user_yield(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        lwkt_setpri_self(TDPRI.KERN_USER)
        td = logger(log, "better now")
        lwkt_schedule(td)
        await lwkt_user_yield()
        assert log == ["better now"]
        await join(td)

    up.call(main())


def test_push_migration_loses_tokens_and_takes_them_again(sim: SimHost) -> None:
    async def main() -> None:
        tok = Token("map")
        async with tok:
            await lwkt_migratecpu(1)
            assert mycpu().gd_cpuid == 1 and curthread().td_gd is mycpu()
            tok.assert_held()
            assert [gd.gd_cpuid for gd in sim.gds if curthread() in gd.gd_tdallq] == [1]
            await lwkt_setcpu_self(globaldata_find(0))
        await lwkt_setcpu_self(globaldata_find(0))  # already there
        assert mycpu().gd_cpuid == 0

    sim.call(main())


def test_a_fixed_thread_does_not_migrate(sim: SimHost) -> None:
    async def fixed() -> None:
        with pytest.raises(KernelPanic, match="is fixed to its CPU"):
            await lwkt_migratecpu(0)

    async def main() -> None:
        await join(lwkt_create(fixed, cpu_id=1, flags=TDF_FIXEDCPU))

    sim.call(main())


def test_pull_migration_giveaway_and_acquire(sim: SimHost) -> None:
    async def worker() -> int:
        await lwkt_sleep("parked")
        return mycpu().gd_cpuid

    async def taker(td: Thread) -> None:
        lwkt_acquire(td)
        lwkt_schedule(td)

    async def main() -> object:
        td = lwkt_create(worker, cpu_id=0)
        with pytest.raises(KernelPanic, match="was not given away"):
            lwkt_acquire(td)
        while thread_state(td) != "B":
            await lwkt_user_yield()
        lwkt_giveaway(td)
        assert thread_state(td) == "M"
        with pytest.raises(KernelPanic, match="may not migrate"):
            lwkt_giveaway(td)
        await join(lwkt_create(taker, td, cpu_id=1))
        return await join(td)

    assert sim.call(main()) == 1


def test_giveaway_is_the_owners_business(sim: SimHost) -> None:
    async def main() -> None:
        td = lwkt_create(lambda: lwkt_sleep("parked"), cpu_id=1)
        while thread_state(td) != "B":
            await preempt_point()
        with pytest.raises(KernelPanic, match=r"lwkt_giveaway of .* from cpu 0"):
            lwkt_giveaway(td)
        lwkt_schedule(td)
        await join(td)

    sim.call(main())


def test_preempt_point_keeps_tokens_in_the_simulator_and_does_nothing_elsewhere(sim: SimHost, up: JumpHost) -> None:
    async def held() -> int:
        tok = Token("kept")
        async with tok:
            switches = curthread().td_switches
            await preempt_point()
            tok.assert_held()
            return curthread().td_switches - switches

    assert sim.call(held()) == 0
    assert up.call(held()) == 0
