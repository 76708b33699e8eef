"""The long run: ``python -m tests.fuzz --count N [--seed S] [--jobs J] [--resume FILE] [--replay SEED]``.

Goes through seeds S, S+1, ... on all cores. With ``--resume`` it writes how far it has come to FILE, and goes on from
there the next time. A failure is printed with the seed that makes it again; the run goes on, and ends with 1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

from tests.fuzz.targets import check

CHUNK = 50
MEMORY = 1 << 30
"""Address space a worker may use beyond what it has at its start."""


def limit_memory() -> None:
    """Make memory without bounds an error."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run_chunk(first: int) -> tuple[int, list[str]]:
    """Check some seeds; return what failed."""
    failures = []
    for seed in range(first, first + CHUNK):
        try:
            check(seed)
        except BaseException as err:  # noqa: BLE001 - every kind of failure is the point
            failures.append(f"{type(err).__name__}: {err}")
    return first, failures


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Mutated images for every reader.")
    parser.add_argument("--count", type=int, default=200_000, help="how many images in all")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--resume", type=Path, help="file that keeps how far the run has come")
    parser.add_argument("--replay", type=int, help="check one seed and show what happens")
    parser.add_argument("--seconds", type=float, help="stop after this time")
    args = parser.parse_args()
    if args.replay is not None:
        check(args.replay)
        return 0
    done, failures = 0, []
    if args.resume is not None and args.resume.exists():
        state = json.loads(args.resume.read_text(encoding="utf-8"))
        done, failures = state["done"], state["failures"]
    began = time.monotonic()
    chunks = range(args.seed + done, args.seed + args.count, CHUNK)
    with multiprocessing.Pool(args.jobs, limit_memory) as pool:
        for _, failed in pool.imap(run_chunk, chunks):
            done += CHUNK
            failures += failed
            for line in failed:
                print(line, flush=True)
            if args.resume is not None:
                part = args.resume.with_suffix(".part")
                part.write_text(json.dumps({"done": done, "failures": failures}), encoding="utf-8")
                part.replace(args.resume)
            if args.seconds is not None and time.monotonic() - began > args.seconds:
                break
    print(f"{done} images, {len(failures)} failures")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
