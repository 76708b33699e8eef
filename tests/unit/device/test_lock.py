"""Nobody opens a volume twice for writing: in one process, between processes, after a killed writer."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hammerfs.device import lock
from hammerfs.device.file import open_file
from hammerfs.errors import BusyError, DeviceError

_HOLD = """
import sys
from hammerfs.device.file import open_file
device = open_file(sys.argv[1], readonly=False)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "vol.img"
    target.write_bytes(bytes(65536))
    return target


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PAUSE_S", 0.0)


class Holder:
    """Another process that has a volume open for writing."""

    def __init__(self, path: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.mark.usefixtures("quick")
def test_one_writer_in_one_process(path: Path) -> None:
    with open_file(path, readonly=False):
        with pytest.raises(BusyError, match="open for writing already") as caught:
            open_file(path, readonly=False)
        assert caught.value.volume == str(path)
    open_file(path, readonly=False).close()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kill", [False, True])
def test_one_writer_between_processes(path: Path, kill: bool) -> None:
    holder = Holder(path)
    try:
        with pytest.raises(BusyError):
            open_file(path, readonly=False)
    finally:
        holder.end(kill=kill)
    open_file(path, readonly=False).close()


def test_readers_do_not_keep_anybody_out(path: Path) -> None:
    warnings: list[str] = []
    with open_file(path, warn=warnings.append), open_file(path, warn=warnings.append):
        assert warnings == []
        with open_file(path, readonly=False):
            assert warnings == []


def test_reader_is_warned_of_a_writer(path: Path) -> None:
    warnings: list[str] = []
    holder = Holder(path)
    try:
        with open_file(path, warn=warnings.append) as device:
            assert device.pread(0, 4) == bytes(4)
        assert len(warnings) == 1
        assert str(path) in warnings[0]
        open_file(path).close()
    finally:
        holder.end()
    open_file(path, warn=warnings.append).close()
    assert len(warnings) == 1


def test_a_writer_outlasts_the_look_of_a_reader(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            fcntl.flock(looking, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "sleep", pause)
    open_file(path, readonly=False).close()
    assert len(pauses) == 3
    os.close(looking)


def test_a_file_that_cannot_be_locked_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DeviceError, match="can't be locked"):
        open_file(path, readonly=False)
    warnings: list[str] = []
    open_file(path, warn=warnings.append).close()
    assert warnings == []


def test_no_descriptor_is_left_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PAUSE_S", 0.0)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with open_file(path, readonly=False):
        for _ in range(5):
            with pytest.raises(BusyError):
                open_file(path, readonly=False)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


@pytest.mark.root
@pytest.mark.usefixtures("quick")
def test_block_device_has_one_writer(loop: str) -> None:
    warnings: list[str] = []
    holder = Holder(loop)
    attempts: list[Callable[[], object]] = [
        lambda: open_file(loop, readonly=False),
        lambda: open_file(loop, readonly=False, warn=warnings.append),
    ]
    try:
        for attempt in attempts:
            with pytest.raises(BusyError, match="in use"):
                attempt()
        with open_file(loop, warn=warnings.append) as reader:
            assert reader.pread(0, 1) == b"\0"
        assert len(warnings) == 1
    finally:
        holder.end()
    with open_file(loop, readonly=False), pytest.raises(BusyError):
        open_file(loop, readonly=False)
    open_file(loop, warn=warnings.append).close()
    assert len(warnings) == 1
