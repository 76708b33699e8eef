"""IPI queues: run a function on another CPU.

There is one FIFO for each (source, target) pair. The source appends and moves `windex`; the target takes an entry
(moves `rindex`: the slot is free), runs it, and publishes `xindex` (done). `xindex` is published by the outermost frame
of a queue only: a function that sends may itself process, and an entry is not done while a frame below still runs an
earlier one.

Two modes. *Bounded* (simulator, ThreadHost): 32 slots; a sender that finds more than half in use spins, processing its
own queues, until a quarter is left. *Unbounded* (one OS thread carries all CPUs, so a target cannot run while the
source spins): a target at rest takes its interrupt at once, within the send, as its processor would; one that is within
an interrupt itself, or has entries before this one, takes it from its queue; nobody waits in send, and a wait processes
the target's queue.

Functions run in a critical section with the nesting level raised: they may schedule, wake and send, never block.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from kernelcore.globaldata import GlobalData, cpu, mycpu
from kernelcore.panic import KernelPanic, thread_label

log = logging.getLogger("kernelcore")

IpiFunc = Callable[[Any, int], object]

MAXCPUFIFO: Final = 32
FIFO_HIGH: Final = MAXCPUFIFO // 2
FIFO_LOW: Final = MAXCPUFIFO // 4
FIFO_NOWAIT: Final = MAXCPUFIFO * 2 // 3
WAIT_WARN_S: Final = 1.0
WAIT_PANIC_S: Final = 10.0


class Ipiq:
    """The FIFO of one (source, target) pair. Indices only grow.

    Args:
        bounded: the CPUs run side by side: the target halts when it is idle and must be signalled, and a sender that
            is too far ahead waits. Not so where one OS thread carries all CPUs and looks at each in turn.
    """

    __slots__ = ("depth", "fifo", "high", "rindex", "signals", "windex", "xindex")

    def __init__(self, bounded: bool) -> None:
        self.signals = bounded
        self.high = FIFO_HIGH if bounded else sys.maxsize  # more in use than this: the sender waits
        self.fifo: deque[tuple[IpiFunc, Any, int]] = deque()
        self.windex = 0
        self.rindex = 0
        self.xindex = 0
        self.depth = 0  # frames of the target that are running this queue


def send_ipiq(target: GlobalData, fn: IpiFunc, arg1: Any = None, arg2: int = 0) -> int:
    """Run `fn(arg1, arg2)` on `target`; return the sequence number for `wait_ipiq`.

    To oneself the function is called at once, in a critical section, and the result is 0.
    """
    gd = cpu.gd
    if target is gd:
        _call_here(gd, fn, arg1, arg2)
        return 0
    q = gd.gd_ipiq[target.gd_cpuid]
    idle = target.gd_idlethread
    if not q.signals and target.gd_curthread is idle and not target.gd_intr_nesting_level and not target.gd_ipimask:
        # One OS thread, and the target is at rest with nothing before this: it takes its interrupt at once.
        q.windex = q.rindex = seq = q.windex + 1
        cpu.gd = target
        target.gd_intr_nesting_level = idle.td_critcount = 1
        try:
            fn(arg1, arg2)
        finally:
            target.gd_intr_nesting_level = idle.td_critcount = 0
            cpu.gd = gd
            q.xindex = seq
        return seq  # type: ignore[no-any-return]
    if q.windex - q.rindex > q.high:
        td = gd.gd_curthread
        td.td_critcount += 1
        gd.gd_intr_nesting_level += 1
        gd.gd_cnt.ipiq_fifofull += 1
        while q.windex - q.rindex > FIFO_LOW:
            _signal(target)
            process_ipiq()
            gd.gd_domain.spin(gd)
        gd.gd_intr_nesting_level -= 1
        td.td_critcount -= 1
    q.fifo.append((fn, arg1, arg2))
    q.windex += 1
    target.gd_ipimask[gd.gd_cpuid] = None
    if target.gd_npoll:
        gd.gd_cnt.ipiq_avoided += 1
    else:
        target.gd_npoll = True
        if q.signals:
            gd.gd_domain.signal(target)
    return q.windex  # type: ignore[no-any-return]


def send_ipiq_passive(target: GlobalData, fn: IpiFunc, arg1: Any = None, arg2: int = 0) -> int:
    """Like `send_ipiq`, but the target is not signalled: it finds the entry at its next processing point.

    For work that nobody waits for. Never to oneself.

    Raises:
        KernelPanic: the target is the caller.
    """
    gd = cpu.gd
    if target is gd:
        raise KernelPanic(f"passive IPI to oneself on cpu {gd.gd_cpuid} from {thread_label(gd.gd_curthread)}")
    q = gd.gd_ipiq[target.gd_cpuid]
    if q.windex - q.rindex > q.high:
        return send_ipiq(target, fn, arg1, arg2)
    gd.gd_cnt.ipiq_passive += 1
    q.fifo.append((fn, arg1, arg2))
    q.windex += 1
    target.gd_ipimask[gd.gd_cpuid] = None
    gd.gd_domain.note_passive(target)
    return q.windex  # type: ignore[no-any-return]


def send_ipiq_nowait(target: GlobalData, fn: IpiFunc, arg1: Any = None, arg2: int = 0) -> int | None:
    """Like `send_ipiq`, but give up (None, the kernel's ENOENT) where the FIFO is two thirds full.

    Raises:
        KernelPanic: the caller is not in a critical section.
    """
    gd = cpu.gd
    if not gd.gd_curthread.td_critcount:
        raise KernelPanic(f"send_ipiq_nowait outside a critical section in {thread_label(gd.gd_curthread)}")
    if target is gd:
        _call_here(gd, fn, arg1, arg2)
        return 0
    q = gd.gd_ipiq[target.gd_cpuid]
    if gd.gd_domain.ipiq_bounded and q.windex - q.rindex >= FIFO_NOWAIT:
        return None
    q.fifo.append((fn, arg1, arg2))
    q.windex += 1
    target.gd_ipimask[gd.gd_cpuid] = None
    _signal(target)
    return q.windex  # type: ignore[no-any-return]


def send_ipiq_mask(mask: int, fn: IpiFunc, arg1: Any = None, arg2: int = 0) -> int:
    """Send to every CPU in the bit mask `mask` (oneself included, where named); return how many."""
    gd = mycpu()
    n = 0
    for target in gd.gd_domain.gds:
        if mask & target.gd_cpumask:
            send_ipiq(target, fn, arg1, arg2)
            n += 1
    return n


def seq_ipiq(target: GlobalData) -> int:
    """Return the sequence number of the last entry this CPU sent to `target`."""
    return mycpu().gd_ipiq[target.gd_cpuid].windex


def wait_ipiq(target: GlobalData, seq: int) -> None:
    """Spin until the function with sequence number `seq` has finished on `target`.

    Processes the caller's own queues meanwhile, so that two CPUs may wait for each other. Warns after one second.

    Raises:
        KernelPanic: it has not finished after ten seconds.
    """
    gd = mycpu()
    if target is gd:
        return
    q = gd.gd_ipiq[target.gd_cpuid]
    if q.xindex >= seq:
        return
    domain = gd.gd_domain
    td = gd.gd_curthread
    td.td_critcount += 1
    start = domain.clock()
    warned = False
    _signal(target)
    try:
        while q.xindex < seq:
            process_ipiq()
            domain.spin(gd)
            waited = domain.clock() - start
            if waited > WAIT_PANIC_S:
                raise KernelPanic(f"wait_ipiq: cpu {target.gd_cpuid} does not answer {thread_label(td)}")
            if waited > WAIT_WARN_S and not warned:
                warned = True
                log.warning("wait_ipiq: %s waits for cpu %d", thread_label(td), target.gd_cpuid)
    finally:
        td.td_critcount -= 1


def process_ipiq() -> None:
    """Run what other CPUs have sent to this one, each queue up to the `windex` seen, until nothing is left."""
    gd = cpu.gd
    td = gd.gd_curthread
    mask = gd.gd_ipimask
    gds = gd.gd_domain.gds
    td.td_critcount += 1
    gd.gd_intr_nesting_level += 1
    try:
        while True:
            while mask:
                src = mask.popitem()[0]
                q = gds[src].gd_ipiq[gd.gd_cpuid]
                fifo = q.fifo
                q.depth += 1
                try:
                    seen = q.windex
                    while q.rindex < seen:  # a nested frame may take the rest
                        fn, arg1, arg2 = fifo.popleft()
                        q.rindex += 1
                        fn(arg1, arg2)
                        if q.depth == 1:
                            q.xindex = q.rindex
                finally:
                    q.depth -= 1
                    if fifo:
                        mask[src] = None
            if gd.gd_cpusyncq and _must_rest(gd):
                gd.gd_domain.spin(gd)  # other IPIs keep flowing
                continue
            # Release the latch, then look again: a sender that saw it taken did not signal.
            gd.gd_npoll = False
            if not mask:
                break
    finally:
        gd.gd_intr_nesting_level -= 1
        td.td_critcount -= 1


def look_before_halt(gd: GlobalData) -> bool:
    """Tell whether IPIs wait for `gd`, the calling CPU, which halts if not; every host's idle protocol ends with this.

    It releases the latch first: a sender may have taken it just after all had been processed, for an entry that was
    run already. It would then stay taken, and no later sender would signal.
    """
    gd.gd_npoll = False
    return bool(gd.gd_ipimask)


def _must_rest(gd: GlobalData) -> bool:
    """Take part in the cpusyncs that have arrived; tell whether this CPU must stay at rest for one.

    A CPU that masters one of its own polls once and goes on.
    """
    for cs in list(gd.gd_cpusyncq):
        cs.poll(gd)
    return bool(gd.gd_cpusyncq) and not gd.gd_csphase


def _call_here(gd: GlobalData, fn: IpiFunc, arg1: Any, arg2: int) -> None:
    td = gd.gd_curthread
    td.td_critcount += 1
    gd.gd_intr_nesting_level += 1
    try:
        fn(arg1, arg2)
    finally:
        gd.gd_intr_nesting_level -= 1
        td.td_critcount -= 1


def _signal(target: GlobalData) -> None:
    if not target.gd_npoll:
        target.gd_npoll = True
        target.gd_domain.signal(target)


def pending(gd: GlobalData) -> Iterator[tuple[int, int]]:
    """Yield (source CPU, entries) for each queue to `gd` that is not empty."""
    for source in gd.gd_domain.gds:
        if source is not gd and (n := len(source.gd_ipiq[gd.gd_cpuid].fifo)):
            yield source.gd_cpuid, n
