"""UpHost: the plain host and the pump below it; no loop, no OS threads but the caller's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kernelcore import stat
from kernelcore.defs import TDPRI
from kernelcore.globaldata import NO_CPU, cpu, globaldata_find, mycpu
from kernelcore.host.domain import PUMP_SWITCHES
from kernelcore.host.up import UpHost
from kernelcore.ipiq import send_ipiq, send_ipiq_passive, seq_ipiq, wait_ipiq
from kernelcore.panic import KernelPanic
from kernelcore.sched import lwkt_user_yield
from kernelcore.sleep import EWOULDBLOCK, tsleep, wakeup
from kernelcore.thread import Thread, join, lwkt_create


@pytest.fixture
def host() -> Iterator[UpHost]:
    host = UpHost(2, name="up")
    yield host
    host.stop()
    cpu.gd = NO_CPU


async def busy() -> None:
    while True:
        await lwkt_user_yield()


def test_a_busy_cpu_does_not_starve_another(host: UpHost) -> None:
    async def elsewhere() -> int:
        for _ in range(3):
            await lwkt_user_yield()
        return mycpu().gd_cpuid

    async def body() -> int:
        lwkt_create(busy, cpu_id=0, name="busy")
        td = lwkt_create(elsewhere, cpu_id=1, name="elsewhere")
        while not td.is_done:
            await lwkt_user_yield()
        result: int = await join(td)
        return result

    assert host.call(body()) == 1


@pytest.mark.parametrize("stats", [True, False])
def test_the_budget_bounds_a_run_and_the_next_one_begins_elsewhere(stats: bool) -> None:
    host = UpHost(2, name="up", stats=stats)
    for n in range(2):
        cpu.gd = host.gds[n]
        lwkt_create(busy, cpu_id=n, name=f"busy{n}")

    assert not host.run(seconds=60.0)
    switches = [gd.gd_cnt.v_swtch for gd in host.gds]
    assert sum(switches) == PUMP_SWITCHES
    assert not host.run(switches=2, seconds=60.0)
    assert not host.run(switches=2, seconds=60.0)
    assert [gd.gd_cnt.v_swtch - before for gd, before in zip(host.gds, switches, strict=True)] == [2, 2]
    host.stop()
    cpu.gd = NO_CPU


def test_a_run_ends_when_its_time_is_over() -> None:
    now = [0.0]
    host = UpHost(1, name="up", clock=lambda: now[0])

    async def slow() -> None:
        while True:
            now[0] += 1e-3
            await lwkt_user_yield()

    td = lwkt_create(slow, name="slow")
    assert not host.run(seconds=2.5e-3)
    assert (td.td_switches, host.gds[0].gd_cnt.v_swtch) == (3, 3)
    assert host.last_overrun is td
    assert td.td_cputime == pytest.approx(3e-3)
    host.stop()
    cpu.gd = NO_CPU


def test_the_best_thread_runs_first_and_equals_take_turns(host: UpHost) -> None:
    order: list[str] = []

    async def worker(name: str) -> None:
        for _ in range(2):
            order.append(name)
            await lwkt_user_yield()

    async def body() -> None:
        for name, pri in (("low", TDPRI.KERN_USER), ("a", TDPRI.SOFT_NORM), ("b", TDPRI.SOFT_NORM)):
            lwkt_create(worker, name, cpu_id=0, pri=pri, name=name)
        await tsleep("nothing", 0, "nap", 1e-4)

    host.call(body())
    host.run_until_idle()
    assert order == ["a", "b", "a", "b", "low", "low"]


def test_the_caller_sleeps_over_timers_and_posts(host: UpHost) -> None:
    async def timed() -> int:
        return await tsleep("nothing", 0, "nap", 0.002)

    async def posted() -> str:
        host.outstanding += 1
        threading.Timer(0.005, host.post, (lambda _arg: wakeup("disk"),)).start()
        await tsleep("disk", 0, "disk")
        host.outstanding -= 1
        return "posted"

    assert host.call(timed()) == EWOULDBLOCK
    assert host.call(posted()) == "posted"


def test_the_death_of_a_thread_is_the_caller_s_to_hear(host: UpHost, caplog: pytest.LogCaptureFixture) -> None:
    async def dies() -> None:
        raise ValueError("bad luck")

    async def body() -> None:
        lwkt_create(dies, cpu_id=0, name="unlucky")
        await lwkt_user_yield()

    with pytest.raises(KernelPanic, match=r"thread 'unlucky' died: ValueError\('bad luck'\)"):
        host.call(body())
    assert "thread 'unlucky'" in caplog.text


def test_buffers_of_a_request_are_released_at_the_next_entry(host: UpHost) -> None:
    released: list[str] = []

    async def body(name: str) -> str:
        host.release_after_reply(lambda: released.append(name))
        await lwkt_user_yield()
        return name

    assert host.call(body("first")) == "first"
    assert released == []
    assert host.call(body("second")) == "second"
    assert released == ["first"]
    host.stop()
    assert released == ["first", "second"]


def test_borrowed_structures_are_used_again_under_their_new_name(host: UpHost) -> None:
    names: list[tuple[str, int]] = []

    async def body() -> None:
        td: Thread = mycpu().gd_curthread
        names.append((td.td_comm, td.td_tid))

    host.call(body(), "getattr")
    host.call(body(), "read")
    assert [name for name, _tid in names] == ["getattr", "read"]
    assert names[0][1] == names[1][1]
    assert stat.ps(host) == []


def test_a_cpu_at_rest_takes_its_interrupt_at_once_and_in_order(host: UpHost) -> None:
    story: list[tuple[int, str]] = []

    def note(text: str, _arg2: int) -> None:
        assert mycpu().gd_intr_nesting_level == 1
        assert mycpu().gd_curthread.td_critcount == 1
        story.append((mycpu().gd_cpuid, text))

    def relay(text: str, _arg2: int) -> None:
        send_ipiq(globaldata_find(0), note, f"{text} comes back")  # cpu 0 runs a thread: it must wait
        send_ipiq(globaldata_find(1), note_here, text)  # oneself: a call

    def note_here(text: str, _arg2: int) -> None:
        story.append((mycpu().gd_cpuid, text))

    async def body() -> None:
        other = globaldata_find(1)
        seq = send_ipiq(other, note, "at once")
        assert story == [(1, "at once")]
        assert (seq, seq_ipiq(other), mycpu().gd_cpuid) == (1, 1, 0)
        wait_ipiq(other, seq)
        send_ipiq(other, relay, "relayed")
        assert story[1:] == [(1, "relayed")]
        await lwkt_user_yield()
        assert story[2:] == [(0, "relayed comes back")]
        send_ipiq_passive(other, note, "passive")
        seq = send_ipiq(other, note, "behind it")
        assert len(story) == 3
        wait_ipiq(other, seq)
        assert story[3:] == [(1, "passive"), (1, "behind it")]

    host.call(body())
    queues = [q for gd in host.gds for q in gd.gd_ipiq]
    assert all(q.windex == q.rindex == q.xindex and not q.fifo for q in queues)


def test_what_an_interrupt_taken_at_once_raises_reaches_the_sender(host: UpHost) -> None:
    async def body() -> str:
        with pytest.raises(ZeroDivisionError):
            send_ipiq(globaldata_find(1), lambda _a, _b: 1 // 0)
        assert mycpu().gd_cpuid == 0
        wait_ipiq(globaldata_find(1), seq_ipiq(globaldata_find(1)))
        await lwkt_user_yield()
        return "goes on"

    assert host.call(body()) == "goes on"
    assert all(gd.gd_intr_nesting_level == 0 for gd in host.gds)
