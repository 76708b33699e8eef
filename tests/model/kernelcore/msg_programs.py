"""Random programs of messages: clients, servers, relays, over every type of port.

A message carries a model of itself: who owns it, how often it was completed, its place among those its sender has sent
to the same port. The queues of the ports are exchanged for ones that check every message put on or taken off them.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from hypothesis import strategies as st

from kernelcore import msgport, port
from kernelcore.defs import PCATCH, TDF_DEAD
from kernelcore.globaldata import GlobalData, cpu, curthread
from kernelcore.msgport import (
    EASYNC,
    ENOENT,
    MSGF_ABORTABLE,
    MSGF_DONE,
    MSGF_DROPABLE,
    MSGF_INTRANSIT,
    MSGF_PRIORITY,
    MSGF_QUEUED,
    MSGF_RECEIPT,
    MSGF_REPLY,
    MSGF_SYNC,
    LwktMsg,
    NullReplyPort,
    Port,
    PutOnlyPort,
    ReplyOnlyPort,
    SerializePort,
    SpinPort,
    beginmsg,
    checkmsg,
    domsg,
    domsg_try,
    dropmsg,
    forwardmsg,
    initmsg,
    initmsg_abortable,
    lwkt_port,
    replymsg,
    sendmsg,
    setmsg_receipt,
    waitmsg,
)
from kernelcore.sched import lwkt_migratecpu, lwkt_user_yield, preempt_point
from kernelcore.serialize import Serializer
from kernelcore.sleep import EINTR, lwkt_signal, ssleep, tsleep
from kernelcore.thread import Thread
from tests.model.kernelcore.harness import CheckedHost, Sim, expect, sims, simulate

Op = tuple[str, int]

OPS = (
    *("domsg", "domsg", "domsg", "domsg_try", "send", "send", "send", "collect", "collect", "drop", "forget"),
    *("embedded", "catch", "catch", "signal", "signal", "preempt", "preempt", "yield", "migrate"),
)
TARGETS = ("thread0", "thread1", "spin", "slz", "sync", "relay")
SERVERS = ("thread0", "thread1", "spin", "spin", "slz")
HOW = ("reply", "reply", "reply", "defer", "defer", "slow", "forward")

FINE = (
    *(getattr(SpinPort, name) for name in ("putport", "replyport", "waitport", "waitmsg", "getport", "dropmsg")),
    *(
        getattr(Port, name)
        for name in ("enqueue_msg", "enqueue_reply", "unlink_msg", "take_done", "getport", "drop_queued")
    ),
    *(ssleep, domsg, sendmsg, replymsg, vars(msgport)["_done_at_once"], vars(port)["abortmsg"]),
)


class MsgCase(NamedTuple):
    sim: Sim
    migrating: bool
    clients: list[tuple[int, str, list[Op]]]


def msg_cases(max_clients: int = 5, max_ops: int = 10) -> st.SearchStrategy[MsgCase]:
    """Draw programs over 1 to 4 CPUs. Where owners migrate, nothing is promised about order."""
    op = st.tuples(st.sampled_from(OPS), st.integers(0, 255))
    reply = st.sampled_from(("thread", "thread", "spin", "spin", "slz"))
    client = st.tuples(st.integers(0, 3), reply, st.lists(op, min_size=1, max_size=max_ops))
    return st.builds(MsgCase, sims(1, 4), st.booleans(), st.lists(client, min_size=1, max_size=max_clients))


class _Msg(LwktMsg):
    __slots__ = ("arg", "completions", "hops", "kind", "owner", "receipts", "stamp", "victim", "wanted_receipts")

    def __init__(self, kind: str, arg: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self.arg = arg
        self.victim: _Msg | None = None
        self.owner = "originator"
        self.completions = self.receipts = self.wanted_receipts = self.hops = 0
        self.stamp: tuple[object, int] = (None, 0)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.arg}, of the {self.owner}, {self.ms_flags:#x}>"


class _Queue(deque[Any]):
    """A port's queue. M3: first come, first served, for each sender. M4: no reply that somebody waits on by itself."""

    def __init__(self, play: _Play, name: str) -> None:
        super().__init__()
        self.play = play
        self.name = name
        self.taken: dict[object, int] = {}

    def append(self, msg: _Msg) -> None:
        is_reply = msg.completions > 0
        expect(not (is_reply and msg.ms_flags & MSGF_SYNC), "M4", f"{msg} is queued on {self.name}")
        expect(not any(msg is other for other in self), "M2", f"{msg} is twice on {self.name}")
        super().append(msg)

    def popleft(self) -> _Msg:
        msg: _Msg = super().popleft()
        if not msg.completions and not self.play.migrating:
            key, number = msg.stamp
            expect(number > self.taken.get(key, 0), "M3", f"{msg} was overtaken on {self.name}")
            self.taken[key] = number
        return msg


