"""Walking and streaming through the library, beside the host's own file system: ``python -m tests.perf.bench_read``.

Prints a table, or with ``--json`` a list of objects with the keys operation, measured, against, ratio, target, pass.
Best of five interleaved rounds; walks in microseconds an entry, streams in microseconds a MiB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.pages import page_buffer
from tests.perf.bench_mount import BIG, ROUNDS, build, walk
from tests.perf.table import Row, show

WALK_TARGET, STREAM_TARGET = 8.0, 0.3
GIGABYTE = 1e9


def walk_image(fs: HammerFS) -> int:
    """Every entry with its attributes."""
    count = 0
    stack: list[Inode] = [fs.root()]
    while stack:
        directory = stack.pop()
        for entry in fs.readdir(directory):
            inode = fs.iget(entry.pfs_id, entry.obj_id)
            fs.getattr(inode)
            count += 1
            if inode.is_dir:
                stack.append(inode)
    return count


def stream_image(fs: HammerFS) -> None:
    """The big file from end to end."""
    inode = fs.resolve(b"/big")
    offset, buf = 0, page_buffer(1 << 20)
    while n := fs.readinto(inode, offset, buf):
        offset += n
    assert offset == BIG


def stream_host(path: Path) -> None:
    """The same from the host's file system."""
    buf = page_buffer(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buf):
            pass


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one run."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rows(image: str, plain: Path, entries: int) -> Iterator[Row]:
    """All operations."""
    unit = 1e6 / entries
    with HammerFS.open(image) as fs:
        walk_image(fs)
        pairs = [(seconds(lambda: walk_image(fs)), seconds(lambda: walk(plain))) for _ in range(ROUNDS)]
    yield walked("scandir + stat, warm, an entry", pairs, unit)
    pairs = []
    for _ in range(ROUNDS):
        with HammerFS.open(image) as fs:
            pairs.append((seconds(lambda fs=fs: walk_image(fs)), seconds(lambda: walk(plain))))  # type: ignore[misc]
    yield walked("scandir + stat, cold cache, an entry", pairs, unit)
    with HammerFS.open(image) as fs:
        stream_image(fs)
        pairs = [
            (seconds(lambda: stream_image(fs)), seconds(lambda: stream_host(plain / "big"))) for _ in range(ROUNDS)
        ]
    yield streamed("read of 64 MiB, warm, a MiB", pairs)
    pairs = []
    for _ in range(ROUNDS):
        with HammerFS.open(image) as fs:  # nothing is verified yet: every checksum is computed
            pairs.append((seconds(lambda fs=fs: stream_image(fs)), seconds(lambda: stream_host(plain / "big"))))  # type: ignore[misc]
    yield streamed("read of 64 MiB, checksums computed, a MiB", pairs)


def walked(name: str, pairs: list[tuple[float, float]], unit: float) -> Row:
    """A row that may cost so many times the host's."""
    ours, host = (min(column) * unit for column in zip(*pairs, strict=True))
    return Row(
        name, round(ours, 2), round(host, 2), round(ours / host, 2), f"<= {WALK_TARGET:g}", ours / host <= WALK_TARGET
    )


def streamed(name: str, pairs: list[tuple[float, float]]) -> Row:
    """A row that must be 1 GB/s, or so much of the host's speed."""
    ours, host = (min(column) * 1e6 / (BIG >> 20) for column in zip(*pairs, strict=True))
    fast = (1 << 20) / (ours / 1e6) >= GIGABYTE
    return Row(
        name,
        round(ours, 2),
        round(host, 2),
        round(host / ours, 2),
        f">= {STREAM_TARGET}",
        fast or host / ours >= STREAM_TARGET,
    )


def resident() -> int:
    """Most memory of this process so far, in KiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise SystemExit("this host does not tell how much memory a process takes")


def peak_memory(image: str, cache: int) -> float:
    """MiB that walking and streaming the image adds to a process, its cache limited to `cache` bytes."""
    program = (
        "from hammerfs.fs import HammerFS\nfrom tests.perf.bench_read import resident, walk_image, stream_image\n"
        f"start = resident()\nfs = HammerFS.open({image!r}, cache_bytes={cache})\n"
        "walk_image(fs)\nstream_image(fs)\nprint(resident() - start)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="bench_read", description="The library beside the host's file system.")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image, plain = Path(folder) / "image", Path(folder) / "plain"
        build(image)
        subprocess.run([sys.executable, "-m", "tools.cli", "-f", str(image), "extract", str(plain)], check=True)
        found = list(rows(str(image), plain, walk(plain)))
        for cache in (2 << 20, 8 << 20):
            used = peak_memory(str(image), cache)
            limit = (cache >> 20) + 24
            name = f"memory added, cache of {cache >> 20} MiB, in MiB"
            found.append(Row(name, round(used, 1), limit, round(used / limit, 2), "<= 1", used <= limit))
    show(found, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
