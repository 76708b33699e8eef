"""A worked example: the shape of DragonFly's network stack.

Each CPU has one protocol thread with its message port. A packet belongs to a connection, the connection is hashed to a
CPU, and only that CPU's protocol thread ever touches it: so the protocol control blocks need no lock at all. A packet
that arrives elsewhere is a message to the right thread. A system call of the socket layer is a synchronous message;
sent by the protocol thread itself, to its own port, it is served on the spot by the port's `putport`, where it would
otherwise wait for itself for ever.
"""

from __future__ import annotations

import errno
from collections import defaultdict

import pytest

from kernelcore.globaldata import cpu, curthread, mycpu
from kernelcore.host.sim import STRATEGIES, SimHost
from kernelcore.msg import EASYNC, MSGF_INTRANSIT, MSGF_SYNC
from kernelcore.msgport import (
    LwktMsg,
    NullReplyPort,
    ReplyOnlyPort,
    ThreadPort,
    domsg,
    lwkt_port,
    sendmsg,
    service_loop,
)
from kernelcore.sched import lwkt_user_yield, preempt_point
from kernelcore.thread import Thread, join, lwkt_create, lwkt_exit

SEGMENTS = 8


class NetMsg(LwktMsg):
    """A packet, or a request of the socket layer: what to do with which connection."""

    __slots__ = ("conn", "seq", "verb")

    def __init__(self, verb: str, conn: str, seq: int = 0) -> None:
        super().__init__()
        self.verb = verb
        self.conn = conn
        self.seq = seq


class ProtocolPort(ThreadPort):
    """The port of a protocol thread: serves its owner's own synchronous messages at once."""

    __slots__ = ("stack",)

    def __init__(self, stack: ProtocolStack) -> None:
        super().__init__(name="netisr")
        self.stack = stack

    def putport(self, msg: LwktMsg, _arg2: int = 0) -> int:
        """Queue, unless it is a synchronous message of the thread that would have to serve it.

        A message in transit comes from another CPU, and interrupts whoever runs here.
        """
        if msg.ms_flags & (MSGF_SYNC | MSGF_INTRANSIT) == MSGF_SYNC and curthread() is self.mpu_td:
            assert isinstance(msg, NetMsg)
            return self.stack.input(msg)
        return super().putport(msg)


class ProtocolStack:
    """What one CPU keeps: its control blocks, which nobody else touches, and counters of its batches."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.pcbs: dict[str, list[int]] = defaultdict(list)
        self.cpuid = -1
        self.rollups = 0

    async def run(self) -> None:
        self.cpuid = mycpu().gd_cpuid
        port = curthread().td_msgport = ProtocolPort(self)
        self.net.ports[self.cpuid] = port
        await service_loop(port, self.input, rollup=[self.rollup])

    def rollup(self) -> None:
        """After each batch: where a stack sends the acknowledgements it has saved up."""
        self.rollups += 1

    def input(self, msg: NetMsg) -> int:
        """Serve one message. Runs on the connection's CPU only."""
        assert cpu.gd.gd_cpuid == self.cpuid == self.net.hash(msg.conn)
        if msg.verb == "stop":
            replies = msg.ms_reply_port
            assert replies is not None
            replies.replyport(msg)
            lwkt_exit()
        if msg.verb == "listen":
            return self.listen(msg)
        if msg.verb == "count":
            msg.seq = len(self.pcbs[msg.conn])
            return 0
        if msg.conn not in self.pcbs:  # nobody listens
            return errno.ECONNREFUSED
        self.pcbs[msg.conn].append(msg.seq)
        if msg.seq == SEGMENTS - 1:  # the last one: the stack asks itself, as its socket layer does
            own = NetMsg("count", msg.conn)
            own.ms_reply_port = lwkt_port()
            assert self.net.ask_self(own) == 0
            self.net.received[msg.conn] = own.seq
        return 0

    def listen(self, msg: NetMsg) -> int:
        if msg.conn in self.pcbs:
            return errno.EADDRINUSE
        self.pcbs[msg.conn] = []
        return 0


class Network:
    """The protocol threads of all CPUs."""

    def __init__(self, host: SimHost) -> None:
        self.host = host
        self.ports: dict[int, ProtocolPort] = {}
        self.stacks = [ProtocolStack(self) for _ in host.gds]
        self.received: dict[str, int] = {}
        self.freed: list[NetMsg] = []
        self.free = ReplyOnlyPort(lambda _port, msg: self.freed.append(msg), "mbuf free")

    async def start(self) -> list[Thread]:
        threads = [lwkt_create(stack.run, cpu_id=n, name=f"netisr_{n}") for n, stack in enumerate(self.stacks)]
        while len(self.ports) < len(self.stacks):
            await lwkt_user_yield()
        return threads

    def hash(self, conn: str) -> int:
        """The CPU of a connection (Toeplitz, in the original)."""
        return sum(conn.encode()) % len(self.stacks)

    def port(self, conn: str) -> ProtocolPort:
        return self.ports[self.hash(conn)]

    def ask_self(self, msg: NetMsg) -> int:
        """A synchronous message of a protocol thread to itself."""
        before = curthread().td_switches
        msg.ms_flags |= MSGF_SYNC
        result = self.port(msg.conn).putport(msg)
        assert result != EASYNC and curthread().td_switches == before
        return result

    async def call(self, verb: str, conn: str) -> int:
        """A system call: synchronous, to the connection's thread."""
        msg = NetMsg(verb, conn)
        msg.ms_reply_port = lwkt_port()
        return await domsg(self.port(conn), msg)

    def receive(self, conn: str, seq: int) -> None:
        """A packet has come in on whatever CPU this is: fire and forget."""
        msg = NetMsg("segment", conn, seq)
        msg.ms_reply_port = self.free
        sendmsg(self.port(conn), msg)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_one_protocol_thread_for_each_cpu(strategy: str) -> None:
    host = SimHost(3, seed=11, strategy=strategy)
    conns = [f"10.0.0.{n}:80" for n in range(6)]

    async def interface(net: Network, mine: list[str]) -> None:
        """An interface on some CPU: packets of all its connections, mixed."""
        for seq in range(SEGMENTS):
            for conn in mine:
                net.receive(conn, seq)
                await preempt_point()

    async def main() -> Network:
        net = Network(host)
        threads = await net.start()
        for conn in conns:
            assert await net.call("listen", conn) == 0
        assert await net.call("listen", conns[0]) == errno.EADDRINUSE
        assert await net.call("segment", "10.9.9.9:1") == errno.ECONNREFUSED
        interfaces = [lwkt_create(lambda n=n: interface(net, conns[n::2]), cpu_id=n) for n in range(2)]
        for td in interfaces:
            await join(td)
        while len(net.freed) < SEGMENTS * len(conns):
            await lwkt_user_yield()
        for cpuid, port in net.ports.items():
            msg = NetMsg("stop", next(c for c in ("a", "b", "c") if net.hash(c) == cpuid))
            msg.ms_reply_port = NullReplyPort()
            sendmsg(port, msg)
        for td in threads:
            await join(td)
        return net

    net = host.call(main())
    assert {net.hash(conn) for conn in conns} == {0, 1, 2}
    assert net.received == dict.fromkeys(conns, SEGMENTS)
    for stack in net.stacks:
        for conn, segments in stack.pcbs.items():
            assert net.hash(conn) == stack.cpuid
            assert segments == list(range(SEGMENTS)), conn  # in the order they were sent
    assert all(stack.rollups for stack in net.stacks)
    assert all(msg.ms_error == 0 and msg.is_done for msg in net.freed)
    host.stop()
