"""LWKT message ports: who queues a message, who waits for it, and what runs where.

The *target* decides whether a message completes at once: its `putport` answers EASYNC (a reply will follow) or a
result. All stock ports answer EASYNC; `PutOnlyPort` calls a function in the sender's context, which may do either: a
request that is answered at once costs no switch and no queue.

A thread port belongs to one thread: queue and wait are its owner's CPU's business, so a put from another CPU travels by
IPI, and chases an owner that has migrated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from kernelcore.defs import PCATCH, TDF_BLOCKED
from kernelcore.globaldata import GlobalData, cpu, mycpu
from kernelcore.ipiq import send_ipiq
from kernelcore.msg import (
    EASYNC,
    ENOENT,
    MSGF_DONE,
    MSGF_DROPABLE,
    MSGF_INTRANSIT,
    MSGF_PRIORITY,
    MSGF_QUEUED,
    MSGF_RECEIPT,
    MSGF_REPLY,
    MSGF_SYNC,
    LwktMsg,
    abortmsg,
)
from kernelcore.panic import KernelPanic, thread_label
from kernelcore.sched import BLOCK, assert_can_block, enqueue
from kernelcore.serialize import Serializer, Spinlock
from kernelcore.sleep import lwkt_sleep, ssleep, wakeup, wakeup_mycpu, zsleep
from kernelcore.thread import Thread

_SPECIAL: Final = MSGF_PRIORITY | MSGF_RECEIPT
_REPLIED: Final = MSGF_DONE | MSGF_REPLY
_LANDED: Final = ~MSGF_INTRANSIT  # masks made once: two globals and an operator cost 25 ns at every use
_UNLINKED: Final = ~MSGF_QUEUED


class Port:
    """A message port; the subclasses say who queues and who waits.

    Counters: `mpu_puts`, `mpu_sync` (completed in putport), `mpu_replies`, `mpu_max` (deepest queue).
    """

    __slots__ = ("__weakref__", "mp_name", "mp_pri", "mp_queue", "mpu_max", "mpu_puts", "mpu_replies", "mpu_sync")

    def __init__(self, name: str) -> None:
        self.mp_name = name
        self.mp_queue: deque[LwktMsg] = deque()
        self.mp_pri: deque[LwktMsg] = deque()
        self.mpu_puts = 0
        self.mpu_sync = 0
        self.mpu_replies = 0
        self.mpu_max = 1
        mycpu().gd_domain.ports.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.mp_name}'>"

    @property
    def depth(self) -> int:
        """How many messages are queued now."""
        return len(self.mp_queue) + len(self.mp_pri)

    def putport(self, msg: LwktMsg) -> int:
        """Accept `msg`; answer EASYNC, or the result if it is finished already."""
        raise KernelPanic(f"{self!r} accepts no messages")

    def putport_oncpu(self, msg: LwktMsg) -> int:
        """`putport` of a sender that knows it is on the port's CPU."""
        return self.putport(msg)

    def replyport(self, msg: LwktMsg) -> None:
        """Deliver the reply `msg` to its originator, whose reply port this is."""
        raise KernelPanic(f"{self!r} accepts no replies")

    def getport(self) -> LwktMsg | None:
        """Take the oldest message, priority ones first; None if there is none."""
        queue = self.mp_pri or self.mp_queue
        if not queue:
            return None
        msg = queue.popleft()
        msg.ms_flags &= _UNLINKED
        return msg

    async def waitport(self, flags: int = 0) -> LwktMsg | None:
        """Wait for a message and take it. With PCATCH None when a signal came."""
        raise KernelPanic(f"{self!r} cannot be waited on")

    async def waitmsg(self, msg: LwktMsg, flags: int = 0) -> int:
        """Wait until `msg`, whose reply port this is, is done; return its error."""
        raise KernelPanic(f"{self!r} cannot wait for a message")

    def dropmsg(self, msg: LwktMsg) -> int:
        """Take back an unreplied, DROPABLE message that waits on this target port: 0, or ENOENT."""
        raise KernelPanic(f"{self!r} drops no messages")

    # Shared by the queueing ports. `msg` belongs to this side now.

    def enqueue_msg(self, msg: LwktMsg) -> None:
        """Link `msg`, and give the receipt that was asked for."""
        self._link(msg, MSGF_QUEUED)
        if msg.ms_flags & MSGF_RECEIPT:
            msg.ms_flags &= ~MSGF_RECEIPT
            if msg.ms_receiptfn is not None:
                msg.ms_receiptfn(msg)

    def enqueue_reply(self, msg: LwktMsg) -> None:
        """Link the reply `msg`: done from now on. A reply gives no receipt."""
        self._link(msg, MSGF_QUEUED | _REPLIED)

    def _link(self, msg: LwktMsg, set_flags: int) -> None:
        flags = msg.ms_flags
        msg.ms_flags = (flags | set_flags) & _LANDED
        queue = self.mp_pri if flags & MSGF_PRIORITY else self.mp_queue
        if queue and len(queue) >= self.mpu_max:
            self.mpu_max = len(queue) + 1
        queue.append(msg)

    def unlink_msg(self, msg: LwktMsg) -> None:
        """Take a queued message off this port."""
        (self.mp_pri if msg.ms_flags & MSGF_PRIORITY else self.mp_queue).remove(msg)
        msg.ms_flags &= _UNLINKED

    def take_done(self, msg: LwktMsg) -> int:
        """A message that is done leaves the queue it may be on; return its error."""
        if msg.ms_flags & MSGF_QUEUED:
            self.unlink_msg(msg)
        return msg.ms_error

    def drop_queued(self, msg: LwktMsg) -> int:
        """The common part of `dropmsg`."""
        if not msg.ms_flags & MSGF_DROPABLE:
            raise KernelPanic(f"dropmsg of a message on {self!r} that is not DROPABLE")
        if msg.ms_flags & (MSGF_QUEUED | MSGF_REPLY) != MSGF_QUEUED:
            return ENOENT
        self.unlink_msg(msg)
        msg.ms_flags |= MSGF_DONE
        return 0


