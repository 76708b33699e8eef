"""The run loop's half of a switch: pick a thread, resume it, act on its trap.

`resume` is the only place where a thread's body runs. It sets the current thread, resumes the coroutine up to its next
trap, and finishes the business of the thread that switched out: its RUNNING flag, its migration IPI, its exit. `pick`
is the choice for contended domains, where a thread may run only with all of its tokens.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Final

from kernelcore.defs import (
    KERN_LPSCHED,
    LWKT_SPIN_LOOPS,
    TDF_DEAD,
    TDF_EXITING,
    TDF_RUNQ,
    TDF_SYSCALL,
    TDF_TSLEEPQ,
    TRAP_BLOCK,
    TRAP_MIGRATE,
    TRAP_PREEMPT,
    TRAP_SWITCH,
    TRAP_YIELD,
)
from kernelcore.globaldata import GlobalData
from kernelcore.ipiq import send_ipiq
from kernelcore.panic import KernelPanic, ThreadExit, thread_label
from kernelcore.sched import dequeue, drop_exclreq, migrate_finish, set_home, tsleep_remove
from kernelcore.thread import Thread, finish_exit
from kernelcore.token import switch_in
from kernelcore.token_contended import getalltokens, relalltokens

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain

log = logging.getLogger("kernelcore")

TRAP_DONE: Final = -1  # what `resume` returns for a thread whose body has ended


def pick(gd: GlobalData) -> Thread | None:
    """Contended: return the best ready thread of `gd`, with all of its tokens acquired; None if nothing can run.

    A thread that cannot get its tokens stays where it is in the queue; the next ones are tried, down to KERN_LPSCHED.
    After ten fruitless rounds sets are acquired in token order, and lower ones are tried too: what refuses the best
    thread may be the EXCLREQ of one of them. Any progress resets the count.
    """
    mask = gd.gd_runmask
    in_order = gd.gd_tok_rounds >= LWKT_SPIN_LOOPS
    refused = False
    while mask:
        pri = mask.bit_length() - 1
        if refused and pri < KERN_LPSCHED and not in_order:
            break
        for td in gd.gd_runqs[pri]:
            if not td.td_toks or getalltokens(gd, td, in_order):
                gd.gd_tok_rounds = 0
                return td
            refused = True
            td.td_contended += 1
        mask &= ~(1 << pri)
    if refused:
        gd.gd_tok_rounds += 1
    return None


def resume(domain: Domain, gd: GlobalData, td: Thread) -> int:
    """Run `td` on `gd` up to its next trap and finish the switch; return the trap, or TRAP_DONE.

    After TRAP_PREEMPT (simulator only) the thread is still the current one and holds its tokens.
    """
    if gd.gd_curthread is not td:
        gd.gd_curthread = td
        td.td_switches += 1
        gd.gd_cnt.v_swtch += 1
        if td.td_toks and not domain.contended:
            switch_in(td)
    try:
        trap = td.td_send(None)
    except StopIteration as end:
        return thread_ended(gd, td, end.value, None)
    except BaseException as exc:  # noqa: BLE001 - recorded, logged, and handed to a joiner or the panic hook
        return thread_raised(gd, td, exc)
    if trap is TRAP_PREEMPT and domain.interleaved:
        return TRAP_PREEMPT
    return switched_out(domain, gd, td, trap)


def switched_out(domain: Domain, gd: GlobalData, td: Thread, trap: object) -> int:
    """`td` has yielded `trap`: release its tokens where others may take them, and finish its business."""
    if td.td_toks_have and domain.contended:
        relalltokens(td)
    if trap is TRAP_BLOCK:
        dequeue(gd, td)
    if domain.debug:
        domain.check_switch_out(gd, td)
    if (trap is TRAP_YIELD or trap is TRAP_PREEMPT) and td.td_flags & TDF_RUNQ:
        td.td_runq.remove(td)
        td.td_runq.append(td)
    gd.gd_curthread = gd.gd_idlethread  # a thread that was given away is another CPU's from here on
    if trap is TRAP_BLOCK or trap is TRAP_SWITCH:
        return TRAP_SWITCH
    if trap is TRAP_YIELD or trap is TRAP_PREEMPT:
        return TRAP_YIELD
    target = td.td_migrate_gd
    if trap is TRAP_MIGRATE and target is not None:
        td.td_migrate_gd = None
        set_home(td, target, td.td_pri)
        send_ipiq(target, migrate_finish, td)
        return TRAP_MIGRATE
    return _bad_trap(gd, td, trap)


def thread_raised(gd: GlobalData, td: Thread, exc: BaseException) -> int:
    """What left the body of `td` was `exc`, no return: its exit or its death."""
    if isinstance(exc, ThreadExit):
        return thread_ended(gd, td, exc.value, None)
    return thread_ended(gd, td, None, exc)


def thread_ended(gd: GlobalData, td: Thread, value: object, exc: BaseException | None) -> int:
    """The body of `td` has ended: record how, check what it left behind, and let it go unless it is held."""
    if td.td_toks or td.td_critcount or gd.gd_intr_nesting_level:
        exc = _clean_up(gd, td, exc)
    td.td_result = value
    td.td_exc = exc
    if td.td_exclreq:
        drop_exclreq(td)
    if td.td_flags & TDF_TSLEEPQ:
        tsleep_remove(gd, td)
    if td.td_flags & TDF_RUNQ:
        dequeue(gd, td)
    td.td_flags |= TDF_EXITING
    gd.gd_curthread = gd.gd_idlethread
    if exc is not None and td.td_on_exit is None and not td.td_joiners and not td.td_flags & TDF_SYSCALL:
        report(gd.gd_domain, td, exc)
    if td.td_holds:
        td.td_wmesg = "exitwait"
    else:
        finish_exit(td)
    return TRAP_DONE


def _clean_up(gd: GlobalData, td: Thread, exc: BaseException | None) -> BaseException:
    """A body ended without giving back what it held: that is its error, unless it has one already."""
    if exc is None:
        exc = KernelPanic(f"{thread_label(td)} ended {_left_behind(td)}")
    if gd.gd_domain.contended:
        relalltokens(td)
    td.td_toks.clear()
    td.td_toks_have = 0
    td.td_toks_pending = False
    td.td_crit_ids = None
    td.td_critcount = td.td_cscount = gd.gd_spinlocks = gd.gd_csphase = gd.gd_intr_nesting_level = 0
    return exc


def report(domain: Domain, td: Thread, exc: BaseException) -> None:
    """Log an exception that nobody waits for, with the await stack of its thread, and call the panic hook."""
    stack = "".join(traceback.format_exception(exc)).rstrip()
    log.error("%s died: %s\n%s", thread_label(td), exc, stack)
    domain.panic_hook(td, exc)


def _left_behind(td: Thread) -> str:
    if td.td_toks:
        return f"holding token '{td.td_toks[-1].tr_tok.t_desc}'"
    if td.td_gd.gd_spinlocks:
        return "holding a spinlock"
    if td.td_cscount:
        return "mastering a cpusync"
    if td.td_gd.gd_intr_nesting_level:
        return "in a hard section"
    return f"in {td.td_critcount} critical section(s)"


def _bad_trap(gd: GlobalData, td: Thread, trap: object) -> int:
    """The thread awaited something foreign: raise it there, so that its `finally` clauses run."""
    panic = KernelPanic(f"{thread_label(td)} awaited something that is no kernel service: it yielded {trap!r}")
    assert td.td_coro is not None
    gd.gd_curthread = td
    try:
        td.td_coro.throw(panic)
    except StopIteration as end:
        return thread_ended(gd, td, end.value, panic)
    except BaseException as exc:  # noqa: BLE001 - as in `resume`
        return thread_ended(gd, td, None, exc)
    td.td_coro.close()
    return thread_ended(gd, td, None, panic)


def abandon(td: Thread) -> None:
    """At the shutdown of a domain: close a body that will never run again."""
    if td.td_coro is not None:
        try:
            td.td_coro.close()
        except Exception as exc:  # noqa: BLE001 - it has no caller, and the others must be closed as well
            log.error("%s did not end when it was closed: %s", thread_label(td), exc)
    td.td_flags = td.td_flags & ~TDF_EXITING | TDF_DEAD
