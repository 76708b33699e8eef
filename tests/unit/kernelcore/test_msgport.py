"""Messages and ports: who queues, who waits, who completes; one example for each port type and each call."""

from __future__ import annotations

import errno

import pytest

from kernelcore.defs import PCATCH
from kernelcore.globaldata import curthread, mycpu
from kernelcore.host.sim import SimHost
from kernelcore.msgport import (
    EASYNC,
    ENOENT,
    MSGF_DONE,
    MSGF_DROPABLE,
    MSGF_PRIORITY,
    MSGF_QUEUED,
    MSGF_REPLY,
    MSGF_SYNC,
    LwktMsg,
    NullReplyPort,
    PanicPort,
    Port,
    PutOnlyPort,
    ReplyOnlyPort,
    SerializePort,
    SpinPort,
    ThreadPort,
    abortmsg,
    beginmsg,
    checkmsg,
    domsg,
    domsg_try,
    dropmsg,
    forwardmsg,
    getport,
    initmsg,
    initmsg_abortable,
    lwkt_port,
    replymsg,
    sendmsg,
    sendmsg_oncpu,
    service_loop,
    setmsg_receipt,
    waitmsg,
    waitport,
)
from kernelcore.panic import KernelPanic
from kernelcore.sched import lwkt_migratecpu, lwkt_user_yield, preempt_point, thread_state
from kernelcore.serialize import Serializer
from kernelcore.sleep import EINTR, lwkt_signal
from kernelcore.thread import Thread, join, lwkt_create, lwkt_exit
from tests.unit.kernelcore.conftest import JumpHost


class Request(LwktMsg):
    """A message with a payload; the server doubles it."""

    __slots__ = ("n",)

    def __init__(self, n: int, reply_port: Port | None = None, flags: int = 0) -> None:
        super().__init__(reply_port, flags)
        self.n = n


def double(msg: Request) -> int:
    """A handler: answers at once; 0 ends the service."""
    if msg.n == 0:
        replymsg(msg, 0)
        lwkt_exit()
    msg.n *= 2
    return 0


def server(cpu_id: int = 0) -> Thread:
    """A thread that serves its own port."""

    async def body() -> None:
        await service_loop(lwkt_port(), double)

    return lwkt_create(body, cpu_id=cpu_id, name="server")


async def port_of(td: Thread) -> ThreadPort:
    while td.td_msgport is None:
        await lwkt_user_yield()
    return td.td_msgport


def take(port: Port) -> Request:
    msg = getport(port)
    assert isinstance(msg, Request)
    return msg


# ------------------------------------------------------------------- thread ports


@pytest.mark.parametrize("cpu_id", [0, 1])
def test_domsg_to_a_thread_here_and_on_another_cpu(sim: SimHost, cpu_id: int) -> None:
    async def main() -> None:
        td = server(cpu_id)
        port = await port_of(td)
        msg = Request(21, lwkt_port())
        assert await domsg(port, msg) == 0
        assert msg.n == 42 and msg.is_done and msg.ms_flags & MSGF_REPLY and msg.ms_flags & MSGF_SYNC
        assert lwkt_port().depth == 0  # a synchronous reply is not queued
        assert await domsg(port, msg) == 0  # the same message again
        assert msg.n == 84
        msg.n = 0
        await domsg(port, msg)
        await join(td)
        assert (port.mpu_puts, lwkt_port().mpu_replies) == (3, 3)

    sim.call(main())


def test_sendmsg_comes_back_on_its_reply_port_in_order(sim: SimHost) -> None:
    async def main() -> list[int]:
        td = server(1)
        port = await port_of(td)
        own = lwkt_port()
        for n in (1, 2, 3):
            sendmsg(port, Request(n, own))
        back = []
        for _ in range(3):
            msg = await waitport(own)
            assert isinstance(msg, Request) and checkmsg(msg) and msg.ms_flags & MSGF_REPLY
            back.append(msg.n)
        assert getport(own) is None
        await domsg(port, Request(0, own))
        await join(td)
        return back

    assert sim.call(main()) == [2, 4, 6]


