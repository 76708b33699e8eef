"""`hammer show blockmap checkmap show-undo`: the media as it is, without any recovery."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from hammerfs.const import TID_INFINITE
from hammerfs.errors import UsageError
from hammerfs.fs import HammerFS
from hammerfs.keys import KEY_MAX, KEY_MIN, MIN_INT64, Key
from tools.output import print_json, safe_line, safe_name
from tools.target import open_fs

_HEX = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,16}\Z")


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    show = verbs.add_parser("show", help="the B-Tree: all nodes, elements and records, and what is wrong with them")
    show.add_argument("key", nargs="?", metavar="LO:OBJID[:RT[:KEY[:TID]]]", help="only what has this key; all in hex")
    show.add_argument(
        "-q",
        dest="quiet",
        action="count",
        default=argparse.SUPPRESS,
        help="less of inodes; twice: no contents of records; thrice: no header, fill ratios and payload checksums",
    )
    show.set_defaults(run=run_show)
    blockmap = verbs.add_parser("blockmap", help="the freemap: owner and free bytes of every big-block")
    blockmap.add_argument(
        "-q",
        dest="quiet",
        action="count",
        default=argparse.SUPPRESS,
        help="owner, append point and free bytes only",
    )
    blockmap.set_defaults(run=run_blockmap)
    verbs.add_parser("checkmap", help="the freemap beside a recount from the tree").set_defaults(run=run_checkmap)
    verbs.add_parser("show-undo", help="the records of the UNDO/REDO FIFO").set_defaults(run=run_show_undo)


def run_show(args: argparse.Namespace) -> int:
    """`hammer show`."""
    from tools.rawview.show import Shower
    from tools.rawview.summary import summary, summary_json

    first, last = parse_key(args.key) if args.key is not None else (KEY_MIN, KEY_MAX)
    emit = emitter()
    with open_fs(args, recover="raw") as fs:
        shower = Shower(fs, args.quiet, first, last, name=_name())
        if args.json:
            _show_json(fs, shower, summary_json(fs))
            return 0
        if args.quiet < 3:
            for line in summary(fs):
                emit(line)
        shower.run(emit)
        for line in shower.bad.lines():
            emit(line)
    return 0


def _show_json(fs: HammerFS, shower: Any, head: dict[str, Any]) -> None:
    """One JSON object, written node by node."""
    out = sys.stdout
    out.write(f'{{"volume_set": {json.dumps(head)},\n"nodes": [')
    separator = "\n"

    def node(value: dict[str, Any]) -> None:
        nonlocal separator
        out.write(separator + json.dumps(value))
        separator = ",\n"

    shower.run(_ignore, node)
    bad = shower.bad
    out.write(f'\n],\n"bad": {json.dumps({"nodes": bad.nodes, "elms": bad.elms, "records": bad.records})}}}\n')


def run_blockmap(args: argparse.Namespace) -> int:
    """`hammer blockmap`."""
    from tools.rawview import blockmap

    return _view(args, lambda fs: blockmap.lines(fs, brief=args.quiet > 0), lambda fs: {"layer1": blockmap.as_json(fs)})


def run_show_undo(args: argparse.Namespace) -> int:
    """`hammer show-undo`."""
    from tools.rawview import fifo

    return _view(args, fifo.lines, lambda fs: {"records": list(fifo.records(fs))})


def run_checkmap(args: argparse.Namespace) -> int:
    """`hammer checkmap`; 1 when something is wrong."""
    from tools.rawview import checkmap
    from tools.rawview.summary import summary, summary_json

    emit = emitter()
    with open_fs(args, recover="raw") as fs:
        if args.json:
            found = checkmap.as_json(fs)
            print_json({"volume_set": summary_json(fs), **found})
            return int(bool(found["errors"] or found["bad_nodes"]))
        for line in summary(fs):
            emit(line)
        return int(checkmap.run(fs, emit) > 0)


def _view(
    args: argparse.Namespace, lines: Callable[[HammerFS], Any], as_json: Callable[[HammerFS], dict[str, Any]]
) -> int:
    """A view that can be told line by line."""
    from tools.rawview.summary import summary, summary_json

    emit = emitter()
    with open_fs(args, recover="raw") as fs:
        if args.json:
            print_json({"volume_set": summary_json(fs), **as_json(fs)})
            return 0
        for line in summary(fs):
            emit(line)
        for line in lines(fs):
            emit(line)
    return 0


def parse_key(text: str) -> tuple[Key, Key]:
    """First and last sort key of a prefix ``lo:objid[:rt[:key[:tid]]]`` in hex.

    Raises:
        UsageError: It is none.
    """
    parts = text.split(":")
    if not 1 <= len(parts) <= 5 or not all(_HEX.match(part) for part in parts):
        raise UsageError(f"'{text}' is no key: LO:OBJID[:RT[:KEY[:TID]]] in hex")
    values = [int(part, 16) for part in parts]
    for i in (1, 3):
        if len(values) > i and values[i] >> 63:
            values[i] -= 1 << 64
    if len(values) == 5:
        values[4] = values[4] or TID_INFINITE
    low = (0, MIN_INT64, 0, MIN_INT64, 0)
    first = (*values, *low[len(values) :])
    last = (*values, *KEY_MAX[len(values) :])
    return first, last  # type: ignore[return-value]  # five numbers each


def emitter() -> Callable[[str], object]:
    """Writes lines to stdout; stored names in them are the bytes they were, but not on a terminal."""
    buffer, is_terminal = sys.stdout.buffer, sys.stdout.isatty()

    def emit(line: str) -> None:
        if is_terminal:
            line = "\t".join(safe_line(word) for word in line.split("\t"))
        buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")

    return emit


def _name() -> Callable[[bytes], str]:
    """Names go to a file or pipe as they are, as the original's, and to a terminal made safe."""
    return safe_name if sys.stdout.isatty() else os.fsdecode


def _ignore(_line: str) -> None:
    """JSON has no lines."""
