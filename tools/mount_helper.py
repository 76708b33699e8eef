"""`mount.hammer`, `umount.hammer`: called by mount(8) and umount(8), with their words and exit codes.

They are `mount.fuse.hammer` and `umount.fuse.hammer` as well: what is mounted has this type.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack

from hammerfs.device import lock
from hammerfs.device.mounts import MountEntry, mount_table
from hammerfs.device.open import parse_spec, split_volumes
from hammerfs.errors import HammerError, UsageError
from tools.mount_hammer import FAILED, WRONG_CALL, MountParser
from tools.mount_hammer import main as mount_hammer
from tools.output import complain
from tools.session import open_mount

_PAUSE_S = 0.02
_OF_KERNEL = ("user_id=", "group_id=", "rootmode=", "fd=", "blksize=", "subtype=")
"""What mount(8) takes over from the table of mounts when it remounts."""


def build_mount_parser() -> argparse.ArgumentParser:
    """The parser of `mount.hammer`."""
    parser = MountParser(prog="mount.hammer", description="Mount a HAMMER volume set, for mount(8).")
    parser.add_argument("source", metavar="VOL[:VOL...]", help="the volumes, in any order")
    parser.add_argument("directory", metavar="DIR", help="where to mount")
    parser.add_argument("-f", dest="fake", action="store_true", help="all but the mount itself")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS", help="a,b=c,...")
    _add_swallowed(parser)
    return parser


def build_umount_parser() -> argparse.ArgumentParser:
    """The parser of `umount.hammer`."""
    parser = MountParser(prog="umount.hammer", description="Unmount a HAMMER volume set, for umount(8).")
    parser.add_argument("directory", metavar="DIR", help="the mount point, or what is mounted")
    parser.add_argument("-f", dest="force", action="store_true", help="as umount(8) has it")
    parser.add_argument("-l", dest="lazy", action="store_true", help="now from the tree, in truth when it is not busy")
    parser.add_argument("-r", dest="read_only", action="store_true", help="read-only if it is busy")
    _add_swallowed(parser)
    return parser


def mount(argv: Sequence[str] | None = None) -> int:
    """Run `mount.hammer SOURCE DIR [-fnsv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`; return its exit code."""
    args = build_mount_parser().parse_args(argv)
    try:
        return _mount(args)
    except HammerError as err:
        complain("mount.hammer", err)
        return WRONG_CALL if isinstance(err, UsageError) else FAILED


def umount(argv: Sequence[str] | None = None) -> int:
    """Run `umount.hammer DIR [-flnrv] [-N NAMESPACE] [-t TYPE]`: when it returns, all is on the media."""
    args = build_umount_parser().parse_args(argv)
    try:
        entry = _entry_of(args.directory)
        flags = [flag for flag, given in (("-f", args.force), ("-l", args.lazy), ("-r", args.read_only)) if given]
        code = subprocess.run(["umount", "-i", *flags, entry.mountpoint], check=False).returncode
        if not code and not args.lazy:
            _wait_for_daemon(entry)
    except HammerError as err:
        complain("umount.hammer", err)
        return FAILED
    return code


def _add_swallowed(parser: argparse.ArgumentParser) -> None:
    """What mount(8) and umount(8) hand on, and means nothing here."""
    parser.add_argument("-n", dest="no_mtab", action="store_true", help="ignored: there is no mtab")
    parser.add_argument("-v", dest="verbose", action="store_true", help="ignored")
    parser.add_argument("-N", dest="namespace", metavar="NAMESPACE", help="ignored: mount(8) is in it already")
    parser.add_argument("-t", dest="fstype", metavar="TYPE", help="ignored")


def _mount(args: argparse.Namespace) -> int:
    from hammerfs.fuse.mountpoint import check_mountpoint
    from hammerfs.fuse.options import parse_options

    words = [word for text in args.options for word in text.split(",") if word]
    is_remount = "remount" in words
    words = [word for word in words if word != "remount" and (not args.sloppy or _is_known(word))]
    if is_remount:
        words = [word for word in words if not word.startswith(_OF_KERNEL)]
    options = parse_options([",".join(words)])
    check_mountpoint(os.path.realpath(args.directory))
    if args.fake:
        return 0
    if is_remount:
        return _remount(args.directory, sorted({"ro" if options.read_only else "rw", *options.kernel_flags}))
    return mount_hammer(
        ["-o", ",".join(words), args.source, args.directory] if words else [args.source, args.directory]
    )


def _is_known(word: str) -> bool:
    from hammerfs.fuse.options import parse_options

    try:
        parse_options([word, "ro"])
    except UsageError:
        return False
    return True


def _remount(directory: str, words: list[str]) -> int:
    """Change what the kernel lets through; a daemon that reads only stays so.

    Raises:
        HammerError: Nothing is mounted there, or its daemon only reads.
    """
    entry = _entry_of(directory)
    if "rw" in words:
        with open_mount(entry.mountpoint) as session:
            if not session.run("stats")["writable"]:
                raise HammerError(f"{entry.mountpoint} was mounted read-only: unmount it, and mount it for writing")
    return subprocess.run(
        ["mount", "-i", "-o", ",".join(["remount", *words]), entry.mountpoint], check=False
    ).returncode


def _entry_of(name: str) -> MountEntry:
    """The mount at a directory, or of a source; the last if there are several."""
    place = os.path.realpath(name)
    for entry in reversed(mount_table()):
        if entry.fstype == "fuse.hammer" and (entry.mountpoint == place or name == entry.source):
            return entry
    raise HammerError(f"{name}: no HAMMER file system is mounted there")


def _wait_for_daemon(entry: MountEntry) -> None:
    """umount(2) returns before the daemon has ended: wait until it lets go of the volumes, or they are mounted anew."""
    paths = [parse_spec(text).path for text in split_volumes(entry.source)]
    with ExitStack() as stack:
        files = []
        for path in paths:
            try:
                files.append(stack.enter_context(open(path, "rb")))
            except OSError:
                continue  # it is gone: nobody writes to it any more
        while any(lock.has_writer(file.fileno()) for file in files):
            if any(other.source == entry.source for other in mount_table()):
                return
            time.sleep(_PAUSE_S)
