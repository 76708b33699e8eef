"""LWKT tokens: serialize threads *while they run*.

A thread that blocks or switches for any reason loses all of its tokens and does not run again until it has all of them
back; what they protect may have changed meanwhile. `gen` tells cheaply whether it has: remember it, sleep, revalidate
only if `changed_since(gen)`. Because a waiting thread holds nothing, no acquisition order can deadlock.

Two regimes, chosen by the domain in which the token was made:

*One OS thread carries all CPUs* (the domain of a mount, of a tool). The only other possible holder is not running, so a
token is always free: `get`, `get_shared`, `rel` and `with` are plain calls that keep the stack, the LIFO check and the
generation.

*Contended* (the simulator, ThreadHost). `t_count` counts as in DragonFly: bit 0 EXCLUSIVE, bit 1 EXCLREQ, the rest
references in steps of 4. The scheduler acquires the whole stack of a thread or nothing (`getalltokens`). EXCLREQ, set
by a blocking exclusive attempt that fails, refuses new shared holders unless they hold a reference already; it belongs
to its requester and is cleared when that thread succeeds, ends or is descheduled. It needs the sorted fallback:
after ten rounds in which nothing could run, sets are acquired in token order, which rules out the livelock of two
pollers that take partial sets in opposite order. `aget` and `async with` work in both regimes.
"""

from __future__ import annotations

import threading
from itertools import count
from threading import get_ident
from typing import TYPE_CHECKING, Final

from kernelcore.defs import MAXTOKENS, TDF_IDLE, TOKEN_POOL_SIZE
from kernelcore.globaldata import GlobalData, cpu, mycpu
from kernelcore.panic import KernelPanic, LimitExceeded, WrongContext, thread_label
from kernelcore.sched import SWITCH, assert_can_block

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain
    from kernelcore.thread import Thread

TOK_EXCLUSIVE: Final = 1
TOK_EXCLREQ: Final = 2
TOK_INCR: Final = 4

_sequence = count(1)


class SharedRef:
    """The shared form of one token, as it stands on a thread's stack; also its context manager."""

    __slots__ = ("tr_tok",)

    tr_excl: Final = False

    def __init__(self, tok: Token) -> None:
        self.tr_tok = tok

    def __enter__(self) -> Token:
        self.tr_tok.get_shared()
        return self.tr_tok

    def __exit__(self, *exc: object) -> None:
        self.tr_tok.rel()

    async def __aenter__(self) -> Token:
        await self.tr_tok.aget_shared()
        return self.tr_tok

    async def __aexit__(self, *exc: object) -> None:
        self.tr_tok.rel()


