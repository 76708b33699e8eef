"""`hammer info version volume-list snapls namekey*`: facts about an image."""

from __future__ import annotations

import argparse
import os
from typing import Any

from hammerfs.const import BIGBLOCK_SIZE, VERSION_MAX, VERSION_MIN
from hammerfs.crc import crc32
from hammerfs.keys import namekey0, namekey1
from hammerfs.maint.facts import facts
from hammerfs.snapshot import Snapshot
from tools.output import json_name, print_json, safe_name, size_text, time_text
from tools.session import open_session
from tools.target import open_fs, parse_pfs_or_path

VERSIONS = {
    1: "First HAMMER release (DragonFly 2.0+)",
    2: "New directory entry layout (DragonFly 2.3+)",
    3: "New snapshot management (DragonFly 2.5+)",
    4: "New undo/flush, faster flush/sync (DragonFly 2.5+)",
    5: "Adjustments for dedup support (DragonFly 2.9+)",
    6: "Directory Hash ALG1 (tmp/rename resistance)",
    7: "CRC-32C checksums (DragonFly 5.1+)",
}


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    info = verbs.add_parser("info", help="label, volumes, space, PFSs")
    _add_mount_argument(info)
    info.set_defaults(run=run_info)
    version = verbs.add_parser("version", help="the volumes' version and all versions there are")
    _add_mount_argument(version)
    version.set_defaults(run=run_version)
    volume_list = verbs.add_parser("volume-list", help="the volumes, in order")
    volume_list.add_argument("-v", dest="verbose", action="count", default=argparse.SUPPRESS, help="with their numbers")
    _add_mount_argument(volume_list)
    volume_list.set_defaults(run=run_volume_list)
    snapls = verbs.add_parser("snapls", help="the snapshots of a PFS")
    _add_pfs_argument(snapls)
    snapls.set_defaults(run=run_snapls)
    for verb, text in (
        ("namekey1", "name key by directory hash algorithm 0"),
        ("namekey2", "name key by directory hash algorithm 1"),
        ("namekey32", "32-bit hash of a name"),
    ):
        namekey = verbs.add_parser(verb, help=text)
        namekey.add_argument("name", metavar="NAME")
        namekey.set_defaults(run=run_namekey, verb=verb)


def _add_mount_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", metavar="FS", help="anything on a mount (with -f: ignored)")


def find_facts(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What there is to know of volumes or of a mount, and where it is mounted."""
    if args.volumes:
        with open_fs(args) as fs:
            return facts(fs), "not mounted"
    with open_session(args, args.path) as session:
        found: dict[str, Any] = session.run("info")
        return found, session.place


def _add_pfs_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("where", nargs="?", default="0", metavar="N|LABEL|/PATH", help="which PFS (default 0)")
    parser.add_argument("--pfs", metavar="N|LABEL", help="the same")


def run_info(args: argparse.Namespace) -> int:
    """Print what the root volume header says of the file system, and its PFSs."""
    found, place = find_facts(args)
    blocks = found["bigblocks"]
    label = os.fsencode(found["label"])
    if args.json:
        rest = {name: found[name] for name in ("fsid", "version", "bigblocks", "inodes", "pfs")}
        print_json({"label": json_name(label), "volumes": len(found["volumes"]), **rest})
        return 0
    everything = blocks["total"]
    shares = [(name.capitalize(), blocks[name]) for name in ("used", "reserved", "free")]
    print("Volume identification")
    print(f"\tLabel               {safe_name(label)}")
    print(f"\tNo. Volumes         {len(found['volumes'])}")
    print(f"\tFSID                {found['fsid']}")
    print(f"\tHAMMER Version      {found['version']}")
    print("Big block information")
    print(f"\tTotal      {everything:10d}")
    for name, count in shares:
        print(f"\t{name:<10} {count:10d} ({_percent(count, everything):.2f}%)")
    print("Space information")
    print(f"\tNo. Inodes {found['inodes']:10d}")
    total = everything * BIGBLOCK_SIZE
    print(f"\tTotal size     {size_text(total):>6} ({total} bytes)")
    for name, count in shares:
        print(f"\t{name:<14} {size_text(count * BIGBLOCK_SIZE):>6} ({_percent(count, everything):.2f}%)")
    print("PFS information")
    print("\tPFS ID  Mode    Snaps  Mounted on")
    for pfs in found["pfs"]:
        where = "not mounted" if pfs["id"] else safe_name(os.fsencode(place))
        print(f"\t{pfs['id']:6d}  {pfs['mode']:<6} {pfs['snapshots']:6d}  {where}")
    return 0


def run_version(args: argparse.Namespace) -> int:
    """Print the version of the volumes and the ones there are."""
    current = find_facts(args)[0]["version"]
    if args.json:
        print_json({"min": VERSION_MIN, "max": VERSION_MAX, "current": current, "description": VERSIONS[current]})
        return 0
    print(f'min={VERSION_MIN} wip=none max={VERSION_MAX} current={current} description="{VERSIONS[current]}"')
    print("available versions:")
    for number, text in VERSIONS.items():
        print(f"    {number}\tNORM\t{text}")
    return 0


def run_volume_list(args: argparse.Namespace) -> int:
    """Print the volumes by number."""
    found, _ = find_facts(args)
    names, root = found["volumes"], found["root"]
    if args.json:
        print_json([{"number": number, "name": json_name(name), "root": number == root} for number, name in names])
        return 0
    for number, name in names:
        text = safe_name(os.fsencode(name))
        print(f"{number}\t{text}{' (Root Volume)' if number == root else ''}" if args.verbose else text)
    return 0


def run_snapls(args: argparse.Namespace) -> int:
    """Print the snapshot records of one PFS by TID."""
    pfs_id, place, snaps = _snapshots(args)
    if args.json:
        print_json([{"tid": f"0x{s.tid:016x}", "ts_us": s.ts_us, "label": json_name(s.label)} for s in snaps])
        return 0
    print(f"Snapshots on {safe_name(place)}\tPFS#{pfs_id}")
    print("Transaction ID\t\tTimestamp\t\tNote")
    for snap in snaps:
        print(f"0x{snap.tid:016x}\t{time_text(snap.ts_us // 1_000_000)}\t{safe_name(snap.label) or '-'}")
    return 0


def _snapshots(args: argparse.Namespace) -> tuple[int, bytes, list[Snapshot]]:
    """PFS, name of the file system, and snapshots: of volumes, or of the mount that holds a path."""
    if args.volumes:
        with open_fs(args) as fs:
            pfs_id = parse_pfs_or_path(fs, args.pfs or args.where)
            return pfs_id, fs.volumes.superblock.label, fs.snapshots(pfs_id)
    with open_session(args, args.where) as session:
        found = session.run("snapls", args.where)
        rows = found["snapshots"]
        snaps = [Snapshot(int(row["tid"], 16), row["ts_us"], os.fsencode(row["label"])) for row in rows]
        return found["pfs"], os.fsencode(session.place), snaps


def run_namekey(args: argparse.Namespace) -> int:
    """Print the hash of a name."""
    name = os.fsencode(args.name)
    if args.verb == "namekey32":
        text = f"0x{crc32(name, 0):08x}"
    else:
        text = f"0x{(namekey0 if args.verb == 'namekey1' else namekey1)(name):016x}"
    if args.json:
        print_json({"name": json_name(name), "key": text})
    else:
        print(text)
    return 0


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
