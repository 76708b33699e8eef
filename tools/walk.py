"""Walking a tree of an image: every object once by its path, damaged ones reported and passed by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode


class Found(NamedTuple):
    """An object on the way."""

    path: bytes
    """Relative to the top, which itself is empty."""
    inode: Inode

    @property
    def name(self) -> bytes:
        """Last component."""
        return self.path.rpartition(b"/")[2]


Complain = Callable[[bytes, HammerError], object]
"""Told the path of what can't be read, and why."""


def walk(fs: HammerFS, top: Inode, complain: Complain) -> Iterator[Found]:
    """All objects from `top` down, a directory before what it holds, names in order.

    A directory that a damaged image holds in two places is entered once.

    Args:
        fs: The file system.
        top: Where to begin.
        complain: Told about what is passed by.
    """
    entered: set[tuple[int, int]] = set()
    stack = [Found(b"", top)]
    while stack:
        found = stack.pop()
        yield found
        inode = found.inode
        if not inode.is_dir or (inode.pfs_id, inode.obj_id) in entered:
            continue
        entered.add((inode.pfs_id, inode.obj_id))
        stack.extend(reversed(list(_below(fs, found, complain))))


def _below(fs: HammerFS, found: Found, complain: Complain) -> Iterator[Found]:
    prefix = found.path + b"/" if found.path else b""
    try:
        entries = sorted(fs.readdir(found.inode))
    except HammerError as err:
        complain(found.path, err)
        return
    for entry in entries:
        try:
            yield Found(prefix + entry.name, fs.iget(entry.pfs_id, entry.obj_id, found.inode.asof))
        except HammerError as err:
            complain(prefix + entry.name, err)
