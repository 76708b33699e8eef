"""TrioHost: requests of a trio loop served by kernel threads; failure, shutdown, fairness, stalls."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import trio

from kernelcore import stat
from kernelcore.callout import Callout
from kernelcore.crit import intr_post
from kernelcore.defs import PCATCH
from kernelcore.globaldata import curthread, mycpu
from kernelcore.host import trio_host
from kernelcore.host.domain import PUMP_SWITCHES
from kernelcore.host.trio_host import SWITCH_INTERVAL, HostStopped, TrioHost
from kernelcore.ipiq import send_ipiq_passive
from kernelcore.msgport import LwktMsg, domsg, initmsg, lwkt_port, service_loop
from kernelcore.panic import KernelPanic, WrongContext
from kernelcore.sched import lwkt_migratecpu, lwkt_user_yield, lwkt_yield, should_yield
from kernelcore.sleep import EINTR, EWOULDBLOCK, tsleep, wakeup
from kernelcore.thread import join, lwkt_create
from kernelcore.token import Token
from tests.unit.kernelcore.triolab import leaf_errors, serve, until

# ------------------------------------------------------------ requests


def test_a_request_that_never_blocks_is_served_at_once() -> None:
    async def main(host: TrioHost) -> tuple[int, int]:
        async def body() -> int:
            return mycpu().gd_cpuid + 7

        before = trio.lowlevel.current_statistics().tasks_runnable
        result = await host.syscall(body())
        return result, trio.lowlevel.current_statistics().tasks_runnable - before

    assert serve(main) == (7, 0)


def test_requests_that_block_return_and_raise() -> None:
    async def main(host: TrioHost) -> None:
        async def returns() -> str:
            await lwkt_user_yield()
            await lwkt_migratecpu(1)
            assert await tsleep("nothing", 0, "nap", 0.001) == EWOULDBLOCK
            return "done"

        async def raises() -> None:
            await tsleep("nothing", 0, "nap", 0.001)
            raise LookupError("gone")

        assert await host.syscall(returns()) == "done"
        with pytest.raises(LookupError, match="gone"):
            await host.syscall(raises())
        assert host.syscalls == 2
        assert not stat.ps(host)  # borrowed structures have gone back

    serve(main, ncpus=2)


def test_plain_requests() -> None:
    async def main(host: TrioHost) -> None:
        tok = Token("map")

        def plain(n: int) -> int:
            with tok:
                return n + 1

        assert host.syscall_plain(plain, 1) == 2
        with pytest.raises(ZeroDivisionError):
            host.syscall_plain(lambda: 1 // 0)
        with pytest.raises(KernelPanic, match=r"a plain system call, thread 'syscall' .* holding token 'map'"):
            host.syscall_plain(tok.get)
        assert host.syscall_plain(plain, 2) == 3

    serve(main)


def test_what_a_request_makes_ready_runs_soon() -> None:
    """Also where the request itself never blocks: the pump's task takes over after the reply."""
    done: list[str] = []

    async def daemon() -> None:
        while True:
            await tsleep("work", 0, "idle")
            done.append("daemon")

    async def main(host: TrioHost) -> None:
        async def start() -> None:
            lwkt_create(daemon)

        async def poke() -> None:
            wakeup("work")

        await host.syscall(start())
        await until(lambda: stat.ps(host)[0].wmesg == "idle")
        await host.syscall(poke())
        await until(lambda: len(done) == 1)
        await until(lambda: host._pump_parked)
        host.syscall_plain(wakeup, "work")
        await until(lambda: len(done) == 2)

    serve(main)


