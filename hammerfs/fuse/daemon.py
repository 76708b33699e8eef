"""The life of a mount: open the volumes, mount, serve until it is unmounted or told to end, close."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pyfuse3
import trio

from hammerfs.errors import HammerError, UsageError
from hammerfs.fs import HammerFS
from hammerfs.fuse import loop
from hammerfs.fuse.mountpoint import check_mountpoint, raise_read_ahead
from hammerfs.fuse.operations import Operations
from hammerfs.fuse.options import MountOptions
from hammerfs.fuse.service import Service
from hammerfs.vfs.vfs import Look, Vfs
from hammerfs.viewspec import parse_asof, parse_pfs
from kernelcore.host.iocpu import IoCpu
from kernelcore.host.trio_host import TrioHost

log = logging.getLogger("hammerfs")
GC_THRESHOLD = 100_000
"""Objects made before the collector looks at the youngest."""


class MountFailed(HammerError):
    """The kernel or fusermount refused; it has said why on stderr."""

    exit_code = 32


def serve(volumes: Sequence[str], mountpoint: str, options: MountOptions, ready: Callable[[], None]) -> None:
    """Mount and serve; returns when the file system has been unmounted.

    Args:
        volumes: The volumes, each maybe a colon list.
        mountpoint: A directory.
        options: How to mount.
        ready: Called once the mount works.

    Raises:
        UsageError: Options that don't fit.
        MountFailed: It can't be mounted there.
        HammerError: The volumes can't be opened.
    """
    if not options.read_only:
        raise UsageError("this version mounts read-only: use -o ro")
    mountpoint = os.path.abspath(mountpoint)  # the daemon leaves the current directory
    check_mountpoint(mountpoint)
    with HammerFS.open(list(volumes), recover=options.recover, cache_bytes=options.cache_bytes, warn=log.warning) as fs:
        vfs = Vfs(fs, _look(fs, options))
        fs.cache.inline = False
        try:
            trio.run(_run, vfs, _source(volumes), mountpoint, options, ready)
        except BaseExceptionGroup as group:
            raise sole_cause(group) from None


def sole_cause(group: BaseException) -> BaseException:
    """What a nursery wrapped: the exception itself when it is the only one."""
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group


def _source(volumes: Sequence[str]) -> str:
    """What /proc/mounts shows: the volumes as one list of absolute names."""
    names = [name for text in volumes for name in ([text] if Path(text).exists() else text.split(":"))]
    return ":".join(os.path.abspath(name) for name in names)


def _look(fs: HammerFS, options: MountOptions) -> Look:
    pfs_id = 0 if options.pfs is None else parse_pfs(fs, options.pfs)
    return Look(
        pfs_id,
        None if options.asof is None else parse_asof(fs, pfs_id, options.asof),
        options.snapdir,
        options.snapdir_name,
        options.snapfmt,
        options.ownership,
    )


async def _run(vfs: Vfs, source: str, mountpoint: str, options: MountOptions, ready: Callable[[], None]) -> None:
    host = TrioHost(name="hammer")
    async with trio.open_nursery() as nursery:
        host.start(nursery)
        io = IoCpu(host, "io0")
        service = Service(vfs.fs, host, io)
        loop.install(pyfuse3, lambda: not service.waiting)
        await nursery.start(_end_by_signal)
        _mount(Operations(vfs, service), mountpoint, options.for_fuse(source))
        try:
            nursery.start_soon(trio.to_thread.run_sync, raise_read_ahead, mountpoint)
            ready()
            _quiet_collector()
            await pyfuse3.main()
        finally:
            pyfuse3.close(unmount=True)
            io.stop()
            await host.shutdown()
            nursery.cancel_scope.cancel()


def _mount(operations: Operations, mountpoint: str, words: set[str]) -> None:
    try:
        pyfuse3.init(operations, mountpoint, words)
    except RuntimeError as err:
        raise MountFailed(f"cannot mount on {mountpoint}: {err}") from None


def _quiet_collector() -> None:
    """Keep the cyclic garbage collector off what stays: its passes over all nodes were a third of a look-up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


async def _end_by_signal(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """SIGTERM, SIGINT and SIGHUP end the mount as an unmount does."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            log.info("ended by %s", signal.Signals(number).name)
            pyfuse3.terminate()
