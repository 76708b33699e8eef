"""Reblocking: what lies in big-blocks that are not full moves together, so that whole big-blocks become free.

Payloads and nodes are copied to new space, their checksums verified on the way; keys and TIDs stay. A payload that is
damaged stays where it is.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass
from enum import Flag, auto

from hammerfs.addr import vol_of, zone_of
from hammerfs.btree.node import Node
from hammerfs.changes import SLOP_REBLOCK
from hammerfs.const import (
    BIGBLOCK_SIZE,
    RECTYPE_CONFIG,
    RECTYPE_DATA,
    RECTYPE_DB,
    RECTYPE_DIRENTRY,
    RECTYPE_EXT,
    RECTYPE_FIX,
    RECTYPE_INODE,
    RECTYPE_PFS,
    RECTYPE_SNAPSHOT,
    ZONE_META,
)
from hammerfs.errors import CrcError
from hammerfs.keys import KEY_MAX, KEY_MIN, Key
from hammerfs.maint.sweep import CHANGED, MOVED_BYTES, SCANNED, Step, forget_places, pfs_keys, sweep
from hammerfs.ondisk.node import LeafElm
from hammerfs.ondisk.records import payload_crc
from hammerfs.record import check_payload_address
from hammerfs.rw import WritableFS

log = logging.getLogger("hammerfs")
_EMERGENCY_LEVEL = BIGBLOCK_SIZE * 80 // 100
"""Only big-blocks that are at least so empty are emptied, up to the last free one."""


class What(Flag):
    """Classes of what can be moved."""

    INODES = auto()
    DIRS = auto()
    DATA = auto()
    BTREE = auto()
    ALL = INODES | DIRS | DATA | BTREE


_CLASSES = {
    RECTYPE_INODE: What.INODES,
    RECTYPE_SNAPSHOT: What.INODES,
    RECTYPE_CONFIG: What.INODES,
    RECTYPE_EXT: What.DIRS,
    RECTYPE_FIX: What.DIRS,
    RECTYPE_PFS: What.DIRS,
    RECTYPE_DIRENTRY: What.DIRS,
    RECTYPE_DATA: What.DATA,
    RECTYPE_DB: What.DATA,
}


@dataclass
class ReblockStats:
    """What a reblock has met and moved; bytes are those of payloads, without rounding."""

    nodes: int = 0
    nodes_moved: int = 0
    payloads: int = 0
    payloads_moved: int = 0
    nbytes: int = 0
    nbytes_moved: int = 0
    damaged: int = 0
    """Payloads with wrong checksums, which stay."""


class Reblock:
    """A pass that moves what one PFS has in big-blocks with room, or what all of them have on one volume.

    Args:
        fs: The file system.
        pfs_id: The PFS; None: all.
        what: What may move.
        percent: Big-blocks that are filled to less than that are emptied; 100: everything moves.
        vol_no: Only what lies on that volume moves.
    """

    def __init__(
        self, fs: WritableFS, pfs_id: int | None, what: What, percent: int, *, vol_no: int | None = None
    ) -> None:
        self._fs = fs
        self._what = what
        self._vol_no = vol_no
        self.free_level = BIGBLOCK_SIZE * (100 - percent) // 100
        self.start, self._end = (KEY_MIN, KEY_MAX) if pfs_id is None else pfs_keys(pfs_id)
        self.stats = ReblockStats()
        self._wanted: dict[int, bool] = {}
        """Whether big-blocks are to be emptied, as far as looked at in this step."""
        self._has_room = False
        """Whether there is room for what this step moves."""

    async def run(self, start: Key | None, seconds: float) -> Key | None:
        """Go on for a while.

        Returns:
            Where to go on; None at the end.

        Raises:
            NoSpace: Too little is left to move anything.
            HammerError: The tree is damaged, or the media failed.
        """
        at = await sweep(self._fs, self._step, start or self.start, seconds)
        forget_places(self._fs)
        return at

    def _step(self, at: Key) -> Step:
        """Leaf by leaf: its payloads, then its node, then nodes above that end with it."""
        fs, stats = self._fs, self.stats
        self._has_room = self.free_level >= _EMERGENCY_LEVEL
        self._wanted.clear()
        moved_before = stats.payloads_moved, stats.nodes_moved
        bytes_before, seen, touched = stats.nbytes_moved, 0, 0
        key: Key | None = at
        while key is not None:
            leaf, _, right = fs.tree.leaf_of(key)
            left, key = key, right if right < self._end else None
            if leaf is None:
                continue
            first = leaf.leaf_left(left, fs.cache)
            elms = [elm for elm in leaf.elms(first, leaf.count) if elm.sort_key < self._end]
            for elm in elms:
                if stats.nbytes_moved - bytes_before >= MOVED_BYTES:
                    return Step(elm.sort_key, True)
                self._move_payload(elm)
            seen += len(elms) + 1
            if What.BTREE in self._what:
                touched += self._move_nodes(self._path(left))
            touched += stats.payloads_moved - moved_before[0]
            if seen >= SCANNED or touched >= CHANGED or stats.nbytes_moved - bytes_before >= MOVED_BYTES:
                break
        return Step(key, moved_before != (stats.payloads_moved, stats.nodes_moved))

    def _path(self, key: Key) -> list[Node]:
        """The nodes from the root to the leaf whose range holds a key."""
        tree = self._fs.tree
        path = [tree.root()]
        while not path[-1].is_leaf:
            node = path[-1]
            path.append(tree.child(node, bisect_right(node.keys, key) - 1))
        return path

    def _move_nodes(self, path: list[Node]) -> int:
        """The leaf, and each node above whose last child it ends; how many nodes changed by it."""
        ending = [path[-1].off]
        for node, kid in zip(path[-2::-1], path[:0:-1], strict=True):
            last = node.kids[node.count - 1]
            if (last if isinstance(last, int) else last.off) != kid.off:
                break
            ending.append(node.off)
        kids = {node.off: 0 if node.is_leaf else node.count for node in path}
        touched = 0
        for off in ending:
            self.stats.nodes += 1
            if self._is_wanted(off):
                self._need_room()
                self._fs.backend.tree.move_node(off)
                self.stats.nodes_moved += 1
                touched += kids[off] + 2
        return touched

    def _move_payload(self, elm: LeafElm) -> None:
        if not elm.data_len or _CLASSES.get(elm.rec_type, What(0)) not in self._what:
            return
        fs, stats = self._fs, self.stats
        check_payload_address(elm)
        stats.payloads += 1
        stats.nbytes += elm.data_len
        if not self._is_wanted(elm.data_offset):
            return
        self._need_room()
        try:
            move_payload(fs, elm)
        except CrcError as err:
            log.warning("not moved: %s", err)
            stats.damaged += 1
            return
        stats.payloads_moved += 1
        stats.nbytes_moved += elm.data_len

    def _need_room(self) -> None:
        """Before the first move of a step: what it may move has to fit."""
        if not self._has_room:
            self._fs.changes.check_space(SLOP_REBLOCK, MOVED_BYTES)
            self._has_room = True

    def _is_wanted(self, off: int) -> bool:
        """Whether what lies there is to move."""
        if self._vol_no is not None and vol_of(off) != self._vol_no:
            return False
        if not self.free_level:
            return True
        block = off // BIGBLOCK_SIZE
        wanted = self._wanted.get(block)
        if wanted is None:
            alloc = self._fs.alloc
            wanted = alloc.bytes_free(off) >= self.free_level and not alloc.is_current(off)
            self._wanted[block] = wanted
        return wanted


def move_payload(fs: WritableFS, elm: LeafElm) -> None:
    """Copy a payload to new space of its zone, inside a section; the record refers to the copy then.

    Its checksum is of the kind that the volume version makes.

    Raises:
        CrcError: The payload is damaged; nothing has been changed.
        NoSpace: No space is left.
        HammerError: The tree or the freemap is damaged, or the media failed.
    """
    payload = read_payload(fs, elm)
    moved = store_payload(fs, elm, payload, zone_of(elm.data_offset))
    fs.backend.tree.replace(elm.sort_key, moved)
    fs.alloc.free(elm.data_offset, elm.data_len)


def read_payload(fs: WritableFS, elm: LeafElm) -> bytes:
    """A payload of any zone, verified.

    Raises:
        CrcError: It is damaged.
        CorruptError: It can't be where the record says.
        DeviceError: The volume failed.
    """
    if zone_of(elm.data_offset) == ZONE_META:
        return bytes(fs.records.payload(elm))
    check_payload_address(elm)
    volume, byte_off = fs.volumes.locate(elm.data_offset, elm.data_len)
    data = volume.dev.pread(byte_off, elm.data_len)
    fs.records.verify_payload(elm, memoryview(data))
    return data


def store_payload(fs: WritableFS, elm: LeafElm, payload: bytes, zone: int) -> LeafElm:
    """Put a payload into newly allocated space, inside a section: file data goes to the media at once.

    Returns:
        The element with its new place and checksum.

    Raises:
        NoSpace: No space is left.
        HammerError: The freemap is damaged, or the media failed.
    """
    if zone == ZONE_META:
        return fs.backend.store(elm, payload)
    off = fs.alloc.alloc(zone, len(payload))
    volume, byte_off = fs.volumes.locate(off, len(payload))
    volume.dev.pwritev(byte_off, (payload,))
    fs.cache.invalidate(off, len(payload))
    crc = payload_crc(elm.rec_type, payload, fs.volumes.rule)
    return elm._replace(data_offset=off, data_len=len(payload), data_crc=crc)
