"""Sending, waiting, replying: the calls on messages and ports.

`sendmsg` is asynchronous: the originator always finds the message on its reply port. `domsg` waits, and where the
target answers at once returns without a switch. See `msg` for the rules of ownership and `port` for the port types,
both of which are exported from here.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import Any, Final

from kernelcore.defs import TDF_BLOCKED, TRAP_BLOCK
from kernelcore.globaldata import cpu, curthread
from kernelcore.msg import (
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
    MSGF_USER_MASK,
    LwktMsg,
    abortmsg,
)
from kernelcore.panic import KernelPanic, thread_label
from kernelcore.port import (
    NullReplyPort,
    PanicPort,
    Port,
    PutOnlyPort,
    ReplyOnlyPort,
    SerializePort,
    SpinPort,
    ThreadPort,
)
from kernelcore.sched import BLOCK
from kernelcore.thread import Thread

__all__ = [
    "EASYNC",
    "ENOENT",
    "MSGF_ABORTABLE",
    "MSGF_DONE",
    "MSGF_DROPABLE",
    "MSGF_INTRANSIT",
    "MSGF_PRIORITY",
    "MSGF_QUEUED",
    "MSGF_RECEIPT",
    "MSGF_REPLY",
    "MSGF_SYNC",
    "MSGF_USER_MASK",
    "LwktMsg",
    "NullReplyPort",
    "PanicPort",
    "Port",
    "PutOnlyPort",
    "ReplyOnlyPort",
    "SerializePort",
    "SpinPort",
    "ThreadPort",
    "abortmsg",
    "beginmsg",
    "checkmsg",
    "domsg",
    "domsg_try",
    "dropmsg",
    "forwardmsg",
    "getport",
    "initmsg",
    "initmsg_abortable",
    "lwkt_port",
    "replymsg",
    "sendmsg",
    "sendmsg_oncpu",
    "service_loop",
    "setmsg_receipt",
    "waitmsg",
    "waitport",
]

SERVICE_LIMIT: Final = 512  # messages between two rollups of a service loop

_NOT_OURS: Final = MSGF_DONE | MSGF_REPLY | MSGF_QUEUED | MSGF_INTRANSIT  # none of these: ours to complete or pass on
_IDLE: Final = MSGF_DONE | MSGF_QUEUED  # a message that may be sent has DONE of these
_UNLINKED: Final = ~MSGF_QUEUED
_UNSENT: Final = ~(MSGF_REPLY | MSGF_SYNC | MSGF_DONE)


def lwkt_port(td: Thread | None = None) -> ThreadPort:
    """Return the built-in port of a thread (the running one), made on first use."""
    if td is None:
        td = cpu.gd.gd_curthread
    port: ThreadPort | None = td.td_msgport
    if port is None:
        port = td.td_msgport = ThreadPort(td)
    return port


def initmsg(msg: LwktMsg, reply_port: Port, flags: int = 0) -> None:
    """Make `msg` ready to be sent, with the given reply port and MSGF_DROPABLE, _PRIORITY or own flags."""
    msg.ms_flags = MSGF_DONE | flags
    msg.ms_reply_port = reply_port
    msg.ms_error = 0


def initmsg_abortable(msg: LwktMsg, reply_port: Port, abortfn: Callable[[Any], object], flags: int = 0) -> None:
    """`initmsg` for a message that `abortmsg` may ask to finish early, by `abortfn(msg)`."""
    initmsg(msg, reply_port, flags | MSGF_ABORTABLE)
    msg.ms_abortfn = abortfn


def setmsg_receipt(msg: LwktMsg, receiptfn: Callable[[Any], object]) -> None:
    """Have `receiptfn(msg)` called once, when the target's port has queued it."""
    msg.ms_receiptfn = receiptfn
    msg.ms_flags |= MSGF_RECEIPT


def beginmsg(port: Port, msg: LwktMsg) -> int:
    """Hand `msg` to `port`: EASYNC, a reply will follow; anything else is the result."""
    msg.ms_target_port = port
    return port.putport(msg)


