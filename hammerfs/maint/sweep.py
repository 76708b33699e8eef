"""Passes over the tree of a PFS: bounded steps, each a group of its own, with everybody else's turn in between.

A pass goes on where a key says, for as long as it is given. Whoever runs it keeps the key and asks again until there is
none: so it can be stopped anywhere, resumed, and never holds up a mount for longer than a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from hammerfs.addr import localize
from hammerfs.const import LOCALIZE_MASK, TID_INFINITE
from hammerfs.errors import UsageError
from hammerfs.keys import MAX_INT64, MIN_INT64, Key
from hammerfs.rw import WritableFS
from kernelcore.sched import lwkt_user_yield

SLICE_SECONDS = 0.5
"""How long a pass goes on before whoever asked for it hears of it."""
SCANNED = 4000
"""Elements one step looks at."""
CHANGED = 400
"""Elements one step changes: their nodes have to fit a half of the smallest FIFO."""
MOVED_BYTES = 1 << 20
"""Bytes of payload one step moves."""
_FIELDS = 5


class Step(NamedTuple):
    """What a step came to."""

    at: Key | None
    """Where to go on; None: the pass is complete."""
    changed: bool


async def sweep(fs: WritableFS, step: Callable[[Key], Step], start: Key, seconds: float = SLICE_SECONDS) -> Key | None:
    """Run steps until the pass is complete or its time is over, at least one.

    Args:
        fs: The file system.
        step: Called inside a section in which the tree may be changed, with the key where it goes on.
        start: Where the pass goes on.
        seconds: How long.

    Returns:
        Where to go on; None when the pass is complete.

    Raises:
        HammerError: What a step raises; what was done before it stays done.
    """
    deadline = time.monotonic() + seconds
    at: Key | None = start
    while at is not None:
        at = await _run_step(fs, step, at)
        if time.monotonic() >= deadline:
            break
        await lwkt_user_yield()
    return at


async def _run_step(fs: WritableFS, step: Callable[[Key], Step], at: Key) -> Key | None:
    done: list[Step] = []

    def change(_tid: int) -> bool:
        done.append(step(at))
        return done[-1].changed

    await fs.flusher.transact(change)
    return done[-1].at


def pfs_keys(pfs_id: int) -> tuple[Key, Key]:
    """All keys of a PFS: inclusive begin and exclusive end."""
    return (localize(pfs_id), MIN_INT64, 0, MIN_INT64, 0), (
        localize(pfs_id, LOCALIZE_MASK),
        MAX_INT64,
        0xFFFF,
        MAX_INT64,
        0,
    )


def after(key: Key) -> Key:
    """The first key behind one."""
    return (*key[:4], key[4] + 1)


def key_text(key: Key | None) -> str | None:
    """A key as text that `parse_key` reads."""
    if key is None:
        return None
    localization, obj_id, rec_type, at, tid = key
    return f"{localization:x}:{obj_id & TID_INFINITE - 1:x}:{rec_type:x}:{at & TID_INFINITE - 1:x}:{tid:x}"


def parse_key(text: str) -> Key:
    """The key of a text made by `key_text`.

    Raises:
        UsageError: It is none.
    """
    try:
        localization, obj_id, rec_type, at, tid = (int(word, 16) for word in text.split(":", _FIELDS - 1))
    except ValueError:
        raise UsageError(f"'{text}' is no key to go on from") from None
    return localization, _signed(obj_id), rec_type, _signed(at), tid


def forget_places(fs: WritableFS, pfs_id: int | None = None) -> None:
    """Records have moved or gone: what inodes in memory know of where they are is loaded anew.

    Args:
        fs: The file system.
        pfs_id: A PFS that nobody writes to, whose objects have become others.
    """
    for inode in list(fs.inodes):
        if not inode.is_busy and (inode.pfs_id == pfs_id or not inode.is_head):
            fs.inodes.forget(inode)
        inode.extents = None
        inode.blocks = inode.counted = None


def _signed(value: int) -> int:
    return value - TID_INFINITE if value > MAX_INT64 else value
