"""File systems to write to in tests: fresh ones in memory, a clock that the test turns, trees as plain values.

The media outlive the file systems opened on them: closing one, or pulling its plug with `abandon`, leaves them to be
opened again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from hammerfs.changes import WriteOptions
from hammerfs.const import OBJTYPE_BDEV, OBJTYPE_CDEV, OBJTYPE_DIRECTORY, OBJTYPE_REGFILE, OBJTYPE_SOFTLINK
from hammerfs.device.base import Device
from hammerfs.device.overlay import OverlayDevice, memory_device
from hammerfs.device.slice import SliceDevice
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.rw import WritableFS
from mkfs.layout import Params, plan
from tools.fsck.check import check

VOLUME = 256 << 20
FIFO = 8 << 20
NEWFS_US = 1_400_000_000_000_000


class Node(NamedTuple):
    """An object as a test sees it; what does not apply to its type is empty."""

    obj_type: int
    mode: int
    uid: int
    gid: int
    uflags: int
    nlink: int
    data: bytes = b""
    """Contents of a file, target of a symbolic link."""
    rdev: tuple[int, int] = (0, 0)


Tree = dict[bytes, Node]
"""By path; the root directory is the empty one."""


class Clock:
    """Time that goes on by a millisecond with each look at it."""

    def __init__(self) -> None:
        self.now = NEWFS_US + 1_000_000_000

    def __call__(self) -> int:
        self.now += 1000
        return self.now


@lru_cache
def _image(version: int, sizes: tuple[int, ...], undo: int) -> tuple[OverlayDevice, ...]:
    layout = plan(Params(b"LAB", sizes, uuid.UUID(int=1), NEWFS_US, version=version, undo_size=undo))
    devices = tuple(memory_device(size, f"volume{number}") for number, size in enumerate(sizes))
    for extent in layout.extents():
        devices[extent.vol_no].pwrite(extent.offset, extent.data)
    return devices


def fresh(version: int = 7, *, volumes: int = 1, size: int = VOLUME, undo: int = FIFO) -> list[OverlayDevice]:
    """The media of a new file system."""
    return [OverlayDevice(device, owns_lower=False) for device in _image(version, (size,) * volumes, undo)]


def plugged(media: Sequence[Device]) -> list[Device]:
    """Devices for one life of a file system: closing them leaves the media."""
    return [SliceDevice(device, 0, device.size, device.name, on_close=lambda: None) for device in media]


def mount(media: Sequence[Device], options: WriteOptions | None = None) -> WritableFS:
    """Open the media for writing."""
    return WritableFS(plugged(media), options or WriteOptions(clock=Clock()))


def abandon(fs: WritableFS) -> None:
    """Pull the plug: what no flush has written is lost."""
    fs.changes.failed = fs.changes.failed or HammerError("plug pulled")
    fs.close()


def assert_sound(media: Sequence[Device], *, idle: bool = True) -> None:
    """Fsck finds no error on the media, the checksums of file data included."""
    findings = [finding for finding in check(list(media), data=True, idle=idle) if finding.is_error]
    assert not findings, findings[:5]


def node_of(fs: HammerFS, inode: Inode) -> Node:
    """One object."""
    attr = inode.attr()
    data = b""
    if attr.obj_type == OBJTYPE_REGFILE:
        data = fs.read(inode, 0, attr.size)
        assert len(data) == attr.size
    elif attr.obj_type == OBJTYPE_SOFTLINK:
        data = fs.readlink(inode)
    rdev = (attr.rmajor, attr.rminor) if attr.obj_type in {OBJTYPE_CDEV, OBJTYPE_BDEV} else (0, 0)
    return Node(attr.obj_type, attr.mode & 0o7777, attr.uid, attr.gid, attr.uflags, attr.nlink, data, rdev)


def tree(fs: HammerFS, asof: int | None = None, skip: Callable[[int], bool] | None = None) -> Tree:
    """All that is below the root, as of a TID; `skip` tells of object ids that are to be left out."""
    root = fs.root(asof=asof)
    found: Tree = {b"": node_of(fs, root)}
    todo = [(b"", root)]
    while todo:
        path, directory = todo.pop()
        if skip is not None and skip(directory.obj_id):
            continue
        for entry in fs.readdir(directory):
            if skip is not None and skip(entry.obj_id):
                continue
            inode = fs.iget(entry.pfs_id, entry.obj_id, directory.asof)
            below = path + b"/" + entry.name
            assert below not in found
            assert inode.data.obj_type == entry.obj_type
            found[below] = node_of(fs, inode)
            if inode.data.obj_type == OBJTYPE_DIRECTORY:
                assert inode.data.parent_obj_id == directory.obj_id
                todo.append((below, inode))
    return found


def different(got: Tree, want: Tree) -> list[str]:
    """What differs between two trees, in a few words; empty when nothing does."""
    texts = []
    for path in sorted(got.keys() | want.keys()):
        one, other = got.get(path), want.get(path)
        if one != other:
            texts.append(f"{path!r}: {_brief(one)} instead of {_brief(other)}")
    return texts


def _brief(node: Node | None) -> str:
    if node is None:
        return "nothing"
    return f"{node._replace(data=node.data[:8])} of {len(node.data)} bytes"


def assert_same(got: Tree, want: Tree) -> None:
    """Two trees are equal."""
    assert different(got, want) == []
