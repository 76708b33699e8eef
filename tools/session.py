"""Running a verb where the file system is: on a mount through its control socket, else on the volumes of ``-f``."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from hammerfs.errors import HammerError, NotFound, UsageError
from hammerfs.maint.verb import Context
from hammerfs.maint.verbs import run_verb
from hammerfs.rw import WritableFS
from hammerfs.vfs.control_proto import RemoteError, decode, encode, sockets_for
from kernelcore.host.up import UpHost


class Session(Protocol):
    """Runs verbs."""

    place: str
    """What the file system is called in messages: its mount point, or its volumes."""

    def run(self, verb: str, path: str | None = None, **args: Any) -> Any:
        """Run a verb; `path` is one as the user wrote it.

        Raises:
            HammerError: What the verb raises.
        """
        ...


@contextmanager
def open_session(args: argparse.Namespace, path: str) -> Iterator[Session]:
    """A session on the file system that a verb is to work on.

    Args:
        args: With ``-f`` its `volumes`.
        path: A path inside a mount, or with ``-f`` inside the image.

    Raises:
        UsageError: The path is not on a mounted HAMMER file system, and no volumes are given.
        HammerError: The volumes can't be opened for writing.
    """
    if args.volumes:
        with WritableFS.open_rw(args.volumes) as fs:
            yield _Image(fs, ":".join(args.volumes))
        return
    with open_mount(path) as session:
        yield session


@contextmanager
def open_mount(path: str) -> Iterator[Session]:
    """A session with the daemon of the mount that holds a path.

    Raises:
        UsageError: The path is not on a mounted HAMMER file system.
        HammerError: Its daemon has died.
    """
    with _connect(path) as connection:
        yield _Mount(connection, path)


class _Image:
    """Volumes opened by this process."""

    def __init__(self, fs: WritableFS, place: str) -> None:
        self._ctx = Context(fs)
        self._host: UpHost = fs.host
        self.place = place

    def run(self, verb: str, path: str | None = None, **args: Any) -> Any:
        if path is not None:
            args["path"] = path
        return self._host.call(run_verb(self._ctx, verb, args))


class _Mount:
    """A mount, by its control socket."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._stream = connection.makefile("rwb")
        self.place = _mountpoint_of(path)

    def run(self, verb: str, path: str | None = None, **args: Any) -> Any:
        if path is not None:
            args["path"] = os.path.relpath(_real(path), self.place)
        try:
            self._stream.write(encode({"verb": verb, "args": args}))
            self._stream.flush()
            line = self._stream.readline()
        except (BrokenPipeError, ConnectionResetError):
            line = b""
        if not line:
            raise RemoteError({"error": f"the daemon of {self.place} has gone away"})
        reply = decode(line)
        if "error" in reply:
            raise RemoteError(reply)
        return reply["result"]


def has_daemon(path: str) -> bool:
    """Whether a path that exists is on a mounted HAMMER file system."""
    device = os.stat(path).st_dev
    return any(candidate.exists() for candidate in sockets_for(device))


def _connect(path: str) -> socket.socket:
    try:
        device = os.stat(path).st_dev
    except OSError as err:
        raise NotFound(f"{path}: {err.strerror}") from None
    refused = None
    for candidate in sockets_for(device):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(candidate))
        except OSError as err:
            connection.close()
            if not isinstance(err, FileNotFoundError):
                refused = err
            continue
        return connection
    if isinstance(refused, ConnectionRefusedError):
        place = _mountpoint_of(path)
        raise HammerError(f"{place}: the daemon of this mount has died; clear it by: fusermount3 -u {place}")
    if refused is not None:
        raise UsageError(f"{path}: the daemon of this mount can't be asked: {refused.strerror}")
    raise UsageError(f"{path} is not on a mounted HAMMER file system; for an image name it with -f VOL")


def _real(path: str) -> str:
    """The path without symbolic links on the way, the last component as it is."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _mountpoint_of(path: str) -> str:
    """The mount point above a path."""
    place = Path(os.path.realpath(path))
    while not os.path.ismount(place):
        place = place.parent
    return str(place)
