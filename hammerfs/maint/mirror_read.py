"""What has changed in a PFS since a TID, as records of a mirror stream, in key order.

Only subtrees whose mirror_tid says that something happened are visited; what is left out is told by SKIP records, so
that whoever receives the stream leaves it alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from hammerfs.btree.edit import elm_mirror_tid
from hammerfs.btree.node import Node
from hammerfs.const import TID_INFINITE, ZONE_META
from hammerfs.errors import CrcError
from hammerfs.fs import HammerFS
from hammerfs.keys import Key
from hammerfs.maint.sweep import after, pfs_keys
from hammerfs.ondisk.mirror import (
    MREC_CRC_ERROR,
    MREC_DATA_CRC_BAD,
    MREC_PASS,
    MREC_REC,
    MREC_SKIP,
    REC_HEAD,
    MirrorRecord,
    padded,
)
from hammerfs.ondisk.node import BaseElm, LeafElm
from hammerfs.record import check_payload_address

VISITED = 2000
"""Elements and nodes that are looked at for one piece of a stream."""
WEIGHED = 5000
"""The same where only their sizes count."""


class Weights(NamedTuple):
    """How much of a stream is due to each TID."""

    nbytes: dict[int, int]
    """By TID."""
    at: Key | None
    """Where to go on; None: that was all."""


class Piece(NamedTuple):
    """A piece of a stream."""

    data: bytes
    at: Key | None
    """Where the stream goes on; None: that was all."""


def read_piece(fs: HammerFS, pfs_id: int, tid_beg: int, tid_end: int, start: Key | None, nbytes: int) -> Piece:
    """The next records of a stream, inside a section of the cache.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        tid_beg: What was created before is only told of, in case it has been deleted.
        tid_end: What was created later is left out, a later deletion too.
        start: Where the stream goes on; None: it begins.
        nbytes: About so many bytes.

    Raises:
        CorruptError: The tree is damaged. Damaged payloads are flagged in their records.
        DeviceError: A volume failed.
    """
    first, end = pfs_keys(pfs_id)
    out = bytearray()
    key: Key | None = start or first
    skipped: Key | None = None
    visited = 0
    for at, leaf, following in _leaves(fs, start or first, end, tid_beg):
        key = following
        visited += 1
        if leaf is None:
            skipped = skipped or at
        else:
            if skipped is not None:
                out += _skip(skipped, at)
                skipped = None
            for elm in _elements(fs, leaf, at, end):
                visited += 1
                out += _record(fs, elm, tid_beg, tid_end)
                if len(out) >= nbytes:
                    return Piece(bytes(out), after(elm.sort_key))
        if visited >= VISITED:
            break
    if skipped is not None:
        out += _skip(skipped, key or end)
    return Piece(bytes(out), key)


def weigh_piece(fs: HammerFS, pfs_id: int, tid_beg: int, tid_end: int, start: Key | None) -> Weights:
    """How many bytes of a stream each TID would be the reason for, inside a section of the cache.

    What was created before the stream begins counts where it was deleted in it, and not at all else.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        tid_beg: As for `read_piece`.
        tid_end: As for `read_piece`.
        start: Where to go on; None: at the beginning.

    Raises:
        CorruptError: The tree is damaged.
    """
    first, end = pfs_keys(pfs_id)
    weights: Counter[int] = Counter()
    visited = 0
    key: Key | None = None
    for at, leaf, following in _leaves(fs, start or first, end, tid_beg):
        key = following
        visited += 1
        for elm in () if leaf is None else _elements(fs, leaf, at, end):
            visited += 1
            if tid_beg <= elm.create_tid <= tid_end:
                weights[elm.create_tid] += REC_HEAD + elm.data_len
            elif elm.create_tid < tid_beg <= elm.delete_tid <= tid_end:
                weights[elm.delete_tid] += REC_HEAD
        if visited >= WEIGHED:
            break
    return Weights(dict(weights), key)


def _leaves(fs: HammerFS, start: Key, end: Key, tid_beg: int) -> Iterator[tuple[Key, Node | None, Key | None]]:
    """Where a stream goes: a key, the leaf it is in (None: all unchanged from there), the key it goes on at."""
    key: Key | None = start
    while key is not None:
        leaf, right = _descend(fs, key, tid_beg)
        following = right if right < end else None
        yield key, leaf, following
        key = following


def _elements(fs: HammerFS, leaf: Node, key: Key, end: Key) -> Iterator[LeafElm]:
    """The elements of a leaf from one key up to another."""
    for elm in leaf.elms(leaf.leaf_left(key, fs.cache), leaf.count):
        if elm.sort_key >= end:
            return
        yield elm


def _descend(fs: HammerFS, key: Key, tid_beg: int) -> tuple[Node | None, Key]:
    """The leaf of a key, and the first key behind it; None for it: nothing changed up to that key."""
    tree = fs.tree
    node, right = tree.root(), pfs_keys(0xFFFF)[1]
    while not node.is_leaf:
        i = bisect_right(node.keys, key) - 1
        if not 0 <= i < node.count:
            return None, node.keys[0] if i < 0 else right
        right = node.keys[i + 1]
        if 0 < elm_mirror_tid(node, i) < tid_beg:
            return None, right
        node = tree.child(node, i)
    return node, right


def _record(fs: HammerFS, elm: LeafElm, tid_beg: int, tid_end: int) -> bytes:
    if elm.create_tid > tid_end:
        return b""
    if elm.create_tid < tid_beg:
        return padded(MirrorRecord(MREC_PASS, leaf=elm))
    record = MirrorRecord(MREC_REC)
    record.leaf = elm._replace(delete_tid=0) if elm.delete_tid > tid_end else elm
    if elm.data_len:
        check_payload_address(elm)
        record.data = _raw_payload(fs, elm)
        try:
            fs.records.verify_payload(elm, memoryview(record.data))
        except CrcError:
            record.flags = MREC_CRC_ERROR | MREC_DATA_CRC_BAD
    return padded(record)


def _raw_payload(fs: HammerFS, elm: LeafElm) -> bytes:
    if elm.data_offset >> 60 == ZONE_META:
        return bytes(fs.cache.view(elm.data_offset, elm.data_len))
    volume, byte_off = fs.volumes.locate(elm.data_offset, elm.data_len)
    return volume.dev.pread(byte_off, elm.data_len)


def _skip(beg: Key, end: Key) -> bytes:
    return padded(MirrorRecord(MREC_SKIP, skip_beg=_base(beg), skip_end=_base(end)))


def _base(key: Key) -> BaseElm:
    localization, obj_id, rec_type, at, tid = key
    return BaseElm(obj_id, at, tid % TID_INFINITE, 0, rec_type, 0, 0, localization)