def test_waitmsg_takes_a_certain_reply_out_of_the_queue(up: JumpHost) -> None:
    async def main() -> None:
        own, port = lwkt_port(), SpinPort("server")
        one, two = Request(1, own), Request(2, own)
        sendmsg(port, one)
        sendmsg(port, two)
        for error in (errno.EIO, errno.ENOSPC):
            replymsg(take(port), error)
        assert own.depth == 2 and two.ms_flags & MSGF_QUEUED
        assert await waitmsg(two) == errno.ENOSPC
        assert await waitmsg(one) == errno.EIO
        assert own.depth == 0

    up.call(main())


def test_priority_messages_are_taken_first(up: JumpHost) -> None:
    async def main() -> list[int]:
        own, port = lwkt_port(), SpinPort("server")
        for n, flags in ((1, 0), (2, MSGF_PRIORITY), (3, 0), (4, MSGF_PRIORITY)):
            sendmsg(port, Request(n, own, flags))
        assert port.depth == 4 and port.mpu_max >= 2
        return [take(port).n for _ in range(4)]

    assert up.call(main()) == [2, 4, 1, 3]


def test_a_thread_port_is_its_owner_s(up: JumpHost) -> None:
    async def thief(port: ThreadPort) -> None:
        for call in (port.getport, lambda: port.dropmsg(Request(1))):
            with pytest.raises(KernelPanic, match=r"of thread 'syscall' .* by thread 'thief'"):
                call()
        with pytest.raises(KernelPanic, match=r"waitport on .* by thread 'thief'"):
            await port.waitport()
        with pytest.raises(KernelPanic, match=r"waitmsg on .* by thread 'thief'"):
            await port.waitmsg(Request(1))

    async def main() -> None:
        await join(lwkt_create(thief, lwkt_port()))

    up.call(main())


def test_a_put_chases_an_owner_that_migrates(sim: SimHost) -> None:
    async def wanderer() -> int:
        port = lwkt_port()
        served = 0
        for n in range(6):
            msg = await waitport(port)
            assert isinstance(msg, Request)
            served += msg.n
            await lwkt_migratecpu(n % 2)
            replymsg(msg, 0)
        return served

    async def main() -> object:
        td = lwkt_create(wanderer, cpu_id=1)
        port = await port_of(td)
        own = lwkt_port()
        for n in range(6):
            sendmsg(port, Request(n, own))
            await preempt_point()
        for _ in range(6):
            await waitport(own)
        return await join(td)

    assert sim.call(main()) == 15


# ------------------------------------------------------------- the other port types


def test_several_threads_may_serve_a_spin_port(sim: SimHost) -> None:
    served: list[int] = []

    async def worker(port: SpinPort) -> None:
        while True:
            msg = await port.waitport()
            assert isinstance(msg, Request)
            await preempt_point()
            replymsg(msg, 0)
            if msg.n == 0:
                return
            served.append(msg.n)

    async def main() -> None:
        port, own = SpinPort("pool"), SpinPort("replies")
        workers = [lwkt_create(worker, port, cpu_id=n % 2) for n in range(3)]
        msg = Request(0, own)
        for n in range(1, 7):
            msg.n = n
            assert await domsg(port, msg) == 0
            assert not msg.ms_waiting
        for _ in workers:
            sendmsg(port, Request(0, own))
        for td in workers:
            await join(td)
        assert own.depth == 3

    sim.call(main())
    assert served == [1, 2, 3, 4, 5, 6]


