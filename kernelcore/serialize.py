"""Serializer and spinlock, the two locks that are not tokens.

A serializer is exclusive, not recursive, and *kept across a block*: it can deadlock, a token cannot. A spinlock is for
a few instructions: who holds one is in a critical section and may not switch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kernelcore.crit import crit_exit
from kernelcore.defs import PINTERLOCKED
from kernelcore.globaldata import cpu, mycpu
from kernelcore.panic import KernelPanic, thread_label
from kernelcore.sched import preempt_point, tsleep_remove
from kernelcore.sleep import tsleep, tsleep_interlock, wakeup_one

if TYPE_CHECKING:
    from kernelcore.thread import Thread

ADAPTIVE_TRIES: Final = 4096


class Serializer:
    """A sleeping lock with an extra bit that disables the handler it protects."""

    __slots__ = ("handler_disabled", "s_lock", "s_name", "s_owner", "s_waiters", "stat_enter", "stat_sleep")

    def __init__(self, name: str = "slize") -> None:
        self.s_name = name
        self.s_owner: Thread | None = None
        self.s_waiters = 0
        # Where CPUs are OS threads the test and set of the owner needs an atomic base; a bare
        # Lock that is only tried serves every host alike.
        self.s_lock = threading.Lock()
        self.handler_disabled = False
        self.stat_enter = 0
        self.stat_sleep = 0

    def try_enter(self) -> bool:
        """Take it if nobody has it; never sleeps."""
        if not self.s_lock.acquire(blocking=False):
            return False
        self.s_owner = cpu.gd.gd_curthread
        self.stat_enter += 1
        return True

    async def enter(self) -> None:
        """Take it, sleeping while somebody else has it.

        Raises:
            KernelPanic: the running thread has it already.
        """
        while not self.try_enter():
            gd = mycpu()
            td = gd.gd_curthread
            if self.s_owner is td:
                raise KernelPanic(f"serializer '{self.s_name}' entered twice by {thread_label(td)}")
            tsleep_interlock(self)
            if self.try_enter():  # the holder on another CPU let go before the hook was set
                tsleep_remove(gd, td)
                return
            self.stat_sleep += 1
            await tsleep(self, PINTERLOCKED, self.s_name)

    async def adaptive_enter(self) -> None:
        """Take it, trying for a while before sleeping: for holders on other CPUs that are soon done."""
        for _ in range(ADAPTIVE_TRIES if mycpu().gd_other_cpus else 1):
            if self.try_enter():
                return
            await preempt_point()
        await self.enter()

    def exit(self) -> None:
        """Let go and wake one waiter.

        Raises:
            KernelPanic: the running thread does not have it.
        """
        self.assert_held()
        self.s_owner = None
        self.s_lock.release()
        wakeup_one(self)

    def assert_held(self) -> None:
        """Raise KernelPanic unless the running thread has it."""
        td = mycpu().gd_curthread
        if self.s_owner is not td:
            raise KernelPanic(f"serializer '{self.s_name}' is not held by {thread_label(td)}")

    def handler_disable(self) -> None:
        """From now on `handler_call` does nothing."""
        self.handler_disabled = True

    def handler_enable(self) -> None:
        """Undo `handler_disable`."""
        self.handler_disabled = False

    async def handler_call(self, fn: Callable[[Any], object], arg: Any) -> bool:
        """Run `fn(arg)` under the serializer unless the handler is disabled; tell whether it ran."""
        await self.enter()
        try:
            if self.handler_disabled:
                return False
            fn(arg)
            return True
        finally:
            self.exit()


class Spinlock:
    """A spinlock. Where one OS thread carries all CPUs it can only be free or misused: asserted, not waited for."""

    __slots__ = ("l_desc", "l_lock", "l_owner")

    def __init__(self, desc: str = "spin") -> None:
        self.l_desc = desc
        self.l_lock = threading.Lock()
        self.l_owner: Thread | None = None

    def lock(self) -> None:
        """Take it and enter a critical section.

        Raises:
            KernelPanic: the running thread has it already.
        """
        gd = cpu.gd
        td: Thread = gd.gd_curthread
        td.td_critcount += 1
        gd.gd_spinlocks += 1
        gd.gd_intr_nesting_level += 1
        if not self.l_lock.acquire(blocking=False):
            if self.l_owner is td:
                gd.gd_spinlocks -= 1
                gd.gd_intr_nesting_level -= 1
                td.td_critcount -= 1
                raise KernelPanic(f"spinlock '{self.l_desc}' taken twice by {thread_label(td)}")
            while not self.l_lock.acquire(blocking=False):
                gd.gd_domain.spin(gd)
        self.l_owner = td

    def unlock(self) -> None:
        """Release it and leave the critical section.

        Raises:
            KernelPanic: the running thread does not have it.
        """
        gd = cpu.gd
        if self.l_owner is not gd.gd_curthread:
            raise KernelPanic(f"spinlock '{self.l_desc}' is not held by {thread_label(gd.gd_curthread)}")
        self.l_owner = None
        self.l_lock.release()
        gd.gd_spinlocks -= 1
        gd.gd_intr_nesting_level -= 1
        crit_exit()

    def __enter__(self) -> Spinlock:
        self.lock()
        return self

    def __exit__(self, *exc: object) -> None:
        self.unlock()
