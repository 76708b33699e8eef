"""What newfs_hammer says of a file system it makes: text as newfs_hammer(8) prints it, or JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from hammerfs.const import BIGBLOCK_SIZE, MIN_UNDO_BIGBLOCKS, ROOT_VOLUME
from mkfs.layout import Layout
from mkfs.targets import Target
from tools.output import json_name, safe_name, size_column

GIB: Final = 1 << 30
SMALL: Final = 10 * GIB
"""Below this a file system is made with -f only."""
RECOMMENDED: Final = 50 * GIB
MIN_UNDO_SIZE: Final = MIN_UNDO_BIGBLOCKS * BIGBLOCK_SIZE

_NOTE = """
NOTE: Please remember that you may have to manually set up a
cron(8) job to prune and reblock the filesystem regularly.
By default, the system automatically runs 'hammer cleanup'
on a nightly basis.  The periodic.conf(5) variable
'daily_clean_hammer_enable' can be unset to disable this.
Also see 'man hammer' and 'man HAMMER' for more information."""
_SMALL_WARNING = """
WARNING: The minimum UNDO/REDO FIFO is {minimum}, you really should not
try to format a HAMMER filesystem this small."""
_RECOMMENDED_WARNING = """
WARNING: HAMMER filesystems less than 50GB are not recommended!
You may have to run 'hammer prune-everything' and 'hammer reblock'
quite often, even if using a nohistory mount."""


def small_fifo_warning() -> str:
    """What is said of a FIFO below the minimum."""
    return (
        f"WARNING: You have specified an UNDO/REDO FIFO size less than {size_column(MIN_UNDO_SIZE)},"
        " which may lead to VFS panics"
    )


def volume_lines(targets: Sequence[Target]) -> Iterator[str]:
    """One line for each volume."""
    for vol_no, target in enumerate(targets):
        yield f"Volume {vol_no} {target.kind} {_name(target):<15} size {size_column(target.size)}"


def progress_lines(layout: Layout) -> Iterator[str]:
    """The steps of formatting."""
    for vol_no in range(len(layout.headers)):
        yield f"initialize freemap volume {vol_no}"
        if vol_no == ROOT_VOLUME:
            yield f"initializing the undo map ({layout.undo_bigblocks * BIGBLOCK_SIZE >> 20} MB)"


def summary_lines(layout: Layout, targets: Sequence[Target]) -> Iterator[str]:
    """What has been made, and warnings of what is small."""
    params = layout.params
    count = len(targets)
    total = sum(target.size for target in targets)
    yield "---------------------------------------------"
    yield f"HAMMER version {params.version}"
    yield f"{count} volume{'s' if count != 1 else ''} total size {size_column(total)}"
    yield f"root-volume:         {_name(targets[ROOT_VOLUME])}"
    yield f"boot-area-size:      {size_column(params.boot_area)}"
    yield f"memory-log-size:     {size_column(params.memory_log)}"
    yield f"undo-buffer-size:    {size_column(layout.undo_bigblocks * BIGBLOCK_SIZE)}"
    yield f"total-pre-allocated: {size_column(layout.preallocated)}"
    yield f"fsid:                {params.fsid}"
    yield _NOTE
    if total < SMALL:
        yield _SMALL_WARNING.format(minimum=size_column(MIN_UNDO_SIZE))
    if total < RECOMMENDED:
        yield _RECOMMENDED_WARNING


def as_json(layout: Layout, targets: Sequence[Target], *, dry_run: bool, warnings: Sequence[str]) -> dict[str, Any]:
    """The report as a JSON object; sizes are bytes, the time microseconds since 1970."""
    params = layout.params
    root = layout.headers[ROOT_VOLUME]
    return {
        "dry_run": dry_run,
        "label": json_name(params.label),
        "fsid": str(params.fsid),
        "version": params.version,
        "ctime_us": params.now_us,
        "volumes": [
            {
                "number": vol_no,
                "name": json_name(os.fsencode(target.name)),
                "type": target.kind,
                "size": target.size,
                "overwrites": list(dict.fromkeys(found.what for found in target.found)),
            }
            for vol_no, target in enumerate(targets)
        ],
        "size": sum(target.size for target in targets),
        "boot_area": params.boot_area,
        "memory_log": params.memory_log,
        "undo_size": layout.undo_bigblocks * BIGBLOCK_SIZE,
        "preallocated": layout.preallocated,
        "bigblocks": {"usable": root.vol0_stat_bigblocks, "free": root.vol0_stat_freebigblocks},
        "warnings": list(warnings),
    }


def _name(target: Target) -> str:
    return safe_name(os.fsencode(target.name))
