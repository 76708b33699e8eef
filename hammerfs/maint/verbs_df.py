"""How much space there is, and what takes it."""

from __future__ import annotations

import time
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from hammerfs.changes import wall_clock_us
from hammerfs.const import BIGBLOCK_BITS
from hammerfs.errors import UsageError
from hammerfs.fs import HammerFS
from hammerfs.maint.census import Census
from hammerfs.maint.facts import facts
from hammerfs.maint.sweep import SLICE_SECONDS
from hammerfs.maint.verb import Context, Verb
from hammerfs.rw import WritableFS
from kernelcore.sched import lwkt_user_yield

_numbers = count(1)
_under_way: WeakKeyDictionary[HammerFS, tuple[str, Census]] = WeakKeyDictionary()
"""The census that somebody is asking for piece by piece, and the word he goes on with. The next one replaces it."""


def space(fs: HammerFS) -> dict[str, int]:
    """Bytes of the volumes: all, those that hold something, FIFO and freemap, free ones; and those for new data."""
    found = fs.statfs()
    blocks = {name: number << BIGBLOCK_BITS for name, number in facts(fs)["bigblocks"].items()}
    return {**blocks, "available": found.bfree * found.bsize}


def begin_census(fs: HammerFS) -> Census:
    """A census of what the media holds now.

    Raises:
        HammerError: As `Census`.
    """
    clock = fs.options.clock if isinstance(fs, WritableFS) else wall_clock_us
    return Census(fs, clock() / 1_000_000)


async def _df(ctx: Context) -> dict[str, Any]:
    """How much space there is."""
    with ctx.reader.cache.section():
        return space(ctx.reader)


async def _df_history(ctx: Context, start: str | None = None, seconds: float = SLICE_SECONDS) -> dict[str, Any]:
    """What takes the space; `result` is there when `next` is None.

    Args:
        ctx: The file system.
        start: Where to go on.
        seconds: For how long.
    """
    fs = ctx.reader
    if start is None:
        await ctx.settle()
        word, census = str(next(_numbers)), begin_census(fs)
    else:
        if _under_way.get(fs, ("",))[0] != start:
            raise UsageError("somebody else has asked since: begin again")
        word, census = _under_way.pop(fs)
    deadline = time.monotonic() + seconds
    while census.step():
        if time.monotonic() >= deadline:
            _under_way[fs] = word, census
            return {"next": word, "stats": {}}
        await lwkt_user_yield()
    with fs.cache.section():
        return {"next": None, "stats": {}, "result": {"space": space(fs), **census.as_json()}}


VERBS = {
    "df": Verb(_df, needs_owner=False),
    "df-history": Verb(_df_history, needs_owner=False),
}
