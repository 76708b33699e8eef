"""What a verb works on: volumes, a point in time, a PFS, a path, from the common options."""

from __future__ import annotations

import argparse
import os
import re
import sys
from datetime import datetime

from hammerfs.const import MAX_PFS, MAX_TID
from hammerfs.errors import NotFound, UsageError
from hammerfs.fs import HammerFS, Recover
from hammerfs.inode import Inode

_TID = re.compile(r"0[xX][0-9a-fA-F]{1,16}\Z")


def open_fs(args: argparse.Namespace, recover: Recover = "full") -> HammerFS:
    """Open the volumes named by ``-f``.

    Raises:
        UsageError: there is no ``-f``.
        HammerError: as `HammerFS.open`.
    """
    if not args.volumes:
        raise UsageError("no volumes: name them with -f VOL[:VOL...]")
    return HammerFS.open(args.volumes, recover=recover, warn=_warn)


def _warn(text: str) -> None:
    print(f"hammer: warning: {text}", file=sys.stderr)


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """``--pfs`` and ``--asof``: which tree a path starts in."""
    parser.add_argument("--pfs", metavar="N|LABEL", help="start in this PFS, by number or label (default 0)")
    parser.add_argument(
        "--asof",
        metavar="TID|TIME|LABEL",
        help="as of a transaction id (0x...), an ISO time (local unless it has a zone) or a snapshot's label",
    )


def view_root(fs: HammerFS, args: argparse.Namespace) -> Inode:
    """The root directory that ``--pfs`` and ``--asof`` ask for.

    Raises:
        NotFound: no such PFS or point in time.
        UsageError: a label stands for more than one.
    """
    pfs_id = parse_pfs(fs, args.pfs) if args.pfs is not None else 0
    return fs.root(pfs_id, parse_asof(fs, pfs_id, args.asof) if args.asof is not None else None)


def find(fs: HammerFS, args: argparse.Namespace, path: str, *, follow: bool = True) -> Inode:
    """The object a path argument names, in the tree of the view options; a leading slash means that tree's root."""
    relative = os.fsencode(path).lstrip(b"/") or b"."
    return fs.resolve(relative, view_root(fs, args), follow=follow)


def parse_pfs(fs: HammerFS, text: str) -> int:
    """A PFS by number or by label."""
    if text.isdecimal():
        if int(text) >= MAX_PFS:
            raise NotFound(f"PFS {text} does not exist")
        return int(text)
    wanted = os.fsencode(text)
    found = [pfs_id for pfs_id, pfs in fs.pfs_list() if pfs.label_text == wanted]
    if not found:
        raise NotFound(f"no PFS has the label '{text}'")
    if len(found) > 1:
        raise UsageError(f"label '{text}' is that of PFSs {', '.join(map(str, found))}: name one by number")
    return found[0]


def parse_asof(fs: HammerFS, pfs_id: int, text: str) -> int:
    """A point in time: a TID, a snapshot's label in that PFS, or an ISO time."""
    if _TID.match(text):
        return int(text, 16) or MAX_TID
    snaps = fs.snapshots(pfs_id)
    found = [snap.tid for snap in snaps if snap.label == os.fsencode(text)]
    if len(found) > 1:
        tids = ", ".join(f"0x{tid:016x}" for tid in found)
        raise UsageError(f"{len(found)} snapshots have the label '{text}': name one of {tids}")
    if found:
        return found[0]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise NotFound(f"'{text}' is no TID (0x...), no snapshot of PFS {pfs_id} and no ISO time") from None
    return fs.tid_at(when.timestamp())
