"""The read-only mount against a null pyfuse3 file system with the same tree: ``python -m tests.perf.bench_mount``.

Prints a table, or with ``--json`` a list of objects with the keys operation, measured, against, ratio, target, pass;
figures are microseconds. Best of five interleaved rounds; a ratio of 1 is as fast as a Python FUSE file system can be.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hammerfs.fuse.mountpoint import raise_read_ahead
from tests.imagebuilder import ImageBuilder
from tests.perf.table import Row, show

ROUNDS = 5
DIRS, FILES = 50, 100
BIG = 64 << 20


def build(image: Path) -> None:
    """5,000 files of 4,000 bytes in 50 directories, and one of 64 MiB."""
    rng = random.Random(1)
    b = ImageBuilder()
    for d in range(DIRS):
        for f in range(FILES):
            b.file(b"/d%02d/f%03d" % (d, f), rng.randbytes(4000))
    b.file(b"/big", rng.randbytes(BIG))
    dev = b.build()
    with image.open("wb") as out:
        out.truncate(dev.size)
        for off in range(0, dev.size, 1 << 20):
            chunk = dev.pread(off, min(1 << 20, dev.size - off))
            if chunk.count(0) != len(chunk):
                out.seek(off)
                out.write(chunk)


@contextmanager
def mounted(args: list[str], root: Path) -> Iterator[Path]:
    """A daemon in the foreground on `root`."""
    root.mkdir()
    daemon = subprocess.Popen([sys.executable, "-m", *args, str(root)])
    try:
        while not os.path.ismount(root):
            if daemon.poll() is not None:
                raise SystemExit(f"{args[0]} ended with {daemon.returncode}")
            time.sleep(0.02)
        raise_read_ahead(str(root))
        yield root
    finally:
        unmount = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        subprocess.run([*unmount, str(root)], check=True)
        daemon.wait()


def forget_names(_top: Path) -> None:
    """Have the kernel drop names and inodes, not the pages of the image."""
    Path("/proc/sys/vm/drop_caches").write_text("2", encoding="ascii")


def forget_pages(top: Path) -> None:
    """Have the kernel drop the pages of the big file."""
    fd = os.open(top / "big", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def walk(top: Path) -> int:
    """Every entry by scandir and stat."""
    count, stack = 0, [str(top)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
    return count


def stat_all(top: Path) -> int:
    """Every file by its path."""
    for d in range(DIRS):
        for f in range(FILES):
            os.stat(f"{top}/d{d:02}/f{f:03}")
    return DIRS * FILES


def read_small(top: Path) -> int:
    """Every small file: open, read, close."""
    for d in range(DIRS):
        for f in range(FILES):
            fd = os.open(f"{top}/d{d:02}/f{f:03}", os.O_RDONLY)
            os.read(fd, 4096)
            os.close(fd)
    return DIRS * FILES


def stream(top: Path) -> int:
    """The big file from end to end."""
    buf = bytearray(1 << 20)
    with (top / "big").open("rb", buffering=0) as file:
        while file.readinto(buf):
            pass
    return BIG >> 20


OPERATIONS: list[tuple[str, Callable[[Path], int], Callable[[Path], None] | None, float]] = [
    ("scandir + stat, names dropped, an entry", walk, forget_names, 0.6),
    ("scandir + stat, cached, an entry", walk, None, 0.6),
    ("stat of a path, names dropped", stat_all, forget_names, 0.6),
    ("stat of a path, cached", stat_all, None, 0.6),
    ("open, read 4000 bytes, close, names dropped", read_small, forget_names, 0.6),
    ("streaming, pages dropped, a MiB", stream, forget_pages, 0.6),
    ("streaming, cached, a MiB", stream, None, 0.6),
]


def measure(work: Callable[[Path], int], top: Path, before: Callable[[Path], None] | None) -> float:
    """Microseconds an operation."""
    if before is not None:
        before(top)
    began = time.perf_counter()
    count = work(top)
    return (time.perf_counter() - began) * 1e6 / count


def rows(ours: Path, null: Path) -> Iterator[Row]:
    """All operations, A B A B."""
    for name, work, before, target in OPERATIONS:
        if before is forget_names and os.geteuid() != 0:
            continue
        pairs = [(measure(work, ours, before), measure(work, null, before)) for _ in range(ROUNDS)]
        measured, against = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        ratio = against / measured
        yield Row(name, round(measured, 2), round(against, 2), round(ratio, 2), f">= {target}", ratio >= target)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="bench_mount", description="The read-only mount against a null file system.")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        build(tmp / "image")
        with mounted(["tools.mount_hammer", "-f", "-o", "ro", str(tmp / "image")], tmp / "ours") as ours:
            subprocess.run(["cp", "-r", str(ours), str(tmp / "plain")], check=True)
            with mounted(["tests.perf.nullfs", str(tmp / "plain")], tmp / "null") as null:
                found = list(rows(ours, null))
    show(found, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