def test_a_spin_port_with_a_fixed_cpu_refuses_others(smp: JumpHost) -> None:
    async def elsewhere(port: SpinPort) -> None:
        with pytest.raises(KernelPanic, match="putport_oncpu of <SpinPort 'local'>"):
            sendmsg_oncpu(port, Request(1, NullReplyPort()))

    async def main() -> None:
        port = SpinPort("local", fixed_cpu=True)

        async def taker() -> int:
            msg = await port.waitport()
            assert isinstance(msg, Request)
            return msg.n

        td = lwkt_create(taker, cpu_id=mycpu().gd_cpuid)
        await lwkt_user_yield()
        sendmsg_oncpu(port, Request(7, NullReplyPort()))
        assert await join(td) == 7
        await join(lwkt_create(elsewhere, port, cpu_id=1))

    smp.call(main())


def test_a_serialize_port_wants_its_serializer_held(up: JumpHost) -> None:
    async def driver(port: SerializePort, slz: Serializer) -> None:
        await slz.enter()
        msg = await port.waitport()  # lets the serializer go meanwhile
        slz.assert_held()
        assert isinstance(msg, Request)
        msg.n += 1
        replymsg(msg, 0)
        slz.exit()

    async def main() -> None:
        slz = Serializer("nic")
        port, replies = SerializePort(slz, "nic"), SerializePort(slz, "replies")
        td = lwkt_create(lambda: driver(port, slz))
        await lwkt_user_yield()
        msg = Request(1, replies)
        with pytest.raises(KernelPanic, match="serializer 'nic' is not held"):
            port.putport(msg)
        await slz.enter()
        assert await domsg(port, msg) == 0
        slz.assert_held()
        slz.exit()
        assert msg.n == 2
        await join(td)

    up.call(main())


def test_a_putonly_port_answers_in_the_sender(up: JumpHost) -> None:
    def answer(_port: Port, msg: Request) -> int:
        msg.n *= 2
        return errno.EPERM if msg.n > 100 else 0

    async def main() -> None:
        port, own = PutOnlyPort(answer, "double"), lwkt_port()
        switches = curthread().td_switches
        msg = Request(21, own)
        assert await domsg(port, msg) == 0 and msg.n == 42
        assert domsg_try(port, msg) == 0 and msg.n == 84
        assert domsg_try(port, msg) == errno.EPERM == msg.ms_error
        assert msg.ms_flags & MSGF_DONE and msg.ms_flags & MSGF_REPLY and own.depth == 0
        sendmsg(port, msg)  # asynchronous: it comes back on the reply port all the same
        assert own.depth == 1 and await waitport(own) is msg
        assert (port.mpu_puts, port.mpu_sync) == (4, 4)
        assert curthread().td_switches == switches
        with pytest.raises(KernelPanic, match="cannot be waited on"):
            await port.waitport()

    up.call(main())


def test_a_relay_hands_on_in_the_sender_s_context(up: JumpHost) -> None:
    async def main() -> None:
        port = SpinPort("behind")
        relay = PutOnlyPort(lambda _port, msg: beginmsg(port, msg), "relay")
        msg = Request(5, lwkt_port())
        assert domsg_try(relay, msg) == EASYNC
        replymsg(take(port), 3)
        assert await waitmsg(msg) == 3

    up.call(main())


def test_replyonly_takes_the_reply_and_null_only_marks_it(up: JumpHost) -> None:
    freed: list[int] = []

    async def main() -> None:
        port = SpinPort("server")
        forget = ReplyOnlyPort(lambda _port, msg: freed.append(msg.n), "free")
        embedded = Request(2, NullReplyPort())
        sendmsg(port, Request(1, forget))
        sendmsg(port, embedded)
        assert not checkmsg(embedded)
        replymsg(take(port), 0)
        replymsg(take(port), 0)
        assert freed == [1] and checkmsg(embedded)
        for bad in (forget, embedded.ms_reply_port):
            assert bad is not None
            with pytest.raises(KernelPanic, match="accepts no messages"):
                sendmsg(bad, Request(3, forget))

    up.call(main())


