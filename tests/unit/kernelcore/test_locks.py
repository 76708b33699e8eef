"""Critical sections, the serializer and the spinlock."""

from __future__ import annotations

import pytest

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
from kernelcore.globaldata import curthread, globaldata_find, mycpu
from kernelcore.host.sim import SimHost
from kernelcore.ipiq import send_ipiq
from kernelcore.panic import KernelPanic, WrongContext
from kernelcore.sched import lwkt_switch, lwkt_user_yield, preempt_point, thread_state
from kernelcore.serialize import Serializer, Spinlock
from kernelcore.sleep import tsleep
from kernelcore.thread import join, lwkt_create
from tests.unit.kernelcore.conftest import JumpHost


def test_a_section_defers_and_its_outermost_exit_runs(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        gd = mycpu()
        intr_post(gd, log.append, "at once")
        crit_enter()
        with critical():
            intr_post(gd, log.append, "later")
            intr_post(gd, log.append, "and later")
            splz_check()
            assert crit_test(curthread())
        assert log == ["at once"]
        crit_exit()
        assert log == ["at once", "later", "and later"] and not crit_test(curthread())

    up.call(main())


def test_noyield_leaves_the_work_for_the_next_point(up: JumpHost) -> None:
    log: list[str] = []

    async def main() -> None:
        crit_enter()
        intr_post(mycpu(), log.append, "waits")
        crit_exit_noyield()
        assert log == []
        splz()
        assert log == ["waits"]
        with pytest.raises(KernelPanic, match="crit_exit without crit_enter in thread"):
            crit_exit_noyield()
        with pytest.raises(KernelPanic, match="crit_exit without crit_enter in thread"):
            crit_exit()

    up.call(main())


def test_ipis_wait_for_the_end_of_the_section(sim: SimHost) -> None:
    log: list[str] = []

    async def sender() -> None:
        send_ipiq(globaldata_find(0), lambda name, _n: log.append(name), "ipi")

    async def main() -> None:
        with critical():
            lwkt_create(sender, cpu_id=1)
            while not mycpu().gd_ipimask:
                await preempt_point()
            for _ in range(5):
                await preempt_point()
            assert log == []
        assert log == ["ipi"]

    sim.call(main())


def test_a_section_is_the_thread_s_own(up: JumpHost) -> None:
    log: list[str] = []

    async def other() -> None:
        assert not crit_test(curthread())
        intr_post(mycpu(), log.append, "while the first sleeps")

    async def main() -> None:
        with critical():
            td = lwkt_create(other)
            await lwkt_user_yield()
            assert log == ["while the first sleeps"] and crit_test(curthread())
        await join(td)

    up.call(main())


def test_nothing_blocks_in_a_hard_section(up: JumpHost) -> None:
    async def main() -> None:
        with pytest.raises(KernelPanic, match="crit_exit_hard outside a hard section"):
            crit_exit_hard()
        crit_enter_hard()
        with pytest.raises(WrongContext, match="may not block"):
            await tsleep("door")
        with pytest.raises(WrongContext, match="may not block"):
            await lwkt_switch()
        crit_exit_hard()
        await lwkt_switch()

    up.call(main())


def test_named_sections_must_match(up: JumpHost) -> None:
    async def main() -> None:
        crit_enter_id("outer")
        crit_enter_id("inner")
        with pytest.raises(KernelPanic, match="crit_exit 'outer' but the newest section is 'inner'"):
            crit_exit_id("outer")
        crit_exit_id("inner")
        crit_exit_id("outer")
        with pytest.raises(KernelPanic, match="the newest section is 'None'"):
            crit_exit_id("outer")

    up.call(main())


def test_the_serializer_is_kept_across_a_sleep(up: JumpHost) -> None:
    log: list[str] = []
    slz = Serializer("nic")

    async def user(name: str) -> None:
        await slz.enter()
        log.append(f"{name} in")
        await tsleep(name, 0, "io", 1.0)
        log.append(f"{name} out")
        slz.exit()

    async def main() -> None:
        one, two = lwkt_create(user, "one"), lwkt_create(user, "two")
        await lwkt_user_yield()
        assert not slz.try_enter() and thread_state(two) == "S" and two.td_wmesg == "nic"
        await join(one)
        await join(two)
        assert slz.try_enter()
        with pytest.raises(KernelPanic, match="'nic' entered twice"):
            await slz.enter()
        slz.exit()
        with pytest.raises(KernelPanic, match="'nic' is not held"):
            slz.exit()
        assert (slz.stat_enter, slz.stat_sleep) == (3, 1)

    up.call(main())
    assert log == ["one in", "one out", "two in", "two out"]


def test_adaptive_enter_spins_while_the_holder_runs_elsewhere(sim: SimHost) -> None:
    slz = Serializer("nic")

    async def holder() -> None:
        await slz.enter()
        for _ in range(20):
            await preempt_point()
        slz.exit()

    async def main() -> None:
        td = lwkt_create(holder, cpu_id=1)
        while slz.s_owner is not td:
            await preempt_point()
        switches = curthread().td_switches
        await slz.adaptive_enter()
        assert curthread().td_switches == switches and slz.stat_sleep == 0
        slz.exit()
        await join(td)

    sim.call(main())


def test_a_disabled_handler_is_not_called(up: JumpHost) -> None:
    log: list[str] = []
    slz = Serializer("nic")

    async def main() -> None:
        assert await slz.handler_call(log.append, "first")
        slz.handler_disable()
        assert not await slz.handler_call(log.append, "second")
        slz.handler_enable()
        assert await slz.handler_call(log.append, "third")
        assert slz.try_enter()
        slz.exit()

    up.call(main())
    assert log == ["first", "third"]


def test_a_spinlock_is_a_critical_section_in_which_nothing_blocks(up: JumpHost) -> None:
    spin = Spinlock("depot")

    async def main() -> None:
        with spin:
            assert crit_test(curthread()) and mycpu().gd_spinlocks == 1
            with pytest.raises(KernelPanic, match="'depot' taken twice by thread"):
                spin.lock()
            with pytest.raises(WrongContext, match="with a spinlock held"):
                await tsleep("door")
        with pytest.raises(KernelPanic, match="'depot' is not held by thread"):
            spin.unlock()
        assert mycpu().gd_spinlocks == 0

    up.call(main())
