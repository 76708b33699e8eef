"""The bench: each operation beside what it is compared with, measured in the same run.

A figure on its own says more about the machine and its load than about the code. So every case times two programs in
turn, A B A B, takes the median of each, and holds their ratio against a target. The garbage collector rests during a
sample. Single-thread figures are CPU time of the OS thread; where more than one OS thread takes part, or a mount, both
sides are wall time. Samples of wall time are many and short: on a busy machine most of them then lie within one turn
on a processor, and the median is one of those.

A sample is a loop `for _ in repeat(None, n)`; its own cost, some 10 ns a turn, is not taken off. Rows on a real mount
are differences in latency, with a limit in microseconds: see `bench_mount`.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Nanoseconds, from any origin."""

Probe: TypeAlias = Callable[[int, Clock], int]
"""Does an operation n times; returns the nanoseconds between the first and the last, without set-up and tear-down."""

CPU: Final[Clock] = time.thread_time_ns
WALL: Final[Clock] = time.perf_counter_ns

START_N: Final = 16
MAX_N: Final = 1 << 20


class Case(NamedTuple):
    """One comparison: `measure` is to cost at most `limit` times what `against` costs."""

    operation: str
    measure: Probe
    comparison: str
    against: Probe
    limit: float
    clock: Clock = CPU


class Effort(NamedTuple):
    """How much time a bench takes: interleaved rounds, and the nanoseconds that one sample should last."""

    rounds: int
    sample_ns: int


FULL: Final = Effort(15, 10_000_000)
QUICK: Final = Effort(3, 1_000_000)


_SHORTER: Final = 2  # samples of wall time


class Row(NamedTuple):
    """One line of the table.

    `measured` is in nanoseconds; `against` names what it is compared with and says what that took, or why there is no
    figure; `ratio` is measured over against; `passed` is None where nothing was measured.
    """

    operation: str
    measured: float | None
    against: str
    ratio: float | None
    target: str
    passed: bool | None

    def as_json(self) -> dict[str, object]:
        """Return it as the JSON object with the documented keys."""
        return {
            "operation": self.operation,
            "measured": None if self.measured is None else round(self.measured, 1),
            "against": self.against,
            "ratio": None if self.ratio is None else round(self.ratio, 4),
            "target": self.target,
            "pass": self.passed,
        }


def run_case(case: Case, effort: Effort) -> Row:
    """Time both sides of `case` in turn; return its row."""
    if case.clock is WALL:
        effort = Effort(effort.rounds * _SHORTER, effort.sample_ns // _SHORTER)
    ns = [calibrate(probe, case.clock, effort.sample_ns) for probe in (case.measure, case.against)]
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(effort.rounds):
        ours.append(sample(case.measure, ns[0], case.clock))
        theirs.append(sample(case.against, ns[1], case.clock))
    measured, against = statistics.median(ours), statistics.median(theirs)
    ratio = measured / against
    name = f"{case.comparison}, {ns_text(against)}"
    return Row(case.operation, measured, name, ratio, f"<= {case.limit:g}", ratio <= case.limit)


def calibrate(probe: Probe, clock: Clock, sample_ns: int) -> int:
    """Return how often `probe` must repeat its operation for a sample of about `sample_ns`. Warms it up, too."""
    n = START_N
    while n < MAX_N:
        took = max(probe(n, clock), 1)
        if took * 4 >= sample_ns:
            return max(START_N, min(MAX_N, n * sample_ns // took))
        n = min(MAX_N, max(n * 2, n * sample_ns // (took * 2)))
    return MAX_N


def sample(probe: Probe, n: int, clock: Clock) -> float:
    """Return the nanoseconds of one operation, from `n` of them with the garbage collector at rest."""
    gc.collect()
    gc.disable()
    try:
        return probe(n, clock) / n
    finally:
        gc.enable()


def select(rows: Iterable[tuple[str, str]], text: str) -> list[int]:
    """Return the indices of those (operation, comparison) pairs that contain `text`, in whatever case."""
    wanted = text.casefold()
    return [i for i, pair in enumerate(rows) if any(wanted in name.casefold() for name in pair)]


def ns_text(ns: float) -> str:
    """Nanoseconds for a reader: `63 ns`, `2.61 us`, `1.25 ms`."""
    if abs(ns) < 999.5:
        return f"{ns:.0f} ns"
    return f"{ns / 1e3:.3g} us" if abs(ns) < 999_500 else f"{ns / 1e6:.3g} ms"


def text_table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of the table as the rows come in."""
    yield f"{'operation':<56} {'measured':>9}  {'ratio':>6}  {'target':<8} {'':<4}  against"
    for row in rows:
        measured = "-" if row.measured is None else ns_text(row.measured)
        ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
        verdict = {True: "pass", False: "MISS", None: "-"}[row.passed]
        yield f"{row.operation:<56} {measured:>9}  {ratio:>6}  {row.target:<8} {verdict:<4}  {row.against}"


def json_text(rows: Iterable[Row]) -> str:
    """Return the rows as a JSON list, one object a line."""
    return "[\n" + ",\n".join("  " + json.dumps(row.as_json()) for row in rows) + "\n]"
