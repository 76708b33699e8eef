"""B-Tree key order, as-of visibility, directory name hashes (hammer_btree.c, hammer_subs.c).

A sort key is the tuple (localization, obj_id, rec_type, key, create_tid), where a create_tid of 0 stands for
infinity (2**64): tuples then compare exactly as the media's elements do.
"""

from __future__ import annotations

import re

from hammerfs.const import CAP_DIRHASH_ALG0, CAP_DIRHASH_ALG1, CAP_DIRHASH_MASK, MAX_TID, TID_INFINITE
from hammerfs.crc import crc32
from hammerfs.errors import CorruptError

Key = tuple[int, int, int, int, int]
"""(localization, obj_id, rec_type, key, create_tid or 2**64)."""

KEY_MIN: Key = (0, -(1 << 63), 0, -(1 << 63), 0)
"""Not above any key of a tree."""
KEY_MAX: Key = (0xFFFFFFFF, (1 << 63) - 1, 0xFFFF, (1 << 63) - 1, TID_INFINITE)
"""Not below any key of a tree."""
MIN_INT64 = -(1 << 63)
MAX_INT64 = (1 << 63) - 1

_RUNS = re.compile(rb"[^.\-_~]+")
_WINDOW = {CAP_DIRHASH_ALG0: 0xFFFFFFFF, CAP_DIRHASH_ALG1: 0x00FFFFFF}


def make_key(localization: int, obj_id: int, rec_type: int, key: int, create_tid: int) -> Key:
    """Sort key of an element; a `create_tid` of 0 sorts above everything."""
    return localization, obj_id, rec_type, key, create_tid or TID_INFINITE


def compare(a: Key, b: Key) -> int:
    """Sign tells the order, magnitude the field that differs.

    Returns:
        5 localization, 4 obj_id, 3 rec_type, 2 key, 1 create_tid, 0 equal; negative when `a` is the smaller one.
        -1, 0 and 1 mean: the same record slot, maybe another generation.
    """
    for i in range(5):
        if a[i] != b[i]:
            return 5 - i if a[i] > b[i] else i - 5
    return 0


def visible(create_tid: int, delete_tid: int, asof: int) -> bool:
    """Whether a record exists at the point in time `asof` (0 or MAX_TID: the current state)."""
    if asof in {0, MAX_TID}:
        return delete_tid == 0
    return create_tid <= asof and (delete_tid == 0 or asof < delete_tid)


def namekey0(name: bytes) -> int:
    """Directory hash algorithm 0: key of a name in directories of versions 1..5."""
    return (crc32(name, 0) & 0x7FFFFFFF) << 32 or 1 << 32


def namekey1(name: bytes) -> int:
    """Directory hash algorithm 1: the parts between ``. - _ ~`` are summed, so permuted names share the high bits."""
    total = 0
    for run in _RUNS.findall(name):
        total += crc32(run, 0)
    whole = crc32(name, 0)
    key = (total & 0x7FFFFFFF) << 32 | ((whole ^ whole << 16) & 0xFFFF0000)
    return key if key >> 32 else key | 1 << 32


def namekey_range(name: bytes, cap_flags: int) -> tuple[int, int]:
    """Keys under which a directory with these capability bits may hold `name`.

    Returns:
        The first key to probe and the last one (inclusive).

    Raises:
        CorruptError: The capability bits name no known hash algorithm.
    """
    algorithm = cap_flags & CAP_DIRHASH_MASK
    if algorithm == CAP_DIRHASH_ALG1:
        base = namekey1(name)
    elif algorithm == CAP_DIRHASH_ALG0:
        base = namekey0(name)
    else:
        raise CorruptError(f"directory hash algorithm {algorithm} is unknown")
    return base, min(base + _WINDOW[algorithm], MAX_INT64)
