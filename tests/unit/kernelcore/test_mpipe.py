"""Pipes of buffers: the guaranteed ones, the limit, sleeping."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from kernelcore.host.sim import SimHost
from kernelcore.host.thread_host import ThreadHost
from kernelcore.host.up import UpHost
from kernelcore.malloctype import MallocType
from kernelcore.mpipe import MPipe
from kernelcore.panic import KernelPanic, LimitExceeded, WrongContext
from kernelcore.sched import lwkt_user_yield
from kernelcore.slab import kfree, kmalloc, kmalloc_wait
from kernelcore.slabcheck import check_slab
from kernelcore.slabcpu import Slab, slab_of
from kernelcore.sleep import tsleep
from kernelcore.thread import lwkt_create
from kernelcore.zone import ZONE_SIZE, Chunk
from tests.unit.kernelcore.memory import any_cpu, hasty


@pytest.fixture(autouse=True)
def cpu_put_back() -> Iterator[None]:
    with any_cpu():
        yield


BUF = 16384


def test_the_guaranteed_buffers_are_there_when_memory_is_exhausted() -> None:
    host = UpHost(1)
    slab = Slab(host, 2 * ZONE_SIZE, reserve=0)
    mtype, others = MallocType("flush", slab=slab, limit=1 << 20), MallocType("others", slab=slab, limit=1 << 20)
    pipe = MPipe(mtype, BUF, 3)
    hogged = [kmalloc(BUF, others) for _ in range(13)]
    assert all(hogged)
    got = [pipe.alloc_nowait() for _ in range(4)]
    assert [chunk is not None for chunk in got] == [True, True, True, False]
    assert repr(pipe) == "<mpipe 'flush', 3 of 3 buffers in use>"
    for chunk in got[:3]:
        assert chunk is not None
        pipe.free(chunk)
    assert pipe.in_use == 0
    pipe.close()
    assert mtype.ks_inuse == 0


def test_it_grows_to_its_limit_and_shrinks_to_the_guaranteed_number() -> None:
    slab_of(UpHost(1))
    mtype = MallocType("flush")
    pipe = MPipe(mtype, BUF, 2, 5)
    assert mtype.ks_inuse == 2
    got = [pipe.alloc_nowait() for _ in range(6)]
    assert got[5] is None
    assert (pipe.total, pipe.in_use, mtype.ks_inuse) == (5, 5, 5)
    for chunk in got[:5]:
        assert chunk is not None
        pipe.free(chunk)
    assert (pipe.total, pipe.in_use, mtype.ks_inuse) == (2, 0, 2)
    pipe.close()
    check_slab(mtype.ks_slab)


def test_misuse_is_named() -> None:
    host = UpHost(1)
    mtype = MallocType("flush", slab=slab_of(host))
    pipe = MPipe(mtype, BUF, 1, 2)
    chunk, stray = pipe.alloc_nowait(), kmalloc(BUF, mtype)
    assert chunk is not None
    assert stray is not None
    with pytest.raises(KernelPanic, match=r"free to <mpipe 'flush', 1 of 1 .*> of <chunk 1 .*>, which is not in use"):
        pipe.free(stray)
    with pytest.raises(KernelPanic, match="closed: <mpipe 'flush', 1 of 1 buffers in use>"):
        pipe.close()
    pipe.free(chunk)
    with pytest.raises(KernelPanic, match="not in use there"):
        pipe.free(chunk)
    for numbers in [(0, 1, 1), (BUF, 0, 1), (BUF, 3, 2)]:
        with pytest.raises(ValueError, match=r"an mpipe of \d to \d buffers of \d+ bytes"):
            MPipe(mtype, *numbers)
    coro = pipe.alloc_waitok()
    with pytest.raises(WrongContext, match="mpipe 'flush' awaited outside a kernel thread"):
        coro.send(None)


def test_a_pipe_for_which_there_is_no_memory_cannot_be_made() -> None:
    host = UpHost(1)
    mtype = MallocType("flush", limit=4 * BUF, slab=slab_of(host))
    with pytest.raises(LimitExceeded, match="an mpipe of type 'flush' gets 4 of 5 buffers"):
        MPipe(mtype, BUF, 5)
    assert mtype.ks_inuse == 0


@pytest.mark.parametrize("seed", range(8))
def test_waitok_sleeps_until_a_buffer_comes_back_on_any_cpu(seed: int) -> None:
    host = SimHost(3, seed=seed)
    mtype = MallocType("flush", slab=slab_of(host))
    done: list[int] = []

    async def main() -> None:
        pipe = MPipe(mtype, BUF, 1, 2)
        held = [pipe.alloc_nowait(), pipe.alloc_nowait()]
        waiters = [lwkt_create(partial(wait, pipe, n), cpu_id=n % 3) for n in range(6)]
        await tsleep("nothing", 0, "nap", 0.1)
        assert not done
        for chunk in held:
            assert chunk is not None
            pipe.free(chunk)
        while not all(td.is_done for td in waiters):
            await tsleep("nothing", 0, "nap", 0.01)
        assert (pipe.waits, pipe.in_use, pipe.total) == (6, 0, 1)
        pipe.close()

    async def wait(pipe: MPipe, n: int) -> None:
        chunk = await pipe.alloc_waitok()
        assert pipe.in_use <= 2
        done.append(n)
        await lwkt_user_yield()
        pipe.free(chunk)

    host.call(main())
    assert sorted(done) == list(range(6))
    assert mtype.ks_inuse == 0
    host.stop()


def test_who_waits_gets_the_buffer_that_comes_back_not_the_slab() -> None:
    """Memory is exhausted, and somebody else takes all that is given back: the pipe's own buffers stay its own."""
    host = SimHost(1, seed=0, debug=False)
    slab = Slab(host, ZONE_SIZE, reserve=0)
    mtype, others = MallocType("flush", slab=slab, limit=1 << 20), MallocType("others", slab=slab, limit=1 << 20)
    order: list[str] = []

    async def main() -> None:
        pipe = MPipe(mtype, BUF, 1, 4)
        held = await pipe.alloc_waitok()
        for _ in range(7):
            assert kmalloc(BUF, others) is not None
        hog = lwkt_create(hogs)
        flusher = lwkt_create(flushes, pipe)
        await tsleep("nothing", 0, "nap", 0.1)
        pipe.free(held)
        while not flusher.is_done:
            await tsleep("nothing", 0, "nap", 0.01)
        assert not hog.is_done
        assert order == ["flushed"]

    async def hogs() -> None:
        await kmalloc_wait(BUF, others)
        order.append("hogged")

    async def flushes(pipe: MPipe) -> None:
        chunk = await pipe.alloc_waitok()
        order.append("flushed")
        pipe.free(chunk)

    host.call(main())
    host.stop()


def test_thread_host_buffers_are_never_had_twice() -> None:
    ncpus = 3
    with hasty(), ThreadHost(ncpus, debug=False) as host:
        mtype = MallocType("flush", slab=slab_of(host))
        in_use: dict[Chunk, None] = {}
        pipes: list[MPipe] = []

        async def make() -> None:
            pipes.append(MPipe(mtype, BUF, 2, 4))

        async def worker() -> None:
            pipe = pipes[0]
            for i in range(200):
                chunk = await pipe.alloc_waitok()
                assert chunk not in in_use
                in_use[chunk] = None
                if i % 3:
                    await lwkt_user_yield()
                del in_use[chunk]
                pipe.free(chunk)

        host.call(make())
        tds = [host.spawn(worker, cpu_id=n) for n in range(ncpus)]

        async def join() -> None:
            while not all(td.is_done for td in tds):
                await tsleep("nothing", 0, "join", 0.01)

        host.call(join())
        assert (pipes[0].in_use, pipes[0].total) == (0, 2)
        assert mtype.ks_inuse == 2

        async def alone() -> None:
            spare = kmalloc(BUF, mtype)
            assert spare is not None
            kfree(spare, mtype)

        host.call(alone())
