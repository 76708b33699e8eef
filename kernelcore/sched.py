"""The LWKT scheduler of one CPU: run queues, schedule and deschedule, yields, migration.

Each CPU has 32 queues, one for each fixed priority, and a bit mask of those in use; the highest runs first, equals in
turn. A running thread stays on its queue. Threads never preempt each other: a switch happens where a thread awaits.

A thread belongs to the CPU in `td_gd`. Only code on that CPU changes its queue, flags and priority; everybody else
sends that CPU an IPI, which is what these functions do when the thread is elsewhere. Nothing but migration, by the
protocol at the end of this file, changes `td_gd`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kernelcore.crit import crit_enter, crit_exit, splz
from kernelcore.defs import (
    NPRI,
    TDF_BLOCKED,
    TDF_DEAD,
    TDF_EXITING,
    TDF_FIXEDCPU,
    TDF_IDLE,
    TDF_MIGRATING,
    TDF_NOSTART,
    TDF_RUNQ,
    TDF_TSLEEP_DESCHEDULED,
    TDF_TSLEEPQ,
    TRAP_BLOCK,
    TRAP_MIGRATE,
    TRAP_PREEMPT,
    TRAP_SWITCH,
    TRAP_YIELD,
)
from kernelcore.globaldata import GlobalData, cpu, mycpu
from kernelcore.ipiq import process_ipiq, send_ipiq
from kernelcore.panic import KernelPanic, WrongContext, thread_label

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernelcore.thread import Thread


class Trap(tuple[int]):
    """What a thread awaits to reach the run loop.

    `__await__` is the tuple's own iterator, so that `await SWITCH` runs no Python code and builds no generator.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __await__(self) -> Generator[int, None, None]: ...

    else:
        __await__ = tuple.__iter__


BLOCK: Final = Trap((TRAP_BLOCK,))
SWITCH: Final = Trap((TRAP_SWITCH,))
YIELD: Final = Trap((TRAP_YIELD,))
MIGRATE: Final = Trap((TRAP_MIGRATE,))
PREEMPT: Final = Trap((TRAP_PREEMPT,))

ASLEEP: Final = TDF_TSLEEPQ | TDF_TSLEEP_DESCHEDULED
_READY: Final = ~(TDF_BLOCKED | TDF_NOSTART)
OFF_RUNQ: Final = ~TDF_RUNQ
_OFF_LIMITS: Final = TDF_RUNQ | TDF_MIGRATING | TDF_EXITING | TDF_DEAD


def assert_can_block(gd: GlobalData, what: str) -> None:
    """Check that the running context is a kernel thread that may switch.

    Raises:
        WrongContext: outside a kernel thread, in an IPI function, interrupt or hard section, with a spinlock held, or
            while mastering a cpusync.
    """
    td = gd.gd_curthread
    if gd.gd_spinlocks:
        raise WrongContext(f"{what} with a spinlock held in {thread_label(td)}")
    if td.td_cscount:
        raise WrongContext(f"{what} while mastering a cpusync in {thread_label(td)}")
    if gd.gd_intr_nesting_level:
        raise WrongContext(f"{what} in an IPI function or hard section under {thread_label(td)}: may not block")
    if td.td_flags & TDF_IDLE:
        raise WrongContext(f"{what} awaited outside a kernel thread: enter through the host's syscall")


# ------------------------------------------------------------------ run queue


def set_home(td: Thread, gd: GlobalData, pri: int) -> None:
    """Give `td`, which is on no queue, its CPU and priority, and with them its run queue."""
    td.td_pri = pri
    td.td_pribit = 1 << pri
    td.td_runq = gd.gd_runqs[pri]
    td.td_gd = gd  # last: from now on the thread is that CPU's, which may be an OS thread of its own


def enqueue(gd: GlobalData, td: Thread) -> None:
    """Put `td` behind its equals on the run queue of its own CPU `gd`; no-op where it may not be queued."""
    flags = td.td_flags
    if flags & _OFF_LIMITS:
        return
    td.td_flags = flags & _READY | TDF_RUNQ
    td.td_runq.append(td)
    bit = td.td_pribit
    mask = gd.gd_runmask
    if mask < bit:
        gd.gd_resched = True
    gd.gd_runmask = mask | bit


def enqueue_first(gd: GlobalData, td: Thread) -> None:
    """Put `td`, which is on no queue, before its equals: for a thread that is driven at once."""
    td.td_flags |= TDF_RUNQ
    td.td_runq.appendleft(td)
    gd.gd_runmask |= td.td_pribit


def dequeue(gd: GlobalData, td: Thread) -> None:
    """Take `td` off the run queue of its own CPU `gd`, if it is there."""
    if not td.td_flags & TDF_RUNQ:
        return
    td.td_flags &= OFF_RUNQ
    q = td.td_runq
    if q[0] is td:
        q.popleft()
    else:
        q.remove(td)
    if not q:
        gd.gd_runmask ^= td.td_pribit