class ThreadPort(Port):
    """The port of one thread. Only the owner gets and waits; anybody puts and replies."""

    __slots__ = ("mpu_td", "mpu_waiting")

    def __init__(self, td: Thread | None = None, name: str = "") -> None:
        self.mpu_td: Thread = mycpu().gd_curthread if td is None else td
        super().__init__(name or self.mpu_td.td_comm)
        self.mpu_waiting = False

    def putport(self, msg: LwktMsg, _arg2: int = 0) -> int:
        """Queue on the owner's CPU, by IPI where that is another one; wake the owner if it waits.

        As the IPI function, which is this again, it looks at the owner's CPU anew and chases it.
        """
        gd = cpu.gd
        td = self.mpu_td
        if td.td_gd is not gd:
            msg.ms_flags |= MSGF_INTRANSIT
            send_ipiq(td.td_gd, self.putport, msg)
            return EASYNC
        self.mpu_puts += 1
        flags = msg.ms_flags
        if flags & _SPECIAL or self.mp_queue:
            self.enqueue_msg(msg)
        else:  # the same, for the plain message that finds the queue empty
            msg.ms_flags = (flags | MSGF_QUEUED) & _LANDED
            self.mp_queue.append(msg)
        if self.mpu_waiting:
            self.mpu_waiting = False
            enqueue(gd, td)
        return EASYNC

    def replyport(self, msg: LwktMsg, _arg2: int = 0) -> None:
        """Complete `msg` on the owner's CPU: a SYNC one wakes the waiting owner, others are queued."""
        gd = cpu.gd
        td = self.mpu_td
        if td.td_gd is not gd:
            msg.ms_flags |= MSGF_INTRANSIT | MSGF_REPLY
            send_ipiq(td.td_gd, self.replyport, msg)
            return
        self.mpu_replies += 1
        if msg.ms_flags & MSGF_SYNC:
            msg.ms_flags = (msg.ms_flags | _REPLIED) & _LANDED
        else:
            self.enqueue_reply(msg)
        if self.mpu_waiting:
            self.mpu_waiting = False
            enqueue(gd, td)

    async def waitport(self, flags: int = 0) -> LwktMsg | None:
        """Wait for a message and take it; the owner only."""
        gd = cpu.gd
        td = gd.gd_curthread
        if td is not self.mpu_td:
            self.refuse("waitport", td)
        while True:
            queue = self.mp_pri or self.mp_queue
            if queue:
                msg = queue.popleft()
                msg.ms_flags &= _UNLINKED
                return msg
            self.mpu_waiting = True
            if flags or gd.gd_intr_nesting_level:
                if await lwkt_sleep(self.mp_name, flags):
                    self.mpu_waiting = False
                    return None
            else:  # lwkt_sleep, written out
                td.td_wmesg = self.mp_name
                td.td_flags |= TDF_BLOCKED
                await BLOCK

    async def waitmsg(self, msg: LwktMsg, flags: int = 0) -> int:
        """Wait until `msg` is done; the owner only. A signal (PCATCH) sends one abort request, then waits on."""
        gd = cpu.gd
        td = gd.gd_curthread
        if td is not self.mpu_td:
            self.refuse("waitmsg", td)
        while not msg.ms_flags & MSGF_DONE:
            self.mpu_waiting = True
            if flags or gd.gd_intr_nesting_level:
                if await lwkt_sleep("waitmsg", flags):
                    flags &= ~PCATCH
                    abortmsg(msg)
            else:  # lwkt_sleep, written out
                td.td_wmesg = "waitmsg"
                td.td_flags |= TDF_BLOCKED
                await BLOCK
        self.mpu_waiting = False
        return self.take_done(msg) if msg.ms_flags & MSGF_QUEUED else msg.ms_error

    def getport(self) -> LwktMsg | None:
        """Take the oldest message; the owner only."""
        td = cpu.gd.gd_curthread
        if td is not self.mpu_td:
            self.refuse("getport", td)
        if self.mp_pri:
            msg = self.mp_pri.popleft()
        elif self.mp_queue:
            msg = self.mp_queue.popleft()
        else:
            return None
        msg.ms_flags &= _UNLINKED
        return msg

    def dropmsg(self, msg: LwktMsg) -> int:
        """Take back a message that the owner has not seen; the owner only."""
        td = cpu.gd.gd_curthread
        if td is not self.mpu_td:
            self.refuse("dropmsg", td)
        return self.drop_queued(msg)

    def refuse(self, what: str, td: Thread) -> None:
        """Raise KernelPanic: `td` does not own this port."""
        raise KernelPanic(f"{what} on {self!r} of {thread_label(self.mpu_td)} by {thread_label(td)}")


