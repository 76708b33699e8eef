"""`hammer dedup dedup-simulate`: equal file data is stored once, on a mount or an image."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

from tools.dedupe import MEMORY, Deduper
from tools.output import print_json, safe_name, size_text
from tools.session import open_session
from tools.stop import Stop


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    for verb, text in (
        ("dedup", "store equal file data once"),
        ("dedup-simulate", "tell what dedup would gain, by checksums"),
    ):
        parser = verbs.add_parser(verb, help=text)
        parser.add_argument("path", metavar="FS", help="anything in the PFS")
        parser.set_defaults(run=run_dedup, simulate=verb != "dedup")


def run_dedup(args: argparse.Namespace) -> int:
    """Deduplicate a PFS, or tell what that would come to."""
    name = "Dedup-simulate" if args.simulate else "Dedup"
    if not args.json:
        print(f"{name} running", flush=True)
    with Stop() as stop, open_session(args, args.path) as session:
        deduper = Deduper(session, simulate=args.simulate, memory=args.memory or MEMORY, check=stop.check)
        totals = deduper.run(args.path, args.seconds)
    ratio = totals.referenced / totals.allocated if totals.allocated else 1.0
    if args.json:
        print_json({**asdict(totals), "ratio": round(ratio, 4), "complete": deduper.is_complete})
        return 0
    outcome = "succeeded" if deduper.is_complete else "interrupted by timer"
    print(f"{name} {safe_name(os.fsencode(args.path))} {outcome}")
    if args.simulate:
        print(f"Simulated dedup ratio = {ratio:.2f}")
        return 0
    print(f"Dedup ratio = {ratio:.2f} (in this run)")
    for value, what in (
        (totals.referenced, "referenced"),
        (totals.allocated, "allocated"),
        (totals.skipped, "skipped"),
    ):
        print(f"    {size_text(value):>8} {what}")
    for value, what in (
        (totals.crc_collisions, "CRC collisions"),
        (0, "SHA collisions"),  # bytes are compared, not hashed
        (totals.underflows, "big-block underflows"),
        (totals.records, "new dedup records"),
        (totals.nbytes, "new dedup bytes"),
    ):
        print(f"    {value:8d} {what}")
    return 0
