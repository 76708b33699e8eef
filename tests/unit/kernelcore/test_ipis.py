"""IPIs and cpusync: send, passive, nowait, mask, wait, synchronize; interlock, deinterlock, quick."""

from __future__ import annotations

import pytest

from kernelcore.cpusync import CpuSync, cpusync_simple
from kernelcore.crit import critical
from kernelcore.globaldata import globaldata_find, mycpu
from kernelcore.host.sim import SimHost
from kernelcore.ipiq import (
    FIFO_NOWAIT,
    MAXCPUFIFO,
    pending,
    process_ipiq,
    send_ipiq,
    send_ipiq_mask,
    send_ipiq_nowait,
    send_ipiq_passive,
    seq_ipiq,
    wait_ipiq,
)
from kernelcore.ipisync import synchronize_ipiqs
from kernelcore.panic import KernelPanic, WrongContext
from kernelcore.sched import lwkt_switch, lwkt_user_yield, preempt_point
from kernelcore.sleep import tsleep
from kernelcore.thread import join, lwkt_create
from tests.unit.kernelcore.conftest import JumpHost

Log = list[tuple[int, int]]


def note(log: Log, n: int) -> None:
    """The function of an IPI: which CPU, which number."""
    log.append((mycpu().gd_cpuid, n))


def test_an_ipi_runs_elsewhere_in_order_and_can_be_waited_for(sim: SimHost) -> None:
    async def main() -> None:
        log: Log = []
        other = globaldata_find(1)
        seqs = [send_ipiq(other, note, log, n) for n in range(3)]
        assert seqs == [1, 2, 3] and seq_ipiq(other) == 3 and log == []
        assert list(pending(other)) == [(0, 3)]
        wait_ipiq(other, 2)
        assert log[:2] == [(1, 0), (1, 1)]
        wait_ipiq(other, 3)
        wait_ipiq(mycpu(), 7)  # nothing is ever queued for oneself
        assert log == [(1, 0), (1, 1), (1, 2)]

    sim.call(main())


def test_to_oneself_it_is_called_at_once(sim: SimHost) -> None:
    async def main() -> None:
        log: Log = []
        assert send_ipiq(mycpu(), note, log, 5) == 0 and log == [(0, 5)]
        with critical():
            assert send_ipiq_nowait(mycpu(), note, log, 6) == 0
        assert log == [(0, 5), (0, 6)]
        with pytest.raises(KernelPanic, match="passive IPI to oneself on cpu 0"):
            send_ipiq_passive(mycpu(), note, log)

    sim.call(main())


def test_an_exception_of_the_function_to_oneself_leaves_no_section(sim: SimHost) -> None:
    def fails(_arg: object, _n: int) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            send_ipiq(mycpu(), fails)
        await lwkt_switch()

    sim.call(main())


def test_a_mask_names_the_cpus(sim: SimHost) -> None:
    async def main() -> None:
        log: Log = []
        assert send_ipiq_mask(0b11, note, log) == 2
        assert send_ipiq_mask(0b10, note, log) == 1
        await synchronize_ipiqs()
        assert sorted(log) == [(0, 0), (1, 0), (1, 0)]

    sim.call(main())


def test_passive_waits_for_the_tick_or_for_an_urgent_one(sim: SimHost) -> None:
    async def main() -> None:
        log: Log = []
        other = globaldata_find(1)
        await tsleep("idle", 0, "idle", 1.0)
        send_ipiq_passive(other, note, log, 1)
        for _ in range(10):
            await preempt_point()
        assert log == [] and other.gd_npoll is False  # nobody has woken it
        wait_ipiq(other, send_ipiq(other, note, log, 2))
        assert log == [(1, 1), (1, 2)]
        send_ipiq_passive(other, note, log, 3)
        await tsleep("tick", 0, "tick", 1.0)
        assert log[-1] == (1, 3)

    sim.call(main())


def test_nowait_gives_up_at_two_thirds(sim: SimHost) -> None:
    async def main() -> None:
        log: Log = []
        other = globaldata_find(1)
        with pytest.raises(KernelPanic, match="outside a critical section"):
            send_ipiq_nowait(other, note, log)
        with critical():
            sent = [send_ipiq_nowait(other, note, log, n) for n in range(MAXCPUFIFO)]
        assert sent == [*range(1, FIFO_NOWAIT + 1), *[None] * (MAXCPUFIFO - FIFO_NOWAIT)]
        await synchronize_ipiqs()
        assert log == [(1, n) for n in range(FIFO_NOWAIT)]

    sim.call(main())


