"""`python -m kernelcore bench`: which rows there are, and running them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from kernelcore.lab import bench_host, bench_lwkt
from kernelcore.lab.bench import FULL, QUICK, Case, Effort, Row, json_text, run_case, select, text_table


def all_cases() -> list[Case]:
    """Return every case, in the order of the table."""
    return [*bench_lwkt.CASES, *bench_host.CASES]


def run(cases: list[Case], effort: Effort) -> Iterator[Row]:
    """Time the cases one after another."""
    for case in cases:
        yield run_case(case, effort)


def main(args: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit code."""
    cases = all_cases()
    chosen = [cases[i] for i in select([(case.operation, case.comparison) for case in cases], args.filter)]
    if not chosen:
        print(f"bench: no row contains '{args.filter}'; see --list", file=sys.stderr)
        return 2
    if args.list:
        for case in chosen:
            print(f"{case.operation}  against  {case.comparison}")
        return 0
    effort = QUICK if args.quick else FULL
    if args.rounds:
        effort = effort._replace(rounds=args.rounds)
    rows = run(chosen, effort)
    if args.json:
        print(json_text(list(rows)))
    else:
        for line in text_table(rows):
            print(line, flush=True)
    return 0
