"""`hammer version-upgrade volume-blkdevs`: the volumes as a whole, on a mount or an image."""

from __future__ import annotations

import argparse
import os

from hammerfs.const import VERSION_MAX, VERSION_MIN
from tools.cmd_info import VERSIONS, find_facts
from tools.output import print_json, safe_name
from tools.session import open_session


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    upgrade = verbs.add_parser("version-upgrade", help="make the volumes a later version")
    upgrade.add_argument("path", metavar="FS", help="anything on a mount (with -f: / )")
    upgrade.add_argument("version", type=int, metavar="VERSION", help=f"{VERSION_MIN}..{VERSION_MAX}")
    upgrade.set_defaults(run=run_upgrade)
    blkdevs = verbs.add_parser("volume-blkdevs", help="the volumes as one colon list, as mount_hammer takes it")
    blkdevs.add_argument("path", nargs="?", default=".", metavar="FS", help="anything on a mount (with -f: ignored)")
    blkdevs.set_defaults(run=run_blkdevs)


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
        print_json(names)
    else:
        print(":".join(safe_name(os.fsencode(name)) for name in names))
    return 0
