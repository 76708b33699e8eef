"""What the model tests share: simulations drawn by Hypothesis, and two sizes of campaign.

A case is a plain value: the program, the number of CPUs, the seed and the strategy of the chooser. A failing example is
printed as that value, and running it again replays the very same interleaving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from random import Random
from typing import Any, Final, NamedTuple, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kernelcore.globaldata import GlobalData, cpu
from kernelcore.host.sim import STRATEGIES, SimDeadlock, SimHost
from kernelcore.thread import Thread
from tests.model.kernelcore.mutate import windows

C = TypeVar("C")

_SLOW_IS_FINE: Final = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)


class _Found(BaseException):
    """Ends a campaign: no search for a smaller example, which takes many times as long."""


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

    found: list[Exception] = []

    @settings(quick(examples), phases=(Phase.generate,))
    @given(cases)
    def campaign(case: C) -> None:
        try:
            check(case)
        except Exception as exc:
            found.append(exc)
            raise _Found from exc

    with suppress(_Found):
        campaign()
    return found[0] if found else None


class CheckedHost(SimHost):
    """The simulator, with checks of the test's own after each step.

    It remembers its threads so that a failed run leaves no half-run coroutine behind.
    """

    def __init__(self, sim: Sim, **kwargs: Any) -> None:
        super().__init__(sim.ncpus, sim.seed, sim.strategy, **kwargs)
        self.spawned: list[Thread] = []
        self.watches: list[Callable[[], object]] = []
        self.live = False
        self.window_rng = Random(sim.seed)

    def spawn(self, func: Callable[..., object], *args: Any, cpu_id: int = -1, **kwargs: Any) -> Thread:
        td = super().spawn(func, *args, cpu_id=cpu_id, **kwargs)
        self.spawned.append(td)
        return td

    def run_to_end(self, rule: str) -> None:
        """Run until every thread has ended; that it never does breaks `rule`."""
        self.live = True
        try:
            self.run_sim()
        except SimDeadlock as stuck:
            raise Broken(f"{rule}: {stuck}") from stuck
        finally:
            self.live = False

    def _step(self, gd: GlobalData) -> None:
        super()._step(gd)
        for watch in self.watches:
            watch()

    def window(self) -> None:
        """In code that another CPU may interrupt: let others run, one time in four."""
        if self.live and cpu.gd.gd_domain is self and self.window_rng.random() < 0.25:
            self.spin(cpu.gd)

    def put_away(self) -> None:
        """Close whatever has not ended; a failed run leaves it in any state, so nothing it says counts any more."""
        for td in self._everybody():
            if td.td_coro is not None:
                cpu.gd = td.td_gd
                td.td_gd.gd_curthread = td
                with suppress(Exception):
                    td.td_coro.close()
                td.td_coro = None
        with suppress(Exception):
            self.stop()

    def _everybody(self) -> list[Thread]:
        found = dict.fromkeys(self.spawned)
        for gd in self.gds:
            found |= dict.fromkeys((*gd.gd_tdallq, gd.gd_curthread))
            sent = [entry[1] for q in gd.gd_ipiq for entry in q.fifo]  # a new thread, or one that migrates
            found |= dict.fromkeys(td for td in (*sent, *chain(*gd.gd_runqs)) if isinstance(td, Thread))
        return list(found)


@contextmanager
def simulate(sim: Sim, max_steps: int = 20_000, fine: tuple[Any, ...] = (), **kwargs: Any) -> Iterator[CheckedHost]:
    """A simulator for one case.

    Args:
        sim: the machine.
        max_steps: what takes longer hangs.
        fine: functions in which other CPUs may run between any two statements. The rules that hold between steps say
            nothing about the middle of a step, so they are not checked then.
        kwargs: of the simulator.
    """
    host = CheckedHost(sim, max_steps=max_steps, check=not fine, **kwargs)
    try:
        with windows(fine, host.window):
            yield host
    finally:
        host.put_away()


def expect(condition: object, rule: str, text: str) -> None:
    """Raise `Broken` naming the rule, unless `condition` holds."""
    if not condition:
        raise Broken(f"{rule}: {text}")
