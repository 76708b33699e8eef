"""`hammer ps vmstat tokens iostats bstats stats sysctl`: what runs inside a mount now."""

from __future__ import annotations

import argparse
from typing import Any

from tools.output import print_json
from tools.session import open_session

_HELP = {
    "ps": "the threads of a mount's kernel core",
    "vmstat": "its memory by type",
    "tokens": "its tokens",
    "iostats": "what a mount has read and written",
    "bstats": "what is in a mount's memory",
    "stats": "all counters of a mount's file system",
}


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    for verb, text in _HELP.items():
        parser = verbs.add_parser(verb, help=text)
        parser.add_argument("path", metavar="FS", help="anything in the mount")
        parser.set_defaults(run=run_stat, verb=verb)
    sysctl = verbs.add_parser("sysctl", help="show or set what can be seen and set of a mount by name")
    sysctl.add_argument("path", metavar="FS", help="anything in the mount")
    sysctl.add_argument("setting", nargs="?", metavar="NAME[=VALUE]", help="one name, or all below it; a value")
    sysctl.set_defaults(run=run_sysctl)


def run_stat(args: argparse.Namespace) -> int:
    """Print a table of rows, or counters by name."""
    with open_session(args, args.path) as session:
        found = session.run(args.verb)
    if args.json:
        found.pop("text", None)
        print_json(found)
    elif "text" in found:
        print(found["text"])
        for arena in found.get("arenas", []):
            print(" ".join(f"{name}={value}" for name, value in arena.items()))
    else:
        _print_counters(found, ": ")
    return 0


def run_sysctl(args: argparse.Namespace) -> int:
    """Print values by name."""
    name, has_value, value = (args.setting or "").partition("=")
    with open_session(args, args.path) as session:
        found = session.run("sysctl", name=name or None, value=value if has_value else None)
    if args.json:
        print_json(found)
    else:
        _print_counters(found, ": ")
    return 0


def _print_counters(found: dict[str, Any], sign: str) -> None:
    for name, value in found.items():
        print(f"{name}{sign}{'-' if value is None else value}")
