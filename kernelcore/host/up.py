"""UpHost: the plain host. The caller's OS thread runs the domain; for tools and unit tests, without trio."""

from __future__ import annotations

import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from kernelcore.host.domain import Domain
from kernelcore.panic import KernelPanic
from kernelcore.thread import Thread

T = TypeVar("T")


class UpHost(Domain):
    """Runs until idle in the caller. While a thread waits for an I/O CPU or a timer, the caller sleeps."""

    def __init__(self, ncpus: int = 1, **kwargs: Any) -> None:
        super().__init__(ncpus, **kwargs)
        self._event = threading.Event()

    def wake_host(self) -> None:
        """From any OS thread: end the idle sleep."""
        self._event.set()

    def call(self, body: Coroutine[Any, Any, T], name: str = "syscall") -> T:
        """Run a coroutine as a system call to its end; return its result or raise its exception.

        Raises:
            KernelPanic: it waits for something that nothing in the domain can bring about.
        """
        td = self.enter_syscall(body, name)
        while not td.is_done:
            self.run_until_idle(td)
        result, exc = td.td_result, td.td_exc
        self.give_back(td)
        if self.has_work():
            self.run()
        if exc is not None:
            raise exc
        self._raise_panic()
        return result  # type: ignore[no-any-return]

    def run_until_idle(self, until: Thread | None = None) -> None:
        """Run, sleeping over timers and I/O, until nothing is left to do (or the thread `until` has ended).

        Raises:
            KernelPanic: `until` can never end, since nothing is ready, timed or under way.
        """
        while until is None or not until.is_done:
            self._event.clear()
            idle = self.run()
            self._raise_panic()
            if not idle or self._posted:
                continue
            if until is not None and until.is_done:
                return
            deadline = self.next_deadline()
            if deadline is None and not self.outstanding:
                if until is None:
                    return
                raise KernelPanic(f"deadlock: {self._blocked()}")
            self._idle(None if deadline is None else deadline - self.clock())

    def _idle(self, seconds: float | None) -> None:
        if self.outstanding:
            self._event.wait(seconds)
        elif seconds is not None and seconds > 0:
            time.sleep(seconds)