def lwkt_schedule(td: Thread) -> None:
    """Make `td` ready to run, on its own CPU; idempotent. Remote: by IPI, so it takes effect later."""
    gd = cpu.gd
    if td.td_gd is not gd:
        send_ipiq(td.td_gd, _schedule_remote, td)
        return
    enqueue(gd, td)


def lwkt_deschedule(td: Thread) -> None:
    """Take `td` off its run queue. Meant for the running thread, which then switches; remote: by IPI, later.

    It is blocked then: only `lwkt_schedule` brings it back. A thread that waits for a token gives up its reservation
    (EXCLREQ).
    """
    gd = cpu.gd
    if td.td_gd is not gd:
        send_ipiq(td.td_gd, _deschedule_remote, td)
        return
    if td.td_flags & TDF_RUNQ:
        dequeue(gd, td)
        td.td_flags |= TDF_BLOCKED
    if td.td_exclreq:
        drop_exclreq(td)


def drop_exclreq(td: Thread) -> None:
    """Clear every EXCLREQ that is attributed to `td`: it was descheduled or has ended."""
    for tok in list(td.td_exclreq or ()):
        tok.clear_exclreq(td)


def lwkt_schedule_self() -> None:
    """Put the running thread back on its run queue."""
    gd = mycpu()
    enqueue(gd, gd.gd_curthread)


def lwkt_deschedule_self() -> None:
    """Take the running thread off its run queue; it must switch next."""
    lwkt_deschedule(mycpu().gd_curthread)


def lwkt_setpri(td: Thread, pri: int) -> None:
    """Set the priority (0..31) of `td`; it goes behind its new equals. Never switches. Remote: by IPI.

    Raises:
        ValueError: `pri` is out of range.
    """
    if not 0 <= pri < NPRI:
        raise ValueError(f"priority {pri} is not in 0..{NPRI - 1}")
    gd = mycpu()
    if td.td_gd is not gd:
        send_ipiq(td.td_gd, _setpri_remote, td, pri)
        return
    if td.td_flags & TDF_RUNQ:
        dequeue(gd, td)
        set_home(td, gd, pri)
        enqueue(gd, td)
    else:
        set_home(td, gd, pri)


def lwkt_setpri_self(pri: int) -> None:
    """Set the priority of the running thread."""
    lwkt_setpri(mycpu().gd_curthread, pri)


def schedulerclock(gd: GlobalData) -> None:
    """One clock tick: the head of the highest queue goes behind its equals, who get their turn."""
    mask = gd.gd_runmask
    if mask:
        q = gd.gd_runqs[mask.bit_length() - 1]
        if len(q) > 1:
            q.rotate(-1)
            gd.gd_resched = True


def tsleep_remove(gd: GlobalData, td: Thread) -> None:
    """Take `td` off the sleep queue of its CPU `gd`."""
    ident = td.td_wchan
    bucket = gd.gd_tsleep_hash.get(ident)
    if bucket is not None:
        bucket.pop(td, None)
        if not bucket:
            del gd.gd_tsleep_hash[ident]
            if gd.gd_other_cpus:
                gd.gd_domain.slpque.pop((ident, gd.gd_cpuid), None)
    td.td_wchan = None
    td.td_flags &= ~ASLEEP


# ------------------------------------------------------- remote halves, as IPIs


def _schedule_remote(td: Thread, _arg2: int) -> None:
    if td.td_gd is not cpu.gd and td.td_flags & TDF_MIGRATING:
        return  # on its way: the target enqueues it anyway
    lwkt_schedule(td)  # chases a thread that has moved on


def _deschedule_remote(td: Thread, _arg2: int) -> None:
    lwkt_deschedule(td)


def _setpri_remote(td: Thread, pri: int) -> None:
    lwkt_setpri(td, pri)


# ----------------------------------------------------------- switch and yield


async def lwkt_switch() -> None:
    """Run the best ready thread. The caller goes on when it is that thread again; its tokens are lost meanwhile."""
    assert_can_block(cpu.gd, "lwkt_switch")
    await SWITCH


async def lwkt_yield() -> None:
    """Run pending work; if another thread should get its turn, go behind the equals and switch. Cheap in a loop.

    Others get their turn when a better one has become ready, and when the time of the pump, or the tick, is over.
    """
    gd = cpu.gd
    td = gd.gd_curthread
    if not td.td_critcount and (gd.gd_ipimask or gd.gd_reqflags):
        splz()
    if gd.gd_resched or gd.gd_domain.pump_expired():
        assert_can_block(gd, "lwkt_yield")
        gd.gd_resched = False
        await YIELD


async def lwkt_yield_quick() -> None:
    """Switch only if a different thread is at the head of the queue; one's own place is kept."""
    gd = cpu.gd
    mask = gd.gd_runmask
    if mask and gd.gd_runqs[mask.bit_length() - 1][0] is not gd.gd_curthread:
        assert_can_block(gd, "lwkt_yield_quick")
        await SWITCH


