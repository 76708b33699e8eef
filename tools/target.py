"""What a verb works on: volumes, a point in time, a PFS, a path, from the common options."""

from __future__ import annotations

import argparse
import os

from hammerfs.errors import UsageError
from hammerfs.fs import HammerFS, Recover
from hammerfs.inode import Inode
from hammerfs.viewspec import parse_asof, parse_pfs
from tools.output import complain


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
    complain("hammer: warning", text)


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


def parse_pfs_or_path(fs: HammerFS, text: str) -> int:
    """A PFS that exists, by number, by label, or by the path of anything in it (which starts with a slash).

    Raises:
        NotFound: There is none.
        UsageError: A label stands for more than one.
    """
    pfs_id = fs.resolve(os.fsencode(text)).pfs_id if text.startswith("/") else parse_pfs(fs, text)
    fs.pfs.get(pfs_id)
    return pfs_id


def find(fs: HammerFS, args: argparse.Namespace, path: str, *, follow: bool = True) -> Inode:
    """The object a path argument names, in the tree of the view options; a leading slash means that tree's root."""
    relative = os.fsencode(path).lstrip(b"/") or b"."
    return fs.resolve(relative, view_root(fs, args), follow=follow)
