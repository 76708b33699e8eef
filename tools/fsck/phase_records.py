"""Phase: every record, in tree order: its key, its life, where its payload is; then what its type asks for.

Called for each leaf by the walk of the tree. The loop over the elements works on plain tuples: this is where the time
of a check goes.
"""

from __future__ import annotations

from hammerfs.addr import pfs_of
from hammerfs.const import (
    BIGBLOCK_BITS,
    BIGBLOCK_MASK,
    BIGBLOCK_SIZE,
    BTREE_TYPE_RECORD,
    BUFMASK,
    BUFSIZE,
    ELM_SIZE,
    LOCALIZE_INODE,
    LOCALIZE_MASK,
    LOCALIZE_MISC,
    RECTYPE_CONFIG,
    RECTYPE_DATA,
    RECTYPE_DB,
    RECTYPE_DIRENTRY,
    RECTYPE_EXT,
    RECTYPE_FIX,
    RECTYPE_INODE,
    RECTYPE_PERM,
    RECTYPE_PFS,
    RECTYPE_SNAPSHOT,
    TID_INFINITE,
    XBUFSIZE,
    ZONE_LARGE_DATA,
    ZONE_META,
    ZONE_SHIFT,
    ZONE_SMALL_DATA,
)
from hammerfs.keys import KEY_MIN, Key
from hammerfs.ondisk.node import LEAF_ELM, decode_keys
from tools.fsck.context import Context
from tools.fsck.phase_data import DataCheck
from tools.fsck.phase_pfs import Elm, PfsChecks
from tools.fsck.rectypes import TypeChecks

_CLASSES = {
    RECTYPE_INODE: {LOCALIZE_INODE},
    RECTYPE_DATA: {LOCALIZE_MISC},
    RECTYPE_DIRENTRY: {LOCALIZE_INODE, LOCALIZE_MISC},
    RECTYPE_DB: {LOCALIZE_MISC},
    RECTYPE_EXT: {LOCALIZE_MISC},
    RECTYPE_FIX: {LOCALIZE_MISC},
    RECTYPE_PFS: {LOCALIZE_MISC},
    RECTYPE_SNAPSHOT: {LOCALIZE_INODE},
    RECTYPE_CONFIG: {LOCALIZE_INODE},
    RECTYPE_PERM: {LOCALIZE_INODE, LOCALIZE_MISC},
}
"""Classes of localization in which a record type may be."""
_FRESH_TID = 0x100000001
"""TID of the formatter's records; the header it writes says one less, and the root leaf nothing."""
_PAYLOAD_ZONES = frozenset({ZONE_META, ZONE_LARGE_DATA, ZONE_SMALL_DATA})
_FILE_TYPES = frozenset({RECTYPE_DATA, RECTYPE_DB})


