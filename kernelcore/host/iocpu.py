"""IoCpu: an OS thread that makes C calls which release the GIL, for kernel threads that wait or carry on meanwhile.

It is no virtual CPU: it runs no threads, holds no tokens, allocates nothing and never touches the domain. Its port
takes messages that carry a function and its arguments; it answers with one armed completion on CPU 0, however many
requests are done by then. It sleeps on an eventfd (a pipe where there is none), and is woken only when it says that it
is idle: it says so first and looks at its queue again then, so no request is overlooked.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from kernelcore.globaldata import cpu
from kernelcore.host.bell import Bell
from kernelcore.host.domain import Domain
from kernelcore.msg import EASYNC, LwktMsg
from kernelcore.msgport import domsg, initmsg, lwkt_port, replymsg
from kernelcore.panic import KernelPanic, WrongContext, thread_label
from kernelcore.port import Port, PutOnlyPort

T = TypeVar("T")
_KEPT = 64
"""Messages kept for further calls."""


class IoMsg(LwktMsg):
    """A request: call `io_fn(*io_args)`; the reply carries its result, or the exception that it raised."""

    __slots__ = ("io_args", "io_exc", "io_fn", "io_result")

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...] = (), reply_port: Port | None = None) -> None:
        super().__init__(reply_port)
        self.io_fn = fn
        self.io_args = args
        self.io_result: Any = None
        self.io_exc: BaseException | None = None


class IoCpu:
    """One OS thread for I/O.

    Args:
        domain: Whose threads it serves: one that lives on one OS thread.
        name: For messages and statistics.

    Raises:
        WrongContext: The CPUs of the domain run side by side.
    """

    def __init__(self, domain: Domain, name: str = "iocpu") -> None:
        if domain.contended:
            raise WrongContext(f"I/O CPU '{name}' serves domains of one OS thread, not '{domain.name}'")
        self.name = name
        self.port = PutOnlyPort(self._put, name=name)
        """Messages (`IoMsg`) sent here are replied to when their call has returned."""
        self.calls = 0
        """Calls made."""
        self.wakes = 0
        """Times it was woken; the fewer, the better the batches."""
        self._domain = domain
        self._queue: deque[IoMsg | None] = deque()
        self._done: deque[IoMsg] = deque()
        self._armed = False  # a completion has been posted and not run
        self._idle = False
        self._stopped = False
        self._free: list[IoMsg] = []
        self._bell = Bell()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ for kernel threads

    async def call(self, fn: Callable[..., T], *args: Any) -> T:
        """Have `fn(*args)` called there and wait for it; return its result or raise its exception.

        The function should be a C call that releases the GIL: a read or write of buffers, a flush, a checksum or
        compression of at least 16 KiB.

        Raises:
            KernelPanic: The I/O CPU is stopped.
        """
        msg = self._free.pop() if self._free else IoMsg(fn)
        initmsg(msg, lwkt_port())
        msg.io_fn = fn
        msg.io_args = args
        await domsg(self.port, msg)
        result, exc = msg.io_result, msg.io_exc
        msg.io_args = ()
        msg.io_result = msg.io_exc = None
        if len(self._free) < _KEPT:
            self._free.append(msg)
        if exc is not None:
            raise exc
        return result  # type: ignore[no-any-return]

    async def barrier(self) -> None:
        """Wait until everything that was sent before has been done."""
        await self.call(_nothing)

    def stop(self) -> None:
        """Do what was sent, then end the OS thread; replies still reach the domain. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self._queue.append(None)
        self._wake()
        self._thread.join()
        self._bell.close()

    # ------------------------------------------------------------ on the domain's OS thread

    def _put(self, _port: Port, msg: LwktMsg) -> int:
        if self._stopped:
            raise KernelPanic(f"a request to I/O CPU '{self.name}', which is stopped")
        if not isinstance(msg, IoMsg):
            sender = thread_label(cpu.gd.gd_curthread)
            raise KernelPanic(f"I/O CPU '{self.name}' takes IoMsg, not {type(msg).__name__}, from {sender}")
        self._domain.outstanding += 1
        self._queue.append(msg)
        if self._idle:
            self._wake()
        return EASYNC

    def _wake(self) -> None:
        self._idle = False
        self.wakes += 1
        self._bell.ring()

    def _complete(self, _arg: object) -> None:
        """Reply to all that are done. What is done later arms another completion."""
        self._armed = False
        done = self._done
        while done:
            msg = done.popleft()
            self._domain.outstanding -= 1
            replymsg(msg, 0)

    # ------------------------------------------------------------ on its own OS thread

    def _serve(self) -> None:
        queue, done = self._queue, self._done
        while True:
            try:
                msg = queue.popleft()
            except IndexError:
                self._idle = True
                if queue:  # it came in between: nobody will ring for it
                    self._idle = False
                    continue
                self._bell.wait()
                continue
            if msg is None:
                return
            try:
                msg.io_result = msg.io_fn(*msg.io_args)
            except BaseException as exc:  # noqa: BLE001 - it belongs to whoever sent the request
                msg.io_exc = exc
            self.calls += 1
            done.append(msg)
            if not self._armed:
                self._armed = True
                self._domain.post(self._complete)


def _nothing() -> None:
    """A call that is over at once."""
