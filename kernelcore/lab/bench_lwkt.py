"""Probes of the kernel services that run on one OS thread: threads, sleep, tokens, messages, IPIs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from itertools import repeat
from typing import Any, Final

from kernelcore.crit import crit_enter, crit_exit
from kernelcore.globaldata import globaldata_find
from kernelcore.host.up import UpHost
from kernelcore.ipiq import send_ipiq, wait_ipiq
from kernelcore.lab import bench_field as field
from kernelcore.lab.bench import WALL, Case, Clock
from kernelcore.msgport import LwktMsg, PutOnlyPort, domsg, domsg_try, lwkt_port, sendmsg, service_loop, waitport
from kernelcore.sched import lwkt_user_yield
from kernelcore.sleep import tsleep, wakeup
from kernelcore.thread import lwkt_create
from kernelcore.token import Token

PIPELINE: Final = 32  # messages in flight


def _in_domain(
    main: Callable[[int, Clock], Coroutine[Any, Any, int]], n: int, clock: Clock, ncpus: int = 1, **kwargs: Any
) -> int:
    """Run `main` as the first thread of a new domain; return what it measured."""
    host = UpHost(ncpus, name="bench", **kwargs)
    took = host.call(main(n, clock))
    host.stop()
    return took


def _answer(_msg: LwktMsg) -> int:
    return 0


async def _server() -> None:
    await service_loop(lwkt_port(), _answer)


async def _domsg(n: int, clock: Clock, server_cpu: int = 0) -> int:
    port = lwkt_port(lwkt_create(_server, cpu_id=server_cpu))
    msg = LwktMsg(lwkt_port())
    await domsg(port, msg)
    began = clock()
    for _ in repeat(None, n):
        await domsg(port, msg)
    return clock() - began


async def _domsg_plain(n: int, clock: Clock) -> int:
    port = PutOnlyPort(lambda _port, _msg: 0)
    msg = LwktMsg(lwkt_port())
    began = clock()
    for _ in repeat(None, n):
        domsg_try(port, msg)
    return clock() - began


async def _pipelined(n: int, clock: Clock) -> int:
    port = lwkt_port(lwkt_create(_server, cpu_id=0))
    own = lwkt_port()
    msgs = [LwktMsg(own) for _ in range(PIPELINE)]
    began = clock()
    for msg in msgs:
        sendmsg(port, msg)
    for _ in repeat(None, max(0, n - PIPELINE)):
        reply = await waitport(own)
        assert reply is not None
        sendmsg(port, reply)
    for _ in msgs:
        await waitport(own)
    return clock() - began


async def _tsleep_wakeup(n: int, clock: Clock) -> int:
    ident = object()

    async def sleeper() -> None:
        while True:
            await tsleep(ident, 0, "bench")

    lwkt_create(sleeper)
    await lwkt_user_yield()
    began = clock()
    for _ in repeat(None, n):
        wakeup(ident)
        await lwkt_user_yield()
    return clock() - began


async def _yield(n: int, clock: Clock) -> int:
    async def other() -> None:
        while True:
            await lwkt_user_yield()

    lwkt_create(other)
    await lwkt_user_yield()
    began = clock()
    for _ in repeat(None, n // 2):  # the other thread makes the other half
        await lwkt_user_yield()
    return clock() - began


async def _create_exit(n: int, clock: Clock) -> int:
    async def nothing() -> None:
        pass

    await lwkt_user_yield()
    began = clock()
    for _ in repeat(None, n):
        lwkt_create(nothing)
        await lwkt_user_yield()
    return clock() - began


async def _token(n: int, clock: Clock) -> int:
    tok = Token("bench")
    began = clock()
    for _ in repeat(None, n):
        tok.get()
        tok.rel()
    return clock() - began


async def _crit(n: int, clock: Clock) -> int:
    began = clock()
    for _ in repeat(None, n):
        crit_enter()
        crit_exit()
    return clock() - began


async def _ipi_batches(n: int, clock: Clock) -> int:
    target = globaldata_find(1)
    began = clock()
    for _ in repeat(None, n // field.BATCH):
        for _ in repeat(None, field.BATCH):
            seq = send_ipiq(target, _ipi_nothing)
        wait_ipiq(target, seq)
    return clock() - began


def _ipi_nothing(_arg1: object, _arg2: int) -> None:
    pass


domsg_same_cpu = partial(_in_domain, _domsg)
domsg_other_cpu = partial(_in_domain, partial(_domsg, server_cpu=1), ncpus=2)
pipelined = partial(_in_domain, _pipelined)
tsleep_wakeup = partial(_in_domain, _tsleep_wakeup)

_DOMSG: Final = "domsg round trip"

CASES: Final = (
    Case(f"{_DOMSG}, same CPU", domsg_same_cpu, "trio memory channel (capacity 1)", field.trio_channel, 0.15),
    Case(f"{_DOMSG}, same CPU", domsg_same_cpu, "asyncio.Queue", field.asyncio_queue, 0.45),
    Case(f"{_DOMSG}, same CPU", domsg_same_cpu, "SimpleQueue between two OS threads", field.simple_queue, 0.30, WALL),
    Case(
        f"{_DOMSG}, across vCPUs on one OS thread",
        domsg_other_cpu,
        "trio memory channel (capacity 1)",
        field.trio_channel,
        0.25,
    ),
    Case(
        "synchronous domsg (plain)",
        partial(_in_domain, _domsg_plain),
        "trio memory channel (capacity 1)",
        field.trio_channel,
        0.025,
    ),
    Case("pipelined sendmsg+reply, per message", pipelined, "asyncio.Queue round trip", field.asyncio_queue, 0.15),
    Case("tsleep+wakeup", tsleep_wakeup, "asyncio.Queue round trip", field.asyncio_queue, 0.35),
    Case("yield+switch", partial(_in_domain, _yield), "trio checkpoint", field.trio_checkpoint, 0.25),
    Case("thread create+exit", partial(_in_domain, _create_exit), "trio start_soon", field.trio_start_soon, 0.35),
    Case("token get+rel, domain", partial(_in_domain, _token), "with threading.Lock", field.with_lock, 1.2),
    Case("crit enter+exit", partial(_in_domain, _crit), "with threading.Lock", field.with_lock, 1.0),
    Case(
        f"IPI send+dispatch in batches of {field.BATCH}",
        partial(_in_domain, _ipi_batches, ncpus=2),
        "deque append+popleft",
        field.deque_batches,
        10,
    ),
    Case(f"statistics on versus off, {_DOMSG}", domsg_same_cpu, "off", partial(domsg_same_cpu, stats=False), 1.1),
    Case(f"invariants on versus off, {_DOMSG}", partial(domsg_same_cpu, debug=True), "off", domsg_same_cpu, 1.6),
)
