"""`make install` into a folder, what it leaves there working, and `make uninstall` taking all of it away."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, pytest.mark.mount, pytest.mark.root]


def make(target: str, prefix: Path) -> None:
    done = subprocess.run(
        ["make", target, f"PREFIX={prefix}", f"SBINDIR={prefix}/sbin"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_install_and_uninstall(tmp_path: Path) -> None:
    prefix = tmp_path / "a prefix"
    make("install", prefix)
    image, place = tmp_path / "disk.img", tmp_path / "place"
    place.mkdir()
    for words in (
        ["bin/newfs_hammer", "-f", "-u", "8m", "-L", "T", "--size", "512m", image],
        ["sbin/mount.hammer", image, place, "-o", "rw,noatime"],
        ["bin/hammer", "synctid", place],
        ["sbin/umount.hammer", place],
        ["sbin/fsck.hammer", "-n", image],
    ):
        command = [str(prefix / str(words[0])), *map(str, words[1:])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, (words, done.stderr)
    assert (prefix / "share" / "man" / "man8" / "newfs_hammer.8").is_file()
    make("uninstall", prefix)
    assert [name for _, _, files in os.walk(prefix) for name in files] == []