def test_a_sender_waits_for_room_and_serves_its_own(sim: SimHost) -> None:
    logs: tuple[Log, Log] = ([], [])

    async def sender(me: int) -> None:
        for n in range(3 * MAXCPUFIFO):
            send_ipiq(globaldata_find(1 - me), note, logs[me], n)

    async def main() -> None:
        one = lwkt_create(sender, 1, cpu_id=1)
        await sender(0)
        await join(one)
        await synchronize_ipiqs()

    sim.call(main())
    assert logs == ([(1, n) for n in range(3 * MAXCPUFIFO)], [(0, n) for n in range(3 * MAXCPUFIFO)])
    assert all(gd.gd_cnt.ipiq_fifofull for gd in sim.gds)


def test_two_cpus_may_wait_for_each_other(sim: SimHost) -> None:
    async def waiter(me: int) -> Log:
        log: Log = []
        for n in range(20):
            wait_ipiq(globaldata_find(1 - me), send_ipiq(globaldata_find(1 - me), note, log, n))
        return log

    async def main() -> None:
        td = lwkt_create(waiter, 1, cpu_id=1)
        assert await waiter(0) == [(1, n) for n in range(20)]
        assert await join(td) == [(0, n) for n in range(20)]

    sim.call(main())


def test_a_function_may_send_on_but_never_block(sim: SimHost) -> None:
    log: Log = []
    errors: list[WrongContext] = []

    def relay(_arg: object, n: int) -> None:
        coro = tsleep("never")
        try:
            coro.send(None)
        except WrongContext as exc:
            errors.append(exc)
        send_ipiq(globaldata_find(0), note, log, n)

    async def main() -> None:
        other = globaldata_find(1)
        wait_ipiq(other, send_ipiq(other, relay, None, 7))
        process_ipiq()

    sim.call(main())
    assert log == [(0, 7)] and len(errors) == 1


def test_in_a_domain_a_wait_ends_although_the_target_cannot_run(smp: JumpHost) -> None:
    async def main() -> None:
        log: Log = []
        other = globaldata_find(1)
        for n in range(3 * MAXCPUFIFO):  # nobody waits for room here
            send_ipiq(other, note, log, n)
        wait_ipiq(other, seq_ipiq(other))
        assert log == [(1, n) for n in range(3 * MAXCPUFIFO)]
        await synchronize_ipiqs()

    smp.call(main())


@pytest.mark.parametrize("host", ["smp", "sim"])
def test_cpusync_runs_the_function_once_on_each(host: str, request: pytest.FixtureRequest) -> None:
    async def main() -> None:
        log: list[int] = []

        def fn(_data: object) -> None:
            log.append(mycpu().gd_cpuid)

        cpusync_simple(0b11, fn)
        assert sorted(log) == [0, 1]
        CpuSync(0b10, fn).quick()
        assert log[2:] == [1]
        cs = CpuSync(0b01, fn)
        cs.interlock()
        assert log[3:] == []
        cs.deinterlock()
        assert log[3:] == [0]
        cpusync_simple(0b11, None)

    request.getfixturevalue(host).call(main())


def test_between_interlock_and_deinterlock_the_others_rest(sim: SimHost) -> None:
    work = [0]

    async def worker() -> None:
        while work[0] >= 0:
            work[0] += 1
            await preempt_point()

    async def main() -> None:
        td = lwkt_create(worker, cpu_id=1)
        while work[0] < 3:
            await preempt_point()
        cs = CpuSync(0b11, None)
        cs.interlock()
        before = work[0]
        for _ in range(50):
            process_ipiq()
            sim.spin(mycpu())
        assert work[0] == before
        with pytest.raises(WrongContext, match="while mastering a cpusync"):
            await lwkt_user_yield()
        with pytest.raises(KernelPanic, match="a second cpusync"):
            cpusync_simple(0b11, None)
        cs.deinterlock()
        with pytest.raises(KernelPanic, match="deinterlock without interlock"):
            cs.deinterlock()
        while work[0] == before:
            await preempt_point()
        work[0] = -1
        await join(td)

    sim.call(main())


def test_two_masters_at_once_both_get_through(sim: SimHost) -> None:
    log: list[str] = []

    async def master(name: str) -> None:
        for _ in range(5):
            cpusync_simple(0b11, lambda _data: log.append(name))
            await preempt_point()

    async def main() -> None:
        td = lwkt_create(master, "one", cpu_id=1)
        await master("zero")
        await join(td)

    sim.call(main())
    assert sorted(log) == ["one"] * 10 + ["zero"] * 10
