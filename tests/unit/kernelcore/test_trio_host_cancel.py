"""TrioHost: what a cancelled request does, and what a panic or the end of all does to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from kernelcore import stat
from kernelcore.defs import PCATCH
from kernelcore.host.iocpu import IoCpu
from kernelcore.host.trio_host import TrioHost
from kernelcore.msgport import LwktMsg, domsg, initmsg_abortable, lwkt_port, replymsg
from kernelcore.panic import KernelPanic
from kernelcore.sched import lwkt_user_yield
from kernelcore.sleep import EINTR, lwkt_sleep, tsleep, wakeup
from kernelcore.thread import lwkt_create
from tests.unit.kernelcore.triolab import leaf_errors, serve, until


async def _interruptible_tsleep() -> int:
    return await tsleep("never", PCATCH, "park")


async def _interruptible_lwkt_sleep() -> int:
    return await lwkt_sleep("park", PCATCH)


async def _timed_tsleep() -> int:
    return await tsleep("never", PCATCH, "park", 1000.0)


async def _waitport() -> int:
    return EINTR if await lwkt_port().waitport(PCATCH) is None else 0


async def _second_sleep() -> int:
    """The signal comes in a sleep that may not be interrupted; the next one that may, ends at once."""
    await tsleep("in the way", 0, "park", 0.005)
    return await tsleep("never", PCATCH, "park")


async def _message_that_is_aborted() -> int:
    """A signal asks the target to abort; the reply comes all the same."""
    asked: list[LwktMsg] = []

    async def server() -> None:
        msg = await lwkt_port().waitport()
        assert msg is not None
        while not asked:
            await lwkt_user_yield()
        replymsg(msg, EINTR)

    port = lwkt_port(lwkt_create(server, name="server"))
    msg = LwktMsg()
    initmsg_abortable(msg, lwkt_port(), asked.append)
    return await domsg(port, msg, PCATCH)


async def _loop_that_looks() -> int:
    """A long thread that never sleeps finds the signal at its next interruptible sleep."""
    for _ in range(20):
        await lwkt_user_yield()
    return await tsleep("never", PCATCH, "park")


PARKS = (
    _interruptible_tsleep,
    _interruptible_lwkt_sleep,
    _timed_tsleep,
    _waitport,
    _second_sleep,
    _message_that_is_aborted,
    _loop_that_looks,
)


@pytest.mark.parametrize("park", PARKS)
def test_a_cancelled_request_ends_by_itself_and_its_result_counts(park: Callable[[], Coroutine[Any, Any, int]]) -> None:
    async def main(host: TrioHost) -> int:
        with trio.CancelScope() as scope:
            scope.cancel()
            return await host.syscall(park())
        raise AssertionError("the result was lost")

    assert serve(main) == EINTR


@pytest.mark.parametrize("park", PARKS)
def test_a_cancelled_request_that_fails_is_cancelled(park: Callable[[], Coroutine[Any, Any, int]]) -> None:
    async def main(host: TrioHost) -> tuple[bool, list[stat.ThreadRow]]:
        async def body() -> None:
            error = await park()
            raise InterruptedError(error, "interrupted")

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.syscall, body())
                await until(lambda: stat.ps(host))
                scope.cancel()
        return scope.cancelled_caught, [row for row in stat.ps(host) if row.comm == "syscall"]

    assert serve(main) == (True, [])


def test_a_request_that_cannot_be_interrupted_is_waited_for() -> None:
    async def main(host: TrioHost) -> list[str]:
        story: list[str] = []

        async def body() -> str:
            await tsleep("the end", 0, "disk")
            story.append("ended")
            return "result"

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def request() -> None:
                    story.append(await host.syscall(body()))

                nursery.start_soon(request)
                await until(lambda: stat.ps(host) and stat.ps(host)[0].wmesg == "disk")
                scope.cancel()
                with trio.CancelScope(shield=True):
                    for _ in range(20):
                        await trio.lowlevel.checkpoint()
                    story.append("still asleep")
                    host.syscall_plain(wakeup, "the end")
        return story

    assert serve(main) == ["still asleep", "ended", "result"]


def test_a_request_in_an_io_cpu_is_waited_for() -> None:
    async def main(host: TrioHost) -> int:
        io = IoCpu(host)
        release = threading.Event()

        def call() -> int:
            release.wait()
            return 9

        with trio.CancelScope() as scope:
            scope.cancel()
            threading.Timer(0.01, release.set).start()
            result = await host.syscall(io.call(call))
        io.stop()
        return result

    assert serve(main) == 9


def test_a_panic_is_not_hidden_by_a_cancellation() -> None:
    async def main(host: TrioHost) -> None:
        async def body() -> None:
            await tsleep("never", PCATCH, "park")
            raise KernelPanic("an invariant")

        with trio.CancelScope() as scope:
            scope.cancel()
            await host.syscall(body())

    with pytest.raises(ExceptionGroup) as failed:
        serve(main)
    assert [str(exc) for exc in leaf_errors(failed.value)] == ["an invariant"]


def test_cancelling_everything_interrupts_the_requests_and_ends_the_host() -> None:
    """The pump outlives the cancellation until the requests have ended, else they could not end."""
    story: list[object] = []

    async def interruptible() -> int:
        error = await tsleep("never", PCATCH, "park")
        await lwkt_user_yield()
        story.append(error)
        return error

    async def everything() -> TrioHost:
        host = TrioHost()
        async with trio.open_nursery() as nursery:
            host.start(nursery)
            for _ in range(3):
                nursery.start_soon(host.syscall, interruptible())
            await until(lambda: len(stat.ps(host)) == 3)
            nursery.cancel_scope.cancel()
        return host

    host = trio.run(everything)
    assert story == [EINTR] * 3
    assert host._stopped.is_set()