def test_a_thousand_requests_at_once() -> None:
    async def main(host: TrioHost) -> list[int]:
        served: list[int] = []
        tok = Token("sum")
        total = 0

        async def server() -> None:
            await service_loop(lwkt_port(), lambda msg: 0)

        async def boot() -> Any:
            return lwkt_port(lwkt_create(server, name="server"))

        port = await host.syscall(boot())

        async def body(n: int) -> int:
            nonlocal total
            await tsleep("start", 0, "start")
            with tok:
                total += n
            msg = LwktMsg(lwkt_port())
            await domsg(port, msg)
            await lwkt_user_yield()
            return n

        async def request(n: int) -> None:
            served.append(await host.syscall(body(n)))

        async with trio.open_nursery() as nursery:
            for n in range(1000):
                nursery.start_soon(request, n)
            await until(lambda: host.syscalls == 1001)
            await until(lambda: sum(row.wmesg == "start" for row in stat.ps(host)) == 1000)
            host.syscall_plain(wakeup, "start")
        assert total == sum(range(1000))
        return served

    assert sorted(serve(main)) == list(range(1000))


def test_completions_of_other_os_threads_wake_the_loop() -> None:
    async def main(host: TrioHost) -> int:
        seen: list[int] = []

        async def body() -> int:
            while len(seen) < 100:
                await tsleep("posted", 0, "posted")
            return len(seen)

        def completed(number: object) -> None:
            assert mycpu().gd_intr_nesting_level
            seen.append(number)  # type: ignore[arg-type]
            wakeup("posted")

        def other() -> None:
            for i in range(100):
                host.post(completed, i)

        os_thread = threading.Thread(target=other)
        os_thread.start()
        result = await host.syscall(body())
        os_thread.join()
        assert seen == list(range(100))
        return result

    assert serve(main) == 100


def test_an_earlier_timer_brings_the_host_forward() -> None:
    async def main(host: TrioHost) -> list[str]:
        order: list[str] = []

        async def nap(name: str, seconds: float) -> None:
            await tsleep(name, 0, "nap", seconds)
            order.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.syscall, nap("late", 0.05))
            await until(lambda: stat.ps(host))
            nursery.start_soon(host.syscall, nap("early", 0.01))
        return order

    assert serve(main) == ["early", "late"]


def test_the_switch_interval_is_set_once_and_only_lowered() -> None:
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        serve(_nothing)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL, rel=0.02)
        sys.setswitchinterval(0.0001)
        serve(_nothing)
        assert sys.getswitchinterval() == pytest.approx(0.0001, rel=0.02)
    finally:
        sys.setswitchinterval(before)


async def _nothing(_host: TrioHost) -> None:
    pass


# ------------------------------------------------------------ failure


def test_the_death_of_a_thread_is_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def main(host: TrioHost) -> list[str]:
        async def dies() -> None:
            await lwkt_user_yield()
            raise ValueError("bad luck")

        async def body() -> None:
            lwkt_create(dies, name="unlucky")

        await host.syscall(body())
        await until(lambda: host.panics)
        return [f"{td.td_comm}: {exc}" for td, exc in host.panics]

    with caplog.at_level(logging.ERROR, "kernelcore"):
        assert serve(main) == ["unlucky: bad luck"]
    assert "thread 'unlucky'" in caplog.text
    assert "in dies" in caplog.text  # where


def test_a_joiner_gets_the_exception_and_nobody_else() -> None:
    async def main(host: TrioHost) -> None:
        async def dies() -> None:
            await lwkt_user_yield()
            raise ValueError("bad luck")

        async def body() -> None:
            await join(lwkt_create(dies))

        with pytest.raises(ValueError, match="bad luck"):
            await host.syscall(body())
        assert not host.panics

    serve(main)


