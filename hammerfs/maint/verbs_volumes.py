"""The verbs that concern the volumes as a whole."""

from __future__ import annotations

from typing import Any

from hammerfs.maint.facts import facts
from hammerfs.maint.upgrade import upgrade
from hammerfs.maint.verb import Context, Verb


async def _upgrade(ctx: Context, version: int) -> dict[str, Any]:
    """Make the volumes a later version."""
    before = await upgrade(ctx.fs, version)
    return {"before": before, "version": ctx.fs.volumes.version}


async def _info(ctx: Context) -> dict[str, Any]:
    """What there is to know of the file system as a whole."""
    with ctx.reader.cache.section():
        return facts(ctx.reader)


VERBS = {
    "version-upgrade": Verb(_upgrade),
    "info": Verb(_info, needs_owner=False),
}
