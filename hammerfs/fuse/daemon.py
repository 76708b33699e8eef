"""The life of a mount: open the volumes, mount, serve until it is unmounted or told to end, flush, close."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Sequence

import pyfuse3
import trio

from hammerfs.device.open import open_devices, split_volumes
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.fuse import loop
from hammerfs.fuse.control import ControlServer
from hammerfs.fuse.mountpoint import check_mountpoint, detach, device_number, raise_read_ahead, unmount
from hammerfs.fuse.operations import Operations
from hammerfs.fuse.options import MountOptions
from hammerfs.fuse.service import Service
from hammerfs.fuse.write_operations import WritableOperations
from hammerfs.maint.verb import Context
from hammerfs.rw import WritableFS
from hammerfs.vfs.control_proto import runtime_dir, socket_name
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
    """Mount and serve; returns when the file system has been unmounted and all is on the media.

    Args:
        volumes: The volumes, each maybe a colon list.
        mountpoint: A directory.
        options: How to mount.
        ready: Called once the mount works.

    Raises:
        UsageError: Options that don't fit.
        MountFailed: It can't be mounted there.
        HammerError: The volumes can't be opened, or not everything could be flushed at the end.
    """
    mountpoint = os.path.realpath(mountpoint)  # now: later the daemon would ask itself
    check_mountpoint(mountpoint)
    mount = _Mount(volumes, mountpoint, options, ready)
    try:
        trio.run(mount.run)
    except BaseExceptionGroup as group:
        raise sole_cause(group) from None


def sole_cause(group: BaseException) -> BaseException:
    """What a nursery wrapped: the exception itself when it is the only one."""
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group


class _Mount:
    """One mount, from opening to closing.

    Args:
        volumes: As for `serve`.
        mountpoint: As for `serve`, absolute.
        options: As for `serve`.
        ready: As for `serve`.
    """

    def __init__(
        self, volumes: Sequence[str], mountpoint: str, options: MountOptions, ready: Callable[[], None]
    ) -> None:
        self._volumes = [os.path.abspath(name) for text in volumes for name in split_volumes(text)]
        """Good from anywhere: in the background the daemon has another working directory."""
        self._mountpoint = mountpoint
        self._options = options
        self._ready = ready

    async def run(self) -> None:
        """Serve."""
        host = TrioHost(name="hammer")
        async with trio.open_nursery() as nursery:
            host.start(nursery)
            io = IoCpu(host, "io0")
            try:
                with await self._open(host, io) as fs:
                    await self._serve(fs, host, io)
            finally:
                io.stop()
                await host.shutdown()
                nursery.cancel_scope.cancel()

    async def _open(self, host: TrioHost, io: IoCpu) -> HammerFS:
        options = self._options
        if options.read_only:
            return HammerFS.open(
                self._volumes, recover=options.recover, cache_bytes=options.cache_bytes, warn=_refuse_writer
            )
        devices = open_devices(self._volumes, readonly=False, warn=log.warning)
        try:
            fs = WritableFS(
                devices,
                options.writing,
                cache_bytes=options.cache_bytes,
                host=host,
                submit=io.call,
                redo=options.recover == "full",
            )
            await host.syscall(fs.start(), "mount")
        except BaseException:
            for dev in devices:
                dev.close()
            raise
        return fs

    async def _serve(self, fs: HammerFS, host: TrioHost, io: IoCpu) -> None:
        """From a file system that is open to one that has been flushed."""
        service = Service(fs, host, io)
        try:
            vfs = Vfs(fs, self._look(fs))
            fs.cache.inline = False
            root = vfs.root
            if isinstance(fs, WritableFS):
                operations = WritableOperations(vfs, service, fs, xattr=self._options.xattr)
                control = ControlServer(Context(fs, root.pfs_id, changed=operations.changed), host, operations)
                await self._until_unmounted(operations, service, control)
            else:
                control = ControlServer(Context(fs, root.pfs_id, root.asof), host)
                await self._until_unmounted(Operations(vfs, service, xattr=self._options.xattr), service, control)
        finally:
            if isinstance(fs, WritableFS):
                with trio.CancelScope(shield=True):
                    await host.syscall(fs.finish(), "unmount")

    async def _until_unmounted(self, operations: Operations, service: Service, control: ControlServer) -> None:
        loop.install(pyfuse3, lambda: not service.waiting and not control.busy)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._end_by_signal, operations)
            self._mount(operations)
            try:
                nursery.start_soon(trio.to_thread.run_sync, raise_read_ahead, self._mountpoint)
                device = device_number(self._mountpoint)
                if device is not None:
                    await nursery.start(control.serve, runtime_dir(os.geteuid()) / socket_name(device))
                self._ready()
                _quiet_collector()
                await pyfuse3.main()
            finally:
                pyfuse3.close(unmount=True)
                nursery.cancel_scope.cancel()

    def _look(self, fs: HammerFS) -> Look:
        options = self._options
        pfs_id = 0 if options.pfs is None else parse_pfs(fs, options.pfs)
        return Look(
            pfs_id,
            None if options.asof is None else parse_asof(fs, pfs_id, options.asof),
            options.snapdir,
            options.snapdir_name,
            options.snapfmt,
            options.ownership,
        )

    def _mount(self, operations: Operations) -> None:
        try:
            pyfuse3.init(operations, self._mountpoint, self._options.for_fuse(":".join(self._volumes)))
        except RuntimeError as err:
            raise MountFailed(f"cannot mount on {self._mountpoint}: {err}") from None

    async def _end_by_signal(
        self, operations: Operations, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """SIGTERM, SIGINT and SIGHUP end the mount as an unmount does: the kernel first hands over what it holds."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                log.info("ended by %s", signal.Signals(number).name)
                if not await trio.to_thread.run_sync(unmount, self._mountpoint):
                    log.warning("%s is busy: it goes away under those who use it", self._mountpoint)
                    if isinstance(operations, WritableOperations):
                        await operations.write_back()
                    await trio.to_thread.run_sync(detach, self._mountpoint)
                    pyfuse3.terminate()


def _refuse_writer(text: str) -> None:
    """Others may read what somebody writes to at their own risk; a mount that shows a mixture helps nobody."""
    raise MountFailed(text)


def _quiet_collector() -> None:
    """Keep the cyclic garbage collector off what stays: its passes over all nodes were a third of a look-up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
