"""LWKT messages: the structure, its flags, and who owns it.

A message is owned by exactly one side: the originator until it is sent and again after the reply, the target in
between; only the owner writes it, which is why no lock is needed. Its completion is exactly one of: a reply, a
synchronous result, a drop.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kernelcore.crit import crit_enter, crit_exit

if TYPE_CHECKING:
    from kernelcore.port import Port

MSGF_DONE: Final = 0x0001
MSGF_REPLY: Final = 0x0002
MSGF_QUEUED: Final = 0x0004
MSGF_SYNC: Final = 0x0008
MSGF_INTRANSIT: Final = 0x0010
MSGF_DROPABLE: Final = 0x0040
MSGF_ABORTABLE: Final = 0x0080
MSGF_PRIORITY: Final = 0x0100
MSGF_RECEIPT: Final = 0x0200
MSGF_USER_MASK: Final = 0xFFFF0000

EASYNC: Final = -2  # "a reply will follow"; never an errno
ENOENT: Final = errno.ENOENT


class LwktMsg:
    """A message. Subclass it, with slots, to carry a payload; keep and reuse one rather than allocate.

    `ms_error` is the result; `ms_abortfn` and `ms_receiptfn` are called with the message. `ms_waiting` says that a
    thread sleeps on the message itself. DragonFly keeps that among the flags, but it is the one that the originator
    sets while the target owns the message, and changing a flag is no single step here.
    """

    __slots__ = ("ms_abortfn", "ms_error", "ms_flags", "ms_receiptfn", "ms_reply_port", "ms_target_port", "ms_waiting")

    def __init__(self, reply_port: Port | None = None, flags: int = 0) -> None:
        self.ms_target_port: Port | None = None
        self.ms_reply_port = reply_port
        self.ms_flags = MSGF_DONE | flags
        self.ms_error = 0
        self.ms_abortfn: Callable[[Any], object] | None = None
        self.ms_receiptfn: Callable[[Any], object] | None = None
        self.ms_waiting = False  # under the lock of the reply port

    @property
    def is_done(self) -> bool:
        """Whether it is complete (or was never sent)."""
        return bool(self.ms_flags & MSGF_DONE)


def abortmsg(msg: LwktMsg) -> None:
    """Ask the target to finish early; it may ignore that, and the originator still waits for the reply."""
    crit_enter()
    try:
        if msg.ms_flags & (MSGF_ABORTABLE | MSGF_DONE | MSGF_REPLY) == MSGF_ABORTABLE and msg.ms_abortfn is not None:
            msg.ms_abortfn(msg)
    finally:
        crit_exit()
