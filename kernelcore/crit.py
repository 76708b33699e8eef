"""Critical sections: what an interrupt would do waits until the section ends.

The count belongs to the thread and is switched with it; a thread may block inside a section, whose protection is void
while it sleeps. A section defers IPI functions and posted completions *on this CPU*; it excludes no other CPU. The
outermost exit runs what was deferred. A *hard* section also forbids to block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from kernelcore.defs import RQF_INTPEND, RQF_TIMER
from kernelcore.globaldata import GlobalData, cpu, mycpu
from kernelcore.ipiq import process_ipiq
from kernelcore.panic import KernelPanic, thread_label

if TYPE_CHECKING:
    from kernelcore.thread import Thread

MAX_SPLZ_NESTING: Final = 2


def crit_enter() -> None:
    """Enter a critical section of the running thread."""
    cpu.gd.gd_curthread.td_critcount += 1


def crit_exit() -> None:
    """Leave it; the outermost exit runs the work that was deferred meanwhile.

    Raises:
        KernelPanic: the thread is in no critical section.
    """
    gd = cpu.gd
    td = gd.gd_curthread
    n = td.td_critcount - 1
    if n:
        if n < 0:
            raise KernelPanic(f"crit_exit without crit_enter in {thread_label(td)}")
        td.td_critcount = n
        return
    td.td_critcount = 0
    if gd.gd_ipimask or gd.gd_reqflags:
        _exit_pending(gd, td)


def crit_exit_noyield() -> None:
    """Leave it without looking at deferred work, which stays for the next processing point."""
    td = cpu.gd.gd_curthread
    if td.td_critcount <= 0:
        raise KernelPanic(f"crit_exit without crit_enter in {thread_label(td)}")
    td.td_critcount -= 1


def crit_enter_hard() -> None:
    """Enter a critical section in which nothing may block."""
    gd = cpu.gd
    gd.gd_curthread.td_critcount += 1
    gd.gd_intr_nesting_level += 1


def crit_exit_hard() -> None:
    """Leave a hard section.

    Raises:
        KernelPanic: the CPU is in no hard section.
    """
    gd = cpu.gd
    if gd.gd_intr_nesting_level <= 0:
        raise KernelPanic(f"crit_exit_hard outside a hard section in {thread_label(gd.gd_curthread)}")
    gd.gd_intr_nesting_level -= 1
    crit_exit()


@contextmanager
def critical() -> Iterator[None]:
    """Hold a critical section for a `with` block: for cold code and tests."""
    crit_enter()
    try:
        yield
    finally:
        crit_exit()


def crit_enter_id(ident: str) -> None:
    """Enter a section under a name; `crit_exit_id` must leave it under the same name."""
    td = cpu.gd.gd_curthread
    td.td_critcount += 1
    if td.td_crit_ids is None:
        td.td_crit_ids = []
    td.td_crit_ids.append(ident)


def crit_exit_id(ident: str) -> None:
    """Leave the section that was entered as `ident`.

    Raises:
        KernelPanic: the newest named section has another name.
    """
    td: Thread = cpu.gd.gd_curthread
    newest = td.td_crit_ids[-1] if td.td_crit_ids else None
    if newest != ident:
        raise KernelPanic(f"crit_exit '{ident}' but the newest section is '{newest}' in {thread_label(td)}")
    assert td.td_crit_ids is not None
    td.td_crit_ids.pop()
    crit_exit()


def crit_test(td: Thread) -> bool:
    """Tell whether `td` is in a critical section."""
    return td.td_critcount > 0


def intr_post(gd: GlobalData, fn: Callable[[Any], object], arg: Any = None) -> None:
    """Run the completion `fn(arg)` on this CPU: now, or at the outermost exit of its critical section.

    Only for the CPU `gd` itself; from another one send an IPI.
    """
    if gd.gd_curthread.td_critcount or gd.gd_intr_nesting_level:
        gd.gd_intpend.append((fn, arg))
        gd.gd_reqflags |= RQF_INTPEND
        return
    _run_intr(gd, fn, arg)


def splz() -> None:
    """Run everything that is pending on this CPU: IPIs, completions, expired callouts."""
    gd = mycpu()
    while (
        gd.gd_ipimask
        or gd.gd_reqflags & (RQF_INTPEND | RQF_TIMER)
        or (gd.gd_cpusyncq and not gd.gd_csphase)  # a master polls while it spins
    ):
        process_ipiq()
        if gd.gd_reqflags & RQF_INTPEND:
            gd.gd_reqflags &= ~RQF_INTPEND
            while gd.gd_intpend:
                fn, arg = gd.gd_intpend.popleft()
                _run_intr(gd, fn, arg)
        if gd.gd_reqflags & RQF_TIMER:
            gd.gd_reqflags &= ~RQF_TIMER
            gd.gd_domain.run_callouts(gd)


def splz_check() -> None:
    """Run pending work, unless the running thread is in a critical section."""
    gd = mycpu()
    if not gd.gd_curthread.td_critcount and (gd.gd_ipimask or gd.gd_reqflags):
        splz()


def _exit_pending(gd: GlobalData, td: Thread) -> None:
    if gd.gd_intr_nesting_level or td.td_nest_count >= MAX_SPLZ_NESTING:
        return
    td.td_nest_count += 1
    try:
        splz()
    finally:
        td.td_nest_count -= 1


def _run_intr(gd: GlobalData, fn: Callable[[Any], object], arg: Any) -> None:
    td = gd.gd_curthread
    td.td_critcount += 1
    gd.gd_intr_nesting_level += 1
    try:
        fn(arg)
    finally:
        gd.gd_intr_nesting_level -= 1
        td.td_critcount -= 1
