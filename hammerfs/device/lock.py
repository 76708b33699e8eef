"""Nobody opens a volume twice for writing.

A writer holds an exclusive flock(2) on a regular file (on the BSDs on a disk device too), or has the block device open
with O_EXCL on Linux. Both hold against other processes and against this one, and end with the last descriptor, so that
a killed writer leaves nothing behind. A reader takes no lock that could keep a writer out: it only looks whether there
is one, and its look (a shared lock for some microseconds) is why a writer tries more than once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from typing import TypeVar

from hammerfs.errors import BusyError, DeviceError

_T = TypeVar("_T")

_TRIES = 10
_PAUSE_S = 0.02


def claim(fd: int, name: str) -> None:
    """Lock an open file for its one writer, until the descriptor is closed.

    Raises:
        BusyError: Somebody else (or this process already) has it open for writing.
        DeviceError: The host can't lock this file.
    """

    def lock() -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    try:
        _patiently(lock, errno.EWOULDBLOCK)
    except BlockingIOError:
        raise BusyError("is open for writing already", volume=name) from None
    except OSError as err:
        raise DeviceError(f"can't be locked for writing: {err.strerror}", volume=name) from None


def open_exclusive(path: str, flags: int) -> int:
    """Open a Linux block device that nobody else has open exclusively (a mount counts as such).

    Raises:
        BusyError: Somebody else (or this process already) has it.
        OSError: Any other failure of the host.
    """
    try:
        return _patiently(lambda: os.open(path, flags | os.O_EXCL), errno.EBUSY)
    except OSError as err:
        if err.errno != errno.EBUSY:
            raise
        raise BusyError("is in use: mounted or open for writing already", volume=path) from None


def has_writer(fd: int) -> bool:
    """Whether somebody holds the writer's lock of this open file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here: then there is no writer of ours either
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def has_exclusive_opener(path: str) -> bool:
    """Whether somebody has this Linux block device open exclusively."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_EXCL)
    except OSError as err:
        return err.errno == errno.EBUSY
    os.close(fd)
    return False


def _patiently(action: Callable[[], _T], passing: int) -> _T:
    for _ in range(_TRIES - 1):
        try:
            return action()
        except OSError as err:
            if err.errno != passing:
                raise
        time.sleep(_PAUSE_S)
    return action()