def test_on_a_panic_port_nothing_may_ever_happen(up: JumpHost) -> None:
    async def main() -> None:
        port, never = SpinPort("server"), PanicPort("never")
        with pytest.raises(KernelPanic, match="<PanicPort 'never'> accepts no messages"):
            sendmsg(never, Request(1, never))
        sendmsg(port, Request(1, never))
        with pytest.raises(KernelPanic, match="<PanicPort 'never'> accepts no replies"):
            replymsg(take(port), 0)

    up.call(main())


# ------------------------------------------------- forward, abort, drop, receipt, misuse


def test_who_answers_a_forwarded_message_answers_the_originator(up: JumpHost) -> None:
    async def main() -> None:
        first, second = SpinPort("first"), SpinPort("second")
        at_once = PutOnlyPort(lambda _port, _msg: errno.EROFS, "at once")
        msg = Request(1, lwkt_port())
        assert domsg_try(first, msg) == EASYNC
        assert forwardmsg(second, take(first)) == EASYNC
        assert forwardmsg(at_once, take(second)) == errno.EROFS
        assert await waitmsg(msg) == errno.EROFS
        with pytest.raises(KernelPanic, match=r"forwardmsg to .* of a message that is already done"):
            forwardmsg(second, msg)

    up.call(main())


def test_an_abort_is_a_request_and_the_reply_still_comes(up: JumpHost) -> None:
    async def main() -> None:
        port = SpinPort("slow")
        asked: list[Request] = []

        async def client() -> int:
            msg = Request(1)
            initmsg_abortable(msg, lwkt_port(), asked.append)
            return await domsg(port, msg, PCATCH)

        td = lwkt_create(client)
        await lwkt_user_yield()
        victim = take(port)
        lwkt_signal(td)
        await lwkt_user_yield()
        assert asked == [victim] and thread_state(td) == "B"  # asked once, and waits on
        lwkt_signal(td)
        await lwkt_user_yield()
        assert asked == [victim]
        replymsg(victim, EINTR)
        assert await join(td) == EINTR
        abortmsg(victim)  # done: nothing is asked
        assert asked == [victim]

    up.call(main())


def test_the_owner_of_a_port_may_drop_what_it_has_not_seen(up: JumpHost) -> None:
    async def main() -> None:
        port = lwkt_port()
        one, two, plain = (Request(n) for n in (1, 2, 3))
        for msg, flags in ((one, MSGF_DROPABLE), (two, MSGF_DROPABLE), (plain, 0)):
            initmsg(msg, NullReplyPort(), flags)
            sendmsg(port, msg)
        assert dropmsg(one) == 0 and checkmsg(one) and not one.ms_flags & MSGF_REPLY
        assert dropmsg(one) == ENOENT
        assert getport(port) is two and dropmsg(two) == ENOENT
        with pytest.raises(KernelPanic, match="not DROPABLE"):
            dropmsg(plain)
        with pytest.raises(KernelPanic, match="never sent"):
            dropmsg(Request(4))
        with pytest.raises(KernelPanic, match="may never be replied"):
            await waitmsg(two)

    up.call(main())


def test_a_receipt_is_given_once_when_the_target_has_queued(up: JumpHost) -> None:
    receipts: list[int] = []

    async def main() -> None:
        first, second, own = SpinPort("first"), SpinPort("second"), lwkt_port()
        msg = Request(7)
        initmsg(msg, own)
        setmsg_receipt(msg, lambda msg: receipts.append(msg.n))
        sendmsg(first, msg)
        assert receipts == [7]
        forwardmsg(second, take(first))
        replymsg(take(second), 0)
        assert await waitport(own) is msg
        assert receipts == [7]
        setmsg_receipt(msg, lambda msg: receipts.append(msg.n))
        sendmsg(PutOnlyPort(lambda _port, _msg: 0), msg)
        assert receipts == [7]  # it was never queued on a target

    up.call(main())


