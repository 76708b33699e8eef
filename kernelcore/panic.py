"""The errors of the kernel core.

A `KernelPanic` is a programming error: an invariant of the kernel services was broken by their user. It names the
thread and the object, and is never a result that a caller is expected to handle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelcore.thread import Thread


class KernelPanic(Exception):
    """An invariant of the kernel core was violated."""


class WrongContext(KernelPanic):
    """A service was called where it may not be: outside a kernel thread, in an IPI function, on another OS thread."""


class LimitExceeded(KernelPanic):
    """A malloc type, object cache or token stack ran over its limit."""


class ThreadExit(BaseException):
    """Raised by `lwkt_exit` to unwind the running thread; never seen outside the kernel core."""

    def __init__(self, value: object = None) -> None:
        super().__init__(value)
        self.value = value


def thread_label(td: Thread | None) -> str:
    """Name a thread for an error message: its name, number and CPU."""
    if td is None:
        return "no thread"
    return f"thread '{td.td_comm}' (tid {td.td_tid}, cpu {td.td_gd.gd_cpuid})"
