"""tsleep and wakeup: wait on any object.

A sleeper marks the ident in the domain's map (`slpque`) and hooks itself on its CPU's bucket: mark first, so that no
other CPU's wakeup can miss it. A wakeup takes the local bucket and sends one IPI, carrying the ident, to each other CPU
whose mark is set. A wakeup without a sleeper is lost; spurious returns are legal; so callers loop on a condition.

An ident is any hashable object, compared as a dict does: objects with the default hash by identity. Where C code takes
the address of a field, use `(obj, "field")`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, TypeVar

from kernelcore.callout import Callout
from kernelcore.defs import (
    PCATCH,
    PINTERLOCKED,
    TDF_BLOCKED,
    TDF_IDLE,
    TDF_MIGRATING,
    TDF_SINTR,
    TDF_TSLEEP_DESCHEDULED,
    TDF_TSLEEPQ,
)
from kernelcore.globaldata import GlobalData, cpu, mycpu
from kernelcore.ipiq import send_ipiq
from kernelcore.panic import WrongContext
from kernelcore.sched import ASLEEP, BLOCK, assert_can_block, enqueue, tsleep_remove

if TYPE_CHECKING:
    from kernelcore.serialize import Serializer, Spinlock
    from kernelcore.thread import Thread

T = TypeVar("T")

EWOULDBLOCK: Final = errno.EWOULDBLOCK
EINTR: Final = errno.EINTR
ERESTART: Final = -1  # as in the kernel: restart the system call after the signal


def tsleep_interlock(ident: Hashable, flags: int = 0) -> None:
    """Hook the running thread on `ident` without sleeping yet; a wakeup from now on is not lost.

    Pattern: interlock, test the condition or drop the lock, `await tsleep(ident, PINTERLOCKED)`. A second call moves
    the hook.
    """
    del flags
    gd = cpu.gd
    td = gd.gd_curthread
    if td.td_flags & TDF_TSLEEPQ:
        tsleep_remove(gd, td)
    elif td.td_flags & TDF_IDLE:
        raise WrongContext("tsleep_interlock outside a kernel thread: enter through the host's syscall")
    if gd.gd_other_cpus:
        gd.gd_domain.slpque[ident, gd.gd_cpuid] = None
    bucket = gd.gd_tsleep_hash.get(ident)
    if bucket is None:
        gd.gd_tsleep_hash[ident] = {td: None}
    else:
        bucket[td] = None
    td.td_wchan = ident
    td.td_flags |= TDF_TSLEEPQ


async def tsleep(ident: Hashable, flags: int = 0, wmesg: str = "", timo: float = 0.0) -> int:
    """Sleep until `wakeup(ident)`.

    Args:
        ident: what to wait for.
        flags: PCATCH, a signal ends the sleep; PINTERLOCKED, `tsleep_interlock` has been done.
        wmesg: shown by `ps` meanwhile.
        timo: at most this many seconds; 0 for no limit.

    Returns:
        0, EWOULDBLOCK at the time limit, or with PCATCH the signal's EINTR or ERESTART.
    """
    gd = cpu.gd
    td: Thread = gd.gd_curthread
    if gd.gd_intr_nesting_level or td.td_flags & TDF_IDLE:
        assert_can_block(gd, f"tsleep({wmesg or ident!r})")
    if not flags & PINTERLOCKED:
        tsleep_interlock(ident)
    elif not td.td_flags & TDF_TSLEEPQ:
        return 0  # the wakeup came in between
    if flags & PCATCH:
        if td.td_sig:
            tsleep_remove(gd, td)
            return _take_signal(td)
        td.td_flags |= TDF_SINTR
    td.td_wmesg = wmesg
    td.td_sleep_result = 0
    timer = None
    if timo:
        timer = td.td_callout
        if timer is None:
            timer = td.td_callout = Callout(_timeout, td)
        timer.reset(timo)
    td.td_flags |= TDF_TSLEEP_DESCHEDULED
    await BLOCK
    if timer is not None:
        timer.stop()
    if td.td_flags & TDF_TSLEEPQ:  # a stray schedule, not a wakeup
        tsleep_remove(cpu.gd, td)
    td.td_flags &= ~TDF_SINTR
    result = td.td_sleep_result
    if result and result != EWOULDBLOCK:
        return _take_signal(td)
    return result


def wakeup(ident: Hashable) -> None:
    """Wake every thread that sleeps on `ident`, on all CPUs; the remote part takes effect later."""
    gd = cpu.gd
    if ident in gd.gd_tsleep_hash:
        wakeup_mycpu(ident)
    if gd.gd_other_cpus:
        _wakeup_others(gd, ident, 0)


def wakeup_one(ident: Hashable) -> None:
    """Wake one thread: a local one if there is any, else ask the other CPUs, each of which may wake one."""
    gd = cpu.gd
    if ident in gd.gd_tsleep_hash and _wake_first(gd, ident):
        return
    if gd.gd_other_cpus:
        _wakeup_others(gd, ident, 1)


def wakeup_mycpu(ident: Hashable) -> None:
    """Wake the sleepers of this CPU only."""
    gd = cpu.gd
    bucket = gd.gd_tsleep_hash.pop(ident, None)
    if bucket is None:
        return
    if gd.gd_other_cpus:
        gd.gd_domain.slpque.pop((ident, gd.gd_cpuid), None)
    for td in bucket:
        flags = td.td_flags
        td.td_flags = flags & ~ASLEEP
        td.td_wchan = None
        if flags & TDF_TSLEEP_DESCHEDULED:
            enqueue(gd, td)


def wakeup_mycpu_one(ident: Hashable) -> None:
    """Wake one sleeper of this CPU."""
    _wake_first(mycpu(), ident)


async def sleep_until(ident: Hashable, attempt: Callable[[], T | None], wmesg: str) -> T:
    """Sleep on `ident` until `attempt()` gives something other than None; a wakeup in between is not lost.

    Args:
        ident: What is woken whenever an attempt may succeed.
        attempt: Tried after the hook is set, and again after each wakeup. May not sleep.
        wmesg: Shown by `ps` meanwhile.
    """
    while True:
        tsleep_interlock(ident)
        try:
            got = attempt()
        except BaseException:
            tsleep_remove(cpu.gd, cpu.gd.gd_curthread)
            raise
        if got is not None:
            tsleep_remove(cpu.gd, cpu.gd.gd_curthread)
            return got
        await tsleep(ident, PINTERLOCKED, wmesg)


async def lwkt_sleep(wmesg: str, flags: int = 0) -> int:
    """Sleep with no ident until `lwkt_schedule` of this thread; the cheapest form. Loop on a condition.

    Returns:
        0, or with PCATCH the signal that ended it.
    """
    gd = cpu.gd
    td = gd.gd_curthread
    if gd.gd_intr_nesting_level or td.td_flags & TDF_IDLE:
        assert_can_block(gd, f"lwkt_sleep({wmesg})")
    td.td_wmesg = wmesg
    if not flags & PCATCH:
        td.td_flags |= TDF_BLOCKED
        await BLOCK
        return 0
    if td.td_sig:
        return _take_signal(td)
    td.td_sleep_result = 0
    td.td_flags |= TDF_SINTR | TDF_BLOCKED
    await BLOCK
    td.td_flags &= ~TDF_SINTR
    return _take_signal(td) if td.td_sleep_result else 0


def lwkt_signal(td: Thread, error: int = EINTR) -> None:
    """Send `td` a signal: an interruptible sleep (PCATCH), present or next, returns `error`. Remote: by IPI."""
    gd = mycpu()
    if td.td_gd is not gd:
        send_ipiq(td.td_gd, lwkt_signal, td, error)
        return
    td.td_sig = error
    flags = td.td_flags
    if not flags & TDF_SINTR or not flags & (TDF_TSLEEP_DESCHEDULED | TDF_BLOCKED):
        return
    td.td_sleep_result = error
    if flags & TDF_TSLEEPQ:
        tsleep_remove(gd, td)
    enqueue(gd, td)


async def ssleep(ident: Hashable, spin: Spinlock, flags: int = 0, wmesg: str = "", timo: float = 0.0) -> int:
    """`tsleep` that releases the spinlock after the hook is set and takes it again before it returns."""
    tsleep_interlock(ident)
    spin.unlock()
    result = await tsleep(ident, flags | PINTERLOCKED, wmesg, timo)
    spin.lock()
    return result


async def zsleep(ident: Hashable, slz: Serializer, flags: int = 0, wmesg: str = "", timo: float = 0.0) -> int:
    """`tsleep` that releases the serializer after the hook is set and enters it again before it returns."""
    tsleep_interlock(ident)
    slz.exit()
    result = await tsleep(ident, flags | PINTERLOCKED, wmesg, timo)
    await slz.enter()
    return result


def _take_signal(td: Thread) -> int:
    error = td.td_sig
    td.td_sig = 0
    return error


def _timeout(td: Thread) -> None:
    # Runs on the sleeper's own CPU; a wakeup that came first has taken the hook off.
    if td.td_flags & ASLEEP == ASLEEP and not td.td_flags & TDF_MIGRATING:
        td.td_sleep_result = EWOULDBLOCK
        gd = cpu.gd
        tsleep_remove(gd, td)
        enqueue(gd, td)


def _wake_first(gd: GlobalData, ident: Hashable) -> bool:
    # Unhook up to the first thread that is truly asleep: the ones before it have not switched yet.
    while (bucket := gd.gd_tsleep_hash.get(ident)) is not None:
        td = next(iter(bucket))
        asleep = td.td_flags & TDF_TSLEEP_DESCHEDULED
        tsleep_remove(gd, td)
        if asleep:
            enqueue(gd, td)
            return True
    return False


def _wakeup_others(gd: GlobalData, ident: Hashable, one: int) -> None:
    slpque = gd.gd_domain.slpque
    for other in gd.gd_domain.gds:
        if other is not gd and (ident, other.gd_cpuid) in slpque:
            send_ipiq(other, _wakeup_remote, ident, one)


def _wakeup_remote(ident: Hashable, one: int) -> None:
    if one:
        _wake_first(cpu.gd, ident)
    else:
        wakeup_mycpu(ident)
