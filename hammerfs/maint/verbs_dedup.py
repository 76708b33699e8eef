"""The verbs of deduplication: candidates by checksum, and pairs to be made one."""

from __future__ import annotations

from typing import Any

from hammerfs.errors import UsageError
from hammerfs.maint.dedup import MAX_CRC, Dedup, extents
from hammerfs.maint.sweep import key_text, parse_key
from hammerfs.maint.verb import Context, Verb


async def _scan(
    ctx: Context, path: str, start: str | None = None, least: int = 0, most: int = MAX_CRC
) -> dict[str, Any]:
    """Data records of the PFS that holds a path, by a range of checksums: key, checksum, length, address of each."""
    pfs_id = ctx.pfs_of(path)
    with ctx.reader.cache.section():
        found, at = extents(ctx.reader, pfs_id, None if start is None else parse_key(start), (least, most))
    rows = [[key_text(elm.sort_key), elm.data_crc, elm.data_len, elm.data_offset] for elm in found]
    return {"pfs": pfs_id, "extents": rows, "next": key_text(at)}


async def _dedup(ctx: Context, pairs: list[list[str]]) -> dict[str, Any]:
    """Have the second record of each pair refer to the first one's extent, if the bytes are the same."""
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError("dedup takes pairs of keys")
    keys = [(parse_key(one), parse_key(other)) for one, other in pairs]
    return {"outcomes": [outcome.value for outcome in await Dedup(ctx.fs, keys).run()]}


VERBS = {"dedup-scan": Verb(_scan), "dedup": Verb(_dedup)}
