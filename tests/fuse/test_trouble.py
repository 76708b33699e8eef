"""What goes wrong around a mount: busy files, no space, a device that fails, two mounts, signals."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounts import PATIENCE_S, Mount, command, mount_in
from tests.fuse.rwlab import check, difference, live, make_image, run, tree_of

pytestmark = [pytest.mark.mount]
MIB = 1 << 20


def fill(folder: Path, mebibytes: int = 1000) -> int:
    """Write files of 1 MiB until there is no more space; errno of what ended it, 0 if nothing did."""
    for i in range(mebibytes):
        try:
            with open(folder / f"fill{i:04d}", "wb", buffering=0) as stream:
                stream.write(os.urandom(MIB))
                os.fsync(stream.fileno())
        except OSError as err:
            return err.errno or -1
    return 0


# Busy files


def test_umount_while_busy_and_after(tmp_path: Path) -> None:
    with live(tmp_path, make_image(tmp_path)) as mount:
        with open(mount.root / "open", "wb") as stream:
            stream.write(b"before")
            stream.flush()
            refused = subprocess.run(["umount", str(mount.root)], capture_output=True, text=True, check=False)
            assert refused.returncode != 0
            assert "busy" in refused.stderr
            stream.write(b" and after")
        assert (mount.root / "open").read_bytes() == b"before and after"


def test_a_lazy_umount_serves_those_who_are_in_it(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw") as mount:
        with open(mount.root / "open", "wb", buffering=0) as stream:
            stream.write(b"before")
            run("umount", "-l", mount.root)
            assert not os.path.ismount(mount.root)
            stream.write(b" and after")
            os.fsync(stream.fileno())
            stream.write(b" it")
            assert mount.daemon.poll() is None
        assert mount.daemon.wait(PATIENCE_S) == 0
    check(image)
    with mount_in(tmp_path, image, "ro") as again:
        assert (again.root / "open").read_bytes() == b"before and after it"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_flushes_everything(tmp_path: Path, number: signal.Signals) -> None:
    """What was written a moment ago is on the media, and so are the pages the kernel had of it."""
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw", quiet=False) as mount:
        for i in range(50):
            (mount.root / f"f{i}").write_bytes(os.urandom(30_000))
        before = tree_of(mount.root)
        mount.daemon.send_signal(number)
        assert mount.daemon.wait(PATIENCE_S) == 0
        assert not os.path.ismount(mount.root)
        assert mount.said() == f"mount_hammer: ended by {number.name}\n"
    check(image)
    with mount_in(tmp_path, image, "ro") as again:
        assert difference(before, tree_of(again.root)) == {}


def test_a_signal_under_an_open_file(tmp_path: Path) -> None:
    """The mount goes away under its user; what write(2) had returned for is on the media."""
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw", quiet=False) as mount:
        fd = os.open(mount.root / "open", os.O_CREAT | os.O_WRONLY)
        written = os.urandom(3 * MIB)
        os.write(fd, written)
        mount.daemon.send_signal(signal.SIGTERM)
        assert mount.daemon.wait(PATIENCE_S) == 0
        assert not os.path.ismount(mount.root)
        assert "is busy: it goes away under those who use it" in mount.said()
        with pytest.raises(OSError, match=r"not connected|abort|Input/output"):
            os.fsync(fd)
        with pytest.raises(OSError, match=r"not connected|abort|Input/output"):
            os.close(fd)
    check(image)
    with mount_in(tmp_path, image, "ro") as again:
        assert (again.root / "open").read_bytes() == written


# No space


def test_a_full_disk(tmp_path: Path) -> None:
    """Writing fails, reading and removing go on; what is removed stays as history."""
    with live(tmp_path, make_image(tmp_path, size="192m"), "rw,cache=16m", quiet=False) as mount:
        (mount.root / "precious").write_bytes(b"kept")
        assert fill(mount.root) == errno.ENOSPC
        assert (mount.root / "precious").read_bytes() == b"kept"
        assert os.statvfs(mount.root).f_bavail * 16384 < 64 * MIB
        names = sorted(name for name in os.listdir(mount.root) if name.startswith("fill"))
        assert len(names) > 10
        assert all((mount.root / name).stat().st_size in {0, MIB} for name in names)
        for name in names:
            (mount.root / name).unlink()
        assert os.listdir(mount.root) == ["precious"]


def test_a_full_disk_without_history_has_space_again(tmp_path: Path) -> None:
    with live(tmp_path, make_image(tmp_path, size="192m"), "rw,nohistory,cache=16m", quiet=False) as mount:
        assert fill(mount.root) == errno.ENOSPC
        count = len(os.listdir(mount.root))
        for name in os.listdir(mount.root):
            (mount.root / name).unlink()
        assert os.listdir(mount.root) == []
        deadline = time.monotonic() + PATIENCE_S  # the flusher needs nobody to ask it
        while os.statvfs(mount.root).f_bavail < MIB // 16384 * count:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert fill(mount.root, count // 2) == 0


def _sync(mount: Mount) -> None:
    fd = os.open(mount.root, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# A device that fails


@pytest.fixture
def small_host(tmp_path: Path) -> Iterator[Path]:
    """A file system of the host that is full before the image in it is."""
    folder = tmp_path / "host"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.root
def test_a_host_without_space(tmp_path: Path, small_host: Path) -> None:
    """As a full volume: writing says so, everything there can be read, and with more space it goes on."""
    image = make_image(small_host)
    with live(tmp_path, image, quiet=False) as mount:
        (mount.root / "first").write_bytes(b"durable")
        _sync(mount)
        assert fill(mount.root) == errno.ENOSPC
        kept = sorted(name for name in os.listdir(mount.root) if name.startswith("fill"))[:-1]
        assert kept
        assert (mount.root / "first").read_bytes() == b"durable"
        assert all((mount.root / name).stat().st_size == MIB for name in kept)
        run("mount", "-o", "remount,size=900m", small_host)
        assert fill(mount.root, len(kept) + 5) == 0
        assert "Traceback" not in mount.said()


@pytest.mark.parametrize("repaired", [True, False])
def test_a_device_that_fails(tmp_path: Path, repaired: bool) -> None:
    """Each fsync says so and what is there can be read; nothing fsynced is lost, nor anything else if it recovers."""
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw", quiet=False) as mount:
        kept = {}
        for i in range(20):
            kept[f"f{i}"] = os.urandom(100_000)
            (mount.root / f"f{i}").write_bytes(kept[f"f{i}"])
        _sync(mount)
        limits = resource.prlimit(mount.daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(mount.daemon.pid, resource.RLIMIT_FSIZE, (MIB, limits[1]))  # for its log, not for the image
        (mount.root / "new").write_bytes(b"x" * 1000)
        with pytest.raises(OSError, match="Input/output"):
            (mount.root / "large").write_bytes(bytes(1_000_000))
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                _sync(mount)
        assert {name: (mount.root / name).read_bytes() for name in kept} == kept
        assert "File too large" in mount.said()
        if repaired:
            resource.prlimit(mount.daemon.pid, resource.RLIMIT_FSIZE, limits)
            _sync(mount)
            kept["new"] = b"x" * 1000
        subprocess.run(["umount", str(mount.root)], check=True)
        assert (mount.daemon.wait(PATIENCE_S) == 0) == repaired
        assert "Traceback" not in mount.said()
    with live(tmp_path, image, quiet=False) as mount:
        assert {name: (mount.root / name).read_bytes() for name in kept} == kept
        (mount.root / "more").mkdir()


# Two mounts


def test_two_mounts_of_one_image(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    second = tmp_path / "second"
    second.mkdir()
    with live(tmp_path, image) as mount:
        for way in ("rw", "ro"):
            done = subprocess.run(
                command("-o", way, image, second), capture_output=True, text=True, check=False, timeout=PATIENCE_S
            )
            assert done.returncode == 32
            assert done.stderr.count("\n") == 1
            assert str(image) in done.stderr
            assert "is open for writing" in done.stderr
            assert not os.path.ismount(second)
        (mount.root / "file").write_bytes(b"still works")


def test_mounted_again_at_once(tmp_path: Path) -> None:
    """umount(8) returns before the daemon has ended: the next mount says so, or works."""
    image = make_image(tmp_path)
    deadline = time.monotonic() + PATIENCE_S
    root = tmp_path / "mnt"
    root.mkdir()
    for i in range(3):
        while (done := subprocess.run(command("-o", "rw", image, root), check=False, capture_output=True)).returncode:
            assert b"is open for writing already" in done.stderr
            assert time.monotonic() < deadline
        assert len(os.listdir(root)) == i
        (root / f"f{i}").write_bytes(os.urandom(MIB))
        run("umount", root)
    with live(tmp_path, image) as mount:
        assert len(os.listdir(mount.root)) == 3
