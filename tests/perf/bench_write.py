"""Writing through the library, beside the host's file system and SQLite: ``python -m tests.perf.bench_write``.

Prints a table, or with ``--json`` a list of objects with the keys operation, measured, against, ratio, target, pass.
Best of the rounds; microseconds an operation (or a MiB), the final sync included. The same work is done by a Python
program on the host's file system (one fsync of each file's directory at the end), and by SQLite (one table of blobs,
WAL, synchronous=FULL, one transaction for each 1,000). Images and files lie in memory where the host has /dev/shm.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hammerfs.inode import Inode
from hammerfs.rw import WritableFS
from tests.perf.table import Row, show

ROUNDS = 5
FILES = 5_000
MIB = 256
RANDOM_WRITES = 4_000
CREATES_PER_S, MB_PER_S = 8_000, 400
"""Least speeds, final sync included."""
MEMORY_MIB = 128
_BATCH = 1_000
_BLOCK = random.Random(1).randbytes(4096)
_MEBIBYTE = random.Random(2).randbytes(1 << 20)


class Hammer:
    """A fresh image and what is done to it.

    Args:
        folder: Where the image goes.
    """

    def __init__(self, folder: Path) -> None:
        image = folder / "image"
        image.unlink(missing_ok=True)
        newfs = ["-m", "mkfs.cli", "-f", "--quiet", "-L", "BENCH", "-u", "64m", "--size", "4g", str(image)]
        subprocess.run([sys.executable, *newfs], check=True)
        self.fs = WritableFS.open_rw(str(image))
        self.root = self.fs.root()

    def create(self, count: int, data: bytes) -> None:
        """Files in one directory."""
        fs = self.fs
        directory = fs.mkdir(self.root, b"d%d" % len(data))
        for i in range(count):
            inode = fs.create(directory, b"file%06d" % i)
            if data:
                fs.write(inode, 0, data)
        fs.sync()

    def stat(self, count: int) -> None:
        """Their attributes, by path."""
        for i in range(count):
            self.fs.getattr(self.fs.resolve(b"/d0/file%06d" % i))

    def rename(self, count: int) -> None:
        """Each of them."""
        directory = self.fs.resolve(b"/d0")
        for i in range(count):
            self.fs.rename(directory, b"file%06d" % i, directory, b"name%06d" % i)
        self.fs.sync()

    def unlink(self, count: int) -> None:
        """Each of them."""
        directory = self.fs.resolve(b"/d0")
        for i in range(count):
            self.fs.unlink(directory, b"name%06d" % i)
        self.fs.sync()

    def sequential(self, mib: int) -> None:
        """One big file."""
        inode = self.fs.create(self.root, b"big")
        for i in range(mib):
            self.fs.write(inode, i << 20, _MEBIBYTE)
        self.fs.sync()

    def scattered(self, count: int) -> None:
        """Blocks of 4 KiB all over the big file."""
        inode: Inode = self.fs.resolve(b"/big")
        rng = random.Random(3)
        for _ in range(count):
            self.fs.write(inode, rng.randrange(64 << 8) << 12, _BLOCK)
        self.fs.sync()


class Host:
    """The same on the host's file system.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "plain"
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()

    def _sync(self) -> None:
        os.sync()

    def create(self, count: int, data: bytes) -> None:
        """As `Hammer.create`."""
        folder = self.root / f"d{len(data)}"
        folder.mkdir()
        for i in range(count):
            fd = os.open(f"{folder}/file{i:06}", os.O_CREAT | os.O_WRONLY, 0o644)
            if data:
                os.write(fd, data)
            os.close(fd)
        self._sync()

    def stat(self, count: int) -> None:
        """As `Hammer.stat`."""
        for i in range(count):
            os.stat(f"{self.root}/d0/file{i:06}")

    def rename(self, count: int) -> None:
        """As `Hammer.rename`."""
        for i in range(count):
            os.rename(f"{self.root}/d0/file{i:06}", f"{self.root}/d0/name{i:06}")
        self._sync()

    def unlink(self, count: int) -> None:
        """As `Hammer.unlink`."""
        for i in range(count):
            os.unlink(f"{self.root}/d0/name{i:06}")
        self._sync()

    def sequential(self, mib: int) -> None:
        """As `Hammer.sequential`."""
        with (self.root / "big").open("wb", buffering=0) as file:
            for _ in range(mib):
                file.write(_MEBIBYTE)
            os.fsync(file.fileno())

    def scattered(self, count: int) -> None:
        """As `Hammer.scattered`."""
        rng = random.Random(3)
        fd = os.open(self.root / "big", os.O_WRONLY)
        for _ in range(count):
            os.pwrite(fd, _BLOCK, rng.randrange(64 << 8) << 12)
        os.fsync(fd)
        os.close(fd)


