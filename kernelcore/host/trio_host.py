"""TrioHost: the production host. A domain inside a trio event loop, on the loop's own OS thread.

A request is served by `syscall`: its coroutine runs inline up to its first block, then the pump has a go, and only a
request that is still not done parks its trio task. One task of the host, the pump, runs what becomes ready otherwise;
when its budget is spent it lets every other trio task have a turn. One timer sleeps to the earliest callout. Foreign
OS threads wake the loop by one armed `run_sync_soon`, however much they post.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import trio

from kernelcore.globaldata import cpu
from kernelcore.host.domain import Domain
from kernelcore.panic import KernelPanic, WrongContext, thread_label
from kernelcore.sleep import lwkt_signal
from kernelcore.switch import abandon
from kernelcore.thread import Thread

T = TypeVar("T")
log = logging.getLogger("kernelcore")

STALL_SECONDS = 0.005
"""A pump that takes longer is reported: something in it should have yielded, or gone to an I/O CPU."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which Python takes the GIL from another OS thread that runs bytecode."""


class HostStopped(Exception):
    """The host was stopped before the request had ended, or before it came."""


class TrioHost(Domain):
    """A domain hosted by trio.

    Args:
        ncpus: Virtual CPUs.
        kwargs: As for `Domain`.
    """

    def __init__(self, ncpus: int = 1, **kwargs: Any) -> None:
        super().__init__(ncpus, **kwargs)
        self._token: trio.lowlevel.TrioToken | None = None
        self._os_thread = 0
        self._woken = False  # a run_sync_soon is armed
        self._pump_task: trio.lowlevel.Task | None = None
        self._pump_parked = False
        self._pump_wanted = False
        self._timer = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._parked: dict[Thread, trio.lowlevel.Task] = {}
        self._quiet: trio.Event | None = None
        self._stopping = False
        self.stalls = 0
        """Pumps that took longer than `STALL_SECONDS`."""
        self.pumps = 0
        """Runs of the pump, by requests and by its task."""

    # ------------------------------------------------------------ life

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to serve; the pump and the timer live in `nursery` until `shutdown`.

        Raises:
            KernelPanic: It was started before.
        """
        if self._token is not None:
            raise KernelPanic(f"domain '{self.name}' is started twice")
        sys.setswitchinterval(min(SWITCH_INTERVAL, sys.getswitchinterval()))
        self._token = trio.lowlevel.current_trio_token()
        self._os_thread = threading.get_ident()
        nursery.start_soon(self._serve)

    async def shutdown(self, grace_seconds: float = 5.0) -> None:
        """Stop: requests may finish within the grace time, then they are interrupted, then they fail with HostStopped.

        Args:
            grace_seconds: How long requests under way may take.
        """
        with trio.CancelScope(shield=True):
            self._stopping = True
            await self._last_request(grace_seconds)
            for td in list(self._parked):
                self._interrupt(td)
            await self._last_request(min(grace_seconds, 0.1))
            for td, task in list(self._parked.items()):
                cpu.gd = td.td_gd
                td.td_gd.gd_curthread = td
                abandon(td)
                td.td_gd.gd_curthread = td.td_gd.gd_idlethread
                trio.lowlevel.reschedule(task)
            self._scope.cancel()
            self.stop()

    async def _last_request(self, seconds: float) -> None:
        """Wait until no request is under way, but no longer than this."""
        if self._parked:
            self._quiet = trio.Event()
            with trio.move_on_after(seconds):
                await self._quiet.wait()

    # ------------------------------------------------------------ requests

    async def syscall(self, body: Coroutine[Any, Any, T], name: str = "syscall") -> T:
        """Serve a request: run a kernel coroutine to its end; return its result or raise its exception.

        A cancelled request is signalled: its interruptible sleeps return EINTR. It ends by itself; what it returns is
        returned, but if it fails then, the cancellation is raised.

        Raises:
            HostStopped: The host is stopped, or stopped before the request had ended.
            WrongContext: Called from within a kernel thread, or from another OS thread.
        """
        if self._stopping or self._token is None:
            body.close()
            raise HostStopped(f"domain '{self.name}' does not serve requests {'any more' if self._token else 'yet'}")
        if threading.get_ident() != self._os_thread:
            body.close()
            raise WrongContext(f"domain '{self.name}' belongs to another OS thread: post to it")
        td = self.enter_syscall(body, name)
        if not td.is_done:
            self._pump_inline()
            if not td.is_done:
                await self._park(td)
        result, exc = td.td_result, td.td_exc
        self.give_back(td)
        if exc is not None:
            raise exc
        return result  # type: ignore[no-any-return]

    async def _park(self, td: Thread) -> None:
        """Wait until the kernel thread of a request has ended, whatever happens to the trio task meanwhile."""
        task = trio.lowlevel.current_task()
        cancelled: Callable[[], Any] | None = None

        def ended(_td: Thread) -> None:
            del self._parked[td]
            if self._quiet is not None and not self._parked:
                self._quiet.set()
            trio.lowlevel.reschedule(task)

        def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal cancelled
            cancelled = raise_cancel
            self._interrupt(td)
            return trio.lowlevel.Abort.FAILED

        td.td_on_exit = ended
        self._parked[td] = task
        await trio.lowlevel.wait_task_rescheduled(abort)
        if self._parked.pop(td, None) is not None:
            raise HostStopped(f"{thread_label(td)} was still under way when domain '{self.name}' stopped")
        if cancelled is not None and td.td_exc is not None:
            self.give_back(td)
            cancelled()

    def _interrupt(self, td: Thread) -> None:
        cpu.gd = self.gds[0]
        lwkt_signal(td)
        self.kick()

    # ------------------------------------------------------------ the pump

    def run(self, *args: Any, **kwargs: Any) -> bool:
        """As for every domain; one that takes too long is reported."""
        began = self.clock()
        idle = super().run(*args, **kwargs)
        took = self.clock() - began
        self.pumps += 1
        if took > STALL_SECONDS:
            self.stalls += 1
            culprit = thread_label(self.last_overrun) if self.last_overrun is not None else "many threads"
            log.warning("domain '%s' did not yield for %.1f ms: %s ran last", self.name, took * 1000, culprit)
        return idle

    def kick(self) -> None:
        """Something became ready: the pump's task will run it, after the reply of the request that is being served."""
        if self._running:
            return
        self._pump_wanted = True
        if self._pump_parked:
            self._pump_parked = False
            assert self._pump_task is not None
            trio.lowlevel.reschedule(self._pump_task)

    def _pump_inline(self) -> None:
        """One budget of the pump in the caller; the rest is the task's."""
        if not self.run():
            self.kick()

    async def _serve(self) -> None:
        """The host's tasks, until it is stopped."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._time)
                await self._pump_for_ever()

    async def _pump_for_ever(self) -> None:
        self._pump_task = trio.lowlevel.current_task()
        while True:
            self._pump_wanted = False
            if not self.run():
                await trio.lowlevel.checkpoint()  # everybody else's turn
            elif not self._pump_wanted and not self._posted:
                self._pump_parked = True
                await trio.lowlevel.wait_task_rescheduled(self._unpark)

    def _unpark(self, _raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        self._pump_parked = False
        return trio.lowlevel.Abort.SUCCEEDED

    # ------------------------------------------------------------ timers, other OS threads

    async def _time(self) -> None:
        """Sleep to the earliest callout; `timer_changed` brings the time forward."""
        while True:
            due = self.next_deadline()
            self._timer = trio.CancelScope(deadline=math.inf if due is None else self._trio_time(due))
            with self._timer:
                await trio.sleep_forever()
            self.kick()
            await trio.lowlevel.checkpoint()  # the pump runs before we look again

    def timer_changed(self, deadline: float) -> None:
        """The earliest callout is now due at `deadline`."""
        if self._token is not None:
            self._timer.deadline = min(self._timer.deadline, self._trio_time(deadline))

    def _trio_time(self, deadline: float) -> float:
        return trio.current_time() + (deadline - self.clock())

    def wake_host(self) -> None:
        """From any OS thread: have the pump look at what was posted; one wake-up stands for all until it has come."""
        if self._woken or self._token is None:
            return
        self._woken = True
        try:
            self._token.run_sync_soon(self._drain_soon)
        except trio.RunFinishedError:
            self._woken = False  # nobody is left to hear it

    def _drain_soon(self) -> None:
        """In the loop, between two tasks: what was posted runs now, without another turn of the loop."""
        self._woken = False
        self._pump_inline()
