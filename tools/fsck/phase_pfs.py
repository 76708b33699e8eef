"""Phase: PFSs: their records, snapshots and configuration, and what is gathered of one while its records go by."""

from __future__ import annotations

from hammerfs.const import (
    LOCALIZE_MISC,
    MAX_PFS,
    OBJID_ROOT,
    VERSION_SNAPSHOT,
)
from hammerfs.errors import HammerError
from hammerfs.ondisk.records import CONFIG_SIZE, PFS_SIZE, SNAPSHOT_SIZE, PfsData, SnapshotData
from tools.fsck import phase_links
from tools.fsck.context import Context
from tools.fsck.objects import Entries, Objects

Elm = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
"""The fields of a leaf element, as `hammerfs.ondisk.node.LeafElm` names them."""


class PfsChecks:
    """Gathers the objects of one PFS after the other; the tree has them in this order.

    Args:
        ctx: The check.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._report = ctx.report
        self._known: dict[int, PfsData | None] = {}
        """By the live PFS records seen, which all come before the first record of a PFS other than 0; None is a record
        that can't be trusted."""
        self._seen: set[int] = set()
        self._lost: list[tuple[int, int]] = []
        self._pfs_id: int | None = None
        self.objects = Objects()
        self.entries = Entries()
        self.asof = 0
        """Point in time at which the PFS must be consistent: a slave's last synchronisation; 0 is now."""
        self.live_inodes = 0
        """Live inode records of all PFSs."""
        self.lost_entries = 0
        """Live entries of this PFS whose payload can't be trusted."""

    def lose(self, first: int, last: int) -> None:
        """Records of these PFSs (inclusive) may be missing: a part of the tree can't be read."""
        self._lost.append((first, last))

    @property
    def is_lost(self) -> bool:
        """Whether records of the current PFS may be missing, so that nothing follows from not having seen one."""
        return self._pfs_id is not None and self._is_lost(self._pfs_id)

    def enter(self, pfs_id: int) -> None:
        """Records of a PFS come."""
        if pfs_id == self._pfs_id:
            return
        self.leave()
        if pfs_id in self._seen:
            self.lose(pfs_id, pfs_id)  # out of order: half of it has gone by
        self._seen.add(pfs_id)
        self._pfs_id = pfs_id
        self.objects, self.entries, self.lost_entries = Objects(), Entries(), 0
        data = self._data(pfs_id)
        self.asof = data.sync_end_tid if data is not None and data.is_slave else 0
        if pfs_id and pfs_id not in self._known and not self._is_lost(0):
            self._report.add("pfs-unknown", "records of a PFS that has no record of its own", pfs_id=pfs_id)
        if pfs_id and data is None:
            self.lose(pfs_id, pfs_id)  # master or slave: nobody knows as of when it must be consistent
        if pfs_id and data is not None and data.is_deleted:
            self._report.add("pfs-deleted", "records of a PFS that has been destroyed", pfs_id=pfs_id)

    def leave(self) -> None:
        """All records of the current PFS have been seen."""
        pfs_id = self._pfs_id
        if pfs_id is None:
            return
        self._pfs_id = None
        if self._is_lost(pfs_id):
            return
        if self.objects.find(OBJID_ROOT) < 0 and (_is_master(self._data(pfs_id)) or len(self.objects)):
            self._report.add("pfs-root", "no root directory", pfs_id=pfs_id)
        phase_links.run(self._ctx, pfs_id, self.objects, self.entries, self.lost_entries)

    def finish(self) -> None:
        """The whole tree has been seen."""
        self.leave()
        for pfs_id, data in self._known.items():
            if pfs_id not in self._seen and _is_master(data) and not self._is_lost(pfs_id):
                self._report.add("pfs-root", "no root directory", pfs_id=pfs_id)

    def pfs_record(self, elm: Elm, off: int, payload: bytes | None) -> None:
        """A PFS record of any generation."""
        pfs_id, rest = divmod(elm[1], 1 << 16)
        if rest or not 0 <= pfs_id < MAX_PFS or elm[0] != OBJID_ROOT or elm[7] != LOCALIZE_MISC:
            self._add("record-place", f"PFS record with key {elm[1]:x}", elm, off)
            return
        if payload is None:
            if not elm[3]:
                self._known[pfs_id] = None
            return
        if len(payload) > PFS_SIZE:
            self._add("payload-length", f"PFS record of {len(payload)} bytes", elm, off)
        data = PfsData.decode(payload)
        if data.mirror_flags & ~0x80000001:
            self._field("pfs-field", f"PFS {pfs_id}: flags {data.mirror_flags:08x}", elm)
        if b"\0" not in data.label or b"\0" not in data.snapshots:
            self._field("pfs-field", f"PFS {pfs_id}: text without an end", elm)
        if not elm[3]:
            self._known[pfs_id] = data

    def snapshot(self, elm: Elm, off: int, payload: bytes | None) -> None:
        """A SNAPSHOT record."""
        self._whole_pfs(elm, off, "snapshot")
        if payload is None:
            return
        if len(payload) != SNAPSHOT_SIZE:
            self._add("payload-length", f"snapshot of {len(payload)} bytes", elm, off)
            return
        data, tid = SnapshotData.decode(payload), elm[1] & (1 << 64) - 1
        if data.tid != tid or b"\0" not in data.label:
            self._field("snapshot-field", f"snapshot 0x{tid:016x} says 0x{data.tid:016x}", elm)

    def config(self, elm: Elm, off: int, payload: bytes | None) -> None:
        """A CONFIG record."""
        self._whole_pfs(elm, off, "configuration")
        if elm[1]:
            self._add("record-place", f"configuration with key {elm[1]:x}", elm, off)
        if payload is not None and (len(payload) > CONFIG_SIZE or b"\0" not in payload):
            self._field("config-field", f"text of {len(payload)} bytes without an end", elm)

    def _whole_pfs(self, elm: Elm, off: int, what: str) -> None:
        if elm[0] != OBJID_ROOT:
            self._add("record-place", f"{what} record of an object that is no root directory", elm, off)
        if self._ctx.volumes.version < VERSION_SNAPSHOT:
            self._add("record-type", f"{what} record on version {self._ctx.volumes.version}", elm, off)

    def _data(self, pfs_id: int) -> PfsData | None:
        """What is known of a PFS; PFS 0 exists without a record, and its own comes in the middle of it."""
        if pfs_id:
            return self._known.get(pfs_id)
        try:
            return self._ctx.fs.pfs.get(0)
        except HammerError:
            return PfsData()

    def _is_lost(self, pfs_id: int) -> bool:
        return any(first <= pfs_id <= last for first, last in self._lost)

    def _add(self, code: str, what: str, elm: Elm, off: int) -> None:
        self._report.add(code, what, offset=off, obj_id=elm[0], pfs_id=elm[7] >> 16)

    def _field(self, code: str, what: str, elm: Elm) -> None:
        self._report.add(code, what, offset=elm[10], obj_id=elm[0], pfs_id=elm[7] >> 16)


def _is_master(data: PfsData | None) -> bool:
    """Whether a PFS must have a root directory: a slave gets it with the first mirroring."""
    return data is not None and not data.is_slave and not data.is_deleted