class _Play:
    def __init__(self, host: CheckedHost, migrating: bool, fine: bool) -> None:
        self.host = host
        self.fine = fine
        self.migrating = migrating
        self.messages: list[_Msg] = []
        self.queues: list[_Queue] = []
        self.targets: dict[str, Port] = {}
        self.clients: list[_Client] = []
        self.servers: list[tuple[Port, Thread]] = []
        self.stamps: dict[object, int] = {}
        self.ended = 0
        cpu.gd = host.gds[0]
        self.null = NullReplyPort()
        self.targets["spin"] = self.watched(SpinPort("spin"))
        self.targets["slz"] = self.watched(SerializePort(Serializer("slz"), "slz"))
        self.targets["sync"] = PutOnlyPort(self.answer, "sync")
        self.targets["relay"] = PutOnlyPort(self.relay, "relay")
        self.forgets = ReplyOnlyPort(self.forgotten)

    def watched(self, made: Port) -> Port:
        made.mp_queue = _Queue(self, made.mp_name)
        made.mp_pri = _Queue(self, made.mp_name)
        self.queues += [made.mp_queue, made.mp_pri]
        return made

    def message(self, kind: str, arg: int = 0) -> _Msg:
        msg = _Msg(kind, arg)
        self.messages.append(msg)
        return msg

    def check(self) -> None:
        """M2, M5 and the flags' own rules, for every message at every step."""
        linked = {id(msg) for queue in self.queues for msg in queue}
        for msg in self.messages:
            flags = msg.ms_flags
            expect(bool(flags & MSGF_QUEUED) == (id(msg) in linked), "M2", f"{msg}: QUEUED and the queues disagree")
            expect(not (flags & MSGF_DONE and flags & MSGF_INTRANSIT), "M5", f"{msg} is done and on its way")
            done_on_target = flags & MSGF_DONE and flags & MSGF_QUEUED and not flags & MSGF_REPLY
            expect(not done_on_target, "M5", f"{msg} is done and waits on its target")
            expect(not (flags & MSGF_DONE and msg.ms_waiting), "M5", f"{msg} is done, its mark WAITING was left")
            expect(msg.completions < 2, "M1", f"{msg} was completed twice")

    # ------------------------------------------------------- the target's side

    def stamp(self, msg: _Msg, target: Port) -> None:
        key = (curthread(), target, msg.ms_flags & MSGF_PRIORITY)
        self.stamps[key] = self.stamps.get(key, 0) + 1
        msg.stamp = (key, self.stamps[key])

    def answer(self, _port: Port, msg: _Msg) -> int:
        """A synchronous service."""
        expect(msg.owner == "in between", "M1", f"{msg} is put")
        self.complete(msg)
        return msg.arg % 7

    def relay(self, _port: Port, msg: _Msg) -> int:
        """A relay: hands on in the sender's context."""
        target = self.targets["thread1" if msg.arg & 8 else "spin"]
        self.stamp(msg, target)
        return beginmsg(target, msg)

    def complete(self, msg: _Msg) -> None:
        msg.completions += 1
        msg.owner = "originator"

    def forgotten(self, _port: Port, msg: _Msg) -> None:
        expect(msg.completions == 1 and msg.ms_flags & MSGF_DONE, "M1", f"{msg} comes back unfinished")

    async def reply(self, msg: _Msg, error: int) -> None:
        """Reply, holding what the reply port wants held."""
        slz = self.serializer(msg.ms_reply_port)
        if slz is not None:
            await slz.enter()
        expect(msg.owner == "target" and not msg.completions, "M1", f"{msg} is replied")
        self.complete(msg)
        replymsg(msg, error)
        if slz is not None:
            slz.exit()

    def serializer(self, which: Port | None) -> Serializer | None:
        return which.mpu_serializer if isinstance(which, SerializePort) else None


