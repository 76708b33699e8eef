"""`hammer`: the dispatcher. Each verb lives in a `cmd_` module that adds its parser and a `run` function.

Exit codes: 0, 1 for an error (one line on stderr that names the place), 2 for a wrong call, 130 for an interrupt.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from hammerfs.errors import HammerError
from tools.dedupe import LEAST_MEMORY
from tools.output import complain, output_failed, prepare_output
from tools.parser import LineParser, byte_count

INTERRUPTED = 130
_WITH_VALUE = frozenset({"-f", "-t", "-c", "-S", "-b", "-i", "-m", "-p"})
"""Options before the verb that have a value."""
_HISTORY = re.compile(r"history@(.*)\Z", re.DOTALL)


class _Verb(LineParser):
    """A verb: `--json` may stand behind it as well as before."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead of text")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `hammer` with all its verbs."""
    from tools import (
        cmd_cleanup,
        cmd_completion,
        cmd_copy,
        cmd_dedup,
        cmd_df,
        cmd_history,
        cmd_info,
        cmd_maint,
        cmd_mirror,
        cmd_pfs,
        cmd_raw,
        cmd_restore,
        cmd_snap,
        cmd_stat,
        cmd_tree,
        cmd_volumes,
    )

    parser = LineParser(
        prog="hammer",
        description="Work on HAMMER file systems, mounted or in images, at any point of their history.",
        epilog="Exit codes: 0; 1 for an error, told in one line; 2 for a wrong call; 130 when interrupted.",
    )
    parser.add_argument(
        "-f",
        dest="volumes",
        action="append",
        default=[],
        metavar="VOL[:VOL...]",
        help="the volumes, in any order; may be repeated; VOL@s1d names a slice of a disk image, VOL@offset=N a place",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "-q", dest="quiet", action="count", default=0, help="print less; may be repeated, -v cancels it"
    )
    parser.add_argument("-v", dest="verbose", action="count", default=0, help="print more; may be repeated")
    parser.add_argument("-t", dest="seconds", type=float, metavar="SECONDS", help="longest time a pass may take")
    parser.add_argument("-c", dest="cycle", metavar="FILE", help="keeps where an interrupted pass goes on")
    parser.add_argument("-y", dest="yes", action="store_true", help="do not ask before something is destroyed")
    _add_mirror_options(parser)
    verbs: argparse._SubParsersAction[argparse.ArgumentParser] = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=_Verb
    )
    cmd_info.add_parsers(verbs)
    cmd_history.add_parsers(verbs)
    cmd_restore.add_parsers(verbs)
    cmd_tree.add_parsers(verbs)
    cmd_copy.add_parsers(verbs)
    cmd_raw.add_parsers(verbs)
    cmd_snap.add_parsers(verbs)
    cmd_stat.add_parsers(verbs)
    cmd_maint.add_parsers(verbs)
    cmd_pfs.add_parsers(verbs)
    cmd_mirror.add_parsers(verbs)
    cmd_dedup.add_parsers(verbs)
    cmd_df.add_parsers(verbs)
    cmd_volumes.add_parsers(verbs)
    cmd_cleanup.add_parsers(verbs)
    cmd_completion.add_parsers(verbs)
    return parser


def _add_mirror_options(parser: argparse.ArgumentParser) -> None:
    """What hammer(8) takes before the verbs of mirroring and dedup."""
    parser.add_argument(
        "-2",
        dest="two_way",
        action="store_true",
        help="a mirror stream on standard output is answered on standard input",
    )
    parser.add_argument("-B", dest="bulk", action="store_true", help="send a mirror stream in one round")
    parser.add_argument(
        "-S", dest="split", type=byte_count, metavar="BYTES", help="send about so much in a round (default 4g)"
    )
    parser.add_argument(
        "-b", dest="bandwidth", type=byte_count, metavar="BYTES", help="send no more than this in a second"
    )
    parser.add_argument(
        "-i",
        dest="delay",
        type=_seconds,
        metavar="SECONDS",
        help="least time between the rounds of a stream (default 5)",
    )
    parser.add_argument(
        "-m", dest="memory", type=_memory, metavar="BYTES", help="memory that dedup may use (default 1g)"
    )
    parser.add_argument("-p", dest="port", type=_port, metavar="PORT", help="the port of ssh on another host")
    parser.add_argument("-X", dest="compressed", action="store_true", help="have ssh compress")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds")
    return value


def _memory(text: str) -> int:
    value = byte_count(text)
    if value < LEAST_MEMORY:
        raise argparse.ArgumentTypeError(f"'{text}' is too little, {LEAST_MEMORY >> 20}m is the least")
    return value


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"'{text}' is no port")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hammer`; return its exit code."""
    prepare_output()
    args = build_parser().parse_args(_with_range_apart(sys.argv[1:] if argv is None else argv))
    args.quiet, args.verbose = max(args.quiet - args.verbose, 0), max(args.verbose - args.quiet, 0)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except HammerError as err:
        complain(f"hammer: {args.verb}", err)
        return err.exit_code
    except OSError as err:
        return int(output_failed(f"hammer: {args.verb}", err))
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _with_range_apart(argv: Sequence[str]) -> list[str]:
    """``history@OFFSET[,LENGTH]``, as hammer(8) writes it, as a verb and an option."""
    words = list(argv)
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in _WITH_VALUE else 1
    match = _HISTORY.match(words[at]) if at < len(words) else None
    if match is not None:
        words[at : at + 1] = ["history", f"--at={match[1]}"]
    return words


if __name__ == "__main__":
    sys.exit(main())
