"""`undo`: older versions of files, and what changed between them, as DragonFly's command of this name.

Exit codes: 0, 1 when a file has no history or something failed, 2 for a wrong call, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from hammerfs.asof import asof_suffix
from hammerfs.const import MAX_TID
from hammerfs.errors import HammerError, NotFound, UsageError
from hammerfs.reports import join
from hammerfs.vfs.names import SNAPSHOT_TIME
from hammerfs.viewspec import parse_tid
from tools.cmd_history import Asker, asking, nearest
from tools.contentdiff import content_diff, write_diff
from tools.output import json_name, output_failed, prepare_output, print_json, safe_line, safe_name, time_text
from tools.parser import LineParser
from tools.places import HostPlace, Source

INTERRUPTED = 130
_TIME = "%d-%b-%Y %H:%M:%S"


class Moment(NamedTuple):
    """A change of what a path stood for."""

    tid: int
    ts: int
    """Unix seconds."""
    ino: str | None
    """Object id; None where a mount gives each version another number."""
    deleted: bool

    @property
    def when(self) -> str:
        """Its time as it is printed."""
        return "at some time since" if self.tid == MAX_TID else time_text(self.ts, _TIME)

    @property
    def when_and_tid(self) -> str:
        """Its TID and time as they are listed."""
        return self.when if self.tid == MAX_TID else f"0x{self.tid:016x} {self.when}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of `undo`."""
    parser = LineParser(
        prog="undo",
        description="Show older versions of files of a HAMMER file system, and what changed between them.",
        epilog="Exit codes: 0; 1 when a file has no history or something failed; 2 for a wrong call.",
    )
    parser.add_argument("-a", dest="every", action="store_true", help="all versions, the oldest first")
    parser.add_argument("-d", dest="diff", action="store_true", help="what changed, as a unified diff")
    parser.add_argument("-D", dest="reverse", action="store_true", help="the same the other way round")
    parser.add_argument("-i", dest="list", action="store_true", help="list the versions")
    parser.add_argument("-u", dest="files", action="store_true", help="write each version to PATH.undo.NNNN")
    parser.add_argument("-v", dest="verbose", action="store_true", help="tell which versions are looked at")
    parser.add_argument("-o", dest="output", metavar="file", help="write there; with %%s for the path if several")
    parser.add_argument(
        "-t", dest="times", action="append", default=[], metavar="time", help="which version; twice: what changed"
    )
    parser.add_argument("-f", dest="volumes", action="append", default=[], metavar="volume", help="files of an image")
    parser.add_argument("--pfs", metavar="pfs", help="with -f: start in this PFS, by number or label")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("paths", nargs="+", metavar="path")
    parser.set_defaults(asof=None)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `undo`; return its exit code."""
    prepare_output()
    args = build_parser().parse_args(argv)
    failed = False
    rows: list[dict[str, object]] = []
    try:
        _check(args)
        for path in args.paths:
            try:
                with _asking(args, path) as asker, _output(args, path) as out:
                    rows += _Undo(args, asker, path, out).run()
            except NotFound:
                failed = True
                print(f"{safe_name(os.fsencode(path))}: No UNDO history found", file=sys.stderr)
        if args.json:
            print_json(rows)
        sys.stdout.flush()
    except HammerError as err:
        print(f"undo: {safe_line(str(err))}", file=sys.stderr)
        return err.exit_code
    except OSError as err:
        return int(output_failed("undo", err))
    except KeyboardInterrupt:
        return INTERRUPTED
    return int(failed)


@contextlib.contextmanager
def _asking(args: argparse.Namespace, path: str) -> Iterator[Asker | None]:
    """As `asking`; None on a mount that nobody can be asked about, such as a read-only one: its names tell enough."""
    with contextlib.ExitStack() as stack:
        try:
            asker = stack.enter_context(asking(args, path))
        except UsageError:
            if args.volumes or not _has_versions(path):
                raise
            asker = None
        yield asker


def _has_versions(path: str) -> bool:
    """Whether a path is on a HAMMER mount: each directory there is found as of the present."""
    return os.path.isdir(os.path.join(nearest(path), "@@-1"))


def _check(args: argparse.Namespace) -> None:
    if len(args.times) > 2:
        raise UsageError("-t is given twice at most")
    if len(args.times) == 2 and not args.reverse:
        args.diff = True
    if args.output is not None and len(args.paths) > 1 and args.output.count("%s") != 1:
        raise UsageError("-o needs one %s when several files are given")
    if args.files and (args.output is not None or args.diff or args.reverse):
        raise UsageError("-u goes neither with -o nor with -d or -D")


@contextlib.contextmanager
def _output(args: argparse.Namespace, path: str) -> Iterator[BinaryIO]:
    if args.output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    with open(args.output.replace("%s", path), "wb") as out:
        yield out


class _Undo:
    """Works on one path.

    Args:
        args: The options.
        asker: Knows the past; None: what the mount shows of it has to do.
        path: The path, as it was written.
        out: Where contents and differences go.
    """

    def __init__(self, args: argparse.Namespace, asker: Asker | None, path: str, out: BinaryIO) -> None:
        self._args = args
        self._asker = asker
        self._path = path
        self._shown = safe_name(os.fsencode(path))
        self._out = out
        self._source: Source = HostPlace() if asker is None else asker.source()
        self._moments = _listed(path) if asker is None else _moments(asker, path)
        self._rows: list[dict[str, object]] = []

    def run(self) -> list[dict[str, object]]:
        """Do what the options say; rows for ``--json``.

        Raises:
            NotFound: The path has no history.
            HammerError: Something can't be read.
            OSError: The same, on a mount; or the output takes no more.
        """
        args = self._args
        if args.list:
            self._list()
        elif args.diff or args.reverse:
            for older, newer in self._pairs():
                self._diff(older, newer)
        else:
            for index, moment in self._chosen():
                self._dump(index, moment)
        return self._rows

    def _list(self) -> None:
        before = None
        if not self._args.json:
            self._print(f"{self._shown}: ITERATE ENTIRE HISTORY\n")
        for moment in self._moments:
            changed = before is not None and not moment.deleted and before != moment.ino
            before = moment.ino
            if self._args.json:
                flags = {"inode_change": changed, "deleted": moment.deleted}
                self._rows.append({**self._row(moment), "ino": moment.ino, **flags})
            else:
                notes = (" inode-change" if changed else "") + (" file-deleted" if moment.deleted else "")
                self._print(f"\t{moment.when_and_tid}{notes}\n")

    def _chosen(self) -> list[tuple[int, Moment]]:
        """The versions to dump, by their numbers in the whole list."""
        if self._args.times:
            return [(0, self._at(self._args.times[0]))]
        if self._args.every:
            return [(i, moment) for i, moment in enumerate(self._moments) if not moment.deleted]
        older = [moment for moment in self._moments[:-1] if not moment.deleted]
        if not older:
            raise NotFound("there is no older version")
        return [(0, older[-1])]

    def _pairs(self) -> list[tuple[Moment, Moment]]:
        """The versions to compare."""
        moments, times = self._moments, self._args.times
        if len(times) == 2:
            return [(self._at(times[0]), self._at(times[1]))]
        if times:
            return [(self._at(times[0]), moments[-1])]
        if len(moments) < 2:
            raise NotFound("there is no older version")
        pairs = list(pairwise(moments))
        return pairs if self._args.every else pairs[-1:]

    def _at(self, text: str) -> Moment:
        """The version of a ``-t``: the n-th newest one, or the one at a point in time."""
        if text.isdecimal():
            if int(text) >= len(self._moments):
                raise UsageError(f"{self._shown} has {len(self._moments)} versions, no number {text}")
            return self._moments[-1 - int(text)]
        tid = parse_tid(text)
        if tid is None:
            folder = os.path.dirname(self._path) or ("/" if self._args.volumes else ".")
            if self._asker is None:
                raise UsageError(f"{self._shown}: on a read-only mount -t is 0x... or a number, not '{text}'")
            tid = self._asker.tid(folder, text)
        before = [moment for moment in self._moments if moment.tid <= tid]
        if not before:
            first = self._moments[0]
            raise UsageError(f"{self._shown}: {text} is before its first version, 0x{first.tid:016x} {first.when}")
        return before[-1]

    def _dump(self, index: int, moment: Moment) -> None:
        path = self._past(moment)
        self._tell(moment)
        thing = None if moment.deleted else self._source.look(path)
        if thing is None:
            raise UsageError(f"{self._shown} was not there at 0x{moment.tid:016x}")
        if not thing.is_file:
            raise UsageError(f"{self._shown} is no regular file: -i and -d show its history")
        if self._args.json:
            contents = base64.b64encode(b"".join(_whole(self._source, path, thing.size))).decode()
            self._rows.append({**self._row(moment), "contents_base64": contents})
            return
        if self._args.files:
            name = f"{os.path.basename(self._path) if self._args.volumes else self._path}.undo.{index:04d}"
            with open(name, "wb") as out:
                out.writelines(_whole(self._source, path, thing.size))
            return
        if self._args.every:
            self._print(f"\n>>> {self._shown} {index:04d} 0x{moment.tid:016x} {moment.when}\n\n")
        self._out.writelines(_whole(self._source, path, thing.size))
        self._out.flush()

    def _diff(self, older: Moment, newer: Moment) -> None:
        """Compare two versions by diff(1), which sees copies of them."""
        if self._args.reverse:
            older, newer = newer, older
        self._tell(older)
        self._tell(newer)
        names = [f"{self._shown}@@0x{moment.tid:016x}" for moment in (older, newer)]
        sides = [None if moment.deleted else self._past(moment) for moment in (older, newer)]
        text = content_diff(self._source, sides[0], sides[1], names)
        if self._args.json:
            tids = {"from": f"0x{older.tid:016x}", "to": f"0x{newer.tid:016x}"}
            self._rows.append({"path": json_name(os.fsencode(self._path)), **tids, "diff": json_name(text)})
            return
        self._print(f"diff -N -r -u {names[0]} {names[1]} (to {newer.when})\n")
        write_diff(self._out, text)

    def _past(self, moment: Moment) -> bytes:
        """Path that leads to a version; the name need not bear ``@@`` for that, nor be short.

        The newest version of what is there is what is there: of its time the directories may have been pruned.
        """
        if moment == self._moments[-1] and not moment.deleted:
            return os.fsencode(self._path)
        folder, name = os.path.split(os.fsencode(self._path).rstrip(b"/"))
        return join(join(folder or b".", asof_suffix(moment.tid)), name)

    def _row(self, moment: Moment) -> dict[str, object]:
        return {"path": json_name(os.fsencode(self._path)), "tid": f"0x{moment.tid:016x}", "ts": moment.ts}

    def _tell(self, moment: Moment) -> None:
        if self._args.verbose:
            gone = " file-deleted" if moment.deleted else ""
            print(f"{self._shown}: 0x{moment.tid:016x} {moment.when}{gone}", file=sys.stderr)

    def _print(self, text: str) -> None:
        self._out.write(text.encode(sys.stdout.encoding, "backslashreplace"))
        self._out.flush()


def _moments(asker: Asker, path: str) -> list[Moment]:
    rows = asker.ask("versions", path, fold=False)
    return [Moment(int(row["tid"], 16), row["ts"], row["ino"], row["size"] is None) for row in rows]


def _listed(path: str) -> list[Moment]:
    """The moments that the directory ``PATH@@`` shows; since when a file is gone it does not."""
    try:
        names = sorted(os.listdir(path + "@@"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no history") from None
    found = []
    for name in names:
        tid, _, when = name.partition("-")
        ts = int(datetime.strptime(when, SNAPSHOT_TIME).replace(tzinfo=UTC).timestamp())
        found.append(Moment(int(tid, 16), ts, None, False))
    if not os.path.lexists(path):
        found.append(Moment(MAX_TID, found[-1].ts, None, True))
    return found


def _whole(source: Source, path: bytes, size: int) -> Iterator[bytes | memoryview]:
    """All of a file, holes as zeros."""
    at = 0
    for offset, piece in source.pieces(path):
        yield from _zeros(offset - at)
        yield piece
        at = offset + len(piece)
    yield from _zeros(size - at)


def _zeros(count: int) -> Iterator[bytes]:
    block = bytes(min(count, 1 << 16)) if count > 0 else b""
    while count > 0:
        yield block[: min(count, len(block))]
        count -= len(block)


if __name__ == "__main__":
    sys.exit(main())
