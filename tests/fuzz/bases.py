"""The sound images that mutants are made from: small, of several versions, closed cleanly or as a crash left them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from hammerfs.addr import retag
from hammerfs.const import (
    NODE_SIZE,
    OBJID_ROOT,
    OBJTYPE_CDEV,
    OBJTYPE_REGFILE,
    OFF_LONG_MASK,
    REDO_SYNC,
    REDO_TERM_WRITE,
    REDO_TRUNC,
    REDO_WRITE,
    UNDO_SECTOR,
    VERSION_REDO,
    VERSION_SNAPSHOT,
    VOL_HEADER_SIZE,
    ZONE_RAW_BUFFER,
    ZONE_UNDO,
)
from hammerfs.crc import CrcRule
from hammerfs.device.base import Device
from hammerfs.device.overlay import OverlayDevice
from hammerfs.fs import HammerFS
from hammerfs.ondisk.fifo import RedoRecord, UndoRecord, encode_pad, encode_redo, encode_undo
from hammerfs.ondisk.node import InternalElm, NodeOndisk
from hammerfs.ondisk.records import PfsData
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.undo import FIFO_BASE
from tests.imagebuilder import BUF_BEG, FIRST_TID, FSID, TIME_US, ImageBuilder

REDONE = b"written again " * 10
"""What recovery puts into `/big` at `REDONE_AT` of a crashed image."""
REDONE_AT = 20_000
CRASHED_SIZE = 40_000
"""Size of `/big` then: a truncation was logged, too."""
_TORN, _PIECE = 1024, 256
"""Bytes of a node that the crash left unwritten, and bytes one UNDO record restores."""


def small(version: int) -> ImageBuilder:
    """Some 150 records: files with holes, deep directories, links, history, PFSs, snapshots, a configuration."""
    b = ImageBuilder(version, fill=8, free_blocks=1)
    for i in range(12):
        b.file(b"/d%d/e/file%02d" % (i % 3, i), b"contents %d " % i * (i * 40))
    b.file(b"/big", bytes(range(256)) * 300)
    b.file(b"/holes", b"", size=5 << 20)
    b.symlink(b"/short", b"d0/e")
    b.symlink(b"/long", b"x" * 200)
    b.symlink(b"/pfs", b"@@PFS00001")
    old = b.new_obj_id()
    b.direntry(OBJID_ROOT, b"old", old, OBJTYPE_REGFILE)
    b.inode(old, OBJTYPE_REGFILE, size=10, delete_tid=FIRST_TID + 32)
    b.inode(old, OBJTYPE_REGFILE, size=16, tid=FIRST_TID + 32)
    b.data(old, 0, b"first".ljust(16, b"\0"), delete_tid=FIRST_TID + 32)
    b.data(old, 0, b"second".ljust(16, b"\0"), tid=FIRST_TID + 32)
    device = b.new_obj_id()
    b.inode(device, OBJTYPE_CDEV, dev=(14, 3))
    b.direntry(OBJID_ROOT, b"dev", device, OBJTYPE_CDEV)
    b.pfs(1, PfsData(sync_beg_tid=1, sync_end_tid=FIRST_TID, shared_uuid=FSID, unique_uuid=FSID, label=b"one"))
    b.pfs_root(1)
    b.file(b"/inside", b"x" * 100, pfs=1)
    if version >= VERSION_SNAPSHOT:
        b.snapshot(FIRST_TID + 16, b"snap")
        b.config(b"snapshots 1d 60d\n")
    return b


def crashed(version: int) -> Device:
    """`small`, its first leaf half written: UNDO restores it, and the log holds fsynced writes where there is REDO."""
    device = small(version).build()
    with HammerFS([OverlayDevice(device, owns_lower=False)]) as fs:
        big = fs.resolve(b"/big").obj_id
        root = NodeOndisk.decode(fs.cache.view(fs.volumes.superblock.vol0_btree_root, NODE_SIZE))
    first = root.elms[0]
    assert isinstance(first, InternalElm)
    leaf = retag(first.subtree_offset, ZONE_RAW_BUFFER)
    place = BUF_BEG + (leaf & OFF_LONG_MASK)
    undo = [UndoRecord(leaf + at, device.pread(place + at, _PIECE)) for at in range(0, _TORN, _PIECE)]
    _log(device, version, undo, _operations(big) if version >= VERSION_REDO else [])
    device.pwrite(place, bytes(_TORN))
    return device


def _operations(obj_id: int) -> list[RedoRecord]:
    def redo(flags: int, offset: int, nbytes: int = 0, data: bytes = b"") -> RedoRecord:
        return RedoRecord(obj_id, offset, nbytes, flags, 0, TIME_US, data)

    return [
        redo(REDO_WRITE, 0, 100, b"o" * 100),
        redo(REDO_TERM_WRITE, 0, 100),
        redo(REDO_TRUNC, CRASHED_SIZE),
        redo(REDO_WRITE, REDONE_AT, len(REDONE), REDONE),
        redo(REDO_SYNC, FIFO_BASE),
    ]


def _log(device: Device, version: int, undo: list[UndoRecord], redo: list[RedoRecord]) -> None:
    """Append records to the FIFO, which is full of older ones, each in a sector of its own."""
    header = VolumeOndisk.decode(device.pread(0, VOL_HEADER_SIZE))
    rule = CrcRule(version)
    desc = header.vol0_blockmap[ZONE_UNDO]
    seq = (desc.alloc_offset - FIFO_BASE) // UNDO_SECTOR  # what stands in the last sector is one less
    at = BUF_BEG + (header.vol0_undo_array[0] & OFF_LONG_MASK)
    records = [*(encode_undo(rec, seq + i, rule) for i, rec in enumerate(undo))]
    records += [encode_redo(rec, seq + len(undo) + i, rule) for i, rec in enumerate(redo)]
    for i, raw in enumerate(records):
        device.pwrite(at + i * UNDO_SECTOR, raw + encode_pad(UNDO_SECTOR - len(raw)))
    if version < VERSION_REDO:
        header.vol0_blockmap[ZONE_UNDO] = desc._replace(next_offset=FIFO_BASE + len(records) * UNDO_SECTOR).sealed(rule)
        header.seal(rule)
        device.pwrite(0, header.encode())


_MAKERS: list[Callable[[], Device]] = [
    lambda: small(7).build(),
    lambda: small(4).build(),
    lambda: small(1).build(),
    lambda: crashed(7),
    lambda: crashed(3),
]
KINDS = len(_MAKERS)


@cache
def base_image(kind: int) -> Device:
    """One of the sound images; never changed."""
    return _MAKERS[kind]()