class SpinPort(Port):
    """A port that several threads may serve, on any CPU; with `fixed_cpu` puts happen on one CPU only."""

    __slots__ = ("mpu_gd", "mpu_spin", "mpu_waiters")

    def __init__(self, name: str = "spinport", *, fixed_cpu: bool = False) -> None:
        super().__init__(name)
        self.mpu_spin = Spinlock(name)
        self.mpu_waiters = 0
        self.mpu_gd: GlobalData | None = mycpu() if fixed_cpu else None

    def putport(self, msg: LwktMsg) -> int:
        """Queue and wake one or all who wait."""
        with self.mpu_spin:
            self.mpu_puts += 1
            self.enqueue_msg(msg)
            waiting = self.mpu_waiters
        if waiting:
            wakeup(self)
        return EASYNC

    def putport_oncpu(self, msg: LwktMsg) -> int:
        """`putport` on the port's fixed CPU: wakes locally.

        Raises:
            KernelPanic: the sender is on another CPU.
        """
        gd = mycpu()
        if self.mpu_gd is not gd:
            raise KernelPanic(f"putport_oncpu of {self!r} by {thread_label(gd.gd_curthread)}")
        with self.mpu_spin:
            self.mpu_puts += 1
            self.enqueue_msg(msg)
            waiting = self.mpu_waiters
        if waiting:
            wakeup_mycpu(self)
        return EASYNC

    def replyport(self, msg: LwktMsg) -> None:
        """A SYNC message wakes its own sleeper; others are queued."""
        with self.mpu_spin:
            self.mpu_replies += 1
            if msg.ms_flags & MSGF_SYNC:
                # The waker clears the mark, under the lock: a sleeper that did so could wipe out
                # the mark of a wakeup that is still to come.
                ident: object = msg
                waiting: int = msg.ms_waiting
                msg.ms_waiting = False
                msg.ms_flags |= _REPLIED
            else:
                self.enqueue_reply(msg)
                ident = self
                waiting = self.mpu_waiters
        if waiting:
            wakeup(ident)

    def getport(self) -> LwktMsg | None:
        """Take the oldest message."""
        with self.mpu_spin:
            return super().getport()

    async def waitport(self, flags: int = 0) -> LwktMsg | None:
        """Wait for a message and take it; any number of threads may wait."""
        assert_can_block(cpu.gd, f"waitport({self.mp_name})")  # before the lock is taken
        self.mpu_spin.lock()
        # No `finally`: who is put away in its sleep does not hold the lock.
        while (msg := super().getport()) is None:
            self.mpu_waiters += 1
            error = await ssleep(self, self.mpu_spin, flags, self.mp_name)
            self.mpu_waiters -= 1
            if error:
                break
        self.mpu_spin.unlock()
        return msg

    async def waitmsg(self, msg: LwktMsg, flags: int = 0) -> int:
        """Wait until `msg` is done. A signal (PCATCH) sends one abort request, then waits on."""
        assert_can_block(cpu.gd, f"waitmsg({self.mp_name})")  # before the lock is taken
        self.mpu_spin.lock()
        while not msg.ms_flags & MSGF_DONE:
            if msg.ms_flags & MSGF_SYNC:
                msg.ms_waiting = True
                error = await ssleep(msg, self.mpu_spin, flags, "waitmsg")
            else:
                self.mpu_waiters += 1
                error = await ssleep(self, self.mpu_spin, flags, "waitmsg")
                self.mpu_waiters -= 1
            if error:
                flags &= ~PCATCH
                self.mpu_spin.unlock()
                abortmsg(msg)
                self.mpu_spin.lock()
        result = self.take_done(msg)
        self.mpu_spin.unlock()
        return result

    def dropmsg(self, msg: LwktMsg) -> int:
        """Take back a message that nobody has taken."""
        with self.mpu_spin:
            return self.drop_queued(msg)


