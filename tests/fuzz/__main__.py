"""The long run: ``python -m tests.fuzz --count N [--seed S] [--jobs J] [--resume FILE] [--replay SEED]``.

Goes through seeds S, S+1, ... on all cores. With ``--resume`` it keeps in FILE how far it has come and which seeds
failed; the next run tries those again first and goes on behind the last one, or from S when it was at the end. A
failure is printed with the seed that makes it again; the run goes on, and ends with 1.
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


Failures = dict[int, str]


def run_seeds(seeds: range | list[int]) -> tuple[int, Failures]:
    """Check some seeds; return how many, and what failed."""
    failures = {}
    parent = multiprocessing.parent_process()
    for seed in seeds:
        if parent is not None and not parent.is_alive():
            os._exit(1)  # the run was killed: nobody wants the rest
        try:
            check(seed)
        except BaseException as err:  # noqa: BLE001 - every kind of failure is the point
            failures[seed] = f"seed {seed}: {type(err).__name__}: {err}"
    return len(seeds), failures


class State:
    """How far a run has come.

    Args:
        path: Where it is kept between runs, if it is.
        count: Seeds of a whole run.
    """

    def __init__(self, path: Path | None, count: int) -> None:
        self._path = path
        self.done = 0
        self.failures: Failures = {}
        if path is not None and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.done = kept["done"] if kept["done"] < count else 0
            _, self.failures = run_seeds([int(seed) for seed in kept["failures"]])

    def add(self, done: int, failures: Failures) -> None:
        """Count what has been checked, tell what failed, and keep both."""
        self.done += done
        self.failures |= failures
        for text in failures.values():
            print(text, flush=True)
        if self._path is not None:
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps({"done": self.done, "failures": self.failures}), encoding="utf-8")
            part.replace(self._path)


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
    began = time.monotonic()
    state = State(args.resume, args.count)
    end = args.seed + args.count
    chunks = [range(at, min(at + CHUNK, end)) for at in range(args.seed + state.done, end, CHUNK)]
    with multiprocessing.Pool(args.jobs, limit_memory) as pool:
        for done, failures in pool.imap(run_seeds, chunks):
            state.add(done, failures)
            if args.seconds is not None and time.monotonic() - began > args.seconds:
                break
    print(f"{state.done} images, {len(state.failures)} failures")
    return int(bool(state.failures))


if __name__ == "__main__":
    sys.exit(main())