def sendmsg(port: Port, msg: LwktMsg) -> None:
    """Send without waiting; `msg` comes back on its reply port. It is untouchable until this returns.

    Raises:
        KernelPanic: the message is under way already.
    """
    flags = msg.ms_flags
    if flags & _IDLE != MSGF_DONE:
        _refuse_send(port, msg)
    msg.ms_flags = flags & _UNSENT
    msg.ms_target_port = port
    error = port.putport(msg)
    if error != EASYNC:
        port.mpu_sync += 1
        replymsg(msg, error)


def sendmsg_oncpu(port: Port, msg: LwktMsg) -> None:
    """`sendmsg` of a sender that is on the port's CPU."""
    if msg.ms_flags & _IDLE != MSGF_DONE:
        _refuse_send(port, msg)
    msg.ms_flags &= _UNSENT
    msg.ms_target_port = port
    error = port.putport_oncpu(msg)
    if error != EASYNC:
        port.mpu_sync += 1
        replymsg(msg, error)


def domsg_try(port: Port, msg: LwktMsg) -> int:
    """The plain half of `domsg`: the result if the target answers at once, else EASYNC: await its reply port.

    Raises:
        KernelPanic: the message is under way already.
    """
    flags = msg.ms_flags
    if flags & _IDLE != MSGF_DONE:
        _refuse_send(port, msg)
    msg.ms_flags = flags & _UNSENT | MSGF_SYNC
    msg.ms_target_port = port
    error = port.putport(msg)
    return error if error == EASYNC else _done_at_once(port, msg, error)


def _done_at_once(port: Port, msg: LwktMsg, error: int) -> int:
    port.mpu_sync += 1
    msg.ms_error = error
    msg.ms_flags |= MSGF_DONE | MSGF_REPLY
    return error


async def domsg(port: Port, msg: LwktMsg, flags: int = 0) -> int:
    """Send and wait for the result. No switch happens where the target answers at once.

    Args:
        port: the target.
        msg: its reply port must be one that the running thread may wait on.
        flags: PCATCH: a signal asks the target to abort.
    """
    mflags = msg.ms_flags
    if mflags & _IDLE != MSGF_DONE:
        _refuse_send(port, msg)
    msg.ms_flags = mflags & _UNSENT | MSGF_SYNC
    msg.ms_target_port = port
    error = port.putport(msg)
    if error != EASYNC:
        return _done_at_once(port, msg, error)
    reply_port = msg.ms_reply_port
    if reply_port is None:
        raise KernelPanic(f"domsg to {port!r}: the message has no reply port")
    gd = cpu.gd
    td = gd.gd_curthread
    if flags or gd.gd_intr_nesting_level or td.td_msgport is not reply_port:
        return await reply_port.waitmsg(msg, flags)
    while not msg.ms_flags & MSGF_DONE:  # waitmsg on one's own thread port, written out
        reply_port.mpu_waiting = True
        td.td_wmesg = "waitmsg"
        td.td_flags |= TDF_BLOCKED
        await BLOCK
    reply_port.mpu_waiting = False
    return msg.ms_error


def forwardmsg(port: Port, msg: LwktMsg) -> int:
    """Pass a message that one has received on to another port; who answers it, answers the originator."""
    if msg.ms_flags & _NOT_OURS:
        raise KernelPanic(f"forwardmsg to {port!r} of a message that is {_state(msg)}")
    msg.ms_target_port = port
    error = port.putport(msg)
    if error != EASYNC:
        port.mpu_sync += 1
        replymsg(msg, error)
    return error


def replymsg(msg: LwktMsg, error: int) -> None:
    """Complete `msg` with `error` (0: fine); it belongs to its originator from now on.

    Raises:
        KernelPanic: it is still queued or on its way, or has been replied.
    """
    if msg.ms_flags & _NOT_OURS:
        raise KernelPanic(f"replymsg of a message that is {_state(msg)} in {thread_label(cpu.gd.gd_curthread)}")
    msg.ms_error = error
    reply_port = msg.ms_reply_port
    if reply_port is None:
        raise KernelPanic(f"replymsg: the message to {msg.ms_target_port!r} has no reply port")
    reply_port.replyport(msg)


def checkmsg(msg: LwktMsg) -> bool:
    """Tell whether `msg` is complete."""
    return bool(msg.ms_flags & MSGF_DONE)


