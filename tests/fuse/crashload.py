"""Load for mounts whose daemon is killed: threads that change files, and know what must be there afterwards."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from tests.imagebuilder import pattern

BLOCK = 4096
BLOCKS = 24
LONGEST = 400_000


class Worker(threading.Thread):
    """Changes a directory of its own until the file system goes away.

    What a returned fsync or fsync of the directory covers is noted; of the change under way either outcome is right.

    Args:
        root: The mount point.
        name: Name of its directory, which must not be there yet.
        seed: Decides what it does.
    """

    def __init__(self, root: Path, name: str, seed: int) -> None:
        super().__init__()
        self._root = root
        self.folder = name
        self._random = random.Random(seed)
        self.is_made = False
        self.durable: dict[str, int] = {}
        """Length, at least, of each file that must be there, by name; contents are `pattern` of the name."""
        self.gone: set[str] = set()
        """Names that must not be there."""
        self.versions = [0] * BLOCKS
        """Least number in each block of the file that is overwritten."""
        self.started = 0
        """Newest number that may be in any block."""
        self.unsure: set[str] = set()
        """Names of the change under way."""
        self.acknowledged = 0
        """Changes that are durable."""
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Work until a call fails as one does when the daemon has died."""
        try:
            place = self._root / self.folder
            place.mkdir()
            _sync(self._root)
            self.is_made = True
            while True:
                self._random.choice((self._create, self._append, self._overwrite, self._rename, self._remove))(place)
                self.unsure = set()
                self.acknowledged += 1
        except OSError as err:
            self.failure = err

    def check(self, root: Path) -> None:
        """Compare what is there after recovery."""
        place = root / self.folder
        if not self.is_made:
            return
        found = set(os.listdir(place))
        assert self.durable.keys() - found - self.unsure == set()
        assert self.gone & found - self.unsure == set()
        assert found - self.durable.keys() - self.unsure - {"blocks"} == set()
        for name in found - {"blocks"}:
            data = (place / name).read_bytes()
            assert data == contents(name)[: len(data)], f"{name}: {len(data)} bytes"
            assert len(data) >= self.durable.get(name, 0) or name in self.unsure
        if "blocks" in found:
            self._check_blocks((place / "blocks").read_bytes())
        assert "blocks" in found or not any(self.versions)

    def _check_blocks(self, data: bytes) -> None:
        for i, least in enumerate(self.versions):
            block = data[i * BLOCK : (i + 1) * BLOCK]
            number = int.from_bytes(block[:8], "little")
            assert block == number.to_bytes(8, "little") * (len(block) // 8), f"block {i} is torn"
            assert least <= number <= self.started

    def _create(self, place: Path) -> None:
        name = f"f{self._random.randrange(10**9)}.0"
        length = self._random.choice((0, 100, 5000, 70_000))
        self.unsure = {name}
        fd = os.open(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            os.write(fd, contents(name)[:length])
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync(place)
        self.durable[name] = length

    def _append(self, place: Path) -> None:
        name = self._some()
        if name is None or self.durable[name] > LONGEST - 40_000:
            return
        length = self._random.randrange(1, 40_000)
        fd = os.open(place / name, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, contents(name)[self.durable[name] :][:length])
            os.fsync(fd)
        finally:
            os.close(fd)
        self.durable[name] += length

    def _overwrite(self, place: Path) -> None:
        self.started += 1
        first = self._random.randrange(BLOCKS)
        count = self._random.randrange(1, BLOCKS - first + 1)
        fd = os.open(place / "blocks", os.O_CREAT | os.O_WRONLY)
        try:
            os.pwrite(fd, self.started.to_bytes(8, "little") * (BLOCK // 8 * count), first * BLOCK)
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync(place)
        self.versions[first : first + count] = [self.started] * count

    def _rename(self, place: Path) -> None:
        name = self._some()
        if name is None:
            return
        stem, _, count = name.partition(".")
        new = f"{stem}.{int(count) + 1}"
        self.unsure = {name, new}
        os.rename(place / name, place / new)
        _sync(place)
        self.durable[new] = self.durable.pop(name)
        self.gone.add(name)

    def _remove(self, place: Path) -> None:
        name = self._some()
        if name is None or len(self.durable) < 4:
            return
        self.unsure = {name}
        os.unlink(place / name)
        _sync(place)
        del self.durable[name]
        self.gone.add(name)

    def _some(self) -> str | None:
        return self._random.choice(sorted(self.durable)) if self.durable else None


def contents(name: str) -> bytes:
    """What a file holds, however often it has been renamed."""
    return pattern(LONGEST, int(name[1:].partition(".")[0]))


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
