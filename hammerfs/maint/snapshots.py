"""Snapshot and configuration records: points in time that pruning respects, and the text `hammer cleanup` follows."""

from __future__ import annotations

from collections.abc import Iterable

from hammerfs.addr import localize, tid_text
from hammerfs.changes import NewRecord
from hammerfs.const import (
    LOCALIZE_INODE,
    OBJID_ROOT,
    RECTYPE_CONFIG,
    RECTYPE_SNAPSHOT,
    VERSION_SNAPSHOT,
)
from hammerfs.errors import InvalidError, NotFound, ReadOnlyError
from hammerfs.filewrite import SetAttr
from hammerfs.ondisk.records import SnapshotData, encode_config
from hammerfs.rw import WritableFS
from hammerfs.snapshot import Snapshot

MAX_LABEL = 63

__all__ = ["flags_only", "remove", "set_config", "take", "tid_text"]


async def take(fs: WritableFS, pfs_id: int, label: bytes, *, linked: bool = False) -> Snapshot:
    """Make the present state of a PFS a snapshot: everything is flushed, and its TID recorded, durably.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        label: Of the snapshot.
        linked: Whether a softlink will remember it, so that a volume version without records will do.

    Raises:
        InvalidError: A volume version without snapshot records, or a label that is too long.
        ReadOnlyError: The PFS is a slave: its snapshots come with the mirror.
        HammerError: As `Flusher.flush`.
    """
    has_record = fs.volumes.version >= VERSION_SNAPSHOT
    _check(fs, pfs_id, needs_records=not linked)
    if len(label) > MAX_LABEL or b"\0" in label:
        raise InvalidError(f"a label has at most {MAX_LABEL} bytes, and no NUL")
    await fs.flusher.settle()
    if not has_record:
        return Snapshot(fs.tids.newest, fs.options.clock(), label)
    tid = fs.tids.alloc()  # no record carries it: pruning takes what was created at the TID of a snapshot
    snap = Snapshot(tid, fs.options.clock(), label)
    data = SnapshotData(tid, snap.ts_us, bytes(16), label.ljust(64, b"\0"), bytes(32))
    fs.changes.records_new.append(_record(pfs_id, RECTYPE_SNAPSHOT, _signed(tid), data.encode(), fs.tids.alloc()))
    await fs.flusher.flush()
    return snap


async def remove(fs: WritableFS, pfs_id: int, tids: Iterable[int]) -> None:
    """Remove snapshot records, durably. What only they kept stays until it is pruned.

    A slave may lose them as well: mirroring sends a record once, so one that is removed does not come back.

    Raises:
        NotFound: A TID is no snapshot; nothing is removed then.
        HammerError: As `take`.
    """
    _check(fs, pfs_id, on_slave=True)
    wanted = list(tids)
    with fs.cache.section():
        have = {snap.tid for snap in fs.snapshots(pfs_id)}
    for tid in wanted:
        if tid not in have:
            raise NotFound(f"{tid_text(tid)} is no snapshot of PFS {pfs_id}")
    for tid in wanted:
        fs.changes.records_new.append(_record(pfs_id, RECTYPE_SNAPSHOT, _signed(tid), None, 0))
    await fs.flusher.flush()


async def set_config(fs: WritableFS, pfs_id: int, text: bytes) -> None:
    """Set the configuration text of a PFS, durably.

    Raises:
        InvalidError: More than 1023 bytes, a NUL, or a volume version without configuration records.
        HammerError: As `take`.
    """
    _check(fs, pfs_id)
    fs.changes.records_new.append(_record(pfs_id, RECTYPE_CONFIG, 0, encode_config(text), fs.tids.alloc()))
    await fs.flusher.flush()


def flags_only(uflags: int) -> SetAttr:
    """A change of nothing but the flags."""
    return SetAttr(uflags=uflags)


def _check(fs: WritableFS, pfs_id: int, *, needs_records: bool = True, on_slave: bool = False) -> None:
    fs.changes.check_sound()
    if needs_records and fs.volumes.version < VERSION_SNAPSHOT:
        raise InvalidError(f"volume version {fs.volumes.version} has no such records, {VERSION_SNAPSHOT} is the first")
    with fs.cache.section():
        if fs.pfs.get(pfs_id).is_slave and not on_slave:
            raise ReadOnlyError(f"PFS {pfs_id} is a slave")


def _record(pfs_id: int, rec_type: int, key: int, payload: bytes | None, tid: int) -> NewRecord:
    return NewRecord(
        localize(pfs_id, LOCALIZE_INODE), OBJID_ROOT, rec_type, key, 0, payload, tid, is_timed=False, keep=False
    )


def _signed(tid: int) -> int:
    """A TID as the key of a record."""
    return tid - (1 << 64) if tid >> 63 else tid
