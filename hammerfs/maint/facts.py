"""What there is to know of a file system as a whole, in values that JSON can hold."""

from __future__ import annotations

import os
from typing import Any

from hammerfs.fs import HammerFS


def facts(fs: HammerFS) -> dict[str, Any]:
    """Label, version, space in big-blocks, volumes and PFSs, by the root volume's header.

    Raises:
        CorruptError: A record of a PFS or snapshot is damaged.
    """
    head = fs.volumes.superblock
    total, free = sum(volume.bigblocks for volume in fs.volumes), head.vol0_stat_freebigblocks
    reserved = total - head.vol0_stat_bigblocks
    return {
        "label": os.fsdecode(head.label),
        "fsid": str(head.fsid),
        "version": head.vol_version,
        "root": head.vol_rootvol,
        "bigblocks": {"total": total, "used": total - reserved - free, "reserved": reserved, "free": free},
        "inodes": head.vol0_stat_inodes,
        "volumes": sorted((volume.vol_no, volume.dev.name) for volume in fs.volumes),
        "pfs": [
            {"id": pfs_id, "mode": "SLAVE" if pfs.is_slave else "MASTER", "snapshots": len(fs.snapshots(pfs_id))}
            for pfs_id, pfs in fs.pfs_list()
        ],
    }