def _in_a_completion(host: TrioHost) -> None:
    os_thread = threading.Thread(target=host.post, args=(lambda _arg: 1 // 0,))
    os_thread.start()
    os_thread.join()


def _in_an_ipi_function(host: TrioHost) -> None:
    host.syscall_plain(send_ipiq_passive, host.gds[1], lambda _a, _b: 1 // 0)


def _in_a_timer(host: TrioHost) -> None:
    host.syscall_plain(lambda: Callout(lambda _arg: 1 // 0).reset(0.001))


@pytest.mark.parametrize("breaks", [_in_a_completion, _in_an_ipi_function, _in_a_timer])
def test_what_breaks_the_pump_stops_the_host(breaks: Callable[[TrioHost], None]) -> None:
    """It is raised in the nursery; requests under way fail, whoever's pump it was; none hangs."""
    outcome: list[str] = []

    async def main(host: TrioHost) -> None:
        async def request() -> None:
            try:
                await host.syscall(tsleep("never", 0, "park"))
            except HostStopped as exc:
                outcome.append(str(exc))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            await until(lambda: stat.ps(host))
            breaks(host)

    with pytest.raises(ExceptionGroup) as failed:
        serve(main, ncpus=2)
    (panic,) = leaf_errors(failed.value)
    assert isinstance(panic, KernelPanic)
    assert "has stopped: ZeroDivisionError" in str(panic)
    assert len(outcome) == 1
    assert "thread 'syscall'" in outcome[0]


# ------------------------------------------------------------ shutdown


def test_shutdown_with_requests_in_flight() -> None:
    """Some end within the grace time, some when interrupted, some never."""
    story: list[object] = []

    async def quick() -> str:
        await tsleep("nothing", 0, "nap", 0.005)
        return "quick"

    async def interruptible() -> str:
        assert await tsleep("never", PCATCH, "park") == EINTR
        return "interrupted"

    async def stubborn() -> str:
        try:
            await tsleep("never", 0, "park")
        finally:
            story.append("closed")
        raise AssertionError

    async def everything() -> None:
        host = TrioHost(name="fs")

        async def request(body: Coroutine[Any, Any, str]) -> None:
            try:
                story.append(await host.syscall(body))
            except HostStopped as exc:
                story.append(str(exc))

        async with trio.open_nursery() as nursery:
            host.start(nursery)
            for body in (quick(), interruptible(), stubborn()):
                nursery.start_soon(request, body)
            await until(lambda: len(stat.ps(host)) == 3)
            nursery.start_soon(host.shutdown, 0.05)
            await host.shutdown(0.05)
            with pytest.raises(HostStopped, match="'fs' does not serve requests any more"):
                await host.syscall(quick())

    trio.run(everything)
    assert story[:3] == ["quick", "interrupted", "closed"]
    assert "was still under way when domain 'fs' stopped" in str(story[3])


def test_a_completion_that_comes_after_the_end_is_ignored() -> None:
    async def everything() -> list[int]:
        host = TrioHost()
        late: list[int] = []
        async with trio.open_nursery() as nursery:
            host.start(nursery)
            await host.shutdown()
            host.post(lambda _arg: late.append(1))
            for _ in range(5):
                await trio.lowlevel.checkpoint()
        return late

    assert trio.run(everything) == []


def test_a_post_when_the_loop_is_gone_is_ignored() -> None:
    kept: list[TrioHost] = []

    async def main(host: TrioHost) -> None:
        kept.append(host)

    serve(main)
    kept[0].post(lambda _arg: None)


# ------------------------------------------------------------ fairness


def test_a_long_flush_starves_nobody() -> None:
    """Requests and other trio tasks go on; between two of their turns a flush gets one budget of the pump, no more."""
    steps = 0
    longest = 0

    async def flush() -> None:
        nonlocal steps
        while True:
            steps += 1
            await lwkt_user_yield()

    async def main(host: TrioHost) -> None:
        async def boot() -> None:
            lwkt_create(flush, name="flush")

        async def body() -> None:
            await lwkt_user_yield()
            await tsleep("nothing", 0, "nap", 1e-4)

        async def other_task() -> None:
            nonlocal longest
            for _ in range(50):
                seen = steps
                await trio.lowlevel.checkpoint()
                longest = max(longest, steps - seen)

        await host.syscall(boot())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other_task)
            for _ in range(20):
                nursery.start_soon(host.syscall, body())
        seen = steps
        await until(lambda: steps > seen)  # and the flush is not starved by them

    serve(main)
    # At most every task of the test pumps once between two turns of one of them.
    assert 0 < longest <= 25 * PUMP_SWITCHES


@pytest.mark.parametrize("give_way", [lwkt_yield, lwkt_user_yield])
def test_a_thread_that_only_yields_gives_the_host_its_turn(give_way: Callable[[], Awaitable[None]]) -> None:
    async def main(host: TrioHost) -> None:
        stop: list[int] = []

        async def busy() -> int:
            turns = 0
            while not stop:
                turns += 1
                await give_way()
            return turns

        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.syscall, busy())
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            stop.append(1)

    serve(main)


def test_should_yield_tells_when_the_budget_is_spent() -> None:
    now = [0.0]

    async def main(host: TrioHost) -> tuple[bool, bool]:
        async def body() -> tuple[bool, bool]:
            early = should_yield()
            now[0] += 1e-3
            return early, should_yield()

        return await host.syscall(body())

    assert serve(main, clock=lambda: now[0]) == (False, True)


# ------------------------------------------------------------ stalls and latency


@pytest.mark.parametrize(("computed", "level"), [(0.02, logging.WARNING), (0.001, logging.INFO)])
def test_a_stall_names_the_thread(
    computed: float, level: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning where the thread was computing, information where it waited or the machine was busy."""
    now = [0.0]
    used = [0.0]
    monkeypatch.setattr("kernelcore.host.trio_host.time.thread_time", lambda: used[0])

    async def hog() -> None:
        await lwkt_user_yield()
        now[0] += 0.02
        used[0] += computed
        await lwkt_user_yield()

    async def main(host: TrioHost) -> int:
        async def boot() -> None:
            lwkt_create(hog, name="hog")
            for _ in range(5):
                await lwkt_user_yield()

        await host.syscall(boot())
        return host.stalls

    with caplog.at_level(logging.INFO, "kernelcore"):
        assert serve(main, clock=lambda: now[0]) == 1
    (record,) = caplog.records
    assert record.levelno == level
    wanted = f"did not yield for 20.0 ms, at least {computed * 1e3:.1f} of them computing: thread 'hog' (tid "
    assert wanted in record.getMessage()


def test_a_stall_in_the_first_step_of_a_request_names_it(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]

    async def main(host: TrioHost) -> int:
        async def body() -> None:
            now[0] += 0.03

        def plain_hog() -> None:
            now[0] += 0.01

        await host.syscall(body(), "getattr")
        host.syscall_plain(plain_hog)
        host.post(lambda _arg: now.__setitem__(0, now[0] + 0.04))
        await until(lambda: host.stalls == 3)
        return host.stalls

    with caplog.at_level(logging.INFO, "kernelcore"):
        assert serve(main, clock=lambda: now[0]) == 3
    told = [record.getMessage() for record in caplog.records]
    assert "30.0 ms" in told[0]
    assert "thread 'getattr'" in told[0]
    assert "plain_hog ran last" in told[1]
    assert "a completion, an IPI function or a timer ran last" in told[2]


def test_the_latency_of_the_interpreter_lock_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio_host, "PROBE_SECONDS", 0.001)

    async def main(host: TrioHost) -> dict[str, int | str]:
        await until(lambda: host.gil.samples >= 3)
        return stat.sysctl(host)

    tree = serve(main)
    assert int(tree["kern.gil_samples"]) >= 3
    assert int(tree["kern.gil_latency_max_us"]) >= int(tree["kern.gil_latency_us"]) >= 0
    assert int(tree["kern.pumps"]) >= 1
    assert tree["kern.stalls"] in range(100)


# ------------------------------------------------------------ release after reply


def test_buffers_are_released_after_the_reply_of_their_own_request() -> None:
    """Another request that enters before the reply has gone out does not release them."""
    story: list[str] = []

    async def main(host: TrioHost) -> None:
        async def slow() -> str:
            host.release_after_reply(lambda: story.append("slow released"))
            await tsleep("disk", 0, "disk")
            return "slow"

        async def quick() -> str:
            return "quick"

        async def slow_handler() -> None:
            result = await host.syscall(slow())
            story.append(f"{result} replies")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow_handler)
            await until(lambda: stat.ps(host) and stat.ps(host)[0].wmesg == "disk")
            host.syscall_plain(wakeup, "disk")
            host._pump_inline()  # the kernel thread ends here; its trio task has not run yet
            assert await host.syscall(quick()) == "quick"
            story.append("quick replies")
        assert await host.syscall(quick()) == "quick"

    serve(main)
    assert story == ["quick replies", "slow replies", "slow released"]


def test_buffers_are_released_when_nobody_comes() -> None:
    released: list[str] = []

    async def main(host: TrioHost) -> None:
        async def body() -> None:
            host.release_after_reply(lambda: released.append("thread"))

        def plain() -> None:
            host.release_after_reply(lambda: released.append("plain"))

        await host.syscall(body())
        assert released == []
        host.syscall_plain(plain)
        assert released == ["thread"]
        host.release_after_reply(lambda: released.append("handler"))
        await until(lambda: len(released) == 3)

        async def boot() -> None:
            lwkt_create(other, name="daemon")

        async def other() -> None:
            with pytest.raises(WrongContext, match="release_after_reply by thread 'daemon'"):
                host.release_after_reply(list)
            released.append("refused")

        await host.syscall(boot())
        await until(lambda: len(released) == 4)
        host.release_after_reply(lambda: released.append("at the end"))

    serve(main)
    assert released == ["thread", "plain", "handler", "refused", "at the end"]


# ------------------------------------------------------------ misuse


def test_where_requests_may_not_come_from() -> None:
    async def nothing() -> None:
        pass

    async def main(host: TrioHost) -> None:
        async def nested() -> None:
            with pytest.raises(WrongContext, match=r"system call 'inner' from within thread 'outer' \(tid"):
                await host.syscall(nothing(), "inner")
            with pytest.raises(WrongContext, match="a system call from within thread 'outer'"):
                host.syscall_plain(curthread)

        await host.syscall(nested(), "outer")
        seen: list[BaseException] = []

        def elsewhere() -> None:
            try:
                host.syscall(nothing(), "stray").send(None)
            except WrongContext as exc:
                seen.append(exc)

        await trio.to_thread.run_sync(elsewhere)
        assert "'stray'" in str(seen[0])
        assert "another OS thread" in str(seen[0])
        async with trio.open_nursery() as nursery:
            with pytest.raises(KernelPanic, match="'domain' is started twice"):
                host.start(nursery)

    serve(main)


def test_a_request_before_the_start_is_refused() -> None:
    async def nothing() -> None:
        pass

    async def everything() -> None:
        host = TrioHost(name="fs")
        with pytest.raises(HostStopped, match="'fs' does not serve requests yet"):
            await host.syscall(nothing())
        await host.shutdown()

    trio.run(everything)


def test_awaiting_trio_in_a_kernel_thread_is_a_clear_error() -> None:
    async def main(host: TrioHost) -> None:
        async def body() -> None:
            await trio.lowlevel.checkpoint()

        with pytest.raises(KernelPanic, match=r"thread 'reader' .* awaited something that is no kernel service"):
            await host.syscall(body(), "reader")

    serve(main)


def test_interrupts_of_a_request_run_when_its_section_ends() -> None:
    async def main(host: TrioHost) -> list[str]:
        story: list[str] = []

        async def body() -> None:
            intr_post(mycpu(), story.append, "at once")
            initmsg(LwktMsg(), lwkt_port())

        await host.syscall(body())
        return story

    assert serve(main) == ["at once"]


def test_an_idle_host_waits_without_a_deadline() -> None:
    async def main(host: TrioHost) -> float:
        await until(lambda: host._pump_parked)
        return host._timer.deadline

    assert serve(main) == math.inf
