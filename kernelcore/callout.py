"""Callouts: call a function on this CPU after a time.

One heap for each CPU, run by its host's clock (virtual in the simulator). Stopping or resetting leaves the old heap
entry behind; it is recognised as stale by its sequence number when it comes up, so both are O(1) and need no search.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from kernelcore.globaldata import GlobalData, cpu


class Callout:
    """A timer that calls `fn(arg)` as an interrupt would: in a critical section, nothing may block."""

    __slots__ = ("c_arg", "c_fn", "c_gd", "c_running", "c_seq")

    def __init__(self, fn: Callable[[Any], object], arg: Any = None) -> None:
        self.c_fn = fn
        self.c_arg = arg
        self.c_gd: GlobalData | None = None
        self.c_seq = 0  # of the live heap entry; 0: not armed
        self.c_running = False

    def reset(self, seconds: float) -> None:
        """Arm it to fire on the calling CPU in `seconds` (>= 0); a time set before is forgotten."""
        gd = cpu.gd
        gd.gd_callout_seq += 1
        self.c_gd = gd
        self.c_seq = seq = gd.gd_callout_seq
        deadline = gd.gd_domain.clock() + seconds
        first = not gd.gd_callouts or deadline < gd.gd_callouts[0][0]
        heappush(gd.gd_callouts, (deadline, seq, self))
        if first:
            gd.gd_domain.timer_changed(deadline)

    def stop(self) -> bool:
        """Disarm it; tell whether it had been armed."""
        armed = self.c_seq != 0
        self.c_seq = 0
        return armed

    async def drain(self) -> None:
        """Disarm it, and wait until a call that is under way on another CPU has returned."""
        from kernelcore.sched import lwkt_switch

        self.stop()
        while self.c_running:
            await lwkt_switch()

    @property
    def armed(self) -> bool:
        """Whether it will fire."""
        return self.c_seq != 0


def next_deadline(gd: GlobalData) -> float | None:
    """Return the clock value at which the earliest live callout of `gd` is due, None where there is none."""
    heap = gd.gd_callouts
    while heap:
        deadline, seq, callout = heap[0]
        if callout.c_seq == seq and callout.c_gd is gd:
            return deadline
        heappop(heap)
    return None


def run_callouts(gd: GlobalData, now: float) -> int:
    """Call, on the current CPU `gd`, whatever is due at `now`; return how many were called."""
    heap = gd.gd_callouts
    called = 0
    td = gd.gd_curthread
    td.td_critcount += 1
    gd.gd_intr_nesting_level += 1
    try:
        while heap and heap[0][0] <= now:
            _deadline, seq, callout = heappop(heap)
            if callout.c_seq != seq or callout.c_gd is not gd:
                continue
            callout.c_seq = 0
            callout.c_running = True
            try:
                callout.c_fn(callout.c_arg)
            finally:
                callout.c_running = False
            called += 1
    finally:
        gd.gd_intr_nesting_level -= 1
        td.td_critcount -= 1
    return called
