"""`hammer restore`: bring back what was deleted, or an older version, on a mount or an image."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from hammerfs.asof import asof_suffix, parse_component
from hammerfs.const import MAX_TID
from hammerfs.errors import HammerError, NotFound, UsageError
from hammerfs.maint.verbs_history import Past
from hammerfs.reports import Row, join, plain_path
from hammerfs.rw import WritableFS
from hammerfs.viewspec import parse_pfs
from tools.cmd_history import Asker, asking, is_past, walk_past
from tools.output import complain, print_json, safe_name
from tools.places import HostPlace, ImagePlace, Place, Thing

SWEEP_SECONDS = 60
"""What was deleted from a directory no longer than that before the next deletion, or its own, went with it."""


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb of this module."""
    restore = verbs.add_parser("restore", help="bring back what was deleted, or an older version")
    restore.add_argument("-r", dest="recursive", action="store_true", help="directories with all below them")
    restore.add_argument("--to", metavar="DIR", help="into that directory, not to where it was")
    restore.add_argument("--force", action="store_true", help="replace what is there; its history keeps it")
    restore.add_argument("--pfs", metavar="N|LABEL", help="with -f: start in this PFS (default 0)")
    restore.add_argument(
        "paths",
        nargs="+",
        metavar="PATH[@@TIME]",
        help="as it was at a TID, label or time; without: before it was deleted, or last changed",
    )
    restore.set_defaults(run=run_restore)


class _Wanted(NamedTuple):
    """What is to be brought back."""

    source: bytes
    """Path that leads into the past."""
    target: bytes
    deleted_ts: int | None = None
    """When it was deleted (Unix seconds), if its last moment is meant: what went with it comes with it."""


def run_restore(args: argparse.Namespace) -> int:
    """Bring each path back; what could not be is told, and the rest goes on (exit code 1)."""
    total = _Counts(verbose=args.verbose > 0 and not args.json)
    for path in args.paths:
        with _opened(args, path) as (asker, place):
            restorer = Restorer(asker, place, total, force=args.force, recursive=args.recursive)
            restorer.run(path, None if args.to is None else os.fsencode(args.to))
    if args.json:
        print_json({"restored": total.restored, "kept": total.kept, "failed": total.failed})
    elif not args.quiet:
        kept = f", {total.kept} there already (--force replaces them)" if total.kept else ""
        print(f"{total.restored} restored{kept}")
    return int(total.failed > 0)


@contextlib.contextmanager
def _opened(args: argparse.Namespace, path: str) -> Iterator[tuple[Asker, Place]]:
    if not args.volumes:
        with asking(args, path) as asker:
            yield asker, HostPlace()
        return
    with WritableFS.open_rw(args.volumes) as fs:
        root = fs.root(parse_pfs(fs, args.pfs) if args.pfs is not None else 0)
        yield Asker(None, Past(fs, root)), ImagePlace(fs, root)


