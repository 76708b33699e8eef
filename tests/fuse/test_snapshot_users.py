"""Programs that look for snapshots in a directory: Samba's shadow_copy2, httm; and ten thousand of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from hammerfs.changes import WriteOptions
from hammerfs.rw import WritableFS
from tests.enginelab import Clock
from tests.fuse.mounts import mount_in
from tests.fuse.rwlab import run
from tests.maint.lab import verb

pytestmark = [pytest.mark.mount]
GMT = "@GMT-%Y.%m.%d-%H.%M.%S"
HOUR_US = 3_600_000_000


class Taken(NamedTuple):
    """A snapshot and what it holds."""

    ts: int
    contents: bytes


@contextlib.contextmanager
def writing(image: Path) -> Iterator[tuple[WritableFS, Clock]]:
    clock = Clock()
    with WritableFS.open_rw([str(image)], WriteOptions(clock=clock, commit_seconds=1_000_000)) as fs:
        yield fs, clock


def snapshots_of(image: Path, labels: list[str], step_us: int = HOUR_US) -> list[Taken]:
    """A file that changes between every other two snapshots, in a directory."""
    taken = []
    with writing(image) as (fs, clock):
        folder = fs.mkdir(fs.root(), b"dir")
        inode = fs.create(folder, b"file")
        for number, label in enumerate(labels):
            contents = b"version %d\n" % (number // 2) * (number // 2 + 1)
            if number % 2 == 0:
                fs.write(inode, 0, contents)
            clock.now += step_us
            ts = verb(fs, "snap", path="/", label=label)["ts_us"] // 1_000_000
            taken.append(Taken(ts, contents))
    return taken


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is far from UTC; the C library keeps a zone until it is told."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Auckland")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_away")
def test_shadow_copy2_finds_all_by_time(tmp_path: Path, image: Path) -> None:
    taken = snapshots_of(image, ["cleanup", "", "cleanup", "@GMT-none", "cleanup", "cleanup"])
    with mount_in(tmp_path, image, f"ro,snapfmt={GMT}") as mount:
        folder = mount.root / ".hammer" / "snapshots"
        names = sorted(os.listdir(folder))
        times = [datetime.strptime(name, GMT).replace(tzinfo=UTC).timestamp() for name in names]
        assert times == [snap.ts for snap in taken]
        for name, snap in zip(names, taken, strict=True):
            assert (folder / name / "dir" / "file").read_bytes() == snap.contents
        assert (folder / "@GMT-none" / "dir" / "file").read_bytes() == taken[3].contents, "a label leads there, too"
        assert not (folder / "cleanup").exists(), "which one?"
        assert os.readlink(mount.root / ".hammer" / "latest") == f"snapshots/{names[-1]}"


def test_shadow_copy2_finds_one_of_each_second(tmp_path: Path, image: Path) -> None:
    taken = snapshots_of(image, [""] * 6, step_us=300_000)
    assert len({snap.ts for snap in taken}) < len(taken)
    last = {snap.ts: snap.contents for snap in taken}
    with mount_in(tmp_path, image, f"ro,snapfmt={GMT}") as mount:
        folder = mount.root / ".hammer" / "snapshots"
        names = os.listdir(folder)
        assert len(names) == len(taken)
        found = {}
        for name in names:
            with contextlib.suppress(ValueError):
                ts = int(datetime.strptime(name, GMT).replace(tzinfo=UTC).timestamp())
                found[ts] = (folder / name / "dir" / "file").read_bytes()
        assert found == last


@pytest.mark.parametrize("start", [".", "dir"])
def test_httm_finds_every_version_by_time_and_size(tmp_path: Path, image: Path, start: str) -> None:
    """It walks one directory for each snapshot, with the same paths below, and takes what differs in mtime or size."""
    taken = snapshots_of(image, ["one", "two", "three", "", "five", ""])
    with writing(image) as (fs, _):
        fs.unlink(fs.resolve(b"/dir"), b"file")
        fs.create(fs.resolve(b"/dir"), b"other")
    with mount_in(tmp_path, image, "ro") as mount:
        path = mount.root / start / ("file" if start == "dir" else "dir/file")
        relative = path.relative_to(mount.root)
        versions: dict[tuple[int, int], Path] = {}
        with os.scandir(mount.root / ".hammer" / "snapshots") as entries:
            for entry in entries:
                assert entry.is_dir()
                found = Path(entry.path) / relative
                stat = found.stat()
                versions.setdefault((stat.st_mtime_ns, stat.st_size), found)
        contents = [versions[key].read_bytes() for key in sorted(versions)]
        assert contents == list(dict.fromkeys(snap.contents for snap in taken))
        assert not path.exists()
        deleted = {name for place in versions.values() for name in os.listdir(place.parent)}
        assert deleted - set(os.listdir(path.parent)) == {"file"}


def test_nothing_wanders_into_the_past(tmp_path: Path, image: Path) -> None:
    snapshots_of(image, [f"s{number}" for number in range(20)])
    with writing(image) as (fs, _):
        fs.write(fs.create(fs.root(), b"big"), 0, bytes(range(256)) * 4000)
    wanted = {"dir", "dir/file", "big"}
    with mount_in(tmp_path, image, "ro") as mount:
        assert (mount.root / ".hammer" / "snapshots" / "s3" / "dir" / "file").exists(), "known to the kernel by now"
        assert set(run("find", mount.root, "-mindepth", "1", "-printf", "%P\n").splitlines()) == wanted
        assert set(run("sh", "-c", f"cd '{mount.root}' && grep -rl . . | sort").split()) == {"./dir/file", "./big"}
        units = sum((mount.root / name).lstat().st_blocks for name in (*wanted, "."))
        assert int(run("du", "-s", "--block-size=512", mount.root).split()[0]) == units
        run("cp", "-r", mount.root, tmp_path / "copied")
        copies = [tmp_path / "copied"]
        if shutil.which("rsync") is not None:
            run("rsync", "-a", f"{mount.root}/", f"{tmp_path}/synced/")
            copies.append(tmp_path / "synced")
        for copy in copies:
            assert {str(path.relative_to(copy)) for path in copy.rglob("*")} == wanted
