"""`fsck.hammer -n` beside `e2fsck -fn` on the same tree of 20,000 files: ``python -m tests.perf.bench_fsck``.

Prints a table, or with ``--json`` a list of objects with the keys operation, measured, against, ratio, target, pass.
CPU time, best of five interleaved rounds, images in the page cache. Where e2fsprogs is not installed the check is
measured beside reading as many small files from the host's file system.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hammerfs.rw import WritableFS
from tests.perf.table import Row, show
from tools.fsck.check import Summary, run

ROUNDS = 5
DIRS, FILES, SIZE = 200, 100, 1024
TARGET = 10.0
MEMORY = 40.0
"""MiB: 16 of buffers, the cache of the file system that recovers, and some 100 bytes a file."""
IMAGE_SIZE = "256m"


def build(folder: Path) -> tuple[Path, Path]:
    """The tree as a HAMMER image, and in a folder of the host."""
    rng = random.Random(1)
    image, plain = folder / "image", folder / "plain"
    newfs = ["-m", "mkfs.cli", "-f", "--quiet", "-L", "BENCH", "-u", "8m", "--size", IMAGE_SIZE, str(image)]
    subprocess.run([sys.executable, *newfs], check=True)
    with WritableFS.open_rw(str(image)) as fs:
        for d in range(DIRS):
            directory = fs.mkdir(fs.root(), b"d%03d" % d)
            (plain / f"d{d:03}").mkdir(parents=True)
            for f in range(FILES):
                contents = rng.randbytes(SIZE)
                fs.write(fs.create(directory, b"f%03d" % f), 0, contents)
                (plain / f"d{d:03}" / f"f{f:03}").write_bytes(contents)
    return image, plain


def ext4(folder: Path, plain: Path) -> Path | None:
    """The same tree in an ext4 image; None where the tools are not installed."""
    if not shutil.which("mke2fs") or not shutil.which("e2fsck"):
        return None
    image = folder / "ext4"
    command = ["mke2fs", "-q", "-t", "ext4", "-N", "32768", "-d", str(plain), str(image), IMAGE_SIZE]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return image


def command(argv: list[str]) -> float:
    """Run a program: its seconds of CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak_memory(image: Path) -> float:
    """MiB that one check adds to a process."""
    program = (
        "from tests.perf.bench_read import resident\nfrom tools.fsck.check import run\n"
        f"start = resident()\nrun({str(image)!r})\nprint(resident() - start)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def read_all(plain: Path) -> None:
    """Every file of the host's tree."""
    for directory in plain.iterdir():
        for path in directory.iterdir():
            path.read_bytes()


def in_process(image: Path) -> tuple[float, Summary]:
    """One check by the library: seconds of CPU time, totals."""
    began = time.process_time()
    summary = run(str(image))
    return time.process_time() - began, summary


def rows(folder: Path) -> Iterator[Row]:
    """All measurements."""
    image, plain = build(folder)
    other = ext4(folder, plain)
    ours = [sys.executable, "-m", "tools.fsck.cli", "-n", str(image)]
    name = "e2fsck -fn" if other is not None else "reading the files"

    def theirs() -> float:
        return command(["e2fsck", "-fn", str(other)]) if other is not None else timed(lambda: read_all(plain))

    pairs = [(command(ours), theirs()) for _ in range(ROUNDS)]
    mine, host = (min(column) for column in zip(*pairs, strict=True))
    yield row(f"fsck.hammer -n of {DIRS * FILES} files, {name}, ms", mine * 1e3, host * 1e3, TARGET)
    checks = [(in_process(image), theirs()) for _ in range(ROUNDS)]
    seconds, summary = min((check[0] for check in checks), key=lambda found: found[0])
    if summary.errors:
        raise SystemExit(f"the image is damaged: {summary.findings[0]}")
    host = min(check[1] for check in checks)
    name = f"check() of {summary.records} records, {name}, us a record"
    yield row(name, seconds * 1e6 / summary.records, host * 1e6 / summary.records, TARGET)
    yield row("memory that a check adds to a process, its limit, MiB", peak_memory(image), MEMORY, 1)


def timed(work: Callable[[], object]) -> float:
    """CPU time of one run."""
    began = time.process_time()
    work()
    return time.process_time() - began


def row(name: str, measured: float, against: float, target: float) -> Row:
    """A row that may cost so many times the other."""
    ratio = measured / against
    return Row(name, round(measured, 2), round(against, 2), round(ratio, 2), f"<= {target:g}", ratio <= target)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="bench_fsck", description="fsck.hammer beside e2fsck.")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show(list(rows(Path(folder))), as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