class Token:
    """One token.

    A token is itself the exclusive reference that stands on the stacks of its holders; `t_shared` is the shared one.
    """

    __slots__ = (
        "__weakref__",
        "t_collisions",
        "t_count",
        "t_desc",
        "t_domain",
        "t_exclreq",
        "t_gen",
        "t_ident",
        "t_last",
        "t_lock",
        "t_owner",
        "t_seq",
        "t_shared",
        "tr_tok",
    )

    tr_excl: Final = True

    def __init__(self, desc: str, domain: Domain | None = None) -> None:
        self.t_domain = domain = mycpu().gd_domain if domain is None else domain
        # get() compares this with the caller's OS thread; no OS thread matches 0 where plain
        # gets are not allowed at all.
        self.t_ident = 0 if domain.contended else get_ident()
        self.t_desc = desc
        self.t_seq = next(_sequence)  # stands for the address in the sorted order
        self.t_count = 0
        self.t_owner: Thread | None = None
        self.t_exclreq: Thread | None = None
        self.t_collisions = 0
        self.t_gen = 0
        self.t_last: Thread | None = None  # the last exclusive holder, None once somebody else shared it
        self.t_lock = threading.Lock()  # makes one step of the contended regime atomic
        self.t_shared = SharedRef(self)
        self.tr_tok = self
        domain.register_token(self)

    def __repr__(self) -> str:
        return f"<token '{self.t_desc}'>"

    # ----------------------------------------------------- one OS thread: plain

    def get(self) -> None:
        """Take it exclusively; recursive. Plain: for a domain of one OS thread.

        Raises:
            WrongContext: on another OS thread, in another domain, outside a kernel thread, or in a contended domain.
            KernelPanic: the thread holds it shared (it could never succeed), or holds 32 tokens.
        """
        if get_ident() != self.t_ident:
            self._refuse("get")
        td = cpu.gd.gd_curthread
        toks = td.td_toks
        if self.t_last is not td:
            self._new_holder(td)
        if toks:
            self._check_stack(td, toks)
        toks.append(self)

    def get_shared(self) -> None:
        """Take it shared; recursive. Plain: for a domain of one OS thread.

        Raises:
            WrongContext: as `get`.
            LimitExceeded: the thread holds 32 tokens.
        """
        gd = cpu.gd
        if get_ident() != self.t_ident or gd.gd_domain is not self.t_domain:
            self._refuse("get_shared")
        td = gd.gd_curthread
        if td.td_flags & TDF_IDLE:
            self._refuse("get_shared")
        toks = td.td_toks
        if len(toks) >= MAXTOKENS:
            raise LimitExceeded(f"more than {MAXTOKENS} tokens in {thread_label(td)}")
        if self.t_last is not td:
            self.t_last = None
        toks.append(self.t_shared)

    def rel(self) -> None:
        """Release the newest reference.

        Raises:
            KernelPanic: the newest token of the running thread is another one.
        """
        td = cpu.gd.gd_curthread
        toks = td.td_toks
        if not toks or (toks[-1] is not self and toks[-1] is not self.t_shared):
            self._refuse_rel(td)
        toks.pop()
        if not self.t_ident:
            with self.t_lock:
                self._drop(td)
            td.td_toks_have = len(toks)

    __enter__ = get

    def __exit__(self, *exc: object) -> None:
        self.rel()

    def shared(self) -> SharedRef:
        """`with tok.shared():` or `async with tok.shared():`."""
        return self.t_shared

    # --------------------------------------------------------------- any host

    async def aget(self) -> None:
        """Take it exclusively on any host, switching while somebody else runs with it."""
        if self.t_ident:
            self.get()
        else:
            await self._acquire(self)

    async def aget_shared(self) -> None:
        """Take it shared on any host, switching while somebody else runs with it exclusively."""
        if self.t_ident:
            self.get_shared()
        else:
            await self._acquire(self.t_shared)

    async def __aenter__(self) -> Token:
        await self.aget()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.rel()

    def trytoken(self) -> bool:
        """Take it exclusively if that needs no wait; never sets EXCLREQ. A failure counts as a collision."""
        gd = mycpu()
        td = gd.gd_curthread
        if self.t_ident:
            if self.t_shared in td.td_toks and self not in td.td_toks:
                self.t_collisions += 1
                return False
            self.get()
            return True
        if len(td.td_toks) >= MAXTOKENS:
            raise LimitExceeded(f"more than {MAXTOKENS} tokens in {thread_label(td)}")
        with self.t_lock:
            ok = self._try(td, excl=True, blocking=False)
        if not ok:
            self._collide(gd)
            return False
        td.td_toks.append(self)
        td.td_toks_have = len(td.td_toks)
        return True

    def held_any(self, td: Thread) -> bool:
        """Tell whether `td` has a reference of either kind on its stack."""
        return any(ref.tr_tok is self for ref in td.td_toks)

    def held_excl(self, td: Thread) -> bool:
        """Tell whether `td` has an exclusive reference on its stack."""
        return self in td.td_toks

    def assert_held(self) -> None:
        """Raise KernelPanic unless the running thread has it."""
        td = mycpu().gd_curthread
        if not self.held_any(td):
            raise KernelPanic(f"token '{self.t_desc}' is not held by {thread_label(td)}")

    @property
    def gen(self) -> int:
        """Moves whenever somebody else may have changed what the token protects."""
        return self.t_gen

    def changed_since(self, gen: int) -> bool:
        """Tell whether `gen` has moved since it was read."""
        return self.t_gen != gen

    # ------------------------------------------------------- the contended core

    async def _acquire(self, ref: Token | SharedRef) -> None:
        gd = cpu.gd
        assert_can_block(gd, f"token '{self.t_desc}'")
        td = gd.gd_curthread
        toks = td.td_toks
        if toks and ref.tr_excl:
            self._check_stack(td, toks)
        elif len(toks) >= MAXTOKENS:
            raise LimitExceeded(f"more than {MAXTOKENS} tokens in {thread_label(td)}")
        with self.t_lock:
            ok = self._try(td, ref.tr_excl, blocking=True)
        toks.append(ref)
        if ok:
            td.td_toks_have = len(toks)
            return
        self._collide(gd)
        td.td_contended += 1
        td.td_wmesg = self.t_desc
        td.td_toks_pending = True
        await SWITCH  # the scheduler acquires the whole stack before it resumes the thread
        td.td_toks_pending = False
        td.td_wmesg = ""

    def _try(self, td: Thread, excl: bool, blocking: bool) -> bool:
        """One attempt, under `t_lock`."""
        if self.t_owner is td:
            self.t_count += TOK_INCR
            return True
        if excl:
            if self.t_count & ~TOK_EXCLREQ:
                if blocking and self.t_exclreq is None:
                    self.t_exclreq = td
                    self.t_count |= TOK_EXCLREQ
                    if td.td_exclreq is None:
                        td.td_exclreq = {}
                    td.td_exclreq[self] = None
                return False
            if self.t_exclreq is td:
                self._clear_exclreq(td)
            self.t_owner = td
            self.t_count |= TOK_EXCLUSIVE
            if self.t_last is not td:
                self.t_last = td
                self.t_gen += 1
            return True
        if self.t_count & TOK_EXCLUSIVE:
            return False
        if self.t_exclreq is not None and self.t_exclreq is not td and not self.held_now(td):
            return False
        self.t_count += TOK_INCR
        if self.t_last is not td:
            self.t_last = None
        return True

    def held_now(self, td: Thread) -> bool:
        """Tell whether `td` really holds a reference at this moment (not only wants one back)."""
        return any(ref.tr_tok is self for ref in td.td_toks[: td.td_toks_have])

    def _drop(self, td: Thread) -> None:
        """Give back one reference, under `t_lock`: nested ones first, the owning one last."""
        if self.t_owner is td and self.t_count < TOK_INCR:
            self.t_owner = None
            self.t_count &= ~TOK_EXCLUSIVE
        else:
            self.t_count -= TOK_INCR

    def clear_exclreq(self, td: Thread) -> None:
        """Drop the reservation of `td`, if it is its."""
        with self.t_lock:
            if self.t_exclreq is td:
                self._clear_exclreq(td)

    def _clear_exclreq(self, td: Thread) -> None:
        self.t_exclreq = None
        self.t_count &= ~TOK_EXCLREQ
        if td.td_exclreq is not None:
            td.td_exclreq.pop(self, None)

    def _collide(self, gd: GlobalData) -> None:
        self.t_collisions += 1
        gd.gd_cnt.v_lock_colls += 1
        gd.gd_cnt.v_lock_name = self.t_desc

    # ------------------------------------------------------------------- errors

    def _new_holder(self, td: Thread) -> None:
        """Another thread than the last one takes it exclusively: the cold part of `get`."""
        if td.td_flags & TDF_IDLE or td.td_gd.gd_domain is not self.t_domain:
            self._refuse("get")
        self.t_last = td
        self.t_gen += 1

    def _check_stack(self, td: Thread, toks: list[Token | SharedRef]) -> None:
        if len(toks) >= MAXTOKENS:
            raise LimitExceeded(f"more than {MAXTOKENS} tokens in {thread_label(td)}")
        if self.t_shared in toks and self not in toks:
            raise KernelPanic(
                f"token '{self.t_desc}' wanted exclusively by {thread_label(td)}, which holds it shared:"
                " that could never succeed"
            )

    def _refuse(self, what: str) -> None:
        gd = cpu.gd
        if self.t_domain.contended:
            raise WrongContext(f"token '{self.t_desc}': {what}() on a host with contention: await a{what}()")
        if get_ident() != self.t_ident:
            raise WrongContext(
                f"token '{self.t_desc}' of domain '{self.t_domain.name}' used from OS thread"
                f" '{threading.current_thread().name}'"
            )
        if gd is None or gd.gd_domain is not self.t_domain:
            raise WrongContext(f"token '{self.t_desc}' belongs to domain '{self.t_domain.name}', not to this one")
        raise WrongContext(f"token '{self.t_desc}': {what}() outside a kernel thread")

    def _refuse_rel(self, td: Thread) -> None:
        newest = td.td_toks[-1].tr_tok.t_desc if td.td_toks else None
        raise KernelPanic(
            f"token '{self.t_desc}' released out of order by {thread_label(td)}:"
            + (f" the newest is '{newest}'" if newest else " it holds none")
        )


