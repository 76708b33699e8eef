"""The record of a PFS as text and as JSON."""

from __future__ import annotations

from typing import Any

from hammerfs.const import VERSION_SNAPSHOT
from hammerfs.ondisk.records import PfsData
from tools.output import json_name, safe_name

_DAY = 86400


def pfs_mode(pfs: PfsData) -> str:
    """MASTER or SLAVE."""
    return "SLAVE" if pfs.is_slave else "MASTER"


def print_pfs(place: bytes, pfs_id: int, pfs: PfsData, version: int) -> None:
    """Print a PFS as `hammer pfs-status` does.

    Args:
        place: Name of the file system, or what the PFS was found by.
        pfs_id: Its id.
        pfs: Its record.
        version: Of the volumes.
    """
    print(f"{safe_name(place)}\tPFS#{pfs_id} {{")
    print(f"    sync-beg-tid=0x{pfs.sync_beg_tid:016x}")
    print(f"    sync-end-tid=0x{pfs.sync_end_tid:016x}")
    print(f"    shared-uuid={pfs.shared}")
    print(f"    unique-uuid={pfs.unique}")
    print(f'    label="{safe_name(pfs.label_text)}"')
    if pfs.snapshots_path:
        print(f'    snapshots="{safe_name(pfs.snapshots_path)}"')
    print(f"    prune-min={duration_text(pfs.prune_min)}")
    print(f"    operating as a {pfs_mode(pfs)}")
    if version >= VERSION_SNAPSHOT and not pfs.snapshots_path:
        print("    snapshots directory defaults to /var/hammer/<pfs>")
    print("}")


def pfs_json(pfs_id: int, pfs: PfsData) -> dict[str, Any]:
    """A PFS as JSON values."""
    return {
        "pfs": pfs_id,
        "sync_beg_tid": f"0x{pfs.sync_beg_tid:016x}",
        "sync_end_tid": f"0x{pfs.sync_end_tid:016x}",
        "shared_uuid": str(pfs.shared),
        "unique_uuid": str(pfs.unique),
        "label": json_name(pfs.label_text),
        "snapshots": json_name(pfs.snapshots_path),
        "prune_min": pfs.prune_min,
        "mode": pfs_mode(pfs),
        "deleted": pfs.is_deleted,
    }


def duration_text(seconds: int) -> str:
    """A time span as PFS options have it."""
    days, rest = divmod(seconds, _DAY)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    if not days:
        return clock
    return f"{days}d/{clock}" if rest else f"{days}d"