class SerializePort(Port):
    """A port protected by a serializer that every caller, replier and waiter holds."""

    __slots__ = ("mpu_serializer", "mpu_waiters")

    def __init__(self, slz: Serializer, name: str = "slzport") -> None:
        super().__init__(name)
        self.mpu_serializer = slz
        self.mpu_waiters = 0

    def putport(self, msg: LwktMsg) -> int:
        """Queue and wake."""
        self.mpu_serializer.assert_held()
        self.mpu_puts += 1
        self.enqueue_msg(msg)
        if self.mpu_waiters:
            wakeup(self)
        return EASYNC

    def replyport(self, msg: LwktMsg) -> None:
        """A SYNC message wakes its own sleeper; others are queued."""
        self.mpu_serializer.assert_held()
        self.mpu_replies += 1
        if msg.ms_flags & MSGF_SYNC:
            waiting = msg.ms_waiting
            msg.ms_waiting = False
            msg.ms_flags |= _REPLIED
            if waiting:
                wakeup(msg)
            return
        self.enqueue_reply(msg)
        if self.mpu_waiters:
            wakeup(self)

    def getport(self) -> LwktMsg | None:
        """Take the oldest message."""
        self.mpu_serializer.assert_held()
        return super().getport()

    async def waitport(self, flags: int = 0) -> LwktMsg | None:
        """Wait for a message and take it; the serializer is let go meanwhile."""
        while (msg := self.getport()) is None:
            self.mpu_waiters += 1
            error = await zsleep(self, self.mpu_serializer, flags, self.mp_name)
            self.mpu_waiters -= 1
            if error:
                return None
        return msg

    async def waitmsg(self, msg: LwktMsg, flags: int = 0) -> int:
        """Wait until `msg` is done; the serializer is let go meanwhile."""
        self.mpu_serializer.assert_held()
        while not msg.ms_flags & MSGF_DONE:
            if msg.ms_flags & MSGF_SYNC:
                msg.ms_waiting = True
                error = await zsleep(msg, self.mpu_serializer, flags, "waitmsg")
            else:
                self.mpu_waiters += 1
                error = await zsleep(self, self.mpu_serializer, flags, "waitmsg")
                self.mpu_waiters -= 1
            if error:
                flags &= ~PCATCH
                abortmsg(msg)
        return self.take_done(msg)

    def dropmsg(self, msg: LwktMsg) -> int:
        """Take back a message that nobody has taken."""
        self.mpu_serializer.assert_held()
        return self.drop_queued(msg)


class PutOnlyPort(Port):
    """A synchronous service: `fn(port, msg)` runs in the sender and answers a result or EASYNC."""

    __slots__ = ("mpu_fn",)

    def __init__(self, fn: Callable[[Port, Any], int], name: str = "putonly") -> None:
        super().__init__(name)
        self.mpu_fn = fn

    def putport(self, msg: LwktMsg) -> int:
        """Call the function."""
        self.mpu_puts += 1
        return self.mpu_fn(self, msg)


class ReplyOnlyPort(Port):
    """For fire and forget: `fn(port, msg)` takes the reply; nobody waits."""

    __slots__ = ("mpu_fn",)

    def __init__(self, fn: Callable[[Port, Any], object], name: str = "replyonly") -> None:
        super().__init__(name)
        self.mpu_fn = fn

    def replyport(self, msg: LwktMsg) -> None:
        """Mark it done and call the function."""
        self.mpu_replies += 1
        msg.ms_flags = (msg.ms_flags | _REPLIED) & _LANDED
        self.mpu_fn(self, msg)


class NullReplyPort(Port):
    """For embedded messages: the reply only marks the message done; poll with `checkmsg`."""

    __slots__ = ()

    def __init__(self, name: str = "nullreply") -> None:
        super().__init__(name)

    def replyport(self, msg: LwktMsg) -> None:
        """Mark it done."""
        self.mpu_replies += 1
        msg.ms_flags = (msg.ms_flags | _REPLIED) & _LANDED


class PanicPort(Port):
    """A port on which nothing may ever happen: the reply port of messages that must never be replied."""

    __slots__ = ()

    def __init__(self, name: str = "panic") -> None:
        super().__init__(name)
