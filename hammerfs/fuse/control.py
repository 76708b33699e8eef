"""The control socket of a mount: verbs of hammer(8) on the live file system.

A request becomes a message to the control thread, an LWKT thread that runs one verb after the other; what a verb
answers is the reply. Only root and the owner of the mount get in, by the credentials of the peer.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from pathlib import Path
from typing import Any, Protocol

import trio

from hammerfs.errors import HammerError, NotPermitted, UsageError
from hammerfs.maint.verb import Context
from hammerfs.maint.verbs import VERBS, error_reply, run_verb
from hammerfs.vfs.control_proto import MAX_LINE, check_args, decode, encode, is_private
from kernelcore.host.trio_host import TrioHost
from kernelcore.msgport import LwktMsg, domsg, initmsg, lwkt_port, service_loop
from kernelcore.thread import Thread, lwkt_create

log = logging.getLogger("hammerfs")
_CREDENTIALS = struct.Struct("3i")


class _VerbMsg(LwktMsg):
    """Asks the control thread to run a verb."""

    __slots__ = ("args", "reply", "verb")

    def __init__(self, verb: str, args: dict[str, Any]) -> None:
        super().__init__()
        self.verb = verb
        self.args = args
        self.reply: dict[str, Any] = {}


class KernelSide(Protocol):
    """What the kernel of the host knows of a mount that writes."""

    async def write_back(self) -> None:
        """Have it hand over what it holds unwritten."""

    async def tell_changes(self) -> None:
        """Have it forget what verbs have changed."""


class ControlServer:
    """Serves the control socket.

    Args:
        ctx: What verbs work on.
        host: The domain that runs them.
        kernel: The kernel's side of a mount that writes.
    """

    def __init__(self, ctx: Context, host: TrioHost, kernel: KernelSide | None = None) -> None:
        self._ctx = ctx
        self._host = host
        self._kernel = kernel
        self._thread: Thread | None = None
        self.busy = 0
        """Requests under way."""

    async def serve(self, path: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the socket is there only meanwhile, and once this has started."""
        await self._host.syscall(self._start())
        listener = _listen(path)
        task_status.started()
        if listener is None:
            return
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    stream, _ = await listener.accept()
                    nursery.start_soon(self._talk, stream)
        finally:
            listener.close()
            _remove(path)

    async def _start(self) -> None:
        self._thread = lwkt_create(self._loop, name="hmrctl")

    async def _loop(self) -> None:
        async def dispatch(msg: _VerbMsg) -> int:
            try:
                msg.reply = {"result": await run_verb(self._ctx, msg.verb, msg.args)}
            except HammerError as err:
                msg.reply = error_reply(err)
            except Exception as err:
                log.exception("verb %s failed", msg.verb)
                msg.reply = error_reply(HammerError(f"{msg.verb} failed: {err!r}"))
            return 0

        await service_loop(lwkt_port(), dispatch)

    async def _talk(self, stream: trio.socket.SocketType) -> None:
        """One connection: requests, each answered before the next."""
        with stream:
            buffered = b""
            try:
                while True:
                    line, newline, rest = buffered.partition(b"\n")
                    if newline:
                        buffered = rest
                        await _send(stream, await self._answer(stream, line))
                        continue
                    got = await stream.recv(65536)
                    buffered += got
                    if not got or len(buffered) > MAX_LINE:
                        return
            except OSError as err:
                log.debug("control connection ended: %s", err)

    async def _answer(self, stream: trio.socket.SocketType, line: bytes) -> dict[str, Any]:
        self.busy += 1
        try:
            request = decode(line)
            name, args = str(request.get("verb")), request.get("args") or {}
            verb = VERBS.get(name)
            if verb is None:
                raise UsageError(f"there is no verb '{name}'")
            check_args(name, verb.run, args)
            if verb.needs_owner and _peer_uid(stream) not in {0, os.geteuid()}:
                raise NotPermitted(f"{name} is for root and the owner of the mount")
            if verb.fixes_time and self._kernel is not None:
                await self._kernel.write_back()
            reply = await self._host.syscall(self._ask(name, args))
            if self._kernel is not None:
                await self._kernel.tell_changes()
            return reply
        except HammerError as err:
            return error_reply(err)
        finally:
            self.busy -= 1

    async def _ask(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        assert self._thread is not None
        msg = _VerbMsg(name, args)
        initmsg(msg, lwkt_port())
        await domsg(lwkt_port(self._thread), msg)
        return msg.reply


async def _send(stream: trio.socket.SocketType, reply: dict[str, Any]) -> None:
    data = encode(reply)
    while data:
        data = data[await stream.send(data) :]


def _listen(path: Path) -> trio.socket.SocketType | None:
    """A listening socket at a path, of mode 0600; None, with a word in the log, where there can be none."""
    try:
        path.parent.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        if not is_private(path.parent, os.geteuid()):
            raise PermissionError(errno.EPERM, "others may write there", str(path.parent))
        _remove(path)  # of a daemon that was killed: the device number is ours now
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(16)
    except OSError as err:
        log.warning("no control socket: %s", err)
        return None
    return trio.socket.from_stdlib_socket(listener)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _peer_uid(stream: trio.socket.SocketType) -> int:
    """User id of the other end; -1 where the host does not tell."""
    if hasattr(socket, "SO_PEERCRED"):
        raw = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(raw)[1])
    return -1
