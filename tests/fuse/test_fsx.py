"""Random operations on one file against a copy in memory: reads, writes, truncations, maps, direct I/O, reopening."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount
from tests.fuse.rwlab import live, make_image, run_hammer

pytestmark = [pytest.mark.mount]
LARGEST = 600_000
PAGE = 4096
SHORT = 1500
"""Operations of a run in CI."""
LONG = 30_000


class Exerciser:
    """One file, and what it must hold.

    Args:
        path: The file; it is made.
        seed: Decides what is done.
        direct: Whether it is open with O_DIRECT too, for whole pages.
    """

    def __init__(self, path: Path, seed: int, *, direct: bool) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._want = bytearray()
        self._flags = os.O_RDWR | os.O_CREAT
        self._is_direct = direct
        self._fd = os.open(path, self._flags)
        self._pages = mmap.mmap(-1, LARGEST + 2 * PAGE)  # aligned, as O_DIRECT wants it
        self._last = ""
        self._steps = [
            *[self._write] * 6,
            *[self._read] * 5,
            *[self._map_write] * 3,
            *[self._map_read] * 2,
            *[self._truncate] * 2,
            self._append,
            self._punch_by_truncating,
            self._sync,
            self._reopen,
            *([self._direct_write, self._direct_read] * 3 if direct else []),
        ]

    def run(self, count: int) -> None:
        """Do so many operations, and compare everything now and then."""
        for i in range(count):
            step = self._random.choice(self._steps)
            step()
            assert os.fstat(self._fd).st_size == len(self._want), self._said(i)
            if i % 250 == 249:
                self._compare(i)
        self._compare(count)

    def close(self) -> None:
        os.close(self._fd)
        self._pages.close()

    def contents(self) -> bytes:
        return bytes(self._want)

    def _compare(self, i: int) -> None:
        found = self._path.read_bytes()
        if found != self._want:
            at = next((at for at, (a, b) in enumerate(zip(found, self._want, strict=False)) if a != b), len(found))
            raise AssertionError(f"{self._said(i)}: differs at {at}, {len(found)} of {len(self._want)} bytes")

    def _said(self, i: int) -> str:
        return f"operation {i}, {self._last}"

    def _range(self, top: int, *, aligned: bool = False) -> tuple[int, int]:
        """Somewhere below `top`, often at the edge of a page or a block, mostly short."""
        most = self._random.choice((10, PAGE, 20_000, 150_000))
        offset = self._random.randrange(top)
        if aligned or self._random.random() < 0.3:
            offset -= offset % self._random.choice((PAGE, 4 * PAGE))
        length = min(self._random.randrange(1, most + 1), top - offset)
        if aligned:
            length = -(-length // PAGE) * PAGE
        return offset, length

    def _put(self, offset: int, data: bytes) -> None:
        if offset > len(self._want):
            self._want.extend(bytes(offset - len(self._want)))
        self._want[offset : offset + len(data)] = data

    def _bytes(self, length: int) -> bytes:
        return self._random.randbytes(length) if self._random.random() < 0.8 else bytes(length)

    def _write(self) -> None:
        offset, length = self._range(LARGEST)
        self._last = f"write {offset}+{length}"
        data = self._bytes(length)
        assert os.pwrite(self._fd, data, offset) == length
        self._put(offset, data)

    def _append(self) -> None:
        length = max(0, min(self._random.randrange(1, 9000), LARGEST - len(self._want)))
        self._last = f"append {length}"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        data = self._bytes(length)
        os.write(fd, data)
        os.close(fd)
        self._put(len(self._want), data)

    def _read(self) -> None:
        offset, length = self._range(LARGEST)
        self._last = f"read {offset}+{length}"
        assert os.pread(self._fd, length, offset) == self._want[offset : offset + length], self._last

    def _truncate(self) -> None:
        size = self._random.choice((0, self._random.randrange(LARGEST), len(self._want) // PAGE * PAGE))
        self._last = f"truncate {len(self._want)} to {size}"
        if self._random.random() < 0.5:
            os.ftruncate(self._fd, size)
        else:
            os.truncate(self._path, size)
        del self._want[size:]
        self._put(size, b"")

    def _punch_by_truncating(self) -> None:
        """Cut something off and let it grow again: there are zeros then."""
        size, cut = len(self._want), self._random.randrange(len(self._want) + 1)
        self._last = f"truncate {size} to {cut} and back"
        os.ftruncate(self._fd, cut)
        os.ftruncate(self._fd, size)
        del self._want[cut:]
        self._put(size, b"")

    def _map_write(self) -> None:
        if not self._want:
            return
        offset, length = self._range(len(self._want))
        self._last = f"map write {offset}+{length}"
        data = self._bytes(length)
        with mmap.mmap(self._fd, len(self._want)) as mapped:
            mapped[offset : offset + length] = data
            if self._random.random() < 0.3:
                mapped.flush()
        self._put(offset, data)

    def _map_read(self) -> None:
        if not self._want:
            return
        offset, length = self._range(len(self._want))
        self._last = f"map read {offset}+{length}"
        with mmap.mmap(self._fd, len(self._want), prot=mmap.PROT_READ) as mapped:
            assert mapped[offset : offset + length] == self._want[offset : offset + length], self._last

    def _direct_write(self) -> None:
        offset, length = self._range(LARGEST, aligned=True)
        self._last = f"direct write {offset}+{length}"
        data = self._bytes(length)
        self._pages[:length] = data
        fd = os.open(self._path, os.O_RDWR | os.O_DIRECT)
        with memoryview(self._pages) as view, view[:length] as part:
            assert os.pwritev(fd, [part], offset) == length
        os.close(fd)
        self._put(offset, data)

    def _direct_read(self) -> None:
        offset, length = self._range(LARGEST, aligned=True)
        self._last = f"direct read {offset}+{length}"
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        with memoryview(self._pages) as view, view[:length] as part:
            got = os.preadv(fd, [part], offset)
            assert part[:got] == self._want[offset : offset + length], self._last
        os.close(fd)

    def _sync(self) -> None:
        self._last = "fsync"
        os.fsync(self._fd)

    def _reopen(self) -> None:
        self._last = "close and open"
        os.close(self._fd)
        self._fd = os.open(self._path, self._flags)
        if self._random.random() < 0.5:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with live(tmp_path, make_image(tmp_path, size="4g")) as found:
        yield found


@pytest.mark.parametrize("direct", [False, True])
def test_random_operations(mount: Mount, direct: bool) -> None:
    exercise(mount, 1 + direct, SHORT, direct=direct)


@pytest.mark.long
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("seed", range(10, 14))
def test_random_operations_for_long(mount: Mount, seed: int, direct: bool) -> None:
    exercise(mount, seed, LONG, direct=direct)


def exercise(mount: Mount, seed: int, count: int, *, direct: bool) -> None:
    exerciser = Exerciser(mount.root / "file", seed, direct=direct)
    try:
        exerciser.run(count // 2)
        where = run_hammer("synctid", mount.root).strip()
        then = exerciser.contents()
        exerciser.run(count - count // 2)
    finally:
        exerciser.close()
    assert (mount.root / f"@@{where}" / "file").read_bytes() == then
