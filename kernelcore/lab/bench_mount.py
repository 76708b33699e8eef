"""The rows on a real mount: what the kernel services add to a request of the kernel's, in microseconds.

The mount lives in a process of its own (`nullmount`); this one asks. In each round it makes a few requests of each kind
in turn, in ever other order, and takes the median of each kind; a row is the median over the rounds of the difference
to the null handler. Two processes hand each request to and fro, so the figures are wall time, and the null handler's
moves with the machine by half: only the differences within a round say something.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from kernelcore.lab.bench import Effort, Row, ns_text

PATIENCE_SECONDS: Final = 30.0
REQUESTS: Final = 200  # of one sample, in the full effort
_FULL_SAMPLE_NS: Final = 10_000_000
_READ_BYTES: Final = 16384
_FEW: Final = 4


class MountCase(NamedTuple):
    """One row: what `operation` adds to the file it stands beside.

    `file` and `null` are files of the mount, `by_read` says whether they are read rather than asked for attributes;
    `limit_us` bounds the difference, `limit_ratio` the difference over the null request, where given.
    """

    operation: str
    file: str
    null: str
    by_read: bool
    limit_us: float
    limit_ratio: float | None = None


CASES: Final = (
    MountCase("system call that never blocks (plain), over a null handler", "plain", "null", False, 5, 0.1),
    MountCase("system call that never blocks (coroutine), over a null handler", "syscall", "null", False, 5),
    MountCase("service-thread round trip in a request, over null", "service", "null", False, 10),
    MountCase("16 KiB read miss by an I/O CPU, page cached, over null", "miss", "zeros", True, 100),
)
"""The rows of the table."""


def missing() -> str | None:
    """Say why there can be no mount here, None where there can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no access to /dev/fuse"
    for name in ("pyfuse3", "trio"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    return None


def comparison(case: MountCase) -> str:
    """What the row is compared with."""
    return "null pyfuse3 read of 16 KiB" if case.by_read else "null pyfuse3 getattr"


def run(cases: list[MountCase], effort: Effort) -> Iterator[Row]:
    """Mount, measure, unmount; yield the rows. Where there can be no mount they have no figures and say why."""
    reason = missing()
    if reason is not None:
        for case in cases:
            yield Row(case.operation, None, f"{comparison(case)}: not measured, {reason}", None, _target(case), None)
        return
    with mounted() as root:
        yield from _measure(root, cases, effort)


def _measure(root: Path, cases: list[MountCase], effort: Effort) -> Iterator[Row]:
    requests = max(20, REQUESTS * effort.sample_ns // _FULL_SAMPLE_NS)
    kinds = dict.fromkeys((name, case.by_read) for case in cases for name in (case.null, case.file))
    samples: dict[tuple[str, bool], list[float]] = {kind: [] for kind in kinds}
    with ExitStack() as files:
        asks = [_asker(root / name, files, by_read=by_read) for name, by_read in kinds]
        for _ in range(effort.rounds + 1):
            for kind, median in zip(kinds, _medians(asks, requests), strict=True):
                samples[kind].append(median)
    for case in cases:
        ours, null = samples[case.file, case.by_read][1:], samples[case.null, case.by_read][1:]  # the first warms up
        over = statistics.median(a - b for a, b in zip(ours, null, strict=True))
        base = statistics.median(null)
        ratio = over / base
        passed = over <= case.limit_us * 1e3 and (case.limit_ratio is None or ratio <= case.limit_ratio)
        yield Row(case.operation, over, f"{comparison(case)}, {ns_text(base)}", ratio, _target(case), passed)


def _target(case: MountCase) -> str:
    return f"<= {case.limit_us:g} us" + ("" if case.limit_ratio is None else f" <= {case.limit_ratio:.0%}")


def _medians(asks: list[Callable[[], object]], requests: int) -> list[float]:
    """Make some requests of each kind in turn; return the median nanoseconds of each kind.

    The order changes, and the first of each few does not count: a request is slower after one of another kind.
    """
    clock = time.perf_counter_ns
    took: list[list[int]] = [[] for _ in asks]
    order = list(range(len(asks)))
    rng = Random(0)
    for _ in range(requests // _FEW):
        rng.shuffle(order)
        for kind in order:
            ask = asks[kind]
            ask()
            for _ in range(_FEW):
                began = clock()
                ask()
                took[kind].append(clock() - began)
    return [statistics.median(times) for times in took]


def _asker(path: Path, files: ExitStack, *, by_read: bool) -> Callable[[], object]:
    """Return a function that makes one request of the file, which `files` closes."""
    if by_read:
        fd = files.enter_context(path.open("rb", buffering=0)).fileno()
        return lambda: os.pread(fd, _READ_BYTES, 0)
    return lambda: os.stat(path)


@contextmanager
def mounted() -> Iterator[Path]:
    """Mount in another process; yield the mount point.

    Raises:
        OSError: The mount did not come up.
    """
    with tempfile.TemporaryDirectory(prefix="kernelcore-bench-") as folder:
        root = Path(folder, "mount")
        root.mkdir()
        data = Path(folder, "data")
        data.write_bytes(os.urandom(_READ_BYTES))
        command = [sys.executable, "-m", "kernelcore.lab.nullmount", str(root), str(data)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            _wait_for(root, server)
            yield root
        finally:
            _unmount(root, server)


def _wait_for(root: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not os.path.ismount(root):
        if server.poll() is not None:
            assert server.stderr is not None
            last = server.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"the null mount ended with {server.returncode}: {' '.join(last)}")
        if time.monotonic() > deadline:
            raise OSError("the null mount did not come up")
        time.sleep(0.01)


def _unmount(root: Path, server: subprocess.Popen[bytes]) -> None:
    if os.path.ismount(root):
        command = ["umount", str(root)] if os.geteuid() == 0 else ["fusermount3", "-u", str(root)]
        subprocess.run(command, check=False, capture_output=True)
    try:
        server.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    assert server.stderr is not None
    server.stderr.close()
