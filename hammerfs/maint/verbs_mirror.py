"""The verbs of mirroring: pieces of a stream out of a PFS, and into a slave."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from hammerfs.addr import tid_text
from hammerfs.const import BIGBLOCK_SIZE
from hammerfs.errors import UsageError
from hammerfs.maint import pfs_admin
from hammerfs.maint.mirror_read import read_piece, weigh_piece
from hammerfs.maint.mirror_write import MirrorWriter, check_round
from hammerfs.maint.sweep import key_text, parse_key
from hammerfs.maint.verb import Context, Verb, tid_of
from hammerfs.ondisk.mirror import decode_stream

MOST_BYTES = 1 << 20
"""Stream bytes of one piece: a message on the control socket holds them."""


async def _source(ctx: Context, path: str) -> dict[str, Any]:
    """The PFS that holds a path, flushed: its record, a master's with the TID as of which everything is there.

    And the bytes in use of all volumes.
    """
    pfs_id = ctx.pfs_of(path)
    await ctx.settle()
    head = ctx.reader.volumes.superblock
    used = (head.vol0_stat_bigblocks - head.vol0_stat_freebigblocks) * BIGBLOCK_SIZE
    return {**pfs_admin.status(ctx.reader, pfs_id), "used": used}


async def _target(ctx: Context, path: str, shared_uuid: str) -> dict[str, Any]:
    """The record of the PFS that a path names, which is to be a slave of the sender."""
    pfs_id = ctx.pfs_of(path)
    check_round(ctx.fs, pfs_id, _uuid(shared_uuid))
    return pfs_admin.status(ctx.fs, pfs_id)


async def _weigh(ctx: Context, pfs: int, tid_beg: str, tid_end: str, start: str | None = None) -> dict[str, Any]:
    """How many bytes of the stream of a PFS each TID is the reason for, piece by piece."""
    key = None if start is None else parse_key(start)
    with ctx.reader.cache.section():
        ctx.reader.pfs.get(pfs)
        found = weigh_piece(ctx.reader, pfs, tid_of(tid_beg), tid_of(tid_end), key)
    rows = [[tid_text(tid), nbytes] for tid, nbytes in sorted(found.nbytes.items())]
    return {"weights": rows, "next": key_text(found.at)}


async def _read(
    ctx: Context, pfs: int, tid_beg: str, tid_end: str, start: str | None = None, nbytes: int = MOST_BYTES
) -> dict[str, Any]:
    """A piece of the stream of a PFS, in base64."""
    key = None if start is None else parse_key(start)
    with ctx.reader.cache.section():
        ctx.reader.pfs.get(pfs)
        piece = read_piece(ctx.reader, pfs, tid_of(tid_beg), tid_of(tid_end), key, min(nbytes, MOST_BYTES))
    return {"data": base64.b64encode(piece.data).decode("ascii"), "next": key_text(piece.at)}


async def _write(
    ctx: Context, pfs: int, shared_uuid: str, data: str, tid_beg: str, tid_end: str, start: str | None = None
) -> dict[str, Any]:
    """Apply whole records of a stream, in base64, to a slave."""
    check_round(ctx.fs, pfs, _uuid(shared_uuid), tid_of(tid_end))
    try:
        raw = base64.b64decode(data, validate=True)
    except binascii.Error as err:
        raise UsageError(f"mirror-write: {err}") from None
    writer = MirrorWriter(ctx.fs, pfs, tid_of(tid_beg), tid_of(tid_end))
    key = None if start is None else parse_key(start)
    at = await writer.apply((record for _, record in decode_stream(raw)), key)
    return {"next": key_text(at), "stats": writer.stats}


async def _synced(ctx: Context, pfs: int, shared_uuid: str, tid: str) -> dict[str, Any]:
    """A slave is complete up to a TID."""
    check_round(ctx.fs, pfs, _uuid(shared_uuid), tid_of(tid))
    ctx.fs.tids.raise_to(tid_of(tid))
    await pfs_admin.update(ctx.fs, pfs, [f"sync-end-tid={tid_text(tid_of(tid))}"])
    await ctx.fs.flusher.settle()
    return pfs_admin.status(ctx.fs, pfs)


def _uuid(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"'{text}' is no UUID in hex digits") from None


VERBS = {
    "mirror-source": Verb(_source, fixes_time=True),
    "mirror-target": Verb(_target),
    "mirror-weigh": Verb(_weigh),
    "mirror-read": Verb(_read),
    "mirror-write": Verb(_write),
    "mirror-synced": Verb(_synced),
}
