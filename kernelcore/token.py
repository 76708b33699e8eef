"""LWKT tokens: serialize threads *while they run*.

A thread that blocks or switches for any reason loses all of its tokens and does not run again until it has all of them
back; what they protect may have changed meanwhile. `gen` tells cheaply whether it has: remember it, sleep, revalidate
only if `changed_since(gen)`. Because a waiting thread holds nothing, no acquisition order can deadlock.

Two regimes, chosen by the domain in which the token is made:

*One OS thread carries all CPUs* (the domain of a mount, of a tool). The only other possible holder is not running, so a
token is always free: `get`, `get_shared`, `rel` and `with` are plain calls that keep the stack, the LIFO check and the
generation.

*Contended* (the simulator, ThreadHost): see `token_contended`. `aget` and `async with` work in both.
"""

from __future__ import annotations

import threading
from itertools import count
from threading import get_ident
from typing import TYPE_CHECKING, Final

from kernelcore.defs import MAXTOKENS, TDF_IDLE, TOKEN_POOL_SIZE
from kernelcore.globaldata import cpu, mycpu
from kernelcore.panic import KernelPanic, LimitExceeded, WrongContext, thread_label

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain
    from kernelcore.thread import Thread

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
    `Token(desc)` makes the kind of token that the running domain, or `domain`, needs.
    """

    __slots__ = (
        "__weakref__",
        "t_collisions",
        "t_desc",
        "t_domain",
        "t_gen",
        "t_ident",
        "t_last",
        "t_seq",
        "t_shared",
        "tr_tok",
    )

    tr_excl: Final = True

    def __new__(cls, desc: str, domain: Domain | None = None) -> Token:
        """Choose the class by the domain."""
        del desc
        kind = (mycpu().gd_domain if domain is None else domain).token_class
        return object.__new__(kind)

    def __init__(self, desc: str, domain: Domain | None = None) -> None:
        self.t_domain = domain = mycpu().gd_domain if domain is None else domain
        self.t_ident = get_ident()
        self.t_desc = desc
        self.t_seq = next(_sequence)  # stands for the address in the sorted order
        self.t_collisions = 0
        self.t_gen = 0
        self.t_last: Thread | None = None  # the last exclusive holder, None once somebody else shared it
        self.t_shared = SharedRef(self)
        self.tr_tok = self
        domain.register_token(self)

    def __repr__(self) -> str:
        return f"<token '{self.t_desc}'>"

    def get(self) -> None:
        """Take it exclusively; recursive. Plain: for a domain of one OS thread.

        The caller's context is checked when the holder changes; a domain in debug mode checks it every time.

        Raises:
            WrongContext: on another OS thread, in another domain, outside a kernel thread, or in a contended domain.
            KernelPanic: the thread holds it shared (it could never succeed), or holds 32 tokens.
        """
        td = cpu.gd.gd_curthread
        if self.t_last is not td:
            self._new_holder(td)
        toks = td.td_toks
        if toks:
            self.check_stack(td, toks)
        toks.append(self)

    def get_shared(self) -> None:
        """Take it shared; recursive. Plain: for a domain of one OS thread.

        Raises:
            WrongContext: as `get`.
            LimitExceeded: the thread holds 32 tokens.
        """
        td = cpu.gd.gd_curthread
        if self.t_last is not td:
            self._check_context(td, "get_shared")
            self.t_last = None
        toks = td.td_toks
        if len(toks) >= MAXTOKENS:
            raise LimitExceeded(f"more than {MAXTOKENS} tokens in {thread_label(td)}")
        toks.append(self.t_shared)

    def rel(self) -> None:
        """Release the newest reference.

        Raises:
            KernelPanic: the newest token of the running thread is another one.
        """
        td = cpu.gd.gd_curthread
        toks = td.td_toks
        if toks and toks[-1] is self:
            toks.pop()
        else:
            self._rel_shared(td)

    __enter__ = get

    def __exit__(self, *exc: object) -> None:
        self.rel()

    def shared(self) -> SharedRef:
        """`with tok.shared():` or `async with tok.shared():`."""
        return self.t_shared

    async def aget(self) -> None:
        """Take it exclusively on any host, switching while somebody else runs with it."""
        self.get()

    async def aget_shared(self) -> None:
        """Take it shared on any host, switching while somebody else runs with it exclusively."""
        self.get_shared()

    async def __aenter__(self) -> Token:
        await self.aget()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.rel()

    def trytoken(self) -> bool:
        """Take it exclusively if that needs no wait; never reserves it. A failure counts as a collision."""
        td = mycpu().gd_curthread
        if self.t_shared in td.td_toks and self not in td.td_toks:
            self.t_collisions += 1
            return False
        self.get()
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

    def clear_exclreq(self, td: Thread) -> None:
        """Drop the reservation of `td`: there are none without contention."""

    def check_stack(self, td: Thread, toks: list[Token | SharedRef]) -> None:
        """Check that `td`, which holds `toks`, may take this token exclusively."""
        if len(toks) >= MAXTOKENS:
            raise LimitExceeded(f"more than {MAXTOKENS} tokens in {thread_label(td)}")
        if self.t_shared in toks and self not in toks:
            raise KernelPanic(
                f"token '{self.t_desc}' wanted exclusively by {thread_label(td)}, which holds it shared:"
                " that could never succeed"
            )

    def _new_holder(self, td: Thread) -> None:
        self._check_context(td, "get")
        self.t_last = td
        self.t_gen += 1

    def _rel_shared(self, td: Thread) -> None:
        toks = td.td_toks
        if not toks or toks[-1] is not self.t_shared:
            self.refuse_rel(td)
        toks.pop()

    def _check_context(self, td: Thread, what: str) -> None:
        if get_ident() != self.t_ident:
            raise WrongContext(
                f"token '{self.t_desc}' of domain '{self.t_domain.name}' used from OS thread"
                f" '{threading.current_thread().name}'"
            )
        if td.td_gd.gd_domain is not self.t_domain:
            raise WrongContext(f"token '{self.t_desc}' belongs to domain '{self.t_domain.name}', not to this one")
        if td.td_flags & TDF_IDLE:
            raise WrongContext(f"token '{self.t_desc}': {what}() outside a kernel thread")

    def refuse_rel(self, td: Thread) -> None:
        """Raise KernelPanic: the newest token of `td` is another one."""
        newest = td.td_toks[-1].tr_tok.t_desc if td.td_toks else None
        raise KernelPanic(
            f"token '{self.t_desc}' released out of order by {thread_label(td)}:"
            + (f" the newest is '{newest}'" if newest else " it holds none")
        )


class CheckedToken(Token):
    """The token of a domain in debug mode: checks the caller's context at every call."""

    __slots__ = ()

    def get(self) -> None:
        """`Token.get`, checked."""
        self._check_context(cpu.gd.gd_curthread, "get")
        super().get()

    __enter__ = get

    def get_shared(self) -> None:
        """`Token.get_shared`, checked."""
        self._check_context(cpu.gd.gd_curthread, "get_shared")
        super().get_shared()


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
