"""Phase: the links of one PFS: entries beside inodes, link counts, parents of directories, loops."""

from __future__ import annotations

from array import array

from hammerfs.const import OBJID_ROOT, OBJTYPE_DIRECTORY, OBJTYPE_SOFTLINK
from hammerfs.ondisk.records import INODE_SYMLINK_MAX
from tools.fsck.context import Context
from tools.fsck.objects import DAMAGED, HAS_FIX, Entries, Objects

_NONE = -1


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
        self._above = array("q", [_NONE]) * len(objects)
        """Index of the directory that holds a directory."""

    def count(self) -> None:
        """Follow every entry."""
        links, kinds, above = self._objects.links, self._objects.kinds, self._above
        entries, find = self._entries, self._objects.find
        holder, holder_at = 0, _NONE
        for target, directory, key, kind in zip(
            entries.targets, entries.directories, entries.keys, entries.kinds, strict=True
        ):
            at = find(target)
            if at < 0:
                self._add(
                    "dirent-dangling", f"entry {key:016x} leads to object 0x{target & (1 << 64) - 1:016x}", directory
                )
                continue
            links[at] += 1
            if kinds[at] != kind:
                self._add("dirent-type", f"entry {key:016x} says type {kind}, the inode {kinds[at]}", target)
            if kinds[at] == OBJTYPE_DIRECTORY:
                if directory != holder:
                    holder, holder_at = directory, find(directory)
                above[at] = holder_at

    def compare(self, lost_entries: int) -> None:
        """Compare what was counted with what the inodes say."""
        objects = self._objects
        for at, (obj_id, links, nlinks, flags) in enumerate(
            zip(objects.ids, objects.links, objects.nlinks, objects.flags, strict=True)
        ):
            if flags & DAMAGED:
                continue
            if objects.kinds[at] == OBJTYPE_SOFTLINK and objects.sizes[at] > INODE_SYMLINK_MAX and not flags & HAS_FIX:
                code = "symlink-unflushed" if self._dirty else "symlink-target"
                self._add(code, "the target is not recorded", obj_id, at)
            if obj_id == OBJID_ROOT:
                if nlinks != 1 or links:
                    self._add("link-count", f"root directory with {nlinks} links, {links} entries", obj_id, at)
                continue
            is_directory = objects.kinds[at] == OBJTYPE_DIRECTORY
            if links == nlinks and (links == 1 or (links and not is_directory)):
                if is_directory:
                    self._parent(at)
            elif links < nlinks and lost_entries:
                lost_entries -= 1
            elif links:
                self._add("link-count", f"{nlinks} links, {links} entries", obj_id, at)
            elif nlinks:
                self._add("inode-orphan", f"{nlinks} links and no entry", obj_id, at)
            else:
                self._add("inode-unlinked", "removed while it was open", obj_id, at)

    def _parent(self, at: int) -> None:
        """A directory must name the one that holds its entry: `..` leads there."""
        objects, above = self._objects, self._above[at]
        if above != _NONE and objects.parents[at] != objects.ids[above]:
            mask = (1 << 64) - 1
            what = f"parent is 0x{objects.parents[at] & mask:016x}, its entry in 0x{objects.ids[above] & mask:016x}"
            self._add("directory-parent", what, objects.ids[at], at)

    def loops(self) -> None:
        """Directories whose way up never reaches a directory without an entry."""
        above = self._above
        state = bytearray(len(above))  # 0 not seen, 1 on the way at the moment, 2 done
        for start, kind in enumerate(self._objects.kinds):
            if kind != OBJTYPE_DIRECTORY or state[start]:
                continue
            way = []
            at = start
            while at != _NONE and not state[at]:
                state[at] = 1
                way.append(at)
                at = above[at]
            if at != _NONE and state[at] == 1:
                self._add("directory-loop", "this directory is below itself", self._objects.ids[at], at)
            for passed in way:
                state[passed] = 2

    def _add(self, code: str, what: str, obj_id: int, at: int | None = None) -> None:
        place = None if at is None else self._objects.places[at]
        self._report.add(code, what, offset=place, obj_id=obj_id, pfs_id=self._pfs_id)