def dropmsg(msg: LwktMsg) -> int:
    """As the owner of its target port: take back a DROPABLE message as if it had never been sent.

    Returns:
        0, or ENOENT when it is no longer queued there.
    """
    port = msg.ms_target_port
    if port is None:
        raise KernelPanic("dropmsg of a message that was never sent")
    return port.dropmsg(msg)


def getport(port: Port) -> LwktMsg | None:
    """`port.getport()`."""
    return port.getport()


async def waitport(port: Port, flags: int = 0) -> LwktMsg | None:
    """`await port.waitport(flags)`."""
    return await port.waitport(flags)


async def waitmsg(msg: LwktMsg, flags: int = 0) -> int:
    """Wait on its reply port until `msg` is done; return its error."""
    if msg.ms_reply_port is None:
        raise KernelPanic("waitmsg of a message without a reply port")
    if msg.ms_flags & MSGF_DROPABLE:
        raise KernelPanic("waitmsg of a DROPABLE message: it may never be replied")
    return await msg.ms_reply_port.waitmsg(msg, flags)


def service_loop(
    port: Port,
    dispatch: Callable[[Any], int | Coroutine[Any, Any, int]],
    limit: int = SERVICE_LIMIT,
    rollup: Iterable[Callable[[], object]] = (),
) -> Awaitable[None]:
    """Serve `port` for ever: wait once, drain up to `limit` messages, then run the `rollup` hooks, and again.

    `dispatch(msg)` answers the result, or EASYNC where the handler will reply by itself; it may be async. It ends the
    loop by `lwkt_exit`. Await this, or make it the body of a thread: it is a generator, the fastest body there is.
    """
    serve = _serve_thread_port if isinstance(port, ThreadPort) else _serve_port
    return serve(port, dispatch, limit, tuple(rollup))


@types.coroutine
def _serve_thread_port(
    port: Any, dispatch: Callable[[Any], Any], limit: int, hooks: tuple[Callable[[], object], ...]
) -> Generator[Any, Any, None]:
    """`_serve_port` with `ThreadPort.waitport` and `getport` written out."""
    urgent: deque[LwktMsg] = port.mp_pri
    queue: deque[LwktMsg] = port.mp_queue
    td = curthread()
    if td is not port.mpu_td:
        port.refuse("service_loop", td)
    while True:
        while not queue and not urgent:
            port.mpu_waiting = True
            td.td_wmesg = port.mp_name
            td.td_flags |= TDF_BLOCKED
            yield TRAP_BLOCK
        served = 0
        while served < limit and (queue or urgent):
            msg = urgent.popleft() if urgent else queue.popleft()
            msg.ms_flags &= _UNLINKED
            error = dispatch(msg)
            if error.__class__ is not int:
                error = yield from error.__await__()
            if error != EASYNC:
                reply_port = msg.ms_reply_port
                if reply_port is None or msg.ms_flags & _NOT_OURS:
                    replymsg(msg, error)  # says what is wrong
                else:
                    msg.ms_error = error
                    reply_port.replyport(msg)
            served += 1
        for hook in hooks:
            hook()


@types.coroutine
def _serve_port(
    port: Port, dispatch: Callable[[Any], Any], limit: int, hooks: tuple[Callable[[], object], ...]
) -> Generator[Any, Any, None]:
    while True:
        msg = yield from port.waitport().__await__()
        served = 0
        while msg is not None:
            error = dispatch(msg)
            if not isinstance(error, int):
                error = yield from error.__await__()
            if error != EASYNC:
                replymsg(msg, error)
            served += 1
            msg = port.getport() if served < limit else None
        for hook in hooks:
            hook()


def _state(msg: LwktMsg) -> str:
    """Say why a message is not the caller's to complete or pass on."""
    if msg.ms_flags & (MSGF_DONE | MSGF_REPLY):
        return "already done"
    return "still queued" if msg.ms_flags & MSGF_QUEUED else "on its way"


def _refuse_send(port: Port, msg: LwktMsg) -> None:
    state = "queued" if msg.ms_flags & MSGF_QUEUED else "under way"
    raise KernelPanic(f"message sent to {port!r} while it is {state}, by {thread_label(cpu.gd.gd_curthread)}")