class _Counts:
    """What came of it."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self.restored = 0
        self.kept = 0
        self.failed = 0

    def success(self, path: bytes) -> None:
        """Count something restored, and tell it if that is wanted."""
        self.restored += 1
        if self._verbose:
            print(safe_name(path))

    def failure(self, path: bytes, err: Exception) -> None:
        """Tell what could not be restored."""
        self.failed += 1
        what = str(err) if isinstance(err, HammerError) else getattr(err, "strerror", None) or str(err)
        complain("hammer: restore", f"{safe_name(path)}: {what}")


class Restorer:
    """Brings back what one argument names.

    Args:
        asker: Knows the past.
        place: Where files are.
        counts: Where it is counted.
        force: Replace what is there.
        recursive: Directories, too.
    """

    def __init__(self, asker: Asker, place: Place, counts: _Counts, *, force: bool, recursive: bool) -> None:
        self._asker = asker
        self._place = place
        self._counts = counts
        self._force = force
        self._recursive = recursive
        self._links: dict[int, tuple[bytes, bytes]] = {}
        """Target and source of what has been restored, by the objects they were."""

    def run(self, path: str, to: bytes | None) -> None:
        """Bring back what a path names.

        Args:
            path: As the user wrote it.
            to: Directory to put it into; None: where it was.

        Raises:
            NotFound: There never was such a thing, or not at that time.
            UsageError: It is there, or a directory, and options do not allow for that.
        """
        for wanted in self._wanted(os.fsencode(path), to):
            if to is not None:
                self._make_folder(os.path.dirname(wanted.target), os.path.dirname(wanted.source))
            self._restore(wanted)

    def _make_folder(self, folder: bytes, like: bytes) -> None:
        """See that a directory is there; one that is made gets the attributes of that which things come from."""
        if not folder or self._place.look(folder) is not None:
            return
        self._make_folder(os.path.dirname(folder), os.path.dirname(like))
        thing = self._place.look(like or b".")
        if thing is not None:
            self._place.make(folder, thing, like)
            self._place.finish(folder, thing)

    def _wanted(self, path: bytes, to: bytes | None) -> Iterator[_Wanted]:
        folder, last = os.path.split(path.rstrip(b"/"))
        name, tid, _ = parse_component(last)
        if tid is not None or is_past(os.fsdecode(folder)):
            if name in {b"", b".", b".."} and not self._recursive:
                raise UsageError(f"{safe_name(path)} is a directory: -r restores what it held")
            _check_past(tid, to)
            yield _Wanted(path, self._target(folder, name, to))
            return
        present = self._place.look(path)
        if present is not None and present.is_dir and self._recursive:
            yield from self._all_deleted(path, to)
            return
        try:
            rows = self._asker.ask("versions", os.fsdecode(path))
        except NotFound:
            name, sign, when = last.rpartition(b"@@")
            if not sign or not name:
                raise
            tid = self._asker.tid(os.fsdecode(folder or b"."), os.fsdecode(when))
            _check_past(tid, to)
            yield _Wanted(_at(folder, name, tid), self._target(folder, name, to))
            return
        yield self._last_version(folder, last, rows, to, is_there=present is not None)

    def _last_version(
        self, folder: bytes, name: bytes, rows: list[Row], to: bytes | None, *, is_there: bool
    ) -> _Wanted:
        """The version before the last change, which may be the name's removal."""
        last = rows[-1]
        if is_there and to is None and not self._force:
            raise UsageError(f"{safe_name(join(folder, name))} is there: --force replaces it, --to DIR restores beside")
        if is_there and len(rows) == 1:
            raise NotFound(f"{safe_name(join(folder, name))} has no older version")
        source = _at(folder, name, int(last["tid"], 16) - 1)
        return _Wanted(source, self._target(folder, name, to), last["ts"] if last["size"] is None else None)

    def _all_deleted(self, path: bytes, to: bytes | None) -> Iterator[_Wanted]:
        """Everything deleted from directories that are there, at a path and below it."""
        top = plain_path(path)
        for row in list(walk_past(self._asker, "deleted", os.fsdecode(path), recursive=True, gone=False)):
            if not row["lives_on"]:
                full = os.fsencode(row["path"])
                target = full if to is None else join(to, full[len(self._rooted(top)) :])
                yield _Wanted(os.fsencode(row["restore"]), target, row["deleted_ts"])

    def _rooted(self, top: bytes) -> bytes:
        """A directory as paths of rows begin with it."""
        return join(b"/" + top.strip(b"/") if self._asker.place == "" else os.path.realpath(top), b"")

    def _target(self, folder: bytes, name: bytes, to: bytes | None) -> bytes:
        if to is not None:
            return join(to, name) if name else to
        plain = plain_path(folder) if folder else b""
        return (plain + name) or b"."

    def _restore(self, wanted: _Wanted) -> None:
        """Bring back one thing, and of a directory what it held."""
        try:
            thing = self._place.look(wanted.source)
            if thing is None:
                raise NotFound("was not there at that time")
            there = self._place.look(wanted.target)
            if thing.is_dir:
                self._directory(wanted, thing, there)
            elif there is not None and not self._force:
                self._counts.kept += 1
            else:
                self._object(wanted, thing, there)
        except (HammerError, OSError, OverflowError) as err:
            self._counts.failure(wanted.target, err)

    def _directory(self, wanted: _Wanted, thing: Thing, there: Thing | None) -> None:
        """A directory, or what is missing in the one that is there."""
        if not self._recursive:
            raise UsageError("is a directory: -r restores it with what it held")
        if there is not None and not there.is_dir:
            raise UsageError("something else is there, and is not replaced by a directory")
        if there is None:
            self._place.make(wanted.target, thing, wanted.source)
        self._below(wanted)
        if there is None:
            self._place.finish(wanted.target, thing)
            self._counts.success(wanted.target)

    def _object(self, wanted: _Wanted, thing: Thing, there: Thing | None) -> None:
        """Anything else; one that was one file with something restored before, and held the same, becomes so again."""
        place, target, source = self._place, wanted.target, wanted.source
        if there is not None and there.is_dir:
            raise UsageError("a directory is there, and is not replaced")
        first = self._links.get(thing.ident) if thing.is_file else None
        if first is not None and (first[0] == target or not self._is_same(first[1], source)):
            first = None
        if there is not None and thing.is_file and there.is_file and there.nlink == 1 and first is None:
            place.rewrite(target, thing, source)
        else:
            if there is not None:
                place.remove(target)
            if first is None:
                place.make(target, thing, source)
            else:
                place.link(first[0], target)
        self._links.setdefault(thing.ident, (target, source))
        self._counts.success(target)

    def _is_same(self, one: bytes, other: bytes) -> bool:
        """Whether a file held the same at two times."""
        return self._digest(one) == self._digest(other)

    def _digest(self, path: bytes) -> bytes:
        thing, found = self._place.look(path), hashlib.sha256()
        for offset, piece in self._place.pieces(path):
            found.update(offset.to_bytes(8, "little"))
            found.update(piece)
        return found.digest() + (thing.size if thing is not None else 0).to_bytes(8, "little")

    def _below(self, wanted: _Wanted) -> None:
        """What a directory held; and if it was deleted what was deleted from it just before."""
        for name in self._place.names(wanted.source):
            self._restore(_Wanted(join(wanted.source, name), join(wanted.target, name)))
        if wanted.deleted_ts is None:
            return
        rows = self._asker.ask("deleted", os.fsdecode(wanted.source))["rows"]
        since = wanted.deleted_ts
        for row in sorted(rows, key=_deletion, reverse=True):
            if since - row["deleted_ts"] > SWEEP_SECONDS:
                break
            since = row["deleted_ts"]
            if not row["lives_on"]:
                source = os.fsencode(self._asker.place + row["restore"])
                name = os.path.basename(os.fsencode(row["path"]))
                self._restore(_Wanted(source, join(wanted.target, name), since))


def _check_past(tid: int | None, to: bytes | None) -> None:
    """Nothing is restored from the present to where it is."""
    if tid == MAX_TID and to is None:
        raise UsageError("that is the present: name a time before it, or another directory by --to")


def _deletion(row: Row) -> int:
    return int(row["deleted_ts"])


def _at(folder: bytes, name: bytes, tid: int) -> bytes:
    """Path of a name as of a TID, whatever the name holds."""
    return join(join(folder, asof_suffix(tid)) if folder else asof_suffix(tid), name)
