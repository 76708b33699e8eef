"""The virtual directories: ``.hammer`` with snapshots, moments by time and by TID; ``FILE@@`` with versions.

They open no door twice: each name leads into a tree of its own (see `number`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hammerfs.addr import tid_text
from hammerfs.const import MAX_TID
from hammerfs.errors import NotFound
from hammerfs.flushpoints import DAY
from hammerfs.vfs.names import (
    day_name,
    day_of,
    moment_names,
    moment_of,
    tid_of,
    version_name,
    version_tid,
)
from hammerfs.vfs.node import Node, ObjectNode, VirtualDir, VirtualLink
from hammerfs.vfs.number import way_number

if TYPE_CHECKING:
    from hammerfs.vfs.vfs import Vfs


class SnapDir(VirtualDir):
    """``.hammer`` of a PFS.

    Args:
        vfs: The mount.
        root: Root directory of the PFS.
        name: Its name.
    """

    __slots__ = ("_vfs",)

    def __init__(self, vfs: Vfs, root: ObjectNode, name: bytes) -> None:
        super().__init__(way_number(root.number, name), root)
        self._vfs = vfs

    def lookup(self, name: bytes) -> Node:
        """As for every virtual directory."""
        kinds: dict[bytes, Callable[[Vfs, ObjectNode, int], Node]]
        kinds = {b"snapshots": SnapshotsDir, b"by-time": ByTimeDir, b"tid": TidDir}
        if (kind := kinds.get(name)) is not None:
            return kind(self._vfs, self.owner, way_number(self.number, name))
        if name == b"latest" and (target := self._latest()) is not None:
            return VirtualLink(way_number(self.number, name), self.owner, b"snapshots/" + target)
        raise NotFound(f"no {_text(name)} among the virtual directories")

    def names(self) -> Iterable[bytes]:
        """As for every virtual directory."""
        yield b"by-time"
        if self._latest() is not None:
            yield b"latest"
        yield b"snapshots"
        yield b"tid"

    def _latest(self) -> bytes | None:
        return next(reversed(self._vfs.snapshots(self.owner)), None)


class _Moments(VirtualDir):
    """A directory whose names lead to the PFS's root at a point in time."""

    __slots__ = ("_vfs",)

    def __init__(self, vfs: Vfs, root: ObjectNode, number: int) -> None:
        super().__init__(number, root)
        self._vfs = vfs

    def _at(self, name: bytes, tid: int) -> Node:
        root = self.owner
        asof = tid if root.asof == MAX_TID else min(tid, root.asof)
        return self._vfs.enter(self.number, name, root.pfs_id, root.obj_id, asof)


class SnapshotsDir(_Moments):
    """``snapshots``: one directory for each snapshot."""

    __slots__ = ()

    def lookup(self, name: bytes) -> Node:
        """As for every virtual directory."""
        snap = self._vfs.snapshot(self.owner, name)
        if snap is None:
            raise NotFound(f"no snapshot {_text(name)} in PFS {self.owner.pfs_id}")
        return self._at(name, snap.tid)

    def names(self) -> Iterable[bytes]:
        """As for every virtual directory."""
        return self._vfs.snapshots(self.owner)


class TidDir(_Moments):
    """``tid``: any TID leads to its moment; listed are those of the snapshots."""

    __slots__ = ()

    def lookup(self, name: bytes) -> Node:
        """As for every virtual directory."""
        tid = tid_of(name)
        if tid is None:
            raise NotFound(f"{_text(name)} is no TID: 0x and 16 hex digits")
        return self._at(name, tid)

    def names(self) -> Iterable[bytes]:
        """As for every virtual directory."""
        snapshots = self._vfs.snapshots(self.owner).values()
        return dict.fromkeys(tid_text(snap.tid).encode() for snap in snapshots)


class ByTimeDir(_Moments):
    """``by-time``: a directory for each day (UTC) on which something changed."""

    __slots__ = ()

    def lookup(self, name: bytes) -> Node:
        """As for every virtual directory; days between those listed are there as well."""
        day = day_of(name)
        if day is not None:
            days = self._vfs.flush_points(self.owner).days()
            if days and day >= days[0]:
                return DayDir(self._vfs, self.owner, way_number(self.number, name), day)
        raise NotFound(f"{_text(name)} is no day (YYYY-MM-DD) on or after the first one recorded")

    def names(self) -> Iterable[bytes]:
        """As for every virtual directory."""
        return map(day_name, self._vfs.flush_points(self.owner).days())


class DayDir(_Moments):
    """One day: a directory for each moment; a time between leads to the one before it.

    Args:
        vfs: The mount.
        root: Root directory of the PFS.
        number: Inode number.
        day: Day since 1970.
    """

    __slots__ = ("_day",)

    def __init__(self, vfs: Vfs, root: ObjectNode, number: int, day: int) -> None:
        super().__init__(vfs, root, number)
        self._day = day

    def lookup(self, name: bytes) -> Node:
        """As for every virtual directory."""
        found = moment_of(name)
        if found is None:
            raise NotFound(f"{_text(name)} is no time of day (HH:MM:SS)")
        second, tid = found
        points = self._vfs.flush_points(self.owner)
        ts = self._day * DAY + second
        if tid is None:
            return self._at(name, points.at(ts).tid)
        if all(moment.tid != tid for moment in points.between(ts, ts + 1)):
            raise NotFound(f"nothing was recorded as {_text(name)}")
        return self._at(name, tid)

    def names(self) -> Iterable[bytes]:
        """As for every virtual directory."""
        return moment_names(self._vfs.flush_points(self.owner).of_day(self._day))


class VersionsDir(VirtualDir):
    """``NAME@@``: every version of what bears or bore a name in a directory.

    Args:
        vfs: The mount.
        directory: The directory.
        name: The name, without ``@@``.
    """

    __slots__ = ("_name", "_vfs")

    def __init__(self, vfs: Vfs, directory: ObjectNode, name: bytes) -> None:
        super().__init__(way_number(directory.number, name + b"@@"), directory)
        self._vfs = vfs
        self._name = name

    def lookup(self, name: bytes) -> Node:
        """As for every virtual directory."""
        tid = version_tid(name)
        for version in self._vfs.versions(self.owner, self._name):
            if version.tid == tid and name in {version_name(version), tid_text(tid).encode()}:
                return self._vfs.enter(self.number, name, version.pfs_id, version.obj_id, version.tid)
        raise NotFound(f"no version {_text(name)} of {_text(self._name)}")

    def names(self) -> Iterable[bytes]:
        """As for every virtual directory."""
        return map(version_name, self._vfs.versions(self.owner, self._name))


def _text(name: bytes) -> str:
    return repr(name.decode("utf-8", "backslashreplace"))
