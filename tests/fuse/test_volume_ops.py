"""Volumes added to and removed from a mount while programs go on."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hammerfs.device.lock import has_writer
from tests.fuse.mounts import mount_in
from tests.fuse.rwlab import check, difference, make_image, run, run_hammer, tree_of

pytestmark = [pytest.mark.mount]


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A formatted image of 27 usable big-blocks, and a file of zeros."""
    one, two = make_image(tmp_path, "one", "240m"), tmp_path / "two"
    with two.open("wb") as file:
        file.truncate(400 << 20)
    return one, two


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Meanwhile somebody overwrites files and reads them again."""
    stop, wrong = threading.Event(), list[str]()
    busy = [root / f"busy{number}" for number in range(7)]
    for path in busy:
        path.touch()
    run_hammer("chflags", "nohistory", *busy)

    def write() -> None:
        for count in range(60):  # what is written and freed again stays in big-blocks that are not all free
            if stop.wait(0.01):
                return
            data, path = os.urandom(300_000), busy[count % 7]
            path.write_bytes(data)
            if path.read_bytes() != data:
                wrong.append(path.name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()
    assert wrong == []


def test_the_set_changes_while_programs_write(tmp_path: Path, images: tuple[Path, Path]) -> None:
    one, two = images
    with mount_in(tmp_path, one, "rw") as mount:
        root = mount.root
        for number in range(12):
            (root / f"f{number}").write_bytes(os.urandom(2_000_000))
        run_hammer("snapq", root, "before")
        tid = run_hammer("snapls", root).splitlines()[2].split("\t")[0]
        view = tree_of(root / f"@@{tid}")
        blocks = os.statvfs(root).f_blocks
        assert run_hammer("volume-add", two, root) == f"hammer volume-add: {two} is volume 1, 49 big-blocks\n"
        assert os.statvfs(root).f_blocks == blocks + 49 * 512
        assert run_hammer("volume-list", "-v", root) == f"0\t{one} (Root Volume)\n1\t{two}\n"
        assert run_hammer("volume-blkdevs", root) == f"{one}:{two}\n"
        for number in range(66):  # more than the first volume takes: the last ones are on the second
            (root / f"g{number}").write_bytes(os.urandom(3_000_000))
        run_hammer("chflags", "nohistory", *(root / f"g{number}" for number in range(62)))
        with writing(root):
            for number in range(62):
                (root / f"g{number}").unlink()
            removed = json.loads(run_hammer("--json", "volume-del", two, root))
        assert removed["nbytes_moved"] > 0
        assert os.statvfs(root).f_blocks == blocks
        assert run_hammer("volume-list", root) == f"{one}\n"
        assert two.read_bytes()[:16384] == bytes(16384)
        assert tree_of(root / f"@@{tid}") == view
        (root / "afterwards").write_bytes(b"there")
        before = tree_of(root)
    check(one)
    with mount_in(tmp_path, one, "ro") as mount:
        assert difference(tree_of(mount.root), before) == {}


def test_an_added_volume_is_named_at_the_next_mount(tmp_path: Path, images: tuple[Path, Path]) -> None:
    one, two = images
    with mount_in(tmp_path, one, "rw") as mount:
        run_hammer("volume-add", two, mount.root)
        assert "is volume 1 of this file system already" in run_hammer("volume-add", two, mount.root, code=1)
        (mount.root / "more").write_bytes(b"m" * 1_000_000)
        before = tree_of(mount.root)
    with mount_in(tmp_path, f"{two}:{one}", "rw") as mount:
        assert difference(tree_of(mount.root), before) == {}
        assert run_hammer("volume-list", mount.root) == f"{one}\n{two}\n"


def test_a_mount_does_not_become_a_volume_of_itself(tmp_path: Path, images: tuple[Path, Path]) -> None:
    with mount_in(tmp_path, images[0], "rw") as mount:
        inside = mount.root / "inside"
        inside.write_bytes(bytes(20 << 20))
        text = run_hammer("volume-add", inside, mount.root, code=2)
        assert text == f"hammer: volume-add: {inside} is a file of the file system that it would be a volume of\n"


def test_a_read_only_mount_keeps_its_volumes(tmp_path: Path, images: tuple[Path, Path]) -> None:
    one, two = images
    with mount_in(tmp_path, one, "ro") as mount:
        for verb in ("volume-add", "volume-del"):
            text = run_hammer(verb, two, mount.root, code=1)
            assert text == f"hammer: {verb}: the file system is mounted read-only\n"
    assert two.read_bytes()[:16384] == bytes(16384)


def test_names_given_from_where_the_user_stood(
    tmp_path: Path, images: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the background the daemon stands elsewhere; its volumes are still the same."""
    one, two = images
    with mount_in(tmp_path, one, "rw") as mount:
        run_hammer("volume-add", two, mount.root)
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    run(sys.executable, "-m", "tools.mount_hammer", "-o", "rw", f"{one.name}:{two.name}", place.name)
    try:
        assert json.loads(run_hammer("--json", "volume-blkdevs", place)) == [str(one), str(two)]
        assert run("findmnt", "-n", "-o", "SOURCE", place).strip() == f"{one}:{two}"
        run_hammer("volume-del", two.name, place.name)
        assert json.loads(run_hammer("--json", "volume-blkdevs", place)) == [str(one)]
    finally:
        run("umount" if os.geteuid() == 0 else "fusermount3", *([] if os.geteuid() == 0 else ["-u"]), place)
    with open(one, "rb") as stream:
        while has_writer(stream.fileno()):
            time.sleep(0.02)
    check(one)
