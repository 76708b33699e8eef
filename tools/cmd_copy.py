"""`hammer cp extract tar pack unpack`: out of an image to files of this host, to an archive, to one packed file."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from hammerfs.errors import HammerError, UsageError
from tools.output import complain, json_name, print_json, safe_name
from tools.target import add_view_options, find, open_fs


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    cp = verbs.add_parser("cp", help="copy files and trees out of the image")
    cp.add_argument("-r", "-R", dest="recursive", action="store_true", help="directories with all below them")
    cp.add_argument("paths", nargs="+", metavar="PATH[@@TID]", help="in the image")
    cp.add_argument("target", metavar="TARGET", help="on this host: a directory to copy into, or the copy's own name")
    cp.set_defaults(run=run_cp)
    extract = verbs.add_parser("extract", help="copy a whole tree into a directory")
    extract.add_argument("path", nargs="?", default="/", metavar="PATH[@@TID]", help="in the image (default /)")
    extract.add_argument("target", metavar="DIR", help="on this host; made if it is not there")
    extract.set_defaults(run=run_extract)
    for parser in (cp, extract):
        parser.add_argument("--force", action="store_true", help="replace files that are there")
        add_view_options(parser)
    tar = verbs.add_parser("tar", help="write a tree to standard output as a tar archive (PAX)")
    tar.add_argument("path", nargs="?", default="/", metavar="PATH[@@TID]", help="in the image (default /)")
    tar.add_argument("--name", metavar="NAME", help="what the tree is called in the archive (default: as in the image)")
    add_view_options(tar)
    tar.set_defaults(run=run_tar)
    _add_pack_parsers(verbs)


class _Complaints:
    """Prints what went wrong with single objects, and remembers that something did."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self.count = 0

    def __call__(self, path: bytes, what: str) -> None:
        self.count += 1
        complain(f"hammer: {self._verb}", f"{safe_name(path) or '/'}: {what}")


def run_cp(args: argparse.Namespace) -> int:
    """Copy each path to, or into, the target."""
    target = Path(args.target)
    if len(args.paths) > 1 and not target.is_dir():
        raise UsageError(f"{args.target}: several files need a directory to go to")
    return _copy(args, args.paths, into=target.is_dir())


def run_extract(args: argparse.Namespace) -> int:
    """Copy what a directory holds into another."""
    args.recursive = True
    return _copy(args, [args.path], into=False)


def _copy(args: argparse.Namespace, paths: list[str], *, into: bool) -> int:
    from tools.extract import Extractor

    complain = _Complaints(args.verb)
    target = os.fsencode(args.target)
    with open_fs(args) as fs:
        extractor = Extractor(fs, force=args.force, complain=complain)
        for path in paths:
            inode = find(fs, args, path, follow=False)
            if inode.is_dir and not args.recursive:
                raise UsageError(f"{path} is a directory: -r copies it")
            with _host_errors(args.target):
                extractor.tree(inode, os.path.join(target, _last_name(path)) if into else target)
    if args.json:
        print_json({"copied": extractor.copied, "failed": complain.count})
    return int(complain.count > 0)


def run_tar(args: argparse.Namespace) -> int:
    """Stream the archive."""
    from tools.tarstream import TarStream

    if sys.stdout.isatty():
        raise UsageError("a tar archive is not written to a terminal: redirect it")
    complain = _Complaints(args.verb)
    with open_fs(args) as fs:
        inode = find(fs, args, args.path, follow=False)
        name = _last_name(args.path) if args.name is None else os.fsencode(args.name)
        stream = TarStream(fs, sys.stdout.buffer, complain)
        stream.tree(inode, name.strip(b"/"))
        stream.close()
    return int(complain.count > 0)


def _last_name(path: str) -> bytes:
    """What a path is called without its point in time; empty for a root."""
    name = os.fsencode(path).rstrip(b"/").rpartition(b"/")[2].partition(b"@@")[0]
    return b"" if name in {b".", b".."} else name


def _add_pack_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pack` and `unpack`."""
    pack = verbs.add_parser("pack", help="all volumes of the set as one compressed file")
    pack.add_argument("target", metavar="FILE", help="the file to make")
    pack.set_defaults(run=run_pack)
    unpack = verbs.add_parser("unpack", help="the volumes in a packed file, as sparse files again")
    unpack.add_argument("source", metavar="FILE", help="a packed file")
    unpack.add_argument("target", metavar="DIR", nargs="?", default=".", help="where to (default: here)")
    unpack.add_argument("--list", action="store_true", help="only name the volumes in it")
    unpack.set_defaults(run=run_unpack)
    for parser in (pack, unpack):
        parser.add_argument("--force", action="store_true", help="replace files that are there")


def run_pack(args: argparse.Namespace) -> int:
    """Pack the volumes, as they are on the media."""
    from hammerfs.packfile import pack

    with open_fs(args, "raw") as fs:
        devices = [volume.dev for volume in sorted(fs.volumes, key=lambda volume: volume.vol_no)]
        with _host_errors(args.target):
            pack(devices, Path(args.target), force=args.force)
        total = sum(dev.size for dev in devices)
    size = Path(args.target).stat().st_size
    if args.json:
        print_json({"file": json_name(args.target), "volumes": len(devices), "bytes": total, "packed_bytes": size})
    else:
        print(f"{len(devices)} volume(s), {total} bytes, packed into {size}")
    return 0


def run_unpack(args: argparse.Namespace) -> int:
    """Unpack the volumes, or name them."""
    from hammerfs.packfile import members, unpack

    source = Path(args.source)
    with _host_errors(args.source):
        found = members(source)
        paths = [] if args.list else unpack(source, Path(args.target), force=args.force)
    if args.json:
        volumes = [{"name": json_name(member.name), "size": member.size} for member in found]
        print_json({"volumes": volumes, "files": [json_name(str(path)) for path in paths]})
        return 0
    for member in found:
        print(f"{member.size:>16} {safe_name(os.fsencode(member.name))}")
    return 0


@contextlib.contextmanager
def _host_errors(place: str) -> Iterator[None]:
    try:
        yield
    except HammerError:
        raise
    except OSError as err:
        raise HammerError(f"{err.filename or place}: {err.strerror}") from None
