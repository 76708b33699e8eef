"""Phase: the links of one PFS: entries beside inodes, link counts, parents of directories, loops."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from hammerfs.const import OBJID_ROOT, OBJTYPE_DIRECTORY, OBJTYPE_SOFTLINK
from hammerfs.ondisk.records import INODE_SYMLINK_MAX
from tools.fsck.context import Context
from tools.fsck.objects import Entries, Objects

_NONE = -1
_MASK = (1 << 64) - 1
_MANY = 100_000
"""Objects from which on a dictionary of them would take too much memory."""


def run(ctx: Context, pfs_id: int, objects: Objects, entries: Entries, lost_entries: int) -> None:
    """Compare.

    Args:
        ctx: The check.
        pfs_id: The PFS.
        objects: Its live inodes.
        entries: Its live directory entries.
        lost_entries: Entries whose payload can't be trusted: so many links may be missing.
    """
    ctx.progress("links", 0, len(entries))
    links = _Links(ctx, pfs_id, objects, entries)
    links.count()
    links.compare(lost_entries)
    links.loops()


class _Links:
    def __init__(self, ctx: Context, pfs_id: int, objects: Objects, entries: Entries) -> None:
        self._report = ctx.report
        self._dirty = ctx.dirty
        self._pfs_id = pfs_id
        self._objects = objects
        self._entries = entries
        self._links = array("Q", [0]) * len(objects)
        """Entries found that lead to an object."""
        self._kinds = objects.kinds()
        self._above = array("q", [_NONE]) * len(objects)
        """Index of the directory that holds a directory."""

    def count(self) -> None:
        """Follow every entry."""
        links, kinds, above = self._links, self._kinds, self._above
        find = self._finder()
        holder, holder_at = 0, _NONE
        for target, directory, key, kind in self._entries:
            at = find(target, _NONE)
            if at < 0:
                what = f"entry {key:016x} leads to object 0x{target & _MASK:016x}"
                self._add("dirent-dangling", what, directory)
                continue
            links[at] += 1
            if kinds[at] != kind:
                self._add("dirent-type", f"entry {key:016x} says type {kind}, the inode {kinds[at]}", target)
            if kinds[at] == OBJTYPE_DIRECTORY:
                if directory != holder:
                    holder, holder_at = directory, find(directory, _NONE)
                above[at] = holder_at

    def _finder(self) -> Callable[[int, int], int]:
        """Finds the index of an object. A dictionary is faster, and takes too much memory for very many objects."""
        ids = self._objects.ids
        if len(ids) > _MANY:
            return lambda obj_id, _absent: self._objects.find(obj_id)
        return dict(zip(ids, range(len(ids)), strict=True)).get

    def compare(self, lost_entries: int) -> None:
        """Compare what was counted with what the inodes say."""
        objects = self._objects
        for at, (obj_id, links, row) in enumerate(zip(objects.ids, self._links, objects.rows(), strict=True)):
            nlinks, size, parent, place, kind, _, is_damaged = row
            if is_damaged:
                continue
            if kind == OBJTYPE_SOFTLINK and size > INODE_SYMLINK_MAX and obj_id not in objects.has_fix:
                code = "symlink-unflushed" if self._dirty else "symlink-target"
                self._add(code, "the target is not recorded", obj_id, place)
            if obj_id == OBJID_ROOT:
                if nlinks != 1 or links:
                    self._add("link-count", f"root directory with {nlinks} links, {links} entries", obj_id, place)
            elif links == nlinks and (links == 1 or (links and kind != OBJTYPE_DIRECTORY)):
                if kind == OBJTYPE_DIRECTORY:
                    self._parent(at, parent, obj_id, place)
            elif links < nlinks and lost_entries:
                lost_entries -= 1
            elif links:
                self._add("link-count", f"{nlinks} links, {links} entries", obj_id, place)
            elif nlinks:
                self._add("inode-orphan", f"{nlinks} links and no entry", obj_id, place)
            else:
                self._add("inode-unlinked", "removed while it was open", obj_id, place)

    def _parent(self, at: int, parent: int, obj_id: int, place: int) -> None:
        """A directory must name the one that holds its entry: `..` leads there."""
        above = self._above[at]
        if above != _NONE and parent != self._objects.ids[above]:
            entry = self._objects.ids[above] & _MASK
            what = f"parent is 0x{parent & _MASK:016x}, its entry in 0x{entry:016x}"
            self._add("directory-parent", what, obj_id, place)

    def loops(self) -> None:
        """Directories whose way up never reaches a directory without an entry."""
        above = self._above
        state = bytearray(len(above))  # 0 not seen, 1 on the way at the moment, 2 done
        for start, kind in enumerate(self._kinds):
            if kind != OBJTYPE_DIRECTORY or state[start]:
                continue
            way = []
            at = start
            while at != _NONE and not state[at]:
                state[at] = 1
                way.append(at)
                at = above[at]
            if at != _NONE and state[at] == 1:
                self._add("directory-loop", "this directory is below itself", self._objects.ids[at])
            for passed in way:
                state[passed] = 2

    def _add(self, code: str, what: str, obj_id: int, place: int | None = None) -> None:
        self._report.add(code, what, offset=place, obj_id=obj_id, pfs_id=self._pfs_id)
