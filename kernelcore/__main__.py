"""`python -m kernelcore`, the lab: look at the kernel services (ps), time them (bench), watch them (sim)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

USAGE_ERROR = 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the lab's three commands."""
    parser = _Parser(prog="python -m kernelcore", description="The lab of DragonFly's kernel services in Python.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_ps(commands.add_parser("ps", help="show a small live domain: threads, tokens, IPIs, ports, memory"))
    _add_bench(commands.add_parser("bench", help="time each operation beside what it is compared with"))
    _add_sim(commands.add_parser("sim", help="play a scenario in the simulator and print its timeline"))
    return parser


def _add_ps(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a small domain with a thread in every state, and show it as the statistics see it. STAT: R runs, Q queued,"
        " T waits for a token, S sleeps (tsleep), B blocked (lwkt_sleep, ports), N not started, Z ended but held;"
        " s a system call, c in a critical section."
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time each operation beside what it is compared with, in turn, and hold the ratio of the medians against its"
        " target. Ratios can be trusted on a busy machine, the nanoseconds cannot."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="interleaved rounds (default 15)")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only rows that name TEXT, in whatever case")
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a smoke test: figures are rough")
    parser.add_argument("--list", action="store_true", help="name the rows and leave")


def _add_sim(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Play a small program on several virtual CPUs, one step at a time, in an order drawn from the seed; print who"
        " ran where, and the counters. The same seed gives the same text. Exit code 1: a part did not end as it must."
    )
    parser.add_argument("scenario", nargs="?", metavar="SCENARIO", help="which one; see --list")
    parser.add_argument("--list", action="store_true", help="name the scenarios and leave")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="what the order is drawn from (default 0)")
    parser.add_argument(
        "--cpus", type=_positive, metavar="N", help="virtual CPUs, at most 16 (default: the scenario's)"
    )
    parser.add_argument("--strategy", default="uniform", metavar="S", help="uniform, pct, starve or fifo-full")
    parser.add_argument("--json", action="store_true", help="print events and counters as JSON")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the lab; return the exit code: 0, or 2 for a wrong option."""
    args = build_parser().parse_args(argv)
    if args.command == "bench":
        from kernelcore.lab import bench_run

        return bench_run.main(args)
    if args.command == "ps":
        from kernelcore.lab import ps

        return ps.main(args)
    from kernelcore.lab import sim

    return sim.main(args)


if __name__ == "__main__":
    sys.exit(main())
