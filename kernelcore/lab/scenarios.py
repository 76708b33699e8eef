"""Small programs to watch in the simulator: `python -m kernelcore sim SCENARIO`.

Each is a function that takes the stage (`Stage`), plays one part or several on it, and may add a closing remark. Where
a race is the point, the threads wait for each other at `preempt_point`, which keeps their tokens and lets the other
CPUs run: so it happens under every seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from kernelcore.cpusync import CpuSync
from kernelcore.defs import PINTERLOCKED
from kernelcore.globaldata import cpu, globaldata_find
from kernelcore.ipiq import send_ipiq
from kernelcore.lab.scenario_slab import remote_slab_free
from kernelcore.lab.timeline import LabHost, TracedMsg, TracedPort, TracedToken
from kernelcore.msgport import domsg, replymsg, sendmsg, waitport
from kernelcore.sched import (
    lwkt_acquire,
    lwkt_giveaway,
    lwkt_migratecpu,
    lwkt_schedule,
    lwkt_user_yield,
    preempt_point,
)
from kernelcore.serialize import Serializer
from kernelcore.sleep import EWOULDBLOCK, lwkt_sleep, tsleep, tsleep_interlock, wakeup
from kernelcore.thread import Thread, lwkt_create

if TYPE_CHECKING:
    from kernelcore.lab.sim import Stage


class Scenario(NamedTuple):
    """One program: what it shows, the CPUs it wants by default and needs at least."""

    play: Callable[[Stage], None]
    about: str
    cpus: int = 2
    min_cpus: int = 2


async def meet(flags: set[str], me: str, other: str) -> None:
    """Wait, tokens held, until `other` has come to this point as well."""
    flags.add(me)
    while other not in flags:
        await preempt_point()


# ---------------------------------------------------------------------- tokens


def token(stage: Stage) -> None:
    """Three threads add to one counter, with a long look between reading and writing it."""
    total = 0

    def setup(host: LabHost) -> None:
        tok = host.token("counter")

        async def adder() -> None:
            nonlocal total
            for _ in range(3):
                async with tok:
                    seen = total
                    await preempt_point()
                    await preempt_point()
                    total = seen + 1
                await preempt_point()

        for i in range(3):
            host.spawn(adder, cpu_id=i % host.ncpus, name=f"adder{i}")

    stage.play("a counter under a token", setup)
    stage.remark(f"nine additions were made, the counter stands at {total}")


def deadlock(stage: Stage) -> None:
    """Two threads take two locks in opposite order."""

    def mutexes(host: LabHost) -> None:
        left, right = Serializer("left"), Serializer("right")
        flags: set[str] = set()

        async def diner(me: str, other: str, first: Serializer, second: Serializer) -> None:
            await first.enter()
            host.say(f"has serializer {first.s_name}")
            await meet(flags, me, other)
            host.say(f"wants serializer {second.s_name}")
            await second.enter()
            second.exit()
            first.exit()

        host.spawn(diner, "Ann", "Bob", left, right, cpu_id=0, name="Ann")
        host.spawn(diner, "Bob", "Ann", right, left, cpu_id=1, name="Bob")

    def tokens(host: LabHost) -> None:
        left, right = host.token("left"), host.token("right")
        flags: set[str] = set()

        async def diner(me: str, other: str, first: TracedToken, second: TracedToken) -> None:
            await first.aget()
            await meet(flags, me, other)
            await second.aget()
            host.say("dines with both")
            second.rel()
            first.rel()

        host.spawn(diner, "Ann", "Bob", left, right, cpu_id=0, name="Ann")
        host.spawn(diner, "Bob", "Ann", right, left, cpu_id=1, name="Bob")

    stage.play("with locks that are kept while waiting (serializers)", mutexes, deadlocks=True)
    stage.play("with tokens: who waits, holds nothing", tokens)


class _Unreserved(TracedToken):
    """A token without EXCLREQ: readers are let in as long as there are readers, as in DragonFly 4.2."""

    __slots__ = ()

    def attempt(self, td: Thread, excl: bool, blocking: bool) -> bool:
        del blocking
        return super().attempt(td, excl, blocking=False)


def exclreq(stage: Stage) -> None:
    """A stream of readers, and a writer that wants in."""
    admitted: list[int] = []

    def setup(host: LabHost) -> None:
        tok = host.token("tree")
        state = {"waiting": 0, "admitted": 0, "readers": 0}

        async def reader() -> None:
            for _ in range(8):
                async with tok.shared():
                    state["admitted"] += state["waiting"]
                    state["readers"] += 1
                    for _ in range(12):  # stay until another reader has come, but not for ever
                        await preempt_point()
                        if state["readers"] > 1:
                            break
                    state["readers"] -= 1

        async def writer() -> None:
            await preempt_point()
            state["waiting"] = 1
            async with tok:
                state["waiting"] = 0
                host.say(f"writes, {state['admitted']} readers were let in meanwhile")
            admitted.append(state["admitted"])

        for i in range(host.ncpus - 1):
            host.spawn(reader, cpu_id=i, name=f"reader{i}")
        host.spawn(writer, cpu_id=host.ncpus - 1, name="writer")

    stage.play("without EXCLREQ", setup, token_class=_Unreserved)
    stage.play("with EXCLREQ: a waiting writer keeps new readers out", setup)
    stage.remark(f"readers let in while the writer waited: {admitted[0]} without EXCLREQ, {admitted[1]} with it")


# ------------------------------------------------------------ sleep and wakeup


def sleep(stage: Stage) -> None:
    """A wakeup that comes between the test of a condition and the sleep."""

    def setup(interlock: bool) -> Callable[[LabHost], None]:
        def build(host: LabHost) -> None:
            flags: set[str] = set()
            ready = False

            async def consumer() -> None:
                if interlock:
                    tsleep_interlock("data")
                if not ready:
                    host.say("no data yet, I am going to sleep")
                    await meet(flags, "consumer", "producer")
                    await tsleep("data", PINTERLOCKED if interlock else 0, "data")
                host.say("has data")

            async def producer() -> None:
                nonlocal ready
                while "consumer" not in flags:
                    await preempt_point()
                ready = True
                host.say("wakeup(data)")
                wakeup("data")
                flags.add("producer")

            host.spawn(consumer, cpu_id=0, name="consumer")
            host.spawn(producer, cpu_id=1, name="producer")

        return build

    def time_limit(host: LabHost) -> None:
        async def sleeper() -> None:
            error = await tsleep("nothing", 0, "nothing", 0.05)
            host.say("tsleep returned " + ("EWOULDBLOCK" if error == EWOULDBLOCK else str(error)))

        host.spawn(sleeper, cpu_id=0, name="sleeper")

    stage.play("test, then sleep: the wakeup in between is lost", setup(interlock=False), deadlocks=True)
    stage.play("interlock, test, then sleep: it is not", setup(interlock=True))
    stage.play("a time limit: the virtual clock jumps when every CPU is idle", time_limit)


# -------------------------------------------------------------------- messages


def message(stage: Stage) -> None:
    """A client and a server on different CPUs: messages and replies travel by IPI."""

    def setup(host: LabHost) -> None:
        async def server() -> None:
            me = cpu.gd.gd_curthread
            port = me.td_msgport
            served = 0
            while served < 5:
                msg = await port.waitport()
                host.say(f"answers {msg.name}")
                await preempt_point()
                replymsg(msg, 0)
                served += 1

        async def client(server_td: Thread) -> None:
            own, port = TracedPort(), server_td.td_msgport
            host.kept.append(own)
            assert port is not None
            for i in range(3):
                msg = TracedMsg(f"ping{i}", own)
                host.say(f"domsg {msg.name}")
                await domsg(port, msg)
            for i in range(2):
                host.say(f"sendmsg note{i}")
                sendmsg(port, TracedMsg(f"note{i}", own))
            for _ in range(2):
                reply = await waitport(own)
                assert isinstance(reply, TracedMsg)
                host.say(f"has the reply to {reply.name}")

        server_td = host.spawn(server, cpu_id=1, name="server")
        server_td.td_msgport = TracedPort(server_td)
        host.kept.append(server_td.td_msgport)
        host.spawn(client, server_td, cpu_id=0, name="client")

    stage.play("three round trips, then two messages in flight", setup)


# ------------------------------------------------------------------- migration


def migrate(stage: Stage) -> None:
    """Push: a thread moves itself. Pull: its owner gives a thread away, another CPU takes it."""

    def push(host: LabHost) -> None:
        tok = host.token("map")

        async def traveller() -> None:
            async with tok:
                for step in range(1, host.ncpus + 1):
                    await lwkt_migratecpu(step % host.ncpus)
                    host.say(f"arrived on cpu {cpu.gd.gd_cpuid} with token map")

        host.spawn(traveller, cpu_id=0, name="traveller")

    def pull(host: LabHost) -> None:
        given: list[Thread] = []

        async def worker() -> None:
            host.say(f"works on cpu {cpu.gd.gd_cpuid}")
            await lwkt_sleep("parked")
            host.say(f"works on cpu {cpu.gd.gd_cpuid}")

        async def owner() -> None:
            td = lwkt_create(worker, cpu_id=0, name="worker")
            while td.td_wmesg != "parked":
                await lwkt_user_yield()
            host.say("gives worker away")
            lwkt_giveaway(td)
            given.append(td)

        async def taker() -> None:
            while not given:
                await preempt_point()
            lwkt_acquire(given[0])
            host.say("took worker")
            lwkt_schedule(given[0])

        host.spawn(owner, cpu_id=0, name="owner")
        host.spawn(taker, cpu_id=1, name="taker")

    stage.play("push: leave, switch out, be taken over by IPI; tokens are lost and taken again", push)
    stage.play("pull: giveaway on the owner, acquire on the taker", pull)


# ------------------------------------------------------------- IPIs and cpusync


def fifo(stage: Stage) -> None:
    """Two CPUs send each other more IPIs than a FIFO holds."""
    ran = [0, 0]

    def count(_arg: object, _arg2: int) -> None:
        ran[cpu.gd.gd_cpuid] += 1

    def setup(host: LabHost) -> None:
        async def sender(target: int) -> None:
            for _ in range(24):
                send_ipiq(globaldata_find(target), count)
            await preempt_point()
            host.say("has sent 24")

        host.spawn(sender, 1, cpu_id=0, name="even")
        host.spawn(sender, 0, cpu_id=1, name="odd")

    stage.play("a sender that finds its FIFO half full spins and serves its own", setup)
    stage.remark(f"IPIs run: {ran[0]} on cpu 0, {ran[1]} on cpu 1")


def cpusync(stage: Stage) -> None:
    """Two CPUs want all others at rest, at the same time."""

    def setup(host: LabHost) -> None:
        everybody = (1 << host.ncpus) - 1

        def pulse(name: str) -> None:
            host.event("sync", cpu.gd, f"runs the function of {name}")

        async def master(name: str) -> None:
            await preempt_point()
            sync = CpuSync(everybody, pulse, name)
            host.say("wants the others at rest")
            sync.interlock()
            host.say("has them at rest")
            sync.deinterlock()
            host.say("is done")

        async def bystander() -> None:
            for _ in range(4):
                await preempt_point()

        host.spawn(master, "first", cpu_id=0, name="first")
        host.spawn(master, "second", cpu_id=1, name="second")
        for n in range(2, host.ncpus):
            host.spawn(bystander, cpu_id=n, name=f"bystander{n}")

    stage.play("two masters at once", setup)


SCENARIOS: Final[dict[str, Scenario]] = {
    "token": Scenario(token, "a token under contention: collisions, hand-over, nothing lost"),
    "deadlock": Scenario(deadlock, "two locks in opposite order: a deadlock with mutexes, none with tokens"),
    "exclreq": Scenario(exclreq, "a writer among readers, with and without EXCLREQ", cpus=3, min_cpus=3),
    "sleep": Scenario(sleep, "tsleep and wakeup: the lost wakeup, and the interlock against it"),
    "message": Scenario(message, "message ping-pong across CPUs, then two in flight"),
    "migrate": Scenario(migrate, "a thread moves itself (push) and is taken (pull)"),
    "fifo": Scenario(fifo, "more IPIs both ways than the FIFOs hold"),
    "cpusync": Scenario(cpusync, "two masters bring all CPUs to rest", cpus=3),
    "slab": Scenario(remote_slab_free, "memory freed on another CPU than it belongs to finds its way home"),
}