def sqlite_create(folder: Path, count: int, data: bytes) -> None:
    """As many rows with a blob, in transactions of 1,000."""
    path = folder / "blobs.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with sqlite3.connect(path, isolation_level=None) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=FULL")
        base.execute("CREATE TABLE blobs (name TEXT PRIMARY KEY, data BLOB)")
        for first in range(0, count, _BATCH):
            base.execute("BEGIN")
            for i in range(first, first + _BATCH):
                base.execute("INSERT INTO blobs VALUES (?, ?)", (f"file{i:06}", data))
            base.execute("COMMIT")
    base.close()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one run."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _round(folder: Path, times: dict[str, list[tuple[float, float]]]) -> None:
    """Every operation once, ours and the host's in turn."""
    ours, host = Hammer(folder), Host(folder)

    def pair(name: str, mine: Callable[[], object], theirs: Callable[[], object]) -> None:
        times.setdefault(name, []).append((seconds(mine), seconds(theirs)))

    pair("create, empty", lambda: ours.create(FILES, b""), lambda: host.create(FILES, b""))
    pair("create, 4 KiB", lambda: ours.create(FILES, _BLOCK), lambda: host.create(FILES, _BLOCK))
    times.setdefault("create, 4 KiB / SQLite", []).append(
        (times["create, 4 KiB"][-1][0], seconds(lambda: sqlite_create(folder, FILES, _BLOCK)))
    )
    pair("stat by path", lambda: ours.stat(FILES), lambda: host.stat(FILES))
    pair("rename", lambda: ours.rename(FILES), lambda: host.rename(FILES))
    pair("unlink", lambda: ours.unlink(FILES), lambda: host.unlink(FILES))
    pair("sequential, a MiB", lambda: ours.sequential(MIB), lambda: host.sequential(MIB))
    pair("4 KiB at random", lambda: ours.scattered(RANDOM_WRITES), lambda: host.scattered(RANDOM_WRITES))
    ours.fs.close()


def rows(folder: Path, rounds: int) -> Iterator[Row]:
    """All operations."""
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        _round(folder, times)
    counts = {"sequential, a MiB": MIB, "4 KiB at random": RANDOM_WRITES}
    limits = {
        "create, empty": 1e6 / CREATES_PER_S,
        "create, 4 KiB": 1e6 / CREATES_PER_S,
        "sequential, a MiB": (1 << 20) / MB_PER_S,
    }
    for name, pairs in times.items():
        unit = 1e6 / counts.get(name, FILES)
        ours, theirs = min(pair[0] for pair in pairs) * unit, min(pair[1] for pair in pairs) * unit
        limit = limits.get(name)
        target = "" if limit is None else f"<= {limit:.0f} us"
        yield Row(name, ours, theirs, ours / theirs, target, limit is None or ours <= limit)


def flat(folder: Path, small: int, large: int) -> Row:
    """A create, the last thousand of many beside the last thousand of few."""
    ours = Hammer(folder)
    directory = ours.fs.mkdir(ours.root, b"flat")
    at: dict[int, float] = {}
    began = time.perf_counter()
    for i in range(large):
        ours.fs.create(directory, b"file%07d" % i)
        if (i + 1) % _BATCH == 0:
            now = time.perf_counter()
            at[i + 1] = now - began
            began = now
    ours.fs.close()
    first = min(cost for count, cost in at.items() if count <= small) * 1e6 / _BATCH
    last = min(cost for count, cost in at.items() if count > large - small) * 1e6 / _BATCH
    return Row(
        f"create, after {large:,} / after {small:,} files", last, first, last / first, "<= 1.5", last / first <= 1.5
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.bench_write", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--files", type=int, default=200_000, help="files of the last row (default 200,000)")
    args, _ = parser.parse_known_args()
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hammerfs-bench-", dir=shm) as name:
        folder = Path(name)
        found = [*rows(folder, args.rounds), flat(folder, 5_000, args.files)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found.append(Row("memory of the process, MiB", peak, MEMORY_MIB, peak / MEMORY_MIB, "<= 1", peak <= MEMORY_MIB))
    show(found, as_json=args.json)


if __name__ == "__main__":
    main()