async def lwkt_user_yield() -> None:
    """Let equals and betters run, and the host too when the pump's budget is spent; for long CPU-bound threads."""
    gd = cpu.gd
    if not gd.gd_curthread.td_critcount and (gd.gd_ipimask or gd.gd_reqflags):
        splz()
    if gd.gd_intr_nesting_level or gd.gd_curthread.td_flags & TDF_IDLE:
        assert_can_block(gd, "lwkt_user_yield")
    gd.gd_resched = False
    await YIELD


def should_yield() -> bool:
    """Tell whether `lwkt_user_yield` would let somebody else run: a plain test to guard the await."""
    gd = cpu.gd
    mask = gd.gd_runmask
    if gd.gd_resched or gd.gd_reqflags or gd.gd_ipimask:
        return True
    return bool(mask & (mask - 1) or len(gd.gd_runqs[mask.bit_length() - 1]) > 1) or gd.gd_domain.pump_expired()


async def preempt_point() -> None:
    """Let the simulator run another CPU here, tokens held; nothing on every other host."""
    if cpu.gd.gd_domain.interleaved:
        await PREEMPT


# ------------------------------------------------------------------ migration


async def lwkt_setcpu_self(rgd: GlobalData) -> None:
    """Continue the running thread on CPU `rgd`. Its tokens are lost and re-acquired there.

    Push protocol: the thread leaves everything of the old CPU and switches out; the old CPU then makes it the new
    one's, as its last act on it, and sends an IPI that makes it ready there. So at any moment one CPU owns it.

    Raises:
        KernelPanic: the thread is fixed to its CPU.
    """
    gd = mycpu()
    if rgd is gd:
        return
    assert_can_block(gd, "lwkt_setcpu_self")
    td = gd.gd_curthread
    if td.td_flags & TDF_FIXEDCPU:
        raise KernelPanic(f"{thread_label(td)} is fixed to its CPU and may not migrate")
    crit_enter()
    _leave_cpu(gd, td)
    td.td_migrate_gd = rgd
    await MIGRATE
    cpu.gd.gd_tdallq[td] = None
    crit_exit()


async def lwkt_migratecpu(cpuid: int) -> None:
    """Continue the running thread on CPU number `cpuid`."""
    await lwkt_setcpu_self(mycpu().gd_domain.gds[cpuid])


def migrate_finish(td: Thread, _arg2: int) -> None:
    """On the target CPU, by IPI: make ready a thread that its old CPU has fully switched out and given over."""
    td.td_flags &= ~TDF_MIGRATING
    enqueue(cpu.gd, td)


def lwkt_giveaway(td: Thread) -> None:
    """On the owner: let go of `td`, which another CPU then takes by `lwkt_acquire` (pull protocol).

    Until it has been taken it belongs to nobody: nobody may schedule it or send to its port.

    Raises:
        KernelPanic: the caller is not on the thread's CPU, or the thread is fixed or already migrating.
    """
    gd = mycpu()
    if td.td_gd is not gd:
        raise KernelPanic(f"lwkt_giveaway of {thread_label(td)} from cpu {gd.gd_cpuid}")
    if td.td_flags & (TDF_FIXEDCPU | TDF_MIGRATING):
        raise KernelPanic(f"lwkt_giveaway: {thread_label(td)} may not migrate")
    _leave_cpu(gd, td)


def lwkt_acquire(td: Thread) -> None:
    """On the taker: take the thread that its owner gave away; it is not scheduled by this.

    Spins, processing its own IPIs, while the thread still runs on the old CPU.

    Raises:
        KernelPanic: the thread was not given away.
    """
    gd = mycpu()
    if not td.td_flags & TDF_MIGRATING:
        raise KernelPanic(f"lwkt_acquire: {thread_label(td)} was not given away")
    crit_enter()
    old = td.td_gd
    while old.gd_curthread is td:
        process_ipiq()
        gd.gd_domain.spin(gd)
    set_home(td, gd, td.td_pri)
    td.td_flags &= ~TDF_MIGRATING
    gd.gd_tdallq[td] = None
    crit_exit()


def _leave_cpu(gd: GlobalData, td: Thread) -> None:
    td.td_flags |= TDF_MIGRATING
    if td.td_flags & TDF_TSLEEPQ:
        tsleep_remove(gd, td)
    dequeue(gd, td)
    if td.td_exclreq:
        drop_exclreq(td)
    gd.gd_tdallq.pop(td, None)


def thread_state(td: Thread) -> str:
    """Return the letter `ps` shows: R runs, Q queued, T token, S sleeps, B blocked, M migrates, Z ended, N new."""
    flags = td.td_flags
    if td.td_gd.gd_curthread is td and not flags & TDF_IDLE:
        return "R"
    for bit, letter in _STATES:
        if flags & bit:
            return letter
    if flags & TDF_RUNQ:
        return "T" if td.td_toks_pending else "Q"
    return "S" if flags & TDF_TSLEEPQ else "-"


_STATES: Final[tuple[tuple[int, str], ...]] = (
    (TDF_IDLE, "I"),
    (TDF_DEAD | TDF_EXITING, "Z"),
    (TDF_MIGRATING, "M"),
    (TDF_NOSTART, "N"),
    (TDF_BLOCKED, "B"),
)
