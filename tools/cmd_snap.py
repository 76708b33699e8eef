"""`hammer synctid snap snaplo snapq snaprm config-set chflags lsflags`: points in time, on a mount or an image."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from hammerfs.const import (
    SF_APPEND,
    SF_ARCHIVED,
    SF_IMMUTABLE,
    SF_NOHISTORY,
    SF_NOUNLINK,
    UF_APPEND,
    UF_IMMUTABLE,
    UF_NODUMP,
    UF_NOHISTORY,
    UF_NOUNLINK,
    UF_OPAQUE,
)
from hammerfs.errors import UsageError
from tools.output import print_json, safe_name
from tools.session import Session, open_session

FLAGS = {
    "nodump": UF_NODUMP,
    "uimmutable": UF_IMMUTABLE,
    "uappend": UF_APPEND,
    "opaque": UF_OPAQUE,
    "uunlink": UF_NOUNLINK,
    "unohistory": UF_NOHISTORY,
    "arch": SF_ARCHIVED,
    "simmutable": SF_IMMUTABLE,
    "sappend": SF_APPEND,
    "sunlink": SF_NOUNLINK,
    "snohistory": SF_NOHISTORY,
}
"""Names of flags as chflags(1) prints them; `uunlink` and `sunlink` stand for "may not be unlinked"."""
_ALIASES = {
    "immutable": UF_IMMUTABLE,
    "uchg": UF_IMMUTABLE,
    "append": UF_APPEND,
    "uappnd": UF_APPEND,
    "nohistory": UF_NOHISTORY,
    "noshistory": SF_NOHISTORY,
    "schg": SF_IMMUTABLE,
    "sappnd": SF_APPEND,
    "uunlnk": UF_NOUNLINK,
    "sunlnk": SF_NOUNLINK,
    "archived": SF_ARCHIVED,
}
"""Other names for them. `nohistory` sets the flag, as chflags(1) has it."""
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
    """Take a snapshot."""
    link: Path | None = None
    directory = args.path
    if args.verb != "snapq":
        if args.volumes:
            raise UsageError(f"{args.verb} makes a link on a mount; on an image use snapq")
        link = Path(args.path)
        if link.is_dir():
            link = Path(os.path.realpath(link)) / time.strftime("snap-%Y%m%d-%H%M")
        directory = str(link.parent)
        if link.is_symlink() or link.exists():
            raise UsageError(f"{link} is there already")
        if "@@" in directory:
            raise UsageError(f"{directory} is in the past: no link can be made there")
    with open_session(args, directory) as session:
        taken = session.run("snap", directory, label=args.note)
        target = _target(args.verb, session, directory, taken)
    if link is not None:
        link.symlink_to(target)
    if args.json:
        print_json({**taken, "path": target, "link": None if link is None else str(link)})
    elif link is None:
        print(target)
    return 0


def _target(verb: str, session: Session, directory: str, taken: dict[str, Any]) -> str:
    """Where a snapshot is: the root of the file system, or the directory itself, as of its TID."""
    if verb == "snap":
        return f"{session.place.rstrip('/')}/@@{taken['tid']}"
    if os.path.realpath(directory) == session.place or Path(directory).name in {"", ".", ".."}:
        return f"{directory.rstrip('/')}/@@{taken['tid']}"
    return f"{directory}@@{taken['tid']}"


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
            removed += session.run("snaprm", path, tids=[_tid(tid)])["removed"]
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
    for path in args.paths:
        with open_session(args, path if args.volumes else _beside(path)) as session:
            uflags = session.run("lsflags", path)["uflags"]
            session.run("chflags", path, uflags=_changed(uflags, words))
    return 0


def _beside(path: str) -> str:
    """A path in the same file system that leads nowhere else: of a symbolic link the directory it is in."""
    return os.path.dirname(path) or "." if os.path.islink(path) else path


def _changed(uflags: int, words: list[str]) -> int:
    for word in words:
        bit = FLAGS.get(word) or _ALIASES.get(word)
        if bit is not None:
            uflags |= bit
            continue
        bit = FLAGS.get(word.removeprefix("no")) or _ALIASES.get(word.removeprefix("no"))
        if bit is None or not word.startswith("no"):
            raise UsageError(f"unknown flag '{word}'")
        uflags &= ~bit
    return uflags


def run_lsflags(args: argparse.Namespace) -> int:
    """Print flags."""
    rows = []
    for path in args.paths:
        with open_session(args, path if args.volumes else _beside(path)) as session:
            uflags = session.run("lsflags", path)["uflags"]
        rows.append((path, [name for name, bit in FLAGS.items() if uflags & bit]))
    if args.json:
        print_json([{"path": path, "flags": names} for path, names in rows])
        return 0
    for path, names in rows:
        sys.stdout.write(f"{','.join(names) or '-'}\t{safe_name(os.fsencode(path))}\n")
    return 0