def test_a_message_under_way_is_nobody_s_to_touch(up: JumpHost) -> None:
    async def main() -> None:
        port = SpinPort("server")
        msg = Request(1, lwkt_port())
        sendmsg(port, msg)
        with pytest.raises(KernelPanic, match=r"sent to .* while it is queued"):
            sendmsg(port, msg)
        with pytest.raises(KernelPanic, match="still queued"):
            replymsg(msg, 0)
        take(port)
        with pytest.raises(KernelPanic, match="while it is under way"):
            domsg_try(port, msg)
        replymsg(msg, 0)
        with pytest.raises(KernelPanic, match="already done"):
            replymsg(msg, 0)
        orphan = Request(2)
        with pytest.raises(KernelPanic, match="no reply port"):
            await domsg(port, orphan)
        with pytest.raises(KernelPanic, match="no reply port"):
            replymsg(take(port), 0)

    up.call(main())


# ---------------------------------------------------------------------- service_loop


def test_a_service_drains_in_batches_and_then_rolls_up(up: JumpHost) -> None:
    log: list[object] = []

    def serve(msg: Request) -> int:
        log.append(msg.n)
        return double(msg)

    async def body() -> None:
        await service_loop(lwkt_port(), serve, 3, [lambda: log.append("rollup")])

    async def main() -> None:
        td = lwkt_create(body)
        port = await port_of(td)
        own = lwkt_port()
        for n in (1, 2, 3, 4, 5):
            sendmsg(port, Request(n, own))
        for _ in range(5):
            await waitport(own)
        switches = td.td_switches
        for n in (6, 7):
            sendmsg(port, Request(n, own))
        for _ in range(2):
            await waitport(own)
        assert td.td_switches == switches + 1  # one wakeup for the batch
        await domsg(port, Request(0, own))

    up.call(main())
    assert log == [1, 2, 3, "rollup", 4, 5, "rollup", 6, 7, "rollup", 0]


@pytest.mark.parametrize("kind", ["thread", "spin"])
def test_a_handler_may_be_async_or_reply_later_by_itself(up: JumpHost, kind: str) -> None:
    later: list[Request] = []

    async def slow(msg: Request) -> int:
        await lwkt_user_yield()
        return double(msg)

    def handler(msg: Request) -> object:
        if msg.n == 5:
            later.append(msg)
            return EASYNC
        return slow(msg)

    async def main() -> None:
        spin = SpinPort("service")

        async def body() -> None:
            await service_loop(lwkt_port() if kind == "thread" else spin, handler)  # type: ignore[arg-type]

        td = lwkt_create(body)
        await lwkt_user_yield()
        port: Port = await port_of(td) if kind == "thread" else spin
        own = lwkt_port()
        sendmsg(port, Request(5, own))
        msg = Request(4, own)
        assert await domsg(port, msg) == 0 and msg.n == 8
        assert own.depth == 0
        replymsg(later.pop(), errno.EAGAIN)
        assert (await waitport(own)) is not None
        await domsg(port, Request(0, own))
        await join(td)

    up.call(main())


def test_a_thread_that_waits_on_a_spin_port_can_be_put_away(caplog: pytest.LogCaptureFixture) -> None:
    host = JumpHost()

    async def main() -> None:
        lwkt_create(lambda: SpinPort("forever").waitport())
        await lwkt_user_yield()

    host.call(main())
    host.stop()
    assert not caplog.records


def test_a_signal_ends_the_wait_on_a_spin_port(up: JumpHost) -> None:
    async def main() -> None:
        port = SpinPort("served")
        td = lwkt_create(lambda: port.waitport(PCATCH))
        await lwkt_user_yield()
        lwkt_signal(td)
        assert await join(td) is None
        sendmsg(port, Request(1, NullReplyPort()))
        assert take(port).n == 1 and not port.mpu_spin.l_lock.locked()

    up.call(main())
