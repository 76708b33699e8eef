"""Running calls of the file system for requests: at once where nothing is missing, else as a kernel thread that waits.

The plain call is tried first. A `BufferMiss` sends it to a kernel thread, which has the buffers read by an I/O CPU and
runs the call again from its start, holding what it waited for so that it comes further each time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hammerfs.cache import Fill
from hammerfs.const import BUFSIZE, XBUFSIZE
from hammerfs.data import ReadPlan
from hammerfs.errors import BufferMiss, HammerError
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.pages import page_buffer
from kernelcore.host.iocpu import IoCpu
from kernelcore.host.trio_host import TrioHost
from kernelcore.sched import lwkt_user_yield
from kernelcore.sleep import tsleep, wakeup

T = TypeVar("T")
log = logging.getLogger("hammerfs")
_HELD = 64
"""Most buffers one call keeps from being evicted while it waits for more, or brings in at a time."""
_READ_POOL = 16
"""Most reply buffers kept."""
_READ_BYTES = 1 << 20
"""Bytes of a reply buffer: the most the kernel asks for. Memory is used only as far as it was ever filled."""


_AHEAD = 256 << 10
"""Bytes the host is asked to bring in beside what is waited for."""


class Service:
    """Calls on one file system from one event loop.

    Args:
        fs: The file system, not inline.
        host: The domain that runs it.
        io: Reads the volumes.
    """

    def __init__(self, fs: HammerFS, host: TrioHost, io: IoCpu) -> None:
        self._fs = fs
        self._host = host
        self._io = io
        self._coming: set[tuple[int, int]] = set()
        """Buffers on their way in: (volume, byte offset)."""
        self._buffers: list[memoryview] = []
        self.waiting = 0
        """Requests that wait for something."""

    async def call(self, fn: Callable[..., T], *args: Any) -> T:
        """Run `fn(*args)`, as often as it takes.

        Raises:
            HammerError: What the call raises; anything else it raises is a bug, is logged, and costs this request only.
        """
        try:
            return self._host.syscall_plain(fn, *args)
        except BufferMiss as miss:
            first = miss
        except HammerError:
            raise
        except Exception as err:
            raise _bug(fn, err) from err
        self.waiting += 1
        try:
            return await self._host.syscall(self._patiently(first, fn, args))
        except HammerError:
            raise
        except Exception as err:
            raise _bug(fn, err) from err
        finally:
            self.waiting -= 1

    async def run(self, body: Coroutine[Any, Any, T]) -> T:
        """Run a kernel coroutine to its end; errors as `call`."""
        self.waiting += 1
        try:
            return await self._host.syscall(body)
        finally:
            self.waiting -= 1

    async def read(self, inode: Inode, offset: int, nbytes: int) -> memoryview:
        """Contents of a file; the view is good until the reply to this request has been written.

        Raises:
            CrcError: The data is damaged.
            HammerError: As `HammerFS.readinto`.
        """
        nbytes = max(0, min(nbytes, inode.size - offset))
        buf = self._take(nbytes)
        target = buf[:nbytes]
        plan = await self.call(self._fs.plan_read, inode, offset, target)
        if not plan.run_nowait():
            self.waiting += 1
            try:
                await self._host.syscall(self._io.call(_run_ahead, plan))
            finally:
                self.waiting -= 1
        answer = target[: plan.finish()]
        self._host.release_after_reply(lambda: self._give_back(buf))  # no await from here to the reply
        return answer

    async def _patiently(self, miss: BufferMiss, fn: Callable[..., T], args: tuple[Any, ...]) -> T:
        """In a kernel thread: bring in what is missing and run the call again, until nothing is."""
        held: deque[Fill] = deque()
        brought, enough = 0, self._fs.cache.limit_bytes // BUFSIZE
        try:
            while True:
                brought += await self._bring(miss, held)
                if brought > enough:  # it needs more at once than the cache holds
                    return self._inline(fn, args)
                try:
                    return fn(*args)
                except BufferMiss as again:
                    miss = again
        finally:
            for fill in held:
                fill.release()

    def _inline(self, fn: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Run a call that reads what it misses itself; everybody waits for it."""
        cache = self._fs.cache
        inline, cache.inline = cache.inline, True
        try:
            return fn(*args)
        finally:
            cache.inline = inline

    async def _bring(self, miss: BufferMiss, held: deque[Fill]) -> int:
        """Have the missing buffers read, each by one request only; how many there were."""
        if not miss.wanted:  # the call wants others to have their turn
            await lwkt_user_yield()
            return 0
        may_hold = self._may_hold()
        for wanted in reversed(miss.wanted[:may_hold]):  # what is needed at once comes last: it is held longest
            place = wanted[0], wanted[1]
            while place in self._coming:
                await tsleep(place, 0, "hmrbio")
            for fill in self._fs.cache.prepare(BufferMiss([wanted])):
                await self._fill(place, fill)
                held.append(fill)
            while len(held) > may_hold:
                held.popleft().release()
        return len(miss.wanted[:may_hold])

    def _may_hold(self) -> int:
        """Buffers that one call may keep: all that wait together get half of the cache."""
        return max(1, min(_HELD, self._fs.cache.limit_bytes // BUFSIZE // 2 // self.waiting))

    async def _fill(self, place: tuple[int, int], fill: Fill) -> None:
        self._coming.add(place)
        try:
            await self._io.call(_fill_ahead, fill)
        except BaseException:
            fill.abort()
            raise
        finally:
            self._coming.discard(place)
            wakeup(place)
        fill.commit()

    def _take(self, nbytes: int) -> memoryview:
        if nbytes <= _READ_BYTES and self._buffers:
            return self._buffers.pop()
        return page_buffer(max(nbytes, _READ_BYTES))

    def _give_back(self, buf: memoryview) -> None:
        if len(buf) == _READ_BYTES and len(self._buffers) < _READ_POOL:
            self._buffers.append(buf)


def _run_ahead(plan: ReadPlan) -> None:
    """Do the reads of a plan; small files that were written together lie together, so the next ones are asked for."""
    if plan.nbytes <= XBUFSIZE and plan.ios:
        last = plan.ios[-1]
        last.volume.dev.will_need(last.byte_off, _AHEAD)
    plan.run()


def _fill_ahead(fill: Fill) -> None:
    """Fill a buffer of metadata; what was made together lies together, so the next ones are asked for."""
    fill.volume.dev.will_need(fill.byte_off, _AHEAD)
    fill.volume.dev.preadv(fill.byte_off, [fill.view])


def _bug(fn: Callable[..., object], err: Exception) -> HammerError:
    name = getattr(fn, "__qualname__", str(fn))
    log.error("a request failed in %s", name, exc_info=err)
    return HammerError(f"{name} failed: {err!r}")
