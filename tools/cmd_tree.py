"""`hammer ls`, `cat`, `manifest`: look at files of an image, at any point of their history."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any

from hammerfs.asof import asof_suffix
from hammerfs.const import (
    OBJTYPE_BDEV,
    OBJTYPE_CDEV,
    OBJTYPE_DIRECTORY,
    OBJTYPE_FIFO,
    OBJTYPE_SOCKET,
    OBJTYPE_SOFTLINK,
)
from hammerfs.errors import HammerError
from hammerfs.fs import HammerFS
from hammerfs.inode import Inode
from hammerfs.manifest import manifest
from hammerfs.pages import page_buffer
from tools.output import complain, json_name, print_json, safe_name, time_text
from tools.target import add_view_options, find, open_fs, view_root

CHUNK = 1 << 20
_MODES = {
    OBJTYPE_DIRECTORY: stat.S_IFDIR,
    OBJTYPE_SOFTLINK: stat.S_IFLNK,
    OBJTYPE_FIFO: stat.S_IFIFO,
    OBJTYPE_CDEV: stat.S_IFCHR,
    OBJTYPE_BDEV: stat.S_IFBLK,
    OBJTYPE_SOCKET: stat.S_IFSOCK,
}


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    ls = verbs.add_parser("ls", help="list a directory or a file")
    ls.add_argument("-l", dest="long", action="store_true", help="mode, links, owner, size, time")
    ls.add_argument("-R", dest="recursive", action="store_true", help="directories below, too")
    ls.add_argument("paths", nargs="*", default=["/"], metavar="PATH[@@TID]")
    add_view_options(ls)
    ls.set_defaults(run=run_ls)
    cat = verbs.add_parser("cat", help="write files to standard output")
    cat.add_argument("paths", nargs="+", metavar="PATH[@@TID]")
    add_view_options(cat)
    cat.set_defaults(run=run_cat)
    man = verbs.add_parser("manifest", help="describe whole trees as one JSON object")
    man.add_argument("paths", nargs="*", metavar="PATH[@@TID]", help="as --root")
    man.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="ROOT",
        help="/, /@@0x..., /link-to-pfs/, /@@0x...:00003; may be repeated (default: the head of every PFS)",
    )
    man.add_argument("--no-redo", action="store_true", help="a dirty image as DragonFly mounts it read-only: UNDO only")
    add_view_options(man)
    man.set_defaults(run=run_manifest)


def run_manifest(args: argparse.Namespace) -> int:
    """Print the manifest of the head of every PFS, or of the roots asked for."""
    with open_fs(args, "undo" if args.no_redo else "full") as fs:
        print_json(manifest(fs, _manifest_roots(fs, args)))
    return 0


def _manifest_roots(fs: HammerFS, args: argparse.Namespace) -> list[bytes] | None:
    """The trees asked for, as paths from the root of PFS 0; None for the head of every PFS."""
    roots = [os.fsencode(root) for root in (*args.paths, *args.root)]
    if args.pfs is None and args.asof is None:
        return roots or None
    top = view_root(fs, args)
    prefix = b"" if top.is_head and not top.pfs_id else b"/" + asof_suffix(top.asof, top.pfs_id or None)
    return [(prefix + (b"" if root == b"/" else root)) or b"/" for root in roots or [b"/"]]


def run_cat(args: argparse.Namespace) -> int:
    """Stream each file; holes come out as zeros."""
    out = sys.stdout.buffer
    view = page_buffer(CHUNK)
    with open_fs(args) as fs:
        for path in args.paths:
            inode = find(fs, args, path)
            offset = 0
            while (n := fs.readinto(inode, offset, view)) > 0:
                out.write(view[:n])
                offset += n
    out.flush()
    return 0


def run_ls(args: argparse.Namespace) -> int:
    """List each path; a damaged entry is reported and the rest goes on (exit code 1)."""
    lister = _Lister(args)
    with open_fs(args) as fs:
        lister.fs = fs
        for path in args.paths:
            inode = find(fs, args, path, follow=not args.long)
            if inode.is_dir:
                lister.directory(os.fsencode(path), inode, headed=len(args.paths) > 1 or args.recursive)
            else:
                lister.entry(os.fsencode(path), os.fsencode(path), inode)
    if args.json:
        print_json(lister.rows)
    return 1 if lister.failed else 0


class _Lister:
    """Prints entries, or gathers them for JSON."""

    fs: HammerFS

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.rows: list[dict[str, Any]] = []
        self.failed = False

    def directory(self, path: bytes, top: Inode, *, headed: bool) -> None:
        """List a directory, and with -R what is below it; a directory is never entered twice."""
        seen = {(top.pfs_id, top.obj_id)}
        todo = [(path, top)]
        first = True
        while todo:
            where, directory = todo.pop()
            if headed and not self.args.json:
                print(("" if first else "\n") + safe_name(where) + ":")
            first = False
            below = []
            for name, inode in self._entries(where, directory):
                self.entry(_join(where, name), name, inode)
                if inode.is_dir and self.args.recursive and (inode.pfs_id, inode.obj_id) not in seen:
                    seen.add((inode.pfs_id, inode.obj_id))
                    below.append((_join(where, name), inode))
            todo.extend(reversed(below))

    def _entries(self, where: bytes, directory: Inode) -> Iterator[tuple[bytes, Inode]]:
        for entry in sorted(self.fs.readdir(directory)):
            try:
                yield entry.name, self.fs.iget(entry.pfs_id, entry.obj_id, directory.asof)
            except HammerError as err:
                self.failed = True
                complain("hammer: ls", f"{safe_name(_join(where, entry.name))}: {err}")

    def entry(self, path: bytes, name: bytes, inode: Inode) -> None:
        """One line, or one row."""
        attr = inode.attr()
        target = self.fs.readlink(inode) if inode.is_symlink else None
        mode = _MODES.get(attr.obj_type, stat.S_IFREG) | attr.mode
        if self.args.json:
            self.rows.append(
                {
                    "path": json_name(path),
                    "mode": stat.filemode(mode),
                    "nlink": attr.nlink,
                    "uid": attr.uid,
                    "gid": attr.gid,
                    "size": attr.size,
                    "mtime_us": attr.mtime_us,
                    "ino": f"0x{attr.obj_id:016x}",
                    "pfs": attr.pfs_id,
                    "target": None if target is None else json_name(target),
                }
            )
            return
        text = safe_name(name)
        if self.args.long:
            size = f"{attr.rmajor}, {attr.rminor}" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else str(attr.size)
            when = time_text(attr.mtime_us / 1e6, "%Y-%m-%d %H:%M:%S")
            text = f"{stat.filemode(mode)} {attr.nlink:3d} {attr.uid:5d} {attr.gid:5d} {size:>12} {when} {text}"
            if target is not None:
                text += f" -> {safe_name(target)}"
        print(text)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + name if directory.endswith(b"/") else directory + b"/" + name
