"""What a check finds: stable codes, their severity, and where each finding is."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, Literal, NamedTuple

from hammerfs.const import ZONE_RAW_VOLUME, ZONE_SHIFT, ZONE_UNDO
from hammerfs.errors import CorruptError, HammerError
from hammerfs.volumes import Volumes
from tools.output import json_name, safe_name

Severity = Literal["error", "note"]
"""An error is damage; a note is something harmless that is worth knowing."""
_ERROR: Final = "error"
_NOTE: Final = "note"

CODES: Final[dict[str, Severity]] = {
    # Volumes and their headers
    "header-damaged": _ERROR,
    "header-field": _ERROR,
    "header-crc": _ERROR,
    "header-crc-unset": _NOTE,
    "header-crc-stale": _NOTE,
    "zone-field": _ERROR,
    "zone-crc": _ERROR,
    "zone-crc-stale": _NOTE,
    "stat-bigblocks": _ERROR,
    "stat-bigblocks-tables": _NOTE,
    "stat-freebigblocks": _ERROR,
    "stat-freebigblocks-old": _NOTE,
    "stat-inodes": _ERROR,
    # UNDO/REDO FIFO
    "dirty": _NOTE,
    "recovery-failed": _ERROR,
    "fifo-record": _ERROR,
    "fifo-unreadable": _ERROR,
    "fifo-unwritten": _NOTE,
    # Freemap
    "freemap-table": _ERROR,
    "volume-bare": _NOTE,
    "layer1-crc": _ERROR,
    "layer1-field": _ERROR,
    "layer1-free": _ERROR,
    "layer2-crc": _ERROR,
    "layer2-field": _ERROR,
    "bigblock-zone": _ERROR,
    "bigblock-free": _ERROR,
    "bigblock-append": _ERROR,
    "bigblock-overlap": _ERROR,
    "bigblock-orphan": _ERROR,
    # B-Tree
    "node-unreadable": _ERROR,
    "node-crc": _ERROR,
    "node-type": _ERROR,
    "node-shared": _ERROR,
    "node-parent": _ERROR,
    "node-bounds": _ERROR,
    "node-order": _ERROR,
    "node-depth": _ERROR,
    "node-mirror-tid": _ERROR,
    "node-mirror-tid-fresh": _NOTE,
    "node-mirror-tid-nomirror": _NOTE,
    "node-empty": _NOTE,
    "tree-incomplete": _NOTE,
    # Records
    "record-type": _ERROR,
    "record-place": _ERROR,
    "record-tid": _ERROR,
    "record-tid-fresh": _NOTE,
    "record-generations": _ERROR,
    "record-generations-mirrored": _NOTE,
    "record-orphan": _ERROR,
    "payload-address": _ERROR,
    "payload-zone": _NOTE,
    "payload-length": _ERROR,
    "payload-crc": _ERROR,
    "inode-field": _ERROR,
    "symlink-target": _ERROR,
    "symlink-unflushed": _NOTE,
    "data-shape": _ERROR,
    "data-overlap": _ERROR,
    "data-beyond-end": _ERROR,
    # Directories and links
    "dirent-field": _ERROR,
    "dirent-hash": _ERROR,
    "dirent-twice": _ERROR,
    "dirent-dangling": _ERROR,
    "dirent-type": _ERROR,
    "link-count": _ERROR,
    "inode-orphan": _ERROR,
    "inode-unlinked": _NOTE,
    "directory-parent": _ERROR,
    "directory-loop": _ERROR,
    # PFSs, snapshots, configuration
    "pfs-field": _ERROR,
    "pfs-unknown": _ERROR,
    "pfs-deleted": _NOTE,
    "pfs-root": _ERROR,
    "snapshot-field": _ERROR,
    "config-field": _ERROR,
}
"""Every code and its severity; docs/fsck-codes.md says what each means."""


class Finding(NamedTuple):
    """One thing found."""

    code: str
    severity: Severity
    what: str
    """The fact, in one line without the place."""
    offset: int | None = None
    """HAMMER address."""
    volume: int | None = None
    """Number of the volume."""
    volume_offset: int | None = None
    """Byte offset in the volume."""
    obj_id: int | None = None
    pfs_id: int | None = None
    path: bytes | None = None
    """A path of the object inside its PFS, where one could be found."""

    @property
    def zone(self) -> int | None:
        """Zone of the address."""
        return None if self.offset is None else self.offset >> ZONE_SHIFT

    @property
    def is_error(self) -> bool:
        """Damage, not merely a note."""
        return self.severity == _ERROR

    def __str__(self) -> str:
        places = []
        if self.volume is not None:
            at = "" if self.volume_offset is None else f"+{self.volume_offset}"
            places.append(f"volume {self.volume}{at}")
        elif self.volume_offset is not None:
            places.append(f"byte {self.volume_offset}")
        if self.offset is not None:
            places.append(f"offset 0x{self.offset:016x}")
        if self.obj_id is not None:
            pfs = f"pfs {self.pfs_id} " if self.pfs_id else ""
            places.append(f"{pfs}object 0x{self.obj_id & 0xFFFFFFFFFFFFFFFF:016x}")
        elif self.pfs_id is not None:
            places.append(f"pfs {self.pfs_id}")
        if self.path is not None:
            places.append(safe_name(self.path))
        place = ", ".join(places)
        return (
            f"{self.severity} {self.code}: {place}: {self.what}"
            if place
            else f"{self.severity} {self.code}: {self.what}"
        )

    def as_json(self) -> dict[str, Any]:
        """The finding as plain values; addresses and object ids are hex text."""
        return {
            "code": self.code,
            "severity": self.severity,
            "what": self.what,
            "volume": self.volume,
            "volume_offset": self.volume_offset,
            "offset": None if self.offset is None else f"0x{self.offset:016x}",
            "zone": self.zone,
            "object": None if self.obj_id is None else f"0x{self.obj_id & 0xFFFFFFFFFFFFFFFF:016x}",
            "pfs": self.pfs_id,
            "path": None if self.path is None else json_name(self.path),
        }


class Report:
    """Collects findings, at most `limit` of a code; all are counted.

    Args:
        limit: Most findings kept of one code, so that an image full of damage takes no memory without bounds.
    """

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.volumes: Volumes | None = None
        """Translates addresses, once the set is open."""
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()

    def add(
        self,
        code: str,
        what: str,
        *,
        offset: int | None = None,
        volume: int | None = None,
        volume_offset: int | None = None,
        obj_id: int | None = None,
        pfs_id: int | None = None,
    ) -> None:
        """Note something; the volume and the byte offset in it come from the address where only that is given."""
        severity = CODES[code]
        self.counts[code] += 1
        if self.counts[code] > self.limit:
            return
        if offset is not None and volume is None:
            volume, volume_offset = self._locate(offset)
        self.findings.append(Finding(code, severity, what, offset, volume, volume_offset, obj_id, pfs_id))

    def add_error(self, code: str, err: HammerError) -> None:
        """Note something that came as an exception."""
        if err.volume is not None:  # then the offset is one in the volume, not an address
            self.add(code, f"{err.volume}: {err.what}", volume_offset=err.offset)
            return
        pfs_id = None if err.localization is None else err.localization >> 16
        self.add(code, err.what, offset=err.offset, obj_id=err.obj_id, pfs_id=pfs_id)

    def total(self, severity: Severity) -> int:
        """How many findings of a severity there were, kept or not."""
        return sum(count for code, count in self.counts.items() if CODES[code] == severity)

    def _locate(self, offset: int) -> tuple[int | None, int | None]:
        volumes = self.volumes
        if volumes is None:
            return None, None
        zone = offset >> ZONE_SHIFT
        try:
            if zone == ZONE_UNDO:
                offset = volumes.undo_address(offset)
            volume, at = volumes.locate(offset, 0)
        except CorruptError:
            return None, None
        return volume.vol_no, offset & (1 << 52) - 1 if zone == ZONE_RAW_VOLUME else at
