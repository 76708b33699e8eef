"""Programs of threads that want whole sets of tokens, shared and exclusive mixed, in any order: K6.

Between two steps of collecting its set a thread may be interrupted by other CPUs, tokens held. That is the shape in
which reservations (EXCLREQ) without the sorted fallback make some programs hang: two threads, each pending on a set of
which the other has reserved a part.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from kernelcore import switch, token_contended
from kernelcore.sched import lwkt_switch, preempt_point
from kernelcore.token import Token
from kernelcore.token_contended import ContendedToken
from tests.model.kernelcore.harness import Sim, expect, sims, simulate

Want = tuple[int, bool]  # token, exclusive

# getalltokens takes one token after the other: where CPUs are real, two may each take a part.
FINE = (token_contended.getalltokens, vars(switch)["relalltokens"])


class SetCase(NamedTuple):
    sim: Sim
    threads: list[list[list[Want]]]  # for each thread the sets it wants, one after the other


def set_cases(ntoks: int = 3, nthreads: int = 6) -> st.SearchStrategy[SetCase]:
    """Draw `nthreads` threads over 2 to 3 CPUs and `ntoks` tokens."""
    want = st.tuples(st.integers(0, ntoks - 1), st.booleans())
    wants = st.lists(want, min_size=2, max_size=ntoks, unique_by=lambda w: w[0])
    threads = st.lists(st.lists(wants, min_size=3, max_size=3), min_size=nthreads, max_size=nthreads)
    return st.builds(SetCase, sims(2, 3), threads)


class _Ground:
    """What the tokens protect: who is inside, for each token."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.inside: list[list[bool]] = [[] for _ in tokens]

    async def worker(self, sets: list[list[Want]]) -> None:
        for wants in sets:
            for n, excl in wants:
                await (self.tokens[n].aget() if excl else self.tokens[n].aget_shared())
                await preempt_point()
            await lwkt_switch()  # all are lost here, and taken again before it returns
            await self.stay(wants)
            for n, _excl in reversed(wants):
                self.tokens[n].rel()

    async def stay(self, wants: list[Want]) -> None:
        """K1: who holds a token exclusively is alone with it."""
        for n, excl in wants:
            alone = not self.inside[n] if excl else True not in self.inside[n]
            expect(alone, "K1", f"token {n} is held by another running thread")
            self.inside[n].append(excl)
        await preempt_point()
        for n, excl in wants:
            self.inside[n].remove(excl)


def check_sets(case: SetCase, fine: bool = False, max_steps: int = 4_000) -> None:
    """K6 on one case: every thread finishes. K1 and K4 as well."""
    with simulate(case.sim, max_steps, FINE if fine else ()) as host:
        tokens = [Token(f"tok{n}", host) for n in range(4)]
        ground = _Ground(tokens)
        for n, sets in enumerate(case.threads):
            host.spawn(ground.worker, sets, cpu_id=n % case.sim.ncpus)
        host.run_to_end("K6")
        for tok in tokens:
            assert isinstance(tok, ContendedToken)
            expect(tok.t_count == 0 and tok.t_exclreq is None, "K4", f"{tok!r} is left with count {tok.t_count}")
