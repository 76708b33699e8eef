"""The I/O CPU: calls on another OS thread for kernel threads that wait; order, batches, the idle protocol, the end."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelcore import stat
from kernelcore.globaldata import NO_CPU, cpu
from kernelcore.host.bell import Bell
from kernelcore.host.iocpu import IoCpu, IoMsg
from kernelcore.host.up import UpHost
from kernelcore.msgport import LwktMsg, domsg, initmsg, lwkt_port, sendmsg, waitport
from kernelcore.panic import KernelPanic
from kernelcore.sched import lwkt_user_yield
from kernelcore.sleep import EWOULDBLOCK, tsleep
from kernelcore.thread import join, lwkt_create


class CountingHost(UpHost):
    """Counts the completions that other OS threads have posted."""

    posts = 0

    def post(self, fn: Any, arg: Any = None) -> None:
        self.posts += 1
        super().post(fn, arg)


@pytest.fixture
def host() -> Iterator[CountingHost]:
    host = CountingHost(2, name="up")
    yield host
    host.stop()
    cpu.gd = NO_CPU


@pytest.fixture
def io(host: CountingHost) -> Iterator[IoCpu]:
    io = IoCpu(host, "io0")
    yield io
    io.stop()


def test_calls_return_and_raise(host: CountingHost, io: IoCpu) -> None:
    async def main() -> list[object]:
        with pytest.raises(FileNotFoundError):
            await io.call(os.open, "/does/not/exist", os.O_RDONLY)
        return [await io.call(pow, 2, 10), await io.call(threading.get_ident)]

    result, ident = host.call(main())
    assert result == 1024
    assert ident != threading.get_ident()
    assert (io.calls, host.outstanding) == (3, 0)


def test_a_scattered_read_into_buffers_of_the_caller(host: CountingHost, io: IoCpu, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"abcdefgh")
    fd = os.open(tmp_path / "data", os.O_RDONLY)
    parts = [bytearray(3), bytearray(5)]

    async def main() -> int:
        return await io.call(os.preadv, fd, parts, 0)

    assert host.call(main()) == 8
    assert parts == [b"abc", b"defgh"]
    os.close(fd)


def test_other_threads_run_while_one_waits(host: CountingHost, io: IoCpu) -> None:
    release = threading.Event()
    story: list[str] = []

    async def waits() -> None:
        await io.call(release.wait)
        story.append("call returned")

    async def works() -> None:
        for _ in range(3):
            story.append("works")
            await lwkt_user_yield()
        release.set()

    async def main() -> None:
        tds = [lwkt_create(waits, cpu_id=0), lwkt_create(works, cpu_id=1)]
        for td in tds:
            await join(td)

    host.call(main())
    assert story == ["works"] * 3 + ["call returned"]


def test_messages_are_served_in_order_and_replied_to_with_results(host: CountingHost, io: IoCpu) -> None:
    order: list[int] = []

    def note(number: int) -> int:
        order.append(number)
        return number * number

    async def main() -> list[Any]:
        own = lwkt_port()
        msgs = [IoMsg(note, (i,), own) for i in range(20)]
        for msg in msgs:
            sendmsg(io.port, msg)
        replies = [await waitport(own) for _ in msgs]
        assert replies == msgs  # the same messages, in the same order
        return [msg.io_result for msg in msgs]

    assert host.call(main(), "syscall") == [i * i for i in range(20)]
    assert order == list(range(20))
    rows = {row.port: row for row in stat.ports(host)}
    assert rows["io0"].puts == 20
    assert rows["syscall"].replies == 20


def test_one_ring_and_one_completion_stand_for_many(host: CountingHost, io: IoCpu) -> None:
    """A busy I/O CPU is not rung for, and while a completion is on its way no other one is posted."""
    entered, release = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        release.wait()

    async def main() -> tuple[int, int]:
        own = lwkt_port()
        sendmsg(io.port, IoMsg(block, (), own))
        entered.wait()
        rung = io.wakes
        msgs = [IoMsg(int, (), own) for _ in range(16)]
        for msg in msgs:
            sendmsg(io.port, msg)
        release.set()
        while io.calls < 17:  # this thread keeps the domain busy meanwhile: nothing is drained
            time.sleep(0)  # noqa: ASYNC251
        for _ in range(17):
            await waitport(own)
        return io.wakes - rung, host.posts

    assert host.call(main()) == (0, 1)


def test_a_barrier_waits_for_what_was_sent_before(host: CountingHost, io: IoCpu) -> None:
    done: list[int] = []

    async def main() -> list[int]:
        own = lwkt_port()
        msgs = [IoMsg(done.append, (i,), own) for i in range(5)]
        for msg in msgs:
            sendmsg(io.port, msg)
        await io.barrier()
        seen = list(done)
        for _ in msgs:
            await waitport(own)
        return seen

    assert host.call(main()) == list(range(5))


def test_a_time_limit_of_another_thread_fires_while_a_call_is_under_way(host: CountingHost, io: IoCpu) -> None:
    release = threading.Event()

    async def timed() -> int:
        error = await tsleep("nothing", 0, "nap", 0.002)
        release.set()
        return error

    async def main() -> int:
        td = lwkt_create(timed, cpu_id=1)
        await io.call(release.wait)
        result: int = await join(td)
        return result

    assert host.call(main()) == EWOULDBLOCK


def test_no_request_is_overlooked_when_the_two_sides_race(host: CountingHost, io: IoCpu) -> None:
    """Idle is said before the last look at the queue; the interpreter changes threads wherever it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    async def caller(n: int) -> int:
        total = 0
        for i in range(200):
            total += await io.call(int, i)
            if i % n == 0:
                await lwkt_user_yield()
        return total

    async def main() -> list[int]:
        return [await join(td) for td in [lwkt_create(caller, n, cpu_id=n % 2) for n in range(1, 6)]]

    try:
        assert host.call(main()) == [sum(range(200))] * 5
    finally:
        sys.setswitchinterval(before)
    assert io.calls == 1000
    assert io.wakes <= 1000


