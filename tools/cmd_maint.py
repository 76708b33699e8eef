"""`hammer prune prune-everything reblock* rebalance`: giving space back, on a mount or an image."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from hammerfs.const import LOCALIZE_MASK, NODE_SIZE
from hammerfs.keys import MAX_INT64
from hammerfs.maint.verbs_space import CLASSES
from tools.output import print_json, safe_name
from tools.passes import PassResult, place_text, run_pass
from tools.session import open_session
from tools.softlinks import pruned_by

_FIRST = f"{1 << 63:016x}:{0:04x}"
_LAST = f"{MAX_INT64:016x}:{LOCALIZE_MASK:04x}"
_EXIT_INTERRUPTED = 130


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    prune = verbs.add_parser("prune", help="remove history that no snapshot shows")
    prune.add_argument(
        "path", metavar="FS|DIR", help="anything in the PFS, or a directory of softlinks to snapshots of it"
    )
    prune.add_argument(
        "--exact",
        action="store_true",
        help="keep what was created at the very TID of a snapshot, which DragonFly prunes",
    )
    prune.set_defaults(run=run_prune, everything=False)
    prune = verbs.add_parser("prune-everything", help="remove all history, and the snapshots")
    prune.add_argument("path", metavar="FS", help="anything in the PFS")
    prune.set_defaults(run=run_prune, everything=True)
    for verb, what in [("reblock", None), *((f"reblock-{name}", name) for name in CLASSES)]:
        reblock = verbs.add_parser(verb, help=f"move {what or 'everything'} out of big-blocks that are not full")
        reblock.add_argument("path", metavar="FS", help="anything in the PFS")
        reblock.add_argument(
            "percent", nargs="?", type=_percent, default=100, help="empty big-blocks filled to less (default 100: all)"
        )
        reblock.set_defaults(run=run_reblock, what=None if what is None else [what])
    rebalance = verbs.add_parser("rebalance", help="fill the nodes of the B-Tree evenly")
    rebalance.add_argument("path", metavar="FS", help="anything in the PFS")
    rebalance.add_argument("percent", nargs="?", type=_percent, default=85, help="how full: 50 to 100 (default 85)")
    rebalance.set_defaults(run=run_rebalance)


def _percent(text: str) -> int:
    digits = text.removesuffix("%")
    if not digits.isdecimal() or int(digits) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage: 0 to 100")
    return int(digits)


def run_prune(args: argparse.Namespace) -> int:
    """Prune a PFS."""
    words: dict[str, Any] = {"everything": args.everything, "ranges": None}
    path = args.path
    if not args.everything:
        words["exact"] = args.exact
        if args.volumes:
            words["directory"] = path if path.strip("/") else None
        else:  # softlinks are read here, wherever they are
            path, links = pruned_by(path)
            words |= {"targets": [link.target for link in links], "times": [link.ts for link in links]}
    with open_session(args, path) as session:
        done = run_pass(session, args, "prune", path, **words)
    reply, stats = done.reply, done.stats
    if args.json:
        print_json(_report(done))
        return _exit_code(done)
    place = safe_name(os.fsencode(path))
    ranges = reply["ranges"]
    if ranges == []:
        print("No snapshots found", file=sys.stderr)
        return 0
    for beg, end in ranges or []:
        print(f"TID {int(beg, 16):016x} - {int(end, 16):016x}")
    what = "EVERYTHING" if ranges is None else f"{len(ranges)} snapshots"
    print(f"Prune {place}: {what}")
    print(f"Prune {place}: objspace {_FIRST} {_LAST} pfs_id {reply['pfs']}")
    print(f"Prune {place}: prune_min is {_days(reply['prune_min'])}")
    print(f"Prune {place} {_outcome(done)}")
    print(
        f"Pruned {stats.get('records', 0)}/{stats.get('scanned', 0)} records "
        f"({stats.get('entries', 0)} directory entries) and {stats.get('nbytes', 0)} bytes"
    )
    return _exit_code(done)


def run_reblock(args: argparse.Namespace) -> int:
    """Reblock a PFS."""
    place = safe_name(os.fsencode(args.path))
    with open_session(args, args.path) as session:
        done = run_pass(session, args, "reblock", args.path, what=args.what, percent=args.percent)
    if args.json:
        print_json(_report(done))
        return _exit_code(done)
    stats = done.stats
    print(f"reblock start {_FIRST}")
    print(f"free level {done.reply['free_level']}/8388608")
    print(f"Reblock {place} {_outcome(done)}")
    print("Reblocked:")
    print(f"    {stats['nodes_moved']}/{stats['nodes']} B-Tree nodes")
    print(f"    {stats['nodes_moved'] * NODE_SIZE}/{stats['nodes'] * NODE_SIZE} B-Tree bytes")
    print(f"    {stats['payloads_moved']}/{stats['payloads']} data elements")
    print(f"    {stats['nbytes_moved']}/{stats['nbytes']} data bytes")
    if stats["damaged"]:
        print(f"hammer: {args.verb}: {stats['damaged']} damaged payloads were not moved", file=sys.stderr)
        return 1
    return _exit_code(done)


def run_rebalance(args: argparse.Namespace) -> int:
    """Rebalance the tree of a PFS."""
    with open_session(args, args.path) as session:
        done = run_pass(session, args, "rebalance", args.path, percent=args.percent)
    if args.json:
        print_json(_report(done))
        return _exit_code(done)
    print(f"rebalance start {_FIRST}")
    print(f"Rebalance {safe_name(os.fsencode(args.path))} {_outcome(done)}")
    print("Rebalance:")
    print(f"    {done.stats['nodes']} B-Tree nodes scanned")
    print(f"    {done.stats['removed']} B-Tree nodes deleted")
    print("    0 collision retries")  # nobody else changes the tree meanwhile
    print(f"    {done.stats['rebalanced']} B-Tree nodes rebalanced")
    return _exit_code(done)


def _report(done: PassResult) -> dict[str, Any]:
    rest = {name: value for name, value in done.reply.items() if name not in {"next", "stats"}}
    return {**rest, **done.stats, "stopped_at": done.stopped_at, "stopped_by": done.by or None}


def _outcome(done: PassResult) -> str:
    return "succeeded" if done.stopped_at is None else f"interrupted by {done.by} at {place_text(done.stopped_at)}"


def _exit_code(done: PassResult) -> int:
    return _EXIT_INTERRUPTED if done.by == "interrupt" else 0


def _days(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    return f"{days}d/{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
