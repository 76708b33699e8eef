"""Tokens where CPUs really run side by side: the simulator and ThreadHost.

`t_count` counts as in DragonFly: bit 0 EXCLUSIVE, bit 1 EXCLREQ, the rest references in steps of 4; the references of
the exclusive owner beyond its first are counted like shared ones, so that release is uniform. The scheduler acquires
the whole stack of a thread or nothing (`getalltokens`); there is no queue of waiters and no hand-off.

EXCLREQ, set by a blocking exclusive attempt that fails, refuses new shared holders unless they hold a reference
already. It belongs to its requester and is cleared when that thread succeeds, ends or is descheduled. A reservation is
something held while waiting, so it needs the sorted fallback: after ten rounds in which nothing could run, sets are
acquired in token order, which rules out the livelock of two pollers that take partial sets in opposite order.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from kernelcore.defs import MAXTOKENS
from kernelcore.globaldata import GlobalData, cpu, mycpu
from kernelcore.panic import LimitExceeded, WrongContext, thread_label
from kernelcore.sched import SWITCH, assert_can_block
from kernelcore.token import SharedRef, Token

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain
    from kernelcore.thread import Thread

TOK_EXCLUSIVE: Final = 1
TOK_EXCLREQ: Final = 2
TOK_INCR: Final = 4


class ContendedToken(Token):
    """A token that another CPU may hold at this moment: taken by `aget`, `aget_shared`, `trytoken`, `async with`."""

    __slots__ = ("t_count", "t_exclreq", "t_lock", "t_owner")

    def __init__(self, desc: str, domain: Domain | None = None) -> None:
        super().__init__(desc, domain)
        self.t_count = 0
        self.t_owner: Thread | None = None
        self.t_exclreq: Thread | None = None
        self.t_lock = threading.Lock()  # makes one step atomic

    def get(self) -> None:
        """Not here: it might have to wait.

        Raises:
            WrongContext: always.
        """
        raise WrongContext(f"token '{self.t_desc}': get() on a host with contention: await aget()")

    __enter__ = get

    def get_shared(self) -> None:
        """Not here: it might have to wait.

        Raises:
            WrongContext: always.
        """
        raise WrongContext(f"token '{self.t_desc}': get_shared() on a host with contention: await aget_shared()")

    def rel(self) -> None:
        """Release the newest reference."""
        td = cpu.gd.gd_curthread
        toks = td.td_toks
        if not toks or toks[-1].tr_tok is not self:
            self.refuse_rel(td)
        toks.pop()
        if td.td_toks_have > len(toks):  # not so where a thread that is switched out is closed
            with self.t_lock:
                self.drop(td)
            td.td_toks_have = len(toks)

    async def aget(self) -> None:
        """Take it exclusively, switching while somebody else runs with it."""
        await self._acquire(self)

    async def aget_shared(self) -> None:
        """Take it shared, switching while somebody else runs with it exclusively."""
        await self._acquire(self.t_shared)

    def trytoken(self) -> bool:
        """Take it exclusively if that needs no wait; never sets EXCLREQ. A failure counts as a collision."""
        gd = mycpu()
        td = gd.gd_curthread
        if len(td.td_toks) >= MAXTOKENS:
            raise LimitExceeded(f"more than {MAXTOKENS} tokens in {thread_label(td)}")
        with self.t_lock:
            ok = self.attempt(td, excl=True, blocking=False)
        if not ok:
            self.collide(gd)
            return False
        td.td_toks.append(self)
        td.td_toks_have = len(td.td_toks)
        return True

    async def _acquire(self, ref: Token | SharedRef) -> None:
        gd = cpu.gd
        assert_can_block(gd, f"token '{self.t_desc}'")
        td = gd.gd_curthread
        toks = td.td_toks
        if toks and ref.tr_excl:
            self.check_stack(td, toks)
        elif len(toks) >= MAXTOKENS:
            raise LimitExceeded(f"more than {MAXTOKENS} tokens in {thread_label(td)}")
        with self.t_lock:
            ok = self.attempt(td, ref.tr_excl, blocking=True)
        toks.append(ref)
        if ok:
            td.td_toks_have = len(toks)
            return
        self.collide(gd)
        td.td_contended += 1
        td.td_wmesg = self.t_desc
        td.td_toks_pending = True
        await SWITCH  # the scheduler acquires the whole stack before it resumes the thread
        td.td_toks_pending = False
        td.td_wmesg = ""

    def attempt(self, td: Thread, excl: bool, blocking: bool) -> bool:
        """One attempt to acquire a reference for `td`, under `t_lock`; a blocking exclusive one may reserve."""
        if self.t_owner is td:
            self.t_count += TOK_INCR
            return True
        if excl:
            if self.t_count & ~TOK_EXCLREQ:
                if blocking:
                    self.reserve(td)
                return False
            if self.t_exclreq is td:
                self._unreserve(td)
            self.t_owner = td
            self.t_count |= TOK_EXCLUSIVE
            if self.t_last is not td:
                self.t_last = td
                self.t_gen += 1
            return True
        if self.t_count & TOK_EXCLUSIVE:
            return False
        if self.t_exclreq is not None and self.t_exclreq is not td and not self._held_now(td):
            return False
        self.t_count += TOK_INCR
        if self.t_last is not td:
            self.t_last = None
        return True

    def reserve(self, td: Thread) -> None:
        """Set EXCLREQ for `td`, under `t_lock`, unless somebody else has."""
        if self.t_exclreq is None:
            self.t_exclreq = td
            self.t_count |= TOK_EXCLREQ
            if td.td_exclreq is None:
                td.td_exclreq = {}
            td.td_exclreq[self] = None

    def drop(self, td: Thread) -> None:
        """Give back one reference of `td`, under `t_lock`: nested ones first, the owning one last."""
        if self.t_owner is td and self.t_count < TOK_INCR:
            self.t_owner = None
            self.t_count &= ~TOK_EXCLUSIVE
        else:
            self.t_count -= TOK_INCR

    def clear_exclreq(self, td: Thread) -> None:
        """Drop the reservation of `td`, if it is its."""
        with self.t_lock:
            if self.t_exclreq is td:
                self._unreserve(td)

    def collide(self, gd: GlobalData) -> None:
        """Count a failed attempt on CPU `gd`."""
        with self.t_lock:
            self.t_collisions += 1
        gd.gd_cnt.v_lock_colls += 1
        gd.gd_cnt.v_lock_name = self.t_desc

    def _held_now(self, td: Thread) -> bool:
        return any(ref.tr_tok is self for ref in td.td_toks[: td.td_toks_have])

    def _unreserve(self, td: Thread) -> None:
        self.t_exclreq = None
        self.t_count &= ~TOK_EXCLREQ
        if td.td_exclreq is not None:
            td.td_exclreq.pop(self, None)


def relalltokens(td: Thread) -> None:
    """Give back, newest first, whatever `td` really holds; its stack stays."""
    toks = td.td_toks
    for i in range(td.td_toks_have - 1, -1, -1):
        tok = toks[i].tr_tok
        assert isinstance(tok, ContendedToken)
        with tok.t_lock:
            tok.drop(td)
    td.td_toks_have = 0


def getalltokens(gd: GlobalData, td: Thread, in_order: bool) -> bool:
    """Acquire the whole stack of `td` or nothing.

    Args:
        gd: the acquiring CPU, for its counters.
        td: the thread to run.
        in_order: take them in token order, equal ones in stack order, rather than in stack order.
    """
    refs = list(td.td_toks)
    if in_order:
        refs.sort(key=_token_order)
    for i, ref in enumerate(refs):
        tok = ref.tr_tok
        assert isinstance(tok, ContendedToken)
        with tok.t_lock:
            if tok.attempt(td, ref.tr_excl, blocking=True):
                continue
        for got in reversed(refs[:i]):
            assert isinstance(got.tr_tok, ContendedToken)
            with got.tr_tok.t_lock:
                got.tr_tok.drop(td)
        tok.collide(gd)
        return False
    td.td_toks_have = len(refs)
    return True


def _token_order(ref: Token | SharedRef) -> int:
    return ref.tr_tok.t_seq
