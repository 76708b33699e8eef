"""Random programs of tokens: get, get_shared, rel, swap, try, block, preempt, migrate, over several CPUs.

Each token protects a number. A thread remembers number and generation of every token it holds; whenever it goes on it
checks both, which is what code under a token relies on. K1 to K4 are checked after every step by the simulator
(`invariants`), K5 to K7 and T3 here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

from hypothesis import strategies as st

from kernelcore import switch
from kernelcore.defs import KERN_LPSCHED, MAXTOKENS
from kernelcore.globaldata import GlobalData, curthread
from kernelcore.host import sim as simhost
from kernelcore.panic import KernelPanic
from kernelcore.sched import lwkt_migratecpu, lwkt_setpri_self, lwkt_switch, lwkt_user_yield, preempt_point
from kernelcore.sleep import tsleep
from kernelcore.thread import Thread
from kernelcore.token import Token, cnttoken, token_swap
from kernelcore.token_contended import ContendedToken
from tests.model.kernelcore.harness import Sim, expect, sims, simulate

Op = tuple[str, int]

OPS = (
    *("get", "get", "get", "shared", "shared", "shared", "rel", "rel", "rel", "rel", "swap", "try"),
    *("write", "write", "preempt", "try", "try", "block", "yield", "sleep", "migrate", "setpri", "misrel"),
)


class ThreadProgram(NamedTuple):
    cpu: int
    pri: int
    ops: list[Op]


class TokenCase(NamedTuple):
    sim: Sim
    ntoks: int
    threads: list[ThreadProgram]


def _threads(ops: tuple[str, ...], max_threads: int, max_ops: int) -> st.SearchStrategy[list[ThreadProgram]]:
    op = st.tuples(st.sampled_from(ops), st.integers(0, 11))
    pri = st.sampled_from((4, 6, 8, 9, 12, 12, 12, 16, 20))
    one = st.builds(ThreadProgram, st.integers(0, 5), pri, st.lists(op, min_size=1, max_size=max_ops))
    return st.lists(one, min_size=2, max_size=max_threads)


def token_cases(ops: tuple[str, ...] = OPS, max_threads: int = 8, max_ops: int = 14) -> st.SearchStrategy[TokenCase]:
    """Draw programs over 2 to 6 CPUs and 2 to 6 tokens."""
    return st.builds(TokenCase, sims(), st.integers(2, 6), _threads(ops, max_threads, max_ops))


class _Worker:
    """Runs the program of one thread, beside a model of its stack."""

    def __init__(self, tokens: list[Token], values: list[int], program: ThreadProgram) -> None:
        self.tokens = tokens
        self.values = values
        self.ops = program.ops
        self.stack: list[tuple[int, bool]] = []  # (token, exclusive), newest last
        self.seen: dict[int, tuple[int, int]] = {}  # token held: (generation, number)

    async def run(self) -> None:
        for name, arg in self.ops:
            await getattr(self, f"op_{name}")(arg)
            self.revalidate()
            await self.op_preempt(0)
        while self.stack:
            await self.op_rel(0)
        self.revalidate()

    def holds(self, n: int) -> bool:
        return any(tok == n for tok, _excl in self.stack)

    def owns(self, n: int) -> bool:
        return (n, True) in self.stack

    def pick(self, arg: int) -> int:
        return arg % len(self.tokens)

    def push(self, n: int, excl: bool) -> None:
        self.stack.append((n, excl))
        self.seen.setdefault(n, (self.tokens[n].gen, self.values[n]))

    def revalidate(self) -> None:
        """K2, K5: the whole stack is held, in order. K7: what is protected changes only if the generation moved."""
        td = curthread()
        have = [(ref.tr_tok, ref.tr_excl) for ref in td.td_toks]
        expect(have == [(self.tokens[n], excl) for n, excl in self.stack], "K5", f"the stack is {have}")
        expect(td.td_toks_have == len(have), "K2", f"{td.td_toks_have} of {len(have)} tokens are held")
        for n, (gen, value) in list(self.seen.items()):
            tok = self.tokens[n]
            if not self.holds(n):
                del self.seen[n]
                continue
            expect(tok.changed_since(gen) or self.values[n] == value, "K7", f"{tok!r} changed, gen still {gen}")
            self.seen[n] = (tok.gen, self.values[n])

    async def op_get(self, arg: int) -> None:
        n = self.pick(arg)
        if (self.holds(n) and not self.owns(n)) or len(self.stack) >= MAXTOKENS:
            return  # exclusive after shared is misuse
        await self.tokens[n].aget()
        self.push(n, excl=True)

    async def op_shared(self, arg: int) -> None:
        n = self.pick(arg)
        await self.tokens[n].aget_shared()
        self.push(n, excl=False)

    async def op_rel(self, _arg: int) -> None:
        if self.stack:
            n, _excl = self.stack.pop()
            self.tokens[n].rel()

    async def op_misrel(self, arg: int) -> None:
        """K5: a release out of order is refused and changes nothing."""
        n = self.pick(arg)
        if self.stack and self.stack[-1][0] == n:
            return
        try:
            self.tokens[n].rel()
        except KernelPanic:
            return
        expect(False, "K5", f"{self.tokens[n]!r} was released out of order")

    async def op_swap(self, _arg: int) -> None:
        if len(self.stack) >= 2:
            token_swap()
            if self.stack[-1][0] != self.stack[-2][0]:
                self.stack[-1], self.stack[-2] = self.stack[-2], self.stack[-1]

    async def op_try(self, arg: int) -> None:
        n = self.pick(arg)
        tok = self.tokens[n]
        collisions = tok.t_collisions
        if tok.trytoken():
            expect(not self.holds(n) or self.owns(n), "K1", f"{tok!r} taken exclusively while held shared")
            self.push(n, excl=True)
        else:
            expect(tok.t_collisions == collisions + 1, "K5", "a failed try is counted")
        expect(cnttoken(tok, curthread()) == sum(t == n for t, _ in self.stack), "K5", "references of a try")

    async def op_write(self, arg: int) -> None:
        n = self.pick(arg)
        if self.owns(n):
            self.values[n] += 1
            self.seen[n] = (self.tokens[n].gen, self.values[n])

    async def op_preempt(self, _arg: int) -> None:
        before = [self.values[n] for n, _excl in self.stack]
        await preempt_point()
        expect([self.values[n] for n, _excl in self.stack] == before, "K1", "changed while the token was held")

    async def op_block(self, _arg: int) -> None:
        await lwkt_switch()

    async def op_yield(self, _arg: int) -> None:
        await lwkt_user_yield()

    async def op_sleep(self, arg: int) -> None:
        await tsleep(self, 0, "nap", 0.001 * (arg + 1))

    async def op_migrate(self, arg: int) -> None:
        gds = curthread().td_gd.gd_domain.gds
        await lwkt_migratecpu(arg % len(gds))

    async def op_setpri(self, arg: int) -> None:
        lwkt_setpri_self(4 + arg)


def _could_run(gd: GlobalData, td: Thread) -> bool:
    """From the stacks alone: no running thread holds what `td` needs."""
    owned: set[Token] = set()
    running = [other.gd_curthread for other in gd.gd_domain.gds if other.gd_curthread is not td]
    for ref in td.td_toks:
        tok = ref.tr_tok
        if tok in owned:
            continue
        for other in running:
            for held in other.td_toks[: other.td_toks_have]:
                if held.tr_tok is tok and (ref.tr_excl or held.tr_excl):
                    return False
        if ref.tr_excl:
            owned.add(tok)
        elif _reserved(tok, td):
            return False
    return True


def _reserved(tok: Token, td: Thread) -> bool:
    assert isinstance(tok, ContendedToken)
    return tok.t_exclreq is not None and tok.t_exclreq is not td


def _kept_out(td: Thread) -> bool:
    """Whether a reservation that the same round made refuses `td`."""
    own = {ref.tr_tok for ref in td.td_toks if ref.tr_excl}
    return any(not ref.tr_excl and ref.tr_tok not in own and _reserved(ref.tr_tok, td) for ref in td.td_toks)


def _watched(pick: Callable[[GlobalData], Thread | None]) -> Callable[[GlobalData], Thread | None]:
    """T3: the best ready thread whose tokens are free runs, in queue order among equals."""

    def watched_pick(gd: GlobalData) -> Thread | None:
        low_too = gd.gd_tok_rounds >= vars(switch)["LWKT_SPIN_LOOPS"]
        queue = [td for q in reversed(gd.gd_runqs) for td in q]
        able = [td for td in queue if _could_run(gd, td)]
        chosen = pick(gd)
        expect(chosen is None or chosen in able, "T3", f"{chosen} runs without its tokens")
        for td in able:
            if td is chosen:
                break
            floor = td.td_pri < KERN_LPSCHED and td is not queue[0] and not low_too
            expect(floor or _kept_out(td), "T3", f"{td} could run before {chosen}")
        return chosen

    return watched_pick


@contextmanager
def watched_pick() -> Iterator[None]:
    """Check T3 at every choice of the simulator."""
    with patch.object(simhost, "pick", _watched(vars(simhost)["pick"])):
        yield


def check_tokens(case: TokenCase, max_steps: int = 20_000) -> None:
    """K1 to K7 and T3 on one case; K6: every thread finishes."""
    with simulate(case.sim, max_steps) as host, watched_pick():
        tokens = [Token(f"tok{n}", host) for n in range(case.ntoks)]
        values = [0] * case.ntoks
        for program in case.threads:
            worker = _Worker(tokens, values, program)
            host.spawn(worker.run, cpu_id=program.cpu % case.sim.ncpus, pri=program.pri)
        host.run_sim()
        for tok in tokens:
            assert isinstance(tok, ContendedToken)
            expect(tok.t_count == 0 and tok.t_exclreq is None, "K4", f"{tok!r} is left with count {tok.t_count}")
