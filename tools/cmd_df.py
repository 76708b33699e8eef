"""`hammer df`: how much space there is, and with ``--history`` what takes it and what pruning would give back."""

from __future__ import annotations

import argparse
import os
from typing import Any

from hammerfs.errors import HammerError
from hammerfs.maint.verbs_df import begin_census, space
from tools.output import json_name, print_json, safe_name, size_text
from tools.passes import run_pass
from tools.session import open_session
from tools.target import open_fs

_CLASSES = {
    "live": "present",
    "history": "only past",
    "reclaimable": "  prune gives back now",
    "several": "  held by several snapshots",
    "recent": "  newer than prune looks",
}


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    df = verbs.add_parser("df", help="how much space there is, and what takes it")
    df.add_argument(
        "--history", action="store_true", help="what is present, only past, held by each snapshot, and to be pruned"
    )
    df.add_argument("path", nargs="?", default=".", metavar="FS", help="anything on a mount (with -f: ignored)")
    df.set_defaults(run=run_df)


def run_df(args: argparse.Namespace) -> int:
    """Print how much space there is."""
    place, found = _ask(args)
    sizes = found["space"]
    if args.json:
        print_json(_for_json(found) if args.history else sizes)
        return 0
    print(f"{'Size':>10} {'Used':>10} {'Reserved':>10} {'Free':>10} {'Available':>10}  Mounted on")
    columns = [size_text(sizes[name]) for name in ("total", "used", "reserved", "free", "available")]
    print(" ".join(f"{text:>10}" for text in columns), "", safe_name(os.fsencode(place)))
    if args.history:
        for pfs in found["pfs"]:
            _print_pfs(pfs)
        _print_stored(found)
    return 0


def _ask(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Where it is mounted, and the answer: of volumes, or of the mount that holds a path."""
    if args.volumes:
        with open_fs(args) as fs:
            if not args.history:
                return "not mounted", {"space": space(fs)}
            census = begin_census(fs)
            while census.step():
                continue
            return "not mounted", {"space": space(fs), **census.as_json()}
    args.cycle = None
    with open_session(args, args.path) as session:
        if not args.history:
            return session.place, {"space": session.run("df")}
        done = run_pass(session, args, "df-history", None)
    if done.stopped_at is not None:
        raise HammerError(f"{args.path}: stopped by {done.by} before all records were seen")
    return session.place, done.reply["result"]


def _for_json(found: dict[str, Any]) -> dict[str, Any]:
    def named(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "label": json_name(os.fsencode(row["label"]))}

    pfs = [{**named(one), "snapshots": [named(snap) for snap in one["snapshots"]]} for one in found["pfs"]]
    return {**found, "pfs": pfs}


def _print_pfs(pfs: dict[str, Any]) -> None:
    print(f"PFS {pfs['id']} {safe_name(os.fsencode(pfs['label']))}".rstrip())
    for name, text in _CLASSES.items():
        _print_sum(text, pfs[name])
    for snap in pfs["snapshots"]:
        _print_sum(f"  held only by {snap['tid']}", snap, safe_name(os.fsencode(snap["label"])))


def _print_sum(text: str, row: dict[str, Any], label: str = "") -> None:
    print(f"    {text:<34}{size_text(row['bytes']):>10} {row['records']:>10} records  {label}".rstrip())


def _print_stored(found: dict[str, Any]) -> None:
    stored = found["stored"]
    print("On the media" if stored["exact"] else "On the media (not all shared data was told apart)")
    rows = {
        "payloads, shared ones once": stored["bytes"],
        "  of the present": stored["live_bytes"],
        "  of the past alone": stored["history_bytes"],
        "  prune gives back now": stored["reclaimable_bytes"],
        "B-Tree nodes": found["nodes_bytes"],
        "room in big-blocks that are in use": found["room_bytes"],
    }
    for text, nbytes in rows.items():
        print(f"    {text:<34}{size_text(nbytes):>10}")