def lwkt_gettoken(tok: Token) -> None:
    """`tok.get()`."""
    tok.get()


def lwkt_gettoken_shared(tok: Token) -> None:
    """`tok.get_shared()`."""
    tok.get_shared()


def lwkt_reltoken(tok: Token) -> None:
    """`tok.rel()`."""
    tok.rel()


def token_swap() -> None:
    """Exchange the two newest references of the running thread, so that one can be released out of order.

    Two references to the same token are left alone: the deeper one is the owner.

    Raises:
        KernelPanic: the thread holds fewer than two references.
    """
    td = mycpu().gd_curthread
    toks = td.td_toks
    if len(toks) < 2:
        raise KernelPanic(f"token_swap with {len(toks)} tokens in {thread_label(td)}")
    if toks[-1].tr_tok is not toks[-2].tr_tok:
        toks[-1], toks[-2] = toks[-2], toks[-1]


def cnttoken(tok: Token, td: Thread) -> int:
    """Return how many references to `tok` stand on the stack of `td`."""
    return sum(ref.tr_tok is tok for ref in td.td_toks)


def getpooltoken(obj: object) -> Token:
    """Return the pool token of `obj` (by identity): a lock that outlives what it protects.

    Two objects may share one, which can only over-serialize; so never take it shared deep in a call chain.
    """
    domain = mycpu().gd_domain
    slot = (id(obj) >> 4) % TOKEN_POOL_SIZE
    tok = domain.token_pool.get(slot)
    if tok is None:
        tok = domain.token_pool.setdefault(slot, Token(f"pool{slot}", domain))
    return tok


