"""The helpers of mount(8) and umount(8): their words, remounting, waiting for the last flush; ways to start a mount."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hammerfs.device.lock import has_writer
from tests.fuse.mounts import PATIENCE_S, Mount, command, mount_in
from tests.fuse.rwlab import check, live, run
from tests.fuse.test_options import SWALLOWED
from tools.mount_helper import mount

pytestmark = [pytest.mark.mount, pytest.mark.root]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "place"
    folder.mkdir()
    yield folder
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=False)


def helper(name: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a helper as mount(8) does."""
    code = f"import sys; from tools.mount_helper import {name}; sys.exit({name}())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def options_of(place: Path) -> list[str]:
    return run("findmnt", "-n", "-o", "OPTIONS", place).strip().split(",")


def test_mount_and_umount(image: Path, place: Path) -> None:
    done = helper("mount", image, place, "-n", "-v", "-o", "rw,noatime,_netdev,x-systemd.automount", "-t", "hammer")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.path.ismount(place)
    assert "noatime" in options_of(place)
    for i in range(200):
        (place / f"f{i}").write_bytes(os.urandom(20_000))
    done = helper("umount", place, "-n", "-t", "fuse.hammer")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with open(image, "rb") as stream:
        assert not has_writer(stream.fileno())
    check(image)


def test_umount_by_source_and_when_busy(image: Path, place: Path) -> None:
    assert helper("mount", image, place).returncode == 0
    with open(place / "open", "wb"):
        busy = helper("umount", place)
        assert busy.returncode != 0
        assert "busy" in busy.stderr
    assert helper("umount", image).returncode == 0
    assert not os.path.ismount(place)
    again = helper("umount", place)
    assert (again.returncode, again.stderr.count("\n")) == (32, 1)
    assert "no HAMMER file system is mounted there" in again.stderr


def test_a_fake_mount_checks_and_mounts_nothing(image: Path, place: Path, tmp_path: Path) -> None:
    assert helper("mount", image, place, "-f", "-o", "rw").returncode == 0
    assert not os.path.ismount(place)
    assert helper("mount", image, place, "-f", "-o", "shiny").returncode == 1
    assert helper("mount", image, tmp_path / "none", "-f").returncode == 32


@pytest.mark.parametrize("word", [*SWALLOWED, "user", "users", "owner", "group", "uid=7", "gid=7", "umask=027", "sync"])
def test_every_word_of_an_fstab_line(image: Path, place: Path, word: str) -> None:
    """As mount(8) calls its helper, but for the mount itself."""
    words = f"rw,{word},noatime"
    assert mount([str(image), str(place), "-f", "-n", "-v", "-N", "/proc/1/ns/mnt", "-t", "hammer", "-o", words]) == 0


def test_all_words_of_fstab_lines_at_once(image: Path, place: Path) -> None:
    assert helper("mount", image, place, "-o", ",".join(("rw", *SWALLOWED))).returncode == 0
    (place / "file").write_bytes(b"x")
    assert helper("umount", place).returncode == 0
    check(image)


def test_sloppy(image: Path, place: Path) -> None:
    refused = helper("mount", image, place, "-o", "rw,shiny")
    assert (refused.returncode, refused.stderr) == (1, "mount.hammer: unknown mount option 'shiny'\n")
    assert helper("mount", image, place, "-s", "-o", "rw,shiny").returncode == 0
    assert helper("umount", place).returncode == 0


def test_remount(tmp_path: Path, image: Path) -> None:
    with live(tmp_path, image) as mount:
        (mount.root / "file").write_bytes(b"x")
        assert helper("mount", image, mount.root, "-o", "remount,ro").returncode == 0
        with pytest.raises(OSError, match="Read-only"):
            (mount.root / "more").touch()
        table = "relatime,user_id=0,group_id=0,default_permissions,allow_other"  # as mount(8) adds it
        done = helper("mount", image, mount.root, "-o", f"rw,noexec,{table},remount")
        assert (done.returncode, done.stderr) == (0, "")
        (mount.root / "more").touch()
        assert "noexec" in options_of(mount.root)


def test_a_reader_does_not_become_a_writer(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "ro") as mount:
        done = helper("mount", image, mount.root, "-o", "remount,rw")
        assert done.returncode == 32
        assert "was mounted read-only" in done.stderr


def test_a_dead_daemon_does_not_remount(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "rw") as mount:
        mount.daemon.kill()
        mount.daemon.wait()
        done = helper("mount", image, mount.root, "-o", "remount,rw")
        assert (done.returncode, done.stderr.count("\n")) == (32, 1)


def test_as_a_module(image: Path, place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hammerfs", "mount", "-o", "rw", str(image), str(place)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert os.path.ismount(place)
    assert helper("umount", place).returncode == 0
    unknown = subprocess.run([sys.executable, "-m", "hammerfs", "fly"], capture_output=True, text=True, check=False)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)


def test_a_service_manager_is_told_and_lines_are_json(tmp_path: Path, image: Path, place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        daemon = subprocess.Popen(
            command("-f", "--log-json", "-o", "rw", image, place),
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            assert manager.recv(100) == b"READY=1"
            assert os.path.ismount(place)
            daemon.send_signal(signal.SIGTERM)
            _, said = daemon.communicate(timeout=PATIENCE_S)
        finally:
            daemon.kill()
            daemon.wait()
    assert daemon.returncode == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [("info", "ended by SIGTERM")]


def test_the_control_socket_is_there_when_the_mount_is(image: Path, place: Path) -> None:
    """A script may go on at once."""
    assert helper("mount", image, place).returncode == 0
    hammer = [sys.executable, "-m", "tools.cli", "synctid", str(place)]
    assert subprocess.run(hammer, check=False, capture_output=True).returncode == 0
    assert helper("umount", place).returncode == 0


def test_what_is_shown_as_the_source(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "rw") as mount:
        assert _source(mount) == str(image)


def _source(mount: Mount) -> str:
    return run("findmnt", "-n", "-o", "SOURCE", mount.root).strip()
