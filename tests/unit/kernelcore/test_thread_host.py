"""ThreadHost: the services on CPUs that are OS threads, under the real interpreter lock at its most nervous."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

from kernelcore import stat
from kernelcore.callout import Callout
from kernelcore.cpusync import CpuSync, cpusync_simple
from kernelcore.crit import crit_enter, crit_exit
from kernelcore.defs import PINTERLOCKED, TDF_NOSTART
from kernelcore.globaldata import NO_CPU, CurrentCpu, cpu, curthread, globaldata_find, mycpu
from kernelcore.host import thread_host
from kernelcore.host.iocpu import IoCpu
from kernelcore.host.thread_host import ThreadHost
from kernelcore.host.up import UpHost
from kernelcore.ipiq import send_ipiq, send_ipiq_mask, send_ipiq_passive, wait_ipiq
from kernelcore.ipisync import synchronize_ipiqs
from kernelcore.msgport import LwktMsg, SpinPort, domsg, lwkt_port, replymsg, sendmsg, service_loop, waitport
from kernelcore.panic import KernelPanic
from kernelcore.sched import (
    lwkt_acquire,
    lwkt_giveaway,
    lwkt_migratecpu,
    lwkt_schedule,
    lwkt_user_yield,
    lwkt_yield,
)
from kernelcore.serialize import Serializer, Spinlock
from kernelcore.sleep import EWOULDBLOCK, lwkt_sleep, tsleep, tsleep_interlock, wakeup, wakeup_one
from kernelcore.thread import Thread, join, lwkt_create, lwkt_hold, lwkt_rele
from kernelcore.token import Token

NCPUS = 4

Program = Callable[[ThreadHost, int], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def nervous() -> Iterator[None]:
    """Have the interpreter change OS threads as often as it can; forget the hosts of other tests."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    cpu.gd = NO_CPU
    yield
    cpu.gd = NO_CPU
    sys.setswitchinterval(before)


@pytest.fixture
def host() -> Iterator[ThreadHost]:
    with ThreadHost(NCPUS, debug=True) as host:
        yield host


def breathe() -> None:
    """Give the interpreter lock away in the middle of whatever this is in."""
    time.sleep(0)


async def together(*bodies: Callable[[], Awaitable[None]]) -> None:
    """Run bodies as threads, one CPU after another; wait for all."""
    for td in [lwkt_create(body, cpu_id=i % NCPUS, name=f"t{i}") for i, body in enumerate(bodies)]:
        await join(td)


# ------------------------------------------------------------ programs that are also run for long


