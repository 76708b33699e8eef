"""`hammer version-upgrade volume-add volume-del volume-blkdevs`: the volumes as a whole, on a mount or an image."""

from __future__ import annotations

import argparse
import os

from hammerfs.const import VERSION_MAX, VERSION_MIN
from hammerfs.errors import UsageError
from tools.cmd_info import VERSIONS, find_facts
from tools.output import json_name, print_json, safe_name
from tools.passes import run_pass
from tools.session import open_session


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    upgrade = verbs.add_parser("version-upgrade", help="make the volumes a later version")
    upgrade.add_argument("path", metavar="FS", help="anything on a mount (with -f: / )")
    upgrade.add_argument("version", type=int, metavar="VERSION", help=f"{VERSION_MIN}..{VERSION_MAX}")
    upgrade.set_defaults(run=run_upgrade)
    add = verbs.add_parser("volume-add", help="make a device one more volume")
    add.add_argument("--force", action="store_true", help="overwrite what the device holds")
    _add_arguments(add, "the device or image file")
    add.set_defaults(run=run_add)
    remove = verbs.add_parser("volume-del", help="move everything off a volume, and take it out of the set")
    _add_arguments(remove, "the volume; not the root volume")
    remove.set_defaults(run=run_del)
    blkdevs = verbs.add_parser("volume-blkdevs", help="the volumes as one colon list, as mount_hammer takes it")
    blkdevs.add_argument("path", nargs="?", default=".", metavar="FS", help="anything on a mount (with -f: ignored)")
    blkdevs.set_defaults(run=run_blkdevs)


def _add_arguments(parser: argparse.ArgumentParser, device_help: str) -> None:
    parser.add_argument("device", metavar="DEVICE", help=device_help)
    parser.add_argument("path", nargs="?", default=".", metavar="FS", help="anything on a mount (with -f: ignored)")


def run_add(args: argparse.Namespace) -> int:
    """Add a volume."""
    device = os.path.abspath(args.device)
    if not args.volumes and _is_on(device, args.path):
        raise UsageError(f"{args.device} is a file of the file system that it would be a volume of")
    with open_session(args, args.path) as session:
        done = session.run("volume-add", device=device, force=args.force)
    if args.json:
        print_json({**done, "name": json_name(done["name"])})
    else:
        name = safe_name(os.fsencode(done["name"]))
        print(f"hammer volume-add: {name} is volume {done['number']}, {done['bigblocks']} big-blocks")
    return 0


def _is_on(device: str, path: str) -> bool:
    """Whether a file is on the file system of a path: its mount must not wait for itself."""
    try:
        return os.stat(device).st_dev == os.stat(path).st_dev
    except OSError:
        return False


def run_del(args: argparse.Namespace) -> int:
    """Remove a volume; one that is interrupted begins anew the next time, with what is left on the volume."""
    device = os.path.abspath(args.device)
    args.cycle = None
    with open_session(args, args.path) as session:
        done = run_pass(session, args, "volume-del", None, device=device)
        if done.stopped_at is not None:
            session.run("volume-del", device=device, stop=True)
    if args.json:
        reply = {"number": done.reply["number"], "name": json_name(done.reply["name"])}
        print_json({**reply, **done.stats, "stopped_by": done.by or None})
    else:
        name = safe_name(os.fsencode(done.reply["name"]))
        what = f"interrupted by {done.by}: {name} is still" if done.stopped_at is not None else f"{name} is no longer"
        print(f"hammer volume-del: {what} volume {done.reply['number']}")
        stats = done.stats
        print(f"    {stats['nodes_moved']} B-Tree nodes and {stats['nbytes_moved']} data bytes moved")
    return done.exit_code


def run_upgrade(args: argparse.Namespace) -> int:
    """Make the volumes a later version."""
    with open_session(args, args.path) as session:
        done = session.run("version-upgrade", version=args.version)
    if args.json:
        print_json(done)
    else:
        print(
            f"hammer version-upgrade: from version {done['before']} to {done['version']} ({VERSIONS[done['version']]})"
        )
    return 0


def run_blkdevs(args: argparse.Namespace) -> int:
    """Print the names of the volumes."""
    names = [name for _, name in find_facts(args)[0]["volumes"]]
    if args.json:
        print_json([json_name(name) for name in names])
    else:
        print(":".join(safe_name(os.fsencode(name)) for name in names))
    return 0
