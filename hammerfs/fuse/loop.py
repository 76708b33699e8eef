"""What pyfuse3 sees in place of the trio module: waiting for requests without paying the event loop for each.

Stock pyfuse3 takes a trio.Lock and `trio.lowlevel.wait_readable` for every request: two scheduler rounds and three
system calls, more than the request itself. Here the reader stays in poll(2) for a moment after a request while nothing
else goes on in the daemon, and comes back to trio when something does, when nothing came, and every so many requests.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Awaitable, Callable
from types import SimpleNamespace, TracebackType
from typing import Any

import trio

from hammerfs.fuse.handshake import Detour

BURST_MS = 2
"""How long the reader waits for another request in poll(2)."""
FAIR = 64
"""Requests after which everybody else in the event loop gets a turn."""


class QuickLock:
    """A lock that costs no trip through the scheduler while its user goes on without waiting.

    Not fair on purpose: whoever releases it may take it again at once. A waiting task is woken by the release all the
    same, and gets it when the releasing one comes to wait for something else: a handler that waits for the disk.
    """

    def __init__(self) -> None:
        self._held = False
        self._woken = False
        """A waiting task is on its way to look."""
        self._waiting: deque[trio.lowlevel.Task] = deque()

    async def __aenter__(self) -> None:
        while self._held:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)
            await trio.lowlevel.wait_task_rescheduled(self._abort(task))
            self._woken = False
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False
        if self._waiting and not self._woken:
            self._woken = True
            trio.lowlevel.reschedule(self._waiting.popleft())

    def _abort(self, task: trio.lowlevel.Task) -> Callable[[object], trio.lowlevel.Abort]:
        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        return abort


def burst_reader(alone: Callable[[], bool]) -> Callable[[int], Awaitable[None]]:
    """A `wait_readable` that polls.

    Args:
        alone: Whether nothing but the next request is waited for in this process.
    """
    poller: select.poll | None = None
    detour: Detour | None = None
    left = FAIR

    async def wait_readable(fd: int) -> None:
        nonlocal detour, poller, left
        if detour is None:  # the first request is INIT
            await trio.lowlevel.wait_readable(fd)
            detour = Detour(fd)
            detour.begin()
            return
        if poller is None:
            detour.end()
            poller = select.poll()
            poller.register(fd, select.POLLIN | select.POLLERR | select.POLLHUP)
        left -= 1
        if left > 0 and alone() and poller.poll(BURST_MS):
            return
        left = FAIR
        await trio.lowlevel.wait_readable(fd)

    return wait_readable


def install(pyfuse3: Any, alone: Callable[[], bool]) -> None:
    """Give pyfuse3 the polling reader and the quick lock.

    Args:
        pyfuse3: The module.
        alone: As for `burst_reader`.
    """
    lowlevel = SimpleNamespace(
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
        wait_readable=burst_reader(alone),
    )
    pyfuse3.trio = SimpleNamespace(
        ClosedResourceError=trio.ClosedResourceError,
        Lock=QuickLock,
        from_thread=trio.from_thread,
        lowlevel=lowlevel,
        open_nursery=trio.open_nursery,
    )
