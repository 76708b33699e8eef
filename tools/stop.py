"""Ends long work in good order: signals and a time limit are noted, and told where the work can stop."""

from __future__ import annotations

import select
import signal
import socket
import time
from types import FrameType
from typing import Any

from hammerfs.errors import HammerError

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
INTERRUPTED = 130
"""Exit code of a command that a signal has ended."""


class Stopped(HammerError):
    """The user, or the time limit, has ended the work.

    Args:
        what: What did.
        exit_code: What the command makes of it.
    """

    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(what)
        self.exit_code = exit_code


class Stop:
    """Notes signals and the end of the time that was given.

    While it is entered, signals do not break into what is under way; `check` and every wait tell of them.

    Args:
        seconds: How much time there is.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._seen: list[int] = []
        self._before: dict[int, Any] = {}
        self._bell, self._rung = socket.socketpair()
        self._wakeup = -1

    def __enter__(self) -> Stop:
        for end in (self._bell, self._rung):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        for name in _SIGNALS:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or in the background of a shell
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._bell.close()
        self._rung.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._seen.append(number)

    def reason(self) -> Stopped | None:
        """Why the work is to end, if it is."""
        if self._seen:
            return Stopped(f"interrupted by {signal.Signals(self._seen[0]).name}", INTERRUPTED)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return Stopped("interrupted by timer", 0)
        return None

    def check(self) -> None:
        """Go on only if nothing has happened.

        Raises:
            Stopped: Something has.
        """
        stopped = self.reason()
        if stopped is not None:
            raise stopped

    def wait(self, wanted: dict[int, int], seconds: float | None = None) -> dict[int, int]:
        """Wait for descriptors.

        Args:
            wanted: The events wanted of each, as for poll(2).
            seconds: How long; None: until one is ready.

        Returns:
            The events there are; empty when the time is over.

        Raises:
            Stopped: A signal has come, or the time that was given is over.
        """
        poll = select.poll()
        poll.register(self._rung, select.POLLIN)
        for fd, events in wanted.items():
            poll.register(fd, events)
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            self.check()
            ends = [moment for moment in (end, self._deadline) if moment is not None]
            left = max(min(ends) - time.monotonic(), 0) * 1000 if ends else None
            ready = dict(poll.poll(None if left is None else int(left) + 1))
            ready.pop(self._rung.fileno(), None)
            self.check()
            if ready or (end is not None and time.monotonic() >= end):
                return ready

    def pause(self, seconds: float) -> None:
        """Wait for a while.

        Raises:
            Stopped: As for `wait`.
        """
        self.wait({}, seconds)
