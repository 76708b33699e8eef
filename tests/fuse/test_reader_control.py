"""The control socket of a mount that only reads: what looks works, what changes is refused in one line."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.mounts import control_socket, mount_in
from tests.fuse.rwlab import live, run_hammer
from tests.golden import GoldenStore

pytestmark = [pytest.mark.mount]


def ask(*args: object) -> Any:
    return json.loads(run_hammer("--json", *args))


def test_what_looks_answers_as_on_a_writer(tmp_path: Path, image: Path) -> None:
    verbs = "info", "volume-list"
    with live(tmp_path, image) as mount:
        (mount.root / "file").write_bytes(b"one")
        run_hammer("snapq", mount.root, "first")
        (mount.root / "file").write_bytes(b"longer")
        (mount.root / "folder").mkdir()
        run_hammer("chflags", "nodump", mount.root / "folder")
        first = ask("snapls", mount.root)
        shown = [text.replace(str(mount.root), "") for text in (run_hammer(v, mount.root) for v in verbs)]
    with mount_in(tmp_path, image, "ro") as mount:
        assert ask("snapls", mount.root) == first
        assert [text.replace(str(mount.root), "") for text in (run_hammer(v, mount.root) for v in verbs)] == shown
        assert run_hammer("lsflags", mount.root / "folder").startswith("nodump")
        assert [row["size"] for row in ask("versions", mount.root / "file")][-1] == 6
        assert len(ask("history", mount.root / "file")[0]["history"]) >= 2
        assert [row["path"] for row in ask("diff", "first", "now", mount.root)] == ["/file", "/folder"]
        assert "hmrctl" in run_hammer("ps", mount.root)


def test_counters_are_those_of_a_reader(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "ro") as mount:
        found = ask("stats", mount.root)
        assert found["writable"] is False
        assert found["cache_bytes"] > 0
        assert "flushes" not in found
        assert "vfs.hammer.count_inodes" in ask("sysctl", mount.root, "vfs.hammer")
        assert "can't be set" in run_hammer("sysctl", mount.root, "vfs.hammer.count_inodes=1", code=2)
    with mount_in(tmp_path, image, "rw") as mount:
        found = ask("stats", mount.root)
        assert found["writable"] is True
        assert found["flushes"] >= 0


@pytest.mark.parametrize(
    "words",
    [
        ["synctid"],
        ["snap"],
        ["prune-everything"],
        ["reblock"],
        ["sysctl", "vfs.hammer.commit_seconds=3"],
    ],
)
def test_what_changes_is_refused(tmp_path: Path, image: Path, words: list[str]) -> None:
    with mount_in(tmp_path, image, "ro") as mount:
        said = run_hammer(words[0], mount.root, *words[1:], code=1)
        assert said.count("\n") == 1
        assert "mounted read-only" in said


def test_paths_of_a_mount_of_the_past_are_of_that_time(tmp_path: Path, image: Path) -> None:
    with live(tmp_path, image) as mount:
        (mount.root / "old").mkdir()
        run_hammer("chflags", "nodump", mount.root / "old")
        tid = run_hammer("synctid", mount.root).strip()
        (mount.root / "old").rmdir()
    with mount_in(tmp_path, image, f"ro,asof={tid}") as mount:
        assert run_hammer("lsflags", mount.root / "old").startswith("nodump")


@pytest.mark.golden
def test_a_golden_image(golden: GoldenStore, tmp_path: Path) -> None:
    with mount_in(tmp_path, golden["snapshots"].spec, "ro") as mount:
        assert len(ask("snapls", mount.root)) > 0


def test_a_socket_left_behind_is_taken_over(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "ro") as mount:
        path = control_socket(mount.root)
    assert path is not None
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with mount_in(tmp_path, image, "ro") as mount:  # the kernel gives the lowest free device number, most likely that
        assert ask("stats", mount.root)["writable"] is False
    path.unlink(missing_ok=True)
