"""Many at once, and the programs people run: each ends with an unmount, a full check, and the same tree again."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounts import Mount
from tests.fuse.rwlab import Entry, difference, digest, live, make_image, run, tree_of

pytestmark = [pytest.mark.mount]
EXPECTED = {
    *(errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EMLINK),
    *(errno.EXDEV, errno.EPERM, errno.ELOOP, errno.EBUSY, errno.ENXIO, errno.ESTALE),
}
"""What a call may say while others change the same names."""
IDENTITY = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_NOSYSTEM": "1",
    "HOME": "/nonexistent",
}


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with live(tmp_path, make_image(tmp_path, size="1g")) as found:
        yield found


# Many at once


class Stress:
    """Random calls below a few shared directories.

    Args:
        root: Where.
        seed: Decides which.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self._root = root
        self._random = random.Random(seed)
        self.failure: OSError | None = None
        self.done = 0

    def run(self, count: int) -> None:
        try:
            calls = (
                *[self._write] * 4, self._create, self._mkdir, self._unlink, self._rmdir, *[self._rename] * 2,
                self._link, self._symlink, self._truncate, self._chmod, self._utime, self._list, self._read,
                self._read, self._mknod, self._fsync, self._exchange,
            )  # fmt: skip
            for _ in range(count):
                try:
                    self._random.choice(calls)()
                    self.done += 1
                except OSError as err:
                    if err.errno not in EXPECTED:
                        raise
        except OSError as err:
            self.failure = err

    def _dir(self) -> Path:
        parts = [f"d{self._random.randrange(4)}" for _ in range(self._random.randrange(4))]
        return self._root.joinpath(*parts)

    def _file(self) -> Path:
        return self._dir() / f"f{self._random.randrange(12)}"

    def _create(self) -> None:
        os.close(os.open(self._file(), os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    def _mkdir(self) -> None:
        self._dir().mkdir(parents=True)

    def _write(self) -> None:
        how = self._random.choice((0, os.O_APPEND, os.O_TRUNC))
        fd = os.open(self._file(), os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK | how)  # it may be a fifo
        try:
            data = self._random.randbytes(self._random.choice((1, 100, 5000, 40_000)))
            os.pwrite(fd, data, self._random.choice((0, 10, 16384, 100_000, 1_500_000)))
        finally:
            os.close(fd)

    def _read(self) -> None:
        fd = os.open(self._file(), os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.read(fd, 200_000)
        finally:
            os.close(fd)

    def _unlink(self) -> None:
        self._file().unlink()

    def _rmdir(self) -> None:
        self._dir().rmdir()

    def _rename(self) -> None:
        if self._random.random() < 0.7:
            os.rename(self._file(), self._file())
        else:
            os.rename(self._dir(), self._dir())

    def _exchange(self) -> None:
        first, second = self._file(), self._file()
        temporary = first.with_name(f"x{self._random.randrange(3)}")
        os.rename(first, temporary)
        os.rename(second, first)
        os.rename(temporary, second)

    def _link(self) -> None:
        os.link(self._file(), self._file(), follow_symlinks=False)

    def _symlink(self) -> None:
        os.symlink(self._file().name, self._file())

    def _truncate(self) -> None:
        os.truncate(self._file(), self._random.choice((0, 7, 20_000, 300_000)))

    def _chmod(self) -> None:
        os.chmod(self._file(), self._random.choice((0o600, 0o644, 0o751)))

    def _utime(self) -> None:
        os.utime(self._file(), (self._random.randrange(2**31), self._random.randrange(2**31)), follow_symlinks=False)

    def _list(self) -> None:
        with os.scandir(self._dir()) as entries:
            for entry in entries:
                entry.is_dir(follow_symlinks=False)

    def _mknod(self) -> None:
        os.mkfifo(self._file())

    def _fsync(self) -> None:
        fd = os.open(self._dir(), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def stress(root: Path, processes: int, count: int) -> None:
    workers = [Stress(root, seed) for seed in range(processes)]
    threads = [threading.Thread(target=worker.run, args=(count,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        assert worker.failure is None, repr(worker.failure)
        assert worker.done > count // 20


def test_many_at_once(mount: Mount) -> None:
    stress(mount.root, 4, 700)


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 4, 8])
def test_many_at_once_for_long(mount: Mount, processes: int) -> None:
    stress(mount.root, processes, 20_000)


# Programs


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of a few thousand files of all kinds."""
    root = tmp_path_factory.mktemp("sources")
    rng = random.Random(5)
    for i in range(2500):
        folder = root / f"d{i % 40}" / f"e{i % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"file{i}"
        path.write_bytes(rng.randbytes(rng.choice((0, 10, 900, 4000, 30_000))))
        path.chmod(rng.choice((0o600, 0o644, 0o755)))
        os.utime(path, (1_000_000_000 + i, 1_200_000_000 + i))
        if i % 50 == 0:
            os.symlink(f"file{i}", folder / f"link{i}")
            os.link(path, folder / f"hard{i}")
    (root / ("long" * 60)).touch()
    with open(root / "sparse", "wb") as stream:
        stream.seek(50 << 20)
        stream.write(b"end")
    return root


def same(first: Path, second: Path) -> None:
    run("diff", "-r", "--no-dereference", first, second)


def test_tar_round_trip(mount: Mount, sources: Path, tmp_path: Path) -> None:
    archive, again = tmp_path / "a.tar", tmp_path / "b.tar"
    run("tar", "-cSf", archive, "-C", sources, ".")
    out = mount.root / "out"
    out.mkdir()
    run("tar", "-xpSf", archive, "-C", out)
    same(sources, out)
    run("tar", "-cSf", again, "-C", out, ".")
    back = tmp_path / "back"
    back.mkdir()
    run("tar", "-xpSf", again, "-C", back)
    assert difference(files(sources), files(back)) == {}
    run("rm", "-r", out / "d3")


def files(root: Path) -> dict[str, Entry]:
    """What a tree of files holds but for times of change, and what directories say of themselves."""
    return {
        path: entry._replace(ctime_ns=0, mtime_ns=entry.mtime_ns // 1_000_000_000)
        for path, entry in tree_of(root).items()
        if stat.S_ISREG(entry.mode)
    }


@needs("git")
def test_git(mount: Mount, tmp_path: Path) -> None:
    def git(*args: object, cwd: Path) -> str:
        return run("git", "-c", "init.defaultBranch=main", *args, cwd=cwd, env=IDENTITY)

    first, second = mount.root / "first", mount.root / "second"
    first.mkdir()
    git("init", "-q", cwd=first)
    for turn in range(4):
        for i in range(60):
            (first / f"f{i % (20 + turn)}").write_text(f"turn {turn}, file {i}\n" * 50, encoding="ascii")
        git("add", "-A", cwd=first)
        git("commit", "-q", "-m", f"turn {turn}", cwd=first)
    git("gc", "-q", "--prune=now", cwd=first)
    git("fsck", "--strict", "--full", cwd=first)
    git("clone", "-q", first, second, cwd=mount.root)
    git("checkout", "-q", "HEAD~2", cwd=second)
    assert git("status", "--porcelain", cwd=second) == ""
    assert git("log", "--oneline", cwd=first).count("\n") == 4
    outside = tmp_path / "outside"
    git("clone", "-q", second, outside, cwd=tmp_path)
    assert git("rev-parse", "HEAD", cwd=outside) == git("rev-parse", "HEAD", cwd=second)


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate"])
def test_sqlite(mount: Mount, mode: str) -> None:
    path = mount.root / "base.db"

    def insert(writer: int) -> None:
        base = sqlite3.connect(path, timeout=120, isolation_level=None)
        for i in range(40):
            base.execute("begin immediate")
            base.execute("insert into t values (?, ?, ?)", (writer, i, "x" * (i * 97 % 3000)))
            base.execute("commit")
        base.close()

    base = sqlite3.connect(path, isolation_level=None)
    assert base.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    base.execute("create table t (writer int, i int, text text)")
    writers = [threading.Thread(target=insert, args=(n,)) for n in range(2)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert base.execute("select count(*), sum(i) from t").fetchone() == (80, 2 * sum(range(40)))
    base.execute("delete from t where i % 2")
    base.execute("vacuum")
    assert base.execute("pragma integrity_check").fetchone() == ("ok",)
    base.close()


@needs("rsync")
def test_rsync_twice(mount: Mount, sources: Path, tmp_path: Path) -> None:
    out = mount.root / "out"
    run("rsync", "-aH", "--delete", f"{sources}/", f"{out}/")
    assert run("rsync", "-aHi", "--delete", f"{sources}/", f"{out}/") == ""
    changed = tmp_path / "changed"
    run("cp", "-a", sources, changed)
    shutil.rmtree(changed / "d7")
    (changed / "d8" / "e1" / "new").write_bytes(b"new")
    run("rsync", "-aHX", "--delete", f"{changed}/", f"{out}/")
    assert run("rsync", "-aHXi", "--delete", f"{changed}/", f"{out}/") == ""
    same(changed, out)
    assert (out / "d0" / "e0" / "file0").stat().st_nlink == 2


def test_sparse_copies(mount: Mount, sources: Path) -> None:
    target = mount.root / "sparse"
    run("cp", "--sparse=always", sources / "sparse", target)
    fd = os.open(target, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    assert target.stat().st_size == (50 << 20) + 3
    assert target.stat().st_blocks * 512 < 1 << 20
    run("cp", "--sparse=auto", target, mount.root / "again")
    assert digest(mount.root / "again") == digest(sources / "sparse")


@needs("gcc")
@needs("make")
def test_a_small_build(mount: Mount) -> None:
    place = mount.root / "program"
    place.mkdir()
    units = [f"unit{i}" for i in range(8)]
    for i, unit in enumerate(units):
        (place / f"{unit}.c").write_text(f'#include "all.h"\nint {unit}(void) {{ return {i}; }}\n', encoding="ascii")
    (place / "all.h").write_text("".join(f"int {unit}(void);\n" for unit in units), encoding="ascii")
    calls = " + ".join(f"{unit}()" for unit in units)
    (place / "main.c").write_text(
        f'#include <stdio.h>\n#include "all.h"\nint main(void) {{ printf("%d\\n", {calls}); return 0; }}\n',
        encoding="ascii",
    )
    objects = " ".join(f"{unit}.o" for unit in (*units, "main"))
    (place / "Makefile").write_text(
        f"program: {objects}\n\tgcc -o $@ $^\n%.o: %.c all.h\n\tgcc -c -o $@ $<\n", encoding="ascii"
    )
    run("make", "-j2", "-C", place)
    assert run(place / "program") == f"{sum(range(8))}\n"
    assert "up to date" in run("make", "-C", place, "program", env={"LC_ALL": "C"})
    (place / "unit3.c").write_text('#include "all.h"\nint unit3(void) { return 103; }\n', encoding="ascii")
    run("make", "-C", place)
    assert run(place / "program") == f"{sum(range(8)) + 100}\n"


def test_python_runs_from_it(mount: Mount) -> None:
    package = mount.root / "package"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 42\n", encoding="ascii")
    for _ in range(2):
        code = "import package, sys; sys.exit(package.VALUE != 42)"
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        subprocess.run([sys.executable, "-c", code], cwd=mount.root, check=True, env=environment)
    assert (package / "__pycache__").is_dir()
