"""UpHost: the plain host and the pump below it; no loop, no OS threads but the caller's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kernelcore import stat
from kernelcore.defs import TDPRI
from kernelcore.globaldata import NO_CPU, cpu, mycpu
from kernelcore.host.domain import PUMP_SWITCHES
from kernelcore.host.up import UpHost
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
