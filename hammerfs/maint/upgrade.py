"""Later volume versions: what new records and directories may be like. What is there stays as it is."""

from __future__ import annotations

from hammerfs.const import VERSION_MAX, VERSION_MIN
from hammerfs.errors import InvalidError, UsageError
from hammerfs.rw import WritableFS


async def upgrade(fs: WritableFS, version: int) -> int:
    """Make the volumes a later version, durably.

    Args:
        fs: The file system.
        version: The version; the one they have is no error.

    Returns:
        The one they had.

    Raises:
        UsageError: There is no such version.
        InvalidError: It is an earlier one.
        HammerError: As `Flusher.flush`.
    """
    if not VERSION_MIN <= version <= VERSION_MAX:
        raise UsageError(f"volume version {version} is not one of {VERSION_MIN}..{VERSION_MAX}")
    before = fs.volumes.version
    if version < before:
        raise InvalidError(f"the volumes are of version {before}: there is no way back to {version}")
    if version > before:
        await fs.flusher.settle()
        await fs.flusher.transact(lambda _tid: _count_free(fs))
        await fs.flusher.upgrade(version)
    return before


def _count_free(fs: WritableFS) -> bool:
    """The first releases lost count of the free big-blocks; later versions are held to it."""
    head = fs.volumes.superblock
    counted = sum(layer1.blocks_free for _, layer1, _ in fs.freemap.spans())
    if counted == head.vol0_stat_freebigblocks:
        return False
    fs.undo.save_field("vol0_stat_freebigblocks")
    head.vol0_stat_freebigblocks = counted
    return True
