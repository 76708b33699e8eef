"""Questions about the past: history, versions, deleted, held, diff, log, asof; each is also a verb on a mount."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hammerfs import treediff
from hammerfs.addr import tid_text
from hammerfs.asof import asof_suffix, parse_component
from hammerfs.const import MAX_TID
from hammerfs.errors import BufferMiss, NotFound, UsageError
from hammerfs.flushpoints import FlushPoints
from hammerfs.fs import HammerFS
from hammerfs.history import data_history
from hammerfs.inode import Inode
from hammerfs.maint.verb import Context, Verb
from hammerfs.reports import Row, deleted_rows, diff_rows, held_rows, join, log_rows, version_rows
from hammerfs.treediff import Paths
from hammerfs.viewspec import parse_asof
from kernelcore.sched import lwkt_user_yield

T = TypeVar("T")
SLICE_SECONDS = 0.1
"""How long others wait for a question, about."""


class Past:
    """What a question is about.

    Args:
        fs: The file system.
        root: Where paths start.
        patient: Whether a long search may be broken off (BufferMiss), to be taken up again.
    """

    def __init__(self, fs: HammerFS, root: Inode, *, patient: bool = False) -> None:
        self.fs = fs
        self.root = root
        self._patient = patient
        self._points: dict[int, FlushPoints] = {}
        self._steps: Iterator[Any] | None = None
        self._found: list[Any] = []
        self._newest = 0

    def find(self, path: str, *, follow: bool = False) -> Inode:
        """The object a path leads to.

        Args:
            path: From the root.
            follow: Also along a symbolic link that is its last component.

        Raises:
            NotFound: There is none.
            HammerError: Something on the way is damaged.
        """
        return self.fs.resolve(os.fsencode(path).lstrip(b"/") or b".", self.root, follow=follow)

    def name_of(self, path: str) -> tuple[Inode, bytes]:
        """Directory and name of a path that need not lead anywhere; a point in time it ends in is the directory's.

        Raises:
            NotFound: There is no such directory.
            UsageError: It has no last name.
            HammerError: Something on the way is damaged.
        """
        folder, _, last = os.fsencode(path).lstrip(b"/").rstrip(b"/").rpartition(b"/")
        name, tid, _ = parse_component(last)
        if name in {b"", b".", b".."}:
            raise UsageError(f"'{path}' does not end in a name")
        directory = self.fs.resolve(folder or b".", self.root)
        if tid is not None:
            directory = self.fs.iget(directory.pfs_id, directory.obj_id, tid)
        return directory, name

    def place(self, path: str) -> tuple[int, bytes]:
        """PFS and path from its root of something that is there, or was; of a link to a directory, that directory's.

        Raises:
            NotFound: Its directory is not there.
            HammerError: Something on the way is damaged.
        """
        try:
            inode = self.find(path, follow=True)
            found = Paths(self.fs, inode.pfs_id).of_object(inode.obj_id, inode.asof)
            if inode.is_dir and found is not None:
                return inode.pfs_id, found
        except NotFound:
            pass
        directory, name = self.name_of(path)
        folder = Paths(self.fs, directory.pfs_id).of_object(directory.obj_id, directory.asof)
        if folder is None:
            raise NotFound("its directory has no path", **directory.place)
        return directory.pfs_id, join(folder, name)

    def tid(self, pfs_id: int, text: str) -> int:
        """A point in time; see `parse_asof`."""
        points = self._points.setdefault(pfs_id, FlushPoints(self.fs.records, pfs_id))
        return parse_asof(self.fs, pfs_id, text, points, patient=self._patient)

    def collect(self, make: Callable[[], Iterator[T]]) -> list[T]:
        """All that an iterator yields. A patient one is broken off after a while, and taken up where it was.

        What was found is kept meanwhile. If something was flushed in between it is all done again, in one go.

        Args:
            make: Makes the iterator.

        Raises:
            BufferMiss: Broken off.
            HammerError: What the iterator raises.
        """
        steps, patient = self._steps, self._patient
        if steps is None or self._newest != self.fs.newest_tid:
            patient &= steps is None
            self._newest, self._found = self.fs.newest_tid, []
            steps = make()
        deadline, found = time.monotonic() + SLICE_SECONDS, self._found
        self._steps = None  # whatever ends this but a break, the next question begins anew
        for row in steps:
            found.append(row)
            if patient and time.monotonic() > deadline:
                self._steps = steps
                raise BufferMiss([])
        return found


def history(past: Past, path: str, offset: int | None = None, length: int | None = None) -> Row:
    """TIDs at which an object, or a range of a file, changed."""
    inode = past.find(path, follow=True)
    if offset is None:
        moments = past.fs.history(inode)
    elif inode.is_file:
        moments = data_history(past.fs.records, inode.pfs_id, inode.obj_id, offset, length)
    else:
        raise UsageError(f"'{path}' is no file: a range makes no sense")
    return {"ino": tid_text(inode.obj_id), "history": [{"tid": tid_text(m.tid), "ts": m.ts} for m in moments]}


def versions(past: Past, path: str, fold: bool = True) -> list[Row]:
    """All versions of a name."""
    directory, name = past.name_of(path)
    return version_rows(past.fs, directory, name, fold=fold)


def deleted(past: Past, path: str) -> dict[str, Any]:
    """Names removed from one directory, and the directories in it."""
    rows, below = deleted_rows(past.fs, past.find(path, follow=True), _rooted(path))
    return {"rows": rows, "below": below}


def held(past: Past, path: str, first: str, last: str) -> dict[str, Any]:
    """Names that one directory held at any time between two points in time, and the directories among them."""
    directory = past.find(path, follow=True)
    tids = (past.tid(directory.pfs_id, text) for text in (first, last))
    rows, below = held_rows(past.fs, directory, _rooted(path), *tids)
    return {"rows": rows, "below": below}


def _rooted(path: str) -> bytes:
    """A path from the root, with a slash before it."""
    return b"/" + os.fsencode(path).lstrip(b"/").removeprefix(b"./").rstrip(b"/") if path != "." else b"/"


def diff(past: Past, path: str, older: str, newer: str) -> list[Row]:
    """What differs between two points in time, at a path and below it."""
    pfs_id, below = past.place(path)
    first, last = past.tid(pfs_id, older), past.tid(pfs_id, newer)
    if first >= last:
        raise UsageError(f"'{older}' is not before '{newer}'")
    changes = past.collect(lambda: treediff.diff(past.fs, pfs_id, first, last))
    return [_led(past, pfs_id, row) for row in diff_rows(changes, below)]


def log(past: Past, path: str, most: int) -> list[Row]:
    """What changed at a path and below it, the newest first."""
    if most < 1:
        raise UsageError("at least one row")
    pfs_id, below = past.place(path)
    rows = past.collect(lambda: log_rows(past.fs, pfs_id, below, most))
    return [_led(past, pfs_id, row) for row in rows if row is not None]


def _led(past: Past, pfs_id: int, row: Row) -> Row:
    """A row whose paths lead there from the root, also when that is another PFS's."""
    if pfs_id == past.root.pfs_id:
        return row
    lead = "/" + os.fsdecode(asof_suffix(MAX_TID, pfs_id))
    return {**row, **{name: lead + row[name] for name in ("path", "from") if name in row}}


def asof(past: Past, path: str, text: str) -> dict[str, str]:
    """The TID of a point in time, in the PFS that holds a path."""
    tid = past.tid(past.find(path).pfs_id, text)
    return {"tid": "-1" if tid == MAX_TID else tid_text(tid)}


QUESTIONS: dict[str, Callable[..., Any]] = {
    "history": history,
    "versions": versions,
    "deleted": deleted,
    "held": held,
    "diff": diff,
    "log": log,
    "asof": asof,
}


def _verb(question: Callable[..., Any]) -> Verb:
    """A question as a verb: asked of what has been flushed, and broken off to let others have their turn."""

    @functools.wraps(question)
    async def run(ctx: Context, **args: Any) -> Any:
        await ctx.settle()
        past = Past(ctx.reader, ctx.root(), patient=True)
        while True:
            try:
                with ctx.reader.cache.section():
                    return question(past, **args)
            except BufferMiss:
                await lwkt_user_yield()

    return Verb(run, fixes_time=True)


VERBS = {name: _verb(question) for name, question in QUESTIONS.items()}
