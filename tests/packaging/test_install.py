"""`make install` into a folder, what it leaves there working, and `make uninstall` taking all of it away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
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


def files_in(folder: Path) -> set[str]:
    return {os.path.relpath(os.path.join(where, name), folder) for where, _, names in os.walk(folder) for name in names}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mount point on which nothing stays."""
    place = tmp_path / "place"
    place.mkdir()
    yield place
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def test_install_and_uninstall(tmp_path: Path, place: Path) -> None:
    prefix = tmp_path / "a prefix"
    others = {"bin/other", "sbin/mount.other", "share/man/man8/other.8", "share/fish/vendor_completions.d/other.fish"}
    for name in others:
        (prefix / name).parent.mkdir(parents=True)
        (prefix / name).touch()
    make("install", prefix)
    image = tmp_path / "disk.img"
    for words in (
        ["bin/newfs_hammer", "-f", "-u", "8m", "-L", "T", "--size", "512m", image],
        ["sbin/mount.hammer", image, place, "-o", "rw,noatime"],
        ["bin/hammer", "synctid", place],
        ["bin/hammer", "completion", "moments", "--", "hammer", "find", place, "--asof", ""],
        ["bin/undo", "--help"],
        ["sbin/umount.hammer", place],
        ["sbin/fsck.hammer", "-n", image],
    ):
        command = [str(prefix / str(words[0])), *map(str, words[1:])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, (words, done.stderr)
    for path in (path for folder in ("bin", "sbin") for path in (prefix / folder).iterdir()):
        if str(path.relative_to(prefix)) not in others:
            assert os.access(path, os.X_OK), path
            assert len(list(prefix.glob(f"share/man/man?/{path.name}.?"))) == 1, path
            assert (prefix / "share" / "bash-completion" / "completions" / path.name).stat().st_size, path
    unit = (prefix / "lib" / "systemd" / "system" / "hammerfs@.service").read_text(encoding="utf-8")
    assert f'ExecStart="{prefix}/bin/mount_hammer" -f ' in unit
    assert (prefix / "bin" / "mount_hammer").exists()
    make("uninstall", prefix)
    assert files_in(prefix) == others