async def tokens_exclude(host: ThreadHost, rounds: int) -> None:
    """Exclusive holders are alone with two tokens, taken in any order; nothing is lost; readers see no half writes."""
    left, right = Token("left", host), Token("right", host)
    pair = [0, 0]

    def writer(first: Token, second: Token) -> Callable[[], Awaitable[None]]:
        async def body() -> None:
            for i in range(rounds):
                async with first, second:
                    assert pair[0] == pair[1]
                    pair[0] += 1
                    breathe()
                    pair[1] += 1
                if i % 8 == 0:
                    await lwkt_migratecpu(i // 8 % NCPUS)

        return body

    async def reader() -> None:
        for _ in range(rounds):
            async with left.shared(), right.shared():
                assert pair[0] == pair[1]
                breathe()
            await lwkt_user_yield()

    await together(writer(left, right), writer(right, left), writer(left, right), writer(right, left), reader, reader)
    assert pair == [4 * rounds, 4 * rounds]
    for tok in (left, right):
        assert (tok.t_count, tok.t_owner, tok.t_exclreq) == (0, None, None)  # type: ignore[attr-defined]


async def generation_tells(host: ThreadHost, rounds: int) -> None:
    """What a token protects changes across a block only if its generation moved (K7)."""
    tok = Token("map", host)
    value = [0]

    async def body() -> None:
        async with tok:
            for _ in range(rounds):
                seen, gen = value[0], tok.gen
                await lwkt_user_yield()
                assert tok.changed_since(gen) or value[0] == seen
                value[0] += 1

    await together(*[body] * 6)
    assert value[0] == 6 * rounds


async def no_wakeup_is_lost(_host: ThreadHost, rounds: int) -> None:
    """A bounded buffer between producers and consumers on all CPUs, with interlock, test, sleep."""
    items: list[int] = []
    room = Spinlock("room")
    got: list[int] = []

    async def put(item: int) -> None:
        while True:
            tsleep_interlock(("buf", "put"))
            with room:
                if len(items) < 2:
                    items.append(item)
                    break
            await tsleep(("buf", "put"), PINTERLOCKED, "full")
        wakeup(("buf", "get"))

    async def take() -> int:
        while True:
            tsleep_interlock(("buf", "get"))
            with room:
                if items:
                    item = items.pop(0)
                    break
            await tsleep(("buf", "get"), PINTERLOCKED, "empty")
        wakeup_one(("buf", "put"))
        return item

    async def producer() -> None:
        for i in range(rounds):
            await put(i)

    async def consumer() -> None:
        got.extend([await take() for _ in range(rounds)])

    await together(producer, consumer, consumer, producer, consumer, producer)
    assert sorted(got) == sorted(list(range(rounds)) * 3)


async def messages_arrive_in_order(_host: ThreadHost, rounds: int) -> None:
    """Clients on every CPU, servers that migrate: each message is served once; replies say so."""

    class Numbered(LwktMsg):
        __slots__ = ("client", "number")

        client: int
        number: int

    class Stop(LwktMsg):
        __slots__ = ()

    served: dict[tuple[int, int], list[int]] = {}

    async def server() -> None:
        me = curthread()
        while True:
            msg = await lwkt_port().waitport()
            if isinstance(msg, Stop):
                replymsg(msg, 0)
                return
            assert isinstance(msg, Numbered)
            served.setdefault((me.td_tid, msg.client), []).append(msg.number)
            replymsg(msg, msg.number)

    async def client(number: int, servers: list[Thread]) -> None:
        own = lwkt_port()
        msg = Numbered(own)
        msg.client = number
        for i in range(rounds):
            msg.number = i
            assert await domsg(lwkt_port(servers[i % len(servers)]), msg) == i
            if i % 16 == number:
                await lwkt_migratecpu((number + i) % NCPUS)
        flight = [Numbered(own) for _ in range(8)]
        for i, each in enumerate(flight):
            each.client, each.number = number, rounds + i
            sendmsg(lwkt_port(servers[0]), each)
        for _ in flight:
            back = await waitport(own)
            assert isinstance(back, Numbered)
            assert back.ms_error == back.number

    servers = [lwkt_create(server, cpu_id=i, name=f"netisr{i}") for i in range(2)]
    for td in servers:
        lwkt_port(td)
    await together(*[lambda n=n: client(n, servers) for n in range(NCPUS)])
    for td in servers:
        await domsg(lwkt_port(td), Stop(lwkt_port()))
        await join(td)
    assert sum(map(len, served.values())) == NCPUS * (rounds + 8)
    assert all(numbers == sorted(numbers) for numbers in served.values())


async def one_port_many_servers(_host: ThreadHost, rounds: int) -> None:
    """A spin port served by threads on several CPUs."""
    port = SpinPort("pool")
    count = Spinlock("count")
    total = [0]

    async def server() -> None:
        while (msg := await port.waitport()) is not None:
            with count:
                total[0] += 1
            stop = msg.ms_flags >> 16
            replymsg(msg, 0)
            if stop:
                return

    async def client() -> None:
        msg = LwktMsg(SpinPort("own"))
        for _ in range(rounds):
            await domsg(port, msg)

    servers = [lwkt_create(server, cpu_id=i, name="server") for i in range(3)]
    await together(client, client, client, client)
    assert total[0] == 4 * rounds
    for _ in servers:
        await domsg(port, LwktMsg(SpinPort("own"), 1 << 16))
    for td in servers:
        await join(td)


async def ipis_run_once_in_order(_host: ThreadHost, rounds: int) -> None:
    """Every CPU floods all others, urgent and passive, past what a FIFO holds (I1, I2, I3, I7)."""
    ran: list[list[tuple[int, int]]] = [[] for _ in range(NCPUS)]

    def note(source: int, number: int) -> None:
        assert mycpu().gd_intr_nesting_level
        ran[mycpu().gd_cpuid].append((source, number))

    async def sender() -> None:
        me = mycpu().gd_cpuid
        for i in range(rounds):
            for n in range(NCPUS):
                if n != me:
                    send = send_ipiq_passive if i % 3 else send_ipiq
                    send(globaldata_find(n), note, me, i)
        await synchronize_ipiqs()

    await together(*[sender] * NCPUS)
    for target, entries in enumerate(ran):
        for source in range(NCPUS):
            numbers = [number for who, number in entries if who == source]
            assert numbers == ([] if source == target else list(range(rounds)))


async def waited_ipis_have_finished(_host: ThreadHost, rounds: int) -> None:
    """Two CPUs wait for each other's functions (I5)."""

    async def waiter() -> None:
        me = mycpu().gd_cpuid
        target = globaldata_find(me ^ 1)
        for _ in range(rounds):
            done: list[int] = []

            def slow(arg: list[int], _arg2: int) -> None:
                breathe()
                arg.append(1)

            wait_ipiq(target, send_ipiq(target, slow, done))
            assert done == [1]

    await together(*[waiter] * NCPUS)


async def cpus_rest(_host: ThreadHost, rounds: int) -> None:
    """Between interlock and deinterlock no other CPU executes thread code; two masters may want that at once."""
    steps = [0] * NCPUS
    ran = [0] * NCPUS
    over: list[int] = []

    def pulse(_arg: object) -> None:
        ran[mycpu().gd_cpuid] += 1

    async def bystander() -> None:
        me = mycpu().gd_cpuid
        while len(over) < 2:
            steps[me] += 1
            await lwkt_user_yield()

    async def master() -> None:
        everybody = (1 << NCPUS) - 1
        for _ in range(rounds):
            sync = CpuSync(everybody, pulse)
            sync.interlock()
            seen = list(steps)
            for _ in range(5):
                breathe()
            assert steps == seen
            sync.deinterlock()
            await lwkt_user_yield()
        over.append(1)

    await together(master, master, bystander, bystander, bystander, bystander)
    assert ran == [2 * rounds] * NCPUS
    cpusync_simple(0, None)


async def threads_move(_host: ThreadHost, rounds: int) -> None:
    """Push migration under fire of schedules from all CPUs; each thread arrives where it wanted (T5)."""
    movers: list[Thread] = []
    over: list[int] = []

    async def mover() -> None:
        for i in range(rounds):
            await lwkt_migratecpu(i % NCPUS)
            assert mycpu().gd_cpuid == i % NCPUS
            assert curthread().td_gd is mycpu()
        over.append(1)

    async def pest() -> None:
        while len(over) < 3:
            for td in movers:
                lwkt_schedule(td)
            await lwkt_user_yield()

    movers += [lwkt_create(mover, cpu_id=i, name=f"mover{i}") for i in range(3)]
    await together(pest, pest)
    for td in movers:
        await join(td)


async def threads_are_taken(_host: ThreadHost, rounds: int) -> None:
    """Pull migration: given away by its owner, taken by another CPU."""
    for _ in range(rounds):
        parked, given = Spinlock("parked"), [0]

        async def worker() -> int:
            await lwkt_sleep("parked")
            return mycpu().gd_cpuid

        td = lwkt_create(worker, cpu_id=0, name="worker")
        while td.td_wmesg != "parked":
            await lwkt_user_yield()
        await lwkt_user_yield()
        lwkt_giveaway(td)

        async def taker(td: Thread = td, parked: Spinlock = parked, given: list[int] = given) -> None:
            lwkt_acquire(td)
            lwkt_schedule(td)
            with parked:
                given[0] = 1

        await join(lwkt_create(taker, cpu_id=2, name="taker"))
        assert given == [1]
        assert await join(td) == 2


async def held_threads_stay(_host: ThreadHost, rounds: int) -> None:
    """A thread exits only when nobody holds it, whoever lets go last (T6)."""
    for i in range(rounds):

        async def brief() -> None:
            pass

        td = lwkt_create(brief, cpu_id=i % NCPUS, name="brief", flags=TDF_NOSTART)
        lwkt_hold(td, "main")
        lwkt_schedule(td)

        async def holder(n: int, td: Thread = td) -> None:
            lwkt_hold(td, n)
            await lwkt_user_yield()
            lwkt_rele(td, n)

        await together(*[lambda n=n: holder(n) for n in range(NCPUS)])
        assert td in td.td_gd.gd_tdallq
        lwkt_rele(td, "main")
        await join(td)
        assert td.td_refs == 0


async def serializers_exclude(_host: ThreadHost, rounds: int) -> None:
    """A serializer is kept across a block, on any CPU."""
    slz = Serializer("device")
    inside = [0]

    async def user() -> None:
        for i in range(rounds):
            await (slz.adaptive_enter() if i % 2 else slz.enter())
            inside[0] += 1
            assert inside[0] == 1
            await lwkt_user_yield()
            assert inside[0] == 1
            inside[0] -= 1
            slz.exit()

    await together(*[user] * NCPUS)
    assert slz.stat_enter == NCPUS * rounds


PROGRAMS = (
    (tokens_exclude, 200),
    (generation_tells, 200),
    (no_wakeup_is_lost, 200),
    (messages_arrive_in_order, 200),
    (one_port_many_servers, 200),
    (ipis_run_once_in_order, 300),
    (waited_ipis_have_finished, 100),
    (cpus_rest, 20),
    (threads_move, 300),
    (threads_are_taken, 20),
    (held_threads_stay, 30),
    (serializers_exclude, 100),
)


@pytest.mark.parametrize(("program", "rounds"), PROGRAMS, ids=lambda value: getattr(value, "__name__", None))
def test_program(host: ThreadHost, program: Program, rounds: int) -> None:
    host.call(program(host, rounds))
    host.wait_until_ended()


@pytest.mark.long
@pytest.mark.parametrize(("program", "rounds"), PROGRAMS, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("again", range(20))
def test_program_for_long(host: ThreadHost, program: Program, rounds: int, again: int) -> None:
    host.call(program(host, rounds * 10))
    host.wait_until_ended()


# ------------------------------------------------------------ the host itself


def test_each_cpu_is_an_os_thread(host: ThreadHost) -> None:
    async def where() -> tuple[int, str]:
        return mycpu().gd_cpuid, threading.current_thread().name

    seen = [host.call(where(), cpu_id=n) for n in range(NCPUS)]

    assert seen == [(n, f"threads-cpu{n}") for n in range(NCPUS)]
    assert cpu.gd is NO_CPU  # this OS thread is no CPU


def test_another_host_works_beside_it(host: ThreadHost) -> None:
    async def name() -> str:
        breathe()
        return mycpu().gd_domain.name

    up = UpHost(name="beside")
    assert (host.call(name()), up.call(name())) == ("threads", "beside")
    up.stop()


def test_the_plain_slot_comes_back_with_the_last_host() -> None:
    with ThreadHost(1):
        with ThreadHost(2, name="inner"):
            assert type(cpu) is not CurrentCpu
        assert type(cpu) is not CurrentCpu
    assert type(cpu) is CurrentCpu
    assert cpu.gd is NO_CPU


def test_results_and_exceptions_come_out(host: ThreadHost) -> None:
    async def fine() -> int:
        return 42

    async def failing() -> None:
        await lwkt_user_yield()
        raise LookupError("not there")

    assert host.call(fine(), cpu_id=3) == 42
    with pytest.raises(LookupError, match="not there"):
        host.call(failing())
    with pytest.raises(KernelPanic, match="not a coroutine"):
        host.spawn(lambda: 7)


def test_the_death_of_a_thread_that_nobody_joins_is_heard(host: ThreadHost, caplog: pytest.LogCaptureFixture) -> None:
    async def dies() -> None:
        raise ValueError("bad luck")

    with caplog.at_level(logging.ERROR, "kernelcore"):
        host.spawn(dies, name="unlucky", cpu_id=1)
        with pytest.raises(KernelPanic, match=r"thread 'unlucky' died: ValueError\('bad luck'\)"):
            host.wait_until_ended()


def test_a_deadlock_is_named(host: ThreadHost) -> None:
    async def waits() -> None:
        await tsleep("godot", 0, "godot")

    with pytest.raises(KernelPanic, match=r"deadlock in domain 'threads': cpu 2 'estragon' \(S\) waits for 'godot'"):
        host.call(waits(), cpu_id=2, name="estragon")


def test_timers_fire_on_their_cpu(host: ThreadHost) -> None:
    fired: list[int] = []

    async def waits() -> int:
        timer = Callout(lambda _arg: fired.append(mycpu().gd_cpuid))
        timer.reset(0.001)
        other = Callout(lambda _arg: fired.append(-1))
        other.reset(0.002)
        assert other.stop()
        error = await tsleep("nothing", 0, "timed", 0.01)
        await timer.drain()
        return error

    assert host.call(waits(), cpu_id=3) == EWOULDBLOCK
    assert fired == [3]


def test_a_passive_ipi_to_an_idle_cpu_comes_with_the_tick(host: ThreadHost) -> None:
    ran: list[int] = []

    async def sender() -> None:
        send_ipiq_passive(globaldata_find(1), lambda _a, _b: ran.append(mycpu().gd_cpuid))
        while not ran:
            await tsleep("tick", 0, "tick", 0.005)

    host.call(sender())
    assert ran == [1]
    assert stat.ipiq(host)[0].passive == 1


def test_a_full_fifo_makes_the_sender_wait(host: ThreadHost) -> None:
    ran: list[int] = []
    release = threading.Event()

    async def busy() -> None:
        crit_enter()
        release.wait()
        crit_exit()

    async def sender() -> int:
        lwkt_create(busy, cpu_id=1, name="busy")
        threading.Timer(0.02, release.set).start()
        for i in range(40):
            send_ipiq(globaldata_find(1), lambda _a, number: ran.append(number), None, i)
        await synchronize_ipiqs()
        return mycpu().gd_cnt.ipiq_fifofull

    assert host.call(sender()) > 0
    assert ran == list(range(40))


def test_the_tick_lets_equals_have_their_turn(host: ThreadHost) -> None:
    async def other(told: list[int]) -> None:
        told.append(1)

    async def greedy() -> None:
        told: list[int] = []
        lwkt_create(other, told, cpu_id=0, name="other")
        while not told:
            await lwkt_yield()  # gives way only when the clock says so

    host.call(greedy())


def test_masks_reach_everybody(host: ThreadHost) -> None:
    seen: list[int] = []

    async def sender() -> int:
        n = send_ipiq_mask((1 << NCPUS) - 1, lambda _a, _b: seen.append(mycpu().gd_cpuid))
        await synchronize_ipiqs()
        return n

    assert host.call(sender(), cpu_id=1) == NCPUS
    assert sorted(seen) == list(range(NCPUS))


def test_service_loops_serve_from_other_cpus(host: ThreadHost) -> None:
    async def server() -> None:
        await service_loop(lwkt_port(), lambda msg: 5)

    async def client() -> list[int]:
        port = lwkt_port(lwkt_create(server, cpu_id=1, name="server"))
        msg = LwktMsg(lwkt_port())
        return [await domsg(port, msg) for _ in range(5)]

    assert host.call(client()) == [5] * 5


def test_an_error_in_an_ipi_function_stops_the_machine() -> None:
    def broken(_arg: object, _arg2: int) -> None:
        raise ZeroDivisionError("in an interrupt")

    async def sender() -> None:
        send_ipiq(globaldata_find(1), broken)
        await tsleep("for ever", 0, "waits", 60.0)

    with ThreadHost(2) as host, pytest.raises(KernelPanic, match="has stopped: in an interrupt"):
        host.call(sender())


def test_a_spinning_cpu_is_unwound_when_the_machine_stops(caplog: pytest.LogCaptureFixture) -> None:
    locked = Spinlock("never freed")
    locked.l_lock.acquire()

    async def spins() -> None:
        locked.lock()

    with caplog.at_level(logging.ERROR, "kernelcore"), ThreadHost(2) as host:
        host.spawn(spins, cpu_id=1, name="spinner")
        while "spinner" not in [row.comm for row in stat.ps(host)]:
            time.sleep(0.001)
    assert "stopped while thread 'spinner'" in caplog.text


def test_a_cpu_that_does_not_come_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_host, "STOP_SECONDS", 0.05)
    entered, release = threading.Event(), threading.Event()

    async def busy() -> None:
        entered.set()
        release.wait()

    host = ThreadHost(2)
    host.spawn(busy, cpu_id=1, name="stubborn")
    entered.wait()
    with pytest.raises(KernelPanic, match=r"does not stop: thread 'stubborn' \(tid \d+, cpu 1\) runs on"):
        host.stop()
    release.set()
    monkeypatch.undo()
    host.stop()


def test_stopping_closes_what_has_not_ended() -> None:
    closed: list[str] = []

    async def waits(tok: Token) -> None:
        try:
            async with tok:
                await tsleep("never", 0, "never")
        finally:
            closed.append("waits")

    with ThreadHost(2) as host:
        tok = Token("held", host)
        td = host.spawn(waits, tok, cpu_id=1)
        while td.td_wmesg != "never":
            time.sleep(0.001)
    host.stop()  # a second time: nothing
    assert closed == ["waits"]
    with pytest.raises(KernelPanic, match="is stopped"):
        host.call(tsleep("x"))


def test_it_cannot_be_entered_as_the_other_hosts_are(host: ThreadHost) -> None:
    async def body() -> None:
        pass

    with pytest.raises(KernelPanic, match="runs by itself"):
        host.run()
    with pytest.raises(KernelPanic, match=r"system call 'x' into domain 'threads': enter by call\(\)"):
        host.enter_syscall(body(), "x")
    with pytest.raises(KernelPanic, match="I/O CPU 'io' serves domains of one OS thread, not 'threads'"):
        IoCpu(host, "io")


def test_statistics_are_readable_from_outside(host: ThreadHost) -> None:
    async def main() -> None:
        await together(*[lwkt_user_yield] * NCPUS)

    host.call(main())
    tree = stat.sysctl(host)
    assert tree["hw.ncpu"] == NCPUS
    assert int(tree["lwkt.switch_count"]) > NCPUS
    assert int(tree["lwkt.ipiq_count"]) > 0
