"""The directory that is mounted on: whether it will do, and how much the kernel reads ahead below it (Linux)."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from pathlib import Path

from hammerfs.device import media
from hammerfs.device.mounts import mount_table
from hammerfs.errors import HammerError

READ_AHEAD_KIB = 1024
"""One request of the kernel's read-ahead: the most a reply carries."""
log = logging.getLogger("hammerfs")


class MountpointError(HammerError):
    """The mount point will not do."""

    exit_code = 32


def check_mountpoint(mountpoint: str) -> None:
    """See that something can be mounted there.

    Raises:
        MountpointError: It is no directory, is not there, or its last daemon died.
    """
    try:
        os.listdir(mountpoint)
    except NotADirectoryError:
        raise MountpointError(f"{mountpoint}: not a directory") from None
    except OSError as err:
        if err.errno == errno.ENOTCONN:
            raise MountpointError(
                f"{mountpoint}: a daemon that served it has died; clear it by: fusermount3 -u {mountpoint}"
            ) from None
        raise MountpointError(f"{mountpoint}: {err.strerror}") from None


def raise_read_ahead(mountpoint: str) -> None:
    """Let the kernel read ahead in larger requests below a real path; only root on Linux may.

    Blocks: the kernel may wait for the file system meanwhile.
    """
    device = _device_of(mountpoint)
    if device is None:
        return
    try:
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(READ_AHEAD_KIB), encoding="ascii")
    except OSError as err:
        log.debug("read-ahead stays as it is: %s", err)


def device_number(mountpoint: str) -> int | None:
    """st_dev of what is mounted at a real path; None where this host tells only by asking the file system itself."""
    device = _device_of(mountpoint)
    if device is None:
        return None
    major, minor = device.split(":")
    return os.makedev(int(major), int(minor))


def unmount(mountpoint: str) -> bool:
    """Unmount; whether that was possible. Blocks: the kernel hands over unwritten data first."""
    return any(subprocess.run(words, check=False, capture_output=True).returncode == 0 for words in _ways(mountpoint))


def detach(mountpoint: str) -> None:
    """Have a busy mount vanish from the tree. Blocks."""
    for words in _ways(mountpoint, "-l" if media.IS_LINUX else "-f"):
        if subprocess.run(words, check=False, capture_output=True).returncode == 0:
            return


def _ways(mountpoint: str, *how: str) -> list[list[str]]:
    """Commands that unmount, the user's way last."""
    ways = [["umount", *how, mountpoint]]
    if media.IS_LINUX:
        ways.append(["fusermount3", "-u", *(["-z"] if how else []), mountpoint])
    return ways


def _device_of(mountpoint: str) -> str | None:
    """``major:minor`` of what is mounted there last."""
    return next((entry.number for entry in reversed(mount_table()) if entry.mountpoint == mountpoint), None) or None
