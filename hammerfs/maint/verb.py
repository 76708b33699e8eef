"""What a verb of hammer(8) is, and what it works on."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from hammerfs.const import MAX_TID
from hammerfs.errors import NotFound, UsageError
from hammerfs.inode import Inode
from hammerfs.rw import WritableFS
from hammerfs.symlink import softlink_pfs, stored_target


class Context(NamedTuple):
    """What a verb works on.

    Attributes:
        fs: The file system.
        pfs_id: PFS whose root paths start at.
    """

    fs: WritableFS
    pfs_id: int = 0

    def find(self, path: str, *, follow: bool = True) -> Inode:
        """The object a path names, from the root of the PFS.

        Raises:
            NotFound: There is none.
            HammerError: Something on the way is damaged.
        """
        with self.fs.cache.section():
            start = self.fs.root(self.pfs_id)
            return self.fs.resolve(os.fsencode(path).lstrip(b"/") or b".", start, follow=follow)

    def pfs_of(self, path: str) -> int:
        """The PFS that holds what a path names; a softlink to a PFS that has no root yet names that one.

        Raises:
            NotFound: Neither.
            HammerError: As `find`.
        """
        try:
            return self.find(path).pfs_id
        except NotFound:
            inode = self.find(path, follow=False)
            with self.fs.cache.section():
                target = stored_target(self.fs.records, inode) if inode.is_symlink else b""
                pfs_id = softlink_pfs(target)
                if pfs_id is None:
                    raise
                self.fs.pfs.get(pfs_id)
            return pfs_id


class Verb(NamedTuple):
    """One verb.

    Attributes:
        run: A kernel coroutine function: context and arguments by name.
        fixes_time: Whether its point in time is to hold every write(2) that has returned.
        needs_owner: Whether only root and the owner of the mount may ask for it.
    """

    run: Callable[..., Awaitable[Any]]
    fixes_time: bool = False
    needs_owner: bool = True


def tid_of(text: str) -> int:
    """A TID as a verb gets it: hex digits, with ``0x`` or without.

    Raises:
        UsageError: It is none.
    """
    try:
        tid = int(text, 16)
    except ValueError:
        tid = -1
    if not 0 <= tid <= MAX_TID:
        raise UsageError(f"'{text}' is no TID")
    return tid
