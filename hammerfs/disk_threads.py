"""The slaves of the flusher: a thread for each volume, which writes and flushes what a step says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hammerfs.commit import Step, Write
from hammerfs.errors import HammerError
from hammerfs.volume import Volume
from hammerfs.volumes import Volumes
from kernelcore.msgport import LwktMsg, domsg, initmsg, lwkt_port, replymsg, sendmsg, service_loop, waitmsg
from kernelcore.thread import Thread, join, lwkt_create, lwkt_exit

Submit = Callable[..., Awaitable[Any]]
"""``await submit(fn, *args)`` makes a call that may wait for the media, here or on an I/O CPU."""
_FAILED = 5


async def submit_inline(fn: Callable[..., Any], *args: Any) -> Any:
    """Make the call here: for tools and tests, which have nothing else to do meanwhile."""
    return fn(*args)


class _DiskMsg(LwktMsg):
    """Asks a slave to write, and to flush its volume behind that; without a volume it ends."""

    __slots__ = ("error", "flush", "writes")

    def __init__(self, writes: list[Write], *, flush: bool, reply_to: Any) -> None:
        super().__init__()
        initmsg(self, reply_to)
        self.writes = writes
        self.flush = flush
        self.error: HammerError | None = None


class DiskThreads:
    """A thread for each volume.

    Args:
        volumes: The set.
        submit: Makes calls that wait for the media.
    """

    def __init__(self, volumes: Volumes, submit: Submit) -> None:
        self._volumes = volumes
        self.submit = submit
        """Makes calls that wait for the media."""
        self._slaves: dict[Volume, Thread] = {}

    def start(self) -> None:
        """Create the threads."""
        for volume in self._volumes:
            self.add(volume)

    def add(self, volume: Volume) -> None:
        """Create the thread of a volume that joins the set."""
        self._slaves[volume] = lwkt_create(self._slave, volume, name=f"hmrflush{volume.vol_no}")

    async def remove(self, volume: Volume) -> None:
        """End the thread of a volume that is no part of the set."""
        await self._end(self._slaves.pop(volume))

    async def stop(self) -> None:
        """End the threads."""
        while self._slaves:
            await self._end(self._slaves.popitem()[1])

    async def step(self, step: Step) -> None:
        """Have the slaves do a step, all volumes at a time.

        Raises:
            HammerError: A device failed.
        """
        msgs: list[_DiskMsg] = []
        for volume, thread in self._slaves.items():
            writes = [write for write in step.writes if write.volume is volume]
            if writes or volume in step.flush:
                msg = _DiskMsg(writes, flush=volume in step.flush, reply_to=lwkt_port())
                sendmsg(lwkt_port(thread), msg)
                msgs.append(msg)
        for msg in msgs:
            await waitmsg(msg)
        for msg in msgs:
            if msg.error is not None:
                raise msg.error

    async def _end(self, thread: Thread) -> None:
        await domsg(lwkt_port(thread), _DiskMsg([], flush=False, reply_to=lwkt_port()))
        await join(thread)

    async def _slave(self, volume: Volume) -> None:
        async def serve(msg: _DiskMsg) -> int:
            if not msg.writes and not msg.flush:
                replymsg(msg, 0)
                lwkt_exit()
            try:
                await self.submit(_write_out, volume, msg.writes, msg.flush)
            except HammerError as err:
                msg.error = err
                return _FAILED
            return 0

        await service_loop(lwkt_port(), serve)


def _write_out(volume: Volume, writes: list[Write], flush: bool) -> None:
    dev = volume.dev
    for _, byte_off, buffers in writes:
        dev.pwritev(byte_off, buffers)
    if flush:
        dev.flush()
