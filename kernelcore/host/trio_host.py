"""TrioHost: the production host. A domain inside a trio event loop, on the loop's own OS thread.

A request is served by `syscall`: its coroutine runs inline up to its first block, then the pump has a go, and only a
request that is still not done parks its trio task. One task of the host, the pump, runs what becomes ready otherwise;
when its budget is spent it lets every other trio task have a turn. One timer sleeps to the earliest callout. Foreign
OS threads wake the loop by one armed `run_sync_soon`, however much they post.

The host's own tasks are shielded: a cancellation from outside interrupts the requests, and the pump lives on until
they have ended. What breaks the pump (an exception in an IPI function, a completion, a callout) stops the host: it is
raised in the nursery, and the requests fail with HostStopped.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import Any, Final, TypeVar

import trio

from kernelcore.defs import TDF_DEAD, TDF_EXITING
from kernelcore.globaldata import cpu
from kernelcore.host.domain import Domain
from kernelcore.panic import KernelPanic, WrongContext, thread_label
from kernelcore.sleep import lwkt_signal
from kernelcore.switch import abandon
from kernelcore.thread import Thread

T = TypeVar("T")
log = logging.getLogger("kernelcore")

STALL_SECONDS: Final = 0.005
"""A pump, or the first step of a request, that takes longer is reported: it should have yielded, or used an I/O CPU."""
SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which Python takes the interpreter lock from another OS thread that runs bytecode."""
GRACE_SECONDS: Final = 5.0
"""What requests under way may take when the host is stopped."""
PROBE_SECONDS: Final = 1.0
"""How often the latency of the interpreter lock is sampled."""
RELEASE_SECONDS: Final = 0.01
"""How long a reply's buffer is kept where no other request comes."""
_INTERRUPTED_SECONDS: Final = 0.1
_BASELINE_SECONDS: Final = 0.001
_ENDED: Final = TDF_EXITING | TDF_DEAD


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
        self._alive = True  # the pump may run
        self._broken: Exception | None = None  # what it died of
        self._timer = trio.CancelScope()
        self._timer_due = math.inf  # by the domain's clock
        self._scope = trio.CancelScope(shield=True)  # of the host's own tasks
        self._parked: dict[Thread, trio.lowlevel.Task] = {}
        self._quiet: trio.Event | None = None
        self._stopping = False
        self._stopped = trio.Event()
        self._baseline = 0.0  # the CPU time of this OS thread
        self._baseline_at = -math.inf  # when it was read

    # ------------------------------------------------------------ life

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to serve; the host's tasks live in `nursery` until `shutdown`, or until that is cancelled.

        Raises:
            KernelPanic: It was started before.
        """
        if self._token is not None:
            raise KernelPanic(f"domain '{self.name}' is started twice")
        if sys.getswitchinterval() > SWITCH_INTERVAL:
            sys.setswitchinterval(SWITCH_INTERVAL)
        self._token = trio.lowlevel.current_trio_token()
        self._os_thread = get_ident()
        nursery.start_soon(self._serve)

    async def shutdown(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop: requests may finish within the grace time, then they are interrupted, then they fail with HostStopped.

        Args:
            grace_seconds: How long requests under way may take.
        """
        with trio.CancelScope(shield=True):
            if self._stopping:
                await self._stopped.wait()
                return
            self._stopping = True
            await self._last_request(grace_seconds)
            for td in list(self._parked):
                self._interrupt(td)
            await self._last_request(min(grace_seconds, _INTERRUPTED_SECONDS))
            for td, task in list(self._parked.items()):
                cpu.gd = td.td_gd
                td.td_gd.gd_curthread = td
                abandon(td)
                td.td_gd.gd_curthread = td.td_gd.gd_idlethread
                trio.lowlevel.reschedule(task)
            self._alive = False
            self._scope.cancel()
            self.stop()
            self._stopped.set()

    async def _last_request(self, seconds: float) -> None:
        """Wait until no request is under way, but no longer than this; not at all where the pump is dead."""
        if self._parked and self._broken is None:
            self._quiet = trio.Event()
            with trio.move_on_after(seconds):
                await self._quiet.wait()

    async def _serve(self) -> None:
        """Run the host's tasks until it is stopped; stop it when that is cancelled or one of them breaks."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_tasks)
            try:
                await self._stopped.wait()
            finally:
                await self.shutdown()

    async def _run_tasks(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._time)
                nursery.start_soon(self._probe)
                await self._pump_for_ever()

    # ------------------------------------------------------------ requests

    async def syscall(self, body: Coroutine[Any, Any, T], name: str = "syscall") -> T:
        """Serve a request: run a kernel coroutine to its end; return its result or raise its exception.

        A cancelled request is signalled: its interruptible sleeps return EINTR. It ends by itself; what it returns is
        returned, but if it fails then, the cancellation is raised (a KernelPanic still is a KernelPanic).

        Raises:
            HostStopped: The host is stopped, or stopped before the request had ended.
            WrongContext: Called from within a kernel thread, or from another OS thread.
        """
        if self._stopping or self._token is None:
            body.close()
            raise HostStopped(f"domain '{self.name}' does not serve requests {'any more' if self._token else 'yet'}")
        if get_ident() != self._os_thread:
            body.close()
            raise WrongContext(f"system call '{name}': domain '{self.name}' belongs to another OS thread: post to it")
        td = self.enter_syscall(body, name)
        if not td.td_flags & _ENDED:
            if self.has_work():
                self._pump_inline()
            if not td.td_flags & _ENDED:
                await self._park(td)
        elif self.gds[0].gd_runmask or (self.ncpus > 1 and self.has_work()):
            self.kick()
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
        if cancelled is not None and td.td_exc is not None and not isinstance(td.td_exc, KernelPanic):
            self.give_back(td)
            cancelled()

    def _interrupt(self, td: Thread) -> None:
        cpu.gd = self.gds[0]
        lwkt_signal(td)
        self.kick()

    # ------------------------------------------------------------ the pump

    def _start_budget(self, seconds: float) -> None:
        self._began = now = self.clock()
        self._deadline = now + seconds
        if now - self._baseline_at > _BASELINE_SECONDS:
            self._baseline_at = now
            self._baseline = time.thread_time()

    def overran(self, culprit: object) -> None:
        """Report what has kept the loop from its other tasks, if it was for too long.

        A warning where this OS thread was computing for so long. Where it was not, it waited in a call that should have
        been an I/O CPU's, or the machine had others to run, which cannot be told apart: that is information.
        """
        took = self.clock() - self._began
        if took <= STALL_SECONDS:
            return
        self.stalls += 1
        if isinstance(culprit, Thread):
            what = thread_label(culprit)
        else:
            what = getattr(culprit, "__qualname__", "a completion, an IPI function or a timer")
        computed = 0.0
        if self._began - self._baseline_at <= _BASELINE_SECONDS:
            computed = min(took, time.thread_time() - self._baseline)
        level = logging.WARNING if computed > STALL_SECONDS else logging.INFO
        text = "domain '%s' did not yield for %.1f ms, at least %.1f of them computing: %s ran last"
        log.log(level, text, self.name, took * 1e3, computed * 1e3, what)

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
        """One budget of the pump in the caller, who is not to blame for what breaks in it; the rest is the task's."""
        try:
            if self._alive and not self.run():
                self.kick()
        except Exception as exc:  # noqa: BLE001 - raised in the pump's task
            self._alive = False
            self._broken = exc
            self.kick()

    async def _pump_for_ever(self) -> None:
        self._pump_task = trio.lowlevel.current_task()
        while True:
            self._pump_wanted = False
            self._pump_inline()
            if self._broken is not None:
                raise KernelPanic(f"domain '{self.name}' has stopped: {self._broken!r}") from self._broken
            if self._pump_wanted or self._posted:
                await trio.lowlevel.checkpoint()  # everybody else's turn
            else:
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
            self._timer_due = math.inf
            self._timer = trio.CancelScope()
            if due is not None:
                self.timer_changed(due)
            if self._after_reply:
                self._replies_wait()
            with self._timer:
                await trio.sleep_forever()
            self._release_after_reply()
            self.kick()
            await trio.lowlevel.checkpoint()  # the pump runs before we look again

    def timer_changed(self, deadline: float) -> None:
        """Something is now due at `deadline`, by the domain's clock."""
        if self._token is not None and deadline < self._timer_due:
            self._timer_due = deadline
            self._timer.deadline = self._trio_time(deadline)

    def _trio_time(self, deadline: float) -> float:
        return trio.current_time() + (deadline - self.clock())

    def _replies_wait(self) -> None:
        """Where no other request comes the timer releases what the replies needed."""
        self.timer_changed(self.clock() + RELEASE_SECONDS)

    async def _probe(self) -> None:
        """Sample how long the interpreter lock is waited for, for the statistics."""
        while True:
            await trio.sleep(PROBE_SECONDS)
            self.gil.sample()

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
