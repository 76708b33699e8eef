"""The token of ThreadHost: `ContendedToken` with a short way in and out where it is free.

A free token has a baton, the one item of `t_free`. Taking an item off a list is atomic, so who gets it holds the token
exclusively, without the lock and without touching the counts. Everything else (shared holders, nested references, what
the scheduler acquires, reservations) is the contended token's business, which takes the baton first and gives it back
when nobody holds the token any more; `t_slow` says that it has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelcore.defs import MAXTOKENS
from kernelcore.globaldata import cpu
from kernelcore.token_contended import TOK_EXCLREQ, ContendedToken

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain
    from kernelcore.thread import Thread


class ThreadToken(ContendedToken):
    """A token that CPUs which are OS threads take, by `aget`, `aget_shared`, `trytoken`, `async with`."""

    __slots__ = ("t_free", "t_nested", "t_slow")

    def __init__(self, desc: str, domain: Domain | None = None) -> None:
        super().__init__(desc, domain)
        self.t_free: list[None] = [None]
        self.t_nested = 0  # references of the holder of the baton beyond its first; written by it alone
        self.t_slow = False

    async def aget(self) -> None:
        """Take it exclusively, switching while somebody else runs with it."""
        gd = cpu.gd
        td: Thread = gd.gd_curthread
        have = td.td_toks_have
        if have < MAXTOKENS and not gd.gd_intr_nesting_level:
            try:
                self.t_free.pop()
            except IndexError:
                pass
            else:
                self.t_owner = td
                if self.t_last is not td:
                    self.t_last = td
                    self.t_gen += 1
                td.td_toks.append(self)
                td.td_toks_have = have + 1
                return
        await self._acquire(self)

    def rel(self) -> None:
        """Release the newest reference."""
        td = cpu.gd.gd_curthread
        toks = td.td_toks
        # The holder of the baton sees no change here: nobody else touches these while it has it.
        if self.t_slow or self.t_nested or not toks or toks[-1] is not self:
            super().rel()
            return
        toks.pop()
        td.td_toks_have -= 1
        self.t_owner = None
        self.t_free.append(None)

    def attempt(self, td: Thread, excl: bool, blocking: bool) -> bool:
        """`ContendedToken.attempt`, by whoever has the baton or after taking it."""
        if not self.t_slow:
            if self.t_owner is td:
                self.t_nested += 1
                return True
            try:
                self.t_free.pop()
            except IndexError:  # held by the short way
                if excl and blocking:
                    self.reserve(td)
                return False
            self.t_slow = True
        ok = super().attempt(td, excl, blocking)
        self._give_back()
        return ok

    def drop(self, td: Thread) -> None:
        """`ContendedToken.drop`, and the baton with the last reference."""
        if self.t_slow:
            super().drop(td)
            self._give_back()
        elif self.t_nested:
            self.t_nested -= 1
        else:
            self.t_owner = None
            self.t_free.append(None)

    def _give_back(self) -> None:
        if not self.t_count & ~TOK_EXCLREQ:
            self.t_slow = False
            self.t_free.append(None)