# ------------------------------------------------------ for the scheduler only


def switch_in(td: Thread) -> None:
    """One OS thread: `td` resumes with its stack; move the generations of what it holds exclusively."""
    for ref in td.td_toks:
        tok = ref.tr_tok
        if ref.tr_excl:
            if tok.t_last is not td:
                tok.t_last = td
                tok.t_gen += 1
        elif tok.t_last is not td:
            tok.t_last = None


def relalltokens(td: Thread) -> None:
    """Contended: give back, newest first, whatever `td` really holds; its stack stays."""
    toks = td.td_toks
    for i in range(td.td_toks_have - 1, -1, -1):
        tok = toks[i].tr_tok
        with tok.t_lock:
            tok._drop(td)
    td.td_toks_have = 0


def getalltokens(gd: GlobalData, td: Thread, in_order: bool) -> bool:
    """Contended: acquire the whole stack of `td` or nothing.

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
        with tok.t_lock:
            if tok._try(td, ref.tr_excl, blocking=True):
                continue
        for got in reversed(refs[:i]):
            with got.tr_tok.t_lock:
                got.tr_tok._drop(td)
        tok._collide(gd)
        return False
    td.td_toks_have = len(refs)
    return True


def _token_order(ref: Token | SharedRef) -> int:
    return ref.tr_tok.t_seq
