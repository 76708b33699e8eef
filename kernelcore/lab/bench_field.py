"""What the kernel services are compared with: trio, asyncio, OS threads, and the cheapest thing Python has.

Each program has the shape of the one it stands beside: as many tasks, messages and turns.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from itertools import repeat
from queue import SimpleQueue
from typing import Final

from kernelcore.lab.bench import Clock

BATCH: Final = 16
BUFFER: Final = 16384
LIVE_BUFFERS: Final = (64 << 20) // BUFFER


def trio_channel(n: int, clock: Clock) -> int:
    """Round trips between two trio tasks over a pair of memory channels of capacity 1."""
    import trio

    async def main() -> int:
        there_send, there = trio.open_memory_channel[int](1)
        back_send, back = trio.open_memory_channel[int](1)

        async def echo() -> None:
            async for item in there:
                await back_send.send(item)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            await there_send.send(0)
            await back.receive()
            began = clock()
            for item in range(n):
                await there_send.send(item)
                await back.receive()
            took = clock() - began
            await there_send.aclose()
        return took

    return trio.run(main)


def trio_checkpoint(n: int, clock: Clock) -> int:
    """Checkpoints of a trio task."""
    import trio

    async def main() -> int:
        checkpoint = trio.lowlevel.checkpoint
        await checkpoint()
        began = clock()
        for _ in repeat(None, n):
            await checkpoint()
        return clock() - began

    return trio.run(main)


def trio_start_soon(n: int, clock: Clock) -> int:
    """Trio tasks started one after another, each of which ends at once."""
    import trio

    async def nothing() -> None:
        pass

    async def main() -> int:
        checkpoint = trio.lowlevel.checkpoint
        async with trio.open_nursery() as nursery:
            await checkpoint()
            began = clock()
            for _ in repeat(None, n):
                nursery.start_soon(nothing)
                await checkpoint()
            return clock() - began
        raise AssertionError("a nursery swallows nothing")

    return trio.run(main)


def trio_to_thread(depth: int, n: int, clock: Clock) -> int:
    """Calls of `trio.to_thread.run_sync`, `depth` of them in flight."""
    import trio

    def nothing() -> None:
        pass

    async def caller(count: int) -> None:
        run_sync = trio.to_thread.run_sync
        for _ in repeat(None, count):
            await run_sync(nothing)

    async def main() -> int:
        async with trio.open_nursery() as nursery:  # makes the worker threads
            for _ in range(depth):
                nursery.start_soon(caller, 1)
        began = clock()
        async with trio.open_nursery() as nursery:
            for i in range(depth):
                nursery.start_soon(caller, (n + i) // depth)
        return clock() - began

    return trio.run(main)


def asyncio_queue(n: int, clock: Clock) -> int:
    """Round trips between two asyncio tasks over a pair of queues."""

    async def main() -> int:
        there: asyncio.Queue[int] = asyncio.Queue()
        back: asyncio.Queue[int] = asyncio.Queue()

        async def echo() -> None:
            while (item := await there.get()) >= 0:
                await back.put(item)

        task = asyncio.create_task(echo())
        await there.put(0)
        await back.get()
        began = clock()
        for item in range(n):
            await there.put(item)
            await back.get()
        took = clock() - began
        await there.put(-1)
        await task
        return took

    return asyncio.run(main())


def simple_queue(n: int, clock: Clock) -> int:
    """Round trips between two OS threads over a pair of `queue.SimpleQueue`."""
    there: SimpleQueue[int] = SimpleQueue()
    back: SimpleQueue[int] = SimpleQueue()

    def echo() -> None:
        while (item := there.get()) >= 0:
            back.put(item)

    thread = threading.Thread(target=echo, name="bench-echo")
    thread.start()
    there.put(0)
    back.get()
    began = clock()
    for item in range(n):
        there.put(item)
        back.get()
    took = clock() - began
    there.put(-1)
    thread.join()
    return took


def with_lock(n: int, clock: Clock) -> int:
    """`with threading.Lock()`, not contended."""
    lock = threading.Lock()
    began = clock()
    for _ in repeat(None, n):
        with lock:
            pass
    return clock() - began


def deque_batches(n: int, clock: Clock) -> int:
    """Append sixteen items to a deque, then take them from its other end."""
    queue: deque[int] = deque()
    began = clock()
    for _ in repeat(None, n // BATCH):
        for item in repeat(0, BATCH):
            queue.append(item)
        for _ in repeat(None, BATCH):
            queue.popleft()
    return clock() - began


def bytearray_hot(n: int, clock: Clock) -> int:
    """A new 16 KiB bytearray, the last one freed."""
    began = clock()
    for _ in repeat(None, n):
        bytearray(BUFFER)
    return clock() - began


def bytearray_live(n: int, clock: Clock) -> int:
    """New 16 KiB bytearrays, kept until there are 64 MB of them, then all freed."""
    done = 0
    began = clock()
    while done < n:
        count = min(LIVE_BUFFERS, n - done)
        kept = [bytearray(BUFFER) for _ in range(count)]
        kept.clear()
        done += count
    return clock() - began


def bytearray_replaced(n: int, clock: Clock) -> int:
    """A new 16 KiB bytearray in place of the oldest of 64 MB of them."""
    ring = [bytearray(BUFFER) for _ in range(LIVE_BUFFERS)]
    done = 0
    began = clock()
    while done < n:
        for i in range(min(LIVE_BUFFERS, n - done)):
            ring[i] = bytearray(BUFFER)
        done += LIVE_BUFFERS
    return clock() - began
