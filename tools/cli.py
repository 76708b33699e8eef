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
from tools.output import output_failed, prepare_output, safe_line
from tools.parser import LineParser

INTERRUPTED = 130
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
        cmd_copy,
        cmd_dedup,
        cmd_completion,
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
    cmd_volumes.add_parsers(verbs)
    cmd_cleanup.add_parsers(verbs)
    return parser


    cmd_completion.add_parsers(verbs)
def main(argv: Sequence[str] | None = None) -> int:
    """Run `hammer`; return its exit code."""
    prepare_output()
    args = build_parser().parse_args(_with_range_apart(sys.argv[1:] if argv is None else argv))
    args.quiet, args.verbose = max(args.quiet - args.verbose, 0), max(args.verbose - args.quiet, 0)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except HammerError as err:
        print(f"hammer: {args.verb}: {safe_line(str(err))}", file=sys.stderr)
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
        at += 2 if words[at] in {"-f", "-t", "-c"} else 1
    match = _HISTORY.match(words[at]) if at < len(words) else None
    if match is not None:
        words[at : at + 1] = ["history", f"--at={match[1]}"]
    return words


if __name__ == "__main__":
    sys.exit(main())
