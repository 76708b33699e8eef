"""Paths of the objects that findings are about, found from the object upwards."""

from __future__ import annotations

from hammerfs.const import OBJID_ROOT
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from tools.fsck.findings import Finding

_LEVELS = 64
_BUDGET = 300_000
"""Directory entries that are read in all: each finding may cost the reading of a few directories."""


def add_paths(fs: HammerFS, findings: list[Finding]) -> list[Finding]:
    """The findings, the first ones about objects with their paths where the way up is sound."""
    finder = _Finder(fs)
    known: dict[tuple[int, int], bytes | None] = {}
    out = []
    for finding in findings:
        if finding.obj_id is not None and finding.pfs_id is not None:
            ident = (finding.pfs_id, finding.obj_id)
            if ident not in known:
                known[ident] = finder.path(*ident)
            finding = finding._replace(path=known[ident])
        out.append(finding)
    return out


class _Finder:
    """Finds paths until it has read as much as it may."""

    def __init__(self, fs: HammerFS) -> None:
        self._fs = fs
        self._budget = _BUDGET

    def path(self, pfs_id: int, obj_id: int) -> bytes | None:
        """A path of an object inside its PFS, None when none leads there now."""
        names: list[bytes] = []
        try:
            while obj_id != OBJID_ROOT and len(names) < _LEVELS and self._budget > 0:
                inode = self._fs.iget(pfs_id, obj_id)
                parent = self._fs.iget(pfs_id, inode.data.parent_obj_id)
                name = self._name(parent, obj_id)
                if name is None:
                    return None
                names.append(name)
                obj_id = parent.obj_id
        except HammerError:
            return None
        return b"/" + b"/".join(reversed(names)) if obj_id == OBJID_ROOT else None

    def _name(self, parent: Inode, obj_id: int) -> bytes | None:
        for entry in self._fs.readdir(parent):
            self._budget -= 1
            if entry.obj_id == obj_id:
                return entry.name
            if self._budget <= 0:
                break
        return None
