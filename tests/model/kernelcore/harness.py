"""What the model tests share: simulations drawn by Hypothesis, and two sizes of campaign.

A case is a plain value: the program, the number of CPUs, the seed and the strategy of the chooser. A failing example is
printed as that value, and running it again replays the very same interleaving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kernelcore.globaldata import cpu
from kernelcore.host.sim import STRATEGIES, SimHost
from kernelcore.thread import Thread

C = TypeVar("C")

_SLOW_IS_FINE: Final = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)


class Broken(AssertionError):
    """A property of the kernel core does not hold; the text starts with the rule (T1, K7 ...)."""


class Sim(NamedTuple):
    """The machine a program runs on."""

    ncpus: int
    seed: int
    strategy: str


def sims(lo: int = 2, hi: int = 6) -> st.SearchStrategy[Sim]:
    """Draw a machine of `lo` to `hi` CPUs."""
    return st.builds(Sim, st.integers(lo, hi), st.integers(0, 2**16), st.sampled_from(sorted(STRATEGIES)))


def quick(examples: int) -> settings:
    """The campaign of every run: the same examples each time."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_IS_FINE
    )


def deep(examples: int) -> settings:
    """The campaign of `make test-long`: new examples each time, failing ones remembered."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=_SLOW_IS_FINE)


def search(check: Callable[[C], object], cases: st.SearchStrategy[C], examples: int) -> Exception | None:
    """Run `check` on `examples` cases, always the same ones; return the first failure, None if there is none."""

    @settings(quick(examples), phases=(Phase.generate,), report_multiple_bugs=False)
    @given(cases)
    def campaign(case: C) -> None:
        if not found:
            try:
                check(case)
            except Exception as exc:  # noqa: BLE001 - the finding is what is asked for
                found.append(exc)

    found: list[Exception] = []
    campaign()
    return found[0] if found else None


class CheckedHost(SimHost):
    """The simulator, remembering its threads so that a failed run leaves no half-run coroutine behind."""

    def __init__(self, sim: Sim, **kwargs: Any) -> None:
        super().__init__(sim.ncpus, sim.seed, sim.strategy, **kwargs)
        self.spawned: list[Thread] = []

    def spawn(self, func: Callable[..., object], *args: Any, cpu_id: int = -1, **kwargs: Any) -> Thread:
        td = super().spawn(func, *args, cpu_id=cpu_id, **kwargs)
        self.spawned.append(td)
        return td

    def put_away(self) -> None:
        """Close whatever has not ended; a failed run leaves it in any state, so nothing it says counts any more."""
        for td in self.spawned:
            if td.td_coro is not None:
                cpu.gd = td.td_gd
                td.td_gd.gd_curthread = td
                with suppress(Exception):
                    td.td_coro.close()
                td.td_coro = None
        with suppress(Exception):
            self.stop()


@contextmanager
def simulate(sim: Sim, max_steps: int = 20_000, **kwargs: Any) -> Iterator[CheckedHost]:
    """A simulator for one case."""
    host = CheckedHost(sim, max_steps=max_steps, **kwargs)
    try:
        yield host
    finally:
        host.put_away()


def expect(condition: object, rule: str, text: str) -> None:
    """Raise `Broken` naming the rule, unless `condition` holds."""
    if not condition:
        raise Broken(f"{rule}: {text}")
