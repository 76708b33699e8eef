"""kill -9 of the daemon: what was fsynced is there, the image is sound, and the mount point tells what happened."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.fuse.crashload import Worker
from tests.fuse.mounts import Mount, command, mount_in
from tests.fuse.rwlab import check, live, make_image

pytestmark = [pytest.mark.mount]
ROUNDS_AN_IMAGE = 25
DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
"""What calls say when there is no daemon any more."""


def kill_under_load(mount: Mount, name: str, rng: random.Random, after: float) -> list[Worker]:
    """Some workers at once, and the end of the daemon while they are at it."""
    workers = [Worker(mount.root, f"{name}-{i}", rng.getrandbits(32)) for i in range(3)]
    for worker in workers:
        worker.start()
    time.sleep(after)
    mount.daemon.kill()
    mount.daemon.wait()
    for worker in workers:
        worker.join()
        assert isinstance(worker.failure, OSError), worker.failure
        assert worker.failure.errno in DEAD, worker.failure
    return workers


def kill_while_mounting(folder: Path, image: Path, after: float) -> None:
    """The recovery of a mount that was killed is killed as well."""
    root = folder / "again"
    root.mkdir(exist_ok=True)
    daemon = subprocess.Popen(command("-f", "-o", "rw", image, root), stdout=subprocess.DEVNULL)
    time.sleep(after)
    daemon.kill()
    daemon.wait()
    subprocess.run(["umount", "-l", str(root)], check=False, capture_output=True)


def campaign(folder: Path, rounds: int, seed: int) -> int:
    """Kill, recover, compare; how many changes were durable in all."""
    rng = random.Random(seed)
    acknowledged = 0
    image = make_image(folder)
    everybody: list[Worker] = []
    for turn in range(rounds):
        with mount_in(folder, image, "rw", quiet=False) as mount:
            workers = kill_under_load(mount, f"r{turn}", rng, rng.choice((0.1, 0.6, 1.5)) * rng.random() + 0.05)
        if turn % 3 == 2:
            kill_while_mounting(folder, image, rng.random())
        everybody += workers
        acknowledged += sum(worker.acknowledged for worker in workers)
        with mount_in(folder, image, "rw", quiet=False) as mount:
            for worker in everybody[-12:]:
                worker.check(mount.root)
            if turn % 4 == 3:
                mount.daemon.kill()  # right after recovery
                mount.daemon.wait()
        if turn % 4 == 3:
            with mount_in(folder, image, "rw", quiet=False) as mount:
                for worker in everybody[-12:]:
                    worker.check(mount.root)
        check(image)
    with mount_in(folder, image, "ro") as mount:
        for worker in everybody:
            worker.check(mount.root)
    return acknowledged


def test_killed_under_load(tmp_path: Path) -> None:
    assert campaign(tmp_path, 4, seed=20) > 20


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200 // ROUNDS_AN_IMAGE))
def test_killed_under_load_many_times(tmp_path: Path, seed: int) -> None:
    assert campaign(tmp_path, ROUNDS_AN_IMAGE, seed) > 200


def test_killed_while_it_unmounts(tmp_path: Path) -> None:
    """What was not fsynced may be lost, but nothing is damaged."""
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw", quiet=False) as mount:
        for i in range(300):
            (mount.root / f"f{i}").write_bytes(os.urandom(20_000))
        subprocess.run(["umount", str(mount.root)], check=True)
        mount.daemon.kill()
        mount.daemon.wait()
    with live(tmp_path, image, quiet=False) as mount:
        assert all((mount.root / name).stat().st_size in {0, 20_000} for name in os.listdir(mount.root))
    check(image)


def test_a_stale_mount_point_is_explained(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw", quiet=False) as mount:
        (mount.root / "file").write_bytes(b"x")
        mount.daemon.kill()
        mount.daemon.wait()
        with pytest.raises(OSError, match="not connected"):
            os.listdir(mount.root)
        again = subprocess.run(command("-o", "rw", image, mount.root), capture_output=True, text=True, check=False)
        assert again.returncode == 32
        assert again.stderr == (
            f"mount_hammer: {mount.root}: a daemon that served it has died; clear it by: fusermount3 -u {mount.root}\n"
        )
        subprocess.run(["fusermount3", "-u", str(mount.root)], check=True)
    with live(tmp_path, image, quiet=False):
        pass
