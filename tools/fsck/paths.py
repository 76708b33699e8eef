"""Paths of the objects that findings are about, found from the object upwards."""

from __future__ import annotations

from itertools import islice

from hammerfs.const import MAX_TID, OBJID_ROOT
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from tools.fsck.findings import Finding

_LEVELS = 64
_ENTRIES = 200_000
"""Entries of a directory that are looked through."""
_MOST = 200
"""Findings that get a path: each may cost the reading of a few directories."""


def add_paths(fs: HammerFS, findings: list[Finding]) -> list[Finding]:
    """The findings, the first ones about objects with their paths where the way up is sound."""
    known: dict[tuple[int, int], bytes | None] = {}
    out = []
    for finding in findings:
        if finding.obj_id is not None and finding.pfs_id is not None:
            ident = (finding.pfs_id, finding.obj_id)
            if ident not in known and len(known) < _MOST:
                known[ident] = path_of(fs, *ident)
            finding = finding._replace(path=known.get(ident))
        out.append(finding)
    return out


def path_of(fs: HammerFS, pfs_id: int, obj_id: int) -> bytes | None:
    """A path of an object inside its PFS, None when none leads there now."""
    names: list[bytes] = []
    try:
        while obj_id != OBJID_ROOT:
            if len(names) > _LEVELS:
                return None
            parent = fs.iget(pfs_id, fs.iget(pfs_id, obj_id, MAX_TID).data.parent_obj_id, MAX_TID)
            entries = islice(fs.readdir(parent), _ENTRIES)
            name = next((entry.name for entry in entries if entry.obj_id == obj_id), None)
            if name is None:
                return None
            names.append(name)
            obj_id = parent.obj_id
    except HammerError:
        return None
    return b"/" + b"/".join(reversed(names))