class _Server:
    """Serves one port until it is told to stop; what it defers it replies before it waits."""

    def __init__(self, play: _Play, name: str) -> None:
        self.play = play
        self.name = name
        self.deferred: list[_Msg] = []

    async def run(self) -> None:
        td = curthread()
        if self.name.startswith("thread"):
            self.play.targets[self.name] = self.play.watched(lwkt_port())
        self.port = self.play.targets[self.name]
        self.play.servers.append((self.port, td))
        while True:
            msg = await self.take()
            if msg is None:
                await self.flush(len(self.deferred))
                msg = await self.wait()
            if msg.kind == "stop":
                await self.flush(len(self.deferred))
                await self.play.reply(msg, 0)
                return
            await self.serve(msg)

    async def take(self) -> _Msg | None:
        slz = self.play.serializer(self.port)
        if slz is not None:
            await slz.enter()
        msg = self.port.getport()
        if slz is not None:
            slz.exit()
        assert msg is None or isinstance(msg, _Msg)
        return None if msg is None else self.taken(msg)

    async def wait(self) -> _Msg:
        slz = self.play.serializer(self.port)
        if slz is not None:
            await slz.enter()
        msg = await self.port.waitport()
        if slz is not None:
            slz.exit()
        assert isinstance(msg, _Msg)
        return self.taken(msg)

    def taken(self, msg: _Msg) -> _Msg:
        expect(msg.owner == "in between" and not msg.completions, "M1", f"{msg} is taken")
        expect(not msg.ms_flags & (MSGF_QUEUED | MSGF_DONE | MSGF_REPLY), "M2", f"{msg} is taken")
        msg.owner = "target"
        return msg

    async def serve(self, msg: _Msg) -> None:
        if msg.kind == "abort":
            victim = next((m for m in self.deferred if m is msg.victim), None)
            if victim is not None:
                self.deferred.remove(victim)
                await self.play.reply(victim, EINTR)
            await self.play.reply(msg, 0)
            return
        self.drop_some(msg.arg)
        how = HOW[msg.arg % len(HOW)]
        if self.play.migrating and msg.arg & 16 and self.name != "slz":
            await lwkt_migratecpu(msg.arg % self.play.host.ncpus)
        if how == "defer":
            self.deferred.append(msg)
            return
        if how == "slow":
            await tsleep(self, 0, "slow", 0.001)
        if how == "forward" and msg.hops < 2:
            await self.forward(msg)
        else:
            await self.play.reply(msg, msg.arg % 7)
        await self.flush(min(1, len(self.deferred)))

    async def forward(self, msg: _Msg) -> None:
        name = TARGETS[msg.arg // 8 % len(TARGETS)]
        target = self.play.targets.get(name)
        slz = self.play.serializer(target)
        if target is None or (name in ("sync", "relay") and self.play.serializer(msg.ms_reply_port)):
            await self.play.reply(msg, msg.arg % 7)
            return
        if slz is not None:
            await slz.enter()
        msg.hops += 1
        msg.owner = "in between"
        self.play.stamp(msg, target)
        forwardmsg(target, msg)
        if slz is not None:
            slz.exit()

    async def flush(self, n: int) -> None:
        for _ in range(n):
            await self.play.reply(self.deferred.pop(), 0)

    def drop_some(self, arg: int) -> None:
        """M1: a queued message may be dropped by the port's owner, once, and nothing else may."""
        if self.play.serializer(self.port) is not None:
            return
        for msg in self.play.messages:
            if msg.kind != "dropable" or msg.ms_target_port is not self.port or arg & 1:
                continue
            waits = any(msg is other for queue in (self.port.mp_queue, self.port.mp_pri) for other in queue)
            waits = waits and not msg.completions
            result = dropmsg(msg)
            expect(result == (0 if waits else ENOENT), "M1", f"dropmsg of {msg} is {result}, waits: {waits}")
            if waits:
                expect(not msg.ms_flags & (MSGF_QUEUED | MSGF_REPLY), "M1", f"{msg} was dropped")
                self.play.complete(msg)


class _Client:
    """The program of one originator."""

    def __init__(self, play: _Play, reply: str, ops: list[Op]) -> None:
        self.play = play
        self.reply = reply
        self.ops = ops
        self.td: Thread
        self.port: Port
        self.out: list[_Msg] = []  # sent, to be collected from the reply port
        self.polled: list[_Msg] = []

    async def run(self) -> None:
        self.td = curthread()
        self.port = self.play.watched(self.make_port())
        while len(self.play.servers) < len(SERVERS):
            await tsleep("servers", 0, "servers", 0.001)
        for name, arg in self.ops:
            await getattr(self, f"op_{name}")(arg)
        while self.out:
            await self.op_collect(0)
        for msg in self.polled:
            while not checkmsg(msg) or (self.play.fine and not msg.completions):  # its server may not have noted it yet
                await tsleep(msg, 0, "poll", 0.001)
            expect(msg.completions == 1, "M1", f"{msg} was not completed")
        self.play.ended += 1
        if self.play.ended == len(self.play.clients):
            await self.stop_servers()

    def make_port(self) -> Port:
        if self.reply == "thread":
            return lwkt_port()
        return SpinPort("reply") if self.reply == "spin" else SerializePort(Serializer("reply"), "reply")

    async def stop_servers(self) -> None:
        for target, td in self.play.servers:
            msg = self.play.message("stop")
            initmsg(msg, self.port)
            await self.domsg(target, msg)
            expect(td.td_flags & TDF_DEAD or msg.completions == 1, "M1", "a server was not stopped")

    # ------------------------------------------------------------------ sending

    def make(self, kind: str, arg: int, reply_port: Port | None = None) -> _Msg:
        msg = self.play.message(kind, arg)
        initmsg(msg, reply_port or self.port, MSGF_PRIORITY if arg & 64 else 0)
        if arg & 128:
            setmsg_receipt(msg, self.receipt)
        return msg

    def receipt(self, msg: _Msg) -> None:
        """M7: once, when it is queued."""
        msg.receipts += 1
        expect(msg.receipts == 1, "M7", f"{msg}: receipt {msg.receipts}")
        expect(msg.ms_flags & MSGF_QUEUED and not msg.ms_flags & MSGF_RECEIPT, "M7", f"{msg}: receipt")

    def begin(self, target: Port, msg: _Msg) -> None:
        msg.owner = "in between"
        self.play.stamp(msg, target)

    async def hold(self, *ports: Port) -> list[Serializer]:
        """Enter the serializers that the ports want held."""
        held = [slz for slz in map(self.play.serializer, ports) if slz is not None]
        for slz in sorted(held, key=id):
            await slz.enter()
        return held

    async def domsg(self, target: Port, msg: _Msg, flags: int = 0) -> int:
        held = await self.hold(target)
        reply_slz = self.play.serializer(self.port)
        if reply_slz is not None or held:
            return await self.domsg_serialized(target, msg, held, reply_slz, flags)
        self.begin(target, msg)
        return await domsg(target, msg, flags)

    async def domsg_serialized(
        self, target: Port, msg: _Msg, held: list[Serializer], reply_slz: Serializer | None, flags: int
    ) -> int:
        """The two halves of domsg, since one serializer is for the put and another for the wait."""
        self.begin(target, msg)
        error = domsg_try(target, msg)
        for slz in held:
            slz.exit()
        if error != EASYNC:
            return error
        if reply_slz is not None:
            await reply_slz.enter()
        error = await waitmsg(msg, flags)
        if reply_slz is not None:
            reply_slz.exit()
        return error

    def finished(self, msg: _Msg, error: int, allowed: tuple[int, ...], rule: str = "M1") -> None:
        flags = msg.ms_flags
        expect(msg.completions == 1 and msg.owner == "originator", rule, f"{msg} came back")
        expect(flags & MSGF_DONE and flags & MSGF_REPLY and not flags & MSGF_QUEUED, rule, f"{msg} came back")
        expect(error in allowed and error == msg.ms_error, rule, f"{msg} came back with {error}")
        queued = msg.arg & 128 and msg.kind != "sync"
        expect(msg.receipts == (1 if queued else 0), "M7", f"{msg} had {msg.receipts} receipts")

    def target(self, arg: int) -> tuple[str, Port]:
        name = TARGETS[arg % len(TARGETS)]
        return name, self.play.targets[name]

    async def op_domsg(self, arg: int) -> None:
        name, target = self.target(arg)
        msg = self.make(name, arg)
        error = await self.domsg(target, msg)
        self.finished(msg, error, (arg % 7, 0, EINTR))

    async def op_domsg_try(self, arg: int) -> None:
        """The plain half: answered at once by a synchronous port, without a switch."""
        msg = self.make("sync", arg)
        switches = self.td.td_switches
        self.begin(self.play.targets["sync"], msg)
        error = domsg_try(self.play.targets["sync"], msg)
        expect(self.td.td_switches == switches, "M1", "a synchronous port made its caller switch")
        self.finished(msg, error, (arg % 7,))

    async def op_send(self, arg: int) -> None:
        name, target = self.target(arg)
        msg = self.make(name, arg)
        held = await self.hold(target, *([self.port] if name == "sync" else []))
        self.begin(target, msg)
        sendmsg(target, msg)
        for slz in held:
            slz.exit()
        self.out.append(msg)

    async def op_collect(self, arg: int) -> None:
        """Take a reply as it comes, or wait for a certain one."""
        if not self.out:
            return
        held = await self.hold(self.port)
        if arg & 1:
            msg = self.out[arg // 2 % len(self.out)]
            error = await waitmsg(msg)
        else:
            got = await self.port.waitport()
            assert isinstance(got, _Msg)
            msg, error = got, got.ms_error
            expect(msg in self.out, "M1", f"{msg} came to another's port")
        for slz in held:
            slz.exit()
        self.out.remove(msg)
        self.finished(msg, error, (msg.arg % 7, 0, EINTR))

    async def op_drop(self, arg: int) -> None:
        """A message its target may drop: it ends without a reply, or with one."""
        msg = self.make("dropable", arg & ~128, self.play.null)
        msg.ms_flags |= MSGF_DROPABLE
        target = self.play.targets["thread0" if arg & 2 else "thread1"]
        self.begin(target, msg)
        sendmsg(target, msg)
        self.polled.append(msg)

    async def op_forget(self, arg: int) -> None:
        target = self.play.targets["thread0"]
        msg = self.make("forget", arg & ~128, self.play.forgets)
        self.begin(target, msg)
        sendmsg(target, msg)
        self.polled.append(msg)  # only so that no server is stopped before it has come

    async def op_embedded(self, arg: int) -> None:
        """The reply only marks it; the sender polls."""
        target = self.play.targets["spin"]
        msg = self.make("embedded", arg, self.play.null)
        self.begin(target, msg)
        sendmsg(target, msg)
        self.polled.append(msg)

    async def op_catch(self, arg: int) -> None:
        """M6: a signal asks the target to abort; the reply comes all the same."""
        name = "thread0" if arg & 1 else "spin"
        msg = self.play.message(name, arg & ~128)
        initmsg_abortable(msg, self.port, self.abort)
        expect(msg.ms_flags & MSGF_ABORTABLE, "M6", "initmsg_abortable")
        error = await self.domsg(self.play.targets[name], msg, PCATCH)
        self.finished(msg, error, (msg.arg % 7, 0, EINTR), "M6")

    def abort(self, victim: _Msg) -> None:
        expect(not victim.ms_flags & (MSGF_DONE | MSGF_REPLY), "M6", f"abort of {victim}")
        request = self.play.message("abort")
        request.victim = victim
        initmsg(request, self.play.null, MSGF_PRIORITY)
        target = self.play.targets[victim.kind]
        self.begin(target, request)
        sendmsg(target, request)
        self.polled.append(request)

    async def op_signal(self, arg: int) -> None:
        other = self.play.clients[arg % len(self.play.clients)]
        if hasattr(other, "td"):
            lwkt_signal(other.td)

    async def op_preempt(self, _arg: int) -> None:
        await preempt_point()

    async def op_yield(self, _arg: int) -> None:
        await lwkt_user_yield()

    async def op_migrate(self, arg: int) -> None:
        if self.play.migrating:
            gd: GlobalData = self.play.host.gds[arg % self.play.host.ncpus]
            await lwkt_migratecpu(gd.gd_cpuid)


def check_msgs(case: MsgCase, fine: bool = False, max_steps: int = 60_000) -> None:
    """M1 to M7 on one case."""
    with simulate(case.sim, max_steps, FINE if fine else ()) as host:
        play = _Play(host, case.migrating, fine)
        for n, name in enumerate(SERVERS):
            host.spawn(_Server(play, name).run, cpu_id=n % case.sim.ncpus, name=f"server-{name}")
        play.clients = [_Client(play, reply, ops) for _cpu, reply, ops in case.clients]
        for client, (cpuid, _reply, _ops) in zip(play.clients, case.clients, strict=True):
            host.spawn(client.run, cpu_id=cpuid % case.sim.ncpus, name="client")
        if not fine:
            host.watches.append(play.check)
        host.run_to_end("M1, M6")
        for msg in play.messages:
            expect(msg.completions == 1, "M1", f"{msg} was completed {msg.completions} times")
