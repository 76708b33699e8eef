"""Probes of memory: buffers of the arena, object caches, the slab, against new bytearrays."""

from __future__ import annotations

from collections.abc import Coroutine
from itertools import repeat
from typing import Any, Final

from kernelcore.arena import Arena
from kernelcore.host.up import UpHost
from kernelcore.lab import bench_field as field
from kernelcore.lab.bench import Case, Clock
from kernelcore.malloctype import MallocType
from kernelcore.objcache import ObjCache
from kernelcore.slab import kfree, kmalloc


def buffer_hot(n: int, clock: Clock) -> int:
    """A 16 KiB buffer of an arena got and put back: what the buffer cache does at a miss."""
    arena = Arena(8 * field.BUFFER, name="bench")
    began = clock()
    for _ in repeat(None, n):
        buf = arena.alloc()
        assert buf is not None
        arena.free(buf)
    took = clock() - began
    arena.close()
    return took


def buffer_live(n: int, clock: Clock) -> int:
    """Buffers of an arena got until there are 64 MB of them, then all put back: a cache that fills and is emptied."""
    arena = Arena(field.LIVE_BUFFERS * field.BUFFER, name="bench")
    done = 0
    began = clock()
    while done < n:
        count = min(field.LIVE_BUFFERS, n - done)
        for buf in [arena.alloc() for _ in range(count)]:
            assert buf is not None
            arena.free(buf)
        done += count
    took = clock() - began
    arena.close()
    return took


def buffer_replaced(n: int, clock: Clock) -> int:
    """A buffer of an arena in place of the oldest of 64 MB of them: the steady state of a full cache."""
    arena = Arena((field.LIVE_BUFFERS + 1) * field.BUFFER, name="bench")
    ring = [arena.alloc() for _ in range(field.LIVE_BUFFERS)]
    done = 0
    began = clock()
    while done < n:
        for i in range(min(field.LIVE_BUFFERS, n - done)):
            fresh = arena.alloc()
            oldest = ring[i]
            assert oldest is not None
            arena.free(oldest)
            ring[i] = fresh
        done += field.LIVE_BUFFERS
    took = clock() - began
    for buf in ring:
        assert buf is not None
        arena.free(buf)
    arena.close()
    return took


def objcache_hot(n: int, clock: Clock) -> int:
    """A 16 KiB bytearray got from an object cache and put back."""

    async def main() -> int:
        cache: ObjCache[bytearray] = ObjCache("bench", lambda: bytearray(field.BUFFER))
        began = clock()
        for _ in repeat(None, n):
            obj = cache.get()
            assert obj is not None
            cache.put(obj)
        return clock() - began

    return _in_domain(main())


def slab_hot(n: int, clock: Clock) -> int:
    """16 KiB of a malloc type allocated and freed."""

    async def main() -> int:
        mtype = MallocType("bench")
        began = clock()
        for _ in repeat(None, n):
            chunk = kmalloc(field.BUFFER, mtype)
            assert chunk is not None
            kfree(chunk, mtype)
        return clock() - began

    return _in_domain(main())


def _in_domain(main: Coroutine[Any, Any, int]) -> int:
    host = UpHost(1, name="bench")
    took = host.call(main)
    host.stop()
    return took


_BUFFER: Final = "getblk-level buffer get+put"
_HOT: Final = "bytearray(16384), hot"

CASES: Final = (
    Case(f"{_BUFFER}, hot", buffer_hot, _HOT, field.bytearray_hot, 1.5),
    Case(f"{_BUFFER}, 64 MB live", buffer_live, "bytearray(16384), 64 MB live", field.bytearray_live, 0.2),
    Case(
        f"{_BUFFER}, oldest of 64 MB replaced",
        buffer_replaced,
        "bytearray(16384), likewise",
        field.bytearray_replaced,
        0.5,
    ),
    Case("objcache get+put, hot", objcache_hot, _HOT, field.bytearray_hot, 1.5),
    Case("slab kmalloc+kfree 16 KiB", slab_hot, _HOT, field.bytearray_hot, 2.2),
)
