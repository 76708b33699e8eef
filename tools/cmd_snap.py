"""`hammer synctid snap snaplo snapq snapshot snaprm chflags lsflags`: points in time, on a mount or an image."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any

from hammerfs.const import VERSION_SNAPSHOT
from hammerfs.errors import NotFound, UsageError
from hammerfs.rw import WritableFS
from hammerfs.uflags import FLAGS, changed_flags, flag_names
from tools.imagesnap import ImageSnap
from tools.output import json_name, print_json, safe_name
from tools.session import Session, open_session
from tools.softlinks import DEFAULT_NAME, expanded

_PAST = re.compile(r"@@0[xX][0-9a-fA-F]{16}")
_LINKED_TID = re.compile(r"@@(0[xX][0-9a-fA-F]{16})")


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    synctid = verbs.add_parser("synctid", help="flush everything, print the TID as of which it is visible")
    synctid.add_argument("path", metavar="FS", help="anything in the file system")
    synctid.add_argument("quick", nargs="?", choices=["quick"], help="accepted: one flush is durable here")
    synctid.set_defaults(run=run_synctid)
    for verb, text in (
        ("snap", "take a snapshot, and make a symbolic link to it"),
        ("snaplo", "as snap, but the link leads to the directory in the snapshot"),
        ("snapq", "take a snapshot without a link, print where it is"),
    ):
        parser = verbs.add_parser(verb, help=text)
        parser.add_argument("path", metavar="DIR", help="a directory (or, for snap and snaplo, the link to make)")
        parser.add_argument("note", nargs="?", default="", help="a label, 63 bytes at most")
        parser.set_defaults(run=run_snap, verb=verb)
    snapshot = verbs.add_parser("snapshot", help="take a snapshot, print the symbolic link that was made to it")
    snapshot.add_argument(
        "words",
        nargs="+",
        metavar="[FS] DIR [NOTE]",
        help="what to take it of (default: where DIR is); a directory for the link, or the link itself, whose name may "
        "hold strftime(3) forms; a label",
    )
    snapshot.set_defaults(run=run_snapshot, verb="snapshot")
    snaprm = verbs.add_parser("snaprm", help="remove snapshots")
    snaprm.add_argument("targets", nargs="+", metavar="LINK|TID", help="a link that snap made, or FS and TIDs in it")
    snaprm.set_defaults(run=run_snaprm)
    chflags = verbs.add_parser("chflags", help="set or clear flags of files")
    chflags.add_argument("flags", metavar="FLAG[,FLAG...]", help=f"of {', '.join(FLAGS)}; no in front clears one")
    chflags.add_argument("paths", nargs="+", metavar="PATH")
    chflags.set_defaults(run=run_chflags)
    lsflags = verbs.add_parser("lsflags", help="show the flags of files")
    lsflags.add_argument("paths", nargs="+", metavar="PATH")
    lsflags.set_defaults(run=run_lsflags)


def run_synctid(args: argparse.Namespace) -> int:
    """Print a TID."""
    with open_session(args, args.path) as session:
        found = session.run("synctid")
    if args.json:
        print_json(found)
    else:
        print(found["tid"])
    return 0


def run_snap(args: argparse.Namespace) -> int:
    """Take a snapshot; snap and snaplo make a link to it."""
    if args.verb == "snapq":
        with open_session(args, args.path) as session:
            taken = session.run("snap", args.path, label=args.note)
        _report(args, taken, _directory_in(args.path, taken, on_image=bool(args.volumes)), None)
        return 0
    if args.volumes:
        return _run_on_image(args, args.path, args.note)
    link = _link_to_make(args.path)
    directory = os.path.dirname(link)
    with open_session(args, directory) as session:
        taken = session.run("snap", directory, label=args.note, linked=True)
        target = snapshot_path(session, taken) if args.verb == "snap" else _directory_in(directory, taken)
        _make_link(session, directory, taken, target, link)
    _report(args, taken, target, link)
    return 0


def run_snapshot(args: argparse.Namespace) -> int:
    """Take a snapshot as the oldest form of the command does: a link in any directory, whose name may be a template."""
    if len(args.words) > 3:
        raise UsageError("one file system, one directory and one note")
    where = args.words[0] if len(args.words) > 1 else None
    folder = args.words[0 if where is None else 1]
    note = args.words[2] if len(args.words) == 3 else ""
    if args.volumes:
        return _run_on_image(args, folder, note, where)
    link = _link_to_make(folder, is_template=True)
    directory = os.path.dirname(link) if where is None else where
    _check_present(directory)
    with open_session(args, directory) as session:
        taken = session.run("snap", directory, label=note, linked=True)
        target = snapshot_path(session, taken) if where is None else f"{_absolute(where)}/@@{taken['tid']}"
        _make_link(session, directory, taken, target, link)
    _report(args, taken, target, link)
    return 0


def _run_on_image(args: argparse.Namespace, path: str, note: str, where: str | None = None) -> int:
    """The same with a link in the image."""
    with WritableFS.open_rw(args.volumes) as fs:
        snap = ImageSnap(fs)
        folder, name = snap.place(path, is_template=args.verb == "snapshot")
        taken, target = snap.take(folder, name, note, where=where, rooted=args.verb != "snaplo")
    _report(args, taken, target, os.path.join(folder, name))
    return 0


def _link_to_make(path: str, *, is_template: bool = False) -> str:
    """Full path of a link: a path itself, or the usual name in the directory that it leads to.

    Raises:
        UsageError: It can't be made there.
    """
    if os.path.isdir(path):
        link = os.path.join(os.path.realpath(path), expanded(DEFAULT_NAME))
    elif is_template and not os.path.lexists(path):
        folder, last = os.path.split(_absolute(path))
        link = os.path.join(folder, expanded(last))
    else:
        link = _absolute(path)
    _check_present(os.path.dirname(link))
    if os.path.lexists(link):
        raise UsageError(f"{link} is there already")
    if not os.path.isdir(os.path.dirname(link)):
        raise NotFound(f"{os.path.dirname(link)}: no such directory")
    return link


def _check_present(directory: str) -> None:
    if _PAST.search(os.path.realpath(directory)):
        raise UsageError(f"{directory} is in the past: no link can be made there")


def _absolute(path: str) -> str:
    return os.path.abspath(path).rstrip("/")


def _make_link(session: Session, directory: str, taken: dict[str, Any], target: str, link: str) -> None:
    """Make the link; a snapshot that can have none is not kept.

    Raises:
        UsageError: It can't be made.
    """
    try:
        os.symlink(target, link)
    except OSError as err:
        if taken["recorded"]:
            session.run("snaprm", directory, tids=[taken["tid"]])
        raise UsageError(f"{link}: {err.strerror}") from None


def snapshot_path(session: Session, taken: dict[str, Any]) -> str:
    """Path to the root of a PFS as of a snapshot of it, by the mount point.

    Args:
        session: Where the file system is.
        taken: What the verb has replied.
    """
    suffix = f":{taken['pfs']:05d}" if taken["pfs"] else ""
    return f"{session.place.rstrip('/')}/@@{taken['tid']}{suffix}"


def _directory_in(directory: str, taken: dict[str, Any], *, on_image: bool = False) -> str:
    """Path to a directory as of a snapshot; what a softlink leads to has a past, but by that name the softlink has."""
    if on_image:
        place = os.path.normpath(f"/{directory.lstrip('/')}").rstrip("/")
        is_root = not place or taken["pfs"] != 0
    else:
        place = _absolute(directory)
        is_root = os.path.ismount(place) or os.path.islink(place)
    return f"{place}{'/' if is_root else ''}@@{taken['tid']}"


def _report(args: argparse.Namespace, taken: dict[str, Any], target: str, link: str | None) -> None:
    """Print the link (snapshot) or the path (snapq); snap and snaplo print nothing."""
    if args.json:
        names = {"path": target, "link": link, "label": taken["label"]}
        texts = {name: None if text is None else json_name(text) for name, text in names.items()}
        print_json({**taken, **texts})
    elif args.verb in {"snapq", "snapshot"}:
        print(safe_name(os.fsencode(target if link is None else link)))


def run_snaprm(args: argparse.Namespace) -> int:
    """Remove snapshots: those links lead to, or TIDs of the file system named before them."""
    where: str | None = "/" if args.volumes else None
    removed = []
    for target in args.targets:
        tid, path = target, where
        if not target.lower().startswith("0x"):
            match = _LINKED_TID.search(os.readlink(target)) if os.path.islink(target) else None
            if match is None:
                where = target
                continue
            tid, path = match[1], os.path.dirname(target) or "."
        if path is None:
            raise UsageError(f"{tid}: name the file system before it")
        with open_session(args, path) as session:
            is_recorded = session.run("pfs-status", path)["version"] >= VERSION_SNAPSHOT
            if is_recorded or tid is target:
                session.run("snaprm", path, tids=[_tid(tid)])
            removed.append(_tid(tid))
        if tid is not target:
            os.unlink(target)
    if not removed:
        raise UsageError("no snapshot is named")
    if args.json:
        print_json({"removed": removed})
    return 0


def _tid(text: str) -> str:
    try:
        return f"0x{int(text, 16):016x}"
    except ValueError:
        raise UsageError(f"'{text}' is no TID") from None


def run_chflags(args: argparse.Namespace) -> int:
    """Set or clear flags."""
    words = args.flags.split(",")
    rows = []
    for path in args.paths:
        with open_session(args, path if args.volumes else _beside(path)) as session:
            uflags = session.run("lsflags", path)["uflags"]
            uflags = session.run("chflags", path, uflags=changed_flags(uflags, words))["uflags"]
        rows.append({"path": json_name(path), "flags": flag_names(uflags)})
    if args.json:
        print_json(rows)
    return 0


def _beside(path: str) -> str:
    """A path in the same file system that leads nowhere else: of a symbolic link the directory it is in."""
    return os.path.dirname(path) or "." if os.path.islink(path) else path


def run_lsflags(args: argparse.Namespace) -> int:
    """Print flags."""
    rows = []
    for path in args.paths:
        with open_session(args, path if args.volumes else _beside(path)) as session:
            uflags = session.run("lsflags", path)["uflags"]
        rows.append((path, flag_names(uflags)))
    if args.json:
        print_json([{"path": json_name(path), "flags": names} for path, names in rows])
        return 0
    for path, names in rows:
        sys.stdout.write(f"{','.join(names) or '-'}\t{safe_name(os.fsencode(path))}\n")
    return 0
