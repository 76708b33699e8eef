"""Probes where more than one OS thread takes part: CPUs that are OS threads, and the I/O CPU of a trio loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from itertools import repeat
from typing import Any, Final

from kernelcore.globaldata import curthread, globaldata_find
from kernelcore.host.iocpu import IoCpu
from kernelcore.host.thread_host import ThreadHost
from kernelcore.ipiq import send_ipiq
from kernelcore.lab import bench_field as field
from kernelcore.lab.bench import WALL, Case, Clock
from kernelcore.sched import lwkt_schedule
from kernelcore.sleep import lwkt_sleep
from kernelcore.thread import Thread
from kernelcore.token import Token


def _across(main: Callable[[int, Clock], Coroutine[Any, Any, int]], n: int, clock: Clock) -> int:
    """Run `main` as the first thread of CPU 0, where CPU 1 is another OS thread; return what it measured."""
    with ThreadHost(2, name="bench") as host:
        return host.call(main(n, clock))


async def _token(n: int, clock: Clock) -> int:
    tok = Token("bench")
    began = clock()
    for _ in repeat(None, n):
        await tok.aget()
        tok.rel()
    return clock() - began


async def _ipi_round_trip(n: int, clock: Clock) -> int:
    target, home = globaldata_find(1), globaldata_find(0)
    back: list[None] = []

    def there(td: Thread, _arg2: int) -> None:
        send_ipiq(home, here, td)

    def here(td: Thread, _arg2: int) -> None:
        back.append(None)
        lwkt_schedule(td)

    me = curthread()
    began = clock()
    for _ in repeat(None, n):
        send_ipiq(target, there, me)
        while not back:
            await lwkt_sleep("ipi")
        back.pop()
    return clock() - began


def _hop(depth: int, n: int, clock: Clock) -> int:
    """Requests that block on a call which an I/O CPU makes, `depth` of them in flight."""
    import trio

    from kernelcore.host.trio_host import TrioHost

    def nothing() -> None:
        pass

    async def main() -> int:
        host = TrioHost(name="bench")
        io = IoCpu(host)

        async def caller(count: int) -> None:
            for _ in repeat(None, count):
                await host.syscall(io.call(nothing))

        async with trio.open_nursery() as nursery:
            host.start(nursery)
            await caller(1)
            began = clock()
            async with trio.open_nursery() as callers:
                for i in range(depth):
                    callers.start_soon(caller, (n + i) // depth)
            took = clock() - began
            await host.shutdown()
        io.stop()
        return took

    return trio.run(main)


def _hop_case(depth: int, limit: float) -> Case:
    return Case(
        f"hop to an I/O CPU and back, {depth} in flight",
        partial(_hop, depth),
        f"trio.to_thread.run_sync, {depth} in flight",
        partial(field.trio_to_thread, depth),
        limit,
        WALL,
    )


CASES: Final = (
    Case("token get+rel, cross-thread", partial(_across, _token), "with threading.Lock", field.with_lock, 3),
    Case(
        "IPI round trip between OS threads",
        partial(_across, _ipi_round_trip),
        "SimpleQueue between two OS threads",
        field.simple_queue,
        0.7,
        WALL,
    ),
    _hop_case(1, 0.65),
    _hop_case(16, 0.25),
)
"""The rows of the table."""
