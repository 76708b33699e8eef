"""ThreadHost: every virtual CPU is an OS thread of its own, under the real interpreter lock.

Not for production: a second OS thread of Python gains nothing under that lock. It is here to show that the services are
right where the order of things is not ours: IPI queues, token hand-over, remote wakeups, migration, cpusync. The
interpreter may switch OS threads between any two bytecodes, so what the services rely on are single operations on
dicts, deques and lists, and fields that one CPU alone writes.

A CPU without work sleeps on its bell. It says that it is idle, looks at its queues again, and then waits; who sends
appends first and rings only if the target says that it is idle.

A ticker stands for the clock interrupt: every 10 ms it wakes CPUs for which passive IPIs lie about, and asks for a
reschedule. The OS thread that makes the host is none of its CPUs: it enters by `call` and `spawn`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from kernelcore.callout import next_deadline
from kernelcore.crit import splz
from kernelcore.defs import RQF_TIMER, TDF_NOSTART
from kernelcore.globaldata import GlobalData, cpu, use_plain_slot, use_thread_local
from kernelcore.host.bell import Bell
from kernelcore.host.domain import Domain
from kernelcore.ipiq import look_before_halt, process_ipiq
from kernelcore.panic import KernelPanic, thread_label
from kernelcore.sched import lwkt_schedule
from kernelcore.switch import pick, resume
from kernelcore.thread import Thread, lwkt_create
from kernelcore.token_thread import ThreadToken

T = TypeVar("T")

TICK: Final = 0.01  # seconds between clock ticks
SPIN_SECONDS: Final = 20e-6  # what a spinning CPU leaves to the others
LOOK_SECONDS: Final = 0.05  # how often a caller looks whether what it waits for can still happen
STOP_SECONDS: Final = 10.0


class ThreadHost(Domain):
    """A domain whose CPUs really run side by side. Use it as a context manager.

    Args:
        ncpus: virtual CPUs, each an OS thread.
        kwargs: as for `Domain`.
    """

    contended = True
    ipiq_bounded = True

    def __init__(self, ncpus: int = 2, **kwargs: Any) -> None:
        here = cpu.gd
        kwargs.setdefault("name", "threads")
        super().__init__(ncpus, **kwargs)
        cpu.gd = here  # this OS thread is no CPU
        self.token_class = ThreadToken
        self._idle = [False] * ncpus  # each entry: set by its CPU, taken back by whoever rings
        self._bells = [Bell() for _ in range(ncpus)]
        self._to_ring: list[list[Bell]] = [[] for _ in range(ncpus)]  # by the CPU that will
        self._passive: dict[int, None] = {}  # CPUs for which passive IPIs lie about
        self._stopping = False
        self._stopped = False
        self._error: BaseException | None = None
        self._news = threading.Event()  # something that a caller may wait for has happened
        self._tick = threading.Event()  # set: no more ticks
        self._os_threads = [
            threading.Thread(target=self._run_cpu, args=(gd,), name=f"{self.name}-cpu{gd.gd_cpuid}", daemon=True)
            for gd in self.gds
        ]
        self._os_threads.append(threading.Thread(target=self._run_clock, name=f"{self.name}-clock", daemon=True))
        use_thread_local()
        for os_thread in self._os_threads:
            os_thread.start()

    # ------------------------------------------------------------ for the OS thread outside

    def __enter__(self) -> ThreadHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def call(self, body: Coroutine[Any, Any, T], cpu_id: int = 0, name: str = "main") -> T:
        """Run `body` as a thread to its end; return its result or raise its exception.

        Raises:
            KernelPanic: it can never end, or another thread has died and nobody joins that one.
        """
        try:
            td = self._create(lambda: body, cpu_id, name, self._joined)
        except KernelPanic:
            body.close()
            raise
        self._wait(lambda: td.is_done)
        self._raise_panic()
        if td.td_exc is not None:
            raise td.td_exc
        return td.td_result  # type: ignore[no-any-return]

    def spawn(self, func: Callable[..., object], *args: Any, cpu_id: int = -1, name: str = "thread") -> Thread:
        """Create a thread that runs `func(*args)`; CPU -1 takes them in turn."""
        return self._create(lambda: func(*args), cpu_id, name, None)

    def wait_until_ended(self) -> None:
        """Wait until no thread is left.

        Raises:
            KernelPanic: a thread has died and nobody joins it, or the threads that are left can never end.
        """
        self._wait(self._all_ended)
        self._raise_panic()

    def stop(self) -> None:
        """End the OS threads, then close the threads that have not ended. Once that is done a call does nothing.

        Raises:
            KernelPanic: a CPU does not come back from what it runs; it is left running, to be stopped later.
        """
        if self._stopped:
            return
        self._stopping = True
        self._tick.set()
        for bell in self._bells:
            bell.ring()
        for os_thread in self._os_threads:
            os_thread.join(STOP_SECONDS)
        busy = [gd for gd, os_thread in zip(self.gds, self._os_threads, strict=False) if os_thread.is_alive()]
        if busy:
            raise KernelPanic(f"domain '{self.name}' does not stop: {thread_label(busy[0].gd_curthread)} runs on")
        self._stopped = True
        here = cpu.gd
        super().stop()
        cpu.gd = here
        for bell in self._bells:
            bell.close()
        use_plain_slot()

    def run(self, *_args: Any, **_kwargs: Any) -> bool:
        """Not here: the CPUs run by themselves.

        Raises:
            KernelPanic: always.
        """
        raise KernelPanic(f"run() of domain '{self.name}': each of its CPUs is an OS thread and runs by itself")

    def enter_syscall(self, body: Any, name: str = "syscall") -> Thread:
        """Not here: nobody can be driven inline from outside.

        Raises:
            KernelPanic: always.
        """
        body.close()
        raise KernelPanic(f"system call '{name}' into domain '{self.name}': enter by call() or spawn()")

    def _create(
        self, func: Callable[[], object], cpu_id: int, name: str, on_exit: Callable[[Thread], object] | None
    ) -> Thread:
        made: list[Thread | BaseException] = []

        def create(_arg: object) -> None:
            try:
                td = lwkt_create(func, cpu_id=cpu_id, name=name, flags=TDF_NOSTART)
                td.td_on_exit = on_exit  # before it can run
                lwkt_schedule(td)
                made.append(td)
            except BaseException as exc:  # noqa: BLE001 - it belongs to whoever asked
                made.append(exc)
            self._news.set()

        self.post(create)
        self._wait(lambda: bool(made))
        if isinstance(made[0], BaseException):
            raise made[0]
        return made[0]

    def _joined(self, _td: Thread) -> None:
        self._news.set()

    def _wait(self, until: Callable[[], bool]) -> None:
        """Wait, on an OS thread that is no CPU, until `until()` holds."""
        while True:
            at_rest = self._at_rest()
            done = until()
            if self._error is not None:
                raise KernelPanic(f"domain '{self.name}' has stopped: {self._error}") from self._error
            if done:
                return
            self._raise_panic()
            if self._stopping:
                raise KernelPanic(f"domain '{self.name}' is stopped")
            if at_rest:
                raise KernelPanic(f"deadlock in domain '{self.name}': {self._blocked()}")
            self._news.wait(LOOK_SECONDS)
            self._news.clear()

    def _all_ended(self) -> bool:
        return self._at_rest() and not any(gd.gd_tdallq for gd in self.gds)

    def _at_rest(self) -> bool:
        """Whether every CPU was idle at one moment, with nothing under way that could wake one."""
        entries = [gd.gd_cnt.v_idle for gd in self.gds]
        if not all(self._idle) or self._posted or self._passive:
            return False
        if any(gd.gd_ipimask or gd.gd_reqflags or gd.gd_runmask or _has_timer(gd) for gd in self.gds):
            return False
        return all(self._idle) and entries == [gd.gd_cnt.v_idle for gd in self.gds]

    # ------------------------------------------------------------ the CPUs

    def _run_cpu(self, gd: GlobalData) -> None:
        cpu.gd = gd
        bells = self._to_ring[gd.gd_cpuid]
        try:
            while not self._stopping:
                if self._posted and not gd.gd_cpuid:
                    self._drain()
                if gd.gd_ipimask:
                    process_ipiq()
                if gd.gd_reqflags or gd.gd_callouts:
                    self._take_interrupts(gd)
                if gd.gd_runmask:
                    self._run_best(gd)
                    while bells:
                        bells.pop().ring()
                else:
                    self._halt(gd, bells)
        except BaseException as exc:  # noqa: BLE001 - the whole machine stops, and whoever waits for it hears why
            self._error = exc
            self._news.set()

    def _take_interrupts(self, gd: GlobalData) -> None:
        if gd.gd_callouts and gd.gd_callouts[0][0] <= self.clock():
            gd.gd_reqflags |= RQF_TIMER
        if gd.gd_reqflags:
            splz()

    def _run_best(self, gd: GlobalData) -> None:
        """Run the best thread that can have its tokens, up to its next trap; if there is none, let others run."""
        td = pick(gd)
        if td is None:
            self.spin(gd)
            return
        began = self.clock()
        resume(self, gd, td)
        if self.stats:
            td.td_cputime += self.clock() - began

    def _halt(self, gd: GlobalData, bells: list[Bell]) -> None:
        """Say idle, look again, wait: what came before the word is seen here, what comes after it rings."""
        me = gd.gd_cpuid
        gd.gd_cnt.v_idle += 1
        self._idle[me] = True
        while bells:
            bells.pop().ring()
        if not (look_before_halt(gd) or gd.gd_reqflags or self._stopping or (self._posted and not me)):
            deadline = next_deadline(gd) if gd.gd_callouts else None
            self._bells[me].wait(None if deadline is None else deadline - self.clock())
        self._idle[me] = False

    def _wake(self, gd: GlobalData) -> None:
        """From an OS thread that is no CPU."""
        if self._idle[gd.gd_cpuid]:
            self._idle[gd.gd_cpuid] = False
            self._bells[gd.gd_cpuid].ring()

    def _run_clock(self) -> None:
        while not self._tick.wait(TICK):
            for gd in self.gds:
                if self._passive.pop(gd.gd_cpuid, gd) is None:
                    self._wake(gd)
                if gd.gd_runmask:
                    gd.gd_resched = True

    # ------------------------------------------------------------ called by the services

    def signal(self, target: GlobalData) -> None:
        """Wake `target` if it is idle; if it is not, it will look at its queues before it idles.

        Its bell is rung when the CPU that asks has come to the end of its step: where that idles next, the interpreter
        lock is free at once, and several signals are one ring.
        """
        if self._idle[target.gd_cpuid]:
            self._idle[target.gd_cpuid] = False
            self._to_ring[cpu.gd.gd_cpuid].append(self._bells[target.gd_cpuid])

    def note_passive(self, target: GlobalData) -> None:
        """`target` finds it by itself, at the next tick at the latest."""
        self._passive[target.gd_cpuid] = None

    def wake_host(self) -> None:
        """From any OS thread: CPU 0 takes what was posted."""
        self._wake(self.gds[0])

    def kick(self) -> None:
        """Nothing to do: a CPU looks by itself for what is ready."""

    def spin(self, gd: GlobalData) -> None:
        """Leave the interpreter to the other CPUs for a moment.

        Raises:
            KernelPanic: the machine is being stopped, so that what `gd` waits for may never come.
        """
        if self._stopping or self._error is not None:
            raise KernelPanic(f"domain '{self.name}' stopped while {thread_label(gd.gd_curthread)} was spinning")
        bells = self._to_ring[gd.gd_cpuid]
        while bells:
            bells.pop().ring()
        time.sleep(SPIN_SECONDS)

    def panic_hook(self, td: Thread, exc: BaseException) -> None:
        """Keep it for whoever waits, and wake them."""
        super().panic_hook(td, exc)
        self._news.set()


def _has_timer(gd: GlobalData) -> bool:
    """Whether a callout is armed on `gd`; asked by another OS thread, so it may only look."""
    return any(callout.c_seq == seq for _deadline, seq, callout in list(gd.gd_callouts))
