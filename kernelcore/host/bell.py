"""A bell that wakes one OS thread: what an inter-processor interrupt is to a halted CPU.

An eventfd, or a pipe where there is none. It adds up, so two ringers do no harm, where a bare lock would be released
twice. Who waits says first that it is idle and then looks at its queue again; who rings has filled the queue first and
looks then whether the other is idle: so no ring is missed and few are needed.
"""

from __future__ import annotations

import os
import select
from typing import Final

_ONE: Final = (1).to_bytes(8, "little")


class Bell:
    """Rung by any OS thread, waited for by one."""

    __slots__ = ("_poll", "_read", "_size", "_write")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC)
            self._size = len(_ONE)
        else:
            self._read, self._write = os.pipe()
            self._size = 512 * len(_ONE)  # all rings at once, as an eventfd gives them back
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)

    def ring(self) -> None:
        """Wake the waiter, or let its next wait return at once."""
        os.write(self._write, _ONE)

    def wait(self, seconds: float | None = None) -> None:
        """Return when it has been rung since the last wait, or after `seconds`; may return early."""
        if seconds is None or self._poll.poll(max(0.0, seconds) * 1000):
            os.read(self._read, self._size)

    def close(self) -> None:
        """Nobody rings or waits any more."""
        for fd in {self._read, self._write}:
            os.close(fd)
