"""`hammer history versions deleted find diff log`: the past of files, on a mount or an image."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from hammerfs.asof import parse_component
from hammerfs.const import MAX_TID
from hammerfs.errors import HammerError, NotFound, UsageError
from hammerfs.maint.verbs_history import QUESTIONS, Past
from hammerfs.manifest import TYPE_NAMES
from hammerfs.reports import Row, tree_path
from hammerfs.vfs.control_proto import RemoteError
from hammerfs.viewspec import parse_tid
from tools.contentdiff import content_diff, write_diff
from tools.output import complain, json_name, print_json, safe_name, time_text
from tools.places import HostPlace, ImageSource, Source
from tools.session import Session, has_daemon, open_session
from tools.target import add_view_options, open_fs, view_root

_RANGE = re.compile(r"(\d+|0[xX][0-9a-fA-F]+)(?:,(\d+|0[xX][0-9a-fA-F]+))?\Z", re.ASCII)
_CHANGES = {"added": "A", "removed": "D", "modified": "M", "renamed": "R"}
_NAMES = frozenset({"path", "from", "restore", "asof"})
"""Fields of rows that hold paths."""


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    history = verbs.add_parser("history", help="the transaction ids at which files changed")
    history.add_argument("paths", nargs="+", metavar="PATH[@OFFSET[,LENGTH]]", help="a file; of it only that range")
    history.add_argument("--at", metavar="OFFSET[,LENGTH]", help="that range of every file (as history@OFFSET,LENGTH)")
    add_view_options(history)
    history.set_defaults(run=run_history)
    versions = verbs.add_parser("versions", help="every version of a file: when, how large, what changed")
    versions.add_argument("path", metavar="PATH", help="what is there, or was; with @@TID its versions up to then")
    versions.add_argument("--all", action="store_true", help="also those that differ in nothing but times")
    _add_pfs_option(versions)
    versions.set_defaults(run=run_versions)
    deleted = verbs.add_parser("deleted", help="what was deleted from a directory and can be brought back")
    deleted.add_argument("-r", dest="recursive", action="store_true", help="directories below, too, deleted or not")
    deleted.add_argument("path", metavar="DIR")
    _add_pfs_option(deleted)
    deleted.set_defaults(run=run_deleted)
    diff = verbs.add_parser("diff", help="what was added, removed, modified and renamed between two points in time")
    diff.add_argument("older", metavar="FROM", help="0x..., a snapshot's label, an ISO time, 'N hours ago'")
    diff.add_argument("newer", metavar="TO", help="the same, or 'now'")
    diff.add_argument("path", nargs="?", metavar="PATH", help="only there and below (default: the whole PFS)")
    diff.add_argument("--contents", action="store_true", help="also what changed in files, as a unified diff")
    _add_pfs_option(diff)
    diff.set_defaults(run=run_diff)
    find = verbs.add_parser("find", help="what was there at a point in time, or at any time between two")
    find.add_argument("path", nargs="?", metavar="DIR", help="only there and below (default: the whole file system)")
    when = find.add_mutually_exclusive_group(required=True)
    when.add_argument("--asof", dest="at_time", metavar="TIME", help="at that TID, label or time")
    when.add_argument("--between", nargs=2, metavar=("FROM", "TO"), help="at any time from one to the other")
    find.add_argument("--name", metavar="GLOB", help="only such names")
    find.add_argument("--type", choices=sorted(set(TYPE_NAMES.values())), help="only that type")
    _add_pfs_option(find)
    find.set_defaults(run=run_find)
    log = verbs.add_parser("log", help="what changed, the newest first")
    log.add_argument("-n", dest="most", type=int, default=1000, metavar="COUNT", help="rows at most (default 1000)")
    log.add_argument("path", nargs="?", metavar="PATH", help="only there and below (default: the whole PFS)")
    _add_pfs_option(log)
    log.set_defaults(run=run_log)


def _add_pfs_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pfs", metavar="N|LABEL", help="with -f: start in this PFS (default 0)")
    parser.set_defaults(asof=None)


class Asker:
    """Asks questions about the past of an image, or of the mount that holds a path.

    Args:
        session: The mount.
        past: The image.
    """

    def __init__(self, session: Session | None, past: Past | None) -> None:
        self._session = session
        self._past = past
        self.place = "" if session is None else session.place.rstrip("/")
        """What stands before the paths of answers."""

    def ask(self, question: str, path: str, **args: Any) -> Any:
        """The answer to one of `QUESTIONS`.

        Raises:
            NotFound: There is no such thing.
            HammerError: What else the question raises.
        """
        if self._past is not None:
            return QUESTIONS[question](self._past, path, **args)
        assert self._session is not None
        try:
            return self._session.run(question, path, **args)
        except RemoteError as err:
            if err.errno == errno.ENOENT:
                raise NotFound(str(err)) from None
            raise

    def tid(self, folder: str, text: str) -> int:
        """TID of a point in time in the PFS that holds a directory; see `parse_asof`."""
        return parse_tid(self.ask("asof", folder, text=text)["tid"]) or MAX_TID

    def source(self) -> Source:
        """Where the files themselves are."""
        return HostPlace() if self._past is None else ImageSource(self._past.fs, self._past.root)


@contextlib.contextmanager
def asking(args: argparse.Namespace, path: str | None) -> Iterator[Asker]:
    """Opens the image of ``-f``, or reaches the mount that holds a path (which itself need not exist any more).

    Raises:
        UsageError: No image and no mount.
        HammerError: The image can't be opened.
    """
    if args.volumes:
        with open_fs(args) as fs:
            yield Asker(None, Past(fs, view_root(fs, args)))
        return
    if path is None:
        raise UsageError("name a path on a mount, or an image with -f VOL")
    if getattr(args, "pfs", None) is not None or getattr(args, "asof", None) is not None:
        raise UsageError("--pfs and --asof are for images: on a mount the path says it")
    with open_session(args, nearest(path)) as session:
        yield Asker(session, None)


def nearest(path: str) -> str:
    """A path, or the nearest directory above it that exists; of a symbolic link on a mount the directory it is in."""
    path = os.path.abspath(path)
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(path) or (os.path.islink(path) and has_daemon(folder)):
        return folder
    return path


def run_history(args: argparse.Namespace) -> int:
    """Print the TIDs at which each file, range of a file, or directory changed."""
    rows = []
    for text in args.paths:
        with asking(args, text) as asker:
            path, found = _history_of(asker, text, args.at)
        rows.append({"path": json_name(os.fsencode(path)), **found})
        if not args.json:
            print(f"{safe_name(os.fsencode(path))}\t{found['ino'][2:]} clean {{")
            for moment in found["history"]:
                print(f"    {moment['tid'][2:]} {time_text(moment['ts'], '%d-%b-%Y %H:%M:%S')}")
            print("}")
    if args.json:
        print_json(rows)
    return 0


def _history_of(asker: Asker, text: str, at: str | None) -> tuple[str, Row]:
    """A path without its range, and its history; a name that holds the sign goes before a range."""
    try:
        return text, asker.ask("history", text, **_parse_range(at))
    except NotFound:
        path, sign, where = text.rpartition("@")
        if at is not None or not sign or not _RANGE.match(where):
            raise
    return path, asker.ask("history", path, **_parse_range(where))


def _parse_range(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    match = _RANGE.match(text)
    if match is None:
        raise UsageError(f"'{text}' is no range: OFFSET[,LENGTH]")
    return {name: _number(word) for name, word in zip(("offset", "length"), match.groups(), strict=True) if word}


def _number(text: str) -> int:
    return int(text, 16 if text[:2].lower() == "0x" else 10)


def run_versions(args: argparse.Namespace) -> int:
    """Print the versions of a name."""
    with asking(args, args.path) as asker:
        rows = asker.ask("versions", args.path, fold=not args.all)
    if args.json:
        print_json(rows)
        return 0
    for row in rows:
        size = "-" if row["size"] is None else row["size"]
        folded = f" (+{row['folded']} alike)" if row["folded"] else ""
        print(f"{row['tid']}  {time_text(row['ts'])}  {size:>12}  {row['mode'] or '-':>4}  "
              f"{', '.join(row['changed'])}{folded}")  # fmt: skip
    return 0


def walk_past(
    asker: Asker, question: str, path: str, *, recursive: bool, gone: bool = True, **args: str
) -> Iterator[Row]:
    """Rows of a question about a directory, and of the same about those below it.

    Args:
        asker: Answers.
        question: ``deleted`` or ``held``.
        path: The directory.
        recursive: Also those below it.
        gone: Of these also such as are not there any more.
        **args: More of the question.

    Raises:
        HammerError: The directory is not there, or can't be read; of one below it that is told, and the rest goes on.
    """
    todo = [path]
    seen: set[str] = set()
    while todo:
        where = todo.pop()
        try:
            found = asker.ask(question, where, **args)
        except HammerError as err:
            if where == path:
                raise
            complain(f"hammer: {question}", f"{_shown(where)}: {err}")
            continue
        for row in found["rows"]:
            yield {name: asker.place + value if name in _NAMES else value for name, value in row.items()}
        if not recursive:
            return
        for folder in reversed(found["below"]):
            if folder["mark"] not in seen and (gone or not is_past(folder["path"])):
                seen.add(folder["mark"])
                todo.append(asker.place + folder["path"])


def is_past(path: str) -> bool:
    """Whether a path has a point in time in it."""
    return any(parse_component(part).tid not in {None, MAX_TID} for part in os.fsencode(path).split(b"/"))


def run_deleted(args: argparse.Namespace) -> int:
    """Print what was deleted, and how it is called to be brought back."""
    with asking(args, args.path) as asker:
        rows = list(walk_past(asker, "deleted", args.path, recursive=args.recursive))
    if args.json:
        print_json([_for_json(row) for row in rows])
        return 0
    for row in rows:
        elsewhere = "  (lives on under another name)" if row["lives_on"] else ""
        print(f"{time_text(row['deleted_ts'])}  {row['type']:<8}  {_shown(row['restore'])}{elsewhere}")
    return 0


def run_find(args: argparse.Namespace) -> int:
    """Print what was there, by paths that lead to it."""
    path = args.path or ("/" if args.volumes else ".")
    first, last = args.between or (args.at_time, args.at_time)
    with asking(args, path) as asker:
        tids = {name: asker.ask("asof", path, text=text)["tid"] for name, text in (("first", first), ("last", last))}
        rows = [row for row in walk_past(asker, "held", path, recursive=True, **tids) if _fits(args, row)]
    if args.json:
        print_json([_for_json(row) for row in rows])
        return 0
    for row in rows:
        print(_shown(row["asof"]))
    return 0


def _fits(args: argparse.Namespace, row: Row) -> bool:
    """Whether a row is what ``--name`` and ``--type`` ask for."""
    name = os.path.basename(row["path"])
    return (args.name is None or fnmatchcase(name, args.name)) and args.type in {None, row["type"]}


def run_diff(args: argparse.Namespace) -> int:
    """Print what differs; exit code 0 whether anything does or not."""
    path = args.path or ("/" if args.volumes else ".")
    with asking(args, path) as asker:
        rows = asker.ask("diff", path, older=args.older, newer=args.newer)
        if args.contents:
            tids = [asker.tid(nearest(path) if not args.volumes else "/", text) for text in (args.older, args.newer)]
            for row in rows:
                row["contents"] = _content_diff(asker, row, *tids)
    if args.json:
        print_json([_for_json(row) for row in rows])
        return 0
    for row in rows:
        print(f"{_CHANGES[row['change']]}  {_way(asker, row)}")
        if row.get("contents"):
            sys.stdout.flush()
            write_diff(sys.stdout.buffer, row["contents"])
    return 0


def _content_diff(asker: Asker, row: Row, first: int, last: int) -> bytes:
    """What changed in the contents of a file; nothing for anything else."""
    source, place = asker.source(), os.fsencode(asker.place)
    paths = []
    for path, tid in ((row.get("from") or row["path"], first), (row["path"], last)):
        paths.append(place + tree_path(os.fsencode(path), tid))
    things = [source.look(path) for path in paths]
    if any(thing is not None and not thing.is_file for thing in things):
        return b""
    sides = [path if thing is not None else None for path, thing in zip(paths, things, strict=True)]
    return content_diff(source, sides[0], sides[1], [safe_name(path) for path in paths])


def run_log(args: argparse.Namespace) -> int:
    """Print what changed, the newest first; on a terminal page by page."""
    path = args.path or ("/" if args.volumes else ".")
    with asking(args, path) as asker:
        rows = asker.ask("log", path, most=args.most)
    if args.json:
        print_json([_for_json(row) for row in rows])
        return 0
    lines = [f"{row['tid']}  {time_text(row['ts'])}  {_CHANGES[row['change']]}  {_way(asker, row)}\n" for row in rows]
    _print_paged("".join(lines))
    return 0


def _way(asker: Asker, row: Row) -> str:
    """Path of a change, and of something renamed the one it had."""
    path = _shown(asker.place + row["path"])
    return f"{_shown(asker.place + row['from'])} -> {path}" if "from" in row else path


def _shown(path: str) -> str:
    return safe_name(os.fsencode(path))


def _for_json(row: Row) -> Row:
    named = {key: json_name(os.fsencode(value)) for key, value in row.items() if key in _NAMES}
    texts = {key: json_name(value) for key, value in row.items() if isinstance(value, bytes)}
    return {**row, **named, **texts}


def _print_paged(text: str) -> None:
    """Print text, by the user's pager if it goes to a terminal."""
    pager = shlex.split(os.environ.get("PAGER", "less -F"))
    if not sys.stdout.isatty() or not pager:
        sys.stdout.write(text)
        return
    try:
        subprocess.run(pager, input=text, encoding="utf-8", errors="backslashreplace", check=False)
    except FileNotFoundError:
        sys.stdout.write(text)
