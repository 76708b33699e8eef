"""Mounts for tests: a real daemon process on a temporary directory, unmounted whatever happens."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hammerfs.vfs.control_proto import sockets_for

PATIENCE_S = 60


class Mount:
    """A mounted file system.

    Args:
        daemon: Its daemon, in the foreground.
        root: The mount point.
        log: What the daemon says.
    """

    def __init__(self, daemon: subprocess.Popen[bytes], root: Path, log: Path) -> None:
        self.daemon = daemon
        self.root = root
        self.log = log

    def unmount(self) -> int:
        """Unmount and return the daemon's exit code."""
        subprocess.run(_unmount_command(self.root), check=True, capture_output=True)
        return self.daemon.wait(PATIENCE_S)

    def said(self) -> str:
        """What the daemon has logged; not that a busy host kept it from yielding in time."""
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if "did not yield" not in line)


def _unmount_command(root: Path) -> list[str]:
    return ["umount", str(root)] if os.geteuid() == 0 else ["fusermount3", "-u", str(root)]


def command(*args: object) -> list[str]:
    """The command line of `mount_hammer`."""
    return [sys.executable, "-m", "tools.mount_hammer", *map(str, args)]


Mounter = Callable[..., "contextlib.AbstractContextManager[Mount]"]


@contextlib.contextmanager
def mount_in(folder: Path, spec: object, options: str = "ro", *, quiet: bool = True) -> Iterator[Mount]:
    """A mount below a folder; fails when the daemon complained or did not end."""
    root = folder / f"mnt{len(list(folder.iterdir()))}"
    root.mkdir()
    log = folder / f"{root.name}.log"
    with log.open("wb") as out:
        daemon = subprocess.Popen(command("-f", "-o", options, spec, root), stderr=out, stdout=out)
    mount = Mount(daemon, root, log)
    try:
        _wait_for(mount)
        yield mount
        if daemon.poll() is None:
            assert mount.unmount() == 0, mount.said()
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        if os.path.ismount(root) or _is_dead(root):
            subprocess.run(["umount", "-l", str(root)], check=False, capture_output=True)
    if quiet:
        assert mount.said() == ""


def _wait_for(mount: Mount) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (os.path.ismount(mount.root) and control_socket(mount.root)):
        assert mount.daemon.poll() is None, mount.said()
        assert time.monotonic() < deadline, f"not mounted: {mount.said()}"
        time.sleep(0.02)


def control_socket(root: Path) -> Path | None:
    """The control socket of a mount; None while the daemon does not listen yet, the last thing it does to be ready."""
    for path in sockets_for(root.stat().st_dev):
        with socket.socket(socket.AF_UNIX) as connection:
            if connection.connect_ex(str(path)) == 0:
                return path
    return None


def _is_dead(root: Path) -> bool:
    try:
        os.stat(root)
    except OSError:
        return True
    return False
