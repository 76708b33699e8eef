"""What the kernel is told when a session begins, beyond what pyfuse3 can say: that times have microseconds.

The kernel keeps times itself where the writeback cache is on, by its own clock in nanoseconds, unless the reply to INIT
says how fine the media's are. libfuse has a field for that which pyfuse3 does not reach. So INIT and its reply take a
detour: for this one exchange a pair of sockets stands in for the device, and the reply is completed on its way.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from hammerfs.errors import DeviceError

TIME_GRAIN_NS = 1_000
"""Nanoseconds between two times the media can hold."""
_REQUEST_MAX = 1 << 17
"""libfuse and the kernel refuse to read into less than this in one go."""
_HEAD = struct.Struct("=IiQ")
_GRAIN = struct.Struct("=I")
_GRAIN_AT = 40
"""Offset of time_gran: a head of 16 bytes and, from version 7.23 of the protocol on, 24 bytes before it."""


def with_time_grain(reply: bytes) -> bytes:
    """A reply to INIT that says how fine times are; one that is an error, or too old to say it, as it is."""
    if len(reply) < _GRAIN_AT + _GRAIN.size or _HEAD.unpack_from(reply)[1]:
        return reply
    return reply[:_GRAIN_AT] + _GRAIN.pack(TIME_GRAIN_NS) + reply[_GRAIN_AT + _GRAIN.size :]


class Detour:
    """The detour of INIT.

    Args:
        fd: Descriptor of the session; it is the device before and after.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._device: int | None = None
        self._ours: socket.socket | None = None

    def begin(self) -> None:
        """The device is readable: take INIT out of it, and hand it to whoever reads from the descriptor."""
        device = os.dup(self._fd)
        try:
            request = os.read(device, _REQUEST_MAX)
        except OSError as err:
            os.close(device)
            if err.errno not in {errno.ENODEV, errno.EAGAIN, errno.EINTR}:
                raise
            return  # unmounted already: who reads next is told as well
        self._device = device
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), self._fd, inheritable=False)
        self._ours.send(request)

    def end(self) -> None:
        """INIT has been answered: pass the reply on, and make the descriptor the device again."""
        if self._device is None or self._ours is None:
            return
        with self._ours as ours:
            try:
                reply = ours.recv(_REQUEST_MAX, socket.MSG_DONTWAIT)
                os.write(self._device, with_time_grain(reply))
            except BlockingIOError:
                raise DeviceError("libfuse left the kernel's first request unanswered") from None
            finally:
                os.dup2(self._device, self._fd, inheritable=False)
                os.close(self._device)
                self._device = self._ours = None
