"""Misuse is a clear error that names the thread and the object, and leaves the domain usable."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import trio

from kernelcore.callout import Callout
from kernelcore.crit import crit_enter, crit_enter_hard, crit_exit, crit_exit_hard, intr_post
from kernelcore.globaldata import NO_CPU, cpu, mycpu
from kernelcore.host.sim import SimHost
from kernelcore.host.trio_host import TrioHost
from kernelcore.host.up import UpHost
from kernelcore.ipiq import send_ipiq
from kernelcore.msgport import LwktMsg, SpinPort, domsg, lwkt_port, sendmsg, waitport
from kernelcore.panic import KernelPanic, WrongContext
from kernelcore.sched import lwkt_switch, lwkt_user_yield, lwkt_yield_quick
from kernelcore.serialize import Serializer, Spinlock
from kernelcore.sleep import lwkt_sleep, tsleep, tsleep_interlock
from kernelcore.thread import join, lwkt_create
from kernelcore.token import Token

Body = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture
def host() -> Iterator[UpHost]:
    host = UpHost(name="fs", debug=True)
    yield host
    host.stop()
    cpu.gd = NO_CPU


def usable(host: UpHost) -> bool:
    """Whether the domain still serves a request that takes a token and blocks."""
    tok = Token("afterwards", host)

    async def body() -> bool:
        with tok:
            await lwkt_user_yield()
        return True

    return host.call(body())


# ------------------------------------------------------------ awaiting a kernel coroutine outside the kernel


async def _sleep() -> object:
    return await tsleep("x", 0, "biowait")


async def _switch() -> object:
    await lwkt_switch()
    return None


async def _lwkt_sleep() -> object:
    return await lwkt_sleep("biowait")


async def _domsg() -> object:
    return await domsg(SpinPort("queue"), LwktMsg(SpinPort("own")))


async def _join() -> object:
    return await join(mycpu().gd_curthread)


BLOCKING: tuple[tuple[Body, str], ...] = (
    (_sleep, "tsleep\\('biowait'\\) awaited outside a kernel thread"),
    (_switch, "lwkt_switch awaited outside a kernel thread"),
    (_lwkt_sleep, r"lwkt_sleep\(biowait\) awaited outside a kernel thread"),
    (_domsg, r"waitmsg\(own\) awaited outside a kernel thread"),
    (_join, "lwkt_switch awaited outside a kernel thread"),
)


@pytest.mark.parametrize(("body", "message"), BLOCKING)
def test_a_kernel_coroutine_awaited_from_trio(body: Body, message: str) -> None:
    async def everything() -> None:
        host = TrioHost()
        async with trio.open_nursery() as nursery:
            host.start(nursery)
            with pytest.raises(WrongContext, match=message):
                await body()
            await host.syscall(lwkt_user_yield())  # and the right way works still
            await host.shutdown()

    trio.run(everything)
    cpu.gd = NO_CPU


def test_a_kernel_coroutine_awaited_where_there_is_no_domain() -> None:
    cpu.gd = NO_CPU

    async def everything() -> None:
        with pytest.raises(WrongContext, match="not on a kernel CPU: enter through a host"):
            await tsleep("x")

    trio.run(everything)


# ------------------------------------------------------------ a forgotten await


def test_a_forgotten_await_in_a_request(host: UpHost) -> None:
    async def body() -> None:
        lwkt_user_yield()  # type: ignore[unused-coroutine]
        gc.collect()

    with pytest.raises(KernelPanic, match=r"forgotten await in thread 'reader' \(tid \d+, cpu 0\): .*lwkt_user_yield"):
        host.call(body(), "reader")
    assert usable(host)


def test_a_forgotten_await_in_a_thread_of_the_pump(host: UpHost) -> None:
    async def flusher() -> None:
        await lwkt_user_yield()
        tsleep("x", 0, "flush")  # type: ignore[unused-coroutine]
        gc.collect()

    async def body() -> None:
        await join(lwkt_create(flusher, name="flusher"))

    with pytest.raises(KernelPanic, match=r"forgotten await in thread 'flusher' \(tid \d+, cpu 0\): .*tsleep"):
        host.call(body())


def test_a_forgotten_await_in_the_simulator() -> None:
    host = SimHost(2, seed=3)

    async def body() -> None:
        lwkt_user_yield()  # type: ignore[unused-coroutine]
        gc.collect()

    with pytest.raises(KernelPanic, match=r"forgotten await in thread 'worker' .*lwkt_user_yield"):
        host.call(body(), name="worker")
    host.stop()


# ------------------------------------------------------------ tokens


def test_tokens_released_out_of_order(host: UpHost) -> None:
    async def body() -> None:
        outer, inner = Token("fs_token"), Token("io_token")
        outer.get()
        inner.get()
        text = r"'fs_token' released out of order by thread 'mount' \(tid \d+, cpu 0\): the newest is 'io_token'"
        with pytest.raises(KernelPanic, match=text):
            outer.rel()
        inner.rel()
        outer.rel()
        with pytest.raises(KernelPanic, match=r"released out of order by thread 'mount' .*: it holds none"):
            outer.rel()

    host.call(body(), "mount")
    assert usable(host)


def test_tokens_released_out_of_order_on_a_host_with_contention() -> None:
    host = SimHost(2, seed=1)
    outer, inner = Token("fs_token", host), Token("io_token", host)

    async def body() -> None:
        async with outer, inner:
            with pytest.raises(KernelPanic, match=r"'fs_token' released out of order by thread 'mount' .* 'io_token'"):
                outer.rel()

    host.call(body(), name="mount")
    host.stop()


def test_a_token_used_from_another_os_thread(host: UpHost) -> None:
    tok = Token("fs_token", host)
    seen: list[str] = []

    def elsewhere() -> None:
        for attempt in (tok.get, tok.get_shared, tok.trytoken):
            with pytest.raises(WrongContext) as refused:
                attempt()
            seen.append(str(refused.value))

    async def body() -> None:
        with tok:  # also while its thread runs with it
            os_thread = threading.Thread(target=elsewhere, name="stray")
            os_thread.start()
            os_thread.join()

    host.call(body())
    assert seen == ["token 'fs_token' of domain 'fs' used from OS thread 'stray'"] * 3
    assert usable(host)


def test_a_token_of_another_domain(host: UpHost) -> None:
    other = UpHost(name="other")
    tok = Token("theirs", other)

    async def body() -> None:
        with pytest.raises(WrongContext, match="token 'theirs' belongs to domain 'other', not to this one"):
            tok.get()

    host.call(body())
    other.stop()


def test_a_token_outside_a_thread(host: UpHost) -> None:
    tok = Token("fs_token", host)
    cpu.gd = host.gds[0]
    with pytest.raises(WrongContext, match=r"token 'fs_token': get\(\) outside a kernel thread"):
        tok.get()


def test_a_thread_that_ends_with_a_token(host: UpHost) -> None:
    async def body() -> None:
        Token("fs_token").get()

    with pytest.raises(KernelPanic, match=r"thread 'careless' \(tid \d+, cpu 0\) ended holding token 'fs_token'"):
        host.call(body(), "careless")
    assert usable(host)


# ------------------------------------------------------------ blocking where nothing may block


async def _blocks_by_sleeping() -> None:
    await tsleep("x", 0, "biowait")


async def _blocks_by_switching() -> None:
    await lwkt_switch()


async def _blocks_by_yielding() -> None:
    await lwkt_user_yield()


async def _blocks_by_waiting() -> None:
    await waitport(SpinPort("queue"))


BLOCKERS = (_blocks_by_sleeping, _blocks_by_switching, _blocks_by_yielding, _blocks_by_waiting)


def drive(body: Body) -> None:
    """What somebody does who tries to block in plain code: step a coroutine by hand."""
    coroutine = body()
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


@pytest.mark.parametrize("blocks", BLOCKERS)
def test_blocking_in_an_ipi_function(blocks: Body) -> None:
    host = UpHost(2, name="fs")
    refused: list[str] = []

    def function(_arg: object, _arg2: int) -> None:
        with pytest.raises(WrongContext) as caught:
            drive(blocks)
        refused.append(str(caught.value))

    async def sender() -> None:
        send_ipiq(mycpu(), function)  # to oneself: called at once, in this thread's context
        send_ipiq(host.gds[1], function)
        await lwkt_user_yield()

    host.call(sender(), "sender")
    host.stop()
    assert len(refused) == 2
    assert "under thread 'sender' (tid" in refused[0] or "in thread 'sender' (tid" in refused[0]
    assert "may not block" in refused[0] or "spinlock" in refused[0]


@pytest.mark.parametrize("blocks", BLOCKERS)
def test_blocking_in_other_places_where_nothing_may(host: UpHost, blocks: Body) -> None:
    async def in_hard_section() -> None:
        crit_enter_hard()
        try:
            await blocks()
        finally:
            crit_exit_hard()

    async def in_completion() -> None:
        intr_post(mycpu(), lambda _arg: drive(blocks))

    async def with_spinlock() -> None:
        with Spinlock("list"):
            await blocks()

    for body in (in_hard_section, in_completion, with_spinlock):
        with pytest.raises(WrongContext, match=r"thread 'worker' \(tid"):
            host.call(body(), "worker")
    assert usable(host)


def test_blocking_in_a_timer(host: UpHost) -> None:
    async def body() -> None:
        timer = Callout(lambda _arg: drive(_blocks_by_sleeping))
        timer.reset(0.0)
        await tsleep("nothing", 0, "nap", 0.01)

    with pytest.raises(
        WrongContext, match=r"tsleep\('biowait'\) in an IPI function .* under thread 'idle_0'.* may not block"
    ):
        host.call(body())


# ------------------------------------------------------------ locks, sections, ports


def test_locks_misused(host: UpHost) -> None:
    async def body() -> None:
        slz, spin = Serializer("device"), Spinlock("list")
        await slz.enter()
        with pytest.raises(KernelPanic, match="serializer 'device' entered twice by thread 'worker'"):
            await slz.enter()
        slz.exit()
        with pytest.raises(KernelPanic, match="serializer 'device' is not held by thread 'worker'"):
            slz.exit()
        with spin, pytest.raises(KernelPanic, match="spinlock 'list' taken twice by thread 'worker'"):
            spin.lock()
        with pytest.raises(KernelPanic, match="spinlock 'list' is not held by thread 'worker'"):
            spin.unlock()
        crit_enter()
        crit_exit()
        with pytest.raises(KernelPanic, match="crit_exit without crit_enter in thread 'worker'"):
            crit_exit()

    host.call(body(), "worker")
    assert usable(host)


def test_ports_misused(host: UpHost) -> None:
    async def owner() -> None:
        await tsleep("x", 0, "wait", 0.001)

    async def body() -> None:
        td = lwkt_create(owner, name="owner")
        port = lwkt_port(td)
        with pytest.raises(KernelPanic, match=r"waitport on <ThreadPort 'owner'> of thread 'owner' .* thread 'thief'"):
            await waitport(port)
        msg = LwktMsg(lwkt_port())
        sendmsg(port, msg)
        with pytest.raises(KernelPanic, match=r"message sent to <ThreadPort 'owner'> while it is queued, by thread"):
            sendmsg(port, msg)
        await join(td)

    host.call(body(), "thief")


def test_plain_services_outside_a_thread(host: UpHost) -> None:
    cpu.gd = host.gds[0]
    with pytest.raises(WrongContext, match="tsleep_interlock outside a kernel thread"):
        tsleep_interlock("x")
    cpu.gd = NO_CPU
    with pytest.raises(WrongContext, match="not on a kernel CPU"):
        mycpu()
    with pytest.raises(WrongContext, match="not on a kernel CPU"):
        lwkt_create(lwkt_yield_quick)


def test_a_body_that_is_no_coroutine(host: UpHost) -> None:
    async def body() -> None:
        lwkt_create(lambda: 7, name="seven")

    with pytest.raises(KernelPanic, match=r"the body of thread 'seven' .* is 7, not a coroutine or generator"):
        host.call(body())


def test_run_from_within_a_thread(host: UpHost) -> None:
    async def body() -> None:
        host.run()

    with pytest.raises(KernelPanic, match=r"run\(\) of domain 'fs' is not re-entrant"):
        host.call(body())


def test_a_deadlock_names_who_waits_for_what(host: UpHost) -> None:
    async def body() -> None:
        await tsleep("x", 0, "godot")

    with pytest.raises(KernelPanic, match=r"deadlock: cpu 0 'estragon' \(S\) waits for 'godot'"):
        host.call(body(), "estragon")
