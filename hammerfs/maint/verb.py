"""What a verb of hammer(8) is, and what it works on."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from hammerfs.const import MAX_TID
from hammerfs.errors import NotFound, ReadOnlyError, UsageError
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.rw import WritableFS
from hammerfs.symlink import softlink_pfs, stored_target


class Context(NamedTuple):
    """What a verb works on.

    Attributes:
        reader: The file system, for what only reads.
        pfs_id: PFS whose root paths start at.
        asof: The point in time paths are looked up at; None is now.
        changed: Told of each object whose attributes a verb has changed.
    """

    reader: HammerFS
    pfs_id: int = 0
    asof: int | None = None
    changed: Callable[[Inode], None] | None = None

    @property
    def fs(self) -> WritableFS:
        """The file system, for what changes it.

        Raises:
            ReadOnlyError: It was not opened for writing.
        """
        if not isinstance(self.reader, WritableFS):
            raise ReadOnlyError("the file system is mounted read-only")
        return self.reader

    async def settle(self) -> None:
        """Flush, so that the media holds all there is; nothing to do for one that only reads.

        Raises:
            HammerError: It can't be flushed.
        """
        if isinstance(self.reader, WritableFS):
            await self.reader.flusher.settle()

    def root(self) -> Inode:
        """The directory paths start at.

        Raises:
            HammerError: It is not there, or damaged.
        """
        return self.reader.root(self.pfs_id, self.asof)

    def find(self, path: str, *, follow: bool = True) -> Inode:
        """The object a path names, from the root of the PFS.

        Raises:
            NotFound: There is none.
            HammerError: Something on the way is damaged.
        """
        with self.reader.cache.section():
            start = self.root()
            return self.reader.resolve(os.fsencode(path).lstrip(b"/") or b".", start, follow=follow)

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
            with self.reader.cache.section():
                target = stored_target(self.reader.records, inode) if inode.is_symlink else b""
                pfs_id = softlink_pfs(target)
                if pfs_id is None:
                    raise
                self.reader.pfs.get(pfs_id)
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
