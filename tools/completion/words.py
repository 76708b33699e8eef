"""Words only a file system knows: its snapshots and PFSs, and the paths in an image. They are asked for by a key.

Whatever goes wrong, a person who presses the key waits for `LIMIT_S` at most. What can't be printed as it is (control
characters, bytes that are no UTF-8) is not offered: a snapshot with such a label is offered by its TID.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from hammerfs.addr import tid_text
from hammerfs.const import OBJTYPE_DIRECTORY
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.snapshot import Snapshot
from hammerfs.viewspec import means_snapshot, parse_pfs
from tools.output import safe_name, time_text
from tools.session import open_session
from tools.target import open_fs, view_root

LIMIT_S = 3
_WITH_VOLUMES = frozenset({"hammer", "undo"})
"""Commands whose ``-f`` names volumes; those of mount_hammer stand alone."""


class Word(NamedTuple):
    """A word to offer, and what to say of it."""

    text: str
    about: str = ""


class Line(NamedTuple):
    """A command line up to the word that is completed.

    Attributes:
        view: The volumes it names, and the PFS.
        paths: What of it exists on the host, the nearest first.
        current: The word that is completed.
    """

    view: argparse.Namespace
    paths: list[str]
    current: str


def read_line(words: Sequence[str]) -> Line:
    """Read a command line: the command, what follows it, and last the word that is completed."""
    command, current = (os.path.basename(words[0]), words[-1]) if len(words) > 1 else ("", "")
    named: dict[str, list[str]] = {"-f": [], "--pfs": []}
    rest = []
    before = iter(words[1:-1])
    for word in before:
        name, equals, value = word.partition("=")
        if command in _WITH_VOLUMES and name in named:
            named[name].append(value if equals else next(before, ""))
        else:
            rest.append(word)
    paths = [word for word in (current.partition("@@")[0], *reversed(rest)) if word and os.path.lexists(word)]
    volumes = [path for path in paths if not os.path.isdir(path)] if command == "mount_hammer" else named["-f"]
    pfs = named["--pfs"][-1] if named["--pfs"] else None
    return Line(argparse.Namespace(volumes=volumes, pfs=pfs, asof=None), paths, current)


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """End the process if this takes longer than `LIMIT_S`: a mount that hangs may not be interruptible otherwise."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)


def moments(line: Line) -> Iterator[Word]:
    """The labels of the snapshots, as far as they stand for one snapshot each, and all TIDs."""
    snapshots = _snapshots(line)
    seen = Counter(snap.label for snap in snapshots)
    for snap in snapshots:
        label = os.fsdecode(snap.label)
        if seen[snap.label] == 1 and _is_offered(label) and means_snapshot(label) and not label.isdecimal():
            yield Word(label, f"{tid_text(snap.tid)} {time_text(snap.ts_us // 1_000_000)}")
    yield from _tids(snapshots)


def tids(line: Line) -> Iterator[Word]:
    """The TIDs of the snapshots."""
    yield from _tids(_snapshots(line))


def _tids(snapshots: list[Snapshot]) -> Iterator[Word]:
    for snap in snapshots:
        when = time_text(snap.ts_us // 1_000_000)
        yield Word(tid_text(snap.tid), f"{when} {safe_name(snap.label)}".rstrip())


def pfs_names(line: Line) -> Iterator[Word]:
    """The numbers of an image's PFSs, and the labels that stand for one each."""
    with open_fs(line.view) as fs:
        found = [(pfs_id, os.fsdecode(pfs.label_text), pfs.is_slave) for pfs_id, pfs in fs.pfs_list()]
    seen = Counter(label for _, label, _ in found)
    for pfs_id, label, is_slave in found:
        mode = "slave" if is_slave else "master"
        yield Word(str(pfs_id), f"{mode} {safe_name(os.fsencode(label))}".rstrip())
        if seen[label] == 1 and _is_offered(label) and not label.isdecimal():
            yield Word(label, f"{mode} {pfs_id}")


def paths(line: Line) -> Iterator[Word]:
    """What the last component of a path in an image may be; behind ``@@``, also on a mount, the TIDs of snapshots."""
    folder, slash, name = line.current.rpartition("/")
    base, sign, _ = name.rpartition("@@")
    if sign:
        for word in tids(line):
            yield Word(f"{folder}{slash}{base}@@{word.text}", word.about)
        return
    if not line.view.volumes:
        return
    with open_fs(line.view) as fs:
        yield from _entries(fs, line.view, folder + slash, name)


def _entries(fs: HammerFS, view: argparse.Namespace, folder: str, start: str) -> Iterator[Word]:
    directory = fs.resolve(os.fsencode(folder).lstrip(b"/") or b".", view_root(fs, view))
    for entry in fs.readdir(directory):
        name = os.fsdecode(entry.name)
        if name.startswith(start) and (name.isprintable() if folder else _is_offered(name)):
            yield Word(f"{folder}{name}{'/' if entry.obj_type == OBJTYPE_DIRECTORY else ''}")


def _snapshots(line: Line) -> list[Snapshot]:
    """The snapshots of the PFS that a line works on.

    Raises:
        HammerError: Its file system can't be found or asked.
    """
    if line.view.volumes:
        with open_fs(line.view) as fs:
            return fs.snapshots(0 if line.view.pfs is None else parse_pfs(fs, line.view.pfs))
    rows: list[dict[str, Any]] = _ask_mount([*line.paths, "."], "snapls")["snapshots"]
    return [Snapshot(int(row["tid"], 16), row["ts_us"], os.fsencode(row["label"])) for row in rows]


def _ask_mount(places: Sequence[str], verb: str) -> dict[str, Any]:
    """What the first of some paths answers that is on a mount."""
    *others, last = places
    for path in others:
        try:
            return _ask(path, verb)
        except HammerError:
            continue
    return _ask(last, verb)


def _ask(path: str, verb: str) -> dict[str, Any]:
    with open_session(argparse.Namespace(volumes=[]), path) as session:
        reply: dict[str, Any] = session.run(verb, path)
        return reply


def _is_offered(text: str) -> bool:
    """Whether a word is what it looks like, and no option."""
    return text != "" and text.isprintable() and not text.startswith("-")


SOURCES: dict[str, Callable[[Line], Iterator[Word]]] = {
    "moments": moments,
    "tids": tids,
    "pfs": pfs_names,
    "paths": paths,
}
"""What there is to ask for."""