def test_stopping_does_what_was_sent(host: CountingHost, io: IoCpu) -> None:
    async def main() -> list[Any]:
        own = lwkt_port()
        msgs = [IoMsg(pow, (2, i), own) for i in range(5)]
        for msg in msgs:
            sendmsg(io.port, msg)
        io.stop()
        io.stop()  # a second time: nothing
        replies = [await waitport(own) for _ in msgs]
        assert replies == msgs
        return [msg.io_result for msg in msgs]

    assert host.call(main()) == [1, 2, 4, 8, 16]


def test_a_request_to_a_stopped_one_is_refused_by_name(host: CountingHost, io: IoCpu) -> None:
    async def main() -> None:
        io.stop()
        with pytest.raises(KernelPanic, match="'io0', which is stopped"):
            await io.call(int)

    host.call(main())
    assert host.outstanding == 0


def test_only_its_own_kind_of_message_is_taken(host: CountingHost, io: IoCpu) -> None:
    async def main() -> None:
        msg = LwktMsg()
        initmsg(msg, lwkt_port())
        with pytest.raises(KernelPanic, match=r"'io0' takes IoMsg, not LwktMsg, from thread 'main' \(tid"):
            await domsg(io.port, msg)

    host.call(main(), "main")


def test_a_bell_adds_up_and_waits_no_longer_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("eventfd", "pipe"):
        if kind == "pipe":
            monkeypatch.delattr(os, "eventfd", raising=False)
        bell = Bell()
        bell.wait(0.001)  # nobody rings
        bell.ring()
        bell.ring()
        bell.wait()  # both
        assert not bell._poll.poll(0)
        bell.ring()
        bell.wait(60.0)
        bell.close()
