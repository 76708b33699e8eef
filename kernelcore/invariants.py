"""Checks of the kernel core's invariants, for debug mode and for the tests.

`check_switch_out` runs at every switch of a domain in debug mode; `check_domain` looks at everything at once and is
what the simulator calls between steps. Each raises KernelPanic naming the rule that is broken (T threads, C critical
sections, S sleep, K tokens, M messages, I IPIs).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kernelcore.defs import (
    TDF_BLOCKED,
    TDF_DEAD,
    TDF_EXITING,
    TDF_MIGRATING,
    TDF_NOSTART,
    TDF_RUNQ,
    TDF_TSLEEP_DESCHEDULED,
    TDF_TSLEEPQ,
)
from kernelcore.globaldata import GlobalData
from kernelcore.ipiq import MAXCPUFIFO
from kernelcore.msg import MSGF_DONE, MSGF_INTRANSIT, MSGF_QUEUED, MSGF_REPLY, MSGF_SYNC
from kernelcore.panic import KernelPanic, thread_label
from kernelcore.token_contended import TOK_EXCLREQ, TOK_EXCLUSIVE, TOK_INCR, ContendedToken

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain
    from kernelcore.port import Port
    from kernelcore.thread import Thread
    from kernelcore.token import Token

_WAITS = TDF_RUNQ | TDF_TSLEEP_DESCHEDULED | TDF_BLOCKED | TDF_MIGRATING


def check_switch_out(gd: GlobalData, td: Thread) -> None:
    """A thread that switches out must be ready, asleep with a way to be woken, or on its way to another CPU (T4)."""
    flags = td.td_flags
    if not flags & _WAITS:
        raise KernelPanic(f"T4: {thread_label(td)} switched out with nothing that could wake it")
    if flags & TDF_RUNQ and td not in td.td_runq:
        raise KernelPanic(f"T1: {thread_label(td)} has RUNQ set but is not on queue {td.td_pri}")
    if flags & TDF_TSLEEPQ and td not in gd.gd_tsleep_hash.get(td.td_wchan, ()):
        raise KernelPanic(f"S: {thread_label(td)} has TSLEEPQ set but is on no sleep queue")
    if td.td_critcount < 0:
        raise KernelPanic(f"C1: {thread_label(td)} has critical count {td.td_critcount}")


def check_domain(domain: Domain) -> None:
    """Check every rule that can be seen from outside between two steps.

    Raises:
        KernelPanic: the first rule found broken.
    """
    running: list[Thread] = []
    for gd in domain.gds:
        _check_queues(gd)
        if gd.gd_curthread is not gd.gd_idlethread:
            running.append(gd.gd_curthread)
        for td in gd.gd_tdallq:
            _check_thread(gd, td)
        _check_sleep(domain, gd)
        _check_ipiq(domain, gd)
    for port in domain.ports:
        _check_port(port)
    if domain.contended:
        _check_tokens(domain, running)


def _check_queues(gd: GlobalData) -> None:
    for pri, q in enumerate(gd.gd_runqs):
        if bool(q) != bool(gd.gd_runmask & (1 << pri)):
            raise KernelPanic(f"T1: cpu {gd.gd_cpuid} queue {pri} and the run mask disagree")
        for td in q:
            if td.td_gd is not gd or not td.td_flags & TDF_RUNQ or td.td_pri != pri or td.td_runq is not q:
                raise KernelPanic(f"T1: {thread_label(td)} is on queue {pri} of cpu {gd.gd_cpuid}")
        if len(set(q)) != len(q):
            raise KernelPanic(f"T1: a thread is twice on queue {pri} of cpu {gd.gd_cpuid}")


def _check_thread(gd: GlobalData, td: Thread) -> None:
    flags = td.td_flags
    if td.td_gd is not gd:
        raise KernelPanic(f"T5: {thread_label(td)} is on the list of cpu {gd.gd_cpuid}")
    for other in gd.gd_domain.gds:
        if other is not gd and other.gd_curthread is td:
            raise KernelPanic(f"T2: {thread_label(td)} runs on cpu {other.gd_cpuid}")
    if flags & TDF_DEAD:
        raise KernelPanic(f"T6: {thread_label(td)} is dead but still listed")
    if td.td_critcount < 0:
        raise KernelPanic(f"C1: {thread_label(td)} has critical count {td.td_critcount}")
    if gd.gd_curthread is td or flags & TDF_EXITING:
        return
    if not flags & (_WAITS | TDF_NOSTART):
        raise KernelPanic(f"T4: {thread_label(td)} is lost: not ready, not asleep, not migrating")
    if gd.gd_domain.contended and td.td_toks_have:
        raise KernelPanic(f"K3: {thread_label(td)} does not run but holds {td.td_toks_have} tokens")


def _check_sleep(domain: Domain, gd: GlobalData) -> None:
    for ident, bucket in gd.gd_tsleep_hash.items():
        if not bucket:
            raise KernelPanic(f"S: empty bucket for {ident!r} on cpu {gd.gd_cpuid}")
        if gd.gd_other_cpus and (ident, gd.gd_cpuid) not in domain.slpque:
            raise KernelPanic(f"S2: no mark for {ident!r} on cpu {gd.gd_cpuid}, where a thread sleeps")
        for td in bucket:
            if td.td_wchan != ident or not td.td_flags & TDF_TSLEEPQ or td.td_gd is not gd:
                raise KernelPanic(f"S: {thread_label(td)} is hooked on {ident!r} and does not know it")


def _check_ipiq(domain: Domain, gd: GlobalData) -> None:
    for target in domain.gds:
        q = gd.gd_ipiq[target.gd_cpuid]
        if not q.xindex <= q.rindex <= q.windex:
            raise KernelPanic(f"I4: {gd.gd_cpuid}->{target.gd_cpuid}: x {q.xindex} r {q.rindex} w {q.windex}")
        if len(q.fifo) != q.windex - q.rindex:
            raise KernelPanic(f"I2: {gd.gd_cpuid}->{target.gd_cpuid}: {len(q.fifo)} entries, indices differ")
        if domain.ipiq_bounded and len(q.fifo) > MAXCPUFIFO:
            raise KernelPanic(f"I3: {gd.gd_cpuid}->{target.gd_cpuid}: {len(q.fifo)} entries")
        if q.fifo and gd.gd_cpuid not in target.gd_ipimask and not q.depth:
            raise KernelPanic(f"I6: {gd.gd_cpuid}->{target.gd_cpuid}: entries but no source bit")


def _check_port(port: Port) -> None:
    linked = [*port.mp_pri, *port.mp_queue]
    if len({id(msg) for msg in linked}) != len(linked):
        raise KernelPanic(f"M2: a message is twice on {port!r}")
    for msg in linked:
        flags = msg.ms_flags
        if not flags & MSGF_QUEUED:
            raise KernelPanic(f"M2: a message is on {port!r} without QUEUED")
        if flags & MSGF_SYNC and flags & MSGF_REPLY:
            raise KernelPanic(f"M4: the reply to a synchronous message is queued on {port!r}")
        if flags & MSGF_INTRANSIT or flags & (MSGF_DONE | MSGF_REPLY) == MSGF_DONE:
            raise KernelPanic(f"M5: a message on {port!r} is on its way, or done before its reply: {flags:#x}")


def _check_tokens(domain: Domain, running: list[Thread]) -> None:
    refs: Counter[Token] = Counter()
    excl: dict[Token, Thread] = {}
    for td in running:
        if not td.td_toks_pending and td.td_toks_have != len(td.td_toks):
            raise KernelPanic(f"K2: {thread_label(td)} runs with {td.td_toks_have} of {len(td.td_toks)} tokens")
        for ref in td.td_toks[: td.td_toks_have]:
            tok = ref.tr_tok
            refs[tok] += 1
            if ref.tr_excl and excl.setdefault(tok, td) is not td:
                raise KernelPanic(f"K1: two threads hold token '{tok.t_desc}'")
    for td in running:
        for ref in td.td_toks[: td.td_toks_have]:
            owner = excl.get(ref.tr_tok)
            if owner is not None and owner is not td:
                raise KernelPanic(f"K1: token '{ref.tr_tok.t_desc}' is shared while held exclusively")
    for tok in list(domain.tokens):
        assert isinstance(tok, ContendedToken)
        _check_count(tok, refs[tok], excl.get(tok))


def _check_count(tok: ContendedToken, refs: int, owner: Thread | None) -> None:
    if tok.t_owner is not owner:
        raise KernelPanic(f"K1: token '{tok.t_desc}' names owner {tok.t_owner}, who does not run with it")
    counted = tok.t_count // TOK_INCR + (1 if tok.t_count & TOK_EXCLUSIVE else 0)
    if counted != refs:
        raise KernelPanic(f"K4: token '{tok.t_desc}' counts {counted} references, running holders have {refs}")
    if (tok.t_exclreq is not None) != bool(tok.t_count & TOK_EXCLREQ):
        raise KernelPanic(f"K4: token '{tok.t_desc}' has EXCLREQ without a requester or the reverse")
    if owner is not None and tok.t_exclreq is owner:
        raise KernelPanic(f"K4: token '{tok.t_desc}' is reserved by the thread that has it")
