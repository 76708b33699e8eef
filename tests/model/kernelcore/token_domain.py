"""Random programs of tokens in a domain of one OS thread, where they are plain calls: K5, and K7 by the generation."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from kernelcore.globaldata import curthread
from kernelcore.host.up import UpHost
from kernelcore.panic import KernelPanic
from kernelcore.sched import lwkt_user_yield
from kernelcore.thread import Thread, join, lwkt_create
from kernelcore.token import Token, cnttoken, token_swap
from tests.model.kernelcore.harness import expect

Op = tuple[str, int]

OPS = (
    "get",
    "get",
    "shared",
    "shared",
    "rel",
    "rel",
    "swap",
    "try",
    "misrel",
    "write",
    "write",
    "write",
    "yield",
    "yield",
)


class DomainCase(NamedTuple):
    ncpus: int
    ntoks: int
    debug: bool
    threads: list[tuple[int, list[Op]]]


def domain_cases(max_threads: int = 5, max_ops: int = 14) -> st.SearchStrategy[DomainCase]:
    """Draw programs over 1 to 3 CPUs and as many tokens, with and without debug mode."""
    op = st.tuples(st.sampled_from(OPS), st.integers(0, 5))
    thread = st.tuples(st.integers(0, 2), st.lists(op, min_size=1, max_size=max_ops))
    return st.builds(
        DomainCase,
        st.integers(1, 3),
        st.integers(1, 3),
        st.booleans(),
        st.lists(thread, min_size=2, max_size=max_threads),
    )


class _Worker:
    """Runs the program of one thread, beside a model of its stack."""

    def __init__(self, tokens: list[Token], values: list[int], ops: list[Op]) -> None:
        self.tokens = tokens
        self.values = values
        self.ops = ops
        self.stack: list[tuple[int, bool]] = []
        self.seen: dict[int, tuple[int, int]] = {}  # token held: (generation, number)

    async def run(self) -> None:
        for name, arg in self.ops:
            if name == "yield":
                await lwkt_user_yield()
            else:
                getattr(self, f"op_{name}")(arg % len(self.tokens))
            self.revalidate()
            if arg & 1:
                await lwkt_user_yield()
                self.revalidate()
        while self.stack:
            self.op_rel(0)

    def revalidate(self) -> None:
        td = curthread()
        have = [(ref.tr_tok, ref.tr_excl) for ref in td.td_toks]
        expect(have == [(self.tokens[n], excl) for n, excl in self.stack], "K5", f"the stack is {have}")
        for n, (gen, value) in list(self.seen.items()):
            if any(tok == n for tok, _excl in self.stack):
                moved = self.tokens[n].changed_since(gen)
                expect(moved or self.values[n] == value, "K7", f"{self.tokens[n]!r} changed, gen still {gen}")
                self.seen[n] = (self.tokens[n].gen, self.values[n])
            else:
                del self.seen[n]

    def push(self, n: int, excl: bool) -> None:
        self.stack.append((n, excl))
        self.seen.setdefault(n, (self.tokens[n].gen, self.values[n]))

    def op_get(self, n: int) -> None:
        """Exclusive after shared could never succeed: refused, and nothing has changed."""
        misuse = (n, False) in self.stack and (n, True) not in self.stack
        try:
            self.tokens[n].get()
        except KernelPanic:
            expect(misuse, "K5", f"{self.tokens[n]!r} was refused")
            return
        expect(not misuse, "K1", f"{self.tokens[n]!r} taken exclusively while held shared")
        self.push(n, excl=True)
        self.op_write(n)

    def op_shared(self, n: int) -> None:
        self.tokens[n].get_shared()
        self.push(n, excl=False)

    def op_try(self, n: int) -> None:
        td: Thread = curthread()
        possible = (n, False) not in self.stack or (n, True) in self.stack
        expect(self.tokens[n].trytoken() == possible, "K5", f"trytoken of {self.tokens[n]!r}")
        if possible:
            self.push(n, excl=True)
        expect(cnttoken(self.tokens[n], td) == sum(tok == n for tok, _ in self.stack), "K5", "references of a try")

    def op_rel(self, _n: int) -> None:
        if self.stack:
            n, _excl = self.stack.pop()
            self.tokens[n].rel()

    def op_misrel(self, n: int) -> None:
        """What is not the newest is refused, and nothing has changed."""
        if self.stack and self.stack[-1][0] == n:
            return
        try:
            self.tokens[n].rel()
        except KernelPanic:
            return
        expect(False, "K5", f"{self.tokens[n]!r} was released out of order")

    def op_swap(self, _n: int) -> None:
        if len(self.stack) >= 2:
            token_swap()
            if self.stack[-1][0] != self.stack[-2][0]:
                self.stack[-1], self.stack[-2] = self.stack[-2], self.stack[-1]

    def op_write(self, n: int) -> None:
        if (n, True) in self.stack:
            self.values[n] += 1
            self.seen[n] = (self.tokens[n].gen, self.values[n])


def check_domain_tokens(case: DomainCase) -> None:
    """K5 and K7 on one case."""
    host = UpHost(case.ncpus, debug=case.debug)

    async def main() -> None:
        tokens = [Token(f"tok{n}") for n in range(case.ntoks)]
        values = [0] * case.ntoks
        threads = [
            lwkt_create(_Worker(tokens, values, ops).run, cpu_id=cpuid % case.ncpus) for cpuid, ops in case.threads
        ]
        for td in threads:
            await join(td)

    try:
        host.call(main())
    except KernelPanic as exc:
        raise (exc.__cause__ or exc) from None  # what the thread died of, rather than that it died
    finally:
        host.stop()
