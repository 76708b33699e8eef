"""`hammer df` on a mount: what it tells while somebody writes, and that it is what pruning then does."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from tests.fuse.mounts import mount_in
from tests.fuse.rwlab import check, make_image, run_hammer

pytestmark = [pytest.mark.mount]


def test_a_mount_tells_what_its_image_does(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw") as mount:
        root = mount.root
        for number in range(4):
            for name in range(10):
                (root / f"f{name}").write_bytes(os.urandom(30_000))
            run_hammer("synctid", root)
            if number % 2:
                run_hammer("snapq", root, f"snapshot {number}")
        (root / "f0").write_bytes(b"unflushed")
        found = json.loads(run_hammer("--json", "df", "--history", root))
        space = os.statvfs(root)
        assert found["space"]["available"] == space.f_bavail * space.f_bsize
        assert run_hammer("df", root).splitlines()[1].endswith(f"  {root}")
        pfs = found["pfs"][0]
        pruned = json.loads(run_hammer("--json", "prune", root))
        assert pruned["nbytes"] == pfs["reclaimable"]["bytes"] > 0
    with mount_in(tmp_path, image, "ro") as mount:
        of_mount = json.loads(run_hammer("--json", "df", "--history", mount.root))
    assert of_mount == json.loads(run_hammer("--json", "-f", image, "df", "--history"))
    assert of_mount["pfs"][0]["live"] == pfs["live"]
    check(image)


def test_others_go_on_meanwhile(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    with mount_in(tmp_path, image, "rw") as mount:
        root = mount.root
        for folder in range(4):
            (root / f"d{folder}").mkdir()
            for name in range(300):
                (root / f"d{folder}" / f"f{name}").write_bytes(b"contents")
        stop, rounds = threading.Event(), list[int]()

        def write() -> None:
            while not stop.is_set():
                (root / "busy").write_bytes(b"b" * 5000)
                rounds.append(len((root / "busy").read_bytes()))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                found = json.loads(run_hammer("--json", "df", "--history", root))
                assert found["pfs"][0]["live"]["records"] > 2400
        finally:
            stop.set()
            writer.join()
        assert set(rounds) == {5000}
    check(image)