class RecordCheck:
    """Checks leaves.

    Args:
        ctx: The check.
        pfss: What is known of the PFSs; told when all records of one have been seen.
    """

    def __init__(self, ctx: Context, pfss: PfsChecks) -> None:
        self._ctx = ctx
        self._report = ctx.report
        self._pfss = pfss
        self._next_tid = ctx.volumes.superblock.vol0_next_tid
        self._types = TypeChecks(ctx, pfss)
        self._data = DataCheck(ctx) if ctx.data else None
        self._localization = -1
        self._zones: dict[int, int] = {}
        """Record types of the current class, and the zone of their payloads when these are shorter than a buffer."""
        self._last: Key = KEY_MIN
        self._last_delete = 0
        self._block = -1
        """Big-block of the last payload, and its counters."""
        self._used = [0, 0]

    def lost(self, left: Key, right: Key) -> None:
        """Part of the tree can't be read: nothing is concluded from what is missing in the PFSs it may belong to."""
        self._pfss.lose(left[0] >> 16, right[0] >> 16)

    def leaf(self, off: int, left: Key, right: Key, body: bytes, mirror_tid: int) -> None:
        """Check one leaf."""
        checks, asof = self._types.by_type, self._pfss.asof
        zones, block, used = self._zones, self._block, self._used
        last, last_delete = self._last, self._last_delete
        lower, top = KEY_MIN, 0
        self._ctx.records += len(body) // LEAF_ELM.size
        for elm in LEAF_ELM.iter_unpack(body):
            obj_id, key, create_tid, delete_tid, rec_type, _, btype, lo, _, _, data_offset, data_len, _ = elm
            at = (lo, obj_id, rec_type, key, create_tid or TID_INFINITE)
            if lo != self._localization:
                self._enter(lo)
                zones, asof = self._zones, self._pfss.asof
            if at <= lower or btype != BTREE_TYPE_RECORD or not create_tid or 0 < delete_tid <= create_tid:
                self._faults(elm, off, in_order=at > lower)
            if key == last[3] and obj_id == last[1] and (not last_delete or last_delete > create_tid):
                self._generations(elm, off, at, last, last_delete)
            lower = last = at
            last_delete = delete_tid
            if create_tid > top:
                top = create_tid
            if delete_tid > top:
                top = delete_tid
            live = not delete_tid if not asof else create_tid <= asof and (not delete_tid or asof < delete_tid)
            pos = data_offset & BUFMASK
            # Most payloads are small and lie in the big-block of the one before, whose counters are at hand.
            if (
                data_offset >> BIGBLOCK_BITS == block
                and data_offset >> ZONE_SHIFT == zones.get(rec_type)
                and not data_offset & 15
                and 0 < data_len < BUFSIZE - pos
            ):
                used[0] += (data_len + 15) & ~15
                end = (data_offset & BIGBLOCK_MASK) + data_len
                if end > used[1]:
                    used[1] = end
                if self._data is not None and rec_type == RECTYPE_DATA:
                    self._data.add(elm)
                checks[rec_type](elm, off, live)
            elif self._place(elm, off):
                block, used = self._block, self._used
                checks[rec_type](elm, off, live)
        if self._data is not None:
            self._data.flush()
        self._last, self._last_delete = last, last_delete
        self._check_bounds(off, left, right, body)
        self._check_tids(off, top, mirror_tid)

    def _place(self, elm: Elm, off: int) -> bool:
        """Count a record's payload; whether the record is fit to be looked at by its type."""
        rec_type, lo, data_offset, data_len = elm[4], elm[7], elm[10], elm[11]
        if lo & LOCALIZE_MASK not in _CLASSES.get(rec_type, ()):
            code = "record-place" if rec_type in _CLASSES else "record-type"
            self._add(code, f"record type 0x{rec_type:02x} in localization {lo:08x}", elm, off)
            if 0 < data_len <= XBUFSIZE:
                self._ctx.usage.take(data_offset, (data_len + 15) & ~15)
            return False
        if not data_len:
            if data_offset:
                self._add("payload-address", "an address without a length", elm, off)
            return True
        if data_offset >> BIGBLOCK_BITS != self._block:
            used = self._ctx.usage.open(data_offset >> BIGBLOCK_BITS)
            if used is None:
                self._add("payload-address", f"payload at {data_offset:016x}", elm, off)
                return False
            self._block, self._used = data_offset >> BIGBLOCK_BITS, used
        if not self._fits(elm, off):
            return False
        used, end = self._used, (data_offset & BIGBLOCK_MASK) + data_len
        used[0] += (data_len + 15) & ~15
        if end > used[1]:
            used[1] = end
        if self._data is not None and rec_type in _FILE_TYPES:
            self._data.add(elm)
        return True

    def _fits(self, elm: Elm, off: int) -> bool:
        """Whether length, zone and boundaries of a payload can be."""
        rec_type, data_offset, data_len = elm[4], elm[10], elm[11]
        zone, unit = ZONE_META, BUFSIZE
        if rec_type in _FILE_TYPES:
            zone = ZONE_LARGE_DATA if data_len >= BUFSIZE else ZONE_SMALL_DATA
        if data_len > BUFSIZE:
            unit = BIGBLOCK_SIZE
        if not 0 < data_len <= XBUFSIZE:
            self._add("payload-length", f"payload of {data_len} bytes", elm, off)
        elif data_offset & 15 or (data_offset & unit - 1) + data_len > unit:
            self._add("payload-address", f"{data_len} bytes at {data_offset:016x} cross a boundary", elm, off)
        elif data_offset >> ZONE_SHIFT == zone:
            return True
        elif data_offset >> ZONE_SHIFT in _PAYLOAD_ZONES:
            what = f"{data_len} bytes of record type 0x{rec_type:02x} in zone {data_offset >> ZONE_SHIFT}"
            self._add("payload-zone", what, elm, off)
            return True
        else:
            self._add("payload-address", f"{data_len} bytes at {data_offset:016x}, no zone of payloads", elm, off)
        return False

    def _faults(self, elm: Elm, off: int, *, in_order: bool) -> None:
        """What is wrong with the key or the life of an element."""
        create_tid, delete_tid, btype = elm[2], elm[3], elm[6]
        if not in_order:
            self._add("node-order", "elements do not ascend", elm, off)
        if btype != BTREE_TYPE_RECORD:
            self._add("record-type", f"element type 0x{btype:02x}", elm, off)
        if not create_tid:
            self._add("record-tid", "no creation TID", elm, off)
        if 0 < delete_tid <= create_tid:
            self._add("record-tid", f"deleted at 0x{delete_tid:016x}, not after its creation", elm, off)

    def _generations(self, elm: Elm, off: int, at: Key, last: Key, last_delete: int) -> None:
        """Two generations of a slot may not live at the same time."""
        if at[:4] == last[:4] and at[4] > last[4]:
            until = f"until 0x{last_delete:016x}" if last_delete else "still"
            # What a master destroyed at once, a slave keeps until the end of the synchronisation that misses it.
            is_mirrored = bool(last_delete and self._pfss.asof)
            code = "record-generations-mirrored" if is_mirrored else "record-generations"
            self._add(code, f"the generation before lives {until}", elm, off)

    def _enter(self, localization: int) -> None:
        """The records of another localization begin."""
        self._localization = localization
        self._pfss.enter(pfs_of(localization))
        self._types.enter()
        cls = localization & LOCALIZE_MASK
        self._zones = {
            rec_type: ZONE_SMALL_DATA if rec_type in _FILE_TYPES else ZONE_META
            for rec_type, classes in _CLASSES.items()
            if cls in classes
        }

    def _check_bounds(self, off: int, left: Key, right: Key, body: bytes) -> None:
        """The first and the last element must be inside the range that the parent gives the leaf."""
        if body:
            keys = decode_keys(body[:ELM_SIZE] + body[-ELM_SIZE:])
            if keys[0] < left or keys[1] >= right:
                self._report.add("node-bounds", "elements outside the range that the parent gives the leaf", offset=off)

    def _check_tids(self, off: int, top: int, mirror_tid: int) -> None:
        next_tid, is_fresh = self._next_tid, top == _FRESH_TID
        if not is_fresh:
            self._ctx.master_ids.add(top & 15)
        if top > mirror_tid:
            what = f"mirror_tid 0x{mirror_tid:016x} is below the TID 0x{top:016x} of an element"
            if is_fresh and mirror_tid == 0:
                self._report.add("node-mirror-tid-fresh", what, offset=off)
            else:
                self._ctx.add_mirror_fault(what, off)
        if top > next_tid:
            code = "record-tid-fresh" if is_fresh and top == next_tid + 1 else "record-tid"
            self._report.add(code, f"TID 0x{top:016x} is above the header's 0x{next_tid:016x}", offset=off)

    def _add(self, code: str, what: str, elm: Elm, off: int) -> None:
        self._report.add(code, what, offset=off, obj_id=elm[0], pfs_id=elm[7] >> 16)
