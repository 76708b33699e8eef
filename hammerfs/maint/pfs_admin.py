"""PFSs made, changed, turned from master to slave and back, and destroyed.

What a PFS is stands in its record; changes of it count in memory at once, so that nobody writes to a slave any more
while the record is on its way to the media.
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Sequence
from typing import Any

from hammerfs.btree.iterate import scan
from hammerfs.changes import NewRecord
from hammerfs.const import (
    CAP_DIR_LOCAL_INO,
    CAP_DIRHASH_ALG1,
    LOCALIZE_MISC,
    MAX_PFS,
    MAX_TID,
    OBJID_ROOT,
    OBJTYPE_DIRECTORY,
    PFS_DELETED,
    PFS_SLAVE,
    RECTYPE_INODE,
    RECTYPE_PFS,
    VERSION_DIRHASH1,
    VERSION_DIRLOCAL,
)
from hammerfs.errors import BusyError, ExistsError, InvalidError, NoSpace, NotFound, UsageError
from hammerfs.fs import HammerFS
from hammerfs.inode import DIRTY_ALL, Inode
from hammerfs.keys import Key
from hammerfs.maint.sweep import CHANGED, SCANNED, Step, after, forget_places, pfs_keys, sweep
from hammerfs.ondisk.node import LeafElm
from hammerfs.ondisk.records import INODE_SYMLINK_MAX, INODE_VERSION, InodeData, PfsData, id_uuid
from hammerfs.rw import WritableFS

_FIELD = 64
"""Bytes of a label, and of the snapshots directory, with a NUL."""
_PRUNE_MIN = re.compile(r"(?:(\d{1,5})d)?(?:/?(\d{1,2}):(\d{2}):(\d{2}))?\Z", re.ASCII)
_DAY = 86400


def next_id(fs: WritableFS) -> int:
    """The lowest PFS id that is free, inside a section.

    Raises:
        NoSpace: All are in use.
    """
    for pfs_id in range(1, MAX_PFS):
        try:
            fs.pfs.get(pfs_id)
        except NotFound:
            return pfs_id
    raise NoSpace(f"all {MAX_PFS} PFSs are in use")


async def create(
    fs: WritableFS, pfs_id: int, options: Sequence[str], *, slave: bool, uid: int = 0, gid: int = 0
) -> PfsData:
    """Make a PFS, durably; a master gets its root directory, a slave gets its with the first mirroring.

    Args:
        fs: The file system.
        pfs_id: A free id.
        options: As for `with_options`; a slave needs the shared uuid of its master.
        slave: Whether it is one.
        uid: Owner of the root directory.
        gid: Its group.

    Raises:
        ExistsError: The id is in use.
        UsageError: An option is wrong, or missing.
        HammerError: As `Flusher.flush`.
    """
    fs.changes.check_sound()
    if not 0 < pfs_id < MAX_PFS:
        raise UsageError(f"PFS id {pfs_id}")
    if slave and not any(word.startswith("shared-uuid=") for word in options):
        raise UsageError("a slave needs the shared-uuid of its master")
    fresh = PfsData(shared_uuid=uuid.uuid4().bytes_le, unique_uuid=uuid.uuid4().bytes_le)
    data = with_options(fresh, options)
    data.mirror_flags = PFS_SLAVE if slave else 0
    with fs.cache.section():
        try:
            fs.pfs.get(pfs_id)
        except NotFound:
            pass
        else:
            raise ExistsError(f"PFS {pfs_id} exists")
        _note(fs, pfs_id, data)
        if not slave:
            _add_root(fs, pfs_id, uid, gid)
    await fs.flusher.flush()
    return data


async def update(fs: WritableFS, pfs_id: int, options: Sequence[str]) -> PfsData:
    """Change the record of a PFS, durably.

    Raises:
        NotFound: No such PFS.
        UsageError: An option is wrong.
        HammerError: As `Flusher.flush`.
    """
    fs.changes.check_sound()
    with fs.cache.section():
        data = with_options(fs.pfs.get(pfs_id), options)
        _note(fs, pfs_id, data)
    await fs.flusher.flush()
    return data


async def downgrade(fs: WritableFS, pfs_id: int) -> PfsData:
    """Make a master a slave: what it holds now is its synchronisation point.

    Raises:
        InvalidError: It is a slave, or the PFS that holds all others.
        NotFound: No such PFS.
        HammerError: As `Flusher.flush`.
    """
    data = _checked(fs, pfs_id, slave=False)
    tid = await _settled(fs, pfs_id)
    data.mirror_flags |= PFS_SLAVE
    data.sync_end_tid = max(data.sync_end_tid, tid)
    with fs.cache.section():
        _note(fs, pfs_id, data)
    await fs.flusher.flush()
    return data


async def upgrade(fs: WritableFS, pfs_id: int, rollback: Rollback, start: Key | None, seconds: float) -> Key | None:
    """Make a slave a master, a piece at a time: what is newer than its synchronisation point goes first.

    Returns:
        Where to go on; None: it is a master now.

    Raises:
        InvalidError: It is a master.
        NotFound: No such PFS.
        HammerError: As `Flusher.flush`.
    """
    data = _checked(fs, pfs_id, slave=True)
    at = await rollback.run(start, seconds)
    if at is None:
        data.mirror_flags &= ~PFS_SLAVE
        with fs.cache.section():
            _note(fs, pfs_id, data)
        fs.pfs.epochs[pfs_id] += 1
        await fs.flusher.flush()
    return at


async def destroy(fs: WritableFS, pfs_id: int, rollback: Rollback, *, start: Key | None, seconds: float) -> Key | None:
    """Destroy a PFS, a piece at a time. From the first piece on nobody can write to it.

    One that was broken off leaves a slave with holes in it; begun anew it comes to the same end.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        rollback: To before everything.
        start: Where to go on; None: it begins.
        seconds: For how long.

    Returns:
        Where to go on; None: it is gone, and its id free.

    Raises:
        InvalidError: It is the PFS that holds all others.
        NotFound: No such PFS.
        HammerError: As `Flusher.flush`.
    """
    data = _checked(fs, pfs_id, slave=None)
    if start is None:
        rollback.check_idle()
        await _settled(fs, pfs_id)
        if not data.is_slave:
            data.mirror_flags |= PFS_SLAVE
            with fs.cache.section():
                _note(fs, pfs_id, data)
            await fs.flusher.flush()
    at = await rollback.run(start, seconds)
    if at is None:
        data.mirror_flags = PFS_DELETED
        with fs.cache.section():
            _note(fs, pfs_id, data)
        await fs.flusher.flush()
        fs.pfs.forget()
        fs.pfs.epochs[pfs_id] += 1
        fs.backend.orphans = {ident for ident in fs.backend.orphans if ident[0] != pfs_id}
    return at


class Rollback:
    """A pass that makes a PFS what it was before a TID: later records go, later deletions are undone.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        tid: The first TID that is undone.
    """

    def __init__(self, fs: WritableFS, pfs_id: int, tid: int) -> None:
        self._fs = fs
        self._pfs_id = pfs_id
        self._tid = tid
        self.start, self._end = pfs_keys(pfs_id)
        self.stats = {"scanned": 0, "removed": 0, "revived": 0}

    async def run(self, start: Key | None, seconds: float) -> Key | None:
        """Go on for a while.

        Returns:
            Where to go on; None at the end.

        Raises:
            BusyError: As `check_idle`.
            HammerError: The tree is damaged, or the media failed.
        """
        self.check_idle()
        at = await sweep(self._fs, self._step, start or self.start, seconds)
        forget_places(self._fs, self._pfs_id)
        return at

    def check_idle(self) -> None:
        """See that nobody has anything in the PFS open, as it is now.

        Raises:
            BusyError: Somebody has.
        """
        if any(inode.pfs_id == self._pfs_id and inode.is_head and inode.opens for inode in self._fs.inodes):
            raise BusyError(f"something in PFS {self._pfs_id} is open")

    def _step(self, at: Key) -> Step:
        wrong: list[LeafElm] = []
        last: Key | None = None
        for seen, elm in enumerate(scan(self._fs.tree, at, self._end), 1):
            self.stats["scanned"] += 1
            if elm.create_tid >= self._tid or (elm.delete_tid and elm.delete_tid >= self._tid):
                wrong.append(elm)
            if seen >= SCANNED or len(wrong) >= CHANGED:
                last = after(elm.sort_key)
                break
        if wrong:
            self._fs.undo.save_field("vol0_stat_inodes")
            for elm in wrong:
                self._put_right(elm)
        return Step(last, bool(wrong))

    def _put_right(self, elm: LeafElm) -> None:
        fs = self._fs
        inodes = 0
        if elm.create_tid >= self._tid:
            fs.backend.tree.destroy(elm.sort_key)
            if elm.data_len:
                fs.alloc.free(elm.data_offset, elm.data_len)
            self.stats["removed"] += 1
            inodes = 0 if elm.delete_tid else -1
        else:
            fs.backend.tree.replace(elm.sort_key, elm._replace(delete_tid=0, delete_ts=0))
            self.stats["revived"] += 1
            inodes = 1
        if elm.rec_type == RECTYPE_INODE:
            fs.volumes.superblock.vol0_stat_inodes += inodes


def with_options(data: PfsData, options: Sequence[str]) -> PfsData:
    """A PFS record with fields changed.

    Args:
        data: The record.
        options: ``OPTION=VALUE`` with sync-beg-tid, sync-end-tid, shared-uuid, unique-uuid, label, snapshots (an
            absolute path), prune-min (``Nd``, ``Nd/HH:MM:SS`` or ``HH:MM:SS``); snapshots-clear (no value).

    Raises:
        UsageError: There is no such option, or its value is wrong.
    """
    changed = copy.copy(data)
    for word in options:
        name, equals, text = word.partition("=")
        if bool(equals) == (name == "snapshots-clear"):
            raise UsageError(f"'{word}' is no OPTION=VALUE")
        if name == "sync-beg-tid":
            changed.sync_beg_tid = _tid(name, text)
        elif name == "sync-end-tid":
            changed.sync_end_tid = _tid(name, text)
        elif name == "shared-uuid":
            changed.shared_uuid = _uuid(name, text)
        elif name == "unique-uuid":
            changed.unique_uuid = _uuid(name, text)
        elif name == "label":
            changed.label = _field(name, text)
        elif name == "snapshots":
            if not text.startswith("/"):
                raise UsageError(f"snapshots={text}: not an absolute path")
            changed.snapshots = _field(name, text)
        elif name == "snapshots-clear":
            changed.snapshots = bytes(_FIELD)
        elif name == "prune-min":
            changed.prune_min = _seconds(text)
        else:
            raise UsageError(f"there is no PFS option '{name}'")
    return changed


def _tid(name: str, text: str) -> int:
    try:
        tid = int(text, 16)
    except ValueError:
        tid = -1
    if not 0 <= tid <= MAX_TID:
        raise UsageError(f"{name}={text}: no TID")
    return tid


def _uuid(name: str, text: str) -> bytes:
    try:
        return uuid.UUID(text).bytes_le
    except ValueError:
        raise UsageError(f"{name}={text}: no UUID") from None


def _field(name: str, text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) >= _FIELD or b"\0" in raw:
        raise UsageError(f"{name}: at most {_FIELD - 1} bytes, and no NUL")
    return raw.ljust(_FIELD, b"\0")


def _seconds(text: str) -> int:
    match = _PRUNE_MIN.match(text)
    if match is None or not text:
        raise UsageError(f"prune-min={text}: not Nd, Nd/HH:MM:SS or HH:MM:SS")
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return days * _DAY + hours * 3600 + minutes * 60 + seconds


def _checked(fs: WritableFS, pfs_id: int, *, slave: bool | None) -> PfsData:
    """A copy of the record of a PFS of the right kind."""
    fs.changes.check_sound()
    if not pfs_id:
        raise InvalidError("PFS 0 holds the others: it stays a master")
    with fs.cache.section():
        data = copy.copy(fs.pfs.get(pfs_id))
    if slave is not None and data.is_slave != slave:
        raise InvalidError(f"PFS {pfs_id} is a {'slave' if data.is_slave else 'master'} already")
    return data


async def _settled(fs: WritableFS, pfs_id: int) -> int:
    """Flush until nothing of a PFS is newer than the media; as of which TID it is all there."""
    tid = await fs.flusher.settle()
    while any(inode.pfs_id == pfs_id for inode in fs.changes.dirty):
        tid = await fs.flusher.settle()
    return tid


def _note(fs: WritableFS, pfs_id: int, data: PfsData) -> None:
    """The record goes with the next flush, and counts now."""
    fs.changes.records_new.append(
        NewRecord(
            *(LOCALIZE_MISC, OBJID_ROOT, RECTYPE_PFS, pfs_id << 16, OBJTYPE_DIRECTORY, data.encode()),
            keep=not fs.options.nohistory,
        )
    )
    fs.pfs.put(pfs_id, data)


def _add_root(fs: WritableFS, pfs_id: int, uid: int, gid: int) -> None:
    version, now = fs.volumes.version, fs.options.clock()
    caps = (CAP_DIR_LOCAL_INO if version >= VERSION_DIRLOCAL else 0) | (
        CAP_DIRHASH_ALG1 if version >= VERSION_DIRHASH1 else 0
    )
    data = InodeData(
        *(INODE_VERSION, 0o755, 0, 0, 0, now, 0, id_uuid(uid), id_uuid(gid), OBJTYPE_DIRECTORY, caps, 0, 0, 1, 0),
        *(bytes(INODE_SYMLINK_MAX), now, now),
    )
    inode = Inode(pfs_id, OBJID_ROOT, MAX_TID, 0, data)
    fs.changes.touch(inode, DIRTY_ALL)
    fs.inodes.add(inode)


def status(fs: HammerFS, pfs_id: int) -> dict[str, Any]:
    """A PFS as plain values: its number, its record as hex digits (that of a master with its newest TID), the version.

    Raises:
        NotFound: No such PFS.
        CorruptError: Its record is damaged.
    """
    with fs.cache.section():
        data = copy.copy(fs.pfs.get(pfs_id))
    if not data.is_slave:
        data.sync_end_tid = fs.newest_tid
    return {"pfs": pfs_id, "data": data.encode().hex(), "version": fs.volumes.version}
