"""`python -m kernelcore bench`: which rows there are, and running them.

A module of rows has a tuple `CASES`: of `bench.Case`, and then it is named in `PROBES`; or of rows that are measured
together on a mount.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

from kernelcore.lab import bench_host, bench_lwkt, bench_memory, bench_mount
from kernelcore.lab.bench import FULL, QUICK, Case, Effort, Row, json_text, run_case, select, text_table

PROBES: Final = (bench_lwkt, bench_host, bench_memory)


def all_rows() -> list[Case | bench_mount.MountCase]:
    """Return what makes each row, in the order of the table."""
    return [*(case for module in PROBES for case in module.CASES), *bench_mount.CASES]


def comparison(row: Case | bench_mount.MountCase) -> str:
    """What the row is compared with."""
    return row.comparison if isinstance(row, Case) else bench_mount.comparison(row)


def run(rows: list[Case | bench_mount.MountCase], effort: Effort) -> Iterator[Row]:
    """Measure one row after another, those on the mount together."""
    for row in rows:
        if isinstance(row, Case):
            yield run_case(row, effort)
    on_mount = [row for row in rows if isinstance(row, bench_mount.MountCase)]
    if on_mount:
        yield from bench_mount.run(on_mount, effort)


def main(args: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit code."""
    rows = all_rows()
    chosen = [rows[i] for i in select([(row.operation, comparison(row)) for row in rows], args.filter)]
    if not chosen:
        print(f"bench: no row contains '{args.filter}'; see --list", file=sys.stderr)
        return 2
    if args.list:
        for row in chosen:
            print(f"{row.operation}  against  {comparison(row)}")
        return 0
    if find_spec("trio") is None:
        print("bench: trio is not installed, with which the services are compared", file=sys.stderr)
        return 1
    effort = QUICK if args.quick else FULL
    if args.rounds:
        effort = effort._replace(rounds=args.rounds)
    measured = run(chosen, effort)
    try:
        if args.json:
            print(json_text(list(measured)))
        else:
            for line in text_table(measured):
                print(line, flush=True)
    except OSError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    return 0
